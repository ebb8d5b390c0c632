"""Small pictures of numbers about a cell: its class probabilities as bars, and how heads and channels agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_cellrep.gui.views._tones import on_shade, selection_beside

_SHADE = np.array((0, 114, 178))  # Okabe–Ito blue: darker or lighter than any theme's text
_UP, _DOWN = Qt.Key.Key_Up, Qt.Key.Key_Down
_PRESS = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
BAR_SHARE = 0.6  # of a bar's blue: the theme's text is read on it


def shaded(widget: QWidget, share: float) -> QColor:
    """From the window's own colour (0) to blue (1)."""
    back = widget.palette().window().color()
    base = np.array((back.red(), back.green(), back.blue()))
    return QColor(*(int(v) for v in base + (_SHADE - base) * (0.08 + 0.92 * min(max(share, 0), 1))))


class ClassBars(QWidget):
    """The most probable classes of a cell, longest bar first; a click asks for a class's evidence."""

    chosen = Signal(str)
    MOST = 8

    def __init__(self) -> None:
        super().__init__()
        self.shares: dict[str, float] = {}
        self.current = ""  # whose evidence is shown
        self.at = -1  # the bar the keyboard is on
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.setAccessibleName("Class probabilities")
        self.setMouseTracking(True)

    def show_shares(self, shares: Mapping[str, float], current: str) -> None:
        """Show classes, most probable first, and which one's evidence is in the image ("" if none)."""
        names = list(shares)[: self.MOST]
        names += [current] if current in shares and current not in names else []
        self.shares, self.current, self.at = {n: float(shares[n]) for n in names}, current, -1
        self.setAccessibleDescription("; ".join(f"{n} {v:.1%}" for n, v in self.shares.items()))
        self.setMinimumHeight(len(names) * self._line())
        self.updateGeometry()
        self.update()

    def _line(self) -> int:
        return self.fontMetrics().height() + 6

    def sizeHint(self) -> QSize:
        """Room for all bars."""
        return QSize(260, len(self.shares) * self._line())

    def rect_of(self, i: int) -> QRectF:
        """Where a bar's line is."""
        return QRectF(0, i * self._line(), self.width(), self._line() - 2)

    def bar_at(self, at: QPointF) -> int:
        """The bar under a point, or -1."""
        return next((i for i in range(len(self.shares)) if self.rect_of(i).contains(at)), -1)

    def paintEvent(self, _: QPaintEvent) -> None:
        """Draw bars, names and percent; the class of the evidence has a frame and a mark."""
        painter = QPainter(self)
        text, flags = self.palette().text().color(), Qt.AlignmentFlag
        metrics = painter.fontMetrics()
        number = metrics.horizontalAdvance("100.0 %") + 8
        for i, (name, share) in enumerate(self.shares.items()):
            box = self.rect_of(i)
            full = box.adjusted(0, 0, -number, 0)
            painter.fillRect(full, shaded(self, 0.0))
            painter.fillRect(
                QRectF(full.left(), full.top(), max(2.0, full.width() * share), full.height()),
                shaded(self, BAR_SHARE),
            )
            painter.setPen(text)
            mark = "▸ " if name == self.current else "   "
            short = metrics.elidedText(mark + name, Qt.TextElideMode.ElideMiddle, int(full.width()) - 8)
            painter.drawText(full.adjusted(5, 0, 0, 0), flags.AlignLeft | flags.AlignVCenter, short)
            painter.drawText(box, flags.AlignRight | flags.AlignVCenter, f"{share:.1%}")
            if name == self.current:
                painter.setPen(QPen(text, 1))
                painter.drawRect(full.adjusted(0.5, 0.5, -0.5, -0.5))
            if self.hasFocus() and i == self.at:
                painter.setPen(QPen(selection_beside(self.palette().text().color()), 2))
                painter.drawRect(full.adjusted(1, 1, -1, -1))
        painter.end()

    def _choose(self, i: int) -> None:
        if 0 <= i < len(self.shares):
            self.chosen.emit(list(self.shares)[i])

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what a click does."""
        i = self.bar_at(event.position())
        words = f"Click to see what speaks for {list(self.shares)[i]} in the image." if i >= 0 else ""
        QToolTip.showText(event.globalPosition().toPoint(), words, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose the class that was clicked."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._choose(self.bar_at(event.position()))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and down go from bar to bar, Enter and Space choose."""
        if event.key() in (_UP, _DOWN) and self.shares:
            step = 1 if event.key() == _DOWN else -1
            self.at = int(np.clip(self.at + step, 0, len(self.shares) - 1))
            self.update()
        elif event.key() in _PRESS and self.at >= 0:
            self._choose(self.at)
        else:
            super().keyPressEvent(event)


