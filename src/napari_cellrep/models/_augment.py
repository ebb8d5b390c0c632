"""Augmentations on the device, drawn from an explicit generator.

Those of DINO4Cells (models.md §3.5) come in two halves: functions of the images and the numbers, which golden files
pin down, and the drawing of the numbers for a whole batch at once. Images are (B, C, H, W) from 0 to 1; the numbers
are drawn on the generator's device (the CPU in training), so that every device sees the same ones. Where a batch is
computed in parts, each item gets the numbers that it would get in the whole batch (`draw`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TRIES = 10  # at a crop of the wanted area and shape, before the largest possible one is taken
_RATIO = (3 / 4, 4 / 3)


class Draws(torch.Generator):
    """A generator that may draw for a part of a batch only.

    Attributes
    ----------
    rows : tuple of int, or None
        First row of the part, the row after its last, and rows of the batch. None: the whole batch.
    """

    rows: tuple[int, int, int] | None = None


def draw(
    how: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator,
    axis: int = 0,
    **more: Any,
) -> Tensor:
    """Random numbers for the items of a batch.

    Parameters
    ----------
    how : callable
        ``torch.rand`` or the like: gets the shape, the generator and `more`.
    shape : sequence of int
    generator : torch.Generator
        Of `Draws` that draw for a part, the numbers are those that the part's items get within the batch.
    axis : int
        Along which the items lie: one after the other, or all again and again.

    Returns
    -------
    Tensor of shape `shape`
        On the generator's device.
    """
    rows = generator.rows if isinstance(generator, Draws) else None
    if rows is None:
        return how(tuple(shape), generator=generator, device=generator.device, **more)
    start, stop, n = rows
    times = shape[axis] // (stop - start)
    whole = how(
        (*shape[:axis], times * n, *shape[axis + 1 :]), generator=generator, device=generator.device, **more
    )
    return whole.unflatten(axis, (times, n)).narrow(axis + 1, start, stop - start).flatten(axis, axis + 1)


def random_flips(x: Tensor, generator: torch.Generator, vertical: bool = True) -> Tensor:
    """Flip each item of (B, C, H, W) left-right and (`vertical`) up-down, independently, each with probability 1/2.

    The choices are drawn on the generator's device (the CPU in training), so that every device sees the same ones.
    """
    flip = draw(torch.rand, (2, len(x), 1, 1, 1), generator, axis=1).to(x.device) < 0.5
    x = torch.where(flip[0], x.flip(-1), x)
    return torch.where(flip[1], x.flip(-2), x) if vertical else x


def random_transpose(x: Tensor, generator: torch.Generator) -> Tensor:
    """Swap rows and columns of each square item of (B, C, H, H) with probability 1/2.

    With `random_flips` before or after it, each of the eight ways to lay a square is as likely.
    """
    swap = draw(torch.rand, (len(x), 1, 1, 1), generator).to(x.device) < 0.5
    return torch.where(swap, x.transpose(-2, -1), x)


def random_gamma(x: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Raise each channel of each item, 0 … 1, to a power from 1 / (1 + most) to 1 + most, evenly on a log scale."""
    draws = draw(torch.rand, x.shape[:2], generator)
    power = torch.exp((2 * draws - 1) * math.log1p(most)).to(x.device, x.dtype)
    return x.clamp(min=0) ** power[:, :, None, None]


def random_noise(x: Tensor, most: float, channels: int, generator: torch.Generator) -> Tensor:
    """Add normal noise to the first `channels` of each item, its standard deviation evenly from 0 to `most` for each item."""
    sd = most * draw(torch.rand, (len(x), 1, 1, 1), generator)
    noise = (sd * draw(torch.randn, (len(x), channels, *x.shape[2:]), generator)).to(x.device, x.dtype)
    return torch.cat([x[:, :channels] + noise, x[:, channels:]], dim=1)


