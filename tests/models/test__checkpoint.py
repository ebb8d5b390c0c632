from __future__ import annotations

import pytest
import torch
from short_training import (
    FP32,
    SHORT,
    make,
)

from napari_cellrep.jobs import drain
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._train import train
from napari_cellrep.specs import InputError


def test_the_checkpoint_holds_only_tensors_and_plain_values(few, tmp_path):
    drain(train(make(), few, SHORT, tmp_path, **FP32))
    torch.load(tmp_path / CHECKPOINT, weights_only=True)


def test_a_broken_checkpoint_is_refused_with_advice(few, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="delete it"):
        drain(train(make(), few, SHORT, tmp_path, **FP32))
    drain(train(make(), few, SHORT, tmp_path, resume=False, **FP32))
