"""Image files → a project: which file is which field and channel, and what the lab knows of each.

Never torch, never Qt. Pixels stay where they are; the project remembers where.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_cellrep.data import ome_zarr, slides, vendors
from napari_cellrep.data.crop_files import ARRAY_SUFFIXES
from napari_cellrep.data.fields import Field, safe_id, well_name, with_groups
from napari_cellrep.data.files import replacing
from napari_cellrep.data.harmony import Index, find_index, read_index
from napari_cellrep.data.images import (
    GREY,
    IMAGE_SUFFIXES,
    READ,
    ImageInfo,
    Plane,
    file_of,
    inspect_image,
    is_grey,
    suffix_of,
)
from napari_cellrep.data.layouts import (
    NONE,
    Layout,
    find_layout,
    guess_layout,
    role_of,
    stain_of,
    well_of,
)
from napari_cellrep.data.load_data import Listed, is_load_data, read_load_data
from napari_cellrep.data.project import Project, create_project, open_project, project_root
from napari_cellrep.data.tables import KEYS, NO_FIELD, Joined, column_name, join_table, stem
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import Channel, InputError, counted, find_channel, join_words

# Pixels are looked at during import only while that takes seconds; above it the first step that reads a field
# finds black or broken pixels.
LOOK_PIXELS = 64_000_000


def import_fields(
    path: Path | str,
    images: Sequence[Path | str],
    *,
    channels: Sequence[str] = (),
    pattern: str = "",
    layout: str = "",
    metadata: Path | str = "",
    on: str = "",
    group_by: Sequence[str] = (),
    z: str = "",
    rgb: str = "",
    stack: str = "channel",
    um_per_px: float = 0.0,
) -> Job[Project]:
    r"""Make a project of image files.

    Nothing is on disk until every file was looked at. A field that cannot be used is kept with a sentence in
    `Field.problem`; what else was odd (rows without a field, files the pattern does not fit, …) is in the
    ``notes`` of the project's "import" history line.

    Parameters
    ----------
    path : path
        The project's folder; ".cellrep" is added.
    images : sequence of paths
        Files, folders (searched with all their folders) or globs; TIFF (also gzipped), OME-TIFF, PNG, JPEG. Of an
        OME-Zarr every image is a field: of a plate with its plate, well and site. A CSV of CellProfiler's LoadData
        (``FileName_…``, ``Metadata_…``) names the fields itself; folders beside it say where its files are now.
    channels : sequence of str
        ``name``, ``role`` or ``name:role`` in plane order. With one file per channel also ``w1=DNA:nucleus``:
        the files whose channel part is "w1". Default: the files' own channel names.
    pattern : str
        Parts of the file name: ``{plate}_{well}_{site}_{channel}.tif``, or a regular expression with named groups.
        ``field``, ``plate``, ``well``, ``site`` and any other name become metadata; ``channel`` and ``z`` tell
        which files make up one field; ``row`` and ``column`` are a well; ``time`` counts only where it varies. With
        a slash it is matched to the end of the whole path.
    layout : str
        How a microscope names its files, by the name of one of `data.layouts.LAYOUTS`; "none": every file is a
        field. Default, where there is no pattern: the one that explains most files, if it explains at least half.
    metadata : path
        CSV (comma, semicolon or tab), Excel or parquet with one row per field or well.
    on : str
        Columns to join it by, "plate+well"; default: the first that fit of plate, well and site, file, the beginning of
        the file's name (prefix), field.
    group_by : sequence of str
        Columns whose values make a group; default plate and well, else the field.
    z : str
        How z-stacks become planes: "max", "mean", "sharpest" or the number of a plane (from 0); or per channel
        "nucleus=max,protein=mean".
    rgb : str
        What a colour image is: "grey" (their mean), "split" (red, green and blue are channels) or "rgba" (alpha is a
        channel, too).
    stack : {"channel", "z", "time"}
        What an axis is that the file does not name. Every time point becomes a field, with its number (from 0) in the column
        ``frame`` and the series in ``series``.
    um_per_px : float
        Pixel size in µm, instead of the files' own.

    Yields
    ------
    Progress
        Once per file. The generator returns the `Project`.

    Raises
    ------
    InputError
        If no field can be used, or if the user has to say what stacks or colour images are.
    """
    root = project_root(path)
    if root.exists():
        raise InputError(f"{root} exists already; choose another name, or add to it.")
    options = ImportOptions(
        tuple(channels), pattern, str(metadata), on, z, rgb, stack, float(um_per_px), layout.strip().lower()
    )
    found = yield from _collect(root, images, options, ())
    fields = with_groups(found.fields, group_by)
    project = create_project(root, fields, found.channels, group_by)
    project.log("import", **{**dataclasses.asdict(options), "layout": found.layout}, **found.report())
    return project


def add_fields(project: Project, images: Sequence[Path | str], **options: Any) -> Job[Project]:
    """Add fields to a project: next week's plate, by the same rules.

    Parameters
    ----------
    project : Project
        Where they go. A field that is there with a problem is replaced; any other of the same id is refused.
    images : sequence of paths
        As in `import_fields`.
    **options
        Those of `import_fields` except `group_by`; what is not given is as in the project's own import.

    Yields
    ------
    Progress
        Once per file. The generator returns the `Project`.

    Raises
    ------
    InputError
        If an option is unknown, no field can be used, or an id is taken.
    """
    names = [f.name for f in dataclasses.fields(ImportOptions)]
    for name in options:
        if name not in names:
            raise InputError(f"There is no option {name!r} here; options are {', '.join(names)}.")
    first: dict[str, Any] = next((line for line in project.history if line["step"] == "import"), {})
    if first.get("crops"):
        raise InputError(
            f"{project.root.name} was made of ready-made crops; images of many cells do not go into it."
        )
    # The table of the first plate says nothing of the next one.
    before = {n: first[n] for n in names if n in first and n != "metadata"}
    if "on" in before and not options.get("metadata"):
        del before["on"]
    used = _like_before(before, options)
    used["metadata"] = str(used.get("metadata", ""))
    found = yield from _collect(project.root, images, ImportOptions(**used), project.channels)
    present = {f.id.casefold(): f for f in project.fields}
    taken = [
        f.id for f in found.fields if f.id.casefold() in present and not present[f.id.casefold()].problem
    ]
    if taken:
        raise InputError(
            f"{project.root.name} has {counted(taken, 'field')} already; give the new files another folder or plate, "
            "or leave these out."
        )
    new = {f.id.casefold() for f in found.fields}
    kept = [f for f in project.fields if f.id.casefold() not in new]
    project.write_fields(with_groups([*kept, *found.fields], project.group_by))
    project.log("add", **used, **found.report())
    return project


def _like_before(before: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The first import's options, and those given now; names are read by a pattern or by a layout, not by both."""
    given = {n: v for n, v in options.items() if v not in ("", (), [], 0, None)}
    named = ("pattern", "layout")
    used = {n: v for n, v in before.items() if n not in named or not any(k in given for k in named)} | given
    used["channels"] = tuple(used.get("channels", ()))
    if used.get("layout") == "table":
        del used["layout"]
    return used


