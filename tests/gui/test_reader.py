"""A project dropped on napari opens in its session, and the dock goes on from there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import tifffile

from napari_cellrep.gui._reader import get_reader
from napari_cellrep.gui._state import session_of
from napari_cellrep.jobs import drain
from napari_cellrep.steps.export_images import write_crops


def test_only_project_folders_are_claimed(tmp_path, sample_project):
    assert get_reader(str(sample_project.root)) is not None
    (tmp_path / "empty.cellrep").mkdir()
    for path in (
        str(tmp_path / "empty.cellrep"),
        str(tmp_path),
        "a.tif",
        [str(sample_project.root)],
        "gone.cellrep",
    ):
        assert get_reader(path) is None


def test_napari_opens_a_project_and_shows_a_field(make_napari_viewer_proxy, qtbot, sample_project):
    viewer = make_napari_viewer_proxy()
    viewer.open(str(sample_project.root), plugin="napari-cellrep")
    session = session_of(viewer)
    qtbot.waitUntil(lambda: "cells" in viewer.layers, timeout=20_000)
    assert session.project.root == sample_project.root
    assert {"FKHR-GFP", "DNA"} <= {layer.name for layer in viewer.layers}


def test_a_fresh_napari_opens_pictures_of_cells_and_labels(
    make_napari_viewer_proxy, sample_project, tmp_path
):
    labels = sample_project.read_labels("A01")
    out = drain(write_crops(sample_project, tmp_path / "crops"))
    file = out / pd.read_csv(out / "index.csv")["file"].iloc[0]
    viewer = make_napari_viewer_proxy()
    (crops,) = viewer.open(str(file), plugin="napari")
    assert np.array_equal(np.asarray(crops.data), tifffile.imread(file))
    (shown,) = viewer.open(str(sample_project.labels_path("A01")), plugin="napari", layer_type="labels")
    assert np.array_equal(np.asarray(shown.data), labels)
