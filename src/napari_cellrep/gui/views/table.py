"""The table: what is known of every cell or group; sorting and filtering a hundred thousand rows at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QAbstractTableModel, QEvent, QModelIndex, QPoint, Qt
from qtpy.QtGui import QBrush, QColor, QFont, QGuiApplication, QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QPushButton,
    QTableView,
    QVBoxLayout,
)

from napari_cellrep.data.files import write_text
from napari_cellrep.data.filters import matching
from napari_cellrep.data.rows import Rows, row_words, rows_words
from napari_cellrep.gui.views._order import by_column
from napari_cellrep.gui.views._parts import CellView, ChoiceBox, words_line
from napari_cellrep.gui.views._raster import SELECTED
from napari_cellrep.gui.views._words import column_words
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError

# Where a cell is and how its mask is known: shown when asked for, not from the start.
_LATE = ("label", "mask_hash", "box_y0", "box_x0", "box_y1", "box_x1", "field", "good")

DISTANCE = "distance to "  # begins the name of the column that `analysis.profiles.Similar` brings

_TOP = QModelIndex()


class TableModel(QAbstractTableModel):
    """A data frame in an order; nothing is copied for it but the order.

    Attributes
    ----------
    frame : DataFrame
        All rows. A column "cell" or "group" comes first.
    order : ndarray of int
        Rows of `frame` as they stand.
    marked : ndarray of bool, shape (len(frame),)
        Rows drawn as selected.
    focus : int
        Row of `frame` drawn bold; -1 for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frame = pd.DataFrame()
        self.order = np.zeros(0, np.int64)
        self.marked = np.zeros(0, bool)
        self.focus = -1
        self._values: list[np.ndarray] = []

    def show(self, frame: pd.DataFrame, order: np.ndarray, marked: np.ndarray, focus: int = -1) -> None:
        """Show other rows."""
        self.beginResetModel()
        self.frame, self.order, self.marked, self.focus = frame, order, marked, focus
        self._values = [frame.iloc[:, i].to_numpy() for i in range(frame.shape[1])]
        self.endResetModel()

    def mark(self, marked: np.ndarray, focus: int) -> None:
        """Draw other rows as selected."""
        self.marked, self.focus = marked, focus
        if len(self.order):
            self.dataChanged.emit(
                self.index(0, 0), self.index(len(self.order) - 1, max(0, self.frame.shape[1] - 1))
            )

    def rowCount(self, parent: QModelIndex = _TOP) -> int:
        """Rows shown."""
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: QModelIndex = _TOP) -> int:
        """Columns."""
        return 0 if parent.isValid() else self.frame.shape[1]

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """A column's name in words, or a row's number."""
        if role == Qt.ItemDataRole.ToolTipRole and orientation == Qt.Orientation.Horizontal:
            return f"{self.frame.columns[section]}\nClick to sort; right-click to choose columns"
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation == Qt.Orientation.Horizontal:
            return column_words(str(self.frame.columns[section]))
        return f"{section + 1:,}"

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell of the table shows and how."""
        row = self.order[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return _shown(self._values[index.column()][row])
        if role == Qt.ItemDataRole.TextAlignmentRole and self._values[index.column()].dtype.kind in "iuf":
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.BackgroundRole and self.marked[row]:
            return QBrush(QColor(*SELECTED, 90))
        if role == Qt.ItemDataRole.FontRole and row == self.focus:
            font = QFont()
            font.setBold(True)
            return font
        return None


class TableView(CellView):
    """All visible cells, or their groups, with everything the table knows of them.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says what a click, a double-click and the menu do.
    """

    title = "Table"
    kept = ("search", "filter")

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self._column, self._descending = "", False
        self._clicking = False
        self._similar_to = ("", "")  # column and value of the group that others were ranked for
        self._hidden: set[str] = set(_LATE)
        self._groups: list[np.ndarray] = []  # rows of the cells of each group shown
        self.rows_of = ChoiceBox()
        self.rows_of.setToolTip(
            "A row for each cell, or for each group, field or value of a column with the means of its cells"
        )
        self.search = QLineEdit()
        self.search.setPlaceholderText("search")
        self.search.setToolTip("Rows in which any word contains this")
        self.search.setClearButtonEnabled(True)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter, for example  area_px > 400 and compound == 'Wortmannin'")
        self.filter.setToolTip(
            "Rows for which this is true. Names of columns, numbers, 'words', and, or, not, ==, <, >; names with blanks "
            "stand in `backticks`."
        )
        self.filter.setClearButtonEnabled(True)
        self.choose = QPushButton("Select these")
        self.choose.setToolTip("Select the cells of the rows that are shown")
        self.save = QPushButton("Save as CSV…")
        self.save.setToolTip("The rows and columns as they stand here; Ctrl+C copies the selected ones")
        self.forget = QPushButton()
        self.forget.setToolTip("Take the column with the distances away")
        self.forget.hide()
        self.words = words_line()
        bar = QHBoxLayout()
        bar.setContentsMargins(4, 2, 4, 2)
        for item, stretch in (
            (self.rows_of, 0), (self.forget, 0), (self.search, 1), (self.filter, 3), (self.choose, 0), (self.save, 0),
        ):  # fmt: skip
            bar.addWidget(item, stretch)
        self.model = TableModel()
        self.table = QTableView()
        self.table.setModel(self.model)
        self.table.setSelectionMode(
            QAbstractItemView.SelectionMode.NoSelection
        )  # the session's is the only one
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)  # Tab leaves it, as it leaves every other part
        self.table.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 6)
        header = self.table.horizontalHeader()
        header.setSectionsClickable(True)
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._on_header_menu)
        header.sectionClicked.connect(self._on_header)
        self.table.installEventFilter(self)
        self.table.viewport().installEventFilter(self)
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.table.customContextMenuRequested.connect(self._on_menu)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(bar)
        layout.addWidget(self.words)
        layout.addWidget(self.table, 1)
        self.rows_of.currentIndexChanged.connect(lambda _: self.refresh())
        self.forget.clicked.connect(lambda _=False: setattr(session, "similar", None))
        self.search.textChanged.connect(lambda _: self.refresh())
        self.filter.editingFinished.connect(self.refresh)
        self.filter.textChanged.connect(lambda words: self.refresh() if not words else None)
        self.choose.clicked.connect(lambda _=False: self._on_choose())
        self.save.clicked.connect(lambda _=False: self._on_save())
        self.listen(
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.visible_changed, self.refresh),
            (session.selection_changed, self._mark),
            (session.focus_changed, self._on_focus),
            (session.similar_changed, self._on_similar),
        )
        self._on_table_changed()
        if session.similar is not None:
            self._on_similar()

    @property
    def of_cells(self) -> bool:
        """Whether a row is a cell, not a group."""
        return self.rows_of.currentIndex() <= 0

    @property
    def by(self) -> str:
        """Column whose values are the rows; "" for cells."""
        return self.rows_of.currentData() or ""

    # ---- what comes back with the project ----------------------------------------------------------

    def arrangement(self) -> dict[str, Any]:
        """By which column it is sorted, and which columns are hidden."""
        column = "" if self._column.startswith(DISTANCE) else self._column  # that goes with the ranking
        return {"column": column, "descending": self._descending, "hidden": sorted(self._hidden)}

    def arrange_as(self, kept: Mapping[str, Any]) -> None:
        """Sort and hide as kept."""
        match kept:
            case {"column": str(column), "descending": bool(descending), "hidden": list(hidden)}:
                self._column, self._descending = column, descending
                self._hidden = {name for name in hidden if isinstance(name, str)}
                self.refresh()
                if column in self.model.frame:
                    self._show_sorting(list(self.model.frame.columns).index(column))

    # ---- what is shown -----------------------------------------------------------------------------

    def _on_table_changed(self) -> None:
        chosen = self.by
        self.rows_of.blockSignals(True)
        self.rows_of.clear()
        for column in ("", *self.session.row_columns()):
            self.rows_of.addItem(row_words(column), column)
        self.rows_of.setCurrentIndex(max(0, self.rows_of.findData(chosen)))
        self.rows_of.blockSignals(False)
        self.refresh()

    def _on_similar(self) -> None:
        """Show groups by how like one of them they are, the most alike first; or as before."""
        found, before = self.session.similar, self._similar_to
        self._similar_to = (found.by, found.name) if found is not None else ("", "")
        self.forget.setVisible(found is not None)
        if found is None:
            self._column = "" if self._column.startswith(DISTANCE) else self._column
        elif before != self._similar_to:  # what is ranked again leaves the table as it was sorted meanwhile
            self.forget.setText(f"× {found.column}")
            self._column, self._descending = found.column, False
            self.rows_of.blockSignals(True)
            self.rows_of.setCurrentIndex(max(0, self.rows_of.findData(found.by)))
            self.rows_of.blockSignals(False)
        self.refresh()
        if self._column in self.model.frame:
            self._show_sorting(list(self.model.frame.columns).index(self._column))

    def refresh(self) -> None:
        """Show the rows that pass search and filter, in the order that was chosen."""
        cells = self.session.cells
        if cells is None:
            self.model.show(pd.DataFrame(), np.zeros(0, np.int64), np.zeros(0, bool))
            self.words.setText("No cells yet: segment the images in the CellRep panel.")
            return
        try:
            frame, order = self._rows(cells.obs)
        except InputError as error:
            self.words.setText(f"⚠ {error}")
            return
        shown = [c for c in frame.columns if c not in self._hidden or c == self.by]
        if self._column in frame.columns:
            order = by_column(order, frame[self._column])
            if self._descending:  # those without a value stay last
                known = frame[self._column].iloc[order].notna().to_numpy()
                order = np.concatenate([order[known][::-1], order[~known]])
        self.model.show(frame[shown], order, *self._marks(len(frame)))
        total = self.session.n_visible if self.of_cells else len(frame)
        words, found = f"{len(order):,} of {rows_words(total, self.by)}", self.session.similar
        if found is not None and found.by == self.by:
            words = f"{words}. {found.words}"
        self.words.setText(words)
        self.choose.setEnabled(len(order) > 0)

    def _rows(self, obs: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """All rows, and which of them are shown."""
        visible = np.flatnonzero(self.session.visible)
        known = self.session.columns  # what the lab knows first, then what was measured
        columns = [*known, *(c for c in obs.columns if c not in known)]
        if self.of_cells:
            frame = obs[columns].copy(deep=False)
            frame.insert(0, "cell", obs.index.to_numpy())
            order = visible
        else:
            rows, found = self.session.rows_by(self.by), self.session.similar
            frame, self._groups = group_table(obs[columns], self.session.visible, rows)
            if found is not None and found.by == self.by:
                distance = pd.Series(found.distance, index=list(found.names)).reindex(
                    frame[self.by].astype(str)
                )
                frame.insert(1, found.column, distance.to_numpy())
            order = np.arange(len(frame))
        wanted = self.search.text().strip().lower()
        if wanted:
            hit = np.zeros(len(order), bool)
            for column in frame.columns:
                if not pd.api.types.is_numeric_dtype(frame[column]):
                    words = frame[column].iloc[order].astype(str).str.lower()
                    hit |= words.str.contains(wanted, regex=False).to_numpy()
            order = order[hit]
        if rule := self.filter.text().strip():
            order = order[matching(frame.iloc[order], rule)]
        return frame, order

    def _marks(self, n: int) -> tuple[np.ndarray, int]:
        session = self.session
        if self.of_cells:
            return session.selected, session.focus
        marked = np.array(
            [bool(len(own)) and bool(session.selected[own].all()) for own in self._groups], bool
        )
        focus = next((i for i, own in enumerate(self._groups) if session.focus in own), -1)
        return (marked if len(marked) == n else np.zeros(n, bool)), focus

    def _mark(self) -> None:
        if self.session.cells is not None and len(self.model.frame):
            self.model.mark(*self._marks(len(self.model.frame)))

    def _on_focus(self, row: int) -> None:
        self._mark()
        if self.of_cells and row >= 0 and not self._clicking:  # a clicked line stays where it is
            at = np.flatnonzero(self.model.order == row)
            if len(at):
                self.table.scrollTo(
                    self.model.index(int(at[0]), 0), QAbstractItemView.ScrollHint.PositionAtCenter
                )

    # ---- gestures ----------------------------------------------------------------------------------

    def rows_at(self, line: int) -> np.ndarray:
        """The cells that a line of the table stands for."""
        row = int(self.model.order[line])
        return np.array([row]) if self.of_cells else self._groups[row]

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Clicks on rows mean what they mean in every view; Return and Space do so for the line the cursor is on."""
        kind = event.type()
        if watched is self.table and kind == QEvent.Type.KeyPress:
            return self._on_key(event)
        if watched is self.table.viewport() and kind in (
            QEvent.Type.MouseButtonRelease,
            QEvent.Type.MouseButtonDblClick,
        ):
            if event.button() != Qt.MouseButton.LeftButton:
                return False
            line = self.table.rowAt(event.position().toPoint().y())
            if line < 0:
                return False
            if kind == QEvent.Type.MouseButtonDblClick:
                self.canvas.go_to(int(self.rows_at(line)[0]), frame=True)
            else:
                self._select_line(line, event.modifiers())
        return False

    def _on_key(self, event: Any) -> bool:
        line = self.table.currentIndex().row()
        if not 0 <= line < len(self.model.order):
            return False
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._select_line(line, event.modifiers())
        elif event.key() == Qt.Key.Key_Space:
            self.canvas.go_to(int(self.rows_at(line)[0]), frame=True)
        else:
            return False
        return True

    def _select_line(self, line: int, modifiers: Any) -> None:
        """Do what a click on a line means."""
        rows, mode = self.rows_at(line), selection_mode(modifiers)
        if not self.of_cells:
            name = self.model.frame[self.by].iloc[self.model.order[line]]
            self.session.select(rows, mode, f"{self.by} {name}")
            return
        self._clicking = True
        try:
            self.canvas.click(int(rows[0]), mode)
        finally:
            self._clicking = False

    def _on_menu(self, at: QPoint) -> None:
        line = self.table.rowAt(at.y())
        where = self.table.viewport().mapToGlobal(at)
        if line >= 0 and self.of_cells:
            self.canvas.open_menu(int(self.rows_at(line)[0]), where)
        elif line >= 0:
            name = str(self.model.frame[self.by].iloc[self.model.order[line]])
            self.canvas.open_group_menu(self.by, name, where)

    def _on_header(self, section: int) -> None:
        column = self.model.frame.columns[section]
        self._descending = column == self._column and not self._descending
        self._column = str(column)
        self.refresh()
        self._show_sorting(section)

    def _show_sorting(self, section: int) -> None:
        order = Qt.SortOrder.DescendingOrder if self._descending else Qt.SortOrder.AscendingOrder
        self.table.horizontalHeader().setSortIndicatorShown(True)
        self.table.horizontalHeader().setSortIndicator(section, order)

    def column_menu(self) -> QMenu:
        """Every column, ticked if it is shown."""
        menu = QMenu(self)
        cells = self.session.cells
        for column in [] if cells is None else cells.obs.columns:
            action = menu.addAction(column_words(str(column)))
            action.setCheckable(True)
            action.setChecked(column not in self._hidden)
            action.toggled.connect(lambda on, column=column: self._show_column(column, on))
        return menu

    def _on_header_menu(self, at: QPoint) -> None:
        self.column_menu().popup(self.table.horizontalHeader().mapToGlobal(at))

    def _show_column(self, column: str, on: bool) -> None:
        (self._hidden.discard if on else self._hidden.add)(column)
        self.refresh()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl+C copies the selected rows, with their header, for a spreadsheet."""
        if event.matches(QKeySequence.StandardKey.Copy):
            QGuiApplication.clipboard().setText(self.text("\t", only_marked=True))
        else:
            super().keyPressEvent(event)

    def text(self, separator: str = ",", only_marked: bool = False) -> str:
        """Rows and columns as they stand, as text."""
        order = self.model.order
        if only_marked:
            order = order[self.model.marked[order]]
        return self.model.frame.iloc[order].to_csv(sep=separator, index=False, lineterminator="\n")

    def _on_choose(self) -> None:
        rows = [self.rows_at(line) for line in range(len(self.model.order))] if not self.of_cells else []
        rules = [f"“{box.text().strip()}”" for box in (self.search, self.filter) if box.text().strip()]
        how = "rows of the table" + f" where {' and '.join(rules)}" * bool(rules)
        self.session.select(self.model.order if self.of_cells else np.concatenate(rows), how=how)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the table", "cells.csv", "CSV (*.csv)")
        if path:
            try:
                write_text(Path(path), self.text())
            except OSError as error:
                self.words.setText(
                    f"⚠ {path} could not be written ({error.strerror}); choose another folder."
                )
            else:
                self.words.setText(f"{len(self.model.order):,} rows saved as {path}.")


def group_table(obs: pd.DataFrame, visible: np.ndarray, rows: Rows) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """One row per group: how many cells, the share that is flagged, means of numbers, words where all cells agree.

    Parameters
    ----------
    obs : DataFrame
        All cells.
    visible : ndarray of shape (n_cells,), bool
        The cells that count, but for the share of flagged ones.
    rows : Rows

    Returns
    -------
    frame : DataFrame
        The column the groups come from, "n_cells", "flagged_share", then the others; groups in their first order,
        those without a visible cell left out.
    groups : list of ndarray
        Rows of `obs` in each.
    """
    kept = np.flatnonzero(rows.count(visible))
    members = rows.members(visible)
    groups = [members[i] for i in kept]
    use = visible & (rows.codes >= 0)
    codes, own, n = rows.codes[use], obs[use], len(rows)
    values = obs[rows.by].iloc[[g[0] for g in groups]].tolist()
    found: dict[str, Any] = {rows.by: values, "n_cells": [len(g) for g in groups]}
    if "good" in obs:
        bad = rows.count(~obs["good"].to_numpy(bool))
        found["flagged_share"] = (bad / np.maximum(rows.count(np.ones(len(obs), bool)), 1))[kept]
    for column in obs.columns:
        if column == rows.by or column in (*_LATE, "y_px", "x_px"):  # the mean of places says nothing
            continue
        values = own[column]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            mean = pd.Series(values.to_numpy(float, na_value=np.nan)).groupby(codes).mean()
            found[column] = mean.reindex(kept).to_numpy()
        elif not pd.api.types.is_bool_dtype(values):
            word, names = pd.factorize(values.astype(str))
            least, most = np.full(n, len(names)), np.full(n, -1)
            np.minimum.at(least, codes, word)
            np.maximum.at(most, codes, word)
            same = [str(names[i]) if i == j else "" for i, j in zip(least[kept], most[kept], strict=True)]
            if any(same):
                found[column] = same
    return pd.DataFrame(found), groups


def _shown(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return str(value)
