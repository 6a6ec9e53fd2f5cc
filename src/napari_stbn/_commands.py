"""What the commands of the command line do; `_command_options` names their options."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._appearing import appearing
from ._batch_sets import files_of
from ._command_paths import check_apart, check_file, check_new_folder
from ._lazy import lazy_part
from ._lines import in_words, printable, shown
from ._start import STARTS
from ._unfinished import Unfinished, run_key
from ._words import counted
from .camera import CameraMaps
from .denoiser import Denoiser
from .io import check_writable, read, write
from .pictures import Panel, side_by_side, write_picture
from .report import PAGES, write_report
from .result import DenoiseResult, Progress
from .samples import simulate
from .settings import RunSettings, read_report
from .stack import Stack, cast_like
from .training import TrainingConfig

__all__ = ["OWN_OPTIONS", "demo", "denoise", "read_beside", "read_input", "settings_of", "shape_of"]

_logger = logging.getLogger(__name__)
# Fields of TrainingConfig with an option of their own.
OWN_OPTIONS = ("max_steps", "time_budget", "pace")


def denoise(options: argparse.Namespace) -> None:
    """`napari-stbn denoise`."""
    _check_paths(options)  # now, not after the fit
    written: list[Path] = []
    begun = _checkpoint(options).exists()
    try:
        _denoise(options, written)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_what_is_kept(options, written)) from stop
    except OSError as error:
        fitted = not begun and _checkpoint(options).exists()
        if not (written or fitted) or isinstance(error, BrokenPipeError):
            raise
        said = in_words(error).rstrip(".")
        raise OSError(f"{said}; {_what_is_kept(options, written)}") from error


def _denoise(options: argparse.Namespace, written: list[Path]) -> None:
    """Read, fit, denoise; what is written is added to `written` as soon as it is there."""
    stack, recorded = read_input(options)
    dtype = recorded if options.keep_dtype else np.dtype(np.float32)
    for path, kind in ((options.output, dtype), (options.uncertainty, np.dtype(np.float32))):
        if path is not None:
            check_writable(path, overwrite=options.force, dtype=kind, axes=stack.axes)
    settings = settings_of(options)
    if options.model is not None:
        denoiser = Denoiser.load(options.model, device=options.device)
    else:
        denoiser = settings.denoiser()
    denoiser.memory_limit, denoiser.turns = settings.memory_limit, settings.turns
    stack.check()
    if denoiser.streams(stack):
        print("larger than the memory it may take: read and written piece by piece")
        if options.report is not None and options.report.suffix.lower() in PAGES:
            raise ValueError(
                "a page needs the whole movie in memory, and this one is too large; give --report "
                "NAME.json, or try some frames with --frames"
            )
    if options.uncertainty is not None and not denoiser.has_uncertainty:
        raise ValueError(
            "there is no uncertainty without a noise model; leave out --uncertainty or --noise none"
        )
    unfinished = _unfinished(options, stack, settings)
    if unfinished is not None and (found := unfinished.model(options.device)) is not None:
        print("the fit was done; denoising with its model")
        found.memory_limit, found.turns = settings.memory_limit, settings.turns
        denoiser = found
    elif options.model is None:
        file = None if unfinished is None else unfinished.path
        _progress(settings.fit_steps(denoiser, stack, checkpoint=file))
        if unfinished is not None:
            unfinished.keep(denoiser)
    if denoiser.streams(stack):
        report = _denoise_streamed(options, stack, denoiser, dtype, written)
    else:
        report = _denoise_in_memory(options, stack, denoiser, dtype, written)
    if options.save_model is not None:
        denoiser.save(options.save_model, overwrite=options.force)
        written.append(options.save_model)
    if unfinished is not None:
        unfinished.remove()
    for note in report["notes"]:
        print(f"note: {printable(note)}")
    done = f"{counted(report['steps'], 'step')} in {report['fit_seconds']:.0f} s"
    if options.model is not None:
        done = f"with the model {shown(options.model.name)}"
    print(f"{shown(options.output)}: {shape_of(stack)}, {done}")


def _check_paths(options: argparse.Namespace) -> None:
    """Refuse what could not be written, or would take the place of something else."""
    outputs: dict[str, Path | None] = {
        "--output": options.output,
        "--uncertainty": options.uncertainty,
        "--report": options.report,
        "--save-model": options.save_model,
        "--checkpoint": _checkpoint(options) if options.model is None else None,
    }
    named = {option: path for option, path in outputs.items() if path is not None}
    files = [("the input", path) for path in files_of(options.input, options.scene)]
    check_apart([*files, *read_beside(options)], named)
    for option, path in named.items():
        if option in ("--output", "--uncertainty"):
            check_writable(path, overwrite=options.force)
        else:
            check_file(path, overwrite=options.force or option == "--checkpoint")


def read_beside(options: argparse.Namespace) -> list[tuple[str, Path]]:
    """What a run reads beside its movie, by the options that name it."""
    start = None if options.start in STARTS else Path(options.start)
    given = [("--model", options.model), ("--start", start), ("--pace", options.pace)]
    given += [("--camera", path) for path in options.camera or ()]
    return [(option, path) for option, path in given if path is not None]


def _checkpoint(options: argparse.Namespace) -> Path:
    """Where the state of a run is kept."""
    path: Path = options.checkpoint or options.output.parent / f"{options.output.name}.fit"
    return path


def _what_is_kept(options: argparse.Namespace, written: Sequence[Path]) -> str:
    """What a run that was stopped leaves, and how to go on with it."""
    left = "--resume" if options.model is None and _checkpoint(options).exists() else ""
    if written:
        names = " and ".join(shown(path.name) for path in written)
        again = " ".join(filter(None, (left, "--force")))
        return f"{names} is written, the rest is not; {again} does what is left"
    return f"nothing was written{f'; {left} goes on from here' if left else ''}"


def _unfinished(
    options: argparse.Namespace, stack: Stack, settings: RunSettings
) -> Unfinished | None:
    """Where the state of this run is kept; None where there is no fit."""
    if options.model is not None:
        return None
    path = _checkpoint(options)
    unfinished = Unfinished(path, run_key(stack, settings))
    if unfinished.exists() and not (options.resume or options.checkpoint):
        if not options.force:
            raise FileExistsError(
                f"{path} holds what is left of a run that did not end; add --resume to go on with "
                "it, or --force to begin anew"
            )
        unfinished.discard()
    return unfinished


def _denoise_in_memory(
    options: argparse.Namespace,
    stack: Stack,
    denoiser: Denoiser,
    dtype: np.dtype[Any],
    written: list[Path],
) -> dict[str, Any]:
    """Denoise, then write; the report."""
    result = _progress(denoiser.denoise_steps(stack))
    denoised = result.stack
    if dtype != denoised.dtype:
        denoised = denoised.like(cast_like(result.denoised, dtype))
    written.append(write(options.output, denoised, overwrite=options.force))
    if result.uncertainty is not None and options.uncertainty is not None:
        spread = stack.like(result.uncertainty)
        written.append(write(options.uncertainty, spread, overwrite=options.force))
    if options.report is not None:
        if options.report.suffix.lower() in PAGES:
            write_report(options.report, result, stack, denoiser.history, overwrite=options.force)
        else:
            _write_json(options.report, result.report, overwrite=options.force)
        written.append(options.report)
    report: dict[str, Any] = result.report
    return report


def _denoise_streamed(
    options: argparse.Namespace,
    stack: Stack,
    denoiser: Denoiser,
    dtype: np.dtype[Any],
    written: list[Path],
) -> dict[str, Any]:
    """Write while denoising; the report."""
    result = _progress(
        denoiser.denoise_to_steps(
            stack,
            options.output,
            uncertainty=options.uncertainty,
            dtype=dtype,
            overwrite=options.force,
        )
    )
    written += filter(None, (options.output, options.uncertainty))
    if options.report is not None:
        _write_json(options.report, result.report, overwrite=options.force)
        written.append(options.report)
    report: dict[str, Any] = result.report
    return report


def _write_json(path: Path, report: dict[str, Any], *, overwrite: bool) -> None:
    """Write a report for programs, whole or not at all."""
    text = json.dumps(report, indent=1) + "\n"
    with appearing(path, lambda: check_file(path, overwrite=overwrite)) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def demo(options: argparse.Namespace) -> None:
    """`napari-stbn demo`."""
    folder: Path = options.output
    check_new_folder(folder)
    if folder.exists() and any(folder.iterdir()) and not options.force:
        raise FileExistsError(
            f"{folder} is not empty; choose another folder with -o or pass --force"
        )
    movie = simulate()
    stack = Stack(movie.noisy, "TYX", name="simulated cells")
    print(
        f"simulated movie: {shape_of(stack)}, "
        f"{movie.photons.max():.0f} photons at the brightest pixel"
    )
    settings = settings_of(options)
    denoiser = settings.denoiser()
    _progress(settings.fit_steps(denoiser, stack))
    result = _progress(denoiser.denoise_steps(stack))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in (
            ("noisy", movie.noisy),
            ("denoised", result.denoised),
            ("truth", movie.clean),
        ):
            write(folder / f"{name}.tif", stack.like(array), overwrite=options.force)
        write_picture(folder / "comparison.png", _comparison(stack, result, movie.clean))
        _write_json(folder / "report.json", result.report, overwrite=options.force)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{shown(folder)} holds a part of the results") from stop
    span = float(np.ptp(movie.clean))
    for name, array in (("noisy", movie.noisy), ("denoised", result.denoised)):
        psnr = 10 * np.log10(span**2 / np.mean((array - movie.clean.astype(np.float64)) ** 2))
        print(f"PSNR {name}: {psnr:.2f} dB")
    print(f"results are in {shown(folder.absolute())}; look at comparison.png")


def read_input(options: argparse.Namespace) -> tuple[Stack, np.dtype[Any]]:
    """Read the input, say what was guessed, take the frames asked for; and its number type."""
    stack = read(options.input, axes=options.axes, scene=options.scene)
    recorded = np.dtype(stack.dtype)
    _logger.info("read %r", stack)
    if stack.guess:
        print(f"axes: {printable(stack.guess)}")
    if options.frames is not None:
        if "T" not in stack.axes:
            raise ValueError(f"--frames needs a time axis, this file has axes {stack.axes}")
        if not range(stack.n_frames)[options.frames]:
            raise ValueError(
                f"--frames takes none of the {counted(stack.n_frames, 'frame')} of this movie; the "
                "first is 0, the end is not taken, and 0: takes all"
            )
        index = tuple(options.frames if axis == "T" else slice(None) for axis in stack.axes)
        stack = stack.like(lazy_part(stack.array, index))
    if options.camera is not None:
        maps = CameraMaps.read(options.camera)
        left_out = counted(int((~maps.usable).sum()), "pixel")
        print(f"camera: {left_out} left out, of too much read noise or unknown to the maps")
        stack = maps.correct(stack)
    return stack, recorded


def settings_of(options: argparse.Namespace) -> RunSettings:
    """The options as settings of a run."""
    names = [row.name for row in fields(RunSettings) if row.name != "training"]
    chosen = {name: getattr(options, name) for name in names}
    given = {
        row.name: getattr(options, row.name)
        for row in fields(TrainingConfig)
        if row.name not in OWN_OPTIONS
    }
    chosen["training"] = {name: value for name, value in given.items() if value is not None}
    if options.max_steps is not None and options.time_budget == 60.0 and options.run is demo:
        chosen["time_budget"] = None  # the demo's default gives way to a number of steps
    settings = RunSettings(**chosen)
    return settings if options.pace is None else settings.repeating(read_report(options.pace))


def _progress(steps: Generator[Progress, None, Any]) -> Any:
    """Run a generator to its end behind a progress bar; return what it returns."""
    from tqdm import tqdm

    bar, phase, told = None, "", 0.0
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                if bar is not None:
                    bar.update(1.0 - bar.n)
                return stop.value
            if bar is None or progress.phase != phase:
                if bar is not None:
                    bar.update(1.0 - bar.n)
                    bar.close()
                phase = progress.phase
                bar = tqdm(
                    total=1.0,
                    desc=phase,
                    mininterval=0.1 if sys.stderr.isatty() else 10.0,
                    miniters=0,
                    bar_format="{desc:8}{percentage:3.0f}%|{bar:30}| {elapsed} {postfix}",
                )
            bar.update(min(1.0, progress.fraction) - bar.n)
            if progress.step is not None and time.perf_counter() - told > 0.2:
                told = time.perf_counter()
                step = progress.step
                bar.set_postfix_str(
                    f"step {step.step} loss {step.loss:.4f} {step.remaining:.0f} s left",
                    refresh=False,
                )
    finally:
        if bar is not None:
            bar.close()
        steps.close()


def _comparison(stack: Stack, result: DenoiseResult, clean: NDArray[Any]) -> NDArray[np.uint8]:
    """Three frames: noisy, denoised, truth, uncertainty, residual."""
    low, high = float(clean.min()), float(np.quantile(clean, 0.9995))
    noisy = stack.movie().astype(np.float32)
    spread = 3 * float(np.std(noisy - result.denoised))
    rows = []
    for t in (0, len(noisy) // 2, len(noisy) - 1):
        row = [
            Panel(f"noisy, frame {t}", noisy[t], low, high),
            Panel("denoised", result.denoised[t], low, high),
            Panel("truth", clean[t], low, high),
            Panel("noisy - denoised", noisy[t] - result.denoised[t], -spread, spread),
        ]
        if result.uncertainty is not None:
            row.insert(
                3,
                Panel(
                    "uncertainty",
                    result.uncertainty[t],
                    0,
                    float(np.quantile(result.uncertainty, 0.999)),
                ),
            )
        rows.append(row)
    return side_by_side(rows, zoom=2)


def shape_of(stack: Stack) -> str:
    """Axes and sizes for a person, such as T 20 x Y 200 x X 200."""
    return " x ".join(f"{axis} {size}" for axis, size in zip(stack.axes, stack.shape, strict=True))
