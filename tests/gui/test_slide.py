"""A field larger than memory on the canvas: levels read where they are looked at, clicks and selection as ever."""

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt

from _clicks import LONG, card, click, idle, opened, run
from napari_cellrep.data import create_project, open_project, slides
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._marks import EDGE, FILL, FOCUS, HOVER, RING, Slide, paint_cell, paint_marks
from napari_cellrep.gui._state import session_of
from napari_cellrep.jobs import drain
from napari_cellrep.steps.crop import crop


@pytest.fixture
def slide(project, tmp_path, monkeypatch):
    """Twelve wells put together, and a small field beside it; what is larger than one well is a slide."""
    image, labels = project.read_image("A12"), project.read_labels("A12").astype(np.uint32)
    mosaic = np.tile(image, (1, 3, 4))
    tiled = np.tile(labels, (3, 4))
    at = np.arange(12).reshape(3, 4).repeat(image.shape[1], 0).repeat(image.shape[2], 1)
    tifffile.imwrite(
        tmp_path / "slide.tif", mosaic, tile=(128, 128), compression="zlib", photometric="minisblack"
    )
    tifffile.imwrite(tmp_path / "small.tif", image, photometric="minisblack")
    fields = [
        Field(n, tuple(Plane(str(tmp_path / f"{n}.tif"), i) for i in range(2)), *a.shape[1:], str(a.dtype))
        for n, a in (("slide", mosaic), ("small", image))
    ]
    monkeypatch.setattr(slides, "BIG_PX", image[0].size)
    monkeypatch.setattr(slides, "SMALLEST_PX", 256)
    made = create_project(tmp_path / "slide", with_groups(fields), project.channels)
    made.write_labels("small", labels, {})
    with made.writing_labels("slide", {}) as writer:
        writer.array[:] = np.where(tiled > 0, tiled + at * int(labels.max()), 0)
        writer.n_cells = 12 * int(labels.max())
    drain(crop(made))
    return made


@pytest.mark.slow
def test_a_slide_is_shown_in_levels_and_its_cells_are_picked_and_lit(qtbot, viewer, slide):
    session = session_of(viewer)
    session.open(slide)
    canvas = canvas_of(viewer)

    def show(name):
        done = []
        show_field(viewer, session, name, lambda: done.append(1))
        qtbot.waitUntil(lambda: bool(done), timeout=60_000)

    show("slide")
    channel, cells = canvas.layer("channel"), canvas.layer("cells")
    assert channel.multiscale
    assert cells.multiscale
    assert len(channel.data) > 1
    assert not cells.editable
    whole = slide.read_image("slide")[0]
    np.testing.assert_array_equal(np.asarray(channel.data[0]), whole)
    np.testing.assert_array_equal(np.asarray(channel.data[1]), whole[::2, ::2])
    assert channel.data[0][5, 7] == whole[5, 7]

    rows = session.rows_of_field("slide")
    rows = rows[session.visible[rows]]  # flagged cells are hidden
    row = int(rows[np.argmax(session.cells.obs["area_px"].to_numpy()[rows])])
    label = int(session.value(row, "label"))
    y0, x0, y1, x1 = (int(session.value(row, f"box_{side}")) for side in ("y0", "x0", "y1", "x1"))
    box = (slice(y0, y1), slice(x0, x1))
    marks = canvas.layer("selection")
    assert marks.multiscale
    assert not np.asarray(marks.data[0]).any()

    def painted(bits):
        mask = np.asarray(cells.data[0][box]) == label
        wanted = np.zeros(mask.shape, np.uint8)
        paint_cell(wanted, mask, bits)
        shown = np.where(mask, marks.data[0][box], 0)
        return np.array_equal(shown, wanted)

    session.select([row], how="test")
    qtbot.waitUntil(lambda: painted(1))
    coarse = np.asarray(marks.data[-1])[np.asarray(cells.data[-1]) == label]
    assert set(np.unique(coarse)) == {RING}  # no dark rim on a speck
    assert len(coarse)
    session.set_hover(row)
    assert painted(5)
    session.set_hover(-1)
    session.set_focus(row)
    qtbot.waitUntil(lambda: painted(3))
    others = np.asarray(marks.data[0])[np.asarray(cells.data[0]) != label]
    assert not others.any()
    field, y, x = session.place(row)
    assert field == "slide"
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (y, x), atol=1)

    class Event:
        position = (float(y), float(x))

    assert canvas._row_at(Event) == (label, row)
    pictures = []
    canvas.ask_picture(row, pictures.append)
    qtbot.waitUntil(lambda: bool(pictures), timeout=20_000)
    assert isinstance(pictures[0], np.ndarray)
    assert pictures[0].max() > 50

    show("small")  # and back to a field that is shown whole
    assert not canvas.layer("channel").multiscale
    assert not canvas.layer("cells").multiscale
    assert canvas.layer("selection") is not None
    show("slide")
    assert canvas.layer("channel").multiscale
    assert canvas.layer("selection").multiscale
    session.colour_by = "area_px"
    canvas.coloured = True
    qtbot.waitUntil(
        lambda: canvas.layer("colours") is not None and np.asarray(canvas.layer("colours").data[0]).any()
    )
    colours = canvas.layer("colours")
    assert colours.multiscale
    for level in (0, -1):
        codes, ids = np.asarray(colours.data[level]), np.asarray(cells_of(canvas)[level])
        of_cell = codes[ids == label]
        assert of_cell.min() == of_cell.max() > 0
        assert not codes[ids == 0].any()
    show("small")
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None and not canvas.layer("colours").multiscale)
    assert canvas.coloured
    menu = canvas.open_menu(-1)
    assert menu is None or "Edit the cells" not in " ".join(a.text() for a in menu.actions())
    show("slide")
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None and canvas.layer("colours").multiscale)
    menu = canvas.open_menu(-1)
    (entry,) = [a for a in menu.actions() if a.text() == "Edit the cells in view"]
    assert entry.isEnabled()
    menu.close()
    canvas.save_edits()  # nothing is edited, nothing happens
    canvas.close()


