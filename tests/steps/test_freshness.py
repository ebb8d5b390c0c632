"""What is said to be out of date, with real fields: after the light, an outline or the flags were changed, and renewed."""

from __future__ import annotations

import json

import pytest

from napari_cellrep.cli import main
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.project import LIGHT
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.freshness import OutOfDate, look
from napari_cellrep.steps.illumination import correct
from napari_cellrep.steps.segment import segment

KEY = "measurements"


@pytest.fixture
def mapped(small: Project) -> Project:
    drain(segment(small))  # by the segmenter that the tests below use
    drain(crop(small))
    drain(embed(small, model=KEY))
    drain(analyze(small, recipe="map", embedding=KEY))
    drain(analyze(small, recipe="outliers", embedding=KEY))
    return open_project(small.root)


def looked(project: Project) -> OutOfDate:
    return look(open_project(project.root), [KEY])


@pytest.mark.slow
def test_nothing_is_until_the_light_is_changed_and_then_one_step_after_the_other(mapped, capsys):
    assert looked(mapped) == OutOfDate(results={KEY: ()})
    drain(correct(mapped))
    found, fields = looked(mapped), tuple(f.id for f in mapped.fields)
    assert (found.labels, found.cells, found.vectors) == (fields, fields, (KEY,))
    assert found.by_light == "Cells were found, measured and embedded"
    assert not found.replaced
    assert main(["info", str(mapped.root)]) == 0
    told = capsys.readouterr().out
    assert "cells of 4 fields were found before the illumination was changed: cellrep segment" in told
    assert "out of date: the illumination" in told

    project = open_project(mapped.root)
    drain(segment(project))
    found = looked(project)
    assert (found.labels, found.cells) == ((), fields)
    drain(crop(project, fields=["A06"]))
    assert set(looked(project).cells) == set(fields) - {"A06"}
    drain(crop(project))
    found = looked(project)
    assert (found.labels, found.cells, found.vectors) == ((), (), (KEY,))
    drain(embed(project, model=KEY))
    found = looked(project)
    assert (found.vectors, found.lacking) == ((), {})
    assert set(found.results[KEY]) == {f"map_{KEY}", f"outliers_{KEY}"}
    for recipe in ("map", "outliers"):
        drain(analyze(project, recipe=recipe, embedding=KEY))
    assert looked(project) == OutOfDate(results={KEY: ()})

    drain(correct(project, off=True))  # what was made with it is of other pixels than there are now
    assert looked(project).labels == fields


@pytest.mark.slow
def test_an_outline_that_was_edited(mapped):
    labels = mapped.read_labels("A06")
    obs = mapped.cells.obs
    one = obs[(obs["field"] == "A06") & obs["good"]].iloc[0]  # one that counts
    info = mapped.label_info("A06")
    labels[int(one["y_px"]), int(one["x_px"])] = 0
    mapped.write_labels("A06", labels, {**info, "edited": True})
    drain(crop(mapped, fields=["A06"]))
    found = looked(mapped)
    assert found.lacking == {KEY: 1}
    assert set(found.results[KEY]) == {f"map_{KEY}", f"outliers_{KEY}"}
    assert (found.labels, found.cells, found.vectors) == ((), (), ())
    drain(correct(mapped))
    assert "A06" not in looked(mapped).labels  # it stays as it was painted
    assert "A06" in looked(mapped).cells


@pytest.mark.slow
def test_other_flags_are_other_cells(mapped):
    drain(crop(mapped, rules={"debris_share": 0.8}))
    found = looked(mapped)
    assert set(found.results[KEY]) == {f"map_{KEY}", f"outliers_{KEY}"}
    assert found.lacking == {}


@pytest.mark.slow
def test_a_table_from_before_the_light_was_noted_goes_by_the_history(mapped):
    cells = mapped.cells
    made = dict(cells.uns["cellrep"])
    assert set(json.loads(made.pop(LIGHT))) == {f.id for f in mapped.fields}
    cells.uns["cellrep"] = made
    mapped.write_cells(cells)
    assert looked(mapped).cells == ()
    drain(correct(mapped))
    assert looked(mapped).cells == tuple(f.id for f in mapped.fields)


def test_who_leaves_is_not_kept_waiting(mapped):
    assert look(mapped, [KEY], lambda: False) == OutOfDate()
