"""OME-TIFF sets: movies that lie in several files, of which a batch takes each once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import _tiff_pages
from ._lines import shown
from ._ome_xml import named_files
from ._words import counted
from .io import TIFF_ENDINGS

__all__ = ["files_of", "once_each"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Image:
    """An image of a set: the files that hold its frames, and its number among the images."""

    files: frozenset[Path]
    number: int


def files_of(path: Path, scene: int | None) -> tuple[Path, ...]:
    """All files that the image read from a file lies in, in the order of their names."""
    image = _images_of(path, scene).get(path.resolve())
    return (path,) if image is None else tuple(sorted(image.files))


def once_each(sources: Sequence[Path], scene: int | None) -> dict[Path, tuple[Path, ...]]:
    """Files to open, one for each movie: of those that hold the same image, the first.

    Files whose own description knows no set, but which hold frames of a set that is opened, are
    left out as well: their pixels are denoised with it.

    Returns
    -------
    dict of Path to tuple of Path
        With all files that the movie lies in.
    """
    here = {source.resolve() for source in sources}
    known: dict[Path, _Image] = {}
    openers: dict[_Image, Path] = {}
    plain: list[Path] = []
    for source in sources:
        if source.resolve() not in known:  # one file of a set tells of all
            known.update(_images_of(source, scene))
        image = known.get(source.resolve())
        if image is None:
            plain.append(source)
        else:
            openers.setdefault(image, source)
    members = {file for image in openers for file in image.files}
    for image, source in openers.items():
        more = len((image.files & here) - {source.resolve()})
        if more:
            _logger.warning(
                "%s and %s beside it are one movie", shown(source), counted(more, "file")
            )
    kept = {source: tuple(sorted(image.files)) for image, source in openers.items()}
    kept |= {source: (source,) for source in plain if source.resolve() not in members}
    return {source: kept[source] for source in sources if source in kept}


def _images_of(path: Path, scene: int | None) -> dict[Path, _Image]:
    """The image that is read from each file of a set; empty where it is none, or unreadable."""
    if path.suffix.lower() not in TIFF_ENDINGS:
        return {}
    try:
        with _tiff_pages.opened(path) as tif:
            if not tif.is_ome or len(named_files(tif.ome_metadata or "")) < 2:
                return {}
            held = [_tiff_pages.files_of(series) for series in tif.series]
            sizes = [int(series.size) for series in tif.series]
    except Exception as error:  # noqa: BLE001  # tifffile, struct and XML raise a type each
        _logger.info("%s cannot be looked into: %s", shown(path), error)
        return {}  # whoever reads it says what is wrong
    images = {}
    for file in frozenset[Path]().union(*held):
        numbers = [n for n in range(len(held)) if file in held[n] and scene in (None, n)]
        if numbers:
            number = max(numbers, key=lambda n: sizes[n])
            images[file] = _Image(held[number], number)
    return images
