"""Window centres without masks: a small disc at every blob's middle, or at coordinates the user brings.

For fixed windows a centre is all that is needed. Blobs are found as maxima of the image blurred to their size (a
matched filter), so cells that no outline would part still get one centre each. Sizes and shapes of the discs mean
nothing: leave measurements of area out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from scipy import ndimage, spatial

from napari_cellrep.segmenters import Box, Regions, Scales, Source
from napari_cellrep.segmenters._blobs import (
    _REACH,
    background,
    blurred_noise_sd,
    check_image,
    estimate_diameter,
    read_plane,
)
from napari_cellrep.specs import Channel, InputError, join_words

UNITS = ("auto", "px", "um")
# Names that programs give to the columns, in small letters; what "nuclei_" stands before in CellProfiler is cut off.
NAMES = {
    "y": ("y", "location_center_y", "areashape_center_y", "centroid y px", "centroid y µm", "centroid y um", "y_px", "y_um",
          "position_y", "axis-0", "centroid-0", "y [px]", "y [µm]", "y (px)", "y (µm)"),
    "x": ("x", "location_center_x", "areashape_center_x", "centroid x px", "centroid x µm", "centroid x um", "x_px", "x_um",
          "position_x", "axis-1", "centroid-1", "x [px]", "x [µm]", "x (px)", "x (µm)"),
    "field": ("field", "field_id", "filename", "file_name", "file", "image", "label_image", "image_name"),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Where centres come from, and how large their discs are."""

    channel: Annotated[str, {"label": "Channel", "help": "Name or role of the channel with blobs."}] = (
        "nucleus"
    )
    diameter_px: Annotated[
        float,
        {"min": 0.0, "max": 2000.0, "step": 1.0, "label": "Diameter (px)", "help": "0: from the image."},
    ] = 0.0
    radius_px: Annotated[int, {"min": 1, "max": 1000, "label": "Radius of the discs (px)"}] = 4
    contrast: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 0.05, "label": "Least contrast",
         "help": "Drop what is fainter than this share of the typical blob."},
    ] = 0.33  # fmt: skip
    noise_sds: Annotated[
        float, {"min": 1.0, "max": 100.0, "step": 0.5, "label": "Least signal (noise SDs)"}
    ] = 6.0
    csv: Annotated[
        str,
        {
            "label": "Coordinates (CSV)",
            "help": "A table of centres; empty: find them in the image. Columns of CellProfiler, QuPath, Fiji, TrackMate and "
            "napari are known; others are named below.",
        },
    ] = ""
    y_column: Annotated[str, {"label": "Column of y"}] = "y"
    x_column: Annotated[str, {"label": "Column of x"}] = "x"
    field_column: Annotated[
        str,
        {"label": "Column of the field",
         "help": "Holds the field's id or the name of its image file; may be missing from a table that serves one field."},
    ] = "field"  # fmt: skip
    units: Annotated[
        str,
        {"choices": UNITS, "label": "Coordinates are in",
         "help": "auto: µm (um) where the column's name says so, else pixels."},
    ] = "auto"  # fmt: skip


def segment(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    device: str = "cpu",
    field_id: str = "",
    source: Source = Source(),
    scales: Scales | None = None,
) -> np.ndarray:
    """Put a disc on every centre of one field.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        Pixel values as acquired, any dtype.
    channels : sequence of Channel
        What each plane shows.
    config : Config
    device : str, default "cpu"
        Not used: this is computed on the CPU.
    field_id : str, default ""
        Picks the rows of `Config.csv`.
    source : Source
        The field's files, whose names pick rows too, and its pixel size, for coordinates in µm.
    scales : Scales, optional
        Of the image that this is a part of.

    Returns
    -------
    ndarray of shape (H, W), int32
        Discs are numbered in the order of the centres (top to bottom, or the table's) and never overlap.

    Raises
    ------
    InputError
        If the channel is missing, or the table cannot be used.
    """
    if config.csv:
        check_image(image, channels)
        centres = read_centres(
            config.csv,
            field_id,
            config.y_column,
            config.x_column,
            config.field_column,
            image.shape[1:],
            source,
            config.units,
        )
    else:
        centres = find_centres(
            read_plane(image, channels, config.channel),
            config.diameter_px,
            config.contrast,
            config.noise_sds,
            scales,
        )
    return draw_discs(centres, config.radius_px, image.shape[1:])


