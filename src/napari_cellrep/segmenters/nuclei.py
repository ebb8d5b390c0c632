"""Nuclei in a DNA channel, without trained weights.

Every threshold is tried and the field is cut into the pieces that look most like ellipses (`_blobs`), so uneven
background, dim nuclei beside bright ones and touching nuclei need no setting. Measured on manual truth in
``benchmarks/segmentation.py``. When nuclei overlap heavily or are far from elliptic, use `cellpose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from napari_cellrep.segmenters import Scales
from napari_cellrep.segmenters._blobs import Rules, drop_border, find_blobs, read_plane
from napari_cellrep.specs import Channel


@dataclass(frozen=True)
class Config:
    """How nuclei are found; the defaults adapt to the image."""

    channel: Annotated[str, {"label": "Channel", "help": "Name or role of the DNA channel."}] = "nucleus"
    diameter_px: Annotated[
        float,
        {"min": 0.0, "max": 2000.0, "step": 1.0, "label": "Diameter (px)", "help": "0: from the image."},
    ] = 0.0
    smoothing: Annotated[
        float,
        {"min": 0.0, "max": 0.5, "step": 0.005, "label": "Smoothing",
         "help": "SD of the blur before thresholding, as a share of the diameter."},
    ] = Rules.smooth  # fmt: skip
    edge: Annotated[
        float,
        {"min": 0.05, "max": 0.95, "step": 0.05, "label": "Outline at",
         "help": "The outline is where a nucleus falls to this share of its own brightness; lower is wider."},
    ] = Rules.edge  # fmt: skip
    contrast: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 0.05, "label": "Least contrast",
         "help": "Drop what is fainter than this share of the typical nucleus."},
    ] = Rules.contrast  # fmt: skip
    noise_sds: Annotated[
        float,
        {"min": 1.0, "max": 100.0, "step": 0.5, "label": "Least signal (noise SDs)",
         "help": "Drop what rises less than this over the noise; a field without cells then stays empty."},
    ] = Rules.noise_sds  # fmt: skip
    split: Annotated[bool, {"label": "Split touching nuclei"}] = True
    fill_holes: Annotated[bool, {"label": "Fill holes"}] = True
    min_area_px: Annotated[
        int,
        {"min": 0, "max": 10_000_000, "label": "Least area (px)", "help": "0: a tenth of a typical nucleus."},
    ] = 0
    max_area_px: Annotated[
        int, {"min": 0, "max": 10_000_000, "label": "Largest area (px)", "help": "0: five typical nuclei."}
    ] = 0
    drop_border: Annotated[bool, {"label": "Drop nuclei cut by the image's edge"}] = False


def rules(config: Config) -> Rules:
    """What `find_blobs` is asked for."""
    return Rules(
        diameter_px=config.diameter_px,
        smooth=config.smoothing,
        edge=config.edge,
        contrast=config.contrast,
        noise_sds=config.noise_sds,
        split=config.split,
        fill_holes=config.fill_holes,
        min_area_px=config.min_area_px,
        max_area_px=config.max_area_px,
    )


def segment(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    device: str = "cpu",
    field_id: str = "",
    scales: Scales | None = None,
) -> np.ndarray:
    """Outline the nuclei of one field.

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
        0 is background; nuclei are numbered 1..n from top to bottom. A field without nuclei is all 0.

    Raises
    ------
    InputError
        If the channel is missing or its pixels are not finite numbers.
    """
    labels = find_blobs(read_plane(image, channels, config.channel), rules(config), scales)
    return drop_border(labels) if config.drop_border else labels
