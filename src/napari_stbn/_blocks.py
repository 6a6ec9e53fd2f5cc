"""Read a stack piece by piece, in the order in which a file wants it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_stbn.stack import Stack

_BLOCK_BYTES: Final = 2**27  # held in memory at a time of a stack that may be too large to load


def blocks(
    stack: Stack, axes: str, *, whole: int = 1, multiples: Mapping[str, int] | None = None
) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
    """Read a stack in blocks of about 128 MiB, whatever the order of its own axes.

    Parameters
    ----------
    stack : Stack
        In memory or lazy; not empty.
    axes : str
        The letters of the stack's axes in the order wanted.
    whole : int
        Number of axes at the end of `axes` that no block splits.
    multiples : mapping of str to int, optional
        Blocks split these axes only at multiples (a file's chunks); 1 for the others.

    Yields
    ------
    where : tuple of slice
        The block's place along `axes`. The places follow each other in C order as long as no
        `multiples` are given.
    block : ndarray
        In the order of `axes`, C contiguous and in native byte order.
    """
    order = [stack.axes.index(axis) for axis in axes]
    shape = [stack.size(axis) for axis in axes]
    steps = list(shape)
    for i, axis in enumerate(axes[: len(axes) - whole]):
        inner = stack.dtype.itemsize * math.prod(steps[i + 1 :])
        multiple = (multiples or {}).get(axis, 1)
        steps[i] = min(shape[i], max(1, _BLOCK_BYTES // inner // multiple) * multiple)
        if steps[i] * inner <= _BLOCK_BYTES:
            break
    starts = [range(0, length, step) for length, step in zip(shape, steps, strict=True)]
    for corner in itertools.product(*starts):
        where = tuple(
            slice(start, min(start + step, length))
            for start, step, length in zip(corner, steps, shape, strict=True)
        )
        own = tuple(where[axes.index(axis)] for axis in stack.axes)
        block = np.asarray(stack.array[own]).transpose(order)
        yield where, np.ascontiguousarray(block, dtype=stack.dtype)


def pages(stack: Stack, axes: str) -> Iterator[npt.NDArray[Any]]:
    """Read a stack page by page, (Y, X) or (Y, X, S), in the C order of `axes`."""
    page_ndim = len(axes) - axes.index("Y")
    for _, block in blocks(stack, axes, whole=page_ndim):
        yield from block.reshape(-1, *block.shape[block.ndim - page_ndim :])
