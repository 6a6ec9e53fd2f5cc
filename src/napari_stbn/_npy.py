"""Numpy's own files, read and written piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_stbn._blocks import blocks
from napari_stbn._raw_file import RawFile
from napari_stbn.stack import Stack

__all__ = ["create_npy", "read_npy", "write_npy"]


def read_npy(path: Path, axes: str | None, name: str) -> Stack:
    """Open a ``.npy`` file."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # numpy parses the header as Python and lets its errors through
        raise ValueError(
            f"{path} cannot be read as .npy: {' '.join(str(error).split()).rstrip('.')}. Is it "
            "truncated, another format, or an array of objects? Save it again with numpy.save."
        ) from error
    if not mapped.flags.c_contiguous:  # columns first, or nothing to be read
        return Stack(mapped, axes, name=name)
    return Stack(RawFile(path, mapped.offset, mapped.shape, mapped.dtype), axes, name=name)


def create_npy(path: Path, outline: Stack) -> RawFile:
    """An array of zeros in a file."""
    header = {
        "descr": np.lib.format.dtype_to_descr(outline.dtype),
        "fortran_order": False,
        "shape": outline.shape,
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        file.truncate(offset + outline.nbytes)
    return RawFile(path, offset, outline.shape, outline.dtype)


def write_npy(path: Path, stack: Stack) -> None:
    """Write the bare array, block by block."""
    array = create_npy(path, stack)
    for where, block in blocks(stack, stack.axes):
        array.write(where, block)
