from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import embedding_names, provenance
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import TABLES, AnalyzeResult, analyze
from napari_cellrep.steps.recipes import corrected_wells


def run(project: Project, recipe: str, **options) -> AnalyzeResult:
    return drain(analyze(project, recipe=recipe, embedding="simple", **options))


def good(project: Project) -> pd.DataFrame:
    obs = open_project(project.root).cells.obs
    return obs[obs["good"]]


def test_cells_between_the_controls_lie_between_them(simple_project: Project):
    result = run(simple_project, "mixture")
    obs = good(simple_project)
    mean = obs.groupby(["compound", "control"], observed=True)["mixing_simple"].mean().unstack()
    np.testing.assert_allclose(mean[-1], 0, atol=1e-6)
    np.testing.assert_allclose(mean[1], 1, atol=1e-6)
    assert ((mean[0] > 0) & (mean[0] < 1)).all()
    assert "compound on its own" in result.summary
    assert run(simple_project, "mixture").skipped
    with pytest.raises(InputError, match="they must differ"):
        run(simple_project, "mixture", a="control=1")


def test_cells_are_ordered_from_the_untreated_ones(simple_project: Project):
    result = run(simple_project, "order", root="control=-1")
    obs = good(simple_project)
    time = obs.groupby("control", observed=True)["time_simple"].mean()
    assert time[-1] < time[0] < time[1]
    assert result.numbers["root"] in obs.index
    assert obs.loc[result.numbers["root"], "time_simple"] == 0
    cells = open_project(simple_project.root).cells
    assert embedding_names(cells) == ["simple"]  # diffusion components are no embedding
    assert np.isfinite(cells.obsm["X_diffmap_simple"][cells.obs["good"]]).any()
    with pytest.raises(InputError, match="No root is chosen"):
        run(simple_project, "order")


def test_kinds_within_groups_and_rare_groups(simple_project: Project):
    result = run(simple_project, "kinds", by="compound")
    obs = good(simple_project)
    assert set(obs["kind_simple"].dropna()) <= {"1", "2", "3", "4", "5"}
    for name, share in result.numbers["shares"].items():
        own = obs.loc[obs["compound"] == name, "kind_simple"].value_counts(normalize=True)
        assert share[0] == pytest.approx(own["1"], abs=1e-3)
        assert len(share) > 1  # every compound has cells of no and of full dose
    with pytest.raises(InputError, match="measure how odd each cell is first"):
        run(simple_project, "rare")
    run(simple_project, "outliers")
    rare = run(simple_project, "rare", tail=0.05)
    assert len(rare.table) == 8
    assert rare.table["rare_share"].is_monotonic_decreasing
    assert ((rare.table["rare_p"] > 0) & (rare.table["rare_p"] <= 1)).all()
    again = run(simple_project, "rare", tail=0.05)
    assert again.skipped
    assert list(again.table.index) == list(rare.table.index)


def test_fields_of_a_group_are_compared_one_by_one(simple_project: Project):
    found = run(simple_project, "fields", by="compound", n_draws=50).table
    assert found["n_counted_fields"].tolist() == [int((good(simple_project)["compound"] == c).groupby(
        good(simple_project)["field"], observed=True).any().sum()) for c in found.index]  # fmt: skip
    assert (found["field_highest"] > 0).all()
    assert (
        run(simple_project, "fields", by="compound", measure="distance", n_draws=0)
        .table["field_p"]
        .isna()
        .all()
    )
    plain = run(simple_project, "fields", n_draws=0)
    less = run(simple_project, "fields", n_draws=0, quality="area_px,q_focus")
    taken = less.numbers["without"]
    assert taken["columns"] == ["area_px", "q_focus"]
    assert (
        f"Taken out of every cell first: area_px and q_focus; left of the variance within fields {taken['left']:.0%}"
        in less.summary
    )
    assert (less.table["field_highest"] < plain.table["field_highest"].reindex(less.table.index)).all()
    # Against scikit-learn: residuals on both numbers, their squares and a constant for each field.
    obs = good(simple_project)
    x = np.asarray(open_project(simple_project.root).cells[obs.index].obsm["X_simple"], float)
    numbers = [obs[c].to_numpy(float) for c in ("area_px", "q_focus")]
    numbers = [np.log(v) if v.max() > 10 * v.min() > 0 else v for v in numbers]
    numbers = [(v - v.mean()) / v.std() for v in numbers]
    fields = pd.get_dummies(obs["field"].astype(str)).to_numpy(float)
    known = np.column_stack([*numbers, *(v**2 for v in numbers), fields])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    rest = z - LinearRegression(fit_intercept=False).fit(known, z).predict(known)
    spread = pd.DataFrame(rest).groupby(obs["group"].astype(str).to_numpy()).std(ddof=0).mean(axis=1)
    np.testing.assert_allclose(less.table["field_highest"], spread.reindex(less.table.index), rtol=1e-4)
    with pytest.raises(InputError, match="holds no number"):
        run(simple_project, "fields", quality="compound")
    with pytest.raises(InputError, match="one of sd and distance"):
        run(simple_project, "fields", measure="range")
    with pytest.raises(InputError, match="Not enough data"):
        run(simple_project, "fields", min_cells=100_000, n_draws=0)


