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


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """What can be typed; settings of the model or segmenter that `argv` names are options, too."""
    parser = argparse.ArgumentParser(
        prog="cellrep",
        description="Which of my cells look different, and how? Segment cells, describe each by numbers, compare them.",
        epilog="A project is a folder, <name>.cellrep. Start with: cellrep demo OUT",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = Commands(parser, argv)
    for declare in (
        declare_demo, declare_new, declare_add, declare_metadata, declare_replay, declare_segment, declare_train,
        declare_embed, declare_analyze, declare_believe, declare_look, declare_compare, declare_export,
        declare_illumination, declare_undo, declare_unlock, declare_relocate, declare_info, declare_models, declare_view,
    ):  # fmt: skip
        declare(commands)
    return parser
