from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from make_deeploc_v1 import shapes, values

from napari_cellrep.models import _tensorflow, create_model, load_model, save_model
from napari_cellrep.models.deeploc import CLASSES_2017, TINY, Config, Model, read_checkpoint, recognise
from napari_cellrep.specs import InputError, check_config

SMALL = {
    "deeploc2017": TINY,
    "representation": Config(network="representation", width=0.125, d1=20, d2=12),
}
PREFIX = {"deeploc2017": "deeploc_tiny_model.ckpt-7", "representation": "pifia_tiny_weights_i0"}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.fixture(params=list(PREFIX))
def network(request) -> str:
    return request.param


@pytest.fixture
def golden(network, shared) -> tuple[Path, dict[str, np.ndarray]]:
    """The authors' network of 1/16 or 1/8 width run in TensorFlow: the checkpoint's prefix, and vectors."""
    name = {"deeploc2017": "deeploc", "representation": "pifia"}[network]
    with np.load(shared / "golden" / f"{name}_tiny_golden.npz") as z:
        return shared / "golden" / PREFIX[network], dict(z)


# ---- parity with the authors' code ------------------------------------------------------------------


def test_golden_vectors(network, golden):
    path, z = golden
    model = load_model(path)
    names = {"deeploc2017": ("fc2", "fc1", "logits"), "representation": ("d2", "d1", "d3")}[network]
    with torch.inference_mode():
        found = model.embed_layers(nchw(z["x"]), model.layers)
        default = model.embed(nchw(z["x"]))
    # The README allows 1e-4; it measured 5e-7 and, for the representation network's vectors up to 20, 1e-5.
    for layer, key in zip(model.layers, names, strict=True):
        np.testing.assert_allclose(found[layer], z[key], rtol=1e-5, atol=1e-5, err_msg=layer)
    np.testing.assert_array_equal(default, found[model.layers[0]])


def test_golden_class_probabilities(network, golden):
    path, z = golden
    wanted = z["softmax"] if network == "deeploc2017" else torch.from_numpy(z["d3"]).softmax(1).numpy()
    with torch.inference_mode():
        found = load_model(path).classify(nchw(z["x"]))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", ["representation"], indirect=True)
def test_golden_scaling_of_the_representation_network(golden):
    path, z = golden
    crops = torch.from_numpy(z["u16"][:, None])
    model = load_model(path)
    np.testing.assert_allclose(model.preprocess(crops)[:, 0], z["x"][..., 0], rtol=0, atol=1e-6)
    masked = Model(Config(network="representation", width=0.125, recipe="min_max"))
    np.testing.assert_allclose(masked.preprocess(crops)[:, 0], z["minmax"], rtol=0, atol=1e-7)
    # Two channels standardised together: their means stay apart. The fixed scales between undo the min-max.
    joint = nchw(z["standardize_two_channel_joint"])
    assert abs(joint[0, 0].mean() - joint[0, 1].mean()) > 0.5
    raw = joint * torch.tensor([100.0, 7.0])[:, None, None] + 3
    both = Model(Config(network="representation", width=0.125, channels=2)).preprocess(raw)
    np.testing.assert_allclose(both, joint, rtol=0, atol=2e-6)


