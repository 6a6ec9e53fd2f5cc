"""Scenes in files of a folder: made by many processes, read while a training already runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Queue

from _common import use_threads
from _pool import Scene, load_or_make
from napari_stbn._saved_model import SavedModel
from napari_stbn.network import STBN

_WAITING = 16  # scenes that are read ahead
_PAUSE = 0.2  # s, until a file that is not there yet is looked for again


def make_scenes(
    seeds: Sequence[int], folder: Path, first: Path | None, processes: int
) -> Iterator[int]:
    """Make the scenes of some seeds, in about their order; yield how many there are.

    `first` is the file of the model that predicts the frames which flow is estimated on.
    """
    if processes == 1:
        model = read_first(first)
        for number, seed in enumerate(seeds):
            load_or_make(seed, folder, model)
            yield number + 1
        return
    with get_context("spawn").Pool(processes, use_threads, (1,)) as pool:
        done = pool.imap_unordered(partial(_make, folder, first), seeds)
        yield from (number + 1 for number, _ in enumerate(done))


def read_first(path: Path | None) -> STBN | None:
    """The model that scenes take their flow from, or training its start."""
    return None if path is None else SavedModel.read(path).model.float()


def _make(folder: Path, first: Path | None, seed: int) -> None:
    """One scene, in a process of its own."""
    load_or_make(seed, folder, read_first(first))


class Arriving:
    """Scenes read from their files by a thread, as soon as somebody has made them."""

    def __init__(self, seeds: Sequence[int], folder: Path) -> None:
        self._ready: Queue[Scene] = Queue(_WAITING)
        threading.Thread(target=self._read, args=(seeds, folder), daemon=True).start()

    def first(self, number: int) -> list[Scene]:
        """Wait for so many."""
        return [self._ready.get() for _ in range(number)]

    def here(self) -> Iterator[Scene]:
        """Those that wait."""
        while True:
            try:
                yield self._ready.get_nowait()
            except Empty:
                return

    def _read(self, seeds: Sequence[int], folder: Path) -> None:
        for seed in seeds:
            while not (folder / f"scene_{seed}.npz").exists():
                time.sleep(_PAUSE)
            self._ready.put(load_or_make(seed, folder))
