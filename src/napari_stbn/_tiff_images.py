"""Which images a TIFF file or a set of them holds, where their pixels lie, and what is missing."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tifffile

from napari_stbn._scenes import scenes_note
from napari_stbn._tiff_check import check_complete
from napari_stbn._words import counted

__all__ = [
    "RawPlace",
    "check_images",
    "check_set",
    "files_of",
    "frames_notes",
    "images_here",
    "images_note",
    "quiet_tifffile",
    "raw_place",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawPlace:
    """Where an image lies in one piece: its file, the first byte, and the order of bytes."""

    path: Path
    offset: int
    order: Literal["<", ">"]


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep what tifffile says of a file from the terminal; it is among our messages for debugging.

    It says so for each of our accesses, and what matters of it is among our own notes.
    """

    def hear(record: logging.LogRecord) -> bool:
        _logger.debug("tifffile: %s", record.getMessage())
        return False

    theirs = logging.getLogger("tifffile")
    theirs.addFilter(hear)
    try:
        yield
    finally:
        theirs.removeFilter(hear)


def images_here(tif: tifffile.TiffFile) -> list[int]:
    """Numbers of the images of which this file holds frames.

    A file of an OME-TIFF set describes all images of the set, such as the positions of a stage. One
    that holds nothing but the description stands for all.
    """
    own = Path(tif.filehandle.path).resolve()
    here = [n for n, series in enumerate(tif.series) if own in files_of(series)]
    return here or list(range(len(tif.series)))


def files_of(series: tifffile.TiffPageSeries) -> set[Path]:
    """Files that the frames of an image lie in."""
    parents = {id(page.parent): page.parent for page in _pages(series) if page is not None}
    return {Path(parent.filehandle.path).resolve() for parent in parents.values()}


def images_note(scene: int | None, count: int, here: int, read: int) -> str:
    """What is said of a file that holds several images, or belongs to others that do."""
    if here == count:
        return scenes_note(scene, count, read, "largest")
    if scene is not None:
        return ""
    which = "the one" if here == 1 else f"the largest of the {here}"
    return (
        f"The file belongs to a set with {count} images; {which} of this file was read "
        f"(scene {read})."
    )


def raw_place(series: tifffile.TiffPageSeries) -> RawPlace | None:
    """Where an image lies in one piece; None where it does not.

    Raises
    ------
    ValueError
        If the file ends before that piece does.
    """
    files = files_of(series)
    if series.dataoffset is None or len(files) != 1:
        return None
    (path,) = files
    if series.dataoffset + series.nbytes > path.stat().st_size:
        raise ValueError("it ends before its pixels do")
    return RawPlace(path, series.dataoffset, series.keyframe.aspage().parent.byteorder)


def check_images(tif: tifffile.TiffFile, path: Path) -> None:
    """Raise where ImageJ wrote all frames in one piece, and the file ends within them.

    Such a file has one page, and tifffile takes that for all of it.
    """
    told = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    pages = len(tif.pages)
    if pages != 1 or not isinstance(told, int) or told < 2:
        return
    page = tif.pages.first
    there = (path.stat().st_size - page.dataoffsets[0]) // max(page.nbytes, 1)
    if there < told:
        raise ValueError(f"it is described as {told} frames, and {there} of them are there whole")


def check_set(path: Path) -> None:
    """Raise where another file of an OME-TIFF set is cut off; those that are not there are zeros.

    Raises
    ------
    ValueError
        With the name of that file.
    """
    with tifffile.TiffFile(path) as tif:
        described = tif.pages.first.aspage().description if tif.is_ome else ""
    for name in sorted(set(re.findall(r'FileName="([^"/\\]+)"', described)) - {path.name}):
        other = path.parent / name
        try:
            if other.is_file():
                check_complete(other)
        except (ValueError, struct.error) as error:
            raise ValueError(f"{name}, a file of the same set, is damaged: {error}") from error


def frames_notes(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[str]:
    """What is said where the frames in a file are not those that it describes."""
    notes = []
    if missing := sum(page is None for page in _pages(series)):
        are = "is" if missing == 1 else "are"
        notes.append(f"{counted(missing, 'frame')} {are} not in the file: zeros stand there.")
    if tif.is_ome and not series.is_multifile:
        described = sum(len(each) for each in tif.series) - missing
        more = len(tif.pages) - described
        if more > 0:
            more_frames = counted(more, "frame")
            notes.append(
                f"The file holds {more_frames} more than it describes, which are not read."
            )
    return notes


def _pages(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPage | tifffile.TiffFrame | None]:
    """Pages of an image, None for those that are missing; the first where all lie in one piece."""
    if series.dataoffset is not None and not series.is_multifile:
        return [series[0]]
    return list(series)