def test_golden_checkpoints_are_recognised_and_configured(network, golden):
    prefix, _ = golden
    files = [prefix, Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")]
    for path in files:
        assert recognise(path)
        model = load_model(path)
        if network == "deeploc2017":
            assert model.config == Config("deeploc2017", 2, 19, 1 / 16, 24, 24)
            assert model.roles == ("protein", "structure")
            assert model.card == {"classes": list(CLASSES_2017)}
        else:
            assert model.config == Config("representation", 1, 17, 1 / 8, 20, 12)
            assert model.roles == ("protein",)


def test_golden_survives_saving(golden, tmp_path):
    path, z = golden
    model = load_model(path)
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.card == model.card
    with torch.inference_mode():
        np.testing.assert_array_equal(again.classify(nchw(z["x"])), model.classify(nchw(z["x"])))


def test_full_width_has_the_published_number_of_parameters():
    with torch.device("meta"):  # counts need no numbers
        kraus = Model(Config())
        profile = Model(Config(network="representation"))
        pifia = Model(Config(network="representation", n_classes=4049, d1=128, d2=64))

    def n_buffers(model: Model) -> int:
        return sum(b.numel() for k, b in model.named_buffers() if "tracked" not in k)

    counts = [sum(p.numel() for p in model.parameters()) for model in (kraus, profile, pifia)]
    assert counts[0] == 10_991_417  # trained ones, 10.99 M
    assert counts[1] + n_buffers(profile) == 3_126_225  # Keras counts moving averages
    assert counts[2] + n_buffers(pifia) == 2_732_689
    assert [kraus.dim(k) for k in kraus.layers] == [512, 512, 19]
    assert [pifia.dim(k) for k in pifia.layers] == [64, 128, 4049]
    assert {m.eps for m in kraus.modules() if hasattr(m, "eps")} == {1e-3}
    assert {m.momentum for m in kraus.modules() if hasattr(m, "momentum")} == {0.5}
    assert {m.momentum for m in pifia.modules() if hasattr(m, "momentum")} == {0.01}


# ---- TensorFlow files -------------------------------------------------------------------------------


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: Mapping[bytes, bytes], compression: int = 0) -> bytes:
    """A table's block in which no key leans on the one before."""
    body = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in entries.items())
    body += (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes([compression])
    return body + _tensorflow._masked_crc32c(body).to_bytes(
        4, "little"
    )  # golden files check the checksum itself


def write_checkpoint(
    prefix: Path, variables: Mapping[str, np.ndarray], n_shards: int = 1, compression: int = 0
) -> None:
    """Write variables as TensorFlow does, dealt out to the data files in turn."""
    shards = [bytearray() for _ in range(n_shards)]
    entries = {b"": field(1, n_shards)}
    for i, (name, array) in enumerate(sorted(variables.items())):
        shard, data = shards[i % n_shards], array.tobytes()
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        dtype = {"float32": 1, "int64": 9}[str(array.dtype)]
        entries[name.encode()] = (
            field(1, dtype) + field(2, shape) + field(3, i % n_shards) + field(4, len(shard))
            + field(5, len(data)) + varint(6 << 3 | 5) + bytes(4)
        )  # fmt: skip
        shard += data
    for i, shard in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{n_shards:05d}").write_bytes(bytes(shard))
    first = block(entries, compression)
    handle = varint(0) + varint(len(first) - 5)
    index = block({b"\xff": handle})
    footer = varint(0) + varint(0) + varint(len(first)) + varint(len(index) - 5)
    magic = (0xDB4775248B80FB57).to_bytes(8, "little")
    prefix.with_name(f"{prefix.name}.index").write_bytes(first + index + footer.ljust(40, b"\0") + magic)


def tensorflow_variables(model: Model, old: bool = False) -> dict[str, np.ndarray]:
    """A model's tensors under the names and in the layouts of the authors' files."""
    moments = {
        "running_mean": "moments_1/mean" if old else "Squeeze",
        "running_var": "moments_1/variance" if old else "Squeeze_1",
    }
    keras = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    found = {}
    for key, tensor in model.state_dict().items():
        layer, part = key.removeprefix("bn_").split(".")
        array = tensor.numpy()
        if part == "num_batches_tracked":
            continue
        if model.config.network == "representation":
            name = f"{layer.replace('conv', 'bn')}/{keras[part]}{VALUE}"
            if not key.startswith("bn_"):
                name = f"{layer}/{'kernel' if part == 'weight' else 'bias'}{VALUE}"
        elif part in moments:
            name = f"{layer}_batch_norm/{layer}/batch_norm/{layer}_batch_norm/moments/{moments[part]}/ExponentialMovingAverage"
            # What else lies in a training checkpoint of these years.
            found[f"{name}/biased"] = found[f"{name}/local_step"] = np.zeros_like(array)
        elif key.startswith("bn_"):
            name = f"{layer}/batch_norm/{layer}_batch_norm/{keras[part]}"
        else:
            name = f"{layer}/{'weights' if part == 'weight' else 'biases'}/Variable"
            found[f"{name}/Adam"] = found[f"{name}/Adam_1"] = np.zeros_like(array)
        order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        found[name] = np.ascontiguousarray(array.transpose(order))
    return {**found, "Variable": np.array(7, np.int64), "beta1_power": np.float32([0.5])}


@pytest.fixture
def random_model(network) -> Model:
    torch.manual_seed(0)
    model = Model(SMALL[network])
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape) + (0.5 if key.endswith("var") else 0))
    return model.eval()


@pytest.mark.parametrize(("n_shards", "old"), [(1, True), (2, False), (3, True)])
def test_shards_and_spellings(random_model, tmp_path, n_shards, old):
    write_checkpoint(tmp_path / "model.ckpt-5000", tensorflow_variables(random_model, old), n_shards)
    again = load_model(tmp_path / "model.ckpt-5000")
    assert again.config.network == random_model.config.network
    for key, value in random_model.state_dict().items():
        if "tracked" not in key:
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0, msg=key)


