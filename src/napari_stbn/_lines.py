"""Names and errors as a line for people."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final

__all__ = ["in_words", "printable", "shown"]

_NOT_ALLOWED: Final = "cannot be read or written by you; ask its owner, or choose another place"
_FULL: Final = "could not be written, its drive is full; make room or choose another drive"
_SAID: Final = {
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: "lies on a drive that takes no changes; choose another one",
    errno.ENOSPC: _FULL,
    errno.EFBIG: "would be larger than its drive allows; choose another drive",
    errno.ENAMETOOLONG: "has a longer name than its drive takes; choose a shorter one",
    errno.ENOENT: "does not exist; check the spelling, the folder and the drive",
    errno.EEXIST: "exists already; choose another name",
    errno.EISDIR: "is a folder where a file is expected; choose another name",
    errno.ENOTDIR: "is a file, or lies in one, where a folder is expected; choose another name",
    errno.EIO: "could not be read or written by its drive; is it damaged, or was it taken away?",
    errno.EMFILE: "could not be opened, too many files are open; close other programs",
    **({errno.EDQUOT: _FULL} if hasattr(errno, "EDQUOT") else {}),  # Windows has no quota
}

_OPTIONS: Final = {
    "pass overwrite=True": "pass --force",
    'set "axes"': "give --axes",
    'Set "axes"': "Give --axes",
}


def in_words(error: BaseException) -> str:
    """What went wrong, on one line and without the number that the system has for it."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason, number = str(error.strerror), error.errno or 0
        plain = reason == os.strerror(number)
        if plain:
            reason = _SAID.get(number, f"cannot be used: {reason}")
        if plain or error.filename is not None:
            reason = f"{_name(error.filename)} {reason}"
        said = reason
    return printable(" ".join(said.split())) or type(error).__name__


def shown(path: str | os.PathLike[str]) -> str:
    """A path on a line of its own words: quoted where it holds what would break the line."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def printable(text: str) -> str:
    """A text for the terminal.

    Line breaks, control characters and broken letters are written as escapes, and what a text tells
    users of Python to pass is told as an option.
    """
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _name(file: Any) -> str:
    """What an error of the system says it is about."""
    if isinstance(file, bytes):
        return os.fsdecode(file)
    return "a file" if file is None or isinstance(file, int) else str(Path(file))
