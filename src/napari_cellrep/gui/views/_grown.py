"""What the tree shows: groups or cells joined by how alike they are. Plain numbers, no Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_cellrep.analysis import profiles
from napari_cellrep.analysis.profiles import Tree, likeness, mean_profiles, typical
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.gui.views._raster import viridis

MOST_CELLS = 2000  # leaves of a tree of cells
MOST_GROUPS = 1000
STRIP = 8  # typical cells per leaf


@dataclass(frozen=True)
class Grown:
    """A tree and what is drawn beside it. Leaf i has `names[i]`, `members[i]` and so on.

    Parameters
    ----------
    tree : Tree
    names : list of str
    members, typical : list of ndarray of int
        Rows of the cell table: all cells of the leaf, and some that are nearest to its mean.
    alike : ndarray of shape (n, n), float32
        Correlation or distance of each two leaves, in the tree's order.
    heat : ndarray of shape (n, n, 3), uint8
        The same as colours.
    metric, linkage : str
    by : str
        Column whose values the leaves are; "" for cells.
    left_out : int
        Cells, or groups, without an embedding.
    of : int
        Cells the leaves were drawn from, when there were too many.
    words : str
        That leaves stand for several cells each, when there were even more; else "".
    """

    tree: Tree
    names: list[str]
    members: list[np.ndarray]
    typical: list[np.ndarray]
    alike: np.ndarray
    heat: np.ndarray
    metric: str
    linkage: str
    by: str
    left_out: int = 0
    of: int = 0
    words: str = ""

    @property
    def counted(self) -> bool:
        """Whether leaves are of several cells, so that they are counted."""
        return bool(self.by or self.words)

    @property
    def noun(self) -> str:
        """What several leaves are called."""
        if self.words:
            return "representatives"
        return "cells" if not self.by else "groups" if self.by == "group" else "values"


def grown(
    vectors: np.ndarray,
    obs: pd.DataFrame,
    rows: np.ndarray,
    by: str,
    metric: str = "correlation",
    linkage: str = "average",
) -> Grown:
    """Join the groups of a column, or single cells, by how alike they are.

    Parameters
    ----------
    vectors : ndarray of shape (n_cells, d)
        An embedding.
    obs : DataFrame
        All cells.
    rows : ndarray of int
        The cells that count.
    by : str
        Column; "" for a leaf per cell (`MOST_CELLS` of them drawn at random if there are more; of more cells than a tree can
        join, a leaf for each of as many representatives, so that every cell is in the tree).

    Raises
    ------
    InputError
        If there are not two leaves with an embedding.
    """
    of = 0
    if by:
        codes, found = pd.factorize(obs[by].iloc[rows])
        in_order, ends = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes + 1))
        members = [rows[own] for own in np.split(in_order, ends[:-1])[1:]]
        names = [str(name) for name in found]
        means = mean_profiles(vectors, members)
    elif len(rows) > profiles.JOINED_MOST:
        return _representatives(vectors, obs, rows, metric, linkage)
    else:
        if len(rows) > MOST_CELLS:
            of = len(rows)
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_CELLS, replace=False))
        members = [rows[i : i + 1] for i in range(len(rows))]
        names = [str(name) for name in obs.index[rows]]
        means = np.asarray(vectors[rows], np.float64)
    known = np.flatnonzero(np.isfinite(means).all(axis=1))
    members, names = [members[i] for i in known], [names[i] for i in known]
    z = z_score(means[known]) if len(known) else means[known]
    tree = profiles.grow(z, metric, linkage)
    strips = [typical(vectors, own, STRIP) for own in members] if by else members
    alike = likeness(z, metric)[np.ix_(tree.order, tree.order)]
    return Grown(
        tree, names, members, strips, alike, heat_colours(alike, metric), metric, linkage, by,
        len(means) - len(known), of,
    )  # fmt: skip


def _representatives(
    vectors: np.ndarray, obs: pd.DataFrame, rows: np.ndarray, metric: str, linkage: str
) -> Grown:
    """A tree of many cells: each leaf stands for those nearest to it, and is called by the most typical one."""
    known = rows[np.isfinite(vectors[rows]).all(axis=1)]
    joined = profiles.join(z_score(vectors[known]), metric, linkage)
    in_order, ends = np.argsort(joined.of, kind="stable"), np.cumsum(np.bincount(joined.of))
    members = [known[own] for own in np.split(in_order, ends[:-1])]
    first = [typical(vectors, own, 1) for own in members]
    names = [str(obs.index[own[0]]) for own in first]
    order = joined.tree.order
    alike = likeness(joined.leaves, metric)[np.ix_(order, order)]
    return Grown(
        joined.tree, names, members, first, alike, heat_colours(alike, metric), metric, linkage, "",
        len(rows) - len(known), 0, joined.words,
    )  # fmt: skip


def heat_colours(alike: np.ndarray, metric: str) -> np.ndarray:
    """Colours of a heat map, uint8 (n, n, 3): correlations blue, white, red with white at 0; near yellow, far blue."""
    if metric == "correlation":
        return diverging()[np.clip(np.round((alike + 1) * 127.5), 0, 255).astype(np.uint8)]
    share = alike / max(float(alike.max()), 1e-12)
    return viridis()[::-1][np.round(share * 255).astype(np.uint8)]  # type: ignore[no-any-return]


def diverging() -> np.ndarray:
    """Blue, white, red (ColorBrewer's RdBu ends), uint8 (256, 3)."""
    ends = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)], float)
    at = np.linspace(0, 2, 256)
    return np.stack([np.interp(at, (0, 1, 2), ends[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)