LOOKED_AT = 24  # fields of which `preview_import` opens the files


def preview_import(
    images: Sequence[Path | str], *, project: Path | str = "", **options: Any
) -> Job[dict[str, Any]]:
    """Say how files would be understood, without making anything: the first fields and what is in them.

    Parameters
    ----------
    images : sequence of paths
        As in `import_fields`.
    project : path, optional
        The project they would be added to; its channels and rules apply.
    **options
        Those of `import_fields` except `group_by`.

    Yields
    ------
    Progress
        Once per file. The generator returns ``{"n_files", "n_fields", "series", "n_units", "unfit", "fit", "layout", "why",
        "channels", "lacking", "hints", "table", "mistakes", "rows"}``: how many there are; the time series among the fields
        in words ("12 series of 30 frames", "" without), and how many series and fields of none there are; the names of files
        that the pattern or layout does not fit, and of the first that it fits with what it makes of each; the layout's name
        and why it was taken; the channels in words; sentences about fields that lack a channel or have one twice; others,
        about series that lack frames and about what was left out; the table's notes and its rows that do not fit (row, what
        it names, what is wrong); and for each of the first fields (once for a series) its ``field``, ``well``, ``site``,
        ``size``, ``known`` (the other metadata) and ``problem``.

    Raises
    ------
    InputError
        As `import_fields` would.
    """
    before: dict[str, Any] = {}
    present: tuple[Channel, ...] = ()
    taken: set[str] = set()
    root = Path()
    if str(project):
        opened = open_project(project)
        present, root = opened.channels, opened.root
        taken = {f.id.casefold() for f in opened.usable_fields}
        first: dict[str, Any] = next((line for line in opened.history if line["step"] == "import"), {})
        names = [f.name for f in dataclasses.fields(ImportOptions) if f.name not in ("metadata", "on")]
        before = {n: first[n] for n in names if n in first}
    used = ImportOptions(**_like_before(before, options))
    read = read_names(images, root, used)
    if not read.drafts and not read.unfit:
        raise InputError(read.problems[0] if read.problems else "There are no images there.")
    values = [
        v for v, n in Counter(v for d in read.drafts for v in d.files).items() if 2 * n >= len(read.drafts)
    ]
    lacking = [
        f"{d.name}: {d.problem}"
        if d.problem
        else f"{d.name} has no file for channel {', '.join(v for v in values if v not in d.files)}."
        for d in read.drafts
        if read.by_file and (d.problem or any(v not in d.files for v in values))
    ]
    bare, bare_files, _ = _unique_ids(
        [Field(safe_id(d.name), (), metadata=d.metadata) for d in read.drafts],
        [d.folder for d in read.drafts],
        [_files_of(d) for d in read.drafts],
    )
    joined: Joined | None = None
    about_table: list[str] = []
    if used.metadata and read.drafts:
        # By names alone, of all fields: a row that belongs to none of the first is no mistake.
        try:
            joined = join_table(bare, bare_files, Path(used.metadata), used.on)
            about_table = joined.notes
        except InputError as error:  # the images are understood without it
            about_table, used = [str(error)], dataclasses.replace(used, metadata="", on="")
    named = {(d.folder, d.metadata["series"]): d for d in reversed(read.drafts) if "frame" in d.metadata}
    gaps: list[str] = []
    if named:  # a file per frame: the first frame of every series is looked at
        firsts = set(map(id, named.values()))
        shown = dataclasses.replace(
            read, drafts=[d for d in read.drafts if id(d) in firsts or "frame" not in d.metadata]
        )
        frames = _frames_of(bare)
        told = yield from _collect(root, shown.first(LOOKED_AT), used, present)
        told_of = {f.series: frames.get(f.series, []) for f in told.fields}
        gaps = _missing_frames(frames)
        series, n_fields = _series_words(frames), len(bare)
        n_units = len(frames) + sum(not f.series for f in bare)
    else:
        told = yield from _collect(root, read.first(LOOKED_AT), used, present)
        told_of = _frames_of(told.fields)
        n_units = len(read.drafts)
        n_fields = n_units - min(n_units, LOOKED_AT) + len(told.fields)
        series = _series_words(told_of) + (
            " (of the files looked at)" if told_of and len(read.drafts) > LOOKED_AT else ""
        )
    hints = gaps + [problem for problem in read.problems if "label image" in problem]
    largest = max((max(f.height_px, f.width_px) for f in told.fields), default=0)
    if 0 < largest <= CROPS_PX and not present and read.regex is None:
        hints.append(
            f"The images are of {largest} px at most. If each is one cell, these are ready-made crops: say so (--crops; in the "
            "window: Each image is one cell)."
        )
    rows, series_told = [], set()
    for f in told.fields:
        if f.series in series_told:
            continue
        own = ("well", "site", "plate", *(("series", "frame", "time") if f.series else ()))
        known = [f"{k} {v}" for k, v in f.metadata.items() if k not in own]
        if f.series:
            series_told.add(f.series)
            here = told_of[f.series]
            known.insert(0, f"{len(here):,} frame{'s' * (len(here) != 1)}, {min(here)} to {max(here)}")
        rows.append({
            "field": f.series or f.id,
            "well": str(f.metadata.get("well", "")),
            "site": str(f.metadata.get("site", "")),
            "size": f"{f.width_px:,} × {f.height_px:,} px" if f.width_px else "",
            "known": ", ".join(known),
            "problem": f.problem or ("in the project already" if f.id.casefold() in taken else ""),
        })  # fmt: skip
    return {
        "n_files": read.n_files, "n_fields": n_fields, "series": series, "n_units": n_units,
        "unfit": [p.name for p in read.unfit],
        "fit": [
            (p.name, ", ".join(f"{k} {v}" for k, v in [*d.metadata.items(), ("channel", value)] if v))
            for d in read.drafts[:LOOKED_AT] for value, some in d.files.items() for p in some
        ] if read.regex is not None else [],
        "layout": read.layout.name if read.layout else "", "why": read.why,
        "channels": [f"{c.name} ({c.role})" for c in told.channels], "lacking": lacking, "hints": hints,
        "table": about_table, "mistakes": joined.mistakes if joined else [], "rows": rows,
    }  # fmt: skip


