"""Image → labels of a field larger than memory, part by part, without seams."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from napari_cellrep.data import Project, slides
from napari_cellrep.data.fields import Field
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.segmenters import Regions, Scales, Source
from napari_cellrep.specs import InputError, digest

COVERED = (
    0.5  # two cells of different parts that share more than this of the smaller one are one cell, seen twice
)


@dataclass(frozen=True)
class InParts:
    """What came of segmenting a field part by part.

    Parameters
    ----------
    n_cells : int
    n_resumed : int
        Parts that were finished before, by a process that was stopped or killed.
    notes : tuple of str
        What a person has to know.
    """

    n_cells: int
    n_resumed: int = 0
    notes: tuple[str, ...] = ()


def segment_in_parts(
    project: Project,
    field: Field,
    module: Any,
    settings: Any,
    device: str,
    how: Mapping[str, Any],
    side_px: int = 0,
) -> Job[InParts]:
    """Segment a field that is larger than memory in overlapping parts, and write its labels chunk by chunk.

    What the segmenter has to know of the whole image (sizes, noise, thresholds) is measured once, on parts spread over it.
    Every part is read with so much around it that what lies in its core comes out as from the whole; a cell belongs to the
    part in whose core its first pixel is, and that part writes all of it, so that there are no seams. Parts that are finished
    stay on disk when the job is closed or the process killed, and are gone on with when the same is asked for again.

    Labels that are brought along are copied part by part.

    Parameters
    ----------
    how : mapping
        How the labels are made, written with them; its "digest" tells whether finished parts count.
    side_px : int
        Of the core of a part; 0: `napari_cellrep.data.slides.TILE_PX`.

    Raises
    ------
    InputError
        If the segmenter cannot work in parts, or the field cannot be read.
    """
    shape = (field.height_px, field.width_px)
    source = source_of(project, field)
    if hasattr(module, "in_regions"):
        regions = module.in_regions(settings, shape, field.id, source)
        if regions is not None:
            return (yield from bring_in_parts(project, field, regions, how))
    takes = inspect.signature(module.segment).parameters
    if "scales" not in takes:
        name = module.__name__.rpartition(".")[2]
        raise InputError(
            f"It has {field.width_px:,} × {field.height_px:,} px and has to be segmented in parts, which {name} cannot; use "
            "nuclei, cells, bodies, centres or cellpose, or bring labels."
        )
    more: dict[str, Any] = {"source": source} if "source" in takes else {}
    channels = project.channels
    with project.writing_labels(field.id, how, _begun_as(how, side_px)) as writer:
        scales = Scales(**writer.found["scales"]) if writer.n_done else Scales()
        if not writer.n_done:
            yield Progress(0, 1, f"Looking at parts of {field.id}")
            picture = slides.sample(partial(project.read_region, field.id), shape)
            if hasattr(module, "measure"):
                module.measure(picture, channels, settings, scales)
            else:
                module.segment(picture, channels, settings, device, field_id=field.id, scales=scales, **more)
            del picture
            known = {"known": scales.known, "reach_px": scales.reach_px, "align_px": scales.align_px}
            writer.found = {"n_cut": 0, "scales": known}
        parts = slides.tiles(*shape, int(scales.reach_px), side_px=side_px, align_px=scales.align_px)
        n_resumed = writer.n_done
        if n_resumed:
            yield Progress(
                n_resumed, len(parts), f"Going on with {field.id} after {n_resumed} of {len(parts)} parts"
            )
            if n_resumed < len(parts):
                writer.forget_unfinished(parts[n_resumed].box)
        for i, tile in enumerate(parts[n_resumed:], start=n_resumed):
            y0, x0 = tile.box[:2]
            image = project.read_region(field.id, tile.box)
            labels = np.zeros(image.shape[1:], np.int32)
            if any(plane.min() < plane.max() for plane in image):
                labels = module.segment(
                    image, channels, settings, device, field_id=field.id, scales=scales.at(y0, x0), **more
                )
            del image
            writer.found["n_cut"] += write_own(writer, tile, labels, shape)
            writer.keep(i + 1)
            yield Progress(
                i + 1,
                len(parts),
                f"Segmented part {i + 1} of {len(parts)} of {field.id}",
                {"cells": writer.n_cells},
            )
    n_cut = writer.found["n_cut"]
    cut = f"{n_cut:,} of {writer.n_cells:,} cells are larger than the parts it was segmented in overlap, and are cut."
    return InParts(writer.n_cells, n_resumed, (cut,) if n_cut else ())


def source_of(project: Project, field: Field) -> Source:
    """Where a field comes from, as segmenters that read files beside its image want it."""
    files = dict.fromkeys(path for plane in field.planes for path in plane.files(project.root))
    frame = int(field.metadata["frame"]) if field.series else -1
    return Source(tuple(files), field.um_per_px, field.series, frame)


def _begun_as(how: Mapping[str, Any], side_px: int) -> str:
    """What finished parts depend on: how the labels are made, by which version, and how the field is cut."""
    from napari_cellrep import __version__

    return digest([how, __version__, side_px or slides.TILE_PX])


def write_own(
    writer: slides.LabelWriter, tile: slides.Tile, labels: np.ndarray, shape: tuple[int, int]
) -> int:
    """Write the cells of a part that are its own, where no other cell is yet; returns how many its edge cuts.

    Its own are those whose first pixel is in its core. A network draws a cell a little differently in each part it sees: a cell
    that an earlier part has written already is not written again, and one that begins in an earlier part's core, and was left
    there to this one, is.
    """
    found, first = np.unique(labels, return_index=True)
    y0, x0, y1, x1 = tile.box
    begins = np.stack(np.divmod(first, labels.shape[1]), axis=1) + np.array([y0, x0])
    core = labels[tile.core[0] - y0 : tile.core[2] - y0, tile.core[1] - x0 : tile.core[3] - x0]
    edges = [labels[0] if y0 else labels[0, :0], labels[-1] if y1 < shape[0] else labels[0, :0],
             labels[:, 0] if x0 else labels[0, :0], labels[:, -1] if x1 < shape[1] else labels[0, :0]]  # fmt: skip
    cut = np.isin(found, np.concatenate(edges))
    earlier = (begins[:, 0] < tile.core[0]) | ((begins[:, 0] < tile.core[2]) & (begins[:, 1] < tile.core[1]))
    mine = tile.owns(begins) | (earlier & ~cut & np.isin(found, core))
    mine &= found > 0
    if not mine.any():
        return 0
    there = writer.array[y0:y1, x0:x1]
    mine &= ~np.isin(found, _seen_before(labels, there))
    own = found[mine]
    if not len(own):
        return 0
    number = np.zeros(int(found[-1]) + 1, np.uint32)
    number[own] = writer.n_cells + 1 + np.arange(len(own))
    new = np.where(there == 0, number[labels], 0)
    rows, columns = (np.flatnonzero(new.any(axis=axis)) for axis in (1, 0))
    a, b, c, d = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    writer.array[y0 + a : y0 + b, x0 + c : x0 + d] = new[a:b, c:d] + there[a:b, c:d]
    writer.n_cells += len(own)
    return int((mine & cut).sum())


def _seen_before(labels: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Cells of a part of which one that is there already has most, or that have most of it."""
    both = (labels > 0) & (there > 0)
    if not both.any():
        return np.zeros(0, labels.dtype)
    low = int(
        there[both].min()
    )  # numbers go into the millions; those of neighbouring parts are near each other
    others = there[both].astype(np.int64) - low
    own_area = np.bincount(labels.ravel())
    their_area = np.bincount(
        there[(there >= low) & (there <= low + int(others.max()))].astype(np.int64) - low
    )
    pairs, shared = np.unique(np.stack([labels[both], others]), axis=1, return_counts=True)
    smaller = np.minimum(own_area[pairs[0]], their_area[pairs[1]])
    return np.asarray(pairs[0][shared > COVERED * smaller])


