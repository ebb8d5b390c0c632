"""Rows of what: cells, or what cells are put together to — fields, groups, the values of a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

MOST_ROWS = 5000
MOST_NUMBERS = 100  # whole numbers of more values are measured, not given (an area in pixels)
_PLURALS = {"": "cells", "field": "fields", "group": "groups"}


@dataclass(frozen=True)
class Rows:
    """Cells put together by a column. Row i has `names[i]`; its cells are those of code i.

    What is hidden does not count: masks say which cells do.

    Parameters
    ----------
    by : str
        Column of the cell table: "field", "group" or any other.
    names : tuple of str
        In the order they occur in the table.
    codes : ndarray of shape (n_cells,), int
        Row of each cell; -1 for cells without a value.
    """

    by: str
    names: tuple[str, ...]
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Row of a name, or -1."""
        return self.names.index(name) if name in self.names else -1

    def count(self, mask: np.ndarray) -> np.ndarray:
        """How many cells of each row are in a mask, int (n,)."""
        return np.bincount(self.codes[mask] + 1, minlength=len(self) + 1)[1:]

    def cells(self, rows: int | Sequence[int] | np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Rows of the cell table that some rows stand for, int (m,), in table order."""
        wanted = np.zeros(len(self) + 1, bool)  # the last one serves the code -1
        wanted[np.asarray(rows, np.int64)] = True
        wanted[-1] = False
        return np.flatnonzero(wanted[self.codes] & mask)

    def members(self, mask: np.ndarray) -> list[np.ndarray]:
        """Cells of every row that are in a mask."""
        shown = np.flatnonzero(mask & (self.codes >= 0))
        codes = self.codes[shown]
        ends = np.cumsum(np.bincount(codes, minlength=len(self)))[:-1]
        return np.split(shown[np.argsort(codes, kind="stable")], ends) if len(self) else []

    def lit(self, selected: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """2 where all visible cells of a row are selected, 1 where some are, else 0: int (n,)."""
        some = self.count(selected & visible)
        return (some > 0).astype(int) + ((some > 0) & (some == self.count(visible)))

    def mean(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mean of each row's cells in a mask, float (n, d) for values (n_cells, d); cells with NaN do not count."""
        use = mask & (self.codes >= 0) & np.isfinite(values).all(axis=1)
        codes, n = self.codes[use], len(self)
        sums = [np.bincount(codes, weights=column[use], minlength=n) for column in values.T]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=1) / np.bincount(codes, minlength=n)[:, None]


def rows_by(obs: pd.DataFrame, by: str) -> Rows:
    """Put the cells of a table together by a column."""
    codes, names = pd.factorize(obs[by])
    if len({str(name) for name in names}) < len(names):  # 1 and "1" in one column are one value
        codes, names = pd.factorize(obs[by].astype(str).where(obs[by].notna()))
    return Rows(by, tuple(str(name) for name in names), codes.astype(np.int64))


def row_columns(obs: pd.DataFrame, choices: Iterable[str], most: int = MOST_ROWS) -> list[str]:
    """Columns that cells can be put together by: words or few numbers, at least two; groups and fields first.

    Parameters
    ----------
    choices : iterable of str
        Columns to look at, in the order they are to be offered.
    most : int
        Values at most.
    """
    found = []
    for column in dict.fromkeys(("group", "field", *choices)):
        if column not in obs or column in ("good", "flags") or column.startswith(("has_", "q_")):
            continue
        n, kind = obs[column].nunique(), obs[column].dtype.kind
        top = min(most, MOST_NUMBERS) if kind in "iu" else 0 if kind == "f" else most
        if 2 <= n <= min(top, max(2, len(obs) // 2)):
            found.append(column)
    return found


def row_words(by: str) -> str:
    """How rows are called in a list of choices: "cells", "fields", "groups", "by compound"."""
    return _PLURALS.get(by) or f"by {by.replace('_', ' ')}"


def rows_words(n: int, by: str) -> str:
    """How many there are: "24 groups", "1 field", "9 values of dose rank"."""
    if by in _PLURALS:
        return f"{n:,} {_PLURALS[by].removesuffix('s' if n == 1 else '')}"
    return f"{n:,} value{'' if n == 1 else 's'} of {by.replace('_', ' ')}"
