"""The papers' analyses as recipes of `analyze`: mixtures, order, rare cells, moved groups, treatments, standards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    comparison,
    information,
    mixtures,
    plate,
    profiles,
    projection,
    retrieval,
    variability,
)
from napari_cellrep.data.annotations import read_item_sets
from napari_cellrep.data.cells import embedding_names
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words, p_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    as_ranks,
    as_text,
    between,
    check_within,
    in_one_part,
    likeness_of,
    members_of,
    plain,
    several,
    two_references,
    users_columns,
)

CORRECTIONS = ("none", "z", "zca", "zca_corr", "harmony")


# ---- of a score and of a spread ------------------------------------------------------------------------


def dose_column(work: Work, dose: str) -> str:
    """Which column holds the dose: the one named, or for "auto" the first of the user's that is called so; "" for none."""
    if dose == "auto":
        known = users_columns(work.all_obs)
        return next((c for part in ("dose", "conc") for c in known if part in c.casefold()), "")
    return "" if dose == "none" else dose


def assay_quality(
    work: Work, values: np.ndarray, is_a: np.ndarray, is_b: np.ndarray, by: str, dose: str
) -> tuple[dict[str, Any], str]:
    """Z′ and V of the wells' mean scores, for each plate and each part of it on its own (`plate`), and a sentence.

    Wells of one part (compound) and dose are replicates. {} and "" where there are no wells.
    """
    if "well" not in work.obs:
        return {}, ""
    table = pd.DataFrame(
        {
            "plate": as_text(work.obs["plate"]) if "plate" in work.obs else "",
            "part": as_text(work.obs[by]) if by else "",
            "well": as_text(work.obs["well"]),
            "value": values,
            "a": is_a,
            "b": is_b,
        }
    )
    column = dose_column(work, dose)
    table["dose"] = as_text(work.column(column)) if column else ""
    keys = ["plate", "part", "well"]
    table = table[(table["well"] != "") & np.isfinite(table["value"])]
    wells = table.groupby(keys, observed=True, sort=True).agg(
        value=("value", "mean"), a=("a", "all"), b=("b", "all"), dose=("dose", "first"), n=("dose", "nunique")
    )
    wells = wells.reset_index()
    wells["dose"] = wells["dose"].where(wells["n"] == 1, "")
    out: dict[str, Any] = {}
    for own_plate, here in wells.groupby("plate", sort=True):
        parts = [("", here)]
        if here["part"].nunique() > 1:
            parts += [(str(name), own) for name, own in here.groupby("part", sort=True)]
        for part, own in parts:
            of = np.array(
                [f"{p}: {d}" if d else "" for p, d in zip(own["part"], own["dose"], strict=True)], object
            )
            found = plate.plate_quality(
                own["value"].to_numpy(float), own["a"].to_numpy(bool), own["b"].to_numpy(bool),
                of if column else None,
            )  # fmt: skip
            name = " ".join(w for w in (str(own_plate), part) if w) or "all wells"
            out[name] = {k: None if v != v else v for k, v in dataclasses.asdict(found).items()}
    if column and dose != "auto" and (wells["dose"] == "").all():
        words = f" No well has one value of {column}, so there is no V."
    else:
        words = ""
    said = []
    for name, symbol in (("z_prime", "Z′"), ("v_factor", "V")):
        known = [f"{each} {found[name]:.2f}" for each, found in out.items() if found[name] is not None]
        if known:
            said.append(f"{symbol} of the wells' means: {join_words(known, 6)}.")
    return out, "".join(f" {each}" for each in said) + words


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


# ---- cells ---------------------------------------------------------------------------------------------


def mix_of_two(work: Work, *, a: str = "control=-1", b: str = "control=1", per: str = "auto") -> Job[Found]:
    """Estimate how much of A and of B is in every cell: 0 is as A, 1 as B, a half is both alike."""
    yield Progress(0, 1, f"Placing {len(work.x):,} cells on the line from A to B")
    is_a, is_b = two_references(work, a, b)
    values, by, left_out = between(work, per, is_a, is_b, mixtures.mixing_fraction, "placed")
    n = int(np.isfinite(values).sum())
    halfway = float((~is_a & ~is_b & (values > 0.25) & (values < 0.75)).sum())
    others = int((~is_a & ~is_b & np.isfinite(values)).sum())
    summary = f"Placed {n:,} cells on the line from {a} to {b}" + (f", each {by} on its own." if by else ".")
    if others:
        summary += f" Of the {others:,} that are neither {halfway / others:.0%} lie in its middle half."
    if left_out:
        summary += f" Left out: {join_words(left_out, 3)}"
    return Found(
        summary=summary, obs={f"mixing_{work.embedding}": values}, numbers={"a": a, "b": b, "per": by}
    )


