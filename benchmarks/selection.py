"""From the end of a lasso to every view: a hundred thousand of a million cells, and cells lit in a crowded field.

xvfb-run python benchmarks/selection.py [--quick] --json FILE

The real dock in a real napari, on a project of one field of 4096 x 4096 pixels with 100,000 labels (its cells are the
first of a table of a million; the other cells belong to fields nobody opens). Software rendering, as over a remote
desktop. "map and TAB" is from `select` until the map, the tab and the line with the count are painted and
shown, one after the other, as if each had a window of its own; "as the window does it" lets the window paint what has
changed in its own turn, once for all, with whatever else it then does. Of the cells lit in a field the time is of what is
ours: napari's own frame, which follows, is a row of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import napari
import numpy as np
import pandas as pd
import tifffile
from _harness import environment, options, report, row
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication, QWidget

from napari_cellrep.data import Project, create_project
from napari_cellrep.data.fields import Field
from napari_cellrep.data.images import Plane
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.jobs import drain
from napari_cellrep.specs import Channel
from napari_cellrep.steps.crop import crop

ALL_GOAL_MS, LIT_GOAL_MS = 100.0, 40.0
SIDE_PX, STEP_PX = 4096, 12  # a field, and from one cell to the next


def crowded(folder: Path, side_px: int) -> Project:
    """A project of one field full of discs."""
    at = np.arange(STEP_PX) - STEP_PX / 2 + 0.5
    disc = at[:, None] ** 2 + at**2 < (STEP_PX / 2 - 1) ** 2
    n = side_px // STEP_PX
    labels = np.zeros((side_px, side_px), np.int32)
    numbers = np.arange(1, n * n + 1).reshape(n, n)
    inside = n * STEP_PX
    labels[:inside, :inside] = np.kron(numbers, disc.astype(np.int32))
    image = np.random.default_rng(0).poisson(np.where(labels > 0, 400, 40)).astype(np.uint16)
    tifffile.imwrite(folder / "big.tif", image)
    field = Field("big", (Plane(str(folder / "big.tif"), 0),), side_px, side_px, "uint16")
    project = create_project(folder / "p", [field], (Channel("GFP", "protein"),))
    project.write_labels("big", labels, {"segmenter": "benchmark"})
    drain(crop(project))
    return project


def table(project: Project, n: int) -> ad.AnnData:
    """The project's cells, and as many more as make n, in fields of a thousand."""
    own = project.cells.obs
    rng = np.random.default_rng(1)
    more = max(0, n - len(own))
    rest = own.iloc[rng.integers(0, len(own), more)].copy()
    rest["field"] = [f"f{i // 1000:04d}" for i in range(more)]
    rest["group"] = rest["field"]
    rest.index = pd.Index([f"f{i // 1000:04d}:{i % 1000 + 1}" for i in range(more)])
    own = own.copy()
    own["field"] = own["field"].astype(str)
    obs = pd.concat([own, rest])
    obs["good"] = True
    obs["brightness"] = rng.normal(size=len(obs))
    x = rng.normal(size=(len(obs), 8)).astype(np.float32)
    cells = ad.AnnData(obs=obs, obsm={"X_made": x, "X_umap_made": x[:, :2].copy()})
    cells.uns = dict(project.cells.uns)
    return cells


def milliseconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def settle(seconds: float) -> None:
    """Let the window do what it has put off."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()


class Painted(QObject):
    """Counts how often widgets are painted."""

    def __init__(self, *widgets: QWidget) -> None:
        super().__init__()
        self.times = dict.fromkeys(widgets, 0)
        for widget in widgets:
            widget.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Count, and let it be painted."""
        if event.type() == QEvent.Type.Paint:
            self.times[watched] += 1
        return False


