"""Which groups of cells are mixed: the spread of a score, of all features, of an intensity, within each group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from napari_cellrep.specs import InputError

SIZES = 24  # numbers of cells at most for which the expectation is drawn; those between are interpolated
_REFERENCE_CELLS = 5000  # of one reference group at most
MOST_DRAWS = 2000  # for a p-value, where a group lies beyond the first ones
_AT_ONCE = 4_000_000  # counts held at once while drawing
_BLOCK_ROWS = 8192  # of a table that is larger than memory
BINS, LEAST_IN_BIN = (
    5,
    2,
)  # of a group's intensity; reference cells in each of them, so that none stands for all
LEAST_REFERENCES = 3  # groups of matched intensity, where there are so many at all


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


def heterogeneity(
    x: np.ndarray, group: np.ndarray, n_groups: int, *, measure: str = "sd", min_cells: int = 10
) -> Spread:
    """Heterogeneity of each group straight from an embedding that may be larger than memory (`numpy.memmap`).

    Blocks of rows are read one after the other and added to sums per group, from which the SDs follow: one pass, and memory of
    16 bytes × n_groups × d. "sd" is `feature_spread` of the z-scored embedding; "distance", the mean cosine distance of all
    pairs of a group's z-scored cells, has to know the scale before and takes a second pass.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Features as they are; cells that are not finite do not count.
    group, n_groups, min_cells
        As in `score_spread`.
    measure : {"sd", "distance"}

    References
    ----------
    .. [1] DINO4Cells' heterogeneity, and its variant over pairs (``models.md`` §3.7; ddof 0).
    """
    if measure not in ("sd", "distance"):
        raise InputError(f'Heterogeneity is an "sd" or a "distance"; got {measure!r}.')
    d = x.shape[1]
    first = np.asarray(x[:_BLOCK_ROWS], np.float64)
    first = first[np.isfinite(first).all(axis=1)]
    centre = first.mean(axis=0) if len(first) else np.zeros(d)  # smaller numbers, less cancellation
    n, total, square = np.zeros(n_groups, np.int64), np.zeros((n_groups, d)), np.zeros((n_groups, d))
    whole, whole2, n_whole = np.zeros(d), np.zeros(d), 0
    for own, of in _blocks(x, group, centre):
        n_whole += len(own)
        whole += own.sum(axis=0)
        _add(total, n, own, of)
        np.square(own, out=own)
        whole2 += own.sum(axis=0)
        _add(square, None, own, of)
    counts = np.maximum(n, 1)[:, None]
    scale = _root(whole2 / max(n_whole, 1), whole / max(n_whole, 1))
    scale = np.where(
        scale > 1e-6 * np.maximum(np.abs(centre + whole / max(n_whole, 1)), 1e-30), scale, np.inf
    )
    if measure == "sd":
        np.divide(total, counts, out=total)
        np.divide(square, counts, out=square)
        value = (_root(square, total) / scale).mean(axis=1)
        value[n < 2] = np.nan
    else:
        middle = centre + whole / max(n_whole, 1)
        total[:] = 0
        length2 = np.zeros((n_groups, 1))
        for own, of in _blocks(x, group, middle):
            own /= scale
            size = np.linalg.norm(own, axis=1, keepdims=True)
            np.divide(own, size, out=own, where=size > 0)
            _add(total, None, own, of)
            _add(length2, None, (size > 0).astype(np.float64), of)
        pairs = np.where(n > 1, n * (n - 1.0), np.nan)
        value = 1 - ((total**2).sum(axis=1) - length2[:, 0]) / pairs
    rank = rank_descending(np.where(n >= min_cells, value, np.nan))
    return Spread(n, np.full(n_groups, np.nan), value, rank)


def _blocks(x: np.ndarray, group: np.ndarray, centre: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finite rows less `centre`, a block at a time, float64 (m, d), and each one's group."""
    for start in range(0, len(x), _BLOCK_ROWS):
        own = np.asarray(x[start : start + _BLOCK_ROWS], np.float64) - centre
        fine = np.isfinite(own).all(axis=1)
        of = np.asarray(group[start : start + _BLOCK_ROWS])
        yield (own, of) if fine.all() else (own[fine], of[fine])


