"""Which embedding knows more: probes, layers and models side by side, with intervals over fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from napari_cellrep.analysis.labels import make_classifier, probabilities, split_by_part
from napari_cellrep.analysis.neighbours import knn_classify, scores
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.specs import InputError

PROBES = ("knn", "logistic", "forest")


@dataclass(frozen=True)
class Known:
    """What an embedding knows of a label.

    Parameters
    ----------
    predicted : ndarray of shape (n,), str
    accuracy, balanced_accuracy : float
        Share right (micro); mean over classes (macro).
    recall : dict
        Class → share right.
    macro_f1 : float
        Mean over classes of F1, which wrongly called cells lower too.
    """

    predicted: np.ndarray
    accuracy: float
    balanced_accuracy: float
    recall: dict[str, float]
    macro_f1: float


def probe(
    x: np.ndarray, label: np.ndarray, part: np.ndarray | None = None, *, kind: str = "knn", k: int = 11, scale: bool = True,
    seed: int = 0,
) -> Known:  # fmt: skip
    """Predict a label from vectors, whole parts (fields) held out where they are given.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    label : ndarray of shape (n,)
    part : ndarray of shape (n,), optional
        Cells of one part are never on both sides. Without it leave-one-out ("knn") or five random folds.
    kind : {"knn", "logistic", "forest"}
        k nearest neighbours; logistic regression; random forest (`labels.make_classifier`).
    scale : bool
        Z-score over all cells first.

    Raises
    ------
    InputError
        If there is one class only, or none can be held out.
    """
    if kind not in PROBES:
        raise InputError(f"A probe is one of {', '.join(PROBES)}; got {kind!r}.")
    names, y = np.unique(np.asarray(label).astype(str), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"A probe needs two classes or more; there is {len(names)}.")
    z = z_score(x) if scale else np.asarray(x, np.float32)
    if kind == "knn":
        votes = knn_classify(z, names[y], k, part=part)
        own = (votes.accuracy, votes.balanced_accuracy, votes.recall, votes.macro_f1)
        return Known(votes.predicted.astype(str), *own)
    parts = np.random.default_rng(seed).permutation(len(z)) % 5 if part is None else np.asarray(part)
    split = split_by_part(names[y], parts.astype(str), what="part")
    if not split.tests:
        raise InputError(f"Nothing can be held out. {split.why_not}")
    make = make_classifier(kind, seed=seed)
    guess = np.full(len(z), -1)
    for test in split.tests:
        rest = np.setdiff1d(np.arange(len(z)), test)
        guess[test] = probabilities(make, z[rest], y[rest], z[test], len(names)).argmax(axis=1)
    tested = guess >= 0
    found = scores(y[tested], guess[tested], [str(n) for n in names])
    return Known(np.where(tested, names[guess], ""), *found)


def silhouette(x: np.ndarray, label: np.ndarray, most: int = 5000, seed: int = 0) -> float:
    """Mean silhouette of the classes: 1 is far apart, 0 overlapping, below that mixed.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    label : ndarray of shape (n,)
    most : int
        Cells at most, drawn at random: all pairs are looked at.
    """
    from sklearn.metrics import silhouette_score

    names, y = np.unique(np.asarray(label).astype(str), return_inverse=True)
    if not 2 <= len(names) < len(x):
        raise InputError(
            f"A silhouette needs from 2 classes to fewer than there are cells; there are {len(names)}."
        )
    rows = np.arange(len(x))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        if len(np.unique(y[rows])) < 2:
            return float("nan")
    return float(silhouette_score(x[rows], y[rows]))


@dataclass(frozen=True)
class Compared:
    """Embeddings side by side.

    Parameters
    ----------
    rows : list of dict
        Per embedding, best first: embedding, accuracy, balanced_accuracy, low, high (interval of the latter), silhouette,
        n_features.
    pairs : list of dict
        Per pair: better, worse, difference of balanced accuracy, low, high, and p, twice the share of draws on the other side of
        nought.
    n_cells, n_parts : int
    """

    rows: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    n_cells: int
    n_parts: int


def compare(
    embeddings: Mapping[str, np.ndarray], label: np.ndarray, part: np.ndarray, *, kind: str = "knn", k: int = 11,
    n_draws: int = 1000, level: float = 0.95, seed: int = 0,
) -> Compared:  # fmt: skip
    """Compare embeddings (models, or layers of one) by what they know of a label, on the same cells.

    Whole parts (fields) are held out, and whole parts are drawn again for the intervals: cells of one field are no independent
    witnesses.

    Parameters
    ----------
    embeddings : mapping of str to ndarray of shape (n, d)
        Finite, the same cells in the same order.
    label, part : ndarray of shape (n,)
    n_draws : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If there is no embedding, one class, or a single part.
    """
    if not embeddings:
        raise InputError("There is no embedding to compare.")
    names, y = np.unique(np.asarray(label).astype(str), return_inverse=True)
    _, of = np.unique(np.asarray(part).astype(str), return_inverse=True)
    n_parts = int(of.max()) + 1
    if n_parts < 2:
        raise InputError("All cells are of one part (field), so none can be held out.")
    rows: dict[str, dict[str, Any]] = {}
    right = {}
    for name, x in embeddings.items():
        known = probe(x, label, part, kind=kind, k=k, seed=seed)
        right[name] = known.predicted == names[y]
        rows[name] = {
            "embedding": name, "accuracy": known.accuracy, "balanced_accuracy": known.balanced_accuracy,
            "macro_f1": known.macro_f1, "silhouette": silhouette(z_score(x), label, seed=seed), "n_features": x.shape[1],
        }  # fmt: skip
    rng = np.random.default_rng(seed)
    weight = np.stack(
        [np.bincount(d, minlength=n_parts) for d in rng.integers(n_parts, size=(n_draws, n_parts))]
    )
    draws = {name: _balanced(weight, of, y, hit, len(names)) for name, hit in right.items()}
    ends = (0.5 - level / 2, 0.5 + level / 2)
    for name in rows:
        rows[name]["low"], rows[name]["high"] = np.nanquantile(draws[name], ends)
    return _side_by_side(rows, draws, "balanced_accuracy", level, len(y), n_parts)


def _balanced(
    weight: np.ndarray, of: np.ndarray, y: np.ndarray, right: np.ndarray, n_classes: int
) -> np.ndarray:
    """Balanced accuracy of every draw of parts; a class that is in none of a draw's parts does not count there."""
    n_parts = weight.shape[1]
    total = np.bincount(of * n_classes + y, minlength=n_parts * n_classes).reshape(n_parts, n_classes)
    hit = np.bincount(of * n_classes + y, right, n_parts * n_classes).reshape(n_parts, n_classes)
    drawn, hits = weight @ total, weight @ hit
    with np.errstate(invalid="ignore"):
        recall = np.where(drawn > 0, hits / np.maximum(drawn, 1), np.nan)
    return np.asarray(np.nanmean(recall, axis=1))


