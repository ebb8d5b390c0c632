"""Ready-made crops of single cells → a project: each crop is a cell, and a field is a contact sheet of cells of a kind."""

from __future__ import annotations

import functools
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from napari_cellrep.data.crop_files import (
    ARRAY_SUFFIXES,
    Shape,
    contact_sheet,
    read_crop_arrays,
    shape_of,
)
from napari_cellrep.data.fields import Field, safe_id, well_name, with_groups
from napari_cellrep.data.files import replacing
from napari_cellrep.data.images import IMAGE_SUFFIXES, Plane, read_czyx, suffix_of
from napari_cellrep.data.layouts import find_layout, role_of
from napari_cellrep.data.project import Project, create_project, open_project, project_root
from napari_cellrep.data.tables import KEYS, TABLES, column_name, read_metadata
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import Channel, InputError, counted
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.import_fields import ImportOptions, channels_by_file, read_names

MOST_PER_SHEET = 400
LEAST_PITCH_PX = 64  # the usual window of a network: it shall not reach over a neighbour
# Somebody chose these cells: size, place, focus and signal are not judged again (and cannot be, without what is around).
RULES = {"min_area_share": 0.0, "max_area_share": 1.0, "debris_share": 0.0, "focus_z": 20.0, "signal_z": 0.0,
         "signal_share": 0.0}  # fmt: skip
_SHEET_COLUMNS = (
    "plate",
    "well",
    "plate_well",
    "protein",
    "gene",
    "site",
)  # cells that differ in these are apart


@dataclass(frozen=True)
class _Cell:
    name: str
    read: Callable[[], np.ndarray]
    known: Mapping[str, Any]
    folder: str


def import_crops(
    path: Path | str,
    images: Sequence[Path | str],
    *,
    channels: Sequence[str] = (),
    pattern: str = "",
    layout: str = "",
    metadata: Path | str = "",
    group_by: Sequence[str] = (),
    rgb: str = "",
    um_per_px: float = 0.0,
) -> Job[Project]:
    """Make a project of ready-made crops. Its cells are there at once: nothing has to be segmented.

    Crops that share plate, well, protein and site (or else their folder) make up a contact sheet, which is a field of
    the project and lies in it. Crops of one size are windows that somebody chose: each is all of its cell's mask, and
    networks see just that window. Of crops of many sizes a ground that was set to 0 is not the cell.
    What is known of a cell is in the cell table; ``crop`` there is the name of its file.

    Parameters
    ----------
    path : path
        The project's folder; ".cellrep" is added.
    images : sequence of paths
        Folders or zips of images, or npz, npy and HDF5 files of arrays.
    channels, pattern, layout, rgb, um_per_px
        As in `steps.import_fields.import_fields`; a file is a cell (or one channel of it).
    metadata : path
        A table with one row per cell: columns that name files are the channels, the others what is known. Of arrays
        its rows are in their order. Default: a table in the folder or zip or beside it, if it names the files.
    group_by : sequence of str
        Columns of cells that count as alike; they are on sheets of their own.

    Yields
    ------
    Progress
        Once per crop, twice. The generator returns the `Project`.

    Raises
    ------
    InputError
        If there is no crop, one cannot be read or has other channels, or the table does not fit.
    """
    root = project_root(path)
    if root.exists():
        raise InputError(f"{root} exists already; choose another name.")
    options = ImportOptions(
        tuple(channels),
        pattern,
        str(metadata),
        rgb=rgb,
        um_per_px=float(um_per_px),
        layout=layout.strip().lower(),
    )
    with ExitStack() as stack:
        yield Progress(0, 0, "Finding the crops")
        cells, parts, notes = _find_cells([Path(p).expanduser() for p in images], options, root, stack)
        both: list[tuple[Shape, Shape]] = []  # as a window, and cut out along the cell
        for i, cell in enumerate(cells):
            yield Progress(i, 2 * len(cells), f"Reading {cell.name}")
            picture = cell.read()
            if len(picture) != len(parts):
                raise InputError(
                    f"{cell.name} has {len(picture)} channel{'s' * (len(picture) != 1)}; there are names for {len(parts)} "
                    f"({', '.join(c.name for c in parts)})."
                )
            both.append((shape_of(picture, False), shape_of(picture, True)))
        cut_out = len({(whole.height, whole.width) for whole, _ in both}) > 1
        shapes = [pair[cut_out] for pair in both]
        side_px = max(s.side_px for s in shapes)
        sheets, of_sheet = _sheets(cells, tuple(group_by))
        with replacing(root) as tmp:
            inner = tmp / "p.cellrep"
            fields, labels = [], {}
            (tmp / "images").mkdir(parents=True)
            done = len(cells)
            for name, rows in sheets.items():
                yield Progress(done, 2 * len(cells), f"Writing {name}")
                image, labels[name] = contact_sheet(
                    [cells[i].read for i in rows],
                    [shapes[i] for i in rows],
                    max(side_px, LEAST_PITCH_PX),
                    cut_out,
                )
                _write(tmp / "images" / f"{name}.ome.tif", image, parts, options.um_per_px)
                fields.append(_field(name, image, of_sheet[name], options.um_per_px))
                done += len(rows)
            project = create_project(inner, with_groups(fields, group_by), parts, group_by)
            (tmp / "images").rename(inner / "images")
            for name, mask in labels.items():
                project.write_labels(name, mask, {"segmenter": "ready-made crops", "edited": True})
            project.log(
                "import", crops=True, images=[str(p) for p in images], channels=list(channels), pattern=pattern, layout=layout,
                metadata=str(metadata), n_fields=len(fields), n_cells=len(cells), window_px=side_px, problems=[], notes=notes,
            )  # fmt: skip
            yield from crop(project, rules={**RULES, "window_px": side_px})
            _tell_cells(project, cells, sheets)
            for child in list(inner.iterdir()):
                child.rename(tmp / child.name)
            inner.rmdir()
    return open_project(root)


