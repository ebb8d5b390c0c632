from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from noise import add_noise_embedding
from scipy import stats
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from napari_cellrep.analysis.outliers import control_distance
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.jobs import drain
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import RECIPES, analyze, check_options, describe_recipes, ranking


def test_every_recipe_says_what_it_does_in_one_line():
    for recipe in RECIPES.values():
        assert (recipe.__doc__ or "").splitlines()[0].endswith(".")


def test_score_separates_the_controls_and_leaves_flagged_cells_out(simple_project: Project):
    before = list(simple_project.cells.obs.columns)
    result = drain(analyze(simple_project, recipe="score"))
    assert not result.skipped
    obs = open_project(simple_project.root).cells.obs  # from the disk
    assert set(before) < set(obs.columns)
    assert np.array_equal(np.isfinite(obs["score_simple"]), obs["good"])
    means = obs.groupby(["compound", "control"], observed=True)["score_simple"].mean().unstack()
    assert np.all(means[-1] < -0.2)
    assert np.all(means[1] > 0.2)
    made = provenance(simple_project.cells)["score_simple"]
    assert made["numbers"]["per"] == "compound"
    assert "numpy" in made["versions"]


def test_a_result_that_is_up_to_date_is_skipped_until_something_it_reads_changes(simple_project: Project):
    drain(analyze(simple_project, recipe="score"))
    again = drain(analyze(simple_project, recipe="score"))
    assert again.skipped
    assert again.summary.startswith("Up to date")
    cells = simple_project.cells
    cells.obs["unrelated"] = 1.0
    simple_project.write_cells(cells)
    assert drain(analyze(simple_project, recipe="score")).skipped
    assert not drain(analyze(simple_project, recipe="score", a="dose_rank=0")).skipped
    good = cells.obs["good"].to_numpy().copy()
    good[np.flatnonzero(good)[:3]] = False
    cells.obs["good"] = good
    simple_project.write_cells(cells)
    assert not drain(analyze(simple_project, recipe="score", a="dose_rank=0")).skipped
    assert "unrelated" in simple_project.cells.obs


def test_flagged_cells_are_used_when_asked_for(simple_project: Project):
    drain(analyze(simple_project, recipe="score", include_flagged=True))
    assert np.isfinite(simple_project.cells.obs["score_simple"]).all()


def test_another_process_column_survives(simple_project: Project):
    job = analyze(simple_project, recipe="outliers")
    next(job)
    other = open_project(simple_project.root)
    cells = other.cells
    cells.obs["theirs"] = np.arange(cells.n_obs)
    other.write_cells(cells)
    drain(job)
    obs = open_project(simple_project.root).cells.obs
    assert {"theirs", "outlier_simple"} < set(obs.columns)


def test_a_stopped_job_changes_nothing(simple_project: Project):
    job = analyze(simple_project, recipe="score")
    next(job)
    job.close()
    assert "score_simple" not in open_project(simple_project.root).cells.obs


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


def test_outliers_within_groups_and_among_all(simple_project: Project):
    drain(analyze(simple_project, recipe="outliers"))
    own = simple_project.cells.obs["outlier_simple"].to_numpy().copy()
    drain(analyze(simple_project, recipe="outliers", within="all", k=5))
    everyone = simple_project.cells.obs["outlier_simple"].to_numpy()
    good = simple_project.cells.obs["good"].to_numpy()
    assert np.array_equal(np.isfinite(own), good)
    assert np.median(own[good]) > np.median(everyone[good])
    few = drain(analyze(simple_project, recipe="outliers", within="well", k=1000))
    assert few.numbers["n_small"] == simple_project.cells.obs.loc[good, "well"].nunique()
    assert (
        f"{few.numbers['n_small']} values of the column well have fewer than 1001 usable cells" in few.summary
    )
    assert "usable cells" not in drain(analyze(simple_project, recipe="outliers", within="all")).summary


