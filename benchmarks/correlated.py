"""Noise that neighbouring pixels share: what is left of it, by several methods, with known truth.

``python benchmarks/correlated.py --steps 120`` gives simulated movies noise of one variance and of
several shapes, denoises them with and without `napari_stbn.correlation`, and prints a table.
``--seconds`` fits by the clock instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

import napari_stbn as stbn
from _baselines import baselines
from _common import (
    Format,
    Truth,
    machine,
    machine_line,
    markdown_table,
    use_threads,
    write_results,
)
from _peers import peers
from napari_stbn.correlation import measure_correlation
from napari_stbn.samples import KINDS, SimulatedMovie

Row = dict[str, Any]
Movie = NDArray[np.float64]

ROW_OFFSETS = 0.8  # photoelectrons rms
COLUMNS: dict[str, tuple[str, Format]] = {
    "noise": ("noise", "s"),
    "method": ("method", "s"),
    "psnr": ("PSNR [dB]", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "event_psnr": ("event PSNR [dB]", ".2f"),
    "bias": ("bias [counts]", "+.2f"),
    "within_1": ("truth within 1 std", ".1%"),
    "seconds": ("time [s]", ".1f"),
}
MEASURED: dict[str, tuple[str, Format]] = {
    "noise": ("noise", "s"),
    "x": ("true correlation x", "+.3f"),
    "found_x": ("measured", "+.3f"),
    "error_x": ("±", ".3f"),
    "y": ("true y", "+.3f"),
    "found_y": ("measured", "+.3f"),
    "error_y": ("±", ".3f"),
    "rows": ("true row offsets, of the noise's variance", ".3f"),
    "found_rows": ("measured", ".3f"),
    "filtered": ("filtered", "s"),
}


def main() -> None:
    """Simulate, denoise, print and write."""
    options = _options()
    use_threads(options.threads)
    movie = stbn.simulate(
        tuple(options.shape), kind=options.kind, photons=options.photons, seed=options.seed
    )
    truth = Truth(movie.clean, movie.events)
    rows: list[Row] = []
    measured: list[Row] = []
    for noise in options.noise:
        noisy, of_noise = _noisy(movie, noise)
        measured.append({"noise": noise, **of_noise, **_measured(noisy)})
        print(measured[-1], flush=True)
        for row in _rows(movie, noisy, truth, options):
            rows.append({"noise": noise, **row})
            print(rows[-1], flush=True)
    here = machine(options.threads)
    t, y, x = options.shape
    title = (
        f"{options.kind} movie, seed {options.seed}, {t} x {y} x {x}, "
        f"{options.photons:g} photoelectrons at the 99.9th percentile"
    )
    tables = [markdown_table(COLUMNS, rows), markdown_table(MEASURED, measured)]
    report = "\n\n".join([title, *tables, machine_line(here)])
    print(f"\n{report}")
    if options.output is not None:
        write_results(options.output, {"machine": here, "rows": rows, "measured": measured}, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=120, help="of each fit")
    length.add_argument("--seconds", type=float, help="of each fit, instead of steps")
    parser.add_argument("--noise", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--kind", default="mixed", choices=KINDS)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(24, 96, 96), metavar="N")
    parser.add_argument(
        "--photons", type=float, default=20.0, help="99.9th percentile of the clean movie"
    )
    parser.add_argument("--preset", default="balanced", choices=["preview", "balanced", "best"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json and OUTPUT.md besides printing"
    )
    return parser.parse_args()


def _white(noise: Movie) -> Movie:
    return noise


def _along_rows(noise: Movie) -> Movie:
    """Autoregressive along x: correlation 0.5, 0.25, ..."""
    return np.asarray(signal.lfilter([np.sqrt(0.75)], [1, -0.5], noise))


def _taps(side: float) -> Callable[[Movie], Movie]:
    """Three taps along x and y, such as those of an interpolation."""
    taps = np.array([side, 1.0, side]) / np.sqrt(1 + 2 * side**2)

    def blurred(noise: Movie) -> Movie:
        return np.asarray(ndimage.convolve1d(ndimage.convolve1d(noise, taps, axis=1), taps, axis=2))

    return blurred


SHAPES: dict[str, tuple[Callable[[Movie], Movie], bool]] = {
    "white": (_white, False),
    "along rows": (_along_rows, False),
    "blurred a little": (_taps(0.0767), False),
    "blurred": (_taps(0.22), False),
    "row offsets": (_white, True),
    "along rows, row offsets": (_along_rows, True),
}
"""How white noise is made into that of a shape, and whether rows have offsets besides."""


def _noisy(movie: SimulatedMovie, name: str) -> tuple[NDArray[np.float32], Row]:
    """The clean frames with noise of the camera's variance and this shape; what is true of it."""
    shape, offsets = SHAPES[name]
    chance = np.random.default_rng(movie.seed)
    noise = shape(chance.normal(size=movie.clean.shape))
    variance = movie.gain * (movie.clean - movie.offset) + (movie.gain * movie.read_noise) ** 2
    noisy = movie.clean + np.sqrt(variance) * noise
    of_rows = movie.gain * ROW_OFFSETS * chance.normal(size=(*movie.clean.shape[:2], 1))
    if offsets:
        noisy = noisy + of_rows
    known = {
        "x": float(np.mean(noise[..., 1:] * noise[..., :-1]) / np.mean(noise**2)),
        "y": float(np.mean(noise[:, 1:] * noise[:, :-1]) / np.mean(noise**2)),
        "rows": float(np.mean(of_rows**2) / np.mean(variance)) if offsets else 0.0,
    }
    return noisy.astype(np.float32), known


