"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import threading
from typing import Self

import psutil


class Peak:
    """Largest growth of this process's resident memory [bytes], looked at every so many seconds."""

    def __init__(self, every: float = 0.02) -> None:
        self.bytes, self._every = 0, every

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)
