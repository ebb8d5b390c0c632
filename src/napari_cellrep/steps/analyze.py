"""Vectors → map, neighbours, score, ranking, outliers: one recipe each, written into the project's tables."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

from napari_cellrep.analysis import (
    comparison,
    labels,
    localisation,
    mixtures,
    neighbours,
    outliers,
    profiles,
    projection,
    variability,
)
from napari_cellrep.data import Project
from napari_cellrep.data.cells import embedding_names, map_key, provenance
from napari_cellrep.data.classes import MOST_CLASSES
from napari_cellrep.data.references import kinds_of
from napari_cellrep.data.sets import cells_digest, read_sets
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, digest, join_words
from napari_cellrep.steps import recipes
from napari_cellrep.steps.networks import parts_of_training
from napari_cellrep.steps.work import (
    MOST_PAIRED,
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


@dataclass(frozen=True)
class AnalyzeResult:
    """What a recipe gave.

    Parameters
    ----------
    recipe, embedding : str
    summary : str
        A sentence or two for people.
    written : tuple of str
        Where it went: ``obsm["X_umap_…"]``, ``obs["score_…"]``, …
    skipped : bool
        True when the result on disk was up to date and nothing was computed.
    numbers : dict
        Numbers worth keeping, plain JSON types.
    table : DataFrame or None
        "variability": one row per group, most variable first. "profile": one row per group. "similar": the most alike
        first.
    """

    recipe: str
    embedding: str
    summary: str
    written: tuple[str, ...]
    skipped: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)
    table: pd.DataFrame | None = None


MIN_MAPPED = 10  # cells
OUTLIERS = {
    "neighbours": "by the mean distance to the nearest of them",
    "lof": "by how much lonelier they are than their neighbours (local outlier factor)",
    "own": "by the distance from their middle in their own spread",
}
FITS = ("cells", "fields", "groups")  # what a map is made from
# Which cells a profile is of. All by default: most networks here learn without labels, or from other images, and what they
# were not trained on is then one cell in twenty. PIFiA's profiles are of its test cells.
PROFILED = ("all", "held-out", "test")


# ---- recipes: the first line of each is what the command line's help says ------------------------


def map_cells(
    work: Work,
    *,
    seed: int = 0,
    n_neighbors: int = 30,
    min_dist: float = 0.3,
    pca_components: int = 50,
    scale: bool = True,
    of: str = "",
    method: str = "umap",
    fit: str = "cells",
    perplexity: float = 40.0,
) -> Job[Found]:
    """Lay the cells out on a map (PCA, then UMAP, densMAP or t-SNE) so that similar cells lie near each other."""
    if fit != "cells" and method != "umap":
        raise InputError(f"Only umap can place cells on a map fitted on {fit}; {method} lays out the cells.")
    check_within("perplexity", perplexity, 2, 1000)
    check_within("n_neighbors", n_neighbors, 2, 1000)
    check_within("min_dist", min_dist, 0, 1)
    check_within("pca_components", pca_components, 2, 1000)
    inside = np.ones(len(work.x), bool)
    if of:
        if of not in work.sets:
            raise InputError(
                f"There is no set called {of!r}; sets are {join_words(work.sets, 12) or 'none'}."
            )
        inside = work.obs.index.isin(work.sets[of])
        if inside.sum() < MIN_MAPPED:
            raise InputError(
                f"A map needs {MIN_MAPPED} cells or more; the set {of!r} has {int(inside.sum()):,} that count (flagged ones "
                "and those without a vector do not)."
            )
    x = work.x[inside]
    yield Progress(0, 2, f"Principal components of {len(x):,} cells")
    x = projection.z_score(x) if scale else x
    scores, explained = projection.pca(x, pca_components, seed)
    yield Progress(1, 2, f"Map of {len(x):,} cells (the first one takes half a minute)")
    numbers: dict[str, Any] = {"explained_variance": [round(float(v), 6) for v in explained]}
    summary = (
        f"Mapped {len(x):,} cells; {scores.shape[1]} components hold {explained.sum():.0%} of the variance."
    )
    layout: dict[str, Any] = {"seed": seed, "pca_components": pca_components}
    if method == "tsne":
        xy = projection.tsne_map(scores, perplexity=perplexity, **layout)
    elif fit == "cells":
        xy = projection.umap_map(
            scores, n_neighbors=n_neighbors, min_dist=min_dist, dens=method == "densmap", **layout
        )
    else:
        part = as_text(work.obs["field" if fit == "fields" else "group"])[inside]
        xy, n = projection.map_by_means(scores, part, n_neighbors=n_neighbors, min_dist=min_dist, **layout)
        numbers["n_means"] = n
        summary += f" The map was made from the means of {n:,} {fit}, and every cell placed on it."
    places = {map_key(work.embedding, method=method): xy}
    if of:  # the map of all cells stays beside it
        alone = np.full((len(work.x), 2), np.nan, np.float32)
        alone[inside] = xy
        places = {map_key(work.embedding, of, method): alone}
    else:
        places[f"X_pca_{work.embedding}"] = scores
    return Found(summary=summary, obsm=places, numbers=numbers)


def neighbour_graph(
    work: Work, *, n_neighbors: int = 15, label: str = "", k: int = 11, apart: str = "", ties: str = "nearest", seed: int = 0,
    scale: bool = True,
) -> Job[Found]:  # fmt: skip
    """Find every cell's nearest neighbours (for scanpy), and how well they predict a known label."""
    n = len(work.x)
    check_within("n_neighbors", n_neighbors, 2, 1000)
    check_within("k", k, 1, 1000)
    yield Progress(0, 2, f"Nearest neighbours of {n:,} cells")
    x = projection.z_score(work.x) if scale else work.x
    if n < 3:
        raise InputError(f"Neighbours need at least 3 cells; there are {n}.")
    n_neighbors = min(n_neighbors, n)
    distances, connectivities = neighbours.graph(x, n_neighbors, seed)
    key = f"neighbors_{work.embedding}"
    params = {
        "n_neighbors": n_neighbors, "method": "umap", "metric": "euclidean", "random_state": seed,
        "use_rep": f"X_{work.embedding}", "z_scored": scale,
    }  # fmt: skip
    found = Found(summary=f"Found the {n_neighbors - 1} nearest neighbours of {n:,} cells.")
    # Under the embedding's name, and, for the one asked for last, where scanpy and others look without being told.
    for place, of in ((f"{key}_", key), ("", "neighbors")):
        found.obsp |= {f"{place}distances": distances, f"{place}connectivities": connectivities}
        found.uns[of] = {
            "distances_key": f"{place}distances", "connectivities_key": f"{place}connectivities", "params": params
        }  # fmt: skip
    if label:
        yield Progress(1, 2, f"Predicting {label} from the neighbours")
        known, part = work.values(label), work.values(apart) if apart else None
        has = (known != "") & (part != "" if part is not None else True)
        if has.sum() <= k:
            raise InputError(
                f"{k} neighbours cannot vote: only {int(has.sum())} cells have a value in {label!r}."
            )
        if len(np.unique(known[has])) == has.sum():
            raise InputError(f"No two cells have the same {label}, so no neighbour can know it.")
        if len(np.unique(known[has])) < 2:
            raise InputError(f"All cells have the same {label}, so there is nothing to tell apart.")
        votes = neighbours.knn_classify(
            x[has], known[has], k, ties=ties, part=part[has] if part is not None else None
        )
        found.numbers = {
            "label": label, "k": k, "accuracy": votes.accuracy, "balanced_accuracy": votes.balanced_accuracy,
            "macro_f1": votes.macro_f1, "recall": votes.recall, "apart": apart, "ties": ties,
        }  # fmt: skip
        how = f"those of the same {apart} left out" if apart else "leave-one-out"
        found.summary += (
            f" Their vote (k = {k}, {how}) gets {label} right for {votes.accuracy:.1%} of the cells; "
            f"mean over its {len(votes.recall)} values {votes.balanced_accuracy:.1%}, macro-F1 {votes.macro_f1:.3f}."
        )
        if part is not None and (alone := in_one_part(known[has], part[has])):
            found.summary += (
                f" No neighbour could know {join_words(alone, 5)}: all cells of each are in one {apart}."
            )
    return found


