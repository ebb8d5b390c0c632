"""Cells → vectors: decode a field once, cut its cells, run the network, write its rows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.data.crops import Boxes, cut_crops
from napari_cellrep.jobs import Job, Progress, Shard
from napari_cellrep.specs import (
    EMPTY,
    CropSpec,
    InputError,
    digest,
    field_rules,
    join_words,
    make_config,
    match_channels,
)

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel


@dataclass(frozen=True)
class EmbedResult:
    """What came of embedding.

    Parameters
    ----------
    keys : tuple of str
        Embeddings written, the default layer first.
    n_cells, n_skipped : int
        Cells embedded now; cells whose rows were up to date.
    problems : dict of str to str
        Field → sentence.
    notes : tuple of str
        What the user should know: device, precision, smaller batches, random weights.
    """

    keys: tuple[str, ...]
    n_cells: int
    n_skipped: int
    problems: dict[str, str]
    notes: tuple[str, ...]


def embed(
    project: Project,
    *,
    model: str = "paired_cell_inpainting",
    config: dict[str, Any] | None = None,
    key: str = "",
    layers: Sequence[str] = (),
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    shard: Shard = Shard(),
    seed: int = 0,
) -> Job[EmbedResult]:
    """Embed every cell of the project and add the vectors to its table.

    Cells whose mask has not changed since they were embedded the same way are skipped.

    Parameters
    ----------
    model : str
        A model of this project (``models/<name>``), a path to weights, a published checkpoint's name ("pci-yeast",
        once fetched), or a model's name (random weights).
    config : dict, optional
        Settings of a network with random weights; trained ones bring their own.
    key : str
        What the embedding is called; empty: the model's, or the published checkpoint's name. Other layers become
        ``<key>.<layer>``.
    layers : sequence of str
        Tap points, all in one pass; empty: the model's default; "all": every one.
    channels : sequence of str
        Names or roles of the project's channels, in the order the model wants; empty: by the model's roles.
    crop : dict, optional
        Settings of `CropSpec` to use instead of the model's: ``window_px``, ``masked``, ``mode``, …
    batch_size : int
        Cells per forward pass; 0: chosen for the device.
    seed : int
        Of the random weights, where there are no trained ones.

    Yields
    ------
    Progress
        Once per field, ``done`` counting cells; the job returns an `EmbedResult`.

    Raises
    ------
    InputError
        If there are no cells, the model is not there, or the project lacks a channel it wants.
    """
    from napari_cellrep.models._engine import Embedder

    obs = project.cells.obs
    fields = [project.field(f).id for f in fields]
    if batch_size < 0:
        raise InputError(f"The batch size is {batch_size}; it has to be a number of cells, or 0 for any.")
    yield Progress(0, len(obs), "Loading the model")
    ready = prepare(
        project, model=model, config=config, key=key, layers=layers, channels=channels, crop=crop, seed=seed
    )
    net, trained, planes, taps, keys = ready.net, ready.trained, ready.planes, ready.taps, ready.keys
    engine = Embedder(net, taps, device=device, precision=precision, batch_size=batch_size)
    feature_names: Any = getattr(net, "feature_names", None)  # what each number is, where the model can say
    names = {"features": list(feature_names())} if feature_names else {}
    for k, tap in zip(keys, taps, strict=True):
        project.start_embedding(k, {**ready.how, "layer": tap}, **names)

    todo = _todo(project, obs, keys, shard.of(fields or dict.fromkeys(obs["field"].astype(str))))
    n_all, n_done, n_cells = sum(len(t.rows) for t in todo), 0, 0
    problems: dict[str, str] = {}
    start = perf_counter()
    for item in _prefetch(project, todo, net.crop, planes):
        n_done += len(item.todo.rows)
        if isinstance(item.crops, InputError):
            problems[item.todo.field] = str(item.crops)
        elif len(item.crops):
            vectors = engine.run(item.crops)
            for k, tap in zip(keys, taps, strict=True):
                _write(project, k, item.todo, vectors[tap])
            n_cells += len(item.crops)
        rate = n_cells / max(perf_counter() - start, 1e-9)
        yield Progress(n_done, n_all, f"Embedded {item.todo.field}", {"cells_per_s": rate})
    notes = [*_fit_notes(net, project, planes, ready.published), *engine.notes]
    if not trained and any(True for _ in net.parameters()):
        notes.insert(
            0,
            f"{net.spec.title} ran with random weights (seed {seed}); train it, or give it trained weights.",
        )
    if shard.world == 1:
        yield Progress(n_done, n_all, "Writing the table")
        project.merge()
        # A field whose pixels were gone and can be read again has no problem any more.
        worked = {t.field: "" for t in todo if t.missing.any() and project.field(t.field).problem}
        project.mark({**worked, **problems})
    project.log(
        "embed",
        keys=keys,
        **ready.how,
        cells=n_cells,
        skipped=n_all - n_cells,
        problems=problems,
        engine=engine.describe(),
        notes=notes,
    )
    if problems and not n_cells and n_all:
        raise InputError(f"No cell could be embedded. The first reason: {next(iter(problems.values()))}")
    return EmbedResult(keys, n_cells, n_all - n_cells, problems, tuple(notes))


@dataclass(frozen=True)
class Prepared:
    """Everything embedding needs, before its first cell."""

    net: EmbeddingModel
    trained: bool
    planes: tuple[int, ...]
    taps: tuple[str, ...]
    keys: tuple[str, ...]
    how: dict[str, Any]  # what the numbers depend on, but for the layer
    published: str


def prepare(
    project: Project,
    *,
    model: str,
    config: dict[str, Any] | None = None,
    key: str = "",
    layers: Sequence[str] = (),
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    seed: int = 0,
) -> Prepared:
    """Load the network and match it with the project; nothing is written. Arguments are those of `embed`."""
    if channels and not config and _takes_channels(project, model):
        config = {"channels": tuple(channels)}
    net, trained = find_model(project, model, seed, config)
    take_channels(net, channels)
    set_crop(net, project, crop, trained)
    planes = match_channels(net.roles, project.channels, net.spec.title, net.may_lack)
    taps = tuple(net.layers if tuple(layers) == ("all",) else (layers or net.layers[:1]))
    for tap in taps:
        net.check_layer(tap)
    main = layers[0] if len(taps) == 1 and layers and tuple(layers) != ("all",) else net.layers[0]
    base, published = base_name(project, net, model, key)
    keys = tuple(base if tap == main else f"{base}.{tap}" for tap in taps)
    how = {
        "model": net.spec.name, "weights": weights_digest(net), "trained": trained,
        "config": dataclasses.asdict(net.config), "crop": dataclasses.asdict(net.crop), "crop_digest": net.crop.digest(),
        "channels": ["" if i == EMPTY else project.channels[i].name for i in planes],
        **({"published": published} if published else {}),
        **_sides(net.crop, project),
    }  # fmt: skip
    return Prepared(net, trained, tuple(planes), taps, keys, how, published)


def cells_to_do(
    project: Project, ready: Prepared, fields: Sequence[str] = (), shard: Shard = Shard()
) -> dict[str, pd.DataFrame]:
    """Rows without a valid vector by field, as `embed` would find them; nothing is written."""
    obs = project.cells.obs
    chosen = [project.field(f).id for f in fields] or list(dict.fromkeys(obs["field"].astype(str)))
    stands = all(
        (project.embedding_folder(k) / "key.json").is_file()
        and project.embedding_info(k).get("digest") == digest({**ready.how, "layer": tap})
        for k, tap in zip(ready.keys, ready.taps, strict=True)
    )
    todo = _todo(project, obs, ready.keys if stands else (), shard.of(chosen))
    if not stands:  # made another way, or not yet
        return {t.field: t.rows for t in todo}
    return {t.field: t.rows[t.missing] for t in todo if t.missing.any()}


def find_model(
    project: Project, model: str, seed: int = 0, config: dict[str, Any] | None = None
) -> tuple[EmbeddingModel, bool]:
    """The model a name or path means for this project, and whether its weights are trained."""
    import torch

    from napari_cellrep.models import create_model, list_models, load_model

    own = project.root / "models" / model
    if not config and (own / "model.json").is_file():  # settings are for a network made here
        return load_model(own), True
    if model in list_models():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create_model(model, **(config or {})), False
    return load_model(Path(model)), True


def take_channels(net: EmbeddingModel, channels: Sequence[str]) -> None:
    """Make a network read the channels a person named, in their order; none named: by its own roles."""
    if not channels:
        return
    set_channels: Any = getattr(net, "set_channels", None)  # weights that serve any channels (`microsnoop`)
    if set_channels:
        set_channels(channels)
    if len(channels) != len(net.roles):
        raise InputError(
            f"{net.spec.title} wants {len(net.roles)} channels ({', '.join(net.roles)}); got {len(channels)}."
        )
    net.roles = tuple(channels)


def base_name(project: Project, net: EmbeddingModel, model: str, key: str = "") -> tuple[str, str]:
    """What an embedding is called, and the name of the published weights it came from ("" for others)."""
    own = (project.root / "models" / model).is_dir()
    published = model if net.card.get("published") == model and not own else ""
    return key or (model if own else published or net.spec.name), published


def pick_planes(image: np.ndarray, planes: Sequence[int]) -> np.ndarray:
    """Planes of (C, H, W) in the order a network wants; a black one for a channel that is not there."""
    return np.stack([np.zeros_like(image[0]) if i == EMPTY else image[i] for i in planes])


def set_crop(net: EmbeddingModel, project: Project, crop: dict[str, Any] | None, trained: bool) -> None:
    """Set the crop a network gets: what was asked for, else the trained network's, else the project's window."""
    asked = dict(crop or {})
    rules = project.last("crop").get("rules", {})
    if not trained and "window_px" not in asked and rules.get("window_px", 64) != 64:
        asked["window_px"] = rules["window_px"]
    if "window_px" in asked and not net.on_device:
        asked.setdefault("size_px", asked["window_px"])  # texture is measured at the field's own sampling
    if "window_px" in asked:
        asked.setdefault("um_per_px", 0.0)  # what is asked for goes before the sampling of the weights
    if asked:
        net.crop = make_config(CropSpec, {**dataclasses.asdict(net.crop), **asked})


def _sides(crop: CropSpec, project: Project) -> dict[str, list[int]]:
    """Sides of the windows in field pixels, where they depend on the fields' pixel size."""
    if crop.mode != "window" or crop.um_per_px <= 0:
        return {}
    return {"sides_px": sorted({crop.side_px(f.um_per_px) for f in project.fields})}