def test_both_drugs_moved_their_protein(simple_project: Project):
    found = run(simple_project, "moved", by="compound", condition="control", a="-1", b="1", n_draws=200)
    assert (found.table["moved_p_fdr"] < 0.05).all()
    assert (found.table["moved_ratio"] > 2).all()
    assert "moved between control -1 and 1" in found.summary
    for options, words in (
        ({}, "No condition"),
        ({"condition": "control"}, "Two different values"),
        ({"condition": "x"}, "no column"),
    ):
        with pytest.raises(InputError, match=words):
            run(simple_project, "moved", by="compound", **options)


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


def test_embeddings_are_compared_on_fields_held_out(simple_project: Project):
    cells = simple_project.cells
    cells.obsm["X_noise"] = np.random.default_rng(0).normal(size=(cells.n_obs, 6)).astype(np.float32)
    cells.obs["effect"] = np.where(cells.obs["dose_rank"].astype(float) > 4, "moved", "still")
    simple_project.write_cells(cells)
    simple_project.reload()
    found = run(simple_project, "knows", label="effect", n_draws=100)
    assert found.table["embedding"].tolist() == ["simple", "noise"]
    assert found.table["balanced_accuracy"][0] > 0.8
    assert found.numbers["pairs"][0]["better"] == "simple"
    assert "The next is noise" in found.summary
    assert run(simple_project, "knows", label="effect", n_draws=100).skipped
    cells = simple_project.cells
    cells.obsm["X_noise"] = cells.obsm["X_noise"] * 2 + 1
    simple_project.write_cells(cells)
    assert not run(simple_project, "knows", label="effect", n_draws=100).skipped  # another embedding changed
    with pytest.raises(InputError, match="No label is chosen"):
        run(simple_project, "knows")
    with pytest.raises(InputError, match="No two cells have the same y_px"):
        run(simple_project, "knows", label="y_px")


def test_what_lies_in_one_part_is_not_tested_and_said(simple_project: Project):
    with pytest.raises(InputError, match="Fewer than two values of well have cells in several fields"):
        run(simple_project, "knows", label="well", n_draws=20)
    cells = simple_project.cells
    cells.obs["mark"] = np.where(cells.obs["well"] == "A01", "alone", cells.obs["control"].astype(str))
    simple_project.write_cells(cells)
    found = run(simple_project, "knows", label="mark", n_draws=20)
    assert "Not tested, because all its cells are in one field: alone." in found.summary
    assert (
        found.numbers["rows"][0]["balanced_accuracy"] > 0.4
    )  # of three others; it is not lowered by the one
    found = run(simple_project, "neighbours", label="mark", apart="field")
    assert "No neighbour could know alone: all cells of each are in one field." in found.summary


def test_information_of_every_number(simple_project: Project):
    found = run(simple_project, "information", columns="control,well")
    assert sum(found.numbers["dominant"].values()) == pytest.approx(1)
    assert len(found.numbers["information"]["control"]) == 6
    assert found.numbers["information"]["control"][0] == max(
        found.numbers["information"]["control"]
    )  # the ratio
    assert set(run(simple_project, "information").numbers["mean"]) >= {"group", "compound"}


