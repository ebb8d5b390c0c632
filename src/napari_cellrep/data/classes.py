"""Classes of cells in the words of a column: what a network that learns from labels is told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_cellrep.specs import InputError, join_words

FEWEST_CLASSES, MOST_CLASSES = 2, 200  # that a column is offered with; told by name, it may have more
LISTED = 5  # more classes are only counted in a sentence
_MEASURED = ("field", "label", "frame", "y_px", "x_px", "area_px", "mask_hash", "flags", "good")
_PLACES = ("group", "plate", "well", "row", "column", "site")
_MEASURED_START = ("box_", "q_", "has_")


@dataclass(frozen=True)
class Classes:
    """The classes of the cells, in a column's words.

    Attributes
    ----------
    codes : ndarray of int, (n,)
        Number of each cell's class in `names`; -1: not to train on.
    names : tuple of str
        In order: numbers by size, words by the alphabet.
    note : str
        Which cells were left out, and why.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    note: str = ""


def classes_of(
    obs: pd.DataFrame,
    column: str,
    title: str,
    keep: np.ndarray | None = None,
    include_flagged: bool = False,
    min_cells: int = 2,
) -> Classes:
    """Read the classes of the cells to train on from a column of the table.

    Parameters
    ----------
    obs : DataFrame
        One row per cell.
    column : str
        Words or whole numbers; empty, where a cell has no class.
    title : str
        Who wants them.
    keep : ndarray of bool, (n,), optional
        The cells that are asked for.
    min_cells : int
        Classes with fewer cells are left out.

    Raises
    ------
    InputError
        If there is no such column, or not two classes are left.
    """
    if column not in obs:
        could = join_words(label_columns(obs)) or "none"
        begin = f"The cells have no column {column}" if column else f"{title} learns to tell classes apart"
        raise InputError(
            f"{begin}; say which column holds each cell's class (--labels COLUMN). Columns with {FEWEST_CLASSES} to "
            f"{MOST_CLASSES} values: {could}."
        )
    words = class_words(obs[column])
    used = np.ones(len(obs), bool) if keep is None else keep.copy()
    if not include_flagged and "good" in obs:
        used &= obs["good"].to_numpy(bool)
    if not used.any():
        return Classes(np.where(used, 0, -1), ("",))  # `ProjectCells` says it
    counts = words[used & (words != "")].value_counts()
    names = tuple(sorted(counts.index[counts >= min_cells], key=_in_order))
    if len(names) < FEWEST_CLASSES:
        only = f"only one class ({names[0]})" if names else "no class"
        raise InputError(
            f"{column} has {only} with at least {min_cells} cells among the {np.count_nonzero(used):,} to train on, and "
            f"{title} learns to tell at least two apart; choose another column, or more cells."
        )
    codes = words.map({name: i for i, name in enumerate(names)}).fillna(-1).to_numpy(np.int64, copy=True)
    codes[~used] = -1
    said = []
    if without := int(np.count_nonzero(used & (words == "").to_numpy())):
        said.append(f"{without:,} cells without {column} are left out.")
    if small := sorted(counts.index[counts < min_cells], key=_in_order):
        more = f" and {len(small) - LISTED:,} more" if len(small) > LISTED else ""
        said.append(
            f"Of {join_words(small[:LISTED])}{more} there are fewer than {min_cells} cells, which are left out "
            f"({int(counts[small].sum()):,} cells)."
        )
    return Classes(codes, names, " ".join(said))


def class_words(column: pd.Series) -> pd.Series:
    """Values of a column as class names; "" where there is none."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # 3, not 3.0
    words = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    return words.where(~words.isin(("nan", "<NA>")), "")


def label_columns(obs: pd.DataFrame) -> list[str]:
    """Columns that could hold classes: few values, not measured from the cell's place or pixels; places last."""
    found = [
        str(name) for name in obs
        if name not in _MEASURED and not str(name).startswith(_MEASURED_START)
        and FEWEST_CLASSES <= obs[name].nunique() <= MOST_CLASSES
    ]  # fmt: skip
    return sorted(found, key=lambda name: name.lower() in _PLACES)  # told apart, a place says little


def _in_order(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
