"""The width of the prior, learnt on movies that no other weight was learnt on.

A network that saw its training movies for long predicts them better than others, and states that
error. So after the training the one row of the last layer that gives the width is learnt again, on
new movies, with all other weights as they are. What the layer is given there is gathered once, from
whole movies: a row that was learnt clip by clip never came to rest, stated too little in the
brightest pixels and too much in the dark, where most of them are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from _batches import Batch, ScenePool
from _pool import Scene
from napari_stbn._width import with_features
from napari_stbn.network import STBN
from napari_stbn.prior import prior_mean

Predict = Callable[[Batch], Tensor]

FIRST_WIDTH_SEED = 2_100_000
LEAST_WIDTH = 0.03  # of the noise's standard deviation: no need to know smaller ones apart
_PIXELS = 8000  # of each movie
_BATCH = 8192  # pixels of a step, of all movies
_RATE = 2e-3


@dataclass(frozen=True)
class Pixels:
    """What decides about the width at some pixels."""

    features: Tensor  # (P, F), what the last layer was given
    error: Tensor  # (P,), of the prior mean, in units of the noise as estimated
    scale: Tensor  # (P,), from units of the network to those of the noise


def learn_width(
    model: STBN, scenes: Sequence[Scene], steps: int, predict: Predict, seed: int
) -> tuple[float, float]:
    """Learn the width's row of the last layer, in place; the loss before and after.

    Parameters
    ----------
    model : STBN
        One channel with covariance.
    scenes : sequence of Scene
        That the model was not trained on.
    steps : int
    predict : callable
        Prior (1, T, K, H, W) of a whole movie.
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = gather(model, scenes, predict, generator)
    weight = model.last.weight
    row = weight.detach()[1].flatten().cpu().clone().requires_grad_()
    before = float(width_score(row, pixels).detach())
    optimizer = torch.optim.Adam([row], lr=_RATE)
    average = torch.zeros_like(row)
    for step in range(steps):
        chosen = torch.randint(len(pixels.error), (_BATCH,), generator=generator)
        some = Pixels(pixels.features[chosen], pixels.error[chosen], pixels.scale[chosen])
        optimizer.zero_grad()
        width_score(row, some).backward()
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimizer.step()
        if step >= steps // 2:
            average += row.detach() / (steps - steps // 2)
    with torch.no_grad():
        weight[1] = average.to(weight).view_as(weight[1])
    return before, float(width_score(average, pixels))


@torch.no_grad()
def gather(
    model: STBN, scenes: Sequence[Scene], predict: Predict, generator: torch.Generator
) -> Pixels:
    """Some pixels of each scene, at random."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    device = model.last.weight.device
    for scene in scenes:
        whole = ScenePool([scene], device).whole()
        prior, features = with_features(model, partial(predict, whole))
        units, noise = scene.units, scene.units.noise
        if noise is None:
            raise ValueError("the width is learnt in units of the noise, got a scene without")
        mean = prior_mean(prior.cpu(), (units,))[0]
        error = ((scene.clean - mean) / noise.variance(mean).sqrt()).flatten()
        chosen = torch.randperm(len(error), generator=generator)[:_PIXELS]
        scale = torch.full((len(chosen),), float(units.scaling.scale))
        found.append((features[chosen.to(device)].float().cpu(), error[chosen], scale))
    return Pixels(*(torch.cat(part) for part in zip(*found, strict=True)))


def width_score(row: Tensor, pixels: Pixels) -> Tensor:
    """Mean negative log-likelihood of the errors, lowest on average at the width that is right.

    Both have `LEAST_WIDTH` added in quadrature, so that the smallest errors do not decide.
    """
    width = F.softplus(pixels.features @ row) * pixels.scale
    total = width.square() + LEAST_WIDTH**2
    return 0.5 * ((pixels.error.square() + LEAST_WIDTH**2) / total + total.log()).mean()
