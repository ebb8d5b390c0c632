"""A lasso about cells in the image, with the events a mouse makes: which cells, and that the image stays where it is."""

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from skimage.measure import points_in_poly

from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of

NONE, CTRL, SHIFT = (
    Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier,
)  # fmt: skip


@pytest.fixture
def canvas(viewer, project, qtbot):
    session_of(viewer).open(project)
    canvas = canvas_of(viewer)
    canvas.show("A12")
    qtbot.waitUntil(lambda: canvas.field == "A12", timeout=20_000)
    qtbot.wait(200)
    return canvas


def send(widget, kind, at, modifiers, down=True):
    """One event of a real mouse: QTest's moves carry neither buttons nor keys."""
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    point = QPointF(*at)
    event = QMouseEvent(
        kind, point, QPointF(widget.mapToGlobal(point.toPoint())), none if kind == QEvent.Type.MouseMove else left,
        left if down else none, modifiers,
    )  # fmt: skip
    QApplication.sendEvent(widget, event)


def drag(viewer, path, modifiers):
    widget = viewer.__wrapped__.window._qt_viewer.canvas.native
    send(widget, QEvent.Type.MouseButtonPress, path[0], modifiers)
    for at in path[1:]:
        send(widget, QEvent.Type.MouseMove, at, modifiers)
        QTest.qWait(12)  # vispy takes so many moves a second only
    send(widget, QEvent.Type.MouseButtonRelease, path[-1], modifiers, down=False)


def on_canvas(viewer, canvas, rows):
    """Where cells are on the canvas, in px, by napari's own transform."""
    view, layer = viewer.__wrapped__.window._qt_viewer.canvas.view, canvas.layer("cells")
    world = [layer.data_to_world(canvas.session.place(int(r))[1:]) for r in rows]
    return np.array([(view.transform * view.scene.transform).map([x, y, 0, 1])[:2] for y, x in world])


def circle(centre, radius):
    t = np.linspace(0, 2 * np.pi, 40)
    return centre + radius * np.c_[np.cos(t), np.sin(t)]


@pytest.mark.slow
def test_ctrl_draws_a_lasso_shift_adds_and_the_image_stays(viewer, canvas, qtbot):
    session = canvas.session
    rows = session.rows_of_field("A12")
    rows = rows[session.visible[rows]]
    px = on_canvas(viewer, canvas, rows)
    camera = viewer.scene.camera
    before = (*camera.center, camera.zoom)
    session.select([0])  # a cell of another field
    first, second = circle(px.mean(axis=0), 60), circle(px.mean(axis=0) + np.array((90, 0)), 40)
    drag(viewer, first, CTRL)
    inside = rows[points_in_poly(px, first)]
    assert len(inside) > 3
    assert np.flatnonzero(session.selected).tolist() == sorted(inside)
    drag(viewer, second, SHIFT)
    both = rows[points_in_poly(px, first) | points_in_poly(px, second)]
    assert len(both) > len(inside)
    assert np.flatnonzero(session.selected).tolist() == sorted(both)
    assert (*camera.center, camera.zoom) == before
    session.undo()
    assert np.flatnonzero(session.selected).tolist() == sorted(inside)


def test_without_a_key_the_image_moves_and_while_painting_nothing_is_selected(viewer, canvas, qtbot):
    session = canvas.session
    px = on_canvas(viewer, canvas, session.rows_of_field("A12"))
    path = circle(px.mean(axis=0), 60)
    before = viewer.scene.camera.center
    drag(viewer, path[:20], NONE)
    assert session.n_selected == 0
    assert viewer.scene.camera.center != before
    viewer.layers.selection.active = canvas.layer("cells")
    canvas.layer("cells").mode = "pick"
    drag(viewer, path, CTRL)
    assert session.n_selected == 0


def test_a_click_with_a_key_is_still_a_click(viewer, canvas, qtbot):
    session = canvas.session
    labels = canvas.layer("cells").data
    row = next(
        int(r)
        for r in session.rows_of_field("A12")
        if session.visible[r]
        and labels[tuple(round(v) for v in session.place(int(r))[1:])] == session.value(int(r), "label")
    )
    at = on_canvas(viewer, canvas, [row])[0]
    drag(viewer, [at], SHIFT)
    assert np.flatnonzero(session.selected).tolist() == [row]
