"""Which cells a reference means, and which groups others are compared with."""

from __future__ import annotations

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


def reference_of(obs: pd.DataFrame, codes: np.ndarray, a: str, min_cells: int = 10) -> tuple[np.ndarray, str]:
    """Cells that groups are compared with, and in words which: reference A of the score, else control −1, else all.

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
    """
    for reference in dict.fromkeys(r for r in (a, "control=-1") if r):
        found = members(obs, reference) & (codes >= 0)
        n = int((np.bincount(codes[found]) >= min_cells).sum()) if found.any() else 0
        if n:
            return found, f"{n:,} reference group{'s' if n > 1 else ''} ({reference_words(reference)})"
    return np.ones(len(obs), bool), "any group (no cell is marked as a reference, control −1)"


def reference_words(reference: str) -> str:
    """A reference as people read it: "control −1"."""
    column, _, value = reference.partition("=")
    return f"{column.strip().replace('_', ' ')} {value.strip().replace('-', '−')}"
