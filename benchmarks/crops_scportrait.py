"""Cutting crops beside scPortrait's extraction step, on the same field and labels.

python benchmarks/crops_scportrait.py --json FILE [--quick]

Run it in an environment that has scPortrait (it pins its own spatialdata, cellpose and NumPy, so not in ours):
``pip install scportrait`` there, and this checkout's ``src`` on PYTHONPATH; nothing else of ours is needed.

What each does. scPortrait: `Project.extract()` with one thread and no percentiles reads image and labels from a
SpatialData store into files mapped to memory, takes centres computed before, leaves out cells whose window would reach
over the border, and writes float16 windows of 64 px to HDF5 with an AnnData beside them: the cell's mask, its holes
filled and its edge blurred, and the channels times that mask, compressed by LZF (this version fails where that is turned
off). Its own log tells the loop over cells apart from the whole step. Ours: boxes and centres from
the labels, and windows with the mask as it is and the channels masked by it, unscaled (networks scale them on their
device), border included, in memory; and the same with reading image and labels from .npy files and writing the crops to
one, flushed to the disk. So the loop over cells is the nearer peer, and still does more per cell.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
from _harness import environment, options, report, row
from crops import make_field
from scportrait.pipeline.extraction import HDF5CellExtraction
from scportrait.pipeline.project import Project
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel

from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.specs import CropSpec

GOAL = 100.0  # times as fast as the whole extraction step
SIDE_PX = 64
SPEC = CropSpec(size_px=SIDE_PX, window_px=SIDE_PX, masked=True, mask_plane=True)


def theirs(folder: Path, image: np.ndarray, labels: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Seconds of the whole step and of its loop over cells, and the windows it wrote, (n, 1 + C, S, S)."""
    store = folder / "field.zarr"
    SpatialData(
        images={
            "field": Image2DModel.parse(
                da.from_array(image, chunks=(1, 1000, 1000)),
                dims=("c", "y", "x"),
                scale_factors=[2],
                c_coords=["a", "b", "c", "d"],
            )
        },
        labels={
            "cells": Labels2DModel.parse(
                da.from_array(labels.astype(np.uint32), chunks=1000), dims=("y", "x")
            )
        },
    ).write(store)
    config = {
        "name": "bench",
        "HDF5CellExtraction": {
            "threads": 1, "image_size": SIDE_PX, "cache": str(folder), "normalize_output": False,
        },
    }  # fmt: skip
    (folder / "project").mkdir()
    project = Project(
        str(folder / "project"), config_path=config, extraction_f=HDF5CellExtraction, overwrite=True
    )
    project.load_input_from_sdata(str(store), input_image_name="field", cytosol_segmentation_name="cells")
    start = time.perf_counter()
    project.extract()
    whole_s = time.perf_counter() - start
    log = next((folder / "project" / "extraction").glob("*.log")).read_text()
    loop_s = float(log.rsplit("Finished extraction in ", 1)[1].split(" ", 1)[0])
    with h5py.File(project.extraction_f.output_path) as file:
        return whole_s, loop_s, file[project.extraction_f.IMAGE_DATACONTAINER_NAME][:]


def ours(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return cut_crops(image, labels, find_cells(labels), SPEC)


def through_files(folder: Path) -> None:
    """Read, cut, write, and wait for the disk."""
    crops = ours(np.load(folder / "image.npy"), np.load(folder / "labels.npy"))
    with (folder / "crops.npy").open("wb") as file:
        np.save(file, crops)
        file.flush()
        os.fsync(file.fileno())


def best_of(call: Any, times: int = 5) -> float:
    """Least seconds of a call."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    args = options(__doc__).parse_args()
    rows = []
    for size, n_side in ((2048, 20),) if args.quick else ((2048, 20), (8192, 90)):
        image, labels = make_field(size, n_side)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "image.npy", image)
            np.save(folder / "labels.npy", labels)
            whole_s, loop_s, crops = theirs(folder, image, labels)
            n, n_ours = len(crops), len(find_cells(labels))
            field = f"{size}² with {n_ours:,} cells"
            loop = {"their_loop_alone_per_s": round(n / loop_s), "cells_they_keep": n}
            peer = ("scPortrait's extraction step", n / whole_s)
            for what, seconds in (
                ("in memory", best_of(lambda image=image, labels=labels: ours(image, labels))),
                ("from files to a file", best_of(lambda folder=folder: through_files(folder))),
            ):
                rows.append(
                    row(f"{field}: masked crops of {SIDE_PX} px, {what}", n_ours / seconds, "cells/s",
                        goal=GOAL * n / whole_s, peer=peer, times_their_loop=round(n_ours / seconds / (n / loop_s), 1),
                        **loop)
                )  # fmt: skip
    report(rows, environment("scportrait", "spatialdata", "zarr"), args.json)


if __name__ == "__main__":
    main()
