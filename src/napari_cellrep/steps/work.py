"""What a recipe works on and gives, and how it reads what users write: columns, groups, references."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import projection, retrieval
from napari_cellrep.data import Project
from napari_cellrep.data.references import reference_of
from napari_cellrep.specs import InputError, join_words


@dataclass(frozen=True)
class Work:
    """What a recipe works on: the cells that count, in the table's order.

    Parameters
    ----------
    embedding : str
    x : ndarray of shape (n, d), float32
        Their vectors, finite.
    obs : DataFrame
        Their rows of the cell table.
    all_obs : DataFrame
        Every cell's row, those left out included.
    sets : mapping of str to list of str
        The project's named sets: ids of their cells, those left out and those that are gone included.
    scored : mapping
        Between what the cells of this embedding were scored: "a", "b", "per"; {} where they were not.
    control : str
        The control chosen for all analyses, "column=value"; "" for none.
    project : Project, optional
        For recipes that ask the network again.
    n_broken : int
        Cells left out because their vectors hold infinite numbers, or lack some.
    """

    embedding: str
    x: np.ndarray
    obs: pd.DataFrame
    all_obs: pd.DataFrame
    sets: Mapping[str, list[str]] = field(default_factory=dict)
    scored: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    project: Project | None = None
    n_broken: int = 0

    def column(self, name: str) -> pd.Series:
        """A column of the cells that count; a sentence when it is not there."""
        if name not in self.obs:
            known = [c for c in self.obs.columns if not c.startswith(("q_", "box_", "has_"))]
            raise InputError(
                f"There is no column {name!r} among the cells; columns are {join_words(known, 12)}."
            )
        return self.obs[name]

    def values(self, name: str) -> np.ndarray:
        """A column as text, "" where a cell has no value; a sentence when none that counts has one."""
        found = as_text(self.column(name))
        if not (found != "").any():
            raise InputError(f"No cell that counts has a value in {name!r}; choose another column.")
        return found

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where it holds no finite number; a sentence when it holds none at all."""
        found = pd.to_numeric(self.column(name).astype(object), errors="coerce").to_numpy(float)
        found = np.where(np.isfinite(found), found, np.nan)
        if np.isnan(found).all():
            raise InputError(f"{name!r} holds no number; choose a column of numbers.")
        return found

    def groups(self, by: str) -> tuple[np.ndarray, np.ndarray]:
        """Names of the groups of a column, those whose cells all stay out included, and each cell's group (−1: none)."""
        everyone = as_text(self.all_obs[by]) if by in self.all_obs else as_text(self.column(by))
        names = np.array(sorted({str(v) for v in everyone if v != ""}), dtype=object)
        if not len(names):
            raise InputError(f"No cell has a value in {by!r}, so there are no groups.")
        return names, pd.Index(names).get_indexer(as_text(self.column(by)))

    def reference(self, of: np.ndarray, min_cells: int) -> tuple[np.ndarray, str]:
        """Cells to expect chance from (reference A of the score, else the control, else all), and in words."""
        return reference_of(self.obs, of, str(self.scored.get("a", "")), min_cells, self.control)


@dataclass
class Found:
    """What a recipe computed for the cells it was given, before it is put into the tables."""

    summary: str
    obs: dict[str, np.ndarray] = field(default_factory=dict)
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    obsp: dict[str, Any] = field(default_factory=dict)  # of cells: csr_matrix; of groups: float32 (n, n)
    uns: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    table: pd.DataFrame | None = None  # rows are groups
    vectors: np.ndarray | None = None  # of the same groups
    components: np.ndarray | None = None  # of the same groups: their place on a map of their own


MOST_PAIRED = 5000  # groups in the whole table; all pairs of more are not kept (200 MB for each matrix)


def likeness_of(vectors: np.ndarray, embedding: str) -> dict[str, np.ndarray]:
    """Pearson correlation and cosine of each two groups' profiles, for ``obsp`` of the group table; {} of fewer than three.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float
        Scaled as they are to be compared; rows with NaN have none.

    Returns
    -------
    dict of str to ndarray of shape (n, n), float32
        "pearson_<embedding>", "cosine_<embedding>".
    """
    have = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if not 3 <= len(have) <= MOST_PAIRED or vectors.shape[1] < 3:
        return {}
    found = {}
    for name, metric in (("pearson", "correlation"), ("cosine", "cosine")):
        full = np.full((len(vectors), len(vectors)), np.nan, np.float32)
        full[np.ix_(have, have)] = retrieval.similarity(vectors[have], metric)
        found[f"{name}_{embedding}"] = full
    return found


# ---- reading what users write --------------------------------------------------------------------


