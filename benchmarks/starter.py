"""The starter weights that come with the package: made here from images that may be shared, scored, written in half precision.

python benchmarks/starter.py --out src/napari_cellrep/weights --json FILE [--only NAMES] [--minutes 25]

Learned from: rows C and G of BBBC013 (CC BY 3.0, Ilya Ravkin), and one field each of JUMP Cell Painting and of BBBC022
(both CC0), every stain beside the DNA as a protein, shrunk until their nuclei are as large as those of BBBC013. Nothing else.

Scored on rows A and E of BBBC013, which are the bundled sample and were not learned from: each cell is told by its 11
nearest neighbours among the cells of rows C and G, the numbers z-scored. Balanced accuracy of three tasks (which control;
untreated, middle or full dose; which of eleven dose ranks), and Spearman's rank correlation of the wells' mean told dose
with the dose, per drug. Beside it in the same run: the network before it learned, and the measurements.

With the same seed, cells and number of steps it learns the same on a CPU; how many steps fit into the minutes differs.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import functools
import json
import os
import pickle
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from _harness import environment, epochs_that_fit, options, report, row
from scipy.stats import spearmanr
from skimage.transform import rescale
from sklearn.neighbors import NearestNeighbors

from napari_cellrep import registry
from napari_cellrep.data.crops import Boxes, cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import EmbeddingModel, create_model, load_model, save_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._learner import knn_accuracy
from napari_cellrep.models._published import list_published
from napari_cellrep.models._train import train
from napari_cellrep.segmenters import nuclei
from napari_cellrep.specs import Channel, CropSpec, digest, make_config
from napari_cellrep.steps.train import preset_values

CHANNELS = (Channel("protein", "protein"), Channel("DNA", "nucleus"))
LEARNED_ROWS, SCORED_ROWS = "CG", "AE"
K, SEED = 11, 0
OUT = -9  # of a cell that a task is not about
# Which are made, and what their training has beside the preset "small".
STARTERS = {
    "pci-starter": {"patience": 0},
    "dino-starter": {
        "patience": 0, "keep": "last", "learning_rate": 4e-3, "n_local": 2, "out_dim": 1024, "hidden_dim": 256,
        "bottleneck_dim": 64, "warmup_epochs": 1,
    },
}  # fmt: skip


# ---- the cells -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One image of a protein and DNA, its whole cells, and what is known of them."""

    name: str
    image: np.ndarray  # (2, H, W) uint8
    labels: np.ndarray
    cells: Boxes
    dose: int = -1
    drug: str = ""
    control: int = 0


class FieldCells:
    """The cells of some fields as the training loop wants them; every field is a group."""

    def __init__(self, fields: list[Field], spec: CropSpec):
        self._fields, self._spec = fields, spec
        self.fields = self.groups = np.repeat(np.arange(len(fields)), [len(f.cells) for f in fields])
        self._place = np.concatenate([np.arange(len(f.cells)) for f in fields])

    def __len__(self) -> int:
        return len(self._place)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops (B, C, S, S) of some rows."""
        parts, order = [], []
        for f in np.unique(self.fields[rows]):
            at = np.flatnonzero(self.fields[rows] == f)
            field = self._fields[f]
            labels = field.labels if self._spec.masked or self._spec.mask_plane else None
            cells = some(field.cells, self._place[rows[at]])
            parts.append(cut_crops(field.image, labels, cells, self._spec))
            order.append(at)
        out = np.concatenate(parts)
        back = np.empty_like(out)
        back[np.concatenate(order)] = out
        return back

    def told(self, what: str) -> np.ndarray:
        """A field's attribute, for each cell."""
        return np.array([getattr(f, what) for f in self._fields])[self.fields]


def some(cells: Boxes, rows: np.ndarray) -> Boxes:
    return Boxes(*(getattr(cells, f.name)[rows] for f in dataclasses.fields(Boxes)))


def make_field(name: str, image: np.ndarray, **known: Any) -> Field:
    """Find the nuclei and keep those that the image's edge does not cut."""
    labels = nuclei.segment(image, CHANNELS, nuclei.Config(drop_border=True))
    return Field(name, image, labels, find_cells(labels), **known)


