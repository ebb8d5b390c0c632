"""Published checkpoints by their names: which there are, and where a fetched one lies.

`napari_cellrep.steps.fetch` brings them; this room only looks, and asks no network.

What is in the folder (`weights_folder`)::

    <name>/fetched.json     what came from where, sizes and sha256: written last, so what it names is whole
    <name>/<files>          the checkpoint as the authors have it
    hashes.json             sha256 of files whose authors publish no checksum, as first fetched

Starter weights come with this package (`BUNDLED`) and need no fetching.
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
BUNDLED = Path(__file__).parents[1] / "weights"  # <name>/weights.safetensors and model.json


def starter(name: str, config: dict[str, Any], more: str = "") -> Weights:
    """Describe weights that come with this package, made by ``benchmarks/starter.py``, which knows what they score.

    Parameters
    ----------
    name : str
    config : dict
        As in `Weights`.
    more : str
        What else its note says.
    """
    return Weights(
        name,
        "",
        "Comes with this package, under its BSD-3-Clause licence. Made from images of BBBC013 (CC BY 3.0: credit Ilya "
        "Ravkin, who provided them), JUMP Cell Painting and BBBC022 (both CC0).",
        config=config,
        note="A starting point, not a result: a small network that learned for minutes on a CPU from some 5,000 human "
        f"U2OS cells, a protein or another stain beside DNA, 64 px crops.{more} Sampling not known.",
        roles=("protein", "nucleus"),
        size_px=64,
        bundled=True,
    )


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
    """Path of a fetched checkpoint, to be read by its model; None if it has not been fetched.

    Of one that comes with this package, the folder.
    """
    if (BUNDLED / name / "model.json").is_file():
        return BUNDLED / name
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
