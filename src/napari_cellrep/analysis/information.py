"""What the features know: information about columns, and an order of cells along a process (pseudotime)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from napari_cellrep.analysis.neighbours import nearest
from napari_cellrep.specs import InputError


def mutual_information(
    x: np.ndarray, factors: Mapping[str, np.ndarray], bins: int = 6, corrected: bool = False
) -> dict[str, np.ndarray]:
    """Mutual information of every feature with every metadata column, in nats, from histograms.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Each feature is cut into `bins` of equal width.
    factors : mapping of str to ndarray of shape (n,)
        Categories; "" is unknown, and those cells do not count for that factor.
    bins : int
        The papers' code has 6 (WTC11) and 25 (Protein Atlas).
    corrected : bool
        Take off what a factor of as many values has by chance, (rows − 1) (columns − 1) / 2n (Miller and Madow): a factor with
        many values has more by itself, which the papers leave in.

    Returns
    -------
    dict of str to ndarray of shape (d,), float64
        Factor → its information with every feature.

    Raises
    ------
    InputError
        If a factor has one value only, or all its values are unique.

    References
    ----------
    .. [1] Doron et al. 2023; ``models.md`` §3.7.
    """
    if bins < 2:
        raise InputError(f"Mutual information needs two bins or more; got {bins}.")
    out = {}
    for name, values in factors.items():
        text = np.asarray(values).astype(str)
        known = text != ""
        kinds, code = np.unique(text[known], return_inverse=True)
        if len(kinds) < 2:
            raise InputError(
                f"The column {name} has {len(kinds)} value{'' if len(kinds) == 1 else 's'}; information needs two or more."
            )
        if len(kinds) == known.sum():
            raise InputError(f"Every cell has its own {name}, so every feature would seem to know it all.")
        rows = np.asarray(x[known], np.float64)
        low, high = rows.min(axis=0), rows.max(axis=0)
        width = np.where(high > low, (high - low) / bins, 1.0)
        at = np.clip(((rows - low) / width).astype(np.int64), 0, bins - 1)  # (n, d)
        found = np.empty(x.shape[1])
        for j in range(x.shape[1]):
            counts = np.bincount(at[:, j] * len(kinds) + code, minlength=bins * len(kinds)).reshape(bins, -1)
            found[j] = _information(counts, corrected)
        out[name] = found
    return out


def _information(counts: np.ndarray, corrected: bool) -> float:
    n = counts.sum()
    p = counts / n
    expected = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    has = p > 0
    value = float((p[has] * np.log(p[has] / expected[has])).sum())
    if corrected:
        rows, columns = (counts.sum(axis=1) > 0).sum(), (counts.sum(axis=0) > 0).sum()
        value -= (rows - 1) * (columns - 1) / (2 * n)
    return max(value, 0.0)


def dominant_factors(information: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of features whose information is largest for each factor; "none" where two share the largest.

    Parameters
    ----------
    information : mapping of str to ndarray of shape (d,)
        From `mutual_information`.
    """
    values = np.stack(list(information.values()), axis=1)
    best = values.argmax(axis=1)
    alone = (values == values.max(axis=1, keepdims=True)).sum(axis=1) == 1
    share = np.bincount(best[alone], minlength=values.shape[1]) / len(values)
    return {**dict(zip(information, share.tolist(), strict=True)), "none": float(1 - share.sum())}


# ---- an order of cells ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pseudotime:
    """Cells in order.

    Parameters
    ----------
    time : ndarray of shape (n,), float64
        0 at the root, 1 at the farthest cell; NaN for cells that no path of neighbours joins to it.
    components : ndarray of shape (n, n_components), float64
        Diffusion components, the constant one left out.
    eigenvalues : ndarray of shape (n_components,), float64
    """

    time: np.ndarray
    components: np.ndarray
    eigenvalues: np.ndarray


def diffusion_pseudotime(
    x: np.ndarray, root: int, *, n_neighbors: int = 15, n_components: int = 10, seed: int = 0
) -> Pseudotime:
    """Order cells by their diffusion distance from a root cell, over the graph of nearest neighbours.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Best 50 principal components, as the paper has it.
    root : int
        Row of the cell at which the process begins.
    n_neighbors : int
        Of the graph, as in `neighbours.graph` (the cell itself counts).
    n_components : int

    Raises
    ------
    InputError
        If the root is no row, or there are too few cells.

    References
    ----------
    .. [1] Haghverdi et al., Nat. Methods 13:845 (2016), on UMAP's connectivities, density-normalised, as scanpy computes it;
       ``models.md`` §3.7.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import eigsh

    from napari_cellrep.analysis.neighbours import graph

    n = len(x)
    if n < max(n_neighbors, 5):
        raise InputError(f"An order needs at least {max(n_neighbors, 5)} cells; there are {n}.")
    if not 0 <= root < n:
        raise InputError(f"The root is row {root}, and there are {n} cells.")
    weights = graph(x, n_neighbors, seed)[1].astype(np.float64)
    island = connected_components(weights, directed=False)[1]
    own = np.flatnonzero(island == island[root])
    if len(own) < 5:
        raise InputError(
            f"The root has only {len(own) - 1} cells that a path of neighbours joins to it; choose another."
        )
    weights = weights[own][:, own]
    density = 1 / np.asarray(weights.sum(axis=1)).ravel()
    weights = sparse.diags(density) @ weights @ sparse.diags(density)  # where cells lie closer counts no more
    half = sparse.diags(1 / np.sqrt(np.asarray(weights.sum(axis=1)).ravel()))
    symmetric = half @ weights @ half
    most = min(n_components + 1, len(own) - 1)
    start = np.random.default_rng(seed).normal(size=len(own))
    values, vectors = eigsh(symmetric, k=most, which="LM", v0=start)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    at = int(np.flatnonzero(own == root)[0])
    scale = values[1:] / (1 - np.minimum(values[1:], 1 - 1e-12))
    distance = np.sqrt((((vectors[:, 1:] - vectors[at, 1:]) * scale) ** 2).sum(axis=1))
    time, components = np.full(n, np.nan), np.full((n, most - 1), np.nan)
    time[own] = distance / distance.max() if distance.max() > 0 else 0.0
    components[own] = vectors[:, 1:]
    return Pseudotime(time, components, values[1:])


def central_cell(x: np.ndarray, rows: np.ndarray) -> int:
    """The cell nearest to the mean of some cells: a root that does not hang on one odd cell."""
    if not len(rows):
        raise InputError("No cell can be the root: none of those chosen counts.")
    mean = np.asarray(x[rows], np.float64).mean(axis=0, keepdims=True)
    return int(rows[nearest(mean, 1, to=x[rows])[0][0, 0]])