def cells_of(canvas):
    return canvas.layer("cells").data


@pytest.mark.slow
def test_the_levels_of_a_slide_are_made_once_and_other_pictures_do_not_wait(qtbot, viewer, slide):
    background, said, read = canvas_of(viewer).background, [], []
    session_of(viewer).open(slide)
    background.told.connect(said.append)
    for _ in range(2):
        background.run(lambda: background.read_slide(slide, "slide"), read.append, slow=True)
    qtbot.waitUntil(lambda: len(read) == 2, timeout=60_000)
    assert sum("part 1 of" in sentence for sentence in said) == 1
    assert slide.levels_folder("slide").parent == slide.root / ".levels"
    looks = background.looks(slide, "slide")
    assert len(looks) == 2
    small, by = background.overview(slide, "slide")
    assert small.shape[1] * by == pytest.approx(slide.field("slide").height_px, rel=0.02)


def shown_near(qtbot, dock, label, zoom=6.0):
    """A slide on the canvas, zoomed in at one of its cells."""
    canvas, session = dock.canvas, dock.session
    row = session.row_of("slide", label)
    _, y, x = session.place(row)
    camera = canvas.viewer.scene.camera
    camera.center, camera.zoom = (y, x), zoom
    qtbot.wait(50)
    return y, x


def pressed_at(qtbot, viewer, layer, y, x):
    """One click of the mouse at a place of the field."""
    widget = viewer.window._qt_viewer.canvas.native
    camera = viewer.scene.camera
    h, w = viewer.canvas.size
    at = (np.array([y, x]) * layer.scale - np.array(camera.center[-2:])) * camera.zoom + np.array([h, w]) / 2
    spot = QPoint(round(at[1]), round(at[0]))
    qtbot.mouseMove(widget, spot)
    qtbot.wait(30)
    qtbot.mousePress(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)
    qtbot.mouseRelease(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)
    qtbot.wait(30)


