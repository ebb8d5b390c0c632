"""Right-click on a cell, ask its network, and see the answer where the cell is."""

from __future__ import annotations

import gc
import shutil
import weakref

import numpy as np
import pytest
from napari.layers import Image

from _clicks import click
from _made_up import brightness_dino, made_up
from napari_cellrep.gui import _axis, _looking, _runner
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._looking import OURS, QUESTIONS, STRUCTURE, merge
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.inside import InsideView
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.worker import resolve, to_plain

LOOK_AT, NEED, REDRAW, ALIKE, CLASS = (
    QUESTIONS[k][0] for k in ("attention", "occlusion", "reconstruction", "tokens", "classes")
)


class Here:
    """What the worker does, done at once in this process."""

    def __init__(self, project):
        self.project, self.asked = project, []

    squares = 3

    def ask(self, step, root, on_result, on_error, **kwargs):
        assert str(root) == str(self.project.root)
        self.asked.append(step)
        if step in ("look.classes", "look.occlusion"):
            kwargs["squares"] = self.squares
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


def entries(canvas, row, spot=None):
    """The menu of a cell: what it says → the entry; of the menu about the selection, "N: what it says"."""
    menu = canvas.open_menu(row, spot=spot)
    found = {a.text(): a for a in menu.actions() if a.text()}
    for action in menu.actions():
        if action.menu() is not None and "the " in action.text():  # not "Add to set"
            n = action.text().partition("the ")[2].partition(" ")[0]
            found.update({f"{n}: {a.text()}": a for a in action.menu().actions()})
    menu.hide()
    return found


@pytest.fixture
def inside(viewer, qtbot, monkeypatch, tmp_path, told):
    """Two cells with one bright patch each, on the canvas, and the panel beside it."""
    project = made_up(tmp_path, [(48, 40), (80, 8)], [(40, 40, 8), (72, 8, 8)])
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", brightness_dino())
    session.hide_flagged = False  # the second cell touches the edge
    view = InsideView(session, canvas)
    qtbot.addWidget(view)
    view.resize(420, 500)
    view.show()
    yield view
    view.disconnect_session()


@pytest.mark.slow
@pytest.mark.parametrize(("um", "scale"), [(0.0, None), (0.5, None), (0.5, (0.5, 0.2))])
def test_attention_lies_on_what_is_bright(viewer, qtbot, monkeypatch, tmp_path, told, um, scale):
    # The cell at the corner of the image, its crop enlarged in the network's own resizing: 32 px seen for 64.
    spot = (6 - 32 + 32, 4 - 32 + 48, 16)
    project = made_up(tmp_path, [(6, 4), (60, 60)], [spot], um)
    net = brightness_dino()
    net.crop = type(net.crop)(size_px=32, window_px=64, channels=net.roles)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", net)
    if (
        scale is not None
    ):  # the user has said that rows lie farther apart than columns, and where the image is
        for la in canvas.layers():
            la.scale, la.translate = scale, (7.0, -3.0)
    entries(canvas, session.row_of_id("one:1"))[LOOK_AT].trigger()
    (mean,) = canvas.layers("look")  # the heads are to be chosen
    assert mean.metadata[OURS]["part"] == "mean"
    assert mean.visible
    dna = viewer.layers["DNA"]
    assert isinstance(mean, Image)
    assert (mean.blending, mean.colormap.name, mean.name) == ("additive", "inferno", "attention, one:1")
    assert tuple(str(u) for u in mean.units) == tuple(str(u) for u in dna.units)
    at = np.array(np.unravel_index(np.argmax(mean.data), mean.data.shape))
    for corner, want in ((-0.5, 0), (0.5, 16)):  # the brightest patch covers the bright square, to the pixel
        px = dna.world_to_data(mean.data_to_world(at + corner))
        np.testing.assert_allclose(px, np.array(spot[:2]) + want - 0.5)
    assert "can mislead" in told[0]
    assert "can mislead" in QUESTIONS["attention"][1]


