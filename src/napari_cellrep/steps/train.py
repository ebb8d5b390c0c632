"""Cells → a trained model: binds the project to the training loop of `models._train`."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.data.crops import cut_crops
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import CropSpec, InputError, digest, field_rules, make_config, match_channels
from napari_cellrep.steps.embed import boxes_of, set_crop


def train(
    project: Project,
    *,
    model: str = "paired_cell_inpainting",
    name: str = "",
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    include_flagged: bool = False,
) -> Job[Path]:
    """Train a model on the project's own cells; flagged cells are left out.

    Checkpoints are written every epoch, so a stopped run loses at most one; run again with the same settings to
    go on. The result is ``models/<name>/`` in the project.

    Parameters
    ----------
    model : str
        Which network.
    name : str
        What the trained model is called; empty: as the network.
    config, training : dict, optional
        Settings of the network and of its training; unnamed ones keep their defaults.
    channels : sequence of str
        Names or roles, in the order the network wants; empty: by role. A network for any channels is made for them.
    crop : dict, optional
        Settings of `CropSpec` to use instead of the network's; they stay with the trained model.

    Yields
    ------
    Progress
        Once per training step, with the loss; the job returns the model's folder.

    Raises
    ------
    InputError
        If the network cannot be trained, a setting is wrong, or there is nothing to train on.
    """
    from napari_cellrep.models import can, create_model
    from napari_cellrep.models._train import train as run

    try:
        module = registry.load("models", model)
    except KeyError as error:
        raise InputError(str(error.args[0])) from None
    yield Progress(0, 0, "Preparing to train")
    if not hasattr(module, "Training") or not can(module.Model, "train"):
        raise InputError(f"{module.SPEC.title} is not trained; it can only embed.")
    if name and (name.startswith(".") or "/" in name or "\\" in name):
        raise InputError(f"A model cannot be called {name!r}: no slash, no dot in front.")
    settings = make_config(module.Training, training)
    config = dict(config or {})
    if channels and "channels" in field_rules(module.Config):  # made for the channels it is given (`dino`)
        config.setdefault("channels", tuple(channels))
    network = make_config(module.Config, config)

    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = create_model(model, **dataclasses.asdict(network))
    if channels:
        if len(channels) != len(net.roles):
            raise InputError(
                f"{net.spec.title} wants {len(net.roles)} channels ({', '.join(net.roles)}); got {len(channels)}."
            )
        net.roles = tuple(channels)
    set_crop(net, project, crop, trained=False)
    cells = ProjectCells(
        project, net.crop, match_channels(net.roles, project.channels, net.spec.title), include_flagged
    )
    card = {
        "trained_on": project.name,
        "channels": [project.channels[i].name for i in cells.planes],
        "data": cells.digest,
        "n_cells": len(cells),
    }
    folder = project.root / "models" / (name or model)
    result = yield from run(
        net, cells, settings, folder, device=device, precision=precision, resume=resume, card=card
    )
    project.log(
        "train", model=model, name=folder.name, training=dataclasses.asdict(settings), config=dataclasses.asdict(network),
        **card, result=result,
    )  # fmt: skip
    return folder


class ProjectCells:
    """The project's cells as training sees them: crops by row, and the group of each row.

    Fields are decoded when first needed and kept while they fit in `memory_bytes`; crops are cut from them by
    coordinates, never from a folder of crops.
    """

    def __init__(
        self,
        project: Project,
        spec: CropSpec,
        planes: Sequence[int],
        include_flagged: bool = False,
        memory_bytes: int = 2 << 30,
    ):
        obs = project.cells.obs
        self._obs = obs if include_flagged or "good" not in obs else obs[obs["good"].to_numpy(bool)]
        if not len(self._obs):
            raise InputError(
                f"All {len(obs):,} cells are flagged, so there is none to train on; look at the flags, or train with "
                "flagged cells included (--include-flagged)."
            )
        self.planes = tuple(planes)
        self.groups = pd.factorize(self._obs["group"].astype(str))[0]
        self.group_names = tuple(dict.fromkeys(self._obs["group"].astype(str)))
        self.digest = digest(
            [list(self._obs.index), [int(h) for h in self._obs["mask_hash"]], dataclasses.asdict(spec)]
        )
        self._project, self._spec, self._memory = project, spec, memory_bytes
        self._field = self._obs["field"].astype(str).to_numpy()
        self._images: OrderedDict[str, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._obs)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops (B, C, S, S) of some rows, in the fields' dtype."""
        rows = np.asarray(rows)
        out: np.ndarray | None = None
        for field in dict.fromkeys(self._field[rows]):
            at = np.flatnonzero(self._field[rows] == field)
            image, labels = self._read(field)
            boxes = boxes_of(self._obs.iloc[rows[at]])
            part = cut_crops(image, labels, boxes, self._spec, self._project.field(field).um_per_px)
            if out is None:
                out = np.empty((len(rows), *part.shape[1:]), part.dtype)
            elif part.dtype != out.dtype:
                out = out.astype(np.result_type(out, part))
            out[at] = part
        if out is None:
            raise ValueError("No rows were asked for.")
        return out

    def _read(self, field: str) -> tuple[np.ndarray, np.ndarray | None]:
        if field not in self._images:
            image = self._project.read_image(field)[list(self.planes)]
            needs_labels = self._spec.masked or self._spec.mask_plane
            self._images[field] = (image, self._project.read_labels(field) if needs_labels else None)
            while len(self._images) > 1 and sum(i.nbytes for i, _ in self._images.values()) > self._memory:
                self._images.popitem(last=False)
        self._images.move_to_end(field)
        return self._images[field]
