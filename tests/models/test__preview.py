"""What a network under training shows of itself, and that showing it changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from array_cells import ArrayCells
from short_training import FP32, SHORT, assert_same, make

from napari_cellrep.jobs import drain
from napari_cellrep.models import _preview, create_model
from napari_cellrep.models._preview import PREVIEW, PREVIEW_CELLS, Preview, look
from napari_cellrep.models._train import train


def training(few: ArrayCells, folder):
    """The trained network of four steps."""
    model = make()
    drain(train(model, few, dataclasses.replace(SHORT, max_steps=4), folder, **FP32))
    return model


def test_a_training_without_pictures_comes_to_the_same_weights(few, tmp_path, monkeypatch):
    shown = []
    real = Preview.make

    def make_now(self, last=False):
        self._next = 0.0  # not once in five seconds, but after every step
        real(self, last)
        shown.append(self.path.is_file())

    monkeypatch.setattr(Preview, "make", make_now)
    with_pictures = training(few, tmp_path / "with").state_dict()
    assert len(shown) >= 3
    assert all(shown)
    monkeypatch.setattr(Preview, "make", lambda self, last=False: None)
    assert_same(with_pictures, training(few, tmp_path / "without").state_dict())
    assert not (tmp_path / "without" / PREVIEW).exists()


def test_the_same_few_cells_are_shown_each_time(few, tmp_path, monkeypatch):
    seen = []

    def look_and_note(model, crops):
        seen.append({name: crop.clone() for name, crop in crops.items()})
        return look(model, crops)

    monkeypatch.setattr(_preview, "look", look_and_note)
    real = Preview.make
    monkeypatch.setattr(Preview, "make", lambda self, last=False: real(self, True))
    training(few, tmp_path)
    assert len(seen) >= 2
    for later in seen[1:]:
        assert_same(seen[0], later)
    with np.load(tmp_path / PREVIEW) as file:
        assert file["pictures"].dtype == np.uint8
        assert file["pictures"].shape[:2] == (PREVIEW_CELLS, len(file["columns"]))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_pictures_that_do_not_fit_into_memory_do_not_end_a_training(few, tmp_path, monkeypatch, error):
    calls = []

    def too_much(model, crops):
        calls.append(model)
        raise error

    monkeypatch.setattr(_preview, "look", too_much)
    monkeypatch.setattr(_preview, "PREVIEW_EVERY_S", 0.0)
    training(few, tmp_path)
    assert len(calls) == 2  # the first time and at the end, not after every step
    assert (tmp_path / "weights.safetensors").is_file()
    assert not (tmp_path / PREVIEW).exists()


def test_any_other_fault_is_not_hidden(few, tmp_path, monkeypatch):
    def broken(model, crops):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(_preview, "look", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        training(few, tmp_path)


def test_predicted_and_real_are_scaled_alike():
    """A network that predicts twice what is there is shown brighter, not stretched to look the same."""
    model = make()
    target = torch.zeros(2, 2, 64, 64)
    target[:, 0] = torch.linspace(0, 1, 64)
    source = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    model.inpaint = lambda source, structure: torch.full((len(source), 1, 64, 64), 0.5)
    columns, pictures = look(model.eval(), {"source": source, "target": target})
    assert columns == ("another cell", "this one's structure", "predicted", "real")
    assert pictures.shape == (2, 4, 64, 64)
    assert (pictures[:, 2] == 128).all()  # half of what is the brightest of the real one
    assert pictures[:, 3].min() == 0
    assert pictures[:, 3].max() == 255


@pytest.mark.parametrize(
    ("name", "columns"),
    [("autoencoder", ("real", "rebuilt")), ("deeploc", None), ("dino", ("cell", "where it looks"))],
)
def test_each_kind_of_network_shows_what_it_can(name, columns, cells):
    config = {
        "autoencoder": {"width": 0.04},
        "deeploc": {"width": 0.0625, "d1": 8, "d2": 8, "n_classes": 4},
        "dino": {
            "channels": ("protein", "nucleus"),
            "patch_px": 8,
            "image_px": 64,
            "dim": 4,
            "depth": 1,
            "heads": 2,
        },
    }[name]
    torch.manual_seed(0)
    model = create_model(name, **config).eval()
    crops = torch.from_numpy(cells.array[:4]).float() / 255
    with torch.no_grad():
        found = look(model, {"x": crops})
    if columns is None:
        assert found is None
        return
    assert found is not None
    assert found[0] == columns
    assert found[1].shape == (4, 2, 64, 64)
    assert found[1].dtype == np.uint8
