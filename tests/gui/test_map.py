from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as MplPath
from qtpy.QtCore import QPoint, Qt

from _clicks import hover
from napari_cellrep.gui.views._contours import clouds_of, clouds_words
from napari_cellrep.gui.views._density import Contour, contours
from napari_cellrep.gui.views._legend import SECOND_CLICK_MS
from napari_cellrep.gui.views._raster import (
    MIXED,
    OKABE_ITO,
    SELECTED,
    Raster,
    View,
    _stamp,
    colours_of,
    inside_polygon,
)
from napari_cellrep.gui.views.map import MapView, selection_mode
from napari_cellrep.session import Session

# ---- numbers, no window ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [200, 60_000])
@pytest.mark.parametrize("seed", range(3))
def test_the_lasso_is_exact(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2))
    points[::50] = np.nan
    ring = np.c_[np.cos(t := np.linspace(0, 2 * np.pi, 120, False)), np.sin(t)] * rng.uniform(
        0.5, 1.5, (120, 1)
    )
    want = MplPath(ring).contains_points(np.nan_to_num(points, nan=1e9))
    assert (inside_polygon(points, ring) == want).all()
    assert 0 < want.sum() < n
    # One that crosses itself: inside is what it winds about an odd number of times.
    scrawl = np.cumsum(rng.normal(size=(120, 2)) * 0.15, axis=0)
    assert (inside_polygon(points, scrawl) == _winds_oddly(points, scrawl)).all()


