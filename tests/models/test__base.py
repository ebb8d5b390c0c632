from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from napari_cellrep.models import can, change_settings, create_model, list_models, load_model, save_model
from napari_cellrep.specs import InputError


@pytest.fixture
def folder(tmp_path):
    save_model(create_model("paired_cell_inpainting", width=0.125), tmp_path / "model", seed=1)
    return tmp_path / "model"


def test_a_name_gives_the_untrained_network():
    assert load_model("measurements").spec.name == "measurements"
    assert {"measurements", "paired_cell_inpainting"} <= set(list_models())
    assert not load_model("paired_cell_inpainting").training


def test_folder_and_weights_file_are_the_same_model(folder):
    a, b = load_model(folder), load_model(folder / "weights.safetensors")
    assert torch.equal(a.conv1_1.weight, b.conv1_1.weight)


def test_capabilities_are_methods():
    model = create_model("paired_cell_inpainting", width=0.125)
    assert can(model, "train")
    assert can(model, "inpaint")
    assert not can(model, "attention")
    assert not can(create_model("measurements"), "train")


def test_what_is_not_there_is_refused_with_what_is(tmp_path):
    with pytest.raises(InputError, match="measurements"):
        load_model(tmp_path / "nothing")
    with pytest.raises(InputError, match="measurements"):
        create_model("nothing")
    with pytest.raises(InputError, match=r"model\.json is missing"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="between"):
        create_model("paired_cell_inpainting", width=100.0)


def test_damaged_folders_are_refused(folder):
    (folder / "weights.safetensors").rename(folder / "kept")
    with pytest.raises(InputError, match="missing"):
        load_model(folder)
    (folder / "weights.safetensors").write_bytes((folder / "kept").read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        load_model(folder)
    (folder / "kept").rename(folder / "weights.safetensors")
    info = (folder / "model.json").read_text()
    for text in (info[:50], "[]", "{}", info.replace('"size_px"', '"size_inches"')):
        (folder / "model.json").write_text(text)
        with pytest.raises(InputError, match="damaged"):
            load_model(folder)


def test_weights_of_another_configuration_are_refused(folder):
    info = json.loads((folder / "model.json").read_text())
    for key, value, words in (("width", 0.25, "shape"), ("n_structure", 2, "shape")):
        (folder / "model.json").write_text(json.dumps({**info, "config": {**info["config"], key: value}}))
        with pytest.raises(InputError, match=words):
            load_model(folder)
    (folder / "model.json").write_text(json.dumps({**info, "model": "measurements", "config": {}}))
    with pytest.raises(InputError, match="too many"):
        load_model(folder)


def test_saving_leaves_no_temporary_files_and_replaces_whole(folder):
    save_model(create_model("paired_cell_inpainting", width=0.25), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert load_model(folder).config.width == 0.25


def test_any_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_model(tmp_path / "weights.pth")
    with pytest.raises(InputError):
        load_model(tmp_path / "weights.pth", "measurements")


def test_settings_change_and_weights_stay():
    model = create_model("microsnoop", width=0.125, channels=("a", "b"))
    model.card, model.crop = {"published": "x"}, dataclasses.replace(model.crop, um_per_px=0.3)
    mean = change_settings(model, {"channel_mode": "mean"})
    assert mean.config == dataclasses.replace(model.config, channel_mode="mean")
    assert (mean.roles, mean.crop, mean.card) == (model.roles, model.crop, model.card)
    assert all(torch.equal(v, mean.state_dict()[k]) for k, v in model.state_dict().items())
    x = torch.rand(2, 2, 40, 40)
    with torch.inference_mode():
        both = model.embed(model.preprocess(x)).unflatten(1, (2, -1))
        torch.testing.assert_close(mean.embed(mean.preprocess(x)), both.mean(dim=1))
    rescaled = change_settings(model, {"scaling": "rescale"})  # another crop goes with it
    assert (rescaled.crop.mode, rescaled.crop.size_px, rescaled.crop.um_per_px) == ("window", 64, 0.3)
    assert change_settings(model, {}) is model
    with pytest.raises(InputError, match=r"With width=0\.25 Microsnoop would be another network"):
        change_settings(model, {"width": 0.25})
    with pytest.raises(InputError, match="no setting called"):
        change_settings(model, {"no_such": 1})
