"""Project → one self-contained HTML page that a biologist can read, print and send on."""

from __future__ import annotations

import base64
import datetime
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.data.cells import FLAGS, embedding_names, is_untrained, provenance
from napari_cellrep.data.crops import cut_crops
from napari_cellrep.data.files import write_text
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import CropSpec, InputError, join_words, p_words
from napari_cellrep.steps.analyze import ranking
from napari_cellrep.steps.columns import OF_GROUPS, group_words
from napari_cellrep.steps.embed import boxes_of, cut_cells

# What a channel looks like in pictures, by role: the field's habit (nucleus blue, protein green), but light
# enough to be seen on black.
COLOURS = {
    "protein": (0.20, 1.00, 0.35), "nucleus": (0.25, 0.45, 1.00), "microtubules": (1.00, 0.25, 0.20),
    "er": (1.00, 0.85, 0.15), "membrane": (1.00, 0.30, 0.90), "structure": (1.00, 0.25, 0.20),
    "rna": (1.00, 0.60, 0.10), "agp": (1.00, 0.45, 0.45), "mito": (1.00, 0.25, 0.65), "actin": (1.00, 0.40, 0.10),
    "brightfield": (0.60, 0.60, 0.60), "other": (0.75, 0.75, 0.75),
}  # fmt: skip
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
CITATIONS = {
    "umap": "UMAP: McInnes, Healy, Melville. UMAP: Uniform manifold approximation and projection for dimension "
    "reduction. arXiv:1802.03426, 2018.",
    "score": "Log-ratio score: Lu, Kraus, Cooper, Moses, PLoS Comput Biol 2019.",
    "heterogeneity": "Heterogeneity ranking: Doron et al. Unbiased single-cell morphology with self-supervised vision "
    "transformers. bioRxiv 2023.",
    "cellpose": "Cellpose-SAM: Pachitariu, Rariden, Stringer. Cellpose-SAM: superhuman generalization for cellular "
    "segmentation. bioRxiv 2025, doi:10.1101/2025.04.28.651001.",
    "napari": "napari: napari contributors. napari: a multi-dimensional image viewer for Python. "
    "doi:10.5281/zenodo.3555620.",
}


@dataclass(frozen=True)
class _Subject:
    """What the report is about: the embedding, the cells that count, and the columns that order them."""

    project: Project
    embedding: str
    obs: pd.DataFrame  # every cell
    good: pd.DataFrame  # those that count
    dose: str  # "" when there is none
    compound: str
    control: str
    ranked: Any  # DataFrame (`analyze.ranking`) or None
    made: dict[str, Any]

    @property
    def score(self) -> str:
        """The score's column, or ""."""
        name = f"score_{self.embedding}"
        return name if self.embedding and name in self.good and self.good[name].notna().any() else ""

    def series(self) -> list[tuple[str, pd.DataFrame]]:
        """One curve per compound (all cells when there is none), those with most cells first, at most six."""
        if not self.compound:
            return [("", self.good)]
        names = self.good[self.compound].astype(str).value_counts().index[:6]
        return [(str(n), self.good[self.good[self.compound].astype(str) == n]) for n in sorted(names)]


def write_report(
    project: Project,
    out_html: Path | str,
    *,
    numbers: Mapping[str, Any] | None = None,
    embedding: str = "",
    seed: int = 0,
) -> Job[Path]:
    """Write the report. What was not computed yet is left out, so it works after any step.

    Parameters
    ----------
    out_html : Path
        File to write; pictures are inside it.
    numbers : mapping, optional
        Numbers of a run (the demo's); ``numbers["readouts"]`` becomes a table, all of it is printed at the end.
    embedding : str
        Which one; empty: the one ranked last, else the one mapped, else the first.
    seed : int
        Of the draw of example cells.

    Yields
    ------
    Progress
        Once per section; the job returns the path written.

    Raises
    ------
    InputError
        If the project has no cells, or the place is a folder.
    """
    from jinja2 import Environment

    from napari_cellrep import __version__

    out = Path(out_html).expanduser().absolute()
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the name of the page, for example {out / 'report.html'}.")
    about = _subject(project, embedding)
    if not len(about.obs):
        raise InputError(f"{project.name} has no cells to report on: run `cellrep segment` first.")
    parts = {
        "violins": _violins, "spread": _spread, "map": _map, "ranking": _ranking, "plate": _plate,
    }  # fmt: skip
    page: dict[str, Any] = {}
    for i, (name, make) in enumerate(parts.items()):
        yield Progress(i, len(parts) + 2, f"Report: {name}")
        page[name] = make(about)
    yield Progress(len(parts), len(parts) + 2, "Report: pictures of cells")
    page["keys"], page["strips"], page["unusual"] = _pictures(about, seed)
    yield Progress(len(parts) + 1, len(parts) + 2, "Report: writing")
    page |= _words(about, numbers)
    page["version"], page["made"] = (
        __version__,
        datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
    )
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    )
    write_text(out, template.render(page))
    yield Progress(len(parts) + 2, len(parts) + 2, f"Wrote {out.name}")
    return out


