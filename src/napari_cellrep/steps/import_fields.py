"""Image files → a project: which file is which field and channel, and what the lab knows of each.

Never torch, never Qt. Pixels stay where they are; the project remembers where.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_cellrep.data import slides
from napari_cellrep.data.fields import Field, safe_id, well_name, with_groups
from napari_cellrep.data.files import replacing
from napari_cellrep.data.images import ImageInfo, Plane, inspect_image, is_grey
from napari_cellrep.data.project import Project, create_project, open_project, project_root
from napari_cellrep.data.tables import NO_FIELD, Joined, join_table
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import Channel, InputError, counted, first_line
from napari_cellrep.steps.plan_fields import decide_channels, is_part, make_field, split_frames
from napari_cellrep.steps.read_names import ImportOptions, NamesRead, draft_files, read_names
from napari_cellrep.steps.time_series import frames_of, missing_frames, series_words

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
    how = ImportOptions(**used)
    read = read_names(images, project.root, how, there=project.fields)
    found = yield from _collect(project.root, read, how, project.channels, project.fields)
    present = {f.id.casefold(): f for f in project.fields}
    taken = [
        f.id for f in found.fields if f.id.casefold() in present and not present[f.id.casefold()].problem
    ]
    if taken:
        timed = read.regex is not None and "time" in read.regex.groupindex
        if timed and not any(f.series for f in found.fields):
            raise InputError(
                f"{project.root.name} has {counted(taken, 'field')} already, of one time point; a time series begins with two: "
                "import all of its frames into a new project, and later ones can be added."
            )
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
CROPS_PX = 128  # images of at most that side may be crops that nobody called so


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
    there: Sequence[Field] = ()
    root = Path()
    if str(project):
        opened = open_project(project)
        present, root, there = opened.channels, opened.root, opened.fields
        taken = {f.id.casefold() for f in opened.usable_fields}
        first: dict[str, Any] = next((line for line in opened.history if line["step"] == "import"), {})
        names = [f.name for f in dataclasses.fields(ImportOptions) if f.name not in ("metadata", "on")]
        before = {n: first[n] for n in names if n in first}
    used = ImportOptions(**_like_before(before, options))
    read = read_names(images, root, used, there=there)
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
        [draft_files(d) for d in read.drafts],
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
        frames = frames_of(bare)
        told = yield from _collect(root, shown.first(LOOKED_AT), used, present)
        told_of = {f.series: frames.get(f.series, []) for f in told.fields}
        gaps = missing_frames(frames_of(bare, there))
        series, n_fields = series_words(frames), len(bare)
        n_units = len(frames) + sum(not f.series for f in bare)
    else:
        told = yield from _collect(root, read.first(LOOKED_AT), used, present)
        told_of = frames_of(told.fields)
        n_units = len(read.drafts)
        n_fields = n_units - min(n_units, LOOKED_AT) + len(told.fields)
        series = series_words(told_of) + (
            " (of the files looked at)" if told_of and len(read.drafts) > LOOKED_AT else ""
        )
    hints = [
        *told.odd_files,
        *gaps,
        *(problem for problem in read.problems if "label image" in problem),
        *_held_whole(told.fields),
    ]
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
    images: Mapping[str, Any],
    channels: Sequence[Channel],
    *,
    um_per_px: float = 0.0,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    group_by: Sequence[str] = (),
    sources: Sequence[Mapping[str, Any]] = (),
) -> Job[Project]:
    """Make a project of arrays that belong to no file we read; they are written into it as OME-TIFF.

    Parameters
    ----------
    path : path
        The project's folder; ".cellrep" is added.
    images : mapping of str to array
        Field id → pixels: (C, H, W) or (H, W), or a sequence of C planes (H, W). Planes are anything with a shape, a
        dtype and slices; they are read one field after the other, those of a field larger than memory in rows of tiles.
    channels : sequence of Channel
        One per plane.
    um_per_px : float
        Pixel size in µm; 0 if unknown.
    metadata : mapping of str to mapping
        Field id → what is known of it; of a frame of a time series its ``series`` and ``frame``.
    group_by : sequence of str
        As in `import_fields`.
    sources : sequence of mapping
        Where each plane comes from, for the project's history.

    Yields
    ------
    Progress
        Once per field. The generator returns the `Project`.

    Raises
    ------
    InputError
        If there is no image, one is of another shape or kind, or cannot be read.
    """
    root = project_root(path)
    if not images:
        raise InputError("There are no images to make a project of.")
    if root.exists():
        raise InputError(f"{root} exists already; choose another name, or open it.")
    fields, planes_of = [], {}
    for name, image in images.items():
        planes = [image] if getattr(image, "ndim", 0) == 2 else list(image)
        shapes = {tuple(p.shape) for p in planes}
        shape = shapes.pop() if len(shapes) == 1 else ()
        if len(shape) != 2 or len(planes) != len(channels) or not math.prod(shape):
            found = " and ".join(" × ".join(map(str, p.shape)) for p in planes[:4])
            raise InputError(
                f"Image {name!r} has the planes {found or 'none'}; {len(channels)} channels × height × width are wanted."
            )
        dtype = _written_dtype(np.result_type(*(p.dtype for p in planes)), name)
        field_id = safe_id(name)
        planes_of[field_id] = planes
        meta = dict((metadata or {}).get(name, {}))
        if "well" in meta:
            meta["well"] = well_name(meta["well"])
        kept = tuple(Plane(f"images/{field_id}.ome.tif", c) for c in range(len(channels)))
        fields.append(Field(field_id, kept, *shape, str(dtype), um_per_px, metadata=meta))
    with replacing(root) as tmp:
        tmp.mkdir(parents=True)
        project = create_project(tmp / "p.cellrep", with_groups(fields, group_by), channels, group_by)
        (project.root / "images").mkdir()
        for i, field in enumerate(fields):
            yield Progress(i, len(fields), f"Writing {field.id}")
            _write_planes(project.root / field.planes[0].path, planes_of[field.id], field, channels)
        more = {"sources": [dict(s) for s in sources]} if sources else {}
        project.log("import", arrays=list(planes_of), n_fields=len(fields), problems=[], notes=[], **more)
        for child in list(project.root.iterdir()):
            child.rename(tmp / child.name)
        project.root.rmdir()
    yield Progress(len(fields), len(fields), f"{len(fields)} fields")
    return open_project(root)


def _written_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """The dtype that pixels are written in: OME-TIFF knows no bool and no 64-bit integers."""
    if dtype.kind not in "uifb":
        raise InputError(f"Image {name!r} holds {dtype} values; integers or floats are wanted.")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if dtype == np.float16 or dtype.itemsize == 8 else dtype.newbyteorder("=")


def _write_planes(path: Path, planes: Sequence[Any], field: Field, channels: Sequence[Channel]) -> None:
    """Write one field as OME-TIFF; one larger than memory in tiles, of which a row is held."""
    extra: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": [c.name for c in channels]}}
    if field.um_per_px > 0:
        extra |= {"PhysicalSizeX": field.um_per_px, "PhysicalSizeY": field.um_per_px}
    shape, dtype, side = (field.height_px, field.width_px), np.dtype(field.dtype), slides.CHUNK_PX

    def read(plane: Any, rows: slice) -> np.ndarray:
        try:
            return np.asarray(plane[rows, :]).astype(dtype, copy=False)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # whatever the program raises that reads it
            raise InputError(f"The pixels of {field.id} cannot be read ({first_line(error)}).") from error

    how: dict[str, Any] = {"ome": True, "compression": "zlib", "photometric": "minisblack", "metadata": extra}
    with replacing(path) as tmp:
        if math.prod(shape) <= slides.BIG_PX:
            tifffile.imwrite(tmp, np.stack([read(p, slice(None)) for p in planes]), **how)
            return
        rows = ((p, slice(y, y + side)) for p in planes for y in range(0, shape[0], side))
        tiles = (
            np.ascontiguousarray(part[:, x : x + side])
            for part in itertools.starmap(read, rows)
            for x in range(0, shape[1], side)
        )
        tifffile.imwrite(
            tmp, tiles, shape=(len(planes), *shape), dtype=dtype, tile=(side, side), bigtiff=True, **how
        )


@dataclass
class _Found:
    fields: list[Field]
    channels: tuple[Channel, ...]
    notes: list[str]
    layout: str = ""
    table_columns: tuple[str, ...] = ()
    odd_files: tuple[str, ...] = ()  # sentences, which are among the notes, too

    def report(self) -> dict[str, Any]:
        bad = [f"{f.id}: {f.problem}" for f in self.fields if f.problem]
        return {"n_fields": len(self.fields), "n_unusable": len(bad), "problems": bad, "notes": self.notes,
                "table_columns": list(self.table_columns)}  # fmt: skip


def _collect(
    root: Path,
    images: Sequence[Path | str] | NamesRead,
    options: ImportOptions,
    present: Sequence[Channel],
    there: Sequence[Field] = (),
) -> Job[_Found]:
    """Find the files, look at each, and make fields of them.

    `present`: the channels the fields have to have; `there`: the fields they come to.
    """
    read = images if isinstance(images, NamesRead) else read_names(images, root, options)
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
    wanted = list(dict.fromkeys(p for draft in drafts for p in draft_files(draft)))
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
    odd = [info.note for info in infos.values() if isinstance(info, ImageInfo) and info.note]
    if len(odd) > ODD_TOLD:
        odd = [*odd[:ODD_TOLD], f"So it is with {len(odd) - ODD_TOLD:,} more files."]
    problems += odd
    drafts = [d for d in drafts if not is_part(d, infos)]
    drafts = [frame for d in drafts for frame in split_frames(d, infos)]

    known = read.layout.channels if read.layout else {}
    order, channels = decide_channels(drafts, infos, options, by_file, present, known)
    if by_file:
        unused = Counter(v for d in drafts for v in d.files if v not in order)
        problems += [
            f"Channel {v} is not used; {n} of {len(drafts)} fields have it." for v, n in unused.items()
        ]
    fields = [make_field(d, infos, order, channels, options, root, by_file) for d in drafts]
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

    files_of = [draft_files(d) for d in drafts]
    fields, files_of, more_problems = _unique_ids(fields, [d.folder for d in drafts], files_of)
    problems += [*more_problems, *missing_frames(frames_of(fields, there))[:SERIES_TOLD]]
    problems += _held_whole(fields)
    brought: tuple[str, ...] = ()
    if options.metadata:
        joined = join_table(fields, files_of, Path(options.metadata), options.on)
        fields, brought = joined.fields, joined.columns
        problems += [*joined.notes, *worst_mistakes(joined.mistakes)]
    yield Progress(len(wanted), len(wanted), f"{len(fields)} fields")
    return _Found(fields, channels, problems, read.layout_name, brought, tuple(odd))


SERIES_TOLD = 5  # that lack frames
ODD_TOLD = 3  # files that can be read and are odd


def _held_whole(fields: Sequence[Field]) -> list[str]:
    """A sentence if slides are in files that cannot be decoded in parts."""
    plain = (".png", ".jpg", ".jpeg")
    large = [
        f for f in fields
        if f.height_px * f.width_px > slides.BIG_PX and any(p.path.lower().endswith(plain) for p in f.planes)
    ]  # fmt: skip
    if not large:
        return []
    first = large[0]
    n_bytes = first.height_px * first.width_px * len(first.planes) * np.dtype(first.dtype).itemsize
    return [
        f"{first.id} is {first.width_px:,} × {first.height_px:,} px"
        + (f", and {len(large) - 1:,} more are as large" if len(large) > 1 else "")
        + f": PNG and JPEG cannot be decoded in parts, so every step decodes all of it ({n_bytes / 1e9:.1f} GB) again and again. "
        "Convert it to OME-TIFF or OME-Zarr first (QuPath, Fiji, bfconvert)."
    ]


MISTAKES_TOLD = 5  # rows of a table that do not fit, told one by one after an import; a preview tells all


def worst_mistakes(mistakes: Sequence[tuple[int, str, str]]) -> list[str]:
    """The rows to tell one by one: all if they are few, else not those of fields that are not here, as of a whole plate."""
    told = mistakes if len(mistakes) <= MISTAKES_TOLD else [m for m in mistakes if m[2] != NO_FIELD]
    return [mistake_words(m) for m in told[:MISTAKES_TOLD]]


def mistake_words(mistake: tuple[int, str, str]) -> str:
    """One row of a table that does not fit, in words."""
    row, name, wrong = mistake
    return f"Row {row} ({name}): {wrong}."


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
