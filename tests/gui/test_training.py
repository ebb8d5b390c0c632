"""Card 4's training with real clicks, a real worker and real short trainings; estimates and pilot runs."""

import json
import os
import signal
import sys

import numpy as np
import pytest
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QScrollArea

from _clicks import LONG, card, click, opened
from napari_cellrep import registry
from napari_cellrep.data import open_project
from napari_cellrep.gui._forms import Form
from napari_cellrep.gui._runner import Runner
from napari_cellrep.gui.cards._estimate import spread_fields
from napari_cellrep.gui.views.curve import MOST_POINTS, Curve, Pictures
from napari_cellrep.jobs import drain
from napari_cellrep.specs import field_rules
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import CHANNELS, SAMPLE

SHORT = {"batch_size": 4, "max_seconds": 0.0}
_warm = Runner.warm


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def panel(qtbot, dock, project):
    """The training panel, ready to train Paired Cell Inpainting by small steps."""
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("Paired Cell Inpainting")
    model.training.form.set_value(SHORT)
    qtbot.wait(50)
    return model.training


def begin(qtbot, panel, points=3):
    """Press Train and wait for a few steps."""
    click(panel.train)
    qtbot.waitUntil(lambda: len(panel.curve.x) >= points, timeout=2 * LONG)


def over(qtbot, panel):
    runner = panel.card.dock.runner
    qtbot.waitUntil(lambda: runner.current is None and not runner.queued, timeout=2 * LONG)
    qtbot.wait(100)


TRAINABLE = [n for n in registry.names("models") if hasattr(registry.load("models", n), "Training")]


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_model_s_training_form_gives_back_what_it_was_given(qtbot, name):
    rules = field_rules(registry.load("models", name).Training)
    form = Form(rules)
    qtbot.addWidget(form)
    defaults = {k: rule["default"] for k, rule in rules.items()}
    assert form.value() == pytest.approx(defaults)
    other = {}
    for key, rule in rules.items():
        if rule.get("choices"):
            other[key] = rule["choices"][-1]
        elif rule["type"] == "bool":
            other[key] = not rule["default"]
        elif rule["type"] == "int":
            other[key] = int(min(rule["default"] + 1, rule.get("max", 1e9)))
        elif rule["type"] == "float":
            doubled = 2 * rule["default"] or rule.get("step", 1.0)
            other[key] = doubled if doubled <= rule["max"] else rule["default"] / 2
    form.set_value(other)
    assert form.value() == pytest.approx({**defaults, **other})
    assert all(rule.get("label") for rule in rules.values())


@pytest.mark.slow
def test_the_curve_is_in_sight_in_a_low_window(qtbot, dock, viewer, panel):
    viewer.window.resize(1280, 720)
    qtbot.wait(200)
    port = dock.findChild(QScrollArea).viewport()
    begin(qtbot, panel)
    qtbot.wait(300)

    def in_sight():
        seen = (
            panel.curve.mapTo(port, panel.curve.rect().topLeft()).y(),
            panel.loss.mapTo(port, panel.loss.rect().bottomLeft()).y(),
        )
        return seen[0] >= 0 and seen[1] <= port.height()

    assert in_sight()
    click(dock.cards["cells"].header)  # another card, and back
    click(dock.cards["model"].header)
    qtbot.waitUntil(in_sight)
    panel.handle.stop()
    over(qtbot, panel)


