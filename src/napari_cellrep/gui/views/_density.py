"""Where on the map most cells are: contours that enclose a given share of them. Numbers only, no window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GRID = (
    160  # cells along the longer side: finer than that the eye cannot follow, and coarser it sees the steps
)
LEAST = 10  # of fewer cells a contour says nothing


@dataclass(frozen=True)
class Contour:
    """The smallest region that holds a share of the points of one code.

    Parameters
    ----------
    code : int
    share : float
    loops : tuple of ndarray of shape (m, 2)
        Closed curves in map units; inside is what an odd number of them surround.
    peak : tuple of float
        The densest place, map units.
    """

    code: int
    share: float
    loops: tuple[np.ndarray, ...]
    peak: tuple[float, float]


def contours(
    x: np.ndarray,
    y: np.ndarray,
    box: tuple[float, float, float, float],
    shares: tuple[float, ...],
    codes: np.ndarray | None = None,
    wanted: tuple[int, ...] = (0,),
) -> list[Contour]:
    """Regions of highest density, by a histogram that is smoothed with a Gaussian.

    The width of the Gaussian is half of what Scott's rule gives, because maps have more than one hill. The level of
    a contour is chosen so that the share holds for the points themselves, not for the smoothed density.

    Parameters
    ----------
    x, y : ndarray of shape (n,)
        Map units, finite.
    box : tuple of float
        Left, bottom, right and top of what is looked at; points around it count as far as they are smoothed into it.
    shares : tuple of float
        Between 0 and 1, of the points counted.
    codes : ndarray of shape (n,), uint8, optional
        One set of contours for each of `wanted`; without it one for all points.

    Returns
    -------
    list of Contour
        Large shares first, so that small ones are drawn over them; none for codes of fewer than `LEAST` points.
    """
    from scipy import ndimage
    from skimage.measure import find_contours

    left, bottom, right, top = box
    step = max(right - left, top - bottom, 1e-9) / GRID
    margin = 26  # three times the widest Gaussian, and a rim of zeros that closes every loop
    x0, y0 = left - margin * step, bottom - margin * step
    wide, high = (int(np.ceil(s / step)) + 2 * margin for s in (right - left, top - bottom))
    inside = (x >= x0) & (x < x0 + wide * step) & (y >= y0) & (y < y0 + high * step)
    place = np.zeros(256, np.int32)
    if codes is not None:
        place[:] = -1
        place[list(wanted)] = np.arange(len(wanted))
        inside &= place[codes] >= 0
    if not inside.all():
        x, y = x[inside], y[inside]
    j = np.minimum(((x - x0) * (1 / step)).astype(np.int32), wide - 1)
    at = np.minimum(((y - y0) * (1 / step)).astype(np.int32), high - 1) * np.int32(wide) + j
    if codes is not None:
        at += place[codes[inside]] * np.int32(high * wide)
    counts = np.bincount(at, minlength=len(wanted) * high * wide).reshape(len(wanted), -1)
    found: list[Contour] = []
    for code, flat in zip(wanted, counts, strict=True):
        n = int(flat.sum())
        if n < LEAST:
            continue
        grid = flat.reshape(high, wide)
        smooth = ndimage.gaussian_filter(
            grid.astype(np.float32), _width(grid, n), mode="constant", truncate=3
        )
        held = flat > 0
        dense, order = smooth.ravel()[held], np.argsort(-smooth.ravel()[held])
        holds = np.cumsum(flat[held][order]) / n
        y_peak, x_peak = np.unravel_index(int(smooth.argmax()), smooth.shape)
        peak = (x0 + (float(x_peak) + 0.5) * step, y0 + (float(y_peak) + 0.5) * step)
        for share in sorted(shares, reverse=True):
            level = float(dense[order[min(int(np.searchsorted(holds, share)), len(holds) - 1)]])
            # Just below it: the grid cells of that very density belong to the region.
            loops = find_contours(smooth, level * (1 - 1e-3))
            placed = tuple(np.c_[x0 + (c[:, 1] + 0.5) * step, y0 + (c[:, 0] + 0.5) * step] for c in loops)
            found.append(Contour(code, share, placed, peak))
    found.sort(key=lambda c: -c.share)
    return found


def _width(grid: np.ndarray, n: int) -> tuple[float, float]:
    """Width of the Gaussian along y and x, in cells of the grid."""
    out = []
    for axis in (1, 0):
        counts = grid.sum(axis=axis)
        at = np.arange(len(counts))
        mean = (counts * at).sum() / n
        spread = np.sqrt((counts * (at - mean) ** 2).sum() / n)
        out.append(float(np.clip(0.5 * spread * n ** (-1 / 6), 1.2, 8.0)))
    return out[0], out[1]
