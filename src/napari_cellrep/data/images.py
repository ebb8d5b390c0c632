"""Pixels on disk: what a file holds, and one channel of it as a 2-D array."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gzip
import io
import os
import shutil
import struct
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import imageio.v3 as iio
import numpy as np
import PIL.Image
import tifffile
import zarr

from napari_cellrep.data import ome_zarr, vendors
from napari_cellrep.specs import InputError, first_line

TIFF_SUFFIXES = (".tif", ".tiff", ".tif.gz", ".tiff.gz")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg", *vendors.READERS)
READ = "TIFF, OME-TIFF, OME-Zarr, PNG or JPEG, and with an extra ND2, LIF or CZI"
Z_METHODS = ("max", "mean", "sharpest")

Box = tuple[int, int, int, int]  # y0, x0, y1, x1; the end is exclusive

_UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3,
    "meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3,
}  # fmt: skip


def suffix_of(path: Path) -> str:
    """The ending that says what a file is, in small letters: ".tif", and ".tif.gz" of a packed one."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def file_of(path: Path) -> Path:
    """The file that a path is of: itself, or of one of several images in a file (``plate.tif/scene-2``) that file."""
    return _scene(path)[0]


def _scene(path: Path) -> tuple[Path, int]:
    """The file, and which of its images is meant, from 0; -1 for the one there is."""
    file, scene = vendors.split_scene(path)
    several = (
        suffix_of(file) in TIFF_SUFFIXES or file.suffix.lower() in vendors.READERS
    )  # can hold more than one
    return (file, scene) if several else (path, -1)


@dataclass(frozen=True)
class Plane:
    """Where one channel of one field is.

    Parameters
    ----------
    path : str
        The file; relative paths are relative to the project folder. The planes of a z-stack in several files
        are one path per line.
    channel : int
        Index of the channel in the file.
    z : str
        How a z-stack becomes one plane: "max", "mean", "sharpest", or the number of a plane (from 0).
        "" where there is no stack.
    t : int
        Which time point of a time series, from 0.
    """

    path: str
    channel: int = 0
    z: str = ""
    t: int = 0

    def files(self, root: Path) -> list[Path]:
        """The file or files it is read from; `root` is the project folder."""
        real = root.resolve()  # ".." of a linked project is where the project really is
        return [Path(os.path.normpath(real / line)) for line in self.path.split("\n")]


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
    files: tuple[str, ...] = ()  # names of the files that hold its planes: several for a multi-file OME-TIFF
    n_t: int = 1  # time points
    note: str = ""  # what is odd about the file although it can be read


def inspect_image(path: Path, *, stack: str = "channel") -> ImageInfo:
    """Tell what an image file holds.

    Parameters
    ----------
    path : Path
        TIFF, OME-TIFF, PNG, JPEG, or the folder of one image of an OME-Zarr.
    stack : {"channel", "z", "time"}
        What an axis is that the file does not name.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, or of another kind.
    """
    return _open(path, stack)


def is_grey(path: Path, boxes: Sequence[Box | None] = (None,)) -> bool:
    """Whether red, green and blue of a colour image are equal everywhere, or in some parts: grey, saved as colour."""
    for box in boxes:
        image = read_czyx(path, "channel", box=box)
        if len(image) < 3 or (image[0] != image[1]).any() or (image[0] != image[2]).any():
            return False
    return True


def read_planes(
    planes: Sequence[Plane], root: Path, *, stack: str = "channel", box: Box | None = None
) -> np.ndarray:
    """Read the channels of one field, or a part of them.

    Each file is decoded once, however many of its channels are asked for.

    Parameters
    ----------
    box : Box, optional
        Only these rows and columns. TIFF and OME-Zarr are decoded only in the tiles, strips or chunks that it touches,
        and microscopes' own files in its planes; PNG and JPEG are decoded whole.

    Returns
    -------
    ndarray of shape (C, H, W), or (C, h, w)
        In the files' own dtype (the widest of them when they differ).

    Raises
    ------
    InputError
        If a file is missing or cannot be read, or the channels differ in height or width, or the sharpest plane of a
        stack is asked for in a part.
    """
    decoded: dict[str, np.ndarray] = {}  # all planes of a field are of one time point
    out = []
    for plane in planes:
        paths = plane.files(root)
        path = paths[0]
        for line, one in zip(plane.path.split("\n"), paths, strict=True):
            if line not in decoded:
                decoded[line] = read_czyx(one, stack, plane.t, box)
        image = decoded[plane.path] if len(paths) == 1 else _stack_files(paths, plane, decoded)
        if box is not None and plane.z == "sharpest" and image.shape[1] > 1:
            raise InputError(
                "It is too large to choose its sharpest plane; import it with max, mean or the number of a plane."
            )
        if plane.channel == GREY:
            out.append(to_grey(image[:, 0]))
            continue
        if not 0 <= plane.channel < len(image):
            raise InputError(
                f"{path.name} has {len(image)} channels; number {plane.channel} is not among them."
            )
        out.append(flatten_z(image[plane.channel], plane.z, path.name))
    sizes = {a.shape for a in out}
    if len(sizes) > 1:
        text = ", ".join(
            f"{Path(p.path).name} {a.shape[1]}×{a.shape[0]}" for p, a in zip(planes, out, strict=True)
        )
        raise InputError(f"The channels of a field have to be of one size; got {text} px.")
    return np.stack(out)


