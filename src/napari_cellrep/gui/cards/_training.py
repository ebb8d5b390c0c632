"""Card 4's training: its settings, its start, and how it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._parts import More, button, duration, text
from napari_cellrep.jobs import Progress

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.model import ModelCard


class TrainingPanel(QWidget):
    """Train the network that is chosen in card 4 on the project's good cells.

    Parameters
    ----------
    card : ModelCard
        Says which network, which channels and which device.
    """

    def __init__(self, card: ModelCard):
        super().__init__()
        self.card = card
        self.train = button(
            "Train", self.start, "Learns from your cells, without labels; you can stop and go on later"
        )
        self.loss = text(
            tip="Loss: how wrong the network's predictions still are; training has learned when it no longer falls"
        )
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of the trained model")
        self.form: Form | None = None
        settings = QWidget()
        self._place = QVBoxLayout(settings)
        self._place.setContentsMargins(0, 0, 0, 0)
        self._place.addWidget(self.name)
        self.more = More("Training", settings)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for item in (self.train, self.loss, self.more):
            layout.addWidget(item)

    def show_model(self, rules: Mapping[str, Any] | None, name: str) -> None:
        """Show the settings of another network; None for one that cannot be trained."""
        if self.form is not None:
            self.form.hide()
            self.form.deleteLater()
            self.form = None
        if rules:
            self.form = Form(rules)
            self.form.set_value(
                {"max_seconds": 300.0}
            )  # a first result while you wait; 0 takes the bound away
            self.form.changed.connect(self.card.refresh)
            self._place.addWidget(self.form)
            self.name.setText(name)

    def refresh(self, can: bool) -> None:
        """Say what the button will do; `can` is whether the card is ready for it."""
        self.setVisible(self.form is not None)
        self.train.setEnabled(can)
        further = " further" if self.card.trained else ""
        self.train.setText(f"Train{further} on {self.card.n_good():,} cells{self._limit()}")
        self.loss.setVisible(bool(self.loss.text()))

    def _limit(self) -> str:
        seconds = self._max_seconds()
        return f" (at most {duration(seconds)})" if seconds else ""

    def _max_seconds(self) -> float:
        return self.form.value().get("max_seconds", 0) if self.form else 0

    def start(self) -> None:
        """Train the chosen network on the project's good cells."""
        card = self.card
        model, network = card.choice()
        self.loss.setText("")
        handle = card.dock.submit(
            "train.train", f"Training on {card.n_good():,} cells", then=self._trained, model=network,
            name=self.name.text().strip() or model, training=self.form.value() if self.form else None,
            channels=card.channels(), device=card.dock.device(),
        )  # fmt: skip
        handle.limit_s = self._max_seconds()
        handle.progressed.connect(self._show_loss)
        handle.ended.connect(card.refresh)

    def _trained(self, folder: Any) -> None:
        name = Path(folder).name
        self.card.choose(name)
        self.card.dock.strip.say(f"✓ {name} is trained; embed the cells with it.")

    def _show_loss(self, progress: Progress) -> None:
        if "loss" in progress.metrics:
            first = self.loss.property("first")
            if not self.loss.text():
                first = progress.metrics["loss"]
                self.loss.setProperty("first", first)
            self.loss.setText(f"Loss {progress.metrics['loss']:.4f} (began at {first:.4f})")
            self.loss.show()
