"""Mean profiles of groups and the tree that joins the most alike: means, linkage, leaf order, cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_cellrep.analysis.projection import z_score
from napari_cellrep.specs import InputError, join_words

METRICS = ("correlation", "euclidean")
LINKAGES = ("average", "ward")
FEW_CELLS = 10  # the mean of fewer is mostly luck
# Up to so many leaves they are turned so that neighbours are as alike as the tree allows (0.04 s for 600). The time
# grows faster than the square, and SciPy does not let other threads, the window's among them, work meanwhile.
ORDERED_MOST = 600
# All pairs of so many rows are 1.6 GB, twice, and time grows with the square: more rows go through `represent`.
JOINED_MOST = 20_000
REPRESENTATIVES = 2000  # of more rows than that


@dataclass(frozen=True)
class Tree:
    """Which leaves were joined when, and in what order they are drawn.

    Nodes are numbered as SciPy does: 0 … n − 1 are the leaves, n + i is what line i of `linkage` made; the last is
    the root.

    Parameters
    ----------
    linkage : ndarray of shape (n - 1, 4), float64
        As `scipy.cluster.hierarchy.linkage`: the two joined nodes, their distance, leaves below.
    order : ndarray of shape (n,), int64
        Leaves from first to last, so that no two branches cross.
    first, last : ndarray of shape (2n - 1,), int64
        Places in `order` of the first and the last leaf below each node.
    height : ndarray of shape (2n - 1,), float64
        Distance at which each node was made; 0 for leaves.
    parent : ndarray of shape (2n - 1,), int64
        Node that each node was joined into; −1 for the root.
    """

    linkage: np.ndarray
    order: np.ndarray
    first: np.ndarray
    last: np.ndarray
    height: np.ndarray
    parent: np.ndarray

    @property
    def n_leaves(self) -> int:
        """Leaves."""
        return len(self.order)

    @property
    def root(self) -> int:
        """Node above all leaves."""
        return len(self.height) - 1

    def leaves(self, node: int) -> np.ndarray:
        """Leaves below a node, int (m,), in their order."""
        return self.order[self.first[node] : self.last[node] + 1]

    def children(self, node: int) -> tuple[int, int]:
        """Both nodes a node was made of, the one drawn first first; (−1, −1) for a leaf."""
        if node < self.n_leaves:
            return -1, -1
        a, b = (int(v) for v in self.linkage[node - self.n_leaves, :2])
        return (a, b) if self.first[a] < self.first[b] else (b, a)

    def branch_at(self, leaf: int, height: float) -> int:
        """Node a leaf belongs to when only what was joined at most at this height hangs together."""
        node = leaf
        while self.parent[node] >= 0 and self.height[self.parent[node]] <= height:
            node = int(self.parent[node])
        return node

    def cut(self, height: float) -> np.ndarray:
        """Cut the tree: which branch each leaf is in, int (n,), numbered from 0 in the leaves' order."""
        from scipy.cluster.hierarchy import fcluster

        found = fcluster(self.linkage, height, criterion="distance")
        _, at = np.unique(found[self.order], return_index=True)
        number = np.empty(len(at), np.int64)
        number[np.argsort(at)] = np.arange(len(at))
        return number[np.searchsorted(np.unique(found), found)]  # type: ignore[no-any-return]

    def clusters(self, most: int) -> np.ndarray:
        """Cut the tree into so many branches, fewer where several were joined at one height: int (n,), numbered from 1."""
        from scipy.cluster.hierarchy import fcluster

        return np.asarray(fcluster(self.linkage, min(most, self.n_leaves), "maxclust"))


