"""Variable groups: how much the cells of a group differ, in place and in intensity, and what they look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QEvent, QModelIndex, Qt, QTimer
from qtpy.QtGui import QBrush, QColor, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QTableView,
    QVBoxLayout,
)

from napari_cellrep.data.cells import provenance
from napari_cellrep.gui._axis import DIFFER, show_axis
from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui.views._group_scatter import Scatter
from napari_cellrep.gui.views._group_strip import Strip
from napari_cellrep.gui.views._note import Note
from napari_cellrep.gui.views._pairs import Pairs
from napari_cellrep.gui.views._parts import CellView, choice_box, offer
from napari_cellrep.gui.views._spread import MIN_CELLS, Asked, Found, Seen, as_frame, look_at, measure
from napari_cellrep.gui.views._tones import faint_text
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
        self.scatter = Scatter()
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
        self.strip = Strip(session, canvas, self.background)
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
            control=session.project.comparison["control"] if session.project is not None else "",
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
