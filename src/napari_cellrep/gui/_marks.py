"""What is painted over cells: the marks of a selection and the colours of the map, of a slide in the level that is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from napari_cellrep.data import slides

# Values of the overlay. Each mark lies inside its cell's own mask: painting and wiping a cell touch no other.
FILL, RING, EDGE, FOCUS, HOVER = 1, 2, 3, 4, 5
SELECTED_BIT, FOCUS_BIT, HOVER_BIT = 1, 2, 4  # of what a cell is marked with
_RIM_PX = 3  # as far as marks reach into a cell


class Slide:
    """The cells of a field larger than memory, painted where and as large as they are looked at.

    Nothing of the slide's size is made: every level of an overlay is computed from the labels of that level when napari
    asks for a part. The labels of the part that was seen last are kept, so that another mark costs no disk.

    Parameters
    ----------
    levels : list of array
        The labels, the largest first.

    Attributes
    ----------
    levels : list of array
    hidden : Box or None
        A part, in field pixels, of which nothing is shown.
    """

    def __init__(self, levels: list[Any]) -> None:
        self.levels = self._levels = levels
        self.hidden: slides.Box | None = None
        self._kept: dict[int, tuple[slides.Box, np.ndarray]] = {}  # level → the part that was read last
        self._marks = np.zeros(1, np.uint8)  # label → what it is marked with

    def label_at(self, y: int, x: int, level: int) -> int:
        """The label at a pixel of the field, as a level shows it; 0 outside."""
        level = min(level, len(self._levels) - 1)
        y, x, (h, w) = y >> level, x >> level, self._levels[level].shape
        if not (0 <= y < h and 0 <= x < w):
            return 0
        (y0, x0, y1, x1), labels = self._kept.get(level, ((0, 0, 0, 0), np.zeros((0, 0), np.uint32)))
        return int(labels[y - y0, x - x0] if y0 <= y < y1 and x0 <= x < x1 else self._levels[level][y, x])

    def mark(self, wanted: Mapping[int, int]) -> None:
        """Mark these labels (bits as of `paint_cell`) and no others; seen once the layer is refreshed."""
        self._marks = np.zeros(max(wanted, default=0) + 2, np.uint8)  # the last is of all that are larger
        self._marks[list(wanted)] = list(wanted.values())

    def marked(self) -> list[Any]:
        """Levels of the overlay of marks, uint8: see `FILL` and so on."""
        return self._overlay(
            lambda labels, level: paint_marks(labels, _looked_up(self._marks, labels), level == 0)
        )

    def coloured(self, ids: np.ndarray, codes: np.ndarray) -> list[Any]:
        """Levels in which every pixel has its cell's number: uint8, 0 where there is no cell of the list."""
        table = np.zeros(int(ids.max(initial=0)) + 2, np.uint8)
        table[ids] = codes
        return self._overlay(lambda labels, _: _looked_up(table, labels))

    def without_hidden(self) -> list[Any]:
        """Levels of the labels, without those in the part that is hidden."""
        return self._overlay(lambda labels, _: labels.copy(), np.dtype(self._levels[0].dtype))

    def _overlay(self, paint: Callable[[np.ndarray, int], np.ndarray], dtype: Any = np.uint8) -> list[Any]:
        def level_of(level: int) -> Any:
            shape = self._levels[level].shape

            def read(box: slides.Box) -> np.ndarray:
                around = slides.grown(box, _RIM_PX, shape)
                y0, x0 = box[0] - around[0], box[1] - around[1]
                painted = paint(self._read(level, around), level)
                self._clear_hidden(painted, around, level)
                return painted[y0 : y0 + box[2] - box[0], x0 : x0 + box[3] - box[1]]

            return slides.LazyPlane(read, shape, dtype)

        return [level_of(level) for level in range(len(self._levels))]

    def _clear_hidden(self, painted: np.ndarray, box: slides.Box, level: int) -> None:
        """Take out, in place, what is hidden of a part of a level."""
        if self.hidden is None:
            return
        a, b, c, d = (-(-n // 2**level) for n in self.hidden)
        y0, x0 = box[:2]
        painted[max(a - y0, 0) : max(c - y0, 0), max(b - x0, 0) : max(d - x0, 0)] = 0

    def _read(self, level: int, box: slides.Box) -> np.ndarray:
        kept = self._kept.get(level)
        if kept is None or kept[0] != box:
            y0, x0, y1, x1 = box
            self._kept[level] = kept = box, np.asarray(self._levels[level][y0:y1, x0:x1])
        return kept[1]


def _looked_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The entry of each label; of those beyond the table its last."""
    return table[np.minimum(labels, len(table) - 1)]


def paint_marks(labels: np.ndarray, marks: np.ndarray, fine: bool = True) -> np.ndarray:
    """Paint the marks of all cells of a part, as `paint_cell` does of one.

    Parameters
    ----------
    labels : ndarray of shape (h, w), integer
    marks : ndarray of shape (h, w), uint8
        Of each pixel's cell: bit 1 selected, 2 focus, 4 hover.
    fine : bool
        Whether cells are large enough for a dark rim; where they are specks, all of a selected one is bright.
    """
    out = np.zeros(labels.shape, np.uint8)
    rows, columns = (np.flatnonzero(marks.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return out
    h, w = labels.shape
    part = (
        slice(max(rows[0] - 1, 0), min(rows[-1] + 2, h)), slice(max(columns[0] - 1, 0), min(columns[-1] + 2, w)),
    )  # fmt: skip
    labels, marks = labels[part], marks[part]
    inside = np.ones(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        for side in (slice(None, -1), slice(1, None)):
            of = (side, slice(None)) if axis == 0 else (slice(None), side)
            inside[of] &= ~differs
    selected = (marks & SELECTED_BIT) > 0
    codes = np.where(selected, RING, 0).astype(np.uint8)
    if fine:
        codes[_shrunk(_shrunk(inside)) & selected] = FILL
    rim = np.where(marks & FOCUS_BIT, FOCUS, np.where(marks & HOVER_BIT, HOVER, EDGE if fine else RING))
    out[part] = np.where(~inside & (marks > 0), rim, codes)
    return out


def paint_cell(overlay: np.ndarray, mask: np.ndarray, marks: int) -> None:
    """Paint the marks of one cell into its box of the overlay, inside its own mask only.

    Parameters
    ----------
    overlay : ndarray of shape (h, w), uint8
        Changed in place.
    mask : ndarray of shape (h, w), bool
    marks : int
        Bit 1: selected, 2: focus, 4: hover; 0 wipes.
    """
    if not marks:
        overlay[mask] = 0
        return
    once = _shrunk(mask)
    codes = np.full(mask.shape, RING if marks & 1 else 0, np.uint8)
    if marks & 1:
        codes[_shrunk(_shrunk(once))] = FILL
    codes[~once] = FOCUS if marks & 2 else HOVER if marks & 4 else EDGE
    np.copyto(overlay, codes, where=mask)


def paint_codes(labels: np.ndarray, ids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Give every pixel its cell's number: uint8 (H, W), 0 where there is no cell of the list.

    Parameters
    ----------
    labels : ndarray of shape (H, W), integer
    ids : ndarray of shape (n,), int
        Labels of the cells, in any order, with gaps.
    codes : ndarray of shape (n,), uint8
    """
    if not len(ids):
        return np.zeros(labels.shape, np.uint8)
    top = int(max(labels.max(initial=0), ids.max()))
    if top <= 10 * len(ids) + 1_000_000:
        table = np.zeros(top + 1, np.uint8)
        table[ids] = codes
        return table[labels]
    order = np.argsort(ids, kind="stable")  # a few cells with huge numbers
    at = np.minimum(np.searchsorted(ids[order], labels), len(ids) - 1)
    return np.where(ids[order][at] == labels, codes[order][at], 0).astype(np.uint8)


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """The mask without its rim; what touches the box's border is rim."""
    out = np.zeros_like(mask)
    inner = out[1:-1, 1:-1]
    np.logical_and(mask[1:-1, 1:-1], mask[:-2, 1:-1], out=inner)
    inner &= mask[2:, 1:-1]
    inner &= mask[1:-1, :-2]
    inner &= mask[1:-1, 2:]
    return out
