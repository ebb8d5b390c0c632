"""Weights that come with the package: there at once, offline, in half precision, with a card that says what they are."""

import json

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

import napari_cellrep
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._published import BUNDLED, list_published

STARTERS = sorted(name for name, (_, weights) in list_published().items() if weights.bundled)


def crops() -> np.ndarray:
    """Some windows of a well of the sample, nobody's cells in particular."""
    image = tifffile.imread(BUNDLED.parent / "sample" / "wells" / "A01.ome.tif")
    return np.stack([image[:, y : y + 64, x : x + 64] for y in range(0, 256, 64) for x in range(0, 256, 64)])


def test_they_are_small_and_nothing_else_lies_there():
    assert STARTERS == sorted(path.name for path in BUNDLED.iterdir() if path.is_dir())
    assert {"pci-starter", "dino-starter"} <= set(STARTERS)
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*")) <= 25e6


@pytest.mark.parametrize("name", STARTERS)
def test_it_loads_by_name_in_float32_and_is_stored_in_half(name, monkeypatch, tmp_path):
    monkeypatch.setenv("CELLREP_WEIGHTS", str(tmp_path))  # nothing was ever fetched
    net = napari_cellrep.load_model(name)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    stored = load_file(BUNDLED / name / "weights.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    engine = Embedder(net, precision="fp32")
    x = engine.run(crops())[engine.layers[0]]
    assert np.isfinite(x).all()
    assert (x.std(axis=0) > 0).mean() > 0.5  # it tells windows apart
    fresh = create_model(net.spec.name, **list_published()[name][1].config)
    assert all(a.shape == b.shape for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("name", STARTERS)
def test_its_card_says_what_it_is(name):
    spec, weights = list_published()[name]
    card = json.loads((BUNDLED / name / "model.json").read_text(encoding="utf-8"))
    assert card["model"] == spec.name
    assert tuple(card["roles"]) == weights.roles
    assert card["starting_point"] is True
    for source in ("BBBC013", "JUMP", "BBBC022"):
        assert source in card["trained_on"]
    assert "Ilya Ravkin" in card["licence"]
    assert {"trained", "untrained", "measurements"} <= set(card["scores"])
    assert card["training"]["seed"] == 0
    loaded = load_model(name)
    assert loaded.card["published"] == name
    assert loaded.card["scores"] == card["scores"]
    assert "starting point" in weights.note


def test_dino_looks_somewhere():
    net = load_model("dino-starter")
    with torch.no_grad():
        maps = net.attention(net.preprocess(torch.from_numpy(crops())))
    assert maps.shape == (16, 3, 8, 8)
    assert torch.isfinite(maps).all()
    assert (
        float(maps.amax(dim=(2, 3)).mean()) > 1.25 / 64
    )  # more here than there: even attention would be 1 / 64