def _uniform(generator: torch.Generator, *shape: int, axis: int = 0) -> Tensor:
    return draw(torch.rand, shape, generator, axis, dtype=torch.float64)


# ---- crops of random area ---------------------------------------------------------------------------


def crop_resized(x: Tensor, boxes: Tensor, side_px: int) -> Tensor:
    """Cut one box from each item and resize it to a square: bilinear, without anti-aliasing.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
    boxes : Tensor of int, shape (B, 4)
        Top, left, height and width of each item's box (px), within the image.
    side_px : int
        Side of the result.

    Returns
    -------
    Tensor of shape (B, C, side, side), float32
    """
    boxes = boxes.to(torch.float64)
    rows = _interpolation(boxes[:, 0], boxes[:, 2], x.shape[2], side_px).to(x.device)
    columns = _interpolation(boxes[:, 1], boxes[:, 3], x.shape[3], side_px).to(x.device)
    return rows[:, None] @ x @ columns[:, None].transpose(-2, -1)


def _interpolation(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """Matrices (B, n_out, n_in) that resize a stretch of a line bilinearly, pixels' edges on edges."""
    middle = (torch.arange(n_out, dtype=torch.float64) + 0.5) * length[:, None] / n_out - 0.5
    middle = middle.clamp(min=0)
    low = middle.floor()
    share = middle - low
    last = length[:, None] - 1
    matrix = torch.zeros(len(start), n_out, n_in, dtype=torch.float64)
    for at, weight in ((low, 1 - share), (low + 1, share)):
        place = (start[:, None] + torch.minimum(at, last)).long()
        matrix.scatter_add_(2, place[..., None], weight[..., None])
    return matrix.float()


def box_sizes(area: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width (px) of boxes of an area (px²) and a ratio of width to height, rounded half to even."""
    return torch.sqrt(area / ratio).round(), torch.sqrt(area * ratio).round()


def draw_boxes(
    n: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Draw `n` boxes of random area and shape, as torchvision's RandomResizedCrop does.

    Parameters
    ----------
    n : int
    height, width : int
        Of the image (px).
    scale : tuple of float
        Least and largest area, as parts of the image's.
    generator : torch.Generator

    Returns
    -------
    Tensor of int64, shape (n, 4)
        Top, left, height, width. Ratio of the sides from 3/4 to 4/3, evenly on a log scale; where none of `TRIES`
        boxes fits, the largest of an allowed shape in the middle.
    """
    draws = _uniform(generator, 2, n, TRIES, axis=1)
    place = _uniform(generator, 2, n, axis=1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = (math.log(r) for r in _RATIO)
    h, w = box_sizes(area, torch.exp(low + (high - low) * draws[1]))
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)  # (n, TRIES)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first that fits
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    none = ~fits.any(dim=1)
    h = torch.where(none, float(min(height, round(width / _RATIO[0]))), h)
    w = torch.where(none, float(min(width, round(height * _RATIO[1]))), w)
    top = torch.where(none, ((height - h) / 2).floor(), (place[0] * (height - h + 1)).floor())
    left = torch.where(none, ((width - w) / 2).floor(), (place[1] * (width - w + 1)).floor())
    return torch.stack([top, left, h, w], dim=1).long()


# ---- a corner pulled inwards ------------------------------------------------------------------------


def warp_corner(x: Tensor, corner: Tensor, shift_px: Tensor) -> Tensor:
    """Warp each item in perspective so that one corner moves inwards; what comes from outside is 0.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
    corner : Tensor of int, shape (B,)
        0 … 3: as (x, y) the corners (0, 0), (H, 0), (H, W), (0, W); the authors swap the sides, which a square
        does not show.
    shift_px : Tensor of shape (B, 2)
        How far the corner moves in x and y, at least 0.

    Returns
    -------
    Tensor of shape (B, C, H, W)
    """
    height, width = x.shape[2:]
    source = torch.tensor(
        [[0, 0], [height, 0], [height, width], [0, width]], dtype=torch.float64, device=corner.device
    ).repeat(len(x), 1, 1)
    inwards = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=torch.float64, device=corner.device)
    target = source.clone()
    at = torch.arange(len(x), device=corner.device)
    target[at, corner] += inwards[corner] * shift_px
    matrix = _homography(target, source)  # where each pixel of the result comes from
    rows = torch.arange(height, dtype=torch.float64, device=corner.device)
    columns = torch.arange(width, dtype=torch.float64, device=corner.device)
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2) of (x, y)
    points = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    from_ = torch.einsum("bij,hwj->bhwi", matrix, points)
    size = torch.tensor([width - 1, height - 1], dtype=torch.float64, device=corner.device)
    grid = 2 * from_[..., :2] / from_[..., 2:] / size - 1
    return F.grid_sample(x, grid.to(x.device, x.dtype), align_corners=True)