class HeadMatrix(QWidget):
    """One line per head, one column per channel: how well the bright parts of both fall together, as a number and a shade."""

    clicked = Signal(int, int)  # head, channel

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.channels: list[str] = []
        self.iou = self.chance = np.zeros((0, 0))
        self.at = (-1, -1)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.setAccessibleName("Heads against channels")

    def show_matrix(
        self, heads: Sequence[str], channels: Sequence[str], iou: np.ndarray, chance: np.ndarray
    ) -> None:
        """Show a matrix (heads, channels) from 0 to 1; NaN where there is nothing to compare."""
        self.heads, self.channels, self.at = list(heads), list(channels), (-1, -1)
        self.iou, self.chance = np.asarray(iou), np.asarray(chance)
        said = [
            f"{h}, {c}: {self._number(i, j)}" for i, h in enumerate(heads) for j, c in enumerate(channels)
        ]
        self.setAccessibleDescription("; ".join(said[:100]))
        self.setMinimumHeight(self.sizeHint().height())
        self.updateGeometry()
        self.update()

    def _number(self, i: int, j: int) -> str:
        value = self.iou[i, j]
        return f"{value:.2f}" if np.isfinite(value) else "–"

    def _line(self) -> int:
        return self.fontMetrics().height() + 4

    def sizeHint(self) -> QSize:
        """Room for all heads."""
        return QSize(260, (len(self.heads) + 1) * self._line() + 4)

    def rect_of(self, i: int, j: int) -> QRectF:
        """Where a field is drawn."""
        metrics = self.fontMetrics()
        left = min(
            max((metrics.horizontalAdvance(h) for h in self.heads), default=0) + 10, 0.4 * self.width()
        )
        w = min((self.width() - left - 4) / max(1, len(self.channels)), 110.0)
        return QRectF(left + j * w, (i + 1) * self._line(), w - 2, self._line() - 2)

    def field_at(self, at: QPointF) -> tuple[int, int]:
        """The field under a point, or (-1, -1)."""
        for i in range(len(self.heads)):
            for j in range(len(self.channels)):
                if self.rect_of(i, j).contains(at):
                    return i, j
        return -1, -1

    def paintEvent(self, _: QPaintEvent) -> None:
        """Draw names, fields and numbers; the shade is of the matrix's own largest number."""
        painter = QPainter(self)
        text, flags = self.palette().text().color(), Qt.AlignmentFlag
        metrics, elide = painter.fontMetrics(), Qt.TextElideMode.ElideMiddle
        finite = self.iou[np.isfinite(self.iou)]
        top = max(float(finite.max(initial=0)), 1e-9)
        for i, head in enumerate(self.heads):
            first = self.rect_of(i, 0)
            painter.setPen(text)
            name = QRectF(0, first.top(), first.left() - 6, first.height())
            painter.drawText(
                name,
                flags.AlignRight | flags.AlignVCenter,
                metrics.elidedText(head, elide, int(name.width())),
            )
            for j, channel in enumerate(self.channels):
                box = self.rect_of(i, j)
                if i == 0:
                    painter.setPen(text)
                    above = box.translated(0, -self._line())
                    painter.drawText(
                        above, flags.AlignCenter, metrics.elidedText(channel, elide, int(box.width()))
                    )
                value = self.iou[i, j]
                colour = shaded(self, float(value) / top if np.isfinite(value) else 0.0)
                painter.fillRect(box, colour)
                painter.setPen(on_shade(colour))
                painter.drawText(box, flags.AlignCenter, self._number(i, j))
        if self.at != (-1, -1):
            painter.setPen(QPen(selection_beside(self.palette().text().color()), 2))
            painter.drawRect(self.rect_of(*self.at).adjusted(1, 1, -1, -1))
        painter.end()

    def words_of(self, i: int, j: int) -> str:
        """What a field says, in a sentence."""
        if not np.isfinite(self.iou[i, j]):
            return (
                f"{self.heads[i]} or {self.channels[j]} is the same everywhere: there is nothing to compare."
            )
        return (
            f"{self.heads[i]} and {self.channels[j]}: of what either marks as bright, {self.iou[i, j]:.0%} is marked by both; "
            f"{self.chance[i, j]:.0%} by chance, for parts of these sizes.\n(Intersection over union; bright is what lies above "
            "Otsu's threshold.)\nClick to see this head on this channel in the image."
        )

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what the field means."""
        i, j = self.field_at(event.position())
        QToolTip.showText(event.globalPosition().toPoint(), self.words_of(i, j) if i >= 0 else "", self)

    def leaveEvent(self, _: QEvent) -> None:
        """No field is pointed at any more."""
        QToolTip.hideText()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose the field that was clicked."""
        i, j = self.field_at(event.position())
        if event.button() == Qt.MouseButton.LeftButton and i >= 0:
            self.at = (i, j)
            self.clicked.emit(i, j)
            self.update()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Begin at the first field when reached by the keyboard."""
        if self.at == (-1, -1) and self.heads and event.reason() != Qt.FocusReason.MouseFocusReason:
            self.at = (0, 0)
        super().focusInEvent(event)
        self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from field to field, Enter and Space choose."""
        steps = {Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), _UP: (-1, 0), _DOWN: (1, 0)}
        if self.heads and event.key() in steps:
            ends = (len(self.heads) - 1, len(self.channels) - 1)
            step = steps[event.key()]
            self.at = tuple(int(np.clip(a + s, 0, e)) for a, s, e in zip(self.at, step, ends, strict=True))  # type: ignore[assignment]
            self.update()
        elif self.at != (-1, -1) and event.key() in _PRESS:
            self.clicked.emit(*self.at)
        else:
            super().keyPressEvent(event)
