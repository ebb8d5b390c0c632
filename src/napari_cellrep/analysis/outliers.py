"""Cells that look like few others."""

from __future__ import annotations

import numpy as np

from napari_cellrep.analysis.neighbours import nearest


def neighbour_distance(z: np.ndarray, k: int = 10, group: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of every cell to its k nearest others: large means unusual.

    Naive outliers are mostly artefacts (82 % of the top five per well of the sample carried a quality flag),
    so leave flagged cells out before trusting this.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored.
    k : int, default 10
        Taken down to the number of other cells in a small group.
    group : ndarray of shape (n,), int, optional
        Compare each cell with its own group only; −1 for none. Default: with all cells.

    Returns
    -------
    ndarray of shape (n,), float64
        In units of the features' SD, divided by √d so that embeddings of any width compare. NaN for a cell
        with fewer than three others.
    """
    out = np.full(len(z), np.nan)
    members = np.zeros(len(z), np.int64) if group is None else group
    for g in np.unique(members[members >= 0]):
        rows = np.flatnonzero(members == g)
        if len(rows) > 3:
            distance = nearest(z[rows], min(k, len(rows) - 1))[1]
            out[rows] = distance.mean(axis=1) / np.sqrt(z.shape[1])
    return out


def control_distance(z: np.ndarray, is_control: np.ndarray, k: int = 10) -> np.ndarray:
    """Mean distance of every cell to the k nearest control cells: large means unlike the control.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored.
    is_control : ndarray of shape (n,), bool
        A control cell is compared with the others of them, never with itself, so that its own distance says how far
        apart control cells are.
    k : int, default 10
        Taken down to the number of other control cells.

    Returns
    -------
    ndarray of shape (n,), float64
        In units of the features' SD, divided by √d. All NaN with fewer than four control cells.
    """
    out = np.full(len(z), np.nan)
    control = z[is_control]
    if len(control) > 3:
        k = min(k, len(control) - 1)
        out[is_control] = nearest(control, k)[1].mean(axis=1)
        if not is_control.all():
            out[~is_control] = nearest(z[~is_control], k, to=control)[1].mean(axis=1)
    return out / np.sqrt(z.shape[1])
