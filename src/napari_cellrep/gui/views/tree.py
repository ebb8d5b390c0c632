"""The tree: groups, or cells, joined by how alike they are; beside it their typical cells and how alike each two are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
)  # fmt: skip

from napari_cellrep.data.rows import row_words, rows_words
from napari_cellrep.gui._pictures import Background, picture_side
from napari_cellrep.gui.views._branches import Pictured, branches_of, paint, picture, size_px
from napari_cellrep.gui.views._dendrogram import Dendrogram
from napari_cellrep.gui.views._file import paint_file
from napari_cellrep.gui.views._grown import MOST_GROUPS, Grown, grown
from napari_cellrep.gui.views._parts import CellView, TwoHalves, choice_box
from napari_cellrep.gui.views._raster import Colours, category_colours, colours_of
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError

MOST_SETS = 30
STEPS = 1000  # of the slider that cuts

CELLS = "selected cells"
DISTANCES = {"correlation": "correlation", "Euclidean": "euclidean"}
JOININGS = {"average": "average", "Ward": "ward"}


class TreeView(CellView):
    """A dendrogram with the typical cells of its leaves and a heat map of how alike each two leaves are.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and opens fields.
    """

    title = "Tree"

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.background = Background(session)
        self._stale = True
        self._chosen: list[str] = []  # ids of the cells a tree of cells is made of
        self._cut_kept: list[Any] = []  # the tree that somebody has cut (see `_which`), and where
        self._line_kept: list[Any] = []  # what is joined, how many, and the height somebody gave its lines
        self.rows_of = choice_box(
            "What is joined: groups by the mean of their cells, or single cells",
            name="What is joined",
            least_letters=8,
        )
        self.take = QPushButton("Take selection")
        self.take.setToolTip("Make the tree of the cells that are selected now")
        self.distance = choice_box(
            "How unlike two are: 1 − correlation looks at the pattern of the features, Euclidean at their size too.\n"
            "Every feature is scaled to mean 0 and spread 1 first (z-score).",
            list(DISTANCES), "How unlike two are", 8,
        )  # fmt: skip
        self.joining = choice_box(
            "How unlike two branches are. Average: the mean over all pairs. Ward: keeps branches tight and alike in "
            "size.\nThe Paired Cell Inpainting paper joins by maximum likelihood, which is not offered here.",
            list(JOININGS), "How unlike two branches are. Average", 8,
        )  # fmt: skip
        self.cut_at = QSlider(Qt.Orientation.Horizontal)
        self.cut_at.setRange(0, STEPS)
        self.cut_at.setMinimumWidth(70)
        self.cut_at.setToolTip("Cut the tree here: what is joined further left falls apart into branches")
        self.cut_at.setAccessibleName("Where the tree is cut")
        self.keep = QPushButton("Save as sets…")
        self.save = QPushButton("Save picture…")
        self.save.setToolTip("The whole tree with its pictures and its heat map, for print, as PNG or PDF")
        self.save_branches = QPushButton("Save branches…")
        self.line = QSlider(Qt.Orientation.Horizontal)
        self.line.setRange(0, 120)
        self.line.setFixedWidth(70)
        self.line.setToolTip("Height of a line; furthest left, the whole tree is in sight")
        self.line.setAccessibleName("Height of a line")
        self.words = QLabel()
        self.words.setContentsMargins(6, 0, 6, 0)
        self.words.setToolTip(
            "A group is the mean of its cells' embedding; every number is then scaled over the groups (z-score).\n"
            "Correlation 1: two groups lie above and below the average in the same features; −1: in the opposite ones."
        )
        left, right = QHBoxLayout(), QHBoxLayout()
        for item in (self.rows_of, self.take, self.distance, self.joining, QLabel("cut"), self.cut_at):
            left.addWidget(item, {self.rows_of: 3, self.cut_at: 2}.get(item, 0))
        for item in (self.keep, self.save, self.save_branches, self.line):
            right.addWidget(item)
        bar = TwoHalves(left, right)
        self.plot = Dendrogram(session, canvas, self.background)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(bar)
        layout.addWidget(self.words)
        layout.addWidget(self.plot, 1)

        self.rows_of.currentIndexChanged.connect(lambda _: self._on_rows_of())
        self.take.clicked.connect(lambda _=False: self._on_take())
        self.distance.currentIndexChanged.connect(lambda _: self.refresh())
        self.joining.currentIndexChanged.connect(lambda _: self.refresh())
        self.cut_at.valueChanged.connect(self._on_height)
        self.line.valueChanged.connect(self._on_line)
        self.keep.clicked.connect(lambda _=False: self._on_keep())
        self.save.clicked.connect(lambda _=False: self._on_save())
        self.save_branches.clicked.connect(lambda _=False: self._on_save_branches())
        self.plot.clicked.connect(lambda rows, mode: session.select(rows, mode, "branch of the tree"))
        self.plot.cell_clicked.connect(canvas.click)
        self.plot.framed.connect(lambda row: canvas.go_to(row, frame=True))
        self.plot.field_asked.connect(lambda row: canvas.show(session.place(row)[0]))
        self.plot.menu_requested.connect(lambda row, at: canvas.open_menu(row, at))
        self.plot.group_menu_requested.connect(canvas.open_group_menu)
        self.listen(
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.visible_changed, self.refresh),
            (session.embedding_changed, self.refresh),
            (session.selection_changed, self.on_selected),
            (session.colour_changed, self._on_colour_changed),
            (session.focus_changed, self._on_focus),
        )
        self._on_table_changed()

    def disconnect_session(self) -> None:
        """Listen no more and let the reading thread end."""
        super().disconnect_session()
        self.background.close()

    def mark(self) -> None:
        """Show how many cells of each leaf are selected."""
        self.plot.mark()

    # ---- what comes back with the project ----------------------------------------------------------

    def _which(self, shown: Grown) -> list[Any]:
        """What tells a tree from another: what is joined and how, how many leaves, and how tall it is."""
        n, tallest = shown.tree.n_leaves, float(shown.tree.height[-1])
        return [shown.by, self.session.embedding, shown.metric, shown.linkage, n, tallest]

    def arrangement(self) -> dict[str, Any]:
        """Where somebody has cut a tree of groups, and how high its lines were made."""
        kept = {"cut": self._cut_kept, "line": self._line_kept}
        return {name: list(how) for name, how in kept.items() if how and how[0]}  # not of cells once selected

    def arrange_as(self, kept: Mapping[str, Any]) -> None:
        """Cut the same tree at the same height, now or when it has grown."""
        match kept.get("cut"):
            case [str(), str(), str(), str(), int(), int() | float(), int() | float()] as cut:
                self._cut_kept = list(cut)
            case _:
                self._cut_kept = []
        match kept.get("line"):
            case [str(), int(), int()] as line:
                self._line_kept = list(line)
            case _:
                self._line_kept = []
        if self.plot.shown is not None:
            self._arrange(self.plot.shown, True)

    def _arrange(self, shown: Grown, other: bool) -> None:
        """Give the lines their height (if it is a tree of `other` things) and cut, as kept of this tree, else by rule."""
        n, tallest = shown.tree.n_leaves, self.plot.tallest
        if other:
            px = 26 if n <= 60 else 14 if n <= 200 else 0
            px = self._line_kept[2] if self._line_kept[:2] == [shown.by, n] else px
            _put(self.line, px)
            self.plot.set_line(self.line.value())
        which, kept = self._which(shown), self._cut_kept
        # the same cells give the same heights but for rounding
        same = kept[:5] == which[:5] and math.isclose(kept[5], which[5], rel_tol=1e-5)
        tops = shown.tree.height[-2:] if n > 2 else (0.0, shown.tree.height[-1])
        _put(self.cut_at, round((kept[6] if same else float(np.mean(tops))) / tallest * STEPS))
        self._on_cut(self.cut_at.value())

    def _on_height(self, step: int) -> None:
        self._on_cut(step)
        if self.plot.shown is not None:
            self._cut_kept = [*self._which(self.plot.shown), self.plot.cut_height]

    def _on_line(self, px: int) -> None:
        self.plot.set_line(px)
        if self.plot.shown is not None:
            self._line_kept = [self.plot.shown.by, self.plot.shown.tree.n_leaves, px]

    # ---- what is shown -----------------------------------------------------------------------------

    def _on_table_changed(self) -> None:
        chosen = self.rows_of.currentData()
        self.background.forget()
        self.plot.forget()
        self.rows_of.blockSignals(True)
        self.rows_of.clear()
        for column in self.session.row_columns(MOST_GROUPS):
            self.rows_of.addItem(row_words(column), column)
        self.rows_of.addItem(CELLS, "")
        self.rows_of.setCurrentIndex(max(0, self.rows_of.findData(chosen)))
        self.rows_of.blockSignals(False)
        self._on_rows_of()

    def _on_rows_of(self) -> None:
        cells = self.rows_of.currentData() == ""
        self.take.setVisible(cells)
        if cells and not self._chosen:
            self._on_take()
        else:
            self.refresh()

    def _on_take(self) -> None:
        session = self.session
        self._chosen = [] if session.cells is None else list(session.cells.obs_names[session.selected])
        self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        """Grow what was not needed while nobody looked."""
        super().showEvent(event)
        if self._stale:
            self.refresh()

    def refresh(self) -> None:
        """Grow the tree anew, beside the window; later, while nobody looks."""
        self._stale = not self.isVisible()
        if self._stale:
            return
        session = self.session
        cells, by = session.cells, self.rows_of.currentData() or ""
        if cells is None:
            self._show(None, "No cells yet: segment the images in the CellRep panel.")
            return
        if not session.embedding:
            self._show(None, "A tree needs an embedding: embed the cells in the CellRep panel.")
            return
        rows = np.flatnonzero(session.visible)
        if not by:
            at = (
                cells.obs_names.get_indexer(pd.Index(self._chosen)) if self._chosen else np.zeros(0, np.int64)
            )
            rows = np.sort(at[at >= 0])
            rows = rows[session.visible[rows]]
            if len(rows) < 2:
                self._show(
                    None, "Select two cells or more, on the map for example, and press “Take selection”."
                )
                return
        metric, linkage = DISTANCES[self.distance.currentText()], JOININGS[self.joining.currentText()]
        vectors, obs = cells.obsm[f"X_{session.embedding}"], cells.obs

        def arrived(found: Any) -> None:
            if self.session.cells is not cells:
                return  # another table meanwhile; it is grown anew
            if isinstance(found, InputError):
                self._show(None, str(found))
            elif isinstance(found, Exception):
                self._show(None, f"The tree could not be made ({found}).")
            else:
                self._show(found, "")

        self.words.setText("Joining…")
        self.background.run(lambda: grown(vectors, obs, rows, by, metric, linkage), arrived, "tree")

    def _show(self, found: Grown | None, words: str) -> None:
        before = self.plot.shown
        self.plot.show_tree(found)
        for button in (self.keep, self.save, self.save_branches, self.cut_at):
            button.setEnabled(found is not None)
        if found is None:
            self.background.run(
                lambda: None, lambda _: None, "tree"
            )  # what is still being grown is not wanted
            self.words.setText(words)
            return
        self._on_colour_changed()
        self._arrange(
            found,
            before is None or before.tree.n_leaves != found.tree.n_leaves or before.by != found.by,
        )

    def _on_cut(self, step: int) -> None:
        shown = self.plot.shown
        if shown is None:
            return
        self.plot.cut_at(step / STEPS * self.plot.tallest)
        n = self.plot.n_branches
        self.keep.setEnabled(2 <= n <= MOST_SETS)
        self.keep.setToolTip(
            f"Keep the cells of each of the {n} branches under a name"
            if 2 <= n <= MOST_SETS
            else f"Move “cut” until there are 2 to {MOST_SETS} branches (now {n:,})"
        )
        self.save_branches.setEnabled(n <= MOST_SETS)
        self.save_branches.setToolTip(
            "Ten typical cells of each branch, and where they lie in a field, for print, as PNG or PDF.\n"
            "Of the branches with selected cells; of all where nothing is selected."
            if n <= MOST_SETS
            else f"Move “cut” until there are at most {MOST_SETS} branches (now {n:,})"
        )
        self.words.setText(self._sentence(shown))

    def _sentence(self, shown: Grown) -> str:
        n = shown.tree.n_leaves
        if shown.words:
            what = f"{sum(map(len, shown.members)):,} selected cells, {n:,} representatives of them as leaves"
        elif not shown.by:
            what = f"{n:,} of {shown.of:,} selected cells, drawn at random" if shown.of else f"{n:,} cells"
        else:
            what = f"{rows_words(n, shown.by)}, {sum(map(len, shown.members)):,} cells"
        if shown.left_out:
            what += f" ({shown.left_out:,} without an embedding left out)"
        branches = self.plot.n_branches
        return f"{what}: {branches:,} branch{'es' if branches != 1 else ''} at {self.plot.cut_height:.2f}."

    def _on_colour_changed(self) -> None:
        """Colour the leaves as the map colours their cells."""
        shown, cells, column = self.plot.shown, self.session.cells, self.session.colour_by
        if shown is None or cells is None:
            return
        told, n = self.session.column(column), self.session.n_cells

        def work() -> tuple[np.ndarray, Colours]:
            colours = colours_of(told, n)
            codes = [_code_of(colours.codes[own], bool(colours.legend)) for own in shown.members]
            return colours.palette[np.array(codes, np.int64)], colours

        def arrived(found: Any) -> None:
            if not isinstance(found, Exception) and self.plot.shown is shown:
                self.plot.colour(found[0], column, found[1])

        self.background.run(work, arrived, "colours")

    def _on_focus(self, _: int) -> None:
        self.plot.viewport().update()

    # ---- what lasts --------------------------------------------------------------------------------

    def _on_keep(self) -> None:
        name, ok = QInputDialog.getText(
            self, "Save branches as sets", "Their name; a number is added:", text="branch"
        )
        if ok:
            self.keep_branches(name)

    def keep_branches(self, name: str) -> None:
        """Keep the cells of every branch as a named set: "<name> 1" and so on, from the top."""
        shown = self.plot.shown
        if shown is None:
            return
        name = name.strip() or "branch"
        sets = {
            f"{name} {i + 1}": np.sort(np.concatenate([shown.members[leaf] for leaf in self.plot.branch(i)]))
            for i in range(self.plot.n_branches)
        }
        how = {
            "made": "branch of a tree", "of": shown.by or "cells", "embedding": self.session.embedding,
            "distance": shown.metric, "joining": shown.linkage, "cut": round(self.plot.cut_height, 6),
        }  # fmt: skip
        try:
            self.session.save_sets(sets, how)
        except (InputError, OSError) as error:
            self.words.setText(f"⚠ Not saved: {error}")
        else:
            self.words.setText(f"{len(sets)} sets saved, “{name} 1” to “{name} {len(sets)}”: see Sets above.")

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the tree", "tree.png", "Pictures (*.png);;PDF (*.pdf)"
        )
        if path:
            self.plot.print_to(path, self.words.setText)

    def _on_save_branches(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the branches", "branches.png", "Pictures (*.png);;PDF (*.pdf)"
        )
        if path:
            self.print_branches(path)

    def print_branches(self, path: str) -> None:
        """Save typical cells of the branches with selected cells, or of all, with their places in a field.

        Parameters
        ----------
        path : str
            ``.png`` or ``.pdf``.
        """
        shown, session = self.plot.shown, self.session
        cells, project = session.cells, session.project
        if shown is None or cells is None or project is None:
            return
        every = [(i, self.plot.branch(i)) for i in range(self.plot.n_branches)]
        chosen = [
            (i, leaves) for i, leaves in every
            if any(session.selected[shown.members[leaf]].any() for leaf in leaves)
        ]  # fmt: skip
        colours = category_colours(max(1, self.plot.n_branches))
        vectors, obs, looks = cells.obsm[f"X_{session.embedding}"], cells.obs, self.canvas.looks()
        side = picture_side(session)
        subtitle = f"Embedding {session.embedding}; nearest to the mean of the branch's cells there."

        def work() -> list[Pictured]:
            found = branches_of(shown, chosen or every, colours, vectors, obs)
            return [picture(self.background, project, obs, branch, side, looks) for branch in found]

        def arrived(found: Any) -> None:
            if isinstance(found, Exception):
                self.words.setText(f"⚠ Not saved: {found}")
            elif paint_file(path, *size_px(found), lambda painter: paint(painter, found, subtitle)):
                self.words.setText(f"{len(found):,} branch{'es' if len(found) != 1 else ''} saved as {path}.")
            else:
                self.words.setText(f"⚠ {path} could not be written; choose another folder.")

        self.words.setText("Cutting the pictures…")
        self.background.run(work, arrived, "branches")


def _put(slider: QSlider, value: int) -> None:
    """Move a slider without saying so: it is not somebody who moves it."""
    slider.blockSignals(True)
    slider.setValue(value)
    slider.blockSignals(False)


def _code_of(codes: np.ndarray, categories: bool) -> int:
    """Colour of a leaf: that of all its cells; where they differ the mean number, or "several" (0)."""
    known = codes[codes > 0]
    if not len(known):
        return 0
    if (known == known[0]).all():
        return int(known[0])
    return 0 if categories else round(float(known.mean()))
