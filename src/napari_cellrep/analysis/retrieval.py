"""Does what belongs together lie together? Profiles against known relations: compounds, mechanisms, gene sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_cellrep.analysis.profiles import JOINED_MOST, grow
from napari_cellrep.analysis.variability import corrected
from napari_cellrep.specs import InputError

METRICS = ("cosine", "correlation", "euclidean")


def similarity(x: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """Similarity of every row with every other, larger is more alike.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Finite.
    metric : {"cosine", "correlation", "euclidean"}
        "correlation" is Pearson's; "euclidean" the negative distance.

    Returns
    -------
    ndarray of shape (n, n), float64
    """
    if metric not in METRICS:
        raise InputError(f"Similarity is one of {', '.join(METRICS)}; got {metric!r}.")
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise InputError("Some profiles are not finite; leave those groups out.")
    if metric == "euclidean":
        from scipy.spatial.distance import pdist, squareform

        return np.asarray(-squareform(pdist(x)))
    if metric == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    size = np.linalg.norm(x, axis=1, keepdims=True)
    unit = np.divide(x, size, out=np.zeros_like(x), where=size > 0)
    return np.asarray(unit @ unit.T)


# ---- one treatment against the rest -------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieval:
    """How well the replicates of each label find one another.

    Parameters
    ----------
    precision : ndarray of shape (n,), float64
        Average precision of every row that has a replicate and something to be told from, NaN for the others.
    labels : tuple of str
        Those with such rows.
    mean, p, p_fdr : ndarray of shape (n_labels,), float64
        Mean over a label's rows; share of random orders of the same sizes that reach it (its own counted as one); the same
        corrected for the number of labels.
    n_rows : ndarray of shape (n_labels,), int64
    """

    precision: np.ndarray
    labels: tuple[str, ...]
    mean: np.ndarray
    p: np.ndarray
    p_fdr: np.ndarray
    n_rows: np.ndarray


def retrieve(
    x: np.ndarray,
    label: np.ndarray,
    *,
    is_control: np.ndarray | None = None,
    not_same: Sequence[np.ndarray] = (),
    metric: str = "cosine",
    n_null: int = 1000,
    seed: int = 0,
) -> Retrieval:
    """Average precision of every row in finding those of its own label among others, with permutation p-values.

    Replicates of a label share their pairs, so what is drawn at random for one of them stands for all of the same sizes: p is
    rather too large than too small, as in the reference's own package.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Profiles: wells, or other replicates.
    label : ndarray of shape (n,)
        For example the treatment; "" is nobody's replicate.
    is_control : ndarray of shape (n,), bool, optional
        What labels are told from (phenotypic activity). Without it from all rows of other labels (distinctness). Controls are
        not asked themselves.
    not_same : sequence of ndarray of shape (n,)
        A pair of replicates counts only where it differs in each of these, for example the well's position.
    metric : str
        As in `similarity`.
    n_null : int
        Random orders for each size.

    Raises
    ------
    InputError
        If no label has two rows that may be compared, or there is nothing to tell them from.

    References
    ----------
    .. [1] Kalinin et al., "A versatile information retrieval framework for evaluating profile strength and similarity",
       Nat. Commun. 16:5181 (2025).
    """
    label = np.asarray(label).astype(str)
    control = np.zeros(len(x), bool) if is_control is None else np.asarray(is_control, bool)
    s = similarity(x, metric)
    same = (label[:, None] == label[None]) & (label != "")[:, None]
    np.fill_diagonal(same, False)
    for other in not_same:
        other = np.asarray(other)
        same &= other[:, None] != other[None]
    asked = ~control & (label != "")
    precision = np.full(len(x), np.nan)
    sizes = np.zeros((len(x), 2), np.int64)
    for i in np.flatnonzero(asked):
        positive = same[i] & ~control
        negative = control if is_control is not None else (label != label[i]) & (label != "")
        n_positive, n_negative = int(positive.sum()), int(negative.sum())
        if not n_positive or not n_negative:
            continue
        sizes[i] = n_positive, n_positive + n_negative
        use = positive | negative
        # Equals are ordered against the query: a tie never helps.
        order = np.lexsort((positive[use], -s[i, use]))
        precision[i] = _average_precision(positive[use][order][None])[0]
    rows = np.flatnonzero(np.isfinite(precision))
    if not len(rows):
        raise InputError(
            "No label has two rows that may be compared and others to be told from; average precision needs replicates."
        )
    rng = np.random.default_rng(seed)
    null = {
        (n_positive, n): random_precision(n_positive, n, n_null, rng)
        for n_positive, n in sorted({(int(a), int(b)) for a, b in sizes[rows]})
    }
    names = np.unique(label[rows])
    mean, p, count = np.empty(len(names)), np.empty(len(names)), np.empty(len(names), np.int64)
    for j, name in enumerate(names):
        own = rows[label[rows] == name]
        mean[j], count[j] = precision[own].mean(), len(own)
        draws = np.mean([null[int(sizes[i, 0]), int(sizes[i, 1])] for i in own], axis=0)
        p[j] = (1 + int((draws >= mean[j] - 1e-12).sum())) / (1 + n_null)
    return Retrieval(precision, tuple(map(str, names)), mean, p, corrected(p), count)


def random_precision(n_positive: int, n: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Average precision of random orders of `n` rows with `n_positive` positives: float64 (n_draws,)."""
    first = np.zeros((n_draws, n), bool)
    first[:, :n_positive] = True
    return _average_precision(rng.permuted(first, axis=1))