def _homography(source: Tensor, target: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that take four points (B, 4, 2) to four others."""
    x, y = source.unbind(-1)
    u, v = target.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    a = torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], dim=-1)
    b = torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], dim=-1)
    solved = torch.linalg.solve(torch.cat([a, b], dim=1), torch.cat([u, v], dim=1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], dim=1).unflatten(1, (3, 3))


def random_warp(x: Tensor, generator: torch.Generator) -> Tensor:
    """`warp_corner` of a random corner by 0 … a quarter of the smaller side, that excluded, in x and y."""
    corner = (_uniform(generator, len(x)) * 4).long()
    shift = (_uniform(generator, len(x), 2) * (min(x.shape[2:]) // 4)).floor()
    return warp_corner(x, corner, shift)


# ---- channels ---------------------------------------------------------------------------------------


def random_removal(x: Tensor, p: float, channels: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """With probability `p`, set one of some channels of an item to 0."""
    happens = _uniform(generator, len(x)) < p
    which = (_uniform(generator, len(x)) * len(channels)).long()
    gone = torch.zeros(len(x), x.shape[1], dtype=torch.bool, device=happens.device)
    gone[torch.arange(len(x)), torch.tensor(channels, device=which.device)[which]] = happens
    return x.masked_fill(gone.to(x.device)[:, :, None, None], 0)


def random_rescale(x: Tensor, p: float, channel: int, generator: torch.Generator) -> Tensor:
    """With probability `p`, multiply one channel by a number from 0 to 2 over the item's maximum (all channels)."""
    happens = (_uniform(generator, len(x)) < p).to(x.device)
    factor = (2 * _uniform(generator, len(x))).to(x.device, x.dtype)
    return rescale_channel(x, channel, torch.where(happens, factor, torch.nan))


def rescale_channel(x: Tensor, channel: int, factor: Tensor) -> Tensor:
    """Multiply a channel by factor / maximum over all channels; where the factor (B,) is NaN, leave it."""
    top = x.amax(dim=(1, 2, 3))
    by = torch.where(factor.isnan() | (top == 0), 1.0, factor / torch.where(top == 0, 1.0, top))
    x = x.clone()
    x[:, channel] *= by[:, None, None]
    return x


def change_brightness(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each channel of each item by its factor (B, C) and clamp to 0 … 1."""
    return (x * factors[:, :, None, None]).clamp(0, 1)


def change_contrast(x: Tensor, factors: Tensor) -> Tensor:
    """Stretch each channel of each item about its mean by its factor (B, C) and clamp to 0 … 1."""
    f = factors[:, :, None, None]
    return (f * x + (1 - f) * x.mean(dim=(2, 3), keepdim=True)).clamp(0, 1)


def random_jitter(x: Tensor, sd: float, generator: torch.Generator) -> Tensor:
    """Brightness, then contrast: a factor for every channel from N(1, sd), at least 0.5."""
    for change in (change_brightness, change_contrast):
        factors = 1 + sd * draw(torch.randn, x.shape[:2], generator)
        x = change(x, factors.clamp(min=0.5).to(x.device, x.dtype))
    return x