@pytest.mark.slow
def test_pause_resume_and_use(qtbot, dock, panel, project):
    begin(qtbot, panel)
    assert panel.train.text() == "Training…"
    assert not panel.train.isEnabled()
    assert "already" in panel.train.toolTip()
    assert "cells a second" in panel.loss.text()
    qtbot.waitUntil(lambda: panel.pictures.pictures.size > 0, timeout=LONG)
    assert panel.pictures.columns == ("another cell", "this one's DNA", "predicted", "real")
    click(panel.pause)
    over(qtbot, panel)
    assert dock.runner.log[-1].end == "stopped"
    folder = project.root / "models" / "paired_cell_inpainting"
    at = json.loads((folder / "run.json").read_text())
    assert at["state"] == "paused"
    assert f"Paused at step {at['step']:,}" in panel.loss.text()
    assert panel.train.text().startswith("Resume training")

    n = len(panel.curve.x)
    begin(qtbot, panel, n + 2)  # the curve goes on where it was
    assert panel.curve.x[n] > panel.curve.x[n - 1]
    click(panel.use)
    over(qtbot, panel)
    assert [entry.title for entry in dock.runner.log][-2:] == [
        "Making the model",
        f"Embedding {dock.session.n_cells:,} cells",
    ]
    assert {entry.end for entry in dock.runner.log} == {"stopped", "finished"}
    card_ = json.loads((folder / "model.json").read_text())
    assert card_["trained"]["step"] == json.loads((folder / "run.json").read_text())["step"] > at["step"]
    assert "paired_cell_inpainting" in dock.session.embeddings
    card(dock, "model")
    assert panel.train.text().startswith("Resume training")
    assert not panel.use.isEnabled()  # it is in use
    panel.form.set_value({"batch_size": 5})  # another run
    qtbot.wait(50)
    assert panel.train.text().startswith("Train further on")


@pytest.mark.slow
def test_stop_within_two_seconds_and_the_button_works(qtbot, dock, panel):
    begin(qtbot, panel)
    assert panel.handle.kill_after_s == 2
    click(dock.strip.stop)
    qtbot.waitUntil(lambda: dock.runner.current is None, timeout=LONG)
    qtbot.wait(50)
    assert panel.train.isEnabled()
    assert panel.handle is None


@pytest.mark.slow
def test_worker_killed_in_training_is_said_and_the_button_goes_on(qtbot, dock, panel):
    begin(qtbot, panel)
    os.kill(dock.runner.pid, signal.SIGKILL)
    over(qtbot, panel)
    assert dock.strip.message.text().startswith("⚠ The worker process was ended")
    assert "Training ended early" in panel.loss.text()
    assert panel.train.isEnabled()
    begin(qtbot, panel)
    assert dock.runner.current is not None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory")
def test_memory_that_runs_out_in_training_is_a_sentence(qtbot, dock, panel):
    import resource
    from pathlib import Path

    begin(qtbot, panel)  # torch is loaded
    click(panel.pause)
    over(qtbot, panel)
    pid = dock.runner.pid
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (size + 50_000_000, resource.RLIM_INFINITY))
    panel.form.set_value({"batch_size": 64})  # wants more than a gigabyte
    qtbot.wait(50)
    click(panel.train)
    over(qtbot, panel)
    told = dock.strip.message.text()  # the second where the batch was made smaller first
    assert "did not have enough memory" in told or "memory is too small" in told, dock.runner.log[-1].details
    assert "Training ended early" in panel.loss.text()
    assert panel.train.isEnabled()


@pytest.mark.slow
def test_training_on_a_filter_a_selection_and_a_set(qtbot, dock, panel):
    session = dock.session
    good = session.cells.obs["good"].to_numpy(bool)
    assert panel.train.text().startswith(f"Train on {good.sum():,} cells")
    click(panel.more.button)
    panel.cells.setCurrentIndex(panel.cells.count() - 1)
    assert panel.filter.isVisible()
    assert not panel.train.isEnabled()
    panel.filter.setFocus()
    QTest.keyClicks(panel.filter, "group == 'A01'")
    in_a01 = int((good & (session.cells.obs["group"] == "A01")).sum())
    qtbot.waitUntil(lambda: panel.count.text() == f"{in_a01:,} good cells", timeout=LONG)
    assert panel.train.text().startswith(f"Train on {in_a01:,} cells")
    assert panel.arguments()["where"] == "group == 'A01'"
    panel.filter.setText("dose == 'A01'")
    qtbot.waitUntil(lambda: "no column dose" in panel.count.text(), timeout=LONG)
    assert not panel.train.isEnabled()
    assert "no column dose" in panel.train.toolTip()

    rows = np.flatnonzero(good)[:40]
    session.select(rows)
    qtbot.waitUntil(lambda: "(40)" in panel.cells.itemText(1), timeout=LONG)
    panel.cells.setCurrentIndex(1)
    assert panel.count.text() == "40 good cells"
    assert panel.arguments()["cells"] == list(session.cells.obs_names[rows])
    session.save_set("odd ones")
    qtbot.waitUntil(lambda: panel.cells.findData("odd ones") > 0, timeout=LONG)
    session.clear()
    panel.cells.setCurrentIndex(panel.cells.findData("odd ones"))
    assert panel.arguments()["named_set"] == "odd ones"
    panel.form.set_value({"max_steps": 1})
    begin(qtbot, panel, 1)
    over(qtbot, panel)
    made = session.project.root / "models" / "paired_cell_inpainting" / "model.json"
    assert json.loads(made.read_text())["n_cells"] == 40


