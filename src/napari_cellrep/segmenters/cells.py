"""Whole cells around nuclei: the nuclei are found as in `nuclei`, then grow into one or several cell channels.

Seeded watershed after the idea of CellProfiler's secondary objects: each pixel of the cells goes to the nucleus it
is reached from first, along bright ways and short ones. A cell keeps its nucleus' number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from napari_cellrep.segmenters import Scales, nuclei
from napari_cellrep.segmenters._blobs import _REACH, background, drop_border, find_blobs, noise_sd, read_plane
from napari_cellrep.specs import Channel, InputError


@dataclass(frozen=True)
class Config(nuclei.Config):
    """How nuclei are found (as in `nuclei`), and how far cells reach."""

    cell_channels: Annotated[
        tuple[str, ...],
        {"label": "Cell channels",
         "help": "Names or roles that show the cell, each with a weight: protein:1,structure:0.5."},
    ] = ("protein",)  # fmt: skip
    max_distance_px: Annotated[
        float,
        {"min": 0.0, "max": 5000.0, "step": 1.0, "label": "Farthest from the nucleus (px)",
         "help": "0: 1.5 times the typical nucleus' diameter."},
    ] = 0.0  # fmt: skip
    threshold: Annotated[
        float,
        {"min": 0.05, "max": 5.0, "step": 0.05, "label": "Threshold factor",
         "help": "Times the automatic threshold of the cell channels; lower makes larger cells."},
    ] = 0.5  # fmt: skip
    follow_intensity: Annotated[
        float,
        {"min": 0.0, "max": 10.0, "step": 0.1, "label": "Follow dark borders",
         "help": "0: borders half way between nuclei; higher: along dark lines between cells."},
    ] = 1.0  # fmt: skip


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
        Every cell holds its nucleus and has its number. With `drop_border`, cells that the edge cuts are left
        out and the others keep their numbers.

    Raises
    ------
    InputError
        If a channel is missing, a weight is not a positive number, or pixels are not finite numbers.
    """
    scales = Scales() if scales is None else scales
    seeds = find_blobs(read_plane(image, channels, config.channel), nuclei.rules(config), scales)
    weights = read_weights(config.cell_channels)
    planes = [read_plane(image, channels, name) for name in weights]
    if not seeds.any():
        return seeds
    areas = np.bincount(seeds.ravel())[1:]
    diameter = config.diameter_px or scales.of(
        "nucleus", lambda: float(2 * np.sqrt(np.median(areas) / np.pi))
    )
    signal = _weighted(planes, list(weights.values()), diameter, scales)

    distance = ndimage.distance_transform_edt(seeds == 0)
    reach = distance <= (config.max_distance_px or 1.5 * diameter)
    least = config.threshold * scales.of("threshold", lambda: _threshold(signal, reach))
    inside = reach & (signal > least) | (seeds > 0)
    # A way costs its length and, more the more the borders are to be followed, its darkness.
    scale = scales.of("bright", lambda: float(np.percentile(signal[inside], 90))) or 1.0
    cost = distance / diameter - config.follow_intensity * np.clip(signal / scale, 0, 1)
    labels = watershed(cost, seeds, mask=inside)
    labels = _smooth_outlines(labels, seeds, max(1, round(diameter / 12)))
    return drop_border(labels, numbers_stay=True) if config.drop_border else labels.astype(np.int32)


def read_weights(cell_channels: Sequence[str]) -> dict[str, float]:
    """Read ("protein:1", "structure:0.5") as name → weight; the weight may be left out.

    Raises
    ------
    InputError
        If there is no channel, or a weight is negative or all are 0.
    """
    weights: dict[str, float] = {}
    for text in cell_channels:
        name, _, number = text.strip().rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = 1.0
            name = text.strip()
        if not name:
            name, weight = number, 1.0
        if not (np.isfinite(weight) and weight >= 0):
            raise InputError(f"The weight of a cell channel has to be 0 or more; got {text!r}.")
        weights[name] = weight
    if not weights or not any(weights.values()):
        raise InputError(
            "Name at least one cell channel with a weight above 0, for example protein:1, or use the segmenter nuclei."
        )
    return weights


def _weighted(
    planes: Sequence[np.ndarray], weights: Sequence[float], diameter: float, scales: Scales
) -> np.ndarray:
    """Weighted sum of channels, each over its background and scaled to its own 99th percentile."""
    total = np.zeros(planes[0].shape, np.float32)
    scales.looks(_REACH * 2 * diameter)
    for i, (plane, weight) in enumerate(zip(planes, weights, strict=True)):
        smooth = ndimage.gaussian_filter(plane, max(1.0, diameter / 20))
        height = smooth - background(smooth, 2 * diameter, scales.origin)
        top, noise = scales.of(f"top {i}", partial(_top_and_noise, height, smooth))
        if top > 3 * noise:  # a channel without signal adds nothing, not its noise
            total += weight * height / top
    return total


def _top_and_noise(height: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    return float(np.percentile(height, 99)), noise_sd(smooth)


def _threshold(signal: np.ndarray, where: np.ndarray) -> float:
    """Otsu's threshold of the square root: it lies lower than the plain one, as cell margins are thin."""
    values = np.sqrt(np.clip(signal[where], 0, None))
    return float(threshold_otsu(values)) ** 2 if values.max(initial=0) > values.min(initial=0) else np.inf


def _smooth_outlines(labels: np.ndarray, seeds: np.ndarray, radius: int) -> np.ndarray:
    """Fill holes, take off threads, and keep of each cell the piece that holds its nucleus."""
    out = np.zeros_like(labels)
    disc = np.hypot(*np.ogrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        own = np.pad(labels[box] == i, radius, mode="edge")
        nucleus = np.pad(seeds[box] == i, radius)
        own = ndimage.binary_fill_holes(ndimage.binary_opening(own, disc) | nucleus)
        pieces, n = ndimage.label(own)
        if n > 1:
            own = np.isin(pieces, np.unique(pieces[nucleus]))
        own = own[radius:-radius, radius:-radius] & ((labels[box] == i) | (labels[box] == 0))
        out[box][own & (out[box] == 0)] = i
    return np.where(seeds > 0, seeds, out).astype(np.int32)
