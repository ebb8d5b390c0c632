from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from array_cells import ArrayCells

import napari_cellrep
from napari_cellrep import registry
from napari_cellrep.data.crops import resize, weights_to_size
from napari_cellrep.jobs import drain
from napari_cellrep.models import EmbeddingModel, _train, autoencoder, create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._learner import knn_accuracy
from napari_cellrep.models._sampling import Sampler, hold_out
from napari_cellrep.models._train import train
from napari_cellrep.models._trainer import Trainer
from napari_cellrep.models._trial import time_step
from napari_cellrep.models.paired_cell_inpainting import Training
from napari_cellrep.specs import CropSpec, InputError

FP32 = {"device": "cpu", "precision": "fp32"}
SHORT = Training(epochs=2, batch_size=16, learning_rate=1e-3, seed=5)
AE_SHORT = autoencoder.Training(epochs=2, batch_size=16, learning_rate=1e-3, seed=5, held_out=0.0)


def make(seed: int = 0, width: float = 0.04):
    torch.manual_seed(seed)
    return create_model("paired_cell_inpainting", width=width)


@pytest.fixture
def few(cells) -> ArrayCells:
    """40 cells of two wells."""
    rows = np.r_[0:20, 60:80]
    return ArrayCells(cells.array[rows], cells.groups[rows])


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


# ---- pairs ------------------------------------------------------------------------------------------


def test_every_cell_is_source_once_and_targets_are_others_of_its_group():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([7, 3, 11], [30, 2, 25]))
    sampler = Sampler(groups, ("source", "target"), 8, 2, 0)
    for epoch in range(20):
        batches = sampler.epoch(epoch)
        source = np.concatenate([b["source"] for b in batches])
        target = np.concatenate([b["target"] for b in batches])
        assert sorted(source) == list(range(57))
        assert (groups[source] == groups[target]).all()
        assert (source != target).all()
        assert max(len(b["source"]) for b in batches) <= 8


def test_targets_are_drawn_evenly():
    sampler = Sampler(np.zeros(6, int), ("source", "target"), 6, 2, 0)
    counts = np.zeros((6, 6), int)
    for epoch in range(3000):
        (batch,) = sampler.epoch(epoch)
        np.add.at(counts, (batch["source"], batch["target"]), 1)
    assert (np.diag(counts) == 0).all()
    others = counts[~np.eye(6, dtype=bool)]
    assert abs(others - 600).max() < 5 * np.sqrt(600 * 0.8)


def test_epochs_differ_and_repeat_with_the_seed():
    def order(seed: int, epoch: int) -> list[int]:
        batches = Sampler(np.zeros(50, int), ("source", "target"), 8, 2, seed).epoch(epoch)
        return np.concatenate([np.r_[b["source"], b["target"]] for b in batches]).tolist()

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)


def test_groups_of_one_are_left_out_with_a_sentence_and_none_left_is_refused():
    sampler = Sampler(np.array([0, 0, 1, 2, 2, 2]), ("source", "target"), 4, 2, 0)
    assert sorted(sampler.rows) == [0, 1, 3, 4, 5]
    assert "1 of 3 groups" in sampler.note
    assert "1 cells" in sampler.note
    assert sorted(Sampler(sampler.rows * 0, ("source", "target"), 4, 3, 0).rows) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="No pair"):
        Sampler(np.arange(5), ("source", "target"), 4, 2, 0)
    with pytest.raises(InputError, match="fewer than 4 cells"):
        Sampler(np.array([0, 0, 0]), ("source", "target"), 4, 4, 0)
    with pytest.raises(InputError, match="no cells"):
        Sampler(np.array([], int), ("x",), 4, 2, 0)


def test_groups_are_drawn_evenly_if_asked():
    groups = np.repeat([0, 1, 2], [40, 8, 3])
    sampler = Sampler(groups, ("source", "target"), 10, 2, 0, balanced=True)
    for epoch in (0, 1):
        batches = sampler.epoch(epoch)
        source, target = (np.concatenate([b[k] for b in batches]) for k in ("source", "target"))
        assert np.bincount(groups[source]).tolist() == [17, 17, 17]
        assert (groups[source] == groups[target]).all()
        assert (source != target).all()
        assert len(batches) == 6
        assert len(np.unique(source[groups[source] == 0])) == 17  # none twice, where there are enough
    assert (sampler.epoch(0)[0]["source"] != sampler.epoch(1)[0]["source"]).any()


def test_single_cells_need_no_group():
    batches = Sampler(np.arange(10), ("x",), 4, 2, 0).epoch(0)
    assert [len(b["x"]) for b in batches] == [4, 3, 3]
    assert sorted(np.concatenate([b["x"] for b in batches])) == list(range(10))


