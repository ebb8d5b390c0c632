"""Image → labels, field by field."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.data.fields import Field
from napari_cellrep.data.images import stamps_of
from napari_cellrep.data.stamps import made_from
from napari_cellrep.jobs import Job, Progress, Shard
from napari_cellrep.specs import InputError, digest, make_config
from napari_cellrep.steps.segment_slides import segment_in_parts, source_of


@dataclass(frozen=True)
class SegmentResult:
    """What came of segmenting: how many fields and cells, and what went wrong where.

    Parameters
    ----------
    done, skipped : int
        Fields segmented now; fields whose labels were up to date (or edited by hand) and left alone.
    n_cells : int
        Cells in both together.
    problems : dict of str to str
        Field → sentence, for fields that could not be segmented or hold no cell.
    notes : dict of str to str
        Field → what is to be known of labels that were brought: outlines that overlap, entries that are no cells.
    """

    done: int
    skipped: int
    n_cells: int
    problems: dict[str, str]
    notes: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """One field segmented on trial, and what a person looks for first.

    Parameters
    ----------
    labels : ndarray of shape (H, W), int32
    area_px : ndarray of shape (n_cells,), int64
        Pixels of every cell.
    n_border : int
        Cells that touch the image's edge.
    notes : tuple of str
        As in `SegmentResult`.
    """

    labels: np.ndarray
    area_px: np.ndarray
    n_border: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Labels of one field, and what the file they came from says (see `napari_cellrep.segmenters`)."""

    labels: np.ndarray
    notes: tuple[str, ...] = ()
    classes: dict[int, str] = dataclasses.field(default_factory=dict)


def segment(
    project: Project,
    *,
    segmenter: str = "nuclei",
    config: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    device: str = "auto",
    overwrite: bool = False,
    shard: Shard = Shard(),
) -> Job[SegmentResult]:
    """Segment fields and write their labels.

    A field that fails is marked with its problem and the others go on; run again with its name to retry it.
    Fields whose labels were made with the same settings from the same files are skipped, and so are labels
    edited by hand unless `overwrite`.

    Parameters
    ----------
    segmenter : str
        Name of a segmenter.
    config : dict, optional
        Its settings; unnamed ones keep their defaults.
    fields : sequence of str
        Field ids; empty: all.

    Yields
    ------
    Progress
        Once per field; the job returns a `SegmentResult`.

    Raises
    ------
    InputError
        If the segmenter, a setting or a field is unknown, or no field could be segmented at all.
    """
    module, settings = prepare(segmenter, config)
    chosen = [project.field(f) for f in shard.of(fields or [f.id for f in project.fields])]
    done = skipped = n_cells = 0
    problems: dict[str, str] = {}
    notes: dict[str, str] = {}
    away: set[str] = set()  # fields whose images cannot be reached, and whose labels stay
    yield Progress(0, len(chosen), "Segmenting")
    if shard.world == 1:
        project.begin_step("segment")
    else:  # several processes write at once: no one of them can say what was before all
        project.forget_step()
    for i, field in enumerate(chosen):
        how = how_made(project, field, segmenter, settings)
        stamp, info = digest(how), project.label_info(field.id)
        if stands(project, field, info, how, overwrite):
            skipped, n_cells = skipped + 1, n_cells + int(info["n_cells"])
            if not how["image"]:
                away.add(field.id)
            elif info.get("edited") and (was := made_from(info)) and was != how["image"][0]:
                notes[field.id] = (
                    f"Field {field.id}: its labels were edited by hand on another image than there is now, and are kept; "
                    "segment it with --overwrite to find its cells anew."
                )
            if not int(info["n_cells"]):
                problems[field.id] = _no_cell(field)
        elif project.is_big(field.id):
            try:
                tiled = yield from segment_in_parts(
                    project, field, module, settings, device, {**how, "digest": stamp}
                )
            except InputError as error:
                text = str(error)
                problems[field.id] = text if field.id in text else f"Field {field.id}: {text}"
            else:
                done, n_cells = done + 1, n_cells + tiled.n_cells
                if not tiled.n_cells:
                    problems[field.id] = _no_cell(field)
                if tiled.notes:
                    notes[field.id] = f"Field {field.id}: {' '.join(tiled.notes)}"
        else:
            found, problem = _segment_one(project, field, module, settings, device)
            if found is not None:
                classes = {"classes": found.classes} if found.classes else {}
                project.write_labels(field.id, found.labels, {**how, "digest": stamp, **classes})
                done, n_cells = done + 1, n_cells + _count(found.labels)
                if found.notes:
                    notes[field.id] = f"Field {field.id}: {' '.join(found.notes)}"
            if problem:
                problems[field.id] = problem
        yield Progress(i + 1, len(chosen), f"Segmented {field.id}", {"cells": n_cells})
    for field_id in away:
        notes.setdefault(field_id, "Its images cannot be reached now; its labels stay as they are.")
    project.keep_stamps()
    if shard.world == 1:
        solved = {f.id: "" for f in chosen if f.problem and f.id not in problems and f.id not in away}
        project.mark({**solved, **problems})
    project.log(
        "segment", segmenter=segmenter, settings=dataclasses.asdict(settings), fields=done, skipped=skipped,
        cells=n_cells, problems=problems, **({"notes": notes} if notes else {}),
    )  # fmt: skip
    if chosen and not done and not skipped:
        raise InputError(
            f"None of the {len(chosen)} fields could be segmented. The first: {next(iter(problems.values()))}"
        )
    return SegmentResult(done, skipped, n_cells, problems, notes)