def test_files_of_something_else_are_not_recognised(tmp_path):
    text, empty, missing = tmp_path / "a.index", tmp_path / "b.index", tmp_path / "c"
    text.write_text("no table " * 20)
    empty.write_bytes(b"")
    write_checkpoint(tmp_path / "other", {"dense/kernel": np.zeros((2, 3), np.float32)})
    for path in (text, empty, missing, tmp_path, tmp_path / "other", tmp_path / "other.index"):
        assert not recognise(path)
    with pytest.raises(InputError, match="not a checkpoint"):
        load_model(tmp_path / "other")
    with pytest.raises(InputError, match="another network"):
        load_model(tmp_path / "other", "deeploc")
    with pytest.raises(InputError, match="truncated"):
        load_model(text, "deeploc")
    with pytest.raises(InputError, match=r"no \.index file"):
        read_checkpoint(missing)
    (tmp_path / "other.index").rename(tmp_path / "model.ckpt-5000")  # a table by itself: the older format
    assert not recognise(tmp_path / "model.ckpt-5000")
    with pytest.raises(InputError, match="format V1"):
        load_model(tmp_path / "model.ckpt-5000", "deeploc")


def test_the_old_format_in_one_file(tmp_path):
    """A file that TensorFlow wrote in format V1, with values that follow from the variables' names."""
    path = Path(__file__).with_name("deeploc_v1.ckpt")
    assert recognise(path)
    model = load_model(path)
    assert model.config.network == "deeploc2017"
    assert model.n_classes == 19
    mine = tensorflow_variables(model, old=True)
    for name, shape in shapes().items():
        if "Adam" not in name and name in mine and mine[name].shape == shape:
            np.testing.assert_array_equal(mine[name], values(name, shape), err_msg=name)
    compared = [name for name in shapes() if name in mine and name.split("/")[0] != "beta1_power"]
    assert len(compared) == 11 * 6 + 1  # all of every layer, and Adam's slot that is not read
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good) - 48, 40):  # damaged anywhere: the same numbers, or a sentence
        bad = tmp_path / "bad.ckpt"
        bad.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            again = load_model(bad, "deeploc")
        except InputError:
            continue
        for key, value in model.state_dict().items():
            torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    bad.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"no file of format V1"):
        load_model(bad, "deeploc")


def test_a_damaged_index_is_refused_and_never_raises_otherwise(random_model, tmp_path):
    prefix = tmp_path / "w"
    write_checkpoint(prefix, tensorflow_variables(random_model))
    index = tmp_path / "w.index"
    good = index.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good) - 48, 30):
        index.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        assert not recognise(index)
        with pytest.raises(InputError, match=r"w\.index"):
            load_model(index, "deeploc")
    for end in (0, 20, len(good) // 2, len(good) - 1):
        index.write_bytes(good[:end])
        assert not recognise(index)
        with pytest.raises(InputError):
            load_model(index)
    write_checkpoint(prefix, tensorflow_variables(random_model), compression=1)
    with pytest.raises(InputError, match="compressed"):
        load_model(index, "deeploc")


def test_missing_and_truncated_data_files_are_refused(random_model, tmp_path):
    prefix = tmp_path / "w"
    write_checkpoint(prefix, tensorflow_variables(random_model), n_shards=2)
    second = tmp_path / "w.data-00001-of-00002"
    data = second.read_bytes()
    second.write_bytes(data[:-400])
    with pytest.raises(InputError, match="truncated"):
        load_model(prefix)
    second.unlink()
    with pytest.raises(InputError, match="00001-of-00002 is missing"):
        load_model(prefix)


def test_variables_missing_or_of_another_shape_or_not_numbers_are_refused(network, random_model, tmp_path):
    variables = tensorflow_variables(random_model)
    kernel = "conv_5/weights/Variable" if network == "deeploc2017" else f"conv5/kernel{VALUE}"
    for changed, words in (
        (None, "lacks the variable"),
        (variables[kernel][..., :5], r"shape.*is wanted"),
        (np.full_like(variables[kernel], np.nan), "NaN"),
    ):
        others = {k: v for k, v in variables.items() if k != kernel}
        if changed is not None:
            others[kernel] = changed
        write_checkpoint(tmp_path / "w", others)
        with pytest.raises(InputError, match=words):
            load_model(tmp_path / "w")


@pytest.mark.parametrize("network", ["deeploc2017"], indirect=True)
def test_a_lost_moving_average_is_not_guessed(random_model, tmp_path):
    variables = tensorflow_variables(random_model)
    gone = next(
        k for k in variables if k.startswith("fc_1_") and k.endswith("Squeeze/ExponentialMovingAverage")
    )
    del variables[gone]
    write_checkpoint(tmp_path / "w", variables)
    with pytest.raises(InputError, match="0 moving averages of fc_1's mean"):
        load_model(tmp_path / "w")


def test_a_prefix_needs_its_index(shared, tmp_path):
    for path in (shared / "golden").glob("deeploc_tiny_model*data*"):
        shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match="neither a file nor a model's name"):
        load_model(tmp_path / PREFIX["deeploc2017"])


