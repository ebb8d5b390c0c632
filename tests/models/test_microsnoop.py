from __future__ import annotations

import csv
import dataclasses
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from array_cells import ArrayCells
from scipy import ndimage
from torch.nn import functional as F

from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import load_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._train import train
from napari_cellrep.models.microsnoop import (
    SPEC,
    TINY,
    Config,
    Model,
    Training,
    _turned,
    cut_tiles,
    learning_rate_at,
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
    # Sums of thousands cancel near 0, and every processor adds them in an order of its own.
    wanted = golden["A/recon_center"]
    np.testing.assert_allclose(centre, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())


def test_golden_rescaling(shared, golden):
    model = Model(Config(width=0.125, scaling="rescale")).eval()
    model.load_state_dict(read_checkpoint(shared / "golden" / FILES[0]).state_dict())
    x = model.preprocess(torch.from_numpy(golden["B/u16"][:, None]))
    np.testing.assert_allclose(x[:, :, ::4, ::4], golden["B/net_input_sub"], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_allclose(model.embed(x), golden["B/embedding"], rtol=1e-4, atol=1e-4)


def test_zoom_enlarges_as_the_golden_rescaling(shared, golden):
    """The same arithmetic by a factor: crops made square by hand and zoomed to 224 px are the authors' rescaled ones."""
    model = Model(replace(read_checkpoint(shared / "golden" / FILES[0]).config, zoom=224 / 150))
    model.load_state_dict(read_checkpoint(shared / "golden" / FILES[0]).state_dict())
    square = np.pad(golden["B/u16"], ((0, 0), (30, 30), (0, 0)))
    x = model.eval().preprocess(torch.from_numpy(square[:, None]))
    np.testing.assert_allclose(x[:, :, ::4, ::4], golden["B/net_input_sub"], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_allclose(model.embed(x), golden["B/embedding"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("zoom", "shape"), [(1.5, (96, 75)), (0.5, (32, 25))])
def test_zoom_is_bilinear_by_a_factor_before_the_padding(cells, zoom, shape):
    model = Model(Config(width=0.125, zoom=zoom))
    assert model.crop.size_px == int(224 / zoom)
    crops = cells.array[:2, :1, :, :50].astype(np.uint16) * 200
    at = [
        np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        for n, old in zip(shape, (64, 50), strict=True)
    ]
    grid = np.stack(np.meshgrid(*at, indexing="ij"))
    zoomed = np.stack([ndimage.map_coordinates(c[0].astype(float), grid, order=1) for c in crops])
    top, left = (224 - shape[0]) // 2, (224 - shape[1]) // 2
    padded = np.zeros((2, 224, 224))
    padded[:, top : top + shape[0], left : left + shape[1]] = np.round(zoomed)
    low, high = np.percentile(padded, [1, 99], axis=(1, 2))[:, :, None, None]
    x = model.preprocess(torch.from_numpy(crops))
    one = 1 / (high - low).min()  # where a value lies half-way, rounding may go either way
    np.testing.assert_allclose(x[:, 0], (padded - low) / (high - low), rtol=1e-4, atol=1.01 * one)
    first, step = model.seen_grid(64, 224)  # a square crop's pixels lie where it says
    assert (first + top * step, step) == pytest.approx(((64 / shape[0] - 1) / 2, 64 / shape[0]))


def test_a_field_is_zoomed_before_it_is_cut_into_tiles(tiny):
    field = np.random.default_rng(0).integers(0, 60_000, (1, 160, 180)).astype(np.uint16)
    zoomed = Model(replace(TINY, zoom=2.0)).eval()
    zoomed.load_state_dict(tiny.state_dict())
    larger = torch.nn.functional.interpolate(
        torch.from_numpy(field[None].astype(np.float32)), (320, 360), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(
        zoomed.embed_field(field), tiny.embed_field(larger[0].round().numpy()), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match="leave zoom at 1"):
        Model(replace(TINY, scaling="rescale", zoom=2.0))


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


# ---- training ---------------------------------------------------------------------------------------

FP32 = {"device": "cpu", "precision": "fp32"}
NARROW = Config(width=0.03, channels=BOTH)
SHORT = Training(epochs=2, batch_size=3, learning_rate=3e-3, warmup_epochs=1, seed=5)
STILL = {"rotate": False, "scale_range": 0.0}


def make(seed: int = 0, config: Config = NARROW) -> Model:
    torch.manual_seed(seed)
    return Model(config).eval()


@pytest.fixture
def few(cells) -> ArrayCells:
    """Eight cells; three steps an epoch."""
    return ArrayCells(cells.array[::12][:8], np.arange(8))


def prepared(model: Model, training: Training, crops: np.ndarray, step: int = 0, seed: int = 0):
    learner = model.learner(training, 10)
    learner.before_step(step, learner.make_optimizer())
    return learner, learner.prepare({"x": torch.from_numpy(crops)}, torch.Generator().manual_seed(seed))


def test_the_learning_rate_is_the_papers():
    """models.md §4.5: .001 · epoch / 40, then .001 · .5 · (1 + cos(π (epoch - 40) / 960))."""
    paper = Training()
    assert (paper.epochs, paper.batch_size, paper.mask_ratio) == (1000, 16, 0.25)
    for epoch, want in ((0, 0), (10, 2.5e-4), (40, 1e-3), (280, 8.535534e-4), (520, 5e-4), (1000, 0)):
        assert learning_rate_at(epoch, paper) == pytest.approx(want, abs=1e-10)
    learner = make().learner(paper, 750)
    optimizer = learner.make_optimizer()
    learner.before_step(750 * 520, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate_at(520 + 0.5 / 750, paper))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    assert all(p.ndim > 1 for p in optimizer.param_groups[0]["params"])
    n = sum(len(g["params"]) for g in optimizer.param_groups)
    assert n == len(list(make().parameters()))
    assert not learner.notes


def test_a_short_training_warms_up_for_half_of_its_epochs_and_says_so():
    short = Training(epochs=5)
    assert learning_rate_at(2.5, short) == pytest.approx(1e-3)
    assert "2.5 of the 5 epochs instead of 40" in make().learner(short, 3).notes[0]
    last = make().learner(Training(epochs=1), 1)
    optimizer = last.make_optimizer()
    last.before_step(0, optimizer)
    assert optimizer.param_groups[0]["lr"] > 0  # even a single step learns


def test_channels_take_turns_and_are_scaled_as_for_embedding(few):
    model = make()
    x = model.preprocess(torch.from_numpy(few.array))
    for view in ("field", "cell"):  # of crops this small both are the whole crop
        for step in range(4):
            _, batch = prepared(model, Training(view=view, **STILL), few.array, step)
            torch.testing.assert_close(batch["x"], x[:, step % 2, None], rtol=1e-5, atol=1e-6)


def test_the_loss_is_over_all_pixels_and_the_input_has_a_quarter_hidden(few):
    model = make().train()
    learner, batch = prepared(model, Training(), few.array)
    x, visible = batch["x"], batch["visible"]
    assert x.shape == visible.shape == (8, 1, 224, 224)
    hidden = ~visible.reshape(8, 14, 16, 14, 16).any(dim=4).any(dim=2)
    assert hidden.sum(dim=(1, 2)).tolist() == [49] * 8
    assert not torch.equal(hidden[0], hidden[1])
    maps = model.encoder(x * visible)
    rebuilt = model.decoder(maps, F.normalize(maps[-1].mean(dim=(2, 3))))
    torch.testing.assert_close(learner.losses(batch)["loss"], ((rebuilt - x) ** 2).mean())
    again = prepared(model, Training(), few.array)[1]
    other = prepared(model, Training(), few.array, seed=1)[1]
    assert torch.equal(again["x"], x)
    assert not torch.equal(other["x"], x)
    assert not torch.equal(other["visible"], visible)


def test_squares_are_cut_at_random_and_always_have_the_cell_in_them():
    model, training = make(), Training(shift_px=40, **STILL)
    spec = model.training_crop(training)
    assert (spec.mode, spec.size_px, spec.padding, spec.channels) == ("window", 304, "reflect", BOTH)
    assert model.training_crop(Training(view="cell")) == model.crop
    window = np.full((60, 2, 304, 304), 50, np.uint8)
    window += np.random.default_rng(0).integers(0, 20, window.shape, np.uint8)
    window[:, :, 149:155, 149:155] = 255  # under 1 %: the one bright thing is the cell
    _, batch = prepared(model, training, window)
    at = batch["x"].flatten(1).argmax(dim=1)
    rows, columns = at // 224, at % 224
    for place in (rows, columns):
        assert place.min() >= 112 - 3 - 40
        assert place.max() <= 112 + 3 + 40
        assert place.float().std() > 15
    assert not torch.equal(rows, columns)
    shown = model.learner(training, 1).to_show({"x": torch.from_numpy(window)})["x"]
    assert shown.shape == (60, 2, 224, 224)
    middle = shown[:, 1].flatten(1).argmax(dim=1)
    assert ((middle // 224 - 112).abs() <= 3).all()


def test_images_are_turned_and_scaled_about_their_middle():
    n, generator = 200, torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(224) - 111.5, torch.arange(224) - 111.5, indexing="ij")
    dot = ((y - 50) ** 2 + x**2 < 25).float().expand(n, 1, 224, 224)

    def centre(images):
        mass = images.sum(dim=(1, 2, 3))
        return (images[:, 0] * y).sum(dim=(1, 2)) / mass, (images[:, 0] * x).sum(dim=(1, 2)) / mass, mass

    assert torch.equal(_turned(dot, False, 0.0, generator), dot)
    cy, cx, mass = centre(_turned(dot, True, 0.0, generator))
    torch.testing.assert_close(torch.hypot(cy, cx), torch.full((n,), 50.0), rtol=0, atol=0.3)
    torch.testing.assert_close(mass, dot.sum(dim=(1, 2, 3)), rtol=0.05, atol=0)
    angles = torch.atan2(cy, cx)
    assert torch.histc(angles, 8, -torch.pi, torch.pi).min() > 8  # all round
    cy, cx, mass = centre(_turned(dot, False, 0.5, generator))
    assert cx.abs().max() < 0.3
    assert 37 < cy.min() < 39
    assert 61 < cy.max() < 63
    torch.testing.assert_close(
        mass / 79, (cy / 50) ** 2, rtol=0.1, atol=0
    )  # a thing twice as far is twice as large


def test_an_image_without_contrast_is_learned_as_black(few):
    crops = few.array.copy()
    crops[0, 0] = 7
    crops[1, 0] = 0
    crops[1, 0, :5, :5] = 200  # percentiles are equal, the image is not flat
    model = make().train()
    for view in ("field", "cell"):
        learner, batch = prepared(
            model, Training(view=view), np.pad(crops, [(0, 0)] * 2 + [(80, 80)] * 2, "edge")
        )
        assert (batch["x"][0] == 0).all()
        assert learner.losses(batch)["loss"] < 1e4
    _, batch = prepared(model, Training(view="cell"), crops)
    assert (batch["x"][1] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_goes_on_to_exactly_the_same_weights(few, tmp_path, stop_after):
    """Stopped at the first step, at the end of an epoch, and in the middle of the second; channels keep their turn."""
    drain(train(make(), few, SHORT, tmp_path / "whole", **FP32))
    job = train(make(), few, SHORT, tmp_path / "parts", **FP32)
    for _ in range(stop_after + 1):
        next(job)
    job.close()
    seen = []
    drain(train(make(seed=9), few, SHORT, tmp_path / "parts", **FP32), seen.append)
    assert seen[0].done == stop_after
    whole, parts = (load_model(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for key in whole:
        assert torch.equal(whole[key], parts[key]), key


@pytest.mark.slow
def test_the_seed_decides_everything(few, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        drain(train(make(), few, dataclasses.replace(SHORT, seed=seed), tmp_path / name, **FP32))
    a, b, c = (load_model(tmp_path / name).decoder.base_conv.weight for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_what_it_shows_while_it_trains(few, tmp_path):
    model = make()
    drain(train(model, few, dataclasses.replace(SHORT, max_steps=1), tmp_path, **FP32))
    with np.load(tmp_path / "preview.npz") as preview:
        assert list(preview["columns"]) == ["real", "what it is shown", "filled in"]
        real, seen, filled = preview["pictures"].transpose(1, 0, 2, 3)
    assert real.shape == (3, 224, 224)
    patches = (seen == real).reshape(3, 14, 16, 14, 16).all(axis=(2, 4))
    assert (patches.sum(axis=(1, 2)) >= 147).all()
    assert filled.std() > 0
    assert load_model(tmp_path).roles == BOTH


def test_bf16_trains_too(few, tmp_path):
    result = drain(train(make(), few, SHORT, tmp_path, device="cpu", precision="bf16"))
    assert np.isfinite(result["loss"])
    assert all(v.dtype != torch.bfloat16 for v in load_model(tmp_path).state_dict().values())


@pytest.mark.slow
def test_it_learns_to_fill_in_cells_it_has_not_seen(cells, tmp_path):
    """Trained on three wells, the hidden patches of the fourth are nearer the truth than in the mean training image."""
    held = cells.groups == 3
    training = Training(
        epochs=6, batch_size=8, learning_rate=1e-2, warmup_epochs=1, view="cell", scale_range=0.0
    )
    model = make(config=Config(width=0.0625, channels=BOTH, scaling="rescale"))
    drain(train(model, ArrayCells(cells.array[~held], cells.groups[~held]), training, tmp_path, **FP32))
    with (tmp_path / "history.csv").open() as f:
        losses = [float(row["loss"]) for row in csv.DictReader(f)]
    assert losses[-1] < 0.5 * losses[0]

    x, known = (model.preprocess(torch.from_numpy(cells.array[rows])) for rows in (held, ~held))
    hidden = ~mask_patches(x, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        filled = model.reconstruct(x, ~hidden)
    error = float((filled - x)[hidden].square().mean())
    mean = float((known.mean(dim=0) - x)[hidden].square().mean())
    assert error < 0.8 * mean
