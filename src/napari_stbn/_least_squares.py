"""The last step of a fit from learnt weights, which is linear.

A fit of seconds takes few steps, and each moves all weights a little. The last layer alone, and a
filter over the raw pixels around (`napari_stbn.network.nearby`), are a linear regression: of what
the prediction misses of the noisy pixels, on what was seen without them. Its solution is at hand at
once, as far along as a fit of any length could bring these weights. Each pixel counts by the
variance that the network states; coefficients are held back by a prior whose width is that which
the movie makes most likely (MacKay, Neural Computation 4, 1992), so that what a small or noisy
movie does not tell is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, combinations
from typing import NamedTuple

import torch
from torch import Tensor

from ._held_out import HeldOutScore, score_priors
from .clips import Clip
from .network import STBN
from .prior import noise_in_network_units, pixel_residual

__all__ = ["Seen", "solve_last"]

_logger = logging.getLogger(__name__)
_ROUNDS = 25  # in which the widths of the prior settle
_ROWS = 200_000  # pixels whose regressors are held at once
_SURE = 3.0  # standard errors by which the held-out blocks may get worse


class Seen(NamedTuple):
    """A clip of one crop, and what a network made of it.

    Attributes
    ----------
    clip : Clip
        Weighed where pixels are held out.
    fitted : Tensor, shape (1, T, 1, H, W)
        Weight of the pixels that may be learnt from; a part of 1 where several clips have a pixel.
    prior : Tensor, shape (1, T, K, H, W)
    features : Tensor, shape (pixels, width)
        That the last layer was given, a row a pixel.
    """

    clip: Clip
    fitted: Tensor
    prior: Tensor
    features: Tensor


@torch.no_grad()
def solve_last(
    model: STBN, seen: Sequence[Seen], score: HeldOutScore
) -> tuple[list[Tensor], HeldOutScore] | None:
    """Set the last layer's means and the filter over nearby pixels by least squares, in place.

    Parameters
    ----------
    model : STBN
        As it was fitted, with a filter that does nothing.
    seen : sequence of Seen
    score : HeldOutScore
        Of the model on the held-out pixels of the clips.

    Returns
    -------
    list of Tensor and HeldOutScore, or None
        The priors of the clips afterwards, and their score. None where that was worse and nothing
        was changed.
    """
    channels, width = model.config.channels, model.config.width
    noise = torch.stack([noise_in_network_units(s.clip.units) for s in seen]).mean(0)
    noise = noise.to(model.last.weight.device)
    solved = []
    for c in range(channels):
        sums = _Sums.of([_sums(model, s, c, noise) for s in seen])
        if not sums.tell:
            return None
        solved.append(_most_likely(sums, _groups(model)))
    steps = torch.stack(solved).to(model.last.weight)
    moved, filtered = steps[:, :width], steps[:, width:].unflatten(1, (2, -1))
    model.near.set(filtered, noise)
    # The filter is to take differences from the mean with the step in it, not from that before.
    moved = moved / (1 - _taken(model, seen, noise))[:, None]
    priors = [_stepped(model, s, moved) for s in seen]
    after = score_priors(priors, [s.clip for s in seen])
    gain, error = after.gain_over(score)
    _logger.info("least squares: held-out error fell by %.2g +- %.2g of the noise", gain, error)
    if after.surely_above(score, _SURE):
        model.near.clear()
        return None
    model.last.weight[:channels] += moved[..., None, None]
    return priors, after


def _taken(model: STBN, seen: Sequence[Seen], noise: Tensor) -> Tensor:
    """Share (C,) of the mean that the filter replaces by pixels around."""
    doubts = [model.near.doubt(s.prior, noise).mean((0, 1, 3, 4)) for s in seen]
    plain, doubted = model.near.totals.unbind(1)
    return (plain + torch.stack(doubts).mean(0) * doubted).clamp(-0.5, 0.5)


def _stepped(model: STBN, seen: Seen, steps: Tensor) -> Tensor:
    """Prior of a clip after a step of the last layer's weights (C, width), and with the filter."""
    moved = (seen.features.to(steps.dtype) @ steps.T).unflatten(0, _extent(seen.prior))
    prior = seen.prior.clone()
    prior[:, :, : len(steps)] += moved.movedim(-1, 1)[None]
    filtered: Tensor = model.near(prior, seen.clip.inputs)
    return filtered


def _extent(prior: Tensor) -> tuple[int, int, int]:
    """Frames, height and width of a prior (1, T, K, H, W)."""
    return prior.shape[1], prior.shape[-2], prior.shape[-1]


