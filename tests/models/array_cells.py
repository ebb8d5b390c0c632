"""Cells in an array, for the training loop."""

from __future__ import annotations

import numpy as np


class ArrayCells:
    """The training loop's protocol over an array: crops (n, 2, 64, 64) uint8, group = well."""

    def __init__(self, array: np.ndarray, groups: np.ndarray, fields: np.ndarray | None = None):
        self.array, self.groups = array, groups
        if fields is not None:  # without, none is held out
            self.fields = fields

    def __len__(self) -> int:
        return len(self.array)

    def crops(self, rows: np.ndarray) -> np.ndarray:
        return self.array[rows]
