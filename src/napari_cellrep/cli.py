"""``cellrep …``: parse, run the step, show progress. The same steps as the window, in this process."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from napari_cellrep import __version__, registry
from napari_cellrep.jobs import Job, Progress, Shard, drain
from napari_cellrep.specs import InputError, ModelSpec, Weights, field_rules, join_words, read_numbers

R = TypeVar("R")

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 130 stopped, 1 a fault of ours)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        args = _parser(argv).parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return OK
    except KeyboardInterrupt:
        if _speaks():
            print(
                "cellrep: stopped. What was finished is kept; run the same command to go on.", file=sys.stderr
            )
        return STOPPED
    except InputError as error:
        return _fail(str(error), BAD_INPUT, debug)
    except OSError as error:
        return _fail(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.", BAD_INPUT, debug
        )
    except Exception as error:  # noqa: BLE001  (a person at a terminal gets a sentence, not a stack)
        text = f"something went wrong that should not have ({type(error).__name__}: {error}); --debug shows where."
        return _fail(text, FAILED, debug)
    return OK


def _fail(sentence: str, code: int, debug: bool) -> int:
    if not _speaks():
        return code
    if debug:
        traceback.print_exc()
    print(f"cellrep: {sentence}", file=sys.stderr, flush=True)
    return code


def _speaks() -> bool:
    """Whether this process says how it ended: of those that torchrun started, the first one to end so."""
    if "LOCAL_RANK" not in os.environ:
        return True
    from napari_cellrep.models._processes import first_to_fail

    return first_to_fail()


def run(job: Job[R], quiet: bool = False) -> R:
    """Drive a job: a bar on a terminal, plain lines in a log."""
    return drain(job, None if quiet else (_Bar() if sys.stderr.isatty() else _Lines()))


class _Bar:
    """A progress bar for a terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=0, leave=False, dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} · {remaining} left{postfix}",
        )  # fmt: skip

    def __call__(self, p: Progress) -> None:
        if p.total != self._bar.total:
            self._bar.reset(p.total)
        self._bar.set_description(p.message, refresh=False)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in p.metrics.items()}, refresh=False)
        self._bar.update(p.done - self._bar.n)
        if p.done >= p.total:
            self._bar.clear()


class _Lines:
    """At most one line every few seconds, for logs."""

    def __init__(self, every_s: float = 5.0):
        self._every, self._last, self._message = every_s, 0.0, ""

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= self._every or (p.total and p.done == p.total):
            self._last = now
            numbers = "".join(f", {k} {v:.4g}" for k, v in p.metrics.items())
            count = f" ({p.done:,} of {p.total:,}{numbers})" if p.total else ""
            print(f"{p.message or 'Working'}{count}", file=sys.stderr, flush=True)


# ---- what can be typed -----------------------------------------------------------------------------


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


def _peek(argv: Sequence[str], command: str, option: str, default: str) -> str:
    """The value of `option` where `command` is being run: its settings become options too. "" for other commands."""
    if not _runs(argv, command):
        return ""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return default


def _runs(argv: Sequence[str], command: str) -> bool:
    """Whether `command` is what is being run."""
    return next((word for word in argv if not word.startswith("-")), "") == command


def _config_arguments(
    parser: argparse.ArgumentParser, kind: str, name: str, cls: str, but: Sequence[str] = ()
) -> list[str]:
    """One option per field of a config dataclass; returns their names."""
    if not name or name not in registry.names(kind) or not hasattr(registry.load(kind, name), cls):
        return []
    what = {"Config": f"settings of {name}", "Training": f"how {name} is trained"}[cls]
    group = parser.add_argument_group(what)
    rules = field_rules(getattr(registry.load(kind, name), cls))
    taken = {option for action in parser._actions for option in action.option_strings}
    for key, rule in rules.items():
        if key in but or f"--{key.replace('_', '-')}" in taken:
            continue
        text = rule.get("help") or rule.get("label", key)
        default = ",".join(rule["default"]) if rule["type"] == "tuple" else rule["default"]
        if default != "":
            text = f"{text} (default {default})"
        choices = "|".join(map(str, rule.get("choices", ())))
        group.add_argument(
            f"--{key.replace('_', '-')}", dest=f"{cls}.{key}", default=None, help=text.replace("%", "%%"),
            metavar=choices or {"int": "N", "float": "X", "bool": "yes|no", "tuple": "A,B"}.get(rule["type"], "TEXT"),
        )  # fmt: skip
    return list(rules)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # argparse would leave the sentence out


def _config_values(args: argparse.Namespace, cls: str) -> dict[str, Any]:
    start = f"{cls}."
    return {k.removeprefix(start): v for k, v in vars(args).items() if k.startswith(start) and v is not None}


def _layout_names(argv: Sequence[str]) -> str:
    if not {"new", "add"} & set(argv[:1]):
        return ""  # nobody reads it, and it takes a while to load
    from napari_cellrep.data.layouts import LAYOUTS

    return ", ".join(layout.name for layout in LAYOUTS) + "; "


