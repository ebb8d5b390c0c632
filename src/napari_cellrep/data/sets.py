"""Named sets of cells: ``sets.json`` of the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_cellrep.specs import InputError


def read_sets(root: Path) -> dict[str, dict[str, Any]]:
    """Sets of a project: name → {"cells": ids, "how": how it was made}; {} when there are none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = root / "sets.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(made["cells"], list) for made in found.values()):
            raise ValueError("it holds something else than sets")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); rename it to go on without sets.") from error
    return dict(found)
