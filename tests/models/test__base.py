from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from napari_cellrep import registry
from napari_cellrep.models import can, change_settings, create_model, list_models, load_model, save_model
from napari_cellrep.models._base import start_from
from napari_cellrep.specs import InputError, make_config


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


# ---- weights to start from --------------------------------------------------------------------------


def small(name: str, **config):
    torch.manual_seed(1)
    return create_model(name, **config)


def test_the_same_network_starts_with_the_same_weights():
    a, b = small("paired_cell_inpainting", width=0.04), create_model("paired_cell_inpainting", width=0.04)
    assert start_from(b, a) == ""
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_other_channels_go_by_name_and_the_rest_is_the_mean():
    old = small("paired_cell_inpainting", width=0.04, n_structure=2)
    old.roles = ("protein", "nucleus", "microtubules")
    new = create_model("paired_cell_inpainting", width=0.04, n_structure=1)
    new.roles = ("protein", "nucleus")
    words = start_from(new, old)
    assert "conv1_1 sees 2 channels instead of 3: protein and nucleus as before, times 1.5" in words
    assert "rfpconv1_1 sees 1 channels instead of 2: nucleus as before, times 2" in words
    torch.testing.assert_close(new.conv1_1.weight, 1.5 * old.conv1_1.weight[:, :2])
    torch.testing.assert_close(new.rfpconv1_1.weight, 2 * old.rfpconv1_1.weight[:, :1])
    assert torch.equal(new.conv4_1.weight, old.conv4_1.weight)

    wide = create_model("paired_cell_inpainting", width=0.04, n_structure=3, n_protein=2)
    wide.roles = ("GFP", "protein", "nucleus", "er", "membrane")
    words = start_from(wide, old)
    assert "protein and nucleus as before, any other the mean of all, times 0.6" in words
    assert "y_gfp makes 2 channels instead of 1" in words
    torch.testing.assert_close(wide.conv1_1.weight[:, 0], 0.6 * old.conv1_1.weight.mean(dim=1))
    torch.testing.assert_close(wide.conv1_1.weight[:, 1], 0.6 * old.conv1_1.weight[:, 0])
    torch.testing.assert_close(wide.y_gfp.weight[1], old.y_gfp.weight[0])


def test_what_a_repeated_channel_shows_stays_as_large():
    """A network of one channel sees the same in three copies of it."""
    old = small("dino", channels=("DNA",), image_px=32, patch_px=8, dim=24, depth=1, heads=2)
    new = create_model("dino", channels=("a", "b", "c"), image_px=32, patch_px=8, dim=24, depth=1, heads=2)
    assert "the mean of all, times 0.33" in start_from(new, old)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(new.embed(x.expand(2, 3, 32, 32)), old.embed(x), rtol=1e-4, atol=1e-5)


def test_another_number_of_classes_starts_anew_and_another_network_is_refused():
    old = small("deeploc", width=0.0625, d1=16, d2=16, n_classes=4)
    new = create_model("deeploc", width=0.0625, d1=16, d2=16, n_classes=7)
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    assert "7 outputs instead of 4 and starts anew" in start_from(new, old)
    other = [k for k, v in new.state_dict().items() if v.shape != old.state_dict()[k].shape]
    assert {k.rpartition(".")[0] for k in other} == {"final_layer", "bn_final_layer"}
    assert all(torch.equal(new.state_dict()[k], fresh[k]) for k in other)
    with pytest.raises(InputError, match="--model deeploc"):
        start_from(small("autoencoder", width=0.04), old)
    with pytest.raises(InputError, match="another form"):
        start_from(create_model("deeploc", width=0.0625, d1=8, d2=16, n_classes=4), old)


@pytest.mark.parametrize(
    "name", [n for n in registry.names("models") if registry.load("models", n).SPEC.trains]
)
def test_presets_are_settings_of_the_training_and_say_that_they_are_ours(name):
    module = registry.load("models", name)
    assert "small" in [p.name for p in module.SPEC.presets]
    for preset in module.SPEC.presets:
        made = make_config(module.Training, preset.values)
        assert made != module.Training()
        assert "ours" in preset.note
