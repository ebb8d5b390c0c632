"""What the colours of the map say: categories to hide and show, or a bar of numbers with two handles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QKeyEvent, QLinearGradient, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

from napari_cellrep.gui.views._raster import Colours, colours_of
from napari_cellrep.gui.views._tones import edge_on, faint_mark, faint_text
from napari_cellrep.gui.views._words import number_words
from napari_cellrep.session import NO_VALUE

LINES = 12
PAD = 8
SECOND_CLICK_MS = 250  # so long a click waits for a second one
GRAB_PX = 7
STEPS = 50  # of an arrow key, from one end of the bar to the other
SHOW_ALL = "show all"


@dataclass(frozen=True)
class _Line:
    """One line of the legend: a category, or something to click."""

    box: QRectF
    text: str
    category: str = ""  # empty for "show all" and "more"
    code: int = 0


class Legend(QWidget):
    """Painted over a corner of the map; what it is not asked for falls through to the map.

    A click on a category hides or shows it, a double-click shows it alone, or all again. Of numbers, two handles say
    where the colours begin and end; a double-click puts them back. With the focus in it (Tab): arrows, Space, Enter.
    """

    hidden_chosen = Signal(object)  # frozenset of categories
    reached = Signal()  # the pointer is over something that can be clicked
    limits_chosen = Signal(object)  # (low, high), or None for what they are by themselves

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.colours: Colours = colours_of(None, 0)
        self._title = ""
        self._hidden: frozenset[str] = frozenset()  # as it is drawn; the map follows
        self._chosen = self._hidden  # as it was before the click that may become a double-click
        self._first = 0
        self._lines: list[_Line] = []
        self._bar = QRectF()
        self._handle = -1  # the one that is dragged: 0 low, 1 high
        self._at = 0  # line or handle of the keyboard
        self._text, self._back, self._ends = QColor(), QColor(), ("", "")
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(SECOND_CLICK_MS)
        self._wait.timeout.connect(lambda: self.hidden_chosen.emit(self._hidden))
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName("Legend of the map")
        self.hide()

    # ---- what it shows ---------------------------------------------------------------------------

    def tell(self, title: str, colours: Colours, hidden: frozenset[str], ends: tuple[str, str]) -> None:
        """Take over what the colours say.

        Parameters
        ----------
        title : str
            "" for no legend at all.
        hidden : frozenset of str
            Categories that are hidden.
        ends : tuple of str
            Words before the lowest and after the highest number.
        """
        if title != self._title:  # a click that still waits was for another column
            self._first, self._at, self._handle = 0, 0, -1
            self._wait.stop()
        self._title, self.colours, self._ends = title, colours, ends
        if not self._wait.isActive():
            self._hidden = self._chosen = hidden
        self.setToolTip(
            "Drag a handle: where the colours begin and end. Double-click: back."
            if colours.values is not None
            else "Click a value to hide or show its cells. Double-click to see it alone, or all again."
        )
        self.arrange()

    def set_theme(self, background: tuple[int, int, int], text: QColor) -> None:
        """Take the colours of the map."""
        self._back, self._text = QColor(*background, 215), text
        self.update()

    @property
    def lines(self) -> dict[str, QRectF]:
        """Where the words stand that can be clicked."""
        return {line.text: line.box for line in self._lines}

    @property
    def handles(self) -> tuple[float, float]:
        """Where the handles stand on the bar, px from the left."""
        return self._px(self.colours.limits[0]), self._px(self.colours.limits[1])

    def arrange(self) -> None:
        """Find a place for everything."""
        parent = self.parentWidget()
        if not self._title or parent is None or not len(self.colours.codes):
            self.hide()
            return
        metrics = self.fontMetrics()
        line = metrics.height() + 2
        wide = metrics.horizontalAdvance(self._title)
        self._lines, y = [], PAD + line
        if self.colours.values is not None:
            bar_px = max(150, min(wide, parent.width() - 40))
            self._bar = QRectF(PAD + 2, y + 2, bar_px, 10)
            y += 20 + line
            wide = bar_px + 4
            texts = [(NO_VALUE, NO_VALUE, 0)] if (self.colours.codes == 0).any() else []
        else:
            texts = [(name, name, code) for name, code in self.colours.legend]
        most = max(1, min(LINES, (parent.height() - 16 - 2 * PAD) // line - 2))
        columns = min(3, -(-len(texts) // most)) if texts else 1
        room = columns * most
        if len(texts) > room:
            self._first = self._first if self._first < len(texts) else 0
            rest = len(texts) - self._first - (room - 1)
            texts = texts[self._first : self._first + room - 1]
            texts.append((f"{rest:,} more" if rest > 0 else "back to the first", "", 0))
        if self._hidden:
            texts.append((SHOW_ALL, "", 0))
        if texts:
            short = [metrics.elidedText(text, Qt.TextElideMode.ElideRight, 150) for text, _, _ in texts]
            step = max(metrics.horizontalAdvance(t) for t in short) + line + PAD
            high = -(-len(texts) // columns)
            for i, (text, name, code) in enumerate(texts):
                box = QRectF(PAD + step * (i // high), y + line * (i % high), step - 4, line)
                self._lines.append(_Line(box, text, name, code))
            wide, y = max(wide, columns * step - PAD), y + line * high
        self._at = min(self._at, max(0, len(self._lines) - 1 + 2 * (self.colours.values is not None)))
        self.setGeometry(8, 8, int(wide + 2 * PAD), int(y + PAD))
        self.show()
        self.update()

    def sizeHint(self) -> QSize:
        return self.size()

    # ---- numbers ---------------------------------------------------------------------------------

    def _px(self, value: float) -> float:
        low, high = self.colours.reach
        share = (value - low) / (high - low) if high > low else 0.0
        return float(self._bar.left() + np.clip(share, 0, 1) * self._bar.width())

    def _value(self, x: float) -> float:
        low, high = self.colours.reach
        return low + float(np.clip((x - self._bar.left()) / self._bar.width(), 0, 1)) * (high - low)

    def _move(self, handle: int, value: float) -> None:
        """Put a handle somewhere, short of the other one; where zero is the middle they move as one."""
        low, high = self.colours.limits
        reach = self.colours.reach
        least = (reach[1] - reach[0]) / 200
        if not least:
            return
        if self.colours.signed:
            far = max(abs(value), least)
            limits = (-far, far)
        elif handle == 0:
            limits = (min(value, high - least), high)
        else:
            limits = (low, max(value, low + least))
        self.limits_chosen.emit(limits)

    def _handle_at(self, at: QPointF) -> int:
        if self.colours.values is None or not self._bar.adjusted(-GRAB_PX, -4, GRAB_PX, 14).contains(at):
            return -1
        apart = [abs(at.x() - x) for x in self.handles]
        if min(apart) > GRAB_PX:
            return -1
        if apart[0] == apart[1]:  # one above the other: the side says which
            return int(at.x() > self.handles[0])
        return int(apart[1] < apart[0])

    # ---- categories ------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [name for name, _ in self.colours.legend] or [NO_VALUE]

    def _on_line(self, line: _Line) -> None:
        if line.category:
            self._hidden = self._hidden ^ {line.category}
            self._wait.start()
        elif line.text == SHOW_ALL:
            self._choose(frozenset())
        else:
            room = sum(bool(x.category) for x in self._lines)
            self._first = self._first + room if line.text.endswith("more") else 0
        self.arrange()

    def _isolate(self, name: str) -> None:
        """Show one alone; all again if it is alone already."""
        others = frozenset(self._names()) - {name}
        self._choose(others if self._chosen != others else frozenset())
        self.arrange()

    def _choose(self, hidden: frozenset[str]) -> None:
        self._wait.stop()
        self._hidden = hidden
        self.hidden_chosen.emit(hidden)

    def _line_at(self, at: QPointF) -> _Line | None:
        return next((line for line in self._lines if line.box.contains(at)), None)

    # ---- gestures --------------------------------------------------------------------------------

    def event(self, event: QEvent) -> bool:
        # Escape and the map's own keys go on to the map; these are the legend's while it has the focus.
        if event.type() == QEvent.Type.ShortcutOverride and event.key() == Qt.Key.Key_Space:
            event.accept()
            return True
        return bool(super().event(event))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        at = event.position()
        left = event.button() == Qt.MouseButton.LeftButton
        self._handle = self._handle_at(at) if left else -1
        line = self._line_at(at) if left else None
        if line is not None:
            self._on_line(line)
        elif self._handle < 0 and not (left and self._bar_at(at)):
            event.ignore()  # the map's

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        at = event.position()
        if self._handle >= 0:
            self._move(self._handle, self._value(at.x()))
        elif event.buttons():
            event.ignore()
        else:
            grab = self._handle_at(at) >= 0
            shape = Qt.CursorShape.SizeHorCursor if grab else Qt.CursorShape.PointingHandCursor
            if grab or self._line_at(at) is not None:
                self.setCursor(shape)
                self.reached.emit()
            else:
                self.unsetCursor()  # the map's
                event.ignore()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if self._handle >= 0:
            self._handle = -1
        else:
            event.ignore()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        line = self._line_at(event.position())
        if line is not None and line.category:
            self._isolate(line.category)
        elif line is not None:
            self._on_line(line)
        elif self._bar_at(event.position()):
            self._handle = -1
            self.limits_chosen.emit(None)
        else:
            event.ignore()

    def _bar_at(self, at: QPointF) -> bool:
        return self.colours.values is not None and self._bar.adjusted(-GRAB_PX, -4, GRAB_PX, 14).contains(at)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key, handles = event.key(), 2 * (self.colours.values is not None)
        step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(key, 0)
        way = {Qt.Key.Key_Right: 1, Qt.Key.Key_Left: -1}.get(key, 0)
        count = handles + len(self._lines)
        if step and count:
            self._at = (self._at + step) % count
        elif self._at < handles and way:
            low, high = self.colours.reach
            self._move(self._at, self.colours.limits[self._at] + way * (high - low) / STEPS)
        elif self._at < handles and key == Qt.Key.Key_Home:
            self.limits_chosen.emit(None)
        elif self._at >= handles and count and key == Qt.Key.Key_Space:
            self._on_line(self._lines[self._at - handles])
        elif self._at >= handles and count and key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            line = self._lines[self._at - handles]
            if line.category:
                self._isolate(line.category)
            else:
                self._on_line(line)
        else:
            super().keyPressEvent(event)
            return
        self.update()

    # ---- looks -----------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), self._back)
        metrics = painter.fontMetrics()
        painter.setPen(self._text)
        painter.drawText(QPointF(PAD, PAD + metrics.ascent()), self._title)
        handles = 2 * (self.colours.values is not None)
        if handles:
            self._draw_bar(painter)
        for i, line in enumerate(self._lines):
            self._draw_line(painter, line)
            if self.hasFocus() and self._at - handles == i:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(self._text, 1, Qt.PenStyle.DotLine))
                painter.drawRect(line.box.adjusted(-3, 0.5, 2, -1.5))

    def _draw_line(self, painter: QPainter, line: _Line) -> None:
        metrics, box = painter.fontMetrics(), line.box
        hidden = line.category in self._hidden
        font = painter.font()
        font.setStrikeOut(hidden)
        font.setUnderline(not line.category)
        painter.setFont(font)
        if line.category:
            shade = QColor(*(int(v) for v in self.colours.palette[line.code]))
            painter.setPen(QPen(edge_on(shade, self._back), 1.5))
            painter.setBrush(Qt.BrushStyle.NoBrush if hidden else shade)
            painter.drawEllipse(QPointF(box.left() + 5, box.top() + box.height() / 2 - 1), 4.5, 4.5)
        painter.setPen(faint_text(self._text) if hidden else self._text)
        left = box.left() + box.height()
        shown = metrics.elidedText(line.text, Qt.TextElideMode.ElideRight, int(box.right() - left) + 2)
        painter.drawText(QPointF(left, box.top() + metrics.ascent()), shown)
        font.setStrikeOut(False)
        font.setUnderline(False)
        painter.setFont(font)

    def _draw_bar(self, painter: QPainter) -> None:
        bar, metrics, colours = self._bar, painter.fontMetrics(), self.colours
        left, right = self.handles
        gradient = QLinearGradient(QPointF(left, 0), QPointF(max(right, left + 1), 0))
        for share in np.linspace(0, 1, 9):
            r, g, b = (int(v) for v in colours.palette[1 + round(share * 254)])
            gradient.setColorAt(float(share), QColor(r, g, b))
        painter.fillRect(bar, gradient)  # beyond the handles it keeps the colours of the ends
        painter.setPen(QPen(faint_mark(self._text), 1))
        painter.drawRect(bar)
        for i, x in enumerate((left, right)):
            foot = bar.bottom() + 1
            mark = QPolygonF([QPointF(x, foot - 3), QPointF(x - 5, foot + 5), QPointF(x + 5, foot + 5)])
            painter.setPen(QPen(self._back, 1))
            painter.setBrush(self._text)
            painter.drawPolygon(mark)
            painter.setPen(QPen(self._text, 1))
            painter.drawLine(QPointF(x, bar.top() - 1), QPointF(x, foot))
            if self.hasFocus() and self._at == i:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(self._text, 1, Qt.PenStyle.DotLine))
                painter.drawRect(QRectF(x - 7, bar.top() - 2, 14, 19))
        low, high = (number_words(v) for v in colours.limits)
        if self._ends[0]:
            low, high = f"{self._ends[0]} {low}", f"{high} {self._ends[1]}"
        painter.setPen(self._text)
        y = bar.bottom() + 8 + metrics.ascent()
        high_px = metrics.horizontalAdvance(high)
        # Below their handles, but inside the box and not over one another.
        x_high = min(max(right - high_px / 2, bar.left()), bar.right() - high_px)
        x_low = min(max(left - metrics.horizontalAdvance(low) / 2, bar.left()), bar.right())
        gap = x_high - (x_low + metrics.horizontalAdvance(low) + 6)
        if gap < 0:
            x_low = max(bar.left(), x_low + gap)
            x_high = max(x_high, x_low + metrics.horizontalAdvance(low) + 6)
        painter.drawText(QPointF(x_low, y), low)
        painter.drawText(QPointF(x_high, y), high)
