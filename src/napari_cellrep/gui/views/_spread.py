"""What the view of variable groups asks of the cell table: plain numbers, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.profiles import likeness
from napari_cellrep.analysis.variability import (
    Compared,
    compare_spread,
    density,
    even_steps,
    main_axis,
    without,
)
from napari_cellrep.data.references import kinds_of, members, reference_of, reference_words
from napari_cellrep.gui.views._raster import _natural

MIN_CELLS = 10
STEPS = 8
VIOLIN_POINTS = 96
MOST_PAIRED = 300  # cells of a group that are compared with each other


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Parameters
    ----------
    by : str
        Column whose values are the groups.
    spatial : str
        Column of a score, or "" for all features of the embedding.
    intensity : str
        Column of the protein's intensity; "" for none.
    take_out : bool
        Take out of the features what follows the intensity from cell to cell.
    like : str
        Column in which a group and its references are the same, as the score's references are; "" for none.
    a, b : str
        The score's references, "column=value"; "" where none are known.
    control : str
        The control chosen for all analyses, "column=value"; "" for none.
    """

    by: str
    spatial: str
    intensity: str
    take_out: bool = False
    like: str = ""
    a: str = ""
    b: str = ""
    control: str = ""


@dataclass(frozen=True)
class Found:
    """The groups of the visible cells.

    Parameters
    ----------
    names : list of str
        In natural order.
    rows : list of ndarray of int
        Rows of the cell table, of each group; visible cells only.
    spatial, intensity : Compared
    words : str
        What the groups are compared with.
    left : float
        Share of the variance within groups that is left without the intensity; NaN where it was not taken out.
    scale : tuple of ndarray of shape (d,), or None
        Mean and SD of every feature over the visible cells; without an embedding None.
    """

    asked: Asked
    names: list[str]
    rows: list[np.ndarray]
    spatial: Compared
    intensity: Compared
    words: str
    left: float
    scale: tuple[np.ndarray, np.ndarray] | None

    @property
    def order(self) -> np.ndarray:
        """Groups, most variable first; those that are not ranked at the end, by name."""
        return np.argsort(
            np.where(self.spatial.rank > 0, self.spatial.rank, np.iinfo(np.int64).max), kind="stable"
        )


@dataclass(frozen=True)
class Seen:
    """One group along its main axis.

    Parameters
    ----------
    group : int
    rows : ndarray of int
        Real cells at even steps.
    places : ndarray of float
        Where they stand, 0 (one end of the cells shown) to 1.
    share : float
        Share of the group's variance along this axis; NaN without an embedding.
    at : ndarray of shape (VIOLIN_POINTS,), float
        Scores at which the violins are given; empty without a score.
    violins : list of (title, outline, quartiles)
        Reference A, the group, reference B, those there are; the outline's largest value is 1.
    paired : ndarray of int
        Rows of cells in their order along the axis, at most `MOST_PAIRED` at even steps; none without an embedding.
    alike : ndarray of shape (len(paired), len(paired)), float32
        Correlation of each two of their z-scored vectors.
    """

    group: int
    rows: np.ndarray
    places: np.ndarray
    share: float
    at: np.ndarray
    violins: list[tuple[str, np.ndarray, tuple[float, float, float]]]
    paired: np.ndarray
    alike: np.ndarray


def measure(
    obs: pd.DataFrame,
    rows: np.ndarray,
    vectors: np.ndarray | None,
    asked: Asked,
    stop: Callable[[], bool] | None = None,
) -> Found:
    """Measure how variable each group is.

    Parameters
    ----------
    obs : DataFrame
        All cells.
    rows : ndarray of int
        Those that count.
    vectors : ndarray of shape (n_cells, d), or None
        The embedding.
    """
    own = obs.iloc[rows]
    column = own[asked.by]
    words = column.astype(str).where(column.notna(), None)
    codes, found = pd.factorize(words)
    order = sorted(range(len(found)), key=lambda i: _natural(str(found[i])))
    names = [str(found[i]) for i in order]
    place = np.full(len(found) + 1, -1)
    place[order] = np.arange(len(found))
    codes = place[codes]
    by_code = np.argsort(codes, kind="stable")
    n = np.bincount(codes[codes >= 0], minlength=len(names))
    ends = np.cumsum(n)
    of = np.split(rows[by_code[int((codes < 0).sum()) :]], ends[:-1]) if names else []
    reference, with_what = reference_of(own, codes, asked.a, MIN_CELLS, asked.control)
    match = None
    if not reference.all():
        match, of_kind = kinds_of(own, asked.like)
        with_what += of_kind

    scale, x = None, None
    if vectors is not None:
        x = np.asarray(vectors[rows], np.float32)
        scale = _scale(x)
    none = np.full(len(rows), np.nan)
    light = own[asked.intensity].to_numpy(float, na_value=np.nan) if asked.intensity else none
    values, left = none, np.nan
    if asked.spatial:
        values = own[asked.spatial].to_numpy(float, na_value=np.nan)
    elif x is not None and scale is not None:
        values = _scaled(x, scale)
        if asked.take_out and np.isfinite(light).any():
            # like a logarithm, and defined where a background was taken off too much
            values, left = without(values, np.arcsinh(light / np.nanmedian(np.abs(light))), codes)
    del x
    spread = compare_spread(values, codes, len(names), reference, match=match, min_cells=MIN_CELLS, stop=stop)
    intensity = compare_spread(
        light, codes, len(names), reference, match=match, relative=True, min_cells=MIN_CELLS, stop=stop
    )
    return Found(asked, names, of, spread, intensity, with_what, left, scale)


