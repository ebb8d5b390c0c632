from __future__ import annotations

import dataclasses
import json

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

import napari_cellrep
from napari_cellrep import registry
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._train import train
from napari_cellrep.models.paired_cell_inpainting import Training
from napari_cellrep.specs import InputError


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


def test_a_folder_that_cannot_be_written_is_refused_in_words(few, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        drain(train(make(), few, dataclasses.replace(SHORT, max_steps=1), tmp_path / "file" / "m", **FP32))


def test_models_without_losses_are_not_trained(few, tmp_path):
    with pytest.raises(InputError, match="can only embed"):
        next(train(create_model("measurements"), few, SHORT, tmp_path))


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


@pytest.mark.slow
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


@pytest.mark.slow
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
