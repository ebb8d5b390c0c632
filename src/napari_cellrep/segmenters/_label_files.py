"""Files of labels and outlines, as the programs that make them write them: a path in, one field's labels out.

Cellpose (``_seg.npy``, mask images), CellProfiler and others (label images), QuPath (GeoJSON), Fiji (ROIs), OME-Zarr.
"""

from __future__ import annotations

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

import imageio.v3 as iio
import numpy as np
import tifffile
from scipy import ndimage

from napari_cellrep.specs import InputError, first_line, join_words

UNITS = ("px", "um")
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
    outlines: list[Outline] | None = None
    notes: list[str] = []
    if path.is_dir():
        labels = read_ome_zarr(path, frame)
    elif name.endswith(".npy"):
        labels = read_cellpose(path, frame)
    elif name.endswith((".geojson", ".json", ".geojson.gz", ".json.gz")):
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
    elif name.endswith((".zip", ".roi")):
        outlines, notes = read_rois(path)
    else:
        labels = read_label_image(path, frame)
    if outlines is not None:
        named = f"{series}:{frame}" if series else field_id
        brought = _draw(path, outlines, shape, named, um_per_px if units == "px" else 0.0)
        brought.notes = notes + brought.notes
        return brought
    if labels.shape != shape:
        (h, w), (fh, fw) = labels.shape, shape
        turned = " It looks turned by 90°." if (h, w) == (fw, fh) and h != w else ""
        raise InputError(
            f"{path.name} is {w}×{h} px and field {field_id or 'of the image'} is {fw}×{fh} px.{turned}"
        )
    return Brought(labels, _lost_numbers(labels, path))


# ---- pixels ----------------------------------------------------------------------------------------


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
    if labels.dtype.kind not in "uib" or labels.min() < 0 or labels.max() > LARGEST:
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
    pieces = ndimage.label(labels == 255)[1]
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
        labels = np.asarray(array[...])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as OME-Zarr labels ({first_line(error)}).") from error
    return _one_plane(labels, path, frame)


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
                f.seek(0)
                held = np.load(f, allow_pickle=False)
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
    return _one_plane(held, path, frame)


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


def _draw(
    path: Path, outlines: Sequence[Outline], shape: tuple[int, int], field_id: str, um_per_px: float
) -> Brought:
    """Outlines as labels. Where several overlap, a pixel belongs to the smallest; the notes say how many."""
    own = [o for o in outlines if field_id and o.name.rpartition(":")[0] == field_id]
    own = [o for o in own if o.name.rpartition(":")[2].isdigit()]
    numbers = [int(o.name.rpartition(":")[2]) for o in own]
    if not own or len(set(numbers)) < len(numbers) or min(numbers) < 1 or max(numbers) > LARGEST:
        own, numbers = list(outlines), list(range(1, len(outlines) + 1))
    labels = np.zeros(shape, np.int64)
    if not own:
        return Brought(labels, pixels=False)
    points = np.concatenate([ring for o in own for ring in o.rings])
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    (h, w) = shape
    if x1 > w + 2 or y1 > h + 2 or x0 < -2 or y0 < -2:
        raise InputError(
            f"The outlines of {path.name} reach from {x0:,.0f}, {y0:,.0f} to {x1:,.0f}, {y1:,.0f} and field {field_id} is "
            f"{w:,}×{h:,} px: they are of another image, or of another pixel size."
        )
    notes = []
    if len(own) >= 10 and 0 < um_per_px < 0.8 and x1 <= w * um_per_px * 1.01 and y1 <= h * um_per_px * 1.01:
        notes.append(
            f"All outlines of {path.name} lie in the first {max(x1 / w, y1 / h):.0%} of the image, as they would if they were in "
            "µm; if so, set the coordinates to um."
        )
    masks = [fill(o.rings, shape) for o in own]
    order = sorted(range(len(own)), key=lambda i: -int(masks[i][2].sum()))
    covered = np.zeros(len(own), np.int64)
    at = dict(zip(numbers, range(len(own)), strict=True))
    for i in order:  # the smallest last, on top
        top, left, mask = masks[i]
        view = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
        under, counts = np.unique(view[mask], return_counts=True)
        for number, count in zip(under.tolist(), counts.tolist(), strict=True):
            if number:
                covered[at[number]] += count
        view[mask] = numbers[i]
    if covered.any():
        n = int((covered > 0).sum())
        notes.append(
            f"{n:,} of {len(own):,} outlines of {path.name} {'are' if n > 1 else 'is'} overlapped by smaller ones "
            f"({int(covered.sum()):,} px): such pixels belong to the smallest."
        )
    left_over = set(np.unique(labels).tolist())
    gone = sum(number not in left_over for number in numbers)
    if gone:
        notes.append(
            f"{gone:,} of {len(own):,} outlines of {path.name} hold no pixel of their own and were left out."
        )
    classes = {n: o.kind for n, o in zip(numbers, own, strict=True) if o.kind and n in left_over}
    return Brought(labels, notes, classes, pixels=False)


def fill(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> tuple[int, int, np.ndarray]:
    """Pixels whose middle is inside of polygons, by the even-odd rule: rings inside of rings are holes.

    A middle on the line itself counts for the polygon on its right only, so that neighbours do not share pixels.

    Parameters
    ----------
    rings : sequence of ndarray of shape (n, 2)
        x, y in px from the image's corner; the middle of the first pixel is (0.5, 0.5).
    shape : tuple of int
        Height and width of the image.

    Returns
    -------
    top, left : int
    mask : ndarray of shape (h, w), bool
        Cut to what of the polygons is inside of the image.
    """
    points = np.concatenate(list(rings))
    left, top = (max(0, math.floor(v)) for v in points.min(axis=0))
    right, bottom = (min(n, math.ceil(v) + 1) for n, v in zip(shape[::-1], points.max(axis=0), strict=True))
    h, w = max(0, bottom - top), max(0, right - left)
    if not h or not w:
        return top, left, np.zeros((0, 0), bool)
    toggles = np.zeros(h * (w + 1), np.int64)
    for ring in rings:
        a = ring - (left, top)
        b = np.roll(a, -1, axis=0)
        up = a[:, 1] > b[:, 1]
        a, b = np.where(up[:, None], b, a), np.where(up[:, None], a, b)
        first = np.clip(np.ceil(a[:, 1] - 0.5).astype(np.int64), 0, h)
        last = np.clip(np.ceil(b[:, 1] - 0.5).astype(np.int64), 0, h)  # rows whose middle the edge passes
        n = last - first
        edge = np.repeat(np.arange(len(a)), n)
        if not len(edge):
            continue
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n)
        slope = (b[edge, 0] - a[edge, 0]) / (b[edge, 1] - a[edge, 1])
        x = a[edge, 0] + (row + 0.5 - a[edge, 1]) * slope
        column = np.clip(np.ceil(x - 0.5).astype(np.int64), 0, w)
        toggles += np.bincount(row * (w + 1) + column, minlength=len(toggles))
    inside = np.cumsum(toggles.reshape(h, w + 1), axis=1)[:, :w] % 2 == 1
    return top, left, inside
