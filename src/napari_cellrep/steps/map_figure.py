"""Figures for print: a map with the kernel density of chosen groups over it; how alike groups are, as a clustered heat map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_cellrep.analysis.profiles import LINKAGES, ORDERED_MOST
from napari_cellrep.analysis.projection import METHODS, Density, kernel_density
from napari_cellrep.data import Project
from napari_cellrep.data.cells import map_key, provenance
from napari_cellrep.data.filters import has_value
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.analyze import choose_embedding
from napari_cellrep.steps.look_figure import FIGURES, check_out, save_figure
from napari_cellrep.steps.work import as_text, plain

NAMES = {"umap": "UMAP", "densmap": "densMAP", "tsne": "t-SNE"}
SHARES = (0.75, 0.5, 0.25)  # of a value's cells within its lines, as the clouds of the window
MOST = 7  # values; more colours over one another cannot be told apart
MOST_ROWS = 1000  # groups of a heat map
LEAST = 10  # cells; of fewer a density says nothing
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito


def write_map(
    project: Project,
    *,
    out: Path | str,
    colour: str = "",
    values: str = "",
    embedding: str = "",
    place: str = "umap",
    width: float = 1.0,
    include_flagged: bool = False,
) -> Job[Path]:
    """Draw a map with the densities of some values of a column over it.

    Parameters
    ----------
    out : Path
        ``.png``, ``.svg`` or ``.pdf``.
    colour : str
        A column of the cell table: groups, a treatment, an annotation (several values in a cell parted by ``;`` count for each
        of them). "place has cytosol": cells that have this value among several, and those that have not ("yes", "no"). Empty:
        points alone.
    values : str
        Which of its values, with commas between them; empty: the most frequent, at most `MOST`.
    embedding : str
        Empty: the only one there is.
    place : str
        "umap", "densmap" or "tsne"; or a key of ``obsm``, for the map of a set.
    width : float
        Of the kernel, as a multiple of Scott's rule.
    include_flagged : bool
        Draw cells with quality flags too, where the map has them.

    Yields
    ------
    Progress
        The job returns the path.

    Raises
    ------
    InputError
        If there is no such map, column or value.
    """
    path = check_out(Path(out).expanduser().absolute(), FIGURES)
    if not 0.1 <= width <= 10:
        raise InputError(
            f"The width of the kernel is {width:g} of Scott's rule; it has to lie between 0.1 and 10."
        )
    cells = project.cells
    key = choose_embedding(cells, embedding)
    own = map_key(key, method=place) if place in METHODS else place
    if own not in cells.obsm:
        if place not in METHODS:
            raise InputError(
                f"There is no map {place!r}; there are {join_words(_maps(cells.obsm, key), 9) or 'none'}."
            )
        more = "" if place == "umap" else f" --set method={place}"
        raise InputError(
            f"There is no {NAMES[place]} of {key} yet: run `cellrep analyze PROJECT map --embedding {key}{more}`."
        )
    xy = np.asarray(cells.obsm[own], np.float64)[:, :2]
    shown = np.isfinite(xy).all(axis=1)
    if "good" in cells.obs and not include_flagged:
        shown &= cells.obs["good"].to_numpy(bool)
    if shown.sum() < LEAST:
        raise InputError(
            f"Not enough data: the map has {int(shown.sum())} cells that count; {LEAST} are needed."
        )
    xy, obs = xy[shown], cells.obs[shown]
    if values and not colour:
        raise InputError("Values were named and no column; say which column they are of.")
    yield Progress(0, 2, f"Densities of {colour}" if colour else "Drawing the map")
    members = _members(obs, colour, values) if colour else {}
    densities = {
        name: kernel_density(xy[own_cells], SHARES, width=width, box=xy)
        for name, own_cells in members.items()
    }
    yield Progress(1, 2, f"Drawing {len(xy):,} cells")
    made = provenance(cells).get(f"map_{key}" if own == map_key(key) else f"map_{own}", {})
    save_figure(
        _draw(
            xy,
            densities,
            {n: int(m.sum()) for n, m in members.items()},
            colour,
            _title(own, key, made, width),
        ),
        path,
    )
    yield Progress(2, 2, f"Wrote {path.name}")
    return path


def _maps(obsm: Any, key: str) -> list[str]:
    return [str(k) for k in obsm if any(str(k).startswith(map_key(key, method=m)) for m in METHODS)]


def _members(obs: Any, colour: str, values: str) -> dict[str, np.ndarray]:
    """Value → which cells have it; a sentence for one that is not there or has too few cells."""
    has = has_value(obs, colour)
    if has is not None:
        obs = obs.assign(**{colour: has.map({True: "yes", False: "no"}).fillna("")})
    if colour not in obs:
        known = [c for c in obs.columns if not c.startswith(("q_", "box_", "has_"))]
        raise InputError(
            f"There is no column {colour!r} among the cells; columns are {join_words(known, 12)}."
        )
    entries = as_text(obs[colour])
    of: dict[str, np.ndarray] = {}
    for entry in dict.fromkeys(entries):
        for value in {part.strip() for part in str(entry).split(";") if part.strip()}:
            of[value] = of.get(value, np.zeros(len(obs), bool)) | (entries == entry)
    wanted = [plain(v.strip()) for v in values.split(",") if v.strip()]
    if len(wanted) > MOST:
        raise InputError(f"{len(wanted)} values were named; {MOST} can be told apart on one map.")
    for value in wanted:
        if value not in of:
            raise InputError(
                f"{colour} has no value {value!r}; values are {join_words(sorted(of), 12) or 'none'}."
            )
        if of[value].sum() < LEAST:
            raise InputError(
                f"Not enough data: {int(of[value].sum())} cells on the map have {colour} {value}; a density needs {LEAST}."
            )
    if not wanted:
        enough = [v for v in of if of[v].sum() >= LEAST]
        wanted = sorted(sorted(enough, key=lambda v: -int(of[v].sum()))[:MOST], key=_by_number)
        if not wanted:
            raise InputError(f"Not enough data: no value of {colour} has {LEAST} cells on the map.")
    return {value: of[value] for value in dict.fromkeys(wanted)}


def _by_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _title(own: str, key: str, made: dict[str, Any], width: float) -> str:
    method = next((m for m in METHODS if own.startswith(f"X_{m}_")), "")
    how = made.get("options", {})
    said = [f"seed {how['seed']}"] if how else []
    if how:
        said.insert(
            0, f"perplexity {how['perplexity']:g}" if method == "tsne" else f"neighbours {how['n_neighbors']}"
        )
    of = f" ({', '.join(said)})" if said else ""
    kernel = "Scott's rule" if width == 1 else f"{width:g} × Scott's rule"
    return f"{NAMES.get(method, own)} of {key.replace('_', ' ')}{of}; Gaussian kernels, {kernel}; lines hold 25, 50, 75 %"


def _draw(
    xy: np.ndarray, densities: dict[str, Density], count: dict[str, int], colour: str, title: str
) -> Any:
    import textwrap

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    low, high = xy.min(axis=0), xy.max(axis=0)
    rim = 0.08 * float((high - low).max())
    wide, tall = high - low + 2 * rim
    legend = 0.3 + 0.2 * -(-len(densities) // 2) if densities else 0.0
    figure = Figure(
        figsize=(5.2, float(np.clip(5.2 * tall / wide, 2.5, 8)) + 0.4 + legend), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    size = float(np.clip(9000 / len(xy), 0.6, 10))
    axes.scatter(xy[:, 0], xy[:, 1], color="#c9ced4", s=size, lw=0, rasterized=True)
    lines = []
    for shade, (name, found) in zip(COLOURS, densities.items(), strict=False):
        levels = sorted(set(found.levels))
        axes.contourf(found.x, found.y, found.z, [*levels, np.inf], colors=[shade], alpha=0.14)
        axes.contour(
            found.x, found.y, found.z, levels, colors=[shade], linewidths=[0.7, 1.1, 1.6][-len(levels) :]
        )
        lines.append(Line2D([], [], color=shade, lw=2.2, label=f"{name} (n = {count[name]:,})"))
    if lines:
        axes.legend(
            handles=lines, title=colour.replace("_", " "), frameon=False, fontsize=8, title_fontsize=8.5, loc="upper center",
            bbox_to_anchor=(0.5, -0.01), ncols=2,
        )  # fmt: skip
    else:
        title = title.partition(";")[0]
    axes.set_aspect("equal")
    axes.set_xlim(low[0] - rim, high[0] + rim)
    axes.set_ylim(low[1] - rim, high[1] + rim)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#dfe4ea")
    axes.set_title(textwrap.fill(title, 84), loc="left", fontsize=8)
    return figure


# ---- how alike groups are ------------------------------------------------------------------------------


def write_likeness(
    project: Project, *, out: Path | str, embedding: str = "", linkage: str = "average"
) -> Job[Path]:
    """Draw how alike each two groups' profiles are, in the order of a tree that joins the most alike.

    Parameters
    ----------
    out : Path
        ``.png``, ``.svg`` or ``.pdf``.
    embedding : str
        Empty: the one profiled last.
    linkage : str
        As in `analysis.profiles.grow`.

    Raises
    ------
    InputError
        If no profiles were made, or there are more groups than a figure can show.
    """
    from napari_cellrep.steps.export import likeness_table

    if linkage not in LINKAGES:
        raise InputError(f"Groups are joined by {' or '.join(LINKAGES)} linkage; got {linkage!r}.")
    path = check_out(Path(out).expanduser().absolute(), FIGURES)
    table = likeness_table(project, embedding)
    if len(table) > MOST_ROWS:
        raise InputError(
            f"A heat map of {len(table):,} groups cannot be read; up to {MOST_ROWS:,} are drawn. The same as numbers: --format "
            "likeness with a .csv."
        )
    yield Progress(0, 1, f"Heat map of {len(table):,} groups")
    save_figure(_heat_map(table, linkage), path)
    yield Progress(1, 1, f"Wrote {path.name}")
    return path


def _heat_map(table: Any, linkage: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    r = table.to_numpy(float)
    distance = squareform(np.maximum(1 - (r + r.T) / 2, 0), checks=False)
    if linkage == "ward":  # as `profiles.grow`: rows of length 1 are 2 (1 − r) apart, squared
        distance = np.sqrt(2 * distance)
    joined = hierarchy.linkage(distance, linkage, optimal_ordering=len(r) <= ORDERED_MOST)
    side = float(np.clip(0.14 * len(r), 2.5, 14))
    figure = Figure(figsize=(side + 2.6, side + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    tree, heat = figure.subplots(1, 2, width_ratios=(1, side / 1.1))
    drawn = hierarchy.dendrogram(
        joined,
        orientation="left",
        ax=tree,
        no_labels=True,
        color_threshold=0,
        above_threshold_color="#3c4654",
    )
    tree.axis("off")
    order = drawn["leaves"][::-1]  # matplotlib draws the first leaf at the bottom
    shown = heat.imshow(
        r[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
    )
    names = [str(table.index[i]) for i in order]
    small = float(np.clip(72 * side / len(r) * 0.75, 2.5, 8))
    heat.set_yticks(range(len(r)), names, fontsize=small)
    heat.set_xticks(range(len(r)), names, fontsize=small, rotation=90)
    heat.yaxis.tick_right()
    heat.tick_params(length=0)
    heat.spines[:].set_visible(False)
    heat.set_title(
        f"How alike groups ({table.index.name}) are: Pearson's r of profiles, {linkage} linkage",
        loc="left",
        fontsize=8,
    )
    bar = figure.colorbar(shown, ax=heat, orientation="horizontal", shrink=0.5, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    return figure
