"""The picture of a tree: its branches, and a line of names, cells and colours for each leaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QLineF, QPoint, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QColor,
    QFont,
    QFontMetricsF,
    QImage,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)  # fmt: skip
from qtpy.QtWidgets import QAbstractScrollArea, QToolTip

from napari_cellrep.analysis.profiles import FEW_CELLS, Tree
from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui.views._file import paint_file
from napari_cellrep.gui.views._grown import STRIP, Grown, diverging
from napari_cellrep.gui.views._raster import SELECTED, Colours, category_colours, viridis
from napari_cellrep.gui.views._tiles import Tiles, as_image, frame_picture
from napari_cellrep.gui.views._tones import faint_text, selection_beside
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session

HEADER_PX = 34
NAME_PX = 12
PICTURE_PX = 20  # lines lower than this have no pictures
NAME_LINE_PX = 8  # lines lower than this have no name
PRINT_PX = 6000  # height of a saved picture at most, in px of the screen


@dataclass(frozen=True)
class Columns:
    """Where things are from left to right, px: root and leaves of the tree, then the left ends of what is beside it."""

    root: float
    leaf: float
    names: float
    chip: float
    strip: float
    n_strip: int
    heat: float
    end: float


class Dendrogram(QAbstractScrollArea):
    """The picture: a line for each leaf, from left to right its branches, name, colour, typical cells and heat map.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels.
    background : Background
        Cuts the pictures.
    """

    clicked = Signal(object, str)  # rows of the cell table, selection mode
    cell_clicked = Signal(int, str)
    framed = Signal(int)
    field_asked = Signal(int)
    menu_requested = Signal(int, object)
    group_menu_requested = Signal(str, str, object)  # column, its value, global position

    def __init__(self, session: Session, canvas: Any, background: Background) -> None:
        super().__init__()
        self.session, self.canvas = session, canvas
        self.shown: Grown | None = None
        self.tallest = 1.0
        self.cut_height = 0.0
        self.n_branches = 0
        self.at = -1  # node that the arrow keys are at
        self.over = -1  # node under the pointer
        self._cut = np.zeros(0, np.int64)
        self._share = np.zeros(0)  # of each leaf's cells that are selected
        self._line = 26
        self._colours = np.zeros((0, 3), np.uint8)
        self._column = ""
        self._legend: Colours | None = None
        self._rows, self._starts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._middle = np.zeros(0)
        self._widths: dict[int, float] = {}  # font size → the longest name
        self.pictures = Tiles(session, canvas, background, self.viewport().update)
        self._heat = QImage()
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setMouseTracking(True)
        self.setAccessibleName("Tree of groups")
        self.setMinimumHeight(100)

    # ---- what is shown -----------------------------------------------------------------------------

    def show_tree(self, shown: Grown | None) -> None:
        """Show a tree (None: nothing)."""
        self.shown, self.at, self.over, self._heat = shown, -1, -1, QImage()
        self._widths = {}
        if shown is not None:
            self.tallest = max(float(shown.tree.height[-1]), 1e-9)
            self._colours, self._column = np.full((len(shown.names), 3), 128, np.uint8), ""
            self._rows = np.concatenate(shown.members)
            self._starts = np.cumsum([0, *(len(own) for own in shown.members[:-1])])
            self._middle = _middles(shown.tree)
        self._cut, self.n_branches = np.zeros(0, np.int64), 0
        self.mark()
        self._lay_out()

    def cut_at(self, height: float) -> None:
        """Colour the branches that hang together below a height."""
        if self.shown is not None:
            self.cut_height, self._cut = height, self.shown.tree.cut(height)
            self.n_branches = int(self._cut.max()) + 1
            self.viewport().update()

    def branch(self, number: int) -> np.ndarray:
        """Leaves of a branch of the cut tree."""
        return np.flatnonzero(self._cut == number)

    def colour(self, colours: np.ndarray, column: str, legend: Colours | None = None) -> None:
        """Colour the leaves, uint8 (n, 3), by what a column says of them."""
        self._colours, self._column, self._legend = colours, column, legend
        self.viewport().update()

    def mark(self) -> None:
        """Show what is selected."""
        if self.shown is not None and len(self.session.selected) > int(self._rows.max()):
            own = self.session.selected[self._rows].astype(np.float64)
            self._share = np.add.reduceat(own, self._starts) / [len(m) for m in self.shown.members]
        else:
            self._share = np.zeros(0)
        self.viewport().update()

    def forget(self) -> None:
        """Drop pictures, and the tree: its rows are those of an older table."""
        self.pictures.forget()
        self.show_tree(None)

    def set_line(self, px: int) -> None:
        """Make the lines higher or lower."""
        self._line = px
        self._lay_out()

    # ---- layout ------------------------------------------------------------------------------------

    @property
    def line(self) -> float:
        """Height of a line, px; never so low that room stays empty."""
        n = self.shown.tree.n_leaves if self.shown is not None else 1
        return max(float(self._line), min(64.0, (self.viewport().height() - HEADER_PX - 2) / n), 0.05)

    def _lay_out(self) -> None:
        n = self.shown.tree.n_leaves if self.shown is not None else 0
        bar, room = self.verticalScrollBar(), self.viewport().height() - HEADER_PX
        bar.setRange(0, max(0, int(np.ceil(n * self.line)) - room) if self._line * n > room else 0)
        bar.setPageStep(max(1, room))
        bar.setSingleStep(max(8, int(self.line)))
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit everything in anew."""
        self._lay_out()

    def sizeHint(self) -> QSize:
        """Room for some groups."""
        return QSize(420, 260)

    def _font(self, line: float) -> QFont:
        font = QFont(self.font())
        font.setPixelSize(int(max(7, min(NAME_PX, line - 1))))
        return font

    def columns(self, width: float, line: float) -> Columns:
        """Where things are, left to right."""
        shown = self.shown
        assert shown is not None
        names = 0.0
        if line >= NAME_LINE_PX:
            size = self._font(line).pixelSize()
            if size not in self._widths:
                metrics = QFontMetricsF(self._font(line))
                words = [self._title(), *(self._name(i) for i in range(len(shown.names)))]
                self._widths[size] = max(metrics.horizontalAdvance(word) for word in words)
            names = min(0.22 * width, self._widths[size])
        leaf = 0.28 * width
        n_strip = 0 if line < PICTURE_PX else int(np.clip(0.32 * width // line, 1, STRIP)) if shown.by else 1
        chip = leaf + 10 + names + 6
        strip = chip + 12
        heat = strip + n_strip * line + (10 if n_strip else 4)
        most = max(80.0, shown.tree.n_leaves * line)  # no wider than high
        return Columns(
            10, leaf, leaf + 10, chip, strip, n_strip, heat, max(heat + 20, min(width - 4, heat + most))
        )

    def _name(self, leaf: int) -> str:
        shown = self.shown
        assert shown is not None
        return f"{shown.names[leaf]} ({len(shown.members[leaf]):,})" if shown.counted else shown.names[leaf]

    def _title(self) -> str:
        by = self.shown.by if self.shown is not None else ""
        return f"{by.replace('_', ' ')} (cells)" if by else "cell"

    def x_of(self, height: float | np.ndarray, columns: Columns) -> Any:
        """Where a height is: 0 at the leaves, the root at the left."""
        return columns.leaf - np.asarray(height) / self.tallest * (columns.leaf - columns.root)

    def _middles(self, line: float) -> np.ndarray:
        """Height on the page at which every node is drawn: half way between its two children."""
        return self._middle * line

    def _place(self, at: QPoint) -> tuple[str, int, int]:
        """What is under a point of the viewport: kind, and a node, a row of cells, or two leaves."""
        shown = self.shown
        if shown is None or at.y() < HEADER_PX:
            return "", -1, -1
        c, n = self.columns(self.viewport().width(), self.line), shown.tree.n_leaves
        place = int((at.y() - HEADER_PX + self.verticalScrollBar().value()) // self.line)
        if not 0 <= place < n or at.x() > c.end:
            return "", -1, -1
        leaf = int(shown.tree.order[place])
        if at.x() < c.leaf:
            reach = 5 / (c.leaf - c.root) * self.tallest  # 5 px beside the line that joins two
            height = (c.leaf - at.x()) / (c.leaf - c.root) * self.tallest
            return "branch", shown.tree.branch_at(leaf, height + reach if height > reach else height), -1
        if c.n_strip and c.strip <= at.x() < c.strip + c.n_strip * self.line:
            i = int((at.x() - c.strip) // self.line)
            own = shown.typical[leaf]
            return ("cell", int(own[i]), leaf) if i < len(own) else ("branch", leaf, -1)
        if at.x() >= c.heat:
            j = min(n - 1, int((at.x() - c.heat) / (c.end - c.heat) * n))
            return "pair", leaf, int(shown.tree.order[j])
        return "branch", leaf, -1

    def point_of(self, node: int) -> QPoint:
        """Where in the viewport a node's line is: its corner for a branch, its name for a leaf."""
        c, y = self.columns(self.viewport().width(), self.line), self._middles(self.line)[node]
        tree = self.shown.tree  # type: ignore[union-attr]
        x = float(self.x_of(tree.height[node], c)) if node >= tree.n_leaves else c.names + 4
        return QPoint(round(x), round(y) + HEADER_PX - self.verticalScrollBar().value())

    def picture_rect(self, leaf: int, i: int) -> QRectF:
        """Where in the viewport the i-th typical cell of a leaf is drawn."""
        c = self.columns(self.viewport().width(), self.line)
        place = int(self.shown.tree.first[leaf])  # type: ignore[union-attr]
        top = place * self.line + HEADER_PX - self.verticalScrollBar().value()
        return QRectF(c.strip + i * self.line, top, self.line - 2, self.line - 2)

    def cells_of(self, node: int) -> np.ndarray:
        """Rows of the cell table below a node."""
        shown = self.shown
        assert shown is not None
        return np.concatenate([shown.members[leaf] for leaf in shown.tree.leaves(node)])

    # ---- pictures ----------------------------------------------------------------------------------

    def in_sight(self) -> list[int]:
        """Rows of the cells whose pictures can be seen."""
        if self.shown is None:
            return []
        top = self.verticalScrollBar().value()
        first = int(top // self.line)
        last = int((top + self.viewport().height()) // self.line) + 1
        n_strip = self.columns(self.viewport().width(), self.line).n_strip
        return [
            int(r) for leaf in self.shown.tree.order[first:last] for r in self.shown.typical[leaf][:n_strip]
        ]

    # ---- painting ----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw what can be seen, and ask for what is missing."""
        if self.shown is None:
            return
        painter = QPainter(self.viewport())
        width, height = self.viewport().width(), self.viewport().height()
        painter.save()
        painter.setClipRect(0, HEADER_PX, width, height - HEADER_PX)
        top = self.verticalScrollBar().value()
        painter.translate(0, HEADER_PX - top)
        text = self.palette().text().color()
        self._draw(painter, width, self.line, text, (top, top + height))
        painter.restore()
        self._draw_header(painter, self.columns(width, self.line), text, self.line)
        painter.end()
        self.pictures.ask(self.in_sight())

    def _draw(
        self,
        painter: QPainter,
        width: int,
        line: float,
        text: QColor,
        sight: tuple[float, float],
        marked: bool = True,
    ) -> None:
        """Draw the lines between two heights of the page."""
        shown = self.shown
        assert shown is not None
        c, tree = self.columns(width, line), shown.tree
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        self._draw_branches(painter, c, line, text, sight, marked)
        looks = self.canvas.looks()
        painter.setFont(self._font(line))
        faint, orange = faint_text(text), selection_beside(text)
        first, last = max(0, int(sight[0] // line)), min(tree.n_leaves, int(sight[1] // line) + 1)
        for place in range(first, last):
            leaf, y = int(tree.order[place]), place * line
            if marked and len(self._share) and self._share[leaf] > 0:
                high = max(1.0, (line - 1) * float(self._share[leaf]))
                painter.fillRect(QRectF(c.names - 7, y + line - high, 4, high), orange)
            if line >= NAME_LINE_PX:
                few = bool(shown.by) and len(shown.members[leaf]) < FEW_CELLS
                painter.setPen(faint if few else text)
                room = c.chip - c.names - 4
                name = painter.fontMetrics().elidedText(
                    self._name(leaf), Qt.TextElideMode.ElideMiddle, int(room) + 1
                )
                painter.drawText(QRectF(c.names, y, room + 2, line), Qt.AlignmentFlag.AlignVCenter, name)
            gap = 1 if line > 4 else 0
            painter.fillRect(QRectF(c.chip, y, 8, line - gap), QColor(*(int(v) for v in self._colours[leaf])))
            for i, row in enumerate(shown.typical[leaf][: c.n_strip]):
                self._draw_picture(
                    painter, int(row), QRectF(c.strip + i * line, y, line - 2, line - 2), looks, marked
                )
        area = QRectF(c.heat, 0, c.end - c.heat, tree.n_leaves * line)
        painter.setRenderHint(
            QPainter.RenderHint.SmoothPixmapTransform, False
        )  # a leaf is one colour, to its edge
        painter.drawImage(area, self._heat_image(area))

    def _draw_picture(self, painter: QPainter, row: int, box: QRectF, looks: Any, marked: bool) -> None:
        picture = self.pictures.get(row, looks)
        if picture is None:
            painter.fillRect(box, QColor(128, 128, 128, 40))
        else:
            painter.drawImage(box, picture)
        session = self.session
        if marked and row < len(session.selected) and session.selected[row]:
            frame_picture(painter, box, QColor(*SELECTED), 2)
            box = box.adjusted(3, 3, -3, -3)
        if marked and row == session.focus:
            frame_picture(painter, box, QColor("white"), 1)

    def _heat_image(self, area: QRectF) -> QImage:
        """The heat map; made smaller well (not by leaving lines out) where there are more leaves than pixels."""
        shown = self.shown
        assert shown is not None
        n = shown.tree.n_leaves
        ratio = self.devicePixelRatioF()  # of the screen's own pixels there may be more
        size = QSize(*(min(n, max(1, int(px * ratio))) for px in (area.width(), area.height())))
        if self._heat.size() != size:
            self._heat = as_image(shown.heat).scaled(
                size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        return self._heat

    def _draw_branches(
        self,
        painter: QPainter,
        c: Columns,
        line: float,
        text: QColor,
        sight: tuple[float, float],
        marked: bool,
    ) -> None:
        tree = self.shown.tree  # type: ignore[union-attr]
        n, y = tree.n_leaves, self._middles(line)
        x = self.x_of(tree.height, c)
        up = np.where(tree.parent >= 0, x[tree.parent], c.root - 6)
        colours = category_colours(max(1, self.n_branches))
        whole = np.zeros(2 * n - 1, bool)  # branches of which every cell is selected
        if marked and len(self._share):
            some = np.concatenate([[0], np.cumsum(self._share[tree.order] < 1)])
            whole = some[tree.last + 1] == some[tree.first]
        under = np.zeros(2 * n - 1, bool)
        if marked and self.over >= 0:
            under = (tree.first >= tree.first[self.over]) & (tree.last <= tree.last[self.over])
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, n <= 300)
        thin = 1.0 if line < 6 else 1.4
        pairs = tree.linkage[:, :2].astype(np.int64)
        low, high = y.copy(), y.copy()
        low[n:], high[n:] = y[pairs].min(axis=1), y[pairs].max(axis=1)
        seen = (high >= sight[0]) & (low <= sight[1])
        branch = np.full(2 * n - 1, -1)  # above the cut
        if len(self._cut):
            joined = tree.height <= self.cut_height
            branch[joined] = self._cut[tree.order[tree.first[joined]]]

        def stroke(nodes: np.ndarray, pen: QPen) -> None:
            lines = [QLineF(x[v], y[v], up[v], y[v]) for v in nodes]
            lines += [QLineF(x[v], low[v], x[v], high[v]) for v in nodes if v >= n]
            painter.setPen(pen)
            painter.drawLines(lines)

        glow = selection_beside(text)
        glow.setAlpha(150)
        stroke(np.flatnonzero(seen & whole), QPen(glow, thin + 5))
        for number in np.unique(branch[seen]):
            shade = text if number < 0 else QColor(*(int(v) for v in colours[number]))
            for more, which in ((0.0, ~whole & ~under), (0.6, whole & ~under), (1.6, under)):
                nodes = np.flatnonzero(seen & (branch == number) & which)
                if len(nodes):
                    stroke(nodes, QPen(shade, thin + more))
        if len(self._cut):
            pen = QPen(text, 1, Qt.PenStyle.DashLine)
            painter.setPen(pen)
            at = float(self.x_of(self.cut_height, c))
            painter.drawLine(QPointF(at, sight[0]), QPointF(at, min(sight[1], n * line)))
        if marked and self.hasFocus() and self.at >= 0:
            painter.setPen(QPen(text, 1.5))
            painter.drawEllipse(QPointF(float(x[self.at]), float(y[self.at])), 4, 4)

    def _draw_header(self, painter: QPainter, c: Columns, text: QColor, line: float) -> None:
        """Say what stands below: the tree's scale, the colour of the leaves, the heat map's colours."""
        shown = self.shown
        assert shown is not None
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font(99))
        painter.setPen(text)
        metrics = painter.fontMetrics()
        left, right = Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight
        unit = {"correlation": "1 − correlation", "euclidean": "distance"}[shown.metric]
        if shown.linkage == "ward":
            unit = "Ward's distance"
        painter.drawText(QRectF(c.root - 6, 1, c.leaf - c.root, 15), left, f"joined at ({unit})")
        painter.drawText(QRectF(c.root - 6, 17, 60, 14), left, f"{self.tallest:.3g}")
        painter.drawText(QRectF(c.leaf - 60, 17, 60, 14), right, "0")
        if c.chip - c.names > 20:
            room = int(c.chip - c.names)
            title = metrics.elidedText(self._title(), Qt.TextElideMode.ElideRight, room)
            painter.drawText(QPointF(c.names, 28), title)
        if self._column and c.heat - c.chip > 40:  # the chip's own title, over what is right of it
            room = int(c.heat - c.chip)
            words = metrics.elidedText(
                f"▾ {self._column.replace('_', ' ')}", Qt.TextElideMode.ElideRight, room
            )
            painter.drawText(QPointF(c.chip, 12), words)
            self._draw_legend(painter, c.chip + metrics.horizontalAdvance(words) + 8, c.heat - 8)
        if c.n_strip > 1:
            room = int(c.n_strip * line)
            painter.drawText(
                QPointF(c.strip, 28), metrics.elidedText("typical cells", Qt.TextElideMode.ElideRight, room)
            )
        bar = QRectF(c.heat, 20, max(20.0, min(110.0, c.end - c.heat - 70)), 9)
        if shown.metric == "correlation":
            title, ends, palette = "correlation of each two", ("−1", "1"), diverging()
        else:
            title, ends, palette = (
                "distance of each two",
                ("0", f"{float(shown.alike.max()):.3g}"),
                viridis()[::-1],
            )
        painter.drawText(
            QPointF(c.heat, 12), metrics.elidedText(title, Qt.TextElideMode.ElideRight, int(c.end - c.heat))
        )
        start = bar.left() + metrics.horizontalAdvance(ends[0]) + 4
        painter.drawText(QPointF(bar.left(), 29), ends[0])
        gradient = QLinearGradient(QPointF(start, 0), QPointF(start + bar.width(), 0))
        for share in np.linspace(0, 1, 9):
            gradient.setColorAt(float(share), QColor(*(int(v) for v in palette[round(share * 255)])))
        painter.fillRect(QRectF(start, bar.top(), bar.width(), bar.height()), gradient)
        painter.drawText(QPointF(start + bar.width() + 4, 29), ends[1])

    def _draw_legend(self, painter: QPainter, left: float, right: float) -> None:
        """Say what the colours of the leaves mean, as far as there is room."""
        legend, metrics = self._legend, painter.fontMetrics()
        if legend is None:
            return
        shades = [QColor(*(int(v) for v in colour)) for colour in legend.palette]
        entries = legend.legend
        if not entries:
            ends, steps = [f"{v:.3g}" for v in legend.limits], [1 + round(i / 11 * 254) for i in range(12)]
        else:
            ends, steps = [entries[0][0], entries[-1][0]], [code for _, code in entries]
        wide = sum(19 + metrics.horizontalAdvance(name) for name, _ in entries)
        if not entries or (left + wide > right and all(_is_number(name) for name, _ in entries)):  # a scale
            if left + 6 * len(steps) + 8 + metrics.horizontalAdvance("".join(ends)) < right:
                painter.drawText(QPointF(left, 12), ends[0])
                left += metrics.horizontalAdvance(ends[0]) + 4
                for i, code in enumerate(steps):
                    painter.fillRect(QRectF(left + 6 * i, 3, 6, 9), shades[code])
                painter.drawText(QPointF(left + 6 * len(steps) + 4, 12), ends[1])
            return
        for name, code in entries:
            wide = 13 + metrics.horizontalAdvance(name)
            if left + wide > right - 12:
                painter.drawText(QPointF(left, 12), "…")
                return
            painter.fillRect(QRectF(left, 3, 9, 9), shades[code])
            painter.drawText(QPointF(left + 11, 12), name)
            left += wide + 6

    # ---- for print ---------------------------------------------------------------------------------

    def print_to(self, path: str, say: Callable[[str], None]) -> None:
        """Write the whole tree, larger than on the screen; missing pictures are cut first.

        Parameters
        ----------
        path : str
            ``.png`` or ``.pdf``.
        say : callable
            Told how it goes.
        """
        shown = self.shown
        if shown is None:
            say("There is no tree to save.")
            return
        width, n = self.viewport().width(), shown.tree.n_leaves
        line = min(self.line, PRINT_PX / n)
        looks = self.canvas.looks()
        n_strip = self.columns(width, line).n_strip
        rows = [int(r) for leaf in shown.tree.order for r in shown.typical[leaf][:n_strip]]
        if missing := self.pictures.missing(rows, looks):

            def go_on(_: Any) -> None:
                if self.shown is shown:
                    self.print_to(path, say)

            say("Cutting more pictures…")
            self.pictures.fetch(missing, looks, go_on)
            return
        height = int(np.ceil(n * line)) + HEADER_PX + 4

        def paint(painter: QPainter) -> None:
            black = QColor("black")
            painter.fillRect(0, 0, width, height, QColor("white"))
            self._draw_header(painter, self.columns(width, line), black, line)
            painter.translate(0, HEADER_PX)
            self._draw(painter, width, line, black, (0, height), marked=False)

        if paint_file(path, width, height, paint):
            say(f"The tree of {n:,} is saved as {path}.")
        else:
            say(f"{path} could not be written; choose another folder.")

    # ---- gestures ----------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what is under the pointer, and light its branch up."""
        kind, one, other = self._place(event.position().toPoint())
        over = one if kind == "branch" else -1
        if over != self.over:
            self.over = over
            self.viewport().update()
        self.session.set_hover(one if kind == "cell" else -1)
        QToolTip.showText(event.globalPosition().toPoint(), self._tip(kind, one, other), self.viewport())

    def _tip(self, kind: str, one: int, other: int) -> str:
        shown = self.shown
        if not kind or shown is None:
            return ""
        if kind == "cell":
            return (
                f"{self.session.cell_id(one)}, typical of {shown.names[other]}"
                if shown.by
                else shown.names[other]
            )
        if kind == "pair":
            tree = shown.tree
            value = float(shown.alike[tree.first[one], tree.first[other]])
            word = "correlation" if shown.metric == "correlation" else "distance"
            return f"{shown.names[one]} · {shown.names[other]}\n{word} {value:.2f}"
        n = len(shown.tree.leaves(one))
        if n == 1:
            return self._name(one)
        cells = f", {len(self.cells_of(one)):,} cells" if shown.counted else ""
        return f"{n:,} {shown.noun}{cells}\njoined at {shown.tree.height[one]:.3g}"

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select what was clicked: a branch's cells, one cell, or the cells of two leaves."""
        kind, one, other = self._place(event.position().toPoint())
        if event.button() == Qt.MouseButton.LeftButton and kind:
            self._choose(kind, one, other, selection_mode(event.modifiers()))

    def _choose(self, kind: str, one: int, other: int, mode: str) -> None:
        if kind == "cell":
            self.cell_clicked.emit(one, mode)
        elif kind == "pair":
            nodes = dict.fromkeys((one, other))
            self.clicked.emit(np.concatenate([self.cells_of(node) for node in nodes]), mode)
        else:
            self.at = one
            cells = self.cells_of(one)
            if len(cells) == 1:
                self.cell_clicked.emit(int(cells[0]), mode)
            else:
                self.clicked.emit(cells, mode)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Open the menu of the cell, or of the group, under the right button."""
        kind, one, _ = self._place(event.position().toPoint())
        shown, at = self.shown, event.globalPosition().toPoint()
        if event.button() != Qt.MouseButton.RightButton or shown is None:
            return
        if kind == "cell":
            self.menu_requested.emit(one, at)
        elif kind == "branch" and shown.by and one < shown.tree.n_leaves:
            self.group_menu_requested.emit(shown.by, shown.names[one], at)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Go to the cell; of a leaf, open the field of its most typical cell."""
        kind, one, _ = self._place(event.position().toPoint())
        shown = self.shown
        if event.button() != Qt.MouseButton.LeftButton or shown is None:
            return
        if kind == "cell":
            self.framed.emit(one)
        elif kind == "branch" and one < shown.tree.n_leaves and len(shown.typical[one]):
            row = int(shown.typical[one][0])
            (self.field_asked if shown.by else self.framed).emit(row)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows walk through the tree; Return selects the branch, Space opens the leaf's field."""
        shown, key = self.shown, event.key()
        steps = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down)
        if shown is None or key not in (*steps, Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            super().keyPressEvent(event)
            return
        tree = shown.tree
        if key in steps:
            self.at = _walked(tree, self.at, steps.index(key))
            y = float(self._middles(self.line)[self.at])
            bar, room = self.verticalScrollBar(), self.viewport().height() - HEADER_PX
            if not bar.value() <= y < bar.value() + room:
                bar.setValue(int(y - room / 2))
            self.viewport().update()
        elif key == Qt.Key.Key_Space and 0 <= self.at < tree.n_leaves and len(shown.typical[self.at]):
            self.framed.emit(int(shown.typical[self.at][0]))
        elif key != Qt.Key.Key_Space and self.at >= 0:
            self._choose("branch", self.at, -1, selection_mode(event.modifiers()))

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is pointed at any more."""
        self.over = -1
        self.session.set_hover(-1)
        self.viewport().update()


def _is_number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()


def _middles(tree: Tree) -> np.ndarray:
    """Where every node is drawn, in lines from the top: half way between its two children."""
    n = tree.n_leaves
    y = np.empty(2 * n - 1)
    y[tree.order] = np.arange(n) + 0.5
    for i, (a, b) in enumerate(tree.linkage[:, :2].astype(np.int64)):
        y[n + i] = (y[a] + y[b]) / 2
    return y


def _walked(tree: Tree, node: int, step: int) -> int:
    """Where an arrow key (left, right, up, down) leads from a node."""
    if node < 0:
        return tree.root
    if step == 0:
        return int(tree.parent[node]) if tree.parent[node] >= 0 else node
    if step == 1:
        return tree.children(node)[0] if node >= tree.n_leaves else node
    place = tree.first[node] - 1 if step == 2 else tree.last[node] + 1
    if not 0 <= place < tree.n_leaves:
        return node
    leaf = int(tree.order[place])
    return tree.branch_at(leaf, tree.height[node]) if node >= tree.n_leaves else leaf
