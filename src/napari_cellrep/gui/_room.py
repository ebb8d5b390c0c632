"""Height for the Explore panel: in a low window napari's two panels on the left share one place, as tabs."""

from __future__ import annotations

import weakref
from typing import Any, cast

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

LEAST_PX = 250  # of the panel: its bars, and a map of 200
CONTROLS_PX = 350  # of the layer controls, at least, once a layer of cells is there


class LeftColumn(QObject):
    """Lays napari's panels on the left over each other while the window is too low for them above the Explore panel.

    One above the other they ask for more than 500 px; what is left of a laptop's screen is no map, and the window would
    grow beyond the screen. Once there is room, or the panel is gone, they stand as before. What a person has arranged in
    another way stays so.

    Parameters
    ----------
    panel : QWidget
        The Explore panel; in no dock yet when napari makes it.
    main : QMainWindow
    opens_below : bool
        Whether it will be docked below the image.
    """

    def __init__(self, panel: QWidget, main: QMainWindow, opens_below: bool) -> None:
        super().__init__(panel)
        self.panel = panel
        # By reference: it would keep the window, and all that is in it, when both are gone.
        self._window = weakref.ref(main)
        self.tabbed = False  # by us
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.timeout.connect(self.arrange)
        main.installEventFilter(self)
        if opens_below and self._room_px() < LEAST_PX:
            self._tab()  # before the panel is docked, else the window has grown by then

    @property
    def main(self) -> QMainWindow:
        """The window the panel is in."""
        return cast(QMainWindow, self._window())

    def _docks(self) -> list[QDockWidget]:
        """Napari's layer controls and its layer list, as far as they are there."""
        found = (self.main.findChild(QDockWidget, name) for name in ("layer controls", "layer list"))
        return [dock for dock in found if dock is not None]

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Look again when the window has another height."""
        if event is not None and event.type() == QEvent.Type.Resize:
            self._later.start()
        return False

    def look_again(self) -> None:
        """Look soon whether there is room: the panel came, went or was moved."""
        self._later.start()

    def arrange(self) -> None:
        """Lay the two over each other, or one above the other."""
        if self._window() is None or not self.main.isVisible():
            return
        wanted = self._is_below() and self._room_px() < LEAST_PX
        if wanted and not self.tabbed:
            self._tab()
        elif not wanted and self.tabbed:
            self._untab()

    def _is_below(self) -> bool:
        dock = dock_of(self.panel)
        if dock is None or not self.panel.isVisible():
            return False
        return bool(self.main.dockWidgetArea(dock) == Qt.DockWidgetArea.BottomDockWidgetArea)

    def _room_px(self) -> int:
        """How high the panel could be with the two one above the other."""
        taken = [w.height() for w in (self.main.menuBar(), self.main.statusBar()) if w is not None]
        docks = [d.minimumSizeHint().height() for d in self._docks()]
        if docks:  # before there is a layer they ask for less, and the window would grow with the first
            docks[0] = max(docks[0], CONTROLS_PX)
        between = self.main.style().pixelMetric(self.main.style().PixelMetric.PM_DockWidgetSeparatorExtent)
        return int(self.main.height() - sum(taken) - sum(docks) - 2 * between)

    def _tab(self) -> None:
        docks, left = self._docks(), Qt.DockWidgetArea.LeftDockWidgetArea
        if len(docks) < 2 or any(d.isFloating() or d.isHidden() for d in docks):
            return
        if any(self.main.dockWidgetArea(d) != left for d in docks) or self.main.tabifiedDockWidgets(docks[0]):
            return
        self.main.tabifyDockWidget(*docks)
        docks[1].raise_()
        self.tabbed = True

    def _untab(self) -> None:
        self.tabbed = False
        controls, layers = self._docks()
        if layers in self.main.tabifiedDockWidgets(controls):
            self.main.removeDockWidget(layers)
            self.main.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, layers, Qt.Orientation.Vertical)
            layers.show()


def dock_of(widget: QWidget) -> QDockWidget | None:
    """The dock a widget is in, if that is part of the window."""
    parent: Any = widget.parent()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parent()
    return None if parent is None or parent.isFloating() else parent