def plate(shared: Path, rows: str, quick: bool, work: Path) -> list[Field]:
    """Wells of BBBC013; what was found in them is kept in `work`, because it takes minutes."""
    kept = work / f"wells-{rows}{'-quick' * quick}.pickle"
    if kept.is_file():
        return pickle.loads(kept.read_bytes())
    folder, fields = shared / "data" / "bbbc013", []
    with (folder / "plate.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["row"] not in rows or (quick and int(line["col"]) % 2):
                continue
            image = tifffile.imread(folder / "wells" / f"{line['well']}.ome.tif")
            known = {
                "dose": int(line["dose_rank"]),
                "drug": line["compound"],
                "control": int(line["control"]),
            }
            fields.append(make_field(f"BBBC013 {line['well']}", image, **known))
    work.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(fields))
    part.replace(kept)
    return fields


def others(shared: Path, diameter_px: float) -> list[Field]:
    """The fields of JUMP and BBBC022, once for each stain beside the DNA, with nuclei of a diameter, in 8 bits."""
    data, fields = shared / "data", []
    for name, path, dna, stains in (
        ("JUMP", data / "jump_cellpainting" / "BR00117006_r01c01f01_ch2-3-5.ome.tif", 2, {"ch2": 0, "ch3": 1}),
        ("BBBC022", data / "misc_small" / "bbbc022_IXMtest_A02_s9_crop.ome.tif", 0, {"ER": 1, "RNA": 2}),
    ):  # fmt: skip
        image = tifffile.imread(path).astype(np.float32)
        found = find_cells(nuclei.segment(image[[dna, dna]], CHANNELS, nuclei.Config(drop_border=True)))
        image = rescale(image, diameter_px / diameter(found), channel_axis=0, anti_aliasing=True)
        low, high = np.percentile(image, [0.1, 99.9], axis=(1, 2), keepdims=True)
        image = (255 * np.clip((image - low) / (high - low), 0, 1)).round().astype(np.uint8)
        fields += [make_field(f"{name} {stain}", image[[at, dna]]) for stain, at in stains.items()]
    return fields


def diameter(cells: Boxes) -> float:
    return float(np.sqrt(4 / np.pi * np.median(cells.area_px)))


# ---- what vectors tell -----------------------------------------------------------------------------


