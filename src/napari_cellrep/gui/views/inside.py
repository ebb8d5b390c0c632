"""What a network makes of cells, beside the image: which picture of the answer is shown and how, classes, heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._looking import (
    APART,
    HIDEABLE,
    MOST_CELLS,
    MOST_IN_FIGURE,
    OURS,
    PATTERNS,
    QUESTIONS,
    Answer,
    hide_lowest,
)
from napari_cellrep.gui.views._evidence import ClassBars, HeadMatrix
from napari_cellrep.gui.views._masking import MaskRow
from napari_cellrep.gui.views._parts import CellView, choice_box
from napari_cellrep.session import Session

EMPTY = (
    "Right-click a cell in the image, or its point on the map, and choose a question, such as “What did the network look "
    "at?”. The answer appears at the cell; here you choose what of it is shown."
)
MISLEAD = (
    "Attention alone can mislead: it says where the network looks, not what it uses.\n"
    "Compare “What does the network need?”."
)


class InsideView(CellView):
    """The newest answer about cells: its pictures, how strongly they are shown, and what belongs beside the image."""

    title = "Look inside"

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.looking = canvas.looking
        self.answer: Answer | None = None
        self._compared: tuple[str, ...] = ()  # cells of the matrix
        self._how: dict[str, Any] = {}  # what it was asked with
        self._asked = 0

        self.words = QLabel(EMPTY)
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        box = choice_box(
            "Which picture of the answer lies over the cells", name="Picture shown", least_letters=16
        )
        box.activated.connect(self.show_picture)
        self.boxes = {"picture": box}  # not a choice that is kept: it belongs to the answer
        self.opacity = _slider(100, "How much of the image is covered", "Opacity")
        self.opacity.valueChanged.connect(self._set_opacity)
        self.lowest = _slider(
            99,
            "Hides the lowest part of the picture's values: at 60 %, only the highest 40 % are seen",
            "Hide the lowest",
        )
        self.lowest.valueChanged.connect(self._set_lowest)
        self.lowest_words = QLabel()
        self.lowest_words.setMinimumWidth(self.fontMetrics().horizontalAdvance("below 0.00000 (99 %)"))
        lowest = QWidget()
        row = QHBoxLayout(lowest)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.lowest, 1)
        row.addWidget(self.lowest_words)
        self.lowest_row = lowest
        self.settings = QWidget()
        form = QFormLayout(self.settings)
        form.setContentsMargins(0, 0, 0, 0)
        self.apart = _button(
            "A layer each",
            "Puts every picture of this answer into a layer of its own, so that several can be seen at once or compared",
            self._take_apart,
        )
        self.save = _button(
            "Save the figure…",
            "Writes the cells' channels and every picture of this answer, with a scale bar, as PNG, SVG or PDF; "
            f"of many cells the first {MOST_IN_FIGURE}",
            self._save_figure,
        )
        which = QWidget()
        row = QHBoxLayout(which)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(box, 1)
        row.addWidget(self.apart)
        row.addWidget(self.save)
        form.addRow("Show", which)
        form.addRow("Opacity", self.opacity)
        form.addRow("Hide the lowest", lowest)
        self.mask = MaskRow(self.looking)
        form.addRow("Hidden", self.mask)
        self._form = form

        self.bars = ClassBars()
        self.bars.chosen.connect(self._ask_class)
        self.bars_words = QLabel()
        self.bars_words.setWordWrap(True)

        self.heads = QWidget()
        inside = QVBoxLayout(self.heads)
        inside.setContentsMargins(0, 6, 0, 0)
        question = QLabel("Which channel does each head look at?")
        question.setToolTip(MISLEAD)
        self.check = _button(
            "What does it need?",
            f"{MISLEAD}\nThis hides each channel and one square after the other, and says how far these cells move.",
            self._check_need,
        )
        line = QHBoxLayout()
        line.addWidget(question, 1)
        line.addWidget(self.check)
        inside.addLayout(line)
        buttons = QHBoxLayout()
        self.of_these = _button(
            "These cells", "Compare heads and channels in the cells of this answer", self._compare_these
        )
        self.of_selected = _button("Selected cells", "", self._compare_selected)
        self.of_all = _button(
            f"{MOST_CELLS} of all cells",
            f"Compare heads and channels in {MOST_CELLS} cells drawn at random",
            self._compare_all,
        )
        self.save_matrix = _button(
            "Save the table…",
            "Writes the table (CSV), or a figure with the table beside it",
            self._save_matrix,
        )
        for button in (self.of_these, self.of_selected, self.of_all, self.save_matrix):
            buttons.addWidget(button)
        buttons.addStretch()
        inside.addLayout(buttons)
        self.matrix = HeadMatrix()
        self.matrix.clicked.connect(self._on_field)
        self.matrix_words = QLabel()
        self.matrix_words.setWordWrap(True)
        self.matrix_words.setToolTip(MISLEAD)
        inside.addWidget(self.matrix)
        inside.addWidget(self.matrix_words)

        page = QWidget()
        column = QVBoxLayout(page)
        for item in (self.words, self.settings, self.bars_words, self.bars, self.heads):
            column.addWidget(item)
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(page)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll)
        self.listen(
            (self.looking.changed, self._on_changed),
            (session.selection_changed, self._on_selection),
            (session.project_changed, self._on_changed),
        )
        self._on_changed()

    # ---- which answer ----------------------------------------------------------------------------

    def _on_changed(self) -> None:
        """Show the newest answer that is on the canvas."""
        answers = self.looking.answers
        answer = answers[-1] if answers and self.session.project is not None else None
        if answer is self.answer and answer is not None:
            self.apart.setEnabled(not answer.apart)
            self._say()
            return
        if answer is None or self.answer is None or answer.embedding != self.answer.embedding:
            self._forget_matrix()
        self.answer = answer
        for item in (self.settings, self.bars, self.bars_words, self.heads):
            item.setVisible(False)
        if answer is None:
            self.words.setText(EMPTY)
            return
        self.settings.setVisible(True)
        box = self.boxes["picture"]
        box.clear()
        box.addItems(answer.names)
        box.setCurrentIndex(next(iter(answer.layers)))
        box.setEnabled(len(answer.names) > 1)
        self.apart.setVisible(len(answer.names) > 1)
        self.apart.setEnabled(not answer.apart)
        shown = list(answer.layers.values())
        for slider, value in ((self.opacity, round(100 * shown[0].opacity)), (self.lowest, 0)):
            slider.blockSignals(True)
            slider.setValue(value)
            slider.blockSignals(False)
        can = all(la.metadata[OURS]["part"] in HIDEABLE for la in shown)
        self._form.setRowVisible(self.lowest_row, can)
        self.lowest_words.setText("nothing is hidden")
        self._form.setRowVisible(self.mask, answer.what == "reconstruction")
        self._say()
        if answer.what == "classes":
            self._show_bars(answer)
        self.heads.setVisible(answer.what == "attention")
        self._on_selection()

    def _say(self) -> None:
        """Put the answer into words; it may have been computed anew."""
        answer = self.answer
        question = {**QUESTIONS, "patterns": PATTERNS, "apart": APART}.get(answer.what, ("",))[0]
        self.words.setText(f"<b>{answer.whose}</b>, {answer.title}. {question} {answer.words()}")
        for i, name in enumerate(answer.names):  # a redrawn cell has or has not patches hidden
            self.boxes["picture"].setItemText(i, name)
        if answer.what == "reconstruction":
            self.mask.show_answer(answer, self.boxes["picture"].currentIndex())

    def _on_selection(self) -> None:
        n = (
            int(np.count_nonzero(self.session.selected & self.session.visible))
            if self.session.cells is not None
            else 0
        )
        self.of_selected.setEnabled(n > 0)
        more = f"; {MOST_CELLS} of them, drawn at random" if n > MOST_CELLS else ""
        self.of_selected.setToolTip(
            f"Compare heads and channels in the {n:,} selected cells{more}" if n else "No cell is selected"
        )

    # ---- how it is shown -------------------------------------------------------------------------

    def show_picture(self, i: int) -> None:
        """Show one picture of the answer, and none of its others."""
        if self.answer is None:
            return
        self.boxes["picture"].setCurrentIndex(i)
        self.looking.show_picture(self.answer, i)
        self._say_lowest()
        self.mask.picture = i

    def _take_apart(self) -> None:
        if self.answer is not None and not self.answer.apart:
            self.looking.take_apart(self.answer)

    def _save_figure(self) -> None:
        if self.answer is not None:
            self.looking.save_figure(self.answer)

    def _set_opacity(self, percent: int) -> None:
        for la in self.answer.layers.values() if self.answer is not None else ():
            la.opacity = percent / 100

    def _set_lowest(self, percent: int) -> None:
        for la in self.answer.layers.values() if self.answer is not None else ():
            hide_lowest(la, percent)
        self._say_lowest()

    def _say_lowest(self) -> None:
        i, percent = self.boxes["picture"].currentIndex(), self.lowest.value()
        la = self.answer.layers.get(i) if self.answer is not None else None
        if la is None or not percent or la.metadata[OURS]["part"] not in HIDEABLE:
            self.lowest_words.setText("nothing is hidden")
            return
        self.lowest_words.setText(f"below {np.nanpercentile(la.data, percent):.3g} ({percent} %)")

    # ---- classes ---------------------------------------------------------------------------------

    def _show_bars(self, answer: Answer) -> None:
        numbers = [look["numbers"] for look in answer.looks]
        mean: dict[str, float] = {}
        for n in numbers:
            for name, share in n["probabilities"].items():
                mean[name] = mean.get(name, 0.0) + share / len(numbers)
        mean = dict(sorted(mean.items(), key=lambda item: -item[1]))
        chosen = {n["class"] for n in numbers}
        self.bars.show_shares(mean, next(iter(chosen)) if len(chosen) == 1 else "")
        of = "" if len(numbers) == 1 else f", mean of {len(numbers)} cells"
        self.bars_words.setText(f"Class probabilities{of}. Click a class to see what speaks for it.")
        self.bars_words.setToolTip(
            "How probable each class is that the network was taught; all together are 100 %."
        )
        for item in (self.bars, self.bars_words):
            item.setVisible(True)

    def _ask_class(self, name: str) -> None:
        if self.answer is not None:
            self.looking.ask("classes", self.answer.cells, self.answer.sampled, of=name)

    # ---- heads against channels --------------------------------------------------------------------

    def _check_need(self) -> None:
        if self.answer is not None:
            self.looking.ask("occlusion", self.answer.cells, self.answer.sampled)

    def _compare_these(self) -> None:
        if self.answer is not None:
            self.compare(cells=self.answer.cells)

    def _compare_selected(self) -> None:
        session = self.session
        rows = np.flatnonzero(session.selected & session.visible)
        if len(rows) > MOST_CELLS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_CELLS, replace=False))
        self.compare(cells=[session.cell_id(int(row)) for row in rows])

    def _compare_all(self) -> None:
        self.compare(sample=MOST_CELLS)

    def compare(self, **which: Any) -> None:
        """Ask for the matrix of some cells (`steps.heads`)."""
        from napari_cellrep.gui._runner import runner_of

        if self.answer is None:
            return
        self._asked += 1
        asked, root = self._asked, str(self.session.project.root)
        self.matrix_words.setText("Comparing heads and channels…")

        def arrived(found: Mapping[str, Any]) -> None:
            if asked == self._asked:
                self._compared = tuple(found["cells"])
                self._how = {"embedding": found["embedding"], "cells": self._compared}
                self.save_matrix.setVisible(True)
                self.matrix.show_matrix(found["heads"], found["channels"], found["iou"], found["chance"])
                self.matrix.setVisible(True)
                self.matrix_words.setText(" ".join(found["words"]))

        def failed(sentence: str) -> None:
            if asked == self._asked:
                self.matrix_words.setText(f"⚠ {sentence}")

        runner_of(self.canvas.viewer).ask(
            "heads.heads", root, arrived, failed, embedding=self.answer.embedding, **which
        )

    def _save_matrix(self) -> None:
        """Ask where to, and have the worker write the table and, if wanted, the figure."""
        from napari_cellrep.gui._runner import runner_of

        path, _ = QFileDialog.getSaveFileName(
            self, "Save heads against channels", "heads.csv", "Table or figure (*.csv *.png *.svg *.pdf)"
        )
        if path:
            runner_of(self.canvas.viewer).ask(
                "heads.write_heads", str(self.session.project.root),
                lambda written: self.matrix_words.setText(f"Saved as {' and '.join(written)}."),
                lambda sentence: self.matrix_words.setText(f"⚠ {sentence}"), out=path, **self._how,
            )  # fmt: skip

    def _forget_matrix(self) -> None:
        self._asked += 1
        self._compared = ()
        self.save_matrix.setVisible(False)
        self.matrix.show_matrix([], [], np.zeros((0, 0)), np.zeros((0, 0)))
        self.matrix.setVisible(False)
        self.matrix_words.setText("")

    def _on_field(self, head: int, channel: int) -> None:
        """Show a head over a channel in the image, asking for the attention of the matrix's cells if it is not there."""
        name, cells = self.matrix.channels[channel], list(self._compared)

        def show(answer: Answer) -> None:
            if answer is self.answer:
                self.show_picture(head)
            for la in self.canvas.layers("channel"):
                la.visible = la.metadata[OURS]["channel"] == name

        if self.answer is not None and self.answer.what == "attention" and self.answer.cells == cells:
            show(self.answer)
        else:
            self.looking.ask("attention", cells, then=show)


def _slider(most: int, tip: str, name: str) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, most)
    slider.setToolTip(tip)
    slider.setAccessibleName(name)
    return slider


def _button(words: str, tip: str, pressed: Any) -> QPushButton:
    button = QPushButton(words)
    button.setToolTip(tip)
    button.clicked.connect(lambda _=False: pressed())
    return button