def score(
    work: Work, *, a: str = "control=-1", b: str = "control=1", per: str = "auto", dose: str = "auto"
) -> Job[Found]:
    """Say of every cell how much closer it is to group A or to B: a score, negative towards A, positive towards B."""
    yield Progress(0, 1, f"Scoring {len(work.x):,} cells")
    is_a, is_b = two_references(work, a, b)
    for name, members in ((a, is_a), (b, is_b)):
        if members.sum() < 2:
            raise InputError(
                f"{int(members.sum())} usable cells have {name}; a reference needs at least 2. "
                "Name other references with a=COLUMN=VALUE and b=COLUMN=VALUE."
            )
    values, by, left_out = between(work, per, is_a, is_b, localisation.log_ratio_score, "scored")
    scored = int(np.isfinite(values).sum())
    summary = f"Scored {scored:,} cells between {a} and {b}" + (
        f", each {by} with its own references." if by else "."
    )
    if left_out:
        summary += f" Not scored: {join_words(left_out, 3)}"
    assay, words = recipes.assay_quality(work, values, is_a, is_b, by, dose)
    return Found(
        summary=summary + words,
        obs={f"score_{work.embedding}": values},
        numbers={"a": a, "b": b, "per": by, "n_scored": scored, "not_scored": left_out, "assay": assay},
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
        z, value, taken = recipes.without_quality(work, z, value, of, quality)
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
        found_known = recipes.hits_of_known(work, names, of, ranked, known)
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


def profile_groups(
    work: Work, *, by: str = "group", average: str = "mean", min_cells: int = 1, cells: str = "all"
) -> Job[Found]:
    """Describe every group (well, protein, treatment) by the average of its cells, or of those the network never learned from."""
    check_within("min_cells", min_cells, 1, 1_000_000)
    yield Progress(0, 1, f"Profile of every {by}")
    use, about, words = _profiled_cells(work, cells)
    names, of = work.groups(by)
    middle = np.mean if average == "mean" else np.median
    vectors = np.full((len(names), work.x.shape[1]), np.nan, np.float32)
    rows = [np.flatnonzero((of == i) & use) for i in range(len(names))]
    few = [str(name) for name, r in zip(names, rows, strict=True) if len(r) < min_cells]
    if len(few) == len(names):
        which = "usable" if cells == "all" else f"usable {cells}"
        raise InputError(f"No {by} has {min_cells} {which} cells, so there is nothing to average.")
    for i, r in enumerate(rows):
        if len(r) >= min_cells:
            vectors[i] = middle(work.x[r].astype(np.float64), axis=0)
    table = pd.DataFrame({"n_profiled": [len(r) for r in rows]}, index=pd.Index(names, name=by, dtype=object))
    components = np.full((len(names), 2), np.nan, np.float32)
    have = np.isfinite(vectors).all(axis=1)
    if have.sum() >= 3 and vectors.shape[1] >= 2:
        components[have] = projection.pca(projection.z_score(vectors[have]), 2)[0]
    alike = np.full(vectors.shape, np.nan)
    if have.any():
        alike[have] = projection.z_score(vectors[have])
    likeness = likeness_of(alike, work.embedding)
    summary = f"Averaged the cells of {len(names) - len(few)} groups ({by}, {average})"
    fewer = f"fewer than {min_cells} such" if min_cells > 1 or cells == "all" else "no such"
    summary += f"; {len(few)} with {fewer} cells left out." if few else "."
    return Found(
        summary=f"{summary}{words}",
        table=table,
        vectors=vectors,
        components=components,
        obsp=likeness,
        numbers={
            "by": by,
            "left_out": few,
            **about,
            **({"likeness": "of profiles z-scored over the groups"} if likeness else {}),
        },
    )


def _profiled_cells(work: Work, cells: str) -> tuple[np.ndarray, dict[str, Any], str]:
    """Which cells a profile is of: all, those the network never learned from, or those only looked at in the end; in words."""
    everyone = np.ones(len(work.x), bool)
    assert work.project is not None  # `analyze` gives it
    try:
        part, none = parts_of_training(work.project, work.embedding, work.obs)
    except InputError:
        if cells != "all":
            raise
        return everyone, {"cells": cells}, ""
    count = {name: int((part == name).sum()) for name in ("learned", "validation", "test")}
    about = {"cells": cells, **({} if none else count)}
    if none and cells != "all":
        if cells == "test":
            raise InputError(f"{none} So there are no test cells; cells=held-out takes all of them.")
        return everyone, about, f" {none} So all cells count as held out."
    if cells == "all":
        learned = count["learned"]
        words = (
            f" The network learned from {learned:,} of these {len(part):,} cells (held-out leaves them out)."
            if learned
            else ""
        )
        return everyone, about, words
    use = part == "test" if cells == "test" else part != "learned"
    if not use.any():
        what = (
            "its training set none aside for a test" if cells == "test"
            else f"it learned from all {len(part):,} cells that count"
        )  # fmt: skip
        raise InputError(
            f"No cell is left for {cells} profiles of {work.embedding}: {what}. Use all cells, or train with held_out above 0."
        )
    return (
        use,
        about,
        f" Of {int(use.sum()):,} {cells} cells, the network having learned from {count['learned']:,} others.",
    )


def rank_similar(
    work: Work, *, group: str = "", by: str = "group", metric: str = "correlation"
) -> Job[Found]:
    """Rank all groups (wells, proteins, treatments) by how like one of them their mean profile is."""
    yield Progress(0, 1, f"Profile of every {by}")
    if not group:
        raise InputError(
            "No group is chosen: name the one that the others are compared with, for example "
            "cellrep analyze PROJECT similar --group A07."
        )
    names, of = work.groups(by)
    members = [np.flatnonzero(of == i) for i in range(len(names))]
    found = profiles.similar_groups(work.x, members, list(names), plain(group), by, metric)
    numbers = {
        "by": by, "group": found.name, "metric": metric, "names": list(found.names),
        "distance": [round(float(v), 6) for v in found.distance], "n_cells": found.n_cells.tolist(),
    }  # fmt: skip
    table = similar_table(numbers).reindex(
        pd.Index(names, name=by, dtype=object)
    )  # those left out keep their rows
    return Found(summary=found.words, table=table, numbers=numbers)


def similar_table(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """What "similar" found: a row for each group, the most alike first, with its distance and how many cells it has."""
    return pd.DataFrame(
        {"distance": numbers["distance"], "n_compared": numbers["n_cells"]},
        index=pd.Index(numbers["names"], name=numbers["by"], dtype=object),
    )


def find_outliers(
    work: Work, *, how: str = "neighbours", k: int = 10, within: str = "group", scale: bool = True
) -> Job[Found]:
    """Measure how unusual each cell is: by its distance to the nearest of its own group, by density, or from its middle."""
    check_within("k", k, 1, 1000)
    yield Progress(0, 1, f"Distances to the nearest of {len(work.x):,} cells")
    x = projection.z_score(work.x) if scale else work.x
    group = np.zeros(len(x), np.int64)
    if within not in ("", "all"):
        of = work.values(within)
        group = np.where(of == "", -1, np.unique(of, return_inverse=True)[1])
    if how == "lof":
        value = mixtures.local_outlier_factor(x, group, k)
    elif how == "own":
        value = mixtures.own_group_deviation(x, group)
    else:
        value = outliers.neighbour_distance(x, k, group)
    n = int(np.isfinite(value).sum())
    if not n:
        least = "three" if how == "neighbours" else "four"
        raise InputError(
            f"No {within} has more than {least} usable cells, so none can be unusual; use within=all."
        )
    where = "all cells" if within in ("", "all") else f"the cells of their own {within}"
    summary = f"Measured how unusual {n:,} cells are among {where}, {OUTLIERS[how]}."
    with_value = group[np.isfinite(value)]
    n_small = int(np.isin(np.bincount(with_value), np.arange(1, k + 1)).sum()) if how != "own" else 0
    if n_small:
        whose = "There are" if within in ("", "all") else f"{n_small:,} values of the column {within} have"
        summary += f" {whose} fewer than {k + 1} usable cells: these are compared with as many as there are, not with {k}."
    return Found(
        summary=summary,
        obs={f"outlier_{work.embedding}": value},
        numbers={"how": how, "n_small": n_small},
    )


def compare_with_control(work: Work, *, control: str = "", k: int = 10, scale: bool = True) -> Job[Found]:
    """Measure how unlike the control each cell is: its mean distance to the nearest control cells."""
    check_within("k", k, 1, 1000)
    yield Progress(0, 1, f"Comparing {len(work.x):,} cells with {control or 'the control'}")
    if not control:
        raise InputError(
            "No control group is chosen: choose what to compare with, for example compound=DMSO "
            "(cellrep compare PROJECT --control compound=DMSO)."
        )
    x = projection.z_score(work.x) if scale else work.x
    is_control = members_of(work, control)
    value = outliers.control_distance(x, is_control, k)
    if not np.isfinite(value).any():
        raise InputError(
            f"{int(is_control.sum())} usable cells have {control}; a control needs at least four."
        )
    usual, rest = np.median(value[is_control]), value[~is_control]
    summary = f"Measured how unlike {control} {len(value):,} cells are."
    if (n_others := int(is_control.sum()) - 1) < k:
        summary += f" The control has {n_others + 1} usable cells, so cells are compared with {n_others} of it, not with {k}."
    if len(rest):
        far = float((rest > np.percentile(value[is_control], 95)).mean())
        summary += (
            f" {far:.0%} of the other cells are farther from it than 95 % of its own (median {np.median(rest):.2f}, "
            f"its own {usual:.2f})."
        )
    return Found(
        summary=summary, obs={f"unlike_{work.embedding}": value},
        numbers={"control": control, "n_control": int(is_control.sum())},
    )  # fmt: skip


def learn_from_sets(
    work: Work,
    *,
    sets: str = "",
    held_out: str = "field",
    classifier: str = "logistic",
    penalty: float = 10.0,
    seed: int = 0,
) -> Job[Found]:
    """Learn to tell named sets of cells apart, predict the set of every cell, and test it on fields held out."""
    check_within("penalty", penalty, 1e-6, 1e6)
    names = chosen_sets(work.sets, sets)
    n, k = len(work.x), len(names)
    yield Progress(0, 1, f"Learning {k} sets")
    member = np.stack([work.obs.index.isin(work.sets[name]) for name in names], axis=1)  # (n, k)
    n_both = int((member.sum(axis=1) > 1).sum())
    label = np.where(member.sum(axis=1) == 1, member.argmax(axis=1), -1)
    few = [name for i, name in enumerate(names) if (label == i).sum() < 2]
    if few:
        raise InputError(
            f"The set {join_words(few, 4)} has fewer than 2 cells to learn from; cells in two of the chosen sets, flagged "
            "ones and those without a vector do not count."
        )
    part = work.values(held_out)
    n_lost = int(((label >= 0) & (part == "")).sum())
    label[part == ""] = -1  # of what field they are is not known: they can neither teach nor be held out
    few = [name for i, name in enumerate(names) if (label == i).sum() < 2]
    if few:
        raise InputError(
            f"Fewer than 2 cells of {join_words(few, 4)} have a value in {held_out!r}; hold out another column."
        )
    known = np.flatnonzero(label >= 0)
    split = labels.split_by_part(
        np.array(names, object)[label[known]].astype(str), part[known], what=held_out
    )
    make = labels.make_classifier(classifier, penalty=penalty, seed=seed)
    x = projection.z_score(work.x)  # over all cells: scaling needs no labels
    total = len(split.tests) + 1
    share = labels.probabilities(make, x[known], label[known], x, k)
    tested = np.full(n, -1)
    for i, test in enumerate(split.tests):
        yield Progress(i + 1, total, f"Testing on {several(held_out)} held out")
        rest = np.delete(known, test)
        # What is said of a labelled cell comes from a classifier that has not seen its field.
        share[known[test]] = labels.probabilities(make, x[rest], label[rest], x[known[test]], k)
        tested[known[test]] = label[known[test]]
    predicted = share.argmax(axis=1)
    counts = labels.confusion(tested, predicted, k)
    accuracy = labels.balanced_accuracy(counts) if split.tests else None
    n_parts = len(np.unique(part[known]))
    summary = f"Learned {k} sets from {len(known):,} cells and predicted {n:,}."
    if accuracy is None:
        summary += f" {split.why_not}"
    else:
        summary += (
            f" On {several(held_out)} held out: balanced accuracy {accuracy:.1%} (n = {len(known):,} cells in {n_parts:,} "
            f"{several(held_out)}; {1 / k:.0%} by chance)."
        )
    if n_both:
        summary += f" {n_both:,} cells in two sets were left out."
    if n_lost:
        summary += f" {n_lost:,} cells of the sets without a value in {held_out} were left out of learning and testing."
    words = np.array([*names, None], dtype=object)
    key = work.embedding
    return Found(
        summary=summary,
        obs={f"taught_{key}": words[label], f"predicted_{key}": words[predicted], f"sure_{key}": share.max(axis=1)},
        numbers={
            "classes": names, "confusion": counts.tolist() if split.tests else [], "balanced_accuracy": accuracy,
            "n_tested": int(counts.sum()), "held_out": held_out, "n_held_out": n_parts if split.tests else 0,
            "why_not_tested": split.why_not, "n_in_two_sets": n_both,
            "n_taught": {name: int((label == i).sum()) for i, name in enumerate(names)},
            "sets": {name: cells_digest(work.sets[name]) for name in names},
        },
    )  # fmt: skip


def chosen_sets(sets: Mapping[str, Any], text: str) -> list[str]:
    """Names of sets in a text: "a,b", a JSON list where a name has a comma, or "" for all; at least two.

    Raises
    ------
    InputError
        If a set is not there, or there are fewer than two.
    """
    if text.startswith("["):
        try:
            names = [str(name) for name in json.loads(text)]
        except json.JSONDecodeError as error:
            raise InputError(f"The list of sets {text!r} cannot be read ({error}).") from None
    else:
        names = [part.strip() for part in text.split(",") if part.strip()] or list(sets)
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in sets:
            raise InputError(f"There is no set called {name!r}; sets are {join_words(sets, 12) or 'none'}.")
    if len(names) < 2:
        raise InputError(
            f"Learning needs two sets of cells or more, each a kind of cell; got {join_words(names) or 'none'}. Select "
            "cells in the window and save them as a set."
        )
    return names


def classify_cells(work: Work) -> Job[Found]:
    """Ask a network that was taught classes (DeepLoc) which class each cell is, and how probable each class is."""
    import torch

    from napari_cellrep.models import can
    from napari_cellrep.models._engine import choose_device, to_tensor
    from napari_cellrep.steps.embed import cut_by_field
    from napari_cellrep.steps.look import class_names
    from napari_cellrep.steps.networks import UNTRAINED, network_of

    project, key, n = work.project, work.embedding, len(work.x)
    assert project is not None  # `analyze` gives it
    yield Progress(0, n, "Loading the network")
    found = network_of(project, key)
    net: Any = found.net
    if not can(net, "classify"):
        raise InputError(
            f"{net.spec.title} knows no classes, so it cannot say which each cell is; DeepLoc does, and the recipe learn "
            "learns from your own sets of cells."
        )
    names, dev = class_names(net), choose_device()
    net.to(dev)
    share = np.full((n, len(names)), np.nan, np.float32)
    done = 0
    for field_id, own, crops in cut_by_field(project, work.obs, net.crop, found.planes):
        for i in range(0, len(crops), _CLASSIFIED_AT_ONCE):
            with torch.inference_mode():
                x = net.preprocess(to_tensor(crops[i : i + _CLASSIFIED_AT_ONCE]).to(dev))
                part = net.classify(x).float().cpu().numpy()
            share[own[i : i + len(part)]] = part
            done += len(part)
            yield Progress(done, n, f"Classes of the cells of {field_id}")
    best = share.argmax(axis=1)
    counts = pd.Series(np.array(names, object)[best]).value_counts()
    said = ", ".join(f"{name} {count:,}" for name, count in counts.head(5).items())
    more = f" and {len(counts) - 5:,} more classes" if len(counts) > 5 else ""
    summary = (
        f"Asked {net.spec.title} for the class of {n:,} cells, out of {len(names):,} classes: {said}{more}."
    )
    if not project.embedding_info(key).get("trained", True):
        summary += f" {UNTRAINED}"
    result = Found(
        summary=summary,
        obs={f"predicted_class_{key}": np.array(names, object)[best], f"sure_class_{key}": share.max(axis=1)},
        numbers={"n_classes": len(names), "counts": {str(k): int(v) for k, v in counts.items()}},
    )
    if len(names) <= MOST_CLASSES:
        result.obsm[f"probabilities_{key}"] = share
        result.uns[f"classes_{key}"] = np.array(names, object)
    else:  # 4,049 numbers per cell would outweigh all the rest
        result.summary += f" Of more than {MOST_CLASSES} classes only the most probable one is kept."
    return result


def predict_from_others(work: Work, *, sources: int = 4, seed: int = 0) -> Job[Found]:
    """Measure how far each cell is from what others of its group let expect (Paired Cell Inpainting's error)."""
    from napari_cellrep.steps.inpaint import inpainting_errors
    from napari_cellrep.steps.networks import UNTRAINED, network_of

    check_within("sources", sources, 1, 100)
    project, key, n = work.project, work.embedding, len(work.x)
    assert project is not None  # `analyze` gives it
    yield Progress(0, n, "Loading the network")
    error = yield from inpainting_errors(
        project, network_of(project, key), work.obs, sources=sources, seed=seed
    )
    has = np.isfinite(error[:, 0])
    if not has.any():
        raise InputError("No group has two cells that count, so none can be predicted from another.")
    mse, mae = np.median(error[has], axis=0)
    summary = (
        f"Predicted {int(has.sum()):,} cells, each from {sources} others of its group: mean squared error {mse:.3g}, mean "
        f"absolute error {mae:.3g} (medians)."
    )
    if not has.all():
        summary += f" {int((~has).sum()):,} are alone in their group and have none."
    if not project.embedding_info(key).get("trained", True):
        summary += f" {UNTRAINED}"
    return Found(
        summary=summary,
        obs={f"inpainting_mse_{key}": error[:, 0], f"inpainting_mae_{key}": error[:, 1]},
        numbers={"sources": sources, "median_mse": float(mse), "median_mae": float(mae)},
    )


_CLASSIFIED_AT_ONCE = 64  # crops
RECIPES: dict[str, Callable[..., Job[Found]]] = {
    "map": map_cells,
    "neighbours": neighbour_graph,
    "score": score,
    "variability": rank_groups,
    "profile": profile_groups,
    "similar": rank_similar,
    "outliers": find_outliers,
    "unlike": compare_with_control,
    "learn": learn_from_sets,
    "classes": classify_cells,
    "inpainting": predict_from_others,
    "mixture": recipes.mix_of_two,
    "kinds": recipes.part_groups,
    "order": recipes.order_cells,
    "rare": recipes.find_rare,
    "fields": recipes.compare_fields,
    "moved": recipes.find_moved,
    "treatments": recipes.profile_treatments,
    "knows": recipes.compare_embeddings,
    "information": recipes.ask_information,
    "standard": recipes.score_standard,
    "enrichment": recipes.find_enriched,
    "terms": recipes.compare_terms,
    "second": recipes.compare_modalities,
}
# What each answers, in the window's words, and what its button says.
QUESTIONS = {
    "map": ("Which cells look alike?", "Make the map"),
    "score": ("Is each cell closer to A or to B?", "Place every cell between A and B"),
    "variability": ("Which groups vary most from cell to cell?", "Rank the groups"),
    "outliers": ("Which cells are odd in their own group?", "Measure how odd each cell is"),
    "unlike": ("Which cells are unlike the control?", "Compare every cell with the control"),
    "neighbours": ("Which cells are each other's nearest?", "Find every cell's neighbours"),
    "profile": ("What does each group look like on average?", "Average every group"),
    "similar": ("Which groups are like this one?", "Rank the groups by likeness"),
    "learn": ("Which cells are like those in my sets?", "Learn from the sets"),
    "classes": ("Which class is each cell, says the network?", "Ask for every cell's class"),
    "inpainting": (
        "Which cells are not as others of their group let expect?",
        "Predict every cell from others",
    ),
    "mixture": ("How much of A and of B is in each cell?", "Place every cell on the line from A to B"),
    "kinds": ("Which kinds of cells are in each group?", "Part every group into kinds"),
    "order": ("In which order do the cells go through a process?", "Order the cells"),
    "rare": ("Which groups have rare, odd cells?", "Count odd cells in every group"),
    "fields": ("In which groups is one field very mixed?", "Compare the cells within fields"),
    "moved": ("Which groups moved between two conditions?", "Rank the groups by how far they moved"),
    "treatments": ("Which treatments differ from the control?", "Profile the treatments"),
    "knows": ("Which embedding knows most of a label?", "Compare the embeddings"),
    "information": ("What do the numbers of an embedding know?", "Measure their information"),
    "standard": ("Do similar groups share gene sets?", "Score the groups against sets"),
    "enrichment": ("What is frequent among these groups?", "Test for enriched annotations"),
    "terms": ("Are groups of one annotation near each other?", "Compare the distances"),
    "second": ("Do other data find the same groups alike?", "Compare with the table"),
}
# Options that the project's `comparison` fills.
CHOSEN_ONCE = {"score": ("a", "b"), "mixture": ("a", "b"), "unlike": ("control",)}
# What a form needs to know of an option besides its type and default. "column": a column of the cells, or one of `also`.
_OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"label": "Seed", "min": 0, "help": "Another number gives another layout of the same cells."},
    "n_neighbors": {"label": "Neighbours", "min": 2, "max": 1000,
                    "help": "Of how many nearest cells account is taken; fewer shows finer structure."},
    "min_dist": {"label": "Least distance", "min": 0.0, "max": 1.0, "step": 0.05,
                 "help": "How close points may lie on the map: small packs cells that look alike tightly."},
    "pca_components": {"label": "Components", "min": 2, "max": 1000,
                       "help": "Principal components kept before the map is made: the directions in which cells differ most."},
    "scale": {"label": "Same weight for every number",
              "help": "Every number of the embedding gets mean 0 and SD 1 first (z-score)."},
    "of": {"label": "Only the set", "help": "Name of a set: its cells get a map of their own. Empty: all cells."},
    "method": {"label": "Method", "choices": list(projection.METHODS),
               "help": "UMAP; densMAP, which keeps what is dense dense; t-SNE, which keeps near neighbours and takes minutes."},
    "fit": {"label": "Made from", "choices": list(FITS),
            "help": "The cells; or the means of fields or groups, with every cell placed on their map (UMAP only)."},
    "perplexity": {"label": "Perplexity", "min": 2.0, "max": 1000.0, "step": 5.0,
                   "help": "Of t-SNE: about how many neighbours of a cell count."},
    "dose": {"label": "Dose", "column": True, "also": ["auto", "none"],
             "help": "Wells of one compound and dose are replicates: how narrow the curve is (V) comes from them. auto: a column "
             "with dose or conc in its name."},
    "quality": {"label": "Take out",
                "help": "Columns with commas between them, or quality for all quality numbers: what follows them from cell to "
                "cell within a group (of fields: within a field) is taken out first, and how much is left is said."},
    "intensity": {"label": "Intensity", "column": True, "also": ["", "q_signal"],
                  "help": "Column of the protein's intensity: its spread in every group stands beside that of the place, because "
                  "a group can vary in one and not in the other. Empty: none."},
    "as_bright": {"label": "References as bright",
                  "help": "Compares each group with reference cells of the same intensities, so that dim or bright cells "
                  "alone do not make it vary; groups without such references have no p."},
    "same": {"label": "References of the same", "column": True, "also": ["auto", "none"],
             "help": "A group is compared with references that have its value of this column. auto: what the score's references "
             "share, and the cell line where a column is called so."},
    "known": {"label": "Known to vary",
              "help": "COLUMN=VALUE of groups that are known to vary (several values of a cell parted by ;): says how many of "
              "the first k of the ranking are. Empty: nothing is compared."},
    "how": {"label": "Odd by", "choices": list(OUTLIERS),
            "help": "Distance to the nearest of the group; local outlier factor; or distance from the group's middle."},
    "choose": {"label": "Which groups",
               "help": "Name of a set (groups most of whose cells are in it), COLUMN=VALUE, or names with commas between them; "
               "empty: every value of the column below."},
    "clustered": {"label": "Clusters", "column": True, "also": [""],
                  "help": "A column: the groups most of whose cells have one value are tested together, each value on its own."},
    "annotation": {"label": "Annotation", "column": True, "also": [""],
                   "help": "A column with what is known of the groups, several parted by ;. Empty: the file of sets."},
    "near": {"label": "With the nearest", "min": 0, "max": 10_000,
             "help": "Takes as many groups of the most similar profile to the chosen ones: their neighbourhood."},
    "epochs": {"label": "Rounds", "min": 1, "max": 10_000, "help": "Of learning, for the papers' head (mlp)."},
    "label": {"label": "Predict", "column": True, "also": [""],
              "help": "A column; the neighbours' vote (k-NN) says how well the embedding knows it."},
    "apart": {"label": "Not of the same", "column": True, "also": [""],
              "help": "Neighbours with the cell's own value of this column do not vote: what cells of one field or plate share "
              "is then no knowledge. Empty: only the cell itself is left out."},
    "ties": {"label": "Equal votes go to", "choices": ["nearest", "smallest"],
             "help": "The value whose cell is nearest; or the first in the alphabet, and the nearest where all differ, as "
             "Microsnoop's authors do."},
    "k": {"label": "Nearest cells", "min": 1, "max": 1000, "help": "How many nearest cells count."},
    "per": {"label": "Each on its own", "column": True, "also": ["auto", "none"],
            "help": "Cells of each value of this column are placed between their own A and B; auto: each compound, if it has "
            "both."},
    "by": {"label": "Groups", "column": True, "also": ["group", "compound"], "help": "Cells with the same value are one group."},
    "min_cells": {"label": "Least cells", "min": 1, "max": 1_000_000, "help": "Smaller groups are not judged."},
    "n_draws": {"label": "Draws for the interval", "min": 0, "max": 100_000,
                "help": "How often cells are drawn again (bootstrap) for the interval of the SD; 0: no interval."},
    "average": {"label": "Average", "choices": ["mean", "median"]},
    "cells": {"label": "Of cells", "choices": list(PROFILED),
              "help": "All; held-out: those a network trained here never learned from; test: those it was only tried on at the "
              "end. A network can know by heart the cells it learned from."},
    "group": {"label": "Group", "help": "Name of the one that the others are compared with, as in the column chosen below."},
    "metric": {"label": "Distance", "choices": list(profiles.METRICS),
               "help": "1 − correlation looks at the pattern of the numbers, Euclidean at their size too; every number is "
               "z-scored over the groups first."},
    "sets": {"label": "Sets", "help": "Names of sets, with commas between them; empty: all sets. Each is a kind of cell."},
    "held_out": {"label": "Tested on", "column": True, "also": ["field"],
                 "help": "What is held out as a whole: predictions are tested on fields (or wells, plates) not learned from."},
    "classifier": {"label": "Classifier", "choices": list(labels.CLASSIFIERS),
                   "help": "Logistic regression draws straight borders, which few cells suffice for; a forest of decision trees "
                   "draws bent ones and wants many."},
    "penalty": {"label": "Penalty", "min": 1e-6, "max": 1e6, "step": 1.0,
                "help": "Of the logistic regression: the larger, the less a single number of the embedding can say."},
    "sources": {"label": "Sources", "min": 1, "max": 100,
                "help": "From how many other cells of its group each cell is predicted; the errors are averaged."},
    "root": {"label": "Begins with", "help": "COLUMN=VALUE of the cells at the beginning, for example phase=G1."},
    "most": {"label": "Kinds at most", "min": 1, "max": 20, "help": "In one group; as many as the cells speak for (BIC)."},
    "number": {"label": "Number",
               "help": "Name of the column that is large in odd cells; empty: how odd each is in its own group (measure that "
               "first)."},
    "tail": {"label": "Beyond", "min": 0.0001, "max": 0.5, "step": 0.01,
             "help": "A cell is rare beyond what this share of the reference cells reach."},
    "measure": {"label": "Measured by", "choices": ["sd", "distance"],
                "help": "The SD of every number, or the mean cosine distance over all pairs of cells."},
    "condition": {"label": "Condition", "column": True, "also": [""], "help": "The column that holds the two conditions."},
    "a": {"label": "From", "help": "One value of the condition; empty where there are just two."},
    "b": {"label": "To", "help": "The other value."},
    "control": {"label": "Control", "help": "COLUMN=VALUE of the control wells; empty: there are none."},
    "correct": {"label": "Batches", "choices": list(recipes.CORRECTIONS),
                "help": "How batch effects are taken out of wells: not at all; by mean and SD of each batch's controls (z); by "
                "sphering on the controls (zca, or zca_corr with each number scaled first); by Harmony (an extra, GPL)."},
    "batch": {"label": "Batch", "column": True, "also": ["plate"], "help": "What is one batch: plate, run, day."},
    "compound": {"label": "Compound", "column": True, "also": [""],
                 "help": "Nearest treatments have to be of another one; empty: as the treatments."},
    "n_null": {"label": "Random orders", "min": 10, "max": 1_000_000, "help": "For the p-values of the average precision."},
    "probe": {"label": "Asked by", "choices": [*comparison.PROBES, "mlp"],
              "help": "The vote of the nearest cells, logistic regression, a forest of decision trees; or the papers' small "
              "network (mlp), for columns with several values in a cell, parted by ;."},
    "columns": {"label": "Columns", "help": "Names with commas between them; empty: group, well, plate, compound, field."},
    "bins": {"label": "Bins", "min": 2, "max": 1000, "help": "Into how many of equal width every number is cut."},
    "corrected": {"label": "Less by chance", "help": "Takes off what a column of as many values has by chance."},
    "sets_file": {"label": "File of sets", "help": "GMT, GAF, or a table of two columns: item, sets parted by ;."},
    "table_file": {"label": "Table", "help": "A .csv or .tsv: groups in the first column, numbers in the others."},
    "components": {"label": "Components", "min": 2, "max": 1000, "help": "Principal components of each kind of data."},
    "control_for": {"label": "Within the same", "column": True, "also": [""],
                    "help": "A column such as the cell line: pairs of groups of the same and of different ones are told apart."},
    "normalise": {"label": "In units of", "choices": ["sd", "ratio"],
                  "help": "The SD of the distances between different annotations, or their mean."},
    "n_pairs": {"label": "Pairs", "min": 10, "max": 1_000_000, "help": "Drawn for each annotation, and with each other one."},
    "aspect": {"label": "Aspect", "choices": ["", "P", "F", "C"],
               "help": "Of a GAF file: biological process, molecular function, cellular component; empty: all."},
    "clusters": {"label": "Clusters", "min": 2, "max": 1000, "help": "Of similar groups, each tested for enriched sets."},
    "within": {"label": "Compare with", "column": True, "also": ["group", "all"],
               "help": "The cells with the same value of this column, or all cells."},
}  # fmt: skip
_VERSIONS = {
    "profile": 3,
    "neighbours": 2,
    "treatments": 2,
    "variability": 5,
    "score": 2,
    "outliers": 2,
}  # of what is written: an older result is made again
OF_SETS = ("map", "learn", "enrichment")  # they look at named sets
OF_GROUPS = (
    "variability",
    "profile",
    "similar",
    "rare",
    "fields",
    "moved",
    "treatments",
)  # their results go to the group table
# By which column groups are put in order.
_FIRST = {
    "rare": "rare_share",
    "fields": "field_highest",
    "moved": "moved_ratio",
    "treatments": "average_precision",
}
TABLES = (
    *_FIRST,
    "variability",
    "similar",
    "knows",
    "standard",
    "enrichment",
    "terms",
)  # their result is a table worth a file
OF_PROJECT = (
    "classes",
    "inpainting",
    "knows",
    "profile",
    "variability",
)  # they ask the network again, or look at other embeddings, or at cells that are left out
# They have their own word for vectors that are all the same, or do not look at the vectors of this embedding alone.
OF_OTHER_THINGS = ("score", "mixture", "classes", "inpainting", "knows", "rare", "enrichment")
OF_SCORES = ("variability", "rare", "fields")  # they compare with reference A of the score


