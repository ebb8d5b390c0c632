"""What a source cell's pattern would look like in a target cell (Paired Cell Inpainting)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import EMPTY, InputError, match_channels
from napari_cellrep.steps.embed import cut_by_field, find_model
from napari_cellrep.steps.look import Look, Plane, check_cells
from napari_cellrep.steps.networks import UNTRAINED, Found

if TYPE_CHECKING:
    import torch

MODEL = "paired_cell_inpainting"
MOST_DRAWN_FROM = 256  # cells of a group that sources are drawn from
AT_ONCE = 64  # crops in one pass
MOST_SOURCES = 5000  # of one target
MOST_SHOWN = 50  # sources of which each has its own picture
MOST_IN_GRID = 12  # sources, and targets


_known: dict[tuple[object, ...], str] = {}  # of the model that was asked last, why not


def why_not(project: Project, model: str = MODEL) -> str:
    """Why a model cannot predict patterns in a project; "" if it can."""
    own = project.root / "models" / model / "model.json"
    key = (str(project.root), model, own.stat().st_mtime_ns if own.is_file() else 0, project.channels)
    if key not in _known:
        try:
            _Asked.of(project, model)
            why = ""
        except InputError as error:
            why = str(error)
        _known.clear()
        _known[key] = why
    return _known[key]


def inpaint(
    project: Project, *, source: str, target: str = "", model: str = MODEL, seed: int = 0
) -> Job[dict[str, object]]:
    """Predict the target cell's protein from a source cell and the target's structural channels.

    Parameters
    ----------
    source, target : str
        Cell ids; they may lie in different fields and groups. Without a target, one is drawn at random from the
        source's group.
    model : str
        A trained model of this project, or a path.
    seed : int
        Of the draw.

    Yields
    ------
    Progress
        Once before and once after the network ran.

    Returns
    -------
    dict
        ``target``, ``prediction``, ``error`` (prediction − target): float32 (H, W) crops of the first protein
        channel as the network scales it; ``structure`` (C, H, W) and its channels' names, ``structures``; ``y0``,
        ``x0``: field pixel of the crop's first pixel; ``scale``: field pixels per crop pixel; ``field``,
        ``source_cell``, ``target_cell``; ``mse``: mean squared error; ``trained``: whether the weights are.

    Raises
    ------
    InputError
        If a cell is unknown, the model cannot inpaint, or the group has no other cell.
    """
    obs = project.cells.obs
    check_cells(project, [cell for cell in (source, target) if cell])
    if not target:
        mates = obs.index[(obs["group"] == obs.loc[source, "group"]) & obs["good"] & (obs.index != source)]
        if not len(mates):
            raise InputError(
                f"The group {obs.loc[source, 'group']!r} has no other good cell to predict; click a target."
            )
        target = str(np.random.default_rng(seed).choice(mates))
    yield Progress(0, 1, "Predicting the pattern")
    asked = _Asked.of(project, model)
    y = asked.prepared([target])
    predicted, real = asked.predict(asked.prepared([source]), y)[0], y[0, 0].float().numpy()
    place = asked.place(target)
    yield Progress(1, 1, "Predicted the pattern")
    return {
        "target": real,
        "prediction": predicted,
        "error": predicted - real,
        "structure": y[0, asked.n_protein :].float().numpy(),
        "structures": [
            "no channel" if i == EMPTY else project.channels[i].name
            for i in asked.found.planes[asked.n_protein :]
        ],
        **place,
        "field": str(obs.loc[target, "field"]),
        "source_cell": source,
        "target_cell": target,
        "mse": float(np.mean((predicted - real) ** 2)),
        "trained": asked.trained,
    }


@dataclass(frozen=True)
class Grid:
    """Predictions of several sources in several targets.

    Parameters
    ----------
    sources, targets : tuple of str
    source_protein : ndarray of shape (S, H, W), float32
        First protein channel, as the network scales it; so all others.
    real : ndarray of shape (T, H, W), float32
    structure : ndarray of shape (T, H, W), float32
        First structure channel.
    predicted : ndarray of shape (S, T, H, W), float32
    mse : ndarray of shape (S, T), float64
        Mean squared error of each; of a cell predicted from itself too.
    um_per_px : float
        Of a crop's pixel; 0: not known.
    px_per_px : float
        Field pixels of a crop's pixel.
    trained : bool
    words : tuple of str
    written : str
        The figure's file, "" for none.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    source_protein: np.ndarray
    real: np.ndarray
    structure: np.ndarray
    predicted: np.ndarray
    mse: np.ndarray
    um_per_px: float
    px_per_px: float
    trained: bool
    words: tuple[str, ...]
    written: str = ""