def test_groups_against_sets_from_a_file(simple_project: Project, tmp_path):
    obs = good(simple_project)
    dose = obs.groupby("well", observed=True)["dose_rank"].first()
    path = tmp_path / "sets.csv"
    rows = [f"{well},{'low' if d < 4 else 'high'}" for well, d in dose.items()]
    path.write_text("well,kind\n" + "\n".join(rows))
    found = run(simple_project, "standard", sets_file=str(path), clusters=2)
    assert found.numbers["n_items"] == 8
    assert found.numbers["average_precision"] > found.numbers["chance"]
    assert found.table["set"].isin(["low", "high"]).all()
    assert run(simple_project, "standard", sets_file=str(path), clusters=2).skipped
    path.write_text("well,kind\n" + "\n".join(rows[::-1]))
    assert not run(simple_project, "standard", sets_file=str(path), clusters=2).skipped  # the file changed
    with pytest.raises(InputError, match="No file of sets"):
        run(simple_project, "standard")


def test_results_of_one_recipe_stay_when_another_is_run(simple_project: Project):
    run(simple_project, "outliers")
    run(simple_project, "rare", by="well")
    run(simple_project, "fields", by="well", n_draws=10)
    groups = open_project(simple_project.root).groups
    assert {"rare_share_simple", "field_highest_simple"} <= set(groups.obs.columns)
    assert {"rare_simple_by_well", "fields_simple_by_well"} <= set(provenance(groups))
    table = run(simple_project, "rare", by="well").table
    assert not any(column.endswith("_simple") for column in table.columns)
    assert set(TABLES) >= {"rare", "fields", "moved", "treatments", "knows", "standard"}


def test_the_fraction_follows_the_dose(simple_project: Project):
    run(simple_project, "mixture")
    obs = good(simple_project)
    wells = obs.groupby("well", observed=True).agg(
        dose=("dose_rank", "first"), mean=("mixing_simple", "mean")
    )
    assert spearmanr(wells["dose"], wells["mean"]).statistic > 0.7


# ---- options and recipes of the papers -----------------------------------------------------------------


def test_the_score_says_what_the_wells_are_worth_as_an_assay(simple_project: Project):
    numbers = run(simple_project, "score").numbers["assay"]
    assert numbers["BBBC013"]["n_negative"] == numbers["BBBC013"]["n_positive"] == 2
    mean = good(simple_project).groupby(["control", "well"], observed=True)["score_simple"].mean()
    a, b = mean[-1].to_numpy(), mean[1].to_numpy()
    z = 1 - 3 * (a.std(ddof=1) + b.std(ddof=1)) / abs(b.mean() - a.mean())
    assert numbers["BBBC013"]["z_prime"] == pytest.approx(z)
    assert numbers["BBBC013 Wortmannin"]["z_prime"] is None  # one well of each control
    assert "Not enough data" in numbers["BBBC013 Wortmannin"]["why_not"]
    assert numbers["BBBC013"]["v_factor"] is None
    found = run(simple_project, "score", per="none", dose="control")
    assert "Z′ of the wells' means: BBBC013" in found.summary
    with pytest.raises(InputError, match="no column 'x'"):
        run(simple_project, "score", dose="x")


def test_quality_is_taken_out_of_the_spread_and_what_is_left_is_said(simple_project: Project):
    run(simple_project, "score")
    whole = run(simple_project, "variability", by="well", n_draws=0).table
    found = run(simple_project, "variability", by="well", n_draws=0, quality="area_px,q_focus")
    taken = found.numbers["without"]
    assert taken["columns"] == ["area_px", "q_focus"]
    own = good(simple_project).groupby("well", observed=True)["q_signal"]
    cv = (own.std(ddof=0) / own.mean()).reindex(whole.index)
    np.testing.assert_allclose(whole["intensity_cv"], cv)  # the other of two numbers
    assert (whole["intensity_cv_expected"] > 0).all()
    assert whole["intensity_cv_p_fdr"].between(0, 1).all()
    assert 0.3 < taken["left"] < 0.95
    assert 0.3 < taken["left_of_score"] <= 1
    assert f"left of the variance within groups {taken['left']:.0%}" in found.summary
    assert (found.table["heterogeneity"] < whole["heterogeneity"].reindex(found.table.index)).all()
    columns = run(simple_project, "variability", by="well", n_draws=0, quality="quality").numbers["without"][
        "columns"
    ]
    assert len(columns) > 2
    assert all(c.startswith("q_") for c in columns)
    with pytest.raises(InputError, match="holds no number"):
        run(simple_project, "variability", quality="compound")
    hits = run(simple_project, "variability", by="well", n_draws=0, known="control=0")
    curve = hits.numbers["known"]["share_of_first_k"]
    dosed = (good(simple_project).groupby("well", observed=True)["control"].first() == 0).reindex(
        hits.table.index
    )
    np.testing.assert_allclose(curve, dosed.cumsum() / np.arange(1, 9), atol=1e-4)
    assert hits.numbers["known"]["chance"] == 0.5
    assert "average precision of" in hits.summary
    with pytest.raises(InputError, match="COLUMN=VALUE"):
        run(simple_project, "variability", by="well", known="control")


