"""Images larger than memory: how one is cut into parts, smaller levels of it to look at, and labels written in chunks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_cellrep.data.files import replacing, write_text
from napari_cellrep.data.images import Box as Box
from napari_cellrep.specs import InputError

BIG_PX = 8192 * 8192  # fields with more pixels are worked on in parts
TILE_PX = 2048  # side of a part
CHUNK_PX = 1024  # side of a chunk of labels on disk
SMALLEST_PX = 1024  # a level of the pyramid that is not larger is the last
_STATE = ".unfinished.json"  # in the folder of labels that are being written: how far they are


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


def windows(shape: tuple[int, int], side_px: int, n: int) -> list[list[Box]]:
    """N × n windows spread evenly over a field, row by row; they overlap where it is small."""
    h, w = shape
    rows, columns = (np.linspace(0, size - min(side_px, size), n).astype(int).tolist() for size in shape)
    return [[(y, x, min(y + side_px, h), min(x + side_px, w)) for x in columns] for y in rows]


def by_tile(yx: np.ndarray, side_px: int = 0) -> list[np.ndarray]:
    """Which of places (n, 2) lie in one tile: indices, tile after tile."""
    if not len(yx):
        return []
    y, x = (np.asarray(yx) // (side_px or TILE_PX)).astype(np.int64).T
    key = y * (int(x.max()) + 1) + x
    order = np.argsort(key, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


# ---- the whole of a field, from little ----------------------------------------------------------------

Read = Callable[[Box], np.ndarray]  # pixels (C, h, w) of a part


def glimpse(read: Read, shape: tuple[int, int], *, side_px: int = 256, n: int = 6) -> np.ndarray:
    """A picture (C, h, w) put together of n × n windows spread evenly over a field: what it holds, to measure brightness on.

    A field that is not larger than that is read whole.
    """
    h, w = shape
    if h <= n * side_px and w <= n * side_px:
        return read((0, 0, h, w))
    parts = [[read(box) for box in row] for row in windows(shape, side_px, n)]
    return np.concatenate([np.concatenate(row, axis=2) for row in parts], axis=1)


def overview(read: Read, shape: tuple[int, int], most_px: int) -> tuple[np.ndarray, int]:
    """A whole field shrunk by a whole number so that its longer side has at most `most_px`, read part by part.

    Returns
    -------
    ndarray of shape (C, h, w), float32
        Means of squares; at the lower and right edge of what is there of them.
    int
        Field pixels per pixel of it.
    """
    by = -(-max(shape) // most_px)
    h, w = (-(-n // by) for n in shape)
    out: np.ndarray | None = None
    for tile in tiles(*shape, 0, align_px=by):
        y0, x0, y1, x1 = tile.core
        part = read(tile.core).astype(np.float32)
        for axis, n in ((1, y1 - y0), (2, x1 - x0)):
            part = np.add.reduceat(part, np.arange(0, n, by), axis=axis)
        rows, columns = (np.diff([*range(0, n, by), n]) for n in (y1 - y0, x1 - x0))
        part /= rows[:, None] * columns
        out = np.empty((len(part), h, w), np.float32) if out is None else out
        out[:, y0 // by : y0 // by + part.shape[1], x0 // by : x0 // by + part.shape[2]] = part
    assert out is not None  # a field has pixels
    return out, by


# ---- smaller levels, to look at ----------------------------------------------------------------------

ReadChannels = Callable[[Box, Sequence[int]], np.ndarray]  # pixels (c, h, w) of a part of some channels


class LazyPlane:
    """One channel of a field as an array that is read where it is looked at.

    Parameters
    ----------
    read : callable
        Gives pixels (h, w) of a part, y0, x0, y1, x1.
    shape : tuple of int
        Height and width.
    """

    ndim = 2

    def __init__(self, read: Callable[[Box], np.ndarray], shape: tuple[int, int], dtype: Any):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._read = read

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
        region = self._read((y0, x0, y1, x1))
        picked = region[np.ix_(*(np.array(r) - min(r) for r in ranges))]
        return picked[tuple(slice(None) if isinstance(i, slice) else 0 for i in index[:2])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:, :], dtype)


def levels(
    read: ReadChannels, shape: tuple[int, int], dtype: str, n_channels: int, folder: Path
) -> list[list[Any]]:
    """Levels of every channel, the largest first, each half of the one before: the field's own, then those in `folder`.

    Returns
    -------
    list of list of array
        Read where they are looked at; for every channel one list.
    """
    group = zarr.open_group(folder, mode="r")
    smaller = sorted(group.group_keys(), key=int)

    def whole(channel: int) -> LazyPlane:
        return LazyPlane(lambda box: read(box, (channel,))[0], shape, dtype)

    return [[whole(c), *(group[f"{i}/{c}"] for i in smaller)] for c in range(n_channels)]


def write_levels(
    read: ReadChannels, shape: tuple[int, int], dtype: str, n_channels: int, folder: Path
) -> Iterator[tuple[int, int]]:
    """Write the smaller levels of a field into `folder`, a third of its pixels; it is there once all is written.

    Yields
    ------
    (int, int)
        Parts done, and all parts.
    """
    sizes = [shape]
    while max(sizes[-1]) > SMALLEST_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    parts = [tiles(*size, 0, align_px=2) for size in sizes[:-1]]
    done, total = 0, sum(map(len, parts))
    with replacing(folder) as tmp:
        group = zarr.open_group(tmp, mode="w", zarr_format=3)
        above: list[Any] = []
        for i, (small, todo) in enumerate(zip(sizes[1:], parts, strict=True), 1):
            chunks = (min(CHUNK_PX // 2, small[0]), min(CHUNK_PX // 2, small[1]))
            made = [
                group.create_array(f"{i}/{c}", shape=small, chunks=chunks, dtype=dtype)
                for c in range(n_channels)
            ]
            for tile in todo:
                y0, x0, y1, x1 = tile.core
                part: Any = [a[y0:y1, x0:x1] for a in above] if above else read(tile.core, range(n_channels))
                for array, plane in zip(made, part, strict=True):
                    array[y0 // 2 : -(-y1 // 2), x0 // 2 : -(-x1 // 2)] = plane[::2, ::2]
                done += 1
                yield done, total
            above = made


# ---- labels in chunks --------------------------------------------------------------------------------


class LabelWriter:
    """Labels of one field on their way to disk: an OME-Zarr (0.4) of uint32 with smaller levels for viewers.

    Parameters
    ----------
    path : Path
        A folder; what is in it is replaced, unless it was begun the same way.
    shape : tuple of int
        Height and width.
    um_per_px : float
        Pixel size; 0 if unknown.
    begun_as : str
        What tells that labels in the folder were begun the same way and are gone on with; "": they never are.

    Attributes
    ----------
    array : zarr array
        The labels (H, W).
    n_cells : int
        How many there are so far; numbers go up to it where cells are numbered as they are found.
    n_done : int
        Parts that are finished.
    found : dict
        What else is to be known to go on, plain numbers and text.
    said : dict
        What to write of how the labels were made beside what `finish` is given.
    """

    def __init__(self, path: Path, shape: tuple[int, int], um_per_px: float = 0.0, begun_as: str = ""):
        self._um, self._state, self._begun_as = um_per_px, path / _STATE, begun_as
        self.n_cells = self.n_done = 0
        self.found: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        if begun_as and self._go_on(path, shape):
            return
        self._group = zarr.open_group(path, mode="w", zarr_format=2)
        self.array = self._level(0, shape)

    def _go_on(self, path: Path, shape: tuple[int, int]) -> bool:
        """Take up what was begun before; False if it was begun another way, or is not readable."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["begun_as"] != self._begun_as:
                return False
            self._group = zarr.open_group(path, mode="r+", zarr_format=2)
            self.array = self._group["0"]
            if self.array.shape != shape:
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.n_done, self.n_cells, self.found = state["n_done"], state["n_cells"], state["found"]
        return True

    def keep(self, n_done: int) -> None:
        """Note that this many parts are finished: should the process be stopped or killed, others need not be done again."""
        self.n_done = n_done
        state = {
            "begun_as": self._begun_as,
            "n_done": n_done,
            "n_cells": self.n_cells,
            "found": self.found,
        }
        write_text(self._state, json.dumps(state))

    def forget_unfinished(self, box: Box) -> None:
        """Take out what a killed process wrote of the part after the last finished one: numbers above `n_cells`."""
        y0, x0, y1, x1 = box
        there = self.array[y0:y1, x0:x1]
        if there.max(initial=0) > self.n_cells:
            self.array[y0:y1, x0:x1] = np.where(there > self.n_cells, 0, there)

    def _level(self, i: int, shape: tuple[int, int]) -> Any:
        return self._group.create_array(
            str(i), shape=shape, dtype=np.uint32, chunks=tuple(min(CHUNK_PX, n) for n in shape), fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"}, overwrite=True,
        )  # fmt: skip

    def finish(self, how: Mapping[str, Any]) -> None:
        """Make the smaller levels, and write how the labels were made."""
        levels = [self.array]
        top = self._top()
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
                "cellrep": json.loads(
                    json.dumps({**how, **self.said, "n_cells": self.n_cells, TOP: top}, default=str)
                ),
            }
        )
        self._state.unlink(missing_ok=True)

    def _top(self) -> int:
        """The largest number there is."""
        return max((int(np.max(part)) for part in _chunks_of(self.array)), default=0)


