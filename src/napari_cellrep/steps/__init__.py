"""Arrows: one verb per file, each a Job that the window, the command line and a cluster drive alike.

Torch is imported only inside functions. A step opens nothing it was not given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from napari_cellrep.jobs import Job


def find_step(name: str) -> Callable[..., Job[Any]]:
    """The step called ``"file.function"`` ("segment.segment").

    Raises
    ------
    KeyError
        If there is none.
    """
    file, _, function = name.partition(".")
    try:
        module = importlib.import_module(f"napari_cellrep.steps.{file}")
        return getattr(module, function)  # type: ignore[no-any-return]
    except (ModuleNotFoundError, AttributeError) as error:
        raise KeyError(f"There is no step {name!r}.") from error
