"""A small real project, made once and copied for every test that writes to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from _corners import corners
from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import QualityRules, measure_field, set_flags
from napari_cellrep.jobs import drain
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import CHANNELS, SAMPLE

WELLS = ("A01", "A06", "A12", "E12")


@pytest.fixture(scope="session")
def _small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 256 px corner of four wells of the bundled sample, and a project of them beside it."""
    base = tmp_path_factory.mktemp("made")
    corners(base / "small.cellrep", WELLS, 256)
    return base


@pytest.fixture
def small(_small: Path, tmp_path: Path) -> Project:
    """Four real fields, segmented, with a cell table; images and project are yours to change."""
    shutil.copytree(_small, tmp_path / "lab")
    project = open_project(tmp_path / "lab" / "small.cellrep")
    assert not any(Path(p.path).is_absolute() for f in project.fields for p in f.planes)
    return project


@pytest.fixture(scope="session")
def _simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight whole wells of the sample, both drugs with both controls; vectors are plain intensities and shapes."""
    wells = [
        SAMPLE / "wells" / f"{well}.ome.tif"
        for well in ("A01", "A05", "A06", "A09", "A12", "E01", "E06", "E12")
    ]
    root = tmp_path_factory.mktemp("simple") / "simple.cellrep"
    project = drain(
        import_fields(root, wells, channels=CHANNELS, metadata=SAMPLE / "plate.csv", group_by=("well",))
    )
    frames = []
    for field in project.fields:
        image = project.read_image(field.id)
        dna = ndimage.gaussian_filter(image[1].astype(np.float32), 2)
        labels = ndimage.label(ndimage.binary_opening(dna > threshold_otsu(dna), iterations=3))[0]
        project.write_labels(field.id, labels, {"segmenter": "Otsu of the tests"})
        frames.append(measure_field(field, image, labels, project.channels, 64))
    cells = project.merge(set_flags(pd.concat(frames), QualityRules()))
    project.start_embedding("simple", {"model": "simple"})
    for field in project.fields:
        own = cells.obs[cells.obs["field"].astype(str) == field.id]
        image, labels = project.read_image(field.id).astype(np.float32), project.read_labels(field.id)
        ids = own["label"].to_numpy()
        ratio = nucleus_ring_ratio(image[0], labels)
        columns = [np.log(np.maximum([ratio[int(i)] for i in ids], 0.05)), own["area_px"].to_numpy()]
        for plane in image:
            columns += [ndimage.mean(plane, labels, ids), ndimage.standard_deviation(plane, labels, ids)]
        x = np.nan_to_num(np.stack(columns, axis=1)).astype(np.float32)
        project.write_rows("simple", field.id, ids, own["mask_hash"].to_numpy(), x)
    project.merge()
    return project.root


@pytest.fixture
def simple_project(_simple: Path, tmp_path: Path) -> Project:
    """A test's own copy of a project with cells, flags and one embedding called "simple" (6 numbers)."""
    root = tmp_path / _simple.name
    shutil.copytree(_simple, root)
    return open_project(root)
