"""Which cells an expression over the table's columns means: "dose_rank < 3 and compound == 'LY294002'"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from napari_cellrep.specs import InputError, join_words

MANY_COLUMNS = 12  # more are not listed in a sentence


def matching(obs: pd.DataFrame, expression: str) -> np.ndarray:
    """Find the cells of which an expression is true.

    Parameters
    ----------
    obs : DataFrame
        One row per cell.
    expression : str
        What `DataFrame.eval` takes: columns, numbers, quoted words, ``<``, ``==``, ``and``, ``or``, ``not``, ``in``.
        A column whose name has spaces is put in backticks. Of columns with several values ("cytosol;nucleus"):
        ``place has 'cytosol'``, ``place only 'cytosol'``, ``place has 'cytosol;nucleus'`` (both, and maybe more).

    Returns
    -------
    ndarray of shape (n,), bool

    Raises
    ------
    InputError
        If it cannot be read, names a column that is not there, or does not say yes or no for each cell.
    """
    # Categories cannot be ordered or compared with words that are not among them; plain values can.
    plain = obs.copy(deep=False)
    for column in obs:
        if isinstance(obs[column].dtype, pd.CategoricalDtype):
            plain[column] = obs[column].astype(object)
    said, expression = expression, _with_values(plain, expression)
    try:
        # "@name" would reach for Python's own variables; an expression is about columns only.
        found = plain.eval(expression.strip(), engine="python", local_dict={}, global_dict={})
    except pd.errors.UndefinedVariableError as error:
        named = str(error).split("'")[1] if "'" in str(error) else str(error)
        raise InputError(f"The cells have no column {named}; columns are {_columns(obs)}.") from None
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"The filter {said.strip()!r} cannot be read ({why}); write it like: group == 'A01' and area_px > 100."
        ) from None
    if not isinstance(found, pd.Series) or len(found) != len(obs):
        raise InputError(f"The filter {said.strip()!r} does not name a column; columns are {_columns(obs)}.")
    if not pd.api.types.is_bool_dtype(found.dropna().infer_objects()):
        raise InputError(
            f"The filter {said.strip()!r} has to say yes or no for each cell: compare it, for example "
            f"{said.strip()} == 1."
        )
    return found.fillna(False).to_numpy(bool)


_OF_VALUES = re.compile(
    r"""(?P<column>`[^`]+`|[^\W\d]\w*)\s+(?P<word>has|only)\s+(?P<quote>["'])(?P<values>.*?)(?P=quote)"""
)


def values_of(value: object) -> frozenset[str]:
    """The values of one entry: "cytosol; nucleus" holds two. Compared without regard to case."""
    if value is None or value != value:
        return frozenset()
    return frozenset(part.strip().casefold() for part in str(value).split(";") if part.strip())


HAS = " has "  # in the name of a choice of colours: "place has cytosol"
MOST_VALUES = 24  # of one column that are choices of their own


def choices_by_value(obs: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """What cells can be told apart by beside the columns: "place has cytosol", for each value that stands beside others.

    Parameters
    ----------
    obs : DataFrame
        One row per cell.
    columns : iterable of str
        Those to look through.

    Returns
    -------
    list of str
        Names that `has_value` takes; for each column at most `MOST_VALUES`, held by most cells first.
    """
    found = []
    for column in columns:
        if pd.api.types.is_numeric_dtype(obs[column].dtype):
            continue
        counts: Counter[str] = Counter()
        written: dict[str, str] = {}  # the first way of several that differ in case
        several = False
        for entry, n in obs[column].astype(object).value_counts().items():
            parts = {part.strip() for part in str(entry).split(";") if part.strip()}
            several |= len(parts) > 1
            for part in sorted(parts):
                counts[written.setdefault(part.casefold(), part)] += int(n)
        if several:
            found += [f"{column}{HAS}{value}" for value, _ in counts.most_common(MOST_VALUES)]
    return found


def has_value(obs: pd.DataFrame, name: str) -> pd.Series | None:
    """Whether each cell has a value, by a name such as "place has cytosol".

    Returns
    -------
    Series of bool, or None
        With None where nothing is known of a cell (of flags nothing means no flag); None if no column is meant.
    """
    column, has, value = name.partition(HAS)
    if name in obs or not has or column not in obs:
        return None
    wanted = values_of(value)
    known = {v: values_of(v) for v in obs[column].unique()}
    fits = {v: wanted <= held if held or column == "flags" else None for v, held in known.items()}
    made = obs[column].astype(object).map(lambda v: fits.get(v), na_action="ignore").astype(object)
    made = made.where(made.notna(), None)
    made.name = name
    return made


def _with_values(table: pd.DataFrame, expression: str) -> str:
    """The expression with ``has`` and ``only`` in it replaced by columns of truth values, which `table` gets."""

    def column_of(match: re.Match[str]) -> str:
        name = match["column"].strip("`")
        if name not in table:
            raise InputError(f"The cells have no column {name}; columns are {_columns(table)}.")
        wanted = values_of(match["values"])
        if not wanted:
            raise InputError(
                f"The filter {expression.strip()!r} does not say which value: write {name} has 'cytosol'."
            )
        known = {v: values_of(v) for v in table[name].unique()}
        fits = {v: wanted == held if match["word"] == "only" else wanted <= held for v, held in known.items()}
        made = f"values_{len(table.columns)}"
        table[made] = table[name].map(fits).astype(bool)
        return made

    return _OF_VALUES.sub(column_of, expression)


def _columns(obs: pd.DataFrame) -> str:
    hidden = ("mask_hash", "box_", "q_", "has_")
    own = [str(c) for c in obs.columns if not str(c).startswith(hidden)]
    return join_words(own, MANY_COLUMNS)
