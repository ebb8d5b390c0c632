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
from napari_cellrep.data import Project, slides
from napari_cellrep.data.crops import Boxes, around, cut_crops, moved, weights_to_size
from napari_cellrep.data.project import pixels_in
from napari_cellrep.data.stamps import Images
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
    from napari_cellrep.models._engine import Embedder


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
    model: str | Sequence[str] = "paired_cell_inpainting",
    config: dict[str, Any] | None = None,
    key: str = "",
    layers: Sequence[str] = (),
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
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
    model : str or sequence of str
        A model of this project (``models/<name>``), a path to weights, a published checkpoint's name ("pci-yeast",
        once fetched), or a model's name (random weights). Several: each field is decoded once for all of them.
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
    settings : dict, optional
        Settings of the network that leave its weights as they are, trained ones included: ``{"channel_mode": "mean"}``.
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
        If there are no cells, a model is not there, the project lacks a channel it wants, or two of several models
        would write the same embedding.
    """
    from napari_cellrep.models._engine import Embedder

    obs = project.cells.obs
    fields = [project.field(f).id for f in fields]
    if batch_size < 0:
        raise InputError(f"The batch size is {batch_size}; it has to be a number of cells, or 0 for any.")
    models = (model,) if isinstance(model, str) else tuple(model)
    if len(models) > 1 and (key or config or settings):
        raise InputError("A key and settings are for one model; embed with one at a time to give them.")
    runs: list[_Run] = []
    for name in models:
        yield Progress(0, len(obs), f"Loading {name}" if len(models) > 1 else "Loading the model")
        ready = prepare(
            project,
            model=name,
            config=config,
            key=key,
            layers=layers,
            channels=channels,
            crop=crop,
            settings=settings,
            seed=seed,
        )
        if twice := {k for run in runs for k in run.ready.keys} & set(ready.keys):
            raise InputError(
                f"Two of the models would both write {min(twice)}; embed with one at a time, and a key."
            )
        engine = Embedder(ready.net, ready.taps, device=device, precision=precision, batch_size=batch_size)
        runs.append(_Run(ready, engine))
    if shard.world == 1:
        project.begin_step("embed")
    else:
        project.forget_step()
    for run in runs:  # only now: until here nothing was written
        feature_names: Any = getattr(
            run.ready.net, "feature_names", None
        )  # what each number is, where it can say
        names = {"features": list(feature_names())} if feature_names else {}
        for k, tap in run.ready.written:
            project.start_embedding(k, {**run.ready.how, "layer": tap}, **names)

    chosen = shard.of(fields or dict.fromkeys(obs["field"].astype(str)))
    yield Progress(0, len(obs), "Looking whether images were replaced")
    images = project.look_at_images(chosen, unknown=True)
    todo = _todo(project, obs, [run.ready.keys for run in runs], chosen, images)
    todo = [part for t in todo for part in _in_parts(project, t)]
    n_all, n_done, n_cells = sum(len(t.rows) for t in todo), 0, 0
    slide = _Slide(project)
    problems: dict[str, str] = {}
    start = perf_counter()
    for item in _prefetch(project, todo, [run.ready for run in runs]):
        n_done += len(item.rows)
        worked = False
        for i, (run, missing, crops) in enumerate(zip(runs, item.missing, item.crops, strict=True)):
            if isinstance(crops, InputError):
                problems.setdefault(item.field, str(crops))
            elif len(crops):
                vectors = run.engine.run(crops, weights_to_size(crops, run.ready.net.crop))
                for k, tap in run.ready.written:
                    if item.whole is None:
                        _write(project, k, item.field, item.rows, missing, vectors[tap], item.pixels)
                    else:
                        slide.add(k, item, missing, vectors[tap], item.whole.missing[i])
                run.n_cells += len(crops)
                worked = True
        slide.write(item)
        n_cells += int(item.any_missing.sum()) if worked else 0
        rate = n_cells / max(perf_counter() - start, 1e-9)
        yield Progress(n_done, n_all, f"Embedded {item.field}", {"cells_per_s": rate})
    project.keep_stamps()
    if shard.world == 1:
        yield Progress(n_done, n_all, "Writing the table")
        # Of tables from before this was noted, what is there now counts as what the cells were measured from.
        measured = project.measured_from()
        project.merge(pixels={f: pixels for f, pixels in images.now.items() if f not in measured})
        # A field whose pixels were gone and can be read again has no problem any more.
        again = {t.field: "" for t in todo if t.any_missing.any() and project.field(t.field).problem}
        project.mark({**again, **problems})
    notes: list[str] = []
    for run in runs:
        said = [*_fit_notes(project, run.ready, seed), *run.engine.notes, *_image_notes(images)]
        project.log(
            "embed", keys=run.ready.keys, **run.ready.how, cells=run.n_cells, skipped=n_all - run.n_cells,
            problems=problems, engine=run.engine.describe(), notes=said,
        )  # fmt: skip
        notes += said
    if problems and not n_cells and n_all:
        raise InputError(f"No cell could be embedded. The first reason: {next(iter(problems.values()))}")
    keys = tuple(k for run in runs for k in run.ready.keys)
    return EmbedResult(keys, n_cells, n_all - n_cells, problems, tuple(dict.fromkeys(notes)))


@dataclass
class _Run:
    """One network of an embedding pass, and how it went."""

    ready: Prepared
    engine: Embedder
    n_cells: int = 0


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

    @property
    def written(self) -> tuple[tuple[str, str], ...]:
        """Each embedding's key with its layer."""
        return tuple(zip(self.keys, self.taps, strict=True))


