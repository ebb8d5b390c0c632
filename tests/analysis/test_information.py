from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import mutual_info_score

from napari_cellrep.analysis.information import (
    central_cell,
    diffusion_pseudotime,
    dominant_factors,
    mutual_information,
)
from napari_cellrep.specs import InputError


def test_information_is_that_of_scikit_learn_on_bins_of_equal_width():
    rng = np.random.default_rng(0)
    stage = rng.integers(4, size=500)
    well = rng.integers(3, size=500)
    x = np.c_[
        stage + rng.normal(size=500) * 0.3,
        well + rng.normal(size=500) * 0.3,
        rng.normal(size=500),
        np.ones(500),
    ]
    found = mutual_information(x, {"stage": stage, "well": well}, bins=6)
    for j in range(3):
        edges = np.linspace(x[:, j].min(), x[:, j].max(), 7)
        binned = np.clip(np.digitize(x[:, j], edges[1:-1]), 0, 5)
        assert found["stage"][j] == pytest.approx(mutual_info_score(stage, binned), abs=1e-9)
    assert found["stage"][3] == found["well"][3] == 0
    share = dominant_factors(found)
    assert found["stage"][0] > found["well"][0]
    assert found["stage"][1] < found["well"][1]
    assert share["none"] == 0.25
    assert sum(share.values()) == pytest.approx(1)
    by_chance = mutual_information(rng.normal(size=(500, 20)), {"stage": stage}, corrected=True)
    assert by_chance["stage"].mean() < mutual_information(x[:, 2:3], {"stage": stage})["stage"].mean() + 0.01
    assert by_chance["stage"].mean() < 0.01


def test_unknown_values_do_not_count():
    stage = np.array(["a", "b", "", "a", "b", "b"])
    x = np.array([0.0, 1, 5, 0, 1, 1])[:, None]
    found = mutual_information(x, {"stage": stage}, bins=2)["stage"][0]
    assert found == pytest.approx(mutual_info_score(["a", "b", "a", "b", "b"], [0, 1, 0, 1, 1]))


@pytest.mark.parametrize(
    ("values", "words"), [(["a"] * 6, "has 1 value"), (list("abcdef"), "has its own stage")]
)
def test_factors_that_say_nothing_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        mutual_information(np.random.default_rng(0).normal(size=(6, 2)), {"stage": np.array(values)})


def spiral(n: int = 300, noise: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    t = np.sort(rng.uniform(0, 1, n))
    angle = 1.5 * np.pi * t
    return np.c_[np.cos(angle), np.sin(angle), t] + rng.normal(size=(n, 3)) * noise, t


@pytest.mark.slow
def test_pseudotime_follows_a_bent_path_and_is_scanpys():
    import scanpy as sc

    x, t = spiral()
    found = diffusion_pseudotime(x, 0, n_neighbors=15)
    assert spearmanr(found.time, t).statistic > 0.98
    assert found.time[0] == 0
    assert found.time.max() == 1
    assert (
        found.eigenvalues[0] > 0.9994
    )  # where scanpy leaves the eigenvalue's weight away, and loses the path
    x, _ = spiral(200, 0.25)
    found = diffusion_pseudotime(x, 0, n_neighbors=15)
    adata = ad.AnnData(x.astype(np.float32))
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X", method="umap", random_state=0)
    sc.tl.diffmap(adata, n_comps=10)
    adata.uns["iroot"] = 0
    sc.tl.dpt(adata, n_dcs=10)
    assert spearmanr(found.time, adata.obs["dpt_pseudotime"]).statistic > 0.999
    np.testing.assert_allclose(found.time, adata.obs["dpt_pseudotime"], atol=0.02)


def test_cells_that_no_path_reaches_have_no_time():
    x, _ = spiral()
    far = np.r_[x, x[:40] + 1000]
    found = diffusion_pseudotime(far, 10)
    assert np.isfinite(found.time[:300]).all()
    assert np.isnan(found.time[300:]).all()
    for root, words in ((-1, "row -1"), (340, "340 cells")):
        with pytest.raises(InputError, match=words):
            diffusion_pseudotime(far, root)
    with pytest.raises(InputError, match="at least 15 cells"):
        diffusion_pseudotime(x[:9], 0)


def test_the_central_cell_is_not_the_odd_one():
    x = np.array([[0.0], [1], [2], [3], [50]])
    assert central_cell(x, np.array([0, 1, 2, 3])) in (1, 2)
    with pytest.raises(InputError, match="none of those chosen"):
        central_cell(x, np.array([], int))
