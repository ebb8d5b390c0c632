from __future__ import annotations

import json

import numpy as np
import pytest
from asking import run
from noise import add_noise_embedding
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import embedding_names, provenance
from napari_cellrep.jobs import drain
from napari_cellrep.session import Session
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import (
    analyze,
)


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


@pytest.mark.slow
def test_maps_of_other_kinds_lie_beside_the_first(simple_project: Project):
    with pytest.raises(InputError, match="needs 10 fields or groups; there are 8"):
        run(simple_project, "map", fit="groups")
    with pytest.raises(InputError, match="Only umap can place"):
        run(simple_project, "map", fit="fields", method="tsne")
    with pytest.raises(InputError, match="one of umap"):
        run(simple_project, "map", method="pca")
    found = run(simple_project, "map", method="tsne", perplexity=20.0)
    assert found.written == ("obsm/X_tsne_simple", "obsm/X_pca_simple")
    cells = open_project(simple_project.root).cells
    assert embedding_names(cells) == ["simple"]
    assert "map_X_tsne_simple" in provenance(cells)
    assert np.array_equal(np.isfinite(cells.obsm["X_tsne_simple"]).all(axis=1), cells.obs["good"])


@pytest.mark.slow
def test_the_map_is_made_from_the_means_of_groups(simple_project: Project):
    cells = simple_project.cells
    cells.obs["group"] = [f"{g} {i % 3}" for i, g in enumerate(cells.obs["group"])]
    simple_project.write_cells(cells)
    found = run(simple_project, "map", fit="groups", n_neighbors=8)
    assert "made from the means of 24 groups, and every cell placed on it" in found.summary
    cells = open_project(simple_project.root).cells
    assert np.array_equal(np.isfinite(cells.obsm["X_umap_simple"]).all(axis=1), cells.obs["good"])
    assert run(simple_project, "map", fit="groups", n_neighbors=8).skipped
