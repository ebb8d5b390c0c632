import json

import numpy as np
import pytest

from napari_cellrep.cli import main
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps import inpaint as steps
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.inpaint import inpaint, inpaint_grid, patterns, why_not


@pytest.fixture
def tiny(small):
    save_model(create_model("paired_cell_inpainting", width=0.125), small.root / "models" / "tiny")
    return small


def test_the_prediction_is_placed_where_the_target_is(tiny):
    obs = tiny.cells.obs
    source, target = obs.index[obs["field"] == "A12"][0], obs.index[(obs["field"] == "A01") & obs["good"]][0]
    result = drain(inpaint(tiny, source=source, target=target, model="tiny"))
    assert result["field"] == "A01"
    assert result["target"].shape == result["prediction"].shape == (64, 64)
    np.testing.assert_allclose(result["error"], result["prediction"] - result["target"], atol=1e-6)
    y0, x0 = int(result["y0"]), int(result["x0"])
    real = tiny.read_image("A01")[0, y0 : y0 + 64, x0 : x0 + 64].astype(float)
    real = (real - real.min()) / (real.max() - real.min())
    np.testing.assert_allclose(result["target"], real, atol=1e-5)
    assert result["structure"].shape == (1, 64, 64)


def test_a_target_is_drawn_from_the_same_group_and_never_is_the_source(tiny):
    obs = tiny.cells.obs
    source = obs.index[(obs["group"] == "A06") & obs["good"]][0]
    targets = {drain(inpaint(tiny, source=source, model="tiny", seed=s))["target_cell"] for s in range(8)}
    assert source not in targets
    assert len(targets) > 2
    assert set(obs.loc[list(targets), "group"]) == {"A06"}


def test_cells_and_models_that_cannot_are_told(tiny):
    good = tiny.cells.obs.index[0]
    with pytest.raises(InputError, match="no cell A01:99999"):
        drain(inpaint(tiny, source="A01:99999"))
    with pytest.raises(InputError, match="cannot predict"):
        drain(inpaint(tiny, source=good, target=good, model="measurements"))


