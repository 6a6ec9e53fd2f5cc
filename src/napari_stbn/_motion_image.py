"""The image of a movie's channels that motion is looked for in: one flow for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .prior import Units

__all__ = ["image_of_channels", "motion_image"]

_LEAST = 0.01  # of the variance of a channel is structure


def motion_image(intensities: Tensor, units: Sequence[Units]) -> Tensor:
    """One image of all channels, in which motion is looked for.

    Parameters
    ----------
    intensities : Tensor, shape (..., C, H, W) [user's units]
    units : sequence of Units, length C

    Returns
    -------
    Tensor, shape (..., H, W)
        A single channel as it is. Else each weighs as much as its structure stands out of its
        noise: the standard deviation of the one over the variance of the other, at its middle
        intensity, which for channels that show the same is the sum with the most signal. The unit
        of the sum means nothing.
    """
    if len(units) == 1:
        return intensities.squeeze(-3)
    weights = [_weight(unit) for unit in units]
    weights = [weight / max(weights) for weight in weights]
    return (intensities * intensities.new_tensor(weights)[:, None, None]).sum(-3)


def image_of_channels(
    channels: Sequence[NDArray[np.float32]], units: Sequence[Units]
) -> NDArray[np.float32]:
    """`motion_image` of C arrays (T, Y, X)."""
    if len(channels) == 1:
        return channels[0]
    image: NDArray[np.float32] = motion_image(
        torch.from_numpy(np.stack(channels, 1)), units
    ).numpy()
    return image


def _weight(unit: Units) -> float:
    """Structure over noise squared, of a channel, in one over its intensity."""
    low, middle, high = unit.to_intensity(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    spread = float(high - low) / 2  # of structure and noise together
    if unit.noise is None:
        return 1 / spread
    # Stabilised noise has unit variance, and the scaling is the deviation of both; at a few photons
    # it has less, so that no channel may be taken for empty.
    structure = spread * math.sqrt(max(1 - unit.scaling.scale**-2, _LEAST))
    return structure / float(unit.noise.variance(middle))
