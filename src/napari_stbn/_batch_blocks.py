"""A large movie in blocks of space and time, denoised apart and put together again.

A fitted model sees a clip of frames at a time, block by block of frames (`napari_stbn.inference`).
Cuts in time lie between two of these, and the margins hold the clips around them, so that a cut in
time changes nothing. What a block lacks in space, or in time with a model that knows no clips
(released checkpoints), changes it a little; ``docs/batch.md`` says how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ._inference_plan import block_frames
from ._lazy import lazy_part
from .stack import Stack

__all__ = ["Block", "BlockStore", "Pace", "cut", "plan_blocks"]

MARGIN_FRAMES = 12  # at least; beyond them the seam of a model without clips no longer falls
MARGIN_PIXELS = 32
_SHORTEST = 48  # frames; shorter blocks would be margin for the greater part
_LARGEST_SIDE = 2048  # px; larger frames are split in space too
_PATCH = 4  # px: the network's patches have the same origin in every block
_CHUNK_BYTES = 2**22  # of the store, where a frame of a block takes no more
_AXES = "TYX"


@dataclass(frozen=True)
class Pace:
    """How a model goes through time, which cuts keep to.

    Attributes
    ----------
    step
        Frames that it denoises at once.
    margin
        Frames that a block reads on either side of those that it gives.
    shortest
        Frames of a block at least.
    """

    step: int = 1
    margin: int = MARGIN_FRAMES
    shortest: int = _SHORTEST

    @classmethod
    def of(cls, clip_frames: int | None) -> Pace:
        """Pace of a model that sees clips of so many frames; None sees the whole movie.

        Two steps of margin: one whose prediction the motion to the first frames is found on, and
        the rest of the clip around that.
        """
        if clip_frames is None:
            return cls()
        step = block_frames(clip_frames)
        margin = step * math.ceil(max(MARGIN_FRAMES, clip_frames) / step)
        return cls(step, margin, max(_SHORTEST, 3 * margin))


@dataclass(frozen=True)
class Block:
    """A part of a movie: along T, Y and X what it gives, and the more that it reads.

    Attributes
    ----------
    core, outer : tuple of (first, end) for T, Y and X
        From 0; the outer part is the core and its margins, as far as the movie goes.
    """

    core: tuple[tuple[int, int], ...]
    outer: tuple[tuple[int, int], ...]

    def index(self, axes: str, *, outer: bool = False) -> tuple[slice, ...]:
        """Place of the block, or of what it reads, in an array with these axes."""
        spans = dict(zip(_AXES, self.outer if outer else self.core, strict=True))
        return tuple(slice(*spans[axis]) if axis in spans else slice(None) for axis in axes)

    def local(self, axes: str) -> tuple[slice, ...]:
        """Place of the core in what was read."""
        spans = {
            axis: slice(first - start, end - start)
            for axis, (first, end), (start, _) in zip(_AXES, self.core, self.outer, strict=True)
        }
        return tuple(spans.get(axis, slice(None)) for axis in axes)


def plan_blocks(
    shape: tuple[int, int, int],
    count: int,
    pace: Pace | None = None,
    *,
    side: int = _LARGEST_SIDE,
) -> list[Block]:
    """Cut a movie in blocks, first in time, and in space where frames are very large.

    Parameters
    ----------
    shape : (frames, height, width)
    count : int
        Blocks that are wanted; there are fewer where they would be too short.
    pace : Pace, optional
        Of the model; one that sees the whole movie when None.
    side : int [px]
        Frames higher or wider than this are cut in space.

    Returns
    -------
    list of Block
        Their cores hold each pixel once.
    """
    frames, height, width = shape
    pace = pace or Pace()
    length = math.ceil(frames / max(1, min(count, frames // pace.shortest)))
    steps = (
        pace.step * math.ceil(length / pace.step),
        *(_PATCH * math.ceil(n / math.ceil(n / side) / _PATCH) for n in (height, width)),
    )
    margins = (pace.margin, MARGIN_PIXELS, MARGIN_PIXELS)
    spans = [
        [(first, min(first + step, size)) for first in range(0, size, step)]
        for size, step in zip(shape, steps, strict=True)
    ]
    blocks = []
    for core in ((t, y, x) for t in spans[0] for y in spans[1] for x in spans[2]):
        outer = tuple(
            (max(0, first - margin), min(end + margin, size))
            for (first, end), margin, size in zip(core, margins, shape, strict=True)
        )
        blocks.append(Block(core, outer))
    return blocks


def cut(stack: Stack, block: Block) -> Stack:
    """What a block reads of a stack, in its axes; nothing is read yet."""
    return stack.like(lazy_part(stack.array, block.index(stack.axes, outer=True)))


class BlockStore:
    """Denoised blocks in a folder that all workers see, until the movie is put together.

    Parameters
    ----------
    folder : Path
        A Zarr group; made by `create`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(
        self, stack: Stack, blocks: Sequence[Block], names: Sequence[str], pace: Pace
    ) -> None:
        """Make room for the results `names` of a stack, over what was there.

        No chunk belongs to two blocks, and a chunk holds no more frames than are written at once.
        """
        group = zarr.create_group(self.folder, overwrite=True)
        sides = {axis: end for axis, (_, end) in zip(_AXES, blocks[0].core, strict=True)}
        fitting = max(1, _CHUNK_BYTES // (4 * sides["Y"] * sides["X"]))
        sides["T"] = max(n for n in range(1, pace.step + 1) if pace.step % n == 0 and n <= fitting)
        for name in names:
            group.create_array(
                name,
                shape=stack.shape,
                dtype=np.float32,
                chunks=tuple(sides.get(axis, 1) for axis in stack.axes),
                fill_value=float("nan"),
            )

    def put(self, block: Block, stack: Stack) -> _Put:
        """Where the frames of a block go as they are denoised; `stack` is the whole movie."""
        return _Put(zarr.open_group(self.folder, mode="r+"), block, stack)

    def joined(self, name: str) -> Any:
        """All blocks of a result as one lazy array."""
        return zarr.open_group(self.folder, mode="r")[name]


class _Put:
    """Keeps the core of what was denoised of a block with its margins."""

    def __init__(self, group: zarr.Group, block: Block, stack: Stack) -> None:
        self._group, self._block, self._stack = group, block, stack
        self._order = ["TYX".index(axis) for axis in stack.axes if axis in _AXES]

    def __call__(
        self,
        channel: int,
        plane: int,
        start: int,
        mean: NDArray[np.float32],
        std: NDArray[np.float32] | None,
    ) -> None:
        """Keep frames (T', Y', X') of one movie, from frame `start` of what the block reads on."""
        first = self._block.outer[0][0] + start
        low, high = (min(max(at, first), first + len(mean)) for at in self._block.core[0])
        if high == low:
            return
        _, *inside = self._block.local(_AXES)
        _, rows, columns = self._block.index(_AXES)
        where = self._stack.index(channel, plane, T=slice(low, high), Y=rows, X=columns)
        for name, values in (("denoised", mean), ("uncertainty", std)):
            if values is not None and name in self._group:
                array: Any = self._group[name]
                core = values[(slice(low - first, high - first), *inside)]
                array[where] = core.transpose(self._order)
