"""Ready-made crops of single cells → a project: each crop is a cell, and a field is a contact sheet of cells of a kind."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from napari_cellrep.data import slides
from napari_cellrep.data.cells import OBS_COLUMNS
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
from napari_cellrep.steps.plan_fields import channels_by_file
from napari_cellrep.steps.read_names import ImportOptions, read_names

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


LOOKED_AT = 200  # crops that `preview_crops` reads, spread over all
SHEETS_SHOWN = 24
VALUES_TOLD = 8  # of a column, in a preview


@dataclass(frozen=True)
class _Cell:
    name: str
    read: Callable[[], np.ndarray]
    known: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class _Found:
    """The crops, their channels, and what was understood on the way.

    Parameters
    ----------
    unused : tuple of str
        Files that belong to no cell.
    mistakes : tuple of (int, str, str)
        Rows of the table that fit nothing, as in `data.tables.Joined`.
    """

    cells: list[_Cell]
    channels: tuple[Channel, ...]
    notes: list[str]
    unused: tuple[str, ...] = ()
    mistakes: tuple[tuple[int, str, str], ...] = ()


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
        raise InputError(f"{root} exists already; choose another name, or add to it.")
    options = _options(channels, pattern, layout, metadata, rgb, um_per_px)
    with ExitStack() as stack:
        yield Progress(0, 0, "Finding the crops")
        found = _find_cells(_paths(images), options, root, stack)
        cells, parts = found.cells, found.channels
        both: list[tuple[Shape, Shape]] = []  # as a window, and cut out along the cell
        for i, cell in enumerate(cells):
            yield Progress(i, 2 * len(cells), f"Reading {cell.name}")
            picture = _picture(cell, parts)
            both.append((shape_of(picture, False), shape_of(picture, True)))
        cut_out = len({(whole.height, whole.width) for whole, _ in both}) > 1
        shapes = [pair[cut_out] for pair in both]
        side_px = max(s.side_px for s in shapes)
        sheets, of_sheet = _sheets(cells, tuple(group_by), most=_most_per_sheet(side_px))
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
                project.write_labels(name, mask, _MADE)
            project.log(
                "import", crops=True, images=[str(p) for p in images], n_fields=len(fields), n_cells=len(cells),
                window_px=side_px, cut_out=cut_out, problems=[], notes=found.notes, **_told(options),
            )  # fmt: skip
            yield from crop(project, rules={**RULES, "window_px": side_px})
            _tell_cells(project, cells, sheets)
            project.forget_step()  # the first thing that can be taken back is what comes after the import
            for child in list(inner.iterdir()):
                child.rename(tmp / child.name)
            inner.rmdir()
    project = open_project(root)
    project.forget_step()  # the cells came with the import: taking them back would leave nothing
    return project


def add_crops(project: Project, images: Sequence[Path | str], **options: Any) -> Job[Project]:
    """Add crops to a project of crops: next week's, on contact sheets of their own.

    The cells that are there keep their ids, vectors and scores. The new ones have no vectors yet: `steps.replay.replay`
    embeds them, and no others. A crop that is there already, with the same name and the same pixels, is left out, so
    that a folder that has grown can be given again.

    Parameters
    ----------
    project : Project
        One that `import_crops` made.
    images : sequence of paths
        As in `import_crops`.
    **options
        Those of `import_crops` except `group_by`; what is not given, `metadata` aside, is as in the project's own import.

    Yields
    ------
    Progress
        Once per crop, twice. The generator returns the `Project`.

    Raises
    ------
    InputError
        If the project is not of crops, the channels are others, or all crops are in it already; and as `import_crops`.
    """
    project.reload()
    line = _import_line(project)
    used = _like_before(line, options)
    with ExitStack() as stack:
        yield Progress(0, 0, "Finding the crops")
        found = _as_present(
            _find_cells(_paths(images), used, project.root, stack, len(project.channels)), project.channels
        )
        cut_out = _was_cut_out(project, line)
        known = _Sheets(project)
        cells, shapes, again = [], [], []
        for i, cell in enumerate(found.cells):
            yield Progress(i, 2 * len(found.cells), f"Reading {cell.name}")
            picture = _picture(cell, found.channels)
            shape = shape_of(picture, cut_out)
            if known.has(cell.name, picture, shape):
                again.append(cell.name)
            else:
                cells.append(cell)
                shapes.append(shape)
        if not cells:
            raise InputError(
                f"All {len(again):,} crops are in {project.root.name} already; nothing was added."
            )
        notes = list(found.notes)
        if again:
            notes.append(f"{counted(again, 'crop')} {_are(again)} in the project already; left out.")
        window_px = int(line["window_px"])
        side_px = max(s.side_px for s in shapes)
        if side_px > window_px:
            notes.append(_too_large(side_px, window_px))
        most = _most_per_sheet(max(side_px, window_px))
        sheets, of_sheet = _sheets(cells, project.group_by, [f.id for f in known.fields], most)
        done = 2 * len(found.cells) - len(cells)
        before, fields = project.fields, []
        try:
            for name, rows in sheets.items():
                yield Progress(done, 2 * len(found.cells), f"Writing {name}")
                image, labels = contact_sheet(
                    [cells[i].read for i in rows],
                    [shapes[i] for i in rows],
                    max(side_px, window_px, LEAST_PITCH_PX),
                    cut_out,
                )
                with replacing(project.root / "images" / f"{name}.ome.tif") as tmp:
                    _write(tmp, image, project.channels, used.um_per_px)
                fields.append(_field(name, image, of_sheet[name], used.um_per_px))
                project.write_fields(with_groups([*known.fields, *fields], project.group_by))
                project.write_labels(name, labels, _MADE)
                done += len(rows)
            yield from crop(project, fields=[f.id for f in fields])
            _tell_cells(project, cells, sheets)
        except BaseException:  # stopped, too: sheets without what is known of their cells are of no use
            project.write_fields(before)
            for field in fields:
                (project.root / "images" / f"{field.id}.ome.tif").unlink(missing_ok=True)
                project.labels_path(field.id).unlink(missing_ok=True)
            raise
        project.forget_step()
    project.log(
        "add", crops=True, images=[str(p) for p in images], n_fields=len(fields), n_cells=len(cells), n_unusable=0,
        problems=[], notes=notes, **_told(used),
    )  # fmt: skip
    return project


def made_of_crops(project: Project) -> bool:
    """Whether a project's images are contact sheets of ready-made crops."""
    return any(line["step"] == "import" and line.get("crops") for line in project.history)


