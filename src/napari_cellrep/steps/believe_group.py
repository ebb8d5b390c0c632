"""Would a reviewer believe that this group's cells differ? Each doubt as a claim that is tried, with its numbers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis.localisation import log_ratio_score
from napari_cellrep.analysis.outliers import scale_of
from napari_cellrep.analysis.variability import Compared, compare_spread, without
from napari_cellrep.data import Project
from napari_cellrep.data.cells import embedding_names, provenance
from napari_cellrep.data.references import kinds_of, members, reference_of
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words, p_words
from napari_cellrep.steps import believe as cell
from napari_cellrep.steps.believe import FAILS, HOLDS, SHIFT_PX, UNKNOWN, Check

if TYPE_CHECKING:
    from napari_cellrep.steps.networks import Found

SURE = 0.05  # p after correction for the number of groups (FDR)
MIN_CELLS = 10
# Embedded anew in every way: seconds on a CPU.
SAMPLE, MOST_REFERENCES = 60, 4
TREATMENTS = ("plain", "masked", "shifted", "structure")


@dataclass(frozen=True)
class GroupBelief:
    """What came of all checks of one group.

    Parameters
    ----------
    group : str
    by : str
        The column that makes groups.
    embedding : str
    n_group, n_good : int
        Its cells, and good ones among them.
    checks : tuple of Check
    lines : tuple of str
        The report to be read.
    """

    group: str
    by: str
    embedding: str
    n_group: int
    n_good: int
    checks: tuple[Check, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Group:
    """The group, the others, and which of them it is compared with: as in the ranking of variable groups."""

    project: Project
    obs: pd.DataFrame
    embedding: str
    group: str
    names: list[str]
    codes: np.ndarray  # (n_cells,)
    good: np.ndarray  # (n_cells,)
    a: str  # references of the score, "column=value"
    b: str
    per: str
    by_score: bool

    @property
    def code(self) -> int:
        return self.names.index(self.group)

    @property
    def own(self) -> np.ndarray:
        return np.flatnonzero(self.codes == self.code)

    def rows(self, with_flagged: bool = False, embedding: str = "") -> np.ndarray:
        """Cells that count."""
        x = self.project.cells.obsm[f"X_{embedding or self.embedding}"]
        return np.flatnonzero(np.isfinite(x).all(axis=1) & (self.good | with_flagged))

    def z(self, rows: np.ndarray, embedding: str = "") -> np.ndarray:
        x = np.asarray(self.project.cells.obsm[f"X_{embedding or self.embedding}"][rows], np.float32)
        mean, sd = scale_of(x, np.ones(len(x), bool))
        return np.asarray((x - mean) / sd)

    @property
    def what(self) -> str:
        return "Between A and B" if self.by_score else "By all features"

    def values(self, rows: np.ndarray, embedding: str = "") -> np.ndarray:
        """What varies: all features, or the score."""
        z = self.z(rows, embedding)
        return self.score(z, rows) if self.by_score else z

    def score(self, z: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Closer to A or to B, as the recipe "score" says it; NaN where references are missing."""
        obs, out = self.obs.iloc[rows], np.full(len(rows), np.nan)
        is_a, is_b = members(obs, self.a), members(obs, self.b)
        part = pd.factorize(obs[self.per])[0] if self.per in obs else np.zeros(len(rows), int)
        for i in np.unique(part[part >= 0]):
            own = part == i
            with contextlib.suppress(InputError):  # no A or no B in this part
                out[own] = log_ratio_score(z[own], is_a[own], is_b[own])
        return out

    def compared(
        self, values: np.ndarray, rows: np.ndarray, codes: np.ndarray | None = None, relative: bool = False
    ) -> tuple[Compared, str]:
        """Spread of all groups (or of others, by `codes`), and in words what chance is."""
        obs = self.obs.iloc[rows]
        reference, words = reference_of(
            obs, self.codes[rows], self.a, MIN_CELLS, self.project.comparison["control"]
        )
        match = None if reference.all() else kinds_of(obs, self.per)[0]
        of = self.codes[rows] if codes is None else codes
        found = compare_spread(
            values,
            of,
            int(of.max(initial=0)) + 1,
            reference,
            match=match,
            relative=relative,
            min_cells=MIN_CELLS,
        )
        return found, words


