"""Labels → boxes → crops: each in one pass over the field, never a scan of the image per cell."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_cellrep.specs import CropSpec, InputError

BAND_PX = 1 << 21  # of a field, looked through for cells at a time


@dataclass(frozen=True)
class Boxes:
    """Where the cells of one field are; row i of every array is one cell, in order of its label.

    Parameters
    ----------
    label : ndarray of shape (n,), int64
    area_px : ndarray of shape (n,), int64
    centroid : ndarray of shape (n, 2), float64
        y, x in pixels.
    box : ndarray of shape (n, 4), int64
        y0, x0, y1, x1; the end is exclusive.
    """

    label: np.ndarray
    area_px: np.ndarray
    centroid: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Place:
    """Where one crop's pixels lie in its field.

    Parameters
    ----------
    y0, x0 : float
        Field coordinates of the middle of the crop's first pixel; the middle of the field's first pixel is 0.
    step : float
        Field pixels from one crop pixel to the next.
    inside : tuple of int
        y0, x0, y1, x1 of the part of the crop that shows the image, in crop pixels, the end exclusive; the rest is
        padding.
    """

    y0: float
    x0: float
    step: float
    inside: tuple[int, int, int, int]


def find_cells(labels: np.ndarray) -> Boxes:
    """Find every cell of a label image.

    Parameters
    ----------
    labels : ndarray of shape (H, W), integer
        0 is background. Numbers may have gaps.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise InputError(f"Labels are a 2-D image of integers; got shape {labels.shape} of {labels.dtype}.")
    h, w = labels.shape
    if not labels.size:
        return Boxes(
            *(np.zeros(n, t) for n, t in ((0, np.int64), (0, np.int64), ((0, 2), float), ((0, 4), np.int64)))
        )
    # Rows by rows, in bands whose runs stay in the processor's cache, so that a large field costs no more per pixel.
    rows = max(1, BAND_PX // w)
    bands = [_find_in_band(labels[y : y + rows], y) for y in range(0, h, rows)]
    label, area, sums, box = (np.concatenate(some) for some in zip(*bands, strict=True))
    found, index = _compact(label)
    n = len(found)
    area = np.bincount(index, area, n)
    centroid = np.stack([np.bincount(index, v, n) for v in sums.T], axis=1) / np.maximum(area, 1)[:, None]
    return Boxes(found.astype(np.int64), area.astype(np.int64), centroid, _around(box, index, n))


def _find_in_band(labels: np.ndarray, y0: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the cells in some rows of a field, the first of which is `y0`: label, pixels, sums of y and x, and box."""
    h, w = labels.shape
    # Runs of one number along a row: a few per cell and row, so that all that follows is small.
    start, values = _runs(labels.ravel(), w)
    if values.dtype.kind == "i" and values.min() < 0:
        raise InputError("Labels have negative numbers; 0 is background and cells count from 1.")
    own = np.flatnonzero(values)
    length = np.append(start, h * w)[own + 1] - start[own]
    y, x0 = np.divmod(start[own], w)
    y += y0
    found, index = _compact(values[own])
    n = len(found)
    middle = x0 + (length - 1) / 2
    sums = [np.bincount(index, v * length, n) for v in (y, middle)]  # exact: halves far below 2**53
    box = _around(np.stack([y, x0, y + 1, x0 + length], axis=1), index, n)
    return found, np.bincount(index, length, n), np.stack(sums, axis=1), box


def _around(boxes: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
    """The boxes around some: those of which `index` says that they are parts of one of `n`."""
    box = np.empty((n, 4), np.int64)
    box[:, :2], box[:, 2:] = np.iinfo(np.int64).max, 0
    for i in range(4):
        (np.minimum if i < 2 else np.maximum).at(box[:, i], index, boxes[:, i])
    return box


def join_boxes(parts: Sequence[Boxes]) -> Boxes:
    """Cells of a whole field from those of parts that share no pixel; a cell may lie in several."""
    if not parts:
        return find_cells(np.zeros((0, 0), np.int32))
    labels, areas, centres, boxes = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("label", "area_px", "centroid", "box")
    )
    found, index = np.unique(labels, return_inverse=True)
    n = len(found)
    area = np.bincount(index, areas, n)
    centroid = np.stack([np.bincount(index, c * areas, n) / np.maximum(area, 1) for c in centres.T], axis=1)
    return Boxes(found, area.astype(np.int64), centroid, _around(boxes, index, n))


def moved(cells: Boxes, origin: tuple[int, int]) -> Boxes:
    """The same cells seen from another first pixel, `origin` (y, x): where they are in a part of their field."""
    y0, x0 = origin
    return dataclasses.replace(
        cells, centroid=cells.centroid - np.array([y0, x0]), box=cells.box - np.array([y0, x0, y0, x0])
    )


def picked(cells: Boxes, labels: Sequence[int] | np.ndarray) -> Boxes:
    """Those of the cells that have one of these labels."""
    at = np.isin(cells.label, np.asarray(labels, np.int64))
    return Boxes(cells.label[at], cells.area_px[at], cells.centroid[at], cells.box[at])


def around(cells: Boxes, specs: Sequence[CropSpec], um_per_px: float = 0.0) -> tuple[int, int, int, int]:
    """The part of a field, y0, x0, y1, x1, that holds all that `cut_crops` shows of cells; it may reach over the edge."""
    longest = int((cells.box[:, 2:] - cells.box[:, :2]).max(initial=0))
    margin = 2
    for spec in specs:
        boxed = math.ceil(longest * max(1.0, spec.box_scale)) + spec.size_px
        margin = max(margin, 2 + (spec.side_px(um_per_px) if spec.mode == "window" else boxed))
    low = np.minimum(cells.box[:, :2], cells.centroid.astype(np.int64)).min(axis=0) - margin
    high = np.maximum(cells.box[:, 2:], cells.centroid.astype(np.int64)).max(axis=0) + margin
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _runs(flat: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of one number in a label image of rows of `width` px, laid out flat: first pixels and numbers; a row begins one, too.

    In pieces that stay in the processor's cache: twice as fast as comparing the whole image.
    """
    piece = 1 << 17
    begins = np.empty(min(piece, flat.size), bool)
    starts, values = [], []
    for a in range(0, flat.size, piece):
        b = min(a + piece, flat.size)
        here = begins[: b - a]
        first = 0 if a else 1  # the very first pixel has none before it
        np.not_equal(flat[a + first : b], flat[a + first - 1 : b - 1], out=here[first:])
        here[-a % width :: width] = True
        at = np.flatnonzero(here)
        values.append(flat[a:b][at])
        starts.append(at + a)
    return np.concatenate(starts), np.concatenate(values)


def _compact(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different values, in order, and for each of `values` which one it is: `np.unique`, without sorting if it can."""
    top = int(values.max(initial=0))
    if top > 4 * len(values) + 1000:  # numbers may be in the millions: a table of them would be mostly empty
        return np.unique(values, return_inverse=True)
    place = np.zeros(top + 1, np.intp)
    place[values] = 1
    found = np.flatnonzero(place)
    place[found] = np.arange(len(found))
    return found, place[values]


def cut_crops(
    image: np.ndarray,
    labels: np.ndarray | None,
    cells: Boxes,
    spec: CropSpec,
    um_per_px: float = 0.0,
    resized: bool = True,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Cut one crop per cell.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        The field, its channels already in the order the crop wants (`spec.channels` is not looked at here).
    labels : ndarray of shape (H, W) or None
        Needed when the crop is masked or has a mask plane.
    cells : Boxes
        Which cells, in which order.
    spec : CropSpec
        What a crop is.
    um_per_px : float
        The field's pixel size; 0 if unknown.
    resized : bool
        False: windows stay as they are cut, for a device that resizes them by `weights_to_size`.
    out : ndarray of shape (m, C, S, S), optional
        Memory for windows of the same kind, used where m is enough, and what is returned is its first rows then: new
        memory costs more than the pixels that are put there.

    Returns
    -------
    ndarray of shape (n, C, size_px, size_px), or (n, C + 1, …) with a mask plane
        In the image's dtype, float32 when the crops had to be resized.
    """
    if (spec.masked or spec.mask_plane) and labels is None:
        raise InputError("These crops show the cell's own mask, and the field has no labels.")
    if labels is not None and labels.shape != image.shape[1:]:
        raise InputError(f"Labels are {labels.shape} px and the image is {image.shape[1:]}.")
    if spec.mode == "window":
        side = spec.side_px(um_per_px)
        corners = cells.centroid.astype(np.int64) - side // 2  # centre int(centroid): models.md §1.5
        crops = _windows(image, corners, side, spec.padding, out)
        if labels is not None and (spec.masked or spec.mask_plane):
            masks = _masks(labels, cells.label, corners, side)
            if spec.masked:
                crops *= masks
            if spec.mask_plane:
                crops = np.concatenate([crops, masks.astype(crops.dtype)], axis=1)
        if side != spec.size_px and resized:
            crops = resize(crops, spec.size_px)
            if spec.mask_plane:
                crops[:, -1] = crops[:, -1] >= 0.5
        return crops
    return _boxes(image, labels, cells, spec)


def _windows(
    image: np.ndarray, corners: np.ndarray, side: int, padding: str, memory: np.ndarray | None = None
) -> np.ndarray:
    """Windows of `side` px whose first pixel is at `corners` (n, 2), which may lie outside the image."""
    c, h, w = image.shape
    n = len(corners)
    fits = memory is not None and memory.dtype == image.dtype and memory.shape[1:] == (c, side, side)
    out = memory[:n] if fits and len(memory) >= n else np.empty((n, c, side, side), image.dtype)  # type: ignore[index, arg-type]
    # Copied bit for bit, so that numbers of one width are one kind, whatever they mean and their order of bytes.
    bits = np.dtype(f"u{image.dtype.itemsize}")
    _compiled_copy()(np.asarray(image).view(bits), corners, out.view(bits))
    inside = (corners >= 0).all(axis=1) & (corners + side <= (h, w)).all(axis=1)
    if inside.all():
        return out
    # Only windows at the border are padded: a padded copy of a whole slide would cost more than all of its crops.
    for i in np.flatnonzero(~inside):
        crop, (y, x) = out[i], corners[i]
        if padding == "zero":
            part = image[:, max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
            top, left = max(-y, 0), max(-x, 0)
            crop[:] = 0
            crop[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        else:
            rows, columns = (
                _within(np.arange(y, y + side), h, padding),
                _within(np.arange(x, x + side), w, padding),
            )
            crop[:] = image[:, rows[:, None], columns]
    return out


def _copy_inside(image: np.ndarray, corners: np.ndarray, out: np.ndarray) -> None:
    """Copy those windows that lie inside the image: (C, H, W) and corners (n, 2) into (n, C, side, side)."""
    c, h, w = image.shape
    side = out.shape[-1]
    for i in range(len(corners)):
        y, x = corners[i]
        if y < 0 or x < 0 or y + side > h or x + side > w:
            continue
        for k in range(c):
            for r in range(side):
                for q in range(side):
                    out[i, k, r, q] = image[k, y + r, x + q]


@functools.cache
def _compiled_copy() -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    """`_copy_inside` as machine code: three times as fast as a NumPy slice per window, and threads run it side by side."""
    import numba  # not at the top: it takes longer to import than all else here

    try:
        return numba.njit(nogil=True, cache=True)(_copy_inside)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep the machine code in: compiled anew each time
        return numba.njit(nogil=True)(_copy_inside)  # type: ignore[no-any-return]


def _within(at: np.ndarray, n: int, padding: str) -> np.ndarray:
    """Which of n pixels is shown at places of which some lie outside."""
    if padding == "edge":
        return np.clip(at, 0, n - 1)
    at = at % (2 * n)  # "reflect": the border's own pixel twice, NumPy's "symmetric"
    return np.minimum(at, 2 * n - 1 - at)


def _masks(labels: np.ndarray, ids: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Each cell's own mask in its window: bool (n, 1, side, side)."""
    windows = _windows(labels[None], corners, side, "zero")
    return windows == ids.astype(windows.dtype)[:, None, None, None]


def _boxes(image: np.ndarray, labels: np.ndarray | None, cells: Boxes, spec: CropSpec) -> np.ndarray:
    """Mode "box": a square about the box's middle, clipped to the image, zero-padded and centred.

    As the authors count (models.md §4.4), a cell's side is its last row less its first, one less than its rows, and
    the last row and column of the square are left out. Every cell has its crop here: the authors drop those that
    touch the top or left edge of the image, which the project's own rules flag.
    """
    size, (h, w) = spec.size_px, image.shape[1:]
    n_planes = len(image) + spec.mask_plane
    out = np.zeros((len(cells), n_planes, size, size), image.dtype)
    for i, (y0, x0, y1, x1) in enumerate(cells.box):
        ya, xa, yb, xb = _bounds((y0, x0, y1, x1), spec, h, w)
        part = image[:, ya:yb, xa:xb]
        if spec.masked or spec.mask_plane:
            assert labels is not None
            own = labels[ya:yb, xa:xb] == cells.label[i]
            if spec.masked:
                part = part * own
            if spec.mask_plane:
                part = np.concatenate([part, own[None].astype(part.dtype)])
        if max(part.shape[1:]) > size:
            part = _shrink(part, size, spec.mask_plane)
        ty, tx = (size - part.shape[1]) // 2, (size - part.shape[2]) // 2
        out[i, :, ty : ty + part.shape[1], tx : tx + part.shape[2]] = part
    return out


def _bounds(box: Sequence[int], spec: CropSpec, h: int, w: int) -> tuple[int, int, int, int]:
    """Mode "box": the part of an image of (h, w) that a cell's crop shows, as y0, x0, y1, x1."""
    y0, x0, y1, x1 = (int(v) for v in box)
    size = spec.size_px
    cy, cx = y0 + (y1 - 1 - y0) // 2, x0 + (x1 - 1 - x0) // 2
    if spec.box_scale:
        half = max(y1 - y0 - 1, x1 - x0 - 1) * spec.box_scale
        half = half if spec.box_shrink else min(half, size / 2)
        return max(int(cy - half), 0), max(int(cx - half), 0), min(int(cy + half), h), min(int(cx + half), w)
    if spec.box_shrink:
        return y0, x0, y1 - 1, x1 - 1
    # of a cell that does not fit, its middle
    return (
        max(y0, cy - size // 2), max(x0, cx - size // 2), min(y1 - 1, cy + size // 2), min(x1 - 1, cx + size // 2)
    )  # fmt: skip


def find_places(cells: Boxes, spec: CropSpec, shape: tuple[int, int], um_per_px: float = 0.0) -> list[Place]:
    """Where the crops of `cut_crops` lie in the field they were cut from.

    Parameters
    ----------
    cells, spec, um_per_px
        As `cut_crops` takes them.
    shape : tuple of int
        (H, W) of the field.
    """
    size, out = spec.size_px, []
    if spec.mode == "window":
        side = spec.side_px(um_per_px)
        step = side / size
        for corner in cells.centroid.astype(np.int64) - side // 2:
            first = [max(int(-c // step), 0) for c in corner]
            last = [min(math.ceil((n - c) / step), size) for n, c in zip(shape, corner, strict=True)]
            y0, x0 = (float(c) + (step - 1) / 2 for c in corner)
            out.append(Place(y0, x0, step, (first[0], first[1], last[0], last[1])))
        return out
    for box in cells.box:
        ya, xa, yb, xb = _bounds(box, spec, *shape)
        h, w = max(yb - ya, 0), max(xb - xa, 0)
        step = max(h, w, size) / size
        shown = [max(1, round(n / step)) if step > 1 else n for n in (h, w)]
        ty, tx = ((size - n) // 2 for n in shown)
        y0, x0 = ya - ty * step + (step - 1) / 2, xa - tx * step + (step - 1) / 2
        out.append(Place(y0, x0, step, (ty, tx, ty + shown[0], tx + shown[1])))
    return out


def resize(crops: np.ndarray, size_px: int) -> np.ndarray:
    """Resize square crops (…, S, S) to (…, size_px, size_px) float32: bilinear, with area weights when shrinking.

    A whole-number reduction is the exact mean of its blocks.
    """
    weights = _resize_weights(crops.shape[-1], size_px)
    return np.matmul(np.matmul(weights, crops.astype(np.float32)), weights.T)  # type: ignore[no-any-return]


def weights_to_size(crops: np.ndarray, spec: CropSpec) -> np.ndarray | None:
    """Weights W, float32 (size_px, S), with which W @ crop @ Wᵀ is what `resize` gives of (…, S, S).

    None where the crops have their size already.
    """
    side = crops.shape[-1]
    return None if side == spec.size_px else _resize_weights(side, spec.size_px)


def _shrink(part: np.ndarray, size_px: int, has_mask: bool) -> np.ndarray:
    """Shrink (C, h, w) until its longer side is `size_px`: plain bilinear, rounded, as the authors have it."""
    h, w = part.shape[1:]
    to = [max(1, round(n * size_px / max(h, w))) for n in (h, w)]
    y, x = (_bilinear_weights(n, m) for n, m in zip((h, w), to, strict=True))
    out = np.matmul(np.matmul(y, part.astype(np.float32)), x.T)
    if part.dtype.kind in "ui":
        out = np.rint(out)
    if has_mask:
        out[-1] = out[-1] >= 0.5
    return out.astype(part.dtype)  # type: ignore[no-any-return]


def _bilinear_weights(n_in: int, n_out: int) -> np.ndarray:
    """Matrix (n_out, n_in) that samples one axis at the pixels' centres, between two neighbours each."""
    centres = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
    return np.maximum(0, 1 - np.abs(np.arange(n_in)[None] - centres[:, None])).astype(np.float32)  # type: ignore[no-any-return]


def _resize_weights(n_in: int, n_out: int) -> np.ndarray:
    """Matrix (n_out, n_in) that resamples one axis."""
    if n_in % n_out == 0:
        return np.kron(np.eye(n_out, dtype=np.float32), np.full((1, n_in // n_out), n_out / n_in, np.float32))
    scale = n_in / n_out
    centres = (np.arange(n_out) + 0.5) * scale - 0.5
    reach = max(scale, 1.0)
    weights = np.maximum(0, 1 - np.abs(np.arange(n_in)[None] - centres[:, None]) / reach)  # triangle filter
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def mask_hashes(labels: np.ndarray, cells: Boxes, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
    """One number per cell that changes when its mask changes: uint64 (n,).

    What was computed from a cell is out of date once this differs. `origin`: y, x of the labels' first pixel in the field.
    """
    import zlib

    out = np.zeros(len(cells), np.uint64)
    for i, (y0, x0, y1, x1) in enumerate(cells.box):
        own = labels[y0:y1, x0:x1] == cells.label[i]
        where = (np.array([y0, x0, y1, x1], np.int64) + np.tile(np.array(origin, np.int64), 2)).tobytes()
        out[i] = (zlib.crc32(where) << 32) | zlib.crc32(np.packbits(own).tobytes())
    return out


def focus_score(crops: np.ndarray) -> np.ndarray:
    """Sharpness per crop and plane: variance of the Laplacian over the variance of the pixels, (n, C)."""
    x = crops.astype(np.float32)
    axes = (-2, -1)
    lap = ndimage.convolve(
        x, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)[None, None], mode="nearest"
    )
    return lap.var(axis=axes) / np.maximum(x.var(axis=axes), 1e-12)  # type: ignore[no-any-return]