@pytest.mark.slow
def test_estimates_come_by_themselves_and_follow_the_settings(qtbot, dock, project):
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("Paired Cell Inpainting")
    assert not model.embed_estimate.text()  # no worker yet: nothing was asked
    _warm(dock.runner)
    qtbot.waitUntil(lambda: dock.runner.pid > 0, timeout=LONG)
    model.refresh()
    qtbot.waitUntil(
        lambda: bool(model.training.estimate.time and model.embed_estimate.time), timeout=2 * LONG
    )
    assert "on the CPU" in model.embed_estimate.text() or "graphics card" in model.embed_estimate.text()
    assert "its limit; all 30 epochs would take" in model.training.estimate.text()
    assert f"({model.training.estimate.time})" in model.training.train.text()
    model.training.form.set_value({"epochs": 1})
    qtbot.wait(20)
    assert not model.training.estimate.text()  # what is out of date is not shown
    qtbot.waitUntil(lambda: bool(model.training.estimate.text()), timeout=2 * LONG)
    assert "30 epochs" not in model.training.estimate.text()
    assert not list((project.root / "models").glob("*"))


@pytest.mark.slow
def test_segment_three_fields_first(qtbot, dock, tmp_path):
    wells = [SAMPLE / "wells" / f"{well}.ome.tif" for well in ("A01", "A05", "A09", "A12", "E12")]
    project = drain(
        import_fields(tmp_path / "five.cellrep", wells, channels=CHANNELS, metadata=SAMPLE / "plate.csv", group_by=("well",))
    )  # fmt: skip
    assert spread_fields(project) == ["A01", "A09", "E12"]
    dock.open_project(project.root)
    segment = card(dock, "segment")
    qtbot.waitUntil(lambda: segment.method.count() > 0 and segment.pilot.isEnabled(), timeout=LONG)
    click(segment.more.button)
    click(segment.pilot)
    qtbot.waitUntil(lambda: dock.runner.current is None and not dock.runner.queued, timeout=2 * LONG)
    qtbot.wait(100)
    assert dock.strip.message.text().startswith("✓ Fields A01, A09 and E12 took ")
    assert "all 5 would take about" in dock.strip.message.text()
    assert set(open_project(project.root).cells.obs["field"].astype(str)) == {"A01", "A09", "E12"}
    assert segment.all.text() == "Segment all 5 fields"


def test_few_fields_need_no_pilot(qtbot, dock, project):
    opened(qtbot, dock, project)
    qtbot.wait(50)
    pilot = dock.cards["segment"].pilot
    assert not pilot.isEnabled()
    assert "no more than 3 fields" in pilot.toolTip()


def test_curve_thins_itself_out_and_pictures_fit(qtbot):
    curve, pictures = Curve(), Pictures()
    for widget in (curve, pictures):
        qtbot.addWidget(widget)
        widget.resize(300, 110)
        widget.show()
    for i in range(5 * MOST_POINTS):
        curve.add(i, 1 / (1 + i))
    assert len(curve.x) <= MOST_POINTS
    assert curve.x == sorted(curve.x)
    assert (np.diff(curve.mean()) < 0).mean() > 0.9
    pictures.show_pictures(["a", "b"], np.full((3, 2, 8, 8), 255, np.uint8))
    qtbot.wait(20)
    assert pictures.height() > 3 * 64
    white = pictures.grab().toImage().pixelColor(5, pictures.height() - 20)
    assert (white.red(), white.green(), white.blue()) == (255, 255, 255)
    curve.grab()
    curve.clear()
    assert not curve.x


