"""Ready-made crops, one cell each: arrays of npz, npy and HDF5, and the contact sheet that cells of a kind make up.

HDF5 as DeepLoc's: ``data1`` holds a cell per row, its channels one after the other, flattened; ``Index1`` holds its
class, one column each, named by the attribute ``Index1_columns``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import ndimage

from napari_cellrep.specs import InputError

ARRAY_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")
MOST_CHANNELS = 16  # the axis of an array that is shorter than that, and shortest, is its channels
ZEROED_SHARE = 0.02  # a crop with fewer pixels that are 0 in every channel was not cut out along its cell


@dataclass(frozen=True)
class CropArrays:
    """Crops of one file of arrays.

    Parameters
    ----------
    images : ndarray of shape (n, C, H, W)
    known : dict of str to ndarray of shape (n,)
        What the file says of each cell.
    """

    images: np.ndarray
    known: dict[str, np.ndarray]


def read_crop_arrays(path: Path, n_channels: int = 0) -> CropArrays:
    """Read the crops of an npz, npy or HDF5 file, and what it says of each.

    Parameters
    ----------
    path : Path
    n_channels : int
        How many channels there are, where the user says it; else by the shape.

    Raises
    ------
    InputError
        If it cannot be read, or holds no array of crops.
    """
    try:
        arrays, names = _read_hdf5(path) if path.suffix.lower() in (".h5", ".hdf5") else (_read_npz(path), {})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"{path.name} cannot be read ({(str(error).splitlines() or ['broken'])[0][:120]})."
        ) from None
    pictures = {k: a for k, a in arrays.items() if a.ndim >= 2 and a.dtype.kind in "uifb" and a.size}
    if not pictures:
        raise InputError(
            f"{path.name} holds no array of cells; number × channels × height × width is wanted."
        )
    key = max(pictures, key=lambda k: pictures[k].size)
    images = _as_nchw(pictures[key], n_channels, f"{path.name}:{key}")
    if images.dtype.kind == "f" and not np.isfinite(images).all(axis=(1, 2, 3)).any():
        raise InputError(
            f"Every crop in {path.name} holds NaN or infinite values; write numbers in their place."
        )
    known: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name == key or array.ndim == 0 or len(array) != len(images):
            continue
        if array.ndim == 1:
            known[name] = array.astype(str) if array.dtype.kind in "SO" else array
        elif array.ndim == 2 and name in names and ((array == 0) | (array == 1)).all():
            words = np.array(names[name])
            known[name] = np.array([";".join(words[row > 0]) for row in array])
    return CropArrays(_plain(images), known)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    held = np.load(path, allow_pickle=False)
    if isinstance(held, np.ndarray):
        return {"images": held}
    with held:
        return {name: held[name] for name in held.files}


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Arrays, and the names of the columns of those that have some."""
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, list[str]] = {}
    with h5py.File(path) as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim:
                arrays[name] = np.asarray(item[...])
                said = file.attrs.get(f"{name}_columns", item.attrs.get("columns"))
                if said is not None and item.ndim == 2 and len(np.atleast_1d(said)) == item.shape[1]:
                    names[name] = [
                        w.decode() if isinstance(w, bytes) else str(w) for w in np.atleast_1d(said)
                    ]

        file.visititems(visit)
    return arrays, names


