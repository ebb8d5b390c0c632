"""How the cells of each group differ: rankings by spread, kinds, rare cells, fields, moves between conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from napari_cellrep.analysis import (
    comparison,
    mixtures,
    projection,
    variability,
)
from napari_cellrep.data.references import kinds_of
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    as_ranks,
    as_text,
    check_within,
    plain,
)


def rank_groups(
    work: Work,
    *,
    by: str = "group",
    min_cells: int = 10,
    n_draws: int = 500,
    quality: str = "",
    intensity: str = "q_signal",
    as_bright: bool = False,
    same: str = "auto",
    known: str = "",
    seed: int = 0,
) -> Job[Found]:
    """Rank groups (wells, proteins) by how much their cells differ from one another."""
    check_within("min_cells", min_cells, 2, 1_000_000)
    check_within("n_draws", n_draws, 0, 100_000)
    yield Progress(0, 3, f"Heterogeneity of every {by}")
    names, of = work.groups(by)
    z = projection.z_score(work.x)
    scored = f"score_{work.embedding}"
    value = work.obs[scored].to_numpy(float) if scored in work.obs else np.full(len(z), np.nan)
    taken: dict[str, Any] = {}
    if quality:
        z, value, taken = without_quality(work, z, value, of, quality)
    features = variability.feature_spread(z, of, len(names), min_cells=min_cells)
    if not (features.rank > 0).any():
        raise InputError(f"Not enough data: no {by} has {min_cells} cells that count, so none can be ranked.")
    reference, with_what = work.reference(of, min_cells)
    match, of_kind = None, ""
    if same not in ("auto", "none", ""):
        work.values(same)
    if not reference.all():
        match, of_kind = kinds_of(work.obs, str(work.scored.get("per", "")), same)
    light, bright = intensity, None
    try:
        bright = work.numbers(intensity) if intensity else None
    except InputError:
        if intensity != "q_signal":  # measured here, where the channels let it
            raise
    if as_bright and bright is None:
        raise InputError(
            "No intensity is known, so references cannot be as bright; name its column with intensity=COLUMN."
        )

    def by_chance(x: np.ndarray, relative: bool = False) -> dict[str, np.ndarray]:
        """What as many cells of a reference group show, and how often they spread as much."""
        found = variability.compare_spread(
            x, of, len(names), reference, match=match, relative=relative, min_cells=min_cells, seed=seed,
            brightness=bright if as_bright and not relative else None,
        )  # fmt: skip
        if relative:
            return {"": found.value, "_expected": found.expected, "_p_fdr": found.p_fdr}
        left[:] = found.n_references
        return {"expected": found.expected, "p": found.p, "p_fdr": found.p_fdr}

    left = np.zeros(len(names), np.int64)  # references of each group

    table = pd.DataFrame(index=pd.Index(names, name=by, dtype=object))
    table["n_cells"] = features.n_cells
    everyone = as_text(work.all_obs[by]) if by in work.all_obs else as_text(work.column(by))
    every = np.bincount(pd.Index(names).get_indexer(everyone[everyone != ""]), minlength=len(names))
    table["n_left_out"] = every - features.n_cells
    of_what = "" if by == "group" else f" ({by})"
    summary = f"Ranked {int((features.rank > 0).sum())} of {len(names)} groups{of_what} by heterogeneity"
    sure = "heterogeneity_p_fdr"
    if np.isfinite(value).any():
        yield Progress(1, 3, f"Spread of the score in every {by}")
        spread = variability.score_spread(value, of, len(names), min_cells=min_cells)
        table["score_mean"], table["score_sd"] = spread.mean, spread.sd
        if n_draws:
            interval = variability.bootstrap_sd(value, of, len(names), n_draws=n_draws, seed=seed)
            table["score_sd_low"], table["score_sd_high"] = interval.T
        for name, found in by_chance(value).items():
            table[f"score_sd_{name}"] = found
        table["rank_score_sd"] = as_ranks(spread.rank)
        summary += " and by the SD of the score"
        sure = "score_sd_p_fdr"
    yield Progress(2, 3, f"What is expected of every {by} by chance")
    table["heterogeneity"], table["rank_heterogeneity"] = features.sd, as_ranks(features.rank)
    for name, found in by_chance(z).items():
        table[f"heterogeneity_{name}"] = found
    apart = variability.heterogeneity(z, of, len(names), measure="distance", min_cells=min_cells)
    table["pairwise_distance"] = apart.sd  # a mean over pairs: as large for many cells as for few
    if as_bright:
        table["n_references"] = left
    if (
        bright is not None
    ):  # the other of two numbers: a group can vary in how much protein there is, and not in where
        for name, found in by_chance(bright, relative=True).items():
            table[f"intensity_cv{name}"] = found
    few = int((features.rank == 0).sum())
    summary += f"; {few} with fewer than {min_cells} cells not ranked." if few else "."
    n_sure = int((table[sure] <= 0.05).sum())
    with_what += of_kind + (f", as bright ({light})" if as_bright else "")
    summary += f" {n_sure} {'varies' if n_sure == 1 else 'vary'} more than as many cells of {with_what}, p ≤ 0.05 (FDR)."
    if as_bright:
        judged, without = left[left > 0], int(((left == 0) & (features.rank > 0)).sum())
        if not len(judged):
            raise InputError(
                f"Not enough data: no {by} has {variability.LEAST_REFERENCES} references with cells as bright ({light}) as its "
                "own; compare without (as_bright=false)."
            )
        least, most = int(judged.min()), int(judged.max())
        summary += (
            f" Each was compared with {least if least == most else f'{least} to {most}'} references as bright"
        )
        summary += f"; for {without:,} too few are, so they have no p." if without else "."
    if bright is not None:
        n_bright = int((table["intensity_cv_p_fdr"] <= 0.05).sum())
        summary += f" By intensity ({light}) {n_bright} {'does' if n_bright == 1 else 'do'}."
    if "score_sd" not in table:
        summary += ' Run the recipe "score" first to have the spread of the score as well.'
    flagged = _with_flagged(work, names, by, min_cells)
    summary += flagged.pop("words", "")
    numbers: dict[str, Any] = {"by": by, "min_cells": min_cells, "n_groups": len(names)}
    if flagged:
        numbers["with_flagged"] = flagged
    if taken:
        summary += f" {taken['words']}"
        numbers["without"] = taken
    if known:
        column = "score_sd" if "score_sd" in table else "heterogeneity"
        ranked = table[column].where(table[f"rank_{column}"].notna()).to_numpy(float)
        found_known = hits_of_known(work, names, of, ranked, known)
        summary += f" {found_known.pop('words')}"
        numbers["known"] = found_known
    return Found(summary=summary, table=table, numbers=numbers)


def _with_flagged(work: Work, names: np.ndarray, by: str, min_cells: int) -> dict[str, Any]:
    """How the order by the spread of all features changes when flagged cells count, too; {} where none has a vector.

    Nothing is taken out or matched in either order: only what the flags do is asked.
    """
    if work.project is None:
        return {}
    cells = work.project.cells
    x = np.asarray(cells.obsm[f"X_{work.embedding}"], np.float32)
    has = np.flatnonzero(np.isfinite(x).all(axis=1))
    n_more = len(has) - len(work.x)
    if n_more <= 0 or by not in cells.obs:
        return {}
    plain, every = (
        variability.feature_spread(
            projection.z_score(own),
            pd.Index(names).get_indexer(as_text(obs[by])),
            len(names),
            min_cells=min_cells,
        )
        for own, obs in ((work.x, work.obs), (x[has], cells.obs.iloc[has]))
    )
    both = (plain.rank > 0) & (every.rank > 0)
    if both.sum() < 3:
        return {}
    first = min(10, max(1, int(both.sum()) // 2))
    before, after = (
        set(np.flatnonzero(both)[np.argsort(-s.sd[both], kind="stable")[:first]]) for s in (plain, every)
    )
    order = float(np.corrcoef(rankdata(plain.sd[both]), rankdata(every.sd[both]))[0, 1])
    stay = len(before & after)
    return {
        "n_flagged": n_more, "spearman": round(order, 4), "first": first, "stay": stay,
        "words": f" Counting the {n_more:,} flagged cells, too, would give an order by heterogeneity with a Spearman correlation "
        f"of {order:.2f} to this one; {stay} of the first {first} would stay.",
    }  # fmt: skip


def part_groups(
    work: Work, *, by: str = "group", most: int = 5, min_cells: int = 20, seed: int = 0
) -> Job[Found]:
    """Find kinds of cells within each group, and how many of its cells are of each."""
    check_within("most", most, 1, 20)
    check_within("min_cells", min_cells, 10, 1_000_000)
    names, of = work.groups(by)
    z = projection.z_score(work.x)
    kind, shares = np.full(len(z), None, dtype=object), {}
    for i, name in enumerate(names):
        yield Progress(i, len(names), f"Kinds of cells in {name}")
        rows = np.flatnonzero(of == i)
        if len(rows) < min_cells:
            continue
        found = mixtures.phenotypes(z[rows], most=most, least_cells=min_cells, seed=seed)
        kind[rows] = [str(k + 1) for k in found.kind]
        shares[str(name)] = [round(float(s), 4) for s in found.share]
    if not shares:
        raise InputError(f"Not enough data: no {by} has {min_cells} cells that count.")
    several = [name for name, share in shares.items() if len(share) > 1]
    summary = f"Of {len(shares):,} groups ({by}) {len(several):,} have several kinds of cells; 1 is each group's most frequent."
    if few := len(names) - len(shares):
        summary += f" {few:,} with fewer than {min_cells} cells were left out."
    return Found(summary=summary, obs={f"kind_{work.embedding}": kind}, numbers={"by": by, "shares": shares})


def find_rare(
    work: Work, *, by: str = "group", number: str = "", tail: float = 0.02, min_cells: int = 10, seed: int = 0
) -> Job[Found]:
    """Rank groups by how many rare, odd cells they have: those beyond nearly all reference cells."""
    check_within("tail", tail, 0.0001, 0.5)
    check_within("min_cells", min_cells, 2, 1_000_000)
    names, of = work.groups(by)
    column = number or f"outlier_{work.embedding}"
    if column not in work.obs:
        raise InputError(
            f"There is no column {column!r}: measure how odd each cell is first (cellrep analyze PROJECT outliers), or name "
            "another number."
        )
    yield Progress(0, 1, f"Cells beyond the usual {column}")
    value = work.numbers(column)
    reference, words = work.reference(of, min_cells)
    found = mixtures.rare_cells(value, of, len(names), reference, tail=tail, min_cells=min_cells, seed=seed)
    if not (found.rank > 0).any():
        raise InputError(
            f"Not enough data: no {by} has {min_cells} cells that count and have a number in {column!r}."
        )
    table = pd.DataFrame(
        {"rare_share": found.share, "rare_p": found.p, "rare_p_fdr": found.p_fdr, "rare_upper": found.upper,
         "rank_rare": as_ranks(found.rank)},
        index=pd.Index(names, name=by, dtype=object),
    )  # fmt: skip
    n = int((found.p_fdr <= 0.05).sum())
    summary = (
        f"{n:,} of {int((found.rank > 0).sum()):,} groups ({by}) have more odd cells than {words}: above {column} "
        f"{found.threshold:.3g}, which {found.expected:.1%} of those reach, p ≤ 0.05 (FDR)."
    )
    return Found(
        summary=summary,
        table=table,
        numbers={"by": by, "threshold": found.threshold, "expected": found.expected},
    )


def compare_fields(
    work: Work,
    *,
    by: str = "group",
    measure: str = "sd",
    min_cells: int = 10,
    n_draws: int = 200,
    quality: str = "",
    seed: int = 0,
) -> Job[Found]:
    """Measure how cells differ within each field, and rank groups by their most mixed field."""
    check_within("min_cells", min_cells, 2, 1_000_000)
    check_within("n_draws", n_draws, 0, 100_000)
    names, of = work.groups(by)
    yield Progress(0, 1, "Cells of every field against one another")
    fields = pd.factorize(work.obs["field"].astype(str))[0]
    reference, words = work.reference(of, min_cells)
    z = projection.z_score(work.x)
    taken: dict[str, Any] = {}
    if quality:  # within the fields of each group, because that is where the cells are compared
        each = np.where(of >= 0, fields * len(names) + of, -1)
        z, _, taken = without_quality(
            work,
            z,
            np.full(len(z), np.nan),
            pd.factorize(pd.Series(each).where(each >= 0))[0],
            quality,
            "fields",
        )
    found = mixtures.field_spread(
        z, fields, of, len(names), reference, measure=measure, min_cells=min_cells, n_draws=n_draws, seed=seed
    )
    table = pd.DataFrame(
        {"field_highest": found.highest, "field_expected": found.expected, "field_p": found.p, "field_p_fdr": found.p_fdr,
         "n_counted_fields": found.n_fields},
        index=pd.Index(names, name=by, dtype=object),
    )  # fmt: skip
    n = int((found.p_fdr <= 0.05).sum())
    ranked = int(np.isfinite(found.highest).sum())
    if not ranked:
        raise InputError(f"Not enough data: no field has {min_cells} cells of one {by} that count.")
    summary = f"Compared the most mixed field of {ranked:,} groups ({by})"
    if n_draws:
        summary += (
            f": {n:,} {'is' if n == 1 else 'are'} more mixed than as many fields of {words}, p ≤ 0.05 (FDR)"
        )
    summary += f". {taken['words']}" if taken else "."
    numbers = {"by": by, "measure": measure, **({"without": taken} if taken else {})}
    return Found(summary=summary, table=table, numbers=numbers)


def find_moved(
    work: Work, *, by: str = "group", condition: str = "", a: str = "", b: str = "", min_cells: int = 10, n_draws: int = 500,
    seed: int = 0,
) -> Job[Found]:  # fmt: skip
    """Rank groups (proteins) by how far their cells moved between two conditions."""
    check_within("min_cells", min_cells, 2, 1_000_000)
    check_within("n_draws", n_draws, 10, 100_000)
    names, _ = work.groups(by)
    if not condition:
        raise InputError("No condition is chosen: name the column that holds it, and two of its values.")
    values = work.values(condition)
    have = sorted({v for v in values if v != ""})
    chosen = [a or (have[0] if len(have) == 2 else ""), b or (have[1] if len(have) == 2 else "")]
    if not all(c in have for c in chosen) or chosen[0] == chosen[1]:
        raise InputError(
            f"Two different values of {condition} are compared; it has {join_words(have, 12) or 'none'}."
        )
    yield Progress(0, 1, f"{condition} {chosen[0]} against {chosen[1]}")
    z = projection.z_score(work.x)
    found = comparison.shifted_groups(
        z,
        as_text(work.column(by)),
        values,
        chosen[0],
        chosen[1],
        min_cells=min_cells,
        n_draws=n_draws,
        seed=seed,
    )
    columns = {f"moved_{k}": found[k] for k in ("shift", "expected", "ratio", "p", "p_fdr")}
    table = pd.DataFrame(columns, index=pd.Index(found["group"], dtype=object)).reindex(
        pd.Index(names, name=by, dtype=object)
    )
    n = int((found["p_fdr"] <= 0.05).sum())
    summary = (
        f"{n:,} of {len(found['group']):,} groups ({by}) moved between {condition} {chosen[0]} and {chosen[1]} more than by "
        f"chance, p ≤ 0.05 (FDR); farthest {found['group'][0]} ({found['ratio'][0]:.1f} times what is expected)."
    )
    return Found(
        summary=summary,
        table=table,
        numbers={"by": by, "condition": condition, "a": chosen[0], "b": chosen[1]},
    )


def quality_columns(work: Work, text: str) -> list[str]:
    """Columns named with commas between them; "quality" stands for all quality numbers (``q_…``)."""
    names: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if part == "quality":
            names += [c for c in work.all_obs.columns if str(c).startswith("q_")]
        elif part:
            names.append(part)
    return list(dict.fromkeys(names))


def without_quality(
    work: Work, z: np.ndarray, value: np.ndarray, of: np.ndarray, text: str, within: str = "groups"
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Take quality numbers out of the features and of the score within groups (fields), and say how much is left of each."""
    columns, numbers, used = quality_columns(work, text), [], []
    for name in columns:
        try:
            own = work.numbers(name)
        except InputError:
            if text.strip() == "quality" and name in work.obs:
                continue
            raise
        known = own[np.isfinite(own)]
        # What grows by factors (areas, intensities) counts by factors.
        numbers.append(np.log(own) if known.min() > 0 and known.max() > 10 * known.min() else own)
        used.append(name)
    if not used:
        raise InputError(f"{text!r} names no column that holds numbers.")
    number = np.stack(numbers, axis=1)
    rest, left = variability.without(z, number, of)
    lost = int((np.isfinite(z).all(axis=1) & (of >= 0) & ~np.isfinite(rest).all(axis=1)).sum())
    if not np.isfinite(rest).any():
        raise InputError(f"No cell has a number in each of {join_words(used, 6)}.")
    taken: dict[str, Any] = {"columns": used, "left": left, "left_out": lost}
    words = f"Taken out of every cell first: {join_words(used, 6)}; left of the variance within {within} {left:.0%}"
    if np.isfinite(value).any():
        alone, of_score = variability.without(value[:, None], number, of)
        value, taken["left_of_score"] = alone[:, 0].astype(float), of_score
        words += f", of the score's {of_score:.0%}"
    taken["words"] = words + (
        f". {lost:,} cells without all of these numbers were left out." if lost else "."
    )
    return rest, value, taken


