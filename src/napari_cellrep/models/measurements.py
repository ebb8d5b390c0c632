"""Classical measurements: intensity, correlation, Haralick texture and shape inside each cell's mask.

The baseline of the papers (Lu et al. 2019, doi:10.1371/journal.pcbi.1007348: "classic features"): sum, mean and SD
of every channel, Pearson correlation of the protein with each structural channel, the 13 Haralick features (Haralick
et al. 1973, doi:10.1109/TSMC.1973.4309314) at scales 1, 2, 4, 8 and 16, and shape. No weights, nothing to train, no
licence to mind. A *scale* is the distance between the two pixels of a pair, in crop pixels (CellProfiler's texture
scale), not a reduction of the image. Grey levels: 32 between the cell's own minimum and maximum, so that texture does
not repeat intensity. Numbers equal mahotas's (``ignore_zeros``, ``use_x_minus_y_variance``; mean over the directions
in which there are pairs), for all matrices of a batch at once, because mahotas does 20 to 50 cells a second.
Intensities are the image's own counts, without background correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.specs import CropSpec, InputError, ModelSpec

SCALES_PX = (1, 2, 4, 8, 16)
N_LEVELS = 32
HARALICK = (
    "angular_second_moment", "contrast", "correlation", "variance", "inverse_difference_moment", "sum_average",
    "sum_variance", "sum_entropy", "entropy", "difference_variance", "difference_entropy", "information_1",
    "information_2",
)  # fmt: skip
SHAPE = (
    "area_px", "perimeter_px", "eccentricity", "solidity", "extent", "major_axis_px", "minor_axis_px", "form_factor",
)  # fmt: skip

SPEC = ModelSpec(
    name="measurements",
    title="Measurements",
    roles=("protein", "structure"),
    crop=CropSpec(size_px=64, window_px=64, channels=("protein", "structure"), mask_plane=True),
    paper="Haralick et al. 1973, doi:10.1109/TSMC.1973.4309314; baseline of Lu et al. 2019, doi:10.1371/journal.pcbi.1007348",
    licence="No weights, no restrictions.",
    when="Always worth a look first: fast, named numbers per cell. Needs cell masks.",
    layers=("features",),
)


@dataclass(frozen=True)
class Config:
    """Which channels are measured.

    Parameters
    ----------
    channels : tuple of str
        Channel names or roles, in the order of the crop's planes. Those called "protein" (else the first) are
        correlated with each of the others.
    """

    channels: Annotated[
        tuple[str, ...],
        {"label": "Channels", "help": "Names or roles; the protein is correlated with each of the others."},
    ] = ("protein", "structure")


TINY = Config()


class Model(EmbeddingModel):
    """Named numbers of each cell, computed in numpy.

    Parameters
    ----------
    config : Config
    """

    spec = SPEC
    on_device: ClassVar[bool] = False
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        if not config.channels:
            raise InputError("Measurements need at least one channel.")
        self.roles = tuple(config.channels)
        self.crop = replace(SPEC.crop, channels=self.roles)
        proteins = [i for i, role in enumerate(self.roles) if role == "protein"] or [0]
        self._pairs = [(p, s) for p in proteins for s in range(len(self.roles)) if s not in proteins]

    def feature_names(self) -> tuple[str, ...]:
        """Name of every column of the vector, channel first: "protein.mean", "cell.area_px"."""
        seen: dict[str, int] = {}
        labels = []
        for role in self.roles:
            seen[role] = seen.get(role, 0) + 1
            labels.append(role if seen[role] == 1 else f"{role}{seen[role]}")
        names = [f"{c}.{what}" for c in labels for what in ("sum", "mean", "sd")]
        names += [f"{labels[p]}.correlation_{labels[s]}" for p, s in self._pairs]
        names += [f"{c}.{feature}_{d}px" for c in labels for d in SCALES_PX for feature in HARALICK]
        return (*names, *(f"cell.{what}" for what in SHAPE))

    def dim(self, layer: str | None = None) -> int:
        """Number of `feature_names`."""
        self.check_layer(layer)
        return len(self.feature_names())

    def preprocess(self, crops: Tensor) -> Tensor:
        """Counts as they are, float32; the mask (last plane) as 0 and 1.

        Parameters
        ----------
        crops : Tensor of shape (B, C + 1, H, W)
            Channels, then the cell's own mask.
        """
        self.check_crops(crops)
        x = crops.to(torch.float32)
        return torch.cat([x[:, :-1], (x[:, -1:] > 0).float()], dim=1)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Measure every cell; the columns are `feature_names`.

        A cell whose mask is empty, or whose pixels are not finite, has NaN.
        """
        planes = x.detach().cpu().numpy()
        out = np.empty((len(planes), self.dim()), np.float64)
        for start in range(0, len(planes), 16):  # 16 cells: their matrices stay in the cache
            out[start : start + 16] = self._measure(planes[start : start + 16])
        vectors = torch.from_numpy(out.astype(np.float32))
        return {self.check_layer(layer): vectors for layer in layers}

    def _measure(self, planes: np.ndarray) -> np.ndarray:
        n, n_channels = len(planes), len(self.roles)
        plain = np.full((n, 3 * n_channels + len(self._pairs)), np.nan)
        shape = np.full((n, len(SHAPE)), np.nan)
        counts = np.zeros((n, n_channels, len(SCALES_PX), 4, N_LEVELS, N_LEVELS), np.int32)
        for i, crop in enumerate(planes):
            ys, xs = np.nonzero(crop[-1])
            if not len(ys):
                continue
            part = crop[:, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            mask: np.ndarray = np.asarray(part[-1] > 0)
            pixels = part[:-1, mask].astype(np.float64)  # (C, n_px)
            shape[i] = _shape(mask)
            plain[i] = self._intensities(pixels)
            if np.isfinite(pixels).all():
                pairs = _pixel_pairs(mask)
                for c in range(n_channels):
                    counts[i, c] = _count_pairs(_grey_levels(pixels[c], mask), pairs)
        texture = haralick(counts.reshape(-1, N_LEVELS, N_LEVELS)).reshape(
            n, n_channels, len(SCALES_PX), 4, 13
        )
        used: np.ndarray = np.asarray(
            counts.any(axis=(-2, -1))
        )  # (n, C, scales, 4): directions in which there are pairs
        mean = (texture * used[..., None]).sum(axis=3) / np.maximum(used.sum(axis=3), 1)[..., None]
        return np.concatenate([plain, mean.reshape(n, -1), shape], axis=1)

    def _intensities(self, pixels: np.ndarray) -> np.ndarray:
        mean, sd = pixels.mean(axis=1), pixels.std(axis=1)
        found = np.stack([pixels.sum(axis=1), mean, sd], axis=1).ravel()
        pearson = []
        for p, s in self._pairs:
            both = sd[p] * sd[s]
            covariance = ((pixels[p] - mean[p]) * (pixels[s] - mean[s])).mean()
            pearson.append(
                covariance / both if both != 0 else 0.0
            )  # a constant channel correlates with nothing
        return np.concatenate([found, pearson])


def _grey_levels(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """0 … `N_LEVELS` - 1 between the minimum and maximum of the pixels inside the mask: int of its size, flat."""
    low, span = pixels.min(), np.ptp(pixels)
    levels = np.zeros(mask.size, np.intp)
    if span > 0:
        levels[mask.ravel()] = np.minimum((pixels - low) / span * N_LEVELS, N_LEVELS - 1)
    return levels


def _pixel_pairs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of pixels inside the mask at every scale in the four directions (→ ↘ ↓ ↙).

    Returns
    -------
    first, second : ndarray of int, (n_pairs,)
        Positions in the flattened mask.
    which : ndarray of int, (n_pairs,)
        4 × scale + direction.
    """
    h, w = mask.shape
    place = np.arange(h * w).reshape(h, w)
    first, second, which = [], [], []
    for i, d in enumerate(SCALES_PX):
        for direction, (dy, dx) in enumerate(((0, d), (d, d), (d, 0), (d, -d))):
            if dy >= h or abs(dx) >= w:
                continue
            here = slice(0, h - dy), slice(max(-dx, 0), w - max(dx, 0))
            there = slice(dy, h), slice(max(dx, 0), w - max(-dx, 0))
            both = mask[here] & mask[there]
            first.append(place[here][both])
            second.append(place[there][both])
            which.append(np.full(len(first[-1]), 4 * i + direction))
    if not first:
        return (np.zeros(0, np.intp),) * 3
    return np.concatenate(first), np.concatenate(second), np.concatenate(which)


def _count_pairs(levels: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Co-occurrence of grey levels, both ways round: (scales, 4, levels, levels)."""
    first, second, which = pairs
    shape = (len(SCALES_PX), 4, N_LEVELS, N_LEVELS)
    index = (which * N_LEVELS + levels[first]) * N_LEVELS + levels[second]
    counts = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape)
    return counts + counts.swapaxes(-1, -2)  # type: ignore[no-any-return]


def haralick(counts: np.ndarray) -> np.ndarray:
    """The 13 Haralick features of many symmetric co-occurrence matrices.

    Parameters
    ----------
    counts : ndarray of shape (n, levels, levels)
        Levels count from 1. A matrix without pairs gives zeros.

    Returns
    -------
    ndarray of shape (n, 13), float64
        In the order of `HARALICK`.
    """
    n, levels = len(counts), counts.shape[-1]
    total = counts.sum(axis=(1, 2))
    p = counts / np.maximum(total, 1)[:, None, None]
    px = p.sum(axis=2)  # (n, levels), equal to the other margin
    k = np.arange(1, levels + 1)
    plus = _diagonal_sums(p)  # i + j = 2 … 2 levels
    around = _diagonal_sums(p[:, :, ::-1])  # i − j = 1 − levels … levels − 1
    minus = around[:, levels - 1 :].copy()  # |i − j| = 0 … levels − 1
    minus[:, 1:] += around[:, : levels - 1][:, ::-1]
    s, d = np.arange(2, 2 * levels + 1), np.arange(levels)

    mean = px @ k
    variance = np.maximum(px @ k**2 - mean**2, 0)
    sum_average = plus @ s
    sum_variance = np.maximum(plus @ s**2 - sum_average**2, 0)
    covariance = sum_variance / 2 - variance
    flat = variance < 1e-12
    entropy, margin = _entropy(p.reshape(n, -1)), _entropy(px)
    out = np.stack(
        [
            np.einsum("nij,nij->n", p, p),
            minus @ d**2,
            np.where(flat, 1.0, covariance / np.where(flat, 1.0, variance)),
            variance,
            minus @ (1.0 / (1 + d**2)),
            sum_average,
            sum_variance,
            _entropy(plus),
            entropy,
            np.maximum(minus @ d**2 - (minus @ d) ** 2, 0),
            _entropy(minus),
            # With equal margins both of Haralick's cross entropies are twice the margin's.
            np.where(margin > 0, (entropy - 2 * margin) / np.where(margin > 0, margin, 1), 0.0),
            np.sqrt(np.maximum(1 - np.exp(-2 * (2 * margin - entropy)), 0)),
        ],
        axis=1,
    )
    out[total == 0] = 0
    return out  # type: ignore[no-any-return]


def _diagonal_sums(p: np.ndarray) -> np.ndarray:
    """Sums of (n, m, m) over i + j = 0 … 2m − 2: every row is moved on by its number, then rows are added."""
    n, m = p.shape[:2]
    moved = np.zeros((n, m, 2 * m))
    moved[:, :, :m] = p
    return moved.reshape(n, -1)[:, :-m].reshape(n, m, 2 * m - 1).sum(axis=1)  # type: ignore[no-any-return]


def _entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in bits of each row."""
    return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=1)  # type: ignore[no-any-return]


def _shape(mask: np.ndarray) -> list[float]:
    """`SHAPE` of one mask (H, W), its bounding box."""
    from scipy.spatial import ConvexHull
    from skimage.measure import perimeter_crofton

    ys, xs = np.nonzero(mask)
    area = len(ys)
    # Second moments of the area; 1/12 is that of a pixel itself, so that one pixel has an extent.
    yy, xx, xy = ys.var() + 1 / 12, xs.var() + 1 / 12, ((ys - ys.mean()) * (xs - xs.mean())).mean()
    half = np.hypot((yy - xx) / 2, xy)
    major, minor = (yy + xx) / 2 + half, max((yy + xx) / 2 - half, 1e-12)
    edge = mask & ~_inner(mask)
    ey, ex = np.nonzero(edge)
    corners = np.concatenate([np.stack([ey + dy, ex + dx], axis=1) for dy in (0, 1) for dx in (0, 1)])
    hull = ConvexHull(corners).volume  # in 2-D the volume is the area
    around = float(perimeter_crofton(np.pad(mask, 1), 4))  # more than 0 even for one pixel
    return [
        area,
        around,
        float(np.sqrt(max(1 - minor / major, 0))),
        area / hull,
        area / mask.size,
        4 * float(np.sqrt(major)),
        4 * float(np.sqrt(minor)),
        4 * np.pi * area / around**2,
    ]


def _inner(mask: np.ndarray) -> np.ndarray:
    """Pixels with all four neighbours inside."""
    m: np.ndarray = np.pad(mask, 1)
    return m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]  # type: ignore[no-any-return]
