"""DeepLoc's training: cells with classes, split by field; its augmentations and its schedule (models.md §2.1, §2.2).

After Kraus et al. 2017 and Razdaibiedina & Brechalov (PIFiA), written anew. Differs: cells come in another order every
epoch (the authors of 2017 read them one after the other); whole fields are held out, unless cells are asked for; the
weights kept are those of the epoch with the least validation loss, as the second paper has it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_cellrep.models._augment import draw, random_flips
from napari_cellrep.models._learner import Learner
from napari_cellrep.models._sampling import Sampler
from napari_cellrep.specs import InputError, join_words

HELD_OUT = 0.1  # of the cells for validation, and as many for the test: 80/10/10
TRAINED, VALIDATION, TEST = range(3)
STAIR_STEPS, STAIR = 25, 0.96  # models.md §2.1
LISTED = 5  # more classes are only counted in a sentence


# ---- which cells are learned from, and which judge --------------------------------------------------


def split_cells(labels: np.ndarray, units: np.ndarray | None, seed: int) -> np.ndarray:
    """Split cells about 80/10/10, each class by itself, and never a unit.

    Parameters
    ----------
    labels : ndarray of int, (n,)
        Class of each cell.
    units : ndarray of int, (n,), or None
        What has to stay together (fields, groups). None: nothing.
    seed : int

    Returns
    -------
    ndarray of int, (n,)
        0: to learn from, 1: validation, 2: test. At least half of the cells of every class are learned from, so a
        class in one unit is not held out, and one in three units or less comes in no test.
    """
    rng = np.random.default_rng((seed, 801010))
    n_classes = int(labels.max()) + 1
    if units is None:
        part = np.zeros(len(labels), np.int64)
        for k in range(n_classes):
            rows = rng.permutation(np.flatnonzero(labels == k))
            n = round(HELD_OUT * len(rows)) or int(len(rows) >= 2)
            part[rows[:n]] = VALIDATION
            part[rows[n : 2 * n]] = TEST if len(rows) > 3 else TRAINED
        return part
    _, unit = np.unique(units, return_inverse=True)
    counts = np.zeros((int(unit.max()) + 1, n_classes), np.int64)
    np.add.at(counts, (unit, labels), 1)
    total = counts.sum(axis=0)
    target, left = HELD_OUT * total, total.copy()
    parts = np.zeros(len(counts), np.int64)
    order = rng.permutation(len(counts))
    for which in (VALIDATION, TEST):
        held = np.zeros(n_classes, np.int64)
        for u in order[parts[order] == TRAINED]:
            c = counts[u]
            has = c > 0
            if (2 * (left - c)[has] < total[has]).any():
                continue
            gain = np.minimum(c, np.clip(target - held, 0, None)).sum()
            if (held[has] == 0).any() or 2 * gain > c.sum():
                parts[u] = which
                held += c
                left -= c
    return parts[unit]  # type: ignore[no-any-return]


class LabelSampler(Sampler):
    """Batches of the cells that are learned from; validation and test cells are kept apart.

    Parameters
    ----------
    cells : Cells
        With ``labels`` int (n,), ``fields`` int (n,) and, for the words, ``classes``.
    training : Training
    batch_size : int
        At most; no batch has a single cell, which batch norm could make nothing of.
    n_classes : int
        Of the network.

    Raises
    ------
    InputError
        If cells have no classes, all have the same one, or no class can be held out.
    """

    def __init__(self, cells: Any, training: Any, batch_size: int, n_classes: int):
        labels = getattr(cells, "labels", None)
        if labels is None:
            raise InputError("DeepLoc learns to tell classes apart, and these cells have no labels.")
        super().__init__(labels, ("x", "y"), batch_size, 0, training.seed, balanced=bool(training.balanced))
        self.labels, self.classes = np.asarray(labels), tuple(getattr(cells, "classes", ()))
        if len(np.unique(self.labels)) < 2:
            raise InputError("All cells are of one class; DeepLoc learns to tell at least two apart.")
        if int(self.labels.max()) >= n_classes:
            raise InputError(
                f"The cells have {int(self.labels.max()) + 1:,} classes, and the network {n_classes:,}; make it for as many."
            )
        by = training.split_by
        units = {"field": cells.fields, "group": cells.groups, "cell": None}[by]
        part = split_cells(self.labels, units, training.seed)
        self.rows, self.validation, self.test = (np.flatnonzero(part == p) for p in range(3))
        if not len(self.validation):
            raise InputError(
                f"Every class lies in one {by} only (or nearly so), so that none can be held out to judge what is "
                "learned. Add images, or split by cell (--split-by cell): then a network that recognises images "
                "instead of classes looks right, too."
            )
        self.note = self._words(by, units)
        n = len(self.epoch_rows(np.random.default_rng(0)))
        self.n_batches = max(1, min(-(-n // batch_size), n // 2))

    def _words(self, by: str, units: np.ndarray | None) -> str:
        def counted(rows: np.ndarray) -> str:
            of = f" of {len(np.unique(units[rows])):,} {by}s" if units is not None and len(rows) else ""
            return f"{len(rows):,} cells{of}"

        words = (
            f"Learns from {counted(self.rows)}; {counted(self.validation)} say which epoch was best, and "
            f"{counted(self.test)} judge it in the end."
        )
        alone = np.setdiff1d(self.labels, self.labels[self.validation])
        if len(alone):
            listed = [self.classes[k] if k < len(self.classes) else str(k) for k in alone[:LISTED]]
            more = f" and {len(alone) - LISTED:,} more" if len(alone) > LISTED else ""
            words += (
                f" Of {join_words(listed)}{more} nothing is held out, because all or most of it is in one {by}: it is "
                "learned, but not judged."
            )
        return words

    def epoch(self, epoch: int) -> list[dict[str, np.ndarray]]:
        """Rows of every batch: {"x": …}."""
        order = self.epoch_rows(np.random.default_rng((self.seed, epoch)))
        return [{"x": rows} for rows in np.array_split(order, self.n_batches)]

    def judging(self, rows: np.ndarray, batch_size: int) -> list[dict[str, np.ndarray]]:
        """All of the rows, in their order."""
        return [{"x": rows[i : i + batch_size]} for i in range(0, len(rows), batch_size)]


# ---- how it learns ----------------------------------------------------------------------------------


def random_window(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cut a window at a random place from each item: from 0 up to the margin, that excluded (models.md §2.1).

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
    side : int
        Of the window (px).

    Returns
    -------
    Tensor of shape (B, C, side, side)
    """
    margins = [max(1, n - side) for n in x.shape[-2:]]
    starts = [draw(partial(torch.randint, 0, m), (len(x), 1), generator).to(x.device) for m in margins]
    rows, columns = (start + torch.arange(side, device=x.device) for start in starts)  # (B, side)
    b = torch.arange(len(x), device=x.device)[:, None, None, None]
    c = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[b, c, rows[:, None, :, None], columns[:, None, None, :]]


