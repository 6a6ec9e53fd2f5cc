"""What Qt asks and tells for the widget: files, errors, that it enters or leaves a window."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QFileDialog, QWidget

__all__ = ["Closing", "ask_open", "ask_save", "guarded"]


class _Docked(Protocol):
    """What is told of windows."""

    def opened(self) -> None: ...
    def closed(self) -> None: ...


class Closing(QObject):
    """Tells the widget when it enters a window and when it leaves it."""

    def __init__(self, widget: _Docked) -> None:
        super().__init__()
        self._widget = widget

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Watch for a new parent: napari takes a closed widget out of its dock."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            docked = isinstance(watched, QWidget) and watched.parentWidget() is not None
            if docked:
                self._widget.opened()
            else:
                self._widget.closed()
        return False


def guarded(action: Callable[[], Any]) -> Callable[[], None]:
    """An action as a button does it: what is wrong with the input is one sentence on the screen."""

    @wraps(action)
    def act() -> None:
        try:
            action()
        except (ValueError, RuntimeError, MemoryError, OSError) as error:
            show_error(str(error))

    return act


def ask_open(parent: QWidget, title: str, kinds: str) -> str | None:
    """A file to read, or None."""
    return QFileDialog.getOpenFileName(parent, title, "", kinds)[0] or None


def ask_save(parent: QWidget, title: str, name: str, kinds: str) -> str | None:
    """A file to write, or None; the dialog asks before one is replaced."""
    return QFileDialog.getSaveFileName(parent, title, name, kinds)[0] or None
