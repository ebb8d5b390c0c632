"""Drawn fields with known cells, and one real well."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

import napari_cellrep
from napari_cellrep.specs import Channel


@pytest.fixture(scope="session")
def well() -> np.ndarray:
    """One real field of the bundled sample: FKHR-GFP, DNA; uint8."""
    return tifffile.imread(Path(napari_cellrep.__file__).parent / "sample" / "wells" / "A05.ome.tif")


@pytest.fixture
def channels() -> list[Channel]:
    return [Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus")]


@pytest.fixture(scope="session")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Two planes (cells, nuclei) of 12 cells, two of them touching, blurred and noisy; and the nuclei's truth."""
    rng = np.random.default_rng(0)
    truth = np.zeros((200, 260), np.int32)
    y, x = np.indices(truth.shape)
    middles = [(30 + 50 * (k // 4) + 5, 35 + 60 * (k % 4)) for k in range(12)]
    middles[1] = (middles[0][0], middles[0][1] + 21)  # touching
    cells = np.zeros(truth.shape)
    for k, (cy, cx) in enumerate(middles, start=1):
        truth[(y - cy) ** 2 / 81 + (x - cx) ** 2 / 110 <= 1] = k
        cells[(y - cy) ** 2 + (x - cx) ** 2 <= 20**2] = 60
    nuclei = ndimage.gaussian_filter((truth > 0) * 120.0, 1.2)
    cells = ndimage.gaussian_filter(cells, 1.2)
    image = np.stack([cells, nuclei]) + 20 + rng.normal(0, 2, (2, *truth.shape))
    return image.clip(0).astype(np.uint16), truth