# ---- the run ----------------------------------------------------------------------------------------


def test_the_loss_goes_down_on_real_cells(cells, tmp_path):
    training = Training(epochs=6, batch_size=32, learning_rate=3e-3)
    seen = []
    result = drain(train(make(width=0.08), cells, training, tmp_path, **FP32), seen.append)
    losses = [p.metrics["loss"] for p in seen if p.metrics]
    assert len(losses) == result["step"] == 6 * 3
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert np.mean(losses[-3:]) < np.mean(losses[3:6])
    assert [p.done for p in seen] == list(range(19))
    assert seen[-1].metrics.keys() == {"loss", "epoch", "cells_per_s", "learning_rate"}
    assert seen[-1].metrics["epoch"] == 6


def test_what_it_leaves_behind(few, tmp_path):
    model = make()
    result = drain(train(model, few, SHORT, tmp_path / "m", card={"data": "abc", "n_cells": 41}, **FP32))
    assert not model.training
    rows = history(tmp_path / "m")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["loss"]) == result["loss"]
    assert [row["step"] for row in rows] == ["3", "6"]
    info = json.loads((tmp_path / "m" / "model.json").read_text())
    assert info["data"] == "abc"
    assert info["training"]["seed"] == 5
    assert info["trained"]["step"] == 6
    assert info["n_cells"] == 41  # what the caller says counts
    assert info["torch"] == torch.__version__
    assert info["versions"]["napari-cellrep"] == napari_cellrep.__version__
    assert_same(state(tmp_path / "m"), model.state_dict())
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        CHECKPOINT, "history.csv", "model.json", "preview.npz", "weights.safetensors",
    ]  # fmt: skip


def test_the_checkpoint_holds_only_tensors_and_plain_values(few, tmp_path):
    drain(train(make(), few, SHORT, tmp_path, **FP32))
    torch.load(tmp_path / CHECKPOINT, weights_only=True)


