"""What networks learn from real cells: how well their vectors tell cells of images that they have not seen.

python benchmarks/learning.py --json FILE [--quick] [--full] [--sets yeast,jurkat,sample] [--nets NAMES] [--seconds 120]
    [--training '{"gamma": 0}'] [--seed 0]

- yeast: ``pci_yeast``, 842 cells of three proteins in three fields each. Every field number is held out in turn, and the
  other two are learned from and hold the neighbours; the numbers are those of all cells together.
- jurkat: ``jurkat_cellcycle``, 1,710 cells in seven phases of the cell cycle (imaging flow cytometry). It is one montage of
  cells for each phase, so it can only be split by cell.
- sample: the bundled sample's untreated wells (dose ranks 0 and 1) against fully treated ones (7 and above), by whole wells.

"On one scale" is Paired Cell Inpainting with its scaling "together": two of the yeast proteins are carriers of the same
organelle, and what tells them apart is how much there is beside the marker, which the paper's scaling takes away. Plain
statistics of the pixels, scaled either way, stand beside it in the same run.

A network is judged by each held-out cell's 11 nearest neighbours among the cells it learned from, the numbers z-scored;
beside it in the same run the network before it learned, and the measurements (yeast: inside the cytosol marker's outline;
sample: inside the nucleus). Nothing is chosen by held-out cells: all networks train for a fixed number of epochs and the
last weights count. DeepLoc, which learns classes, is judged by what it says of the same held-out cells.

Without ``--full`` networks are narrow and train for as many epochs as fit into ``--seconds`` each; with it they have the
papers' widths and the preset's epochs.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
from _harness import environment, epochs_that_fit, options, report, row
from scipy import ndimage
from skimage.filters import threshold_otsu

import napari_cellrep
from napari_cellrep import registry
from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import EmbeddingModel, create_model, load_model
from napari_cellrep.models._base import start_from
from napari_cellrep.models._deeploc_training import TEST, TRAINED, split_cells
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._learner import NEIGHBOURS
from napari_cellrep.models._train import train
from napari_cellrep.models.deeploc import Training as DeepLocTraining
from napari_cellrep.models.paired_cell_inpainting import min_max
from napari_cellrep.specs import CropSpec, make_config
from napari_cellrep.steps.train import preset_values

SEED = 0
ONE_SCALE = "paired_cell_inpainting on one scale"
ROLES = {
    "yeast": ("protein", "structure"),
    "jurkat": ("brightfield", "nucleus", "other"),
    "sample": ("protein", "nucleus"),
}


# ---- the cells -------------------------------------------------------------------------------------


class Cells:
    """Crops, classes and fields in arrays, as the training loop wants them.

    Parameters
    ----------
    array : ndarray (n, C, S, S)
    labels, fields : ndarray of str, (n,)
        What is to be told, and the image.
    groups : ndarray, (n,), optional
        The cells that make pairs; default the fields.
    masks : ndarray (n, S, S), optional
        For the measurements.
    """

    def __init__(self, array: Any, labels: Any, fields: Any, groups: Any = None, masks: Any = None):
        names, self.labels = np.unique(labels, return_inverse=True)
        self.classes = tuple(str(name) for name in names)
        self.array, self.masks = array, masks
        self.fields = np.unique(fields, return_inverse=True)[1]
        self.groups = self.fields if groups is None else np.unique(groups, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.array)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops of some rows."""
        return self.array[rows]

    def some(self, rows: np.ndarray) -> Cells:
        """Some of the cells."""
        part = copy.copy(self)
        for name in ("array", "labels", "fields", "groups"):
            setattr(part, name, getattr(self, name)[rows])
        return part


def yeast(shared: Path) -> Cells:
    """Yeast cells: protein and cytosol marker, 64 px; pairs are of one protein, as in the authors' folders."""
    folder = shared / "data" / "pci_yeast"
    table = pd.read_csv(folder / "index.csv")
    with zipfile.ZipFile(folder / "crops.zip") as z:
        array = np.stack(
            [np.stack([tifffile.imread(io.BytesIO(z.read(line[c]))) for c in ("gfp", "rfp")])
             for _, line in table.iterrows()]
        )  # fmt: skip
    names = table["protein"] + " " + table["field"].astype(str)
    masks = np.stack([_middle(marker) for marker in array[:, 1]])
    return Cells(array, table["protein"], names, table["protein"], masks)


