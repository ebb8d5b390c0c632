"""The plate: which cells are in which well, and what a well's colour says."""

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QToolTip

from _clicks import hover
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.plate import (
    CHOSEN,
    COUNT,
    FLAGGED,
    Plate,
    PlateView,
    edge_words,
    group_of,
    place_of,
    plates_of,
    row_name,
    well_values,
)


def test_names_of_wells():
    places = {"A01": (0, 0), "a1": (0, 0), "H12": (7, 11), "P24": (15, 23), "AF48": (31, 47)}
    assert {well: place_of(well) for well in places} == places
    assert all(place_of(word) is None for word in ("", "A00", "well", "12", "A123", "nan"))
    assert [row_name(r) for r in (0, 25, 26, 31)] == ["A", "Z", "AA", "AF"]


def test_plates_take_the_smallest_usual_format():
    obs = pd.DataFrame({"plate": ["p1", "p1", "p2", "p2"], "well": ["A01", "H12", "P24", "x"]})
    first, second = plates_of(obs)
    assert (first.name, first.shape, second.name, second.shape) == ("p1", (8, 12), "p2", (16, 24))
    assert first.wells[(7, 11)].tolist() == [1]
    assert list(second.wells) == [(15, 23)]
    assert plates_of(pd.DataFrame({"x": [1]})) == []


def test_values_of_wells():
    obs = pd.DataFrame({
        "well": ["A01", "A01", "A01", "A02"], "good": [True, True, False, True],
        "size": [1.0, 3.0, 99.0, 7.0], "drug": ["x", "x", "x", "y"],
    })  # fmt: skip
    (plate,) = plates_of(obs)
    visible, selected = obs["good"].to_numpy(), np.array([True, False, False, False])

    def of(what):
        return well_values(plate, obs, what, visible, selected).tolist()

    assert of(COUNT) == [2, 1]
    assert of(FLAGGED) == [pytest.approx(1 / 3), 0]
    assert of(CHOSEN) == [0.5, 0]
    assert of("size") == [2.0, 7.0]  # the hidden cell does not count
    assert of("size, spread")[0] == 1.0
    assert np.isnan(of("size, spread")[1])  # one cell has no spread
    assert of("drug") == ["x", "y"]


def test_a_rim_that_differs_is_said():
    wells = {(r, c): np.array([0]) for r in range(8) for c in range(12)}
    plate = Plate("", (8, 12), wells)
    rng = np.random.default_rng(0)
    flat = pd.Series(rng.normal(100, 5, 96))
    assert edge_words(plate, flat) == ""
    rim = np.array([r in (0, 7) or c in (0, 11) for r, c in wells])
    assert "The rim differs" in edge_words(plate, flat + 30 * rim)
    assert "above" in edge_words(plate, flat + 30 * rim)
    assert "below" in edge_words(plate, flat - 30 * rim)
    assert edge_words(plate, pd.Series(["x"] * 96)) == ""
    rows = Plate("", (8, 12), {place: rows for place, rows in wells.items() if place[0] in (0, 4)})
    assert (
        edge_words(rows, pd.Series([130.0] * 12 + list(rng.normal(100, 5, 12)))) == ""
    )  # two rows, two drugs


