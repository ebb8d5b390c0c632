"""Cells of the chosen group of Variability along what differs most among them, and its scores as violins."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QToolTip, QWidget

from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui.views._parts import frame_focus
from napari_cellrep.gui.views._spread import Seen
from napari_cellrep.gui.views._tiles import Tiles, frame_picture
from napari_cellrep.gui.views._tones import blue_beside, faint_mark
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session


class Strip(QWidget):
    """Cells of the chosen group at even steps along its main axis, and its scores as a violin.

    Arrows go from cell to cell; Return does what a click does, Space shows the cell in its field.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click, a double-click and the menu do.
    background : Background
        Cuts the pictures.
    """

    HEAD_PX, GAP_PX, TILE_PX, ARROW_PX, WAY_PX = 18, 3, 50, 13, 15
    VIOLIN_PX = (12, 56)  # height of one: least and most

    def __init__(self, session: Session, canvas: Any, background: Background) -> None:
        super().__init__()
        self.session, self.canvas = session, canvas
        self.seen: Seen | None = None
        self.words = ""
        self.pictures = Tiles(session, canvas, background, self.update)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumHeight(self.HEAD_PX + self.TILE_PX + self.ARROW_PX + 3 * self.VIOLIN_PX[0])
        self.setAccessibleName("Cells of the chosen group along what differs most among them")

    def sizeHint(self) -> QSize:
        """Room for the pictures and three violins."""
        return QSize(420, 190)

    def show_group(self, seen: Seen | None, words: str) -> None:
        """Show this group."""
        self.seen, self.words = seen, words
        self.update()

    def forget(self) -> None:
        """Drop all pictures: cells or images changed."""
        self.pictures.forget()
        self.seen = None

    # ---- layout ------------------------------------------------------------------------------------

    def _side_px(self) -> int:
        """Side of a picture: as wide as fits; the violins have their least height left."""
        n = max(1, len(self.seen.rows)) if self.seen is not None else 1
        lines = len(self.seen.violins) if self.seen is not None else 0
        wide = min((self.width() - self.GAP_PX) // n - self.GAP_PX, 160)
        spare = self.height() - self.HEAD_PX - self.ARROW_PX - lines * self.VIOLIN_PX[0]
        if spare - self.WAY_PX >= self.TILE_PX:
            spare -= self.WAY_PX
        return int(max(24, min(wide, spare)))

    def _violin_px(self) -> int:
        """Height of one violin: what the pictures leave."""
        n = len(self.seen.violins) if self.seen is not None else 0
        spare = self.height() - self.HEAD_PX - self._side_px() - self.ARROW_PX - self.WAY_PX
        return int(np.clip(spare // n, *self.VIOLIN_PX)) if n else 0

    def _violins_px(self) -> int:
        n, px = len(self.seen.violins) if self.seen is not None else 0, self._violin_px()
        below = self.HEAD_PX + self._side_px() + self.ARROW_PX + n * px + self.WAY_PX <= self.height()
        return n * px + (self.WAY_PX if n and below else 0)

    def tiles(self) -> list[tuple[int, QRect]]:
        """(row, place) of the pictures."""
        if self.seen is None or not len(self.seen.rows):
            return []
        side = self._side_px()
        return [
            (int(row), QRect(self.GAP_PX + i * (side + self.GAP_PX), self.HEAD_PX, side, side))
            for i, row in enumerate(self.seen.rows)
        ]

    def row_at(self, at: QPoint) -> int:
        """The cell under a point, or -1."""
        return next((row for row, place in self.tiles() if place.contains(at)), -1)

    # ---- painting ----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw words, pictures, the axis under them, and the violins."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        text = self.palette().text().color()
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        painter.setPen(text)
        words = painter.fontMetrics().elidedText(self.words, Qt.TextElideMode.ElideRight, self.width() - 8)
        painter.drawText(QRectF(4, 0, self.width() - 8, self.HEAD_PX), Qt.AlignmentFlag.AlignVCenter, words)
        tiles = self.tiles()
        self._draw_tiles(painter, text, tiles)
        if tiles:
            y = tiles[0][1].bottom() + 7.5
            self._draw_arrow(painter, text, tiles[0][1].left(), tiles[-1][1].right(), y)
        if self.seen is not None and self.seen.violins:
            self._draw_violins(painter, text, self.seen)
        frame_focus(painter, self)
        painter.end()
        self.pictures.ask(row for row, _ in tiles)

    def _draw_tiles(self, painter: QPainter, text: QColor, tiles: list[tuple[int, QRect]]) -> None:
        session, looks = self.session, self.canvas.looks()
        for row, place in tiles:
            picture = self.pictures.get(row, looks)
            if picture is None:
                painter.fillRect(place, QColor(128, 128, 128, 40))
                if self.pictures.lost(row):
                    painter.setPen(text)
                    painter.drawText(place, Qt.AlignmentFlag.AlignCenter, "no image")
            else:
                painter.drawImage(place, picture)
            if row in (session.focus, session.hover):
                frame_picture(painter, QRectF(place), QColor("white"), 1 if row == session.hover else 2)

    def _draw_arrow(self, painter: QPainter, text: QColor, left: float, right: float, y: float) -> None:
        faint = faint_mark(text)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(QPointF(left, y), QPointF(right, y))
        painter.setBrush(faint)
        for tip, back in ((left, 5.0), (right, -5.0)):
            painter.drawPolygon(
                QPolygonF([QPointF(tip, y), QPointF(tip + back, y - 3), QPointF(tip + back, y + 3)])
            )

    def _draw_violins(self, painter: QPainter, text: QColor, seen: Seen) -> None:
        names_px = min(110, max(painter.fontMetrics().horizontalAdvance(t) for t, _, _ in seen.violins) + 8)
        left, right = names_px + 4.0, self.width() - 8.0
        px = self._violin_px()
        top = float(self.height() - self._violins_px())
        low, high = float(seen.at[0]), float(seen.at[-1])

        def x_of(value: float) -> float:
            return left + (value - low) / (high - low) * (right - left)

        bottom = top + len(seen.violins) * px
        if low < 0 < high:
            painter.setPen(QPen(faint_mark(text), 1, Qt.PenStyle.DashLine))
            painter.drawLine(QPointF(x_of(0), top), QPointF(x_of(0), bottom))
        reference, own = faint_mark(text), blue_beside(text)
        for i, (title, outline, (q1, q2, q3)) in enumerate(seen.violins):
            y = top + (i + 0.5) * px
            half = 0.46 * px
            painter.setPen(text)
            name = painter.fontMetrics().elidedText(title, Qt.TextElideMode.ElideRight, names_px)
            painter.drawText(
                QRectF(4, y - 9, names_px, 18),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft,
                name,
            )
            x = [x_of(v) for v in seen.at]
            shape = [QPointF(px, y - half * h) for px, h in zip(x, outline, strict=True)]
            shape += [QPointF(px, y + half * h) for px, h in zip(x[::-1], outline[::-1], strict=True)]
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(reference if title[:2] in ("A:", "B:") else own)
            painter.drawPolygon(QPolygonF(shape))
            painter.setPen(QPen(text, 2.5))
            painter.drawLine(QPointF(x_of(q1), y), QPointF(x_of(q3), y))
            painter.setPen(QPen(text, 1))
            painter.setBrush(self.palette().color(QPalette.ColorRole.Window))
            painter.drawEllipse(QPointF(x_of(q2), y), 3, 3)
        if self._violins_px() > len(seen.violins) * px:
            painter.setPen(text)
            way = QRectF(left, bottom, right - left, self.WAY_PX)
            painter.drawText(way, Qt.AlignmentFlag.AlignLeft, "← closer to A")
            painter.drawText(way, Qt.AlignmentFlag.AlignRight, "closer to B →")

    # ---- gestures ----------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say which cell is under the pointer."""
        row = self.row_at(event.position().toPoint())
        self.session.set_hover(row)
        QToolTip.showText(event.globalPosition().toPoint(), self.session.cell_id(row), self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click means what it means on every picture of a cell; the right button opens the cell's menu."""
        row = self.row_at(event.position().toPoint())
        if row < 0:
            return
        if event.button() == Qt.MouseButton.LeftButton:
            self.canvas.click(row, selection_mode(event.modifiers()))
        elif event.button() == Qt.MouseButton.RightButton:
            self.canvas.open_menu(row, event.globalPosition().toPoint())

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Centre and frame the cell in its field."""
        if (row := self.row_at(event.position().toPoint())) >= 0:
            self.canvas.go_to(row, frame=True)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from cell to cell; Return selects the one they are at, Space frames it in its field."""
        rows = [] if self.seen is None else [int(row) for row in self.seen.rows]
        at = rows.index(self.session.focus) if self.session.focus in rows else -1
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key(), 0)
        if rows and step:
            self.session.set_focus(rows[min(max(at + step, 0), len(rows) - 1)])
        elif at >= 0 and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.canvas.click(rows[at], selection_mode(event.modifiers()))
        elif at >= 0 and event.key() == Qt.Key.Key_Space:
            self.canvas.go_to(rows[at], frame=True)
        else:
            super().keyPressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is over no cell any more."""
        self.session.set_hover(-1)