# ---- which crops, and what is known of each --------------------------------------------------------


def _find_cells(
    images: Sequence[Path], options: ImportOptions, root: Path, stack: ExitStack
) -> tuple[list[_Cell], tuple[Channel, ...], list[str]]:
    if not images:
        raise InputError("There are no crops to import.")
    for path in images:
        if not path.exists():
            raise InputError(f"{path} is not there.")
    arrays = [p for p in images if p.suffix.lower() in ARRAY_SUFFIXES]
    if arrays and len(arrays) < len(images):
        raise InputError("Import files of arrays and files of images one after the other.")
    if arrays:
        return _of_arrays(arrays, options)
    folders = [_unpacked(p, stack) if p.suffix.lower() == ".zip" else p for p in images]
    table = Path(options.metadata).expanduser() if options.metadata else _table_beside(images, folders)
    if table is not None and not options.pattern and not options.layout:
        found = _of_table(table, folders, options)
        if found is not None:
            return found
    read = read_names([str(f) for f in folders], root, options, crops=True)
    notes = [*([read.why] if read.why else []), *read.problems]
    if read.unfit:
        notes.append(f"The names of {counted([p.name for p in read.unfit], 'file')} do not fit; left out.")
    drafts = [d for d in read.drafts if not d.problem]
    notes += [f"{d.name}: {d.problem}" for d in read.drafts if d.problem]
    if not drafts:
        raise InputError((read.problems or ["There are no crops there, or none whose name fits."])[-1])
    if not read.by_file:
        texts = options.channels or (read.layout.planes if read.layout else ())
        return _whole_files(drafts, options, texts, notes)
    order, parts = channels_by_file(drafts, options.channels, (), read.layout.channels if read.layout else {})
    cells = []
    for d in drafts:
        if all(v in d.files for v in order):
            files = [d.files[v][0] for v in order]
            cells.append(_Cell(files[0].name, functools.partial(_read_files, files), d.metadata, d.folder.name))  # fmt: skip
        else:
            notes.append(f"{d.name} has no file for {', '.join(v for v in order if v not in d.files)}; left out.")  # fmt: skip
    if not cells:
        raise InputError(f"No crop has all of the channels {', '.join(order)}; {notes[-1]}")
    return cells, parts, notes


