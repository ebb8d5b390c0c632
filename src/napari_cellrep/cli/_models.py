"""Commands for models: models (list), fetch, recommend."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from napari_cellrep import registry
from napari_cellrep.cli._arguments import Commands, project_argument
from napari_cellrep.cli._drive import open_project, run
from napari_cellrep.specs import InputError, ModelSpec, Weights


def declare_models(commands: Commands) -> None:
    models = commands.add(
        "models", _models, "List the models and published weights, what each wants and its licence."
    )
    actions = models.add_subparsers(title="more", metavar="ACTION")
    fetch = actions.add_parser(
        "fetch", help="download published weights", allow_abbrev=False,
        description="Download published weights from their authors' host, after showing their licence. They are kept "
        "in $CELLREP_WEIGHTS (default: in torch's cache) and then used by name: cellrep embed PROJECT --weights NAME.",
    )  # fmt: skip
    fetch.add_argument("name", help="as `cellrep models` lists it, for example pci-yeast")
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="take the files from a folder, without a network",
    )
    fetch.add_argument("--yes", action="store_true", help="accept the licence without being asked")
    fetch.set_defaults(run=_fetch)
    recommend = actions.add_parser(
        "recommend", help="say which model suits a project", allow_abbrev=False,
        description="Say in words which model suits a project's channels, groups and number of cells.",
    )  # fmt: skip
    project_argument(recommend)
    recommend.set_defaults(run=_recommend)
    for action in (fetch, recommend):
        action.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def _models(args: argparse.Namespace) -> None:
    from napari_cellrep.models._published import weights_folder

    for name in registry.names("models"):
        spec = registry.load("models", name).SPEC
        print(f"{name}\n  {spec.title}. Wants: {', '.join(spec.roles)}; {spec.crop.size_px} px crops."
              f"{' Can be trained here.' if spec.trains else ''}")  # fmt: skip
        for label, text in (("when", spec.when), ("paper", spec.paper), ("licence", spec.licence)):
            if text:
                print(f"  {label}: {text}")
        for weights in spec.weights:
            print("  " + about_weights(spec, weights).replace("\n", "\n  "))
    print(f"\nWeights are fetched with: cellrep models fetch NAME. They are kept in {weights_folder()}.")


def about_weights(spec: ModelSpec, weights: Weights) -> str:
    """Lines on a published checkpoint."""
    from napari_cellrep.models._published import find_fetched

    here = " (fetched)" if find_fetched(weights.name) else ""
    if weights.bundled:
        here = " (comes with this package)"
    sampling = f"{weights.um_per_px:g} µm/px" if weights.um_per_px else "sampling unknown"
    lines = [
        f"weights: {weights.name}{here}",
        f"  {weights.note}",
        f"  wants: {', '.join(weights.roles or spec.roles)}; {weights.size_px or spec.crop.size_px} px crops, {sampling}",
        f"  licence: {weights.licence}",
    ]
    return "\n".join(lines + ([f"  from: {weights.url}"] if weights.url else []))


def _fetch(args: argparse.Namespace) -> None:
    from napari_cellrep.models._published import find_fetched
    from napari_cellrep.steps.fetch import describe_published, fetch

    spec, weights = describe_published(args.name)
    if find_fetched(args.name) is None:
        print(f"{weights.name}: weights of {spec.title}\n  {weights.note}\n  from {args.source or weights.url}\n"
              f"  Licence: {weights.licence}", flush=True)  # fmt: skip
        if not args.yes:
            _ask(weights.name)
    path = run(fetch(args.name, accept_licence=True, source=args.source))
    folder = path if path.is_dir() else path.parent
    print(f"{weights.name} is in {folder}. Now: cellrep embed PROJECT --weights {weights.name}")


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"There is no terminal to ask at whether you accept the licence of {name}; read it (above) and say so "
            "with --yes."
        )
    answer = input("Do you accept these terms, and fetch the weights? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise InputError(f"{name} was not fetched, as its licence was not accepted.")


def _recommend(args: argparse.Namespace) -> None:
    from napari_cellrep.steps.recommend import facts_of, recommend

    for sentence in recommend(facts_of(open_project(args.project))):
        print(f"- {sentence}")
