"""What networks learn from real cells: DeepLoc's balanced accuracy on cells it has not seen.

``jurkat_cellcycle`` (1,710 cells in seven phases of the cell cycle, told by imaging flow cytometry) is one montage of
cells for each phase, so it can only be split by cell. Of the bundled sample, untreated wells (dose ranks 0 and 1) are
told from fully treated ones (7 and above), and whole wells are held out.
"""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from _harness import environment, options, report, row
from scipy import ndimage
from skimage.filters import threshold_otsu

import napari_cellrep
from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model
from napari_cellrep.models._train import train
from napari_cellrep.models.deeploc import Training
from napari_cellrep.specs import CropSpec


class Cells:
    """Crops, classes and fields in arrays, as the training loop wants them."""

    def __init__(self, array: np.ndarray, labels: np.ndarray, fields: np.ndarray):
        names, self.labels = np.unique(labels, return_inverse=True)
        self.classes = tuple(str(name) for name in names)
        self.array = array
        self.fields = self.groups = np.unique(fields, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.array)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops of some rows."""
        return self.array[rows]


def phases(shared: Path) -> Cells:
    """Jurkat cells, three channels, 40 px set in the middle of 64 (their edge repeated outwards)."""
    with np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz") as z:
        images = np.pad(z["images"], ((0, 0), (0, 0), (12, 12), (12, 12)), mode="edge")
        return Cells(images, z["label"], np.arange(len(images)))


def wells() -> Cells:
    """Cells of the bundled sample's untreated and fully treated wells: protein and nucleus, 64 px."""
    sample = Path(napari_cellrep.__file__).parent / "sample"
    crops, labels, fields = [], [], []
    with (sample / "plate.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            rank = int(line["dose_rank"])
            if 1 < rank < 7:
                continue
            image = tifffile.imread(sample / "wells" / f"{line['well']}.ome.tif")
            dna = ndimage.gaussian_filter(image[1].astype(float), 2)
            mask, _ = ndimage.label(dna > threshold_otsu(dna))
            cells = find_cells(mask)
            whole = (
                (cells.area_px > 60) & (cells.box.min(axis=1) > 0) & (cells.box.max(axis=1) < image.shape[1])
            )
            keep = np.flatnonzero(whole)
            cells = type(cells)(*(getattr(cells, k)[keep] for k in ("label", "area_px", "centroid", "box")))
            crops.append(cut_crops(image, mask, cells, CropSpec()))
            labels += ["treated" if rank >= 7 else "untreated"] * len(keep)
            fields += [line["well"]] * len(keep)
    return Cells(np.concatenate(crops), np.array(labels), np.array(fields))


def learn(name: str, cells: Cells, config: dict[str, Any], training: Training) -> list[dict[str, Any]]:
    """Train once; rows of the balanced accuracy on test cells, and of what it took."""
    torch.manual_seed(training.seed)
    net = create_model("deeploc", channels=cells.array.shape[1], n_classes=len(cells.classes), **config)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = drain(train(net, cells, training, Path(folder), precision="fp32"))
    seconds = time.perf_counter() - start
    chance = 1 / len(cells.classes)
    more = {
        "split_by": training.split_by, "n_cells": len(cells), "n_test": result["test"]["n_cells"],
        "epochs": result["epoch"], "best_epoch": result.get("best_epoch"), "config": config,
        "learning_rate": training.learning_rate, "balanced": training.balanced, "device": result["device"],
        "split": result["notes"][0],
    }  # fmt: skip
    score = result["test"]["balanced_accuracy"]
    return [
        row(f"{name}: DeepLoc, balanced accuracy", score, "", peer=("chance", chance), **more),
        row(f"{name}: validation", result["validation"]["balanced_accuracy"], "", peer=("chance", chance)),
        row(f"{name}: time", seconds, "s"),
    ]


def main() -> None:
    """Run it."""
    args = options(__doc__).parse_args()
    width = {"width": 0.125, "d1": 64, "d2": 64} if args.quick else {}
    limit_s = 40.0 if args.quick else 0.0
    rows = []
    for name, cells, split_by in (
        ("sample", wells(), "field"),
        ("jurkat_cellcycle", phases(args.shared), "cell"),
    ):
        for rate in (0.0, 0.003):  # the paper's (0.1), and one for few cells
            training = Training(
                split_by=split_by, balanced=True, learning_rate=rate, batch_size=64, max_seconds=limit_s
            )
            rows += learn(f"{name}, learning rate {rate or 0.1:g}", cells, width, training)
    report(rows, environment("torch"), args.json)


if __name__ == "__main__":
    main()
