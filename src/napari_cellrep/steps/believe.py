"""Would a reviewer believe that this cell is odd? Each doubt as a claim that is tried, with its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.analysis.neighbours import nearest
from napari_cellrep.analysis.outliers import ODD_SHARE, OddRank, odd_rank, oddest_by_chance, oddness, scale_of
from napari_cellrep.data import Project
from napari_cellrep.data.cells import embedding_names, is_untrained
from napari_cellrep.data.crops import Boxes, cut_crops
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import EMPTY, InputError, find_channel, join_words
from napari_cellrep.steps.embed import boxes_of, pick_planes, read_around
from napari_cellrep.steps.networks import network_of

if TYPE_CHECKING:
    from napari_cellrep.steps.networks import Found

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"
SHIFT_PX = 5
AROUND_PX = (
    32  # of a part of a slide: a shifted crop, the ring around a nucleus and its neighbours lie within
)
SHIFTS = {"up": (-SHIFT_PX, 0), "down": (SHIFT_PX, 0), "left": (0, -SHIFT_PX), "right": (0, SHIFT_PX)}
TREATMENTS = ("plain", "masked", "structure", *SHIFTS)
MOST_MATES = 150  # embedded anew in every way: seconds on a CPU
N_DRAWS, MANY_CELLS, MOST_REFERENCE = 200, 1000, 20_000
K = 10
# Metadata that says where a cell was and not what was done to it.
_PLACES = {
    "plate", "well", "row", "column", "col", "site", "field", "position", "replicate", "rep", "batch", "run", "image",
    "file", "filename", "date", "slide", "barcode", "donor", "antibody", "stain", "control", "experiment",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One doubt, turned into a claim that was tried.

    Parameters
    ----------
    name : str
        Short, the same in every report: "flags", "masked", …
    claim : str
        What would speak for the cell.
    verdict : {"holds", "does not hold", "cannot be told"}
    words : str
        The numbers, or why it cannot be told.
    numbers : dict
        The same for programs, plain JSON types.
    """

    name: str
    claim: str
    verdict: str
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The check in a sentence or two."""
        mark = {HOLDS: "✓", FAILS: "✗", UNKNOWN: "?"}[self.verdict]
        return f"{mark} {self.claim}: {self.verdict}{':' if self.verdict == UNKNOWN else '.'} {self.words}"


@dataclass(frozen=True)
class Belief:
    """What came of all checks of one cell.

    Parameters
    ----------
    cell_id, embedding, group : str
    n_group, n_good : int
        Cells of its group, and good ones among them.
    checks : tuple of Check
    lines : tuple of str
        The report to be read.
    """

    cell_id: str
    embedding: str
    group: str
    n_group: int
    n_good: int
    checks: tuple[Check, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """The cell, its group, and how odd is measured: as in the queue of odd cells."""

    project: Project
    obs: pd.DataFrame
    embedding: str
    row: int
    good: np.ndarray  # (n_cells,)
    own: np.ndarray  # rows of its group
    scales: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    single: bool = True  # the cell is asked about, not its group

    @property
    def cell(self) -> int:
        """Its place among `own`."""
        return int(np.flatnonzero(self.own == self.row)[0])

    def z(self, embedding: str, rows: np.ndarray) -> np.ndarray:
        """Vectors of some cells, scaled by the spread of all good ones."""
        x = self.project.cells.obsm[f"X_{embedding}"]
        if embedding not in self.scales:
            self.scales[embedding] = scale_of(x, self.good if self.good.any() else np.ones(len(x), bool))
        mean, sd = self.scales[embedding]
        return np.asarray((np.asarray(x[rows], np.float32) - mean) / sd)

    def finite(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that have a vector."""
        return rows[np.isfinite(self.project.cells.obsm[f"X_{self.embedding}"][rows]).all(axis=1)]

    def rank(self, embedding: str, with_flagged: bool = False) -> OddRank | None:
        """How odd it is among the good cells of its group."""
        among = np.ones(len(self.own), bool) if with_flagged else self.good[self.own]
        return odd_rank(self.z(embedding, self.own), self.cell, among, K)

    def mates(self, seed: int) -> np.ndarray:
        """Rows of good cells of the group, at most `MOST_MATES`, drawn at random."""
        rows = self.finite(self.own[self.good[self.own] & (self.own != self.row)])
        if len(rows) > MOST_MATES:
            rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_MATES, replace=False))
        return rows


