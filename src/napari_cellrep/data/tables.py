"""The lab's table: what is known of each well, file or field, and which row is of which field."""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from napari_cellrep.data.cells import OBS_COLUMNS
from napari_cellrep.data.fields import OWN_COLUMNS, Field, safe_id, well_name
from napari_cellrep.data.layouts import well_of
from napari_cellrep.specs import InputError, counted, first_line

KEYS = ("plate", "well", "site")  # together they name a field
TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".parquet", ".pq")
NO_FIELD = "no field belongs to it"  # what is wrong with a row of a well that is not here
_JOINED_BY = (*KEYS, "field", "file", "prefix")
_COLUMN_WORDS = {
    "filename": "file", "file_name": "file", "image": "file", "image_file": "file", "field_id": "field",
    "well_id": "well", "plate_id": "plate", "fov": "site", "metadata_well": "well", "metadata_plate": "plate",
    "metadata_site": "site", "image_metadata_well": "well", "image_metadata_plate": "plate", "image_metadata_site": "site",
    "file_prefix": "prefix", "file_name_prefix": "prefix", "filename_prefix": "prefix",
}  # fmt: skip
_ROWS, _COLUMNS = ("row", "well_row", "wellrow"), ("column", "col", "well_column", "well_col", "wellcol")
_RESERVED = {*OWN_COLUMNS, *OBS_COLUMNS, "flags", "good", "cell_id", "cell", "index"} - {"field"}
_MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan"]
_WAYS = (
    ("plate", "well", "site"),
    ("plate", "well"),
    ("well", "site"),
    ("well",),
    ("file",),
    ("prefix",),
    ("field",),
    ("series",),
)
_FRAMES = ("frame", "time")  # a table may say something of each time point of a series


@dataclass(frozen=True)
class Joined:
    """What came of joining a table to fields.

    Parameters
    ----------
    fields : list of Field
        As given, with what the table knows of each.
    by : tuple of str
        The columns it was joined by.
    columns : tuple of str
        Those that the fields have from it.
    matched : tuple of str
        Ids of the fields that have a row.
    notes : list of str
        What did not fit, in sentences.
    mistakes : list of (int, str, str)
        Each row that does not fit: its number as a spreadsheet counts (the names of the columns are row 1), what it
        names, and what is wrong.
    """

    fields: list[Field]
    by: tuple[str, ...]
    columns: tuple[str, ...]
    matched: tuple[str, ...]
    notes: list[str]
    mistakes: list[tuple[int, str, str]]


def column_name(name: str) -> str:
    """A metadata column that anndata can keep and that is none of ours."""
    name = name.strip().replace("/", "_") or "column"
    return f"meta_{name}" if name in _RESERVED or name.startswith(("q_", "has_")) else name


