"""Learn from labels: name a few cells, let the rest be predicted, and look first at those it is least sure of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.cells import provenance
from napari_cellrep.data.sets import cells_digest
from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui._runner import submit_analysis
from napari_cellrep.gui.views._confusion import ConfusionMatrix
from napari_cellrep.gui.views._parts import CellView, choice_box, offer
from napari_cellrep.gui.views.gallery import Grid
from napari_cellrep.session import Session

UNSURE = "least sure first"
KINDS = {"logistic regression": "logistic", "forest of decision trees": "forest"}
HELD_OUT = ("field", "well", "plate")  # what can be held out as a whole, where the table has it


class LearnView(CellView):
    """Named sets teach a classifier; it is tested on fields held out and asked about every other cell.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click, a double-click and the menu do.
    """

    title = "Learn"

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.background = Background(session)
        self._left_out: set[str] = set()  # sets that are not ticked
        self._made: dict[str, Any] = {}  # how the predictions in the table were made; {} without any
        self._handle: Any = None
        self._at = 0  # place in the queue

        self.sets = _Sets()
        self.sets.setAccessibleName("Sets to learn from")
        self.sets.setToolTip(
            "Sets of cells, each one kind of cell. The classifier learns those that are ticked.\n"
            "The number is the key that puts the selected cells into the set."
        )
        self.sets.itemChanged.connect(self._on_ticked)
        self.kind = choice_box(
            "How it learns. Logistic regression draws straight borders, which a few dozen cells suffice for; a forest of "
            "decision trees draws bent ones.",
            list(KINDS), "Classifier", 8,
        )  # fmt: skip
        self.held_out = choice_box(
            "What it is tested on: cells of fields (or wells, plates) it has not learned from.\n"
            "Cells of one field are too much alike to test on each other.",
            name="Held out",
            least_letters=6,
        )
        self.train = QPushButton()
        font = self.train.font()
        font.setBold(True)
        self.train.setFont(font)
        self.train.clicked.connect(lambda _=False: self.learn())
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(4, 2, 4, 2)
        column.setSpacing(3)
        column.addWidget(self.sets, 1)
        for label, box in (("learns by", self.kind), ("tested by", self.held_out)):
            line = QHBoxLayout()
            line.addWidget(QLabel(label))
            line.addWidget(box, 1)
            column.addLayout(line)
        column.addWidget(self.train)

        self.matrix = ConfusionMatrix()
        self.matrix.clicked.connect(self._on_square)
        self.untold = QLabel()
        self.untold.setWordWrap(True)
        self.untold.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.untold.setMinimumWidth(130)  # else a word on each line in a narrow panel
        centre = QWidget()
        column = QVBoxLayout(centre)
        column.setContentsMargins(2, 2, 2, 2)
        column.addWidget(self.matrix, 1)
        column.addWidget(self.untold, 1)

        self.which = choice_box(
            "Which cells, of those in no set. Those it is least sure of teach it most: put them into a set by its number.",
            [UNSURE], "Which cells", 9,
        )  # fmt: skip
        self.which.currentIndexChanged.connect(lambda _: self.arrange())
        self.next = QPushButton("Next (N)")
        self.next.setToolTip("Select the next cell of the queue; the keys 1 to 9 put it into a set")
        self.next.clicked.connect(lambda _=False: self.go(1))
        self.on_map = QPushButton("Show on the map")
        self.on_map.setToolTip("Colour the map by the predicted set")
        self.on_map.clicked.connect(lambda _=False: self._on_show())
        self.grid = Grid(self)  # type: ignore[arg-type]
        self.grid.setAccessibleName("Queue of cells")
        self.grid.set_side(72)
        self.grid.clicked.connect(self._on_clicked)
        self.grid.framed.connect(lambda row: canvas.go_to(row, frame=True))
        self.grid.menu_requested.connect(lambda row, at: canvas.open_menu(row, at))
        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(2, 2, 2, 2)
        column.setSpacing(3)
        bar = QHBoxLayout()
        bar.addWidget(self.which, 1)
        bar.addWidget(self.next)
        bar.addWidget(self.on_map)
        column.addLayout(bar)
        column.addWidget(self.grid, 1)

        self.words = QLabel()
        self.words.setContentsMargins(6, 0, 6, 0)
        self.words.setWordWrap(True)
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        parts = QSplitter(Qt.Orientation.Horizontal)
        for part, stretch in ((left, 2), (centre, 3), (right, 4)):
            parts.addWidget(part)
            parts.setStretchFactor(parts.count() - 1, stretch)
        parts.setSizes([190, 280, 380])
        parts.setChildrenCollapsible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.words)
        layout.addWidget(parts, 1)
        self.listen(
            (session.project_changed, self._on_project_changed),
            (session.cells_changed, self._on_table_changed),
            (session.embedding_changed, self._on_table_changed),
            (session.sets_changed, self._on_sets_changed),
            (session.visible_changed, self.arrange),
            (session.selection_changed, self._on_marks_changed),
            (session.focus_changed, self._on_marks_changed),
            (session.hover_changed, self._on_marks_changed),
        )
        self._on_project_changed()
        self._on_table_changed()

    def disconnect_session(self) -> None:
        """Listen no more and let the reading thread end."""
        super().disconnect_session()
        self.background.close()

    # ---- what there is -----------------------------------------------------------------------------

    def _on_project_changed(self) -> None:
        self._left_out, self._at, self._handle = set(), 0, None
        made = self._read_made()
        if made:  # as it was when it last learned
            self._left_out = set(self.session.sets) - set(made["numbers"]["classes"])

    def _read_made(self) -> dict[str, Any]:
        session, key = self.session, self.session.embedding
        if session.cells is None or f"predicted_{key}" not in session.cells.obs:
            return {}
        return dict(provenance(session.cells).get(f"learn_{key}", {}))

    def _on_table_changed(self) -> None:
        self.background.forget()
        self.grid.forget()
        self._made = self._read_made()
        obs = self.session.cells.obs if self.session.cells is not None else {}
        parts = [p for p in HELD_OUT if p in obs and obs[p].nunique() > 1]
        offer(self.held_out, parts or ["field"])
        names = self._made["numbers"]["classes"] if self._made else []
        offer(self.which, [UNSURE, *(f"predicted as {name}" for name in names)])
        self._show_matrix()
        self._on_sets_changed()

    def _on_sets_changed(self) -> None:
        self._fill_sets()
        self._show_train()
        self.arrange(after_label=True)

    def _fill_sets(self) -> None:
        session = self.session
        self.sets.blockSignals(True)
        at = self.sets.currentRow()
        self.sets.clear()
        for i, (name, made) in enumerate(session.sets.items()):
            key = f"{i + 1}  " if i < 9 else "    "
            item = QListWidgetItem(f"{key}{name}   {len(made['cells']):,} cells")
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setFlags(
                Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
            )
            item.setCheckState(Qt.CheckState.Unchecked if name in self._left_out else Qt.CheckState.Checked)
            self.sets.addItem(item)
        self.sets.setCurrentRow(at)
        self.sets.blockSignals(False)

    @property
    def ticked(self) -> list[str]:
        """Names of the sets to learn from."""
        return [name for name in self.session.sets if name not in self._left_out]

    def _on_ticked(self, item: QListWidgetItem) -> None:
        name = item.data(Qt.ItemDataRole.UserRole)
        (self._left_out.discard if item.checkState() == Qt.CheckState.Checked else self._left_out.add)(name)
        self._show_train()

    def _show_train(self) -> None:
        """What the button would do, or why it cannot."""
        session, names = self.session, self.ticked
        running = self._handle is not None
        why = ""
        if session.cells is None or not session.n_cells:
            why = "No cells yet: segment the images in the CellRep panel."
        elif not session.embedding:
            why = "Learning needs an embedding: embed the cells in the CellRep panel."
        elif len(session.sets) < 2:
            why = (
                "Select cells of one kind, on the map or in the image, and press 1: they become a set. Do the same for "
                "another kind with 2. Two sets are enough to learn from."
            )
        elif len(names) < 2:
            why = "Tick two sets or more: each is one kind of cell."
        fresh = self.unlearned
        said = f"Learn from {len(names)} sets" if len(names) > 1 else "Learn"
        self.train.setText("Learning…" if running else "Learn again" if fresh == "" and self._made else said)
        self.train.setEnabled(not why and not running)
        self.train.setToolTip(
            why or (fresh + " " if fresh else "") + "Flagged cells and cells in two of the sets are left out."
        )
        summary = self._made.get("summary", "")
        if why and not summary:
            self.words.setText(why)
        elif summary:
            self.words.setText(f"{summary} {fresh}".strip())
        else:
            self.words.setText("What it learns is tested on fields it has not seen.")
        for button in (self.next, self.on_map, self.which):
            button.setEnabled(bool(self._made))
        if not self._made:
            self.next.setToolTip("Learn first: then the cells it is least sure of stand here")
            self.on_map.setToolTip("Learn first: then there are predictions to colour by")
        else:
            self.next.setToolTip("Select the next cell of the queue; the keys 1 to 9 put it into a set")
            self.on_map.setToolTip("Colour the map by the predicted set")

    @property
    def unlearned(self) -> str:
        """What changed in the sets since it learned, in a sentence; "" when nothing did."""
        if not self._made:
            return ""
        known, sets = self._made["numbers"]["sets"], self.session.sets
        if set(known) != set(self.ticked):
            return "Other sets are ticked now; learn again."
        changed = [name for name in known if cells_digest(sets[name]["cells"]) != known[name]]
        return "The sets have changed since; learn again." if changed else ""

    # ---- learning ----------------------------------------------------------------------------------

    def learn(self) -> None:
        """Learn from the ticked sets and predict every cell, in the worker process."""
        session = self.session
        if session.project is None or self._handle is not None:
            return
        root, names = session.project.root, self.ticked
        self._handle = handle = submit_analysis(
            self.canvas.viewer,
            root,
            f"Learning {len(names)} sets",
            recipe="learn",
            embedding=session.embedding,
            sets=json.dumps(names),
            classifier=KINDS[self.kind.currentText()],
            held_out=self.held_out.currentText(),
        )
        handle.finished.connect(lambda _: self._on_learned(handle))
        handle.failed.connect(lambda sentence: self._on_over(handle, f"⚠ {sentence}"))
        handle.stopped.connect(lambda: self._on_over(handle, "Stopped; the predictions are as they were."))
        self._show_train()

    def _on_learned(self, handle: Any) -> None:
        if self._handle is handle:
            self._handle, self._at = None, 0
            if handle.read is not None:
                self.session.reload(handle.read)
            self._show_train()

    def _on_over(self, handle: Any, words: str) -> None:
        if self._handle is handle:
            self._handle = None
            self._show_train()
            self.words.setText(words)

    # ---- the matrix --------------------------------------------------------------------------------

    def _show_matrix(self) -> None:
        numbers: Mapping[str, Any] = self._made.get("numbers", {})
        counts = np.array(numbers.get("confusion") or np.zeros((0, 0)), np.int64)
        self.matrix.show_counts(numbers.get("classes", []), counts)
        self.matrix.setVisible(len(counts) > 0)
        self.untold.setVisible(not len(counts))
        self.untold.setText(
            numbers.get("why_not_tested", "")
            if self._made
            else "Here will stand which set was taken for which, on fields held out."
        )

    def _on_square(self, i: int, j: int, mode: str) -> None:
        """Select the cells of one set that were taken for another."""
        session = self.session
        if session.cells is None or not self._made:
            return
        obs, key, names = session.cells.obs, session.embedding, self.matrix.names
        square = (obs[f"taught_{key}"] == names[i]) & (obs[f"predicted_{key}"] == names[j])
        session.select(square.to_numpy(bool), mode, "square of the matrix of what was learned")

    def _on_show(self) -> None:
        self.session.colour_by = f"predicted_{self.session.embedding}"

    # ---- the queue ---------------------------------------------------------------------------------

    def arrange(self, after_label: bool = False) -> None:
        """Put the cells that are in no set in order, beside the window."""
        session = self.session
        if session.cells is None or not self._made:
            self.background.run(lambda: None, lambda _: None, "queue")  # what is being ordered is not wanted
            self.grid.show_sections([])
            return
        cells, key, which = session.cells, session.embedding, self.which.currentText()
        wanted = which.removeprefix("predicted as ") if which != UNSURE else ""
        named = [session.sets[name]["cells"] for name in self.ticked]
        obs, visible = cells.obs, session.visible

        def work() -> np.ndarray:
            return queue(obs, key, named, visible, wanted)

        def arranged(rows: Any) -> None:
            if isinstance(rows, Exception) or self.session.cells is not cells:
                return
            before = self.rows
            self.grid.show_sections([("", rows)])
            focus = self.session.focus
            if after_label and focus >= 0 and focus in before and focus not in rows and len(rows):
                # The cell looked at was labelled: the one that stood after it is next.
                self._at = min(int(np.flatnonzero(before == focus)[0]), len(rows) - 1)
                self._look_at(int(rows[self._at]))

        self.background.run(work, arranged, "queue")

    @property
    def rows(self) -> np.ndarray:
        """Cells in the queue, int (n,)."""
        return self.grid.sections[0].rows if self.grid.sections else np.zeros(0, np.int64)

    def go(self, step: int) -> None:
        """Look at the next cell of the queue (-1: at the one before)."""
        rows = self.rows
        if not len(rows):
            return
        here = np.flatnonzero(rows == self.session.focus)
        self._at = int(np.clip(here[0] + step, 0, len(rows) - 1)) if len(here) else 0
        self._look_at(int(rows[self._at]))

    def _look_at(self, row: int) -> None:
        self.canvas.click(row)
        place = next((p for r, p in self.grid.tiles(0, self.grid.height_px) if r == row), None)
        if place is not None:
            bar, high = self.grid.verticalScrollBar(), self.grid.viewport().height()
            if not bar.value() <= place.top() <= bar.value() + high - place.height():
                bar.setValue(max(0, place.top() - 4))
        if not self.sets.hasFocus():
            self.grid.setFocus()

    def _on_clicked(self, row: int, mode: str) -> None:
        self.canvas.click(row, mode)
        self.grid.setFocus()

    def _on_marks_changed(self, *_: Any) -> None:
        self.grid.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """N and P go through the queue; digits are the Explore panel's."""
        if event.key() in (Qt.Key.Key_N, Qt.Key.Key_P) and not event.modifiers():
            self.go(1 if event.key() == Qt.Key.Key_N else -1)
        else:
            super().keyPressEvent(event)


