"""When a filter makes shared noise white, and when pixels have to be taken apart.

A simulated movie is smoothed and enlarged in many ways. Each is denoised with the filter alone and
with every second pixel as a movie of its own, by the learnt start or after a fit; the table says
what is chosen, and by which figures. After a fit there is one more, to frames without the noise
that is added for it (`napari_stbn._dither`)::

    python red_noise.py --steps 100 --output results/red_noise
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import napari_stbn as stbn
from _common import Truth, machine, machine_line, markdown_table, use_threads, write_results
from napari_stbn._dither import dithered
from napari_stbn._grid_step import GridStep, measure_grid_step
from napari_stbn._prepared import PreparedMovie, PreparedStack
from napari_stbn.correlation import measure_correlation

Array = NDArray[np.float64]
Way = Callable[[Array], Array]

_SHAPE, _SEED = (16, 112, 112), 78
_MARGIN = 6  # px that are not scored
COLUMNS: dict[str, tuple[str, Any]] = {
    "name": ("frames", "s"),
    "unevenness": ("unevenness", ".1f"),
    "misfit": ("misfit", ".2f"),
    "step": ("chosen step", "s"),
    "gaussian": ("Gaussian, best width [dB]", ".2f"),
    "filter": ("filter [dB]", ".2f"),
    "filter_inside": ("within 1 std [%]", ".0f"),
    "bare": ("filter, no noise added [dB]", ".2f"),
    "bare_inside": ("within 1 std [%]", ".0f"),
    "apart": ("every second pixel [dB]", ".2f"),
    "apart_inside": ("within 1 std [%]", ".0f"),
}


def _smoothed(*width: float) -> Way:
    return lambda movie: ndimage.gaussian_filter(movie, (0, *width))


def _enlarged(factor: float, way: int) -> Way:
    """Part of each frame, so many times as large."""

    def enlarged(movie: Array) -> Array:
        height, width = (int(length / factor) // 2 * 2 for length in movie.shape[1:])
        parts = [frame[:height, :width] for frame in movie]
        return np.stack(
            [cv2.resize(p, None, fx=factor, fy=factor, interpolation=way) for p in parts]
        )

    return enlarged


WAYS: dict[str, Way] = {
    "as recorded": lambda movie: movie,
    **{f"Gaussian, {s} px": _smoothed(s, s) for s in (0.5, 0.7, 0.85, 1.0, 1.5, 2.0)},
    "Gaussian along x, 1.2 px": _smoothed(0, 1.2),
    "mean of 2 x 2": lambda movie: ndimage.uniform_filter(movie, (1, 2, 2)),
    "mean of 3 x 3": lambda movie: ndimage.uniform_filter(movie, (1, 3, 3)),
    "median of 3 x 3": lambda movie: ndimage.median_filter(movie, (1, 3, 3)),
    **{f"linear, {f} x": _enlarged(f, cv2.INTER_LINEAR) for f in (1.3, 1.5, 2, 3)},
    **{f"cubic, {f} x": _enlarged(f, cv2.INTER_CUBIC) for f in (1.3, 1.5, 2, 3)},
    "copies, 2 x": _enlarged(2, cv2.INTER_NEAREST),
}


def _as_they_are(
    prepared: PreparedStack, _seed: int
) -> Generator[float, None, list[PreparedMovie]]:
    """In the place of `dithered`: movies without noise that is added."""
    yield 1.0
    return list(prepared.movies.values())


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    made = stbn.simulate(_SHAPE, kind=options.kind, photons=options.photons, seed=_SEED)
    noisy, clean = (WAYS[name](m.astype(np.float64)) for m in (made.noisy, made.clean))
    if name.startswith("median"):
        clean = made.clean.astype(np.float64)  # the scene: a median of the truth is another one
    inside = np.s_[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    truth = Truth(clean[inside], np.zeros(clean[inside].shape, bool))
    widths = [(t, s, s) for t in (0, 0.5, 0.8, 1.2, 2) for s in (0, 0.5, 0.8, 1.1, 1.6, 2.2)]
    smooth = max(truth.psnr(ndimage.gaussian_filter(noisy, width)[inside]) for width in widths)
    stack = stbn.Stack(noisy.astype(np.float32), axes="TYX")
    found = measure_correlation([stack.movie()])
    step = measure_grid_step(stack.movie()) or GridStep()
    row: dict[str, Any] = {"name": name, "misfit": found.misfit, "gaussian": smooth}
    row["step"] = f"{step.rows} x {step.columns}"
    row["unevenness"] = 1.0 if found.correlation is None else found.correlation.unevenness
    ways: list[tuple[str, GridStep, Callable[..., Any]]] = [
        ("filter", GridStep(), dithered),
        ("apart", GridStep(2, 2, 1.0), dithered),
    ]
    if options.seconds or options.steps:
        ways.append(("bare", GridStep(), _as_they_are))
    for key, taken, dither in ways:
        with (
            patch("napari_stbn._spaced_stack.measure_grid_step", lambda _movie, s=taken: s),
            patch("napari_stbn.denoiser.why_unfit", lambda *_given: ""),  # to see what a fit does
            patch("napari_stbn.denoiser.dithered", dither),
        ):
            denoiser = stbn.Denoiser("balanced", device="cpu", seed=0)
            if options.steps:
                denoiser.fit(stack, max_steps=options.steps)
            elif options.seconds:
                denoiser.fit(stack, time_budget=options.seconds)
            else:
                denoiser.fit(stack, max_steps=1)
            result = denoiser.denoise(stack)
            row[key] = truth.psnr(result.denoised[inside])
            if result.uncertainty is not None:
                error = np.abs(result.denoised - clean)[inside]
                row[f"{key}_inside"] = 100 * float(np.mean(error <= result.uncertainty[inside]))
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--kind", default="mixed")
    parser.add_argument("--photons", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=0, help="of fit; 0: the learnt start")
    parser.add_argument("--steps", type=int, default=0, help="of fit, instead of seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="stem of the .json and .md files")
    options = parser.parse_args()
    use_threads(options.threads)
    rows = []
    for name in options.ways:
        rows.append(measure(name, options))
        print(rows[-1], flush=True)
    described = machine(options.threads)
    text = f"{markdown_table(COLUMNS, rows)}\n\n{machine_line(described)}"
    print(text)
    if options.output is not None:
        write_results(options.output, {"machine": described, "rows": rows}, text)


if __name__ == "__main__":
    main()
