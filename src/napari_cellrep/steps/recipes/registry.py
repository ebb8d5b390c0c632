"""Which recipes there are: their questions, their options, what they look at and where their results go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from napari_cellrep.analysis import (
    comparison,
    labels,
    profiles,
    projection,
)
from napari_cellrep.jobs import Job
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.recipes.annotations import (
    compare_modalities,
    compare_terms,
    find_enriched,
    score_standard,
)
from napari_cellrep.steps.recipes.cells import (
    OUTLIERS,
    compare_with_control,
    dose_column,
    find_outliers,
    mix_of_two,
    order_cells,
    predict_from_others,
    score,
)
from napari_cellrep.steps.recipes.classes import (
    classify_cells,
    learn_from_sets,
)
from napari_cellrep.steps.recipes.groups import (
    compare_fields,
    find_moved,
    find_rare,
    part_groups,
    quality_columns,
    rank_groups,
)
from napari_cellrep.steps.recipes.knowledge import (
    ask_information,
    compare_embeddings,
)
from napari_cellrep.steps.recipes.maps import (
    FITS,
    map_cells,
    neighbour_graph,
)
from napari_cellrep.steps.recipes.profiles import (
    PROFILED,
    profile_groups,
    rank_similar,
)
from napari_cellrep.steps.recipes.treatments import (
    CORRECTIONS,
    profile_treatments,
)
from napari_cellrep.steps.work import (
    Found,
    Work,
    users_columns,
)

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
    "mixture": mix_of_two,
    "kinds": part_groups,
    "order": order_cells,
    "rare": find_rare,
    "fields": compare_fields,
    "moved": find_moved,
    "treatments": profile_treatments,
    "knows": compare_embeddings,
    "information": ask_information,
    "standard": score_standard,
    "enrichment": find_enriched,
    "terms": compare_terms,
    "second": compare_modalities,
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
    "correct": {"label": "Batches", "choices": list(CORRECTIONS),
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
VERSIONS = {
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
FIRST = {
    "rare": "rare_share",
    "fields": "field_highest",
    "moved": "moved_ratio",
    "treatments": "average_precision",
}
TABLES = (
    *FIRST,
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
OF_SCORES = ("variability", "rare", "fields")  # they compare with reference A of the score, or the control
# Of these columns a cell needs a value to be looked at; what learns and what profiles wells say it in their own words.
GROUPING = ("by", "within", "per", "label", "apart", "held_out")


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


def columns_read(work: Work, recipe: str, options: Mapping[str, Any]) -> list[Any]:
    """Columns of the cell table that a recipe looks at with these options; some may not be there."""
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
            dose_column(work, str(options.get("dose", ""))),
        ],
        "variability": [
            options.get("by"),
            f"score_{work.embedding}",
            "field",
            "control",
            options.get("intensity"),
            str(options.get("known")).partition("=")[0].strip(),
            *(quality_columns(work, str(options["quality"])) if options.get("quality") else ()),
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
            *(quality_columns(work, str(options["quality"])) if options.get("quality") else ()),
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
    return reads[recipe]