def test_the_seed_decides_everything(few, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        drain(train(make(), few, dataclasses.replace(SHORT, seed=seed), tmp_path / name, **FP32))
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert not torch.equal(state(tmp_path / "a")["conv1_1.weight"], state(tmp_path / "c")["conv1_1.weight"])


def test_the_seed_decides_what_drops_out(spread, tmp_path):
    cells = ArrayCells(spread.array, spread.groups, spread.fields)
    cells.labels = cells.groups
    settings = registry.load("models", "deeploc").Training(dropout=0.5, batch_size=16, max_steps=2)
    for name in ("a", "b"):
        torch.manual_seed(0)
        net = create_model("deeploc", channels=2, n_classes=4, width=0.05)
        torch.manual_seed(ord(name))  # what went on before in this process
        drain(train(net, cells, settings, tmp_path / name, **FP32))
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_goes_on_to_exactly_the_same_weights(few, tmp_path, stop_after):
    """Stopped at the first step, at the end of an epoch, and in the middle of the second."""
    drain(train(make(), few, SHORT, tmp_path / "whole", **FP32))

    job = train(make(), few, SHORT, tmp_path / "parts", **FP32)
    for _ in range(stop_after + 1):
        next(job)
    job.close()
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    seen = []
    drain(train(make(seed=99), few, SHORT, tmp_path / "parts", **FP32), seen.append)
    assert seen[0].done == stop_after
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    whole, parts = (history(tmp_path / name) for name in ("whole", "parts"))
    assert [(r["epoch"], r["loss"]) for r in parts] == [(r["epoch"], r["loss"]) for r in whole]


def test_an_interrupt_within_a_step_keeps_the_checkpoint_before(few, tmp_path):
    drain(train(make(), few, SHORT, tmp_path / "whole", **FP32))

    class Interrupted(ArrayCells):
        asked = 0

        def crops(self, rows):
            self.asked += 1
            if self.asked == 9:  # two loads a step: the target of the fifth step
                raise KeyboardInterrupt
            return super().crops(rows)

    with pytest.raises(KeyboardInterrupt):
        drain(train(make(), Interrupted(few.array, few.groups), SHORT, tmp_path / "parts", **FP32))
    assert torch.load(tmp_path / "parts" / CHECKPOINT, weights_only=True)["step"] == 3  # the epoch's end
    drain(train(make(), few, SHORT, tmp_path / "parts", **FP32))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_more_epochs_go_on_and_other_settings_start_anew(few, tmp_path):
    drain(train(make(), few, SHORT, tmp_path, **FP32))
    seen = []
    drain(train(make(), few, dataclasses.replace(SHORT, epochs=3), tmp_path, **FP32), seen.append)
    assert seen[0].done == 6
    assert len(seen) == 4
    seen = []
    drain(train(make(), few, dataclasses.replace(SHORT, epochs=3), tmp_path, **FP32), seen.append)
    assert len(seen) == 1  # nothing left to do
    other = dataclasses.replace(SHORT, learning_rate=1e-4)
    result = drain(train(make(), few, other, tmp_path, **FP32), seen.append)
    assert seen[1].done == 0
    assert "starts anew" in seen[1].message
    assert result["step"] == 6
    seen = []
    drain(train(make(), few, other, tmp_path, resume=False, **FP32), seen.append)
    assert seen[0].done == 0


def test_limits_end_it_early(few, tmp_path):
    result = drain(train(make(), few, dataclasses.replace(SHORT, max_steps=4), tmp_path / "a", **FP32))
    assert result["step"] == 4
    assert result["stopped_early"]
    result = drain(
        train(make(), few, dataclasses.replace(SHORT, epochs=999, max_seconds=0.3), tmp_path / "b", **FP32)
    )
    assert 1 <= result["step"] < 999 * 3
    assert "seconds were over" in result["notes"][0]
    assert load_model(tmp_path / "b").config == make().config


def test_a_loss_that_explodes_says_so_and_keeps_the_checkpoint(few, tmp_path):
    drain(train(make(), few, dataclasses.replace(SHORT, max_steps=3), tmp_path, **FP32))
    bad = ArrayCells(few.array.astype(np.float32), few.groups)
    bad.array[:, :, 0, 0] = np.nan
    with pytest.raises(InputError, match="no longer finite"):
        drain(train(make(), bad, SHORT, tmp_path, **FP32))
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["step"] == 3
    assert all(torch.isfinite(v).all() for v in kept["model"].values())


def test_a_broken_checkpoint_is_refused_with_advice(few, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="delete it"):
        drain(train(make(), few, SHORT, tmp_path, **FP32))
    drain(train(make(), few, SHORT, tmp_path, resume=False, **FP32))


def test_a_folder_that_cannot_be_written_is_refused_in_words(few, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        drain(train(make(), few, dataclasses.replace(SHORT, max_steps=1), tmp_path / "file" / "m", **FP32))


def test_models_without_losses_are_not_trained(few, tmp_path):
    with pytest.raises(InputError, match="can only embed"):
        next(train(create_model("measurements"), few, SHORT, tmp_path))


def test_timing_a_step_leaves_the_model_as_it_is(few):
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    seconds = time_step(model, few, SHORT, "cpu", "auto", seconds=0.2)
    assert 0 < seconds < 60
    assert_same(before, model.state_dict())
    assert torch.equal(random, torch.get_rng_state())


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


class OneConvolution(EmbeddingModel):
    """The least that learns, because compilers take their time."""

    spec = registry.load("models", "autoencoder").SPEC

    def __init__(self, config):
        super().__init__(config)
        self.layers = ("only",)
        self.only = torch.nn.Conv2d(2, 2, 3, padding=1)

    def dim(self, layer=None):
        return 2

    def preprocess(self, crops):
        return crops.float() / 255

    def embed_layers(self, x, layers):
        return {"only": self.only(x).amax(dim=(2, 3))}

    def losses(self, batch):
        return {"loss": torch.nn.functional.mse_loss(torch.relu(self.only(batch["x"])), batch["x"].sqrt())}


def small_net() -> OneConvolution:
    torch.manual_seed(0)
    return OneConvolution(registry.load("models", "autoencoder").TINY).eval()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own imports
def test_compiled_it_learns_the_same_and_goes_on_exactly(few, tmp_path):
    training = dataclasses.replace(AE_SHORT, held_out=0.25)
    few = ArrayCells(few.array, few.groups, np.arange(len(few)) % 8)  # batches of two sizes
    result = drain(train(small_net(), few, training, tmp_path / "whole", compiled="on", **FP32))
    assert result["compiled"]
    assert re.search(r"Compiled in \d+ s, a step takes .* ms instead of .* ms", " ".join(result["notes"]))
    job = train(small_net(), few, training, tmp_path / "parts", compiled="on", **FP32)
    for at in job:
        if at.done == 2:
            break
    job.close()
    assert drain(train(small_net(), few, training, tmp_path / "parts", **FP32))["compiled"]  # as it began
    assert_same(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))
    assert "compiled" not in drain(train(small_net(), few, training, tmp_path / "plain", **FP32))
    plain, compiled = state_of(tmp_path / "plain"), state_of(tmp_path / "whole")
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own imports
def test_where_nothing_can_be_compiled_it_trains_as_it_is(few, tmp_path, monkeypatch, caplog):
    def no_compiler(*_args, **_more):
        raise RuntimeError("No working C++ compiler found")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: real(f, backend=no_compiler, **more))
    with caplog.at_level("INFO"):
        result = drain(train(small_net(), few, AE_SHORT, tmp_path / "on", compiled="on", **FP32))
    assert "compiled" not in result
    assert "No working C++ compiler found" in caplog.text
    assert any("failed here" in note for note in result["notes"])
    drain(train(small_net(), few, AE_SHORT, tmp_path / "off", compiled="off", **FP32))
    assert_same(state_of(tmp_path / "on"), state_of(tmp_path / "off"))
    with pytest.raises(InputError, match="auto, on, off"):
        next(train(small_net(), few, AE_SHORT, tmp_path, compiled="perhaps"))