def preview_crops(
    images: Sequence[Path | str], *, project: Path | str = "", **options: Any
) -> Job[dict[str, Any]]:
    """Say how crops would be understood, without making anything.

    Parameters
    ----------
    images : sequence of paths
        As in `import_crops`.
    project : path, optional
        The project of crops they would be added to; its channels and rules apply.
    **options
        Those of `import_crops`; `on`, which is not for crops, may be empty.

    Yields
    ------
    Progress
        Once per crop that is looked at. The generator returns ``{"n_cells", "n_looked_at", "sizes", "seen", "channels",
        "notes", "columns", "unused", "mistakes", "n_sheets", "rows"}``: the sizes in words and what networks see of a crop;
        the channels in words; sentences; for each column of what is known of the cells its name and its values in words;
        names of files of no cell; the table's rows that fit nothing (row, what it names, what is wrong); and for each of
        the first contact sheets its ``field``, ``cells``, ``known`` and ``problem``.

    Raises
    ------
    InputError
        As `import_crops` would.
    """
    group_by = tuple(options.pop("group_by", ()))
    line: dict[str, Any] = {}
    present: tuple[Channel, ...] = ()
    sheets_there: Sequence[str] = ()
    known: _Sheets | None = None
    root = Path()
    if str(project):
        opened = open_project(project)
        line, present, root, group_by = _import_line(opened), opened.channels, opened.root, opened.group_by
        known = _Sheets(opened)
        sheets_there = [f.id for f in known.fields]
    used = _like_before(line, options)
    with ExitStack() as stack:
        yield Progress(0, 0, "Finding the crops")
        found = _find_cells(_paths(images), used, root, stack, len(present))
        if present:
            found = _as_present(found, present)
        cells, notes, sizes = found.cells, list(found.notes), set()
        looked_at = cells[:: -(-len(cells) // LOOKED_AT)]
        seen_again = 0
        cut_out = _was_cut_out(opened, line) if present else False
        for i, cell in enumerate(looked_at):
            yield Progress(i, len(looked_at), f"Reading {cell.name}")
            picture = _picture(cell, found.channels)
            sizes.add(picture.shape[1:])
            if known is not None and known.has(cell.name, picture, shape_of(picture, cut_out)):
                seen_again += 1
    if seen_again:
        some = f" of the {len(looked_at):,} looked at" if len(looked_at) < len(cells) else ""
        notes.append(f"{seen_again:,}{some} are in the project already and will be left out.")
    if line and max(max(s) for s in sizes) > int(line["window_px"]) and not cut_out:
        notes.append(_too_large(max(max(s) for s in sizes), int(line["window_px"])))
    most = _most_per_sheet(max(*map(max, sizes), int(line.get("window_px", 0))))
    sheets, of_sheet = _sheets(cells, group_by, sheets_there, most)
    return {
        "n_cells": len(cells), "n_looked_at": len(looked_at), "sizes": _size_words(sizes),
        "seen": "" if line else _SEEN[len(sizes) > 1], "channels": [f"{c.name} ({c.role})" for c in present or found.channels],
        "notes": notes, "columns": _column_words(cells), "unused": list(found.unused), "mistakes": list(found.mistakes),
        "n_sheets": len(sheets), "rows": [
            {"field": name, "cells": f"{len(rows):,}", "known": ", ".join(f"{k} {v}" for k, v in of_sheet[name].items()),
             "problem": ""}
            for name, rows in list(sheets.items())[:SHEETS_SHOWN]
        ],
    }  # fmt: skip


_MADE = {"segmenter": "ready-made crops", "edited": True}
_SEEN = (
    "Crops of one size are shown to networks just as they are.",
    "Of crops of many sizes a ground that was set to 0 is not the cell; networks see each in the middle of one window.",
)


def _options(
    channels: Sequence[str] = (), pattern: str = "", layout: str = "", metadata: Path | str = "", rgb: str = "",
    um_per_px: float = 0.0, on: str = "",
) -> ImportOptions:  # fmt: skip
    if on:
        raise InputError(
            "A table of crops has a row per cell and is joined by their files; it needs no columns to join by."
        )
    return ImportOptions(
        tuple(channels),
        pattern,
        str(metadata),
        rgb=rgb,
        um_per_px=float(um_per_px),
        layout=layout.strip().lower(),
    )


def _told(options: ImportOptions) -> dict[str, Any]:
    """How crops were understood, for the project's history: next week's are read the same way."""
    names = ("channels", "pattern", "layout", "metadata", "rgb", "um_per_px")
    return {n: getattr(options, n) for n in names}


def _like_before(line: Mapping[str, Any], options: Mapping[str, Any]) -> ImportOptions:
    """The options given now, and else those of the project's own import; its table says nothing of other crops."""
    given = {n: v for n, v in options.items() if v not in ("", (), [], 0, None)}
    for name in given:
        if name not in (*_told(ImportOptions()), "on"):
            raise InputError(f"{name} is for images of many cells; leave it out of crops.")
    before = {n: line[n] for n in _told(ImportOptions()) if n in line and n != "metadata"}
    if "pattern" in given or "layout" in given:  # names are read by one of the two
        before = {n: v for n, v in before.items() if n not in ("pattern", "layout")}
    return _options(**{**before, **given})


def _import_line(project: Project) -> dict[str, Any]:
    """How a project of crops was made."""
    for line in project.history:
        if line["step"] == "import" and line.get("crops"):
            return line
    raise InputError(
        f"{project.root.name} was not made of ready-made crops: its fields have many cells. Add images without crops, or make a "
        "project of the crops."
    )


def _paths(images: Sequence[Path | str]) -> list[Path]:
    return [Path(p).expanduser() for p in ([images] if isinstance(images, str | Path) else images)]


def _are(some: Sequence[Any]) -> str:
    return "is" if len(some) == 1 else "are"


def _too_large(side_px: int, window_px: int) -> str:
    return (
        f"Some of these crops reach over {side_px} px, and networks see windows of {window_px} px in this project: "
        "their middle."
    )


def _picture(cell: _Cell, parts: Sequence[Channel]) -> np.ndarray:
    """A crop as (C, H, W), with the channels that are wanted."""
    picture = cell.read()
    if len(picture) != len(parts):
        raise InputError(
            f"{cell.name} has {len(picture)} channel{'s' * (len(picture) != 1)}; there are names for {len(parts)} "
            f"({', '.join(c.name for c in parts)})."
        )
    return picture


def _size_words(sizes: set[tuple[int, ...]]) -> str:
    """Sizes (H, W) in words."""
    if len(sizes) == 1:
        ((h, w),) = sizes
        return f"{w} × {h} px"
    heights, widths = zip(*sizes, strict=True)
    return f"{min(widths)} × {min(heights)} to {max(widths)} × {max(heights)} px"


def _column_words(cells: Sequence[_Cell]) -> list[tuple[str, str]]:
    """What is known of the cells, column by column: its commonest values with how many cells have each."""
    frame = pd.DataFrame([_tidy(c.known) for c in cells])
    told = []
    for column in frame:
        values = frame[column].dropna()
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > VALUES_TOLD:
            words = f"{values.min():g} to {values.max():g}"
        else:
            counts = values.map(str).value_counts()
            words = ", ".join(f"{v} ({n:,})" for v, n in counts.iloc[:VALUES_TOLD].items())
            if len(counts) > VALUES_TOLD and counts.iloc[0] == 1:
                words = f"another one for each cell, such as {counts.index[0]}"
            elif len(counts) > VALUES_TOLD:
                words += f" and {len(counts) - VALUES_TOLD:,} more"
        if len(values) < len(cells):
            words += f"; {len(cells) - len(values):,} cells have none"
        told.append((str(column), words))
    return told


# ---- adding to what is there -----------------------------------------------------------------------


class _Sheets:
    """The contact sheets of a project, to see whether a crop is on one of them.

    A sheet whose cells have no names was left behind by an adding that was killed; it does not count.
    """

    def __init__(self, project: Project):
        self._project = project
        obs = project.cells.obs
        named = obs[obs["crop"].notna()] if "crop" in obs else obs[:0]
        on = set(named["field"].astype(str))
        self.fields = [f for f in project.fields if f.id in on]
        self._of_name = named.groupby(named["crop"].astype(str), observed=True)
        self._rows = named[["field", "y_px", "x_px"]]
        self._places = {str(name): rows for name, rows in self._of_name.indices.items()}
        self._image: tuple[str, np.ndarray] | None = None

    def has(self, name: str, picture: np.ndarray, shape: Shape) -> bool:
        """Whether a crop of this name with these very pixels is there."""
        for at in self._places.get(name, ()):
            row = self._rows.iloc[at]
            image = self._read(str(row["field"]))
            y, x = int(row["y_px"]) - shape.middle[0], int(row["x_px"]) - shape.middle[1]
            there = image[:, max(y, 0) : y + shape.height, max(x, 0) : x + shape.width]
            if there.shape == picture.shape and bool((there == picture).all()):
                return True
        return False

    def _read(self, field: str) -> np.ndarray:
        if self._image is None or self._image[0] != field:
            self._image = (field, self._project.read_image(field))
        return self._image[1]


def _was_cut_out(project: Project, line: Mapping[str, Any]) -> bool:
    """Whether the masks of a project's crops are their outlines; projects made before that was noted tell by their boxes."""
    if "cut_out" in line:
        return bool(line["cut_out"])
    obs = project.cells.obs
    sizes = set(zip(obs["box_y1"] - obs["box_y0"], obs["box_x1"] - obs["box_x0"], strict=True))
    return len(sizes) > 1


def _as_present(found: _Found, present: Sequence[Channel]) -> _Found:
    """With the channels of a project in its order: by name where the names say so, else as they come."""
    if len(found.channels) != len(present):
        raise InputError(
            f"The project has {len(present)} channels ({', '.join(c.name for c in present)}) and the new crops have "
            f"{len(found.channels)} ({', '.join(c.name for c in found.channels)})."
        )
    names, wanted = [c.name.casefold() for c in found.channels], [c.name.casefold() for c in present]
    cells, notes = found.cells, list(found.notes)
    if names == wanted:
        pass
    elif set(names) == set(wanted):
        order = [names.index(n) for n in wanted]
        cells = [dataclasses.replace(c, read=functools.partial(_in_order, c.read, order)) for c in cells]
    elif not all(re.fullmatch(r"channel \d+", n) for n in names):
        pairs = ", ".join(f"{a.name} as {b.name}" for a, b in zip(found.channels, present, strict=True))
        notes.append(f"The channels have other names and are taken as they come: {pairs}.")
    return dataclasses.replace(found, cells=cells, channels=tuple(present), notes=notes)


def _in_order(read: Callable[[], np.ndarray], order: Sequence[int]) -> np.ndarray:
    return read()[list(order)]


# ---- which crops, and what is known of each --------------------------------------------------------


def _find_cells(
    images: Sequence[Path], options: ImportOptions, root: Path, stack: ExitStack, n_channels: int = 0
) -> _Found:
    """The crops meant, by a table or by the names; `n_channels`: how many there have to be, if that is known."""
    if not images:
        raise InputError("There are no crops to import.")
    for path in images:
        if not path.exists():
            raise InputError(f"{path} is not there.")
    images = [p for given in images for p in _packed_in(given)]
    arrays = [p for p in images if p.suffix.lower() in ARRAY_SUFFIXES]
    if arrays and len(arrays) < len(images):
        raise InputError("Import files of arrays and files of images one after the other.")
    if arrays:
        return _of_arrays(arrays, options, n_channels)
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
        return dataclasses.replace(_whole_files(drafts, options, texts, notes), unused=_names(read.unfit))
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
    return _Found(cells, parts, notes, _names(read.unfit))


def _names(files: Sequence[Path]) -> tuple[str, ...]:
    return tuple(f.name for f in files)


def _packed_in(path: Path) -> list[Path]:
    """The zips, or files of arrays, in a folder without images; else the path itself."""
    if not path.is_dir() or any(suffix_of(p) in IMAGE_SUFFIXES for p in path.rglob("*")):
        return [path]
    for suffixes in ((".zip",), ARRAY_SUFFIXES):
        if found := sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes):
            return found
    return [path]


def _unpacked(path: Path, stack: ExitStack) -> Path:
    """A zip's images, unpacked until the project is made."""
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellrep-crops-")))
    folder = place / path.stem  # crops that lie in no folder of the zip are on a sheet of its name
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


def _of_table(path: Path, folders: Sequence[Path], options: ImportOptions) -> _Found | None:
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
    cells, lost, used = [], [], set()
    for at, row in zip(table.index, table.to_dict("records"), strict=True):
        mine = [find(row[columns[i]]) for i in order]
        gone = [str(row[columns[i]]) for i, m in zip(order, mine, strict=True) if m is None]
        if gone:
            words = (
                "the name of its file is not filled in"
                if set(gone) <= {"nan", "None", ""}
                else "the file is not there"
            )
            lost.append((int(at) + 2, gone[0], words))
            continue
        known = {str(k): v for k, v in row.items() if k not in columns}
        paths = [m for m in mine if m is not None]
        used |= set(paths)
        cells.append(_Cell(paths[0].name, functools.partial(_read_files, paths), known, paths[0].parent.name))
    notes = [f"{path.name} lists the cells; channels are its columns {', '.join(columns)}."]
    if lost:
        rows = counted([str(row) for row, *_ in lost], "row")
        notes.append(f"The files of {rows} of {path.name} are not there; left out.")
    unused = [f for f in files.values() if f not in used]
    if unused:
        notes.append(f"{len(unused):,} images are in no row of {path.name}; left out.")
    if not cells:
        raise InputError(f"None of the files that {path.name} names is there.")
    return _Found(cells, parts, notes, _names(unused), tuple(lost))


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
) -> _Found:
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
    return _Found(cells, parts, notes)