def _stack_files(paths: Sequence[Path], plane: Plane, decoded: dict[str, np.ndarray]) -> np.ndarray:
    """One stack (C, Z, H, W) of files that hold a z plane each."""
    parts = [decoded[line] for line in plane.path.split("\n")]
    if len({a.shape for a in parts}) > 1 or parts[0].shape[1] != 1:
        text = ", ".join(f"{p.name} {a.shape[-1]}×{a.shape[-2]}" for p, a in zip(paths, parts, strict=True))
        raise InputError(f"The z planes of a channel have to be single planes of one size; got {text} px.")
    return np.concatenate(parts, axis=1)


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


def _open(path: Path, stack: str) -> ImageInfo:
    """What the file's image is, without its pixels where the format allows it."""
    check_exists(path)
    if path.is_dir():
        with reading(path, "OME-Zarr"):
            held, _ = ome_zarr.inspect(path)
        axes = name_axes(held.axes, held.shape, stack, path)
        um = _to_um(held.x_scale, held.x_unit)
        return _info(axes, held.shape, held.dtype, False, um, held.channel_names, (path.name,), path)
    if vendors.file_of(path) is not None:
        seen = vendors.opened(path).info
        axes = name_axes(seen.axes, seen.shape, stack, path)
        colour = dict(zip(axes, seen.shape, strict=True)).get("S", 1) > 1
        return _info(
            axes, seen.shape, seen.dtype, colour, seen.um_per_px, seen.channel_names, (path.name,), path
        )
    if suffix_of(file_of(path)) in TIFF_SUFFIXES:
        with reading(path, "TIFF"), _tiff(file_of(path)) as (tif, _):
            series = pick_series(tif, path)
            _check_pages(tif, path)
            axes = name_axes(series.axes, series.shape, stack, path)
            um, names = _tiff_metadata(tif, series)
            files = tuple(dict.fromkeys(p.parent.filehandle.name for p in series.pages if p is not None))
            info = _info(axes, series.shape, series.dtype, _is_colour(series, axes), um, names, files, path)
            return dataclasses.replace(info, note=_unspoken_planes(tif, series, path))
    image = _read_plain(path)
    axes = "YX" if image.ndim == 2 else "YXS"
    return _info(axes, image.shape, image.dtype, image.ndim == 3, 0.0, (), (path.name,), path)


def _info(
    axes: str, shape: tuple[int, ...], dtype: Any, colour: bool, um: float, names: tuple[str, ...],
    files: tuple[str, ...], path: Path,
) -> ImageInfo:  # fmt: skip
    sizes = dict(zip(axes, shape, strict=True))
    n_channels = sizes.get("C", 1) * sizes.get("S", 1)
    return ImageInfo(
        n_channels=n_channels, n_z=sizes.get("Z", 1), height_px=sizes["Y"], width_px=sizes["X"],
        dtype=str(kept_dtype(np.dtype(dtype), path)), colour=colour, um_per_px=um,
        channel_names=names if len(names) == n_channels and not colour else (), files=files, n_t=sizes.get("T", 1),
    )  # fmt: skip


