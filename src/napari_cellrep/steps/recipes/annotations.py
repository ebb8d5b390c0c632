"""Groups against what is known of them: gene sets, annotations, other kinds of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    comparison,
    profiles,
    projection,
    retrieval,
)
from napari_cellrep.data.annotations import read_item_sets
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words, p_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    check_within,
    members_of,
    plain,
)


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
