"""From an empty window to a lasso on the sample, by clicks, with the real worker, while the window is watched."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from watchdog import Watchdog

from napari_cellrep.gui._explore import ExploreWidget

LONG = 300_000
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture
def dock(viewer, tmp_path, monkeypatch, qtbot):
    """The dock as napari opens it; the sample goes to a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where the worker finds _jobs.py
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_: str(tmp_path / "data"))
    _, dock = viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")
    viewer.window.resize(1500, 950)
    qtbot.waitUntil(lambda: dock.cards["model"].model.count() > 0, timeout=LONG)
    yield dock
    dock.runner.close()


@pytest.fixture
def watched(dock):
    """Nothing of ours may hold the window for a tenth of a second."""
    dog = Watchdog().start()
    yield dog
    dog.stop()
    assert not dog.ours(), "\n".join(map(str, dog.ours()))


def press(qtbot, dock, widget):
    """Click a button as soon as it can be, and wait until the window rests."""
    qtbot.waitUntil(widget.isEnabled, timeout=LONG)
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(10, widget.height() // 2))
    rest(qtbot, dock)
    assert all(entry.end == "finished" for entry in dock.runner.log), dock.strip.message.text()


def rest(qtbot, dock):
    """Wait until no job runs and nothing is read."""
    qtbot.waitUntil(
        lambda: dock.runner.current is None and not dock.runner.queued and not dock.opening, timeout=LONG
    )
    qtbot.wait(300)


def test_from_the_sample_to_a_lasso(qtbot, viewer, dock, watched):
    cards, session = dock.cards, dock.session
    press(qtbot, dock, cards["images"].sample)
    qtbot.waitUntil(lambda: "FKHR-GFP" in viewer.layers, timeout=LONG)
    press(qtbot, dock, cards["segment"].all)
    assert session.n_cells > 4000
    assert cards["cells"].body.isVisible()
    cards["model"].set_open(True)
    model = cards["model"].model
    model.setCurrentIndex(model.findText("Measurements", Qt.MatchFlag.MatchContains))
    press(qtbot, dock, cards["model"].embed)
    assert session.embeddings == ["measurements"]
    press(qtbot, dock, cards["explore"].make)
    assert session.map_name == "UMAP"
    explore = next(w for w in viewer.window.dock_widgets.values() if isinstance(w, ExploreWidget))
    qtbot.waitUntil(explore.map.isVisible, timeout=LONG)
    qtbot.wait(500)
    # A circle about the middle of the wells with most drug.
    rows = np.concatenate([session.rows_of_field(well) for well in ("A12", "E12")])
    rows = rows[session.visible[rows]]
    at = np.nanmedian(explore.map.view.to_px(session.map_coordinates())[rows], axis=0)
    at = at / explore.map.devicePixelRatioF()
    t = np.linspace(0, 2 * np.pi, 40)
    path = [QPoint(int(x), int(y)) for x, y in at + 35 * np.c_[np.cos(t), np.sin(t)]]
    qtbot.mousePress(explore.map, Qt.MouseButton.LeftButton, pos=path[0])
    for point in path[1:]:
        qtbot.mouseMove(explore.map, point)
    qtbot.mouseRelease(explore.map, Qt.MouseButton.LeftButton, pos=path[-1])
    assert session.n_selected > 5
    dock.show_field(session.place(int(np.flatnonzero(session.selected)[0]))[0])
    qtbot.wait(1000)
    lit = dock.canvas.layer("selection").data
    assert np.count_nonzero(lit) > 50


def test_kill_stop_and_a_queue_hold_nothing_up(qtbot, viewer, dock, watched):
    """The worker is killed in the middle; two jobs queue; a training is stopped; then all works on."""
    cards = dock.cards
    press(qtbot, dock, cards["images"].sample)
    first = dock.submit("segment.segment", "Segmenting", segmenter="nuclei")
    second = dock.submit("crop.crop", "Finding cells")
    qtbot.waitUntil(lambda: first.progress.done > 0, timeout=LONG)
    assert second.state == "queued"
    os.kill(dock.runner.pid, signal.SIGKILL)
    rest(qtbot, dock)
    assert first.state == "failed"
    assert second.state == "finished"  # what was segmented has cells already
    again = dock.submit("segment.segment", "Segmenting", segmenter="nuclei", fields=["A06", "A07"])
    dock.submit("crop.crop", "Finding cells")
    rest(qtbot, dock)
    assert again.state == "finished"
    training = dock.submit("train.train", "Training", model="paired_cell_inpainting", config={"width": 0.25})
    qtbot.waitUntil(lambda: "loss" in training.progress.metrics, timeout=LONG)
    training.stop()
    with qtbot.waitSignal(training.ended, timeout=4000):
        pass
    assert training.state == "stopped"
    rest(qtbot, dock)
    full = dock.submit("_jobs:run_out_of_memory", "Filling the memory", project=None)
    rest(qtbot, dock)
    assert full.state == "failed"
    assert "enough memory" in dock.strip.message.text()
    assert cards["model"].embed.isEnabled()


def test_closing_the_window_during_a_job_holds_nothing_up(qtbot, viewer, dock, watched):
    dock.submit("_jobs:count", "Counting", project=None, n=1000)
    qtbot.waitUntil(
        lambda: dock.runner.current is not None and dock.runner.current.progress.done > 0, timeout=LONG
    )
    process = dock.runner._process._popen
    viewer.close()
    qtbot.waitUntil(lambda: process.poll() is not None, timeout=10_000)
