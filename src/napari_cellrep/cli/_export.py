"""The command that writes files for others: export."""

from __future__ import annotations

import argparse

from napari_cellrep.cli._drive import (
    _open,
    run,
)
from napari_cellrep.specs import InputError

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
