"""Card 4 with real clicks: what suits the data, published weights, what the network sees, tables of features."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QDialogButtonBox, QFileDialog

from napari_cellrep import registry
from napari_cellrep.data import open_project
from napari_cellrep.gui import _runner
from napari_cellrep.gui._runner import Runner, WorkerProcess
from napari_cellrep.gui.cards._weights import in_the_window, restrictions
from napari_cellrep.gui.cards.model import SECTIONS
from napari_cellrep.specs import Channel
from napari_cellrep.steps.preview import what_it_sees

LONG = 60_000


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One worker process for all tests of this file, because loading torch takes seconds; and an author's server."""
    place, body = tmp_path_factory.mktemp("shared"), checkpoint()
    server = Host(body)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    publish(place / "site", server)
    running: list[WorkerProcess] = []

    def start():
        if not running or running[-1].over or running[-1]._killed:
            running.append(WorkerProcess())
            running[-1].close = lambda: None
        return running[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platformdirs.user_data_dir", lambda *_: str(place / "data"))
        patch.setattr("platformdirs.user_cache_dir", lambda *_: str(place / "cache"))
        patch.setattr(_runner, "WorkerProcess", start)
        patch.setenv("CELLREP_WEIGHTS", str(place / "weights"))
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join(filter(None, (str(place / "site"), os.environ.get("PYTHONPATH", "")))),
        )
        for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            patch.delenv(proxy, raising=False)
        patch.syspath_prepend(str(place / "site"))
        registry._entry_points.cache_clear()
        yield server, place / "weights"
        for process in running:
            process.kill()
    registry._entry_points.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def host(service, monkeypatch):
    """The author's server; nothing has been fetched yet."""
    monkeypatch.setattr(Runner, "warm", lambda _: None)
    server, weights = service
    shutil.rmtree(weights, ignore_errors=True)
    server.wait_s, server.status, server.ranges = 0.0, 0, []
    return server


