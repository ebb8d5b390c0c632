from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
import torch
from array_cells import ArrayCells
from short_training import (
    AE_SHORT,
    FP32,
    SHORT,
    assert_same,
    make,
    state_of,
)

from napari_cellrep import registry
from napari_cellrep.jobs import drain
from napari_cellrep.models import EmbeddingModel, _train
from napari_cellrep.models._train import train
from napari_cellrep.models._trial import time_step
from napari_cellrep.specs import InputError


def test_timing_a_step_leaves_the_model_as_it_is(few):
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    seconds = time_step(model, few, SHORT, "cpu", "auto", seconds=0.2)
    assert 0 < seconds < 60
    assert_same(before, model.state_dict())
    assert torch.equal(random, torch.get_rng_state())


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