def test_the_small_preset_fills_in_the_form_and_the_paper_s_brings_it_back(qtbot, dock, panel):
    click(panel.more.button)
    before = panel.form.value()
    panel.preset.setCurrentIndex(panel.preset.findData("small"))
    small = panel.form.value()
    assert (small["keep"], small["settle_norm"], small["learning_rate"]) == ("val_knn", True, 1e-3)
    assert small["max_seconds"] == before["max_seconds"]
    assert "ours" in panel.preset.toolTip()
    assert panel.arguments()["training"] == small
    panel.preset.setCurrentIndex(0)
    assert panel.form.value()["keep"] == "last"
    assert panel.preset.currentText() == "the paper's"
    panel.form.set_value({"learning_rate": 0.05})
    assert panel.preset.currentText() == "as they stand below"
    panel.form.set_value({"learning_rate": panel._defaults["learning_rate"], "max_seconds": 1.0})
    assert panel.preset.currentText() == "the paper's"
    dock.cards["model"].model.setCurrentText("Measurements")
    qtbot.wait(50)
    assert not panel.isVisible()


@pytest.mark.slow
def test_training_can_start_from_a_model_trained_here(qtbot, dock, panel, project):
    from napari_cellrep.models import create_model, save_model

    save_model(create_model("paired_cell_inpainting", width=0.04), project.root / "models" / "first")
    save_model(create_model("autoencoder", width=0.04), project.root / "models" / "other")
    dock.cards["model"].refresh()
    click(panel.more.button)
    assert "weights" not in panel.arguments()
    assert panel.start_from.findData("other") < 0  # of another network
    panel.start_from.setCurrentIndex(panel.start_from.findData("first"))
    assert panel.arguments()["weights"] == "first"
    panel.form.set_value({"max_steps": 1})
    begin(qtbot, panel, 1)
    over(qtbot, panel)
    made = json.loads((project.root / "models" / "paired_cell_inpainting" / "model.json").read_text())
    assert made["initial"]["weights"] == "first"
    assert made["config"]["width"] == 0.04
    assert panel.arguments()["name"] not in [
        panel.start_from.itemData(i) for i in range(panel.start_from.count())
    ]


# ---- a network that learns classes ------------------------------------------------------------------


def test_a_network_that_learns_classes_asks_for_their_column(qtbot, dock, project):
    opened(qtbot, dock, project)
    model = card(dock, "model")
    panel = model.training
    model.model.setCurrentText("Paired Cell Inpainting")
    qtbot.wait(50)
    assert not panel.class_row.isVisible()
    assert "labels" not in panel.arguments()
    model.model.setCurrentText("DeepLoc")
    qtbot.wait(50)
    assert panel.class_row.isVisible()
    columns = [panel.classes.itemData(i) for i in range(panel.classes.count())]
    assert {"compound", "well"} <= set(columns)
    assert not {"field", "label", "area_px", "good"} & set(columns)
    assert panel.classes.currentData() not in ("well", "group", "row", "column")
    panel.classes.setCurrentIndex(panel.classes.findData("compound"))
    assert panel.arguments()["labels"] == "compound"
    assert panel.train.isEnabled()
    assert "classes" in panel.train.toolTip()


def test_without_a_column_of_classes_the_button_says_why(qtbot, dock, project):
    cells = project.cells
    keep = [
        "field",
        "label",
        "group",
        "good",
        *(c for c in cells.obs if c.startswith(("box_", "q_", "y_", "x_"))),
    ]
    cells.obs = cells.obs[[*keep, "area_px", "mask_hash", "flags"]].assign(group="one")
    project.write_cells(cells)
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("DeepLoc")
    qtbot.wait(50)
    panel = model.training
    assert not panel.classes.isEnabled()
    assert not panel.train.isEnabled()
    for widget in (panel.classes, panel.train):
        assert "No column of the table has 2 to 200 values" in widget.toolTip()


@pytest.mark.slow
def test_deeploc_trained_by_clicks_shows_the_held_out_loss(qtbot, dock, project):
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("DeepLoc")
    panel = model.training
    panel.form.set_value(
        {"epochs": 1, "batch_size": 8, "max_seconds": 0.0, "split_by": "cell", "min_cells": 2}
    )
    panel.classes.setCurrentIndex(panel.classes.findData("compound"))
    qtbot.wait(50)
    begin(qtbot, panel, 1)
    over(qtbot, panel)
    folder = project.root / "models" / "deeploc"
    assert json.loads((folder / "model.json").read_text())["labels"] == "compound"
    assert panel.curve.held_x == [1.0]
    assert np.isfinite(panel.curve.held_y).all()
    assert model.choice()[0] == "deeploc"


