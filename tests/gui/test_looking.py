"""Right-click on a cell, ask its network, and see the answer where the cell is."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from napari.layers import Image

from _made_up import brightness_dino, made_up
from napari_cellrep.gui import _looking, _runner
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._looking import OURS, QUESTIONS
from napari_cellrep.gui._state import session_of
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.worker import resolve, to_plain

LOOK_AT, NEED, REDRAW = (QUESTIONS[k][0] for k in ("attention", "occlusion", "reconstruction"))


class Here:
    """What the worker does, done at once in this process."""

    def __init__(self, project):
        self.project, self.asked = project, []

    def ask(self, step, root, on_result, on_error, **kwargs):
        assert str(root) == str(self.project.root)
        self.asked.append(step)
        try:
            answer = to_plain(resolve(step)(self.project, **kwargs))
        except InputError as error:
            on_error(str(error))
        else:
            on_result(answer)


@pytest.fixture
def told(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(_looking, "show_info", said.append)
    return said


def opened(viewer, qtbot, monkeypatch, project, field, net):
    save_model(net, project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    session, runner = session_of(viewer), Here(project)
    monkeypatch.setattr(_runner, "runner_of", lambda viewer: runner)
    session.open(project)
    session.embedding = "mine"
    canvas, done = canvas_of(viewer), []
    show_field(viewer, session, field, lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    return canvas, session


def entries(canvas, row):
    """The menu of a cell: what it says → the entry."""
    menu = canvas.open_menu(row)
    found = {a.text(): a for a in menu.actions() if a.text()}
    menu.hide()
    return found


@pytest.mark.parametrize("um", [0.0, 0.5])
def test_attention_lies_on_what_is_bright(viewer, qtbot, monkeypatch, tmp_path, told, um):
    # The cell at the corner of the image, its crop enlarged in the network's own resizing: 32 px seen for 64.
    spot = (6 - 32 + 32, 4 - 32 + 48, 16)
    project = made_up(tmp_path, [(6, 4), (60, 60)], [spot], um)
    net = brightness_dino()
    net.crop = type(net.crop)(size_px=32, window_px=64, channels=net.roles)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", net)
    entries(canvas, session.row_of_id("one:1"))[LOOK_AT].trigger()
    layers = canvas.layers("look")
    assert [la.metadata[OURS]["part"] for la in layers] == ["head", "head", "mean"]
    assert [la.visible for la in layers] == [False, False, True]  # the mean on top, the heads to be chosen
    mean, dna = layers[-1], viewer.layers["DNA"]
    assert isinstance(mean, Image)
    assert (mean.blending, mean.colormap.name, mean.name) == ("additive", "inferno", "attention, one:1")
    assert tuple(str(u) for u in mean.units) == tuple(str(u) for u in dna.units)
    at = np.array(np.unravel_index(np.argmax(mean.data), mean.data.shape))
    for corner, want in ((-0.5, 0), (0.5, 16)):  # the brightest patch covers the bright square, to the pixel
        px = dna.world_to_data(mean.data_to_world(at + corner))
        np.testing.assert_allclose(px, np.array(spot[:2]) + want - 0.5)
    assert "can mislead" in told[0]
    assert "can mislead" in QUESTIONS["attention"][1]


def test_answers_of_a_cell_take_turns_and_go_together(viewer, qtbot, monkeypatch, tmp_path, told):
    project = made_up(tmp_path, [(48, 40), (60, 70)], [(40, 40, 8)])
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", brightness_dino())
    row = session.row_of_id("one:1")
    mine = viewer.add_points([[1, 1]], name="mine")
    n = len(viewer.layers)
    entries(canvas, row)[LOOK_AT].trigger()
    entries(canvas, row)[LOOK_AT].trigger()
    assert len(viewer.layers) == n + 3  # asked twice, shown once
    entries(canvas, row)[NEED].trigger()
    assert [la.metadata[OURS]["part"] for la in canvas.layers("look") if la.visible] == ["occlusion"]
    assert "Without DNA the cell moves" in told[-1]
    found = entries(canvas, row)
    found["Hide predictions and looks into cells"].trigger()
    assert not any(la.visible for la in canvas.layers("look"))
    entries(canvas, row)["Show predictions and looks into cells"].trigger()
    assert [la.metadata[OURS]["part"] for la in canvas.layers("look") if la.visible] == ["occlusion"]
    entries(canvas, -1)["Remove predictions and looks into cells (4 layers)"].trigger()
    assert len(viewer.layers) == n
    assert mine in viewer.layers
    assert canvas.open_menu(-1) is None


def test_what_the_network_cannot_is_grey_with_the_reason(viewer, qtbot, monkeypatch, project, told):
    net = create_model("paired_cell_inpainting", width=0.05)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    found = entries(canvas, 0)
    assert not found[LOOK_AT].isEnabled()
    assert "no attention; DINO has" in found[LOOK_AT].toolTip()
    assert found[NEED].isEnabled()
    assert not found[REDRAW].isEnabled()
    shutil.rmtree(project.root / "models" / "mine")
    assert "not in this project any more" in entries(canvas, 0)[NEED].toolTip()
    session.embedding = "measured"
    asked = len(_runner.runner_of(viewer).asked)
    assert "not made by a network" in entries(canvas, 0)[NEED].toolTip()
    assert len(_runner.runner_of(viewer).asked) == asked


def test_an_autoencoder_redraws_a_cell_in_another_field(viewer, qtbot, monkeypatch, project, told):
    net = create_model("autoencoder", width=0.05)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    cell = next(c for c in session.cells.obs_names if c.startswith("E12"))
    entries(canvas, session.row_of_id(cell))[REDRAW].trigger()
    qtbot.waitUntil(lambda: len(canvas.layers("look")) == 3)
    assert canvas.field == "E12"
    parts = {la.metadata[OURS]["part"]: la for la in canvas.layers("look")}
    assert [k for k, la in parts.items() if la.visible] == ["redrawn"]
    low, high = parts["error"].contrast_limits
    assert low == -high
    assert parts["input"].name == f"FKHR-GFP as the network sees it, {cell}"
    done = []
    show_field(viewer, session, "A01", lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert not any(la.visible for la in canvas.layers("look"))
