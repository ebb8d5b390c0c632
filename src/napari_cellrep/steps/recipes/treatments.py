"""Treatments against the control: wells profiled, batch effects taken out, replicates and mechanisms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    comparison,
    projection,
    retrieval,
)
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words, p_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    as_text,
    check_within,
    likeness_of,
    members_of,
)

CORRECTIONS = ("none", "z", "zca", "zca_corr", "harmony")


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