@pytest.fixture
def dock(viewer, qtbot):
    """The dock as napari opens it."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")
    yield dock
    dock.runner.close()


def click(widget):
    assert widget.isEnabled(), widget.toolTip()
    assert widget.isVisible()
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(10, widget.height() // 2))


def tick(box, on=True):
    if box.isChecked() != on:
        click(box)
    assert box.isChecked() == on


@pytest.fixture
def model(qtbot, dock, project):
    """Card 4, open on a project with cells, with everything that it asks of the worker answered."""
    dock.open_project(project.root)
    qtbot.waitUntil(lambda: bool(dock.shown_field()), timeout=LONG)
    model = dock.cards["model"]
    if not model.header.isChecked():
        click(model.header)
    qtbot.waitUntil(lambda: model.here is not None and model.advice[0].isVisible(), timeout=LONG)
    qtbot.waitUntil(lambda: model.sees.isVisible() and bool(model.sees.pictures), timeout=LONG)
    return model


def listed(model):
    """The list under its headings: heading → texts."""
    found: dict[str, list[str]] = {}
    for i in range(model.model.count()):
        text = model.model.itemText(i)
        if model.model.itemData(i) is None:
            assert not model.model.model().item(i).isEnabled()
            section = found.setdefault(text, [])
        else:
            section.append(text)
    return found


def over(qtbot, dock):
    qtbot.waitUntil(lambda: dock.runner.current is None and not dock.runner.queued, timeout=LONG)
    qtbot.wait(50)
    return dock.strip.message.text()


# ---- what suits the data -----------------------------------------------------------------------------


@pytest.mark.slow
def test_advice_and_its_button(qtbot, model, project):
    first = model.advice[0]
    n = int(project.cells.obs["good"].sum())
    assert f"{n:,} good cells in 3 groups" in first.words.text()
    assert first.words.text().startswith("✓ Protein, structure (DNA)")
    assert not first.choose.isVisible()
    row = model.advice[1]
    assert "Measurements need no training" in row.words.text()
    model.choose("autoencoder")
    click(row.choose)
    assert model.choice()[0] == row.model
    assert row.words.text().startswith("✓")
    assert not row.choose.isVisible()


def test_advice_follows_the_roles(qtbot, model, dock):
    dock.session.project.set_channels([Channel("FKHR-GFP"), Channel("DNA")])
    dock.refresh()
    qtbot.waitUntil(lambda: "no roles yet" in model.advice[0].words.text(), timeout=LONG)
    assert not model.advice[0].isVisible()  # the hint says it already


def test_the_list_has_headings_and_says_what_is_a_starting_point(model):
    found = listed(model)
    assert list(found) == [SECTIONS[i] for i in (1, 2, 3, 4, 5)]
    assert found[SECTIONS[1]] == ["dino-starter (a starting point)", "pci-starter (a starting point)"]
    assert found[SECTIONS[2]][0] == "Paired Cell Inpainting"
    assert found[SECTIONS[3]] == ["Measurements"]
    assert "microsnoop-published (get…)" in found[SECTIONS[4]]
    assert not [words for words in found[SECTIONS[4]] if "hpa" in words]  # other channels
    assert "Microsnoop" in found[SECTIONS[2]]
    assert "ImageNet network" in found[SECTIONS[5]]
    assert model.choice() == ("paired_cell_inpainting", "paired_cell_inpainting")
    model.choose("microsnoop")
    assert model.training.isVisible()
    assert model.channels() == ["FKHR-GFP", "DNA"]
    model.choose("imagenet")
    assert "weights are random" in model.about.text()
    assert model.embed.text().endswith("by random weights")
    assert not model.training.isVisible()


# ---- channels --------------------------------------------------------------------------------------


def test_what_the_model_wants_is_always_said(qtbot, model, dock):
    assert (
        model.wants.text().replace("\N{NO-BREAK SPACE}", " ")
        == "Wants ✓ protein: FKHR-GFP · ✓ structure: DNA"
    )
    model.channel_boxes[0].setCurrentText("DNA")
    assert "chosen twice" in model.hint.text()
    assert not model.embed.isEnabled()
    assert "chosen twice" in model.embed.toolTip()
    model.channel_boxes[1].setCurrentText("FKHR-GFP")
    words = model.wants.text().replace("\N{NO-BREAK SPACE}", " ")
    assert words == "Wants ⚠ protein: DNA (nucleus) · ⚠ structure: FKHR-GFP (protein)"
    assert model.embed.isEnabled()  # the person knows better
    assert model.channels() == ["DNA", "FKHR-GFP"]


def test_words_for_the_images_card(model):
    assert model.fit_words((Channel("a", "protein"), Channel("b", "nucleus"))).startswith(
        "✓ Paired Cell Inpainting"
    )
    assert model.fit_words((Channel("a"), Channel("b", "nucleus"))) == (
        "⚠ Paired Cell Inpainting (card 4) wants protein, structure; you have other, nucleus."
    )
    model.choose("measurements")
    assert model.fit_words((Channel("a"),)) == "✓ Measurements (card 4) take any channels."


def test_a_missing_role_can_be_said_in_place(qtbot, model, dock):
    dock.session.project.set_channels([Channel("FKHR-GFP"), Channel("DNA", "nucleus")])
    dock.refresh()
    assert "⚠\N{NO-BREAK SPACE}protein:\N{NO-BREAK SPACE}none" in model.wants.text()
    assert model.status == "wants other channels ⚠"
    assert not model.embed.isEnabled()
    assert not model.sees.isVisible()
    model.channel_boxes[0].setCurrentText("FKHR-GFP")
    assert model.embed.isEnabled()
    qtbot.waitUntil(model.sees.isVisible, timeout=LONG)


@pytest.mark.slow
def test_a_model_for_any_channels_gets_those_that_are_ticked(qtbot, model, dock, project):
    model.choose("measurements")
    assert [t.text() for t in model.channel_ticks] == ["FKHR-GFP (protein)", "DNA (nucleus)"]
    qtbot.waitUntil(model.channel_ticks[0].isVisible)
    tick(model.channel_ticks[0], False)
    tick(model.channel_ticks[1], False)
    assert "Tick at least one channel" in model.hint.text()
    tick(model.channel_ticks[1])
    assert model.wants.text() == "Takes any channels: ✓ DNA"
    click(model.embed)
    assert "cells embedded" in over(qtbot, dock)
    assert open_project(project.root).embedding_info("measurements")["channels"] == ["DNA"]


def test_weights_that_may_lack_a_channel(qtbot, model, dock):
    project = dock.session.project
    project.set_channels([Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus")])
    dock.refresh()
    model.choose("dino-hpa-cell")  # wants four channels, one of which may be missing
    assert "Only one of its channels may be missing" in model.hint.text()
    assert (
        "⚠\N{NO-BREAK SPACE}er:\N{NO-BREAK SPACE}none,\N{NO-BREAK SPACE}may\N{NO-BREAK SPACE}be"
        in model.wants.text()
    )
    assert model.channels() == ["microtubules", "FKHR-GFP", "DNA", "er"]
    assert model.channel_boxes[3].currentText() == "none (black)"


# ---- what the network sees ---------------------------------------------------------------------------


def test_what_the_model_sees_is_what_it_gets(qtbot, model, dock, project):
    shown = model.sees
    obs = project.cells.obs
    first = obs.index[int(np.argmax(obs["good"].to_numpy()))]
    assert first in shown.caption.text()
    assert [p.toolTip() for p in shown.pictures] == [
        "FKHR-GFP: values from 0 to 1",
        "DNA: values from 0 to 1",
    ]
    assert shown.words.text() == "64 px of the image around the cell; each channel scaled by itself."
    # The picture is the worker's, pixel for pixel, where it is not enlarged.
    sight = what_it_sees(project, model="paired_cell_inpainting", cell_id=first)
    field, y, x = obs.loc[first, ["field", "y_px", "x_px"]]
    crop = project.read_image(field)[:, int(y) - 32 : int(y) + 32, int(x) - 32 : int(x) + 32].astype(float)
    low, high = (f(crop, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    np.testing.assert_allclose(sight.pictures, 255 * (crop - low) / (high - low), atol=0.51)
    kept = next(iter(shown._kept.values()))
    np.testing.assert_array_equal(kept["pictures"], sight.pictures)


def test_pictures_follow_the_focus_and_the_model_and_old_answers_are_dropped(qtbot, model, dock):
    shown, asked = model.sees, []
    ask = dock.runner.ask
    dock.runner.ask = lambda step, *a, **k: (asked.append((step, k)), ask(step, *a, **k))
    rows = np.flatnonzero(dock.session.visible)[[3, 7, 9]]
    for row in rows:  # faster than anybody looks: only the last is asked for
        dock.session.set_focus(int(row))
        qtbot.wait(20)
    last = dock.session.cell_id(int(rows[-1]))
    qtbot.waitUntil(lambda: shown.caption.text().endswith(last), timeout=LONG)
    assert [k["cell_id"] for step, k in asked if step.startswith("preview")] == [last]
    old = shown._wanted
    model.choose("measurements")
    qtbot.waitUntil(lambda: len(shown.pictures) == 3, timeout=LONG)
    assert shown.pictures[2].toolTip().startswith("outline")
    assert "counts as they are" in shown.words.text()
    shown._answer(old, "an answer to the question before")
    assert len(shown.pictures) == 3
    # What was seen once is shown at once.
    model.choose("paired_cell_inpainting")
    assert len(shown.pictures) == 2


def test_closed_card_asks_nothing(qtbot, dock, project):
    asked = []
    dock.runner.ask = lambda step, *a, **k: asked.append(step)
    dock.open_project(project.root)
    dock.open_card("images")
    qtbot.wait(400)
    assert not [step for step in asked if step.startswith(("preview", "recommend", "fetch"))]


@pytest.mark.slow
def test_after_the_worker_has_died_the_pictures_come_back(qtbot, model, dock):
    shown = model.sees
    os.kill(dock.runner.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: dock.runner.pid == 0, timeout=LONG)
    shown._answer(shown._wanted, "The worker process was ended from outside.")
    assert "⚠ The worker" in shown.words.text()
    assert not shown.pictures
    shown._kept.clear()
    dock.refresh()
    qtbot.waitUntil(lambda: len(shown.pictures) == 2, timeout=LONG)


@pytest.mark.slow
def test_an_answer_may_come_after_the_dock_was_closed(qtbot, viewer, dock, model):
    model.choose("measurements")
    qtbot.wait(300)  # the question is on its way
    answers = []
    dock.runner._answered.connect(lambda *_: answers.append(1))
    model._asked_here = False
    model._ask()
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: len(answers) >= 1, timeout=LONG)
    qtbot.wait(100)


def test_choosing_never_keeps_the_window_waiting(model):
    seconds = {}
    for i in range(model.model.count()):
        if model.model.itemData(i) is not None:
            begin = time.thread_time()  # of this thread: other people's load does not count
            model.model.setCurrentIndex(i)
            seconds[model.model.itemText(i)] = time.thread_time() - begin
    assert len(seconds) > 10
    assert max(seconds.values()) < 0.1, seconds


# ---- settings of the network ---------------------------------------------------------------------------


def fold(panel):
    """Open or close the settings, as a person does."""
    click(panel.button)


@pytest.mark.slow
def test_settings_of_a_network_reach_what_it_sees_and_its_vectors(qtbot, model, dock, project):
    from napari_cellrep.models import create_model, save_model

    names = [c.name for c in project.channels]
    small = create_model("microsnoop", width=0.0625, channels=names, zoom=1.5)
    save_model(small, project.root / "models" / "mine", channels=names)
    dock.refresh()
    model.choose("mine")
    panel, join = model.settings, "channel_mode"
    assert panel.isVisible()
    assert panel.button.text() == "▸ Settings of the network"
    assert not panel.content.isVisible()
    assert model.arguments()["settings"] == {}
    fold(panel)
    qtbot.waitUntil(panel.form.isVisible)
    values = panel.form.value()
    assert values == {"channel_mode": "concat", "scaling": "pad", "zoom": 1.5}  # as its weights came
    assert not panel.back.isEnabled()
    box = panel.form._widgets[join].native
    QTest.keyClick(box, Qt.Key.Key_Down)
    assert panel.form.value()[join] == "mean"
    assert panel.button.text() == "▾ Settings of the network (1 changed)"
    assert model.arguments()["settings"] == {"channel_mode": "mean"}
    qtbot.waitUntil(lambda: bool(model.sees.pictures), timeout=LONG)
    click(panel.back)
    assert model.arguments()["settings"] == {}
    assert panel.form.value() == values
    QTest.keyClick(box, Qt.Key.Key_Down)
    fold(panel)
    assert not panel.content.isVisible()
    assert "1 changed" in panel.button.text()  # what is set is said while it is folded away
    click(model.embed)
    assert "cells embedded" in over(qtbot, dock)
    made = open_project(project.root)
    assert made.embedding_info("mine")["config"]["channel_mode"] == "mean"
    assert made.embedding_info("mine")["config"]["zoom"] == 1.5
    assert made.cells.obsm["X_mine"].shape[1] == small.dim() // 2
    assert np.isfinite(made.cells.obsm["X_mine"]).all()


def test_settings_change_the_picture_and_what_is_trained(qtbot, model, dock, project):
    model.choose("paired_cell_inpainting")
    panel, sees = model.settings, model.sees
    assert "config" not in model.training.arguments()
    assert sees.pictures[1].toolTip() == "DNA: values from 0 to 1"
    fold(panel)
    qtbot.waitUntil(panel.form.isVisible)
    QTest.keyClick(panel.form._widgets["recipe"].native, Qt.Key.Key_Down)
    assert model.arguments()["settings"] == {"recipe": "human"}
    assert model.training.arguments()["config"] == {"recipe": "human"}
    qtbot.waitUntil(
        lambda: len(sees.pictures) == 2 and not sees.pictures[1].toolTip().endswith("to 1"), timeout=LONG
    )
    model.choose("measurements")
    assert not panel.isVisible()  # nothing of theirs can be set
    assert model.arguments()["settings"] == {}
    model.choose("paired_cell_inpainting")
    assert model.arguments()["settings"] == {}
    assert panel.isVisible()


# ---- published weights -------------------------------------------------------------------------------

PLUGIN = """'A network of another package, whose authors publish their weights.'

