"""Which set was taken for which: the confusion matrix, and the cells behind its squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QToolTip, QWidget

from napari_cellrep.gui.views._tones import on_shade, selection_beside
from napari_cellrep.gui.views.map import selection_mode

_SHADE = np.array((0, 114, 178))  # Okabe–Ito blue: darker or lighter than any theme's text


class ConfusionMatrix(QWidget):
    """One line per set: how many of its cells were taken for each set, as a number and as a share of the line."""

    clicked = Signal(int, int, str)  # line, column, selection mode

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.counts = np.zeros((0, 0), np.int64)
        self.at = (-1, -1)  # the square the keyboard is on
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(150, 110)
        self.setAccessibleName("Confusion matrix")

    def sizeHint(self) -> QSize:
        """Room for a few sets."""
        return QSize(270, 220)

    def show_counts(self, names: Sequence[str], counts: np.ndarray) -> None:
        """Show a matrix, int (n, n); none (0, 0) empties it."""
        if list(names) != self.names:
            self.at = (-1, -1)
        self.names, self.counts = list(names), counts
        said = [
            f"{a} taken for {b}: {counts[i, j]:,}"
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if len(counts)
        ]
        self.setAccessibleDescription("; ".join(said[:100]))
        self.update()

    def _margins(self) -> tuple[float, float]:
        """Left and top: room for the names."""
        metrics = self.fontMetrics()
        widest = max((metrics.horizontalAdvance(n) for n in self.names), default=0)
        return min(widest + 12.0, 0.36 * self.width()), 2.4 * metrics.height()

    def rect_of(self, i: int, j: int) -> QRectF:
        """Where a square is drawn."""
        left, top = self._margins()
        n = max(1, len(self.names))
        w = min((self.width() - left - 4) / n, 130.0)
        h = min((self.height() - top - 4) / n, 64.0)
        return QRectF(left + j * w, top + i * h, w - 2, h - 2)

    def square_at(self, at: QPointF) -> tuple[int, int]:
        """The square under a point, or (-1, -1)."""
        for i in range(len(self.counts)):
            for j in range(len(self.counts)):
                if self.rect_of(i, j).contains(at):
                    return i, j
        return -1, -1

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw names, squares, counts and shares."""
        if not len(self.counts):
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        metrics = painter.fontMetrics()
        line = metrics.height()
        left, _ = self._margins()
        n = len(self.names)
        right, elide = Qt.AlignmentFlag.AlignRight, Qt.TextElideMode.ElideMiddle
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setPen(text)
        first, last = self.rect_of(0, 0), self.rect_of(0, n - 1)
        painter.drawText(QRectF(0, 0, left - 6, line), right, "set")
        painter.drawText(QRectF(first.left(), 0, last.right() - first.left(), line), 0, "predicted as")
        back = self.palette().window().color()
        base = np.array((back.red(), back.green(), back.blue()))
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        for i, name in enumerate(self.names):
            box = self.rect_of(i, 0)
            painter.setPen(text)
            short = metrics.elidedText(name, elide, int(left - 8))
            painter.drawText(QRectF(0, box.top(), left - 6, box.height()), right | middle, short)
            head = self.rect_of(0, i)
            short = metrics.elidedText(name, elide, int(head.width()))
            painter.drawText(
                QRectF(head.left(), line, head.width(), line), Qt.AlignmentFlag.AlignHCenter, short
            )
            for j in range(n):
                box = self.rect_of(i, j)
                share = float(shares[i, j])
                rgb = base + (_SHADE - base) * (0.08 + 0.92 * share)
                painter.fillRect(box, QColor(*(int(v) for v in rgb)))
                painter.setPen(on_shade(QColor(*(int(v) for v in rgb))))
                words = f"{self.counts[i, j]:,}"
                if box.height() > 2 * line + 2:
                    words += f"\n{share:.0%}"
                elif metrics.horizontalAdvance(f"{words} · 100%") < box.width() - 4:
                    words += f" · {share:.0%}"
                painter.drawText(box, Qt.AlignmentFlag.AlignCenter, words)
                if i == j:  # where it is right, told by a frame as well as by the place
                    painter.setPen(QPen(text, 1))
                    painter.drawRect(box.adjusted(0.5, 0.5, -0.5, -0.5))
        if self.hasFocus() and self.at != (-1, -1):
            painter.setPen(QPen(selection_beside(text), 2))
            painter.drawRect(self.rect_of(*self.at).adjusted(1, 1, -1, -1))
        painter.end()

    def words_of(self, i: int, j: int) -> str:
        """What a square says, in a sentence."""
        n, of = int(self.counts[i, j]), int(self.counts[i].sum())
        what = f"were recognised as “{self.names[i]}”" if i == j else f"were taken for “{self.names[j]}”"
        return f"{n:,} of the {of:,} cells in “{self.names[i]}” {what}.\nClick to select them."

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what the square means."""
        i, j = self.square_at(event.position())
        QToolTip.showText(event.globalPosition().toPoint(), self.words_of(i, j) if i >= 0 else "", self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the cells of the clicked square."""
        i, j = self.square_at(event.position())
        if event.button() == Qt.MouseButton.LeftButton and i >= 0:
            self.at = (i, j)
            self.clicked.emit(i, j, selection_mode(event.modifiers()))
            self.update()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Begin at the first square when reached by the keyboard."""
        if self.at == (-1, -1) and len(self.counts) and event.reason() != Qt.FocusReason.MouseFocusReason:
            self.at = (0, 0)
        super().focusInEvent(event)
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from square to square, Enter and Space select its cells."""
        steps = {
            Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
        }  # fmt: skip
        n = len(self.counts)
        if n and event.key() in steps:
            step = steps[event.key()]
            self.at = tuple(int(np.clip(a + s, 0, n - 1)) for a, s in zip(self.at, step, strict=True))  # type: ignore[assignment]
            self.update()
        elif (
            n
            and self.at != (-1, -1)
            and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
        ):
            self.clicked.emit(*self.at, selection_mode(event.modifiers()))
        else:
            super().keyPressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """No square is pointed at any more."""
        QToolTip.hideText()
