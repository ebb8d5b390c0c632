"""What a recipe found, put into the project's tables and read again in its order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from napari_cellrep.data import Project
from napari_cellrep.data.cells import provenance
from napari_cellrep.specs import InputError
from napari_cellrep.steps.recipes.profiles import similar_table
from napari_cellrep.steps.recipes.registry import FIRST
from napari_cellrep.steps.work import (
    MOST_PAIRED,
    Found,
    as_text,
    users_columns,
)


def ranking(project: Project, *, embedding: str = "", by: str = "") -> pd.DataFrame:
    """Groups as last ranked: metadata, ``n_cells``, ``score_mean``, ``score_sd``, ``heterogeneity``, ranks.

    Parameters
    ----------
    embedding : str
        Which ranking; empty: the one made last.
    by : str
        Column the groups came from; empty: "group" when that was ranked, else the one ranked last.

    Returns
    -------
    DataFrame
        One row per group, most variable first (by the SD of the score where there is one).

    Raises
    ------
    InputError
        If nothing was ranked yet, or not this.
    """
    groups = project.groups
    made = (
        [m for m in provenance(groups).values() if m.get("recipe") == "variability"]
        if groups is not None
        else []
    )
    made = [m for m in made if embedding in ("", m["embedding"]) and by in ("", m["options"]["by"])]
    if groups is None or not made:
        what = f" of {embedding}" if embedding else ""
        raise InputError(f"There is no ranking{what} yet: run `cellrep analyze PROJECT variability` first.")
    last = max(made, key=lambda m: (not by and m["options"]["by"] == "group", m["made"]))
    end = f"_{last['embedding']}"
    obs = groups.obs[groups.obs["by"].astype(str) == last["options"]["by"]]
    known = {m["embedding"] for m in provenance(groups).values()}
    own = [c.removesuffix(end) for c in last["columns"]]
    columns = {f"{c}{end}": c for c in own}
    others = {f"{c}_{e}" for c in _RANKED for e in known} | {"by"}
    table = obs[[c for c in obs.columns if c not in others] + list(columns)].rename(columns=columns)
    table.index = pd.Index(table.pop("name").astype(str), name=last["options"]["by"])
    table = table.dropna(axis=1, how="all")
    first = "score_sd" if "score_sd" in table else "heterogeneity"
    order = table[first].where(table[f"rank_{first}"].notna())
    return table.loc[order.sort_values(ascending=False, kind="stable", na_position="last").index]


def in_order(
    project: Project, recipe: str, key: str, options: Mapping[str, Any], numbers: Mapping[str, Any]
) -> pd.DataFrame | None:
    """The groups in the order that a recipe found, or its other table; None where it has none."""
    if recipe == "variability":
        return ranking(project, embedding=key, by=str(options["by"]))
    if recipe == "similar":
        return similar_table(numbers)
    if "rows" in numbers:
        return pd.DataFrame(numbers["rows"])
    if recipe not in FIRST or project.groups is None:
        return None
    by, obs = str(options["by"]), project.groups.obs
    obs = obs[obs["by"].astype(str) == by]
    columns = [c for c in obs.columns if c.endswith(f"_{key}") and c.removesuffix(f"_{key}") in _RANKED]
    table = obs[columns].rename(columns=lambda c: c.removesuffix(f"_{key}"))
    table.index = pd.Index(obs["name"].astype(str), name=by)
    return (
        table.sort_values(FIRST[recipe], ascending=False, kind="stable") if FIRST[recipe] in table else table
    )


_RANKED = (
    "n_cells", "n_left_out", "score_mean", "score_sd", "score_sd_low", "score_sd_high", "rank_score_sd",
    "score_sd_expected", "score_sd_p", "score_sd_p_fdr", "heterogeneity", "rank_heterogeneity", "heterogeneity_expected",
    "heterogeneity_p", "heterogeneity_p_fdr", "distance", "n_compared", "rare_share", "rare_p", "rare_p_fdr", "rare_upper",
    "rank_rare", "field_highest", "field_expected", "field_p", "field_p_fdr", "n_counted_fields", "moved_shift",
    "moved_expected", "moved_ratio", "moved_p", "moved_p_fdr", "n_wells", "average_precision", "average_precision_p",
    "average_precision_p_fdr", "agreement", "intensity_cv", "intensity_cv_expected", "intensity_cv_p_fdr", "n_references",
    "pairwise_distance",
)  # fmt: skip


def put_cells(
    project: Project, found: Found, index: pd.Index, name: str, made: dict[str, Any]
) -> tuple[str, ...]:
    """Put results into the cell table as it is now on disk: others may have added columns meanwhile."""
    project.reload()
    cells = project.cells
    at = cells.obs.index.get_indexer(index)  # cells that are gone meanwhile: −1
    here = at >= 0
    written = []
    for key, values in found.obs.items():
        words = values.dtype == object
        full = np.full(cells.n_obs, None if words else np.nan, object if words else float)
        full[at[here]] = values[here]
        cells.obs[key] = pd.Categorical(full) if words else full
        written.append(f"obs/{key}")
    for key, values in found.obsm.items():
        full = np.full((cells.n_obs, values.shape[1]), np.nan, np.float32)
        full[at[here]] = values[here]
        cells.obsm[key] = full
        written.append(f"obsm/{key}")
    for key, matrix in found.obsp.items():
        # A selection matrix moves rows and columns of the cells that counted to their places in the table.
        place = sparse.csr_matrix(
            (np.ones(here.sum(), np.float32), (at[here], np.flatnonzero(here))),
            shape=(cells.n_obs, len(index)),
        )
        cells.obsp[key] = sparse.csr_matrix(place @ matrix @ place.T)
        written.append(f"obsp/{key}")
    for key, value in found.uns.items():
        cells.uns[key] = value
        written.append(f"uns/{key}")
    _note(cells, name, {**made, "written": written})
    try:
        project.write_cells(cells)
    except BaseException:
        project.reload()  # what is in memory was never written
        raise
    return tuple(written)


def put_groups(
    project: Project,
    found: Found,
    key: str,
    by: str,
    obs: pd.DataFrame,
    name: str,
    made: dict[str, Any],
) -> tuple[str, ...]:
    """Put what was found of groups into their table.

    Its rows (index: name, or ``<by>=<name>``), its columns with the embedding's name, its vectors as
    ``obsm["X_<embedding>"]``.
    """
    table = found.table
    assert table is not None  # the caller has looked
    new = pd.concat(
        [_shared_metadata(obs, by, table.index), table.rename(columns=lambda c: f"{c}_{key}")], axis=1
    )
    columns = [f"{c}_{key}" for c in table.columns]
    new.insert(0, "by", by)
    new.insert(1, "name", table.index.to_numpy(object))
    new.index = pd.Index(
        [n if by == "group" else f"{by}={n}" for n in table.index], name="group_id", dtype=object
    )
    old = project.groups
    rows = {i: dict(row) for i, row in zip(new.index, new.to_dict("records"), strict=True)}
    for i, row in zip(old.obs.index, old.obs.to_dict("records"), strict=True) if old is not None else ():
        if str(row["by"]) != by:
            rows[str(i)] = row  # another grouping
        elif str(i) in rows:
            rows[str(i)] = {
                **row,
                **rows[str(i)],
            }  # other embeddings' columns; a group that is gone stays out
    names = dict.fromkeys(c for row in rows.values() for c in row)
    whole = pd.DataFrame({c: _typed(str(c), [row.get(c) for row in rows.values()]) for c in names})
    whole.index = pd.Index(list(rows), name="group_id", dtype=object)
    groups = ad.AnnData(obs=whole, uns=dict(old.uns) if old is not None else {})
    written = [f"obs/{c}" for c in columns]
    if old is not None:
        for place, x in old.obsm.items():
            groups.obsm[place] = _moved(np.asarray(x), old.obs.index, groups.obs.index)
    whole_n = groups.n_obs
    for place in dict.fromkeys([*(old.obsp if old is not None else ()), *found.obsp]):
        if whole_n > MOST_PAIRED:
            break
        pairs = np.full((whole_n, whole_n), np.nan, np.float32)
        if old is not None and place in old.obsp:
            _put_pairs(pairs, np.asarray(old.obsp[place]), old.obs.index.get_indexer(groups.obs.index))
        if place in found.obsp:
            own = (groups.obs["by"].astype(str) == by).to_numpy()
            pairs[own] = np.nan
            pairs[:, own] = np.nan
            _put_pairs(pairs, found.obsp[place], new.index.get_indexer(groups.obs.index))
            written.append(f"obsp/{place}")
        groups.obsp[place] = pairs
    for place, vectors in ((f"X_{key}", found.vectors), (f"X_pca_{key}", found.components)):
        if vectors is None:
            continue
        x = _moved(vectors, new.index, groups.obs.index)
        if place in groups.obsm and groups.obsm[place].shape[1] == x.shape[1]:
            others = (groups.obs["by"].astype(str) != by).to_numpy()[:, None]
            x = np.where(others, groups.obsm[place], x)  # the profiles of another grouping stay
        groups.obsm[place] = x
        written.append(f"obsm/{place}")
    _note(groups, name, {**made, "written": written, "columns": columns})
    project.write_groups(groups)
    return tuple(written)


def _moved(x: np.ndarray, rows: pd.Index, to: pd.Index) -> np.ndarray:
    """Vectors of `rows` at the places of `to`; NaN where there is none."""
    at = rows.get_indexer(to)
    return np.where((at >= 0)[:, None], x[at], np.nan).astype(np.float32)


def _put_pairs(pairs: np.ndarray, known: np.ndarray, at: np.ndarray) -> None:
    """Put what is known of pairs of rows where these rows are now; −1 is a row that was not there."""
    here = np.flatnonzero(at >= 0)
    pairs[np.ix_(here, here)] = known[np.ix_(at[here], at[here])]


def _typed(column: str, values: list[Any]) -> Any:
    """A column of the group table: whole numbers, numbers or categories; every kind may have gaps."""
    empty = [v is None or pd.isna(v) for v in values]
    if column.startswith(
        (
            "n_cells_",
            "n_left_out_",
            "n_profiled_",
            "n_compared_",
            "n_counted_fields_",
            "n_wells_",
            "n_references_",
            "rank_",
        )
    ):
        return pd.array([None if e else int(v) for v, e in zip(values, empty, strict=True)], dtype="Int64")
    kept = [v for v, e in zip(values, empty, strict=True) if not e]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in kept):
        whole = not any(empty) and all(isinstance(v, int) for v in kept)
        return np.array(
            [np.nan if e else v for v, e in zip(values, empty, strict=True)], int if whole else float
        )
    return pd.Categorical([None if e else str(v) for v, e in zip(values, empty, strict=True)])


def _shared_metadata(obs: pd.DataFrame, by: str, names: pd.Index) -> pd.DataFrame:
    """Columns of the user's with one value in every group, such as a well's compound and its dose."""
    out = pd.DataFrame(index=names)
    groups = obs.groupby(as_text(obs[by]), observed=True)
    for column in users_columns(obs):
        if column != by and (groups[column].nunique() <= 1).all() and obs[column].notna().any():
            out[column] = groups[column].first().reindex(names)
    out["n_fields"] = groups["field"].nunique().reindex(names)
    return out


def _note(table: ad.AnnData, name: str, made: dict[str, Any]) -> None:
    """Write down how a key was made, as JSON, beside what is there."""
    table.uns["cellrep"] = {**dict(table.uns.get("cellrep", {})), name: json.dumps(made, default=str)}


def all_there(table: ad.AnnData, written: list[str]) -> bool:
    """Whether everything that a recipe wrote is still in the table."""
    return all(key in getattr(table, place) for place, key in (w.split("/", 1) for w in written))