def test_the_curve_shows_the_held_out_loss_dashed_beside_the_other(qtbot):
    curve = Curve()
    qtbot.addWidget(curve)
    curve.resize(300, 110)

    def orange() -> int:
        image = curve.grab().toImage()
        colours = [image.pixelColor(i, j) for i in range(image.width()) for j in range(image.height())]
        return sum(c.red() > 180 and 100 < c.green() < 190 and c.blue() < 60 for c in colours)

    for step in range(60):
        curve.add(step / 10, 2 / (1 + step))
    assert not orange()
    for epoch in range(1, 6):
        curve.add_held_out(epoch, 1.5 / epoch)
        curve.add_held_out(epoch, 99.0)  # said again with every step
    assert curve.held_x == [1, 2, 3, 4, 5]
    assert max(curve.held_y) == 1.5
    assert orange() > 50
    curve.clear()
    assert not curve.held_x


# ---- several trainings -----------------------------------------------------------------------------


def test_several_runs_are_typed_as_numbers_and_shown_as_a_table(qtbot, dock, panel, project):
    panel.seeds.setText("0, x")
    qtbot.waitUntil(lambda: "numbers with commas" in panel.train.toolTip(), timeout=LONG)
    assert not panel.train.isEnabled()
    panel.seeds.setText("0, 1")
    panel.rates.setText("1e-3")
    qtbot.waitUntil(panel.train.isEnabled, timeout=LONG)
    how = panel.arguments()
    assert (how["seeds"], how["learning_rates"]) == ([0, 1], [1e-3])
    assert panel.train.text().startswith("Train 2 times on")
    assert not panel.form._widgets["seed"].native.isEnabled()
    assert "seeds above" in panel.form._widgets["seed"].native.toolTip()
    assert panel.runs.isHidden()
    folder = project.root / "models" / "best"
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_text(
        "seed,learning_rate,val_loss,val_knn,epoch,kept\n0,0.001,0.25,0.5,2.0,True\n1,0.001,0.5,,2.0,False\n"
    )
    panel.name.setText("best")
    panel.name.editingFinished.emit()
    assert not panel.runs.isHidden()
    row = [panel.runs.item(0, j).text() for j in range(panel.runs.columnCount())]
    assert row == ["✓", "0", "0.001", "0.25", "50%", "2"]
    assert [panel.runs.item(1, j).text() for j in (0, 4)] == ["", "–"]


@pytest.mark.slow
def test_several_seeds_one_after_the_other_stopped_and_gone_on_with(qtbot, dock, project):
    """Two seeds of a small autoencoder by clicks: stopped in the first run, resumed, and the better one kept."""
    opened(qtbot, dock, project)
    model = card(dock, "model")
    model.model.setCurrentText("Autoencoder")
    panel = model.training
    panel.form.set_value({**SHORT, "epochs": 1, "max_steps": 4, "held_out": 0.2})
    panel.seeds.setText("0, 1")
    qtbot.waitUntil(panel.train.isEnabled, timeout=LONG)
    begin(qtbot, panel, 1)
    assert panel.loss.text().startswith("Run 1 of 2 (seed 0")
    assert panel.use.isHidden()  # there is no best one yet
    click(panel.pause)
    over(qtbot, panel)
    folder = project.root / "models" / "autoencoder"
    at = json.loads((folder / "run.json").read_text())
    assert (at["state"], at["total"]) == ("paused", 8)
    assert panel.train.text().startswith("Resume training")

    click(panel.train)
    qtbot.waitUntil(lambda: (folder / "runs.csv").is_file(), timeout=4 * LONG)
    over(qtbot, panel)
    assert [entry.end for entry in dock.runner.log] == ["stopped", "finished"]
    assert "the best of 2 runs" in dock.strip.message.text()
    assert not panel.runs.isHidden()
    shown = [
        [panel.runs.item(i, j).text() for j in range(panel.runs.columnCount())]
        for i in range(panel.runs.rowCount())
    ]
    assert [row[1] for row in shown] == ["0", "1"]
    assert sorted(row[0] for row in shown) == ["", "✓"]
    losses = [float(row[3]) for row in shown]
    assert shown[int(np.argmin(losses))][0] == "✓"
