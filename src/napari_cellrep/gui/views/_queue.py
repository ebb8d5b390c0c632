"""Which odd cells are looked at, in which order; blind rounds and what came of them. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.outliers import group_mates, oddness, scale_of
from napari_cellrep.data.fields import Field
from napari_cellrep.data.project import Project
from napari_cellrep.data.verdicts import valid
from napari_cellrep.specs import p_words

ODD, RANDOM = "odd", "random"


def odd_queue(rows: np.ndarray, odd: np.ndarray, good: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """The oddest cells, good ones first; of several groups in turn: the oddest of each, then the second of each.

    Parameters
    ----------
    rows : ndarray of int
        Cells that can be in the queue.
    odd : ndarray of shape (n_cells,), float
        How odd; cells with NaN are left out.
    good : ndarray of shape (n_cells,), bool
    group : ndarray of shape (n_cells,), int
    n : int
        How many at most.

    Returns
    -------
    ndarray of int, shape (≤ n,)
    """
    rows = rows[np.isfinite(odd[rows])]
    rows = rows[np.argsort(-odd[rows], kind="stable")]
    turn = pd.Series(rows).groupby([group[rows], good[rows]]).cumcount().to_numpy() if len(rows) else rows
    return rows[np.lexsort((-odd[rows], turn, ~good[rows]))][:n]


def blind_round(odd: np.ndarray, pool: np.ndarray, group: np.ndarray, seed: int) -> list[tuple[int, str]]:
    """Odd cells and equally many random ones of the same groups, in an order that tells nothing.

    Parameters
    ----------
    odd, pool : ndarray of int
        Rows of the odd cells, and of those that random ones are drawn from (odd ones in it are not drawn).
    group : ndarray of shape (n_cells,), int
        A group in which too few are left gives fewer.
    seed : int

    Returns
    -------
    list of (row, "odd" or "random")
    """
    rng = np.random.default_rng(seed)
    pool = np.setdiff1d(pool, odd)
    drawn: list[tuple[int, str]] = [(int(row), ODD) for row in odd]
    for g, n in zip(*np.unique(group[odd], return_counts=True), strict=True):
        own = pool[group[pool] == g]
        drawn += [(int(row), RANDOM) for row in rng.choice(own, min(int(n), len(own)), replace=False)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


@dataclass(frozen=True)
class HitRate:
    """How many of the odd and of the random cells of a blind round were called real.

    Parameters
    ----------
    odd_real, odd, random_real, random : int
        Cells without a verdict do not count.
    p : float
        Fisher's exact test, one-sided: how often so great a difference comes by chance. NaN without cells of both.
    """

    odd_real: int
    odd: int
    random_real: int
    random: int
    p: float

    @property
    def words(self) -> str:
        """The result in a sentence."""
        if not self.odd or not self.random:
            return "Too few cells have a verdict for a hit rate."
        p = p_words(self.p)
        return (
            f"{self.odd_real:,} of {self.odd:,} odd cells against {self.random_real:,} of {self.random:,} "
            f"random ones were called real ({p})."
        )


def hit_rate(drawn: Mapping[str, str], verdicts: Mapping[str, Mapping[str, Any]]) -> HitRate:
    """What came of a blind round.

    Parameters
    ----------
    drawn : mapping
        Cell id → "odd" or "random".
    verdicts : mapping
        Cell id → verdict, as the session has them.
    """
    from scipy.stats import fisher_exact  # takes a second to load: not before it is asked for

    said = {kind: [0, 0] for kind in (ODD, RANDOM)}  # called real, not called real
    for cell_id, kind in drawn.items():
        if cell_id in verdicts:
            said[kind][verdicts[cell_id].get("verdict") != "real"] += 1
    n = {kind: sum(pair) for kind, pair in said.items()}
    p = float(fisher_exact([said[ODD], said[RANDOM]], "greater")[1]) if all(n.values()) else float("nan")
    return HitRate(said[ODD][0], n[ODD], said[RANDOM][0], n[RANDOM], p)


def export_table(
    project: Project,
    obs: pd.DataFrame,
    rows: np.ndarray,
    odd: np.ndarray,
    verdicts: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """One line for each cell: who it is, where to find it, how odd it is, and what was said of it.

    Parameters
    ----------
    rows : ndarray of int
        Cells, in the order of the lines.
    odd : ndarray of shape (n_cells,), float
    verdicts : mapping
        Those of masks that are no more are left out.
    """
    said = valid(obs, verdicts)
    fields: dict[str, Field] = {f.id: f for f in project.fields}
    scores = [c for c in obs.columns if c.startswith(("score_", "outlier_"))]
    lines = []
    for row in rows.tolist():
        cell, cell_id = obs.iloc[row], str(obs.index[row])
        field = fields.get(str(cell["field"]))
        files = {p.name for plane in field.planes for p in plane.files(project.root)} if field else set()
        um = field.um_per_px if field else 0.0
        verdict = verdicts[cell_id] if cell_id in said else {}
        y, x = float(cell["y_px"]), float(cell["x_px"])
        lines.append(
            {
                "cell_id": cell_id, "group": str(cell["group"]), "image_file": ";".join(sorted(files)),
                "x_px": round(x, 2), "y_px": round(y, 2),
                "x_um": round(x * um, 3) if um else None, "y_um": round(y * um, 3) if um else None,
                "oddness": float(odd[row]), **{name: cell[name] for name in scores},
                "flags": str(cell.get("flags", "")),
                **{key: verdict.get(key, "") for key in ("verdict", "reason", "rater", "when", "drawn")},
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


class Measured:
    """How odd the cells of one table and embedding are; a group is measured when asked for, or its good cells change.

    Parameters
    ----------
    vectors : ndarray of shape (n_cells, d), float
    groups : Series of length n_cells
    good : ndarray of shape (n_cells,), bool
        Their spread is the unit features are scaled to, and stays it when artefacts are taken out later.
    """

    def __init__(self, vectors: np.ndarray, groups: pd.Series, good: np.ndarray) -> None:
        x = np.asarray(vectors, np.float32)
        mean, sd = scale_of(x, good if good.any() else np.ones(len(x), bool))
        self.z = (x - mean) / sd
        self.code, names = pd.factorize(groups)
        self.names = [str(name) for name in names]
        order = np.argsort(self.code, kind="stable")
        order = order[self.code[order] >= 0]
        ends = np.cumsum(np.bincount(self.code[order], minlength=len(self.names)))[:-1]
        self.rows = np.split(order, ends)
        self._odd = np.full(len(x), np.nan)
        self._done: dict[int, bytes] = {}

    def odd(self, good: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Oddness of all cells, float (n_cells,), with the groups of `codes` up to date; NaN where not measured."""
        for code in np.unique(codes[codes >= 0]):
            rows = self.rows[code]
            state = np.packbits(good[rows]).tobytes()
            if self._done.get(code) != state:
                self._odd[rows] = oddness(self.z[rows], np.zeros(len(rows), np.int64), good[rows])
                self._done[code] = state
        return self._odd.copy()

    def mates(self, row: int, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the five nearest and the five most typical good cells of a cell's group."""
        if self.code[row] < 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        own = self.rows[self.code[row]]
        return group_mates(self.z, row, own[good[own]])
