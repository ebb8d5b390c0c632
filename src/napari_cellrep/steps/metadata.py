"""Another table of what the lab knows, for a project that is there: fields and cells get its columns, and stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.cells import OBS_COLUMNS
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.tables import KEYS, column_name, join_key, join_table, read_metadata
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, counted


@dataclass(frozen=True)
class MetadataResult:
    """What a new table changed.

    Parameters
    ----------
    columns, dropped : tuple of str
        Columns that fields and cells have from it, and those of earlier tables that are gone.
    n_fields, n_cells : int
        Fields with a row in it, and cells of these fields.
    notes : tuple of str
        What did not fit, and what is out of date now.
    mistakes : tuple of (int, str, str)
        Rows that do not fit, as in `data.tables.Joined`.
    """

    columns: tuple[str, ...]
    dropped: tuple[str, ...]
    n_fields: int
    n_cells: int
    notes: tuple[str, ...]
    mistakes: tuple[tuple[int, str, str], ...]

    @property
    def summary(self) -> str:
        """In one sentence."""
        names = ", ".join(self.columns) or "nothing new"
        gone = f"; gone are {', '.join(self.dropped)}" if self.dropped else ""
        return f"{self.n_fields:,} fields with {self.n_cells:,} cells now have {names}{gone}."


def set_metadata(
    project: Project, table: Path | str, *, on: str = "", add: bool = False
) -> Job[MetadataResult]:
    """Give fields and cells what a table says of them; cells, vectors, maps and scores stay.

    A table whose column cell_id names cells (or, of ready-made crops, whose column file or crop names their files) says
    something of each cell instead.

    Plate, well and site are how fields are told apart and are not changed; whatever else the table says counts more
    than what was known.

    Parameters
    ----------
    project : Project
    table : path
        CSV, Excel or parquet with a row per well, file or field, or per cell.
    on : str
        Columns to join it by; see `steps.import_fields.import_fields`.
    add : bool
        Keep the columns of earlier tables that this one does not have. Else they go.

    Yields
    ------
    Progress
        The job returns a `MetadataResult`.

    Raises
    ------
    InputError
        If the table cannot be read or joined, no row belongs to a field, or a group column would be lost.
    """
    path = Path(table).expanduser().absolute()
    yield Progress(0, 2, f"Reading {path.name}")
    project.reload()
    of_cells = _of_cells(project, path, on) if project.has_cells else None
    if of_cells is not None:
        return of_cells
    before = project.fields
    old = () if add else _of_tables(project)
    bare = [
        dataclasses.replace(f, metadata={k: v for k, v in f.metadata.items() if k not in old}) for f in before
    ]
    joined = join_table(bare, [_files(project, f) for f in before], path, on, overwrite=True)
    if not joined.matched:
        raise InputError(
            f"No row of {path.name} belongs to a field of {project.root.name}, so nothing was changed. "
            + " ".join(joined.notes)
        )
    kept = {c for f in joined.fields for c in f.metadata}
    dropped = tuple(c for c in old if c not in kept)
    lost = [c for c in project.group_by if c in dropped]
    if lost:
        raise InputError(
            f"{path.name} has no column {lost[0]}, by which the fields of {project.root.name} are grouped; add that column, "
            "or add the table to the earlier one."
        )
    fields = with_groups(joined.fields, project.group_by)
    notes = list(joined.notes)
    yield Progress(1, 2, "Writing the table of cells")
    n_cells = 0
    with project.lock():
        if project.has_cells:
            cells = project.cells
            cells.obs = with_metadata(cells.obs, fields, dropped)
            n_cells = int(cells.obs["field"].astype(str).isin(joined.matched).sum())
            project.write_cells(cells)
        if (whole := project.field_table) is not None:
            by_id = (
                whole.obs.assign(field=whole.obs.index.astype(str)) if "field" not in whole.obs else whole.obs
            )
            new = with_metadata(by_id, fields, dropped)
            whole.obs = new if "field" in whole.obs else new.drop(columns="field")
            project.write_field_table(whole)
        project.write_fields(fields)
    regrouped = [f.id for f, b in zip(fields, before, strict=True) if f.group != b.group]
    if regrouped:
        notes.append(
            f"The groups of {counted(regrouped, 'field')} are new: rankings and profiles have to be made again."
        )
    project.log(
        "metadata", table=str(path), on=on, by=list(joined.by), add=add, table_columns=list(joined.columns),
        dropped=list(dropped), notes=notes, mistakes=[list(m) for m in joined.mistakes],
    )  # fmt: skip
    yield Progress(2, 2, "Done")
    return MetadataResult(
        joined.columns, dropped, len(joined.matched), n_cells, tuple(notes), tuple(joined.mistakes)
    )


def _of_cells(project: Project, path: Path, on: str) -> MetadataResult | None:
    """Write what a table says of each cell; None if its rows are not of cells."""
    table = read_metadata(path)
    obs = project.cells.obs
    ids = {column_name("cell_id"): obs.index.to_series()}
    if "crop" in obs:
        ids |= {"crop": obs["crop"], "file": obs["crop"]}
    for column, names in ids.items():
        asked = not on or on == column or column_name(on) == column
        if column not in table or not asked:
            continue
        at = {join_key("file", name): i for i, name in enumerate(names.astype(str))}
        where = table[column].map(lambda value, at=at: at.get(join_key("file", value), -1))
        if (where >= 0).any():
            break
    else:
        return None
    mistakes = [
        (int(row) + 2, str(name), "no cell is called so")
        for row, name, i in zip(table.index, table[column], where, strict=True)
        if i < 0
    ]
    hits = where[where >= 0]
    again = hits[hits.duplicated()]
    mistakes += [
        (int(row) + 2, str(table[column][row]), "an earlier row is of the same cell, and was used")
        for row in again.index
    ]
    hits = hits.drop_duplicates()
    known = {c for f in project.fields for c in f.metadata}
    columns = [c for c in table.columns if c not in {*ids, *KEYS, "field", "file", "prefix", *known}]
    with project.lock():
        cells = project.cells
        for c in columns:
            values = pd.Series(table[c].loc[hits.index].to_numpy(), cells.obs.index[hits.to_numpy()])
            values = values.reindex(cells.obs.index)
            cells.obs[c] = values.map(str, na_action="ignore") if values.dtype == object else values
        project.write_cells(cells)
    n = len(hits)
    notes = [f"{path.name} says nothing of {len(obs) - n:,} of {len(obs):,} cells."] if n < len(obs) else []
    if mistakes:
        verb = "was" if len(mistakes) == 1 else "were"
        notes.append(f"{counted([m[1] for m in mistakes], 'row')} of {path.name} {verb} not used.")
    project.log("metadata", table=str(path), on=on, by=[column], cells=n, columns=columns, notes=notes)
    fields = obs["field"].astype(str).iloc[hits.to_numpy()].nunique()
    return MetadataResult(tuple(columns), (), int(fields), n, tuple(notes), tuple(sorted(mistakes)))


def _of_tables(project: Project) -> tuple[str, ...]:
    """Columns that earlier tables brought, as the history has it; plate, well and site stay."""
    said: dict[str, None] = {}
    for line in project.history:
        said |= dict.fromkeys(line.get("table_columns", ()))
    return tuple(c for c in said if c not in KEYS)


def _files(project: Project, field: Field) -> list[Path]:
    return list(dict.fromkeys(p for plane in field.planes for p in plane.files(project.root)))


def with_metadata(obs: pd.DataFrame, fields: Sequence[Field], dropped: Sequence[str] = ()) -> pd.DataFrame:
    """A table of cells (or fields) with what is known of its fields now; its other columns stay.

    Parameters
    ----------
    obs : DataFrame
        With a column "field".
    fields : sequence of Field
    dropped : sequence of str
        Columns that no field has any more.
    """
    obs = obs.drop(columns=[c for c in dropped if c in obs])
    where = obs["field"].astype(str)
    by_id = {f.id: f for f in fields}
    own = {*OBS_COLUMNS, "flags", "good"}
    columns = [c for c in dict.fromkeys(k for f in fields for k in f.metadata) if c not in own]
    for column in columns:
        values: Mapping[str, Any] = {name: f.metadata.get(column) for name, f in by_id.items()}
        known = [v for v in values.values() if v is not None]
        made = where.map(values)
        obs[column] = made.astype(object) if any(isinstance(v, str) for v in known) else made
    if "group" in obs:
        obs["group"] = where.map({name: f.group for name, f in by_id.items()}).astype(object)
    return obs
