"""Single wrong pixels: what was measured there is neither the prediction nor its noise.

A cosmic ray, a transmission error, a pixel that was dead for one frame: the posterior would keep
part of it, the more the less noise there is. It is told from a small event by its neighbours. Light
has passed a point-spread function, so that an event that the prediction missed is missed in the
pixels around it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .noise import NoiseModel
from .prior import Units

__all__ = ["doubt"]

# Standard deviations from which a pixel is doubted, and from which nothing is left of it.
_FROM, _TO = 3.5, 4.5
_SHARED = 0.4  # of a pixel's deviation, in a neighbour: then it is not alone


def doubt(noisy: Tensor, mean: Tensor, std: Tensor, units: Sequence[Units]) -> Tensor:
    """How much each pixel of a frame has to be ignored.

    Parameters
    ----------
    noisy : Tensor, shape (C, Y, X) [user's units]
    mean, std : Tensor, shape (C, Y, X) [user's units]
        Of the prior, which never saw the pixel.
    units : sequence of Units, length C
        All with a noise model.

    Returns
    -------
    Tensor, shape (C, Y, X)
        0 where the pixel agrees with prediction and noise, or does not stand alone; 1 where it
        counts for nothing.
    """
    z = torch.stack(
        [_deviation(noisy[c], mean[c], std[c], unit.noise) for c, unit in enumerate(units)]
    )
    padded = F.pad(z, (1, 1, 1, 1))
    height, width = z.shape[-2:]
    around = torch.stack(
        [
            padded[..., y : y + height, x : x + width]
            for y in range(3)
            for x in range(3)
            if (y, x) != (1, 1)
        ]
    )
    same = (around * z.sign()).amax(0)  # the largest deviation to the same side
    alone = same < _SHARED * z.abs()
    share = ((z.abs() - _FROM) / (_TO - _FROM)).clamp(0, 1)
    return torch.where(alone, share, 0.0)


def _deviation(noisy: Tensor, mean: Tensor, std: Tensor, noise: NoiseModel | None) -> Tensor:
    """Deviation (Y, X) from the prediction, in standard deviations of prior and noise together.

    The smaller one of two: as measured, and after the transform that stabilises the noise. A single
    photon in the dark is many standard deviations of dark noise as it was measured, and has every
    right to be there: after the transform it is one or two.
    """
    if noise is None:
        raise ValueError("a pixel is doubted by its noise model, got None")
    variance = noise.variance(mean)
    total = (1 + std.square() / variance).sqrt()
    measured = (noisy - mean) / variance.sqrt() / total
    stable = (noise.stabilize(noisy) - noise.stabilize(mean)) / total
    return torch.where(stable.abs() < measured.abs(), stable, measured)
