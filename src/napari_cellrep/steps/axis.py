"""What a group's cells differ in: real cells along their main axis of variation, and what changes from end to end."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from napari_cellrep import registry
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.data import Project
from napari_cellrep.specs import CropSpec, InputError
from napari_cellrep.steps.analyze import choose_embedding
from napari_cellrep.steps.embed import cut_by_field
from napari_cellrep.steps.look_figure import FIGURES, check_out, save_figure, scale_bar, signed_map

LEAST = 10  # cells that an axis is drawn through
MOST_AT_END = 50  # cells whose mean crop is an end
END_SHARE = 0.15  # of the cells, at either end
MOST_MEASURED = 500  # cells whose channels are measured
_ENDS = (2.0, 98.0)  # percentiles between which the steps lie


@dataclass(frozen=True)
class Axis:
    """A group's main axis of variation.

    Parameters
    ----------
    by, name, embedding : str
    n_cells : int
        Cells that count.
    explained : float
        Share of the cells' variance along the axis, 0 to 1.
    by_chance : float
        The same of as many cells drawn from all groups.
    cells : tuple of str
        Real cells at even steps along it.
    at : ndarray of shape (k,), float64
        Where they lie, in SD of the group's cells from their mean.
    channels : tuple of str
        The project's, then "area" and "upright": how the outline lies in the image, which has no meaning for most
        cells; an axis that follows it says that the network has not learned to leave it aside.
    follows : ndarray of shape (C + 2,), float64
        Spearman's correlation of a channel's mean in the cell's outline (of the area, …) with the place on the axis.
    pictures : ndarray of shape (k, C, S, S), float32
        The cells, as they are in the image.
    ends : ndarray of shape (2, C, S, S), float32
        Mean picture of the cells at either end.
    n_end : int
        How many those are.
    patches : ndarray of shape (h, w), float32, or None
        Of a network with patches: how far the mean vector of each patch differs between the ends, in its own SD.
    um_per_px : float
        Of a picture's pixel; 0: not known.
    words : tuple of str
    written : str
        The figure's file, "" for none.
    png : bytes
        The figure, if it was asked for.
    """

    by: str
    name: str
    embedding: str
    n_cells: int
    explained: float
    by_chance: float
    cells: tuple[str, ...]
    at: np.ndarray
    channels: tuple[str, ...]
    follows: np.ndarray
    pictures: np.ndarray
    ends: np.ndarray
    n_end: int
    patches: np.ndarray | None
    um_per_px: float
    words: tuple[str, ...]
    written: str = ""
    png: bytes = b""


def axis(
    project: Project, *, name: str, by: str = "group", embedding: str = "", steps: int = 8, seed: int = 0, out: str = "",
    png: bool = False, device: str = "auto",
) -> Axis:  # fmt: skip
    """Lay a group's cells along the first principal component of their vectors (z-scored over all cells that count).

    Parameters
    ----------
    name, by : str
        A value of a column of the cell table.
    embedding : str
        Which numbers; empty: the only ones there are.
    steps : int
        Real cells to show.
    seed : int
        Of the draws: of cells to be measured in a large group, and of those that say what chance gives.
    out : str
        A figure to write: ``.png``, ``.svg`` or ``.pdf``.
    png : bool
        Whether the figure is wanted as bytes.

    Raises
    ------
    InputError
        If there is no such group, it has fewer than `LEAST` cells that count, or all of them are alike.
    """
    path = check_out(Path(out), FIGURES) if out else None
    key, obs = choose_embedding(project.cells, embedding), project.cells.obs
    if by not in obs:
        raise InputError(f"There is no column {by!r} in the cell table.")
    if not 2 <= steps <= 24:
        raise InputError(f"The number of steps has to lie between 2 and 24; got {steps}.")
    vectors = np.asarray(project.cells.obsm[f"X_{key}"], np.float32)
    counts = np.isfinite(vectors).all(axis=1)
    if "good" in obs:
        counts &= obs["good"].to_numpy(bool)
    own = (obs[by].astype(str) == name).to_numpy()[counts]
    if own.sum() < LEAST:
        raise InputError(
            f"{name} has {int(own.sum()):,} cells that count; an axis of variation needs {LEAST} or more."
        )
    z, rows = z_score(vectors[counts]).astype(np.float64), obs[counts]
    rng = np.random.default_rng(seed)
    place, explained = _along(z[own])
    _, by_chance = _along(z[rng.choice(len(z), int(own.sum()), replace=False)])
    rows = rows[own]
    low, high = (float(v) for v in np.percentile(place, _ENDS))
    want = np.linspace(low, high, min(steps, len(place)))
    left = np.ones(len(place), bool)
    shown = []
    for value in want:
        i = int(np.argmin(np.where(left, np.abs(place - value), np.inf)))
        left[i] = False
        shown.append(i)
    shown = sorted(shown, key=lambda i: place[i])
    order, n_end = np.argsort(place, kind="stable"), int(np.clip(END_SHARE * len(place), 3, MOST_AT_END))
    ends = (order[:n_end], order[-n_end:])

    spec, um = _spec(project, key, rows)
    n = len(project.channels)
    measured = np.sort(rng.choice(len(rows), min(len(rows), MOST_MEASURED), replace=False))
    crops = _pictures(project, rows.iloc[measured], spec)
    values = np.column_stack(
        [_in_outline(crops), rows["area_px"].to_numpy(float)[measured], _upright(crops[:, -1] > 0)]
    )
    follows = np.array([_follows(v, place[measured]) for v in values.T])
    names = (*(channel.name for channel in project.channels), "area", "upright")
    means = np.stack([_pictures(project, rows.iloc[e], spec)[:, :n].mean(axis=0) for e in ends])
    patches, note = _patches(project, key, rows, ends, device)

    strongest = np.argsort(-np.abs(np.nan_to_num(follows)), kind="stable")
    words = [
        f"The main axis of {name} holds {explained:.0%} of the variance of its {len(place):,} cells ({by_chance:.0%} in as many "
        "drawn from all).",
        "Along it: " + ", ".join(f"{names[i]} {follows[i]:+.2f}" for i in strongest if np.isfinite(follows[i]))
        + " (Spearman's correlation of the mean in the outline, of its area, and of how upright it stands).",
    ]  # fmt: skip
    if patches is not None:
        words.append(
            f"The patch that changes most between the ends moves by {patches.max():.2g} of its SD, the median one by "
            f"{np.median(patches):.2g}."
        )
    found = Axis(
        by, name, key, len(place), explained, by_chance, tuple(str(rows.index[i]) for i in shown), place[shown] / place.std(),
        names, follows, _pictures(project, rows.iloc[shown], spec)[:, :n], means, n_end, patches, um, (*words, *note),
        str(path or ""),
    )  # fmt: skip
    if path is None and not png:
        return found
    figure = _draw(found)
    if path is not None:
        save_figure(figure, path)
    if not png:
        return found
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110)
        return replace(found, png=file.getvalue())


def _along(z: np.ndarray) -> tuple[np.ndarray, float]:
    """Place of each row on the first principal component, and its share of the variance."""
    z = z - z.mean(axis=0)
    u, s, axes = np.linalg.svd(z, full_matrices=False)
    if s[0] <= 1e-9:
        raise InputError("All cells of this group are alike, so there is no axis along which they vary.")
    turn = np.sign(axes[0, np.abs(axes[0]).argmax()])  # so that the ends stay where they are
    return u[:, 0] * s[0] * turn, float(s[0] ** 2 / (s**2).sum())


def _follows(values: np.ndarray, place: np.ndarray) -> float:
    return float(spearmanr(values, place)[0]) if np.ptp(values) > 0 else float("nan")


def _spec(project: Project, key: str, rows: pd.DataFrame) -> tuple[CropSpec, float]:
    """The embedding's own crop with the cell's outline as its last plane, and the size of its pixel."""
    how = project.embedding_info(key).get("crop", {})
    spec = replace(CropSpec(**how), channels=(), masked=False, mask_plane=True)
    um = project.field(str(rows["field"].iloc[0])).um_per_px
    return spec, um * spec.side_px(um) / spec.size_px if spec.mode == "window" else 0.0


def _pictures(project: Project, rows: pd.DataFrame, spec: CropSpec) -> np.ndarray:
    """Cells of any fields as (n, C + 1, S, S), the outline last."""
    planes = range(len(project.channels))
    out = np.empty((len(rows), len(planes) + 1, spec.size_px, spec.size_px), np.float32)
    for _, own, crops in cut_by_field(project, rows, spec, planes):
        out[own] = crops
    return out


def _in_outline(crops: np.ndarray) -> np.ndarray:
    """Mean of each channel in the outline: (n, C)."""
    inside = crops[:, -1:] > 0
    n = np.maximum(inside.sum(axis=(2, 3)), 1)
    return np.asarray((crops[:, :-1] * inside).sum(axis=(2, 3)) / n)


def _upright(inside: np.ndarray) -> np.ndarray:
    """From -1 (lies along x) to 1 (stands along y), 0 for a round outline: (n,) of masks (n, S, S)."""
    at = np.arange(inside.shape[-1], dtype=np.float64)
    n = np.maximum(inside.sum(axis=(1, 2)), 1)
    var = [(inside.sum(axis=2 - i) * at**2).sum(axis=1) / n for i in range(2)]
    mean = [(inside.sum(axis=2 - i) * at).sum(axis=1) / n for i in range(2)]
    y, x = (v - m**2 for v, m in zip(var, mean, strict=True))
    return np.asarray((y - x) / np.maximum(y + x, 1e-9))


def _patches(
    project: Project, key: str, rows: pd.DataFrame, ends: tuple[np.ndarray, np.ndarray], device: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """How the patches of a network that has some change between the ends; why not where its weights are gone."""
    from napari_cellrep.models import can
    from napari_cellrep.steps.look import quiet, ready, see

    model = project.embedding_info(key).get("model")
    if model not in registry.names("models") or not can(registry.load("models", model).Model, "patch_tokens"):
        return None, ()
    try:
        found, dev = ready(project, key, "tokens", device)
    except InputError as error:
        return None, (f"Patches are not compared: {error}",)
    net: Any = found.net
    each = []
    for end in ends:
        cells = [str(cell) for cell in rows.index[end]]
        with quiet():
            each.append(
                np.stack([net.patch_tokens(s.x, 0)[0].float().cpu().numpy() for s in see(project, found, cells, dev)])
            )  # fmt: skip
    low, high = (e.mean(axis=0) for e in each)
    scatter = np.sqrt(np.mean([e.var(axis=0).sum(axis=0) for e in each], axis=0))
    moved = np.linalg.norm(high - low, axis=0) / np.maximum(scatter, 1e-9)
    return moved.astype(np.float32), ()


def _draw(found: Axis) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k, c = found.pictures.shape[:2]
    side = found.pictures.shape[-1]
    extra = found.patches is not None
    columns = max(k, 3 * c + extra)
    figure = Figure(figsize=(1.05 * columns + 0.5, 1.15 * (c + 1) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(c, 1.25))
    cells = np.reshape(parts[0].subplots(c, k, squeeze=False), (c, k))
    limits = [np.percentile(found.pictures[:, i], (1, 99.8)) for i in range(c)]

    def show(axes: Any, data: np.ndarray, cmap: Any, low: float, high: float, title: str = "") -> Any:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=5.5, pad=2)
        return axes.imshow(data, cmap=cmap, vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")

    for i in range(c):
        for j in range(k):
            title = f"{found.cells[j]}\n{found.at[j]:+.1f} SD" if i == 0 else ""
            show(cells[i, j], found.pictures[j, i], "gray", limits[i][0], limits[i][1], title)
        cells[i, 0].set_ylabel(f"{found.channels[i]} ({found.follows[i]:+.2f})", fontsize=6)
    scale_bar(cells[0, 0], -0.5, side - 0.5, side - 0.5, -0.5, found.um_per_px)
    below = parts[1].subplots(1, 3 * c + extra, squeeze=False)[0]
    for i in range(c):
        low, high = found.ends[:, i]
        span = float(min(low.min(), high.min())), float(max(low.max(), high.max()))
        show(below[3 * i], low, "gray", *span, f"{found.channels[i]}\nmean of {found.n_end} at −")
        show(below[3 * i + 1], high, "gray", *span, f"{found.channels[i]}\nmean of {found.n_end} at +")
        top = float(max(np.abs(high - low).max(), 1e-6))
        drawn = show(below[3 * i + 2], high - low, signed_map(), -top, top, "+ less −")
        figure.colorbar(drawn, ax=below[3 * i + 2], shrink=0.6).ax.tick_params(labelsize=4)
    if found.patches is not None:
        drawn = show(
            below[-1], found.patches, "inferno", 0, float(found.patches.max()), "patches that change\n(SD)"
        )
        figure.colorbar(drawn, ax=below[-1], shrink=0.6).ax.tick_params(labelsize=4)
    words = f"{found.words[0]}\n{found.words[1]}"
    figure.suptitle(words, fontsize=6.5, x=0.01, ha="left")
    return figure