def import_arrays(
    path: Path | str,
    images: Mapping[str, np.ndarray],
    channels: Sequence[Channel],
    *,
    um_per_px: float = 0.0,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    group_by: Sequence[str] = (),
) -> Project:
    """Make a project of arrays that belong to no file; they are written into it as OME-TIFF.

    Parameters
    ----------
    path : path
        The project's folder; ".cellrep" is added.
    images : mapping of str to ndarray of shape (C, H, W) or (H, W)
        Field id → pixels.
    channels : sequence of Channel
        One per plane.
    um_per_px : float
        Pixel size in µm; 0 if unknown.
    metadata : mapping of str to mapping
        Field id → what is known of it.
    group_by : sequence of str
        As in `import_fields`.

    Raises
    ------
    InputError
        If there is no image, or one is of another shape or kind.
    """
    if not images:
        raise InputError("There are no images to make a project of.")
    fields, arrays = [], {}
    for name, image in images.items():
        image = np.asarray(image)
        image = image[None] if image.ndim == 2 else image
        if image.ndim != 3 or len(image) != len(channels) or not image.size:
            raise InputError(
                f"Image {name!r} has the shape {image.shape}; {len(channels)} channels × height × width are wanted."
            )
        if image.dtype.kind not in "uifb":
            raise InputError(f"Image {name!r} holds {image.dtype} values; integers or floats are wanted.")
        if image.dtype == bool or image.dtype.itemsize == 8:  # OME-TIFF knows no bool and no 64-bit integers
            image = image.astype(np.uint8 if image.dtype == bool else np.float32)
        image = image.astype(
            np.float32 if image.dtype == np.float16 else image.dtype.newbyteorder("="), copy=False
        )
        field_id = safe_id(name)
        arrays[field_id] = image
        meta = dict((metadata or {}).get(name, {}))
        if "well" in meta:
            meta["well"] = well_name(meta["well"])
        planes = tuple(Plane(f"images/{field_id}.ome.tif", c) for c in range(len(channels)))
        fields.append(
            Field(
                id=field_id, planes=planes, height_px=image.shape[1], width_px=image.shape[2], dtype=str(image.dtype),
                um_per_px=um_per_px, metadata=meta,
            )
        )  # fmt: skip

    def write_images(root: Path) -> None:
        (root / "images").mkdir()
        for field_id, image in arrays.items():
            extra: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": [c.name for c in channels]}}
            if um_per_px > 0:
                extra |= {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px}
            with replacing(root / "images" / f"{field_id}.ome.tif") as tmp:
                tifffile.imwrite(
                    tmp, image, ome=True, compression="zlib", photometric="minisblack", metadata=extra
                )

    project = create_project(path, with_groups(fields, group_by), channels, group_by, fill=write_images)
    project.log("import", arrays=list(arrays), n_fields=len(fields), problems=[], notes=[])
    return project


# ---- from files to fields --------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportOptions:
    """How files are understood: the options of `import_fields` that a project keeps for next week's plate."""

    channels: tuple[str, ...] = ()
    pattern: str = ""
    metadata: str = ""
    on: str = ""
    z: str = ""
    rgb: str = ""
    stack: str = "channel"
    um_per_px: float = 0.0
    layout: str = ""

    def __post_init__(self) -> None:
        if self.rgb not in ("", "grey", "split", "rgba"):
            raise InputError(f'Colour images become "grey", "split" or "rgba" channels, not {self.rgb!r}.')
        if self.layout and self.layout not in (NONE, "table"):
            find_layout(self.layout)
        if self.pattern and self.layout not in ("", NONE):
            raise InputError("Give a pattern or a layout, not both: each says how the files are named.")
        if self.stack not in ("channel", "z", "time"):
            raise InputError(f'An axis without a name is "channel", "z" or "time", not {self.stack!r}.')
        if not 0 <= self.um_per_px < 1e6:
            raise InputError(f"The pixel size is {self.um_per_px}; it has to be a positive number of µm.")
        if isinstance(self.channels, str):
            raise InputError("Give channels as a list of names, one for each.")


@dataclass
class _Found:
    fields: list[Field]
    channels: tuple[Channel, ...]
    notes: list[str]
    layout: str = ""
    table_columns: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        bad = [f"{f.id}: {f.problem}" for f in self.fields if f.problem]
        return {"n_fields": len(self.fields), "n_unusable": len(bad), "problems": bad, "notes": self.notes,
                "table_columns": list(self.table_columns)}  # fmt: skip


@dataclass
class _Draft:
    """A field to be: the files that make it up, by channel value ("" without one), in z order."""

    name: str
    folder: Path
    files: dict[str, list[Path]]
    metadata: dict[str, Any]
    problem: str = ""
    asks: bool = False  # the problem is a question to the user
    pages: dict[str, int] = dataclasses.field(default_factory=dict)  # which plane of its file a channel is
    frame: int = -1  # which time point of its file it is, of a series in one file
    um_per_px: float = 0.0  # where a file beside the images says it


def _files_of(draft: _Draft) -> list[Path]:
    return [p for some in draft.files.values() for p in some]


@dataclass
class _Read:
    """What the names of the files say, before any is opened."""

    drafts: list[_Draft]
    unfit: list[Path]
    problems: list[str]
    n_files: int
    regex: re.Pattern[str] | None = None
    layout: Layout | None = None
    why: str = ""
    of_table: bool = False  # a table names files and channels

    @property
    def by_file(self) -> bool:
        """Whether a file is one channel."""
        return self.of_table or (self.regex is not None and "channel" in self.regex.groupindex)

    @property
    def layout_name(self) -> str:
        """For the project's history: next week's plate is read the same way."""
        if self.of_table:
            return "table"
        return self.layout.name if self.layout else "" if self.regex is not None else NONE

    def first(self, n: int) -> _Read:
        """The first fields only."""
        return dataclasses.replace(self, drafts=self.drafts[:n], unfit=[] if self.drafts else self.unfit)


