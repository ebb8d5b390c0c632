"""Which of my cells look different, and how? Single-cell image embeddings, with napari and without.

Importing the package loads neither torch nor Qt; the public names below load what they need when called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_cellrep.data import open_project
    from napari_cellrep.models import create_model, list_models, load_model

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load_model", "open_project"]


_HOMES = {"list_models": "models", "create_model": "models", "load_model": "models", "open_project": "data"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"napari_cellrep.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'napari_cellrep' has no attribute {name!r}")