def order_cells(work: Work, *, root: str = "", n_neighbors: int = 15, seed: int = 0) -> Job[Found]:
    """Order the cells along a process (pseudotime): from a root group to the farthest cell, over nearest neighbours."""
    check_within("n_neighbors", n_neighbors, 2, 1000)
    if not root:
        raise InputError("No root is chosen: say which cells the process begins with, for example phase=G1.")
    begins = np.flatnonzero(members_of(work, root))
    yield Progress(0, 2, f"Principal components of {len(work.x):,} cells")
    scores, _ = projection.pca(projection.z_score(work.x), 50, seed)
    yield Progress(1, 2, "Diffusion over the nearest neighbours")
    first = information.central_cell(scores, begins)
    found = information.diffusion_pseudotime(scores, first, n_neighbors=n_neighbors, seed=seed)
    apart = int(np.isnan(found.time).sum())
    summary = f"Ordered {len(work.x) - apart:,} cells from {work.obs.index[first]}, the middle one of {root}."
    if apart:
        summary += f" {apart:,} are joined to it by no path of neighbours and have no place."
    return Found(
        summary=summary, obs={f"time_{work.embedding}": found.time},
        obsm={f"X_diffmap_{work.embedding}": found.components.astype(np.float32)},
        numbers={"root": str(work.obs.index[first]), "eigenvalues": [round(float(v), 6) for v in found.eigenvalues]},
    )  # fmt: skip


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


# ---- groups --------------------------------------------------------------------------------------------


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


# ---- treatments ----------------------------------------------------------------------------------------


def profile_treatments(
    work: Work, *, by: str = "compound", control: str = "control=-1", correct: str = "none", batch: str = "plate",
    average: str = "median", label: str = "", compound: str = "", n_null: int = 1000, seed: int = 0,
) -> Job[Found]:  # fmt: skip
    """Profile treatments: cells → fields → wells → batches corrected → treatments, and how well each is told from the control."""
    check_within("n_null", n_null, 10, 1_000_000)
    yield Progress(0, 3, "Averages of fields and wells")
    of_control = control.partition("=")[0].strip() if "=" in control else ""
    described = [c for c in (by, of_control, label, compound) if c]
    if batch != "plate":
        work.values(batch)
    x, wells, words = _wells(work, batch, average, described)
    treatment = as_text(wells[by])
    is_control = (
        members_of(Work(work.embedding, x, wells, wells), control) if control else np.zeros(len(x), bool)
    )
    batches = as_text(wells[batch]) if batch in wells else np.full(len(wells), "all", object)
    yield Progress(1, 3, f"Correcting {len(x):,} wells ({correct})")
    before = _mixing(x, batches, treatment)
    x, left_out = corrected_wells(x, correct, batches, is_control, seed)
    has = np.isfinite(x).all(axis=1)
    after = _mixing(x[has], batches[has], treatment[has])
    yield Progress(2, 3, "Treatments against the control")
    names = np.array(sorted({str(t) for t in treatment[has & ~is_control] if t != ""}), dtype=object)
    if not len(names):
        raise InputError(
            f"All wells with a value of {by!r} are controls ({control}), so there is no treatment."
        )
    rows = {name: np.flatnonzero((treatment == name) & has & ~is_control) for name in names}
    vectors = np.stack([x[r].mean(axis=0) for r in rows.values()]).astype(np.float32)
    table = pd.DataFrame(
        {"n_wells": [len(r) for r in rows.values()]}, index=pd.Index(names, name=by, dtype=object)
    )
    summary = f"Profiled {len(names):,} treatments ({by}) from {int(has.sum()):,} wells"
    numbers: dict[str, Any] = {
        "by": by,
        "correct": correct,
        "left_out": left_out,
        "mixing_before": before,
        "mixing_after": after,
    }
    try:
        seen = retrieval.retrieve(
            x[has], np.where(is_control, "control", treatment)[has].astype(str),
            is_control=is_control[has] if is_control.any() else None, n_null=n_null, seed=seed,
        )  # fmt: skip
    except InputError:
        summary += "; none has two wells, so none can be told from the control."
    else:
        columns = {
            "average_precision": seen.mean,
            "average_precision_p": seen.p,
            "average_precision_p_fdr": seen.p_fdr,
        }
        table = table.join(pd.DataFrame(columns, index=pd.Index(seen.labels, dtype=object)))
        n = int((seen.p_fdr <= 0.05).sum())
        told = "the control" if is_control.any() else "the others"
        summary += (
            f"; {n:,} of the {len(seen.labels):,} with several wells are told from {told}, p ≤ 0.05 (FDR)."
        )
        agree = comparison.replicate_agreement(projection.z_score(x[has]), np.where(is_control, "", treatment)[has], seed=seed) \
            if len(names) > 1 else None  # fmt: skip
        if agree is not None:
            table["agreement"] = pd.Series(agree.correlation, index=pd.Index(agree.items, dtype=object))
            numbers["agreement"] = {"share": agree.share, "threshold": agree.threshold}
    summary += words
    if before and after and correct != "none":
        summary += f" Before: {before['words']} After: {after['words']}"
    if left_out:
        summary += f" Not corrected, so left out: {join_words(left_out, 3)}."
    if label:
        numbers["matched"] = _matched(wells, rows, vectors, label, compound or by, batch)
        summary += "".join(f" {words}" for words in numbers["matched"]["words"])
    scaled = projection.z_score(vectors) if correct == "none" else vectors
    likeness = likeness_of(scaled, work.embedding)
    if likeness:
        numbers["likeness"] = (
            "of profiles z-scored over the treatments"
            if correct == "none"
            else f"of profiles as corrected ({correct})"
        )
    return Found(summary=summary, table=table, vectors=vectors, obsp=likeness, numbers=numbers)


