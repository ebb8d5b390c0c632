"""One cell as a network gets it: cut, scaled and resized, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cellrep.data import Project
from napari_cellrep.data.crops import cut_crops
from napari_cellrep.specs import EMPTY, CropSpec, InputError, match_channels
from napari_cellrep.steps.embed import (
    _takes_channels,
    boxes_of,
    cut_cells,
    find_model,
    pick_planes,
    set_crop,
    take_channels,
)
from napari_cellrep.steps.networks import network_of

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel

MOST_KEPT = 8  # networks without their weights: small
_networks: dict[tuple[Any, ...], tuple[EmbeddingModel, tuple[int, ...]]] = {}
_field: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}  # the one that was read last


@dataclass(frozen=True)
class Sight:
    """What a network gets of one cell.

    Parameters
    ----------
    cell_id : str
    pictures : ndarray of shape (P, h, w), uint8
        One per plane, each from its smallest value (0) to its largest (255).
    names : tuple of str
        Of the planes: the project's channels, "no <role> channel" for a black one, "outline" for the cell's mask.
    ranges : tuple of (float, float)
        Smallest and largest value of each plane.
    words : str
        How it was cut and scaled, in a sentence.
    """

    cell_id: str
    pictures: np.ndarray
    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    words: str


def what_it_sees(
    project: Project,
    *,
    model: str = "",
    channels: Sequence[str] = (),
    cell_id: str = "",
    embedding: str = "",
    settings: dict[str, Any] | None = None,
) -> Sight:
    """Cut and scale one cell exactly as `steps.embed.embed` would, or did.

    Parameters
    ----------
    model, channels, settings
        As `steps.embed.embed` takes them.
    cell_id : str
        Which cell; empty: the first good one.
    embedding : str
        Instead of a model: as the cells were cut and scaled when this embedding was made.

    Raises
    ------
    InputError
        If there are no cells, no such cell, the model is not there (any more), or the project lacks a channel it wants.
    """
    from napari_cellrep.models._engine import to_tensor

    obs = project.cells.obs
    if not cell_id and len(obs):
        good = obs["good"].to_numpy(bool)
        cell_id = str(obs.index[int(np.argmax(good))])
    if cell_id not in obs.index:
        raise InputError(f"There is no cell called {cell_id!r} (any more).")
    row = obs.loc[[cell_id]]
    field = project.field(str(row["field"].iloc[0]))
    net, planes = _network(project, model, tuple(channels), embedding, settings or {})
    if project.is_big(field.id):
        crops = cut_cells(project, field.id, row, net.crop, planes)
    else:
        image, labels = _read(project, field.id)
        crops = cut_crops(pick_planes(image, planes), labels, boxes_of(row), net.crop, field.um_per_px)
    seen = net.preprocess(to_tensor(crops)).float().numpy()[0]
    plain = seen.shape == crops.shape[1:] and np.array_equal(seen, crops[0].astype(np.float32))
    n = crops.shape[1]
    seen = seen.reshape(n, -1, *seen.shape[1:]).mean(axis=1)  # a channel that is shown as red, green and blue
    low, high = seen.min(axis=(1, 2)), seen.max(axis=(1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    names = [
        f"no {role} channel" if i == EMPTY else project.channels[i].name
        for role, i in zip(net.roles, planes, strict=True)
    ]
    return Sight(
        cell_id,
        np.round(255 * (seen - low[:, None, None]) / span).astype(np.uint8),
        (*names, "outline")[:n],
        tuple((float(a), float(b)) for a, b in zip(low, high, strict=True)),
        _tell(net.crop, field.um_per_px, seen.shape[-1], plain),
    )


def _network(
    project: Project, model: str, channels: tuple[str, ...], embedding: str, settings: dict[str, Any]
) -> tuple[EmbeddingModel, tuple[int, ...]]:
    """A network and the planes it gets, kept without its weights: only its crop and its scaling are wanted."""
    own = project.root / "models" / model / "model.json"
    own = project.embedding_folder(embedding) / "key.json" if embedding else own
    stamp = own.stat().st_mtime_ns if own.is_file() else 0
    window = project.last("crop").get("rules", {}).get("window_px", 0)
    key = (
        str(project.root), model, stamp, channels, project.channels, window, embedding, tuple(sorted(settings.items()))
    )  # fmt: skip
    if key not in _networks:
        if embedding:
            net, planes = _of_embedding(project, embedding)
        else:
            net, planes = _of_model(project, model, channels, settings)
        for parameter in net.parameters():
            parameter.data = parameter.data.new_empty(0)
        while len(_networks) >= MOST_KEPT:
            del _networks[next(iter(_networks))]
        _networks[key] = net, planes
    return _networks[key]


def _of_embedding(project: Project, embedding: str) -> tuple[EmbeddingModel, tuple[int, ...]]:
    found = network_of(project, embedding)
    return found.net, found.planes


def _of_model(
    project: Project, model: str, channels: tuple[str, ...], settings: dict[str, Any]
) -> tuple[EmbeddingModel, tuple[int, ...]]:
    config = {"channels": channels} if channels and _takes_channels(project, model) else None
    net, trained = find_model(project, model, config=config, settings=settings)
    take_channels(net, channels)
    set_crop(net, project, None, trained)
    return net, match_channels(net.roles, project.channels, net.spec.title, net.may_lack)


def _read(project: Project, field_id: str) -> tuple[np.ndarray, np.ndarray]:
    path = project.labels_path(field_id)
    key = (str(project.root), field_id, project.image_stamp(field_id), path.stat().st_mtime_ns)
    if key not in _field:
        _field.clear()
        _field[key] = project.read_image(field_id), project.read_labels(field_id)
    return _field[key]


def _tell(crop: CropSpec, um_per_px: float, seen_px: int, plain: bool) -> str:
    """How a cell was cut and scaled: "64 px of the image (41.6 µm) around the cell; each channel scaled by itself."."""
    if crop.mode == "window":
        side = crop.side_px(um_per_px)
        words = f"{side} px of the image{f' ({side * um_per_px:.3g} µm)' if um_per_px > 0 else ''} around the cell"
    else:
        side = crop.size_px
        times = (
            f"a square {2 * crop.box_scale:g} times the cell's size"
            if crop.box_scale
            else "the cell's own box"
        )
        words = f"{times}, at most {side} px of the image"
    if seen_px != side:
        words += f", seen at {seen_px} px"
    if crop.masked:
        words += ", black outside its outline"
    words += "; counts as they are." if plain else "; each channel scaled by itself."
    return words[0].upper() + words[1:]
