"""Cells of a field larger than memory, corrected by hand in a part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_cellrep.data import Project, slides
from napari_cellrep.data.cells import reconcile_labels
from napari_cellrep.data.crops import Boxes, find_cells, picked
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import MOST_AROUND_PX, UNMEASURED

MOST_PX = 3072  # side of what is edited at once, without what its cells reach over it; napari draws more of a layer slowly


@dataclass(frozen=True)
class Part:
    """A part of a field whose cells are edited.

    Parameters
    ----------
    field : str
    box : Box
        It and the whole of the cells that reach over its edge.
    labels : ndarray of shape (h, w), uint32
        As they are.
    locked : ndarray of shape (n,), uint32
        Cells of which the part does not hold all: they stay as they are.
    top : int
        The largest number that any cell of the field has had; new cells are above it.
    stamp : str
        Of the labels.
    """

    field: str
    box: slides.Box
    labels: np.ndarray
    locked: np.ndarray
    top: int
    stamp: str


@dataclass(frozen=True)
class Saved:
    """What came of writing an edited part.

    Parameters
    ----------
    n_changed : int
        Cells that are new, gone, or have other pixels.
    n_chunks : int
        Chunks of labels that were written, of all levels.
    n_kept_px : int
        Pixels that stayed as they were, because they are of locked cells, or were given to one.
    """

    n_changed: int = 0
    n_chunks: int = 0
    n_kept_px: int = 0


def open_part(project: Project, field: str, seen: slides.Box) -> Job[Part]:
    """Read the labels of a part of a field larger than memory to edit them, with the whole of its cells.

    Cells that reach further than `MOST_AROUND_PX` over its edge, and their neighbours there that the part cuts, are locked.

    Parameters
    ----------
    field : str
    seen : Box
        Field pixels, y0, x0, y1, x1; at most `MOST_PX` a side.

    Raises
    ------
    InputError
        If the field is small or not segmented, the part is too large, or the field's image is another than its cells are of.
    """
    shape = (project.field(field).height_px, project.field(field).width_px)
    y0, x0, y1, x1 = slides.grown(seen, 0, shape)
    if not project.is_big(field):
        raise InputError(f"Field {field} is edited as a whole: paint in its labels and save them.")
    path = project.labels_path(field)
    if not path.is_dir():
        raise InputError(f"Field {field} has no labels in parts; segment it first.")
    if y0 >= y1 or x0 >= x1:
        raise InputError(f"Nothing of {field} is in view; move its image into view.")
    if max(y1 - y0, x1 - x0) > MOST_PX:
        raise InputError(
            f"Zoom in: {x1 - x0:,} × {y1 - y0:,} px of {field} are in view, and at most {MOST_PX:,} × {MOST_PX:,} px "
            "can be edited at once."
        )
    if project.look_at_images([field]).replaced:
        raise InputError(
            f"The image of {field} is another than its cells were found in; segment it again before you edit them."
        )
    yield Progress(0, 1, f"Reading the cells of {field}")
    box = _with_whole_cells(project, field, (y0, x0, y1, x1), shape)
    info = project.label_info(field)
    top = int(info.get(slides.TOP, 0))
    if not top:  # labels of a version that did not note it
        for so_far in slides.largest_label(path):
            top = so_far
            yield Progress(0, 1, f"Looking for the largest number of a cell of {field}")
    labels = project.read_labels_region(field, box)
    return Part(field, box, labels, _locked(project, field, labels, box), top, _stamp(labels))


def save_part(project: Project, part: Part, labels: np.ndarray) -> Job[Saved]:
    """Write the edited labels of a part: only the chunks that they change, and those of smaller levels.

    Edited cells wait for ``crop(…, only_edited=True)`` to be measured. Numbers are as `reconcile_labels` gives them, and numbers
    that the part did not have become new ones: they may be of cells elsewhere.

    Parameters
    ----------
    part : Part
    labels : ndarray of shape (h, w), integer
        As they are to be.

    Raises
    ------
    InputError
        If the labels were changed by another since they were opened, or no numbers are left.
    """
    if labels.shape != part.labels.shape:
        raise InputError(f"The part of {part.field} is {part.labels.shape} px and its labels {labels.shape}.")
    yield Progress(0, 1, f"Writing the edited cells of {part.field}")
    new, n_kept_px = _unlocked(part.labels, labels, part.locked)
    if np.array_equal(new, part.labels):
        return Saved(n_kept_px=n_kept_px)
    pixels = project.pixels_of(part.field)
    n_changed = 0

    def change(there: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, Mapping[str, Any]]:
        nonlocal n_changed
        if _stamp(there) != part.stamp:
            raise InputError(
                f"The labels of {part.field} were changed by another step or window since you began to edit them; cancel, and "
                "edit them as they are now."
            )
        project.begin_step("edit")
        top = max(part.top, int(info.get(slides.TOP, 0)))
        before = find_cells(there)
        after = _renumbered(there, new, before, top)
        now = find_cells(after)
        touched = _differing(there, after)
        n_changed = len(touched)
        boxes = np.concatenate([picked(before, touched).box, picked(now, touched).box])
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        y0, x0 = part.box[:2]
        edit = {
            "box": [int(low[0]) + y0, int(low[1]) + x0, int(high[0]) + y0, int(high[1]) + x0],
            "cells": touched.tolist(),
        }
        how = {k: v for k, v in info.items() if k != "digest"}
        if pixels:
            how["image"] = [pixels]  # they were painted on what is there now
        how |= {
            "edited": True,
            "n_cells": int(info.get("n_cells", 0)) + len(now) - len(before),
            slides.TOP: max(top, int(after.max(initial=0))),
            UNMEASURED: [*info.get(UNMEASURED, []), edit],
        }
        return after, how

    n_chunks = project.change_labels(part.field, part.box, change)
    return Saved(n_changed, n_chunks, n_kept_px)


def _with_whole_cells(project: Project, field: str, seen: slides.Box, shape: tuple[int, int]) -> slides.Box:
    """A part and the whole of the cells in it, as far as `MOST_AROUND_PX`, and a pixel more: they do not touch its edge."""
    y0, x0, y1, x1 = seen
    boxes = _boxes(project, field)[1]
    inside = (boxes[:, 0] < y1) & (boxes[:, 2] > y0) & (boxes[:, 1] < x1) & (boxes[:, 3] > x0)
    a, b, c, d = slides.grown(seen, MOST_AROUND_PX, shape)
    inside &= (boxes[:, 0] >= a) & (boxes[:, 1] >= b) & (boxes[:, 2] <= c) & (boxes[:, 3] <= d)
    if not inside.any():
        return seen
    low, high = boxes[inside, :2].min(axis=0) - 1, boxes[inside, 2:].max(axis=0) + 1
    whole = (min(y0, int(low[0])), min(x0, int(low[1])), max(y1, int(high[0])), max(x1, int(high[1])))
    return slides.grown(whole, 0, shape)


def _boxes(project: Project, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and boxes (n, 4) of a field's cells in the table."""
    if not project.has_cells:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    obs = project.cells.obs
    rows = obs[(obs["field"] == field).to_numpy()]
    columns = ["box_y0", "box_x0", "box_y1", "box_x1"]
    return rows["label"].to_numpy(np.int64), rows[columns].to_numpy(np.int64)


