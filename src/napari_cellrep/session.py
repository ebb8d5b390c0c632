"""What one viewer is looking at: project, cells, selection, focus, colour. No Qt, no napari.

A view reads the session and writes intents to it; no view writes another view.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from psygnal import Signal

from napari_cellrep.data.cells import embedding_names, map_key, provenance
from napari_cellrep.data.filters import HAS, choices_by_value, has_value
from napari_cellrep.data.project import Project, open_project
from napari_cellrep.data.rows import MOST_ROWS, Rows, row_columns, rows_by
from napari_cellrep.data.sets import read_sets, write_sets
from napari_cellrep.data.verdicts import FLAG, make_verdict, read_verdicts, set_flagged, valid, write_verdicts
from napari_cellrep.specs import InputError

if TYPE_CHECKING:
    import anndata as ad

    from napari_cellrep.analysis.profiles import Similar

MODES = ("replace", "add", "subtract", "intersect")
_MODE_WORDS = {"add": "and", "subtract": "without", "intersect": "and in both,"}
MOST_HOW = 300  # letters that say how a selection was made
UNDO_STEPS = 100
UNDO_IDS = 5_000_000  # cells at most in the sets that undo keeps: 40 MB

Verdicts = Mapping[str, dict[str, Any] | None]
Sets = Mapping[str, dict[str, Any] | None]


class _Step(NamedTuple):
    """What a step of undo brings back: the selection, and verdicts by cell id or sets by name (None: there was none)."""

    selected: np.ndarray  # packed bits: a million cells are 125 kB
    verdicts: Verdicts
    sets: Sets  # by reference: sets are replaced, never changed in place
    order: tuple[str, ...] = ()  # of all sets
    how: str = ""  # the selection was made

    @property
    def n_ids(self) -> int:
        return sum(len(made["cells"]) for made in self.sets.values() if made)


# Columns that place a cell rather than say something about it.
_NOT_COLOURS = ("label", "mask_hash", "box_y0", "box_x0", "box_y1", "box_x1", "q_window_over_edge")
# What the legend says of cells without a value in a column, and of those with more than one ("a;b").
NO_VALUE, SEVERAL = "no value", "several"
# What a newcomer wants to see first, if the plate table has it.
_FIRST_COLOURS = ("dose", "conc", "time", "compound", "treatment", "protein")


_MAP_NAMES = {"umap": "UMAP", "densmap": "densMAP", "tsne": "t-SNE"}


@dataclass(frozen=True)
class MapPlace:
    """One way to lay out the cells of an embedding.

    Parameters
    ----------
    embedding : str
    key : str
        Of ``obsm``.
    axes : tuple of int
        Which two of its columns.
    """

    embedding: str
    key: str
    axes: tuple[int, int] = (0, 1)

    @property
    def name(self) -> str:
        """How people call it: "UMAP", "t-SNE", "PCA 3 · 4"."""
        for method, name in _MAP_NAMES.items():
            if self.key.startswith(f"X_{method}_"):
                own = map_key(self.embedding, method=method)
                of = self.key.removeprefix(own).removeprefix("_of_").replace("_", " ")
                return f"{name} of {of}" if of else name
        return f"PCA {self.axes[0] + 1} · {self.axes[1] + 1}"


class Session:
    """The single truth of one viewer; every view shows it and writes its wishes to it.

    What is selected is always visible: hiding flagged cells, or a value of a column, also takes them out of the
    selection.
    Cells are joined by ``cell_id``; a row number is only valid until `cells_changed`.

    Attributes
    ----------
    project : Project or None
    cells : AnnData or None
        One row per cell.
    selected, visible : ndarray of shape (n_cells,), bool
        Read them; change them through the methods.
    counted : ndarray of shape (n_cells,), bool
        What the flags leave, whatever value is hidden.
    how : str
        How the selection was made, in words: "lasso on the map, and click on A05:117"; "" for an empty one.
    focus, hover : int
        The row last clicked, and the row under the pointer; -1 for none.
    """

    project_left = Signal()  # another one is about to be opened, or none; all is still as it was
    project_changed = Signal()
    project_opened = Signal()  # after all other signals of opening it
    cells_changed = Signal()  # rows may have moved: look everything up again
    visible_changed = Signal()
    selection_changed = Signal()
    focus_changed = Signal(int)
    hover_changed = Signal(int)
    colour_changed = Signal()
    limits_changed = Signal()  # where the colours of a column of numbers begin and end
    embedding_changed = Signal()
    sets_changed = Signal()
    verdicts_changed = Signal()
    similar_changed = Signal()  # groups were ranked by how like one of them they are, or are no more

    def __init__(self) -> None:
        self.project: Project | None = None
        self.cells: ad.AnnData | None = None
        self.selected = np.zeros(0, bool)
        self.visible = self.counted = np.zeros(0, bool)
        self.how = ""
        self.focus = -1
        self.hover = -1
        self.sets: dict[str, dict[str, Any]] = {}
        self.verdicts: dict[str, dict[str, Any]] = {}  # by cell id; of masks that are no more, too
        self._embedding = ""
        self._colour_by = ""
        self._hide_flagged = True
        self._hidden: dict[str, frozenset[str]] = {}
        self._limits: dict[str, tuple[float, float]] = {}
        self._undo: list[_Step] = []
        self._redo: list[_Step] = []
        self._rows: dict[str, np.ndarray] = {}
        self._labels: dict[str, dict[int, int]] = {}
        self._rows_by: dict[str, Rows] = {}
        self._row_columns: dict[int, list[str]] = {}
        self._by_value: list[str] | None = (
            None  # "place has cytosol": every column is looked through, once per table
        )
        self._told_by_value: dict[str, pd.Series | None] = {}
        self._similar: Similar | None = None

    # ---- project and table -----------------------------------------------------------------------

    @property
    def n_cells(self) -> int:
        """Cells in the table, hidden ones included."""
        return 0 if self.cells is None else int(self.cells.n_obs)

    @property
    def n_selected(self) -> int:
        """Cells selected."""
        return int(np.count_nonzero(self.selected))

    @property
    def n_visible(self) -> int:
        """Cells that are shown: all, or all that carry no flag."""
        return int(np.count_nonzero(self.visible))

    def open(self, project: Project | Path | str | None) -> None:
        """Look at a project (None: at nothing). Selection and undo start afresh."""
        self.project_left.emit()
        self.project = open_project(project) if isinstance(project, (str, Path)) else project
        self.cells = None
        self.selected = self.visible = self.counted = np.zeros(0, bool)
        self.how = ""
        self.focus = self.hover = -1
        self._hidden, self._limits = {}, {}
        self._undo, self._redo, self.sets, self.verdicts = [], [], {}, {}
        self._embedding = self._colour_by = ""
        self.similar = None
        self._read_table()
        self._read_sets()
        self.project_changed.emit()
        self._announce_table()
        self.project_opened.emit()

    def reload(self, read: Project | None = None) -> None:
        """Take over what a step wrote; selection, focus and undo follow their cells.

        Parameters
        ----------
        read : Project, optional
            The same project as `read_project` gives it: reading takes time, and a window must not wait for it. Without
            it the project is read here. One of another project is left alone: the user went on meanwhile.
        """
        if self.project is None or (read is not None and read.root != self.project.root):
            return
        before, focus = self.cells, self.cell_id(self.focus)
        selected, undo, redo = self.selected, self._undo, self._redo
        n_before = self.n_cells
        if read is None:
            self.project.reload()
        else:
            self.project = read
        self._read_table()
        new = self.cells.obs_names if self.cells is not None else pd.Index([])
        old = before.obs_names if before is not None else pd.Index([])
        index = old.get_indexer(new)  # for every new row, where the cell was

        def moved(mask: np.ndarray) -> np.ndarray:
            return np.where(index >= 0, mask[index], False) if len(mask) else np.zeros(len(index), bool)

        self.selected = moved(selected) & self.visible

        def step_moved(step: _Step) -> _Step:
            return step._replace(selected=np.packbits(moved(_unpacked(step.selected, n_before))))

        self._undo, self._redo = [step_moved(s) for s in undo], [step_moved(s) for s in redo]
        self.focus = int(new.get_indexer(pd.Index([focus]))[0]) if focus else -1
        self.hover = -1
        self._announce_table()

    def _read_table(self) -> None:
        self._rows, self._labels, self._rows_by, self._row_columns = {}, {}, {}, {}
        self._by_value, self._told_by_value = None, {}
        has = self.project is not None and self.project.has_cells
        self.cells = self.project.cells if has and self.project is not None else None
        self.verdicts = read_verdicts(self.project.root) if self.project is not None else {}
        self._look()
        self.selected = np.zeros(self.n_cells, bool)
        if self._embedding not in self.embeddings:
            self._embedding = next((e for e in self.embeddings if self._map_key(e)), "") or next(
                iter(self.embeddings), ""
            )
        if self._colour_by not in self.colour_choices:
            self._colour_by = self._first_colour()

    def _announce_table(self) -> None:
        self.cells_changed.emit()
        self.embedding_changed.emit()
        self.colour_changed.emit()
        self.selection_changed.emit()
        self.focus_changed.emit(self.focus)

    # ---- who is who ------------------------------------------------------------------------------

    def cell_id(self, row: int) -> str:
        """Return the id of a row; "" when there is no such row."""
        return str(self.cells.obs_names[row]) if self.cells is not None and 0 <= row < self.n_cells else ""

    def row_of_id(self, cell_id: str) -> int:
        """Find the row of a cell id, or -1."""
        return -1 if self.cells is None else int(self.cells.obs_names.get_indexer(pd.Index([cell_id]))[0])

    def rows_of_field(self, field_id: str) -> np.ndarray:
        """Rows of the cells of a field, int (n,), in table order."""
        if self.cells is None:
            return np.zeros(0, np.int64)
        if not self._rows:
            codes, names = pd.factorize(self.cells.obs["field"])
            order = np.argsort(codes, kind="stable")
            ends = np.cumsum(np.bincount(codes, minlength=len(names)))[:-1]
            self._rows = dict(zip(map(str, names), np.split(order, ends), strict=True))
        return self._rows.get(field_id, np.zeros(0, np.int64))

    def row_of(self, field_id: str, label: int) -> int:
        """Find the row of the cell with this label in a field, or -1."""
        if self.cells is None:
            return -1
        if field_id not in self._labels:
            rows = self.rows_of_field(field_id)
            labels = self.cells.obs["label"].to_numpy()[rows]
            self._labels[field_id] = dict(zip(labels.tolist(), rows.tolist(), strict=True))
        return self._labels[field_id].get(int(label), -1)

    def value(self, row: int, column: str) -> Any:
        """Look up what the table says of a cell; None when it has no such column or row."""
        told = self.column(column)
        return told.iloc[row] if told is not None and 0 <= row < self.n_cells else None

    def column(self, name: str) -> pd.Series | None:
        """What the table says of every cell: a column of it, or whether a cell has a value ("place has cytosol").

        None where there is no such column.
        """
        if self.cells is None:
            return None
        if name in self.cells.obs:
            return self.cells.obs[name]
        if name not in self._told_by_value:
            self._told_by_value[name] = has_value(self.cells.obs, name)
        return self._told_by_value[name]

    def place(self, row: int) -> tuple[str, float, float]:
        """Field, y and x (px) of a cell."""
        if self.cells is None:
            raise InputError("There are no cells yet.")
        obs = self.cells.obs
        return str(obs["field"].iloc[row]), float(obs["y_px"].iloc[row]), float(obs["x_px"].iloc[row])

    # ---- rows of what: cells, fields, groups -----------------------------------------------------

    def row_columns(self, most: int = MOST_ROWS) -> list[str]:
        """Columns that put cells together to rows: groups, fields, and others with few values."""
        if self.cells is None:
            return []
        if most not in self._row_columns:  # every column is looked through: once per table
            self._row_columns[most] = row_columns(self.cells.obs, self.columns, most)
        return list(self._row_columns[most])

    def rows_by(self, column: str) -> Rows:
        """Put the cells together by a column of the table."""
        if self.cells is None or column not in self.cells.obs:
            raise InputError(f"There is no column {column!r} among the cells.")
        if column not in self._rows_by:
            self._rows_by[column] = rows_by(self.cells.obs, column)
        return self._rows_by[column]

    def profile_map(self, column: str) -> tuple[np.ndarray, str] | None:
        """Where the rows of a column lie on a map of their own, and the day of their profiles; None without one.

        Returns
        -------
        points : ndarray of shape (n_rows, 2), float64
            First two principal components of the saved profiles; NaN for rows that have none.
        day : str
            When they were made, "2026-11-21".
        """
        groups, key = self.project.groups if self.project is not None else None, f"X_pca_{self.embedding}"
        made = provenance(groups) if groups is not None else {}
        name = f"profile_{self.embedding}" + ("" if column == "group" else f"_by_{column}")
        if groups is None or name not in made or key not in groups.obsm:
            return None
        rows, own = self.rows_by(column), (groups.obs["by"].astype(str) == column).to_numpy()
        if not own.any():
            return None
        at = pd.Index(groups.obs["name"].astype(str)[own]).get_indexer(pd.Index(rows.names))
        points = np.asarray(groups.obsm[key], np.float64)[own][at, :2]
        points[at < 0] = np.nan
        return (points, str(made[name]["made"])[:10]) if np.isfinite(points).any() else None

    @property
    def similar(self) -> Similar | None:
        """Groups as last ranked by how like one of them they are."""
        return self._similar

    @similar.setter
    def similar(self, found: Similar | None) -> None:
        if found is not self._similar:
            self._similar = found
            self.similar_changed.emit()

    # ---- selection -------------------------------------------------------------------------------

    def select(self, rows_or_mask: Any, mode: str = "replace", how: str = "") -> None:
        """Change the selection; only visible cells are hit. One step of undo.

        Parameters
        ----------
        rows_or_mask : array of int rows, or bool (n_cells,)
        mode : {"replace", "add", "subtract", "intersect"}
        how : str
            What was done, for the record of sets: "lasso on the map".
        """
        if mode not in MODES:
            raise ValueError(f"A selection's mode is one of {', '.join(MODES)}; got {mode!r}.")
        hit = np.zeros(self.n_cells, bool)
        hit[np.asarray(rows_or_mask, None if len(rows_or_mask) else np.int64)] = True
        if mode == "replace" or not self.n_selected:
            words = how
        else:
            words = f"{self.how or 'by hand'}, {_MODE_WORDS[mode]} {how or 'by hand'}"
        if mode == "add":
            hit |= self.selected
        elif mode == "subtract":
            hit = self.selected & ~hit
        elif mode == "intersect":
            hit &= self.selected
        self._set_selected(hit, words)

    def find(self, words: str) -> np.ndarray:
        """Rows of cells of which any word says this: a protein, a compound, a well, an id. Capitals do not matter.

        Parameters
        ----------
        words : str
            Where a value is exactly this, only such cells; else all whose value contains it.

        Returns
        -------
        ndarray of int
            Hidden cells included; empty where nothing is found.
        """
        wanted = words.strip().casefold()
        if self.cells is None or not wanted:
            return np.zeros(0, np.int64)
        exact, part = np.zeros(self.n_cells, bool), np.zeros(self.n_cells, bool)
        columns = [self.cells.obs_names.to_series(), *(self.cells.obs[c] for c in self.cells.obs)]
        for column in columns:
            if pd.api.types.is_numeric_dtype(column):
                continue
            codes, names = pd.factorize(column)  # every word once, however many cells
            said = [str(name).casefold() for name in names]
            exact |= np.isin(codes, [i for i, name in enumerate(said) if wanted in name.split(";")])
            part |= np.isin(codes, [i for i, name in enumerate(said) if wanted in name])
        return np.flatnonzero(exact if exact.any() else part)

    def invert(self) -> None:
        """Select the visible cells that are not selected."""
        self._set_selected(~self.selected, f"all but: {self.how or 'none'}")

    def clear(self) -> None:
        """Select nothing."""
        self._set_selected(np.zeros(self.n_cells, bool))

    def undo(self) -> bool:
        """Take the last change of selection, verdicts or sets back; False when there is none.

        Raises
        ------
        InputError
            If the project cannot be written.
        """
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Do what `undo` took back; False when there is nothing.

        Raises
        ------
        InputError
            As `undo`.
        """
        return self._step(self._redo, self._undo)

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to do again."""
        return bool(self._redo)

    def _set_selected(self, selected: np.ndarray, how: str = "") -> None:
        selected = selected & self.visible
        if np.array_equal(selected, self.selected):
            return
        self._remember(self._as_it_is())
        self.selected = selected
        self.how = _shortened(how) if selected.any() else ""
        self.selection_changed.emit()

    def _as_it_is(self, verdicts: Verdicts = MappingProxyType({})) -> _Step:
        said = {i: self.verdicts.get(i) for i in verdicts}
        return _Step(np.packbits(self.selected), said, {}, how=self.how)

    def _remember(self, step: _Step) -> None:
        self._undo.append(step)
        held = np.cumsum([s.n_ids for s in reversed(self._undo)])
        self._undo = self._undo[-max(1, min(UNDO_STEPS, int((held <= UNDO_IDS).sum()))) :]
        self._redo.clear()

    def _step(self, take: list[_Step], give: list[_Step]) -> bool:
        if not take:
            return False
        step = take[-1]
        before = self._as_it_is(step.verdicts)
        # These raise where nothing can be written.
        hidden = bool(step.verdicts) and self._put_verdicts(step.verdicts)
        if step.sets:
            before = self._put_sets(step.sets, step.order)
        take.pop()
        give.append(before)
        selected = _unpacked(step.selected, self.n_cells) & self.visible
        same = np.array_equal(selected, self.selected)
        self.selected, self.how = selected, step.how
        if step.sets:
            self.sets_changed.emit()
        if not (step.sets and same):
            self._announce_verdicts(bool(step.verdicts), hidden)
        return True

    # ---- verdicts --------------------------------------------------------------------------------

    def verdict(self, cell_id: str) -> dict[str, Any]:
        """What was said of a cell, as its mask is now; {} when nothing was."""
        said = self.verdicts.get(cell_id)
        if said is None or self.cells is None or not valid(self.cells.obs, {cell_id: said}):
            return {}
        return said

    def judge(self, cell_id: str, verdict: str, reason: str = "", rater: str = "", **more: Any) -> None:
        """Say what an odd cell is; one step of undo.

        Kept in ``verdicts.json`` of the project. An artefact is flagged: hidden as other flagged cells are, and left
        out of rankings from then on.

        Parameters
        ----------
        cell_id : str
        verdict : {"real", "artefact", "unsure", ""}
            "" takes the verdict away.
        more
            Remembered with it.

        Raises
        ------
        InputError
            If there is no such cell, or the project cannot be written.
        """
        row = self.row_of_id(cell_id)
        if row < 0:
            raise InputError(f"There is no cell {cell_id} any more: it was measured or segmented again.")
        made = make_verdict(verdict, reason, rater, self.value(row, "mask_hash"), **more) if verdict else None
        undo, redo = list(self._undo), list(self._redo)
        self._remember(self._as_it_is({cell_id: made}))
        try:
            hidden = self._put_verdicts({cell_id: made})
        except InputError:
            self._undo, self._redo = undo, redo
            raise
        self.selected = self.selected & self.visible
        self._announce_verdicts(True, hidden)

    def _put_verdicts(self, changes: Verdicts) -> bool:
        """Write verdicts and flag the artefacts; returns whether other cells are shown than before."""
        if self.project is None or self.cells is None:
            return False
        write_verdicts(self.project.root, changes)
        for cell_id, made in changes.items():
            self.verdicts.pop(cell_id, None)
            if made is not None:
                self.verdicts[cell_id] = made
            row = self.row_of_id(cell_id)
            if row >= 0:
                rejected = self.verdict(cell_id).get("verdict") == "artefact"
                if rejected or FLAG in str(self.value(row, "flags") or "").split(";"):
                    set_flagged(self.cells.obs, np.array([row]), rejected)
        before = self.visible
        self._look()
        return not np.array_equal(before, self.visible)

    def _announce_verdicts(self, verdicts: bool, hidden: bool) -> None:
        if hidden:
            self.visible_changed.emit()
        if verdicts:
            self.verdicts_changed.emit()
        self.selection_changed.emit()

    # ---- focus and hover -------------------------------------------------------------------------

    def set_focus(self, row: int) -> None:
        """Look at a cell (-1: none). Announced even if it is the same one: views go to it."""
        self.focus = int(row) if 0 <= row < self.n_cells else -1
        self.focus_changed.emit(self.focus)

    def set_hover(self, row: int) -> None:
        """Say which cell is under the pointer (-1: none)."""
        row = int(row) if 0 <= row < self.n_cells else -1
        if row != self.hover:
            self.hover = row
            self.hover_changed.emit(row)

    # ---- what is shown ---------------------------------------------------------------------------

    @property
    def hide_flagged(self) -> bool:
        """Whether cells with a quality flag are hidden (and then never selected)."""
        return self._hide_flagged

    @hide_flagged.setter
    def hide_flagged(self, hide: bool) -> None:
        if hide == self._hide_flagged:
            return
        self._hide_flagged = bool(hide)
        self._look_again()

    def hidden_values(self, column: str) -> frozenset[str]:
        """Which values of a column are hidden, in the words of `categories`."""
        return self._hidden.get(column, frozenset())

    def hide_values(self, column: str, names: Iterable[str]) -> None:
        """Hide the cells with these values in a column, and only these; () shows all of the column again.

        What is hidden stays hidden when another column colours the cells.

        Parameters
        ----------
        column : str
        names : iterable of str
            Values in the words of `categories`; NO_VALUE and SEVERAL are such words too.
        """
        hidden = frozenset(names)
        if hidden == self.hidden_values(column):
            return
        self._hidden = {k: v for k, v in {**self._hidden, column: hidden}.items() if v}
        self._look_again()

    def show_all_values(self) -> None:
        """Hide no value of any column any more."""
        if self._hidden:
            self._hidden = {}
            self._look_again()

    def _look(self) -> None:
        """Find out which cells are shown."""
        obs = None if self.cells is None else self.cells.obs
        self.counted = np.ones(self.n_cells, bool)
        if obs is not None and self._hide_flagged and "good" in obs:
            self.counted = np.array(obs["good"], bool)
        self.visible = self.counted.copy()
        for column, names in self._hidden.items():
            told = self.column(column)
            if told is None:
                continue
            if names == {NO_VALUE} and pd.api.types.is_float_dtype(told.dtype):  # however many numbers
                self.visible &= np.isfinite(told.to_numpy(float, na_value=np.nan))
                continue
            codes, known = categories(told)
            # The last one serves the code -1.
            keep = np.array([name not in names for name in known] + [NO_VALUE not in names])
            self.visible &= keep[codes]

    def _look_again(self) -> None:
        self._look()
        self.visible_changed.emit()
        self._set_selected(self.selected)

    @property
    def hidden(self) -> dict[str, frozenset[str]]:
        """Column → its values that are hidden."""
        return dict(self._hidden)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Column → where its colours begin and end, of those somebody has said something about."""
        return dict(self._limits)

    def colour_limits(self, column: str) -> tuple[float, float] | None:
        """Where the colours of a column of numbers begin and end, if somebody has said so."""
        return self._limits.get(column)

    def set_colour_limits(self, column: str, limits: tuple[float, float] | None) -> None:
        """Say where the colours of a column begin and end; None: where they do by themselves."""
        if limits == self._limits.get(column):
            return
        self._limits.pop(column, None)
        if limits is not None:
            self._limits[column] = (float(limits[0]), float(limits[1]))
        self.limits_changed.emit()

    @property
    def embeddings(self) -> list[str]:
        """Names of the embeddings in the table."""
        return [] if self.cells is None else embedding_names(self.cells)

    @property
    def embedding(self) -> str:
        """The embedding that is looked at; "" when there is none."""
        return self._embedding

    @embedding.setter
    def embedding(self, name: str) -> None:
        if name != self._embedding:
            self._embedding = name
            self.embedding_changed.emit()

    def _map_key(self, embedding: str) -> str:
        if self.cells is None or not embedding:
            return ""
        keys = (f"X_umap_{embedding}", f"X_pca_{embedding}")
        return next((k for k in keys if k in self.cells.obsm and self.cells.obsm[k].shape[1] >= 2), "")

    @property
    def map_name(self) -> str:
        """What `map_coordinates` gives: "UMAP" or "PCA"; "" when there is no map."""
        return {"X_u": "UMAP", "X_p": "PCA", "": ""}[self._map_key(self._embedding)[:3]]

    @property
    def maps(self) -> list[MapPlace]:
        """All maps in the table: of every embedding the UMAP, six components in pairs, other maps, and those of sets."""
        found: list[MapPlace] = []
        if self.cells is None:
            return found
        obsm = self.cells.obsm
        of_all = {map_key(embedding, method=m) for embedding in self.embeddings for m in _MAP_NAMES}
        for embedding in self.embeddings:
            for key, most in ((map_key(embedding), 2), (f"X_pca_{embedding}", 6)):
                columns = obsm[key].shape[1] if key in obsm else 0
                found += [MapPlace(embedding, key, (i, i + 1)) for i in range(0, min(columns, most) - 1, 2)]
            for method in _MAP_NAMES:
                own = map_key(embedding, method=method)
                if method != "umap" and own in obsm:
                    found.append(MapPlace(embedding, own))
                found += [
                    MapPlace(embedding, key)
                    for key in obsm
                    if key.startswith(f"{own}_of_") and key not in of_all
                ]
        return found

    def map_coordinates(self, place: MapPlace | None = None) -> np.ndarray | None:
        """Where the cells are on a map, float (n_cells, 2), or None where there is no such map.

        Parameters
        ----------
        place : MapPlace, optional
            One of `maps`. Without it the map of the present embedding: UMAP if there is one, else the first two
            principal components. Rows without an embedding are NaN.
        """
        if self.cells is None:
            return None
        if place is not None:
            known = place in self.maps
            return np.asarray(self.cells.obsm[place.key], np.float64)[:, list(place.axes)] if known else None
        key = self._map_key(self._embedding)
        return np.asarray(self.cells.obsm[key], np.float64)[:, :2] if key else None

    @property
    def colour_choices(self) -> list[str]:
        """What cells can be coloured by: columns, what the lab knows first, then what was measured.

        After a column with several values in one entry ("cytosol;nucleus") each of them: "place has cytosol".
        """
        if self.cells is None:
            return []
        columns = self.columns
        if self._by_value is None:
            self._by_value = choices_by_value(self.cells.obs, columns)
        return [
            name for c in columns for name in (c, *(v for v in self._by_value if v.startswith(f"{c}{HAS}")))
        ]

    @property
    def columns(self) -> list[str]:
        """Columns that say something of a cell: what the lab knows first, then what was measured."""
        if self.cells is None:
            return []
        obs = self.cells.obs
        own = [c for c in obs.columns if c not in _NOT_COLOURS and not obs[c].isna().all()]
        late = ("q_", "has_", "y_px", "x_px")
        return sorted(own, key=lambda c: c.startswith(late))

    def _first_colour(self) -> str:
        choices = self.colour_choices
        for word in _FIRST_COLOURS:
            for column in choices:
                if word in column.lower():
                    return column
        return "group" if "group" in choices else next(iter(choices), "")

    @property
    def colour_by(self) -> str:
        """The column cells are coloured by; "" for none."""
        return self._colour_by

    @colour_by.setter
    def colour_by(self, column: str) -> None:
        if column != self._colour_by:
            self._colour_by = column
            self.colour_changed.emit()

    # ---- named sets ------------------------------------------------------------------------------

    def save_set(self, name: str, how: Mapping[str, Any] | str = "") -> None:
        """Keep the selection under a name, with how it was made; a set of that name is replaced. One step of undo.

        Kept in ``sets.json`` of the project, by ``cell_id``.

        Raises
        ------
        InputError
            If nothing is selected, the name is empty, or the project cannot be written.
        """
        self._put_set(name, {}, how or self.made_how())

    def made_how(self) -> dict[str, Any]:
        """How the present selection came to be, as sets record it: the gestures, the embedding, the day."""
        return {
            "made": self.how or "by hand",
            "embedding": self._embedding,
            "when": datetime.date.today().isoformat(),
        }

    def add_to_set(self, name: str) -> None:
        """Put the selected cells into a set as well; a new one is made where there is none of that name. One step of undo.

        Raises
        ------
        InputError
            As `save_set`.
        """
        # What is on disk counts: another window may have added to it.
        known = read_sets(self.project.root).get(name.strip(), {}) if self.project is not None else {}
        how, now = known.get("how"), self.made_how()
        ids = () if self.cells is None else self.cells.obs_names[self.selected]
        if set(ids) <= set(known.get("cells", ())):
            now = how if how is not None else now  # nothing is new
        elif isinstance(how, Mapping):
            now = {**how, "made": _shortened(f"{how.get('made', 'by hand')}; added: {now['made']}")}
        self._put_set(name, known, now)

    def save_sets(self, named: Mapping[str, Any], how: Mapping[str, Any] | str = "") -> None:
        """Keep several sets of cells at once; the selection stays as it is. Sets of these names are replaced. One step of undo.

        Parameters
        ----------
        named : mapping of str to array of int rows
        how : mapping or str
            How they were made.

        Raises
        ------
        InputError
            If there are no cells, or the project cannot be written.
        """
        if self.cells is None:
            raise InputError("There are no cells yet, so there is nothing to put into sets.")
        names = self.cells.obs_names
        made = dict(how) if isinstance(how, Mapping) else str(how)
        new = {name: {"cells": list(names[np.asarray(rows)]), "how": made} for name, rows in named.items()}
        self._change_sets(new)

    def remove_set(self, name: str) -> None:
        """Forget a named set; its cells stay. One step of undo."""
        self._change_sets({name: None})

    def _put_set(self, name: str, before: Mapping[str, Any], how: Mapping[str, Any] | str) -> None:
        name = name.strip()
        if self.project is None or self.cells is None or not self.n_selected:
            raise InputError(
                "Nothing is selected: draw a lasso on the map, or click cells, and save the set then."
            )
        if not name:
            raise InputError("A set needs a name.")
        ids = list(dict.fromkeys([*before.get("cells", ()), *self.cells.obs_names[self.selected]]))
        made = dict(how) if isinstance(how, Mapping) else str(how)
        self._change_sets({name: {"cells": ids, "how": made}})

    def _change_sets(self, changes: Sets) -> None:
        if self.project is None:
            return
        before = self._put_sets(changes)
        if before.sets != changes:
            self._remember(before)
        self.sets_changed.emit()

    def _put_sets(self, changes: Sets, order: tuple[str, ...] = ()) -> _Step:
        """Write sets; returns the step that brings back what was on disk."""
        assert self.project is not None
        before, self.sets = write_sets(self.project.root, changes, order, self.sets)
        step = self._as_it_is()
        return step._replace(sets={name: before.get(name) for name in changes}, order=tuple(before))

    def select_set(self, name: str, mode: str = "replace") -> None:
        """Select the cells of a named set that still exist."""
        if self.cells is None or name not in self.sets:
            raise InputError(f"There is no set called {name!r}; sets are {', '.join(self.sets) or 'none'}.")
        rows = self.cells.obs_names.get_indexer(self.sets[name]["cells"])
        self.select(rows[rows >= 0], mode, f"set “{name}”")

    def _read_sets(self) -> None:
        self.sets = read_sets(self.project.root) if self.project is not None else {}


