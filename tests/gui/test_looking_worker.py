"""What is asked about cells, from the window's buttons and menus through the real worker process and back."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from _clicks import click
from _made_up import brightness_dino, made_up
from napari_cellrep.gui import _axis, _looking
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._looking import APART, GRID, PATTERNS, QUESTIONS, STRUCTURE
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.inside import InsideView
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.steps.embed import embed

LONG = 120_000
PLACES = [(40 * i + 28, 40 * j + 28) for i in range(5) for j in range(4)]


@pytest.fixture
def told(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(_looking, "show_info", said.append)
    monkeypatch.setattr(_looking, "show_warning", lambda words: pytest.fail(words))
    return said


@pytest.fixture
def inside(viewer, qtbot, tmp_path, told):
    """Twenty cells, half of them with a bright patch, vectors of three networks, and the panel beside the image."""
    project = made_up(tmp_path, PLACES, [(y - 8, x + 4, 8) for y, x in PLACES[:10]], side=216)
    for name, net in (
        ("eyes", brightness_dino()),
        ("paired_cell_inpainting", create_model("paired_cell_inpainting", width=0.05)),
        ("copy", create_model("autoencoder", width=0.05)),
        ("snoop", create_model("microsnoop", width=0.1, channels=("FKHR-GFP", "DNA"))),
    ):
        save_model(net, project.root / "models" / name)
        window = (
            {"crop": {"mode": "window", "window_px": 112, "size_px": 112}} if name == "snoop" else {}
        )  # of 7 × 7 patches
        drain(embed(project, model=name, device="cpu", precision="fp32", **window))
    cells = project.cells
    cells.obs["good"] = True  # those at the edge too, so that there are enough for an axis
    project.write_cells(cells)
    session, canvas, shown = session_of(viewer), canvas_of(viewer), []
    session.open(project)
    session.hide_flagged = False
    session.embedding = "eyes"
    show_field(viewer, session, "one", lambda: shown.append(1))
    qtbot.waitUntil(lambda: bool(shown))
    view = InsideView(session, canvas)
    qtbot.addWidget(view)
    view.resize(560, 500)
    view.show()
    yield view
    view.disconnect_session()
    runner_of(viewer).close()


def choose(inside, qtbot, words, spot=None, done=None):
    """Open a cell's menu, choose an entry once the worker has said that it can be, and wait for what comes of it."""
    canvas = inside.canvas
    n, menu = len(canvas.looking.answers), canvas.open_menu(0, spot=spot)
    found, menus = {}, [menu]
    while menus:
        for action in menus.pop().actions():
            if action.menu() is not None:
                menus.append(action.menu())
            found[action.text()] = action
    qtbot.waitUntil(lambda: found[words].isEnabled() and "moment" not in found[words].toolTip(), timeout=LONG)
    found[words].trigger()
    menu.hide()
    qtbot.waitUntil(done or (lambda: len(canvas.looking.answers) > n), timeout=LONG)
    return canvas.looking.answers[-1] if canvas.looking.answers else None


@pytest.mark.slow
def test_a_vision_transformer_is_asked(inside, viewer, qtbot, told, monkeypatch, tmp_path):
    session = inside.session
    session.save_sets({"lit": np.arange(20) < 10, "dark": np.arange(20) >= 10})
    attention = choose(inside, qtbot, QUESTIONS["attention"][0])
    assert attention.names == ["attention", "attention, head 1", "attention, head 2"]
    click(inside.of_these)
    qtbot.waitUntil(lambda: inside.matrix.heads == ["mean", "head 1", "head 2"], timeout=LONG)
    assert np.isfinite(inside.matrix.iou[1]).all()
    table = tmp_path / "heads.csv"
    monkeypatch.setattr(_looking.QFileDialog, "getSaveFileName", lambda *_: (str(table), ""))
    click(inside.save_matrix)
    qtbot.waitUntil(lambda: str(table) in inside.matrix_words.text(), timeout=LONG)
    assert table.read_text().startswith("head,channel,iou")
    tokens = choose(inside, qtbot, QUESTIONS["tokens"][0])
    assert tokens.layers[0].rgb
    figure = tmp_path / "tokens.svg"
    monkeypatch.setattr(_looking.QFileDialog, "getSaveFileName", lambda *_: (str(figure), ""))
    click(inside.save)
    qtbot.waitUntil(lambda: str(figure) in told[-1], timeout=LONG)
    assert figure.read_text().count("<image") >= 4  # both channels, both bases
    viewer.reset_view()  # all cells are in view
    found = choose(inside, qtbot, STRUCTURE[0], spot=(24.0, 36.0))
    assert found.what == "structure"
    assert len(found.cells) > 5
    told_apart = choose(inside, qtbot, "lit or dark")
    assert told_apart.what == "apart"
    assert inside.words.text().count(APART[0]) == 1
    assert "AUC of 1.00" in told[-1]


