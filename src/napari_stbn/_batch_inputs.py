"""The movies of a batch: found, named, and looked at without reading their pixels."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from ._batch_manifest import FILE_NAME, Manifest
from ._batch_names import ENDINGS, names_of, split, uncertainty_of
from ._batch_sets import once_each
from ._lines import in_words, shown
from ._words import counted
from .estimates import prepared_bytes
from .io import read
from .stack import Stack

__all__ = ["BatchMovie", "Size", "find_movies", "survey"]

_logger = logging.getLogger(__name__)
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class BatchMovie:
    """A movie of a batch: where it is, in one file or several, and where its result goes."""

    source: Path
    files: tuple[Path, ...]
    target: Path

    @property
    def uncertainty(self) -> Path:
        """Where its uncertainty goes: ``NAME_uncertainty`` beside the result."""
        name, ending = split(self.target.name)
        return self.target.with_name(f"{uncertainty_of(name)}{ending}")


@dataclass(frozen=True)
class Size:
    """A stack that can be read, and the bytes that its run needs."""

    stack: Stack
    need: int


def find_movies(
    inputs: str | PathLike[str] | Iterable[str | PathLike[str]],
    folder: Path,
    ending: str,
    *,
    uncertainty: bool = False,
    scene: int | None = None,
    also_read: Sequence[Path] = (),
) -> list[BatchMovie]:
    """All movies that files, folders and patterns stand for, each once.

    Parameters
    ----------
    inputs : path or sequence of path
    folder : Path
        Where the results go.
    ending : str
        Of the results.
    uncertainty : bool
        Whether uncertainties are written, too.
    scene : int, optional
        Which image of each file is read.
    also_read : sequence of Path
        Files that the batch reads beside the movies, such as maps of a camera.

    Returns
    -------
    list of BatchMovie
        Files that are named, as they are, but for results of this very folder: a shell may have
        named them for a pattern. Of what is found in folders and by patterns, no hidden file, no
        folder but a Zarr, and none that a manifest beside it tells to be the result of a batch.
        What cannot be looked into is among them, and fails when it is read.

    Raises
    ------
    ValueError
        If there are none, or a result would take the place of an input.
    """
    given = [inputs] if isinstance(inputs, (str, PathLike)) else list(inputs)
    found: dict[Path, Path] = {}  # by the real folder: another way there is not another movie
    for item in given:
        for path in map(Path.absolute, _expand(fspath(item))):
            found.setdefault(Path(os.path.realpath(path.parent), path.name), path)
    if not found:
        raise ValueError("there is no movie to denoise; name files, folders or patterns")
    sources = once_each(_without_own(found, folder), scene)
    names = names_of(list(sources), uncertainty=uncertainty)
    movies = [
        BatchMovie(source, files, folder / f"{name}{ending}")
        for (source, files), name in zip(sources.items(), names, strict=True)
    ]
    files = [file for movie in movies for file in movie.files]
    origins = {path.resolve() for path in (*files, *also_read)}
    for movie in movies:
        for path in (movie.target, *([movie.uncertainty] if uncertainty else ())):
            if path.resolve() in origins:
                raise ValueError(
                    f"the result {path} would take the place of an input; choose another folder "
                    "or ending."
                )
    return movies


def survey(
    movies: Sequence[BatchMovie], axes: str | None, scene: int | None = None
) -> dict[Path, Size]:
    """Sizes of all movies that can be read; the others are refused by the worker that tries."""
    sizes = {}
    for movie in movies:
        try:
            stack = read(movie.source, axes=axes, scene=scene)
            stack.check()
        except (ValueError, OSError) as error:
            _logger.info("%s cannot be read: %s", shown(movie.source), in_words(error))
            continue
        values = stack.n_frames * stack.n_channels * stack.n_planes
        pixels = values * stack.frame_shape[0] * stack.frame_shape[1]
        sizes[movie.source] = Size(stack, prepared_bytes(stack) + 12 * pixels)
    return sizes


def _without_own(found: Mapping[Path, Path], folder: Path) -> list[Path]:
    """Movies by their real paths, without the results that a batch has put into its folder."""
    own = Path(os.path.realpath(folder))
    results = Manifest(own / FILE_NAME).results()
    kept = [path for real, path in found.items() if real.parent != own or real.name not in results]
    if not kept:
        raise ValueError(
            f"all movies that are named are results of a batch in {folder}; choose another output "
            "folder to denoise them again."
        )
    if left_out := len(found) - len(kept):
        _logger.warning("%s of this batch left out", counted(left_out, "earlier result"))
    return kept


def _expand(text: str) -> list[Path]:
    """The movies that one word of the command line stands for."""
    path = Path(text)
    try:
        if not path.exists() and _WILD & set(text):
            closed = _closed_folders(text)
            found = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207  # absolute ones too
            return closed + _movies_among(found, f"no movie matches {text}", closed)
        if path.is_dir() and path.suffix.lower() != ".zarr" and not _is_zarr(path):
            found = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            return _movies_among(found, f"{path} holds no movie ({', '.join(ENDINGS)})")
    except PermissionError as error:
        _logger.info("%s cannot be looked into: %s", shown(path), error)
    return [path]  # also where there is none: that one fails, the others go on


def _movies_among(found: Sequence[Path], none: str, closed: Sequence[Path] = ()) -> list[Path]:
    """Those of many files and folders that are movies and no results of batches; not none."""
    movies = [path for path in found if _is_movie(path)]
    results = {p: Manifest(p / FILE_NAME).results() for p in {movie.parent for movie in movies}}
    kept = [movie for movie in movies if movie.name not in results[movie.parent]]
    left_out = len(movies) - len(kept)
    if left_out and (kept or closed):
        _logger.warning("%s of an earlier batch left out", counted(left_out, "result"))
    elif left_out:
        raise ValueError(f"{none} but results of a batch; name these to denoise them again.")
    elif not movies and not closed:
        raise ValueError(f"{none}; check the spelling and the folder.")
    return kept


def _closed_folders(pattern: str) -> list[Path]:
    """Folders on the way of a pattern that may not be looked into: it would pass over them."""
    parts = Path(pattern).parts
    closed: set[str] = set()
    for depth, following in enumerate(parts[1:], 1):
        need = os.X_OK | (os.R_OK if _WILD & set(following) else 0)
        folders = glob.glob(str(Path(*parts[:depth])) + os.sep, recursive=True)  # noqa: PTH207
        closed.update(folder for folder in folders if not os.access(folder, need))
    return sorted(map(Path, closed))


def _is_movie(path: Path) -> bool:
    """Whether a file or folder that was found is one; what cannot be seen fails when it is read."""
    try:
        return path.suffix.lower() in ENDINGS and (path.is_file() or _is_zarr(path))
    except PermissionError:
        return True


def _is_zarr(path: Path) -> bool:
    """Whether a folder is itself a movie."""
    from ._ome_zarr import is_zarr

    return is_zarr(path)
