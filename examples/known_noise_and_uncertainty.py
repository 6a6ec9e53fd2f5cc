"""Use a camera's known noise, and the uncertainty of the result.

Run it with ``python examples/known_noise_and_uncertainty.py [SECONDS]``.
"""

from __future__ import annotations

import sys

import numpy as np

import napari_stbn as stbn


def main(seconds: float = 20.0) -> None:
    """Compare known with estimated noise; ask how often the truth lies within the uncertainty."""
    movie = stbn.simulate((12, 64, 64), photons=20, gain=2.0, offset=100.0, read_noise=1.6, seed=3)
    stack = stbn.Stack(movie.noisy, axes="TYX")

    # From the camera's data sheet, or from a calibration: counts per photoelectron, counts in the
    # dark, photoelectrons.
    known = stbn.PoissonGaussianNoise(gain=2.0, offset=100.0, read_noise=1.6)
    measured = stbn.PoissonGaussianNoise.estimate(movie.noisy)
    bright = np.array([110.0, 140.0])
    print(f"noise at {bright} counts, known:    {np.sqrt(known.variance(bright)).round(2)}")
    print(f"noise at {bright} counts, measured: {np.sqrt(measured.variance(bright)).round(2)}")

    denoiser = stbn.Denoiser(noise=known, seed=0)
    result = denoiser.fit(stack, time_budget=seconds).denoise(stack)
    if result.uncertainty is None:
        raise RuntimeError("there is an uncertainty whenever there is a noise model")

    error = np.abs(result.denoised - movie.clean)
    for width in (1, 2):
        inside = np.mean(error < width * result.uncertainty)
        print(f"truth within {width} posterior std: {inside:.0%} of the pixels")

    # Mean brightness of a region with its uncertainty, if errors of pixels were independent.
    region = (slice(None), slice(20, 28), slice(20, 28))
    mean = result.denoised[region].mean(axis=(1, 2))
    std = np.sqrt((result.uncertainty[region] ** 2).sum(axis=(1, 2))) / 64
    for t in (0, 6, 11):
        print(f"frame {t:2d}: {mean[t]:6.1f} +- {std[t]:.1f} counts")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