def _winds_oddly(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Whether a polygon winds about a point an odd number of times, by the angles it is seen under."""
    total = np.zeros(len(points))
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        u, v = a - points, b - points
        total += np.arctan2(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0], (u * v).sum(axis=1))
    return np.nan_to_num(np.round(total / (2 * np.pi))).astype(int) % 2 == 1


def test_big_lassos_answer_as_small_ones_do() -> None:
    """The grid only saves time: with and without it the same points are inside."""
    rng = np.random.default_rng(5)
    points, polygon = rng.uniform(-2, 2, (50_000, 2)), np.cumsum(rng.normal(size=(200, 2)) * 0.2, axis=0)
    with_grid = inside_polygon(points, polygon)
    one_by_one = np.concatenate([inside_polygon(part, polygon) for part in np.split(points, 50)])
    assert (with_grid == one_by_one).all()
    assert 0 < with_grid.sum() < len(points)


def test_a_line_selects_nothing() -> None:
    points = np.zeros((3, 2))
    assert not inside_polygon(points, np.array([[-1, 0], [1, 0]])).any()
    assert not inside_polygon(points, np.array([[-1, 0], [1, 0], [2, 0]])).any()


def test_zoom_keeps_the_place_under_the_pointer() -> None:
    view = View((3.0, -2.0), 40.0, (700, 500))
    at = (123.0, 456.0)
    assert np.allclose(view.zoomed(3.7, at).from_px(np.array(at)), view.from_px(np.array(at)))
    assert np.allclose(view.from_px(view.to_px(np.array([[1.5, 2.5]]))), [[1.5, 2.5]])
    moved = view.moved(10, -20)
    assert np.allclose(moved.to_px(np.array([[1.0, 1.0]])) - view.to_px(np.array([[1.0, 1.0]])), [[10, -20]])


def test_ids_are_where_the_points_are() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (40, 2))
    points[7] = np.nan
    visible = np.ones(40, bool)
    visible[3] = False
    raster = Raster(points)
    view = View.fit(points, (400, 300))
    raster.place(view, visible, np.zeros(40, bool))
    for row in range(40):
        if row in (3, 7):
            assert not (raster.owner == row).any()
        else:
            x, y = view.to_px(points[row : row + 1])[0]
            near = raster.nearest(x, y, 10)
            assert np.hypot(*(view.to_px(points[near][None])[0] - (x, y))) < 1e-9
    assert raster.nearest(-50, -50) == -1


@pytest.mark.parametrize("point_px", [1, 2, 4, 7])
def test_later_discs_cover_earlier_ones_whole(point_px):
    rng = np.random.default_rng(point_px)
    w, h, n = 40, 30, 600
    x, y = (rng.normal(side / 2, side / 3, n).astype(np.float32) for side in (w, h))
    rows = rng.permutation(n).astype(np.int32)
    alone = [_stamp(x[i : i + 1], y[i : i + 1], rows[i : i + 1], (w, h), point_px) for i in range(n)]
    want = np.full((h, w), -1, np.int32)
    for one in alone:
        want = np.where(one >= 0, one, want)
    np.testing.assert_array_equal(_stamp(x, y, rows, (w, h), point_px), want)


def test_selected_points_are_orange_and_the_rest_is_dim() -> None:
    points = np.array([[0.0, 0.0], [1.0, 1.0]])
    raster, view = Raster(points), View.fit(points, (100, 100))
    colours = colours_of(pd.Series(["a", "b"]), 2)
    selected = np.array([False, True])
    raster.place(view, np.ones(2, bool), np.zeros(2, bool))
    at = [tuple(int(v) for v in p) for p in view.to_px(points)]
    plain = raster.paint(colours, (0, 0, 0), False)[..., 2::-1]  # red, green, blue
    assert tuple(plain[at[0][1], at[0][0]]) == tuple(OKABE_ITO[0])
    raster.choose(selected)
    picture = raster.paint(colours, (0, 0, 0), True)[..., 2::-1]
    assert tuple(picture[at[1][1], at[1][0]]) == SELECTED
    assert np.allclose(picture[at[0][1], at[0][0]], OKABE_ITO[0] * 0.25, atol=1)
    assert (picture[0, 0] == 0).all()


def test_columns_become_colours() -> None:
    wells = colours_of(pd.Series(["A10", "A2", None, "A2"], dtype="category"), 4)
    assert wells.legend == (("A2", 1), ("A10", 2), ("no value", 0))
    assert wells.codes.tolist() == [2, 1, 0, 1]
    dose = colours_of(pd.Series([0, 10, 3]), 3)
    assert [t for t, _ in dose.legend] == ["0", "3", "10"]
    assert (dose.palette[1] != dose.palette[2]).any()
    score = colours_of(pd.Series(np.append(np.linspace(0, 1, 101), np.nan)), 102)
    assert score.legend == ()
    assert score.limits == pytest.approx((0.01, 0.99))
    assert score.codes[-1] == 0
    assert score.codes[0] == 1
    assert score.codes[-2] == 255
    yes = colours_of(pd.Series([True, False]), 2)
    assert {t for t, _ in yes.legend} == {"yes", "no"}
    pooled = colours_of(pd.Series(["a;b", "b", "a", "b;c", ""]), 5)
    assert pooled.legend == (("a", 1), ("b", 2), ("several", 255), ("no value", 0))
    assert pooled.codes.tolist() == [255, 2, 1, 255, 0]
    assert tuple(pooled.palette[255]) == MIXED
    assert colours_of(pd.Series([0.0, np.nan, 3.0]), 3).legend == (("0", 1), ("3", 2), ("no value", 0))
    many = colours_of(pd.Series([f"gene {i}" for i in range(700)]), 700)
    assert many.codes.min() == 1
    assert colours_of(pd.Series([np.nan, np.nan]), 2).codes.tolist() == [0, 0]
    assert colours_of(pd.Series([2.5, 2.5]), 2).codes.tolist() == [1, 1]


def test_the_ends_of_the_colours_can_be_moved() -> None:
    values = np.append(np.linspace(0, 100, 1001), [1e6, np.nan])
    own = colours_of(pd.Series(values), 1003)
    assert own.reach[1] < 200  # one wild value does not squeeze the others
    moved = own.limited(40, 60)
    assert moved.limits == (40, 60)
    assert (moved.codes[values < 40] == 1).all()
    assert (moved.codes[values > 60] == 255).all()
    assert moved.codes[500] == 128
    assert moved.codes[-1] == 0
    assert (own.limited(*own.limits).codes == own.codes).all()


def held(points: np.ndarray, contour: Contour) -> np.ndarray:
    """Which points an odd number of a contour's loops surround."""
    return np.sum([inside_polygon(points, loop) for loop in contour.loops], axis=0) % 2 == 1


def test_contours_hold_the_share_they_say() -> None:
    rng = np.random.default_rng(4)
    ring = rng.uniform(0, 2 * np.pi, 30_000)
    points = np.r_[
        np.c_[np.cos(ring), np.sin(ring)] * 3 + rng.normal(size=(30_000, 2)) * 0.3,  # with a hole in it
        rng.normal(size=(10_000, 2)) * 0.5 + (7, 1),
    ]
    codes = np.repeat([1, 2], [30_000, 10_000]).astype(np.uint8)
    box = (-5.0, -5.0, 10.0, 5.0)
    for contour in contours(*points.T, box, (0.25, 0.5, 0.9)):
        assert held(points, contour).mean() == pytest.approx(contour.share, abs=0.02)
        assert all((loop[0] == loop[-1]).all() for loop in contour.loops)
    of_each = contours(*points.T, box, (0.5,), codes, (1, 2, 9))
    assert [c.code for c in of_each] == [1, 2]  # nobody is a 9
    for contour in of_each:
        assert held(points[codes == contour.code], contour).mean() == pytest.approx(0.5, abs=0.02)
        assert not held(points[codes != contour.code], contour).any()
    assert not held(np.zeros((1, 2)), of_each[0]).any()  # the hole
    assert np.hypot(*(np.array(of_each[1].peak) - (7, 1))) < 0.3
    assert contours(*points[:9].T, box, (0.5,)) == []
    near = contours(*points.T, (6.9, 0.9, 7.1, 1.1), (0.5,))  # far zoomed in, most points far outside
    assert near
    assert contours(*points.T, (7.0, 1.0, 7.0 + 1e-9, 1.0 + 1e-9), (0.5,)) == []


# ---- a widget, real events ------------------------------------------------------------------------


@pytest.fixture
def session(project) -> Session:
    session = Session()
    session.open(project)
    return session


@pytest.fixture
def view(session, qtbot) -> MapView:
    view = MapView(session)
    qtbot.addWidget(view)
    view.resize(600, 400)
    with qtbot.waitExposed(view):
        view.show()
    view.fit()
    view.grab()
    yield view
    view.disconnect_session()


def drag(
    qtbot, view: MapView, points: np.ndarray, modifier=Qt.KeyboardModifier.NoModifier, button=None
) -> None:
    """Press, move along the points (logical px), release."""
    button = button or Qt.MouseButton.LeftButton
    path = [QPoint(int(x), int(y)) for x, y in points]
    qtbot.mousePress(view, button, modifier, path[0])
    for at in path[1:]:
        qtbot.mouseMove(view, at)
    qtbot.mouseRelease(view, button, modifier, path[-1])


def circle(view: MapView, row: int, radius_px: float) -> np.ndarray:
    at = view._screen(row)
    t = np.linspace(0, 2 * np.pi, 60)
    return np.c_[at.x() + radius_px * np.cos(t), at.y() + radius_px * np.sin(t)]


def expected(view: MapView, path: np.ndarray) -> set[str]:
    """Ids of the visible points inside a path, by matplotlib."""
    session = view.session
    px = view.view.to_px(session.map_coordinates()) / view.devicePixelRatioF()
    inside = MplPath(path.astype(int)).contains_points(px) & session.visible
    return set(session.cells.obs_names[inside])


def chosen(session: Session) -> set[str]:
    return set(session.cells.obs_names[session.selected])


def middle(session: Session, well: str) -> int:
    """The visible cell nearest to the middle of a well's cells on the map."""
    rows = session.rows_of_field(well)
    rows = rows[session.visible[rows]]
    at = session.map_coordinates()[rows]
    return int(rows[np.argmin(((at - np.median(at, axis=0)) ** 2).sum(axis=1))])


def test_a_lasso_selects_what_is_inside_it(view, session, qtbot) -> None:
    path = circle(view, middle(session, "A12"), 60)
    drag(qtbot, view, path)
    assert chosen(session) == expected(view, path)
    assert len(chosen(session)) > 10
    assert session.cells.obs["good"].to_numpy()[session.selected].all()


@pytest.mark.parametrize(
    ("modifier", "combine"),
    [
        (Qt.KeyboardModifier.ShiftModifier, set.union),
        (Qt.KeyboardModifier.AltModifier, set.difference),
        (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.AltModifier, set.intersection),
    ],
)
def test_modifiers_combine(view, session, qtbot, modifier, combine) -> None:
    row = middle(session, "A12")
    first, second = circle(view, row, 60), circle(view, row, 45) + np.array([30, 0])
    drag(qtbot, view, first)
    drag(qtbot, view, second, modifier)
    want = combine(expected(view, first), expected(view, second))
    assert chosen(session) == want
    assert want not in (expected(view, first), expected(view, second))


def test_the_rectangle_selects_too(view, session, qtbot) -> None:
    view.set_tool("rectangle")
    at = view._screen(middle(session, "A01"))
    corners = np.array([[at.x() - 50, at.y() - 40], [at.x(), at.y()], [at.x() + 50, at.y() + 40]])
    drag(qtbot, view, corners)
    (x0, y0), _, (x1, y1) = corners.astype(int)
    want = expected(view, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]))
    assert chosen(session) == want
    assert len(want) > 5