def _average_precision(ordered: np.ndarray) -> np.ndarray:
    """Mean precision at the positives, for rows of bool ordered from the best."""
    found = np.cumsum(ordered, axis=1)
    at = found / np.arange(1, ordered.shape[1] + 1)
    return np.asarray((at * ordered).sum(axis=1) / ordered.sum(axis=1))


@dataclass(frozen=True)
class Matched:
    """Whether the nearest allowed neighbour has the same label.

    Parameters
    ----------
    accuracy : float
        Share right of the rows that have an allowed neighbour and a label.
    predicted : ndarray of shape (n,), str
        Label of the nearest; "" where no neighbour is allowed.
    n : int
        Rows that counted.
    chance : float
        Mean share of allowed neighbours with the same label.
    """

    accuracy: float
    predicted: np.ndarray
    n: int
    chance: float


def match_nearest(
    x: np.ndarray, label: np.ndarray, not_same: Sequence[np.ndarray], metric: str = "cosine"
) -> Matched:
    """Give every profile the label of its nearest neighbour that differs in each of some columns.

    With the compound in `not_same` this is NSC (not same compound), with compound and batch NSCB.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        One profile per treatment.
    label : ndarray of shape (n,)
        For example the mechanism of action; "" is unknown: neither asked nor a neighbour.
    not_same : sequence of ndarray of shape (n,)
    metric : str

    Raises
    ------
    InputError
        If no profile has an allowed neighbour.

    References
    ----------
    .. [1] ``models.md`` §4.6: BBBC021, 1-NN by cosine, treatments averaged over replicates.
    """
    label = np.asarray(label).astype(str)
    s = similarity(x, metric)
    allowed = np.repeat((label != "")[None], len(x), axis=0)
    np.fill_diagonal(allowed, False)
    for other in not_same:
        other = np.asarray(other)
        allowed &= other[:, None] != other[None]
    asked = np.flatnonzero(allowed.any(axis=1) & (label != ""))
    if not len(asked):
        raise InputError(
            "No profile has a neighbour that differs in compound (and batch); nothing can be matched."
        )
    s = np.where(allowed, s, -np.inf)
    predicted = np.full(len(x), "", dtype=object)
    predicted[asked] = label[s[asked].argmax(axis=1)]
    right = predicted[asked] == label[asked]
    same = (label[asked][:, None] == label[None]) & allowed[asked]
    chance = float((same.sum(axis=1) / allowed[asked].sum(axis=1)).mean())
    return Matched(float(right.mean()), predicted.astype(str), len(asked), chance)


