from __future__ import annotations

import numpy as np
import pytest
from noise import add_noise_embedding

from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import (
    analyze,
)


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


def test_nothing_embedded(sample_project: Project):
    with pytest.raises(InputError, match="no vectors yet"):
        drain(analyze(sample_project, recipe="map"))


@pytest.mark.slow
def test_the_chosen_control_is_what_groups_are_compared_with(simple_project: Project):
    """Where a lab's column is not called control: nothing but the choice says which groups are normal."""
    cells = simple_project.cells
    cells.obs["drug"] = cells.obs["well"].astype(str).map(lambda w: "DMSO" if w in ("A01", "E01") else "LY")
    del cells.obs["control"]
    simple_project.write_cells(cells)
    for recipe in ("variability", "rare", "fields"):
        if recipe == "rare":
            drain(analyze(simple_project, recipe="outliers"))
        before = drain(analyze(simple_project, recipe=recipe))
        assert "no control is chosen" in before.summary
        simple_project.set_comparison(control="drug=DMSO")
        after = drain(analyze(simple_project, recipe=recipe))
        assert not after.skipped
        assert "2 reference groups (drug DMSO)" in after.summary
        simple_project.set_comparison(control="")


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
    assert "reference groups (control −1)" in drain(analyze(simple_project, recipe="variability")).summary
    with pytest.raises(InputError, match="COLUMN=VALUE"):
        simple_project.set_comparison(control="DMSO")
    with pytest.raises(InputError, match="a, b and control"):
        simple_project.set_comparison(c="x=1")
