"""Where the protein is: between two reference groups (any embedding), or nucleus over ring (plain pixels)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_cellrep.specs import InputError


def log_ratio_score(z: np.ndarray, is_a: np.ndarray, is_b: np.ndarray) -> np.ndarray:
    """Place every cell between two reference groups: ``s = ln(|f − µ_A| / |f − µ_B|)``.

    Negative is nearer A, positive nearer B, 0 the same distance from both.

    Parameters
    ----------
    z : ndarray of shape (n, d), float
        Features, z-scored over the whole project (`projection.z_score`).
    is_a, is_b : ndarray of shape (n,), bool
        Which cells belong to the reference groups; they are scored like all others.

    Returns
    -------
    ndarray of shape (n,), float64
        Natural logarithm. NaN for a row that is not finite or sits exactly on a reference mean.

    Raises
    ------
    InputError
        If a reference has fewer than two cells, or both references have the same mean.

    References
    ----------
    .. [1] Lu et al., "Learning unsupervised feature representations for single cell microscopy images with
       paired cell inpainting", PLoS Comput Biol 2019 (``models.md`` §1.7; the definition, not the sentence
       of its results that contradicts it).
    """
    fine = np.isfinite(z).all(axis=1)
    is_a, is_b = is_a & fine, is_b & fine
    for name, members in (("A", is_a), ("B", is_b)):
        if members.sum() < 2:
            raise InputError(
                f"Reference {name} needs at least 2 cells to compare with; it has {int(members.sum())}."
            )
    z = np.asarray(z, np.float64)
    mean_a, mean_b = z[is_a].mean(axis=0), z[is_b].mean(axis=0)
    if np.linalg.norm(mean_a - mean_b) <= 1e-9 * np.sqrt(z.shape[1]):
        raise InputError(
            "The two references have the same mean features, so no cell is nearer to one of them."
        )
    to_a, to_b = np.linalg.norm(z - mean_a, axis=1), np.linalg.norm(z - mean_b, axis=1)
    on_mean = (to_a == 0) | (to_b == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.log(to_a) - np.log(to_b)
    return np.where(fine & ~on_mean, score, np.nan)


def nucleus_ring_ratio(
    protein: np.ndarray,
    nuclei: np.ndarray,
    *,
    ring_px: int = 5,
    gap_px: int = 2,
    background: float | None = None,
) -> dict[int, float]:
    """Mean protein in each nucleus over the mean in a ring around it: the textbook translocation readout.

    One distance transform serves all cells. A ring is made of the pixels that are nearest to this nucleus,
    so it stops half-way to a neighbour and never enters another nucleus.

    Parameters
    ----------
    protein : ndarray of shape (H, W)
        Protein channel.
    nuclei : ndarray of shape (H, W), integer
        Labels of the nuclei, 0 = background.
    ring_px : int, default 5
        Width of the ring in pixels.
    gap_px : int, default 2
        Pixels left out around the nucleus, where blur mixes both.
    background : float, optional
        Subtracted from both; default: the image's 1st percentile.

    Returns
    -------
    dict of int to float
        Label → ratio; NaN where a ring has fewer than 10 pixels or no signal over background.

    References
    ----------
    .. [1] BBBC013 (Broad Bioimage Benchmark Collection): FKHR-GFP moves into the nucleus with dose.
    """
    if protein.shape != nuclei.shape or protein.ndim != 2:
        raise InputError(
            f"The protein is {protein.shape} px and the nuclei are {nuclei.shape} px; sizes have to match."
        )
    plane = np.asarray(protein, np.float64)
    plane = plane - (np.percentile(plane, 1) if background is None else background)
    labels = np.unique(nuclei)
    labels = labels[labels > 0].astype(np.int64)
    if not len(labels):
        return {}
    distance, where = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    owner = nuclei[tuple(where)]
    ring = np.where((distance > gap_px) & (distance <= gap_px + ring_px), owner, 0)
    inside = np.asarray(ndimage.mean(plane, nuclei, labels))
    pixels = np.asarray(ndimage.sum_labels(np.ones_like(plane), ring, labels))
    total = np.asarray(ndimage.sum_labels(plane, ring, labels))
    usable = (pixels >= 10) & (total > 0)
    ratio = np.full(len(labels), np.nan)
    np.divide(inside, total / np.maximum(pixels, 1), out=ratio, where=usable)
    return dict(zip(labels.tolist(), ratio.tolist(), strict=True))
