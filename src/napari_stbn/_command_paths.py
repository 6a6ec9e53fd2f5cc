"""The files that a command names, held against each other before anything is read or fitted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

from ._appearing import check_folder, check_free, through_links

__all__ = ["check_apart", "check_file", "check_new_folder", "same_place"]


def check_apart(inputs: Iterable[tuple[str, Path]], outputs: Mapping[str, Path]) -> None:
    """Raise where a command would write over what it reads, or two results over each other.

    Parameters
    ----------
    inputs : iterable of (str, Path)
        What each is, in words, and where: "the input", "--model".
    outputs : mapping of str to Path
        The options that name something to write.

    Raises
    ------
    ValueError
        If two of them are the same file by any name (links, capital letters, relative), or one
        lies in the Zarr that is the other.
    """
    for word, source in inputs:
        for option, path in outputs.items():
            if same_place(source, path):
                raise ValueError(
                    f"{option} would take the place of {word}, {source}; choose another name"
                )
            if _nested(path, source):
                raise ValueError(
                    f"{option} {path} and {word} {source} lie one in the other; choose another "
                    "folder"
                )
    for (one, first), (other, second) in combinations(outputs.items(), 2):
        if same_place(first, second) or _nested(first, second):
            raise ValueError(
                f"{one} and {other} name the same place, {second}; give each a name of its own"
            )


def check_file(path: Path, *, overwrite: bool) -> None:
    """Raise where a file that is no movie, such as a report or a model, cannot be written.

    Raises
    ------
    FileNotFoundError, PermissionError
        There is no such folder, or nothing can be written to it.
    FileExistsError
        There is something, and it is no file or shall not be replaced.
    """
    check_folder(through_links(path.absolute()).parent)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no file but a device or a pipe"
        raise FileExistsError(f"{path} is {kind}, so it is not replaced; choose another name.")
    check_free(path, overwrite=overwrite)


def check_new_folder(folder: Path) -> None:
    """Raise where a folder for results can neither be made nor be written to.

    Raises
    ------
    NotADirectoryError, PermissionError
        It, or a part of its path, is a file, or does not take new files.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, not a folder; choose another folder.")
    check_folder(there)


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, be it there or not.

    Two names that differ in capital letters alone are the same to many drives: of what does not
    exist yet nobody can tell, and so they count as one.
    """
    there = one.exists(), other.exists()
    if all(there):
        return one.samefile(other)
    first, second = os.path.realpath(one), os.path.realpath(other)
    return first == second if any(there) else first.casefold() == second.casefold()


def _nested(one: Path, other: Path) -> bool:
    """Whether one path lies within the other and that is a Zarr: read, or replaced, as a whole."""
    from ._ome_zarr import is_zarr

    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if first in second.parents:
        return is_zarr(first)
    return second in first.parents and is_zarr(second)
