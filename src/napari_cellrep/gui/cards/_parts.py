"""What every card is made of: a header that says its state, and widgets that do not widen the dock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._help import show_help

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# Mark → (sign, words): never colour alone.
MARKS = {
    "done": ("✓", "done"),
    "running": ("●", "running"),
    "ready": ("○", "ready"),
    "needs": ("⚠", "needs you"),
    "stale": ("↻", "out of date"),
    "": ("", ""),
}


def text(words: str = "", tip: str = "", least_px: int = 250) -> QLabel:
    """A paragraph that wraps instead of making the dock wider; its height is reckoned for `least_px`."""
    label = QLabel(words)
    label.setWordWrap(True)
    label.setToolTip(tip)
    label.setMinimumWidth(least_px)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def button(words: str, slot: Any, tip: str = "", primary: bool = False) -> QPushButton:
    """A button; the card's main one is bold."""
    made = QPushButton(words)
    made.setToolTip(tip)
    made.setMinimumWidth(60)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    if primary:
        font = made.font()
        font.setBold(True)
        made.setFont(font)
    made.clicked.connect(lambda *_: slot())
    return made


def combo(tip: str = "") -> QComboBox:
    """A combo box that neither widens the dock nor turns when the dock is scrolled."""
    made = QComboBox()
    made.setToolTip(tip)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    made.setMinimumWidth(80)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    made.wheelEvent = lambda event: event.ignore()
    return made


def refill(box: QComboBox, items: Sequence[tuple[str, Any]], keep: Any = None) -> None:
    """Fill a combo box with (text, value) and stay where it was (or at `keep`), silently."""
    keep = box.currentData() if keep is None else keep
    box.blockSignals(True)
    box.clear()
    for words, value in items:
        box.addItem(words, value)
    values = [value for _, value in items]
    box.setCurrentIndex(values.index(keep) if keep in values else 0 if items else -1)
    box.blockSignals(False)


def ask(parent: QWidget, title: str, question: str, more: str, answer: str, then: Callable[[], None]) -> None:
    """Ask before something that cannot be taken back; only the button `answer` does `then`."""
    box = QMessageBox(parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setWindowTitle(title)
    box.setText(question)
    box.setInformativeText(more)
    yes = box.addButton(answer, QMessageBox.ButtonRole.AcceptRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.buttonClicked.connect(lambda pressed: then() if pressed is yes else None)
    box.open()


def while_open(slot: Callable[..., None]) -> Callable[..., None]:
    """A slot for an answer of the worker, which may come after the widget that asked has been closed."""

    def call(*args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # "wrapped C/C++ object has been deleted"
            slot(*args)

    return call


def keep_on_screen(dialog: QWidget) -> None:
    """Make a dialog as large as what is in it, but no larger than the screen, and move it so that all of it is seen."""
    dialog.adjustSize()
    into_sight(dialog)


def into_sight(dialog: QWidget) -> None:
    """Move a dialog that has grown so that all of it is seen, and make it no larger than the screen."""
    if (layout := dialog.layout()) is not None:
        layout.activate()  # as large as it is going to be
    screen = dialog.screen().availableGeometry()
    dialog.resize(dialog.size().boundedTo(screen.size()))
    frame = dialog.frameGeometry()
    x = max(screen.left(), min(frame.left(), screen.right() + 1 - frame.width()))
    y = max(screen.top(), min(frame.top(), screen.bottom() + 1 - frame.height()))
    dialog.move(x, y)


class More(QWidget):
    """What most people need not see: closed under one line."""

    def __init__(self, title: str, content: QWidget):
        super().__init__()
        self.content, self._title = content, title
        self.button = QToolButton()
        self.button.setText(f"▸ {title}")
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(content)
        content.hide()
        self.button.toggled.connect(self._toggle)

    def set_title(self, title: str) -> None:
        """Say something else in the line."""
        self._title = title
        self._toggle(self.button.isChecked())

    def _toggle(self, on: bool) -> None:
        self.content.setVisible(on)
        self.button.setText(f"{'▾' if on else '▸'} {self._title}")


class _State(QLabel):
    """Words at the right of a line; where there is no room their end is cut off: a number without its beginning is another."""

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw as many of the words as there is room for."""
        painter = QPainter(self)
        painter.setPen(self.palette().windowText().color())
        painter.drawText(
            QRectF(self.rect()), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, self.seen()
        )

    def seen(self) -> str:
        """The words as they are drawn."""
        return self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, self.width())


class Card(QWidget):
    """A header that says the state in a glance, and a body that is open for one card at a time."""

    opened = Signal(object)

    def __init__(self, dock: CellRepDock, number: int, title: str):
        super().__init__()
        self.dock, self.title = dock, title
        self.header = QPushButton()
        self.header.setCheckable(True)
        self.header.setMinimumHeight(30)
        self.header.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        line = QHBoxLayout(self.header)
        line.setContentsMargins(6, 0, 4, 0)
        self._arrow, self._status, self._mark = QLabel("▸"), _State(), QLabel()
        name = QLabel(f"{number} {title}")
        font = name.font()
        font.setBold(True)
        name.setFont(font)
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._mark.setFixedWidth(18)
        self.help = QToolButton()
        self.help.setText("?")
        self.help.setAutoRaise(True)
        self.help.setStyleSheet("background: transparent")
        self.help.setToolTip(f"What this card does: {title}")
        self.help.clicked.connect(lambda: show_help(f"{number} {title}", dock))
        for label in (self._arrow, name, self._status, self._mark):
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            label.setStyleSheet("background: transparent")
            line.addWidget(label, 1 if label is self._status else 0)
        line.addWidget(self.help)
        self.body = QWidget()
        self.layout_ = QVBoxLayout(self.body)
        self.layout_.setContentsMargins(10, 4, 4, 10)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(self.header)
        outer.addWidget(self.body)
        self.body.hide()
        self.header.toggled.connect(self._on_toggled)

    def set_open(self, is_open: bool) -> None:
        """Open or close the body."""
        self.header.setChecked(is_open)

    def _on_toggled(self, on: bool) -> None:
        self.body.setVisible(on)
        self._arrow.setText("▾" if on else "▸")
        if on:
            self.opened.emit(self)

    def set_status(self, words: str, mark: str = "") -> None:
        """Say the state: what, how many, and a mark of `MARKS`."""
        sign, meaning = MARKS[mark]
        self._status.setText(words)
        self._mark.setText(sign)
        self.header.setToolTip(f"{words} ({meaning})" if meaning else words)
        self.header.setAccessibleName(f"{self.title}: {words} {meaning}")

    @property
    def status(self) -> str:
        """What the closed line says, mark included."""
        return f"{self._status.text()} {self._mark.text()}".strip()

    # shortcuts
    @property
    def session(self) -> Any:
        return self.dock.session

    @property
    def project(self) -> Any:
        return self.dock.session.project

    def refresh(self) -> None:
        """Show the project as it is now."""

    def running(self, *steps: str) -> bool:
        """Whether a job of one of these steps runs or waits."""
        runner = self.dock.runner
        active = [*runner.queued, *([runner.current] if runner.current else [])]
        return any(handle.step.split(".")[0] in steps for handle in active)


def duration(seconds: float) -> str:
    """Say a time as people do: "12 s", "6 min", "1.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