def read_metadata(path: Path | str) -> pd.DataFrame:
    """Read a lab's table: CSV with comma, semicolon or tab (UTF-8 with or without BOM, UTF-16, Latin-1), Excel, parquet.

    Of an Excel file the first sheet with rows that name wells, files or fields is read, else the first with rows.
    Keys (plate, well, site, field, file, prefix) stay text; columns of numbers are numbers, also with decimal commas.
    Titles above the names of the columns are left out; merged cells have their value in each; of two columns of one name
    the second is ``<name>_2``; a well "P1_A01" is of plate P1.
    Where a row and a column stand for the well ("row" 1 or A, "column" 1), it is made of them.

    Returns
    -------
    DataFrame
        Its index is where each row stands in the file: 0 is the first below the names of the columns.

    Raises
    ------
    InputError
        If it is missing or not a table.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix in (".xls", ".ods"):
        raise InputError(f"The table {path.name} is of a kind we do not read; save it as .xlsx or .csv.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from None
    try:
        if suffix in (".xlsx", ".xlsm"):
            table, decimal_comma = _read_excel(path), False
        elif suffix in (".parquet", ".pq"):
            table, decimal_comma = pd.read_parquet(path), False
            table = _without_index(table)
        else:
            table, decimal_comma = _read_text(raw, path.name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The table {path.name} cannot be read ({first_line(error, None)}).") from error
    table.columns = _names(table.columns)
    table = table.loc[:, ~table.columns.str.fullmatch(r"Unnamed: \d+")]
    table = table.dropna(how="all").copy()
    if not len(table):
        raise InputError(_no_rows(path.name))
    counts = _of_a_field(table)
    for column in table.columns:
        if column in _JOINED_BY:
            table[column] = table[column].astype(object).map(_as_text, na_action="ignore")
        elif not (pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_bool_dtype(table[column])):
            table[column] = _numbers_or_text(table[column], decimal_comma, counts)
    if "well" in table.columns:
        table = _of_wells(table, path.name)
    return _with_wells(table)


def _of_a_field(table: pd.DataFrame) -> pd.Series:
    """Which rows can be of a field: not one of units, with nothing or "well" below "well", whose words make no number text."""
    by_word = {str(c).lower().removeprefix("metadata_"): c for c in table.columns}
    places = [next((by_word[w] for w in words if w in by_word), None) for words in (_ROWS, _COLUMNS)]
    by_number = "well" if "well" in table.columns else places[1] if places[0] is not None else None
    if by_number is not None:  # a well, and a column of a plate, has a number
        return table[by_number].astype(str).str.contains(r"\d")
    keys = [c for c in table.columns if c in _JOINED_BY]
    return table[keys].notna().all(axis=1) if keys else pd.Series(True, table.index)


def _without_index(table: pd.DataFrame) -> pd.DataFrame:
    """An index that says something is a column, too: one with a name, or of wells."""
    if any(name is not None for name in table.index.names):
        return table.reset_index()
    wells = table.index.dtype == object and all(_WELL.fullmatch(str(v)) for v in table.index)
    if wells and len(table) and not set(_names(table.columns)) & {"well", "field", "file"}:
        return table.rename_axis("well").reset_index()
    return table.reset_index(drop=True)


_WELL = re.compile(r"[A-Za-z]{1,2}[-_ ]?\d{1,3}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}( 00:00:00)?|\d{1,2}[-. ][A-Za-z]{3}([-. ]\d{2,4})?")


def _of_wells(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """With canonical wells; "P1_A01" is well A01 of plate P1."""
    wells = table["well"].dropna()
    dates = [w for w in wells if _DATE.fullmatch(w)]
    if dates:
        raise InputError(
            f"The column well of {name} holds dates ({counted(dates, 'row')}): spreadsheets take wells such as 1-1 for dates. "
            "Write them as A01, in cells that are text."
        )
    parts = [re.fullmatch(rf"(.+?)[-_:/. ]+({_WELL.pattern})", w) for w in wells]
    if parts and all(parts):
        table = table.assign(well=pd.Series([m[2] for m in parts if m], wells.index, dtype=object))
        if "plate" not in table.columns:
            table["plate"] = pd.Series([m[1] for m in parts if m], wells.index, dtype=object)
    table["well"] = table["well"].map(well_name, na_action="ignore")
    return table


def _names(columns: Iterable[Any]) -> pd.Index:
    """Names of columns as we keep them; of two columns of one name the second is ``<name>_2``."""
    names: list[str] = []
    for name in columns:
        low = str(name).strip().lower()
        low = _COLUMN_WORDS.get(low, low)
        made = low if low in _JOINED_BY and low not in names else column_name(str(name))
        free, n = made, 2
        while free in names:
            free, n = f"{made}_{n}", n + 1
        names.append(free)
    return pd.Index(names)


def _read_text(raw: bytes, name: str) -> tuple[pd.DataFrame, bool]:
    """A table of text, and whether its numbers may be written with commas."""
    encodings = ["utf-16"] if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "latin-1"]
    text = ""
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    lines = re.split(r"\r\n|\n|\r", text)
    heading, separator = _heading_of_text(lines)
    if sum(bool(line.strip()) for line in lines[heading:]) < 2:
        raise InputError(_no_rows(name))
    try:
        rows = pd.read_csv(
            StringIO("\n".join(lines[heading:])), sep=separator, dtype=str, keep_default_na=False, na_values=_MISSING,
            skipinitialspace=True, skip_blank_lines=False, header=None,
        )  # fmt: skip
    except pd.errors.ParserError as error:
        at = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if at is None:
            raise
        raise InputError(
            f"Row {int(at[2]) + heading} of {name} has {at[3]} values and there are names for {at[1]} columns; put values that "
            f"hold a {_SEPARATORS[separator]} in quotes."
        ) from None
    table = _below(rows, 0)
    table.index = table.index + heading
    return table, separator != ","


_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
HEADING_WITHIN = 10  # rows in which the names of the columns are looked for, below titles


def _heading_of_text(lines: Sequence[str]) -> tuple[int, str]:
    """Which line has the names of the columns, and what parts them."""
    filled = [i for i, line in enumerate(lines) if line.strip()][:HEADING_WITHIN]
    for i in filled:
        separator = max(_SEPARATORS, key=lines[i].count)
        names = [n.strip().strip('"') for n in lines[i].split(separator)]
        if len(names) > 1 and set(_JOINED_BY) & set(_names(names)):
            return i, separator
    # The separator is the one the heading uses most: sniffing the whole text guesses wrong on one column.
    first = filled[0] if filled else 0
    return first, max(_SEPARATORS, key=lines[first].count) if lines else ","


def _below(rows: pd.DataFrame, heading: int) -> pd.DataFrame:
    """The table whose columns are named by the row at place `heading`; a second row of names below merged ones counts, too.

    Its index is where each row stands: 0 is the first below row 0.
    """
    names = ["" if pd.isna(n) else str(n) for n in rows.iloc[heading]]
    table = rows.iloc[heading + 1 :]
    keys = [i for i, n in enumerate(_names(names)) if n in _JOINED_BY]
    if keys and len(table) > 1 and ("" in names or len(set(names)) < len(names)):
        more = table.iloc[0]
        alone = [i for i in range(len(names)) if not names[i] or names.count(names[i]) > 1]
        if (
            all(pd.isna(more.iloc[k]) or more.iloc[k] == names[k] for k in keys)
            and more.iloc[alone].notna().any()
        ):
            names = [
                n if pd.isna(m) or i in keys else str(m)
                for i, (n, m) in enumerate(zip(names, more, strict=True))
            ]
            table = table.iloc[1:]
    table = table.copy()
    table.columns = [n or f"Unnamed: {i}" for i, n in enumerate(names)]
    table.index = table.index - 1
    return table


def _read_excel(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # styles and validations of the workbook that openpyxl leaves out
        sheets = pd.read_excel(
            path, sheet_name=None, header=None, dtype=str, keep_default_na=False, na_values=_MISSING
        )
        if _has_merged_cells(path):
            _fill_merged(path, sheets)
    found = []
    for sheet in sheets.values():
        filled = sheet.dropna(how="all").index
        if len(filled) < 2:
            continue
        named = (
            i for i in filled[:HEADING_WITHIN]
            if sheet.loc[i].nunique() > 1 and set(_JOINED_BY) & set(_names(sheet.loc[i].dropna()))
        )  # fmt: skip
        found.append(_below(sheet, int(next(named, filled[0]))))  # rows are numbered from 0
    if not found:
        raise InputError(_no_rows(path.name))
    return next((t for t in found if set(_JOINED_BY) & set(_names(t.columns))), found[0])


def _has_merged_cells(path: Path) -> bool:
    with zipfile.ZipFile(path) as packed:
        sheets = [n for n in packed.namelist() if n.startswith("xl/worksheets/") and n.endswith(".xml")]
        return any(b"<mergeCell " in packed.read(n) for n in sheets)


def _fill_merged(path: Path, sheets: Mapping[Any, pd.DataFrame]) -> None:
    """Give every cell of merged ones their value: a plate written once beside its wells is the plate of each."""
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.load_workbook(path, data_only=True)  # how cells are merged is told to no faster reader
    for name, table in sheets.items():
        for cells in book[name].merged_cells.ranges:
            rows = slice(cells.min_row - 1, min(cells.max_row, len(table)))
            columns = slice(cells.min_col - 1, min(cells.max_col, table.shape[1]))
            if cells.min_row <= len(table) and cells.min_col <= table.shape[1]:
                value: Any = table.iat[cells.min_row - 1, cells.min_col - 1]
                for column in range(columns.start, columns.stop):
                    table.iloc[rows, column] = value


def _no_rows(name: str) -> str:
    return f"The table {name} has no rows; a line of column names and one row per field are wanted."


def _as_text(value: Any) -> str:
    return (
        str(int(value)) if isinstance(value, float) and value == value and value.is_integer() else str(value)
    ).strip()


def _numbers_or_text(column: pd.Series, decimal_comma: bool, counts: pd.Series) -> pd.Series:
    """Numbers where all there are in rows that count are numbers, else text."""
    values = column.astype(object).map(lambda v: str(v).strip(), na_action="ignore").astype(object)
    present = values.dropna()
    if (
        len(present) and present.map(lambda v: v.endswith(" 00:00:00")).all()
    ):  # dates, as spreadsheets and parquet have them
        return values.map(lambda v: v.removesuffix(" 00:00:00"), na_action="ignore")
    numbers = pd.to_numeric(values, errors="coerce")
    if decimal_comma and numbers.isna().sum() > values.isna().sum():
        numbers = pd.to_numeric(
            values.map(lambda v: v.replace(",", "."), na_action="ignore"), errors="coerce"
        )
    there = values.notna() & counts
    are_numbers = there.any() and numbers[there].notna().all()
    return numbers if are_numbers else values


def _with_wells(table: pd.DataFrame) -> pd.DataFrame:
    """With a column well, where two columns say it: 1 and 1 are A01."""
    if "well" in table.columns:
        return table
    by_word = {str(c).lower().removeprefix("metadata_"): c for c in table.columns}
    row = next((by_word[w] for w in _ROWS if w in by_word), None)
    column = next((by_word[w] for w in _COLUMNS if w in by_word), None)
    if row is None or column is None:
        return table
    both = table[row].notna() & table[column].notna()
    wells = [
        well_of(r, c) if there else "" for r, c, there in zip(table[row], table[column], both, strict=True)
    ]
    return table.assign(well=pd.Series(wells, table.index, dtype=object)) if any(wells) else table


# ---- which row is of which field -------------------------------------------------------------------


def join_table(
    fields: Sequence[Field],
    files: Sequence[Sequence[Path]],
    path: Path,
    on: str = "",
    overwrite: bool = False,
) -> Joined:
    """Add a table's columns to the fields; rows and fields that stay alone are reported.

    Parameters
    ----------
    fields : sequence of Field
    files : sequence of sequences of Path
        Those of each field.
    path : Path
        The table; see `read_metadata`.
    on : str
        Columns to join by, "plate+well"; "": the first that fit of plate, well and site; file; the beginning of the
        file's name; field. Each of them with the frame where the table tells frames of time series apart.
    overwrite : bool
        Whether the table's word counts more than what is known of a field; where it is, never.

    Raises
    ------
    InputError
        If the table cannot be read, or cannot be joined.
    """
    table = read_metadata(path)
    notes: list[str] = []
    fields = _with_plates(table, fields, files)
    if named := _names_of_fields(table, fields, files, on):
        column, on = named
        table = table.assign(**{on: table[column]})
        notes.append(f"{path.name} was joined by its column {column}, which holds {_WHAT_IT_HOLDS[on]}.")
    columns = _join_columns(table, fields, files, on, path.name)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    first_row: dict[tuple[str, ...], int] = {}
    written: dict[tuple[str, ...], str] = {}
    mistakes: list[tuple[int, str, str]] = []
    several: list[str] = []
    for at, record in zip(table.index, table.to_dict("records"), strict=True):
        key = tuple(join_key(c, record[c]) for c in columns)
        name = " ".join(str(record[c]) for c in columns)
        if not all(key):
            mistakes.append((int(at) + 2, name.replace("nan", "–"), f"{'+'.join(columns)} is not filled in"))
            continue
        left_out = ("field", "file", "prefix")
        values = {str(k): v for k, v in record.items() if k not in left_out and v == v and v is not None}
        if key in rows and rows[key] != values:
            several.append(name)
            mistakes.append(
                (int(at) + 2, name, f"row {first_row[key]} is of the same {'+'.join(columns)}, and was used")
            )
        rows.setdefault(key, values)
        first_row.setdefault(key, int(at) + 2)
        written.setdefault(key, name)
    if several:
        what = counted(several, "+".join(columns))
        notes.append(f"{path.name} has different rows for {what}; the first was used.")
    used, out, alone, brought = set(), [], [], dict[str, None]()
    for field, mine in zip(fields, files, strict=True):
        key = next((k for k in _field_keys(field, mine, columns) if k in rows), ())
        if not key and columns in (("file",), ("prefix",)):
            key = _longest_prefix(mine, rows)
        if key in rows:
            used.add(key)
            known = field.metadata
            fixed = {k: v for k, v in known.items() if k in KEYS} if overwrite else known
            brought |= dict.fromkeys(k for k in rows[key] if k not in fixed)
            said = {**known, **rows[key], **fixed} if overwrite else {**rows[key], **known}
            field = dataclasses.replace(field, metadata=said)
        else:
            alone.append(field.id)
        out.append(field)
    left = [key for key in rows if key not in used]
    mistakes += [(first_row[key], written[key], NO_FIELD) for key in left]
    if alone:
        notes.append(f"{path.name} has no row for {counted(alone, 'field')}.")
    if left:
        notes.append(f"No field belongs to {counted([written[key] for key in left], 'row')} of {path.name}.")
    lonely = set(alone)
    matched = tuple(f.id for f in out if f.id not in lonely)
    return Joined(out, columns, tuple(brought), matched, notes, sorted(mistakes))


def _with_plates(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[Sequence[Path]]
) -> list[Field]:
    """Fields with their plate by the name of a folder, where the table tells plates apart and no field has one."""
    if "plate" not in table.columns or any("plate" in f.metadata for f in fields):
        return list(fields)
    plates = {join_key("plate", p): str(p) for p in table["plate"].dropna()}
    out = []
    for field, mine in zip(fields, files, strict=True):
        parts = [part.casefold() for part in mine[0].parent.parts[::-1]] if mine else []
        own = next((plates[p] for p in parts if p in plates), None)
        if own is None:  # "BR00117006__2020-11-08…" is plate BR00117006
            own = next(
                (
                    name
                    for part in parts
                    for p, name in plates.items()
                    if part.startswith(p) and not part[len(p)].isalnum()
                ),
                None,
            )
        out.append(
            field if own is None else dataclasses.replace(field, metadata={"plate": own, **field.metadata})
        )
    return out


def _join_columns(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[Sequence[Path]], on: str, name: str
) -> tuple[str, ...]:
    """The columns a table is joined by: the user's, else the first that both sides have."""
    if on:
        columns = tuple(c.strip() for c in re.split(r"[+,]", on) if c.strip())
        for column in columns:
            if column not in table.columns:
                raise InputError(f"{name} has no column {column!r}; columns are {', '.join(table.columns)}.")
            if column not in ("field", "file", "prefix") and not any(column in f.metadata for f in fields):
                raise InputError(
                    f"The fields have no {column!r} to join {name} by; name it in the pattern, for example {{{column}}}.tif."
                )
        return columns
    if way := _usual_way(table, fields, files):
        return way
    called = f"; a field here is called {fields[0].id}" if fields else ""
    raise InputError(
        f"{name} cannot be joined to the fields: it needs a column well (and the file names or the pattern a well), "
        f"field or file; its columns are {', '.join(table.columns)}{called}."
    )


