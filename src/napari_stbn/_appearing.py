"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["appearing", "check_folder", "check_free", "through_links"]

# No room, more than the quota, larger than files may be
_FULL: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


@contextmanager
def appearing(path: Path, still_free: Callable[[], None], *, ending: str = "") -> Iterator[Path]:
    """A name to write to; what is there takes the place of `path` when the block ends well.

    `still_free` raises where `path` must not be replaced: someone may have written it meanwhile.
    Where `path` is a link, what it leads to is replaced. `ending` is for writers that look at it.
    """
    path = through_links(path)
    partial = path.with_name(f".stbn-{uuid.uuid4().hex}.partial{ending}")
    try:
        yield partial
        still_free()
        _replace(partial, path)
    except OSError as error:
        if not _is_full(error):
            if error.filename == str(partial):
                error.filename = str(path)  # a name that people know
            raise
        raise OSError(
            error.errno or errno.ENOSPC,
            f"{path} could not be written because its drive, or your share of it, is full; make "
            "room or choose another drive. Nothing that was there before was changed",
        ) from error
    finally:
        _remove(partial)


def check_folder(folder: Path) -> None:
    """Raise unless new files can be put into a folder.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    PermissionError
        Nothing can be written to it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"nothing can be written to the folder {folder}; choose another one, or ask its owner."
        )


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise where there is something that shall not be replaced.

    Raises
    ------
    FileExistsError
        With the way out.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or pass overwrite=True.")


def through_links(path: Path) -> Path:
    """Where a file is that is written to by this name: the name itself, unless it is a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_full(error: OSError) -> bool:
    """Whether there was no room; numpy says so with numbers alone."""
    return error.errno in _FULL or (error.errno is None and "requested and" in str(error))


def _replace(partial: Path, path: Path) -> None:
    """Put the finished file or folder in the place of whatever is there."""
    if not path.is_dir() and not partial.is_dir():
        partial.replace(path)
        return
    # A folder cannot be replaced in one step: the earlier one steps aside and comes back on error.
    aside = partial.with_suffix(".earlier")
    if path.exists():
        path.replace(aside)
    try:
        partial.replace(path)
    except BaseException:
        if aside.exists():
            aside.replace(path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there and can be: its drive may be gone."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
