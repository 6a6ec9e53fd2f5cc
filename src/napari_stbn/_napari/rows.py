"""Rows of the widget, made from the fields of the core's dataclasses."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from magicgui.backends._qtpy.widgets import FloatSpinBox as QtFloatSpinBox
from magicgui.backends._qtpy.widgets import QBaseRangedWidget
from magicgui.widgets import CheckBox, ComboBox, LineEdit, SpinBox
from magicgui.widgets.bases import RangedWidget, ValueWidget
from qtpy.QtWidgets import QDoubleSpinBox

from napari_stbn._annotated import annotation_of

__all__ = ["check_values", "field_row", "field_rows", "number_row"]

_LARGEST = 1_000_000_000


class _NumberBox(QDoubleSpinBox):
    """A spin box whose decimals are for typing: zeros at the end are not shown."""

    def textFromValue(self, value: float) -> str:  # noqa: N802
        """The number as short as it can be said."""
        text, point = super().textFromValue(value), self.locale().decimalPoint()
        return text.rstrip("0").removesuffix(point) if point in text else text


class _Numbers(QtFloatSpinBox):
    """What magicgui wants to know of it."""

    def __init__(self, **options: Any) -> None:
        QBaseRangedWidget.__init__(self, _NumberBox, **options)


def field_rows(cls: type, leave_out: typing.Collection[str] = ()) -> dict[str, ValueWidget[Any]]:
    """One row for each field of a dataclass whose annotation says how it is shown.

    Parameters
    ----------
    cls : dataclass
        Fields are ``Annotated[type, {"label": …, "tooltip": …, "min": …, "max": …}]``.
    leave_out : collection of str
        Fields that have a row of their own, or none.

    Returns
    -------
    dict of str to magicgui widget
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        row.name: field_row(row, hints[row.name])
        for row in fields(cls)
        if row.name not in leave_out and typing.get_origin(hints[row.name]) is typing.Annotated
    }


def field_row(field: Field[Any], hint: Any) -> ValueWidget[Any]:
    """The row of one field."""
    details, words, kind, optional = annotation_of(hint)
    options = {
        "name": field.name,
        "label": details.get("label", field.name.replace("_", " ").capitalize()),
        "tooltip": details["tooltip"],
    }
    default: Any = None if field.default is MISSING else field.default
    if words:
        return ComboBox(value=default, choices=words, **options)
    if kind is bool:
        return CheckBox(value=default, **options)
    if kind in (int, float):
        low, high = details.get("min", -_LARGEST), details.get("max", _LARGEST)
        if optional:
            options["tooltip"] += "; 0 leaves it out"
            row = number_row(float, 0, 0, high, **options)
            if kind is int:  # magicgui's spin box for whole numbers shows no words
                row.native.setDecimals(0)
            row.native.setSpecialValueText("automatic")
            return row
        return number_row(kind, default, low, high, **options)
    return LineEdit(value=default, **options)


def check_values(cls: type, values: Mapping[str, Any]) -> None:
    """Raise where a value could not stand in the row of its field.

    Parameters
    ----------
    cls : dataclass
        As in `field_rows`.
    values : mapping of field to value

    Raises
    ------
    ValueError
        With the field and the value.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, value in values.items():
        if typing.get_origin(hints.get(name)) is not typing.Annotated:
            continue
        details, words, kind, optional = annotation_of(hints[name])
        if value is None:
            good = optional
        elif words:
            good = value in words
        elif kind in (int, float):
            number = int if kind is int else int | float
            low, high = details.get("min", -_LARGEST), details.get("max", _LARGEST)
            good = isinstance(value, number) and low <= value <= high
        else:
            good = not isinstance(kind, type) or isinstance(value, kind)
        if not good:
            raise ValueError(f"{name} cannot be {value!r}")


def number_row(
    kind: type, value: float | None, low: float, high: float, **options: Any
) -> ValueWidget[Any]:
    """A spin box that shows numbers of any size without rounding them to nothing."""
    if kind is int:
        return SpinBox(value=int(value or 0), min=int(low), max=int(high), **options)
    row: RangedWidget[Any] = RangedWidget(
        widget_type=_Numbers, value=0.0, min=-_LARGEST, max=_LARGEST, **options
    )
    row.native.setDecimals(6 if 0 < abs(value or 0) < 0.1 else 3)
    row.min, row.max = low, high
    row.value = value or 0.0
    return row