def look_at(
    obs: pd.DataFrame, visible: np.ndarray, vectors: np.ndarray | None, found: Found, group: int, score: str
) -> Seen:
    """Choose real cells of a group along its main axis, and outline its scores beside the references'.

    Parameters
    ----------
    visible : ndarray of bool, shape (n_cells,)
    score : str
        Column "closer to A or to B"; "" if there is none.
    """
    rows = found.rows[group]
    scores = obs[score].iloc[rows].to_numpy(float, na_value=np.nan) if score else None
    share = np.nan
    position = np.full(len(rows), np.nan)
    paired, alike = np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    if vectors is not None and found.scale is not None:
        z = _scaled(np.asarray(vectors[rows], np.float32), found.scale)
        position, share = main_axis(z, towards=scores)
        in_order = np.argsort(position, kind="stable")[: int(np.isfinite(position).sum())]
        if len(in_order) > MOST_PAIRED:
            in_order = in_order[np.linspace(0, len(in_order) - 1, MOST_PAIRED).round().astype(np.int64)]
        paired, alike = rows[in_order], likeness(z[in_order]).astype(np.float32)
    elif scores is not None:
        position = scores
    steps = even_steps(position, STEPS)
    places = position[steps]
    if len(places) > 1 and np.ptp(places) > 0:
        places = (places - places[0]) / (places[-1] - places[0])
    at, violins = np.zeros(0), []
    if scores is not None and np.isfinite(scores).any():
        parts = [(found.names[group], scores)]
        beside = visible & _of_the_same(obs, found.asked.like, rows)
        for reference, title in ((found.asked.a, "A"), (found.asked.b, "B")):
            if reference:
                those = obs[score].to_numpy(float, na_value=np.nan)[beside & members(obs, reference)]
                if np.isfinite(those).any():
                    parts.insert(
                        0 if title == "A" else len(parts), (f"{title}: {reference_words(reference)}", those)
                    )
        every = np.concatenate([p[np.isfinite(p)] for _, p in parts])
        low, high = np.quantile(every, (0.002, 0.998))
        margin = 0.08 * max(high - low, 1e-9)
        at = np.linspace(low - margin, high + margin, VIOLIN_POINTS)
        for title, part in parts:
            outline = density(part, at)
            quartiles = np.quantile(part[np.isfinite(part)], (0.25, 0.5, 0.75))
            violins.append((title, outline / max(outline.max(), 1e-300), tuple(map(float, quartiles))))
    return Seen(group, rows[steps], places, float(share), at, violins, paired, alike)


def as_frame(found: Found) -> pd.DataFrame:
    """The groups as the list shows them; a column's name is its heading."""
    spatial = found.spatial
    low, high = _divided(spatial.low, spatial.expected), _divided(spatial.high, spatial.expected)
    frame: dict[str, Any] = {
        "rank": pd.arrays.IntegerArray(spatial.rank, spatial.rank == 0),
        "group": found.names,
        "cells": spatial.n_cells,
        "spatial": spatial.ratio,
        "interval": [f"{a:.2f}–{b:.2f}" if np.isfinite(a) else "" for a, b in zip(low, high, strict=True)],
        "p (FDR)": spatial.p_fdr,
        "intensity": found.intensity.ratio,
    }
    return pd.DataFrame(frame)


def _of_the_same(obs: pd.DataFrame, column: str, rows: np.ndarray) -> np.ndarray:
    """Which cells have the value that most of `rows` have, bool (n_cells,); all without such a column."""
    if column not in obs or not len(rows):
        return np.ones(len(obs), bool)
    codes = pd.factorize(obs[column])[0]
    return np.asarray(codes == np.bincount(codes[rows] + 1).argmax() - 1)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(a / b)


def _scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of every feature over the finite rows; as `projection.z_score` counts, a still feature has SD ∞."""
    fine = np.isfinite(x).all(axis=1)
    own = x if fine.all() else x[fine]
    if not len(own):
        return np.zeros(x.shape[1]), np.full(x.shape[1], np.inf)
    mean, sd = own.mean(axis=0, dtype=np.float64), own.std(axis=0, dtype=np.float64)
    return mean, np.where(sd <= 1e-6 * np.maximum(np.abs(mean), 1e-30), np.inf, sd)


def _scaled(x: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Features z-scored, float32."""
    return np.asarray((x - scale[0].astype(np.float32)) / scale[1].astype(np.float32))
