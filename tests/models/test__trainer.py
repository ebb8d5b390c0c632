from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from array_cells import ArrayCells
from short_training import (
    FP32,
    SHORT,
    assert_same,
    history,
    make,
    state,
)

from napari_cellrep.data.crops import resize, weights_to_size
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._sampling import Sampler
from napari_cellrep.models._train import train
from napari_cellrep.models._trainer import Trainer
from napari_cellrep.models.paired_cell_inpainting import Training
from napari_cellrep.specs import CropSpec, InputError


def test_windows_are_resized_on_the_device_as_before(few, tmp_path):
    windows = np.pad(few.array, ((0, 0), (0, 0), (16, 16), (16, 16)))
    spec = CropSpec()

    def run(cells: ArrayCells, folder: str):
        model = make()
        drain(
            train(model, cells, dataclasses.replace(SHORT, epochs=1, max_steps=2), tmp_path / folder, **FP32)
        )
        return model.state_dict()

    before = run(ArrayCells(resize(windows, 64), few.groups), "before")
    raw = ArrayCells(windows, few.groups)
    raw.weights = weights_to_size(windows, spec)
    after = run(raw, "after")
    start = make().state_dict()
    assert not torch.equal(after["conv4_1.weight"], start["conv4_1.weight"])
    for key, value in after.items():
        torch.testing.assert_close(value, before[key], rtol=1e-4, atol=1e-4)


def test_bf16_trains_as_well(few, tmp_path):
    seen = []
    result = drain(train(make(), few, SHORT, tmp_path, device="cpu", precision="bf16"), seen.append)
    assert result["precision"] == "bf16"
    assert np.isfinite(result["loss"])
    assert seen[-1].metrics["loss"] < seen[1].metrics["loss"]
    assert all(v.dtype != torch.bfloat16 for v in state(tmp_path).values())


def test_after_a_short_run_batch_norm_is_measured_on_the_training_cells(cells, tmp_path):
    """With momentum 0.01 a few steps leave the running means at their start; settled ones are the cells' own."""

    def run(settle):
        torch.manual_seed(0)
        model = create_model("paired_cell_inpainting", width=0.125)
        training = Training(batch_size=16, max_steps=3, settle_norm=settle)
        folder = tmp_path / str(settle)
        drain(train(model, cells, training, folder, precision="fp32"))
        return model, folder

    settled, folder = run(True)
    lagging, _ = run(False)
    x = settled.preprocess(torch.from_numpy(cells.crops(np.arange(len(cells)))))
    with torch.no_grad():
        tapped = torch.relu(settled.conv1_1(x)).mean(dim=(0, 2, 3))
    far = (lagging.bn_conv1_1.running_mean - tapped).norm() / tapped.norm()
    near = (settled.bn_conv1_1.running_mean - tapped).norm() / tapped.norm()
    assert near < 0.2 < 0.8 < far
    assert torch.equal(settled.conv4_1.weight, lagging.conv4_1.weight)  # the weights are as trained
    assert settled.bn_conv1_1.momentum == lagging.bn_conv1_1.momentum
    assert load_model(folder).bn_conv1_1.running_mean.allclose(settled.bn_conv1_1.running_mean)


class Crowded(type(make())):
    """A network that says so when it gets more cells at once than the memory holds."""

    room = 10

    def losses(self, batch):
        if self.training and len(batch["source"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return super().losses(batch)


def crowded(room: int):
    net = make()
    net.__class__ = Crowded
    net.room = room
    return net


def test_a_batch_that_does_not_fit_is_computed_in_parts(few, tmp_path):
    """13 or 14 cells a batch in parts of at most 7: all of them are learned from, in as many steps."""
    training = dataclasses.replace(SHORT, flips=False)
    seen = []
    result = drain(train(crowded(10), few, training, tmp_path / "parts", **FP32), seen.append)
    assert result["step"] == 6
    assert any("computed in 2 parts" in note for note in result["notes"])
    assert any("in 2 parts for lack of memory" in p.message for p in seen)
    assert torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)["parts"] == 2
    drain(train(make(), few, training, tmp_path / "whole", **FP32))
    losses = [[float(r["loss"]) for r in history(tmp_path / name)] for name in ("parts", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)  # batch norm sees the parts


def test_parts_without_batch_norm_give_the_gradients_of_the_whole(few):
    """A network in which cells do not meet learns the same from two parts as from one batch."""
    net = make()
    training = dataclasses.replace(SHORT, flips=False)
    sampler = Sampler(few.groups, net.batch, 16, 2, 5)
    grads = []
    for parts in (1, 3):
        torch.manual_seed(0)
        trainer = Trainer(make(), few, training, torch.device("cpu"), "fp32", sampler.n_batches)
        trainer.parts = parts
        trainer.model.eval()  # batch norm by its running means
        rows = sampler.epoch(0)[0]
        trainer._gradients(rows, (0, 0), len(rows["source"]))
        grads.append(trainer.model.conv3_1.weight.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_when_not_even_two_cells_fit_it_says_what_to_do(few, tmp_path):
    drain(train(make(), few, dataclasses.replace(SHORT, max_steps=3), tmp_path, **FP32))
    with pytest.raises(InputError, match="narrower"):
        drain(train(crowded(1), few, SHORT, tmp_path, **FP32))
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["step"] == 3
    assert all(torch.isfinite(v).all() for v in kept["model"].values())


def test_a_run_in_parts_goes_on_in_parts_exactly(few, tmp_path):
    drain(train(crowded(10), few, SHORT, tmp_path / "whole", **FP32))
    job = train(crowded(10), few, SHORT, tmp_path / "parts", **FP32)
    for _ in range(5):
        next(job)
    job.close()
    drain(train(crowded(10), few, SHORT, tmp_path / "parts", **FP32))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