class _Sums(NamedTuple):
    """Sums over pixels: products of the regressors, those with what is missed, its square."""

    products: Tensor
    along: Tensor
    square: Tensor
    weights: Tensor

    @property
    def tell(self) -> bool:
        """Whether there are any, and all are finite."""
        finite = all(bool(torch.isfinite(value).all()) for value in self)
        return finite and float(self.weights) > 0 and float(self.square) > 0

    @classmethod
    def of(cls, parts: Sequence[_Sums]) -> _Sums:
        """Sums over several sets of pixels."""
        return cls(*(torch.stack(values).sum(0) for values in zip(*parts, strict=True)))


def _sums(model: STBN, seen: Seen, channel: int, noise: Tensor) -> _Sums:
    """Sums over the pixels of a clip that may be learnt from."""
    clip, prior = seen.clip, seen.prior
    residual, slope = pixel_residual(prior, clip.intensities, clip.units, channel)
    around = model.near.differences(prior, clip.inputs)[0, :, channel].movedim(1, -1).flatten(0, 2)
    doubt = model.near.doubt(prior, noise)[0, :, channel].flatten()[:, None]
    features, parts = seen.features.to(around.dtype), []
    weight = seen.fitted.flatten().sqrt()
    rows = torch.nonzero(weight).flatten()
    for some in rows.split(_ROWS):
        near = around[some]
        x = torch.cat([features[some], near, doubt[some] * near], 1)
        counts = weight[some]
        x, y = x * (counts * slope.flatten()[some])[:, None], counts * residual.flatten()[some]
        sums = x.T @ x, x.T @ y, y @ y, counts @ counts
        parts.append(_Sums(*(value.cpu().double() for value in sums)))
    if not parts:
        size = features.shape[1] + 2 * around.shape[1]
        empty = torch.zeros(size, dtype=torch.float64)
        return _Sums(empty[:, None] * empty, empty, empty.sum(), empty.sum())
    return _Sums.of(parts)


class _Group(NamedTuple):
    """Coefficients that have one width.

    Attributes
    ----------
    scale : Tensor, shape (coefficients,)
        What the inverse of their variance is proportional to.
    least : float [nats]
        By how much they have to make the movie more likely, or they are left at zero. What makes it
        so by less is as often the noise of a dark movie.
    """

    scale: Tensor
    least: float


def _groups(model: STBN) -> list[_Group]:
    """Of the last layer, of differences, of differences that count by the network's doubt."""
    last = torch.ones(model.config.width, dtype=torch.float64)
    far = model.near.distances.double()  # pixels far away are less likely to matter
    return [_Group(last, 2.0), _Group(far, 10.0), _Group(far, 10.0)]


def _most_likely(sums: _Sums, groups: Sequence[_Group]) -> Tensor:
    """Most likely coefficients, of those groups that tell something."""
    places = torch.arange(len(sums.along)).split([len(group.scale) for group in groups])
    best, found = 0.0, torch.zeros_like(sums.along)
    numbers = range(len(groups))
    for chosen in chain(*(combinations(numbers, n + 1) for n in numbers)):
        at = torch.cat([places[g] for g in chosen])
        part = _Sums(sums.products[at][:, at], sums.along[at], sums.square, sums.weights)
        coefficients, gain = _evidence(part, [groups[g].scale for g in chosen])
        gain -= sum(groups[g].least for g in chosen)
        if gain > best:
            best, found = gain, torch.zeros_like(sums.along).index_copy(0, at, coefficients)
    return found


def _evidence(sums: _Sums, scales: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Most likely coefficients, each group under a normal prior of the most likely width.

    And by how much the movie is more likely with them [nats].
    """
    size = sums.products.diagonal().clamp(min=1e-12).sqrt()
    products = sums.products / size[:, None] / size + 1e-9 * torch.eye(len(size)).double()
    along = sums.along / size
    variance = sums.square / sums.weights
    scale = torch.cat(list(scales)) / size.square()  # of the coefficients times `size`
    held = 1e-3 / variance * torch.ones_like(size)
    for _ in range(_ROUNDS):
        root = torch.linalg.cholesky(products / variance + held.diag())
        spread = torch.cholesky_inverse(root)
        found = spread @ along / variance
        gain = found @ along / variance - 2 * root.diagonal().log().sum() + held.log().sum()
        known = 1 - held * spread.diagonal()
        for group in torch.arange(len(size)).split([len(s) for s in scales]):
            of_square = (found[group].square() * scale[group]).sum()
            wide = (of_square / known[group].sum().clamp(min=1e-3)).clamp(min=1e-30)
            held[group] = (scale[group] / wide).clamp(max=1e12)
    return found / size, float(gain) / 2
