"""Published checkpoints by their names: which there are, and where a fetched one lies.

`napari_cellrep.steps.fetch` brings them; this room only looks, and asks no network.

What is in the folder (`weights_folder`)::

    <name>/fetched.json     what came from where, sizes and sha256: written last, so what it names is whole
    <name>/<files>          the checkpoint as the authors have it
    hashes.json             sha256 of files whose authors publish no checksum, as first fetched
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from napari_cellrep import registry
from napari_cellrep.specs import InputError, ModelSpec, Weights

FOLDER_VARIABLE = "CELLREP_WEIGHTS"
RECORD = "fetched.json"


def weights_folder() -> Path:
    """Where fetched checkpoints are: ``$CELLREP_WEIGHTS``, else a folder in torch's own cache (``$TORCH_HOME``)."""
    given = os.environ.get(FOLDER_VARIABLE, "")
    return Path(given).expanduser().resolve() if given else Path(torch.hub.get_dir()) / "cellrep"


def list_published() -> dict[str, tuple[ModelSpec, Weights]]:
    """Name → the model's spec and the checkpoint's description, of all published checkpoints."""
    found = {}
    for name in registry.names("models"):
        spec: ModelSpec = registry.load("models", name).SPEC
        found.update({weights.name: (spec, weights) for weights in spec.weights})
    return found


def read_record(name: str) -> dict[str, Any]:
    """What `fetched.json` of a checkpoint says; empty if it was not fetched, or not all of it is there any more."""
    folder = weights_folder() / name
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = record["files"]
        whole = all((folder / file).stat().st_size == files[file]["bytes"] for file in files)
        return record if whole and files and isinstance(record["entry"], str) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def find_fetched(name: str) -> Path | None:
    """Path of a fetched checkpoint, to be read by its model; None if it has not been fetched."""
    record = read_record(name)
    return weights_folder() / name / record["entry"] if record else None


def find_published(name: str) -> tuple[ModelSpec, Weights, Path]:
    """The description of a published checkpoint, and where it is.

    Raises
    ------
    InputError
        If it has not been fetched; the sentence says how to.
    """
    spec, weights = list_published()[name]
    path = find_fetched(name)
    if path is None:
        raise InputError(
            f"The weights {name} of {spec.title} have not been fetched to this machine; run: cellrep models fetch {name}"
        )
    return spec, weights, path
