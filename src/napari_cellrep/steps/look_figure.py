"""Looks into cells as a figure with a scale bar, or as arrays with their places."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_cellrep.data import Project
from napari_cellrep.data.files import replacing
from napari_cellrep.specs import InputError
from napari_cellrep.steps.look import Look, Plane

FIGURES, ARRAYS = (".png", ".svg", ".pdf"), ".npz"
_PANEL_IN, _COLUMNS = 1.9, 6
_SHADES = {
    "mean": "inferno",
    "head": "inferno",
    "occlusion": "magma",
    "similar": "inferno",
    "spread": "magma",
}
_THROUGH = ("mean", "head", "occlusion", "similar", "evidence")  # drawn over the image
_SIGNED = ("error", "evidence")
# As in the window: blue below zero, white at zero, orange above it.
_BLUE_TO_ORANGE = ((0.02, 0.19, 0.58), (0.4, 0.66, 0.81), (1, 1, 1), (0.99, 0.68, 0.38), (0.7, 0.28, 0.0))
_BARS = 8  # classes, most probable first


def check_out(out: Path, endings: Sequence[str] = (*FIGURES, ARRAYS)) -> Path:
    """The path, if it ends as one of the files that can be written."""
    if out.suffix.lower() not in endings:
        raise InputError(f"{out.name} has to end in {', '.join(endings)}.")
    return out


def save_looks(project: Project, looks: Sequence[Look], out: Path) -> None:
    """Write looks to a file.

    Parameters
    ----------
    looks : sequence of Look
        All of one kind.
    out : Path
        ``.png``, ``.svg`` or ``.pdf``: a figure, each cell with its channels, its outline and all planes;
        ``.npz``: for each plane ``"<cell>/<name>"`` (h, w) float32, and ``"<cell>/<name>/place"``: y0, x0 and the
        field pixels per pixel.
    """
    if check_out(out).suffix.lower() == ARRAYS:
        arrays: dict[str, Any] = {}
        for look in looks:
            for plane in look.planes:
                key = f"{look.cell_id}/{plane.name}"
                arrays[key], arrays[f"{key}/place"] = plane.data, np.array([plane.y0, plane.x0, plane.scale])
        with replacing(out) as tmp, tmp.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return
    save_figure(draw_looks(project, looks), out)


def save_figure(figure: Any, out: Path) -> None:
    """Write a matplotlib figure as what its name ends in, whole or not at all."""
    import matplotlib as mpl

    with replacing(out) as tmp:
        # Words stay words: journals refuse the outlines of letters ("Type 3"), and people mend labels in Illustrator.
        with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
            figure.savefig(tmp, format=out.suffix.lower()[1:], dpi=200)


def signed_map() -> Any:
    """Colours of what lies around zero: blue below, orange above, as in the window."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue to orange", _BLUE_TO_ORANGE)


def figure_of(project: Project, *, what: str, cells: Sequence[str], out: str, **settings: Any) -> str:
    """Look into cells and write it as a figure.

    Parameters
    ----------
    what : str
        One of `steps.look.ASKED`, or "patterns" (`steps.inpaint`).
    cells : sequence of str
    out : str
        ``.png``, ``.svg`` or ``.pdf``.
    **settings
        Of the step.

    Returns
    -------
    str
        `out`.
    """
    from napari_cellrep.steps.inpaint import patterns
    from napari_cellrep.steps.look import look

    path = check_out(Path(out), FIGURES)
    looks = (
        patterns(project, cells=cells, **settings)
        if what == "patterns"
        else look(project, what=what, cells=cells, **settings)
    )
    save_looks(project, looks, path)
    return out