@pytest.fixture
def view(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    view = PlateView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    view.resize(600, 400)
    with qtbot.waitExposed(view):
        view.show()
    yield view
    view.disconnect_session()


def at(view, place) -> QPoint:
    return view.wells.rect_of(place).center().toPoint()


def test_clicking_a_well_selects_its_cells(view, qtbot):
    session = view.session
    wells = session.cells.obs["well"].astype(str).to_numpy()
    qtbot.mouseClick(view.wells, Qt.MouseButton.LeftButton, pos=at(view, (0, 11)))
    assert set(wells[session.selected]) == {"A12"}
    assert session.n_selected == int((session.visible & (wells == "A12")).sum())
    shift = Qt.KeyboardModifier.ShiftModifier
    qtbot.mouseClick(view.wells, Qt.MouseButton.LeftButton, shift, at(view, (4, 11)))
    assert set(wells[session.selected]) == {"A12", "E12"}
    qtbot.mouseClick(view.wells, Qt.MouseButton.LeftButton, pos=at(view, (3, 3)))  # an empty place
    assert set(wells[session.selected]) == {"A12", "E12"}


def test_a_well_asks_for_those_like_it(view, qtbot):
    view.session.embedding = "measured"
    qtbot.mouseClick(view.wells, Qt.MouseButton.RightButton, pos=at(view, (0, 11)))
    menu = view.canvas._menu
    next(a for a in menu.actions() if a.text() == "Find similar groups").trigger()
    menu.close()
    qtbot.waitUntil(lambda: view.session.similar is not None)
    assert (view.session.similar.by, view.session.similar.names) == ("group", ("A12", "E12", "A01"))


def test_a_well_is_its_group_only_where_both_have_the_same_cells():
    obs = pd.DataFrame({"well": ["A1", "A1", "A2", "A3", "A3"], "group": ["a", "a", "b", "b", "c"]})
    assert group_of(obs, np.array([0, 1])) == ("group", "a")
    assert group_of(obs, np.array([2])) == ("well", "A2")
    assert group_of(obs, np.array([3, 4])) == ("well", "A3")


def test_double_click_opens_a_field_of_the_well(view, qtbot):
    qtbot.mouseDClick(view.wells, Qt.MouseButton.LeftButton, pos=at(view, (4, 11)))
    qtbot.waitUntil(lambda: view.canvas.field == "E12", timeout=20_000)


def test_the_picture_has_the_wells_colours(view, qtbot):
    view.what.setCurrentText("brightness")
    picture = view.wells.grab().toImage()
    values, colours = view.wells.values, view.wells.colours
    for place, code in zip(values.index, colours.codes, strict=True):
        pixel = picture.pixelColor(at(view, place) * picture.devicePixelRatio())
        assert (pixel.red(), pixel.green(), pixel.blue()) == tuple(int(v) for v in colours.palette[code])
    view.what.setCurrentText(COUNT)
    assert view.wells.values.tolist() == [
        int((view.session.visible & (view.session.cells.obs["well"] == w)).sum())
        for w in ("A01", "A12", "E12")
    ]


def test_without_wells_it_says_what_to_do(viewer, project, qtbot):
    session = session_of(viewer)
    view = PlateView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    assert "segment the images" in view.words.text()
    cells = project.cells
    del cells.obs["well"]
    project.write_cells(cells)
    session.open(project)
    assert "name no wells" in view.words.text()
    assert not view.wells.grab().isNull()
    view.disconnect_session()


def test_keys_go_from_well_to_well(view, qtbot):
    """A01, A12 and E12 have images: arrows pass over the others."""
    wells, session = view.wells, view.session
    wells.setFocus()
    assert wells.focusPolicy() & Qt.FocusPolicy.TabFocus
    for key, at in (
        (Qt.Key.Key_Down, (0, 0)), (Qt.Key.Key_Right, (0, 11)), (Qt.Key.Key_Down, (4, 11)), (Qt.Key.Key_Right, (4, 11)),
    ):  # fmt: skip
        qtbot.keyClick(wells, key)
        assert wells.at == at
    qtbot.keyClick(wells, Qt.Key.Key_Return)
    obs = session.cells.obs
    assert set(obs["well"][session.selected]) == {"E12"}
    assert session.how == "well E12"
    qtbot.keyClick(wells, Qt.Key.Key_Up)
    qtbot.keyClick(wells, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert set(obs["well"][session.selected]) == {"A12", "E12"}
    assert session.how == "well E12, and well A12"
    qtbot.keyClick(wells, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: view.canvas.field == "A12", timeout=20_000)


def test_a_spread_has_one_side_and_columns_are_named_in_words(view, qtbot):
    """A score lies on both sides of zero; how much it spreads does not."""
    session, wells = view.session, view.wells
    session.cells.obs["score_measured"] = session.cells.obs["brightness"].to_numpy(float)
    session.cells_changed.emit()
    words = "closer to A or to B (measured)"
    view.what.setCurrentText(words)
    assert view.what.currentText() == words
    assert wells.values.name == "score_measured"
    assert wells.values.min() < 0 < wells.values.max()
    view.what.setCurrentText(f"{words}, spread")
    assert wells.values.min() > 0
    assert not wells.colours.signed
    assert wells.colours.limits[0] > 0
    hover(qtbot, wells, wells.rect_of((0, 11)).center().toPoint(), lambda: words in QToolTip.text())
