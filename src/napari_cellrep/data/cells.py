"""Cells as an AnnData table: one row is one segmented cell, known for ever by its ``cell_id``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from napari_cellrep.data.crops import Boxes, find_cells, mask_hashes
from napari_cellrep.data.fields import Field
from napari_cellrep.data.illumination import top_of
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
    field: Field,
    image: np.ndarray,
    labels: np.ndarray,
    channels: Sequence[Channel],
    window_px: int,
    *,
    origin: tuple[int, int] = (0, 0),
    keep: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row per cell of a field: place, size, and the numbers its quality flags are decided from.

    Of a field larger than memory a part is measured; background and the usual signal are then those of the part.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
    labels : ndarray of shape (H, W)
    window_px : int
        Side of the window whose overlap with the image edge is reported.
    origin : tuple of int
        y, x of the part's first pixel in the field.
    keep : ndarray of shape (n,), optional
        Labels of the cells that get a row; the others of the part are only neighbours.

    Returns
    -------
    DataFrame
        Index ``cell_id``; the columns of `OBS_COLUMNS` and the field's metadata.
    """
    cells = find_cells(labels)
    h, w = labels.shape if keep is None else (field.height_px, field.width_px)
    grown = _with_ring(labels, cells)
    signal, signal_share = _signal(image, labels, grown, cells.label, channels)
    corner = (cells.centroid + np.array(origin)).astype(int) - window_px // 2
    edge = (corner < 0).any(axis=1) | (corner + window_px > (h, w)).any(axis=1)
    focus = _focus(image, grown, cells.label, channels)
    own = {
        "field": field.id,
        "label": cells.label,
        "group": field.group,
        "y_px": cells.centroid[:, 0] + origin[0],
        "x_px": cells.centroid[:, 1] + origin[1],
        **{
            name: cells.box[:, i] + origin[i % 2]
            for i, name in enumerate(("box_y0", "box_x0", "box_y1", "box_x1"))
        },
        "area_px": cells.area_px,
        "mask_hash": mask_hashes(labels, cells, origin),
        "q_window_over_edge": edge,
        "q_area_share": cells.area_px / window_px**2,
        "q_saturated_share": _saturated(image, labels, cells.label),
        "q_focus": focus,
        "q_signal": signal,
        "q_signal_share": signal_share,
        "q_field_focus": float(np.median(focus)) if len(focus) else 0.0,
        "q_field_saturated": _saturated_pixels(image),
        "q_field_contrast": _least_contrast(image, channels),
    }
    index = pd.Index([field.cell_id(label) for label in cells.label], name="cell_id", dtype=object)
    frame = pd.DataFrame(own, index=index)
    if keep is not None:
        frame = frame[np.isin(cells.label, keep)].copy()
    for key, value in field.metadata.items():
        if key not in frame:
            frame[key] = value
    return frame


OBS_COLUMNS = (
    "field", "label", "group", "y_px", "x_px", "box_y0", "box_x0", "box_y1", "box_x1", "area_px", "mask_hash",
    "q_window_over_edge", "q_area_share", "q_saturated_share", "q_focus", "q_signal",
    "q_signal_share", "q_field_focus", "q_field_saturated", "q_field_contrast",
)  # fmt: skip