def test_long_trainings_on_a_graphics_card_try_compiling_and_no_others_do(few, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(_train, "try_compiled", lambda *how: (tried.append(how) or False, "It does not pay."))
    monkeypatch.setattr(_train, "COMPILE_AFTER", 2)
    monkeypatch.setattr(_train, "COMPILE_FROM_S", 0.0)
    drain(train(small_net(), few, AE_SHORT, tmp_path / "cpu", **FP32))
    assert not tried  # never by itself on a CPU
    monkeypatch.setattr(_train, "COMPILES", ("cpu",))
    drain(train(small_net(), few, AE_SHORT, tmp_path / "long", **FP32))
    assert [how[2] for how in tried] == [4]  # once; steps left
    monkeypatch.setattr(_train, "COMPILE_FROM_S", 900.0)
    drain(train(small_net(), few, AE_SHORT, tmp_path / "short", **FP32))
    assert len(tried) == 1


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


# ---- held-out cells ---------------------------------------------------------------------------------


@pytest.fixture
def spread(cells) -> ArrayCells:
    """96 cells of four wells, in six images each."""
    n = len(cells)
    return ArrayCells(cells.array, cells.groups, 10 * cells.groups + np.arange(n) % 6)


def test_whole_images_are_held_out_and_their_groups_are_learned_from(spread):
    held, words = hold_out(spread.groups, spread.fields, 0.15, True, 0)
    assert not np.isin(spread.fields[~held], spread.fields[held]).any()
    assert np.isin(spread.groups[held], spread.groups[~held]).all()
    assert len(np.unique(spread.groups[held])) == 4  # one image of each, not four of one
    assert 0.1 < held.mean() < 0.2
    assert f"{held.sum()} cells of 4 images" in words
    assert (held == hold_out(spread.groups, spread.fields, 0.15, True, 0)[0]).all()
    assert (held != hold_out(spread.groups, spread.fields, 0.15, True, 1)[0]).any()


def test_groups_in_one_image_give_single_cells_and_small_ones_none():
    groups = np.repeat(np.arange(5), [30, 30, 30, 12, 2])
    held, words = hold_out(groups, groups, 0.1, True, 0)
    assert np.bincount(groups[held], minlength=5).tolist() == [3, 3, 3, 0, 0]  # a pair needs two
    assert "single cells" in words
    assert "recognises images" in words
    held, words = hold_out(np.arange(40), np.zeros(40), 0.1, True, 0)
    assert not held.any()
    assert "No cell is held out" in words
    assert hold_out(np.arange(40), np.zeros(40), 0.1, False, 0)[0].sum() == 4  # single cells need no group


def test_held_out_cells_are_never_learned_from_and_judged_in_pairs_of_their_own(spread):
    sampler = Sampler(spread.groups, ("source", "target"), 8, 2, 0, spread.fields, 0.25)
    for epoch in range(5):
        rows = np.concatenate([np.r_[b["source"], b["target"]] for b in sampler.epoch(epoch)])
        assert not np.isin(rows, sampler.validation).any()
    batches = sampler.judging(sampler.validation, 8)
    source, target = (np.concatenate([b[k] for b in batches]) for k in ("source", "target"))
    assert sorted(source) == sorted(sampler.validation)
    assert np.isin(target, sampler.validation).all()
    assert (spread.groups[source] == spread.groups[target]).all()
    assert (source != target).all()
    again = sampler.judging(sampler.validation, 8)
    assert all((a["target"] == b["target"]).all() for a, b in zip(batches, again, strict=True))


def test_knn_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    y = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(400, 5)) * [1, 10, 100, 1, 1] + y[:, None] * [1, 5, 0, 0, 0]
    scaler = StandardScaler().fit(x[:300])
    said = KNeighborsClassifier(11, algorithm="brute").fit(scaler.transform(x[:300]), y[:300]).predict(
        scaler.transform(x[300:])
    )  # fmt: skip
    found = knn_accuracy(x[300:], y[300:], x[:300], y[:300])
    assert abs(found - balanced_accuracy_score(y[300:], said)) < 0.05  # ties are broken differently
    assert found > 0.4
    assert np.isnan(knn_accuracy(x[300:], y[300:], x[:300], y[:300] * 0))