def write_methods(project: Project, out: Path | str, *, embedding: str = "") -> Job[Path]:
    """Write what a methods section needs as plain text: what was done, with which settings, versions and papers.

    Everything comes from the project's history and provenance; nothing is said that was not done.

    Parameters
    ----------
    out : Path
        Text file to write.
    embedding : str
        Which numbers the text is about; empty: those ranked or mapped last.

    Yields
    ------
    Progress
        The job returns the path written.

    Raises
    ------
    InputError
        If the project has no cells, or the place is a folder.
    """
    out = Path(out).expanduser().absolute()
    if out.is_dir():
        raise InputError(
            f"{out} is a folder; give the name of a text file, for example {out / 'methods.txt'}."
        )
    yield Progress(0, 1, f"Writing {out.name}")
    write_text(out, methods_text(project, embedding))
    yield Progress(1, 1, f"Wrote {out.name}")
    return out


def methods_text(project: Project, embedding: str = "") -> str:
    """The text of `write_methods`."""
    from napari_cellrep import __version__

    about = _subject(project, embedding)
    if not len(about.obs):
        raise InputError(f"{project.name} has no cells to write about: run `cellrep segment` first.")
    um = sorted({f.um_per_px for f in project.fields if f.um_per_px})
    sizes = f" at {join_words(f'{u:g}' for u in um)} µm per pixel" if um else ""
    first = (
        f"Images of {len(project.fields):,} fields of view "
        f"showing {join_words(f'{c.name} ({c.role})' for c in project.channels)}{sizes} were analysed with "
        f"napari-cellrep {__version__}."
    )
    lit = project.illumination
    if lit is not None:
        first += f" Uneven illumination was corrected before anything else: {lit.words()}."
    rules = project.last("crop").get("rules", {})
    flags = ""
    if rules:
        flags = (
            f"{len(about.obs):,} cells were found. {len(about.obs) - len(about.good):,} of them were flagged and left out: "
            f"cut off by the image's edge, too small, saturated, blurred or without signal ({_settings(rules)})."
        )
    trained = [
        f"The network “{line['name']}” ({line['model']}) was trained on {line['n_cells']:,} cells of the project."
        for line in project.history
        if line.get("step") == "train" and not line.get("undone") and line.get("name") and line.get("n_cells")
    ]
    brought = [
        f"Embedding “{key}” was read from a table." for key in project.embedding_keys()
        if project.embedding_info(key).get("table")
    ]  # fmt: skip
    papers = _cited(about)
    credit = [str(line["credit"]) for line in project.history if line.get("credit")]
    parts = [
        first, flags, *trained, *brought, *_methods(about), f"Versions: {_versions(about)}.", "References",
        *(f"- {paper}" for paper in dict.fromkeys(papers)), *dict.fromkeys(credit),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _cited(about: _Subject) -> list[str]:
    """Papers of what was used: models, analyses, napari."""
    used = sorted({str(m["model"]) for m in about.made.values() if m.get("model")})
    recipes = {m.get("recipe") for m in about.made.values()}
    cited = {"map": "umap", "score": "score", "variability": "heterogeneity"}
    papers = [told for told in map(_model_citation, used) if told]
    papers += [CITATIONS[key] for recipe, key in cited.items() if recipe in recipes]
    project = about.project
    labelled = next((f.id for f in project.fields if project.has_labels(f.id)), "")
    if labelled and project.label_info(labelled).get("segmenter") == "cellpose":
        papers.append(CITATIONS["cellpose"])
    return [*papers, CITATIONS["napari"]]


def _subject(project: Project, embedding: str) -> _Subject:
    cells = project.cells
    keys = embedding_names(cells)
    if embedding and embedding not in keys:
        raise InputError(f"There is no embedding {embedding!r}; there are {join_words(keys, 12) or 'none'}.")
    try:
        ranked: Any = ranking(project, embedding=embedding)
    except InputError:
        ranked = None
    groups = project.groups
    made = {**provenance(cells), **(provenance(groups) if groups is not None else {})}
    if not embedding:
        rankings = [m for m in made.values() if m.get("recipe") == "variability"]
        mapped = [k for k in keys if f"X_umap_{k}" in cells.obsm]
        last = max(rankings, key=lambda m: m["made"])["embedding"] if rankings else ""
        embedding = last if last in keys else (mapped or keys or [""])[0]
    obs = cells.obs
    good = obs[obs["good"].to_numpy(bool)] if "good" in obs else obs
    users = [c for c in obs.columns if not c.startswith(("q_", "box_", "has_", "score_", "outlier_"))]
    dose = next(
        (
            c for c in users
            if re.search("dose|conc", c, re.I) and pd.api.types.is_numeric_dtype(obs[c]) and obs[c].nunique() > 2
        ),
        "",
    )  # fmt: skip
    compound = next((c for c in users if re.fullmatch("compound|drug|treatment", c, re.I)), "")
    control = next((c for c in users if c.lower() == "control" and pd.api.types.is_numeric_dtype(obs[c])), "")
    return _Subject(project, embedding, obs, good, dose, compound, control, ranked, made)


# ---- figures -------------------------------------------------------------------------------------


def _figure(width_in: float, height_in: float) -> Any:
    """A matplotlib figure of its own: no pyplot, no window, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _source(figure: Any) -> str:
    """The figure as the source of an <img>: SVG, with many-point parts as pixels inside."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    # A fixed salt and no date: the same numbers give the same page.
    with mpl.rc_context({"svg.hashsalt": "cellrep", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png(rgb: np.ndarray) -> str:
    import imageio.v3 as iio

    return "data:image/png;base64," + base64.b64encode(iio.imwrite("<bytes>", rgb, extension=".png")).decode()


def _plain_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#8a94a0")
    axes.tick_params(colors="#3c4654", labelsize=9)


def _by_well(about: _Subject, column: str) -> pd.DataFrame:
    """One row per group: dose, compound, control, and the mean of a column over the cells that count."""
    keep = {c: (c, "first") for c in (about.dose, about.compound, about.control) if c}
    groups = about.good.groupby(about.good["group"].astype(str))
    return groups.agg(mean=(column, "mean"), **keep)


def _spearman(about: _Subject, column: str) -> dict[str, float]:
    """Rank correlation of the wells' means with the dose, per compound, controls left out."""
    from scipy.stats import spearmanr

    wells = _by_well(about, column).dropna(subset=["mean"])
    if about.control:
        wells = wells[wells[about.control].astype(float) == 0]
    found = {}
    for name, part in wells.groupby(wells[about.compound].astype(str)) if about.compound else [("", wells)]:
        if len(part) > 2 and part[about.dose].nunique() > 1 and part["mean"].nunique() > 1:
            found[str(name)] = float(spearmanr(part[about.dose], part["mean"]).statistic)
    return found


def _violins(about: _Subject) -> dict[str, str] | None:
    if not about.score:
        return None
    series = about.series()
    if not about.dose:  # groups instead of doses, in the ranking's order
        names = (
            about.ranked.index
            if about.ranked is not None
            else sorted(about.good["group"].astype(str).unique())
        )
        order = [str(g) for g in names][:24]
        series = [("", about.good[about.good["group"].astype(str).isin(order)])]
    figure = _figure(min(5.4 * len(series), 10.8) if len(series) > 1 else 9.5, 3.9 * ((len(series) + 1) // 2))
    grid = np.ravel(figure.subplots((len(series) + 1) // 2, min(len(series), 2), sharey=True, squeeze=False))
    for axes in grid[len(series) :]:
        axes.set_visible(False)
    for axes, (name, cells) in zip(grid, series, strict=False):
        cells = cells[cells[about.score].notna()]
        if about.dose:
            ticks = sorted(cells[about.dose].dropna().unique())
            parts = [cells.loc[cells[about.dose] == t] for t in ticks]
        else:
            ticks = order
            parts = [cells.loc[cells["group"].astype(str) == t] for t in ticks]
        axes.axhline(0, color="#b8c0c8", lw=1, zorder=0)
        for i, part in enumerate(parts):
            values = part[about.score].to_numpy(float)
            control = bool(about.control) and len(part) > 0 and float(part[about.control].iloc[0]) != 0
            colour = "#7d8894" if control else "#0b8a92"
            if len(values) >= 5 and np.ptp(values) > 0:
                body = axes.violinplot(values, [i], widths=0.85, showextrema=False)["bodies"][0]
                body.set(facecolor=colour, alpha=0.45, edgecolor="none")
                axes.vlines(i, *np.quantile(values, [0.25, 0.75]), color=colour, lw=4)
            elif len(values):
                axes.plot(np.full(len(values), i), values, ".", color=colour, ms=4)
            if len(values):
                axes.plot(i, np.median(values), "o", color="white", mec=colour, mew=1.6, ms=6, zorder=4)
        axes.set_xticks(
            range(len(ticks)),
            [f"{t:g}" if about.dose else t for t in ticks],
            rotation=0 if about.dose else 60,
        )
        axes.set_xlabel(_title(about.dose or "group"), fontsize=10)
        if name:
            axes.set_title(name, loc="left", fontsize=12, fontweight="bold", color="#1c2430")
        _plain_axes(axes)
    grid[0].set_ylabel("localisation score", fontsize=10)
    how = about.made.get(f"score_{about.embedding}", {}).get("numbers", {})
    a, b = (str(how.get(k, f"reference {k}")).replace("=", " ").replace("-", "−") for k in "ab")
    text = (
        f"The localisation score says which of two references a cell looks more like: negative is nearer {a}, positive "
        f"nearer {b}, 0 is half-way (s = ln |f−µ_A| / |f−µ_B|, on z-scored features of “{about.embedding}”)."
    )
    rho = _spearman(about, about.score) if about.dose else {}
    caption = "White dot: median; thick bar: middle half of the cells; shape: all usable cells."
    if about.control:
        caption += " Grey: control wells."
    if rho:
        told = "; ".join(f"{k + ': ' if k else ''}ρ = {v:.2f}" for k, v in rho.items())
        caption += f" Spearman's ρ of the wells' means with the {_title(about.dose).lower()}, controls left out: {told}."
    what = f"{_title(about.dose).lower()}" if about.dose else "group"
    return {
        "title": f"Score by {what}", "text": text, "caption": caption, "src": _source(figure),
        "alt": f"Localisation score of cells by {what}",
    }  # fmt: skip


def _spread(about: _Subject) -> dict[str, str] | None:
    table = about.ranked
    if table is None or not about.dose or about.dose not in table or table.index.name != "group":
        return None
    titles = {"score_sd": "SD of the score", "heterogeneity": "heterogeneity of all features"}
    measures = [(c, t) for c, t in titles.items() if c in table]
    figure = _figure(5.2 * len(measures) + 0.4, 3.6)
    grid = figure.subplots(1, len(measures), squeeze=False)[0]
    by = table[about.compound].astype(str) if about.compound in table else pd.Series("", index=table.index)
    for axes, (column, title) in zip(grid, measures, strict=True):
        for colour, (name, part) in zip(PALETTE, table.groupby(by), strict=False):
            part = part[part[column].notna()].sort_values(about.dose)
            x = part[about.dose].to_numpy(float)
            mean = part.groupby(about.dose)[column].mean()
            axes.plot(mean.index, mean, "-", color=colour, lw=1.6, alpha=0.8, label=str(name))
            if column == "score_sd" and "score_sd_low" in part:
                y = part[column].to_numpy(float)
                ends = np.stack([y - part["score_sd_low"], part["score_sd_high"] - y]).clip(0)
                axes.errorbar(x, y, ends, fmt="o", color=colour, ms=4.5, elinewidth=1, alpha=0.9)
            else:
                axes.plot(x, part[column], "o", color=colour, ms=4.5)
        axes.set_xlabel(_title(about.dose), fontsize=10)
        axes.set_ylabel(title, fontsize=10)
        axes.set_ylim(bottom=0)
        _plain_axes(axes)
    if by.nunique() > 1:
        figure.legend(
            *grid[0].get_legend_handles_labels(),
            loc="outside upper left",
            ncols=6,
            frameon=False,
            fontsize=9.5,
        )
    return {
        "text": "A high spread means that cells treated alike answer differently: some have switched and some have not. "
        "The SD of the score looks along the line between the two references only; the heterogeneity looks at every "
        "feature, whatever it shows (1 = as mixed as all cells together).",
        "caption": "One dot per well"
        + (", bars: 95 % interval from drawing its cells again (bootstrap)" if "score_sd_low" in table else "")
        + "; line: mean of the wells.",
        "src": _source(figure), "alt": "Spread of cells within wells by dose",
    }  # fmt: skip


def _map(about: _Subject) -> dict[str, str] | None:
    cells = about.project.cells
    key = f"X_umap_{about.embedding}"
    if not about.embedding or key not in cells.obsm:
        return None
    xy = np.asarray(cells.obsm[key])
    shown = np.isfinite(xy).all(axis=1)
    if not shown.any():
        return None
    xy, obs = xy[shown], about.obs[shown]
    order = np.random.default_rng(0).permutation(len(xy))  # no colour lies on top for its place in the table
    xy, obs = xy[order], obs.iloc[order]
    panels: list[tuple[str, Any, str]] = []
    if about.dose:
        panels.append((_title(about.dose), obs[about.dose].to_numpy(float), "viridis"))
    if about.score:
        panels.append(("Localisation score", obs[about.score].to_numpy(float), "RdBu_r"))
    if about.compound and len(panels) < 3:
        panels.append((_title(about.compound), obs[about.compound].astype(str).to_numpy(), ""))
    if not panels:
        panels.append(("group", obs["group"].astype(str).to_numpy(), ""))
    figure = _figure(3.7 * len(panels), 3.9)
    size = float(np.clip(9000 / len(xy), 0.8, 12))
    for axes, (title, values, cmap) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        if cmap:
            limit = np.nanquantile(np.abs(values), 0.99) if cmap == "RdBu_r" else None
            low, high = (-limit, limit) if limit else (np.nanmin(values), np.nanmax(values))
            dots = axes.scatter(
                *xy[:, :2].T, c=values, s=size, lw=0, cmap=cmap, vmin=low, vmax=high, rasterized=True
            )
            bar = figure.colorbar(dots, ax=axes, orientation="horizontal", pad=0.02, aspect=28, shrink=0.9)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        else:
            names = pd.Series(values).value_counts().index
            for colour, name in zip(PALETTE, sorted(names[:6]), strict=False):
                own = values == name
                axes.scatter(*xy[own, :2].T, color=colour, s=size, lw=0, rasterized=True, label=name)
            if len(names) > 6:
                own = ~np.isin(values.astype(str), names[:6].to_numpy().astype(str))
                axes.scatter(
                    *xy[own, :2].T, color="#c4cad1", s=size, lw=0, rasterized=True, label="others", zorder=0
                )
            axes.legend(
                frameon=False, fontsize=8.5, markerscale=8 / np.sqrt(size) / 1.4, loc="upper center",
                bbox_to_anchor=(0.5, -0.01), ncols=2,
            )  # fmt: skip
        axes.set_title(title, loc="left", fontsize=11, color="#1c2430")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#dfe4ea")
    how = about.made.get(f"map_{about.embedding}", {}).get("options", {})
    caption = f"UMAP of {len(xy):,} cells by “{about.embedding}”"
    if how:
        caption += (
            f" after PCA (neighbours {how['n_neighbors']}, min_dist {how['min_dist']}, seed {how['seed']})"
        )
    return {
        "src": _source(figure),
        "caption": caption + ".",
        "alt": "Map of all cells, coloured by metadata and score",
    }


def _plate(about: _Subject) -> dict[str, str]:
    all_cells: Any = about.obs.groupby(about.obs["group"].astype(str)).size()
    good: Any = about.good.groupby(about.good["group"].astype(str)).size().reindex(all_cells.index).fillna(0)
    wells = [re.search(r"(?:^|\s)([A-P])(\d\d)$", g) for g in all_cells.index]
    plates = {g[: m.start()].strip() for g, m in zip(all_cells.index, wells, strict=True) if m}
    share = 1 - good / all_cells
    if all(wells) and len(plates) == 1:
        rows = [ord(m[1]) - 65 for m in wells if m]
        columns = [int(m[2]) - 1 for m in wells if m]
        height, width = max(8, max(rows) + 1), max(12, max(columns) + 1)
        figure = _figure(10.8, 10.8 / 2 * height / width + 0.5)
        panels = (
            ("usable cells per well", good, "GnBu", "{:.0f}"),
            ("share left out", share, "OrRd", "{:.0%}"),
        )
        for axes, (title, values, cmap, form) in zip(figure.subplots(1, 2), panels, strict=True):
            grid = np.full((height, width), np.nan)
            grid[rows, columns] = values
            top = float(np.nanmax(grid)) or 1.0
            axes.imshow(grid, cmap=cmap, vmin=0, vmax=1 if "share" in title else top, aspect="equal")
            for r, c, v in zip(rows, columns, values, strict=True):
                dark = v > 0.6 * (1 if "share" in title else top)
                axes.text(
                    c,
                    r,
                    form.format(v),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "#1c2430",
                )
            axes.set_xticks(range(width), [str(c + 1) for c in range(width)], fontsize=8)
            axes.set_yticks(range(height), [chr(65 + r) for r in range(height)], fontsize=8)
            axes.set_xticks(np.arange(-0.5, width), minor=True)
            axes.set_yticks(np.arange(-0.5, height), minor=True)
            axes.grid(which="minor", color="#e6eaee", lw=0.8)
            axes.tick_params(which="both", length=0, colors="#3c4654")
            axes.xaxis.tick_top()
            axes.spines[:].set_visible(False)
            axes.set_title(title, loc="left", fontsize=11, color="#1c2430")
    else:
        shown = all_cells.sort_values(ascending=False).index[:40]
        figure = _figure(9.5, 0.24 * len(shown) + 0.8)
        axes = figure.subplots()
        axes.barh(range(len(shown)), all_cells[shown], color="#d5dae0", label="left out")
        axes.barh(range(len(shown)), good[shown], color="#0b8a92", label="usable")
        axes.set_yticks(range(len(shown)), [str(g)[:40] for g in shown], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("cells", fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        _plain_axes(axes)
    return {
        "src": _source(figure), "alt": "Number of cells per group, and the share left out",
        "caption": f"{len(about.good):,} of {len(about.obs):,} cells are usable; the others carry a quality flag.",
    }  # fmt: skip


# ---- tables --------------------------------------------------------------------------------------

_HEADS = {
    "n_cells": "cells", "n_left_out": "left out", "score_mean": "mean score", "score_sd": "SD of score",
    "rank_score_sd": "rank by SD", "score_sd_p_fdr": "p of the SD (FDR)", "heterogeneity": "heterogeneity",
    "heterogeneity_expected": "heterogeneity by chance", "rank_heterogeneity": "rank by heterogeneity",
    "heterogeneity_p_fdr": "p of the heterogeneity (FDR)", "pairwise_distance": "distance of pairs",
    "intensity_cv": "CV of intensity", "intensity_cv_expected": "CV by chance",
}  # fmt: skip


def _ranking(about: _Subject, most: int = 50) -> dict[str, Any] | None:
    table = about.ranked
    if table is None:
        return None
    own = [c for c in _HEADS if c in table]
    meta = [
        c
        for c in table
        if c not in own and c not in OF_GROUPS and not c.startswith("n_profiled_") and c != "n_fields"
    ]
    # What repeats the group's name (a well's row and column) or is the same everywhere tells nothing here.
    told = {"row", "col", "column"} if _group_word(about.obs) == "well" else set()
    meta = [c for c in meta if c.lower() not in told and (table[c].nunique() > 1 or len(table) == 1)]
    meta = [c for c in meta if not (table[c].astype(str) == table.index).all()][:6]
    first = _group_word(about.obs) if table.index.name == "group" else str(table.index.name)
    head = [{"text": _title(first), "kind": "text"}]
    head += [
        {"text": _title(c), "kind": "" if pd.api.types.is_numeric_dtype(table[c]) else "text"} for c in meta
    ]
    head += [{"text": _HEADS[c], "kind": ""} for c in own]
    rows = [
        [str(name), *(_cell(row[c], c) for c in [*meta, *own])]
        for name, (_, row) in zip(table.index, table.iterrows(), strict=True)
    ][:most]  # fmt: skip
    few = int(table["rank_heterogeneity"].isna().sum())
    how = about.made.get(f"variability_{about.embedding}", {}).get("options", {})
    text = "Most variable first" + (
        ", by the SD of the localisation score." if "score_sd" in table else ", by heterogeneity."
    )
    if few:
        text += f" {few} with fewer than {how.get('min_cells', 10)} usable cells are measured where possible and not ranked."
    more = f"{len(table) - most:,} more are in the exported ranking." if len(table) > most else ""
    said = [f"{_HEADS[c]}: {group_words(c)}" for c in own]
    return {"head": head, "rows": rows, "text": text, "more": more, "said": f"{'; '.join(said)}."}


def _cell(value: Any, column: str) -> str:
    if value is None or pd.isna(value):
        return "–"
    if column.endswith("_p_fdr"):
        return p_words(value).removeprefix("p ").removeprefix("= ")
    if isinstance(value, (float, np.floating)) and not (float(value).is_integer() and column not in _HEADS):
        return f"{value:.2f}"
    return f"{int(value):,}" if isinstance(value, (int, float, np.integer, np.floating)) else str(value)


def _flags(about: _Subject) -> tuple[list[dict[str, Any]], str]:
    if "flags" not in about.obs:
        return [], ""
    given = about.obs["flags"].astype(str).str.split(";").explode().value_counts()
    n = len(about.obs)
    rows = [
        {"name": k.replace("_", " "), "meaning": text, "n": f"{int(given.get(k, 0)):,}",
         "share": f"{given.get(k, 0) / n:.1%}", "width": round(140 * given.get(k, 0) / n)}
        for k, text in FLAGS.items()
    ]  # fmt: skip
    note = "A cell can carry several flags. Flagged cells stay in the project; they are left out of scores, maps and rankings."
    return rows, note


def _readouts(numbers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not numbers or not numbers.get("readouts"):
        return None
    readouts = numbers["readouts"]
    compounds = list(dict.fromkeys(c for drugs in readouts.values() for c in drugs))
    rows = []
    for name, drugs in readouts.items():
        found = [drugs.get(c, {}) for c in compounds]
        rows.append(
            {
                "name": _title(name),
                "rho": [_number(f.get("spearman_with_dose")) for f in found],
                "at": [str(f.get("dose_of_highest_sd", "–")) for f in found],
            }
        )
    return {"compounds": compounds, "rows": rows}


def _number(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


# ---- pictures of cells -----------------------------------------------------------------------------


def _pictures(
    about: _Subject, seed: int, per_strip: int = 6, n_unusual: int = 18
) -> tuple[list[dict[str, str]], dict[str, Any] | None, dict[str, Any] | None]:
    """Colour key, strips of random cells, and the most unusual cells; every field is read once."""
    rng = np.random.default_rng(seed)
    good = about.good
    wanted: dict[tuple[str, str], list[str]] = {}
    if about.dose:
        series = about.series()
        levels = sorted(good[about.dose].dropna().unique())
        columns, rows, corner = [n for n, _ in series], [f"{v:g}" for v in levels], _title(about.dose)
        for name, cells in series:
            for level in levels:
                wanted[f"{level:g}", name] = _draw(cells[cells[about.dose] == level], per_strip, rng)
        by = f"{_title(about.dose).lower()}" + (
            f" and {_title(about.compound).lower()}" if about.compound else ""
        )
    else:
        ranked = about.ranked is not None and about.ranked.index.name == "group"
        names = [str(n) for n in (about.ranked.index if ranked else dict.fromkeys(good["group"].astype(str)))]
        rows = names if len(names) <= 12 else names[:6] + names[-6:]
        columns, corner, by = [""], "group", "group"
        for name in rows:
            wanted[name, ""] = _draw(good[good["group"].astype(str) == name], 2 * per_strip, rng)
    unusual: list[str] = []
    column = f"outlier_{about.embedding}"
    if column in good:
        unusual = good[column].dropna().sort_values(ascending=False).index[:n_unusual].tolist()
    ids = list(dict.fromkeys(i for index in (*wanted.values(), unusual) for i in index))
    pictures, side = _crop_pictures(about, ids)
    keys = [
        {
            "colour": "rgb({}, {}, {})".format(*(round(255 * v) for v in colour)),
            "text": f"{c.name} ({c.role})",
        }
        for c, colour in _shown_channels(about)
    ]
    strips = None
    if any(i in pictures for index in wanted.values() for i in index):
        strips = {
            "by": by, "corner": corner, "columns": columns, "alt": f"Random cells of {by}",
            "rows": [
                {"name": row, "src": [_strip([pictures[i] for i in wanted[row, c] if i in pictures]) for c in columns]}
                for row in rows
            ],
            "caption": f"Windows of {side} × {side} px about each cell, drawn at random (seed {seed}) among usable cells. "
            "Brightness is the same in all pictures of this page, so they compare.",
        }  # fmt: skip
    most = None
    shown = [i for i in unusual if i in pictures]
    if shown:
        place = [c for c in (about.compound, about.dose) if c]
        within = about.made.get(f"outliers_{about.embedding}", {}).get("options", {}).get("within", "group")
        where = "other cells" if within in ("", "all") else f"other cells of the same {within}"
        most = {
            "cells": [
                {
                    "id": i, "src": _png(pictures[i]),
                    "text": ", ".join(_cell(good.at[i, c], c) for c in place) or str(good.at[i, "group"]),
                }
                for i in shown
            ],
            "caption": f"Largest mean distance to the nearest {where}. "
            "Look at them before trusting them: the most unusual cells are often dividing, dying or badly outlined.",
        }  # fmt: skip
    return keys, strips, most


def _draw(cells: pd.DataFrame, n: int, rng: np.random.Generator) -> list[str]:
    """Up to n cells at random, from at most two fields, so that a page never decodes a whole plate."""
    fields = np.unique(cells["field"].astype(str))
    if len(fields) > 2:
        cells = cells[cells["field"].astype(str).isin(rng.choice(fields, 2, replace=False))]
    return [str(i) for i in cells.index[rng.permutation(len(cells))[:n]]]


def _shown_channels(about: _Subject) -> list[tuple[Any, tuple[float, float, float]]]:
    return [(c, COLOURS[c.role]) for c in about.project.channels if c.role != "mask"]


def _crop_pictures(about: _Subject, ids: list[str]) -> tuple[dict[str, np.ndarray], int]:
    """RGB picture (side, side, 3) uint8 of each cell, all on one brightness scale; cells of lost images are missing."""
    project, side = about.project, 64
    crop = (about.made.get(f"X_{about.embedding}", {}) or {}).get("crop") or {}
    if crop.get("mode", "window") == "window":
        side = int(np.clip(crop.get("window_px", side), 16, 256))
    planes = [i for i, c in enumerate(project.channels) if c.role != "mask"]
    spec = CropSpec(size_px=side, window_px=side)
    raw: dict[str, np.ndarray] = {}
    low, high = [], []
    obs = about.obs.loc[ids]
    for field_id, cells in obs.groupby(obs["field"].astype(str), observed=True):
        name = str(field_id)
        try:
            if project.is_big(name):
                image, crops = project.glimpse(name)[planes], cut_cells(project, name, cells, spec, planes)
            else:
                image = project.read_image(name)[planes]
                crops = cut_crops(image, None, boxes_of(cells), spec)
        except InputError:
            continue  # the report says elsewhere which fields have a problem
        raw.update(zip(cells.index, crops.astype(np.float32), strict=True))
        some = image[:, ::2, ::2].reshape(len(planes), -1)
        low.append(np.percentile(some, 5, axis=1))
        high.append(np.percentile(some, 99.8, axis=1))
    if not raw:
        return {}, side
    floor, top = np.median(low, axis=0), np.maximum(np.median(high, axis=0), np.median(low, axis=0) + 1e-6)
    colours = np.array([colour for _, colour in _shown_channels(about)], np.float32)
    pictures = {}
    for i, crop_pixels in raw.items():
        scaled = np.clip((crop_pixels - floor[:, None, None]) / (top - floor)[:, None, None], 0, 1) ** 0.8
        rgb = np.einsum("chw,ck->hwk", scaled, colours)
        pictures[str(i)] = (255 * np.clip(rgb, 0, 1)).round().astype(np.uint8)
    return pictures, side


def _strip(pictures: list[np.ndarray]) -> str:
    """Pictures side by side with a thin gap; "" for none."""
    if not pictures:
        return ""
    gap = np.full((len(pictures[0]), 2, 3), 255, np.uint8)
    return _png(np.concatenate([p for picture in pictures for p in (picture, gap)][:-1], axis=1))


# ---- words ---------------------------------------------------------------------------------------


def _group_word(obs: pd.DataFrame) -> str:
    """What a group is, in a word: the plate's wells are called wells."""
    return (
        "well"
        if all(re.search(r"(?:^|\s)[A-P]\d\d$", g) for g in obs["group"].astype(str).unique())
        else "group"
    )


def _words(about: _Subject, numbers: Mapping[str, Any] | None) -> dict[str, Any]:
    project, obs = about.project, about.obs
    n_fields, n_groups = len(project.fields), obs["group"].astype(str).nunique()
    group_word = _group_word(obs)
    flags, flags_note = _flags(about)
    dims = about.project.cells.obsm[f"X_{about.embedding}"].shape[1] if about.embedding else 0
    tiles = [
        {"value": f"{n_fields:,}", "label": "fields of view" if n_fields != 1 else "field of view"},
        {"value": f"{n_groups:,}", "label": group_word + ("s" if n_groups != 1 else "")},
        {"value": f"{len(obs):,}", "label": "cells found"},
        {"value": f"{len(about.good):,}", "label": "usable cells (no quality flag)"},
    ]
    if dims:
        tiles.append({"value": f"{dims:,}", "label": f"numbers per cell ({about.embedding})"})
    credit = [str(line["credit"]) for line in project.history if line.get("credit")]
    citations = _cited(about)
    channels = ", ".join(f"{c.name} ({c.role})" for c in project.channels)
    wide = numbers and json.dumps(numbers, indent=1, default=str, ensure_ascii=False)
    return {
        "title": project.name, "tiles": tiles, "group_word": group_word, "dose": _title(about.dose).lower() if about.dose else "",
        "lead": f"Single cells from microscopy images, described by numbers and compared. Channels: {channels}.",
        "findings": _findings(about, group_word), "done": _done(about), "flags": flags, "flags_note": flags_note,
        "readouts": _readouts(numbers) if about.dose else None,
        "problems": [{"field": f.id, "text": f.problem} for f in project.fields if f.problem],
        "methods": _methods(about), "versions": _versions(about), "credits": list(dict.fromkeys(credit)),
        "citations": citations,
        "provenance": json.dumps(_shortened(about.made), indent=1, ensure_ascii=False, default=str), "numbers": wide,
    }  # fmt: skip


def _model_citation(name: str) -> str:
    """Title and paper of a model, from its own file; "" for one that is not installed here."""
    if name not in registry.names("models"):
        return ""
    spec = registry.load("models", name).SPEC
    return f"{spec.title}: {spec.paper}." if spec.paper else ""


def _findings(about: _Subject, group_word: str) -> list[str]:
    """Sentences that the numbers bear out; none where there is nothing to say."""
    out = []
    if about.score and about.dose:
        for name, rho in _spearman(about, about.score).items():
            way = "rises" if rho > 0 else "falls"
            strength = "clearly" if abs(rho) >= 0.8 else "somewhat" if abs(rho) >= 0.5 else ""
            told = f"{way} {strength} with" if strength else "does not follow"
            who, what = f"{name}: the" if name else "The", _title(about.dose).lower()
            out.append(f"{who} score {told} {what} (Spearman ρ = {rho:.2f} over wells, controls left out).")
    table = about.ranked
    if table is not None and "score_sd" in table and about.dose in table:
        by = (
            table[about.compound].astype(str) if about.compound in table else pd.Series("", index=table.index)
        )
        for name, part in table[table["rank_score_sd"].notna()].groupby(by):
            top = part.loc[part["score_sd"].idxmax()]
            out.append(
                f"{str(name) + ': cells' if name else 'Cells'} of one {group_word} differ most in {top.name} "
                f"({_title(about.dose).lower()} {top[about.dose]:g}; SD of the score {top['score_sd']:.2f}, median of all "
                f"{part['score_sd'].median():.2f})."
            )
    elif table is not None and table["rank_heterogeneity"].notna().any():
        top = table.loc[table["heterogeneity"].where(table["rank_heterogeneity"].notna()).idxmax()]
        words = (
            f"The most heterogeneous {group_word} is {top.name}: the SD of a feature over its cells is "
            f"{top['heterogeneity']:.2f} on average"
        )
        expected, p = top.get("heterogeneity_expected", np.nan), top.get("heterogeneity_p_fdr", np.nan)
        if np.isfinite(expected) and np.isfinite(p):
            sure = "beyond what chance gives" if p <= 0.05 else "which chance gives as well"
            words += (
                f", where as many cells of the references have {expected:.2f}: {sure} ({p_words(p)}, FDR)"
            )
        out.append(f"{words}.")
    share = 1 - len(about.good) / max(len(about.obs), 1)
    if share > 0:
        out.append(f"{share:.0%} of the cells carry a quality flag and were left out.")
    return out


def _done(about: _Subject) -> list[str]:
    project, made = about.project, about.made
    problems = sum(bool(f.problem) for f in project.fields)
    steps = [
        f"{len(project.fields):,} fields of view were read"
        + (f"; {problems} have a problem and were left out." if problems else ".")
    ]
    labelled = next((f.id for f in project.fields if project.has_labels(f.id)), None)
    if labelled:
        how = project.label_info(labelled)
        name = how.get("segmenter", "")
        steps.append(f"{len(about.obs):,} cells were outlined" + (f" (segmenter “{name}”)." if name else "."))
    if "flags" in about.obs:
        n = len(about.obs) - len(about.good)
        steps.append(
            f"Every cell was checked for being cut off, too small, saturated, blurred or empty; {n:,} were flagged."
        )
    for key in embedding_names(project.cells):
        info = made.get(f"X_{key}", {})
        if key != about.embedding and "." in key:
            continue  # other layers of the same network
        dims = project.cells.obsm[f"X_{key}"].shape[1]
        trained = " (untrained, for comparison)" if is_untrained(info) else ""
        steps.append(
            f"Each cell was turned into {dims:,} numbers by “{info.get('model', key)}”{trained}, kept as “{key}”."
        )
    for name, info in made.items():
        if info.get("recipe") and info.get("embedding") == about.embedding and name != f"X_{about.embedding}":
            steps.append(info["summary"])
    return steps


# Provenance that the page keeps for the details at its end: hashes, and lists as long as the vectors.
_LONG = ("features", "digest", "config", "weights", "crop_digest")


def _methods(about: _Subject) -> list[str]:
    project, made = about.project, about.made
    out = []
    labelled = next((f.id for f in project.fields if project.has_labels(f.id)), None)
    if labelled:
        how = {
            k: v for k, v in project.label_info(labelled).items() if k not in ("n_cells", "digest", "image")
        }
        if how:
            out.append(f"Segmentation: {_settings(how)}.")
    info = {k: v for k, v in made.get(f"X_{about.embedding}", {}).items() if k not in _LONG}
    if info:
        out.append(f"Embedding “{about.embedding}”: {_settings(info)}.")
    for m in made.values():
        if m.get("recipe") and m.get("embedding") == about.embedding:
            out.append(
                f"Recipe {m['recipe']}: {_settings(m['options'])}; {m['n_cells']:,} cells, {m['made'][:16].replace('T', ' ')}."
            )
    out.append(
        "Features are z-scored over all usable cells (population SD). The score is "
        "s = ln(|f − µ_A| / |f − µ_B|) with Euclidean distances to the mean features of the two references. "
        "Heterogeneity is the SD of every z-scored feature over the cells of a group, averaged over features. "
        "Unusual cells have a large mean distance to their nearest neighbours, found exactly."
    )
    return out


def _settings(values: Mapping[str, Any]) -> str:
    told = []
    for k, v in values.items():
        if isinstance(v, Mapping):
            told.append(f"{_title(k).lower()} ({_settings(v)})" if v else "")
        elif v is not None and v != "" and v != []:
            told.append(
                f"{_title(k).lower()} {', '.join(map(str, v)) if isinstance(v, (list, tuple)) else v}"
            )
    return "; ".join(t for t in told if t)


def _versions(about: _Subject) -> str:
    from napari_cellrep.steps.analyze import library_versions

    found = library_versions()
    for m in about.made.values():
        found |= m.get("versions", {}) if isinstance(m.get("versions"), dict) else {}
    return ", ".join(f"{k} {v}" for k, v in found.items())


def _shortened(value: Any) -> Any:
    """Provenance without lists of hundreds of entries (feature names)."""
    if isinstance(value, dict):
        return {k: _shortened(v) for k, v in value.items()}
    if isinstance(value, list) and len(value) > 20:
        return [*value[:5], f"… {len(value) - 5} more"]
    return value


def _title(name: str) -> str:
    """A column's name as a person would write it: dose_rank → Dose rank."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
