"""The network that made an embedding, found again from what the project remembers of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.specs import EMPTY, CropSpec, InputError, find_channel
from napari_cellrep.steps.embed import find_model, take_channels, weights_digest

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel

UNTRAINED = "The network's weights are random: it has learned nothing yet."
CELLS = "cells.csv"  # beside a model trained here: which cells it learned from, and which judged it


@dataclass(frozen=True)
class Found:
    """A network, its weights and its crop as they were when an embedding was made.

    Parameters
    ----------
    net : EmbeddingModel
    planes : tuple of int
        Indices of the project's channels it got, in its order; `EMPTY` for a black plane.
    layer : str
        The tap point the vectors were read from.
    name : str
        The model's folder in this project, "" for weights from elsewhere and for random ones.
    """

    net: EmbeddingModel
    planes: tuple[int, ...]
    layer: str
    name: str


def network_of(project: Project, embedding: str) -> Found:
    """Find the network of an embedding: the same weights (by their digest), channels and crop.

    Parameters
    ----------
    embedding : str
        A key of the project's embeddings.

    Raises
    ------
    InputError
        If it was not made by a network here (an imported table), its weights are not there any more, or a channel
        it got is gone; the sentence says which.
    """
    how = project.embedding_info(embedding)
    said = embedding.replace("_", " ")
    if "crop" not in how or how.get("model") not in registry.names("models"):
        raise InputError(f"The project does not say by which network {said} was made.")
    planes = tuple(EMPTY if not name else find_channel(project.channels, name) for name in how["channels"])
    net, name = _same_weights(project, embedding, how)
    roles = tuple(how["crop"]["channels"])
    if roles and roles != net.roles:
        take_channels(net, roles)
    net.crop = CropSpec(**how["crop"])
    return Found(net, planes, net.check_layer(how.get("layer")), name)


def _same_weights(project: Project, embedding: str, how: dict[str, Any]) -> tuple[EmbeddingModel, str]:
    """Look among this project's models, the published ones and, for random weights, among the first seeds."""
    from napari_cellrep.models import change_settings

    wanted = how.get("weights", "")
    own = {k: v for k, v in how.get("config", {}).items() if k != "channels"}
    if how.get("published"):
        net, _ = find_model(project, how["published"], settings=own)
        if weights_digest(net) == wanted:
            return net, ""
    elif not how.get("trained", True):
        for seed in range(3):
            net, _ = find_model(project, how["model"], seed, how["config"])
            if weights_digest(net) == wanted:
                return net, ""
    else:
        folders = sorted(p.parent.name for p in (project.root / "models").glob("*/model.json"))
        base = embedding.partition(".")[0]
        for name in sorted(folders, key=lambda name: name != base):  # most are called as their embedding
            net, _ = find_model(project, name)
            if net.spec.name == how["model"] and weights_digest(net) == wanted:
                return change_settings(net, own), name
    raise InputError(
        f"The weights that made {embedding.replace('_', ' ')} are not in this project any more; embed again to have "
        "them and their vectors together."
    )


# ---- which cells a network has learned from ------------------------------------------------------------


def parts_of_training(project: Project, embedding: str, obs: pd.DataFrame) -> tuple[np.ndarray, str]:
    """What each cell was to the network that made an embedding, from its ``cells.csv``; torch is not needed.

    A network that started from another one of the project has learned from that one's cells, too.

    Parameters
    ----------
    embedding : str
        A key of the project's embeddings.
    obs : DataFrame
        Rows of the cell table.

    Returns
    -------
    part : ndarray of shape (n,), object
        "learned", "validation" (chose the best epoch), "test" (only looked at in the end), or "" where the cell was no
        part of the training.
    words : str
        Why none was, where none was; else "".

    Raises
    ------
    InputError
        If it is not known which cells the network learned from.
    """
    how = project.embedding_info(embedding)
    said = embedding.replace("_", " ")
    none = np.full(len(obs), "", dtype=object)
    if "weights" not in how or how.get("model") not in registry.names("models"):
        raise InputError(
            f"The project does not say by which network {said} was made, nor what that learned from."
        )
    if how.get("published"):
        return none, f"The weights ({how['published']}) are their authors', from other images."
    if not how.get("trained", True):
        return none, "Nothing was trained."
    part, wanted, seen = none, str(how["weights"]), set()
    while wanted and wanted not in seen:
        seen.add(wanted)
        folder, card = _folder_of(project, wanted, said)
        own = _parts_in(folder, card, project, obs)
        part = np.where((own == "learned") | ((part == "") & (own != "")), own, part)
        initial = card.get("initial") or {}
        wanted = "" if initial.get("published") else str(initial.get("digest", ""))
    return part, ""


def _folder_of(project: Project, weights: str, said: str) -> tuple[Path, dict[str, Any]]:
    """The project's model that has these weights and says which cells it learned from."""
    for path in sorted((project.root / "models").glob("*/model.json")):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        cells = card.get("cells")
        if isinstance(cells, dict) and cells.get("weights") == weights and (path.parent / CELLS).is_file():
            return path.parent, card
    raise InputError(
        f"Which cells {said} learned from is not known: its network was trained elsewhere, again since, or before that was "
        "written down. Train and embed again to have it."
    )


def _parts_in(folder: Path, card: dict[str, Any], project: Project, obs: pd.DataFrame) -> np.ndarray:
    """What each cell was in one training."""
    table = pd.read_csv(
        folder / CELLS, dtype={"cell_id": str, "mask_hash": str, "part": str}, index_col="cell_id"
    )
    at = table.index.get_indexer(obs.index)
    found = np.where(at >= 0, table["part"].to_numpy(object)[at], "")
    if card.get("trained_on") != project.name and not (folder / "run.json").is_file():
        # Brought from another project, where the same name can be another cell.
        same = table["mask_hash"].to_numpy(object)[at] == obs["mask_hash"].astype(str).to_numpy(object)
        found = np.where(same, found, "")
    return np.asarray(found, object)
