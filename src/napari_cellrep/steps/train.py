"""Cells → a trained model: binds the project to the training loop of `models._train`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project, slides
from napari_cellrep.data.classes import Classes, classes_of
from napari_cellrep.data.crops import around, cut_crops, moved, weights_to_size
from napari_cellrep.data.files import replacing, write_text
from napari_cellrep.data.filters import matching
from napari_cellrep.data.sets import read_sets
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import (
    CropSpec,
    InputError,
    ModelSpec,
    digest,
    field_rules,
    make_config,
    match_channels,
)
from napari_cellrep.steps.embed import boxes_of, find_model, set_crop, weights_digest
from napari_cellrep.steps.networks import CELLS

if TYPE_CHECKING:
    from napari_cellrep.models import EmbeddingModel
    from napari_cellrep.models._processes import Processes

R = TypeVar("R")


def train(
    project: Project,
    *,
    model: str = "paired_cell_inpainting",
    name: str = "",
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    include_flagged: bool = False,
    fields: Sequence[str] = (),
    cells: Sequence[str] = (),
    named_set: str = "",
    where: str = "",
    labels: str = "",
    weights: str = "",
    preset: str = "",
    finish: bool = False,
    processes: Processes | None = None,
    compiled: str = "auto",
) -> Job[Path]:
    """Train a model on the project's own cells; flagged cells are left out.

    Checkpoints are written every epoch, so a stopped run loses at most one; run again with the same settings to
    go on. The result is ``models/<name>/`` in the project; ``run.json`` there says how it was started and how far it
    is, ``preview.npz`` what the network makes of a few cells (`models._preview.look`).

    Parameters
    ----------
    model : str
        Which network.
    name : str
        What the trained model is called; empty: as the network.
    config, training : dict, optional
        Settings of the network and of its training; unnamed ones keep their defaults.
    channels : sequence of str
        Names or roles, in the order the network wants; empty: by role. A network for any channels is made for them.
    crop : dict, optional
        Settings of `CropSpec` to use instead of the network's; they stay with the trained model.
    fields, cells : sequence of str
        Ids of fields, and of cells, to train on; empty: all.
    named_set : str
        Train on the cells of a set that was saved in the window.
    where : str
        Train on the cells of which this is true: ``"dose_rank < 3"`` (`data.filters.matching`). What is chosen in
        several ways has to fit all of them.
    labels : str
        Column of the cell table that holds each cell's class, for a network that learns from classes (`deeploc`).
        Cells without one are left out.
    weights : str
        What to start from instead of random weights: a model trained in this project, published weights by name, or
        a path. The network is then as those weights need it, its channels and classes may be others
        (`models._base.start_from`); what changed is said and in ``model.json`` ("initial").
    preset : str
        Name of one of the network's presets (`specs.Preset`); `training` goes before it. "": the paper's recipe.
    finish : bool
        Do no further step: make the model of the checkpoint that is there. Training can go on from it later.
    processes : Processes, optional
        Those that train together (`models._processes.joined`). Only the first one writes.
    compiled : str
        Whether torch compiles the network: "auto" (long trainings on CUDA, if a trial shows that it pays), "on" or "off".

    Yields
    ------
    Progress
        Once per training step, with the loss; the job returns the model's folder.

    Raises
    ------
    InputError
        If the network cannot be trained, a setting is wrong, or there is nothing to train on.
    """
    from napari_cellrep.models._checkpoint import CHECKPOINT
    from napari_cellrep.models._processes import ALONE
    from napari_cellrep.models._train import train as run

    processes = processes or ALONE
    how: dict[str, Any] = {
        "model": model, "name": name, "config": config, "training": training, "channels": list(channels), "crop": crop,
        "include_flagged": include_flagged, "fields": list(fields), "cells": list(cells), "named_set": named_set,
        "where": where, "labels": labels, "weights": weights, "preset": preset,
    }  # fmt: skip
    yield Progress(0, 0, "Preparing to train")
    made = prepare(project, **how)
    path = made.folder / "run.json"
    if finish and not (made.folder / CHECKPOINT).is_file():
        raise InputError(f"{made.folder.name} has no checkpoint yet; train it for a while first.")
    job = run(
        made.net, made.cells, made.settings, made.folder, device=device, precision=precision, resume=resume or finish,
        card=made.card, finish=finish, processes=processes, compiled=compiled,
    )  # fmt: skip
    noted = processes.first and not finish
    last, state = Progress(0, 0), "paused"

    def note(at: Progress) -> Progress:
        nonlocal last
        if noted and not last.total:
            _note_run(path, how, "running", at)
        last = at
        return at

    try:
        result = yield from _driven(job, note)
        state = "done"
    finally:
        if noted and last.total:
            _note_run(path, how, state, last)
    if not processes.first:
        return made.folder
    _note_cells(made)
    project.log(
        "train", model=model, name=made.folder.name, training=dataclasses.asdict(made.settings),
        config=dataclasses.asdict(made.net.config), **made.card, result=result,
    )  # fmt: skip
    return made.folder


def train_several(
    project: Project,
    *,
    seeds: Sequence[int] = (),
    learning_rates: Sequence[float] = (),
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    processes: Processes | None = None,
    compiled: str = "auto",
    **how: Any,
) -> Job[Path]:
    """Train one network from several seeds and with several learning rates, and keep the best by validation loss.

    The recipe of DeepLoc's papers. Each run has its folder ``models/<name>/runs/seed<s>-rate<r>/``, with its history and
    checkpoint; stopped, the queue goes on where it was. The best run's model becomes ``models/<name>/``, beside the
    table of all runs, ``runs.csv``, which is also in its ``model.json``.

    Parameters
    ----------
    seeds : sequence of int
        Empty: the one of the settings.
    learning_rates : sequence of float
        Empty: the one of the settings.
    device, precision, resume, processes, compiled, **how
        As for `train`.

    Yields
    ------
    Progress
        Once per training step, over all runs; the job returns the model's folder.

    Raises
    ------
    InputError
        As `train`; also if no cell is held out, so that no run could be called the best.
    """
    from napari_cellrep.models._processes import ALONE
    from napari_cellrep.models._train import train as run

    processes = processes or ALONE
    how = {"model": "paired_cell_inpainting", **how}
    asked = {**how, "seeds": list(seeds), "learning_rates": list(learning_rates)}
    settings = dict(how.pop("training", None) or {})
    yield Progress(0, 0, "Preparing to train")
    chosen = runs_of(seeds, learning_rates)
    path = project.root / "models" / (how.get("name") or how["model"]) / "run.json"
    last, state = Progress(0, 0), "paused"

    def over_all(i: int, which: str, at: Progress) -> Progress:
        nonlocal last
        begins = not last.total
        last = Progress(i * at.total + at.done, len(chosen) * at.total, f"{which}: {at.message}", at.metrics)
        if begins and processes.first:
            _note_run(path, asked, "running", last)
        return last

    rows: list[dict[str, Any]] = []
    try:
        for i, values in enumerate(chosen):
            made = prepare(project, **how, training={**settings, **values})
            _check_several(made)
            seed, rate = made.settings.seed, made.settings.learning_rate
            which = f"Run {i + 1} of {len(chosen)} (seed {seed}, learning rate {rate:g})"
            job = run(
                made.net, made.cells, made.settings, run_folder(made), device=device, precision=precision, resume=resume,
                card=made.card, processes=processes, compiled=compiled,
            )  # fmt: skip
            result = yield from _driven(job, partial(over_all, i, which))
            scores = {f"val_{k}": v for k, v in result["validation"].items() if k != "n_cells"}
            more: dict[str, Any] = {
                k: result[k] for k in ("best_epoch", "epoch", "step", "seconds") if k in result
            }
            folder = run_folder(made).name
            rows.append({"seed": seed, "learning_rate": rate, **scores, **more, "folder": folder})
        best = min(range(len(rows)), key=lambda i: rows[i]["val_loss"])
        made = prepare(project, **how, training={**settings, **chosen[best]})
        if not processes.first:
            return made.folder
        table = pd.DataFrame(rows).assign(kept=[i == best for i in range(len(rows))])
        _take_run(made.folder, run_folder(made), table)
        _note_cells(made)
        state = "done"
    finally:
        if last.total and processes.first:
            _note_run(path, asked, state, last)
    project.log(
        "train", model=how["model"], name=made.folder.name, training=dataclasses.asdict(made.settings),
        config=dataclasses.asdict(made.net.config), **made.card, result=rows[best], runs=len(rows),
    )  # fmt: skip
    return made.folder


def _check_several(made: Prepared) -> None:
    """Whether several of this training can be told apart, and do not overwrite one."""
    from napari_cellrep.models._checkpoint import CHECKPOINT
    from napari_cellrep.models._sampling import make_sampler

    if (made.folder / CHECKPOINT).is_file():
        raise InputError(
            f"{made.folder.name} is a training of its own that can go on; give the best of several another name (--name)."
        )
    if not len(make_sampler(made.net, made.cells, made.settings, made.settings.batch_size).validation):
        raise InputError(
            "The best of several runs is told by cells that are held out, and none is; set held_out above 0, or train on "
            "groups with more images or cells."
        )


def runs_of(seeds: Sequence[int], learning_rates: Sequence[float]) -> list[dict[str, Any]]:
    """Settings of every run of `train_several`; one without any where neither is given."""
    rates = [{"learning_rate": rate} for rate in dict.fromkeys(learning_rates)]
    chosen = [{"seed": seed} for seed in dict.fromkeys(seeds)]
    return [{**rate, **seed} for rate in rates or [{}] for seed in chosen or [{}]]


def run_folder(made: Prepared) -> Path:
    """Where one of `train_several`'s runs goes."""
    return made.folder / "runs" / f"seed{made.settings.seed}-rate{made.settings.learning_rate:g}"


