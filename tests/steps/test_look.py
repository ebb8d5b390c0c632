"""Attention, occlusion and reconstruction against what is known of a made-up image, and placed to the pixel."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from _made_up import DINO, brightness_dino, made_up
from napari_cellrep.cli import main
from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import cut_cells, embed
from napari_cellrep.steps.look import attention, classes, look, occlusion, reasons, reconstruction


def embedded(project, net, **how):
    save_model(net, project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32", **how))
    return project


def rectangle(plane, i, j):
    """Field pixels that a pixel of a plane covers: first row and column, and how many."""
    return plane.y0 + i * plane.scale, plane.x0 + j * plane.scale, plane.scale


def brightest(plane):
    return rectangle(plane, *np.unravel_index(np.argmax(plane.data), plane.data.shape))


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "window", "spot"), [
    ((48, 40), 32, (48 - 16 + 8, 40 - 16 + 16, 8)),  # patch (1, 2) of a crop that is not resized
    ((48, 40), 64, (48 - 32 + 16, 40 - 32 + 48, 16)),  # patch (1, 3) of one that is halved
    ((48, 40), 16, (48 - 8 + 8, 40 - 8 + 4, 4)),  # patch (2, 1) of one that is enlarged
    ((4, 6), 32, (4 - 16 + 16, 6 - 16 + 24, 8)),  # at the corner of the image: most of the crop is outside
    ((91, 91), 32, (91 - 16 + 8, 91 - 16 + 8, 8)),
])  # fmt: skip
@pytest.mark.parametrize("um", [0.0, 0.5])
def test_attention_lands_on_the_bright_patch(tmp_path, cell, window, spot, um):
    project = embedded(made_up(tmp_path, [cell], [spot], um), brightness_dino(), crop={"window_px": window})
    shown = attention(project, cells=["one:1"])[0]
    assert (shown.field, shown.cell_id, shown.what) == ("one", "one:1", "attention")
    mean, one, other = shown.planes
    assert [p.part for p in shown.planes] == ["mean", "head", "head"]
    assert mean.data.shape == (4, 4)
    assert brightest(one) == brightest(mean) == spot
    np.testing.assert_allclose(other.data, 1 / 17, atol=1e-6)  # 16 patches and the class token
    np.testing.assert_allclose(mean.data, (one.data + other.data) / 2, atol=1e-7)
    assert "can mislead" in shown.words[1]


def test_attention_is_what_the_model_says(small):
    net = create_model("dino", **DINO)
    embedded(small, net, crop={"window_px": 48})
    cells = list(small.cells.obs.index[[2, 50]])
    for cell, shown in zip(cells, attention(small, cells=cells), strict=True):
        row = small.cells.obs.loc[cell]
        y, x = int(row["y_px"]) - 24, int(row["x_px"]) - 24
        assert (shown.planes[0].y0, shown.planes[0].x0, shown.planes[0].scale) == (y, x, 12)
        spec = dataclasses.replace(net.crop, window_px=48)
        raw = torch.from_numpy(cut_cells(small, str(row["field"]), small.cells.obs.loc[[cell]], spec, (0, 1)))
        with torch.inference_mode():
            want = net.attention(net.preprocess(raw))[0].numpy()
        np.testing.assert_allclose([p.data for p in shown.planes[1:]], want, atol=1e-6)


def test_attention_after_the_networks_own_resizing(tmp_path):
    # Corners on corners: 64 crop px on 57 seen px, so that patches are 8 · 63 / 56 = 9 px; patch (2, 4) of 7.
    y, x = 48 - 32 + 18, 40 - 32 + 36
    net = brightness_dino(resize_px=57)
    project = embedded(made_up(tmp_path, [(48, 40)], [(y, x, 9)]), net, crop={"window_px": 64, "size_px": 64})
    plane = attention(project, cells=["one:1"])[0].planes[0]
    assert plane.data.shape == (7, 7)
    np.testing.assert_allclose(brightest(plane), (y, x, 9), atol=0.1)


def test_each_channel_as_a_photograph_names_its_heads(small):
    embedded(small, create_model("dino", **{**DINO, "as_rgb": True}))
    names = [p.name for p in attention(small, cells=[small.cells.obs.index[0]])[0].planes]
    assert names == [
        "attention",
        *(f"attention, head {h} {c}" for c in ("FKHR-GFP", "DNA") for h in (1, 2)),
    ]


@pytest.mark.parametrize("cell", [(48, 40), (5, 90)])
def test_what_is_needed_is_found_by_hiding_it(tmp_path, cell):
    y, x = cell
    spot = (max(y - 4, 0), x - 6, 8)
    project = embedded(
        made_up(tmp_path, [cell, (20, 20), (70, 70)], [spot]), brightness_dino(), layers=["patch_mean"]
    )
    shown = occlusion(project, cells=["one:1"], squares=8)[0]
    (plane,) = shown.planes
    inside = (np.array([plane.y0, plane.x0]) >= 0).all()
    assert inside  # nothing outside the image is hidden
    at = np.array(brightest(plane))[:2] + plane.scale / 2
    assert (np.abs(at - (np.array(spot[:2]) + 4)) <= 4).all()
    by = shown.numbers["channels"]
    assert by["FKHR-GFP"] > 0.1
    assert by["DNA"] == 0.0  # this network does not look there
    assert "Without DNA the cell moves 0.00 times" in shown.words[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ("paired_cell_inpainting", {"width": 0.05}), ("microsnoop", {"width": 0.1, "channels": ("FKHR-GFP", "DNA")}),
        ("imagenet", {"channels": ("FKHR-GFP", "DNA")}), ("deeploc", {}), ("dino", DINO),
    ],
    ids=lambda m: m[0],
)  # fmt: skip
def test_hiding_works_for_every_network(small, model):
    name, config = model
    own = {"channels": ["FKHR-GFP", "DNA"]} if name == "imagenet" else {}
    drain(embed(small, model=name, config=config, fields=["A01"], device="cpu", precision="fp32", **own))
    cell = next(c for c in small.cells.obs.index if c.startswith("A01"))
    (shown,) = occlusion(small, cells=[cell], squares=3)
    data = shown.planes[0].data
    assert data.shape == (3, 3) or min(data.shape) >= 1
    assert np.isfinite(data).all()
    assert data.max() > 0
    assert shown.trained is False
    assert "learned nothing" in shown.words[-1]
    assert list(shown.numbers["channels"])[:1] == ["FKHR-GFP"]


def test_the_autoencoder_redraws_the_protein(small):
    net = create_model("autoencoder", width=0.05)
    embedded(small, net)
    cell = small.cells.obs.index[3]
    (shown,) = reconstruction(small, cells=[cell])
    parts = {p.part: p for p in shown.planes}
    assert set(parts) == {"redrawn", "input", "masked", "error"}
    np.testing.assert_array_equal(parts["masked"].data, parts["input"].data)  # it sees the whole cell
    assert parts["masked"].name == "FKHR-GFP with no patch hidden"
    row = small.cells.obs.loc[cell]
    y0, x0 = int(row["y_px"]) - 32, int(row["x_px"]) - 32
    image = small.read_image(str(row["field"]))[0].astype(float)
    plane = parts["input"]
    ya, xa = int(plane.y0), int(plane.x0)
    assert (ya, xa) == (max(y0, 0), max(x0, 0))
    seen = image[ya : ya + plane.data.shape[0], xa : xa + plane.data.shape[1]]
    assert np.corrcoef(plane.data.ravel(), seen.ravel())[0, 1] > 0.99999
    np.testing.assert_allclose(parts["error"].data, parts["redrawn"].data - plane.data, atol=1e-6)
    assert shown.numbers["channels"]["FKHR-GFP"]["mse"] == pytest.approx(
        float((parts["error"].data ** 2).mean())
    )
    with pytest.raises(InputError, match="has to lie between 0 and 1"):
        reconstruction(small, cells=[cell], ratio=1.5)


def test_the_autoencoder_draws_what_is_left_of_a_cell(small):
    net = create_model("autoencoder", width=0.05)
    embedded(small, net)
    obs = small.cells.obs
    inner = (obs["y_px"].between(60, 190) & obs["x_px"].between(60, 190)).to_numpy()
    cell = obs.index[inner][0]
    (first,) = reconstruction(small, cells=[cell], ratio=0.25, seed=1)
    assert first.mask.data.shape == (1, 8, 8)  # one for all channels, of which it sees all at once
    assert first.mask.data.sum() == 16
    assert "16 of 64 patches hidden" in first.words[0]
    assert "not taught with hidden patches" in first.words[1]
    hidden = np.zeros((1, 8, 8), bool)
    hidden[0, 2, 3:5] = True
    (shown,) = reconstruction(small, cells=[cell], hidden=hidden)
    np.testing.assert_array_equal(shown.mask.data > 0, hidden)
    redrawn, plane, masked, _ = shown.planes
    want = plane.data.copy()
    want[16:24, 24:40] = 0
    np.testing.assert_array_equal(masked.data, want)
    row = obs.loc[[cell]]
    raw = torch.from_numpy(cut_cells(small, str(row["field"].iloc[0]), row, net.crop, (0, 1)))
    with torch.inference_mode():
        x = net.preprocess(raw)
        x[:, :, 16:24, 24:40] = 0  # the structure channel too: else it would tell where the cell is
        np.testing.assert_allclose(redrawn.data, net.reconstruct(x)[0, 0].numpy(), atol=1e-5)


@pytest.mark.slow
def test_microsnoop_fills_in_what_was_hidden(small):
    names = ("FKHR-GFP", "DNA")
    net = create_model("microsnoop", width=0.1, channels=names)
    embedded(small, net)
    obs = small.cells.obs
    inner = (obs["y_px"].between(60, 190) & obs["x_px"].between(60, 190)).to_numpy()
    cell = obs.index[inner][0]
    (shown,) = reconstruction(small, cells=[cell], ratio=0.5, seed=3)
    assert [p.part for p in shown.planes] == ["redrawn", "input", "masked", "error"] * 2
    image = small.read_image(str(obs.loc[cell, "field"])).astype(float)
    for c in range(2):
        redrawn, plane, masked, error = shown.planes[4 * c : 4 * c + 4]
        assert plane.scale == 1
        ya, xa = int(plane.y0), int(plane.x0)
        h, w = plane.data.shape
        seen = image[c, ya : ya + h, xa : xa + w]  # to the pixel: the padding of 224 px is cut off again
        assert np.corrcoef(plane.data.ravel(), seen.ravel())[0, 1] > 0.99999
        hidden = (masked.data == 0) & (plane.data != 0)
        assert 0.2 < hidden.mean() < 0.8
        np.testing.assert_array_equal(masked.data[~hidden], plane.data[~hidden])
        np.testing.assert_allclose(error.data, redrawn.data - plane.data, atol=1e-6)
        assert error.limits[0] == -error.limits[1]
    assert "where patches were hidden" in shown.words[0]
    few = reconstruction(small, cells=[cell], seed=3)[0].planes[2]  # the training's own fraction, a quarter
    assert ((few.data == 0) & (shown.planes[1].data != 0)).mean() < hidden.mean()


@pytest.mark.slow
def test_a_painted_mask_hides_what_is_painted(small, tmp_path, capsys):
    embedded(small, create_model("microsnoop", width=0.1, channels=("FKHR-GFP", "DNA")))
    obs = small.cells.obs
    edge = obs["y_px"].to_numpy().argmin()  # the crop reaches out of the image
    for cell in (
        obs.index[edge],
        obs.index[(obs["y_px"].between(60, 190) & obs["x_px"].between(60, 190))][0],
    ):
        (first,) = reconstruction(small, cells=[cell], ratio=0.4, seed=2)
        mask, redrawn, plane = first.mask, first.planes[0], first.planes[1]
        assert (mask.part, mask.scale, mask.data.shape[0]) == ("mask", 16 * plane.scale, 2)
        # On the image's pixels: a grid that covers what is shown, its hidden patches dark in "masked".
        h, w = plane.data.shape
        i, j = (((np.arange(n) + (a - b) + 0.5) / 16).astype(int) for n, a, b in
                ((h, plane.y0, mask.y0), (w, plane.x0, mask.x0)))  # fmt: skip
        assert (i.min(), j.min()) == (0, 0)
        assert (i.max() + 1, j.max() + 1) == mask.data.shape[1:]
        for c in range(2):
            hidden = mask.data[c][i[:, None], j] > 0
            np.testing.assert_array_equal(
                first.planes[4 * c + 2].data, np.where(hidden, 0, first.planes[4 * c + 1].data)
            )
        assert f"{int(mask.data[0].sum())} of {mask.data[0].size} patches hidden" in first.words[0]
        assert first.numbers["channels"]["DNA"]["n_hidden"] == mask.data[1].sum()
        same = reconstruction(small, cells=[cell], ratio=0.4, seed=2, hidden=mask.data)[0]
        np.testing.assert_array_equal(same.planes[0].data, redrawn.data)
        painted = mask.data > 0
        painted[0, 0, 0] = ~painted[0, 0, 0]
        other = reconstruction(small, cells=[cell], ratio=0.4, seed=2, hidden=painted)[0]
        assert np.abs(other.planes[0].data - redrawn.data).max() > 0
        np.testing.assert_array_equal(
            other.planes[4].data, first.planes[4].data
        )  # a channel is seen by itself
        np.testing.assert_array_equal(other.mask.data > 0, painted)
    with pytest.raises(InputError, match="painted mask has shape"):
        reconstruction(small, cells=[cell], hidden=painted[:, 1:])
    with pytest.raises(InputError, match="for one cell; 2 are"):
        reconstruction(small, cells=list(obs.index[:2]), hidden=painted)
    said = []
    for seed in ("0", "1"):
        out = tmp_path / f"{seed}.npz"
        words = [
            "look",
            str(small.root),
            "--what",
            "reconstruction",
            "--cell",
            cell,
            "--ratio",
            "0.5",
            "--mask-seed",
            seed,
        ]
        assert main([*words, "--out", str(out)]) == 0
        with np.load(out) as arrays:
            said.append(arrays[f"{cell}/DNA with patches hidden"])
    assert (said[0] != said[1]).any()
    assert (
        main(["look", str(small.root), "--what", "occlusion", "--cell", cell, *words[-2:], "--out", str(out)])
        == 2
    )
    assert "--mask-seed is of --what reconstruction only" in capsys.readouterr().err


def test_what_a_network_cannot_is_said(small):
    drain(embed(small, model="paired_cell_inpainting", config={"width": 0.05}))
    drain(embed(small, model="measurements", channels=["DNA"]))
    why = reasons(small, embedding="paired_cell_inpainting")
    assert why["occlusion"] == ""
    assert "no attention; DINO has" in why["attention"]
    assert "does not redraw" in why["reconstruction"]
    assert "knows no classes; DeepLoc does" in why["classes"]
    assert "no network" in reasons(small, embedding="measurements")["occlusion"]
    cell = small.cells.obs.index[0]
    with pytest.raises(InputError, match="no attention"):
        attention(small, cells=[cell], embedding="paired_cell_inpainting")
    with pytest.raises(InputError, match="several embeddings"):
        attention(small, cells=[cell])
    with pytest.raises(InputError, match="no cell A01:99999"):
        occlusion(small, cells=["A01:99999"], embedding="paired_cell_inpainting")
    with pytest.raises(InputError, match="nothing called 'soul'"):
        look(small, what="soul", cells=[cell])


@pytest.fixture
def classified(small):
    """A DeepLoc that was told four classes' names; its weights are the first seed's, made to differ between cells."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = create_model("deeploc", width=0.0625, d1=24, d2=24, n_classes=4)
    with torch.no_grad():
        net.final_layer.weight.mul_(10)
    net.card = {"classes": ["nucleus", "rim", "both", "dead"]}
    net.roles = ("FKHR-GFP", "DNA")
    return embedded(small, net), net


