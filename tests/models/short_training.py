"""Short trainings, for tests of the files that training is made of."""

from __future__ import annotations

import csv

import torch

from napari_cellrep.models import autoencoder, create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models.paired_cell_inpainting import Training

FP32 = {"device": "cpu", "precision": "fp32"}


SHORT = Training(epochs=2, batch_size=16, learning_rate=1e-3, seed=5)


AE_SHORT = autoencoder.Training(epochs=2, batch_size=16, learning_rate=1e-3, seed=5, held_out=0.0)


def make(seed: int = 0, width: float = 0.04):
    torch.manual_seed(seed)
    return create_model("paired_cell_inpainting", width=width)


def state(folder):
    return load_model(folder).state_dict()


def state_of(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)["model"]


def history(folder):
    with (folder / "history.csv").open() as f:
        return list(csv.DictReader(f))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
