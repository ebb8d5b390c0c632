"""A field larger than memory on the canvas: levels read where they are looked at, clicks and selection as ever."""

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import create_project, slides
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.gui._image import FOCUS, OVERLAY_COLOURS, RING, canvas_of, show_field
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
    row = int(rows[session.visible[rows]][-1])  # flagged cells are hidden
    label = int(session.value(row, "label"))
    session.select([row], how="test")
    qtbot.waitUntil(lambda: np.allclose(cells.colormap.color_dict.get(label, 0), OVERLAY_COLOURS[RING]))
    session.set_focus(row)
    qtbot.waitUntil(lambda: np.allclose(cells.colormap.color_dict.get(label, 0), OVERLAY_COLOURS[FOCUS]))
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
    assert canvas.layer("selection") is None
    canvas.coloured = True
    canvas.save_edits()
    canvas.close()
