"""How near the estimates of time and memory come to the real thing, on the bundled sample.

python benchmarks/estimates.py [--quick] --json FILE

Each step is estimated and then really run in one process, on a few wells of the sample and on one field of 2048
pixels made of tiles of it. Seconds are those of the wall; memory is what the process grows by (segmentation), and
what lives of torch's tensors (embedding, training).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from _harness import environment, options, report, row

import napari_cellrep
from napari_cellrep.data import Project, create_project, open_project
from napari_cellrep.data.fields import Field
from napari_cellrep.data.images import Plane
from napari_cellrep.jobs import drain
from napari_cellrep.models._engine import memory_peak
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.estimate import _resident_peak, estimate
from napari_cellrep.steps.sample import open_sample
from napari_cellrep.steps.segment import segment
from napari_cellrep.steps.train import train

WELLS = ("A01", "A06", "A12", "E06")
GOAL = 2.0  # an estimate is good to a factor of two, as its docstring says


def large(folder: Path, channels: Any, side_px: int = 2048) -> Project:
    """A project of one field, tiled from a well of the sample."""
    well = tifffile.imread(Path(napari_cellrep.__file__).parent / "sample" / "wells" / "A01.ome.tif")
    times = -(-side_px // well.shape[-1])
    tifffile.imwrite(folder / "large.tif", np.tile(well, (1, times, times))[:, :side_px, :side_px])
    planes = tuple(Plane(str(folder / "large.tif"), i) for i in range(len(well)))
    return create_project(
        folder / "large", [Field("large", planes, side_px, side_px, str(well.dtype))], channels
    )


def compare(
    name: str,
    project: Project,
    what: str,
    step: Callable[..., Any],
    watch: Callable[[], Any],
    /,
    **arguments: Any,
) -> list[dict[str, Any]]:
    """Rows for one step: estimated and real, time and memory, and by which factor they differ."""
    found = estimate(project, what, **arguments)
    start = time.perf_counter()
    with watch() as peak:
        drain(step(project, **arguments))
    real_s, real_mb = time.perf_counter() - start, peak[0] / 1e6
    out = []
    for unit, said, real in (("s", found.seconds, real_s), ("MB", found.memory_bytes / 1e6, real_mb)):
        factor = max(said / real, real / said) if said and real else float("inf")
        out.append(
            row(f"{name}: estimate in {unit}", said, unit, peer=("really", real), off_by=round(factor, 2),
                good_to_a_factor_of_two=factor <= GOAL)
        )  # fmt: skip
    return out


def main() -> int:
    """Run, print, write."""
    args = options(__doc__).parse_args()

    def tensors() -> Any:
        return memory_peak(torch.device("cpu"))

    with tempfile.TemporaryDirectory() as folder:
        made = drain(open_sample(path=str(Path(folder) / "s.cellrep")))
        sample = open_project(getattr(made, "root", made))
        wells = list(WELLS[:2] if args.quick else WELLS)
        rows = compare("segment nuclei, 640 px", sample, "segment", segment, _resident_peak, segmenter="nuclei",
                       fields=wells)  # fmt: skip
        if not args.quick:
            field = large(Path(folder), sample.channels)
            for segmenter in ("nuclei", "cells"):
                rows += compare(f"segment {segmenter}, 2048 px", field, "segment", segment, _resident_peak,
                                segmenter=segmenter)  # fmt: skip
        drain(crop(sample))
        rows += compare(
            "embed measurements", sample, "embed", embed, tensors, model="measurements", fields=wells
        )
        rows += compare("embed Paired Cell Inpainting", sample, "embed", embed, tensors, fields=wells)
        training = {"epochs": 1, "max_steps": 4 if args.quick else 20, "batch_size": 16}
        rows += compare("train Paired Cell Inpainting, quarter width", sample, "train", train, tensors, name="m",
                        config={"width": 0.25}, training=training)  # fmt: skip
    rows = [r for r in rows if not (r["name"].startswith("embed measurements") and r["unit"] == "MB")]
    report(rows, environment("torch", "scikit-image"), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
