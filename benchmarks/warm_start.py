"""What a fit gains from its start: PSNR with no fit and after seconds, fresh and pretrained.

``python benchmarks/warm_start.py --seconds 20 60 --threads 1`` prints a table for simulated
movies of every kind; their seeds are those of no training, validation or test. ``--no-fit-only``
takes every kind at every brightness instead of one each, without the fits.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import napari_stbn as stbn
from _common import (
    Format,
    Truth,
    machine,
    machine_line,
    markdown_table,
    use_threads,
    write_results,
)
from napari_stbn._start import WEIGHTS
from napari_stbn.samples import KINDS, SimulatedMovie
from napari_stbn.training import TrainingConfig

Row = dict[str, Any]
FIRST_SEED = 500_000
PHOTONS = (4.0, 20.0, 100.0)
STARTS = ("fresh", "pretrained")


def main() -> None:
    """Simulate, fit from both starts, print and write."""
    options = _options()
    use_threads(options.threads)
    here = machine(options.threads)
    rows = []
    for number, kind in enumerate(options.kinds):
        for level, photons in enumerate(PHOTONS):
            if not options.no_fit_only and level != number % len(PHOTONS):
                continue
            seed = FIRST_SEED + 10 * KINDS.index(kind) + level
            movie = stbn.simulate(tuple(options.shape), kind=kind, photons=photons, seed=seed)
            rows.append(_row(movie, photons, options))
            print(rows[-1], flush=True)
    if options.quality_movie:
        movie = stbn.simulate((32, 128, 128), photons=20.0, seed=0)
        rows.append(_row(movie, 20.0, options) | {"movie": "that of quality.py, seed 0"})
    numbers = [key for key in rows[0] if key not in ("movie", "photons")]
    mean: Row = {"movie": "mean"} | {key: fmean(row[key] for row in rows) for key in numbers}
    columns: dict[str, tuple[str, Format]] = {
        "movie": ("movie", "s"),
        "photons": ("photons", "g"),
        **{key: (key, ".2f") for key in numbers},
    }
    report = f"{markdown_table(columns, [*rows, mean])}\n\n{machine_line(here)}"
    print(f"\n{report}")
    if options.output is not None:
        write_results(options.output, {"machine": here, "rows": rows}, report)


def _options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 60.0])
    parser.add_argument(
        "--steps", type=int, nargs="+", help="steps instead of seconds, on a machine that is busy"
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--shape", type=int, nargs=3, default=(24, 96, 96), metavar="N")
    parser.add_argument("--weights", type=Path, default=WEIGHTS[0])
    parser.add_argument("--no-fit-only", action="store_true")
    parser.add_argument("--quality-movie", action="store_true", help="the movie of quality.py too")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument(
        "--clip-frames", type=int, nargs="+", default=[TrainingConfig().clip_frames], metavar="N"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, help="write OUTPUT.json and OUTPUT.md besides printing"
    )
    return parser.parse_args()


def _row(movie: SimulatedMovie, photons: float, options: argparse.Namespace) -> Row:
    """PSNR [dB] of one movie by every way."""
    truth = Truth(movie.clean, movie.events)
    stack = stbn.Stack(movie.noisy, axes="TYX")
    row: Row = {
        "movie": f"{movie.kind}, seed {movie.seed}",
        "photons": photons,
        "noisy": truth.psnr(movie.noisy),
    }
    result = stbn.Denoiser.load(options.weights, device="cpu").denoise(stack)
    row["no fit"] = truth.psnr(result.denoised)
    if result.uncertainty is not None:
        inside = np.abs(result.denoised - truth.clean) <= result.uncertainty
        bright = result.denoised >= np.quantile(result.denoised, 0.9)
        row["truth within 1 std, no fit [%]"] = 100 * float(inside.mean())
        row["of the brightest tenth [%]"] = 100 * float(inside[bright].mean())
    if options.no_fit_only:
        return row
    limits: list[tuple[str, dict[str, Any]]] = (
        [(f"{steps} steps", {"max_steps": steps}) for steps in options.steps]
        if options.steps
        else [(f"{seconds:g} s", {"time_budget": seconds}) for seconds in options.seconds]
    )
    for name, limit in limits:
        for start, frames in itertools.product(options.starts, options.clip_frames):
            weights = options.weights if start == "pretrained" else "fresh"
            denoiser = stbn.Denoiser("balanced", device="cpu", start=weights)
            training = TrainingConfig(clip_frames=frames, **limit)
            result = denoiser.fit(stack, training=training).denoise(stack)
            title = f"{start}, {name}"
            if len(options.clip_frames) > 1:
                title += f", clips of {frames} frames"
            row[title] = truth.psnr(result.denoised)
            if result.uncertainty is not None:
                off = np.abs(result.denoised - truth.clean)
                for deviations in (1, 2):
                    share = float(np.mean(off <= deviations * result.uncertainty))
                    row[f"truth within {deviations} std, {title} [%]"] = 100 * share
    return row


if __name__ == "__main__":
    main()
