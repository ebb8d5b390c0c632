"""A tour for the first start: what to press next on the sample, one sentence at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.settings import get_plugin_settings
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFrame, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_cellrep.gui.cards._parts import text
from napari_cellrep.gui.views._tones import selection_beside

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

_LOOK_EVERY_MS = 300


@dataclass(frozen=True)
class Step:
    """One thing to do: where, what to say, and how to know that it was done."""

    card: str
    words: str
    done: Callable[[Any], bool]  # of the session
    target: Callable[[CellRepDock], QWidget | None]


STEPS = (
    Step(
        "images",
        "Press <b>Open the sample</b>: 24 wells of cells in which a drug moves a green protein into the nucleus.",
        lambda s: s.project is not None,
        lambda dock: dock.cards["images"].sample,
    ),
    Step(
        "segment",
        "Now the cells have to be found. Press the bold button: it outlines every nucleus in all wells.",
        lambda s: s.n_cells > 0,
        lambda dock: dock.cards["segment"].all,
    ),
    Step(
        "model",
        "A model turns each cell into numbers. Choose <b>Measurements</b>, which need no training, and press "
        "<b>Embed</b>. Card 3 says which cells are left out, and why.",
        lambda s: bool(s.embeddings),
        lambda dock: dock.cards["model"].embed,
    ),
    Step(
        "explore",
        "Press <b>Make the map</b>: cells that look alike will lie near each other.",
        lambda s: s.map_coordinates() is not None,
        lambda dock: dock.cards["explore"].make,
    ),
    Step(
        "explore",
        "Draw around some points on the map with the mouse held down: their cells light up orange in the image.",
        lambda s: s.n_selected > 1,
        lambda dock: dock.cards["explore"].show_,
    ),
    Step(
        "explore",
        "Rest on a point to see its cell, then click it: the image goes to that cell, also in another well.",
        lambda s: s.focus >= 0,
        lambda dock: None,
    ),
)
_END = "That is the way from images to odd cells. Your own images begin at card 1."


class Tour(QFrame):
    """Offers a tour once; shows a step and marks its button until the step is done.

    Parameters
    ----------
    dock : CellRepDock
    """

    def __init__(self, dock: CellRepDock):
        super().__init__()
        self.dock = dock
        self.step = -1  # not begun
        self._marked: tuple[QWidget, str] | None = None
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.words = text(least_px=200)
        self.go = QPushButton("Show me")
        self.go.clicked.connect(self.begin)
        self.leave = QPushButton("No, thanks")
        self.leave.clicked.connect(self.end)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.go)
        buttons.addWidget(self.leave)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.addWidget(self.words)
        layout.addLayout(buttons)
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_EVERY_MS)
        self._timer.timeout.connect(self._look)
        self.offer(get_plugin_settings("napari-cellrep").help.offer_tour)

    def offer(self, is_offered: bool) -> None:
        """Ask whether the tour is wanted."""
        self.words.setText("New here? A tour in six short steps, on the sample.")
        self.setVisible(is_offered)

    def begin(self) -> None:
        """Start at the first step that is still to do."""
        self.go.hide()
        self.leave.setText("End the tour")
        self.show()
        self.step = 0
        self._show()
        self._timer.start()

    def end(self) -> None:
        """Leave, and do not offer it again; *Help* above the cards has it."""
        self._timer.stop()
        self._mark(None)
        self.step = -1
        self.hide()
        self.go.show()
        self.leave.setText("No, thanks")
        get_plugin_settings("napari-cellrep").help.offer_tour = False

    def _look(self) -> None:
        """Go on once what a step asks for is there."""
        before = self.step
        while self.step < len(STEPS) and STEPS[self.step].done(self.dock.session):
            self.step += 1
        if self.step != before:
            self._show()

    def _show(self) -> None:
        if self.step >= len(STEPS):
            self._timer.stop()
            self._mark(None)
            self.words.setText(_END)
            self.leave.setText("Close")
            return
        step = STEPS[self.step]
        self.words.setText(f"{self.step + 1} of {len(STEPS)} · {step.words}")
        self.dock.open_card(step.card)
        self._mark(step.target(self.dock))

    def _mark(self, target: QWidget | None) -> None:
        if self._marked is not None:
            widget, before = self._marked
            widget.setStyleSheet(before)
        self._marked = None
        if target is not None:
            self._marked = (target, target.styleSheet())
            orange = selection_beside(target.palette().windowText().color()).name()
            target.setStyleSheet(f"{target.styleSheet()}border: 2px solid {orange};")
