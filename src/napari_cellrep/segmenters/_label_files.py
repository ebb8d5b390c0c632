"""Files of labels and outlines, as the programs that make them write them: a path in, one field's labels out.

Cellpose (``_seg.npy``, mask images), CellProfiler and others (label images), QuPath (GeoJSON), Fiji (ROIs), OME-Zarr.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import imageio.v3 as iio
import numpy as np
import tifffile
from scipy import ndimage

from napari_cellrep.segmenters import Box
from napari_cellrep.specs import InputError, first_line, join_words

UNITS = ("px", "um")
OUTLINES = (
    ".geojson",
    ".json",
    ".geojson.gz",
    ".json.gz",
    ".zip",
    ".roi",
)  # ends of files that hold polygons
LOOK_PX = 4096  # side of what is looked at at once
FEW_PIECES = 4  # of a TIFF: decoding one for every part would decode the image as often as it has parts
KEPT_PX = 1 << 26  # masks of outlines that take no more than this are kept from the first look to the drawing
PARTS = ("cell", "nucleus")
LARGEST = int(np.iinfo(np.int32).max)


@dataclass
class Brought:
    """Labels read from a file.

    Parameters
    ----------
    labels : ndarray of shape (H, W), int64
        0 is background; numbers may have gaps.
    notes : list of str
        What the person has to know: outlines that overlap, entries that are no cells.
    classes : dict of int to str
        Label → the class the file gives it; labels without one are left out.
    pixels : bool
        Whether the file holds pixels: a black-and-white mask may still be numbered.
    """

    labels: np.ndarray
    notes: list[str] = field(default_factory=list)
    classes: dict[int, str] = field(default_factory=dict)
    pixels: bool = True


@dataclass
class Outline:
    """One cell as a polygon: its rings (n, 2) in x, y px from the image's corner, filled by the even-odd rule."""

    rings: list[np.ndarray]
    name: str = ""
    kind: str = ""


def read_file(
    path: Path,
    shape: tuple[int, int],
    *,
    field_id: str = "",
    units: str = "px",
    um_per_px: float = 0.0,
    part: str = "cell",
    series: str = "",
    frame: int = -1,
) -> Brought:
    """Read one field's labels from any of the formats.

    Parameters
    ----------
    path : Path
        A label image (TIFF, PNG), a Cellpose ``.npy``, GeoJSON (also gzipped), ``.roi`` or ``.zip`` of ROIs, or the folder of an
        OME-Zarr label image.
    shape : tuple of int
        Height and width of the field.
    field_id : str
        Of outlines that are called ``<field>:<label>`` only those of this field are taken, with these numbers.
    units : {"px", "um"}
        Of the coordinates of GeoJSON.
    um_per_px : float
        The field's pixel size; 0 if unknown.
    part : {"cell", "nucleus"}
        Which outline of a QuPath cell.
    series, frame : str, int
        The time series the field is a frame of, and which: of a file with as many planes as there are frames its own is taken.

    Raises
    ------
    InputError
        If it cannot be read, is no labels, or of another size than the field.
    """
    name = path.name.lower()
    if name.endswith(OUTLINES):
        drawing = _open_outlines(path, shape, field_id, units, um_per_px, part, series, frame)
        labels = drawing.read((0, 0, *shape))
        notes, classes = drawing.told()
        return Brought(labels, notes, classes, pixels=False)
    if path.is_dir():
        labels = read_ome_zarr(path, frame)
    elif name.endswith(".npy"):
        labels = read_cellpose(path, frame)
    else:
        labels = read_label_image(path, frame)
    _check_size(path, labels.shape, shape, field_id)
    return Brought(labels, _lost_numbers(labels, path))


def open_file(
    path: Path,
    shape: tuple[int, int],
    *,
    field_id: str = "",
    units: str = "px",
    um_per_px: float = 0.0,
    part: str = "cell",
    series: str = "",
    frame: int = -1,
) -> _Pixels | _Drawing:
    """The same labels as of `read_file`, read part by part: what it returns has ``read``, ``told`` and ``pixels``.

    Of TIFF and OME-Zarr only the tiles, strips or chunks that a part touches are decoded; a TIFF of a few large strips is
    unpacked to a temporary file; PNG and Cellpose's ``_seg.npy`` are held whole, which is what they are made for; outlines are
    held as polygons.
    """
    if path.name.lower().endswith(OUTLINES):
        return _open_outlines(path, shape, field_id, units, um_per_px, part, series, frame)
    return _Pixels(path, shape, field_id, frame)


