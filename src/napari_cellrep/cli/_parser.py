"""Every command in the order in which help lists them; each is declared beside its code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from napari_cellrep import __version__
from napari_cellrep.cli._arguments import Commands
from napari_cellrep.cli._compute import declare_analyze, declare_embed, declare_segment, declare_train
from napari_cellrep.cli._export import declare_export
from napari_cellrep.cli._import import declare_add, declare_metadata, declare_new
from napari_cellrep.cli._info import declare_info
from napari_cellrep.cli._look import declare_believe, declare_look
from napari_cellrep.cli._models import declare_models
from napari_cellrep.cli._projects import (
    declare_compare,
    declare_demo,
    declare_illumination,
    declare_relocate,
    declare_replay,
    declare_undo,
    declare_unlock,
    declare_view,
)

_FIRST_STEPS = """\
from images to a table:
  cellrep new P.cellrep IMAGES --preview    how the files are understood; without --preview the project is made
  cellrep segment P.cellrep                 find the cells
  cellrep embed P.cellrep --model measurements
  cellrep analyze P.cellrep map
  cellrep export P.cellrep cells.csv        or .h5ad, report.html, …
  cellrep info P.cellrep --columns          what the columns mean

A project is a folder, <name>.cellrep; the images stay where they are. Every command has --help.
Without images of your own: cellrep demo OUT
"""


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """What can be typed; settings of the model or segmenter that `argv` names are options, too."""
    parser = argparse.ArgumentParser(
        prog="cellrep",
        description="Which of my cells look different, and how? Segment cells, describe each by numbers, compare them.",
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = Commands(parser, argv)
    for declare in (
        declare_demo,
        # from images to a table, in this order
        declare_new, declare_segment, declare_train, declare_embed, declare_compare, declare_analyze, declare_export,
        declare_info, declare_view,
        # more of the same project
        declare_add, declare_metadata, declare_replay, declare_illumination,
        # questions about cells and models
        declare_believe, declare_look, declare_models,
        # when something is amiss
        declare_undo, declare_relocate, declare_unlock,
    ):  # fmt: skip
        declare(commands)
    return parser
