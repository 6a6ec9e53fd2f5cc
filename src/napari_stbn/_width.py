"""How wide the prior is after a fit, from how far the fit moved the mean.

Where light is low the squared error of a good prediction is a hundredth of the noise's variance or
less. A movie of a few megapixels does not hold enough noise-free evidence to learn that number, and
a fit makes of it what the noise of its pixels happens to say: too narrow or too wide by half. But a
start that was learnt with truth knows its width, and what a fit changes in the mean tells how much
better it became. If both means are good predictions and the later one knows more, then its error is
uncorrelated with what was changed, and the mean squares obey

    error after = error before - change.

Some of the change is noise that the fit learnt by heart, and counts against it; but not much of it,
where the fit was followed as far as it gains (`napari_stbn._settling`). The held-out blocks measure
the gain too, but not surely. Both are weighed by their uncertainty. So the head's last layer is set
such that each pixel's width is that which the start gave it, times the square root of ``1 - gain /
error before``, as nearly as its features allow. Unless the held-out blocks say for sure that the
fit's own width explains them better: then the movie is one that the start knew nothing of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._fit_path import FitPath
from ._held_out import Start, score_priors
from .clips import Clip
from .network import STBN
from .prior import Units, prior_mean

__all__ = ["compared", "keep_width", "looked_at", "with_features"]

_LEAST_SHARE = 0.3  # of the start's variance. Below it the start did not know its own error
_GAINED = 0.85, 0.2  # of the change, and how surely, before anything is measured
_SURE = 2.0  # standard errors by which the fit's own width has to be better
_RIDGE = 1e-4  # of the mean square of the features, towards the weights that were learnt


@torch.no_grad()
def keep_width(
    model: STBN,
    start: Start,
    clips: Sequence[Clip],
    before: Sequence[Tensor],
    after: Sequence[tuple[Tensor, Tensor]],
) -> float | None:
    """Set the width of the prior from the start's, in place.

    Parameters
    ----------
    model : STBN
        As it was fitted.
    start : Start
        The weights before the fit, and both scores.
    clips : sequence of Clip
        What both are compared on, on the device of the model.
    before : sequence of Tensor, shape (1, T, K, H, W)
        Priors of the clips by the start.
    after : sequence of (Tensor, Tensor)
        What `looked_at` gives of the model.

    Returns
    -------
    float or None
        Variance after the fit over that before it; None where nothing was changed: no noise model,
        channels that share a covariance, or a start so far off that its width says nothing or
        explains the clips worse than that of the fit.
    """
    changed, before_it = compared(model, before, [prior for prior, _ in after], clips)
    if before_it is None:
        return None
    if not 1 - changed / before_it > _LEAST_SHARE:
        return None
    share = 1 - _gain(changed, start) / before_it
    target = torch.cat([b[:, :, 1].flatten() for b in before]) * share**0.5
    features = torch.cat([a[1] for a in after])
    weight = model.last.weight
    readout = _readout(features, _before_softplus(target), weight[1])
    derived = [_with_width(prior, F.softplus(seen @ readout.flatten())) for prior, seen in after]
    own = score_priors((prior for prior, _ in after), clips)
    above, error = score_priors(derived, clips).loss_above(own)
    if above > _SURE * error:
        return None
    weight[1] = readout
    return share


def _with_width(prior: Tensor, width: Tensor) -> Tensor:
    """A prior (1, T, K, H, W) of one channel with another width, a value a pixel."""
    changed = prior.clone()
    changed[:, :, 1] = width.view_as(changed[:, :, 1])
    return changed


def _gain(changed: float, start: Start) -> float:
    """By how much the squared error fell: what the change lets expect, and what was measured."""
    expected, spread = (part * changed for part in _GAINED)
    if start.score is None or start.last is None:
        return expected
    measured, error = start.last.gain_over(start.score)
    weight = spread**2 / max(spread**2 + error**2, 1e-30)
    return min(max(expected + weight * (measured - expected), 0.0), changed)


def looked_at(path: FitPath, clip: Clip) -> tuple[Tensor, Tensor]:
    """Prior (1, T, K, H, W) of a clip of one crop, and the head's last features, a row a pixel."""
    return with_features(path.model, lambda: path.prior(clip, recorded=False))


def with_features(model: STBN, predict: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What `predict` makes with a model, and what its last layer was given, a row a pixel."""
    seen: list[Tensor] = []
    hook = model.last.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        prior = predict()
    finally:
        hook.remove()
    return prior, torch.cat(seen).permute(0, 2, 3, 1).flatten(0, 2)


def compared(
    model: STBN, before: Sequence[Tensor], after: Sequence[Tensor], clips: Sequence[Clip]
) -> tuple[float, float | None]:
    """Mean square of what a fit changed, and of the error that its start stated.

    Both as `_square_change` has it; the latter None where the network states none, or one for
    several channels together.
    """
    changes = [
        _square_change(b, a, clip.units).flatten()
        for b, a, clip in zip(before, after, clips, strict=True)
    ]
    config = model.config
    known = all(unit.noise is not None for clip in clips for unit in clip.units)
    stated = None
    if config.covariance and config.positive_factor and config.channels == 1 and known:
        widths = [
            b[:, :, 1].flatten() * clip.units[0].scaling.scale
            for b, clip in zip(before, clips, strict=True)
        ]
        stated = float(torch.cat(widths).square().mean())
    return float(torch.cat(changes).mean()), stated


def _square_change(before: Tensor, after: Tensor, units: Sequence[Units]) -> Tensor:
    """Squared change (N, T, H, W) of the prior mean, mean over channels, between two priors.

    In units of the noise; in network units without a noise model.
    """
    c = len(units)
    noises = [unit.noise for unit in units if unit.noise is not None]
    if len(noises) < c:
        return (after[:, :, :c] - before[:, :, :c]).square().mean(2)
    old, new = (prior_mean(prior, units) for prior in (before, after))
    variance = [noise.variance(new[:, :, i]) for i, noise in enumerate(noises)]
    return ((new - old).square() / torch.stack(variance, 2)).mean(2)


def _before_softplus(value: Tensor) -> Tensor:
    """What `softplus` makes this of."""
    raw: Tensor = value + torch.log(-torch.expm1(-value.clamp(min=1e-6)))
    return raw


def _readout(features: Tensor, target: Tensor, learnt: Tensor) -> Tensor:
    """Weights of a linear layer without bias that give the target, by ridge regression."""
    x, y = features.double(), target.double()
    gram = x.T @ x
    old = learnt.flatten().double()
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(old), dtype=x.dtype, device=x.device)
    solved = torch.linalg.solve(gram + ridge, x.T @ y + ridge @ old)
    weights: Tensor = solved.to(learnt.dtype).view_as(learnt)
    return weights