def queue(obs: Any, key: str, named: list[list[str]], visible: np.ndarray, wanted: str = "") -> np.ndarray:
    """Rows of the visible cells in no set, the least sure first; of one predicted set: the surest first.

    Parameters
    ----------
    obs : DataFrame
        With ``predicted_<key>`` and ``sure_<key>``.
    named : list of list of str
        Cells of the sets.
    visible : ndarray of bool, shape (n_cells,)
    wanted : str
        Only cells predicted to be in this set; "": all.
    """
    sure = obs[f"sure_{key}"].to_numpy(float)
    free = visible & np.isfinite(sure)
    for ids in named:
        at = obs.index.get_indexer(ids)
        free[at[at >= 0]] = False
    if wanted:
        free &= (obs[f"predicted_{key}"] == wanted).to_numpy(bool)
        sure = -sure
    rows = np.flatnonzero(free)
    return rows[np.argsort(sure[rows], kind="stable")]


class _Sets(QListWidget):
    """The list of sets; digits go on to whoever labels cells, Space ticks."""

    def sizeHint(self) -> QSize:
        return QSize(190, 90)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if Qt.Key.Key_0 <= event.key() <= Qt.Key.Key_9 or event.key() in (Qt.Key.Key_N, Qt.Key.Key_P):
            event.ignore()
        else:
            super().keyPressEvent(event)
