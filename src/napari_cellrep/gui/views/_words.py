"""Columns of the cell table in the words of the window."""

from __future__ import annotations

from typing import Any

import numpy as np

# Prefix of what an analysis computed → what it says; the rest of the name is the embedding.
_ANALYSES = {
    "score_": "closer to A or to B", "outlier_": "how odd", "unlike_": "how unlike the control",
    "predicted_class_": "class, says the network", "sure_class_": "how probable its class is",
    "inpainting_mse_": "unlike its prediction (mean squared error)",
    "inpainting_mae_": "unlike its prediction (mean absolute error)",
    "taught_": "set it is in", "predicted_": "predicted set", "sure_": "how sure the prediction is",
}  # fmt: skip


def column_words(column: str) -> str:
    """What a column says: "score_dino" is "closer to A or to B (dino)"."""
    for start, words in _ANALYSES.items():
        if column.startswith(start) and len(column) > len(start):
            return f"{words} ({column.removeprefix(start).replace('_', ' ')})"
    return column.replace("_", " ")


def is_signed(column: str) -> bool:
    """Whether zero is the middle of a column: one side is A, the other B. Not of its spread, which has one side."""
    return column.startswith("score_") and not column.endswith(", spread")


def number_words(value: Any) -> str:
    """A value as people write it: 1,234 · 0.0123 · Wortmannin."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return "none"
        return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return str(value)
