"""The blocks of a movie that no step of a fit sees: what they say, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fit_path import FitPath
from .clips import HELD_OUT_BLOCK, Clip
from .prior import pixel_loss, square_error

__all__ = ["HeldOutScore", "Start", "held_out_score", "score_priors"]


@dataclass(frozen=True)
class HeldOutScore:
    """How well a network explains the held-out blocks.

    Attributes
    ----------
    losses : Tensor, shape (blocks,) [nats]
        Blind loss of each block, summed over its pixels.
    errors : Tensor, shape (blocks,)
        Squared error of the prior mean (`napari_stbn.prior.square_error`), likewise.
    pixels : Tensor, shape (blocks,)
        Pixels that count in each block.
    """

    losses: Tensor
    errors: Tensor
    pixels: Tensor

    @property
    def loss(self) -> float:
        """Mean blind loss of a pixel [nats]."""
        return float(self.losses.sum() / self.pixels.sum().clamp(min=1))

    def gain_over(self, other: HeldOutScore) -> tuple[float, float]:
        """By how much the squared error of a pixel is below another one, and the error of that.

        The same noisy pixels made both, so that the difference is known far better than either.
        Blocks, not pixels, are what is independent: errors of a network are smooth.
        """
        return self._difference(other.errors, self.errors)

    def loss_above(self, other: HeldOutScore) -> tuple[float, float]:
        """By how much the blind loss of a pixel is above another one [nats], and the error."""
        return self._difference(self.losses, other.losses)

    def _difference(self, these: Tensor, others: Tensor) -> tuple[float, float]:
        """Mean over pixels of a difference that is known block by block, and the error of that."""
        difference = these - others
        total = self.pixels.sum().clamp(min=1)
        mean = difference.sum() / total
        spread = (difference - mean * self.pixels).square().sum().sqrt() / total
        return float(mean), float(spread)

    def surely_above(self, other: HeldOutScore, sigmas: float = 1.0) -> bool:
        """Whether the squared error is above another one by more than so many errors of that.

        The loss is no good judge here: at low light it rises with the least overconfidence while
        the mean, which is the picture, still gains decibels.
        """
        gain, error = self.gain_over(other)
        return not -gain <= sigmas * error  # an error that is not finite is above


@torch.no_grad()
def held_out_score(path: FitPath, clips: Sequence[Clip]) -> HeldOutScore:
    """Measure a network on clips, block by block."""
    device = next(path.model.parameters()).device
    clips = [clip.to(device) for clip in clips]
    return score_priors((path.prior(clip) for clip in clips), clips)


def score_priors(priors: Iterable[Tensor], clips: Sequence[Clip]) -> HeldOutScore:
    """`held_out_score` of priors (1, T, K, H, W) that were predicted already."""
    losses, errors, pixels = [], [], []
    for prior, clip in zip(priors, clips, strict=True):
        losses.append(_sums(pixel_loss(prior, clip.intensities, clip.units), clip))
        wrong = square_error(prior, clip.intensities, clip.units, clip.weight)
        errors.append(_sums(wrong, clip))
        pixels.append(_sums(torch.ones_like(clip.weight), clip))
    counted = torch.cat(pixels)
    used = counted > 0
    return HeldOutScore(torch.cat(losses)[used], torch.cat(errors)[used], counted[used])


def _sums(values: Tensor, clip: Clip) -> Tensor:
    """Weighted sums of values (N, T, 1, H, W) over the blocks of a clip."""
    _, frames, _, *frame = clip.weight.shape
    block = [min(b, n) for b, n in zip(HELD_OUT_BLOCK, (frames, *frame), strict=True)]
    # A pixel that does not count may hold anything.
    counted = torch.where(clip.weight > 0, values * clip.weight, 0.0).transpose(1, 2)
    return F.avg_pool3d(counted, block, ceil_mode=True, divisor_override=1).flatten()


class Start:
    """The weights that a fit began with, kept in case that it ends worse.

    Parameters
    ----------
    parameters : sequence of Tensor
        Of the model, before the first step.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in parameters]
        self.score: HeldOutScore | None = None
        self.last: HeldOutScore | None = None  # of the fit when it was measured last

    @property
    def loss(self) -> float | None:
        """Blind loss of these weights on the held-out blocks; None before it was measured."""
        return None if self.score is None else self.score.loss

    def measure(self, measure: Callable[[], HeldOutScore]) -> None:
        """Measure these weights, once; the model's own are back afterwards."""
        if self.score is None:
            with self.in_place():
                self.score = measure()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """These weights are the model's meanwhile."""
        own = [p.detach().clone() for p in self.parameters]
        self.put_back()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the model these weights again."""
        torch._foreach_copy_(self.parameters, self.values)

    @torch.no_grad()
    def move(self, part: float) -> None:
        """Set the model's weights to a part of the way from these to its own."""
        torch._foreach_lerp_(self.parameters, self.values, 1 - part)