def inpaint_grid(
    project: Project, *, sources: Sequence[str], targets: Sequence[str], model: str = MODEL, out: str = ""
) -> Grid:
    """Predict every source's pattern in every target: one target and many sources, or the other way round, too.

    Parameters
    ----------
    sources, targets : sequence of str
        Cell ids, at most `MOST_IN_GRID` each. Those of other fields or proteins show what of a prediction comes through
        from the target's structure alone.
    model : str
        A trained model of this project, or a path.
    out : str
        A figure to write: ``.png``, ``.svg`` or ``.pdf``.

    Raises
    ------
    InputError
        If a cell is unknown, there are too many, or the model cannot inpaint.
    """
    from napari_cellrep.steps.look_figure import FIGURES, check_out, save_figure

    path = check_out(Path(out), FIGURES) if out else None
    for what, cells in (("source", sources), ("target", targets)):
        if not 1 <= len(cells) <= MOST_IN_GRID:
            raise InputError(
                f"A grid has 1 to {MOST_IN_GRID} {what}s so that it can be read; got {len(cells)}."
            )
    check_cells(project, [*sources, *targets])
    asked = _Asked.of(project, model)
    x, y = asked.prepared(sources), asked.prepared(targets)
    n, t = len(x), len(y)
    predicted = asked.predict(x.repeat_interleave(t, 0), y.repeat(n, 1, 1, 1))
    predicted = predicted.reshape(n, t, *predicted.shape[1:])
    real = y[:, 0].float().numpy()
    mse = np.mean((predicted.astype(np.float64) - real) ** 2, axis=(2, 3))
    scale = asked.place(targets[0])["scale"]
    words: tuple[str, ...] = (
        f"Mean squared error: {np.median(mse):.3g} (median), from {mse.min():.3g} to {mse.max():.3g}.",
    )
    if not asked.trained:
        words += (UNTRAINED,)
    um = project.field(str(project.cells.obs.loc[targets[0], "field"])).um_per_px
    found = Grid(
        tuple(sources), tuple(targets), x[:, 0].float().numpy(), real, y[:, asked.n_protein].float().numpy(), predicted, mse,
        um * scale, scale, asked.trained, words, str(path or ""),
    )  # fmt: skip
    if path is not None:
        save_figure(_draw(found), path)
    return found