def _import_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.add_argument(
        "--pattern",
        default="",
        help='how file names are built when a field has several files, for example "{well}_{site}_{channel}.tif"',
    )
    parser.add_argument(
        "--layout",
        default="",
        metavar="NAME",
        help=f"how a microscope or screen names its files: {_layout_names(argv)}none: each file is a field (default: found "
        "out from the names)",
    )
    parser.add_argument(
        "--metadata",
        default="",
        type=str,
        help="CSV, Excel or parquet with what is known of each well, file or field",
    )
    parser.add_argument(
        "--on",
        default="",
        help="column of the table that says which field a row is of, or several: plate+well (default: found out)",
    )
    parser.add_argument(
        "--preview", action="store_true", help="only say how the files would be understood, and make nothing"
    )
    parser.add_argument(
        "--z",
        default="",
        help='z-stacks: max, mean, sharpest or a plane number; per channel: "DNA=max,GFP=3"',
    )
    parser.add_argument(
        "--rgb",
        default="",
        choices=("", "grey", "split", "rgba"),
        help="colour images: one grey channel, red, green and blue apart, or alpha, too",
    )
    parser.add_argument(
        "--stack",
        default="channel",
        choices=("channel", "z", "time"),
        help="what pages of a TIFF are that the file does not name",
    )
    parser.add_argument("--um-per-px", type=float, default=0.0, help="pixel size, where the files do not say")


def _project_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=Path, help="the project folder, NAME.cellrep")


def _fields_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fields", default="", metavar="A,B", help="only these fields (default: all)")


def _estimate_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="only try it for a second and say how long all of it would take, and how much memory",
    )


def _model_argument(parser: argparse.ArgumentParser, default: str, trainable: bool) -> None:
    parser.add_argument(
        "--model", default=default, choices=registry.names("models"), help=f"default: {default}"
    )


def _channels_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channels",
        default="",
        metavar="A,B",
        help="names or roles in the order the model wants (default: by role)",
    )


def _crop_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the window cut about each cell (default: the model's own, or the project's)"
    )
    group.add_argument("--window-px", dest="crop.window_px", metavar="N", help="its side in image pixels")
    group.add_argument(
        "--masked", dest="crop.masked", metavar="yes|no", help="black out what is not the cell itself"
    )
    group.add_argument(
        "--crop-mode",
        dest="crop.mode",
        metavar="window|box",
        help="one size for all, or as large as each cell asks",
    )
    group.add_argument(
        "--shrink-large",
        dest="crop.box_shrink",
        metavar="yes|no",
        help="with the mode box: shrink what is larger than the network's input instead of cutting it off",
    )


def _crop_values(args: argparse.Namespace) -> dict[str, Any]:
    return {
        k.removeprefix("crop."): v for k, v in vars(args).items() if k.startswith("crop.") and v is not None
    }


def _device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or mps (default: the fastest there is)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="default: the fastest that agrees",
    )


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


def _settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
        and p.default is not p.empty
        and p.name not in ("embedding", "include_flagged")
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


# ---- what is done ----------------------------------------------------------------------------------


def _open(path: Path) -> Any:
    from napari_cellrep.data import open_project

    return open_project(path)


def _demo(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.demo import demo

    numbers = run(demo(args.out, seed=args.seed, train_seconds=args.seconds))
    print(numbers["summary"])
    if args.view:
        _start_napari(args.out / "bbbc013.cellrep")


def _import_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "channels": _words(args.channels), "pattern": args.pattern, "layout": args.layout, "metadata": args.metadata,
        "on": args.on, "z": args.z, "rgb": args.rgb, "stack": args.stack, "um_per_px": args.um_per_px,
    }  # fmt: skip


def _print_preview(images: Sequence[str], project: str, options: dict[str, Any]) -> None:
    """How files would be understood, in the order in which a person checks it."""
    from napari_cellrep.steps.import_fields import mistake_words, preview_import

    found = run(preview_import(images, project=project, **options))
    series = f"{found['series']}: " if found["series"] else ""
    n, files = found["n_fields"], found["n_files"]
    print(
        f"{series}{n:,} field{'s' * (n != 1)} from {files:,} file{'s' * (files != 1)}. {found['why']}".strip()
    )
    print(f"Channels: {join_words(found['channels'], 12)}.")
    for row in found["rows"]:
        said = [row["size"], row["known"], f"⚠ {row['problem']}" if row["problem"] else ""]
        print("  " + " · ".join([row["field"], *(text for text in said if text)]))
    if len(found["rows"]) < found["n_units"]:
        print(f"  … and {found['n_units'] - len(found['rows']):,} more")
    for sentence in [
        *found["lacking"],
        *found["hints"],
        *found["table"],
        *map(mistake_words, found["mistakes"]),
    ]:
        print(f"⚠ {sentence}")
    if found["unfit"]:
        print(f"⚠ Not understood: {join_words(found['unfit'], 12)}.")