def believe(
    project: Project, *, cell_id: str, embedding: str = "", device: str = "auto", seed: int = 0
) -> Job[Belief]:
    """Try everything a reviewer would doubt about one odd cell.

    Odd means: among the oddest 5 % of the good cells of its group (or the oddest), by the mean distance to the ten
    nearest of them, as in the queue of odd cells.

    *Masked crops, a shift of 5 px, structure alone*: not only the cell, but its mates too are embedded anew in that
    way, and the rank is the one among them. One masked crop among whole ones, or one without its protein, would be odd
    for that alone, and the check would prove nothing. For the same reason the protein is taken away by making its
    plane black in every cell: a network that was trained with it sees something unusual then, but the same unusual
    thing in every cell, so that what is left to tell cells apart is the structure. (The group's mean protein in its
    place would draw a blurred cell of average shape into each.) At most 150 mates, drawn at random, take part.

    *Recurs*: every cell has ten nearest, however far they are. Of the ten nearest of the same treatment those in
    another field count that are as near to it as 19 of 20 cells have their nearest; two are asked for.

    *By chance*: the oddest of n cells is odder the larger n is. It is compared with the oddest of as many cells drawn
    at random from the reference groups, 200 times.

    Parameters
    ----------
    cell_id : str
    embedding : str
        The one in which it is odd; empty: the only one there is.
    device : str
        For the network: "auto", "cpu", "cuda", "mps".
    seed : int
        Of the draws.

    Yields
    ------
    Progress
        The job returns a `Belief`.

    Raises
    ------
    InputError
        If there is no such cell or embedding.
    """
    from napari_cellrep.steps.analyze import choose_embedding

    cells = project.cells
    embedding, obs = choose_embedding(cells, embedding), cells.obs
    row = int(obs.index.get_indexer(pd.Index([cell_id]))[0])
    if row < 0:
        raise InputError(f"There is no cell called {cell_id!r}; ids look like {obs.index[0]!r}.")
    if pd.isna(obs["group"].iloc[row]):
        raise InputError(f"{cell_id} belongs to no group, so there is nothing it could be odd among.")
    good = obs["good"].to_numpy(bool) if "good" in obs else np.ones(len(obs), bool)
    own = np.flatnonzero((obs["group"] == obs["group"].iloc[row]).to_numpy())
    it = Subject(project, obs, embedding, row, good, own)
    n_steps = 4 + len(TREATMENTS)
    yield Progress(0, n_steps, f"Ranks of {cell_id}")
    checks = [*_flags(it), _one_number(it), *_other_models(it)]
    yield Progress(1, n_steps, "Cutting the cells of its group")
    found, why = network_or_why(project, embedding)
    rows = np.concatenate([[row], it.mates(seed)]).astype(np.int64)
    crops, ratio = read(it, rows, found)
    vectors = yield from embed_anew(found, crops, device, 2, n_steps, "Embedding its group anew")
    checks += _embedded_anew(it, rows, vectors, found, why)
    yield Progress(n_steps - 2, n_steps, "Neighbours and chance")
    checks += [_recurs(it), _readout(it, ratio), _by_chance(it, seed), trained(it, found)]
    yield Progress(n_steps, n_steps, f"Checked {cell_id}")
    belief = Belief(
        cell_id, embedding, str(obs["group"].iloc[row]), len(own), int(good[own].sum()), tuple(checks), ()
    )
    return replace(belief, lines=tuple(_lines(belief)))


def _lines(belief: Belief) -> list[str]:
    first = (
        f"{belief.cell_id}, one of {belief.n_group:,} cells of group {belief.group}, of which {belief.n_good:,} are good; "
        f"by {said(belief.embedding)}."
    )
    means = f"Odd means: among the oddest {ODD_SHARE:.0%} of its group.".replace("%", " %")
    return report(first, means, belief.checks)


def report(first: str, means: str, checks: Sequence[Check]) -> list[str]:
    """Lines to be read: what it is about, how many claims hold and what they mean, and every check."""
    n = {verdict: sum(c.verdict == verdict for c in checks) for verdict in (HOLDS, FAILS, UNKNOWN)}
    lines = [
        first,
        f"Of {len(checks)} claims {n[HOLDS]} hold, {n[FAILS]} do not, {n[UNKNOWN]} cannot be told. {means}",
    ]
    for check in checks:
        lines += ["", check.line]
    return lines


