"""How much memory a slide takes, from 8k to 32k px a side: it must not grow with the slide.

A real field is repeated to a tiled TIFF. Labels that are brought along (those of the field, repeated, in a tiled TIFF) are read,
all cells are measured, some from all over are embedded, and the slide is segmented: each to its end, each slide in a process
of its own. A peak is that of the process up to the end of a step.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from _harness import environment, options, report, row

WELL = Path(__file__).parents[1] / "src" / "napari_cellrep" / "sample" / "wells" / "A05.ome.tif"
SIDES = {"8k": 13, "16k": 26, "32k": 52}  # fields side by side
QUICK = 5  # fields side by side, worked on in parts all the same
LIMIT = 1.15  # of the smallest slide's memory
EMBEDDED = 256  # cells, from all over the slide


def _one(n: int, folder: Path, segmenter: str, quick: bool) -> Iterator[tuple[str, float]]:
    """Peaks of memory (MB) and seconds of each step of one slide, as they come."""
    from napari_cellrep import registry
    from napari_cellrep.data import create_project, slides
    from napari_cellrep.data.fields import Field, with_groups
    from napari_cellrep.data.images import Plane
    from napari_cellrep.jobs import drain
    from napari_cellrep.specs import Channel
    from napari_cellrep.steps.crop import crop
    from napari_cellrep.steps.embed import embed
    from napari_cellrep.steps.segment import prepare, segment

    if quick:
        slides.BIG_PX = 1
    field_px = tifffile.imread(WELL)
    side = field_px.shape[1]
    how = {"tile": (side, side), "compression": "zlib", "photometric": "minisblack", "bigtiff": True}
    packed = [imagecodecs.zlib_encode(np.ascontiguousarray(plane).tobytes(), level=1) for plane in field_px]
    tiles = itertools.chain(*(itertools.repeat(p, n * n) for p in packed))
    tifffile.imwrite(
        folder / "slide.tif",
        tiles,
        shape=(2, n * side, n * side),
        dtype=field_px.dtype,
        metadata={"axes": "CYX"},
        **how,
    )
    channels = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
    module, settings = prepare("nuclei", {})
    labels = module.segment(field_px, channels, settings).astype(np.uint32)
    cells = int(labels.max())
    offsets = range(0, n * n * cells, cells)
    tiles = (
        imagecodecs.zlib_encode(np.where(labels > 0, labels + np.uint32(o), 0).tobytes(), level=1)
        for o in offsets
    )
    tifffile.imwrite(folder / "slide_mask.tif", tiles, shape=(n * side, n * side), dtype=np.uint32, **how)

    planes = tuple(Plane(str(folder / "slide.tif"), i) for i in range(2))
    slide = Field("slide", planes, n * side, n * side, "uint8")
    project = create_project(folder / "p", with_groups([slide]), channels)
    registry.load("models", "autoencoder")  # torch is not a slide's memory
    yield "before MB", _peak()

    def step(name: str, job: Any) -> Iterator[tuple[str, float]]:
        start = perf_counter()
        result = drain(job)
        yield f"{name} s", perf_counter() - start
        yield f"{name} MB", _peak()
        yield f"{name} cells", float(getattr(result, "n_cells", result))

    yield from step("labels brought", segment(project, segmenter="imported"))
    yield from step("measured", crop(project))
    project.merge(project.cells.obs.iloc[:: max(1, project.cells.n_obs // EMBEDDED)])
    yield from step("embedded", embed(project, model="autoencoder", precision="fp32"))
    if segmenter:
        yield from step(f"segmented, {segmenter}", segment(project, segmenter=segmenter))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure every slide in a process of its own."""
    parser = options(__doc__)
    parser.add_argument(
        "--one", type=int, default=0, help="fields side by side, for one slide in this process"
    )
    parser.add_argument("--only", default=",".join(SIDES), help="which slides: 8k,16k")
    parser.add_argument(
        "--segmenter", default="centres", help="empty: none, which is more than half of the time"
    )
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            for key, value in _one(args.one, Path(folder), args.segmenter, args.quick):
                print(json.dumps([key, value]), flush=True)
        return
    rows, first = [], {}
    sides = {"quick": QUICK} if args.quick else {k: v for k, v in SIDES.items() if k in args.only.split(",")}
    for name, n in sides.items():
        command = [sys.executable, __file__, "--one", str(n), "--segmenter", args.segmenter]
        command += ["--quick"] * args.quick
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                key, value = json.loads(line)
                unit = key.rpartition(" ")[2]
                of_smallest = first.setdefault(key, value)
                goal = LIMIT * of_smallest if unit == "MB" and name != next(iter(sides)) else None
                rows.append(row(f"{name}: {key}", round(value, 2), unit, goal=goal, more_is_better=False))
                print(rows[-1], flush=True)
                report_so_far = environment("zarr", "tifffile", "numpy")
                report(rows, report_so_far, args.json)
        if process.returncode:
            raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
