"""What a training would cost here, tried out on a copy: seconds, memory, precision, whether compiling pays."""

from __future__ import annotations

import copy
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.models._checkpoint import steps_done
from napari_cellrep.models._engine import (
    _time,
    check_precision,
    choose_device,
    computing,
    memory_peak,
    trial_form,
)
from napari_cellrep.models._sampling import (
    Cells,
    Sampler,
    make_sampler,
)
from napari_cellrep.models._trainer import (
    Trainer,
    torch_rng_kept,
)
from napari_cellrep.specs import InputError


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
    return try_precision(model, cells, training, choose_device(device), check_precision(precision), seconds)[
        1
    ]


def try_precision(
    model: EmbeddingModel, cells: Cells, training: Any, device: torch.device, precision: str, seconds: float
) -> tuple[str, float]:
    """Precision to use, and seconds per step: timed on few cells on a CPU, where cost grows with the batch."""
    n = 4 if device.type == "cpu" else training.batch_size
    n = min(n, training.batch_size)
    sampler = make_sampler(model, cells, training, n)
    rows = sampler.epoch(0)[0]
    trainer = Trainer(copy.deepcopy(model), cells, training, device, "fp32", sampler.n_batches)

    def run(form: str) -> None:
        trainer.precision = form
        trainer.step(rows, (0, 0))

    with torch_rng_kept():
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
    trainer: Trainer, sampler: Sampler, steps: int, seconds: float = float("inf")
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
    with torch_rng_kept():
        # A copy that does not fit beside the network, no compiler, or one that fails: then all stays as it is.
        try:
            copied = Trainer(
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
    precision, step_s = try_precision(model, cells, training, where, check_precision(precision), 1.0)
    steps = training.epochs * sampler.n_batches
    if training.max_steps:
        steps = min(steps, training.max_steps)
    memory = _memory(model, cells, training, where, precision)
    return Trial(step_s, steps_done(model, cells, training, folder, card), steps, where, precision, memory)


def _memory(model: EmbeddingModel, cells: Cells, training: Any, device: torch.device, precision: str) -> int:
    """Peak of a step with a whole batch; on a CPU, where that takes long, drawn out from two and from four cells."""
    n_full = min(training.batch_size, len(cells))

    def peak(n: int) -> tuple[int, int]:
        sampler = make_sampler(model, cells, training, n)
        rows = {k: r[:n] for k, r in sampler.epoch(0)[0].items()}
        trainer = Trainer(copy.deepcopy(model), cells, training, device, precision, sampler.n_batches)
        fixed = sum(p.nbytes * (4 if p.requires_grad else 1) for p in trainer.learner.module.parameters())
        with memory_peak(device) as found, computing(device, precision):
            losses = trainer.learner.losses(trainer.batch(rows, (0, 0)))
        del losses  # what the backward pass needs lived until here
        return fixed, found[0]

    with torch_rng_kept():
        if device.type == "cuda" or n_full < 4:
            return sum(peak(n_full))
        (fixed, few), (_, more) = peak(2), peak(4)
    return fixed + few + max(0, more - few) * (n_full - 2) // 2
