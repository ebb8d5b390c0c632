"""How much memory a slide takes, from 8k to 32k px a side: it must not grow with the slide.

A real field is repeated to a tiled TIFF. Of every slide the first two parts are segmented, labels are written and looked
through (those of the field, repeated in one corner), the cells of the first part are measured and 256 of them are embedded,
each slide in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import imagecodecs
import numpy as np
import tifffile
from _harness import environment, options, report, row

WELL = Path(__file__).parents[1] / "src" / "napari_cellrep" / "sample" / "wells" / "A05.ome.tif"
SIDES = {"8k": 13, "16k": 26, "32k": 52}  # fields side by side
LIMIT = 1.15  # of the smallest slide's memory
PARTS = 2
LABELLED = 7  # fields from the first corner that have cells: more than a part and its surroundings
EMBEDDED = 256  # cells, from all over the first part


def _one(n: int, folder: Path, segmenter: str) -> dict[str, float]:
    """Peaks of memory (MB) after each step of one slide, and seconds per part."""
    from napari_cellrep.data import create_project
    from napari_cellrep.data.cells import QualityRules, set_flags
    from napari_cellrep.data.fields import Field, with_groups
    from napari_cellrep.data.images import Plane
    from napari_cellrep.data.slides import tiles as tiles_of
    from napari_cellrep.jobs import drain
    from napari_cellrep.specs import Channel
    from napari_cellrep.steps.crop import measure_in_parts
    from napari_cellrep.steps.embed import embed
    from napari_cellrep.steps.segment import prepare, segment_in_parts

    field_px = tifffile.imread(WELL)
    side = field_px.shape[1]
    packed = [imagecodecs.zlib_encode(np.ascontiguousarray(plane).tobytes(), level=1) for plane in field_px]
    tiles = itertools.chain(*(itertools.repeat(p, n * n) for p in packed))
    tifffile.imwrite(
        folder / "slide.tif", tiles, shape=(2, n * side, n * side), dtype=field_px.dtype, tile=(side, side),
        compression="zlib", photometric="minisblack", bigtiff=True, metadata={"axes": "CYX"},
    )  # fmt: skip
    planes = tuple(Plane(str(folder / "slide.tif"), i) for i in range(2))
    slide = Field("slide", planes, n * side, n * side, "uint8")
    channels = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
    project = create_project(folder / "p", with_groups([slide]), channels)
    out = {}

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    module, settings = prepare(segmenter, {})
    job = segment_in_parts(project, slide, module, settings, "cpu", {})
    next(job)
    next(job)  # the sample and the first part
    start = perf_counter()
    for _ in range(PARTS - 1):
        next(job)
    out["segment s/part"] = (perf_counter() - start) / (PARTS - 1)
    out["segment MB"] = peak()
    job.close()

    labels = module.segment(field_px, channels, settings)
    with project.writing_labels("slide", {}) as writer:
        for y, x in itertools.product(range(LABELLED), repeat=2):
            offset = (y * LABELLED + x) * int(labels.max())
            own = np.where(labels > 0, labels + offset, 0)
            writer.array[y * side : (y + 1) * side, x * side : (x + 1) * side] = own
        writer.n_cells = LABELLED**2 * int(labels.max())
    out["labels MB"] = peak()

    frames = []
    measured = measure_in_parts(project, slide, 64)
    n_parts = len(tiles_of(n * side, n * side, 0))
    import napari_cellrep.steps.crop as crop_step

    inner, crop_step.measure_field = (
        crop_step.measure_field,
        lambda *a, **k: frames.append(inner(*a, **k)) or frames[-1],
    )
    for _ in range(n_parts + 1):
        next(measured)
    measured.close()
    out["measure MB"] = peak()
    rows = frames[0].iloc[:: max(1, len(frames[0]) // EMBEDDED)]
    project.merge(set_flags(rows, QualityRules()))
    result = drain(embed(project, model="autoencoder", precision="fp32"))
    out["embed MB"], out["cells embedded"] = peak(), result.n_cells
    return out


def main() -> None:
    """Measure every slide in a process of its own."""
    parser = options(__doc__)
    parser.add_argument(
        "--one", type=int, default=0, help="fields side by side, for one slide in this process"
    )
    parser.add_argument("--segmenter", default="centres")
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_one(args.one, Path(folder), args.segmenter)))
        return
    rows, first = [], {}
    for name, n in list(SIDES.items())[: 1 if args.quick else None]:
        command = [sys.executable, __file__, "--one", str(n), "--segmenter", args.segmenter]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        found = json.loads(told)
        first = first or found
        for key, value in found.items():
            unit = key.rpartition(" ")[2]
            goal = LIMIT * first[key] if unit == "MB" and name != next(iter(SIDES)) else None
            rows.append(
                row(
                    f"{name}, {args.segmenter}: {key}", round(value, 2), unit, goal=goal, more_is_better=False
                )
            )
            print(rows[-1], flush=True)
    report(rows, environment("zarr", "tifffile", "numpy"), args.json)


if __name__ == "__main__":
    main()
