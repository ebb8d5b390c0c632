"""What a vision transformer's patches are like: as colours in one basis for all cells, and which are like a chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_cellrep.data import Project
from napari_cellrep.specs import InputError
from napari_cellrep.steps.look import Look, Seen, answer, patch_px, quiet, ready, see

MOST_FITTED = 20_000  # patches that the components are computed from
_NOTHING = 1e-6  # share of the variance
_ENDS = (1.0, 99.0)  # percentiles of a component that are black and bright


def tokens(
    project: Project, *, cells: Sequence[str], embedding: str = "", first: int = 1, stride: int = 0,
    device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """Three principal components of the patches' vectors as red, green and blue, one basis for all the cells.

    Parameters
    ----------
    cells : sequence of str
        Cell ids; the same colour means the same in all of them, and nothing in cells of another call.
    embedding : str
        Whose network; empty: the only one there is.
    first : int
        1: components 1 to 3; 2: components 2 to 4, because the first often says only what is cell and what is not.
    stride : int
        Pixels of the network's crop from patch to patch; 0: the patch's side, so that they do not overlap.

    Returns
    -------
    tuple of Look
        One plane "tokens" each, (h, w, 3) from 0 to 1. Only patches in the image count for the components.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, or the network has no patches.
    """
    if first < 1:
        raise InputError(f"Components are counted from 1; got {first}.")
    found, dev = ready(project, embedding, "tokens", device)
    net: Any = found.net
    seen = list(see(project, found, cells, dev))
    vectors = [_vectors(net, one, stride) for one in seen]
    inside = np.concatenate([v[_inside(net, one, v, stride)] for one, v in zip(seen, vectors, strict=True)])
    if len(inside) < first + 3:
        raise InputError(
            f"{len(inside)} patches lie in the image; components {first} to {first + 2} need more."
        )
    some = np.random.default_rng(0).permutation(len(inside))[:MOST_FITTED]
    mean = inside[some].mean(axis=0)
    _, spread, axes = np.linalg.svd(inside[some] - mean, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # so that colours stay
    own = axes[first - 1 : first + 2]
    low, high = np.percentile((inside - mean) @ own.T, _ENDS, axis=0)
    share = (spread**2 / max(float((spread**2).sum()), 1e-30))[first - 1 : first + 2]
    span = np.where(share > _NOTHING, np.maximum(high - low, 1e-30), np.inf)  # rounding errors have no colour
    words = (
        f"Components {first} to {first + 2} of the patches as red, green and blue: {share[0]:.0%}, {share[1]:.0%} and "
        f"{share[2]:.0%} of the variance of {len(inside):,} patches in {_cells(seen)}.",
    )
    numbers = {"first": first, "explained": [round(float(v), 4) for v in share], "n_patches": len(inside)}
    return tuple(
        answer(
            "tokens", project, found, embedding, one,
            [_plane(net, one, "tokens", f"patches, components {first} to {first + 2}",
                    np.clip(((v - mean) @ own.T - low) / span, 0, 1), (0.0, 1.0), stride)],
            words, numbers,
        )
        for one, v in zip(seen, vectors, strict=True)
    )  # fmt: skip


def structure(
    project: Project, *, cells: Sequence[str], y: float, x: float, embedding: str = "", stride: int = 0,
    device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """Find a structure again: how like the patch at a place every patch of some cells is.

    Parameters
    ----------
    cells : sequence of str
        The place lies in the crop of the first.
    y, x : float
        Field pixel of the first cell's field.
    embedding, stride
        As in `tokens`.

    Returns
    -------
    tuple of Look
        One plane "similar" each: cosine of the patches' vectors, after the mean over all the cells' patches is taken
        off (without that, all patches are alike). Limits are from 0 to the largest but the patch itself.

    Raises
    ------
    InputError
        If the place lies in no patch of the first cell's crop, or as in `tokens`.
    """
    found, dev = ready(project, embedding, "structure", device)
    net: Any = found.net
    seen = list(see(project, found, cells, dev))
    vectors = [_vectors(net, one, stride) for one in seen]
    inside = [_inside(net, one, v, stride) for one, v in zip(seen, vectors, strict=True)]
    mean = np.concatenate([v[ok] for v, ok in zip(vectors, inside, strict=True)]).mean(axis=0)
    vectors = [
        (v - mean) / np.maximum(np.linalg.norm(v - mean, axis=2, keepdims=True), 1e-9) for v in vectors
    ]
    grid = _plane(net, seen[0], "similar", "", vectors[0][..., 0], (0.0, 1.0), stride)
    i, j = (int(np.floor((at - o + 0.5) / grid.scale + 1e-9)) for at, o in ((y, grid.y0), (x, grid.x0)))
    h, w = grid.data.shape
    if not (0 <= i < h and 0 <= j < w and inside[0][i, j]):
        raise InputError(
            f"The place ({y:.0f}, {x:.0f}) lies outside of what the network sees of {seen[0].cell_id}; click inside its crop."
        )
    like = [v @ vectors[0][i, j] for v in vectors]
    others = np.concatenate([v[ok] for v, ok in zip(like, inside, strict=True)])
    others = np.sort(others)[:-1] if len(others) > 1 else others
    limits = (0.0, float(max(others.max(), 1e-3)))
    words = (
        f"Bright is what is like the patch at ({y:.0f}, {x:.0f}) of {seen[0].cell_id}; of {len(others):,} other patches in "
        f"{_cells(seen)} {np.mean(others > 0.5):.1%} have a cosine above 0.5, the most alike {others.max():.2f}.",
    )
    return tuple(
        answer(
            "structure", project, found, embedding, one,
            [_plane(net, one, "similar", "like the chosen patch", v, limits, stride)], words,
            {"patch": [i, j], "largest": round(float(v.max()), 4)},
        )
        for one, v in zip(seen, like, strict=True)
    )  # fmt: skip


def _cells(seen: Sequence[Seen]) -> str:
    return "1 cell" if len(seen) == 1 else f"{len(seen):,} cells"


def _vectors(net: Any, seen: Seen, stride: int) -> np.ndarray:
    """Vectors of a cell's patches, (h, w, d) float32."""
    with quiet():
        found: np.ndarray = net.patch_tokens(seen.x, stride)[0].float().cpu().numpy()
    return found.transpose(1, 2, 0)


def _middles(net: Any, seen: Seen, n: int, stride: int) -> tuple[np.ndarray, int]:
    """Middles of `n` patches side by side in seen pixels, and how far they are apart."""
    side = patch_px(net, seen.x.shape[-1], n)
    return (side - 1) / 2 + (stride or side) * np.arange(n), stride or side


def _inside(net: Any, seen: Seen, vectors: np.ndarray, stride: int) -> np.ndarray:
    """Which patches have their middle in the image: (h, w) of bool."""
    rows, columns = (
        (seen.span(axis)[0] - 0.5 <= m) & (m <= seen.span(axis)[1] - 0.5)
        for axis in (0, 1) for m in (_middles(net, seen, vectors.shape[axis], stride)[0],)
    )  # fmt: skip
    return rows[:, None] & columns


def _plane(
    net: Any, seen: Seen, part: str, name: str, data: np.ndarray, limits: tuple[float, float], stride: int
) -> Any:
    middles, apart = _middles(net, seen, data.shape[1], stride)
    start = middles[0] - (apart - 1) / 2
    return seen.plane(part, name, data, limits, (start, start), apart)
