"""Image files → a project: which file is which field and channel, and what the lab knows of each.

Never torch, never Qt. Pixels stay where they are; the project remembers where.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from napari_cellrep.data import ome_zarr
from napari_cellrep.data.cells import OBS_COLUMNS
from napari_cellrep.data.fields import OWN_COLUMNS, Field, safe_id, well_name, with_groups
from napari_cellrep.data.files import replacing
from napari_cellrep.data.images import GREY, IMAGE_SUFFIXES, READ, ImageInfo, Plane, inspect_image, is_grey
from napari_cellrep.data.project import Project, create_project, open_project, project_root
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import ROLES, Channel, InputError, find_channel

# Pixels are looked at during import only while that takes seconds; above it the first step that reads a field
# finds black or broken pixels.
LOOK_PIXELS = 64_000_000

KEYS = ("plate", "well", "site")  # together they name a field
_COLUMN_WORDS = {
    "filename": "file", "file_name": "file", "image": "file", "image_file": "file", "field_id": "field",
    "well_id": "well", "plate_id": "plate", "fov": "site",
}  # fmt: skip
_RESERVED = {*OWN_COLUMNS, *OBS_COLUMNS, "flags", "good", "cell_id"} - {"field"}
_MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan"]


def import_fields(
    path: Path | str,
    images: Sequence[Path | str],
    *,
    channels: Sequence[str] = (),
    pattern: str = "",
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
        Files, folders (searched with all their folders) or globs; TIFF, OME-TIFF, PNG, JPEG. Of an OME-Zarr every
        image is a field: of a plate with its plate, well and site.
    channels : sequence of str
        ``name``, ``role`` or ``name:role`` in plane order. With one file per channel also ``w1=DNA:nucleus``:
        the files whose channel part is "w1". Default: the files' own channel names.
    pattern : str
        Parts of the file name: ``{plate}_{well}_{site}_{channel}.tif``, or a regular expression with named groups.
        ``field``, ``plate``, ``well``, ``site`` and any other name become metadata; ``channel`` and ``z`` tell
        which files make up one field. With a slash it is matched to the end of the whole path. Without a
        pattern every file is a field.
    metadata : path
        CSV (comma, semicolon or tab) with one row per field or well.
    on : str
        Columns to join it by, "plate+well"; default: the first that fit of plate, well and site, file, field.
    group_by : sequence of str
        Columns whose values make a group; default plate and well, else the field.
    z : str
        How z-stacks become planes: "max", "mean", "sharpest" or the number of a plane (from 0); or per channel
        "nucleus=max,protein=mean".
    rgb : str
        What a colour image is: "grey" (their mean) or "split" (red, green and blue are channels).
    stack : {"channel", "z"}
        What an axis is that the file does not name.
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
    options = _Options(tuple(channels), pattern, str(metadata), on, z, rgb, stack, float(um_per_px))
    found = yield from _collect(root, images, options, ())
    fields = with_groups(found.fields, group_by)
    project = create_project(root, fields, found.channels, group_by)
    project.log("import", **dataclasses.asdict(options), **found.report())
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
    names = [f.name for f in dataclasses.fields(_Options)]
    for name in options:
        if name not in names:
            raise InputError(f"There is no option {name!r} here; options are {', '.join(names)}.")
    first: dict[str, Any] = next((line for line in project.history if line["step"] == "import"), {})
    # The table of the first plate says nothing of the next one.
    before = {n: first[n] for n in names if n in first and n != "metadata"}
    if "on" in before and not options.get("metadata"):
        del before["on"]
    used = {**before, **{n: v for n, v in options.items() if v not in ("", (), [], 0, None)}}
    used["channels"] = tuple(used.get("channels", ()))
    used["metadata"] = str(used.get("metadata", ""))
    found = yield from _collect(project.root, images, _Options(**used), project.channels)
    present = {f.id.casefold(): f for f in project.fields}
    taken = [
        f.id for f in found.fields if f.id.casefold() in present and not present[f.id.casefold()].problem
    ]
    if taken:
        raise InputError(
            f"{project.root.name} has {_some(taken, 'field')} already; give the new files another folder or plate, "
            "or leave these out."
        )
    new = {f.id.casefold() for f in found.fields}
    kept = [f for f in project.fields if f.id.casefold() not in new]
    project.write_fields(with_groups([*kept, *found.fields], project.group_by))
    project.log("add", **used, **found.report())
    return project


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
        Once per file. The generator returns ``{"n_files", "n_fields", "unfit", "channels", "rows"}``: how many there
        are, the names of files that the pattern does not fit, the channels in words, and for each of the first fields
        its ``field``, ``well``, ``site``, ``size``, ``known`` (the other metadata) and ``problem``.

    Raises
    ------
    InputError
        As `import_fields` would.
    """
    used: dict[str, Any] = {k: v for k, v in options.items() if v not in ("", (), [], 0, None)}
    present: tuple[Channel, ...] = ()
    taken: set[str] = set()
    root = Path()
    if str(project):
        opened = open_project(project)
        present, root = opened.channels, opened.root
        taken = {f.id.casefold() for f in opened.usable_fields}
        first: dict[str, Any] = next((line for line in opened.history if line["step"] == "import"), {})
        names = [f.name for f in dataclasses.fields(_Options) if f.name not in ("metadata", "on")]
        used = {**{n: first[n] for n in names if n in first}, **used}
    used["channels"] = tuple(used.get("channels", ()))
    found, problems = _find_files(images, root)
    drafts, unfit = _draft_fields(found, _read_pattern(used.get("pattern", "")))
    if not drafts and not unfit:
        raise InputError(problems[0] if problems else "There are no images there.")
    files = [p for d in drafts[:LOOKED_AT] for some in d.files.values() for p in some] or found[:1]
    told = yield from _collect(root, files, _Options(**used), present)
    rows = [
        {
            "field": f.id,
            "well": str(f.metadata.get("well", "")),
            "site": str(f.metadata.get("site", "")),
            "size": f"{f.width_px:,} × {f.height_px:,} px" if f.width_px else "",
            "known": ", ".join(
                f"{k} {v}" for k, v in f.metadata.items() if k not in ("well", "site", "plate")
            ),
            "problem": f.problem or ("in the project already" if f.id.casefold() in taken else ""),
        }
        for f in told.fields
    ]
    return {
        "n_files": len(found), "n_fields": len(drafts), "unfit": [p.name for p in unfit],
        "channels": [f"{c.name} ({c.role})" for c in told.channels], "rows": rows,
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
class _Options:
    channels: tuple[str, ...] = ()
    pattern: str = ""
    metadata: str = ""
    on: str = ""
    z: str = ""
    rgb: str = ""
    stack: str = "channel"
    um_per_px: float = 0.0

    def __post_init__(self) -> None:
        if self.rgb not in ("", "grey", "split"):
            raise InputError(f'Colour images become "grey" or "split" channels, not {self.rgb!r}.')
        if self.stack not in ("channel", "z"):
            raise InputError(f'An axis without a name is "channel" or "z", not {self.stack!r}.')
        if not 0 <= self.um_per_px < 1e6:
            raise InputError(f"The pixel size is {self.um_per_px}; it has to be a positive number of µm.")
        if isinstance(self.channels, str):
            raise InputError("Give channels as a list of names, one for each.")


@dataclass
class _Found:
    fields: list[Field]
    channels: tuple[Channel, ...]
    notes: list[str]

    def report(self) -> dict[str, Any]:
        bad = [f"{f.id}: {f.problem}" for f in self.fields if f.problem]
        return {"n_fields": len(self.fields), "n_unusable": len(bad), "problems": bad, "notes": self.notes}


@dataclass
class _Draft:
    """A field to be: the files that make it up, by channel value ("" without one), in z order."""

    name: str
    folder: Path
    files: dict[str, list[Path]]
    metadata: dict[str, Any]
    problem: str = ""
    asks: bool = False  # the problem is a question to the user


def _collect(
    root: Path, images: Sequence[Path | str], options: _Options, present: Sequence[Channel]
) -> Job[_Found]:
    """Find the files, look at each, and make fields of them. `present`: the channels the fields have to have."""
    files, problems = _find_files(images, root)
    regex = _read_pattern(options.pattern)
    drafts, unfit = _draft_fields(files, regex)
    if unfit:
        problems.append(f"The pattern does not fit {_some([p.name for p in unfit], 'file')}; left out.")
    if not drafts:
        if unfit:
            raise InputError(
                f"The pattern {options.pattern!r} fits none of {len(unfit)} files; one is {unfit[0].name!r}."
            )
        raise InputError(problems[0] if problems else "There are no images to import.")

    infos: dict[Path, ImageInfo | str] = {}
    wanted = [p for draft in drafts for some in draft.files.values() for p in some]
    for i, file in enumerate(wanted):
        yield Progress(i, len(wanted), f"Reading {file.name}")
        try:
            info = inspect_image(file, stack=options.stack)
            if info.colour and not options.rgb and is_grey(file):
                info = dataclasses.replace(info, colour=False, n_channels=1)
            infos[file] = info
        except InputError as error:
            infos[file] = str(error)
    drafts = [d for d in drafts if not _is_part(d, infos)]

    by_file = regex is not None and "channel" in regex.groupindex
    order, channels = _decide_channels(drafts, infos, options, by_file, present)
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

    files_of = [[p for some in d.files.values() for p in some] for d in drafts]
    fields, files_of, more_problems = _unique_ids(fields, [d.folder for d in drafts], files_of)
    problems += more_problems
    if options.metadata:
        fields, more_problems = _join_table(fields, files_of, Path(options.metadata), options.on)
        problems += more_problems
    yield Progress(len(wanted), len(wanted), f"{len(fields)} fields")
    return _Found(fields, channels, problems)


def _find_files(images: Sequence[Path | str], root: Path) -> tuple[list[Path], list[str]]:
    """Every image file meant, in natural order within each thing given; and what was not found."""
    if isinstance(images, str | Path):
        images = [images]
    found: dict[Path, None] = {}
    problems = []
    for given in images:
        path = Path(os.path.normpath(Path(given).expanduser().absolute()))
        if path.is_dir():
            here = _search(path)
            if not here:
                problems.append(f"There are no images ({READ}) in {path}.")
        elif not path.exists() and glob.has_magic(str(path)):
            here = []
            for match in glob.glob(str(path), recursive=True):  # noqa: PTH207  (Path.glob takes no absolute pattern)
                at = Path(match)
                here += _search(at) if at.is_dir() else [at] if at.suffix.lower() in IMAGE_SUFFIXES else []
            if not here:
                problems.append(f"No image is called {given}.")
        elif path.exists() and path.suffix.lower() not in IMAGE_SUFFIXES:
            here = []
            problems.append(f"{path.name} is not an image we read; use {READ}.")
        elif not path.exists() and not path.suffix:
            here = []
            problems.append(f"{path} is not there.")
        else:
            here = [path]  # a file that is missing becomes a field with a problem
        for file in sorted(here, key=_natural):
            if not file.is_relative_to(root):
                found[file] = None
    return list(found), problems


def _search(folder: Path) -> list[Path]:
    """Images below a folder; hidden ones and projects left out, links to folders followed once."""
    if ome_zarr.is_zarr(folder):
        return ome_zarr.find_images(folder)
    seen: set[str] = set()
    files = []
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [n for n in folders if not n.startswith(".") and not n.endswith(".cellrep")]
        zarrs = {n for n in folders if ome_zarr.is_zarr(Path(here, n))}
        files += [image for n in sorted(zarrs) for image in ome_zarr.find_images(Path(here, n))]
        folders[:] = [n for n in folders if n not in zarrs]
        files += [
            Path(here, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in IMAGE_SUFFIXES
        ]
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


def _draft_fields(files: Iterable[Path], regex: re.Pattern[str] | None) -> tuple[list[_Draft], list[Path]]:
    """Put files together that belong to one field; and the files that the pattern does not fit."""
    if regex is None:
        drafts = []
        for p in files:
            name = _stem(p)
            known = {"well": well_name(name)} if _is_well(name) else {}
            if p.suffix.lower() not in IMAGE_SUFFIXES and (place := ome_zarr.place_of(p)):
                name, known = "_".join(place.values()), {**place, "well": well_name(place["well"])}
            drafts.append(_Draft(name, p.parent, {"": [p]}, known))
        return drafts, []
    whole_path = "/" in regex.pattern.replace("[^/]", "").replace("(?:^|/)", "", 1)
    made: dict[tuple[Any, ...], _Draft] = {}
    depth: dict[tuple[Any, ...], list[tuple[Any, str, Path]]] = {}
    unfit = []
    for p in files:
        text = p.as_posix() if whole_path else p.name
        match = regex.search(text)
        if match is None:
            unfit.append(p)
            continue
        parts = {k: v for k, v in match.groupdict().items() if v is not None and k not in ("channel", "z")}
        if "well" in parts:
            parts["well"] = well_name(parts["well"])
        if whole_path:
            before = text[: match.start()].rpartition("/")[0] if match.start() else ""
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
        key = (folder, name, *sorted(parts.items()))
        draft = made.setdefault(
            key, _Draft(name, folder, {}, {_column(k): v for k, v in parts.items() if k != "field"})
        )
        at = match.groupdict().get("z") or ""
        channel = match.groupdict().get("channel") or ""
        draft.files.setdefault(channel, [])
        depth.setdefault((key, channel), []).append((_natural(at), at, p))
    for (key, channel), some in depth.items():
        some.sort(key=lambda item: item[0])
        made[key].files[channel] = [p for _, _, p in some]
        if len({at for _, at, _ in some}) < len(some):
            made[key].problem = (
                f"Several files are the same part of it ({_some([p.name for _, _, p in some], 'file')}); "
                "make the pattern tell them apart."
            )
    return list(made.values()), unfit


def _without(text: str, match: re.Match[str]) -> str:
    """The text less its channel and z parts, for a name when the pattern gives none."""
    spans = sorted((match.span(k) for k in ("channel", "z") if match.groupdict().get(k)), reverse=True)
    text = text[: -len(Path(text).suffix)] if Path(text).suffix else text
    for a, b in spans:
        text = text[:a].rstrip("_- ") + text[b:]
    return text.removesuffix(".ome") or "field"


def _stem(path: Path) -> str:
    return path.stem.removesuffix(".ome").removesuffix(".OME") or path.stem


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


# ---- channels --------------------------------------------------------------------------------------


def _decide_channels(
    drafts: Sequence[_Draft],
    infos: Mapping[Path, ImageInfo | str],
    options: _Options,
    by_file: bool,
    present: Sequence[Channel],
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    """The project's channels, and for each what it is called in the files (value of the pattern, or name)."""
    if by_file:
        return _channels_by_file(drafts, options.channels, present)
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
    return f"{name}:{name.lower() if name.lower() in ROLES else 'other'}"


def _channels_by_file(
    drafts: Sequence[_Draft], texts: Sequence[str], present: Sequence[Channel]
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    counts = Counter(value for d in drafts for value in d.files)
    values = sorted((v for v, n in counts.items() if n * 2 > len(drafts)), key=_natural)
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
        order, channels = values, [Channel.parse(_channel_text(v or "channel 0")) for v in values]
    if present:
        if len(order) != len(present):
            raise InputError(f"The project has {len(present)} channels and the new files have {len(order)}.")
        channels = list(present)
    return tuple(order), tuple(channels)


def _planes_of(draft: _Draft, infos: Mapping[Path, ImageInfo | str], options: _Options) -> tuple[str, ...]:
    """Names of a file's planes, as the file calls them; () when it is not readable."""
    first = next(iter(draft.files.values()))[0]
    info = infos[first]
    if isinstance(info, str):
        return ()
    if info.colour:
        return ("grey",) if options.rgb != "split" else ("red", "green", "blue")
    if len(set(info.channel_names)) == info.n_channels:
        return info.channel_names
    return tuple(f"channel {i}" for i in range(info.n_channels))


def _make_field(
    draft: _Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: _Options,
    root: Path,
    by_file: bool,
) -> Field:
    """A field of a draft, or one with a problem, and then without planes: no step shall read half of it."""
    info: ImageInfo | None
    try:
        planes, info = _plan(draft, infos, order, channels, options, root, by_file)
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
        um_per_px=options.um_per_px or (info.um_per_px if info else 0.0),
        metadata=draft.metadata,
        problem=problem,
        stack=options.stack,
    )


def _plan(
    draft: _Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: _Options,
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


def _plane_index(names: Sequence[str], order: Sequence[str], i: int, options: _Options) -> int:
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
        out.append(dataclasses.replace(field, id=name))
        out_files.append(mine)
    return out, out_files, problems


# ---- the lab's table -------------------------------------------------------------------------------


def _column(name: str) -> str:
    """A metadata column that anndata can keep and that is none of ours."""
    name = name.strip().replace("/", "_") or "column"
    return f"meta_{name}" if name in _RESERVED or name.startswith(("q_", "has_")) else name


def read_metadata(path: Path | str) -> pd.DataFrame:
    """Read a lab's table: comma, semicolon or tab; UTF-8 (with or without BOM), UTF-16 or Latin-1.

    Keys (plate, well, site, field, file) stay text; columns of numbers are numbers, also with decimal commas.

    Raises
    ------
    InputError
        If it is missing or not a table.
    """
    path = Path(path).expanduser()
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"The table {path} cannot be read ({error.strerror}).") from None
    encodings = ["utf-16"] if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "latin-1"]
    text = ""
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(
            f"The table {path.name} has no rows; a line of column names and one row per field are wanted."
        )
    # The separator is the one the heading uses most: sniffing the whole text guesses wrong on one column.
    separator = max(",;\t", key=lines[0].count)
    from io import StringIO

    try:
        table = pd.read_csv(
            StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            na_values=_MISSING,
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"The table {path.name} cannot be read ({str(error).splitlines()[0]}).") from None
    keys = (*KEYS, "field", "file")
    names = []
    for name in table.columns:
        low = str(name).strip().lower()
        low = _COLUMN_WORDS.get(low, low)
        names.append(low if low in keys and low not in names else _column(str(name)))
    table.columns = names
    table = table.loc[:, ~table.columns.duplicated() & ~table.columns.str.fullmatch(r"Unnamed: \d+")]
    table = table.dropna(how="all").reset_index(drop=True)
    for column in table.columns:
        values = table[column].str.strip()
        if column in keys:
            table[column] = values.map(well_name, na_action="ignore") if column == "well" else values
            continue
        numbers = pd.to_numeric(values, errors="coerce")
        if separator != "," and numbers.isna().sum() > values.isna().sum():
            numbers = pd.to_numeric(values.str.replace(",", ".", regex=False), errors="coerce")
        table[column] = (
            numbers if (numbers.isna() == values.isna()).all() and values.notna().any() else values
        )
    return table


def _join_table(
    fields: Sequence[Field], files: Sequence[list[Path]], path: Path, on: str
) -> tuple[list[Field], list[str]]:
    """Add a table's columns to the fields; rows and fields that stay alone are reported."""
    table = read_metadata(path)
    columns = _join_columns(table, fields, files, on, path.name)
    problems: list[str] = []
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    several = []
    for record in table.to_dict("records"):
        key = tuple(join_key(c, record[c]) for c in columns)
        values = {
            str(k): v for k, v in record.items() if k not in ("field", "file") and v == v and v is not None
        }
        if key in rows and rows[key] != values:
            several.append(" ".join(str(record[c]) for c in columns))
        rows.setdefault(key, values)
    if several:
        problems.append(
            f"{path.name} has different rows for {_some(several, '+'.join(columns))}; the first was used."
        )
    used, out, alone = set(), [], []
    for field, mine in zip(fields, files, strict=True):
        key = next((k for k in _field_keys(field, mine, columns) if k in rows), ())
        if key in rows:
            used.add(key)
            field = dataclasses.replace(field, metadata={**rows[key], **field.metadata})
        else:
            alone.append(field.id)
        out.append(field)
    left = [" ".join(key) for key in rows if key not in used]
    if alone:
        problems.append(f"{path.name} has no row for {_some(alone, 'field')}.")
    if left:
        problems.append(f"No field belongs to {_some(left, 'row')} of {path.name}.")
    return out, problems


def _join_columns(
    table: pd.DataFrame, fields: Sequence[Field], files: Sequence[list[Path]], on: str, name: str
) -> tuple[str, ...]:
    """The columns a table is joined by: the user's, else the first that both sides have."""
    if on:
        columns = tuple(c.strip() for c in re.split(r"[+,]", on) if c.strip())
        for column in columns:
            if column not in table.columns:
                raise InputError(f"{name} has no column {column!r}; columns are {', '.join(table.columns)}.")
            if column not in ("field", "file") and not any(column in f.metadata for f in fields):
                raise InputError(
                    f"The fields have no {column!r} to join {name} by; name it in the pattern, for example {{{column}}}.tif."
                )
        return columns
    ways = (("plate", "well", "site"), ("plate", "well"), ("well", "site"), ("well",), ("file",), ("field",))
    for way in ways:
        if all(c in table.columns for c in way) and any(
            _field_keys(f, p, way) for f, p in zip(fields, files, strict=True)
        ):
            return way
    raise InputError(
        f"{name} cannot be joined to the fields: it needs a column well (and the file names or the pattern a well), "
        f"field or file; its columns are {', '.join(table.columns)}."
    )


def _field_keys(field: Field, files: Sequence[Path], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys under which a field may be found: more than one where several files make it up."""
    options = {""}
    if "file" in columns:
        options = {join_key("file", p.name) for p in files} | {join_key("file", _stem(p)) for p in files}
    keys = []
    for file in sorted(options):
        values = [
            file
            if c == "file"
            else join_key(c, field.id)
            if c == "field"
            else join_key(c, field.metadata.get(c))
            for c in columns
        ]
        if all(values):
            keys.append(tuple(values))
    return keys


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
    if column == "file":
        return text.replace("\\", "/").rpartition("/")[2].casefold()
    if column == "field":
        return safe_id(text).casefold()
    number = re.fullmatch(r"(-?\d+)\.0", text)
    return number[1] if number else text.casefold()


def _some(names: Sequence[str], what: str) -> str:
    """How many, and the first of them: "3 fields (A01, A02, A03)"."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({shown})"