def find_centres(
    plane: np.ndarray,
    diameter_px: float = 0.0,
    contrast: float = 0.33,
    noise_sds: float = 6.0,
    scales: Scales | None = None,
) -> np.ndarray:
    """Middles of bright blobs.

    Parameters
    ----------
    plane : ndarray of shape (H, W), float32
    diameter_px : float
        Typical diameter; 0 estimates it.
    contrast, noise_sds : float
        Least height as a share of the typical one, and in SDs of the noise.
    scales : Scales, optional
        Of the image that `plane` is a part of.

    Returns
    -------
    ndarray of shape (n, 2), float64
        y, x in pixels.
    """
    scales = Scales() if scales is None else scales
    diameter = diameter_px or scales.of("diameter", lambda: estimate_diameter(plane))
    scales.looks(_REACH * diameter)
    if diameter <= 0 or plane.max() <= plane.min():
        return np.zeros((0, 2))
    noise = scales.of("noise", lambda: blurred_noise_sd(plane, diameter / 5))
    height = ndimage.gaussian_filter(plane, diameter / 5)
    height = height - background(height, diameter, scales.origin)
    peak = scales.of("peak", lambda: float(height.max()))
    near = max(3, 2 * round(0.3 * diameter) + 1)
    top = (ndimage.maximum_filter(height, near) == height) & (height > max(noise_sds * noise, peak / 200))
    spots, n = ndimage.label(top, np.ones((3, 3)))  # a plateau is one centre
    if not n:
        return np.zeros((0, 2))
    ids = np.arange(1, n + 1)
    own = np.asarray(ndimage.maximum(height, spots, ids))
    keep = own > contrast * scales.of("typical", lambda: float(np.median(own)))
    return np.asarray(ndimage.center_of_mass(top, spots, ids[keep]), dtype=float).reshape(-1, 2)


def in_regions(
    config: Config, shape: tuple[int, int], field_id: str = "", source: Source = Source()
) -> Regions | None:
    """Discs on the table's centres, drawn part by part; None without a table: centres are then found in the image.

    Arguments are those of `segment`; a disc has the number of its row among the field's.

    Raises
    ------
    InputError
        As `segment`.
    """
    if not config.csv:
        return None
    columns = config.y_column, config.x_column, config.field_column
    centres = read_centres(config.csv, field_id, *columns, shape, source, config.units)
    return Regions(lambda box: draw_discs(centres, config.radius_px, shape, box))


def files_read(config: Config, field_id: str, source: Source) -> list[Path]:
    """Files the centres come from, so that new ones are read again."""
    path = Path(config.csv).expanduser()
    return [path] if config.csv and path.is_file() else []


