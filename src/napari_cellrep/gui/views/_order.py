"""In which order cells stand in the gallery: plain numbers, no Qt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from napari_cellrep.analysis.variability import main_axis
from napari_cellrep.gui.views._raster import _natural


def by_column(rows: np.ndarray, column: pd.Series) -> np.ndarray:
    """Rows in the order of a column, numbers from small to large, words as people count ("2" before "10").

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
    column : Series
        Of all cells. Cells without a value come last; equal ones stay in the order they had.
    """
    values = column.iloc[rows]
    known = values.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(values):
        keys = values.to_numpy(float, na_value=np.nan)[known]
    else:
        words, names = pd.factorize(values[known].astype(str))
        place = {name: i for i, name in enumerate(sorted(names, key=_natural))}
        keys = np.array([place[name] for name in names], np.int64)[words] if len(names) else words
    return np.concatenate([rows[known][np.argsort(keys, kind="stable")], rows[~known]])


def by_distance(rows: np.ndarray, vectors: np.ndarray, to: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rows by how like some cells they are, the most alike first.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
    vectors : ndarray of shape (n_cells, d)
        An embedding. Features count alike: each is divided by its spread over `rows`.
    to : array of int
        One cell, or several: then their mean. Cells without a vector come last.
    """
    own = np.asarray(vectors[rows], np.float32)
    known = np.isfinite(own).all(axis=1)
    target = np.asarray(vectors[np.asarray(to)], np.float32)
    target = target[np.isfinite(target).all(axis=1)]
    if not len(target) or not known.any():
        return rows
    spread = own[known].std(axis=0)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    distance = (((own[known] - target.mean(axis=0)) * scale) ** 2).sum(axis=1)
    return np.concatenate([rows[known][np.argsort(distance, kind="stable")], rows[~known]])


def by_main_axis(rows: np.ndarray, vectors: np.ndarray, alike: pd.Series | None = None) -> np.ndarray:
    """Rows along what differs most among the cells, from one end to the other.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
    vectors : ndarray of shape (n_cells, d)
        An embedding. Features count alike: each is divided by its spread over `rows`.
    alike : Series, optional
        Cells with the same value of this column have an axis of their own (their first principal component), value
        after value; without it, all rows have one. Cells without a vector come last.
    """
    own = np.asarray(vectors[rows], np.float32)
    known = np.isfinite(own).all(axis=1)
    if not known.any():
        return rows
    spread = own[known].std(axis=0)
    own *= np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    parts = [("", rows)] if alike is None else in_sections(rows, alike, len(alike))
    at = pd.Series(np.arange(len(rows)), index=rows)
    return np.concatenate([part[np.argsort(main_axis(own[at[part]])[0], kind="stable")] for _, part in parts])


def in_sections(
    rows: np.ndarray, column: pd.Series, most: int = 1000, first: Sequence[str] = ()
) -> list[tuple[str, np.ndarray]]:
    """Rows by the values of a column, each value's in the order they had; without a value: "none", at the end.

    Parameters
    ----------
    most : int
        Values at most: the first in their order.
    first : sequence of str
        Values that come first, in this order; the others follow in natural order.
    """
    values = column.iloc[rows]
    names = values.astype(str).where(values.notna(), "none").to_numpy()
    numbers = dict(zip(names, values, strict=True)) if pd.api.types.is_numeric_dtype(values) else {}
    place = {name: i for i, name in enumerate(first)}
    codes, found = pd.factorize(names)
    known = sorted(
        (i for i, name in enumerate(found) if name != "none"),
        key=lambda i: (place.get(found[i], len(place)), numbers.get(found[i], 0), _natural(found[i])),
    )
    wanted = known + [i for i, name in enumerate(found) if name == "none"]
    ends = np.cumsum(np.bincount(codes, minlength=len(found)))[:-1]
    parts = np.split(rows[np.argsort(codes, kind="stable")], ends) if len(found) else []
    return [(str(found[i]), parts[i]) for i in wanted[:most]]
