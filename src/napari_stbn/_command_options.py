"""The options of the command line; those of a fit are the fields of `RunSettings`."""

from __future__ import annotations

import argparse
import re
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import __version__
from ._annotated import Annotation, annotation_of
from ._batch_command import batch
from ._commands import OWN_OPTIONS, demo, denoise
from ._export_command import export
from ._support import info_or_system
from .noise import GaussianNoise, PoissonGaussianNoise
from .settings import RunSettings
from .training import TrainingConfig

__all__ = ["parser"]

_PRESETS_OWN = "the preset's when left out"
Noise = str | PoissonGaussianNoise | GaussianNoise | None


class _Help(argparse.HelpFormatter):
    """Ends the help of each option with its default, where it has one that is a value."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        none = default is None or default is False or default in ([], argparse.SUPPRESS)
        ending = "" if none or not action.option_strings else " (default: %(default)s)"
        return f"{action.help or ''}{ending}"


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    whole = argparse.ArgumentParser(
        prog="napari-stbn", description="Self-supervised denoising of time-lapse movies."
    )
    whole.add_argument("-v", "--verbose", action="store_true", help="say more")
    whole.add_argument("--version", action="version", version=f"napari-stbn {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, about, add_options in (
        ("denoise", "fit to a noisy movie and denoise it", _denoise_options),
        (
            "batch",
            "denoise many movies, on the workers of this machine or of a cluster",
            _batch_options,
        ),
        ("demo", "denoise a simulated movie, and compare with the truth", _demo_options),
        ("export", "write a saved model as a package of the bioimage.io format", _export_options),
        (
            "info",
            "axes, noise, memory and time of a movie, or what this machine is",
            _info_options,
        ),
    ):
        command = commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", formatter_class=_Help
        )
        add_options(command)
        command.add_argument(  # before the command or after it
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="say more"
        )
    return whole


def _denoise_options(command: argparse.ArgumentParser) -> None:
    """`napari-stbn denoise`."""
    command.add_argument("input", type=_path, help="TIFF, OME-TIFF, .npy or OME-Zarr")
    command.add_argument(
        "-o",
        "--output",
        type=_path,
        required=True,
        help="file to write; the suffix chooses the format: .tif, .ome.tif, .npy, .ome.zarr",
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="replace existing outputs (of a link, what it leads to); never an input",
    )
    command.add_argument(
        "--uncertainty",
        type=_path,
        help="also write the posterior standard deviation to this file, in the units of the movie",
    )
    command.add_argument(
        "--report",
        type=_path,
        help="also write what was done: a page with checks to NAME.html, else as JSON",
    )
    command.add_argument(
        "--model", type=_path, help="denoise with this saved model instead of fitting"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that did not end, where there is one",
    )
    command.add_argument(
        "--checkpoint",
        type=_path,
        help="keep the state of the run here instead of OUTPUT.fit; go on from it if it exists",
    )
    command.add_argument("--save-model", type=_path, help="keep the fitted model in this file")
    _add_type_option(command)
    _add_input_options(command)
    _add_fit_options(command)
    command.set_defaults(run=denoise)


def _batch_options(command: argparse.ArgumentParser) -> None:
    """`napari-stbn batch`."""
    command.add_argument(
        "inputs",
        type=_path,
        nargs="+",
        help='files, folders, and patterns such as "data/**/*.tif"; in folders and patterns hidden '
        "files and the results of earlier batches are left out",
    )
    command.add_argument(
        "-o", "--output", type=_path, required=True, help="folder for results and manifest"
    )
    command.add_argument(
        "--force", action="store_true", help="replace existing outputs, do finished movies again"
    )
    model = command.add_mutually_exclusive_group()
    model.add_argument("--model", type=_path, help="denoise all with this saved model")
    model.add_argument(
        "--shared-model",
        action="store_true",
        help="fit one model to a sample of all movies, instead of one to each",
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a running dask scheduler")
    where.add_argument(
        "--workers",
        type=int,
        help="processes on this machine, 0 for this one alone (one a GPU, or as many as fit, when "
        "left out)",
    )
    command.add_argument(
        "--ending", default=".tif", help="of the outputs: .tif, .ome.tif, .ome.zarr or .npy"
    )
    command.add_argument(
        "--uncertainty", action="store_true", help="also write NAME_uncertainty for each movie"
    )
    _add_type_option(command)
    command.add_argument(
        "--blocks",
        type=int,
        help="parts that each movie is denoised in at once (when left out, one for each idle "
        "worker for large movies, else 1)",
    )
    _add_axes_options(command)
    _add_camera_option(command)
    _add_fit_options(command)
    command.set_defaults(run=batch)


def _demo_options(command: argparse.ArgumentParser) -> None:
    """`napari-stbn demo`."""
    command.add_argument(
        "-o",
        "--output",
        type=_path,
        default=Path("stbn-demo"),
        help="folder for movies and picture",
    )
    command.add_argument(
        "--force", action="store_true", help="replace earlier results in that folder"
    )
    _add_fit_options(command, {"time_budget": 60.0})
    command.set_defaults(run=demo)


def _export_options(command: argparse.ArgumentParser) -> None:
    """`napari-stbn export`."""
    command.add_argument("model", type=_path, help="what --save-model wrote")
    command.add_argument(
        "-o", "--output", type=_path, required=True, help="package (.zip) to write"
    )
    command.add_argument("--name", default="STBN time-lapse denoiser", help="what it is called")
    command.add_argument(
        "--author",
        action="append",
        default=[],
        help='who fitted it; repeatable ("anonymous" when left out)',
    )
    command.add_argument(
        "--channel",
        type=int,
        default=0,
        help="whose noise and scale go with it, counted from 0",
    )
    command.add_argument("--force", action="store_true", help="replace an existing package")
    command.set_defaults(run=export)


def _info_options(command: argparse.ArgumentParser) -> None:
    """`napari-stbn info`."""
    command.add_argument("input", type=_path, nargs="?", help="TIFF, OME-TIFF, .npy or OME-Zarr")
    command.add_argument(
        "--system", action="store_true", help="versions, devices, memory, threads: for bug reports"
    )
    command.add_argument("--json", action="store_true", help="with --system: as JSON")
    hints = typing.get_type_hints(RunSettings, include_extras=True)
    for row in fields(RunSettings):
        if row.name in ("preset", "device"):  # that memory and time are told for
            _add_setting(command, row.name, hints[row.name], row.default)
    _add_input_options(command)
    command.set_defaults(run=info_or_system)


def _add_type_option(command: argparse.ArgumentParser) -> None:
    """The number type of the result."""
    command.add_argument(
        "--keep-dtype", action="store_true", help="write the input's number type instead of float32"
    )


def _add_input_options(command: argparse.ArgumentParser) -> None:
    """How to read the input."""
    _add_axes_options(command)
    command.add_argument(
        "--frames", type=_frame_range, help="only these frames, as FIRST:END, counted from 0"
    )
    _add_camera_option(command)


def _add_axes_options(command: argparse.ArgumentParser) -> None:
    """What a file holds, where that cannot be known from it."""
    command.add_argument(
        "--axes", help="one letter for each dimension out of T C Z Y X S; guessed when left out"
    )
    command.add_argument(
        "--scene",
        type=int,
        help="which image of a file that holds several, counted from 0 (the largest of a TIFF, the "
        "first of others)",
    )


def _add_camera_option(command: argparse.ArgumentParser) -> None:
    """Maps of the camera."""
    command.add_argument(
        "--camera",
        nargs="+",
        type=_path,
        metavar="MAP",
        help="maps of the camera's pixels: offset [counts], and gain and variance [counts^2] where "
        "there are any; or one movie in the dark",
    )


def _add_fit_options(
    command: argparse.ArgumentParser, own: Mapping[str, object] = MappingProxyType({})
) -> None:
    """How to fit, by the fields of RunSettings and TrainingConfig; and defaults of its own."""
    hints = typing.get_type_hints(RunSettings, include_extras=True)
    for row in fields(RunSettings):
        if row.name != "training":
            default = own.get(row.name, row.default)
            _add_setting(command, row.name, hints[row.name], default)
    command.add_argument(
        "--pace", type=_path, help="repeat the fit that this report (JSON) tells of, step by step"
    )
    advanced = command.add_argument_group("advanced")
    hints = typing.get_type_hints(TrainingConfig, include_extras=True)
    for row in fields(TrainingConfig):
        if row.name in OWN_OPTIONS:
            continue
        about = annotation_of(hints[row.name])
        said = f"{about.details['tooltip']} ({_PRESETS_OWN})"
        advanced.add_argument(_option(row.name), help=said, **_values(about))


def _add_setting(
    command: argparse.ArgumentParser, name: str, hint: object, default: object
) -> None:
    """The option of a field of RunSettings, with the unit that its label names."""
    about = annotation_of(hint)
    said = about.details["tooltip"]
    if default is None and "when left out" not in said:
        said += f" ({_PRESETS_OWN})"
    noise = {"type": _noise, "metavar": "NOISE"}
    given = noise if name == "noise" else _values(about)
    if unit := re.search(r"\[(.+)\]", about.details["label"]):
        given["metavar"] = unit[1]
    command.add_argument(_option(name), default=default, help=said, **given)


def _option(name: str) -> str:
    """A field's option."""
    return f"--{name.replace('_', '-')}"


def _values(about: Annotation) -> dict[str, Any]:
    """What argparse needs to know of the values of a field."""
    return {"choices": about.words} if about.words else {"type": about.kind}


def _path(text: str) -> Path:
    """The name of a file or folder."""
    if not text:
        raise argparse.ArgumentTypeError("a name is expected, got an empty one")
    return Path(text)


def _frame_range(text: str) -> slice:
    """FIRST:END."""
    try:
        first, end = (int(part) if part else None for part in text.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"frames must look like 0:200, got {text!r}") from error
    return slice(first, end)


def _noise(text: str) -> Noise:
    """estimate, gaussian, none, GAIN,OFFSET,READ_NOISE or SIGMA."""
    if text in ("estimate", "gaussian"):
        return text
    if text == "none":
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) == 1:
            return GaussianNoise(*numbers)
        return PoissonGaussianNoise(*numbers)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"noise must be estimate, gaussian, none, GAIN,OFFSET,READ_NOISE or SIGMA, got {text!r}"
        ) from error