def read_names(
    images: Sequence[Path | str], root: Path, options: ImportOptions, crops: bool = False
) -> _Read:
    """Find the files, and say by their names alone which make up a field (or, of `crops`, a cell)."""
    given = [images] if isinstance(images, str | Path) else list(images)
    tables = [Path(g).expanduser() for g in given if is_load_data(Path(g).expanduser())]
    if tables:
        rest = [g for g in given if Path(g).expanduser() not in tables]
        files, problems = _find_files(rest, root) if rest else ({}, [])
        drafts: list[_Draft] = []
        for table in tables:
            listed, notes = read_load_data(table, list(files))
            drafts += [_listed_draft(one) for one in listed]
            problems += notes
        n = len({p for d in drafts for p in _files_of(d)})
        why = f"{', '.join(t.name for t in tables)} lists fields as CellProfiler's LoadData."
        return _Read(drafts, [], problems, n, why=why, of_table=True)
    files, problems = _find_files(given, root)
    regex, layout, why = _read_pattern(options.pattern), None, ""
    if regex is None and options.layout != NONE:
        if options.layout and options.layout != "table":
            layout = find_layout(options.layout)
            why = f"Named as by {layout.title}, as you said."
        elif guess := guess_layout([p for p in files if suffix_of(p) in IMAGE_SUFFIXES], crops):
            layout, why = guess.layout, guess.why
    kept = list(files)
    if layout is not None:
        regex = layout.regex
        kept = [p for p in kept if not layout.leaves_out(p)]
    if regex is None and not crops and (labels := _label_images(kept)):
        kept = [p for p in kept if p not in set(labels)]
        verb = "is a label image" if len(labels) == 1 else "are label images"
        problems.append(
            f"By their names {counted([p.name for p in labels], 'file')} {verb} of others; left out (the segmenter imported "
            "takes them)."
        )
    drafts, unfit = _draft_fields({p: files[p] for p in kept}, regex)
    if layout is not None and layout.harmony:
        layout, said = _with_index(drafts, layout)
        why, problems = " ".join(filter(None, (why, said.pop(0)))), problems + said
    return _Read(drafts, unfit, problems, len(files), regex, layout, why)


def _with_index(drafts: Sequence[_Draft], layout: Layout) -> tuple[Layout, list[str]]:
    """Add what indices of Harmony's beside the images know: channels to the layout, the rest to the drafts.

    Where plates number their channels differently, all are renumbered as the first. Returns the layout, what was read in
    words ("" for nothing), and sentences on what could not be.
    """
    indices: dict[Path, Index] = {}
    notes: list[str] = []
    for folder in dict.fromkeys(p.parent for d in drafts for p in _files_of(d)):
        if (path := find_index(folder)) is None:
            continue
        try:
            indices[folder] = read_index(path)
        except InputError as error:
            notes.append(str(error))
    if not indices:
        return layout, ["", *notes]
    first = next(iter(indices.values())).channels
    numbers = {name: number for number, name in first.items()}
    other = set()
    for draft in drafts:
        files = _files_of(draft)
        index = indices.get(files[0].parent)
        if index is None:
            continue
        draft.um_per_px = index.um_per_px
        if index.plate:
            draft.metadata.setdefault("plate", index.plate)
        if files[0].name in index.positions:
            draft.metadata["stage_x_um"], draft.metadata["stage_y_um"] = index.positions[files[0].name]
        if dict(index.channels) != dict(first) and set(index.channels.values()) & set(numbers):
            other.add(index.plate or index.path.parent.name)
            names = {value: index.channels.get(value.lstrip("0"), "") for value in draft.files}
            draft.files = {numbers.get(names[v], names[v] or v): some for v, some in draft.files.items()}
    if other:
        notes.append(
            f"The channels of {counted(sorted(other), 'plate')} have other numbers than those of the first; they were put "
            "together by their names."
        )
    channels = {number: stain_of(name, layout) for number, name in first.items()}
    if len({text.partition(":")[0] for text in channels.values()}) < len(channels):  # a dye twice
        channels = {number: f"{name}:{role_of(name)}" for number, name in first.items()}
    files_read = ", ".join(dict.fromkeys(i.path.name for i in indices.values()))
    said = f"Names of channels, pixel size and positions are from {files_read}."
    return dataclasses.replace(layout, channels=channels), [said, *notes]


def _listed_draft(listed: Listed) -> _Draft:
    known = {column_name(k): v for k, v in listed.metadata.items()}
    if "well" in known:
        known["well"] = well_name(known["well"])
    parts = [str(known[k]) for k in KEYS if k in known]
    one = next(iter(listed.files.values()))
    alone = stem(one) if file_of(one) == one else f"{stem(file_of(one))}_{one.name}"
    name = "_".join(parts) if len(parts) > 1 else alone
    files = {c: [p] for c, p in listed.files.items()}
    return _Draft(name, listed.folder, files, known, pages=dict(listed.pages))


def _collect(
    root: Path, images: Sequence[Path | str] | _Read, options: ImportOptions, present: Sequence[Channel]
) -> Job[_Found]:
    """Find the files, look at each, and make fields of them. `present`: the channels the fields have to have."""
    read = images if isinstance(images, _Read) else read_names(images, root, options)
    drafts, unfit, problems, by_file = read.drafts, read.unfit, list(read.problems), read.by_file
    if read.why:
        problems.insert(0, read.why)
    if unfit:
        what = f"The layout {read.layout.name}" if read.layout else "The pattern"
        problems.append(f"{what} does not fit {counted([p.name for p in unfit], 'file')}; left out.")
    if not drafts:
        if unfit:
            what = f"layout {read.layout.name!r}" if read.layout else f"pattern {options.pattern!r}"
            raise InputError(f"The {what} fits none of {len(unfit)} files; one is {unfit[0].name!r}.")
        raise InputError(problems[-1] if problems else "There are no images to import.")
    if read.layout is not None:
        options = dataclasses.replace(
            options, channels=options.channels or read.layout.planes, rgb=options.rgb or read.layout.rgb, layout="", pattern=""
        )  # fmt: skip

    infos: dict[Path, ImageInfo | str] = {}
    wanted = list(dict.fromkeys(p for draft in drafts for p in _files_of(draft)))
    for i, file in enumerate(wanted):
        yield Progress(i, len(wanted), f"Reading {file.name}")
        try:
            info = inspect_image(file, stack=options.stack)
            shape = (info.height_px, info.width_px)
            whole = info.height_px * info.width_px <= slides.BIG_PX
            parts = [None] if whole else [box for row in slides.windows(shape, 512, 4) for box in row]
            if info.colour and not options.rgb and is_grey(file, parts):
                info = dataclasses.replace(info, colour=False, n_channels=1)
            infos[file] = info
        except InputError as error:
            infos[file] = str(error)
    drafts = [d for d in drafts if not _is_part(d, infos)]
    drafts = [frame for d in drafts for frame in _frames(d, infos)]

    known = read.layout.channels if read.layout else {}
    order, channels = _decide_channels(drafts, infos, options, by_file, present, known)
    if by_file:
        unused = Counter(v for d in drafts for v in d.files if v not in order)
        problems += [
            f"Channel {v} is not used; {n} of {len(drafts)} fields have it." for v, n in unused.items()
        ]
    fields = [_make_field(d, infos, order, channels, options, root, by_file) for d in drafts]
    usable = [f for f in fields if not f.problem]
    asking = [d for d in drafts if d.asks]
    if len(asking) * 2 > len(drafts) or (asking and not usable):
        raise InputError(asking[0].problem)

    if sum(f.height_px * f.width_px * len(f.planes) for f in usable) <= LOOK_PIXELS:
        for i, f in enumerate(fields):
            if not f.problem:
                yield Progress(i, len(fields), f"Looking at {f.id}")
                try:
                    f.read(root)
                except InputError as error:
                    fields[i] = dataclasses.replace(f, problem=str(error).removeprefix(f"Field {f.id}: "))
    if all(f.problem for f in fields):
        more = f" (and {len(fields) - 1} more fields with problems)" if len(fields) > 1 else ""
        raise InputError(f"None of the fields can be used: {fields[0].problem.rstrip('.')}{more}.")

    files_of = [_files_of(d) for d in drafts]
    fields, files_of, more_problems = _unique_ids(fields, [d.folder for d in drafts], files_of)
    problems += [*more_problems, *_missing_frames(_frames_of(fields))[:SERIES_TOLD]]
    brought: tuple[str, ...] = ()
    if options.metadata:
        joined = join_table(fields, files_of, Path(options.metadata), options.on)
        fields, brought = joined.fields, joined.columns
        problems += [*joined.notes, *worst_mistakes(joined.mistakes)]
    yield Progress(len(wanted), len(wanted), f"{len(fields)} fields")
    return _Found(fields, channels, problems, read.layout_name, brought)


