"""Which pixels of a TIFF file are read, and what is said of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from napari_stbn._ome_xml import named_files, ome_damage
from napari_stbn._raw_file import RawFile
from napari_stbn._scenes import scene_number, scenes_note
from napari_stbn._tiff_check import check_complete, check_one_page
from napari_stbn._tiff_pages import TiffArray, files_of, one_line, opened, pages_of
from napari_stbn._tiff_scale import describe
from napari_stbn._words import counted

if TYPE_CHECKING:
    import tifffile

    from napari_stbn._described import Description

__all__ = ["TiffImage", "find_image"]

_NAMED: Final = 3  # files that are not there
# What is missing from a description, or no number, shows in tifffile in a type each.
_WRONG_WORDS: Final = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, RuntimeError),
)


@dataclass(frozen=True)
class TiffImage:
    """An image of a TIFF file.

    Attributes
    ----------
    array : TiffArray or RawFile
    hint : str
        The file's own letters for its axes.
    said : Description
    notes : list of str
        What a person should know of how it was read.
    """

    array: TiffArray | RawFile
    hint: str
    said: Description
    notes: list[str]


def find_image(path: Path, scene: int | None) -> TiffImage:
    """The image of this number, or the largest one whose pixels lie in this file.

    Raises
    ------
    SceneError
        There is no such image.
    CutOffError
        The file has lost its end.
    OSError, ValueError
        As tifffile raises them.
    """
    with opened(path) as tif:
        damage = _damage(tif)
        if not damage:
            image = _image(tif, path, scene)
            more = _frames_not_named(tif)
    if damage:
        return _without_ome(
            path,
            scene,
            f"Its OME description is damaged ({damage}): the pixels "
            "were read without it, and what it says is not known.",
        )
    return image if not more else _with_more(path, image, more)


def _damage(tif: tifffile.TiffFile) -> str:
    """Why the OME description of a file is of no use; empty where it is, or there is none.

    Raises
    ------
    ValueError
        Where another file of its set is damaged: tifffile would not say which.
    """
    text = tif.pages.first.aspage().description
    if damage := ome_damage(text):
        return damage
    if tif.is_ome:
        _check_set(text, Path(tif.filehandle.path))
        try:
            tif.series  # noqa: B018 - found as it is asked for
        except _WRONG_WORDS as error:
            return one_line(error)
    return ""


def _check_set(xml: str, path: Path) -> None:
    """Raise where another file of an OME-TIFF set is cut off."""
    for name in named_files(xml):
        other = path.parent / name
        if name == path.name or not other.is_file():
            continue
        try:
            check_complete(other)
        except (ValueError, struct.error) as error:
            raise ValueError(f"{name}, a file of the same set, is damaged: {error}") from error


def _without_ome(path: Path, scene: int | None, note: str) -> TiffImage:
    """The pages of a file as they come."""
    with opened(path, ome=False) as tif:
        image = _image(tif, path, scene, ome=False)
    return replace(image, notes=[*image.notes, note])


def _image(tif: tifffile.TiffFile, path: Path, scene: int | None, *, ome: bool = True) -> TiffImage:
    """One of the images that tifffile finds in an open file."""
    _check_imagej(tif, path)
    found = tif.series
    if not found:
        raise ValueError("it holds no image")
    own = [number for number, series in enumerate(found) if _lies_in(series, tif)]
    largest = max(own or range(len(found)), key=lambda n: int(found[n].size))  # no thumbnail
    number = scene_number(path, scene, len(found), largest)
    series = found[number]
    if series.dtype is None:
        raise ValueError("it holds no pixels")
    offset = None if series.is_multifile else series.dataoffset
    array: TiffArray | RawFile
    if offset is None:
        array = TiffArray(path, number, tuple(series.shape), series.dtype, ome)
    else:
        file = series.keyframe.parent  # an image may lie in another file of the same set
        source = path if file is tif else Path(file.filehandle.path)
        if offset + series.nbytes > source.stat().st_size:
            raise ValueError("it ends before its pixels do")
        dtype = series.dtype.newbyteorder(file.byteorder)
        array = RawFile(source, offset, tuple(series.shape), dtype)
    why = "largest" if len(own) in (0, len(found)) else "one whose pixels lie in this file"
    notes = [scenes_note(scene, len(found), number, why), _missing(tif, series)]
    return TiffImage(array, series.axes, describe(tif, series, number), notes)


def _check_imagej(tif: tifffile.TiffFile, path: Path) -> None:
    """Raise where ImageJ's frames behind a single page are not all there."""
    page = tif.pages.first.aspage()
    said = tif.imagej_metadata if tif.is_imagej else None
    if said and page.is_final and len(tif.pages) == 1 and page.offset < page.dataoffsets[0]:
        check_one_page(path, int(said.get("images", 1)), page.dataoffsets[0], page.nbytes)


def _lies_in(series: tifffile.TiffPageSeries, tif: tifffile.TiffFile) -> bool:
    """Whether any pixels of an image lie in this file, and not in others of its set."""
    return Path(tif.filehandle.path).resolve() in files_of(series)


def _missing(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> str:
    """What is said of frames that are not there."""
    count = sum(page is None for page in pages_of(series))
    if not count:
        return ""
    are = f"{counted(count, 'frame')} {'is' if count == 1 else 'are'}"
    read = "reads as zeros" if count == 1 else "read as zeros"
    xml = tif.ome_metadata if tif.is_ome else None
    folder = Path(tif.filehandle.dirname)
    absent = [name for name in named_files(xml or "") if not (folder / name).is_file()]
    if not absent:
        return f"{are} missing from the file and {read}."
    named = ", ".join(absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
    return (
        f"{are} missing and {read}: the file belongs to a set of which {named} "
        f"{'is' if len(absent) == 1 else 'are'} not in its folder; copy all of the set, under its "
        "names."
    )


def _frames_not_named(tif: tifffile.TiffFile) -> list[int]:
    """Pages like those of the images that no image of an OME description has."""
    if not tif.is_ome:
        return []
    path = tif.filehandle.path
    own = [s for s in tif.series if _lies_in(s, tif)]
    named = {
        page.index
        for series in own
        for page in series
        if page is not None and page.parent.filehandle.path == path
    }
    frames = {(series.keyframe.shape, series.keyframe.dtype) for series in own}
    rest = [number for number in range(len(tif.pages)) if number not in named]
    if not rest:
        return []
    first = tif.pages.get(rest[0], aspage=True)
    return rest if (first.shape, first.dtype) in frames else []


def _with_more(path: Path, image: TiffImage, more: list[int]) -> TiffImage:
    """An image with frames that its OME description does not name, where their place is clear."""
    whole = _without_ome(path, None, "")
    count = whole.array.shape[0]
    frame = image.array.shape[-2:]
    named = count - len(more)
    alone = image.array.shape in ((named, *frame), frame) and set(image.hint) <= set("TYX")
    if alone and whole.array.shape == (count, *frame):
        note = f"The file's description names {named} of its {count} frames; all of them were read."
        return replace(image, array=whole.array, hint="TYX", notes=[*image.notes, note])
    note = (
        f"The file holds {len(more)} frames that its description does not name; they were left "
        "out. Export it again if they belong to the movie."
    )
    return replace(image, notes=[*image.notes, note])