# ---- the step ------------------------------------------------------------------------------------


def analyze(
    project: Project, *, recipe: str, embedding: str = "", include_flagged: bool = False, **options: Any
) -> Job[AnalyzeResult]:
    """Run one recipe on one embedding and write what it gives into the project.

    Cells without a vector, and flagged ones unless asked for, stay out and get NaN. When vectors, cells and
    options are what they were, nothing is computed and the result says so.

    Parameters
    ----------
    recipe : str
        One of `RECIPES`.
    embedding : str
        Which one; empty: the only one there is.
    include_flagged : bool
        Use cells with quality flags too.
    **options
        Keyword arguments of the recipe.

    Yields
    ------
    Progress
        The job returns an `AnalyzeResult`.

    Raises
    ------
    InputError
        If recipe, embedding, column or option are unknown, or there are too few cells.
    """
    if recipe not in RECIPES:
        raise InputError(f"There is no recipe {recipe!r}; recipes are {join_words(RECIPES, 9)}.")
    chosen = {n: project.comparison[n] for n in CHOSEN_ONCE.get(recipe, ()) if project.comparison[n]}
    options = check_options(recipe, {**chosen, **options})
    cells = project.cells
    key = choose_embedding(cells, embedding)
    work = _gather(cells, key, include_flagged)
    span = np.ptp(work.x, axis=0)
    if recipe not in OF_OTHER_THINGS and len(work.x) > 1 and (span <= 1e-6 * np.abs(work.x[0])).all():
        raise InputError(
            f"All {len(work.x):,} cells that count have the same numbers in {key.replace('_', ' ')}, so nothing tells them apart."
        )
    if recipe in OF_SCORES:
        work = dataclasses.replace(work, scored=provenance(cells).get(f"score_{key}", {}).get("numbers", {}))
    if recipe in OF_SETS:
        sets = {name: [str(i) for i in made["cells"]] for name, made in read_sets(project.root).items()}
        work = dataclasses.replace(work, sets=sets)
    if recipe in OF_PROJECT:
        work = dataclasses.replace(work, project=project)
    stamp = digest(
        {"recipe": recipe, "options": options, "inputs": _fingerprint(work, recipe, options),
         "version": _VERSIONS.get(recipe, 1)}
    )  # fmt: skip
    name = f"{recipe}_{key}"
    if options.get("of") or options.get("method", "umap") != "umap":
        name = f"{recipe}_{map_key(key, options['of'], options['method'])}"
    if recipe in OF_GROUPS:
        name += "" if options["by"] == "group" else f"_by_{options['by']}"
        target = project.groups
    else:
        target = cells
    old = provenance(target).get(name, {}) if target is not None else {}
    whole = target is not None and _all_there(target, old.get("written", []))
    if old.get("version", 1) > _VERSIONS.get(recipe, 1):
        raise InputError(
            f"What {recipe} gave for {key} was written by a newer version (result {old['version']}, this one writes "
            f"{_VERSIONS.get(recipe, 1)}) and stays as it is; update napari-cellrep."
        )
    if recipe == "neighbours" and whole:  # the plain names may be another embedding's since
        whole = dict(cells.uns.get("neighbors", {})).get("params", {}).get("use_rep") == f"X_{key}"
    if target is not None and old.get("digest") == stamp and whole:
        yield Progress(1, 1, f"{recipe} of {key} is up to date")
        table = _in_order(project, recipe, key, options, old["numbers"])
        summary = f"Up to date, nothing to do. {old['summary']}"
        return AnalyzeResult(recipe, key, summary, tuple(old["written"]), True, old["numbers"], table)

    project.begin_step("analyze")
    found = yield from RECIPES[recipe](work, **options)
    found.summary += _left_out(work, recipe, {**options, "per": found.numbers.get("per", "")})

    made = {
        "recipe": recipe, "version": _VERSIONS.get(recipe, 1), "embedding": key, "options": options,
        "include_flagged": include_flagged,
        "n_cells": len(work.x), "summary": found.summary, "numbers": found.numbers, "digest": stamp,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"), "versions": library_versions(),
    }  # fmt: skip
    if found.table is not None:
        written = _put_groups(project, found, key, str(options["by"]), work.all_obs, name, made)
    else:
        written = _put_cells(project, found, work.obs.index, name, made)
    ordered = _in_order(project, recipe, key, options, found.numbers)
    table = found.table if ordered is None else ordered
    project.log(
        "analyze", recipe=recipe, embedding=key, options=options, cells=len(work.x), summary=found.summary
    )
    yield Progress(1, 1, found.summary)
    return AnalyzeResult(recipe, key, found.summary, written, False, found.numbers, table)


