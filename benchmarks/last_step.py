"""What the last, linear step of a fit is worth: the same fits with it and without.

``./dev bench last_step`` fits to scenes that the weights were not learnt from, a number of steps
each, so that the result does not depend on how busy the machine is. See docs/method.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import napari_stbn as stbn
from _common import Format, machine, machine_line, markdown_table, use_threads, write_results
from _elsewhere import SCENES, scene
from suite import FIRST_SEED, Movie, recorded

_COLUMNS: dict[str, tuple[str, Format]] = {
    "movie": ("movie", "s"),
    "without": ("without [dB]", ".2f"),
    "with": ("with [dB]", ".2f"),
    "gain": ("gain [dB]", "+.2f"),
    "within_without": ("truth within 1 std, without [%]", ".0f"),
    "within_with": ("with [%]", ".0f"),
}


def main() -> None:
    """Fit, denoise, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--photons", type=float, nargs="+", default=[20.0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="side of a frame [px]")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON and table")
    options = parser.parse_args()
    use_threads(options.threads)
    rows = []
    for name in options.scenes:
        seed = FIRST_SEED + 500 + list(SCENES).index(name)
        light = scene(name, (options.frames, options.size, options.size), seed)
        for photons in options.photons:
            movie = recorded(name, light, photons)
            row: dict[str, Any] = {"movie": movie.name}
            for how in ("without", "with"):
                row[how], row[f"within_{how}"] = _fitted(movie, options, last=how == "with")
            row["gain"] = row["with"] - row["without"]
            rows.append(row)
            print("  ", {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    report = (
        f"{markdown_table(_COLUMNS, rows)}\n\nMedian gain "
        f"{np.median([row['gain'] for row in rows]):.2f} dB, least "
        f"{min(row['gain'] for row in rows):.2f} dB.\n\n{machine_line(machine(options.threads))}"
    )
    print(report)
    if options.output is not None:
        write_results(options.output, {"rows": rows}, report)


def _fitted(movie: Movie, options: argparse.Namespace, *, last: bool) -> tuple[float, float]:
    """PSNR [dB] of a fit, and how often the truth lies within one standard deviation [%]."""
    denoiser = stbn.Denoiser(preset=options.preset)
    if last:
        denoiser.fit(movie.noisy, max_steps=options.steps)
    else:
        with patch("napari_stbn._fit.solve_last", lambda *_: None):
            denoiser.fit(movie.noisy, max_steps=options.steps)
    result = denoiser.denoise(movie.noisy)
    if result.uncertainty is None or movie.truth is None:
        raise ValueError("these movies have a noise model and a truth")
    inside = np.abs(result.denoised - movie.truth.clean) < result.uncertainty
    return movie.score(result.denoised), 100 * float(inside.mean())


if __name__ == "__main__":
    main()
