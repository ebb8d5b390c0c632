"""Labels the user brings: of Cellpose, StarDist, CellProfiler, QuPath, Fiji or drawn by hand, one file per field."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from napari_cellrep.segmenters import Regions, Source
from napari_cellrep.segmenters._blobs import check_image, drop_border
from napari_cellrep.segmenters._label_files import PARTS, UNITS, Brought, label_names, open_file, read_file
from napari_cellrep.specs import Channel, InputError, join_words

RELABEL = ("auto", "always", "never")
READS = "label images (TIFF, PNG), Cellpose's _seg.npy, GeoJSON of QuPath, ROIs of Fiji (.roi, .zip), OME-Zarr labels"
# Ends of the names that programs give to the file beside an image.
BESIDE = (
    "_seg.npy",
    *(f"{end}{kind}" for end in ("_cp_masks", "_masks", "_mask", "_labels", "_label") for kind in (".tif", ".tiff", ".png")),
    ".geojson", ".geojson.gz", "_RoiSet.zip", ".roi",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Where the labels are."""

    pattern: Annotated[
        str,
        {"label": "Files",
         "help": "Path of the labels with {field} for the field's id or {file} for its image's name without ending: "
         "/masks/{file}_mask.png. * is any text. Empty: the file beside the image that is called as Cellpose, QuPath or Fiji "
         f"call it. Read are {READS}."},
    ] = ""  # fmt: skip
    units: Annotated[
        str,
        {"choices": UNITS, "label": "Coordinates are in", "help": "Of GeoJSON: pixels, or µm (um)."},
    ] = "px"
    part: Annotated[
        str,
        {"choices": PARTS, "label": "Outline of the", "help": "QuPath's cells have two outlines: the cell's and its nucleus'."},
    ] = "cell"  # fmt: skip
    relabel: Annotated[
        str,
        {"choices": RELABEL, "label": "Number the pieces",
         "help": "auto: a black-and-white mask is numbered piece by piece; numbered labels stay as they are."},
    ] = "auto"  # fmt: skip
    min_area_px: Annotated[int, {"min": 0, "max": 10_000_000, "label": "Least area (px)"}] = 0
    drop_border: Annotated[bool, {"label": "Drop cells cut by the image's edge"}] = False


def segment(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    device: str = "cpu",
    field_id: str = "",
    source: Source = Source(),
) -> np.ndarray:
    """Read the labels of one field.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        The field; only its size is looked at.
    channels : sequence of Channel
        What each plane shows.
    config : Config
    device : str, default "cpu"
        Not used.
    field_id : str, default ""
        Put in the place of ``{field}`` in the pattern.
    source : Source
        The field's files, for ``{file}`` and for what lies beside them.

    Returns
    -------
    ndarray of shape (H, W), int32
        The numbers of the file; those of a numbered mask may have gaps.

    Raises
    ------
    InputError
        If the file is missing, not one file, no labels, or of another size than the field.
    """
    return bring(image, channels, config, field_id, source).labels


def bring(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    field_id: str = "",
    source: Source = Source(),
) -> Brought:
    """Read the labels of one field, and what else its file says; arguments are those of `segment`."""
    check_image(image, channels)
    path = find_file(config.pattern, field_id, source)
    h, w = image.shape[1:]
    brought = read_file(
        path, (h, w), field_id=field_id, units=config.units, um_per_px=source.um_per_px, part=config.part,
        series=source.series, frame=source.frame,
    )  # fmt: skip
    labels = brought.labels
    values = np.unique(labels)
    if brought.pixels and _in_pieces(config, values):
        labels = _number_pieces(labels)
        brought.notes, brought.classes = [], {}
    if config.min_area_px and labels.any():
        found, inverse, area = np.unique(labels, return_inverse=True, return_counts=True)
        labels = np.where(area >= config.min_area_px, found, 0)[inverse].reshape(labels.shape)
    labels = labels.astype(np.int32)
    brought.labels = drop_border(labels, numbers_stay=True) if config.drop_border else labels
    return brought


def in_regions(
    config: Config, shape: tuple[int, int], field_id: str = "", source: Source = Source()
) -> Regions:
    """The labels of a field larger than memory, read part by part; arguments are those of `segment`.

    Raises
    ------
    InputError
        As `segment`.
    """
    opened = open_file(
        find_file(config.pattern, field_id, source), shape, field_id=field_id, units=config.units,
        um_per_px=source.um_per_px, part=config.part, series=source.series, frame=source.frame,
    )  # fmt: skip
    return Regions(
        opened.read,
        opened.told,
        lambda numbers: opened.pixels and _in_pieces(config, numbers),
        config.min_area_px,
        config.drop_border,
    )


def _in_pieces(config: Config, values: np.ndarray) -> bool:
    """Whether the pieces of a label image with these numbers are numbered one by one."""
    binary = len(values[values != 0]) == 1 and int(values.max()) in (1, 255, 65535)
    return config.relabel == "always" or (config.relabel == "auto" and binary)


