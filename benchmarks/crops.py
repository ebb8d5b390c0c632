"""Cutting crops: boxes of all cells and their windows, against a copy of as many bytes and a loop over regions.

python benchmarks/crops.py --json FILE [--quick]

Fields of four channels of 16 bits: 2048² with 400 cells and 8192² with 8,000, discs at random places with random numbers
(some at the border, with gaps in the numbering). Boxes are found and windows of 64 and 224 px cut, one thread, the best of
several turns, into memory that is there already, as embedding does from its third field on; the same with new memory
stands beside it. The limit is a copy of as many bytes as the crops have, into memory that is there already as well. The peer
is what most scripts do: ``regionprops`` and a slice for each cell. Beside the time per cell on the large field over that on the
small one stands the same of the copy: what the memory itself takes more where nothing is left in the processor's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import environment, options, report, row
from skimage.measure import regionprops

from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.specs import CropSpec

FIELDS = {"2048² with 400 cells": (2048, 20), "8192² with 8,000 cells": (8192, 90)}
SIZES_PX = (64, 224)
COPY_GOAL, LOOP_GOAL, FLAT_GOAL = 0.65, 8.0, 1.25


def make_field(size: int, n_side: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, size, size) uint16 of noise, and labels of n_side² discs, moved at random, numbered at random with gaps."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4096, (4, size, size), dtype=np.uint16)
    labels = np.zeros((size, size), np.int32)
    step = size / n_side
    radius = 0.3 * step
    numbers = rng.permutation(2 * n_side**2)[: n_side**2] + 1
    for i, number in enumerate(numbers):
        cy, cx = (np.array(divmod(i, n_side)) + 0.5) * step + rng.uniform(-0.3, 0.3, 2) * step
        y0, x0 = max(int(cy - radius), 0), max(int(cx - radius), 0)
        part = labels[y0 : int(cy + radius) + 1, x0 : int(cx + radius) + 1]
        y, x = np.ogrid[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]
        part[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = number
    return image, labels


def best(call: Callable[[], Any], budget_s: float) -> float:
    """Least seconds of a call, repeated for some time."""
    least, end = float("inf"), time.perf_counter() + budget_s
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        least = min(least, now - start)
        if now > end:
            return least


def loop(image: np.ndarray, labels: np.ndarray, side: int) -> np.ndarray:
    """The usual script: regions, then a padded slice for each."""
    half = side // 2
    padded = np.pad(image, ((0, 0), (half, half), (half, half)))
    out = []
    for region in regionprops(labels):
        y, x = (int(v) for v in region.centroid)
        out.append(padded[:, y : y + side, x : x + side])
    return np.stack(out)


def rows_of(
    name: str, size: int, n_side: int, budget_s: float
) -> tuple[list[dict[str, Any]], dict[int, tuple[float, float]]]:
    image, labels = make_field(size, n_side)
    n = len(find_cells(labels))
    rows, per_cell = [], {}
    for side in SIZES_PX:
        spec = CropSpec(size_px=side, window_px=side)

        def job(spec: CropSpec = spec) -> np.ndarray:
            return cut_crops(image, labels, find_cells(labels), spec)

        crops = job()
        memory = np.empty_like(crops)

        def again_job(spec: CropSpec = spec, memory: np.ndarray = memory) -> np.ndarray:
            return cut_crops(image, labels, find_cells(labels), spec, out=memory)

        assert np.array_equal(again_job(), crops)
        again = np.empty_like(crops)
        copied_s = best(lambda crops=crops, again=again: np.copyto(again, crops), budget_s)
        fresh_s = best(lambda crops=crops: crops.copy(), budget_s)
        whole_s = best(again_job, budget_s)  # as embedding does it: field after field into the same memory
        new_s = best(job, budget_s)
        cells = find_cells(labels)
        boxes_s = best(lambda: find_cells(labels), budget_s)
        cut_s = best(lambda spec=spec, cells=cells: cut_crops(image, labels, cells, spec), budget_s)
        per_cell[side] = whole_s / n, copied_s / n
        common = {
            "n_cells": n, "boxes_ms": round(1e3 * boxes_s, 2), "crops_ms": round(1e3 * cut_s, 2),
            "into_new_memory_per_s": round(n / new_s), "copy_into_new_memory_per_s": round(n / fresh_s),
        }  # fmt: skip
        if side == max(SIZES_PX):
            rows.append(row(f"{name}: boxes and crops, {side} px", n / whole_s, "cells/s", goal=COPY_GOAL * n / copied_s,
                            limit=n / copied_s, **common))  # fmt: skip
        else:
            looped = loop(image, labels, side)
            looped_s = best(lambda side=side: loop(image, labels, side), budget_s)
            rows.append(row(f"{name}: boxes and crops, {side} px", n / whole_s, "cells/s", goal=LOOP_GOAL * n / looped_s,
                            limit=n / copied_s, peer=("a loop over regionprops", n / looped_s),
                            agreement=float((looped == crops).all(axis=(1, 2, 3)).mean()), **common))  # fmt: skip
        del crops, again, memory
    return rows, per_cell


def main() -> None:
    args = options(__doc__).parse_args()
    rows, costs = [], []
    for name, (size, n_side) in FIELDS.items():
        if args.quick and size > 4096:
            continue
        found, per_cell = rows_of(name, size, n_side, 0.5 if args.quick else 3.0)
        rows += found
        costs.append(per_cell)
    if len(costs) > 1:
        for side in SIZES_PX:
            ratio, copied = (
                large / small for large, small in zip(costs[1][side], costs[0][side], strict=True)
            )
            rows.append(
                row(
                    f"time per cell, 8,000 cells over 400, {side} px",
                    ratio,
                    "×",
                    goal=FLAT_GOAL,
                    more_is_better=False,
                    of_a_copy=round(copied, 3),
                )
            )
    report(rows, environment("scikit-image", "scipy"), args.json)


if __name__ == "__main__":
    main()
