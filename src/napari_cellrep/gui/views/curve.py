"""A small plot of a number that should fall: the loss while a network learns; and pictures of what it makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

MOST_POINTS = 2000  # more are thinned out: no screen shows them
LINE = QColor(86, 180, 233)  # Okabe-Ito sky blue: seen on dark and on light


class Curve(QWidget):
    """Loss over epochs: every step as a faint line, its running mean as a bold one.

    Attributes
    ----------
    x, y : list of float
        The points; all of them up to `MOST_POINTS`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.x: list[float] = []
        self.y: list[float] = []
        self._every = self._waiting = 1
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(120)
        self.setFixedHeight(110)
        self.setAccessibleName("Loss curve")
        self.setToolTip(
            "Loss: how wrong the network's predictions still are. Faint: every step; bold: their running mean. "
            "An epoch is one pass over all cells. Training has learned when the line no longer falls."
        )

    def clear(self) -> None:
        """Show nothing."""
        self.x, self.y, self._every, self._waiting = [], [], 1, 1
        self.update()

    def add(self, x: float, y: float) -> None:
        """Add a point; x never goes back."""
        self._waiting -= 1
        if self._waiting > 0:
            return
        self._waiting = self._every
        self.x.append(float(x))
        self.y.append(float(y))
        if len(self.x) > MOST_POINTS:
            self.x, self.y, self._every = self.x[::2], self.y[::2], 2 * self._every
        self.update()

    def mean(self) -> np.ndarray:
        """Running mean of the points: exponential, over about a twentieth of them."""
        y = np.array(self.y)
        share = min(1.0, 20 / max(len(y), 1))
        out, level = np.empty_like(y), y[: max(1, len(y) // 20)].mean() if len(y) else 0.0
        for i, value in enumerate(y):
            level += share * (value - level)
            out[i] = level
        return out

    def paintEvent(self, _: object) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        faint = QColor(text)
        faint.setAlpha(60)
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() * 0.85))
        painter.setFont(font)
        height = painter.fontMetrics().height()
        x, y = np.array(self.x), np.array(self.y)
        # The first steps are often far off; the plot is about what comes after them.
        low, high = (float(y.min()), float(np.percentile(y, 97))) if len(y) else (0.0, 1.0)
        ends = (f"{high:.3g}", f"{low:.3g}") if len(y) else ("", "")
        left = 6 + max(painter.fontMetrics().horizontalAdvance(e) for e in (*ends, "0.00"))
        box = QRectF(left, 5, self.width() - left - 6, self.height() - height - 11)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(box.bottomLeft(), box.bottomRight())
        painter.drawLine(box.topLeft(), box.bottomLeft())
        painter.setPen(text)
        flags = Qt.AlignmentFlag
        if len(y) < 2:
            painter.drawText(box, flags.AlignCenter, "The curve comes with the first steps")
            return
        for words, top in ((ends[0], box.top() - 4), (ends[1], box.bottom() - height + 3)):
            painter.drawText(QRectF(0, top, left - 4, height), flags.AlignRight | flags.AlignVCenter, words)
        below = QRectF(box.left(), box.bottom() + 2, box.width(), height)
        painter.drawText(below, flags.AlignLeft, f"epoch {x[0]:.2f}")
        painter.drawText(below, flags.AlignRight, f"{x[-1]:.2f}")
        painter.drawText(below, flags.AlignHCenter, "loss")
        span = (x[-1] - x[0]) or 1.0, (high - low) or 1.0

        def line(values: np.ndarray) -> QPolygonF:
            px = box.left() + (x - x[0]) / span[0] * box.width()
            py = box.bottom() - (values - low) / span[1] * box.height()
            return QPolygonF([QPointF(a, b) for a, b in zip(px, py, strict=True)])

        painter.setClipRect(box.adjusted(0, -2, 0, 2))
        each = QColor(LINE)
        each.setAlpha(90)
        painter.setPen(QPen(each, 1))
        painter.drawPolyline(line(y))
        painter.setPen(QPen(LINE, 2))
        painter.drawPolyline(line(self.mean()))


class Pictures(QWidget):
    """Small grey pictures, one row per cell, with a word above each column."""

    GAP = 4
    SIDE = 64

    def __init__(self) -> None:
        super().__init__()
        self.columns: tuple[str, ...] = ()
        self.pictures = np.zeros((0, 0, 0, 0), np.uint8)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("What the network makes of a few cells")

    def show_pictures(self, columns: Sequence[str], pictures: np.ndarray) -> None:
        """Show pictures (rows, columns, H, W), uint8."""
        self.columns, self.pictures = tuple(columns), np.ascontiguousarray(pictures)
        self.updateGeometry()
        self.setFixedHeight(self.sizeHint().height())
        self.update()

    def _side(self) -> int:
        n = max(1, len(self.columns))
        return max(16, min(self.SIDE, (max(self.width(), 240) - (n - 1) * self.GAP) // n))

    def sizeHint(self) -> QSize:
        """Room for all rows."""
        rows, n = len(self.pictures), len(self.columns)
        words = 2 * self.fontMetrics().height() + 2
        return QSize(n * (self.SIDE + self.GAP), words + rows * (self._side() + self.GAP) if rows else 0)

    def resizeEvent(self, event: object) -> None:
        """Keep all rows in sight."""
        self.setFixedHeight(self.sizeHint().height())
        super().resizeEvent(event)

    def paintEvent(self, _: object) -> None:
        """Draw it."""
        if not self.pictures.size:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() * 0.85))
        painter.setFont(font)
        side, words = self._side(), 2 * self.fontMetrics().height() + 2
        wide = (self.width() - side) // max(1, len(self.columns) - 1) if len(self.columns) > 1 else 0
        step = min(side + 4 * self.GAP, wide) if wide else side
        flags = Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignBottom | Qt.TextFlag.TextWordWrap
        for j, name in enumerate(self.columns):
            painter.drawText(QRectF(j * step - 6, 0, side + 12, words - 2), int(flags), name)
            for i, row in enumerate(self.pictures):
                data = np.ascontiguousarray(row[j])
                h, w = data.shape
                image = QImage(data.data, w, h, w, QImage.Format.Format_Grayscale8)
                painter.drawImage(QRectF(j * step, words + i * (side + self.GAP), side, side), image)
