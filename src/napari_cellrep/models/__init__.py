"""Networks: crops in, vectors, losses, reconstructions and attention out.

Imports torch and numpy, never zarr, pandas, anndata or Qt: this room runs on a machine that has only torch,
numpy, scipy, scikit-image and scikit-learn.
"""

from napari_cellrep.models._base import (
    CAPABILITIES,
    EmbeddingModel,
    can,
    change_settings,
    create_model,
    list_models,
    load_model,
    save_model,
)

__all__ = [
    "CAPABILITIES",
    "EmbeddingModel",
    "can",
    "change_settings",
    "create_model",
    "list_models",
    "load_model",
    "save_model",
]