def main() -> int:
    """Run, print, write."""
    args = options(__doc__).parse_args()
    side_px, n, times = (1024, 50_000, 2) if args.quick else (SIDE_PX, 1_000_000, 4)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        project = crowded(Path(folder), side_px)
        viewer = napari.Viewer(show=True)
        panel = ExploreWidget(viewer)
        viewer.window.add_dock_widget(panel, area="bottom")
        session, canvas = panel.session, panel.canvas
        session.open(project)
        cells = table(project, n)
        in_field = len(project.cells)
        session.cells = cells
        session.visible, session.selected = np.ones(cells.n_obs, bool), np.zeros(cells.n_obs, bool)
        session._rows, session._labels = {}, {}
        session._announce_table()
        session.embedding = "made"
        canvas.show("big")
        until = time.perf_counter() + 120
        while canvas.layer("cells") is None and time.perf_counter() < until:
            settle(0.1)
        rng = np.random.default_rng(2)
        for tab in range(panel.tabs.count()):
            panel.tabs.setCurrentIndex(tab)
            settle(1 if args.quick else 8)
            title, took, right = panel.tabs.tabText(tab), [], []
            view = panel.view(title)
            for _ in range(times):
                chosen = rng.choice(cells.n_obs, n // 10, replace=False)

                def shown(chosen: np.ndarray = chosen, view: Any = view) -> None:
                    session.select(chosen)
                    panel.map.repaint()
                    view.repaint()
                    panel.count.repaint()

                took.append(milliseconds(shown))
                right.append(np.array_equal(np.flatnonzero(session.selected), np.sort(chosen)))
                settle(0.5 if args.quick else 3)

            painted, waited = Painted(panel.map, panel.count), []
            for more in range(times):
                # One more each time: a line that says the same is not painted again.
                chosen = rng.choice(cells.n_obs, n // 10 + 1 + more, replace=False)
                before = dict(painted.times)

                def left(chosen: np.ndarray = chosen, painted: Any = painted, before: Any = before) -> None:
                    session.select(chosen)
                    end = time.perf_counter() + 10
                    while any(painted.times[w] == before[w] for w in before) and time.perf_counter() < end:
                        QApplication.processEvents()

                waited.append(milliseconds(left))
                right.append(np.array_equal(np.flatnonzero(session.selected), np.sort(chosen)))
                settle(0.5 if args.quick else 3)
            for widget in painted.times:
                widget.removeEventFilter(painted)
            rows.append(
                row(f"{n // 10:,} of {n:,} selected, map and {title}", min(took), "ms",
                    goal=ALL_GOAL_MS, more_is_better=False, agreement=float(all(right)))
            )  # fmt: skip
            rows.append(
                row(f"{n // 10:,} of {n:,} selected, {title} in front, as the window does it", min(waited), "ms",
                    goal=ALL_GOAL_MS, more_is_better=False, agreement=float(all(right)))
            )  # fmt: skip
        panel.tabs.setCurrentIndex(0)
        session.clear()
        settle(3)
        while canvas._todo:
            settle(0.2)
        ours, frame, right = [], [], []
        for _ in range(times):
            chosen = rng.choice(in_field, min(1000, in_field // 4), replace=False)
            overlay = canvas.layer("selection")
            refresh, waits = overlay.refresh, []
            overlay.refresh = lambda *a, refresh=refresh, waits=waits, **k: waits.append(
                milliseconds(lambda: refresh(*a, **k))
            )

            def lit(chosen: np.ndarray = chosen) -> None:
                session.selected[:] = False
                session.selected[chosen] = True
                canvas._mark()
                while canvas._todo:
                    canvas._paint_slice()

            total = milliseconds(lit)
            del overlay.refresh
            ours.append(total - sum(waits))
            frame.append(sum(waits))
            there = np.unique(canvas.layer("cells").data[overlay.data > 0])
            right.append(set(there) - {0} == set(cells.obs["label"].to_numpy()[chosen].tolist()))
            session.selected[:] = False
            canvas._mark()
            while canvas._todo:
                canvas._paint_slice()
            settle(1)
        size = f"{len(chosen):,} of {in_field:,} cells lit in a field of {side_px} px"
        rows += [
            row(size, min(ours), "ms", goal=LIT_GOAL_MS, more_is_better=False, agreement=float(all(right))),
            row("napari's refresh of the layer after it", min(frame), "ms", agreement=float(all(right))),
        ]
        viewer.close()
    report(rows, environment("napari", "PyQt6", "anndata"), args.json)
    return 0 if all(r["agreement"] == 1.0 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