import dataclasses
from napari_cellrep.models import microsnoop
from napari_cellrep.models.microsnoop import Config, Model as _Model, TINY, read_checkpoint, recognise
from napari_cellrep.specs import Weights

SPEC = dataclasses.replace(
    microsnoop.SPEC, name="tiny_snoop", title="Tiny Snoop",
    weights=(Weights("tiny", "{url}/tiny.pth", "Non-commercial; patent pending. Only on Sundays.", "{check}", note="Noise."),),
)
class Model(_Model):
    spec = SPEC
"""


class Host(ThreadingHTTPServer):
    """Sends one file in pieces, as slowly as it is told, and goes on where it is asked to."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body, self.wait_s, self.status, self.ranges = body, 0.0, 0, []


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        host, begin = self.server, 0
        wanted = self.headers.get("Range", "")
        host.ranges.append(wanted)
        if host.status:
            self.send_error(host.status)
            return
        if wanted:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(host.body) - 1}/{len(host.body)}")
        else:
            self.send_response(200)
        self.send_header("ETag", '"a"')
        self.send_header("Content-Length", str(len(host.body) - begin))
        self.end_headers()
        try:
            for at in range(begin, len(host.body), 16384):
                self.wfile.write(host.body[at : at + 16384])
                self.wfile.flush()
                time.sleep(host.wait_s)
        except OSError:
            pass  # the client has gone