def test_map_and_neighbours_follow_scanpys_conventions(simple_project: Project):
    drain(analyze(simple_project, recipe="map", n_neighbors=10))
    found = drain(analyze(simple_project, recipe="neighbours", n_neighbors=8, label="control"))
    cells = open_project(simple_project.root).cells
    good = cells.obs["good"].to_numpy()
    xy = np.asarray(cells.obsm["X_umap_simple"])
    assert xy.shape == (cells.n_obs, 2)
    assert np.array_equal(np.isfinite(xy).all(axis=1), good)
    assert cells.obsm["X_pca_simple"].shape == (cells.n_obs, 6)
    how = cells.uns["neighbors_simple"]
    distances = cells.obsp[how["distances_key"]]
    assert np.array_equal(np.diff(distances.indptr), np.where(good, 7, 0))
    assert np.isin(distances.indices, np.flatnonzero(good)).all()
    # Under plain names too, for the embedding asked for last: there scanpy and others look.
    assert (cells.obsp["distances"] != distances).nnz == 0
    assert cells.uns["neighbors"]["connectivities_key"] == "connectivities"
    assert cells.uns["neighbors"]["params"]["use_rep"] == "X_simple"
    assert 0.5 < found.numbers["balanced_accuracy"] <= 1
    assert "control right for" in found.summary
    # Leave-one-well-out, against scikit-learn well by well.
    apart = drain(analyze(simple_project, recipe="neighbours", label="control", k=1, apart="well"))
    known = cells[good]
    x, y, well = (
        np.asarray(known.obsm["X_simple"], float),
        known.obs["control"].to_numpy(),
        known.obs["well"].astype(str).to_numpy(),
    )
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    said = np.empty_like(y)
    for name in np.unique(well):
        own = well == name
        said[own] = KNeighborsClassifier(1).fit(z[~own], y[~own]).predict(z[own])
    assert apart.numbers["accuracy"] == pytest.approx(
        accuracy_score(y, said), abs=0.003
    )  # float32 may turn near ties
    assert apart.numbers["macro_f1"] == pytest.approx(f1_score(y, said, average="macro"), abs=0.003)
    assert "those of the same well left out" in apart.summary
    with pytest.raises(InputError, match="No two cells have the same y_px"):
        drain(analyze(simple_project, recipe="neighbours", label="y_px"))
    assert drain(analyze(simple_project, recipe="map", n_neighbors=10)).skipped


def test_scanpy_finds_the_neighbours_without_being_told(simple_project: Project):
    sc = pytest.importorskip("scanpy")
    drain(analyze(simple_project, recipe="neighbours"))
    cells = open_project(simple_project.root).cells
    known = cells[cells.obs["good"]].copy()
    sc.tl.diffmap(known, n_comps=4)
    assert np.isfinite(known.obsm["X_diffmap"]).all()
    add_noise_embedding(simple_project, "noise")
    drain(analyze(simple_project, recipe="neighbours", embedding="noise"))
    assert open_project(simple_project.root).cells.uns["neighbors"]["params"]["use_rep"] == "X_noise"
    again = drain(analyze(simple_project, recipe="neighbours", embedding="simple"))
    assert not again.skipped  # the plain names were the other one's
    assert open_project(simple_project.root).cells.uns["neighbors"]["params"]["use_rep"] == "X_simple"
    assert drain(analyze(simple_project, recipe="neighbours", embedding="simple")).skipped


