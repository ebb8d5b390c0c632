from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.models import load_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models.microsnoop import (
    SPEC,
    TINY,
    Config,
    Model,
    cut_tiles,
    mask_patches,
    read_checkpoint,
    recognise,
)
from napari_cellrep.specs import CropSpec, InputError

CLOSE = {"rtol": 1e-4, "atol": 5e-4}  # the golden vectors' README
FILES = ("microsnoop_tiny_module_prefix.pth", "microsnoop_tiny_plain.pth")
BOTH = ("protein", "nucleus")


@pytest.fixture(scope="module")
def golden(shared) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "microsnoop_tiny_golden.npz") as z:
        return dict(z)


@pytest.fixture(params=FILES)
def published(request, shared):
    return shared / "golden" / request.param


@pytest.fixture
def model(shared) -> Model:
    """The authors' network of 1/8 width, for two channels."""
    model = read_checkpoint(shared / "golden" / FILES[1])
    model.set_channels(BOTH)
    return model


@pytest.fixture
def tiny() -> Model:
    torch.manual_seed(0)
    return Model(TINY).eval()


# ---- parity with the authors' code ------------------------------------------------------------------


def test_golden_preprocessing(model, golden):
    x = model.preprocess(torch.from_numpy(golden["A/u16"]))
    assert x.shape == (3, 2, 224, 224)
    images = x.reshape(6, 1, 224, 224)
    centre = images[:, :, 70:154, 70:154].numpy()
    np.testing.assert_allclose(centre, golden["A/net_input_center"], rtol=1e-6, atol=1e-6)
    three = [[float(i.min()), float(i.max()), float(i.mean())] for i in images]
    np.testing.assert_allclose(three, golden["A/net_input_minmaxmean"], rtol=1e-5, atol=1e-6)


