"""Commands that compute: segment, train, embed, analyze."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_cellrep import registry
from napari_cellrep.cli._arguments import (
    Commands,
    channels_argument,
    config_arguments,
    config_values,
    crop_arguments,
    crop_values,
    device_arguments,
    estimate_argument,
    fields_argument,
    is_run,
    peek,
    project_argument,
    read_settings,
    shard_argument,
    split_words,
)
from napari_cellrep.cli._drive import open_project, print_notes, print_problems, run
from napari_cellrep.specs import InputError, how_many, join_words, read_numbers


def declare_segment(commands: Commands) -> None:
    segment = commands.add(
        "segment", _segment, "Find the cells of every field, and what is wrong with each cell."
    )
    project_argument(segment)
    fields_argument(segment)
    segment.add_argument(
        "--segmenter", default="nuclei", choices=registry.names("segmenters"), help="default: nuclei"
    )
    segment.add_argument(
        "--overwrite", action="store_true", help="segment again what is up to date or edited by hand"
    )
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    shard_argument(segment)
    segment.add_argument(
        "--window-px",
        type=int,
        default=0,
        help="side of the window cut about each cell, for its flags and later for the models (default 64, "
        "or as the last time); take about three times a nucleus",
    )
    segment.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="when a cell is flagged, for example debris_share=0.2; may be given several times",
    )
    estimate_argument(segment)
    config_arguments(segment, "segmenters", peek(commands.argv, "segment", "--segmenter", "nuclei"), "Config")


def _segment(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.crop import crop
    from napari_cellrep.steps.segment import segment, unusual_fields

    project = open_project(args.project)
    how: dict[str, Any] = {
        "segmenter": args.segmenter, "config": config_values(args, "Config"), "fields": split_words(args.fields),
        "device": args.device, "overwrite": args.overwrite,
    }  # fmt: skip
    if args.estimate:
        _print_estimate(project, "segment", how)
        return
    result = run(segment(project, **how, shard=args.shard))
    skipped = f" ({result.skipped:,} were up to date)" if result.skipped else ""
    print(
        f"{how_many(result.n_cells, 'cell')} in {how_many(result.done + result.skipped, 'field')}{skipped}."
    )
    print_problems(result.problems, "need a look")
    print_problems(result.notes, "have something to know")
    if args.shard.world == 1:
        rules = read_settings(args.rule)
        if args.window_px:
            rules["window_px"] = args.window_px
        run(crop(project, rules=rules))
        good = int(project.cells.obs["good"].sum())
        print(
            f"{good:,} cells are good, {project.cells.n_obs - good:,} carry a flag (kept, but left out of rankings)."
        )
        found = project.cells.obs["field"].astype(str).value_counts()
        odd = unusual_fields({f.id: int(found[f.id]) for f in project.fields if f.id in found})
        print_problems({field: f"{field}: {why}." for field, why in odd.items()}, "are unlike the others")


def declare_train(commands: Commands) -> None:
    train = commands.add("train", _train, "Train a model on the project's own cells.")
    project_argument(train)
    train.add_argument(
        "--model",
        default="paired_cell_inpainting",
        choices=registry.names("models"),
        help="default: paired_cell_inpainting",
    )
    train.add_argument("--name", default="", help="what the trained model is called (default: as the model)")
    train.add_argument(
        "--restart", action="store_true", help="begin anew instead of going on from the last checkpoint"
    )
    train.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "on", "off"),
        help="compile the network (default: in long trainings on CUDA, if a trial shows that it pays)",
    )
    train.add_argument("--include-flagged", action="store_true", help="train on flagged cells too")
    fields_argument(train)
    train.add_argument(
        "--where",
        default="",
        metavar="FILTER",
        help='only cells of which this is true, for example "dose_rank < 3"',
    )
    train.add_argument(
        "--set", default="", metavar="NAME", help="only the cells of a set saved in the window"
    )
    train.add_argument(
        "--labels",
        default="",
        metavar="COLUMN",
        help="for deeploc: the column of the cell table that holds each cell's class",
    )
    train.add_argument(
        "--weights",
        default="",
        metavar="NAME|PATH",
        help="start from these weights: a model trained in this project, published weights, or a file",
    )
    train.add_argument(
        "--seeds",
        default="",
        metavar="0,1,2",
        help="train once from each seed and keep the best by held-out loss",
    )
    train.add_argument(
        "--learning-rates",
        default="",
        metavar="1e-3,3e-4",
        help="train once with each and keep the best by held-out loss; with --seeds: every pair of them",
    )
    train.add_argument(
        "--preset",
        default="",
        help="small: settings of ours for few cells (default: the paper's recipe); single settings go before it",
    )
    train.add_argument(
        "--finish", action="store_true", help="do no further step: make the model of the last checkpoint"
    )
    estimate_argument(train)
    channels_argument(train)
    crop_arguments(train)
    device_arguments(train)
    chosen = peek(commands.argv, "train", "--model", "paired_cell_inpainting")
    taken = config_arguments(train, "models", chosen, "Training")
    config_arguments(train, "models", chosen, "Config", but=taken)


def _train(args: argparse.Namespace) -> None:
    from napari_cellrep.models._processes import joined
    from napari_cellrep.steps.train import train, train_several

    project = open_project(args.project)
    how: dict[str, Any] = {
        "model": args.model, "name": args.name, "config": config_values(args, "Config"),
        "training": config_values(args, "Training"), "channels": split_words(args.channels), "crop": crop_values(args),
        "device": args.device, "precision": args.precision, "resume": not args.restart,
        "include_flagged": args.include_flagged, "fields": split_words(args.fields), "where": args.where,
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


def declare_embed(commands: Commands) -> None:
    embed = commands.add("embed", _embed, "Describe every cell by the numbers of a model.")
    project_argument(embed)
    fields_argument(embed)
    embed.add_argument(
        "--model",
        default="",
        metavar="A,B",
        help="a model trained in this project, a path to weights, or a model's name (default: paired_cell_inpainting); "
        "several read each field once",
    )
    embed.add_argument(
        "--weights",
        default="",
        metavar="NAME",
        help="published weights that were fetched, by their name (`cellrep models` lists them)",
    )
    embed.add_argument("--key", default="", help="what the embedding is called (default: as the model)")
    embed.add_argument(
        "--layers", default="", metavar="A,B", help='layers to read out, or "all" (default: the model\'s own)'
    )
    embed.add_argument("--batch-size", type=int, default=0, help="cells at a time (default: found out)")
    embed.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the network that leaves its weights as they are, for example channel_mode=mean or "
        "scaling=rescale of microsnoop; may be given several times",
    )
    estimate_argument(embed)
    table = embed.add_argument_group(
        "instead of a model, numbers from elsewhere (CellProfiler, published features)"
    )
    table.add_argument(
        "--features",
        default="",
        metavar="TABLE",
        help="CSV or parquet with one row per cell; becomes an embedding",
    )
    table.add_argument(
        "--on",
        default="",
        metavar="A=B,…",
        help="columns that say which cell a row is of, table's=project's, for example "
        "Metadata_Well=well,ObjectNumber=label (default: cell_id, else field and label; field_number is the place of a "
        "field in the project, from 1)",
    )
    table.add_argument(
        "--columns",
        default="",
        metavar="A,B*",
        help="columns that are features (default: all numbers but those that count or place cells)",
    )
    shard_argument(embed)
    embed.add_argument(
        "--whole-fields",
        nargs="?",
        const="auto",
        default="",
        choices=("auto", "tile", "rescale"),
        help="describe whole fields instead of cells: by the model's own tiles, or the field shrunk to its input "
        "(default: tiles where the model has them)",
    )
    channels_argument(embed)
    crop_arguments(embed)
    device_arguments(embed)


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
    project = open_project(args.project)
    if args.whole_fields:
        _embed_fields(args, project, model)
        return
    several = () if Path(model).exists() else split_words(model)  # a path may have a comma in it
    how: dict[str, Any] = {
        "model": several if len(several) > 1 else model, "key": args.key, "layers": split_words(args.layers),
        "channels": split_words(args.channels), "crop": crop_values(args), "settings": read_settings(args.set),
        "fields": split_words(args.fields), "device": args.device, "precision": args.precision, "batch_size": args.batch_size,
    }  # fmt: skip
    if args.estimate:
        for one in several or (model,):
            _print_estimate(project, "embed", {**how, "model": one})
        return
    result = run(embed(project, **how, shard=args.shard))
    _print_embedded(result, f"{how_many(result.n_cells, 'cell')} embedded as {join_words(result.keys)}")


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
        or crop_values(args)
    ):
        raise InputError(
            "--features takes the numbers from a table: --model, --weights, --layers, --channels, --fields, "
            "--whole-fields, --shard, --set and the window do not apply."
        )
    on = read_on(args.on) if args.on else {}
    project = open_project(args.project)
    job = import_features(project, args.features, key=args.key, columns=split_words(args.columns), on=on)
    result = run(job)
    key = result.keys[0]
    dims = project.cells.obsm[f"X_{key}"].shape[1]
    print(f"{result.n_cells:,} cells have {dims:,} numbers each as {key}.")
    print_notes(result.notes)


def _embed_fields(args: argparse.Namespace, project: Any, model: str) -> None:
    from napari_cellrep.steps.embed_fields import embed_fields

    if crop_values(args) or args.layers or args.shard.world > 1:
        raise InputError(
            "Whole fields have no crops, layers or shards to choose: leave out --crop-mode, --window-px, --masked, "
            "--layers and --shard."
        )
    result = run(
        embed_fields(
            project, model=model, key=args.key, mode=args.whole_fields, channels=split_words(args.channels),
            settings=read_settings(args.set), fields=split_words(args.fields), device=args.device, precision=args.precision,
        )
    )  # fmt: skip
    words = f"{how_many(result.n_fields, 'field')} embedded as {result.key}"
    _print_embedded(result, words, "; they are in fields.zarr")


def _print_embedded(result: Any, words: str, where: str = "") -> None:
    """What an embedding of cells or of whole fields came to, and what was left out."""
    skipped = f", {result.n_skipped:,} were up to date" if result.n_skipped else ""
    print(f"{words}{skipped}{where}.")
    print_notes(result.notes)
    print_problems(result.problems, "were left out")


def declare_analyze(commands: Commands) -> None:
    analyze = commands.add(
        "analyze",
        _analyze,
        "Map, score and rank the cells.",
        epilog=_recipe_help(commands.argv),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    project_argument(analyze)
    analyze.add_argument("recipe", help="what to ask; listed below")
    analyze.add_argument("--embedding", default="", help="which embedding (default: the only one)")
    analyze.add_argument("--include-flagged", action="store_true", help="use flagged cells too")
    analyze.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the recipe; may be given several times",
    )
    analyze.add_argument(
        "--group", default="", metavar="NAME", help='short for --set group=NAME, of "similar"'
    )
    analyze.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the ranked groups there, of variability and similar"
    )


def _analyze(args: argparse.Namespace) -> None:
    from napari_cellrep.data.files import write_text
    from napari_cellrep.steps.analyze import TABLES, analyze

    settings = {name.replace("-", "_"): value for name, value in read_settings(args.set).items()}
    if args.group:
        settings["group"] = args.group
    if args.csv is not None and args.recipe not in TABLES:
        raise InputError(f"The recipe {args.recipe!r} ranks no groups; --csv is of {join_words(TABLES, 12)}.")
    project = open_project(args.project)
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


def _recipe_help(argv: Sequence[str]) -> str | None:
    if not is_run(argv, "analyze"):  # scikit-learn takes a second to import
        return None
    from napari_cellrep.steps.analyze import RECIPES

    lines = ["recipes and their settings:"]
    for name, function in RECIPES.items():
        lines.append(f"  {name:<12} {(inspect.getdoc(function) or '').splitlines()[0]}")
        settings = _settings_of(function)
        if settings:
            lines.append(f"  {'':<12}   settings: {', '.join(f'{k}={v}' for k, v in settings.items())}")
    return "\n".join(lines)


def _settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
        and p.default is not p.empty
        and p.name not in ("embedding", "include_flagged")
    }