def read_project(path: Path | str) -> Project:
    """Open a project and read its fields and its cells: what takes time, for another thread than the window's.

    Raises
    ------
    InputError
        If there is no such project, or it cannot be read.
    """
    project = open_project(path)
    _ = project.fields
    if project.has_cells:
        _ = project.cells
    return project


def categories(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Which value of a column each cell has, in words.

    Parameters
    ----------
    column : Series of n values

    Returns
    -------
    codes : ndarray of shape (n,), int
        Index into the words; -1 for no value.
    words : list of str
        In the order they occur; SEVERAL stands for all that hold more than one ("a;b").
    """
    found, values = pd.factorize(column)
    words: dict[str, int] = {}
    codes = np.full(len(values) + 1, -1)  # the last one serves what is missing
    for i, value in enumerate(values):
        word = _worded(value)
        if word:
            codes[i] = words.setdefault(word, len(words))
    return codes[found], list(words)


def _worded(value: Any) -> str:
    """One value of a column as the legend says it; "" for none."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return ""
        return str(int(value)) if value == int(value) else f"{value:g}"
    parts = [part for part in str(value).split(";") if part.strip()]
    return SEVERAL if len(parts) > 1 else str(value)


def _unpacked(bits: np.ndarray, n: int) -> np.ndarray:
    return np.unpackbits(bits, count=n).astype(bool)


def _shortened(how: str) -> str:
    """What was done first and last, where it was too much to be told."""
    if len(how) <= MOST_HOW:
        return how
    half = MOST_HOW // 2 - 2
    return f"{how[:half]} … {how[-half:]}"
