"""Which odd cells are looked at, in which order; blind rounds and what came of them. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.analysis.outliers import OddRank, group_mates, odd_rank, oddness, scale_of
from napari_cellrep.data.fields import Field
from napari_cellrep.data.project import Project
from napari_cellrep.data.verdicts import valid
from napari_cellrep.specs import InputError, find_channel

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
        p = f"p = {self.p:.2g}" if self.p >= 0.001 else "p < 0.001"
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


def evidence(
    project: Project, obs: pd.DataFrame, vectors: Mapping[str, np.ndarray], embedding: str, row: int
) -> list[str]:
    """Would a reviewer believe that this cell is odd? What speaks for and against it, line by line.

    Parameters
    ----------
    vectors : mapping
        Embedding → ndarray of shape (n_cells, d).
    embedding : str
        The one in which the cell is odd.
    row : int
    """
    group = str(obs["group"].iloc[row])
    own = np.flatnonzero((obs["group"] == obs["group"].iloc[row]).to_numpy())
    cell = int(np.flatnonzero(own == row)[0])
    every = obs["good"].to_numpy(bool) if "good" in obs else np.ones(len(obs), bool)
    good = every[own]

    def rank(name: str, with_flagged: bool = False) -> OddRank | None:
        x = vectors[name]
        mean, sd = scale_of(x, every)
        z = (np.asarray(x[own], np.float32) - mean) / sd
        return odd_rank(z, cell, np.ones(len(own), bool) if with_flagged else good)

    lines = [
        f"{obs.index[row]}, one of {len(own):,} cells of group {group}, of which {int(good.sum()):,} are good."
    ]
    if not good[cell]:
        flags = str(obs["flags"].iloc[row]).replace(";", ", ").replace("_", " ") if "flags" in obs else ""
        lines.append(f"Against it: the cell itself is flagged ({flags}).")
    lines += ["", f"{_name(embedding)}", f"    among good cells: {_rank_words(rank(embedding))}"]
    lines.append(f"    with flagged cells too: {_rank_words(rank(embedding, with_flagged=True))}")
    # "<model>.<layer>" is another layer of the same network: it sees what the network sees.
    model = embedding.partition(".")[0]
    others = {name: rank(name) for name in vectors if name != embedding}
    layers = {name: found for name, found in others.items() if name.partition(".")[0] == model}
    others = {name: found for name, found in others.items() if name not in layers}
    if layers:
        lines += ["", "In other layers of the same network, which are no second opinion"]
        lines += [f"    {_name(name)}: {_rank_words(found)}" for name, found in layers.items()]
    if others:
        lines += ["", "In other embeddings"]
        lines += [f"    {_name(name)}: {_rank_words(found)}" for name, found in others.items()]
        known = [found for found in others.values() if found is not None]
        n_odd = sum(found.rank <= max(1, round(0.05 * found.n)) for found in known)
        lines.append(f"    among the oddest 5 % of the group in {n_odd:,} of {len(known):,}")
    else:
        lines += ["", "There is no embedding by another model in this project: it would tell more."]
    return [*lines, "", *_readout_words(project, obs, own, cell, good)]


def _name(embedding: str) -> str:
    return embedding.replace("_", " ")


def _rank_words(found: OddRank | None) -> str:
    if found is None:
        return "no vector, or too few cells to compare with"
    return f"number {found.rank:,} of {found.n:,}, {found.times:.1f} times as far from its nearest as usual"


def _readout_words(
    project: Project, obs: pd.DataFrame, own: np.ndarray, cell: int, good: np.ndarray
) -> list[str]:
    """The protein inside the outline over that in a ring around it: from pixels, without any model."""
    try:
        protein = find_channel(project.channels, "protein")
    except InputError:
        return ["No raw readout: the project has no protein channel."]
    fields, labels = obs["field"].astype(str).to_numpy()[own], obs["label"].to_numpy()[own]
    ratio = np.full(len(own), np.nan)
    for name in dict.fromkeys(fields):
        found = nucleus_ring_ratio(project.read_image(name)[protein], project.read_labels(name))
        mine = fields == name
        ratio[mine] = [found.get(int(label), np.nan) for label in labels[mine]]
    title = (
        f"{project.channels[protein].name} inside the outline over a ring around it, from the pixels alone"
    )
    mates = good & np.isfinite(ratio)
    mates[cell] = False
    if not np.isfinite(ratio[cell]) or mates.sum() < 3:
        return [title, "    cannot be read here: no ring, or no signal in it"]
    low, usual, high = np.percentile(ratio[mates], (10, 50, 90))
    below = float((ratio[mates] < ratio[cell]).mean())
    return [
        title,
        f"    {ratio[cell]:.2f}; good cells of its group {usual:.2f} (8 of 10 from {low:.2f} to {high:.2f})",
        f"    higher than {100 * below:.0f} % of them",
    ]
