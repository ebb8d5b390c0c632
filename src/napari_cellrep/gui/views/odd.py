"""Odd cells: one after the other beside its group-mates, and what a person says of it."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QEvent, QMarginsF, QRect, QRectF, Qt
from qtpy.QtGui import (
    QColor,
    QKeyEvent,
    QPageLayout,
    QPageSize,
    QPainter,
    QPdfWriter,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
)

from napari_cellrep.data.files import write_text
from napari_cellrep.data.rois import outline, write_rois
from napari_cellrep.data.verdicts import REASONS, valid
from napari_cellrep.gui._pictures import Background, picture_side
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui.views._note import Note
from napari_cellrep.gui.views._order import in_sections
from napari_cellrep.gui.views._parts import CellView, ChoiceBox, Line
from napari_cellrep.gui.views._queue import Measured, blind_round, export_table, hit_rate, odd_queue
from napari_cellrep.gui.views._sheet import Panel, Shown, cut_shown
from napari_cellrep.gui.views._sight import Sight
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError

ALL = "all groups in turn"
NO_REASON = "no reason"
KEYS = {Qt.Key.Key_R: "real", Qt.Key.Key_A: "artefact", Qt.Key.Key_U: "unsure"}
MEANINGS = {
    "real": "It truly looks different from its group (R)",
    "artefact": "It only looks different: debris, a wrong outline, out of focus, … (A)\n"
    "The cell gets the flag “artefact”: hidden, and left out of rankings. Ctrl+Z takes it back.",
    "unsure": "It does not look different, or it cannot be told why (U)",
}
BELIEVE = (
    "Would a reviewer believe it? Tries the doubts one by one: flagged cells, a second model, black surroundings, a shift\n"
    "of 5 px, the structure channels alone, other fields, the pixels alone, chance, and what the network was trained on"
)


class OddView(CellView):
    """The queue of the oddest cells of a group, each with its verdict.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click means.
    """

    title = "Odd cells"
    kept = ("n",)

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.background = Background(session)
        self.sight = Sight(session, canvas, self._on_seen)
        self.queue: list[str] = []  # cell ids
        self.position = -1
        self.drawn: dict[str, str] = {}  # cell id → "odd" or "random", in a blind round
        self._drawn_in = ""  # the embedding of the blind round
        self.seed: int | None = None  # of the next blind round; None: a new one each time
        self._measured: tuple[Any, str, Measured] | None = None  # table, embedding
        self._odd = np.zeros(0)
        self._said: dict[str, Any] = {}
        self._result = ""
        self._checking = ""  # cell whose doubts are being tried
        self._wanted = ""  # cell to show once the queue is new
        self._seek = False  # all had a verdict: is there one without in the new queue?
        self._mine = False  # the verdict or focus was set here
        self._stale = True

        self.group = _combo("Whose odd cells: each cell is compared with the cells of its own group")
        self.group_word = QLabel("group")
        self.n = QSpinBox()
        self.n.setRange(3, 500)
        self.n.setValue(20)
        self.n.setToolTip(
            "How many of the oddest cells are looked at. An artefact leaves, and the next comes in."
        )
        self.blind = _button("Blind round", "", self._on_blind)
        self.export = _button("Export", "", None)
        menu = QMenu(self.export)
        menu.addAction(
            "Table (CSV)…", lambda: self._ask_path("odd-cells.csv", "CSV (*.csv)", self.save_table)
        )
        menu.addAction("Outlines for Fiji (ROI files)…", self._ask_folder)
        menu.addAction(
            "A page for each cell (PDF)…",
            lambda: self._ask_path("odd-cells.pdf", "PDF (*.pdf)", self.save_pages),
        )
        self.export.setMenu(menu)
        top = QHBoxLayout()
        top.setContentsMargins(4, 2, 4, 2)
        for item, stretch in (
            (self.group_word, 0), (self.group, 2), (QLabel("oddest"), 0), (self.n, 0), (self.blind, 0), (self.export, 0),
        ):  # fmt: skip
            top.addWidget(item, stretch)
        self.progress = Line()
        top.addWidget(self.progress, 5)

        self.words = QLabel()
        self.words.setContentsMargins(6, 0, 6, 0)
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.panel = Panel(self)

        self.reason = _combo("Why: chosen before the verdict, or for the verdict that is there")
        self.reason.addItems([NO_REASON, *REASONS])
        self.buttons: dict[str, QPushButton] = {}
        bottom = QHBoxLayout()
        bottom.setContentsMargins(4, 2, 4, 2)
        self.back = _button("‹", "The cell before (P)", lambda: self.step(-1))
        self.next = _button("›", "The next cell (N)", lambda: self.step(1))
        bottom.addWidget(self.back)
        bottom.addWidget(self.next)
        bottom.addWidget(QLabel("reason"))
        bottom.addWidget(self.reason)
        for verdict, meaning in MEANINGS.items():
            button = _button(f"{verdict.capitalize()} ({verdict[0].upper()})", meaning, None)
            button.clicked.connect(lambda _=False, verdict=verdict: self.judge(verdict))
            button.setCheckable(True)
            self.buttons[verdict] = button
            bottom.addWidget(button)
        self.check = _button("Believe it?", BELIEVE, self.show_evidence)
        bottom.addWidget(self.check)
        bottom.addStretch(1)
        bottom.addWidget(QLabel("rater"))
        self.rater = QLineEdit(_user())
        self.rater.setToolTip("Who says it; kept with every verdict")
        self.rater.setMaximumWidth(110)
        bottom.addWidget(self.rater)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(top)
        layout.addWidget(self.words)
        layout.addWidget(self.panel, 1)
        layout.addLayout(bottom)

        self.group.currentIndexChanged.connect(lambda _: self.refresh())
        self.group.activated.connect(lambda _: self.panel.setFocus())
        self.n.valueChanged.connect(lambda _: self.refresh())
        self.reason.activated.connect(self._on_reason)
        self.rater.returnPressed.connect(self.panel.setFocus)
        self.panel.clicked.connect(self._on_clicked)
        self.panel.framed.connect(self._on_framed)
        self.listen(
            (session.project_changed, self._on_project_changed),
            (session.cells_changed, self._on_table_changed),
            (session.embedding_changed, self._on_embedding_changed),
            (session.visible_changed, self.refresh),
            (session.verdicts_changed, self._on_verdicts_changed),
            (session.focus_changed, self._on_focus),
        )
        self._on_table_changed()

    def disconnect_session(self) -> None:
        """Listen no more and let the reading thread end."""
        super().disconnect_session()
        self.sight.close()
        self.background.close()

    # ---- what the session says ---------------------------------------------------------------------

    def _on_project_changed(self) -> None:
        self._end_round("")
        self.queue, self.position = [], -1

    def _on_table_changed(self) -> None:
        session = self.session
        self.background.forget()
        self._measured = None
        self._said = dict(session.verdicts)
        chosen = self.group.currentText()
        names: list[str] = []
        if session.cells is not None:
            found = pd.Series(np.asarray(session.cells.obs["group"].dropna().unique()))
            names = [name for name, _ in in_sections(np.arange(len(found)), found, len(found))]
        self.group.blockSignals(True)
        self.group.clear()
        self.group.addItems([ALL, *names])
        self.group.setCurrentText(chosen if chosen in names else ALL)
        self.group.blockSignals(False)
        self.refresh()

    def _on_embedding_changed(self) -> None:
        if self.session.embedding != self._drawn_in:
            self._end_round("")
        self.refresh()

    def _on_verdicts_changed(self) -> None:
        now = self.session.verdicts
        changed = [i for i in {*now, *self._said} if now.get(i) != self._said.get(i)]
        self._said = dict(now)
        if changed and not self._mine:  # undone or redone: look at it again
            if changed[0] in self.queue:
                self.go(self.queue.index(changed[0]))
            else:
                self._wanted = changed[0]
        self.refresh()

    def _on_focus(self, row: int) -> None:
        cell_id = self.session.cell_id(row)
        if not self._mine and not self.drawn and cell_id in self.queue and cell_id != self.cell_id:
            self.go(self.queue.index(cell_id), follow=False)

    def showEvent(self, event: QShowEvent) -> None:
        """Catch up with what happened while another view was in front."""
        super().showEvent(event)
        if self._stale:
            self.refresh()

    # ---- the queue ---------------------------------------------------------------------------------

    @property
    def cell_id(self) -> str:
        """The cell that is looked at; "" for none."""
        return self.queue[self.position] if 0 <= self.position < len(self.queue) else ""

    def _good(self) -> np.ndarray:
        obs = self.session.cells.obs
        return np.array(obs["good"], bool) if "good" in obs else np.ones(len(obs), bool)

    def refresh(self) -> None:
        """Measure how odd the cells are, beside the window, and make the queue anew (not in a blind round)."""
        session = self.session
        self._stale = not self.isVisible()
        if self._stale:
            return
        cells, embedding = session.cells, session.embedding
        if cells is None or not embedding:
            self.queue, self.position = [], -1
            self.panel.show_cell(None)
            self._tell()
            return
        if self.drawn and self._measured is not None:
            self._tell()
            return
        good, visible, group, n = (
            self._good(),
            session.visible.copy(),
            self.group.currentText(),
            self.n.value(),
        )
        known = self._measured
        if known is None or known[0] is not cells or known[1] != embedding:
            known = None
        vectors, groups = cells.obsm[f"X_{embedding}"], cells.obs["group"]
        rejected = [
            row
            for i, row in valid(cells.obs, session.verdicts).items()
            if session.verdicts[i]["verdict"] == "artefact"
        ]

        def work() -> tuple[Measured, np.ndarray, np.ndarray]:
            measured = known[2] if known is not None else Measured(vectors, groups, good)
            codes = np.arange(len(measured.names))
            if group != ALL:
                codes = codes[[name == group for name in measured.names]]
            odd = measured.odd(good, codes)
            candidate = visible & np.isin(measured.code, codes)
            candidate[rejected] = False
            return measured, odd, odd_queue(np.flatnonzero(candidate), odd, good, measured.code, n)

        def arrived(result: Any) -> None:
            if self.session.cells is not cells:
                return
            if isinstance(result, Exception):
                self.words.setText(f"How odd the cells are could not be measured ({result}).")
                return
            measured, self._odd, rows = result
            self._measured = (cells, embedding, measured)
            if self.drawn:  # a job wrote the table meanwhile: the round goes on
                self.go(self.position)
                return
            self._set_queue([session.cell_id(row) for row in rows])

        if known is None:
            self.words.setText("Measuring how odd the cells are…")
        self.background.run(work, arrived, "odd")

    def _set_queue(self, queue: list[str]) -> None:
        before, position = self.cell_id, self.position
        self.queue = queue
        follow = False
        if self._wanted in queue:
            position, follow = queue.index(self._wanted), self._wanted != before
        elif before in queue:
            position = queue.index(before)
        else:
            position = min(max(position, 0), len(queue) - 1)
        if self._seek and (following := self._open_after(-1)):
            position, follow = queue.index(following), True  # the artefact that left made room for it
        self._wanted, self._seek = "", False
        self.go(position, follow=follow)

    def _open_after(self, position: int, but: str = "") -> str:
        """The next cell without a verdict, from a position on and then from the start; "" when all have one."""
        turned = self.queue[position + 1 :] + self.queue[: position + 1]
        return next((i for i in turned if i != but and not self.session.verdict(i)), "")

    def step(self, by: int) -> None:
        """Go to the next cell, or to the one before."""
        self._result = ""
        if self.queue:
            self.go(min(max(self.position + by, 0), len(self.queue) - 1))
        self.panel.setFocus()

    def go(self, position: int, follow: bool = True) -> None:
        """Look at a cell of the queue; with `follow` the image goes there too, but never in a blind round."""
        self.position = position if 0 <= position < len(self.queue) else -1
        row = self.session.row_of_id(self.cell_id) if self.cell_id else -1
        said = self.session.verdict(self.cell_id) if row >= 0 else {}
        self.reason.setCurrentText(said.get("reason") or NO_REASON)
        self._tell()
        self.ask()
        if follow and row >= 0 and not self.drawn:
            self._mine = True
            try:
                self.session.set_focus(row)
            finally:
                self._mine = False

    # ---- verdicts ----------------------------------------------------------------------------------

    def judge(self, verdict: str) -> None:
        """Say what the cell is, and go on to the next one without a verdict."""
        self.panel.setFocus()
        self._result = ""
        cell_id = self.cell_id
        if not cell_id:
            self._tell()
            return
        following = self._open_after(self.position, but=cell_id)
        self._seek = not following and not self.drawn
        if self._say(cell_id, verdict):
            if self.drawn:
                if following:
                    self.go(self.queue.index(following))
                else:
                    self._end_round(self._hits())
                    self.refresh()
            elif following:
                self._wanted = following  # the queue may be another by then
                self.go(self.queue.index(following))
            else:
                self._tell()

    def _say(self, cell_id: str, verdict: str) -> bool:
        reason = self.reason.currentText()
        more = {"drawn": self.drawn[cell_id]} if self.drawn else {}
        self._mine = True
        try:
            self.session.judge(
                cell_id, verdict, "" if reason == NO_REASON else reason, self.rater.text().strip(), **more
            )
        except InputError as error:
            self._tell()
            self.words.setText(str(error))
            return False
        finally:
            self._mine = False
        return True

    def _on_reason(self, _: int) -> None:
        said = self.session.verdict(self.cell_id) if self.cell_id else {}
        if said:
            self._say(self.cell_id, said["verdict"])
        self.panel.setFocus()

    # ---- blind rounds ------------------------------------------------------------------------------

    def _on_blind(self) -> None:
        if self.drawn:
            self._end_round(self._hits())
            self.refresh()
        else:
            self.start_round()
        self.panel.setFocus()

    def start_round(self) -> None:
        """Mix the odd cells without a verdict with equally many random ones of their groups; hide who is who."""
        session = self.session
        if self._measured is None or not self.queue:
            return
        good, measured = self._good(), self._measured[2]
        said = np.zeros(session.n_cells, bool)
        said[list(valid(session.cells.obs, session.verdicts).values())] = True
        rows = np.array([session.row_of_id(i) for i in self.queue], np.int64)
        rows = rows[~said[rows] & good[rows]]
        if not len(rows):
            self.words.setText(
                "All these odd cells have a verdict: choose another group, or more of the oddest."
            )
            return
        # A cell that nearly was in the queue is odd too, but a random one may be: that is what random means.
        pool = np.flatnonzero(good & ~said & np.isfinite(measured.z).all(axis=1))
        seed = self.seed if self.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        drawn = blind_round(rows, pool, measured.code, seed)
        self._result = ""
        self.drawn, self._drawn_in = {session.cell_id(row): kind for row, kind in drawn}, session.embedding
        self.queue = list(self.drawn)
        session.set_focus(-1)  # the image and the map would tell
        self.go(0)

    def _hits(self) -> str:
        return hit_rate(self.drawn, {i: v for i in self.drawn if (v := self.session.verdict(i))}).words

    def _end_round(self, result: str) -> None:
        if self.drawn:
            self.drawn, self._result = {}, result
            self.queue, self.position = [], -1

    # ---- words -------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Say what is shown, and what can be done."""
        session, cell_id = self.session, self.cell_id
        blind = bool(self.drawn)
        said = session.verdict(cell_id) if cell_id else {}
        for verdict, button in self.buttons.items():
            button.setEnabled(bool(cell_id))
            given = said.get("verdict") == verdict
            button.setChecked(given)
            button.setText(f"{'✓ ' if given else ''}{verdict.capitalize()} ({verdict[0].upper()})")
        self.back.setEnabled(self.position > 0)
        self.next.setEnabled(0 <= self.position < len(self.queue) - 1)
        self.reason.setEnabled(bool(cell_id))
        self.check.setEnabled(bool(cell_id) and not blind and not self._checking)
        self.check.setText("Checking…" if self._checking else "Believe it?")
        self.check.setToolTip(
            f"{self._checking} is being checked: its group is embedded anew, which takes some seconds"
            if self._checking
            else "Not in a blind round: it would tell which cell it is"
            if blind
            else BELIEVE
        )
        self.n.setEnabled(not blind)
        for item in (self.group, self.group_word):
            item.setVisible(not blind)
        self.blind.setText("End the round" if blind else "Blind round")
        self.blind.setEnabled(blind or bool(self.queue))
        self.blind.setToolTip(
            "End the round and see what came of it"
            if blind
            else "Judge without knowing: the odd cells are mixed with equally many random cells of their groups,\n"
            "names and places are hidden. At the end: how many of each were called real."
        )
        self.export.setEnabled(not blind and bool(self.queue or session.verdicts))
        self.export.setToolTip(
            "Not in a blind round: it would tell which cell is which"
            if blind
            else "The cells of this queue and all cells with a verdict: table, outlines for Fiji, a page for each cell"
        )
        self.progress.setText(self._progress())
        self.words.setText(self._sentence(cell_id))

    def _progress(self) -> str:
        counts = dict.fromkeys(KEYS.values(), 0)
        for cell_id in self.queue:
            if said := self.session.verdict(cell_id):
                counts[said["verdict"]] += 1
        n = sum(counts.values())
        if not self.queue:
            return ""
        if self.drawn:
            return f"{n:,} of {len(self.queue):,} judged"
        words = f"{n:,} of {len(self.queue):,} judged: {counts['real']:,} real, {counts['unsure']:,} unsure"
        gone = [row for i, row in valid(self.session.cells.obs, self.session.verdicts).items()
                if self.session.verdicts[i]["verdict"] == "artefact"]  # fmt: skip
        group = self.group.currentText()
        if group != ALL:
            gone = [row for row in gone if str(self.session.value(row, "group")) == group]
        return words + (
            f" · {len(gone):,} artefacts taken out"
            if len(gone) > 1
            else " · 1 artefact taken out"
            if gone
            else ""
        )

    def _sentence(self, cell_id: str) -> str:
        session = self.session
        if session.cells is None:
            return "No cells yet: segment the images in the CellRep panel."
        if not session.embedding:
            return "Which cells are odd is seen in an embedding: embed the cells in the CellRep panel."
        if self._result:
            return self._result
        if not cell_id:
            return "No cell can be compared here: a group needs more than three good cells."
        place = f"{self.position + 1:,} of {len(self.queue):,}"
        if self.drawn:
            return f"{place} · blind: is it odd, or one of the random cells?"
        row = session.row_of_id(cell_id)
        words = f"{place} · {cell_id}"
        if row >= 0:
            words += f" · group {session.value(row, 'group')}"
            if row < len(self._odd) and self._measured is not None:
                own = self._measured[2].rows[self._measured[2].code[row]]
                usual = float(np.nanmedian(self._odd[own]))
                if usual > 0:
                    words += f" · {self._odd[row] / usual:.1f} times as far from its nearest as usual here"
            flags = str(session.value(row, "flags") or "").replace(";", ", ").replace("_", " ")
            words += f" · flagged: {flags}" if flags else ""
        return words

    # ---- pictures ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for the pictures of the cell that is looked at."""
        cell_id = self.cell_id
        if not cell_id:
            self.panel.show_cell(None)
            return

        def arrived(shown: Any) -> None:
            if isinstance(shown, Exception):
                self.panel.show_cell(None, f"No picture: {shown}")
            elif shown.cell_id == self.cell_id:
                shown.n_seen = self.sight.n_planes()
                self.panel.show_cell(shown)
                self.sight.look(cell_id)

        self.panel.looks = self.canvas.looks()
        self._cut(cell_id, arrived, "cell")

    def _on_seen(self, cell_id: str, answer: dict[str, Any] | str) -> None:
        shown = self.panel.shown
        if shown is not None and shown.cell_id == cell_id == self.cell_id:
            shown.set_seen(answer)
            self.panel.update()

    def _cut(self, cell_id: str, then: Callable[[Any], None], kind: str = "") -> None:
        session, background, looks = self.session, self.background, self.canvas.looks()
        project, cells = session.project, session.cells
        row = session.row_of_id(cell_id)
        if project is None or cells is None or row < 0 or self._measured is None:
            return
        measured, good, side = self._measured[2], self._good(), picture_side(session)
        names = ["field", "label", "area_px", "y_px", "x_px", "box_y0", "box_x0", "box_y1", "box_x1"]
        obs = cells.obs

        def work() -> Shown:
            near, typical = measured.mates(row, good)
            rows = np.concatenate([[row], near, typical]).astype(np.int64)
            return cut_shown(
                background, project, obs.iloc[rows][names], rows, len(near), side, looks, cell_id
            )

        background.run(work, then, kind)

    def _on_clicked(self, row: int, mode: str) -> None:
        if not self.drawn:
            self._mine = True
            try:
                self.canvas.click(row, mode)
            finally:
                self._mine = False

    def _on_framed(self, row: int) -> None:
        if not self.drawn:
            self.canvas.go_to(row, frame=True)

    # ---- would a reviewer believe it? ----------------------------------------------------------------

    def show_evidence(self) -> None:
        """Have the worker try what a reviewer would doubt, and show what came of it."""
        session, cell_id, viewer = self.session, self.cell_id, self.canvas.viewer
        if not cell_id or session.project is None or viewer is None or self._checking:
            return

        def done(say: Callable[[Any], None]) -> Callable[[Any], None]:
            def answered(value: Any) -> None:
                self._checking = ""
                if not self.sight.closed:  # the view is there still
                    self._tell()
                    say(value)

            return answered

        def show(found: Any) -> None:
            if self.drawn:  # a blind round began meanwhile, and this would tell
                return
            self.note = Note(self, f"Would a reviewer believe {cell_id}?", "\n".join(found["lines"]))
            self.note.show()

        self._checking = cell_id
        self._tell()
        runner_of(viewer).ask(
            "believe.believe", session.project.root, done(show), done(self.words.setText),
            cell_id=cell_id, embedding=session.embedding,
        )  # fmt: skip

    # ---- keys: only while the focus is in this view --------------------------------------------------

    def _slot_of(self, event: QKeyEvent) -> Callable[[], Any] | None:
        if isinstance(self.focusWidget(), QLineEdit | QComboBox | QAbstractSpinBox):
            return None
        if event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier & ~Qt.KeyboardModifier.ShiftModifier:
            return None
        key = event.key()
        if key in KEYS:
            return lambda: self.judge(KEYS[key])
        slots = {
            Qt.Key.Key_N: lambda: self.step(1),
            Qt.Key.Key_P: lambda: self.step(-1),
            Qt.Key.Key_Space: lambda: self._on_framed(self.session.row_of_id(self.cell_id)),
        }
        return slots.get(key) if self.cell_id else None

    def event(self, event: QEvent) -> bool:
        """Take our keys before a shortcut of the window's does."""
        if event.type() == QEvent.Type.ShortcutOverride and self._slot_of(event) is not None:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """R, A, U are verdicts; N and P the next cell and the one before; Space frames the cell in its field."""
        slot = self._slot_of(event)
        if slot is None:
            super().keyPressEvent(event)
        elif not (event.isAutoRepeat() and event.key() in KEYS):  # a key held down is one verdict
            slot()

    # ---- export ------------------------------------------------------------------------------------

    def _ask_path(self, name: str, kind: str, save: Callable[[Path], None]) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Export the odd cells", name, kind)
        if path:
            save(Path(path))

    def _ask_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder for the ROI files, one for each image")
        if path:
            self.save_rois(Path(path))

    def _rows(self) -> np.ndarray:
        """Rows to export: the queue in its order, then all others with a verdict."""
        session = self.session
        ids = [*self.queue, *valid(session.cells.obs, session.verdicts)]
        rows = np.array([session.row_of_id(i) for i in dict.fromkeys(ids)], np.int64)
        return rows[rows >= 0]

    def save_table(self, path: Path) -> None:
        """Write a CSV: who, where (px and µm), how odd, verdict, reason, rater."""
        session, rows = self.session, self._rows()
        project, obs, verdicts, good = (
            session.project,
            session.cells.obs,
            dict(session.verdicts),
            self._good(),
        )
        measured = self._measured[2] if self._measured is not None else None

        def work() -> int:
            odd = (
                measured.odd(good, measured.code[rows]) if measured is not None else np.full(len(obs), np.nan)
            )
            table = export_table(project, obs, rows, odd, verdicts)
            write_text(path, table.to_csv(index=False, lineterminator="\n"))
            return len(table)

        self.background.run(work, self._saved(path))

    def save_rois(self, folder: Path) -> None:
        """Write ``<field>.zip`` with the outlines of its cells for each image, for Fiji's ROI manager."""
        session, rows = self.session, self._rows()
        project, obs = session.project, session.cells.obs

        def work() -> int:
            chosen = obs.iloc[rows]
            n = 0
            for name, own in chosen.groupby(chosen["field"].astype(str), sort=True):
                outlines = {}
                for at in project.parts_of(name, own[["y_px", "x_px"]].to_numpy(float)):
                    cells = own.iloc[at]
                    top, left = int(cells["box_y0"].min()), int(cells["box_x0"].min())
                    box = (top, left, int(cells["box_y1"].max()), int(cells["box_x1"].max()))
                    labels = project.read_labels_region(name, box)
                    for cell_id, cell in cells.iterrows():
                        y0, x0, y1, x1 = (int(cell[c]) for c in ("box_y0", "box_x0", "box_y1", "box_x1"))
                        mask = labels[y0 - top : y1 - top, x0 - left : x1 - left] == cell["label"]
                        if mask.any():
                            outlines[str(cell_id)] = outline(mask, y0, x0)
                write_rois(folder / f"{name}.zip", outlines)
                n += len(outlines)
            return n

        self.background.run(work, self._saved(folder))

    def _saved(self, path: Path) -> Callable[[Any], None]:
        def say(result: Any) -> None:
            if isinstance(result, Exception):
                self.words.setText(f"Not saved: {result}")
            else:
                self.words.setText(f"{result:,} cells saved as {path}.")

        return say

    def save_pages(self, path: Path) -> None:
        """Write a PDF with a page for each cell: its pictures, also as the network sees it, its group-mates, the verdict."""
        rows = self._rows()
        if not len(rows) or self._measured is None:
            self.words.setText("There is no cell to print.")
            return
        ids = [self.session.cell_id(int(row)) for row in rows]
        writer = QPdfWriter(str(path))
        writer.setPageSize(QPageSize(QPageSize.PageSizeId.A4))
        writer.setPageOrientation(QPageLayout.Orientation.Landscape)
        writer.setPageMargins(QMarginsF(12, 12, 12, 12), QPageLayout.Unit.Millimeter)
        writer.setResolution(288)
        writer.setTitle("Odd cells")
        painter = QPainter()
        if not painter.begin(writer):
            self.words.setText(f"{path} could not be written; choose another folder.")
            return

        waiting: dict[str, tuple[int, Shown]] = {}

        def seen(cell_id: str, answer: dict[str, Any] | str) -> None:
            i, shown = waiting.pop(cell_id)
            shown.set_seen(answer)
            paint(i, shown)

        sight = Sight(
            self.session, self.canvas, seen
        )  # of its own: who steps on meanwhile asks for other cells

        def page(i: int, shown: Any) -> None:
            if isinstance(shown, Exception):
                painter.end()
                self.words.setText(f"Not saved: {shown}")
                return
            shown.n_seen = sight.n_planes() if self.canvas.viewer is not None else 0
            if shown.n_seen:
                waiting[shown.cell_id] = (i, shown)
                sight.look(shown.cell_id)
            else:
                paint(i, shown)

        def paint(i: int, shown: Shown) -> None:
            if self.sight.closed:  # the view is gone
                painter.end()
                return
            if i:
                writer.newPage()
            self._paint_page(painter, writer, shown)
            if i + 1 < len(ids):
                self.words.setText(f"Page {i + 2:,} of {len(ids):,}…")
                self._cut(ids[i + 1], lambda found: page(i + 1, found))
            else:
                painter.end()
                self._saved(path)(len(ids))

        self._cut(ids[0], lambda found: page(0, found))

    def _paint_page(self, painter: QPainter, writer: QPdfWriter, shown: Shown) -> None:
        session = self.session
        scale = writer.resolution() / 96
        painter.save()
        painter.scale(scale, scale)
        width, height = writer.width() / scale, writer.height() / scale
        said = session.verdict(shown.cell_id)
        where, y, x = session.place(shown.row)
        um = shown.um_per_px
        odd = self._odd[shown.row] if shown.row < len(self._odd) else np.nan
        files = {
            p.name for plane in session.project.field(where).planes for p in plane.files(session.project.root)
        }
        lines = [
            f"{shown.cell_id}, group {session.value(shown.row, 'group')}",
            f"Verdict: {said.get('verdict', 'none yet')}"
            + (f", {said['reason']}" if said.get("reason") else "")
            + (f" ({said['rater']}, {said['when'][:10]})" if said.get("rater") else ""),
            f"Image {', '.join(sorted(files))} at x {x:,.1f} px, y {y:,.1f} px"
            + (f" (x {x * um:,.1f} µm, y {y * um:,.1f} µm)" if um else ""),
            f"Distance to its ten nearest in its group ({session.embedding.replace('_', ' ')}): {odd:.2f}"
            if np.isfinite(odd)
            else "",
            f"What the network sees: {shown.seen_words[:1].lower()}{shown.seen_words[1:]}"
            if shown.seen_words
            else "",
        ]
        painter.setPen(QColor("black"))
        for i, line in enumerate(lines):
            font = painter.font()
            font.setPixelSize(20 if i == 0 else 13)
            painter.setFont(font)
            painter.drawText(QRectF(0, 30 * min(i, 1) + 20 * max(i - 1, 0), width, 28), 0, line)
        font.setPixelSize(12)
        painter.setFont(font)
        self.panel.draw(painter, QRect(0, 130, int(width), int(height - 130)), shown)
        painter.restore()


# ---- small parts -----------------------------------------------------------------------------------


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name
        return ""


def _combo(tip: str) -> QComboBox:
    box = ChoiceBox()
    box.setToolTip(tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(9)
    return box


def _button(text: str, tip: str, slot: Any) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    if slot is not None:
        button.clicked.connect(lambda _=False: slot())
    return button