def corners(view: MapView, row: int, radius_px: float = 60) -> np.ndarray:
    """Five corners about a cell."""
    return circle(view, row, radius_px)[::12].astype(int)


def click_corners(qtbot, view: MapView, at: np.ndarray, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    for x, y in at:
        qtbot.mouseClick(view, Qt.MouseButton.LeftButton, modifier, QPoint(int(x), int(y)))


def finish(qtbot, view: MapView, at: np.ndarray, how: str) -> None:
    if how == "Enter":
        qtbot.keyClick(view, Qt.Key.Key_Return)
    elif how == "first corner":
        click_corners(qtbot, view, at[:1] + 2)
    else:  # Qt sends the first click of a double-click, too
        qtbot.mouseDClick(view, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, at[-1])))


@pytest.mark.parametrize("how", ["Enter", "first corner", "double-click"])
def test_a_polygon_selects_what_is_inside_it(view, session, qtbot, how) -> None:
    framed: list[int] = []
    view.framed.connect(framed.append)
    view.set_tool("polygon")
    at = corners(view, middle(session, "A12"))
    click_corners(qtbot, view, at[:2])
    finish(qtbot, view, at[:2], "Enter")  # two corners enclose nothing
    assert not chosen(session)
    click_corners(qtbot, view, at[2:])
    finish(qtbot, view, at, how)
    assert chosen(session) == expected(view, at)
    assert len(chosen(session)) > 10
    assert not framed