def _fit_notes(net: EmbeddingModel, project: Project, planes: Sequence[int], published: str) -> list[str]:
    """What to know of how far the images are like those that the weights were trained on."""
    notes, crop = [], net.crop
    lacking = [role for role, i in zip(net.roles, planes, strict=True) if i == EMPTY]
    if lacking:
        notes.append(
            f"There is no {lacking[0]} channel: {net.spec.title} got a black one in its place, as it did now and then in "
            "training. Vectors of images with and without it should not be compared."
        )
    sides = _sides(crop, project)
    if sides:
        unknown = sum(f.um_per_px <= 0 for f in project.fields)
        notes.append(
            f"The window is cut at the sampling of the weights, {crop.um_per_px:g} µm per px: "
            f"{join_words(map(str, sides['sides_px']))} px of the image, seen at {crop.size_px} px"
            + (f"; {unknown:,} fields of unknown pixel size: {crop.window_px} px." if unknown else ".")
        )
    elif published and crop.mode == "window" and crop.um_per_px <= 0:
        notes.append(
            f"At which sampling {published} was trained is not known; it gets {crop.window_px} px of the image about each "
            "cell. Where your cells fill that less or more than its own did, set --window-px."
        )
    return notes


def _takes_channels(project: Project, model: str) -> bool:
    """Whether a model is made for any number of channels, named in its settings (`measurements`)."""
    if model not in registry.names("models") or (project.root / "models" / model / "model.json").is_file():
        return False
    return "channels" in field_rules(registry.load("models", model).Config)


