"""Named sets of cells: ``sets.json`` of the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_cellrep.data.files import change_entries, read_entries
from napari_cellrep.specs import digest


def read_sets(root: Path) -> dict[str, dict[str, Any]]:
    """Sets of a project: name → {"cells": ids, "how": how it was made}; {} when there are none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    return read_entries(
        root / "sets.json", lambda made: isinstance(made["cells"], list), "sets", "go on without sets"
    )


def write_sets(
    root: Path,
    changes: Mapping[str, dict[str, Any] | None],
    order: Sequence[str] = (),
    known: Mapping[str, dict[str, Any]] | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Add, replace or (None) remove sets; the others stay, also what another window wrote meanwhile.

    Parameters
    ----------
    root : Path
    changes : mapping of str to set or None
    order : sequence of str
        Names that come first, in this order (the keys 1–9 go by it); the rest stay as they are.
    known : mapping, optional
        Sets in memory: where the file says the same, these are returned and not a copy.

    Returns
    -------
    before, now : dict
        All sets as they were on disk, and as they are.

    Raises
    ------
    InputError
        If the file is damaged, or cannot be written.
    """
    known, before = known or {}, {}

    def change(found: dict[str, Any]) -> dict[str, Any]:
        before.update(
            {name: known[name] if known.get(name) == made else made for name, made in found.items()}
        )
        all_of_them = {**before, **changes}
        first = {name: i for i, name in enumerate(order)}
        names = sorted(all_of_them, key=lambda name: first.get(name, len(first)))
        return {name: made for name in names if (made := all_of_them[name]) is not None}

    now = change_entries(root / "sets.json", lambda: read_sets(root), change, "sets")
    return before, now


def cells_digest(cells: list[str]) -> str:
    """Short hash of a set's cells: another one when a cell was added or taken away."""
    return digest(sorted(cells))
