from __future__ import annotations

import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from noise import add_noise_embedding

import napari_cellrep
from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.export import export, share
from napari_cellrep.steps.relocate import relocate
from napari_cellrep.steps.report import write_methods


@pytest.fixture
def project(simple_project: Project) -> Project:
    """With three cells that have no vector, a score, a ranking and a neighbour graph."""
    cells = simple_project.cells
    cells.obsm["X_simple"][:3] = np.nan
    simple_project.write_cells(cells)
    drain(analyze(simple_project, recipe="score"))
    drain(analyze(simple_project, recipe="variability"))
    return simple_project


@pytest.mark.slow
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
    out = simple_project.root / ".." / "beside.csv"  # not inside
    drain(export(simple_project, out, format="csv"))
    with pytest.raises(InputError, match="inside the project"):
        drain(export(simple_project, simple_project.root / "cells.zarr", format="zarr"))


@pytest.mark.slow
def test_scanpy_and_cellxgene_find_what_they_want(project: Project, tmp_path: Path):
    """Columns that other programs refuse: mixed types, gaps, slashes, hashes of 64 bits, a field called "0"."""
    import scanpy as sc

    drain(analyze(project, recipe="map", n_neighbors=10))
    cells = project.cells
    n = cells.n_obs
    cells.obs["mixed"] = pd.Series([1, "two", None, 4.5] * n, dtype=object).to_numpy()[:n]
    cells.obs["maybe"] = pd.array([True, False, None] * n, dtype="boolean")[:n]
    cells.obs["count"] = pd.array([1, None] * n, dtype="Int64")[:n]
    first = str(cells.obs["field"].iloc[0])
    cells.obs["field"] = cells.obs["field"].astype(str).replace({first: "0"})
    cells.obs.index = [i.replace(f"{first}:", "0:") for i in cells.obs.index]
    table = ad.read_h5ad(drain(export(project, tmp_path / "cells.h5ad")))
    assert table.obs_names.is_unique
    assert "0" in set(table.obs["field"])
    for name, column in table.obs.items():
        assert "/" not in name
        if isinstance(column.dtype, pd.CategoricalDtype):
            assert all(isinstance(c, str) for c in column.cat.categories)
        elif name != "mask_hash":
            assert column.dtype.kind in "bif", name
            assert column.dtype.kind != "i" or column.dtype == np.int32, name
    assert table.obs["count"].dtype == np.float64
    assert np.isnan(
        table.obs["count"].iloc[1] if table.obs["count"].iloc[0] == 1 else table.obs["count"].iloc[0]
    )
    assert set(table.obs["mixed"].cat.categories) == {"1", "two", "4.5"}
    assert all(len(h) == 16 for h in table.obs["mask_hash"])
    for key, x in table.obsm.items():
        assert key.startswith("X_")
        assert (x.ndim, x.dtype) == (2, np.float32)
    assert table.X.shape == (table.n_obs, 6)  # cellxgene opens no table without a matrix
    assert np.array_equal(table.X, table.obsm["X_simple"])
    # cellxgene begins with a map of this very name, else with two numbers of some embedding
    assert np.array_equal(table.obsm["X_umap"], table.obsm["X_umap_simple"], equal_nan=True)
    assert "X_umap" not in project.cells.obsm
    sc.pp.neighbors(table, use_rep="X_simple", n_neighbors=10)
    sc.tl.leiden(table, flavor="igraph", n_iterations=2) if _has_igraph() else sc.tl.diffmap(table)
    again = tmp_path / "again.h5ad"
    table.write_h5ad(again)
    assert ad.read_h5ad(again).n_obs == table.n_obs


def _has_igraph() -> bool:
    import importlib.util

    return importlib.util.find_spec("igraph") is not None


def test_methods_say_what_was_done_and_nothing_else(project: Project, tmp_path: Path):
    text = drain(write_methods(project, tmp_path / "methods.txt")).read_text(encoding="utf-8")
    assert "8 fields of view" in text
    assert "FKHR-GFP (protein) and DNA (nucleus)" in text
    assert "Recipe variability" in text
    assert "Log-ratio score: Lu" in text
    assert "numpy " in text
    assert "UMAP" not in text  # no map was made
    assert "illumination" not in text
    with pytest.raises(InputError, match="is a folder"):
        drain(write_methods(project, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [True, False])
def test_a_project_without_its_images_can_be_shared(project: Project, tmp_path: Path, labels: bool):
    n = project.cells.n_obs
    out = drain(share(project, tmp_path / "shared", labels=labels))
    assert not [p for p in out.rglob("*") if p.suffix in (".tif", ".png") and p.parent.name != "labels"]
    assert any((out / "labels").iterdir()) == labels
    assert str(tmp_path) not in (out / "project.json").read_text(encoding="utf-8")
    shared = open_project(out)
    assert shared.cells.n_obs == n
    assert np.array_equal(shared.cells.obsm["X_simple"], project.cells.obsm["X_simple"], equal_nan=True)
    assert shared.groups is not None
    assert all("not in this copy" in f.problem for f in shared.fields)
    assert not shared.usable_fields
    assert not any("/" in p.path for f in shared.fields for p in f.planes)
    with pytest.raises(InputError, match="is not there"):
        shared.read_image(shared.fields[0].id)
    drain(analyze(shared, recipe="map", n_neighbors=10))  # what needs no pixels goes on
    drain(export(shared, tmp_path / "again.h5ad"))
    with pytest.raises(InputError, match="exists already"):
        drain(share(project, tmp_path / "shared"))
    found = drain(relocate(shared, Path(napari_cellrep.__file__).parent / "sample"))
    assert (found.found, found.missing) == (8, 0)
    assert np.array_equal(shared.read_image("A01"), project.read_image("A01"))


def test_what_a_killed_export_left_is_removed_when_it_is_written_again(simple_project: Project, tmp_path):
    left = tmp_path / ".cells.zarr.99-1.part"
    left.mkdir()
    (left / "chunk").write_bytes(b"x")
    os.utime(left, (1, 1))
    drain(export(simple_project, tmp_path / "cells.zarr", format="zarr"))
    assert not left.exists()