def _driven(job: Job[R], each: Callable[[Progress], Progress]) -> Job[R]:
    """Do a job, and say of its progress what `each` makes of it; closed before its end, it writes its checkpoint."""
    try:
        while True:
            try:
                at = next(job)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            yield each(at)
    finally:
        job.close()


def _take_run(folder: Path, best: Path, table: pd.DataFrame) -> None:
    """Make the model of one run that of the queue, `model.json` last: with it the model is there."""
    write_text(folder / "runs.csv", table.to_csv(index=False))
    for name in ("weights.safetensors", "history.csv", "preview.npz"):
        if (best / name).is_file():
            with replacing(folder / name) as tmp:
                shutil.copyfile(best / name, tmp)
    card = json.loads((best / "model.json").read_text(encoding="utf-8"))
    card["runs"] = json.loads(table.to_json(orient="records"))
    write_text(folder / "model.json", json.dumps(card, indent=1, ensure_ascii=False))


def _note_cells(made: Prepared) -> None:
    """Write down which cells the model learned from and which judged it (``cells.csv``), and of which weights that is true.

    What is held out follows from the cells and the settings alone, so it is the same again as it was in training.
    """
    from napari_cellrep.models import load_model
    from napari_cellrep.models._sampling import make_sampler

    sampler = make_sampler(made.net, made.cells, made.settings, made.settings.batch_size)
    parts = {"learned": sampler.rows, "validation": sampler.validation, "test": sampler.test}
    table = pd.concat([made.cells.ids_of(rows).assign(part=part) for part, rows in parts.items()])
    write_text(made.folder / CELLS, table.to_csv(index_label="cell_id", lineterminator="\n"))
    path = made.folder / "model.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["cells"] = {
        "file": CELLS, "weights": weights_digest(load_model(made.folder)), **{part: len(rows) for part, rows in parts.items()}
    }  # fmt: skip
    write_text(path, json.dumps(card, indent=1, ensure_ascii=False))