def test_every_epoch_is_judged_on_the_same_held_out_cells(spread, tmp_path):
    training = Training(epochs=6, batch_size=16, learning_rate=3e-3, held_out=0.25)
    seen = []
    result = drain(train(make(width=0.08), spread, training, tmp_path, **FP32), seen.append)
    rows = history(tmp_path)
    losses = [float(row["val_loss"]) for row in rows]
    assert losses[-1] < 0.95 * losses[0]
    assert all(0 <= float(row["val_knn"]) <= 1 for row in rows)
    assert result["validation"]["n_cells"] == 24
    assert {"loss", "knn"} <= result["validation"].keys()
    assert "best_epoch" not in result  # the last weights, as in the paper
    assert "are held out" in result["notes"][0]
    assert seen[-1].metrics["val_epoch"] == 6
    assert seen[-1].metrics["val_loss"] == losses[-1]


@pytest.mark.parametrize("stop_after", [3, 5, 6])
def test_a_judged_run_goes_on_exactly_too(spread, tmp_path, stop_after):
    """Stopped in an epoch, at its last step, and while held-out cells are looked at."""
    training = dataclasses.replace(SHORT, held_out=0.25, keep="val_loss")
    drain(train(make(), spread, training, tmp_path / "whole", **FP32))
    job = train(make(), spread, training, tmp_path / "parts", **FP32)
    for _ in range(stop_after + 1):
        next(job)
    job.close()
    drain(train(make(seed=99), spread, training, tmp_path / "parts", **FP32))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    whole, parts = (history(tmp_path / name) for name in ("whole", "parts"))
    for key in ("loss", "val_loss", "val_knn"):
        assert [r[key] for r in parts] == [r[key] for r in whole]


@pytest.mark.parametrize("keep", ["val_loss", "val_knn"])
def test_the_best_weights_are_kept_and_patience_ends_it(spread, tmp_path, keep):
    """By a learning rate that makes everything worse after a while."""
    training = Training(epochs=40, batch_size=16, learning_rate=0.3, held_out=0.25, keep=keep, patience=2)
    result = drain(train(make(), spread, training, tmp_path, **FP32))
    rows = history(tmp_path)
    best = min(
        rows,
        key=lambda r: (
            float(r["val_loss"]) * (keep == "val_loss") - float(r["val_knn"]) * (keep != "val_loss")
        ),
    )
    assert result["best_epoch"] == int(best["epoch"]) == len(rows) - 2
    assert result["stopped_early"]
    assert any("had not" in note for note in result["notes"])
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert_same(state(tmp_path), kept["best"]["model"])


def test_what_cannot_be_kept_is_said(few, tmp_path):
    result = drain(train(make(), few, dataclasses.replace(SHORT, patience=1), tmp_path, **FP32))
    assert result["epoch"] == 2
    assert any("Nothing is held out" in note for note in result["notes"])


@pytest.mark.parametrize("name", ["autoencoder", "microsnoop", "dino"])
def test_other_models_are_judged_too(spread, tmp_path, name):
    small = {
        "autoencoder": {"width": 0.04},
        "microsnoop": {"width": 0.03, "channels": ("protein", "nucleus")},
        "dino": {
            "channels": ("protein", "nucleus"),
            "image_px": 32,
            "patch_px": 8,
            "dim": 24,
            "depth": 1,
            "heads": 2,
        },
    }[name]
    how = {"hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 32, "n_local": 1} if name == "dino" else {}
    torch.manual_seed(0)
    net = create_model(name, **small)
    settings = registry.load("models", name).Training
    cells = spread
    if name == "microsnoop":
        cells = ArrayCells(spread.array[::3], spread.groups[::3], spread.fields[::3])
    training = settings(epochs=2, batch_size=16, held_out=0.25, seed=1, **how)
    drain(train(net, cells, training, tmp_path / "a", **FP32))
    rows = history(tmp_path / "a")
    assert all(np.isfinite([float(r["val_loss"]), float(r["val_knn"])]).all() for r in rows)
    assert rows[0]["val_loss"] != rows[1]["val_loss"]


# ---- too little memory ------------------------------------------------------------------------------


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
