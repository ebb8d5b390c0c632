"""What Microsnoop learns of the bundled sample in two minutes: its vectors before and after, beside the measurements.

python benchmarks/learning_microsnoop.py --json FILE [--project PROJECT] [--seconds 120] [--width 0.125] [--cells 40]

A narrow network, the paper's recipe with the epochs that fit into the time. Trained on all good cells of the sample
without labels; described are up to 40 cells of each of the 24 wells. Two numbers per description, the features z-scored:

- balanced accuracy of 11 nearest neighbours for the control (untreated or full dose), each well by the others' cells;
- Spearman's rank correlation of the wells' mean score between the controls with the dose, per drug, controls excluded.

``--project`` takes a segmented project of the sample (``cellrep demo`` makes one); else one is made first.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _harness import environment, options, report, row
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsClassifier

from napari_cellrep.analysis.localisation import log_ratio_score
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._train import train
from napari_cellrep.models._trial import time_step
from napari_cellrep.models.microsnoop import Training
from napari_cellrep.specs import CropSpec
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.sample import open_sample
from napari_cellrep.steps.segment import segment
from napari_cellrep.steps.train import ProjectCells

CHANNELS, K, SEED = ("FKHR-GFP", "DNA"), 11, 0


def made(folder: Path) -> Project:
    project = drain(open_sample(folder / "sample.cellrep"))
    drain(segment(project, segmenter="nuclei"))
    drain(crop(project))
    return project


def describe(model, project: Project, spec: CropSpec, rows: np.ndarray) -> np.ndarray:
    cells, engine = ProjectCells(project, spec, (0, 1)), Embedder(model)
    parts = np.array_split(rows, math.ceil(len(rows) / 256))
    return np.concatenate([engine.run(cells.crops(part))[engine.layers[0]] for part in parts])


def judge(x: np.ndarray, obs: pd.DataFrame) -> dict[str, float]:
    z = z_score(x)
    well, control = obs["well"].astype(str).to_numpy(), obs["control"].astype(int).to_numpy()
    right: dict[int, list[bool]] = {-1: [], 1: []}
    for held in np.unique(well[control != 0]):
        known, asked = (control != 0) & (well != held), well == held
        guess = KNeighborsClassifier(K).fit(z[known], control[known]).predict(z[asked])
        right[int(control[asked][0])] += (guess == control[asked]).tolist()
    found = {"knn control": float(np.mean([np.mean(v) for v in right.values()]))}
    score = log_ratio_score(z, control == -1, control == 1)
    for drug in np.unique(obs["compound"].astype(str)):
        mine = ((obs["compound"].astype(str) == drug) & (obs["control"].astype(int) == 0)).to_numpy()
        wells = pd.DataFrame(
            {"well": well[mine], "dose": obs["dose_rank"][mine].to_numpy(), "score": score[mine]}
        )
        means = wells.groupby("well").mean()
        found[f"spearman dose {drug}"] = float(spearmanr(means["dose"], means["score"]).statistic)
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--project", type=Path, help="a segmented project of the sample (default: made first)"
    )
    parser.add_argument("--seconds", type=float, default=120, help="time for training (default 120)")
    parser.add_argument("--cells", type=int, default=40, help="described of each well, at most (default 40)")
    parser.add_argument("--width", type=float, default=0.125, help="of the network (default 0.125)")
    parser.add_argument("--view", default="field", choices=("field", "cell"), help="what it learns from")
    args = parser.parse_args()
    seconds = 10.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as folder:
        project = open_project(args.project) if args.project else made(Path(folder))
        torch.manual_seed(SEED)
        model = create_model("microsnoop", channels=CHANNELS, width=args.width)
        plain = create_model("measurements")
        every = ProjectCells(project, model.crop, (0, 1))
        obs, rng = every._obs.reset_index(drop=True), np.random.default_rng(SEED)
        shuffled = obs.iloc[rng.permutation(len(obs))]
        rows = np.sort(shuffled.groupby(shuffled["well"].astype(str)).head(args.cells).index.to_numpy())
        some = obs.iloc[rows]

        found = {"untrained": judge(describe(model, project, model.crop, rows), some)}
        measured = dataclasses.replace(plain.crop, channels=CHANNELS)
        found["measurements"] = judge(describe(plain, project, measured, rows), some)

        first = Training(seed=SEED, view=args.view, epochs=1)
        cells = ProjectCells(project, model.training_crop(first), (0, 1))
        step_s = time_step(model, cells, first)
        n_batches = math.ceil(len(cells) / first.batch_size)
        steps = max(2, int(seconds / step_s))
        # Under an epoch's time the schedule is that of one epoch over as many cells as fit.
        epochs = max(1, steps // n_batches)
        if steps < n_batches:
            cells = _Part(cells, rng.permutation(len(cells))[: steps * first.batch_size])
        training = dataclasses.replace(first, epochs=epochs)
        losses: list[float] = []
        result = drain(
            train(model, cells, training, Path(folder) / "model"),
            lambda at: losses.append(at.metrics["loss"]) if at.metrics else None,
        )
        tenth = max(1, len(losses) // 10)
        trained = load_model(Path(folder) / "model")
        found["trained"] = judge(describe(trained, project, trained.crop, rows), some)

    how = {
        "steps": result["step"],
        "width": args.width,
        "cells_described": len(rows),
        "view": args.view,
        "precision": result["precision"],
    }
    out = [
        row(f"{name}, {what}", value, "", **how)
        for what, values in found.items()
        for name, value in values.items()
    ]
    out.append(row("loss, first tenth of the steps", float(np.mean(losses[:tenth])), "", **how))
    out.append(row("loss, last tenth of the steps", float(np.mean(losses[-tenth:])), "", **how))
    out.append(row("training", result["seconds"], "s", cells=len(cells), epochs=epochs, **how))
    report(out, environment("torch", "scikit-learn"), args.json)


class _Part:
    """Some of the cells."""

    def __init__(self, cells: ProjectCells, rows: np.ndarray):
        self._cells, self._rows, self.groups = cells, rows, cells.groups[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        return self._cells.crops(self._rows[rows])


if __name__ == "__main__":
    main()
