"""A page about a run, for the person who decides whether to trust its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ._appearing import appearing, check_folder, check_free
from ._report_channel import channel_section
from ._report_page import facts, heading, page, paragraph, verdict
from ._report_plots import Series, plot, thin
from ._report_residual import ResidualChecks, check_residual
from ._report_sampling import CHANNELS, as_one_movie
from ._report_verdict import Finding, headline, held_out, judge_fit
from .result import DenoiseResult
from .stack import Stack
from .training import TrainingStep

__all__ = ["PAGES", "ResidualChecks", "residual_checks", "write_report"]

PAGES = (".html", ".htm")
"""Endings of names that `write_report` takes."""
_LOG_FROM = 300  # steps; longer fits change most in the first hundredth of their time
_SETTINGS = {
    "preset": "Preset",
    "network": "Network",
    "flow": "Flow",
    "seed": "Seed",
    "device": "Device",
    "precision": "Precision",
    "steps": "Steps of the fit",
    "skipped_steps": "Steps skipped",
    "fit_seconds": "Seconds of fit",
    "denoise_seconds": "Seconds of denoising",
    "napari_stbn": "napari-stbn",
    "torch": "torch",
    "python": "Python",
}
_ELSEWHERE = {"axes", "axes_guess", "shape", "noise", "notes", "held_out_loss"}


def residual_checks(result: DenoiseResult, noisy: Stack) -> ResidualChecks:
    """Measure whether what was removed is noise and nothing else.

    Parameters
    ----------
    result : DenoiseResult
    noisy : Stack
        What was denoised.

    Returns
    -------
    ResidualChecks
        Pooled over up to 8 channels, 3 planes of each, 32 frames of 512 x 512 pixels of those.

    Raises
    ------
    ValueError
        If `result` is not of this stack.
    """
    _check_match(result, noisy)
    return check_residual(*as_one_movie(result, noisy), range(min(noisy.n_channels, CHANNELS)))


def write_report(
    path: str | PathLike[str],
    result: DenoiseResult,
    noisy: Stack,
    history: Sequence[TrainingStep] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write a page about a run that opens in any browser, without a connection.

    Parameters
    ----------
    path : path
        A name that ends in ``.html``. The file appears whole or not at all.
    result : DenoiseResult
    noisy : Stack
        What was denoised.
    history : sequence of TrainingStep
        `Denoiser.history`; empty where a saved model was used.
    overwrite : bool, default False
        Replace an existing file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is not set, or it is a folder.
    FileNotFoundError
        The folder to write to does not exist.
    ValueError
        The name does not end in .html, or `result` is not of this stack.

    Notes
    -----
    The work is bounded: of a long, large or many-dimensional stack it looks at a part, and says so.
    """
    path = Path(path)
    _check_path(path, overwrite=overwrite)
    _check_match(result, noisy)
    text = _compose(result, noisy, history)
    with appearing(path, partial(_check_path, path, overwrite=overwrite)) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _check_path(path: Path, *, overwrite: bool) -> None:
    """Raise where no page can be written."""
    if path.suffix.lower() not in PAGES:
        raise ValueError(f"{path} must end in .html to open in a browser; choose such a name.")
    check_folder(path.parent)
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder, so it is not replaced; choose another name.")
    check_free(path, overwrite=overwrite)


def _check_match(result: DenoiseResult, noisy: Stack) -> None:
    """Raise unless the result can be that of this stack."""
    if (result.stack.axes, result.denoised.shape) != (noisy.axes, noisy.shape):
        raise ValueError(
            f"noisy must be the stack that was denoised, with axes {result.stack.axes} and shape "
            f"{result.denoised.shape}, got {noisy.axes} and {noisy.shape}."
        )


