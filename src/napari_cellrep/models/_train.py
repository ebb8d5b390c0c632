"""The training loop, over crops from anywhere: it knows arrays and models, not projects."""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import logging
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import napari_cellrep
from napari_cellrep.jobs import Job, Progress, is_out_of_memory
from napari_cellrep.models._augment import Draws
from napari_cellrep.models._base import EmbeddingModel, can, replace_file, save_model
from napari_cellrep.models._engine import (
    _time,
    check_precision,
    choose_device,
    computing,
    memory_peak,
    resize,
    to_tensor,
    trial_form,
)
from napari_cellrep.models._processes import ALONE, Processes
from napari_cellrep.specs import InputError, digest

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 1  # of what is in it; a newer one is refused with a sentence
LAST = "last"
LEAST_PART = 2  # cells at a time: batch norm can make nothing of one
WARNING = "⚠ "  # before what went wrong, in a message
SETTLED_STEPS = (
    1000  # after so many steps batch norm's running means (momentum 0.01) have forgotten the start
)
SETTLE_CELLS = 512
CHECKPOINT_EVERY_S = 120.0  # between epochs too, for a process that is killed
PREVIEW = "preview.npz"
PREVIEW_CELLS = 3
PREVIEW_BATCH = 16  # cells whose statistics batch norm takes; the pictures are of the first ones
PREVIEW_EVERY_S = 5.0  # at most; and it never costs more than a fiftieth of the time
MOST_JUDGED = 2000  # held-out cells that are looked at after an epoch
NEIGHBOURS, MOST_NEIGHBOURS = 11, 5000  # of a held-out cell, and cells they are looked for among
COMPILE_FROM_S = 900.0  # of training left from which on it is tried out whether compiling pays: that takes a minute or more
COMPILE_AFTER = 20  # steps, whose seconds say how long the training will take
COMPILES = ("cuda",)  # devices on which it is tried out
COMPILED = ("auto", "on", "off")
HISTORY = ("epoch", "step", "loss", "cells_per_s", "learning_rate", "seconds")


