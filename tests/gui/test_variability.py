"""Variable groups with real cells and real clicks: which cells are selected, and which are shown along the axis."""

import json

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt

from _clicks import hover
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.analysis.variability import corrected
from napari_cellrep.data.references import members, reference_of
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._group_scatter import said_of, ticks
from napari_cellrep.gui.views._spread import Asked, look_at, measure
from napari_cellrep.gui.views.variability import ALL_FEATURES, NO_INTENSITY, SCORE, WITHOUT, VariabilityView
from napari_cellrep.specs import p_words

LEFT, SHIFT, ALT = (
    Qt.MouseButton.LeftButton,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.AltModifier,
)


# ---- numbers --------------------------------------------------------------------------------------


def test_members_of_a_reference():
    obs = pd.DataFrame({"control": [-1, 0, 1, -1], "drug": pd.Categorical(["DMSO", "x", None, "dmso"])})
    assert members(obs, "control=-1").tolist() == [True, False, False, True]
    assert members(obs, "control=-1.0").tolist() == [True, False, False, True]
    assert members(obs, "drug=DMSO").tolist() == [True, False, False, True]
    assert not members(obs, "nothing=1").any()


def test_the_reference_is_the_scores_then_the_controls_then_everyone():
    obs = pd.DataFrame({"control": np.repeat([-1, -1, 0], 12), "drug": np.repeat(["a", "b", "b"], 12)})
    codes = np.repeat([0, 1, 2], 12)
    found, words = reference_of(obs, codes, "drug=b")
    assert found.tolist() == [False] * 12 + [True] * 24
    assert words == "2 reference groups (drug b)"
    assert reference_of(obs, codes, "")[0].sum() == 24
    assert reference_of(obs, codes, "drug=gone")[1] == "2 reference groups (control −1)"
    everyone, words = reference_of(obs[["drug"]], codes, "")
    assert everyone.all()
    assert words.startswith("any group")
    few = np.repeat([0, 1, 2, 3], 9)  # no group has ten reference cells
    assert reference_of(obs, few, "")[0].all()


def test_only_the_given_rows_count_and_groups_stand_as_people_count():
    rng = np.random.default_rng(0)
    names = np.repeat(["w10", "w2", "w1", None], [30, 20, 5, 6])
    obs = pd.DataFrame({"well": names, "q_signal": rng.lognormal(size=61), "control": -1})
    vectors = rng.normal(5, 3, size=(61, 4)).astype(np.float32)
    rows = np.flatnonzero(np.arange(61) % 7 != 0)
    found = measure(obs, rows, vectors, Asked("well", "", "q_signal"))
    assert found.names == ["w1", "w2", "w10"]
    for name, own in zip(found.names, found.rows, strict=True):
        assert own.tolist() == [r for r in rows if names[r] == name]
    z = z_score(vectors[rows])
    by_hand = pd.DataFrame(z).groupby(names[rows].astype(str)).std(ddof=0).mean(axis=1)
    np.testing.assert_allclose(found.spatial.value, by_hand[found.names], rtol=1e-4)
    cells = obs.iloc[rows].groupby("well")["q_signal"]
    np.testing.assert_allclose(found.intensity.value, (cells.std(ddof=0) / cells.mean())[found.names])
    assert found.spatial.rank[0] == 0  # too few cells
    assert found.names[found.order[-1]] == "w1"


def test_groups_are_compared_with_references_of_their_own_kind():
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({
        "well": np.repeat(["A1", "A2", "B1", "B2"], 60), "drug": np.repeat(["x", "y"], 120),
        "control": np.repeat([-1, 0, -1, 0], 60), "s": rng.normal(size=240) * np.repeat([1, 3], 120),
    })  # fmt: skip
    found = measure(obs, np.arange(240), None, Asked("well", "s", "", like="drug", a="control=-1"))
    assert found.words == "2 reference groups (control −1) of the same drug"
    np.testing.assert_allclose(found.spatial.ratio, 1, atol=0.35)
    seen = look_at(obs, np.arange(240) % 5 > 0, None, found, found.names.index("A2"), "s")
    own = obs["s"].to_numpy()[(np.arange(240) % 5 > 0) & (obs["well"] == "A1").to_numpy()]
    assert [title for title, _, _ in seen.violins] == ["A: control −1", "A2"]
    assert seen.violins[0][2] == pytest.approx(tuple(np.quantile(own, [0.25, 0.5, 0.75])))
    assert np.isnan(seen.share)  # without features the score itself is the axis
    assert (np.diff(obs["s"].to_numpy()[seen.rows]) > 0).all()
    mixed = measure(obs, np.arange(240), None, Asked("well", "s", "", a="control=-1"))
    assert (mixed.spatial.ratio[:2] < 0.7).all()


