from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.jobs import drain
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import (
    analyze,
    ranking,
)


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