def checkpoint() -> bytes:
    """A small network in Microsnoop's published format."""
    import torch

    module, file = registry.load("models", "microsnoop"), io.BytesIO()
    torch.save({"model": module.Model(module.Config(width=0.125)).state_dict()}, file)
    return file.getvalue()


def publish(place, server):
    """A package with a model whose weights are on the server, where the worker finds it."""
    about = place / "tiny_snoop-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Name: tiny-snoop\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[napari_cellrep.models]\ntiny_snoop = tiny_snoop_model\n")
    source = PLUGIN.replace("{url}", f"http://127.0.0.1:{server.server_address[1]}")
    source = source.replace("{check}", f"sha256:{hashlib.sha256(server.body).hexdigest()}")
    (place / "tiny_snoop_model.py").write_text(source)


@pytest.fixture
def weights(qtbot, host, model):
    """The dialog, opened from the card on the weights of the server."""
    model.model.setCurrentText("tiny (get…)")
    assert model.status == "weights to be fetched ⚠"
    assert not model.embed.isVisible()
    assert model.get.text() == "Get tiny…"
    click(model.get)
    dialog = model._weights_dialog
    qtbot.waitUntil(dialog.isVisible, timeout=LONG)
    assert dialog.name == "tiny"
    yield dialog
    dialog.close()


