"""The models' room on a machine that has only torch, numpy, scipy, scikit-image and scikit-learn beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = (
    "pandas",
    "anndata",
    "zarr",
    "tifffile",
    "pyarrow",
    "psygnal",
    "qtpy",
    "PyQt6",
    "PySide6",
    "napari",
    "magicgui",
)

MODELS = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import torch
from napari_cellrep.models import create_model, list_models
from napari_cellrep import registry
from napari_cellrep.models import _engine, _train
for name in list_models():
    module = registry.load("models", name)
    model = module.Model(module.TINY)
    x = torch.arange(2 * model.n_planes * 64 * 64).reshape(2, model.n_planes, 64, 64) % 251
    assert _engine.Embedder(model, device="cpu", precision="fp32").run(x.numpy())
registry.describe("models")
"""

PACKAGE = """
import sys
import napari_cellrep
bad = [name for name in ("torch", "qtpy", "PyQt6", "napari", "numpy", "pandas") if name in sys.modules]
assert not bad, bad
"""


@pytest.mark.parametrize("code", [MODELS, PACKAGE], ids=["models", "package"])
def test_in_a_fresh_process(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
