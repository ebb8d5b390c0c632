"""The table with real cells and real events."""

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QGuiApplication

from napari_cellrep.data.rows import rows_by
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.table import TableView, group_table


@pytest.fixture
def table(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    view = TableView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    view.resize(900, 400)
    with qtbot.waitExposed(view):
        view.show()
    yield view
    view.disconnect_session()


def cells_shown(table) -> list[str]:
    return [table.session.cell_id(int(row)) for row in table.model.order]


def click(table, qtbot, line: int, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    at = table.table.visualRect(table.model.index(line, 0)).center()
    qtbot.mouseClick(table.table.viewport(), Qt.MouseButton.LeftButton, modifier, at)


def header(table, qtbot, column: str) -> None:
    section = list(table.model.frame.columns).index(column)
    bar = table.table.horizontalHeader()
    table.table.scrollTo(table.model.index(0, section))
    qtbot.mouseClick(
        bar.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(bar.sectionViewportPosition(section) + 12, 8)
    )


def shown(table, line: int, column: str) -> str:
    return table.model.data(table.model.index(line, list(table.model.frame.columns).index(column)))


def test_a_row_for_every_visible_cell(table):
    session = table.session
    assert cells_shown(table) == session.cells.obs_names[session.visible].tolist()
    assert table.words.text() == f"{session.n_visible:,} of {session.n_visible:,} cells"
    assert shown(table, 3, "cell") == cells_shown(table)[3]
    session.hide_flagged = False
    assert len(table.model.order) == session.n_cells


def test_sorting_by_a_click_on_the_header_and_again_the_other_way(table, qtbot):
    header(table, qtbot, "area_px")
    area = table.session.cells.obs["area_px"]
    assert (np.diff(area.loc[cells_shown(table)]) >= 0).all()
    header(table, qtbot, "area_px")
    assert (np.diff(area.loc[cells_shown(table)]) <= 0).all()


def test_clicks_select_the_cell_of_the_line_whatever_the_order(table, qtbot):
    session = table.session
    header(table, qtbot, "area_px")
    ids = cells_shown(table)
    click(table, qtbot, 2)
    assert session.cells.obs_names[session.selected].tolist() == [ids[2]]
    assert session.cell_id(session.focus) == ids[2]
    click(table, qtbot, 5, Qt.KeyboardModifier.ShiftModifier)
    assert set(session.cells.obs_names[session.selected]) == {ids[2], ids[5]}
    click(table, qtbot, 2, Qt.KeyboardModifier.AltModifier)
    assert set(session.cells.obs_names[session.selected]) == {ids[5]}


def test_the_selection_of_other_views_is_marked(table, qtbot):
    rows = np.flatnonzero(table.session.visible)[3:6]
    table.session.select(rows)
    marked = [
        line
        for line in range(10)
        if table.model.data(table.model.index(line, 0), Qt.ItemDataRole.BackgroundRole) is not None
    ]
    assert marked == [3, 4, 5]
    table.session.set_focus(int(np.flatnonzero(table.session.visible)[-1]))
    last = table.model.index(len(table.model.order) - 1, 0)
    assert table.table.visualRect(last).intersects(table.table.viewport().rect())


def test_search_and_filter(table, qtbot):
    session = table.session
    qtbot.keyClicks(table.search, "ly294")
    compound = session.cells.obs["compound"].astype(str)
    assert set(compound.loc[cells_shown(table)]) == {"LY294002"}
    table.search.clear()
    qtbot.keyClicks(table.filter, "area_px > 500 and control == 1")
    qtbot.keyClick(table.filter, Qt.Key.Key_Return)
    obs = session.cells.obs
    expected = obs.index[session.visible & (obs["area_px"] > 500) & (obs["control"] == 1)]
    assert cells_shown(table) == expected.tolist()
    qtbot.mouseClick(table.choose, Qt.MouseButton.LeftButton)
    assert session.cells.obs_names[session.selected].tolist() == expected.tolist()
    table.filter.setText("no_such > 3")
    table.filter.editingFinished.emit()
    assert "no column no_such" in table.words.text()
    table.filter.clear()
    assert len(table.model.order) == session.n_visible


def test_groups(table, qtbot):
    session = table.session
    table.rows_of.setCurrentText("by compound")
    obs = session.cells.obs[session.visible]
    lines = [shown(table, i, "compound") for i in range(len(table.model.order))]
    assert sorted(lines) == sorted(obs["compound"].astype(str).unique())
    for i, name in enumerate(lines):
        own = obs[obs["compound"].astype(str) == name]
        assert shown(table, i, "n_cells") == f"{len(own):,}"
        assert float(shown(table, i, "area_px").replace(",", "")) == pytest.approx(
            own["area_px"].mean(), rel=1e-3
        )
    click(table, qtbot, 0)
    assert set(session.cells.obs_names[session.selected]) == set(
        obs.index[obs["compound"].astype(str) == lines[0]]
    )


def test_fields_with_their_share_of_flagged_cells(table, qtbot):
    session = table.session
    table.rows_of.setCurrentText("fields")
    assert table.words.text() == "3 of 3 fields"
    obs = session.cells.obs
    for line in range(3):
        own = obs[obs["field"].astype(str) == shown(table, line, "field")]
        assert shown(table, line, "n_cells") == f"{int(own['good'].sum()):,}"
        assert float(shown(table, line, "flagged_share") or 0) == pytest.approx(
            1 - own["good"].mean(), abs=1e-3
        )
    click(table, qtbot, 1)
    assert set(obs["field"].astype(str)[session.selected]) == {shown(table, 1, "field")}
    assert session.n_selected == int(shown(table, 1, "n_cells"))


def test_groups_like_one_of_them_come_first(table, qtbot):
    """A right-click on a line asks."""
    session = table.session
    session.embedding = "measured"
    table.rows_of.setCurrentText("groups")
    line = [shown(table, i, "group") for i in range(3)].index("E12")
    at = table.table.visualRect(table.model.index(line, 0)).center()
    table.table.customContextMenuRequested.emit(at)
    menu = table.canvas._menu
    qtbot.waitUntil(menu.isVisible)
    next(a for a in menu.actions() if a.text() == "Find similar groups").trigger()
    menu.close()
    qtbot.waitUntil(lambda: session.similar is not None)
    assert [shown(table, i, "group") for i in range(3)] == ["E12", "A12", "A01"]
    assert shown(table, 0, "distance to E12") == "0"
    assert list(table.model.frame.columns)[1] == "distance to E12"
    assert "Most like E12" in table.words.text()
    distance = float(shown(table, 1, "distance to E12"))
    header(table, qtbot, "n_cells")
    first = session.similar
    session.hide_flagged = False  # other cells count: ranked again, and sorted as it was
    qtbot.waitUntil(lambda: session.similar is not first)
    assert (np.diff(table.model.frame["n_cells"].iloc[table.model.order]) >= 0).all()
    assert "distance to E12" in table.model.frame
    session.hide_flagged = True
    qtbot.waitUntil(lambda: np.allclose(session.similar.distance, first.distance))
    session.hide_values("control", ["-1"])  # with two groups left nothing can be ranked
    qtbot.waitUntil(lambda: session.similar is None)
    session.show_all_values()
    table.canvas.find_similar_groups("group", "E12")
    qtbot.waitUntil(lambda: session.similar is not None)
    assert float(shown(table, 1, "distance to E12")) == distance
    qtbot.mouseClick(table.forget, Qt.MouseButton.LeftButton)
    assert session.similar is None
    assert "distance to E12" not in table.model.frame
    assert not table.forget.isVisible()


def test_groups_say_words_only_where_all_cells_agree():
    obs = pd.DataFrame(
        {"well": list("AABB"), "drug": list("xxyz"), "v": [1.0, 3.0, np.nan, 5.0], "ok": [True] * 4}
    )
    frame, groups = group_table(obs, np.ones(4, bool), rows_by(obs, "well"))
    assert frame.to_dict("list") == {
        "well": ["A", "B"],
        "n_cells": [2, 2],
        "drug": ["x", ""],
        "v": [2.0, 5.0],
    }
    assert [g.tolist() for g in groups] == [[0, 1], [2, 3]]


def test_copy_columns_and_csv(table, qtbot, tmp_path):
    session = table.session
    session.select(np.flatnonzero(session.visible)[:2])
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    lines = QGuiApplication.clipboard().text().splitlines()
    assert len(lines) == 3
    assert lines[1].split("\t")[0] == cells_shown(table)[0]
    assert "box_y0" not in table.model.frame.columns
    action = next(a for a in table.column_menu().actions() if a.text() == "box y0")
    action.setChecked(True)
    assert "box_y0" in table.model.frame.columns
    assert len(table.text().splitlines()) == len(table.model.order) + 1


def test_without_cells_it_says_what_to_do(viewer, qtbot):
    view = TableView(session_of(viewer), canvas_of(viewer))
    qtbot.addWidget(view)
    assert "segment the images" in view.words.text()
    view.disconnect_session()


def test_keys_do_what_clicks_do(table, qtbot):
    session, view = table.session, table.table
    click(table, qtbot, 2)
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_Down)
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert session.focus == table.model.order[2]
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert session.focus == table.model.order[4]
    assert np.flatnonzero(session.selected).tolist() == [table.model.order[4]]
    qtbot.keyClick(view, Qt.Key.Key_Down)
    qtbot.keyClick(view, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert sorted(np.flatnonzero(session.selected)) == sorted(table.model.order[4:6])
    canvas = table.canvas
    qtbot.keyClick(view, Qt.Key.Key_Space)
    field = session.place(int(table.model.order[5]))[0]
    qtbot.waitUntil(lambda: canvas.field == field, timeout=20_000)
