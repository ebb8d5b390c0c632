import numpy as np
import pytest

from napari_cellrep.segmenters import _blobs, nuclei
from napari_cellrep.specs import Channel

DNA = [Channel("DNA", "nucleus")]


def n_found(truth, labels):
    """How many true objects one label covers with an IoU above 0.5."""
    return sum(
        any(
            np.sum((truth == t) & (labels == k)) > 0.5 * np.sum((truth == t) | (labels == k))
            for k in np.unique(labels[truth == t])
            if k
        )
        for t in range(1, truth.max() + 1)
    )


def test_drawn_nuclei_are_found_and_touching_ones_parted(drawn):
    image, truth = drawn
    labels = nuclei.segment(image[1:], DNA, nuclei.Config())
    assert labels.max() == 12
    assert n_found(truth, labels) == 12
    first = [np.flatnonzero(labels == k)[0] for k in range(1, 13)]
    assert first == sorted(first)
    joined = nuclei.segment(image[1:], DNA, nuclei.Config(split=False))
    assert joined.max() == 11


def test_uneven_light_and_background_do_not_matter(drawn):
    image, truth = drawn
    plane = image[1].astype(np.float32)
    x = np.linspace(0, 1, plane.shape[1], dtype=np.float32)[None]
    for uneven in (plane * (1 + 2 * x), plane + 150 * x):
        assert n_found(truth, nuclei.segment(uneven[None], DNA, nuclei.Config())) == 12


def test_one_very_bright_nucleus_does_not_hide_the_others(drawn):
    image, truth = drawn
    plane = image[1].astype(np.float32)
    plane[truth == 6] *= 8
    assert n_found(truth, nuclei.segment(plane[None], DNA, nuclei.Config())) >= 11


def test_large_nuclei_are_found_at_a_coarser_scale(drawn):
    image, truth = drawn
    big = np.kron(image[1], np.ones((4, 4)))
    labels = nuclei.segment(big[None], DNA, nuclei.Config())
    assert labels.shape == big.shape
    assert n_found(np.kron(truth, np.ones((4, 4), int)), labels) == 12


def test_size_and_border_rules(drawn):
    image, _ = drawn
    cut = image[1:, 30:]  # the first row loses its upper half
    every = nuclei.segment(cut, DNA, nuclei.Config())
    inner = nuclei.segment(cut, DNA, nuclei.Config(drop_border=True))
    assert every.max() == 12
    assert inner.max() == 8
    assert not inner[0].any()
    area = np.bincount(every.ravel())[1:]
    large = nuclei.segment(cut, DNA, nuclei.Config(min_area_px=int(np.median(area) * 0.8)))
    assert large.max() == np.sum(area >= np.median(area) * 0.8)
    assert nuclei.segment(cut, DNA, nuclei.Config(max_area_px=20, min_area_px=1)).max() == 0


def test_holes_belong_to_the_nucleus_unless_told_otherwise(drawn):
    image, truth = drawn
    plane = image[1].astype(np.float32)
    y, x = (np.flatnonzero((truth == 6).any(axis=a)).mean() for a in (1, 0))
    yy, xx = np.indices(plane.shape)
    hole = np.hypot(yy - y, xx - x) < 3
    plane[hole] = 20
    filled = nuclei.segment(plane[None], DNA, nuclei.Config())
    assert (filled[hole] > 0).all()
    assert (nuclei.segment(plane[None], DNA, nuclei.Config(fill_holes=False))[hole] == 0).any()


@pytest.mark.slow
def test_the_real_well_has_as_many_nuclei_as_it_shows(well, channels):
    labels = nuclei.segment(well, channels, nuclei.Config())
    area = np.bincount(labels.ravel())[1:]
    assert 190 <= labels.max() <= 250
    assert 100 < np.median(area) < 350
    # nuclei are bright: the outlines hold most of the light above the background
    light = well[1].astype(float) - np.median(well[1])
    assert light[labels > 0].sum() > 0.7 * light[light > 0].sum()


@pytest.mark.parametrize("diameter", [8, 15, 30, 60])
def test_the_diameter_is_estimated_from_touching_discs(diameter):
    y, x = np.indices((8 * diameter, 8 * diameter))
    step = 2 * diameter
    disc = (y % step - diameter / 2) ** 2 + (x % step - diameter / 2) ** 2 <= diameter**2 / 4
    plane = np.where(disc, 100, 10) + np.random.default_rng(0).normal(0, 1, disc.shape)
    assert _blobs.estimate_diameter(plane.astype(np.float32)) == pytest.approx(diameter, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
def test_area_limits_are_in_the_image_s_own_pixels_at_every_scale(drawn, scale):
    image, _ = drawn
    plane = image[1, ::2, ::2] if scale == 2 else np.kron(image[1], np.ones((4, 4)))
    every = nuclei.segment(plane[None], DNA, nuclei.Config())
    area = np.bincount(every.ravel())[1:]
    assert every.max() == 12
    assert nuclei.segment(plane[None], DNA, nuclei.Config(min_area_px=int(0.7 * area.min()))).max() == 12
    assert nuclei.segment(plane[None], DNA, nuclei.Config(min_area_px=int(1.4 * area.max()))).max() == 0
    assert nuclei.segment(plane[None], DNA, nuclei.Config(max_area_px=int(1.4 * area.max()))).max() == 12