def read_centres(
    path: str | Path,
    field_id: str,
    y_column: str,
    x_column: str,
    field_column: str,
    shape: tuple[int, ...],
    source: Source = Source(),
    units: str = "auto",
) -> np.ndarray:
    """Read the centres of one field from a CSV (comma, semicolon or tab).

    Parameters
    ----------
    path : str or Path
    field_id : str
        Only rows with this, or the name of one of the field's files, in `field_column` are read; all rows if the table has
        no such column.
    y_column, x_column, field_column : str
        Names of columns; where "y", "x" or "field" is not there, what other programs call them. Coordinates count from the
        middle of the first pixel.
    shape : tuple of int
        Height and width of the field.
    source : Source
        The field's files and pixel size.
    units : {"auto", "px", "um"}
        Of the coordinates.

    Returns
    -------
    ndarray of shape (n, 2), float64
        y, x in pixels, in the table's order.

    Raises
    ------
    InputError
        If the file is missing or unreadable, a column is missing, it is not clear which rows are the field's, or a coordinate
        is no number or off the image.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"There is no table of centres at {path}; check the path.")
    table = _read_table(path, path.stat().st_mtime_ns)
    y_column, x_column = (_column(table, name, key, path) for name, key in ((y_column, "y"), (x_column, "x")))
    table = _rows_of(table, path, field_id, field_column, source)
    yx = np.stack(
        [pd.to_numeric(table[c], errors="coerce").to_numpy(float) for c in (y_column, x_column)], axis=1
    )
    says_um = any(re.search(r"[µμ]m|\bum\b|_um$", c.lower()) for c in (y_column, x_column))
    if units == "um" or (units == "auto" and says_um):
        if source.um_per_px <= 0:
            raise InputError(
                f"{path.name} gives centres in µm ({y_column}), and the pixel size of field {field_id} is not known; import the "
                "images with their pixel size, or say that they are in px."
            )
        yx = yx / source.um_per_px
    wrong = ~(np.isfinite(yx).all(axis=1) & (yx >= -0.5).all(axis=1) & (yx < np.array(shape)).all(axis=1))
    if wrong.any():
        line = int(table.index[wrong][0]) + 2
        raise InputError(
            f"{path.name} line {line}: the centre has to be two numbers inside the image "
            f"({shape[0]} px high, {shape[1]} px wide), in pixels, or in µm if the setting units says so."
        )
    return np.clip(yx, 0, np.array(shape) - 1)


@lru_cache(maxsize=2)  # one table serves every field of a plate
def _read_table(path: Path, changed_ns: int) -> pd.DataFrame:
    """The table as text, so that a field called 001 stays that; numbers with decimal commas have points."""
    try:
        with path.open(encoding="utf-8-sig") as f:
            heading = f.readline()
        separator = max(",;\t", key=heading.count)
        table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} cannot be read as CSV ({str(error).splitlines()[0]}).") from error
    table.columns = [str(c).strip() for c in table.columns]
    if separator != ",":
        numbers = r"^\s*-?\d+,\d+\s*$"
        table = table.apply(
            lambda c: c.str.replace(",", ".", regex=False) if c.str.match(numbers).any() else c
        )
    return table


def _column(table: pd.DataFrame, name: str, key: str, path: Path) -> str:
    """The column called `name`, or, where that is only the usual name, what other programs call it."""
    if name in table:
        return name
    plain = {
        re.sub(r"^(nuclei|cells?|cytoplasm)_(?=\w+_center_)", "", str(c).lower()): str(c)
        for c in table.columns
    }
    found = next((plain[n] for n in NAMES[key] if n in plain), "") if name == key else ""
    if not found:
        have = join_words(map(str, table.columns), 12)
        raise InputError(f"{path.name} has no column {name!r}; its columns are {have}.")
    return found


def _rows_of(
    table: pd.DataFrame, path: Path, field_id: str, field_column: str, source: Source
) -> pd.DataFrame:
    """Rows of one field: by its id or by the names of its files."""
    low = {str(c).lower(): str(c) for c in table.columns}
    own = {field_id.casefold()} | {
        text.casefold() for p in source.files for text in (p.name, p.name.split(".")[0], p.stem)
    }
    if field_column in table:
        columns = [field_column]
    elif field_column == "field":
        columns = [low[n] for n in NAMES["field"] if n in low][:1] or [
            c for n, c in low.items() if re.match(r"(image_)?filename_", n)
        ]
    else:
        columns = []
    if not columns and "imagenumber" in low:
        numbers = table[low["imagenumber"]].str.strip()
        if numbers.nunique() == 1:
            return table
        return table[numbers.isin(_image_numbers(path, own))]
    if not columns:
        return table
    if not field_id:
        raise InputError(f"{path.name} has a column {columns[0]!r}, so the field's id is needed to read it.")
    mine = np.zeros(len(table), bool)
    for column in columns:
        values = (
            table[column]
            .str.strip()
            .str.replace("\\", "/", regex=False)
            .str.rpartition("/")[2]
            .str.casefold()
        )
        mine |= (values.isin(own) | values.str.split(".").str[0].isin(own)).to_numpy()
    return table[mine]


def _image_numbers(path: Path, own: set[str]) -> list[str]:
    """CellProfiler's numbers of the images of one field, from the table of images beside that of objects."""
    for beside in sorted(path.parent.glob("*Image.csv")):
        images = _read_table(beside, beside.stat().st_mtime_ns)
        low = {str(c).lower(): str(c) for c in images.columns}
        names = [c for n, c in low.items() if n.startswith(("filename_", "image_filename_"))]
        if "imagenumber" in low and names:
            files = images[names].apply(lambda c: c.str.casefold())
            mine = (files.isin(own) | files.apply(lambda c: c.str.split(".").str[0]).isin(own)).any(axis=1)
            return [str(n).strip() for n in images.loc[mine, low["imagenumber"]]]
    raise InputError(
        f"{path.name} says by ImageNumber which image a centre is in, and no table …Image.csv with ImageNumber and FileName_… is "
        "beside it; put CellProfiler's there, or add a column field."
    )


def draw_discs(
    centres: np.ndarray, radius_px: int, shape: tuple[int, ...], box: Box | None = None
) -> np.ndarray:
    """Label image with a disc per centre; where discs meet, a pixel goes to the nearer centre, of two as near to the first.

    Parameters
    ----------
    centres : ndarray of shape (n, 2)
        y, x in pixels.
    radius_px : int
    shape : tuple of int
        Height and width.
    box : tuple of int, optional
        y0, x0, y1, x1 of the part of the image that is wanted, with the numbers of the whole.
    """
    y0, x0, y1, x1 = box or (0, 0, *shape)
    out = np.zeros((y1 - y0, x1 - x0), np.int32)
    middles = np.rint(centres).astype(int).reshape(-1, 2)
    reach = 2 * radius_px + 2  # what may be nearest to a pixel of the part's outermost disc
    here = np.flatnonzero(
        ((middles >= (y0 - reach, x0 - reach)) & (middles < (y1 + reach, x1 + reach))).all(axis=1)
    )
    if not len(here):
        return out
    offsets = np.argwhere(
        np.hypot(*np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]) <= radius_px
    )
    pixels = (middles[here][:, None] + offsets[None] - radius_px).reshape(-1, 2)
    pixels = np.unique(pixels[((pixels >= (y0, x0)) & (pixels < (y1, x1))).all(axis=1)], axis=0)
    if not len(pixels):
        return out
    far, nearest = spatial.cKDTree(centres[here]).query(pixels, k=min(4, len(here)))
    far, nearest = far.reshape(len(pixels), -1), nearest.reshape(len(pixels), -1)
    first = np.where(far == far[:, :1], nearest, len(here)).min(axis=1)
    out[pixels[:, 0] - y0, pixels[:, 1] - x0] = here[first] + 1
    return out