@pytest.mark.slow
def test_weights_are_got_used_and_the_licence_is_accepted_first(qtbot, host, model, weights, dock):
    assert "Only on Sundays" in weights.licence.toPlainText()
    assert "Not for commercial use" in weights.warning.text()
    assert "patent" in weights.warning.text()
    assert not weights.get.isEnabled()
    assert "licence" in weights.get.toolTip()
    assert not weights.folder.isEnabled()
    click(weights.accept_)
    click(weights.get)
    over(qtbot, dock)
    qtbot.waitUntil(lambda: "On this computer" in weights.state.text(), timeout=LONG)
    assert not weights.get.isVisible()
    click(weights.use)
    assert model.choice() == ("tiny", "tiny_snoop")
    assert "tiny" in listed(model)[SECTIONS[1]]
    assert model.embed.isVisible()
    qtbot.waitUntil(model.sees.isVisible, timeout=LONG)
    click(model.embed)
    assert "cells embedded" in over(qtbot, dock)
    assert dock.session.embedding == "tiny"
    assert model.title_of("tiny") == "Tiny Snoop, tiny"


def test_stopped_in_the_middle_the_rest_is_got_later(qtbot, host, model, weights, dock):
    host.wait_s = 0.1
    click(weights.accept_)
    click(weights.get)
    qtbot.waitUntil(lambda: " MB of " in weights.state.text(), timeout=LONG)
    assert " MB" in dock.strip.message.text()
    click(weights.stop)
    over(qtbot, dock)
    qtbot.waitUntil(
        lambda: weights.get.isVisible() and weights.get.text() == "Get the rest of tiny", timeout=LONG
    )
    assert "Stopped" in weights.state.text()
    host.wait_s = 0
    click(weights.get)
    over(qtbot, dock)
    qtbot.waitUntil(weights.use.isVisible, timeout=LONG)
    assert host.ranges[0] == ""
    assert host.ranges[-1].startswith("bytes=")


@pytest.mark.slow
def test_what_fails_is_a_sentence_for_the_window(qtbot, host, model, weights, dock, tmp_path, monkeypatch):
    host.status = 404
    click(weights.accept_)
    click(weights.get)
    said = over(qtbot, dock)
    assert "is not there any more" in said
    assert "press “From a folder…”" in said
    assert "--from" not in said
    assert weights.state.text() == said
    # Somebody brings the file on a stick.
    (tmp_path / "stick").mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "stick"))
    click(weights.folder)
    assert "lacks tiny.pth" in over(qtbot, dock)
    (tmp_path / "stick" / "tiny.pth").write_bytes(host.body)
    click(weights.folder)
    over(qtbot, dock)
    qtbot.waitUntil(weights.use.isVisible, timeout=LONG)


def test_the_list_of_weights_says_what_fits(model):
    click(model.weights)
    dialog = model._weights_dialog
    rows = {}
    for i in range(dialog.list.topLevelItemCount()):
        item = dialog.list.topLevelItem(i)
        rows[item.text(0)] = item.text(1)
        dialog.list.setCurrentItem(item)
        assert dialog.licence.toPlainText()
        assert not dialog.accept_.isChecked()
    assert rows["pci-yeast"] == "✓ protein, structure"
    assert rows["pci-starter"] == "✓ protein, nucleus"
    assert rows["microsnoop-published"] == "✓ any channels"
    assert rows["dino-cell-painting-base"] == "nucleus, rna, er, agp, mito"
    assert list(rows.values()) == sorted(rows.values(), key=lambda words: not words.startswith("✓"))
    dialog.close()


