"""What was done with which movie, as JSON lines that survive a crash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["FILE_NAME", "Manifest", "fingerprint", "identity"]

FILE_NAME = "manifest.jsonl"
_FORMAT = 1
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
_logger = logging.getLogger(__name__)


class Manifest:
    """A file of JSON lines, one for each thing that happened; the last of an output counts.

    Parameters
    ----------
    path : Path
        Made with the first line; lines of earlier runs are kept.

    Notes
    -----
    A line is appended in one write and brought to the disk before the run goes on. Where an earlier
    process was killed in the middle of a line, the next line begins anew and the torn one is left
    out when reading.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Keep other batches out of this folder, as long as this process lives.

        Raises
        ------
        FileExistsError
            If another one is at work there.
        """
        if fcntl is None:  # Windows
            yield
            return
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FileExistsError(
                    f"another batch writes to {self.path.parent} now; wait for it, or choose "
                    "another folder."
                ) from error
            except OSError as error:
                _logger.warning("%s cannot be locked: %s", self.path, error)  # some network drives
            yield

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line.

        Raises
        ------
        OSError
            The folder is full, gone or read-only.
        """
        text = json.dumps({"format": _FORMAT, **entry}, allow_nan=False, ensure_ascii=False) + "\n"
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _BINARY, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size:
                os.lseek(handle, -1, os.SEEK_END)
                if os.read(handle, 1) != b"\n":
                    text = "\n" + text
            line = text.encode("utf-8", errors="backslashreplace")
            if os.write(handle, line) != len(line):
                raise OSError(f"{self.path} took only a part of a line; is the disk full?")
            os.fsync(handle)
        except OSError as error:
            error.filename = error.filename or str(self.path)  # a handle has no name to tell
            raise
        finally:
            os.close(handle)

    def read(self) -> list[dict[str, Any]]:
        """All lines that can be read, oldest first; none where there is no file.

        Raises
        ------
        ValueError
            If a line is from a newer version.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            entry = _entry(line)
            if entry is None:
                _logger.warning("line %d of %s is torn or foreign; left out", number, self.path)
                continue
            if (version := int(entry["format"])) > _FORMAT:
                raise ValueError(
                    f"line {number} of {self.path} has format {version}, this version reads up to "
                    f"{_FORMAT}; update napari-stbn, or choose another output folder."
                )
            entries.append(entry)
        return entries

    def last(self) -> dict[str, dict[str, Any]]:
        """The last line of each output, by the name of the output."""
        return {str(entry["output"]): entry for entry in self.read() if "output" in entry}

    def results(self) -> set[str]:
        """Names of all files that batches wrote into this folder, or were about to.

        Silent about lines that are no batch's: many programs keep a file of this name.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            return set()
        written: set[str] = set()
        begun: set[str] = set()
        for entry in filter(None, map(_entry, content.split(b"\n"))):
            if not isinstance(entry.get("output"), str):
                continue
            also = entry.get("also")
            names = {entry["output"], *(map(str, also) if isinstance(also, list) else ())}
            begun = begun | names if entry.get("status") == "started" else begun - names
            if entry.get("status") == "done":
                written |= names
        return written | begun


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of a manifest; None of one that is torn or foreign."""
    try:
        entry: dict[str, Any] = json.loads(line)
        int(entry["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return entry


def fingerprint(path: Path, parts: Sequence[Path] = ()) -> dict[str, Any]:
    """What tells a file, or a folder of files, from itself after a change.

    Parameters
    ----------
    path : Path
    parts : sequence of Path
        All files of a movie that lies in several.

    Returns
    -------
    dict
        ``input`` (the absolute path), ``bytes`` and ``modified`` [ns], in a folder and of a movie
        in several files of all of them; ``bytes`` is -1 where there is none.
    """
    path = path.absolute()
    try:
        files = (
            [Path(root, name) for root, _, names in os.walk(path) for name in names]
            if path.is_dir()
            else parts or [path]
        )
        states = [file.stat() for file in files]
    except OSError:
        return {"input": str(path), "bytes": -1, "modified": 0}
    return {
        "input": str(path),
        "bytes": sum(state.st_size for state in states),
        "modified": max((state.st_mtime_ns for state in states), default=0),
    }


def digest(path: Path) -> str:
    """A word that is the same only for a file of the same content, or a folder left untouched."""
    if path.is_dir():
        return identity(fingerprint(path), {})
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def identity(movie: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """A word that is the same only for the same movie and the same parameters."""
    text = json.dumps([movie, parameters], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]
