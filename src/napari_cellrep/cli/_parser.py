"""What can be typed: every command with its options and its help."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_cellrep import __version__, registry
from napari_cellrep.cli._arguments import (
    _channels_argument,
    _config_arguments,
    _crop_arguments,
    _device_arguments,
    _estimate_argument,
    _fields_argument,
    _import_arguments,
    _model_argument,
    _peek,
    _project_argument,
    _runs,
    _settings_of,
    _shard,
)
from napari_cellrep.cli._compute import (
    _analyze,
    _embed,
    _segment,
    _train,
)
from napari_cellrep.cli._export import (
    EXPORTS,
    _export,
)
from napari_cellrep.cli._look import (
    _believe,
    _look,
)
from napari_cellrep.cli._models import (
    _fetch,
    _models,
    _recommend,
)
from napari_cellrep.cli._projects import (
    _add,
    _compare,
    _demo,
    _illumination,
    _info,
    _metadata,
    _new,
    _relocate,
    _replay,
    _undo,
    _unlock,
    _view,
)
from napari_cellrep.jobs import Shard


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellrep",
        description="Which of my cells look different, and how? Segment cells, describe each by numbers, compare them.",
        epilog="A project is a folder, <name>.cellrep. Start with: cellrep demo OUT",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, action: Callable[[argparse.Namespace], None], text: str, **kwargs: Any
    ) -> argparse.ArgumentParser:
        # No abbreviations: a shortened --segmenter would bring the settings of another segmenter.
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **kwargs)
        sub.set_defaults(run=action)
        sub.add_argument(
            "--debug", action="store_true", help="on an error, show where in the program it happened"
        )
        return sub

    demo = add("demo", _demo, "Run everything on the bundled sample: project, map, ranking and report.")
    demo.add_argument(
        "out", nargs="?", default="demo-out", type=Path, help="folder for the results (default: demo-out)"
    )
    demo.add_argument("--view", action="store_true", help="open napari on the result")
    demo.add_argument("--seed", type=int, default=0, help="seed of weights and training (default 0)")
    demo.add_argument("--seconds", type=float, default=105, help="time for training (default 105)")

    new = add("new", _new, "Make a project of your images.")
    new.add_argument("project", type=Path, help="the folder to make, NAME.cellrep")
    new.add_argument(
        "images", nargs="+", help="images, or folders of images (TIFF, OME-TIFF, OME-Zarr, PNG, JPEG)"
    )
    new.add_argument(
        "--channels",
        default="",
        metavar="A,B,…",
        help='channels in plane order: names, roles or name:role, for example "FKHR-GFP:protein,DNA:nucleus"',
    )
    new.add_argument(
        "--group-by",
        default="",
        metavar="A,B",
        help="columns whose fields hold cells that count as alike (default: plate and well, else the field)",
    )
    new.add_argument(
        "--crops",
        action="store_true",
        help="the images are ready-made crops, one cell each: folders, zips, or npz, npy and HDF5 files; the table has a row "
        "per cell (default: the one beside them)",
    )
    _import_arguments(new, argv)

    more = add(
        "add", _add,
        "Add images to a project (crops to one of crops): next week's plate, read by the same rules.",
    )  # fmt: skip
    _project_argument(more)
    more.add_argument("images", nargs="+", help="images, or folders of images")
    more.add_argument(
        "--channels", default="", metavar="A,B,…", help="where the new files name their channels differently"
    )
    _import_arguments(more, argv)
    more.set_defaults(stack="")  # as in the project's own import

    known = add(
        "metadata", _metadata, "Give a project another table of what is known of its fields; cells stay."
    )
    _project_argument(known)
    known.add_argument(
        "table", type=Path, help="CSV, Excel or parquet with a row per well, file, field or cell (cell_id)"
    )
    known.add_argument(
        "--on",
        default="",
        help="column that says which field a row is of, or several: plate+well (default: found out)",
    )
    known.add_argument(
        "--add",
        action="store_true",
        help="keep what earlier tables said of other columns (default: the new table replaces them)",
    )

    replay = add(
        "replay", _replay,
        "Do for the fields without labels what was done for the others: segment, flag, embed, analyse.",
    )  # fmt: skip
    _project_argument(replay)
    replay.add_argument("--like", default="", metavar="OTHER.cellrep", help="do it as in another project")
    replay.add_argument(
        "--no-analyses", action="store_true", help="leave maps, scores and rankings as they are"
    )
    replay.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")

    segment = add("segment", _segment, "Find the cells of every field, and what is wrong with each cell.")
    _project_argument(segment)
    _fields_argument(segment)
    segment.add_argument(
        "--segmenter", default="nuclei", choices=registry.names("segmenters"), help="default: nuclei"
    )
    segment.add_argument(
        "--overwrite", action="store_true", help="segment again what is up to date or edited by hand"
    )
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    segment.add_argument(
        "--shard",
        type=_shard,
        default=Shard(),
        metavar="I/N",
        help="only the I-th of N parts of the fields",
    )
    segment.add_argument(
        "--window-px",
        type=int,
        default=0,
        help="side of the window cut about each cell, for its flags and later for the models (default 64, "
        "or as the last time); take about three times a nucleus",
    )
    segment.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="when a cell is flagged, for example debris_share=0.2; may be given several times",
    )
    _estimate_argument(segment)
    _config_arguments(segment, "segmenters", _peek(argv, "segment", "--segmenter", "nuclei"), "Config")

    train = add("train", _train, "Train a model on the project's own cells.")
    _project_argument(train)
    _model_argument(train, "paired_cell_inpainting", trainable=True)
    train.add_argument("--name", default="", help="what the trained model is called (default: as the model)")
    train.add_argument(
        "--restart", action="store_true", help="begin anew instead of going on from the last checkpoint"
    )
    train.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "on", "off"),
        help="compile the network (default: in long trainings on CUDA, if a trial shows that it pays)",
    )
    train.add_argument("--include-flagged", action="store_true", help="train on flagged cells too")
    _fields_argument(train)
    train.add_argument(
        "--where",
        default="",
        metavar="FILTER",
        help='only cells of which this is true, for example "dose_rank < 3"',
    )
    train.add_argument(
        "--set", default="", metavar="NAME", help="only the cells of a set saved in the window"
    )
    train.add_argument(
        "--labels",
        default="",
        metavar="COLUMN",
        help="for deeploc: the column of the cell table that holds each cell's class",
    )
    train.add_argument(
        "--weights",
        default="",
        metavar="NAME|PATH",
        help="start from these weights: a model trained in this project, published weights, or a file",
    )
    train.add_argument(
        "--seeds",
        default="",
        metavar="0,1,2",
        help="train once from each seed and keep the best by held-out loss",
    )
    train.add_argument(
        "--learning-rates",
        default="",
        metavar="1e-3,3e-4",
        help="train once with each and keep the best by held-out loss; with --seeds: every pair of them",
    )
    train.add_argument(
        "--preset",
        default="",
        help="small: settings of ours for few cells (default: the paper's recipe); single settings go before it",
    )
    train.add_argument(
        "--finish", action="store_true", help="do no further step: make the model of the last checkpoint"
    )
    _estimate_argument(train)
    _channels_argument(train)
    _crop_arguments(train)
    _device_arguments(train)
    chosen = _peek(argv, "train", "--model", "paired_cell_inpainting")
    taken = _config_arguments(train, "models", chosen, "Training")
    _config_arguments(train, "models", chosen, "Config", but=taken)

    embed = add("embed", _embed, "Describe every cell by the numbers of a model.")
    _project_argument(embed)
    _fields_argument(embed)
    embed.add_argument(
        "--model",
        default="",
        metavar="A,B",
        help="a model trained in this project, a path to weights, or a model's name (default: paired_cell_inpainting); "
        "several read each field once",
    )
    embed.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="published weights that were fetched, by their name (`cellrep models` lists them)",
    )
    embed.add_argument("--key", default="", help="what the embedding is called (default: as the model)")
    embed.add_argument(
        "--layers", default="", metavar="A,B", help='layers to read out, or "all" (default: the model\'s own)'
    )
    embed.add_argument("--batch-size", type=int, default=0, help="cells at a time (default: found out)")
    embed.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the network that leaves its weights as they are, for example channel_mode=mean or "
        "scaling=rescale of microsnoop; may be given several times",
    )
    _estimate_argument(embed)
    table = embed.add_argument_group(
        "instead of a model, numbers from elsewhere (CellProfiler, published features)"
    )
    table.add_argument(
        "--features",
        default="",
        metavar="TABLE",
        help="CSV or parquet with one row per cell; becomes an embedding",
    )
    table.add_argument(
        "--on",
        default="",
        metavar="A=B,…",
        help="columns that say which cell a row is of, table's=project's, for example "
        "Metadata_Well=well,ObjectNumber=label (default: cell_id, else field and label; field_number is the place of a "
        "field in the project, from 1)",
    )
    table.add_argument(
        "--columns",
        default="",
        metavar="A,B*",
        help="columns that are features (default: all numbers but those that count or place cells)",
    )
    embed.add_argument(
        "--shard",
        type=_shard,
        default=Shard(),
        metavar="I/N",
        help="only the I-th of N parts of the fields",
    )
    embed.add_argument(
        "--whole-fields",
        nargs="?",
        const="auto",
        default="",
        choices=("auto", "tile", "rescale"),
        help="describe whole fields instead of cells: by the model's own tiles, or the field shrunk to its input "
        "(default: tiles where the model has them)",
    )
    _channels_argument(embed)
    _crop_arguments(embed)
    _device_arguments(embed)

    analyze = add(
        "analyze",
        _analyze,
        "Map, score and rank the cells.",
        epilog=_recipe_help(argv),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _project_argument(analyze)
    analyze.add_argument("recipe", help="what to ask; listed below")
    analyze.add_argument("--embedding", default="", help="which embedding (default: the only one)")
    analyze.add_argument("--include-flagged", action="store_true", help="use flagged cells too")
    analyze.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the recipe; may be given several times",
    )
    analyze.add_argument(
        "--group", default="", metavar="NAME", help='short for --set group=NAME, of "similar"'
    )
    analyze.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the ranked groups there, of variability and similar"
    )

    doubt = add(
        "believe", _believe,
        "Would a reviewer believe that a cell is odd, or that a group's cells differ? Try what speaks for and against it.",
    )  # fmt: skip
    _project_argument(doubt)
    whom = doubt.add_mutually_exclusive_group(required=True)
    whom.add_argument("--cell", metavar="ID", help="the cell, by its id in the cell table")
    whom.add_argument("--group", metavar="NAME", help="the group whose cells differ, by its name")
    doubt.add_argument(
        "--by", default="group", metavar="COLUMN", help="the column that makes groups (--group)"
    )
    doubt.add_argument(
        "--score",
        action="store_true",
        help="ask whether the group varies between A and B, not by all features",
    )
    doubt.add_argument("--embedding", default="", help="the one it is odd in (default: the only one)")
    doubt.add_argument("--json", action="store_true", help="print the numbers for a program")
    doubt.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")

    looking = add(
        "look", _look,
        "What does a network make of a cell? Where it looks, what it needs, how it redraws the cell: a figure or arrays.",
    )  # fmt: skip
    _project_argument(looking)
    looking.add_argument(
        "--cell", nargs="+", metavar="ID", default=(), help="cells, by their ids in the cell table"
    )
    looking.add_argument(
        "--what", required=True,
        choices=(
            "attention", "heads", "occlusion", "classes", "reconstruction", "tokens", "structure", "apart", "inpainting",
            "patterns", "axis",
        ),
        help="attention: where it looks (DINO); heads: which channel each head looks at, as a table and a figure; "
        "occlusion: how far its numbers move when a part is hidden (any network); "
        "classes: how probable each class is, and what speaks for one (DeepLoc); "
        "reconstruction: how it redraws the cell (Microsnoop, autoencoder); tokens: its patches as colours, the same in all "
        "cells (DINO); structure: what is like the patch at a place (DINO); "
        "apart: which patches tell two sets apart (DINO); inpainting: every source's pattern predicted in "
        "every target (Paired Cell Inpainting); patterns: those of many sources in one target, their mean and where they "
        "disagree (Paired Cell Inpainting); axis: a group's cells along what they differ in most, and what changes",
    )  # fmt: skip
    looking.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help=".png, .svg or .pdf: a figure; .npz: arrays; .csv: heads",
    )
    looking.add_argument(
        "--embedding", default="", help="whose network (default: that of the only embedding)"
    )
    looking.add_argument(
        "--ratio",
        type=float,
        metavar="X",
        help="reconstruction: the fraction of patches to hide, of all in the network's window (default: as in its training)",
    )
    looking.add_argument(
        "--mask-seed",
        type=int,
        metavar="N",
        help="reconstruction: another number hides other patches (default: 0)",
    )
    looking.add_argument(
        "--of", metavar="CLASS", help="classes: whose evidence (default: the most probable one's)"
    )
    looking.add_argument(
        "--first", type=int, metavar="N", help="tokens: 2 for components 2 to 4 instead of 1 to 3"
    )
    looking.add_argument(
        "--stride",
        type=int,
        metavar="PX",
        help="tokens, structure: from patch to patch (default: patches do not overlap)",
    )
    looking.add_argument(
        "--at",
        type=float,
        nargs=2,
        metavar=("Y", "X"),
        help="structure: a pixel of the field, in the crop of the first cell",
    )
    looking.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="heads: this many cells drawn at random instead of --cell (default: 50); patterns: this many of the sources",
    )
    looking.add_argument(
        "--sources", nargs="+", metavar="ID", help="inpainting, patterns: cells whose patterns are predicted"
    )
    looking.add_argument(
        "--targets",
        nargs="+",
        metavar="ID",
        help="inpainting, patterns (one): cells in which they are, of any field",
    )
    looking.add_argument(
        "--sets", nargs=2, metavar=("A", "B"), help="apart: two sets saved in the window, by their names"
    )
    looking.add_argument(
        "--group",
        metavar="NAME",
        help="axis: the group, by its name; patterns: its good cells are the sources",
    )
    looking.add_argument(
        "--by", metavar="COLUMN", help="axis, patterns: the column that makes groups (default: group)"
    )
    looking.add_argument("--json", action="store_true", help="print the numbers for a program")
    looking.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")

    compare = add(
        "compare", _compare,
        "Choose the groups that analyses compare, once for all of them; without options, tell them.",
    )  # fmt: skip
    _project_argument(compare)
    for option, text in (
        ("--a", "cells known to look one way"), ("--b", "cells known to look the other way"),
        ("--control", "cells that are normal, such as untreated ones"),
    ):  # fmt: skip
        compare.add_argument(
            option, default=None, metavar="COLUMN=VALUE", help=f"{text}; empty takes it back"
        )

    export = add(
        "export", _export, "Write results for other programs: tables, crops, a report, a project to share."
    )
    _project_argument(export)
    export.add_argument(
        "out",
        type=Path,
        help="file or folder to write; its ending decides: .h5ad, .zarr, .csv, .parquet, .html (report), .txt (methods), "
        ".png, .svg, .pdf (a map), .cellrep (the project without its images)",
    )
    export.add_argument(
        "--format",
        default="",
        choices=("", *EXPORTS),
        help="when the ending does not say it: crops (a folder of OME-TIFFs), crops-zarr (one sharded zarr), spatialdata "
        "(images, labels and table; extra napari-cellrep[spatialdata]), ranking (CSV), groups (the group table with profiles "
        "and likeness: .h5ad, .csv), likeness (correlation of each two groups: .csv, or a clustered heat map: .png, .svg, "
        ".pdf), …",
    )
    export.add_argument(
        "--embedding",
        default="",
        help="only these numbers (default: all); of crops: cut as its network saw the cells; of methods, report, likeness, "
        "ranking and map: what they are about",
    )
    export.add_argument(
        "--map",
        default="umap",
        metavar="MAP",
        help=".png, .svg, .pdf: which map, umap, densmap, tsne or a key",
    )
    export.add_argument(
        "--colour",
        default="",
        metavar="COLUMN",
        help='of a map: the kernel density of this column\'s values over the points; "place has cytosol" parts cells by one of '
        "several values",
    )
    export.add_argument(
        "--values", default="", metavar="A,B", help="which of them; by default the most frequent"
    )
    export.add_argument("--keep-missing", action="store_true", help="keep cells without a vector (as NaN)")
    export.add_argument(
        "--include-flagged", action="store_true", help="crops, spatialdata: write flagged cells too"
    )
    export.add_argument("--set", default="", metavar="NAME", help="crops: only the cells of this set")
    export.add_argument(
        "--per",
        default="group",
        choices=("group", "cell"),
        help="crops: one file per group (default) or per cell",
    )
    export.add_argument(
        "--window-px",
        type=int,
        default=0,
        metavar="N",
        help="crops: side of the window (default: the project's)",
    )
    export.add_argument(
        "--no-labels", action="store_true", help="project: leave the outlines of the cells out as well"
    )

    lit = add(
        "illumination", _illumination,
        "Even out the illumination of the images when they are read, per plate and channel; the files stay as they are.",
    )  # fmt: skip
    _project_argument(lit)
    lit.add_argument(
        "--functions",
        nargs="+",
        default=(),
        metavar="PATH",
        help="functions that CellProfiler made (.npy, .tif): files or folders, found by channel and plate in their names "
        "(default: estimated from the project's fields)",
    )
    lit.add_argument(
        "--operation",
        default="divide",
        choices=("divide", "subtract"),
        help="as in CellProfiler (default: divide)",
    )
    lit.add_argument("--off", action="store_true", help="read the images as they are in their files again")
    lit.add_argument(
        "--preview",
        type=Path,
        metavar="FILE",
        help="change nothing; draw a field before and after into a picture (.png, .svg, .pdf)",
    )
    lit.add_argument("--field", default="", help="the field of --preview (default: the first)")

    undo = add(
        "undo", _undo, "Take back what the last step wrote: segmenting, embedding, an analysis or an edit."
    )
    _project_argument(undo)

    unlock = add(
        "unlock", _unlock,
        "Free a project on a network share from a process of another computer that does not run any more.",
    )  # fmt: skip
    _project_argument(unlock)

    moved = add("relocate", _relocate, "Find images that were moved or renamed; nothing is computed again.")
    _project_argument(moved)
    moved.add_argument(
        "folder",
        nargs="?",
        default="",
        help="where the images are now, or a folder above (default: look beside the project and the old place)",
    )

    info = add("info", _info, "Tell what a project (or a trained model) holds and how it was made.")
    info.add_argument(
        "path", type=Path, help="a project folder, a model folder, or the name of published weights"
    )

    models = add("models", _models, "List the models and published weights, what each wants and its licence.")
    actions = models.add_subparsers(title="more", metavar="ACTION")
    fetch = actions.add_parser(
        "fetch", help="download published weights", allow_abbrev=False,
        description="Download published weights from their authors' host, after showing their licence. They are kept "
        "in $CELLREP_WEIGHTS (default: in torch's cache) and then used by name: cellrep embed PROJECT --weights NAME.",
    )  # fmt: skip
    fetch.add_argument("name", help="as `cellrep models` lists it, for example pci-yeast")
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="take the files from a folder, without a network",
    )
    fetch.add_argument("--yes", action="store_true", help="accept the licence without being asked")
    fetch.set_defaults(run=_fetch)
    recommend = actions.add_parser(
        "recommend", help="say which model suits a project", allow_abbrev=False,
        description="Say in words which model suits a project's channels, groups and number of cells.",
    )  # fmt: skip
    _project_argument(recommend)
    recommend.set_defaults(run=_recommend)
    for action in (fetch, recommend):
        action.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)

    view = add("view", _view, "Open napari on a project.")
    _project_argument(view)
    return parser


def _recipe_help(argv: Sequence[str]) -> str | None:
    if not _runs(argv, "analyze"):  # scikit-learn takes a second to import
        return None
    from napari_cellrep.steps.analyze import RECIPES

    lines = ["recipes and their settings:"]
    for name, function in RECIPES.items():
        lines.append(f"  {name:<12} {(inspect.getdoc(function) or '').splitlines()[0]}")
        settings = _settings_of(function)
        if settings:
            lines.append(f"  {'':<12}   settings: {', '.join(f'{k}={v}' for k, v in settings.items())}")
    return "\n".join(lines)
