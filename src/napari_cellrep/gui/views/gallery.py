"""The gallery: pictures of many cells, in an order that says something. Cut in the background, painted when seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractScrollArea,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QToolButton,
    QToolTip,
    QVBoxLayout,
)

from napari_cellrep.analysis.profiles import Similar
from napari_cellrep.gui._pictures import Background, picture_side
from napari_cellrep.gui.views._file import paint_file
from napari_cellrep.gui.views._order import by_column, by_distance, by_main_axis, in_sections
from napari_cellrep.gui.views._parts import CellView, TwoHalves, choice_box, offer, words_line
from napari_cellrep.gui.views._raster import SELECTED
from napari_cellrep.gui.views._sheet import draw_scale_bar
from napari_cellrep.gui.views._tiles import Tiles, frame_picture
from napari_cellrep.gui.views._tones import selection_beside
from napari_cellrep.gui.views._words import column_words, number_words
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session

GAP_PX = 4
TITLE_PX = 22
MOST_PRINTED = 400
ARROWS = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down)

# What the order box offers besides columns.
PLATE, LIKE, TYPICAL, ODD, AXIS, RANDOM = (
    "plate order", "like the selected cells", "most typical of its group", "least like its group",
    "along what varies most", "random",
)  # fmt: skip
MOST_ON_AXIS = 20_000  # cells with one axis; of more, each group has its own
MOST_LINES = 60  # values of a column, but for groups and fields


@dataclass(frozen=True)
class Section:
    """Cells under one title; `top` is where the title begins, in px of the whole gallery.

    `rows` are those shown, `every` all that the title stands for.
    """

    title: str
    rows: np.ndarray
    top: int
    name: str
    every: np.ndarray


class GalleryView(CellView):
    """Pictures of the cells the session shows, of its selection, or row by row of the values of a column.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click, a double-click and the menu do.
    """

    title = "Gallery"
    kept = ("bar", "side")

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.background = Background(session)
        self._similar_to = ("", "")  # column and value of the group that others were ranked for
        self.which = choice_box("Which cells")
        offer(self.which, ["all cells", "selected cells"])
        self.order = choice_box("In which order")
        self.by = choice_box("One line of pictures for each value of a column, side by side for comparing")
        self.side = QSlider(Qt.Orientation.Horizontal)
        self.side.setRange(40, 200)
        self.side.setValue(84)
        self.side.setFixedWidth(90)
        self.side.setToolTip("Size of the pictures; all are at one scale")
        self.similar = QPushButton("Find similar")
        self.similar.setToolTip(
            "All cells, the most like the selected ones first (their mean, if there are several)"
        )
        self.save = QPushButton("Save picture…")
        self.save.setToolTip("A montage of what is shown from the top on, for print, as PNG or PDF")
        self.bar = QToolButton()
        self.bar.setCheckable(True)
        self.bar.setText("├─┤")
        self.bar.setToolTip(
            "Scale bar in the first picture, also when they are saved; all pictures are at one scale"
        )
        self.bar.setAccessibleName("Scale bar")
        self.words = words_line()
        left, right = QHBoxLayout(), QHBoxLayout()
        for item in (self.which, QLabel("order"), self.order, QLabel("lines"), self.by):
            left.addWidget(item, 1 if isinstance(item, QComboBox) else 0)
        for item in (self.similar, self.save, self.bar, self.side):
            right.addWidget(item)
        bar = TwoHalves(left, right)
        self.grid = Grid(self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(bar)
        layout.addWidget(self.words)
        layout.addWidget(self.grid, 1)

        self.which.currentIndexChanged.connect(lambda _: self.arrange())
        self.order.currentIndexChanged.connect(lambda _: self.arrange())
        self.by.currentIndexChanged.connect(lambda _: self.arrange())
        self.side.valueChanged.connect(self.grid.set_side)
        self.bar.toggled.connect(self.grid.show_scale_bar)
        self.similar.clicked.connect(lambda _=False: self.find_similar())
        self.save.clicked.connect(lambda _=False: self._on_save())
        self.grid.clicked.connect(canvas.click)
        self.grid.framed.connect(lambda row: canvas.go_to(row, frame=True))
        self.grid.menu_requested.connect(lambda row, at: canvas.open_menu(row, at))
        self.grid.title_clicked.connect(
            lambda rows, mode: session.select(rows, mode, f"a line of the gallery by {self.by.currentText()}")
        )
        self.grid.title_menu_requested.connect(self._on_title_menu)
        self.listen(
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.visible_changed, self.arrange),
            (session.selection_changed, self._on_selection_changed),
            (session.focus_changed, self._on_marks_changed),
            (session.hover_changed, self._on_marks_changed),
            (session.similar_changed, self._on_similar),
        )
        self.grid.set_side(self.side.value())
        self._on_table_changed()

    def disconnect_session(self) -> None:
        """Listen no more and let the reading thread end."""
        super().disconnect_session()
        self.background.close()

    # ---- what is shown -----------------------------------------------------------------------------

    def _on_table_changed(self) -> None:
        session = self.session
        self.background.forget()
        self.grid.forget()
        columns = session.columns
        offer(self.order, [PLATE, LIKE, TYPICAL, ODD, AXIS, RANDOM, *columns], columns)
        whole = [c for c in session.row_columns() if c in ("group", "field")]
        few = [
            c
            for c in columns
            if session.cells is not None and 2 <= session.cells.obs[c].nunique() <= MOST_LINES
        ]
        offer(self.by, ["no lines", *dict.fromkeys([*whole, *few])], [*whole, *few])
        self.arrange()

    def _on_similar(self) -> None:
        """A line of typical cells for each group, the most alike first."""
        found, before = self.session.similar, self._similar_to
        self._similar_to = (found.by, found.name) if found is not None else ("", "")
        # What is ranked again, of other cells, leaves the boxes as they were set meanwhile.
        if found is not None and before != self._similar_to and self.by.findData(found.by) >= 0:
            for box, words in ((self.which, "all cells"), (self.order, TYPICAL), (self.by, found.by)):
                box.blockSignals(True)
                box.setCurrentIndex(box.findData(words))
                box.blockSignals(False)
        self.arrange()

    def _on_title_menu(self, name: str, at: Any) -> None:
        if self.by.currentData() in self.session.row_columns() and name != "none":
            self.canvas.open_group_menu(self.by.currentData(), name, at)

    def _on_selection_changed(self) -> None:
        if self.which.currentIndex() == 1:
            self.arrange()
        self._on_marks_changed()

    def _on_marks_changed(self, *_: Any) -> None:
        self.similar.setEnabled(self._asked().size > 0 and bool(self.session.embedding))
        self.grid.viewport().update()

    def _asked(self) -> np.ndarray:
        """Rows that "similar" is meant of: the selected cells, else the one clicked last."""
        rows = np.flatnonzero(self.session.selected)
        return (
            rows if len(rows) else np.array([self.session.focus] if self.session.focus >= 0 else [], np.int64)
        )

    def find_similar(self) -> None:
        """Order all cells by how like the selected ones they are."""
        self.which.setCurrentIndex(0)
        if self.order.currentText() == LIKE:
            self.arrange()
        else:
            self.order.setCurrentText(LIKE)

    def arrange(self) -> None:
        """Put the cells in order; what takes long is done beside the window."""
        session = self.session
        if session.cells is None:
            self.grid.show_sections([])
            self.words.setText("No cells yet: segment the images in the CellRep panel.")
            self._on_marks_changed()
            return
        rows = np.flatnonzero(session.selected if self.which.currentIndex() == 1 else session.visible)
        order, by, cells = self.order.currentData(), self.by.currentData(), session.cells
        vectors = cells.obsm[f"X_{session.embedding}"] if session.embedding else None
        asked = self._asked()
        obs, similar = cells.obs, session.similar
        ranked = similar if similar is not None and similar.by == by else None
        first = ranked.names if ranked is not None else ()
        # Selected cells have one axis, however many groups they are of; else each line or group has its own.
        together = self.which.currentIndex() == 1 and len(rows) <= MOST_ON_AXIS
        part = by if by in obs else "" if together else "group"

        def work() -> list[tuple[str, np.ndarray]]:
            found = rows
            if order == RANDOM:
                found = np.random.default_rng(0).permutation(rows)
            elif order == LIKE and vectors is not None and len(asked):
                found = by_distance(rows, vectors, asked)
            elif order in (TYPICAL, ODD) and vectors is not None:
                # Where there are lines, typical of its line.
                alike = obs[by] if by in obs and order == TYPICAL else obs["group"]
                step = 1 if order == TYPICAL else -1
                found = np.concatenate(
                    [by_distance(own, vectors, own)[::step] for _, own in in_sections(rows, alike, len(obs))]
                    or [rows]
                )
                found = _in_turn(found, obs["group"].to_numpy()) if by == "no lines" else found
            elif order == AXIS and vectors is not None:
                found = by_main_axis(rows, vectors, obs[part] if part else None)
            elif order in obs:
                found = by_column(rows, obs[order])
            return in_sections(found, obs[by], first=first) if by in obs else [("", found)]

        def arranged(sections: Any) -> None:
            if isinstance(sections, Exception):
                self.words.setText(f"The cells could not be put in this order ({sections}).")
                return
            if self.session.cells is not cells:
                return  # another table meanwhile; it is arranged anew
            self.grid.show_sections(sections, ranked)
            self.words.setText(self._sentence(rows, order, by, len(asked), part))
            self._on_marks_changed()

        self.background.run(work, arranged, "order")

    def _sentence(self, rows: np.ndarray, order: str, by: str, n_asked: int, part: str) -> str:
        if not len(rows):
            return "Nothing is selected: draw around cells on the map, or choose “all cells”."
        if order in (LIKE, TYPICAL, ODD, AXIS) and not self.session.embedding:
            return "This order needs an embedding: embed the cells in the CellRep panel."
        if order == LIKE and not n_asked:
            return "Select a cell, and the others stand by how like it they are."
        similar = self.session.similar
        if similar is not None and similar.by == by:
            return similar.words
        words = f"{len(rows):,} cells"
        if by in self.session.cells.obs:  # type: ignore[union-attr]
            words += f", a line for each {column_words(by)}; click its name to select its cells"
        if order == AXIS:
            among = f"in each {column_words(part)}" if part else "among them"
            words += f"; from one end to the other of what varies most {among}"
        return words + "."

    # ---- for print ---------------------------------------------------------------------------------

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save a montage", "gallery.png", "Pictures (*.png);;PDF (*.pdf)"
        )
        if path:
            self.grid.print_to(path, lambda words: self.words.setText(words))


class Grid(QAbstractScrollArea):
    """The tiles: only those in sight have pictures.

    Parameters
    ----------
    view : GalleryView
    """

    clicked = Signal(int, str)  # row, selection mode
    framed = Signal(int)
    menu_requested = Signal(int, object)
    title_clicked = Signal(object, str)  # rows, selection mode
    title_menu_requested = Signal(str, object)  # value of the column, global position

    def __init__(self, view: GalleryView) -> None:
        super().__init__()
        self.session, self.canvas = view.session, view.canvas
        self.side, self.scale_bar = 84, False
        self.sections: list[Section] = []
        self._raw: list[tuple[str, np.ndarray]] = []
        self._ranked: dict[str, float] = {}  # line → how far its group is from the one asked about
        self.pictures = Tiles(self.session, self.canvas, view.background, self.viewport().update)
        self._press: QPoint | None = None
        self._band: QRect | None = None
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setMouseTracking(True)
        self.setAccessibleName("Pictures of cells")
        self.setMinimumHeight(100)

    # ---- layout ------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """A tile with its gap, in px."""
        return self.side + GAP_PX

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return max(1, (self.viewport().width() - GAP_PX) // self.step)

    def show_scale_bar(self, shown: bool) -> None:
        """Draw a scale bar in the first picture, or none."""
        self.scale_bar = shown
        self.viewport().update()

    def set_side(self, side: int) -> None:
        """Make the tiles larger or smaller."""
        self.side = side
        self._lay_out()

    def show_sections(self, sections: list[tuple[str, np.ndarray]], ranked: Similar | None = None) -> None:
        """Show cells under titles; one section without a title is a plain grid."""
        self._raw = sections
        self._ranked = {} if ranked is None else dict(zip(ranked.names, ranked.distance, strict=True))
        self._lay_out()
        self.verticalScrollBar().setValue(0)

    def _lay_out(self) -> None:
        self.sections, y = [], GAP_PX
        for title, rows in self._raw:
            shown = rows[: self.columns] if title else rows  # a line per value, so that lines can be compared
            words = f"{title}  ({len(rows):,})" if title else ""
            if self._ranked.get(title):  # not of the one itself
                words += f"   distance {self._ranked[title]:.2f}"
            self.sections.append(Section(words, shown, y, title, rows))
            y += (TITLE_PX if title else 0) + -(-len(shown) // self.columns) * self.step
        self.height_px = y
        bar = self.verticalScrollBar()
        bar.setRange(0, max(0, y - self.viewport().height()))
        bar.setPageStep(self.viewport().height())
        bar.setSingleStep(self.step // 2)
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit the tiles in anew."""
        self._lay_out()

    def sizeHint(self) -> QSize:
        """Room for a few lines."""
        return QSize(420, 260)

    def tiles(self, top: int, bottom: int) -> list[tuple[int, QRect]]:
        """(row, place in the whole gallery) of the tiles between two heights."""
        found = []
        for section in self.sections:
            first_y = section.top + (TITLE_PX if section.title else 0)
            n_lines = -(-len(section.rows) // self.columns)
            if first_y + n_lines * self.step < top or section.top > bottom:
                continue
            first = max(0, (top - first_y) // self.step)
            last = min(n_lines - 1, (bottom - first_y) // self.step)
            for i in range(first * self.columns, min((last + 1) * self.columns, len(section.rows))):
                line, column = divmod(i, self.columns)
                place = QRect(GAP_PX + column * self.step, first_y + line * self.step, self.side, self.side)
                found.append((int(section.rows[i]), place))
        return found

    def in_sight(self) -> list[tuple[int, QRect]]:
        """(row, place in the viewport) of the tiles that can be seen."""
        top = self.verticalScrollBar().value()
        return [
            (row, place.translated(0, -top)) for row, place in self.tiles(top, top + self.viewport().height())
        ]

    def row_at(self, at: QPoint) -> int:
        """The cell under a point of the viewport, or -1."""
        return next((row for row, place in self.in_sight() if place.contains(at)), -1)

    def title_rect(self, section: Section, shift: int) -> QRect:
        """Where a line's title is."""
        width = self.fontMetrics().horizontalAdvance(f"◐ {section.title}") + 8
        return QRect(GAP_PX, section.top + shift, width, TITLE_PX)

    def section_at(self, at: QPoint) -> Section | None:
        """The line whose title is under a point of the viewport."""
        shift = -self.verticalScrollBar().value()
        return next((s for s in self.sections if s.title and self.title_rect(s, shift).contains(at)), None)

    # ---- pictures ----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop all pictures: cells or images changed."""
        self.pictures.forget()

    # ---- painting ----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw what can be seen, and ask for what is missing."""
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        top = self.verticalScrollBar().value()
        looks = self.canvas.looks()
        self._draw(painter, self.in_sight(), looks, -top)
        if self._band is not None:
            painter.setPen(QPen(selection_beside(self.palette().text().color()), 1, Qt.PenStyle.DashLine))
            painter.drawRect(self._band)
        painter.end()
        self.pictures.ask(row for row, _ in self.in_sight())

    def _draw(self, painter: QPainter, tiles: list[tuple[int, QRect]], looks: Any, shift: int) -> None:
        session = self.session
        painter.setPen(self.palette().text().color())
        for section in self.sections:
            if section.title and -TITLE_PX < section.top + shift < self.viewport().height():
                self._draw_title(painter, section, shift)
        for row, place in tiles:
            picture = self.pictures.get(row, looks)
            if picture is None:
                painter.fillRect(place, QColor(128, 128, 128, 40))
                if self.pictures.lost(row):
                    painter.drawText(place, Qt.AlignmentFlag.AlignCenter, "no image")
            else:
                painter.drawImage(place, picture)
            inner = QRectF(place)
            if row < len(session.selected) and session.selected[row]:
                frame_picture(painter, inner, QColor(*SELECTED), 3)
                inner.adjust(4, 4, -4, -4)
            if row in (session.focus, session.hover):
                frame_picture(painter, inner, QColor("white"), 1 if row == session.hover else 2)
            painter.setPen(self.palette().text().color())
        if tiles and self.scale_bar:
            self._draw_bar(painter, tiles)

    def _draw_bar(self, painter: QPainter, tiles: list[tuple[int, QRect]]) -> None:
        """A scale bar in the first picture: all are at one scale."""
        session = self.session
        row, place = next((tile for tile in tiles if tile[1].top() >= 0), tiles[0])  # one that is seen whole
        if session.project is not None:
            um_per_px = session.project.field(session.place(row)[0]).um_per_px
            draw_scale_bar(painter, place, picture_side(session), um_per_px)

    def _draw_title(self, painter: QPainter, section: Section, shift: int) -> None:
        """A line's name; before it a full circle where all its cells are selected, a half one where some are."""
        selected = self.session.selected
        some = len(selected) > int(section.every.max()) and selected[section.every].any()
        where = self.title_rect(section, shift)
        if some:
            circle = QRect(where.left() + 1, where.center().y() - 4, 10, 10)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            orange = selection_beside(self.palette().text().color())
            painter.setBrush(orange)
            painter.setPen(QPen(orange, 1.2))
            if selected[section.every].all():
                painter.drawEllipse(circle)
            else:
                painter.drawPie(circle, 90 * 16, 180 * 16)
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawEllipse(circle)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
            painter.setPen(self.palette().text().color())
            where = where.translated(16, 0)
        painter.drawText(where, Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextDontClip, section.title)

    def print_to(self, path: str, say: Callable[[str], None]) -> None:
        """Write the first tiles as a montage, larger than on the screen; their pictures are cut first.

        Parameters
        ----------
        path : str
            ``.png`` or ``.pdf``.
        say : callable
            Told how it goes.
        """
        looks = self.canvas.looks()
        tiles = self.tiles(0, self.height_px)[:MOST_PRINTED]
        if not tiles:
            say("There is no cell to print.")
            return
        rows = [row for row, _ in tiles]
        missing = [row for row in rows if self.pictures.get(row, looks) is None]
        if missing:
            say(f"Cutting {len(missing):,} more pictures…")

            def go_on(found: Any) -> None:
                if isinstance(found, Exception):
                    say(f"Not saved: {found}")
                else:
                    self.print_to(path, say)

            self.pictures.fetch(missing, looks, go_on)
            return
        width = max(place.right() for _, place in tiles) + GAP_PX
        height = max(place.bottom() for _, place in tiles) + GAP_PX
        if paint_file(path, width, height, lambda painter: self._print(painter, tiles, looks, width, height)):
            n_all = sum(len(section.rows) for section in self.sections)
            first = f"The first {len(tiles):,} of {n_all:,}" if len(tiles) < n_all else f"{len(tiles):,}"
            say(f"{first} cells saved as {path}.")
        else:
            say(f"{path} could not be written; choose another folder.")

    def _print(
        self, painter: QPainter, tiles: list[tuple[int, QRect]], looks: Any, width: int, height: int
    ) -> None:
        painter.fillRect(0, 0, width, height, QColor("white"))
        painter.setPen(QColor("black"))
        for section in self.sections:
            if section.title and section.top < height:
                painter.drawText(
                    QRect(GAP_PX, section.top, width, TITLE_PX), Qt.AlignmentFlag.AlignVCenter, section.title
                )
        for row, place in tiles:
            painter.drawImage(place, self.pictures.get(row, looks))
        if self.scale_bar:
            self._draw_bar(painter, tiles)

    # ---- gestures ----------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin a click or a rubber band; the right button opens the cell's menu."""
        at = event.position().toPoint()
        if event.button() == Qt.MouseButton.LeftButton:
            self._press = at
        elif event.button() == Qt.MouseButton.RightButton:
            section, where = self.section_at(at), event.globalPosition().toPoint()
            if section is not None:
                self.title_menu_requested.emit(section.name, where)
            else:
                self.menu_requested.emit(self.row_at(at), where)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Draw the rubber band, or say which cell is under the pointer."""
        at = event.position().toPoint()
        if self._press is not None and (at - self._press).manhattanLength() > 6:
            self._band = QRect(self._press, at).normalized()
            self.viewport().update()
        elif self._press is None:
            row = self.row_at(at)
            self.session.set_hover(row)
            words = ""
            if row >= 0:
                column = self.session.colour_by
                words = self.session.cell_id(row)
                if column:
                    words += f"\n{column_words(column)}: {number_words(self.session.value(row, column))}"
            section = self.section_at(at)
            if section is not None:
                words = f"Click to select its {len(section.every):,} cells"
            self.viewport().setCursor(
                Qt.CursorShape.PointingHandCursor if section is not None else Qt.CursorShape.ArrowCursor
            )
            QToolTip.showText(event.globalPosition().toPoint(), words, self.viewport())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the clicked cell, or those in the rubber band."""
        if event.button() != Qt.MouseButton.LeftButton or self._press is None:
            return
        mode = selection_mode(event.modifiers())
        if self._band is not None:
            hit = [row for row, place in self.in_sight() if place.intersects(self._band)]
            self.session.select(hit, mode, "rubber band in the gallery")
        elif (section := self.section_at(event.position().toPoint())) is not None:
            self.title_clicked.emit(section.every, mode)
        elif (row := self.row_at(event.position().toPoint())) >= 0:
            self.clicked.emit(row, mode)
        self._press = self._band = None
        self.viewport().update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Centre and frame the cell in its field."""
        if (row := self.row_at(event.position().toPoint())) >= 0:
            self.framed.emit(row)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from cell to cell; Return selects the one they are at, Space frames it in its field."""
        key, focus = event.key(), self.session.focus
        if key in ARROWS:
            self._go(ARROWS.index(key))
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and focus >= 0:
            self.clicked.emit(focus, selection_mode(event.modifiers()))
        elif key == Qt.Key.Key_Space and focus >= 0:
            self.framed.emit(focus)
        else:
            super().keyPressEvent(event)

    def _go(self, arrow: int) -> None:
        """Go to the cell beside the one that was clicked last (left, right, above, below); the first in sight, if none was."""
        focus, lines = self.session.focus, [s for s in self.sections if len(s.rows)]
        at = next(((s, int(i)) for s in lines for i in np.flatnonzero(s.rows == focus)[:1]), None)
        if at is None:
            row = next((row for row, _ in self.in_sight()), -1)
        else:
            row = _beside(lines, *at, arrow, self.columns)
        if row < 0:
            return
        self.session.set_focus(row)
        section, i = next((s, int(j)) for s in lines for j in np.flatnonzero(s.rows == row)[:1])
        top = section.top + (TITLE_PX if section.title else 0) + i // self.columns * self.step
        bar, high = self.verticalScrollBar(), self.viewport().height()
        if not bar.value() <= top <= bar.value() + high - self.step:
            bar.setValue(top - GAP_PX if top < bar.value() else top + self.step - high)

    def leaveEvent(self, event: QEvent) -> None:
        """The pointer is over no cell any more."""
        self.session.set_hover(-1)


def _beside(sections: list[Section], section: Section, i: int, arrow: int, columns: int) -> int:
    """Row of the cell to which an arrow leads (left, right, up, down) from the i-th of a section; the same at the end."""
    at, n = sections.index(section), len(section.rows)
    if arrow < 2:
        i += 2 * arrow - 1
        if not 0 <= i < n and 0 <= at + 2 * arrow - 1 < len(sections):
            section = sections[at + 2 * arrow - 1]
            i = 0 if arrow else len(section.rows) - 1
    else:
        line, column = divmod(i, columns)
        line += 2 * arrow - 5
        if not 0 <= line * columns < n and 0 <= at + 2 * arrow - 5 < len(sections):
            section = sections[at + 2 * arrow - 5]
            line = 0 if arrow == 3 else (len(section.rows) - 1) // columns
        elif not 0 <= line * columns < n:
            line -= 2 * arrow - 5
        i = min(line * columns + column, len(section.rows) - 1)
    return int(section.rows[min(max(i, 0), len(section.rows) - 1)])


def _in_turn(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows of many groups, each group's in its order: the first of every group, then the second of every group."""
    place: dict[Any, int] = {}
    turn = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        turn[i] = place[groups[row]] = place.get(groups[row], -1) + 1
    return rows[np.argsort(turn, kind="stable")]