def _new(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_fields import import_fields

    if args.crops:
        _new_of_crops(args)
        return
    if args.preview:
        _print_preview(args.images, "", _import_options(args))
        return
    project = run(
        import_fields(args.project, args.images, group_by=_words(args.group_by), **_import_options(args))
    )
    bad = [f for f in project.fields if f.problem]
    channels = join_words(f"{c.name} ({c.role})" for c in project.channels)
    print(f"{project.root}: {len(project.fields):,} fields, channels {channels}.")
    _print_problems({f.id: f"{f.id}: {f.problem}" for f in bad}, "could not be used")
    for note in project.history[-1].get("notes", []):
        print(f"  {note}")
    if all(c.role == "other" for c in project.channels):
        print(_NO_ROLES)


_NO_ROLES = (
    '  No channel has a role yet: give them in their order, for example --channels "GFP:protein,DNA:nucleus".'
)


def _crop_options(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("on", "z"):
        if getattr(args, name):
            raise InputError(f"--{name} is for images of many cells; leave it out with crops.")
    return {
        "channels": _words(args.channels), "pattern": args.pattern, "layout": args.layout, "metadata": args.metadata,
        "rgb": args.rgb, "um_per_px": args.um_per_px,
    }  # fmt: skip


def _print_crops(images: Sequence[str], options: dict[str, Any]) -> None:
    """How crops would be understood, in the order in which a person checks it."""
    from napari_cellrep.steps.import_crops import preview_crops
    from napari_cellrep.steps.import_fields import mistake_words

    found = run(preview_crops(images, **options))
    looked = (
        f" (of the {found['n_looked_at']:,} looked at)" if found["n_looked_at"] < found["n_cells"] else ""
    )
    print(f"{found['n_cells']:,} crops, each a cell, of {found['sizes']}{looked}. {found['seen']}".strip())
    print(f"Channels: {join_words(found['channels'], 12)}.")
    if all(c.endswith("(other)") for c in found["channels"]):
        print(_NO_ROLES)
    for column, words in found["columns"]:
        print(f"  {column}: {words}")
    print(f"Contact sheets: {found['n_sheets']:,}")
    for row in found["rows"]:
        print(
            "  " + " · ".join(text for text in (row["field"], f"{row['cells']} cells", row["known"]) if text)
        )
    if len(found["rows"]) < found["n_sheets"]:
        print(f"  … and {found['n_sheets'] - len(found['rows']):,} more")
    for sentence in [*found["notes"], *map(mistake_words, found["mistakes"])]:
        print(f"⚠ {sentence}")
    if found["unused"]:
        print(f"⚠ Of no cell: {join_words(found['unused'], 12)}.")


def _new_of_crops(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_crops import import_crops

    options = {**_crop_options(args), "group_by": _words(args.group_by)}
    if args.preview:
        _print_crops(args.images, options)
        return
    project = run(import_crops(args.project, args.images, **options))
    channels = join_words(f"{c.name} ({c.role})" for c in project.channels)
    line = project.last("import")
    print(
        f"{project.root}: {line['n_cells']:,} cells on {line['n_fields']:,} contact sheets, channels {channels}."
    )
    for note in line["notes"]:
        print(f"  {note}")
    if all(c.role == "other" for c in project.channels):
        print(_NO_ROLES)
    print(f"Now: cellrep embed {args.project}")


def _add(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_crops import made_of_crops
    from napari_cellrep.steps.import_fields import add_fields

    project = _open(args.project)
    if made_of_crops(project):
        _add_crops(args, project)
        return
    if args.preview:
        _print_preview(args.images, str(project.root), _import_options(args))
        return
    before = {f.id for f in project.fields if not f.problem}
    run(add_fields(project, args.images, **_import_options(args)))
    new = [f for f in project.fields if f.id not in before]
    print(f"{project.root}: {len(new):,} fields added, {len(project.fields):,} now.")
    _print_problems({f.id: f"{f.id}: {f.problem}" for f in new if f.problem}, "could not be used")
    for note in project.history[-1].get("notes", []):
        print(f"  {note}")
    print(f"Now: cellrep replay {args.project}")


def _add_crops(args: argparse.Namespace, project: Any) -> None:
    from napari_cellrep.steps.import_crops import add_crops

    options = _crop_options(args)
    if args.preview:
        _print_crops(args.images, {**options, "project": str(project.root)})
        return
    run(add_crops(project, args.images, **options))
    line = project.last("add")
    print(
        f"{project.root}: {line['n_cells']:,} cells added on {line['n_fields']:,} contact sheets, "
        f"{project.cells.n_obs:,} cells now."
    )
    for note in line["notes"]:
        print(f"  {note}")
    if project.embedding_keys():
        print(f"Now: cellrep replay {args.project}")


def _metadata(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_fields import worst_mistakes
    from napari_cellrep.steps.metadata import set_metadata

    result = run(set_metadata(_open(args.project), args.table, on=args.on, add=args.add))
    print(result.summary)
    for sentence in [*result.notes, *worst_mistakes(result.mistakes)]:
        print(f"  {sentence}")


def _replay(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.replay import replay

    result = run(
        replay(_open(args.project), like=args.like, device=args.device, analyses=not args.no_analyses)
    )
    print(result.summary)
    for note in result.notes:
        print(f"  {note}")
    _print_problems(result.problems, "need a look")


def _segment(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.crop import crop
    from napari_cellrep.steps.segment import segment, unusual_fields

    project = _open(args.project)
    how: dict[str, Any] = {
        "segmenter": args.segmenter, "config": _config_values(args, "Config"), "fields": _words(args.fields),
        "device": args.device, "overwrite": args.overwrite,
    }  # fmt: skip
    if args.estimate:
        _print_estimate(project, "segment", how)
        return
    result = run(segment(project, **how, shard=args.shard))
    skipped = f" ({result.skipped:,} were up to date)" if result.skipped else ""
    print(f"{result.n_cells:,} cells in {result.done + result.skipped:,} fields{skipped}.")
    _print_problems(result.problems, "need a look")
    _print_problems(result.notes, "have something to know")
    if args.shard.world == 1:
        rules = _settings(args.rule)
        if args.window_px:
            rules["window_px"] = args.window_px
        run(crop(project, rules=rules))
        good = int(project.cells.obs["good"].sum())
        print(
            f"{good:,} cells are good, {project.cells.n_obs - good:,} carry a flag (kept, but left out of rankings)."
        )
        found = project.cells.obs["field"].astype(str).value_counts()
        odd = unusual_fields({f.id: int(found[f.id]) for f in project.fields if f.id in found})
        _print_problems({field: f"{field}: {why}." for field, why in odd.items()}, "are unlike the others")


def _train(args: argparse.Namespace) -> None:
    from napari_cellrep.models._processes import joined
    from napari_cellrep.steps.train import train, train_several

    project = _open(args.project)
    how: dict[str, Any] = {
        "model": args.model, "name": args.name, "config": _config_values(args, "Config"),
        "training": _config_values(args, "Training"), "channels": _words(args.channels), "crop": _crop_values(args),
        "device": args.device, "precision": args.precision, "resume": not args.restart,
        "include_flagged": args.include_flagged, "fields": _words(args.fields), "where": args.where,
        "named_set": args.set, "labels": args.labels, "weights": args.weights, "preset": args.preset,
    }  # fmt: skip
    seeds = read_numbers(args.seeds, int, "--seeds")
    rates = read_numbers(args.learning_rates, float, "--learning-rates")
    several = bool(seeds or rates)
    if args.estimate:
        _print_estimate(project, "train", {**how, "seeds": seeds, "learning_rates": rates})
        return
    if several and args.finish:
        raise InputError("--finish makes a model of one training; leave --seeds and --learning-rates away.")
    with joined(args.device) as processes:
        quiet = not processes.first
        more: dict[str, Any] = {"processes": processes, "compiled": args.compile}
        if several:
            job = train_several(project, seeds=seeds, learning_rates=rates, **how, **more)
        else:
            job = train(project, **how, finish=args.finish, **more)
        folder = run(job, quiet)
    if quiet:
        return
    if several:
        print(f"All runs: {folder / 'runs.csv'}")
    print(f"Trained: {folder}. Now: cellrep embed {args.project} --model {folder.name}")


def _print_estimate(project: Any, what: str, how: dict[str, Any]) -> None:
    from napari_cellrep.steps.estimate import estimate

    print(estimate(project, what, **how).sentence)


def _embed(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.embed import embed

    if args.features:
        _embed_features(args)
        return
    if args.on or args.columns:
        raise InputError("--on and --columns are about a table of features; name it with --features TABLE.")
    model = args.model or "paired_cell_inpainting"
    if args.weights:
        from napari_cellrep.steps.fetch import describe_published

        spec, weights = describe_published(args.weights)
        if args.model not in ("", spec.name):
            raise InputError(f"The weights {args.weights} are of the model {spec.name}, not of {args.model}.")
        model = weights.name
    project = _open(args.project)
    if args.whole_fields:
        _embed_fields(args, project, model)
        return
    several = () if Path(model).exists() else _words(model)  # a path may have a comma in it
    how: dict[str, Any] = {
        "model": several if len(several) > 1 else model, "key": args.key, "layers": _words(args.layers),
        "channels": _words(args.channels), "crop": _crop_values(args), "settings": _settings(args.set),
        "fields": _words(args.fields), "device": args.device, "precision": args.precision, "batch_size": args.batch_size,
    }  # fmt: skip
    if args.estimate:
        for one in several or (model,):
            _print_estimate(project, "embed", {**how, "model": one})
        return
    result = run(embed(project, **how, shard=args.shard))
    skipped = f", {result.n_skipped:,} were up to date" if result.n_skipped else ""
    print(f"{result.n_cells:,} cells embedded as {join_words(result.keys)}{skipped}.")
    for note in result.notes:
        print(f"  {note}")
    _print_problems(result.problems, "were left out")


def _embed_features(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_features import import_features, read_on

    if (
        args.model
        or args.weights
        or args.layers
        or args.channels
        or args.fields
        or args.whole_fields
        or args.shard.world > 1
        or args.set
        or _crop_values(args)
    ):
        raise InputError(
            "--features takes the numbers from a table: --model, --weights, --layers, --channels, --fields, "
            "--whole-fields, --shard, --set and the window do not apply."
        )
    on = read_on(args.on) if args.on else {}
    project = _open(args.project)
    job = import_features(project, args.features, key=args.key, columns=_words(args.columns), on=on)
    result = run(job)
    key = result.keys[0]
    dims = project.cells.obsm[f"X_{key}"].shape[1]
    print(f"{result.n_cells:,} cells have {dims:,} numbers each as {key}.")
    for note in result.notes:
        print(f"  {note}")


def _embed_fields(args: argparse.Namespace, project: Any, model: str) -> None:
    from napari_cellrep.steps.embed_fields import embed_fields

    if _crop_values(args) or args.layers or args.shard.world > 1:
        raise InputError(
            "Whole fields have no crops, layers or shards to choose: leave out --crop-mode, --window-px, --masked, "
            "--layers and --shard."
        )
    result = run(
        embed_fields(
            project, model=model, key=args.key, mode=args.whole_fields, channels=_words(args.channels),
            settings=_settings(args.set), fields=_words(args.fields), device=args.device, precision=args.precision,
        )
    )  # fmt: skip
    skipped = f", {result.n_skipped:,} were up to date" if result.n_skipped else ""
    print(f"{result.n_fields:,} fields embedded as {result.key}{skipped}; they are in fields.zarr.")
    for note in result.notes:
        print(f"  {note}")
    _print_problems(result.problems, "were left out")


def _analyze(args: argparse.Namespace) -> None:
    from napari_cellrep.data.files import write_text
    from napari_cellrep.steps.analyze import TABLES, analyze

    settings = {name.replace("-", "_"): value for name, value in _settings(args.set).items()}
    if args.group:
        settings["group"] = args.group
    if args.csv is not None and args.recipe not in TABLES:
        raise InputError(f"The recipe {args.recipe!r} ranks no groups; --csv is of {join_words(TABLES, 12)}.")
    project = _open(args.project)
    result = run(
        analyze(
            project,
            recipe=args.recipe,
            embedding=args.embedding,
            include_flagged=args.include_flagged,
            **settings,
        )
    )
    print(result.summary)
    if args.csv is not None and result.table is not None:
        write_text(args.csv, result.table.to_csv(lineterminator="\n"))
        print(
            f"{len(result.table):,} {'rows' if 'rows' in result.numbers else 'groups'} written to {args.csv}."
        )
    elif result.table is not None and "rows" in result.numbers:
        print(result.table.head(20).to_string(index=False))


def _believe(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.believe import believe
    from napari_cellrep.steps.believe_group import believe_group

    project, how = _open(args.project), {"embedding": args.embedding, "device": args.device}
    found: Any = (
        run(believe(project, cell_id=args.cell, **how))
        if args.cell
        else run(believe_group(project, group=args.group, by=args.by, by_score=args.score, **how))
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
    else:
        print("\n".join(found.lines))


def _look(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.look import look
    from napari_cellrep.steps.look_figure import check_out, save_looks

    own = {
        "ratio": ("reconstruction",), "mask_seed": ("reconstruction",), "of": ("classes",), "first": ("tokens",),
        "sample": ("heads", "patterns"), "stride": ("tokens", "structure"), "at": ("structure",), "sets": ("apart",),
        "sources": ("inpainting", "patterns"), "targets": ("inpainting", "patterns"),
        "group": ("axis", "patterns"), "by": ("axis", "patterns"),
    }  # fmt: skip
    for option, whats in own.items():
        if getattr(args, option) is not None and args.what not in whats:
            raise InputError(f"--{option.replace('_', '-')} is of --what {' and '.join(whats)} only.")
    special = {
        "heads": _look_heads, "inpainting": _look_inpainting, "patterns": _look_patterns, "axis": _look_axis,
    }  # fmt: skip
    if args.what in special:
        special[args.what](args)
        return
    if not args.cell:
        raise InputError("Say which cells with --cell ID …; only --what heads can draw them.")
    project, out = _open(args.project), check_out(args.out)
    given = {k: getattr(args, k) for k in ("ratio", "of", "first", "stride")} | {"seed": args.mask_seed}
    how = {k: v for k, v in given.items() if v is not None}
    if args.what == "structure":
        if args.at is None:
            raise InputError("Say where the structure is with --at Y X, a pixel of the field.")
        how["y"], how["x"] = args.at
    if args.what == "apart":
        if args.sets is None:
            raise InputError("Say which two sets with --sets A B.")
        how["a"], how["b"] = args.sets
    found = look(
        project, what=args.what, cells=args.cell, embedding=args.embedding, device=args.device, **how
    )
    save_looks(project, found, out)
    _say_looks(args, found)


def _say_looks(args: argparse.Namespace, found: Sequence[Any]) -> None:
    if args.json:
        numbers = {one.cell_id: {"words": one.words, **one.numbers} for one in found}
        print(json.dumps(numbers, indent=1, ensure_ascii=False))
        return
    for one in found:
        print(f"{one.cell_id}, {one.title}:")
        print("\n".join(f"  {line}" for line in one.words))
    print(f"Saved as {args.out}.")


def _look_heads(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.heads import SAMPLE, heads, save_heads
    from napari_cellrep.steps.look_figure import FIGURES, check_out

    if args.cell and args.sample is not None:
        raise InputError("Name cells with --cell or have some drawn with --sample, not both.")
    out = check_out(args.out, (*FIGURES, ".csv"))
    sample = SAMPLE if args.sample is None else args.sample
    found = heads(
        _open(args.project), cells=args.cell, sample=sample, embedding=args.embedding, device=args.device
    )
    written = save_heads(found, out)
    if args.json:
        rows = {
            head: {c: v if v == v else None for c, v in zip(found.channels, row.tolist(), strict=True)}
            for head, row in zip(found.heads, found.iou, strict=True)
        }
        print(
            json.dumps(
                {"cells": found.cells, "words": found.words, "iou": rows}, indent=1, ensure_ascii=False
            )
        )
        return
    print("\n".join(found.words))
    print(f"Saved as {join_words([str(path) for path in written])}.")


def _look_inpainting(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.inpaint import MODEL, inpaint_grid

    if not args.sources or not args.targets or args.cell:
        raise InputError("Say whose patterns with --sources ID … and in which cells with --targets ID ….")
    found = inpaint_grid(
        _open(args.project), sources=args.sources, targets=args.targets, model=args.embedding or MODEL,
        out=str(args.out),
    )  # fmt: skip
    if args.json:
        rows = zip(found.sources, found.mse.tolist(), strict=True)
        mse = {source: dict(zip(found.targets, row, strict=True)) for source, row in rows}
        print(json.dumps({"words": found.words, "mse": mse}, indent=1, ensure_ascii=False))
        return
    print("\n".join([*found.words, f"Saved as {args.out}."]))


def _look_patterns(args: argparse.Namespace) -> None:
    import numpy as np

    from napari_cellrep.steps.inpaint import MODEL, patterns
    from napari_cellrep.steps.look_figure import check_out, save_looks

    if bool(args.sources) == bool(args.group) or len(args.targets or ()) != 1 or args.cell:
        raise InputError(
            "Say whose patterns with --sources ID … or --group NAME, and in which cell with --targets ID."
        )
    project, out = _open(args.project), check_out(args.out)
    sources = list(args.sources or ())
    if args.group:
        obs, by = project.cells.obs, args.by or "group"
        if by not in obs:
            raise InputError(f"There is no column {by!r} in the cell table.")
        good = obs["good"].to_numpy(bool) if "good" in obs else np.ones(len(obs), bool)
        sources = [str(c) for c in obs.index[good & (obs[by].astype(str) == args.group).to_numpy()]]
        sources = [c for c in sources if c != args.targets[0]]
        if not sources:
            raise InputError(f"{args.group} has no other good cell to predict from.")
    n = len(sources)
    if args.sample is not None and 0 < args.sample < n:
        drawn = np.random.default_rng(0).choice(n, args.sample, replace=False)
        sources = [sources[i] for i in np.sort(drawn)]
    found = patterns(project, cells=sources, target=args.targets[0], model=args.embedding or MODEL)
    save_looks(project, found, out)
    if len(sources) < n and not args.json:
        print(f"{len(sources):,} of {n:,} cells, drawn at random, are the sources.")
    _say_looks(args, found)


def _look_axis(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.axis import axis

    if not args.group or args.cell:
        raise InputError("Say which group with --group NAME (and --by COLUMN).")
    found = axis(
        _open(args.project), name=args.group, by=args.by or "group", embedding=args.embedding, out=str(args.out),
        device=args.device,
    )  # fmt: skip
    if args.json:
        numbers = {
            "words": found.words, "cells": dict(zip(found.cells, found.at.tolist(), strict=True)), "explained": found.explained,
            "by_chance": found.by_chance,
            "follows": {n: v if v == v else None for n, v in zip(found.channels, found.follows.tolist(), strict=True)},
        }  # fmt: skip
        print(json.dumps(numbers, indent=1, ensure_ascii=False))
        return
    print("\n".join([*found.words, f"Saved as {args.out}."]))


def _compare(args: argparse.Namespace) -> None:
    project = _open(args.project)
    given = {name: getattr(args, name) for name in ("a", "b", "control") if getattr(args, name) is not None}
    if given:
        project.set_comparison(**given)
    for name, text in project.comparison.items():
        print(f"{name:<8} {text or 'not chosen'}")


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"A setting is written NAME=VALUE; got {text!r}.")
        settings[name.strip()] = _literal(value.strip())
    return settings


def _literal(text: str) -> Any:
    """A number or a yes/no where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)


# Format of an export → endings that mean it.
EXPORTS: dict[str, tuple[str, ...]] = {
    "h5ad": (".h5ad",), "zarr": (".zarr",), "csv": (".csv",), "parquet": (".parquet",), "ranking": (),
    "groups": (), "likeness": (), "map": (".png", ".svg", ".pdf"), "report": (".html",),
    "methods": (".txt",), "crops": (), "crops-zarr": (), "spatialdata": (), "project": (".cellrep",),
}  # fmt: skip


def _export(args: argparse.Namespace) -> None:
    endings = {ending: kind for kind, known in EXPORTS.items() for ending in known}
    kind = args.format or endings.get(args.out.suffix.lower(), "")
    if not kind:
        raise InputError(f"{args.out.name} has no ending we know; use {', '.join(endings)}, or --format.")
    project = _open(args.project)
    if kind in ("report", "methods"):
        from napari_cellrep.steps import report

        step = report.write_report if kind == "report" else report.write_methods
        written = run(step(project, args.out, embedding=args.embedding))
    elif kind in ("crops", "crops-zarr"):
        from napari_cellrep.steps.export_images import write_crops

        written = run(
            write_crops(
                project, args.out, format="zarr" if kind == "crops-zarr" else "tiff", per=args.per, set=args.set,
                embedding=args.embedding, window_px=args.window_px, include_flagged=args.include_flagged,
            )
        )  # fmt: skip
    elif kind == "spatialdata":
        from napari_cellrep.steps.export_images import write_spatialdata

        written = run(write_spatialdata(project, args.out, include_flagged=args.include_flagged))
    elif kind == "map":
        from napari_cellrep.steps.map_figure import write_map

        chosen = {"colour": args.colour, "values": args.values, "place": args.map}
        run(write_map(project, out=args.out, embedding=args.embedding, **chosen))
        written = args.out
    elif kind == "likeness" and endings.get(args.out.suffix.lower()) == "map":
        from napari_cellrep.steps.map_figure import write_likeness

        run(write_likeness(project, out=args.out, embedding=args.embedding))
        written = args.out
    elif kind == "project":
        from napari_cellrep.steps.export import share

        written = run(share(project, args.out, labels=not args.no_labels))
    else:
        from napari_cellrep.steps.export import export

        drop = not args.keep_missing
        written = run(export(project, args.out, format=kind, drop_missing=drop, embedding=args.embedding))
    print(f"Wrote {written}.")


def _illumination(args: argparse.Namespace) -> None:
    from napari_cellrep.steps import illumination

    if args.off and (args.functions or args.preview):
        raise InputError("--off takes the correction away; it goes without --functions and --preview.")
    project, how = _open(args.project), {"functions": list(args.functions), "operation": args.operation}
    if args.preview:
        from napari_cellrep.steps.look_figure import check_out

        out = check_out(args.preview)
        found = run(illumination.preview(project, field=args.field, **how))
        illumination.save_preview(found, out)
        print(f"{found.words}\nSaved as {out}. Nothing was changed.")
        return
    print(run(illumination.correct(project, off=args.off, **how)))


def _undo(args: argparse.Namespace) -> None:
    print(f"Taken back: {_open(args.project).undo()}.")


def _unlock(args: argparse.Namespace) -> None:
    print(f"Free again. It was held by: {_open(args.project).unlock()}.")


def _relocate(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.relocate import relocate

    print(run(relocate(_open(args.project), args.folder)).summary)


def _info(args: argparse.Namespace) -> None:
    if (args.path / "model.json").is_file():
        print((args.path / "model.json").read_text(encoding="utf-8"))
        return
    if not args.path.exists() and _info_published(str(args.path)):
        return
    project = _open(args.path)
    fields, bad = project.fields, {f.id: f.problem for f in project.fields if f.problem}
    print(f"{project.name}: {len(fields):,} fields, {len({f.group for f in fields}):,} groups")
    print(f"  channels    {join_words(f'{c.name} ({c.role})' for c in project.channels)}")
    um = {f.um_per_px for f in fields}
    print(f"  pixel size  {', '.join(f'{u:g} µm' if u else 'unknown' for u in sorted(um))}")
    if project.illumination is not None:
        print(f"  corrected   {project.illumination.words()}")
    if project.read_only:
        print("  read-only   it can be viewed and exported, not changed")
    gone = project.missing(most=1000)
    if gone and not any(f.problem for f in gone):
        print(
            f"  images      not where they were (the first: {gone[0].id}); cellrep relocate {args.path} NEW_FOLDER"
        )
    images = project.look_at_images()
    if images.replaced:
        n, some = len(images.replaced), join_words(images.replaced, 3)
        print(
            f"  replaced    the images of {n:,} field{'s' * (n != 1)} ({some}) are others than its cells were found in: labels, "
            f"cells and\n              vectors of {'them' if n != 1 else 'it'} are out of date. cellrep segment {args.path}, "
            "then embed; only they are done anew"
        )
    elif images.away:
        print("              nothing counts as out of date for that")
    _print_problems(bad, "have a problem")
    if project.has_cells:
        obs = project.cells.obs
        print(f"  cells       {len(obs):,}, {int(obs['good'].sum()):,} good")
        for name in project.embedding_keys():
            made, has = project.embedding_info(name), obs.get(f"has_{name}")
            count = int(has.sum()) if has is not None else 0
            layer = f" layer {made['layer']}" if made.get("layer") else ""
            print(f"  embedding   {name}: {count:,} cells, {made.get('model')}{layer}"
                  f"{'' if made.get('trained', True) else ', random weights'}")  # fmt: skip
            lit = project.illumination.digest if project.illumination else None
            if made.get("crop") and made.get("illumination") != lit:
                print(
                    "              out of date: the illumination of the images was corrected differently then"
                )
    print("  history")
    for line in project.history:
        print(f"    {_line_of_history(line)}")
    if back := project.undoable:
        of = f" ({back['of']})" if back["of"] else ""
        kept = f"{project.undo_bytes / 1e6:.1f} MB kept"
        print(f"  undo        {back['step']}{of} can be taken back: cellrep undo {args.path} ({kept})")


def _line_of_history(line: dict[str, Any]) -> str:
    """When, what, with what, how long, on which machine, by which versions."""
    named = (
        "segmenter", "model", "name", "recipe", "embedding", "keys", "n_fields", "fields", "skipped", "cells", "n_cells", "good",
        "source", "operation", "of", "folder",
    )  # fmt: skip
    told = {k: line[k] for k in named if line.get(k) not in (None, "", [], {})}
    told = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in told.items()}
    text = ", ".join(f"{k} {v}" for k, v in told.items() if not isinstance(v, dict))
    if line.get("problems"):
        text += f", {len(line['problems'])} with a problem"
    engine, result = line.get("engine") or {}, line.get("result") or {}
    seconds = line.get("seconds") or (result.get("seconds") if isinstance(result, dict) else None)
    if seconds is not None:
        text += f", took {_duration(float(seconds))}"
    device = engine.get("device_name") or line.get("device") or ""
    if device:
        precision = engine.get("precision", "")
        text += f", on {device} {precision}".rstrip()
    software = line.get("software") or {}
    torch = f", torch {software['torch']}" if "torch" in software else ""
    python = f", Python {software['python']}" if "python" in software else ""
    made_by = f"{line.get('version', '')}{python}{torch}"
    where = f"{line['machine']}, " if line.get("machine") else ""
    undone = "undone: " if line.get("undone") and line["step"] != "undo" else ""
    return f"{str(line['when'])[:16].replace('T', ' ')}  {undone}{line['step']:<8} {text}  [{where}{made_by}]"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _info_published(name: str) -> bool:
    """Tell what is known of published weights, fetched or not; False if none are called so."""
    import torch

    from napari_cellrep.models import create_model
    from napari_cellrep.models._published import find_fetched, list_published

    if name not in list_published():
        return False
    spec, weights = list_published()[name]
    with torch.device("meta"):  # to count them, they need not be made
        n_weights = sum(p.numel() for p in create_model(spec.name, **weights.config).parameters())
    path = find_fetched(name)
    card = path / "model.json" if path else Path()
    print(
        f"{spec.title} ({spec.name}), {n_weights / 1e6:.3g} million weights\n{_about_weights(spec, weights)}"
    )
    print(f"  here: {path}" if path else f"  not on this machine yet: cellrep models fetch {name}")
    if card.is_file():
        print(card.read_text(encoding="utf-8"))
    return True


def _models(args: argparse.Namespace) -> None:
    from napari_cellrep.models._published import weights_folder

    for name in registry.names("models"):
        spec = registry.load("models", name).SPEC
        print(f"{name}\n  {spec.title}. Wants: {', '.join(spec.roles)}; {spec.crop.size_px} px crops."
              f"{' Can be trained here.' if spec.trains else ''}")  # fmt: skip
        for label, text in (("when", spec.when), ("paper", spec.paper), ("licence", spec.licence)):
            if text:
                print(f"  {label}: {text}")
        for weights in spec.weights:
            print("  " + _about_weights(spec, weights).replace("\n", "\n  "))
    print(f"\nWeights are fetched with: cellrep models fetch NAME. They are kept in {weights_folder()}.")


def _about_weights(spec: ModelSpec, weights: Weights) -> str:
    """Lines on a published checkpoint."""
    from napari_cellrep.models._published import find_fetched

    here = " (fetched)" if find_fetched(weights.name) else ""
    if weights.bundled:
        here = " (comes with this package)"
    sampling = f"{weights.um_per_px:g} µm/px" if weights.um_per_px else "sampling unknown"
    lines = [
        f"weights: {weights.name}{here}",
        f"  {weights.note}",
        f"  wants: {', '.join(weights.roles or spec.roles)}; {weights.size_px or spec.crop.size_px} px crops, {sampling}",
        f"  licence: {weights.licence}",
    ]
    return "\n".join(lines + ([f"  from: {weights.url}"] if weights.url else []))


def _fetch(args: argparse.Namespace) -> None:
    from napari_cellrep.models._published import find_fetched
    from napari_cellrep.steps.fetch import describe_published, fetch

    spec, weights = describe_published(args.name)
    if find_fetched(args.name) is None:
        print(f"{weights.name}: weights of {spec.title}\n  {weights.note}\n  from {args.source or weights.url}\n"
              f"  Licence: {weights.licence}", flush=True)  # fmt: skip
        if not args.yes:
            _ask(weights.name)
    path = run(fetch(args.name, accept_licence=True, source=args.source))
    folder = path if path.is_dir() else path.parent
    print(f"{weights.name} is in {folder}. Now: cellrep embed PROJECT --weights {weights.name}")


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"There is no terminal to ask at whether you accept the licence of {name}; read it (above) and say so "
            "with --yes."
        )
    answer = input("Do you accept these terms, and fetch the weights? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise InputError(f"{name} was not fetched, as its licence was not accepted.")


def _recommend(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.recommend import facts_of, recommend

    for sentence in recommend(facts_of(_open(args.project))):
        print(f"- {sentence}")


def _view(args: argparse.Namespace) -> None:
    _start_napari(_open(args.project).root)


def _start_napari(root: Path) -> None:
    if importlib.util.find_spec("napari") is None:
        raise InputError('napari is not installed here: pip install "napari-cellrep[gui]", then try again.')
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise InputError(f"There is no screen here to open napari on; copy {root} to a machine that has one.")
    code = subprocess.call(
        [
            sys.executable,
            "-m",
            "napari",
            str(root),
            "--plugin",
            "napari-cellrep",
            "-w",
            "napari-cellrep",
            "CellRep",
            "Explore",
        ]
    )
    if code:
        raise InputError(
            f"napari ended with code {code}; start it by hand and open {root} from the CellRep dock."
        )


def _print_problems(problems: dict[str, str], what: str) -> None:
    if problems:
        print(f"{len(problems):,} field{'s' * (len(problems) > 1)} {what}:")
        counts = Counter(problems.values())  # a sentence that many fields share is said once
        for text, n in list(counts.items())[:20]:
            print(f"  {text}{f' ({n:,} fields)' if n > 1 else ''}")
        if len(counts) > 20:
            print(f"  … and {len(counts) - 20:,} more; `cellrep info` lists them all.")
