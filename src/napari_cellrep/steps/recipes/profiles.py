"""The average cell of each group, and which groups are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    profiles,
    projection,
)
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError
from napari_cellrep.steps.networks import parts_of_training
from napari_cellrep.steps.work import (
    Found,
    Work,
    check_within,
    likeness_of,
    plain,
)

# Which cells a profile is of. All by default: most networks here learn without labels, or from other images, and what they
# were not trained on is then one cell in twenty. PIFiA's profiles are of its test cells.
PROFILED = ("all", "held-out", "test")


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
