"""What a network that redraws a cell must not see: a random part of the patches, or those the user paints."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from napari_cellrep.gui._looking import Answer, Looking

MOST_HIDDEN = 95  # percent
_USUAL = 25  # as in Microsnoop's training


class MaskRow(QWidget):
    """How many patches are hidden, and three buttons: others at random, paint them, redraw with what is painted."""

    def __init__(self, looking: Looking) -> None:
        super().__init__()
        self.looking = looking
        self.answer: Answer | None = None
        self.picture = 0  # the one that is shown
        self._seed = 0
        self.share = QSlider(Qt.Orientation.Horizontal)
        self.share.setRange(0, MOST_HIDDEN)
        self.share.setValue(_USUAL)
        self.share.setAccessibleName("Part of the patches to hide")
        self.share.setToolTip(
            "Which part of the patches the network must not see; it was trained with a quarter hidden"
        )
        self.said = QLabel()
        self.said.setMinimumWidth(self.fontMetrics().horizontalAdvance("100 %"))
        self.share.valueChanged.connect(lambda value: self.said.setText(f"{value} %"))
        self.said.setText(f"{_USUAL} %")
        self.others = QPushButton("Hide others")
        self.others.clicked.connect(lambda _=False: self._draw())
        self.paint = QPushButton("Paint the mask")
        self.paint.setCheckable(True)
        self.paint.toggled.connect(self._paint)
        self.again = QPushButton("Redraw")
        self.again.clicked.connect(lambda _=False: self._redraw())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.share, 1)
        for item in (self.said, self.others, self.paint, self.again):
            row.addWidget(item)

    def show_answer(self, answer: Answer, picture: int) -> None:
        """Offer what can be done with an answer, and say why something cannot."""
        if answer is not self.answer:
            self._seed = 0
        self.answer, self.picture = answer, picture
        hides = any(look.get("mask") is not None for look in answer.looks)
        whole = f"{answer.title} is always shown the whole cell, so there is nothing to hide."
        many = "A mask is painted for one cell; right-click a single one."
        painted = answer.mask is not None
        for item, why, tip in (
            (self.others, "" if hides else whole, "Hides this part of the patches, chosen anew at random, and redraws"),
            (
                self.paint, whole if not hides else many if answer.hidden is None else "",
                "A layer over the cell: paint patches to hide them, erase them to show them, then press Redraw. It holds "
                "those of the channel that is shown; every channel has its own.",
            ),
            (self.again, whole if not hides else "" if painted else "Paint the mask first.", "Redraws with the painted mask"),
        ):  # fmt: skip
            item.setEnabled(not why)
            item.setToolTip(why or tip)
        self.share.setEnabled(hides)
        self.paint.blockSignals(True)
        self.paint.setChecked(painted)
        self.paint.blockSignals(False)

    def _draw(self) -> None:
        if self.answer is not None:
            self._seed += 1
            self.looking.redraw(self.answer, ratio=self.share.value() / 100, seed=self._seed)

    def _paint(self, on: bool) -> None:
        if self.answer is None:
            return
        if on:
            self.looking.paint_mask(self.answer, self.picture)
        else:
            self.looking.unpaint_mask(self.answer)

    def _redraw(self) -> None:
        if self.answer is not None:
            self.looking.redraw(self.answer)
