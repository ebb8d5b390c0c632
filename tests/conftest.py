"""Fixtures every room uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real microscopy images and golden vectors beside the checkout."""
    folder = Path(os.environ.get("CELLREP_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder} (set CELLREP_SHARED)")
    return folder
