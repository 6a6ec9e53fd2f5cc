"""Other people's denoisers, where they are installed; none is a dependency of ours."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _baselines import unbiased_inverse
from napari_stbn import PoissonGaussianNoise

Peer = Callable[[NDArray[np.float64]], NDArray[Any]]

__all__ = ["Peer", "peers"]


def peers(noise: PoissonGaussianNoise, threads: int) -> dict[str, Peer]:
    """Name and call of every peer that is installed.

    Parameters
    ----------
    noise : PoissonGaussianNoise
        What those that take a noise model are told.
    threads : int

    Returns
    -------
    dict of str to callable
        Each takes a movie (T, Y, X) and returns it denoised, in the same intensities.
    """
    found: dict[str, Peer] = {}
    if importlib.util.find_spec("ndsafir"):
        ndsafir = importlib.import_module("ndsafir")

        def patches(movie: NDArray[np.float64]) -> NDArray[Any]:
            plain = movie.astype(np.float32)
            gains, offsets = ndsafir.calibrate_poisson_gaussian(plain, axes="TYX")
            return np.asarray(
                ndsafir.denoise_poisson_gaussian(
                    plain, axes="TYX", gains=gains, offsets=offsets, nthreads=threads
                )
            )

        found["nd-safir, calibrating itself"] = patches
    if importlib.util.find_spec("bm4d"):
        bm4d = importlib.import_module("bm4d").bm4d

        def stabilised(movie: NDArray[np.float64]) -> NDArray[Any]:
            if noise.gain <= 0:  # no shot noise: one variance everywhere
                sigma = float(np.sqrt(noise.variance(np.zeros(1)))[0])
                return np.asarray(bm4d(movie, sigma))
            brightest = (float(movie.max()) - noise.offset) / noise.gain
            photons, expected = unbiased_inverse(noise, max(1.0, 1.5 * brightest))
            flat = bm4d(np.asarray(noise.stabilize(movie)), 1.0)
            return np.asarray(np.interp(flat, expected, photons) * noise.gain + noise.offset)

        found["VST + BM4D, told the noise"] = stabilised
    return found
