"""Weights out of Keras HDF5 files, without TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_cellrep.specs import InputError


def layer_names(path: Path) -> set[str]:
    """Names of the layers that have weights; empty if the file is no Keras HDF5 file."""
    import h5py

    if not (Path(path).is_file() and h5py.is_hdf5(path)):
        return set()
    with h5py.File(path, "r") as f:
        root = f.get("model_weights", f)
        return {name for name, item in root.items() if isinstance(item, h5py.Group) and len(item)}


def read_weights(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Read every layer's tensors, and which layer feeds which.

    Files of ``model.save`` keep the weights under ``/model_weights`` and the graph in the attribute
    ``model_config``; files of ``save_weights`` keep them at the root and have no graph. Strings may be bytes.

    Returns
    -------
    weights : dict
        layer → {"kernel", "bias", "gamma", …: ndarray}, in Keras layout (kernels H, W, in, out).
    inputs : dict
        layer → the layer it takes its input from; empty without a graph.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    import h5py

    weights: dict[str, dict[str, np.ndarray]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            parts = name.split("/")  # "conv1_1/conv1_1/kernel:0"
            weights.setdefault(parts[0], {})[parts[-1].split(":")[0]] = np.asarray(item[()])

    try:
        with h5py.File(path, "r") as f:
            f.get("model_weights", f).visititems(visit)
            text = f.attrs.get("model_config")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}).") from error
    return weights, _inputs(text.decode() if isinstance(text, bytes) else text)


def _inputs(model_config: str | None) -> dict[str, str]:
    if not model_config:
        return {}
    try:
        layers = json.loads(model_config)["config"]["layers"]
        return {
            layer["name"]: layer["inbound_nodes"][0][0][0] for layer in layers if layer.get("inbound_nodes")
        }
    except (ValueError, KeyError, TypeError, IndexError):
        return {}  # a graph of another Keras: as if there were none


def number(name: str) -> int:
    """Creation number of an automatically named layer: "batch_normalization_3" → 3, without a suffix 0."""
    last = name.rsplit("_", 1)[-1]
    return int(last) if last.isdigit() else 0
