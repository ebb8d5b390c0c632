"""Fields and groups as points of the map, with real events: which cells a click selects is all that counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt

from _clicks import choose, hover
from napari_cellrep.data.rows import rows_by
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._groups import GroupPoints
from napari_cellrep.gui.views._raster import SELECTED, View, colours_of
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import analyze

LEFT, RIGHT, PLAIN = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.KeyboardModifier.NoModifier
SHIFT, ALT = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier


# ---- numbers, no window ---------------------------------------------------------------------------


@pytest.fixture
def points() -> GroupPoints:
    obs = pd.DataFrame({"well": list("aaabbc")})
    points = GroupPoints(rows_by(obs, "well"))
    at = np.array([[0, 0], [2, 0], [100, 100], [5, 5], [7, 5], [9, 9]], float)
    points.place(at, np.array([True, True, False, True, True, False]))
    return points


def test_a_point_lies_at_the_mean_of_the_cells_that_are_shown(points) -> None:
    assert points.places[:2].tolist() == [[1, 0], [6, 5]]
    assert np.isnan(points.places[2]).all()  # its only cell is hidden
    assert points.n_cells.tolist() == [2, 2, 0]
    assert points.words == "2 values of well, each at the mean of its cells"
    view = View.fit(points.places, (200, 200))
    x, y = view.to_px(points.places[1:2])[0]
    assert points.nearest(view, x + 3, y, 9) == 1
    assert points.nearest(view, x + 30, y, 9) == -1


def test_numbers_are_averaged_and_of_words_the_commonest_counts(points) -> None:
    visible = np.array([True, True, False, True, True, False])
    numbers = colours_of(pd.Series([0.5, 1.5, 99, 3, np.nan, 7], name="size"), 6)
    points.colour(numbers, visible)
    low, high = numbers.limits
    assert points.codes[:2].tolist() == [round(1 + (v - low) / (high - low) * 254) for v in (1.0, 3.0)]
    assert "size: 1 (mean)" in points.describe(
        0, pd.Series([0.5, 1.5, 99, 3, np.nan, 7], name="size"), visible
    )
    drug = pd.Series(["x", "y", "y", "z", "z", "x"], name="drug")
    words = colours_of(drug, 6)
    points.colour(words, visible)
    assert points.codes[1] == dict(words.legend)["z"]
    assert "drug: z" in points.describe(1, drug, visible)
    assert "drug: x (50% of the cells)" in points.describe(0, drug, visible)
    assert "few cells" in points.describe(0, drug, visible)
    assert "drug" not in points.describe(0, None, visible)


# ---- the window -----------------------------------------------------------------------------------


@pytest.fixture
def explore(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding, session.colour_by = "measured", "control"
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    qtbot.waitUntil(lambda: widget.map.width() > 200)
    choose(widget.rows_of, "groups")
    widget.map.fit()
    widget.map.grab()
    return widget


def at(explore, name: str, view=None) -> QPoint:
    """Where a group's point is on the widget."""
    view = view or explore.map
    groups = view.groups
    x, y = view.view.to_px(groups.places[groups.rows.index(name)][None])[0] / view.devicePixelRatioF()
    return QPoint(round(x), round(y))


def colour_at(explore, place: QPoint) -> tuple[int, int, int]:
    picture = explore.map.grab().toImage()
    ratio = picture.devicePixelRatio()
    pixel = picture.pixelColor(int(place.x() * ratio), int(place.y() * ratio))
    return pixel.red(), pixel.green(), pixel.blue()


def chosen_wells(session) -> set[str]:
    return set(session.cells.obs["well"].astype(str)[session.selected])


def test_each_group_lies_at_the_mean_of_its_visible_cells(explore) -> None:
    session, groups = explore.session, explore.map.groups
    assert groups.rows.names == ("A01", "A12", "E12")
    assert groups.words == "3 groups, each at the mean of its cells"
    for name, place in zip(groups.rows.names, groups.places, strict=True):
        own = session.visible & (session.cells.obs["group"] == name).to_numpy()
        np.testing.assert_allclose(place, session.map_coordinates()[own].mean(axis=0), rtol=1e-5)
    before = groups.places.copy()
    session.hide_flagged = False
    assert not np.allclose(groups.places, before)
    session.hide_values("control", ["-1"])
    assert np.isnan(groups.places[0]).all()


def test_a_click_selects_all_visible_cells_of_a_group(explore, qtbot) -> None:
    session = explore.session
    wells = session.cells.obs["well"].astype(str).to_numpy()
    qtbot.mouseClick(explore.map, LEFT, PLAIN, at(explore, "A12"))
    assert session.selected.tolist() == (session.visible & (wells == "A12")).tolist()
    qtbot.mouseClick(explore.map, LEFT, SHIFT, at(explore, "A01"))
    assert chosen_wells(session) == {"A01", "A12"}
    qtbot.mouseClick(explore.map, LEFT, ALT, at(explore, "A12"))
    assert chosen_wells(session) == {"A01"}
    assert explore.count.text().startswith(f"{session.n_selected:,} of ")


