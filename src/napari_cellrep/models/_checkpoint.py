"""The checkpoint of a training: whether it can be gone on from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.models._sampling import Cells
from napari_cellrep.specs import InputError, digest

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 1  # of what is in it; a newer one is refused with a sentence
LAST = "last"


def steps_done(
    model: EmbeddingModel, cells: Cells, training: Any, folder: Path, card: dict[str, Any] | None = None
) -> int:
    """Steps of the checkpoint that `train` with these arguments would go on from; 0 without one."""
    state = read_checkpoint(Path(folder) / CHECKPOINT, look_only=True)
    if state is None or state["made_of"] != made_of_what(model, cells, training, dict(card or {})):
        return 0
    return int(state["step"])


def read_checkpoint(path: Path, look_only: bool = False) -> dict[str, Any] | None:
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


def made_of_what(model: EmbeddingModel, cells: Cells, training: Any, card: dict[str, Any]) -> str:
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
            "config": plain(model.config),
            "training": {k: v for k, v in plain(training).items() if k not in free},
            "groups": hashlib.sha256(np.asarray(cells.groups, np.int64).tobytes()).hexdigest(),
            "data": card.get("data"),
            "initial": card.get("initial"),
        }
    )


def what_is_kept(training: Any) -> str:
    """Which epoch's weights the model gets: the last one's, or the best one's by a column of the history."""
    return str(getattr(training, "keep", "val_loss"))


def plain(config: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(config).items()}
