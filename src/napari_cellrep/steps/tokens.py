"""What a vision transformer's patches are like: as colours in one basis for all cells, and which are like a chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.data import Project
from napari_cellrep.data.sets import read_sets
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.look import Look, Seen, answer, patch_px, quiet, ready, see

MOST_FITTED = 20_000  # patches that the components are computed from
_NOTHING = 1e-6  # share of the variance
_ENDS = (1.0, 99.0)  # percentiles of a component that are black and bright


def tokens(
    project: Project, *, cells: Sequence[str], embedding: str = "", first: int | Sequence[int] = 1, stride: int = 0,
    device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """Three principal components of the patches' vectors as red, green and blue, one basis for all the cells.

    Parameters
    ----------
    cells : sequence of str
        Cell ids; the same colour means the same in all of them, and nothing in cells of another call.
    embedding : str
        Whose network; empty: the only one there is.
    first : int or sequence of int
        1: components 1 to 3; 2: components 2 to 4, because the first often says only what is cell and what is not. Of
        several each has a picture.
    stride : int
        Pixels of the network's crop from patch to patch; 0: the patch's side, so that they do not overlap.

    Returns
    -------
    tuple of Look
        A plane "tokens" for each of `first`, (h, w, 3) from 0 to 1. Only patches in the image count for the components.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, or the network has no patches.
    """
    firsts = (first,) if isinstance(first, int) else tuple(first)
    if min(firsts) < 1:
        raise InputError(f"Components are counted from 1; got {min(firsts)}.")
    found, dev = ready(project, embedding, "tokens", device)
    net: Any = found.net
    seen = list(see(project, found, cells, dev))
    vectors = [_vectors(net, one, stride) for one in seen]
    inside = np.concatenate([v[_inside(net, one, v, stride)] for one, v in zip(seen, vectors, strict=True)])
    if len(inside) < max(firsts) + 3:
        raise InputError(
            f"{len(inside)} patches lie in the image; components {max(firsts)} to {max(firsts) + 2} need more."
        )
    some = np.random.default_rng(0).permutation(len(inside))[:MOST_FITTED]
    mean = inside[some].mean(axis=0)
    _, spread, axes = np.linalg.svd(inside[some] - mean, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # so that colours stay
    shares = spread**2 / max(float((spread**2).sum()), 1e-30)
    words: list[str] = []
    planes: list[list[Any]] = [[] for _ in seen]
    for k in firsts:
        own, share, name = axes[k - 1 : k + 2], shares[k - 1 : k + 2], f"components {k} to {k + 2}"
        low, high = np.percentile((inside - mean) @ own.T, _ENDS, axis=0)
        span = np.where(
            share > _NOTHING, np.maximum(high - low, 1e-30), np.inf
        )  # rounding errors have no colour
        words.append(
            f"{name.capitalize()} of the patches as red, green and blue: {share[0]:.0%}, {share[1]:.0%} and {share[2]:.0%} of "
            f"the variance of {len(inside):,} patches in {_cells(seen)}."
        )
        for one, v, shown in zip(seen, vectors, planes, strict=True):
            data = np.clip(((v - mean) @ own.T - low) / span, 0, 1)
            shown.append(_plane(net, one, "tokens", f"patches, {name}", data, (0.0, 1.0), stride))
    first, last = min(firsts), max(firsts) + 2
    explained = [round(float(v), 4) for v in shares[first - 1 : last]]
    numbers = {"first": first, "explained": explained, "n_patches": len(inside)}
    return tuple(
        answer("tokens", project, found, embedding, one, shown, tuple(words), numbers)
        for one, shown in zip(seen, planes, strict=True)
    )


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


def apart(
    project: Project, *, cells: Sequence[str], a: str, b: str, sets: Mapping[str, Sequence[str]] | None = None,
    embedding: str = "", sample: int = 40, seed: int = 0, device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """Which patches tell the cells of two named sets apart, as overlays on some cells, and whether they do.

    A direction is found from patches in the image: the difference of the sets' means (each cell counts the same), each
    number over its variance. It is found in half of the sets' cells; the other half says how well it tells them apart.
    The cells that are shown take no part in either.

    Parameters
    ----------
    cells : sequence of str
        Those to be shown.
    a, b : str
        Names of sets.
    sets : mapping, optional
        Cells of the sets; by default those saved in the project.
    embedding : str
        As in `tokens`.
    sample : int
        Cells of each set, drawn at random, that take part at most.
    seed : int
        Of the draws.

    Returns
    -------
    tuple of Look
        One plane "evidence" each: positive speaks for `a`, negative for `b`, in SD of the patches.
        ``numbers["auc"]``: of cells not learned from, how often one of `a` has a higher mean than one of `b` (0.5 by
        chance); ``numbers["nucleus_ring"]``: mean size of the evidence in the outline over that in a ring around it.

    Raises
    ------
    InputError
        If a set is not there or has fewer than 8 cells to learn from, or as in `tokens`.
    """
    known = read_sets(project.root) if sets is None else {name: {"cells": ids} for name, ids in sets.items()}
    for name in (a, b):
        if name not in known:
            raise InputError(f"There is no set called {name!r}; sets are {join_words(known, 12) or 'none'}.")
    found, dev = ready(project, embedding, "tokens", device)
    net: Any = found.net
    obs, rng = project.cells.obs, np.random.default_rng(seed)
    both = {str(c) for c in known[a]["cells"]} & {str(c) for c in known[b]["cells"]} | set(cells)
    means: list[list[np.ndarray]] = []
    scatter = []
    for name in (a, b):
        own = [str(c) for c in known[name]["cells"] if str(c) not in both and str(c) in obs.index]
        if len(own) < 8:
            raise InputError(
                f"The set {name} has {len(own)} cells to learn from; 8 are needed (those shown, in both sets or gone do "
                "not count)."
            )
        drawn = [own[i] for i in rng.permutation(len(own))[:sample]]
        means.append([])
        for one in see(project, found, drawn, dev):
            v = _vectors(net, one, 0)
            inside = v[_inside(net, one, v, 0)]
            means[-1].append(inside.mean(axis=0))
            scatter.append(inside.var(axis=0))
    learned = [np.mean(m[: len(m) // 2], axis=0) for m in means]
    var = np.mean(scatter, axis=0)
    direction = (learned[0] - learned[1]) / np.maximum(var, 1e-6 * max(float(var.max()), 1e-30))
    middle = (learned[0] + learned[1]) / 2
    unit = max(float(np.sqrt((direction**2 * var).sum())), 1e-30)
    test = [np.array([(v - middle) @ direction / unit for v in m[len(m) // 2 :]]) for m in means]
    auc = float(np.mean((test[0][:, None] > test[1]) + 0.5 * (test[0][:, None] == test[1])))
    n = sum(len(t) for t in test)
    out = []
    for one in see(project, found, cells, dev):
        v = _vectors(net, one, 0)
        data = (v - middle) @ direction / unit
        inside = _inside(net, one, v, 0)
        top = float(max(np.abs(data[inside]).max(initial=0), 1e-6))
        plane = _plane(net, one, "evidence", f"{a} (orange) or {b} (blue)", data, (-top, top), 0)
        ratio = _in_nucleus(project, one, plane, int(obs.loc[one.cell_id, "label"]))
        words = (
            f"Patches that speak for {a} are orange, for {b} blue. On {n} cells not learned from the patches tell {a} from {b} "
            f"with an AUC of {auc:.2f} (0.5 by chance).",
            f"This cell's mean is {data[inside].mean():+.2f} SD; the evidence is {ratio:.2f} times as large in the outline as "
            "in a ring around it." if np.isfinite(ratio) else f"This cell's mean is {data[inside].mean():+.2f} SD.",
        )  # fmt: skip
        numbers = {
            "auc": round(auc, 4), "n_tested": n, "mean": round(float(data[inside].mean()), 4),
            "nucleus_ring": round(ratio, 4) if np.isfinite(ratio) else None,
        }  # fmt: skip
        out.append(answer("apart", project, found, embedding, one, [plane], words, numbers))
    return tuple(out)


def _in_nucleus(project: Project, seen: Seen, plane: Any, label: int) -> float:
    """Mean size of what a plane shows in a cell's outline over that in the ring around it; NaN where there is no ring."""
    field, ends = project.field(seen.field), []
    for axis, (start, most) in enumerate(((plane.y0, field.height_px), (plane.x0, field.width_px))):
        size = plane.data.shape[axis] * plane.scale
        ends.append(np.arange(max(0, int(np.ceil(start))), min(most, int(start + size - 0.5))))
    if not all(map(len, ends)):
        return float("nan")
    (y0, y1), (x0, x1) = ((int(at[0]), int(at[-1]) + 1) for at in ends)
    labels = project.read_labels_region(seen.field, (y0, x0, y1, x1))
    rows, columns = (
        np.clip((at - start + 0.5) / plane.scale, 0, n - 1).astype(int)
        for at, start, n in zip(ends, (plane.y0, plane.x0), plane.data.shape, strict=True)
    )
    sizes = np.abs(plane.data[np.ix_(rows, columns)])
    return nucleus_ring_ratio(sizes, labels, background=0.0).get(label, float("nan"))


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
