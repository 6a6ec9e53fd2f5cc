"""Live chart of the loss of a fit, drawn with nothing but Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QToolTip, QWidget

from ._series import Array, Series, nice_ticks, outline, smooth, view_range

__all__ = ["LossChart"]

# Blue and orange, told apart by every kind of colour vision; (on dark, on light).
_TRAINING = QColor("#6cb0ff"), QColor("#0b63c5")
_HELD_OUT = QColor("#ffb454"), QColor("#b85400")
_GAP = 4.0  # px
_RIGHT = Qt.AlignmentFlag.AlignRight
_EMPTY = "The loss appears here during a fit"


class LossChart(QWidget):
    """Training and held-out loss against steps.

    It draws in the colours of the widget's palette, which napari's themes set. `add` only stores:
    call `update` to see it, some times a second.

    Parameters
    ----------
    parent : QWidget, optional
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._training, self._held_out = Series(), Series()
        self._legend_corner, self._area = 0, QRectF()
        self.setMinimumSize(180, 80)
        self.setAccessibleName("Loss of the fit")
        self._describe()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Size that suits a dock [px]."""
        return QSize(260, 120)

    def clear(self) -> None:
        """Forget all, before the next fit."""
        self._training, self._held_out = Series(), Series()
        self._describe()
        self.update()

    def add(self, step: int, loss: float, held_out: float | None = None) -> None:
        """Store the losses of a step; values that are not finite are left out.

        Parameters
        ----------
        step : int
        loss : float
            Of the training batch.
        held_out : float, optional
            Of what the fit does not see, at the steps where it was measured.
        """
        if math.isfinite(loss):
            self._training.add(step, loss)
        if held_out is not None and math.isfinite(held_out):
            self._held_out.add(step, held_out)

    def summary(self) -> str:
        """Newest values in one line, as a screen reader says them."""
        if not (self._training or self._held_out):
            return _EMPTY
        parts = []
        if self._training:
            step, loss = self._training.last
            parts.append(f"step {step:,.0f}: training loss {loss:.4g}")
        if self._held_out:
            step, loss = self._held_out.last
            parts.append(f"held-out loss {loss:.4g} at step {step:,.0f}")
        return ", ".join(parts)

    def event(self, event: QEvent | None) -> bool:
        """Tell the values under the mouse in its tooltip."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            QToolTip.showText(event.globalPos(), self._at(float(event.pos().x())), self)
            return True
        return super().event(event)

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802
        """Draw axes, curves and legend."""
        painter = QPainter(self)
        try:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            font = self.font()
            font.setPointSizeF(max(7.0, 0.8 * font.pointSizeF()))
            painter.setFont(font)
            self._paint(painter)
        finally:
            painter.end()
        self._describe()

    def _paint(self, painter: QPainter) -> None:
        ink = self.palette().color(self.foregroundRole())
        dark = ink.lightnessF() > 0.5
        if not (self._training or self._held_out):
            painter.setPen(_see_through(ink, 0.6))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, _EMPTY)
            return
        frame = _Frame.of(self._training, self._held_out)
        metrics = QFontMetricsF(painter.font())
        self._area = area = self._axes(painter, frame, metrics, ink)

        steps, losses = self._training.arrays()
        held_steps, held_losses = self._held_out.arrays()
        columns = int(area.width())
        raw = frame.points(area, *outline(steps, losses, columns))
        thin = slice((len(steps) - 1) % (thinned := max(1, len(steps) // columns)), None, thinned)
        mean = frame.points(area, steps[thin], smooth(losses)[thin])
        held = frame.points(area, held_steps, held_losses)
        blue, orange = _TRAINING[not dark], _HELD_OUT[not dark]
        painter.save()
        painter.setClipRect(area.adjusted(0, -1, 3, 1))
        painter.setPen(QPen(_see_through(blue, 0.22), 1.0))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, len(steps) < columns)
        painter.drawPolyline(QPolygonF(raw))  # most of the time goes into this line
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(blue, 1.4))
        painter.drawPolyline(QPolygonF(mean))
        painter.setPen(QPen(orange, 1.4))
        painter.drawPolyline(QPolygonF(held))
        painter.setBrush(orange)
        radius = 2.2 if len(held) < 40 else 1.4
        for point in held:
            painter.drawEllipse(point, radius, radius)
        painter.restore()
        named = (("training", blue, mean), ("held-out", orange, held))
        entries = [(name, colour) for name, colour, drawn in named if drawn]
        self._legend(painter, area, metrics, entries, ink, [*mean, *held])

    def _axes(
        self, painter: QPainter, frame: _Frame, metrics: QFontMetricsF, ink: QColor
    ) -> QRectF:
        """Draw axes, grid and ticks; return the area for the curves."""
        height, faint = metrics.height(), _see_through(ink, 0.2)
        y_ticks = nice_ticks(frame.low, frame.high, max(2, int((self.height() - height) / 28)))
        left = max(metrics.horizontalAdvance(label) for _, label in y_ticks) + 2 * _GAP
        area = QRectF(
            left, height / 2, self.width() - left - 2 * _GAP, self.height() - 1.8 * height
        )
        x_ticks = nice_ticks(frame.first, frame.last, max(2, int(area.width() / 60)), whole=True)
        for value, label in y_ticks:
            y = frame.y(area, value)
            painter.setPen(QPen(faint, 1.0))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(_see_through(ink, 0.8))
            where = QRectF(0, y - height / 2, left - _GAP, height)
            painter.drawText(
                where, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, label
            )
        word = metrics.horizontalAdvance("steps")
        painter.drawText(
            QRectF(self.width() - word - _GAP, area.bottom() + 2, word + 1, height),
            _RIGHT,
            "steps",
        )
        for value, label in x_ticks:
            x, width = frame.x(area, value), metrics.horizontalAdvance(label)
            painter.setPen(QPen(faint, 1.0))
            painter.drawLine(QPointF(x, area.bottom()), QPointF(x, area.bottom() + 3))
            where = QRectF(max(0.0, x - width / 2), area.bottom() + 2, width + 1, height)
            if where.right() < self.width() - word - 2 * _GAP:
                painter.setPen(_see_through(ink, 0.8))
                painter.drawText(where, Qt.AlignmentFlag.AlignLeft, label)
        painter.setPen(QPen(_see_through(ink, 0.5), 1.0))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        return area

    def _legend(
        self,
        painter: QPainter,
        area: QRectF,
        metrics: QFontMetricsF,
        entries: list[tuple[str, QColor]],
        ink: QColor,
        points: list[QPointF],
    ) -> None:
        """Draw the legend in the corner that hides the least, and never the newest values."""
        height, key = metrics.height(), 12.0
        width = key + 2 * _GAP + max(metrics.horizontalAdvance(name) for name, _ in entries)
        size = QSize(math.ceil(width), math.ceil(height * len(entries)))
        newest = area.left() + 0.75 * area.width()
        corners = []
        for right, low in ((True, False), (True, True), (False, False), (False, True)):
            x = area.right() - size.width() if right else area.left() + _GAP
            y = area.bottom() - size.height() - 2 if low else area.top()
            corners.append(QRectF(QPointF(x, y), QPointF(x + size.width(), y + size.height())))
        hidden = [
            sum(1000 if point.x() >= newest else 1 for point in points if box.contains(point))
            for box in corners
        ]
        # Stay where it is unless another corner is clearly better: a legend must not hop about.
        if min(hidden) < 0.5 * hidden[self._legend_corner]:
            self._legend_corner = hidden.index(min(hidden))
        box = corners[self._legend_corner]
        painter.fillRect(box, _see_through(self.palette().color(self.backgroundRole()), 0.7))
        for row, (name, colour) in enumerate(entries):
            y = box.top() + (row + 0.5) * height
            painter.setPen(QPen(colour, 1.6))
            painter.drawLine(QPointF(box.left(), y), QPointF(box.left() + key, y))
            if name == "held-out":
                painter.setBrush(colour)
                painter.drawEllipse(QPointF(box.left() + key / 2, y), 2.2, 2.2)
            painter.setPen(ink)
            where = QRectF(box.left() + key + _GAP, y - height / 2, width, height)
            painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, name)

    def _at(self, x: float) -> str:
        """Losses near a place on the chart, or the newest ones outside of the curves."""
        if not self._training:
            return self.summary()
        steps, losses = self._training.arrays()
        area = self._area
        if area.width() <= 0 or not area.left() <= x <= area.right():
            return self.summary()
        frame = _Frame.of(self._training, self._held_out)
        step = frame.first + (x - area.left()) / area.width() * (frame.last - frame.first)
        at = int(np.abs(steps - step).argmin())
        text = f"step {steps[at]:,.0f}: training loss {smooth(losses)[at]:.4g}"
        if self._held_out:
            steps, losses = self._held_out.arrays()
            at = int(np.abs(steps - step).argmin())
            text += f", held-out loss {losses[at]:.4g} at step {steps[at]:,.0f}"
        return text

    def _describe(self) -> None:
        """Keep what a screen reader and the tooltip say in step with what is drawn."""
        text = self.summary()
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            self.setToolTip(text)