def test_groups_are_compared_with_references_as_bright(simple_project: Project):
    run(simple_project, "score")
    plain = run(simple_project, "variability", by="well", n_draws=0).table
    found = run(simple_project, "variability", by="well", n_draws=0, as_bright=True)
    left = found.table["n_references"]
    assert (left > 0).any()
    np.testing.assert_array_equal(found.table["score_sd_p"].notna(), left > 0)
    assert (found.table["score_sd"] == plain["score_sd"].reindex(found.table.index)).all()
    np.testing.assert_allclose(
        found.table["intensity_cv_expected"], plain["intensity_cv_expected"].reindex(found.table.index)
    )
    few = int((left == 0).sum())
    assert "as bright (q_signal)" in found.summary
    assert (f"for {few} too few are, so they have no p" in found.summary) == (few > 0)
    groups = open_project(simple_project.root).groups
    assert str(groups.obs["n_references_simple"].dtype) == "Int64"
    with pytest.raises(InputError, match="No intensity is known"):
        run(simple_project, "variability", as_bright=True, intensity="")
    cells = simple_project.cells
    cells.obs["dim"] = np.where(cells.obs["control"] == -1, 1.0, 9.0) + np.random.default_rng(0).random(
        cells.n_obs
    )
    cells.obs["Cell line"] = np.where(cells.obs["well"].astype(str) == "A05", "HeLa", "U2OS")
    del cells.obs["control"]
    simple_project.write_cells(cells)
    run(simple_project, "score", a="compound=Wortmannin", b="compound=LY294002", per="none")
    assert "of the same Cell line" in run(simple_project, "variability", by="well", n_draws=0).summary
    assert "of the same" not in run(simple_project, "variability", by="well", n_draws=0, same="none").summary
    with pytest.raises(InputError, match="no column 'mood'"):
        run(simple_project, "variability", same="mood")


def test_odd_cells_by_density_and_by_their_own_group(simple_project: Project):
    values = {}
    for how in ("neighbours", "lof", "own"):
        assert run(simple_project, "outliers", how=how).numbers["how"] == how
        values[how] = good(simple_project)["outlier_simple"]
        assert np.isfinite(values[how]).all()
    assert spearmanr(values["neighbours"], values["own"]).statistic > 0.5
    assert values["lof"].median() == pytest.approx(1, abs=0.15)
    with pytest.raises(InputError, match="one of neighbours, lof"):
        run(simple_project, "outliers", how="x")


def test_maps_of_other_kinds_lie_beside_the_first(simple_project: Project):
    with pytest.raises(InputError, match="needs 10 fields or groups; there are 8"):
        run(simple_project, "map", fit="groups")
    with pytest.raises(InputError, match="Only umap can place"):
        run(simple_project, "map", fit="fields", method="tsne")
    with pytest.raises(InputError, match="one of umap"):
        run(simple_project, "map", method="pca")
    found = run(simple_project, "map", method="tsne", perplexity=20.0)
    assert found.written == ("obsm/X_tsne_simple", "obsm/X_pca_simple")
    cells = open_project(simple_project.root).cells
    assert embedding_names(cells) == ["simple"]
    assert "map_X_tsne_simple" in provenance(cells)
    assert np.array_equal(np.isfinite(cells.obsm["X_tsne_simple"]).all(axis=1), cells.obs["good"])


@pytest.mark.slow
def test_the_map_is_made_from_the_means_of_groups(simple_project: Project):
    cells = simple_project.cells
    cells.obs["group"] = [f"{g} {i % 3}" for i, g in enumerate(cells.obs["group"])]
    simple_project.write_cells(cells)
    found = run(simple_project, "map", fit="groups", n_neighbors=8)
    assert "made from the means of 24 groups, and every cell placed on it" in found.summary
    cells = open_project(simple_project.root).cells
    assert np.array_equal(np.isfinite(cells.obsm["X_umap_simple"]).all(axis=1), cells.obs["good"])
    assert run(simple_project, "map", fit="groups", n_neighbors=8).skipped