def read_czyx(path: Path, stack: str, t: int = 0, box: Box | None = None) -> np.ndarray:
    """The file's image at one time point, or a part of it, as (C, Z, H, W); samples of a colour image are channels."""
    check_exists(path)
    if path.is_dir():
        with reading(path, "OME-Zarr"):
            held, array = ome_zarr.inspect(path)
            axes = name_axes(held.axes, held.shape, stack, path)
            image = np.asarray(array[_where(axes, held.shape, t, box, path)])
    elif vendors.file_of(path) is not None:
        file = vendors.opened(path)
        axes = name_axes(file.info.axes, file.info.shape, stack, path)
        image = file.read(_where(axes, file.info.shape, t, box, path))
    elif suffix_of(file_of(path)) in TIFF_SUFFIXES:
        with reading(path, "TIFF"), _tiff(file_of(path)) as (tif, source):
            series = pick_series(tif, path)
            axes = name_axes(series.axes, series.shape, stack, path)
            image = _read_tiff(tif, series, _where(axes, series.shape, t, box, path), box is not None, source)
    else:
        image = _read_plain(path)
        axes = "YX" if image.ndim == 2 else "YXS"
        image = image[_where(axes, image.shape, t, box, path)]
    return to_czyx(image, axes, path)


def _read_tiff(
    tif: Any, series: Any, where: tuple[slice, ...], part: bool, source: Path | io.BytesIO | _Reader
) -> np.ndarray:
    """The pixels `where` says; no more is decoded than a part or a time point needs."""
    if isinstance(source, io.BytesIO):  # all of it is in memory already
        return np.asarray(series.asarray()[where])
    if part and series.dataoffset is not None:  # not compressed: mapped into memory, not read
        dtype = tif.byteorder + series.dtype.char
        if isinstance(source, Path):
            return np.array(np.memmap(source, dtype, "r", series.dataoffset, series.shape)[where])
        with source.of.lock:
            return np.array(np.memmap(source.of.file, dtype, "r", series.dataoffset, series.shape)[where])
    if part or any(len(range(n)[s]) < n for s, n in zip(where, series.shape, strict=True)):
        with series.aszarr(level=0) as store:
            return np.asarray(zarr.open_array(store, mode="r")[where])
    return np.asarray(series.asarray())


