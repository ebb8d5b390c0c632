"""Which cells go into which step of training: batches, pairs, and what is held out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.specs import InputError

MOST_JUDGED = 2000  # held-out cells that are looked at after an epoch


class Cells(Protocol):
    """The cells to train on; row i is one cell."""

    groups: np.ndarray  # int (n,): cells of equal number count as alike and make pairs
    # May have ``fields``, int (n,): the image of each cell. Without, none is held out.
    # May have ``weights``, float32 (size, S): crops are S px and are resized by these on the device (`_engine.resize`).

    def __len__(self) -> int: ...

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops (B, C, S, S) of some rows, in their order; a row may be asked for twice."""
        ...


class Sampler:
    """Batches of one epoch; what epoch `e` holds depends on the seed and `e` alone, so resuming needs no state.

    Parameters
    ----------
    groups : ndarray of int, (n,)
    keys : tuple of str
        ("source", "target"): every cell is the source once per epoch, with a target drawn evenly among the other
        cells of its group (models.md §1.6). Otherwise every cell comes once, by itself.
    batch_size : int
        At most; the cells of an epoch are spread evenly over its batches, and none is dropped.
    min_cells : int
        Groups with fewer cells make no pairs.
    seed : int
    fields : ndarray of int, (n,), optional
        The image of each cell; without it, none is held out.
    share : float
        Part of the cells to hold out (`hold_out`).
    balanced : bool
        Whether every group comes equally often in an epoch (`evenly`), instead of every cell once.

    Attributes
    ----------
    note : str
        Which groups were left out, if any, and what is held out, in words.
    validation, test : ndarray of int
        Rows that are not learned from but judge (`Learner.judge`): after every epoch, and in the end. A model that
        holds out in its own way has a method ``sampler(cells, training, batch_size)``.

    Raises
    ------
    InputError
        If nothing is left to train on.
    """

    validation = test = np.zeros(0, np.int64)

    def __init__(
        self,
        groups: np.ndarray,
        keys: tuple[str, ...],
        batch_size: int,
        min_cells: int,
        seed: int,
        fields: np.ndarray | None = None,
        share: float = 0.0,
        balanced: bool = False,
    ):
        groups = np.asarray(groups)
        self.keys, self.seed, self.note, self.groups = keys, seed, "", groups
        if not len(groups):
            raise InputError("There are no cells to train on.")
        self.rows = np.arange(len(groups))
        pairs = "target" in keys
        if pairs:
            least = max(2, min_cells)
            _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
            small = counts < least
            if small.all():
                raise InputError(
                    f"No pair of cells can be drawn: each of the {len(counts):,} groups has fewer than {least} cells. "
                    "Choose a coarser group (a column that several fields share), or segment more cells."
                )
            if small.any():
                self.note = (
                    f"{small.sum():,} of {len(counts):,} groups with fewer than {least} cells make no pairs and are "
                    f"left out ({counts[small].sum():,} cells)."
                )
            self.rows = np.flatnonzero(~small[index])
        if fields is not None and share > 0:
            held, words = hold_out(groups[self.rows], np.asarray(fields)[self.rows], share, pairs, seed)
            self.validation, self.rows = self.rows[held], self.rows[~held]
            self.note = f"{self.note} {words}".strip()
        self._pairs = _Pairs(groups, self.rows) if pairs else None
        self.balanced = balanced
        self.n_batches = -(-len(self.epoch_rows(np.random.default_rng(0))) // batch_size)

    def epoch_rows(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of an epoch in their order: each once, or each group equally often."""
        return evenly(self.rows, self.groups, rng) if self.balanced else rng.permutation(self.rows)

    def epoch(self, epoch: int) -> list[dict[str, np.ndarray]]:
        """Rows of every batch: {"source": …, "target": …} or {"x": …}."""
        rng = np.random.default_rng((self.seed, epoch))
        order = self.epoch_rows(rng)
        batches = np.array_split(order, self.n_batches)
        if self._pairs is None:
            return [{"x": rows} for rows in batches]
        return [{"source": rows, "target": self._pairs.others(rows, rng)} for rows in batches]

    def judging(self, rows: np.ndarray, batch_size: int) -> list[dict[str, np.ndarray]]:
        """Batches of rows that are held out, the same ones every time; pairs are drawn among these rows."""
        rng = np.random.default_rng((self.seed, 0, 1))
        pairs = _Pairs(self.groups, rows) if "target" in self.keys else None
        if pairs is not None:
            rows = rows[pairs.count[rows] > 1]
        if not len(rows):
            return []
        batches = np.array_split(
            rng.permutation(rows)[:MOST_JUDGED], -(-min(len(rows), MOST_JUDGED) // batch_size)
        )
        if pairs is None:
            return [{"x": rows} for rows in batches]
        return [{"source": rows, "target": pairs.others(rows, rng)} for rows in batches]


def evenly(rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order such that every group comes equally often, repeated or cut to the mean.

    As DeepLoc's authors' option does it.

    Parameters
    ----------
    rows : ndarray of int, (n,)
    groups : ndarray of int
        Of all rows.
    """
    of_group = [rows[groups[rows] == g] for g in np.unique(groups[rows])]
    each = -(-len(rows) // len(of_group))
    drawn = []
    for part in of_group:
        times = -(-each // len(part))
        drawn.append(np.concatenate([rng.permutation(part) for _ in range(times)])[:each])
    return rng.permutation(np.concatenate(drawn))


class _Pairs:
    """Draws to a cell another one of its group, among some rows."""

    def __init__(self, groups: np.ndarray, rows: np.ndarray):
        _, index, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
        # Members of a group lie side by side in `_by_group`, so that "another one" is a shift within its part.
        order = np.argsort(index, kind="stable")
        self._by_group = rows[order]
        starts = np.cumsum(counts) - counts
        self._start, self.count, self._place = (np.zeros(len(groups), np.int64) for _ in range(3))
        self._start[rows], self.count[rows] = starts[index], counts[index]
        self._place[self._by_group] = np.arange(len(rows))
        self._place[rows] -= self._start[rows]

    def others(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = self.count[rows]
        shift = 1 + rng.integers(0, count - 1)
        return self._by_group[self._start[rows] + (self._place[rows] + shift) % count]  # type: ignore[no-any-return]


def hold_out(
    groups: np.ndarray, fields: np.ndarray, share: float, pairs: bool, seed: int
) -> tuple[np.ndarray, str]:
    """Which cells to judge by: whole fields, such that their groups are learned from in other fields; else cells.

    Parameters
    ----------
    groups, fields : ndarray of int, (n,)
    share : float
        Of the cells, about; at most a quarter when one field is more.
    pairs : bool
        Whether a held-out cell needs another one of its group.
    seed : int

    Returns
    -------
    held : ndarray of bool, (n,)
    words : str
        How many, and why not otherwise.
    """
    rng = np.random.default_rng((seed, 0, 2))
    n = len(groups)
    _, group = np.unique(groups, return_inverse=True)
    _, field = np.unique(fields, return_inverse=True)
    total = np.bincount(group)
    parts, counts = np.unique(np.stack([field, group]), axis=1, return_counts=True)
    starts = np.searchsorted(parts[0], np.arange(int(field.max()) + 2))
    turns: dict[
        int, int
    ] = {}  # group → its fields so far: every group's first field comes before any second one
    order = []
    for f in rng.permutation(len(starts) - 1):
        first = int(parts[1, starts[f]])
        turns[first] = turns.get(first, 0) + 1
        order.append((turns[first], f))
    left, taken, chosen = total.copy(), 0, []
    for _, f in sorted(order, key=lambda item: item[0]):
        at = slice(starts[f], starts[f + 1])
        g, c = parts[1, at], counts[at]
        most = 1.25 * share * n if taken else max(1.25 * share, 0.25) * n
        if taken + c.sum() <= most and (2 * (left[g] - c) >= total[g]).all() and (left[g] - c > 1).all():
            chosen.append(f)
            left[g] -= c
            taken += int(c.sum())
        if taken >= share * n:
            break
    if chosen:
        held = np.isin(field, chosen)
        return held, (
            f"Learns from {n - taken:,} cells; {taken:,} cells of {len(chosen):,} "
            f"image{'s' if len(chosen) > 1 else ''} are held out to judge it."
        )
    number = np.floor(share * total).astype(np.int64)
    number[number < 1 + pairs] = 0
    if not number.any() and not pairs:
        group, total, number = np.zeros(n, np.int64), np.array([n]), np.array([int(share * n)])
    if not number.any():
        return np.zeros(n, bool), (
            f"No cell is held out to judge it: no group has its cells in several images, and {share:.0%} of a group is "
            f"fewer than {1 + pairs} cells."
        )
    order_in = np.lexsort((rng.random(n), group))
    place = np.empty(n, np.int64)
    place[order_in] = np.arange(n)
    held = place - (np.cumsum(total) - total)[group] < number[group]
    return held, (
        f"Learns from {n - held.sum():,} cells; {held.sum():,} single cells are held out to judge it and not whole "
        "images, because no group has enough images to spare one: a network that recognises images looks right, too."
    )


def make_sampler(model: EmbeddingModel, cells: Cells, training: Any, batch_size: int) -> Sampler:
    """The model's own sampler, or the plain one."""
    own = getattr(model, "sampler", None)
    if own is not None:
        return own(cells, training, batch_size)  # type: ignore[no-any-return]
    least = getattr(training, "min_cells", 0)  # wanted of models that learn from pairs
    share = float(getattr(training, "held_out", 0.0))
    fields = getattr(cells, "fields", None)
    even = bool(getattr(training, "balanced", False))
    return Sampler(cells.groups, model.batch, batch_size, least, training.seed, fields, share, even)
