"""Card 4's row of small pictures: one cell as the chosen network gets it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_cellrep.gui.cards._parts import text, while_open
from napari_cellrep.gui.views._sheet import grey_image
from napari_cellrep.gui.views._tiles import sharp_pixmap

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

WAIT_MS = 250  # the pointer runs over cells faster than anybody looks at them
MOST_KEPT = 64
PER_ROW = 5


class Sees(QWidget):
    """What the network sees of one cell, asked of the worker; an answer to an older question is dropped.

    Parameters
    ----------
    dock : CellRepDock
    """

    def __init__(self, dock: CellRepDock):
        super().__init__()
        self.dock = dock
        self.caption = text()
        self.words = text()
        self.words.setStyleSheet("font-size: 11px")
        self.pictures: list[QLabel] = []
        self._box = QWidget()
        self._grid = QGridLayout(self._box)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(2)
        self._grid.setHorizontalSpacing(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 2, 0, 2)
        layout.setSpacing(3)
        layout.addWidget(self.caption)
        layout.addWidget(self._box)
        layout.addWidget(self.words)
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._cells: Any = None
        self._wanted: tuple[Any, ...] | None = None  # the question that the pictures should answer
        self._failed = False  # the last answer was an error: it may be another one next time
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(WAIT_MS)
        self._timer.timeout.connect(self._ask)
        self.hide()

    def look(self, model: str, channels: list[str], cell_id: str, settings: Mapping[str, Any]) -> None:
        """Show a cell as a model gets it under settings of its own; "" for the model: show nothing."""
        session = self.dock.session
        if session.cells is not self._cells:  # measured anew: pictures of before may be of other outlines
            self._cells = session.cells
            self._kept.clear()
            self._wanted = None
        question = (
            (str(session.project.root), model, tuple(channels), cell_id, tuple(sorted(settings.items())))
            if model
            else None
        )
        if question == self._wanted and not self._failed:
            return
        self._wanted, self._failed = question, False
        self._timer.stop()
        if question is None:
            self.hide()
        elif question in self._kept:
            self._show(self._kept[question])
        else:
            self._timer.start()

    def _ask(self) -> None:
        question = self._wanted
        if question is None or self.dock.runner.closed:
            return
        if self.isHidden():
            self._say("What the model sees…", "")
        root, model, channels, cell_id, settings = question
        self.dock.runner.ask(
            "preview.what_it_sees", root, while_open(lambda seen: self._answer(question, seen)),
            while_open(lambda sentence: self._answer(question, sentence)),
            model=model, channels=list(channels), cell_id=cell_id, settings=dict(settings),
        )  # fmt: skip

    def _answer(self, question: tuple[Any, ...], answer: Any) -> None:
        if not isinstance(answer, str):
            self._kept[question] = answer
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        if question == self._wanted:
            self._failed = isinstance(answer, str)
            self._show(answer)

    def _show(self, answer: Mapping[str, Any] | str) -> None:
        if isinstance(answer, str):
            self._say("What the model sees", f"⚠ {answer}")
            return
        self._clear()
        planes = answer["pictures"]
        side = 92 if len(planes) <= 3 else 54
        for i, (plane, name, (low, high)) in enumerate(
            zip(planes, answer["names"], answer["ranges"], strict=True)
        ):
            picture = QLabel()
            picture.setFixedSize(side, side)
            picture.setPixmap(sharp_pixmap(grey_image(plane), side, self.devicePixelRatioF()))
            picture.setToolTip(f"{name}: values from {low:.3g} to {high:.3g}")
            picture.setAccessibleName(f"What the model sees: {name}")
            caption = QLabel(picture.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, side))
            caption.setToolTip(name)
            row, column = divmod(i, PER_ROW)
            self._grid.addWidget(picture, 2 * row, column)
            self._grid.addWidget(caption, 2 * row + 1, column)
            self.pictures.append(picture)
        self._grid.setColumnStretch(PER_ROW, 1)
        # A height of its own: paragraphs that wrap let Qt take it from the pictures.
        lines = -(-len(planes) // PER_ROW)
        self._box.setFixedHeight(lines * (side + self.fontMetrics().height() + 6))
        self._say(f"What the model sees of cell {answer['cell_id']}", answer["words"], clear=False)

    def _say(self, caption: str, words: str, clear: bool = True) -> None:
        if clear:
            self._clear()
            self._box.setFixedHeight(0)
        self.caption.setText(caption)
        self.words.setText(words)
        self.words.setVisible(bool(words))
        self.show()

    def _clear(self) -> None:
        self.pictures = []
        while (item := self._grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