@pytest.mark.slow
def test_every_cell_gets_the_error_of_its_prediction_by_others_of_its_group(tiny):
    drain(embed(tiny, model="tiny", device="cpu", precision="fp32"))
    result = drain(analyze(tiny, recipe="inpainting", embedding="tiny", sources=1000 // 10))
    assert result.written == ("obs/inpainting_mse_tiny", "obs/inpainting_mae_tiny")
    obs = tiny.cells.obs
    assert obs.loc[~obs["good"], "inpainting_mse_tiny"].isna().all()  # flagged cells are left out
    assert obs.loc[obs["good"], "inpainting_mse_tiny"].notna().all()
    group = obs.index[(obs["group"] == "A06") & obs["good"]]
    target = group[3]  # of few cells, all others are its sources: the mean over them, one by one
    want = [
        drain(inpaint(tiny, source=s, target=target, model="tiny"))["error"] for s in group if s != target
    ]
    assert len(want) < 100
    np.testing.assert_allclose(obs.loc[target, "inpainting_mse_tiny"], np.mean(np.square(want)), rtol=1e-4)
    np.testing.assert_allclose(obs.loc[target, "inpainting_mae_tiny"], np.mean(np.abs(want)), rtol=1e-4)
    assert drain(analyze(tiny, recipe="inpainting", embedding="tiny", sources=100)).skipped
    drain(analyze(tiny, recipe="inpainting", embedding="tiny", sources=2))
    few = tiny.cells.obs["inpainting_mse_tiny"].copy()
    assert few[target] != obs.loc[target, "inpainting_mse_tiny"]
    drain(analyze(tiny, recipe="inpainting", embedding="tiny", sources=2, seed=1))
    assert (few.dropna() != tiny.cells.obs["inpainting_mse_tiny"].dropna()).any()


def test_a_grid_has_each_source_in_each_target_of_any_field(tiny, tmp_path):
    obs = tiny.cells.obs
    sources, targets = list(obs.index[obs["field"] == "A12"][:2]), list(obs.index[obs["good"]][[0, 5, -1]])
    out = tmp_path / "grid.svg"
    grid = inpaint_grid(tiny, sources=sources, targets=targets, model="tiny", out=str(out))
    assert grid.predicted.shape == (2, 3, 64, 64)
    for i, source in enumerate(sources):
        one = drain(inpaint(tiny, source=source, target=targets[2], model="tiny"))
        np.testing.assert_allclose(grid.predicted[i, 2], one["prediction"], atol=1e-5)
        np.testing.assert_allclose(grid.mse[i, 2], one["mse"], rtol=1e-4)
    np.testing.assert_array_equal(grid.real[2], one["target"])
    assert "svg" in out.read_text()[:400]
    with pytest.raises(InputError, match="1 to 12 sources"):
        inpaint_grid(tiny, sources=targets * 5, targets=targets, model="tiny")
    with pytest.raises(InputError, match=r"has to end in \.png"):
        inpaint_grid(tiny, sources=sources, targets=targets, model="tiny", out="grid.txt")


def test_patterns_of_many_in_one_cell_lie_at_its_place(tiny):
    obs = tiny.cells.obs
    target, sources = obs.index[obs["good"]][0], list(obs.index[obs["field"] == "A12"][:3])
    (look,) = patterns(tiny, cells=[*sources, target], target=target, model="tiny")
    assert [p.part for p in look.planes] == ["prediction", "real", "error", "spread", *["prediction"] * 3]
    each = [drain(inpaint(tiny, source=s, target=target, model="tiny")) for s in sources]
    np.testing.assert_allclose(
        look.planes[0].data, np.mean([e["prediction"] for e in each], axis=0), atol=1e-5
    )
    np.testing.assert_allclose(look.planes[2].data, look.planes[0].data - look.planes[1].data, atol=1e-6)
    assert look.planes[2].limits[0] == -look.planes[2].limits[1]
    assert all((p.y0, p.x0, p.scale) == tuple(each[0][k] for k in ("y0", "x0", "scale")) for p in look.planes)
    np.testing.assert_allclose(list(look.numbers["mse"].values()), [e["mse"] for e in each], rtol=1e-3)
    with pytest.raises(InputError, match="besides the target"):
        patterns(tiny, cells=[target], target=target, model="tiny")


def test_of_many_sources_all_count_and_some_are_shown(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "MOST_SHOWN", 5)
    monkeypatch.setattr(steps, "AT_ONCE", 4)
    obs = tiny.cells.obs
    group = list(obs.index[(obs["group"] == "A06") & obs["good"]])[:12]
    target, sources = group[0], group[1:]
    (look,) = patterns(tiny, cells=group, target=target, model="tiny")
    each = [drain(inpaint(tiny, source=s, target=target, model="tiny")) for s in sources]
    np.testing.assert_allclose(
        look.planes[0].data, np.mean([e["prediction"] for e in each], axis=0), atol=1e-5
    )
    assert list(look.numbers["mse"]) == sources
    order = np.argsort(list(look.numbers["mse"].values()), kind="stable")
    assert [p.name for p in look.planes[4:]] == [
        f"predicted from {sources[i]}" for i in order[[0, 2, 5, 8, 10]]
    ]
    assert "5 of them have a picture of their own" in look.words[1]
    monkeypatch.setattr(steps, "MOST_SOURCES", 10)
    with pytest.raises(InputError, match="from 10 sources at most; got 11"):
        patterns(tiny, cells=group, target=target, model="tiny")
    # A whole group from the command line, some of it drawn.
    words = [
        "look",
        str(tiny.root),
        "--what",
        "patterns",
        "--embedding",
        "tiny",
        "--out",
        str(tmp_path / "a.svg"),
    ]
    assert main([*words, "--group", "A06", "--sample", "4", "--targets", target]) == 0
    assert "4 of " in capsys.readouterr().out
    assert main([*words, "--sources", *sources[:2], "--targets", target, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)[target]["mse"]) == set(sources[:2])
    assert main([*words, "--sources", *sources[:2], "--targets", *sources[:2]]) == 2
    assert "in which cell with --targets ID" in capsys.readouterr().err


def test_a_model_that_cannot_predict_says_why(tiny):
    assert why_not(tiny, "tiny") == ""
    assert "cannot predict a protein pattern" in why_not(tiny, "measurements")
