import numpy as np
import pytest
import roifile
from skimage.draw import disk, polygon2mask

from napari_cellrep.data.rois import outline, write_rois


def test_a_mask_comes_back_from_its_outline_in_fiji(tmp_path):
    mask = np.zeros((40, 50), bool)
    mask[disk((14, 20), 9)] = True
    mask[0:14, 18:22] = True  # to the edge of its box
    write_rois(tmp_path / "A01.zip", {"A01:7": outline(mask, 100, 200), "A01:9": outline(mask, 0, 0)})
    rois = roifile.roiread(tmp_path / "A01.zip")
    assert [roi.name for roi in rois] == ["A01:7", "A01:9"]
    corners = rois[0].coordinates()  # x, y from the corner of the field's first pixel
    again = polygon2mask((300, 400), corners[:, ::-1] - 0.5)
    expected = np.zeros((300, 400), bool)
    expected[100:140, 200:250] = mask
    assert (again ^ expected).sum() <= 2
    assert rois[0].left == pytest.approx(200 + np.flatnonzero(mask.any(axis=0))[0], abs=1)


def test_of_several_pieces_the_largest(tmp_path):
    mask = np.zeros((20, 20), bool)
    mask[2, 2] = True
    mask[8:18, 8:18] = True
    points = outline(mask, 0, 0)
    assert points.min() >= 8
    assert points.max() <= 18
