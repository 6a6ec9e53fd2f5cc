"""Make the picture of the README: a simulated movie, denoised, beside its truth.

``python benchmarks/readme_picture.py --seconds 300`` writes docs/images/demo.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import napari_stbn as stbn
from _common import Truth, machine, machine_line, use_threads
from napari_stbn.pictures import Panel, side_by_side, write_picture

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Simulate, fit, denoise, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="budget of the fit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the movie")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images" / "demo.png")
    options = parser.parse_args()
    use_threads(options.threads)

    movie = stbn.simulate(seed=options.seed)
    stack = stbn.Stack(movie.noisy, axes="TYX")
    denoiser = stbn.Denoiser(seed=0, device="cpu")
    result = denoiser.fit(stack, time_budget=options.seconds).denoise(stack)
    noise = result.noise[0]
    if result.uncertainty is None or noise is None:
        raise RuntimeError("a fit with a noise model must come with its uncertainty")

    low, high = float(movie.clean.min()), float(np.quantile(movie.clean, 0.9995))
    doubt = float(np.quantile(result.uncertainty, 0.999))
    residual = (movie.noisy - result.denoised) / np.sqrt(noise.variance(result.denoised))
    rows = [
        [
            Panel(f"noisy, frame {t}", movie.noisy[t], low, high),
            Panel("denoised", result.denoised[t], low, high),
            Panel("truth", movie.clean[t], low, high),
            Panel("uncertainty", result.uncertainty[t], 0.0, doubt),
            Panel("(noisy - denoised) / noise", residual[t], -4.0, 4.0),
        ]
        for t in _frames(movie.events)
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_picture(options.output, side_by_side(rows, zoom=2))

    truth = Truth(movie.clean, movie.events)
    size = options.output.stat().st_size / 1000
    print(f"{options.output.name}: {size:.0f} kB, {options.seconds:g} s of fit")
    print(
        f"PSNR {truth.psnr(movie.noisy):.2f} dB noisy, {truth.psnr(result.denoised):.2f} dB after"
    )
    print(machine_line(machine(options.threads)))


def _frames(events: np.ndarray) -> list[int]:
    """The frame in which most pixels belong to a flash, and one a third of the movie away."""
    flash = int(events.sum(axis=(1, 2)).argmax())
    return sorted({flash, (flash + len(events) // 3) % len(events)})


if __name__ == "__main__":
    main()