def prepare(
    project: Project,
    *,
    model: str,
    config: dict[str, Any] | None = None,
    key: str = "",
    layers: Sequence[str] = (),
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
) -> Prepared:
    """Load the network and match it with the project; nothing is written. Arguments are those of `embed`."""
    if channels and not config and _takes_channels(project, model):
        config = {"channels": tuple(channels)}
    net, trained = find_model(project, model, seed, config, settings)
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
        **({"illumination": project.illumination.digest} if project.illumination else {}),
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
        for k, tap in ready.written
    )
    own = shard.of(chosen)
    keys = ready.keys if stands else ()  # not so: another way, or not yet
    todo = _todo(project, obs, [keys], own, project.look_at_images(own))
    return {t.field: t.rows[t.any_missing] for t in todo if t.any_missing.any()}


def _image_notes(images: Images) -> list[str]:
    notes = []
    if images.replaced:
        notes.append(
            f"The images of {_count_of(images.replaced)} were replaced since their cells were found, and the outlines are of "
            "the old ones; segment again: only these fields are done anew."
        )
    if images.away:
        notes.append(
            f"The images of {_count_of(images.away)} cannot be reached now; the vectors they have count as up to date."
        )
    return notes


def _count_of(fields: Sequence[str]) -> str:
    return f"{len(fields):,} field{'s' * (len(fields) != 1)} ({join_words(fields, 3)})"