def weights_digest(net: EmbeddingModel) -> str:
    """Short hash of a model's weights."""
    h = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        h.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


@dataclass(frozen=True)
class _Todo:
    """One field: all its rows, and which of them have no valid vector yet."""

    field: str
    rows: pd.DataFrame
    missing: np.ndarray  # bool (n,)


@dataclass(frozen=True)
class _Cut:
    todo: _Todo
    crops: np.ndarray | InputError


def _todo(project: Project, obs: pd.DataFrame, keys: Sequence[str], fields: Sequence[str]) -> list[_Todo]:
    by_field = dict(tuple(obs.groupby(obs["field"].astype(str), sort=False)))
    out = []
    for field in fields:
        if field not in by_field:
            continue
        rows = by_field[field]
        missing = np.zeros(len(rows), bool)
        for key in keys:
            missing |= ~_up_to_date(project.read_rows(key, field), rows)
        out.append(_Todo(field, rows, missing))
    return out


def _up_to_date(stored: np.ndarray | None, rows: pd.DataFrame) -> np.ndarray:
    if stored is None:
        return np.zeros(len(rows), bool)
    have = {(int(a), int(b)) for a, b in zip(stored["label"], stored["mask_hash"], strict=True)}
    return np.array(
        [(int(a), int(b)) in have for a, b in zip(rows["label"], rows["mask_hash"], strict=True)], bool
    )


