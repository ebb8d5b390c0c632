"""Fields → vectors: whole images through the same networks, into a table of their own."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.crops import Boxes, cut_crops, weights_to_size
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import EMPTY, CropSpec, InputError, digest, match_channels
from napari_cellrep.steps.embed import base_name, find_model, pick_planes, take_channels, weights_digest

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel
    from napari_cellrep.models._engine import Embedder

MODES = ("auto", "tile", "rescale")
OVERVIEW_PX = (
    2048  # longer side of a field larger than memory before it is made as small as a network wants it
)
_AT_ONCE = 8  # fields per forward pass: few enough for the memory, enough to fill a batch


@dataclass(frozen=True)
class EmbedFieldsResult:
    """What came of embedding fields.

    Parameters
    ----------
    key : str
        Its vectors are ``obsm["X_<key>"]`` of the field table.
    n_fields, n_skipped : int
        Fields embedded now; fields whose vectors were up to date.
    problems : dict of str to str
        Field → sentence.
    notes : tuple of str
        What the user should know.
    """

    key: str
    n_fields: int
    n_skipped: int
    problems: dict[str, str]
    notes: tuple[str, ...]


def embed_fields(
    project: Project,
    *,
    model: str = "microsnoop",
    config: dict[str, Any] | None = None,
    key: str = "",
    mode: str = "auto",
    channels: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
) -> Job[EmbedFieldsResult]:
    """Embed whole fields, without cells, and write them to the field table.

    Fields that were embedded the same way, from the same files, are skipped. What is done when the job is stopped
    is kept.

    Parameters
    ----------
    model : str
        A model of this project, a path to weights, or a model's name (random weights).
    config : dict, optional
        Settings of a network with random weights.
    key : str
        What the embedding is called; empty: the model's name.
    mode : str
        "tile": the mean over the network's own tiles (Microsnoop, models.md §4.3). "rescale": the whole field, made
        square with zeros, shrunk or enlarged to the network's input (whole-image DINO). "auto": tiles where the
        network has them. A field larger than memory is embedded tile by tile, or shrunk to `OVERVIEW_PX` before.
    channels : sequence of str
        Names or roles of the project's channels, in the order the model wants; empty: by the model's roles.
    settings : dict, optional
        Settings of the network that leave its weights as they are, trained ones included: ``{"zoom": 0.5}``.
    fields : sequence of str
        Only these; empty: all.

    Yields
    ------
    Progress
        Once per field; the job returns an `EmbedFieldsResult`.

    Raises
    ------
    InputError
        If the model is not there or wants other channels, or the mode is not one it has.
    """
    if mode not in MODES:
        raise InputError(f"Fields are embedded in one of the modes {', '.join(MODES)}; got {mode!r}.")
    todo = [project.field(f) for f in fields] or list(project.fields)
    yield Progress(0, len(todo), "Loading the model")
    net, trained = find_model(project, model, seed, config, settings)
    if not net.on_device:
        raise InputError(f"{net.spec.title} measures cells; to describe whole fields choose a network.")
    take_channels(net, channels)
    tiles = hasattr(net, "embed_field")
    if mode == "tile" and not tiles:
        raise InputError(f"{net.spec.title} has no tiles of its own; embed fields with the mode rescale.")
    mode = ("tile" if tiles else "rescale") if mode == "auto" else mode
    planes = match_channels(net.roles, project.channels, net.spec.title, net.may_lack)
    base, published = base_name(project, net, model, key)
    how = {
        "model": net.spec.name, "weights": weights_digest(net), "trained": trained, "mode": mode,
        "config": dataclasses.asdict(net.config), "size_px": net.field_px,
        "channels": ["" if i == EMPTY else project.channels[i].name for i in planes],
        **({"published": published} if published else {}),
    }  # fmt: skip
    names = [f.id for f in todo]
    lit = project.illumination.digest if project.illumination else ""
    images = dict(zip(names, project.pixels_of_many(names), strict=True))
    stamps = {f: digest({**how, "image": [pixels, lit]}) for f, pixels in images.items()}

    found, made = _stored(project, base)
    old = made.get("stamps", {})
    if digest({k: made.get(k) for k in how}) == digest(
        how
    ):  # what cannot be reached now stays as it was made
        stamps.update({f: old[f] for f, pixels in images.items() if not pixels and f in old})

    def stands(field: str) -> bool:
        by_time = digest(
            {**how, "image": project.image_stamp(field)}
        )  # as versions noted it that went by time
        return old.get(field) in (stamps[field], by_time)

    found = {f: v for f, v in found.items() if f not in stamps or stands(f)}
    missing = [f.id for f in todo if f.id not in found]
    n_skipped, problems = len(todo) - len(missing), {}
    notes: list[str] = []
    if not trained:
        notes.append(f"{net.spec.title} ran with random weights (seed {seed}); give it trained weights.")
    n_done = n_skipped
    project.begin_step("embed fields")
    try:
        for names, vectors, bad, said in _vectors(project, net, missing, planes, mode, device, precision):
            found.update(zip(names, vectors, strict=True))
            problems.update(bad)
            notes += [n for n in said if n not in notes]
            n_done += len(names) + len(bad)
            yield Progress(n_done, len(todo), f"Embedded {n_done:,} of {len(todo):,} fields")
    finally:
        if found and n_done > n_skipped:
            kept = {
                **{f: s for f, s in old.items() if f in found},
                **{f: stamps[f] for f in found if f in stamps},
            }
            _write(project, base, found, {**how, "seed": seed}, kept)
    n_new = len(missing) - len(problems)
    project.keep_stamps()
    project.log(
        "embed fields", key=base, **how, fields=n_new, skipped=n_skipped, problems=problems, notes=notes
    )
    if problems and not n_new:
        raise InputError(f"No field could be embedded. The first reason: {next(iter(problems.values()))}")
    return EmbedFieldsResult(base, n_new, n_skipped, problems, tuple(notes))


def _vectors(
    project: Project,
    net: EmbeddingModel,
    fields: Sequence[str],
    planes: Sequence[int],
    mode: str,
    device: str,
    precision: str,
) -> Iterator[tuple[list[str], list[np.ndarray], dict[str, str], list[str]]]:
    """Fields, their vectors, the fields that failed, and notes; a few fields at a time."""
    from napari_cellrep.models._engine import Embedder

    engine = Embedder(net, net.layers[:1], device=device, precision=precision)

    def read(field: str) -> np.ndarray | InputError:
        try:
            image = pick_planes(project.overview(field, OVERVIEW_PX)[0], planes)
        except InputError as error:
            return error
        return image if mode == "tile" else _whole(image, net.crop)

    if mode == "tile":
        for field in [f for f in fields if project.is_big(f)]:
            yield from _slide_vectors(project, net, field, planes)
        fields = [f for f in fields if not project.is_big(f)]
    parts = [fields[i : i + _AT_ONCE] for i in range(0, len(fields), _AT_ONCE)]
    with ThreadPoolExecutor(1) as pool:  # the next fields are decoded while the network has these
        following = None
        for i, part in enumerate(parts):
            images = following.result() if following else [read(f) for f in part]
            following = (
                pool.submit(lambda p: [read(f) for f in p], parts[i + 1]) if i + 1 < len(parts) else None
            )
            bad = {f: str(x) for f, x in zip(part, images, strict=True) if isinstance(x, InputError)}
            good = [f for f in part if f not in bad]
            arrays = [x for x in images if not isinstance(x, InputError)]
            if mode == "tile":
                embed_field: Any = net.embed_field  # `embed_fields` has seen that it is there
                vectors = [embed_field(x) for x in arrays]
            else:
                small = [_to_size(engine, x, net.field_px) for x in arrays]
                vectors = list(engine.run(np.stack(small))[net.layers[0]]) if small else []
            yield good, vectors, bad, engine.notes


def _slide_vectors(
    project: Project, net: EmbeddingModel, field: str, planes: Sequence[int]
) -> Iterator[tuple[list[str], list[np.ndarray], dict[str, str], list[str]]]:
    """As `_vectors`, of one field larger than memory; nothing of it for every row of tiles, where it can be stopped."""
    one, rows_of_tiles = project.field(field), net.embed_rows
    shape = (one.height_px, one.width_px)

    def read(first: int, end: int) -> np.ndarray:
        return pick_planes(project.read_region(field, (first, 0, end, one.width_px)), planes)

    total, n = np.zeros(0), 0
    try:
        for vectors in rows_of_tiles(shape, read):  # type: ignore[operator]
            total = vectors.sum(axis=0, dtype=np.float64) + (total if n else 0)
            n += len(vectors)
            yield [], [], {}, []
    except InputError as error:
        yield [], [], {field: str(error)}, []
        return
    yield [field], [(total / n).astype(np.float32)], {}, []


def _to_size(engine: Embedder, field: np.ndarray, size_px: int) -> np.ndarray:
    """(C, size, size): a square field resized on the device, by itself, because fields are large and differ in size."""
    weights = weights_to_size(field, dataclasses.replace(engine.model.crop, size_px=size_px))
    return field if weights is None else engine.resized(field[None], weights)[0]


def _whole(image: np.ndarray, spec: CropSpec) -> np.ndarray:
    """(C, S, S): the whole field as one crop, square with zeros."""
    h, w = image.shape[1:]
    one = Boxes(np.array([1]), np.array([h * w]), np.array([[h / 2, w / 2]]), np.array([[0, 0, h, w]]))
    spec = dataclasses.replace(
        spec, mode="window", window_px=max(h, w), masked=False, mask_plane=False, um_per_px=0.0
    )
    return cut_crops(image, None, one, spec, resized=False)[0]


def _stored(project: Project, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Vectors of an embedding on disk by field, and how they were made: "stamps" says from what each."""
    table = project.field_table
    if table is None or f"X_{key}" not in table.obsm:
        return {}, {}
    made = json.loads(dict(table.uns.get("cellrep", {})).get(key, "{}"))
    x = np.asarray(table.obsm[f"X_{key}"])
    whole = np.isfinite(x).all(axis=1)
    return dict(zip(table.obs.index[whole], x[whole], strict=True)), made


