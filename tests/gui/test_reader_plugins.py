"""What a reader plugin of napari opens: its layers become a project, to the last step."""

import shutil
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
from npe2 import DynamicPlugin
from watchdog import Watchdog

from _clicks import LONG, card, choose, click, idle, run
from napari_cellrep.data import open_project
from napari_cellrep.gui._sample import projects_folder
from napari_cellrep.steps.sample import SAMPLE

WELL = SAMPLE / "wells" / "A06.ome.tif"
NAME = "cellrep-test-reader"


class OfAMicroscope:
    """Pixels of a file that only its own program opens: an open handle and a lock, which no other process can be given."""

    def __init__(self, path):
        self._file, self._lock = Path(path).open("rb"), threading.Lock()
        np.lib.format.read_magic(self._file)
        self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        self.asked, self.slow_s = 0, 0.0

    def plane(self, i):
        """The plane of number i, read when it is asked for."""
        n = self.shape[-2] * self.shape[-1]
        with self._lock:
            self.asked += 1
            time.sleep(self.slow_s)
            self._file.seek(self._start + i * n * self.dtype.itemsize)
            return np.frombuffer(self._file.read(n * self.dtype.itemsize), self.dtype).reshape(
                self.shape[-2:]
            )

    def lazy(self):
        """All of it as a dask array, a chunk for each plane."""
        planes = [
            da.from_delayed(dask.delayed(self.plane)(i), self.shape[-2:], self.dtype)
            for i in range(int(np.prod(self.shape[:-2])))
        ]
        return da.stack(planes).reshape(self.shape)


@pytest.fixture
def reader(tmp_path):
    """A reader plugin for ``.scope`` files; how its layers come is what the test says in `options`."""
    options, files = {}, []

    def read(path):
        """What a plugin's reader is: layer data tuples of a file."""
        held = OfAMicroscope(path)
        files.append(held)
        pixels = held.lazy() if options.pop("lazy", True) else held.lazy().compute()
        if options.get("rgb"):
            pixels = np.moveaxis(pixels, 0, -1)  # napari wants colours last
        return [(pixels, dict(options), "image")]

    with DynamicPlugin(NAME) as plugin:

        @plugin.contribute.reader(filename_patterns=["*.scope"])
        def get_reader(path):
            return read

        def write(pixels, **how):
            options.clear()
            options.update(how)
            file = tmp_path / "field.scope"
            with file.open("wb") as opened:
                np.save(opened, np.ascontiguousarray(pixels))
            return file

        yield write, files
    for held in files:
        held._file.close()


@pytest.fixture(scope="module")
def film():
    """Two frames of a real field, (T, C, H, W)."""
    well = tifffile.imread(WELL)
    return np.stack([well, np.roll(well, 5, axis=2)])


def taken_over(qtbot, dock):
    """Press the button, and give the project that is then open."""
    said = run(qtbot, dock, card(dock, "images").layers)
    assert dock.session.project is not None, said
    return dock.session.project


def shown_axes(images):
    return [images.axis_grid.itemAt(i).widget().text() for i in range(0, images.axis_grid.count(), 2)]