def members_of(work: Work, text: str) -> np.ndarray:
    """Which cells "column=value" means; numbers are compared as numbers ("1" is 1.0)."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name:
        raise InputError(f"A reference is written COLUMN=VALUE, for example control=-1; got {text!r}.")
    column = work.column(name)
    known = np.array([v.casefold() for v in as_text(column)], dtype=object)
    found = known == plain(value).casefold()
    with contextlib.suppress(ValueError):
        found |= known == plain(float(value))
    if not found.any():
        have = sorted({v for v in as_text(column) if v != ""})
        raise InputError(
            f"No usable cell has {text}; the values of {name} are {join_words(have, 12) or 'empty'}."
        )
    return np.asarray(found)


def parts_of(work: Work, per: str, is_a: np.ndarray, is_b: np.ndarray) -> tuple[np.ndarray, str]:
    """Which part every cell is scored in ("" = none), and the column that decides ("" = one part)."""
    whole = np.full(len(work.obs), "all cells", dtype=object)
    if per in ("", "none"):
        return whole, ""
    if per != "auto":
        return work.values(per), per
    if "compound" not in work.obs:
        return whole, ""
    part = as_text(work.obs["compound"])
    # Plates often have one common control; then no compound has both references of its own.
    own = set(part[is_a]) & set(part[is_b]) - {""}
    return (part, "compound") if own else (whole, "")


def as_text(column: pd.Series) -> np.ndarray:
    """Values as text that compares well: 1, 1.0 and "1" are the same; missing is ""."""
    missing = column.isna().to_numpy()
    return np.array(
        ["" if m else plain(v) for v, m in zip(column.tolist(), missing, strict=True)], dtype=object
    )


def plain(value: Any) -> str:
    """One value as text that compares well."""
    if (isinstance(value, str) and not _is_plain_number(value)) or isinstance(value, bool):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _is_plain_number(text: str) -> bool:
    """Whether text is a number people write in a table ("1", "-1.0"), not a name that happens to parse ("1e5", "007")."""
    body = text.strip().lstrip("+-").replace(".", "", 1)
    return body.isdigit() and not (
        len(body) > 1 and text.strip().lstrip("+-").startswith("0") and "." not in text
    )


def users_columns(obs: pd.DataFrame) -> list[str]:
    """Columns of the cell table that the user brought (compound, dose, …), not measured or computed here."""
    own = {"label", "y_px", "x_px", "area_px", "mask_hash", "flags", "good", "field", "group"}
    skip = (
        "q_",
        "box_",
        "has_",
        "score_",
        "outlier_",
        "unlike_",
        "taught_",
        "predicted_",
        "sure_",
        "inpainting_",
        "mixing_",
        "time_",
        "kind_",
    )
    return [c for c in obs.columns if c not in own and not c.startswith(skip)]


def several(column: str) -> str:
    """More than one value of a column, in words: "fields", or "values of the column donor"."""
    own = ("field", "well", "plate", "group", "compound")
    return f"{column}s" if column in own else f"values of the column {column}"


def in_one_part(label: np.ndarray, part: np.ndarray) -> list[str]:
    """Which labels have all their cells in one part: nothing that is learned elsewhere can know them."""
    where = pd.DataFrame({"label": label, "part": part}).groupby("label")["part"].nunique()
    return [str(name) for name in where.index[where < 2]]


def as_ranks(rank: np.ndarray) -> pd.arrays.IntegerArray:
    """Ranks as whole numbers, empty for groups that are not ranked."""
    return pd.arrays.IntegerArray(rank.astype(np.int64), rank == 0)


def check_within(name: str, value: float, low: float, high: float) -> None:
    """A sentence for a number out of its range."""
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; it has to lie between {low} and {high:,}.")


def two_references(work: Work, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """Which cells belong to A and which to B; a sentence where some belong to both."""
    is_a, is_b = members_of(work, a), members_of(work, b)
    if (is_a & is_b).any():
        raise InputError(
            f"{int((is_a & is_b).sum()):,} cells belong to both references ({a} and {b}); they must differ."
        )
    return is_a, is_b


def between(
    work: Work, per: str, is_a: np.ndarray, is_b: np.ndarray, place: Callable[..., np.ndarray], done: str
) -> tuple[np.ndarray, str, list[str]]:
    """Place cells between A and B by ``place(z, is_a, is_b)``, those of each part on their own.

    Returns
    -------
    values : ndarray of shape (n,), float64
        NaN in parts that could not be placed.
    by : str
        The column that makes the parts; "" for one part.
    left_out : list of str
        Parts that could not be placed, each with the reason.
    """
    part, by = parts_of(work, per, is_a, is_b)
    z = projection.z_score(work.x)
    values, left_out = np.full(len(z), np.nan), []
    for name in dict.fromkeys(part[part != ""]):
        rows = part == name
        try:
            values[rows] = place(z[rows], is_a[rows], is_b[rows])
        except InputError as error:
            left_out.append(f"{name} ({error})")
    if not np.isfinite(values).any():
        raise InputError(
            f"No cell could be {done}: {left_out[0] if left_out else 'none has a value in ' + by}"
        )
    return values, by, left_out
