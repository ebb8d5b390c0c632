from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from napari.layers import Image, Labels
from qtpy.QtCore import QPoint, QPointF, Qt

from _clicks import hover
from napari_cellrep.gui import _runner
from napari_cellrep.gui._image import (
    EDGE,
    FILL,
    FOCUS,
    HOVER,
    RING,
    add_inpainting_layers,
    canvas_of,
    paint_cell,
    save_label_edits,
    show_field,
)
from napari_cellrep.gui._pictures import compose, picture_side
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.map import MapView
from napari_cellrep.jobs import drain
from napari_cellrep.steps.crop import crop


@pytest.fixture
def session(viewer, project):
    session = session_of(viewer)
    session.open(project)
    return session


@pytest.fixture
def canvas(viewer, session):
    return canvas_of(viewer)


def open_field(viewer, qtbot, field_id: str) -> None:
    canvas = canvas_of(viewer)
    done: list[int] = []
    show_field(viewer, canvas.session, field_id, lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert canvas.field == field_id


def native(viewer):
    """The widget that gets the pointer's events."""
    return viewer.__wrapped__.window._qt_viewer.canvas.native


def at_cell(viewer, session, row: int) -> QPoint:
    """Where a cell is on the canvas, in px, by napari's own transform."""
    qt_viewer = viewer.__wrapped__.window._qt_viewer  # napari gives no public way to its canvas
    layer = canvas_of(viewer).layer("channel")
    _, y, x = session.place(row)
    wy, wx = layer.data_to_world((y, x))
    view = qt_viewer.canvas.view
    px = (view.transform * view.scene.transform).map([wx, wy, 0, 1])
    return QPoint(int(px[0]), int(px[1]))


def click(viewer, qtbot, at: QPoint, modifier=Qt.KeyboardModifier.NoModifier, button=None) -> None:
    widget = native(viewer)
    qtbot.mouseMove(widget, at)
    qtbot.mousePress(widget, button or Qt.MouseButton.LeftButton, modifier, at)
    qtbot.mouseRelease(widget, button or Qt.MouseButton.LeftButton, modifier, at)


def inner_cells(session, field_id: str, n: int) -> list[int]:
    """Visible cells whose centre lies in their own mask, away from the image's edge."""
    labels = session.project.read_labels(field_id)
    found = []
    for row in session.rows_of_field(field_id):
        _, y, x = session.place(row)
        own = labels[round(y), round(x)] == session.value(row, "label")
        if own and session.visible[row] and 150 < y < 490 and 150 < x < 490:
            found.append(int(row))
    return found[:n]


def chosen(session) -> list[str]:
    return session.cells.obs_names[session.selected].tolist()


def test_a_field_becomes_layers(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A01")
    assert [la.name for la in viewer.layers] == ["FKHR-GFP", "DNA", "cells", "cell selection"]
    gfp, dna, cells, _ = viewer.layers
    image = session.project.read_image("A01")
    assert (gfp.data == image[0]).all()
    assert (dna.data == image[1]).all()
    assert gfp.blending == dna.blending == "additive"
    assert (gfp.colormap.name, dna.colormap.name) == ("green", "bop blue")
    assert isinstance(cells.__wrapped__ if hasattr(cells, "__wrapped__") else cells, Labels)
    assert (cells.data == session.project.read_labels("A01")).all()
    features = cells.features
    row = session.row_of("A01", 5)
    assert features["index"].tolist() == list(range(len(features)))  # row i is label i
    assert features["cell"][5] == "A01:5" == session.cell_id(row)
    assert features["area_px"][5] == session.value(row, "area_px")
    assert all(np.ndim(v) == 0 for v in features.iloc[5])


def test_looks_stay_when_fields_change(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A01")
    mine = viewer.add_points([[1, 1]], name="mine")
    viewer.layers["DNA"].contrast_limits = (7, 99)
    viewer.layers["DNA"].colormap = "magenta"
    viewer.layers["FKHR-GFP"].visible = False
    open_field(viewer, qtbot, "E12")
    assert len(viewer.layers) == 5
    assert tuple(viewer.layers["DNA"].contrast_limits) == (7, 99)
    assert viewer.layers["DNA"].colormap.name == "magenta"
    assert not viewer.layers["FKHR-GFP"].visible
    assert (viewer.layers["DNA"].data == session.project.read_image("E12")[1]).all()
    assert mine.data.tolist() == [[1, 1]]
    session.open(None)
    assert [la.name for la in viewer.layers] == ["mine"]


def test_of_many_requests_the_last_is_shown(viewer, session, canvas, qtbot) -> None:
    for field_id in ("A01", "A12", "E12", "A12"):
        show_field(viewer, session, field_id)
    qtbot.waitUntil(lambda: canvas.field == "A12")
    qtbot.wait(200)
    assert canvas.field == "A12"
    assert len(viewer.layers) == 4


def test_pixel_size_becomes_scale(viewer, project, qtbot) -> None:
    project.write_fields([dataclasses.replace(f, um_per_px=0.5) for f in project.fields])
    session = session_of(viewer)
    session.open(project)
    open_field(viewer, qtbot, "A01")
    for layer in viewer.layers:
        assert tuple(layer.scale) == (0.5, 0.5)
        assert {str(u) for u in layer.units} == {"micrometer"}
    row = inner_cells(session, "A01", 1)[0]
    click(viewer, qtbot, at_cell(viewer, session, row))
    assert chosen(session) == [session.cell_id(row)]


def test_clicks_on_cells_select_them(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    a, b, c = inner_cells(session, "A12", 3)
    ids = [session.cell_id(r) for r in (a, b, c)]
    before = viewer.scene.camera.center
    click(viewer, qtbot, at_cell(viewer, session, a))
    assert chosen(session) == [ids[0]]
    assert session.focus == a
    assert viewer.scene.camera.center == before  # the pointer is on it already
    shift, alt = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier
    click(viewer, qtbot, at_cell(viewer, session, b), shift)
    assert set(chosen(session)) == set(ids[:2])
    click(viewer, qtbot, at_cell(viewer, session, a), alt)
    assert chosen(session) == [ids[1]]
    click(viewer, qtbot, at_cell(viewer, session, c))
    click(viewer, qtbot, at_cell(viewer, session, b), shift | alt)
    assert chosen(session) == []
    assert viewer.scene.camera.center == before


def test_background_and_painting_select_nothing(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    row = inner_cells(session, "A12", 1)[0]
    labels = viewer.layers["cells"].data
    y, x = np.argwhere(labels[200:400, 200:400] == 0)[0] + 200
    position = at_cell(viewer, session, row)
    _, cy, cx = session.place(row)
    zoom = viewer.scene.camera.zoom
    click(viewer, qtbot, position + QPoint(round((x - cx) * zoom), round((y - cy) * zoom)))
    assert chosen(session) == []
    viewer.layers.selection.active = viewer.layers["cells"]
    viewer.layers["cells"].mode = "pick"
    click(viewer, qtbot, position)
    assert chosen(session) == []
    viewer.layers["cells"].mode = "pan_zoom"
    click(viewer, qtbot, position)
    assert chosen(session) == [session.cell_id(row)]


def test_a_hidden_cell_says_why(viewer, session, canvas, qtbot, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_cellrep.gui._image.show_info", told.append)
    open_field(viewer, qtbot, "A12")
    rows = session.rows_of_field("A12")
    row = int(rows[~session.visible[rows]][0])
    canvas.click(row)
    assert chosen(session) == []
    assert session.cell_id(row) in told[0]
    assert str(session.value(row, "flags")).split(";")[0].replace("_", " ") in told[0]


def test_the_selection_is_painted_inside_its_cells(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    labels, overlay = viewer.layers["cells"].data, viewer.layers["cell selection"].data
    assert not overlay.any()
    rows = inner_cells(session, "A12", 6)
    numbers = [session.value(r, "label") for r in rows]
    session.select([*rows, *session.rows_of_field("E12")[:50]])
    qtbot.waitUntil(lambda: not canvas._todo)
    assert ((overlay > 0) == np.isin(labels, numbers)).all()
    assert {FILL, RING, EDGE} >= set(np.unique(overlay[overlay > 0]))
    session.select(rows[:2])
    qtbot.waitUntil(lambda: not canvas._todo)
    assert ((overlay > 0) == np.isin(labels, numbers[:2])).all()
    session.set_hover(rows[4])
    assert (overlay[labels == numbers[4]] == HOVER).any()
    session.set_hover(-1)
    session.undo()
    session.undo()
    qtbot.waitUntil(lambda: not canvas._todo)
    assert not overlay.any()


def test_many_marks_are_painted_without_blocking(viewer, session, canvas, qtbot) -> None:
    import time

    open_field(viewer, qtbot, "A12")
    session.hide_flagged = False
    start = time.perf_counter()
    session.select(np.ones(session.n_cells, bool))
    assert time.perf_counter() - start < 0.5  # a slice, however many cells there are
    qtbot.waitUntil(lambda: not canvas._todo)
    overlay = viewer.layers["cell selection"].data
    assert ((overlay > 0) == (viewer.layers["cells"].data > 0)).all()


def test_marks_of_one_cell() -> None:
    mask = np.zeros((12, 14), bool)
    mask[1:-1, 1:-1] = True
    overlay = np.full(mask.shape, 9, np.uint8)  # a neighbour's marks
    paint_cell(overlay, mask, 1)
    assert (overlay[~mask] == 9).all()
    assert (overlay[1, 1:-1] == EDGE).all()
    assert overlay[2, 5] == overlay[3, 5] == RING
    assert overlay[6, 6] == FILL
    paint_cell(overlay, mask, 3)
    assert (overlay[1, 1:-1] == FOCUS).all()
    paint_cell(overlay, mask, 0)
    assert (overlay[mask] == 0).all()


def test_a_point_leads_to_its_cell_in_another_field(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A01")
    row = inner_cells(session, "E12", 1)[0]
    canvas.click(row)  # what the map does
    assert chosen(session) == [session.cell_id(row)]
    qtbot.waitUntil(lambda: canvas.field == "E12")
    _, y, x = session.place(row)
    assert tuple(viewer.scene.camera.center)[-2:] == pytest.approx((y, x))
    label = session.value(row, "label")
    qtbot.waitUntil(lambda: not canvas._todo)
    overlay = viewer.layers["cell selection"].data
    assert (overlay[viewer.layers["cells"].data == label] == FOCUS).any()
    side = max(
        session.value(row, "box_y1") - session.value(row, "box_y0"),
        session.value(row, "box_x1") - session.value(row, "box_x0"),
    )
    share = side * viewer.scene.camera.zoom / min(viewer.canvas.size)
    assert 0.05 < share < 0.95
    canvas.go_to(row, frame=True)
    assert side * viewer.scene.camera.zoom / min(viewer.canvas.size) == pytest.approx(0.33)


def test_hovering_the_image_names_the_cell(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    row = inner_cells(session, "A12", 1)[0]
    hover(qtbot, native(viewer), at_cell(viewer, session, row), lambda: session.hover == row)


def result_of(session, target: int, scale: float, side: int = 8) -> dict:
    field_id, y, x = session.place(target)
    rng = np.random.default_rng(0)
    real, predicted = rng.random((2, side, side)).astype(np.float32)
    return {
        "target": real, "prediction": predicted, "error": predicted - real, "structure": real[None], "structures": ["DNA"],
        "y0": float(int(y) - side * scale // 2), "x0": float(int(x) - side * scale // 2), "scale": scale,
        "field": field_id, "source_cell": "A01:1", "target_cell": session.cell_id(target), "mse": 0.1, "trained": True,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "um"), [(1.0, 0.0), (2.0, 0.0), (3.0, 0.5)])
def test_a_prediction_lies_on_its_cell(viewer, project, qtbot, scale, um) -> None:
    project.write_fields([dataclasses.replace(f, um_per_px=um) for f in project.fields])
    session = session_of(viewer)
    session.open(project)
    open_field(viewer, qtbot, "A01")
    target = inner_cells(session, "E12", 1)[0]
    result = result_of(session, target, scale)
    add_inpainting_layers(viewer, session, result)
    canvas = canvas_of(viewer)
    qtbot.waitUntil(lambda: len(canvas.layers("inpainting")) == 4)
    assert canvas.field == "E12"
    dna = viewer.layers["DNA"]
    for layer in canvas.layers("inpainting"):
        assert isinstance(layer, Image)
        # Its outer corners are those of the field pixels it was cut from.
        for corner, want in ((-0.5, result["y0"] - 0.5), (7.5, result["y0"] + 8 * scale - 0.5)):
            world = layer.data_to_world((corner, -0.5))
            assert dna.world_to_data(world) == pytest.approx((want, result["x0"] - 0.5))
        assert session.cell_id(target) in layer.name
    error = next(la for la in canvas.layers("inpainting") if la.metadata["cellrep"]["part"] == "error")
    low, high = error.contrast_limits
    assert low == -high == -float(np.abs(result["error"]).max())
    assert {la.name for la in canvas.layers("inpainting") if not la.visible} == {
        error.name, f"DNA of {session.cell_id(target)}, as the network sees it",
    }  # fmt: skip
    assert error.colormap.map(np.array([0.5]))[0, :3] == pytest.approx((1, 1, 1), abs=0.02)


def test_predictions_show_with_their_field_only(viewer, session, canvas, qtbot) -> None:
    target = inner_cells(session, "E12", 1)[0]
    add_inpainting_layers(viewer, session, result_of(session, target, 1.0))
    qtbot.waitUntil(lambda: len(canvas.layers("inpainting")) == 4)
    shown = [la.visible for la in canvas.layers("inpainting")]
    assert any(shown)
    open_field(viewer, qtbot, "A01")
    assert not any(la.visible for la in canvas.layers("inpainting"))
    open_field(viewer, qtbot, "E12")
    assert [la.visible for la in canvas.layers("inpainting")] == shown
    canvas.layers("inpainting")[0].visible = not shown[0]
    open_field(viewer, qtbot, "A01")
    open_field(viewer, qtbot, "E12")
    assert canvas.layers("inpainting")[0].visible is not shown[0]


def test_predict_asks_for_source_and_the_next_cell_clicked(
    viewer, session, canvas, qtbot, monkeypatch
) -> None:
    asked: list[tuple] = []

    class Runner:
        def ask(self, step, root, on_result, on_error, **kwargs):
            asked.append((step, kwargs["source"], kwargs["target"]))
            on_result(result_of(session, session.row_of_id(kwargs["target"]), 1.0))

    monkeypatch.setattr(_runner, "runner_of", lambda viewer: Runner())
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    source, target = inner_cells(session, "A12", 2)
    menu = canvas.open_menu(source)
    next(a for a in menu.actions() if a.text() == "Predict this pattern in another cell…").trigger()
    menu.close()
    click(viewer, qtbot, at_cell(viewer, session, target))
    assert asked == [("inpaint.inpaint", session.cell_id(source), session.cell_id(target))]
    assert chosen(session) == []  # that click chose a target, not a selection
    assert len(canvas.layers("inpainting")) == 4


def test_edits_of_labels_are_kept_and_the_cells_follow(viewer, session, canvas, qtbot, monkeypatch) -> None:
    class Handle:
        read = None  # nothing was read beside the window: the session reads itself

        class finished:
            connect = staticmethod(lambda slot: (drain(crop(session.project, fields=["A12"])), slot(None)))

        class failed:
            connect = staticmethod(lambda slot: None)

    class Runner:
        def submit(self, step, root, **kwargs):
            assert (step, kwargs["fields"]) == ("crop.crop", ["A12"])
            return Handle

    monkeypatch.setattr(_runner, "runner_of", lambda viewer: Runner())
    open_field(viewer, qtbot, "A12")
    a, b = inner_cells(session, "A12", 2)
    gone, kept = session.value(a, "label"), session.cell_id(b)
    session.select([b])
    cells = viewer.layers["cells"]
    before = session.n_cells
    cells.fill(tuple(round(v) for v in session.place(a)[1:]), 0)
    assert canvas.edited
    done: list[int] = []
    save_label_edits(viewer, session, lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert not (session.project.read_labels("A12") == gone).any()
    assert session.project.label_info("A12")["edited"] is True
    assert session.n_cells == before - 1
    assert session.row_of("A12", gone) == -1
    assert chosen(session) == [kept]


def test_nothing_painted_nothing_written(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    path = session.project.labels_path("A12")
    stamp = path.stat().st_mtime_ns
    done: list[int] = []
    save_label_edits(viewer, session, lambda: done.append(1))
    qtbot.waitUntil(lambda: bool(done))
    assert path.stat().st_mtime_ns == stamp


def test_a_lost_image_is_told_not_thrown(viewer, session, canvas, qtbot, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("napari_cellrep.gui._image.show_warning", told.append)
    field = session.project.field("A12")
    gone = tuple(dataclasses.replace(p, path="nowhere.tif") for p in field.planes)
    session.project.write_fields(
        [dataclasses.replace(f, planes=gone) if f.id == "A12" else f for f in session.project.fields]
    )
    show_field(viewer, session, "A12")
    qtbot.waitUntil(lambda: bool(told))
    assert "A12" in told[0]
    assert "nowhere.tif" in told[0]
    open_field(viewer, qtbot, "A01")


def test_pictures_are_as_the_viewer_shows_them(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    viewer.layers["FKHR-GFP"].contrast_limits = (0, 50)
    viewer.layers["DNA"].visible = False
    row = inner_cells(session, "A12", 1)[0]
    got: list[np.ndarray] = []
    canvas.ask_picture(row, got.append)
    qtbot.waitUntil(lambda: bool(got))
    _, y, x = session.place(row)
    side = picture_side(session)
    y0, x0 = int(y) - side // 2, int(x) - side // 2
    part = session.project.read_image("A12")[:, y0 : y0 + side, x0 : x0 + side]
    want = compose(part, (((0.0, 1.0, 0.0), 0, 50), ((0.0, 0.0, 0.0), 0, 1)))
    assert (got[0] == want).all()
    assert got[0][..., 1].max() == 255
    canvas.ask_picture(row, got.append)
    assert got[1] is got[0]  # the second time from memory


def test_hidden_cells_are_outlined_darker_until_they_are_shown(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A01")
    layer = canvas.layer("cells")
    rows = session.rows_of_field("A01")
    hidden = [int(r) for r in rows if not session.visible[r]]
    shown = [int(r) for r in rows if session.visible[r]]
    assert hidden
    assert shown

    def colour(row: int) -> np.ndarray:
        return np.asarray(layer.get_color(int(session.value(row, "label"))))

    assert colour(hidden[0]).sum() < 0.8 * colour(shown[0]).sum()
    session.hide_flagged = False
    np.testing.assert_allclose(colour(hidden[0]), colour(shown[0]))
    session.hide_flagged = True
    assert colour(hidden[0]).sum() < 0.8 * colour(shown[0]).sum()


def test_layers_may_be_renamed_thrown_away_and_come_back(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    row, other = inner_cells(session, "A12", 2)
    viewer.layers["cells"].name = "my nuclei"
    click(viewer, qtbot, at_cell(viewer, session, row))
    assert chosen(session) == [session.cell_id(row)]
    viewer.layers.remove("cell selection")
    canvas.click(other)
    assert chosen(session) == [session.cell_id(other)]
    viewer.layers.clear()
    session.set_hover(row)
    session.select([row])  # nothing to light up, nothing raised
    far = inner_cells(session, "E12", 1)[0]
    canvas.click(far)
    qtbot.waitUntil(lambda: canvas.field == "E12" and canvas.layer("cells") is not None)
    qtbot.waitUntil(lambda: not canvas._todo)
    assert chosen(session) == [session.cell_id(far)]
    overlay = canvas.layer("selection").data
    assert (overlay[canvas.layer("cells").data == session.value(far, "label")] == FOCUS).any()


def test_labels_that_are_gone_from_the_disk(viewer, session, canvas, qtbot) -> None:
    """The table still has the cells: they are selected, the field is shown without outlines, a click is nobody."""
    session.project.labels_path("E12").unlink()
    row = inner_cells(session, "A12", 1)[0]
    far = int(session.rows_of_field("E12")[np.argmax(session.visible[session.rows_of_field("E12")])])
    canvas.click(far)
    qtbot.waitUntil(lambda: canvas.field == "E12")
    assert chosen(session) == [session.cell_id(far)]
    assert canvas.layer("cells") is None
    session.clear()
    click(viewer, qtbot, at_cell(viewer, session, far))
    assert chosen(session) == []
    open_field(viewer, qtbot, "A12")
    click(viewer, qtbot, at_cell(viewer, session, row))
    assert chosen(session) == [session.cell_id(row)]


@pytest.mark.slow
def test_numbers_with_gaps_that_every_field_repeats(viewer, project, qtbot) -> None:
    """The same large numbers in two fields, in another order of rows: a click is the cell of the field on screen."""
    for field in ("A01", "A12"):
        labels = project.read_labels(field).astype(np.uint32)
        labels[labels > 0] = labels[labels > 0] * 70_001 - 70_000  # 1, 70,002, 140,003, …
        project.write_labels(field, labels, {"segmenter": "test"})
    drain(crop(project))
    cells = project.cells
    project.write_cells(cells[np.random.default_rng(0).permutation(cells.n_obs)].copy())
    session, canvas = session_of(viewer), canvas_of(viewer)
    session.open(project)
    numbers = session.cells.obs["label"].to_numpy()
    both = set(numbers[session.rows_of_field("A01")]) & set(numbers[session.rows_of_field("A12")])
    assert len(both) > 20
    for field in ("A01", "A12"):
        open_field(viewer, qtbot, field)
        qtbot.wait(100)
        row = next(r for r in inner_cells(session, field, 1000) if session.value(r, "label") in both)
        click(viewer, qtbot, at_cell(viewer, session, row))
        assert chosen(session) == [f"{field}:{session.value(row, 'label')}"]
        qtbot.waitUntil(lambda: not canvas._todo)
        lit = canvas.layer("cells").data[canvas.layer("selection").data > 0]
        assert set(np.unique(lit)) == {session.value(row, "label")}


@pytest.mark.slow
def test_two_viewers_on_one_project(viewer, session, canvas, qtbot, make_napari_viewer) -> None:
    """Each has its own selection; sets of both stay, and new cells are read by both."""
    second = make_napari_viewer()
    other = session_of(second)
    other.open(session.project.root)
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    row, next_row = inner_cells(session, "A12", 2)
    click(viewer, qtbot, at_cell(viewer, session, row))
    assert chosen(session) == [session.cell_id(row)]
    assert other.n_selected == 0
    mine = session.cell_id(row)
    session.save_set("mine")
    other.select([next_row])
    other.save_set("yours")
    assert set(other.sets) == {"mine", "yours"}
    assert chosen(session) == [session.cell_id(row)]
    labels = session.project.read_labels("A12")
    labels[labels == session.value(next_row, "label")] = 0  # a cell leaves, in the other window
    other.project.write_labels("A12", labels, {"segmenter": "test"})
    drain(crop(other.project))
    gone = session.cell_id(next_row)
    for each in (other, session):
        each.reload()
        assert each.row_of_id(gone) == -1
    assert chosen(session) == [mine]
    assert other.n_selected == 0
    canvas_of(second).close()


def test_a_double_click_centres_the_maps_on_the_point(viewer, session, canvas, qtbot) -> None:
    open_field(viewer, qtbot, "A12")
    qtbot.wait(100)
    row = inner_cells(session, "A12", 1)[0]
    view = MapView(session)
    qtbot.addWidget(view)
    view.resize(400, 300)
    canvas.centred.connect(view.centre_on)
    with qtbot.waitExposed(view):
        view.show()
    view.fit()
    assert (view._screen(row) - QPointF(200, 150)).manhattanLength() > 10
    at = at_cell(viewer, session, row)
    click(viewer, qtbot, at)
    qtbot.mouseDClick(native(viewer), Qt.MouseButton.LeftButton, pos=at)
    assert chosen(session) == [session.cell_id(row)]
    assert (view._screen(row) - QPointF(200, 150)).manhattanLength() < 2
    canvas.centred.disconnect(view.centre_on)
    view.disconnect_session()