@pytest.mark.slow
def test_predictions_are_asked(inside, viewer, qtbot, told, monkeypatch, tmp_path):
    session = inside.session
    session.embedding = "paired_cell_inpainting"
    session.select([0, 1, 2])
    patterns = choose(inside, qtbot, PATTERNS[0])
    assert patterns.names[0] == "predicted, mean of 2 sources"
    assert np.asarray(patterns.layers[0].data).shape == (64, 64)
    out = tmp_path / "grid.png"
    monkeypatch.setattr(_looking.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    choose(inside, qtbot, GRID[0], done=out.exists)
    qtbot.waitUntil(lambda: str(out) in told[-1], timeout=LONG)


@pytest.mark.slow
def test_the_mask_is_painted_and_the_cell_redrawn(inside, viewer, qtbot, told):
    session, canvas, row = inside.session, inside.canvas, inside.mask
    session.embedding = "snoop"
    answer = choose(inside, qtbot, QUESTIONS["reconstruction"][0])
    assert (row.isVisible(), row.paint.isChecked(), row.again.isEnabled()) == (True, False, False)
    assert "Paint the mask first" in row.again.toolTip()
    (layer,) = canvas.layers("look")
    click(row.paint)
    mask = answer.mask
    assert viewer.layers.selection.active is mask or viewer.layers.selection.active == mask
    assert (mask.mode, mask.brush_size) == ("paint", 1)
    assert mask.name == "FKHR-GFP, hidden patches, one:1"
    np.testing.assert_array_equal(mask.data > 0, answer.looks[0]["mask"]["data"][0] > 0)
    # The grid begins where the network's patches do, and a patch is 16 pixels of the field wide.
    dna, plane = viewer.layers["DNA"], answer.looks[0]["mask"]
    np.testing.assert_allclose(
        dna.world_to_data(mask.data_to_world((-0.5, -0.5))), (plane["y0"] - 0.5, plane["x0"] - 0.5)
    )
    np.testing.assert_allclose(
        np.subtract(
            dna.world_to_data(mask.data_to_world((1, 1))), dna.world_to_data(mask.data_to_world((0, 0)))
        ),
        16,
    )
    assert canvas.layers("look")[-1] == mask  # above the picture
    # Paint with the mouse, on a patch that is seen.
    i, j = (int(v) for v in np.argwhere(np.asarray(mask.data) == 0)[0])
    before, selected = layer.data.copy(), session.selected.copy()
    press(viewer, qtbot, mask, (i, j))
    qtbot.waitUntil(lambda: mask.data[i, j] > 0)
    assert (session.selected == selected).all()  # painting is not choosing a cell
    painted = np.asarray(mask.data) > 0
    click(row.again)
    qtbot.waitUntil(lambda: answer.looks[0]["mask"] is not plane, timeout=LONG)
    np.testing.assert_array_equal(answer.looks[0]["mask"]["data"][0] > 0, painted)
    assert canvas.layers("look") == [layer, mask]  # in place
    assert layer.data.shape == before.shape
    assert np.abs(layer.data - before).max() > 0
    assert f"{int(painted.sum())} of {painted.size} patches hidden" in inside.words.text()
    # Every channel has its own; what was painted on the first stays.
    names = answer.names
    inside.show_picture(names.index("DNA redrawn"))
    assert mask.name.startswith("DNA, hidden")
    mask.fill((0, 0), 1) if not mask.data[0, 0] else mask.paint((0, 0), 0)
    inside.show_picture(names.index("FKHR-GFP with patches hidden"))
    np.testing.assert_array_equal(np.asarray(mask.data) > 0, painted)
    # Other patches at another ratio.
    row.share.setValue(75)
    looks = answer.looks
    click(row.others)
    qtbot.waitUntil(lambda: answer.looks is not looks, timeout=LONG)
    assert np.mean(np.asarray(mask.data) > 0) > painted.mean()
    np.testing.assert_array_equal(layer.data, answer.looks[0]["planes"][2]["data"])
    looks = answer.looks
    click(row.others)
    qtbot.waitUntil(lambda: answer.looks is not looks, timeout=LONG)
    assert (answer.looks[0]["mask"]["data"] != looks[0]["mask"]["data"]).any()
    # Thrown away, it is not lost; with the last picture it goes.
    viewer.layers.remove(mask)
    assert not row.paint.isChecked()
    click(row.paint)
    canvas.looking.remove()
    assert not canvas.layers("look")
    assert not canvas.looking.answers
    # Several cells have no mask that could be painted.
    session.select([0, 1])
    menu = canvas.open_menu(0)
    more = next(a.menu() for a in menu.actions() if a.menu() is not None and "Look inside" in a.text())
    redraw = next(a for a in more.actions() if a.text() == QUESTIONS["reconstruction"][0])
    qtbot.waitUntil(redraw.isEnabled, timeout=LONG)
    redraw.trigger()
    menu.hide()
    qtbot.waitUntil(lambda: bool(canvas.looking.answers), timeout=LONG)
    assert not row.paint.isEnabled()
    assert "for one cell" in row.paint.toolTip()
    assert row.others.isEnabled()


@pytest.mark.slow
def test_an_autoencoder_redraws_what_is_left(inside, viewer, qtbot, told):
    inside.session.embedding, row = "copy", inside.mask
    answer = choose(inside, qtbot, QUESTIONS["reconstruction"][0])
    assert answer.names[2] == "FKHR-GFP with no patch hidden"
    assert "was not taught with hidden patches" in row.share.toolTip()
    assert "in all channels" in row.paint.toolTip()
    click(row.paint)
    mask, looks = answer.mask, answer.looks
    assert mask.name == "hidden patches, one:1"
    assert not np.asarray(mask.data).any()
    mask.paint((2, 2), 1)
    inside.show_picture(2)
    click(row.again)
    qtbot.waitUntil(lambda: answer.looks is not looks, timeout=LONG)
    assert "1 of " in inside.words.text()
    assert inside.boxes["picture"].itemText(2) == "FKHR-GFP with patches hidden"
    hidden = np.argwhere(
        answer.layers[2].data == 0
    )  # what is shown begins at the field's edge, 4 px into the window
    assert {(12, 12), (19, 19)} <= {(int(y), int(x)) for y, x in hidden}


@pytest.mark.slow
def test_what_a_groups_cells_differ_in_comes_as_a_figure(inside, qtbot, monkeypatch, tmp_path):
    canvas, session, shown = inside.canvas, inside.session, []
    show = _axis.AxisDialog.show
    monkeypatch.setattr(_axis.AxisDialog, "show", lambda dialog: (shown.append(dialog), show(dialog)))
    said: list[str] = []
    for name in ("show_info", "show_warning"):
        monkeypatch.setattr(_axis, name, said.append)
    menu = canvas.open_group_menu("group", "one")
    next(a for a in menu.actions() if a.text() == _axis.DIFFER[0]).trigger()
    menu.hide()
    qtbot.waitUntil(lambda: bool(shown or said), timeout=LONG)
    assert not said
    dialog = shown[0]
    qtbot.addWidget(dialog)
    assert dialog.picture.pixmap().width() > 300
    assert "FKHR-GFP" in dialog.words.text()  # which channels change along it …
    assert "The patch that changes most" in dialog.words.text()  # … and which patches
    click(dialog.select)
    assert session.n_selected == len(dialog.found["cells"]) == 8
    at = dialog.found["at"]  # ten cells are dark and ten have a bright patch
    np.testing.assert_allclose(at, [-1] * 4 + [1] * 4, atol=1e-6)
    out = tmp_path / "axis.svg"
    monkeypatch.setattr(_axis.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    click(dialog.save)
    qtbot.waitUntil(lambda: bool(said), timeout=LONG)
    assert str(out) in said[0]
    assert "svg" in out.read_text()[:400]


def press(viewer, qtbot, layer, at):
    """Press the mouse on a pixel of a layer."""
    qt_viewer = viewer.__wrapped__.window._qt_viewer  # napari gives no public way to its canvas
    view, (wy, wx) = qt_viewer.canvas.view, layer.data_to_world(at)
    px = (view.transform * view.scene.transform).map([wx, wy, 0, 1])
    spot, left, none = (
        QPoint(int(px[0]), int(px[1])),
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    widget = qt_viewer.canvas.native
    qtbot.mouseMove(widget, spot)
    qtbot.mousePress(widget, left, none, spot)
    qtbot.mouseRelease(widget, left, none, spot)