def draw_looks(project: Project, looks: Sequence[Look]) -> Any:
    """A matplotlib figure: for each cell its channels, then every plane at its place, with a scale bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = len(project.channels) + max(
        len(look.planes) + ("probabilities" in look.numbers) for look in looks
    )
    columns = min(_COLUMNS, n_panels)
    rows = math.ceil(n_panels / columns)
    words = [
        textwrap.fill(f"{look.title}, {look.cell_id}. " + " ".join(look.words), 36 * columns)
        for look in looks
    ]
    heights = [0.14 * (text.count("\n") + 1) + rows * (_PANEL_IN + 0.4) + 0.15 for text in words]
    figure = Figure(figsize=(_PANEL_IN * columns, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = np.ravel(figure.subfigures(len(looks), 1, height_ratios=heights, squeeze=False))
    for part, look, text in zip(parts, looks, words, strict=True):
        part.suptitle(text, fontsize=6.5, x=0.01, ha="left")
        _draw(project, look, np.ravel(part.subplots(rows, columns, squeeze=False)))
    return figure


def _draw(project: Project, look: Look, panels: np.ndarray) -> None:
    field = project.field(look.field)
    label, um = project.cells.obs.loc[look.cell_id, "label"], field.um_per_px
    ends = np.array([_extent(p) for p in look.planes])
    left, right, bottom, top = ends[:, 0].min(), ends[:, 1].max(), ends[:, 2].max(), ends[:, 3].min()
    ya, xa = max(math.floor(top), 0), max(math.floor(left), 0)
    box = (ya, xa, min(math.ceil(bottom), field.height_px), min(math.ceil(right), field.width_px))
    shown, own = project.read_region(look.field, box), project.read_labels_region(look.field, box) == label
    limits = [np.percentile(plane, (1, 99.8)) for plane in shown]
    at = (
        box[1] - 0.5,
        box[3] - 0.5,
        box[2] - 0.5,
        box[0] - 0.5,
    )  # left, right, bottom, top, as `_extent` has them
    rest = panels[len(project.channels) + len(look.planes) :]
    for axes in rest:
        axes.set_visible(False)
    if shares := look.numbers.get("probabilities"):
        _draw_bars(rest[0], shares, look.numbers["class"])

    def under(axes: Any, channel: int) -> None:
        low, high = limits[channel]
        axes.imshow(
            shown[channel],
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-6),
            extent=at,
            interpolation="nearest",
        )

    drawn: list[tuple[str, int, Plane | None]] = [(c.name, i, None) for i, c in enumerate(project.channels)]
    drawn += [(plane.name, 0, plane) for plane in look.planes]
    for axes, (title, channel, plane) in zip(panels, drawn, strict=False):
        through = plane is not None and plane.part in _THROUGH
        if plane is None or through:
            under(axes, channel)
        if plane is not None:
            cmap = signed_map() if plane.part in _SIGNED else _SHADES.get(plane.part, "gray")
            low, high = plane.limits
            axes.set_xlabel(_legend(plane), fontsize=5.5, labelpad=2)
            axes.imshow(
                plane.data, cmap=cmap, vmin=low, vmax=high, extent=_extent(plane), interpolation="nearest",
                alpha=_cover(plane),
            )  # fmt: skip
        rows, columns = np.arange(box[0], box[2]), np.arange(box[1], box[3])
        axes.contour(columns, rows, own, [0.5], colors="#ff9a1f", linewidths=0.6)
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], facecolor="black")
        axes.spines[:].set_visible(False)
        axes.set_title("\n".join(textwrap.wrap(title, 24)), fontsize=6.5)
    scale_bar(panels[0], left, right, bottom, top, um)


def _legend(plane: Plane) -> str:
    """What the colours of a picture mean, in numbers."""
    low, high = plane.limits
    if plane.data.ndim == 3:
        return ""
    if plane.part in _SIGNED:
        return f"blue {low:.2g}, orange +{high:.2g}"
    return f"dark {low:.2g}, bright {high:.2g}"


def _cover(plane: Plane) -> Any:
    """How much of the image a plane covers; where there is no evidence, nothing."""
    if plane.part == "evidence":
        return 0.85 * np.abs(plane.data) / plane.limits[1]
    return 0.6 if plane.part in _THROUGH else 1.0


def _draw_bars(axes: Any, shares: Mapping[str, float], chosen: str) -> None:
    """Probabilities as bars with their classes' names; the class of the evidence is dark."""
    names = list(shares)[:_BARS]
    names += [chosen] if chosen not in names else []
    axes.set_visible(True)
    axes.barh(
        names, [shares[n] for n in names], color=["#56b4e9" if n == chosen else "#c5dfee" for n in names]
    )
    for i, name in enumerate(names):
        axes.text(0.02, i, f"{name}  {shares[name]:.1%}", fontsize=5.5, va="center")
    axes.set(xlim=(0, 1), xticks=[], yticks=[])
    axes.set_ylim(max(len(names), _BARS) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.set_title("class probabilities", fontsize=6.5)


def _extent(plane: Plane) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge in field coordinates."""
    h, w = plane.data.shape[:2]
    x0, y0 = plane.x0 - 0.5, plane.y0 - 0.5
    return x0, x0 + w * plane.scale, y0 + h * plane.scale, y0


def scale_bar(
    axes: Any, left: float, right: float, bottom: float, top: float, um: float, px: float = 1.0
) -> None:
    """Draw a bar of a round length; `um` is a pixel's size (0: not known, the bar is in the field's pixels, `px` each)."""
    unit, each = ("µm", um) if um else ("px", px)
    side = (right - left) * each
    power = 10.0 ** np.floor(np.log10(side / 2))
    length = max(step * power for step in (1, 2, 5) if step * power <= side / 2)
    x, y = left + 0.05 * (right - left), bottom - 0.07 * (bottom - top)
    axes.plot([x, x + length / each], [y, y], color="white", lw=2.5, solid_capstyle="butt")
    axes.text(x, y - 0.03 * (bottom - top), f"{length:g} {unit}", color="white", fontsize=6, va="bottom")
