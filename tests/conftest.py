"""Fixtures every room uses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import QualityRules, measure_field, set_flags
from napari_cellrep.jobs import drain
from napari_cellrep.steps.import_fields import import_fields

# As scanpy sets it on import, and pandas 3 for everybody: arrays of a table's columns may not be written to.
pd.options.mode.copy_on_write = True

SAMPLE = Path(__file__).parents[1] / "src" / "napari_cellrep" / "sample"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real microscopy images and golden vectors beside the checkout."""
    folder = Path(os.environ.get("CELLREP_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder} (set CELLREP_SHARED)")
    return folder


def _quick_nuclei(image: np.ndarray) -> np.ndarray:
    """Labels (H, W) of the nuclei in channel 1: Otsu and a watershed, so that data tests need no segmenter."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.segmentation import watershed

    dna = gaussian(image[1], 1.5)
    mask = ndimage.binary_fill_holes(dna > threshold_otsu(dna))
    distance = gaussian(ndimage.distance_transform_edt(mask), 1)
    peaks = np.zeros(mask.shape, bool)
    peaks[tuple(peak_local_max(distance, min_distance=5, labels=label(mask)).T)] = True
    return watershed(-distance, label(peaks), mask=mask).astype(np.int32)


@pytest.fixture(scope="session")
def quick_nuclei() -> Callable[[np.ndarray], np.ndarray]:
    """Image (C, H, W) → labels (H, W) of what is bright in channel 1."""
    return _quick_nuclei


@pytest.fixture(scope="session")
def _sample_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four wells of the bundled sample, segmented, with its cell table."""
    wells = [SAMPLE / "wells" / f"{well}.ome.tif" for well in ("A01", "A06", "A12", "E12")]
    project = drain(
        import_fields(
            tmp_path_factory.mktemp("sample") / "sample", wells, channels=("FKHR-GFP:protein", "DNA:nucleus"),
            metadata=SAMPLE / "plate.csv",
        )
    )  # fmt: skip
    frames = []
    for field in project.fields:
        image = project.read_image(field.id)
        labels = _quick_nuclei(image)
        project.write_labels(field.id, labels, {"segmenter": "quick_nuclei of the tests"})
        frames.append(measure_field(field, image, labels, project.channels, 64))
    import pandas as pd

    project.merge(set_flags(pd.concat(frames), QualityRules()))
    return project.root


@pytest.fixture
def sample_project(_sample_project: Path, tmp_path: Path) -> Project:
    """A test's own copy of a small real project: wells A01, A06, A12 and E12, labels and cells, no embedding."""
    root = tmp_path / _sample_project.name
    shutil.copytree(_sample_project, root)
    return open_project(root)
