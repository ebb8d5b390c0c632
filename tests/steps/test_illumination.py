from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.illumination import correct, preview, save_preview
from napari_cellrep.steps.segment import segment


@pytest.mark.slow
def test_estimated_functions_make_everything_before_out_of_date(small: Project):
    drain(embed(small, model="measurements"))
    before = small.cells.obsm["X_measurements"].copy()
    assert drain(embed(small, model="measurements")).n_cells == 0
    words = drain(correct(small))
    assert "estimated from its fields" in words
    assert "out of date" in words
    assert small.illumination is not None
    assert "With only 4 fields" in small.illumination.words()
    assert small.last("illumination")["source"] == "estimated"
    result = drain(segment(small))
    assert (result.done, result.skipped) == (4, 0)
    assert drain(embed(small, model="measurements")).n_cells == small.cells.n_obs
    after = small.cells.obsm["X_measurements"]
    assert not np.allclose(before[np.isfinite(before)].mean(), after[np.isfinite(after)].mean(), rtol=1e-6)
    digest = small.embedding_info("measurements")["illumination"]
    assert digest == small.illumination.digest
    drain(correct(small, off=True))
    assert small.illumination is None
    assert "illumination" not in __import__("json").loads((small.root / "project.json").read_text())


def test_functions_that_were_brought(small: Project, tmp_path: Path):
    folder = tmp_path / "illum"
    folder.mkdir()
    light = np.linspace(0.5, 1.5, 256, dtype=np.float32)[None].repeat(256, 0)
    np.save(folder / "IllumDNA.npy", light)
    shown = drain(preview(small, functions=[folder], field="A12"))
    assert small.illumination is None  # nothing was written
    assert np.array_equal(shown.functions[1], light)
    assert np.array_equal(shown.before[0], shown.after[0])
    assert "DNA 3.00-fold" in shown.words
    save_preview(shown, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    drain(correct(small, functions=[folder]))
    assert np.array_equal(small.read_image("A12"), shown.after)
    assert "Without a function, and as they are: FKHR-GFP" in small.illumination.words()


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (np.ones((5, 6)), {}, "6×5 px and field A01 256×256 px"),
        (np.zeros((256, 256)), {}, "nothing can be divided"),
        (np.ones((256, 256)), {"operation": "add"}, "divide or to subtract"),
    ],
)
def test_bad_functions_are_one_sentence(small: Project, tmp_path: Path, function, options, sentence):
    np.save(tmp_path / "IllumDNA.npy", function)
    with pytest.raises(InputError, match=sentence):
        drain(correct(small, functions=[tmp_path / "IllumDNA.npy"], **options))
    assert small.illumination is None
