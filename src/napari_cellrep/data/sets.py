"""Named sets of cells: ``sets.json`` of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_cellrep.data.files import read_entries
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


def cells_digest(cells: list[str]) -> str:
    """Short hash of a set's cells: another one when a cell was added or taken away."""
    return digest(sorted(cells))