def test_golden_embedding_from_either_file(published, golden):
    assert recognise(published)
    model = load_model(published)
    assert model.config == Config(width=0.125)
    model.set_channels(BOTH)
    with torch.inference_mode():
        x = model.preprocess(torch.from_numpy(golden["A/u16"]))
        found = model.embed(x)
        maps = model.encoder(x.reshape(6, 1, 224, 224))
        np.testing.assert_allclose(maps[3].mean(dim=(2, 3)), golden["A/gap_raw"], **CLOSE)
        for i, level in enumerate(maps):
            mean_max = torch.stack([level.mean(dim=(2, 3)), level.amax(dim=(2, 3))], dim=-1)
            np.testing.assert_allclose(mean_max, golden[f"A/enc_level{i}_mean_max"], **CLOSE)
    np.testing.assert_allclose(found, golden["A/embedding_concat"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reshape(6, 32), golden["A/embedding"], rtol=1e-4, atol=1e-5)


def test_golden_reconstruction(model, golden):
    with torch.inference_mode():
        found = model.reconstruct(model.preprocess(torch.from_numpy(golden["A/u16"])))
    assert found.shape == (3, 2, 224, 224)
    centre = found.reshape(6, 1, 224, 224)[:, :, 70:154, 70:154]
    np.testing.assert_allclose(centre, golden["A/recon_center"], **CLOSE)


def test_golden_rescaling(shared, golden):
    model = Model(Config(width=0.125, scaling="rescale")).eval()
    model.load_state_dict(read_checkpoint(shared / "golden" / FILES[0]).state_dict())
    x = model.preprocess(torch.from_numpy(golden["B/u16"][:, None]))
    np.testing.assert_allclose(x[:, :, ::4, ::4], golden["B/net_input_sub"], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_allclose(model.embed(x), golden["B/embedding"], rtol=1e-4, atol=1e-4)


def test_cell_region_of_a_field(model, golden):
    """Boxes of a field are the network's size: nothing is cut or moved before they are scaled."""
    labels = golden["C/labels"]
    spec = model.crop
    assert (spec.mode, spec.size_px, spec.box_scale, spec.channels) == ("box", 224, 2.0, BOTH)
    crops = cut_crops(golden["C/image"].transpose(2, 0, 1), labels, find_cells(labels), spec)
    found = Embedder(model, device="cpu", precision="fp32").run(crops)["level3"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.sqrt(2), rtol=1e-5)


def test_full_width_has_the_published_number_of_parameters():
    model = Model(Config())
    assert len(model.state_dict()) == 311
    assert sum(p.numel() for p in model.parameters()) == 6_600_453
    assert sum(p.numel() for p in model.encoder.parameters()) == 2_786_660
    assert model.dim() == 256
    assert Model(Config(channels=BOTH, width=0.125)).dim() == 64


# ---- scaling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_percentiles_are_numpys_of_the_padded_image(tiny, dtype):
    rng = np.random.default_rng(0)
    crop = (rng.gamma(2, 500, (2, 1, 101, 64))).astype(dtype)
    padded = np.zeros((2, 1, 224, 224), dtype)
    padded[:, :, 61:162, 80:144] = crop  # the odd row goes to the end
    low, high = np.percentile(padded, [1, 99], axis=(2, 3), keepdims=True)
    want = (padded - low) / (high - low)
    np.testing.assert_allclose(tiny.preprocess(torch.from_numpy(crop)), want, rtol=1e-6, atol=1e-6)
    assert want.max() > 1.5  # not clipped


def test_flat_and_nearly_flat_channels(tiny):
    flat = torch.full((1, 1, 224, 224), 7, dtype=torch.uint8)
    assert (tiny.preprocess(flat) == 7).all()
    assert (tiny.preprocess(torch.zeros((1, 1, 64, 64))) == 0).all()
    small = torch.full((1, 1, 6, 6), 3.0)  # under 1 % of the padded image: both percentiles are 0
    assert tiny.preprocess(small).amax() == pytest.approx(3e6)
    for crops in (flat, small):
        assert torch.isfinite(tiny.embed(tiny.preprocess(crops))).all()


def test_a_feature_map_of_zeros_gives_zeros(tiny):
    for value in tiny.encoder.state_dict().values():
        value.zero_()
    found = tiny.embed(torch.ones((1, 1, 224, 224)))
    assert (found == 0).all()


def test_pixels_that_are_not_numbers_are_flagged(tiny):
    crops = np.ones((2, 1, 32, 32), np.float32)
    crops[0, 0, 3, 3] = np.nan
    engine = Embedder(tiny, device="cpu", precision="fp32")
    found = engine.run(crops)["level3"]
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert "1 of 2 cells" in engine.notes[0]


# ---- channels, tiles, masks -------------------------------------------------------------------------


def test_channels_are_seen_each_by_itself_and_joined(tiny, cells):
    crops = torch.from_numpy(cells.array[:3])
    single = [tiny.embed(tiny.preprocess(crops[:, i : i + 1])) for i in range(2)]
    joined = {"concat": torch.cat(single, 1), "mean": sum(single) / 2, "sum": sum(single)}
    for mode, want in joined.items():
        model = Model(Config(width=0.125, channels=BOTH, channel_mode=mode)).eval()
        model.load_state_dict(tiny.state_dict())
        assert model.roles == model.crop.channels == BOTH
        with torch.inference_mode():
            found = model.embed_layers(model.preprocess(crops), model.layers)
        assert {k: v.shape[1] for k, v in found.items()} == {k: model.dim(k) for k in model.layers}
        torch.testing.assert_close(found["level3"], want, rtol=1e-5, atol=1e-6)


def test_a_field_is_the_mean_of_its_tiles(tiny):
    image = np.random.default_rng(0).integers(0, 4000, (1, 300, 200)).astype(np.uint16)
    tiles = cut_tiles(image)
    assert tiles.shape == (2, 1, 224, 200)
    np.testing.assert_array_equal(tiles[0], image[:, :224])
    np.testing.assert_array_equal(tiles[1], image[:, 76:])
    with torch.inference_mode():
        want = tiny.embed(tiny.preprocess(torch.from_numpy(tiles)))
    np.testing.assert_allclose(tiny.embed_field(image), want.mean(0), rtol=1e-5, atol=1e-6)
    one = tiny.embed_field(image, tile_rate=0.5, seed=1)
    assert min(np.abs(one - w).max() for w in want.numpy()) < 1e-6
    assert cut_tiles(np.zeros((2, 500, 700))).shape == (3 * 4, 2, 224, 224)
    for wrong in (lambda: tiny.embed_field(image, tile_rate=0), lambda: cut_tiles(image[0])):
        with pytest.raises(InputError):
            wrong()


def test_masks_hide_a_quarter_of_the_patches():
    x = torch.zeros((3, 2, 224, 224))
    mask = mask_patches(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask, mask_patches(x, generator=torch.Generator().manual_seed(0)))
    patches = mask.reshape(6, 14, 16, 14, 16).float().mean(dim=(2, 4))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert patches.sum(dim=(1, 2)).tolist() == [147] * 6
    assert not torch.equal(patches[0], patches[1])
    for wrong in (lambda: mask_patches(x, 1.5), lambda: mask_patches(x[..., :100])):
        with pytest.raises(InputError):
            wrong()


def test_what_is_hidden_is_not_seen(tiny):
    x = torch.rand((1, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    mask = mask_patches(x, generator=torch.Generator().manual_seed(0))
    other = torch.where(mask, x, 9.0)
    assert torch.equal(tiny.reconstruct(x, mask), tiny.reconstruct(other, mask))
    assert not torch.equal(tiny.reconstruct(x), tiny.reconstruct(other))
    with pytest.raises(InputError, match="mask has shape"):
        tiny.reconstruct(x, mask[..., :32])


# ---- refusals ---------------------------------------------------------------------------------------


def test_crops_that_cannot_be_used_are_refused(tiny):
    with pytest.raises(InputError, match="at most 224 px"):
        tiny.preprocess(torch.zeros((1, 1, 225, 20)))
    with pytest.raises(InputError, match="empty"):
        tiny.preprocess(torch.zeros((1, 1, 0, 20)))
    with pytest.raises(InputError, match="multiples of 8"):
        tiny.embed(torch.zeros((1, 1, 60, 64)))
    with pytest.raises(InputError, match="at least one channel"):
        Model(Config(channels=()))


def test_the_licence_says_what_is_not_allowed():
    for text in (SPEC.licence, *(w.licence for w in SPEC.weights)):
        assert all(word in text for word in ("Non-commercial", "authorisation", "CNIPA 202310155113.8"))


class _Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_files_that_cannot_be_used_are_refused_in_words(tiny, tmp_path, capsys):
    state = tiny.state_dict()
    path = tmp_path / "w.pth"

    def refused(content, match: str, recognised: bool = True) -> None:
        torch.save(content, path)
        assert recognise(path) == recognised
        with pytest.raises(InputError, match=match):
            load_model(path, "microsnoop")

    torch.save({"model": state}, path)
    assert torch.equal(read_checkpoint(path).decoder.base_conv.weight, tiny.decoder.base_conv.weight)
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    assert recognise(path)
    assert load_model(path).config == TINY
    refused({"model": state, "optimizer": _Evil()}, "run code")
    assert "code ran" not in capsys.readouterr().out
    refused(state, "under the name model")
    refused({"model": {"encoder.x": 1}}, "under the name model", False)
    refused({"model": {"a": torch.zeros(1)}}, "not a Microsnoop file", False)
    refused([1, 2], "not a Microsnoop file", False)
    refused({"model": {k: v for k, v in state.items() if "base_conv" not in k}}, "2 tensors missing")
    refused({"model": state | {"decoder.base_conv.weight": torch.zeros(1, 5, 1, 1)}}, "of shape")
    refused({"model": state | {"decoder.base_conv.bias": torch.full((1,), float("nan"))}}, "NaN")

    torch.save({"model": state}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole PyTorch file"):
        load_model(path)


def test_other_files_are_not_claimed(tmp_path, shared):
    other = [p for p in (shared / "golden").iterdir() if p.name not in FILES]
    assert other
    assert [p.name for p in other if recognise(p)] == []
    for content in (b"", b"PK", pickle.dumps({"model": 1})):
        (tmp_path / "x.pth").write_bytes(content)
        assert not recognise(tmp_path / "x.pth")
        with pytest.raises(InputError):
            read_checkpoint(tmp_path / "x.pth")
    assert not recognise(tmp_path)
    assert not recognise(tmp_path / "none.pth")


def test_a_rescaling_network_asks_for_windows():
    model = Model(Config(scaling="rescale", width=0.125))
    assert model.crop == CropSpec(channels=("protein",))
    x = model.preprocess(torch.rand((1, 1, 300, 120)))
    assert x.shape == (1, 1, 224, 224)
