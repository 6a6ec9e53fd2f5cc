"""Runs that did not end: their files in the user's cache folder."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_stbn._unfinished import Unfinished
    from napari_stbn.settings import RunSettings
    from napari_stbn.stack import Stack

__all__ = ["has_unfinished", "unfinished_run"]

_FORGOTTEN_AFTER = 30 * 24 * 3600.0  # s: what a crash left is removed then


def unfinished_run(stack: Stack, settings: RunSettings) -> Unfinished:
    """The file in the user's cache folder from which this run could go on; reads some frames."""
    from napari_stbn._unfinished import Unfinished, run_key

    key = run_key(stack, settings)
    return Unfinished(_unfinished_folder() / f"{key}.fit", key)


def has_unfinished(stack: Stack, settings: RunSettings) -> bool:
    """Whether there is such a file; where there is none at all, nothing is read."""
    return any(_unfinished_folder().iterdir()) and unfinished_run(stack, settings).exists()


def _unfinished_folder() -> Path:
    """Where unfinished runs are kept; old ones are removed."""
    from platformdirs import user_cache_path

    folder = Path(user_cache_path("napari-stbn", appauthor=False)) / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        with suppress(OSError):  # another process may have removed it
            if time.time() - old.stat().st_mtime > _FORGOTTEN_AFTER:
                old.unlink()
    return folder
