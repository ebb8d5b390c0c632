"""Small pictures of numbers for the cards: a histogram with limits, and a bar per field."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_cellrep.gui.views._tones import selection_beside

MOST_BINS = 40
MOST_VALUES = 200_000  # a histogram needs no more, and the window must not wait for it
SIDE = 8  # px left and right of the bars


class _Chart(QWidget):
    """What both have in common: a size that does not widen the dock, and the theme's colours."""

    HEIGHT = 64

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(80)
        self.setFixedHeight(self.HEIGHT)

    def sizeHint(self) -> QSize:
        return QSize(250, self.HEIGHT)

    def _orange(self) -> QColor:
        return selection_beside(self.palette().windowText().color())

    def _tone(self, opacity: float) -> QColor:
        colour = QColor(self.palette().windowText().color())  # napari's style sheet sets it
        colour.setAlphaF(opacity)
        return colour


class Histogram(_Chart):
    """How often which value is, with the limits beyond which a value is flagged.

    Values beyond the middle 99 % are counted in the outermost bars, so that one giant does not squeeze the rest;
    a limit is always within sight.

    Parameters
    ----------
    title : str
        What is counted, with its unit.
    digits : int
        Decimals of the numbers written below.
    """

    def __init__(self, title: str = "", digits: int = 0):
        super().__init__()
        self.title, self._digits = title, digits
        self._values = np.zeros(0)
        self.counts = np.zeros(0, int)
        self.ends = (0.0, 1.0)
        self.low: float | None = None
        self.high: float | None = None

    def set_values(self, values: np.ndarray) -> None:
        """Show these values; those that are not finite are left out, and of very many an even share is drawn."""
        values = np.asarray(values, float)
        values = values[np.isfinite(values)]
        self._values = values[:: max(1, len(values) // MOST_VALUES)]
        self._count()

    def set_limits(self, low: float | None = None, high: float | None = None) -> None:
        """Values below `low` and above `high` are flagged."""
        self.low, self.high = low, high
        self._count()

    def _count(self) -> None:
        values = self._values
        if not len(values):
            self.counts = np.zeros(0, int)
            self.update()
            return
        first, last = np.percentile(values, (0.5, 99.5))
        limits = [v for v in (self.low, self.high) if v is not None and np.isfinite(v)]
        first, last = min(first, *limits, first), max(last, *limits, last)
        if last <= first:
            first, last = first - 0.5, last + 0.5
        bins = int(np.clip(np.sqrt(len(values)) * 2, 8, MOST_BINS))
        self.counts = np.histogram(np.clip(values, first, last), bins, (first, last))[0]
        self.ends = (float(first), float(last))
        words = f"{self.title}: median {self._number(float(np.median(values)))}"
        self.setToolTip(words)
        self.setAccessibleName(words)
        self.update()

    def _number(self, value: float) -> str:
        return f"{value:,.{self._digits}f}"

    def _x(self, value: float) -> float:
        first, last = self.ends
        return SIDE + (self.width() - 2 * SIDE) * (value - first) / (last - first)

    def paintEvent(self, event: QPaintEvent) -> None:
        if not len(self.counts):
            return
        painter = QPainter(self)
        font = painter.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() - 1))
        painter.setFont(font)
        metrics = painter.fontMetrics()
        bottom = self.height() - metrics.height() - 2
        step = (self.width() - 2 * SIDE) / len(self.counts)
        top = 4.0
        for i, count in enumerate(self.counts):
            middle = self.ends[0] + (i + 0.5) / len(self.counts) * (self.ends[1] - self.ends[0])
            flagged = (self.low is not None and middle < self.low) or (
                self.high is not None and middle > self.high
            )
            height = (bottom - top) * count / self.counts.max()
            if count and height < 1.5:
                height = 1.5  # a few cells are still seen
            colour = self._orange() if flagged else self._tone(0.55)
            painter.fillRect(QRectF(SIDE + i * step, bottom - height, max(1.0, step - 1), height), colour)
        painter.setPen(QPen(self._tone(0.55), 1))
        painter.drawLine(QPointF(SIDE, bottom), QPointF(self.width() - SIDE, bottom))
        for limit in (self.low, self.high):
            if limit is not None and self.ends[0] <= limit <= self.ends[1]:
                painter.setPen(QPen(self._orange(), 1.5, Qt.PenStyle.DashLine))
                painter.drawLine(QPointF(self._x(limit), 2), QPointF(self._x(limit), bottom))
        painter.setPen(self._tone(0.8))
        first, last = (self._number(v) for v in self.ends)
        base = self.height() - metrics.descent()
        painter.drawText(QPointF(SIDE, base), first)
        painter.drawText(QPointF(self.width() - SIDE - metrics.horizontalAdvance(last), base), last)
        room = self.width() - 2 * SIDE - metrics.horizontalAdvance(first + last) - 16
        title = metrics.elidedText(self.title, Qt.TextElideMode.ElideRight, max(0, room))
        painter.drawText(QPointF((self.width() - metrics.horizontalAdvance(title)) / 2, base), title)


class FieldBars(_Chart):
    """One bar per field: how many cells it has. A click on it shows the field."""

    HEIGHT = 56
    clicked = Signal(str)  # field id

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[str] = []
        self.counts = np.zeros(0, int)
        self._odd: set[str] = set()
        self._shown = ""
        self.setMouseTracking(True)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def set_fields(
        self, fields: Sequence[str], counts: Sequence[int], odd: Collection[str] = (), shown: str = ""
    ) -> None:
        """Show these fields; the odd ones stand out, and so does the one on the canvas."""
        self.fields, self.counts = list(fields), np.asarray(counts, int)
        self._odd, self._shown = set(odd), shown
        self.setAccessibleName(f"Cells in each of {len(self.fields):,} fields")
        self.update()

    def field_at(self, x: float) -> str:
        """The field whose bar is at this place; "" outside."""
        at = (x - SIDE) / max(1, self.width() - 2 * SIDE) * len(self.fields)
        return self.fields[int(at)] if self.fields and 0 <= at < len(self.fields) else ""

    def x_of(self, field: str) -> float:
        """Where the middle of a field's bar is, in px."""
        step = (self.width() - 2 * SIDE) / len(self.fields)
        return SIDE + (self.fields.index(field) + 0.5) * step

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self.fields:
            return
        painter = QPainter(self)
        step = (self.width() - 2 * SIDE) / len(self.fields)
        bottom, most = self.height() - 8.0, max(1, int(self.counts.max()))
        for i, (field, count) in enumerate(zip(self.fields, self.counts, strict=True)):
            height = max(2.0, (bottom - 4) * count / most)
            colour = self._orange() if field in self._odd else self._tone(0.55)
            bar = QRectF(SIDE + i * step, bottom - height, max(1.0, step - 1.5), height)
            painter.fillRect(bar, colour)
            if field == self._shown:
                painter.fillRect(QRectF(bar.left(), bottom + 2, bar.width(), 3), self._tone(1.0))
        painter.setPen(QPen(self._tone(0.55), 1))
        painter.drawLine(QPointF(SIDE, bottom), QPointF(self.width() - SIDE, bottom))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if field := self.field_at(event.position().x()):
            self.clicked.emit(field)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent):
            field = self.field_at(event.pos().x())
            if field:
                count = int(self.counts[self.fields.index(field)])
                QToolTip.showText(event.globalPos(), f"{field}: {count:,} cells. Click to show it.", self)
                return True
        return super().event(event)