def resume_training(project: Project, *, name: str, device: str = "auto", finish: bool = False) -> Job[Path]:
    """Go on with a training as it was started (``run.json`` in the model's folder).

    Parameters
    ----------
    name : str
        The model's folder.
    finish : bool
        Do no further step: make the model of the checkpoint that is there.
    """
    path = project.root / "models" / name / "run.json"
    try:
        how = json.loads(path.read_text(encoding="utf-8"))["how"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"There is no training called {name!r} to go on with.") from None
    if "seeds" in how:
        if finish:
            raise InputError(
                f"{name} is made of the best of several trainings; there is none before all of them are done."
            )
        return (yield from train_several(project, **how, device=device))
    return (yield from train(project, **how, device=device, finish=finish))


def _note_run(path: Path, how: dict[str, Any], state: str, at: Progress) -> None:
    write_text(
        path, json.dumps({"state": state, "step": at.done, "total": at.total, "how": how}, default=str)
    )


@dataclass(frozen=True)
class Prepared:
    """Everything training needs, before its first step."""

    net: EmbeddingModel
    cells: ProjectCells
    settings: Any  # the network's Training
    folder: Path
    card: dict[str, Any]


def prepare(
    project: Project,
    *,
    model: str,
    name: str = "",
    config: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    include_flagged: bool = False,
    fields: Sequence[str] = (),
    cells: Sequence[str] = (),
    named_set: str = "",
    where: str = "",
    labels: str = "",
    weights: str = "",
    preset: str = "",
) -> Prepared:
    """Make the network and gather its cells; nothing is written. Arguments are those of `train`."""
    import torch

    from napari_cellrep.models import can, create_model
    from napari_cellrep.models._base import start_from

    try:
        module = registry.load("models", model)
    except KeyError as error:
        raise InputError(str(error.args[0])) from None
    if not hasattr(module, "Training") or not can(module.Model, "train"):
        raise InputError(f"{module.SPEC.title} is not trained; it can only embed.")
    if name and (name.startswith(".") or "/" in name or "\\" in name):
        raise InputError(f"A model cannot be called {name!r}: no slash, no dot in front.")
    settings = make_config(module.Training, {**preset_values(module.SPEC, preset), **(training or {})})
    if labels and not module.SPEC.labels:
        raise InputError(f"{module.SPEC.title} learns without classes; leave the column of labels away.")
    folder = project.root / "models" / (name or model)
    start = _start(project, weights, module.SPEC, folder) if weights else None
    config = {**(dataclasses.asdict(start.config) if start else {}), **(config or {})}
    if start and labels:
        config.pop("n_classes", None)
    if start and channels and "channels" in field_rules(module.Config):
        config.pop("channels", None)
    if channels and (kind := field_rules(module.Config).get("channels", {}).get("type")):
        # Made for the channels it is given (`dino`), or for as many (`deeploc`).
        config.setdefault("channels", tuple(channels) if kind == "tuple" else len(channels))
    keep, said = chosen_cells(project, fields=fields, cells=cells, named_set=named_set, where=where)
    classes: Classes | None = None
    if module.SPEC.labels:
        classes = classes_of(
            project.cells.obs, labels, module.SPEC.title, keep, include_flagged, settings.min_cells
        )
        if int(config.get("n_classes") or len(classes.names)) != len(classes.names):
            raise InputError(
                f"{labels} has {len(classes.names):,} classes, and the network was asked to have {config['n_classes']}; "
                "leave that setting away."
            )
        config["n_classes"] = len(classes.names)
        keep = classes.codes >= 0
    network = make_config(module.Config, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = create_model(model, **dataclasses.asdict(network))
    initial: dict[str, Any] = {}
    if start:
        if not channels and len(start.roles) == len(net.roles):
            net.roles = start.roles
        elif channels and len(channels) == len(net.roles):
            net.roles = tuple(channels)
        words = start_from(net, start)
        initial = {
            "weights": weights,
            "digest": weights_digest(start),
            **({"mapped": words} if words else {}),
            **({"published": True} if start.card.get("published") == weights else {}),
        }
        net.crop = dataclasses.replace(start.crop, channels=net.roles)
    if channels:
        if len(channels) != len(net.roles):
            raise InputError(
                f"{net.spec.title} wants {len(net.roles)} channels ({', '.join(net.roles)}); got {len(channels)}."
            )
        net.roles = tuple(channels)
    set_crop(net, project, crop, trained=bool(start))
    seen = net.training_crop(settings)
    crops = ProjectCells(
        project,
        seen,
        match_channels(net.roles, project.channels, net.spec.title),
        include_flagged,
        keep=keep,
        classes=classes,
    )
    card = {
        "trained_on": project.name,
        "channels": [project.channels[i].name for i in crops.planes],
        "data": crops.digest,
        "n_cells": len(crops),
        "um_per_px": crops.um_per_px,
        **({"training_crop": dataclasses.asdict(seen)} if seen != net.crop else {}),
        **({"chosen": said} if said else {}),
        **({"labels": labels, "classes": list(classes.names)} if classes else {}),
        **({"initial": initial} if initial else {}),
        **({"preset": preset} if preset else {}),
    }
    if net.crop.mode == "window" and net.crop.um_per_px <= 0 < crops.um_per_px:
        # The same window as it is here; on images of another sampling one that shows as much.
        sampling = crops.um_per_px * net.crop.window_px / net.crop.size_px
        net.crop = dataclasses.replace(net.crop, um_per_px=sampling)
    if initial.get("mapped"):
        crops.note = f"{crops.note} Starts from {weights}: {initial['mapped']}".strip()
    return Prepared(net, crops, settings, folder, card)


def preset_values(spec: ModelSpec, preset: str) -> dict[str, Any]:
    """Settings of a preset; none of ""."""
    found = {p.name: p.values for p in spec.presets}
    if preset and preset not in found:
        have = f"presets are {', '.join(found)}" if found else "it has none"
        raise InputError(f"{spec.title} has no preset {preset!r}; {have}.")
    return found[preset] if preset else {}


def _start(project: Project, weights: str, spec: ModelSpec, folder: Path) -> EmbeddingModel:
    """The network whose weights training starts from."""
    if (project.root / "models" / weights).resolve() == folder.resolve():
        raise InputError(
            f"{weights} cannot be trained from its own weights under the same name; give the new model another one (--name)."
        )
    net, trained = find_model(project, weights)
    if net.spec.name != spec.name:
        raise InputError(
            f"The weights {weights} are of {net.spec.title}, and {spec.title} is to be trained; choose that network "
            f"(--model {net.spec.name})."
        )
    if not trained:
        raise InputError(f"{weights} is a network with random weights; leave it away, or name trained ones.")
    return net


def chosen_cells(
    project: Project,
    *,
    fields: Sequence[str] = (),
    cells: Sequence[str] = (),
    named_set: str = "",
    where: str = "",
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Which rows of the table are asked for (None: all), and how to remember it."""
    obs = project.cells.obs
    keep = np.ones(len(obs), bool)
    said: dict[str, Any] = {}
    if fields:
        ids = [project.field(f).id for f in fields]
        keep &= obs["field"].astype(str).isin(ids).to_numpy()
        said["fields"] = ids
    if cells:
        keep &= obs.index.isin(list(cells))
        said["cells"] = len(cells)
    if named_set:
        keep &= obs.index.isin(_set(project, named_set))
        said["set"] = named_set
    if where.strip():
        keep &= matching(obs, where)
        said["where"] = where.strip()
    if said and not keep.any():
        raise InputError("None of the cells is among those to train on; choose others, or all.")
    return (keep if said else None), said


def _set(project: Project, name: str) -> list[str]:
    sets = read_sets(project.root)
    if name not in sets:
        raise InputError(f"There is no set called {name!r}; sets are {', '.join(sets) or 'none'}.")
    return list(sets[name]["cells"])


SMALL_PART_PX = 256  # side of a part of slides that do not fit into memory


class ProjectCells:
    """The project's cells as training sees them: crops by row, and the group of each row.

    Fields are decoded when first needed and kept while they fit in `memory_bytes`; crops are cut from them by
    coordinates, never from a folder of crops. A field larger than memory is decoded part by part: in large parts if all
    such fields fit, else in small ones, so that a cell drawn at random costs little more than its own pixels.

    Attributes
    ----------
    weights : ndarray of float32, (size, S), or None
        `crops` are windows of S px, and training resizes them on the device by these. None: they have their size; so
        they do, too, where images of several pixel sizes make windows of several sizes.
    """

    def __init__(
        self,
        project: Project,
        spec: CropSpec,
        planes: Sequence[int],
        include_flagged: bool = False,
        memory_bytes: int = 2 << 30,
        keep: np.ndarray | None = None,
        classes: Classes | None = None,
    ):
        obs = project.cells.obs if keep is None else project.cells.obs[keep]
        self._obs = obs if include_flagged or "good" not in obs else obs[obs["good"].to_numpy(bool)]
        if not len(self._obs):
            raise InputError(
                f"All {len(obs):,} cells are flagged, so there is none to train on; look at the flags, or train with "
                "flagged cells included (--include-flagged)."
            )
        self.planes = tuple(planes)
        self.groups = pd.factorize(self._obs["group"].astype(str))[0]
        self.group_names = tuple(dict.fromkeys(self._obs["group"].astype(str)))
        own = list(dict.fromkeys(self._obs["field"].astype(str)))
        images = project.look_at_images(own)
        replaced = {f: images.now[f] for f in images.replaced}  # else nothing that the masks do not say
        made_of = [list(self._obs.index), [int(h) for h in self._obs["mask_hash"]], dataclasses.asdict(spec)]
        self.digest = digest([*made_of, *([replaced] if replaced else [])])
        self._project, self._spec, self._memory = project, spec, memory_bytes
        self._field = self._obs["field"].astype(str).to_numpy()
        self.fields = pd.factorize(self._field)[0]
        sizes = {project.field(f).um_per_px for f in dict.fromkeys(self._field)}
        self.um_per_px = max(sizes) if len(sizes) == 1 else 0.0  # of all its images; 0: unknown, or several
        sides = {spec.side_px(um) for um in sizes} if spec.mode == "window" else set()
        self.weights = weights_to_size(np.empty((0, *sides)), spec) if len(sides) == 1 else None
        self.note = ""
        if classes is not None:  # of the whole table
            codes = pd.Series(classes.codes, index=project.cells.obs.index)
            self.labels = codes.loc[self._obs.index].to_numpy()
            self.classes, self.note = classes.names, classes.note
        self._images: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._parts: list[tuple[str, slides.Box | None]] = []  # a field, or a part of one
        self._part = np.empty(len(self._obs), np.int64)  # of each row
        slides_bytes = sum(self._bytes(f) for f in dict.fromkeys(self._field) if project.is_big(f))
        for field in dict.fromkeys(self._field):
            self._divide(field, 0 if slides_bytes <= memory_bytes else SMALL_PART_PX)

    def _bytes(self, field: str) -> int:
        one = self._project.field(field)
        return one.height_px * one.width_px * len(self.planes) * np.dtype(one.dtype).itemsize

    def _divide(self, field: str, side_px: int) -> None:
        """Say which part of a field holds each of its rows, with all that their crops show."""
        own, one = np.flatnonzero(self._field == field), self._project.field(field)
        if not self._project.is_big(field):
            self._part[own] = len(self._parts)
            self._parts.append((field, None))
            return
        cells = boxes_of(self._obs.iloc[own])
        for at in slides.by_tile(cells.centroid, side_px):
            self._part[own[at]] = len(self._parts)
            some = around(boxes_of(self._obs.iloc[own[at]]), [self._spec], one.um_per_px)
            self._parts.append((field, slides.grown(some, 0, (one.height_px, one.width_px))))

    def __len__(self) -> int:
        return len(self._obs)

    def ids_of(self, rows: np.ndarray) -> pd.DataFrame:
        """Ids (the index) and mask hashes of some rows."""
        return self._obs.iloc[rows][["mask_hash"]]

    def crops(self, rows: np.ndarray) -> np.ndarray:
        """Raw crops (B, C, S, S) of some rows, in the fields' dtype; see `weights`."""
        rows = np.asarray(rows)
        out: np.ndarray | None = None
        for number in dict.fromkeys(self._part[rows].tolist()):
            at = np.flatnonzero(self._part[rows] == number)
            image, labels = self._read(number)
            field, box = self._parts[number]
            boxes = boxes_of(self._obs.iloc[rows[at]])
            boxes = boxes if box is None else moved(boxes, box[:2])
            um_per_px = self._project.field(field).um_per_px
            part = cut_crops(image, labels, boxes, self._spec, um_per_px, resized=self.weights is None)
            if out is None:
                out = np.empty((len(rows), *part.shape[1:]), part.dtype)
            elif part.dtype != out.dtype:
                out = out.astype(np.result_type(out, part))
            out[at] = part
        if out is None:
            raise ValueError("No rows were asked for.")
        return out

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        if number not in self._images:
            field, box = self._parts[number]
            needs_labels = self._spec.masked or self._spec.mask_plane
            labels = None
            if box is None:
                image = self._project.read_image(field)[list(self.planes)]
                labels = self._project.read_labels(field) if needs_labels else None
            else:
                image = self._project.read_region(field, box, self.planes)
                labels = self._project.read_labels_region(field, box) if needs_labels else None
            self._images[number] = (image, labels)
            while len(self._images) > 1 and sum(i.nbytes for i, _ in self._images.values()) > self._memory:
                self._images.popitem(last=False)
        self._images.move_to_end(number)
        return self._images[number]