def test_polygons_combine_as_lassos_do(view, session, qtbot) -> None:
    view.set_tool("polygon")
    row = middle(session, "A12")
    first, second = corners(view, row), corners(view, row, 45) + np.array([30, 0])
    click_corners(qtbot, view, first)
    finish(qtbot, view, first, "Enter")
    click_corners(qtbot, view, second)
    qtbot.keyClick(view, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert chosen(session) == expected(view, first) | expected(view, second)
    click_corners(qtbot, view, second, Qt.KeyboardModifier.AltModifier)
    finish(qtbot, view, second, "Enter")  # Alt was held when it began
    assert chosen(session) == expected(view, first) - expected(view, second)


def test_corners_come_off_and_a_polygon_is_given_up(view, session, qtbot) -> None:
    view.set_tool("polygon")
    at = corners(view, middle(session, "A12"))
    click_corners(qtbot, view, at)
    click_corners(qtbot, view, np.array([[595, 395]]))
    qtbot.keyClick(view, Qt.Key.Key_Backspace)
    finish(qtbot, view, at, "Enter")
    want = expected(view, at)
    assert chosen(session) == want
    click_corners(qtbot, view, corners(view, middle(session, "A01")))
    qtbot.keyClick(view, Qt.Key.Key_Escape)
    qtbot.keyClick(view, Qt.Key.Key_Return)
    click_corners(qtbot, view, at[:2])
    view.set_tool("lasso")
    view.set_tool("polygon")
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert chosen(session) == want


def test_a_polygon_stays_where_it_is_when_the_map_moves(view, session, qtbot) -> None:
    view.set_tool("polygon")
    row = middle(session, "A12")
    at = corners(view, row)
    click_corners(qtbot, view, at[:3])
    drag(qtbot, view, np.array([[300, 200], [320, 190], [340, 180]]), button=Qt.MouseButton.RightButton)
    moved = at + np.array([40, -20])
    click_corners(qtbot, view, moved[3:])
    finish(qtbot, view, moved, "Enter")
    assert chosen(session) == expected(view, moved)
    assert len(chosen(session)) > 10


@pytest.mark.parametrize("button", [Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton])
def test_other_buttons_move_the_map(view, session, qtbot, button) -> None:
    row = middle(session, "A01")
    before = view._screen(row)
    drag(qtbot, view, np.array([[300, 200], [320, 210], [350, 230]]), button=button)
    after = view._screen(row)
    assert (after.x() - before.x(), after.y() - before.y()) == pytest.approx((50, 30))
    assert not chosen(session)


def test_a_click_names_the_cell(view, session, qtbot) -> None:
    row = middle(session, "E12")
    hit: list[tuple[int, str]] = []
    view.clicked.connect(lambda r, mode: hit.append((r, mode)))
    qtbot.mouseClick(
        view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, view._screen(row).toPoint()
    )
    (found, mode), at = hit[0], session.map_coordinates()
    assert mode == "add"
    apart = np.hypot(*(view.view.to_px(at[[found]]) - view.view.to_px(at[[row]]))[0])
    assert apart <= 1.5  # the same point, or one a pixel away
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=QPoint(595, 395))
    assert len(hit) == 1  # nobody there


