"""Groups that are mixed: of what, how much of each, and which of their cells are rare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_cellrep.analysis.variability import corrected, rank_descending
from napari_cellrep.specs import InputError


def mixing_fraction(z: np.ndarray, is_a: np.ndarray, is_b: np.ndarray) -> np.ndarray:
    """How far each cell stands from the mean of A (0) to the mean of B (1) along the line between them.

    A cell whose protein is in both places in shares (1 − w, w), in features that add up, lies at w; noise at right angles to
    the line does not count, as it does in the log-ratio of distances.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Z-scored features; rows that are not finite get NaN.
    is_a, is_b : ndarray of shape (n,), bool

    Returns
    -------
    ndarray of shape (n,), float64
        Not cut to 0…1: cells beyond a reference's mean are left where they are.

    Raises
    ------
    InputError
        If a reference is empty, or both have the same mean.

    References
    ----------
    .. [1] The score it stands beside: `localisation.log_ratio_score` (``models.md`` §1.7).
    """
    z = np.asarray(z, np.float64)
    finite = np.isfinite(z).all(axis=1)
    for name, members in (("A", is_a), ("B", is_b)):
        if not (members & finite).any():
            raise InputError(f"The reference {name} has no usable cell.")
    a, b = z[is_a & finite].mean(axis=0), z[is_b & finite].mean(axis=0)
    line = b - a
    length = float(line @ line)
    if not length > 1e-12:
        raise InputError("Both references have the same mean, so nothing lies between them.")
    out = np.full(len(z), np.nan)
    out[finite] = (z[finite] - a) @ line / length
    return out


@dataclass(frozen=True)
class Phenotypes:
    """Kinds of cells within one group.

    Parameters
    ----------
    kind : ndarray of shape (n,), int64
        0 is the most frequent; −1 for rows that are not finite.
    share : ndarray of shape (n_kinds,), float64
        Of the cells that counted.
    sure : float
        Mean probability of each cell's own kind.
    bic : ndarray of shape (k_most,), float64
        Of 1, 2, … kinds; the least was chosen.
    """

    kind: np.ndarray
    share: np.ndarray
    sure: float
    bic: np.ndarray


def phenotypes(
    z: np.ndarray, *, most: int = 5, components: int = 10, least_cells: int = 20, seed: int = 0
) -> Phenotypes:
    """Part the cells of one group into kinds: a mixture of normal distributions, as many as the BIC finds.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        The group's cells, z-scored over all cells.
    most : int
        Kinds at most.
    components : int
        Principal components of the group's own cells in which kinds are looked for.
    least_cells : int
        Groups with fewer cells are not parted, nor are kinds with fewer than 5 cells taken for kinds.

    Raises
    ------
    InputError
        If there are too few cells.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    finite = np.flatnonzero(np.isfinite(z).all(axis=1))
    if len(finite) < least_cells:
        raise InputError(
            f"Not enough data: {len(finite)} cells, and {least_cells} are needed to part a group into kinds."
        )
    own = np.asarray(z[finite], np.float64)
    n_components = min(components, own.shape[1], len(own) // 5)
    x = PCA(n_components, random_state=seed).fit_transform(own) if np.ptp(own, axis=0).any() else own[:, :1]
    bic, made = [], []
    different = len(np.unique(x, axis=0))
    for k in range(1, most + 1):
        if len(x) < 5 * k or different < k:
            break
        model = GaussianMixture(
            k, covariance_type="diag", n_init=3, reg_covar=1e-3 * float(x.var()) + 1e-9, random_state=seed
        )
        found = model.fit_predict(x)
        few = np.bincount(found, minlength=k).min() < 5
        bic.append(float("inf") if few else float(model.bic(x)))
        made.append(model)
    best = int(np.argmin(bic))
    each = made[best].predict_proba(x)
    kind = each.argmax(axis=1)
    count = np.bincount(kind, minlength=best + 1)
    order = np.argsort(-count, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    out = np.full(len(z), -1, np.int64)
    out[finite] = place[kind]
    return Phenotypes(out, count[order] / len(finite), float(each.max(axis=1).mean()), np.array(bic))


@dataclass(frozen=True)
class Rare:
    """Whether a group has more cells in the upper tail than its references: what an SD of many cells does not see.

    Parameters
    ----------
    n_cells, n_beyond : ndarray of shape (n_groups,), int64
        Cells that counted, and those above `threshold`.
    share : ndarray of shape (n_groups,), float64
    expected : float
        Share of reference cells above the threshold.
    p, p_fdr : ndarray of shape (n_groups,), float64
        Binomial, one-sided; NaN for groups with too few cells.
    threshold : float
    rank : ndarray of shape (n_groups,), int64
        By share, 1 = most; 0 = not ranked.
    upper : ndarray of shape (n_groups,), float64
        Weight of the upper one of two normal distributions, where two describe the group better than one (BIC); 0 where they do
        not, NaN with too few cells.
    """

    n_cells: np.ndarray
    n_beyond: np.ndarray
    share: np.ndarray
    expected: float
    p: np.ndarray
    p_fdr: np.ndarray
    threshold: float
    rank: np.ndarray
    upper: np.ndarray


def rare_cells(
    value: np.ndarray, group: np.ndarray, n_groups: int, reference: np.ndarray, *, tail: float = 0.02, min_cells: int = 10,
    seed: int = 0,
) -> Rare:  # fmt: skip
    """Count each group's cells beyond what all but a few reference cells reach (an oddness, a distance, a score).

    Parameters
    ----------
    value : ndarray of shape (n,), float
        Larger is odder; NaN does not count.
    group : ndarray of shape (n,), int
        −1 for none.
    reference : ndarray of shape (n,), bool
        Cells to expect chance from.
    tail : float
        Share of the reference cells beyond the threshold.

    Raises
    ------
    InputError
        If there are too few reference cells to have such a tail.
    """
    from scipy.stats import binom

    value = np.asarray(value, np.float64)
    counted = np.isfinite(value) & (group >= 0)
    usual = value[np.isfinite(value) & reference]
    if len(usual) * tail < 1:
        raise InputError(
            f"{len(usual):,} reference cells have no upper {tail:.1%}; at least {int(np.ceil(1 / tail)):,} are needed."
        )
    threshold = float(np.quantile(usual, 1 - tail, method="higher"))
    n = np.bincount(group[counted], minlength=n_groups).astype(np.int64)
    beyond = np.bincount(group[counted & (value > threshold)], minlength=n_groups).astype(np.int64)
    expected = max(float((usual > threshold).mean()), 0.5 / len(usual))
    enough = n >= min_cells
    share = np.divide(beyond, n, out=np.full(n_groups, np.nan), where=n > 0)
    p = np.where(enough, binom.sf(beyond - 1, n, expected), np.nan)
    upper = np.full(n_groups, np.nan)
    for i in np.flatnonzero(enough):
        upper[i] = upper_weight(value[counted & (group == i)], seed)
    rank = rank_descending(np.where(enough, share, np.nan))
    return Rare(n, beyond, share, expected, p, corrected(p), threshold, rank, upper)


def upper_weight(value: np.ndarray, seed: int = 0) -> float:
    """Weight of the upper of two normal distributions; 0 where one describes the values as well (BIC) or the values are one."""
    from sklearn.mixture import GaussianMixture

    x = np.asarray(value, np.float64)[:, None]
    if len(x) < 10:
        return float("nan")
    if not np.ptp(x) > 0:
        return 0.0
    x = (x - x.mean()) / x.std()
    one, two = (GaussianMixture(k, n_init=3, reg_covar=1e-3, random_state=seed).fit(x) for k in (1, 2))
    low, high = np.argsort(two.means_.ravel())
    apart = two.means_.ravel()[high] - two.means_.ravel()[low]
    # Two of one centre only say that the tails are long; they have to be as far apart as the wider one is wide.
    if two.bic(x) >= one.bic(x) or apart < np.sqrt(two.covariances_.max()):
        return 0.0
    return float(two.weights_[high])


@dataclass(frozen=True)
class FieldSpread:
    """Heterogeneity field by field, and of each group the largest, beside what equally many fields have by chance.

    Parameters
    ----------
    field, group_of_field : ndarray of shape (n_fields,), int64
    value : ndarray of shape (n_fields,), float64
        NaN for fields with fewer cells than asked for.
    highest, expected, p : ndarray of shape (n_groups,), float64
        The largest of a group's fields; the mean of the same of as many reference cells in as many fields of the same sizes;
        share of draws that reach it (its own counted as one).
    n_fields : ndarray of shape (n_groups,), int64
        Fields that counted.
    """

    field: np.ndarray
    group_of_field: np.ndarray
    value: np.ndarray
    highest: np.ndarray
    expected: np.ndarray
    p: np.ndarray
    n_fields: np.ndarray

    @property
    def p_fdr(self) -> np.ndarray:
        """Corrected for the number of groups, float64 (n_groups,)."""
        return corrected(self.p)


def field_spread(
    z: np.ndarray, field: np.ndarray, group: np.ndarray, n_groups: int, reference: np.ndarray, *, measure: str = "sd",
    min_cells: int = 10, n_draws: int = 200, seed: int = 0,
) -> FieldSpread:  # fmt: skip
    """Measure how cells differ within each field, and take each group's largest field (as DINO4Cells does per image).

    The largest of nine fields of one homogeneous population is larger than that of one, so it is compared with what as many
    fields of as many cells drawn from the reference give.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Z-scored; rows that are not finite do not count.
    field, group : ndarray of shape (n,), int
        −1 for none. A field of two groups is two.
    reference : ndarray of shape (n,), bool
    measure : {"sd", "distance"}
        Mean over features of the SD (ddof 0), or mean cosine distance over all pairs of cells.
    n_draws : int
        0: nothing is drawn, `expected` and `p` are NaN.

    References
    ----------
    .. [1] ``models.md`` §3.7 (heterogeneity per image, maximum over a gene's images; pairwise-distance variant).
    """
    if measure not in ("sd", "distance"):
        raise InputError(f'Heterogeneity is an "sd" or a "distance"; got {measure!r}.')
    finite = np.isfinite(z).all(axis=1)
    rows = np.flatnonzero(finite & (field >= 0) & (group >= 0))
    pairs, part = np.unique(np.stack([group[rows], field[rows]], axis=1), axis=0, return_inverse=True)
    members = np.split(
        rows[np.argsort(part.ravel(), kind="stable")], np.cumsum(np.bincount(part.ravel()))[:-1]
    )
    prepared = _prepared(z, measure)
    size = np.array([len(m) for m in members])
    value = np.array([_of(prepared[m], measure) if len(m) >= min_cells else np.nan for m in members])
    highest, expected, p = (np.full(n_groups, np.nan) for _ in range(3))
    n_fields = np.zeros(n_groups, np.int64)
    pool = np.flatnonzero(finite & reference)
    if n_draws and len(pool) < min_cells:
        raise InputError(
            f"{len(pool)} reference cells are too few to say what is expected by chance; {min_cells} are needed."
        )
    rng = np.random.default_rng(seed)
    cache: dict[tuple[int, ...], np.ndarray] = {}
    for i in range(n_groups):
        own = np.flatnonzero((pairs[:, 0] == i) & np.isfinite(value))
        n_fields[i] = len(own)
        if not len(own):
            continue
        highest[i] = value[own].max()
        if n_draws:
            sizes = tuple(sorted(int(size[f]) for f in own))
            if sizes not in cache:
                cache[sizes] = np.array(
                    [max(_of(prepared[rng.choice(pool, n)], measure) for n in sizes) for _ in range(n_draws)]
                )
            expected[i] = cache[sizes].mean()
            p[i] = (1 + int((cache[sizes] >= highest[i]).sum())) / (1 + n_draws)
    return FieldSpread(pairs[:, 1], pairs[:, 0], value, highest, expected, p, n_fields)


def _prepared(z: np.ndarray, measure: str) -> np.ndarray:
    x = np.asarray(z, np.float32)
    if measure == "sd":
        return x
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def _of(x: np.ndarray, measure: str) -> float:
    if measure == "sd":
        return float(x.std(axis=0, dtype=np.float64).mean())
    n = len(x)
    total = float((x.sum(axis=0, dtype=np.float64) ** 2).sum()) - float((x.astype(np.float64) ** 2).sum())
    return 1 - total / (n * (n - 1))


def own_group_deviation(z: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How far each cell is from the middle of its own group, in the group's own spread.

    Root mean square over features of (value − median) / (1.4826 × MAD); features without a spread in the group do not count.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
    group : ndarray of shape (n,), int
        −1 for none.

    Returns
    -------
    ndarray of shape (n,), float64
        About 1 for usual cells; NaN in groups of fewer than five.
    """
    out = np.full(len(z), np.nan)
    for rows in _groups_of_five(z, group):
        x = np.asarray(z[rows], np.float64)
        away = x - np.median(x, axis=0)
        spread = 1.4826 * np.median(np.abs(away), axis=0)
        use = spread > 1e-6
        if use.any():
            out[rows] = np.sqrt(((away[:, use] / spread[use]) ** 2).mean(axis=1))
    return out


def local_outlier_factor(z: np.ndarray, group: np.ndarray, k: int = 20) -> np.ndarray:
    """Local outlier factor of each cell among its own group: 1 is as crowded as its neighbours are, larger is lonelier.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
    group : ndarray of shape (n,), int
        −1 for none.
    k : int
        Neighbours, fewer in small groups.

    Returns
    -------
    ndarray of shape (n,), float64
        NaN in groups of fewer than five.

    References
    ----------
    .. [1] Breunig et al., SIGMOD 2000.
    """
    from sklearn.neighbors import LocalOutlierFactor

    if k < 1:
        raise InputError(f"The local outlier factor needs a neighbour; k is {k}.")
    out = np.full(len(z), np.nan)
    for rows in _groups_of_five(z, group):
        made = LocalOutlierFactor(n_neighbors=min(k, len(rows) - 1)).fit(z[rows])
        out[rows] = -made.negative_outlier_factor_
    return out


def _groups_of_five(z: np.ndarray, group: np.ndarray) -> Iterator[np.ndarray]:
    """Finite rows of every group that has five of them or more."""
    finite = np.isfinite(z).all(axis=1)
    for i in np.unique(group[group >= 0]):
        rows = np.flatnonzero((group == i) & finite)
        if len(rows) >= 5:
            yield rows


@dataclass(frozen=True)
class Hits:
    """How many annotated groups are at the top of a ranking.

    Parameters
    ----------
    share : ndarray of shape (n,), float64
        Of the k highest, the share annotated; k = 1 … n.
    average_precision, chance : float
    best_k : int
        The k ≥ 5 (or n) with the highest share.
    """

    share: np.ndarray
    average_precision: float
    chance: float
    best_k: int


def top_hits(score: np.ndarray, annotated: np.ndarray) -> Hits:
    """Compare a ranking of groups with an annotation ("known to vary").

    Parameters
    ----------
    score : ndarray of shape (n,), float
        Largest first; NaN does not count.
    annotated : ndarray of shape (n,), bool

    Raises
    ------
    InputError
        If none or all are annotated.

    References
    ----------
    .. [1] ``models.md`` §3.7 and §3.8 (64 % at k = 24).
    """
    from sklearn.metrics import average_precision_score

    known = np.isfinite(score)
    truth = np.asarray(annotated, bool)[known]
    if not truth.any() or truth.all():
        raise InputError(
            f"{int(truth.sum())} of {len(truth)} groups are annotated, so no ranking can be judged by that."
        )
    order = np.argsort(-np.asarray(score)[known], kind="stable")
    share = np.cumsum(truth[order]) / np.arange(1, len(truth) + 1)
    first = min(5, len(truth)) - 1
    value = float(average_precision_score(truth, np.asarray(score)[known]))
    return Hits(share, value, float(truth.mean()), int(first + share[first:].argmax() + 1))


def annotated_as(column: Sequence[object], value: str) -> np.ndarray:
    """Which entries have `value` among theirs, several in one entry being parted by ";": bool (n,)."""
    wanted = value.strip().casefold()
    return np.array(
        [wanted in [part.strip().casefold() for part in str(entry).split(";")] for entry in column]
    )
