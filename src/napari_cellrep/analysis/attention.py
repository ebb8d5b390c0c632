"""What a vision transformer's heads look at, told by the channels of the cell: overlaps of what is bright in both."""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_otsu

from napari_cellrep.specs import InputError

RESAMPLE = ("attention", "channels")


def head_channel_iou(
    attention: np.ndarray,
    channels: np.ndarray,
    patch_px: int,
    *,
    inside: np.ndarray | None = None,
    resample: str = "attention",
) -> tuple[np.ndarray, np.ndarray]:
    """Intersection over union of each head's attention and each channel, both cut in two by Otsu's threshold.

    Parameters
    ----------
    attention : ndarray of shape (heads, h, w)
        Of the class token, one number per patch.
    channels : ndarray of shape (C, H, W)
        The same cell; pixels beyond ``h * patch_px`` are not seen by the network and left out.
    patch_px : int
        Side of a patch in pixels.
    inside : ndarray of bool, (H, W), optional
        Pixels that count; by default all. Outside of the image there is nothing to compare.
    resample : str
        "attention": patches are enlarged to pixels, each pixel as its patch. "channels": pixels are averaged to
        patches. The paper does not say which; enlarging is the default.

    Returns
    -------
    iou : ndarray of shape (heads, C), float64
        NaN where head or channel are constant.
    chance : ndarray of shape (heads, C), float64
        What two independent masks of the same areas would have on average, a·b / (a + b − a·b): masks that cover much
        overlap much by themselves.

    References
    ----------
    .. [1] Doron et al. 2023, doi:10.1101/2023.06.16.545359; models.md §3.7.
    """
    if resample not in RESAMPLE:
        raise InputError(f"resample is {resample!r}; it has to be one of {', '.join(RESAMPLE)}.")
    heads, h, w = attention.shape
    side = (h * patch_px, w * patch_px)
    if channels.ndim != 3 or channels.shape[1] < side[0] or channels.shape[2] < side[1]:
        raise InputError(
            f"Attention of {h} × {w} patches of {patch_px} px needs channels of {side[0]} × {side[1]} px or more; these are "
            f"{channels.shape}."
        )
    channels = np.asarray(channels, np.float64)[:, : side[0], : side[1]]
    inside = np.ones(side, bool) if inside is None else inside[: side[0], : side[1]]
    if resample == "attention":
        maps = attention.repeat(patch_px, axis=1).repeat(patch_px, axis=2)
    else:
        maps = attention
        blocks = (h, patch_px, w, patch_px)
        count = inside.reshape(blocks).sum(axis=(1, 3))
        total = np.where(inside, channels, 0).reshape(-1, *blocks).sum(axis=(2, 4))
        channels, inside = total / np.maximum(count, 1), 2 * count > patch_px**2
    masks = [[_bright(plane[inside]) for plane in planes] for planes in (maps, channels)]
    iou, chance = np.full((2, heads, len(channels)), np.nan)
    for i, a in enumerate(masks[0]):
        for j, b in enumerate(masks[1]):
            if a is None or b is None:
                continue
            iou[i, j] = (a & b).sum() / (a | b).sum()
            both = a.mean() * b.mean()
            chance[i, j] = both / (a.mean() + b.mean() - both)
    return iou, chance


def _bright(values: np.ndarray) -> np.ndarray | None:
    """What is above Otsu's threshold; None where all values are the same."""
    if not len(values) or values.min() == values.max():
        return None
    mask: np.ndarray = values > threshold_otsu(values)
    return mask
