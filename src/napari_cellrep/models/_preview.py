"""What a network under training makes of a few cells, as pictures."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_cellrep.jobs import is_out_of_memory
from napari_cellrep.models._base import EmbeddingModel, can, replace_file
from napari_cellrep.models._engine import computing
from napari_cellrep.models._sampling import Sampler
from napari_cellrep.models._trainer import (
    Trainer,
    batch_statistics,
)

PREVIEW = "preview.npz"
PREVIEW_CELLS = 3
PREVIEW_BATCH = 16  # cells whose statistics batch norm takes; the pictures are of the first ones
PREVIEW_EVERY_S = 5.0  # at most; and it never costs more than a fiftieth of the time


class Preview:
    """Writes now and then what the network under training makes of the same few cells."""

    def __init__(self, trainer: Trainer, sampler: Sampler, path: Path):
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
            young = contextlib.nullcontext() if t.frozen else batch_statistics(t.model)
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
