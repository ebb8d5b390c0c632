"""Commands that bring images and what is known of them into a project: new, add, metadata."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_cellrep.cli._arguments import Commands, project_argument, split_words
from napari_cellrep.cli._drive import open_project, print_notes, print_problems, run
from napari_cellrep.specs import InputError, how_many, join_words


def declare_new(commands: Commands) -> None:
    new = commands.add("new", _new, "Make a project of your images.")
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
    _import_arguments(new, commands.argv)


def _new(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_fields import import_fields

    if args.crops:
        _new_of_crops(args)
        return
    if args.preview:
        _print_preview(args.images, "", _import_options(args))
        return
    project = run(
        import_fields(args.project, args.images, group_by=split_words(args.group_by), **_import_options(args))
    )
    bad = [f for f in project.fields if f.problem]
    channels = join_words(f"{c.name} ({c.role})" for c in project.channels)
    print(f"{project.root}: {how_many(len(project.fields), 'field')}, channels {channels}.")
    print_problems({f.id: f"{f.id}: {f.problem}" for f in bad}, "could not be used")
    print_notes(project.history[-1].get("notes", []))
    if all(c.role == "other" for c in project.channels):
        print(_NO_ROLES)


def _new_of_crops(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_crops import import_crops

    options = {**_crop_options(args), "group_by": split_words(args.group_by)}
    if args.preview:
        _print_crops(args.images, options)
        return
    project = run(import_crops(args.project, args.images, **options))
    channels = join_words(f"{c.name} ({c.role})" for c in project.channels)
    line = project.last("import")
    print(
        f"{project.root}: {how_many(line['n_cells'], 'cell')} on {how_many(line['n_fields'], 'contact sheet')}, "
        f"channels {channels}."
    )
    print_notes(line["notes"])
    if all(c.role == "other" for c in project.channels):
        print(_NO_ROLES)
    print(f"Now: cellrep embed {args.project}")


def declare_add(commands: Commands) -> None:
    more = commands.add(
        "add", _add,
        "Add images to a project (crops to one of crops): next week's plate, read by the same rules.",
    )  # fmt: skip
    project_argument(more)
    more.add_argument("images", nargs="+", help="images, or folders of images")
    more.add_argument(
        "--channels", default="", metavar="A,B,…", help="where the new files name their channels differently"
    )
    _import_arguments(more, commands.argv)
    more.set_defaults(stack="")  # as in the project's own import


def _add(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_crops import made_of_crops
    from napari_cellrep.steps.import_fields import add_fields

    project = open_project(args.project)
    if made_of_crops(project):
        _add_crops(args, project)
        return
    if args.preview:
        _print_preview(args.images, str(project.root), _import_options(args))
        return
    before = {f.id for f in project.fields if not f.problem}
    run(add_fields(project, args.images, **_import_options(args)))
    new = [f for f in project.fields if f.id not in before]
    print(f"{project.root}: {how_many(len(new), 'field')} added, {len(project.fields):,} now.")
    print_problems({f.id: f"{f.id}: {f.problem}" for f in new if f.problem}, "could not be used")
    print_notes(project.history[-1].get("notes", []))
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
        f"{project.root}: {how_many(line['n_cells'], 'cell')} added on {how_many(line['n_fields'], 'contact sheet')}, "
        f"{project.cells.n_obs:,} cells now."
    )
    print_notes(line["notes"])
    if project.embedding_keys():
        print(f"Now: cellrep replay {args.project}")


def declare_metadata(commands: Commands) -> None:
    known = commands.add(
        "metadata", _metadata, "Give a project another table of what is known of its fields; cells stay."
    )
    project_argument(known)
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


def _metadata(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.import_fields import worst_mistakes
    from napari_cellrep.steps.metadata import set_metadata

    result = run(set_metadata(open_project(args.project), args.table, on=args.on, add=args.add))
    print(result.summary)
    for sentence in [*result.notes, *worst_mistakes(result.mistakes)]:
        print(f"  {sentence}")


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


def _layout_names(argv: Sequence[str]) -> str:
    if not {"new", "add"} & set(argv[:1]):
        return ""  # nobody reads it, and it takes a while to load
    from napari_cellrep.data.layouts import LAYOUTS

    return ", ".join(layout.name for layout in LAYOUTS) + "; "


def _import_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "channels": split_words(args.channels), "pattern": args.pattern, "layout": args.layout, "metadata": args.metadata,
        "on": args.on, "z": args.z, "rgb": args.rgb, "stack": args.stack, "um_per_px": args.um_per_px,
    }  # fmt: skip


def _crop_options(args: argparse.Namespace) -> dict[str, Any]:
    for name in ("on", "z"):
        if getattr(args, name):
            raise InputError(f"--{name} is for images of many cells; leave it out with crops.")
    return {
        "channels": split_words(args.channels), "pattern": args.pattern, "layout": args.layout, "metadata": args.metadata,
        "rgb": args.rgb, "um_per_px": args.um_per_px,
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


_NO_ROLES = (
    '  No channel has a role yet: give them in their order, for example --channels "GFP:protein,DNA:nucleus".'
)
