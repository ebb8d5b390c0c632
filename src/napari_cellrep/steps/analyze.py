"""Vectors → map, neighbours, score, ranking, outliers: one of the `recipes`, written into the project's tables (`results`)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.cells import embedding_names, map_key, provenance
from napari_cellrep.data.sets import cells_digest, read_sets
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, digest, join_words
from napari_cellrep.steps.networks import parts_of_training
from napari_cellrep.steps.recipes.classes import chosen_sets
from napari_cellrep.steps.recipes.registry import (
    CHOSEN_ONCE,
    GROUPING,
    OF_GROUPS,
    OF_OTHER_THINGS,
    OF_PROJECT,
    OF_SCORES,
    OF_SETS,
    QUESTIONS,
    RECIPES,
    TABLES,
    VERSIONS,
    check_options,
    columns_read,
    describe_recipes,
)
from napari_cellrep.steps.results import (
    all_there,
    in_order,
    put_cells,
    put_groups,
    ranking,
)
from napari_cellrep.steps.work import Work

__all__ = [
    "QUESTIONS",
    "RECIPES",
    "TABLES",
    "AnalyzeResult",
    "analyze",
    "check_options",
    "choose_embedding",
    "describe_recipes",
    "library_versions",
    "out_of_date",
    "ranking",
]


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
    work = _completed(_gather(cells, key, include_flagged), project, recipe, key)
    span = np.ptp(work.x, axis=0)
    if recipe not in OF_OTHER_THINGS and len(work.x) > 1 and (span <= 1e-6 * np.abs(work.x[0])).all():
        raise InputError(
            f"All {len(work.x):,} cells that count have the same numbers in {key.replace('_', ' ')}, so nothing tells them apart."
        )
    stamp = _stamp(work, recipe, options)
    name = f"{recipe}_{key}"
    if options.get("of") or options.get("method", "umap") != "umap":
        name = f"{recipe}_{map_key(key, options['of'], options['method'])}"
    if recipe in OF_GROUPS:
        name += "" if options["by"] == "group" else f"_by_{options['by']}"
        target = project.groups
    else:
        target = cells
    old = provenance(target).get(name, {}) if target is not None else {}
    whole = target is not None and all_there(target, old.get("written", []))
    if old.get("version", 1) > VERSIONS.get(recipe, 1):
        raise InputError(
            f"What {recipe} gave for {key} was written by a newer version (result {old['version']}, this one writes "
            f"{VERSIONS.get(recipe, 1)}) and stays as it is; update napari-cellrep."
        )
    if recipe == "neighbours" and whole:  # the plain names may be another embedding's since
        whole = dict(cells.uns.get("neighbors", {})).get("params", {}).get("use_rep") == f"X_{key}"
    if target is not None and old.get("digest") == stamp and whole:
        yield Progress(1, 1, f"{recipe} of {key} is up to date")
        table = in_order(project, recipe, key, options, old["numbers"])
        summary = f"Up to date, nothing to do. {old['summary']}"
        return AnalyzeResult(recipe, key, summary, tuple(old["written"]), True, old["numbers"], table)

    project.begin_step("analyze")
    found = yield from RECIPES[recipe](work, **options)
    found.summary += _left_out(work, recipe, {**options, "per": found.numbers.get("per", "")})

    made = {
        "recipe": recipe, "version": VERSIONS.get(recipe, 1), "embedding": key, "options": options,
        "include_flagged": include_flagged,
        "n_cells": len(work.x), "summary": found.summary, "numbers": found.numbers, "digest": stamp,
        "made": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"), "versions": library_versions(),
    }  # fmt: skip
    if found.table is not None:
        written = put_groups(project, found, key, str(options["by"]), work.all_obs, name, made)
    else:
        written = put_cells(project, found, work.obs.index, name, made)
    ordered = in_order(project, recipe, key, options, found.numbers)
    table = found.table if ordered is None else ordered
    project.log(
        "analyze", recipe=recipe, embedding=key, options=options, cells=len(work.x), summary=found.summary
    )
    yield Progress(1, 1, found.summary)
    return AnalyzeResult(recipe, key, found.summary, written, False, found.numbers, table)


def out_of_date(project: Project, embedding: str) -> list[str]:
    """Results of an embedding that `analyze` would compute anew: vectors, cells or columns are others than they were.

    Parameters
    ----------
    embedding : str

    Returns
    -------
    list of str
        Names in the provenance of the tables of cells and of groups: "map_measurements".
    """
    found = []
    gathered = functools.cache(lambda flagged: _gather(project.cells, embedding, flagged))
    for table in (project.cells, project.groups):
        for name, made in provenance(table).items() if table is not None else ():
            if not isinstance(made, Mapping) or made.get("embedding") != embedding or "digest" not in made:
                continue
            recipe = made.get("recipe")
            if recipe not in RECIPES or made.get("version", 1) > VERSIONS.get(recipe, 1):
                continue  # of a newer version: nothing is known of what it looked at
            try:
                work = _completed(gathered(bool(made.get("include_flagged"))), project, recipe, embedding)
                same = made["digest"] == _stamp(work, recipe, check_options(recipe, made["options"]))
            except InputError:  # a column or a set that it looked at is gone
                same = False
            if not same:
                found.append(name)
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


def _left_out(work: Work, recipe: str, options: Mapping[str, Any]) -> str:
    """How many cells were left out for want of a value or of whole numbers, as sentences; "" where none was."""
    words = ""
    columns = (
        [str(options[n]) for n in GROUPING if options.get(n)] if recipe not in ("learn", "treatments") else []
    )
    for column in dict.fromkeys(c for c in columns if c in work.obs):
        if n := int(work.obs[column].isna().sum()):
            words += f" Left out: {n:,} of the {len(work.obs):,} cells, which have no value in {column}."
    if work.n_broken:
        words += f" Left out: {work.n_broken:,} cells whose vectors hold infinite numbers, or lack some."
    return words


def _completed(work: Work, project: Project, recipe: str, key: str) -> Work:
    """What was gathered, with what a recipe looks at besides."""
    if recipe in OF_SCORES:
        scored = provenance(project.cells).get(f"score_{key}", {}).get("numbers", {})
        work = dataclasses.replace(work, scored=scored, control=project.comparison["control"])
    if recipe in OF_SETS:
        sets = {name: [str(i) for i in made["cells"]] for name, made in read_sets(project.root).items()}
        work = dataclasses.replace(work, sets=sets)
    if recipe in OF_PROJECT:
        work = dataclasses.replace(work, project=project)
    return work


def _stamp(work: Work, recipe: str, options: Mapping[str, Any]) -> str:
    """Hash of everything a result depends on."""
    return digest(
        {"recipe": recipe, "options": options, "inputs": _fingerprint(work, recipe, options),
         "version": VERSIONS.get(recipe, 1)}
    )  # fmt: skip


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
    seen = columns_read(work, recipe, options)
    h = hashlib.sha256(work.x.tobytes() + (str(work.n_broken).encode() if work.n_broken else b""))
    if work.control:
        h.update(work.control.encode())
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


def library_versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on."""
    from importlib.metadata import version

    from napari_cellrep import __version__

    libraries = ("numpy", "scipy", "scikit-learn", "umap-learn")
    return {"napari-cellrep": __version__, **{p: version(p) for p in libraries}}