# ---- scaling ----------------------------------------------------------------------------------------


def authors_scaling(crop: np.ndarray) -> np.ndarray:
    """models.md §2.1 in NumPy, for one channel."""
    low, high = np.percentile(crop, 0.1), np.percentile(crop, 99.9)
    x = np.minimum(crop, high) - low
    return x / (high - low) if high - low > 1 else x


@pytest.mark.parametrize("factor", [1.0, 37.0, 1 / 255])
def test_percentiles(cells, factor):
    """Counts are divided by their range; floats in [0, 1] are not: so the authors' code."""
    crops = cells.array[:12].astype(np.float32) * np.float32(factor)
    wanted = np.array([[authors_scaling(channel) for channel in crop] for crop in crops.astype(np.float64)])
    found = Model(TINY).preprocess(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.min() < 0  # what lies below the 0.1 percentile stays below 0
    always = Model(Config(width=1 / 16, d1=4, d2=4, recipe="percentiles_always"))
    counts = Model(TINY).preprocess(torch.from_numpy(cells.array[:12]))
    np.testing.assert_allclose(always.preprocess(torch.from_numpy(crops)), counts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", ["percentiles", "percentiles_always", "standardise", "min_max"])
def test_constant_channels_are_finite_under_every_recipe(recipe):
    model = Model(Config(width=1 / 16, d1=4, d2=4, recipe=recipe))
    for crops in (torch.full((2, 2, 64, 64), 0.3), torch.zeros((2, 2, 64, 64), dtype=torch.uint8)):
        assert (model.preprocess(crops) == 0).all()
        crops[:, 1, 10:20] = 200
        x = model.preprocess(crops)
        assert torch.isfinite(x).all()
        assert x.abs().max() > 0


# ---- the network ------------------------------------------------------------------------------------


def test_five_windows(cells):
    torch.manual_seed(0)
    model = create_model("deeploc", width=0.0625, d1=24, d2=24)
    x = model.preprocess(torch.from_numpy(cells.array[:4]))
    with torch.inference_mode():
        each = [
            model.classify(x[..., i : i + 60, j : j + 60])
            for i, j in ((2, 2), (0, 0), (0, 4), (4, 0), (4, 4))
        ]
        five = model.classify(x)
        np.testing.assert_allclose(five, torch.stack(each).mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(five.sum(1), 1, rtol=1e-5)
        assert (each[0] - each[1]).abs().max() > 1e-4
        np.testing.assert_array_equal(model.embed(x), model.embed(x[..., 2:62, 2:62]))
        one = Model(Config(width=0.0625, d1=24, d2=24, five_crops=False)).eval()
        one.load_state_dict(model.state_dict())
        np.testing.assert_allclose(one.classify(x), each[0], rtol=1e-5, atol=1e-7)


def test_any_number_of_channels_and_classes(network, cells):
    settings = {"network": network, "channels": 3, "n_classes": 5, "width": 0.0625, "d1": 8, "d2": 6}
    model = create_model("deeploc", **settings)
    assert model.roles == ("protein", "structure", "structure")
    with torch.inference_mode():
        x = model.preprocess(torch.from_numpy(cells.array[:3][:, [0, 1, 1]]))
        assert model.classify(x).shape == (3, 5)
        assert model.embed(x).shape == (3, 6)


def test_sizes_it_cannot_take_are_refused(network):
    model = Model(SMALL[network]).eval()
    n = len(model.roles)
    for h, w in ((59, 59), (64, 60), (65, 65), (8, 8)):
        with pytest.raises(InputError, match=f"{h} × {w} px"):
            model.embed(torch.zeros(1, n, h, w))
        with pytest.raises(InputError, match="square crops of 6"):
            model.classify(torch.zeros(1, n, h, w))
    assert model.classify(torch.zeros(0, n, 64, 64)).shape == (0, model.n_classes)


def test_first_weights(network):
    torch.manual_seed(1)
    model = Model(SMALL[network])
    weight, bias = model.get_submodule(model.layers[1]).weight, model.get_submodule(model.layers[1]).bias
    if network == "deeploc2017":
        assert weight.abs().max() <= 0.2
        assert weight.detach().std() == pytest.approx(
            0.088, abs=0.003
        )  # of a normal cut at two of its SD of 0.1
        assert (bias == 0.1).all()
    else:
        assert weight.abs().max() <= math.sqrt(6 / sum(weight.shape))
        assert (bias == 0).all()


def test_settings_out_of_bounds_are_refused():
    for wrong in (Config(network="resnet"), Config(width=0.0), Config(recipe="zscore"), Config(channels=-1)):
        with pytest.raises(InputError):
            check_config(wrong)
