"""Denoise a simulated movie and compare with the truth.

Run it with ``python examples/quickstart.py [SECONDS]``; 20 seconds already show the effect.
"""

from __future__ import annotations

import sys

import numpy as np

import napari_stbn as stbn


def psnr(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio [dB], the truth's range being the peak."""
    error = np.mean((estimate.astype(float) - truth) ** 2)
    return float(10 * np.log10(np.ptp(truth) ** 2 / error))


def main(seconds: float = 20.0) -> None:
    """Simulate, fit for some seconds, denoise, print what was gained."""
    movie = stbn.simulate((16, 64, 64), photons=20, seed=1)
    stack = stbn.Stack(movie.noisy, axes="TYX")

    denoiser = stbn.Denoiser(preset="auto", seed=0)
    denoiser.fit(stack, time_budget=seconds)
    result = denoiser.denoise(stack)

    print(f"noisy     {psnr(movie.noisy, movie.clean):5.1f} dB")
    print(f"denoised  {psnr(result.denoised, movie.clean):5.1f} dB")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