def test_a_group_is_lit_wholly_or_in_half(explore, qtbot) -> None:
    session, groups = explore.session, explore.map.groups
    place = at(explore, "A01")
    own = groups.rows.cells(groups.rows.index("A01"), session.visible)
    session.select(own[:5])
    assert groups.lit.tolist() == [1, 0, 0]
    assert colour_at(explore, place - QPoint(4, 0)) == SELECTED
    assert colour_at(explore, place + QPoint(4, 0)) != SELECTED
    session.select(own)
    assert groups.lit.tolist() == [2, 0, 0]
    assert colour_at(explore, place + QPoint(4, 0)) == SELECTED


def test_a_lasso_takes_the_groups_whose_points_it_surrounds(explore, qtbot) -> None:
    session, view = explore.session, explore.map
    middle = at(explore, "A01")
    t = np.linspace(0, 2 * np.pi, 30)
    path = [middle + QPoint(round(20 * np.cos(a)), round(20 * np.sin(a))) for a in t]
    qtbot.mousePress(view, LEFT, PLAIN, path[0])
    for place in path[1:]:
        qtbot.mouseMove(view, place)
    qtbot.mouseRelease(view, LEFT, PLAIN, path[-1])
    wells = session.cells.obs["well"].astype(str).to_numpy()
    assert session.selected.tolist() == (session.visible & (wells == "A01")).tolist()


def test_the_pointer_says_its_name_and_what_the_colour_says(explore, qtbot) -> None:
    view, session = explore.map, explore.session
    hover(qtbot, view, at(explore, "E12"), view.card.isVisible)
    n = int((session.visible & (session.cells.obs["group"] == "E12")).sum())
    assert view.card.words.text() == f"<b>E12</b><br>{n:,} cells<br>control: -1"
    assert session.hover == -1
    session.colour_by = "brightness"
    hover(qtbot, view, QPoint(3, 3), lambda: not view.card.isVisible())
    hover(qtbot, view, at(explore, "E12"), view.card.isVisible)
    assert "(mean)" in view.card.words.text()


def test_double_click_opens_a_field_of_the_group(explore, qtbot) -> None:
    qtbot.mouseDClick(explore.map, LEFT, PLAIN, at(explore, "E12"))
    qtbot.waitUntil(lambda: explore.canvas.field == "E12")


def test_find_similar_groups_from_a_point_to_the_table(explore, qtbot) -> None:
    session, view = explore.session, explore.map
    qtbot.mouseClick(view, RIGHT, PLAIN, at(explore, "A12"))
    menu = explore.canvas._menu
    qtbot.waitUntil(menu.isVisible)
    assert [a.text() for a in menu.actions()][1:] == [
        "Find similar groups",
        "What do its cells differ in?",
        f"Select its {int((session.visible & (session.cells.obs['group'] == 'A12')).sum()):,} cells",
        "Show in image",
    ]
    qtbot.mouseClick(menu, LEFT, PLAIN, menu.actionGeometry(menu.actions()[1]).center())
    qtbot.waitUntil(lambda: explore.tabs.tabText(explore.tabs.currentIndex()) == "Table")
    table = explore.view("Table")
    assert table.model.frame["group"].iloc[table.model.order].tolist() == ["A12", "E12", "A01"]
    assert table.forget.isVisible()
    session.embedding = "bare"  # two features: no correlation, so the ranking is taken away
    qtbot.waitUntil(lambda: session.similar is None)


def test_two_maps_and_what_is_kept(explore, qtbot) -> None:
    qtbot.mouseClick(explore.two, LEFT)
    qtbot.waitUntil(lambda: explore.second.map.groups is not None)
    choose(explore.rows_of, "fields")
    assert explore.map.by == explore.second.map.by == "field"
    kept = explore.value()
    assert kept["rows"] == "field"
    choose(explore.rows_of, "cells")
    assert explore.map.groups is None
    assert "rows" not in explore.value()
    explore.set_value(kept)
    assert explore.rows_of.currentText() == "fields"
    explore.set_value({"rows": "a column that is gone"})
    assert explore.rows_of.currentText() == "cells"
    row = int(np.flatnonzero(explore.session.visible)[0])
    place = explore.map._screen(row).toPoint()
    explore.map.grab()
    qtbot.mouseClick(explore.map, LEFT, PLAIN, place)  # cells again
    assert explore.session.n_selected == 1


def test_groups_lie_by_their_profiles_where_these_are_kept(explore, project, qtbot) -> None:
    session = explore.session
    drain(analyze(project, recipe="profile", embedding="measured"))
    session.reload()
    groups = explore.map.groups
    assert groups.words.startswith("3 groups, a map of their own: principal components of their profiles (20")
    assert not np.allclose(groups.places, groups.rows.mean(session.map_coordinates(), session.visible))
    explore.map.grab()
    for name in ("A01", "A12", "E12"):
        assert explore.map.rect().contains(at(explore, name))
        qtbot.mouseClick(explore.map, LEFT, PLAIN, at(explore, name))
        assert chosen_wells(session) == {name}
    session.open(None)
    assert not explore.map.has_map
