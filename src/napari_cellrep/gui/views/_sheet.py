"""One odd cell on a sheet: large, channel by channel, in its surroundings, and beside its group-mates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QToolTip, QWidget

from napari_cellrep.data.crops import Boxes
from napari_cellrep.data.project import Project
from napari_cellrep.gui._pictures import Background, Look, compose
from napari_cellrep.gui.views._parts import beside, frame_focus
from napari_cellrep.gui.views._raster import SELECTED
from napari_cellrep.gui.views._tiles import as_image, frame_picture
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.specs import InputError

if TYPE_CHECKING:
    from napari_cellrep.gui.views.odd import OddView

AROUND = 4  # the cell in its surroundings: so many times the side of its picture
GAP_PX, TITLE_PX = 6, 16
ARROWS = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down)


@dataclass
class Shown:
    """One odd cell with all pictures of it.

    Parameters
    ----------
    cell_id : str
    row : int
    side_px : int
        Side of the picture in field pixels.
    um_per_px : float
        0 when unknown.
    large, around : QImage
        As the viewer shows the channels.
    box : tuple of float
        The cell's bounding box as shares of `around`: x, y, width, height.
    channels, near, typical : list
        (name or row, QImage).
    seen : list
        (name, QImage) of each plane as the network got it; filled in when the worker has answered.
    n_seen : int
        How many of these there will be; 0: no network is known.
    seen_words : str
        How the network's crop was cut and scaled, or why it cannot be shown.
    """

    cell_id: str
    row: int
    side_px: int
    um_per_px: float
    large: QImage
    around: QImage
    box: tuple[float, float, float, float]
    channels: list[tuple[str, QImage]] = field(default_factory=list)
    near: list[tuple[int, QImage]] = field(default_factory=list)
    typical: list[tuple[int, QImage]] = field(default_factory=list)
    seen: list[tuple[str, QImage]] = field(default_factory=list)
    n_seen: int = 0
    seen_words: str = ""

    def set_seen(self, answer: Mapping[str, Any] | str) -> None:
        """Put in what the worker answered (`steps.preview.Sight`, or why there is none)."""
        if isinstance(answer, str):
            self.seen_words = answer
            return
        order = {name: i for i, (name, _) in enumerate(self.channels)}  # each below its channel as acquired
        found = sorted(
            zip(answer["names"], answer["pictures"], strict=True), key=lambda p: order.get(p[0], len(order))
        )
        self.seen = [(name, grey_image(plane)) for name, plane in found]
        self.seen_words = answer["words"]


class Panel(QWidget):
    """The cell, large, with its channels and surroundings; beside it group-mates.

    Arrows go from the cell to its mates; Return does what a click does, Space shows that cell in its field.
    """

    clicked = Signal(int, str)  # row, selection mode
    framed = Signal(int)

    def __init__(self, view: OddView) -> None:
        super().__init__()
        self.view = view
        self.shown: Shown | None = None
        self.complaint = ""
        self.looks: tuple[Look, ...] = ()
        self.at = 0  # picture the arrows are at, among the cell's own and its mates'
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setMinimumHeight(110)
        self.setAccessibleName("Odd cell and its group-mates")

    def sizeHint(self) -> QSize:
        """Room for two lines of mates."""
        return QSize(520, 220)

    def show_cell(self, shown: Shown | None, complaint: str = "") -> None:
        """Show other pictures."""
        if shown is None or self.shown is None or shown.cell_id != self.shown.cell_id:
            self.at = 0
        self.shown, self.complaint = shown, complaint
        self.update()

    def places(self, area: QRect, shown: Shown) -> list[tuple[str, Any, QImage | None, QRect]]:
        """(kind, name or row, picture, place) of all pictures.

        The kind is "large", "channel", "around", "seen", "near" or "typical"; a picture that is still to come is None.
        """
        top: list[tuple[str, Any, QImage | None]] = [
            ("channel", name, image) for name, image in shown.channels[:3]
        ]
        top.append(("around", shown.row, shown.around))
        if shown.n_seen:  # a second line: the channels as acquired, and below them as the network got them
            waiting: list[tuple[str, QImage | None]] = [("", None)] * min(shown.n_seen, 4)
            below = [("seen", name, image) for name, image in (shown.seen[:4] or waiting)]
            columns = max(len(top), len(below))
            own = [(i, 0, *one) for i, one in enumerate(top)] + [(i, 1, *one) for i, one in enumerate(below)]
        else:
            columns = -(-len(top) // 2)
            own = [(i // 2, i % 2, *one) for i, one in enumerate(top)]
        width, height, left, upper = area.width(), area.height(), area.left() + GAP_PX, area.top()
        stacked = height > max(0.45 * width, 320)  # mates below the cell, else beside it
        if stacked:
            mate = min((width - 6 * GAP_PX) // 5, height // 4)
            room = height - 2 * (mate + TITLE_PX + GAP_PX) - TITLE_PX
            large = min(room, 2 * (width - (columns + 2) * GAP_PX) // (columns + 2))
        else:
            # The large picture is as high as two lines of small ones.
            spare = width - (columns + 9) * GAP_PX - TITLE_PX
            mate = min((height - 2 * TITLE_PX - GAP_PX) // 2, spare // (columns + 7))
            large = 2 * mate + TITLE_PX + GAP_PX
        mate, large = max(mate, 8), max(large, 16 + TITLE_PX + GAP_PX)
        small = (large - TITLE_PX - GAP_PX) // 2
        found: list[tuple[str, Any, QImage | None, QRect]] = [
            ("large", shown.row, shown.large, QRect(left, upper + TITLE_PX, large, large))
        ]
        for column, line, kind, name, image in own:
            x = left + large + GAP_PX + column * (small + GAP_PX)
            y = upper + TITLE_PX + line * (small + TITLE_PX + GAP_PX)
            found.append((kind, name, image, QRect(x, y, small, small)))
        if stacked:
            upper += large + TITLE_PX + GAP_PX
        else:
            left += large + columns * (small + GAP_PX) + 2 * GAP_PX
        for line, kind, mates in ((0, "near", shown.near), (1, "typical", shown.typical)):
            y = upper + TITLE_PX + line * (mate + TITLE_PX + GAP_PX)
            for i, (row, image) in enumerate(mates):
                found.append((kind, row, image, QRect(left + i * (mate + GAP_PX), y, mate, mate)))
        return found

    def draw(self, painter: QPainter, area: QRect, shown: Shown) -> None:
        """Draw all pictures into an area, on the screen or on paper."""
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        pen = painter.pen()
        titled = set()
        words = {
            "large": "the cell",
            "around": "around it",
            "near": "nearest of its group",
            "typical": "typical of its group",
            "seen": "as the network sees it"
            if shown.seen or not shown.seen_words
            else "the network is not there",
        }
        several = {"near": 5, "typical": 5, "seen": max(2, len(shown.seen[:4]))}
        for kind, name, image, place in self.places(area, shown):
            if image is not None:
                painter.drawImage(place, image)
            else:
                painter.setPen(QPen(pen.color(), 1, Qt.PenStyle.DotLine))
                painter.drawRect(place.adjusted(0, 0, -1, -1))
                painter.setPen(pen)
            title = str(name) if kind == "channel" else words[kind]
            if kind == "channel" or kind not in titled:
                titled.add(kind)
                room = several.get(kind, 1) * (place.width() + GAP_PX) - GAP_PX
                short = painter.fontMetrics().elidedText(title, Qt.TextElideMode.ElideRight, room)
                painter.drawText(
                    QRect(place.left(), place.top() - TITLE_PX, room, TITLE_PX),
                    Qt.AlignmentFlag.AlignVCenter,
                    short,
                )
            if kind == "large":
                draw_scale_bar(painter, place, shown.side_px, shown.um_per_px)
            elif kind == "around":
                x, y, w, h = shown.box
                box = QRectF(
                    place.left() + x * place.width(),
                    place.top() + y * place.height(),
                    w * place.width(),
                    h * place.height(),
                )
                painter.setPen(QPen(QColor(*SELECTED), 1.5))
                painter.drawRect(box.adjusted(-2, -2, 2, 2))
            painter.setPen(pen)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the pictures; ask for them anew when the viewer shows the channels in another way."""
        painter = QPainter(self)
        if self.shown is not None:
            self.draw(painter, self.rect(), self.shown)
            if self.hasFocus() and not self.view.drawn:
                frame_picture(painter, QRectF(self._cells()[self.at][1]), QColor("white"), 2)
        elif self.complaint:
            painter.drawText(
                self.rect(), Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self.complaint
            )
        frame_focus(painter, self)
        painter.end()
        if self.shown is not None and self.view.canvas.looks() != self.looks:
            self.view.ask()

    # ---- gestures ----------------------------------------------------------------------------------

    def row_at(self, at: QPoint) -> int:
        """The cell whose picture is under a point, or -1."""
        for kind, row, _, place in self.places(self.rect(), self.shown) if self.shown is not None else ():
            if place.contains(at):
                return self.shown.row if kind in ("channel", "seen") else int(row)
        return -1

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click selects, as in every view."""
        if (
            event.button() == Qt.MouseButton.LeftButton
            and (row := self.row_at(event.position().toPoint())) >= 0
        ):
            self.clicked.emit(row, selection_mode(event.modifiers()))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Centre and frame the cell in its field."""
        if (row := self.row_at(event.position().toPoint())) >= 0:
            self.framed.emit(row)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say which cell is under the pointer, unless that is a secret."""
        if self.view.drawn:
            return
        row = self.row_at(event.position().toPoint())
        self.view.session.set_hover(row)
        words = self.view.session.cell_id(row)
        for kind, name, _, place in self.places(self.rect(), self.shown) if row >= 0 else ():
            if place.contains(event.position().toPoint()) and kind == "seen":
                words = f"{words}, {name or 'as the network sees it'}\n{self.shown.seen_words}"
        QToolTip.showText(event.globalPosition().toPoint(), words, self)

    def _cells(self) -> list[tuple[int, QRect]]:
        """(row, place) of the large picture and the mates' pictures."""
        places = self.places(self.rect(), self.shown) if self.shown is not None else []
        return [(int(row), at) for kind, row, _, at in places if kind in ("large", "near", "typical")]

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go to the mates, unless who they are is a secret; other keys are the view's."""
        key, cells = event.key(), [] if self.view.drawn else self._cells()
        if cells and key in ARROWS:
            self.at = beside([place for _, place in cells], self.at, key)
            row, place = cells[self.at]
            self.view.session.set_hover(row)
            QToolTip.showText(
                self.mapToGlobal(place.bottomLeft()), self.view.session.cell_id(row), self, place
            )
            self.update()
        elif cells and key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.clicked.emit(cells[self.at][0], selection_mode(event.modifiers()))
        elif cells and key == Qt.Key.Key_Space:
            self.framed.emit(cells[self.at][0])
        else:
            super().keyPressEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is over no cell any more."""
        self.view.session.set_hover(-1)


def scale_bar(side_px: float, um_per_px: float) -> tuple[float, str]:
    """Length in px, and in words, of a scale bar of a round length: a fifth to a half of the picture's side."""
    unit, side = ("µm", side_px * um_per_px) if um_per_px else ("px", float(side_px))
    power = 10.0 ** np.floor(np.log10(side / 2))
    length = max(step * power for step in (1, 2, 5) if step * power <= side / 2)
    return length / (um_per_px or 1), f"{length:g} {unit}"


