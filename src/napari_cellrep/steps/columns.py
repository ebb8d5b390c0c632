"""What every column of the tables says, in words, with its unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from napari_cellrep.data import Project
from napari_cellrep.data.cells import MAP_PREFIXES, embedding_names
from napari_cellrep.steps.export import flat_table
from napari_cellrep.steps.work import users_columns

YOURS = "yours: from the table, the file names or the image files"
COMPUTED = "computed by an analysis; the history says which were run"
_Z = "z-scored over all cells that count"

CELLS = {
    "cell_id": "the cell's name everywhere, FIELD:NUMBER",
    "field": "the image it is in",
    "label": "its number in the label image of its field",
    "group": "cells of one group count as alike (plate and well, unless chosen otherwise)",
    "y_px": "centre of its outline, pixels from the top of the field",
    "x_px": "centre of its outline, pixels from the left of the field",
    "box_y0": "first row of its outline, pixels",
    "box_x0": "first column of its outline, pixels",
    "box_y1": "row after the last one of its outline, pixels",
    "box_x1": "column after the last one of its outline, pixels",
    "area_px": "area inside its outline, pixels",
    "mask_hash": "fingerprint of its outline: another number after an edit",
    "q_window_over_edge": "whether the window cut about it reaches over the edge of the image",
    "q_area_share": "its area as a share of that window's",
    "q_saturated_share": "share of its pixels at the camera's largest count, in the channel with most of them",
    "q_focus": "sharpness: log of the steepest slope of the nucleus channel over its contrast; smaller is more blurred",
    "q_signal": "protein signal over the background, in SDs of the field's noise",
    "q_signal_share": "protein signal over the background, as a multiple of the field's median cell's",
    "q_field_focus": "median q_focus of its field",
    "q_field_saturated": "share of the field's pixels at the camera's largest count, in the channel with most of them",
    "q_field_contrast": "how far the brightest thousandth of the dimmest channel is above the field's median, in SDs of noise",
    "flags": "what is wrong with it; several are parted by a semicolon",
    "good": "whether it has no flag; others are left out of rankings",
}  # fmt: skip
# What an analysis says of a cell; the name of the embedding follows.
OF_CELLS = {
    "has": "whether it has a vector",
    "score": "ln of its distance to A over its distance to B, {z}: below 0 it is closer to A, above 0 to B",
    "outlier": "how unusual it is: mean distance to its nearest neighbours, or as the analysis was told",
    "unlike": "how unlike the control it is: mean distance to the nearest cells of the control",
    "mixing": "how much of B is in it: 0 is A, 1 is B",
    "time": "its place along an order from the root, by diffusion: pseudotime, without unit",
    "kind": "which of the kinds of cells found within its group it is, by number",
    "taught": "the set in the window that it is in",
    "predicted": "the set that it is predicted to be in",
    "sure": "how sure that prediction is, 0 to 1",
    "predicted_class": "the class that the network takes it for",
    "sure_class": "how probable that class is, 0 to 1",
    "inpainting_mse": "mean squared error of its protein as predicted from other cells",
    "inpainting_mae": "mean absolute error of its protein as predicted from other cells",
}  # fmt: skip
_CHANCE = "what as many cells of the reference groups show by chance"
_P = "how often chance gives as much or more (p-value)"
_FDR = "that p-value, corrected for the number of groups (FDR)"
GROUPS = {
    "by": "the column whose values the groups are",
    "name": "the value, the group's name",
    "n_fields": "number of its fields",
}
# What an analysis says of a group; the name of the embedding follows, but in the ranking.
OF_GROUPS = {
    "n_cells": "cells that count in the ranking",
    "n_left_out": "its cells that do not: flagged, or without a vector",
    "score_mean": "mean of its cells' scores (see score)",
    "score_sd": "SD of its cells' scores",
    "score_sd_low": "lower end of the 95 % bootstrap interval of score_sd",
    "score_sd_high": "upper end of the 95 % bootstrap interval of score_sd",
    "rank_score_sd": "rank by score_sd; 1 varies most, no rank: too few cells",
    "score_sd_expected": f"score_sd: {_CHANCE}",
    "score_sd_p": f"score_sd: {_P}",
    "score_sd_p_fdr": f"score_sd: {_FDR}",
    "heterogeneity": "mean over all features of the SD over its cells; features are {z}",
    "rank_heterogeneity": "rank by heterogeneity; 1 varies most, no rank: too few cells",
    "heterogeneity_expected": f"heterogeneity: {_CHANCE}",
    "heterogeneity_p": f"heterogeneity: {_P}",
    "heterogeneity_p_fdr": f"heterogeneity: {_FDR}",
    "pairwise_distance": "mean cosine distance of all pairs of its cells, 0 (alike) to 2",
    "n_references": "reference groups that are as bright",
    "intensity_cv": "coefficient of variation of its cells' intensity: SD as a share of the mean",
    "intensity_cv_expected": f"intensity_cv: {_CHANCE}",
    "intensity_cv_p": f"intensity_cv: {_P}",
    "intensity_cv_p_fdr": f"intensity_cv: {_FDR}",
    "n_profiled": "cells that its profile is the average of",
    "distance": "how unlike the group that was asked for it is: 1 − correlation of the mean profiles, unless told otherwise",
    "n_compared": "its cells in that comparison",
    "rare_share": "share of its cells that are odder than nearly all reference cells",
    "rare_p": f"rare_share: {_P}",
    "rare_p_fdr": f"rare_share: {_FDR}",
    "rare_upper": "share of its cells in the upper one of two normal distributions; 0 where one describes them as well",
    "rank_rare": "rank by rare_share; 1 has most, no rank: too few cells",
    "field_highest": "spread of the cells of its most variable field",
    "field_expected": "that of as many fields of the reference groups, of the same sizes, by chance",
    "field_p": f"field_highest: {_P}",
    "field_p_fdr": f"field_highest: {_FDR}",
    "n_counted_fields": "its fields with enough cells",
    "moved_shift": "distance of its means under the two conditions",
    "moved_expected": "that distance with the conditions exchanged at random",
    "moved_ratio": "moved_shift as a multiple of moved_expected",
    "moved_p": f"moved_shift: {_P}",
    "moved_p_fdr": f"moved_shift: {_FDR}",
    "n_wells": "wells that its profile is the average of",
    "average_precision": "how well its wells find one another among those of the control, 0 to 1",
    "average_precision_p": f"average_precision: {_P}",
    "average_precision_p_fdr": f"average_precision: {_FDR}",
    "agreement": "median correlation of its wells' profiles",
}  # fmt: skip


def group_words(column: str) -> str:
    """What a column of the ranking says; its name without the embedding's."""
    return OF_GROUPS[column].format(z=_Z)


