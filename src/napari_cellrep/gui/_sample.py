"""The bundled sample as napari sample data: one well as two layers that know the project they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platformdirs
import tifffile

from napari_cellrep.gui._pictures import contrast_of
from napari_cellrep.steps.sample import SAMPLE

WELL = "A06"  # half way between the plateaus, where cells differ most
TAG = "napari-cellrep"  # our key in a layer's metadata


def open_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of one well of BBBC013 (U2OS, FKHR-GFP moving into the nucleus; CC BY 3.0, Ilya Ravkin).

    Their metadata tells the CellRep dock that they stand for the whole sample of 24 wells.
    """
    gfp, dna = tifffile.imread(SAMPLE / "wells" / f"{WELL}.ome.tif")
    tag = {TAG: {"sample": True, "field": WELL}}
    return [
        (
            plane,
            {
                "name": name,
                "colormap": colormap,
                "contrast_limits": contrast_of(plane),  # as the project shows it
                "blending": "additive",
                "metadata": tag,
            },
            "image",
        )
        for plane, name, colormap in ((dna, "DNA", "bop blue"), (gfp, "FKHR-GFP", "green"))
    ]


def projects_folder() -> Path:
    """Where projects are kept that the user has not given a place yet."""
    return Path(platformdirs.user_data_dir("napari-cellrep")) / "unsaved"
