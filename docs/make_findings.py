"""Write docs/findings.md and its figures: what the analyses find on real cells whose truth is known.

python docs/make_findings.py PROJECT.cellrep [--shared FOLDER] [--only NAMES]

PROJECT is what ``cellrep demo`` makes. The other sets are in the folder of real images (``CELLREP_SHARED``, else shared/
beside the checkout); a page without its images says so. Every number in the text is put there by this script.
"""

from __future__ import annotations

import argparse
import datetime
import io
import os
import shutil
import tempfile
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage
from scipy.stats import kendalltau, spearmanr
from skimage import io as images
from skimage.filters import threshold_otsu

from napari_cellrep.analysis import comparison, information, mixtures, projection
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.specs import CropSpec, p_words
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import CHANNELS
from napari_cellrep.steps.segment import segment

DOCS = Path(__file__).parent
EMBEDDING = "paired_cell_inpainting"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
PHASES = ("G1", "S_phase", "G2", "Prophase", "Metaphase", "Anaphase", "Telophase")
PLATEAUS = (0.15, 0.85)  # of the way from the undosed to the fully dosed wells: between is the flank


def figure(fig: Any, name: str, words: str) -> str:
    """Save a figure small, and the line that shows it."""
    path = DOCS / "images" / f"findings-{name}.png"
    fig.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(fig)
    from PIL import Image

    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    return f"![{words}](images/{path.name})"


def features(net: Any, crops: np.ndarray, layer: str = "") -> Any:
    """Vectors of crops: of one layer, or of all as a dict."""
    engine = Embedder(net, layers=net.layers if layer == "all" else (), precision="fp32")
    found = engine.run(crops)
    return found if layer == "all" else found[engine.layers[0]]


# ---- bbbc013: a dose makes cells differ --------------------------------------------------------------


def ranked(project: Project) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Wells with the mean and the SD of the score, what is expected of it, and the plate's quality."""
    scored = drain(analyze(project, recipe="score", embedding=EMBEDDING))
    found = drain(analyze(project, recipe="variability", embedding=EMBEDDING, by="well"))
    table = found.table
    obs = project.cells.obs.groupby("well", observed=True)[["compound", "dose_rank", "control"]].first()
    return table.drop(columns=[c for c in obs if c in table]).join(obs), scored.numbers["assay"]