def _measured(noisy: NDArray[np.float32]) -> Row:
    """What the movie itself says."""
    fit = measure_correlation([noisy])
    return {
        "found_x": fit.along_x,
        "error_x": fit.error_x,
        "found_y": fit.along_y,
        "error_y": fit.error_y,
        "found_rows": fit.rows,
        "filtered": "no" if fit.correlation is None else "yes",
    }


def _rows(
    movie: SimulatedMovie, noisy: NDArray[np.float32], truth: Truth, options: argparse.Namespace
) -> Iterator[Row]:
    """One row for each method."""
    yield {"method": "noisy", **truth.measures(noisy)}
    noise = stbn.PoissonGaussianNoise(movie.gain, movie.offset, movie.read_noise)
    smoothed = next(baselines(noisy, noise, truth, quick=False))
    yield {
        "method": f"{smoothed.method} ({smoothed.setting})",
        **truth.measures(smoothed.denoised),
        "seconds": smoothed.seconds,
    }
    for name, denoise in peers(noise, options.threads).items():
        started = time.perf_counter()
        denoised = denoise(noisy.astype(np.float64))
        seconds = time.perf_counter() - started
        yield {"method": name, **truth.measures(denoised), "seconds": seconds}
    choices: tuple[Literal["off", "auto"], ...] = ("off", "auto")
    for choice in choices:
        yield _ours(noisy, truth, choice, {"max_steps": 1}, options)
        limit: dict[str, Any] = {"max_steps": options.steps}
        if options.seconds is not None:
            limit = {"time_budget": options.seconds}
        yield _ours(noisy, truth, choice, limit, options)


def _ours(
    noisy: NDArray[np.float32],
    truth: Truth,
    choice: Literal["off", "auto"],
    limit: dict[str, Any],
    options: argparse.Namespace,
) -> Row:
    """Fit and denoise; nothing is given but the noisy movie."""
    started = time.perf_counter()
    denoiser = stbn.Denoiser(options.preset, device="cpu", seed=0, correlation=choice)
    result = denoiser.fit(noisy, axes="TYX", **limit).denoise(noisy, axes="TYX")
    row: Row = {
        "method": f"napari-stbn, correlation {choice}, {result.report['steps']} steps",
        **truth.measures(result.denoised),
        "seconds": time.perf_counter() - started,
    }
    if result.uncertainty is not None:
        row["within_1"] = float(
            np.mean(np.abs(result.denoised - truth.clean) <= result.uncertainty)
        )
    return row


if __name__ == "__main__":
    main()