# ---- labels that are brought along --------------------------------------------------------------------


class _Counts:
    """How many pixels each number has, and whether it touches the image's edge, over parts."""

    def __init__(self, shape: tuple[int, int]):
        self._shape = shape
        self._found: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._counts: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._edge: list[np.ndarray] = [np.zeros(0, np.int64)]

    def add(self, labels: np.ndarray, box: slides.Box) -> None:
        found, counts = np.unique(labels, return_counts=True)
        self._found.append(found.astype(np.int64))
        self._counts.append(counts)
        h, w = self._shape
        rim = [labels[0] if box[0] == 0 else labels[0, :0], labels[-1] if box[2] == h else labels[0, :0],
               labels[:, 0] if box[1] == 0 else labels[0, :0], labels[:, -1] if box[3] == w else labels[0, :0]]  # fmt: skip
        self._edge.append(np.unique(np.concatenate(rim)).astype(np.int64))

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers (n,), 0 among them, their pixels, and which touch the edge (bool)."""
        found, index = np.unique(np.concatenate(self._found), return_inverse=True)
        area = np.bincount(index, np.concatenate(self._counts), len(found)).astype(np.int64)
        return found, area, np.isin(found, np.concatenate(self._edge))


def bring_in_parts(project: Project, field: Field, regions: Regions, how: Mapping[str, Any]) -> Job[InParts]:
    """Copy labels that are brought along into the project, part by part; as `napari_cellrep.segmenters.imported.bring`."""
    shape = (field.height_px, field.width_px)
    parts = slides.tiles(*shape, 0)
    counts = _Counts(shape)
    with project.writing_labels(field.id, how) as writer:
        for i, tile in enumerate(parts):
            y0, x0, y1, x1 = tile.core
            labels = regions.read(tile.core)
            counts.add(labels, tile.core)
            writer.array[y0:y1, x0:x1] = labels.astype(np.uint32)
            yield Progress(
                i + 1, len(parts), f"Read part {i + 1} of {len(parts)} of the labels of {field.id}"
            )
        found, area, edge = counts.all()
        notes, classes = regions.told()
        if regions.in_pieces(found):
            found, area, edge = yield from _number_pieces(writer, parts, shape, field.id)
            notes, classes = [], {}
        out = (area < regions.min_area_px) | (edge & regions.drop_border)
        out &= found > 0
        if out.any():
            gone = found[out]
            yield from _change(
                writer,
                parts,
                lambda part: np.where(np.isin(part, gone), 0, part),
                f"Left out cells of {field.id}",
            )
        writer.n_cells = int(((found > 0) & ~out).sum())
        if classes:
            writer.said["classes"] = classes
    return InParts(writer.n_cells, 0, tuple(notes))


def _number_pieces(
    writer: slides.LabelWriter, parts: list[slides.Tile], shape: tuple[int, int], name: str
) -> Job[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Number every connected piece of every label, in the order of their first pixels; returns what `_Counts.all` does.

    Pieces are numbered part by part; those that touch across a seam and are of one label are one.
    """
    from skimage.measure import label

    n = 0
    counts = _Counts(shape)
    pairs: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    first: list[np.ndarray] = [np.zeros(1, np.int64)]  # of the background, whose number stays
    above = np.zeros((2, shape[1]), np.int64)  # the row above the next part: its labels, and its pieces
    left = np.zeros((2, 0), np.int64)
    for i, tile in enumerate(parts):
        y0, x0, y1, x1 = tile.core
        values = np.asarray(writer.array[y0:y1, x0:x1]).astype(np.int64)
        pieces = label(values, background=0, connectivity=1).astype(np.int64)
        m = int(pieces.max(initial=0))
        pieces[pieces > 0] += n
        counts.add(pieces, tile.core)
        found, at = np.unique(pieces, return_index=True)
        y, x = np.divmod(at[found > 0], x1 - x0)
        first.append((y + y0) * shape[1] + x + x0)
        if y0:
            pairs.append(_touching(values[0], pieces[0], *above[:, x0:x1]))
        if x0:
            pairs.append(_touching(values[:, 0], pieces[:, 0], *left))
        above[:, x0:x1] = values[-1], pieces[-1]
        left = np.stack([values[:, -1], pieces[:, -1]])
        writer.array[y0:y1, x0:x1] = pieces.astype(np.uint32)
        n += m
        yield Progress(i + 1, len(parts), f"Numbered the pieces of part {i + 1} of {len(parts)} of {name}")
    joined = np.concatenate(pairs)
    graph = sparse.coo_array((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(n + 1, n + 1))
    n_pieces, piece = sparse.csgraph.connected_components(graph, directed=False)
    begins = np.full(n_pieces, shape[0] * shape[1], np.int64)
    np.minimum.at(begins, piece, np.concatenate(first))
    begins[piece[0]] = -1
    rank = np.empty(n_pieces, np.int64)
    rank[np.argsort(begins, kind="stable")] = np.arange(n_pieces)
    number = rank[piece]
    if len(joined) or not np.array_equal(number, np.arange(n + 1)):
        yield from _change(writer, parts, lambda part: number[part], f"Joined the pieces of {name}")
    found, area, edge = counts.all()
    areas = np.bincount(number[found], area, n_pieces).astype(np.int64)
    edges = np.bincount(number[found], edge, n_pieces) > 0
    here = np.flatnonzero(areas)
    return here, areas[here], edges[here]


def _touching(
    values: np.ndarray, pieces: np.ndarray, other_values: np.ndarray, other_pieces: np.ndarray
) -> np.ndarray:
    """Pairs (n, 2) of pieces of one label on both sides of a seam."""
    same = (values == other_values) & (values > 0)
    return np.unique(np.stack([pieces[same], other_pieces[same]], axis=1), axis=0)


def _change(
    writer: slides.LabelWriter, parts: list[slides.Tile], change: Callable[[np.ndarray], Any], done: str
) -> Job[None]:
    for i, tile in enumerate(parts):
        y0, x0, y1, x1 = tile.core
        before = np.asarray(writer.array[y0:y1, x0:x1])
        after = change(before).astype(np.uint32)
        if not np.array_equal(before, after):
            writer.array[y0:y1, x0:x1] = after
        yield Progress(i + 1, len(parts), f"{done}: part {i + 1} of {len(parts)}")
