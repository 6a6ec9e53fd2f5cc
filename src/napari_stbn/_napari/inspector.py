"""Looks at layers in the background, a moment after the last change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.qt.threading import WorkerBase
from qtpy.QtCore import QTimer

from ._threads import load_ahead, threads
from .inspection import Inspection, inspect_stack

if TYPE_CHECKING:
    from napari_stbn.settings import RunSettings
    from napari_stbn.stack import Stack

__all__ = ["Inspector"]

_AFTER = 300  # ms without a further change


class _Worker(WorkerBase):
    """One look. Not made by napari's create_worker: closing the viewer need not wait for it."""

    def __init__(self, stack: Stack, settings: RunSettings) -> None:
        super().__init__()
        self._stack, self._settings = stack, settings

    def work(self) -> Inspection | None:
        """Look, in the other thread."""
        if self.abort_requested:
            return None
        load_ahead()  # before somebody waits for the fit
        with threads(1):
            return inspect_stack(self._stack, self._settings)


class Inspector:
    """Tells what is known of the stack that was asked about last.

    Parameters
    ----------
    tell : callable
        Called with the `Inspection`, in the thread of the viewer.
    """

    def __init__(self, tell: Callable[[Inspection], None]) -> None:
        self._tell = tell
        self._asked: tuple[Stack, RunSettings] | None = None
        self._worker: Any = None
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_AFTER)
        self._timer.timeout.connect(self._start)

    def look_at(self, stack: Stack, settings: RunSettings) -> None:
        """Ask about a stack; an earlier question is forgotten."""
        self._asked = stack, settings
        self._timer.start()

    def silence(self) -> None:
        """Want no answer any more; Qt may be gone already."""
        self._asked = None

    def forget(self) -> None:
        """Want no answer any more."""
        self._asked = None
        self._timer.stop()
        if self._worker is not None:
            self._worker.quit()

    def _start(self) -> None:
        if self._worker is not None or self._asked is None:
            return  # the worker at hand starts the next one when it is done
        stack, settings = self._asked
        worker = _Worker(stack, settings)

        def returned(inspection: Inspection | None) -> None:
            current = self._asked == (stack, settings)
            if current and inspection is not None:
                self._asked = None
                self._tell(inspection)

        def finished() -> None:
            self._worker = None
            if self._asked is not None:
                self._start()

        worker.returned.connect(returned)
        worker.finished.connect(finished)
        self._worker = worker
        worker.start()
