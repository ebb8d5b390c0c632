"""Cells as an AnnData table: one row is one segmented cell, known for ever by its ``cell_id``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from napari_cellrep.data.crops import Boxes, find_cells, mask_hashes
from napari_cellrep.data.fields import Field
from napari_cellrep.specs import Channel

if TYPE_CHECKING:
    import anndata as ad

# Flag → what it means, in the words the window and the report use.
FLAGS = {
    "edge": "its window reaches over the image's edge",
    "area": "it fills too little (less than 5 %, or than half of the usual) or too much (95 %) of its window",
    "debris": "it is far smaller than the other cells",
    "saturated": "its brightest pixels are cut off by the camera",
    "focus": "it is out of focus",
    "no_signal": "there is hardly any protein signal in it and around it",
    "field": "its whole field is out of focus, cut off by the camera, or one of its channels shows nothing",
    "artefact": "a person who looked at it called it an artefact",
}


@dataclass(frozen=True)
class QualityRules:
    """When a cell is flagged. Flagged cells are kept, hidden and left out of rankings by default."""

    window_px: Annotated[int, {"min": 4, "max": 4096, "label": "Window (px)"}] = 64
    min_area_share: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Least share of window"}
    ] = 0.05
    max_area_share: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Largest share of window"}
    ] = 0.95
    debris_share: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.05, "label": "Debris below this share of the median area"}
    ] = 0.35
    saturated_share: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Saturated above this share of the cell"}
    ] = 0.05
    focus_z: Annotated[
        float, {"min": 0.0, "max": 20.0, "step": 0.5, "label": "Out of focus beyond (robust SDs)"}
    ] = 3.0
    signal_z: Annotated[
        float, {"min": 0.0, "max": 50.0, "step": 0.5, "label": "No signal below (noise SDs over background)"}
    ] = 3.0
    signal_share: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 0.05, "label": "No signal below this share of the field's usual"},
    ] = 0.4
    field_focus: Annotated[
        float, {"min": 0.0, "max": 5.0, "step": 0.1, "label": "Field out of focus below the usual by"}
    ] = 0.7
    field_saturated_share: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Field saturated above this share"}
    ] = 0.05
    field_contrast: Annotated[
        float, {"min": 0.0, "max": 50.0, "step": 0.5, "label": "Channel of a field empty below (noise SDs)"}
    ] = 4.0


def measure_field(
    field: Field, image: np.ndarray, labels: np.ndarray, channels: Sequence[Channel], window_px: int
) -> pd.DataFrame:
    """One row per cell of a field: place, size, and the numbers its quality flags are decided from.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
    labels : ndarray of shape (H, W)
    window_px : int
        Side of the window whose overlap with the image edge is reported.

    Returns
    -------
    DataFrame
        Index ``cell_id``; the columns of `OBS_COLUMNS` and the field's metadata.
    """
    cells = find_cells(labels)
    measuring = Measuring(field, channels, window_px, cells, labels.shape)
    measuring.add(image, labels, cells=cells)
    return measuring.table()


class Measuring:
    """A field's cells measured part by part; what is told of a cell does not depend on how the field was cut.

    What its flags are judged by (background, noise, the usual cell, the camera's top) is the whole field's: it is gathered while
    the parts come, and cells get their numbers at the end.

    Parameters
    ----------
    field : Field
    channels : sequence of Channel
    window_px : int
        As in `measure_field`.
    cells : Boxes
        All cells of the field.
    shape : tuple of int
        Height and width of the field.
    judged_by : mapping, optional
        `judged_by` of all cells of the field, to measure some of them again as they were then: only where they are is looked at.

    Attributes
    ----------
    judged_by : dict
        What of the whole field cells are judged by, as plain numbers; once `table` was called.
    """

    def __init__(
        self,
        field: Field,
        channels: Sequence[Channel],
        window_px: int,
        cells: Boxes,
        shape: tuple[int, ...],
        judged_by: Mapping[str, Any] | None = None,
    ):
        self._field, self._channels, self._window_px, self._shape = field, channels, window_px, shape
        side = float(np.median(np.sqrt(cells.area_px))) if len(cells) else 0.0
        self.judged_by = dict(judged_by or {})
        self._ring_px = int(self.judged_by["ring_px"]) if judged_by else max(1, round(0.2 * side))
        self._light = [_Light() for _ in channels]
        self._frames: list[pd.DataFrame] = []
        self._proteins = [i for i, c in enumerate(channels) if c.role == "protein"]
        self._counts = True  # whether pixels are whole numbers
        self._tops: dict[int, list[np.ndarray]] = {}  # the camera's top may be → share of each cell at it
        self._brightest, self._dtype = 0, np.dtype(np.uint8)

    def add(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        *,
        box: tuple[int, int, int, int] | None = None,
        core: tuple[int, int, int, int] | None = None,
        cells: Boxes | None = None,
    ) -> None:
        """Measure the cells of a part whose middle is in its core.

        Parameters
        ----------
        image : ndarray of shape (C, h, w)
        labels : ndarray of shape (h, w)
        box, core : tuple of int, optional
            y0, x0, y1, x1 in the field of these pixels, and of those that are the part's own: the cores of all parts cover the
            field once. A box reaches at least 3 px over its core where the field goes on. None: all of the field.
        cells : Boxes, optional
            Those of `labels`, if they are known.
        """
        box = box or (0, 0, *labels.shape)
        core = core or box
        origin = box[:2]
        self._dtype, self._counts = image.dtype, image.dtype.kind in "ui"
        if self._counts:
            self._brightest = max(self._brightest, int(image.max(initial=0)))
        own = (slice(core[0] - box[0], core[2] - box[0]), slice(core[1] - box[1], core[3] - box[1]))
        for i, (plane, light) in enumerate(() if self.judged_by else zip(image, self._light, strict=True)):
            light.add(plane.astype(np.float32), own, core[:2], i in self._proteins, self._possible_tops())
        cells = find_cells(labels) if cells is None else cells
        middle = cells.centroid + np.array(origin)
        mine = ((middle >= core[:2]) & (middle < core[2:])).all(axis=1)
        if not mine.any():
            return
        grown = _grow(labels, self._ring_px)
        corner = middle.astype(int) - self._window_px // 2
        frame = pd.DataFrame(
            {
                "field": self._field.id,
                "label": cells.label,
                "group": self._field.group,
                "y_px": middle[:, 0],
                "x_px": middle[:, 1],
                **{
                    name: cells.box[:, i] + origin[i % 2]
                    for i, name in enumerate(("box_y0", "box_x0", "box_y1", "box_x1"))
                },
                "area_px": cells.area_px,
                "mask_hash": mask_hashes(labels, cells, origin),
                "q_window_over_edge": (corner < 0).any(axis=1)
                | (corner + self._window_px > self._shape).any(axis=1),
                "q_area_share": cells.area_px / self._window_px**2,
                "q_saturated_share": 0.0,
                "q_focus": _focus(image, grown, cells.label, self._channels),
                **{f"protein {i}": _brightness(image[i], labels, grown, cells.label) for i in self._proteins},
                **{
                    f"top {top}": np.max([ndimage.mean(p == top, labels, cells.label) for p in image], axis=0)
                    for top in self._possible_tops()
                },
            }
        )
        self._frames.append(frame[mine])

    def _possible_tops(self) -> list[int]:
        """What the camera's largest count may be: 12 bits in a file of 16 are known only once all was seen."""
        if not self._counts:
            return []
        return [*([4095] if self._dtype == np.uint16 else []), int(np.iinfo(self._dtype).max)]

    def table(self) -> pd.DataFrame:
        """Rows of all cells, in the order of their labels; to be called once, after the last part."""
        if self._frames:
            frame = pd.concat(self._frames, ignore_index=True).sort_values("label", kind="stable")
        else:
            frame = pd.DataFrame({c: np.zeros(0) for c in OBS_COLUMNS})
        self.judged_by = by = self.judged_by or self._judge(frame)
        if by["top"] and len(frame):
            frame["q_saturated_share"] = frame[f"top {by['top']}"]
        frame["q_signal"], frame["q_signal_share"] = _signal(frame, by["signal"])
        for column in ("q_field_focus", "q_field_saturated", "q_field_contrast"):
            frame[column] = by[column]
        ids = [self._field.cell_id(int(label)) for label in frame["label"]]
        frame = frame[list(OBS_COLUMNS)].set_index(pd.Index(ids, name="cell_id", dtype=object))
        for key, value in self._field.metadata.items():
            if key not in frame:
                frame[key] = value
        return frame

    def _judge(self, frame: pd.DataFrame) -> dict[str, Any]:
        """What of the whole field its cells are judged by."""
        tops = self._possible_tops()
        top = tops[0] if tops and (len(tops) == 1 or self._brightest <= 4095) else max(tops, default=0)
        focus = frame["q_focus"].to_numpy(float)
        signal = {}
        for i in self._proteins if len(frame) else ():
            background, noise, step = self._light[i].background(self._counts)
            usual = float(np.median(frame[f"protein {i}"].to_numpy(float) - background))
            signal[str(i)] = [float(background), max(float(noise), step), max(usual, step)]
        return {
            "window_px": self._window_px,
            "ring_px": self._ring_px,
            "top": int(top),
            "signal": signal,
            "q_field_focus": float(np.median(focus)) if len(focus) else 0.0,
            "q_field_saturated": max((light.share_at(top) for light in self._light), default=0.0),
            "q_field_contrast": float(
                min(
                    (
                        light.contrast(self._counts)
                        for light, channel in zip(self._light, self._channels, strict=True)
                        if channel.role not in ("brightfield", "mask")
                    ),
                    default=np.inf,
                )
            ),
        }


def _signal(frame: pd.DataFrame, by: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Protein signal of each cell over background: in SDs of the field's noise, and as a share of the usual.

    The usual is the median cell of the same field. Of several protein channels the best counts; both are inf where there
    is none.

    Parameters
    ----------
    by : mapping
        Channel → background, noise and the usual signal.
    """
    n = len(frame)
    if not by or not n:
        return np.full(n, np.inf), np.full(n, np.inf)
    z, share = np.full(n, -np.inf), np.full(n, -np.inf)
    for i, (background, noise, usual) in by.items():
        signal = frame[f"protein {i}"].to_numpy(float) - background
        z = np.maximum(z, signal / noise)
        share = np.maximum(share, signal / usual)
    return z, share


class _Light:
    """What one channel of a field shows, gathered over its parts."""

    def __init__(self) -> None:
        self._dark, self._differences, self._some = Quantiles(), Quantiles(), Quantiles()
        self._slope_sum, self._slope_n, self._largest = 0.0, 0, 0.0
        self._n, self._at_top = 0, dict[int, int]()

    def add(
        self,
        plane: np.ndarray,
        own: tuple[slice, slice],
        origin: tuple[int, int],
        protein: bool,
        tops: Sequence[int],
    ) -> None:
        """Look at the pixels `own` of a part, float32 (h, w), of which the first is at `origin` of the field."""
        rows, columns = own
        on = slice(columns.start, min(columns.stop + 1, plane.shape[1]))  # to the neighbour on the right
        core, right = plane[own], plane[rows, on]
        first = [
            int(o % 2) for o in origin
        ]  # every other row and column of the field, wherever the part begins
        few = core[first[0] :: 2, first[1] :: 2]
        self._n += few.size
        for top in tops:
            self._at_top[top] = self._at_top.get(top, 0) + int((few == top).sum())
        slopes = np.abs(np.diff(right[first[0] :: 2], axis=1))
        self._slope_sum, self._slope_n = (
            self._slope_sum + float(slopes.sum(dtype=np.float64)),
            self._slope_n + slopes.size,
        )
        self._largest = max(self._largest, float(np.abs(core).max(initial=0)))
        self._some.add(few)
        if protein:
            self._dark.add(ndimage.uniform_filter(plane, 5)[own])
            self._differences.add(np.abs(np.diff(right, axis=1)))

    def _step(self, counts: bool) -> float:
        """A background of one value is not noiseless: half a count, or what float rounds to."""
        return 0.5 if counts else float(np.spacing(np.float32(self._largest)))

    def background(self, counts: bool) -> tuple[float, float, float]:
        """Background, noise and the least noise there can be.

        The 5th percentile is background even where cells touch; the noise is what neighbours differ by.
        """
        noise = 1.4826 * self._differences.at(50) / np.sqrt(2)
        return self._dark.at(5), float(noise), self._step(counts)

    def contrast(self, counts: bool) -> float:
        """How far the brightest thousandth is above the median, in SDs of the noise.

        Noise alone gives 3.1; a channel of one value everywhere 0. Bright field has its contrast on both sides and is left
        out.
        """
        # The mean and not the median: of whole numbers that differ by one or two the median says little.
        noise = self._slope_sum / max(self._slope_n, 1) * np.sqrt(np.pi) / 2
        return (self._some.at(99.9) - self._some.at(50)) / max(float(noise), self._step(counts))

    def share_at(self, top: int) -> float:
        """Share of its pixels at the top of the camera's range."""
        return self._at_top.get(top, 0) / max(self._n, 1)


class Quantiles:
    """Percentiles of float32 numbers that come in parts, in memory that does not grow with them.

    Of one part they are exact. Of several, numbers that agree in their first 12 binary digits are counted together and stand for
    their mean, which is within 0.05 % of each.
    """

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._bins: np.ndarray | None = None
        self._counts: np.ndarray = np.zeros(0)
        self._sums: np.ndarray = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        """Take up numbers."""
        if self._first is None and self._bins is None:
            self._first = np.array(values)  # not a view that keeps all of the part
            return
        if self._first is not None:
            before, self._first = self._first, None
            self._bins = np.zeros(0, np.int64)
            self._count(before)
        self._count(values)

    def _count(self, values: np.ndarray) -> None:
        flat = np.ascontiguousarray(values, np.float32).ravel()
        bits = flat.view(np.int32) >> _DROPPED_BITS  # of floats above 0 these go up as the floats do
        bits = np.where(bits < 0, np.iinfo(np.int32).min // 2**_DROPPED_BITS - bits - 1, bits).astype(
            np.int64
        )
        low = int(bits.min(initial=0))
        counts, sums = np.bincount(bits - low), np.bincount(bits - low, flat)
        here = np.flatnonzero(counts)
        assert self._bins is not None
        self._bins, index = np.unique(np.concatenate([self._bins, here + low]), return_inverse=True)
        n = len(self._bins)
        self._counts = np.bincount(index, np.concatenate([self._counts, counts[here]]), n)
        self._sums = np.bincount(index, np.concatenate([self._sums, sums[here]]), n)

    def at(self, percent: float) -> float:
        """A percentile, between two numbers on the line that joins them; 0 where there is no number."""
        if self._first is not None:
            return float(np.percentile(self._first, percent)) if self._first.size else 0.0
        if not self._counts.sum():
            return 0.0
        ends = np.cumsum(self._counts)
        where = percent / 100 * (ends[-1] - 1)
        around = np.searchsorted(ends, [np.floor(where), np.ceil(where)], side="right")
        low, high = (self._sums / self._counts)[around]
        return float(low + (where - np.floor(where)) * (high - low))


_DROPPED_BITS = 12  # of the 23 after a float's first digit


OBS_COLUMNS = (
    "field", "label", "group", "y_px", "x_px", "box_y0", "box_x0", "box_y1", "box_x1", "area_px", "mask_hash",
    "q_window_over_edge", "q_area_share", "q_saturated_share", "q_focus", "q_signal",
    "q_signal_share", "q_field_focus", "q_field_saturated", "q_field_contrast",
)  # fmt: skip


def _grow(labels: np.ndarray, ring_px: int) -> np.ndarray:
    """Labels grown by a ring into the background, never over a neighbour."""
    return np.where(labels == 0, ndimage.maximum_filter(labels, 2 * ring_px + 1), labels)


def _focus(image: np.ndarray, grown: np.ndarray, ids: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Log of a cell's steepest slope over its contrast, in the nucleus channel (else the first).

    For a step blurred by a Gaussian this is -log(sigma) and a constant, whatever the cell's size and brightness.
    """
    if not len(ids):
        return np.zeros(0)
    pick = next((i for i, c in enumerate(channels) if c.role == "nucleus"), 0)
    plane = image[pick].astype(np.float32)
    slope = ndimage.gaussian_gradient_magnitude(plane, 1)
    plane = ndimage.gaussian_filter(plane, 1)
    low, high, _, _ = ndimage.extrema(plane, grown, ids)
    steepest = np.asarray(ndimage.maximum(slope, grown, ids))
    tiny = np.finfo(np.float32).tiny
    return np.log(np.maximum(steepest, tiny) / np.maximum(np.subtract(high, low), tiny))


def _brightness(plane: np.ndarray, labels: np.ndarray, grown: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Mean of each cell inside the mask or in a ring around it, whichever is larger.

    Where masks are nuclei, a protein kept out of the nucleus is signal too.
    """
    plane = plane.astype(np.float32)
    ring = np.where(labels == 0, grown, 0)
    has_ring = np.isin(ids, ring)
    inside = np.asarray(ndimage.mean(plane, labels, ids))
    around = np.full(len(ids), -np.inf)
    around[has_ring] = ndimage.mean(plane, ring, ids[has_ring])
    return np.maximum(inside, around)


def flag_limits(obs: pd.DataFrame, rules: QualityRules) -> dict[str, tuple[float, float]]:
    """Column → (least, most): a cell outside is flagged. Size and focus are judged against all cells of `obs`."""
    if not len(obs):
        return {}
    share, area = obs["q_area_share"].to_numpy(float), obs["area_px"].to_numpy(float)
    focus = obs["q_focus"].to_numpy(float)
    middle = float(np.median(focus))
    spread = 1.4826 * float(np.median(np.abs(focus - middle)))
    inf = float("inf")
    of_fields = {}
    if "q_field_focus" in obs:  # tables made before fields were judged have none
        usual = float(np.nanmedian(obs.groupby("field", observed=True)["q_field_focus"].first()))
        of_fields = {
            "q_field_focus": (usual - rules.field_focus, inf),
            "q_field_saturated": (-inf, rules.field_saturated_share),
            "q_field_contrast": (rules.field_contrast, inf),
        }
    return {
        **of_fields,
        # The paper's 5 % is of whole cells. Where the usual mask is smaller (nuclei), half of the usual is the bound.
        "q_area_share": (min(rules.min_area_share, 0.5 * float(np.median(share))), rules.max_area_share),
        "area_px": (rules.debris_share * float(np.median(area)), inf),
        "q_saturated_share": (-inf, rules.saturated_share),
        "q_focus": (middle - rules.focus_z * max(spread, 1e-6), inf),
        "q_signal": (rules.signal_z, inf),
        "q_signal_share": (rules.signal_share, inf),
    }


def flag_masks(obs: pd.DataFrame, rules: QualityRules) -> dict[str, np.ndarray]:
    """Flag → which cells carry it, bool (n,), decided from their ``q_…`` numbers; verdicts by hand are not among them."""
    if not len(obs):
        return {name: np.zeros(0, bool) for name in FLAGS if name != "artefact"}
    limits = flag_limits(obs, rules)

    def outside(column: str) -> np.ndarray:
        values, (least, most) = obs[column].to_numpy(float), limits[column]
        return np.asarray((values < least) | (values > most))

    # A label in two far corners fills little of its window, or none: what reaches over two windows is too large.
    box = obs[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(float)
    longest = (box[:, 2:] - box[:, :2]).max(axis=1)
    return {
        "edge": obs["q_window_over_edge"].to_numpy(bool),
        "area": outside("q_area_share") | (longest > 2 * rules.window_px),
        "debris": outside("area_px"),
        "saturated": outside("q_saturated_share"),
        "focus": outside("q_focus"),
        "no_signal": outside("q_signal") | outside("q_signal_share"),
        "field": np.any(
            [np.zeros(len(obs), bool), *(outside(c) for c in limits if c.startswith("q_field_"))], axis=0
        ),
    }


def set_flags(obs: pd.DataFrame, rules: QualityRules) -> pd.DataFrame:
    """Decide every cell's flags from its ``q_…`` numbers; adds ``flags`` ("edge;focus") and ``good``.

    Size and focus are judged against all cells of the project, so this runs on the whole table.
    """
    on = flag_masks(obs, rules)
    obs = obs.copy()
    codes = sum(
        (mask.astype(np.int64) << k for k, mask in enumerate(on.values())), np.zeros(len(obs), np.int64)
    )
    found, index = np.unique(codes, return_inverse=True)  # each text once, however many cells have it
    words = [";".join(name for k, name in enumerate(on) if code >> k & 1) for code in found.tolist()]
    obs["flags"] = np.array(words, object)[index]
    obs["good"] = codes == 0
    return obs


def make_table(obs: pd.DataFrame) -> ad.AnnData:
    """AnnData with one row per cell and nothing computed yet."""
    import anndata as ad  # takes a second: not before there is a table

    return ad.AnnData(obs=obs, uns={"cellrep": {}})


def reconcile_labels(old: np.ndarray, new: np.ndarray, above: int = 0) -> np.ndarray:
    """Give merged and split cells new numbers, so that an old id never comes to mean another cell.

    A cell whose outline was only repainted keeps its number. One that swallowed more than half of another
    cell (merge), or that lost more than a quarter of itself to a number that did not exist (split), gets a
    new number; so do both halves of a split, and a cell drawn with the number of one that was elsewhere.

    Parameters
    ----------
    old, new : ndarray of shape (H, W), integer
        Labels before and after editing.
    above : int
        New numbers are larger than this, too.
    """
    both = (old > 0) & (new > 0)
    pairs, counts = np.unique(np.stack([old[both], new[both]]).astype(np.int64), axis=1, return_counts=True)
    area = dict(zip(*np.unique(old[old > 0], return_counts=True), strict=True))
    known = set(area)
    renew: set[int] = set()
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        if a == b:
            continue
        if b in known and count > 0.5 * area[a]:
            renew.add(b)  # b swallowed a
        if b not in known and count > 0.25 * area[a]:
            renew.add(a)  # a was split; b is new already
    sizes = dict(zip(*np.unique(new[new > 0], return_counts=True), strict=True))
    stayed = {a: count for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True) if a == b}
    for b in known & set(sizes):
        if stayed.get(b, 0) < 0.25 * min(area[b], sizes[b]):
            renew.add(int(b))  # the number of an erased cell, used again elsewhere
    following = int(max(old.max(initial=0), new.max(initial=0), above)) + 1
    out = new.astype(np.promote_types(new.dtype, np.min_scalar_type(following + len(renew))))
    for label in sorted(renew):
        where = new == label
        if where.any():
            out[where] = following
            following += 1
    return out


MAP_PREFIXES = ("X_umap_", "X_densmap_", "X_tsne_")  # of maps in ``obsm``


def embedding_names(cells: ad.AnnData) -> list[str]:
    """Keys of the embeddings in the table: ``X_<key>`` without the prefix, maps (``X_umap_…``) left out."""
    return [
        k[2:]
        for k in cells.obsm
        if k.startswith("X_") and not k.startswith((*MAP_PREFIXES, "X_pca_", "X_diffmap_"))
    ]


def map_key(embedding: str, of: str = "", method: str = "umap") -> str:
    """Key in ``obsm`` of the map of an embedding, or of a set's own map: letters, digits and - of the set's name."""
    return f"X_{method}_{embedding}" + (f"_of_{re.sub(r'[^0-9A-Za-z-]+', '_', of)}" if of else "")


def is_untrained(how: Mapping[str, Any]) -> bool:
    """Whether an embedding (by its `Project.embedding_info`) was made by random weights; measurements have none."""
    return how.get("trained") is False and how.get("model") != "measurements"


def provenance(cells: ad.AnnData) -> dict[str, Any]:
    """How each key was made: ``uns["cellrep"]``, JSON strings read."""
    import json

    return {key: json.loads(text) for key, text in dict(cells.uns.get("cellrep", {})).items()}
