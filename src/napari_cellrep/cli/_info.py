"""The command that tells what is there and how it was made: info."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from napari_cellrep.cli._arguments import Commands
from napari_cellrep.cli._drive import open_project, print_problems
from napari_cellrep.cli._models import about_weights
from napari_cellrep.specs import InputError, how_many, join_words


def declare_info(commands: Commands) -> None:
    info = commands.add("info", _info, "Tell what a project (or a trained model) holds and how it was made.")
    info.add_argument(
        "path", type=Path, help="a project folder, a model folder, or the name of published weights"
    )
    info.add_argument(
        "--columns", action="store_true", help="say instead what each column of a project's tables means"
    )


def _info(args: argparse.Namespace) -> None:
    if (args.path / "model.json").is_file():
        print((args.path / "model.json").read_text(encoding="utf-8"))
        return
    if not args.path.exists() and _info_published(str(args.path)):
        return
    from napari_cellrep.data.cells import FLAGS, is_untrained
    from napari_cellrep.steps.freshness import look

    project = open_project(args.path)
    if args.columns:
        _print_columns(project)
        return
    fields, bad = project.fields, {f.id: f.problem for f in project.fields if f.problem}
    print(
        f"{project.name}: {how_many(len(fields), 'field')}, {how_many(len({f.group for f in fields}), 'group')}"
    )
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
    stale = look(project, project.embedding_keys())
    if stale.replaced:
        n, some = len(stale.replaced), join_words(stale.replaced, 3)
        print(
            f"  replaced    the images of {how_many(n, 'field')} ({some}) are others than its cells were found in: labels, "
            f"cells and\n              vectors of {'them' if n != 1 else 'it'} are out of date. cellrep segment {args.path}, "
            "then embed; only they are done anew"
        )
    elif stale.away:
        print("              nothing counts as out of date for that")
    for others, done, again in (
        (stale.labels, "found", "segment"),
        (stale.cells, "measured and flagged", "crop"),
    ):
        if others and not (again == "crop" and stale.labels):  # segmenting is followed by it anyway
            print(
                f"  out of date cells of {how_many(len(others), 'field')} were {done} before the illumination was "
                f"changed: cellrep {again} {args.path}"
            )
    print_problems(bad, "have a problem")
    if project.has_cells:
        obs = project.cells.obs
        print(f"  cells       {len(obs):,}, {int(obs['good'].sum()):,} good")
        flags = Counter(flag for text in obs["flags"].astype(str) for flag in text.split(";") if flag)
        if flags:
            several = ", several of one cell counted each" if flags.total() > (~obs["good"]).sum() else ""
            print(f"  flagged     {int((~obs['good']).sum()):,}, left out of rankings{several}:")
        for flag, n in flags.most_common():
            print(f"              {n:,} {flag}{f': {FLAGS[flag]}' if flag in FLAGS else ''}")
        for name in project.embedding_keys():
            made, has = project.embedding_info(name), obs.get(f"has_{name}")
            count = int(has.sum()) if has is not None else 0
            layer = f" layer {made['layer']}" if made.get("layer") else ""
            print(f"  embedding   {name}: {count:,} cells, {made.get('model')}{layer}"
                  f"{', random weights' if is_untrained(made) else ''}")  # fmt: skip
            if name in stale.vectors:
                print(
                    "              out of date: the illumination of the images was corrected differently then"
                )
            elif lacking := stale.lacking.get(name):
                print(f"              {lacking:,} cells, new or edited since, have no vector: embed again")
            if results := stale.results.get(name):
                print(f"              out of date: {join_words(results, 9)}; run these analyses again")
    print("  history")
    for line in project.history:
        print(f"    {_line_of_history(line)}")
    if back := project.undoable:
        of = f" ({back['of']})" if back["of"] else ""
        kept = f"{project.undo_bytes / 1e6:.1f} MB kept"
        print(f"  undo        {back['step']}{of} can be taken back: cellrep undo {args.path} ({kept})")


def _print_columns(project: Any) -> None:
    from napari_cellrep.steps.columns import explain

    tables = explain(project)
    if not tables:
        raise InputError(f"{project.root.name} has no table yet: cellrep segment {project.root} makes it.")
    for table, columns in tables.items():
        print(f"{table}:")
        width = min(40, max(map(len, columns)))
        for column, words in columns.items():
            print(f"  {column:<{width}}  {words}")


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
        f"{spec.title} ({spec.name}), {n_weights / 1e6:.3g} million weights\n{about_weights(spec, weights)}"
    )
    print(f"  here: {path}" if path else f"  not on this machine yet: cellrep models fetch {name}")
    if card.is_file():
        print(card.read_text(encoding="utf-8"))
    return True
