"""The main job on the bundled sample: image → labels → cells → embedding → table → report, with a ground truth."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.files import write_text
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, find_channel, make_config, match_channels
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.export import export
from napari_cellrep.steps.report import write_report
from napari_cellrep.steps.sample import open_sample
from napari_cellrep.steps.segment import segment
from napari_cellrep.steps.train import ProjectCells, train

PCI, UNTRAINED, CLASSICAL = "paired_cell_inpainting", "untrained", "measurements"
RATIO = "nucleus_ring_ratio"
# A quarter of the paper's width and ten times its learning rate: on a laptop's two cores this learns more in a
# minute than the whole network does in five. `cellrep train` without settings is the paper's.
NETWORK = {"width": 0.25}
TRAINING = {
    "batch_size": 32,
    "learning_rate": 1e-3,
    "held_out": 0.0,
    "settle_norm": True,
}  # it is short: every cell counts
MIN_STEPS, MAX_STEPS = 40, 400
# The sample's nuclei are 15 px wide. The paper's human cells are seen in windows of about two and a half nuclei; the
# network's own 64 px would hold two or three neighbours, whose protein the spatial maximum cannot tell from the cell's.
WINDOW_PX = 40


def demo(out: Path | str, *, seed: int = 0, train_seconds: float = 105) -> Job[dict[str, Any]]:
    """Run everything on the bundled sample and write project, report, ranking and numbers to `out`.

    Run again on the same folder, it goes on where it stopped.

    Parameters
    ----------
    out : Path
        Folder; gets ``bbbc013.cellrep/``, ``report.html``, ``ranking.csv`` and ``demo.json``.
    seed : int
        Of the network's first weights and of training.
    train_seconds : float
        Time for training; the number of steps follows from a short trial on this machine.

    Yields
    ------
    Progress
        The job returns what ``demo.json`` holds.

    Raises
    ------
    InputError
        If `out` is a file, or holds a project that is not the sample's.
    """
    out = Path(out).expanduser().absolute()
    if out.is_file():
        raise InputError(f"{out} is a file; give a folder for the results.")
    clock = _Clock()
    root = out / "bbbc013.cellrep"
    with clock("import"):
        project = open_project(root) if root.exists() else (yield from open_sample(root))
    with clock("segment"):
        yield from segment(project, segmenter="nuclei")
        yield from crop(project, rules={"window_px": WINDOW_PX})
        _add_ratio(project)
    with clock("embed measurements"):
        yield from embed(project, model=CLASSICAL)
    with clock("embed untrained"):
        yield from embed(project, model=PCI, config=NETWORK, key=UNTRAINED, seed=seed)
    with clock("train"):
        steps, step_s = yield from _size_training(project, seed, train_seconds)
        training = {**TRAINING, "seed": seed, "max_steps": steps}
        yield from train(project, model=PCI, config=NETWORK, training=training)
    with clock("embed trained"):
        yield from embed(project, model=PCI, layers=("all",))
    with clock("analyze"):
        for name in (CLASSICAL, UNTRAINED, PCI):
            yield from analyze(project, recipe="score", embedding=name)
        yield from analyze(project, recipe="variability", embedding=PCI)
        yield from analyze(project, recipe="outliers", embedding=PCI)
        yield from analyze(project, recipe="map", embedding=PCI)
    numbers = {
        **_numbers(project),
        "seed": seed,
        "training": {**NETWORK, **TRAINING, "steps": steps, "seconds_per_step_in_trial": step_s},
        "seconds": clock.seconds,
        "seconds_total": sum(clock.seconds.values()),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
    }
    with clock("report"):
        yield from write_report(project, out / "report.html", numbers=numbers)
        yield from export(project, out / "ranking.csv", format="ranking")
    numbers["seconds_total"] = sum(clock.seconds.values())
    numbers["peak_memory_gib"] = _peak_memory_gib()
    numbers["summary"] = _summary(out, numbers)
    write_text(out / "demo.json", json.dumps(numbers, indent=1))
    return numbers


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(perf_counter() - start, 2)


def _add_ratio(project: Project) -> None:
    """Add the textbook readout, mean protein in the nucleus over that in a ring around it, as a column."""
    cells = project.cells
    protein = find_channel(project.channels, "protein")
    fields, labels = cells.obs["field"].astype(str).to_numpy(), cells.obs["label"].to_numpy()
    values = np.full(cells.n_obs, np.nan)
    for field in dict.fromkeys(fields):
        ratio = nucleus_ring_ratio(project.read_image(field)[protein], project.read_labels(field))
        mine = fields == field
        values[mine] = [ratio[int(label)] for label in labels[mine]]
    cells.obs[RATIO] = values
    project.write_cells(cells)


def _size_training(project: Project, seed: int, seconds: float) -> Job[tuple[int, float]]:
    """How many steps fit into `seconds` on this machine, from a short trial; the plan of a begun training is kept."""
    from napari_cellrep.models import create_model
    from napari_cellrep.models._trial import time_step
    from napari_cellrep.models.paired_cell_inpainting import Training

    plan = project.root / "models" / "demo-plan.json"
    if plan.is_file():
        kept = json.loads(plan.read_text(encoding="utf-8"))
        if kept["seed"] == seed:
            return kept["steps"], kept["step_s"]
    yield Progress(0, 1, "Timing one training step on this machine")
    net = create_model(PCI, **NETWORK)
    cells = ProjectCells(project, net.crop, match_channels(net.roles, project.channels))
    step_s = time_step(net, cells, make_config(Training, {**TRAINING, "seed": seed}))
    steps = int(np.clip(seconds / step_s, MIN_STEPS, MAX_STEPS))
    write_text(plan, json.dumps({"seed": seed, "steps": steps, "step_s": round(step_s, 4)}))
    return steps, round(step_s, 4)


def _numbers(project: Project) -> dict[str, Any]:
    """How each readout follows the dose, per drug, controls excluded; and where cells differ most."""
    obs = project.cells.obs
    obs = obs[obs["good"].to_numpy(bool)]
    columns = {"nucleus/ring ratio": RATIO, **{e: f"score_{e}" for e in (CLASSICAL, UNTRAINED, PCI)}}
    readouts: dict[str, Any] = {}
    for name, column in columns.items():
        readouts[name] = {}
        for drug, cells in obs.groupby(obs["compound"].astype(str)):
            wells = cells.groupby(cells["well"].astype(str)).agg(
                dose=("dose_rank", "first"), control=("control", "first"), mean=(column, "mean"), sd=(column, _sd),
                n=(column, "size"),
            )  # fmt: skip
            doses = wells[wells["control"].astype(float) == 0].sort_values("dose")
            readouts[name][str(drug)] = {
                "spearman_with_dose": round(float(spearmanr(doses["dose"], doses["mean"]).statistic), 4),
                "mean_by_dose": _by_dose(wells, "mean"),
                "sd_by_dose": _by_dose(wells, "sd"),
                "dose_of_highest_sd": int(wells.loc[wells["sd"].idxmax(), "dose"]),
            }
    n_all = project.cells.n_obs
    flags = project.cells.obs["flags"].astype(str).str.get_dummies(";")
    return {
        "n_fields": len(project.fields),
        "n_cells": int(n_all),
        "n_good": len(obs),
        "flagged": {str(k): int(v) for k, v in flags.sum().items() if k},
        "readouts": readouts,
    }


def _sd(values: pd.Series) -> float:
    """Population SD, as the ranking has it."""
    return float(values.std(ddof=0))


def _by_dose(wells: pd.DataFrame, column: str) -> dict[str, float]:
    means = wells.groupby("dose")[column].mean()
    return {str(d): round(float(v), 4) for d, v in zip(means.index, means, strict=True)}


def _peak_memory_gib() -> float:
    """Peak resident memory of this process; NaN where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)


def _summary(out: Path, numbers: dict[str, Any]) -> str:
    lines = [
        f"{numbers['n_cells']:,} cells in {numbers['n_fields']} wells, {numbers['n_good']:,} good; "
        f"trained {numbers['training']['steps']} steps; {numbers['seconds_total']:.0f} s in all, "
        f"{numbers['peak_memory_gib']:.1f} GiB.",
        "How well each number follows the dose (Spearman per drug, controls left out; 1 is perfect):",
    ]
    for name, drugs in numbers["readouts"].items():
        told = ", ".join(
            f"{drug} {r['spearman_with_dose']:.2f} (cells differ most at dose {r['dose_of_highest_sd']})"
            for drug, r in drugs.items()
        )
        lines.append(f"  {name:<24} {told}")
    lines.append(
        f"Open {out / 'report.html'}; look at the cells with: cellrep view {out / 'bbbc013.cellrep'}"
    )
    return "\n".join(lines)
