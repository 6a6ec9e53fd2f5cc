"""Looks at a movie in the background, beside a fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

pytest.importorskip("napari", reason="napari is not installed")

from qtpy.QtCore import QThreadPool

from napari_stbn._napari import inspector
from napari_stbn._napari.inspection import inspect_stack


@contextmanager
def one_core() -> Iterator[None]:
    """Qt's pool as it is on one core: of one thread."""
    pool = QThreadPool.globalInstance()
    assert pool is not None
    before = pool.maxThreadCount()
    pool.setMaxThreadCount(1)
    yield
    pool.setMaxThreadCount(before)


def test_a_look_beside_a_fit_leaves_the_warnings_of_python_alone(
    widget: Any, until: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both put themselves there, one stays for good, and with it the widget."""
    shown = warnings.showwarning
    looks: list[str] = []
    fitted = Event()

    def look(*asked: Any) -> Any:
        looks.append("begins")
        fitted.wait(20)
        looks.append("ends")
        return inspect_stack(*asked)

    monkeypatch.setattr(inspector, "inspect_stack", look)
    until(lambda: looks == ["begins"])
    widget.advanced["max_steps"].value = 1
    with one_core():
        job = widget.fit()
        until(lambda: not job.is_running)
    fitted.set()
    until(lambda: "ends" in looks and not inspector._Look.running)
    assert job.state == "done", job.error
    assert warnings.showwarning is shown


def test_a_fit_that_begins_at_once_does_not_end_the_look(
    widget: Any, until: Callable[..., float]
) -> None:
    widget._look()
    assert "looking at" in widget.about.value
    job = widget.fit()
    until(lambda: "looking at" not in widget.about.value)
    assert "Noise of a pixel" in widget.about.value
    assert job.is_running
    job.cancel()
    until(lambda: not job.is_running)


def test_a_look_that_fails_is_said(
    widget: Any, until: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_asked: Any) -> Any:
        raise KeyError("no such tile")

    monkeypatch.setattr(inspector, "inspect_stack", fail)
    widget.axes.changed.emit(widget.axes.value)
    until(lambda: "no such tile" in widget.about.value)
    assert not inspector._Look.running
    widget.time_budget.value = 7
    monkeypatch.undo()
    widget.axes.changed.emit(widget.axes.value)
    until(lambda: "fit at most 7 s" in widget.about.value)


def test_an_answer_that_nobody_waits_for_is_dropped(
    widget: Any, until: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    forgotten = Event()

    def look(*asked: Any) -> Any:
        looks.append(len(looks))
        forgotten.wait(20)
        return inspect_stack(*asked)

    monkeypatch.setattr(inspector, "inspect_stack", look)
    until(lambda: looks == [0])
    widget._inspector.forget()
    forgotten.set()
    until(lambda: not inspector._Look.running)
    assert widget.inspection is None
    widget.axes.changed.emit(widget.axes.value)
    until(lambda: widget.inspection is not None)
    assert looks == [0, 1]
