"""Whole cells in a cytosol or brightfield channel, without a nucleus: yeast, bacteria, blood cells.

Fluorescence goes through the same tree of thresholds as `nuclei` (vacuoles are filled, buds are split off where
they part). In brightfield a cell is neither brighter nor darker than its surroundings but has more structure, so
the local contrast (SD about a pixel) is segmented in its stead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy import ndimage

from napari_cellrep.segmenters import Scales
from napari_cellrep.segmenters._blobs import Rules, drop_border, find_blobs, read_plane
from napari_cellrep.specs import Channel, find_channel

LOOKS = ("auto", "bright", "dark", "structured")


@dataclass(frozen=True)
class Config:
    """How cell bodies are found; the defaults adapt to the image."""

    channel: Annotated[
        str, {"label": "Channel", "help": "Name or role of a channel that fills the cell."}
    ] = "structure"
    look: Annotated[
        str,
        {"choices": LOOKS, "label": "Cells are",
         "help": "Against their surroundings. auto: structured in a brightfield channel, else bright."},
    ] = "auto"  # fmt: skip
    diameter_px: Annotated[
        float,
        {"min": 0.0, "max": 2000.0, "step": 1.0, "label": "Diameter (px)", "help": "0: from the image."},
    ] = 0.0
    smoothing: Annotated[
        float,
        {"min": 0.0, "max": 0.5, "step": 0.005, "label": "Smoothing",
         "help": "SD of the blur before thresholding, as a share of the diameter."},
    ] = 0.06  # fmt: skip
    edge: Annotated[
        float,
        {"min": 0.05, "max": 0.95, "step": 0.05, "label": "Outline at",
         "help": "The outline is where a cell falls to this share of its own brightness; lower is wider."},
    ] = 0.25  # fmt: skip
    contrast: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 0.05, "label": "Least contrast",
         "help": "Drop what is fainter than this share of the typical cell."},
    ] = 0.2  # fmt: skip
    noise_sds: Annotated[
        float,
        {"min": 1.0, "max": 100.0, "step": 0.5, "label": "Least signal (noise SDs)",
         "help": "Drop what rises less than this over the noise; an empty field then stays empty."},
    ] = 10.0  # fmt: skip
    split: Annotated[bool, {"label": "Split touching cells"}] = True
    min_area_px: Annotated[
        int,
        {"min": 0, "max": 10_000_000, "label": "Least area (px)", "help": "0: a tenth of a typical cell."},
    ] = 0
    max_area_px: Annotated[
        int, {"min": 0, "max": 10_000_000, "label": "Largest area (px)", "help": "0: five typical cells."}
    ] = 0
    drop_border: Annotated[bool, {"label": "Drop cells cut by the image's edge"}] = False


def segment(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    device: str = "cpu",
    field_id: str = "",
    scales: Scales | None = None,
) -> np.ndarray:
    """Outline the cells of one field.

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
        Not used.
    scales : Scales, optional
        Of the image that this is a part of.

    Returns
    -------
    ndarray of shape (H, W), int32
        0 is background; cells are numbered 1..n from top to bottom. A field without cells is all 0.

    Raises
    ------
    InputError
        If the channel is missing or its pixels are not finite numbers.
    """
    scales = Scales() if scales is None else scales
    plane = read_plane(image, channels, config.channel)
    look = config.look
    if look == "auto":
        role = channels[find_channel(channels, config.channel)].role
        look = "structured" if role == "brightfield" else "bright"
    if look == "dark":
        plane = scales.of("ceiling", plane.max) - plane
    elif look == "structured":
        plane = local_contrast(
            plane, config.diameter_px, scales.of("middle", lambda: float(np.median(plane)))
        )
    rules = Rules(
        diameter_px=config.diameter_px,
        smooth=config.smoothing,
        edge=config.edge,
        contrast=config.contrast,
        noise_sds=config.noise_sds,
        split=config.split,
        min_area_px=config.min_area_px,
        max_area_px=config.max_area_px,
    )
    labels = find_blobs(plane, rules, scales)
    return drop_border(labels) if config.drop_border else labels


def local_contrast(plane: np.ndarray, diameter_px: float = 0.0, middle: float | None = None) -> np.ndarray:
    """SD of the pixels in a small window: high at the outlines and inside of cells in brightfield.

    Parameters
    ----------
    plane : ndarray of shape (H, W), float32
    diameter_px : float
        The window is a sixth of it; 0: 5 px.
    middle : float, optional
        The image's median, where this is a part of it.
    """
    size = max(3, 2 * round(diameter_px / 12) + 1) if diameter_px else 5
    centred = plane - (
        float(np.median(plane)) if middle is None else middle
    )  # keeps E[x²] − E[x]² exact enough in float32
    mean = ndimage.uniform_filter(centred, size)
    square = ndimage.uniform_filter(centred * centred, size)
    sd = np.sqrt(np.clip(square - mean * mean, 0, None))
    return ndimage.gaussian_filter(sd, size / 4).astype(np.float32)  # type: ignore[no-any-return]