def patterns(project: Project, *, cells: Sequence[str], target: str, model: str = MODEL) -> tuple[Look, ...]:
    """Predict the patterns of several cells in one target, as pictures at its place.

    Parameters
    ----------
    cells : sequence of str
        The sources, at most `MOST_SOURCES`; the target itself is left out.
    target : str
    model : str
        As in `inpaint`.

    Returns
    -------
    tuple of Look
        One: planes "prediction" (their mean), "real", "error" (mean less real), "spread" (the SD over the sources: where
        they disagree), then "prediction" of each source; of more than `MOST_SHOWN` of so many, at even steps from the
        least to the largest error. ``numbers["mse"]`` by source, of all.

    Raises
    ------
    InputError
        If a cell is unknown, there are no sources or too many, or the model cannot inpaint.
    """
    sources = [cell for cell in dict.fromkeys(cells) if cell != target]
    if not sources:
        raise InputError("Patterns of other cells are wanted: select some besides the target.")
    if len(sources) > MOST_SOURCES:
        raise InputError(
            f"A cell is predicted from {MOST_SOURCES:,} sources at most; got {len(sources):,}. Draw some of them."
        )
    check_cells(project, [*sources, target])
    asked = _Asked.of(project, model)
    y = asked.prepared([target])
    predicted = np.concatenate(
        [
            asked.predict(x, y.expand(len(x), -1, -1, -1))
            for i in range(0, len(sources), AT_ONCE)
            for x in (asked.prepared(sources[i : i + AT_ONCE]),)
        ]
    )
    real, mean, sd = y[0, 0].float().numpy(), predicted.mean(axis=0), predicted.std(axis=0)
    exact = np.asarray(np.mean((predicted - real) ** 2, axis=(1, 2), dtype=np.float64))
    mse = exact.round(6)  # equal where they are said to be
    shown = np.arange(len(sources))
    if len(sources) > MOST_SHOWN:
        even = np.linspace(0, len(sources) - 1, MOST_SHOWN).round().astype(int)
        shown = np.argsort(mse, kind="stable")[even]
    both = (0.0, float(max(real.max(), predicted.max(), 1e-6)))
    place, error = asked.place(target), mean - real
    top = float(max(np.abs(error).max(), 1e-6))

    def plane(part: str, name: str, data: np.ndarray, limits: tuple[float, float]) -> Plane:
        return Plane(part, name, data.astype(np.float32), limits=limits, **place)

    planes = (
        plane("prediction", f"predicted, mean of {len(sources):,} sources", mean, both),
        plane("real", "real", real, both),
        plane("error", "error of the mean", error, (-top, top)),
        plane("spread", "where the sources disagree (SD)", sd, (0.0, float(max(sd.max(), 1e-6)))),
        *(plane("prediction", f"predicted from {sources[i]}", predicted[i], both) for i in shown),
    )
    best, worst = sources[int(mse.argmin())], sources[int(mse.argmax())]
    words: tuple[str, ...] = (
        f"Mean squared error {np.mean(mse):.3g} on average over {len(sources):,} "
        f"source{'s' * (len(sources) > 1)}, least from {best} ({mse.min():.3g}), most from {worst} ({mse.max():.3g}); the "
        f"mean of the predictions has {np.mean(error**2):.3g}.",
    )
    if len(shown) < len(sources):
        words += (
            f"{len(shown)} of them have a picture of their own, at even steps from the least to the largest error.",
        )
    if not asked.trained:
        words += (UNTRAINED,)
    numbers = {"mse": dict(zip(sources, mse.tolist(), strict=True))}
    where = str(project.cells.obs.loc[target, "field"])
    title = asked.found.net.spec.title
    return (Look("patterns", target, where, model, title, asked.trained, planes, words, numbers),)


def inpainting_errors(
    project: Project, found: Found, obs: pd.DataFrame, *, sources: int = 4, seed: int = 0
) -> Job[np.ndarray]:
    """How far each cell is from what others of its group let expect, over `sources` of them drawn at random.

    Parameters
    ----------
    found : Found
        The network, as `steps.networks.network_of` finds it.
    obs : DataFrame of n rows
        The cells, targets and sources alike. Of a large group `MOST_DRAWN_FROM` cells serve as sources.
    sources : int
        For each target, without itself; in a smaller group all others.
    seed : int
        Of the draws; a group's do not depend on the others.

    Returns
    -------
    ndarray of shape (n, 2), float64
        Mean squared and mean absolute error of the predicted protein channels, mean over the sources; NaN for a cell
        that is alone in its group.
    """
    asked = _Asked.made(project, found)
    out, done = np.full((len(obs), 2), np.nan), 0
    groups = pd.Series(np.arange(len(obs))).groupby(obs["group"].astype(str).to_numpy(), sort=False)
    for group, rows in groups:
        rng = np.random.default_rng([seed, zlib.crc32(str(group).encode())])
        own = rows.to_numpy()
        pool = np.sort(rng.choice(own, min(len(own), MOST_DRAWN_FROM), replace=False))
        if len(own) > 1:
            x = asked.prepared([str(c) for c in obs.index[pool]])
            for i in range(0, len(own), AT_ONCE):
                targets = own[i : i + AT_ONCE]
                y = asked.prepared([str(c) for c in obs.index[targets]])
                each = []
                for t in targets:
                    others = np.flatnonzero(pool != t)
                    each.append(rng.choice(others, min(sources, len(others)), replace=False))
                which = np.repeat(np.arange(len(targets)), [len(e) for e in each])
                at = np.concatenate(each)
                error = np.empty((len(at), 2))
                for k in range(0, len(at), AT_ONCE):
                    part = slice(k, k + AT_ONCE)
                    e = asked.predict(x[at[part]], y[which[part]], every=True)
                    e = e - y[which[part], : asked.n_protein].float().numpy()
                    e = e.reshape(len(e), -1).astype(np.float64)
                    error[part] = np.stack([(e**2).mean(axis=1), np.abs(e).mean(axis=1)], axis=1)
                out[targets] = 0
                np.add.at(out, targets[which], error / np.bincount(which)[which][:, None])
                yield Progress(done + i + len(targets), len(obs), f"Predicting the cells of {group}")
        done += len(own)
        yield Progress(done, len(obs), f"Predicting the cells of {group}")
    return out