def test_hidden_cells_cannot_be_hit(view, session, qtbot) -> None:
    everything = np.array([[1, 1], [598, 1], [598, 398], [1, 398], [1, 1]])
    drag(qtbot, view, everything)
    assert chosen(session) == set(session.cells.obs_names[session.cells.obs["good"].to_numpy(bool)])
    session.hide_flagged = False
    view.fit()
    view.grab()
    drag(qtbot, view, everything)
    assert chosen(session) == set(session.cells.obs_names)


def test_escape_gives_a_lasso_up(view, session, qtbot) -> None:
    path = circle(view, middle(session, "A12"), 60)
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[0])))
    for x, y in path[1:]:
        qtbot.mouseMove(view, QPoint(int(x), int(y)))
    qtbot.keyClick(view, Qt.Key.Key_Escape)
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[-1])))
    assert not chosen(session)


def test_hover_shows_a_card(session, qtbot) -> None:
    asked: list[int] = []

    def picture(row, then) -> None:
        asked.append(row)
        then(np.full((64, 64, 3), 200, np.uint8))

    view = MapView(session, picture)
    qtbot.addWidget(view)
    view.resize(600, 400)
    with qtbot.waitExposed(view):
        view.show()
    view.fit()
    view.grab()
    row = middle(session, "A12")
    hover(qtbot, view, view._screen(row).toPoint(), view.card.isVisible)
    shown = session.hover
    assert asked == [shown]
    assert session.cell_id(shown) in view.card.words.text()
    assert "A12" in view.card.words.text()
    assert view.card.picture.pixmap().deviceIndependentSize().width() == view.card.PICTURE_PX
    hover(qtbot, view, QPoint(596, 396), lambda: not view.card.isVisible())
    assert session.hover == -1
    view.disconnect_session()


