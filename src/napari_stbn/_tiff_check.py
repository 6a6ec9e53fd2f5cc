"""Whether a TIFF file is all there: its pages, their tags and their pixels."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

_TYPE_BYTES: Final = np.zeros(65536, np.int64)
"""Bytes of one value of each TIFF type; 0 for types that are not known."""
_TYPE_BYTES[[1, 2, 6, 7]] = 1
_TYPE_BYTES[[3, 8]] = 2
_TYPE_BYTES[[4, 9, 11, 13]] = 4
_TYPE_BYTES[[5, 10, 12, 16, 17, 18]] = 8
_PRIVATE: Final = 32768  # programs put what they like into tags from here on
_OFFSETS: Final = (273, 324)  # where the strips or tiles of a page begin
_COUNTS: Final = (279, 325)  # how many bytes each has


class CutOffError(ValueError):
    """A file has lost its end."""


@dataclass(frozen=True)
class _Layout:
    """How a file writes its numbers: byte order, and widths of classic TIFF or BigTIFF."""

    order: str
    big: bool

    @property
    def pointer(self) -> str:
        """Format of an offset."""
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        """Format of the number of tags of a page."""
        return self.order + ("Q" if self.big else "H")

    @property
    def tag(self) -> np.dtype[Any]:
        """One tag: its number, type, number of values, and their place or the values."""
        wide, order = ("u8" if self.big else "u4"), self.order
        return np.dtype(
            {
                "names": ["tag", "type", "count", "value"],
                "formats": [order + kind for kind in ("u2", "u2", wide, wide)],
            }
        )


def check_complete(path: Path) -> None:
    """Raise unless the chain of pages ends inside the file, and all tags and pixels with it.

    Parameters
    ----------
    path : Path
        An existing file.

    Raises
    ------
    ValueError
        The file is no TIFF, or it ends before its last page does. tifffile would return the
        pages that are there, or zeros.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        layout, offset = _header(file)
        seen: set[int] = set()
        while offset:
            if offset in seen:
                raise ValueError("its pages run in a circle")
            seen.add(offset)
            tags, offset = _page(file, offset, layout)
            _check_page(file, tags, layout, size)
    if not seen:
        raise ValueError("it holds no page")


def check_one_page(path: Path, claimed: int, offset: int, frame_bytes: int) -> None:
    """Raise where frames that follow each other behind one page, as ImageJ writes them, lack.

    Parameters
    ----------
    path : Path
    claimed : int
        Frames that the description names.
    offset : int
        Where the first one begins [bytes].
    frame_bytes : int

    Raises
    ------
    CutOffError
        Something follows the first frame, and not all of them are whole. A file that ends with its
        first frame is one frame with a description of more.
    """
    whole, rest = divmod(path.stat().st_size - offset, max(1, frame_bytes))
    if whole < claimed and (whole > 1 or rest):
        raise CutOffError(
            f"{path} is cut off: its description names {claimed} frames and {whole} of them are "
            "whole; copy it again from its source, or save what Fiji still shows of it."
        )


def _header(file: BinaryIO) -> tuple[_Layout, int]:
    """Layout of the file and the place of its first page."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) >= 8 else 0
    if order is None or version not in (42, 43):
        raise ValueError("it does not begin as a TIFF file does")
    layout = _Layout(order, big=version == 43)
    at = 8 if layout.big else 4
    if len(head) < at + struct.calcsize(layout.pointer):
        raise ValueError("it ends in its header")
    return layout, int(struct.unpack_from(layout.pointer, head, at)[0])


def _page(file: BinaryIO, offset: int, layout: _Layout) -> tuple[npt.NDArray[Any], int]:
    """Tags of the page at `offset`, and the place of the next page, 0 after the last."""
    file.seek(offset)
    (count,) = struct.unpack(layout.count, _read(file, struct.calcsize(layout.count)))
    tags = np.frombuffer(_read(file, count * layout.tag.itemsize), layout.tag)
    (following,) = struct.unpack(layout.pointer, _read(file, struct.calcsize(layout.pointer)))
    return tags, int(following)


def _check_page(file: BinaryIO, tags: npt.NDArray[Any], layout: _Layout, size: int) -> None:
    """Raise unless the tags of a page and its pixels lie in a file of `size` bytes."""
    lengths = _TYPE_BYTES[tags["type"]] * tags["count"].astype(np.int64)
    apart = (lengths > layout.tag["value"].itemsize) & (tags["tag"] < _PRIVATE)
    ends = tags["value"][apart].astype(np.int64) + lengths[apart]
    if (ends > size).any():
        raise ValueError(f"it ends after {size} bytes and its description needs {ends.max()}")
    offsets, counts = _values(file, tags, layout, _OFFSETS), _values(file, tags, layout, _COUNTS)
    if len(offsets) and len(offsets) == len(counts) and (end := (offsets + counts).max()) > size:
        raise ValueError(f"it ends after {size} bytes and its pixels need {end}")


def _values(
    file: BinaryIO, tags: npt.NDArray[Any], layout: _Layout, numbers: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Integers that the first tag of one of these numbers holds; none without such a tag."""
    (found,) = np.nonzero(np.isin(tags["tag"], numbers) & (_TYPE_BYTES[tags["type"]] > 0))
    if not len(found):
        return np.empty(0, np.int64)
    entry = tags[found[:1]]  # an array of one: a scalar would forget the byte order
    width = int(_TYPE_BYTES[entry["type"][0]])
    length = width * int(entry["count"][0])
    if length > layout.tag["value"].itemsize:
        file.seek(int(entry["value"][0]))
        raw = _read(file, length)
    else:
        raw = entry["value"].tobytes()[:length]
    return np.frombuffer(raw, f"{layout.order}u{width}").astype(np.int64)


def _read(file: BinaryIO, length: int) -> bytes:
    """Read exactly so many bytes; a damaged count must not take the memory of the machine."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    raw = file.read(length) if 0 <= length <= left else b""
    if len(raw) < length or length < 0:
        raise ValueError("it ends before its last page")
    return raw
