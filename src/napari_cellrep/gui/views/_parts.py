"""What the views beside the map have in common: how they listen to the session, their bars, and their boxes of choices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QRect, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen, QShowEvent
from qtpy.QtWidgets import (
    QBoxLayout,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)

from napari_cellrep.gui.views._words import column_words
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
    # Its buttons, sliders, numbers and lines that come back with the project, as all its boxes do.
    kept: tuple[str, ...] = ()

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__()
        self.session, self.canvas = session, canvas
        self._signals: tuple[tuple[Any, Callable[..., None]], ...] = ()
        self._marks_due = False

    def arrangement(self) -> dict[str, Any]:
        """What else comes back with the project, as plain values; empty where nobody has changed it."""
        return {}

    def arrange_as(self, kept: Mapping[str, Any]) -> None:
        """Arrange it as `arrangement` told; what does not fit is left out."""

    def mark(self) -> None:
        """Show what is selected."""

    def on_selected(self) -> None:
        """Mark what is selected now, or when somebody looks: a view on another tab must not delay the one in front."""
        self._marks_due = not self.isVisible()
        if not self._marks_due:
            self.mark()

    def showEvent(self, event: QShowEvent) -> None:
        """Mark what was selected while nobody looked."""
        super().showEvent(event)
        if self._marks_due:
            self._marks_due = False
            self.mark()

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


class ChoiceBox(QComboBox):
    """A box that says with … where its choice does not fit in; napari's style cuts it off in the middle of a letter."""

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw as always, with as much of the words as there is room for."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        room = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox, option, QStyle.SubControl.SC_ComboBoxEditField, self
        )
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideRight, room.width()
        )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)


def choice_box(tip: str, items: Sequence[str] = (), name: str = "", least_letters: int = 9) -> QComboBox:
    """A box that does not grow with its longest item; `name` is for screen readers (default: the tip)."""
    box = ChoiceBox()
    box.addItems(list(items))
    box.setToolTip(tip)
    box.setAccessibleName(name or tip)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(least_letters)
    return box


class Line(QLabel):
    """A line of words that never makes its view wider: it ends with … where it does not fit in, and says all when rested on."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw as much of the words as there is room for."""
        room = self.contentsRect()
        words = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, room.width())
        self.setToolTip(self.text() if words != self.text() else "")
        painter = QStylePainter(self)
        painter.drawItemText(
            room,
            Qt.AlignmentFlag.AlignVCenter,
            self.palette(),
            self.isEnabled(),
            words,
            self.foregroundRole(),
        )


def words_line() -> Line:
    """A line below a view's bar."""
    line = Line()
    line.setContentsMargins(6, 0, 6, 0)
    return line


def beside(places: Sequence[QRect], at: int, key: Qt.Key | int) -> int:
    """Which of several pictures an arrow key leads to from one of them: the nearest that way, else the same."""
    here, best, least = places[at].center(), at, float("inf")
    for i, place in enumerate(places):
        to = place.center() - here
        ahead, aside = {
            Qt.Key.Key_Left: (-to.x(), to.y()), Qt.Key.Key_Right: (to.x(), to.y()),
            Qt.Key.Key_Up: (-to.y(), to.x()), Qt.Key.Key_Down: (to.y(), to.x()),
        }[key]  # fmt: skip
        if ahead > 0 and ahead + 3 * abs(aside) < least:
            best, least = i, ahead + 3 * abs(aside)
    return best


def frame_focus(painter: QPainter, widget: QWidget) -> None:
    """Draw a frame about a painted widget while the keys are its own."""
    if widget.hasFocus():
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(widget.palette().text().color(), 1, Qt.PenStyle.DotLine))
        painter.drawRect(widget.rect().adjusted(0, 0, -1, -1))


def offer(box: QComboBox, items: Sequence[str], columns: Collection[str] = ()) -> None:
    """Offer other items, silently; the same choice if it is still there, else the first.

    Those that are columns of the cell table are said in words; `currentData` is their name, which the tooltip tells.
    """
    chosen = box.currentData() or box.currentText()
    box.blockSignals(True)
    box.clear()
    for i, item in enumerate(items):
        box.addItem(column_words(item) if item in columns else item, item)
        if item in columns:
            box.setItemData(i, f"column {item}", Qt.ItemDataRole.ToolTipRole)
    box.setCurrentIndex(items.index(chosen) if chosen in items else 0)
    box.blockSignals(False)
