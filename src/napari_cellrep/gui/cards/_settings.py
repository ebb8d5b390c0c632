"""Card 4's settings of the network: those that leave its weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._parts import More, button, text

TITLE = "Settings of the network"


class NetworkSettings(More):
    """A form of the settings that a network can be given without being trained anew; hidden where there are none."""

    changed = Signal()

    def __init__(self) -> None:
        content = QWidget()
        super().__init__(TITLE, content)
        self.form: Form | None = None
        self._defaults: dict[str, Any] = {}  # of the network
        self._own: dict[str, Any] = {}  # of the weights, as the form gives them back
        self.words = text(
            "How cells are shown to the network and its numbers joined. Its weights stay as they are; cells "
            "that were embedded otherwise are embedded anew."
        )
        self.words.setStyleSheet("font-size: 11px")
        self.back = button("As it was made", self.reset, "The settings that came with the network")
        self._place = QVBoxLayout(content)
        self._place.setContentsMargins(0, 0, 0, 0)
        self._place.addWidget(self.words)
        self._place.addWidget(self.back)
        self.hide()

    def show_model(self, rules: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]) -> None:
        """Show another network.

        Parameters
        ----------
        rules : mapping
            All of its settings (`specs.field_rules`).
        own : mapping
            Those that its weights came with, where they are not the network's defaults.
        """
        if self.form is not None:
            self.form.hide()
            self.form.deleteLater()
            self.form = None
        free = {
            k: {**rule, "default": own.get(k, rule["default"])}
            for k, rule in rules.items()
            if rule.get("same_weights")
        }
        self._defaults = {k: rules[k]["default"] for k in free}
        self._own = {}
        if free:
            self.form = Form(free)
            self._own = self.form.value()
            self.form.changed.connect(self._on_changed)
            self._place.insertWidget(1, self.form)
        self._say()

    def value(self) -> dict[str, Any]:
        """What is set otherwise than it came with the weights."""
        return {k: v for k, v in self._now().items() if v != self._own[k]}

    def config(self, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What is set (or of `values`, what could be set here) otherwise than by default, for a network to be trained."""
        now = self._now() if values is None else values
        return {k: now[k] for k, v in self._defaults.items() if now.get(k, v) != v}

    def set_config(self, values: Mapping[str, Any]) -> None:
        """Show the settings of a network that is being trained; those it does not name are the defaults."""
        if self.form is not None:
            self.form.set_value({**self._defaults, **self.config(values)})

    def reset(self) -> None:
        """Show what came with the weights."""
        if self.form is not None:
            self.form.set_value(self._own)

    def _now(self) -> dict[str, Any]:
        return self.form.value() if self.form is not None else {}

    def _on_changed(self) -> None:
        self._say()
        self.changed.emit()

    def _say(self) -> None:
        n = len(self.value())
        self.set_title(f"{TITLE} ({n} changed)" if n else TITLE)
        self.back.setEnabled(bool(n))
