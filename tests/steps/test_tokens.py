"""Patches as colours in one basis, and a structure found again, for a network whose patches say how bright they are."""

import numpy as np
import pytest
import torch

from _made_up import DINO, brightness_dino, made_up
from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.cli import main
from napari_cellrep.data.sets import write_sets
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import cut_cells, embed
from napari_cellrep.steps.tokens import apart, structure, tokens

# Each cell's crop of 32 px has one bright patch; of the second cell's, half lies outside of the image.
CELLS, SPOTS = [(48, 40), (80, 8)], [(40, 40, 8), (72, 8, 8)]


@pytest.fixture
def bright(tmp_path):
    project = made_up(tmp_path, CELLS, SPOTS)
    save_model(brightness_dino(), project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    return project


def rectangle(plane, i, j):
    return plane.y0 + i * plane.scale, plane.x0 + j * plane.scale, plane.scale


def test_the_bright_patch_has_a_colour_of_its_own_the_same_in_all_cells(bright):
    looks = tokens(bright, cells=["one:1", "one:2"])
    colours = []
    for look, spot in zip(looks, SPOTS, strict=True):
        (plane,) = look.planes
        assert plane.data.shape == (4, 4, 3)
        red = plane.data[..., 0]
        odd = np.abs(red - np.median(red))
        at = np.unravel_index(odd.argmax(), odd.shape)
        assert rectangle(plane, *at) == spot
        colours.append(plane.data[at][0])  # the others are what little is left
    np.testing.assert_allclose(*colours, atol=0.02)
    assert "in 2 cells" in looks[0].words[0]


def test_components_are_those_of_the_patches_of_all_cells(small):
    save_model(create_model("dino", **{**DINO, "dim": 8}), small.root / "models" / "mine")
    drain(embed(small, model="mine", device="cpu", precision="fp32"))
    obs = small.cells.obs
    cells = list(obs.index[(obs["y_px"].between(40, 200) & obs["x_px"].between(40, 200)).to_numpy()][:6])
    looks = tokens(small, cells=cells, first=2)
    from napari_cellrep.models import load_model

    net = load_model(small.root / "models" / "mine")
    vectors = []
    for cell in cells:
        row = obs.loc[[cell]]
        raw = torch.from_numpy(cut_cells(small, str(row["field"].iloc[0]), row, net.crop, (0, 1)))
        with torch.inference_mode():
            vectors.append(net.patch_tokens(net.preprocess(raw))[0].numpy().reshape(8, -1).T)
    x = np.concatenate(vectors)
    variance = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(looks[0].numbers["explained"], (variance / variance.sum())[1:4], atol=1e-3)
    both = tokens(small, cells=cells, first=(1, 2))
    assert [plane.name[-6:] for plane in both[0].planes] == ["1 to 3", "2 to 4"]
    np.testing.assert_array_equal(both[3].planes[1].data, looks[3].planes[0].data)
    assert len(both[0].numbers["explained"]) == 4
    shown = np.concatenate([look.planes[0].data.reshape(-1, 3) for look in looks])
    assert (shown.min(axis=0) == 0).all()
    assert (shown.max(axis=0) == 1).all()


@pytest.mark.parametrize("stride", [0, 4])
def test_a_structure_is_found_in_another_cell(bright, stride):
    first, second = structure(bright, cells=["one:1", "one:2"], y=44, x=44, stride=stride)
    for look, spot in ((first, SPOTS[0]), (second, SPOTS[1])):
        (plane,) = look.planes
        at = np.unravel_index(plane.data.argmax(), plane.data.shape)
        y0, x0, side = rectangle(plane, *at)
        assert side == (stride or 8)
        middle = np.array([y0, x0]) + side / 2
        assert (np.abs(middle - (np.array(spot[:2]) + 4)) <= 4).all()
        assert plane.data.max() > 0.95
    assert first.planes[0].limits == second.planes[0].limits
    assert (np.sort(second.planes[0].data.ravel())[: -9 if stride else -1] < 0.5).all()


def test_what_cannot_be_is_said(bright, tmp_path, capsys):
    with pytest.raises(InputError, match="lies outside of what the network sees"):
        structure(bright, cells=["one:1"], y=5, x=5)
    with pytest.raises(InputError, match="lies outside"):
        structure(bright, cells=["one:2"], y=80, x=-3)  # in its crop, but not in the image
    with pytest.raises(InputError, match="counted from 1"):
        tokens(bright, cells=["one:1"], first=0)
    words = ["look", str(bright.root), "--cell", "one:1", "one:2", "--device", "cpu", "--what"]
    for what, more in (("tokens", ["--first", "2"]), ("structure", ["--at", "44", "44", "--stride", "4"])):
        out = tmp_path / f"{what}.png"
        assert main([*words, what, *more, "--out", str(out)]) == 0
        assert out.stat().st_size > 2000
    assert main([*words, "structure", "--out", str(out)]) == 2
    assert "--at Y X" in capsys.readouterr().err
    save_model(create_model("autoencoder", width=0.05), bright.root / "models" / "ae")
    drain(embed(bright, model="ae", device="cpu", precision="fp32"))
    with pytest.raises(InputError, match="no patches with vectors of their own; DINO has"):
        tokens(bright, cells=["one:1"], embedding="ae")


@pytest.fixture
def two_kinds(tmp_path):
    """Cells 1 to 12 have a bright patch beside the nucleus, 13 to 24 have none; each alone in its crop."""
    places = [(40 * i + 28, 40 * j + 28) for i in range(6) for j in range(4)]
    project = made_up(tmp_path, places, [(y - 8, x + 4, 8) for y, x in places[:12]], side=256)
    save_model(brightness_dino(), project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    ids = list(project.cells.obs_names)
    write_sets(project.root, {"lit": {"cells": ids[:12], "how": {}}, "dark": {"cells": ids[12:], "how": {}}})
    return project


def test_patches_that_tell_two_sets_apart_are_where_they_differ(two_kinds, tmp_path, capsys):
    one, other = apart(two_kinds, cells=["one:1", "one:24"], a="lit", b="dark")
    assert one.numbers["auc"] == 1  # on cells not learned from
    assert one.numbers["n_tested"] == 6 + 6  # of 11 in each set, without the one that is shown
    plane = one.planes[0]
    y0, x0, side = rectangle(plane, *np.unravel_index(plane.data.argmax(), plane.data.shape))
    y, x = two_kinds.cells.obs.loc["one:1", ["y_px", "x_px"]]
    assert (y0 <= y - 4 < y0 + side, x0 <= x + 8 <= x0 + side) == (True, True)  # the square lies in two
    assert (plane.part, plane.limits[0]) == ("evidence", -plane.limits[1])
    assert one.numbers["mean"] > other.numbers["mean"]
    sizes, at = np.abs(plane.data).repeat(8, 0).repeat(8, 1), (slice(int(plane.y0), int(plane.y0) + 32),) * 2
    want = nucleus_ring_ratio(sizes, two_kinds.read_labels("one")[at], background=0.0)[1]
    assert (plane.y0, plane.scale) == (plane.x0, 8)
    assert one.numbers["nucleus_ring"] == pytest.approx(want, abs=1e-3)
    (turned,) = apart(two_kinds, cells=["one:1"], a="dark", b="lit")
    assert turned.planes[0].data[np.unravel_index(plane.data.argmax(), plane.data.shape)] < 0
    ids = list(two_kinds.cells.obs_names)  # sets that mean nothing: half of each kind
    (none,) = apart(two_kinds, cells=["one:1"], a="x", b="y", sets={"x": ids[1::2], "y": ids[::2]})
    assert abs(none.numbers["auc"] - 0.5) < 0.4
    out = tmp_path / "apart.png"
    args = ["look", str(two_kinds.root), "--cell", "one:1", "--what", "apart", "--sets", "lit", "dark"]
    assert main([*args, "--embedding", "mine", "--out", str(out)]) == 0
    assert "AUC of 1.00" in capsys.readouterr().out
    assert out.stat().st_size > 5000


def test_sets_that_cannot_be_told_apart_are_named(two_kinds):
    with pytest.raises(InputError, match="no set called 'grey'; sets are lit"):
        apart(two_kinds, cells=["one:1"], a="lit", b="grey")
    with pytest.raises(InputError, match="has 3 cells to learn from; 8 are needed"):
        apart(
            two_kinds,
            cells=["one:1"],
            a="lit",
            b="few",
            sets={"lit": ["one:2"] * 9, "few": ["one:20", "one:21", "one:22"]},
        )
