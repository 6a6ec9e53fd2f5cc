"""Denoise every movie of a prepared stack."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from .devices import free_memory
from .inference import DenoisedWindow, denoise_frames, plan_inference
from .network import STBN
from .precision import Precision
from .preparation import Index, PreparedMovie, PreparedStack
from .stack import Stack

__all__ = ["Movies", "denoise_prepared"]

Movies = dict[Index, NDArray[np.float32]]  # (T, Y, X) [user's units] of each channel and plane
_MEMORY_SHARE = 0.6  # of what is free, for one movie


def denoise_prepared(
    model: STBN, prepared: PreparedStack, precision: Precision = "float32"
) -> Generator[float, None, tuple[Movies, Movies]]:
    """Denoise the movies of a stack one after the other.

    Parameters
    ----------
    model : STBN
        Fitted, on the device to use.
    prepared : PreparedStack
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network's inner layers; states, likelihood and posterior are float32.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    means, stds : dict of (channel, plane) to ndarray, shape (T, Y, X), float32 [user's units]
        Posterior means (prior means without a noise model) and posterior standard deviations (empty
        without one).

    Raises
    ------
    MemoryError
        If a movie would not fit into the free memory.
    """
    means: Movies = {}
    stds: Movies = {}
    device = next(model.parameters()).device
    for number, ((channel, plane), movie) in enumerate(prepared.movies.items()):
        budget = int(_MEMORY_SHARE * free_memory(device))
        plan = plan_inference(model, movie.shape, budget, precision)
        windows: list[DenoisedWindow] = []
        for piece in denoise_frames(model, movie, plan, precision=precision):
            if isinstance(piece, DenoisedWindow):
                windows.append(piece)
            else:
                yield (number + piece) / len(prepared.movies)
        mean = np.concatenate([w.mean.numpy() for w in windows])  # (T, C, Y, X)
        std = [w.std.numpy() for w in windows if w.std is not None]
        for c in range(mean.shape[1]):
            of_mean = mean[:, c]
            of_std = np.concatenate([piece[:, c] for piece in std]) if std else None
            correlation = prepared.correlation.get(channel + c)
            if correlation is not None:
                noise = prepared.noise[channel + c]
                if of_std is not None and noise is not None:
                    of_std = correlation.restore_std(of_std, of_mean, noise)
                of_mean = correlation.restore(of_mean)
            means[channel + c, plane] = of_mean
            if of_std is not None:
                stds[channel + c, plane] = of_std
        _keep_blank_frames(prepared.stack, movie, (channel, plane), means, stds)
    return means, stds


def _keep_blank_frames(
    stack: Stack,
    movie: PreparedMovie,
    key: Index,
    means: Movies,
    stds: Movies,
) -> None:
    """Return frames that hold no measurement as they came.

    What lies between their neighbours would be invented.
    """
    blank = (~movie.valid.flatten(1).any(1)).nonzero().flatten().tolist()
    for t in blank:
        for c in range(movie.inputs.shape[1]):
            index = (key[0] + c, key[1])
            means[index][t] = stack.movie(*index, frames=slice(t, t + 1))[0]
            if index in stds:
                stds[index][t] = np.nan
