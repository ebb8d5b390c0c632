from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from napari_cellrep import registry
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._augment import random_flips
from napari_cellrep.models.paired_cell_inpainting import (
    TINY,
    Config,
    Model,
    Training,
    read_checkpoint,
    recognise,
)
from napari_cellrep.specs import InputError, check_config, make_config

# The golden vectors' README allows 1e-4; an independent torch network was within 3e-6, other CPUs sum in other orders.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.fixture(params=["yeast", "human"])
def golden(request, shared):
    """The authors' network of 1/8 width run in Keras: checkpoint and vectors."""
    folder = shared / "golden"
    with np.load(folder / f"pci_{request.param}_tiny_golden.npz") as z:
        return request.param, folder / f"pci_{request.param}_tiny_keras.h5", dict(z)


# ---- parity with the authors' code ------------------------------------------------------------------


def test_golden_preprocessing(golden):
    kind, path, z = golden
    crops = np.stack([z["u16_gfp"], z["u16_rfp"]], axis=1) if kind == "yeast" else z["float128"]
    x = load_model(path).preprocess(torch.from_numpy(crops))
    np.testing.assert_allclose(x, nchw(z["x_in"]), rtol=0, atol=1e-6)
    if kind == "human":
        from_64 = load_model(path).preprocess(torch.from_numpy(z["resized64"]))
        np.testing.assert_allclose(from_64, nchw(z["x_in"]), rtol=0, atol=1e-6)


def test_golden_taps(golden):
    _, path, z = golden
    model = load_model(path)
    with torch.inference_mode():
        found = model.embed_layers(nchw(z["x_in"]), model.layers)
    assert len(found) == 5
    for layer, vectors in found.items():
        np.testing.assert_allclose(vectors, z[f"maxpool/{layer}"], **CLOSE, err_msg=layer)


def test_golden_inpainting(golden):
    _, path, z = golden
    with torch.inference_mode():
        predicted = load_model(path).inpaint(nchw(z["x_in"]), nchw(z["y_in"]))
    np.testing.assert_allclose(predicted, nchw(z["recon"]), **CLOSE)


def test_golden_checkpoints_are_recognised_and_configured(golden):
    kind, path, _ = golden
    assert recognise(path)
    model = load_model(path)
    assert model.config == Config(n_structure=1 if kind == "yeast" else 2, width=0.125, recipe=kind)
    assert model.layers[0] == ("conv4_1" if kind == "yeast" else "conv3_1")
    assert model.roles[0] == "protein"
    assert model.crop.size_px == (64 if kind == "yeast" else 128)


def test_golden_without_graph_and_under_other_layer_names(golden, tmp_path):
    """A save_weights file (weights at the root, no graph), and batch norms that count from 1."""
    _, path, z = golden
    other = tmp_path / "weights.h5"
    with h5py.File(path) as old, h5py.File(other, "w") as new:
        for layer, group in old["model_weights"].items():
            name = layer
            if layer.startswith("batch_normalization"):
                number = int(layer.rsplit("_", 1)[1]) if layer[-1].isdigit() else 0
                name = f"batch_normalization_{number + 9}"  # 9 … 16: text order is not number order
            for key, data in group.get(layer, {}).items():
                new[f"{name}/{name}/{key}"] = data[()]
    with torch.inference_mode():
        found = load_model(other).inpaint(nchw(z["x_in"]), nchw(z["y_in"]))
    np.testing.assert_allclose(found, nchw(z["recon"]), **CLOSE)


def test_full_width_has_the_published_number_of_parameters():
    for n_structure, published in ((1, 7_323_521), (2, 7_324_529)):
        model = create_model("paired_cell_inpainting", n_structure=n_structure)
        buffers = sum(b.numel() for k, b in model.named_buffers() if not k.endswith("num_batches_tracked"))
        assert (
            sum(p.numel() for p in model.parameters()) + buffers == published
        )  # Keras counts moving averages
    assert [create_model("paired_cell_inpainting").dim(f"conv{i}_1") for i in range(1, 6)] == [
        96,
        256,
        384,
        384,
        256,
    ]


# ---- Keras files ------------------------------------------------------------------------------------