def _add(total: np.ndarray, n: np.ndarray | None, own: np.ndarray, of: np.ndarray) -> None:
    """Add rows to their groups' sums, and to their counts; −1 is no group."""
    inside = np.flatnonzero(of >= 0)
    groups, at = np.unique(of[inside], return_inverse=True)
    if not len(groups):
        return
    which = sparse.csr_matrix((np.ones(len(at)), (at, inside)), shape=(len(groups), len(own)))
    total[groups] += which @ own
    if n is not None:
        n[groups] += np.bincount(at)


def _root(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """SD from the mean of squares and the mean; rounding is not taken for spread."""
    variance = square - mean**2
    return np.sqrt(np.where(variance > 1e-12 * square, variance, 0))


def rank_descending(values: np.ndarray) -> np.ndarray:
    """Rank from 1 (largest); equal values share the better rank; NaN gets 0."""
    rank = np.zeros(len(values), np.int64)
    good = np.isfinite(values)
    own = -values[good]
    rank[good] = 1 + np.searchsorted(np.sort(own), own)  # 1 + how many are larger
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


@dataclass(frozen=True)
class Compared:
    """The spread within each group beside what a reference group of equally many cells has; row i is group i.

    Parameters
    ----------
    n_cells : ndarray of shape (n_groups,), int64
        Cells that counted.
    value, low, high : ndarray of shape (n_groups,), float64
        The spread, and its bootstrap interval. NaN: too few cells (`low` and `high` of all groups that are not ranked).
    expected, expected_low, expected_high : ndarray of shape (n_groups,), float64
        Mean and range of the spread of as many cells of a reference group. NaN for groups that are not ranked.
    rank : ndarray of shape (n_groups,), int64
        By `ratio`, 1 = most variable; 0 = not ranked (too few cells).
    p : ndarray of shape (n_groups,), float64
        Share of draws of as many reference cells that spread at least as much, the group's own value counted as one draw:
        at least 1/2001. NaN for groups that are not ranked.
    n_references : ndarray of shape (n_groups,), int64
        Reference groups that its expectation comes from; 0: not ranked, or too few are like it in intensity.
    """

    n_cells: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    expected: np.ndarray
    expected_low: np.ndarray
    expected_high: np.ndarray
    rank: np.ndarray
    p: np.ndarray
    n_references: np.ndarray

    @property
    def p_fdr(self) -> np.ndarray:
        """The p-values after correction for the number of groups, float64 (n_groups,); see `corrected`."""
        return corrected(self.p)

    @property
    def ratio(self) -> np.ndarray:
        """Spread as a multiple of what is expected, float64 (n_groups,): free of the number of cells."""
        return np.asarray(_divided(self.value, self.expected))

    @property
    def beyond(self) -> np.ndarray:
        """Whether the spread is larger than the range of the reference groups, bool (n_groups,)."""
        return np.asarray(self.value > self.expected_high)


def compare_spread(
    x: np.ndarray,
    group: np.ndarray,
    n_groups: int,
    reference: np.ndarray,
    *,
    match: np.ndarray | None = None,
    brightness: np.ndarray | None = None,
    relative: bool = False,
    min_cells: int = 10,
    n_draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    stop: Callable[[], bool] | None = None,
) -> Compared:
    """Spread within each group, its bootstrap interval, and what equally many cells of a reference group give.

    The spread is the SD (ddof 0) over a group's cells, averaged over features; of a score it is the score's SD, of an
    intensity (`relative`) the coefficient of variation. What is expected by chance comes from the reference groups, one
    after the other: n of a group's reference cells are drawn with replacement. So the reference groups' differences from
    one another are part of the range, and differences between their means are not mistaken for spread. Shuffling cells
    between a group's own fields would find nothing: a mixed group is mixed in every field.

    Parameters
    ----------
    x : ndarray of shape (n,) or (n, d), float
        A score, an intensity, or features z-scored over all cells. Cells that are not finite do not count.
    group : ndarray of shape (n,), int
        Group of every cell, ``0 … n_groups − 1``; −1 for none.
    reference : ndarray of shape (n,), bool
        Which cells are reference cells. Groups with fewer than `min_cells` of them are no reference; of large ones
        5,000 cells serve.
    match : ndarray of shape (n,), int, optional
        A group is compared with the reference groups that have the same number as most of its cells (≥ 0: a cell line, a
        plate, a compound with references of its own); with all of them where none has.
    brightness : ndarray of shape (n,), float, optional
        The protein's intensity in every cell. Reference cells are then drawn such that as many of them lie in each fifth of the
        group's intensities (fewer parts in small groups) as the group's own: a group whose cells are dim, bright or both is
        compared with reference cells that are. A reference group with fewer than two cells in a part is no reference for that
        group; where fewer than three are left (or all, of fewer), the group is not ranked, and `n_references` is 0. Cells
        without an intensity do not count. Off by default: a treatment that moves a protein changes how bright its cells are,
        too, and then there is no reference as bright, or what is looked for is taken away. On 48 wells of BBBC013 (eight of
        them references) 8 of 20 wells of middle doses vary in the score of `pci-starter` without it; with it 11 of the 20
        have no such references, and 5 of the other 9 vary. No control well does either way.
    relative : bool
        Divide by the group's mean: only for one column of positive numbers. NaN where the mean is not positive.
    min_cells : int, default 10
        Groups with fewer are measured but not ranked.
    n_draws : int, default 200
        Draws for each interval.
    level : float, default 0.95
        Share of the draws within an interval.
    stop : callable, optional
        Asked now and then; once it says True, what has not been drawn stays NaN.

    Returns
    -------
    Compared
        Draws are widened by √(N / (N − 1)), N the cells drawn from: cells drawn again from few spread less than new
        ones would. With more than 24 different numbers of cells the expectation is drawn for 24 and interpolated.

    References
    ----------
    .. [1] SD of a score per group: Lu et al. 2019 (``models.md`` §1.7). Mean SD of all features: DINO4Cells' heterogeneity
       (§3.7, §3.8), which finds variable intensity and variable place alike; hence two numbers, and features that do
       not hold the intensity.
    .. [2] Efron, Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval).
    """
    table = np.asarray(x)[:, None] if np.ndim(x) == 1 else np.asarray(x)
    table = table.astype(np.float64 if table.shape[1] == 1 else np.float32, copy=False)
    usable = np.isfinite(table).all(axis=1) & (group >= 0)
    if brightness is not None:
        usable &= np.isfinite(brightness)
    counted = np.flatnonzero(usable)
    counted = counted[np.argsort(group[counted], kind="stable")]
    n = np.bincount(group[counted], minlength=n_groups).astype(np.int64)
    rows = np.split(counted, np.cumsum(n)[:-1])
    rng = np.random.default_rng(seed)
    ends = (0.5 - level / 2, 0.5 + level / 2)
    value = np.full(n_groups, np.nan)
    low, high, expected, expected_low, expected_high = np.full((5, n_groups), np.nan)
    references, kind = [], np.full(n_groups, -1)
    for i, own in enumerate(rows):
        if len(own) < 2 or (stop is not None and stop()):
            continue
        cells = table[own]
        value[i] = _spread(cells, relative)
        if match is not None:
            kind[i] = np.bincount(match[own] + 1).argmax() - 1
        if len(own) >= min_cells:
            draws = drawn_spread(cells, len(own), n_draws, rng, relative=relative)
            low[i], high[i] = np.quantile(draws, ends)
            if (those := cells[reference[own]]).shape[0] >= min_cells:
                few = rng.choice(len(those), min(len(those), _REFERENCE_CELLS), replace=False, shuffle=False)
                light = None if brightness is None else brightness[own[reference[own]]][np.sort(few)]
                references.append((kind[i], those[np.sort(few)], light))
    ranked = (n >= min_cells) & np.isfinite(value)
    known = {k for k, *_ in references}
    p, n_references = np.full(n_groups, np.nan), np.zeros(n_groups, np.int64)
    for k in np.unique(kind[ranked]) if references else ():
        those_like = [r for r in references if r[0] == k or k not in known]
        like = [cells for _, cells, _ in those_like]
        of = ranked & (kind == k)
        if brightness is not None:
            for i in np.flatnonzero(of).tolist():
                if stop is not None and stop():
                    break
                found_one = _of_like_brightness(
                    those_like, brightness[rows[i]], value[i], n_draws, ends, np.random.default_rng([seed, i]), relative
                )  # fmt: skip
                expected[i], expected_low[i], expected_high[i], p[i], n_references[i] = found_one
            continue
        n_references[of] = len(like)
        sizes, found, drawn = _by_chance(like, n[of], n_draws, ends, rng, relative, stop)
        for out, column in zip((expected, expected_low, expected_high), found.T, strict=True):
            out[of] = np.interp(np.log(n[of]), np.log(sizes), column)
        more = np.random.default_rng(
            [seed, 1]
        )  # of its own: ranges do not depend on how many p-values need it
        near = np.abs(np.log(n[of])[:, None] - np.log(sizes)).argmin(axis=1)
        ratio, chance = _divided(value[of], expected[of]), np.full(int(of.sum()), np.nan)
        for j in np.unique(near).tolist():
            here = (near == j) & np.isfinite(ratio)
            if not here.any() or not found[j, 0] > 0 or (stop is not None and stop()):
                continue
            every = drawn[j] / found[j, 0]
            if len(every) < MOST_DRAWS and (ratio[here] > every.max()).any():
                further = _drawn_from(like, int(sizes[j]), MOST_DRAWS - len(every), more, relative)
                every = np.concatenate([every, further / found[j, 0]])
            chance[here] = (1 + (every >= ratio[here, None]).sum(axis=1)) / (1 + len(every))
        p[of] = chance
    rank = rank_descending(np.where(ranked, _divided(value, expected), np.nan))
    return Compared(n, value, low, high, expected, expected_low, expected_high, rank, p, n_references)


def _of_like_brightness(
    references: list[tuple[int, np.ndarray, np.ndarray | None]], own: np.ndarray, value: float, n_draws: int,
    ends: tuple[float, float], rng: np.random.Generator, relative: bool,
) -> tuple[float, float, float, float, int]:  # fmt: skip
    """Mean, low and high end of the spread of as many reference cells as bright as a group's own; p; reference groups used."""
    n: int = len(own)
    edges = np.quantile(own, np.linspace(0, 1, int(np.clip(n // 10, 2, BINS)) + 1)[1:-1])
    at = np.searchsorted(edges, own, side="right")
    parts = np.unique(at)  # equal intensities can leave a part empty
    share = np.bincount(at, minlength=len(edges) + 1) / n
    low, high = own.min(), own.max()
    pools = []
    for _, cells, light in references:
        assert light is not None  # all have it, or none
        # Beyond the group's own range nothing is like it; a little beyond is, or its outermost cells would have no equals.
        near = (light >= low - 0.1 * (high - low)) & (light <= high + 0.1 * (high - low))
        part = np.where(near, np.searchsorted(edges, light, side="right"), len(edges) + 1)
        count = np.bincount(part, minlength=len(edges) + 2)
        if (count[parts] < LEAST_IN_BIN).any():
            continue
        weight = np.append(share, 0.0)[part] / count[part]
        pools.append((cells[weight > 0], weight[weight > 0] / weight.sum()))
    none = (np.nan, np.nan, np.nan, np.nan, 0)
    if len(pools) < min(LEAST_REFERENCES, len(references)):
        return none

    def drawn(n_times: int) -> np.ndarray:
        times = np.bincount(np.arange(n_times) % len(pools), minlength=len(pools))
        each = [
            drawn_spread(cells, n, k, rng, relative=relative, weight=weight)
            for (cells, weight), k in zip(pools, rng.permutation(times).tolist(), strict=True)
            if k
        ]
        return np.concatenate(each)

    every = drawn(n_draws)
    middle, (least, most) = float(every.mean()), np.quantile(every, ends)
    if not middle > 0:
        return none
    if len(every) < MOST_DRAWS and value > every.max():
        every = np.concatenate([every, drawn(MOST_DRAWS - len(every))])
    chance = (1 + int((every >= value).sum())) / (1 + len(every))
    return middle, float(least), float(most), chance, len(pools)


def _by_chance(
    references: list[np.ndarray],
    n: np.ndarray,
    n_draws: int,
    ends: tuple[float, float],
    rng: np.random.Generator,
    relative: bool,
    stop: Callable[[], bool] | None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Spread that so many cells of the references have: numbers of cells (m,), mean, low and high end (m, 3), draws."""
    sizes = np.unique(n)
    if len(sizes) > SIZES:
        sizes = np.unique(np.geomspace(sizes[0], sizes[-1], SIZES).round().astype(np.int64))
    found, draws = np.full((len(sizes), 3), np.nan), [np.zeros(0)] * len(sizes)
    for i, size in enumerate(sizes):
        if stop is not None and stop():
            break
        draws[i] = _drawn_from(references, int(size), n_draws, rng, relative)
        found[i] = draws[i].mean(), *np.quantile(draws[i], ends)
    return sizes, found, draws


def _drawn_from(
    references: list[np.ndarray], n: int, n_draws: int, rng: np.random.Generator, relative: bool
) -> np.ndarray:
    """Spread of `n` cells of one reference group in each draw; every reference group as often as the others."""
    times = np.bincount(np.arange(n_draws) % len(references), minlength=len(references))
    drawn = [
        drawn_spread(cells, n, k, rng, relative=relative)
        for cells, k in zip(references, rng.permutation(times).tolist(), strict=True)
        if k
    ]
    return np.concatenate(drawn)


def corrected(p: np.ndarray) -> np.ndarray:
    """P-values corrected for how many there are: false discovery rate after Benjamini and Hochberg.

    Of the groups with a corrected p of at most 0.05, one in twenty or fewer is expected to be there by chance.

    Parameters
    ----------
    p : ndarray of shape (n,), float
        NaN does not count, and stays.

    References
    ----------
    .. [1] Benjamini, Hochberg, J. R. Stat. Soc. B 57:289 (1995).
    """
    from scipy.stats import false_discovery_control

    out = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        out[known] = false_discovery_control(p[known])
    return out


def drawn_spread(
    x: np.ndarray, n: int, n_draws: int, rng: np.random.Generator, *, relative: bool = False, weight: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Spread of `n` cells drawn with replacement from `x`, for each draw.

    Parameters
    ----------
    x : ndarray of shape (N, d), float
        Finite.
    relative : bool
        As in `compare_spread`.
    weight : ndarray of shape (N,), float, optional
        How likely each cell is drawn, sum 1; default all alike. N is then the number of equally likely cells of the same
        worth, 1 / Σ weight².

    Returns
    -------
    ndarray of shape (n_draws,), float64
        Times √(N / (N − 1)).
    """
    known = len(x) if weight is None else 1 / float((weight**2).sum())
    upto = None if weight is None else np.cumsum(weight)
    centre = x.mean(axis=0, dtype=np.float64)
    own = (x - centre).astype(x.dtype)  # centred, so that the difference of squares loses nothing
    square = own**2
    out = np.empty(n_draws)
    step = max(1, _AT_ONCE // max(len(x), n))
    for first in range(0, n_draws, step):
        k = min(step, n_draws - first)
        if upto is None:
            which = rng.integers(len(x), size=(k, n))
        else:
            which = np.minimum(np.searchsorted(upto, rng.random((k, n)), side="right"), len(x) - 1)
        which += (np.arange(k) * len(x))[:, None]
        times = np.bincount(which.ravel(), minlength=k * len(x)).reshape(k, len(x)).astype(x.dtype)
        mean = times @ own / n
        sd = np.sqrt(np.maximum(times @ square / n - mean**2, 0))
        out[first : first + k] = _divided(sd[:, 0], centre[0] + mean[:, 0]) if relative else sd.mean(axis=1)
    return out * np.sqrt(known / max(known - 1, 1))


def without(z: np.ndarray, number: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, float]:
    """Take out of every feature what follows a number from cell to cell, for example the protein's intensity, or several.

    One least-squares fit per feature on the numbers and their squares, all centred in each group: what differs between
    groups neither enters the fit nor is taken out.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
    number : ndarray of shape (n,) or (n, m), float
        Best on a scale on which differences count alike, as the logarithm of an intensity. Several (focus, area, intensity)
        are taken out together, so that what two of them share is taken once.
    group : ndarray of shape (n,), int
        −1 for none.

    Returns
    -------
    rest : ndarray of shape (n, d), float32
        NaN for cells without a number, a finite row or a group.
    left : float
        Share of the variance within groups that is left; 1 if the numbers do not vary within groups.

    References
    ----------
    .. [1] Its need: DINO4Cells' heterogeneity finds variable intensity and variable place alike (``models.md`` §3.7).
    """
    numbers = np.asarray(number, np.float64).reshape(len(z), -1)
    rest = np.full(z.shape, np.nan, np.float32)
    rows = np.flatnonzero(np.isfinite(z).all(axis=1) & np.isfinite(numbers).all(axis=1) & (group >= 0))
    if not len(rows):
        return rest, 1.0
    of = group[rows]
    n = np.maximum(np.bincount(of), 1)
    known = numbers[rows]
    spread = known.std(axis=0)
    scaled = (known - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    fit = np.stack([c - (np.bincount(of, c) / n)[of] for c in (*scaled.T, *(scaled**2).T)], axis=1)
    own = np.asarray(z[rows], np.float32)
    # Columns of `fit` are centred in every group, so group means of the features fall out of the products by themselves.
    slopes = np.linalg.lstsq(fit.T @ fit, fit.T @ own, rcond=1e-10)[0]
    taken = (fit @ slopes).astype(np.float32)
    rest[rows] = own - taken
    within = 0.0
    order = np.argsort(of, kind="stable")
    for cells in np.split(order, np.cumsum(np.bincount(of))[:-1]):
        within += float(own[cells].var(axis=0, dtype=np.float64).sum()) * len(cells) if len(cells) else 0.0
    explained = float((taken.astype(np.float64) ** 2).sum())
    return rest, 1 - explained / within if within > 0 else 1.0


def main_axis(z: np.ndarray, towards: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Where each cell of a group stands along what differs most among the group's own cells.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        The group's cells, z-scored over all cells.
    towards : ndarray of shape (n,), float, optional
        A number that shall grow along the axis, for example a score; NaN does not count. Without it, or where it says
        nothing, the longer tail is on the right.

    Returns
    -------
    position : ndarray of shape (n,), float64
        First principal component of these cells; NaN for those that are not finite, and for all if fewer than three are.
    share : float
        Share of the group's variance it holds; 0 if all cells are the same.
    """
    from scipy.linalg import eigh

    position = np.full(len(z), np.nan)
    fine = np.isfinite(z).all(axis=1)
    own = np.asarray(z[fine], np.float64)
    if len(own) < 3:
        return position, 0.0
    own -= own.mean(axis=0)
    total = float((own**2).sum())
    if total <= 1e-20 * own.size:
        position[fine] = 0.0
        return position, 0.0
    # The first component from whichever product is smaller; one eigenvector, exact, the same every time.
    wide = own.shape[1] > len(own)
    product = own @ own.T if wide else own.T @ own
    last = [len(product) - 1] * 2
    value, vector = eigh(product, subset_by_index=last)
    along = vector[:, 0] * np.sqrt(value[0]) if wide else own @ vector[:, 0]
    sign = (along**3).sum()
    if towards is not None:
        known = np.isfinite(towards[fine])
        other = np.asarray(towards, np.float64)[fine][known]
        if known.sum() > 2 and np.ptp(other) > 0 and np.ptp(along[known]) > 0:
            sign = np.corrcoef(along[known], other)[0, 1]
    position[fine] = -along if sign < 0 else along
    return position, float(value[0] / total)


def even_steps(position: np.ndarray, n: int, tail: float = 0.02) -> np.ndarray:
    """Choose real cells at even steps along an axis.

    Parameters
    ----------
    position : ndarray of shape (n_cells,), float
        NaN: never chosen.
    n : int
        How many; all cells if there are no more.
    tail : float, default 0.02
        Share of the cells beyond either end: a single stray cell does not stretch the steps.

    Returns
    -------
    ndarray of int64
        Indices into `position`, in the axis' order; no cell twice.
    """
    known = np.flatnonzero(np.isfinite(position))
    known = known[np.argsort(position[known], kind="stable")]
    if len(known) <= n:
        return known
    along = position[known]
    free = np.ones(len(known), bool)
    first, last = np.quantile(along, (tail, 1 - tail))
    for target in np.linspace(first, last, n):
        away = np.where(free, np.abs(along - target), np.inf)
        free[np.argmin(away)] = False
    return known[~free]


def density(values: np.ndarray, at: np.ndarray, most: int = 5000) -> np.ndarray:
    """How many cells have about this value: the outline of a violin.

    Parameters
    ----------
    values : ndarray of shape (n,), float
        NaN does not count; of more than `most`, evenly spaced ones in their order of size serve.
    at : ndarray of shape (m,), float

    Returns
    -------
    ndarray of shape (m,), float64
        Gaussian kernels of Scott's width (SD · n^−1/5); all 0 with fewer than three different values.
    """
    own = np.sort(np.asarray(values, np.float64)[np.isfinite(values)])
    if len(np.unique(own)) < 3:
        return np.zeros(len(at))
    if len(own) > most:
        own = own[np.linspace(0, len(own) - 1, most).round().astype(np.int64)]
    width = own.std(ddof=1) * len(own) ** -0.2
    away = (np.asarray(at, np.float64)[:, None] - own) / width
    return np.asarray(np.exp(-0.5 * away**2).mean(axis=1) / (width * np.sqrt(2 * np.pi)))


def _spread(x: np.ndarray, relative: bool) -> float:
    sd = x.std(axis=0, dtype=np.float64)
    return float(_divided(sd[0], x.mean(dtype=np.float64)) if relative else sd.mean())


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A / b where b is positive, else NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(b) > 0, np.asarray(a) / b, np.nan)


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
