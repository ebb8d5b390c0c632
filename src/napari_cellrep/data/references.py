"""Which cells a reference means, and which groups others are compared with."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd


def members(obs: pd.DataFrame, reference: str) -> np.ndarray:
    """Which cells "column=value" means, bool (n,); none if there is no such column."""
    column, _, value = reference.partition("=")
    if column.strip() not in obs:
        return np.zeros(len(obs), bool)
    values = obs[column.strip()]
    found = (values.astype(str).str.casefold() == value.strip().casefold()).to_numpy(bool)
    number = pd.to_numeric(pd.Series([value.strip()]), errors="coerce").iloc[0]
    if pd.notna(number):
        found = found | (pd.to_numeric(values.astype(object), errors="coerce") == number).to_numpy(bool)
    return found


def reference_of(
    obs: pd.DataFrame, codes: np.ndarray, a: str, min_cells: int = 10, control: str = ""
) -> tuple[np.ndarray, str]:
    """Cells that groups are compared with, and in words which: reference A of the score, else the control, else all.

    Parameters
    ----------
    obs : DataFrame
        Of the cells that count.
    codes : ndarray of int, shape (n,)
        Their groups; −1 for none.
    a : str
        Reference A, "column=value"; "" for none.
    min_cells : int
        A group with fewer is no reference.
    control : str
        The control that was chosen for all analyses, "column=value"; "" for none: control −1, where there is such a column.
    """
    for reference in dict.fromkeys(r for r in (a, control, "control=-1") if r):
        found = members(obs, reference) & (codes >= 0)
        n = int((np.bincount(codes[found]) >= min_cells).sum()) if found.any() else 0
        if n:
            return found, f"{n:,} reference group{'s' if n > 1 else ''} ({reference_words(reference)})"
    return np.ones(
        len(obs), bool
    ), "any group (no control is chosen, and no cell is marked as one, control −1)"


CELL_LINE = {
    "cellline",
    "line",
}  # a column called so, spaces, lines and capitals aside, says which cell line a cell is of


def kinds_of(obs: pd.DataFrame, per: str, same: str = "auto") -> tuple[np.ndarray | None, str]:
    """In what a group and the groups it is compared with are the same, and in words.

    Parameters
    ----------
    obs : DataFrame
    per : str
        Column that the score's references are the same in; "" for none.
    same : str
        A column; "auto": `per`, and the cell line where a column is called so; "none".

    Returns
    -------
    codes : ndarray of int, shape (n,), or None
        Cells of equal number are of one kind; −1 for those without a value.
    words : str
        " of the same compound and cell line", or "".
    """
    columns = [same] if same not in ("auto", "none", "") else []
    if same == "auto":
        lines = [c for c in obs.columns if re.sub(r"[\W_]", "", str(c)).casefold() in CELL_LINE]
        columns = list(dict.fromkeys(c for c in (per, *lines[:1]) if c in obs))
    if not columns:
        return None, ""
    each = [pd.factorize(obs[c].astype(str).where(obs[c].notna(), None))[0] for c in columns]
    codes = each[0]
    for more in each[1:]:
        known = (codes >= 0) & (more >= 0)
        codes = np.where(known, codes * (int(more.max(initial=0)) + 1) + more, -1)
    codes = pd.factorize(pd.Series(codes).where(codes >= 0))[0]
    return codes, " of the same " + " and ".join(c.replace("_", " ") for c in columns)


def reference_words(reference: str) -> str:
    """A reference as people read it: "control −1"."""
    column, _, value = reference.partition("=")
    return f"{column.strip().replace('_', ' ')} {value.strip().replace('-', '−')}"
