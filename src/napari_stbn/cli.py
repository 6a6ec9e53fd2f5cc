"""The command line: ``napari-stbn denoise | batch | demo | export | info``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from ._batch_command import batch
from ._commands import OWN_OPTIONS, demo, denoise
from ._export_command import export
from ._support import info_or_system
from .noise import GaussianNoise, PoissonGaussianNoise
from .preparation import NoiseChoice
from .presets import PRESETS
from .settings import RunSettings
from .training import TrainingConfig

__all__ = ["main"]

_HANDLER = "napari-stbn command line"
Noise = str | PoissonGaussianNoise | GaussianNoise | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process when None.

    Returns
    -------
    int
        0 when done, 1 when movies of a batch failed, 2 when the input, the options or the output
        would not do (one sentence on the error stream), 130 when stopped.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    _log(options.verbose)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        with _stopped_by_signals():
            return run(options) or 0
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        print(f"napari-stbn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"napari-stbn: stopped; nothing was written{_left(options)}", file=sys.stderr)
        return 130


def _log(verbose: bool) -> None:
    """Show what this package logs: its warnings, with ``-v`` all it does; other packages not."""
    logger = logging.getLogger("napari_stbn")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    kept = [handler for handler in logger.handlers if handler.get_name() != _HANDLER]
    handler = logging.StreamHandler()  # anew, for whatever sys.stderr is now
    handler.set_name(_HANDLER)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(name)s: %(message)s" if verbose else "%(message)s")
    )
    logger.handlers[:] = [*kept, handler]


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Take the end of a batch job (SIGTERM) as Ctrl-C is taken: temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _left(options: argparse.Namespace) -> str:
    """How to go on with a run that was stopped."""
    if options.run is not denoise:
        return ""
    path = options.checkpoint or options.output.with_name(f"{options.output.name}.fit")
    return "; --resume goes on from here" if path.exists() else ""


def _parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="napari-stbn", description="Self-supervised denoising of time-lapse movies."
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("denoise", help="fit to a noisy movie and denoise it")
    command.add_argument("input", type=Path, help="TIFF, OME-TIFF, .npy or OME-Zarr")
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="file to write; the suffix chooses the format",
    )
    command.add_argument("--force", action="store_true", help="replace an existing output")
    command.add_argument(
        "--uncertainty", type=Path, help="also write the posterior standard deviation to this file"
    )
    command.add_argument(
        "--report",
        type=Path,
        help="also write what was done: a page with checks to NAME.html, else as JSON",
    )
    command.add_argument(
        "--model", type=Path, help="denoise with this saved model instead of fitting"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that did not end, where there is one",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        help="keep the state of the run here instead of OUTPUT.fit; go on from it if it exists",
    )
    command.add_argument("--save-model", type=Path, help="keep the fitted model in this file")
    command.add_argument(
        "--keep-dtype", action="store_true", help="write the input's number type instead of float32"
    )
    _add_input_options(command)
    _add_fit_options(command)
    command.set_defaults(run=denoise)

    command = commands.add_parser(
        "batch", help="denoise many movies, on the workers of this machine or of a cluster"
    )
    command.add_argument(
        "inputs", nargs="+", help='files, folders, and patterns such as "data/**/*.tif"'
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for results and manifest"
    )
    command.add_argument(
        "--force", action="store_true", help="replace existing outputs, do finished movies again"
    )
    model = command.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="denoise all with this saved model")
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
        help="processes on this machine, 0 for this one alone (one a GPU, or as many as fit)",
    )
    command.add_argument(
        "--ending", default=".tif", help="of the outputs: .tif, .ome.tif, .ome.zarr or .npy"
    )
    command.add_argument(
        "--uncertainty", action="store_true", help="also write NAME_uncertainty for each movie"
    )
    command.add_argument(
        "--keep-dtype", action="store_true", help="write the input's number type instead of float32"
    )
    command.add_argument(
        "--blocks",
        type=int,
        help="parts that each movie is denoised in at once (large movies on idle workers alone)",
    )
    command.add_argument(
        "--axes", help="one letter for each dimension out of T C Z Y X S; guessed when left out"
    )
    _add_camera_option(command)
    _add_fit_options(command)
    command.set_defaults(run=batch)

    command = commands.add_parser(
        "demo", help="denoise a simulated movie, and compare with the truth"
    )
    command.add_argument(
        "-o", "--output", type=Path, default=Path("stbn-demo"), help="folder for movies and picture"
    )
    command.add_argument(
        "--force", action="store_true", help="replace earlier results in that folder"
    )
    _add_fit_options(command)
    command.set_defaults(run=demo, time_budget=60.0)

    command = commands.add_parser(
        "export", help="write a saved model as a package of the bioimage.io format"
    )
    command.add_argument("model", type=Path, help="what --save-model wrote")
    command.add_argument("-o", "--output", type=Path, required=True, help="package (.zip) to write")
    command.add_argument("--name", default="STBN time-lapse denoiser", help="what it is called")
    command.add_argument("--author", action="append", default=[], help="who fitted it; repeatable")
    command.add_argument("--channel", type=int, default=0, help="whose noise and scale go with it")
    command.add_argument("--force", action="store_true", help="replace an existing package")
    command.set_defaults(run=export)

    command = commands.add_parser(
        "info", help="axes, noise, memory and time of a movie, or what this machine is"
    )
    command.add_argument("input", type=Path, nargs="?")
    command.add_argument(
        "--system", action="store_true", help="versions, devices, memory, threads: for bug reports"
    )
    command.add_argument("--json", action="store_true", help="with --system: as JSON")
    command.add_argument("--preset", choices=["auto", *PRESETS], default="auto")
    command.add_argument("--device", default="auto")
    _add_input_options(command)
    command.set_defaults(run=info_or_system)
    for command in commands.choices.values():  # before the command or after it
        command.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="say more"
        )
    return parser


def _add_input_options(command: argparse.ArgumentParser) -> None:
    """How to read the input."""
    command.add_argument(
        "--axes", help="one letter for each dimension out of T C Z Y X S; guessed when left out"
    )
    command.add_argument(
        "--scene", type=int, help="which image of a file that holds several, counted from 0"
    )
    command.add_argument(
        "--frames", type=_frame_range, help="only these frames, as FIRST:END, counted from 0"
    )
    _add_camera_option(command)


def _add_camera_option(command: argparse.ArgumentParser) -> None:
    """Maps of the camera."""
    command.add_argument(
        "--camera",
        nargs="+",
        type=Path,
        metavar="MAP",
        help="maps of the camera's pixels: offset [counts], and gain and variance [counts^2] where "
        "there are any; or one movie in the dark",
    )


def _add_fit_options(command: argparse.ArgumentParser) -> None:
    """How to fit; the advanced options are the fields of TrainingConfig."""
    hints = typing.get_type_hints(RunSettings, include_extras=True)
    for row in fields(RunSettings):
        if row.name == "training":
            continue
        kind, details = typing.get_args(hints[row.name])[:2]
        command.add_argument(
            _option(row.name), default=row.default, help=details["tooltip"], **_kind(kind)
        )
    command.add_argument(
        "--pace", type=Path, help="repeat the fit that this report (JSON) tells of, step by step"
    )
    advanced = command.add_argument_group("advanced")
    hints = typing.get_type_hints(TrainingConfig, include_extras=True)
    for row in fields(TrainingConfig):
        if row.name in OWN_OPTIONS:
            continue
        kind, details = typing.get_args(hints[row.name])[:2]
        advanced.add_argument(
            _option(row.name),
            help=f"{details['tooltip']} (the preset's when left out)",
            **_kind(kind),
        )


def _option(name: str) -> str:
    """A field's option."""
    return f"--{name.replace('_', '-')}"


def _kind(annotation: Any) -> dict[str, Any]:
    """What argparse needs to know of a field's type."""
    if annotation == NoiseChoice:
        return {"type": _noise, "metavar": "NOISE"}
    parts = typing.get_args(annotation)
    words = [
        word
        for part in (annotation, *parts)
        if typing.get_origin(part) is Literal
        for word in typing.get_args(part)
    ]
    if words:
        return {"choices": sorted(words, key=lambda word: word != "auto")}
    return {"type": next((part for part in parts if part is not type(None)), annotation)}


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


if __name__ == "__main__":
    sys.exit(main())
