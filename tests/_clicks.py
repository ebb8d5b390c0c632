"""The CellRep dock as a person uses it: gestures that several test files share."""

from __future__ import annotations

import itertools

from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

LONG = 60_000


def click(widget, at=None):
    """Press where a person can: only what is seen and enabled."""
    assert widget.isEnabled(), widget.toolTip()
    assert widget.isVisible()
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=at or QPoint(10, widget.height() // 2))


def hover(qtbot, widget, at, seen, timeout=20_000):
    """Keep the pointer moving about a place, as a hand does, until the window has seen it.

    A single jump of the pointer is lost when the window system is not ready for it.
    """
    turns = itertools.cycle((QPoint(1, 1), QPoint(0, 0)))

    def moved():
        spot = at + next(turns)
        qtbot.mouseMove(widget, spot)
        if not seen():  # a window of an earlier test may lie over it and get the pointer's events
            place, none = QPointF(spot), Qt.MouseButton.NoButton
            there = QPointF(widget.mapToGlobal(spot))
            move = QMouseEvent(
                QEvent.Type.MouseMove, place, there, none, none, Qt.KeyboardModifier.NoModifier
            )
            QApplication.sendEvent(widget, move)
        return seen()

    qtbot.waitUntil(moved, timeout=timeout)


def click_item(view, row):
    """Click a row of a list."""
    view.scrollToItem(view.item(row))
    at = view.visualItemRect(view.item(row)).center()
    QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=at)


def choose(box, words):
    """Choose an entry of a combo box as a person does, by its text."""
    found = [i for i in range(box.count()) if words in box.itemText(i)]
    assert found, [box.itemText(i) for i in range(box.count())]
    box.setCurrentIndex(found[0])
    box.activated.emit(found[0])


def card(dock, name):
    """Open a card as a person does, and give it."""
    if not dock.cards[name].header.isChecked():
        click(dock.cards[name].header)
        QTest.qWait(50)  # until it has its height
    return dock.cards[name]


def run(qtbot, dock, widget, timeout=LONG):
    """Click a button and wait until its jobs have ended; returns what the strip says then."""
    click(widget)
    idle(qtbot, dock, timeout)
    return dock.strip.message.text()


def idle(qtbot, dock, timeout=LONG):
    """Wait until no job runs or waits, and no project is being read."""
    qtbot.waitUntil(
        lambda: dock.runner.current is None and not dock.runner.queued and not dock.opening, timeout=timeout
    )
    qtbot.wait(50)


def opened(qtbot, dock, project):
    """The project open in the dock, a field on the canvas, the lists filled."""
    dock.open_project(project.root)
    qtbot.waitUntil(lambda: bool(dock.shown_field()), timeout=LONG)
    qtbot.waitUntil(lambda: dock.cards["segment"].method.count() > 0, timeout=LONG)
    qtbot.waitUntil(lambda: dock.cards["model"].model.count() > 0, timeout=LONG)
    return dock
