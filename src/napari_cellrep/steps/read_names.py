"""Which files belong together, by their names alone: from what was given to drafts of fields, before any is opened."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_cellrep.data import ome_zarr, vendors
from napari_cellrep.data.crop_files import ARRAY_SUFFIXES
from napari_cellrep.data.fields import Field, well_name
from napari_cellrep.data.harmony import Index, find_index, read_index
from napari_cellrep.data.images import IMAGE_SUFFIXES, READ, file_of, suffix_of
from napari_cellrep.data.layouts import NONE, Layout, find_layout, guess_layout, role_of, stain_of, well_of
from napari_cellrep.data.load_data import Listed, is_load_data, read_load_data
from napari_cellrep.data.tables import KEYS, column_name, stem
from napari_cellrep.specs import InputError, counted
from napari_cellrep.steps.time_series import Series, are_frames, number_in

PACKED_CROPS = (".zip", *ARRAY_SUFFIXES)
_OR_CROPS = "If each picture is one cell, these are ready-made crops: say so (--crops; in the window: Each image is one cell)."
# What programs add to the name of an image for its label image.
_OF_LABELS = re.compile(r"(.+?)[_-](?:cp_masks|masks?|labels?)", re.IGNORECASE)
_OF_IMAGE = re.compile(r"[_-](?:img|image|raw)$", re.IGNORECASE)


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
class Draft:
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


def draft_files(draft: Draft) -> list[Path]:
    """The files of all its channels."""
    return [p for some in draft.files.values() for p in some]


@dataclass
class NamesRead:
    """What the names of the files say, before any is opened."""

    drafts: list[Draft]
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

    def first(self, n: int) -> NamesRead:
        """The first fields only."""
        return dataclasses.replace(self, drafts=self.drafts[:n], unfit=[] if self.drafts else self.unfit)


def read_names(
    images: Sequence[Path | str],
    root: Path,
    options: ImportOptions,
    crops: bool = False,
    there: Sequence[Field] = (),
) -> NamesRead:
    """Find the files, and say by their names alone which make up a field (or, of `crops`, a cell).

    `there`: fields of the project they are added to, whose time series a single frame may belong to.
    """
    given = [images] if isinstance(images, str | Path) else list(images)
    tables = [Path(g).expanduser() for g in given if is_load_data(Path(g).expanduser())]
    if tables:
        rest = [g for g in given if Path(g).expanduser() not in tables]
        files, problems = _find_files(rest, root) if rest else ({}, [])
        drafts: list[Draft] = []
        for table in tables:
            listed, notes = read_load_data(table, list(files))
            drafts += [_listed_draft(one) for one in listed]
            problems += notes
        n = len({p for d in drafts for p in draft_files(d)})
        why = f"{', '.join(t.name for t in tables)} lists fields as CellProfiler's LoadData."
        return NamesRead(drafts, [], problems, n, why=why, of_table=True)
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
    drafts, unfit = _draft_fields({p: files[p] for p in kept}, regex, Series(there, root))
    if layout is not None and layout.harmony:
        layout, said = _with_index(drafts, layout)
        why, problems = " ".join(filter(None, (why, said.pop(0)))), problems + said
    return NamesRead(drafts, unfit, problems, len(files), regex, layout, why)


def _with_index(drafts: Sequence[Draft], layout: Layout) -> tuple[Layout, list[str]]:
    """Add what indices of Harmony's beside the images know: channels to the layout, the rest to the drafts.

    Where plates number their channels differently, all are renumbered as the first. Returns the layout, what was read in
    words ("" for nothing), and sentences on what could not be.
    """
    indices: dict[Path, Index] = {}
    notes: list[str] = []
    for folder in dict.fromkeys(p.parent for d in drafts for p in draft_files(d)):
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
        files = draft_files(draft)
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


def _listed_draft(listed: Listed) -> Draft:
    known = {column_name(k): v for k, v in listed.metadata.items()}
    if "well" in known:
        known["well"] = well_name(known["well"])
    parts = [str(known[k]) for k in KEYS if k in known]
    one = next(iter(listed.files.values()))
    alone = stem(one) if file_of(one) == one else f"{stem(file_of(one))}_{one.name}"
    name = "_".join(parts) if len(parts) > 1 else alone
    files = {c: [p] for c, p in listed.files.items()}
    return Draft(name, listed.folder, files, known, pages=dict(listed.pages))


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
        for file in sorted(here, key=natural):
            if not file.is_relative_to(root):
                inside = vendors.find_images(file) if file.suffix.lower() in vendors.READERS else [file]
                found |= dict.fromkeys(inside, here[file])
    return found, problems


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


def natural(key: Any) -> list[Any]:
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
    files: Mapping[Path, Mapping[str, str]], regex: re.Pattern[str] | None, there: Series
) -> tuple[list[Draft], list[Path]]:
    """Put files together that belong to one field; and the files that the pattern does not fit.

    `files`: each with its place on a plate, where its format says it; `there`: series that frames may belong to.
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
            drafts.append(Draft(name, p.parent, {"": [p]}, known))
        return drafts, []
    whole_path = "/" in regex.pattern.replace("[^/]", "").replace("(?:^|/)", "", 1)
    made: dict[tuple[Any, ...], Draft] = {}
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
    as_frames = are_frames(times, least=1 if there else 2)
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
            frame = number_in(time)
            name = there.called(name, folder)
            said |= {"series": name, "frame": frame, "time": frame}
            name = there.frame_id(name, frame, max(map(number_in, times)))
        key = (folder, name, *sorted(parts.items()))
        draft = made.setdefault(key, Draft(name, folder, {}, said))
        at = match.groupdict().get("z") or ""
        channel = match.groupdict().get("channel") or ""
        draft.files.setdefault(channel, [])
        depth.setdefault((key, channel), []).append((natural(at), at, p))
    for (key, channel), some in depth.items():
        some.sort(key=lambda item: item[0])
        made[key].files[channel] = [p for _, _, p in some]
        if len({at for _, at, _ in some}) < len(some):
            made[key].problem = (
                f"Several files are the same part of it ({counted([p.name for _, _, p in some], 'file')}); "
                "make the pattern tell them apart."
            )
    return list(made.values()), unfit


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
