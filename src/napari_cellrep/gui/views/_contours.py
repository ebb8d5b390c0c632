"""What is drawn over the points of a map: lines of equal density, and a cloud for each value of a column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from qtpy.QtCore import QObject, QPointF, Qt, QTimer
from qtpy.QtGui import QColor, QPainter, QPainterPath, QPen, QPolygonF, QTransform

from napari_cellrep.gui.views._density import Contour, contours
from napari_cellrep.gui.views._raster import Raster, View

LINES = (0.95, 0.75, 0.5, 0.25)  # share of the cells in view that a line encloses
QUIET_MS = 50  # so long the map has to stand still before its lines are computed again


class DensityLines(QObject):
    """Lines about most of the cells in view; they follow the map and are computed anew when it stands still.

    Parameters
    ----------
    update : callable
        Called when there is something new to draw.
    """

    def __init__(
        self, parent: QObject, measure: Callable[[], list[Contour]], update: Callable[[], None]
    ) -> None:
        super().__init__(parent)
        self.on = False
        self.contours: list[Contour] = []
        self._measure, self._update = measure, update
        self._paths: list[tuple[Contour, QPainterPath]] = []
        self._quiet = QTimer(self)
        self._quiet.setSingleShot(True)
        self._quiet.setInterval(QUIET_MS)
        self._quiet.timeout.connect(self._compute)

    def turn(self, on: bool) -> None:
        """Show them or not."""
        self.on = on
        self.clear()
        self.stale()
        self._update()

    def clear(self) -> None:
        """Forget the lines: they belong to other points."""
        self.contours, self._paths = [], []

    def stale(self) -> None:
        """Compute them again soon."""
        if self.on:
            self._quiet.start()

    def stop(self) -> None:
        """Compute nothing any more."""
        self._quiet.stop()

    def _compute(self) -> None:
        self.contours = self._measure()
        self._paths = [(contour, _path(contour)) for contour in self.contours]
        self._update()

    def draw(self, painter: QPainter, view: View, ratio: float, line: QColor, back: QColor) -> None:
        """Draw what is known over the points."""
        if not self.on:
            return
        for contour, path in self._paths:
            shape = _on_screen(path, view, ratio)
            under, over = QColor(back), QColor(line)
            under.setAlpha(150)
            over.setAlpha(235)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            width = 1.0 + 0.8 * (1 - contour.share)
            for pen in (QPen(under, width + 2), QPen(over, width)):
                painter.strokePath(shape, pen)


def lines_in_view(raster: Raster, view: View, visible: np.ndarray) -> list[Contour]:
    """Density of the cells in view."""
    x, y, rows = raster.in_drawing_order
    if not visible.all():
        shown = visible[rows]
        x, y = x[shown], y[shown]
    (left, top), (right, bottom) = view.from_px(np.array([(0, 0), view.size]))
    return contours(x, y, (left, bottom, right, top), LINES)


def _path(contour: Contour) -> QPainterPath:
    path = QPainterPath()  # odd and even: a hole in a region stays one
    for loop in contour.loops:
        path.addPolygon(QPolygonF([QPointF(x, y) for x, y in loop]))
        path.closeSubpath()
    return path


def _on_screen(path: QPainterPath, view: View, ratio: float) -> QPainterPath:
    (x, y), scale = view.to_px(np.zeros((1, 2)))[0] / ratio, view.scale / ratio
    return QTransform(scale, 0, 0, -scale, x, y).map(path)
