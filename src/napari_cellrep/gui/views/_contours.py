"""What is drawn over the points of a map: lines of equal density, and a cloud for each value of a column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from qtpy.QtCore import QObject, QPointF, QRectF, Qt, QTimer
from qtpy.QtGui import QColor, QPainter, QPainterPath, QPen, QPolygonF, QTransform
from qtpy.QtWidgets import QWidget

from napari_cellrep.gui.views._density import Contour, contours
from napari_cellrep.gui.views._raster import MIXED_CODE, Colours, Raster, View
from napari_cellrep.gui.views._tones import edge_on

SHARES = (0.75, 0.5, 0.25)  # of the cells of a value, in its cloud
MOST_CLOUDS = 24  # more of them cannot be told apart
LINES = (0.95, 0.75, 0.5, 0.25)  # share of the cells in view that a line encloses
QUIET_MS = 50  # so long the map has to stand still before its lines are computed again


class Overlay(QObject):
    """Contours over the points: they follow the map, and are computed anew when it has stood still for a moment.

    Parameters
    ----------
    parent : QWidget
        The map.
    measure : callable
        Gives the contours as they should be now.
    changed : callable
        Called when there is something else to draw.
    """

    def __init__(
        self, parent: QWidget, measure: Callable[[], list[Contour]], changed: Callable[[], None]
    ) -> None:
        super().__init__(parent)
        self.on = False
        self.contours: list[Contour] = []
        self._measure, self._changed = measure, changed
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
        self._changed()

    def clear(self) -> None:
        """Forget them: they belong to other points."""
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
        self._changed()


class DensityLines(Overlay):
    """Lines about most of the cells in view."""

    def draw(self, painter: QPainter, view: View, ratio: float, line: QColor, back: QColor) -> None:
        """Draw what is known over the points."""
        under, over = QColor(back), QColor(line)
        under.setAlpha(150)
        over.setAlpha(235)
        for contour, path in self._paths:
            shape, width = _on_screen(path, view, ratio), 1.0 + 0.8 * (1 - contour.share)
            for pen in (QPen(under, width + 2), QPen(over, width)):
                painter.strokePath(shape, pen)


class Clouds(Overlay):
    """One cloud for each value of the colour column, darkest where most of its cells are."""

    def draw(
        self, painter: QPainter, view: View, ratio: float, colours: Colours, line: QColor, back: QColor
    ) -> None:
        """Draw what is known over the points, and the value's name at the densest place of each."""
        for contour, path in self._paths:
            shade = QColor(*(int(v) for v in colours.palette[contour.code]))
            shape = _on_screen(path, view, ratio)
            fill = QColor(shade)
            fill.setAlpha(60)
            painter.fillPath(shape, fill)
            painter.strokePath(shape, QPen(edge_on(shade, back), 1.2))
        names = {code: name for name, code in colours.legend}
        metrics, taken = painter.fontMetrics(), list[QRectF]()
        for contour in self.contours:
            if contour.share != min(SHARES) or contour.code not in names:
                continue
            x, y = view.to_px(np.array([contour.peak]))[0] / ratio
            words = metrics.elidedText(names[contour.code], Qt.TextElideMode.ElideRight, 120)
            wide, high = metrics.horizontalAdvance(words), metrics.height()
            box = QRectF(x - wide / 2, y - high / 2, wide, high)
            for steps in (0, 1, -1, 2, -2):  # not over another name, as far as that goes
                moved = box.translated(0, steps * high)
                if not any(moved.intersects(other) for other in taken):
                    box = moved
                    break
            taken.append(box)
            text = QPainterPath()
            text.addText(QPointF(box.left(), box.top() + metrics.ascent()), painter.font(), words)
            painter.strokePath(text, QPen(back, 3.5))
            painter.fillPath(text, line)


def clouds_words(colours: Colours) -> str:
    """What the clouds say, or why there are none."""
    n = len(_values(colours))
    if not n:
        return "Clouds need a colour column of values, not of numbers."
    more = "" if n <= MOST_CLOUDS else f" (the {MOST_CLOUDS} most frequent)"
    return f"Clouds: 25, 50 and 75 % of each value's cells{more}"


def clouds_of(raster: Raster, colours: Colours, visible: np.ndarray) -> list[Contour]:
    """One cloud for each value: on the whole map, so that it holds its share however far one has zoomed in."""
    x, y, rows = raster.in_drawing_order
    if not visible.all():
        shown = visible[rows]
        x, y, rows = x[shown], y[shown], rows[shown]
    values = _values(colours)
    if not len(rows) or not len(values):
        return []
    codes = colours.codes[rows]
    counts = np.bincount(codes, minlength=256)
    most = sorted(values, key=lambda code: -counts[code])[:MOST_CLOUDS]
    box = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    return contours(x, y, box, SHARES, codes, tuple(most))


def _values(colours: Colours) -> list[int]:
    return sorted({code for _, code in colours.legend} - {0, MIXED_CODE})


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
