"""Images larger than memory: a part of one read from its file, labels written in chunks, and how it is cut into parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from napari_cellrep.data import ome_zarr
from napari_cellrep.data.images import (
    GREY,
    Plane,
    check_exists,
    flatten_z,
    name_axes,
    pick_series,
    read_planes,
    reading,
    to_czyx,
    to_grey,
)
from napari_cellrep.specs import InputError

BIG_PX = 8192 * 8192  # fields with more pixels are worked on in parts
TILE_PX = 2048  # side of a part
CHUNK_PX = 1024  # side of a chunk of labels on disk
SMALLEST_PX = 1024  # a level of the pyramid that is not larger is the last

Box = tuple[int, int, int, int]  # y0, x0, y1, x1; the end is exclusive


@dataclass(frozen=True)
class Tile:
    """A part of a field: what is its own, and what is read around it.

    Parameters
    ----------
    core : Box
        The cores of all tiles cover the field, each pixel once.
    box : Box
        The core and its surroundings, cut to the field.
    """

    core: Box
    box: Box

    def owns(self, yx: np.ndarray) -> np.ndarray:
        """Which places (n, 2), in the field's pixels, lie in the core: bool (n,)."""
        y0, x0, y1, x1 = self.core
        return np.asarray((yx >= (y0, x0)).all(axis=1) & (yx < (y1, x1)).all(axis=1))


