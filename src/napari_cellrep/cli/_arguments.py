"""Arguments that several commands share: how they are added to a parser, and how they are read."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_cellrep import registry
from napari_cellrep.jobs import Shard
from napari_cellrep.specs import InputError, field_rules


def _peek(argv: Sequence[str], command: str, option: str, default: str) -> str:
    """The value of `option` where `command` is being run: its settings become options too. "" for other commands."""
    if not _runs(argv, command):
        return ""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return default


def _runs(argv: Sequence[str], command: str) -> bool:
    """Whether `command` is what is being run."""
    return next((word for word in argv if not word.startswith("-")), "") == command


def _config_arguments(
    parser: argparse.ArgumentParser, kind: str, name: str, cls: str, but: Sequence[str] = ()
) -> list[str]:
    """One option per field of a config dataclass; returns their names."""
    if not name or name not in registry.names(kind) or not hasattr(registry.load(kind, name), cls):
        return []
    what = {"Config": f"settings of {name}", "Training": f"how {name} is trained"}[cls]
    group = parser.add_argument_group(what)
    rules = field_rules(getattr(registry.load(kind, name), cls))
    taken = {option for action in parser._actions for option in action.option_strings}
    for key, rule in rules.items():
        if key in but or f"--{key.replace('_', '-')}" in taken:
            continue
        text = rule.get("help") or rule.get("label", key)
        default = ",".join(rule["default"]) if rule["type"] == "tuple" else rule["default"]
        if default != "":
            text = f"{text} (default {default})"
        choices = "|".join(map(str, rule.get("choices", ())))
        group.add_argument(
            f"--{key.replace('_', '-')}", dest=f"{cls}.{key}", default=None, help=text.replace("%", "%%"),
            metavar=choices or {"int": "N", "float": "X", "bool": "yes|no", "tuple": "A,B"}.get(rule["type"], "TEXT"),
        )  # fmt: skip
    return list(rules)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # argparse would leave the sentence out


def _config_values(args: argparse.Namespace, cls: str) -> dict[str, Any]:
    start = f"{cls}."
    return {k.removeprefix(start): v for k, v in vars(args).items() if k.startswith(start) and v is not None}


def _layout_names(argv: Sequence[str]) -> str:
    if not {"new", "add"} & set(argv[:1]):
        return ""  # nobody reads it, and it takes a while to load
    from napari_cellrep.data.layouts import LAYOUTS

    return ", ".join(layout.name for layout in LAYOUTS) + "; "


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


def _project_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=Path, help="the project folder, NAME.cellrep")


def _fields_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fields", default="", metavar="A,B", help="only these fields (default: all)")


def _estimate_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="only try it for a second and say how long all of it would take, and how much memory",
    )


def _model_argument(parser: argparse.ArgumentParser, default: str, trainable: bool) -> None:
    parser.add_argument(
        "--model", default=default, choices=registry.names("models"), help=f"default: {default}"
    )


def _channels_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channels",
        default="",
        metavar="A,B",
        help="names or roles in the order the model wants (default: by role)",
    )


def _crop_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "the window cut about each cell (default: the model's own, or the project's)"
    )
    group.add_argument("--window-px", dest="crop.window_px", metavar="N", help="its side in image pixels")
    group.add_argument(
        "--masked", dest="crop.masked", metavar="yes|no", help="black out what is not the cell itself"
    )
    group.add_argument(
        "--crop-mode",
        dest="crop.mode",
        metavar="window|box",
        help="one size for all, or as large as each cell asks",
    )
    group.add_argument(
        "--shrink-large",
        dest="crop.box_shrink",
        metavar="yes|no",
        help="with the mode box: shrink what is larger than the network's input instead of cutting it off",
    )


def _crop_values(args: argparse.Namespace) -> dict[str, Any]:
    return {
        k.removeprefix("crop."): v for k, v in vars(args).items() if k.startswith("crop.") and v is not None
    }


def _device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or mps (default: the fastest there is)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="default: the fastest that agrees",
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _import_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "channels": _words(args.channels), "pattern": args.pattern, "layout": args.layout, "metadata": args.metadata,
        "on": args.on, "z": args.z, "rgb": args.rgb, "stack": args.stack, "um_per_px": args.um_per_px,
    }  # fmt: skip


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"A setting is written NAME=VALUE; got {text!r}.")
        settings[name.strip()] = _literal(value.strip())
    return settings


def _literal(text: str) -> Any:
    """A number or a yes/no where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)


def _settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
        and p.default is not p.empty
        and p.name not in ("embedding", "include_flagged")
    }