def mean_profiles(x: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of every feature over the cells of each group.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
        An embedding; cells with NaN do not count.
    members : sequence of ndarray of int
        Rows of `x` in each group.

    Returns
    -------
    ndarray of shape (n_groups, d), float64
        NaN for a group without a single cell that counts.
    """
    means = np.full((len(members), x.shape[1]), np.nan)
    for i, rows in enumerate(members):
        own = _known(x[rows])
        if len(own):
            means[i] = own.mean(axis=0, dtype=np.float64)
    return means


def typical(x: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Find the cells of a group that are nearest to its mean, the nearest first, int (≤ n,) of `rows`.

    Every feature counts by its spread within the group (features that do not vary there count nothing). Cells with
    NaN are left out.
    """
    own = np.asarray(x[rows], np.float64)
    known = np.isfinite(own).all(axis=1)
    own = own[known]
    if not len(own):
        return np.zeros(0, np.int64)
    spread = own.std(axis=0)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    distance = (((own - own.mean(axis=0)) * scale) ** 2).sum(axis=1)
    return np.asarray(rows)[known][np.argsort(distance, kind="stable")[:n]]


def likeness(z: np.ndarray, metric: str = "correlation") -> np.ndarray:
    """How alike each two rows are: their correlation (−1 to 1), or their Euclidean distance.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        z-scored profiles.
    metric : {"correlation", "euclidean"}
        Pearson's correlation over features. A row without any spread correlates with nothing (0).

    Returns
    -------
    ndarray of shape (n, n), float32
    """
    from scipy.spatial.distance import pdist, squareform

    if metric == "euclidean":
        return squareform(pdist(np.asarray(z, np.float64))).astype(np.float32)  # type: ignore[no-any-return]
    unit = _unit(z)
    return np.clip(unit @ unit.T, -1, 1).astype(np.float32)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Similar:
    """Groups by how like one of them they are.

    Parameters
    ----------
    by, name : str
        What the groups are values of, and the one that the others are compared with.
    metric : str
    names : tuple of str
        The most alike first; at the very beginning the group itself, at 0.
    distance : ndarray of shape (n,), float64
        In the same order.
    n_cells : ndarray of shape (n,), int64
        Cells that each mean is of.
    left_out : int
        Groups without a single cell that counts.
    """

    by: str
    name: str
    metric: str
    names: tuple[str, ...]
    distance: np.ndarray
    n_cells: np.ndarray
    left_out: int = 0

    @property
    def column(self) -> str:
        """What the distances are called in a table."""
        return f"distance to {self.name}"

    @property
    def words(self) -> str:
        """The nearest five in a sentence."""
        nearest = [
            f"{name} ({value:.2f}" + (f", {n:,} cell{'' if n == 1 else 's'} only)" if n < FEW_CELLS else ")")
            for name, value, n in zip(self.names[1:6], self.distance[1:6], self.n_cells[1:6], strict=True)
        ]
        how = "1 − correlation" if self.metric == "correlation" else "Euclidean distance"
        return f"Most like {self.name} ({how} of the mean profiles): {', '.join(nearest)}."


def similar_groups(
    x: np.ndarray,
    members: Sequence[np.ndarray],
    names: Sequence[str],
    name: str,
    by: str,
    metric: str = "correlation",
) -> Similar:
    """Rank groups by the distance of their mean profile to that of one of them, as the tree measures it.

    Parameters
    ----------
    x : ndarray of shape (n_cells, d), float
        An embedding; cells with NaN do not count.
    members : sequence of ndarray of int
        Rows of `x` in each group.
    names : sequence of str
        Of the groups.
    name : str
        The one that the others are compared with.
    by : str
        Column the groups come from.
    metric : {"correlation", "euclidean"}
        1 − Pearson's correlation, or Euclidean; every feature is z-scored over the groups first.

    Raises
    ------
    InputError
        If the group is not there or has no cell that counts, or there are too few groups or features.
    """
    if metric not in METRICS:
        raise InputError(f"Groups are compared by one of {join_words(METRICS)}; got {metric!r}.")
    if name not in names:
        raise InputError(f"There is no {by} {name!r}; there are {join_words(names, 12) or 'none'}.")
    known_cells = np.isfinite(x).all(axis=1)
    counted = [own[known_cells[own]] for own in members]
    profiles = mean_profiles(x, counted)
    known = np.flatnonzero(np.isfinite(profiles).all(axis=1))
    at = list(names).index(name)
    if at not in known:
        raise InputError(
            f"No cell of {name} can be used: hidden ones and those without an embedding do not count."
        )
    if len(known) < 3:  # z-scored over two, each is the other's opposite
        raise InputError(
            f"At least three groups can be compared; by {by} there are {len(known)} with cells that count."
        )
    _check_features(x, metric)
    z = z_score(profiles[known])
    own = z[known == at]
    if metric == "euclidean":
        distance = np.sqrt(((z.astype(np.float64) - own) ** 2).sum(axis=1))
    else:
        distance = np.maximum(1 - (_unit(z) @ _unit(own).T)[:, 0], 0)
    distance[known == at] = 0
    order = np.lexsort((known != at, distance))  # the group itself before its equals
    return Similar(
        by, name, metric, tuple(str(names[i]) for i in known[order]), distance[order],
        np.array([len(counted[i]) for i in known[order]], np.int64), len(names) - len(known),
    )  # fmt: skip


def grow(z: np.ndarray, metric: str = "correlation", linkage: str = "average") -> Tree:
    """Join the most alike rows, again and again, to a tree.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        One profile per row, every feature z-scored over the rows (`projection.z_score`), finite.
    metric : {"correlation", "euclidean"}
        Distance of two rows: 1 − Pearson's correlation, or Euclidean.
    linkage : {"average", "ward"}
        Distance of two branches: mean of all pairs (UPGMA), or Ward's increase of the variance. Ward wants Euclidean
        distances: with correlation, rows are centred and scaled to length 1 first, so that their squared distance is
        2 (1 − r).

    Raises
    ------
    InputError
        If there are fewer than two rows or more than `JOINED_MOST`, or too few features to correlate.

    Notes
    -----
    Ward's linkage holds no distances, so its memory is that of the rows (n × d); average linkage holds those of
    all pairs twice (16 bytes a pair), as SciPy does.

    The Paired Cell Inpainting paper joins proteins by maximum-likelihood agglomerative clustering, which SciPy does
    not have; average and Ward's linkage are what is offered here. Up to `ORDERED_MOST` leaves, branches are turned so
    that neighbouring leaves are as alike as can be.

    References
    ----------
    .. [1] ``models.md`` §1.7: mean over all cells of a protein, features centred and normalised over all proteins.
    .. [2] Bar-Joseph, Gifford, Jaakkola, "Fast optimal leaf ordering for hierarchical clustering",
       Bioinformatics 17 (2001), doi:10.1093/bioinformatics/17.suppl_1.S22.
    """
    import fastcluster

    if metric not in METRICS or linkage not in LINKAGES:
        raise InputError(
            f"A tree takes one of {join_words(METRICS)} and one of {join_words(LINKAGES)}; got {metric!r} and {linkage!r}."
        )
    if len(z) < 2:
        raise InputError(f"A tree joins at least two; there {'is one' if len(z) else 'are none'}.")
    if len(z) > JOINED_MOST:
        raise InputError(
            f"A tree joins {JOINED_MOST:,} rows at most; there are {len(z):,}. Join groups instead of cells, or "
            "representatives of them (profiles.join)."
        )
    _check_features(z, metric)
    rows = np.asarray(z, np.float64) if metric == "euclidean" else _unit(z)
    turned = len(z) <= ORDERED_MOST
    distance = _distances(rows, metric, linkage) if linkage == "average" or turned else None
    if linkage == "ward":
        joined = fastcluster.linkage_vector(rows, "ward")
    else:
        joined = fastcluster.linkage(distance, "average", preserve_input=turned)
    if turned:
        from scipy.cluster import hierarchy

        joined = hierarchy.optimal_leaf_ordering(joined, distance)
    return _drawn(joined)


@dataclass(frozen=True)
class Joined:
    """A tree of rows, or of what stands for them.

    Parameters
    ----------
    tree : Tree
    of : ndarray of shape (n_rows,), int64
        The leaf of each row.
    leaves : ndarray of shape (n_leaves, d), float
        What was joined: the rows, or their representatives.
    words : str
        That representatives were joined and how many, in a sentence; "" where the rows were.
    """

    tree: Tree
    of: np.ndarray
    leaves: np.ndarray
    words: str

    def clusters(self, most: int) -> np.ndarray:
        """Cluster of each row, int (n_rows,), as `Tree.clusters` numbers them."""
        return np.asarray(self.tree.clusters(most)[self.of])


def join(z: np.ndarray, metric: str = "correlation", linkage: str = "average", *, seed: int = 0) -> Joined:
    """`grow` a tree of rows; of more than `JOINED_MOST`, of the representatives that stand for them (`represent`).

    Parameters
    ----------
    z, metric, linkage
        As in `grow`.
    seed : int
        Of the representatives.

    Raises
    ------
    InputError
        As `grow`, but for many rows.
    """
    if len(z) <= JOINED_MOST:
        return Joined(grow(z, metric, linkage), np.arange(len(z)), z, "")
    leaves, of = represent(
        _unit(z) if metric == "correlation" else z, min(REPRESENTATIVES, JOINED_MOST), seed
    )
    leaves = mean_profiles(z, _members(of))
    words = f"{len(leaves):,} representatives (k-means) of {len(z):,} rows were joined; each stands for those nearest to it."
    return Joined(grow(leaves, metric, linkage), of, leaves, words)


def represent(z: np.ndarray, n: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stand-ins for more rows than a tree can join: centres of k-means, to be joined in their place.

    Say so wherever the tree is shown: a branch then holds centres, and each centre the rows that are nearest to it.

    Parameters
    ----------
    z : ndarray of shape (n_rows, d), float
        Z-scored, finite.
    n : int
        How many centres; fewer come back where rows are equal or fewer.
    seed : int

    Returns
    -------
    centres : ndarray of shape (n', d), float64
        Mean of each one's rows.
    of : ndarray of shape (n_rows,), int64
        Which centre stands for each row.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not 2 <= n <= JOINED_MOST:
        raise InputError(f"A tree joins 2 to {JOINED_MOST:,} representatives; got {n}.")
    z = np.asarray(z, np.float32)
    found = MiniBatchKMeans(min(n, len(z)), batch_size=4096, n_init=1, random_state=seed).fit_predict(z)
    _, of = np.unique(found, return_inverse=True)
    return mean_profiles(z, _members(of)), of.astype(np.int64)


def _members(of: np.ndarray) -> list[np.ndarray]:
    """Rows of each group from 0 on."""
    return np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])


def _distances(rows: np.ndarray, metric: str, linkage: str) -> np.ndarray:
    """Distance of each two rows as SciPy lists them, float64 (n (n − 1) / 2,), by matrix products in blocks.

    Of rows of length 1, 1 − r for average linkage and √(2 (1 − r)) for Ward's.
    """
    n, end = len(rows), 0
    block = max(16, 2**20 // n)
    out = np.empty(n * (n - 1) // 2)
    plain = metric == "correlation" and linkage == "average"
    square = (rows**2).sum(axis=1, keepdims=True)
    one = np.ones_like(square)
    # |a|² + |b|² − 2ab in one product.
    left = -rows if plain else np.hstack([-2 * rows, square, one])
    right = rows if plain else np.hstack([rows, one, square])
    for first in range(0, n, block):
        found = left[first : first + block] @ right[first:].T  # (b, n − first)
        if plain:
            found += 1
        else:
            # Near duplicates: what is left of the difference is rounding, so it is taken again from the rows.
            i, j = np.nonzero(found <= 1e-6 * square[first : first + block])
            found[i, j] = ((rows[first + i] - rows[first + j]) ** 2).sum(axis=1)
        np.maximum(found, 0, out=found)
        if not plain:
            np.sqrt(found, out=found)
        for place, own in enumerate(found, 1):
            most = n - first - place
            out[end : end + most] = own[place:]
            end += most
    return out


def _drawn(linkage: np.ndarray) -> Tree:
    """Add to a linkage where its branches are drawn."""
    from scipy.cluster.hierarchy import leaves_list

    n = len(linkage) + 1
    order = leaves_list(linkage).astype(np.int64)
    first, last = np.empty(2 * n - 1, np.int64), np.empty(2 * n - 1, np.int64)
    first[order] = last[order] = np.arange(n)
    parent = np.full(2 * n - 1, -1, np.int64)
    pairs = linkage[:, :2].astype(np.int64)
    for i, (a, b) in enumerate(pairs):
        first[n + i], last[n + i] = min(first[a], first[b]), max(last[a], last[b])
        parent[a] = parent[b] = n + i
    return Tree(linkage, order, first, last, np.concatenate([np.zeros(n), linkage[:, 2]]), parent)


def _check_features(x: np.ndarray, metric: str) -> None:
    if metric == "correlation" and x.shape[1] < 3:
        raise InputError(
            f"Correlations need at least three features, this embedding has {x.shape[1]}; choose Euclidean distance."
        )


def _unit(z: np.ndarray) -> np.ndarray:
    """Centre every row and scale it to length 1; one without spread becomes 0."""
    own = np.asarray(z, np.float64)
    own = own - own.mean(axis=1, keepdims=True)
    length = np.sqrt((own**2).sum(axis=1, keepdims=True))
    return own / np.where(length > 1e-12, length, np.inf)  # type: ignore[no-any-return]


def _known(x: np.ndarray) -> np.ndarray:
    return x[np.isfinite(x).all(axis=1)]