def _prefetch(
    project: Project, todo: Sequence[_Todo], spec: CropSpec, planes: Sequence[int]
) -> Iterator[_Cut]:
    """Crops of one field after the other; the next field is decoded while the network has this one."""

    def cut(item: _Todo) -> _Cut:
        if not item.missing.any():
            return _Cut(item, np.empty((0, 0, 0, 0)))
        try:
            return _Cut(item, cut_cells(project, item.field, item.rows[item.missing], spec, planes))
        except InputError as error:
            return _Cut(item, error)

    with ThreadPoolExecutor(1) as pool:
        following = None
        for i, item in enumerate(todo):
            current = following.result() if following else cut(item)
            following = pool.submit(cut, todo[i + 1]) if i + 1 < len(todo) else None
            yield current


def cut_cells(
    project: Project, field: str, rows: pd.DataFrame, spec: CropSpec, planes: Sequence[int]
) -> np.ndarray:
    """Crops (n, C, S, S) of some cells of one field, channels in the order of `planes`."""
    image = project.read_image(field)
    image = pick_planes(image, planes)
    labels = project.read_labels(field) if spec.masked or spec.mask_plane else None
    return cut_crops(image, labels, boxes_of(rows), spec, project.field(field).um_per_px)


def boxes_of(rows: pd.DataFrame) -> Boxes:
    """Where cells are, from their rows of the table."""
    return Boxes(
        rows["label"].to_numpy(np.int64),
        rows["area_px"].to_numpy(np.int64),
        rows[["y_px", "x_px"]].to_numpy(np.float64),
        rows[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(np.int64),
    )


def _write(project: Project, key: str, todo: _Todo, vectors: np.ndarray) -> None:
    """Write a field's rows: the new vectors, and those from before that are still valid."""
    x = np.full((len(todo.rows), vectors.shape[1]), np.nan, np.float32)
    x[todo.missing] = vectors
    if not todo.missing.all():
        stored = project.read_rows(key, todo.field)
        assert stored is not None  # rows are only not missing when they were read
        at = {int(label): i for i, label in enumerate(stored["label"])}
        keep = ~todo.missing
        x[keep] = stored["x"][[at[int(label)] for label in todo.rows["label"][keep]]]
    labels, hashes = todo.rows["label"].to_numpy(np.int64), todo.rows["mask_hash"].to_numpy(np.uint64)
    project.write_rows(key, todo.field, labels, hashes, x)