@pytest.mark.slow
def test_answers_of_a_cell_take_turns_and_go_together(viewer, qtbot, monkeypatch, tmp_path, told):
    project = made_up(tmp_path, [(48, 40), (60, 70)], [(40, 40, 8)])
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", brightness_dino())
    row = session.row_of_id("one:1")
    mine = viewer.add_points([[1, 1]], name="mine")
    n = len(viewer.layers)
    entries(canvas, row)[LOOK_AT].trigger()
    entries(canvas, row)[LOOK_AT].trigger()
    assert len(viewer.layers) == n + 1  # asked twice, shown once
    entries(canvas, row)[NEED].trigger()
    assert [la.metadata[OURS]["part"] for la in canvas.layers("look") if la.visible] == ["occlusion"]
    assert "Without DNA the cell moves" in told[-1]
    found = entries(canvas, row)
    found["Hide predictions and looks into cells"].trigger()
    assert not any(la.visible for la in canvas.layers("look"))
    entries(canvas, row)["Show predictions and looks into cells"].trigger()
    assert [la.metadata[OURS]["part"] for la in canvas.layers("look") if la.visible] == ["occlusion"]
    entries(canvas, -1)["Remove predictions and looks into cells (2 layers)"].trigger()
    assert len(viewer.layers) == n
    assert mine in viewer.layers
    assert canvas.open_menu(-1) is None


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_autoencoder_redraws_a_cell_in_another_field(viewer, qtbot, monkeypatch, project, told):
    net = create_model("autoencoder", width=0.05)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    cell = next(c for c in session.cells.obs_names if c.startswith("E12"))
    entries(canvas, session.row_of_id(cell))[REDRAW].trigger()
    qtbot.waitUntil(lambda: len(canvas.layers("look")) == 1)
    assert canvas.field == "E12"
    (answer,) = canvas.looking.answers
    canvas.looking.take_apart(answer)
    parts = {la.metadata[OURS]["part"]: la for la in canvas.layers("look")}
    assert [k for k, la in parts.items() if la.visible] == ["redrawn"]
    low, high = parts["error"].contrast_limits
    assert low == -high
    assert parts["input"].name == f"FKHR-GFP as the network sees it, {cell}"
    done = []
    show_field(viewer, session, "A01", lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert not any(la.visible for la in canvas.layers("look"))


# ---- a selection -------------------------------------------------------------------------------------


def test_a_cell_that_is_gone_is_said(viewer, qtbot, monkeypatch, tmp_path, told):
    project = made_up(tmp_path, [(48, 40), (80, 8)], [(40, 40, 8)])
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", brightness_dino())
    warned: list[str] = []
    monkeypatch.setattr(_looking, "show_warning", warned.append)
    menu = entries(canvas, session.row_of_id("one:1"))
    project.write_cells(project.cells[1:].copy())  # an edit elsewhere took the cell out of the table
    menu[LOOK_AT].trigger()
    assert "no cell one:1: it may have been deleted" in warned[0]
    assert not canvas.layers("look")


def test_pictures_of_cells_become_one_to_the_pixel():
    def plane(y0, x0, value, scale=4.0):
        data = np.full((2, 2), value, np.float32)
        data[0, 0] = 0
        return {
            "part": "mean",
            "name": "a",
            "data": data,
            "y0": y0,
            "x0": x0,
            "scale": scale,
            "limits": (0, value),
        }

    whole = merge([plane(2.0, 3.0, 5.0), plane(2.0, 9.0, 7.0)])  # they share the columns 9 and 10
    assert (whole["y0"], whole["x0"], whole["scale"], whole["limits"]) == (2, 3, 1, (0, 7))
    assert whole["data"].shape == (8, 14)
    want = np.full((8, 14), 5.0)
    want[:, 7:] = 7  # each pixel to the nearer middle: 6.5 is 3.5 from the first and 6 from the second …
    want[:4, :4] = 0
    want[:4, 7:10] = 0
    np.testing.assert_array_equal(whole["data"], want)
    assert np.isnan(merge([plane(0.0, 0.0, 1.0), plane(20.0, 20.0, 1.0)])["data"][10, 10])
    alone = plane(2.5, 3.5, 1.0, 0.5)
    assert merge([alone])["data"] is alone["data"]
    colours = [{**plane(y, y, 1.0), "data": np.full((2, 2, 3), 0.5, np.float32)} for y in (0.0, 20.0)]
    both = merge(colours)["data"]
    assert both.shape == (28, 28, 4)
    assert (both[0, 0] == [0.5, 0.5, 0.5, 1]).all()
    assert both[10, 10, 3] == 0


def test_a_selection_is_looked_into_at_once(inside, viewer, told):
    canvas, session = inside.canvas, inside.session
    session.select([0])
    assert not [k for k in entries(canvas, 0) if ": " in k]  # one cell is no selection
    session.select([0, 1])
    entries(canvas, 0)[f"2: {LOOK_AT}"].trigger()
    (layer,) = canvas.layers("look")
    assert layer.name == "attention, 2 cells"
    dna, data = viewer.layers["DNA"], layer.data
    top = np.argwhere(data == np.nanmax(data))
    ys, xs = np.array([dna.world_to_data(layer.data_to_world(at)) for at in top]).T
    spots = {(40, 40), (72, 8)}
    assert {(int(y) // 8 * 8, int(x) // 8 * 8) for y, x in zip(ys, xs, strict=True)} <= spots
    assert "can mislead" in told[-1]
    n = len(viewer.layers)
    entries(canvas, 0)[f"2: {LOOK_AT}"].trigger()
    assert len(viewer.layers) == n
    entries(canvas, 0)[f"2: {ALIKE}"].trigger()
    (tokens,) = (la for la in canvas.layers("look") if la.visible)
    assert tokens.rgb
    assert tokens.data.shape[2] == 4
    assert "in 2 cells" in told[-1]


@pytest.mark.slow
def test_many_selected_cells_are_sampled_if_the_user_wants_it(viewer, qtbot, monkeypatch, project, told):
    net = create_model("paired_cell_inpainting", width=0.05)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    runner, asked, seen = _runner.runner_of(viewer), [], []

    def quick(step, root, on_result, on_error, **kwargs):
        if step == "look.occlusion":
            seen.append(kwargs["cells"])
            runner.squares = 1
        Here.ask(runner, step, root, on_result, on_error, **kwargs)

    monkeypatch.setattr(runner, "ask", quick)
    monkeypatch.setattr(_looking, "confirm", lambda title, words: asked.append(words) or len(asked) > 1)
    session.select(session.visible)
    n = session.n_selected
    found = entries(canvas, 0)
    assert not found[f"{n:,}: {LOOK_AT}"].isEnabled()
    assert "no attention; DINO has" in found[f"{n:,}: {LOOK_AT}"].toolTip()
    found[f"{n:,}: {NEED}"].trigger()
    assert not seen
    entries(canvas, 0)[f"{n:,}: {NEED}"].trigger()
    assert f"{n:,} cells are selected" in asked[0]
    assert "Look into 50 of them, drawn at random" in asked[0]
    assert len(set(seen[0])) == 50
    assert f"50 of the {n:,} selected cells, drawn at random." in told[-1]
    assert "on average" in told[-1]
    # The cells lie in three fields; the one layer follows the field that is shown.
    (layer,) = canvas.layers("look")
    here = layer.data.copy()
    assert layer.visible
    done = []
    show_field(viewer, session, "E12", lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert layer.visible
    assert canvas.layers("look") == [layer]
    assert layer.data.shape != here.shape or not np.array_equal(layer.data, here, equal_nan=True)
    for cell in (c for c in seen[0] if c.startswith("E12")):
        _, y, x = session.place(session.row_of_id(cell))
        at = layer.world_to_data(canvas.layer("channel").data_to_world((y, x)))
        assert np.isfinite(layer.data[tuple(np.round(at).astype(int))])


@pytest.mark.slow
def test_closed_overlays_give_their_memory_back(inside, viewer):
    canvas, session = inside.canvas, inside.session
    session.select([0, 1])
    entries(canvas, 0)[f"2: {LOOK_AT}"].trigger()
    entries(canvas, 0)[LOOK_AT].trigger()
    click(inside.apart)
    entries(canvas, 0)["Hide predictions and looks into cells"].trigger()
    held = [weakref.ref(la) for la in canvas.layers("look")]
    held += [weakref.ref(answer) for answer in canvas.looking.answers]
    held += [
        weakref.ref(p["data"]) for a in canvas.looking.answers for look in a.looks for p in look["planes"]
    ]
    assert len(held) >= 1 + 3 + 2 + 9
    viewer.layers.remove(canvas.layers("look")[0])  # by napari's own button
    entries(canvas, -1)["Remove predictions and looks into cells (3 layers)"].trigger()
    assert not canvas.looking.answers
    plane, x = np.zeros((64, 64), np.float32), {"y0": 8.0, "x0": 8.0, "scale": 1.0}
    canvas.add_inpainting(
        {"target": plane, "prediction": plane + 1, "error": plane + 1, "structure": plane[None], "structures": ["DNA"],
         "field": "one", "source_cell": "one:2", "target_cell": "one:1", **x}
    )  # fmt: skip
    held += [weakref.ref(la) for la in canvas.layers("inpainting")]
    assert len(canvas.layers("inpainting")) == 4
    entries(canvas, -1)["Remove predictions and looks into cells (4 layers)"].trigger()
    canvas._menu = None
    gc.collect()
    assert [ref for ref in held if ref() is not None] == []


@pytest.mark.slow
def test_patterns_of_the_selected_cells_in_one_cell_and_as_a_grid(
    viewer, qtbot, monkeypatch, project, told, tmp_path
):
    net = create_model("paired_cell_inpainting", width=0.05)
    save_model(net, project.root / "models" / "paired_cell_inpainting")
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    ids = list(session.cells.obs_names)
    far = [row for row in np.flatnonzero(session.visible) if ids[row].startswith("E12")][:2]
    session.select([0, *far])  # of two fields
    n = session.n_selected
    entries(canvas, 0)[f"{n}: {_looking.PATTERNS[0]}"].trigger()
    (layer,) = canvas.layers("look")
    assert layer.name == f"predicted, mean of 2 sources, {session.cell_id(0)}"
    (answer,) = canvas.looking.answers
    assert answer.names[4:] == [f"predicted from {session.cell_id(row)}" for row in far]
    assert "least from" in told[-1]
    out = tmp_path / "grid.png"
    monkeypatch.setattr(_looking.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    entries(canvas, 0)[f"{n}: {_looking.GRID[0]}"].trigger()
    assert out.stat().st_size > 10_000
    assert str(out) in told[-1]


@pytest.mark.slow
def test_a_cell_is_predicted_from_all_of_its_group_or_as_many_as_the_user_wants(
    viewer, qtbot, monkeypatch, project, told
):
    canvas, session = opened(
        viewer, qtbot, monkeypatch, project, "A01", create_model("paired_cell_inpainting", width=0.05)
    )
    runner, sources, asked = _runner.runner_of(viewer), [], []

    def one_of_them(step, root, on_result, on_error, **kwargs):
        if step == "inpaint.patterns":
            sources.append(kwargs["cells"])
            kwargs["cells"] = kwargs["cells"][:1]
        Here.ask(runner, step, root, on_result, on_error, **kwargs)

    monkeypatch.setattr(runner, "ask", one_of_them)
    target = int(np.flatnonzero(session.visible)[0])
    mates = session.visible & (session.cells.obs["group"].astype(str) == "A01").to_numpy()
    n = int(mates.sum()) - 1
    assert n > 50
    # The dialog, as a person answers it: nothing, all, few.
    for most, answers in ((1000, ("", f"All {n}", "50 at random")), (60, ("60 at random",))):
        monkeypatch.setattr(_looking, "MOST_SOURCES", most)
        for wanted in answers:

            def pressed(box, wanted=wanted):
                asked.append(box.text())
                words = {b.text().replace("&", ""): b for b in box.buttons()}
                (words[wanted] if wanted else box.button(box.StandardButton.Cancel)).click()

            monkeypatch.setattr(_looking.QMessageBox, "exec", pressed)
            entries(canvas, target)[_looking.EVERY_SOURCE[0].format("A01")].trigger()
    assert [len(set(cells)) for cells in sources] == [n, 50, 60]
    ids = np.array(session.cells.obs_names)
    assert set(sources[0]) == set(ids[mates]) - {ids[target]}
    assert f"{n} other cells of A01 are the sources" in asked[0]
    assert "at random" not in told[0]
    assert f"50 of the {n} other cells of A01, drawn at random, are the sources." in told[1]
    assert f"60 of the {n} other" in told[2]


def test_an_entry_about_patterns_is_grey_where_no_model_can(viewer, qtbot, monkeypatch, project, told):
    canvas, session = opened(
        viewer, qtbot, monkeypatch, project, "A01", create_model("paired_cell_inpainting", width=0.05)
    )
    save_model(create_model("autoencoder", width=0.05), project.root / "models" / "paired_cell_inpainting")
    rows = np.flatnonzero(session.visible)[:2]
    session.select(rows)
    found = entries(canvas, int(rows[0]))
    for words in (
        _looking.EVERY_SOURCE[0].format("A01"),
        f"2: {_looking.PATTERNS[0]}",
        f"2: {_looking.GRID[0]}",
    ):
        assert not found[words].isEnabled()
        assert "cannot predict a protein pattern" in found[words].toolTip()


@pytest.mark.slow
def test_what_a_groups_cells_differ_in(viewer, qtbot, monkeypatch, project, told, tmp_path):
    net = create_model("paired_cell_inpainting", width=0.05)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    shown, show = [], _axis.AxisDialog.show
    monkeypatch.setattr(_axis.AxisDialog, "show", lambda dialog: (shown.append(dialog), show(dialog)))
    monkeypatch.setattr(_axis, "show_info", told.append)
    menu = canvas.open_group_menu("group", "A01")
    next(a for a in menu.actions() if a.text() == "What do its cells differ in?").trigger()
    menu.hide()
    (dialog,) = shown
    qtbot.addWidget(dialog)
    assert "main axis of A01" in dialog.words.text()
    assert dialog.picture.pixmap().width() > 300
    click(dialog.select)
    assert session.n_selected == len(dialog.found["cells"]) == 8
    out = tmp_path / "axis.pdf"
    monkeypatch.setattr(_axis.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    click(dialog.save)
    assert out.read_bytes()[:4] == b"%PDF"
    assert str(out) in told[-1]


# ---- the panel ---------------------------------------------------------------------------------------


def test_the_panel_shows_heads_and_hides_the_lowest(inside, viewer):
    canvas = inside.canvas
    assert "Right-click a cell" in inside.words.text()
    assert not inside.settings.isVisible()
    entries(canvas, 0)[LOOK_AT].trigger()
    box = inside.boxes["picture"]
    assert [box.itemText(i) for i in range(box.count())] == [
        "attention",
        "attention, head 1",
        "attention, head 2",
    ]
    inside.show_picture(1)
    (layer,) = (la for la in canvas.layers("look") if la.visible)
    assert layer.name == "attention, head 1, one:1"
    inside.opacity.setValue(30)
    assert layer.opacity == pytest.approx(0.3)
    data = layer.data.copy()
    full = layer.colormap.map(np.linspace(0, 1, 5))
    inside.lowest.setValue(90)
    np.testing.assert_array_equal(layer.data, data)
    low, high = layer.contrast_limits
    seen = layer.colormap.map((np.sort(data.ravel()) - low) / (high - low))
    assert (seen[:-2] == 0).all()  # the image is seen there
    assert seen[-1, :3].max() > 0.9  # the bright patch stays
    assert "90 %" in inside.lowest_words.text()
    inside.lowest.setValue(0)
    np.testing.assert_allclose(layer.colormap.map(np.linspace(0, 1, 5)), full)
    inside.lowest.setValue(50)
    inside.show_picture(0)  # the same layer, another picture
    assert canvas.layers("look") == [layer]
    assert layer.name == "attention, one:1"
    assert layer.contrast_limits == [layer.data.min(), layer.data.max()]
    assert (layer.colormap.map(np.linspace(0, 1, 5))[0] == 0).all()
    click(inside.apart)
    assert not inside.apart.isEnabled()
    parts = {la.name: la for la in canvas.layers("look")}
    assert set(parts) == {f"attention, {k}one:1" for k in ("", "head 1, ", "head 2, ")}
    assert [k for k, la in parts.items() if la.visible] == ["attention, one:1"]
    viewer.layers.remove(parts["attention, head 2, one:1"])
    inside.show_picture(2)  # thrown away, and wanted again
    assert [la.name for la in canvas.layers("look") if la.visible] == ["attention, head 2, one:1"]
    entries(canvas, 0)["Remove predictions and looks into cells (3 layers)"].trigger()
    assert "Right-click a cell" in inside.words.text()


def test_a_field_of_the_matrix_shows_its_head_and_channel(inside, viewer, qtbot):
    canvas, session = inside.canvas, inside.session
    entries(canvas, 0)[LOOK_AT].trigger()
    assert "can mislead" in inside.matrix_words.toolTip()
    assert not inside.of_selected.isEnabled()
    click(inside.of_these)
    assert inside.matrix.heads == ["mean", "head 1", "head 2"]
    assert inside.matrix.channels == ["FKHR-GFP", "DNA"]
    np.testing.assert_allclose(inside.matrix.iou[:2, 0], 1)
    assert "the same everywhere" in inside.matrix.words_of(2, 0)
    assert "100% is marked by both" in inside.matrix.words_of(1, 0)
    click(inside.matrix, inside.matrix.rect_of(1, 0).center().toPoint())
    assert [la.name for la in canvas.layers("look") if la.visible] == ["attention, head 1, one:1"]
    assert [la.name for la in canvas.layers("channel") if la.visible] == ["FKHR-GFP"]
    session.select([0, 1])
    click(inside.of_selected)
    assert "in 2 cells" in inside.matrix_words.text()
    click(inside.matrix, inside.matrix.rect_of(1, 1).center().toPoint())  # their attention is asked for
    assert [la.name for la in canvas.layers("look") if la.visible] == ["attention, head 1, 2 cells"]
    assert [la.name for la in canvas.layers("channel") if la.visible] == ["DNA"]
    click(inside.of_all)
    assert "drawn at random" in inside.matrix_words.text()


def test_a_structure_is_found_where_it_was_clicked(inside, viewer, told):
    canvas = inside.canvas
    assert STRUCTURE[0] not in entries(canvas, 0)  # no place was clicked
    viewer.reset_view()
    entries(canvas, 0, (44.0, 44.0))[STRUCTURE[0]].trigger()
    (layer,) = canvas.layers("look")
    dna = viewer.layers["DNA"]
    for spot in ((44, 44), (76, 12)):  # the bright patch of either cell
        at = np.round(layer.world_to_data(dna.data_to_world(spot))).astype(int)
        assert layer.data[tuple(at)] > 0.95
    assert np.nanmean(layer.data > 0.9) < 0.2
    assert "like the patch at (44, 44) of one:1" in told[-1]


def test_what_tells_two_sets_apart_is_asked_about_a_cell(viewer, qtbot, monkeypatch, tmp_path, told):
    places = [(40 * i + 28, 40 * j + 28) for i in range(5) for j in range(4)]
    project = made_up(tmp_path, places, [(y - 8, x + 4, 8) for y, x in places[:10]], side=216)
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "one", brightness_dino())
    assert _looking.APART[0] not in [a.text() for a in canvas.open_menu(0).actions()]  # no sets yet
    session.save_sets({"lit": np.arange(20) < 10, "dark": np.arange(20) >= 10})
    menu = next(a.menu() for a in canvas.open_menu(0).actions() if a.text() == _looking.APART[0])
    (action,) = menu.actions()
    assert (action.text(), action.isEnabled()) == ("lit or dark", True)
    action.trigger()
    (layer,) = canvas.layers("look")
    assert layer.name == "lit (orange) or dark (blue), one:1"
    assert "AUC of 1.00" in told[-1]
    y, x = np.unravel_index(layer.data.argmax(), layer.data.shape)
    at = viewer.layers["DNA"].world_to_data(layer.data_to_world((y, x)))
    assert np.abs(at - (28 - 4, 28 + 8)).max() <= 8


@pytest.mark.slow
def test_classes_are_bars_and_evidence(viewer, qtbot, monkeypatch, project, told):
    net = create_model("deeploc", width=0.0625, d1=24, d2=24, n_classes=3)
    net.card, net.roles = {"classes": ["nucleus", "rim", "dead"]}, ("FKHR-GFP", "DNA")
    canvas, session = opened(viewer, qtbot, monkeypatch, project, "A01", net)
    opened_panels = []
    monkeypatch.setattr(canvas.looking, "open_panel", lambda: opened_panels.append(1))
    view = InsideView(session, canvas)
    qtbot.addWidget(view)
    view.resize(420, 500)
    view.show()
    cell = session.cell_id(0)
    entries(canvas, 0)[CLASS].trigger()
    assert opened_panels
    (layer,) = canvas.layers("look")
    best = max(view.bars.shares, key=view.bars.shares.get)
    assert layer.name == f"evidence for {best}, {cell}"
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    np.testing.assert_allclose(
        layer.colormap.map([0.5])[0, :3], 0, atol=0.01
    )  # nothing is said: the cell is seen
    assert sum(view.bars.shares.values()) == pytest.approx(1, abs=1e-4)
    assert "Most probable of 3 classes" in told[-1]
    last = list(view.bars.shares)[-1]
    click(view.bars, view.bars.rect_of(2).center().toPoint())
    (layer,) = canvas.layers("look")
    assert layer.name == f"evidence for {last}, {cell}"
    assert view.bars.current == last
    session.select(np.flatnonzero(session.visible)[:3])
    entries(canvas, 0)[f"3: {CLASS}"].trigger()
    assert "mean of 3 cells" in view.bars_words.text()
    view.disconnect_session()
