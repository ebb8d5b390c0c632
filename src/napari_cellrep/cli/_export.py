"""The command that writes files for others: export."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_cellrep.cli._arguments import Commands, project_argument
from napari_cellrep.cli._drive import open_project, run
from napari_cellrep.specs import InputError

# Format of an export → endings that mean it.
EXPORTS: dict[str, tuple[str, ...]] = {
    "h5ad": (".h5ad",), "zarr": (".zarr",), "csv": (".csv",), "parquet": (".parquet",), "ranking": (),
    "groups": (), "likeness": (), "map": (".png", ".svg", ".pdf"), "report": (".html",),
    "methods": (".txt",), "crops": (), "crops-zarr": (), "spatialdata": (), "project": (".cellrep",),
}  # fmt: skip


def declare_export(commands: Commands) -> None:
    export = commands.add(
        "export", _export, "Write results for other programs: tables, crops, a report, a project to share."
    )
    project_argument(export)
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


def _export(args: argparse.Namespace) -> None:
    endings = {ending: kind for kind, known in EXPORTS.items() for ending in known}
    kind = args.format or endings.get(args.out.suffix.lower(), "")
    if not kind:
        raise InputError(f"{args.out.name} has no ending we know; use {', '.join(endings)}, or --format.")
    project = open_project(args.project)
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
    if kind in ("csv", "parquet", "ranking", "groups"):
        print(f"What its columns mean: cellrep info {args.project} --columns")
