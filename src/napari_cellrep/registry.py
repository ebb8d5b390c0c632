"""Which models and segmenters there are: files in a folder, and entry points of other packages.

Standard library (and `specs`, to read configs) only. A fifth model is one new file; nothing is registered by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from napari_cellrep.specs import field_rules

logger = logging.getLogger(__name__)

KINDS = ("models", "segmenters")


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise ValueError(f"There is no kind of extension called {kind!r}; kinds are {', '.join(KINDS)}.")
    return Path(__file__).parent / kind


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"napari_cellrep.{kind}")}


def names(kind: str) -> tuple[str, ...]:
    """Names of all extensions of a kind ("models", "segmenters"), sorted; private files (``_x.py``) left out."""
    own = (path.stem for path in _folder(kind).glob("*.py") if not path.stem.startswith("_"))
    return tuple(sorted({*own, *_entry_points(kind)}))


def load(kind: str, name: str) -> ModuleType:
    """Import the module called `name`.

    Raises
    ------
    KeyError
        If there is none; the message lists the names there are.
    """
    if name not in names(kind):
        raise KeyError(f"There is no {kind[:-1]} called {name!r}; there are: {', '.join(names(kind))}.")
    point = _entry_points(kind).get(name)
    return point.load() if point else importlib.import_module(f"napari_cellrep.{kind}.{name}")


_EXTRAS = ("LICENCE", "PACKAGE", "INSTALL", "SLOW", "MODELS")  # what a segmenter may say of itself


def describe(kind: str) -> dict[str, dict[str, Any]]:
    """Everything a form or a list needs to know, as plain JSON types.

    Imports the modules (torch, for models): the window asks the worker for this and caches it under
    `stamp`, so that it need never import them itself.

    Returns
    -------
    dict
        name → {"spec": …, "config": {field: {type, default, label, …}}, "training": … or None,
        "doc": first line of the module's docstring}, and of segmenters that bring them LICENCE, PACKAGE, INSTALL, SLOW and
        MODELS in small letters. An extension of another package that cannot be imported is
        left out, with a line in the log: the window opens without it.
    """
    found = {}
    for name in names(kind):
        try:
            module = load(kind, name)
        except Exception as error:
            if name not in _entry_points(kind):
                raise  # one of our own: a fault to be seen
            logger.warning("The %s %r cannot be imported and is left out: %s", kind[:-1], name, error)
            continue
        spec = getattr(module, "SPEC", None)
        found[name] = {
            "spec": spec.to_json() if spec is not None else {"name": name},
            "config": field_rules(module.Config),
            "training": field_rules(module.Training) if hasattr(module, "Training") else None,
            "doc": next(iter((module.__doc__ or "").strip().splitlines()), ""),
            **{k.lower(): getattr(module, k) for k in _EXTRAS if kind == "segmenters" and hasattr(module, k)},
        }
    return json.loads(json.dumps(found, default=_plain))  # type: ignore[no-any-return]


def stamp(kind: str) -> str:
    """Hash of the kind's files and entry points; changes when `describe` may."""
    h = hashlib.sha256()
    for path in sorted(_folder(kind).glob("*.py")):
        h.update(path.name.encode() + path.read_bytes())
    for name, point in sorted(_entry_points(kind).items()):
        h.update(f"{name}={point.value}".encode())
    return h.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