def tiles(height_px: int, width_px: int, halo_px: int, *, side_px: int = 0, align_px: int = 1) -> list[Tile]:
    """Cut a field into parts, row by row.

    Parameters
    ----------
    halo_px : int
        How far around its core a part is read; rounded up to a multiple of `align_px`.
    side_px : int
        Of a core; 0: `TILE_PX`.
    align_px : int
        Every part begins at a multiple of this.
    """
    side = max(1, (side_px or TILE_PX) // align_px) * align_px
    halo = -(-halo_px // align_px) * align_px
    out = []
    for y in range(0, height_px, side):
        for x in range(0, width_px, side):
            core = (y, x, min(y + side, height_px), min(x + side, width_px))
            out.append(Tile(core, grown(core, halo, (height_px, width_px))))
    return out


def grown(box: Box, by_px: int, shape: tuple[int, int]) -> Box:
    """A box with a margin, cut to the field."""
    y0, x0, y1, x1 = box
    return max(0, y0 - by_px), max(0, x0 - by_px), min(shape[0], y1 + by_px), min(shape[1], x1 + by_px)


def by_tile(yx: np.ndarray, side_px: int = 0) -> list[np.ndarray]:
    """Which of places (n, 2) lie in one tile: indices, tile after tile."""
    if not len(yx):
        return []
    y, x = (np.asarray(yx) // (side_px or TILE_PX)).astype(np.int64).T
    key = y * (int(x.max()) + 1) + x
    order = np.argsort(key, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def read_region(planes: Sequence[Plane], root: Path, box: Box, *, stack: str = "channel") -> np.ndarray:
    """Read a part of the channels of one field.

    Tiled and striped TIFF and OME-Zarr are decoded only where they are asked for; of other files the whole is.

    Returns
    -------
    ndarray of shape (C, h, w)

    Raises
    ------
    InputError
        If a file is missing or cannot be read, or holds NaN.
    """
    y0, x0, y1, x1 = box
    decoded: dict[Path, np.ndarray] = {}
    out = []
    for plane in planes:
        paths = plane.files(root)
        if not all(p.is_dir() or p.suffix.lower() in (".tif", ".tiff") for p in paths):
            out.append(read_planes((plane,), root, stack=stack)[0, y0:y1, x0:x1])
            continue
        for path in paths:
            if path not in decoded:
                decoded[path] = _read_czyx_region(path, stack, box, plane.t)
        image = np.concatenate([decoded[p] for p in paths], axis=1)
        if plane.channel == GREY:
            out.append(to_grey(image[:, 0]))
            continue
        if plane.z == "sharpest" and image.shape[1] > 1:
            raise InputError(
                "It is too large to choose its sharpest plane; import it with max, mean or the number of a plane."
            )
        out.append(flatten_z(image[plane.channel], plane.z, plane.path.rpartition("/")[2]))
    region = np.stack(out)
    if region.dtype.kind == "f" and not np.isfinite(region).all():
        raise InputError("It holds NaN or infinite values.")
    return region


def _read_czyx_region(path: Path, stack: str, box: Box, t: int) -> np.ndarray:
    """A part of the file's image as (C, Z, h, w)."""
    check_exists(path)
    if path.is_dir():
        with reading(path, "OME-Zarr"):
            held, array = ome_zarr.inspect(path)
            axes = name_axes(held.axes, held.shape, stack, path)
            part = _part_of(array, axes, box, t)
    else:
        with reading(path, "TIFF"), tifffile.TiffFile(path) as tif:
            series = pick_series(tif, path)
            axes = name_axes(series.axes, series.shape, stack, path)
            if series.dataoffset is not None:  # not compressed: mapped into memory, not read
                mapped = np.memmap(
                    path, tif.byteorder + series.dtype.char, "r", series.dataoffset, series.shape
                )
                part = _part_of(mapped, axes, box, t)
            else:
                with series.aszarr(level=0) as store:
                    part = _part_of(zarr.open(store, mode="r"), axes, box, t)
    return to_czyx(part, axes, path)


def _part_of(array: Any, axes: str, box: Box, t: int) -> np.ndarray:
    y0, x0, y1, x1 = box
    where = {"Y": slice(y0, y1), "X": slice(x0, x1), "T": slice(t, t + 1)}
    return np.array(array[tuple(where.get(a, slice(None)) for a in axes)])


# ---- smaller levels, to look at ----------------------------------------------------------------------


class LazyPlane:
    """One channel of a field as an array that is read where it is looked at."""

    ndim = 2

    def __init__(self, plane: Plane, root: Path, shape: tuple[int, int], dtype: Any, stack: str = "channel"):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._plane, self._root, self._stack = plane, root, stack

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        index = tuple(i for i in index if i is not Ellipsis) + (slice(None),) * 2
        ranges = [
            range(n)[i] if isinstance(i, slice) else range(int(i), int(i) + 1)
            for i, n in zip(index, self.shape, strict=False)
        ]
        if not all(len(r) for r in ranges):
            return np.zeros([len(r) for r in ranges], self.dtype)
        (y0, y1), (x0, x1) = ((min(r), max(r) + 1) for r in ranges)
        region = read_region((self._plane,), self._root, (y0, x0, y1, x1), stack=self._stack)[0]
        picked = region[np.ix_(*(np.array(r) - min(r) for r in ranges))]
        return picked[tuple(slice(None) if isinstance(i, slice) else 0 for i in index[:2])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :], dtype)


def pyramid(
    planes: Sequence[Plane],
    root: Path,
    shape: tuple[int, int],
    dtype: str,
    folder: Path,
    *,
    stack: str = "channel",
) -> list[list[Any]]:
    """Levels of every channel, the largest first, each half of the one before: the field's own, then smaller ones.

    Parameters
    ----------
    folder : Path
        Where the smaller ones are written (a third of the field's pixels); a folder that is not there yet.

    Returns
    -------
    list of list of array
        Read where they are looked at; for every channel one list.
    """
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    levels: list[list[Any]] = [[LazyPlane(p, root, shape, dtype, stack) for p in planes]]
    while max(levels[-1][0].shape) > SMALLEST_PX:
        h, w = levels[-1][0].shape
        small = (-(-h // 2), -(-w // 2))
        chunks = (min(CHUNK_PX // 2, small[0]), min(CHUNK_PX // 2, small[1]))
        made = [
            group.create_array(f"{len(levels)}/{c}", shape=small, chunks=chunks, dtype=dtype)
            for c in range(len(planes))
        ]
        for y in range(0, h, TILE_PX):
            for x in range(0, w, TILE_PX):
                box = (y, x, min(y + TILE_PX, h), min(x + TILE_PX, w))
                if len(levels) == 1:
                    part: Any = read_region(planes, root, box, stack=stack)
                else:
                    part = [a[box[0] : box[2], box[1] : box[3]] for a in levels[-1]]
                for array, plane in zip(made, part, strict=True):
                    array[y // 2 : -(-box[2] // 2), x // 2 : -(-box[3] // 2)] = plane[::2, ::2]
        levels.append(made)
    return [list(of_channel) for of_channel in zip(*levels, strict=True)]


# ---- labels in chunks --------------------------------------------------------------------------------


class LabelWriter:
    """Labels of one field on their way to disk: an OME-Zarr (0.4) of uint32 with smaller levels for viewers.

    Parameters
    ----------
    path : Path
        A folder that is not there yet.
    shape : tuple of int
        Height and width.
    um_per_px : float
        Pixel size; 0 if unknown.
    """

    def __init__(self, path: Path, shape: tuple[int, int], um_per_px: float = 0.0):
        self._group = zarr.open_group(path, mode="w", zarr_format=2)
        self._um = um_per_px
        self.n_cells = 0
        self.array = self._level(0, shape)

    def _level(self, i: int, shape: tuple[int, int]) -> Any:
        return self._group.create_array(
            str(i), shape=shape, dtype=np.uint32, chunks=tuple(min(CHUNK_PX, n) for n in shape), fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip

    def finish(self, how: Mapping[str, Any]) -> None:
        """Make the smaller levels, and write how the labels were made."""
        levels = [self.array]
        while max(levels[-1].shape) > SMALLEST_PX:
            h, w = levels[-1].shape
            small = self._level(len(levels), (-(-h // 2), -(-w // 2)))
            for y in range(0, h, 2 * CHUNK_PX):
                for x in range(0, w, 2 * CHUNK_PX):
                    part = levels[-1][y : y + 2 * CHUNK_PX, x : x + 2 * CHUNK_PX][::2, ::2]
                    small[y // 2 : y // 2 + part.shape[0], x // 2 : x // 2 + part.shape[1]] = part
            levels.append(small)
        unit = {"unit": "micrometer"} if self._um > 0 else {}
        step = self._um if self._um > 0 else 1.0
        datasets = [
            {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [step * 2**i] * 2}]}
            for i in range(len(levels))
        ]
        axes = [{"name": n, "type": "space", **unit} for n in "yx"]
        self._group.attrs.update(
            {
                "multiscales": [{"version": "0.4", "name": "labels", "axes": axes, "datasets": datasets}],
                "image-label": {"version": "0.4"},
                "cellrep": json.loads(json.dumps({**how, "n_cells": self.n_cells}, default=str)),
            }
        )


def read_labels(path: Path, box: Box) -> np.ndarray:
    """A part of labels that a `LabelWriter` wrote, uint32 (h, w)."""
    y0, x0, y1, x1 = box
    try:
        return np.asarray(label_levels(path)[0][y0:y1, x0:x1])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path.name} cannot be read ({error}); segment the field again.") from error


def label_levels(path: Path) -> list[Any]:
    """The levels of labels that a `LabelWriter` wrote, the largest first, as arrays read where they are asked for."""
    group = zarr.open_group(path, mode="r")
    return [group[name] for name in sorted(group.array_keys(), key=int)]


def label_info(path: Path) -> dict[str, Any]:
    """How they were made; empty where it does not say."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs.get("cellrep", {}))  # type: ignore[call-overload]
    except (OSError, ValueError, KeyError):
        return {}


def sample(
    read: Callable[[Box], np.ndarray], shape: tuple[int, int], *, side_px: int = 0, n: int = 3
) -> np.ndarray:
    """A picture (C, h, w) put together of n × n parts of a field, to measure brightness and sizes on.

    Parts with little in them are left out: of a slide most may be glass. `read` gives the pixels (C, h, w) of a part.
    """
    h, w = shape
    side = min(side_px or 768, h, w)
    many = 2 * n
    found = []
    for y in np.linspace(0, h - side, many).astype(int).tolist():
        for x in np.linspace(0, w - side, many).astype(int).tolist():
            middle = (y + side // 3, x + side // 3, y + 2 * side // 3, x + 2 * side // 3)
            found.append((float(read(middle).std()), y, x))
    richest = sorted(found, reverse=True)[: many * many // 2]
    chosen = sorted((y, x) for _, y, x in richest[:: len(richest) // (n * n)][: n * n])
    parts = [read((y, x, y + side, x + side)) for y, x in chosen]
    return np.concatenate([np.concatenate(parts[i * n : (i + 1) * n], axis=2) for i in range(n)], axis=1)