def network_or_why(project: Project, embedding: str) -> tuple[Found | None, str]:
    """The network behind an embedding, or why it cannot be asked again."""
    try:
        return network_of(project, embedding), ""
    except InputError as error:
        return None, str(error)


def embed_anew(
    found: Found | None, crops: Mapping[str, np.ndarray], device: str, done: int, total: int, words: str
) -> Job[dict[str, np.ndarray]]:
    """Vectors of crops treated in several ways; none without a network."""
    if found is None:
        return {}
    from napari_cellrep.models._engine import Embedder

    engine = Embedder(found.net, [found.layer], device=device, precision="fp32")
    vectors = {}
    for i, treatment in enumerate(crops):
        yield Progress(done + i, total, f"{words} ({treatment})")
        vectors[treatment] = engine.run(crops[treatment])[found.layer]
    return vectors


def untold(claims: Mapping[str, str], reason: str) -> list[Check]:
    """Claims that all cannot be told for one reason."""
    return [Check(name, claim, UNKNOWN, reason) for name, claim in claims.items()]


def said(embedding: str) -> str:
    """An embedding as people read it."""
    return embedding.replace("_", " ")


def _rank_words(found: OddRank) -> str:
    return f"number {found.rank:,} of {found.n:,}"


def _check(name: str, claim: str, holds: bool, words: str, **numbers: Any) -> Check:
    return Check(name, claim, HOLDS if holds else FAILS, words, numbers)


# ---- ranks -----------------------------------------------------------------------------------------


def _flags(it: Subject) -> list[Check]:
    claim = "It is odd among the good cells of its group"
    found, every = it.rank(it.embedding), it.rank(it.embedding, with_flagged=True)
    if found is None:
        return [
            Check(
                "good", claim, UNKNOWN, "it has no vector, or there are too few good cells to compare with."
            )
        ]
    flags = str(it.obs["flags"].iloc[it.row]) if "flags" in it.obs else ""
    words = f"Number {found.rank:,} of {found.n:,}, {found.times:.1f} times as far from its nearest as usual."
    is_good = bool(it.good[it.row])
    if not is_good:
        words += (
            f" But it is flagged itself ({flags.replace(';', ', ').replace('_', ' ') or 'no reason given'})."
        )
    checks = [_check("good", claim, found.odd and is_good, words, rank=found.rank, n=found.n, times=round(found.times, 3),
                     flags=flags)]  # fmt: skip
    claim = "It is odd also when flagged cells are counted"
    if every is None or every.n == found.n:
        return [*checks, Check("flagged", claim, UNKNOWN, "no other cell of its group carries a flag.")]
    words = f"Number {every.rank:,} of {every.n:,}, against {_rank_words(found)} without them."
    return [*checks, _check("flagged", claim, every.odd, words, rank=every.rank, n=every.n)]


def _one_number(it: Subject) -> Check:
    """Whether it is odd without the number that sets it apart most: a unit that hardly ever fires does that to cells."""
    claim = "It does not hang on a single number of its vector"
    good = it.good[it.own]
    z = it.z(it.embedding, it.own)
    pool = np.flatnonzero(good & np.isfinite(z).all(axis=1))
    pool = pool[pool != it.cell]
    if not np.isfinite(z[it.cell]).all() or len(pool) < K or z.shape[1] < 2:
        return Check(
            "one number", claim, UNKNOWN, "it has no vector, or there are too few good cells or numbers."
        )
    near = pool[nearest(z[it.cell][None], K, to=z[pool])[0][0]]
    parts = ((z[near] - z[it.cell]) ** 2).mean(axis=0)
    most = int(np.argmax(parts))
    found = odd_rank(np.delete(z, most, axis=1), it.cell, good, K)
    if found is None or not parts[most] > 0:
        return Check(
            "one number", claim, UNKNOWN, "it is the same as its mates, or there are too few of them."
        )
    share = float(parts[most] / parts.sum())
    rare = float((np.abs(z[pool, most] - np.median(z[pool, most])) < 1e-6).mean())
    words = f"Without the one of {z.shape[1]:,} that sets it apart most ({100 * share:.0f} % of the squared distance"
    words += f"; the same in {100 * rare:.0f} % of its mates)" if rare > 0.5 else ")"
    words += f" it is {_rank_words(found)}."
    return _check(
        "one number", claim, found.odd, words, feature=most, share=round(share, 4), rank=found.rank, n=found.n
    )


