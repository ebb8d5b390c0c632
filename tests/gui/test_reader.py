"""A project dropped on napari opens in its session, and the dock goes on from there."""

from __future__ import annotations

from napari_cellrep.gui._reader import get_reader
from napari_cellrep.gui._state import session_of


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