def describe_recipes() -> dict[str, dict[str, Any]]:
    """What a form needs to know of every recipe, as plain JSON types.

    Returns
    -------
    dict
        Recipe → {"question", "button", "doc", "groups": options the project's `comparison` fills, "options": rules as
        `specs.field_rules` gives them}.
    """
    found = {}
    for name, (question, button) in QUESTIONS.items():
        groups = CHOSEN_ONCE.get(name, ())
        options = {
            p.name: {"type": type(p.default).__name__, "default": p.default, **_OPTIONS[p.name]}
            for p in inspect.signature(RECIPES[name]).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name not in groups
        }
        doc = (inspect.getdoc(RECIPES[name]) or "").splitlines()[0]
        found[name] = {
            "question": question,
            "button": button,
            "doc": doc,
            "groups": groups,
            "options": options,
        }
    return found


def choose_embedding(cells: ad.AnnData, embedding: str = "") -> str:
    """Key of the embedding asked for, or of the only one there is.

    Raises
    ------
    InputError
        If there is none, several to choose from, or no such one.
    """
    have = embedding_names(cells)
    if not have:
        raise InputError("The cells have no vectors yet: run `cellrep embed` first.")
    if embedding and embedding not in have:
        raise InputError(f"There is no embedding {embedding!r}; there are {join_words(have, 12)}.")
    if not embedding and len(have) > 1:
        raise InputError(f"There are several embeddings; say which with --embedding: {join_words(have, 12)}.")
    return embedding or have[0]