def test_the_wheel_zooms(view, session, qtbot) -> None:
    from qtpy.QtCore import QPointF
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QApplication

    row = middle(session, "A12")
    at, scale = view._screen(row), view.view.scale
    event = QWheelEvent(
        at, QPointF(view.mapToGlobal(at.toPoint())), QPoint(), QPoint(0, 240), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(view, event)
    assert view.view.scale == pytest.approx(scale * 1.25**2)
    after = view._screen(row)
    assert (after.x(), after.y()) == pytest.approx((at.x(), at.y()))
    qtbot.keyClick(view, Qt.Key.Key_Home)
    assert view.view.scale == pytest.approx(scale)


def test_a_table_that_is_read_again_leaves_the_map_where_it_was(view, session, qtbot) -> None:
    for key in (Qt.Key.Key_Plus, Qt.Key.Key_Left):
        qtbot.keyClick(view, key)
    part, cells = view.view, session.cells
    session.reload()
    assert session.cells is not cells
    assert view.view == part
    moved = session.project.cells
    moved.obsm["X_umap_measured"] = moved.obsm["X_umap_measured"] * 2
    session.project.write_cells(moved)
    session.reload()
    assert view.view != part  # another map: all of it
    assert view.view is view._fitted


def test_the_view_comes_back_with_the_size(view, session, qtbot) -> None:
    whole = view.view
    view.resize(300, 400)
    assert view.view.scale < whole.scale
    view.resize(600, 400)
    assert view.view == whole
    view.view = near = whole.zoomed(5, (300, 200))
    view.resize(300, 380)
    view.resize(600, 400)
    assert view.view == near


def test_the_whole_map_stands_beside_its_legend(view, session, qtbot) -> None:
    px = view.view.to_px(session.map_coordinates()[session.visible]) / view.devicePixelRatioF()
    assert view.legend.isVisible()
    assert px[:, 0].min() > view.legend.geometry().right()
    assert px[:, 0].max() < view.width()
    session.colour_by = "brightness"  # a wide bar: the map stands below it
    view.resize(500, 400)
    view.fit()
    px = view.view.to_px(session.map_coordinates()[session.visible]) / view.devicePixelRatioF()
    assert view.legend.geometry().right() > 0.3 * view.width()
    assert px[:, 1].min() > view.legend.geometry().bottom()
    assert px[:, 1].max() < view.height()


def test_the_focused_cell_comes_into_view(view, session, qtbot) -> None:
    row = middle(session, "A12")
    view.view = view.view.zoomed(50, (0, 0))
    view.grab()
    assert not view.rect().contains(view._screen(row).toPoint())
    session.set_focus(row)
    assert view.rect().contains(view._screen(row).toPoint())


def test_modifiers_are_the_same_everywhere() -> None:
    shift, alt = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier
    assert [selection_mode(m) for m in (Qt.KeyboardModifier.NoModifier, shift, alt, shift | alt)] == [
        "replace", "add", "subtract", "intersect",
    ]  # fmt: skip


# ---- the legend -----------------------------------------------------------------------------------

LEFT = Qt.MouseButton.LeftButton


def line(view: MapView, name: str) -> QPoint:
    """Where a line of the legend stands."""
    return view.legend.lines[name].center().toPoint()


def drawn(view: MapView) -> set[str]:
    """Values of the colour column among the points that own a pixel."""
    view.grab()
    owners = np.unique(view.raster.owner[view.raster.owner >= 0])
    return set(view.session.cells.obs[view.session.colour_by].astype(str).iloc[owners])


def test_a_click_in_the_legend_hides_and_shows(view, session, qtbot) -> None:
    session.colour_by = "well"
    everything = np.array([[590, 1], [598, 398], [1, 398], [1, 1], [590, 1]])
    drag(qtbot, view, everything)
    before = session.n_selected
    qtbot.mouseClick(view.legend, LEFT, pos=line(view, "A12"))
    qtbot.waitUntil(lambda: session.n_selected < before, timeout=20_000)  # what is hidden is not selected
    assert drawn(view) == {"A01", "E12"}
    session.clear()
    drag(qtbot, view, everything)
    well = session.cells.obs["well"].astype(str).to_numpy()
    assert set(well[session.selected]) == {"A01", "E12"}
    assert session.n_selected == session.n_visible == (session.counted & (well != "A12")).sum()
    session.colour_by = "control"  # it stays hidden
    assert "A12" not in set(well[session.visible])
    session.colour_by = "well"
    qtbot.mouseClick(view.legend, LEFT, pos=line(view, "A12"))
    qtbot.waitUntil(lambda: drawn(view) == {"A01", "A12", "E12"}, timeout=20_000)
    n = session.n_visible
    qtbot.mouseClick(view.legend, LEFT, pos=line(view, "A12"))
    session.colour_by = "control"  # before the click has waited for a second one
    qtbot.wait(2 * SECOND_CLICK_MS)
    assert session.n_visible == n
    assert not session.hidden_values("control")


def test_a_double_click_in_the_legend_isolates(view, session, qtbot) -> None:
    session.colour_by = "well"
    seen: list[int] = []
    session.visible_changed.connect(lambda: seen.append(session.n_visible))

    def twice(name: str) -> None:
        qtbot.mouseClick(view.legend, LEFT, pos=line(view, name))
        qtbot.mouseDClick(view.legend, LEFT, pos=line(view, name))

    twice("E12")
    assert drawn(view) == {"E12"}
    twice("A01")
    assert drawn(view) == {"A01"}
    twice("A01")
    assert drawn(view) == {"A01", "A12", "E12"}
    twice("A12")
    qtbot.mouseClick(view.legend, LEFT, pos=line(view, "show all"))
    assert drawn(view) == {"A01", "A12", "E12"}
    assert "show all" not in view.legend.lines
    assert len(seen) == 5  # a double-click is one change, not two


def test_the_legend_works_by_keys(view, session, qtbot) -> None:
    session.colour_by = "well"
    view.legend.setFocus()
    qtbot.keyClick(view.legend, Qt.Key.Key_Down)
    qtbot.keyClick(view.legend, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: drawn(view) == {"A01", "E12"}, timeout=20_000)
    qtbot.keyClick(view.legend, Qt.Key.Key_Return)
    assert drawn(view) == {"A12"}
    session.colour_by = "brightness"
    low, high = view.colours.limits
    qtbot.keyClick(view.legend, Qt.Key.Key_Right)
    assert view.colours.limits[0] > low
    qtbot.keyClick(view.legend, Qt.Key.Key_Down)
    qtbot.keyClick(view.legend, Qt.Key.Key_Left)
    assert view.colours.limits[1] < high
    qtbot.keyClick(view.legend, Qt.Key.Key_Home)
    assert view.colours.limits == (low, high)


def test_handles_move_the_ends_of_the_colours(view, session, qtbot) -> None:
    session.colour_by = "brightness"
    low, high = view.colours.limits
    legend = view.legend
    y = int(legend._bar.center().y())
    was = view.colours.codes.copy()

    def pull(handle: int, to: float) -> None:
        qtbot.mousePress(legend, LEFT, pos=QPoint(round(legend.handles[handle]), y))
        for share in (0.5, 1):
            x = legend.handles[handle] * (1 - share) + to * share
            qtbot.mouseMove(legend, QPoint(round(x), y))
        qtbot.mouseRelease(legend, LEFT, pos=QPoint(round(to), y))

    middle_px = legend._bar.center().x()
    pull(1, middle_px)
    assert legend.handles[1] == pytest.approx(middle_px, abs=1)
    assert view.colours.limits[0] == low
    assert view.colours.limits[1] < high
    value = session.cells.obs["brightness"].to_numpy()
    assert (view.colours.codes[value > view.colours.limits[1]] == 255).all()
    pull(0, legend._bar.right())  # not past the other one
    assert view.colours.limits[0] < view.colours.limits[1]
    assert session.colour_limits("brightness") == view.colours.limits
    session.colour_by = "well"
    session.colour_by = "brightness"
    assert view.colours.limits != (low, high)  # remembered
    qtbot.mouseDClick(legend, LEFT, pos=QPoint(round(middle_px), y))
    assert view.colours.limits == (low, high)
    assert (view.colours.codes == was).all()
    assert not chosen(session)


def test_cells_without_a_value_can_be_hidden(view, session, qtbot) -> None:
    rows = np.flatnonzero(session.visible)[:40]
    session.cells.obs.iloc[rows, session.cells.obs.columns.get_loc("brightness")] = np.nan
    session.colour_by = "brightness"
    n = session.n_visible
    qtbot.mouseClick(view.legend, LEFT, pos=line(view, "no value"))
    qtbot.waitUntil(lambda: session.n_visible == n - 40, timeout=20_000)
    assert not session.visible[rows].any()


def test_a_long_legend_turns_pages(view, session, qtbot) -> None:
    session.cells.obs["many"] = [f"m{i % 150}" for i in range(session.n_cells)]
    session.colour_by = "many"
    seen: set[str] = set()
    while True:
        seen |= set(view.legend.lines)
        (more,) = [text for text in view.legend.lines if text.endswith("more") or text.startswith("back")]
        qtbot.mouseClick(view.legend, LEFT, pos=line(view, more))
        if more.startswith("back"):
            break
    assert {f"m{i}" for i in range(150)} <= seen
    assert "m0" in view.legend.lines


def test_the_map_gets_what_the_legend_does_not_want(view, session, qtbot) -> None:
    session.colour_by = "well"
    title = QPoint(12, 12)
    assert view.childAt(title) is view.legend
    before = view.view.centre
    qtbot.mousePress(view.legend, Qt.MouseButton.MiddleButton, pos=QPoint(4, 4))
    qtbot.mouseMove(view.legend, QPoint(40, 44))
    qtbot.mouseRelease(view.legend, Qt.MouseButton.MiddleButton, pos=QPoint(40, 44))
    assert view.view.centre != before


# ---- what is drawn over the points ------------------------------------------------------------------


def test_density_follows_what_is_shown(view, session, qtbot) -> None:
    plain = view.grab().toImage()
    view.density.turn(True)
    qtbot.waitUntil(lambda: len(view.density.contours) == 4, timeout=20_000)
    assert view.grab().toImage() != plain
    points = session.map_coordinates()
    for contour in view.density.contours:
        assert held(points[session.visible], contour).mean() == pytest.approx(contour.share, abs=0.05)
    before = view.density.contours
    session.hide_values("well", ["A01"])
    qtbot.waitUntil(lambda: view.density.contours is not before, timeout=20_000)
    half = next(c for c in view.density.contours if c.share == 0.5)
    assert held(points[session.visible], half).mean() == pytest.approx(0.5, abs=0.05)
    before = view.density.contours
    view.view = view.view.zoomed(4, (300, 200))
    view._redo("place")
    qtbot.waitUntil(lambda: view.density.contours is not before, timeout=20_000)
    view.density.turn(False)
    session.show_all_values()
    view.fit()
    assert view.grab().toImage() == plain


def test_a_cloud_for_each_value(view, session, qtbot) -> None:
    session.colour_by = "well"
    view.fit()
    plain = view.grab().toImage()
    view.clouds.turn(True)
    qtbot.waitUntil(lambda: len(view.clouds.contours) == 9, timeout=20_000)  # three wells, three shares
    assert view.grab().toImage() != plain
    points, well = session.map_coordinates(), session.cells.obs["well"].astype(str).to_numpy()
    codes = dict(view.colours.legend)

    def check(names: set[str]) -> None:
        assert {c.code for c in view.clouds.contours} == {codes[name] for name in names}
        for contour in view.clouds.contours:
            of = [name for name in names if codes[name] == contour.code]
            inside = held(points[session.visible & np.isin(well, of)], contour)
            assert inside.mean() == pytest.approx(contour.share, abs=0.08)

    check({"A01", "A12", "E12"})
    before = view.clouds.contours
    view.view = view.view.zoomed(6, (300, 200))  # a cloud is of all its cells, not of those in view
    view._redo("place")
    view.grab()
    qtbot.wait(200)
    assert view.clouds.contours is before
    qtbot.mouseDClick(view.legend, LEFT, pos=line(view, "E12"))
    qtbot.waitUntil(lambda: len(view.clouds.contours) == 3, timeout=20_000)
    check({"E12"})
    session.show_all_values()
    session.colour_by = "brightness"  # numbers have no clouds, and the map says so
    view.fit()
    view.grab()
    assert not view.clouds.contours
    assert "need a colour column of values" in clouds_words(view.colours)
    session.colour_by = "well"
    view.fit()
    view.clouds.turn(False)
    assert view.grab().toImage() == plain


def test_clouds_are_of_the_most_frequent_values() -> None:
    rng = np.random.default_rng(7)
    names = np.repeat([f"v{i}" for i in range(40)], np.arange(20, 60))
    colours = colours_of(pd.Series([*names, "v0;v1", None]), len(names) + 2)
    raster = Raster(rng.normal(size=(len(names) + 2, 2)))
    made = clouds_of(raster, colours, np.ones(len(names) + 2, bool))
    legend = dict(colours.legend)
    assert {c.code for c in made} == {legend[f"v{i}"] for i in range(16, 40)}
    assert "24 most frequent" in clouds_words(colours)
    nobody = np.zeros(len(names) + 2, bool)
    assert clouds_of(raster, colours, nobody) == []


def test_keys_move_and_zoom_the_map(view, session, qtbot) -> None:
    view.setFocus()
    row = int(np.flatnonzero(session.visible)[0])
    before = view._screen(row)
    qtbot.keyClick(view, Qt.Key.Key_Right)
    assert view._screen(row).x() == pytest.approx(before.x() - 60)
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert view._screen(row).y() == pytest.approx(before.y() - 60)
    qtbot.keyClick(view, Qt.Key.Key_Left)
    qtbot.keyClick(view, Qt.Key.Key_Up)
    assert view._screen(row) == before
    scale = view.view.scale
    qtbot.keyClick(view, Qt.Key.Key_Plus)
    assert view.view.scale == pytest.approx(1.25 * scale)
    qtbot.keyClick(view, Qt.Key.Key_Minus)
    assert view.view.scale == pytest.approx(scale)