@pytest.mark.slow
def test_a_film_of_a_reader_goes_to_the_map_and_opens_without_the_reader(qtbot, dock, viewer, reader, film):
    write, files = reader
    path = write(
        film, channel_axis=1, name=["GFP", "DNA"], scale=(1, 0.65, 0.65), axis_labels=("t", "y", "x")
    )
    viewer.open(str(path), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    assert shown_axes(images) == ["Axis t, 2 long:"]
    assert images.meanings() == ("time",)
    assert [row.role.currentText() for row in images._layer_rows] == ["protein", "nucleus"]
    assert images.pixel_size.value() == 0.65
    project = taken_over(qtbot, dock)
    assert [f.id for f in project.fields] == ["field_t000", "field_t001"]
    assert [(f.series, f.um_per_px) for f in project.fields] == [("field", 0.65)] * 2
    for t, field in enumerate(project.fields):
        np.testing.assert_array_equal(project.read_image(field.id), film[t])
    assert project.last("import")["sources"] == [
        {"layer": name, "file": str(path), "reader": NAME} for name in ("GFP", "DNA")
    ]
    assert not viewer.layers["GFP"].visible
    # All steps, with the file gone: the project holds the pixels.
    path.unlink()
    for held in files:
        held._file.close()
    qtbot.waitUntil(lambda: dock.cards["segment"].method.count() > 0, timeout=LONG)
    qtbot.waitUntil(lambda: dock.cards["model"].model.count() > 0, timeout=LONG)
    run(qtbot, dock, card(dock, "segment").all)
    assert dock.session.n_cells > 100
    assert all(
        name.split(":")[:2] in (["field", "0"], ["field", "1"]) for name in dock.session.cells.obs_names
    )
    model = card(dock, "model")
    choose(model.model, "Measurements")
    said = run(qtbot, dock, model.embed)
    assert "cells embedded" in said
    run(qtbot, dock, card(dock, "explore").make)
    assert dock.session.map_name == "UMAP"
    moved = shutil.copytree(project.root, project.root.with_name("elsewhere.cellrep"))
    for layer in list(viewer.layers):
        viewer.layers.remove(layer)
    dock.open_project(moved)
    idle(qtbot, dock)
    again = open_project(moved)
    np.testing.assert_array_equal(again.read_image("field_t001"), film[1])
    assert np.isfinite(again.cells.obsm["X_measurements"]).all()
    qtbot.waitUntil(lambda: "DNA" in viewer.layers, timeout=LONG)


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [True, False])
def test_channels_that_the_reader_did_not_part_are_parted(qtbot, dock, viewer, reader, film, lazy):
    write, files = reader
    viewer.open(str(write(film[0], name="both", lazy=lazy)), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    assert shown_axes(images) == ["Axis, 2 long:"]
    assert images.meanings() == ("channels",)  # a short axis of the only layer
    assert [row.name.text() for row in images._layer_rows] == ["both 1", "both 2"]
    images._layer_rows[0].name.setText("GFP")
    choose(images._layer_rows[0].role, "protein")
    choose(images._layer_rows[1].role, "nucleus")
    assert images.pixel_size.value() == 0
    before, files[0].slow_s = files[0].asked, 0.5
    dog = Watchdog().start()
    click(images.layers)
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    dog.stop()
    assert not dog.ours(), "\n".join(map(str, dog.ours()))
    files[0].slow_s = 0
    idle(qtbot, dock)
    project = dock.session.project
    if lazy:
        assert files[0].asked <= before + 3  # each plane once more, and what napari drew
    assert [(c.name, c.role) for c in project.channels] == [("GFP", "protein"), ("both 2", "nucleus")]
    assert [(f.id, f.um_per_px, f.series) for f in project.fields] == [("both", 0.0, "")]
    np.testing.assert_array_equal(project.read_image("both"), film[0])


def test_what_an_axis_is_can_be_said_otherwise(qtbot, dock, viewer, reader, film):
    write, _ = reader
    stack = film.transpose(1, 0, 2, 3)  # (C, Z or T, H, W)
    viewer.open(str(write(stack, channel_axis=0, name=["GFP", "DNA"])), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    assert images.meanings() == ("",)
    choose(images._axis_boxes[0], "brightest")
    images.pixel_size.setValue(0.5)
    project = taken_over(qtbot, dock)
    assert [f.um_per_px for f in project.fields] == [0.5]
    np.testing.assert_array_equal(project.read_image("field"), film.max(axis=0))


@pytest.mark.parametrize("grey", [False, True])
def test_pictures_in_colour_are_channels_or_grey(qtbot, dock, viewer, reader, film, grey):
    write, _ = reader
    picture = np.stack([film[0, 0], film[0, 1], film[1, 0]], axis=-1)
    assert not card(dock, "images").colours.isVisible()
    path = write(np.moveaxis(picture, -1, 0), name="he", rgb=True)
    viewer.open(str(path), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    assert images.colours.isVisible()
    assert [row.name.text() for row in images._layer_rows] == ["he red", "he green", "he blue"]
    if grey:
        choose(images.colours, "grey")
        assert [row.name.text() for row in images._layer_rows] == ["he"]
    else:
        click(images._layer_rows[2].use)
    project = taken_over(qtbot, dock)
    wanted = picture.mean(axis=-1).round()[None] if grey else np.moveaxis(picture[..., :2], -1, 0)
    np.testing.assert_array_equal(project.read_image("he"), wanted)


def test_a_reader_that_fails_later_is_a_sentence_and_nothing_is_left(qtbot, dock, viewer, reader, film):
    write, files = reader
    viewer.open(str(write(film[0], channel_axis=0, name=["GFP", "DNA"])), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    files[0]._file.close()  # as a share that has gone
    said = run(qtbot, dock, images.layers)
    assert said.startswith("⚠ The pixels of field cannot be read"), said
    assert dock.session.project is None
    assert not list(projects_folder().glob("*"))


def test_a_grey_picture_that_was_saved_in_colour_is_one_channel(qtbot, dock, viewer, reader, film):
    write, _ = reader
    viewer.open(str(write(film[0, [1, 1, 1]], name="grey", rgb=True, lazy=False)), plugin=NAME)
    qtbot.wait(50)
    images = card(dock, "images")
    assert [row.name.text() for row in images._layer_rows] == ["grey"]
    choose(images.colours, "red, green, blue")
    assert len(images._layer_rows) == 3
    choose(images.colours, "grey")
    np.testing.assert_array_equal(taken_over(qtbot, dock).read_image("grey"), film[0, 1][None])
