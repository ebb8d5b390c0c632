"""How commands are declared, and the arguments that several share: how they are added and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_cellrep import registry
from napari_cellrep.jobs import Shard
from napari_cellrep.specs import InputError, field_rules


class Commands:
    """Where every command declares itself: its name, what it runs, its help; its options are added to what `add` returns.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        What the commands are added to.
    argv : sequence of str
        What was typed: which model or segmenter was named decides which settings there are.
    """

    def __init__(self, parser: argparse.ArgumentParser, argv: Sequence[str]):
        self._commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        self.argv = argv

    def add(
        self, name: str, action: Callable[[argparse.Namespace], None], text: str, **kwargs: Any
    ) -> argparse.ArgumentParser:
        """A command that runs `action`; `text` is its help."""
        # No abbreviations: a shortened --segmenter would bring the settings of another segmenter.
        sub = self._commands.add_parser(name, help=text, description=text, allow_abbrev=False, **kwargs)
        sub.set_defaults(run=action)
        sub.add_argument(
            "--debug", action="store_true", help="on an error, show where in the program it happened"
        )
        return sub


def is_run(argv: Sequence[str], command: str) -> bool:
    """Whether `command` is what is being run."""
    return next((word for word in argv if not word.startswith("-")), "") == command


def peek(argv: Sequence[str], command: str, option: str, default: str) -> str:
    """The value of `option` where `command` is being run: its settings become options too. "" for other commands."""
    if not is_run(argv, command):
        return ""
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return default


def config_arguments(
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


def config_values(args: argparse.Namespace, cls: str) -> dict[str, Any]:
    start = f"{cls}."
    return {k.removeprefix(start): v for k, v in vars(args).items() if k.startswith(start) and v is not None}


def _read_shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # argparse would leave the sentence out


def project_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=Path, help="the project folder, NAME.cellrep")


def fields_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fields", default="", metavar="A,B", help="only these fields (default: all)")


def shard_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard",
        type=_read_shard,
        default=Shard(),
        metavar="I/N",
        help="only the I-th of N parts of the fields",
    )


def estimate_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="only try it for a second and say how long all of it would take, and how much memory",
    )


def channels_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--channels",
        default="",
        metavar="A,B",
        help="names or roles in the order the model wants (default: by role)",
    )


def crop_arguments(parser: argparse.ArgumentParser) -> None:
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


def crop_values(args: argparse.Namespace) -> dict[str, Any]:
    return {
        k.removeprefix("crop."): v for k, v in vars(args).items() if k.startswith("crop.") and v is not None
    }


def device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or mps (default: the fastest there is)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16"),
        help="default: the fastest that agrees",
    )


def split_words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
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