def _wells(
    work: Work, batch: str, average: str, described: list[str]
) -> tuple[np.ndarray, pd.DataFrame, str]:
    """Profiles of wells (mean of their fields' averages), what is the same for all cells of each, and who was left out.

    Cells without a value in a column of `described` are left out of wells whose other cells have one: a gap in the table says
    nothing of the well. Wells without any value stay; controls often have no compound.
    """
    if "well" not in work.obs:
        raise InputError("The cells have no column well; treatments are profiled from wells.")
    place = as_text(work.obs["well"])
    words = ""
    if not (place != "").any():
        raise InputError("No cell that counts has a value in 'well'; treatments are profiled from wells.")
    if batch in work.obs and (of_batch := as_text(work.obs[batch]) != "").any():
        if n := int(((place != "") & ~of_batch).sum()):
            words += f" Left out: {n:,} cells without a value in {batch}."
        place = np.array(
            [
                f"{b}/{w}" if w != "" and b != "" else ""
                for b, w in zip(as_text(work.obs[batch]), place, strict=True)
            ],
            object,
        )
    for column in dict.fromkeys(described):
        values = work.values(column)
        kinds = pd.Series(values).where(values != "").groupby(place).nunique()
        several_of = [str(well) for well, n in kinds.items() if n > 1 and well != ""]
        if several_of:
            raise InputError(
                f"{column!r} has several values in {len(several_of):,} wells ({join_words(several_of, 3)}), so it cannot say "
                "what was done to them; choose a column with one value in each well."
            )
        gap = (values == "") & (place != "") & (kinds.reindex(place).to_numpy() > 0)
        if gap.any():
            words += f" Left out: {int(gap.sum()):,} cells without a value in {column}, in wells whose others have one."
            place = np.where(gap, "", place).astype(object)
    middle = np.median if average == "median" else np.mean
    fields = work.obs["field"].astype(str).to_numpy()
    names, found, kept = [], [], {}
    for well, own in pd.Series(np.arange(len(place))).groupby(place, sort=True):
        if str(well) == "":
            continue
        rows = own.to_numpy()
        each = [
            middle(work.x[rows[fields[rows] == f]].astype(np.float64), axis=0)
            for f in pd.unique(fields[rows])
        ]
        names.append(str(well))
        found.append(np.mean(each, axis=0))
        kept[str(well)] = rows
    if len(names) < 2:
        raise InputError(f"{len(names)} well has cells that count; at least two are compared.")
    columns = {}
    for column in work.obs.columns:
        values = as_text(work.obs[column])
        one = {well: set(values[rows]) for well, rows in kept.items()}
        if all(len(v) == 1 for v in one.values()):
            columns[str(column)] = [next(iter(v)) for v in one.values()]
    return np.stack(found), pd.DataFrame(columns, index=pd.Index(names, name="well"), dtype=object), words