SERIES_TOLD = 5  # that lack frames


def _frames_of(fields: Sequence[Field]) -> dict[str, list[int]]:
    """Series → the frames of it that there are."""
    found: dict[str, list[int]] = {}
    for f in fields:
        if f.series:
            found.setdefault(f.series, []).append(int(f.metadata["frame"]))
    return found


MISTAKES_TOLD = 5  # rows of a table that do not fit, told one by one after an import; a preview tells all


def worst_mistakes(mistakes: Sequence[tuple[int, str, str]]) -> list[str]:
    """The rows to tell one by one: all if they are few, else not those of fields that are not here, as of a whole plate."""
    told = mistakes if len(mistakes) <= MISTAKES_TOLD else [m for m in mistakes if m[2] != NO_FIELD]
    return [mistake_words(m) for m in told[:MISTAKES_TOLD]]


def mistake_words(mistake: tuple[int, str, str]) -> str:
    """One row of a table that does not fit, in words."""
    row, name, wrong = mistake
    return f"Row {row} ({name}): {wrong}."


def _find_files(images: Sequence[Path | str], root: Path) -> tuple[dict[Path, Mapping[str, str]], list[str]]:
    """Every image file meant, in natural order within each thing given, with its place on a plate; what was not found."""
    found: dict[Path, Mapping[str, str]] = {}
    problems = []
    for given in images:
        path = Path(os.path.normpath(Path(given).expanduser().absolute()))
        here: dict[Path, Mapping[str, str]] = {}
        if path.is_dir():
            here = _search(path)
            if not here and any(p.suffix.lower() in PACKED_CROPS for p in path.iterdir()):
                problems.append(f"There are no images in {path}, but packed files. {_OR_CROPS}")
            elif not here:
                problems.append(f"There are no images ({READ}) in {path}.")
        elif not path.exists() and glob.has_magic(str(path)):
            for match in glob.glob(str(path), recursive=True):  # noqa: PTH207  (Path.glob takes no absolute pattern)
                at = Path(match)
                here |= _search(at) if at.is_dir() else {at: {}} if suffix_of(at) in IMAGE_SUFFIXES else {}
            if not here:
                problems.append(f"No image is called {given}.")
        elif path.exists() and path.suffix.lower() in PACKED_CROPS:
            problems.append(f"{path.name} is not an image. {_OR_CROPS}")
        elif path.exists() and suffix_of(path) not in IMAGE_SUFFIXES:
            problems.append(f"{path.name} is not an image we read; use {READ}.")
        elif not path.exists() and not path.suffix:
            problems.append(f"{path} is not there.")
        else:
            here = {path: {}}  # a file that is missing becomes a field with a problem
        for file in sorted(here, key=_natural):
            if not file.is_relative_to(root):
                inside = vendors.find_images(file) if file.suffix.lower() in vendors.READERS else [file]
                found |= dict.fromkeys(inside, here[file])
    return found, problems


PACKED_CROPS = (".zip", *ARRAY_SUFFIXES)
_OR_CROPS = "If each picture is one cell, these are ready-made crops: say so (--crops; in the window: Each image is one cell)."
CROPS_PX = 128  # images of at most that side may be crops that nobody called so
# What programs add to the name of an image for its label image.
_OF_LABELS = re.compile(r"(.+?)[_-](?:cp_masks|masks?|labels?)", re.IGNORECASE)
_OF_IMAGE = re.compile(r"[_-](?:img|image|raw)$", re.IGNORECASE)


def _label_images(files: Collection[Path]) -> list[Path]:
    """Files that by their names are label images of others beside them: ``a_mask.png`` beside ``a.png`` or ``a_img.png``."""
    images = {(p.parent, _OF_IMAGE.sub("", stem(p)).casefold()) for p in files}
    return [
        p for p in files
        if (match := _OF_LABELS.fullmatch(stem(p))) and (p.parent, match[1].casefold()) in images
    ]  # fmt: skip


def _search(folder: Path) -> dict[Path, Mapping[str, str]]:
    """Images below a folder; hidden ones and projects left out, links to folders followed once."""
    files: dict[Path, Mapping[str, str]] = {}
    if ome_zarr.is_zarr(folder):
        files.update(ome_zarr.find_images(folder))
        return files
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [n for n in folders if not n.startswith(".") and not n.endswith(".cellrep")]
        zarrs = {n for n in folders if ome_zarr.is_zarr(Path(here, n))}
        for n in sorted(zarrs):
            files.update(ome_zarr.find_images(Path(here, n)))
        folders[:] = [n for n in folders if n not in zarrs]
        for n in names:
            if not n.startswith(".") and suffix_of(Path(n)) in IMAGE_SUFFIXES:
                files[Path(here, n)] = {}
    return files


