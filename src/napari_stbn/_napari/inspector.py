"""Looks at layers in the background, a moment after the last change."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from qtpy.QtCore import QObject, QRunnable, QThreadPool, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]  # named so by qtpy

from ._threads import load_ahead, threads
from .inspection import Inspection, inspect_stack

if TYPE_CHECKING:
    from napari_stbn.settings import RunSettings
    from napari_stbn.stack import Stack

__all__ = ["Inspector"]

_logger = logging.getLogger(__name__)
_AFTER = 300  # ms without a further change


class _Ended(QObject):
    """Carries a look and its answer to the thread of the viewer."""

    answered = QtSignal(object, object)


class _Look(QRunnable):
    """One look.

    Not a worker of napari: closing the viewer need not wait for it. And those put themselves into
    `warnings.showwarning` while they run, which is there once for all threads: of two that overlap,
    the fit's and this one, the wrong one stayed there for good, with its movie and its widget.
    """

    running: ClassVar[set[_Look]] = set()  # Qt does not keep them
    # Its own: that of Qt has one thread a core, and on one core a look and a fit would wait for
    # each other.
    pool: ClassVar[QThreadPool | None] = None

    def __init__(self, asked: tuple[Stack, RunSettings]) -> None:
        super().__init__()
        self.asked, self.dropped = asked, False
        self.ended = _Ended()
        self.ended.answered.connect(_forget)

    def start(self) -> None:
        """Look as soon as a thread is free."""
        if _Look.pool is None:
            _Look.pool = QThreadPool()
            _Look.pool.setMaxThreadCount(1)
        self.running.add(self)
        _Look.pool.start(self)

    def run(self) -> None:
        """Look, in the other thread; Qt ends the process where this raises."""
        answer = None
        try:
            answer = self._answer()
        except Exception as error:
            _logger.exception("the movie could not be looked at")
            answer = Inspection(None, None, (f"The movie could not be looked at: {error}",))
        finally:
            with suppress(RuntimeError):  # Qt is gone
                self.ended.answered.emit(self, answer)

    def _answer(self) -> Inspection | None:
        if self.dropped:
            return None
        load_ahead()  # before somebody waits for the fit
        with threads(1):
            return inspect_stack(*self.asked)


def _forget(look: _Look, _answer: Inspection | None) -> None:
    _Look.running.discard(look)


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
        self._look: _Look | None = None
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
        if self._look is not None:
            self._look.dropped = True

    def _start(self) -> None:
        if self._look is not None or self._asked is None:
            return  # the look that is taken starts the next one when it is done
        self._look = _Look(self._asked)
        self._look.ended.answered.connect(self._answered)
        self._look.start()

    def _answered(self, look: _Look, inspection: Inspection | None) -> None:
        self._look = None
        if inspection is None or look.asked is not self._asked:
            self._start()
        else:
            self._asked = None
            self._tell(inspection)
