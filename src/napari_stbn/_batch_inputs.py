"""The movies of a batch: found, named, and looked at without reading their pixels."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from ._bioio import FOREIGN
from .estimates import prepared_bytes
from .io import READABLE, read
from .stack import Stack

__all__ = ["BatchMovie", "Size", "find_movies", "survey"]

_logger = logging.getLogger(__name__)
_ENDINGS = (*READABLE, *FOREIGN)
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class BatchMovie:
    """A movie of a batch: where it is and where its result goes."""

    source: Path
    target: Path

    @property
    def uncertainty(self) -> Path:
        """Where its uncertainty goes: ``NAME_uncertainty`` beside the result."""
        name, ending = _split(self.target.name)
        return self.target.with_name(f"{name}_uncertainty{ending}")


@dataclass(frozen=True)
class Size:
    """A stack that can be read, and the bytes that its run needs."""

    stack: Stack
    need: int


def find_movies(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]], folder: Path, ending: str
) -> list[BatchMovie]:
    """All movies that files, folders and patterns stand for, each once.

    Parameters
    ----------
    inputs : path or sequence of path
    folder : Path
        Where the results go.
    ending : str
        Of the results.

    Raises
    ------
    ValueError
        If there are none, or a result would take the place of an input.
    """
    given = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    sources: dict[Path, None] = {}  # an ordered set
    for item in given:
        sources.update(dict.fromkeys(path.absolute() for path in _expand(fspath(item))))
    if not sources:
        raise ValueError("there is no movie to denoise; name files, folders or patterns")
    movies = [
        BatchMovie(source, folder / f"{name}{ending}")
        for source, name in zip(sources, _names(list(sources)), strict=True)
    ]
    origins = {source.resolve() for source in sources}
    for movie in movies:
        for path in (movie.target, movie.uncertainty):
            if path.resolve() in origins:
                raise ValueError(
                    f"the result {path} would take the place of an input; choose another folder "
                    "or ending."
                )
    return movies


def survey(movies: Sequence[BatchMovie], axes: str | None) -> dict[Path, Size]:
    """Sizes of all movies that can be read; the others are refused by the worker that tries."""
    sizes = {}
    for movie in movies:
        try:
            stack = read(movie.source, axes=axes)
            stack.check()
        except (ValueError, OSError) as error:
            _logger.info("%s cannot be read: %s", movie.source, error)
            continue
        values = stack.n_frames * stack.n_channels * stack.n_planes
        pixels = values * stack.frame_shape[0] * stack.frame_shape[1]
        sizes[movie.source] = Size(stack, prepared_bytes(stack) + 12 * pixels)
    return sizes


def _expand(text: str) -> list[Path]:
    """The movies that one word of the command line stands for."""
    path = Path(text)
    if not path.exists() and _WILD & set(text):
        found = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207  # absolute ones too
        found = [p for p in found if p.suffix.lower() in _ENDINGS]
        if not found:
            raise ValueError(f"no movie matches {text}; check the spelling and the folder.")
        return found
    if path.is_dir() and path.suffix.lower() != ".zarr" and not _is_zarr(path):
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
        if not found:
            raise ValueError(f"{path} holds no movie ({', '.join(_ENDINGS)}).")
        return found
    return [path]  # also where there is none: that one fails, the others go on


def _is_zarr(path: Path) -> bool:
    """Whether a folder is itself a movie."""
    from ._ome_zarr import is_zarr

    return is_zarr(path)


def _names(sources: Sequence[Path]) -> list[str]:
    """A name for each result: that of the file, with its ending or folders where it needs them."""

    def repeated(words: Sequence[str]) -> list[bool]:
        # A file system may take small and capital letters for the same.
        count = Counter(word.casefold() for word in words)
        return [count[word.casefold()] > 1 for word in words]

    names = [_split(source.name)[0] for source in sources]
    beside = repeated([str(source.with_name(n)) for source, n in zip(sources, names, strict=True)])
    names = [
        source.name.replace(".", "_") if more else name
        for source, name, more in zip(sources, names, beside, strict=True)
    ]
    for depth in range(1, max(len(source.parts) for source in sources)):
        more = repeated(names)
        if not any(more):
            break
        names = [
            f"{source.parts[-1 - depth]}_{name}"
            if again and depth < len(source.parts) - 1
            else name
            for source, name, again in zip(sources, names, more, strict=True)
        ]
    return [
        f"{name}_{number}" if again else name
        for number, (name, again) in enumerate(zip(names, repeated(names), strict=True))
    ]


def _split(name: str) -> tuple[str, str]:
    """A file's name without and with its endings for formats."""
    stem = name
    for ending in (*_ENDINGS, ".ome"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
    return stem, name[len(stem) :]
