"""How far to follow a fit from the weights that it began with: part of the way, or not at all.

A fit from learnt weights moves the prediction by what it learns of the movie and by what it learns
by heart of its noise. Between both ends, the weights' straight line, the former grows in
proportion and the latter's square: a part of the way is better than all of it. With the mean
squares of the change, ``D``, and of the gain at its end, ``g``, the gain at a part ``a`` is ``a (D
+ g) - a^2 D``, greatest at ``a = (1 + g / D) / 2``. The change is known to every digit. The gain is
measured on the held-out blocks, which at low light say little, and so is weighed against what fits
to simulated movies gained.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._fit_path import FitPath
from ._held_out import HeldOutScore, Start, score_priors
from ._width import compared, looked_at
from .clips import Clip

__all__ = ["Settled", "settle"]

_logger = logging.getLogger(__name__)
# Fits to simulated movies of 4 to 80 photons and 0.1 to 0.6 megapixels. What they learnt by heart
# goes with how often they saw each pixel, and against how many there are: one set of weights cannot
# know the noise of all. For 0.1 megapixels the gained part of the change was .26 after 20 times,
# -.06 after 67, -.3 after 130; for 0.5 megapixels .5 after 5 times, .53 after 34.
_PIXELS = 1e5
_AT_BEST, _ONCE, _EACH = 0.55, 0.8, 0.21
# What was learnt by heart, in parts of the error that the start stated: for 0.1 megapixels .08 and
# .24, for 0.5 megapixels .03 and .05.
_NOISE, _NOISE_EACH = 0.025, 0.0034
_SPREAD = 0.25  # of both
_LEAST, _MOST = -0.8, 1.0
_SURE = 2.0  # standard errors: on a part of the way a loss would be a surprise


class Settled(NamedTuple):
    """How far a fit was followed, and both ends' predictions of the held-out clips.

    Attributes
    ----------
    part : float
        0 to 1. 0 where the fit was not measured, or the squared error surely rose even on a part of
        the way; then there are no predictions.
    before : sequence of Tensor, shape (1, T, K, H, W)
        Priors by the start.
    after : sequence of (Tensor, Tensor)
        What `looked_at` gives at the end.
    """

    part: float
    before: Sequence[Tensor] = ()
    after: Sequence[tuple[Tensor, Tensor]] = ()


@torch.no_grad()
def settle(
    path: FitPath, start: Start, clips: Sequence[Clip], passes: float, pixels: int
) -> Settled:
    """Set the weights of a fit that is done to a part of the way from its start, in place.

    Parameters
    ----------
    path : FitPath
        With the model as it was fitted.
    start : Start
        The weights before the fit, and both ends' scores on `clips`.
    clips : sequence of Clip
        Held out from the fit.
    passes : float
        Times that the fit saw each pixel.
    pixels : int
        That there are.

    Returns
    -------
    Settled
    """
    if start.score is None or start.last is None or not math.isfinite(start.last.loss):
        start.put_back()
        return Settled(0.0)
    device = next(path.model.parameters()).device
    clips = [clip.to(device) for clip in clips]
    fitted = [path.prior(clip) for clip in clips]
    with start.in_place():
        before = [path.prior(clip) for clip in clips]
    changed, stated = compared(path.model, before, fitted, clips)
    share = 1.0
    if changed != 0:
        often = passes * _PIXELS / pixels  # seen, had there been as many pixels
        share = _gained(start.last, start.score, changed, stated, often)
    if not math.isfinite(share):
        start.put_back()
        return Settled(0.0)
    part = (1 + share) / 2
    start.move(part)
    after = [looked_at(path, clip) for clip in clips]
    start.last = score_priors((prior for prior, _ in after), clips)
    if start.last.surely_above(start.score, _SURE):
        start.put_back()
        return Settled(0.0)
    _logger.info("the fit is followed %.0f %% of the way from its start", 100 * part)
    return Settled(part, before, after)


def _gained(
    last: HeldOutScore, first: HeldOutScore, changed: float, stated: float | None, often: float
) -> float:
    """Gain of a fit over its change: what is to be expected, and what was measured."""
    expected = min(_ONCE - _EACH * math.log(max(often, 1.0)), _AT_BEST)
    if stated is not None:
        by_heart = (_NOISE + _NOISE_EACH * often) * stated
        expected = (expected + max(1 - 2 * by_heart / changed, _LEAST)) / 2
    measured, error = (value / changed for value in last.gain_over(first))
    weight = _SPREAD**2 / (_SPREAD**2 + error**2)
    share = expected + weight * (measured - expected)
    return min(max(share, _LEAST), _MOST) if math.isfinite(share) else math.nan
