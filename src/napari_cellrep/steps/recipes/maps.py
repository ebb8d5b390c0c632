"""Where cells lie beside each other: the map, and every cell's nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_cellrep.analysis import (
    neighbours,
    projection,
)
from napari_cellrep.data.cells import map_key
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    as_text,
    check_within,
    in_one_part,
)

MIN_MAPPED = 10  # cells
FITS = ("cells", "fields", "groups")  # what a map is made from


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
