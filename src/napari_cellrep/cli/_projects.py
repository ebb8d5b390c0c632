"""Commands for a project and its images: made, added to, described, mended, shown."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_cellrep.cli._arguments import (
    _import_options,
    _words,
)
from napari_cellrep.cli._drive import (
    _open,
    _print_problems,
    run,
)
from napari_cellrep.cli._models import _about_weights
from napari_cellrep.specs import InputError, join_words


def _demo(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.demo import demo

    numbers = run(demo(args.out, seed=args.seed, train_seconds=args.seconds))
    print(numbers["summary"])
    if args.view:
        _start_napari(args.out / "bbbc013.cellrep")


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


def _compare(args: argparse.Namespace) -> None:
    project = _open(args.project)
    given = {name: getattr(args, name) for name in ("a", "b", "control") if getattr(args, name) is not None}
    if given:
        project.set_comparison(**given)
    for name, text in project.comparison.items():
        print(f"{name:<8} {text or 'not chosen'}")


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


def _unlock(args: argparse.Namespace) -> None:
    print(f"Free again. It was held by: {_open(args.project).unlock()}.")
