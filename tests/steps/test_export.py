from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from noise import add_noise_embedding

from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.export import export


@pytest.fixture
def project(simple_project: Project) -> Project:
    """With three cells that have no vector, a score, a ranking and a neighbour graph."""
    cells = simple_project.cells
    cells.obsm["X_simple"][:3] = np.nan
    simple_project.write_cells(cells)
    drain(analyze(simple_project, recipe="score"))
    drain(analyze(simple_project, recipe="variability"))
    return simple_project


@pytest.mark.parametrize(("format", "read"), [("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)])
def test_anndata_opens_without_us(project: Project, tmp_path: Path, format: str, read):  # noqa: A002
    out = drain(export(project, tmp_path / f"cells.{format}", format=format))
    table = read(out)
    assert table.n_obs == project.cells.n_obs - 3
    assert np.isfinite(table.obsm["X_simple"]).all()
    assert table.obs_names[0] == project.cells.obs_names[3]
    assert json.loads(table.uns["cellrep"]["score_simple"])["options"]["a"] == "control=-1"
    assert json.loads(table.uns["cellrep"]["X_simple"])["model"] == "simple"


def test_rows_without_a_vector_stay_when_asked_for(project: Project, tmp_path: Path):
    out = drain(export(project, tmp_path / "a.parquet", format="parquet", drop_missing=False))
    assert len(pd.read_parquet(out)) == project.cells.n_obs


def test_csv_has_a_row_per_cell(project: Project, tmp_path: Path):
    table = pd.read_csv(drain(export(project, tmp_path / "cells.csv", format="csv")), index_col="cell_id")
    cells = project.cells[table.index]
    assert np.allclose(table["score_simple"], cells.obs["score_simple"], equal_nan=True)
    assert len(table) == project.cells.n_obs - 3


def test_ranking_starts_with_the_well(project: Project, tmp_path: Path):
    table = pd.read_csv(drain(export(project, tmp_path / "ranking.csv", format="ranking")))
    wanted = {"well", "compound", "dose_rank", "n_cells", "score_mean", "score_sd", "heterogeneity"}
    assert wanted < set(table.columns)
    assert table.columns[0] in ("plate", "well")
    assert "group" not in table  # the group is the well here
    assert len(table) == 8


def test_only_one_embedding(project: Project, tmp_path: Path):
    add_noise_embedding(project, "noise")
    drain(analyze(project, recipe="score", embedding="noise"))
    table = ad.read_h5ad(drain(export(project, tmp_path / "one.h5ad", embedding="simple")))
    assert list(table.obsm) == ["X_simple"]
    assert "score_noise" not in table.obs
    assert "score_simple" in table.obs
    assert "score_noise" in project.cells.obs  # the project itself is as it was


def test_groups_and_how_alike_they_are(project: Project, tmp_path: Path):
    with pytest.raises(InputError, match="no likeness of groups"):
        drain(export(project, tmp_path / "alike.csv", format="likeness"))
    drain(analyze(project, recipe="profile"))
    groups = ad.read_h5ad(drain(export(project, tmp_path / "groups.h5ad", format="groups")))
    assert groups.obsm["X_simple"].shape == (8, 6)
    assert groups.obsp["cosine_simple"].shape == (8, 8)
    assert json.loads(groups.uns["cellrep"]["profile_simple"])["options"]["average"] == "mean"
    table = pd.read_csv(
        drain(export(project, tmp_path / "groups.csv", format="groups")), index_col="group_id"
    )
    assert list(table.index) == list(groups.obs_names)
    alike = pd.read_csv(drain(export(project, tmp_path / "alike.csv", format="likeness")), index_col=0)
    assert list(alike.index) == list(alike.columns) == list(groups.obs["name"])
    np.testing.assert_allclose(alike, groups.obsp["pearson_simple"], atol=1e-5)
    with pytest.raises(InputError, match="ends otherwise"):
        drain(export(project, tmp_path / "groups.txt", format="groups"))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("a.xls", {"format": "xls"}, "no export format 'xls'; formats are h5ad"),
        (".", {}, "is a folder"),
        ("a.h5ad", {"embedding": "nope"}, "no embedding 'nope'; there are simple"),
        ("r.csv", {"format": "ranking", "embedding": "nope"}, "no ranking of nope"),
    ],
)
def test_bad_input_is_one_sentence(
    simple_project: Project, tmp_path: Path, name: str, options: dict, sentence: str
):
    with pytest.raises(InputError, match=sentence):
        drain(export(simple_project, tmp_path / name, **options))


def test_the_projects_own_table_is_safe(simple_project: Project):
    with pytest.raises(InputError, match="inside the project"):
        drain(export(simple_project, simple_project.root / "cells.zarr", format="zarr"))