def _natural(key: Any) -> list[Any]:
    """Sort key: "s2" before "s10"."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", str(key))
        if part
    ]


def _read_pattern(pattern: str) -> re.Pattern[str] | None:
    """Regular expression of a pattern in either form; matched with `search` to a name, or a path if it has a slash."""
    if not pattern:
        return None
    text = pattern
    if "(?P<" not in pattern:
        parts = re.split(r"(\{\w+\}|\*)", pattern)
        text, seen = "", set()
        for part in parts:
            if part == "*":
                text += "[^/]*"
            elif part.startswith("{") and part.endswith("}"):
                name = part[1:-1]
                well = r"[A-Za-z]{1,2}[-_ ]?\d{1,3}"
                text += (
                    f"(?P={name})" if name in seen else f"(?P<{name}>{well if name == 'well' else '[^/]+'})"
                )
                seen.add(name)
            else:
                text += re.escape(part)
        if not seen:
            raise InputError(
                f"The pattern {pattern!r} names no part of the file name; write it like {{well}}_{{site}}_{{channel}}.tif."
            )
        suffix = "" if Path(pattern).suffix.lower() in IMAGE_SUFFIXES else r"(?:\.\w+)*"
        text = f"(?:^|/){text}{suffix}$"
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"The pattern {pattern!r} is not a regular expression ({error}).") from None


def _draft_fields(
    files: Mapping[Path, Mapping[str, str]], regex: re.Pattern[str] | None
) -> tuple[list[_Draft], list[Path]]:
    """Put files together that belong to one field; and the files that the pattern does not fit.

    `files`: each with its place on a plate, where its format says it.
    """
    if regex is None:
        drafts = []
        for p, place in files.items():
            name = stem(p)
            if vendors.file_of(p) not in (None, p):
                name = f"{stem(p.parent)}_{p.name}"
            known = {"well": well_name(name)} if _is_well(name) else {}
            if place:
                name, known = "_".join(place.values()), {**place, "well": well_name(place["well"])}
            drafts.append(_Draft(name, p.parent, {"": [p]}, known))
        return drafts, []
    whole_path = "/" in regex.pattern.replace("[^/]", "").replace("(?:^|/)", "", 1)
    made: dict[tuple[Any, ...], _Draft] = {}
    depth: dict[tuple[Any, ...], list[tuple[Any, str, Path]]] = {}
    unfit, matches = [], []
    for p in files:
        text = p.as_posix() if whole_path else (vendors.file_of(p) or p).name
        match = regex.search(text)
        if match is None:
            unfit.append(p)
        else:
            matches.append((p, text, match))
    times = {time for *_, match in matches if (time := match.groupdict().get("time"))}
    as_frames = _are_frames(times)
    for p, text, match in matches:
        parts = {k: v for k, v in match.groupdict().items() if v is not None and k not in ("channel", "z")}
        time = parts.pop("time", "") if as_frames or len(times) < 2 else ""
        if vendors.file_of(p) not in (None, p):
            parts["scene"] = p.name.removeprefix("scene-")
        if "well" not in parts and {"row", "column"} <= set(parts):
            parts["well"] = well_of(parts.pop("row"), parts.pop("column"))
        if "well" in parts:
            parts["well"] = well_name(parts["well"])
        if whole_path:
            start = match.start() + 1 if text[match.start()] == "/" else match.start()
            before = text[:start].rpartition("/")[0] if start else ""
            folder = Path(before or p.anchor)
        else:
            folder = p.parent
        if "field" in parts:
            name = parts["field"]
        elif parts:
            first = [parts[k] for k in KEYS if k in parts]
            name = "_".join(first + [v for k, v in parts.items() if k not in KEYS])
        else:
            name = _without(text, match).rpartition("/")[2]
        said: dict[str, Any] = {column_name(k): v for k, v in parts.items() if k != "field"}
        if as_frames and time:
            frame = _number_in(time)
            said |= {"series": name, "frame": frame, "time": frame}
            name = _frame_id(name, frame, max(map(_number_in, times)))
        key = (folder, name, *sorted(parts.items()))
        draft = made.setdefault(key, _Draft(name, folder, {}, said))
        at = match.groupdict().get("z") or ""
        channel = match.groupdict().get("channel") or ""
        draft.files.setdefault(channel, [])
        depth.setdefault((key, channel), []).append((_natural(at), at, p))
    for (key, channel), some in depth.items():
        some.sort(key=lambda item: item[0])
        made[key].files[channel] = [p for _, _, p in some]
        if len({at for _, at, _ in some}) < len(some):
            made[key].problem = (
                f"Several files are the same part of it ({counted([p.name for _, _, p in some], 'file')}); "
                "make the pattern tell them apart."
            )
    return list(made.values()), unfit


def _are_frames(times: Collection[str]) -> bool:
    """Whether the times in names number frames: several, of one form, such as T0001 and T0002, or 0h and 24h."""
    forms = {re.sub(r"\d+", "0", time, count=1) for time in times}
    return len(times) > 1 and len(forms) == 1 and forms.pop().count("0") == 1


def _number_in(time: str) -> int:
    """The number of a time as `_are_frames` takes it."""
    return int(re.sub(r"\D", "", time))


def _frame_id(series: str, frame: int, last: int) -> str:
    """The name of one time point of a series."""
    return f"{series}_t{frame:0{max(3, len(str(last)))}d}"


def _series_words(frames: Mapping[str, Collection[int]]) -> str:
    """Series → their frames, in words: "12 series of 30 frames"."""
    if not frames:
        return ""
    counts = sorted({len(some) for some in frames.values()})
    many = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{len(frames):,} series of {many} frame{'s' * (counts[-1] != 1)}"


def _missing_frames(frames: Mapping[str, Collection[int]]) -> list[str]:
    """Sentences about series that lack a frame: one that another series has, or a gap in steps that are else even."""
    there = {t for some in frames.values() for t in some}
    steps = Counter(b - a for some in frames.values() for a, b in itertools.pairwise(sorted(set(some))))
    step, n = max(steps.items(), key=lambda item: item[1], default=(1, 0))
    between = set(range(min(there, default=0), max(there, default=-1) + 1, step))
    wanted = there | between if n >= EVEN_SHARE * steps.total() and there <= between else there
    lacking = {name: sorted(wanted - set(some)) for name, some in frames.items()}
    return [
        f"Series {name} has no frame {join_words(map(str, some), FRAMES_TOLD)}."
        for name, some in lacking.items()
        if some
    ]


EVEN_SHARE = 0.8  # of the steps from frame to frame; 0, 6, 12 and 24 h are chosen, not gaps
FRAMES_TOLD = 8  # of those a series lacks


def _without(text: str, match: re.Match[str]) -> str:
    """The text less its channel, z and time parts, for a name when the pattern gives none."""
    spans = sorted(
        (match.span(k) for k in ("channel", "z", "time") if match.groupdict().get(k)), reverse=True
    )
    text = text[: -len(Path(text).suffix)] if Path(text).suffix else text
    for a, b in spans:
        text = text[:a].rstrip("_- ") + text[b:]
    return text.removesuffix(".ome") or "field"


def _is_well(text: str) -> bool:
    """Whether a whole file name is a well of a plate of up to 1536 wells."""
    match = re.fullmatch(r"([A-Za-z]|[Aa][A-Fa-f])(\d{1,2})", text)
    return bool(match) and 1 <= int(match[2]) <= 48  # type: ignore[index]


def _is_part(draft: _Draft, infos: Mapping[Path, ImageInfo | str]) -> bool:
    """Whether the field is only a further file of a multi-file OME-TIFF whose first file is imported too."""
    if list(draft.files) != [""] or len(draft.files[""]) != 1:
        return False
    path = draft.files[""][0]
    info = infos[path]
    return (
        isinstance(info, ImageInfo)
        and len(info.files) > 1
        and info.files[0] != path.name
        and (path.with_name(info.files[0]) in infos)
    )


def _frames(draft: _Draft, infos: Mapping[Path, ImageInfo | str]) -> list[_Draft]:
    """A time series in one file as one field per time point, called ``<name>_t<frame>``; anything else as it is."""
    counts = {i.n_t for some in draft.files.values() for p in some if isinstance(i := infos[p], ImageInfo)}
    if counts <= {1}:
        return [draft]
    if len(counts) > 1:
        words = " and ".join(map(str, sorted(counts)))
        return [
            dataclasses.replace(
                draft, problem=f"Its files have {words} time points; the same number is wanted."
            )
        ]
    if "frame" in draft.metadata:
        problem = "Its file is a time series and one of several time points by its name; only one of the two is possible."
        return [dataclasses.replace(draft, problem=problem)]
    n = counts.pop()
    return [
        dataclasses.replace(
            draft,
            name=_frame_id(draft.name, t, n - 1),
            metadata={**draft.metadata, "series": draft.name, "frame": t},
            frame=t,
        )
        for t in range(n)
    ]


# ---- channels --------------------------------------------------------------------------------------


def _decide_channels(
    drafts: Sequence[_Draft],
    infos: Mapping[Path, ImageInfo | str],
    options: ImportOptions,
    by_file: bool,
    present: Sequence[Channel],
    known: Mapping[str, str],
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    """The project's channels, and for each what it is called in the files (value of the pattern, or name).

    `known`: what the layout says of values.
    """
    if by_file:
        return channels_by_file(drafts, options.channels, present, known)
    looks = Counter(_planes_of(d, infos, options) for d in drafts)
    looks.pop((), None)
    if not looks:
        names: tuple[str, ...] = ("channel 0",)  # nothing is readable; said by the caller
        return names, tuple(Channel(n) for n in names)
    if any("=" in text for text in options.channels):
        raise InputError(
            f"{next(t for t in options.channels if '=' in t)!r} is for patterns with a {{channel}}; "
            "without one, give names in plane order."
        )
    given = tuple(Channel.parse(text) for text in options.channels) or tuple(present)
    names = looks.most_common(1)[0][0]
    if given:
        if all(len(look) != len(given) for look in looks):
            colour = [p for p, i in infos.items() if isinstance(i, ImageInfo) and i.colour]
            if colour and not options.rgb and len(given) == 3:
                raise InputError(
                    f"{colour[0].name} is a colour image and there are names for 3 channels; if red, green and blue "
                    "are these channels, say so: split (--rgb split)."
                )
            raise InputError(
                f"There are names for {len(given)} channels ({', '.join(c.name for c in given)}) and the files have "
                f"{len(names)} ({', '.join(names)})."
            )
        names = next(look for look, _ in looks.most_common() if len(look) == len(given))
    if present and len(given) != len(present):
        raise InputError(f"The project has {len(present)} channels and the new files have {len(given)}.")
    if present:
        return names, tuple(present)
    return names, given or tuple(Channel.parse(_channel_text(n)) for n in names)


def _channel_text(name: str) -> str:
    """A file's channel name as `Channel.parse` text: a colon in it is no role."""
    return f"{name}:{role_of(name)}"


