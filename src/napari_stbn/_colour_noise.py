"""Noise of colour samples, as it follows from the noise of their components."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ._colour_basis import Law
from ._colour_stack import ColourStack
from ._prepared import KnownNoise, PreparedStack
from .correlation import NoiseCorrelation
from .noise import GaussianNoise, PoissonGaussianNoise
from .prior import Units

__all__ = ["channel_correlation", "channel_noise"]


def channel_noise(prepared: PreparedStack) -> dict[int, KnownNoise]:
    """Noise of each channel of a user's stack as recorded; of colours, that of each sample."""
    noise, stack = prepared.pixel_noise(), prepared.stack
    if not isinstance(stack, ColourStack):
        return noise
    found: dict[int, KnownNoise] = {}
    for colour, basis in enumerate(stack.bases):
        own = stack.components_of(colour)
        variances = [_middle(noise[n], Units(noise[n], prepared.scaling[n])) for n in own]
        for s, law in enumerate(basis.laws):
            weights = [basis.rows[stack.components[n][1]][s] for n in own]
            known = [w * w * v for w, v in zip(weights, variances, strict=True) if v is not None]
            complete = len(known) == len(own) and sum(known) > 0
            variance = sum(known) if complete else None
            found[colour * len(basis.rows) + s] = _of_sample(variance, law)
    return found


def channel_correlation(prepared: PreparedStack) -> dict[int, NoiseCorrelation | None]:
    """Noise that pixels share in each channel of a user's stack; of colours, as in brightness."""
    stack = prepared.stack
    if not isinstance(stack, ColourStack):
        return dict(prepared.correlation)
    samples = stack.size("S")
    return {
        colour * samples + s: prepared.correlation.get(stack.components_of(colour)[0])
        for colour in range(len(stack.bases))
        for s in range(samples)
    }


def _middle(noise: KnownNoise, units: Units) -> float | None:
    """Variance of the noise of a component, in the middle of its intensities."""
    if noise is None:
        return None
    middle = units.to_intensity(torch.zeros(1, dtype=torch.float64))
    return float(noise.variance(middle))


def _of_sample(variance: float | None, law: Law | None) -> KnownNoise:
    """Noise of a sample whose noise has this variance where its law has made it even."""
    if variance is None:
        return None  # without noise, or not known
    if law is None:
        return GaussianNoise(math.sqrt(variance))
    if isinstance(law, PoissonGaussianNoise):
        read_noise = law.read_noise / math.sqrt(variance)
        return replace(law, gain=law.gain * variance, read_noise=read_noise)
    return replace(law, variances=tuple(variance * v for v in law.variances))