def _locked(project: Project, field: str, labels: np.ndarray, box: slides.Box) -> np.ndarray:
    """Cells that touch an edge of the part where the field goes on, or that the table has beyond it."""
    y0, x0, y1, x1 = box
    shape = (project.field(field).height_px, project.field(field).width_px)
    edges = [labels[0] if y0 else labels[0, :0], labels[-1] if y1 < shape[0] else labels[0, :0],
             labels[:, 0] if x0 else labels[0, :0], labels[:, -1] if x1 < shape[1] else labels[0, :0]]  # fmt: skip
    known, boxes = _boxes(project, field)
    beyond = (boxes[:, :2] < (y0, x0)).any(axis=1) | (boxes[:, 2:] > (y1, x1)).any(axis=1)
    beyond &= (boxes[:, :2] < (y1, x1)).all(axis=1) & (boxes[:, 2:] > (y0, x0)).all(axis=1)
    here = np.intersect1d(known[beyond], find_cells(labels).label)
    found = np.union1d(np.concatenate(edges), here)
    return found[found > 0].astype(np.uint32)


def _unlocked(old: np.ndarray, new: np.ndarray, locked: np.ndarray) -> tuple[np.ndarray, int]:
    """New labels with the locked cells as they were, and how many pixels had to be put back."""
    differs = old != new
    kept = np.zeros(old.shape, bool)
    kept[differs] = np.isin(old[differs], locked) | np.isin(new[differs], locked)
    return np.where(kept, old, new), int(kept.sum())


def _renumbered(old: np.ndarray, new: np.ndarray, before: Boxes, top: int) -> np.ndarray:
    """New labels in which what is new has numbers above `top`, uint32; `before` are the cells of the old ones."""
    differs = old != new
    own, index = np.unique(new[differs], return_inverse=True)
    number = own.astype(np.int64)
    unknown = ~np.isin(number, before.label) & (number > 0)
    number[unknown] = top + 1 + np.arange(unknown.sum())
    _check_numbers(number)
    after = old.copy()
    after[differs] = number[index]
    touched = _differing(old, after)
    # The edited cells' pixels alone: a part has millions.
    at = np.zeros(old.shape, bool)
    for labels, cells in ((old, before), (after, find_cells(after))):
        some = picked(cells, touched)
        for label, (y0, x0, y1, x1) in zip(some.label, some.box, strict=True):
            at[y0:y1, x0:x1] |= labels[y0:y1, x0:x1] == label
    edited = reconcile_labels(old[at], after[at], max(top, int(number.max(initial=0))))
    _check_numbers(edited)
    after[at] = edited
    return after


def _check_numbers(numbers: np.ndarray) -> None:
    if int(numbers.max(initial=0)) > np.iinfo(np.uint32).max:
        raise InputError(
            "No numbers are left for new cells: the largest label is near 4,294,967,295. Number the labels anew and bring "
            "them again."
        )


def _differing(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Labels of the pixels that differ, int64."""
    differs = old != new
    found = np.union1d(old[differs], new[differs]).astype(np.int64)
    return found[found > 0]


def _stamp(labels: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(labels, np.uint32).data, digest_size=16).hexdigest()
