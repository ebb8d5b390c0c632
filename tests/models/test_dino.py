from __future__ import annotations

import argparse
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_cellrep.models import create_model, load_model, save_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models.dino import (
    CELL_PAINTING,
    HPA,
    TINY,
    WTC11,
    Config,
    Model,
    read_checkpoint,
    recognise,
    resize_corners,
)
from napari_cellrep.specs import InputError

# The golden vectors' README allows 1e-4; an independent torch network was within 5e-6, other CPUs sum in other orders.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SCALED = {"rtol": 0, "atol": 1e-6}  # pure preprocessing


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def golden(shared) -> Path:
    return shared / "golden"


@pytest.fixture
def authors(golden) -> Model:
    """The authors' network of width 48 with its procedural weights, from their checkpoint."""
    return load_model(golden / "dino_tiny_checkpoint.pth")


def parts(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    with np.load(path) as z:
        return {k.removeprefix(prefix): z[k] for k in z if k.startswith(prefix)}


# ---- parity with the authors' code ------------------------------------------------------------------


@pytest.mark.parametrize("tag", ["native64", "up96", "down32", "rect48x80", "odd61x75"])
def test_golden_features(authors, golden, tag):
    z = parts(golden / "dino_tiny_features.npz", f"{tag}/")
    h, w = z["u8"].shape[2:]
    grid = (h // 8, w // 8)  # floor: 61 × 75 px are 7 × 9 patches
    x = authors.preprocess(torch.from_numpy(z["u8"]))
    np.testing.assert_allclose(x, z["x"], **SCALED)
    np.testing.assert_allclose(authors.positions(grid, h == w), z["pos"], **SCALED)
    np.testing.assert_allclose(authors.embed(x), z["cls"], **CLOSE)
    np.testing.assert_allclose(authors.tokens(x), z["tokens_last"], **CLOSE)
    np.testing.assert_allclose(authors.tokens(x, -2), z["tokens_prev_normed"], **CLOSE)
    maps = authors.attention(x)
    assert maps.shape == (2, 3, *grid)
    np.testing.assert_allclose(maps.flatten(2), z["attn"][:, :, 1:], **CLOSE)
    patches = z["tokens_last"][:, 1:].transpose(0, 2, 1).reshape(2, 48, *grid)
    np.testing.assert_allclose(authors.patch_tokens(x), patches, **CLOSE)
    np.testing.assert_allclose(authors.embed(x, "patch_mean"), z["tokens_last"][:, 1:].mean(axis=1), **CLOSE)


@pytest.mark.parametrize("tag", ["dense64", "dense61x75"])
def test_golden_dense_keys_and_tokens(authors, golden, tag):
    z = parts(golden / "dino_tiny_dense_and_16bit.npz", f"{tag}/")
    grid = tuple(z["grid"])
    x = authors.preprocess(torch.from_numpy(z["u8"][None]))
    np.testing.assert_allclose(
        authors.dense_keys(x, 4), z["key"][0].transpose(0, 2, 1).reshape(1, 48, *grid), **CLOSE
    )
    normed = authors.norm(torch.from_numpy(z["token"][0])).transpose(1, 2).reshape(1, 48, *grid)
    np.testing.assert_allclose(authors.patch_tokens(x, 4), normed, **CLOSE)


def test_golden_16_bit(authors, golden):
    z = parts(golden / "dino_tiny_dense_and_16bit.npz", "pipe16/")
    crops = torch.from_numpy(z["u16"][None])
    np.testing.assert_allclose(authors.embed(authors.preprocess(crops)), z["cls_direct_float"], **CLOSE)
    authors.config = replace(authors.config, eight_bit=True)
    x = authors.preprocess(crops)
    np.testing.assert_allclose(x, z["x"], **SCALED)
    np.testing.assert_allclose(authors.embed(x), z["cls"], **CLOSE)
    np.testing.assert_allclose(authors.preprocess(torch.from_numpy(z["u8"][None])), z["x"], **SCALED)
    assert np.abs(z["cls"] - z["cls_direct_float"]).max() > 0.01  # the two paths do differ


def test_golden_resize(golden):
    z = parts(golden / "dino_augmentations.npz", "fa/")
    for given, side_px, wanted in (
        ("in_u8", 112, "out112"),
        ("in_u8", 30, "out30"),
        ("rect_in_u8", 64, "rect_out64"),
    ):
        found = resize_corners(torch.from_numpy(z[given])[None] / 255, side_px)[0]
        np.testing.assert_allclose(found, z[wanted], rtol=0, atol=5e-6, err_msg=wanted)


def test_golden_self_normalisation(authors, golden):
    z = parts(golden / "dino_augmentations.npz")
    image = torch.from_numpy(z["img_u8"][None])
    np.testing.assert_allclose(authors.preprocess(image)[0], z["selfnorm/out"], **SCALED)
    gone = (np.abs(z["selfnorm/zero_channel_out"]).max(axis=(1, 2)) == 0).nonzero()[0]
    assert len(gone) == 1
    image[0, gone[0]] = 0
    np.testing.assert_allclose(authors.preprocess(image)[0], z["selfnorm/zero_channel_out"], **SCALED)


# models.md §3.1: size → patch → parameters for 3, 4 and 5 channels
PARAMETERS = {
    "tiny": {16: (5_524_416, 5_573_568, 5_622_720), 8: (5_526_720, 5_539_008, 5_551_296)},
    "small": {16: (21_665_664, 21_763_968, 21_862_272), 8: (21_670_272, 21_694_848, 21_719_424)},
    "base": {16: (85_798_656, 85_995_264, 86_191_872), 8: (85_807_872, 85_857_024, 85_906_176)},
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_full_width_has_the_published_tensors(size):
    with torch.device("meta"):  # shapes without numbers
        for patch, published in PARAMETERS[size].items():
            for channels, n in zip((WTC11, HPA, CELL_PAINTING), published, strict=True):
                model = Model(Config(size=size, patch_px=patch, channels=channels))
                assert sum(p.numel() for p in model.parameters()) == n
                assert len(model.state_dict()) == 150
                assert model.dim() == {"tiny": 192, "small": 384, "base": 768}[size]
        assert Model(Config(patch_px=8)).pos_embed.shape[1] == 785
        assert Model(Config(image_px=128)).pos_embed.shape[1] == 65


# ---- scaling ----------------------------------------------------------------------------------------


def test_a_constant_channel_is_zero_and_scale_does_not_matter():
    model = Model(TINY).eval()
    crops = torch.randint(0, 255, (2, 4, 32, 32), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        same = crops.to(dtype)
        same[:, 1] = 7
        x = model.preprocess(same)
        assert (x[:, 1] == 0).all()
        np.testing.assert_allclose(
            x[:, 0], model.preprocess(same.float() * 200 + 50)[:, 0], rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(x[:, 0].std(dim=(1, 2), correction=0), 1, rtol=1e-5)


def test_pixels_that_are_not_numbers_stay_so():
    for config in (TINY, replace(TINY, eight_bit=True)):
        crops = np.random.default_rng(0).random((3, 4, 32, 32), dtype=np.float32)
        crops[1, 2, 5, 5] = np.nan
        found = Embedder(Model(config), device="cpu", precision="fp32").run(crops)["cls"]
        assert np.isfinite(found).all(axis=1).tolist() == [True, False, True]


def test_cell_painting_is_resized_first():
    model = Model(replace(TINY, channels=CELL_PAINTING, resize_px=48)).eval()
    crops = torch.randint(
        0, 255, (1, 5, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = model.preprocess(crops)
    assert x.shape == (1, 5, 48, 48)
    assert x.mean().abs() < 1e-5  # scaled after it was resized
    assert model.attention(x).shape == (1, 3, 6, 6)


# ---- the network ------------------------------------------------------------------------------------


def test_attention_is_free_and_sums_to_what_the_class_token_leaves(cells):
    model = Model(replace(TINY, channels=("protein", "nucleus"))).eval()
    x = model.preprocess(torch.from_numpy(cells.array[:4]))
    vectors, maps = model.embed_and_attend(x)
    assert torch.equal(vectors, model.embed(x))
    assert torch.equal(maps, model.attention(x))
    total = maps.sum(dim=(2, 3))
    assert ((total > 0) & (total < 1)).all()
    np.testing.assert_allclose(model.tokens(x)[:, 0], vectors, **CLOSE)


def test_the_last_block_asks_only_for_the_class_token(cells):
    model = Model(replace(TINY, channels=("protein", "nucleus"))).eval()
    rows = []
    model.blocks[-1].mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    model.embed(model.preprocess(torch.from_numpy(cells.array[:1])))
    assert rows == [1]


def test_positions_are_sampled_with_the_authors_factor():
    torch.manual_seed(0)
    model = Model(TINY)  # 4 × 4 patches
    model.pos_embed.copy_(torch.randn(model.pos_embed.shape))
    assert torch.equal(model.positions((4, 4), True), model.pos_embed)
    for h in range(1, 70):
        for w in (1, 4, 29, 46):
            assert model.positions((h, w), False).shape == (1, 1 + h * w, 48)
    by_size = F.interpolate(model.pos_embed[:, 1:].mT.unflatten(2, (4, 4)), size=(6, 6), mode="bicubic")
    assert (model.positions((6, 6), True)[:, 1:] - by_size.flatten(2).mT).abs().max() > 0.01
    assert not torch.equal(model.positions((4, 4), False), model.pos_embed)  # 33 × 32 px: interpolated too


def test_sizes_it_cannot_take_are_refused():
    model = Model(TINY).eval()
    assert model.embed(torch.zeros(1, 4, 8, 13)).shape == (1, 48)
    with pytest.raises(InputError, match="at least one patch of 8 px"):
        model.embed(torch.zeros(1, 4, 7, 32))
    with pytest.raises(InputError, match="wants 4 channels"):
        model.embed(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="stride"):
        model.dense_keys(torch.zeros(1, 4, 32, 32), -1)
    with pytest.raises(InputError, match="no block 2"):
        model.tokens(torch.zeros(1, 4, 32, 32), 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"channels": ()}, "one channel"), ({"heads": 5}, "heads"), ({"patch_px": 33}, "patch")],
)
def test_settings_that_do_not_fit_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Model(replace(TINY, **wrong))


def test_half_precision_gives_nearly_the_same(cells):
    torch.manual_seed(0)
    model = Model(replace(TINY, channels=("protein", "nucleus"))).eval()
    found = [Embedder(model, model.layers, "cpu", p).run(cells.array[:5]) for p in ("fp32", "bf16")]
    for layer in model.layers:
        np.testing.assert_allclose(found[1][layer], found[0][layer], atol=0.1)


# ---- each channel as a photograph -------------------------------------------------------------------


def test_each_channel_goes_by_itself_and_vectors_are_joined(cells, tmp_path):
    torch.manual_seed(0)
    model = Model(replace(TINY, channels=("protein", "nucleus"), as_rgb=True)).eval()
    colour = Model(replace(TINY, channels=WTC11)).eval()
    colour.load_state_dict(model.state_dict())
    x = model.preprocess(torch.from_numpy(cells.array[:4]))
    assert model.dim() == 96
    for i, part in enumerate(model.embed(x).split(48, dim=1)):
        grey = x[:, i : i + 1].repeat(1, 3, 1, 1)
        np.testing.assert_allclose(part, colour.embed(grey), **CLOSE)
        np.testing.assert_allclose(model.attention(x)[:, 3 * i : 3 * i + 3], colour.attention(grey), **CLOSE)
        np.testing.assert_allclose(
            model.dense_keys(x)[:, 48 * i : 48 * i + 48], colour.dense_keys(grey), **CLOSE
        )
    model.roles = ("protein", "nucleus", "er")  # as a step does: the weights are for any number of channels
    save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.dim() == 144
    assert again.embed(torch.zeros(1, 3, 32, 32)).shape == (1, 144)


# ---- files ------------------------------------------------------------------------------------------


def make_checkpoint(model: Model, arch: str = "vit_tiny") -> dict:
    """A training checkpoint as the authors' code leaves it after a step: numpy numbers in the optimizer."""
    state = model.state_dict()
    rate = np.float64(5e-4)
    return {
        "student": {f"module.backbone.{k}": torch.zeros_like(v) for k, v in state.items()},
        "teacher": {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}},
            "param_groups": [{"lr": rate, "betas": (0.9, 0.999)}],
        },
        "epoch": 1,
        "args": argparse.Namespace(arch=arch, lr=rate, momentum=np.float32(0.9), seed=np.int64(0)),
        "dino_loss": {"center": torch.zeros(1, 64)},
        "fp16_scaler": None,
    }


@pytest.fixture
def tiny() -> Model:
    torch.manual_seed(0)
    return Model(TINY).eval()


def assert_same(a: Model, b: Model) -> None:
    x = torch.randn(2, len(b.roles), 32, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(a.embed(x), b.embed(x))


def test_golden_checkpoint_is_recognised_and_configured(authors, golden):
    assert recognise(golden / "dino_tiny_checkpoint.pth")
    assert authors.config == Config(patch_px=8, image_px=64, dim=48, depth=3, heads=3)
    assert authors.roles == HPA
    others = [p for p in golden.iterdir() if not p.name.startswith("dino_tiny_checkpoint")]
    assert len(others) > 10
    assert not any(recognise(p) for p in others)


def test_a_checkpoint_with_numpy_numbers_is_read(tiny, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(make_checkpoint(tiny), path)
    with pytest.raises(Exception, match="Weights only"):  # it does hold what torch refuses by itself
        torch.load(path, weights_only=True)
    assert recognise(path)
    assert_same(load_model(path), tiny)


def test_a_checkpoint_of_old_numpy_and_old_torch_is_read(tiny, tmp_path):
    """Numpy 1 wrote numpy.core.multiarray, torch before 1.6 wrote no zip files."""
    path, old = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save(make_checkpoint(tiny), path)
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(old, "w") as b:
        for item in a.infolist():
            data = a.read(item)
            if item.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            b.writestr(item.filename, data)
    assert_same(load_model(old), tiny)
    torch.save(make_checkpoint(tiny), old, _use_new_zipfile_serialization=False)
    assert recognise(old)
    assert_same(load_model(old), tiny)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_a_bare_backbone_is_read(prefix, tmp_path):
    torch.manual_seed(0)
    model = Model(replace(TINY, dim=64, heads=1)).eval()  # dim / 64 where the file does not say
    path = tmp_path / "bare.pth"
    torch.save({prefix + k: v.half().float() for k, v in model.state_dict().items()}, path)
    again = load_model(path)
    assert again.config == replace(TINY, dim=64, heads=1)
    model.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    assert_same(again, model)


@pytest.mark.parametrize(
    ("channels", "training", "wanted"),
    [
        (WTC11, True, WTC11),
        (HPA, True, HPA),
        (CELL_PAINTING, True, CELL_PAINTING),
        (("protein",), True, ("other",)),
        (WTC11, False, HPA),
    ],
)
def test_channels_and_crop_follow_from_the_number_of_inputs(channels, training, wanted, tmp_path):
    config = replace(TINY, channels=channels, patch_px=16, dim=192, heads=3, depth=12)
    model = Model(config)
    path = tmp_path / "x.pth"
    torch.save(make_checkpoint(model) if training else model.state_dict(), path)
    again = load_model(path)
    assert again.roles == again.crop.channels == wanted
    assert again.config.size == "tiny"
    assert again.config.dim == 0
    assert again.config.as_rgb == (not training)
    side_px = {HPA: 512, CELL_PAINTING: 160}.get(wanted, 32) if training else 32
    assert again.crop.size_px == side_px
    assert again.crop.masked == (training and wanted == HPA)
    assert again.config.resize_px == (224 if wanted == CELL_PAINTING else 0)


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_in_it_is_refused_and_not_run(tiny, tmp_path, zipped):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save(make_checkpoint(tiny) | {"extra": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    assert recognise(path)
    with pytest.raises(InputError, match="could run code"):
        load_model(path)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_broken_file_is_refused_in_words(tiny, tmp_path, zipped):
    path = tmp_path / "cut.pth"
    torch.save(make_checkpoint(tiny), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for n in (0, 1, 2, 100, 3000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:n])
        recognise(path)
        with pytest.raises(InputError):
            load_model(path, "dino")
    rng = np.random.default_rng(0)
    for _ in range(20):  # bytes changed at random: read, or refused in words, never anything else
        bad = np.frombuffer(whole, np.uint8).copy()
        bad[rng.integers(0, 20_000, 5)] = rng.integers(0, 256, 5)
        path.write_bytes(bad.tobytes())
        recognise(path)
        try:
            load_model(path, "dino")
        except InputError:
            pass


def test_other_files_are_not_recognised(tiny, tmp_path, cells):
    assert not recognise(tmp_path)
    assert not recognise(tmp_path / "nothing")
    np.save(tmp_path / "x.npy", cells.array[:1])
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    torch.save(tiny.state_dict() | {"blocks.0.ls1.gamma": torch.ones(48)}, tmp_path / "dinov2.pth")
    save_model(create_model("paired_cell_inpainting", width=0.125), tmp_path / "m")
    for path in (
        tmp_path / "x.npy",
        tmp_path / "x.pth",
        tmp_path / "dinov2.pth",
        tmp_path / "m" / "weights.safetensors",
    ):
        assert not recognise(path)
        with pytest.raises(InputError):
            read_checkpoint(path)


def test_a_checkpoint_of_another_form_is_refused_in_words(tiny, tmp_path):
    path = tmp_path / "x.pth"

    def refused(held: object, said: str) -> None:
        torch.save(held, path)
        with pytest.raises(InputError, match=said):
            read_checkpoint(path)

    whole, state = make_checkpoint(tiny), tiny.state_dict()
    refused([1, 2], "no dictionary")
    refused({"teacher": 3}, "no dictionary")
    refused({k: v for k, v in whole.items() if k != "teacher"}, "no teacher")
    refused(whole | {"args": argparse.Namespace(arch="vit_huge"), "teacher": {}}, "lacks patch_embed")
    refused({k: v for k, v in state.items() if k != "norm.bias"}, "lacks norm.bias")
    refused(state | {"head.weight": torch.zeros(2, 48)}, "unknown tensor head.weight")
    refused(state | {"norm.bias": torch.zeros(3)}, "norm.bias of shape")
    refused(state | {"norm.bias": "text"}, "norm.bias is no tensor")
    refused(state | {"pos_embed": torch.zeros(1, 16, 48)}, "no square")
    refused(state | {"patch_embed.proj.weight": torch.zeros(48, 4, 1, 1)}, "cannot|can build")
    refused(state | {"patch_embed.proj.weight": torch.zeros(48, 4)}, "another form")
    torch.save(state | {"norm.bias": torch.full((48,), torch.nan)}, path)
    with pytest.raises(InputError, match="NaN"):
        load_model(path)