def _chunks_of(array: Any) -> Iterator[np.ndarray]:
    """An array of two axes, a few chunks at a time."""
    h, w = array.shape
    for tile in tiles(h, w, 0, align_px=CHUNK_PX):
        y0, x0, y1, x1 = tile.core
        yield np.asarray(array[y0:y1, x0:x1])


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


# ---- labels changed in a part ------------------------------------------------------------------------
#
# The chunks that a part changes are written into a folder beside the labels, which gets its name, the journal's, once all are
# there: from then on the change counts. Then chunk by chunk takes the place of the old one. What a killed process has left
# undone of a journal is done by whoever looks at the labels next; a folder without the name is no change, and is swept.

TOP = "top"  # in what is said of labels: the largest number that any cell has had; new ones are above it
_NAMES = "names.json"  # in the journal: the files that are put in place, and those that there are no longer


def journal_of(path: Path) -> Path:
    """Where the change of labels at `path` is, from when it counts until it is done."""
    return path.with_name(f".{path.name}.journal")


def write_journal(
    path: Path, box: Box, labels: np.ndarray, info: Mapping[str, Any], keep: Callable[[Path], None]
) -> int:
    """Write what other labels of a part change: chunks of every level that differ, and what is said of the labels.

    Parameters
    ----------
    path : Path
        Labels that a `LabelWriter` wrote.
    box : Box
        The part.
    labels : ndarray of shape (h, w), uint32
    info : mapping
        Takes the place of `label_info`.
    keep : callable
        Called with every file that changes, before the change counts.

    Returns
    -------
    int
        How many chunks there are in it.
    """
    group = zarr.open_group(path, mode="r")
    names: list[str] = []
    with replacing(journal_of(path)) as tmp:
        tmp.mkdir()
        for level, old in ((name, group[name]) for name in sorted(group.array_keys(), key=int)):
            (tmp / level).mkdir()
            shutil.copyfile(path / level / ".zarray", tmp / level / ".zarray")
            new = zarr.open_array(tmp / level, mode="r+", zarr_format=2)
            names += [f"{level}/{y}/{x}" for y, x in _write_changed(old, new, int(level), box, labels)]
        n_chunks = len(names)
        attrs = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
        (tmp / ".zattrs").write_text(_as_attrs({**attrs, "cellrep": info}), encoding="utf-8")
        names.append(".zattrs")
        put = [name for name in names if (tmp / name).is_file()]  # a chunk without cells has no file
        gone = [name for name in names if name not in put]
        (tmp / _NAMES).write_text(json.dumps({"put": put, "remove": gone}), encoding="utf-8")
        for name in (*put, _NAMES):
            with (tmp / name).open("rb+") as f:
                os.fsync(f.fileno())
        for name in names:
            keep(path / name)
    return n_chunks


