from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.illumination import (
    apply_function,
    match_functions,
    read_function,
    smooth_function,
    top_of,
)
from napari_cellrep.specs import Channel, InputError


def _fall_off(h: int, w: int) -> np.ndarray:
    """Bright in the middle, a third darker in the corners."""
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    return (1 - 0.17 * (y**2 + x**2)).astype(np.float32)


def test_a_fall_off_is_found_in_the_mean_of_many_fields():
    rng = np.random.default_rng(0)
    light = _fall_off(60, 80)
    mean = np.mean([light * rng.gamma(0.5, 1000, light.shape) for _ in range(300)], axis=0)
    found = smooth_function(mean)
    assert np.abs(found / (light / np.median(light)) - 1).max() < 0.02
    assert found.dtype == np.float32
    with pytest.raises(InputError, match="black in every field"):
        smooth_function(np.zeros((9, 9)))


def test_pixels_keep_their_dtype_and_the_cameras_top():
    plane = np.array([[0, 100, 200], [50, 254, 255]], np.uint8)
    half = np.full(plane.shape, 0.5, np.float32)
    assert apply_function(plane, half, "divide", 255).tolist() == [[0, 200, 255], [100, 255, 255]]
    double = apply_function(plane, half * 4, "divide", 255)
    assert double.dtype == np.uint8
    assert double.tolist() == [[0, 50, 100], [25, 127, 255]]  # what was cut off is still known as cut off
    assert apply_function(plane, half * 200, "subtract", 255).tolist() == [[0, 0, 100], [0, 154, 255]]
    assert top_of(np.array([4095, 3], np.uint16)) == 4095
    assert top_of(np.array([4096, 3], np.uint16)) == 65535
    floats = apply_function(plane.astype(np.float32), half, "divide", 0)
    assert floats.dtype == np.float32
    assert floats[1, 2] == 510


def test_images_are_corrected_when_they_are_read_and_only_then(sample_project: Project):
    project = sample_project
    raw, file = project.read_image("A01"), project.field("A01").planes[0].files(project.root)[0]
    bytes_before, stamp = file.read_bytes(), project.image_stamp("A01")
    light = _fall_off(*raw.shape[1:])
    plate = project.field("A01").metadata["plate"]
    project.set_illumination({(plate, "DNA"): light}, "divide", "brought")
    for one in (project, open_project(project.root)):
        image = one.read_image("A01")
        assert np.array_equal(image[0], raw[0])  # no function, no change
        wanted = np.clip(np.rint(raw[1] / light), 0, 255)
        wanted[raw[1] == 255] = 255
        assert np.array_equal(image[1], wanted)
        assert image.dtype == raw.dtype
        assert np.array_equal(one.read_region("A01", (100, 40, 180, 300)), image[:, 100:180, 40:300])
        assert one.image_stamp("A01") != stamp
    assert file.read_bytes() == bytes_before
    folders = list((project.root / "illumination").iterdir())
    project.set_illumination({(plate, "DNA"): light**2}, "divide", "brought")
    assert len(list((project.root / "illumination").iterdir())) == len(folders) == 1
    project.set_illumination({}, "divide", "")
    assert project.illumination is None
    assert np.array_equal(open_project(project.root).read_image("A01"), raw)
    assert project.image_stamp("A01") == stamp


def test_a_function_of_another_size_is_said(sample_project: Project):
    plate = sample_project.field("A01").metadata["plate"]
    sample_project.set_illumination({(plate, "DNA"): np.ones((4, 5), np.float32)}, "divide", "brought")
    with pytest.raises(InputError, match="640×640 px and its illumination function is 5×4 px"):
        sample_project.read_image("A01")


def test_files_are_matched_by_plate_and_channel():
    channels = [Channel("DNA", "nucleus"), Channel("mtDNA", "mito"), Channel("AGP", "agp")]
    paths = [Path(f"illum/{p}/{p}_Illum{c}.npy") for p in ("BR1", "BR2") for c in ("DNA", "mtDNA", "AGP")]
    found = match_functions(paths, ["BR1", "BR2"], channels)
    assert len(found) == 6
    assert found["BR2", "DNA"] == Path("illum/BR2/BR2_IllumDNA.npy")
    assert found["BR1", "mtDNA"] == Path("illum/BR1/BR1_IllummtDNA.npy")
    one = match_functions([Path("x/IllumDNA.tif")], ["BR1", "BR2"], channels)
    assert set(one) == {("BR1", "DNA"), ("BR2", "DNA")}  # one for all plates
    assert set(match_functions([Path("x/IllumDNA.tif")], [""], channels)) == {("", "DNA")}
    with pytest.raises(InputError, match="No file is of a channel"):
        match_functions([Path("x/IllumER.tif")], [""], channels)
    with pytest.raises(InputError, match="both fit channel DNA"):
        match_functions([Path("x/IllumDNA.tif"), Path("x/2_DNA.npy")], [""], channels)


def test_functions_as_cellprofiler_saves_them(tmp_path: Path):
    light = _fall_off(6, 7)
    np.save(tmp_path / "a.npy", light.astype(np.float64)[None])
    tifffile.imwrite(tmp_path / "a.tif", light)
    for name in ("a.npy", "a.tif"):
        assert np.array_equal(read_function(tmp_path / name), light)
    np.save(tmp_path / "bad.npy", np.array(["x"], dtype=object))
    for name, words in (("bad.npy", "cannot be read"), ("none.npy", "is not there")):
        with pytest.raises(InputError, match=words):
            read_function(tmp_path / name)
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    with pytest.raises(InputError, match="no illumination function"):
        read_function(tmp_path / "nan.npy")