def draw_scale_bar(painter: QPainter, place: QRect, side_px: int, um_per_px: float) -> None:
    """Draw a scale bar with its length into a picture that shows `side_px` field pixels; seen on any picture."""
    length_px, words = scale_bar(side_px, um_per_px)
    length = place.width() * length_px / side_px
    x, y = place.right() - 8 - length, place.bottom() - 10
    for colour, width in (("black", 5), ("white", 3)):
        painter.setPen(QPen(QColor(colour), width, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
        painter.drawLine(int(x), y, int(x + length), y)
    for shift, colour in ((1, "black"), (0, "white")):
        painter.setPen(QColor(colour))
        where = QRectF(place.left() + shift, y - 22 + shift, place.width() - 8, 18)
        painter.drawText(where, Qt.AlignmentFlag.AlignRight, words)


# ---- this runs in the thread -----------------------------------------------------------------------


def cut_shown(
    background: Background,
    project: Project,
    obs: Any,
    rows: np.ndarray,
    n_near: int,
    side: int,
    looks: tuple[Look, ...],
    cell_id: str,
) -> Shown:
    """Cut all pictures: row 0 of `obs` is the cell, then come its nearest and its typical mates."""
    names = obs["field"].astype(str).to_numpy()
    if len(looks) != len(project.channels):
        looks = background.looks(project, names[0])
    where = Boxes(
        obs["label"].to_numpy(np.int64),
        obs["area_px"].to_numpy(np.int64),
        obs[["y_px", "x_px"]].to_numpy(float),
        obs[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(np.int64),
    )

    def cut(i: int, size: int) -> np.ndarray:
        one = Boxes(*(part[i : i + 1] for part in (where.label, where.area_px, where.centroid, where.box)))
        return background.crops(project, names[i], one, size)[0]

    crop, wide = cut(0, side), AROUND * side
    corner = where.centroid[0].astype(int) - wide // 2
    y0, x0, y1, x1 = (float(v) for v in where.box[0])
    grey = [
        (c.name, [((1.0, 1.0, 1.0), low, high)])
        for c, (_, low, high) in zip(project.channels, looks, strict=True)
    ]
    mates = []
    for i in range(1, len(rows)):
        try:
            mates.append((int(rows[i]), as_image(compose(cut(i, side), looks))))
        except (InputError, OSError):  # a mate's image is away: the others are shown
            mates.append((int(rows[i]), as_image(np.zeros((2, 2, 3), np.uint8))))
    return Shown(
        cell_id,
        int(rows[0]),
        side,
        project.field(names[0]).um_per_px,
        as_image(compose(crop, looks)),
        as_image(compose(cut(0, wide), looks)),
        ((x0 - corner[1]) / wide, (y0 - corner[0]) / wide, (x1 - x0) / wide, (y1 - y0) / wide),
        [(name, as_image(compose(crop[i : i + 1], tuple(look)))) for i, (name, look) in enumerate(grey)],
        mates[:n_near],
        mates[n_near:],
    )


def grey_image(plane: np.ndarray) -> QImage:
    """A picture of one plane, uint8 (h, w)."""
    plane = np.ascontiguousarray(plane)
    h, w = plane.shape
    return QImage(plane.data, w, h, w, QImage.Format.Format_Grayscale8).copy()
