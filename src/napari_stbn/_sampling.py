"""Parts of a stack that is too large to be prepared as a whole, for a fit to learn from."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ._generators import relay
from ._lazy import chunk_lengths
from ._measuring import share
from ._motion_image import image_of_channels
from .correlation import CorrelationChoice, NoiseCorrelation
from .flow import Flow, FlowMethod, whole_flow
from .preparation import (
    Index,
    KnownNoise,
    NoiseChoice,
    Phase,
    PreparedMovie,
    PreparedStack,
    fill_defects,
    measure_channels,
    movie_groups,
    prepare_movie,
    read_filled,
)
from .prior import Units
from .stack import IntensityScaling, MovieDefects, Stack

if TYPE_CHECKING:
    from .training import TrainingConfig

__all__ = ["BYTES_A_PIXEL", "Sample", "SampledStack", "prepare_sample", "scaling_pixels"]

BYTES_A_PIXEL = 40
"""Of a part: what `PreparedMovie` holds, its masks, and what preparing it takes on the way."""
_FRAMES, _SIDE = 16, 192  # of a part: twice a clip's frames, six times its side
_SMALLEST_SIDE = 64  # px: the blocks that are held out of the fit are as large
_FEWEST = 8  # parts; their sides are halved where as many would not fit
_TRIES = 10  # places that are looked at for one part: some hold nothing
_SCALING_BYTES = 64  # that a pixel takes while the scaling is measured on it
Extent = tuple[int, int, int]  # along frames, rows, columns
_FEWEST_PIXELS, _MOST_PIXELS = 2**22, 2**24  # of all parts, if there is memory for them
_REPEATS = 4  # times that a fit sees each pixel of them at least
_STEPS_A_SECOND = 10  # guessed, where a time budget ends the fit
_SHARE = 3  # of the memory limit: one part in so many is the parts'
_LOOK_REACH = 2  # frames before and after one that is looked at


@dataclass(frozen=True)
class SampledStack(PreparedStack):
    """Parts of a large stack.

    Attributes
    ----------
    movies : dict of (channel, plane, number) to PreparedMovie
        The parts.
    joint : bool
        Channels are together.
    """

    joint: bool = field(kw_only=True)

    def around(
        self, key: Index, frame: int, rows: slice, columns: slice
    ) -> tuple[PreparedMovie, int]:
        """Read one frame and its neighbours; their motion is left out."""
        first = max(0, frame - _LOOK_REACH)
        frames = slice(first, min(frame + _LOOK_REACH + 1, self.stack.n_frames))
        members = movie_groups(self.stack, self.joint)[key]
        channels = []
        for channel, plane in members:
            movie = self.stack.movie(channel, plane, frames=frames, rows=rows, columns=columns)
            missing = ~np.isfinite(movie) if movie.dtype.kind == "f" else None
            defects = MovieDefects(missing, None, (), 0.0, None)
            channels.append(fill_defects(movie, defects, self.correlation.get(channel))[0])
        t, height, width = channels[0].shape
        none = np.zeros((t - 1, 2, height, width), np.float32)
        valid = np.ones((t, height, width), bool)
        return _put_together(self, members, channels, valid, Flow(none, none)), frame - first


@dataclass(frozen=True)
class Sample:
    """Which parts of a stack a fit looks at.

    Attributes
    ----------
    count
        Parts.
    shape
        Frames, height and width of each [px].
    seed
        Of their places: with the same one they are the same.
    memory
        Bytes that the run may take.
    reason
        Why not all of the stack, as the beginning of a sentence.
    """

    count: int
    shape: Extent
    seed: int
    memory: int
    reason: str = "The stack is larger than the memory it may take"

    @classmethod
    def of(
        cls,
        stack: Stack,
        joint: bool,
        memory: int,
        fit: TrainingConfig,
        seed: int,
        limit: int | None = None,
    ) -> Sample:
        """Choose the parts: enough for the length of a fit, as far as they fit into memory.

        Of no more than `limit` pixels; `TrainingConfig.sampled_pixels` overrules both.
        """
        steps = fit.max_steps
        if fit.time_budget is not None:
            steps = min(steps, int(_STEPS_A_SECOND * fit.time_budget))
        drawn = steps * fit.batch * fit.clip_frames * fit.clip_size**2
        pixels = max(_FEWEST_PIXELS, min(_MOST_PIXELS, drawn // _REPEATS))
        pixels = fit.sampled_pixels or min(pixels, limit or pixels)
        channels = stack.n_channels if joint else 1
        pixels = max(1, min(pixels, memory // _SHARE // BYTES_A_PIXEL // channels))
        side, frames = _SIDE, min(max(_FRAMES, fit.clip_frames), stack.n_frames)
        while True:
            height, width = (min(side, length) for length in stack.frame_shape)
            count = pixels // (frames * height * width)
            if count >= _FEWEST or side <= _SMALLEST_SIDE:
                if count < 1:  # too little memory for one part: of fewer frames, then
                    least = min(_FRAMES, stack.n_frames)
                    frames = max(least, min(frames, pixels // (height * width)))
                return cls(max(1, count), (frames, height, width), seed, memory)
            side = max(_SMALLEST_SIDE, side // 2)

    @property
    def pixels(self) -> int:
        """Of all parts, in one channel."""
        return self.count * math.prod(self.shape)

    def outline(self, stack: Stack) -> Stack:
        """A stack of the size of all parts, which takes no memory."""
        frames, height, width = self.shape
        pixel = np.zeros((), stack.dtype)
        return Stack(np.broadcast_to(pixel, (self.count * frames, height, width)), "TYX")


def scaling_pixels(memory: int) -> int:
    """Pixels that the scaling of a large stack is measured on, where so many bytes may be taken."""
    return max(2**18, min(2**23, memory // _SCALING_BYTES))


def prepare_sample(
    stack: Stack,
    sample: Sample,
    *,
    joint: bool,
    noise: NoiseChoice,
    flow: FlowMethod,
    known_noise: Mapping[int, KnownNoise],
    known_scaling: Mapping[int, IntensityScaling],
    correlation: CorrelationChoice = "off",
    known_correlation: Mapping[int, NoiseCorrelation | None] | None = None,
) -> Generator[tuple[Phase, float], None, SampledStack]:
    """Prepare parts of a stack, at random places; what lies between them is not read.

    Parameters
    ----------
    stack, joint, noise, flow, known_noise, known_scaling, correlation, known_correlation
        As in `napari_stbn.preparation.prepare_stack`.
    sample : Sample

    Yields
    ------
    (phase, fraction)

    Returns
    -------
    SampledStack

    Raises
    ------
    ValueError
        If nothing that was looked at can be denoised.
    """
    stack.check()
    prepared = SampledStack(
        stack,
        {},
        dict(known_noise),
        dict(known_scaling),
        correlation=dict(known_correlation or {}),
        joint=joint,
    )
    yield from measure_channels(prepared, noise, correlation, scaling_pixels(sample.memory))
    generator = torch.Generator().manual_seed(sample.seed)
    groups = list(movie_groups(stack, joint).values())
    count, shape = sample.count, sample.shape
    where = _Places(stack, shape, generator)
    said = list(prepared.notes)
    for number in range(count):
        # The channels in turn, each at a plane that chance chooses
        channels = sorted({members[0][0] for members in groups})
        turn = [m for m in groups if m[0][0] == channels[number % len(channels)]]
        members, filled, valid = _one_that_holds_something(prepared, turn, where)
        units = [Units(prepared.noise[c], prepared.scaling[c]) for c, _ in members]
        both = yield from relay(
            whole_flow(image_of_channels(filled, units), flow),
            partial(share, "flow", number, count),
        )
        part = _put_together(prepared, members, filled, valid, both)
        prepared.movies[(*members[0], number)] = part
    # What was found in the parts is less than what is found when all frames are read.
    prepared.notes[:] = said
    prepared.notes.append(
        f"{sample.reason}: the fit learnt from {count} parts of {shape[0]} frames of {shape[1]} x "
        f"{shape[2]} pixels, at random places."
    )
    return prepared


class _Places:
    """Draws places of parts, within as few stored pieces (chunks) as they fit into.

    Parameters
    ----------
    stack : Stack
    shape : (frames, height, width)
    generator : torch.Generator
    """

    def __init__(self, stack: Stack, shape: Extent, generator: torch.Generator) -> None:
        self._generator = generator
        chunks = chunk_lengths(stack)
        whole = (stack.n_frames, *stack.frame_shape)
        self._axes = [
            (n, each, chunks.get(a, 1)) for a, n, each in zip("TYX", whole, shape, strict=True)
        ]

    def integer(self, below: int) -> int:
        """Random integer from 0 to `below` - 1."""
        return int(torch.randint(below, (), generator=self._generator))

    def draw(self) -> tuple[slice, slice, slice]:
        """Frames, rows and columns of a part."""
        frames, rows, columns = (
            slice(start, start + n) for start, n in map(self._start, self._axes)
        )
        return frames, rows, columns

    def _start(self, axis: Extent) -> tuple[int, int]:
        """Where a part begins along an axis, and its length."""
        length, part, chunk = axis
        start = self.integer(length - part + 1)
        if chunk >= part:  # into one chunk: the one that holds the first position
            first = start // chunk * chunk
            start = min(start, max(first, min(first + chunk, length) - part))
        else:
            start -= start % chunk
        return start, part


def _one_that_holds_something(
    prepared: SampledStack, groups: Sequence[list[Index]], where: _Places
) -> tuple[list[Index], list[NDArray[np.float32]], NDArray[np.bool_]]:
    """A part with something to learn from: its movie, its channels, its measured pixels."""
    for _ in range(_TRIES):
        members = groups[where.integer(len(groups))]
        frames, rows, columns = where.draw()
        try:
            return members, *read_filled(
                prepared, members, frames=frames, rows=rows, columns=columns
            )
        except ValueError as error:  # blank there
            said = error
    raise said


def _put_together(
    prepared: PreparedStack,
    members: Sequence[Index],
    channels: Sequence[NDArray[np.float32]],
    valid: NDArray[np.bool_],
    flow: Flow,
) -> PreparedMovie:
    """A part in network units."""
    models = [prepared.noise[c] for c, _ in members]
    scalings = [prepared.scaling[c] for c, _ in members]
    return prepare_movie(channels, valid, models, scalings, flow)