def _unpacked(path: Path, stack: ExitStack) -> Path:
    """A zip's images, unpacked until the project is made."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellrep-crops-")))
    try:
        with zipfile.ZipFile(path) as packed:
            packed.extractall(folder)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError(f"{path.name} cannot be unpacked ({error}).") from None
    return folder


def _table_beside(images: Sequence[Path], folders: Sequence[Path]) -> Path | None:
    """The one table in the folder or zip, or beside it."""
    for places in (folders, [p.parent for p in images]):
        found = sorted({t for f in places if f.is_dir() for t in f.iterdir() if t.suffix.lower() in TABLES})
        if len(found) == 1:
            return found[0]
    return None


def _of_table(
    path: Path, folders: Sequence[Path], options: ImportOptions
) -> tuple[list[_Cell], tuple[Channel, ...], list[str]] | None:
    """Cells as a table lists them; None if no column of it names files, and nobody said that one does."""
    table = read_metadata(path)
    files = {
        p.relative_to(f).as_posix().casefold(): p for f in folders for p in f.rglob("*") if suffix_of(p) in IMAGE_SUFFIXES
    }  # fmt: skip
    by_name: dict[str, Path] = {}
    for name, file in files.items():
        by_name[name.rpartition("/")[2]] = file

    def find(value: Any) -> Path | None:
        text = str(value).strip().replace("\\", "/").casefold()
        return files.get(text) or by_name.get(text.rpartition("/")[2])

    columns = [
        c for c in table.columns
        if not pd.api.types.is_numeric_dtype(table[c]) and table[c].notna().any()
        and table[c].dropna().map(find).notna().mean() > 0.5
    ]  # fmt: skip
    if not columns:
        if options.metadata:
            raise InputError(
                f"No column of {path.name} names the files of the crops; write their names into one column for each "
                "channel."
            )
        return None
    atlas = find_layout("hpa").channels if set(columns) <= set(find_layout("hpa").channels) else {}
    parts = tuple(Channel.parse(atlas.get(c, f"{c}:{role_of(c)}")) for c in columns)
    order = list(range(len(columns)))
    if options.channels:
        order, parts = _said_channels(options.channels, columns)
    cells, lost = [], []
    for at, row in zip(table.index, table.to_dict("records"), strict=True):
        mine = [find(row[columns[i]]) for i in order]
        if any(m is None for m in mine):
            lost.append(str(int(at) + 2))
            continue
        known = {str(k): v for k, v in row.items() if k not in columns}
        paths = [m for m in mine if m is not None]
        cells.append(_Cell(paths[0].name, functools.partial(_read_files, paths), known, paths[0].parent.name))
    notes = [f"{path.name} lists the cells; channels are its columns {', '.join(columns)}."]
    if lost:
        notes.append(f"The files of {counted(lost, 'row')} of {path.name} are not there; left out.")
    unused = len(files) - len(cells) * len(order)
    if unused > 0:
        notes.append(f"{unused:,} images are in no row of {path.name}; left out.")
    if not cells:
        raise InputError(f"None of the files that {path.name} names is there.")
    return cells, parts, notes


def _said_channels(texts: Sequence[str], columns: Sequence[str]) -> tuple[list[int], tuple[Channel, ...]]:
    """Which columns are channels and what they show: ``column=name:role``, or names in the columns' order."""
    pairs = [text.partition("=") for text in texts]
    if all(sep for _, sep, _ in pairs):
        lower = [c.casefold() for c in columns]
        for value, _, _ in pairs:
            if value.strip().casefold() not in lower:
                raise InputError(f"No column {value.strip()!r} names files; those are {', '.join(columns)}.")
        return [lower.index(v.strip().casefold()) for v, _, _ in pairs], tuple(Channel.parse(t) for _, _, t in pairs)  # fmt: skip
    if len(texts) != len(columns):
        raise InputError(
            f"There are names for {len(texts)} channels and columns for {len(columns)} ({', '.join(columns)}); say "
            "which is which: column=name:role."
        )
    return list(range(len(columns))), tuple(Channel.parse(t) for t in texts)


