"""OME-Zarr on disk (NGFF 0.4 and 0.5): the images in a folder, what one holds, and where on a plate it is.

Read leniently: what the specification asks for and pixels do not need may be missing or odd.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_cellrep.specs import InputError

_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
_BROKEN = (OSError, ValueError, KeyError, TypeError)  # what zarr raises at metadata that is cut short
_AXES_BEFORE_04 = "TCZYX"


@dataclass(frozen=True)
class ZarrImage:
    """What the metadata of one image says of its largest level.

    Parameters
    ----------
    axes : str
        One letter each, of T, C, Z, Y and X; "Q" for another.
    shape : tuple of int
    dtype : numpy.dtype
    x_scale : float
        Size of a pixel along X; 1 where the file does not say.
    x_unit : str
        Of `x_scale`, in the file's words; "" where the file does not say.
    channel_names : tuple of str
        As viewers show them (``omero``); () where there are none.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    x_scale: float
    x_unit: str
    channel_names: tuple[str, ...]


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group or array, of either format."""
    return path.is_dir() and any((path / name).is_file() for name in _METADATA)


def find_images(path: Path) -> dict[Path, dict[str, str]]:
    """The image groups in a Zarr and the place of each: itself, every field of every well of a plate, or every series.

    Images of labels are not among them. Only metadata is read, that of a plate and of each well once; where it is
    broken, the folder counts as an image, and whoever reads that says so.

    Returns
    -------
    dict of Path to dict
        Image → ``{"plate", "well", "site"}`` of a field of a plate, the well as in "A01", else {}. A field is called
        by its number in the well, from 0, as its folder is.
    """
    try:
        said = _metadata(path)
    except _BROKEN:
        return {path: {}}
    if "multiscales" in said:
        return {path: _place(path) if _on_plate(path.parent) else {}}
    if isinstance(said.get("plate"), Mapping):
        wells = [path / str(well["path"]) for well in said["plate"].get("wells", ())]
        return {image: _place(image) for well in wells for image in _fields_of(well)}
    if "well" in said:
        on_plate = _on_plate(path)
        return {image: _place(image) if on_plate else {} for image in _fields_of(path)}
    if "bioformats2raw.layout" in said:
        series = sorted((p for p in path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        return {image: place for p in series for image, place in find_images(p).items()}
    return {}


def _on_plate(well: Path) -> bool:
    """Whether a folder is a well of a plate."""
    try:
        return "well" in _metadata(well) and "plate" in _metadata(well.parents[1])
    except (*_BROKEN, IndexError):
        return False


def _place(image: Path) -> dict[str, str]:
    """Where a field of a plate is, by the names of its folders."""
    column = image.parent.name
    well = image.parent.parent.name + (column.zfill(2) if column.isdigit() else column)
    return {"plate": image.parents[2].name.split(".")[0], "well": well, "site": image.name}


def inspect(path: Path) -> tuple[ZarrImage, Any]:
    """What an image group holds, and the array of its largest level.

    Raises
    ------
    InputError
        If there is no OME-Zarr image, or its metadata and its array do not fit each other.
    """
    said = _metadata(path)
    scales = said.get("multiscales")
    if not isinstance(scales, list) or not scales or not scales[0].get("datasets"):
        raise InputError(f"{name_of(path)} is a Zarr without an OME-Zarr image in it (no multiscales).")
    multiscale, level = scales[0], scales[0]["datasets"][0]
    array = zarr.open_array(path / str(level["path"]), mode="r")
    named = multiscale.get("axes") or _AXES_BEFORE_04[-array.ndim :]
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in named]
    letters = "".join(_letter(str(a.get("name", ""))) for a in axes)
    if len(letters) != array.ndim or "Y" not in letters or "X" not in letters:
        raise InputError(
            f"{name_of(path)}: its metadata names the axes {', '.join(str(a.get('name')) for a in axes)}; "
            f"its array has {array.ndim} dimensions, of which Y and X are needed."
        )
    x = letters.index("X")
    scale, unit = _scale(level, x) * _scale(multiscale, x), str(axes[x].get("unit") or "")
    names = tuple(str(c.get("label") or "") for c in (said.get("omero") or {}).get("channels", ()))
    names = names if all(names) else ()
    return ZarrImage(letters, tuple(array.shape), np.dtype(array.dtype), scale, unit, names), array


def metadata_files(path: Path) -> list[Path]:
    """Files and folders whose size and time tell whether an image was written again: metadata and the levels' folders.

    Chunks are not looked at, of which a slide has a hundred thousand: one changed in place goes unseen.
    """
    here = [path / name for name in _METADATA]
    levels = [p for p in sorted(path.iterdir()) if p.is_dir()] if path.is_dir() else []
    return [p for p in (*here, *levels, *(q / n for q in levels for n in _METADATA)) if p.exists()]


def some_chunks(path: Path) -> list[Path]:
    """A few chunks of the largest level: first, middle and last, in each folder of chunks."""
    levels = [p for p in sorted(path.iterdir()) if p.is_dir()]
    return _some_files(levels[0] if levels else path)


def _some_files(folder: Path) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if p.name not in _METADATA)
    some = dict.fromkeys(inside[i] for i in (0, len(inside) // 2, -1)) if inside else ()
    return [q for p in some for q in (_some_files(p) if p.is_dir() else [p])]


def _fields_of(well: Path) -> list[Path]:
    said = _metadata(well).get("well") or {}
    return [well / str(image["path"]) for image in said.get("images", ())]


def _metadata(path: Path) -> dict[str, Any]:
    """OME metadata of a group: under "ome" since 0.5; {} where there is no group. May raise `_BROKEN`."""
    if not is_zarr(path) or (path / ".zarray").is_file():
        return {}
    try:
        said = dict(zarr.open_group(path, mode="r").attrs)
    except zarr.errors.ContainsArrayError:
        return {}
    return dict(said.get("ome") or said)


def _letter(name: str) -> str:
    return name.upper() if name.lower() in ("t", "c", "z", "y", "x") else "Q"


def _scale(holder: Mapping[str, Any], axis: int) -> float:
    """The factor of a list of coordinate transformations along one axis; 1 where there is none."""
    factor = 1.0
    for step in holder.get("coordinateTransformations") or ():
        if step.get("type") == "scale" and len(step.get("scale", ())) > axis:
            factor *= float(step["scale"][axis])
    return factor


def name_of(path: Path) -> str:
    """An image's own name for people: "plate.zarr/A/1/0" of a field of a plate, else the folder's."""
    for parent in path.parents:
        if not is_zarr(parent):
            return os.fspath(path.relative_to(parent))
    return path.name
