"""Flow of noisy frames by a trained network, pair by pair: what distillation leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .estimators import Flow
from .pwcnet import PWCNet

__all__ = ["brightness", "normalise", "student_flow", "student_pair"]

_LOOKED_AT = 16  # frames that the scale of a movie is taken from
Image = NDArray[np.float32]


def brightness(frames: Callable[[int], NDArray[Any]], count: int) -> tuple[float, float]:
    """1st and 99.8th percentile of some frames of a movie, spread over it.

    Parameters
    ----------
    frames : callable
        Frame of an index, (Y, X).
    count : int
        Frames of the movie.
    """
    some = np.unique(np.linspace(0, count - 1, _LOOKED_AT).astype(int))
    values = np.stack([frames(int(t)) for t in some]).astype(np.float32)
    every = max(1, values.size // 2**22)
    low, high = (float(v) for v in np.percentile(values.reshape(-1)[::every], [1.0, 99.8]))
    return low, high


def normalise(frames: NDArray[Any], scale: tuple[float, float]) -> Tensor:
    """Frames (T, Y, X) on the scale of their movie, from `brightness`, as 0..1: (T, 1, Y, X).

    One scale a movie, and no smoothing: a student learns its own.
    """
    low, high = scale
    values = np.asarray(frames, np.float32)
    return torch.from_numpy((values - low) / max(high - low, 1e-12))[:, None]


@torch.no_grad()
def student_pair(
    student: PWCNet, frames: Tensor, given: tuple[Image, Image] | None = None
) -> tuple[Image, Image]:
    """Flow of a student on one pair of noisy frames.

    Parameters
    ----------
    student : PWCNet
        On the device to use.
    frames : Tensor, shape (2, 1, Y, X)
        From `normalise`.
    given : (to_previous, to_next), each (2, Y, X) [px], optional
        On the same frames, for a student that corrects.

    Returns
    -------
    (to_previous, to_next), each (2, Y, X) float32 [px]
    """
    device = next(student.parameters()).device
    first, second = (f.expand(1, student.config.channels, -1, -1).to(device) for f in frames)
    found = []
    for way, (this, other) in enumerate(((second, first), (first, second))):
        known = None if given is None else torch.from_numpy(given[way])[None].to(device)
        found.append(student(this, other, known)[0].cpu().numpy())
    return found[0], found[1]


def student_flow(
    student: PWCNet, noisy: NDArray[Any], given: Flow | None = None
) -> Generator[float, None, Flow]:
    """Flow of a student on a whole noisy movie.

    Parameters
    ----------
    student : PWCNet
        On the device to use.
    noisy : ndarray, shape (T, Y, X)
    given : Flow, optional
        On the same frames, for a student that corrects.

    Yields
    ------
    float
        Part of the pairs that is done.

    Returns
    -------
    Flow
    """
    scale, pairs = brightness(lambda t: noisy[t], len(noisy)), len(noisy) - 1
    flow = Flow(*(np.empty((pairs, 2, *noisy.shape[1:]), np.float32) for _ in range(2)))
    student.eval()
    for t in range(pairs):
        known = None if given is None else (given.to_previous[t], given.to_next[t])
        found = student_pair(student, normalise(noisy[t : t + 2], scale), known)
        flow.to_previous[t], flow.to_next[t] = found
        yield (t + 1) / pairs
    return flow