def _middle(marker: np.ndarray) -> np.ndarray:
    """The bright piece in the middle of a crop."""
    smooth = ndimage.gaussian_filter(marker.astype(float), 1)
    pieces, n = ndimage.label(smooth > threshold_otsu(smooth))
    middle = pieces[pieces.shape[0] // 2, pieces.shape[1] // 2]
    if not middle:
        middle = 1 + np.argmax(ndimage.sum_labels(np.ones_like(smooth), pieces, np.arange(1, n + 1)))
    return pieces == middle


def jurkat(shared: Path) -> Cells:
    """Jurkat cells, three channels, 40 px set in the middle of 64 (their edge repeated outwards)."""
    with np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz") as z:
        images = np.pad(z["images"], ((0, 0), (0, 0), (12, 12), (12, 12)), mode="edge")
        return Cells(images, z["label"], np.arange(len(images)))


def sample(shared: Path) -> Cells:
    """Cells of the bundled sample's untreated and fully treated wells: protein and nucleus, 64 px."""
    folder = Path(napari_cellrep.__file__).parent / "sample"
    crops, labels, fields, masks = [], [], [], []
    with (folder / "plate.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            rank = int(line["dose_rank"])
            if 1 < rank < 7:
                continue
            image = tifffile.imread(folder / "wells" / f"{line['well']}.ome.tif")
            dna = ndimage.gaussian_filter(image[1].astype(float), 2)
            mask, _ = ndimage.label(dna > threshold_otsu(dna))
            cells = find_cells(mask)
            whole = (
                (cells.area_px > 60) & (cells.box.min(axis=1) > 0) & (cells.box.max(axis=1) < image.shape[1])
            )
            keep = np.flatnonzero(whole)
            cells = type(cells)(*(getattr(cells, k)[keep] for k in ("label", "area_px", "centroid", "box")))
            cut = cut_crops(image, mask, cells, CropSpec(mask_plane=True))
            crops.append(cut[:, :2])
            masks.append(cut[:, 2] > 0)
            labels += ["treated" if rank >= 7 else "untreated"] * len(keep)
            fields += [line["well"]] * len(keep)
    return Cells(np.concatenate(crops), np.array(labels), np.array(fields), masks=np.concatenate(masks))


SETS = {"yeast": yeast, "jurkat": jurkat, "sample": sample}


def splits(name: str, cells: Cells) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to judge by; DeepLoc's own split where there is one."""
    if name == "yeast":
        for number in range(3):
            held = cells.fields % 3 == number  # three fields of each protein, in order
            yield np.flatnonzero(~held), np.flatnonzero(held)
        return
    part = split_cells(cells.labels, cells.fields if name == "sample" else None, SEED)
    yield np.flatnonzero(part == TRAINED), np.flatnonzero(part == TEST)


# ---- networks and what they tell ---------------------------------------------------------------------


def networks(name: str, full: bool, quick: bool) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """What rows call it → network, its config, and what its training has beside the preset "small"."""
    roles = ROLES[name]
    width = 1.0 if full else 0.06 if quick else 0.125
    plain = {"held_out": 0.0, "keep": "last", "patience": 0}
    pairs = {"width": width, "n_structure": len(roles) - 1}
    vit = {"channels": roles, "image_px": 64, "patch_px": 8}
    vit |= {"size": "tiny"} if full else {"dim": 72, "depth": 3, "heads": 3}
    head = {} if full else {"n_local": 2, "out_dim": 1024, "hidden_dim": 256, "bottleneck_dim": 64}
    view = {"view": "cell", "epochs": 200, **plain}
    # Contrast is not varied where the proportion of the channels is what is learned.
    one_scale = {**pairs, "recipe": "together"}, {**plain, "gamma": 0.0}
    return {
        **({} if name == "jurkat" else {"paired_cell_inpainting": ("paired_cell_inpainting", pairs, plain)}),
        **({ONE_SCALE: ("paired_cell_inpainting", *one_scale)} if name == "yeast" else {}),
        "autoencoder": ("autoencoder", pairs, plain),
        "dino": ("dino", vit, {**plain, **head}),
        "microsnoop": ("microsnoop", {"channels": roles, "width": width / 2}, view),
    }  # in jurkat no two cells are of one group


def intensities(array: np.ndarray, together: bool) -> np.ndarray:
    """Mean, SD and seven percentiles of every channel, scaled as Paired Cell Inpainting scales its crops."""
    x = min_max(torch.from_numpy(array).float(), together=together).flatten(2).numpy()
    parts = [x.mean(axis=2), x.std(axis=2), *np.percentile(x, [5, 25, 50, 75, 90, 95, 99], axis=2)]
    return np.concatenate(parts, axis=1)


def tell(known: np.ndarray, of_known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Class of each cell by the majority of its neighbours, the nearer ones where votes are equal."""
    mean, sd = known.mean(axis=0), known.std(axis=0)
    a, b = (torch.from_numpy((x - mean) / np.where(sd > 0, sd, 1)).float() for x in (asked, known))
    near = torch.cdist(a, b).topk(NEIGHBOURS, largest=False).indices.numpy()
    votes = np.zeros((len(asked), int(of_known.max()) + 1))
    np.add.at(votes, (np.arange(len(near))[:, None], of_known[near]), 1 - 1e-4 * np.arange(NEIGHBOURS))
    return votes.argmax(axis=1)


def describe(net: EmbeddingModel, cells: Cells) -> np.ndarray:
    """Vectors of all cells."""
    crops = cells.array
    if net.crop.mask_plane:
        crops = np.concatenate([crops, cells.masks[:, None].astype(crops.dtype)], axis=1)
    engine = Embedder(net, precision="fp32")
    return engine.run(crops)[engine.layers[0]]


def judged(said: np.ndarray, cells: Cells, rows: np.ndarray) -> dict[str, float]:
    """Accuracy over cells, and over classes."""
    right = said == cells.labels[rows]
    each = [right[cells.labels[rows] == k].mean() for k in np.unique(cells.labels[rows])]
    return {"accuracy": float(right.mean()), "balanced accuracy": float(np.mean(each))}


def compare(
    name: str,
    cells: Cells,
    nets: dict[str, Any],
    seconds: float,
    epochs: int,
    start: str = "",
    seed: int = SEED,
) -> list[dict[str, Any]]:
    """Rows of every network, before and after it learned, and of the measurements."""
    said: dict[str, list[np.ndarray]] = {}
    how: dict[str, dict[str, Any]] = {}
    held_rows = []
    numbers = {}
    if cells.masks is not None:
        numbers["measurements"] = describe(create_model("measurements", channels=ROLES[name]), cells)
    if name == "yeast":
        numbers["intensities, each channel by itself"] = intensities(cells.array, together=False)
        numbers["intensities on one scale"] = intensities(cells.array, together=True)
    for learned, held in splits(name, cells):
        held_rows.append(held)

        def judge(what: str, x: np.ndarray, learned: Any = learned, held: Any = held) -> None:
            said.setdefault(what, []).append(tell(x[learned], cells.labels[learned], x[held]))

        for what, x in numbers.items():
            judge(what, x)
        for called, (model, config, values) in nets.items():
            module = registry.load("models", model)
            torch.manual_seed(seed)
            net = create_model(model, **config)
            judge(f"{called}, untrained", describe(net, cells))
            trained = f"{called}, trained" + (start and f" from {start}")
            if start:
                start_from(net, load_model(start))
                judge(f"{called}, {start} as it is", describe(net, cells))
            settings = {**preset_values(module.SPEC, "small" if module.SPEC.presets else ""), **values}
            training = make_config(module.Training, {**settings, "seed": seed})
            part = cells.some(learned)
            if epochs:
                training = dataclasses.replace(training, epochs=epochs)
            elif seconds:
                fit = epochs_that_fit(net, part, training, seconds)
                training = dataclasses.replace(training, epochs=fit, max_seconds=1.5 * seconds)
            with tempfile.TemporaryDirectory() as folder:
                result = drain(train(net, part, training, Path(folder), precision="fp32"))
            judge(trained, describe(net, cells))
            how[trained] = {
                "config": config, "training": dataclasses.asdict(training), "epochs": result["epoch"],
                "start": start or "random weights",
                "steps": result["step"], "seconds": result["seconds"], "learned_from": len(learned),
            }  # fmt: skip
            print(f"{name}, {called}: {result['epoch']:.1f} epochs", *judged(said[trained][-1], cells, held).items(),
                  flush=True)  # fmt: skip
    rows_all = np.concatenate(held_rows)
    found = {what: judged(np.concatenate(parts), cells, rows_all) for what, parts in said.items()}
    best = max((v["accuracy"] for k, v in found.items() if k == "measurements"), default=None)
    out = []
    for what, values in found.items():
        peer = ("measurements", best) if best is not None and what != "measurements" else None
        asked = name == "yeast" and what.startswith("paired_cell_inpainting") and ", trained" in what
        goal = 0.8 if asked else None
        out.append(
            row(
                f"{name}: {what}", values["accuracy"], "accuracy", goal=goal, peer=peer, n_held_out=len(rows_all),
                balanced_accuracy=round(values["balanced accuracy"], 4), classes=len(cells.classes), **how.get(what, {}),
            )
        )  # fmt: skip
    return out


def classify(
    name: str, cells: Cells, config: dict[str, Any], training: DeepLocTraining
) -> list[dict[str, Any]]:
    """Train DeepLoc once; rows of the balanced accuracy on test cells, and of what it took."""
    torch.manual_seed(training.seed)
    net = create_model("deeploc", channels=cells.array.shape[1], n_classes=len(cells.classes), **config)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = drain(train(net, cells, training, Path(folder), precision="fp32"))
    chance = 1 / len(cells.classes)
    more = {
        "split_by": training.split_by, "n_cells": len(cells), "n_test": result["test"]["n_cells"],
        "epochs": result["epoch"], "best_epoch": result.get("best_epoch"), "config": config,
        "learning_rate": training.learning_rate, "balanced": training.balanced, "device": result["device"],
        "split": result["notes"][0], "seconds": round(time.perf_counter() - start, 1),
        "validation": result["validation"]["balanced_accuracy"],
    }  # fmt: skip
    score = result["test"]["balanced_accuracy"]
    rate = training.learning_rate or 0.1
    print(f"{name}, DeepLoc {rate:g}: {result['epoch']:.1f} epochs, {score:.3f}", flush=True)
    return [
        row(
            f"{name}: deeploc, learning rate {rate:g}",
            score,
            "balanced accuracy",
            peer=("chance", chance),
            **more,
        )
    ]


def main() -> None:
    """Run it."""
    parser = options(__doc__)
    parser.add_argument("--full", action="store_true", help="the papers' widths and the preset's epochs")
    parser.add_argument("--sets", default=",".join(SETS), help="which, with commas between")
    parser.add_argument("--nets", default="", help="which networks, with commas between (default: all)")
    parser.add_argument("--seconds", type=float, default=120, help="for each training (default 120)")
    parser.add_argument("--epochs", type=int, default=0, help="of every training, instead of as many as fit")
    parser.add_argument(
        "--start", default="", help="weights to start from instead of random ones (pci-starter)"
    )
    parser.add_argument(
        "--training", type=json.loads, default={}, help="settings of the trainings of all --nets, as JSON"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of weights and trainings")
    args = parser.parse_args()
    seconds = 0.0 if args.full else 5.0 if args.quick else args.seconds
    asked = [net for net in args.nets.split(",") if net]
    rows = []
    for name in args.sets.split(","):
        cells = SETS[name](args.shared)
        nets = networks(name, args.full, args.quick)
        rows += compare(
            name,
            cells,
            {k: (m, c, {**t, **args.training}) for k, (m, c, t) in nets.items() if not asked or m in asked},
            seconds,
            args.epochs,
            args.start,
            args.seed,
        )
        if name == "yeast" or (asked and "deeploc" not in asked):
            continue
        config = {} if args.full else {"width": 0.125, "d1": 64, "d2": 64}
        for rate in (0.0, 0.003):  # the paper's (0.1), and one for few cells
            training = DeepLocTraining(
                split_by="field" if name == "sample" else "cell", balanced=True, learning_rate=rate, batch_size=64,
                max_seconds=seconds, seed=SEED,
            )  # fmt: skip
            rows += classify(name, cells, config, training)
    report(rows, environment("torch"), args.json)


if __name__ == "__main__":
    main()
