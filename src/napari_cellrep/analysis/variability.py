"""Which groups of cells are mixed: the spread of a score, and of all features, within each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """One number per group; row i is group i.

    Parameters
    ----------
    n_cells : ndarray of shape (n_groups,), int64
        Cells that counted.
    mean, sd : ndarray of shape (n_groups,), float64
        NaN for groups with too few cells. SDs are the population's (ddof 0). For features, `mean` is NaN.
    rank : ndarray of shape (n_groups,), int64
        1 = most variable; 0 = not ranked (too few cells).
    """

    n_cells: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    rank: np.ndarray


def score_spread(score: np.ndarray, group: np.ndarray, n_groups: int, *, min_cells: int = 10) -> Spread:
    """Mean and SD of a score in each group, most variable first in the rank.

    Parameters
    ----------
    score : ndarray of shape (n,), float
        NaN does not count.
    group : ndarray of shape (n,), int
        Group of every cell, ``0 … n_groups − 1``; −1 for none.
    min_cells : int, default 10
        Groups with fewer are measured but not ranked (with fewer than 2 not measured): an SD of a handful
        of cells is mostly luck.

    References
    ----------
    .. [1] ``models.md`` §1.7: SD of the log-ratio score per image, ranked descending.
    """
    counted = np.isfinite(score) & (group >= 0)
    n, mean, sd = _moments(np.asarray(score, np.float64)[counted, None], group[counted], n_groups)
    return Spread(n, mean[:, 0], sd[:, 0], rank_descending(np.where(n >= min_cells, sd[:, 0], np.nan)))


def feature_spread(z: np.ndarray, group: np.ndarray, n_groups: int, *, min_cells: int = 10) -> Spread:
    """Heterogeneity of each group: SD of every z-scored feature over its cells, averaged over features.

    1 is as mixed as all cells together.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features z-scored over all cells.
    group, n_groups, min_cells
        As in `score_spread`.

    References
    ----------
    .. [1] DINO4Cells' heterogeneity (``models.md`` §3.7; ddof 0).
    """
    counted = np.isfinite(z).all(axis=1) & (group >= 0)
    n, _, sd = _moments(np.asarray(z, np.float64)[counted], group[counted], n_groups)
    value = sd.mean(axis=1)
    return Spread(
        n, np.full(n_groups, np.nan), value, rank_descending(np.where(n >= min_cells, value, np.nan))
    )


def rank_descending(values: np.ndarray) -> np.ndarray:
    """Rank from 1 (largest); equal values share the better rank; NaN gets 0."""
    from scipy.stats import rankdata

    rank = np.zeros(len(values), np.int64)
    good = np.isfinite(values)
    rank[good] = rankdata(-values[good], method="min")
    return rank


def bootstrap_sd(
    score: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    *,
    n_draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> np.ndarray:
    """Interval of the SD in each group, by drawing its cells again with replacement.

    Returns
    -------
    ndarray of shape (n_groups, 2), float64
        Low and high end; NaN for groups with fewer than 3 cells.
    """
    rng = np.random.default_rng(seed)
    out = np.full((n_groups, 2), np.nan)
    ends = (0.5 - level / 2, 0.5 + level / 2)
    for i in range(n_groups):
        own = score[(group == i) & np.isfinite(score)]
        if len(own) >= 3:
            out[i] = np.quantile(own[rng.integers(len(own), size=(n_draws, len(own)))].std(axis=1), ends)
    return out


def _moments(x: np.ndarray, group: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and SD (ddof 0) of every column in each group; two passes, so no cancellation."""
    n = np.bincount(group, minlength=n_groups).astype(np.int64)
    mean, sd = np.full((n_groups, x.shape[1]), np.nan), np.full((n_groups, x.shape[1]), np.nan)
    order = np.argsort(group, kind="stable")
    ends = np.concatenate([[0], np.cumsum(n)])
    for i in np.flatnonzero(n):
        own = x[order[ends[i] : ends[i + 1]]]
        mean[i] = own.mean(axis=0)
        if n[i] > 1:
            sd[i] = own.std(axis=0)
    return n, mean, sd