class Cells(Protocol):
    """The cells to train on; row i is one cell."""

    groups: np.ndarray  # int (n,): cells of equal number count as alike and make pairs
    # May have ``fields``, int (n,): the image of each cell. Without, none is held out.
    # May have ``weights``, float32 (size, S): crops are S px and are resized by these on the device (`_engine.resize`).

    def __len__(self) -> int: ...

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops (B, C, S, S) of some rows, in their order; a row may be asked for twice."""
        ...


# ---- which cells go into which step ----------------------------------------------------------------


class Sampler:
    """Batches of one epoch; what epoch `e` holds depends on the seed and `e` alone, so resuming needs no state.

    Parameters
    ----------
    groups : ndarray of int, (n,)
    keys : tuple of str
        ("source", "target"): every cell is the source once per epoch, with a target drawn evenly among the other
        cells of its group (models.md §1.6). Otherwise every cell comes once, by itself.
    batch_size : int
        At most; the cells of an epoch are spread evenly over its batches, and none is dropped.
    min_cells : int
        Groups with fewer cells make no pairs.
    seed : int
    fields : ndarray of int, (n,), optional
        The image of each cell; without it, none is held out.
    share : float
        Part of the cells to hold out (`hold_out`).
    balanced : bool
        Whether every group comes equally often in an epoch (`evenly`), instead of every cell once.

    Attributes
    ----------
    note : str
        Which groups were left out, if any, and what is held out, in words.
    validation, test : ndarray of int
        Rows that are not learned from but judge (`Learner.judge`): after every epoch, and in the end. A model that
        holds out in its own way has a method ``sampler(cells, training, batch_size)``.

    Raises
    ------
    InputError
        If nothing is left to train on.
    """

    validation = test = np.zeros(0, np.int64)

    def __init__(
        self,
        groups: np.ndarray,
        keys: tuple[str, ...],
        batch_size: int,
        min_cells: int,
        seed: int,
        fields: np.ndarray | None = None,
        share: float = 0.0,
        balanced: bool = False,
    ):
        groups = np.asarray(groups)
        self.keys, self.seed, self.note, self.groups = keys, seed, "", groups
        if not len(groups):
            raise InputError("There are no cells to train on.")
        self.rows = np.arange(len(groups))
        pairs = "target" in keys
        if pairs:
            least = max(2, min_cells)
            _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
            small = counts < least
            if small.all():
                raise InputError(
                    f"No pair of cells can be drawn: each of the {len(counts):,} groups has fewer than {least} cells. "
                    "Choose a coarser group (a column that several fields share), or segment more cells."
                )
            if small.any():
                self.note = (
                    f"{small.sum():,} of {len(counts):,} groups with fewer than {least} cells make no pairs and are "
                    f"left out ({counts[small].sum():,} cells)."
                )
            self.rows = np.flatnonzero(~small[index])
        if fields is not None and share > 0:
            held, words = hold_out(groups[self.rows], np.asarray(fields)[self.rows], share, pairs, seed)
            self.validation, self.rows = self.rows[held], self.rows[~held]
            self.note = f"{self.note} {words}".strip()
        self._pairs = _Pairs(groups, self.rows) if pairs else None
        self.balanced = balanced
        self.n_batches = -(-len(self.epoch_rows(np.random.default_rng(0))) // batch_size)

    def epoch_rows(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of an epoch in their order: each once, or each group equally often."""
        return evenly(self.rows, self.groups, rng) if self.balanced else rng.permutation(self.rows)

    def epoch(self, epoch: int) -> list[dict[str, np.ndarray]]:
        """Rows of every batch: {"source": …, "target": …} or {"x": …}."""
        rng = np.random.default_rng((self.seed, epoch))
        order = self.epoch_rows(rng)
        batches = np.array_split(order, self.n_batches)
        if self._pairs is None:
            return [{"x": rows} for rows in batches]
        return [{"source": rows, "target": self._pairs.others(rows, rng)} for rows in batches]

    def judging(self, rows: np.ndarray, batch_size: int) -> list[dict[str, np.ndarray]]:
        """Batches of rows that are held out, the same ones every time; pairs are drawn among these rows."""
        rng = np.random.default_rng((self.seed, 0, 1))
        pairs = _Pairs(self.groups, rows) if "target" in self.keys else None
        if pairs is not None:
            rows = rows[pairs.count[rows] > 1]
        if not len(rows):
            return []
        batches = np.array_split(
            rng.permutation(rows)[:MOST_JUDGED], -(-min(len(rows), MOST_JUDGED) // batch_size)
        )
        if pairs is None:
            return [{"x": rows} for rows in batches]
        return [{"source": rows, "target": pairs.others(rows, rng)} for rows in batches]


def evenly(rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order such that every group comes equally often, repeated or cut to the mean.

    As DeepLoc's authors' option does it.

    Parameters
    ----------
    rows : ndarray of int, (n,)
    groups : ndarray of int
        Of all rows.
    """
    of_group = [rows[groups[rows] == g] for g in np.unique(groups[rows])]
    each = -(-len(rows) // len(of_group))
    drawn = []
    for part in of_group:
        times = -(-each // len(part))
        drawn.append(np.concatenate([rng.permutation(part) for _ in range(times)])[:each])
    return rng.permutation(np.concatenate(drawn))


class _Pairs:
    """Draws to a cell another one of its group, among some rows."""

    def __init__(self, groups: np.ndarray, rows: np.ndarray):
        _, index, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
        # Members of a group lie side by side in `_by_group`, so that "another one" is a shift within its part.
        order = np.argsort(index, kind="stable")
        self._by_group = rows[order]
        starts = np.cumsum(counts) - counts
        self._start, self.count, self._place = (np.zeros(len(groups), np.int64) for _ in range(3))
        self._start[rows], self.count[rows] = starts[index], counts[index]
        self._place[self._by_group] = np.arange(len(rows))
        self._place[rows] -= self._start[rows]

    def others(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = self.count[rows]
        shift = 1 + rng.integers(0, count - 1)
        return self._by_group[self._start[rows] + (self._place[rows] + shift) % count]  # type: ignore[no-any-return]


def hold_out(
    groups: np.ndarray, fields: np.ndarray, share: float, pairs: bool, seed: int
) -> tuple[np.ndarray, str]:
    """Which cells to judge by: whole fields, such that their groups are learned from in other fields; else cells.

    Parameters
    ----------
    groups, fields : ndarray of int, (n,)
    share : float
        Of the cells, about; at most a quarter when one field is more.
    pairs : bool
        Whether a held-out cell needs another one of its group.
    seed : int

    Returns
    -------
    held : ndarray of bool, (n,)
    words : str
        How many, and why not otherwise.
    """
    rng = np.random.default_rng((seed, 0, 2))
    n = len(groups)
    _, group = np.unique(groups, return_inverse=True)
    _, field = np.unique(fields, return_inverse=True)
    total = np.bincount(group)
    parts, counts = np.unique(np.stack([field, group]), axis=1, return_counts=True)
    starts = np.searchsorted(parts[0], np.arange(int(field.max()) + 2))
    turns: dict[
        int, int
    ] = {}  # group → its fields so far: every group's first field comes before any second one
    order = []
    for f in rng.permutation(len(starts) - 1):
        first = int(parts[1, starts[f]])
        turns[first] = turns.get(first, 0) + 1
        order.append((turns[first], f))
    left, taken, chosen = total.copy(), 0, []
    for _, f in sorted(order, key=lambda item: item[0]):
        at = slice(starts[f], starts[f + 1])
        g, c = parts[1, at], counts[at]
        most = 1.25 * share * n if taken else max(1.25 * share, 0.25) * n
        if taken + c.sum() <= most and (2 * (left[g] - c) >= total[g]).all() and (left[g] - c > 1).all():
            chosen.append(f)
            left[g] -= c
            taken += int(c.sum())
        if taken >= share * n:
            break
    if chosen:
        held = np.isin(field, chosen)
        return held, (
            f"Learns from {n - taken:,} cells; {taken:,} cells of {len(chosen):,} "
            f"image{'s' if len(chosen) > 1 else ''} are held out to judge it."
        )
    number = np.floor(share * total).astype(np.int64)
    number[number < 1 + pairs] = 0
    if not number.any() and not pairs:
        group, total, number = np.zeros(n, np.int64), np.array([n]), np.array([int(share * n)])
    if not number.any():
        return np.zeros(n, bool), (
            f"No cell is held out to judge it: no group has its cells in several images, and {share:.0%} of a group is "
            f"fewer than {1 + pairs} cells."
        )
    order_in = np.lexsort((rng.random(n), group))
    place = np.empty(n, np.int64)
    place[order_in] = np.arange(n)
    held = place - (np.cumsum(total) - total)[group] < number[group]
    return held, (
        f"Learns from {n - held.sum():,} cells; {held.sum():,} single cells are held out to judge it and not whole "
        "images, because no group has enough images to spare one: a network that recognises images looks right, too."
    )


def make_sampler(model: EmbeddingModel, cells: Cells, training: Any, batch_size: int) -> Sampler:
    """The model's own sampler, or the plain one."""
    own = getattr(model, "sampler", None)
    if own is not None:
        return own(cells, training, batch_size)  # type: ignore[no-any-return]
    least = getattr(training, "min_cells", 0)  # wanted of models that learn from pairs
    share = float(getattr(training, "held_out", 0.0))
    fields = getattr(cells, "fields", None)
    even = bool(getattr(training, "balanced", False))
    return Sampler(cells.groups, model.batch, batch_size, least, training.seed, fields, share, even)


# ---- one step --------------------------------------------------------------------------------------


class Learner:
    """How a model learns; here: its own ``losses`` by Adam, after ``preprocess`` and ``augment``.

    This is the loop's one hook. A model that wants more (a teacher, schedules of every step, clipping) has a method
    ``learner(training, steps_per_epoch) -> Learner`` that gives a subclass with what differs overridden; the loop
    calls, per step, `before_step`, `prepare`, `losses`, backward, `before_update`, the optimizer, `after_update`.
    Whatever changes in training is a parameter or a buffer of `module`, or the optimizer's, because these two and
    torch's own random state are what a checkpoint holds; all else follows from the settings and the step's number.

    Parameters
    ----------
    model : EmbeddingModel
        What is saved when training ends, with the weights that it has then.
    training : dataclass
        The model's ``Training``.

    Attributes
    ----------
    module : torch.nn.Module
        Moved to the device; its state goes into the checkpoint.
    notes : list of str
        What a person should know of these settings.
    processes : Processes
        Those that train together.
    rows : tuple of int, or None
        Where a part of a batch is computed: its first row, the one after its last, and the batch's number (`Draws`).
    scores : tuple of str
        What `score` gives, "loss" first: columns of ``history.csv`` with "val_" before them.
    feature_scores : tuple of str
        Further ones, which `score_features` gives.
    judged_lagging : bool
        Whether held-out cells are looked at with batch norm's running means also where these lag far behind
        (`settle_norm`). Otherwise batch norm then takes each batch's own.
    """

    scores: ClassVar[tuple[str, ...]] = ("loss",)
    feature_scores: ClassVar[tuple[str, ...]] = ("knn",)
    judged_lagging: ClassVar[bool] = False

    def __init__(self, model: EmbeddingModel, training: Any):
        self.model, self.training = model, training
        self.notes: list[str] = []
        self.module: torch.nn.Module = model
        self.processes = ALONE
        self.rows: tuple[int, int, int] | None = None
        self.compiled: Any = None  # what `compile` made

    @property
    def learning(self) -> nn.Module:
        """What of `module` gets gradients."""
        return self.module

    def draws(self, *key: int) -> Draws:
        """Random numbers that depend on the training's seed and `key` alone, for the items that are computed now."""
        generator = Draws()
        generator.manual_seed(int(np.random.SeedSequence((self.training.seed, *key)).generate_state(1)[0]))
        generator.rows = self.rows
        return generator

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Called once, when `module` is on its device."""
        return torch.optim.Adam(
            self.module.parameters(),
            lr=self.training.learning_rate,
            betas=(self.training.beta1, 0.999),
            eps=1e-8,
            fused=self.fused,
        )

    @property
    def fused(self) -> bool | None:
        """Whether the optimizer takes its step in one kernel: on a graphics card; None: as torch does otherwise."""
        return True if next(self.module.parameters()).is_cuda else None

    def prepare(self, crops: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch (images, B × C × H × W) of raw crops on the device; draws come from `generator` alone."""
        batch = {k: self.model.preprocess(x) for k, x in crops.items()}
        return self.model.augment(batch, self.training, generator)

    def to_show(self, crops: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `look` shows of raw crops: preprocessed, and not varied."""
        return {k: self.model.preprocess(x) for k, x in crops.items()}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss"}`` of a batch, or of a part of one; computed in the run's precision."""
        return self.for_gradients(self.model)(batch)  # type: ignore[no-any-return]

    def compile(self) -> None:
        """Have torch make kernels for what the gradients come from; once for every batch size that comes."""
        self.compiled = torch.compile(self.model, dynamic=False)

    def for_gradients(self, plain: Any) -> Any:
        """What was compiled, where there are gradients; held-out cells come in other sizes and go the plain way."""
        return self.compiled if self.compiled is not None and torch.is_grad_enabled() else plain

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Before the batch of step 0, 1, … is prepared: set what is scheduled."""

    def before_update(self, step: int) -> None:
        """Between the gradients and the optimizer's step: clip, freeze."""

    def after_update(self, step: int) -> None:
        """After the optimizer's step: what follows the weights."""

    def judge(self, crops: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """What the network, which is not learning now, says of raw crops that were held out: (k, B).

        Here their loss, as they are varied by draws from `generator`, which are the same after every epoch.
        """
        n = len(next(iter(crops.values())))
        return self.losses(self.prepare(crops, generator))["loss"].float().expand(1, n)

    def score(self, judged: Tensor) -> list[float]:
        """The `scores` of everything `judge` said (k, n)."""
        return [float(row.mean()) for row in judged.double()]

    def score_features(self, held: np.ndarray, knn: float) -> list[float]:
        """The `feature_scores` of the held-out cells' vectors (n, dim), whose neighbours say `knn`."""
        return [knn]

    def warn(self, epochs: list[dict[str, float]]) -> str:
        """What a person should be told of the epochs' scores on held-out cells; "" when nothing."""
        return ""


def knn_accuracy(
    held: np.ndarray, held_groups: np.ndarray, learned: np.ndarray, learned_groups: np.ndarray
) -> float:
    """Mean over groups of how often a held-out cell's nearest learned cells are of its group by majority.

    Parameters
    ----------
    held, learned : ndarray of float, (n, dim), (m, dim)
        Vectors; each number is taken off its mean over `learned` and divided by its standard deviation.
    held_groups, learned_groups : ndarray of int, (n,), (m,)

    Returns
    -------
    float
        NaN when fewer than two groups are known, or none of the held-out cells' groups.
    """
    names, known = np.unique(learned_groups, return_inverse=True)
    fits = np.isin(held_groups, names)
    if len(names) < 2 or not fits.any():
        return float("nan")
    mean, sd = learned.mean(axis=0), learned.std(axis=0)
    a, b = ((torch.from_numpy((x - mean) / np.where(sd > 0, sd, 1))).float() for x in (held[fits], learned))
    near = torch.cdist(a, b).topk(min(NEIGHBOURS, len(b)), largest=False).indices.numpy()
    votes = np.zeros((len(near), len(names)))
    # The weights only break ties, for the nearer cells.
    np.add.at(votes, (np.arange(len(near))[:, None], known[near]), 1 - 1e-4 * np.arange(near.shape[1]))
    right = names[votes.argmax(axis=1)] == held_groups[fits]
    return float(np.mean([right[held_groups[fits] == g].mean() for g in np.unique(held_groups[fits])]))


def make_learner(model: EmbeddingModel, training: Any, steps_per_epoch: int) -> Learner:
    """The model's own learner, or the plain one; what is drawn for it comes from the training's seed."""
    own = getattr(model, "learner", None)
    if own is None:
        return Learner(model, training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        learner: Learner = own(training, steps_per_epoch)
    return learner


class _Losses(nn.Module):
    """A learner's loss as a module, for what wants one around all that is computed."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.net = learner.learning
        self._learner = learner

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, or of a part of one."""
        return self._learner.losses(batch)["loss"]


def _norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Batch norm goes by its running means, and leaves them as they are."""
    learning = [norm for norm in _norms(module) if norm.training]
    for norm in learning:
        norm.eval()
    try:
        yield
    finally:
        for norm in learning:
            norm.train()


class _Trainer:
    """Learner, optimizer and device: what one step needs."""

    def __init__(
        self,
        model: EmbeddingModel,
        cells: Cells,
        training: Any,
        device: torch.device,
        precision: str,
        n_batches: int,
        processes: Processes = ALONE,
    ):
        self.model, self.n_batches, self.processes = model, n_batches, processes
        self.cells, self.training, self.device, self.precision = cells, training, device, precision
        self.learner = make_learner(model, training, n_batches)
        self.learner.processes = processes
        self.learner.module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = False  # whether batch norm stands still
        if processes.world > 1 and _norms(self.learner.module):
            if device.type == "cuda":
                self.learner.module = nn.SyncBatchNorm.convert_sync_batchnorm(self.learner.module)
            else:
                self.frozen = True
                self.learner.notes.append(
                    "Several processes train without graphics cards, where batch norm cannot be synchronised: it stays as it "
                    "is at the start, so that the network learns worse than by one process."
                )
        self.optimizer = self.learner.make_optimizer()
        self._losses: nn.Module = _Losses(self.learner)
        if processes.world > 1:
            self._losses = processes.averaging(self._losses)
        self.parts = 1  # in which a batch is computed
        self._fits = (
            processes.world == 1
        )  # several processes try it out, because none can begin a step again alone
        weights = getattr(cells, "weights", None)
        self._weights = None if weights is None else torch.from_numpy(weights).to(device)
        self.learn()

    def learn(self) -> None:
        """Be what learns, after something was looked at."""
        self.learner.module.train()
        if self.frozen:
            for norm in _norms(self.learner.module):
                norm.eval()

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def batch(
        self, rows: dict[str, np.ndarray], key: tuple[int, ...], part: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """Scaled and augmented crops, of all rows or a part of them (from, up to).

        `key` (epoch, step) decides the augmentation, together with the seed; each cell's is the same in a part.
        """
        self.learner.rows = None
        if part is not None:
            self.learner.rows = (*part, len(next(iter(rows.values()))))
            rows = {k: r[slice(*part)] for k, r in rows.items()}
        batch = self.learner.prepare(self.raw(rows), self.learner.draws(*key))
        return {
            k: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for k, x in batch.items()
        }

    def own_part(self, rows: dict[str, np.ndarray]) -> tuple[int, int] | None:
        """What of a batch this process computes; None of all of it."""
        return self.processes.part(len(next(iter(rows.values())))) if self.processes.world > 1 else None

    def raw(self, rows: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Crops as they are, with the cells' classes ("y") where the model learns from classes."""
        crops = {k: self._load(r) for k, r in rows.items()}
        if "y" in self.model.batch:
            labels: Any = self.cells.labels  # type: ignore[attr-defined]
            crops["y"] = torch.from_numpy(np.asarray(labels, np.int64)[rows["x"]]).to(self.device)
        return crops

    def judged(
        self, sampler: Sampler, rows: np.ndarray, found: dict[str, float], lagging: bool = False
    ) -> Iterator[int]:
        """Add the learner's scores of some rows to `found`; yields cells seen, once per batch.

        `lagging`: batch norm's running means are still those of the start.
        """
        said, size, seen = [], max(1, int(self.training.batch_size) // self.parts), 0
        own = lagging and not self.learner.judged_lagging and not self.frozen
        self.learner.rows = None
        for i, batch in enumerate(sampler.judging(rows, size)):
            generator = self.learner.draws(0, 3, i)
            with self._looking(own):
                said.append(self.learner.judge(self.raw(batch), generator).cpu())
            seen += len(next(iter(batch.values())))
            yield seen
        names = self.learner.scores
        values = self.learner.score(torch.cat(said, dim=1)) if said else [float("nan")] * len(names)
        found.update(zip(names, values, strict=True))
        if not self.learner.feature_scores:
            return
        rng = np.random.default_rng((self.training.seed, 0, 4))
        held = rng.permutation(rows)[:MOST_JUDGED]
        learned = rng.permutation(sampler.rows)[:MOST_NEIGHBOURS]
        vectors = []
        for part in np.array_split(np.r_[held, learned], -(-(len(held) + len(learned)) // size)):
            with self._looking(own):
                x = self.learner.to_show({"x": self._load(part)})["x"]
                vectors.append(self.model.embed(x).float().cpu().numpy())
            seen += len(part)
            yield seen
        both = np.concatenate(vectors)
        groups = sampler.groups
        knn = knn_accuracy(both[: len(held)], groups[held], both[len(held) :], groups[learned])
        values = self.learner.score_features(both[: len(held)], knn)
        found.update(zip(self.learner.feature_scores, values, strict=True))

    @contextlib.contextmanager
    def _looking(self, own_statistics: bool) -> Iterator[None]:
        """Within, the network does not learn."""
        self.learner.module.eval()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(computing(self.device, self.precision))
                if own_statistics:
                    stack.enter_context(_own_statistics(self.model))
                yield
        finally:
            self.learn()

    def step(self, rows: dict[str, np.ndarray], key: tuple[int, ...]) -> float:
        """Train on one batch; in several parts whose gradients are added up, where the memory wants that.

        After a part that did not fit, the step begins again with parts half as large, and later steps keep to that.

        Returns
        -------
        float
            The mean loss of this process's part, times its share of the batch: of one process alone, the batch's.
        """
        step = key[0] * self.n_batches + key[1]
        start, stop = self.processes.part(len(next(iter(rows.values()))))
        n = stop - start
        while True:
            before = _rng_state()
            self.learner.before_step(step, self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
            full: Exception | None = None
            loss = 0.0
            try:
                loss = self._gradients(rows, key, together=self._fits)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                full = error
            if full is not None and self._fits and self.processes.world > 1:
                raise InputError(
                    "The device's memory ran out. The last checkpoint is kept: start again with a smaller batch_size, or end "
                    "other programs."
                ) from full
            if self._fits and full is None:
                break
            if not self._fits and not self.processes.sum([full is not None])[0]:
                self._fits = True  # everywhere: now the step itself
            else:
                least = max(1, n // LEAST_PART)
                if self.parts >= least:
                    raise InputError(
                        f"The device's memory is too small for this network even with {-(-n // self.parts)} cells at a "
                        "time; make the network narrower or its crops smaller, end other programs, or train on the CPU. "
                        "The last checkpoint is kept."
                    ) from full
                self.parts = min(2 * self.parts, least)
                logger.warning(self.parts_note)
            full = None  # with it, what its frames hold
            _set_rng_state(before)
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.learner.before_update(step)
        self.optimizer.step()
        self.learner.after_update(step)
        return loss

    def _gradients(self, rows: dict[str, np.ndarray], key: tuple[int, ...], together: bool) -> float:
        """Leave the batch's gradients in the parameters; the loss as `step` gives it.

        Not `together`: this process's own, while batch norm stands still and waits for nobody.
        """
        total, n = 0.0, len(next(iter(rows.values())))
        start, stop = self.processes.part(n)
        parts = np.array_split(np.arange(start, stop), min(self.parts, max(1, (stop - start) // LEAST_PART)))
        for at in parts:
            batch = self.batch(rows, key, (int(at[0]), int(at[-1]) + 1) if len(at) < n else None)
            with contextlib.ExitStack() as stack:
                if isinstance(self._losses, DistributedDataParallel) and not (together and at is parts[-1]):
                    stack.enter_context(self._losses.no_sync())
                if not together:
                    stack.enter_context(_still(self.learner.module))
                with computing(self.device, self.precision):
                    loss = self._losses(batch) * (len(at) / n)
                (loss * self.processes.world).backward()  # the mean over processes is taken
            total += float(loss.detach())
        return total

    @property
    def parts_note(self) -> str:
        """What is said when batches are computed in parts."""
        return (
            f"The memory did not suffice for {self.training.batch_size:,} cells at a time: each batch is now computed in "
            f"{self.parts} parts whose gradients are added up. It learns from the same batches, more slowly; batch norm, "
            "where there is one, sees the parts."
        )

    def _load(self, rows: np.ndarray) -> Tensor:
        crops = to_tensor(self.cells.crops(rows)).to(self.device)
        if self._weights is None:
            return crops
        return resize(crops, self._weights, self.model.crop.mask_plane)


def time_step(
    model: EmbeddingModel,
    cells: Cells,
    training: Any,
    device: str = "auto",
    precision: str = "auto",
    seconds: float = 1.0,
) -> float:
    """Seconds that one training step takes here, tried out on a copy of the model.

    Parameters
    ----------
    model, cells, training
        As for `train`.
    device, precision : str
        As for `train`; with "auto" the faster form counts.
    seconds : float
        For the trial, about; at least two small steps in each form are done.

    Returns
    -------
    float
        Seconds per step of ``training.batch_size`` cells (or of all cells, if there are fewer).
    """
    return _try_out(model, cells, training, choose_device(device), check_precision(precision), seconds)[1]


def _try_out(
    model: EmbeddingModel, cells: Cells, training: Any, device: torch.device, precision: str, seconds: float
) -> tuple[str, float]:
    """Precision to use, and seconds per step: timed on few cells on a CPU, where cost grows with the batch."""
    n = 4 if device.type == "cpu" else training.batch_size
    n = min(n, training.batch_size)
    sampler = make_sampler(model, cells, training, n)
    rows = sampler.epoch(0)[0]
    trainer = _Trainer(copy.deepcopy(model), cells, training, device, "fp32", sampler.n_batches)

    def run(form: str) -> None:
        trainer.precision = form
        trainer.step(rows, (0, 0))

    with _torch_rng_kept():
        if precision == "auto":
            precision, times = trial_form(run, device, seconds)
        else:
            times = {precision: min(trial_form(lambda _form: run(precision), device, seconds)[1].values())}
        n_full = min(training.batch_size, len(sampler.rows))
        n_now = len(next(iter(rows.values())))
        step_s = times[precision] * n_full / n_now
        if (
            n_now < n_full and step_s < 2 * seconds
        ):  # of a narrow network few cells tell little: look at a whole step
            rows = make_sampler(model, cells, training, n_full).epoch(0)[0]
            run(precision)
            start = time.perf_counter()
            run(precision)
            step_s = time.perf_counter() - start
    return precision, step_s


_NOT_COMPILED = (RuntimeError, OSError, ImportError, MemoryError, InputError, subprocess.SubprocessError)


def try_compiled(
    trainer: _Trainer, sampler: Sampler, steps: int, seconds: float = float("inf")
) -> tuple[bool | None, str]:
    """Try out on a copy of the network whether the steps that are left gain more by compiling than it takes.

    Parameters
    ----------
    trainer, sampler
        Of the training; they stay as they are.
    steps : int
    seconds : float
        How long training lasts at most.

    Returns
    -------
    pays : bool or None
        None: it cannot be compiled here.
    words : str
        What was measured, or what went wrong.
    """
    t, sizes = trainer, {len(next(iter(rows.values()))): rows for rows in sampler.epoch(0)}
    with _torch_rng_kept():
        # A copy that does not fit beside the network, no compiler, or one that fails: then all stays as it is.
        try:
            copied = _Trainer(
                copy.deepcopy(t.model), t.cells, t.training, t.device, t.precision, sampler.n_batches
            )
            copied.parts = t.parts

            def run(_form: str = "") -> None:
                copied.step(sizes[max(sizes)], (0, 0))

            run()
            before_s = min(_time(run, "", t.device) for _ in range(3))
            start = time.perf_counter()
            copied.learner.compile()
            for rows in sizes.values():
                copied.step(rows, (0, 0))
            took_s = time.perf_counter() - start
            after_s = min(_time(run, "", t.device) for _ in range(3))
        except _NOT_COMPILED as error:
            reason = " ".join(str(error).split("\n")[:2]).strip()
            return None, f"It is not compiled, because that failed here: {type(error).__name__}: {reason}"
        if copied.parts != t.parts:
            return None, "It is not compiled, because the memory does not suffice to try that out."
    gain_s = (before_s - after_s) * min(steps, seconds / before_s)
    return gain_s > took_s, (
        f"Compiled in {took_s:.0f} s, a step takes {1e3 * after_s:.3g} ms instead of {1e3 * before_s:.3g} ms."
    )


@dataclass(frozen=True)
class Trial:
    """What a training would cost here.

    Parameters
    ----------
    step_s : float
        Seconds per step.
    steps_done, steps : int
        Of a checkpoint that would be gone on from, and in all.
    device : torch.device
    precision : str
    memory_bytes : int
        Of the device: weights, their gradients, what the optimizer keeps, and the batch on its way.
    """

    step_s: float
    steps_done: int
    steps: int
    device: torch.device
    precision: str
    memory_bytes: int


def try_out(
    model: EmbeddingModel,
    cells: Cells,
    training: Any,
    folder: Path,
    device: str = "auto",
    precision: str = "auto",
    card: dict[str, Any] | None = None,
) -> Trial:
    """Do a few steps on a copy of the model, to say what `train` would cost; nothing is written."""
    where = choose_device(device)
    sampler = make_sampler(model, cells, training, training.batch_size)
    precision, step_s = _try_out(model, cells, training, where, check_precision(precision), 1.0)
    steps = training.epochs * sampler.n_batches
    if training.max_steps:
        steps = min(steps, training.max_steps)
    memory = _memory(model, cells, training, where, precision)
    return Trial(step_s, steps_done(model, cells, training, folder, card), steps, where, precision, memory)


def steps_done(
    model: EmbeddingModel, cells: Cells, training: Any, folder: Path, card: dict[str, Any] | None = None
) -> int:
    """Steps of the checkpoint that `train` with these arguments would go on from; 0 without one."""
    state = _read_checkpoint(Path(folder) / CHECKPOINT, look_only=True)
    if state is None or state["made_of"] != _made_of(model, cells, training, dict(card or {})):
        return 0
    return int(state["step"])


def _memory(model: EmbeddingModel, cells: Cells, training: Any, device: torch.device, precision: str) -> int:
    """Peak of a step with a whole batch; on a CPU, where that takes long, drawn out from two and from four cells."""
    n_full = min(training.batch_size, len(cells))

    def peak(n: int) -> tuple[int, int]:
        sampler = make_sampler(model, cells, training, n)
        rows = {k: r[:n] for k, r in sampler.epoch(0)[0].items()}
        trainer = _Trainer(copy.deepcopy(model), cells, training, device, precision, sampler.n_batches)
        fixed = sum(p.nbytes * (4 if p.requires_grad else 1) for p in trainer.learner.module.parameters())
        with memory_peak(device) as found, computing(device, precision):
            losses = trainer.learner.losses(trainer.batch(rows, (0, 0)))
        del losses  # what the backward pass needs lived until here
        return fixed, found[0]

    with _torch_rng_kept():
        if device.type == "cuda" or n_full < 4:
            return sum(peak(n_full))
        (fixed, few), (_, more) = peak(2), peak(4)
    return fixed + few + max(0, more - few) * (n_full - 2) // 2


class _torch_rng_kept:
    """Leaves torch's global generators as they were."""

    def __enter__(self) -> None:
        self._state = _rng_state()

    def __exit__(self, *_: object) -> None:
        _set_rng_state(self._state)


def _rng_state() -> dict[str, Any]:
    """Torch's own random state: dropout and the like draw from it."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


# ---- the whole run ---------------------------------------------------------------------------------


def train(
    model: EmbeddingModel,
    cells: Cells,
    training: Any,
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    card: dict[str, Any] | None = None,
    finish: bool = False,
    processes: Processes = ALONE,
    compiled: str = "auto",
) -> Job[dict[str, Any]]:
    """Train `model` on `cells` and write it to `folder`.

    The folder gets ``checkpoint.pt`` (after every epoch, every two minutes, and when the job is closed),
    ``history.csv`` (one row per epoch), ``preview.npz`` (`look`, every few seconds) and, at the end,
    ``weights.safetensors`` and ``model.json``. Where cells are held out, these may be the weights of the epoch with the
    least validation loss (``Training.keep``); the checkpoint keeps the last ones beside them. A run that was stopped
    goes on where it was; on a CPU in fp32 it ends with exactly the weights of a run that was not.

    Parameters
    ----------
    model : EmbeddingModel
        Trained in place.
    cells : Cells
        Raw crops and the group of each cell.
    training : dataclass
        The model's ``Training``: epochs, batch_size, learning_rate, seed, max_steps, max_seconds, …
    folder : Path
        Where the model goes.
    device, precision : str
        "auto" takes bf16 where a short trial shows that it is faster.
    resume : bool
        Whether to go on from a checkpoint in `folder`, if it was made with these cells and settings (epochs and
        limits may differ). Otherwise training starts anew.
    card : dict
        What else ``model.json`` shall say. "data" (a hash of the images) and "initial" (the weights it started from)
        also decide whether a checkpoint may be gone on from.
    finish : bool
        Do no further step: write the model as the checkpoint has it.
    processes : Processes
        Those that train together (`_processes.joined`), each with its part of every batch; they take the steps of one
        process, but for rounding, and where batch norm stands still (without graphics cards). Only the first writes.
    compiled : str
        Whether torch compiles the network. "auto": on CUDA, in a training of one process that will last for another quarter
        of an hour or more, where trying it out shows that the steps left gain more than it takes (`try_compiled`). "on",
        "off". A run that goes on keeps to what was decided.

    Yields
    ------
    Progress
        Once per step; metrics: loss, epoch, cells_per_s, learning_rate.

    Returns
    -------
    dict
        step, epoch, loss (mean of the last epoch), seconds, device, precision, notes, and whether the run ended
        before its last epoch ("stopped_early") because of a limit. Where cells are held out also best_epoch, and the
        scores of the saved weights on "validation" and "test".

    Raises
    ------
    InputError
        If the model is not trained here, no pair can be drawn, or the loss is no longer finite.
    KeyboardInterrupt
        If several processes were asked to stop; the checkpoint is written.
    """
    if not can(model, "train"):
        raise InputError(f"{model.spec.title} is not trained; it can only embed.")
    if compiled not in COMPILED:
        raise InputError(f"compiled is one of {', '.join(COMPILED)}; got {compiled!r}.")
    folder, card = Path(folder), dict(card or {})
    where = processes.device or choose_device(device)
    sampler = make_sampler(model, cells, training, training.batch_size)
    _check_shared(sampler, processes)
    made_of = _made_of(model, cells, training, card)
    notes = [note for note in (getattr(cells, "note", ""), sampler.note) if note]
    state = _read_checkpoint(folder / CHECKPOINT) if resume else None
    if state is not None and state["made_of"] != made_of:
        notes.append("The checkpoint that was there is of other cells or settings; training starts anew.")
        state = None

    if state is not None and check_precision(precision) == "auto" and state["device_type"] == where.type:
        precision = state["precision"]  # decided once per run: what goes on stays the same
    if state is not None and compiled == "auto" and state["device_type"] == where.type:
        compiled = {True: "on", False: "off"}.get(state.get("compiled"), "auto")  # type: ignore[arg-type]
    done = state["step"] if state is not None else 0
    if processes.share(done) != done:
        raise InputError(
            f"The processes find different checkpoints in {folder}; they have to see the same disk."
        )
    if check_precision(precision) == "auto":
        if processes.first:
            precision, _ = _try_out(model, cells, training, where, precision, 1.0)
        precision = processes.share(precision)
    trainer = _Trainer(model, cells, training, where, precision, sampler.n_batches, processes)
    notes += trainer.learner.notes
    if not len(sampler.validation) and (getattr(training, "patience", False) or _kept(training) != LAST):
        notes.append("Nothing is held out, so all epochs are done and the last weights are kept.")
    run = _Run(trainer, sampler, folder, made_of, notes)
    if state is not None:
        run.restore(state)
    if state is None or not processes.first:  # dropout follows the seed, and is not the same everywhere
        torch.manual_seed(trainer.learner.draws(0, 5, run.step, processes.rank).initial_seed())

    total = training.epochs * sampler.n_batches
    if training.max_steps:
        total = min(total, training.max_steps)
    if finish:
        total = run.step
    preview = _Preview(trainer, sampler, folder / PREVIEW)
    metrics: dict[str, float] = {}
    alone = processes.world == 1
    run.compiled = None if compiled == "auto" and where.type in COMPILES and alone else False
    if compiled == "on" and alone and run.step < total:
        yield Progress(run.step, total, "Compiling the network", metrics)
        run.compile(total, always=True)
    if compiled == "on" and not alone:
        notes.append("Several processes train together, so the network is not compiled.")
    steps_s: list[float] = []
    began = time.perf_counter()
    limit_s = training.max_seconds or float("inf")
    yield Progress(run.step, total, " ".join(notes) or _message(run, training))
    try:
        for n_cells, loss in run.steps(total):
            seconds = time.perf_counter() - began
            if loss is None:  # held-out cells are looked at
                metrics |= run.validation()
                yield Progress(run.step, total, "Looking at held-out cells" + run.warning_after(), metrics)
                continue
            metrics = {
                "loss": loss,
                "epoch": run.step / sampler.n_batches,
                "cells_per_s": n_cells / run.last_step_s,
                "learning_rate": trainer.learning_rate,
                **run.validation(),
            }
            preview.make()
            yield Progress(run.step, total, _message(run, training), metrics)
            steps_s.append(run.last_step_s)
            if run.compiled is None and len(steps_s) == COMPILE_AFTER:
                left_s = min(float(np.median(steps_s)) * (total - run.step), limit_s - seconds)
                if left_s >= COMPILE_FROM_S:
                    run.save()
                    yield Progress(run.step, total, "Trying out whether compiling the network pays", metrics)
                    run.compile(total, left_s)
            if training.max_seconds and processes.sum([processes.first and seconds >= limit_s])[0]:
                notes.append(
                    f"Training ended after {run.step:,} steps because its {limit_s:g} seconds were over."
                )
                break
    finally:
        run.save()  # also when the job is closed: no finished step is lost
    if run.exhausted():
        better = (
            "accuracy of the neighbours had not risen" if run.keep == "val_knn" else "loss had not fallen"
        )
        notes.append(
            f"Training ended after {run.step / sampler.n_batches:,.0f} epochs: the validation {better} for "
            f"{training.patience:,}."
        )
    if run.warning:
        notes.append(run.warning)
    if trainer.parts > 1:
        notes.append(trainer.parts_note)
    if "model" in run.best:
        model.load_state_dict(run.best["model"])
    if getattr(training, "settle_norm", False) and run.step < SETTLED_STEPS:
        for _ in settle_norm(trainer, sampler):
            yield Progress(run.step, total, "Settling batch norm", metrics)
        notes.append(
            f"Batch norm's running means were measured again after these {run.step:,} steps (the paper trains longer)."
        )
    if not processes.first:
        return processes.share(None)  # type: ignore[no-any-return]
    held_out: dict[str, Any] = {"best_epoch": run.best["epoch"]} if "model" in run.best else {}
    for name, rows in (("validation", sampler.validation), ("test", sampler.test)):
        if len(rows):
            found: dict[str, float] = {}
            for _ in trainer.judged(sampler, rows, found):
                yield Progress(run.step, total, "Looking at held-out cells" + run.warning_after(), metrics)
            held_out[name] = {"n_cells": len(rows), **{k: v for k, v in found.items() if np.isfinite(v)}}
    model.eval()
    preview.make(last=True)
    result = {
        "step": run.step,
        "epoch": run.step / sampler.n_batches,
        "loss": run.mean_loss(),
        "seconds": round(run.seconds, 2),
        "device": str(where),
        "precision": precision,
        **({"compiled": True} if run.compiled else {}),
        **({"processes": processes.world} if processes.world > 1 else {}),
        "stopped_early": run.step < training.epochs * sampler.n_batches,
        **held_out,
        "notes": notes,
    }
    made = {
        "training": _plain(training),
        "trained": result,
        "n_cells": len(sampler.rows),
        "torch": torch.__version__,
        "versions": {
            "napari-cellrep": napari_cellrep.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }
    save_model(model, folder, **{**made, **card})
    return processes.share(result)  # type: ignore[no-any-return]


def _check_shared(sampler: Sampler, processes: Processes) -> None:
    """Whether every process gets something of every batch."""
    least = min(len(next(iter(rows.values()))) for rows in sampler.epoch(0))
    if processes.world > 1 and least < LEAST_PART * processes.world:
        raise InputError(
            f"{processes.world} processes share every batch, and there are batches of {least} cells where each wants at least "
            f"{LEAST_PART}; start fewer processes, or make batch_size larger."
        )


def settle_norm(trainer: _Trainer, sampler: Sampler) -> Iterator[int]:
    """Measure the running means and variances of every batch norm anew, as plain averages over training cells.

    The weights stay; the checkpoint, written before, keeps the means as training left them.

    Yields
    ------
    int
        Cells seen, once per batch.
    """
    if trainer.frozen:  # the network has learned with the means as they are
        return
    norms = _norms(trainer.model)
    momentum = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches that follow
    trainer.model.train()
    seen = 0
    for i, rows in enumerate(sampler.epoch(0)):
        with torch.no_grad(), computing(trainer.device, trainer.precision):
            trainer.learner.losses(trainer.batch(rows, (0, i), trainer.own_part(rows)))
        seen += len(next(iter(rows.values())))
        yield seen
        if seen >= SETTLE_CELLS:
            break
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


class _Preview:
    """Writes now and then what the network under training makes of the same few cells."""

    def __init__(self, trainer: _Trainer, sampler: Sampler, path: Path):
        self.trainer, self.path = trainer, path
        self.rows = {k: rows[:PREVIEW_BATCH] for k, rows in sampler.epoch(0)[0].items()}
        self._next = 0.0

    def make(self, last: bool = False) -> None:
        """Write it if it is time to; the state of training and of every random generator stays as it is."""
        start = time.perf_counter()
        t = self.trainer
        if not t.processes.first or (not last and start < self._next):
            return
        modes = {m: m.training for m in t.learner.module.modules()}
        try:
            t.model.eval()
            young = contextlib.nullcontext() if t.frozen else _own_statistics(t.model)
            with torch.no_grad(), computing(t.device, t.precision), young:
                crops = t.learner.to_show({k: t._load(r) for k, r in self.rows.items()})
                found = look(t.model, crops)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._next = float("inf")  # a picture is not worth a training
            return
        finally:
            for module, mode in modes.items():
                module.training = mode
        if found is None:
            self._next = float("inf")
            return
        columns, pictures = found[0], found[1][:PREVIEW_CELLS]

        def write(tmp: Path) -> None:
            with tmp.open("wb") as f:
                np.savez(f, columns=np.array(columns), pictures=pictures)

        replace_file(self.path, write)
        end = time.perf_counter()
        self._next = end + max(PREVIEW_EVERY_S, 50 * (end - start))


@contextlib.contextmanager
def _own_statistics(model: EmbeddingModel) -> Iterator[None]:
    """Let batch norm take the batch's own mean and variance, and keep its running ones as they are.

    Those lag far behind at first (`settle_norm`): by them a young network would seem to have learned nothing.
    """
    norms = _norms(model)
    before = [(m.training, m.running_mean, m.running_var) for m in norms]
    for norm in norms:
        norm.training, norm.running_mean, norm.running_var = False, None, None  # then it takes the batch's
    try:
        yield
    finally:
        for norm, kept in zip(norms, before, strict=True):
            norm.training, norm.running_mean, norm.running_var = kept


def look(model: EmbeddingModel, crops: dict[str, Tensor]) -> tuple[tuple[str, ...], np.ndarray] | None:
    """What a network makes of some cells, as pictures side by side; None of one that makes nothing to look at.

    Parameters
    ----------
    crops : dict
        Preprocessed crops (B, C, H, W) by `EmbeddingModel.batch`'s names.

    Returns
    -------
    columns : tuple of str
        What each column shows.
    pictures : ndarray of uint8, (B, columns, H, W)
        What is compared is scaled alike.
    """
    net: Any = model
    x = next(reversed(crops.values())).float()
    first = next((i for i, role in enumerate(model.roles) if role == "protein"), 0)
    real = x[:, first]
    low, high = real.amin(dim=(1, 2), keepdim=True), real.amax(dim=(1, 2), keepdim=True)

    def grey(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return ((y.float() - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)

    def own(y: Tensor) -> Tensor:
        return grey(y, y.amin(dim=(1, 2), keepdim=True), y.amax(dim=(1, 2), keepdim=True))

    if can(model, "inpaint"):
        n = net.config.n_protein
        parts = {
            "another cell": own(crops["source"][:, first].float()),
            f"this one's {model.roles[n]}": own(x[:, n]),
            "predicted": grey(net.inpaint(crops["source"], crops["target"][:, n:])[:, first], low, high),
            "real": grey(real, low, high),
        }
    elif hasattr(net, "hide"):
        visible = net.hide(x)
        parts = {
            "real": grey(real, low, high),
            "what it is shown": grey(real * visible[:, first], low, high),
            "filled in": grey(net.reconstruct(x, visible)[:, first], low, high),
        }
    elif can(model, "reconstruct"):
        parts = {
            "real": grey(real, low, high),
            "rebuilt": grey(net.reconstruct(x)[:, first], low, high),
        }
    elif can(model, "attention"):
        where = net.attention(x).float().mean(dim=1, keepdim=True)
        where = torch.nn.functional.interpolate(where, x.shape[-2:], mode="nearest")[:, 0]
        parts = {"cell": own(real), "where it looks": own(where)}
    else:
        return None
    pictures = torch.stack(list(parts.values()), dim=1).nan_to_num()
    return tuple(parts), (pictures * 255).round().to(torch.uint8).cpu().numpy()


class _Run:
    """Where a training is, and how it gets to disk and back."""

    def __init__(self, trainer: _Trainer, sampler: Sampler, folder: Path, made_of: str, notes: list[str]):
        self.trainer, self.sampler, self.folder, self.made_of, self.notes = (
            trainer,
            sampler,
            folder,
            made_of,
            notes,
        )
        self.step = 0
        self.seconds = 0.0
        self.last_step_s = 1.0
        self.history: list[list[float]] = []
        self.losses: list[float] = []  # of the epoch under way
        self._epoch_s = 0.0
        self._saved_at = -1
        self._whole = True  # False within a step: what an interrupt leaves then is not kept
        # Epoch, loss (or what else it is best by) and, if they are to be kept, weights of the best epoch.
        self.best: dict[str, Any] = {}
        self._judges = bool(len(sampler.validation))
        self.names = (*trainer.learner.scores, *trainer.learner.feature_scores) if self._judges else ()
        self.keep = _kept(trainer.training)
        self._warned = False
        self.compiled: bool | None = None  # None: not decided

    def compile(self, total: int, seconds: float = float("inf"), always: bool = False) -> None:
        """Compile the steps that are left if that pays, or `always` if it can be done; says what was found."""
        pays, words = try_compiled(self.trainer, self.sampler, total - self.step, seconds)
        if self.trainer.device.type == "cuda":
            torch.cuda.empty_cache()  # what the copy had
        self.compiled = bool(pays) or (always and pays is not None)
        logger.info(words)
        if self.compiled or always:
            self.notes.append(words)
        if self.compiled:
            self.trainer.learner.compile()

    def warning_after(self) -> str:
        """The warning as the end of a message."""
        return f" {WARNING}{self.warning}" if self.warning else ""

    @property
    def warning(self) -> str:
        """What is wrong with the training, as held-out cells show it; "" when nothing."""
        if not self._judges:
            return ""
        n = len(self.names)
        return self.trainer.learner.warn(
            [dict(zip(self.names, row[-n:], strict=True)) for row in self.history]
        )

    def exhausted(self) -> bool:
        """Whether the validation loss has not fallen for as long as the settings allow."""
        patience = getattr(self.trainer.training, "patience", 0)
        return bool(patience and self.best and self.history[-1][0] - self.best["epoch"] >= patience)

    def validation(self) -> dict[str, float]:
        """Scores on held-out cells after the last epoch; empty before the first, and where none are held out."""
        if not self._judges or not self.history:
            return {}
        found = zip(self.names, self.history[-1][-len(self.names) :], strict=True)
        return {
            **{f"val_{name}": x for name, x in found if np.isfinite(x)},
            "val_epoch": self.history[-1][0],
        }

    def steps(self, total: int) -> Iterator[tuple[int, float | None]]:
        """Do the steps that are left; cells and loss of each, None while held-out cells are looked at."""
        saved, together = time.perf_counter(), self.trainer.processes
        if self._judges and len(self.history) < self.step // self.sampler.n_batches:
            yield from self._judge()  # the run was stopped in between
        while self.step < total and not self.exhausted():
            epoch, first = divmod(self.step, self.sampler.n_batches)
            for i, rows in enumerate(self.sampler.epoch(epoch)[first:], start=first):
                start = time.perf_counter()
                self._whole = False
                loss, asked = together.sum([self.trainer.step(rows, (epoch, i)), together.stop_asked])
                if not np.isfinite(loss):
                    raise InputError(
                        f"The loss is no longer finite (step {self.step + 1:,}). Lower the learning rate, or look for "
                        "NaN pixels in the images; the last checkpoint is kept."
                    )
                self.last_step_s = time.perf_counter() - start
                self.step += 1
                self.seconds += self.last_step_s
                self._epoch_s += self.last_step_s
                self.losses.append(loss)
                self._whole = True
                n_cells = len(next(iter(rows.values())))
                ends = i + 1 == self.sampler.n_batches
                if ends and not self._judges:
                    self._end_epoch(epoch)
                if asked:
                    raise KeyboardInterrupt  # in all processes; the checkpoint is written on the way out
                if ends or time.perf_counter() - saved > CHECKPOINT_EVERY_S:
                    self.save()
                    saved = time.perf_counter()
                yield n_cells, loss
                if ends and self._judges:
                    yield from self._judge()
                if self.step >= total:
                    return

    def _judge(self) -> Iterator[tuple[int, None]]:
        """End the epoch by looking at held-out cells; stopped within it, the next run does it again from the start."""
        t = self.trainer
        if getattr(t.training, "settle_norm", False) and self.step < SETTLED_STEPS:
            for n in settle_norm(t, self.sampler):
                yield n, None
        found: dict[str, float] = {}
        lagging = self.step < SETTLED_STEPS and getattr(t.training, "settle_norm", True) is False
        if t.processes.first:
            for n in t.judged(self.sampler, self.sampler.validation, found, lagging):
                yield n, None
                if t.processes.stop_asked:
                    break
        found, asked = t.processes.share((found, t.processes.stop_asked))
        if asked:
            raise KeyboardInterrupt  # the next run judges from the start
        self._whole = False
        self._end_epoch(self.step // self.sampler.n_batches - 1)
        self.history[-1] += [found[name] for name in self.names]
        loss = -found["knn"] if self.keep == "val_knn" and np.isfinite(found["knn"]) else found["loss"]
        if not self.best or loss < self.best["loss"]:
            self.best = {"epoch": self.history[-1][0], "loss": loss}
            if self.keep != LAST:
                state = {k: v.detach().cpu().clone() for k, v in t.model.state_dict().items()}
                self.best["model"] = state
        if self.warning and not self._warned:
            logger.warning(self.warning)
            self._warned = True
        self._whole, self._saved_at = True, -1
        self.save()
        yield len(self.sampler.validation), None

    def _end_epoch(self, epoch: int) -> None:
        rate = len(self.sampler.rows) / max(self._epoch_s, 1e-9)
        mean = float(np.mean(self.losses))
        lr = self.trainer.learning_rate
        self.history.append([epoch + 1, self.step, mean, round(rate, 2), lr, round(self.seconds, 3)])
        self.losses, self._epoch_s = [], 0.0

    def mean_loss(self) -> float:
        """Mean loss of the epoch under way, else of the last one."""
        if self.losses:
            return float(np.mean(self.losses))
        return float(self.history[-1][2]) if self.history else float("nan")

    def save(self) -> None:
        """Write the checkpoint and the history, each by rename."""
        if not self._whole or self._saved_at == self.step or not self.trainer.processes.first:
            return
        state = {
            "format": CHECKPOINT_FORMAT,
            "made_of": self.made_of,
            "step": self.step,
            "seconds": self.seconds,
            "epoch_s": self._epoch_s,
            "losses": self.losses,
            "history": self.history,
            "precision": self.trainer.precision,
            "device_type": self.trainer.device.type,
            "compiled": self.compiled,
            "model": self.trainer.learner.module.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "rng": _rng_state(),
            "parts": self.trainer.parts,
            **({"best": self.best} if self.best else {}),
        }
        columns = [*HISTORY, *(f"val_{name}" for name in self.names)]
        rows = [["" if x != x else x for x in row] for row in self.history]
        replace_file(self.folder / CHECKPOINT, lambda tmp: torch.save(state, tmp))

        def write(tmp: Path) -> None:
            with tmp.open("w", newline="", encoding="utf-8") as f:
                csv.writer(f).writerows([columns, *rows])

        replace_file(self.folder / "history.csv", write)
        self._saved_at = self.step

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.trainer.learner.module.load_state_dict(state["model"])
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        _set_rng_state(state["rng"])
        self.step, self.seconds, self._epoch_s = state["step"], state["seconds"], state["epoch_s"]
        self.losses, self.history = list(state["losses"]), [list(row) for row in state["history"]]
        self.best = state.get("best", {})
        self.trainer.parts = state.get("parts", 1)
        if self.step:  # what follows from the step's number, for held-out cells that are looked at now
            self.trainer.learner.before_step(self.step - 1, self.trainer.optimizer)
        self._saved_at = self.step


def _read_checkpoint(path: Path, look_only: bool = False) -> dict[str, Any] | None:
    """The checkpoint; `look_only` leaves the weights on the disk until they are looked at."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=look_only)
    except Exception as error:
        raise InputError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); delete it, or train without resuming."
        ) from error
    said = state.get("format", 1) if isinstance(state, dict) else 0
    if said > CHECKPOINT_FORMAT:
        raise InputError(
            f"The checkpoint {path} was written by a newer version (format {said}, this one reads up to {CHECKPOINT_FORMAT}); "
            "update napari-cellrep, or train without resuming."
        )
    return state


def _made_of(model: EmbeddingModel, cells: Cells, training: Any, card: dict[str, Any]) -> str:
    """What a checkpoint has to agree in to be gone on from. How long to train may change."""
    free = ("epochs", "max_steps", "max_seconds", "patience")
    classes = {}
    if getattr(training, "held_out", 0) and getattr(cells, "fields", None) is not None:
        fields: Any = cells.fields  # type: ignore[attr-defined]
        classes = {"fields": hashlib.sha256(np.asarray(fields, np.int64).tobytes()).hexdigest()}
    if "y" in model.batch:
        known = [np.asarray(getattr(cells, k), np.int64).tobytes() for k in ("labels", "fields")]
        classes = {"labels": hashlib.sha256(b"".join(known)).hexdigest()}
    return digest(
        {
            **classes,
            "model": model.spec.name,
            "config": _plain(model.config),
            "training": {k: v for k, v in _plain(training).items() if k not in free},
            "groups": hashlib.sha256(np.asarray(cells.groups, np.int64).tobytes()).hexdigest(),
            "data": card.get("data"),
            "initial": card.get("initial"),
        }
    )


def _kept(training: Any) -> str:
    """Which epoch's weights the model gets: the last one's, or the best one's by a column of the history."""
    return str(getattr(training, "keep", "val_loss"))


def _plain(config: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}


def _message(run: _Run, training: Any) -> str:
    epoch = min(training.epochs, run.step // run.sampler.n_batches + 1)
    parts = run.trainer.parts
    slower = f", each batch in {parts} parts for lack of memory" if parts > 1 else ""
    return f"Training, epoch {epoch} of {training.epochs}{slower}{run.warning_after()}"
