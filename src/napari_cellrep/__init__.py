"""napari-cellrep: which of my cells look different, and how?

Importing the package loads neither torch nor Qt; the public names below load what they need when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_cellrep.data import open_project
    from napari_cellrep.models import create_model, list_models, load_model

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load_model", "open_project"]


def __getattr__(name: str) -> Any:
    if name in ("list_models", "create_model", "load_model"):
        from napari_cellrep import models

        return getattr(models, name)
    if name == "open_project":
        from napari_cellrep.data import open_project

        return open_project
    raise AttributeError(f"module 'napari_cellrep' has no attribute {name!r}")