def _usual_way(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[Sequence[Path]]
) -> tuple[str, ...]:
    """The first columns that both sides have; () if there are none."""
    by_frame = [(*way, c) for way in _WAYS for c in _FRAMES if c in table.columns and way[0] != "prefix"]
    by_frame = [way for way in by_frame if _any_fits(table, fields, files, way)]
    for way in (*by_frame[:1], *_WAYS):
        if all(c in table.columns for c in way) and (
            way == ("prefix",) or any(_field_keys(f, p, way) for f, p in zip(fields, files, strict=True))
        ):
            return way
    return ()


_WHAT_IT_HOLDS = {
    "field": "the names of the fields", "file": "the names of files", "prefix": "what names of files begin with",
}  # fmt: skip
GUESSED_FROM = 0.5  # share of the fields that a column has to name before the table is joined by it unasked


def _names_of_fields(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[Sequence[Path]], on: str
) -> tuple[str, str] | None:
    """A column of another name that holds what fields or files are called, and which of the two; None if there is none.

    The one that was asked for (`on`), if the fields do not know it; else, where no usual column fits, the one that names
    most fields, each in one row.
    """
    if on:
        known = on in _JOINED_BY or any(on in f.metadata for f in fields)
        columns, least = ([] if known or on not in table.columns else [on]), 1.0
    elif _usual_way(table, fields, files):
        return None
    else:
        text = [c for c in table.columns if table[c].dtype == object]
        columns = [c for c in text if table[c].dropna().is_unique]
        least = max(1.0, GUESSED_FROM * len(fields))
    found: list[tuple[int, str, str]] = []
    for column in columns:
        for way in ("field", "file", "prefix"):
            rows: dict[tuple[str, ...], None] = {
                (key,): None for v in table[column] if (key := join_key(way, v))
            }
            if way == "prefix":
                n = sum(bool(_longest_prefix(mine, rows)) for mine in files)
            else:
                n = sum(
                    any(k in rows for k in _field_keys(f, mine, (way,)))
                    for f, mine in zip(fields, files, strict=True)
                )
            found.append((n, column, way))
    n, column, way = max(found, key=lambda one: one[0], default=(0, "", ""))
    return (column, way) if n >= least else None


