"""Which channel each head of a vision transformer looks at, over some cells or a sample of the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.attention import head_channel_iou
from napari_cellrep.data import Project
from napari_cellrep.data.files import replacing
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import choose_embedding
from napari_cellrep.steps.look import ALONE, head_names, patch_px, quiet, ready, see
from napari_cellrep.steps.look_figure import FIGURES, check_out, save_figure
from napari_cellrep.steps.networks import UNTRAINED

SAMPLE = 50  # cells, as in the paper


@dataclass(frozen=True)
class Heads:
    """How well the bright parts of heads and channels fall together.

    Parameters
    ----------
    cells : tuple of str
    heads : tuple of str
        "mean", then each head.
    channels : tuple of str
    iou : ndarray of shape (1 + heads, C), float64
        Mean over the cells; NaN where no cell had anything to compare.
    sd : ndarray of the same shape
        Over the cells (ddof 0).
    chance : ndarray of the same shape
        What masks of the same areas would have that know nothing of each other.
    each : ndarray of shape (n, 1 + heads, C)
        By cell.
    embedding, title : str
    trained : bool
    words : tuple of str
    """

    cells: tuple[str, ...]
    heads: tuple[str, ...]
    channels: tuple[str, ...]
    iou: np.ndarray
    sd: np.ndarray
    chance: np.ndarray
    each: np.ndarray
    embedding: str
    title: str
    trained: bool
    words: tuple[str, ...]


def heads(
    project: Project, *, cells: Sequence[str] = (), sample: int = SAMPLE, embedding: str = "",
    resample: str = "attention", seed: int = 0, device: str = "auto",
) -> Heads:  # fmt: skip
    """Compare each head's attention with each channel as the network gets it (Otsu on both, models.md §3.7).

    Parameters
    ----------
    cells : sequence of str
        Cell ids; none: a sample of all cells that count.
    sample : int
        How many to draw then, without replacement.
    embedding : str
        Whose network; empty: the only one there is.
    resample : str
        As in `analysis.attention.head_channel_iou`.
    seed : int
        Of the draw.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, the network has no attention, or there is nothing to draw from.
    """
    if sample < 1:
        raise InputError(f"A sample of {sample} cells is none; it has to be at least 1.")
    found, dev = ready(project, embedding, "attention", device)
    key, said = (
        choose_embedding(project.cells, embedding),
        f"{len(cells):,} {'cell' if len(cells) == 1 else 'cells'}",
    )
    if not cells:
        obs = project.cells.obs
        good = obs.index[obs["good"].to_numpy(bool)] if "good" in obs else obs.index
        if not len(good):
            raise InputError("All cells are flagged, so there is none to draw; name cells instead.")
        cells = sorted(np.random.default_rng(seed).choice(good, min(sample, len(good)), replace=False))
        said = f"{len(cells):,} of {len(good):,} cells, drawn at random"
    net: Any = found.net
    each, by_chance = [], []
    names: Sequence[str] = ()
    channels: Sequence[str] = ()
    for seen in see(project, found, cells, dev):
        with quiet():
            maps = net.attention(seen.x)[0].float().cpu().numpy()
        n = len(seen.channels) - bool(net.crop.mask_plane)  # an outline is not a channel
        names, channels = head_names(net, seen.channels, len(maps)), seen.channels[:n]
        x = seen.x[0, :n].float().cpu().numpy()
        inside = np.zeros(x.shape[1:], bool)
        inside[slice(*seen.span(0)), slice(*seen.span(1))] = True
        maps = np.concatenate([maps.mean(axis=0, keepdims=True), maps])
        patch = patch_px(net, x.shape[-1], maps.shape[-1])
        iou, chance = head_channel_iou(maps, x, patch, inside=inside, resample=resample)
        each.append(iou)
        by_chance.append(chance)
    stack = np.stack(each)
    mean, sd = _over_cells(stack, np.nanmean), _over_cells(stack, np.nanstd)
    chance = _over_cells(np.stack(by_chance), np.nanmean)
    rows = ("mean", *names)
    trained = bool(project.embedding_info(key).get("trained", True))
    words = [f"Heads against channels in {said}."]
    if np.isfinite(mean).any():
        above = np.where(np.isfinite(mean), mean - chance, -np.inf)
        i, j = divmod(int(above.argmax()), above.shape[1])
        words.append(
            f"Most above chance: {rows[i]} with {channels[j]}, {mean[i, j]:.2f} (SD {sd[i, j]:.2f}; {chance[i, j]:.2f} by "
            "chance)."
        )
    words.append(ALONE)
    if not trained:
        words.append(UNTRAINED)
    return Heads(
        tuple(cells),
        rows,
        tuple(channels),
        mean,
        sd,
        chance,
        stack,
        key,
        found.net.spec.title,
        trained,
        tuple(words),
    )


def _over_cells(values: np.ndarray, how: Any) -> np.ndarray:
    """Over the first axis, leaving NaN out; NaN where there is nothing else."""
    some = np.isfinite(values).any(axis=0)
    out = np.full(values.shape[1:], np.nan)
    out[some] = how(values[:, some], axis=0)
    return out


def save_heads(found: Heads, out: Path) -> tuple[Path, ...]:
    """Write the matrix.

    Parameters
    ----------
    out : Path
        ``.csv``: head, channel, iou, sd, chance, n_cells. ``.png``, ``.svg`` or ``.pdf``: a figure, and the table of
        the same name beside it.

    Returns
    -------
    tuple of Path
        What was written.
    """
    table = pd.DataFrame(
        [
            (head, channel, found.iou[i, j], found.sd[i, j], found.chance[i, j], int(np.isfinite(found.each[:, i, j]).sum()))
            for i, head in enumerate(found.heads)
            for j, channel in enumerate(found.channels)
        ],
        columns=["head", "channel", "iou", "sd", "chance", "n_cells"],
    )  # fmt: skip
    with replacing(out.with_suffix(".csv")) as tmp:
        table.to_csv(tmp, index=False, float_format="%.6g")
    if out.suffix.lower() == ".csv":
        return (out,)
    save_figure(_draw(found), out)
    return out, out.with_suffix(".csv")


def write_heads(project: Project, *, out: str, **how: Any) -> tuple[str, ...]:
    """Compare heads and channels (`heads`) and write the matrix to a file that ends as `save_heads` wants it."""
    path = check_out(Path(out), (*FIGURES, ".csv"))
    return tuple(str(written) for written in save_heads(heads(project, **how), path))


def _draw(found: Heads) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n, m = found.iou.shape
    figure = Figure(figsize=(1.6 + 0.85 * m, 1.0 + 0.3 * n), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    top = float(np.nanmax(found.iou, initial=0.05))
    shown = axes.imshow(found.iou, cmap="viridis", vmin=0, vmax=top, aspect="auto")
    for i in range(n):
        for j in range(m):
            if np.isfinite(found.iou[i, j]):
                colour = "black" if found.iou[i, j] > 0.6 * top else "white"
                words = f"{found.iou[i, j]:.2f} ({found.chance[i, j]:.2f})"
                axes.text(j, i, words, ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_xticks(range(m), found.channels, fontsize=7)
    axes.set_yticks(range(n), found.heads, fontsize=7)
    axes.set_title(f"{found.title}: overlap (by chance)\n{len(found.cells):,} cells", fontsize=7.5)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)
    return figure
