"""A class for every cell: learned from named sets, or asked of a network that was taught classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    labels,
    projection,
)
from napari_cellrep.data.classes import MOST_CLASSES
from napari_cellrep.data.sets import cells_digest
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    check_within,
    several,
)


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


_CLASSIFIED_AT_ONCE = 64  # crops


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