def files_read(config: Config, field_id: str, source: Source) -> list[Path]:
    """Files the labels of a field come from, so that new ones are read again; [] where there is none (yet)."""
    try:
        return [find_file(config.pattern, field_id, source)]
    except InputError:
        return []


def find_file(pattern: str, field_id: str, source: Source = Source()) -> Path:
    """Return the one file that `pattern` means for a field.

    Raises
    ------
    InputError
        If the pattern needs what is not given, means no file or several, or is empty and no file or several are beside the
        image.
    """
    if not pattern:
        return _beside(field_id, source)
    if "{field}" in pattern and not field_id:
        raise InputError(f"The pattern {pattern!r} needs the field's id in the place of {{field}}.")
    if "{file}" in pattern and not source.files:
        raise InputError(f"The pattern {pattern!r} needs the image's file in the place of {{file}}.")
    stems = list(dict.fromkeys(_stem(p) for p in source.files)) if "{file}" in pattern else [""]
    folders = list(dict.fromkeys([*(p.parent for p in source.files), Path()]))
    found: dict[Path, None] = {}
    for stem in stems:
        for folder in folders:  # a name without a folder is looked for beside the image, then where we are
            here = _matches(folder, pattern, field_id, stem)
            found |= dict.fromkeys(here)
            if here:
                break
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise InputError(f"The pattern {pattern!r} means no file for field {field_id!r}; it has to mean one.")
    raise InputError(
        f"The pattern {pattern!r} means {len(found)} files for field {field_id!r} "
        f"({join_words([p.name for p in found], 4)}); it has to mean one."
    )


def _matches(folder: Path, pattern: str, field_id: str, stem: str) -> list[Path]:
    text = str(folder / Path(pattern).expanduser())
    plain = Path(text.replace("{field}", field_id).replace("{file}", stem))
    if plain.exists():  # a name may itself hold brackets
        return [plain]
    text = text.replace("{field}", glob.escape(field_id)).replace("{file}", glob.escape(stem))
    return [Path(p) for p in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207  (Path.glob takes no absolute pattern)


def _beside(field_id: str, source: Source) -> Path:
    """The one file beside the image, or the one label image inside of an OME-Zarr."""
    if not source.files:
        raise InputError(
            "Say where the labels are with the setting pattern, for example /masks/{field}_mask.png ({field} is "
            "the field's id)."
        )
    found: dict[Path, None] = {}
    for file in dict.fromkeys(source.files):
        found |= dict.fromkeys(file / "labels" / name for name in label_names(file))
        for stem in dict.fromkeys((_stem(file), field_id)):
            paths = (file.with_name(stem + end) for end in BESIDE if stem)
            found |= dict.fromkeys(p for p in paths if p.is_file())
    if len(found) == 1:
        return next(iter(found))
    first = source.files[0]
    if not found:
        raise InputError(
            f"There are no labels beside {first.name} that are called as Cellpose, QuPath or Fiji call them "
            f"({_stem(first)}_seg.npy, _cp_masks.png, _mask.tif, .geojson, _RoiSet.zip, labels of the OME-Zarr); say where they "
            "are with the setting pattern, for example /masks/{file}_mask.png."
        )
    names = [p.name for p in found]
    hint = pattern_of(next(iter(found)), field_id, source.files)
    raise InputError(
        f"Beside {first.name} are {len(found)} files of labels ({join_words(names, 4)}); say which with the setting pattern, for "
        f"example {hint}."
    )


def _stem(path: Path) -> str:
    """Name of an image without its endings: "A01" of A01.ome.tif."""
    name = path.name
    for end in (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr"):
        if name.lower().endswith(end):
            name = name[: -len(end)]
            break
    return name[:-4] if name.lower().endswith(".ome") else name


def pattern_of(path: Path, field_id: str, files: Sequence[Path] = ()) -> str:
    """Pattern that a chosen file is one of: the field's id or the name of its image becomes a placeholder.

    Parameters
    ----------
    path : Path
        Of the field `field_id`.
    files : sequence of Path
        The field's images.
    """
    parts = list(path.parts)
    words = [(field_id, "{field}"), *((_stem(f), "{file}") for f in files)]
    words.sort(key=lambda w: -len(w[0]))  # of a name within the other, the longer says more
    for i in range(len(parts) - 1, 0, -1):
        for word, stands in words:
            whole = rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" if word else r"\Z."
            if re.search(whole, parts[i]):
                parts[i] = re.sub(whole, stands, parts[i])
                return Path(*parts).as_posix()
    return path.as_posix()


def _number_pieces(labels: np.ndarray) -> np.ndarray:
    """Number every connected piece of every label: neighbours of other numbers stay apart."""
    from skimage.measure import label

    return np.asarray(label(labels, background=0, connectivity=1))