def random_turns(x: Tensor, turns: int, generator: torch.Generator) -> Tensor:
    """Turn each square item by 0 … `turns` − 1 quarter turns."""
    k = draw(partial(torch.randint, 0, turns), (len(x), 1, 1, 1), generator).to(x.device)
    out = x
    for i in range(1, turns):
        out = torch.where(k == i, x.rot90(i, (-2, -1)), out)
    return out


class DeepLocLearner(Learner):
    """Softmax cross-entropy by Adam, with the network's own learning rate and its fall.

    Parameters
    ----------
    model : deeploc.Model
    training : deeploc.Training
    steps_per_epoch : int
    peak : float
        Learning rate of the first step.
    schedule : str
        "staircase", "cosine" or "constant".
    """

    scores = ("loss", "accuracy", "balanced_accuracy")
    feature_scores = ()
    judged_lagging = True  # what is judged chooses the weights, and is what classifies

    def __init__(self, model: Any, training: Any, steps_per_epoch: int, peak: float, schedule: str):
        super().__init__(model, training)
        self.net, self.peak, self.schedule = model, peak, schedule
        self.n_steps = training.epochs * steps_per_epoch
        model.drop.p = training.dropout

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Adam as both papers have it."""
        return torch.optim.Adam(self.module.parameters(), lr=self.peak, fused=self.fused)

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Set the step's learning rate."""
        rate = self.peak
        if self.schedule == "staircase":
            rate *= STAIR ** (step // STAIR_STEPS)
        elif self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(step, self.n_steps) / self.n_steps))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def prepare(self, crops: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Scale and vary the crops; the classes stay."""
        batch = super().prepare({"x": crops["x"]}, generator)
        return {**batch, "y": crops["y"]}

    def judge(self, crops: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The right class's probability, the likeliest class and the right one, (3, B); five windows, as tested."""
        p = self.net.classify(self.net.preprocess(crops["x"]))
        y = crops["y"]
        return torch.stack([p.gather(1, y[:, None])[:, 0], p.argmax(1), y])

    def score(self, judged: Tensor) -> list[float]:
        """Mean negative log of the right class's probability, accuracy, and the mean of the classes' accuracies."""
        p, said, y = judged.double()
        right = (said == y).double()
        each = torch.stack([right[y == k].mean() for k in y.unique()])
        return [float(-p.clamp(min=1e-12).log().mean()), float(right.mean()), float(each.mean())]


def vary(x: Tensor, side: int, shifts: bool, flips: bool, turns: int, generator: torch.Generator) -> Tensor:
    """Shift, mirror and turn preprocessed crops, each in its own way; `turns` as in `random_turns`."""
    if shifts:
        x = random_window(x, side, generator)
    if flips:
        x = random_flips(x, generator)
    return random_turns(x, turns, generator) if turns else x
