"""A table of numbers per cell, made elsewhere (CellProfiler, published features) → an embedding beside ours."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.tables import join_key
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.embed import EmbedResult

# Columns of CellProfiler's tables that count or place objects instead of describing them.
BOOKKEEPING = (
    "ImageNumber", "ObjectNumber", "Metadata_*", "Image_Metadata_*", "*Number_Object_Number", "*Parent_*",
    "*Children_*", "*Location_*", "*AreaShape_Center_*", "*AreaShape_BoundingBox*", "Unnamed: *",
)  # fmt: skip
MISSING_SHARE = 0.05  # a feature that lacks more of the cells is left out, one that lacks fewer is filled


def import_features(
    project: Project,
    table: Path | str,
    *,
    key: str = "",
    columns: Sequence[str] = (),
    on: Mapping[str, str] | None = None,
) -> Job[EmbedResult]:
    """Make the numbers of a table the vectors of the project's cells.

    Cells without a row in the table get no vector, as cells that were not embedded. A number that is missing from a
    row is replaced by the feature's median over the matched cells if at most 5 % of the cells lack it; a feature
    that more cells lack is left out. Both are told in the notes.

    Parameters
    ----------
    table : path
        CSV (comma, semicolon or tab; also gzipped) or parquet, one row per cell.
    key : str
        What the embedding is called; empty: the file's name without its ending.
    columns : sequence of str
        Which columns are features, as names or patterns (``"Cells_*"``); empty: all that hold numbers, but for
        those that count or place objects (`BOOKKEEPING`) and those the project has itself.
    on : mapping of str to str, optional
        Column of the table → column of the project's cells; together they have to name one cell. Beside the columns
        of the cell table there are ``cell_id`` and ``field_number``, the place of the cell's field in the project,
        from 1. Empty: ``cell_id``, else ``field`` and ``label``.

    Yields
    ------
    Progress
        Once per field, ``done`` counting cells; the job returns an `EmbedResult`.

    Raises
    ------
    InputError
        If the table cannot be read, a column is missing, rows or cells are not told apart by `on`, no row matches
        a cell, or no feature is left.
    """
    path = Path(table).expanduser().absolute()
    obs = project.cells.obs
    key = _check_key(project, key, path)
    yield Progress(0, len(obs), f"Reading {path.name}")
    found = read_table(path, text=("cell_id", "field", *(on or ())))
    on = _check_on(found, dict(on or {}), path)
    cells = _keys(_project_columns(project, list(on.values())), list(on.values()))
    rows = _keys(found[list(on)], list(on.values()))
    at = _match(rows, cells, on, path)
    names, notes = _choose(found, on, columns, set(obs.columns), path)
    x, kept, more = _numbers(found, names, at, path)
    notes += more

    has = np.isfinite(x).all(axis=1)
    n_cells, unused = int(has.sum()), len(found) - len(np.unique(at[at >= 0]))
    if n_cells < len(obs):
        notes.insert(
            0,
            f"{len(obs) - n_cells:,} of {len(obs):,} cells have no numbers in {path.name} and get no vector.",
        )
    if unused:
        notes.append(f"{unused:,} of {len(found):,} rows of {path.name} match no cell and were not used.")
    how = {
        "model": f"the table {path.name}", "table": path.name, "sha256": _sha256(path), "on": on,
        "trained": True, "features": kept,
    }  # fmt: skip
    project.begin_step("features")
    project.start_embedding(key, how, path=str(path))
    field_of = obs["field"].astype(str).to_numpy()
    done = 0
    for field in dict.fromkeys(field_of):
        here = np.flatnonzero((field_of == field) & has)
        if len(here):
            own = obs.iloc[here]
            labels, hashes = own["label"].to_numpy(np.int64), own["mask_hash"].to_numpy(np.uint64)
            project.write_rows(key, field, labels, hashes, x[here])
        done += int((field_of == field).sum())
        yield Progress(done, len(obs), f"Matched {field}")
    yield Progress(done, len(obs), "Writing the table")
    project.merge()
    project.log(
        "features", embedding=key, table=str(path), sha256=how["sha256"], on=on, columns=list(columns), cells=n_cells,
        features=len(kept), rows=len(found), notes=notes,
    )  # fmt: skip
    return EmbedResult((key,), n_cells, 0, {}, tuple(notes))


def read_table(path: Path, text: Sequence[str] = (), n_rows: int | None = None) -> pd.DataFrame:
    """Read CSV (comma, semicolon or tab; at most `n_rows`) or parquet; the columns `text` stay as they are written.

    Raises
    ------
    InputError
        If it is missing, not a table, or has no rows.
    """
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
            if table.index.name is not None:
                table = table.reset_index()
        else:
            table = _read_text(path, text, n_rows)
    except OSError as error:
        why = error.strerror or str(error).splitlines()[0]
        raise InputError(f"The table {path} cannot be read ({why}).") from None
    except ValueError as error:  # pandas' and pyarrow's errors are of this kind
        why = str(error).splitlines()[0] if str(error) else "it is not a table"
        raise InputError(f"The table {path.name} cannot be read ({why}).") from None
    table.columns = pd.Index([str(c).strip() for c in table.columns])
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"The table {path.name} has two columns called {twice[0]!r}; names have to differ.")
    if not len(table):
        raise InputError(f"The table {path.name} has no rows; one row per cell is wanted.")
    first = table.columns[0]
    if first == "Unnamed: 0" and "cell_id" not in table and not pd.api.types.is_numeric_dtype(table[first]):
        table = table.rename(columns={first: "cell_id"})  # how pandas writes an index without a name
    return table


def _read_text(path: Path, text: Sequence[str], n_rows: int | None = None) -> pd.DataFrame:
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as f:
        heading = f.readline()
    encoding = "utf-16" if heading[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    separator = max(",;\t", key=heading.replace(b"\0", b"").decode("latin-1").count)

    def read(encoding: str) -> pd.DataFrame:
        return pd.read_csv(
            path, sep=separator, encoding=encoding, dtype=dict.fromkeys(text, str), low_memory=False,
            skipinitialspace=True, compression="gzip" if packed else None, nrows=n_rows,
        )  # fmt: skip

    try:
        table = read(encoding)
    except UnicodeDecodeError:
        table = read("latin-1")
    if separator != ",":  # then numbers may be written with a comma
        for name in table.columns.difference(list(text)):
            if pd.api.types.is_numeric_dtype(table[name]):
                continue
            numbers = pd.to_numeric(table[name].str.replace(",", ".", regex=False), errors="coerce")
            if (numbers.isna() == table[name].isna()).all():
                table[name] = numbers
    return table


def peek(project: Project, table: Path | str) -> dict[str, Any]:
    """What a person must see of a table to say which of its columns name a cell; few of its rows are read.

    Returns
    -------
    dict
        "columns": the table's; "numbers": how many of them would be features; "on": how its rows would be matched,
        table's column → project's, {} if that cannot be told; "cell_columns": the project's to match by; "examples":
        both kinds of column → what its first row holds; "key": what the embedding would be called.
    """
    path = Path(table).expanduser().absolute()
    if path.suffix.lower() in (".parquet", ".pq"):
        found = read_table(path).head(100)
    else:
        found = read_table(path, n_rows=100)
    obs = project.cells.obs
    on: dict[str, str] = {}
    for names in (
        {"cell_id": "cell_id"}, {"field": "field", "label": "label"},
        {"Metadata_Well": "well", "ObjectNumber": "label"}, {"ImageNumber": "field_number", "ObjectNumber": "label"},
    ):  # fmt: skip
        known = {*obs.columns, "cell_id", "field_number"}
        if set(names) <= set(found.columns) and set(names.values()) <= known:
            on = names
            break
    try:
        numbers = len(_choose(found, on, (), set(obs.columns), path)[0])
    except InputError:
        numbers = 0
    ours = ["cell_id", "field", "label", "field_number"]
    ours += [c for c in obs.columns if c not in ours and not c.startswith(("q_", "box_", "has_", "score_"))]
    first = _project_columns(project, ours).iloc[0]
    return {
        "columns": [str(c) for c in found.columns], "numbers": numbers, "on": on, "cell_columns": ours,
        "examples": {
            "table": {str(c): str(v) for c, v in found.iloc[0].items()}, "cells": {str(c): str(v) for c, v in first.items()},
        },
        "key": path.name.removesuffix(".gz").rpartition(".")[0].lstrip(".").replace(" ", "_"),
    }  # fmt: skip


def _check_key(project: Project, key: str, path: Path) -> str:
    name = path.name.removesuffix(".gz")
    key = key or name.rpartition(".")[0].lstrip(".").replace(" ", "_") or name
    project.embedding_folder(key)  # refuses names that are none
    if key.startswith(("umap_", "pca_")):
        raise InputError(
            f"An embedding cannot be called {key!r}: maps are called so; name another with --key."
        )
    info = project.embedding_info(key)
    if info and "table" not in info:
        raise InputError(
            f"There is an embedding called {key!r} already, made by {info.get('model')}; name another with --key."
        )
    return key


def _check_on(table: pd.DataFrame, on: dict[str, str], path: Path) -> dict[str, str]:
    if not on:
        for columns in (("cell_id",), ("field", "label")):
            if set(columns) <= set(table.columns):
                return {c: c for c in columns}
        raise InputError(
            f"The table {path.name} has neither cell_id nor field and label, so its rows are of unknown cells; say which "
            "columns name a cell, for example --on Metadata_Well=well,ObjectNumber=label. Its columns are "
            f"{join_words(table.columns, 12)}."
        )
    missing = [c for c in on if c not in table]
    if missing:
        raise InputError(
            f"The table {path.name} has no column {missing[0]!r}; its columns are {join_words(table.columns, 12)}."
        )
    return on


def _project_columns(project: Project, names: Sequence[str]) -> pd.DataFrame:
    obs = project.cells.obs
    place = {f.id: i for i, f in enumerate(project.fields, start=1)}
    more = {"cell_id": obs.index, "field_number": [place.get(f, 0) for f in obs["field"].astype(str)]}
    for name in names:
        if name not in obs and name not in more:
            known = [c for c in obs.columns if not c.startswith(("q_", "box_", "has_"))]
            raise InputError(
                f"The project's cells have no column {name!r} to match rows by; there are {join_words([*more, *known], 20)}."
            )
    return pd.DataFrame({n: obs[n].to_numpy() if n in obs else more[n] for n in names})


def _keys(frame: pd.DataFrame, names: Sequence[str]) -> pd.Index:
    """What a row is matched by, as text; "" where a part is missing."""
    parts = []
    for (_, column), name in zip(frame.items(), names, strict=True):
        codes, values = pd.factorize(
            column
        )  # few different values: the house's rules are slow in plain Python
        known = np.array([*(join_key(name, v) for v in values), ""], object)
        parts.append(known[codes])
    whole = np.all([p != "" for p in parts], axis=0)
    return pd.Index(
        [", ".join(p) if ok else "" for p, ok in zip(zip(*parts, strict=True), whole, strict=True)]
    )


def _match(rows: pd.Index, cells: pd.Index, on: Mapping[str, str], path: Path) -> np.ndarray:
    """Row of the table for every cell, int (n,); −1 where there is none."""
    theirs, ours = " and ".join(on), " and ".join(on.values())
    twice = cells[cells.duplicated() & (cells != "")]
    if len(twice):
        raise InputError(
            f"Several cells of the project have the same {ours} ({twice[0]}); name one more column with --on that "
            "tells them apart, for example the site."
        )
    twice = rows[rows.duplicated() & (rows != "")].intersection(cells)
    if len(twice):
        raise InputError(
            f"The table {path.name} has several rows with the same {theirs} ({twice[0]}); one row per cell is wanted, or "
            "one more column with --on that tells them apart."
        )
    usable = np.flatnonzero(~rows.duplicated() & (rows != ""))
    found = rows[usable].get_indexer(cells)
    at = np.where((found >= 0) & (cells != ""), usable[found] if len(usable) else -1, -1)
    if (at < 0).all():
        example = rows[usable[0]] if len(usable) else "nothing"
        raise InputError(
            f"No row of {path.name} matches a cell: {theirs} of its first row is {example}, {ours} of the first cell is "
            f"{cells[0]}; say with --on which columns belong together."
        )
    return at


def _choose(
    table: pd.DataFrame, on: Mapping[str, str], patterns: Sequence[str], known: set[str], path: Path
) -> tuple[list[str], list[str]]:
    """Names of the features, and what was left out, in sentences."""
    columns = [str(c) for c in table.columns]
    for pattern in patterns:
        if not any(fnmatchcase(c, pattern) for c in columns):
            raise InputError(
                f"No column of {path.name} is called {pattern!r}; its columns are {join_words(table.columns, 12)}."
            )
    names, text, other = [], [], []
    for name in columns:
        if name in on or (patterns and not any(fnmatchcase(name, p) for p in patterns)):
            continue
        number = pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name])
        if not patterns and (name in known or any(fnmatchcase(name, p) for p in BOOKKEEPING)):
            other.append(name)
        elif not number:
            text.append(name)
        else:
            names.append(name)
    notes = []
    if text:
        notes.append(f"Left out, because they are no numbers: {join_words(text, 8)}.")
    if other:
        notes.append(
            f"Left out, because they number or place cells or are the project's own: {join_words(other, 8)} "
            "(--columns takes them in)."
        )
    if not names:
        raise InputError(
            f"The table {path.name} has no column of numbers to describe cells by. {' '.join(notes)}"
        )
    return names, notes


def _numbers(
    table: pd.DataFrame, names: list[str], at: np.ndarray, path: Path
) -> tuple[np.ndarray, list[str], list[str]]:
    """Vectors (n_cells, n_features) float32, NaN throughout where there is none; names; notes."""
    has = at >= 0
    part = table[names].iloc[at[has]]
    with np.errstate(over="ignore", invalid="ignore"):
        values = part.to_numpy(np.float64, na_value=np.nan).astype(np.float32)
    bad = ~np.isfinite(values)  # NaN, infinite, or beyond single precision
    empty = bad.all(axis=1)
    values, bad = values[~empty], bad[~empty]
    has[has] = ~empty
    usable = bad.mean(axis=0) <= MISSING_SHARE if len(values) else np.zeros(len(names), bool)
    kept = [n for n, ok in zip(names, usable, strict=True) if ok]
    if not kept:
        raise InputError(
            f"Every feature of {path.name} is missing for more than {MISSING_SHARE:.0%} of the cells."
        )
    notes = []
    if not usable.all():
        lost = [n for n, ok in zip(names, usable, strict=True) if not ok]
        notes.append(
            f"Left out, because more than {MISSING_SHARE:.0%} of the cells lack them: {join_words(lost, 8)}."
        )
    values, bad = values[:, usable], bad[:, usable]
    if bad.any():
        values[bad] = np.nan
        columns = np.flatnonzero(bad.any(axis=0))
        filled = np.nanmedian(values[:, columns], axis=0)
        values[:, columns] = np.where(bad[:, columns], filled, values[:, columns])
        notes.append(
            f"{int(bad.sum()):,} missing numbers in {len(columns):,} features were replaced by the feature's median: "
            f"{join_words([kept[i] for i in columns], 8)}."
        )
    x = np.full((len(at), len(kept)), np.nan, np.float32)
    x[has] = values
    return x, kept, notes


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_on(text: str) -> dict[str, str]:
    """Read ``"A=B,C"``: table's column A is the project's B, C is called C in both.

    Raises
    ------
    InputError
        If a part has no name, or a column is named twice.
    """
    on: dict[str, Any] = {}
    for part in text.split(","):
        theirs, _, ours = (p.strip() for p in part.partition("="))
        if not theirs or theirs in on or (ours or theirs) in on.values():
            raise InputError(f"--on is written COLUMN=COLUMN,…, table first, each column once; got {text!r}.")
        on[theirs] = ours or theirs
    return on
