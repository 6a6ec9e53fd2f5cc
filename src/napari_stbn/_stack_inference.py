"""Denoise every movie of a prepared stack."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ._defects import is_blank
from ._turned_inference import denoise_turned
from .devices import free_memory
from .inference import DenoisedWindow, plan_inference
from .network import STBN
from .precision import Precision
from .preparation import Index, PreparedMovie, PreparedStack

if TYPE_CHECKING:
    from ._lazy_movie import LazyMovie
    from .stack import Stack

__all__ = ["ArrayOutput", "Movies", "Output", "denoise_prepared", "hand_out"]

Movies = dict[Index, NDArray[np.float32]]  # (T, Y, X) [user's units] of each channel and plane
_MEMORY_SHARE = 0.6  # of what is free, for one movie


class Output(Protocol):
    """Where denoised frames go as they are made."""

    def __call__(
        self,
        channel: int,
        plane: int,
        start: int,
        mean: NDArray[np.float32],
        std: NDArray[np.float32] | None,
    ) -> None:
        """Take frames from `start` on, (T', Y, X) [user's units], of one movie."""


class ArrayOutput:
    """Keeps all frames in memory.

    Parameters
    ----------
    stack : Stack

    Attributes
    ----------
    means, stds : dict of (channel, plane) to ndarray, shape (T, Y, X), float32 [user's units]
        Posterior means (prior means without a noise model) and posterior standard deviations (empty
        without one).
    """

    def __init__(self, stack: Stack) -> None:
        self._shape = (stack.n_frames, *stack.frame_shape)
        self.means: Movies = {}
        self.stds: Movies = {}

    def __call__(
        self,
        channel: int,
        plane: int,
        start: int,
        mean: NDArray[np.float32],
        std: NDArray[np.float32] | None,
    ) -> None:
        """Copy frames to their place."""
        for movies, frames in ((self.means, mean), (self.stds, std)):
            if frames is not None:
                if (channel, plane) not in movies:
                    movies[channel, plane] = np.empty(self._shape, np.float32)
                movies[channel, plane][start : start + len(frames)] = frames


def denoise_prepared(
    model: STBN,
    prepared: PreparedStack,
    output: Output,
    precision: Precision = "float32",
    turns: int = 1,
) -> Generator[float, None, None]:
    """Denoise the movies of a stack one after the other.

    Parameters
    ----------
    model : STBN
        Fitted, on the device to use.
    prepared : PreparedStack
    output : Output
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network's inner layers; states, likelihood and posterior are float32.
    turns : int, default 1
        Quarter turns of a movie that its result is averaged over.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Raises
    ------
    MemoryError
        If a movie would not fit into the free memory.
    """
    device = next(model.parameters()).device
    for number, ((channel, plane), movie) in enumerate(prepared.movies.items()):
        budget = int(_MEMORY_SHARE * free_memory(device))
        plan = plan_inference(model, movie.shape, budget, precision)
        for piece in denoise_turned(model, movie, plan, turns, precision=precision):
            if isinstance(piece, DenoisedWindow):
                hand_out(prepared, (channel, plane), movie, piece, output)
            else:
                yield (number + piece) / len(prepared.movies)


def hand_out(
    prepared: PreparedStack,
    key: Index,
    movie: PreparedMovie | LazyMovie,
    window: DenoisedWindow,
    output: Output,
) -> None:
    """Hand denoised frames to their output, channel by channel, as the user's pixels are.

    Frames that hold no measurement are NaN, for `napari_stbn._views.output_for_user` to put in as
    they came: what lies between their neighbours would be invented.

    Raises
    ------
    RuntimeError
        If the model predicts NaN, which would pass for such a frame.
    """
    if bool(window.mean.isnan().any()):
        raise RuntimeError(
            "the model predicts values that are no numbers: fit again, with another seed or with "
            'precision="float32"'
        )
    frames = slice(window.start, window.start + len(window.mean))
    blank = (~movie.valid[frames].flatten(1).any(1)).nonzero().flatten().tolist()
    for c in range(window.mean.shape[1]):
        channel, plane = key[0] + c, key[1]
        mean = window.mean[:, c].numpy()
        std = None if window.std is None else window.std[:, c].numpy()
        correlation = prepared.correlation.get(channel)
        if correlation is not None:
            noise = prepared.noise[channel]
            if std is not None and noise is not None:
                std = correlation.restore_std(std, mean, noise)
            mean = correlation.restore(mean)
        for t in blank:
            at = window.start + t
            recorded = prepared.stack.movie(channel, plane, frames=slice(at, at + 1))[0]
            if is_blank(recorded):  # else a copy of the frame before
                mean[t] = np.nan
                if std is not None:
                    std[t] = np.nan
        output(channel, plane, window.start, mean, std)
