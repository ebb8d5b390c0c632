"""Labels → cells: the table with one row per cell, its place, size and quality flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.data import Project, slides
from napari_cellrep.data.cells import (
    OBS_COLUMNS,
    Measuring,
    QualityRules,
    measure_field,
    provenance,
    set_flags,
)
from napari_cellrep.data.crops import Boxes, find_cells, join_boxes, mask_hashes, moved, picked
from napari_cellrep.data.fields import Field
from napari_cellrep.data.project import JUDGED
from napari_cellrep.data.stamps import made_from
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, make_config

UNMEASURED = "unmeasured"  # in what is said of a slide's labels: edits that the table does not have yet, each "box" and "cells"
MOST_AROUND_PX = 1024  # a label in two far corners of a slide is not worth reading the slide for


def crop(
    project: Project,
    *,
    rules: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    only_edited: bool = False,
) -> Job[int]:
    """Make or refresh the cell table from the labels on disk.

    Crops themselves are cut from the fields on their way to a network and not stored. What was computed for a
    cell is kept as long as its mask is the same.

    Parameters
    ----------
    rules : dict, optional
        Settings of `QualityRules`; unnamed ones are as they were the last time. ``window_px`` is also the window
        of the project's crops, unless a model brings its own.
    fields : sequence of str
        Measure only these again (after an edit); the rows of the others are kept. Empty: all.
    only_edited : bool
        Of a field larger than memory measure only the cells that were edited since it was measured, and judge them by what is
        known of the whole field from then. All of it, where that is not known.

    Yields
    ------
    Progress
        Once per field; the job returns the number of cells.

    Raises
    ------
    InputError
        If no field is segmented, or a field of `fields` is unknown.
    """
    quality = make_config(QualityRules, {**project.last("crop").get("rules", {}), **(rules or {})})
    labelled = [f for f in project.fields if project.has_labels(f.id)]
    if not labelled:
        raise InputError(
            f"No field of {project.root.name} is segmented yet: run `cellrep segment {project.root}`."
        )
    again = {project.field(f).id for f in fields} or {f.id for f in labelled}
    old = project.cells.obs if project.has_cells else None
    judged_by = provenance(project.cells).get(JUDGED, {}) if old is not None else {}
    judged: dict[str, dict[str, Any]] = {}
    frame, frames, problems, pixels, light = pd.DataFrame(), [], {}, {}, {}
    measured: dict[str, list[dict[str, Any]]] = {}  # edits that the table has from now on
    yield Progress(0, len(labelled), "Finding cells")
    project.begin_step("crop", follows=("segment", "edit"))
    for i, field in enumerate(labelled):
        if field.id not in again and old is not None:
            frames.append(old.loc[old["field"] == field.id])
        else:
            try:
                now = project.pixels_of(
                    field.id
                )  # before it is read: what replaces it meanwhile is seen later
                info = project.label_info(field.id)
                if (
                    old is not None
                    and only_edited
                    and _is_known(project, field, judged_by.get(field.id), quality.window_px, now)
                ):
                    rows = old.loc[old["field"] == field.id]
                    frame = yield from measure_edited(project, field, info, rows, judged_by[field.id])
                    frames.append(frame)
                    measured[field.id] = info.get(UNMEASURED, [])
                    continue
                if project.is_big(field.id):
                    frame, by = yield from measure_in_parts(project, field, quality.window_px)
                    if len(frame):
                        judged[field.id] = by
                else:
                    labels = project.read_labels(field.id)
                    image = project.read_image(field.id)
                    if labels.shape != image.shape[1:]:
                        raise InputError(
                            f"Field {field.id}: labels and image differ in size; segment it again."
                        )
                    frame = measure_field(field, image, labels, project.channels, quality.window_px)
                measured[field.id] = info.get(UNMEASURED, [])
                light[field.id] = project.light
                pixels[field.id] = (
                    made_from(info) or now
                )  # new pixels in outlines of old ones stay out of date
                _name_classes(frame, info)
                frames.append(frame)
            except InputError as error:
                problems[field.id] = str(error)
                if old is not None:
                    frames.append((yield from _still_there(project, old.loc[old["field"] == field.id])))
        yield Progress(i + 1, len(labelled), f"Found cells in {field.id}")
    frames = [f for f in frames if len(f)]
    project.mark(problems)
    if not frames:
        raise InputError(
            "No cell was found in any field; look at the segmentation of one field and change its settings."
        )
    known = [
        *OBS_COLUMNS,
        "class",
        *dict.fromkeys(k for f in labelled for k in f.metadata if k not in (*OBS_COLUMNS, "class")),
    ]
    obs = pd.concat([_plain(f)[[c for c in known if c in f]] for f in frames])
    del frames, frame  # of a slide's cells every copy is hundreds of MB
    obs = set_flags(obs, quality)
    table = project.merge(obs, pixels, judged, light)
    for field_id, edits in measured.items():
        if edits:
            project.say_of_labels(field_id, partial(_without, edits=edits))
    project.keep_stamps()
    project.log(
        "crop",
        rules=dataclasses.asdict(quality),
        cells=table.n_obs,
        good=int(table.obs["good"].sum()),
        problems=problems,
    )
    return int(table.n_obs)


def measure_in_parts(
    project: Project, field: Field, window_px: int, side_px: int = 0
) -> Job[tuple[pd.DataFrame, dict[str, Any]]]:
    """Rows of a field larger than memory, measured part by part; as `napari_cellrep.data.cells.measure_field`.

    Returns
    -------
    DataFrame
    dict
        What of the whole field they are judged by (`Measuring.judged_by`).
    """
    shape = (field.height_px, field.width_px)
    cells, parts = yield from _find_in_parts(project, field, side_px)
    measuring = Measuring(field, project.channels, window_px, cells, shape)
    for i, tile in enumerate(parts):
        image, labels = (
            project.read_region(field.id, tile.box),
            project.read_labels_region(field.id, tile.box),
        )
        measuring.add(image, labels, box=tile.box, core=tile.core)
        yield Progress(len(parts) + i, 2 * len(parts), f"Measured part {i + 1} of {len(parts)} of {field.id}")
    return measuring.table(), measuring.judged_by


def _is_known(project: Project, field: Field, by: dict[str, Any] | None, window_px: int, now: str) -> bool:
    """Whether cells of a field can be measured and judged as all of it was: by the same window, in the same image and light."""
    if not project.is_big(field.id) or not by or by["window_px"] != window_px:
        return False
    was = project.measured_from().get(field.id, "")
    same_light = project.measured_in_light().get(field.id, project.light) == project.light
    return same_light and (not was or not now or was == now)


def measure_edited(
    project: Project, field: Field, info: dict[str, Any], rows: pd.DataFrame, by: dict[str, Any]
) -> Job[pd.DataFrame]:
    """Rows of a field larger than memory of which some cells were edited: only those are measured, the others stay.

    Parameters
    ----------
    info : dict
        What is said of its labels, with where which cells were edited (`UNMEASURED`).
    rows : DataFrame
        Of its cells as they were.
    by : dict
        What of the whole field they are judged by (`Measuring.judged_by`).
    """
    shape = (field.height_px, field.width_px)
    edits = info.get(UNMEASURED, [])
    edited = {label for edit in edits for label in edit["cells"]}
    found: dict[int, pd.DataFrame] = {}
    for i, edit in enumerate(edits):
        # As far as a cell's ring and the blur of its sharpness look.
        box = slides.grown(tuple(edit["box"]), int(by["ring_px"]) + 8, shape)
        labels = project.read_labels_region(field.id, box)
        cells = picked(find_cells(labels), edit["cells"])
        image = project.read_region(field.id, box)
        measuring = Measuring(field, project.channels, int(by["window_px"]), cells, shape, by)
        measuring.add(image, labels, box=box, cells=cells)
        frame = measuring.table()
        _name_classes(frame, info)
        found |= {
            int(label): frame.iloc[[n]] for n, label in enumerate(frame["label"])
        }  # the last edit counts
        yield Progress(i + 1, len(edits), f"Measured the edited cells of {field.id}")
    stayed = rows[~rows["label"].isin(edited)]
    return pd.concat([_plain(stayed), *found.values()]).sort_values("label", kind="stable")


def _without(info: dict[str, Any], edits: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said of labels, without these edits; some may have come since they were measured."""
    left = [edit for edit in info.get(UNMEASURED, []) if edit not in edits]
    return {**{k: v for k, v in info.items() if k != UNMEASURED}, **({UNMEASURED: left} if left else {})}


