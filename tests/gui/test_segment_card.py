"""Card 2: the live preview, what it says, and the fields that are unlike the others."""

import dataclasses
import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from _clicks import LONG, card, choose, click, click_item, idle, opened, run
from napari_cellrep.data import open_project
from napari_cellrep.gui.cards._charts import FieldBars, Histogram
from napari_cellrep.jobs import drain
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.illumination import correct
from napari_cellrep.steps.segment import segment as segment_step

TESTS = Path(__file__).parents[1]


def shown_trial(viewer):
    return [layer for layer in viewer.layers if layer.name == "CellRep preview"]


def settled(qtbot, segment):
    """Wait until what is shown is what the settings say."""
    qtbot.waitUntil(lambda: segment._shown_trial == segment._key() and segment._asked is None, timeout=LONG)


@pytest.mark.slow
def test_settings_act_on_the_visible_field_at_once_and_write_nothing(qtbot, dock, project, viewer):
    opened(qtbot, dock, project)
    before = {f.id: project.labels_path(f.id).read_bytes() for f in project.fields}
    segment = card(dock, "segment")
    click(segment.live)
    assert segment.form.isVisible()
    assert not segment.one.isVisible()
    settled(qtbot, segment)
    (layer,) = shown_trial(viewer)
    first = len(np.unique(layer.data)) - 1
    assert f"<b>{first:,} cells</b>" in segment.tried.text()
    assert "touch the image’s edge" in segment.tried.text()
    assert segment.sizes.counts.sum() == first
    assert dock.runner.current is None, "a preview is no job"

    segment.form.set_value({"min_area_px": 250})
    settled(qtbot, segment)
    (layer,) = shown_trial(viewer)
    assert 0 < len(np.unique(layer.data)) - 1 < first

    click(dock.cards["images"].header)  # another field is tried by itself
    choose(dock.cards["images"].field, "A12")
    card(dock, "segment")
    qtbot.waitUntil(lambda: dock.shown_field() == "A12", timeout=LONG)
    settled(qtbot, segment)
    assert shown_trial(viewer)[0].metadata["cellrep"]["field"] == "A12"

    click(segment.live)
    assert not shown_trial(viewer)
    assert not segment.tried.isVisible()
    assert before == {f.id: project.labels_path(f.id).read_bytes() for f in project.fields}


@pytest.mark.slow
def test_many_changes_in_a_row_are_one_preview_of_the_last(qtbot, dock, project, viewer, monkeypatch):
    opened(qtbot, dock, project)
    segment = card(dock, "segment")
    asked, ask = [], dock.runner.ask

    def count(step, *args, **kwargs):
        if step == "segment.preview":
            asked.append(kwargs["config"]["min_area_px"])
        ask(step, *args, **kwargs)

    monkeypatch.setattr(dock.runner, "ask", count)
    click(segment.live)
    settled(qtbot, segment)
    asked.clear()
    for area in range(20, 220, 10):
        segment.form.set_value({"min_area_px": area})
        qtbot.wait(5)
    settled(qtbot, segment)
    assert asked[-1] == 210
    assert len(asked) <= 2
    # What is under way when the settings change again is dropped, and the newest asked for.
    segment.form.set_value({"min_area_px": 300})
    qtbot.waitUntil(lambda: segment._asked is not None, timeout=LONG)
    segment.form.set_value({"min_area_px": 320})
    settled(qtbot, segment)
    assert asked[-1] == 320
    assert shown_trial(viewer)


