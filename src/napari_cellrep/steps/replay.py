"""What was done before, done again: on the fields added since, or as in another project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from napari_cellrep import registry
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, digest, join_words
from napari_cellrep.steps.analyze import RECIPES, analyze
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed, find_model, weights_digest
from napari_cellrep.steps.segment import segment

LABELS_LOOKED_AT = 200  # how many label files say how cells are made


@dataclass(frozen=True)
class ReplayResult:
    """What was done again.

    Parameters
    ----------
    n_fields, n_cells : int
        Fields that were segmented, or whose cells had no vectors yet, and cells that are new in the table or were theirs.
    embeddings, analyses : tuple of str
        What was brought up to date.
    notes : tuple of str
        What could not be done again, and why.
    problems : dict of str to str
        Field → sentence.
    """

    n_fields: int
    n_cells: int
    embeddings: tuple[str, ...]
    analyses: tuple[str, ...]
    notes: tuple[str, ...]
    problems: dict[str, str]

    @property
    def summary(self) -> str:
        """A sentence for people."""
        words = f"{self.n_cells:,} new cells in {self.n_fields:,} fields"
        if self.embeddings:
            words += f", embedded as {join_words(self.embeddings, 4)}"
        if self.analyses:
            words += f"; done again: {join_words(self.analyses, 6)}"
        return f"{words}."


def new_fields(project: Project) -> list[str]:
    """Fields that can be read and have no labels yet."""
    return [f.id for f in project.fields if f.planes and not project.has_labels(f.id)]


def fields_to_embed(obs: pd.DataFrame) -> list[str]:
    """Fields none of whose cells has a vector, where others have some: they were added since.

    Parameters
    ----------
    obs : DataFrame
        The table of cells.
    """
    told = [c for c in obs if str(c).startswith("has_")]
    if not told:
        return []
    any_vector = obs[told].fillna(False).astype(bool).any(axis=1)
    by_field = any_vector.groupby(obs["field"].astype(str)).any()
    return by_field.index[~by_field].tolist() if by_field.any() else []


def replay(
    project: Project, *, like: Path | str = "", device: str = "auto", analyses: bool = True
) -> Job[ReplayResult]:
    """Do for the fields without labels what was done for the others: segment, flag, embed, analyse.

    What is there stays as it is: only fields without labels are segmented, only cells without vectors embedded.

    Parameters
    ----------
    like : path, optional
        Another project whose settings, models and recipes are taken; default: the project's own.
    device : str
        Where networks run.
    analyses : bool
        Also do maps, scores and rankings again, which then hold the new cells.

    Yields
    ------
    Progress
        Of each step in turn; the job returns a `ReplayResult`.

    Raises
    ------
    InputError
        If the example was never segmented here.
    """
    source = open_project(like) if str(like) else project
    if source.root == project.root:
        source = project
    notes: list[str] = []
    problems: dict[str, str] = {}
    fields, before = new_fields(project), project.cells.n_obs if project.has_cells else 0
    if fields:
        yield Progress(0, len(fields), "Reading how cells were made")
        segmenter, settings = how_cells_were_made(source)
        found = yield from segment(
            project, segmenter=segmenter, config=settings, fields=fields, device=device
        )
        problems.update(found.problems)
    table = set(project.cells.obs["field"].astype(str)) if project.has_cells else set()
    untold = [f.id for f in project.fields if project.has_labels(f.id) and f.id not in table]
    if untold:
        rules = source.last("crop").get("rules", {}) if source is not project else None
        yield from crop(project, rules=rules, fields=untold if table else ())
    # Ready-made crops are cells without having been segmented.
    late = set(fields_to_embed(project.cells.obs)) - {*fields, *untold} if project.has_cells else set()
    n_late = int(project.cells.obs["field"].astype(str).isin(late).sum()) if late else 0
    keys: list[str] = []
    for key in source.embedding_keys():
        why = yield from _embed_again(project, source, key, device)
        (notes if why else keys).append(why or key)
    if source is not project and not any(project.comparison.values()):
        project.set_comparison(**source.comparison)
    recipes: list[str] = []
    for made in _analyses(source) if analyses else []:
        name = f"{made['recipe']} of {made['embedding']}"
        if made["embedding"] not in keys:
            continue
        try:
            yield from analyze(
                project, recipe=made["recipe"], embedding=made["embedding"],
                include_flagged=bool(made.get("include_flagged")), **made["options"],
            )  # fmt: skip
        except InputError as error:
            notes.append(f"Not done again: {name}. {error}")
        else:
            recipes.append(name)
    project.reload()
    n_cells = (project.cells.n_obs if project.has_cells else 0) - before + n_late
    result = ReplayResult(
        len(fields) + len(late), n_cells, tuple(keys), tuple(recipes), tuple(notes), problems
    )
    project.log(
        "replay",
        like=str(like),
        fields=result.n_fields,
        cells=n_cells,
        embeddings=keys,
        analyses=recipes,
        notes=notes,
    )
    return result


def how_cells_were_made(project: Project) -> tuple[str, dict[str, Any]]:
    """Segmenter and settings that made most of a project's labels.

    Raises
    ------
    InputError
        If there are no labels, or none was made by a segmenter of ours.
    """
    votes: Counter[str] = Counter()
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    labelled = [f.id for f in project.fields if project.has_labels(f.id)]
    for field in labelled[:: max(1, len(labelled) // LABELS_LOOKED_AT)]:
        info = project.label_info(field)
        if info.get("segmenter") in registry.names("segmenters") and "settings" in info:
            stamp = digest([info["segmenter"], info["settings"]])
            known[stamp] = (info["segmenter"], info["settings"])
            votes[stamp] += 1
    if not votes:
        raise InputError(
            f"{project.name} does not say how its cells were made, so it cannot be done again: segment the new fields "
            "yourself (card 2, or cellrep segment)."
        )
    return known[votes.most_common(1)[0][0]]


def _embed_again(project: Project, source: Project, key: str, device: str) -> Job[str]:
    """Bring one embedding up to date, as it was made; returns why that cannot be done, or ""."""
    info = source.embedding_info(key)
    if info.get("model") not in registry.names("models"):
        return f"{key} came from a table of numbers; add a table with the new cells the same way."
    config = None if info.get("trained") else dict(info.get("config") or {})
    yield Progress(0, 0, f"Loading the model of {key}")
    model = _same_weights(source, key, info, config)
    if model is None:
        return f"{key} was not brought up to date: the weights it was made with are not here any more."
    channels = () if config and "channels" in config else _same_channels(project, source, info)
    own = (
        {k: v for k, v in (info.get("config") or {}).items() if k != "channels"}
        if info.get("trained")
        else None
    )
    yield from embed(
        project, model=model, config=config, settings=own, key=key, layers=(info["layer"],) if info.get("layer") else (),
        channels=channels, crop=dict(info.get("crop") or {}), device=device,
    )  # fmt: skip
    return ""


def _same_weights(
    source: Project, key: str, info: dict[str, Any], config: dict[str, Any] | None
) -> str | None:
    """What `embed` has to be told to get the very weights an embedding was made with; None if they are gone."""
    base = key.partition(".")[0]
    folders = sorted((source.root / "models").glob("*/model.json"), key=lambda p: p.parent.name != base)
    names: list[str] = [info["published"]] if info.get("published") else []
    names += [str(path.parent) for path in folders] if info.get("trained") else [info["model"]]
    for name in names:
        try:
            net, _ = find_model(source, name, config=config)
        except (InputError, KeyError, OSError, ValueError):
            continue  # half a model, or one of another version: not the one that is looked for
        if net.spec.name == info["model"] and weights_digest(net) == info.get("weights"):
            return name
    return None


def _same_channels(project: Project, source: Project, info: dict[str, Any]) -> Sequence[str]:
    """The channels an embedding saw, by the project's own names; () leaves them to the model's roles."""
    names = list(info.get("channels") or ())
    if not names or "" in names:
        return ()
    mine = {c.name for c in project.channels}
    roles = {c.name: c.role for c in source.channels}
    return [name if name in mine else roles.get(name, name) for name in names]


def _analyses(project: Project) -> list[dict[str, Any]]:
    """How every analysis of a project was made, in the order they were."""
    made: list[dict[str, Any]] = []
    for table in (project.cells if project.has_cells else None, project.groups):
        if table is not None:
            made += [m for m in provenance(table).values() if m.get("recipe") in RECIPES]
    return sorted(made, key=lambda m: str(m.get("made", "")))
