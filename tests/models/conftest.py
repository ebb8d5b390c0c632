"""Real cells for the models' tests: nuclei of four bundled BBBC013 wells, found by a plain threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from array_cells import ArrayCells
from scipy import ndimage
from skimage.filters import threshold_otsu

import napari_cellrep
from napari_cellrep.data.crops import Boxes, cut_crops, find_cells
from napari_cellrep.specs import CropSpec

WELLS = ("A01", "A05", "A12", "E07")


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks are fastest, and repeat exactly, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def whole_cells(folder: Path, well: str) -> tuple[np.ndarray, np.ndarray, Boxes]:
    """A well's image, labels and 24 of its cells."""
    image = tifffile.imread(folder / f"{well}.ome.tif")
    dna = ndimage.gaussian_filter(image[1].astype(float), 2)
    labels, _ = ndimage.label(dna > threshold_otsu(dna))
    cells = find_cells(labels)
    whole = (cells.area_px > 60) & (cells.box.min(axis=1) > 0) & (cells.box.max(axis=1) < 640)
    keep = np.flatnonzero(whole)[:24]
    return image, labels, Boxes(*(getattr(cells, k)[keep] for k in ("label", "area_px", "centroid", "box")))


@pytest.fixture(scope="session")
def well() -> tuple[np.ndarray, np.ndarray, Boxes]:
    """A whole field: image (2, 640, 640) uint8, labels, and where 24 cells are."""
    return whole_cells(Path(napari_cellrep.__file__).parent / "sample" / "wells", "A05")


@pytest.fixture(scope="session")
def masked_cells() -> ArrayCells:
    """Crops with the cell's mask as the last plane: (n, 3, 64, 64) uint8, 24 cells per well."""
    folder = Path(napari_cellrep.__file__).parent / "sample" / "wells"
    crops, groups = [], []
    for i, well in enumerate(WELLS):
        crops.append(cut_crops(*whole_cells(folder, well), CropSpec(mask_plane=True)))
        groups.append(np.full(len(crops[-1]), i))
    return ArrayCells(np.concatenate(crops), np.concatenate(groups))


@pytest.fixture(scope="session")
def cells(masked_cells: ArrayCells) -> ArrayCells:
    """The same cells without the mask: (n, 2, 64, 64) uint8, protein then nucleus."""
    return ArrayCells(masked_cells.array[:, :2], masked_cells.groups)


@pytest.fixture
def few(cells) -> ArrayCells:
    """40 cells of two wells."""
    rows = np.r_[0:20, 60:80]
    return ArrayCells(cells.array[rows], cells.groups[rows])


@pytest.fixture
def spread(cells) -> ArrayCells:
    """96 cells of four wells, in six images each."""
    n = len(cells)
    return ArrayCells(cells.array, cells.groups, 10 * cells.groups + np.arange(n) % 6)
