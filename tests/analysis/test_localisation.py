from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from napari_cellrep.analysis.localisation import log_ratio_score, nucleus_ring_ratio
from napari_cellrep.specs import InputError


def test_score_is_the_logarithm_of_the_distances():
    z = np.array([[-1.0, 1], [-1, -1], [1, 1], [1, -1], [0, 7], [3, 0]])
    a, b = np.array([1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 1, 1, 0, 0], bool)
    score = log_ratio_score(z, a, b)
    assert score[4] == pytest.approx(0)
    assert score[5] == pytest.approx(np.log(4 / 2))
    assert np.all(score[:2] < 0)
    assert np.all(score[2:4] > 0)
    assert np.allclose(log_ratio_score(z, b, a), -score)


def test_degenerate_references_are_refused_and_rows_marked():
    z = np.array([[0.0, 0], [2, 0], [5, 5], [6, 6], [1, 0], [np.nan, 0]])
    a, b = np.array([1, 1, 0, 0, 0, 1], bool), np.array([0, 0, 1, 1, 0, 0], bool)
    score = log_ratio_score(z, a, b)
    assert np.isnan(score).tolist() == [False, False, False, False, True, True]  # on µ_A; not finite
    with pytest.raises(InputError, match=r"Reference B needs at least 2 cells .* it has 1"):
        log_ratio_score(z, a, np.array([0, 0, 1, 0, 0, 0], bool))
    with pytest.raises(InputError, match="same mean"):
        log_ratio_score(z, a, a)


def test_ratio_of_a_drawn_cell_is_what_was_drawn():
    y, x = np.mgrid[:100, :100]
    r1, r2 = np.hypot(y - 50, x - 30), np.hypot(y - 50, x - 60)
    nuclei = np.where(r1 <= 10, 4, np.where(r2 <= 10, 9, 0))
    protein = np.full((100, 100), 10.0)
    protein[(r1 < 25) | (r2 < 25)] = 30
    protein[r1 <= 10], protein[r2 <= 10] = 110, 20
    ratio = nucleus_ring_ratio(protein, nuclei, background=10)
    # Rings (3 to 7 px out) of the two touch neither the other nucleus nor the background.
    assert ratio == {4: pytest.approx(5), 9: pytest.approx(0.5)}


def test_no_ring_no_number():
    nuclei = np.ones((30, 30), int)
    assert np.isnan(nucleus_ring_ratio(np.ones((30, 30)), nuclei)[1])
    assert nucleus_ring_ratio(np.ones((30, 30)), nuclei * 0) == {}
    with pytest.raises(InputError, match="sizes have to match"):
        nucleus_ring_ratio(np.ones((30, 31)), nuclei)


def quick_nuclei(dna: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(dna.astype(np.float32), 2)
    mask = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 2)
    seeds = np.zeros(dna.shape, np.int32)
    peaks = peak_local_max(depth, min_distance=7, labels=ndimage.label(mask)[0])
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, seeds, mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "least"), [("A", 0.85), ("C", 0.75), ("E", 0.85), ("G", 0.75)])
def test_textbook_ratio_follows_the_dose(shared: Path, row: str, least: float):
    """Doses 0–2 and 6–10 are plateaus, where ranks are luck: rows C and G reach less, and the levels say more."""
    plate = pd.read_csv(shared / "data" / "bbbc013" / "plate.csv")
    plate = plate[plate.row == row]
    medians = []
    for well in plate.well:
        protein, dna = tifffile.imread(shared / "data" / "bbbc013" / "wells" / f"{well}.ome.tif")
        medians.append(np.nanmedian(list(nucleus_ring_ratio(protein, quick_nuclei(dna)).values())))
    plate = plate.assign(ratio=medians)
    doses = plate[plate.control == 0]
    assert spearmanr(doses.dose_rank, doses.ratio).statistic >= least
    assert doses.ratio[doses.dose_rank <= 2].mean() < 1.1
    assert doses.ratio[doses.dose_rank >= 7].mean() > 4
