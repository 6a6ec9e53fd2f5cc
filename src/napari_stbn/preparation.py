"""A raw movie made ready for the network: defects set aside, noise known.

Intensities in network units, flow in both directions.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._filling import fill_defects, read_filled, recorded_frames, said_of
from ._generators import relay
from ._measuring import measure_channels, network_scaling, share
from ._motion_image import image_of_channels
from ._prepared import Index, KnownNoise, NoiseChoice, Phase, PreparedMovie, PreparedStack
from .correlation import CorrelationChoice, NoiseCorrelation
from .flow import Flow, FlowMethod, measured_flow
from .noise import NoiseModel
from .prior import Units
from .stack import IntensityScaling, Stack

__all__ = [
    "Index",
    "KnownNoise",
    "NoiseChoice",
    "Phase",
    "PreparedMovie",
    "PreparedStack",
    "fill_defects",
    "measure_channels",
    "movie_groups",
    "network_inputs",
    "network_scaling",
    "prepare_movie",
    "prepare_stack",
    "read_filled",
    "recorded_frames",
    "said_of",
]


def prepare_movie(
    channels: Sequence[NDArray[np.float32]],
    valid: NDArray[np.bool_],
    noise: Sequence[NoiseModel | None],
    scalings: Sequence[IntensityScaling] | None,
    flow: Flow,
) -> PreparedMovie:
    """Put a movie's channels into network units.

    Parameters
    ----------
    channels : sequence of C ndarrays, shape (T, Y, X), float32 [user's units]
        From `fill_defects`.
    valid : ndarray of bool, shape (T, Y, X)
        Pixels that were measured in every channel.
    noise : sequence of C noise models or None
    scalings : sequence of C IntensityScaling, optional
        Of the stabilised movie; fitted when None.
    flow : Flow
        Of the movie, both directions.

    Returns
    -------
    PreparedMovie
    """
    # (T, C, Y, X), without a copy where there is one channel
    stacked = np.stack(channels, 1) if len(channels) > 1 else channels[0][:, None]
    intensities = torch.from_numpy(stacked)
    units = []
    for c, model in enumerate(noise):
        if scalings is None:
            stable = intensities[:, c] if model is None else model.stabilize(intensities[:, c])
            units.append(Units(model, network_scaling(stable.numpy())))
        else:
            units.append(Units(model, scalings[c]))
    return PreparedMovie(
        intensities=intensities,
        inputs=network_inputs(intensities, units),
        valid=torch.from_numpy(valid)[:, None],
        flow_to_previous=torch.from_numpy(flow.to_previous),
        flow_to_next=torch.from_numpy(flow.to_next),
        units=tuple(units),
    )


def network_inputs(intensities: Tensor, units: Sequence[Units]) -> Tensor:
    """Intensities (T, C, Y, X) in network units; frame by frame, so that all stays in the cache."""
    inputs = torch.empty_like(intensities)
    for noisy, frame in zip(intensities, inputs, strict=True):
        for c, unit in enumerate(units):
            frame[c] = unit.to_network(noisy[c])
    return inputs


def prepare_stack(
    stack: Stack,
    *,
    joint: bool,
    noise: NoiseChoice,
    flow: FlowMethod,
    known_noise: Mapping[int, KnownNoise],
    known_scaling: Mapping[int, IntensityScaling],
    correlation: CorrelationChoice = "off",
    known_correlation: Mapping[int, NoiseCorrelation | None] | None = None,
) -> Generator[tuple[Phase, float], None, PreparedStack]:
    """Measure the noise of every channel, the flow of every movie, and convert to network units.

    Parameters
    ----------
    stack : Stack
    joint : bool
        Channels are denoised together and share one flow.
    noise : {"estimate", "gaussian"} or noise model or None
        How to know the noise of a channel that is not in `known_noise`.
    flow : str
        Method of `napari_stbn.flow.estimate_flow`.
    known_noise, known_scaling : mapping of int to noise model and IntensityScaling
        Of channels already measured, such as by the fit of a loaded model.
    correlation : {"auto", "off"}, default "off"
        Whether to look for noise that pixels share in a channel that is not in `known_noise`, and
        to make it independent.
    known_correlation : mapping of int to NoiseCorrelation or None, optional
        That of the channels in `known_noise`.

    Yields
    ------
    (phase, fraction)
        After each channel and each pair of frames.

    Returns
    -------
    PreparedStack

    Raises
    ------
    ValueError
        If a movie cannot be denoised.
    """
    stack.check()
    prepared = PreparedStack(
        stack,
        {},
        dict(known_noise),
        dict(known_scaling),
        correlation=dict(known_correlation or {}),
    )
    yield from measure_channels(prepared, noise, correlation)
    groups = movie_groups(stack, joint)
    for number, (key, members) in enumerate(groups.items()):
        filled, valid = read_filled(prepared, members)
        units = [Units(prepared.noise[c], prepared.scaling[c]) for c, _ in members]
        choice, leader = None, prepared.leader(key)
        if leader is not None:
            both = Flow(leader.flow_to_previous.numpy(), leader.flow_to_next.numpy())
        else:
            both, choice = yield from relay(
                measured_flow(image_of_channels(filled, units), flow),
                partial(share, "flow", number, len(groups)),
            )
        if choice is not None:
            prepared.choices[key] = choice
        models = [prepared.noise[c] for c, _ in members]
        scalings = [prepared.scaling[c] for c, _ in members]
        prepared.movies[key] = prepare_movie(filled, valid, models, scalings, both)
    return prepared


def movie_groups(stack: Stack, joint: bool) -> dict[Index, list[Index]]:
    """What is denoised together: (channel, plane) of the movies, under that of the first."""
    groups: dict[Index, list[Index]] = {}
    for channel, plane in stack.indices():
        groups.setdefault((0 if joint else channel, plane), []).append((channel, plane))
    return groups