def _open_outlines(
    path: Path,
    shape: tuple[int, int],
    field_id: str,
    units: str,
    um_per_px: float,
    part: str,
    series: str,
    frame: int,
) -> _Drawing:
    if path.name.lower().endswith((".zip", ".roi")):
        outlines, notes = read_rois(path)
    else:
        per_px = 1.0
        if units == "um":
            if um_per_px <= 0:
                raise InputError(
                    f"{path.name} is in µm, and the pixel size of field {field_id} is not known; import the images with "
                    "their pixel size, or export the outlines in pixels."
                )
            per_px = um_per_px
        outlines, notes = read_geojson(path, part)
        for one in outlines:
            one.rings = [ring / per_px for ring in one.rings]
    named = f"{series}:{frame}" if series else field_id
    return _Drawing(path, outlines, shape, named, um_per_px if units == "px" else 0.0, notes)


def _check_size(path: Path, found: tuple[int, ...], shape: tuple[int, int], field_id: str) -> None:
    if tuple(found) == tuple(shape):
        return
    (h, w), (fh, fw) = found, shape
    turned = " It looks turned by 90°." if (h, w) == (fw, fh) and h != w else ""
    raise InputError(
        f"{path.name} is {w}×{h} px and field {field_id or 'of the image'} is {fw}×{fh} px.{turned}"
    )


# ---- pixels ----------------------------------------------------------------------------------------