@pytest.mark.slow
def test_a_preview_does_not_wait_for_a_long_job(qtbot, dock, project, viewer, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    opened(qtbot, dock, project)
    segment = card(dock, "segment")
    handle = dock.submit("_jobs:count", "Counting", project=None, n=100_000)
    click(segment.live)
    settled(qtbot, segment)
    assert handle.state == "running"
    assert shown_trial(viewer)
    handle.stop()
    idle(qtbot, dock)


@pytest.mark.slow
def test_what_cannot_be_tried_is_a_sentence_in_the_card(qtbot, dock, project, viewer):
    opened(qtbot, dock, project)
    segment = card(dock, "segment")
    click(segment.live)
    settled(qtbot, segment)
    segment.form.set_value({"channel": "tubulin"})
    qtbot.waitUntil(lambda: segment.tried.text().startswith("⚠"), timeout=LONG)
    assert "tubulin" in segment.tried.text()
    assert not shown_trial(viewer)
    segment.form.set_value({"channel": "nucleus"})
    settled(qtbot, segment)
    assert shown_trial(viewer)


@pytest.mark.slow
def test_fields_that_are_unlike_the_others_are_listed_and_shown(qtbot, dock, project, viewer):
    empty = np.zeros_like(project.read_labels("A12"))
    project.write_labels("A12", empty, {"segmenter": "test", "edited": True})
    opened(qtbot, dock, project)
    run(qtbot, dock, card(dock, "segment").all)  # leaves the edited field alone
    segment = card(dock, "segment")
    assert segment.flagged.count() == 1
    assert segment.flagged.item(0).text().startswith("Field A12 holds no cell")
    assert "⚠ 1 to look at" in segment.flagged_words.text()
    click_item(segment.flagged, 0)
    qtbot.waitUntil(lambda: dock.shown_field() == "A12", timeout=LONG)
    # A bar is a field, too.
    assert list(segment.bars.counts) == [
        int((open_project(project.root).cells.obs["field"] == f).sum()) for f in segment.bars.fields
    ]
    click(segment.bars, QPoint(round(segment.bars.x_of("E12")), 20))
    qtbot.waitUntil(lambda: dock.shown_field() == "E12", timeout=LONG)


@pytest.mark.slow
def test_a_replaced_image_is_said_and_only_its_field_is_done_anew(qtbot, dock, project, viewer, tmp_path):
    files = {f.id: tmp_path / f"{f.id}.tif" for f in project.fields}
    for field in project.fields:  # the sample's own files are not to be changed
        shutil.copyfile(field.planes[0].path, files[field.id])
    moved = [
        dataclasses.replace(f, planes=tuple(dataclasses.replace(p, path=str(files[f.id])) for p in f.planes))
        for f in project.fields
    ]
    project.write_fields(moved)
    drain(segment_step(project, overwrite=True))
    drain(crop(project))
    opened(qtbot, dock, project)
    segmenting = card(dock, "segment")
    qtbot.waitUntil(lambda: segmenting.status.endswith("cells ✓"), timeout=LONG)
    image = tifffile.imread(files["A12"])
    tifffile.imwrite(files["A12"], image[:, ::-1].copy(), metadata={"axes": "CYX"}, ome=True)
    card(dock, "model")
    card(dock, "segment")  # a look at the card is a look at the images
    qtbot.waitUntil(lambda: "1 of 3 fields out of date" in segmenting.status, timeout=LONG)
    assert segmenting.status.endswith("↻")
    assert "The image of A12 was replaced" in segmenting.hint.text()
    assert dock.cards["model"].status.endswith("↻")
    assert "segment again first" in dock.cards["model"].hint.text()
    for later in ("cells", "explore"):
        assert dock.cards[later].status.endswith("↻")
        assert "segment again first (card 2)" in dock.cards[later].hint.text()
    before = {f: project.labels_path(f).stat().st_mtime_ns for f in files}
    run(qtbot, dock, segmenting.all)
    qtbot.waitUntil(lambda: segmenting.status.endswith("cells ✓"), timeout=LONG)
    assert {f for f in files if project.labels_path(f).stat().st_mtime_ns != before[f]} == {"A12"}


@pytest.mark.slow
def test_another_light_is_said_by_the_cards_whose_numbers_depend_on_it(qtbot, dock, project):
    opened(qtbot, dock, project)
    names = ("segment", "cells", "model", "explore")
    qtbot.waitUntil(lambda: all(dock.cards[n].status.endswith("✓") for n in names), timeout=LONG)
    drain(correct(project))
    dock.session.reload(open_project(project.root))
    qtbot.waitUntil(lambda: dock.cards["cells"].status.endswith("↻"), timeout=LONG)
    assert "Flag again by these rules" in dock.cards["cells"].hint.text()
    assert "flag again first (card 3)" in dock.cards["explore"].hint.text()
    # Labels and vectors that do not say of which images they are, as those that were brought, are not blamed.
    assert [dock.cards[n].status[-1] for n in names] == ["✓", "↻", "✓", "↻"]
    cells = card(dock, "cells")
    click(cells.more.button)
    run(qtbot, dock, cells.apply)
    qtbot.waitUntil(lambda: all(dock.cards[n].status.endswith("✓") for n in names), timeout=LONG)
    assert not cells.hint.isVisible()


def test_cellpose_says_its_licence_and_how_to_install_it(qtbot, dock, project, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", functools.partial(_not_cellpose, _found=None))
    opened(qtbot, dock, project)
    segment = card(dock, "segment")
    choose(segment.method, "Cellpose")
    assert "CC-BY-NC" in segment.licence.text()
    assert 'pip install "napari-cellrep[cellpose]"' in segment.licence.text()
    assert not segment.all.isEnabled()
    assert "not installed" in segment.all.toolTip()
    assert not segment.live.isEnabled()
    assert segment.weights.itemData(0) == "cpsam_v2"
    assert all("CC-BY-NC" in segment.weights.itemText(i) for i in range(segment.weights.count()))
    choose(segment.weights, "cpdino:")
    assert segment.form.value()["model"] == "cpdino"
    choose(segment.method, "Nuclei")
    assert segment.all.isEnabled()
    assert not segment.weights.isVisible()


def _not_cellpose(name, *args, _found):
    import importlib.machinery

    return _found if name == "cellpose" else importlib.machinery.PathFinder.find_spec(name)


# ---- the charts ------------------------------------------------------------------------------------


@pytest.fixture
def histogram(qtbot):
    chart = Histogram("size, px")
    qtbot.addWidget(chart)
    chart.resize(300, 64)
    return chart


def test_histogram_counts_every_value_and_shows_its_limits(qtbot, histogram):
    values = np.concatenate([np.random.default_rng(0).normal(100, 10, 1000), [np.nan, 5000.0]])
    histogram.set_values(values)
    assert histogram.counts.sum() == 1001
    assert histogram.ends[1] < 200  # the giant does not squeeze the rest
    histogram.set_limits(low=20)
    assert histogram.ends[0] == 20  # a limit is always within sight
    histogram.show()
    qtbot.waitExposed(histogram)
    drawn = histogram.grab().toImage()
    assert drawn.pixelColor(round(histogram._x(20)), 5) != drawn.pixelColor(round(histogram._x(20)) + 5, 5)
    assert "median 99" in histogram.toolTip()


def test_histogram_of_nothing_and_of_one_value(histogram):
    histogram.set_values(np.zeros(0))
    histogram.grab()
    histogram.set_values(np.full(3, 7.0))
    assert histogram.counts.sum() == 3
    histogram.grab()


def test_bars_find_the_field_under_the_pointer(qtbot):
    bars = FieldBars()
    qtbot.addWidget(bars)
    bars.resize(300, 56)
    fields = [f"A{i:02}" for i in range(1, 97)]
    bars.set_fields(fields, range(96), {"A03"}, "A05")
    assert [bars.field_at(bars.x_of(f)) for f in fields] == fields
    assert bars.field_at(2) == ""
    with qtbot.waitSignal(bars.clicked) as heard:
        QTest.mouseClick(bars, Qt.MouseButton.LeftButton, pos=QPoint(round(bars.x_of("A90")), 10))
    assert heard.args == ["A90"]
    bars.grab()


@pytest.mark.slow
def test_labels_of_another_program_are_chosen_for_one_field_and_found_for_all(
    qtbot, dock, project, viewer, tmp_path, monkeypatch
):
    for field in project.fields:
        labels = project.read_labels(field.id).astype(np.uint16)
        np.save(tmp_path / f"{field.id}_seg.npy", {"masks": np.where(labels > 5, labels, 0)})
    opened(qtbot, dock, project)
    segment = card(dock, "segment")
    assert not segment.browse.isVisible()
    choose(segment.method, "Imported")
    assert segment.browse.isVisible()
    name = dock.shown_field()
    assert name in segment.browse.text()
    monkeypatch.setattr(
        "napari_cellrep.gui.cards.segment.QFileDialog.getOpenFileName",
        lambda *_: (str(tmp_path / f"{name}_seg.npy"), ""),
    )
    click(segment.browse)
    idle(qtbot, dock)
    assert segment.form.value()["pattern"] == f"{tmp_path.as_posix()}/{{field}}_seg.npy"
    (layer,) = shown_trial(viewer)
    np.testing.assert_array_equal(
        layer.data, np.load(tmp_path / f"{name}_seg.npy", allow_pickle=True).item()["masks"]
    )
    click(segment.all)
    idle(qtbot, dock)
    qtbot.waitUntil(
        lambda: project.label_info(project.fields[-1].id).get("segmenter") == "imported", timeout=LONG
    )
    for field in project.fields:
        held = np.load(tmp_path / f"{field.id}_seg.npy", allow_pickle=True).item()["masks"]
        np.testing.assert_array_equal(project.read_labels(field.id), held)
