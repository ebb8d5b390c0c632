"""The Explore panel in a low window: napari's panels on the left make room for the map, and stand as before after it."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget

from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of


@pytest.fixture
def opened(viewer, project, own_folders):
    canvas_of(viewer)
    session_of(viewer).open(project)
    return viewer


def window_of(viewer):  # not a fixture: pytest would keep it longer than napari allows
    return viewer.window.main_menu.window()


def sized(qtbot, main, width, height):
    main.resize(width, height)
    qtbot.waitUntil(lambda: (main.width(), main.height()) == (width, height))


def explored(qtbot, viewer):
    dock, panel = viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")
    qtbot.waitUntil(panel.isVisible)
    return dock, panel


def left_docks(main):
    return [main.findChild(QDockWidget, name) for name in ("layer controls", "layer list")]


def test_a_small_laptop_gets_a_map(qtbot, opened):
    viewer, main = opened, window_of(opened)
    sized(qtbot, main, 1280, 720)
    _, panel = explored(qtbot, viewer)
    qtbot.waitUntil(lambda: panel.map.height() >= 200)
    canvas_of(viewer).show("A01")  # with its layers napari's controls ask for more
    qtbot.waitUntil(lambda: canvas_of(viewer).field == "A01")
    qtbot.wait(200)
    assert (main.width(), main.height()) == (1280, 720)  # else part of it is beyond the screen
    assert panel.map.height() >= 200
    controls, layers = left_docks(main)
    assert main.tabifiedDockWidgets(controls) == [layers]

    sized(qtbot, main, 1500, 950)  # to a large screen
    qtbot.waitUntil(lambda: not main.tabifiedDockWidgets(controls))
    assert controls.isVisible()
    assert layers.isVisible()
    assert controls.geometry().bottom() < layers.geometry().top()


def test_they_stand_as_before_once_the_panel_is_closed(qtbot, opened):
    viewer, main = opened, window_of(opened)
    sized(qtbot, main, 1280, 720)
    dock, _ = explored(qtbot, viewer)
    controls, layers = left_docks(main)
    assert main.tabifiedDockWidgets(controls) == [layers]
    dock.hide()
    qtbot.waitUntil(lambda: not main.tabifiedDockWidgets(controls))
    dock.show()
    qtbot.waitUntil(lambda: main.tabifiedDockWidgets(controls) == [layers])


def test_a_large_window_and_what_a_person_has_arranged_stay(qtbot, opened):
    viewer, main = opened, window_of(opened)
    sized(qtbot, main, 1500, 950)
    controls, layers = left_docks(main)
    dock, _ = explored(qtbot, viewer)
    qtbot.wait(100)
    assert not main.tabifiedDockWidgets(controls)
    dock.hide()
    main.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, layers)  # the left column is low enough now
    sized(qtbot, main, 1280, 720)
    dock.show()
    qtbot.wait(100)
    assert not main.tabifiedDockWidgets(controls)
    assert main.dockWidgetArea(layers) == Qt.DockWidgetArea.RightDockWidgetArea


def test_a_wide_view_gives_the_map_its_width_back(qtbot, opened):
    viewer, main = opened, window_of(opened)
    sized(qtbot, main, 1280, 720)
    _, panel = explored(qtbot, viewer)
    panel.view("Table")
    qtbot.wait(50)
    wide = panel.map.width()
    panel.view("Variability")
    qtbot.waitUntil(lambda: panel.map.width() < wide)
    panel.view("Table")
    qtbot.waitUntil(lambda: panel.map.width() == wide)