def _as_nchw(array: np.ndarray, n_channels: int, name: str) -> np.ndarray:
    """An array of cells as (n, C, H, W), by its shape."""
    if array.ndim == 2:  # a cell per row, its channels flattened
        for c in (n_channels,) if n_channels else range(1, MOST_CHANNELS + 1):
            side = math.isqrt(array.shape[1] // c)
            if c * side * side == array.shape[1] and side > 1:
                return array.reshape(len(array), c, side, side)
        raise InputError(
            f"{name} has rows of {array.shape[1]} numbers, which are no square pictures of 1 to {MOST_CHANNELS} "
            "channels."
        )
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4:
        axis = 1 + int(np.argmin(array.shape[1:]))
        if n_channels and array.shape[axis] != n_channels and n_channels in array.shape[1:]:
            axis = 1 + array.shape[1:].index(n_channels)
        if array.shape[axis] <= MOST_CHANNELS:
            return np.moveaxis(array, axis, 1)
    raise InputError(f"{name} has the shape {array.shape}; number × channels × height × width is wanted.")


def _plain(images: np.ndarray) -> np.ndarray:
    """In a dtype that OME-TIFF has; whole numbers that were kept as floats are whole numbers again."""
    if images.dtype.kind == "b":
        return images.astype(np.uint8)
    if images.dtype.itemsize == 8 or images.dtype == np.float16:
        if images.min() >= 0 and images.max() <= 65_535 and bool((images == np.rint(images)).all()):
            return images.astype(np.uint16)
        return images.astype(np.float32)
    return images


# ---- contact sheets --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A crop's size and which of its pixels are the cell.

    Parameters
    ----------
    height, width : int
    middle : tuple of int
        y, x of the cell's middle, where windows are centred.
    """

    height: int
    width: int
    middle: tuple[int, int]

    @property
    def side_px(self) -> int:
        """Side of the smallest window about the middle that holds all of the crop; even."""
        y, x = self.middle
        return 2 * max(y, self.height - y, x, self.width - x)


def cell_mask(crop: np.ndarray, cut_out: bool) -> np.ndarray:
    """Which pixels of a crop are its cell: all, or those beside a ground that was set to 0.

    Of a crop without such a ground its first row and column are left out where it has an even number of them, so that
    the middle of the mask is where a window of that size is centred.

    Parameters
    ----------
    crop : ndarray of shape (C, H, W)
    cut_out : bool
        Whether a ground of 0 counts. Where all crops have one size somebody chose windows, and networks shall see these.

    Returns
    -------
    ndarray of shape (H, W), bool
    """
    _, h, w = crop.shape
    inside = (crop != 0).any(axis=0)
    zeroed = 1 - inside.mean()
    rim = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    if cut_out and zeroed >= ZEROED_SHARE and not rim.all() and inside.any():
        inside = ndimage.binary_fill_holes(inside)
        pieces, n = ndimage.label(inside)
        if n > 1:
            inside = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        return np.asarray(inside)
    mask = np.ones((h, w), bool)
    if h > 1:
        mask[: 1 - h % 2] = False
    if w > 1:
        mask[:, : 1 - w % 2] = False
    return mask


def shape_of(crop: np.ndarray, cut_out: bool) -> Shape:
    """Size and middle of a crop (C, H, W); `cut_out` as in `cell_mask`."""
    y, x = np.nonzero(cell_mask(crop, cut_out))
    return Shape(crop.shape[1], crop.shape[2], (int(y.mean()), int(x.mean())))


def contact_sheet(
    crops: Sequence[Callable[[], np.ndarray]], shapes: Sequence[Shape], pitch_px: int, cut_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Put crops side by side, each with its middle in the middle of a tile.

    Parameters
    ----------
    crops : sequence of callable
        Each gives one crop of shape (C, H, W); called once, in order.
    shapes : sequence of Shape
    pitch_px : int
        Side of a tile; even, and at least the largest `Shape.side_px`.
    cut_out : bool
        As in `cell_mask`.

    Returns
    -------
    image : ndarray of shape (C, rows × pitch_px, columns × pitch_px)
        Between the crops each channel has its least value.
    labels : ndarray of the same height and width, int32
        The cell of crop i has the number i + 1.
    """
    columns = math.ceil(math.sqrt(len(crops)))
    rows = math.ceil(len(crops) / columns)
    labels = np.zeros((rows * pitch_px, columns * pitch_px), np.int32)
    image: np.ndarray | None = None
    filled = np.zeros(labels.shape, bool)
    for i, (read, shape) in enumerate(zip(crops, shapes, strict=True)):
        crop = read()
        if image is None:
            image = np.zeros((len(crop), *labels.shape), crop.dtype)
        elif crop.dtype != image.dtype:
            image = image.astype(np.promote_types(image.dtype, crop.dtype))
        y = (i // columns) * pitch_px + pitch_px // 2 - shape.middle[0]
        x = (i % columns) * pitch_px + pitch_px // 2 - shape.middle[1]
        here = (slice(y, y + shape.height), slice(x, x + shape.width))
        image[(slice(None), *here)] = crop
        filled[here] = True
        labels[here][cell_mask(crop, cut_out)] = i + 1
    assert image is not None
    for plane in image:
        plane[~filled] = plane[filled].min()
    return image, labels
