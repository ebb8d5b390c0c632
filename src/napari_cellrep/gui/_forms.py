"""A form from the plain description of a config (`specs.field_rules`, `registry.describe`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from magicgui.widgets import create_widget
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QWidget

_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "tuple": str}
_LARGEST = 2**31 - 1  # where a setting has no upper bound


class Form(QWidget):
    """One row per setting, with its label, tooltip and bounds.

    Parameters
    ----------
    rules : mapping
        Name → {"type", "default", "label", "help", "min", "max", "step", "choices"}.
    """

    changed = Signal()

    def __init__(self, rules: Mapping[str, Mapping[str, Any]], parent: QWidget | None = None):
        super().__init__(parent)
        self._kinds = {name: rule["type"] for name, rule in rules.items()}
        self._widgets = {name: _widget(rule) for name, rule in rules.items()}
        self._helps = {name: str(rule.get("help", "")) for name, rule in rules.items()}
        layout = QGridLayout(self)  # a form layout cuts off words that need three lines
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(0, 3)
        layout.setColumnStretch(1, 2)
        for row, (name, widget) in enumerate(self._widgets.items()):
            label = QLabel(str(rules[name].get("label") or name.replace("_", " ").capitalize()))
            label.setWordWrap(True)
            label.setToolTip(self._helps[name])
            widget.native.setToolTip(label.toolTip())
            widget.native.setAccessibleName(label.text())
            widget.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            widget.native.setMinimumWidth(110)
            widget.native.setFocusPolicy(
                Qt.FocusPolicy.StrongFocus
            )  # scrolling the dock must not turn numbers
            widget.changed.connect(self._announce)
            label.setMinimumWidth(90)
            layout.addWidget(label, row, 0)
            layout.addWidget(widget.native, row, 1)

    def value(self) -> dict[str, Any]:
        """The settings as plain values: what `specs.make_config` takes."""
        return {name: self._read(name) for name in self._widgets}

    def set_value(self, values: Mapping[str, Any]) -> None:
        """Show these settings; names that the form does not have are left out."""
        for name, value in values.items():
            if name in self._widgets:
                given = (
                    ", ".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
                )
                self._widgets[name].value = given

    def disable(self, name: str, why: str) -> None:
        """Take one setting out of use, and say why at it; "" gives it back."""
        if name in self._widgets:
            native = self._widgets[name].native
            native.setEnabled(not why)
            native.setToolTip(why or self._helps[name])

    def _read(self, name: str) -> Any:
        value = self._widgets[name].value
        if self._kinds[name] == "tuple":
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def _announce(self, _: Any = None) -> None:
        self.changed.emit()


def _widget(rule: Mapping[str, Any]) -> Any:
    kind, default = _TYPES[rule["type"]], rule["default"]
    options: dict[str, Any] = {}
    if rule.get("choices"):
        options = {"choices": list(rule["choices"])}
    elif kind in (int, float):
        options = {"min": rule.get("min", -_LARGEST), "max": rule.get("max", _LARGEST), "step": _step(rule)}
    if rule["type"] == "tuple":
        default = ", ".join(default)
    widget = create_widget(annotation=kind, value=default, options=options)
    if kind is float and "choices" not in rule:
        # As many decimals as the smallest number in sight needs: 1e-3 must not read 0.0.
        numbers = [options["step"], abs(float(default)), abs(float(rule.get("min", 0)))]
        widget.native.setDecimals(max(_decimals(n) for n in numbers))
        widget.value = default
    return widget


def _step(rule: Mapping[str, Any]) -> float:
    if "step" in rule or rule["type"] == "int":
        return rule.get("step", 1)
    size = abs(float(rule["default"])) or 1.0
    return 10.0 ** (math.floor(math.log10(size)) - 1)


def _decimals(number: float) -> int:
    """Decimals that write `number` without loss, at most 8: 2 for 0.35, 5 for 1e-5."""
    text = f"{number:.8f}".rstrip("0")
    return len(text.partition(".")[2])
