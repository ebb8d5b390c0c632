from __future__ import annotations

from asking import run

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.steps.analyze import (
    TABLES,
)


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
