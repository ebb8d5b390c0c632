"""Cells coloured in the image as on the map: the right cell, the right colour, and nothing else touched."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of, paint_codes
from napari_cellrep.gui._state import session_of

LONG = 60_000


@pytest.fixture
def explore(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding, session.colour_by = "measured", "brightness"
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    return widget


def opened(qtbot, explore, field_id):
    explore.canvas.show(field_id)
    qtbot.waitUntil(lambda: explore.canvas.field == field_id, timeout=LONG)


def wanted(explore) -> np.ndarray:
    """What the layer must hold, pixel by pixel, from the labels on disk and the colours the map shows."""
    session, field_id = explore.session, explore.canvas.field
    rows = session.rows_of_field(field_id)
    code = {
        session.value(row, "label"): explore.map.colours.codes[row] for row in rows if session.visible[row]
    }
    labels, at = np.unique(session.project.read_labels(field_id), return_inverse=True)
    return np.array([code.get(label, 0) for label in labels], np.uint8)[at]


def coloured(qtbot, explore) -> None:
    """Wait until the layer holds what it must."""

    def done():
        layer = explore.canvas.layer("colours")
        return layer is not None and np.array_equal(layer.data, wanted(explore))

    qtbot.waitUntil(done, timeout=LONG)


@pytest.mark.slow
def test_colours_are_those_of_the_map_whatever_changes(explore, qtbot, viewer):
    session, canvas = explore.session, explore.canvas
    opened(qtbot, explore, "A12")
    cells = canvas.layer("cells")
    before, shown = cells.data.copy(), cells.colormap
    assert canvas.layer("colours") is None
    qtbot.mouseClick(explore.in_image, Qt.MouseButton.LeftButton)
    coloured(qtbot, explore)
    layer = canvas.layer("colours")
    assert [la.name for la in viewer.layers] == ["FKHR-GFP", "DNA", "cell colours", "cells", "cell selection"]
    hidden = session.rows_of_field("A12")
    hidden = hidden[~session.visible[hidden]]
    assert len(hidden)
    for colour in ("compound", "control", "group"):
        session.colour_by = colour
        coloured(qtbot, explore)
    session.colour_by = "brightness"
    coloured(qtbot, explore)
    codes = np.unique(layer.data[layer.data > 0])
    assert len(codes) > 20
    palette = explore.map.colours.palette
    np.testing.assert_allclose(layer.colormap.map(codes)[:, :3], palette[codes] / 255, atol=1e-6)
    assert layer.colormap.map(np.array([0]))[0, 3] == 0
    session.hide_flagged = False
    coloured(qtbot, explore)
    opened(qtbot, explore, "A01")
    coloured(qtbot, explore)
    opened(qtbot, explore, "A12")
    coloured(qtbot, explore)
    assert np.array_equal(cells.data, before)  # the cells themselves are never recoloured
    assert cells.colormap.color_dict.keys() <= shown.color_dict.keys()
    qtbot.mouseClick(explore.in_image, Qt.MouseButton.LeftButton)
    assert canvas.layer("colours") is None


def test_the_selection_stays_above(explore, qtbot, viewer):
    opened(qtbot, explore, "A12")
    explore.canvas.coloured = True
    assert explore.in_image.isChecked()
    coloured(qtbot, explore)
    rows = explore.session.rows_of_field("A12")
    explore.session.select(rows[explore.session.visible[rows]][:5])
    selection = explore.canvas.layer("selection")
    qtbot.waitUntil(lambda: np.count_nonzero(selection.data) > 0, timeout=LONG)
    assert viewer.layers.index(selection) > viewer.layers.index(explore.canvas.layer("colours"))
    coloured(qtbot, explore)


def test_throwing_the_layer_away_switches_it_off(explore, qtbot, viewer):
    opened(qtbot, explore, "A12")
    qtbot.mouseClick(explore.in_image, Qt.MouseButton.LeftButton)
    coloured(qtbot, explore)
    viewer.layers.remove("cell colours")
    qtbot.waitUntil(lambda: not explore.in_image.isChecked(), timeout=LONG)
    opened(qtbot, explore, "A01")
    assert explore.canvas.layer("colours") is None
    explore.session.colour_by = "group"
    qtbot.wait(100)
    assert explore.canvas.layer("colours") is None


def test_another_project_takes_its_colours_along(explore, qtbot):
    opened(qtbot, explore, "A12")
    explore.canvas.coloured = True
    coloured(qtbot, explore)
    explore.session.open(None)
    assert explore.canvas.layer("colours") is None
    assert canvas_of(explore.viewer).field == ""


@pytest.mark.parametrize("ids", [[3, 1, 7], [900_000_000, 2, 5_000_000]])
def test_numbers_with_gaps_in_any_order(ids):
    labels = np.zeros((4, 5), np.uint32)
    labels[0, :3], labels[1, 1], labels[3, 4], labels[2, 2] = ids[0], ids[1], ids[2], 4
    found = paint_codes(labels, np.array(ids), np.array([10, 20, 30], np.uint8))
    expected = np.zeros((4, 5), np.uint8)
    expected[0, :3], expected[1, 1], expected[3, 4] = 10, 20, 30
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    assert not paint_codes(labels, np.array([], int), np.array([], np.uint8)).any()
