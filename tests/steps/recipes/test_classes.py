"""Learning from named sets, on real cells: who is taught, tested and predicted, and what is kept of it."""

import json

import numpy as np
import pytest

from napari_cellrep.cli import main
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.data.sets import read_sets
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze, ranking


def put(project: Project, **sets: list[str]) -> None:
    (project.root / "sets.json").write_text(
        json.dumps({name: {"cells": list(ids), "how": "test"} for name, ids in sets.items()})
    )


def some(project: Project, n: int, **where: object) -> list[str]:
    """The first n good cells of every field of which all columns say this."""
    obs = project.cells.obs[project.cells.obs["good"]]
    for column, value in where.items():
        obs = obs[obs[column] == value]
    return list(obs.groupby("field", observed=True).head(n).index)


@pytest.fixture
def named(simple_project: Project) -> Project:
    put(
        simple_project,
        untreated=some(simple_project, 8, control=-1),
        treated=some(simple_project, 8, control=1),
    )
    return simple_project


def test_the_controls_are_told_apart_on_wells_held_out(named: Project):
    result = drain(analyze(named, recipe="learn"))
    obs = open_project(named.root).cells.obs  # from the disk
    n = result.numbers
    assert n["classes"] == ["untreated", "treated"]
    assert n["n_taught"] == {name: len(made["cells"]) for name, made in read_sets(named.root).items()}
    assert n["n_tested"] == sum(n["n_taught"].values())
    assert n["n_held_out"] == 4
    assert n["balanced_accuracy"] > 0.7  # the vectors are crude on purpose
    assert "by chance" in result.summary
    assert np.array_equal(obs["predicted_simple"].notna(), obs["good"])
    assert np.array_equal(np.isfinite(obs["sure_simple"]), obs["good"])
    assert obs["sure_simple"].dropna().between(0.5, 1).all()
    # The matrix is what the columns say.
    for i, a in enumerate(n["classes"]):
        for j, b in enumerate(n["classes"]):
            square = (obs["taught_simple"] == a) & (obs["predicted_simple"] == b)
            assert int(square.sum()) == n["confusion"][i][j]
    assert set(obs.index[obs["taught_simple"] == "treated"]) == set(read_sets(named.root)["treated"]["cells"])
    made = provenance(named.cells)["learn_simple"]
    assert made["options"]["classifier"] == "logistic"
    assert made["options"]["held_out"] == "field"
    assert "scikit-learn" in made["versions"]


def test_what_was_not_asked_for_is_not_done_again(named: Project):
    assert not drain(analyze(named, recipe="learn")).skipped
    assert drain(analyze(named, recipe="learn")).skipped
    sets = {name: made["cells"] for name, made in read_sets(named.root).items()}
    put(named, **sets, other=some(named, 2, dose_rank=4))
    again = drain(analyze(named, recipe="learn"))
    assert not again.skipped
    assert again.numbers["classes"] == ["untreated", "treated", "other"]


def test_cells_in_two_sets_flagged_ones_and_lost_ones_are_left_out(named: Project):
    obs = named.cells.obs
    a, b = (made["cells"] for made in read_sets(named.root).values())
    flagged = list(obs.index[~obs["good"]][:3])
    put(named, a=[*a, b[0], b[1], *flagged, "gone:1"], b=b)
    result = drain(analyze(named, recipe="learn"))
    assert result.numbers["n_in_two_sets"] == 2
    assert "2 cells in two sets were left out" in result.summary
    assert result.numbers["n_taught"] == {"a": len(a), "b": len(b) - 2}
    obs = named.cells.obs
    assert obs.loc[b[:2], "taught_simple"].isna().all()
    assert obs.loc[b[:2], "predicted_simple"].notna().all()
    assert obs.loc[flagged, "predicted_simple"].isna().all()
    with_flagged = drain(analyze(named, recipe="learn", include_flagged=True))
    assert with_flagged.numbers["n_taught"]["a"] == len(a) + 3


def test_labels_that_mean_nothing_are_no_better_than_chance(simple_project: Project):
    obs = simple_project.cells.obs
    good = np.array(obs.index[obs["good"]])
    mixed = np.random.default_rng(0).permutation(good)[:300]
    put(simple_project, a=mixed[:150], b=mixed[150:])
    accuracy = drain(analyze(simple_project, recipe="learn")).numbers["balanced_accuracy"]
    assert 0.38 < accuracy < 0.62


def test_a_set_in_one_field_says_that_nothing_can_be_told(simple_project: Project):
    put(simple_project, a=some(simple_project, 8, well="A01"), b=some(simple_project, 8, control=1))
    result = drain(analyze(simple_project, recipe="learn"))
    assert result.numbers["balanced_accuracy"] is None
    assert result.numbers["confusion"] == []
    assert "Nothing can be told" in result.summary
    assert simple_project.cells.obs["predicted_simple"].notna().any()
    by_plate = drain(analyze(simple_project, recipe="learn", held_out="compound"))
    assert "in one compound" in by_plate.summary


def test_a_map_another_segmentation_and_a_ranking_leave_it_there(named: Project):
    drain(analyze(named, recipe="learn"))
    before = named.cells.obs["predicted_simple"].astype(object)
    drain(analyze(named, recipe="outliers"))
    named.merge()
    after = open_project(named.root).cells
    assert after.obs["predicted_simple"].astype(object).equals(before)
    assert "learn_simple" in provenance(after)
    drain(analyze(named, recipe="variability"))
    assert not {"taught_simple", "predicted_simple", "sure_simple"} & set(ranking(named).columns)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("untreated", "two sets of cells or more"),
        ("untreated,treatd", "no set called 'treatd'; sets are untreated and treated"),
        ("[untreated", "cannot be read"),
    ],
)
def test_sets_that_are_not_there_are_told(named: Project, sets: str, said: str):
    with pytest.raises(InputError, match=said):
        drain(analyze(named, recipe="learn", sets=sets))


def test_too_few_cells_and_no_sets_are_told(simple_project: Project):
    with pytest.raises(InputError, match="two sets of cells or more"):
        drain(analyze(simple_project, recipe="learn"))
    put(simple_project, a=some(simple_project, 1, well="A01"), b=some(simple_project, 8))
    with pytest.raises(InputError, match="The set a has fewer than 2 cells"):
        drain(analyze(simple_project, recipe="learn"))


def test_the_command_line_runs_the_same(named: Project, capsys):
    args = [
        "analyze",
        str(named.root),
        "learn",
        "--set",
        "classifier=forest",
        "--set",
        "sets=treated,untreated",
    ]
    assert main(args) == 0
    assert "balanced accuracy" in capsys.readouterr().out
    made = provenance(open_project(named.root).cells)["learn_simple"]
    assert made["numbers"]["classes"] == ["treated", "untreated"]
    assert made["options"]["classifier"] == "forest"
    assert main(["analyze", str(named.root), "learn", "--set", "sets=no"]) == 2
