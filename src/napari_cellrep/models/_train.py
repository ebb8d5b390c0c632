"""The training loop, over crops from anywhere: it knows arrays and models, not projects."""

from __future__ import annotations

import csv
import logging
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_cellrep
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.models._base import EmbeddingModel, can, replace_file, save_model
from napari_cellrep.models._checkpoint import (
    CHECKPOINT,
    CHECKPOINT_FORMAT,
    LAST,
    made_of_what,
    plain,
    read_checkpoint,
    what_is_kept,
)
from napari_cellrep.models._engine import (
    check_precision,
    choose_device,
)
from napari_cellrep.models._preview import (
    PREVIEW,
    Preview,
)
from napari_cellrep.models._processes import ALONE, Processes
from napari_cellrep.models._sampling import (
    Cells,
    Sampler,
    make_sampler,
)
from napari_cellrep.models._trainer import (
    LEAST_PART,
    Trainer,
    rng_state,
    set_rng_state,
    settle_norm,
)
from napari_cellrep.models._trial import (
    try_compiled,
    try_precision,
)
from napari_cellrep.specs import InputError

logger = logging.getLogger(__name__)

WARNING = "⚠ "  # before what went wrong, in a message
SETTLED_STEPS = (
    1000  # after so many steps batch norm's running means (momentum 0.01) have forgotten the start
)
CHECKPOINT_EVERY_S = 120.0  # between epochs too, for a process that is killed
COMPILE_FROM_S = 900.0  # of training left from which on it is tried out whether compiling pays: that takes a minute or more
COMPILE_AFTER = 20  # steps, whose seconds say how long the training will take
COMPILES = ("cuda",)  # devices on which it is tried out
COMPILED = ("auto", "on", "off")
HISTORY = ("epoch", "step", "loss", "cells_per_s", "learning_rate", "seconds")


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
    made_of = made_of_what(model, cells, training, card)
    notes = [note for note in (getattr(cells, "note", ""), sampler.note) if note]
    state = read_checkpoint(folder / CHECKPOINT) if resume else None
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
            precision, _ = try_precision(model, cells, training, where, precision, 1.0)
        precision = processes.share(precision)
    trainer = Trainer(model, cells, training, where, precision, sampler.n_batches, processes)
    notes += trainer.learner.notes
    if not len(sampler.validation) and (
        getattr(training, "patience", False) or what_is_kept(training) != LAST
    ):
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
    preview = Preview(trainer, sampler, folder / PREVIEW)
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
        "training": plain(training),
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


class _Run:
    """Where a training is, and how it gets to disk and back."""

    def __init__(self, trainer: Trainer, sampler: Sampler, folder: Path, made_of: str, notes: list[str]):
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
        self.keep = what_is_kept(trainer.training)
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
            "rng": rng_state(),
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
        set_rng_state(state["rng"])
        self.step, self.seconds, self._epoch_s = state["step"], state["seconds"], state["epoch_s"]
        self.losses, self.history = list(state["losses"]), [list(row) for row in state["history"]]
        self.best = state.get("best", {})
        self.trainer.parts = state.get("parts", 1)
        if self.step:  # what follows from the step's number, for held-out cells that are looked at now
            self.trainer.learner.before_step(self.step - 1, self.trainer.optimizer)
        self._saved_at = self.step


def _message(run: _Run, training: Any) -> str:
    epoch = min(training.epochs, run.step // run.sampler.n_batches + 1)
    parts = run.trainer.parts
    slower = f", each batch in {parts} parts for lack of memory" if parts > 1 else ""
    return f"Training, epoch {epoch} of {training.epochs}{slower}{run.warning_after()}"