def bbbc013(source: Path, shared: Path | None, folder: Path) -> str:
    """A dose: score, spread against as many undosed cells, Z′ and V."""
    copy = folder / "bbbc013.cellrep"
    shutil.copytree(source, copy)
    table, _ = ranked(open_project(copy))
    text = [
        "U2OS cells with FKHR-GFP, which two drugs drive into the nucleus. Paired Cell Inpainting was "
        "trained on these 24 wells by "
        "`cellrep demo`; every cell is placed between the untreated (−) and the fully treated wells (+) of its own drug.",
        "",
        "| drug | Spearman of a well's mean score with the dose | highest SD at dose rank | there the "
        "mean is on the way from − to + | "
        "wells that vary more than as many undosed cells (p ≤ 0.05, FDR): flank | plateaus |",
        "|---|---|---|---|---|---|",
    ]
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.1))
    peaks, beyond = [], np.zeros(2, int)
    for colour, (drug, own) in zip(COLOURS, table.groupby("compound", observed=True), strict=False):
        own = own.sort_values("dose_rank")
        dose = own["dose_rank"].astype(float)
        low, high = (float(own.loc[own["control"] == c, "score_mean"].mean()) for c in (-1, 1))
        way = (own["score_mean"] - low) / (high - low)
        flank = way.between(*PLATEAUS)
        sure = own["score_sd_p_fdr"] <= 0.05
        top = own["score_sd"].idxmax()
        peaks.append(bool(flank[top]))
        beyond += int((sure & ~flank).sum()), int((~flank).sum())
        rho = spearmanr(dose, own["score_mean"]).statistic
        text.append(
            f"| {drug} | {rho:.3f} | {dose[top]:.0f} | {way[top]:.0%} | {int((sure & flank).sum())} of {int(flank.sum())} | "
            f"{int((sure & ~flank).sum())} of {int((~flank).sum())} |"
        )
        axes[0].plot(dose, own["score_mean"], "o", color=colour, label=drug)
        axes[1].plot(dose, own["score_sd"], "o-", color=colour, label=drug, lw=1)
        axes[1].plot(dose, own["score_sd_expected"], "--", color=colour, lw=1)
    axes[0].set(xlabel="dose rank", ylabel="mean log-ratio score of a well")
    axes[1].set(xlabel="dose rank", ylabel="SD of the score in a well")
    axes[1].plot([], [], "--", color="grey", label="as many undosed cells")
    axes[1].set_ylim(0, 1.35 * table["score_sd"].max())  # room for the words
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    fig.tight_layout()
    text += ["", figure(fig, "bbbc013", "Score and its spread against dose, for two drugs"), ""]
    text.append(
        "**What came out:** the score follows the dose, and "
        + ("for both drugs" if all(peaks) else "for one drug" if any(peaks) else "for neither drug")
        + " the cells of a well differ most between the plateaus, where some have moved their protein and others not. Of the "
        f"wells on the plateaus {beyond[0]} of {beyond[1]} vary more than undosed cells too: a p-value alone does not find the "
        "flank, the ranking does."
    )
    if shared is None:
        return "\n".join(
            [
                *text,
                "",
                "Z′ and V need wells that are repeated: not made, the folder of real images is not there.",
            ]
        )
    wells = shared / "data" / "bbbc013"
    project = drain(
        import_fields(folder / "all.cellrep", [wells / "wells"], channels=CHANNELS, metadata=wells / "plate.csv",
                      pattern=r"(?P<well>[A-H]\d\d)\.ome\.tif", group_by=("well",))
    )  # fmt: skip
    found = open_project(copy)
    known = {str(f.metadata.get("well")): f.id for f in found.fields}
    rest = []
    for field in project.fields:
        same = known.get(str(field.metadata.get("well")))
        if same is None:
            rest.append(field.id)
        else:  # the demo has found the nuclei of these images
            project.write_labels(
                field.id, found.read_labels(same), {"segmenter": "nuclei, as the demo found them"}
            )
    drain(segment(project, fields=rest))
    drain(crop(project))
    drain(embed(project, model=str(copy / "models" / EMBEDDING), key=EMBEDDING))
    whole, assay = ranked(open_project(project.root))
    text += [
        "",
        f"Z′ and V of the {len(whole)} wells of rows A, C, E and G (each dose of a drug in two wells; "
        f"the network has seen rows A and "
        "E only). V takes the spread of all doses, Z′ that of the controls; above 0.5 is called excellent.",
        "",
        "| wells | Z′ | V | control wells − / + | doses with two wells | Spearman with the dose |",
        "|---|---|---|---|---|---|",
    ]
    said = []
    for name, found in assay.items():
        own = whole if name not in set(whole["compound"]) else whole[whole["compound"] == name]
        rho = spearmanr(own["dose_rank"].astype(float), own["score_mean"]).statistic
        z, v = (found[k] for k in ("z_prime", "v_factor"))
        said += [f"{v:.2f}"] if v is not None and name in set(whole["compound"]) else []
        text.append(
            f"| {name} | {'–' if z is None else f'{z:.2f}'} | {'–' if v is None else f'{v:.2f}'} | {found['n_negative']} / "
            f"{found['n_positive']} | {found['n_doses']} | {rho:.3f} |"
        )
    good = all(float(v) > 0.5 for v in said)
    text += [
        "",
        f"**What came out:** V is {' and '.join(said)} for the two drugs, which is "
        f"{'' if good else 'not '}excellent for both.",
    ]
    return "\n".join(text)


# ---- duloc_hpa: how much of two places ---------------------------------------------------------------


