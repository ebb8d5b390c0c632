"""Commands that compute: segment, train, embed, analyze."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from napari_cellrep.cli._arguments import (
    _config_values,
    _crop_values,
    _settings,
    _words,
)
from napari_cellrep.cli._drive import (
    _open,
    _print_problems,
    run,
)
from napari_cellrep.specs import InputError, join_words, read_numbers


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
