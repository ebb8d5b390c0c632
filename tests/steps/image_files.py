"""Image files of random pixels, and what an import makes of them."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile

from napari_cellrep.jobs import drain
from napari_cellrep.steps.import_fields import import_fields


def pixels(*shape: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def write(path: Path, image: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        options.setdefault("photometric", "minisblack")
        tifffile.imwrite(path, image, **options)
    else:
        iio.imwrite(path, image)
    return path


def ome(path: Path, image: np.ndarray, axes: str, names: tuple[str, ...] = (), um: float = 0) -> Path:
    metadata = {"axes": axes}
    if names:
        metadata["Channel"] = {"Name": list(names)}
    if um:
        metadata |= {"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um}
    return write(path, image, ome=True, metadata=metadata)


def made(*args, **options):
    return drain(import_fields(*args, **options))


def notes(project) -> str:
    return " ".join(project.history[-1]["notes"])
