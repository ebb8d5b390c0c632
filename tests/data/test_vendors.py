"""Microscopes' own files through bioio: what is said without it, and real files where a library can write them."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import vendors
from napari_cellrep.data.images import Plane, inspect_image, read_planes, stamps_of
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.import_fields import import_fields, preview_import


def library(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed")


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 4000, shape).astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("a.nd2", "formats"), ("a.LIF", "formats"), ("a.czi", "czi")],
)
def test_without_the_reader_a_sentence_says_what_to_install(tmp_path, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, "bioio", None)
    (tmp_path / name).write_bytes(b"x" * 100)
    words = rf'pip install "napari-cellrep\[{extra}\]" to read it, or save it as OME-TIFF'
    for look in (inspect_image, lambda p: read_planes([Plane(p.name)], p.parent)):
        with pytest.raises(InputError, match=words):
            look(tmp_path / name)
    tifffile.imwrite(tmp_path / "b.tif", pixels(8, 8))
    project = drain(import_fields(tmp_path / "p", [tmp_path]))
    assert [bool(f.problem) for f in project.fields] == [True, False]  # the others go on
    (tmp_path / "empty.czi").touch()
    with pytest.raises(InputError, match="0 bytes"):
        inspect_image(tmp_path / "empty.czi")


def test_a_path_in_a_file_is_of_that_file(tmp_path):
    (tmp_path / "a.nd2").touch()
    assert vendors.file_of(tmp_path / "a.nd2") == tmp_path / "a.nd2"
    assert vendors.file_of(tmp_path / "a.nd2" / "scene-12") == tmp_path / "a.nd2"
    assert vendors.file_of(tmp_path / "a.tif") is None
    assert vendors.file_of(tmp_path / "a.nd2" / "other") is None


@pytest.fixture
def as_ome_tiff(monkeypatch):
    """No library writes ND2 or LIF: an OME-TIFF under their ending, read by bioio's reader of OME-TIFF."""
    library("bioio")
    library("bioio_ome_tiff")
    monkeypatch.setitem(vendors.READERS, ".nd2", ("bioio_ome_tiff", "napari-cellrep[formats]"))


def _two_scenes(path: Path) -> list[np.ndarray]:
    images = [pixels(2, 3, 24, 32), pixels(2, 3, 24, 32) + 1]
    with tifffile.TiffWriter(path, ome=True) as tif:
        for image in images:
            tif.write(
                image, photometric="minisblack",
                metadata={
                    "axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}, "PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm",
                    "PhysicalSizeY": 0.325, "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 1.0, "PhysicalSizeZUnit": "µm",
                },
            )  # fmt: skip
    return images


def test_scenes_are_fields_with_channels_and_pixel_size(tmp_path, as_ome_tiff):
    images = _two_scenes(tmp_path / "plate.nd2")
    project = drain(import_fields(tmp_path / "p", [tmp_path / "plate.nd2"], z="max"))
    assert [f.id for f in project.fields] == ["plate_scene-1", "plate_scene-2"]
    assert [(c.name, c.role) for c in project.channels] == [("DAPI", "nucleus"), ("GFP", "protein")]
    for field, image in zip(project.fields, images, strict=True):
        assert field.um_per_px == pytest.approx(0.325)
        np.testing.assert_array_equal(project.read_image(field.id), image.max(axis=1))
        assert project.image_stamp(field.id)
    assert stamps_of(tmp_path / "plate.nd2" / "scene-2") == stamps_of(tmp_path / "plate.nd2")
    project = drain(import_fields(tmp_path / "q", [tmp_path], pattern="{plate}.nd2", z="0"))
    assert [(f.id, f.metadata["plate"], f.metadata["scene"]) for f in project.fields] == [
        ("plate_1", "plate", "1"), ("plate_2", "plate", "2"),
    ]  # fmt: skip


def test_a_part_is_read_from_a_file_that_is_opened_once(tmp_path, as_ome_tiff, monkeypatch):
    image = _two_scenes(tmp_path / "plate.nd2")[1]
    planes = [Plane("plate.nd2/scene-2", i, z="1") for i in range(2)]
    opened, real = [], vendors._opened
    monkeypatch.setattr(vendors, "_opened", lambda path: opened.append(path) or real(path))
    np.testing.assert_array_equal(read_planes(planes, tmp_path, box=(3, 5, 20, 30)), image[:, 1, 3:20, 5:30])
    assert len(opened) == 1


def test_broken_files_are_one_fields_problem(tmp_path, as_ome_tiff):
    (tmp_path / "a.nd2").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"a\.nd2 cannot be read"):
        inspect_image(tmp_path / "a.nd2")


def test_a_real_czi(tmp_path):
    library("bioio_czi")
    czi = library("pylibCZIrw.czi")
    image = pixels(2, 40, 50)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for c in range(2):
            file.write(image[c][..., None], plane={"C": c, "T": 0, "Z": 0})
        file.write_metadata("a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=0.25e-6, scale_y=0.25e-6)
    project = drain(import_fields(tmp_path / "p", [tmp_path / "a.czi"]))
    (field,) = project.fields
    np.testing.assert_array_equal(project.read_image(field.id), image)
    assert field.um_per_px == pytest.approx(0.25)
    assert [c.name for c in project.channels] == ["DAPI", "GFP"]


def test_scenes_that_are_time_series_are_series_with_frames(tmp_path, as_ome_tiff):
    films = [pixels(3, 2, 24, 32), pixels(3, 2, 24, 32) + 1]
    with tifffile.TiffWriter(tmp_path / "film.nd2", ome=True) as tif:
        for film in films:
            tif.write(
                film,
                photometric="minisblack",
                metadata={"axes": "TCYX", "Channel": {"Name": ["DAPI", "GFP"]}},
            )
    project = drain(import_fields(tmp_path / "p", [tmp_path / "film.nd2"]))
    assert [f.id for f in project.fields] == [f"film_scene-{s}_t{t:03d}" for s in (1, 2) for t in range(3)]
    assert {f.metadata["series"] for f in project.fields} == {"film_scene-1", "film_scene-2"}
    for i, field in enumerate(project.fields):
        np.testing.assert_array_equal(project.read_image(field.id), films[i // 3][i % 3])
        assert field.cell_id(4) == f"film_scene-{i // 3 + 1}:{i % 3}:4"
    found = drain(preview_import([tmp_path / "film.nd2"]))
    assert (found["series"], found["n_fields"]) == ("2 series of 3 frames", 6)