# ---- classes of which a cell has several ---------------------------------------------------------------


Head = Callable[..., np.ndarray]  # as `probe_several` wants it; networks are beyond this room


@dataclass(frozen=True)
class ManyLabels:
    """What an embedding knows of classes of which a cell may have several.

    Parameters
    ----------
    classes : tuple of str
    predicted : ndarray of shape (n, n_classes), bool
        Every row from a head that has not seen its part.
    f1 : ndarray of shape (n_classes,), float64
    macro_f1, micro_f1 : float
        Mean over classes; of all decisions together.
    left_out : tuple of str
        Classes all of whose cells are in one part: they cannot be tested.
    """

    classes: tuple[str, ...]
    predicted: np.ndarray
    f1: np.ndarray
    macro_f1: float
    micro_f1: float
    left_out: tuple[str, ...]


def several_labels(entries: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes named in each entry, several parted by ";": bool (n, n_classes), and their names."""
    parts = [[p.strip() for p in str(entry).split(";") if p.strip()] for entry in entries]
    names = sorted({p for own in parts for p in own})
    at = {name: i for i, name in enumerate(names)}
    member = np.zeros((len(parts), len(names)), bool)
    for row, own in zip(member, parts, strict=True):
        row[[at[p] for p in own]] = True
    return member, tuple(names)


def probe_several(
    x: np.ndarray, entries: np.ndarray, part: np.ndarray, *, head: Head, epochs: int = 30, n_folds: int = 5, seed: int = 0
) -> ManyLabels:  # fmt: skip
    """Let a head (the papers' small network) learn several classes per cell, and test it on whole parts (fields) held out.

    A class counts as said where its probability is above 0.5, as in DINO4Cells.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    entries : ndarray of shape (n,)
        Classes of each cell, parted by ";".
    part : ndarray of shape (n,)
    head : callable
        ``head(x, member, ask, epochs=…, seed=…)`` learns from x (m, d) float and member (m, n_classes) bool, and gives the
        probability of each class for each row of ask, (k, n_classes); `models._probe.head_probabilities` is the papers'.
    epochs : int
        Draws of as many cells as there are to learn from.
    n_folds : int
        Groups of parts held out together.

    Raises
    ------
    InputError
        If fewer than two parts, or fewer than two classes that are in two parts, are there.

    References
    ----------
    .. [1] ``models.md`` §3.7 (MLP; macro-F1 over classes with positives).
    """
    from sklearn.model_selection import GroupKFold

    member, names = several_labels(entries)
    part = np.asarray(part).astype(str)
    if len(parts := np.unique(part)) < 2:
        raise InputError("All cells are of one part (field), so none can be held out.")
    testable = np.array([len(np.unique(part[member[:, c]])) > 1 for c in range(len(names))], bool)
    left_out = tuple(n for n, ok in zip(names, testable, strict=True) if not ok)
    if testable.sum() < 2:
        raise InputError(
            f"A probe needs two classes with cells in two parts (fields); {int(testable.sum())} of {len(names)} has."
        )
    member = member[:, testable]
    said = np.zeros_like(member)
    for learn, test in GroupKFold(min(n_folds, len(parts))).split(x, groups=part):
        said[test] = head(x[learn], member[learn], x[test], epochs=epochs, seed=seed) > 0.5
    hit, f1 = _f1(member, said)
    return ManyLabels(
        tuple(n for n, ok in zip(names, testable, strict=True) if ok), said, f1, float(f1.mean()),
        float(2 * hit.sum() / max(int(member.sum()) + int(said.sum()), 1)), left_out,
    )  # fmt: skip


def _f1(truth: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and F1 of each class (0 where none was said and none is right)."""
    hit = (truth & said).sum(axis=0)
    return hit, 2 * hit / np.maximum(truth.sum(axis=0) + said.sum(axis=0), 1)


def compare_several(
    embeddings: Mapping[str, np.ndarray], entries: np.ndarray, part: np.ndarray, *, head: Head, epochs: int = 30,
    n_draws: int = 1000, level: float = 0.95, seed: int = 0,
) -> tuple[Compared, tuple[str, ...]]:  # fmt: skip
    """Compare embeddings by the macro-F1 of a head (as in `probe_several`) on classes of which a cell may have several.

    As `compare`, rows with macro_f1, low, high, micro_f1, classes and n_features, and pairs; and the classes that could not be
    tested.
    """
    if not embeddings:
        raise InputError("There is no embedding to compare.")
    _, of = np.unique(np.asarray(part).astype(str), return_inverse=True)
    n_parts = int(of.max()) + 1
    rng = np.random.default_rng(seed)
    weight = np.stack(
        [np.bincount(d, minlength=n_parts) for d in rng.integers(n_parts, size=(n_draws, n_parts))]
    )
    member, names = several_labels(entries)
    rows: dict[str, dict[str, Any]] = {}
    draws: dict[str, np.ndarray] = {}
    left_out: tuple[str, ...] = ()
    for name, x in embeddings.items():
        found = probe_several(x, entries, part, head=head, epochs=epochs, seed=seed)
        truth, left_out = member[:, [names.index(c) for c in found.classes]], found.left_out
        count = [np.zeros((n_parts, truth.shape[1])) for _ in range(3)]
        for total, what in zip(count, (truth & found.predicted, truth, found.predicted), strict=True):
            np.add.at(total, of, what)
        hit, real, said = (weight @ c for c in count)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(
                real > 0, 2 * hit / (real + said), np.nan
            )  # a class that no draw has does not count
        draws[name] = np.nanmean(f1, axis=1)
        low, high = np.nanquantile(draws[name], (0.5 - level / 2, 0.5 + level / 2))
        rows[name] = {
            "embedding": name, "macro_f1": found.macro_f1, "low": float(low), "high": float(high), "micro_f1": found.micro_f1,
            "n_features": x.shape[1],
            "f1": {c: round(float(v), 4) for c, v in zip(found.classes, found.f1, strict=True)},
        }  # fmt: skip
    return _side_by_side(rows, draws, "macro_f1", level, len(entries), n_parts), left_out


def _side_by_side(
    rows: dict[str, dict[str, Any]], draws: dict[str, np.ndarray], score: str, level: float, n_cells: int, n_parts: int
) -> Compared:  # fmt: skip
    """Rows by their score, the best first, and what each two differ by in the same draws."""
    ends = (0.5 - level / 2, 0.5 + level / 2)
    order = sorted(rows, key=lambda name: -rows[name][score])
    pairs = []
    for better, worse in combinations(order, 2):
        drawn = draws[better] - draws[worse]
        low, high = np.nanquantile(drawn, ends)
        pairs.append(
            {
                "better": better,
                "worse": worse,
                "difference": rows[better][score] - rows[worse][score],
                "low": float(low),
                "high": float(high),
                "p": min(1.0, 2 * (1 + int((drawn <= 0).sum())) / (1 + len(drawn))),
            }
        )
    return Compared([rows[name] for name in order], pairs, n_cells, n_parts)


# ---- one set of profiles against another --------------------------------------------------------------


@dataclass(frozen=True)
class Mantel:
    """Correlation of two square matrices.

    Parameters
    ----------
    r, p : float
        Pearson's over the pairs; two-tailed, from permutations of the rows.
    n : int
        Rows.
    """

    r: float
    p: float
    n: int


def mantel(a: np.ndarray, b: np.ndarray, *, n_draws: int = 10_000, seed: int = 0) -> Mantel:
    """Whether two matrices of similarity (or distance) of the same items agree.

    Parameters
    ----------
    a, b : ndarray of shape (n, n), float
        Symmetric; the diagonal does not count.

    Raises
    ------
    InputError
        If they have different sizes, fewer than four rows, or one is constant.

    References
    ----------
    .. [1] Mantel, Cancer Res. 27:209 (1967); ``models.md`` §3.7 (10,000 permutations, two-tailed).
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise InputError(
            f"Both matrices have to be square and of the same items; they are {a.shape} and {b.shape}."
        )
    n = len(a)
    if n < 4:
        raise InputError(f"A Mantel test needs four items or more; there are {n}.")
    i, j = np.triu_indices(n, 1)
    x, y = np.asarray(a, np.float64)[i, j], np.asarray(b, np.float64)[i, j]
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) > 0 and np.ptp(y) > 0):
        raise InputError(
            "One of the matrices has the same value (or none) in every pair, so nothing can agree with it."
        )
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    r = float((x * y).mean())
    square = np.zeros((n, n))
    square[i, j] = square[j, i] = x
    rng = np.random.default_rng(seed)
    beyond = 0
    for _ in range(n_draws):
        order = rng.permutation(n)
        beyond += abs(float((square[order[i], order[j]] * y).mean())) >= abs(r) - 1e-12
    return Mantel(r, (1 + beyond) / (1 + n_draws), n)


@dataclass(frozen=True)
class Paired:
    """Items in two modalities, brought into one space.

    Parameters
    ----------
    a, b : ndarray of shape (n, n_components), float64
    accuracy : float
        Share of items of `a` whose nearest in `b` is themselves.
    chance : float
    correlation : ndarray of shape (n_components,), float64
    """

    a: np.ndarray
    b: np.ndarray
    accuracy: float
    chance: float
    correlation: np.ndarray


def pair_modalities(a: np.ndarray, b: np.ndarray, n_components: int = 2) -> Paired:
    """Canonical correlation of profiles with a second modality (for example RNA) of the same items.

    Fitted on all items, as the paper does it: with few items and many features the accuracy is high by fit alone, so compare it
    between embeddings and not with chance.

    Parameters
    ----------
    a : ndarray of shape (n, d), float
    b : ndarray of shape (n, e), float
        The same items in the same order.

    Raises
    ------
    InputError
        If sizes differ, or there are too few items or features.

    References
    ----------
    .. [1] ``models.md`` §3.7 (scikit-learn's CCA, two components, nearest by Euclidean distance).
    """
    from scipy.spatial.distance import cdist
    from sklearn.cross_decomposition import CCA

    if len(a) != len(b):
        raise InputError(f"Both modalities need the same items; there are {len(a)} and {len(b)}.")
    most = min(len(a) - 1, a.shape[1], b.shape[1])
    if n_components > most:
        raise InputError(f"{n_components} components cannot be had from these sizes; {most} can.")
    own, other = CCA(n_components=n_components).fit_transform(
        np.asarray(a, np.float64), np.asarray(b, np.float64)
    )
    nearest = cdist(own, other).argmin(axis=1)
    correlation = np.array([np.corrcoef(own[:, i], other[:, i])[0, 1] for i in range(n_components)])
    return Paired(own, other, float((nearest == np.arange(len(a))).mean()), 1 / len(a), correlation)


@dataclass(frozen=True)
class Replicates:
    """Agreement of replicate profiles.

    Parameters
    ----------
    items : tuple of str
        Those with two replicates or more, the most alike first.
    correlation : ndarray of shape (n_items,), float64
        Median over the pairs of each one's replicates.
    n : ndarray of shape (n_items,), int64
    threshold : float
        95th percentile of the same number for pairs of different items.
    share : float
        Share of items above it.
    """

    items: tuple[str, ...]
    correlation: np.ndarray
    n: np.ndarray
    threshold: float
    share: float


def replicate_agreement(
    profiles: np.ndarray, item: np.ndarray, *, n_draws: int = 1000, seed: int = 0
) -> Replicates:
    """How alike the replicates of each item are, against as many profiles of different items.

    Parameters
    ----------
    profiles : ndarray of shape (n, d), float
        Finite; best z-scored over all profiles first.
    item : ndarray of shape (n,)
        What each profile is a replicate of; "" for none.

    Raises
    ------
    InputError
        If no item has two replicates, or there is one item only.
    """
    text = np.asarray(item).astype(str)
    names, counts = np.unique(text[text != ""], return_counts=True)
    repeated = names[counts >= 2]
    if not len(repeated):
        raise InputError("No item has two replicates, so nothing can agree.")
    if len(names) < 2:
        raise InputError("There is one item only; agreement is told from pairs of different items.")
    r = np.atleast_2d(np.corrcoef(np.asarray(profiles, np.float64)))
    rows = {name: np.flatnonzero(text == name) for name in names}

    def middle(at: np.ndarray) -> float:
        i, j = np.triu_indices(len(at), 1)
        return float(np.nanmedian(r[at[i], at[j]]))

    value = np.array([middle(rows[n]) for n in repeated])
    order = np.argsort(-value, kind="stable")
    rng = np.random.default_rng(seed)
    drawn = []
    for size in rng.choice(counts[counts >= 2], n_draws):
        others = rng.choice(len(names), min(int(size), len(names)), replace=False)
        drawn.append(middle(np.array([rng.choice(rows[names[o]]) for o in others])))
    threshold = float(np.quantile(drawn, 0.95))
    n = np.array([len(rows[n]) for n in repeated[order]], np.int64)
    items = tuple(str(name) for name in repeated[order])
    return Replicates(items, value[order], n, threshold, float((value > threshold).mean()))


def shifted_groups(
    z: np.ndarray, group: np.ndarray, condition: np.ndarray, a: str, b: str, *, min_cells: int = 10, n_draws: int = 500,
    most_cells: int = 1000, seed: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Which groups (proteins) moved between two conditions: distance of their means, against exchanged labels.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Z-scored cells, finite.
    group, condition : ndarray of shape (n,)
    a, b : str
        The two conditions.
    n_draws : int
        Permutations of the condition among a group's cells.
    most_cells : int
        Of each condition of a group, drawn at random.

    Returns
    -------
    dict of str to ndarray
        Columns of a table, one row per group that has enough cells in both, largest shift first: group, shift (RMS
        difference per feature), expected, ratio, p, p_fdr, n_a, n_b.

    Raises
    ------
    InputError
        If no group has enough cells in both conditions.
    """
    from napari_cellrep.analysis.variability import corrected

    group, condition = np.asarray(group).astype(str), np.asarray(condition).astype(str)
    rng = np.random.default_rng(seed)
    rows = []
    for name in np.unique(group[group != ""]):
        parts = [np.flatnonzero((group == name) & (condition == c)) for c in (a, b)]
        if min(map(len, parts)) < min_cells:
            continue
        sizes = [len(p) for p in parts]
        parts = [rng.choice(p, most_cells, replace=False) if len(p) > most_cells else p for p in parts]
        x = np.asarray(z[np.concatenate(parts)], np.float32)
        n_a, n = len(parts[0]), len(x)

        def shift(in_a: np.ndarray, x: np.ndarray = x) -> np.ndarray:
            w = in_a / in_a.sum(axis=1, keepdims=True) - (1 - in_a) / (1 - in_a).sum(axis=1, keepdims=True)
            return np.asarray(np.sqrt(((w @ x) ** 2).mean(axis=1)))

        first = np.zeros((1, n), np.float32)
        first[:, :n_a] = 1
        own = float(shift(first)[0])
        draws = shift(rng.permuted(np.repeat(first, n_draws, axis=0), axis=1))
        p = (1 + int((draws >= own).sum())) / (1 + n_draws)
        rows.append((str(name), own, float(draws.mean()), p, *sizes))
    if not rows:
        raise InputError(f"No group has {min_cells} cells in both {a} and {b}, so no shift can be measured.")
    names = np.array([name for name, *_ in rows], object)
    moved, expected, p, n_a, n_b = np.array([numbers for _, *numbers in rows]).T
    ratio = np.divide(moved, expected, out=np.full(len(rows), np.nan), where=expected > 0)
    order = np.argsort(-ratio, kind="stable")
    columns = {
        "group": names, "shift": moved, "expected": expected, "ratio": ratio, "p": p, "p_fdr": corrected(p),
        "n_a": n_a.astype(np.int64), "n_b": n_b.astype(np.int64),
    }  # fmt: skip
    return {name: column[order] for name, column in columns.items()}
