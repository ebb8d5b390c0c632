"""Every column that the tables get is explained."""

from __future__ import annotations

import pytest
from image_files import made, pixels, write

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.columns import COMPUTED, YOURS, explain
from napari_cellrep.steps.export import export, flat_table

RECIPES: dict[str, dict[str, object]] = {
    "score": {}, "outliers": {}, "unlike": {"control": "control=-1"}, "mixture": {}, "order": {"root": "control=-1"},
    "kinds": {"most": 2, "min_cells": 10},
    "map": {"n_neighbors": 5}, "variability": {"n_draws": 20}, "profile": {}, "similar": {"group": "A06"}, "rare": {"tail": 0.1},
    "fields": {"n_draws": 20}, "moved": {"by": "compound", "condition": "control", "a": "-1", "b": "1", "n_draws": 20},
    "treatments": {"n_null": 20},
}  # fmt: skip


@pytest.mark.slow
def test_every_column_of_every_analysis_is_explained(simple_project: Project, tmp_path):
    for recipe, options in RECIPES.items():
        drain(analyze(simple_project, recipe=recipe, **options))
    found = explain(simple_project)
    assert found["cells"]["dose_rank"] == found["groups"]["compound"] == YOURS
    assert not [c for columns in found.values() for c, words in columns.items() if words == COMPUTED]
    assert not [c for columns in found.values() for c, words in columns.items() if "{" in words]
    out = drain(export(simple_project, tmp_path / "cells.csv", format="csv"))
    assert out.read_text(encoding="utf-8").splitlines()[0].split(",") == list(found["cells"])


def test_what_lies_in_the_table_without_any_analysis(simple_project: Project, capsys):
    found = explain(simple_project)
    assert list(found) == ["cells"]
    assert list(found["cells"]) == ["cell_id", *flat_table(simple_project.cells).columns]
    assert COMPUTED not in found["cells"].values()
    assert "pixels" in found["cells"]["area_px"]
    assert main(["info", str(simple_project.root), "--columns"]) == OK
    said = capsys.readouterr().out
    assert "q_signal" in said
    assert "in SDs of the field's noise" in said


def test_a_project_without_cells_says_what_to_do(tmp_path, capsys):
    write(tmp_path / "in" / "a.tif", pixels(8, 8))
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert main(["info", str(project.root), "--columns"]) == BAD_INPUT
    assert "cellrep segment" in capsys.readouterr().err
