"""A small plot of a number that should fall: the loss while a network learns; and pictures of what it makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_cellrep.gui.views._tones import blue_beside, faint_mark, orange_beside

MOST_POINTS = 2000  # more are thinned out: no screen shows them


class Curve(QWidget):
    """Loss over epochs: every step as a faint line, its running mean as a bold one, that of held-out cells dashed.

    Attributes
    ----------
    x, y : list of float
        The points; all of them up to `MOST_POINTS`.
    held_x, held_y : list of float
        Epoch and loss of cells that are not learned from, where there are such.
    """

    def __init__(self) -> None:
        super().__init__()
        self.x: list[float] = []
        self.y: list[float] = []
        self.held_x: list[float] = []
        self.held_y: list[float] = []
        self._every = self._waiting = 1
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(120)
        self.setFixedHeight(110)
        self.setAccessibleName("Loss curve")
        self.setToolTip(
            "Loss: how wrong the network's predictions still are. Faint: every step; bold: their running mean. "
            "An epoch is one pass over all cells. Training has learned when the line no longer falls. "
            "Dashed: the loss of cells that were held out; when it rises again, the network learns its cells by heart. "
            "DeepLoc keeps the model of its lowest point; the others when asked (Keep the weights of)."
        )

    def clear(self) -> None:
        """Show nothing."""
        self.x, self.y, self._every, self._waiting = [], [], 1, 1
        self.held_x, self.held_y = [], []
        self.update()

    def add_held_out(self, epoch: float, loss: float) -> None:
        """Add the held-out cells' loss after an epoch; one that is there already is left as it is."""
        if not self.held_x or epoch > self.held_x[-1]:
            self.held_x.append(float(epoch))
            self.held_y.append(float(loss))
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
        learned, held_out = blue_beside(text), orange_beside(text)
        font = painter.font()
        font.setPointSizeF(max(6.5, font.pointSizeF() * 0.85))
        painter.setFont(font)
        height = painter.fontMetrics().height()
        x, y = np.array(self.x), np.array(self.y)
        # The first steps are often far off; the plot is about what comes after them.
        low, high = (float(y.min()), float(np.percentile(y, 97))) if len(y) else (0.0, 1.0)
        if len(y) and self.held_y:
            low, high = (
                min(low, min(self.held_y)),
                max(high, float(np.percentile(self.held_y, 80)), self.held_y[-1]),
            )
        ends = (f"{high:.3g}", f"{low:.3g}") if len(y) else ("", "")
        left = 6 + max(painter.fontMetrics().horizontalAdvance(e) for e in (*ends, "0.00"))
        box = QRectF(left, 5, self.width() - left - 6, self.height() - height - 11)
        painter.setPen(QPen(faint_mark(text), 1))
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
        first, span = x[0], ((x[-1] - x[0]) or 1.0, (high - low) or 1.0)

        def line(values: np.ndarray, x: np.ndarray = x) -> QPolygonF:
            px = box.left() + (x - first) / span[0] * box.width()
            py = box.bottom() - (values - low) / span[1] * box.height()
            return QPolygonF([QPointF(a, b) for a, b in zip(px, py, strict=True)])

        painter.setClipRect(box.adjusted(0, -2, 0, 2))
        each = QColor(learned)
        each.setAlpha(90)
        painter.setPen(QPen(each, 1))
        painter.drawPolyline(line(y))
        painter.setPen(QPen(learned, 2))
        painter.drawPolyline(line(self.mean()))
        if not self.held_x:
            return
        dashed = QPen(held_out, 2, Qt.PenStyle.DashLine)
        painter.setPen(dashed)
        points = line(np.array(self.held_y), np.array(self.held_x))
        painter.drawPolyline(points)
        if len(self.held_x) == 1:  # one point makes no line
            painter.drawEllipse(points[0], 2, 2)
        painter.setClipping(False)
        right, y_px = box.right(), box.top() + height / 2
        for words, pen in (("held out", dashed), ("learned from", QPen(learned, 2))):
            wide = painter.fontMetrics().horizontalAdvance(words)
            painter.setPen(text)
            painter.drawText(
                QRectF(right - wide, box.top(), wide, height), flags.AlignRight | flags.AlignVCenter, words
            )
            painter.setPen(pen)
            painter.drawLine(QPointF(right - wide - 22, y_px), QPointF(right - wide - 4, y_px))
            right -= wide + 30


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
