"""Whether the chunks of a Zarr array are there."""

from __future__ import annotations

from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Final

from napari_stbn._words import counted

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

__all__ = ["absent_frames"]

_MOST: Final = 10_000  # chunks that are looked for: a second, more on a drive of the network


def absent_frames(array: zarr.Array[Any], root: Path, axes: str) -> str:
    """What is said of frames whose chunks are not all in the folder; empty where they are.

    Zarr reads a chunk that is absent as one of zeros, and other programs leave out those that hold
    nothing else: so this is said, and no error.

    Parameters
    ----------
    array : zarr.Array
    root : Path
        The folder that was opened.
    axes : str
        Letters of the axes of the array.
    """
    sides = array.shards or array.chunks
    counts = [ceil(length / side) for length, side in zip(array.shape, sides, strict=True)]
    places = [range(1 if axis in "YXS" else n) for axis, n in zip(axes, counts, strict=True)]
    parts = [range(n if axis in "YXS" else 1) for axis, n in zip(axes, counts, strict=True)]
    if not 0 < prod(counts) <= _MOST:
        return ""
    folder = root / array.path
    touched = whole = 0
    for place in product(*places):
        keys = (tuple(map(sum, zip(place, part, strict=True))) for part in product(*parts))
        there = [(folder / array.metadata.encode_chunk_key(key)).exists() for key in keys]
        if not all(there):
            frames = prod(
                min(side, length - at * side)
                for axis, at, side, length in zip(axes, place, sides, array.shape, strict=True)
                if axis not in "YXS"
            )
            touched += frames
            whole += 0 if any(there) else frames
    if not touched:
        return ""
    lost = "whole" if whole == touched else f"{whole} whole" if whole else "none whole"
    return (
        f"Pixels of {counted(touched, 'frame')} ({lost}) are not in the folder and read as "
        f"{array.fill_value}; was it copied completely?"
    )
