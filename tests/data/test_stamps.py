"""Whether images are still those that something was made from, with real files."""

import os
import shutil
import time

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import open_project
from napari_cellrep.data import stamps as stamps_module
from napari_cellrep.data.images import Plane
from napari_cellrep.data.stamps import BETWEEN, END_BYTES, ImageStamps, content_of, made_from


@pytest.fixture
def image(tmp_path):
    """A TIFF of 6 MB, larger than what is read of a file."""
    path = tmp_path / "images" / "A01.tif"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 1000, 1000), np.uint16)
    tifffile.imwrite(path, pixels, metadata={"axes": "CYX"}, ome=True)
    return path


def test_touching_moving_and_copying_change_nothing_and_other_pixels_do(image, tmp_path):
    (tmp_path / "a.cellrep").mkdir()
    planes = [Plane("../images/A01.tif", channel) for channel in range(3)]
    stamps = ImageStamps(tmp_path / "a.cellrep")
    first = stamps.of(planes)
    assert len(first) == 16
    os.utime(image, (1, 1))
    assert stamps.of(planes) == first
    other = tmp_path / "elsewhere" / "renamed.tif"
    other.parent.mkdir()
    shutil.copyfile(image, other)
    assert stamps.of([Plane(str(other), channel) for channel in range(3)]) == first
    assert stamps.of(planes[::-1]) != first
    for at in (1000, image.stat().st_size // 2, image.stat().st_size - 1000):
        with image.open("r+b") as f:
            f.seek(at)
            f.write(b"\0" * 300_000 if at > 1000 else b"\0" * 8)
        os.truncate(image, other.stat().st_size)
        now = stamps.of(planes)
        assert now != first, at
        shutil.copyfile(other, image)
    image.unlink()
    assert stamps.of(planes) == ""


def test_a_file_is_read_again_only_when_its_size_or_time_changed(image, tmp_path, monkeypatch):
    root = tmp_path / "a.cellrep"
    root.mkdir()
    planes, read = [Plane("../images/A01.tif", channel) for channel in range(3)], []

    def counted(path):
        read.append(path.name)
        return content_of(path)

    monkeypatch.setattr(stamps_module, "content_of", counted)
    stamps = ImageStamps(root)
    first = stamps.of(planes)
    assert read == ["A01.tif"]
    stamps.keep()
    again = ImageStamps(root)
    assert again.of(planes) == first
    assert len(read) == 1
    os.utime(image, (1, 1))
    assert again.of(planes) == first
    assert len(read) == 2
    again.keep()
    (root / "images.json").write_text("[]")  # damaged: read again, no error
    assert list(ImageStamps(root).of_many([planes, planes])) == [first, first]


def test_of_a_large_file_only_parts_are_read(tmp_path):
    path = tmp_path / "slide.tif"
    with path.open("wb") as f:
        f.truncate(4 << 30)  # takes no space
    start = time.process_time()
    content_of(path)
    assert time.process_time() - start < 0.5
    assert 2 * END_BYTES + BETWEEN * stamps_module.PART_BYTES < 3 << 20


def test_a_chunk_of_an_ome_zarr_counts(sample_project, tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "A01.zarr", mode="w", zarr_format=2)
    pixels = sample_project.read_image("A01")
    array = group.create_array("0", shape=pixels.shape, chunks=(1, 320, 320), dtype=pixels.dtype)
    array[:] = pixels
    before = content_of(tmp_path / "A01.zarr")
    shutil.copytree(tmp_path / "A01.zarr", tmp_path / "copy.zarr")
    assert content_of(tmp_path / "copy.zarr") == before
    array[:] = pixels[:, ::-1]
    assert content_of(tmp_path / "A01.zarr") != before


def test_what_labels_say_of_their_image():
    assert made_from({"image": ["0123456789abcdef", ["illumination", "x"]]}) == "0123456789abcdef"
    assert made_from({"image": [["A01.tif", 0, "", 12, 34]]}) == ""  # of before contents were compared
    assert made_from({"edited": True}) == made_from({"image": []}) == ""


def test_the_project_looks_at_all_images_of_its_cells(sample_project):
    assert sample_project.look_at_images().now == {}  # nothing was noted of them
    now = {f.id: sample_project.pixels_of(f.id) for f in sample_project.fields}
    assert len(set(now.values())) == 4
    sample_project.merge(pixels=now)
    sample_project.keep_stamps()
    again = open_project(sample_project.root)
    assert again.measured_from() == now
    assert again.look_at_images().replaced == ()