def believe_group(
    project: Project,
    *,
    group: str,
    by: str = "group",
    embedding: str = "",
    by_score: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> Job[GroupBelief]:
    """Try everything a reviewer would doubt about a group whose cells differ from one another.

    Varies means: the spread of all features within the group (or of the score between A and B) is larger than that of as
    many cells of the reference groups (p ≤ 0.05, FDR over all groups), as in the ranking of variable groups.

    *Masked crops, a shift of 5 px, structure alone*: at most 60 of its good cells, drawn at random, are embedded anew,
    and as many of each of up to four reference groups; a claim is tried among these. The shift goes up, down, left and
    right in turn, from cell to cell. The protein is taken away as `believe.believe` does it.

    *Recurs*: fields of the same treatment are measured each on its own, so a group that only looks mixed because two
    fields differ from one another is found out.

    Parameters
    ----------
    group : str
        A value of `by`.
    by : str
        The column that makes groups.
    embedding : str
        The one in which it varies; empty: the only one there is.
    by_score : bool
        Ask whether it varies between A and B instead of by all features; other embeddings and cells embedded anew are
        then placed between the same A and B.
    device : str
        For the network: "auto", "cpu", "cuda", "mps".
    seed : int
        Of the draws.

    Yields
    ------
    Progress
        The job returns a `GroupBelief`.

    Raises
    ------
    InputError
        If there is no such column, group or embedding, or no score where it is asked for.
    """
    from napari_cellrep.steps.analyze import choose_embedding

    it = _group(project, group, by, choose_embedding(project.cells, embedding), by_score)
    n_steps = 5 + len(TREATMENTS)
    yield Progress(0, n_steps, f"Ranks of {group}")
    checks = [*_by_chance(it), _other_measure(it), *_other_models(it), _without_intensity(it)]
    yield Progress(1, n_steps, "Fields treated alike")
    subject = _as_subject(it)
    checks.append(_recurs(it, subject))
    yield Progress(2, n_steps, "Cutting some of its cells, and of the reference groups")
    found, why = cell.network_or_why(project, it.embedding)
    rows, of = _sample(it, seed)
    crops, ratio = cell.read(subject, rows, found, TREATMENTS)
    vectors = yield from cell.embed_anew(found, crops, device, 3, n_steps, "Embedding them anew")
    checks += _embedded_anew(it, rows, of, vectors, found, why)
    checks += [_readout(it, rows, of, ratio), cell.trained(subject, found)]
    yield Progress(n_steps, n_steps, f"Checked {group}")
    n_good = int(it.good[it.own].sum())
    belief = GroupBelief(group, by, it.embedding, len(it.own), n_good, tuple(checks), ())
    return replace(belief, lines=tuple(_lines(belief, it)))


def _group(project: Project, group: str, by: str, embedding: str, by_score: bool = False) -> _Group:
    obs = project.cells.obs
    if by not in obs:
        raise InputError(f"There is no column {by!r} among the cells that could make groups.")
    column = obs[by]
    codes, found = pd.factorize(column.astype(str).where(column.notna(), None), sort=True)
    names = [str(name) for name in found]
    if group not in names:
        raise InputError(f"There is no group called {group!r}; groups ({by}) are {join_words(names, 12)}.")
    good = obs["good"].to_numpy(bool) if "good" in obs else np.ones(len(obs), bool)
    scored = provenance(project.cells).get(f"score_{embedding}", {}).get("numbers", {})
    a, b, per = (str(scored.get(name, "")) for name in ("a", "b", "per"))
    if by_score and not (a and b):
        raise InputError(
            f"There is no score of {cell.said(embedding)}: place the cells between A and B first "
            "(cellrep analyze PROJECT score)."
        )
    return _Group(project, obs, embedding, group, names, codes, good, a, b, per, by_score)


def _as_subject(it: _Group) -> cell.Subject:
    """The group for what is asked of one cell's group as well; one of its cells says how it was treated."""
    own = it.own
    row = int(next(iter(own[it.good[own]]), own[0]))
    return cell.Subject(it.project, it.obs, it.embedding, row, it.good, own, single=False)


def _lines(belief: GroupBelief, it: _Group) -> list[str]:
    what = "group" if belief.by == "group" else belief.by.replace("_", " ")
    first = (
        f"{what.capitalize()} {belief.group}: {belief.n_group:,} cells, of which {belief.n_good:,} are good; "
        f"by {cell.said(belief.embedding)}."
    )
    means = f"Varies means: {it.what[:1].lower()}{it.what[1:]} more than as many cells of the reference groups, p ≤ {SURE} (FDR)."
    return cell.report(first, means, belief.checks)


def _place(found: Compared, i: int) -> str:
    """Where a group stands, in words."""
    p = float(found.p_fdr[i])
    return (
        f"Number {found.rank[i]:,} of {int((found.rank > 0).sum()):,}, {found.ratio[i]:.2f} times what is expected by chance"
        + (f" ({p_words(p)}, FDR)" if np.isfinite(p) else "")
    )


def _ranked(name: str, claim: str, found: Compared, i: int, words: str = "", extra: str = "") -> Check:
    """A claim that a group varies, from its place among all groups."""
    if i >= len(found.rank) or not found.rank[i]:
        n = int(found.n_cells[i]) if i < len(found.n_cells) else 0
        return Check(name, claim, UNKNOWN, f"it has {n:,} cells that count, and {MIN_CELLS} are needed.")
    numbers: dict[str, Any] = {
        "rank": int(found.rank[i]), "n": int((found.rank > 0).sum()), "ratio": round(float(found.ratio[i]), 4),
        "p_fdr": round(float(found.p_fdr[i]), 5), "n_cells": int(found.n_cells[i]),
    }  # fmt: skip
    holds = bool(found.p_fdr[i] <= SURE)
    return Check(name, claim, HOLDS if holds else FAILS, f"{_place(found, i)}{words}.{extra}", numbers)


# ---- over all groups -----------------------------------------------------------------------------------


def _by_chance(it: _Group) -> list[Check]:
    claim = f"{it.what} its cells differ more than as many cells of the reference groups"
    rows, i = it.rows(), it.code
    found, what = it.compared(it.values(rows), rows)
    words = ""
    if i < len(found.rank) and found.rank[i]:
        words = (
            f": spread {found.value[i]:.2f}, of {found.n_cells[i]:,} cells of {what} {found.expected[i]:.2f} (19 of 20 draws "
            f"from {found.expected_low[i]:.2f} to {found.expected_high[i]:.2f})"
        )
    checks = [_ranked("chance", claim, found, i, words)]
    claim = "It varies also when flagged cells are counted"
    every = it.rows(with_flagged=True)
    if not (~it.good[it.own]).any():
        return [*checks, Check("flagged", claim, UNKNOWN, "no cell of the group carries a flag.")]
    flagged, _ = it.compared(it.values(every), every)
    return [*checks, _ranked("flagged", claim, flagged, i)]


def _other_measure(it: _Group) -> Check:
    """The other of the two numbers by which groups are ranked."""
    rows = it.rows()
    if it.by_score:
        found, _ = it.compared(it.z(rows), rows)
        return _ranked("features", "By all features its cells differ too", found, it.code)
    claim = "The place of its cells between A and B varies too"
    if not (it.a and it.b):
        return Check("score", claim, UNKNOWN, "there is no score; place the cells between A and B first.")
    found, _ = it.compared(it.score(it.z(rows), rows), rows)
    sd = f": SD {found.value[it.code]:.3f}" if it.code < len(found.value) else ""
    return _ranked("score", claim, found, it.code, sd)


def _other_models(it: _Group) -> list[Check]:
    mine = cell.made_by(it.project, it.embedding)
    checks = []
    for name in embedding_names(it.project.cells):
        if name == it.embedding or cell.made_by(it.project, name) == mine:
            continue
        rows = it.rows(embedding=name)
        found, _ = it.compared(it.values(rows, name), rows)
        note = cell.untrained_note(it.project, name)
        checks.append(_ranked(f"model {name}", f"It varies in {cell.said(name)} too", found, it.code, note))
    if not checks:
        why = "there is no embedding by another model; embed with a second one (measurements take a minute)."
        checks = [Check("model", "It varies under a second model", UNKNOWN, why)]
    return checks


def _without_intensity(it: _Group) -> Check:
    claim = "The intensity of the protein alone does not make it vary"
    rows = it.rows()
    light = it.obs["q_signal"].to_numpy(float)[rows] if "q_signal" in it.obs else np.full(len(rows), np.nan)
    usual = np.nanmedian(np.abs(light)) if np.isfinite(light).any() else 0.0
    if not usual > 0:
        return Check("intensity", claim, UNKNOWN, "the intensity of the cells was not measured (q_signal).")
    values = it.values(rows)
    values = values[:, None] if values.ndim == 1 else values
    plain, _ = it.compared(values, rows)
    i = it.code
    if i < len(plain.rank) and plain.rank[i] and not plain.p_fdr[i] <= SURE:
        return Check("intensity", claim, UNKNOWN, "it does not vary more than by chance with it either.")
    rest, left = without(values, np.arcsinh(light / usual), it.codes[rows])
    found, _ = it.compared(rest, rows)
    own, _ = it.compared(light, rows, relative=True)
    extra = f" That takes away {100 * (1 - left):.0f} % of what differs within groups."
    if i < len(own.rank) and own.rank[i]:
        extra += f" By intensity itself it is number {own.rank[i]:,} of {int((own.rank > 0).sum()):,}."
    words = " without what follows the intensity from cell to cell"
    return _ranked("intensity", claim, found, i, words, extra)


def _recurs(it: _Group, subject: cell.Subject) -> Check:
    claim = "It recurs: more than one field treated alike varies by itself"
    same, called = cell.treatment(subject)
    rows = it.rows()
    fields, names = pd.factorize(it.obs["field"].astype(str).to_numpy()[rows])
    alike = np.unique(fields[same[rows]])
    enough = [f for f in alike if (fields == f).sum() >= MIN_CELLS]
    if len(enough) < 2:
        few = "it was imaged in one field only"
        if len(alike) > 1:
            few = f"of its {len(alike):,} fields {len(enough):,} has {MIN_CELLS} good cells or more"
        return Check("recurs", claim, UNKNOWN, f"treated alike is {called}: {few}.")
    found, _ = it.compared(it.values(rows), rows, codes=fields)
    order = sorted(enough, key=lambda f: -found.ratio[f])
    beyond = [f for f in order if found.beyond[f]]
    listed = join_words([f"{names[f]} {found.ratio[f]:.2f}" for f in order], 8)
    vary = "varies" if len(beyond) == 1 else "vary"
    words = (
        f"Of {len(enough):,} fields treated alike ({called}) {len(beyond):,} {vary} more than 19 of 20 draws of as many "
        f"reference cells. Times what is expected: {listed}."
    )
    ratio = {str(names[f]): round(float(found.ratio[f]), 4) for f in order}
    numbers = {"fields": len(enough), "beyond": len(beyond), "ratio": ratio}
    return Check("recurs", claim, HOLDS if len(beyond) > 1 else FAILS, words, numbers)


# ---- a sample of cells ---------------------------------------------------------------------------------


def _sample(it: _Group, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some good cells of the group (0), of some reference groups (1, 2, …) and of B (−1), and which is which."""
    rng = np.random.default_rng(seed)
    rows = it.rows()
    codes = it.codes[rows]
    reference, _ = reference_of(it.obs.iloc[rows], codes, it.a, MIN_CELLS, it.project.comparison["control"])
    parts = [rows[codes == it.code]]
    kinds = pd.factorize(it.obs[it.per])[0] if it.per in it.obs else np.zeros(len(it.obs), int)
    like_it = kinds[rows] == (np.bincount(kinds[parts[0]] + 1).argmax() - 1 if len(parts[0]) else -1)
    # References of the group's own kind, where there are such.
    if not reference.all() and (reference & like_it).any():
        reference = reference & like_it
    others = [c for c in np.unique(codes[reference & (codes >= 0)]) if c != it.code]
    others = [c for c in others if (reference & (codes == c)).sum() >= MIN_CELLS]
    for c in rng.permutation(others)[:MOST_REFERENCES]:
        parts.append(rows[reference & (codes == c)])
    is_b = members(it.obs.iloc[rows], it.b) & like_it & (codes != it.code) & it.by_score
    parts.append(rows[is_b])
    some = [np.sort(rng.choice(p, min(len(p), SAMPLE), replace=False)) for p in parts]
    which = [*range(len(some) - 1), -1]
    return np.concatenate(some), np.repeat(which, [len(p) for p in some])


def _spread_in(values: np.ndarray, of: np.ndarray) -> Compared:
    """The group's sample (0) against the reference groups' samples."""
    return compare_spread(values, of, int(of.max()) + 1, of > 0, min_cells=MIN_CELLS)


def _among(of: np.ndarray) -> str:
    n = int(of.max())
    return f"{int((of == 0).sum()):,} of its cells and {int((of > 0).sum()):,} of {n:,} reference group{'' if n == 1 else 's'}"


def _embedded_anew(
    it: _Group,
    rows: np.ndarray,
    of: np.ndarray,
    vectors: dict[str, np.ndarray],
    found: Found | None,
    why: str,
) -> list[Check]:
    claims = {
        "masked": "It varies when everything outside the outlines is black",
        "shifted": f"It varies when every crop is shifted by {SHIFT_PX} px, each its own way",
        "structure": "The structure channels alone do not make it vary",
    }
    if found is None:
        return cell.untold(claims, why)
    if not _enough(of):
        return cell.untold(claims, "the group or the reference groups have too few good cells.")
    stored = np.asarray(it.project.cells.obsm[f"X_{it.embedding}"][rows], np.float32)
    if not cell.same(vectors["plain"], stored):
        return cell.untold(
            claims,
            "embedded anew just as before, the cells get other vectors: the images, labels or versions changed.",
        )
    spread = {}
    for name, x in vectors.items():
        mean, sd = scale_of(x, np.ones(len(x), bool))
        z = np.asarray((x - mean) / sd)
        spread[name] = _spread_in(it.score(z, rows) if it.by_score else z, of)
    plain = spread["plain"]
    if not np.isfinite(plain.ratio[0]):
        return cell.untold(claims, "the cells that were embedded anew could not be placed between A and B.")
    if not plain.beyond[0]:
        return cell.untold(
            claims,
            f"among {_among(of)} it does not vary more than by chance as it was either ({plain.ratio[0]:.2f} times).",
        )
    checks = []
    proteins = cell.protein_planes(it.project, found)
    for name, claim in claims.items():
        reason = ""
        if name == "structure" and not proteins:
            reason = "the network does not see a protein channel."
        elif name == "structure" and len(proteins) == len(found.planes) and not found.net.crop.mask_plane:
            reason = "the network sees the protein only."
        elif np.allclose(vectors[name], vectors["plain"], rtol=1e-3, atol=1e-5, equal_nan=True):
            reason = "that changes no number of this embedding."
        elif not np.isfinite(spread[name].ratio[0]):
            reason = "the network gives no finite vectors then."
        if reason:
            checks.append(Check(name, claim, UNKNOWN, reason))
            continue
        one = spread[name]
        most = one.expected_high[0] / one.expected[0]
        words = (
            f"{one.ratio[0]:.2f} times what is expected by chance (19 of 20 draws up to {most:.2f}); "
            f"as it was {plain.ratio[0]:.2f} times. Among {_among(of)}."
        )
        holds = bool(one.beyond[0]) != (name == "structure")
        numbers = {
            "ratio": round(float(one.ratio[0]), 4),
            "plain": round(float(plain.ratio[0]), 4),
            "n": int((of == 0).sum()),
        }
        checks.append(Check(name, claim, HOLDS if holds else FAILS, words, numbers))
    return checks


def _enough(of: np.ndarray) -> bool:
    return int(of.max(initial=0)) > 0 and bool((np.bincount(of[of >= 0]) >= MIN_CELLS).all())


def _readout(it: _Group, rows: np.ndarray, of: np.ndarray, ratio: np.ndarray | None) -> Check:
    claim = "The pixels alone show it: the protein inside the outline over a ring around it varies too"
    if ratio is None:
        return Check("readout", claim, UNKNOWN, "the project has no protein channel.")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(ratio > 0, np.log2(ratio), np.nan)  # twice and half differ alike
    if not _enough(of[np.isfinite(ratio)]):
        return Check(
            "readout", claim, UNKNOWN, "too few cells have a ring that can be read, with a signal in it."
        )
    found = _spread_in(ratio, of)
    words = (
        f"SD of its log2 {found.value[0]:.2f}; as many cells of the reference groups {found.expected[0]:.2f} (19 of 20 draws "
        f"from {found.expected_low[0]:.2f} to {found.expected_high[0]:.2f})."
    )
    column = f"score_{it.embedding}"
    if column in it.obs:
        score = _spread_in(it.obs[column].to_numpy(float)[rows], of)
        if np.isfinite(score.ratio[0]):
            words += f" That is {found.ratio[0]:.2f} times, and of the score between A and B {score.ratio[0]:.2f} times."
    numbers = {"sd": round(float(found.value[0]), 4), "ratio": round(float(found.ratio[0]), 4)}
    return Check(
        "readout", claim, HOLDS if found.beyond[0] else FAILS, f"{words} Among {_among(of)}.", numbers
    )