def _whole_files(
    drafts: Sequence[Any], options: ImportOptions, texts: Sequence[str], notes: list[str]
) -> tuple[list[_Cell], tuple[Channel, ...], list[str]]:
    """Cells whose files hold all of their channels."""
    n_wanted = len(texts)
    files = [d.files[""][0] for d in drafts]
    first = _read_whole(files[0], options.rgb, n_wanted)
    parts = tuple(Channel.parse(t) for t in texts) or tuple(
        Channel(f"channel {i}") for i in range(len(first))
    )
    cells = [
        _Cell(f.name, functools.partial(_read_whole, f, options.rgb, n_wanted), d.metadata, f.parent.name)
        for f, d in zip(files, drafts, strict=True)
    ]
    return cells, parts, notes


def _of_arrays(
    paths: Sequence[Path], options: ImportOptions
) -> tuple[list[_Cell], tuple[Channel, ...], list[str]]:
    cells: list[_Cell] = []
    n_channels = len(options.channels)
    for path in paths:
        held = read_crop_arrays(path, n_channels)
        n_channels = held.images.shape[1]
        names = {k: column_name(k) for k in held.known}
        for i, image in enumerate(held.images):
            known = {names[k]: v[i].item() for k, v in held.known.items()}
            cells.append(_Cell(f"{path.stem}_{i + 1}", functools.partial(_held, image), known, path.stem))
    if options.metadata:
        table = read_metadata(options.metadata)
        if len(table) != len(cells):
            raise InputError(
                f"{Path(options.metadata).name} has {len(table):,} rows and there are {len(cells):,} cells; one row "
                "per cell, in their order, is wanted."
            )
        rows = table.to_dict("records")
        cells = [
            _Cell(c.name, c.read, {**c.known, **{str(k): v for k, v in row.items()}}, c.folder)
            for c, row in zip(cells, rows, strict=True)
        ]
    parts = tuple(Channel.parse(t) for t in options.channels) or tuple(
        Channel(f"channel {i}") for i in range(n_channels)
    )
    return cells, parts, []


def _held(image: np.ndarray) -> np.ndarray:
    return image


def _read_files(files: Sequence[Path]) -> np.ndarray:
    """A crop whose channels are a file each, as (C, H, W)."""
    planes = []
    for file in files:
        image = _flat(file)
        if len(image) > 1 and not all((plane == image[0]).all() for plane in image[1:3]):
            raise InputError(f"{file.name} holds {len(image)} channels; each file of a crop is one channel.")
        planes.append(image[0])
    if len({p.shape for p in planes}) > 1:
        raise InputError(f"The channels of the crop {files[0].name} differ in size.")
    return np.stack(planes)


def _read_whole(file: Path, rgb: str, n_wanted: int) -> np.ndarray:
    """A crop whose file holds all channels, as (C, H, W); grey saved as colour is one."""
    image = _flat(file)
    if suffix_of(file) not in (".png", ".jpg", ".jpeg") or len(image) == 1:
        return image
    if n_wanted < 2 and (image[0] == image[1]).all() and (image[0] == image[2]).all():
        return image[:1]
    if rgb == "grey":
        return np.asarray(image[:3].mean(axis=0).round().astype(image.dtype))[None]
    return image if rgb == "rgba" or n_wanted == 4 else image[:3]


