from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from asking import good, run
from noise import add_noise_embedding
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn.linear_model import LinearRegression

from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import (
    analyze,
    ranking,
)


def test_ranking_holds_metadata_counts_and_both_spreads(simple_project: Project):
    drain(analyze(simple_project, recipe="variability"))
    assert "score_sd" not in ranking(simple_project)
    drain(analyze(simple_project, recipe="score"))
    result = drain(analyze(simple_project, recipe="variability"))
    table = ranking(open_project(simple_project.root))
    pd.testing.assert_frame_equal(table, result.table)
    wanted = [
        "well",
        "compound",
        "dose_rank",
        "control",
        "n_cells",
        "score_mean",
        "score_sd",
        "heterogeneity",
    ]
    assert set(wanted) < set(table.columns)
    obs = simple_project.cells.obs
    good = obs[obs["good"]]
    assert table["n_cells"].to_dict() == good.groupby(good["group"].astype(str)).size().to_dict()
    assert int((table["n_cells"] + table["n_left_out"]).sum()) == len(obs)
    assert table.at["A06", "score_sd"] == pytest.approx(
        good[good["well"] == "A06"]["score_simple"].std(ddof=0)
    )
    assert table["score_sd"].is_monotonic_decreasing
    for of in ("score_sd", "heterogeneity"):
        p, corrected = table[f"{of}_p"], table[f"{of}_p_fdr"]
        assert p.between(1 / 2001, 1).all()
        np.testing.assert_allclose(corrected, stats.false_discovery_control(p))
        assert (table[f"{of}_expected"] > 0).all()
    assert "reference groups (control −1)" in result.summary  # A of the score
    assert f"{int((table['score_sd_p_fdr'] <= 0.05).sum())} var" in result.summary
    assert table["rank_score_sd"].tolist() == list(range(1, 9))
    assert table.at["A06", "dose_rank"] == 4
    assert np.all(
        (table["score_sd_low"] <= table["score_sd"]) & (table["score_sd"] <= table["score_sd_high"])
    )


def test_the_ranking_says_what_flagged_cells_would_change(simple_project: Project):
    found = drain(analyze(simple_project, recipe="variability", n_draws=0))
    told = found.numbers["with_flagged"]
    cells = simple_project.cells
    good = cells.obs["good"].to_numpy(bool)
    assert told["n_flagged"] == int((~good).sum()) > 0
    spread = []
    for use in (good, np.ones(len(good), bool)):
        x = np.asarray(cells.obsm["X_simple"], float)[use]
        z = pd.DataFrame((x - x.mean(axis=0)) / x.std(axis=0))
        spread.append(z.groupby(cells.obs["group"].astype(str).to_numpy()[use]).std(ddof=0).mean(axis=1))
    assert told["spearman"] == pytest.approx(stats.spearmanr(*spread).statistic, abs=1e-3)
    first = [set(s.nlargest(told["first"]).index) for s in spread]
    assert told["stay"] == len(first[0] & first[1])
    assert f"Counting the {told['n_flagged']:,} flagged cells, too, would give an order" in found.summary
    own = (cells.obs["group"].astype(str) == "A06").to_numpy() & good
    x = np.asarray(cells.obsm["X_simple"], float)[good]
    z = ((x - x.mean(axis=0)) / x.std(axis=0))[own[good]]
    assert found.table.loc["A06", "pairwise_distance"] == pytest.approx(pdist(z, "cosine").mean(), rel=1e-4)
    everyone = drain(analyze(simple_project, recipe="variability", n_draws=0, include_flagged=True))
    assert "with_flagged" not in everyone.numbers


@pytest.mark.slow
def test_rankings_of_two_embeddings_and_two_groupings_live_side_by_side(simple_project: Project):
    add_noise_embedding(simple_project, "noise")
    for key in ("simple", "noise"):
        drain(analyze(simple_project, recipe="score", embedding=key))
        drain(analyze(simple_project, recipe="variability", embedding=key))
    drain(analyze(simple_project, recipe="variability", embedding="simple", by="compound", min_cells=20))
    assert ranking(simple_project).shape[0] == 8  # wells, though compounds were ranked last
    assert ranking(simple_project, by="compound").index.tolist() == sorted(
        ["LY294002", "Wortmannin"], key=lambda c: -ranking(simple_project, by="compound").at[c, "score_sd"]
    )
    a, b = ranking(simple_project, embedding="simple"), ranking(simple_project, embedding="noise")
    assert a.columns.tolist() == b.columns.tolist()
    assert not np.allclose(a.loc[b.index, "heterogeneity"], b["heterogeneity"])
    groups = ad.read_zarr(simple_project.root / "groups.zarr")
    assert groups.n_obs == 10
    assert groups.obs["n_cells_simple"].dtype == "Int64"
    with pytest.raises(InputError, match="no ranking of nothing"):
        ranking(simple_project, embedding="nothing")


def test_small_groups_are_marked_not_ranked(simple_project: Project):
    cells = simple_project.cells
    good = cells.obs["good"].to_numpy().copy()
    a05 = np.flatnonzero(good & (cells.obs["well"] == "A05").to_numpy())
    good[a05[4:]] = False
    good[(cells.obs["well"] == "A09").to_numpy()] = False
    cells.obs["good"] = good
    simple_project.write_cells(cells)
    table = drain(analyze(simple_project, recipe="variability")).table
    assert table["rank_heterogeneity"].isna().sum() == 2
    assert table["heterogeneity_p_fdr"].isna().sum() == 2
    assert table.index[-2:].tolist() == ["A05", "A09"]
    assert table.at["A05", "n_cells"] == 4
    assert np.isfinite(table.at["A05", "heterogeneity"])
    assert table.at["A09", "n_cells"] == 0
    assert np.isnan(table.at["A09", "heterogeneity"])


def test_no_group_with_enough_cells_is_a_sentence(simple_project: Project):
    with pytest.raises(InputError, match="no group has 100000 cells that count, so none can be ranked"):
        drain(analyze(simple_project, recipe="variability", min_cells=100_000))


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


@pytest.mark.slow
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