@dataclass(frozen=True)
class PairEnrichment:
    """Whether the most similar pairs share an annotation more often than the rest (Fisher's exact test).

    Parameters
    ----------
    odds_ratio : float
        Infinite where no other pair shares one.
    p : float
        One-sided.
    n_top, n_top_shared, n_pairs, n_shared : int
    """

    odds_ratio: float
    p: float
    n_top: int
    n_top_shared: int
    n_pairs: int
    n_shared: int


def enriched_pairs(
    s: np.ndarray, shared: np.ndarray, top: float = 0.01, allowed: np.ndarray | None = None
) -> PairEnrichment:
    """Test whether the most similar pairs are enriched for pairs that share an annotation (mechanism, complex).

    Parameters
    ----------
    s : ndarray of shape (n, n), float
        Similarities.
    shared : ndarray of shape (n, n), bool
    top : float
        Share of all pairs that count as most similar.
    allowed : ndarray of shape (n, n), bool, optional
        Pairs that count, for example of different compounds only.
    """
    from scipy.stats import fisher_exact

    if not 0 < top < 1:
        raise InputError(f"The share of most similar pairs lies between 0 and 1; got {top}.")
    i, j = np.triu_indices(len(s), 1)
    if allowed is not None:
        keep = np.asarray(allowed)[i, j]
        i, j = i[keep], j[keep]
    n = len(i)
    n_top = round(top * n)
    if not 0 < n_top < n:
        raise InputError(f"{top:.1%} of {n:,} pairs leaves none to compare; choose a larger share.")
    best = np.argsort(-s[i, j], kind="stable")[:n_top]
    hit = shared[i, j]
    a, total = int(hit[best].sum()), int(hit.sum())
    if not 0 < total < n:
        raise InputError("Either no pair shares an annotation or all do, so nothing can be enriched.")
    found = fisher_exact([[a, n_top - a], [total - a, n - n_top - total + a]], alternative="greater")
    return PairEnrichment(float(found.statistic), float(found.pvalue), n_top, a, n, total)


# ---- functional standards ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Standard:
    """How well similar profiles tell that two items (proteins, genes) share a gene set.

    Parameters
    ----------
    average_precision : float
        Of one ranking of all pairs.
    item_precision : float
        Mean over items of the average precision of each one's own ranking.
    chance : float
        Share of pairs that share a set: what both would be by chance.
    f_half : float
        Largest F0.5 (precision counts twice) over all thresholds.
    mutual_information : float
        Adjusted mutual information between clusters of the profiles and the sets.
    n_items, n_pairs, n_shared : int
    """

    average_precision: float
    item_precision: float
    chance: float
    f_half: float
    mutual_information: float
    n_items: int
    n_pairs: int
    n_shared: int


def functional_standard(
    x: np.ndarray, names: Sequence[str], sets: Mapping[str, Sequence[str]], metric: str = "correlation"
) -> Standard:
    """Score profiles against gene sets (GO terms, complexes, pathways): all unordered pairs of annotated items.

    Where the paper is silent: Pearson's correlation; items in no set of two or more of `names` are left out; F0.5 at its best
    threshold; the clusters are as many as there are sets (the tree of `profiles.grow`: average linkage), and an item of
    several sets counts once for each.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        One profile per item.
    names : sequence of str
    sets : mapping of str to sequence of str

    Raises
    ------
    InputError
        If fewer than three items are in a set, or no pair shares one or all do.

    References
    ----------
    .. [1] Razdaibiedina & Brechalov 2022; ``models.md`` §2.3.
    """
    from sklearn.metrics import adjusted_mutual_info_score, average_precision_score, precision_recall_curve

    member, kept = membership(names, sets)
    rows = np.flatnonzero(member.any(axis=1))
    if len(rows) < 3:
        raise InputError(
            f"{len(rows)} of {len(names):,} items are in a set that two of them share; three are needed. Names have to be "
            "those of the sets."
        )
    if len(rows) > JOINED_MOST:
        raise InputError(
            f"All pairs of at most {JOINED_MOST:,} annotated items are ranked; there are {len(rows):,}. Take fewer sets (an "
            "aspect), or a coarser grouping."
        )
    s = similarity(np.asarray(x)[rows], metric)
    own = member[rows]
    shared = (own.astype(np.int32) @ own.T.astype(np.int32)) > 0
    i, j = np.triu_indices(len(rows), 1)
    truth, value = shared[i, j], s[i, j]
    if truth.all() or not truth.any():
        raise InputError("Either no pair of items shares a set or all do, so nothing can be scored.")
    precision, recall, _ = precision_recall_curve(truth, value)
    down = 0.25 * precision + recall
    f_half = np.divide(1.25 * precision * recall, down, out=np.zeros_like(down), where=down > 0).max()
    each = []
    for k in range(len(rows)):
        others = np.arange(len(rows)) != k
        if 0 < shared[k, others].sum() < len(rows) - 1:
            each.append(average_precision_score(shared[k, others], s[k, others]))
    tree = grow(np.asarray(x)[rows], metric)
    cluster = tree.clusters(min(len(kept), len(rows) - 1))
    item, term = np.nonzero(own)
    return Standard(
        float(average_precision_score(truth, value)), float(np.mean(each)) if each else float("nan"), float(truth.mean()),
        float(f_half), float(adjusted_mutual_info_score(term, cluster[item])), len(rows), len(truth), int(truth.sum()),
    )  # fmt: skip