def _write(
    project: Project, key: str, found: dict[str, np.ndarray], how: dict[str, Any], stamps: dict[str, str]
) -> None:
    """Write the field table: every field of the project, vectors where there are some."""
    old = project.field_table
    index = pd.Index([f.id for f in project.fields], name="field_id", dtype=object)
    obs = pd.DataFrame(
        [{**f.metadata, "group": f.group, "um_per_px": f.um_per_px} for f in project.fields], index=index
    )
    for column in obs:
        if obs[column].dtype == object:
            obs[column] = pd.Categorical([None if pd.isna(v) else str(v) for v in obs[column]])
    table = ad.AnnData(obs=obs, uns=dict(old.uns) if old is not None else {})
    if old is not None:
        at = old.obs.index.get_indexer(index)
        for name, x in old.obsm.items():
            table.obsm[name] = np.where((at >= 0)[:, None], np.asarray(x)[at], np.nan).astype(np.float32)
    dim = len(next(iter(found.values())))
    x = np.full((len(index), dim), np.nan, np.float32)
    for i, field in enumerate(index):
        if field in found:
            x[i] = found[field]
    table.obsm[f"X_{key}"] = x
    made = {
        **how,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "stamps": stamps,
    }
    table.uns["cellrep"] = {**dict(table.uns.get("cellrep", {})), key: json.dumps(made, default=str)}
    project.write_field_table(table)
