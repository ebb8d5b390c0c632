"""What the views beside the map have in common: how they listen to the session, their bars, and their boxes of choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QSize
from qtpy.QtWidgets import QBoxLayout, QComboBox, QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_cellrep.session import Session


class CellView(QWidget):
    """A view of the session's cells, on one of the tabs beside the map.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Says how the viewer shows the channels, and what a click, a double-click and the menu do.
    """

    title = ""  # of the tab

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__()
        self.session, self.canvas = session, canvas
        self._signals: tuple[tuple[Any, Callable[..., None]], ...] = ()

    def listen(self, *signals: tuple[Any, Callable[..., None]]) -> None:
        """Connect (signal of the session, slot) until `disconnect_session`."""
        self._signals = signals
        for signal, slot in signals:
            signal.connect(slot)

    def disconnect_session(self) -> None:
        """Listen no more; views with a thread let it end as well."""
        for signal, slot in self._signals:
            signal.disconnect(slot, missing_ok=True)


class TwoHalves(QWidget):
    """Two halves of a tool bar, side by side where there is room, else one below the other.

    One long line would forbid napari's window to be narrower than it, on a small screen also wider than the screen.
    """

    def __init__(self, left: QHBoxLayout, right: QHBoxLayout) -> None:
        super().__init__()
        self.halves = (left, right)
        self.box = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self.box.setContentsMargins(4, 2, 4, 2)
        self.box.setSpacing(3)
        for half in self.halves:
            half.setSpacing(3)
            self.box.addLayout(half)

    def minimumSizeHint(self) -> QSize:
        """As wide as the wider half."""
        margins = self.box.contentsMargins()
        wide = max(half.minimumSize().width() for half in self.halves) + margins.left() + margins.right()
        return QSize(wide, self.box.minimumSize().height())

    def event(self, event: QEvent) -> bool:
        """Choose one line or two when the room changes, or what is in the bar."""
        if event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            margins = self.box.contentsMargins()
            needed = sum(half.minimumSize().width() for half in self.halves) + self.box.spacing()
            fits = needed + margins.left() + margins.right() <= self.width()
            wanted = QBoxLayout.Direction.LeftToRight if fits else QBoxLayout.Direction.TopToBottom
            if self.box.direction() != wanted:
                self.box.setDirection(wanted)
                self.updateGeometry()
        return super().event(event)


def choice_box(tip: str, items: Sequence[str] = (), name: str = "", least_letters: int = 9) -> QComboBox:
    """A box that does not grow with its longest item; `name` is for screen readers (default: the tip)."""
    box = QComboBox()
    box.addItems(list(items))
    box.setToolTip(tip)
    box.setAccessibleName(name or tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(least_letters)
    return box


def words_line() -> QLabel:
    """A line of words that never makes its view wider."""
    line = QLabel()
    line.setContentsMargins(6, 0, 6, 0)
    line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return line


def offer(box: QComboBox, items: list[str]) -> None:
    """Offer other items, silently; the same choice if it is still there, else the first."""
    chosen = box.currentText()
    box.blockSignals(True)
    box.clear()
    box.addItems(items)
    box.setCurrentIndex(items.index(chosen) if chosen in items else 0)
    box.blockSignals(False)
