import numpy as np
import pytest

from napari_cellrep.segmenters import cells, nuclei
from napari_cellrep.specs import InputError


def test_every_cell_holds_its_nucleus_and_has_its_number(drawn, channels):
    image, _ = drawn
    seeds = nuclei.segment(image, channels, nuclei.Config())
    labels = cells.segment(image, channels, cells.Config())
    np.testing.assert_array_equal(labels[seeds > 0], seeds[seeds > 0])
    lone = np.bincount(labels.ravel())[3:]  # the drawn cells have a radius of 20 px and blurred edges
    assert np.median(lone) == pytest.approx(np.pi * 21.5**2, rel=0.1)


@pytest.mark.slow
def test_a_real_well(well, channels):
    seeds = nuclei.segment(well, channels, nuclei.Config())
    labels = cells.segment(well, channels, cells.Config())
    np.testing.assert_array_equal(labels[seeds > 0], seeds[seeds > 0])
    assert np.sum(labels > 0) > 1.5 * np.sum(seeds > 0)
    gfp = well[0].astype(float)
    ring = (labels > 0) & (seeds == 0)
    assert gfp[ring].mean() > 2 * gfp[labels == 0].mean()


def test_channels_are_weighted(drawn, channels):
    image, _ = drawn
    only = cells.segment(image, channels, cells.Config(cell_channels=("nucleus",)))
    both = cells.segment(image, channels, cells.Config(cell_channels=("protein:1", "nucleus:0.0")))
    plain = cells.segment(image, channels, cells.Config(cell_channels=("protein",)))
    np.testing.assert_array_equal(both, plain)
    assert np.sum(only > 0) < 0.7 * np.sum(plain > 0)
    assert cells.read_weights(("protein:1", "a:b:0.5", "FKHR-GFP")) == {
        "protein": 1,
        "a:b": 0.5,
        "FKHR-GFP": 1,
    }


@pytest.mark.parametrize("wrong", [(), ("protein:0",), ("protein:-1",), ("protein:nan",)])
def test_weights_that_make_no_sense_are_a_sentence(wrong):
    with pytest.raises(InputError, match="cell channel"):
        cells.read_weights(wrong)


def test_cells_reach_no_farther_than_told(drawn, channels):
    image, _ = drawn
    seeds = nuclei.segment(image, channels, nuclei.Config())
    labels = cells.segment(image, channels, cells.Config(max_distance_px=3))
    from scipy import ndimage

    assert ndimage.distance_transform_edt(seeds == 0)[labels > 0].max() <= 3


def test_numbers_stay_when_border_cells_are_dropped(drawn, channels):
    image, _ = drawn
    every = cells.segment(image[:, 30:], channels, cells.Config())
    inner = cells.segment(image[:, 30:], channels, cells.Config(drop_border=True))
    kept = np.unique(inner[inner > 0])
    assert 0 < len(kept) < every.max()
    for k in kept:
        np.testing.assert_array_equal(inner == k, every == k)
