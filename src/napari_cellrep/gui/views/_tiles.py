"""Pictures of cells as a view draws them: asked for while they are in sight, and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap

from napari_cellrep.gui._pictures import Background
from napari_cellrep.session import Session

KEPT = 4000  # pictures
AT_ONCE = 24  # pictures of one field per request, so that scrolling on is noticed soon


class Tiles:
    """The pictures one widget draws.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels: a picture is kept for the looks it was cut with.
    background : Background
        Cuts the pictures.
    changed : callable
        Called when pictures have arrived: draw again.
    """

    def __init__(
        self, session: Session, canvas: Any, background: Background, changed: Callable[[], None]
    ) -> None:
        self.session, self.canvas, self.background, self.changed = session, canvas, background, changed
        self._kept: OrderedDict[tuple[str, Any], QImage] = OrderedDict()
        self._lost: set[str] = set()
        self._pending = False

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, row: int, looks: Any) -> QImage | None:
        """The picture of a cell, where it is here."""
        return self._kept.get((self.session.cell_id(row), looks))

    def lost(self, row: int) -> bool:
        """Whether a cell's image could not be read: it is not asked for again and again."""
        return self.session.cell_id(row) in self._lost

    def missing(self, rows: Iterable[int], looks: Any) -> list[int]:
        """Those that have no picture yet and can have one."""
        return [row for row in rows if self.get(row, looks) is None and not self.lost(row)]

    def ask(self, rows: Iterable[int]) -> None:
        """Ask for some of the missing among these rows; to be called whenever they were drawn."""
        if self._pending or self.session.project is None or self.session.cells is None:
            return
        looks = self.canvas.looks()
        if missing := self._of_one_field(self.missing(rows, looks))[:AT_ONCE]:
            self._pending, cells = True, self.session.cells
            self.background.ask_pictures(
                missing, lambda found: self.arrived(cells, missing, looks, found), looks
            )

    def fetch(self, rows: Sequence[int], looks: Any, then: Callable[[Any], None]) -> None:
        """Get some of these rows' pictures for print, and call `then` with what came (or the exception)."""
        some, cells = self._of_one_field(rows)[: 4 * AT_ONCE], self.session.cells

        def came(found: Any) -> None:
            self.arrived(cells, some, looks, found)
            then(found)

        self.background.ask_pictures(some, came, looks, kind="print")

    def _of_one_field(self, rows: Sequence[int]) -> list[int]:
        field = self.session.place(rows[0])[0] if rows else ""
        return [row for row in rows if self.session.place(row)[0] == field]

    def arrived(self, cells: Any, rows: Sequence[int], looks: Any, found: Any) -> None:
        """Keep pictures cut for these rows of this table."""
        self._pending = False
        if self.session.cells is cells:  # rows of an older table may be other cells by now
            for i, row in enumerate(rows):
                if isinstance(found, Exception):  # the image is gone, mostly
                    self._lost.add(self.session.cell_id(row))
                    continue
                self._kept[self.session.cell_id(row), looks] = as_image(found[i])
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self.changed()

    def forget(self) -> None:
        """Drop all pictures: cells or images changed."""
        self._kept.clear()
        self._lost.clear()


def frame_picture(painter: QPainter, place: QRectF, colour: QColor, width: float) -> None:
    """Draw a frame just inside a picture, with a dark line within it: it is seen on bright pictures, too."""
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for inset, shade, wide in ((width + 0.5, QColor(20, 20, 20), 1.0), (width / 2, colour, width)):
        painter.setPen(
            QPen(shade, wide, Qt.PenStyle.SolidLine, Qt.PenCapStyle.SquareCap, Qt.PenJoinStyle.MiterJoin)
        )
        painter.drawRect(place.adjusted(inset, inset, -inset, -inset))


def sharp_pixmap(image: QImage, side_px: int, ratio: float) -> QPixmap:
    """A picture of `side_px` at most, in the screen's own pixels, of which there may be several in one of Qt's."""
    side = round(side_px * ratio)
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    pixmap = QPixmap.fromImage(image.scaled(side, side, keep, smooth))
    pixmap.setDevicePixelRatio(ratio)
    return pixmap


def as_image(picture: np.ndarray) -> QImage:
    """A colour picture, uint8 (H, W, 3), as Qt draws it."""
    picture = np.ascontiguousarray(picture)
    h, w = picture.shape[:2]
    return QImage(picture.data, w, h, 3 * w, QImage.Format.Format_RGB888).copy()
