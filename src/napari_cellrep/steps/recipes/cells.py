"""A number for every cell: between two references, in an order, how odd, how unlike the control, how predictable."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.analysis import (
    information,
    localisation,
    mixtures,
    outliers,
    plate,
    projection,
)
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    as_text,
    between,
    check_within,
    members_of,
    two_references,
    users_columns,
)

OUTLIERS = {
    "neighbours": "by the mean distance to the nearest of them",
    "lof": "by how much lonelier they are than their neighbours (local outlier factor)",
    "own": "by the distance from their middle in their own spread",
}


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
    assay, words = assay_quality(work, values, is_a, is_b, by, dose)
    return Found(
        summary=summary + words,
        obs={f"score_{work.embedding}": values},
        numbers={"a": a, "b": b, "per": by, "n_scored": scored, "not_scored": left_out, "assay": assay},
    )


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
