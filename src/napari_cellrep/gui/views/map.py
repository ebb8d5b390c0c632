"""The map: every cell a point, cells that look alike near each other. Reads the session, writes wishes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import (
    QColor,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
    QPixmap,
    QPolygonF,
    QWheelEvent,
)
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QWidget

from napari_cellrep.gui.views._contours import Clouds, DensityLines, clouds_of, clouds_words, lines_in_view
from napari_cellrep.gui.views._groups import RADIUS_PX, GroupPoints
from napari_cellrep.gui.views._legend import Legend
from napari_cellrep.gui.views._raster import Colours, Raster, View, colours_of, inside_polygon
from napari_cellrep.gui.views._tiles import sharp_pixmap
from napari_cellrep.gui.views._tones import selection_beside
from napari_cellrep.gui.views._words import column_words, number_words
from napari_cellrep.session import MapPlace, Session

TOOLS = ("lasso", "polygon", "rectangle", "pan")
REACH_PX = 10  # hover and click find a point within this distance
CLICK_PX = 4  # a press and release nearer than this is a click
PULSE_MS = 700
STEP_PX = 60  # an arrow key moves the map by so much
_ARROWS = {
    Qt.Key.Key_Left: (1, 0),
    Qt.Key.Key_Right: (-1, 0),
    Qt.Key.Key_Up: (0, 1),
    Qt.Key.Key_Down: (0, -1),
}  # the picture goes the other way
_ZOOMS = {Qt.Key.Key_Plus: 1.25, Qt.Key.Key_Equal: 1.25, Qt.Key.Key_Minus: 0.8}
BOTTOM_LEFT = int(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft) | int(Qt.TextFlag.TextWordWrap)


def selection_mode(modifiers: Any) -> str:
    """Shift adds, Alt subtracts, both intersect; the same in every view."""
    shift = bool(modifiers & Qt.KeyboardModifier.ShiftModifier)
    alt = bool(modifiers & Qt.KeyboardModifier.AltModifier)
    return {(True, False): "add", (False, True): "subtract", (True, True): "intersect"}.get(
        (shift, alt), "replace"
    )


class HoverCard(QFrame):
    """What is known of the cell under the pointer: its picture, and a few words."""

    PICTURE_PX = 112

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.ToolTip)
        self.setAttribute(Qt.WidgetAttribute.WA_ShowWithoutActivating)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.picture = QLabel()
        self.picture.setFixedSize(self.PICTURE_PX, self.PICTURE_PX)
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.words = QLabel()
        self.words.setTextFormat(Qt.TextFormat.RichText)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(6, 6, 10, 6)
        layout.addWidget(self.picture)
        layout.addWidget(self.words)

    def show_picture(self, rgb: Any) -> None:
        """Show a picture, uint8 (S, S, 3); anything else (an error) leaves a sentence in its place."""
        if not isinstance(rgb, np.ndarray):
            self.picture.setText("no picture")
            self.picture.setToolTip(str(rgb))
            return
        rgb = np.ascontiguousarray(rgb)
        h, w = rgb.shape[:2]
        image = QImage(rgb.data, w, h, 3 * w, QImage.Format.Format_RGB888)
        self.picture.setPixmap(sharp_pixmap(image.copy(), self.PICTURE_PX, self.devicePixelRatioF()))


class MapView(QWidget):
    """The cells of a session as points, or its fields or groups as larger ones.

    Left drag draws with the tool, right or middle drag moves the map, the wheel zooms. With the polygon tool, clicks
    set corners; a double-click, Enter or a click on the first corner closes it.

    Parameters
    ----------
    session : Session
    ask_picture : callable, optional
        ``ask_picture(row, then)``: get a cell's picture without waiting; ``then(rgb)`` is called with it.
    place : MapPlace, optional
        Which map it shows; without it the one the session looks at.
    with_legend : bool
        Whether the colours are explained on it.
    """

    clicked = Signal(int, str)  # row, selection mode
    framed = Signal(int)  # double-click or Space: go to this cell in the image
    menu_requested = Signal(int, object)  # row or -1, global position
    group_menu_requested = Signal(str, str, object)  # column, its value, global position
    field_asked = Signal(int)  # double-click on a group: show the field of this cell

    def __init__(
        self,
        session: Session,
        ask_picture: Callable[[int, Callable[[Any], None]], None] | None = None,
        place: MapPlace | None = None,
        with_legend: bool = True,
    ) -> None:
        super().__init__()
        self.session = session
        self.place = place
        self._with_legend = with_legend
        self._ask_picture = ask_picture
        self.tool = "lasso"
        self.by = ""  # column whose values are the points; "" for cells
        self.groups: GroupPoints | None = None
        self.raster = Raster(np.zeros((0, 2)))
        self.colours: Colours = colours_of(None, 0)
        self._own_colours = self.colours  # before somebody moved the ends of the colour bar
        self.view = self._fitted = self._resized = self._settled = (
            View()
        )  # the last as it was before the widget's size
        self._background, self._text, self._light = (38, 41, 48), QColor(240, 241, 242), False
        self._image = QImage()
        self._stale = "place"  # what the next paint has to do first: "place", "choose", "paint" or ""
        self._path: list[QPointF] = []
        self._press: QPointF | None = None
        self._press_button = Qt.MouseButton.NoButton
        self._dragging = False
        self._corners: list[
            tuple[float, float]
        ] = []  # of the polygon, in map units: it stays when the map moves
        self._corner_modifiers = Qt.KeyboardModifier.NoModifier  # when the first corner was set
        self._pointer: QPointF | None = None
        self._fitted_for: tuple[Any, ...] = ()
        self._pulse_left = 0
        self._pulse = QTimer(self)
        self._pulse.setInterval(30)
        self._pulse.timeout.connect(self._beat)
        self.card = HoverCard(self)
        self.density = DensityLines(
            self, lambda: lines_in_view(self.raster, self.view, session.visible), self.update
        )
        self.clouds = Clouds(
            self,
            lambda: clouds_of(self.raster, self.colours, session.visible),
            lambda: self._redo("paint"),  # the points are dim below clouds
        )
        self.legend = Legend(self)
        self.legend.set_theme(self._background, self._text)
        self.legend.reached.connect(self._hide_card)
        self.legend.hidden_chosen.connect(lambda names: session.hide_values(session.colour_by, names))
        self.legend.limits_chosen.connect(lambda limits: session.set_colour_limits(session.colour_by, limits))
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(160, 120)
        self.setAccessibleName("Map of cells")
        self.signals = (
            (session.cells_changed, self._on_cells_changed),
            (session.embedding_changed, self._on_embedding_changed),
            (session.visible_changed, self._on_visible_changed),
            (session.selection_changed, self._on_selection_changed),
            (session.colour_changed, self._on_colour_changed),
            (session.limits_changed, self._on_limits_changed),
            (session.focus_changed, self._on_focus_changed),
            (session.hover_changed, self._on_hover_changed),
        )
        for signal, slot in self.signals:
            signal.connect(slot)
        self._on_cells_changed()

    def disconnect_session(self) -> None:
        """Stop listening; called before the widget goes."""
        for signal, slot in self.signals:
            signal.disconnect(slot, missing_ok=True)
        self._pulse.stop()
        self.density.stop()
        self.clouds.stop()
        self.card.hide()

    def sizeHint(self) -> QSize:  # noqa: D102
        return QSize(520, 320)

    # ---- what the session says -------------------------------------------------------------------

    @property
    def has_map(self) -> bool:
        """Whether there is anything to draw."""
        return bool(len(self.raster.points))

    def coordinates(self) -> np.ndarray | None:
        """Where the cells are on this map, float (n_cells, 2); None without a map."""
        return self.session.map_coordinates(self.place)

    def show_place(self, place: MapPlace | None) -> None:
        """Show another map; None: the one the session looks at."""
        if place != self.place:
            self.place = place
            self._on_cells_changed()

    def show_rows_of(self, column: str) -> None:
        """Show a point for each value of a column ("field", "group", …); "" for each cell."""
        if column != self.by:
            self.by = column
            self._on_cells_changed()

    def _put_together(self) -> None:
        """Make the points of fields or groups."""
        session, self.groups = self.session, None
        if self.by and session.cells is not None and self.by in session.cells.obs:
            own = session.profile_map(self.by) if self.place is None else None
            self.groups = GroupPoints(session.rows_by(self.by), *(own or ()))

    def _on_embedding_changed(self) -> None:
        if self.place is None:
            self._on_cells_changed()

    def _on_cells_changed(self) -> None:
        points, before = self.coordinates(), self.raster.points
        self._corners = []
        self.density.clear()
        self.clouds.clear()
        self._put_together()
        own = self.groups is not None and self.groups.own is not None
        if own and points is not None:
            points = np.full_like(points, np.nan)  # cells have no place on a map of groups
        self.raster = Raster(np.zeros((0, 2)) if points is None else points)
        self.card.hide()
        self._place_groups()
        self._on_colour_changed()
        shown = (id(self.session.cells), self.place or self.session.embedding, self.by if own else "")
        if self._fitted_for != shown and points is not None:
            # A job that writes other columns leaves the points, and the map where it was moved and zoomed to.
            same = (
                self._fitted_for[1:] == shown[1:]
                and not own
                and np.array_equal(before, points, equal_nan=True)
            )
            self._fitted_for = shown
            if not same:
                self.fit()
        self._redo("place")

    def _place_groups(self) -> None:
        """Hidden cells do not count; with those that are shown, places, colours and what is lit change."""
        session = self.session
        if self.groups is not None and len(self.raster.points) == len(session.visible):
            self.groups.place(self.raster.points, session.visible)
            self.groups.choose(session.selected, session.visible)
            if len(self.colours.codes) == len(session.visible):
                self.groups.colour(self.colours, session.visible)

    def _on_visible_changed(self) -> None:
        self._tell_legend()
        self._place_groups()
        self.clouds.stale()
        self._redo("place")

    def _on_selection_changed(self) -> None:
        if self.groups is not None and len(self.groups.rows.codes) == len(self.session.visible):
            self.groups.choose(self.session.selected, self.session.visible)
        self._redo("choose")

    def _on_colour_changed(self) -> None:
        session = self.session
        self._own_colours = colours_of(session.column(session.colour_by), len(self.raster.points))
        self.clouds.clear()  # they have other colours now
        self.clouds.stale()
        self._on_limits_changed()

    def _on_limits_changed(self) -> None:
        limits = self.session.colour_limits(self.session.colour_by)
        self.colours = self._own_colours if limits is None else self._own_colours.limited(*limits)
        self._tell_legend()
        if self.groups is not None and len(self.colours.codes) == len(self.session.visible):
            self.groups.colour(self.colours, self.session.visible)
        self._redo("paint")

    def _tell_legend(self) -> None:
        name, has_map = self.session.colour_by, bool(len(self.raster.points))
        ends = ("A", "B") if self.colours.signed else ("", "")
        title = column_words(name) if has_map and self._with_legend else ""
        self.legend.tell(title, self.colours, self.session.hidden_values(name), ends)

    def _on_focus_changed(self, row: int) -> None:
        at = self._screen(row)
        if at is not None and not self.rect().adjusted(20, 20, -20, -20).contains(at.toPoint()):
            self.centre_on(row)
        self._pulse_left = PULSE_MS
        self._pulse.start()
        self.update()

    def centre_on(self, row: int) -> None:
        """Bring a cell's point to the middle, at the same zoom."""
        if self._screen(row) is not None:
            x, y = self.raster.points[row]
            self.view = View((float(x), float(y)), self.view.scale, self.view.size)
            self._redo("place")

    def _on_hover_changed(self, row: int) -> None:
        self.update()

    def _beat(self) -> None:
        self._pulse_left = max(0, self._pulse_left - self._pulse.interval())
        if not self._pulse_left:
            self._pulse.stop()
        self.update()

    def _redo(self, what: str) -> None:
        order = ("", "paint", "choose", "place")
        self._stale = max(self._stale, what, key=order.index)
        if what == "place":
            self.density.stale()
        self.update()

    # ---- looks -----------------------------------------------------------------------------------

    def set_theme(self, background: tuple[int, int, int], text: tuple[int, int, int]) -> None:
        """Take the colours of napari's theme (red, green, blue)."""
        self._background, self._text = tuple(background), QColor(*text)
        self._light = sum(background) > 384
        self.legend.set_theme(background, self._text)
        self._redo("paint")

    def set_tool(self, tool: str) -> None:
        """Choose what the left button does: one of TOOLS."""
        if tool not in TOOLS:
            raise ValueError(f"The map's tools are {', '.join(TOOLS)}; got {tool!r}.")
        if tool != self.tool:
            self._give_up()
        self.tool = tool
        self.setCursor(Qt.CursorShape.OpenHandCursor if tool == "pan" else Qt.CursorShape.CrossCursor)

    def fit(self) -> None:
        """Show the whole map."""
        shown = self.raster.points
        if self.groups is not None and self.groups.own is not None:
            shown = self.groups.places
        elif len(shown) == len(self.session.visible) and self.session.visible.any():
            shown = shown[self.session.visible]
        (w, h), left, top = self._size(), 0, 0
        legend, ratio = self.legend.geometry(), self.devicePixelRatioF()
        if not self.legend.isHidden():  # beside it, or under a bar of colours; not behind it
            if legend.right() > 0.3 * self.width() and legend.bottom() < 0.35 * self.height():
                top = round(legend.bottom() * ratio)
            elif legend.right() < 0.45 * self.width():
                left = round(legend.right() * ratio)
        view = View.fit(shown, (w - left, h - top))
        self.view = self._fitted = View(view.centre, view.scale, (w, h)).moved(left / 2, top / 2)
        self._redo("place")

    def looked_at(self) -> list[Any]:
        """Where somebody moved and zoomed the map to, as plain values; empty where all of it is shown."""
        if self.view is self._fitted or not self.has_map:
            return []
        # What a window of another size made of it is not what somebody did.
        view = self._settled if self.view is self._resized else self.view
        _, place, own = self._fitted_for
        name = place if isinstance(place, str) else [place.embedding, place.key, *place.axes]
        return [name, own, *view.centre, view.scale, *view.size]

    def look_at(self, kept: Any) -> None:
        """Show the same part of the map as `looked_at` told, if it is of the same map; else leave it."""
        if not self.has_map or not isinstance(kept, list) or len(kept) != 7:
            return
        _, place, own = self._fitted_for
        name = place if isinstance(place, str) else [place.embedding, place.key, *place.axes]
        numbers = [float(v) for v in kept[2:] if isinstance(v, int | float)]
        if (
            kept[:2] == [name, own]
            and len(numbers) == 5
            and np.isfinite(numbers).all()
            and min(numbers[2:]) > 0
        ):
            x, y, scale, w, h = numbers
            size = self._size()
            self._settled = View((x, y), scale, (int(w), int(h)))
            self.view = self._resized = View((x, y), scale * min(size[0] / w, size[1] / h), size)
            self._redo("place")

    def _size(self) -> tuple[int, int]:
        ratio = self.devicePixelRatioF()
        return max(1, round(self.width() * ratio)), max(1, round(self.height() * ratio))

    def _px(self, at: QPointF) -> tuple[float, float]:
        """Widget position → canvas px."""
        ratio = self.devicePixelRatioF()
        return at.x() * ratio, at.y() * ratio

    def _screen(self, row: int) -> QPointF | None:
        """Where a cell's point is on the widget, or None if it has none."""
        if not 0 <= row < len(self.raster.points) or not np.isfinite(self.raster.points[row]).all():
            return None
        if not self.session.visible[row]:
            return None
        x, y = self.view.to_px(self.raster.points[row][None])[0] / self.devicePixelRatioF()
        return QPointF(float(x), float(y))

    def resizeEvent(self, event: Any) -> None:  # noqa: D102
        size = self._size()
        self.legend.arrange()
        if self.view.size != size and self.has_map:
            if self.view.size == (1, 1) or self.view is self._fitted:
                self.fit()
            else:  # the same part of the map, larger or smaller; and as it was when the size is again
                if self.view is not self._resized:
                    self._settled = self.view
                old = self._settled
                grow = min(size[0] / old.size[0], size[1] / old.size[1])
                self.view = self._resized = View(self.view.centre, old.scale * grow, size)
        self._redo("place")

    def _refresh(self) -> None:
        if self.view.size != self._size():
            self.view = View(self.view.centre, self.view.scale, self._size())
            self._stale = "place"
        session, n = self.session, len(self.raster.points)
        if n != len(session.visible):
            return  # the table has just changed; its signal is on the way
        selected = session.selected if self.groups is None else np.zeros(n, bool)  # their groups are lit
        if self._stale == "place":
            self.raster.place(self.view, session.visible, selected, self.devicePixelRatioF())
        elif self._stale == "choose":
            self.raster.choose(selected)
        dim = session.n_selected > 0 or bool(self.clouds.contours) or self.groups is not None
        pixels = self.raster.paint(self.colours, self._background, dim, self._light)
        h, w = pixels.shape[:2]
        self._pixels = np.ascontiguousarray(pixels)  # QImage does not own its memory
        self._image = QImage(self._pixels.data, w, h, 4 * w, QImage.Format.Format_RGB32)
        self._image.setDevicePixelRatio(self.devicePixelRatioF())
        self._stale = ""

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: D102
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(*self._background))
        if not self.has_map:
            return
        if self._stale:
            self._refresh()
        painter.drawImage(0, 0, self._image)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        back = QColor(*self._background)
        ratio = self.devicePixelRatioF()
        words = []
        if self.clouds.on:
            self.clouds.draw(painter, self.view, ratio, self.colours, self._text, back)
            words.append(clouds_words(self.colours))
        if self.density.on:
            self.density.draw(painter, self.view, ratio, self._text, back)
        if self.groups is not None:
            self.groups.draw(painter, self.view, ratio, self._text, back, self._light)
            words.insert(0, self.groups.words)
        if words:
            self._draw_words(painter, "\n".join(words))
        self._draw_marks(painter)
        self._draw_gesture(painter)

    def _draw_words(self, painter: QPainter, words: str) -> None:
        """Say below what is drawn beside the cells."""
        room, back = self.rect().adjusted(8, 0, -8, -6), QColor(*self._background)
        back.setAlpha(190)
        painter.fillRect(painter.boundingRect(room, BOTTOM_LEFT, words), back)
        painter.setPen(self._text)
        painter.drawText(room, BOTTOM_LEFT, words)

    def _ring(self, painter: QPainter, at: QPointF, radius: float, colour: QColor) -> None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        back = QColor(255, 255, 255, 220) if self._light else QColor(0, 0, 0, 220)
        for width, c in ((4.0, back), (2.0, colour)):
            painter.setPen(QPen(c, width))
            painter.drawEllipse(at, radius, radius)

    def _draw_marks(self, painter: QPainter) -> None:
        session = self.session
        hover, focus = self._screen(session.hover), self._screen(session.focus)
        if hover is not None:
            self._ring(painter, hover, 6, self._text)
        if focus is not None:
            grow = 26 * self._pulse_left / PULSE_MS
            self._ring(painter, focus, 9 + grow, selection_beside(self._text) if grow else self._text)

    def _draw_gesture(self, painter: QPainter) -> None:
        if self._corners:
            self._draw_polygon(painter)
        if not self._dragging or len(self._path) < 2 or self._press_button != Qt.MouseButton.LeftButton:
            return
        if self.tool == "lasso":
            shape = QPainterPath()
            shape.addPolygon(QPolygonF(self._path))
            shape.closeSubpath()
        elif self.tool == "rectangle":
            shape = QPainterPath()
            shape.addRect(QRectF(self._path[0], self._path[-1]).normalized())
        else:
            return
        self._draw_shape(painter, shape)

    def _draw_shape(self, painter: QPainter, shape: QPainterPath) -> None:
        orange = selection_beside(self._text)
        fill = QColor(orange)
        fill.setAlpha(40)
        painter.fillPath(shape, fill)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(orange, 1.5))
        painter.drawPath(shape)

    def _draw_polygon(self, painter: QPainter) -> None:
        corners = [QPointF(*at) for at in self.view.to_px(np.array(self._corners)) / self.devicePixelRatioF()]
        shape = QPainterPath()
        shape.addPolygon(QPolygonF(corners + [self._pointer] * (self._pointer is not None)))
        if len(corners) > 1:
            shape.closeSubpath()
        self._draw_shape(painter, shape)
        painter.setBrush(selection_beside(self._text))
        for i, corner in enumerate(corners):
            half = 4.0 if i == 0 else 2.5  # the first is the one that closes
            painter.drawRect(QRectF(corner.x() - half, corner.y() - half, 2 * half, 2 * half))

    # ---- gestures --------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: D102
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        if self._press is not None:
            return  # a second button during a drag
        self._press, self._press_button = event.position(), event.button()
        self._path, self._dragging = [event.position()], False
        self._hide_card()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: D102
        at = self._pointer = event.position()
        if self._corners:
            self.update()
        if self._press is None:
            if not self._corners:  # a card would hide what is being drawn
                self._hover(at)
            return
        if not self._dragging:
            if (at - self._press).manhattanLength() < CLICK_PX:
                return
            self._dragging = True
        last = self._path[-1]
        self._path.append(at)
        if self._moves_map():
            ratio = self.devicePixelRatioF()
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
            self.view = self.view.moved((at.x() - last.x()) * ratio, (at.y() - last.y()) * ratio)
            self._redo("place")
        self.update()

    def _moves_map(self) -> bool:
        return self.tool == "pan" or self._press_button != Qt.MouseButton.LeftButton

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: D102
        if self._press is None or event.button() != self._press_button:
            return
        path, button, dragged = self._path, self._press_button, self._dragging
        moves = self._moves_map()
        self._press, self._dragging, self._path = None, False, []
        mode = selection_mode(event.modifiers())
        if self.tool == "polygon" and button == Qt.MouseButton.LeftButton:
            self._add_corner(event.position(), event.modifiers())
        elif not dragged and self.groups is not None:
            self._click_group(self._group_at(event.position()), button, mode, event)
        elif not dragged:
            row = self.raster.nearest(*self._px(event.position()), REACH_PX * self.devicePixelRatioF())
            if button == Qt.MouseButton.LeftButton and row >= 0:
                self.clicked.emit(row, mode)
            elif button == Qt.MouseButton.RightButton:
                self.menu_requested.emit(row, event.globalPosition().toPoint())
        elif moves:
            self.set_tool(self.tool)  # the open hand again
        elif self.has_map:
            path.append(event.position())
            if self.tool == "rectangle":
                a, b = path[0], path[-1]
                path = [a, QPointF(b.x(), a.y()), b, QPointF(a.x(), b.y())]
            self.select_inside(np.array([self._px(p) for p in path]), mode)
        self.update()

    def _group_at(self, at: QPointF) -> int:
        """The field or group under the pointer, or -1."""
        if self.groups is None:
            return -1
        reach = (RADIUS_PX + 3) * self.devicePixelRatioF()
        return self.groups.nearest(self.view, *self._px(at), reach)

    def _click_group(self, group: int, button: Any, mode: str, event: QMouseEvent) -> None:
        """Select the cells of a field or group, or ask what can be done with it."""
        groups, at = self.groups, event.globalPosition().toPoint()
        if groups is None:
            return
        if button == Qt.MouseButton.LeftButton and group >= 0:
            name = groups.rows.names[group]
            self.session.select(groups.rows.cells(group, self.session.visible), mode, f"{self.by} {name}")
        elif button == Qt.MouseButton.RightButton and group >= 0:
            self.group_menu_requested.emit(self.by, groups.rows.names[group], at)
        elif button == Qt.MouseButton.RightButton:
            self.menu_requested.emit(-1, at)

    # ---- the polygon: corner by corner ---------------------------------------------------------------

    def _add_corner(self, at: QPointF, modifiers: Any) -> None:
        if not self.has_map:
            return
        px = self._px(at)
        if len(self._corners) > 2:
            first = self.view.to_px(np.array(self._corners[:1]))[0]
            if np.hypot(*(first - px)) <= REACH_PX * self.devicePixelRatioF():
                self._close_polygon(modifiers)
                return
        if not self._corners:
            self._corner_modifiers = modifiers
        x, y = self.view.from_px(np.array(px))
        self._corners.append((float(x), float(y)))
        self.update()

    def _close_polygon(self, modifiers: Any) -> None:
        """Select what is inside; with the first two corners there is nothing inside yet, and they stay."""
        if len(self._corners) < 3:
            return
        polygon, mode = np.array(self._corners), selection_mode(modifiers | self._corner_modifiers)
        self._corners = []
        self._select_polygon(polygon, mode)
        self.update()

    def _give_up(self) -> None:
        self._press, self._dragging, self._path, self._corners = None, False, [], []
        self.update()

    def select_inside(self, polygon_px: np.ndarray, mode: str = "replace") -> None:
        """Select the visible cells whose points, or whose group's, lie inside a polygon (canvas px)."""
        self._select_polygon(self.view.from_px(polygon_px), mode)

    def _select_polygon(self, polygon: np.ndarray, mode: str) -> None:
        visible = self.session.visible
        if self.groups is not None:
            self.session.select(self.groups.cells_inside(polygon, visible), mode, self._how())
        else:
            self.session.select(inside_polygon(self.raster.points, polygon) & visible, mode, self._how())

    def _how(self) -> str:
        """What was drawn, and on which map, for the record of sets."""
        place = self.place
        if place is None:
            return f"{self.tool} on the map of {column_words(self.session.embedding)}"
        return f"{self.tool} on the map of {column_words(place.embedding)} ({place.name})"

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:  # noqa: D102
        if event.button() != Qt.MouseButton.LeftButton:
            return
        if self.tool == "polygon":
            self._close_polygon(event.modifiers())
            return
        if self.groups is not None:
            group = self._group_at(event.position())
            own = self.groups.rows.cells(group, self.session.visible) if group >= 0 else ()
            if len(own):
                self.field_asked.emit(int(own[0]))
            return
        row = self.raster.nearest(*self._px(event.position()), REACH_PX * self.devicePixelRatioF())
        if row >= 0:
            self.framed.emit(row)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: D102
        steps = event.angleDelta().y() / 120
        if steps and self.has_map:
            self.view = self.view.zoomed(1.25**steps, self._px(event.position()))
            self._hide_card()
            self._redo("place")
        event.accept()

    def event(self, event: Any) -> bool:  # noqa: D102
        # While a polygon is drawn, its keys are not the window's shortcuts.
        keys = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Backspace)
        if self._corners and event.type() == QEvent.Type.ShortcutOverride and event.key() in keys:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: D102
        key = event.key()
        if key == Qt.Key.Key_Escape and (self._dragging or self._corners):
            self._give_up()
        elif self._corners and key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._close_polygon(event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier)
        elif self._corners and key == Qt.Key.Key_Backspace:
            self._corners.pop()
            self.update()
        elif key == Qt.Key.Key_Space and self.session.focus >= 0:
            self.framed.emit(self.session.focus)
        elif key == Qt.Key.Key_Home:
            self.fit()
        elif key in _ARROWS and self.has_map:
            ratio = self.devicePixelRatioF()
            self.view = self.view.moved(*(STEP_PX * ratio * by for by in _ARROWS[key]))
            self._hide_card()
            self._redo("place")
        elif key in _ZOOMS and self.has_map:
            self.view = self.view.zoomed(_ZOOMS[key], (self.view.size[0] / 2, self.view.size[1] / 2))
            self._hide_card()
            self._redo("place")
        else:
            super().keyPressEvent(event)  # Escape without a drag is for whoever holds the map

    def leaveEvent(self, event: Any) -> None:  # noqa: D102
        self._hide_card()
        self._pointer = None
        self.update()

    # ---- hover -----------------------------------------------------------------------------------

    def _hide_card(self) -> None:
        self.card.hide()
        if self.groups is not None and self.groups.over >= 0:
            self.groups.over = -1
            self.update()
        self.session.set_hover(-1)

    def _hover_group(self, at: QPointF) -> None:
        groups, over = self.groups, self._group_at(at)
        if groups is None or over == groups.over:
            return
        groups.over = over
        self.update()
        if over < 0:
            self.card.hide()
            return
        session = self.session
        column = session.column(session.colour_by)
        self.card.words.setText(groups.describe(over, column, session.visible))
        self.card.picture.hide()
        self.card.adjustSize()
        x, y = self.view.to_px(groups.places[over][None])[0] / self.devicePixelRatioF()
        self._put_card(QPointF(float(x), float(y)))
        self.card.show()

    def _hover(self, at: QPointF) -> None:
        if self.groups is not None:
            self._hover_group(at)
            return
        row = self.raster.nearest(*self._px(at), REACH_PX * self.devicePixelRatioF()) if self.has_map else -1
        if row == self.session.hover:
            return
        self.session.set_hover(row)
        if row < 0:
            self.card.hide()
            return
        self.card.words.setText(self._describe(row))
        self.card.picture.setPixmap(QPixmap())
        self.card.picture.show()
        if self._ask_picture is not None:

            def show(rgb: Any) -> None:
                if self.session.hover == row:
                    self.card.show_picture(rgb)

            self._ask_picture(row, show)
        self.card.adjustSize()
        self._put_card(self._screen(row))
        self.card.show()

    def _put_card(self, at: QPointF | None) -> None:
        """Above the point, or below it when there is no room; always on the screen."""
        if at is None:
            return
        where = self.mapToGlobal(at.toPoint())
        w, h = self.card.sizeHint().width(), self.card.sizeHint().height()
        screen = self.screen().availableGeometry()
        x = min(max(where.x() - w // 2, screen.left()), screen.right() - w)
        y = where.y() - h - 14
        self.card.move(x, y if y >= screen.top() else where.y() + 14)

    def _describe(self, row: int) -> str:
        import html

        session = self.session
        lines = [f"<b>{html.escape(session.cell_id(row))}</b>"]
        shown = ["group"]
        if session.colour_by not in ("", "group", "field"):
            shown.append(session.colour_by)
        for column in shown:
            value = session.value(row, column)
            if value is not None:
                lines.append(f"{html.escape(column_words(column))}: {html.escape(number_words(value))}")
        flags = session.value(row, "flags")
        if flags:
            lines.append("flagged: " + html.escape(str(flags).replace(";", ", ").replace("_", " ")))
        return "<br>".join(lines)