def describe(model: EmbeddingModel, fields: list[Field]) -> np.ndarray:
    """Vectors of all cells of some fields."""
    cells, engine = FieldCells(fields, model.crop), Embedder(model)
    parts = np.array_split(np.arange(len(cells)), max(1, len(cells) // 256))
    return np.concatenate([engine.run(cells.crops(part))[engine.layers[0]] for part in parts])


def score(model: EmbeddingModel, learned: list[Field], asked: list[Field]) -> dict[str, float]:
    """What 11 neighbours among the cells of `learned` say of the cells of `asked`."""
    known, new = (describe(model, fields) for fields in (learned, asked))
    a, b = (FieldCells(fields, model.crop) for fields in (learned, asked))
    (dose_a, dose_b), (control_a, control_b) = ((a.told(what), b.told(what)) for what in ("dose", "control"))

    def kinds(dose: np.ndarray, control: np.ndarray) -> np.ndarray:
        middle = (control == 0) & (dose >= 3) & (dose <= 6)
        return np.select([control == -1, middle, control == 1], [0, 1, 2], OUT)

    found = {}
    for name, of_a, of_b in (
        ("which control", *(np.where(c, c, OUT) for c in (control_a, control_b))),
        ("untreated, middle or full dose", kinds(dose_a, control_a), kinds(dose_b, control_b)),
        ("which of 11 doses", dose_a, dose_b),
    ):
        use_a, use_b = of_a != OUT, of_b != OUT
        found[name] = knn_accuracy(new[use_b], of_b[use_b], known[use_a], of_a[use_a])
    mean, sd = known.mean(axis=0), known.std(axis=0)
    z, z_new = ((x - mean) / np.where(sd > 0, sd, 1) for x in (known, new))
    near = NearestNeighbors(n_neighbors=K).fit(z).kneighbors(z_new, return_distance=False)
    told = dose_a[near].mean(axis=1)
    for drug in np.unique(b.told("drug")):
        wells = [(f.dose, told[b.fields == i].mean()) for i, f in enumerate(asked) if f.drug == drug]
        found[f"Spearman, {drug}"] = float(spearmanr(*zip(*wells, strict=True)).statistic)
    return found


# ---- making them -----------------------------------------------------------------------------------


def make(
    name: str, learned: list[Field], out: Path, work: Path, minutes: float, epochs: int = 0
) -> tuple[EmbeddingModel, EmbeddingModel, dict[str, Any]]:
    """Train one network for about so long and write it; what it was before, what it is, and what was said of it."""
    spec, weights = list_published()[name]
    module = registry.load("models", spec.name)
    torch.manual_seed(SEED)
    net = create_model(spec.name, **weights.config)
    net.roles = weights.roles
    net.crop = dataclasses.replace(net.crop, channels=net.roles)
    before = copy.deepcopy(net)
    values = {**preset_values(spec, "small"), **STARTERS[name], "seed": SEED}
    training = make_config(module.Training, values)
    cells = FieldCells(learned, net.training_crop(training))
    epochs = epochs or max(3, epochs_that_fit(net, cells, training, 60 * minutes / 1.1))
    training = dataclasses.replace(training, epochs=epochs, max_seconds=60 * minutes * 1.25)
    data = digest([[f.name, len(f.cells), int(f.image.astype(np.int64).sum())] for f in learned])
    print(f"{name}: {len(cells):,} cells, {epochs} epochs", flush=True)
    said = functools.partial(print_now, name, time.monotonic())
    result = drain(train(net, cells, training, work / name, precision="fp32", card={"data": data}), said)
    trained = load_model(work / name)
    torch.set_grad_enabled(True)
    trained.card.update(
        starting_point=True,
        trained_on=f"{len(cells):,} cells: " + "; ".join(
            f"{words} ({sum(len(f.cells) for f in learned if f.name.startswith(words.split(',')[0])):,} cells)"
            for words in ("BBBC013, rows C and G", "JUMP, one field of BR00117006, ch2 and ch3 as proteins",
                          "BBBC022, part of one field, ER and RNA as proteins")
        ),
        licence=weights.licence, channels=[c.name for c in CHANNELS], made_by="benchmarks/starter.py",
    )  # fmt: skip
    save_model(copy.deepcopy(trained).half(), out / name)
    return before, load_model(out / name), result


def print_now(name: str, began: float, at: Any) -> None:
    """A line every fiftieth step."""
    if at.metrics and at.done % 50 == 0:
        told = ", ".join(
            f"{k} {v:.4g}" for k, v in at.metrics.items() if k in ("loss", "val_loss", "val_knn", "val_rank")
        )
        print(f"{name} {time.monotonic() - began:6.0f} s, step {at.done} of {at.total}: {told}", flush=True)


def main() -> None:
    """Run it."""
    parser = options(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder that gets a folder for each")
    parser.add_argument("--only", default=",".join(STARTERS), help="which, with commas between")
    parser.add_argument("--minutes", type=float, default=30, help="of training, for each (default 30)")
    parser.add_argument("--epochs", type=int, default=0, help="instead of as many as fit into the time")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "cellrep-starter", help="what is kept"
    )
    args = parser.parse_args()
    minutes = 0.3 if args.quick else args.minutes
    wells = plate(args.shared, LEARNED_ROWS, args.quick, args.work)
    size_px = diameter(find_cells(wells[0].labels))
    learned = [*wells, *others(args.shared, size_px)]
    made = {
        name: make(name, learned, args.out, args.work, minutes, args.epochs) for name in args.only.split(",")
    }
    asked = plate(args.shared, SCORED_ROWS, args.quick, args.work)
    rows = []
    measured = create_model("measurements", channels=("protein", "nucleus"))
    kept = args.work / f"measured{'-quick' * args.quick}.json"
    if not kept.is_file():
        kept.write_text(json.dumps(score(measured, wells, asked)))
    baseline = json.loads(kept.read_text())
    for name, (before, trained, result) in made.items():
        found, untrained = (score(net, wells, asked) for net in (trained, before))
        card = args.out / name / "model.json"
        info = json.loads(card.read_text(encoding="utf-8"))
        info["scores"] = {
            "how": "balanced accuracy of 11 neighbours, and rank correlation of the wells' told dose; cells of rows A and E "
            "of BBBC013 (not learned from) by those of rows C and G",
            "trained": found, "untrained": untrained, "measurements": baseline,
        }  # fmt: skip
        card.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        bytes_ = (args.out / name / "weights.safetensors").stat().st_size
        how = {"steps": result["step"], "epochs": result["epoch"], "best_epoch": result.get("best_epoch"),
               "seconds": result["seconds"], "learned_from": sum(len(f.cells) for f in learned)}  # fmt: skip
        for task, value in found.items():
            more = {"untrained": untrained[task], "cells_asked": sum(len(f.cells) for f in asked), **how}
            rows.append(row(f"{name}: {task}", value, "", peer=("measurements", baseline[task]), **more))
        rows.append(row(f"{name}: size", bytes_ / 1e6, "MB", goal=25.0, more_is_better=False))
    report(rows, environment("torch", "scikit-learn", "scikit-image"), args.json)


if __name__ == "__main__":
    main()
