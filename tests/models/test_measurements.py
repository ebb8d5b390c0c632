from __future__ import annotations

import mahotas
import numpy as np
import pytest
import torch
from skimage.measure import regionprops

from napari_cellrep.models import create_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models.measurements import HARALICK, N_LEVELS, SCALES_PX


def measure(crops: np.ndarray, *channels: str) -> list[dict[str, float]]:
    model = create_model("measurements", channels=channels or ("protein", "structure"))
    vectors = model.embed(model.preprocess(torch.from_numpy(crops))).numpy()
    return [dict(zip(model.feature_names(), row.tolist(), strict=True)) for row in vectors]


def test_names_are_unique_and_one_per_column():
    model = create_model("measurements", channels=("protein", "nucleus", "er"))
    names = model.feature_names()
    assert len(set(names)) == len(names) == model.dim() == 3 * 3 + 2 + 3 * 5 * 13 + 8
    assert {"protein.mean", "protein.correlation_er", "er.entropy_16px", "cell.area_px"} <= set(names)
    assert (
        len(set(create_model("measurements", channels=("protein", "structure", "structure")).feature_names()))
        == 214
    )


def test_intensities_and_correlation_are_those_inside_the_mask(masked_cells):
    crops = masked_cells.array[:6]
    for crop, found in zip(crops, measure(crops), strict=True):
        protein, dna = (plane[crop[2] > 0].astype(float) for plane in crop[:2])
        assert found["protein.sum"] == pytest.approx(protein.sum())
        assert found["protein.mean"] == pytest.approx(protein.mean())
        assert found["structure.sd"] == pytest.approx(dna.std(), rel=1e-5)
        assert found["protein.correlation_structure"] == pytest.approx(
            np.corrcoef(protein, dna)[0, 1], abs=1e-5
        )


def test_texture_is_that_of_mahotas(masked_cells):
    """The library the papers' features come from, on its own grey levels, scale by scale."""
    crops = masked_cells.array[::12]
    for crop, found in zip(crops, measure(crops), strict=True):
        mask = crop[2] > 0
        pixels = crop[0].astype(float)
        low, high = pixels[mask].min(), pixels[mask].max()
        levels = 1 + np.clip(np.floor((pixels - low) / (high - low) * N_LEVELS), 0, N_LEVELS - 1).astype(int)
        levels[~mask] = 0
        compared = 0
        for d in SCALES_PX:
            try:
                theirs = mahotas.features.haralick(
                    levels, ignore_zeros=True, distance=d, use_x_minus_y_variance=True, return_mean=True
                )
            except ValueError:  # mahotas gives up when one direction has no pairs
                continue
            ours = [found[f"protein.{feature}_{d}px"] for feature in HARALICK]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
            compared += 1
        assert compared >= 3


def test_shape_agrees_with_scikit_image(masked_cells):
    crops = masked_cells.array[::6]
    for crop, found in zip(crops, measure(crops), strict=True):
        region = regionprops((crop[2] > 0).astype(int))[0]
        assert found["cell.area_px"] == region.area
        assert found["cell.extent"] == pytest.approx(region.extent)
        assert found["cell.perimeter_px"] == pytest.approx(region.perimeter_crofton)
        assert found["cell.eccentricity"] == pytest.approx(region.eccentricity, abs=0.01)
        assert found["cell.major_axis_px"] == pytest.approx(region.axis_major_length, rel=0.01)
        assert found["cell.solidity"] == pytest.approx(region.solidity, abs=0.07)  # theirs counts hull pixels


def test_texture_does_not_depend_on_brightness_and_intensity_does(masked_cells):
    crops = masked_cells.array[:4].astype(np.uint16)
    brighter = crops.copy()
    brighter[:, :2] = brighter[:, :2] * 4 + 100
    for a, b in zip(measure(crops), measure(brighter), strict=True):
        for name in a:
            if "px" in name or "correlation" in name:
                assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-3), name
        assert b["protein.mean"] == pytest.approx(4 * a["protein.mean"] + 100, rel=1e-5)


def test_odd_cells_are_finite():
    crops = np.zeros((4, 3, 64, 64), np.uint16)
    crops[:, :2] = 500
    crops[0, 2, 10, 10] = 1  # one pixel
    crops[1, 2, 10:14, 10] = 1  # a line
    crops[2, 2] = 1  # the whole window, constant
    crops[3, 2, 0, 0] = crops[3, 2, 63, 63] = 1  # two corners: pairs in no direction
    for found in measure(crops):
        assert np.isfinite(list(found.values())).all()
        assert found["protein.sd"] == 0
        assert found["protein.correlation_structure"] == 0
    one = measure(crops)[0]
    assert one["cell.area_px"] == one["cell.solidity"] == one["cell.extent"] == 1
    assert one["protein.contrast_1px"] == 0


def test_a_cell_without_a_mask_or_with_nan_pixels_is_flagged_not_invented(masked_cells):
    crops = masked_cells.array[:3].astype(np.float32)
    crops[0, 2] = 0
    crops[1, 0, 32, 32] = np.nan
    embedder = Embedder(create_model("measurements"))
    rows = embedder.run(crops)["features"]
    assert np.isnan(rows[:2]).all()
    assert np.isfinite(rows[2]).all()
    assert any("2 of 3 cells" in note for note in embedder.notes)
