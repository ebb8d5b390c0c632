"""Cells that look like few others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_cellrep.analysis.neighbours import nearest

ODD_SHARE = 0.05  # a cell counts as odd among so large a share of the oddest of its group


def neighbour_distance(z: np.ndarray, k: int = 10, group: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of every cell to its k nearest others: large means unusual.

    Naive outliers are mostly artefacts (82 % of the top five per well of the sample carried a quality flag),
    so leave flagged cells out before trusting this.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored.
    k : int, default 10
        Taken down to the number of other cells in a small group.
    group : ndarray of shape (n,), int, optional
        Compare each cell with its own group only; −1 for none. Default: with all cells.

    Returns
    -------
    ndarray of shape (n,), float64
        In units of the features' SD, divided by √d so that embeddings of any width compare. NaN for a cell
        with fewer than three others.
    """
    out = np.full(len(z), np.nan)
    members = np.zeros(len(z), np.int64) if group is None else group
    for g in np.unique(members[members >= 0]):
        rows = np.flatnonzero(members == g)
        if len(rows) > 3:
            distance = nearest(z[rows], min(k, len(rows) - 1))[1]
            out[rows] = distance.mean(axis=1) / np.sqrt(z.shape[1])
    return out


def control_distance(z: np.ndarray, is_control: np.ndarray, k: int = 10) -> np.ndarray:
    """Mean distance of every cell to the k nearest control cells: large means unlike the control.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored.
    is_control : ndarray of shape (n,), bool
        A control cell is compared with the others of them, never with itself, so that its own distance says how far
        apart control cells are.
    k : int, default 10
        Taken down to the number of other control cells.

    Returns
    -------
    ndarray of shape (n,), float64
        In units of the features' SD, divided by √d. All NaN with fewer than four control cells.
    """
    out = np.full(len(z), np.nan)
    control = z[is_control]
    if len(control) > 3:
        k = min(k, len(control) - 1)
        out[is_control] = nearest(control, k)[1].mean(axis=1)
        if not is_control.all():
            out[~is_control] = nearest(z[~is_control], k, to=control)[1].mean(axis=1)
    return out / np.sqrt(z.shape[1])


def oddness(z: np.ndarray, group: np.ndarray, good: np.ndarray, k: int = 10) -> np.ndarray:
    """`neighbour_distance` within groups, to good cells only: so that artefacts hide no other artefact.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored; rows with NaN get NaN.
    group : ndarray of shape (n,), int
        −1 for none.
    good : ndarray of shape (n,), bool
        Cells that can be neighbours. The others are measured too, by their distance to the good ones.
    k : int, default 10
        Taken down to the number of other good cells in a small group.

    Returns
    -------
    ndarray of shape (n,), float64
        For good cells the same as `neighbour_distance` of the good cells alone.
    """
    out = np.full(len(z), np.nan)
    known = np.isfinite(z).all(axis=1) & (group >= 0)
    own = np.flatnonzero(known & good)
    out[own] = neighbour_distance(z[own], k, group[own])
    for g in np.unique(group[known & ~good]):
        others = np.flatnonzero(known & ~good & (group == g))
        pool = own[group[own] == g]
        if len(pool) >= 3:
            distance = nearest(z[others], min(k, len(pool)), to=z[pool])[1]
            out[others] = distance.mean(axis=1) / np.sqrt(z.shape[1])
    return out


def group_mates(z: np.ndarray, cell: int, pool: np.ndarray, n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The nearest and the most typical of a cell's group, to see it beside.

    Parameters
    ----------
    z : ndarray of shape (n_cells, d), float
        Features, z-scored.
    cell : int
        Row of the cell.
    pool : ndarray of int
        Rows of its group that may be shown; the cell itself is left out.

    Returns
    -------
    near, typical : ndarray of int, shape (≤ n,)
        Nearest first; most typical first: the nearest to the median of the pool. One cell can be both.
    """
    pool = pool[(pool != cell) & np.isfinite(z[pool]).all(axis=1)]
    if not len(pool):
        return pool, pool
    from_median = np.linalg.norm(z[pool] - np.median(z[pool], axis=0), axis=1)
    typical = pool[np.argsort(from_median, kind="stable")[:n]]
    if not np.isfinite(z[cell]).all():
        return pool[:0], typical
    from_cell = np.linalg.norm(z[pool] - z[cell], axis=1)
    return pool[np.argsort(from_cell, kind="stable")[:n]], typical


def scale_of(x: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every feature over some cells, and what 1 SD of it is divided by; infinite for one that never changes.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    base : ndarray of shape (n,), bool
        Cells that count; those with NaN are left out.
    """
    rows = np.flatnonzero(base)
    own = np.asarray(x[rows[np.isfinite(x[rows]).all(axis=1)]], np.float32)
    if not len(own):
        return np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)
    mean, sd = own.mean(axis=0, dtype=np.float64), own.std(axis=0, dtype=np.float64)
    still = sd <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    return mean.astype(np.float32), np.where(still, np.inf, sd).astype(np.float32)


@dataclass(frozen=True)
class OddRank:
    """Where a cell stands in its group by how odd it is.

    Parameters
    ----------
    rank : int
        1 is the oddest.
    n : int
        Cells compared, the cell among them.
    times : float
        Its oddness over the median of the others.
    """

    rank: int
    n: int
    times: float

    @property
    def odd(self) -> bool:
        """Whether it is among the oddest `ODD_SHARE` of the group, or the oddest."""
        return self.rank <= max(1, round(ODD_SHARE * self.n))


def odd_rank(z: np.ndarray, cell: int, good: np.ndarray, k: int = 10) -> OddRank | None:
    """How odd a cell is among the good cells of its group.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features of the group's cells, z-scored.
    cell : int
        Its row; need not be good.
    good : ndarray of shape (n,), bool
        All true compares with flagged cells as well.

    Returns
    -------
    OddRank or None
        None where the cell has no vector, or there are too few others.
    """
    odd = oddness(z, np.zeros(len(z), np.int64), good, k)
    others = np.flatnonzero(good & np.isfinite(odd))
    others = others[others != cell]
    if not np.isfinite(odd[cell]) or not len(others):
        return None
    usual = float(np.median(odd[others]))
    times = float(odd[cell] / usual) if usual > 0 else float("inf")
    return OddRank(1 + int((odd[others] > odd[cell]).sum()), 1 + len(others), times)


def oddest_by_chance(z: np.ndarray, n: int, *, draws: int = 200, k: int = 10, seed: int = 0) -> np.ndarray:
    """How odd the oddest of n cells is when the n are drawn at random: what a group of n shows by its size alone.

    Parameters
    ----------
    z : ndarray of shape (m, d), float
        Cells to draw from, without replacement (a cell drawn twice would be its own nearest); finite.
    n : int
        Cells in a draw, 4 to m.
    draws, k : int
        How often; neighbours as in `neighbour_distance`.
    seed : int

    Returns
    -------
    ndarray of shape (draws,), float64
        The largest `neighbour_distance` of each draw.
    """
    rng = np.random.default_rng(seed)
    return np.array(
        [neighbour_distance(z[rng.choice(len(z), n, replace=False)], k).max() for _ in range(draws)]
    )