@dataclass(frozen=True)
class _Frame:
    """Steps and losses that the chart shows."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def of(cls, training: Series, held_out: Series) -> _Frame:
        """All steps, and the losses that matter."""
        steps, losses = training.arrays()
        held_steps, held_losses = held_out.arrays()
        every = np.concatenate([steps, held_steps])
        first, last = float(every.min()), float(every.max())
        low, high = view_range(losses, held_losses)
        return cls(min(0.0, first), max(last, 1.0), low, high)

    def x(self, area: QRectF, step: float) -> float:
        """Where a step is [px]."""
        return area.left() + (step - self.first) / (self.last - self.first) * area.width()

    def y(self, area: QRectF, loss: float) -> float:
        """Where a loss is [px], at most a chart's height out of the chart."""
        part = (loss - self.low) / (self.high - self.low)
        return area.bottom() - min(max(part, -1.0), 2.0) * area.height()

    def points(self, area: QRectF, steps: Array, losses: Array) -> list[QPointF]:
        """The points of a curve [px]."""
        pairs = zip(steps.tolist(), losses.tolist(), strict=True)
        return [QPointF(self.x(area, x), self.y(area, y)) for x, y in pairs]


def _see_through(colour: QColor, alpha: float) -> QColor:
    """The colour with this opacity."""
    faded = QColor(colour)
    faded.setAlphaF(alpha)
    return faded
