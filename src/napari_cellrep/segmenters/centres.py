"""Window centres without masks: a small disc at every blob's middle, or at coordinates the user brings.

For fixed windows a centre is all that is needed. Blobs are found as maxima of the image blurred to their size (a
matched filter), so cells that no outline would part still get one centre each. Sizes and shapes of the discs mean
nothing: leave measurements of area out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from scipy import ndimage, spatial

from napari_cellrep.segmenters._blobs import (
    background,
    blurred_noise_sd,
    check_image,
    estimate_diameter,
    read_plane,
)
from napari_cellrep.specs import Channel, InputError, join_words


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
            "help": "A table of centres in pixels; empty: find them in the image.",
        },
    ] = ""
    y_column: Annotated[str, {"label": "Column of y"}] = "y"
    x_column: Annotated[str, {"label": "Column of x"}] = "x"
    field_column: Annotated[
        str, {"label": "Column of the field", "help": "May be missing from a table that serves one field."}
    ] = "field"


def segment(
    image: np.ndarray, channels: Sequence[Channel], config: Config, device: str = "cpu", field_id: str = ""
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
            config.csv, field_id, config.y_column, config.x_column, config.field_column, image.shape[1:]
        )
    else:
        centres = find_centres(
            read_plane(image, channels, config.channel), config.diameter_px, config.contrast, config.noise_sds
        )
    return draw_discs(centres, config.radius_px, image.shape[1:])


def find_centres(
    plane: np.ndarray, diameter_px: float = 0.0, contrast: float = 0.33, noise_sds: float = 6.0
) -> np.ndarray:
    """Middles of bright blobs.

    Parameters
    ----------
    plane : ndarray of shape (H, W), float32
    diameter_px : float
        Typical diameter; 0 estimates it.
    contrast, noise_sds : float
        Least height as a share of the typical one, and in SDs of the noise.

    Returns
    -------
    ndarray of shape (n, 2), float64
        y, x in pixels.
    """
    diameter = diameter_px or estimate_diameter(plane)
    if diameter <= 0 or plane.max() <= plane.min():
        return np.zeros((0, 2))
    noise = blurred_noise_sd(plane, diameter / 5)
    height = ndimage.gaussian_filter(plane, diameter / 5)
    height = height - background(height, diameter)
    near = max(3, 2 * round(0.3 * diameter) + 1)
    top = (ndimage.maximum_filter(height, near) == height) & (
        height > max(noise_sds * noise, height.max() / 200)
    )
    spots, n = ndimage.label(top, np.ones((3, 3)))  # a plateau is one centre
    if not n:
        return np.zeros((0, 2))
    ids = np.arange(1, n + 1)
    own = np.asarray(ndimage.maximum(height, spots, ids))
    keep = own > contrast * np.median(own)
    return np.asarray(ndimage.center_of_mass(top, spots, ids[keep]), dtype=float).reshape(-1, 2)


def read_centres(
    path: str | Path, field_id: str, y_column: str, x_column: str, field_column: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Read the centres of one field from a CSV.

    Parameters
    ----------
    path : str or Path
    field_id : str
        Only rows with this in `field_column` are read; all rows if the table has no such column.
    y_column, x_column, field_column : str
        Names of columns; coordinates are in pixels, from 0.
    shape : tuple of int
        Height and width of the field.

    Returns
    -------
    ndarray of shape (n, 2), float64
        y, x in pixels, in the table's order.

    Raises
    ------
    InputError
        If the file is missing or unreadable, a column is missing, or a coordinate is no number or off the image.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"There is no table of centres at {path}; check the path.")
    try:
        table = pd.read_csv(path, dtype={field_column: str})
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as CSV ({error}).") from error
    for column in (y_column, x_column):
        if column not in table:
            have = join_words(map(str, table.columns), 12)
            raise InputError(f"{path.name} has no column {column!r}; its columns are {have}.")
    if field_column in table:
        if not field_id:
            raise InputError(
                f"{path.name} has a column {field_column!r}, so the field's id is needed to read it."
            )
        table = table[table[field_column].str.strip() == field_id]
    yx = table[[y_column, x_column]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = ~(np.isfinite(yx).all(axis=1) & (yx >= 0).all(axis=1) & (yx < np.array(shape)).all(axis=1))
    if wrong.any():
        line = int(table.index[wrong][0]) + 2
        raise InputError(
            f"{path.name} line {line}: the centre has to be two numbers inside the image "
            f"({shape[0]} px high, {shape[1]} px wide), in pixels."
        )
    return yx


def draw_discs(centres: np.ndarray, radius_px: int, shape: tuple[int, ...]) -> np.ndarray:
    """Label image with a disc per centre; where discs meet, a pixel goes to the nearer centre.

    Parameters
    ----------
    centres : ndarray of shape (n, 2)
        y, x in pixels.
    radius_px : int
    shape : tuple of int
        Height and width.
    """
    out = np.zeros(shape, np.int32)
    if not len(centres):
        return out
    offsets = np.argwhere(
        np.hypot(*np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]) <= radius_px
    )
    pixels = (np.rint(centres).astype(int)[:, None] + offsets[None] - radius_px).reshape(-1, 2)
    pixels = np.unique(pixels[((pixels >= 0) & (pixels < np.array(shape))).all(axis=1)], axis=0)
    _, nearest = spatial.cKDTree(centres).query(pixels)
    out[pixels[:, 0], pixels[:, 1]] = nearest + 1
    return out
