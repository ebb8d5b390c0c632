"""Exact nearest neighbours, and what they say: classification by vote, the neighbour graph, accuracies."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from napari_cellrep.specs import InputError

_ROUNDING = 32 * float(np.finfo(np.float32).eps)  # of a matrix product, as a share of |a| |b|
_PIECES = 256  # of a row's distances; the k-th smallest of their minima bounds the k-th neighbour


def nearest(
    x: np.ndarray, k: int, *, to: np.ndarray | None = None, block: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Exact Euclidean k nearest neighbours, by matrix products in blocks.

    ``|b|² − 2ab`` in float32 orders the cells of a row. Nothing is sorted: the row is cut into pieces, and the k-th smallest of
    their minima, and what rounding may add to it, bounds the k-th neighbour. The few cells within are ordered by their exact
    distance, which that formula loses for near duplicates.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Cells whose neighbours are wanted.
    k : int
        How many. A cell is never its own neighbour, found by its row and not by its distance, so duplicates
        of a cell count as neighbours.
    to : ndarray of shape (m, d), optional
        Cells to search among; default `x` itself (leave-one-out).
    block : int
        Rows at a time; memory is ``block × m`` float32.

    Returns
    -------
    index : ndarray of shape (n, k), int64
        Nearest first; equal distances in order of the row.
    distance : ndarray of shape (n, k), float32

    Raises
    ------
    InputError
        If there are not k cells to be neighbours.
    """
    own = to is None
    x = np.ascontiguousarray(x, np.float32)
    pool = x if to is None else np.ascontiguousarray(to, np.float32)
    m, most = len(pool), len(pool) - own
    if not 1 <= k <= most:
        raise InputError(f"{k} nearest neighbours cannot be had from {m} cells; k goes from 1 to {most}.")
    centre = pool.mean(axis=0)  # smaller numbers, less cancellation
    a, b = x - centre, pool - centre
    a2, b2 = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    deep = max(m // max(_PIECES, 8 * k), 1)  # cells of a piece: every wide-th of the row
    wide = m // deep
    scores = np.empty((min(block, len(x)), m), np.float32)
    index, distance = np.empty((len(x), k), np.int64), np.empty((len(x), k), np.float32)
    for start in range(0, len(x), block):
        part = a[start : start + block]
        n = len(part)
        score = scores[:n]
        np.matmul(-2 * part, b.T, out=score)  # (n, m): the squared distance less |a|², the same along a row
        score += b2
        if own:
            score[np.arange(n), start + np.arange(n)] = np.inf
        least = score[:, : deep * wide].reshape(n, deep, wide).min(axis=1)
        bound = np.minimum(np.partition(least, k - 1, axis=1)[:, k - 1], np.finfo(np.float32).max)
        size = np.sqrt(a2[start : start + n])
        far = np.sqrt(np.maximum(a2[start : start + n] + bound, 0))  # |b| is at most |a| and this
        near = score <= (bound + _ROUNDING * size * (size + far))[:, None]
        few = min(k + 8, most)
        for crowded in np.flatnonzero(np.count_nonzero(near, axis=1) > 4 * k + 64):  # many equal cells
            near[crowded] = False
            near[crowded, np.argpartition(score[crowded], few - 1)[:few]] = True
        row, column = np.divmod(np.flatnonzero(near), m)
        apart = b[column]
        apart -= part[row]
        exact = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        order = np.lexsort((exact, row))
        count = np.bincount(row, minlength=n)
        first = order[(np.cumsum(count) - count)[:, None] + np.arange(k)]
        index[start : start + n], distance[start : start + n] = column[first], exact[first]
    return index, distance


@dataclass(frozen=True)
class Votes:
    """What a k-NN classification gave.

    Parameters
    ----------
    predicted : ndarray of shape (n,)
        Class of every cell, of the labels' dtype.
    accuracy : float
        Share of cells right.
    balanced_accuracy : float
        Mean over classes of the share right: every class counts the same, however rare.
    recall : dict
        Class → share of its cells right.
    macro_f1 : float
        Mean over classes of 2 · hits / (cells of the class + cells called so).
    """

    predicted: np.ndarray
    accuracy: float
    balanced_accuracy: float
    recall: dict[str, float]
    macro_f1: float


def knn_classify(
    x: np.ndarray, labels: np.ndarray, k: int = 11, *, ties: str = "nearest", part: np.ndarray | None = None
) -> Votes:
    """Classify every cell by the vote of its k nearest others (leave-one-out, Euclidean).

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Scale first (`projection.z_score`), as the Paired Cell Inpainting paper does; Microsnoop does not.
    labels : ndarray of shape (n,)
        Known class of every cell.
    k : int, default 11
    ties : {"nearest", "smallest"}
        Classes with equally many votes: "nearest" takes the one whose member is nearest (our rule, the paper
        states none); "smallest" takes the smallest label, but the nearest neighbour's when all k differ
        (Microsnoop's rule, ``models.md`` §4.6).
    part : ndarray of shape (n,), optional
        Field, well or plate of every cell: neighbours of the same part do not vote (leave-one-group-out), so that what cells
        of one image share does not count as knowledge of the class.

    Raises
    ------
    InputError
        If there are fewer than two classes, or a part has fewer than k cells outside it.

    References
    ----------
    .. [1] ``models.md`` §1.7 (k = 11, balanced accuracy) and §4.6.
    """
    if ties not in ("nearest", "smallest"):
        raise InputError(f'Ties go to the "nearest" or the "smallest" class, not to {ties!r}.')
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"A classification needs at least two classes; the labels have {len(classes)}.")
    votes = y[nearest(x, k)[0] if part is None else _nearest_elsewhere(x, k, np.asarray(part))]  # (n, k)
    count = np.zeros((len(x), len(classes)), np.int32)
    np.add.at(count, (np.arange(len(x))[:, None], votes), 1)
    best = count == count.max(axis=1, keepdims=True)
    if ties == "nearest":
        first = np.argmax(np.take_along_axis(best, votes, axis=1), axis=1)  # nearest one of a winning class
        guess = votes[np.arange(len(x)), first]
    else:
        guess = best.argmax(axis=1)
        guess = np.where(count.max(axis=1) == 1, votes[:, 0], guess)
    return Votes(classes[guess], *scores(y, guess, [str(c) for c in classes]))