def check_options(recipe: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a recipe, defaults filled in, each of its default's type.

    Raises
    ------
    InputError
        If an option is unknown or of another type.
    """
    known = {
        p.name: p.default
        for p in inspect.signature(RECIPES[recipe]).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    for name in options:
        if name not in known:
            raise InputError(
                f"The recipe {recipe!r} has no setting {name!r}; it has {join_words(known, 12)}."
            )
    out = {}
    for name, default in known.items():
        value, kind = options.get(name, default), type(default)
        if kind is str:
            value = str(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise InputError(f"{name} is {value!r}; it has to be of type {kind.__name__}.")
        choices = _OPTIONS.get(name, {}).get("choices")
        if choices and value not in choices:
            raise InputError(
                f"The setting {name} can not be {value!r}; it is one of {join_words((c for c in choices if c), 9)}."
            )
        out[name] = value
    return out


# Of these columns a cell needs a value to be looked at; what learns and what profiles wells say it in their own words.
_GROUPING = ("by", "within", "per", "label", "apart", "held_out")


def _left_out(work: Work, recipe: str, options: Mapping[str, Any]) -> str:
    """How many cells were left out for want of a value or of whole numbers, as sentences; "" where none was."""
    words = ""
    columns = (
        [str(options[n]) for n in _GROUPING if options.get(n)]
        if recipe not in ("learn", "treatments")
        else []
    )
    for column in dict.fromkeys(c for c in columns if c in work.obs):
        if n := int(work.obs[column].isna().sum()):
            words += f" Left out: {n:,} of the {len(work.obs):,} cells, which have no value in {column}."
    if work.n_broken:
        words += f" Left out: {work.n_broken:,} cells whose vectors hold infinite numbers, or lack some."
    return words


def _in_order(
    project: Project, recipe: str, key: str, options: Mapping[str, Any], numbers: Mapping[str, Any]
) -> pd.DataFrame | None:
    """The groups in the order that a recipe found, or its other table; None where it has none."""
    if recipe == "variability":
        return ranking(project, embedding=key, by=str(options["by"]))
    if recipe == "similar":
        return similar_table(numbers)
    if "rows" in numbers:
        return pd.DataFrame(numbers["rows"])
    if recipe not in _FIRST or project.groups is None:
        return None
    by, obs = str(options["by"]), project.groups.obs
    obs = obs[obs["by"].astype(str) == by]
    columns = [c for c in obs.columns if c.endswith(f"_{key}") and c.removesuffix(f"_{key}") in _RANKED]
    table = obs[columns].rename(columns=lambda c: c.removesuffix(f"_{key}"))
    table.index = pd.Index(obs["name"].astype(str), name=by)
    return (
        table.sort_values(_FIRST[recipe], ascending=False, kind="stable")
        if _FIRST[recipe] in table
        else table
    )


def ranking(project: Project, *, embedding: str = "", by: str = "") -> pd.DataFrame:
    """Groups as last ranked: metadata, ``n_cells``, ``score_mean``, ``score_sd``, ``heterogeneity``, ranks.

    Parameters
    ----------
    embedding : str
        Which ranking; empty: the one made last.
    by : str
        Column the groups came from; empty: "group" when that was ranked, else the one ranked last.

    Returns
    -------
    DataFrame
        One row per group, most variable first (by the SD of the score where there is one).

    Raises
    ------
    InputError
        If nothing was ranked yet, or not this.
    """
    groups = project.groups
    made = (
        [m for m in provenance(groups).values() if m.get("recipe") == "variability"]
        if groups is not None
        else []
    )
    made = [m for m in made if embedding in ("", m["embedding"]) and by in ("", m["options"]["by"])]
    if groups is None or not made:
        what = f" of {embedding}" if embedding else ""
        raise InputError(f"There is no ranking{what} yet: run `cellrep analyze PROJECT variability` first.")
    last = max(made, key=lambda m: (not by and m["options"]["by"] == "group", m["made"]))
    end = f"_{last['embedding']}"
    obs = groups.obs[groups.obs["by"].astype(str) == last["options"]["by"]]
    known = {m["embedding"] for m in provenance(groups).values()}
    own = [c.removesuffix(end) for c in last["columns"]]
    columns = {f"{c}{end}": c for c in own}
    others = {f"{c}_{e}" for c in _RANKED for e in known} | {"by"}
    table = obs[[c for c in obs.columns if c not in others] + list(columns)].rename(columns=columns)
    table.index = pd.Index(table.pop("name").astype(str), name=last["options"]["by"])
    table = table.dropna(axis=1, how="all")
    first = "score_sd" if "score_sd" in table else "heterogeneity"
    order = table[first].where(table[f"rank_{first}"].notna())
    return table.loc[order.sort_values(ascending=False, kind="stable", na_position="last").index]


_RANKED = (
    "n_cells", "n_left_out", "score_mean", "score_sd", "score_sd_low", "score_sd_high", "rank_score_sd",
    "score_sd_expected", "score_sd_p", "score_sd_p_fdr", "heterogeneity", "rank_heterogeneity", "heterogeneity_expected",
    "heterogeneity_p", "heterogeneity_p_fdr", "distance", "n_compared", "rare_share", "rare_p", "rare_p_fdr", "rare_upper",
    "rank_rare", "field_highest", "field_expected", "field_p", "field_p_fdr", "n_counted_fields", "moved_shift",
    "moved_expected", "moved_ratio", "moved_p", "moved_p_fdr", "n_wells", "average_precision", "average_precision_p",
    "average_precision_p_fdr", "agreement", "intensity_cv", "intensity_cv_expected", "intensity_cv_p_fdr", "n_references",
    "pairwise_distance",
)  # fmt: skip


# ---- getting and putting -------------------------------------------------------------------------


def _gather(cells: ad.AnnData, key: str, include_flagged: bool) -> Work:
    x = np.asarray(cells.obsm[f"X_{key}"])
    has = np.isfinite(x).all(axis=1)
    counts = cells.obs["good"].to_numpy(bool) if "good" in cells.obs and not include_flagged else np.True_
    broken = ~has & ~np.isnan(x).all(axis=1)
    use = has & counts
    if not use.any():
        why = "embed them first"
        if has.any():
            why = "all those that have one are flagged (--include-flagged uses them)"
        elif broken.any():
            why = (
                f"the vectors of {int(broken.sum()):,} cells hold infinite numbers, or lack some; look at the images and the "
                "weights, then embed again"
            )
        raise InputError(f"No cell with a vector of {key} can be used: {why}.")
    n_broken = int((broken & counts).sum())
    return Work(key, np.ascontiguousarray(x[use], np.float32), cells.obs[use], cells.obs, n_broken=n_broken)


def _fingerprint(work: Work, recipe: str, options: Mapping[str, Any]) -> str:
    """Hash of everything a recipe looks at: vectors, which cells, and the columns it reads."""
    reads: dict[str, list[Any]] = {
        "map": [
            "field" if options.get("fit") == "fields" else "group" if options.get("fit") == "groups" else None
        ],
        "neighbours": [options.get("label"), options.get("apart")],
        "score": [
            *(str(options.get(n)).partition("=")[0].strip() for n in "ab"),
            options.get("per"),
            "compound",
            "well",
            "plate",
            recipes.dose_column(work, str(options.get("dose", ""))),
        ],
        "variability": [
            options.get("by"),
            f"score_{work.embedding}",
            "field",
            "control",
            options.get("intensity"),
            str(options.get("known")).partition("=")[0].strip(),
            *(recipes.quality_columns(work, str(options["quality"])) if options.get("quality") else ()),
            *users_columns(work.all_obs),
        ],
        "profile": [options.get("by"), "field", *users_columns(work.all_obs)],
        "similar": [options.get("by"), "field", *users_columns(work.all_obs)],
        "outliers": [options.get("within")],
        "unlike": [str(options.get("control")).partition("=")[0].strip()],
        "learn": [options.get("held_out")],
        "classes": ["mask_hash"],  # weights and pixels are in the vectors
        "inpainting": ["mask_hash", "group"],
        "mixture": [
            *(str(options.get(n)).partition("=")[0].strip() for n in "ab"),
            options.get("per"),
            "compound",
        ],
        "kinds": [options.get("by")],
        "order": [str(options.get("root")).partition("=")[0].strip()],
        "rare": [
            options.get("by"),
            options.get("number") or f"outlier_{work.embedding}",
            "control",
            *users_columns(work.all_obs),
        ],
        "fields": [
            options.get("by"),
            "field",
            "control",
            *(recipes.quality_columns(work, str(options["quality"])) if options.get("quality") else ()),
            *users_columns(work.all_obs),
        ],
        "moved": [options.get("by"), options.get("condition"), "field", *users_columns(work.all_obs)],
        "treatments": ["field", *users_columns(work.all_obs)],
        "knows": [options.get("label"), options.get("held_out")],
        "information": ["field", "group", *users_columns(work.all_obs)],
        "standard": [options.get("by")],
        "terms": [options.get("by"), options.get("annotation"), options.get("control_for")],
        "second": [options.get("by")],
        "enrichment": [options.get("by"), options.get("clustered"), options.get("annotation")],
    }
    seen = reads[recipe]
    h = hashlib.sha256(work.x.tobytes() + (str(work.n_broken).encode() if work.n_broken else b""))
    if options.get("of"):
        h.update(cells_digest(work.sets.get(str(options["of"]), [])).encode())
    if recipe == "knows" and work.project is not None:
        for name in embedding_names(work.project.cells):
            h.update(name.encode() + np.ascontiguousarray(work.project.cells.obsm[f"X_{name}"]).tobytes())
    for file in ("sets_file", "table_file"):
        if Path(str(options.get(file, ""))).is_file():
            h.update(Path(str(options[file])).read_bytes())
    if recipe == "variability" and work.project is not None:  # flagged cells are looked at, too
        h.update(np.ascontiguousarray(work.project.cells.obsm[f"X_{work.embedding}"]).tobytes())
    if recipe == "profile" and work.project is not None:
        with contextlib.suppress(InputError):
            h.update("\n".join(parts_of_training(work.project, work.embedding, work.obs)[0]).encode())
    if recipe == "learn":
        names = chosen_sets(work.sets, str(options.get("sets")))
        h.update(json.dumps([[name, cells_digest(work.sets[name])] for name in names]).encode())
    for part in (
        work.obs.index.to_series(),
        *(work.all_obs[c] for c in dict.fromkeys(seen) if c in work.all_obs),
    ):
        h.update(str(part.name).encode() + pd.util.hash_pandas_object(part, index=False).to_numpy().tobytes())
    return h.hexdigest()


def _put_cells(
    project: Project, found: Found, index: pd.Index, name: str, made: dict[str, Any]
) -> tuple[str, ...]:
    """Put results into the cell table as it is now on disk: others may have added columns meanwhile."""
    project.reload()
    cells = project.cells
    at = cells.obs.index.get_indexer(index)  # cells that are gone meanwhile: −1
    here = at >= 0
    written = []
    for key, values in found.obs.items():
        words = values.dtype == object
        full = np.full(cells.n_obs, None if words else np.nan, object if words else float)
        full[at[here]] = values[here]
        cells.obs[key] = pd.Categorical(full) if words else full
        written.append(f"obs/{key}")
    for key, values in found.obsm.items():
        full = np.full((cells.n_obs, values.shape[1]), np.nan, np.float32)
        full[at[here]] = values[here]
        cells.obsm[key] = full
        written.append(f"obsm/{key}")
    for key, matrix in found.obsp.items():
        # A selection matrix moves rows and columns of the cells that counted to their places in the table.
        place = sparse.csr_matrix(
            (np.ones(here.sum(), np.float32), (at[here], np.flatnonzero(here))),
            shape=(cells.n_obs, len(index)),
        )
        cells.obsp[key] = sparse.csr_matrix(place @ matrix @ place.T)
        written.append(f"obsp/{key}")
    for key, value in found.uns.items():
        cells.uns[key] = value
        written.append(f"uns/{key}")
    _note(cells, name, {**made, "written": written})
    try:
        project.write_cells(cells)
    except BaseException:
        project.reload()  # what is in memory was never written
        raise
    return tuple(written)


def _put_groups(
    project: Project,
    found: Found,
    key: str,
    by: str,
    obs: pd.DataFrame,
    name: str,
    made: dict[str, Any],
) -> tuple[str, ...]:
    """Put what was found of groups into their table.

    Its rows (index: name, or ``<by>=<name>``), its columns with the embedding's name, its vectors as
    ``obsm["X_<embedding>"]``.
    """
    table = found.table
    assert table is not None  # the caller has looked
    new = pd.concat(
        [_shared_metadata(obs, by, table.index), table.rename(columns=lambda c: f"{c}_{key}")], axis=1
    )
    columns = [f"{c}_{key}" for c in table.columns]
    new.insert(0, "by", by)
    new.insert(1, "name", table.index.to_numpy(object))
    new.index = pd.Index(
        [n if by == "group" else f"{by}={n}" for n in table.index], name="group_id", dtype=object
    )
    old = project.groups
    rows = {i: dict(row) for i, row in zip(new.index, new.to_dict("records"), strict=True)}
    for i, row in zip(old.obs.index, old.obs.to_dict("records"), strict=True) if old is not None else ():
        if str(row["by"]) != by:
            rows[str(i)] = row  # another grouping
        elif str(i) in rows:
            rows[str(i)] = {
                **row,
                **rows[str(i)],
            }  # other embeddings' columns; a group that is gone stays out
    names = dict.fromkeys(c for row in rows.values() for c in row)
    whole = pd.DataFrame({c: _typed(str(c), [row.get(c) for row in rows.values()]) for c in names})
    whole.index = pd.Index(list(rows), name="group_id", dtype=object)
    groups = ad.AnnData(obs=whole, uns=dict(old.uns) if old is not None else {})
    written = [f"obs/{c}" for c in columns]
    if old is not None:
        for place, x in old.obsm.items():
            groups.obsm[place] = _moved(np.asarray(x), old.obs.index, groups.obs.index)
    whole_n = groups.n_obs
    for place in dict.fromkeys([*(old.obsp if old is not None else ()), *found.obsp]):
        if whole_n > MOST_PAIRED:
            break
        pairs = np.full((whole_n, whole_n), np.nan, np.float32)
        if old is not None and place in old.obsp:
            _put_pairs(pairs, np.asarray(old.obsp[place]), old.obs.index.get_indexer(groups.obs.index))
        if place in found.obsp:
            own = (groups.obs["by"].astype(str) == by).to_numpy()
            pairs[own] = np.nan
            pairs[:, own] = np.nan
            _put_pairs(pairs, found.obsp[place], new.index.get_indexer(groups.obs.index))
            written.append(f"obsp/{place}")
        groups.obsp[place] = pairs
    for place, vectors in ((f"X_{key}", found.vectors), (f"X_pca_{key}", found.components)):
        if vectors is None:
            continue
        x = _moved(vectors, new.index, groups.obs.index)
        if place in groups.obsm and groups.obsm[place].shape[1] == x.shape[1]:
            others = (groups.obs["by"].astype(str) != by).to_numpy()[:, None]
            x = np.where(others, groups.obsm[place], x)  # the profiles of another grouping stay
        groups.obsm[place] = x
        written.append(f"obsm/{place}")
    _note(groups, name, {**made, "written": written, "columns": columns})
    project.write_groups(groups)
    return tuple(written)


def _moved(x: np.ndarray, rows: pd.Index, to: pd.Index) -> np.ndarray:
    """Vectors of `rows` at the places of `to`; NaN where there is none."""
    at = rows.get_indexer(to)
    return np.where((at >= 0)[:, None], x[at], np.nan).astype(np.float32)


def _put_pairs(pairs: np.ndarray, known: np.ndarray, at: np.ndarray) -> None:
    """Put what is known of pairs of rows where these rows are now; −1 is a row that was not there."""
    here = np.flatnonzero(at >= 0)
    pairs[np.ix_(here, here)] = known[np.ix_(at[here], at[here])]


def _typed(column: str, values: list[Any]) -> Any:
    """A column of the group table: whole numbers, numbers or categories; every kind may have gaps."""
    empty = [v is None or pd.isna(v) for v in values]
    if column.startswith(
        (
            "n_cells_",
            "n_left_out_",
            "n_profiled_",
            "n_compared_",
            "n_counted_fields_",
            "n_wells_",
            "n_references_",
            "rank_",
        )
    ):
        return pd.array([None if e else int(v) for v, e in zip(values, empty, strict=True)], dtype="Int64")
    kept = [v for v, e in zip(values, empty, strict=True) if not e]
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in kept):
        whole = not any(empty) and all(isinstance(v, int) for v in kept)
        return np.array(
            [np.nan if e else v for v, e in zip(values, empty, strict=True)], int if whole else float
        )
    return pd.Categorical([None if e else str(v) for v, e in zip(values, empty, strict=True)])


def _shared_metadata(obs: pd.DataFrame, by: str, names: pd.Index) -> pd.DataFrame:
    """Columns of the user's with one value in every group, such as a well's compound and its dose."""
    out = pd.DataFrame(index=names)
    groups = obs.groupby(as_text(obs[by]), observed=True)
    for column in users_columns(obs):
        if column != by and (groups[column].nunique() <= 1).all() and obs[column].notna().any():
            out[column] = groups[column].first().reindex(names)
    out["n_fields"] = groups["field"].nunique().reindex(names)
    return out


def _note(table: ad.AnnData, name: str, made: dict[str, Any]) -> None:
    """Write down how a key was made, as JSON, beside what is there."""
    table.uns["cellrep"] = {**dict(table.uns.get("cellrep", {})), name: json.dumps(made, default=str)}


def _all_there(table: ad.AnnData, written: list[str]) -> bool:
    return all(key in getattr(table, place) for place, key in (w.split("/", 1) for w in written))


def library_versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on."""
    from importlib.metadata import version

    from napari_cellrep import __version__

    libraries = ("numpy", "scipy", "scikit-learn", "umap-learn")
    return {"napari-cellrep": __version__, **{p: version(p) for p in libraries}}
