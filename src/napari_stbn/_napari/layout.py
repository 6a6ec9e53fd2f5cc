"""How rows and buttons stand in a dock: labels aligned, 300 px wide, scrolled if need be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from magicgui.widgets import CheckBox, Label, PushButton
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
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
            native.setMinimumWidth(60)
            if isinstance(row, CheckBox):
                layout.addRow(native)
                continue
            native.setSizePolicy(_IGNORED, native.sizePolicy().verticalPolicy())
            if isinstance(native, QComboBox):
                native.setSizeAdjustPolicy(
                    QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
                )
            label = QLabel(row.label)
            label.setToolTip(row.tooltip)
            self._labels[id(row)] = label
            layout.addRow(label, native)

    def show_row(self, row: Any, shown: bool) -> None:
        """Show or hide a row and its label."""
        row.native.setVisible(shown)
        self._labels[id(row)].setVisible(shown)


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


def fill_dock(dock: QWidget, widgets: Sequence[QWidget]) -> None:
    """Put widgets below each other, scrolled where the window is low.

    magicgui can scroll by itself, but napari takes the inner widget out of its scroll area.
    """
    inner, column = QWidget(), QVBoxLayout()
    column.setContentsMargins(8, 4, 8, 4)
    column.setSpacing(6)
    for widget in widgets:
        column.addWidget(widget)
    column.addStretch()
    inner.setLayout(column)
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inner)
    area.setMinimumWidth(260)
    layout = dock.layout()
    if layout is not None:
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(area)
    dock.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