def _write_changed(old: Any, new: Any, level: int, box: Box, labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Write chunks of a level that a part's labels change, and tell which (row, column); empty ones are not written."""
    step = 2**level
    first = [-(-n // step) for n in box[:2]]
    part = labels[first[0] * step - box[0] :: step, first[1] * step - box[1] :: step]
    (rows, columns), (h, w) = old.chunks, part.shape
    if not part.size:
        return
    for row in range(first[0] // rows, (first[0] + h - 1) // rows + 1):
        for column in range(first[1] // columns, (first[1] + w - 1) // columns + 1):
            y0, x0 = row * rows, column * columns
            y1, x1 = min(y0 + rows, old.shape[0]), min(x0 + columns, old.shape[1])
            before = np.asarray(old[y0:y1, x0:x1])
            after = before.copy()
            a, b = max(y0, first[0]), max(x0, first[1])
            c, d = min(y1, first[0] + h), min(x1, first[1] + w)
            after[a - y0 : c - y0, b - x0 : d - x0] = part[
                a - first[0] : c - first[0], b - first[1] : d - first[1]
            ]
            if not np.array_equal(before, after):
                new[y0:y1, x0:x1] = after
                yield row, column


def finish_journal(path: Path) -> None:
    """Do what the journal of labels says, if there is one. Killed on the way, it can be run again."""
    journal = journal_of(path)
    try:
        names = json.loads((journal / _NAMES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = {"put": (), "remove": ()}  # done, and was being removed
    for name in names["put"]:
        if (journal / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (journal / name).replace(path / name)
    for name in names["remove"]:
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(journal, ignore_errors=True)


def say_of_labels(path: Path, info: Mapping[str, Any]) -> None:
    """Replace `label_info`; the labels stay as they are."""
    attrs = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    write_text(path / ".zattrs", _as_attrs({**attrs, "cellrep": info}))


def _as_attrs(attrs: Mapping[str, Any]) -> str:
    return json.dumps(attrs, default=str)


def largest_label(path: Path) -> Iterator[int]:
    """Look through labels, a few chunks at a time, for the largest number; yields the largest so far."""
    top = 0
    for part in _chunks_of(label_levels(path)[0]):
        top = max(top, int(part.max(initial=0)))
        yield top


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
