"""How rows stand in the dock: none is cut off or changed by scrolling, and all have names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("napari", reason="napari is not installed")

from napari.settings import get_settings
from qtpy.QtCore import QLocale, QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QLabel, QPushButton, QScrollArea, QWidget

from napari_stbn._napari.rows import number_row


@pytest.fixture
def panel(widget: Any) -> QScrollArea:
    """What scrolls, with all rows shown."""
    widget.more.value = True
    widget._inspector.forget()  # no look at the movie that outlasts the test
    area = widget.native.findChild(QScrollArea)
    assert isinstance(area, QScrollArea)
    return area


@pytest.fixture
def font_size() -> Iterator[Any]:
    """Napari's setting of the size of letters."""
    appearance = get_settings().appearance
    before = appearance.font_size
    yield lambda size: setattr(appearance, "font_size", size)
    appearance.font_size = before


def turn_wheel(native: QWidget) -> bool:
    """Turn the wheel down over a widget, by one notch; whether it kept that for itself."""
    here = QPointF(native.width() / 2, native.height() / 2)
    there = QPointF(native.mapToGlobal(here.toPoint()))
    none, phase = Qt.MouseButton.NoButton, Qt.ScrollPhase.NoScrollPhase
    event = QWheelEvent(
        *(here, there, QPoint(0, 0), QPoint(0, -120)),
        *(none, Qt.KeyboardModifier.NoModifier, phase, False),
    )
    QApplication.sendEvent(native, event)
    return event.isAccepted()


def cut_off(panel: QWidget) -> list[str]:
    """Words that do not fit into what shows them."""
    found = []
    for shown in panel.findChildren(QWidget):
        if isinstance(shown, QAbstractSpinBox):
            text, line = shown.text(), shown.findChild(QWidget, "qt_spinbox_lineedit")
            needed, there = shown.fontMetrics().horizontalAdvance(text), line.width()
        elif isinstance(shown, QPushButton) or (isinstance(shown, QLabel) and shown.buddy()):
            text, needed, there = shown.text(), shown.sizeHint().width(), shown.width()
        else:
            continue
        if shown.isVisibleTo(panel) and needed > there:
            found.append(text)
    return found


def test_the_wheel_is_left_to_the_panel_and_changes_no_row(widget: Any) -> None:
    before = widget.preferences()
    rows = ("preset", "time_budget", "device", "flow", "noise", "gain", "flow_density", "threads")
    for name in rows:
        native = getattr(widget, name).native
        assert not turn_wheel(native), f"{name} keeps it from the panel"
        assert native.focusPolicy() == Qt.FocusPolicy.StrongFocus, "no focus by the wheel"
    assert widget.preferences() == before
    assert widget.noise.value == "estimate"


def test_the_wheel_changes_the_row_that_was_clicked(
    widget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = widget.flow_density.native
    monkeypatch.setattr(native, "hasFocus", lambda: True)
    assert turn_wheel(native)
    assert widget.flow_density.value == 15


@pytest.mark.parametrize("size", [9, 16])
def test_nothing_is_cut_off(
    viewer: Any, widget: Any, panel: QScrollArea, font_size: Any, until: Any, size: int
) -> None:
    font_size(size)
    viewer.window._qt_window.show()
    inner, seen = panel.widget(), panel.viewport()
    assert inner is not None
    assert seen is not None
    until(lambda: inner.width() <= seen.width() and not cut_off(widget.native))


def test_the_run_is_in_sight_in_a_low_window(
    viewer: Any, widget: Any, panel: QScrollArea, until: Any
) -> None:
    window = viewer.window._qt_window
    window.resize(900, 600)
    window.show()
    bar = panel.verticalScrollBar()
    assert bar is not None
    until(lambda: bar.maximum() > 0)
    for shown in (widget.run.fit.native, widget.run.status.native, widget.run.chart):
        assert not shown.visibleRegion().isEmpty()
    assert not panel.isAncestorOf(widget.run.native)


def test_rows_have_names_for_those_who_hear_them(widget: Any, panel: QScrollArea) -> None:
    names = {row.buddy(): row.text().strip() for row in panel.findChildren(QLabel) if row.buddy()}
    for row, name in (
        (widget.preset, "Preset"),
        (widget.gain, "gain"),
        (widget.threads, "Threads"),
    ):
        assert names[row.native] == row.native.accessibleName() == name
    assert len(names) > 30


@pytest.mark.parametrize(
    ("value", "text"), [(0.0005, "0.0005"), (0.05, "0.05"), (100.0, "100"), (1.5, "1.5"), (0, "0")]
)
def test_numbers_have_no_zeros_at_their_end(qapp: Any, value: float, text: str) -> None:
    row = number_row(float, value, 0, 1000, name="x")
    assert row.native.text() == text
    row.native.setLocale(QLocale(QLocale.Language.German))
    assert row.native.text() == text.replace(".", ",")
    row.native.lineEdit().setText("0,25")
    row.native.interpretText()
    assert row.value == 0.25