def _any_fits(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[Sequence[Path]], way: Sequence[str]
) -> bool:
    """Whether a row is of a field, joined by these columns."""
    if not all(c in table.columns for c in way):
        return False
    rows = {
        tuple(join_key(c, v) for c, v in zip(way, row, strict=True))
        for row in table[list(way)].itertuples(index=False)
    }
    return any(
        key in rows for f, mine in zip(fields, files, strict=True) for key in _field_keys(f, mine, way)
    )


def _field_keys(field: Field, files: Sequence[Path], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys under which a field may be found: more than one where several files make it up."""
    names = {"file": [n for p in files for n in (p.name, stem(p))], "field": [field.id]}
    if field.series:  # what is said of a series is said of each of its frames
        names = {c: [*some, field.series] for c, some in names.items()}
    choices = [
        list(dict.fromkeys(join_key(c, n) for n in names.get(c, [field.metadata.get(c)]))) for c in columns
    ]
    return [values for values in itertools.product(*choices) if all(values)]


def _longest_prefix(files: Sequence[Path], rows: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """The row whose word the names of all of a field's files begin with, the longest; () if there is none."""
    names = [p.name.casefold() for p in files]
    fits = [
        key
        for key in rows
        if all(n.startswith(key[0]) and not n[len(key[0]) : len(key[0]) + 1].isalnum() for n in names)
    ]
    return max(fits, key=lambda key: len(key[0]), default=())


def join_key(column: str, value: Any) -> str:
    """A value as it is compared: wells canonical, "s1" = "01" = site 1, files without folders."""
    if value is None or value != value or str(value).strip() == "":
        return ""
    text = str(value).strip()
    if column == "well":
        return well_name(text)
    if column == "site":
        match = re.fullmatch(r"[A-Za-z_-]*0*(\d+)(?:\.0)?", text)
        return match[1] if match else text.casefold()
    if column in ("file", "prefix"):
        return text.replace("\\", "/").rpartition("/")[2].casefold()
    if column == "field":
        return safe_id(text).casefold()
    number = re.fullmatch(r"(-?\d+)\.0", text)
    return number[1] if number else text.casefold()


def stem(path: Path) -> str:
    """A file's name without its endings."""
    name = path.stem if path.suffix.lower() != ".gz" else Path(path.stem).stem
    return name.removesuffix(".ome").removesuffix(".OME") or name
