"""Outlines of cells as ImageJ ROIs, for Fiji's ROI manager."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from napari_cellrep.data.files import replacing


def outline(mask: np.ndarray, y0: int, x0: int) -> np.ndarray:
    """Outline of a mask in ImageJ's coordinates.

    Parameters
    ----------
    mask : ndarray of shape (h, w), bool
        At least one pixel is set. Of several pieces the longest outline is taken.
    y0, x0 : int
        Where the mask lies in its field.

    Returns
    -------
    ndarray of shape (n, 2), float32
        x, y in px. ImageJ counts from a pixel's corner, so the middle of the first pixel is (0.5, 0.5).
    """
    from skimage.measure import find_contours

    lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    line = max(lines, key=len)[:-1]  # the last point is the first again
    return (line[:, ::-1] + (x0 - 0.5, y0 - 0.5)).astype(np.float32)


def write_rois(path: Path, outlines: Mapping[str, np.ndarray]) -> None:
    """Write outlines as a ``.zip`` of ``.roi`` files, which Fiji opens in its ROI manager.

    Parameters
    ----------
    path : Path
    outlines : mapping
        Name → x, y of the points, (n, 2).
    """
    import roifile

    rois = [roifile.ImagejRoi.frompoints(points, name=name) for name, points in outlines.items()]
    names = [f"{name.replace(':', '_').replace('/', '_')}.roi" for name in outlines]
    with replacing(path) as tmp:
        roifile.roiwrite(tmp, rois, name=names, mode="w")