def corrected_wells(
    x: np.ndarray, correct: str, batch: np.ndarray, is_control: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Take batch effects out of profiles of wells.

    Parameters
    ----------
    x : ndarray of shape (n_wells, d), float
    correct : {"none", "z", "zca", "zca_corr", "harmony"}
        Nothing; mean and SD of each batch's controls; sphering by all controls (`batch.Sphering`); Harmony.
    batch : ndarray of shape (n_wells,)
    is_control : ndarray of shape (n_wells,), bool

    Returns
    -------
    x : ndarray of shape (n_wells, d), float
        NaN in batches that could not be corrected.
    left_out : list of str
    """
    from napari_cellrep.analysis import batch as batches

    if correct == "none":
        return x, []
    if correct == "z":
        found = batches.z_by_controls(x, batch, is_control)
        return found.x, list(found.left_out)
    if correct == "harmony":
        return harmony(projection.pca(projection.z_score(x), 50, seed)[0], batch, seed), []
    if is_control.sum() < 3:
        raise InputError(
            f"Sphering learns from control wells; {int(is_control.sum())} count, and three are needed."
        )
    return batches.Sphering(correct).fit(x[is_control]).transform(x), []


def harmony(x: np.ndarray, batch: np.ndarray, seed: int = 42) -> np.ndarray:
    """Harmony: clusters shared by all batches, in which the batches' means are drawn together.

    Needs the package harmonypy (GPL), which is not installed by itself. The DINO paper used another implementation
    (harmony-pytorch), so numbers differ a little.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Best principal components.
    batch : ndarray of shape (n,)

    Returns
    -------
    ndarray of shape (n, d), float32

    References
    ----------
    .. [1] Korsunsky et al., Nat. Methods 16:1289 (2019); ``models.md`` §3.7.
    """
    names = np.unique(batch.astype(str))
    if len(names) < 2:
        raise InputError(f"Harmony joins two batches or more; there is {len(names)}.")
    try:
        import harmonypy
    except ModuleNotFoundError:
        raise InputError(
            'Harmony needs the package harmonypy (GPL licence): pip install "napari-cellrep[harmony]".'
        ) from None
    made = harmonypy.run_harmony(
        np.asarray(x, np.float64),
        pd.DataFrame({"batch": batch.astype(str)}),
        ["batch"],
        random_state=seed,
        verbose=False,
    )
    moved = np.asarray(made.Z_corr, np.float32)
    return moved if moved.shape == x.shape else np.ascontiguousarray(moved.T)


def _mixing(x: np.ndarray, batch: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """How mixed batches are; {} where there is one batch only."""
    from napari_cellrep.analysis.batch import batch_mixing

    try:
        found = batch_mixing(projection.z_score(x), batch, label, k=5)
    except InputError:
        return {}
    return {"batch_mixing": found.batch_mixing, "label_keeping": found.label_keeping, "words": found.words}


def _matched(
    wells: pd.DataFrame,
    rows: dict[str, np.ndarray],
    vectors: np.ndarray,
    label: str,
    compound: str,
    batch: str,
) -> dict[str, Any]:
    """Whether the nearest treatments of another compound, and of another batch too, share the label (mechanism)."""

    def of(column: str) -> np.ndarray:
        values = as_text(wells[column]) if column in wells else np.full(len(wells), "", object)
        return np.array(["; ".join(sorted(set(values[r]))) for r in rows.values()], object).astype(str)

    out: dict[str, Any] = {"label": label, "words": []}
    for name, columns in (
        ("not same compound", [compound]),
        ("not same compound or batch", [compound, batch]),
    ):
        try:
            found = retrieval.match_nearest(vectors, of(label), [of(c) for c in columns])
        except InputError:
            continue
        out[name] = {"accuracy": found.accuracy, "chance": found.chance, "n": found.n}
        out["words"].append(
            f"The nearest treatment ({name}) has the same {label} for {found.accuracy:.0%} of {found.n:,} ({found.chance:.0%} by "
            "chance)."
        )
    values = of(label)
    other = of(compound)[:, None] != of(compound)[None]
    try:
        pairs = retrieval.enriched_pairs(
            retrieval.similarity(vectors), values[:, None] == values[None], 0.05, other
        )
    except InputError:
        return out
    out["enrichment"] = {
        "odds_ratio": pairs.odds_ratio,
        "p": pairs.p,
        "n_top": pairs.n_top,
        "n_pairs": pairs.n_pairs,
    }
    out["words"].append(
        f"Of the {pairs.n_top:,} most similar pairs {pairs.n_top_shared:,} share it (odds ratio {pairs.odds_ratio:.1f}, "
        f"{p_words(pairs.p)})."
    )
    return out


# ---- what the vectors know -----------------------------------------------------------------------------


def compare_embeddings(
    work: Work,
    *,
    label: str = "",
    held_out: str = "field",
    probe: str = "knn",
    k: int = 11,
    epochs: int = 30,
    n_draws: int = 1000,
    seed: int = 0,
) -> Job[Found]:
    """Compare all embeddings (models, layers) by how well they know a label, on cells of fields held out."""
    check_within("k", k, 1, 1000)
    check_within("n_draws", n_draws, 10, 100_000)
    if not label:
        raise InputError("No label is chosen: name the column that the embeddings shall know.")
    assert work.project is not None  # `analyze` gives it
    cells = work.project.cells
    at = cells.obs.index.get_indexer(work.obs.index)
    known, part = work.values(label), work.values(held_out)
    vectors = {name: np.asarray(cells.obsm[f"X_{name}"])[at] for name in embedding_names(cells)}
    use = known != ""
    for x in vectors.values():
        use &= np.isfinite(x).all(axis=1)
    n_lacking = int((known != "").sum() - use.sum())
    use &= part != ""
    if use.sum() < 10:
        raise InputError(
            f"Not enough data: {int(use.sum())} cells have {label} and a vector in every embedding."
        )
    if len(np.unique(known[use])) == use.sum():
        raise InputError(f"No two cells have the same {label}, so there is nothing to know.")
    rest = f" Left out: {n_lacking:,} cells without a vector in every embedding." if n_lacking else ""
    if probe != "mlp":  # which tells by itself
        apart = in_one_part(known[use], part[use])
        if len(np.unique(known[use])) - len(apart) < 2:
            raise InputError(
                f"Fewer than two values of {label} have cells in several {several(held_out)}, so nothing can be held out; hold "
                "out another column."
            )
        if apart:
            use &= ~np.isin(known.astype(str), apart)
            rest += f" Not tested, because all its cells are in one {held_out}: {join_words(apart, 5)}."
    n = len(vectors)
    yield Progress(0, 1, f"Asking {n:,} embedding{'s' if n > 1 else ''} for {label}")
    if probe == "mlp":
        from napari_cellrep.models._probe import head_probabilities

        check_within("epochs", epochs, 1, 10_000)
        mlp, left_out = comparison.compare_several(
            {name: x[use] for name, x in vectors.items()}, known[use], part[use],
            head=head_probabilities, epochs=epochs, n_draws=n_draws, seed=seed,
        )  # fmt: skip
        best = mlp.rows[0]
        summary = (
            f"{best['embedding']} knows {label} best: macro-F1 {best['macro_f1']:.3f} (95 % {best['low']:.3f} to "
            f"{best['high']:.3f}) over {len(best['f1'])} classes, of which a cell may have several, on {several(held_out)} held "
            f"out, {mlp.n_cells:,} cells in {mlp.n_parts:,}."
        )
        if len(mlp.rows) > 1:
            pair = mlp.pairs[0]
            summary += f" The next is {pair['worse']}, {pair['difference']:.3f} less ({p_words(pair['p'])})."
        if left_out:
            summary += f" Not tested, because all its cells are in one {held_out}: {join_words(left_out, 5)}."
        return Found(
            summary=summary + rest, numbers={"label": label, "rows": mlp.rows, "pairs": mlp.pairs, "not_tested": left_out}
        )  # fmt: skip
    found = comparison.compare(
        {name: x[use] for name, x in vectors.items()}, known[use].astype(str), part[use].astype(str),
        kind=probe, k=k, n_draws=n_draws, seed=seed,
    )  # fmt: skip
    best = found.rows[0]
    summary = (
        f"{best['embedding']} knows {label} best: balanced accuracy {best['balanced_accuracy']:.1%} (95 % "
        f"{best['low']:.1%} to {best['high']:.1%}) on {several(held_out)} held out, {found.n_cells:,} cells in {found.n_parts:,}."
    )
    if len(found.rows) > 1:
        pair = found.pairs[0]
        summary += f" The next is {pair['worse']}, {100 * pair['difference']:.1f} points less ({p_words(pair['p'])})."
    return Found(summary=summary + rest, numbers={"label": label, "rows": found.rows, "pairs": found.pairs})


def ask_information(work: Work, *, columns: str = "", bins: int = 6, corrected: bool = True) -> Job[Found]:
    """Measure what every feature knows of metadata (mutual information), and which column most features follow."""
    check_within("bins", bins, 2, 1000)
    names = [c.strip() for c in columns.split(",") if c.strip()] or [
        c
        for c in ("group", "well", "plate", "compound", "field")
        if c in work.obs and 1 < work.obs[c].nunique() < len(work.obs)
    ]
    if not names:
        raise InputError(
            "No column with two values or more is there to be known; name some with columns=A,B."
        )
    yield Progress(0, 1, f"Information of {work.x.shape[1]:,} features about {join_words(names, 6)}")
    found = information.mutual_information(work.x, {c: work.values(c) for c in names}, bins, corrected)
    share = information.dominant_factors(found)
    said = join_words([f"{name} {part:.0%}" for name, part in sorted(share.items(), key=lambda p: -p[1])], 8)
    return Found(
        summary=f"Share of the {work.x.shape[1]:,} features that know most of: {said}.",
        numbers={"dominant": share, "information": {c: [round(float(v), 5) for v in found[c]] for c in names},
                 "mean": {c: float(found[c].mean()) for c in names}},
    )  # fmt: skip


def score_standard(
    work: Work, *, by: str = "group", sets_file: str = "", aspect: str = "", clusters: int = 10
) -> Job[Found]:
    """Score groups (proteins) against gene sets from a file, and test clusters of them for enriched sets."""
    check_within("clusters", clusters, 2, 1000)
    if not sets_file:
        raise InputError("No file of sets is chosen (.gmt, .gaf, or a table of two columns: item, sets).")
    sets = read_item_sets(sets_file, aspect)
    names, of = work.groups(by)
    yield Progress(0, 2, f"Profile of every {by}")
    have = np.flatnonzero(np.bincount(of[of >= 0], minlength=len(names)))
    mean = profiles.mean_profiles(work.x, [np.flatnonzero(of == i) for i in have])
    z = projection.z_score(mean)
    known = [str(names[i]) for i in have]
    found = retrieval.functional_standard(z, known, sets)
    yield Progress(1, 2, "Sets enriched in clusters")
    joined = profiles.join(z)
    cluster = joined.clusters(clusters)
    rows: list[dict[str, Any]] = []
    for c in np.unique(cluster):
        chosen = [n for n, own in zip(known, cluster, strict=True) if own == c]
        rows += [{"cluster": int(c), "n": len(chosen), **row} for row in _enriched(chosen, known, sets)[:3]]
    n_sure = len({r["cluster"] for r in rows if r["p_fdr"] <= 0.05})
    n_clusters = len(np.unique(cluster))
    summary = (
        f"Of {found.n_pairs:,} pairs of {found.n_items:,} annotated groups ({by}) {found.chance:.1%} share a set: average "
        f"precision {found.average_precision:.3f} over all pairs, {found.item_precision:.3f} per item, best F0.5 "
        f"{found.f_half:.3f}, adjusted mutual information {found.mutual_information:.3f}. {n_sure:,} of {n_clusters:,} clusters "
        f"have an enriched set (p ≤ 0.05, FDR; background: the {len(known):,} groups here)."
        + (f" {joined.words}" if joined.words else "")
    )
    numbers = {
        "average_precision": found.average_precision, "item_precision": found.item_precision, "chance": found.chance,
        "f_half": found.f_half, "mutual_information": found.mutual_information, "n_items": found.n_items, "rows": rows,
    }  # fmt: skip
    return Found(summary=summary, numbers=numbers)


def compare_terms(
    work: Work, *, by: str = "group", annotation: str = "", control_for: str = "", normalise: str = "sd", n_pairs: int = 1000,
    seed: int = 0,
) -> Job[Found]:  # fmt: skip
    """Measure whether groups (proteins) of one annotation lie nearer to each other than to those of others."""
    check_within("n_pairs", n_pairs, 10, 1_000_000)
    if not annotation:
        raise InputError(
            "No annotation is chosen: name the column that holds it (compartment, complex, pathway)."
        )
    names, of = work.groups(by)
    yield Progress(0, 1, f"Distances between the groups of each {annotation}")
    entries = work.values(annotation)
    terms: dict[str, list[int]] = {}
    for i in range(len(names)):
        own = {t.strip() for e in set(entries[of == i]) for t in str(e).split(";") if t.strip()}
        if len(own) == 1:  # those of several say nothing of one
            terms.setdefault(own.pop(), []).append(i)
    z = projection.z_score(work.x)
    found = retrieval.term_distances(z, of, terms, n_pairs=n_pairs, normalise=normalise, seed=seed)
    rows: list[dict[str, Any]] = [
        {"term": t, "distance": float(v), "n_groups": int(n)}
        for t, v, n in zip(found.terms, found.value, found.n_groups, strict=True)
    ]
    rows.sort(key=lambda r: r["distance"])
    summary = (
        f"Groups ({by}) of one {annotation} are {abs(found.overall):.2f} {'SDs ' if normalise == 'sd' else ''}"
        f"{'nearer to' if found.overall < 0 else 'farther from'} each other than groups of different ones, mean over "
        f"{len(rows)} terms; nearest {rows[0]['term']} ({rows[0]['distance']:.2f})."
    )
    numbers: dict[str, Any] = {"rows": rows, "overall": found.overall, "normalise": normalise}
    if control_for:
        values = work.values(control_for)
        each = [set(values[of == i]) - {""} for i in range(len(names))]
        line = np.array([str(next(iter(own))) if len(own) == 1 else "" for own in each])
        several_of = int(sum(len(own) != 1 for own in each))
        if several_of:
            summary += f" {several_of:,} groups without one value of {control_for} are in none of the pairs that follow."
        terms = {t: [i for i in own if line[i]] for t, own in terms.items()}
        numbers["control_for"], numbers["overall_where"] = control_for, {}
        for word, same in (("same", True), ("different", False)):
            try:
                apart = retrieval.term_distances(
                    z, of, terms, n_pairs=n_pairs, normalise=normalise, pairs_of=(line, same), seed=seed
                )
            except InputError:
                summary += f" Not enough data for pairs of {word} {control_for}."
            else:
                numbers["overall_where"][word] = apart.overall
                summary += f" In pairs of {word} {control_for} {apart.overall:.2f}."
    return Found(summary=summary, numbers=numbers)


def compare_modalities(
    work: Work,
    *,
    by: str = "group",
    table_file: str = "",
    components: int = 10,
    n_draws: int = 10_000,
    seed: int = 0,
) -> Job[Found]:
    """Compare how alike groups look with how alike they are in other data (RNA, doses), from a table of numbers."""
    check_within("components", components, 2, 1000)
    check_within("n_draws", n_draws, 10, 1_000_000)
    if not table_file:
        raise InputError(
            "No table is chosen: a .csv or .tsv whose first column names the groups and whose others are numbers."
        )
    path = Path(table_file)
    if not path.is_file():
        raise InputError(f"There is no table at {path}.")
    try:
        other = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index_col=0)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as a table ({error}).") from None
    other = other.select_dtypes("number").dropna(axis=1)
    other.index = pd.Index([plain(v).casefold() for v in other.index])
    other = other[~other.index.duplicated()]
    names, of = work.groups(by)
    at = other.index.get_indexer(pd.Index([str(n).casefold() for n in names]))
    both = [i for i in range(len(names)) if at[i] >= 0 and (of == i).any()]
    if len(both) < 4 or not other.shape[1]:
        raise InputError(
            f"Not enough data: {len(both)} groups ({by}) of {len(names):,} are in the first column of {path.name}, with "
            f"{other.shape[1]} columns of numbers; four groups are needed."
        )
    yield Progress(0, 1, f"{len(both):,} groups in both")
    own = profiles.mean_profiles(work.x, [np.flatnonzero(of == i) for i in both])
    spaces = [
        projection.pca(projection.z_score(x), min(components, len(both) - 1), seed)[0]
        for x in (own, other.to_numpy(float)[at[both]])
    ]
    agree = comparison.mantel(
        *(retrieval.similarity(x, "cosine") for x in spaces), n_draws=n_draws, seed=seed
    )
    numbers: dict[str, Any] = {"n": agree.n, "mantel_r": agree.r, "mantel_p": agree.p}
    summary = f"Likeness of {agree.n:,} groups ({by}) in both: Mantel r = {agree.r:.2f} ({p_words(agree.p)})."
    try:
        pair = comparison.pair_modalities(spaces[0], spaces[1])
    except InputError:
        summary += " Too few groups or numbers for canonical correlation."
    else:
        numbers |= {"cca_accuracy": pair.accuracy, "cca_chance": pair.chance}
        summary += (
            f" After canonical correlation (2 components, fitted on all) the nearest in the table is the group itself for "
            f"{pair.accuracy:.0%} ({pair.chance:.0%} by chance)."
        )
    return Found(summary=summary, numbers=numbers)


def _enriched(chosen: list[str], background: list[str], sets: Any) -> list[dict[str, Any]]:
    """Rows of the test, plain JSON types, the surest first; none of a single one chosen."""
    if len(chosen) < 2:
        return []
    table = pd.DataFrame(retrieval.enrichment(chosen, background, sets))
    return list(json.loads(table.to_json(orient="records")))


def find_enriched(
    work: Work, *, choose: str = "", clustered: str = "", near: int = 0, by: str = "group", annotation: str = "",
    sets_file: str = "", aspect: str = "",
) -> Job[Found]:  # fmt: skip
    """Test which annotations are enriched among chosen groups: those of a set, a cluster, a branch, or the nearest ones."""
    check_within("near", near, 0, 10_000)
    if bool(annotation) == bool(sets_file):
        raise InputError(
            "Say where annotations come from: a column of the cells (annotation) or a file of sets (sets_file), one of both."
        )
    if bool(choose) == bool(clustered):
        raise InputError(
            f"{'Groups are chosen twice' if choose else 'No groups are chosen'}: name a set, COLUMN=VALUE or groups (choose), or "
            "a column of clusters (clustered), one of both."
        )
    names, of = work.groups(by)
    have = np.flatnonzero(np.bincount(of[of >= 0], minlength=len(names)))
    background = [str(names[i]) for i in have]
    yield Progress(0, 1, f"Annotations of {len(background):,} groups")
    if sets_file:
        sets = read_item_sets(sets_file, aspect)
    else:
        sets = {}
        entries = work.values(annotation)
        for i in have:
            for term in {t.strip() for e in set(entries[of == i]) for t in str(e).split(";") if t.strip()}:
                sets.setdefault(term, []).append(str(names[i]))
    tests: dict[str, list[str]] = {}
    if choose:
        tests[choose] = _chosen_groups(work, choose, names, of, have)
    else:
        value = work.values(clustered)
        mostly = {}
        for i in have:
            found, count = np.unique(value[of == i].astype(str), return_counts=True)
            mostly[str(names[i])] = str(found[count.argmax()])
        for kind in sorted(set(mostly.values()) - {""}):
            tests[f"{clustered}={kind}"] = [n for n, v in mostly.items() if v == kind]
    if near:
        mean = projection.z_score(profiles.mean_profiles(work.x, [np.flatnonzero(of == i) for i in have]))
        for name, chosen in tests.items():
            own = np.isin(background, chosen)
            away = np.linalg.norm(mean - mean[own].mean(axis=0), axis=1)
            away[own] = np.inf
            tests[name] = chosen + [
                background[i] for i in np.argsort(away, kind="stable")[:near] if not own[i]
            ]
    rows = [
        {"chosen": name, "n": len(chosen), **row}
        for name, chosen in tests.items()
        for row in _enriched(chosen, background, sets)
    ]
    if max(map(len, tests.values()), default=0) < 2:
        raise InputError("Not enough data: a test needs two groups or more that are chosen together.")
    sure = [r for r in rows if r["p_fdr"] <= 0.05]
    said = [f"{r['set']} in {r['chosen']} ({r['n_chosen']} of {r['n']}, {r['fold']:.1f} times)" for r in sure]
    which = (
        f"{len(tests[choose]):,} groups ({choose})" if choose else f"the {len(tests):,} values of {clustered}"
    )
    summary = f"Tested {which} for {len(sets):,} annotations, background: the {len(background):,} groups ({by}) here. "
    summary += (
        f"Enriched, p ≤ 0.05 (FDR): {join_words(said, 5)}." if sure else "None is enriched (p ≤ 0.05, FDR)."
    )
    return Found(
        summary=summary, numbers={"rows": rows, "n_background": len(background), "n_sets": len(sets)}
    )


def _chosen_groups(work: Work, text: str, names: np.ndarray, of: np.ndarray, have: np.ndarray) -> list[str]:
    """Groups most of whose cells are in a set or have a value; or groups by their names."""
    if text in work.sets:
        inside = work.obs.index.isin(work.sets[text])
    elif "=" in text:
        inside = members_of(work, text)
    else:
        wanted = [plain(part.strip()) for part in text.split(",") if part.strip()]
        known = [str(names[i]) for i in have]
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"{name!r} is neither a set nor a group with cells that count; groups are {join_words(known, 12)}."
                )
        return wanted
    found = [str(names[i]) for i in have if inside[of == i].mean() > 0.5]
    if not found:
        raise InputError(f"No group has most of its cells in {text!r}.")
    return found
