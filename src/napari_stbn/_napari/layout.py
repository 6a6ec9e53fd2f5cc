"""How rows and buttons stand in a dock: labels aligned, none cut off, scrolled if need be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, Label, PushButton
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

__all__ = ["Rows", "fill_dock", "line", "wrap"]

_LETTERS = 10  # that a box to choose from shows at least
# napari leaves room beside the text that the text needs here.
_SPIN_BOX = "QAbstractSpinBox { padding: 1px 0px; min-width: 6.5em; }"
_IGNORED, _FIXED = QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed


class Rows(QWidget):
    """magicgui's widgets below each other, each with its label and tooltip.

    Parameters
    ----------
    rows : sequence of magicgui widgets
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        super().__init__()
        layout = QFormLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.setLayout(layout)
        self._labels: dict[int, QLabel] = {}
        for row in rows:
            native = row.native
            if isinstance(row, CheckBox):
                layout.addRow(native)
                continue
            _let_shrink(native)
            native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            native.installEventFilter(self)
            native.setAccessibleName(row.label.strip())
            label = QLabel(row.label)
            label.setToolTip(row.tooltip)
            label.setBuddy(native)
            self._labels[id(row)] = label
            layout.addRow(label, native)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Keep the wheel, which scrolls the panel, from changing a row on its way."""
        if event is None or event.type() != QEvent.Type.Wheel:
            return False
        if isinstance(watched, QWidget) and watched.hasFocus():
            return False
        event.ignore()  # else the panel would not get it
        return True

    def show_row(self, row: Any, shown: bool) -> None:
        """Show or hide a row and its label."""
        row.native.setVisible(shown)
        self._labels[id(row)].setVisible(shown)


def _let_shrink(native: QWidget) -> None:
    """Let a field be narrower than its longest words, but not than its usual ones."""
    width = QSizePolicy.Policy.Expanding if isinstance(native, QComboBox) else _IGNORED
    native.setSizePolicy(width, native.sizePolicy().verticalPolicy())
    if isinstance(native, QComboBox):
        native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        native.setMinimumContentsLength(_LETTERS)
    elif isinstance(native, QAbstractSpinBox):
        native.setStyleSheet(_SPIN_BOX)


def line(buttons: Sequence[PushButton]) -> QWidget:
    """Buttons beside each other, each at least as wide as its words."""
    widget, layout = QWidget(), QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for button in buttons:
        button.native.setSizePolicy(QSizePolicy.Policy.Expanding, _FIXED)
        layout.addWidget(button.native)
    widget.setLayout(layout)
    return widget


def wrap(label: Label) -> Label:
    """Let a label break its lines instead of widening the dock."""
    label.native.setWordWrap(True)
    label.native.setSizePolicy(_IGNORED, QSizePolicy.Policy.Minimum)
    return label


class _Column(QScrollArea):
    """Scrolls up and down, and is always as wide as what is in it needs, at any size of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Follow the widget within."""
        done = super().eventFilter(watched, event)
        widget, bar = self.widget(), self.verticalScrollBar()
        if event is not None and event.type() == QEvent.Type.LayoutRequest and widget and bar:
            beside = bar.sizeHint().width() + 2 * self.frameWidth()
            self.setMinimumWidth(widget.minimumSizeHint().width() + beside)
        return done


def fill_dock(dock: QWidget, widgets: Sequence[QWidget], foot: Sequence[QWidget]) -> None:
    """Put widgets below each other, scrolled where the window is low, above a foot that stays.

    magicgui can scroll by itself, but napari takes the inner widget out of its scroll area.
    """
    area = _Column()
    area.setWidget(_below_each_other(widgets))
    layout = dock.layout()
    if isinstance(layout, QVBoxLayout):
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(area, stretch=1)
        layout.addWidget(_below_each_other(foot))
    dock.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)


def _below_each_other(widgets: Sequence[QWidget]) -> QWidget:
    """A widget that holds others, from its top on."""
    holder, column = QWidget(), QVBoxLayout()
    column.setContentsMargins(8, 4, 8, 4)
    column.setSpacing(6)
    for widget in widgets:
        column.addWidget(widget)
    column.addStretch()
    holder.setLayout(column)
    return holder