@pytest.mark.slow
def test_cells_in_view_are_edited_with_the_mouse_saved_and_taken_back(qtbot, dock, slide, monkeypatch):
    opened(qtbot, dock, slide)
    dock.show_field("slide")
    canvas, session, viewer = dock.canvas, dock.session, dock.canvas.viewer
    qtbot.waitUntil(lambda: canvas.field == "slide" and canvas.slide is not None, timeout=LONG)
    cells = card(dock, "cells")
    qtbot.waitUntil(lambda: cells.in_view.isVisible(), timeout=LONG)
    assert not cells.edits.isVisible()
    assert not cells.cancel.isVisible()
    before = slide.read_labels("slide")
    middle = int(np.median(before[700:900, 700:900][before[700:900, 700:900] > 0]))

    y, x = shown_near(qtbot, dock, middle)
    click(cells.in_view)
    qtbot.waitUntil(lambda: canvas.editing.layer is not None, timeout=LONG)
    qtbot.waitUntil(lambda: cells.cancel.isVisible(), timeout=LONG)
    assert not cells.in_view.isVisible()
    assert not cells.edits.isEnabled()
    layer, part = canvas.editing.layer, canvas.editing.part
    assert viewer.layers.selection.active is layer
    assert "can be edited: paint, erase or fill in the layer “cells in view”" in dock.strip.message.text()
    y0, x0, y1, x1 = part.box
    np.testing.assert_array_equal(layer.data, before[y0:y1, x0:x1])
    seen = np.asarray(canvas.layer("cells").data[0])
    assert not seen[y0:y1, x0:x1].any()  # what is edited is not drawn twice
    outside = np.ones(before.shape, bool)
    outside[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(seen[outside], before[outside])

    # Cancelled: as if nothing had been.
    layer.mode = "fill"
    layer.selected_label = 0
    pressed_at(qtbot, viewer, layer, y, x)
    assert canvas.edited
    assert not (layer.data == middle).any()
    qtbot.waitUntil(lambda: cells.edits.isEnabled(), timeout=LONG)
    click(cells.cancel)
    qtbot.waitUntil(lambda: cells.in_view.isVisible(), timeout=LONG)
    assert canvas.layer("edit") is None
    assert not canvas.edited
    np.testing.assert_array_equal(slide.read_labels("slide"), before)
    np.testing.assert_array_equal(np.asarray(canvas.layer("cells").data[0]), before)

    # A cell erased by the bucket, one painted, one that the part cuts stays.
    click(cells.in_view)
    qtbot.waitUntil(lambda: canvas.editing.layer is not None, timeout=LONG)
    layer, part = canvas.editing.layer, canvas.editing.part
    layer.mode = "fill"
    layer.selected_label = 0
    pressed_at(qtbot, viewer, layer, y, x)
    free = np.argwhere(part.labels[8:-8, 8:-8] == 0) + 8
    free += np.array([y0, x0])
    fy, fx = free[np.argmin(np.abs(free - (y, x)).sum(axis=1))]
    layer.mode, layer.brush_size = "paint", 5
    layer.selected_label = part.top + 1
    pressed_at(qtbot, viewer, layer, fy, fx)
    painted = int((layer.data == part.top + 1).sum())
    assert painted > 5
    layer.undo()  # napari's own undo, as in any layer
    assert not (layer.data == part.top + 1).any()
    layer.redo()
    if len(part.locked):
        ly, lx = np.argwhere(part.labels == part.locked[0])[0]
        layer.paint((int(ly), int(lx)), 0)
        assert (layer.data == part.locked[0]).sum() == (part.labels == part.locked[0]).sum()
        layer.selected_label = int(part.locked[0])
        assert layer.selected_label not in part.locked
    qtbot.waitUntil(lambda: cells.edits.isEnabled(), timeout=LONG)
    n = session.n_cells
    run(qtbot, dock, cells.edits)
    qtbot.waitUntil(lambda: canvas.editing.part is None, timeout=LONG)
    qtbot.waitUntil(lambda: session.row_of("slide", middle) == -1, timeout=LONG)
    after = slide.read_labels("slide")
    assert not (after == middle).any()
    assert (after > before.max()).sum() == painted
    assert session.n_cells == n
    assert session.row_of("slide", int(before.max()) + 1) >= 0
    qtbot.waitUntil(lambda: np.array_equal(np.asarray(canvas.layer("cells").data[0]), after), timeout=LONG)
    idle(qtbot, dock)

    # Too much in view is a sentence, and one step is taken back.
    monkeypatch.setattr("napari_cellrep.steps.edit.MOST_PX", 20)
    click(cells.in_view)
    qtbot.waitUntil(lambda: dock.strip.message.text().startswith("⚠ Zoom in: "), timeout=LONG)
    assert canvas.editing.part is None
    assert open_project(slide.root).undo() == "edit"
    np.testing.assert_array_equal(slide.read_labels("slide"), before)


@pytest.mark.parametrize("bits", range(1, 8))
def test_marks_of_a_part_are_those_of_each_cell(bits):
    labels = np.zeros((60, 70), np.uint32)
    labels[5:25, 8:30], labels[5:25, 30:50], labels[40:43, 1:4] = 3, 9, 70_000
    whole = np.zeros(labels.shape, np.uint8)
    for label in (3, 70_000):
        at = np.argwhere(labels == label)
        (y0, x0), (y1, x1) = at.min(axis=0), at.max(axis=0) + 1
        paint_cell(whole[y0:y1, x0:x1], labels[y0:y1, x0:x1] == label, bits)
    marks = np.where(np.isin(labels, (3, 70_000)), bits, 0).astype(np.uint8)
    np.testing.assert_array_equal(paint_marks(labels, marks), whole)
    slide = Slide([labels, labels[::2, ::2]])
    slide.mark({3: bits, 70_000: bits})
    np.testing.assert_array_equal(np.asarray(slide.marked()[0]), whole)
    np.testing.assert_array_equal(
        slide.marked()[0][10:22, 9:40], whole[10:22, 9:40]
    )  # as of the whole at its edges
    assert slide.label_at(12, 12, 0) == slide.label_at(12, 12, 1) == 3
    assert slide.label_at(-1, 12, 0) == slide.label_at(12, 700, 1) == 0
    assert EDGE not in np.asarray(slide.marked()[1])
    assert {FOCUS, HOVER, FILL, RING, EDGE} >= set(np.unique(whole)) - {0}
