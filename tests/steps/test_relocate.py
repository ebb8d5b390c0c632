from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.relocate import relocate
from napari_cellrep.steps.segment import segment


def test_a_renamed_folder_is_found_by_itself_and_nothing_is_made_again(small: Project):
    before = {f.id: small.read_image(f.id) for f in small.fields}
    (small.root.parent / "images").rename(small.root.parent / "week 1")
    assert len(small.missing()) == 4
    found = drain(relocate(small))
    assert (found.found, found.missing) == (4, 0)
    assert found.folder.endswith("week 1")
    again = open_project(small.root)
    for field, image in before.items():
        assert np.array_equal(again.read_image(field), image)
    result = drain(segment(again))
    assert (result.done, result.skipped) == (0, 4)
    assert again.last("relocate")["fields"] == 4


def test_images_in_a_deep_folder_are_found_by_their_names(small: Project, tmp_path: Path):
    there = tmp_path / "server" / "a" / "b"
    there.mkdir(parents=True)
    for i, path in enumerate(sorted((small.root.parent / "images").iterdir())):
        (there / f"run{i % 2}").mkdir(exist_ok=True)
        shutil.move(path, there / f"run{i % 2}" / path.name)
    with pytest.raises(InputError, match="not nearby"):
        drain(relocate(small))
    found = drain(relocate(small, tmp_path / "server"))
    assert (found.found, found.missing) == (4, 0)
    assert not open_project(small.root).missing()


def test_problems_that_were_only_lost_files_are_gone(small: Project):
    images = small.root.parent / "images"
    images.rename(images.with_name("x"))
    small.mark({"A01": f"{images / 'A01.tif'} is not there; bring it back.", "A12": "It is out of focus."})
    drain(relocate(small, images.with_name("x")))
    assert {f.id for f in small.fields if f.problem} == {"A12"}


def test_some_are_still_missing(small: Project):
    images = small.root.parent / "images"
    (images / "E12.tif").unlink()
    images.rename(images.with_name("x"))
    found = drain(relocate(small))
    assert (found.found, found.missing) == (3, 1)
    assert "still not there" in found.summary


def test_other_images_of_the_same_names_are_refused(small: Project, tmp_path: Path):
    images = small.root.parent / "images"
    other = tmp_path / "other"
    other.mkdir()
    for path in images.iterdir():
        tifffile.imwrite(
            other / path.name, np.ones((2, 100, 100), np.uint8), metadata={"axes": "CYX"}, ome=True
        )
    shutil.rmtree(images)
    with pytest.raises(InputError, match="these are other images"):
        drain(relocate(small, other))
    with pytest.raises(InputError, match="not nearby"):
        drain(relocate(small))  # by itself it passes over them
    with pytest.raises(InputError, match="is not a folder"):
        drain(relocate(small, tmp_path / "nope"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No image of small is in"):
        drain(relocate(small, tmp_path / "empty"))


def test_two_candidates_are_asked_about(small: Project, tmp_path: Path):
    images = small.root.parent / "images"
    for name in ("one", "two"):
        shutil.copytree(images, tmp_path / "both" / name)
    shutil.rmtree(images)
    with pytest.raises(InputError, match="both could be"):
        drain(relocate(small, tmp_path / "both"))
    assert drain(relocate(small, tmp_path / "both" / "two")).found == 4


def test_nothing_is_lost(small: Project):
    assert drain(relocate(small)).missing == 0
    assert not small.last("relocate")
