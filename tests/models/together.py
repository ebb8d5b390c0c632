"""Trains small networks on cells of a file; torchrun starts it in several processes (test__processes.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from array_cells import ArrayCells
from torch.nn.modules.batchnorm import _BatchNorm

from napari_cellrep import registry
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model
from napari_cellrep.models._processes import ALONE, Processes, joined
from napari_cellrep.models._train import train

NETWORKS = {
    "paired_cell_inpainting": {"width": 0.04},
    "autoencoder": {"width": 0.04},
    "deeploc": {"channels": 2, "n_classes": 4, "width": 0.05},
    "microsnoop": {"width": 0.03, "channels": ("protein", "nucleus")},
    "dino": {
        "channels": ("protein", "nucleus"), "image_px": 32, "patch_px": 8, "dim": 24, "depth": 2, "heads": 2,
    },
}  # fmt: skip
SETTINGS = {
    "deeploc": {"dropout": 0.0},
    "dino": {
        "hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 32, "n_local": 2, "drop_path": 0.3, "warmup_epochs": 0,
        "freeze_last_layer_epochs": 0, "held_out": 0.2,
    },
}  # fmt: skip
STEPS = 5
BATCH = 15  # two processes get seven and eight cells


def read(path: Path) -> ArrayCells:
    """Cells that `numpy.savez` wrote, with the well as the class."""
    with np.load(path) as found:
        cells = ArrayCells(found["array"], found["groups"], found["fields"])
    cells.labels = cells.groups
    return cells


def one(
    name: str, cells: ArrayCells, folder: Path, processes: Processes = ALONE, **settings
) -> tuple[torch.nn.Module, dict]:
    """Train a network for a few steps, with batch norm standing still; its weights are in `folder`."""
    torch.manual_seed(3)
    net = create_model(name, **NETWORKS[name])
    for norm in net.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm
    training = registry.load("models", name).Training(
        **{
            "epochs": 2,
            "batch_size": BATCH,
            "max_steps": STEPS,
            "seed": 1,
            **SETTINGS.get(name, {}),
            **settings,
        }
    )
    job = train(net, cells, training, folder, device="cpu", precision="fp32", processes=processes)
    return net, drain(job)


if __name__ == "__main__":
    torch.set_num_threads(1)
    here, names = Path(sys.argv[1]), sys.argv[2].split(",")
    with joined("cpu") as together:
        for which in names:
            made, result = one(which, read(here / "cells.npz"), here / "together" / which, together)
            torch.save(made.state_dict(), here / f"{which}-{together.rank}.pt")