def find_model(
    project: Project,
    model: str,
    seed: int = 0,
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> tuple[EmbeddingModel, bool]:
    """The model a name or path means for this project, and whether its weights are trained.

    `config` makes a network of random weights, `settings` change what is there; both are as for `embed`.
    """
    import torch

    from napari_cellrep.models import change_settings, create_model, list_models, load_model

    if settings:
        net, trained = find_model(project, model, seed, config)
        return change_settings(net, settings), trained
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


def _fit_notes(project: Project, ready: Prepared, seed: int) -> list[str]:
    """What to know of how far the images are like those that the weights were trained on."""
    notes, net, crop, published = [], ready.net, ready.net.crop, ready.published
    if not ready.trained and any(True for _ in net.parameters()):
        notes.append(
            f"{net.spec.title} ran with random weights (seed {seed}); train it, or give it trained weights."
        )
    lacking = [role for role, i in zip(net.roles, ready.planes, strict=True) if i == EMPTY]
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
    if cut := _larger(project, crop):
        notes.append(
            f"{cut:,} of {project.cells.n_obs:,} cells are larger than what the network is shown of a cell: their vectors "
            "describe only that part" + ("; --window-px shows more." if crop.mode == "window" else ".")
        )
    return notes


def _larger(project: Project, crop: CropSpec) -> int:
    """How many cells are larger than their window, or than the side of their box where it does not shrink."""
    obs = project.cells.obs
    extent = np.maximum(obs["box_y1"] - obs["box_y0"], obs["box_x1"] - obs["box_x0"]).to_numpy()
    if crop.mode == "box":
        return 0 if crop.box_shrink else int((extent > crop.size_px).sum())
    sides = {f.id: crop.side_px(f.um_per_px) for f in project.fields}
    return int((extent > obs["field"].astype(str).map(sides).to_numpy(float)).sum())


def _takes_channels(project: Project, model: str) -> bool:
    """Whether a model is made for any number of channels, named in its settings (`measurements`)."""
    if model not in registry.names("models") or (project.root / "models" / model / "model.json").is_file():
        return False
    return field_rules(registry.load("models", model).Config).get("channels", {}).get("type") == "tuple"


def weights_digest(net: EmbeddingModel) -> str:
    """Short hash of a model's weights."""
    h = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        h.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


@dataclass(frozen=True)
class _Todo:
    """One field: all its rows, and for each network which of them have no valid vector yet."""

    field: str
    rows: pd.DataFrame
    missing: tuple[np.ndarray, ...]  # bool (n,), one per network
    whole: _Todo | None = None  # the field, where this is a part of one larger than memory …
    at: np.ndarray | None = None  # … and which of its rows these are
    last: bool = True

    @property
    def any_missing(self) -> np.ndarray:
        """Which rows any network has to do."""
        return np.logical_or.reduce(self.missing)


@dataclass(frozen=True)
class _Cut(_Todo):
    """A field whose cells are cut, for each network in its own way; windows of another side than its are not resized."""

    crops: tuple[np.ndarray | InputError, ...] = ()
    pixels: str = ""  # `Project.pixels_of` the field when it was read


def _in_parts(project: Project, item: _Todo) -> list[_Todo]:
    """A field larger than memory as the cells of one part after the other; any other as it is."""
    if not item.any_missing.any() or not project.is_big(item.field):
        return [item]
    groups = slides.by_tile(item.rows[["y_px", "x_px"]].to_numpy(float))
    return [
        _Todo(item.field, item.rows.iloc[at], tuple(m[at] for m in item.missing), item, at, at is groups[-1])
        for at in groups
    ]


class _Slide:
    """Vectors of a field larger than memory, until they are written: now and then, and after its last part."""

    EVERY_S = 120.0

    def __init__(self, project: Project):
        self._project = project
        self._held: dict[
            str, tuple[np.ndarray, np.ndarray, np.ndarray]
        ] = {}  # key → vectors, done, missing before
        self._since = perf_counter()

    def add(
        self, key: str, item: _Todo, missing: np.ndarray, vectors: np.ndarray, before: np.ndarray
    ) -> None:
        assert item.whole is not None
        assert item.at is not None
        n = len(item.whole.rows)
        if key not in self._held:
            self._held[key] = np.full((n, vectors.shape[1]), np.nan, np.float32), np.zeros(n, bool), before
        x, done, _ = self._held[key]
        x[item.at[missing]] = vectors
        done[item.at[missing]] = True

    def write(self, item: _Cut) -> None:
        if item.whole is None or not (item.last or perf_counter() - self._since > self.EVERY_S):
            return
        for key, (x, done, before) in self._held.items():
            here = done | ~before
            _write(self._project, key, item.field, item.whole.rows[here], done[here], x[done], item.pixels)
        self._since = perf_counter()
        if item.last:
            self._held = {}


def _todo(
    project: Project, obs: pd.DataFrame, keys: Sequence[Sequence[str]], fields: Sequence[str], images: Images
) -> list[_Todo]:
    """What there is to do in each field, for each network by the keys it writes; without a key, every row."""
    by_field = dict(tuple(obs.groupby(obs["field"].astype(str), sort=False)))
    out = []
    for field in fields:
        if field not in by_field:
            continue
        rows = by_field[field]
        missing = []
        for own in keys:
            done = np.full(len(rows), bool(own))
            for key in own:
                done &= _up_to_date(project.read_rows(key, field), rows, images.now.get(field, ""))
            missing.append(~done)
        out.append(_Todo(field, rows, tuple(missing)))
    return out


def _up_to_date(stored: np.ndarray | None, rows: pd.DataFrame, pixels: str) -> np.ndarray:
    """Which cells have a row of their mask and of the pixels there are now; "" or 0: of which that is not known."""
    if stored is None:
        return np.zeros(len(rows), bool)
    of = pixels_in(stored)
    valid = (of == 0) | (of == int(pixels, 16) if pixels else True)
    have = {(int(a), int(b)) for a, b in zip(stored["label"][valid], stored["mask_hash"][valid], strict=True)}
    return np.array(
        [(int(a), int(b)) in have for a, b in zip(rows["label"], rows["mask_hash"], strict=True)], bool
    )


def _prefetch(project: Project, todo: Sequence[_Todo], nets: Sequence[Prepared]) -> Iterator[_Cut]:
    """Crops of one field after the other; the next field is decoded while the networks have this one."""
    nothing = np.empty((0, 0, 0, 0))
    # Crops of every other field share memory: when a field is cut, the one before the last has been embedded.
    memory: dict[tuple[int, int], np.ndarray] = {}

    def cut(item: _Todo, turn: int) -> _Cut:
        if not item.any_missing.any():
            return _Cut(
                item.field, item.rows, item.missing, item.whole, item.at, item.last, (nothing,) * len(nets)
            )
        cells = boxes_of(item.rows)
        pixels = project.pixels_of(item.field)  # before it is read: what replaces it meanwhile is seen later
        try:
            image, labels, cells = read_around(project, item.field, [ready.net.crop for ready in nets], cells)
        except InputError as error:
            return _Cut(
                item.field, item.rows, item.missing, item.whole, item.at, item.last, (error,) * len(nets)
            )
        crops: list[np.ndarray | InputError] = []
        for k, (ready, missing) in enumerate(zip(nets, item.missing, strict=True)):
            if not missing.any():
                crops.append(nothing)
                continue
            try:
                part = _cut(
                    project, item.field, _some(cells, missing), ready.net.crop, ready.planes, image, labels, False,
                    memory.get((k, turn)),
                )  # fmt: skip
            except InputError as error:
                crops.append(error)
                continue
            if part.base is None:
                memory[k, turn] = part
            crops.append(part)
        return _Cut(item.field, item.rows, item.missing, item.whole, item.at, item.last, tuple(crops), pixels)

    with ThreadPoolExecutor(1) as pool:
        following = None
        for i, item in enumerate(todo):
            current = following.result() if following else cut(item, i % 2)
            following = pool.submit(cut, todo[i + 1], (i + 1) % 2) if i + 1 < len(todo) else None
            yield current


def cut_cells(
    project: Project,
    field: str,
    rows: pd.DataFrame,
    spec: CropSpec,
    planes: Sequence[int],
    resized: bool = True,
) -> np.ndarray:
    """Crops (n, C, S, S) of some cells of one field, channels in the order of `planes`; `resized` as for `cut_crops`."""
    out: np.ndarray | None = None
    for at, crops in _cut_parts(project, field, rows, spec, planes, resized):
        if len(at) == len(rows):
            return crops
        out = np.empty((len(rows), *crops.shape[1:]), crops.dtype) if out is None else out
        out[at] = crops
    return out if out is not None else np.empty((0, len(planes), spec.size_px, spec.size_px), np.float32)


def cut_by_field(
    project: Project, rows: pd.DataFrame, spec: CropSpec, planes: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Crops of cells of any fields, one field after the other: its id, which of the rows are its, their crops.

    A field larger than memory comes in several parts.
    """
    fields = rows["field"].astype(str).to_numpy()
    for field in dict.fromkeys(fields):
        own = np.flatnonzero(fields == field)
        for at, crops in _cut_parts(project, field, rows.iloc[own], spec, planes):
            yield field, own[at], crops


def _cut_parts(
    project: Project,
    field: str,
    rows: pd.DataFrame,
    spec: CropSpec,
    planes: Sequence[int],
    resized: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Crops of cells of one field, part after part if it is larger than memory: which of the rows, and their crops."""
    for at in project.parts_of(field, rows[["y_px", "x_px"]].to_numpy(float)):
        image, labels, cells = read_around(project, field, [spec], boxes_of(rows.iloc[at]))
        yield at, _cut(project, field, cells, spec, planes, image, labels, resized)


def read_around(
    project: Project,
    field: str,
    specs: Sequence[CropSpec],
    cells: Boxes,
    *,
    masks: bool | None = None,
    margin_px: int = 0,
) -> tuple[np.ndarray, np.ndarray | None, Boxes]:
    """A field's pixels, its labels if they are wanted, and where the cells are in them.

    Of a field larger than memory, only the part that the cells' crops show and a margin.

    Parameters
    ----------
    masks : bool, optional
        Whether labels are wanted; None: if one of the crops shows masks.
    margin_px : int
        How far around the crops.
    """
    masks = any(spec.masked or spec.mask_plane for spec in specs) if masks is None else masks
    if not project.is_big(field):
        return project.read_image(field), project.read_labels(field) if masks else None, cells
    one = project.field(field)
    box = slides.grown(around(cells, specs, one.um_per_px), margin_px, (one.height_px, one.width_px))
    labels = project.read_labels_region(field, box) if masks else None
    return project.read_region(field, box), labels, moved(cells, box[:2])


def _cut(
    project: Project, field: str, cells: Boxes, spec: CropSpec, planes: Sequence[int],
    image: np.ndarray, labels: np.ndarray | None, resized: bool, memory: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    labels = labels if spec.masked or spec.mask_plane else None
    um_per_px = project.field(field).um_per_px
    return cut_crops(pick_planes(image, planes), labels, cells, spec, um_per_px, resized, memory)


def _some(cells: Boxes, rows: np.ndarray) -> Boxes:
    return Boxes(cells.label[rows], cells.area_px[rows], cells.centroid[rows], cells.box[rows])


def boxes_of(rows: pd.DataFrame) -> Boxes:
    """Where cells are, from their rows of the table."""
    return Boxes(
        rows["label"].to_numpy(np.int64),
        rows["area_px"].to_numpy(np.int64),
        rows[["y_px", "x_px"]].to_numpy(np.float64),
        rows[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(np.int64),
    )


def _write(
    project: Project, key: str, field: str, rows: pd.DataFrame, missing: np.ndarray, vectors: np.ndarray, pixels: str
) -> None:  # fmt: skip
    """Write a field's rows: the new vectors, of `pixels`, and those from before that are still valid."""
    x = np.full((len(rows), vectors.shape[1]), np.nan, np.float32)
    x[missing] = vectors
    of = np.full(len(rows), int(pixels or "0", 16), np.uint64)
    if not missing.all():
        stored = project.read_rows(key, field)
        assert stored is not None  # rows are only not missing when they were read
        at = {int(label): i for i, label in enumerate(stored["label"])}
        kept = [at[int(label)] for label in rows["label"][~missing]]
        x[~missing], of[~missing] = stored["x"][kept], pixels_in(stored)[kept]
    labels, hashes = rows["label"].to_numpy(np.int64), rows["mask_hash"].to_numpy(np.uint64)
    project.write_rows(key, field, labels, hashes, x, of)
