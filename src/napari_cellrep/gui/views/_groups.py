"""Fields and groups on the map: one large point for all the cells of each, what it says and who is hit."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QPainter, QPainterPath, QPen

from napari_cellrep.analysis.profiles import FEW_CELLS
from napari_cellrep.data.rows import Rows, rows_words
from napari_cellrep.gui.views._raster import DIM, SELECTED, Colours, View, inside_polygon
from napari_cellrep.gui.views._words import column_words, number_words
from napari_cellrep.session import NO_VALUE, categories

RADIUS_PX = 7.0
NAMED = 60  # points in view that can bear their names
ALL, SOME = 2, 1  # of a group's cells are selected


class GroupPoints:
    """The points of fields or groups on one map.

    Parameters
    ----------
    rows : Rows
    own : ndarray of shape (n, 2), optional
        Where they lie on a map of their own; without it each lies at the mean of its visible cells.
    day : str
        When the profiles of that map were made.

    Attributes
    ----------
    places : ndarray of shape (n, 2)
        In map units; NaN for those that are not drawn: without a visible cell, or without a place.
    n_cells, lit : ndarray of shape (n,), int
        Visible cells; 2 where all of these are selected, 1 where some are.
    codes : ndarray of shape (n,), uint8
        Index into the palette of the colours.
    over : int
        The one under the pointer, or -1.
    """

    def __init__(self, rows: Rows, own: np.ndarray | None = None, day: str = "") -> None:
        self.rows, self.own, self.day = rows, own, day
        self.places = np.full((len(rows), 2), np.nan)
        self.n_cells = self.lit = np.zeros(len(rows), int)
        self.codes = np.zeros(len(rows), np.uint8)
        self.over = -1
        self._colours: Colours | None = None
        self._value = np.full(len(rows), np.nan)  # mean of the colour column, of numbers

    # ---- numbers -----------------------------------------------------------------------------------

    def place(self, coordinates: np.ndarray, visible: np.ndarray) -> None:
        """Put every point where it belongs; hidden cells do not count."""
        self.n_cells = self.rows.count(visible)
        places = self.rows.mean(coordinates, visible) if self.own is None else self.own.copy()
        places[self.n_cells == 0] = np.nan
        self.places = places

    def choose(self, selected: np.ndarray, visible: np.ndarray) -> None:
        """Find out which are selected, wholly or in part."""
        self.lit = self.rows.lit(selected, visible)

    def colour(self, colours: Colours, visible: np.ndarray) -> None:
        """Give every point the mean colour of its visible cells, or of words that of the commonest."""
        self._colours = colours
        if colours.values is not None:
            self._value = self.rows.mean(colours.values[:, None], visible)[:, 0]
            low, high = colours.limits
            share = np.clip((self._value - low) / (high - low if high > low else 1.0), 0, 1)
            self.codes = np.where(np.isfinite(share), 1 + np.round(np.nan_to_num(share) * 254), 0).astype(
                np.uint8
            )
            return
        n, use = len(self.rows), visible & (self.rows.codes >= 0)
        both = self.rows.codes[use] * 256 + colours.codes[use]
        counts = np.bincount(both, minlength=256 * n).reshape(n, 256)
        self.codes = counts.argmax(axis=1).astype(np.uint8)

    @property
    def words(self) -> str:
        """How many there are, and what their places mean."""
        n = rows_words(int(np.isfinite(self.places).all(axis=1).sum()), self.rows.by)
        if self.own is None:
            return f"{n}, each at the mean of its cells"
        return f"{n}, a map of their own: principal components of their profiles ({self.day})"

    def describe(self, at: int, column: pd.Series | None, visible: np.ndarray) -> str:
        """What a point says of itself, as rich text: its name, its cells, and what the colour column says of them."""
        n = int(self.n_cells[at])
        lines = [f"<b>{html.escape(self.rows.names[at])}</b>", f"{n:,} cell{'s' * (n != 1)}"]
        if column is not None and column.name != self.rows.by and self._colours is not None:
            name = html.escape(column_words(str(column.name)))
            if self._colours.values is not None:
                lines.append(f"{name}: {number_words(float(self._value[at]))} (mean)")
            else:
                codes, words = categories(column.iloc[self.rows.cells(at, visible)])
                counts = np.bincount(codes + 1, minlength=len(words) + 1)
                most = int(counts.argmax())
                how = "" if counts[most] == n else f" ({counts[most] / max(n, 1):.0%} of the cells)"
                lines.append(f"{name}: {html.escape([NO_VALUE, *words][most])}{how}")
        if n < FEW_CELLS:
            lines.append("few cells: chance weighs much")
        return "<br>".join(lines)

    def nearest(self, view: View, x_px: float, y_px: float, reach_px: float) -> int:
        """The point nearest to a place on the canvas, or -1 if none is within reach."""
        if not len(self.places):
            return -1
        apart = np.hypot(*(view.to_px(self.places) - (x_px, y_px)).T)
        apart[~np.isfinite(apart)] = np.inf
        best = int(np.argmin(apart))
        return best if apart[best] <= reach_px else -1

    def cells_inside(self, polygon: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Visible cells, as rows, of the points inside a polygon (map units)."""
        return self.rows.cells(np.flatnonzero(inside_polygon(self.places, polygon)), visible)

    # ---- painting ----------------------------------------------------------------------------------

    def draw(
        self, painter: QPainter, view: View, ratio: float, text: QColor, back: QColor, light: bool
    ) -> None:
        """Draw the points and, where there is room, their names."""
        if self._colours is None:
            return
        at = view.to_px(self.places) / ratio
        w, h = (side / ratio for side in view.size)
        with np.errstate(invalid="ignore"):
            inside = (at > -RADIUS_PX).all(axis=1) & (at < (w + RADIUS_PX, h + RADIUS_PX)).all(axis=1)
        shown = np.flatnonzero(inside)
        shown = shown[
            np.lexsort((-self.n_cells[shown], self.lit[shown]))
        ]  # small over large, selected on top
        any_lit = bool(self.lit.any())
        palette = self._colours.palette.astype(float)
        dim = np.array(back.getRgb()[:3], float)
        orange, rim = QColor(*SELECTED), QColor(text)
        rim.setAlpha(140 if any_lit else 175)
        halo = QColor(40, 40, 40) if light else QColor(235, 235, 235)
        for i in shown:
            middle = QPointF(*at[i])
            rgb = palette[self.codes[i]]
            if any_lit and not self.lit[i]:
                rgb = dim + 2 * DIM * (rgb - dim)  # large points are few: they may stay clearer than cells
            box = QRectF(middle.x() - RADIUS_PX, middle.y() - RADIUS_PX, 2 * RADIUS_PX, 2 * RADIUS_PX)
            shade = QColor(*(int(v) for v in rgb))
            painter.setPen(Qt.PenStyle.NoPen)
            if self.lit[i]:
                painter.setBrush(halo)
                painter.drawEllipse(box.adjusted(-3, -3, 3, 3))
                painter.setBrush(back)
                painter.drawEllipse(box.adjusted(-1.5, -1.5, 1.5, 1.5))
            painter.setBrush(orange if self.lit[i] == ALL else shade)
            painter.drawEllipse(box)
            if self.lit[i] == SOME:
                painter.setBrush(orange)
                painter.drawPie(box, 90 * 16, 180 * 16)
            if not self.lit[i]:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(rim, 1.2))  # dark points on dark ground, and neighbours, are told apart
                painter.drawEllipse(box)
            if i == self.over:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(text, 2))
                painter.drawEllipse(box.adjusted(-4, -4, 4, 4))
        if len(shown) <= NAMED:
            self._draw_names(painter, at, shown[::-1], text, back)

    def _draw_names(
        self, painter: QPainter, at: np.ndarray, shown: np.ndarray, text: QColor, back: QColor
    ) -> None:
        painter.save()
        font = QFont(painter.font())
        font.setPixelSize(11)
        painter.setFont(font)
        metrics = painter.fontMetrics()
        points = [QRectF(x - RADIUS_PX, y - RADIUS_PX, 2 * RADIUS_PX, 2 * RADIUS_PX) for x, y in at[shown]]
        taken: list[QRectF] = []
        for i in shown:
            words = metrics.elidedText(self.rows.names[i], Qt.TextElideMode.ElideRight, 110)
            wide, high = metrics.horizontalAdvance(words), metrics.height()
            x, y = at[i]
            for left, top in (
                (x + RADIUS_PX + 3, y - high / 2), (x - RADIUS_PX - 3 - wide, y - high / 2),
                (x - wide / 2, y - RADIUS_PX - high), (x - wide / 2, y + RADIUS_PX),
            ):  # fmt: skip
                box = QRectF(left, top, wide, high)
                if not any(box.intersects(other) for other in (*taken, *points)):
                    break
            else:
                continue  # no room: it says its name under the pointer
            taken.append(box)
            path = QPainterPath()
            path.addText(QPointF(box.left(), box.top() + metrics.ascent()), font, words)
            painter.strokePath(path, QPen(back, 3))
            painter.fillPath(path, text)
        painter.restore()
