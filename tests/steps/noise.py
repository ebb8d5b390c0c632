"""Vectors that say nothing, for tests that need a second embedding."""

from __future__ import annotations

import numpy as np

from napari_cellrep.data import Project


def add_noise_embedding(project: Project, key: str, fill: float | None = None) -> None:
    """Add vectors that say nothing: noise, or the same everywhere."""
    rng = np.random.default_rng(0)
    project.start_embedding(key, {"model": key})
    for field, own in project.cells.obs.groupby(project.cells.obs["field"].astype(str)):
        x = rng.normal(size=(len(own), 5)) if fill is None else np.full((len(own), 5), fill)
        project.write_rows(
            key, str(field), own["label"].to_numpy(), own["mask_hash"].to_numpy(), x.astype(np.float32)
        )
    project.merge()
