"""A large movie in blocks of space and time, denoised apart and put together again.

The network is recurrent, so what a block lacks of its past and future changes it a little. How much
is left after a margin of frames and pixels is measured in ``docs/batch.md``; a whole movie that
one worker denoises (`napari_stbn.inference`) needs no margin and has no seam.
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

from .stack import Stack

__all__ = ["MARGIN_FRAMES", "MARGIN_PIXELS", "Block", "BlockStore", "cut", "plan_blocks"]

MARGIN_FRAMES = 12  # beyond them the seam no longer falls, see docs/batch.md
MARGIN_PIXELS = 32
_SHORTEST = 4 * MARGIN_FRAMES  # frames; shorter blocks would be margin for the greater part
_LARGEST_SIDE = 2048  # px; larger frames are split in space too
_AXES = "TYX"


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
    shape: tuple[int, int, int], count: int, *, side: int = _LARGEST_SIDE
) -> list[Block]:
    """Cut a movie in blocks, first in time, and in space where frames are very large.

    Parameters
    ----------
    shape : (frames, height, width)
    count : int
        Blocks that are wanted; there are fewer where they would be shorter than 48 frames.
    side : int [px]
        Frames higher or wider than this are cut in space.

    Returns
    -------
    list of Block
        Their cores hold each pixel once.
    """
    frames, height, width = shape
    length = math.ceil(frames / max(1, min(count, frames // _SHORTEST)))
    steps = (length, *(math.ceil(n / math.ceil(n / side)) for n in (height, width)))
    margins = (MARGIN_FRAMES, MARGIN_PIXELS, MARGIN_PIXELS)
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
    """What a block reads of a stack, in its axes."""
    return stack.like(stack.array[block.index(stack.axes, outer=True)])


class BlockStore:
    """Denoised blocks in a folder that all workers see, until the movie is put together.

    Parameters
    ----------
    folder : Path
        A Zarr group; made by `create`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, stack: Stack, blocks: Sequence[Block], names: Sequence[str]) -> None:
        """Make room for the results `names` of a stack, over what was there."""
        group = zarr.create_group(self.folder, overwrite=True)
        first = {axis: end for axis, (_, end) in zip(_AXES, blocks[0].core, strict=True)}
        sides = {**first, "T": 1}
        for name in names:
            group.create_array(
                name,
                shape=stack.shape,
                dtype=np.float32,
                chunks=tuple(sides.get(axis, 1) for axis in stack.axes),
                fill_value=float("nan"),
            )

    def put(
        self,
        block: Block,
        axes: str,
        denoised: NDArray[np.float32],
        uncertainty: NDArray[np.float32] | None,
    ) -> None:
        """Keep the core of a denoised block."""
        group = zarr.open_group(self.folder, mode="r+")
        for name, values in (("denoised", denoised), ("uncertainty", uncertainty)):
            if values is not None and name in group:
                array: Any = group[name]
                array[block.index(axes)] = values[block.local(axes)]

    def joined(self, name: str) -> Any:
        """All blocks of a result as one lazy array."""
        return zarr.open_group(self.folder, mode="r")[name]