def test_classes_are_what_the_model_says_and_evidence_is_what_hiding_takes(classified):
    project, net = classified
    obs = project.cells.obs
    inner = obs.index[(obs["y_px"].between(40, 200) & obs["x_px"].between(40, 200)).to_numpy()]
    cells = list(inner[:2])
    for cell, shown in zip(cells, classes(project, cells=cells, squares=4), strict=True):
        row = obs.loc[[cell]]
        raw = torch.from_numpy(cut_cells(project, str(row["field"].iloc[0]), row, net.crop, (0, 1)))
        with torch.inference_mode():
            x = net.preprocess(raw)
            share = net.classify(x)[0].numpy()
            c = int(share.argmax())

            def log_odds(x, c=c):
                p = net.logits(x).double().softmax(dim=1)[0, c].item()
                return np.log10(p / (1 - p))

            dark = x.clone()
            dark[0, 0] = x[0, 0].mean()
            corner = x.clone()  # the square at the corner, which alone hides the first pixel
            corner[0, :, :32, :32] = x[0].mean(dim=(1, 2))[:, None, None]
            fall = [log_odds(x) - log_odds(other) for other in (dark, corner)]
        said = shown.numbers["probabilities"]
        assert list(said) == [net.card["classes"][i] for i in np.argsort(-share)]
        np.testing.assert_allclose(sorted(said.values()), sorted(share), atol=2e-6)
        assert shown.numbers["class"] == net.card["classes"][c]
        assert shown.numbers["channels"]["FKHR-GFP"] == pytest.approx(fall[0], abs=1e-4)
        (plane,) = shown.planes
        assert plane.data.shape == (4, 4)
        assert plane.limits[0] == -plane.limits[1]
        assert plane.data[0, 0] == pytest.approx(fall[1], abs=1e-4)
    other = classes(project, cells=cells[:1], of="dead", squares=2)[0]
    assert other.numbers["class"] == "dead"
    assert other.planes[0].name == "evidence for dead"
    with pytest.raises(InputError, match="knows no class 'alive'; it knows nucleus, rim"):
        classes(project, cells=cells, of="alive")