def hits_of_known(
    work: Work, names: np.ndarray, of: np.ndarray, value: np.ndarray, known: str
) -> dict[str, Any]:
    """How many of the first k groups of a ranking are annotated ("known to vary"), k = 1, 2, …; average precision; a sentence."""
    column, equals, wanted = known.partition("=")
    if not equals:
        raise InputError(f"What is known is written COLUMN=VALUE, for example spatial=yes; got {known!r}.")
    entries = work.values(column.strip())
    each = ["; ".join(sorted(set(entries[of == i]))) for i in range(len(names))]
    annotated = mixtures.annotated_as(each, plain(wanted.strip()))
    if not annotated.any():
        have = sorted({v for v in entries if v != ""})
        raise InputError(f"No group has {known}; the values of {column.strip()} are {join_words(have, 12)}.")
    found = mixtures.top_hits(value, annotated)
    best = float(found.share[found.best_k - 1])
    return {
        "words": f"Of the groups with {known} ({found.chance:.0%} of all) the ranking has an average precision of "
        f"{found.average_precision:.2f}; of its first {found.best_k} {best:.0%} are.",
        "average_precision": found.average_precision, "chance": found.chance, "best_k": found.best_k,
        "share_of_first_k": [round(float(v), 4) for v in found.share],
    }  # fmt: skip