def channels_by_file(
    drafts: Sequence[_Draft], texts: Sequence[str], present: Sequence[Channel], known: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    """The channels where each file is one, and the value of each in the names; `known`: what a layout says of values."""
    counts = Counter(value for d in drafts for value in d.files)
    values = sorted((v for v, n in counts.items() if n * 2 >= len(drafts)), key=_natural)
    values = values or sorted(counts, key=_natural)
    pairs = [text.partition("=") for text in texts]
    if pairs and all(sep for _, sep, _ in pairs):
        order = [value.strip() for value, _, _ in pairs]
        lower = {v.casefold(): v for v in counts}
        for i, value in enumerate(order):
            if value.casefold() not in lower:
                raise InputError(f"No file has the channel {value!r}; there are {', '.join(sorted(counts))}.")
            order[i] = lower[value.casefold()]
        channels = [Channel.parse(text) for _, _, text in pairs]
    elif any(sep for _, sep, _ in pairs):
        raise InputError("Write every channel as value=name:role, or none of them.")
    elif texts:
        channels = [Channel.parse(text) for text in texts]
        by_name = {v.casefold(): v for v in counts}
        if all(c.name.casefold() in by_name for c in channels):
            order = [by_name[c.name.casefold()] for c in channels]
        elif len(channels) == len(values):
            order = values
        else:
            raise InputError(
                f"There are names for {len(channels)} channels and files for {len(values)} ({', '.join(values)}); "
                "say which is which: value=name:role."
            )
    else:
        words = [known.get(v.lower().lstrip("0") or v) for v in values]
        order = values
        channels = [
            Channel.parse(word or _channel_text(v or "channel 0"))
            for word, v in zip(words, values, strict=True)
        ]
    if present:
        called = {c.name.casefold(): v for c, v in zip(channels, order, strict=True)}
        if known and all(
            c.name.casefold() in called for c in present
        ):  # this plate may number them differently
            order = [called[c.name.casefold()] for c in present]
        if len(order) != len(present):
            raise InputError(f"The project has {len(present)} channels and the new files have {len(order)}.")
        channels = list(present)
    return tuple(order), tuple(channels)


def _planes_of(
    draft: _Draft, infos: Mapping[Path, ImageInfo | str], options: ImportOptions
) -> tuple[str, ...]:
    """Names of a file's planes, as the file calls them; () when it is not readable."""
    first = next(iter(draft.files.values()))[0]
    info = infos[first]
    if isinstance(info, str):
        return ()
    if info.colour:
        if options.rgb not in ("split", "rgba"):
            return ("grey",)
        return ("red", "green", "blue", "alpha")[: info.n_channels if options.rgb == "rgba" else 3]
    if len(set(info.channel_names)) == info.n_channels:
        return info.channel_names
    return tuple(f"channel {i}" for i in range(info.n_channels))


def _make_field(
    draft: _Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: ImportOptions,
    root: Path,
    by_file: bool,
) -> Field:
    """A field of a draft, or one with a problem, and then without planes: no step shall read half of it."""
    info: ImageInfo | None
    try:
        planes, info = _plan(draft, infos, order, channels, options, root, by_file)
        planes = tuple(dataclasses.replace(p, t=max(draft.frame, 0)) for p in planes)
        problem = draft.problem
    except InputError as error:
        files = [p for some in draft.files.values() for p in some]
        planes = ()
        info = next((i for p in files if isinstance(i := infos[p], ImageInfo)), None)
        problem = draft.problem = draft.problem or str(error)
    return Field(
        id=safe_id(draft.name),
        planes=planes,
        height_px=info.height_px if info else 0,
        width_px=info.width_px if info else 0,
        dtype=info.dtype if info else "",
        um_per_px=options.um_per_px or (info.um_per_px if info else 0.0) or draft.um_per_px,
        metadata=draft.metadata,
        problem=problem,
        stack=options.stack,
    )


def _plan(
    draft: _Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: ImportOptions,
    root: Path,
    by_file: bool,
) -> tuple[tuple[Plane, ...], ImageInfo]:
    """Where each channel of a field is."""
    if draft.problem:
        raise InputError(draft.problem)
    planes, first, size = [], None, None
    for i, channel in enumerate(channels):
        value = order[i] if by_file else ""
        if value not in draft.files:
            have = ", ".join(sorted(draft.files))
            raise InputError(f"It has no file for channel {value or channel.name} (there are: {have}).")
        files = draft.files[value]
        for file in files:
            info = infos[file]
            if isinstance(info, str):
                raise InputError(info)
            if info.colour and not options.rgb:
                draft.asks = True
                raise InputError(
                    f"{file.name} is a colour image; say what to make of it: grey (one channel), or split "
                    "(red, green and blue are channels)."
                )
            if size and size != (info.height_px, info.width_px):
                raise InputError(
                    f"Its channels differ in size: {file.name} is {info.width_px}×{info.height_px} px, another "
                    f"{size[1]}×{size[0]} px."
                )
            size = (info.height_px, info.width_px)
        info = infos[files[0]]
        assert not isinstance(info, str)
        first = first or info
        n_z = info.n_z if len(files) == 1 else len(files)
        if len(files) > 1 and info.n_z > 1:
            raise InputError(
                f"{files[0].name} is a z-stack and one of several z files; only one of the two is possible."
            )
        word = _z_word(options.z, channel, channels) if n_z > 1 else ""
        if n_z > 1 and info.n_channels == 1 and draft.pages.get(value, -1) >= 0:
            word = str(draft.pages[value])
        if n_z > 1 and not word:
            draft.asks = True
            raise InputError(
                f"{files[0].name} is {'a stack' if len(files) == 1 else 'one of a stack'} of {n_z} planes; say how to "
                f"flatten it: max, mean, sharpest, or a plane from 0 to {n_z - 1}."
            )
        if word.isdigit() and int(word) >= n_z:
            raise InputError(f"It has z planes 0 to {n_z - 1}; number {word} is not among them.")
        where = "\n".join(_where(p, root) for p in files)
        if by_file:
            if len(info.files) > 1:
                raise InputError(
                    f"{files[0].name} is part of a multi-file OME-TIFF; import it without a pattern."
                )
            grey = info.colour and options.rgb == "grey"
            page = draft.pages.get(value, -1)
            if page >= 0 and info.n_channels > 1:
                if page >= info.n_channels:
                    raise InputError(
                        f"{files[0].name} has planes 0 to {info.n_channels - 1}; number {page} is not among them."
                    )
                planes.append(Plane(where, page, word))
                continue
            if info.n_channels > 1 and not grey:
                raise InputError(
                    f"{files[0].name} holds {info.n_channels} channels; the pattern says that each file is one channel."
                )
            planes.append(Plane(where, GREY if grey else 0, word))
        else:
            names = _planes_of(draft, infos, options)
            planes.append(Plane(where, _plane_index(names, order, i, options), word))
            if info.colour and options.rgb == "grey":
                planes[-1] = dataclasses.replace(planes[-1], channel=GREY)
    assert first is not None
    return tuple(planes), first


def _plane_index(names: Sequence[str], order: Sequence[str], i: int, options: ImportOptions) -> int:
    """Index in this file of what is plane `i` elsewhere: by name where the names say so, else by place."""
    if len(names) != len(order):
        raise InputError(
            f"It has {len(names)} channel{'s' * (len(names) != 1)} ({', '.join(names)}); the others have "
            f"{len(order)} ({', '.join(order)})."
        )
    if set(names) == set(order):
        return list(names).index(order[i])  # a file may hold them in another order
    if not options.channels and not all(n.startswith("channel ") for n in (*names, *order)):
        raise InputError(f"Its channels are {', '.join(names)}; those of the others are {', '.join(order)}.")
    return i


def _z_word(z: str, channel: Channel, channels: Sequence[Channel]) -> str:
    """How this channel's stack is flattened."""
    if not z:
        return ""
    if "=" not in z:
        words = {"": z}
    else:
        pairs = [part.partition("=") for part in z.split(",") if part.strip()]
        words = {key.strip(): value for key, _, value in pairs}
        for key in words:
            if key:
                find_channel(channels, key)
    mine = [w for k, w in words.items() if k and channels[find_channel(channels, k)] == channel]
    word = (mine[0] if mine else words.get("", "")).strip().lower()
    if word and word not in ("max", "mean", "sharpest") and not word.isdigit():
        raise InputError(
            f"A z-stack is flattened by max, mean, sharpest or the number of a plane, not {word!r}."
        )
    return word


def _where(path: Path, root: Path) -> str:
    """Path as the project keeps it: relative where both can be moved together, else absolute."""
    if path.is_relative_to(root.parent):
        return Path(os.path.relpath(path, root)).as_posix()
    return path.as_posix()


def _unique_ids(
    fields: Sequence[Field], folders: Sequence[Path], files: Sequence[list[Path]]
) -> tuple[list[Field], list[list[Path]], list[str]]:
    """Make ids differ by putting folder names in front; what cannot be told apart is left out and reported.

    Ids that differ only in case count as one: their label files would be one file on Windows and macOS.
    """
    ids = [f.id for f in fields]
    for depth in range(max((len(p.parts) for p in folders), default=0) - 1):
        alike: dict[str, list[int]] = {}
        for k, name in enumerate(ids):
            alike.setdefault(name.casefold(), []).append(k)
        for some in alike.values():
            if len({folders[k] for k in some}) > 1:
                for k in some:
                    ids[k] = safe_id("_".join([*folders[k].parts[1:][-1 - depth :][:1], ids[k]]))
    seen: dict[str, Path] = {}
    out, out_files, problems = [], [], []
    for name, field, mine in zip(ids, fields, files, strict=True):
        if name.casefold() in seen:
            problems.append(
                f"{mine[0].name} and {seen[name.casefold()].name} would both be field {name}; the first was left out."
            )
            continue
        seen[name.casefold()] = mine[0]
        field = dataclasses.replace(field, id=name)
        if (
            "series" in field.metadata and field.series
        ):  # folders in front of the id are in front of the series, too
            field = dataclasses.replace(field, metadata={**field.metadata, "series": field.series})
        out.append(field)
        out_files.append(mine)
    return out, out_files, problems