def prepare(segmenter: str, config: dict[str, Any] | None) -> tuple[Any, Any]:
    """The segmenter's module and its settings."""
    try:
        module = registry.load("segmenters", segmenter)
    except KeyError as error:
        raise InputError(str(error.args[0])) from None
    return module, make_config(module.Config, config)


def how_made(project: Project, field: Field, segmenter: str, settings: Any) -> dict[str, Any]:
    """What a field's labels depend on."""
    files_read = getattr(registry.load("segmenters", segmenter), "files_read", None)
    read = files_read(settings, field.id, source_of(project, field)) if files_read else []
    return {
        "segmenter": segmenter,
        "settings": dataclasses.asdict(settings),
        "image": image_stamp(project, field),
        **({"files": [[p.as_posix(), *stamps_of(p)] for p in read]} if files_read else {}),
    }


def find_in(
    project: Project, field: Field, module: Any, settings: Any, device: str, image: np.ndarray
) -> Found:
    """Labels of pixels (C, H, W) of a field by a segmenter's module."""
    if hasattr(module, "bring"):
        brought = module.bring(image, project.channels, settings, field.id, source_of(project, field))
        return Found(brought.labels, tuple(brought.notes), dict(brought.classes))
    more: dict[str, Any] = {}
    if "source" in inspect.signature(module.segment).parameters:
        more["source"] = source_of(project, field)
    return Found(module.segment(image, project.channels, settings, device, field_id=field.id, **more))


def stands(
    project: Project, field: Field, info: dict[str, Any], how: Mapping[str, Any], overwrite: bool
) -> bool:
    """Whether a field's labels are left alone: made the same way from the same pixels, or edited by hand.

    `how` is `how_made` now. While the images cannot be reached, they count as those that the labels were made from.
    """
    if not info or overwrite:
        return False
    image = how["image"] or info.get("image")
    if how["image"] and not made_from(info) and info.get("image") == _stamp_by_time(project, field):
        image = info["image"]  # made by a version that went by size and time
    return bool(info.get("digest") == digest({**how, "image": image}) or info.get("edited"))


def preview(
    project: Project,
    *,
    field: str,
    segmenter: str = "nuclei",
    config: dict[str, Any] | None = None,
    device: str = "auto",
) -> Job[Preview]:
    """Segment one field without writing anything."""
    module = registry.load("segmenters", segmenter)
    settings = make_config(module.Config, config)
    yield Progress(0, 1, f"Segmenting {field}")
    one = project.field(field)
    if project.is_big(field):
        raise InputError(
            f"Field {field} has {one.width_px:,} × {one.height_px:,} px, too many to try on; segment it, or try a smaller one."
        )
    found = find_in(project, one, module, settings, device, project.read_image(field))
    labels = found.labels
    area_px = np.unique(labels[labels > 0], return_counts=True)[1]  # numbers may be in the millions
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return Preview(labels, area_px, int(np.unique(rim[rim > 0]).size), found.notes)


def unusual_fields(n_cells: Mapping[str, int]) -> dict[str, str]:
    """Fields whose number of cells asks for a look: none, or far from what is usual.

    Far is beyond three robust SDs of the fields with cells and less than half or more than twice their median:
    on a plate of three fields the SD alone says little.

    Parameters
    ----------
    n_cells : mapping of str to int
        Field → number of cells, of every segmented field.

    Returns
    -------
    dict of str to str
        Field → why, in the order given.
    """
    counts = np.array([n for n in n_cells.values() if n > 0], float)
    usual = float(np.median(counts)) if len(counts) else 0.0
    spread = 1.4826 * float(np.median(np.abs(counts - usual))) if len(counts) else 0.0
    found = {}
    for field, n in n_cells.items():
        far = len(counts) > 2 and abs(n - usual) > 3 * spread
        if n == 0:
            found[field] = "no cells"
        elif far and n < usual / 2:
            found[field] = f"{n:,} cells, far fewer than the usual {usual:,.0f}"
        elif far and n > 2 * usual:
            found[field] = f"{n:,} cells, far more than the usual {usual:,.0f}"
    return found


def _segment_one(
    project: Project, field: Field, module: Any, settings: Any, device: str
) -> tuple[Found | None, str]:
    """Labels and a problem sentence ("" if none) of one field; only a user's error is caught."""
    try:
        found = find_in(project, field, module, settings, device, project.read_image(field.id))
    except InputError as error:
        text = str(error)
        return None, text if field.id in text else f"Field {field.id}: {text}"
    return found, "" if found.labels.any() else _no_cell(field)


def _no_cell(field: Field) -> str:
    return f"Field {field.id} holds no cell with these settings."


def image_stamp(project: Project, field: Field) -> list[Any]:
    """What tells that a field's pixels are the same as before: what is in its files, and how they are corrected.

    Names and folders have no part in it: images that were moved or copied need no new labels. Empty while they cannot be
    reached.
    """
    pixels = project.pixels_of(field.id)
    if not pixels:
        return []
    lit = project.illumination
    return [pixels] if lit is None else [pixels, ["illumination", lit.digest]]


def _stamp_by_time(project: Project, field: Field) -> list[list[Any]]:
    """As labels had it before contents were compared: file name, channel, z, size and time of change."""
    stamp: list[list[Any]] = []
    for plane in field.planes:
        for path in plane.files(project.root):
            stamp += [[path.name, plane.channel, plane.z, *one] for one in stamps_of(path)]
    if project.illumination is not None:
        stamp.append(["illumination", project.illumination.digest])
    return stamp


def _count(labels: np.ndarray) -> int:
    return int(np.unique(labels[labels > 0]).size)
