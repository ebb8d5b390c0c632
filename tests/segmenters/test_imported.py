from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from napari_cellrep.segmenters import Source, imported
from napari_cellrep.specs import Channel, InputError

DNA = [Channel("DNA", "nucleus")]
IMAGE = np.zeros((1, 20, 30), np.uint16)


def labels_of(path, **settings):
    return imported.segment(IMAGE, DNA, imported.Config(pattern=str(path), **settings), field_id="A1")


@pytest.fixture
def two():
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:8], labels[10:15, 20:28] = 7, 900
    return labels


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbered_labels_keep_their_numbers(tmp_path, two, dtype):
    tifffile.imwrite(tmp_path / "A1_mask.tif", two.astype(dtype))
    labels = labels_of(tmp_path / "{field}_mask.tif")
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, two)


def test_real_labels_keep_their_gaps(shared):
    path = shared / "data" / "mibi_tnbc_fov8"
    file = next(path.glob("*labels.tif"))
    truth = tifffile.imread(file)
    found = imported.segment(
        np.zeros((1, *truth.shape), np.uint8), DNA, imported.Config(pattern=str(path / "*{field}*labels.tif")),
        field_id="fov8",
    )  # fmt: skip
    np.testing.assert_array_equal(found, truth)
    assert len(np.unique(found)) - 1 < found.max()


@pytest.mark.parametrize("value", [1, 255])
def test_black_and_white_masks_are_numbered(tmp_path, two, value):
    iio.imwrite(tmp_path / "A1.png", ((two > 0) * value).astype(np.uint8))
    labels = labels_of(tmp_path / "{field}.png")
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, two > 0)
    assert labels_of(tmp_path / "{field}.png", relabel="never").max() == value


def test_a_mask_saved_as_grey_rgb_is_read(tmp_path, two):
    iio.imwrite(tmp_path / "A1.png", np.stack([(two > 0).astype(np.uint8) * 255] * 3, axis=-1))
    assert labels_of(tmp_path / "{field}.png").max() == 2


def test_small_and_border_cells_can_be_dropped(tmp_path, two):
    two[0, 0] = 3
    tifffile.imwrite(tmp_path / "A1.tif", two)
    assert set(np.unique(labels_of(tmp_path / "A1.tif", min_area_px=2))) == {0, 7, 900}
    assert set(np.unique(labels_of(tmp_path / "A1.tif", drop_border=True))) == {0, 7, 900}


def test_an_empty_mask_is_an_empty_field(tmp_path):
    tifffile.imwrite(tmp_path / "A1.tif", np.zeros((20, 30), np.uint8))
    assert not labels_of(tmp_path / "{field}.tif").any()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((30, 20), np.uint8), "20×30 px and field A1 is 30×20"),
        (np.full((20, 30), 0.5, np.float32), "whole numbers"),
        (np.full((20, 30), -1, np.int16), "whole numbers"),
        (np.zeros((5, 20, 30), np.uint8), "one plane"),
    ],
)
def test_what_is_no_label_image_is_a_sentence(tmp_path, array, says):
    tifffile.imwrite(tmp_path / "A1.tif", array)
    with pytest.raises(InputError, match=says):
        labels_of(tmp_path / "{field}.tif")


def test_files_that_are_not_there_or_not_one_are_a_sentence(tmp_path, two):
    with pytest.raises(InputError, match="setting pattern"):
        imported.segment(IMAGE, DNA, imported.Config(), field_id="A1")
    with pytest.raises(InputError, match="no file"):
        labels_of(tmp_path / "{field}.tif")
    for name in ("A1_a.tif", "A1_b.tif"):
        tifffile.imwrite(tmp_path / name, two)
    with pytest.raises(InputError, match="2 files"):
        labels_of(tmp_path / "{field}_*.tif")
    with pytest.raises(InputError, match="field's id"):
        imported.segment(IMAGE, DNA, imported.Config(pattern="{field}.tif"))
    (tmp_path / "A1.tif").write_bytes(b"II*\0broken")
    with pytest.raises(InputError, match="cannot be read"):
        labels_of(tmp_path / "{field}.tif")


def test_an_empty_pattern_finds_the_one_file_beside_the_image(tmp_path, two):
    beside = Source((tmp_path / "plate_A1.ome.tif",))
    config = imported.Config()
    with pytest.raises(InputError, match=r"no labels beside plate_A1\.ome\.tif"):
        imported.segment(IMAGE, DNA, config, field_id="A1", source=beside)
    np.save(tmp_path / "plate_A1_seg.npy", {"masks": two})
    np.testing.assert_array_equal(imported.segment(IMAGE, DNA, config, field_id="A1", source=beside), two)
    iio.imwrite(tmp_path / "plate_A1_cp_masks.png", two)
    with pytest.raises(InputError, match=r"2 files of labels.*\{file\}_seg.npy"):
        imported.segment(IMAGE, DNA, config, field_id="A1", source=beside)
    (tmp_path / "plate_A1_seg.npy").unlink()
    np.testing.assert_array_equal(imported.segment(IMAGE, DNA, config, field_id="A1", source=beside), two)


def test_the_images_name_and_folder_serve_a_pattern(tmp_path, two):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "plate_A1-cells.tif", two)
    source = Source((tmp_path / "images" / "plate_A1.tif",))
    for pattern in (tmp_path / "masks" / "{file}-*.tif", "../masks/{file}-cells.tif"):
        config = imported.Config(pattern=str(pattern))
        np.testing.assert_array_equal(imported.segment(IMAGE, DNA, config, field_id="A1", source=source), two)
        assert imported.files_read(config, "A1", source)[0].samefile(
            tmp_path / "masks" / "plate_A1-cells.tif"
        )
    with pytest.raises(InputError, match="image's file"):
        imported.segment(IMAGE, DNA, config, field_id="A1")


@pytest.mark.parametrize(
    ("path", "field", "image", "pattern"),
    [
        ("/m/A01_mask.png", "A01", "x/A01.tif", "/m/{field}_mask.png"),
        ("/m/plate1_A01_seg.npy", "week1_A01", "x/plate1_A01.tif", "/m/{file}_seg.npy"),
        ("/A01/masks/cells.tif", "A01", "A01/image.tif", "/{field}/masks/cells.tif"),
        ("/m/cells.tif", "A", "x/A.tif", "/m/cells.tif"),
    ],
)
def test_a_chosen_file_tells_the_pattern_of_the_others(path, field, image, pattern):
    assert imported.pattern_of(Path(path), field, [Path(image)]) == pattern
