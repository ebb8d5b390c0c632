"""Variable groups: how much the cells of a group differ, in place and in intensity, and what they look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QEvent, QModelIndex, QPoint, QPointF, QRect, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import (
    QBrush,
    QColor,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QPolygonF,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QTableView,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.cells import provenance
from napari_cellrep.gui._axis import DIFFER, show_axis
from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui.views._note import Note
from napari_cellrep.gui.views._pairs import Pairs
from napari_cellrep.gui.views._parts import CellView, choice_box, frame_focus, offer
from napari_cellrep.gui.views._spread import MIN_CELLS, Asked, Found, Seen, as_frame, look_at, measure
from napari_cellrep.gui.views._tiles import Tiles, frame_picture
from napari_cellrep.gui.views._tones import blue_beside, faint_mark, faint_text, selection_beside
from napari_cellrep.gui.views._words import column_words
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.gui.views.table import TableModel
from napari_cellrep.session import Session
from napari_cellrep.specs import p_words

ALL_FEATURES, WITHOUT, SCORE = "all features", "all features but intensity", "closer to A or to B"
NO_INTENSITY = "none"
BELIEVE = (
    "Would a reviewer believe that this group varies? Tries the doubts one by one: as many reference cells,\n"
    "flagged cells, other models, intensity alone, other fields treated alike, black surroundings, a shift of 5 px, the\n"
    "structure channels alone, the pixels alone, and what the network was trained on"
)
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
_HEADINGS = {
    "rank": "1 is the most variable. Groups with fewer than ten good cells are not ranked.",
    "group": "Click a group to select its cells and to see them below",
    "cells": "Cells that count: shown, and with a value",
    "spatial": "How much the place of the protein differs from cell to cell, as a multiple of what is expected by chance: "
    "equally many cells of a reference group. 1 is no more than that.",
    "interval": "Bootstrap interval of “spatial”: drawing the group's cells again gives a value between these two in "
    "95 of 100 draws",
    "p (FDR)": "How often chance alone gives as large a “spatial” or a larger one (p-value), corrected for the number of groups "
    "(FDR, false discovery rate): of all groups at or below 0.05, at most one in twenty is expected to be there by chance",
    "intensity": "How much the intensity of the protein differs from cell to cell (SD as a share of the mean), as a "
    "multiple of what is expected by chance. A group can be variable in place, in intensity, or in both.",
}


class VariabilityView(CellView):
    """Groups ranked by how much their cells differ; choosing one shows its cells from one end to the other.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click, a double-click and the menu do.
    """

    title = "Variability"

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.background = Background(session)
        self.found: Found | None = None
        self.chosen = ""  # a group's name: it stays when the groups are measured anew
        self._measured: Any = None  # the table `found` is of
        self._group_of = np.zeros(0, np.int64)  # of every cell of the table; the number of groups: of none
        self._asking = 0  # number of the newest request; older ones stop
        self._stale = True
        self._sort, self._descending = "rank", False
        self._own_choice = False  # whether the user has said what is meant by spatial
        self.by = choice_box("What makes a group: cells with the same value of this column")
        self.spatial = choice_box(
            "What is meant by spatial: every feature of the embedding; the same without what follows the intensity from "
            "cell to cell; or only how far a cell is on the way from reference A to reference B"
        )
        self.intensity = choice_box("The number that tells how much protein a cell has")
        self.words = QLabel()
        self.words.setContentsMargins(6, 0, 6, 0)
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        bar = QHBoxLayout()
        bar.setContentsMargins(4, 2, 4, 2)
        for item in (
            QLabel("groups by"), self.by, QLabel("spatial"), self.spatial, QLabel("intensity"), self.intensity,
        ):  # fmt: skip
            bar.addWidget(item, 1 if isinstance(item, QComboBox) else 0)
        self._checking, self._closed = "", False  # group whose doubts are being tried
        self.check = QPushButton("Believe it?")
        self.check.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.check.clicked.connect(lambda _=False: self.show_evidence())
        self.its_field = QPushButton("Its field")
        self.its_field.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.its_field.clicked.connect(lambda _=False: self.show_field())
        self.differ = QPushButton("What differs?")
        self.differ.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.differ.clicked.connect(
            lambda _=False: show_axis(self.canvas, self.by.currentData(), self.chosen)
        )
        for button in (self.its_field, self.differ, self.check):
            bar.addWidget(button)
        self.scatter = Scatter(self)
        self.list = QTableView()
        self.model = GroupModel(lambda: self.list.palette().text().color())
        self.list.setModel(self.model)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.list.setWordWrap(False)
        self.list.setTabKeyNavigation(False)  # Tab leaves it, as it leaves every other part
        self.list.setAccessibleName("Groups, most variable first")
        self.list.setMinimumHeight(60)
        self.list.verticalHeader().hide()
        self.list.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 6)
        self.list.horizontalHeader().setSectionsClickable(True)
        self.list.horizontalHeader().sectionClicked.connect(self._on_header)
        self.list.installEventFilter(self)
        self.list.viewport().installEventFilter(self)
        self.strip = Strip(self)
        self.pairs = Pairs(session)
        below = QSplitter(Qt.Orientation.Horizontal)
        below.addWidget(self.strip)
        below.addWidget(self.pairs)
        below.setStretchFactor(0, 1)
        below.setStretchFactor(1, 0)
        right = QSplitter(Qt.Orientation.Vertical)
        right.addWidget(self.list)
        right.addWidget(below)
        right.setStretchFactor(0, 2)
        right.setStretchFactor(1, 3)
        right.setSizes([90, 150])
        right.setChildrenCollapsible(False)
        parts = QSplitter(Qt.Orientation.Horizontal)
        parts.addWidget(self.scatter)
        parts.addWidget(right)
        parts.setStretchFactor(0, 4)
        parts.setStretchFactor(1, 5)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(bar)
        layout.addWidget(self.words)
        layout.addWidget(parts, 1)

        self._soon = QTimer(self)  # opening a project is said three times; it is measured once
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.refresh)
        for box in (self.by, self.spatial, self.intensity):
            box.currentIndexChanged.connect(lambda _: self._later())
        self.spatial.activated.connect(self._on_spatial_chosen)
        self.scatter.clicked.connect(self.choose)
        self.pairs.clicked.connect(
            lambda rows, mode: session.select(rows, mode, f"square of the cell by cell map of {self.chosen}")
        )
        self.pairs.framed.connect(lambda row: canvas.go_to(row, frame=True))
        self.scatter.framed.connect(self._on_framed)
        self.scatter.menu_requested.connect(self._on_menu)
        self.listen(
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.embedding_changed, self._on_table_changed),
            (session.visible_changed, self._later),
            (session.selection_changed, self.on_selected),
            (session.focus_changed, self._on_pointed),
            (session.hover_changed, self._on_pointed),
        )
        self._tell_check()
        self._on_table_changed()

    def disconnect_session(self) -> None:
        """Listen no more and let the thread end."""
        super().disconnect_session()
        self._closed = True
        self._soon.stop()
        self._asking += 1
        self.background.close()

    # ---- what is measured --------------------------------------------------------------------------

    @property
    def score(self) -> str:
        """The column "closer to A or to B" of the present embedding; "" if there is none."""
        cells, column = self.session.cells, f"score_{self.session.embedding}"
        if (
            cells is None
            or column not in cells.obs
            or not np.isfinite(cells.obs[column].to_numpy(float)).any()
        ):
            return ""
        return column

    def _on_table_changed(self) -> None:
        session = self.session
        self.background.forget()
        self.strip.forget()
        self.pairs.show_group(None)
        columns = session.columns
        groups, numbers = [], []
        if session.cells is not None:
            obs = session.cells.obs
            for column in columns:
                values = obs[column]
                if pd.api.types.is_float_dtype(values):
                    if not column.startswith(("score_", "outlier_", "y_", "x_")) and not values.min() < 0:
                        numbers.append(column)
                elif not pd.api.types.is_bool_dtype(values) and 2 <= values.nunique() <= len(obs) / 2:
                    groups.append(column)
        groups.sort(key=lambda column: column != "group")
        numbers.sort(key=lambda column: (column != "q_signal", column.startswith("q_")))
        offer(self.by, groups or ["group"], groups)
        offer(self.spatial, [*([SCORE] if self.score else []), ALL_FEATURES, WITHOUT])
        if not self._own_choice:  # what a table without a score left behind is nobody's choice
            self.spatial.blockSignals(True)
            self.spatial.setCurrentIndex(0)
            self.spatial.blockSignals(False)
        offer(self.intensity, [*numbers, NO_INTENSITY], numbers)
        self._later()

    def _on_spatial_chosen(self, _: int) -> None:
        self._own_choice = True

    def _later(self) -> None:
        """Measure anew, once what is happening has happened; not at all while nobody looks."""
        self._stale = True
        self._asking += 1  # what runs is no longer wanted
        if self.isVisible():
            self._soon.start(0)

    def showEvent(self, event: QShowEvent) -> None:
        """Catch up with what happened while nobody looked."""
        super().showEvent(event)
        if self._stale:
            self._soon.start(0)

    def refresh(self) -> None:
        """Measure the groups of the cells that count (values hidden on the map still do), beside the window."""
        session = self.session
        self._stale = False
        self._asking += 1
        if session.cells is None or not session.n_visible:
            self._show(None, "No cells yet: segment the images in the CellRep panel.")
            return
        if not session.embedding:
            self._show(None, "This needs an embedding: embed the cells in the CellRep panel.")
            return
        cells, number = session.cells, self._asking
        rows, obs, vectors = (
            np.flatnonzero(session.counted), cells.obs, cells.obsm[f"X_{session.embedding}"],
        )  # fmt: skip
        asked = self._asked()
        if asked.by not in obs:
            self._show(None, f"There is no column {asked.by} that says which cells count as alike.")
            return

        def measured(found: Any) -> None:
            if number != self._asking:
                return
            if isinstance(found, Exception):
                self._show(None, f"The groups could not be measured ({found}).")
            else:
                self._show(found, _sentence(found))

        self.words.setText(f"Measuring the groups of {len(rows):,} cells…")
        self.background.run(
            lambda: measure(obs, rows, vectors, asked, stop=lambda: number != self._asking),
            measured,
            "groups",
        )

    def _asked(self) -> Asked:
        session = self.session
        made = provenance(session.cells).get(self.score, {}) if self.score else {}  # type: ignore[arg-type]
        numbers = made.get("numbers", {})
        intensity = self.intensity.currentData()
        return Asked(
            by=self.by.currentData(),
            spatial=self.score if self.spatial.currentText() == SCORE else "",
            intensity="" if intensity == NO_INTENSITY else intensity,
            take_out=self.spatial.currentText() == WITHOUT,
            like=str(numbers.get("per", "")),
            a=str(numbers.get("a", "")),
            b=str(numbers.get("b", "")),
        )

    def _show(self, found: Found | None, words: str) -> None:
        self.found, self._measured = found, self.session.cells
        rows = found.rows if found is not None else []
        self._group_of = np.full(self.session.n_cells, len(rows))
        for group, own in enumerate(rows):
            self._group_of[own] = group
        self.words.setText(words)
        self.words.setToolTip(words)
        self.model.frame_of(found)
        self._arrange()
        self.scatter.show_groups(found)
        self._show_group(None, "")
        self.mark()
        if found is not None:
            group = self._group()
            self._look(group if group >= 0 else -1)
            self._fit_columns()

    def _fit_columns(self) -> None:
        """Columns as wide as their words in bold, once: later widths are the user's own."""
        if self.list.property("fitted"):
            return
        self.list.horizontalHeader().setResizeContentsPrecision(50)
        self.list.resizeColumnsToContents()
        for column in range(self.model.columnCount()):
            self.list.setColumnWidth(column, round(1.15 * self.list.columnWidth(column)) + 4)
        self.list.setProperty("fitted", True)

    def _group(self) -> int:
        names = self.found.names if self.found is not None else []
        return names.index(self.chosen) if self.chosen in names else -1

    # ---- choosing ----------------------------------------------------------------------------------

    def choose(self, group: int, mode: str = "replace") -> None:
        """Select the cells of a group, and show them along their main axis."""
        if self.found is None or not 0 <= group < len(self.found.names):
            return
        self.chosen = self.found.names[group]
        self.session.select(self.found.rows[group], mode, f"{self.by.currentText()} {self.chosen}")
        self._look(group)
        self.mark()

    def _look(self, group: int) -> None:
        session, found = self.session, self.found
        if found is None or group < 0 or session.cells is None:
            self._show_group(None, "Click a group to see its cells, from one end to the other.")
            return
        cells, counted, score = session.cells, session.counted, self.score
        vectors = cells.obsm[f"X_{session.embedding}"] if session.embedding else None

        def looked(seen: Any) -> None:
            if found is not self.found or group != self._group():
                return
            if isinstance(seen, Exception):
                self._show_group(None, f"Its cells could not be put in an order ({seen}).")
                return
            n = len(found.rows[group])
            words = f"{found.names[group]}: {n:,} cells"
            if len(seen.rows) and np.isfinite(seen.share):
                words += f" along what differs most among them, {seen.share:.0%} of their variance"
            elif not len(seen.rows):
                words += ", too few to say how they differ"
            self._show_group(seen, words)

        self.background.run(
            lambda: look_at(cells.obs, counted, vectors, found, group, score), looked, "group"
        )

    # ---- would a reviewer believe it? ----------------------------------------------------------------

    def show_evidence(self) -> None:
        """Have the worker try what a reviewer would doubt of the chosen group, and show what came of it."""
        session, group, viewer = self.session, self.chosen, self.canvas.viewer
        if self._group() < 0 or session.project is None or viewer is None or self._checking:
            return

        def done(say: Callable[[Any], None]) -> Callable[[Any], None]:
            def answered(value: Any) -> None:
                self._checking = ""
                if not self._closed:  # the view is there still
                    self._tell_check()
                    say(value)

            return answered

        def show(found: Any) -> None:
            self.note = Note(
                self, f"Would a reviewer believe that {group} varies?", "\n".join(found["lines"])
            )
            self.note.show()

        self._checking = group
        self._tell_check()
        runner_of(viewer).ask(
            "believe_group.believe_group", session.project.root, done(show), done(self.words.setText),
            group=group, by=self.by.currentData(), embedding=session.embedding,
            by_score=self.spatial.currentText() == SCORE,
        )  # fmt: skip

    def _tell_check(self) -> None:
        """Say whether the chosen group can be checked, and what that does."""
        self.check.setEnabled(self._group() >= 0 and not self._checking)
        self.check.setText("Checking…" if self._checking else "Believe it?")
        self.check.setToolTip(
            f"{self._checking} is being checked: some of its cells are embedded anew, which takes some seconds"
            if self._checking
            else BELIEVE
            if self._group() >= 0
            else "Click a group first: what a reviewer would doubt of it is tried one by one"
        )
        why = (
            "Needs an embedding: embed the cells in the CellRep panel"
            if not self.session.embedding
            else "Click a group first"
            if self._group() < 0
            else ""
        )
        self.differ.setEnabled(not why)
        self.differ.setToolTip(why or f"{DIFFER[0]} {DIFFER[1]}")

    # ---- the group's fields ----------------------------------------------------------------------------

    def _fields(self) -> list[str]:
        """Fields of the chosen group, in their order."""
        group, cells = self._group(), self.session.cells
        if group < 0 or self.found is None or cells is None:
            return []
        return list(dict.fromkeys(cells.obs["field"].astype(str).to_numpy()[self.found.rows[group]]))

    def show_field(self) -> None:
        """Show a field of the chosen group, its cells coloured by the score, else by the intensity; again: the next field."""
        fields, column = self._fields(), self._tells()
        if not fields:
            return
        if column:
            self.session.colour_by = column
            self.canvas.coloured = True
        at = fields.index(self.canvas.field) + 1 if self.canvas.field in fields else 0
        self.canvas.show(fields[at % len(fields)])

    def _tells(self) -> str:
        """The column by which the cells of a field are coloured."""
        intensity = self.intensity.currentData()
        return self.score or ("" if intensity == NO_INTENSITY else intensity)

    def _tell_field(self) -> None:
        n = len(self._fields()) if self._measured is self.session.cells else 0
        column = self._tells()
        self.its_field.setEnabled(n > 0)
        self.its_field.setToolTip(
            "Click a group first"
            if not n
            else (
                "Shows the group's field"
                if n == 1
                else f"Shows the group's {n:,} fields, one after the other"
            )
            + (f", the cells coloured by “{column_words(column)}” as on the map" if column else "")
        )

    def _on_menu(self, group: int, at: Any) -> None:
        """Ask what can be done with a group."""
        if self.found is not None and 0 <= group < len(self.found.names):
            self.canvas.open_group_menu(self.found.asked.by, self.found.names[group], at)

    def _on_framed(self, group: int) -> None:
        if self.found is not None and len(self.found.rows[group]):
            self.canvas.show(self.session.place(int(self.found.rows[group][0]))[0])

    def _show_group(self, seen: Seen | None, words: str) -> None:
        self.strip.show_group(seen, words)
        self.pairs.show_group(seen)

    def mark(self) -> None:
        """Show which groups have selected cells."""
        self.pairs.mark()
        found, selected = self.found, self.session.selected
        marked = np.zeros(0 if found is None else len(found.names), bool)
        if found is not None and self._measured is self.session.cells:
            marked = np.bincount(self._group_of[selected], minlength=len(marked) + 1)[: len(marked)] > 0
        self._tell_check()
        self._tell_field()
        self.model.mark(marked, self._group())
        self.scatter.mark(marked, self._group())
        self.strip.update()

    def _on_pointed(self, _: int) -> None:
        self.strip.update()

    # ---- the list ----------------------------------------------------------------------------------

    def _on_header(self, section: int) -> None:
        column = str(self.model.frame.columns[section])
        self._descending = column == self._sort and not self._descending
        if column != self._sort:
            self._descending = column in ("cells", "spatial", "interval", "intensity")
        self._sort = column
        self._arrange()
        order = Qt.SortOrder.DescendingOrder if self._descending else Qt.SortOrder.AscendingOrder
        self.list.horizontalHeader().setSortIndicatorShown(True)
        self.list.horizontalHeader().setSortIndicator(section, order)

    def _arrange(self) -> None:
        """Put the list in order; groups that are not ranked stay at the end."""
        found, frame = self.found, self.model.frame
        if found is None:
            return
        order = found.order
        if self._sort == "group":
            order = np.arange(len(frame))
        elif self._sort != "rank":
            values = frame["spatial" if self._sort == "interval" else self._sort].to_numpy(
                float, na_value=np.nan
            )
            order = np.argsort(-values if self._descending else values, kind="stable")
        elif self._descending:
            order = order[::-1]
        if self._sort == "group" and self._descending:
            order = order[::-1]
        unranked = found.spatial.rank[order] == 0
        self.model.arrange(np.concatenate([order[~unranked], order[unranked]]))

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Clicks and keys mean what they mean in every view: Return chooses the cursor's line, Space shows its field."""
        kind = event.type()
        if watched is self.list and kind == QEvent.Type.KeyPress:
            line = self.list.currentIndex().row()
            keys = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
            if event.key() in keys and 0 <= line < len(self.model.order):
                group = int(self.model.order[line])
                if event.key() == Qt.Key.Key_Space:
                    self._on_framed(group)
                else:
                    self.choose(group, selection_mode(event.modifiers()))
                return True
        elif watched is self.list.viewport() and kind in (
            QEvent.Type.MouseButtonRelease, QEvent.Type.MouseButtonDblClick,
        ):  # fmt: skip
            line = self.list.rowAt(event.position().toPoint().y())
            if event.button() == Qt.MouseButton.RightButton and line >= 0:
                if kind == QEvent.Type.MouseButtonRelease:
                    self._on_menu(int(self.model.order[line]), event.globalPosition().toPoint())
            elif event.button() == Qt.MouseButton.LeftButton and line >= 0:
                group = int(self.model.order[line])
                if kind == QEvent.Type.MouseButtonDblClick:
                    self._on_framed(group)
                else:
                    self.choose(group, selection_mode(event.modifiers()))
        return False