class _Pixels:
    """A label image that is read where it is asked for."""

    pixels = True

    def __init__(self, path: Path, shape: tuple[int, int], field_id: str, frame: int):
        self._path = path
        self._array: Any = None  # None: a TIFF that is opened anew for every part
        self._times = 1  # CellProfiler's floats are divided by 65,535
        self._values = np.zeros(256, bool)  # which numbers of 8 bits there are, and pieces of the last
        self._pieces_of_255 = 0
        if path.is_dir():
            self._array = _zarr_labels(path, frame)
        elif path.name.lower().endswith(".npy"):
            self._array = _npy_labels(path)
        elif path.suffix.lower() in (".tif", ".tiff"):
            self._array = self._of_tiff(frame)
        else:
            with _reading(path):  # Pillow refuses the pixels of a slide
                png = path.suffix.lower() == ".png"
                self._array = np.asarray(
                    imagecodecs.png_decode(path.read_bytes()) if png else iio.imread(path)
                )
        of = self._of if self._array is None else self._array.shape
        axes = [i for i, n in enumerate(of) if n > 1]
        self._at: list[Any] = [0] * len(of)
        self._colours = len(axes) == 3 and of[axes[2]] in (3, 4)
        if len(axes) == 3 and frame >= 0:
            if frame >= of[axes[0]]:
                raise InputError(
                    f"{path.name} holds {of[axes[0]]} frames; frame {frame} (from 0) is not among them."
                )
            self._at[axes[0]], self._colours = frame, False
            axes = axes[1:]
        if self._colours:
            self._at[axes[2]] = slice(None)
            axes = axes[:2]
        if len(axes) != 2:
            raise InputError(
                f"{path.name} has the shape {tuple(of)}; a label image has one plane of numbers, no colours."
            )
        self._axes = axes
        _check_size(path, tuple(of[i] for i in axes), shape, field_id)
        if self._kind == "f":  # what its numbers are divided by is told by all of them
            parts = (
                self._cut((y, x, y + LOOK_PX, x + LOOK_PX))
                for y in range(0, shape[0], LOOK_PX)
                for x in range(0, shape[1], LOOK_PX)
            )
            if not all((p == np.rint(p)).all() for p in parts):
                self._times = 65_535

    def _of_tiff(self, frame: int) -> Any:
        with _reading(self._path), tifffile.TiffFile(self._path) as tif:
            series = tif.series[0]
            self._of, self._kind_of_file = series.shape, np.dtype(series.dtype).kind
            if series.dataoffset is not None:  # not compressed: mapped into memory, not read
                dtype = tif.byteorder + series.dtype.char
                return np.memmap(self._path, dtype, "r", series.dataoffset, series.shape)
            if len(series.keyframe.dataoffsets) < FEW_PIECES:  # unpacked once, to a temporary file
                if 0 <= frame < len(series.pages) > 1:
                    return series.pages[frame].asarray(out="memmap")
                return series.asarray(out="memmap")
        return None

    @property
    def _kind(self) -> str:
        return self._kind_of_file if self._array is None else np.dtype(self._array.dtype).kind

    def _cut(self, box: Box) -> np.ndarray:
        at = list(self._at)
        for axis, first, last in zip(self._axes, box[:2], box[2:], strict=True):
            at[axis] = slice(first, last)
        with _reading(self._path):
            if self._array is not None:
                part = np.asarray(self._array[tuple(at)])
            else:
                import zarr

                with tifffile.TiffFile(self._path) as tif, tif.series[0].aszarr(level=0) as store:
                    part = np.asarray(zarr.open_array(store, mode="r")[tuple(at)])
        if not self._colours:
            return part
        if not (part[..., :3] == part[..., :1]).all():
            raise InputError(
                f"{self._path.name} is a colour picture; a label image has one plane of numbers."
            )
        return part[..., 0]  # a grey mask saved as RGB

    def read(self, box: Box) -> np.ndarray:
        """Numbers of a part, int64 (h, w)."""
        part = self._cut(box)
        if self._times > 1:
            numbers = part.astype(np.float64) * self._times
            if part.min() >= 0 and part.max() <= 1 and np.abs(numbers - np.rint(numbers)).max() < 0.01:
                part = np.rint(numbers).astype(np.int64)
        part = _one_plane(part, self._path)
        if part.max() > 255:
            self._values[:] = False
            self._pieces_of_255 = -1
        elif self._pieces_of_255 >= 0:
            self._values[np.unique(part)] = True
            pieces = ndimage.label(part == 255)[0]
            begun = [pieces[0, :0], *([pieces[0]] if box[0] else []), *([pieces[:, 0]] if box[1] else [])]
            here = np.setdiff1d(pieces, np.concatenate(begun))  # those at a seam began in another part
            self._pieces_of_255 += int((here > 0).sum())
        return part

    def told(self) -> tuple[list[str], dict[int, str]]:
        """Notes; a label image knows no classes."""
        if self._values[1:].sum() < 128 or not self._values[255]:
            return [], {}
        return _lost(self._path, self._pieces_of_255), {}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as a label image ({first_line(error)}).") from error


def read_label_image(path: Path, frame: int = -1) -> np.ndarray:
    """Read a TIFF or PNG whose pixels are numbers of cells.

    Returns
    -------
    ndarray of shape (H, W), int64

    Raises
    ------
    InputError
        If it cannot be read, is a colour picture, has several planes, or holds other than whole numbers from 0.
    """
    try:
        labels = tifffile.imread(path) if path.suffix.lower() in (".tif", ".tiff") else iio.imread(path)
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as a label image ({first_line(error)}).") from error
    labels = np.asarray(labels)
    if labels.ndim == 3 and labels.shape[-1] in (3, 4) and (labels[..., :3] == labels[..., :1]).all():
        labels = labels[..., 0]  # a grey mask saved as RGB
    return _one_plane(labels, path, frame)