def to_czyx(image: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """Pixels as (C, Z, H, W) in a dtype that is kept; the samples of a colour image are channels."""
    sizes = dict(zip(axes, image.shape, strict=True))
    order = [axes.index(a) for a in "CSZYX" if a in axes]
    rest = [i for i in range(image.ndim) if i not in order]  # of size 1, or name_axes had refused
    image = image.transpose(rest + order).reshape(
        sizes.get("C", 1) * sizes.get("S", 1), sizes.get("Z", 1), sizes["Y"], sizes["X"]
    )  # (C, Z, H, W)
    return image.astype(kept_dtype(image.dtype, path), copy=False)


def _where(axes: str, shape: tuple[int, ...], t: int, box: Box | None, path: Path) -> tuple[slice, ...]:
    """Index of a part of one time point; the axis of time stays, with a length of 1."""
    if "T" in axes and not 0 <= t < shape[axes.index("T")]:
        raise InputError(
            f"{path.name} has the time points 0 to {shape[axes.index('T')] - 1}; number {t} is not among them."
        )
    known = {"T": slice(t, t + 1)}
    if box is not None:
        known |= {"Y": slice(box[0], box[2]), "X": slice(box[1], box[3])}
    return tuple(known.get(a, slice(None)) for a in axes)


def kept_dtype(dtype: np.dtype, path: Path) -> np.dtype:
    """The dtype pixels are handed on in: native byte order; no bool and no half floats, which few functions take."""
    if dtype.kind not in "uifb":
        raise InputError(f"{path.name} holds {dtype} values; integers or floats are wanted.")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float16:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


@contextlib.contextmanager
def _tiff(path: Path, as_it_says: bool = True) -> Iterator[tuple[Any, Path | io.BytesIO | _Reader]]:
    """A TIFF, opened by its OME metadata or as if it had none, and what it is read from; a packed one is unpacked first."""
    is_ome = None if as_it_says else False
    if path.suffix.lower() != ".gz":
        with tifffile.TiffFile(path, is_ome=is_ome) as tif:
            yield tif, path
        return
    with _unpacked(path) as data, tifffile.TiffFile(data, name=path.name, is_ome=is_ome) as tif:
        yield tif, data


UNPACKED_IN_MEMORY = 256 << 20  # bytes; what is more than that in a packed file is unpacked to the disk, once
MOST_UNPACKED = 2  # files on the disk at a time
_ON_DISK: dict[Path, tuple[list[list[int]], _Unpacked]] = {}
_UNPACKING = threading.Lock()


class _Unpacked:
    """What was in a packed file, in a temporary file of the system that is gone with the process, however that ends."""

    def __init__(self, file: Any):
        self.file, self.lock = file, threading.Lock()
        self.size = file.seek(0, io.SEEK_END)
        weakref.finalize(self, file.close)


class _Reader(io.BufferedReader):
    """One of several readers of such a file, each at its own place."""

    def __init__(self, of: _Unpacked):
        super().__init__(_Place(of), 1 << 16)
        self.of = of


class _Place(io.RawIOBase):
    """A place in such a file."""

    def __init__(self, of: _Unpacked):
        self.of, self._at = of, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.of.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        with self.of.lock:
            self.of.file.seek(self._at)
            n: int = self.of.file.readinto(buffer)
        self._at += n
        return n


def _unpacked(path: Path) -> io.BytesIO | _Reader:
    """What is in a packed file: in memory, or if it is large on the disk, where it stays for the next one who asks."""
    stamp = stamps_of(path)
    with _UNPACKING:
        if path in _ON_DISK and _ON_DISK[path][0] == stamp:
            return _Reader(_ON_DISK[path][1])
        with gzip.open(path) as packed:
            head = packed.read(UNPACKED_IN_MEMORY + 1)
            if len(head) <= UNPACKED_IN_MEMORY:
                return io.BytesIO(head)
            file = tempfile.TemporaryFile()  # kept open
            try:
                file.write(head)
                del head
                shutil.copyfileobj(packed, file, 1 << 20)
                file.flush()
            except OSError as error:
                file.close()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise InputError(
                    f"{path.name} does not fit on the disk unpacked ({tempfile.gettempdir()} is full): free some space, set "
                    "TMPDIR to a folder with more, or unpack it (gunzip) and import the unpacked file."
                ) from error
        _ON_DISK.pop(path, None)
        while len(_ON_DISK) >= MOST_UNPACKED:  # closed, and gone from the disk, with its last reader
            del _ON_DISK[next(iter(_ON_DISK))]
        held = _Unpacked(file)
        _ON_DISK[path] = stamp, held
        return _Reader(held)


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn a library's many kinds of error about a broken file into one sentence."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as {kind} ({first_line(error)}).") from error


def pick_series(tif: Any, path: Path) -> Any:
    """The image of a TIFF that is named, else the largest, as previews are smaller; several of that size are refused."""
    file, scene = _scene(path)
    usable = [s for s in tif.series if "Y" in s.axes and "X" in s.axes and s.size]
    if not usable:
        raise InputError(f"{path.name} holds no image.")

    def plane(s: Any) -> tuple[int, int]:
        return s.shape[s.axes.index("Y")], s.shape[s.axes.index("X")]

    if scene >= len(tif.series) or (scene >= 0 and tif.series[scene] not in usable):
        raise InputError(
            f"{file.name} has the images (series) 0 to {len(tif.series) - 1}; number {scene} is not among them."
        )
    best = tif.series[scene] if scene >= 0 else max(usable, key=lambda s: plane(s)[0] * plane(s)[1])
    alike = sum(plane(s) == plane(best) for s in usable)
    if alike > 1 and scene < 0:
        raise InputError(f"{path.name} holds {alike} separate images (series); split it into one file each.")
    pages = list(best.pages)
    if any(p is None for p in pages):
        missing = sum(p is None for p in pages)
        raise InputError(
            f"{path.name}: its metadata speaks of {len(pages)} planes and {missing} of them are not there; "
            "a file that belongs to it may be missing, or it was cut short."
        )
    for page in (pages[0], pages[-1]):
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
        if best.dataoffset is not None and len(pages) == 1:
            end = best.dataoffset + best.nbytes
        if end > page.parent.filehandle.size:
            raise InputError(f"{path.name} is cut short: some of its pixels are missing. Copy it again.")
    return best


def _check_pages(tif: Any, path: Path) -> None:
    """Refuse a TIFF whose last page says that another follows: what is left of it would be read as if it had fewer."""
    file, form = tif.filehandle, tif.tiff
    n = len(tif.pages)
    file.seek(tif.pages[n - 1].offset)
    (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(n_tags * form.tagsize, os.SEEK_CUR)
    after = file.read(form.offsetsize)
    follows = struct.unpack(form.offsetformat, after)[0] if len(after) == form.offsetsize else -1
    if follows and follows not in {tif.pages[i].offset for i in range(n)}:
        raise InputError(f"{path.name} is cut short: some of its pages are missing. Copy it again.")


def _unspoken_planes(tif: Any, series: Any, path: Path) -> str:
    """Say so if an OME-TIFF of one image holds more planes of its size than its metadata counts."""
    spoken, there = len(series.pages), len(tif.pages)
    if not tif.is_ome or len(tif.series) > 1 or there <= spoken:
        return ""
    with _tiff(file_of(path), as_it_says=False) as (bare, _):
        if bare.pages[there - 1].shape != series.keyframe.shape:
            return ""  # a preview, or a smaller level
    return f"{path.name} holds {there} planes and its metadata speaks of {spoken}; the others are not read."


def _is_colour(series: Any, axes: str) -> bool:
    """Whether the samples of a pixel are red, green and blue rather than channels of a microscope."""
    sizes = dict(zip(axes, series.shape, strict=True))
    photometric = getattr(series.keyframe.photometric, "name", "")
    return (
        sizes.get("S", 1) in (3, 4) and sizes.get("C", 1) == 1 and photometric in ("RGB", "YCBCR", "CIELAB")
    )


def name_axes(axes: str, shape: tuple[int, ...], stack: str, path: Path) -> str:
    """Name unnamed axes (tifffile's I and Q) as time, channel or z, once each; refuse what is none of them."""
    named = ""
    for axis, size in zip(axes, shape, strict=True):
        if axis in "IQ" and size > 1:
            for name in {"channel": "CZ", "z": "ZC", "time": "TCZ"}[stack]:
                if name not in named + axes:
                    axis = name
                    break
        if axis not in "TCZYXS" and size > 1:
            raise InputError(f"{path.name} has {size} images along axis {axis}; split it into one file each.")
        named += axis
    return named


def _tiff_metadata(tif: Any, series: Any) -> tuple[float, tuple[str, ...]]:
    """µm per pixel and channel names from OME-XML or ImageJ; 0.0 and () where they say nothing usable."""
    if tif.ome_metadata:
        try:
            root = ElementTree.fromstring(tif.ome_metadata)
        except ElementTree.ParseError:
            return 0.0, ()
        all_pixels = [e for e in root.iter() if e.tag.endswith("}Pixels")]
        index = next((i for i, s in enumerate(tif.series) if s is series), 0)
        if index >= len(all_pixels):
            return 0.0, ()
        pixels = all_pixels[index]
        names = tuple(e.get("Name") or "" for e in pixels if e.tag.endswith("}Channel"))
        um = _to_um(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm"))
        return um, names if all(names) else ()
    if tif.imagej_metadata and tif.pages:
        resolution = tif.pages[0].tags.get("XResolution")
        if resolution is not None and resolution.value[0]:
            unit = str(tif.imagej_metadata.get("unit", ""))
            return _to_um(resolution.value[1] / resolution.value[0], unit), ()
    return 0.0, ()


def _to_um(size: Any, unit: str) -> float:
    try:
        um = float(size) * _UM_PER_UNIT.get(unit.replace("\\u00B5m", "µm"), 0.0)
    except (TypeError, ValueError):
        return 0.0
    return um if np.isfinite(um) and um > 0 else 0.0


def _read_plain(path: Path) -> np.ndarray:
    """A PNG or JPEG as (H, W) grey or (H, W, 3 or 4) colour; the alpha of a grey image is dropped."""
    with reading(path, "an image"):
        if path.suffix.lower() == ".png":  # Pillow would cut 16-bit colour down to 8 bits
            image = np.asarray(imagecodecs.png_decode(path.read_bytes()))
        else:
            try:
                image = np.asarray(iio.imread(path))
            except PIL.Image.DecompressionBombError as error:
                raise InputError(
                    f"{path.name} has more pixels than a JPEG is decoded with; convert it to OME-TIFF or OME-Zarr (QuPath, Fiji, "
                    "bfconvert)."
                ) from error
    if image.ndim not in (2, 3) or not image.size:
        raise InputError(f"{path.name} is not a single image (shape {image.shape}).")
    return image[..., 0] if image.ndim == 3 and image.shape[-1] <= 2 else image


def stamps_of(path: Path) -> list[list[int]]:
    """Size and time of change of what an image is made of: its file, or the metadata of an OME-Zarr."""
    paths = ome_zarr.metadata_files(path) if path.is_dir() else [file_of(path)]
    return [[s.st_size, s.st_mtime_ns] for s in (p.stat() for p in paths)]


def check_exists(path: Path) -> None:
    """Refuse a file that is not there, or holds nothing, in a sentence."""
    if ome_zarr.is_zarr(path):
        return
    path = file_of(path)
    if (path.is_file() and suffix_of(path) not in IMAGE_SUFFIXES) or path.is_dir():
        raise InputError(f"{path.name} is not an image we read; use {READ}.")
    if not path.is_file():
        raise InputError(f"{path} is not there; bring it back, or import again from where it is now.")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes).")
