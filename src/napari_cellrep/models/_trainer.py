"""One step of training: a batch on the device, its gradients, in parts where memory wants that."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from napari_cellrep.jobs import is_out_of_memory
from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.models._engine import (
    computing,
    resize,
    to_tensor,
)
from napari_cellrep.models._learner import (
    Learner,
    knn_accuracy,
    make_learner,
)
from napari_cellrep.models._processes import ALONE, Processes
from napari_cellrep.models._sampling import (
    MOST_JUDGED,
    Cells,
    Sampler,
)
from napari_cellrep.specs import InputError

LEAST_PART = 2  # cells at a time: batch norm can make nothing of one
MOST_NEIGHBOURS = 5000  # cells among which those of a held-out cell are looked for
SETTLE_CELLS = 512
logger = logging.getLogger(__name__)


class _Losses(nn.Module):
    """A learner's loss as a module, for what wants one around all that is computed."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.net = learner.learning
        self._learner = learner

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, or of a part of one."""
        return self._learner.losses(batch)["loss"]


def norms_of(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Batch norm goes by its running means, and leaves them as they are."""
    learning = [norm for norm in norms_of(module) if norm.training]
    for norm in learning:
        norm.eval()
    try:
        yield
    finally:
        for norm in learning:
            norm.train()


class Trainer:
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
        if processes.world > 1 and norms_of(self.learner.module):
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
            for norm in norms_of(self.learner.module):
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
                    stack.enter_context(batch_statistics(self.model))
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
            before = rng_state()
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
            set_rng_state(before)
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
                    stack.enter_context(still(self.learner.module))
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


def settle_norm(trainer: Trainer, sampler: Sampler) -> Iterator[int]:
    """Measure the running means and variances of every batch norm anew, as plain averages over training cells.

    The weights stay; the checkpoint, written before, keeps the means as training left them.

    Yields
    ------
    int
        Cells seen, once per batch.
    """
    if trainer.frozen:  # the network has learned with the means as they are
        return
    norms = norms_of(trainer.model)
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


@contextlib.contextmanager
def batch_statistics(model: EmbeddingModel) -> Iterator[None]:
    """Let batch norm take the batch's own mean and variance, and keep its running ones as they are.

    Those lag far behind at first (`settle_norm`): by them a young network would seem to have learned nothing.
    """
    norms = norms_of(model)
    before = [(m.training, m.running_mean, m.running_var) for m in norms]
    for norm in norms:
        norm.training, norm.running_mean, norm.running_var = False, None, None  # then it takes the batch's
    try:
        yield
    finally:
        for norm, kept in zip(norms, before, strict=True):
            norm.training, norm.running_mean, norm.running_var = kept


class torch_rng_kept:
    """Leaves torch's global generators as they were."""

    def __enter__(self) -> None:
        self._state = rng_state()

    def __exit__(self, *_: object) -> None:
        set_rng_state(self._state)


def rng_state() -> dict[str, Any]:
    """Torch's own random state: dropout and the like draw from it."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