def _of_arrays(paths: Sequence[Path], options: ImportOptions, n_channels: int) -> _Found:
    cells: list[_Cell] = []
    n_channels = len(options.channels) or n_channels
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
    return _Found(cells, parts, [])


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


def _most_per_sheet(side_px: int) -> int:
    """How many crops go on a sheet: none is so large that it would have to be worked on in parts."""
    return max(1, min(MOST_PER_SHEET, (math.isqrt(slides.BIG_PX) // max(side_px, LEAST_PITCH_PX)) ** 2))


def _sheets(
    cells: Sequence[_Cell], group_by: Sequence[str], taken: Sequence[str] = (), most: int = MOST_PER_SHEET
) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]]]:
    """Sheet → its cells, in natural order of names, and sheet → what is known of all of its cells.

    `taken`: names that sheets cannot have; `most`: how many crops a sheet holds.
    """
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
    names = {t.casefold() for t in taken}
    for key, rows in keys.items():
        name = safe_id("_".join(part for part in key if part) or "cells")
        for start in range(0, len(rows), most):
            page = f"{name}_page{start // most + 1}" if len(rows) > most else name
            free, n = page, 2
            while free.casefold() in names:
                free, n = f"{page}_{n}", n + 1
            names.add(free.casefold())
            sheets[free] = rows[start : start + most]
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
    obs = table.obs
    frame.columns = [re.sub(r"\s+", " ", str(c)) for c in frame.columns]
    for column in frame.columns.difference(list(OBS_COLUMNS)):
        values = frame[column].astype(object).reindex(obs.index)
        if column in obs:  # what is known of the cells that were there stays
            values = values.where(obs.index.isin(ids) & values.notna(), obs[column].astype(object))
        present = values.dropna()
        if not present.map(lambda v: isinstance(v, Real) and not isinstance(v, bool | np.bool_)).all():
            values = values.map(str, na_action="ignore")
        elif len(present):
            values = pd.to_numeric(values)
            whole = frame[column].dtype.kind in "iu" and values.notna().all() and (values % 1 == 0).all()
            values = values.astype(np.int64) if whole else values  # gaps had made them floats
        obs[column] = values
    project.write_cells(table)