def test_a_set_gets_a_map_of_its_own_beside_that_of_all_cells(simple_project: Project):
    drain(analyze(simple_project, recipe="map"))
    good = simple_project.cells.obs.index[simple_project.cells.obs["good"]]
    of_all = simple_project.cells.obsm["X_umap_simple"].copy()
    sets = {
        "bright ones": {"cells": list(good[:30]), "how": "test"},
        "few": {"cells": list(good[:3]), "how": "test"},
    }
    (simple_project.root / "sets.json").write_text(json.dumps(sets))
    result = drain(analyze(simple_project, recipe="map", of="bright ones"))
    assert result.written == ("obsm/X_umap_simple_of_bright_ones",)
    cells = open_project(simple_project.root).cells
    there = np.isfinite(cells.obsm["X_umap_simple_of_bright_ones"]).all(axis=1)
    assert set(cells.obs_names[there]) == set(good[:30])
    np.testing.assert_array_equal(cells.obsm["X_umap_simple"], of_all)
    assert {"map_simple", "map_X_umap_simple_of_bright_ones"} <= set(provenance(cells))
    assert drain(analyze(simple_project, recipe="map", of="bright ones")).skipped
    sets["bright ones"]["cells"].append(good[30])
    (simple_project.root / "sets.json").write_text(json.dumps(sets))
    assert not drain(analyze(simple_project, recipe="map", of="bright ones")).skipped

    session = Session()
    session.open(simple_project)
    assert [place.name for place in session.maps if "_of_" in place.key] == ["UMAP of bright ones"]
    place = next(place for place in session.maps if "_of_" in place.key)
    assert np.isfinite(session.map_coordinates(place)).all(axis=1).sum() == 31
    for name, words in (
        ("few", "needs 10 cells or more; the set 'few' has 3"),
        ("gone", "no set called 'gone'"),
    ):
        with pytest.raises(InputError, match=words):
            drain(analyze(simple_project, recipe="map", of=name))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recipe": "mop"}, "no recipe 'mop'; recipes are map"),
        ({"recipe": "score", "embedding": "nope"}, "no embedding 'nope'; there are simple"),
        ({"recipe": "score", "c": 1}, "no setting 'c'; it has a, b, per and dose"),
        ({"recipe": "score", "a": "control"}, "COLUMN=VALUE"),
        ({"recipe": "score", "a": "mood=1"}, "no column 'mood'"),
        ({"recipe": "score", "b": "control=7"}, "values of control are -1, 0 and 1"),
        ({"recipe": "score", "a": "control=1"}, "belong to both references"),
        ({"recipe": "score", "per": "well"}, "No cell could be scored"),
        ({"recipe": "outliers", "k": "many"}, "has to be of type int"),
        ({"recipe": "outliers", "k": 0}, "between 1 and"),
        ({"recipe": "variability", "by": "mood"}, "no column 'mood'"),
        ({"recipe": "neighbours", "label": "mood"}, "no column 'mood'"),
        ({"recipe": "map", "min_dist": 7}, "between 0 and 1"),
    ],
)
def test_bad_input_is_one_sentence(simple_project: Project, options: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        drain(analyze(simple_project, **options))


def test_several_embeddings_have_to_be_told_apart(simple_project: Project):
    add_noise_embedding(simple_project, "noise")
    with pytest.raises(InputError, match=r"several embeddings.*noise and simple"):
        drain(analyze(simple_project, recipe="score"))


def test_vectors_that_are_all_alike_have_no_score(simple_project: Project):
    add_noise_embedding(simple_project, "flat", fill=0.5)
    with pytest.raises(InputError, match="same mean features"):
        drain(analyze(simple_project, recipe="score", embedding="flat"))
    for recipe in ("map", "neighbours", "variability", "outliers", "treatments", "similar", "kinds"):
        with pytest.raises(InputError, match="nothing tells them apart"):
            drain(analyze(simple_project, recipe=recipe, embedding="flat"))


def test_nothing_embedded(sample_project: Project):
    with pytest.raises(InputError, match="no vectors yet"):
        drain(analyze(sample_project, recipe="map"))


def test_a_profile_is_the_average_of_the_group_s_good_cells_and_stays_beside_the_ranking(
    simple_project: Project,
):
    drain(analyze(simple_project, recipe="variability"))
    result = drain(analyze(simple_project, recipe="profile", average="median"))
    assert "obsm/X_simple" in result.written
    drain(analyze(simple_project, recipe="profile", by="compound"))
    drain(analyze(simple_project, recipe="variability"))  # writes the table once more
    groups, cells = open_project(simple_project.root).groups, simple_project.cells
    assert groups is not None
    x, good = cells.obsm["X_simple"], cells.obs["good"].to_numpy(bool)
    for row, (name, by) in enumerate(zip(groups.obs["name"], groups.obs["by"], strict=True)):
        own = good & (cells.obs[str(by)].astype(str) == str(name)).to_numpy()
        average = np.median if by == "group" else np.mean
        np.testing.assert_allclose(
            groups.obsm["X_simple"][row], average(x[own].astype(float), axis=0), rtol=1e-5
        )
    assert set(groups.obs["by"].astype(str)) == {"group", "compound"}
    assert groups.obs["heterogeneity_simple"].notna().sum() > 0
    assert drain(analyze(simple_project, recipe="profile", by="compound")).skipped


def test_profiles_have_a_map_of_their_own(simple_project: Project):
    session = Session()
    session.open(simple_project)
    assert session.profile_map("group") is None
    drain(analyze(simple_project, recipe="profile"))
    drain(analyze(simple_project, recipe="profile", by="compound"))  # two of them: too few for a map
    session.reload()
    points, day = session.profile_map("group")
    assert day.count("-") == 2
    rows, obs = session.rows_by("group"), session.cells.obs
    dose = np.array([obs["dose_rank"].iloc[own].mean() for own in rows.members(session.visible)])
    assert (
        abs(np.corrcoef(points[:, 0], dose)[0, 1]) > 0.8
    )  # what varies most between wells is the drug's work
    assert session.profile_map("compound") is None
    assert session.profile_map("field") is None


def test_likeness_of_each_two_groups_lies_in_obsp(simple_project: Project):
    drain(analyze(simple_project, recipe="profile"))
    drain(analyze(simple_project, recipe="profile", by="dose_rank"))
    result = drain(analyze(simple_project, recipe="variability"))  # writes the table once more
    assert not any(w.startswith("obsp") for w in result.written)
    groups = open_project(simple_project.root).groups
    assert groups is not None
    for by in ("group", "dose_rank"):
        own = np.flatnonzero(groups.obs["by"].astype(str) == by)
        x = np.asarray(groups.obsm["X_simple"])[own].astype(float)
        z = (x - x.mean(axis=0)) / x.std(axis=0)
        at = np.ix_(own, own)
        np.testing.assert_allclose(groups.obsp["pearson_simple"][at], np.corrcoef(z), atol=1e-5)
        np.testing.assert_allclose(groups.obsp["cosine_simple"][at], 1 - cdist(z, z, "cosine"), atol=1e-5)
        others = np.ix_(own, np.setdiff1d(np.arange(groups.n_obs), own))
        assert np.isnan(groups.obsp["pearson_simple"][others]).all()
    made = provenance(groups)["profile_simple"]
    assert {"obsp/pearson_simple", "obsp/cosine_simple"} <= set(made["written"])
    assert made["numbers"]["likeness"] == "of profiles z-scored over the groups"
    drain(
        analyze(simple_project, recipe="profile", by="compound")
    )  # two of them: each would be the other's opposite
    groups = open_project(simple_project.root).groups
    own = (groups.obs["by"].astype(str) == "compound").to_numpy()
    assert np.isnan(groups.obsp["pearson_simple"][own]).all()


def test_groups_like_one_of_them(simple_project: Project):
    drain(analyze(simple_project, recipe="variability"))
    before, columns = simple_project.groups.obs, ranking(simple_project).columns.tolist()
    asked = {"recipe": "similar", "group": "A12", "metric": "euclidean"}
    result = drain(analyze(simple_project, **asked))
    table = result.table
    assert table.index[0] == "A12"
    assert table["distance"].iloc[0] == 0
    assert table["distance"].is_monotonic_increasing
    assert len(table) == len(before)
    dose = simple_project.cells.obs.drop_duplicates("group").set_index("group")["dose_rank"]
    assert (
        dose.loc[table.index[1:3]].min() > 5
    )  # A12 has the full dose: those with much of a drug are like it
    assert result.summary.startswith(
        f"Most like A12 (Euclidean distance of the mean profiles): {table.index[1]} ("
    )
    groups = open_project(simple_project.root).groups
    written = groups.obs["distance_simple"].astype(float)
    assert written.loc[table.index].to_numpy() == pytest.approx(table["distance"].to_numpy())
    made = provenance(groups)["similar_simple"]
    assert (made["numbers"]["group"], made["numbers"]["names"]) == ("A12", list(table.index))
    assert ranking(simple_project).columns.tolist() == columns  # a ranking is as it was
    again = drain(analyze(simple_project, **asked))
    assert again.skipped
    pd.testing.assert_frame_equal(again.table, table)
    assert not drain(analyze(simple_project, recipe="similar", group="A01")).skipped
    with pytest.raises(InputError, match="No group is chosen"):
        drain(analyze(simple_project, recipe="similar"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"average": "mode"}, "setting average can not be 'mode'; it is one of mean and median"),
        ({"min_cells": 1_000_000}, "nothing to average"),
        ({"cells": "some"}, "one of all, held-out and test"),
        ({"cells": "held-out"}, "does not say by which network"),
    ],
)
def test_a_profile_says_what_it_can_not_average(simple_project: Project, options, sentence):
    with pytest.raises(InputError, match=sentence):
        drain(analyze(simple_project, recipe="profile", **options))


