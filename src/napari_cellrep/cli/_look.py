"""Commands that ask the network about cells: believe and look."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_cellrep.cli._arguments import Commands, project_argument
from napari_cellrep.cli._drive import open_project, run
from napari_cellrep.specs import InputError, join_words


def declare_believe(commands: Commands) -> None:
    doubt = commands.add(
        "believe", _believe,
        "Would a reviewer believe that a cell is odd, or that a group's cells differ? Try what speaks for and against it.",
    )  # fmt: skip
    project_argument(doubt)
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


def _believe(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.believe import believe
    from napari_cellrep.steps.believe_group import believe_group

    project, how = open_project(args.project), {"embedding": args.embedding, "device": args.device}
    found: Any = (
        run(believe(project, cell_id=args.cell, **how))
        if args.cell
        else run(believe_group(project, group=args.group, by=args.by, by_score=args.score, **how))
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
    else:
        print("\n".join(found.lines))


def declare_look(commands: Commands) -> None:
    looking = commands.add(
        "look", _look,
        "What does a network make of a cell? Where it looks, what it needs, how it redraws the cell: a figure or arrays.",
    )  # fmt: skip
    project_argument(looking)
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
    project, out = open_project(args.project), check_out(args.out)
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
        open_project(args.project),
        cells=args.cell,
        sample=sample,
        embedding=args.embedding,
        device=args.device,
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
        open_project(args.project), sources=args.sources, targets=args.targets, model=args.embedding or MODEL,
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
    project, out = open_project(args.project), check_out(args.out)
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
        open_project(args.project), name=args.group, by=args.by or "group", embedding=args.embedding, out=str(args.out),
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
