"""Boxes of choices as the views beside the map have them."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import QComboBox


def choice_box(tip: str, items: Sequence[str] = (), name: str = "", least_letters: int = 9) -> QComboBox:
    """A box that does not grow with its longest item; `name` is for screen readers (default: the tip)."""
    box = QComboBox()
    box.addItems(list(items))
    box.setToolTip(tip)
    box.setAccessibleName(name or tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(least_letters)
    return box


def offer(box: QComboBox, items: list[str]) -> None:
    """Offer other items, silently; the same choice if it is still there, else the first."""
    chosen = box.currentText()
    box.blockSignals(True)
    box.clear()
    box.addItems(items)
    box.setCurrentIndex(items.index(chosen) if chosen in items else 0)
    box.blockSignals(False)
