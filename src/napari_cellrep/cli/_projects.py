"""Commands for a project as a whole: demo, replay, compare, illumination, undo, unlock, relocate, view."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from napari_cellrep.cli._arguments import Commands, project_argument
from napari_cellrep.cli._drive import open_project, print_notes, print_problems, run
from napari_cellrep.specs import InputError


def declare_demo(commands: Commands) -> None:
    demo = commands.add(
        "demo", _demo, "Run everything on the bundled sample: project, map, ranking and report."
    )
    demo.add_argument(
        "out", nargs="?", default="demo-out", type=Path, help="folder for the results (default: demo-out)"
    )
    demo.add_argument("--view", action="store_true", help="open napari on the result")
    demo.add_argument("--seed", type=int, default=0, help="seed of weights and training (default 0)")
    demo.add_argument("--seconds", type=float, default=105, help="time for training (default 105)")


def _demo(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.demo import demo

    numbers = run(demo(args.out, seed=args.seed, train_seconds=args.seconds))
    print(numbers["summary"])
    if args.view:
        _start_napari(args.out / "bbbc013.cellrep")


def declare_replay(commands: Commands) -> None:
    replay = commands.add(
        "replay", _replay,
        "Do for the fields without labels what was done for the others: segment, flag, embed, analyse.",
    )  # fmt: skip
    project_argument(replay)
    replay.add_argument("--like", default="", metavar="OTHER.cellrep", help="do it as in another project")
    replay.add_argument(
        "--no-analyses", action="store_true", help="leave maps, scores and rankings as they are"
    )
    replay.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def _replay(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.replay import replay

    result = run(
        replay(open_project(args.project), like=args.like, device=args.device, analyses=not args.no_analyses)
    )
    print(result.summary)
    print_notes(result.notes)
    print_problems(result.problems, "need a look")


def declare_compare(commands: Commands) -> None:
    compare = commands.add(
        "compare", _compare,
        "Choose the groups that analyses compare, once for all of them; without options, tell them.",
    )  # fmt: skip
    project_argument(compare)
    for option, text in (
        ("--a", "cells known to look one way"), ("--b", "cells known to look the other way"),
        ("--control", "cells that are normal, such as untreated ones"),
    ):  # fmt: skip
        compare.add_argument(
            option, default=None, metavar="COLUMN=VALUE", help=f"{text}; empty takes it back"
        )


def _compare(args: argparse.Namespace) -> None:
    project = open_project(args.project)
    given = {name: getattr(args, name) for name in ("a", "b", "control") if getattr(args, name) is not None}
    if given:
        project.set_comparison(**given)
    for name, text in project.comparison.items():
        print(f"{name:<8} {text or 'not chosen'}")


def declare_illumination(commands: Commands) -> None:
    lit = commands.add(
        "illumination", _illumination,
        "Even out the illumination of the images when they are read, per plate and channel; the files stay as they are.",
    )  # fmt: skip
    project_argument(lit)
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


def _illumination(args: argparse.Namespace) -> None:
    from napari_cellrep.steps import illumination

    if args.off and (args.functions or args.preview):
        raise InputError("--off takes the correction away; it goes without --functions and --preview.")
    project, how = (
        open_project(args.project),
        {"functions": list(args.functions), "operation": args.operation},
    )
    if args.preview:
        from napari_cellrep.steps.look_figure import check_out

        out = check_out(args.preview)
        found = run(illumination.preview(project, field=args.field, **how))
        illumination.save_preview(found, out)
        print(f"{found.words}\nSaved as {out}. Nothing was changed.")
        return
    print(run(illumination.correct(project, off=args.off, **how)))


def declare_undo(commands: Commands) -> None:
    undo = commands.add(
        "undo", _undo, "Take back what the last step wrote: segmenting, embedding, an analysis or an edit."
    )
    project_argument(undo)


def _undo(args: argparse.Namespace) -> None:
    print(f"Taken back: {open_project(args.project).undo()}.")


def declare_unlock(commands: Commands) -> None:
    unlock = commands.add(
        "unlock", _unlock,
        "Free a project on a network share from a process of another computer that does not run any more.",
    )  # fmt: skip
    project_argument(unlock)


def _unlock(args: argparse.Namespace) -> None:
    print(f"Free again. It was held by: {open_project(args.project).unlock()}.")


def declare_relocate(commands: Commands) -> None:
    moved = commands.add(
        "relocate", _relocate, "Find images that were moved or renamed; nothing is computed again."
    )
    project_argument(moved)
    moved.add_argument(
        "folder",
        nargs="?",
        default="",
        help="where the images are now, or a folder above (default: look beside the project and the old place)",
    )


def _relocate(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.relocate import relocate

    print(run(relocate(open_project(args.project), args.folder)).summary)


def declare_view(commands: Commands) -> None:
    view = commands.add("view", _view, "Open napari on a project.")
    project_argument(view)


def _view(args: argparse.Namespace) -> None:
    _start_napari(open_project(args.project).root)


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
