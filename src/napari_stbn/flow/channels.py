"""One image of several channels, for one flow of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["join_channels"]

_SMOOTH = 1.5  # px: structure is what this leaves of a frame, noise mostly what it takes
_FRAMES = 8  # that the weights are measured on
Image = NDArray[np.float32]


def join_channels(channels: Sequence[Image]) -> Image:
    """Weighted sum of channels, by how far their structure stands out of their noise.

    Parameters
    ----------
    channels : sequence of ndarray, shape (T, Y, X)
        Of one movie, each in its own unit; at least one.

    Returns
    -------
    ndarray, shape (T, Y, X), float32
        The channel itself where there is one. Else each is weighted with the standard deviation of
        its structure over the variance of its noise: among channels that show the same structure,
        the sum with the highest ratio of signal to noise. Its unit means nothing.
    """
    if len(channels) == 1:
        return channels[0]
    weights = [_weight(channel) for channel in channels]
    if not any(weights):
        weights = [1.0] * len(channels)
    total = np.zeros(channels[0].shape, np.float32)
    for channel, weight in zip(channels, weights, strict=True):
        total += np.float32(weight) * channel
    return total


def _weight(channel: Image) -> float:
    """Structure over noise squared; 0 where there is no structure."""
    import cv2

    noise, structure = [], []
    for frame in channel[:: max(1, len(channel) // _FRAMES)]:
        smooth = cv2.GaussianBlur(np.asarray(frame, np.float32), (0, 0), _SMOOTH)
        rough = frame - smooth
        noise.append(1.4826 * float(np.median(np.abs(rough - np.median(rough)))))
        low, high = np.percentile(smooth, [1.0, 99.8])
        structure.append(float(high - low))
    sigma, range_ = float(np.mean(noise)), float(np.mean(structure))
    # Smoothed white noise spans about six of its standard deviations by itself.
    span = range_ - 6 * sigma / (2 * np.sqrt(np.pi) * _SMOOTH)
    if span <= 0:
        return 0.0
    return span / max(sigma, 1e-3 * range_) ** 2
