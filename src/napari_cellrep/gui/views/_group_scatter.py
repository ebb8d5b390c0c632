"""The groups of Variability as points: intensity against place, with what is expected by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QToolTip, QWidget

from napari_cellrep.gui.views._parts import frame_focus
from napari_cellrep.gui.views._spread import Found
from napari_cellrep.gui.views._tones import blue_beside, faint_mark, faint_text, selection_beside
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.specs import p_words

MOST_BARS = (
    300  # with more groups only the chosen one and the one under the pointer have their intervals drawn
)
REACH_PX = 9
NAMED = 6  # groups that bear their name in the scatter
_ARROWS = {
    Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, 1), Qt.Key.Key_Down: (0, -1),
}  # fmt: skip
_RANKS = {
    Qt.Key.Key_Home: -(10**9), Qt.Key.Key_End: 10**9, Qt.Key.Key_PageUp: -1, Qt.Key.Key_PageDown: 1,
}  # fmt: skip


class Scatter(QWidget):
    """Intensity against place, one point for each ranked group; 1 is what is expected by chance.

    By keys: arrows lead to the next point that way, Home, End, Page Up and Page Down through the ranks, Return does what
    a click does, Space shows a field of the group.
    """

    clicked = Signal(int, str)  # group, selection mode
    framed = Signal(int)
    menu_requested = Signal(int, object)  # group, global position
    LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40

    def __init__(self) -> None:
        super().__init__()
        self.found: Found | None = None
        self.points = np.zeros((0, 2))
        self.shown = np.zeros(0, np.int64)  # groups that have a point
        self.marked = np.zeros(0, bool)
        self.chosen = self.hovered = -1
        self.at = -1  # the group that the keys are at
        self.limits = (0.5, 1.5, 0.5, 1.5)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(180, 140)
        self.setAccessibleName("Groups by variability of intensity and of place")

    def sizeHint(self) -> QSize:
        """Room for a square picture."""
        return QSize(320, 260)

    def show_groups(self, found: Found | None) -> None:
        """Show these groups."""
        name = self.found.names[self.at] if self.found is not None and self.at >= 0 else ""
        self.found, self.hovered = found, -1
        self.shown, self.points = np.zeros(0, np.int64), np.zeros((0, 2))
        if found is not None:
            x, y = self._xy()
            self.shown = np.flatnonzero((found.spatial.rank > 0) & np.isfinite(x) & np.isfinite(y))
            self.points = np.stack([x, y], axis=1)[self.shown]
            if len(self.shown):
                low, high = np.minimum(self.points.min(axis=0), 0.8), np.maximum(self.points.max(axis=0), 1.2)
                margin = 0.08 * (high - low)
                low, high = np.maximum(low - margin, 0), high + margin
                self.limits = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
        self.at = next((g for g in self.shown.tolist() if found is not None and found.names[g] == name), -1)
        self.update()

    def _xy(self) -> tuple[np.ndarray, np.ndarray]:
        found = self.found
        assert found is not None
        if not found.asked.intensity:  # one number only: the points stand in one column
            return np.ones(len(found.names)), found.spatial.ratio
        return found.intensity.ratio, found.spatial.ratio

    def mark(self, marked: np.ndarray, chosen: int) -> None:
        """Ring the groups that have selected cells; the chosen one has a square."""
        self.marked, self.chosen = marked, chosen
        self.update()

    # ---- where things are --------------------------------------------------------------------------

    def _area(self) -> QRectF:
        return QRectF(
            self.LEFT, self.TOP, max(10, self.width() - self.LEFT - self.RIGHT),
            max(10, self.height() - self.TOP - self.BOTTOM),
        )  # fmt: skip

    def _px(self, x: float, y: float) -> QPointF:
        x0, x1, y0, y1 = self.limits
        area = self._area()
        return QPointF(
            area.left() + (x - x0) / (x1 - x0) * area.width(),
            area.bottom() - (y - y0) / (y1 - y0) * area.height(),
        )

    def _pixels(self) -> np.ndarray:
        """Where the points are drawn, float (n, 2)."""
        x0, x1, y0, y1 = self.limits
        area = self._area()
        share = (self.points - (x0, y0)) / (x1 - x0, y1 - y0)
        return np.asarray((area.left(), area.bottom()) + share * (area.width(), -area.height()))

    def place_of(self, group: int) -> QPoint:
        """Where a group's point is drawn."""
        i = int(np.flatnonzero(self.shown == group)[0])
        return self._px(*self.points[i]).toPoint()

    def group_at(self, at: QPointF) -> int:
        """The group whose point is nearest, within a few pixels; -1 for none."""
        if not len(self.shown):
            return -1
        away = np.hypot(*(self._pixels() - (at.x(), at.y())).T)
        nearest = int(np.argmin(away))
        return int(self.shown[nearest]) if away[nearest] <= REACH_PX else -1

    # ---- painting ----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the chance range, the groups with their intervals, and names."""
        if self.found is None or not len(self.shown):
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        self._draw_chance(painter, text)
        self._draw_axes(painter, text)
        self._draw_points(painter, text)
        self._draw_names(painter, text)
        if self.at >= 0 and self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(text, 1.5))
            painter.drawEllipse(self.place_of(self.at), 12, 12)
        frame_focus(painter, self)
        painter.end()

    def _chance(self, of: Any) -> tuple[float, float]:
        """Range of the multiples by chance: of the chosen or pointed group's number of cells, else of the usual."""
        group = self.hovered if self.hovered >= 0 else self.chosen
        some = np.array([group]) if group in self.shown else self.shown
        with np.errstate(invalid="ignore"):
            low, high = of.expected_low[some] / of.expected[some], of.expected_high[some] / of.expected[some]
        return float(np.nanmedian(low)), float(np.nanmedian(high))

    def _draw_chance(self, painter: QPainter, text: QColor) -> None:
        area = self._area()
        shade = QColor(text)
        shade.setAlpha(22)
        painter.setClipRect(area)
        low, high = self._chance(self.found.spatial)  # type: ignore[union-attr]
        top, bottom = self._px(1, high).y(), self._px(1, low).y()
        painter.fillRect(QRectF(area.left(), top, area.width(), bottom - top), shade)
        if self.found.asked.intensity:  # type: ignore[union-attr]
            low, high = self._chance(self.found.intensity)  # type: ignore[union-attr]
            left, right = self._px(low, 1).x(), self._px(high, 1).x()
            painter.fillRect(QRectF(left, area.top(), right - left, area.height()), shade)
        painter.setPen(QPen(faint_mark(text), 1, Qt.PenStyle.DashLine))
        one = self._px(1, 1)
        painter.drawLine(QPointF(area.left(), one.y()), QPointF(area.right(), one.y()))
        if self.found.asked.intensity:  # type: ignore[union-attr]
            painter.drawLine(QPointF(one.x(), area.top()), QPointF(one.x(), area.bottom()))
        painter.setPen(faint_text(text))
        words = "by chance"
        width = painter.fontMetrics().horizontalAdvance(words)
        painter.drawText(QPointF(area.right() - width - 4, bottom - 4), words)
        painter.setClipping(False)

    def _draw_axes(self, painter: QPainter, text: QColor) -> None:
        area = self._area()
        painter.setPen(QPen(faint_mark(text), 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        painter.drawLine(area.bottomLeft(), area.topLeft())
        painter.setPen(text)
        x0, x1, y0, y1 = self.limits
        middle = Qt.AlignmentFlag.AlignCenter
        with_intensity = bool(self.found and self.found.asked.intensity)
        for value in ticks(x0, x1) if with_intensity else ():
            painter.drawText(
                QRectF(self._px(value, y0).x() - 20, area.bottom() + 2, 40, 15), middle, f"{value:g}"
            )
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value in ticks(y0, y1):
            painter.drawText(QRectF(18, self._px(x0, value).y() - 8, 24, 16), right, f"{value:g}")
        words = "intensity variability (× expected)" if with_intensity else "no intensity chosen"
        painter.drawText(QRectF(0, area.bottom() + 18, self.width(), 18), middle, words)
        painter.save()
        painter.translate(8, area.center().y())
        painter.rotate(-90)
        painter.drawText(QRectF(-120, -8, 240, 16), middle, "spatial variability (× expected)")
        painter.restore()

    def _draw_points(self, painter: QPainter, text: QColor) -> None:
        found = self.found
        if found is None:
            return
        colour = blue_beside(text)
        thin = QColor(colour)
        thin.setAlpha(110)
        few = len(self.shown) <= MOST_BARS
        own = [group for group in (self.chosen, self.hovered, self._keyed()) if group in self.shown]
        painter.setClipRect(self._area())
        painter.setPen(QPen(thin, 1))
        for group in self.shown.tolist() if few else ():
            self._draw_interval(painter, group)
        painter.setPen(QPen(colour, 1))
        for group in own:
            self._draw_interval(painter, group)
        painter.setClipping(False)
        radius = 4.5 if few else 2.5
        # thousands of round points would take too long; small ones look the same as squares
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, few)
        draw = painter.drawEllipse if few else painter.drawRect
        boxes = [QRectF(x - radius, y - radius, 2 * radius, 2 * radius) for x, y in self._pixels().tolist()]
        beyond = found.spatial.beyond[self.shown].tolist()
        painter.setPen(QPen(colour, 1.5 if few else 1))
        # filled: beyond what is expected by chance; the shape says it, not a colour
        for filled in (False, True):
            painter.setBrush(colour if filled else self.palette().color(QPalette.ColorRole.Window))
            for box, is_beyond in zip(boxes, beyond, strict=True):
                if is_beyond == filled:
                    draw(box)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(selection_beside(text), 2))
        if len(self.marked) == len(found.names):
            for i in np.flatnonzero(self.marked[self.shown]).tolist():
                draw(boxes[i].adjusted(-2, -2, 2, 2))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.chosen in own:
            at = self.place_of(self.chosen)
            painter.setPen(QPen(text, 1.5))
            painter.drawRect(QRectF(at.x() - 8, at.y() - 8, 16, 16))

    def _draw_interval(self, painter: QPainter, group: int) -> None:
        found = self.found
        if found is None:
            return
        x, y = self.points[int(np.flatnonzero(self.shown == group)[0])]
        of = found.spatial
        painter.drawLine(
            self._px(x, of.low[group] / of.expected[group]), self._px(x, of.high[group] / of.expected[group])
        )
        if found.asked.intensity:
            of = found.intensity
            painter.drawLine(
                self._px(of.low[group] / of.expected[group], y),
                self._px(of.high[group] / of.expected[group], y),
            )

    def _draw_names(self, painter: QPainter, text: QColor) -> None:
        found = self.found
        if found is None:
            return
        known = set(self.shown.tolist())
        told = (self.hovered, self._keyed(), self.chosen, *found.order[:NAMED].tolist())
        wanted = [g for g in told if g in known]
        taken: list[QRectF] = []
        painter.setPen(text)
        metrics = painter.fontMetrics()
        for group in dict.fromkeys(wanted):
            at, name = QPointF(self.place_of(group)), found.names[group]
            width = metrics.horizontalAdvance(name)
            x = at.x() + 9 if at.x() + 9 + width < self.width() else at.x() - 9 - width
            box = QRectF(x, at.y() - 15, width, 14)
            if not any(box.intersects(other) for other in taken):
                taken.append(box)
                painter.drawText(QPointF(x, at.y() - 4), name)

    # ---- gestures ----------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what is known of the group under the pointer."""
        group = self.group_at(event.position())
        if group != self.hovered:
            self.hovered = group
            self.update()
        words = said_of(self.found, group) if self.found is not None and group >= 0 else ""
        QToolTip.showText(event.globalPosition().toPoint(), words, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose the clicked group; the right button opens its menu."""
        group = self.group_at(event.position())
        self.at = group if group >= 0 else self.at
        if event.button() == Qt.MouseButton.LeftButton and group >= 0:
            self.clicked.emit(group, selection_mode(event.modifiers()))
        elif event.button() == Qt.MouseButton.RightButton and group >= 0:
            self.menu_requested.emit(group, event.globalPosition().toPoint())

    def _keyed(self) -> int:
        """The group that the keys are at, while they are this picture's; -1 for none."""
        return self.at if self.hasFocus() else -1

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go from point to point, and do with one what a click and a double-click do."""
        key = event.key()
        if self.found is None or not len(self.shown):
            super().keyPressEvent(event)
        elif key in _ARROWS or key in _RANKS:
            self.at = self._after(key)
            self.update()
            where = self.place_of(self.at) + QPoint(14, 14)  # not over the point
            QToolTip.showText(self.mapToGlobal(where), said_of(self.found, self.at), self)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.at >= 0:
            self.clicked.emit(self.at, selection_mode(event.modifiers()))
        elif key == Qt.Key.Key_Space and self.at >= 0:
            self.framed.emit(self.at)
        else:
            super().keyPressEvent(event)

    def _after(self, key: int) -> int:
        """The group that a key leads to; from none the chosen one, else the most variable."""
        assert self.found is not None
        known = set(self.shown.tolist())
        ranked = [group for group in self.found.order.tolist() if group in known]
        if self.at < 0 and key != Qt.Key.Key_End:
            return self.chosen if self.chosen in known else ranked[0]
        if key in _RANKS:
            here = ranked.index(self.at) if self.at >= 0 else 0
            step = _RANKS[Qt.Key(key)]
            return ranked[min(max(here + step, 0), len(ranked) - 1)]
        across, up = _ARROWS[Qt.Key(key)]
        away = (self.points - self.points[np.flatnonzero(self.shown == self.at)[0]]) / (
            self.limits[1] - self.limits[0], self.limits[3] - self.limits[2]
        )  # fmt: skip
        ahead = away @ (across, up)
        # what lies a little aside is nearer than what lies straight ahead, but far
        far = np.where(ahead > 0, ahead + 2 * np.abs(away @ (up, across)), np.inf)
        return int(self.shown[np.argmin(far)]) if np.isfinite(far).any() else self.at

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Open a field of the group."""
        if (group := self.group_at(event.position())) >= 0:
            self.framed.emit(group)

    def leaveEvent(self, event: QEvent) -> None:
        """No group is pointed at any more."""
        self.hovered = -1
        self.update()
        QToolTip.hideText()


def said_of(found: Found, group: int) -> str:
    """The numbers of one group, for its tooltip."""
    lines = [
        f"{found.names[group]} · {found.spatial.n_cells[group]:,} cells · rank {found.spatial.rank[group]:,}"
    ]
    what = "spread of closer to A or to B" if found.asked.spatial else "spread of all features"
    for title, of in (
        (f"spatial ({what})", found.spatial),
        ("intensity (share of its mean)", found.intensity),
    ):
        if np.isfinite(of.value[group]):
            lines.append(
                f"{title}: {of.value[group]:.2f}, interval {of.low[group]:.2f} to {of.high[group]:.2f}; "
                f"by chance {of.expected_low[group]:.2f} to {of.expected_high[group]:.2f}"
                + (f", {p_words(of.p_fdr[group])} (FDR)" if np.isfinite(of.p[group]) else "")
            )
    return "\n".join(lines)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about five."""
    step = 10 ** np.floor(np.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5) if (high - low) / (m * step) <= 6), 10)
    return [round(float(v), 6) for v in np.arange(np.ceil(low / step) * step, high + step / 1e3, step)]