class GroupModel(TableModel):
    """The list of groups: those that are not ranked are grey.

    Parameters
    ----------
    text : callable
        Gives the colour of the list's text, which is the theme's.
    """

    def __init__(self, text: Callable[[], QColor]) -> None:
        super().__init__()
        self.text = text
        self.ranked = np.zeros(0, bool)

    def frame_of(self, found: Found | None) -> None:
        """Show these groups."""
        frame = pd.DataFrame() if found is None else as_frame(found)
        self.ranked = np.zeros(0, bool) if found is None else found.spatial.rank > 0
        self.show(frame, np.arange(len(frame)), np.zeros(len(frame), bool))

    def arrange(self, order: np.ndarray) -> None:
        """Put the same groups in another order."""
        self.show(self.frame, order, self.marked, self.focus)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A column's name, and what it says."""
        if role == Qt.ItemDataRole.ToolTipRole and orientation == Qt.Orientation.Horizontal:
            return _HEADINGS.get(str(self.frame.columns[section]), "")
        return super().headerData(section, orientation, role)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What the list shows: multiples with two decimals, groups of too few cells grey."""
        row = self.order[index.row()]
        column = str(self.frame.columns[index.column()])
        if role == Qt.ItemDataRole.DisplayRole and column in ("spatial", "intensity"):
            value = self._values[index.column()][row]
            return f"{value:.2f}" if np.isfinite(value) else "–"
        if role == Qt.ItemDataRole.DisplayRole and column == "p (FDR)":
            value = self._values[index.column()][row]
            return p_words(value).removeprefix("p ").removeprefix("= ") if np.isfinite(value) else "–"
        if role == Qt.ItemDataRole.DisplayRole and column == "rank" and not self.ranked[row]:
            return "–"
        if role == Qt.ItemDataRole.ForegroundRole and not self.ranked[row]:
            return QBrush(faint_text(self.text()))
        if role == Qt.ItemDataRole.ToolTipRole and not self.ranked[row]:
            return (
                f"Not ranked: {self.frame['cells'].iloc[row]:,} cells that count, and {MIN_CELLS} are needed."
            )
        return super().data(index, role)


class Scatter(QWidget):
    """Intensity against place, one point for each ranked group; 1 is what is expected by chance.

    By keys: arrows lead to the next point that way, Home, End, Page Up and Page Down through the ranks, Return does what
    a click does, Space shows a field of the group.
    """

    clicked = Signal(int, str)  # group, selection mode
    framed = Signal(int)
    menu_requested = Signal(int, object)  # group, global position
    LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40

    def __init__(self, view: VariabilityView) -> None:
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
        for value in _ticks(x0, x1) if with_intensity else ():
            painter.drawText(
                QRectF(self._px(value, y0).x() - 20, area.bottom() + 2, 40, 15), middle, f"{value:g}"
            )
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for value in _ticks(y0, y1):
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
        words = _said_of(self.found, group) if self.found is not None and group >= 0 else ""
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
            QToolTip.showText(self.mapToGlobal(where), _said_of(self.found, self.at), self)
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


class Strip(QWidget):
    """Cells of the chosen group at even steps along its main axis, and its scores as a violin.

    Arrows go from cell to cell; Return does what a click does, Space shows the cell in its field.
    """

    HEAD_PX, GAP_PX, TILE_PX, ARROW_PX, WAY_PX = 18, 3, 50, 13, 15
    VIOLIN_PX = (12, 56)  # height of one: least and most

    def __init__(self, view: VariabilityView) -> None:
        super().__init__()
        self.session, self.canvas = view.session, view.canvas
        self.seen: Seen | None = None
        self.words = ""
        self.pictures = Tiles(self.session, self.canvas, view.background, self.update)
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


def _sentence(found: Found) -> str:
    """What was done, in a line."""
    ranked = int((found.spatial.rank > 0).sum())
    if not ranked:
        return (
            f"No group has {MIN_CELLS} good cells, so none is ranked: what a few cells show is mostly luck."
        )
    beyond = int(found.spatial.beyond.sum())
    words = f"{ranked:,} groups ranked, {beyond:,} {'varies' if beyond == 1 else 'vary'} more in place than by chance (filled)"
    words += f", {int((found.spatial.p_fdr <= 0.05).sum()):,} with p ≤ 0.05 (FDR)."
    few = len(found.names) - ranked
    if few:
        words += f" {few:,} with fewer than {MIN_CELLS} cells {'is' if few == 1 else 'are'} grey."
    if np.isfinite(found.left):
        words += f" Without intensity {found.left:.0%} of what differs within groups is left."
    return words + f" Chance: as many cells of {found.words}."


def _said_of(found: Found, group: int) -> str:
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


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about five."""
    step = 10 ** np.floor(np.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5) if (high - low) / (m * step) <= 6), 10)
    return [round(float(v), 6) for v in np.arange(np.ceil(low / step) * step, high + step / 1e3, step)]