def _name_classes(frame: pd.DataFrame, info: dict[str, Any]) -> None:
    """Call cells what the file that brought their labels calls them."""
    classes = info.get("classes")
    if classes and len(frame) and "class" not in frame:
        frame["class"] = frame["label"].astype(str).map(classes)


def _find_in_parts(project: Project, field: Field, side_px: int = 0) -> Job[tuple[Boxes, list[slides.Tile]]]:
    """Where the cells of a field larger than memory are, and the parts in which each is whole where its middle is."""
    shape = (field.height_px, field.width_px)
    parts = slides.tiles(*shape, 0, side_px=side_px)
    found = []
    for i, tile in enumerate(parts):
        y0, x0 = tile.core[:2]
        found.append(moved(find_cells(project.read_labels_region(field.id, tile.core)), (-y0, -x0)))
        yield Progress(i, 2 * len(parts), f"Finding cells in part {i + 1} of {len(parts)} of {field.id}")
    cells = join_boxes(found)
    side = (cells.box[:, 2:] - cells.box[:, :2]).max(initial=0)
    halo = int(min(side + side // 2 + 16, MOST_AROUND_PX))
    return cells, slides.tiles(*shape, halo, side_px=side_px)


def _still_there(project: Project, rows: pd.DataFrame) -> Job[pd.DataFrame]:
    """Those rows of a field whose cells are in its labels as they were: its image may be away only for a while."""
    if not len(rows):
        return rows
    field = project.field(str(rows["field"].iloc[0]))
    now: set[tuple[int, int]] = set()
    try:
        whole = slides.Tile(*[(0, 0, field.height_px, field.width_px)] * 2)
        parts = (yield from _find_in_parts(project, field))[1] if project.is_big(field.id) else [whole]
        for i, tile in enumerate(parts):
            labels = project.read_labels_region(field.id, tile.box)
            cells = find_cells(labels)
            origin = tile.box[:2]
            hashes = mask_hashes(labels, cells, origin)
            mine = tile.owns(cells.centroid + np.array(origin))
            now |= set(zip(cells.label[mine].tolist(), hashes[mine].tolist(), strict=True))
            yield Progress(
                len(parts) + i, 2 * len(parts), f"Compared part {i + 1} of {len(parts)} of {field.id}"
            )
    except InputError:
        return rows[:0]
    before = zip(rows["label"].tolist(), rows["mask_hash"].tolist(), strict=True)
    return rows[[pair in now for pair in before]]


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Without categories, which a table on disk has and a fresh one has not."""
    return frame.astype({c: object for c in frame if isinstance(frame[c].dtype, pd.CategoricalDtype)})