def _other_models(it: Subject) -> list[Check]:
    """One check for every embedding by another network or by measurements; other layers are no second opinion."""
    mine = made_by(it.project, it.embedding)
    checks = []
    for name in embedding_names(it.project.cells):
        if name == it.embedding or made_by(it.project, name) == mine:
            continue
        found, note = it.rank(name), untrained_note(it.project, name)
        claim = f"It is odd in {said(name)} too"
        if found is None:
            checks.append(
                Check(f"model {name}", claim, UNKNOWN, "it has no vector there, or too few mates have.")
            )
        else:
            words = f"Number {found.rank:,} of {found.n:,}, {found.times:.1f} times as far from its nearest as usual{note}."
            checks.append(_check(f"model {name}", claim, found.odd, words, rank=found.rank, n=found.n))
    if not checks:
        why = "there is no embedding by another model; embed with a second one (measurements take a minute)."
        checks = [Check("model", "It is odd under a second model", UNKNOWN, why)]
    return checks


def untrained_note(project: Project, embedding: str) -> str:
    """What is to be said beside a rank by a network that has learned nothing."""
    how = project.embedding_info(embedding)
    if not is_untrained(how):
        return ""
    return " (a network with random weights: it sees textures, but has learned nothing)"


def made_by(project: Project, embedding: str) -> tuple[str, ...]:
    """The network behind an embedding: two layers of it, or two crops, are one."""
    how = project.embedding_info(embedding)
    if "weights" not in how:
        return (embedding.partition(".")[0],)
    return (str(how.get("model")), str(how["weights"]), json.dumps(how.get("channels")))


# ---- embedded anew -----------------------------------------------------------------------------------


def treated_crops(
    image: np.ndarray, labels: np.ndarray, cells: Boxes, found: Found, proteins: Sequence[int], um_per_px: float,
    treatment: str,
) -> np.ndarray:  # fmt: skip
    """Crops of cells of one field as a network gets them, with something changed.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        The project's channels.
    labels : ndarray of shape (H, W)
    cells : Boxes
    found : Found
    proteins : sequence of int
        Planes of the network (not of the image) that show the protein.
    um_per_px : float
    treatment : str
        One of `TREATMENTS`: "plain", "masked" (black outside the outline), "structure" (no protein), or a shift; or
        "shifted": each cell another way, the four in turn.
    """
    spec = found.net.crop
    planes = pick_planes(image, found.planes)
    if treatment == "masked":
        spec = replace(spec, masked=True)
    elif treatment == "structure":
        planes[list(proteins)] = 0
    elif treatment in SHIFTS or treatment == "shifted":
        ways = np.array([SHIFTS[treatment]] if treatment in SHIFTS else list(SHIFTS.values()))
        by = ways[np.arange(len(cells.centroid)) % len(ways)]
        cells = replace(cells, centroid=cells.centroid + by, box=cells.box + np.tile(by, 2))
    masks = labels if spec.masked or spec.mask_plane else None
    return cut_crops(planes, masks, cells, spec, um_per_px)


def protein_planes(project: Project, found: Found) -> list[int]:
    """Which planes of a network show a protein."""
    return [i for i, c in enumerate(found.planes) if c != EMPTY and project.channels[c].role == "protein"]