def test_several_classes_per_cell_are_asked_of_every_embedding(simple_project: Project):
    cells = simple_project.cells
    dose = cells.obs["dose_rank"].astype(float)
    cells.obs["where"] = np.where(dose > 6, "nucleus", np.where(dose > 3, "nucleus; cytoplasm", "cytoplasm"))
    cells.obsm["X_noise"] = np.random.default_rng(0).normal(size=(cells.n_obs, 4)).astype(np.float32)
    simple_project.write_cells(cells)
    found = run(simple_project, "knows", label="where", probe="mlp", epochs=8, n_draws=50)
    assert found.table["embedding"].tolist() == ["simple", "noise"]
    assert set(found.numbers["rows"][0]["f1"]) == {"nucleus", "cytoplasm"}
    assert found.numbers["rows"][0]["macro_f1"] > 0.75
    assert "macro-F1" in found.summary


def test_groups_of_one_annotation_are_nearer_and_other_data_agree(simple_project: Project, tmp_path):
    cells = simple_project.cells
    dose = cells.obs["dose_rank"].astype(float)
    cells.obs["effect"] = np.where(dose > 6, "moved", np.where(dose < 2, "still", "half; way"))
    simple_project.write_cells(cells)
    found = run(simple_project, "terms", annotation="effect", control_for="compound", n_pairs=50)
    assert set(found.table["term"]) == {"moved", "still"}  # wells of several are of none
    assert found.numbers["overall"] < 0
    assert "SDs nearer to each other" in found.summary
    assert set(found.numbers["overall_where"]) <= {"same", "different"}
    obs = good(simple_project)
    path = tmp_path / "other.csv"
    x = simple_project.cells[obs.index].obsm["X_simple"]
    means = pd.DataFrame(x, index=obs["well"].astype(str)).groupby(level=0).mean()
    (means * 3 + 1).to_csv(path)
    same = run(simple_project, "second", table_file=str(path), n_draws=200)
    assert same.numbers["mantel_r"] == pytest.approx(1)
    assert same.numbers["mantel_p"] < 0.02
    assert same.numbers["cca_accuracy"] == 1
    path.write_text("well,a\nA01,1\nZ,2\n")
    for recipe, options, words in (
        ("terms", {}, "No annotation"),
        ("second", {}, "No table"),
        ("second", {"table_file": str(path)}, "1 groups .group. of 8 are in the first column"),
    ):
        with pytest.raises(InputError, match=words):
            run(simple_project, recipe, **options)


def test_annotations_of_chosen_groups(simple_project: Project, tmp_path):
    chosen = "A01,A05,E12"  # little or no dose
    found = run(simple_project, "enrichment", choose=chosen, annotation="control")
    assert found.table["set"][0] == "-1"
    assert found.table["n_set"][0] == 2
    # By hand: of 8 wells 2 are controls; of 3 chosen both.
    assert found.table["p"][0] == pytest.approx(6 / 56)
    assert "background: the 8 groups (group) here" in found.summary
    path = tmp_path / "sets.csv"
    path.write_text("well,kind\nA01,low\nE12,low\nA05,low;odd\nA12,high\n")
    same = run(simple_project, "enrichment", choose=chosen, sets_file=str(path))
    assert same.table["set"][0] == "low"
    assert same.table["p"][0] == pytest.approx(1 / 56)
    assert (
        len(run(simple_project, "enrichment", choose="A01", near=2, annotation="control").table["n"].unique())
        == 1
    )
    by_value = run(simple_project, "enrichment", clustered="compound", annotation="compound")
    assert set(by_value.table["chosen"]) == {"compound=Wortmannin", "compound=LY294002"}
    assert (
        run(simple_project, "enrichment", choose="compound=Wortmannin", annotation="compound").table["n"][0]
        == 5
    )
    for options, words in (
        ({"choose": chosen}, "one of both"),
        ({"annotation": "control"}, "No groups are chosen"),
        ({"choose": "Z99", "annotation": "control"}, "neither a set nor a group"),
        ({"choose": "A01", "annotation": "control"}, "two groups or more"),
    ):
        with pytest.raises(InputError, match=words):
            run(simple_project, "enrichment", **options)
