"""Looking inside: from a click to the layer, and where predictions put the protein of treated and untreated cells.

xvfb-run python benchmarks/look.py PROJECT.cellrep [--quick] --json FILE

PROJECT is one of the sample with a trained Paired Cell Inpainting, as `cellrep demo` makes it; it is copied, not changed.
The click goes through the real window and its worker process, with a ViT-S/16 of random weights at 224 px (the time does
not depend on the weights), already loaded: what counts is the second click. A prediction's place is told by the mean
in the target's nucleus over that in a ring around it, for the same random targets with sources of either control, and the
same for the sources' own real protein. The demo's training is so short that batch norm's running means still remember its
start; they are measured again on random pairs of the same group (what `settle_norm` does), the weights stay.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import torch
from _harness import environment, options, report, row
from qtpy.QtTest import QTest

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.data import Project, open_project
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.jobs import drain
from napari_cellrep.models import load_model, save_model
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.inpaint import MODEL, _Asked, inpaint
from napari_cellrep.steps.networks import Found

GOAL_MS, PATIENCE_S = 500.0, 300
VIT = {"size": "small", "patch_px": 16, "image_px": 224}


def until(done: Callable[[], Any]) -> None:
    """Let the window work until something has happened."""
    end = time.perf_counter() + PATIENCE_S
    while not done():
        if time.perf_counter() > end:
            raise TimeoutError
        QTest.qWait(2)


def clicks(project: Project, n: int) -> dict[str, list[float]]:
    """Milliseconds from asking about a cell until its layer is on the canvas, one cell after the other.

    "all", and of it "worker", until its answer has come through the pipe, and "window", until the layer is there;
    "window, processor" is what the window computes of that, which does not depend on what else the machine does.
    """
    field = min(project.fields, key=lambda f: (project.cells.obs["field"] == f.id).sum()).id
    names = tuple(channel.name for channel in project.channels)
    drain(embed(project, model="dino", key="vit", config={**VIT, "channels": names}, fields=[field]))
    viewer = napari.Viewer(show=True)
    session, canvas, shown = session_of(viewer), canvas_of(viewer), []
    session.open(open_project(project.root))
    session.embedding = "vit"
    show_field(viewer, session, field, lambda: shown.append(1))
    until(lambda: shown)
    rows = [int(r) for r in session.rows_of_field(field)][: n + 1]
    times: dict[str, list[float]] = {"all": [], "worker": [], "window": [], "window, processor": []}
    came, add, busy = [0.0], canvas.looking.add, [0.0]

    def timed(*args: Any) -> None:
        came[0], at = time.perf_counter(), time.thread_time()
        add(*args)
        busy[0] = time.thread_time() - at

    canvas.looking.add = timed
    for i, at in enumerate(rows):
        canvas.looking.remove()
        start = time.perf_counter()
        canvas.looking.ask("attention", [session.cell_id(at)])
        until(lambda: canvas.looking.answers)
        if i:  # the first loads the network
            end = time.perf_counter()
            for name, s in (
                ("all", end - start),
                ("worker", came[0] - start),
                ("window", end - came[0]),
                ("window, processor", busy[0]),
            ):
                times[name].append(1e3 * s)
    canvas.close()
    runner_of(viewer).close()
    viewer.close()
    return times


def settled(project: Project, n_batches: int = 24, size: int = 64) -> str:
    """Measure the running means of batch norm anew and keep the network under another name."""
    net: Any = load_model(project.root / "models" / MODEL)
    asked, rng = _Asked.made(project, Found(net, (0, 1), "", MODEL)), np.random.default_rng(0)
    good = project.cells.obs[project.cells.obs["good"].to_numpy(bool)]
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    net.train()
    mates = {str(g): rows.index.to_numpy() for g, rows in good.groupby(good["group"].astype(str))}
    crops = asked.prepared([str(c) for c in good.index])
    at = {c: i for i, c in enumerate(good.index)}
    for _ in range(n_batches):
        targets = rng.choice(good.index, size, replace=False)
        sources = [rng.choice(mates[str(good.loc[t, "group"])]) for t in targets]
        x, y = (crops[[at[c] for c in cells]] for cells in (sources, targets))
        asked.predict(x, y)
    for norm in norms:
        norm.momentum = 0.1
    net.eval()
    save_model(net, project.root / "models" / "settled")
    return "settled"


def placed(project: Project, n: int, model: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Nucleus over ring in the same targets: "high" and "low" dose of the source, and of the sources' "real" protein."""
    rng = np.random.default_rng(seed)
    obs = project.cells.obs
    good = obs[obs["good"].to_numpy(bool)]
    targets = rng.choice(good.index, n, replace=False)
    found: dict[str, list[float]] = {"high": [], "low": [], "real high": [], "real low": []}

    def ratio(result: dict[str, Any], picture: str) -> float:
        side = round(len(result[picture]) * float(result["scale"]))  # of the window, in pixels of the field
        at = ((np.arange(side) + 0.5) / float(result["scale"])).astype(int)
        y0, x0 = (int(result[k]) + side for k in ("y0", "x0"))
        labels = np.pad(project.read_labels(result["field"]), side)[y0 : y0 + side, x0 : x0 + side]
        shown = result[picture][np.ix_(at, at)]
        return nucleus_ring_ratio(shown, labels)[int(obs.loc[result["target_cell"], "label"])]

    for name, control in (("high", 1), ("low", -1)):
        sources = rng.choice(good.index[good["control"] == control], n)
        for source, target in zip(sources, targets, strict=True):
            result = drain(inpaint(project, source=str(source), target=str(target), model=model))
            found[name].append(ratio(result, "prediction"))
            own = drain(inpaint(project, source=str(source), target=str(source), model=model))
            found[f"real {name}"].append(ratio(own, "target"))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Measure and report."""
    parser = options(__doc__)
    parser.add_argument("project", type=Path)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp()) / "copy.cellrep"
    shutil.copytree(args.project, root)
    project = open_project(root)
    n = 10 if args.quick else 50
    ratio = placed(project, n, settled(project))
    both = np.isfinite(ratio["high"]) & np.isfinite(ratio["low"])
    each = (ratio["high"] - ratio["low"])[both]
    drawn = np.random.default_rng(0).choice(each, (2000, len(each)))
    ends = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    difference = [round(float(v), 4) for v in (np.median(each), *ends)]
    times = clicks(project, 5 if args.quick else 20)
    ms = {name: float(np.median(values)) for name, values in times.items()}
    more = {"n": int(both.sum())}
    rows = [
        row("click to layer, ViT-S/16 at 224 px, warm, median", ms["all"], "ms", goal=GOAL_MS, more_is_better=False,
            slowest=float(max(times["all"])), fastest=float(min(times["all"])), n=len(times["all"])),
        *(row(f"of it {name}, median", ms[name], "ms", more_is_better=False, fastest=float(min(times[name])))
          for name in ("worker", "window", "window, processor")),
        *(row(f"predicted nucleus over ring, {name}-dose source, median", float(np.median(values[both])), "ratio",
              goal=1.0, more_is_better=name == "high", **more,
              quartiles=[round(float(q), 3) for q in np.percentile(values[both], (25, 75))])
          for name, values in ratio.items() if "real" not in name),
        *(row(f"the sources' own protein, {name}", float(np.nanmedian(values)), "ratio") for name, values in ratio.items()
          if "real" in name),
        row("the same, high less low, median of the pairs", difference[0], "ratio", interval_95=difference[1:], **more),
        row("targets where the high-dose source puts more in the nucleus", float((ratio["high"] > ratio["low"])[both].mean()),
            "share", goal=0.9, **more),
    ]  # fmt: skip
    report(rows, environment("torch", "napari"), args.json)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