def read(
    it: Subject, rows: np.ndarray, found: Found | None, treatments: Sequence[str] = TREATMENTS
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Crops of some cells in every treatment, and their protein ratio, each field read once."""
    project, obs = it.project, it.obs.iloc[rows]
    fields = obs["field"].astype(str).to_numpy()
    proteins = protein_planes(project, found) if found is not None else []
    try:
        protein = find_channel(project.channels, "protein")
    except InputError:
        protein = EMPTY
    ratio = np.full(len(rows), np.nan)
    parts: dict[str, list[np.ndarray]] = {}
    order: list[np.ndarray] = []
    for name in dict.fromkeys(fields):
        own = np.flatnonzero(fields == name)
        um, specs = project.field(name).um_per_px, [found.net.crop] if found is not None else []
        # Of a slide the ratio is measured part by part, over the background of the whole.
        dark = None
        if protein != EMPTY and project.is_big(name):
            dark = float(np.percentile(project.glimpse(name)[protein], 1))
        for part in project.parts_of(name, obs[["y_px", "x_px"]].to_numpy(float)[own]):
            at = own[part]
            image, labels, boxes = read_around(
                project, name, specs, boxes_of(obs.iloc[at]), masks=True, margin_px=AROUND_PX
            )
            assert labels is not None
            if protein != EMPTY:
                known = nucleus_ring_ratio(image[protein], labels, background=dark)
                ratio[at] = [known.get(int(label), np.nan) for label in obs["label"].to_numpy()[at]]
            if found is None:
                continue
            order.append(at)
            for treatment in treatments:
                parts.setdefault(treatment, []).append(
                    treated_crops(image, labels, boxes, found, proteins, um, treatment)
                )
    crops = {}
    if order:
        back = np.argsort(np.concatenate(order))
        crops = {treatment: np.concatenate(some)[back] for treatment, some in parts.items()}
    return crops, ratio if protein != EMPTY else None


def _embedded_anew(
    it: Subject, rows: np.ndarray, vectors: Mapping[str, np.ndarray], found: Found | None, why: str
) -> list[Check]:
    claims = {
        "masked": "It is odd when everything outside the outlines is black",
        "shift": f"It is odd when every crop is shifted by {SHIFT_PX} px",
        "structure": "The structure channels alone do not make it odd",
    }
    if found is None:
        return untold(claims, why)
    ranks = {treatment: _rank_among(x) for treatment, x in vectors.items()}
    plain = ranks["plain"]
    if plain is None:
        return untold(claims, "too few good cells of its group could be embedded anew.")
    stored = np.asarray(it.project.cells.obsm[f"X_{it.embedding}"][rows], np.float32)
    if not same(vectors["plain"], stored):
        return untold(
            claims,
            "embedded anew just as before, the cells get other vectors: the images, labels or versions changed.",
        )
    among = f" Among {len(rows) - 1:,} mates, as it was: {_rank_words(plain)}."
    checks = []
    inside = "these numbers are measured inside the outline, so {} changes nothing."
    for name in ("masked", "shift"):
        tried = {t: ranks[t] for t in (SHIFTS if name == "shift" else ("masked",))}
        if all(
            np.allclose(vectors[t][0], vectors["plain"][0], rtol=1e-3, atol=1e-5, equal_nan=True)
            for t in tried
        ):
            reason = (
                "the crops of this embedding are black there already."
                if name == "masked" and found.net.crop.masked
                else inside.format("it")
            )
            checks.append(Check(name, claims[name], UNKNOWN, reason))
            continue
        known = {t: r for t, r in tried.items() if r is not None}
        if len(known) < len(tried):
            checks.append(Check(name, claims[name], UNKNOWN, "the network gives no finite vector then."))
            continue
        words = f"Number {join_words(f'{r.rank:,} ({t})' if name == 'shift' else f'{r.rank:,}' for t, r in known.items())}"
        words += f" of {plain.n:,}.{among}"
        checks.append(_check(name, claims[name], all(r.odd for r in known.values()), words,
                             ranks={t: r.rank for t, r in known.items()}, n=plain.n, plain=plain.rank))  # fmt: skip
    proteins, alone = protein_planes(it.project, found), ranks["structure"]
    if not proteins:
        reason = "the network does not see a protein channel."
    elif len(proteins) == len(found.planes) and not found.net.crop.mask_plane:
        reason = "the network sees the protein only."
    elif alone is None:
        reason = "the network gives no finite vector without the protein."
    else:
        words = f"With a black protein channel in every cell it is {_rank_words(alone)}.{among}"
        holds = not alone.odd
        return [
            *checks,
            _check(
                "structure", claims["structure"], holds, words, rank=alone.rank, n=alone.n, plain=plain.rank
            ),
        ]
    return [*checks, Check("structure", claims["structure"], UNKNOWN, reason)]


def _rank_among(x: np.ndarray) -> OddRank | None:
    """Rank of the first row among all rows, scaled by the spread of the others."""
    others = np.ones(len(x), bool)
    others[0] = False
    mean, sd = scale_of(x, others)
    return odd_rank(np.asarray((x - mean) / sd), 0, np.ones(len(x), bool), K)


def same(x: np.ndarray, stored: np.ndarray) -> bool:
    """Whether vectors came out as stored, but for the precision: they differ far less than cells do."""
    _, sd = scale_of(stored, np.ones(len(stored), bool))
    off = np.abs((x - stored) / sd)
    return bool(np.isfinite(off).any() and np.nanmedian(off) < 0.1)


# ---- elsewhere, pixels, chance, training --------------------------------------------------------------


def treatment(it: Subject) -> tuple[np.ndarray, str]:
    """Which cells were treated alike, and how that is called; the group where no column says it."""
    known = {key for f in it.project.fields for key in f.metadata}
    columns = [c for c in it.obs.columns if c in known and c.casefold() not in _PLACES]
    columns = [
        c for c in columns if not pd.isna(it.obs[c].iloc[it.row]) and it.obs[c].astype(str).nunique() > 1
    ]
    if not columns:
        same = np.zeros(len(it.obs), bool)
        same[it.own] = True
        return same, f"group {it.obs['group'].iloc[it.row]}"
    same = np.ones(len(it.obs), bool)
    for column in columns:
        same &= (it.obs[column].astype(str) == str(it.obs[column].iloc[it.row])).to_numpy()
    return same, join_words(f"{c.replace('_', ' ')} {it.obs[c].iloc[it.row]}" for c in columns)


def _recurs(it: Subject) -> Check:
    claim = "Cells like it are found in another field"
    same, called = treatment(it)
    pool = it.finite(np.flatnonzero(same & it.good))
    pool = pool[pool != it.row]
    own = it.finite(np.array([it.row]))
    fields = it.obs["field"].astype(str).to_numpy()
    elsewhere = fields[pool] != fields[it.row]
    if not len(own):
        return Check("recurs", claim, UNKNOWN, "it has no vector.")
    if len(pool) < K:
        return Check(
            "recurs", claim, UNKNOWN, f"fewer than {K} good cells have the same treatment ({called})."
        )
    if not elsewhere.any():
        return Check("recurs", claim, UNKNOWN, f"the treatment ({called}) was imaged in one field only.")
    z = it.z(it.embedding, pool)
    (index,), distance = nearest(it.z(it.embedding, own), K, to=z)
    near = pool[index]
    words = f"Of its {K} nearest among {len(pool):,} cells treated alike ({called}), "
    parts, numbers = [], {}
    for column, word in (("field", "field"), ("well", "well"), ("antibody", "antibody")):
        if column not in it.obs:
            continue
        values = it.obs[column].astype(str).to_numpy()
        other = values[pool] != values[it.row]
        if other.any():
            n = int(other[index].sum())
            parts.append(f"{n} lie in another {word} ({K * other.mean():.1f} by chance)")
            numbers[f"other_{word}"] = n
    some = np.random.default_rng(0).permutation(len(pool))[:MANY_CELLS]
    usual = nearest(z[some], 2, to=z)[1][:, 1]  # the first is the cell itself
    close = float(np.percentile(usual, 100 * (1 - ODD_SHARE)))
    away = distance[0] <= close
    alike = int((away & (fields[near] != fields[it.row])).sum())
    words += f"{join_words(parts)}; {alike} of those in another field are as near to it as 19 of 20 cells have their nearest."
    return _check("recurs", claim, alike >= 2, words, **numbers, alike=alike)


def _readout(it: Subject, ratio: np.ndarray | None) -> Check:
    claim = "The pixels alone show it: the protein inside its outline over a ring around it is unusual"
    if ratio is None:
        return Check("readout", claim, UNKNOWN, "the project has no protein channel.")
    own, mates = ratio[0], ratio[1:][np.isfinite(ratio[1:])]
    if not np.isfinite(own) or len(mates) < 3:
        return Check("readout", claim, UNKNOWN, "no ring can be read here, or there is no signal in it.")
    low, usual, high = np.percentile(mates, (10, 50, 90))
    below = float((mates < own).mean())
    words = (
        f"{own:.2f}, higher than {100 * below:.0f} % of {len(mates):,} mates; usual is {usual:.2f} "
        f"(8 of 10 from {low:.2f} to {high:.2f})."
    )
    unusual = below <= ODD_SHARE / 2 or below >= 1 - ODD_SHARE / 2
    return _check(
        "readout", claim, unusual, words, ratio=round(float(own), 4), percentile=round(100 * below, 1)
    )


def _reference(it: Subject) -> tuple[np.ndarray, str]:
    """Cells to expect chance from: the control, else reference A, else the negative control, else all other groups."""
    from napari_cellrep.steps.work import Work, members_of

    chosen = it.project.comparison
    tried = [chosen["control"], chosen["a"], "control=-1" if "control" in it.obs else ""]
    for text in filter(None, tried):
        try:
            found = members_of(Work(it.embedding, np.zeros((0, 0)), it.obs, it.obs), text)
        except InputError:
            continue
        found[it.own] = False
        if found.any():
            return found, f"the reference {text}"
    found = np.ones(len(it.obs), bool)
    found[it.own] = False
    return found, "all other groups, as no control is chosen"


def _by_chance(it: Subject, seed: int) -> Check:
    claim = "It is odder than the oddest of as many reference cells"
    reference, called = _reference(it)
    pool = it.finite(np.flatnonzero(reference & it.good))
    rows = it.finite(it.own[it.good[it.own] | (it.own == it.row)])
    n = len(rows)
    if it.row not in rows or n < 5:
        return Check("chance", claim, UNKNOWN, "it has no vector, or its group has too few good cells.")
    if len(pool) < n:
        return Check(
            "chance",
            claim,
            UNKNOWN,
            f"{n:,} reference cells are needed; {called} has {len(pool):,} good ones.",
        )
    odd = oddness(it.z(it.embedding, rows), np.zeros(n, np.int64), it.good[rows], K)[rows == it.row][0]
    if len(pool) > max(n, MOST_REFERENCE):
        pool = np.random.default_rng(seed).choice(pool, max(n, MOST_REFERENCE), replace=False)
    n_draws = N_DRAWS if n <= MANY_CELLS else N_DRAWS // 5
    draws = oddest_by_chance(it.z(it.embedding, pool), n, draws=n_draws, k=K, seed=seed)
    low, median, high = np.percentile(draws, (5, 50, 95))
    words = (
        f"Its distance is {odd:.2f}; the oddest of {n:,} random cells has {median:.2f} (9 of 10 draws from {low:.2f} to "
        f"{high:.2f}; {len(draws)} draws of {len(pool):,} cells of {called})."
    )
    return _check("chance", claim, bool(odd > high), words, distance=round(float(odd), 4), median=round(float(median), 4),
                  low=round(float(low), 4), high=round(float(high), 4), n=n, reference=called)  # fmt: skip


def trained(it: Subject, found: Found | None) -> Check:
    """Whether the network knew the group."""
    claim = "The network was not trained on its group"
    how = it.project.embedding_info(it.embedding)
    if how.get("published"):
        return Check(
            "trained",
            claim,
            HOLDS,
            f"The weights ({how['published']}) are their authors', from other images.",
        )
    if how and not how.get("trained", True):
        return Check("trained", claim, HOLDS, "Nothing was trained.")
    if found is None:
        return Check("trained", claim, UNKNOWN, "the network, and so what it was trained on, is not known.")
    where = found.net.card.get("trained_on")
    if not where:
        return Check("trained", claim, UNKNOWN, "the model does not say what it was trained on.")
    # A project that was saved under another name since has its trainings still.
    if where != it.project.name and not (it.project.root / "models" / found.name / "run.json").is_file():
        return Check("trained", claim, HOLDS, f"It was trained in the project {where}.")
    return _trained_here(it, found, claim)


def _trained_here(it: Subject, found: Found, claim: str) -> Check:
    from napari_cellrep.steps.train import chosen_cells

    try:
        how = json.loads((it.project.root / "models" / found.name / "run.json").read_text(encoding="utf-8"))[
            "how"
        ]
        keep, _ = chosen_cells(it.project, **{k: how[k] for k in ("fields", "cells", "named_set", "where")})
    except (OSError, ValueError, KeyError, InputError):
        if found.net.card.get("chosen"):
            return Check(
                "trained",
                claim,
                UNKNOWN,
                "which cells of this project it was trained on is not known any more.",
            )
        how, keep = {}, None
    used = np.ones(len(it.obs), bool) if keep is None else keep.copy()
    if not how.get("include_flagged"):
        used &= it.good
    n = int(used[it.own].sum())
    if not n:
        return _check("trained", claim, True, "No cell of its group was among those it was trained on.", n=0)
    words = f"{n:,} cells of the group were among those it was trained on"
    if not it.single:
        return _check("trained", claim, False, f"{words}.", n=n)
    words += ", it among them." if used[it.row] else ", it not among them."
    return _check("trained", claim, False, words, n=n, cell=bool(used[it.row]))
