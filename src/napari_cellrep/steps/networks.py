"""The network that made an embedding, found again from what the project remembers of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.specs import EMPTY, CropSpec, InputError, find_channel
from napari_cellrep.steps.embed import find_model, take_channels, weights_digest

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel

UNTRAINED = "The network's weights are random: it has learned nothing yet."


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