def _compose(result: DenoiseResult, noisy: Stack, history: Sequence[TrainingStep]) -> str:
    """The whole page."""
    shown = range(min(noisy.n_channels, CHANNELS))
    sections, findings = [], []
    for channel in shown:
        section, found = channel_section(result, noisy, channel, channels=len(shown))
        sections.append(section)
        findings += found
    findings += judge_fit(history, result.report)
    title = f"Denoising report: {noisy.name or 'a movie without a name'}"
    findings += _notes(result.report, noisy)
    head = headline(findings)
    body = [
        f"<header>{heading(1, title)}</header>",
        f'<main><p class="headline {head.level}">{head.sentence}</p>',
        verdict(findings),
        *_run(noisy, result.report),
        *sections,
    ]
    if noisy.n_channels > len(shown):
        body.append(paragraph(f"{noisy.n_channels - len(shown)} more channels are not shown."))
    body += _fit(history, result.report)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    signed = f"Written by napari-stbn, {now}. Frames, channels and planes are counted from 0."
    body.append(f"</main><footer>{paragraph(signed)}</footer>")
    return page(title, body)


def _notes(report: Mapping[str, Any], noisy: Stack) -> list[Finding]:
    """What was found in the input, beside the checks."""
    notes = [str(note) for note in report.get("notes", ())]
    guess = [f"Axes: {noisy.guess}"] if noisy.guess else []
    return [Finding("note", f"Input: {note}") for note in notes + guess]


def _run(noisy: Stack, report: Mapping[str, Any]) -> list[str]:
    """What went in and how it was treated."""
    size = " × ".join(f"{a} {n}" for a, n in zip(noisy.axes, noisy.shape, strict=True))
    pixel = ", ".join(f"{a} {s:g} {noisy.unit}" for a, s in noisy.pixel_size.items())
    interval = f"{noisy.frame_interval:g} s" if noisy.frame_interval else "unknown"
    given = [
        ("Name", noisy.name),
        ("Axes and shape", size),
        ("Type", str(noisy.dtype)),
        ("Pixel size", pixel or "unknown"),
        ("Frame interval", interval),
        ("Channels", str(noisy.n_channels)),
        ("Planes", str(noisy.n_planes)),
        *((f"Note {n}", str(note)) for n, note in enumerate(report.get("notes", ()), 1)),
    ]
    plain = (str, int, float, bool)
    others = [key for key in report if key not in _SETTINGS and key not in _ELSEWHERE]
    settings = [(label, _value(report.get(key))) for key, label in _SETTINGS.items()]
    settings += [
        (key.replace("_", " "), _value(report[key])) for key in others if type(report[key]) in plain
    ]
    return [
        heading(2, "Input and settings"),
        f'<div class="columns"><div>{facts(given)}</div><div>{facts(settings)}</div></div>',
    ]


def _value(value: Any) -> str:
    """A plain value of the report in words."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {_value(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fit(history: Sequence[TrainingStep], report: Mapping[str, Any]) -> list[str]:
    """The curves of the fit."""
    steps, losses = held_out(history, report)
    if not len(losses) and not history:
        return []
    series = []
    if history:
        all_steps = np.array([step.step for step in history], np.float64)
        all_losses = np.array([step.loss for step in history], np.float64)
        series.append(Series("training clips", *thin(all_steps, all_losses), "line", 2))
    if len(losses):
        series.append(Series("held-out blocks", steps, losses, "line", 0))
        series.append(Series("", steps, losses, "points", 0))
    # The steep beginning would flatten the rest.
    tail = [s.y[len(s.y) // (10 if s.colour == 0 else 2) :] for s in series]
    values = np.concatenate(tail)
    values = values[np.isfinite(values)]
    spread = (float(values.min()), float(np.quantile(values, 0.98))) if values.size else None
    last = history[-1].step if history else len(losses)
    return [
        heading(2, "The fit"),
        plot(
            series,
            title="Loss of the fit against its steps",
            x_label="step" if history else "number of the measurement",
            y_label="loss [nats per pixel]",
            log_x=last >= _LOG_FROM,
            y_range=spread,
        ),
        paragraph(
            "Good: the held-out curve comes down, then lies flat, and does not turn up. Held-out "
            "blocks are parts of the movie that no step learnt from. The curve of the training "
            "clips jumps because each clip is another part of the movie, and counts uncertain "
            "pixels more at first.",
            "hint",
        ),
    ]