def duloc(_source: Path, shared: Path | None, _folder: Path) -> str:
    """Mixtures of two patterns: estimated against true share."""
    if shared is None:
        return MISSING
    folder = shared / "data" / "duloc_hpa"
    table = pd.read_csv(folder / "labels.csv")
    rows, kept = [], {"measurements": [], "pci-starter": []}
    measure = create_model("measurements", channels=("protein", "nucleus", "microtubules", "er"))
    starter = load_model("pci-starter")
    for _, line in table.iterrows():
        planes = np.stack(
            [
                images.imread(folder / "images" / f"{line['id']}_{c}.jpg")
                for c in ("green", "blue", "red", "yellow")
            ]
        )
        planes = planes if planes.ndim == 3 else planes.max(axis=-1)
        small = planes.reshape(4, 384, 4, 384, 4).mean(axis=(2, 4))
        body = ndimage.gaussian_filter(small.max(axis=0), 2)
        labels, n = ndimage.label(ndimage.binary_fill_holes(body > 8))
        area = ndimage.sum_labels(np.ones_like(body), labels, np.arange(1, n + 1))
        large = 1 + np.flatnonzero(area > 1500)
        labels = np.where(np.isin(labels, large), labels, 0).astype(np.int32)
        cells = find_cells(labels)
        spec = CropSpec(size_px=128, window_px=128, mask_plane=True)
        crops = cut_crops(small.astype(np.float32), labels, cells, spec)
        shares = dict(part.split("=") for part in line["fractions"].split(";"))
        truth = float(shares.get("nucleoplasm", 0))
        other = next((name for name in shares if name != "nucleoplasm"), "")
        rows += [(line["combination"], line["id"], truth, other)] * len(crops)
        kept["measurements"].append(features(measure, crops))
        half = crops[:, :2].reshape(len(crops), 2, 64, 2, 64, 2).mean(axis=(3, 5))
        kept["pci-starter"].append(features(starter, half))
    cells = pd.DataFrame(rows, columns=["combination", "image", "truth", "other"])
    other = cells[cells["other"] != ""].groupby("combination")["other"].first()
    text = [
        f"Cells of the Human Protein Atlas whose green channel is a known mixture of two patterns "
        f"(semi-synthetic: cells real, mixing by "
        f"the data's authors): {len(table)} images, {len(cells)} cells. Each cell is placed on the line "
        f"from the mean of the pure other "
        "pattern (0) to that of pure nucleoplasm (1). Features: our measurements in the cell's mask (no learning), and the "
        "starter weights of Paired Cell Inpainting that come with the package (protein and nucleus, "
        "learned on U2OS cells of other "
        "sets); a quarter of the images' resolution.",
        "",
        "| mixture | features | mean estimate at 0.25 | 0.5 | 0.75 | Spearman, cells | mean absolute error, cells | images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fig, axes = plt.subplots(1, len(other), figsize=(9, 3.1), sharey=True)
    errors: dict[str, list[float]] = {}
    orders: dict[str, list[float]] = {}
    for axis, (combination, name) in zip(np.atleast_1d(axes), other.items(), strict=True):
        for j, (kind, parts) in enumerate(kept.items()):
            own = (cells["combination"] == combination).to_numpy()
            z = projection.z_score(np.concatenate(parts)[own])
            truth = cells.loc[own, "truth"].to_numpy()
            found = mixtures.mixing_fraction(z, truth == 0, truth == 1)
            mixed = (truth > 0) & (truth < 1)
            each = [found[truth == t].mean() for t in (0.25, 0.5, 0.75)]
            of_images = pd.Series(found).groupby(cells.loc[own, "image"].to_numpy()).mean()
            known = pd.Series(truth).groupby(cells.loc[own, "image"].to_numpy()).first()
            error = float(np.abs(found - truth)[mixed].mean())
            errors.setdefault(kind, []).append(error)
            orders.setdefault(kind, []).append(float(spearmanr(truth[mixed], found[mixed]).statistic))
            text.append(
                f"| {name} + nucleoplasm | {kind} | {each[0]:.2f} | {each[1]:.2f} | {each[2]:.2f} | "
                f"{orders[kind][-1]:.2f} | {error:.2f} | "
                f"{float(np.abs(of_images - known)[(known > 0) & (known < 1)].mean()):.2f} |"
            )
            shift = (j - 0.5) * 0.04
            axis.plot(truth + shift, found, ".", color=COLOURS[j], ms=3, alpha=0.5)
            axis.plot(known + shift, of_images, "_", color=COLOURS[j], ms=14, mew=2, label=kind)
        axis.plot([0, 1], [0, 1], ":", color="grey", lw=1)
        axis.set(title=f"{name} + nucleoplasm", xlabel="true share of nucleoplasm", ylim=(-1, 2))
        axis.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("estimated share")
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=7)
    blind = float(np.mean([abs(t - 0.5) for t in (0.25, 0.5, 0.75)]))
    told = "; ".join(f"{kind} {min(e):.2f} to {max(e):.2f}" for kind, e in errors.items())
    order = "; ".join(f"{kind} {min(r):.2f} to {max(r):.2f}" for kind, r in orders.items())
    better = [kind for kind, e in errors.items() if np.mean(e) < blind]
    by = f"told by {' and '.join(better)} at best" if better else "not told"
    text += ["", figure(fig, "duloc", "Estimated against true share of nucleoplasm in three mixtures"), ""]
    text.append(
        f"**What came out:** estimates of mixed cells follow the truth in their order (Spearman {order}), but the share of a "
        f"single cell is {by}: mean absolute error {told}, where "
        f"saying 0.5 of every cell would be {blind:.2f} off. Means over the cells of an image are nearer (last column)."
    )
    return "\n".join(text)


