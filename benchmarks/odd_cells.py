"""The odd cells of the sample: what flags, masked crops, a shift and a second embedding leave of the top 20 per drug.

python benchmarks/odd_cells.py PROJECT --json FILE [--blind FOLDER] [--verdicts CSV]

PROJECT is what ``cellrep demo`` makes. Odd is the mean distance to the ten nearest cells of the same well, by the trained
Paired Cell Inpainting; the top 20 of a drug are the 20 largest among its cells. A top 20 made another way (every cell of
the drug treated alike) is compared with it by how many cells are in both; ``expected`` is what two random draws share.

``--blind FOLDER`` writes pictures for a person to judge without names: the 20 oddest unflagged cells and 20 random
unflagged ones of the same wells, mixed, numbered, and each beside three typical cells of its well; and ``judge.csv`` to be filled
in (real, artefact or unsure, with a reason). ``--verdicts CSV`` takes that table and reports the hit rates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _harness import environment, options, report, row
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from napari_cellrep.analysis.outliers import group_mates, oddness, scale_of
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.crops import Boxes, cut_crops
from napari_cellrep.gui._pictures import Look, compose, default_look
from napari_cellrep.gui.views._queue import blind_round, hit_rate
from napari_cellrep.jobs import drain
from napari_cellrep.models._engine import Embedder
from napari_cellrep.specs import CropSpec
from napari_cellrep.steps.believe import (
    FAILS,
    HOLDS,
    TREATMENTS,
    UNKNOWN,
    believe,
    protein_planes,
    treated_crops,
)
from napari_cellrep.steps.embed import boxes_of
from napari_cellrep.steps.networks import network_of

EMBEDDING, SECOND, TOP, SEED = "paired_cell_inpainting", "measurements", 20, 5
CROP_PX, TILE_PX, GAP_PX = 64, 84, 4


def odd_of(x: np.ndarray, group: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Oddness of every cell within its group, features scaled by the spread of the good ones."""
    mean, sd = scale_of(x, good)
    return oddness(np.asarray((x - mean) / sd), group, good)