def _saturated(image: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Largest share, over channels, of a cell's pixels that sit at the top of the dtype's range."""
    if image.dtype.kind not in "ui" or not len(ids):
        return np.zeros(len(ids))
    top = np.iinfo(image.dtype).max
    if image.dtype == np.uint16 and image.max() <= 4095:
        top = 4095  # 12-bit camera in a 16-bit file
    return np.max([ndimage.mean(plane == top, labels, ids) for plane in image], axis=0)  # type: ignore[no-any-return]


def _saturated_pixels(image: np.ndarray) -> float:
    """Largest share, over channels, of a field's pixels that sit at the top of the camera's range."""
    top = top_of(image)
    return max(float((plane[::2, ::2] == top).mean()) for plane in image) if top else 0.0


def _least_contrast(image: np.ndarray, channels: Sequence[Channel]) -> float:
    """How far the brightest thousandth of the emptiest channel is above its median, in SDs of the noise.

    Noise alone gives 3.1; a channel of one value everywhere 0. Bright field has its contrast on both sides and is left
    out.
    """
    least = np.inf
    for plane, channel in zip(image, channels, strict=True):
        if channel.role in ("brightfield", "mask"):
            continue
        some = plane[::2].astype(np.float32)
        # The mean and not the median: of whole numbers that differ by one or two the median says little.
        noise = np.abs(np.diff(some, axis=1)).mean() * np.sqrt(np.pi) / 2
        step = 0.5 if image.dtype.kind in "ui" else float(np.spacing(np.abs(some).max()))
        middle, bright = np.percentile(some[:, ::2], (50, 99.9))
        least = min(least, float(bright - middle) / max(float(noise), step))
    return least


def _with_ring(labels: np.ndarray, cells: Boxes) -> np.ndarray:
    """Labels grown by a fifth of the usual cell's side into the background, never over a neighbour."""
    if not len(cells):
        return labels
    ring_px = max(1, round(0.2 * float(np.median(np.sqrt(cells.area_px)))))
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


def _signal(
    image: np.ndarray, labels: np.ndarray, grown: np.ndarray, ids: np.ndarray, channels: Sequence[Channel]
) -> tuple[np.ndarray, np.ndarray]:
    """Protein signal of each cell over background: in SDs of the field's noise, and as a share of the usual.

    A cell's signal is its mean inside the mask or in a ring around it, whichever is larger: where masks are
    nuclei, a protein kept out of the nucleus is signal too. The usual is the median cell of the same field.
    Of several protein channels the best counts; both are inf where there is none.
    """
    picks = [i for i, c in enumerate(channels) if c.role == "protein"]
    if not picks or not len(ids):
        return np.full(len(ids), np.inf), np.full(len(ids), np.inf)
    ring = np.where(labels == 0, grown, 0)
    has_ring = np.isin(ids, ring)
    z, share = np.full(len(ids), -np.inf), np.full(len(ids), -np.inf)
    for i in picks:
        plane = image[i].astype(np.float32)
        # The 5th percentile is background even where cells touch; the noise is what neighbours differ by.
        background = np.percentile(ndimage.uniform_filter(plane, 5), 5)
        noise = 1.4826 * np.median(np.abs(np.diff(plane, axis=1))) / np.sqrt(2)
        # A background of one value is not noiseless: half a count, or what float rounds to.
        step = 0.5 if image.dtype.kind in "ui" else float(np.spacing(np.abs(plane).max()))
        signal = np.asarray(ndimage.mean(plane, labels, ids))
        around = np.full(len(ids), -np.inf)
        around[has_ring] = ndimage.mean(plane, ring, ids[has_ring])
        signal = np.maximum(signal, around) - background
        z = np.maximum(z, signal / max(float(noise), step))
        share = np.maximum(share, signal / max(float(np.median(signal)), step))
    return z, share


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
    matrix, names = np.stack(list(on.values()), axis=1), np.array(list(on))
    obs["flags"] = [";".join(names[row]) for row in matrix]
    obs["good"] = np.logical_not(matrix.any(axis=1)).astype(bool)
    return obs


def make_table(obs: pd.DataFrame) -> ad.AnnData:
    """AnnData with one row per cell and nothing computed yet."""
    import anndata as ad  # takes a second: not before there is a table

    return ad.AnnData(obs=obs, uns={"cellrep": {}})


def reconcile_labels(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Give merged and split cells new numbers, so that an old id never comes to mean another cell.

    A cell whose outline was only repainted keeps its number. One that swallowed more than half of another
    cell (merge), or that lost more than a quarter of itself to a number that did not exist (split), gets a
    new number; so do both halves of a split, and a cell drawn with the number of one that was elsewhere.

    Parameters
    ----------
    old, new : ndarray of shape (H, W), integer
        Labels before and after editing.
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
    following = int(max(old.max(initial=0), new.max(initial=0))) + 1
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


def provenance(cells: ad.AnnData) -> dict[str, Any]:
    """How each key was made: ``uns["cellrep"]``, JSON strings read."""
    import json

    return {key: json.loads(text) for key, text in dict(cells.uns.get("cellrep", {})).items()}