@pytest.mark.slow
def test_every_cell_gets_its_class(classified, tmp_path, capsys):
    project, net = classified
    assert main(["analyze", str(project.root), "classes"]) == 0
    said = capsys.readouterr().out
    assert "out of 4 classes" in said
    again = open_project(project.root)
    cells = again.cells
    good = cells.obs["good"].to_numpy()
    share = np.asarray(cells.obsm["probabilities_mine"])
    assert list(cells.uns["classes_mine"]) == net.card["classes"]
    np.testing.assert_allclose(share[good].sum(axis=1), 1, atol=1e-5)
    assert np.isnan(share[~good]).all()
    names = np.array(net.card["classes"], object)
    assert (cells.obs["predicted_class_mine"].astype(object)[good] == names[share[good].argmax(axis=1)]).all()
    np.testing.assert_allclose(cells.obs["sure_class_mine"][good], share[good].max(axis=1), atol=1e-6)
    cell = cells.obs.index[good][7]
    told = classes(again, cells=[cell], squares=2)[0].numbers["probabilities"]
    row = cells.obs.index.get_loc(cell)
    np.testing.assert_allclose([told[n] for n in names], share[row], atol=1e-5)
    assert main(["analyze", str(project.root), "classes"]) == 0
    assert "Up to date" in capsys.readouterr().out
    out = tmp_path / "classes.svg"
    words = ["look", str(project.root), "--cell", cell, "--what", "classes", "--of", "rim", "--out", str(out)]
    assert main(words) == 0
    assert "evidence for rim" in out.read_text() or out.stat().st_size > 2000
    assert main([*words[:5], "occlusion", *words[6:]]) == 2
    assert "--of" in capsys.readouterr().err
    drain(embed(again, model="paired_cell_inpainting", config={"width": 0.05}))
    with pytest.raises(InputError, match="knows no classes"):
        drain(analyze(again, recipe="classes", embedding="paired_cell_inpainting"))


