"""The bundled sample as a project of its own."""

from __future__ import annotations

from pathlib import Path

from napari_cellrep.data import Project
from napari_cellrep.jobs import Job
from napari_cellrep.steps.import_fields import import_fields

SAMPLE = Path(__file__).parents[1] / "sample"
CHANNELS = ("FKHR-GFP:protein", "DNA:nucleus")
CREDIT = "BBBC013v1, Ilya Ravkin, Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 2012), CC BY 3.0"


def open_sample(path: Path | str) -> Job[Project]:
    """Make a project of the bundled part of BBBC013 at `path`; the images stay in the package.

    Yields
    ------
    Progress
        Once per field; the job returns the project.
    """
    project = yield from import_fields(
        path, [SAMPLE / "wells"], channels=CHANNELS, pattern=r"(?P<well>[A-H]\d\d)\.ome\.tif",
        metadata=SAMPLE / "plate.csv", group_by=("well",),
    )  # fmt: skip
    project.log("sample", credit=CREDIT)
    return project
