"""A small real project: corners of wells of the bundled sample, segmented and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import CHANNELS, SAMPLE
from napari_cellrep.steps.segment import segment


def corners(root: Path, wells: Sequence[str], side_px: int) -> Project:
    """The project `root` of the upper left corners of some wells, which lie in ``images`` beside it, with a cell table."""
    images = root.parent / "images"
    images.mkdir()
    for well in wells:
        image = tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :side_px, :side_px]
        tifffile.imwrite(
            images / f"{well}.tif", np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True
        )
    project = drain(
        import_fields(
            root, [images], channels=CHANNELS, pattern=r"(?P<well>[A-H]\d\d)\.tif",
            metadata=SAMPLE / "plate.csv", group_by=("well",),
        )
    )  # fmt: skip
    drain(segment(project))
    drain(crop(project))
    return project