def test_weights_that_went_are_missed(small):
    embedded(small, create_model("dino", **DINO))
    assert reasons(small, embedding="mine")["attention"] == ""
    shutil.rmtree(small.root / "models" / "mine")
    assert "not in this project any more" in reasons(small, embedding="mine")["attention"]


def test_the_command_line_writes_arrays_and_figures(tmp_path, capsys):
    spot = (48 - 16 + 8, 40 - 16 + 16, 8)
    project = embedded(made_up(tmp_path, [(48, 40), (5, 90)], [spot], 0.5), brightness_dino())
    words = ["look", str(project.root), "--device", "cpu", "--cell"]
    out = tmp_path / "out" / "arrays.npz"
    assert main([*words, "one:1", "--what", "attention", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 heads" in said
    assert "can mislead" in said
    with np.load(out) as arrays:
        y0, x0, scale = arrays["one:1/attention/place"]
        i, j = np.unravel_index(np.argmax(arrays["one:1/attention"]), (4, 4))
        assert (y0 + i * scale, x0 + j * scale, scale) == spot
    for what, suffix in (("attention", "svg"), ("occlusion", "png"), ("occlusion", "pdf")):
        out = tmp_path / f"{what}.{suffix}"
        assert main([*words, "one:1", "one:2", "--what", what, "--out", str(out)]) == 0
        assert out.stat().st_size > 2000
    text = (tmp_path / "attention.svg").read_text()
    assert text.count("<image") >= 10  # two cells: two channels, three maps over the image each
    capsys.readouterr()
    assert main([*words, "one:1", "--what", "occlusion", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["one:1"]["channels"]["FKHR-GFP"] >= 0
    for wrong, said in (
        (["one:1", "--what", "attention", "--out", "x.jpg"], "has to end in .png"),
        (["one:9", "--what", "attention", "--out", "x.png"], "no cell one:9"),
        (["one:1", "--what", "reconstruction", "--out", "x.png"], "does not redraw"),
        (["one:1", "--what", "attention", "--ratio", "0.5", "--out", "x.png"], "--ratio"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
