from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from asking import good, run

from napari_cellrep.data import Project
from napari_cellrep.specs import InputError


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
    cells.obs["mark"] = np.where(cells.obs["well"] == "A05", "alone", cells.obs["control"].astype(str))
    simple_project.write_cells(cells)
    found = run(simple_project, "knows", label="mark", n_draws=20)
    assert "Not tested, because all its cells are in one field: alone." in found.summary
    known = found.numbers["rows"][0]["balanced_accuracy"]
    cells = simple_project.cells
    cells.obs["three"] = pd.Categorical(cells.obs["mark"].where(cells.obs["mark"] != "alone", None))
    simple_project.write_cells(cells)
    without = run(simple_project, "knows", label="three", n_draws=20)
    assert without.numbers["rows"][0]["balanced_accuracy"] == pytest.approx(known)  # not lowered by the one
    assert f"Left out: {(good(simple_project)['well'] == 'A05').sum()} of the" in without.summary
    found = run(simple_project, "neighbours", label="mark", apart="field")
    assert "No neighbour could know alone: all cells of each are in one field." in found.summary


@pytest.mark.slow
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


def test_information_of_every_number(simple_project: Project):
    found = run(simple_project, "information", columns="control,well")
    assert sum(found.numbers["dominant"].values()) == pytest.approx(1)
    assert len(found.numbers["information"]["control"]) == 6
    assert found.numbers["information"]["control"][0] == max(
        found.numbers["information"]["control"]
    )  # the ratio
    assert set(run(simple_project, "information").numbers["mean"]) >= {"group", "compound"}