def test_ticks_are_round():
    assert ticks(0.5, 2.1) == [0.5, 1.0, 1.5, 2.0]
    assert ticks(0.91, 1.13) == [0.95, 1.0, 1.05, 1.1]


# ---- the view -------------------------------------------------------------------------------------


def opened(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding = "measured"
    view = VariabilityView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    view.resize(900, 420)
    with qtbot.waitExposed(view):
        view.show()
    settled(qtbot, view)
    return view


def settled(qtbot, view):
    def done():
        return not view._stale and bool(view.words.text()) and "Measuring" not in view.words.text()

    qtbot.waitUntil(done, timeout=30_000)
    qtbot.wait(20)


@pytest.fixture
def view(viewer, project, qtbot):
    view = opened(viewer, project, qtbot)
    yield view
    view.disconnect_session()


@pytest.fixture
def scored(viewer, project, qtbot):
    """A project with "closer to A or to B", and with too few good cells in E12."""
    cells = project.cells
    cells.obs["score_measured"] = cells.obs["brightness"].to_numpy(float) - 0.2
    e12 = np.flatnonzero(cells.obs["field"].astype(str) == "E12")
    good = cells.obs["good"].to_numpy().copy()
    good[e12] = False
    good[e12[:7]] = True
    cells.obs["good"] = good
    made = {"recipe": "score", "numbers": {"a": "control=-1", "b": "control=1"}}
    cells.uns["cellrep"] = {**dict(cells.uns.get("cellrep", {})), "score_measured": json.dumps(made)}
    project.write_cells(cells)
    view = opened(viewer, project.root, qtbot)
    yield view
    view.disconnect_session()


def ids(session):
    return set(session.cells.obs_names[session.selected])


def ids_of(session, *wells):
    return set(session.cells.obs_names[session.visible & session.cells.obs["field"].isin(wells).to_numpy()])


def at(view, name) -> QPoint:
    return view.scatter.place_of(view.found.names.index(name))


def line_of(view, name) -> QPoint:
    column = list(view.model.frame.columns).index("group")
    line = next(
        i for i in range(view.model.rowCount()) if view.model.data(view.model.index(i, column)) == name
    )
    return view.list.visualRect(view.model.index(line, column)).center()


def test_clicks_in_the_scatter_select_a_groups_cells(view, qtbot):
    session = view.session
    n = int(view.found.spatial.beyond.sum())
    sure = int((view.found.spatial.p_fdr <= 0.05).sum())
    assert view.words.text() == (
        f"3 groups ranked, {n} {'varies' if n == 1 else 'vary'} more in place than by chance (filled), "
        f"{sure} with p ≤ 0.05 (FDR). "
        "Chance: as many cells of 2 reference groups (control −1)."
    )
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A12"))
    assert ids(session) == ids_of(session, "A12")
    assert view.chosen == "A12"
    qtbot.mouseClick(view.scatter, LEFT, SHIFT, at(view, "E12"))
    assert ids(session) == ids_of(session, "A12", "E12")
    assert view.scatter.marked.tolist() == [name != "A01" for name in view.found.names]
    qtbot.mouseClick(view.scatter, LEFT, ALT, at(view, "A12"))
    assert ids(session) == ids_of(session, "E12")
    qtbot.mouseClick(view.scatter, LEFT, pos=QPoint(view.scatter.width() - 2, view.scatter.height() - 2))
    assert ids(session) == ids_of(session, "E12")  # there is no group there


def test_the_list_selects_too_and_sorts(view, qtbot):
    session, port = view.session, view.list.viewport()
    for name in ("A01", "E12"):
        qtbot.mouseClick(port, LEFT, pos=line_of(view, name))
        assert ids(session) == ids_of(session, name)
    qtbot.mouseClick(port, LEFT, SHIFT, line_of(view, "A12"))
    assert ids(session) == ids_of(session, "E12", "A12")

    def shown(column):
        return view.model.frame[column].iloc[view.model.order].tolist()

    assert shown("rank") == [1, 2, 3]
    section = list(view.model.frame.columns).index("p (FDR)")
    np.testing.assert_allclose(view.model.frame["p (FDR)"], corrected(view.found.spatial.p))
    for line, p in enumerate(shown("p (FDR)")):
        told = view.model.data(view.model.index(line, section))
        assert told == ("< 0.001" if p < 0.001 else f"{p:.2g}")
    said = said_of(view.found, 0)
    assert f", {p_words(float(view.found.spatial.p_fdr[0]))} (FDR)" in said.splitlines()[1]
    assert len(said.splitlines()) == 3
    header = view.list.horizontalHeader()
    for column in ("cells", "intensity", "group", "interval", "p (FDR)"):
        section = list(view.model.frame.columns).index(column)
        middle = QPoint(header.sectionViewportPosition(section) + 12, header.height() // 2)
        qtbot.mouseClick(header.viewport(), LEFT, pos=middle)
        order = shown("spatial" if column == "interval" else column)
        assert order == sorted(order, reverse=column not in ("group", "p (FDR)")), column
        qtbot.mouseClick(header.viewport(), LEFT, pos=middle)
        assert shown("spatial" if column == "interval" else column) == order[::-1], column
    for line, name in enumerate(shown("group")):
        assert line_of(view, name) == view.list.visualRect(view.model.index(line, 1)).center()
        qtbot.mouseClick(port, LEFT, pos=line_of(view, name))
        assert ids(session) == ids_of(session, name)


def test_whether_a_reviewer_would_believe_it(view, qtbot):
    assert not view.check.isEnabled()
    assert "Click a group first" in view.check.toolTip()
    qtbot.mouseClick(view.list.viewport(), LEFT, pos=line_of(view, "E12"))
    assert "Would a reviewer believe that this group varies?" in view.check.toolTip()
    try:
        qtbot.mouseClick(view.check, LEFT)
        assert not view.check.isEnabled()
        assert "E12 is being checked" in view.check.toolTip()
        qtbot.mouseClick(view.list.viewport(), LEFT, pos=line_of(view, "A01"))  # the window does not wait
        assert ids(view.session) == ids_of(view.session, "A01")
        qtbot.waitUntil(lambda: hasattr(view, "note") and view.note.isVisible(), timeout=180_000)
        words = view.note.text.toPlainText()
        n = int((view.session.cells.obs["group"] == "E12").sum())
        assert words.startswith(f"Group E12: {n} cells, ")
        assert "By all features its cells differ more than as many cells of the reference groups: " in words
        # The same numbers as in the list.
        i = view.found.names.index("E12")
        assert f"Number {view.found.spatial.rank[i]} of 3, {view.found.spatial.ratio[i]:.2f} times" in words
        assert "does not say by which network" in words
        assert view.check.isEnabled()
        view.note.close()
    finally:
        runner_of(view.canvas.viewer).close()


def test_the_doubts_are_about_what_the_list_ranks(scored, qtbot):
    assert scored.spatial.currentText() == SCORE
    qtbot.mouseClick(scored.list.viewport(), LEFT, pos=line_of(scored, "A12"))
    try:
        qtbot.mouseClick(scored.check, LEFT)
        qtbot.waitUntil(lambda: hasattr(scored, "note") and scored.note.isVisible(), timeout=180_000)
        assert "Between A and B its cells differ more than as many cells" in scored.note.text.toPlainText()
        scored.note.close()
    finally:
        runner_of(scored.canvas.viewer).close()


def test_keys_choose_the_line_of_the_cursor(view, qtbot):
    view.list.setFocus()
    view.list.setCurrentIndex(view.model.index(0, 0))
    qtbot.keyClick(view.list, Qt.Key.Key_Down)
    qtbot.keyClick(view.list, Qt.Key.Key_Return)
    assert ids(view.session) == ids_of(view.session, view.found.names[int(view.model.order[1])])


def test_cells_stand_along_the_groups_own_main_axis(view, qtbot):
    session = view.session
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A12"))
    qtbot.waitUntil(lambda: view.strip.seen is not None, timeout=20_000)
    seen = view.strip.seen
    rows = np.flatnonzero(session.visible & (session.cells.obs["field"] == "A12").to_numpy())
    assert set(seen.rows.tolist()) <= set(rows.tolist())
    z = z_score(session.cells.obsm["X_measured"][session.visible])[
        np.searchsorted(np.flatnonzero(session.visible), rows)
    ]
    u, s, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    along = dict(zip(rows.tolist(), (u[:, 0] * s[0]).tolist(), strict=True))
    there = np.array([along[row] for row in seen.rows.tolist()])
    assert (np.diff(there) > 0).all() or (np.diff(there) < 0).all()
    assert seen.share == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-3)
    assert f"{len(rows):,} cells along what differs most" in view.strip.words
    assert len(seen.violins) == 0  # there is no score

    def pictured():
        return all(view.strip.pictures.get(r, view.canvas.looks()) for r in seen.rows)

    qtbot.waitUntil(pictured, timeout=20_000)
    tiles = view.strip.tiles()
    assert [row for row, _ in tiles] == seen.rows.tolist()
    row, place = tiles[3]
    qtbot.mouseMove(view.strip, place.center())
    qtbot.mouseClick(view.strip, LEFT, pos=place.center())
    assert ids(session) == {session.cell_id(row)}
    assert session.focus == row
    qtbot.mouseClick(view.strip, LEFT, SHIFT, tiles[5][1].center())
    assert ids(session) == {session.cell_id(row), session.cell_id(tiles[5][0])}
    assert view.chosen == "A12"  # looking at one of its cells does not leave the group


def test_each_two_cells_of_the_group_are_compared(view, qtbot):
    session, pairs = view.session, view.pairs
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A12"))
    qtbot.waitUntil(lambda: pairs.seen is not None, timeout=20_000)
    rows, alike = pairs.seen.paired, pairs.seen.alike
    own = np.flatnonzero(session.visible & (session.cells.obs["field"] == "A12").to_numpy())
    assert sorted(rows) == own.tolist()
    z = z_score(session.cells.obsm["X_measured"][session.visible])
    where = np.searchsorted(np.flatnonzero(session.visible), rows)
    np.testing.assert_allclose(alike, np.corrcoef(z[where]), atol=1e-4)

    def place(one, other):
        area, n = pairs.area(), len(rows)
        return QPoint(
            area.left() + int((other + 0.5) * area.width() / n),
            area.top() + int((one + 0.5) * area.height() / n),
        )

    one, other = pairs.pair_at(place(2, len(rows) - 3))
    assert abs(one - 2) <= 1  # there may be more cells than pixels
    qtbot.mouseClick(pairs, LEFT, pos=place(2, len(rows) - 3))
    assert ids(session) == {session.cell_id(int(rows[i])) for i in (one, other)}
    first, last = place(0, 0), place(len(rows) // 3, len(rows) // 3)
    qtbot.mousePress(pairs, LEFT, pos=first)
    hover(qtbot, pairs, last, lambda: pairs._drag is not None and pairs._drag != first)
    qtbot.mouseRelease(pairs, LEFT, pos=last)
    (a, _), (b, _) = pairs.pair_at(first), pairs.pair_at(last)
    assert ids(session) == {session.cell_id(int(row)) for row in rows[a : b + 1]}
    assert pairs._marks.tolist() == list(range(a, b + 1))


def test_keys_reach_the_cells_of_the_group_and_each_two_of_them(view, qtbot):
    session, strip, pairs, keys = view.session, view.strip, view.pairs, Qt.Key
    view.activateWindow()
    view.list.setFocus()
    view.list.setCurrentIndex(view.model.index(0, 0))
    qtbot.keyClick(view.list, keys.Key_Return)
    qtbot.waitUntil(lambda: pairs.seen is not None and strip.seen is not None, timeout=20_000)
    qtbot.waitUntil(view.list.hasFocus)
    plain = strip.grab().toImage()
    qtbot.keyClick(view.list, keys.Key_Tab)
    assert strip.hasFocus()
    assert strip.grab().toImage() != plain  # a frame says where the keys are
    rows = strip.seen.rows.tolist()
    for key, at in ((keys.Key_Right, 0), (keys.Key_Right, 1), (keys.Key_Right, 2), (keys.Key_Left, 1)):
        qtbot.keyClick(strip, key)
        assert session.focus == rows[at]
    qtbot.keyClick(strip, keys.Key_Return)
    assert ids(session) == {session.cell_id(rows[1])}
    qtbot.keyClick(strip, keys.Key_Right)
    qtbot.keyClick(strip, keys.Key_Return, SHIFT)
    assert ids(session) == {session.cell_id(row) for row in rows[1:3]}
    qtbot.keyClick(strip, keys.Key_Space)
    field = session.place(rows[2])[0]
    qtbot.waitUntil(lambda: view.canvas.field == field, timeout=20_000)

    qtbot.keyClick(strip, keys.Key_Tab)
    assert pairs.hasFocus()
    own = pairs.seen.paired.tolist()
    qtbot.keyClick(pairs, keys.Key_Down)
    qtbot.keyClick(pairs, keys.Key_Right, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(pairs, keys.Key_Left)
    assert session.hover == own[1]
    qtbot.keyClick(pairs, keys.Key_Return)
    assert ids(session) == {session.cell_id(own[i]) for i in (1, 9)}
    for key in (keys.Key_Left,) * 6 + (keys.Key_Down,):
        qtbot.keyClick(pairs, key, SHIFT)  # from line 1, column 9 to line 2, column 3
    qtbot.keyClick(pairs, keys.Key_Enter)
    assert ids(session) == {session.cell_id(own[i]) for i in range(1, 10)}
    qtbot.keyClick(pairs, keys.Key_Up)
    qtbot.keyClick(pairs, keys.Key_Return, ALT)  # line 1, column 3
    assert ids(session) == {session.cell_id(own[i]) for i in (2, *range(4, 10))}
    with qtbot.waitSignal(pairs.framed) as framed:
        qtbot.keyClick(pairs, keys.Key_Space)
    assert framed.args == [own[1]]


def test_keys_reach_every_point_of_the_scatter(view, qtbot):
    session, scatter, keys = view.session, view.scatter, Qt.Key
    view.activateWindow()
    view.list.setFocus()
    qtbot.waitUntil(view.list.hasFocus)
    plain = scatter.grab().toImage()
    qtbot.keyClick(view.list, keys.Key_Tab, SHIFT)
    assert scatter.hasFocus()
    framed = scatter.grab().toImage()
    assert framed != plain  # a frame says where the keys are
    qtbot.keyClick(scatter, keys.Key_Return)  # at no point yet
    assert session.n_selected == 0
    names = view.found.names
    ranked = [names[g] for g in view.found.order]
    qtbot.keyClick(scatter, keys.Key_Right)
    assert names[scatter.at] == ranked[0]
    assert scatter.grab().toImage() != framed  # and a ring at which point

    # Arrows lead towards where they point, and from some point to every other.
    by_name = {names[g]: tuple(p) for g, p in zip(scatter.shown, scatter.points, strict=True)}
    reached = set()
    for key, axis, sign in (
        (keys.Key_Left, 0, -1), (keys.Key_Right, 0, 1), (keys.Key_Up, 1, 1), (keys.Key_Down, 1, -1),
    ):  # fmt: skip
        for start in names:
            scatter.at = names.index(start)
            qtbot.keyClick(scatter, key)
            end = names[scatter.at]
            there = [n for n in names if sign * (by_name[n][axis] - by_name[start][axis]) > 0]
            assert (end in there) if there else (end == start)
            reached |= {end} - {start}
    assert reached == set(names)

    qtbot.keyClick(scatter, keys.Key_Home)
    for name in ranked:
        assert names[scatter.at] == name
        qtbot.keyClick(scatter, keys.Key_PageDown)
    qtbot.keyClick(scatter, keys.Key_End)
    assert names[scatter.at] == ranked[-1]
    qtbot.keyClick(scatter, keys.Key_PageUp)
    qtbot.keyClick(scatter, keys.Key_Return)
    assert ids(session) == ids_of(session, ranked[1])
    assert view.chosen == ranked[1]
    qtbot.keyClick(scatter, keys.Key_Home)
    qtbot.keyClick(scatter, keys.Key_Return, SHIFT)
    assert ids(session) == ids_of(session, *ranked[:2])
    qtbot.keyClick(scatter, keys.Key_Space)
    qtbot.waitUntil(lambda: view.canvas.field == ranked[0], timeout=20_000)
    qtbot.keyClick(scatter, keys.Key_Tab)
    assert view.list.hasFocus()
    view.list.setCurrentIndex(view.model.index(2, 0))
    qtbot.keyClick(view.list, keys.Key_Space)
    qtbot.waitUntil(lambda: view.canvas.field == ranked[2], timeout=20_000)


def test_the_keys_stay_at_their_group_when_all_is_measured_anew(view, qtbot):
    view.activateWindow()
    view.scatter.setFocus()
    qtbot.waitUntil(view.scatter.hasFocus)
    qtbot.keyClick(view.scatter, Qt.Key.Key_End)
    name, before = view.found.names[view.scatter.at], view.found
    view.session.hide_flagged = False
    qtbot.waitUntil(lambda: view.found is not before and view.found is not None, timeout=30_000)
    assert view.found.names[view.scatter.at] == name
    view.session.open(None)
    settled(qtbot, view)
    assert view.scatter.at == -1
    qtbot.keyClick(view.scatter, Qt.Key.Key_Right)  # nothing to go to


def test_double_click_opens_a_field_of_the_group(view, qtbot):
    qtbot.mouseDClick(view.scatter, LEFT, pos=at(view, "E12"))
    qtbot.waitUntil(lambda: view.canvas.field == "E12", timeout=20_000)


def test_score_violin_and_small_groups(scored, qtbot):
    view, session = scored, scored.session
    assert view.spatial.currentText() == SCORE
    assert "2 groups ranked" in view.words.text()
    assert "1 with fewer than 10 cells is grey" in view.words.text()
    small = view.found.names.index("E12")
    assert small not in view.scatter.shown
    assert view.model.order[-1] == small
    assert view.model.data(view.model.index(2, 0)) == "–"
    grey = view.model.data(view.model.index(2, 1), Qt.ItemDataRole.ForegroundRole)
    assert grey.color().alpha() < 255
    assert view.model.data(view.model.index(0, 1), Qt.ItemDataRole.ForegroundRole) is None
    assert "7 cells" in view.model.data(view.model.index(2, 1), Qt.ItemDataRole.ToolTipRole)
    score = session.cells.obs["score_measured"]
    own = score[session.visible & (session.cells.obs["field"] == "A12").to_numpy()]
    assert view.found.spatial.value[view.found.names.index("A12")] == pytest.approx(own.std(ddof=0))
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A12"))
    qtbot.waitUntil(lambda: view.strip.seen is not None, timeout=20_000)
    titles = [title for title, _, _ in view.strip.seen.violins]
    assert titles == ["A: control −1", "A12", "B: control 1"]
    assert view.strip.seen.violins[1][2] == pytest.approx(tuple(np.quantile(own, [0.25, 0.5, 0.75])))
    shown = score.iloc[view.strip.seen.rows].to_numpy()
    assert np.corrcoef(np.arange(len(shown)), shown)[0, 1] > 0  # the axis leads towards B
    qtbot.mouseClick(view.list.viewport(), LEFT, pos=line_of(view, "E12"))  # grey ones can be looked at
    assert ids(session) == ids_of(session, "E12")
    assert session.n_selected == 7


def test_other_questions_are_measured_anew_and_the_choice_stays(scored, qtbot):
    view, session = scored, scored.session
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A12"))
    before = view.found
    view.spatial.setCurrentText(ALL_FEATURES)
    settled(qtbot, view)
    assert view.found is not before
    assert view.chosen == "A12"
    qtbot.waitUntil(lambda: view.strip.seen is not None, timeout=20_000)
    assert view.found.names[view.strip.seen.group] == "A12"
    view.spatial.setCurrentText(WITHOUT)
    settled(qtbot, view)
    assert f"Without intensity {view.found.left:.0%} of what differs" in view.words.text()
    assert 0.05 < view.found.left < 0.98
    session.hide_flagged = False  # all cells of E12 are shown now
    settled(qtbot, view)
    assert int((view.found.spatial.rank > 0).sum()) == 3
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "E12"))
    assert ids(session) == set(session.cells.obs_names[(session.cells.obs["field"] == "E12").to_numpy()])
    view.intensity.setCurrentText(NO_INTENSITY)
    settled(qtbot, view)
    assert len(view.scatter.shown) == 3  # one number only, and still a click
    qtbot.mouseClick(view.scatter, LEFT, pos=at(view, "A01"))
    assert ids(session) == ids_of(session, "A01")
    view.by.setCurrentText("compound")
    settled(qtbot, view)
    assert view.found.names == ["LY294002", "Wortmannin"]
    session.hide_flagged = True


def test_the_score_is_what_is_shown_first(scored, qtbot):
    view, session = scored, scored.session
    session.embedding = "bare"  # has no score
    settled(qtbot, view)
    assert view.spatial.currentText() == ALL_FEATURES
    session.embedding = "measured"
    settled(qtbot, view)
    assert view.spatial.currentText() == SCORE
    view.spatial.setFocus()
    qtbot.keyClick(view.spatial, Qt.Key.Key_Down)  # the user's own choice stays
    settled(qtbot, view)
    assert view.spatial.currentText() == ALL_FEATURES
    session.embedding = "bare"
    session.embedding = "measured"
    settled(qtbot, view)
    assert view.spatial.currentText() == ALL_FEATURES


def test_hidden_it_measures_nothing_until_it_is_shown(view, qtbot):
    view.hide()
    before = view.found
    view.session.hide_flagged = False
    qtbot.wait(300)
    assert view.found is before
    view.show()
    settled(qtbot, view)
    assert view.found is not before
    assert sum(map(len, view.found.rows)) == view.session.n_cells
    view.session.hide_flagged = True


def test_hidden_it_marks_what_is_selected_once_it_is_shown(view, qtbot):
    session, marks = view.session, []
    view.pairs.mark = lambda: marks.append("pairs")
    view.hide()
    session.select(session.visible & (session.cells.obs["field"] == "A12").to_numpy())
    session.select(session.visible & (session.cells.obs["field"] == "E12").to_numpy())
    assert marks == []
    with qtbot.waitExposed(view):
        view.show()
    assert [n for n, on in zip(view.found.names, view.scatter.marked, strict=True) if on] == ["E12"]
    assert marks == ["pairs"]


def test_the_window_goes_on_while_it_measures(view, qtbot, monkeypatch):
    """A slow measurement is given up for a newer one, and nothing waits for it."""
    import threading

    from napari_cellrep.gui.views import variability

    held, let_go, stopped = threading.Event(), threading.Event(), []

    def slow(obs, rows, vectors, asked, stop):
        held.set()
        let_go.wait(20)
        stopped.append(stop())
        return measure(obs, rows, vectors, asked, stop)

    monkeypatch.setattr(variability, "measure", slow)
    view.by.setCurrentText("compound")
    qtbot.waitUntil(held.is_set, timeout=20_000)
    assert "Measuring the groups of" in view.words.text()
    view.by.setCurrentText("group")
    qtbot.wait(50)
    let_go.set()
    qtbot.waitUntil(lambda: len(stopped) == 2, timeout=20_000)
    settled(qtbot, view)
    assert stopped == [True, False]
    assert "A12" in view.found.names


def test_a_failure_is_said(view, qtbot, monkeypatch):
    from napari_cellrep.gui.views import variability

    def broken(*_, **__):
        raise ValueError("no luck")

    monkeypatch.setattr(variability, "measure", broken)
    view.refresh()
    qtbot.waitUntil(lambda: "could not be measured (no luck)" in view.words.text(), timeout=20_000)
    assert view.found is None
    assert view.scatter.group_at(view.scatter.rect().center().toPointF()) == -1


def test_without_cells_it_says_what_to_do(viewer, qtbot):
    view = VariabilityView(session_of(viewer), canvas_of(viewer))
    qtbot.addWidget(view)
    view.show()
    qtbot.waitUntil(lambda: "segment the images" in view.words.text(), timeout=5_000)
    view.disconnect_session()


def test_its_fields_with_cells_coloured_by_the_score(scored, qtbot):
    view, canvas = scored, scored.canvas
    assert not view.its_field.isEnabled()
    group = view.found.names.index("A12")
    qtbot.mouseClick(view.scatter, LEFT, pos=view.scatter.place_of(group))
    assert view.its_field.isEnabled()
    assert "closer to A or to B" in view.its_field.toolTip()
    qtbot.mouseClick(view.its_field, LEFT)
    qtbot.waitUntil(lambda: canvas.field == "A12", timeout=20_000)
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None, timeout=20_000)
    assert view.session.colour_by == view.score
    assert canvas.coloured


def test_a_groups_menu_opens_under_the_right_button(view, qtbot):
    group = 0
    place = view.scatter.place_of(group)
    qtbot.mouseClick(view.scatter, Qt.MouseButton.RightButton, pos=place)
    menu = view.canvas._menu
    assert menu.isVisible()
    assert view.found.names[group] in [action.text() for action in menu.actions()]
    menu.close()
    line = view.model.order.tolist().index(group)
    at = view.list.visualRect(view.model.index(line, 1)).center()
    qtbot.mouseClick(view.list.viewport(), Qt.MouseButton.RightButton, pos=at)
    assert view.canvas._menu is not menu
    view.canvas._menu.close()