def test_words_about_licences():
    assert restrictions("BSD-3-Clause") == []
    assert len(restrictions("Non-commercial. Patent application 7.")) == 2
    said = in_the_window("You can get a.zip by hand, and run: cellrep models fetch x --from FOLDER", "x")
    assert said == "You can get a.zip by hand, and press “From a folder…”"


# ---- tables and whole fields ---------------------------------------------------------------------------


@pytest.mark.slow
def test_features_from_a_table(qtbot, model, dock, project, tmp_path):
    obs = project.cells.obs
    table = pd.DataFrame(
        {"Metadata_Well": obs["well"].astype(str).to_numpy(), "ObjectNumber": obs["label"].to_numpy(),
         "Nuclei_Area": obs["area_px"].to_numpy(float), "Nuclei_Noise": np.random.default_rng(0).normal(size=len(obs))}
    )  # fmt: skip
    table.to_csv(tmp_path / "from cellprofiler.csv", index=False)
    click(model.more.button)
    click(model.features)
    dialog = model._features_dialog
    assert not dialog.ok.isEnabled()
    dialog.file.setText(str(tmp_path / "nothing.csv"))
    dialog.look()
    qtbot.waitUntil(lambda: "cannot be read" in dialog.said.text(), timeout=LONG)
    dialog.file.setText(str(tmp_path / "from cellprofiler.csv"))
    dialog.look()
    qtbot.waitUntil(dialog.ok.isEnabled, timeout=LONG)
    assert dialog.said.text().startswith("4 columns, 2 of them features")
    assert dialog.value()["on"] == {"Metadata_Well": "well", "ObjectNumber": "label"}
    assert dialog.key.text() == "from_cellprofiler"
    dialog.pairs[0][1].setCurrentIndex(0)
    assert not dialog.ok.isEnabled()
    assert "what it is in the project" in dialog.ok.toolTip()
    dialog.pairs[0][1].setCurrentIndex(dialog.pairs[0][1].findData("well"))
    click(dialog.buttons.button(QDialogButtonBox.StandardButton.Ok))
    assert f"{len(obs):,} cells embedded" in over(qtbot, dock)
    assert dock.session.embedding == "from_cellprofiler"
    x = open_project(project.root).cells.obsm["X_from_cellprofiler"]
    np.testing.assert_array_equal(x[:, 0], obs["area_px"])


@pytest.mark.slow
def test_whole_fields(qtbot, model, dock, project):
    click(model.more.button)
    model.choose("measurements")
    assert not model.fields.isEnabled()
    assert "choose a network" in model.fields.toolTip()
    model.choose("paired_cell_inpainting")
    click(model.fields)
    assert "3 fields have numbers as paired_cell_inpainting" in over(qtbot, dock)
    assert open_project(project.root).field_table.n_obs == 3


# ---- trained on these images -----------------------------------------------------------------------------


def test_own_models_come_first_with_what_they_were_trained_on(qtbot, model, dock, project):
    from napari_cellrep.models import create_model, save_model

    about = {"channels": ["DNA", "FKHR-GFP"], "n_cells": 1234, "trained": {"step": 5000}}
    save_model(create_model("paired_cell_inpainting", width=0.125), project.root / "models" / "mine", **about)
    (project.root / "models" / "broken").mkdir()
    (project.root / "models" / "broken" / "model.json").write_text("{")
    dock.refresh()
    assert listed(model)[SECTIONS[0]] == ["Paired Cell Inpainting, trained (mine)"]
    qtbot.waitUntil(lambda: model.advice[0].model == "mine", timeout=LONG)
    click(model.advice[0].choose)
    assert model.choice() == ("mine", "paired_cell_inpainting")
    assert (
        model.about.text()
        == "Paired Cell Inpainting, trained on DNA and FKHR-GFP of 1,234 cells, 5,000 steps."
    )
    assert model.channels() == ["DNA", "FKHR-GFP"]  # not by role: as it was trained
    assert model.embed.text().endswith("cells")
    qtbot.waitUntil(
        lambda: model.sees.isVisible() and "DNA" in model.sees.pictures[0].toolTip(), timeout=LONG
    )
