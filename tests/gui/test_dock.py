"""The CellRep dock with real clicks, a real worker process and real images."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import tifffile
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QApplication, QDialog, QTextBrowser

from _clicks import LONG, card, click, idle, opened, run
from napari_cellrep.data import open_project
from napari_cellrep.data.layouts import guess_roles
from napari_cellrep.gui._job_log import JobLog
from napari_cellrep.gui.cards._parts import duration
from napari_cellrep.gui.cards.cells import flag_counts
from napari_cellrep.gui.cards.explore import reference_choices
from napari_cellrep.gui.cards.images import images_of, proposed_um_per_px, um_per_px
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.sample import SAMPLE

# ---- states ----------------------------------------------------------------------------------------


def test_empty_window_says_where_to_begin(dock):
    images = dock.cards["images"]
    assert images.status == "nothing open yet ○"
    assert "Open images to begin" in images.hint.text()
    assert images.sample.isEnabled()
    assert not images.layers.isEnabled()
    for name in ("segment", "cells", "model", "explore"):
        assert "Open images first" in dock.cards[name].hint.text()
    assert not dock.cards["segment"].all.isEnabled()
    assert not dock.cards["model"].embed.isEnabled()


def test_one_card_is_open_at_a_time(dock):
    for name in ("segment", "model", "images"):
        card(dock, name)
        assert [n for n, c in dock.cards.items() if c.body.isVisible()] == [name]


def test_open_the_sample(qtbot, dock, viewer):
    said = run(qtbot, dock, card(dock, "images").sample)
    assert said == "✓ bbbc013: 24 fields."
    assert dock.cards["images"].status == "24 fields · 2 channels ✓"
    assert dock.cards["segment"].status == "24 fields to do ○"
    assert dock.cards["segment"].body.isVisible()
    qtbot.waitUntil(lambda: "FKHR-GFP" in viewer.layers, timeout=LONG)
    assert "No cells yet" in dock.cards["model"].hint.text()
    # A second time it is there already: no job.
    dock.close_project()
    run(qtbot, dock, card(dock, "images").sample)
    assert len(dock.runner.log) == 1
    assert dock.session.project.name == "bbbc013"


def test_project_with_cells_tells_them_in_a_glance(qtbot, dock, project):
    opened(qtbot, dock, project)
    obs = project.cells.obs
    good = int(obs["good"].sum())
    qtbot.wait(50)
    assert dock.cards["images"].status == "3 fields · 2 channels ✓"
    assert dock.cards["segment"].status == f"{len(obs):,} cells ✓"
    assert dock.cards["cells"].status == f"{good:,} good · {len(obs) - good:,} flagged ✓"
    edge = obs["flags"].str.contains("edge").sum()
    assert dock.cards["cells"].reason_buttons["edge"].text() == f"{edge:,}"


def test_a_glance_that_has_no_room_keeps_the_beginning_of_its_numbers(dock):
    card, words = dock.cards["cells"], "24,183 good · 18,283 flagged"
    card.set_status(words, "done")
    state = card._status
    state.resize(state.fontMetrics().horizontalAdvance(words) + 2, 30)
    assert state.seen() == words
    state.resize(state.fontMetrics().horizontalAdvance("24,183 good · 18"), 30)
    short = state.seen()
    assert short.startswith("24,183 good")
    assert short.endswith("…")
    drawn = state.grab().toImage()
    state.setText(short)
    assert state.grab().toImage() == drawn  # and no words in front of it
    state.setText("")
    assert state.grab().toImage() != drawn


def test_hide_flagged_is_the_session_s(qtbot, dock, project):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    assert dock.session.hide_flagged
    click(cells.hide_flagged)
    assert not dock.session.hide_flagged
    assert dock.session.n_visible == dock.session.n_cells


def test_channels_without_roles_need_the_user(qtbot, dock, project):
    project.set_channels([Channel("a"), Channel("b")])
    opened(qtbot, dock, project)
    qtbot.wait(50)
    images = dock.cards["images"]
    assert images.status.endswith("⚠")
    assert images.body.isVisible()
    assert "wants other channels" in dock.cards["model"].status
    assert "Say what your channels show" in dock.cards["model"].hint.text()
    box = images.channel_grid.itemAtPosition(0, 1).widget()
    box.setCurrentText("protein")
    box.activated.emit(box.currentIndex())
    box = images.channel_grid.itemAtPosition(1, 1).widget()
    box.setCurrentText("nucleus")
    box.activated.emit(box.currentIndex())
    assert [c.role for c in open_project(project.root).channels] == ["protein", "nucleus"]
    assert images.status.endswith("✓")


def test_folder_that_is_no_project_is_said_in_words(qtbot, dock, tmp_path):
    dock.open_project(tmp_path)
    idle(qtbot, dock)
    assert "is not a project" in dock.strip.message.text()


# ---- layers ----------------------------------------------------------------------------------------


def test_layers_become_a_project(qtbot, dock, viewer):
    gfp, dna = tifffile.imread(SAMPLE / "wells" / "A06.ome.tif")
    viewer.add_image(gfp, name="my GFP", scale=(0.5, 0.5), units=("um", "um"))
    viewer.add_image(dna, name="Hoechst", scale=(0.5, 0.5), units=("um", "um"))
    qtbot.wait(50)
    images = card(dock, "images")
    assert [box.currentText() for *_, box in images._layer_rows] == ["protein", "nucleus"]
    run(qtbot, dock, images.layers)
    project = dock.session.project
    assert project.channels == (Channel("my GFP", "protein"), Channel("Hoechst", "nucleus"))
    assert [f.um_per_px for f in project.fields] == [0.5]
    np.testing.assert_array_equal(project.read_image(project.fields[0].id), [gfp, dna])
    assert not viewer.layers["my GFP"].visible


@pytest.mark.slow
def test_sample_layers_lead_to_the_whole_sample(qtbot, dock, viewer):
    viewer.open_sample("napari-cellrep", "bbbc013")
    qtbot.wait(50)
    images = card(dock, "images")
    assert "one well of the sample" in images.hint.text()
    run(qtbot, dock, images.layers)
    assert len(dock.session.project.fields) == 24


def test_layers_of_different_size_are_refused_in_words(qtbot, dock, viewer):
    viewer.add_image(np.zeros((8, 8)), name="a")
    viewer.add_image(np.zeros((8, 9)), name="b")
    qtbot.wait(50)
    click(card(dock, "images").layers)
    assert "channels of one image are of one size" in dock.strip.message.text()


def test_roles_are_guessed_from_names():
    assert guess_roles(["DAPI", "FKHR-GFP", "alpha_tubulin"]) == ["nucleus", "protein", "microtubules"]
    assert guess_roles(["C1", "C2"]) == ["protein", "other"]
    assert guess_roles(["er", "RNA", "mito", "brightfield"]) == ["er", "rna", "mito", "brightfield"]
    assert guess_roles(["nuclear", "filter"]) == ["nucleus", "protein"]


def test_axes_of_layers_are_positions_time_depth_or_channels():
    from napari.layers import Image

    def of(*layers, meanings=("",), channel=None):
        images, metadata = images_of([(layer, channel) for layer in layers], meanings)
        return {name: np.stack([np.asarray(p) for p in planes]) for name, planes in images.items()}, metadata

    found, _ = of(Image(np.arange(24).reshape(3, 2, 4), name="a b"), Image(np.ones((3, 2, 4)), name="c"))
    assert list(found) == ["a_b_001", "a_b_002", "a_b_003"]
    assert found["a_b_002"].shape == (2, 2, 4)
    stack = np.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)  # two positions or times of three planes
    layer = Image(stack, name="s")
    found, _ = of(layer, Image(stack + 1, name="t"), meanings=("", "max"))
    assert list(found) == ["s_001", "s_002"]
    np.testing.assert_array_equal(found["s_002"], [stack[1].max(axis=0), stack[1].max(axis=0) + 1])
    found, _ = of(Image(stack[0], name="s"), meanings=("mean",))
    np.testing.assert_array_equal(found["s"], [stack[0].mean(axis=0).round()])
    assert len(of(layer)[0]) == 6
    found, metadata = of(layer, meanings=("time", "max"))
    assert list(found) == ["s_t000", "s_t001"]
    assert metadata["s_t001"] == {"series": "s", "frame": 1}
    found, metadata = of(layer, meanings=("", "time"))
    assert list(found)[3:] == ["s_002_t000", "s_002_t001", "s_002_t002"]
    np.testing.assert_array_equal(found["s_002_t002"], [stack[1, 2]])
    found, _ = of(layer, meanings=("time", "channels"), channel=2)
    np.testing.assert_array_equal(found["s_t001"], [stack[1, 2]])
    with pytest.raises(InputError, match="Only one axis"):
        of(layer, meanings=("time", "time"))
    with pytest.raises(InputError, match="one size"):
        of(Image(np.zeros((2, 2)), name="a"), Image(np.zeros((2, 3)), name="b"))


def test_pixel_size_of_layers():
    from napari.layers import Image

    assert um_per_px(Image(np.zeros((2, 2)), scale=(500, 500), units=("nm", "nm"))) == pytest.approx(0.5)
    assert um_per_px(Image(np.zeros((2, 2)), scale=(0.5, 0.5))) == 0
    assert proposed_um_per_px(Image(np.zeros((2, 2)), scale=(0.5, 0.5))) == 0.5
    assert proposed_um_per_px(Image(np.zeros((2, 2)))) == 0


def test_words():
    assert [duration(s) for s in (0.2, 12, 360, 9000)] == ["1 s", "12 s", "6 min", "2.5 h"]


# ---- the main job ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_try_one_field_then_segment_all(qtbot, dock, project, viewer):
    project.write_fields([dataclasses.replace(f, um_per_px=0.5) for f in project.fields])
    opened(qtbot, dock, project)
    before = {f.id: project.labels_path(f.id).read_bytes() for f in project.fields}
    segment = card(dock, "segment")
    assert segment.method.currentText() == "Nuclei"
    assert segment.one.text() == "Try on field A01"
    said = run(qtbot, dock, segment.one)
    preview = viewer.layers["CellRep preview"]
    assert preview.data.max() > 50
    assert f"{len(np.unique(preview.data)) - 1:,} cells in field A01" in said
    np.testing.assert_allclose(preview.scale, viewer.layers["DNA"].scale)
    assert before == {f.id: project.labels_path(f.id).read_bytes() for f in project.fields}

    click(segment.more.button)
    assert segment.form.isVisible()
    said = run(qtbot, dock, segment.all)
    n = open_project(project.root).cells.n_obs
    assert said == f"✓ {n:,} cells in 3 fields."
    assert segment.status == f"{n:,} cells ✓"
    assert "CellRep preview" not in viewer.layers
    assert project.label_info("A01")["segmenter"] == "nuclei"
    qtbot.waitUntil(
        lambda: np.array_equal(viewer.layers["cells"].data, project.read_labels("A01")), timeout=LONG
    )


@pytest.mark.slow
def test_embed_the_measurements(qtbot, dock, project):
    opened(qtbot, dock, project)
    model = card(dock, "model")
    n = dock.session.n_cells
    model.model.setCurrentText("Measurements")
    assert model.choice()[1] == "measurements"
    assert model.embed.text() == f"Embed {n:,} cells"
    said = run(qtbot, dock, model.embed)
    assert f"{n:,} cells embedded" in said
    assert dock.session.embedding == "measurements"
    assert dock.cards["explore"].body.isVisible()
    x = open_project(project.root).cells.obsm["X_measurements"]
    assert np.isfinite(x).all()


@pytest.mark.slow
def test_make_the_map(qtbot, dock, project, viewer):
    opened(qtbot, dock, project)
    dock.session.embedding = "bare"
    explore = card(dock, "explore")
    qtbot.wait(50)
    good = int(dock.session.cells.obs["good"].sum())
    assert explore.make.text() == f"Make the map of {good:,} cells"
    run(qtbot, dock, explore.make)
    assert dock.session.map_name == "UMAP"
    assert explore.status.endswith("✓")
    assert any("Explore" in name for name in viewer.window.dock_widgets)


@pytest.mark.slow
def test_flag_again_by_other_rules(qtbot, dock, project):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    before = dock.session.cells.obs["flags"].str.contains("debris").sum()
    click(cells.more.button)
    cells.form.set_value({"debris_share": 0.9})
    run(qtbot, dock, cells.apply)
    assert dock.session.cells.obs["flags"].str.contains("debris").sum() > before


@pytest.mark.slow
def test_train_and_embed(qtbot, dock, project):
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("Paired Cell Inpainting")
    assert model.training.train.text().startswith("Train on")
    model.training.form.set_value({"batch_size": 8, "epochs": 1, "max_steps": 2})
    qtbot.wait(50)
    run(qtbot, dock, model.training.train, timeout=200_000)
    assert dock.runner.log[-1].end == "finished", dock.runner.log[-1].details
    assert "Loss" in model.training.loss.text()
    assert model.trained
    assert model.choice() == ("paired_cell_inpainting", "paired_cell_inpainting")
    run(qtbot, dock, model.embed, timeout=200_000)
    assert "paired_cell_inpainting" in dock.session.embeddings


# ---- when it goes wrong ----------------------------------------------------------------------------


@pytest.mark.slow
def test_worker_killed_in_the_middle_is_said_and_the_next_press_works(qtbot, dock, project):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    click(cells.more.button)
    click(cells.apply)
    qtbot.waitUntil(lambda: dock.runner.pid > 0 and dock.runner.current is not None, timeout=LONG)
    os.kill(dock.runner.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    assert dock.strip.message.text().startswith("⚠ The worker process was ended")
    assert dock.strip.log.isVisible()
    assert "done in" in run(qtbot, dock, cells.apply)


def test_stop_button(qtbot, dock, project, monkeypatch):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    click(cells.more.button)
    click(cells.apply)
    qtbot.waitUntil(dock.strip.stop.isVisible, timeout=LONG)
    click(dock.strip.stop)
    assert "Stopping" in dock.strip.message.text()
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    assert dock.runner.log[-1].end in ("stopped", "finished")
    assert not dock.strip.stop.isVisible()


def test_users_mistake_is_a_sentence_in_the_strip(qtbot, dock, project):
    opened(qtbot, dock, project)
    dock.submit("analyze.analyze", "Mapping", recipe="map", embedding="nothing")
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    assert dock.strip.message.text().startswith("⚠ ")
    assert "nothing" in dock.strip.message.text()


@pytest.mark.slow
def test_job_window_has_the_details_and_takes_jobs_out(qtbot, dock, project):
    dock.submit("no_such_module.step", "Trying", project=None)
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    click(dock.strip.log)
    (window,) = dock.strip.findChildren(JobLog)
    assert "Trying (no_such_module.step): failed" in window.details.toPlainText()
    assert "Traceback" in window.details.toPlainText()
    click(window.copy)
    copied = QApplication.clipboard().text()
    assert copied.startswith("napari-cellrep ")
    assert "torch 2" in copied
    assert "Traceback" in copied
    # Two jobs, one waits; it is taken out before it begins.
    opened(qtbot, dock, project)
    dock.submit("crop.crop", "First")
    waits = dock.submit("crop.crop", "Second")
    assert [window.waiting.item(i).text() for i in range(window.waiting.count())] == ["Second"]
    click(window.take_out)
    assert waits.state == "stopped"
    assert not window.waiting.isVisible()
    idle(qtbot, dock)
    assert [(entry.title, entry.end) for entry in dock.runner.log][-2:] == [
        ("Second", "stopped"),
        ("First", "finished"),
    ]


def test_help_is_the_guide_s_own_words(qtbot, dock):
    for name, made in dock.cards.items():
        click(made.help)
        window = next(w for w in dock.findChildren(QDialog) if made.title in w.windowTitle())
        said = window.findChild(QTextBrowser).toPlainText()
        assert made.title in said
        assert len(said) > 150, name
        assert not made.header.isChecked() or name == "images"  # the card itself stays as it is
        window.close()
    for action in dock.help.menu().actions()[:3]:
        action.trigger()
    assert len([w for w in dock.findChildren(QDialog) if w.isVisible()]) == 3


def test_the_tour_leads_along_the_cards(qtbot, dock, project):
    tour = dock.tour
    assert tour.isVisible()
    click(tour.go)
    assert "Open the sample" in tour.words.text()
    assert "border: 2px solid #ff7a00" in dock.cards["images"].sample.styleSheet()
    opened(qtbot, dock, project)  # three wells with cells, an embedding and a map
    qtbot.waitUntil(lambda: "Draw around" in tour.words.text(), timeout=LONG)
    assert not dock.cards["images"].sample.styleSheet()
    dock.session.select(np.arange(5))
    dock.session.set_focus(int(np.flatnonzero(dock.session.visible)[0]))
    qtbot.waitUntil(lambda: "begin at card 1" in tour.words.text(), timeout=LONG)
    click(tour.leave)
    assert not tour.isVisible()
    assert not get_plugin_settings("napari-cellrep").help.offer_tour
    dock.help.menu().actions()[-1].trigger()  # again, when it is wanted
    assert tour.isVisible()
    get_plugin_settings("napari-cellrep").help.offer_tour = True


def test_closing_the_window_during_a_job(qtbot, dock, viewer, project):
    opened(qtbot, dock, project)
    dock.submit("crop.crop", "Finding cells")
    qtbot.waitUntil(lambda: dock.runner.pid > 0, timeout=LONG)
    process = dock.runner._process._popen
    viewer.close()
    qtbot.waitUntil(lambda: process.poll() is not None, timeout=10_000)


def test_closed_and_opened_again_the_dock_shows_the_same_project(qtbot, viewer, dock, project):
    opened(qtbot, dock, project)
    viewer.window.remove_dock_widget(dock)
    qtbot.wait(100)
    _, again = viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")
    assert again.session is dock.session
    assert again.cards["images"].status == "3 fields · 2 channels ✓"


def test_reference_choices_and_flag_counts(project):
    obs = project.cells.obs
    choices = reference_choices(obs)
    assert choices[:2] == ["control=-1", "control=1"]
    assert "compound=LY294002" in choices
    assert flag_counts(obs)["edge"] == obs["flags"].str.contains("edge").sum()