def test_groups_are_chosen_once_for_all_analyses(simple_project: Project):
    simple_project.set_comparison(a="well=A01", b="well=A12", control="control=-1")
    assert open_project(simple_project.root).comparison == {
        "a": "well=A01",
        "b": "well=A12",
        "control": "control=-1",
    }
    result = drain(analyze(simple_project, recipe="score"))
    assert "between well=A01 and well=A12" in result.summary
    assert result.numbers["a"] == "well=A01"
    result = drain(analyze(simple_project, recipe="score", a="control=-1"))  # what is said goes first
    assert (result.numbers["a"], result.numbers["b"]) == ("control=-1", "well=A12")
    simple_project.set_comparison(a="", b="")
    result = drain(analyze(simple_project, recipe="score"))
    assert (result.numbers["a"], result.numbers["b"]) == ("control=-1", "control=1")
    with pytest.raises(InputError, match="COLUMN=VALUE"):
        simple_project.set_comparison(control="DMSO")
    with pytest.raises(InputError, match="a, b and control"):
        simple_project.set_comparison(c="x=1")


def test_cells_of_the_full_dose_are_unlike_the_untreated(simple_project: Project):
    with pytest.raises(InputError, match="No control group is chosen"):
        drain(analyze(simple_project, recipe="unlike"))
    simple_project.set_comparison(control="control=-1")
    result = drain(analyze(simple_project, recipe="unlike"))
    obs = simple_project.cells.obs
    far = obs["unlike_simple"]
    assert far[obs["good"]].notna().all()
    assert far[~obs["good"]].isna().all()
    assert far[obs["control"] == 1].median() > far[obs["control"] == -1].median()
    assert "farther from it" in result.summary
    assert "usable cells" not in result.summary
    assert drain(analyze(simple_project, recipe="unlike")).skipped
    few = int((obs["good"] & (obs["control"] == -1)).sum())
    found = drain(analyze(simple_project, recipe="unlike", k=1000))
    assert f"The control has {few} usable cells, so cells are compared with {few - 1} of it" in found.summary


def test_distance_to_the_control_is_the_plain_definition():
    rng = np.random.default_rng(0)
    z, control = rng.normal(size=(40, 3)), np.arange(40) < 9
    found = control_distance(z, control, k=4)
    for i in range(40):
        d = sorted(np.linalg.norm(z[i] - z[j]) for j in range(9) if j != i)[:4]
        assert found[i] == pytest.approx(np.mean(d) / np.sqrt(3), rel=1e-5)
    assert np.isnan(control_distance(z, np.arange(40) < 3)).all()


def test_every_recipe_has_its_question_and_every_option_its_words():
    found = describe_recipes()
    assert set(found) == set(RECIPES)
    assert json.loads(json.dumps(found))
    for recipe, about in found.items():
        assert about["question"].endswith("?"), recipe
        defaults = {name: rule["default"] for name, rule in about["options"].items()}
        assert check_options(recipe, defaults).items() >= defaults.items()
        assert all(rule["label"] for rule in about["options"].values())
