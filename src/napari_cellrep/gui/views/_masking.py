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
        taught = answer.looks[0]["numbers"]["taught"]
        self.share.setToolTip(
            "Which part of all patches of the network's window is hidden. Patches beyond the image, or around a cell that is "
            "smaller than the window, count too; how many of those with a part of the image were hidden is said above.\n"
            + (
                f"In the paper's training {taught:.0%} of them are hidden."
                if taught
                else f"{answer.title} was not taught with hidden patches: what it makes of them says what it copies, not what "
                "it expects."
            )
        )
        one = answer.hidden is not None and len(answer.hidden) == 1
        many = "A mask is painted for one cell; right-click a single one."
        painted = answer.mask is not None
        for item, why, tip in (
            (self.others, "", "Hides this part of the patches, chosen anew at random, and redraws"),
            (
                self.paint, many if answer.hidden is None else "",
                "A layer over the cell: paint patches to hide them, erase them to show them, then press Redraw. "
                + ("They are hidden in all channels at once." if one else
                   "It holds those of the channel that is shown; every channel has its own."),
            ),
            (self.again, "" if painted else "Paint the mask first.", "Redraws with the painted mask"),
        ):  # fmt: skip
            item.setEnabled(not why)
            item.setToolTip(why or tip)
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
