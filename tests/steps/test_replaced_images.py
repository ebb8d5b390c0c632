"""An image file that is replaced by another of its name, with real files: what was made from it is done anew, nothing else."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import cells_to_do, embed, prepare
from napari_cellrep.steps.embed_fields import embed_fields
from napari_cellrep.steps.segment import segment


def _file(project, field):
    return (project.root / project.field(field).planes[0].path).resolve()


def _replace(project, field="A06"):
    """Another image of the same size and name: real pixels, upside down."""
    path = _file(project, field)
    image = tifffile.imread(path)
    tifffile.imwrite(path, image[:, ::-1].copy(), metadata={"axes": "CYX"}, ome=True)


def _rows(project, field):
    return (project.cells.obs["field"] == field).to_numpy()


@pytest.fixture
def embedded(small):
    save_model(create_model("paired_cell_inpainting", width=0.125), small.root / "models" / "tiny")
    drain(embed(small, model="tiny"))
    return small


@pytest.mark.slow
def test_embedding_does_exactly_the_cells_of_the_replaced_image(embedded):
    before = embedded.cells.obsm["X_tiny"].copy()
    own = _rows(embedded, "A06")
    assert embedded.look_at_images().replaced == ()
    _replace(embedded)
    assert embedded.look_at_images().replaced == ("A06",)
    todo = cells_to_do(embedded, prepare(embedded, model="tiny"))
    assert {f: len(rows) for f, rows in todo.items()} == {"A06": own.sum()}
    result = drain(embed(embedded, model="tiny"))
    assert (result.n_cells, result.n_skipped) == (own.sum(), (~own).sum())
    assert any("1 field (A06)" in note and "segment again" in note for note in result.notes)
    after = embedded.cells.obsm["X_tiny"]
    np.testing.assert_array_equal(after[~own], before[~own])
    assert not np.allclose(after[own], before[own])
    assert embedded.cells.obs["has_tiny"].all()
    assert drain(embed(embedded, model="tiny")).n_cells == 0  # the vectors are of what is there now
    assert embedded.look_at_images().replaced == ("A06",)  # its outlines are not


@pytest.mark.slow
def test_segmenting_again_does_that_field_and_then_nothing_is_out_of_date(embedded):
    labels, others = embedded.read_labels("A06"), embedded.labels_path("A01").stat().st_mtime_ns
    _replace(embedded)
    result = drain(segment(embedded))
    assert (result.done, result.skipped) == (1, 3)
    assert not np.array_equal(embedded.read_labels("A06"), labels)
    assert embedded.labels_path("A01").stat().st_mtime_ns == others
    drain(crop(embedded))
    own = _rows(embedded, "A06")
    assert embedded.look_at_images().replaced == ()
    assert not embedded.cells.obs["has_tiny"][own].any()
    assert embedded.cells.obs["has_tiny"][~own].all()
    assert drain(embed(embedded, model="tiny")).n_cells == own.sum()


def test_touched_and_copied_images_are_the_same(embedded, tmp_path):
    for field in embedded.fields:
        os.utime(_file(embedded, field.id), (1, 1))
    assert drain(segment(embedded)).done == 0
    assert drain(embed(embedded, model="tiny")).n_cells == 0
    shutil.copytree(tmp_path / "lab", tmp_path / "other disk", copy_function=shutil.copyfile)
    copy = open_project(tmp_path / "other disk" / "small.cellrep")
    assert copy.look_at_images().replaced == ()
    assert drain(segment(copy)).done == 0
    assert drain(embed(copy, model="tiny")).n_cells == 0


def test_images_that_cannot_be_reached_make_nothing_out_of_date(embedded):
    folder = _file(embedded, "A01").parent
    folder.rename(folder.with_name("away"))
    looked = embedded.look_at_images()
    assert looked.replaced == ()
    assert len(looked.away) == 4
    result = drain(segment(embedded))
    assert (result.done, result.skipped, result.problems) == (0, 4, {})
    assert "cannot be reached" in result.notes["A01"]
    result = drain(embed(embedded, model="tiny"))
    assert result.n_cells == 0
    assert any("cannot be reached" in note for note in result.notes)
    assert embedded.cells.obs["has_tiny"].all()


@pytest.mark.slow
def test_labels_edited_by_hand_stay_and_are_said_to_be_of_another_image(embedded):
    info = {k: v for k, v in embedded.label_info("A06").items() if k != "digest"}
    embedded.write_labels("A06", embedded.read_labels("A06"), {**info, "edited": True})
    _replace(embedded)
    result = drain(segment(embedded))
    assert result.done == 0
    assert "another image" in result.notes["A06"]
    drain(crop(embedded))
    assert embedded.look_at_images().replaced == ("A06",)
    own = _rows(embedded, "A06")
    assert drain(embed(embedded, model="tiny")).n_cells == own.sum()  # old outlines, new pixels
    assert drain(segment(embedded, overwrite=True, fields=["A06"])).done == 1
    drain(crop(embedded))
    assert embedded.look_at_images().replaced == ()


def test_vectors_of_unchanged_masks_on_another_image_are_taken_out(embedded):
    """Labels brought from elsewhere may stay the same: then masks alone would keep the old vectors."""
    _replace(embedded)
    pixels = {"A06": embedded.pixels_of("A06")}
    embedded.cells.obs["score_old"] = 1.0
    embedded.write_cells(embedded.cells)
    table = embedded.merge(pixels=pixels)
    own = _rows(embedded, "A06")
    assert np.isnan(table.obsm["X_tiny"][own]).all()
    assert not table.obs["has_tiny"][own].any()
    assert table.obs["has_tiny"][~own].all()


def test_labels_of_versions_that_went_by_time_stay(small):
    """Labels whose image was noted by name, size and time count while these are the same."""
    from napari_cellrep.specs import digest
    from napari_cellrep.steps.segment import _stamp_by_time

    for field in small.fields:
        info = small.label_info(field.id)
        how = {k: info[k] for k in ("segmenter", "settings")} | {"image": _stamp_by_time(small, field)}
        small.write_labels(field.id, small.read_labels(field.id), {**how, "digest": digest(how)})
    assert drain(segment(small)).skipped == 4
    os.utime(_file(small, "A01"), (1, 1))
    result = drain(segment(small))
    assert (result.done, result.skipped) == (1, 3)


@pytest.mark.slow
def test_whole_fields_are_embedded_again_where_their_image_was_replaced(embedded):
    drain(embed_fields(embedded, model="tiny"))
    assert drain(embed_fields(embedded, model="tiny")).n_fields == 0
    os.utime(_file(embedded, "A01"), (1, 1))
    assert drain(embed_fields(embedded, model="tiny")).n_fields == 0
    _replace(embedded)
    assert drain(embed_fields(embedded, model="tiny")).n_fields == 1
    _file(embedded, "A01").rename(_file(embedded, "A01").with_name("away.tif"))
    assert drain(embed_fields(embedded, model="tiny")).n_fields == 0


def test_training_does_not_go_on_with_other_images(embedded):
    from napari_cellrep.specs import CropSpec
    from napari_cellrep.steps.train import ProjectCells

    before = ProjectCells(embedded, CropSpec(), (0, 1)).digest
    os.utime(_file(embedded, "A06"), (1, 1))
    assert ProjectCells(embedded, CropSpec(), (0, 1)).digest == before
    _replace(embedded)
    assert ProjectCells(embedded, CropSpec(), (0, 1)).digest != before


@pytest.mark.slow
def test_info_says_it(embedded):
    def info():
        command = [sys.executable, "-m", "napari_cellrep", "info", str(embedded.root)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "replaced" not in info()
    _replace(embedded)
    assert "the images of 1 field (A06) are others" in info()
    folder = _file(embedded, "A01").parent
    folder.rename(folder.with_name("away"))
    assert "nothing counts as out of date" in info()
