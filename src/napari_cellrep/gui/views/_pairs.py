"""How alike each two cells of a group are: a square of colours, in the order of the group's main axis."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_cellrep.gui.views._grown import heat_colours
from napari_cellrep.gui.views._parts import frame_focus
from napari_cellrep.gui.views._raster import SELECTED
from napari_cellrep.gui.views._spread import Seen
from napari_cellrep.gui.views._tiles import as_image
from napari_cellrep.gui.views._tones import selection_beside
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session

HEAD_PX = 18
STEPS = {
    Qt.Key.Key_Left: (0, -1), Qt.Key.Key_Right: (0, 1), Qt.Key.Key_Up: (-1, 0), Qt.Key.Key_Down: (1, 0),
}  # fmt: skip
LONG_STEP = 10  # with Ctrl held


class Pairs(QWidget):
    """Correlation of each two cells; blue −1, white 0, red 1. A click selects both cells, a drag all between.

    By keys: arrows (with Ctrl ten at once), Shift and arrows for all between, Return selects, Space shows the cell.

    Parameters
    ----------
    session : Session
    """

    clicked = Signal(object, str)  # rows of the cell table, selection mode
    framed = Signal(int)  # row

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.seen: Seen | None = None
        self._picture = as_image(np.zeros((1, 1, 3), np.uint8))
        self._marks = np.zeros(0, np.int64)
        self._press: QPoint | None = None
        self._drag: QPoint | None = None
        self._from = self._at = (0, 0)  # what the keys cover, from one corner to the other
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(90, 90 + HEAD_PX)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("How alike each two cells of the chosen group are")

    def sizeHint(self) -> QSize:
        """Room for a square."""
        return QSize(170, 190)

    def show_group(self, seen: Seen | None) -> None:
        """Show this group (None: nothing)."""
        self.seen = seen if seen is not None and len(seen.paired) > 1 else None
        if self.seen is not None:
            self._picture = as_image(heat_colours(self.seen.alike, "correlation"))
        self._from = self._at = (0, 0)
        self.mark()

    def mark(self) -> None:
        """Show which of the cells are selected."""
        seen, selected = self.seen, self.session.selected
        self._marks = np.zeros(0, np.int64)
        if seen is not None and len(selected) > int(seen.paired.max()):
            self._marks = np.flatnonzero(selected[seen.paired])
        self.update()

    def area(self) -> QRect:
        """The square."""
        side = max(20, min(self.width() - 8, self.height() - HEAD_PX - 8))
        return QRect(4, HEAD_PX, side, side)

    def pair_at(self, at: QPoint) -> tuple[int, int]:
        """Which two of the cells are under a point (places in their order), or −1, −1."""
        area = self.area()
        if self.seen is None or not area.contains(at):
            return -1, -1
        n = len(self.seen.paired)
        return (
            min(n - 1, (at.y() - area.top()) * n // area.height()),
            min(n - 1, (at.x() - area.left()) * n // area.width()),
        )

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the title, the square, and marks beside the selected cells."""
        if self.seen is None:
            return
        painter = QPainter(self)
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        words = painter.fontMetrics().elidedText(
            "alike: each two cells", Qt.TextElideMode.ElideRight, self.width() - 8
        )
        painter.drawText(QRect(4, 0, self.width() - 8, HEAD_PX), Qt.AlignmentFlag.AlignVCenter, words)
        area, n = self.area(), len(self.seen.paired)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(area, self._picture)
        if 0 < len(self._marks) < n:
            painter.setPen(QPen(selection_beside(self.palette().text().color()), max(1.0, area.height() / n)))
            for i in self._marks:
                y = area.top() + round((i + 0.5) * area.height() / n)
                painter.drawLine(0, y, 3, y)
        if self._press is not None and self._drag is not None:
            painter.setPen(QPen(QColor(*SELECTED), 1, Qt.PenStyle.DashLine))
            painter.drawRect(QRect(self._press, self._drag).normalized() & area)
        if self.hasFocus():
            # Dark within light: it is seen on any colour of the square.
            for colour, more in (("white", 2), ("black", 1)):
                painter.setPen(QPen(QColor(colour), 1))
                painter.drawRect(self._covered().adjusted(-more, -more, more - 1, more - 1))
        frame_focus(painter, self)
        painter.end()

    def place_of(self, one: int, other: int) -> QRect:
        """Where two of the cells (places in their order) meet."""
        area, n = self.area(), 1 if self.seen is None else len(self.seen.paired)
        x0, x1 = (area.left() + (other + k) * area.width() // n for k in (0, 1))
        y0, y1 = (area.top() + (one + k) * area.height() // n for k in (0, 1))
        return QRect(x0, y0, max(1, x1 - x0), max(1, y1 - y0))

    def _covered(self) -> QRect:
        return self.place_of(*self._from) | self.place_of(*self._at)

    # ---- gestures ----------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin a click or a drag."""
        at = event.position().toPoint()
        if event.button() == Qt.MouseButton.LeftButton and self.pair_at(at)[0] >= 0:
            self._press = self._drag = at

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Name the two cells under the pointer, and how alike they are."""
        at = event.position().toPoint()
        if self._press is not None:
            self._drag = at
            self.update()
        self._name(*self.pair_at(at), event.globalPosition().toPoint())

    def _name(self, one: int, other: int, where: QPoint) -> None:
        """Say which two cells these are."""
        words = ""
        if self.seen is not None and one >= 0:
            rows, value = self.seen.paired, float(self.seen.alike[one, other])
            words = f"{self.session.cell_id(int(rows[one]))} · {self.session.cell_id(int(rows[other]))}\n"
            words += f"correlation {value:.2f}"
            self.session.set_hover(int(rows[one]))
        QToolTip.showText(where, words, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the two cells under a click, or all cells whose lines or columns were dragged over."""
        press, self._press, self._drag = self._press, None, None
        self.update()
        if press is None or self.seen is None:
            return
        area, at = self.area(), event.position().toPoint()
        end = QPoint(max(area.left(), min(area.right(), at.x())), max(area.top(), min(area.bottom(), at.y())))
        first, last = self.pair_at(press), self.pair_at(end)
        if (press - end).manhattanLength() < 4:
            last = first
        self._from, self._at = first, last
        self._select(selection_mode(event.modifiers()))

    def _select(self, mode: str) -> None:
        """Select the cells of all lines and columns that are covered: of one square, its two."""
        if self.seen is not None:
            spans = [sorted(ends) for ends in zip(self._from, self._at, strict=True)]
            places = np.concatenate([np.arange(a, b + 1) for a, b in spans])
            self.clicked.emit(self.seen.paired[np.unique(places)], mode)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go about the square by arrows, and select what is covered."""
        key, held = event.key(), event.modifiers()
        if self.seen is None:
            super().keyPressEvent(event)
        elif key in STEPS:
            far = LONG_STEP if held & Qt.KeyboardModifier.ControlModifier else 1
            last = len(self.seen.paired) - 1
            at = tuple(min(max(i + far * by, 0), last) for i, by in zip(self._at, STEPS[key], strict=True))
            self._at = (at[0], at[1])
            if not held & Qt.KeyboardModifier.ShiftModifier:
                self._from = self._at
            self._name(*self._at, self.mapToGlobal(self.place_of(*self._at).bottomRight()))
            self.update()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._select(selection_mode(held))
        elif key == Qt.Key.Key_Space:
            self.framed.emit(int(self.seen.paired[self._at[0]]))
        else:
            super().keyPressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self.session.set_hover(-1)