def _nearest_elsewhere(x: np.ndarray, k: int, part: np.ndarray) -> np.ndarray:
    """The k nearest cells of other parts, int64 (n, k)."""
    index = np.empty((len(x), k), np.int64)
    for name in np.unique(part):
        own, rest = np.flatnonzero(part == name), np.flatnonzero(part != name)
        if len(rest) < k:
            raise InputError(f"{k} neighbours cannot vote: outside {name} there are {len(rest):,} cells.")
        index[own] = rest[nearest(x[own], k, to=x[rest])[0]]
    return index


def scores(
    y: np.ndarray, guess: np.ndarray, names: list[str]
) -> tuple[float, float, dict[str, float], float]:
    """Accuracy (micro), balanced accuracy, recall per class and macro-F1, for integer classes ``0 … len(names) − 1``.

    Classes without a cell do not count.
    """
    right = y == guess
    n = len(names)
    total, said, hit = (np.bincount(v, minlength=n) for v in (y, guess, y[right]))
    recall = {name: float(right[y == i].mean()) for i, name in enumerate(names) if total[i]}
    f1 = 2 * hit[total > 0] / (total + said)[total > 0]
    return float(right.mean()), float(np.mean(list(recall.values()))), recall, float(f1.mean())


def graph(x: np.ndarray, n_neighbors: int = 15, seed: int = 0) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Neighbour graph as scanpy keeps it.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    n_neighbors : int, default 15
        The cell itself counts, as in UMAP and scanpy: rows have ``n_neighbors − 1`` distances.
    seed : int
        Handed to umap-learn, which wants one; exact neighbours need none.

    Returns
    -------
    distances, connectivities : csr_matrix of shape (n, n), float32
        Euclidean distances; UMAP's fuzzy membership strengths, symmetric.
    """
    n = len(x)
    index, distance = nearest(x, n_neighbors - 1)
    rows = np.repeat(np.arange(n), n_neighbors - 1)
    distances = sparse.csr_matrix((distance.ravel(), (rows, index.ravel())), shape=(n, n))
    own = np.arange(n)[:, None]
    connectivities = import_umap().umap_.fuzzy_simplicial_set(
        sparse.coo_matrix((n, 1)), n_neighbors, np.random.RandomState(seed), "euclidean",
        knn_indices=np.concatenate([own, index], axis=1).astype(np.int32),
        knn_dists=np.concatenate([np.zeros_like(own, np.float32), distance], axis=1),
    )[0]  # fmt: skip
    return distances, sparse.csr_matrix(connectivities, dtype=np.float32)


def import_umap() -> Any:
    """Import the umap package without its remark that TensorFlow is missing, which nothing here wants."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        import umap
    return umap
