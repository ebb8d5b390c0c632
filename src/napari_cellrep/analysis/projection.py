"""Many numbers per cell → a few: z-scores, principal components, maps (UMAP, densMAP, t-SNE)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from napari_cellrep.analysis.neighbours import import_umap, nearest
from napari_cellrep.specs import InputError

METHODS = ("umap", "densmap", "tsne")
LEAST_MEANS = 10  # a map of fewer says nothing of where a cell lies
_PLACED_AT_ONCE = 4096  # cells; umap-learn holds all their distances to the means


def z_score(x: np.ndarray) -> np.ndarray:
    """Scale every feature to mean 0 and SD 1 over the given rows.

    A feature that is the same in every row becomes 0: it cannot tell cells apart.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        One row per cell, finite.

    Returns
    -------
    ndarray of shape (n, d), float32
        The SD is the population's (ddof 0); ``models.md`` §1.7 leaves it open.
    """
    wide = np.asarray(x, np.float64)
    mean, sd = wide.mean(axis=0), wide.std(axis=0)
    # The rounding noise of a constant column is no information: it scales with the column's own size.
    still = sd <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    return ((wide - mean) / np.where(still, np.inf, sd)).astype(np.float32)  # type: ignore[no-any-return]


def pca(x: np.ndarray, n: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Principal components.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
        Centred here; scale it first (`z_score`) when features have different units.
    n : int, default 50
        How many components; fewer come back when there are fewer cells or features.
    seed : int
        Only large tables use random numbers (randomised SVD).

    Returns
    -------
    scores : ndarray of shape (n_cells, n'), float32
    explained : ndarray of shape (n',), float64
        Share of the variance each component explains.

    Raises
    ------
    InputError
        If there are fewer than three cells.
    """
    from sklearn.decomposition import PCA

    _check(x, "A principal component analysis")
    n = min(n, len(x) - 1, x.shape[1])
    if not np.ptp(x, axis=0).any():  # nothing varies: every component is 0, and a share of nothing is 0
        return np.zeros((len(x), n), np.float32), np.zeros(n)
    model = PCA(n_components=n, random_state=seed)
    scores = model.fit_transform(np.asarray(x, np.float32))
    return scores.astype(np.float32), model.explained_variance_ratio_.astype(np.float64)


def umap_map(
    x: np.ndarray,
    *,
    seed: int = 0,
    n_neighbors: int = 30,
    min_dist: float = 0.3,
    n_components: int = 2,
    pca_components: int = 50,
    n_epochs: int = 0,
    dens: bool = False,
) -> np.ndarray:
    """Lay cells out so that similar ones are near each other: UMAP on exact neighbours.

    PCA comes first, our exact neighbours replace umap-learn's approximate ones (which would cost every
    process half a minute of compiling), and the layout starts from the first components, so that large
    distances keep some meaning. The same input and seed give the same map on the same machine.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
    seed : int
    n_neighbors : int, default 30
        The cell itself counts, as everywhere in UMAP. Taken down where there are fewer cells.
    min_dist : float, default 0.3
        How close cells may lie on the map.
    n_components : int, default 2
    pca_components : int, default 50
        0 leaves PCA out for the neighbours.
    n_epochs : int, default 0
        0: umap-learn's own choice (500 up to 10,000 cells, 200 above).
    dens : bool
        densMAP: where cells lie close in the features they lie close on the map. UMAP alone makes all densities alike.

    Returns
    -------
    ndarray of shape (n_cells, n_components), float32

    Raises
    ------
    InputError
        If there are fewer than three cells.

    References
    ----------
    .. [1] McInnes, Healy, Melville, "UMAP", arXiv:1802.03426. Defaults: Lu et al. 2019 (``models.md`` §1.7).
    .. [2] Narayan, Berger, Cho, "Assessing single-cell transcriptomic variability through density-preserving data
       visualization", Nat. Biotechnol. 39:765 (2021).
    """
    _check(x, "A map")
    scores = pca(x, max(pca_components, n_components), seed)[0]
    space = scores if pca_components else np.asarray(x, np.float32)
    if len(x) <= n_components + 2:  # too few for a layout; the components are the map
        return _widen(scores, n_components)
    n_neighbors = int(np.clip(n_neighbors, 2, len(x) - 1))
    index, distance = nearest(space, n_neighbors - 1)
    own = np.arange(len(x))[:, None]
    knn = (
        np.concatenate([own, index], axis=1).astype(np.int32),
        np.concatenate([np.zeros_like(own, np.float32), distance], axis=1).astype(np.float32),
        None,
    )
    start = _start(scores, n_components, seed)
    with warnings.catch_warnings():
        # True and of no concern: new cells are never placed on such a map.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        model = import_umap().UMAP(
            n_neighbors=n_neighbors, n_components=n_components, min_dist=min_dist, random_state=seed,
            n_jobs=1, init=start, precomputed_knn=knn, n_epochs=n_epochs or None, densmap=dens,
        )  # fmt: skip
        return np.asarray(model.fit_transform(space), np.float32)


