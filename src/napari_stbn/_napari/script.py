"""A run as a Python script: what "Copy as script" puts on the clipboard."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_stbn.noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise
from napari_stbn.settings import RunSettings

if TYPE_CHECKING:
    from .layers import LayerStack

__all__ = ["run_script"]


def run_script(
    source: LayerStack,
    settings: RunSettings,
    *,
    threads: int,
    report: dict[str, Any] | None = None,
    model: str | None = None,
) -> str:
    """Write a script that does a run again, without the widget.

    Parameters
    ----------
    source : LayerStack
        What is denoised. A layer that came from a file is read from it; any other is taken from the
        viewer, so that the script runs in napari's console.
    settings : RunSettings
    threads : int
        Threads that the numbers came from; sums depend on them in their last digits.
    report : dict, optional
        Of a run that is done: the script then repeats it step by step, to the same numbers on the
        CPU of the same machine.
    model : str, optional
        Path of the model that is used instead of a fit; empty where it is in no file.

    Returns
    -------
    str
    """
    if report is not None and report.get("steps"):
        settings = replace(
            settings.repeating(report), precision=report["precision"], preset=report["preset"]
        )
    lines = ["from pathlib import Path", "", "import torch", "", "import napari_stbn as stbn", ""]
    lines += _target(_file_name(source.stack.name))
    lines += [f"torch.set_num_threads({threads})", ""]
    lines += [*_reading(source), ""]
    if model is not None:
        lines += _model(model, settings.device)
    else:
        lines += [*_settings(settings), "denoiser = settings.denoiser()"]
        lines += ["for progress in settings.fit_steps(denoiser, stack):", "    pass"]
    lines += ["result = denoiser.denoise(stack)", ""]
    lines += ["print(result.report)", "stbn.write(target, result.stack)"]
    return "\n".join(lines) + "\n"


def _target(name: str) -> list[str]:
    """Lines that say where the result goes, before any work is done."""
    return [
        f'target = Path("{name} denoised.tif")',
        "if target.exists():",
        '    raise FileExistsError(f"{target} exists; move it, or set another target")',
        "",
    ]


def _model(path: str, device: str) -> list[str]:
    """Lines that load a model."""
    said = '# The model of this run is in no file yet: press "Save model…", name it here.'
    load = f"denoiser = stbn.Denoiser.load({path or 'model.stbn'!r}, device={device!r})"
    return [load] if path else [said, load]


def _reading(source: LayerStack) -> list[str]:
    """Lines that make the stack."""
    taken = ", ".join(
        f"{part.start or 0}:{part.stop}" + (f":{part.step}" if (part.step or 1) > 1 else "")
        for part in source.selection
    )
    whole = all(
        part.start in (None, 0) and part.stop >= size and (part.step or 1) == 1
        for part, size in zip(source.selection, source.data.shape, strict=True)
    )
    crop = "" if whole else f"[{taken}]"
    axes, name = source.axes, source.stack.name
    path = source.layer.source.path
    if path is not None and _reads_the_same(source, str(path)):
        return [
            f"stack = stbn.read({str(path)!r}, axes={axes!r})",
            *([] if whole else [f"stack = stack.like(stack.array{crop})"]),
        ]
    data = "data[0]" if source.layer.multiscale else "data"
    return [
        "import napari",
        "",
        "# The layer came from no file: run this in napari's console, where the layer is.",
        "viewer = napari.current_viewer()",
        f"array = viewer.layers[{source.layer.name!r}].{data}{crop}",
        f"stack = stbn.Stack(array, {axes!r}, name={name!r})",
    ]


def _reads_the_same(source: LayerStack, path: str) -> bool:
    """Whether our reader gives what napari's gave."""
    from napari_stbn.io import read

    try:
        stack = read(path, axes=source.axes)
    except (ValueError, OSError):
        return False
    if stack.shape != source.data.shape:
        return False
    for at in (0, -1):  # the first and the last frame tell, and are read quickly
        frame = tuple(slice(None) if axis in "YXS" else at for axis in source.axes)
        ours, theirs = np.asarray(stack.array[frame]), np.asarray(source.data[frame])
        if ours.dtype.newbyteorder("=") != theirs.dtype.newbyteorder("="):
            return False
        if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
            return False
    return True


def _settings(settings: RunSettings) -> list[str]:
    """Lines that make the settings; what is the default is left out."""
    plain, values = RunSettings(), _values(settings)
    lines = ["settings = stbn.RunSettings("]
    for name, value in values.items():
        if value == getattr(plain, name):
            continue
        text = repr(value)
        if isinstance(value, PoissonGaussianNoise | GaussianNoise | MeasuredNoise):
            text = f"stbn.{value!r}"
        elif name == "training":
            lines.append("    training={")
            lines += [f"        {key!r}: {item!r}," for key, item in value.items()]
            lines.append("    },")
            continue
        lines.append(f"    {name}={text},")
    return [*lines, ")"] if len(lines) > 1 else ["settings = stbn.RunSettings()"]


def _values(settings: RunSettings) -> dict[str, Any]:
    """Fields and values."""
    return {row.name: getattr(settings, row.name) for row in fields(RunSettings)}


def _file_name(name: str) -> str:
    """A name that any file system takes."""
    return "".join(c if c.isalnum() or c in " -_." else "_" for c in name) or "movie"
