from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import gaussian_kde
from sklearn.manifold import trustworthiness

from napari_cellrep.analysis.projection import kernel_density, map_by_means, pca, tsne_map, umap_map, z_score
from napari_cellrep.specs import InputError


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 40)
    return (rng.normal(size=(120, 20)) + 6 * rng.normal(size=(3, 20))[y]).astype(np.float32), y


def test_z_score_has_mean_0_and_population_sd_1_and_silences_constants():
    x = np.random.default_rng(0).normal(5, 3, (50, 3)).astype(np.float32)
    x[:, 1] = 1e6 + 0.1  # not exactly representable: its rounding must not become a signal
    z = z_score(x)
    assert np.allclose(z[:, [0, 2]].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(z[:, [0, 2]].std(axis=0), 1, atol=1e-5)
    assert not z[:, 1].any()


def test_pca_explains_what_it_should_and_keeps_distances(blobs):
    x, _ = blobs
    scores, explained = pca(x, 20)
    assert explained.sum() == pytest.approx(1, abs=1e-5)
    assert np.all(np.diff(explained) <= 1e-9)
    centred = x - x.mean(axis=0)
    assert np.allclose(np.linalg.norm(scores, axis=1), np.linalg.norm(centred, axis=1), rtol=1e-4)


def test_pca_of_few_or_equal_cells():
    assert pca(np.eye(4, 9), 50)[0].shape == (4, 3)
    scores, explained = pca(np.ones((5, 3)), 2)
    assert not scores.any()
    assert not explained.any()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_cells_are_refused(n):
    for function in (pca, umap_map):
        with pytest.raises(InputError, match="at least 3 cells"):
            function(np.zeros((n, 4), np.float32))


def test_what_is_not_finite_is_refused(blobs):
    x = blobs[0].copy()
    x[3, 2] = np.nan
    with pytest.raises(InputError, match="1 rows are not"):
        pca(x)


def test_a_map_of_three_or_four_cells_is_their_components():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert np.allclose(umap_map(x), pca(x, 2)[0], atol=1e-5)


def test_the_map_keeps_blobs_apart_and_the_same_seed_gives_the_same_map(blobs):
    x, y = blobs
    first = umap_map(x, seed=3, n_neighbors=200, n_epochs=60)  # more neighbours than cells: taken down
    assert first.shape == (120, 2)
    assert np.array_equal(first, umap_map(x, seed=3, n_neighbors=200, n_epochs=60))
    first = umap_map(x, seed=3, n_neighbors=15, n_epochs=100)
    distance = np.linalg.norm(first[:, None] - first[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.mean(y[distance.argmin(axis=1)] == y) == 1
    assert not np.array_equal(first, umap_map(x, seed=4, n_neighbors=15, n_epochs=100))


@pytest.fixture(scope="module")
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    part = np.repeat(np.arange(24), 12)
    kind = part % 3
    middle = 6 * rng.normal(size=(3, 10))[kind] + rng.normal(size=(24, 10))[part]
    return (middle + rng.normal(size=(288, 10))).astype(np.float32), part, kind


@pytest.mark.slow  # umap-learn compiles its placing of new cells in every process
def test_cells_are_placed_on_the_map_of_means(parts):
    x, part, kind = parts
    xy, n = map_by_means(x, part, n_neighbors=6, n_epochs=100, seed=2)
    assert n == 24
    assert xy.shape == (288, 2)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.mean(kind[distance.argmin(axis=1)] == kind) > 0.95
    again, _ = map_by_means(x, part, n_neighbors=6, n_epochs=100, seed=2)
    np.testing.assert_array_equal(xy, again)
    with pytest.raises(InputError, match="A map of means needs 10 fields or groups; there are 3"):
        map_by_means(x, kind)


@pytest.mark.slow  # and densMAP
def test_densmap_and_tsne_keep_neighbours_and_the_same_seed_gives_the_same_map(parts):
    x = parts[0]
    for make in (
        lambda seed: umap_map(x, seed=seed, n_neighbors=10, n_epochs=100, dens=True),
        lambda seed: tsne_map(x, seed=seed),
    ):
        xy = make(0)
        assert trustworthiness(x, xy, n_neighbors=10) > 0.85
        np.testing.assert_array_equal(xy, make(0))
    assert not np.array_equal(
        umap_map(x, n_neighbors=10, n_epochs=100), umap_map(x, n_neighbors=10, n_epochs=100, dens=True)
    )
    assert tsne_map(x[:4]).shape == (4, 2)


def test_density_is_scotts_and_its_levels_hold_their_shares():
    rng = np.random.default_rng(0)
    xy = np.concatenate([rng.normal((0, 0), (1, 2), (400, 2)), rng.normal((6, 1), 0.5, (200, 2))])
    found = kernel_density(xy)
    known = gaussian_kde(xy.T, bw_method="scott")
    gx, gy = np.meshgrid(found.x, found.y)
    np.testing.assert_allclose(found.z.ravel(), known(np.stack([gx.ravel(), gy.ravel()])), rtol=1e-9)
    assert found.z.sum() * (found.x[1] - found.x[0]) * (found.y[1] - found.y[0]) == pytest.approx(1, abs=0.01)
    at = known(xy.T)
    assert [float((at >= level).mean()) for level in found.levels] == pytest.approx(
        [0.75, 0.5, 0.25], abs=0.01
    )
    fewer = kernel_density(xy, most=150)
    there = RegularGridInterpolator((fewer.y, fewer.x), fewer.z, bounds_error=False, fill_value=0)
    assert (
        np.corrcoef(there(np.stack([gy.ravel(), gx.ravel()], axis=1)), found.z.ravel())[0, 1] > 0.95
    )  # stand-ins
    with pytest.raises(InputError, match="not on one line"):
        kernel_density(np.stack([np.arange(20.0), np.arange(20.0)], axis=1))
    with pytest.raises(InputError, match="there are 1 points"):
        kernel_density(np.zeros((1, 2)))