# ---- jurkat_cellcycle: order of phases ---------------------------------------------------------------


def jurkat(_source: Path, shared: Path | None, _folder: Path) -> str:
    """Seven phases of the cell cycle: their order by pseudotime."""
    if shared is None:
        return MISSING
    with np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz") as z:
        planes, label = z["images"], z["label"]
    crops = np.pad(planes, ((0, 0), (0, 0), (12, 12), (12, 12)), mode="edge").astype(np.float32)
    masks = np.stack([_middle(c[1]) for c in crops])
    net = create_model("measurements", channels=("nucleus", "brightfield", "other"))
    x = features(net, np.concatenate([crops[:, [1, 0, 2]], masks[:, None].astype(np.float32)], axis=1))
    fine = np.isfinite(x).all(axis=1)
    x, label = x[fine], label[fine]
    order = np.array([PHASES.index(p) for p in label])
    plain = np.array([n.startswith("cell.") or not n.endswith("px") for n in net.feature_names()])
    kinds = {"all": x, "intensities and shape": x[:, plain]}
    names = [p.removesuffix("_phase") for p in PHASES]
    text = [
        f"{len(label):,} Jurkat cells from imaging flow cytometry, sorted by hand into seven phases. Features: our "
        "measurements of DNA, brightfield and darkfield inside the outline of the DNA (no learning), all of them or without the "
        "textures; 50 principal components; diffusion pseudotime over 15 neighbours from the G1 cell nearest to the "
        "mean of G1. The "
        "phases are used for nothing but the root. The set without textures was tried after all of them had told little, with "
        "the phases in view: its numbers are the better of two tries, not what to expect of other data.",
        "",
        "| median place in the order (0 first, 1 last) | "
        + " | ".join(names)
        + " | τ, all phases | τ, G1 S G2 |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    said, taus = [], []
    for axis, (kind, own) in zip(axes, kinds.items(), strict=True):
        scores, _ = projection.pca(projection.z_score(own), 50)
        root = information.central_cell(scores, np.flatnonzero(label == "G1"))
        when = information.diffusion_pseudotime(scores, root).time
        known = np.isfinite(when)
        place = np.full(len(label), np.nan)
        place[known] = np.argsort(np.argsort(when[known])) / known.sum()
        middle = [float(np.nanmedian(place[order == i])) for i in range(len(PHASES))]
        inter = known & (order < 3)
        taus.append(
            (
                kendalltau(order[known], when[known]).statistic,
                kendalltau(order[inter], when[inter]).statistic,
            )
        )
        text.append(
            f"| {kind} ({own.shape[1]}) | " + " | ".join(f"{m:.2f}" for m in middle)
            + f" | {taus[-1][0]:.2f} | {taus[-1][1]:.2f} |"
        )  # fmt: skip
        right = [a < b for a, b in pairwise(middle)]
        wrong = [f"{a} and {b}" for (a, b), ok in zip(pairwise(names), right, strict=True) if not ok]
        said.append(
            f"{kind}: {sum(right)} of {len(right)} neighbouring phases in their order"
            + (f" (not {', '.join(wrong)})" if wrong else "")
            + (f", {int((~known).sum())} cells without a path to the root" if not known.all() else "")
        )
        axis.boxplot(
            [place[(order == i) & known] for i in range(len(PHASES))],
            showfliers=False,
            widths=0.6,
            medianprops={"color": COLOURS[1]},
        )
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xticks(
            range(1, 8),
            [f"{n.removesuffix('phase')}\n{int((order == i).sum())}" for i, n in enumerate(names)],
        )
        axis.set_title(kind, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of cells with less pseudotime")
    dna = (crops[:, 1] * masks).sum(axis=(1, 2))[fine]
    tau_dna = kendalltau(order[order < 3], dna[order < 3]).statistic
    best = max(t for t, _ in taus)
    return "\n".join(
        [
            *text,
            "",
            figure(fig, "jurkat", "Place in the order by pseudotime of the cells of each phase"),
            "",
            f"**What came out:** {'; '.join(said)}. Kendall's τ of single cells with the order is {best:.2f} at best, and within "
            f"G1, S and G2, where the amount of DNA alone gives {tau_dna:.2f}, {max(t for _, t in taus):.2f}: "
            + (
                f"the order of the cycle is found from {list(kinds)[int(np.argmax(taus, axis=0)[0])]}. Of telophase "
                "the outline holds one of two daughter nuclei, which is small again."
                if best > 0.5
                else "the order is found in part only. What these features differ by most is not the phase, and pseudotime "
                "does not replace sorting or a number that is known to grow."
            ),
        ]
    )


def _middle(marker: np.ndarray) -> np.ndarray:
    """The bright piece in the middle of a crop."""
    smooth = ndimage.gaussian_filter(marker.astype(float), 1)
    pieces, n = ndimage.label(smooth > threshold_otsu(smooth))
    middle = pieces[pieces.shape[0] // 2, pieces.shape[1] // 2]
    if not middle and n:
        middle = 1 + np.argmax(ndimage.sum_labels(np.ones_like(smooth), pieces, np.arange(1, n + 1)))
    return pieces == middle


# ---- pci_yeast: layer by layer -----------------------------------------------------------------------


def yeast(_source: Path, shared: Path | None, _folder: Path) -> str:
    """Three proteins: what each layer knows."""
    if shared is None:
        return MISSING
    folder = shared / "data" / "pci_yeast"
    table = pd.read_csv(folder / "index.csv")
    with zipfile.ZipFile(folder / "crops.zip") as z:
        crops = np.stack(
            [
                np.stack([tifffile.imread(io.BytesIO(z.read(line[c]))) for c in ("gfp", "rfp")])
                for _, line in table.iterrows()
            ]
        )
    masks = np.stack([_middle(c[1]) for c in crops])
    starter = load_model("pci-starter")
    import torch

    torch.manual_seed(0)
    random = create_model(
        "paired_cell_inpainting", width=starter.config.width, n_structure=starter.config.n_structure
    )
    found = {f"starter, {k}": v for k, v in features(starter, crops, "all").items()}
    found |= {f"random weights, {k}": v for k, v in features(random, crops, "all").items()}
    measure = create_model("measurements", channels=("protein", "structure"))
    found["measurements"] = features(
        measure, np.concatenate([crops, masks[:, None].astype(crops.dtype)], axis=1)
    )
    part = (table["protein"] + " " + table["field"].astype(str)).to_numpy()
    made = comparison.compare(found, table["protein"].to_numpy(), part, kind="knn", k=11)
    rows = {r["embedding"]: r for r in made.rows}
    text = [
        f"{made.n_cells} budding-yeast cells of three proteins, in {made.n_parts} images (three of each "
        f"protein). Balanced accuracy of "
        "the vote of the 11 nearest cells of other images, features z-scored; intervals (95 %) by "
        "drawing images again. Network: the "
        "starter weights of Paired Cell Inpainting that come with the package, an eighth of the paper's "
        "width and learned on human U2OS "
        "cells, not on yeast; beside it the same network with random weights, and the measurements in the cell's outline.",
        "",
        "| layer | features | starter weights | random weights |",
        "|---|---|---|---|",
    ]
    layers = sorted(k.removeprefix("starter, ") for k in found if k.startswith("starter, "))

    def said(name: str) -> str:
        r = rows[name]
        return f"{r['balanced_accuracy']:.1%} ({r['low']:.0%}–{r['high']:.0%})"

    for k in layers:
        text.append(
            f"| {k} | {rows[f'starter, {k}']['n_features']} | {said(f'starter, {k}')} | {said(f'random weights, {k}')} |"
        )
    text.append(f"| measurements | {rows['measurements']['n_features']} | {said('measurements')} | |")
    fig, axis = plt.subplots(figsize=(6.2, 3))
    for j, kind in enumerate(("starter", "random weights")):
        own = [rows[f"{kind}, {k}"] for k in layers]
        centre = np.array([r["balanced_accuracy"] for r in own])
        ends = [centre - [r["low"] for r in own], [r["high"] for r in own] - centre]
        at = np.arange(len(layers)) + 0.1 * j
        axis.errorbar(at, centre, np.maximum(ends, 0), fmt="o", color=COLOURS[j], label=kind, capsize=3)
    axis.axhline(
        rows["measurements"]["balanced_accuracy"], color=COLOURS[2], lw=1, ls="--", label="measurements"
    )
    axis.axhline(1 / 3, color="grey", lw=1, ls=":", label="by chance")
    axis.set_xticks(range(len(layers)), layers)
    axis.set_ylabel("balanced accuracy (k-NN)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    best = max(layers, key=lambda k: rows[f"starter, {k}"]["balanced_accuracy"])
    value, other = (
        rows[f"starter, {best}"]["balanced_accuracy"],
        rows[f"random weights, {best}"]["balanced_accuracy"],
    )
    plain = rows["measurements"]["balanced_accuracy"]
    p = {frozenset((q["better"], q["worse"])): q["p"] for q in made.pairs}
    mine = [rows[f"starter, {k}"] for k in layers]
    overlap = max(r["low"] for r in mine) < min(r["high"] for r in mine)
    told = p[frozenset((f"starter, {best}", f"random weights, {best}"))]
    text += [
        "",
        figure(fig, "yeast", "k-NN accuracy of every layer"),
        "",
        f"**What came out:** the starter weights know most at {best} ({value:.1%}), {'more' if value > other else 'not more'} "
        f"than random weights there ({other:.1%}, {p_words(told)}) and {'more' if value > plain else 'less'} than the "
        f"measurements ({plain:.1%}). The paper's best layer, trained on yeast and asked for 17 classes, is conv4 (87.98 %). "
        + ("It is conv4 here too" if best.startswith("conv4") else f"Here it is {best}")
        + (
            "; the intervals of all layers overlap, so nine images do not tell one layer from the next."
            if overlap
            else ", and the intervals of some layers are apart."
        ),
    ]
    return "\n".join(text)


MISSING = "Not made: the folder of real images (`CELLREP_SHARED`) is not there."
PAGES = {
    "bbbc013": ("A dose, and the cells between", bbbc013),
    "duloc": ("How much of two places", duloc),
    "jurkat": ("The order of the cell cycle", jurkat),
    "yeast": ("Layer by layer", yeast),
}


def main() -> None:
    """Make the pages asked for; the others stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="what cellrep demo makes (bbbc013.cellrep)")
    parser.add_argument(
        "--shared", type=Path, default=Path(os.environ.get("CELLREP_SHARED", DOCS.parents[1] / "shared"))
    )
    parser.add_argument("--only", default=",".join(PAGES), help="names with commas between")
    args = parser.parse_args()
    shared = args.shared if (args.shared / "data").is_dir() else None
    made: dict[str, str] = {}
    for name in args.only.split(","):
        title, page = PAGES[name]
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made[title] = (
                f"## {title}\n\n`{name}`, {datetime.date.today()}. {page(args.project, shared, Path(folder))}"
            )
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    path = DOCS / "findings.md"
    old = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else []
    made = {part.splitlines()[0]: "## " + part.rstrip() for part in old[1:]} | made
    head = (
        "# Findings on cells whose truth is known\n\nMade by `python docs/make_findings.py "
        "PROJECT.cellrep`, PROJECT being what `cellrep "
        "demo` makes: run it and every number and figure here is made again. Pixels of these sets are "
        "not shown. What each analysis "
        "computes is in [analyses.md](analyses.md)."
    )
    parts = [made[title] for title, _ in PAGES.values() if title in made]
    path.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