BN_ORDER = ("conv1_1", "conv2_1", "rfpconv1_1", "rfpconv2_1", "conv3_1", "conv4_1", "conv5_1", "rfpconv3_1")
BN_PARTS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def write_keras(model: Model, path: Path, *, graph: bool = True, root: str = "model_weights/") -> None:
    """Write a model as Keras does, with the batch norms named out of order where a graph says which is which."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    layers = []
    with h5py.File(path, "w") as f:
        for key, value in state.items():
            name, part = key.rsplit(".", 1)
            if name.startswith("bn_") or part == "num_batches_tracked":
                continue
            array = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
            f[f"{root}{name}/{name}/{'kernel' if part == 'weight' else 'bias'}:0"] = array
        for i, conv in enumerate(BN_ORDER):
            name = f"batch_normalization_{20 - i if graph else i + 1}"
            for part, keras in BN_PARTS.items():
                f[f"{root}{name}/{name}/{keras}:0"] = state[f"bn_{conv}.{part}"]
            layers.append({"name": name, "inbound_nodes": [[[conv, 0, 0, {}]]]})
        if graph:
            f.attrs["model_config"] = np.bytes_(json.dumps({"config": {"layers": layers}}))


@pytest.fixture
def random_model() -> Model:
    model = Model(Config(width=0.125, n_structure=2, recipe="human"))
    generator = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("graph", "root"), [(True, "model_weights/"), (True, ""), (False, "model_weights/"), (False, "")]
)
def test_keras_layouts(random_model, tmp_path, graph, root):
    path = tmp_path / "w.h5"
    write_keras(random_model, path, graph=graph, root=root)
    again = read_checkpoint(path)
    assert again.config == random_model.config
    for key, value in random_model.state_dict().items():
        if "tracked" not in key:
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0, msg=key)


def test_files_of_something_else_are_not_recognised(tmp_path):
    text, other, empty = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.h5"
    text.write_text("no HDF5")
    empty.write_bytes(b"")
    with h5py.File(other, "w") as f:
        f["images"] = np.zeros((2, 3))
    for path in (text, other, empty, tmp_path):
        assert not recognise(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_model(other)
    for path in (text, other):
        with pytest.raises(InputError, match=path.name):
            load_model(path, "paired_cell_inpainting")


def test_a_file_with_a_layer_missing_or_of_another_shape_is_refused(random_model, tmp_path):
    path = tmp_path / "w.h5"
    write_keras(random_model, path)
    with h5py.File(path, "a") as f:
        del f["model_weights/conv7_1/conv7_1/kernel:0"]
    with pytest.raises(InputError, match="conv7_1"):
        load_model(path)
    with h5py.File(path, "a") as f:
        f["model_weights/conv7_1/conv7_1/kernel:0"] = np.zeros((3, 3, 32, 5), np.float32)
    with pytest.raises(InputError, match=r"conv7_1.*shape"):
        load_model(path)


def test_a_file_with_nan_weights_is_refused(random_model, tmp_path):
    random_model.conv3_1.weight.data[0, 0] = torch.nan
    write_keras(random_model, tmp_path / "w.h5")
    with pytest.raises(InputError, match="NaN"):
        load_model(tmp_path / "w.h5")


# ---- scaling ----------------------------------------------------------------------------------------


def test_yeast_scaling_is_per_crop_and_channel():
    x = torch.tensor([[[[2, 4], [6, 10]], [[5, 5], [5, 5]]]], dtype=torch.uint8)
    found = Model(TINY).preprocess(x)
    assert found.tolist() == [[[[0, 0.25], [0.5, 1.0]], [[0, 0], [0, 0]]]]


def test_one_scale_for_all_channels_keeps_their_proportions_whatever_the_exposure():
    model = Model(Config(width=0.125, recipe="together"))
    x = torch.tensor([[[[2, 4], [6, 10]], [[5, 9], [5, 5]]], [[[1, 1], [1, 1]], [[7, 7], [7, 7]]]])
    found = model.preprocess(x)
    assert found[0].tolist() == [[[0, 0.25], [0.5, 1.0]], [[0, 0.5], [0, 0]]]
    assert not found[1].any()  # nothing varies
    torch.testing.assert_close(model.preprocess(x * 100 + 7), found)


def test_human_scaling_is_fixed_for_structure_and_knows_the_pixel_type():
    model = Model(Config(width=0.125, recipe="human"))
    fraction = np.array([0.0, 0.05, 0.525, 1.0])
    for dtype, full in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
        crop = np.broadcast_to((fraction * full).astype(dtype)[:, None], (1, 2, 4, 4))
        structure = model.preprocess(torch.from_numpy(crop.copy()))[0, 1, :, 0]
        np.testing.assert_allclose(structure, [0, 0, 0.5, 1], atol=0.005)
    twelve_bit = Model(Config(width=0.125, recipe="human", full_scale=4095))
    crop = np.broadcast_to((fraction * 4095).astype("uint16")[:, None], (1, 2, 4, 4))
    np.testing.assert_allclose(
        twelve_bit.preprocess(torch.from_numpy(crop.copy()))[0, 1, :, 0], [0, 0, 0.5, 1], atol=0.001
    )


def test_human_scaling_refuses_floats_beyond_one():
    with pytest.raises(InputError, match="full_scale"):
        Model(Config(width=0.125, recipe="human")).preprocess(torch.full((1, 2, 8, 8), 300.0))


def test_several_proteins_and_structures(cells):
    model = create_model("paired_cell_inpainting", n_protein=2, n_structure=3, width=0.125)
    assert model.roles == ("protein",) * 2 + ("structure",) * 3
    crops = torch.from_numpy(cells.array[:4][:, [0, 1, 0, 1, 1]])
    x = model.preprocess(crops)
    with torch.inference_mode():
        assert model.inpaint(x, x.flip(0)[:, 2:]).shape == (4, 2, 64, 64)
        assert torch.isfinite(model.losses({"source": x, "target": x.flip(0)})["loss"])


# ---- the network ------------------------------------------------------------------------------------


def test_a_tap_runs_nothing_deeper_than_itself(cells):
    model = create_model("paired_cell_inpainting", width=0.125)
    ran: list[str] = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = model.preprocess(torch.from_numpy(cells.array[:2]))
    model.embed_layers(x, ["conv3_1", "conv1_1"])
    assert ran == ["conv1_1", "bn_conv1_1", "conv2_1", "bn_conv2_1", "conv3_1"]


def test_the_prediction_depends_on_both_cells_and_not_on_the_targets_protein(cells):
    torch.manual_seed(0)
    model = create_model("paired_cell_inpainting", width=0.125)
    x = model.preprocess(torch.from_numpy(cells.array[[0, 30, 60]]))
    with torch.inference_mode():
        first = model.inpaint(x[:1], x[1:2, 1:])
        assert not torch.allclose(first, model.inpaint(x[:1], x[2:, 1:]))
        assert not torch.allclose(first, model.inpaint(x[2:], x[1:2, 1:]))
        loss = model.losses({"source": x[:1], "target": x[1:2]})["loss"]
        assert loss == pytest.approx(float(((first - x[1:2, :1]) ** 2).mean()))


def test_sizes_it_cannot_take_are_refused():
    model = create_model("paired_cell_inpainting", width=0.125)
    assert model.embed(torch.zeros(1, 2, 50, 70)).shape == (1, 48)
    with pytest.raises(InputError, match="multiple of 4"):
        model.inpaint(torch.zeros(1, 2, 50, 50), torch.zeros(1, 1, 50, 50))
    with pytest.raises(InputError, match="structure channel"):
        model.inpaint(torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64))
    with pytest.raises(InputError, match="at least 4 px"):
        model.embed(torch.zeros(1, 2, 3, 3))


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return create_model("paired_cell_inpainting", width=0.125).conv4_1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_flips_are_independent_mirrors_from_the_generator():
    x = torch.arange(64 * 2 * 3 * 3, dtype=torch.float32).reshape(64, 2, 3, 3)
    found = random_flips(x, torch.Generator().manual_seed(0))
    assert torch.equal(found, random_flips(x, torch.Generator().manual_seed(0)))
    kinds = [x, x.flip(-1), x.flip(-2), x.flip(-1, -2)]
    counts = [sum(torch.equal(found[i], k[i]) for i in range(64)) for k in kinds]
    assert sum(counts) == 64
    assert min(counts) >= 6  # 16 expected of each; below 6 has a probability of 0.001
    model = Model(TINY)
    batch = {"source": x, "target": x}
    both = model.augment(batch, Training(), torch.Generator().manual_seed(0))
    assert not torch.equal(both["source"], both["target"])
    assert torch.equal(model.augment(batch, Training(flips=False), torch.Generator())["source"], x)


def test_the_preset_for_few_cells_shows_them_in_eight_ways_and_leaves_what_is_predicted():
    spec = registry.load("models", "paired_cell_inpainting").SPEC
    preset = next(p for p in spec.presets if p.name == "small").values
    ours = make_config(Training, dict(preset))
    paper = Training()
    assert all((ours.transpose, ours.gamma, ours.noise))
    assert not any((paper.transpose, paper.gamma, paper.noise))

    model = Model(TINY)
    x = torch.rand(64, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    x[0, 0] = 0

    def made(training: Training) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return model.augment({"source": x.clone(), "target": x.clone()}, training, generator)

    turned = made(dataclasses.replace(paper, transpose=True))
    for found in turned.values():
        ways = [y.flip(dims) for y in (x, x.transpose(-2, -1)) for dims in ((), (-1,), (-2,), (-2, -1))]
        counts = [sum(torch.equal(found[i], way[i]) for i in range(1, 64)) for way in ways]
        assert sum(counts) == 63
        assert min(counts) >= 1

    varied = made(ours)
    assert all(torch.isfinite(y).all() for y in varied.values())
    assert torch.equal(varied["target"][:, :1], turned["target"][:, :1])  # what has to be predicted
    seen = varied["target"][:, 1:], turned["target"][:, 1:]
    power = (seen[0].log() / seen[1].log()).flatten(1)
    torch.testing.assert_close(power, power[:, :1].expand_as(power), rtol=1e-3, atol=1e-3)
    assert 1 / 1.5 - 1e-3 <= power.min() < power.max() <= 1.5 + 1e-3
    assert power[:, 0].std() > 0.1
    quiet = made(dataclasses.replace(ours, noise=0.0))["source"]
    assert torch.equal(varied["source"][:, 1:], quiet[:, 1:])  # noise is on the protein alone
    sd = (varied["source"] - quiet)[:, 0].flatten(1).std(dim=1)
    assert 0 < sd.min() < 0.04 < 0.06 < sd.max() < 0.15


def test_settings_out_of_bounds_are_refused():
    for wrong in (Config(width=0.0), Config(recipe="hela"), Config(n_protein=0)):
        with pytest.raises(InputError):
            check_config(wrong)
    check_config(Training())
