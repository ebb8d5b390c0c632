"""What other versions wrote: newer is refused in a sentence and stays, the oldest there is can be gone on with."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.data.cells import OBS_COLUMNS
from napari_cellrep.data.fields import OWN_COLUMNS
from napari_cellrep.data.project import FORMAT
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model, save_model
from napari_cellrep.models._checkpoint import CHECKPOINT_FORMAT, read_checkpoint
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.segment import segment


@pytest.fixture
def oldest(tmp_path):
    """A project of format 1 as its first writers left it: two corners of BBBC013 wells, segmented and measured.

    Its labels go by the images' time, its vectors do not say of which pixels they are, its table not from what it was measured.
    """
    with zipfile.ZipFile(Path(__file__).parent / "data" / "formats" / "1.zip") as packed:
        packed.extractall(tmp_path)
    project = open_project(tmp_path / "first.cellrep")
    for field in project.fields:
        name, _, _, _, when = project.label_info(field.id)["image"][0]
        os.utime(tmp_path / "images" / name, ns=(when, when))  # which a zip does not keep
    return project


def _bytes(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def test_the_oldest_project_is_read_and_gone_on_with(oldest, capsys):
    assert json.loads((oldest.root / "project.json").read_text())["format"] == 1
    assert oldest.cells.n_obs == 27
    assert np.isfinite(oldest.cells.obsm["X_measurements"]).all()
    before = oldest.cells.obsm["X_measurements"].copy()
    assert drain(segment(oldest)).skipped == 2
    assert drain(embed(oldest, model="measurements")).n_cells == 0
    np.testing.assert_array_equal(oldest.cells.obsm["X_measurements"], before)
    assert set(oldest.measured_from()) == {"A01", "A12"}  # from now on a replaced image is noticed
    assert main(["info", str(oldest.root)]) == OK
    assert "measurements: 27 cells" in capsys.readouterr().out
    again = drain(embed(oldest, model="measurements", key="again"))
    assert again.n_cells == 27
    np.testing.assert_allclose(oldest.cells.obsm["X_again"], before, rtol=1e-4, atol=1e-5)


def test_what_a_project_of_this_format_holds(oldest):
    """If this fails, versions before yours can no longer read what yours writes: raise FORMAT, and keep a project of the old one.

    More keys, columns and names may come: older versions leave them aside.
    """
    assert FORMAT == 1
    drain(embed(oldest, model="measurements", key="new"))
    drain(segment(oldest, overwrite=True))
    info = json.loads((oldest.root / "project.json").read_text(encoding="utf-8"))
    assert {"format", "channels", "group_by", "history"} <= set(info)
    assert set(info["channels"][0]) == {"name", "role"}
    assert set(OWN_COLUMNS) <= set(pd.read_parquet(oldest.root / "fields.parquet").columns)
    planes = json.loads(pd.read_parquet(oldest.root / "fields.parquet")["planes"][0])
    assert [len(p) for p in planes] == [4, 4]  # path, channel, z, t: they are read by their place
    assert set(OWN_COLUMNS) == {
        "field", "group", "planes", "height_px", "width_px", "dtype", "um_per_px", "stack", "problem",
    }  # fmt: skip
    rows = np.load(oldest.root / "embeddings" / "new" / "A01.npy")
    assert {"label", "mask_hash", "x"} <= set(rows.dtype.names)
    assert (rows["label"].dtype, rows["mask_hash"].dtype) == (np.int64, np.uint64)
    assert set(OBS_COLUMNS) <= set(oldest.cells.obs.columns)
    assert {"segmenter", "settings", "digest", "n_cells"} <= set(oldest.label_info("A01"))


def test_a_model_of_a_newer_version_is_refused_and_not_overwritten(tmp_path):
    net = create_model("paired_cell_inpainting", width=0.125)
    save_model(net, tmp_path / "mine")
    path = tmp_path / "mine" / "model.json"
    info = json.loads(path.read_text())
    assert info["format"] == 1
    path.write_text(json.dumps({**info, "format": 2, "config": {"what comes": "later"}}))
    before = _bytes(tmp_path)
    for call in (lambda: load_model(tmp_path / "mine"), lambda: save_model(net, tmp_path / "mine")):
        with pytest.raises(InputError, match=r"newer version \(format 2, this one reads up to 1\)"):
            call()
    assert _bytes(tmp_path) == before
    del info["format"]  # as all were before they said it
    path.write_text(json.dumps(info))
    assert load_model(tmp_path / "mine").spec.name == "paired_cell_inpainting"


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    import torch

    path = tmp_path / "checkpoint.pt"
    torch.save({"format": CHECKPOINT_FORMAT + 1, "step": 3}, path)
    with pytest.raises(InputError, match="newer version"):
        read_checkpoint(path)
    torch.save({"format": CHECKPOINT_FORMAT, "step": 3}, path)
    assert read_checkpoint(path)["step"] == 3


@pytest.mark.slow
def test_training_leaves_a_newer_checkpoint_alone(oldest, capsys):
    import torch

    project = str(oldest.root)
    train = ["train", project, "--model", "autoencoder", "--include-flagged", "--device", "cpu"]
    assert main([*train, "--max-steps", "1"]) == OK
    (path,) = oldest.root.rglob("checkpoint.pt")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "format": CHECKPOINT_FORMAT + 1}, path)
    before = _bytes(path.parent)
    assert main([*train, "--max-steps", "2"]) == BAD_INPUT
    assert "newer version" in capsys.readouterr().err
    assert _bytes(path.parent) == before


def test_a_result_of_a_newer_version_stays(oldest):
    drain(analyze(oldest, recipe="outliers", within="all", include_flagged=True))
    cells = oldest.cells
    made = json.loads(cells.uns["cellrep"]["outliers_measurements"])
    assert made["version"] == 2
    cells.uns["cellrep"]["outliers_measurements"] = json.dumps({**made, "version": 99, "digest": "x"})
    oldest.write_cells(cells)
    before = _bytes(oldest.root)
    with pytest.raises(InputError, match=r"outliers gave for measurements was written by a newer version"):
        drain(analyze(oldest, recipe="outliers", within="all", include_flagged=True))
    assert _bytes(oldest.root) == before


def test_a_table_of_a_newer_anndata_is_refused_and_stays(oldest, capsys):
    path = oldest.root / "cells.zarr" / "zarr.json"
    said = json.loads(path.read_text())
    said["attributes"]["encoding-version"] = "99.0"
    said.pop("consolidated_metadata", None)
    path.write_text(json.dumps(said))
    before = _bytes(oldest.root / "cells.zarr")
    assert main(["embed", str(oldest.root), "--model", "measurements"]) == BAD_INPUT
    assert "cells.zarr cannot be read" in capsys.readouterr().err
    assert _bytes(oldest.root / "cells.zarr") == before