def top(odd: np.ndarray, among: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(among & np.isfinite(odd))
    return rows[np.argsort(-odd[rows], kind="stable")[:TOP]]


def treated(project: Project) -> dict[str, np.ndarray]:
    """Vectors of all cells under every treatment, float32, in the table's order."""
    obs, found = project.cells.obs, network_of(project, EMBEDDING)
    proteins = protein_planes(project, found)
    engine = Embedder(found.net, [found.layer], device="cpu", precision="fp32")
    fields = obs["field"].astype(str).to_numpy()
    out: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(fields):
        at = np.flatnonzero(fields == name)
        image, labels, um = project.read_image(name), project.read_labels(name), project.field(name).um_per_px
        for treatment in TREATMENTS:
            crops = treated_crops(image, labels, boxes_of(obs.iloc[at]), found, proteins, um, treatment)
            x = engine.run(crops)[found.layer]
            out.setdefault(treatment, np.full((len(obs), x.shape[1]), np.nan, np.float32))[at] = x
    return out


def stability(project: Project) -> list[dict[str, Any]]:
    cells = project.cells
    obs, good = cells.obs, cells.obs["good"].to_numpy(bool)
    group, drug = pd.factorize(obs["group"])[0], obs["compound"].astype(str).to_numpy()
    own = np.asarray(cells.obsm[f"X_{EMBEDDING}"], np.float32)
    ways = {"embedded again, as it was": "plain", "masked crops": "masked", "structure alone": "structure",
            **{f"shifted 5 px {name}": name for name in TREATMENTS[3:]}}  # fmt: skip
    vectors = treated(project)
    ranked = {words: odd_of(vectors[name], group, good) for words, name in ways.items()}
    ranked["the second embedding (measurements)"] = odd_of(
        np.asarray(cells.obsm[f"X_{SECOND}"], np.float32), group, good
    )
    mean, sd = scale_of(own, good)
    ranked["numbers beyond 4 SD cut off"] = oddness(np.clip((own - mean) / sd, -4, 4), group, good)
    with_flags, naive = odd_of(own, group, good), odd_of(own, group, np.ones(len(obs), bool))
    rows = []
    for name in sorted(set(drug)):
        mine = drug == name
        best, careless = top(with_flags, mine & good), top(naive, mine)
        expected = TOP**2 / int((mine & good).sum())
        more = {"drug": name, "n_good": int((mine & good).sum()), "n_cells": int(mine.sum())}
        rows.append(
            row(f"{name}: flagged among the top {TOP} when flags are ignored", int((~good[careless]).sum()), "cells",
                share_of_flagged=round(float((~good[mine]).mean()), 3), **more)
        )  # fmt: skip
        rows.append(
            row(f"{name}: top {TOP} with flags that also are without", len(np.intersect1d(best, careless)), "cells", **more)
        )  # fmt: skip
        for words, odd in ranked.items():
            rows.append(
                row(f"{name}: of the top {TOP} still there, {words}", len(np.intersect1d(best, top(odd, mine & good))), "cells",
                    expected=round(expected, 2), cell_ids=obs.index[np.intersect1d(best, top(odd, mine & good))].tolist(), **more)
            )  # fmt: skip
    return rows


def doubts(project: Project) -> list[dict[str, Any]]:
    """For how many of the top 20 per drug each claim of `steps.believe` holds (within the cell's own well)."""
    cells = project.cells
    obs, good = cells.obs, cells.obs["good"].to_numpy(bool)
    group, drug = pd.factorize(obs["group"])[0], obs["compound"].astype(str).to_numpy()
    odd = odd_of(np.asarray(cells.obsm[f"X_{EMBEDDING}"], np.float32), group, good)
    rows = []
    for name in sorted(set(drug)):
        counts: dict[str, dict[str, int]] = {}
        for r in top(odd, (drug == name) & good):
            job = believe(project, cell_id=str(obs.index[r]), embedding=EMBEDDING, device="cpu")
            for check in drain(job).checks:
                mine = counts.setdefault(check.claim, {HOLDS: 0, FAILS: 0, UNKNOWN: 0})
                mine[check.verdict] += 1
        rows += [
            row(f"{name}: {claim}", said[HOLDS], "cells", drug=name, does_not_hold=said[FAILS], cannot_be_told=said[UNKNOWN])
            for claim, said in counts.items()
        ]  # fmt: skip
    return rows


# ---- judged by eye -----------------------------------------------------------------------------------


def draw_blind(project: Project, folder: Path, embedding: str) -> None:
    """Pictures of 20 cells each, and the table to fill in; which cell is odd is written nowhere."""
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    for drug, drawn in rounds(project, embedding).items():
        ids = [cell_id for cell_id, _ in drawn]
        for first in range(0, len(ids), TOP):
            sheet(project, ids[first : first + TOP], first).save(folder / f"{drug}-{first // TOP + 1}.png")
        lines += [
            {"embedding": embedding, "drug": drug, "number": i + 1, "verdict": "", "reason": ""}
            for i in range(len(ids))
        ]
    pd.DataFrame(lines).to_csv(folder / "judge.csv", index=False)


def rounds(project: Project, embedding: str) -> dict[str, list[tuple[str, str]]]:
    """(cell id, "odd" or "random") per drug, in the order of the pictures: the same every time."""
    cells = project.cells
    obs, good = cells.obs, cells.obs["good"].to_numpy(bool)
    group, drug = pd.factorize(obs["group"])[0], obs["compound"].astype(str).to_numpy()
    odd = odd_of(np.asarray(cells.obsm[f"X_{embedding}"], np.float32), group, good)
    seed = SEED + 10 * (embedding != EMBEDDING)
    out = {}
    for i, name in enumerate(sorted(set(drug))):
        mine = (drug == name) & good
        drawn = blind_round(top(odd, mine), np.flatnonzero(mine & np.isfinite(odd)), group, seed + i)
        out[name] = [(str(obs.index[r]), kind) for r, kind in drawn]
    return out


def sheet(project: Project, ids: list[str], first: int) -> Image.Image:
    """Each cell in a line: with its outline, bare, its protein, its DNA, and three typical cells of its well."""
    cells = project.cells
    obs, good = cells.obs, cells.obs["good"].to_numpy(bool)
    x = np.asarray(cells.obsm[f"X_{EMBEDDING}"], np.float32)
    mean, sd = scale_of(x, good)
    z = np.asarray((x - mean) / sd)
    group = obs["group"].to_numpy()
    columns, width = 2, 30 + 7 * (TILE_PX + GAP_PX) + 20
    half = -(-len(ids) // columns)
    canvas = Image.new("RGB", (columns * width, half * (TILE_PX + GAP_PX)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, cell_id in enumerate(ids):
        r = int(obs.index.get_loc(cell_id))
        left, upper = (i // half) * width, (i % half) * (TILE_PX + GAP_PX)
        draw.text((left + 4, upper + TILE_PX // 2), str(first + i + 1), fill="black")
        pool = np.flatnonzero(good & (group == group[r]))
        tiles = pictures(project, r, True) + [
            pictures(project, int(m), False)[1] for m in group_mates(z, r, pool, 3)[1]
        ]
        for j, tile in enumerate(tiles):
            at = (left + 30 + j * (TILE_PX + GAP_PX) + 12 * (j > 3), upper)
            canvas.paste(Image.fromarray(tile).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC), at)
    return canvas


def pictures(project: Project, r: int, outline: bool) -> list[np.ndarray]:
    obs = project.cells.obs.iloc[[r]]
    name = str(obs["field"].iloc[0])
    image, labels = project.read_image(name), project.read_labels(name)
    looks = tuple(default_look(c.role, plane) for c, plane in zip(project.channels, image, strict=True))
    both: Boxes = boxes_of(obs)
    crop = cut_crops(image, None, both, CropSpec(size_px=CROP_PX, window_px=CROP_PX))[0]
    mask = cut_crops((labels[None] == both.label[0]).astype(np.uint8), None, both, CropSpec())[0, 0]
    bare = compose(crop, looks)
    marked = bare.copy()
    if outline:
        marked[find_boundaries(mask > 0, mode="outer")] = 255
    grey: list[tuple[Look, ...]] = [(((1.0, 1.0, 1.0), low, high),) for _, low, high in looks]
    return [marked, bare, *(compose(crop[c : c + 1], look) for c, look in enumerate(grey))]


def judged(project: Project, path: Path) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Hit rates per embedding and drug, and over both drugs; and the table with the names put back."""
    table = pd.read_csv(path, keep_default_na=False, dtype={"number": int, "cell_id": str, "drawn": str})
    for column in ("cell_id", "drawn", "rater"):
        if column not in table:
            table[column] = ""
    for embedding in table["embedding"].unique():
        new = (table["embedding"] == embedding) & (table["cell_id"] == "")
        if new.any():  # once: another training draws other cells
            drawn = rounds(project, embedding)
            names = [drawn[d][n - 1] for d, n in zip(table["drug"][new], table["number"][new], strict=True)]
            table.loc[new, "cell_id"], table.loc[new, "drawn"] = (
                [i for i, _ in names],
                [kind for _, kind in names],
            )
            table.loc[new, "rater"] = "AI, from the pictures alone"
    rows = []
    for embedding, own in table.groupby("embedding", sort=False):
        for name in (*own["drug"].unique(), "both drugs"):
            mine = own if name == "both drugs" else own[own["drug"] == name]
            said = {i: {"verdict": v} for i, v in zip(mine["cell_id"], mine["verdict"], strict=True) if v}
            found = hit_rate(dict(zip(mine["cell_id"], mine["drawn"], strict=True)), said)
            counts = mine.groupby(["drawn", "verdict"]).size().unstack(fill_value=0).to_dict("index")
            rows.append(
                row(f"{name}, odd by {embedding}: called real", found.odd_real, "cells", n_odd=found.odd,
                    random_real=found.random_real, n_random=found.random, p=float(f"{found.p:.2g}"), counts=counts,
                    words=found.words)
            )  # fmt: skip
    return rows, table


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("project", type=Path, help="bbbc013.cellrep, as `cellrep demo` makes it")
    parser.add_argument("--blind", type=Path, metavar="FOLDER", help="only draw the pictures to be judged")
    parser.add_argument("--embedding", default=EMBEDDING, help="by which the cells of --blind are odd")
    parser.add_argument("--verdicts", type=Path, metavar="CSV", help="the filled table of --blind")
    args = parser.parse_args()
    project = open_project(args.project)
    if args.blind:
        draw_blind(project, args.blind, args.embedding)
        return
    rows = [] if args.quick else stability(project) + doubts(project)
    if args.verdicts:
        more, table = judged(project, args.verdicts)
        rows += more
        table.to_csv(args.verdicts, index=False, lineterminator="\n")
    report(rows, environment("torch", "scikit-learn"), args.json)


if __name__ == "__main__":
    main()
