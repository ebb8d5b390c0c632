"""A small real project, made once and copied for every test that writes to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import CHANNELS, SAMPLE
from napari_cellrep.steps.segment import segment

WELLS = ("A01", "A06", "A12", "E12")


@pytest.fixture(scope="session")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 256 px corner of four wells of the bundled sample."""
    folder = tmp_path_factory.mktemp("corners")
    for well in WELLS:
        image = tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :256, :256]
        tifffile.imwrite(folder / f"{well}.tif", np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True)
    return folder


@pytest.fixture(scope="session")
def _made(corners: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "small.cellrep"
    project = drain(
        import_fields(
            root, [corners], channels=CHANNELS, pattern=r"(?P<well>[A-H]\d\d)\.tif", metadata=SAMPLE / "plate.csv",
            group_by=("well",),
        )
    )  # fmt: skip
    drain(segment(project))
    drain(crop(project))
    return project.root


@pytest.fixture
def small(_made: Path, corners: Path, tmp_path: Path) -> Project:
    """Four real fields, segmented, with a cell table; yours to change."""
    shutil.copytree(corners, tmp_path / corners.name, dirs_exist_ok=True)
    # the same depth below the images as the original, so that relative paths lead to the copy
    root = tmp_path / _made.parent.name / _made.name
    shutil.copytree(_made, root)
    project = open_project(root)
    assert all((project.root / p.path).exists() for f in project.fields for p in f.planes)
    return project