def _flat(file: Path) -> np.ndarray:
    image = read_czyx(file, "channel")
    if image.shape[1] > 1:
        raise InputError(f"{file.name} is a z-stack of {image.shape[1]} planes; crops are flat.")
    return image[:, 0]


# ---- sheets ----------------------------------------------------------------------------------------


def _sheets(
    cells: Sequence[_Cell], group_by: Sequence[str]
) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]]]:
    """Sheet → its cells, in natural order of names, and sheet → what is known of all of its cells."""
    known = [_tidy(c.known) for c in cells]
    columns = {k for row in known for k in row}
    for column in group_by:
        if column not in columns:
            raise InputError(
                f"There is no column {column!r} to group by; columns are {', '.join(sorted(columns)) or 'none'}."
            )
    by = list(dict.fromkeys([*(c for c in _SHEET_COLUMNS if c in columns), *group_by]))
    keys: dict[tuple[str, ...], list[int]] = {}
    for i, (cell, row) in enumerate(zip(cells, known, strict=True)):
        key = tuple(str(row.get(c, "")) for c in by) if by else (cell.folder,)
        keys.setdefault(key, []).append(i)
    sheets: dict[str, list[int]] = {}
    for key, rows in keys.items():
        name = safe_id("_".join(part for part in key if part) or "cells")
        for start in range(0, len(rows), MOST_PER_SHEET):
            page = f"{name}_page{start // MOST_PER_SHEET + 1}" if len(rows) > MOST_PER_SHEET else name
            free, n = page, 2
            while free.casefold() in {s.casefold() for s in sheets}:
                free, n = f"{page}_{n}", n + 1
            sheets[free] = rows[start : start + MOST_PER_SHEET]
    shared = [
        c for c in sorted(columns)
        if c != column_name("cell") and all(len({str(known[i].get(c)) for i in rows}) == 1 for rows in sheets.values())
    ]  # fmt: skip
    firsts = {name: known[rows[0]] for name, rows in sheets.items()}
    return sheets, {name: {c: first[c] for c in shared if c in first} for name, first in firsts.items()}


def _tidy(known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a cell under names that a table can have; a field it was cut from is its site."""
    out = {}
    for key, value in known.items():
        if value is None or value != value or value == "":
            continue
        name = "site" if key == "field" and "site" not in known else column_name(str(key))
        out[name] = well_name(value) if name == "well" else str(value) if name in KEYS else value
    return out


def _field(name: str, image: np.ndarray, known: Mapping[str, Any], um_per_px: float) -> Field:
    planes = tuple(Plane(f"images/{name}.ome.tif", c) for c in range(len(image)))
    return Field(name, planes, image.shape[1], image.shape[2], str(image.dtype), um_per_px, metadata=dict(known))  # fmt: skip


def _write(path: Path, image: np.ndarray, channels: Sequence[Channel], um_per_px: float) -> None:
    extra: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": [c.name for c in channels]}}
    if um_per_px > 0:
        extra |= {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px}
    tifffile.imwrite(path, image, ome=True, compression="zlib", photometric="minisblack", metadata=extra)


def _tell_cells(project: Project, cells: Sequence[_Cell], sheets: Mapping[str, Sequence[int]]) -> None:
    """Write what is known of each cell into the table."""
    ids = [f"{name}:{k + 1}" for name, rows in sheets.items() for k in range(len(rows))]
    order = [i for rows in sheets.values() for i in rows]
    frame = pd.DataFrame([{"crop": cells[i].name, **_tidy(cells[i].known)} for i in order], index=ids)
    table = project.cells
    frame = frame.reindex(table.obs.index)
    for column in frame.columns.difference(list(table.obs.columns)):
        values = frame[column]
        if values.dtype == object:
            values = values.map(str, na_action="ignore")
        table.obs[re.sub(r"\s+", " ", str(column))] = values
    project.write_cells(table)
