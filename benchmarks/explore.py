"""The map at 100,000 and 1,000,000 cells: first frame, pan, recolour, select, hover, lasso.

python benchmarks/explore.py [--quick] --json FILE

Limit: the least any raster on one core can do, which is to place every point (two multiplications) and write its
number once into a buffer of the canvas. Peers in the same process: matplotlib's scatter for frames and matplotlib's
Path for the lasso. Agreement of the lasso: share of points on which both say the same. Agreement of a frame: share
of drawn pixels whose owner lies under them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as MplPath

from napari_cellrep.gui.views._raster import Raster, View, colours_of, inside_polygon

SIZE = (700, 700)
PAN_GOAL_MS = {100_000: 16.0, 1_000_000: 50.0}  # smooth; possible
CALL_GOAL_MS = 100.0  # nothing blocks the window longer


def best_ms(call: Callable[[], Any], times: int) -> float:
    """Least time of a few calls."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took) * 1e3


def made(n: int) -> np.ndarray:
    """Twelve clouds, one row in a thousand without an embedding."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 2))[rng.integers(0, 12, n)] * 4 + rng.normal(size=(n, 2))
    points[::1000] = np.nan
    return points


def row(name: str, value: float, goal: float, **more: Any) -> dict[str, Any]:
    """One line of the result; ratios above 1 are slower than the limit and faster than the peer."""
    out = {
        "name": name, "value": round(value, 3), "unit": "ms", "goal": goal, "meets": bool(value <= goal),
        "limit": None, "ratio_to_limit": None, "peer": None, "ratio_to_peer": None, "agreement": None, **more,
    }  # fmt: skip
    if out["limit"]:
        out["ratio_to_limit"] = round(value / out["limit"], 2)
        out["limit"] = round(out["limit"], 3)
    if "peer_ms" in out:
        out["ratio_to_peer"] = round(out["peer_ms"] / value, 2)
        out["peer_ms"] = round(out["peer_ms"], 3)
    print(f"{name:32s} {value:9.2f} ms   goal {goal:5.0f} ms  {'ok' if out['meets'] else 'MISSED'}")
    return out


def measure(n: int, times: int) -> list[dict[str, Any]]:
    """All rows for one number of cells."""
    points = made(n)
    visible, selected, none = np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    visible[::7] = False
    selected[np.random.default_rng(2).integers(0, n, 1000)] = True
    score = pd.Series(np.nan_to_num(points[:, 0]))
    colours, view = colours_of(score, n), View.fit(points, SIZE)

    def first() -> Raster:
        raster = Raster(points)
        raster.place(View.fit(points, SIZE), visible, none)
        raster.paint(colours_of(score, n), (38, 41, 48), False)
        return raster

    raster = first()
    xy = np.ascontiguousarray(np.nan_to_num(points).T)
    buffer, numbers = np.full(SIZE[0] * SIZE[1], -1, np.int32), np.arange(n, dtype=np.int32)

    def least() -> None:
        at = (xy[1] * view.scale + 350).astype(np.int32) * 700 + (xy[0] * view.scale + 350).astype(np.int32)
        buffer[np.clip(at, 0, len(buffer) - 1)] = numbers

    limit = best_ms(least, times)

    def pan() -> None:
        raster.place(view.moved(13, 7), visible, none)
        raster.paint(colours, (38, 41, 48), False)

    def by_matplotlib() -> None:
        figure = Figure(figsize=(7, 7), dpi=100)
        canvas = FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.scatter(points[visible, 0], points[visible, 1], c=score[visible], s=1, linewidths=0)
        canvas.draw()

    raster.place(view, visible, none)
    ys, xs = np.nonzero(raster.owner >= 0)
    apart = np.abs(view.to_px(points[raster.owner[ys, xs]]) - np.c_[xs + 0.5, ys + 0.5]).max(axis=1)
    drawn = float((apart <= raster.point_px / 2 + 1).mean())
    drawn *= float(visible[raster.owner[ys, xs]].all())
    pan_ms = best_ms(pan, times)
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    polygon = np.c_[np.cos(t), np.sin(t)] * (5 + np.random.default_rng(3).normal(size=(120, 1)) * 0.5)
    got, path = inside_polygon(points, polygon), MplPath(polygon)
    finite = np.nan_to_num(points, nan=1e9)
    want = path.contains_points(finite)

    def select() -> None:
        raster.choose(selected)
        raster.paint(colours, (38, 41, 48), True)

    k = f"{n:,} cells"
    return [
        row(f"first frame, {k}", best_ms(first, times), 1000.0, limit=limit, agreement=drawn,
            peer="matplotlib scatter", peer_ms=best_ms(by_matplotlib, 1)),
        row(f"pan, {k}", pan_ms, PAN_GOAL_MS[n], limit=limit, agreement=drawn),
        row(f"recolour, {k}", best_ms(lambda: raster.paint(colours, (38, 41, 48), False), times), CALL_GOAL_MS,
            agreement=drawn),
        row(f"select 1,000, {k}", best_ms(select, times), CALL_GOAL_MS, agreement=drawn),
        row(f"hover, {k}", best_ms(lambda: raster.nearest(300, 310), times), 1.0, agreement=drawn),
        row(f"lasso of 120 points, {k}", best_ms(lambda: inside_polygon(points, polygon), times), CALL_GOAL_MS,
            agreement=float((got == want).mean()), peer="matplotlib Path",
            peer_ms=best_ms(lambda: path.contains_points(finite), 1), hits=int(got.sum())),
    ]  # fmt: skip


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100,000 cells only")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    environment = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(), "numpy": np.__version__, "system": platform.system(),
        "machine": platform.machine(), "cores": os.cpu_count(),
    }  # fmt: skip
    rows = []
    for n in (100_000,) if args.quick else (100_000, 1_000_000):
        rows += measure(n, 3 if args.quick else 5)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({"environment": environment, "rows": rows}, indent=1), encoding="utf-8"
        )
    wrong = [r["name"] for r in rows if r["agreement"] != 1.0]
    if wrong:
        print("No agreement:", ", ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
