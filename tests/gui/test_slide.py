"""A field larger than memory on the canvas: levels read where they are looked at, clicks and selection as ever."""

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import create_project, slides
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
    assert menu is None or "painting" not in " ".join(a.text() for a in menu.actions())
    show("slide")
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None and canvas.layer("colours").multiscale)
    menu = canvas.open_menu(-1)
    (entry,) = [a for a in menu.actions() if "painting" in a.text()]
    assert not entry.isEnabled()
    assert "Not on a slide" in entry.toolTip()
    menu.close()
    canvas.save_edits()
    canvas.close()


def cells_of(canvas):
    return canvas.layer("cells").data


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
