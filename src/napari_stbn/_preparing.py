"""What a `Denoiser` gives to its preparation: choices, and what it knows of the channels."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import ArrayLike

from ._sampling import Sample, prepare_sample, scaling_pixels
from .correlation import CorrelationChoice, NoiseCorrelation
from .flow import FlowMethod
from .preparation import (
    KnownNoise,
    NoiseChoice,
    Phase,
    PreparedStack,
    measure_channels,
    prepare_stack,
)
from .stack import IntensityScaling, Stack

__all__ = ["Preparing", "as_stack", "measure_steps", "prepare_steps"]


@dataclass(frozen=True)
class Preparing:
    """How a stack is made ready.

    Attributes
    ----------
    noise, correlation, flow
        As in `napari_stbn.preparation.prepare_stack`; no flow where it is estimated later, on the
        model's own prediction.
    known_noise : mapping of int to noise model or None
    known_scaling : mapping of int to IntensityScaling
    known_correlation : mapping of int to NoiseCorrelation or None
        Of the channels that were measured before.
    """

    noise: NoiseChoice
    correlation: CorrelationChoice
    flow: FlowMethod
    known_noise: Mapping[int, KnownNoise]
    known_scaling: Mapping[int, IntensityScaling]
    known_correlation: Mapping[int, NoiseCorrelation | None]


def prepare_steps(
    how: Preparing, stack: Stack, joint: bool, sample: Sample | None = None
) -> Generator[tuple[Phase, float], None, PreparedStack]:
    """Prepare a stack, or parts of it where a sample says which; yields the phase and its part."""
    choices: dict[str, Any] = {
        "joint": joint,
        "noise": how.noise,
        "flow": how.flow,
        "known_noise": how.known_noise,
        "known_scaling": how.known_scaling,
        "correlation": how.correlation,
        "known_correlation": how.known_correlation,
    }
    if sample is None:
        return prepare_stack(stack, **choices)
    return prepare_sample(stack, sample, **choices)


def measure_steps(
    how: Preparing, stack: Stack, notes: Sequence[str], memory: int
) -> Generator[tuple[Phase, float], None, PreparedStack]:
    """Measure the channels of a stack that is not prepared as a whole.

    Parameters
    ----------
    how : Preparing
    stack : Stack
    notes : sequence of str
        Sentences that are known already.
    memory : int [bytes]
        That may be taken.

    Yields
    ------
    (phase, fraction)

    Returns
    -------
    PreparedStack
        Without movies.
    """
    known = PreparedStack(
        stack,
        {},
        dict(how.known_noise),
        dict(how.known_scaling),
        list(notes),
        dict(how.known_correlation),
    )
    yield from measure_channels(known, how.noise, how.correlation, scaling_pixels(memory))
    return known


def as_stack(data: Stack | ArrayLike, axes: str | None) -> Stack:
    """A stack as it is; a bare array with its axes."""
    if isinstance(data, Stack):
        if axes is not None and axes != data.axes:
            raise ValueError(
                f"this stack has axes {data.axes}, got axes={axes!r}; "
                "give axes to Stack() or read() instead"
            )
        return data
    return Stack(cast("Any", data), axes)
