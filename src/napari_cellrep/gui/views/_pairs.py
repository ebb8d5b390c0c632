"""How alike each two cells of a group are: a square of colours, in the order of the group's main axis."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_cellrep.gui.views._grown import heat_colours
from napari_cellrep.gui.views._raster import SELECTED
from napari_cellrep.gui.views._spread import Seen
from napari_cellrep.gui.views._tiles import as_image
from napari_cellrep.gui.views._tones import selection_beside
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session

HEAD_PX = 18


class Pairs(QWidget):
    """Correlation of each two cells; blue −1, white 0, red 1. A click selects both cells, a drag all between.

    Parameters
    ----------
    session : Session
    """

    clicked = Signal(object, str)  # rows of the cell table, selection mode

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.seen: Seen | None = None
        self._picture = as_image(np.zeros((1, 1, 3), np.uint8))
        self._marks = np.zeros(0, np.int64)
        self._press: QPoint | None = None
        self._drag: QPoint | None = None
        self.setMouseTracking(True)
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
        painter.end()

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
        one, other = self.pair_at(at)
        words = ""
        if self.seen is not None and one >= 0:
            rows, value = self.seen.paired, float(self.seen.alike[one, other])
            words = f"{self.session.cell_id(int(rows[one]))} · {self.session.cell_id(int(rows[other]))}\n"
            words += f"correlation {value:.2f}"
            self.session.set_hover(int(rows[one]))
        QToolTip.showText(event.globalPosition().toPoint(), words, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the two cells under a click, or all cells whose lines or columns were dragged over."""
        press, self._press, self._drag = self._press, None, None
        self.update()
        if press is None or self.seen is None:
            return
        area, at = self.area(), event.position().toPoint()
        end = QPoint(max(area.left(), min(area.right(), at.x())), max(area.top(), min(area.bottom(), at.y())))
        (y0, x0), (y1, x1) = self.pair_at(press), self.pair_at(end)
        if (press - end).manhattanLength() < 4:
            places = np.array([y0, x0])
        else:
            spans = [sorted(ends) for ends in ((y0, y1), (x0, x1))]
            places = np.concatenate([np.arange(a, b + 1) for a, b in spans])
        self.clicked.emit(self.seen.paired[np.unique(places)], selection_mode(event.modifiers()))

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self.session.set_hover(-1)
