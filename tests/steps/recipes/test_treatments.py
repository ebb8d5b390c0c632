from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from asking import good, run

from napari_cellrep.data import Project, open_project
from napari_cellrep.specs import InputError
from napari_cellrep.steps.recipes.treatments import corrected_wells


@pytest.mark.parametrize("correct", ["none", "zca", "zca_corr"])
def test_treatments_are_told_from_the_control(simple_project: Project, correct):
    if correct != "none":  # two control wells are here, and sphering wants three
        with pytest.raises(InputError, match="three are needed"):
            run(simple_project, "treatments", by="dose_rank", correct=correct)
        control = "compound=Wortmannin"
    else:
        control = "control=-1"
    found = run(simple_project, "treatments", by="dose_rank", control=control, correct=correct, n_null=100)
    obs = good(simple_project)
    wells = obs.groupby("well", observed=True)[["control", "compound"]].first()
    is_control = wells["control"] == -1 if correct == "none" else wells["compound"] == "Wortmannin"
    assert found.table["n_wells"].sum() == int((~is_control).sum())
    groups = open_project(simple_project.root).groups
    assert np.isfinite(groups.obsm["X_simple"]).all()
    with pytest.raises(
        InputError, match="No batch has 3 controls"
    ):  # one control well of each drug has no SD
        run(simple_project, "treatments", by="dose_rank", correct="z", batch="compound")


def test_mechanisms_of_treatments_are_matched(simple_project: Project):
    cells = simple_project.cells
    dose = cells.obs["dose_rank"].astype(float)
    cells.obs["effect"] = np.where(dose > 4, "moved", "still")
    cells.obs["treated"] = cells.obs["compound"].astype(str) + " " + cells.obs["dose_rank"].astype(str)
    simple_project.write_cells(cells)
    found = run(
        simple_project, "treatments", by="treated", control="", label="effect", compound="treated", n_null=50
    )
    matched = found.numbers["matched"]
    assert matched["not same compound"]["n"] == found.table["n_wells"].size
    assert matched["not same compound"]["accuracy"] > matched["not same compound"]["chance"]
    assert "has the same effect for" in found.summary
    with pytest.raises(InputError, match="has several values in 8 wells"):
        run(simple_project, "treatments", by="treated", control="", label="area_px", n_null=50)


def test_cells_without_a_value_are_left_out_of_wells_that_have_one(simple_project: Project):
    cells = simple_project.cells
    obs = cells.obs
    lacks = np.random.default_rng(0).random(len(obs)) < 0.3
    treated = obs["compound"].astype(str) + " " + obs["dose_rank"].astype(str)
    untreated = (
        obs["well"] == "E12"
    ).to_numpy()  # no cell of this well has a value: the well stays, as a control
    obs["treated"] = pd.Categorical(treated.where(~lacks & ~untreated, None))
    simple_project.write_cells(cells)
    found = run(simple_project, "treatments", by="treated", control="well=E12", average="mean", n_null=50)
    counts = obs["good"].to_numpy() & lacks & ~untreated
    assert (
        f"Left out: {counts.sum():,} cells without a value in treated, in wells whose others" in found.summary
    )
    groups = open_project(simple_project.root).groups
    name = str(treated[(obs["well"] == "A06").to_numpy()].iloc[0])
    of = obs["good"].to_numpy() & (treated == name).to_numpy() & ~lacks & ~untreated
    fields = obs["field"].astype(str)[of]
    want = pd.DataFrame(np.asarray(cells.obsm["X_simple"])[of]).groupby(fields.to_numpy()).mean().mean()
    np.testing.assert_allclose(groups.obsm["X_simple"][groups.obs["name"] == name][0], want, rtol=1e-4)
    obs["run"] = pd.Categorical(np.where(lacks, None, "a"))
    simple_project.write_cells(cells)
    found = run(simple_project, "treatments", by="compound", batch="run", n_null=50)
    assert found.summary.startswith("Profiled 2 treatments (compound) from 8 wells")  # no well was cut in two
    assert f"Left out: {int((lacks & obs['good']).sum()):,} cells without a value in run" in found.summary


def test_wells_of_batches_are_corrected_or_named():
    rng = np.random.default_rng(0)
    batch = np.repeat(["P1", "P2"], 12).astype(object)
    control = np.tile([True] * 6 + [False] * 6, 2)
    x = rng.normal(size=(24, 3)) + (batch == "P2")[:, None] * 10
    for correct in ("z", "zca", "zca_corr"):
        moved, left_out = corrected_wells(x, correct, batch, control)
        assert np.isfinite(moved).all()
        assert left_out == []
    assert abs(corrected_wells(x, "z", batch, control)[0][batch == "P2"].mean()) < 2
    moved, left_out = corrected_wells(x, "z", batch, control & (batch == "P1"))
    assert np.isnan(moved[batch == "P2"]).all()
    assert left_out[0].startswith("P2")
    with pytest.raises(InputError, match="three are needed"):
        corrected_wells(x, "zca", batch, np.zeros(24, bool))


def test_harmony_says_what_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "harmonypy", None)
    x = np.random.default_rng(0).normal(size=(12, 4))
    with pytest.raises(InputError, match=r"napari-cellrep\[harmony\]"):
        corrected_wells(x, "harmony", np.repeat(["a", "b"], 6), np.zeros(12, bool))
    with pytest.raises(InputError, match="two batches or more"):
        corrected_wells(x, "harmony", np.repeat("a", 12), np.zeros(12, bool))
