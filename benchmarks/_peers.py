"""Other people's denoisers, where they are installed; none is a dependency of ours."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _baselines import unbiased_inverse
from napari_stbn import GaussianNoise, PoissonGaussianNoise

_EPOCHS = 100_000  # never reached: time ends a training
_STEPS = 20  # of an epoch, after which its time is looked at
_SLICES = "SYX", (64, 64), 16  # axes as CAREamics calls them, patch, patches in a step
_VOLUME = "ZYX", (8, 64, 64), 2

Peer = Callable[[NDArray[np.float64]], NDArray[Any]]

__all__ = ["Peer", "peers"]


def peers(
    noise: PoissonGaussianNoise | GaussianNoise, threads: int, seconds: float | None = None
) -> dict[str, Peer]:
    """Name and call of every peer that is installed.

    Parameters
    ----------
    noise : PoissonGaussianNoise or GaussianNoise
        What those that take a noise model are told.
    threads : int
    seconds : float, optional
        That those which learn from the movie may train for; None leaves them out.

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
            if isinstance(noise, GaussianNoise):
                return np.asarray(bm4d(movie, noise.sigma))
            brightest = (float(movie.max()) - noise.offset) / noise.gain
            photons, expected = unbiased_inverse(noise, max(1.0, 1.5 * brightest))
            flat = bm4d(np.asarray(noise.stabilize(movie)), 1.0)
            return np.asarray(np.interp(flat, expected, photons) * noise.gain + noise.offset)

        found["VST + BM4D, told the noise"] = stabilised
    if seconds is not None and importlib.util.find_spec("careamics"):
        found["N2V, frames"] = partial(_noise2void, _SLICES, seconds)
        found["N2V, time as depth"] = partial(_noise2void, _VOLUME, seconds)
    return found


def _noise2void(
    kind: tuple[str, tuple[int, ...], int], seconds: float, movie: NDArray[np.float64]
) -> NDArray[Any]:
    """CAREamics' Noise2Void with its defaults, trained on the movie for so many seconds."""
    axes, patch, batch = kind
    factories = importlib.import_module("careamics.config")
    careamist = importlib.import_module("careamics").CAREamist
    patch = tuple(
        min(p, n // 8 * 8) for p, n in zip(patch, movie.shape[-len(patch) :], strict=True)
    )
    config = factories.create_advanced_n2v_config(
        "n2v",
        "array",
        axes,
        patch_size=patch,
        batch_size=batch,
        num_epochs=_EPOCHS,
        num_steps=_STEPS,
        n_val_patches=2,
        num_workers=0,
        seed=1,
        trainer_params={"max_time": {"seconds": seconds}, "accelerator": "cpu"},
    )
    plain = movie.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        trained = careamist(config, work_dir=folder, enable_progress_bar=False)
        trained.train(train_data=plain)
        predicted, _ = trained.predict(plain, tile_overlap=None)
    return np.asarray(predicted[0]).reshape(movie.shape)