def _one_plane(labels: np.ndarray, path: Path, frame: int = -1) -> np.ndarray:
    """Whatever holds one plane of whole numbers, or one per frame, as int64 (H, W)."""
    if 0 in labels.shape:
        raise InputError(f"{path.name} cannot be read as a label image (it holds no pixels); save it again.")
    if frame >= 0 and labels.squeeze().ndim == 3:
        labels = labels.squeeze()
        if frame >= len(labels):
            raise InputError(
                f"{path.name} holds {len(labels)} frames; frame {frame} (from 0) is not among them."
            )
        labels = labels[frame]
    if labels.ndim > 2:  # axes of one: a plane of a stack, a channel, a time point
        labels = labels.reshape(labels.shape[-2:] if math.prod(labels.shape[:-2]) == 1 else _squeezed(labels))
    if labels.ndim != 2:
        raise InputError(
            f"{path.name} has the shape {labels.shape}; a label image has one plane of numbers, no colours."
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all():
        labels = _whole(labels)
    if labels.dtype.kind in "ui" and labels.max() > LARGEST:
        raise InputError(
            f"{path.name} has numbers up to {labels.max():,}; a cell's number can be {LARGEST:,} at most. Number its cells "
            "anew and save it again."
        )
    if labels.dtype.kind not in "uib" or labels.min() < 0:
        raise InputError(
            f"{path.name} ({labels.dtype}, {labels.min()} to {labels.max()}) is no label image: whole numbers, "
            "0 for background, one number per cell."
        )
    return labels.astype(np.int64)


def _squeezed(labels: np.ndarray) -> tuple[int, ...]:
    return labels.squeeze().shape


def _whole(labels: np.ndarray) -> np.ndarray:
    """Whole numbers saved as floats; also CellProfiler's, which divides 16-bit numbers by 65,535."""
    if (labels == np.rint(labels)).all():
        return labels.astype(np.int64)
    if labels.min() >= 0 and labels.max() <= 1:
        numbers = labels.astype(np.float64) * 65_535
        if np.abs(numbers - np.rint(numbers)).max() < 0.01:
            return np.rint(numbers).astype(np.int64)
    return labels


def _lost_numbers(labels: np.ndarray, path: Path) -> list[str]:
    """Say so if a file of 8 bits holds no number above 255 and many of its numbers are in several places."""
    values = np.unique(labels)
    values = values[values > 0]
    if len(values) < 128 or values[-1] != 255:
        return []
    return _lost(path, ndimage.label(labels == 255)[1])


def _lost(path: Path, pieces: int) -> list[str]:
    if pieces < 3:
        return []
    return [
        f"Number 255 of {path.name} is {pieces} pieces apart: numbers above 255 were probably lost when it was saved with "
        "8 bits. Save it with 16 bits, or number the pieces (always)."
    ]


def read_ome_zarr(path: Path, frame: int = -1) -> np.ndarray:
    """Read the largest level of an OME-Zarr label image (0.4 or 0.5): ``…/labels/NAME``, or one of its own.

    Returns
    -------
    ndarray of shape (H, W), int64

    Raises
    ------
    InputError
        If it is none, or has several planes.
    """
    array = _zarr_labels(path, frame)
    try:
        labels = np.asarray(array[...])
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as OME-Zarr labels ({first_line(error)}).") from error
    return _one_plane(labels, path, frame)


def _zarr_labels(path: Path, frame: int = -1) -> Any:
    """The array of the largest level of an OME-Zarr label image."""
    import zarr

    try:
        group = zarr.open(path, mode="r")
        if isinstance(group, zarr.Array):
            array: Any = group
        else:
            said = dict(group.attrs)
            said = dict(said.get("ome") or said)
            scales = said.get("multiscales")
            if not scales:
                inside = label_names(path)
                hint = f"; it holds the labels {join_words(inside, 12)}" if inside else ""
                raise InputError(f"{path.name} is a Zarr without a label image in it{hint}.")
            array = group[str(scales[0]["datasets"][0]["path"])]
        if array.ndim < 2 or (math.prod(array.shape[:-2]) != 1 and frame < 0):
            raise InputError(
                f"{path.name} has the shape {tuple(array.shape)}; a label image has one plane of numbers, no colours."
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as OME-Zarr labels ({first_line(error)}).") from error
    return array


def label_names(path: Path) -> list[str]:
    """Names of the label images inside an OME-Zarr image; [] if it has none, or is none."""
    folder = path / "labels"
    if not folder.is_dir():
        return []
    found = [
        p.name
        for p in sorted(folder.iterdir())
        if p.is_dir() and any((p / n).is_file() for n in ("zarr.json", ".zattrs", ".zgroup"))
    ]
    return found


# ---- Cellpose's .npy, which is a pickle --------------------------------------------------------------


def read_cellpose(path: Path, frame: int = -1) -> np.ndarray:
    """Read the masks of a Cellpose ``_seg.npy``, or a label image saved by ``numpy.save``.

    Such a file is a pickle, which may hold orders to run any program: only arrays, text, numbers and containers of them are
    taken.

    Returns
    -------
    ndarray of shape (H, W), int64

    Raises
    ------
    InputError
        If it is cut short, holds something else than data, no masks, or those of a stack.
    """
    return _one_plane(_npy_labels(path), path, frame)


def _npy_labels(path: Path) -> np.ndarray:
    """The masks of a Cellpose ``_seg.npy`` in their own type; a plain array is mapped into memory, not read."""
    try:
        with path.open("rb") as f:
            version = np.lib.format.read_magic(f)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            _, _, dtype = read_header(f)
            if dtype.hasobject:
                held: Any = _DataOnly(f).load()
                if isinstance(held, np.ndarray) and held.shape == ():
                    held = held.item()
            else:
                held = np.load(path, mmap_mode="r", allow_pickle=False)
    except _WantsMoreError as error:
        raise InputError(
            f"{path.name} wants to run {error} when it is opened, which labels do not need; it was not opened. Save the masks "
            "as PNG or TIFF in Cellpose."
        ) from None
    except Exception as error:
        raise InputError(
            f"{path.name} cannot be read as Cellpose's masks ({first_line(error)}); it may be cut short. Save it again."
        ) from error
    if isinstance(held, dict):
        if "masks" not in held:
            have = join_words([str(k) for k in held], 12)
            raise InputError(
                f"{path.name} holds no masks (it has {have or 'nothing'}); run the segmentation in Cellpose and save again."
            )
        held = held["masks"]
    held = np.asarray(held)
    if held.dtype.hasobject:
        raise InputError(f"{path.name} holds no masks: an array of numbers is wanted.")
    return held


class _WantsMoreError(Exception):
    """A pickle asks for something that is no data."""


class _DataOnly(pickle.Unpickler):
    """Unpickler of arrays and plain containers; paths become text."""

    _DATA = (
        *((f"numpy{core}.multiarray", name) for core in (".core", "._core") for name in ("_reconstruct", "scalar")),
        *((f"numpy{core}.numeric", "_frombuffer") for core in (".core", "._core")),
        ("numpy", "ndarray"), ("numpy", "dtype"),
        ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("builtins", "slice"),
        ("builtins", "bytearray"), ("collections", "OrderedDict"), ("_codecs", "encode"),
    )  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "pathlib" and name.endswith("Path"):
            return _as_text
        if (module, name) in self._DATA or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise _WantsMoreError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _WantsMoreError("something outside it")


def _as_text(*parts: str) -> str:
    return "/".join(str(part) for part in parts)


# ---- outlines ----------------------------------------------------------------------------------------


def read_geojson(path: Path, part: str = "cell") -> tuple[list[Outline], list[str]]:
    """Read the polygons of a GeoJSON, as QuPath writes them.

    Where there are cells or detections, annotations (a region of tissue) are left out.

    Returns
    -------
    outlines : list of Outline
        In the file's order and units; holes are rings.
    notes : list of str
        What was left out.

    Raises
    ------
    InputError
        If it is no GeoJSON, or has no polygon.
    """
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            with gzip.open(io.BytesIO(raw)) as f:
                raw = f.read()
        features = list(_features(json.loads(raw.decode("utf-8-sig"))))
        made = [_from_feature(f, part) for f in features]
    except (ValueError, OSError, EOFError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{path.name} cannot be read as GeoJSON ({first_line(error)}).") from error
    kinds = [str((f.get("properties") or {}).get("objectType") or "").lower() for f in features]
    notes = []
    cells = [k in ("cell", "detection", "tile") for k in kinds]
    if any(cells) and not all(cells):
        n = len(cells) - sum(cells)
        notes.append(f"{n:,} annotation{'s' * (n != 1)} beside the cells of {path.name} were left out.")
        made = [m for m, is_cell in zip(made, cells, strict=True) if is_cell]
    outlines = [m for m in made if m.rings]
    if len(outlines) < len(made):
        n = len(made) - len(outlines)
        notes.append(
            f"{n:,} of the objects of {path.name} are points or lines, no outlines, and were left out."
        )
    if made and not outlines:
        raise InputError(f"{path.name} holds points and lines only; outlines of cells (polygons) are wanted.")
    return outlines, notes


def _features(held: Any) -> Iterator[dict[str, Any]]:
    """Features of a collection, a list of them, one of them, or a bare geometry."""
    if isinstance(held, list):
        for one in held:
            yield from _features(one)
    elif not isinstance(held, dict) or "type" not in held:
        raise ValueError("it is JSON, but no feature collection")
    elif held["type"] == "FeatureCollection":
        yield from held["features"]
    elif held["type"] == "Feature":
        yield held
    else:
        yield {"type": "Feature", "geometry": held, "properties": {}}


def _from_feature(feature: dict[str, Any], part: str) -> Outline:
    said = feature.get("properties") or {}
    geometry = feature.get("geometry")
    if part == "nucleus":
        geometry = feature.get("nucleusGeometry") or said.get("nucleusGeometry") or geometry
    kind = said.get("classification") or ""
    kind = kind.get("name") or ": ".join(kind.get("names") or ()) if isinstance(kind, dict) else kind
    return Outline(_rings(geometry), str(said.get("name") or ""), str(kind))


def _rings(geometry: Any) -> list[np.ndarray]:
    """Rings of a polygon, of several, or of a collection of them; [] for points and lines."""
    if not geometry:
        return []
    if geometry["type"] == "GeometryCollection":
        return [ring for g in geometry["geometries"] for ring in _rings(g)]
    if geometry["type"] == "Polygon":
        rings = geometry["coordinates"]
    elif geometry["type"] == "MultiPolygon":
        rings = [ring for polygon in geometry["coordinates"] for ring in polygon]
    else:
        return []
    out = [np.array([xy[:2] for xy in ring], np.float64).reshape(-1, 2) for ring in rings]
    if not all(np.isfinite(ring).all() for ring in out):
        raise ValueError("a coordinate is no number")
    return [ring for ring in out if len(ring) > 2]


def read_rois(path: Path) -> tuple[list[Outline], list[str]]:
    """Read an ImageJ ``.roi``, or the ROIs of a ``RoiSet.zip``, as Fiji's ROI manager saves them.

    Returns
    -------
    outlines : list of Outline
    notes : list of str
        What was left out.

    Raises
    ------
    InputError
        If it cannot be read, or holds no outline.
    """
    import roifile

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                names = [n for n in z.namelist() if n.lower().endswith(".roi")]
                rois = [roifile.ImagejRoi.frombytes(z.read(n)) for n in names]
                names = [Path(n).stem for n in names]
        else:
            rois, names = [roifile.ImagejRoi.fromfile(path)], [path.stem]  # type: ignore[list-item]
        made = [Outline(_roi_rings(roi), roi.name or name) for roi, name in zip(rois, names, strict=True)]
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as ROIs of ImageJ ({first_line(error)}).") from error
    outlines = [m for m in made if m.rings]
    if not made:
        raise InputError(f"{path.name} holds no ROI; save those of the ROI manager (More, Save…).")
    if not outlines:
        raise InputError(f"{path.name} holds points and lines only; outlines of cells are wanted.")
    lost = len(made) - len(outlines)
    notes = [f"{lost:,} of the ROIs of {path.name} are points or lines, no outlines, and were left out."]
    return outlines, notes if lost else []


def _roi_rings(roi: Any) -> list[np.ndarray]:
    kinds = type(roi.roitype)
    if roi.roitype == kinds.OVAL:
        angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        half = np.array([(roi.right - roi.left) / 2, (roi.bottom - roi.top) / 2])
        middle = np.array([roi.left, roi.top]) + half
        return [middle + half * np.stack([np.cos(angle), np.sin(angle)], axis=1)]
    closed = (kinds.RECT, kinds.POLYGON, kinds.FREEHAND, kinds.TRACED)
    if roi.roitype not in closed:
        return []
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in roi.coordinates(multi=True)]
    return [ring for ring in rings if len(ring) > 2]


class _Drawing:
    """Outlines as labels, drawn part by part. Where several overlap, a pixel belongs to the smallest; the notes say how many."""

    pixels = False

    def __init__(
        self,
        path: Path,
        outlines: Sequence[Outline],
        shape: tuple[int, int],
        field_id: str,
        um_per_px: float,
        notes: Sequence[str],
    ):
        own = [o for o in outlines if field_id and o.name.rpartition(":")[0] == field_id]
        own = [o for o in own if o.name.rpartition(":")[2].isdigit()]
        numbers = [int(o.name.rpartition(":")[2]) for o in own]
        if not own or len(set(numbers)) < len(numbers) or min(numbers) < 1 or max(numbers) > LARGEST:
            own, numbers = list(outlines), list(range(1, len(outlines) + 1))
        self._path, self._shape, self._own, self._numbers = path, shape, own, numbers
        self._notes = list(notes)
        self._covered = np.zeros(len(own), np.int64)
        self._at = dict(zip(numbers, range(len(own)), strict=True))
        self._left: set[int] = set()
        self._masks: dict[int, tuple[int, int, np.ndarray]] = {}
        self._boxes = np.zeros((len(own), 4), np.int64)
        if own:
            self._look(um_per_px, field_id)

    def _look(self, um_per_px: float, field_id: str) -> None:
        """Where each outline is, whether all can be this field's, and their order: the smallest last, on top."""
        low = np.array([np.min([ring.min(axis=0) for ring in o.rings], axis=0) for o in self._own])
        high = np.array([np.max([ring.max(axis=0) for ring in o.rings], axis=0) for o in self._own])
        (x0, y0), (x1, y1) = low.min(axis=0), high.max(axis=0)
        h, w = self._shape
        if x1 > w + 2 or y1 > h + 2 or x0 < -2 or y0 < -2:
            raise InputError(
                f"The outlines of {self._path.name} reach from {x0:,.0f}, {y0:,.0f} to {x1:,.0f}, {y1:,.0f} and field "
                f"{field_id} is {w:,}×{h:,} px: they are of another image, or of another pixel size."
            )
        if (
            len(self._own) >= 10
            and 0 < um_per_px < 0.8
            and x1 <= w * um_per_px * 1.01
            and y1 <= h * um_per_px * 1.01
        ):
            self._notes.append(
                f"All outlines of {self._path.name} lie in the first {max(x1 / w, y1 / h):.0%} of the image, as they would if "
                "they were in µm; if so, set the coordinates to um."
            )
        self._boxes[:, :2] = np.maximum(np.floor(low[:, ::-1]), 0)
        self._boxes[:, 2:] = np.minimum(np.ceil(high[:, ::-1]) + 1, self._shape)
        sides = np.maximum(self._boxes[:, 2:] - self._boxes[:, :2], 0)
        keep = int(sides.prod(axis=1).sum()) <= KEPT_PX
        area = np.zeros(len(self._own), np.int64)
        for i, (box, (_, wide)) in enumerate(zip(self._boxes.tolist(), sides.tolist(), strict=True)):
            rows = max(1, KEPT_PX // max(1, wide))  # one around the whole tissue is counted in bands
            for y in range(box[0], box[2], rows):
                band = (y, box[1], min(y + rows, box[2]), box[3])
                drawn = fill(self._own[i].rings, self._shape, band)
                area[i] += int(drawn[2].sum())
                if keep:
                    self._masks[i] = drawn
        self._order = np.array(sorted(range(len(self._own)), key=lambda i: -int(area[i])), np.int64)

    def read(self, box: Box) -> np.ndarray:
        """Numbers of a part, int64 (h, w)."""
        y0, x0, y1, x1 = box
        labels = np.zeros((y1 - y0, x1 - x0), np.int64)
        if not self._own:
            return labels
        low, high = self._boxes[:, :2], self._boxes[:, 2:]
        here = np.asarray(((low < (y1, x1)) & (high > (y0, x0))).all(axis=1))
        for i in self._order[here[self._order]].tolist():
            top, left, mask = self._masks.get(i) or fill(self._own[i].rings, self._shape, box)
            mask = mask[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)]
            top, left = max(top, y0) - y0, max(left, x0) - x0
            view = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
            under, counts = np.unique(view[mask], return_counts=True)
            for number, count in zip(under.tolist(), counts.tolist(), strict=True):
                if number:
                    self._covered[self._at[number]] += count
            view[mask] = self._numbers[i]
        self._left |= set(np.unique(labels).tolist())
        return labels

    def told(self) -> tuple[list[str], dict[int, str]]:
        """Notes and classes, once all was drawn."""
        notes, covered, name = list(self._notes), self._covered, self._path.name
        if covered.any():
            n = int((covered > 0).sum())
            notes.append(
                f"{n:,} of {len(self._own):,} outlines of {name} {'are' if n > 1 else 'is'} overlapped by smaller ones "
                f"({int(covered.sum()):,} px): such pixels belong to the smallest."
            )
        gone = sum(number not in self._left for number in self._numbers)
        if gone:
            notes.append(
                f"{gone:,} of {len(self._own):,} outlines of {name} hold no pixel of their own and were left out."
            )
        return notes, {
            n: o.kind for n, o in zip(self._numbers, self._own, strict=True) if o.kind and n in self._left
        }


def fill(
    rings: Sequence[np.ndarray], shape: tuple[int, int], box: Box | None = None
) -> tuple[int, int, np.ndarray]:
    """Pixels whose middle is inside of polygons, by the even-odd rule: rings inside of rings are holes.

    A middle on the line itself counts for the polygon on its right only, so that neighbours do not share pixels.

    Parameters
    ----------
    rings : sequence of ndarray of shape (n, 2)
        x, y in px from the image's corner; the middle of the first pixel is (0.5, 0.5).
    shape : tuple of int
        Height and width of the image.
    box : tuple of int, optional
        y0, x0, y1, x1 of the part of the image that is wanted; its pixels are those of the whole.

    Returns
    -------
    top, left : int
    mask : ndarray of shape (h, w), bool
        Cut to what of the polygons is inside of the image and of the part.
    """
    points = np.concatenate(list(rings))
    x0, y0 = (max(0, math.floor(v)) for v in points.min(axis=0))
    right, bottom = (min(n, math.ceil(v) + 1) for n, v in zip(shape[::-1], points.max(axis=0), strict=True))
    top, left = y0, x0
    if box is not None:
        top, left, bottom, right = max(y0, box[0]), max(x0, box[1]), min(bottom, box[2]), min(right, box[3])
    h, w = max(0, bottom - top), max(0, right - left)
    if not h or not w:
        return top, left, np.zeros((0, 0), bool)
    toggles = np.zeros(h * (w + 1), np.int64)
    for ring in rings:
        a = ring - (x0, y0)  # of the whole polygon, so that a part rounds as the whole does
        b = np.roll(a, -1, axis=0)
        up = a[:, 1] > b[:, 1]
        a, b = np.where(up[:, None], b, a), np.where(up[:, None], a, b)
        rows = (top - y0, bottom - y0)
        first = np.clip(np.ceil(a[:, 1] - 0.5).astype(np.int64), *rows)
        last = np.clip(np.ceil(b[:, 1] - 0.5).astype(np.int64), *rows)  # rows whose middle the edge passes
        n = last - first
        edge = np.repeat(np.arange(len(a)), n)
        if not len(edge):
            continue
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n)
        slope = (b[edge, 0] - a[edge, 0]) / (b[edge, 1] - a[edge, 1])
        x = a[edge, 0] + (row + 0.5 - a[edge, 1]) * slope
        column = np.clip(np.ceil(x - 0.5).astype(np.int64) - (left - x0), 0, w)
        toggles += np.bincount((row - rows[0]) * (w + 1) + column, minlength=len(toggles))
    passed: np.ndarray = np.cumsum(toggles.reshape(h, w + 1), axis=1)[:, :w]
    return top, left, passed % 2 == 1