@dataclass(frozen=True)
class _Asked:
    """A network that can inpaint, and a project's cells as it gets them."""

    project: Project
    found: Found
    trained: bool
    n_protein: int

    @classmethod
    def of(cls, project: Project, model: str) -> _Asked:
        net, trained = find_model(project, model)
        planes = match_channels(net.roles, project.channels, net.spec.title) if _can(net) else ()
        return cls.made(project, Found(net, planes, "", model), trained)

    @classmethod
    def made(cls, project: Project, found: Found, trained: bool = True) -> _Asked:
        net: Any = found.net
        if not _can(net):
            raise InputError(
                f"{net.spec.title} cannot predict a protein pattern; choose a Paired Cell Inpainting model."
            )
        n_protein = len([r for r in net.spec.roles if r == "protein"])
        return cls(project, found, trained, getattr(net.config, "n_protein", n_protein))

    def prepared(self, cells: Sequence[str]) -> torch.Tensor:
        """Crops of cells of any fields, (n, C, H, W), in their order."""
        import torch

        rows = self.project.cells.obs.loc[list(cells)]
        out = None
        for _, own, crops in cut_by_field(self.project, rows, self.found.net.crop, self.found.planes):
            x = self.found.net.preprocess(torch.from_numpy(crops)).float()
            out = torch.empty((len(rows), *x.shape[1:])) if out is None else out
            out[own] = x
        assert out is not None  # callers have cells
        return out

    def predict(self, x: torch.Tensor, y: torch.Tensor, every: bool = False) -> np.ndarray:
        """First protein channel of the predictions (n, H, W), or every one (n, P, H, W)."""
        import torch

        net: Any = self.found.net
        with torch.inference_mode():
            found: np.ndarray = net.inpaint(x, y[:, self.n_protein :]).float().numpy()
        return found if every else found[:, 0]

    def place(self, cell: str) -> dict[str, float]:
        """Field pixel of a crop's first pixel, and field pixels per pixel of it."""
        row, crop = self.project.cells.obs.loc[cell], self.found.net.crop
        side = crop.side_px(self.project.field(str(row["field"])).um_per_px)
        return {
            "y0": float(int(row["y_px"]) - side // 2),
            "x0": float(int(row["x_px"]) - side // 2),
            "scale": side / crop.size_px,
        }


def _can(net: Any) -> bool:
    from napari_cellrep.models import can

    return can(net, "inpaint")


def _draw(grid: Grid) -> Any:
    """Targets side by side under their structure and real protein, sources one below the other beside their own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from napari_cellrep.steps.look_figure import scale_bar

    n, t = grid.mse.shape
    figure = Figure(figsize=(1.05 * (t + 1) + 0.6, 1.2 * (n + 2) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n + 2, t + 1, squeeze=False)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)

    def show(axes: Any, data: np.ndarray, title: str = "") -> None:
        axes.imshow(data, cmap="gray", vmin=0, vmax=max(float(data.max()), 1e-6), interpolation="nearest")
        axes.set_title(title, fontsize=5.5, pad=2)

    for j, cell in enumerate(grid.targets):
        show(panels[0, j + 1], grid.structure[j], cell)
        show(panels[1, j + 1], grid.real[j])
    panels[0, 1].set_ylabel("target:\nstructure", fontsize=6)
    panels[1, 1].set_ylabel("real protein", fontsize=6)
    for i, cell in enumerate(grid.sources):
        show(panels[i + 2, 0], grid.source_protein[i], cell)
        for j in range(t):
            title = "the cell itself" if cell == grid.targets[j] else f"error {grid.mse[i, j]:.2g}"
            show(panels[i + 2, j + 1], grid.predicted[i, j], title)
    panels[2, 0].set_ylabel("source: protein", fontsize=6)
    side = grid.real.shape[-1]
    scale_bar(panels[0, 1], -0.5, side - 0.5, side - 0.5, -0.5, grid.um_per_px, grid.px_per_px)
    figure.suptitle(
        "Predicted protein of each target from each source; error: mean squared",
        fontsize=7,
        x=0.01,
        ha="left",
    )
    return figure