def explain(project: Project) -> dict[str, dict[str, str]]:
    """The columns of each table that there is, in the table's order, each with what it says.

    Returns
    -------
    dict of str to dict of str to str
        "cells", as `steps.export` writes them into CSV and parquet, and "groups": column → words.
    """
    if not project.has_cells:
        return {}
    cells = project.cells
    keys, yours = embedding_names(cells), users_columns(cells.obs)
    found = {"cells": _explained(["cell_id", *flat_table(cells).columns], CELLS, OF_CELLS, keys, yours)}
    if project.groups is not None:
        found["groups"] = _explained(project.groups.obs.columns, GROUPS, OF_GROUPS, keys, yours)
    return found


def _explained(
    columns: Iterable[str],
    own: Mapping[str, str],
    computed: Mapping[str, str],
    keys: Sequence[str],
    yours: Sequence[str],
) -> dict[str, str]:
    words = dict.fromkeys(yours, YOURS) | dict(own)
    words |= {
        f"{what}_{key}": f"{says.format(z=_Z)} ({key})" for what, says in computed.items() for key in keys
    }
    words |= {
        f"{prefix.removeprefix('X_')}{key}_{axis}": f"place on the map, axis {axis}; distances have no unit ({key})"
        for prefix in MAP_PREFIXES for key in keys for axis in (1, 2)
    }  # fmt: skip
    return {column: words.get(column, COMPUTED) for column in columns}