def map_by_means(
    x: np.ndarray, part: np.ndarray, *, seed: int = 0, n_neighbors: int = 30, min_dist: float = 0.3, pca_components: int = 50,
    n_epochs: int = 0,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Make the map from the means of parts (fields, groups), and place every cell on it.

    So the map shows how parts differ, and a part of many cells shapes it no more than one of few. Few parts make a coarse map.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
    part : ndarray of shape (n_cells,)
        "" for none: such cells are placed, and in no mean.
    seed, n_neighbors, min_dist, pca_components, n_epochs
        As in `umap_map`; principal components are those of the cells.

    Returns
    -------
    xy : ndarray of shape (n_cells, 2), float32
    n_parts : int

    Raises
    ------
    InputError
        If there are fewer than ten parts.

    References
    ----------
    .. [1] DINO4Cells on single cells of the Human Protein Atlas: UMAP of the means per field, then every cell is transformed
       (``models.md`` §3.7).
    """
    _check(x, "A map")
    names, of = np.unique(np.asarray(part).astype(str), return_inverse=True)
    kept = np.flatnonzero(names != "")
    if len(kept) < LEAST_MEANS:
        raise InputError(
            f"A map of means needs {LEAST_MEANS} fields or groups; there are {len(kept)}. Fit it on cells."
        )
    scores = pca(x, max(pca_components, 2), seed)[0]
    means = np.stack([scores[of == i].mean(axis=0, dtype=np.float64) for i in kept]).astype(np.float32)
    start = _start(pca(means, 2, seed)[0], 2, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")
        model = import_umap().UMAP(
            n_neighbors=int(np.clip(n_neighbors, 2, len(kept) - 1)), min_dist=min_dist, random_state=seed,
            transform_seed=seed, n_jobs=1, init=start, n_epochs=n_epochs or None,
        ).fit(means)  # fmt: skip
        parts = [model.transform(scores[i : i + _PLACED_AT_ONCE]) for i in range(0, len(x), _PLACED_AT_ONCE)]
    return np.concatenate(parts).astype(np.float32), len(kept)


def tsne_map(
    x: np.ndarray, *, seed: int = 0, perplexity: float = 40.0, pca_components: int = 50
) -> np.ndarray:
    """Lay cells out by t-SNE (scikit-learn, Barnes-Hut), started from the first two principal components.

    One thread only: sums of several threads come in any order, and then one seed would give many maps. Ten thousand cells
    take a minute or two; for more, UMAP.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
    seed : int
    perplexity : float, default 40
        About how many neighbours count; taken down to a third of the cells.
    pca_components : int, default 50

    Returns
    -------
    ndarray of shape (n_cells, 2), float32

    References
    ----------
    .. [1] van der Maaten, Hinton, JMLR 9:2579 (2008); perplexity 40: Razdaibiedina & Brechalov 2022 (``models.md`` §2.3).
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    _check(x, "A map")
    scores = pca(x, max(pca_components, 2), seed)[0]
    if len(x) <= 4:
        return _widen(scores, 2)
    start = _widen(scores, 2)
    start = 1e-4 * start / max(float(start[:, 0].std()), 1e-12)
    with threadpool_limits(1, user_api="openmp"):
        model = TSNE(2, perplexity=min(perplexity, (len(x) - 1) / 3), init=start, random_state=seed)
        return np.asarray(model.fit_transform(scores), np.float32)


@dataclass(frozen=True)
class Density:
    """How dense points lie on a map.

    Parameters
    ----------
    x, y : ndarray of shape (g,), float64
        Map units.
    z : ndarray of shape (g, g), float64
        Density at (y, x), per map unit squared.
    levels : tuple of float
        Density that is exceeded by each share of the points, in the order of the shares.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    levels: tuple[float, ...]


def kernel_density(
    xy: np.ndarray, shares: tuple[float, ...] = (0.75, 0.5, 0.25), *, width: float = 1.0, box: np.ndarray | None = None,
    most: int = 5000, n_grid: int = 160,
) -> Density:  # fmt: skip
    """Kernel density of points on a map, by Gaussians of Scott's width, and the levels that enclose shares of them.

    The Gaussian's covariance is that of the points times n^(−1/3) (in two dimensions), times `width` squared. Of more than
    `most` points evenly spaced ones along x stand for all; n stays the number of all.

    Parameters
    ----------
    xy : ndarray of shape (n, 2), float
        Finite.
    shares : tuple of float
        Of the points, each within the region that is denser than its level.
    width : float
        Multiple of Scott's width.
    box : ndarray of shape (m, 2), optional
        Points that the grid shall cover; default `xy`.
    most, n_grid : int
        Points that kernels are put on; grid points along each axis.

    Raises
    ------
    InputError
        If there are fewer than three points, or they lie on one line.

    References
    ----------
    .. [1] Scott, "Multivariate Density Estimation", 1992; t-SNE with such densities over it: ``models.md`` §2.3.
    """
    from scipy.stats import gaussian_kde

    xy = np.asarray(xy, np.float64)
    n, around = len(xy), np.asarray(xy if box is None else box, np.float64)
    if n > most:
        order = np.argsort(xy[:, 0], kind="stable")
        xy = xy[order[np.linspace(0, n - 1, most).round().astype(np.int64)]]
    spread = np.linalg.eigvalsh(np.cov(xy.T)) if n > 2 else np.zeros(2)
    if not spread[0] > 1e-10 * spread[1]:
        raise InputError(f"A density needs three points that are not on one line; there are {n:,} points.")
    kernel = gaussian_kde(xy.T, bw_method=width * n ** (-1 / 6))
    pad = 3 * np.sqrt(np.diag(kernel.covariance))
    x, y = (np.linspace(around[:, i].min() - pad[i], around[:, i].max() + pad[i], n_grid) for i in range(2))
    z = kernel(np.stack(np.meshgrid(x, y)).reshape(2, -1)).reshape(n_grid, n_grid)
    levels = np.quantile(kernel(xy.T), [1 - share for share in shares])
    return Density(x, y, z, tuple(float(v) for v in levels))


def _start(scores: np.ndarray, n: int, seed: int) -> np.ndarray:
    """First components in the size umap-learn starts its own layouts with, no two cells at one place."""
    start = _widen(scores, n)
    start = 10 * start / max(float(np.abs(start).max()), 1e-12)
    return start + np.random.default_rng(seed).normal(scale=1e-4, size=start.shape).astype(np.float32)


def _widen(scores: np.ndarray, n: int) -> np.ndarray:
    """First `n` columns, zeros where there are fewer."""
    out = np.zeros((len(scores), n), np.float32)
    out[:, : scores.shape[1]] = scores[:, :n]
    return out


def _check(x: np.ndarray, what: str) -> None:
    if x.ndim != 2 or x.shape[1] < 1:
        raise InputError(f"{what} needs a table of cells × features; got shape {x.shape}.")
    if len(x) < 3:
        raise InputError(f"{what} needs at least 3 cells; there are {len(x)}.")
    if not np.isfinite(x).all():
        raise InputError(
            f"{what} needs finite numbers; {int((~np.isfinite(x)).any(axis=1).sum())} rows are not."
        )
