"""Pixels on disk: what a file holds, and one channel of it as a 2-D array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imageio.v3 as iio
import numpy as np
import tifffile

from napari_cellrep.specs import InputError

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")
Z_METHODS = ("max", "mean", "sharpest")

_UM_PER_UNIT = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3}


@dataclass(frozen=True)
class Plane:
    """Where one channel of one field is.

    Parameters
    ----------
    path : str
        The file; relative paths are relative to the project folder.
    channel : int
        Index of the channel in the file.
    z : str
        How a z-stack becomes one plane: "max", "mean", "sharpest", or the number of a plane (from 0).
        "" where there is no stack.
    """

    path: str
    channel: int = 0
    z: str = ""


@dataclass(frozen=True)
class ImageInfo:
    """What a file holds, read without its pixels where the format allows it."""

    n_channels: int
    n_z: int
    height_px: int
    width_px: int
    dtype: str
    colour: bool  # the channels are red, green, blue (and alpha) of one colour image
    um_per_px: float  # 0 when the file does not say
    channel_names: tuple[str, ...] = ()


def inspect_image(path: Path, *, stack: str = "channel") -> ImageInfo:
    """Tell what an image file holds.

    Parameters
    ----------
    path : Path
        TIFF, OME-TIFF, PNG or JPEG.
    stack : {"channel", "z"}
        What an axis is that the file does not name.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, of another kind, or has several time points.
    """
    array_axes, shape, dtype, um, names = _open(path, stack)
    sizes = dict(zip(array_axes, shape, strict=True))
    if sizes.get("T", 1) > 1:
        raise InputError(f"{path.name} has {sizes['T']} time points; split it into one file per time point.")
    colour = "S" in sizes
    return ImageInfo(
        n_channels=sizes.get("C", 1) * sizes.get("S", 1),
        n_z=sizes.get("Z", 1),
        height_px=sizes["Y"],
        width_px=sizes["X"],
        dtype=str(dtype),
        colour=colour,
        um_per_px=um,
        channel_names=() if colour else names,
    )


def read_planes(planes: Sequence[Plane], root: Path, *, stack: str = "channel") -> np.ndarray:
    """Read the channels of one field.

    Each file is decoded once, however many of its channels are asked for.

    Returns
    -------
    ndarray of shape (C, H, W)
        In the files' own dtype (the widest of them when they differ).

    Raises
    ------
    InputError
        If a file is missing or cannot be read, or the channels differ in height or width.
    """
    decoded: dict[str, np.ndarray] = {}
    out = []
    for plane in planes:
        path = root / plane.path
        if plane.path not in decoded:
            decoded[plane.path] = _read_czyx(path, stack)
        image = decoded[plane.path]
        if plane.channel == GREY:
            out.append(to_grey(image[:, 0]))
            continue
        if not 0 <= plane.channel < len(image):
            raise InputError(f"{path.name} has {len(image)} channels; number {plane.channel} is not among them.")
        out.append(flatten_z(image[plane.channel], plane.z, path.name))
    sizes = {a.shape for a in out}
    if len(sizes) > 1:
        text = ", ".join(f"{Path(p.path).name} {a.shape[1]}×{a.shape[0]}" for p, a in zip(planes, out, strict=True))
        raise InputError(f"The channels of a field have to be of one size; got {text} px.")
    return np.stack(out)


GREY = -1  # as a Plane's channel: the colour image turned to grey


def to_grey(rgb: np.ndarray) -> np.ndarray:
    """Grey of a colour image of shape (3 or 4, H, W): the mean of red, green and blue (intensity, not luma)."""
    grey = rgb[:3].mean(axis=0)
    return grey.round().astype(rgb.dtype) if rgb.dtype.kind in "ui" else grey.astype(rgb.dtype)


def flatten_z(stack: np.ndarray, method: str, name: str = "The image") -> np.ndarray:
    """Turn a z-stack (Z, H, W) into one plane (H, W).

    "sharpest" takes the plane with the largest variance of its Laplacian.
    """
    if len(stack) == 1:
        return stack[0]
    if method == "max":
        return stack.max(axis=0)
    if method == "mean":
        mean = stack.mean(axis=0)
        return mean.round().astype(stack.dtype) if stack.dtype.kind in "ui" else mean.astype(stack.dtype)
    if method == "sharpest":
        from scipy.ndimage import laplace

        return stack[int(np.argmax([laplace(p.astype(np.float32)).var() for p in stack]))]
    if method.isdigit() and int(method) < len(stack):
        return stack[int(method)]
    raise InputError(
        f"{name} is a stack of {len(stack)} planes; say how to flatten it: max, mean, sharpest, "
        f"or a plane from 0 to {len(stack) - 1}{f' (got {method!r})' if method else ''}."
    )


def _open(path: Path, stack: str) -> tuple[str, tuple[int, ...], np.dtype, float, tuple[str, ...]]:
    """Axes, shape, dtype, µm/px and channel names of the file's first image."""
    _check_exists(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        try:
            with tifffile.TiffFile(path) as tif:
                series = tif.series[0]
                return (*_axes(series.axes, series.shape, stack), series.dtype, *_tiff_metadata(tif))
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001  (tifffile raises many kinds on broken files)
            raise InputError(f"{path.name} cannot be read as TIFF ({_short(error)}).") from error
    if path.suffix.lower() in IMAGE_SUFFIXES:
        image = _read_plain(path)
        return ("YX" if image.ndim == 2 else "YXS"), image.shape, image.dtype, 0.0, ()
    raise InputError(f"{path.name} is not an image we read; use TIFF, OME-TIFF, PNG or JPEG.")


def _read_czyx(path: Path, stack: str) -> np.ndarray:
    """The file's first image as (C, Z, H, W); the samples of a colour image are channels."""
    _check_exists(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        try:
            with tifffile.TiffFile(path) as tif:
                series = tif.series[0]
                image, (axes, _) = series.asarray(), _axes(series.axes, series.shape, stack)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001
            raise InputError(f"{path.name} cannot be read as TIFF ({_short(error)}).") from error
    else:
        image = _read_plain(path)
        axes = "YX" if image.ndim == 2 else "YXS"
    if image.dtype.kind not in "uifb":
        raise InputError(f"{path.name} holds {image.dtype} values; integers or floats are wanted.")
    sizes = dict(zip(axes, image.shape, strict=True))
    for axis, size in sizes.items():
        if axis not in "CZYXS" and size > 1:
            raise InputError(f"{path.name} has {size} images along axis {axis}; split it into one file each.")
    order = [axes.index(a) for a in "CSZYX" if a in axes]
    rest = [i for i in range(image.ndim) if i not in order]
    image = image.transpose(rest + order)
    return image.reshape(
        sizes.get("C", 1) * sizes.get("S", 1), sizes.get("Z", 1), sizes["Y"], sizes["X"]
    )  # (C, Z, H, W)


def _axes(axes: str, shape: tuple[int, ...], stack: str) -> tuple[str, tuple[int, ...]]:
    """Name unnamed axes (tifffile's I and Q) as channel or z, once each."""
    named = ""
    for axis, size in zip(axes, shape, strict=True):
        if axis in "IQ" and size > 1:
            axis = {"channel": "C", "z": "Z"}[stack]
            if axis in named + axes:
                axis = "Z" if axis == "C" else "C"
        named += axis
    return named, shape


def _tiff_metadata(tif: Any) -> tuple[float, tuple[str, ...]]:
    """µm per pixel and channel names from OME-XML or ImageJ; 0.0 and () where they say nothing usable."""
    if tif.ome_metadata:
        try:
            root = ElementTree.fromstring(tif.ome_metadata)
        except ElementTree.ParseError:
            return 0.0, ()
        pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
        if pixels is None:
            return 0.0, ()
        names = tuple(e.get("Name") or "" for e in pixels if e.tag.endswith("}Channel"))
        um = _to_um(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm"))
        return um, names if all(names) else ()
    if tif.imagej_metadata and tif.pages:
        resolution = tif.pages[0].tags.get("XResolution")
        if resolution is not None and resolution.value[0]:
            return _to_um(resolution.value[1] / resolution.value[0], tif.imagej_metadata.get("unit", "")), ()
    return 0.0, ()


def _to_um(size: Any, unit: str) -> float:
    try:
        um = float(size) * _UM_PER_UNIT.get(unit.replace("\\u00B5m", "µm"), 0.0)
    except (TypeError, ValueError):
        return 0.0
    return um if np.isfinite(um) and um > 0 else 0.0


def _read_plain(path: Path) -> np.ndarray:
    try:
        image = np.asarray(iio.imread(path))
    except Exception as error:  # noqa: BLE001  (one library, many kinds of error)
        raise InputError(f"{path.name} cannot be read as an image ({_short(error)}).") from error
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes).")


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