def membership(
    names: Sequence[str], sets: Mapping[str, Sequence[str]], least: int = 2
) -> tuple[np.ndarray, list[str]]:
    """Which item is in which set: bool (n_items, n_sets), and the names of sets that have at least `least` of the items.

    Names are compared without regard to case.
    """
    at = {str(name).casefold(): i for i, name in enumerate(names)}
    columns, kept = [], []
    for name, members in sets.items():
        column = np.zeros(len(names), bool)
        column[[at[m] for m in {str(m).casefold() for m in members} if m in at]] = True
        if column.sum() >= least:
            columns.append(column)
            kept.append(name)
    return np.stack(columns, axis=1) if columns else np.zeros((len(names), 0), bool), kept


def enrichment(
    chosen: Sequence[str], background: Sequence[str], sets: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Which sets are over-represented among chosen items (a branch, a cluster, neighbours), against a stated background.

    Hypergeometric test, one-sided; false discovery rate over all sets that have a member in the background.

    Parameters
    ----------
    chosen : sequence of str
        Names, each in the background.
    background : sequence of str
        All that could have been chosen.
    sets : mapping of str to sequence of str

    Returns
    -------
    dict of str to ndarray
        Columns of a table, one row per set with a chosen member, smallest p first: set,
        n_chosen (in the set), n_set (in the background), expected, fold, p, p_fdr, members ("a; b").

    Raises
    ------
    InputError
        If nothing is chosen, something chosen is not in the background, or no set has a member there.

    References
    ----------
    .. [1] ``models.md`` §1.7 (GOrilla's test against all clustered proteins).
    """
    from scipy.stats import hypergeom

    folded = {str(name).casefold(): str(name) for name in background}
    picked = {str(name).casefold() for name in chosen}
    if not picked:
        raise InputError("Nothing is chosen, so nothing can be enriched.")
    if strange := sorted(picked - set(folded)):
        raise InputError(f"{strange[0]!r} is chosen but is not in the background of {len(folded):,} names.")
    rows = []
    for name, members in sets.items():
        inside = {str(m).casefold() for m in members} & set(folded)
        if inside:
            rows.append((name, inside & picked, len(inside)))
    if not rows:
        raise InputError("No set has a member in the background: the names are of different kinds.")
    hit = np.array([len(both) for _, both, _ in rows])
    size = np.array([n for *_, n in rows])
    p = hypergeom.sf(hit - 1, len(folded), size, len(picked))
    expected = size * len(picked) / len(folded)
    order = np.lexsort((-hit / expected, p))
    order = order[hit[order] > 0]
    return {
        "set": np.array([rows[i][0] for i in order], object), "n_chosen": hit[order], "n_set": size[order],
        "expected": expected[order], "fold": (hit / expected)[order], "p": p[order], "p_fdr": corrected(p)[order],
        "members": np.array(["; ".join(sorted(folded[m] for m in rows[i][1])) for i in order], object),
    }  # fmt: skip


# ---- distances within and between terms --------------------------------------------------------------


@dataclass(frozen=True)
class TermDistance:
    """How near groups of one term are to one another, against groups of other terms. Negative is nearer than expected.

    Parameters
    ----------
    terms : tuple of str
    value : ndarray of shape (n_terms,), float64
    n_groups : ndarray of shape (n_terms,), int64
    overall : float
        Mean over terms.
    """

    terms: tuple[str, ...]
    value: np.ndarray
    n_groups: np.ndarray
    overall: float


def term_distances(
    z: np.ndarray,
    group: np.ndarray,
    terms: Mapping[str, Sequence[int]],
    *,
    n_pairs: int = 1000,
    normalise: str = "sd",
    pairs_of: tuple[np.ndarray, bool] | None = None,
    seed: int = 0,
) -> TermDistance:
    """Normalised pairwise distance of groups (images, proteins) within a term against between terms.

    D(I, J) is the mean Euclidean distance between the cells of I and those of J. For every term `n_pairs` random pairs of its
    groups are compared with as many pairs of it with each other term.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Cells, z-scored.
    group : ndarray of shape (n,), int
        Group of every cell; −1 for none.
    terms : mapping of str to sequence of int
        Groups with this term, and no other.
    normalise : {"sd", "ratio"}
        "sd": (mean same − mean different) / SD different; "ratio": mean same / mean different − 1. The paper gives neither.
    pairs_of : (ndarray of shape (n_groups,), bool), optional
        A column of the groups (cell line), and whether the two of a same-term pair have to have the same value (True) or
        another one (False): the control that a likeness is not the cell line's.

    Raises
    ------
    InputError
        If fewer than two terms have a pair.

    References
    ----------
    .. [1] Lu et al. 2019; ``models.md`` §1.7.
    """
    from scipy.spatial.distance import cdist

    if normalise not in ("sd", "ratio"):
        raise InputError(f'The distance is normalised by "sd" or "ratio"; got {normalise!r}.')
    rng = np.random.default_rng(seed)
    rows = {int(g): np.flatnonzero(group == g) for g in {int(g) for own in terms.values() for g in own}}
    usable = {t: [int(g) for g in own if len(rows[int(g)])] for t, own in terms.items()}
    known: dict[tuple[int, int], float] = {}

    def distance(pairs: np.ndarray) -> np.ndarray:
        out = np.empty(len(pairs))
        for n, (a, b) in enumerate(np.sort(pairs, axis=1).tolist()):
            if (a, b) not in known:
                known[a, b] = float(cdist(z[rows[a]], z[rows[b]]).mean())
            out[n] = known[a, b]
        return out

    def same_pairs(own: list[int]) -> np.ndarray:
        every = np.array([(a, b) for i, a in enumerate(own) for b in own[i + 1 :]]).reshape(-1, 2)
        if pairs_of is not None and len(every):
            alike = pairs_of[0][every[:, 0]] == pairs_of[0][every[:, 1]]
            every = every[alike == pairs_of[1]]
        return every

    same = {t: pairs for t, own in usable.items() if len(pairs := same_pairs(own))}
    if len(same) < 2:
        raise InputError(
            f"Distances within and between terms need two terms with a pair of groups each; {len(same)} has one."
        )
    value = []
    for term, pairs in same.items():
        within = distance(pairs[rng.integers(len(pairs), size=n_pairs)])
        between = []
        for other in same:
            if other != term:
                a, b = (rng.choice(usable[t], n_pairs) for t in (term, other))
                between.append(distance(np.stack([a, b], axis=1)))
        far = np.concatenate(between)
        spread = far.std()
        if normalise == "ratio":
            value.append(within.mean() / far.mean() - 1 if far.mean() > 0 else float("nan"))
        else:
            value.append((within.mean() - far.mean()) / spread if spread > 0 else float("nan"))
    if not np.isfinite(value).any():
        raise InputError(
            "Groups of different terms are all equally far apart, so no distance can be put in units of theirs."
        )
    n_groups = np.array([len(usable[t]) for t in same], np.int64)
    return TermDistance(tuple(same), np.array(value), n_groups, float(np.nanmean(value)))
