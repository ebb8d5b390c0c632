from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as MplPath
from qtpy.QtCore import QObject, QPoint, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication, QComboBox, QInputDialog, QLabel, QLineEdit

from _clicks import choose
from napari_cellrep.data.sets import read_sets
from napari_cellrep.gui import _explore, _runner
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._parts import ChoiceBox, Line
from napari_cellrep.gui.views._raster import View


@pytest.fixture
def explore(viewer, project, qtbot):
    session_of(viewer).open(project)
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    qtbot.wait(100)
    widget.map.fit()
    widget.map.grab()
    return widget


def lasso(explore, qtbot, well: str, radius_px: float = 40) -> set[str]:
    """Draw a circle about the middle of a well's cells; the ids that lie in it."""
    session, view = explore.session, explore.map
    rows = session.rows_of_field(well)
    px = view.view.to_px(session.map_coordinates())
    at = np.median(px[rows], axis=0)
    t = np.linspace(0, 2 * np.pi, 48)
    path = (at + radius_px * np.c_[np.cos(t), np.sin(t)]).astype(int)
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[0])))
    for x, y in path[1:]:
        qtbot.mouseMove(view, QPoint(int(x), int(y)))
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[-1])))
    return set(session.cells.obs_names[session.selected])


def test_the_count_line_tells_the_selection(explore, qtbot) -> None:
    session = explore.session
    assert explore.count.text() == f"0 of {session.n_visible:,} cells"
    chosen = lasso(explore, qtbot, "A12")
    assert len(chosen) > 5
    assert explore.count.text() == f"{len(chosen):,} of {session.n_visible:,} cells"
    assert explore.count.isVisible()
    hidden = session.n_cells - session.n_visible
    assert hidden > 0
    assert explore.flagged.text() == f"show {hidden:,} flagged"
    qtbot.mouseClick(explore.flagged, Qt.MouseButton.LeftButton, pos=QPoint(8, explore.flagged.height() // 2))
    assert explore.count.text() == f"{len(chosen):,} of {session.n_cells:,} cells"


def test_the_bar_tells_what_the_legend_hides(explore, qtbot) -> None:
    session, legend = explore.session, explore.map.legend
    session.colour_by = "well"
    n, inside = session.n_visible, int((session.counted & (session.cells.obs["well"] == "A12")).sum())
    assert not explore.hidden.isVisible()
    qtbot.mouseClick(legend, Qt.MouseButton.LeftButton, pos=legend.lines["A12"].center().toPoint())
    qtbot.waitUntil(lambda: explore.count.text() == f"0 of {n - inside:,} cells", timeout=20_000)
    assert explore.hidden.isVisible()
    assert explore.hidden.text() == f"show {inside:,} hidden"
    assert f"{inside:,} cells are hidden in the map's legend" in explore.count.toolTip()
    session.colour_by = "control"
    qtbot.mouseClick(explore.hidden, Qt.MouseButton.LeftButton)
    assert session.n_visible == n
    assert not explore.hidden.isVisible()


@pytest.mark.parametrize(("name", "n"), [("density", 4), ("clouds", 9)])
def test_what_is_drawn_is_chosen_in_the_menu(explore, qtbot, name, n) -> None:
    explore.session.colour_by = "well"
    menu, action = explore.shown.menu(), getattr(explore, name)
    menu.popup(explore.shown.mapToGlobal(QPoint(0, explore.shown.height())))
    qtbot.waitUntil(menu.isVisible, timeout=20_000)
    qtbot.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(action).center())
    assert action.isChecked()
    qtbot.waitUntil(lambda: len(getattr(explore.map, name).contours) == n, timeout=20_000)


@pytest.fixture
def two(explore, project, qtbot):
    """Two maps: the second shows components, of which twenty cells have none."""
    cells = project.cells
    x = np.nan_to_num(cells.obsm["X_measured"][:, :4])
    x[::20] = np.nan
    cells.obsm["X_pca_measured"] = x
    project.write_cells(cells)
    explore.session.reload()
    qtbot.mouseClick(explore.two, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: explore.second.map.width() > 200, timeout=20_000)
    explore.second.map.grab()
    return explore


def owners(view) -> set[int]:
    view.grab()
    return set(np.unique(view.raster.owner[view.raster.owner >= 0]).tolist())


def test_two_maps_share_all_but_the_place(two, qtbot) -> None:
    session, first, second = two.session, two.map, two.second.map
    assert second.place.name == "PCA 1 · 2"
    assert two.second.choice.currentText() == "measured · PCA 1 · 2"
    at = session.map_coordinates(second.place)
    assert not np.allclose(at, session.map_coordinates(), equal_nan=True)
    px = second.view.to_px(at)
    middle = np.nanmedian(px, axis=0)
    t = np.linspace(0, 2 * np.pi, 48)
    path = (middle + 40 * np.c_[np.cos(t), np.sin(t)]).astype(int)
    before = first.view
    qtbot.mousePress(second, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[0])))
    for x, y in path[1:]:
        qtbot.mouseMove(second, QPoint(int(x), int(y)))
    qtbot.mouseRelease(second, Qt.MouseButton.LeftButton, pos=QPoint(*map(int, path[-1])))
    inside = MplPath(path).contains_points(np.nan_to_num(px, nan=1e9)) & session.visible
    assert inside.sum() > 10
    assert (session.selected == inside).all()
    assert not session.selected[::20].any()  # they are not on this map
    first.grab()
    on_first = np.unique(first.raster.chosen[first.raster.chosen >= 0])
    assert len(on_first)
    assert session.selected[on_first].all()
    assert first.view is before

    session.colour_by = "well"
    assert (first.colours.codes == second.colours.codes).all()
    assert second.legend.isHidden()
    session.hide_values("well", ["A12"])
    shown = set(np.flatnonzero(session.visible).tolist())
    assert owners(first) <= shown
    assert owners(second) <= shown
    plain = second.grab().toImage()
    session.set_hover(next(iter(owners(second))))
    assert second.grab().toImage() != plain
    for name, button in two.tools.items():
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        assert first.tool == second.tool == name
    two.density.setChecked(True)
    two.clouds.setChecked(True)
    for view in (first, second):
        qtbot.waitUntil(
            lambda view=view: bool(view.density.contours and view.clouds.contours), timeout=20_000
        )


def test_the_second_map_is_chosen_closed_and_remembered(two, qtbot) -> None:
    session, second = two.session, two.second
    n, choices = (
        len(session.selection_changed),
        [second.choice.itemText(i) for i in range(second.choice.count())],
    )
    *of_maps, bare = choices
    assert of_maps == ["measured · UMAP", "measured · PCA 1 · 2", "measured · PCA 3 · 4"]
    assert bare == "bare · UMAP (to be made)"
    choose(second.choice, "PCA 3 · 4")
    assert np.allclose(second.map.coordinates(), session.cells.obsm["X_pca_measured"][:, 2:4], equal_nan=True)
    view = two.map.view
    two.map.view = moved = View(view.centre, view.scale * 3, view.size)
    qtbot.mouseClick(second.close_it, Qt.MouseButton.LeftButton)
    assert two.second is None
    assert not two.two.isChecked()
    assert len(session.selection_changed) == n - 1
    qtbot.waitUntil(lambda: two.map.width() > moved.size[0], timeout=20_000)
    assert two.map.view.centre == moved.centre
    session.select([1, 2, 3])  # would raise in a dead widget
    qtbot.mouseClick(two.two, Qt.MouseButton.LeftButton)
    assert two.second.place.name == "PCA 3 · 4"
    qtbot.waitUntil(lambda: two.map.width() == moved.size[0], timeout=20_000)
    assert two.map.view.scale == pytest.approx(moved.scale)
    session.embedding = "bare"  # which has no map; the second one stays what it is
    assert two.second.place.embedding == "measured"


def test_the_second_map_lives_without_its_coordinates(two, project, qtbot) -> None:
    session, second = two.session, two.second
    cells = project.cells
    components = cells.obsm["X_pca_measured"].copy()
    del cells.obsm["X_pca_measured"]
    project.write_cells(cells)
    session.reload()
    assert second.place.name == "UMAP"
    project.write_cells(cells[:0].copy())
    session.reload()
    assert second.map.grab()
    session.open(None)
    assert not second.choice.isEnabled()
    cells.obsm["X_pca_measured"] = components
    project.write_cells(cells)
    session.open(project)
    assert second.choice.count() == 4
    assert second.map.has_map


@pytest.mark.parametrize("vectors", ["none", pytest.param("some", marks=pytest.mark.slow)])
def test_a_map_that_is_not_there_is_made_when_it_is_chosen(two, project, qtbot, vectors) -> None:
    """Without vectors it cannot be made, which is said, and what was shown stays."""
    session, second = two.session, two.second
    cells = project.cells
    x = np.full((cells.n_obs, 5), np.nan, np.float32)
    if vectors == "some":
        x[:150] = np.random.default_rng(0).normal(size=(150, 5))
    cells.obsm["X_late"] = x
    project.write_cells(cells)
    session.reload()
    place, chosen = second.place, session.selected.copy()
    last = second.choice.itemText(second.choice.count() - 1)
    assert last == "late · UMAP (to be made)"
    try:
        choose(second.choice, last)
        assert second.choice.currentText() == "late · UMAP (being made…)"
        assert second.place == place  # until it is there
        if vectors == "none":
            qtbot.waitUntil(lambda: "No cell with a vector of late" in two.viewer.status, timeout=60_000)
            assert second.place == place
            assert second.choice.currentText() == "measured · PCA 1 · 2"
            assert second.choice.itemText(second.choice.count() - 1) == last
        else:
            qtbot.waitUntil(lambda: second.place.embedding == "late", timeout=180_000)
            assert second.choice.currentText() == "late · UMAP"
            assert np.isfinite(session.map_coordinates(second.place)).all(axis=1).sum() <= 150
            assert session.embedding == "measured"  # the first map stays as it is
            assert two.map.place is None
        assert (session.selected == chosen).all()
    finally:
        _runner.runner_of(two.viewer).close()


def test_keys_undo_and_redo(explore, qtbot) -> None:
    session = explore.session
    first = lasso(explore, qtbot, "A12")
    second = lasso(explore, qtbot, "A01")
    assert first
    assert second
    assert first != second

    def chosen() -> set[str]:
        return set(session.cells.obs_names[session.selected])

    ctrl, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    explore.map.setFocus()
    explore.activateWindow()
    qtbot.keyClick(explore.map, Qt.Key.Key_Z, ctrl)
    assert chosen() == first
    qtbot.keyClick(explore.map, Qt.Key.Key_Z, ctrl)
    assert chosen() == set()
    qtbot.keyClick(explore.map, Qt.Key.Key_Z, ctrl | shift)
    qtbot.keyClick(explore.map, Qt.Key.Key_Z, ctrl | shift)
    assert chosen() == second
    assert not explore.redo.isEnabled()
    qtbot.keyClick(explore.map, Qt.Key.Key_Escape)
    assert chosen() == set()


def test_buttons(explore, qtbot) -> None:
    session = explore.session
    chosen = lasso(explore, qtbot, "A12")
    qtbot.mouseClick(explore.invert, Qt.MouseButton.LeftButton)
    assert session.n_selected == session.n_visible - len(chosen)
    qtbot.mouseClick(explore.undo, Qt.MouseButton.LeftButton)
    assert set(session.cells.obs_names[session.selected]) == chosen
    qtbot.mouseClick(explore.clear, Qt.MouseButton.LeftButton)
    assert session.n_selected == 0
    assert not explore.clear.isEnabled()
    for name, button in explore.tools.items():
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        assert explore.map.tool == name
        assert button.isChecked()


def test_colour_and_map_are_chosen_here(explore, qtbot) -> None:
    session = explore.session
    explore.colour.setFocus()
    explore.colour.setCurrentIndex(explore.colour.findData("control"))
    assert session.colour_by == "control"
    assert [t for t, _ in explore.map.colours.legend] == ["-1", "1"]
    explore.colour.setCurrentIndex(explore.colour.findData("brightness"))
    assert explore.map.colours.legend == ()
    session.colour_by = "group"  # and the other way
    assert explore.colour.currentData() == "group"
    assert "UMAP" in explore.embedding.currentText()


class FakeHandle(QObject):
    finished, failed, stopped = Signal(object), Signal(str), Signal()


def test_without_a_map_a_button_makes_one(explore, qtbot, monkeypatch, project) -> None:
    sent, handle = [], FakeHandle()

    class Runner:
        def submit(self, step, root, **kwargs):
            sent.append((step, root, kwargs))
            return handle

    monkeypatch.setattr(_runner, "runner_of", lambda viewer: Runner())
    session = explore.session
    explore.embedding.setCurrentIndex(explore.embedding.findData("bare"))
    assert session.embedding == "bare"
    assert explore.map_it.isVisible()
    assert explore.map_it.text() == f"Map {session.n_cells:,} cells"
    qtbot.mouseClick(explore.map_it, Qt.MouseButton.LeftButton)
    assert not explore.map_it.isEnabled()
    step, root, kwargs = sent[0]
    assert (step, root, kwargs["recipe"], kwargs["embedding"]) == (
        "analyze.analyze",
        project.root,
        "map",
        "bare",
    )
    handle.failed.emit("There are too few cells for a map.")
    assert explore.nothing.text() == "There are too few cells for a map."
    assert explore.map_it.isEnabled()
    cells = project.cells
    cells.obsm["X_umap_bare"] = cells.obsm["X_bare"].copy()
    project.write_cells(cells)
    handle.read = kwargs["job_reads"](None)  # as the runner does when the job has ended
    handle.finished.emit(None)
    assert explore.map.isVisible()
    assert not explore.map_it.isVisible()


def test_every_empty_state_has_words(viewer, project, qtbot) -> None:
    session = session_of(viewer)
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom")
    assert "No project is open" in widget.nothing.text()
    cells = project.cells
    for key in list(cells.obsm):
        del cells.obsm[key]
    project.write_cells(cells)
    session.open(project)
    assert "no embedding yet" in widget.nothing.text()
    assert f"{session.n_cells:,}" in widget.nothing.text()
    assert not widget.map_it.isVisible()
    project.write_cells(cells[:0].copy())
    session.reload()
    assert "no cells yet" in widget.nothing.text()
    session.open(None)
    assert "No project is open" in widget.nothing.text()


def test_the_map_follows_the_theme(viewer, explore, qtbot) -> None:
    dark = explore.map.grab().toImage().pixelColor(5, explore.map.height() - 5)
    viewer.theme = "light"
    light = explore.map.grab().toImage().pixelColor(5, explore.map.height() - 5)
    assert dark.lightness() < 80
    assert light.lightness() > 180


def test_a_set_is_saved_under_a_name(explore, qtbot, monkeypatch) -> None:
    chosen = lasso(explore, qtbot, "A12")
    asked: list[QLineEdit] = []
    monkeypatch.setattr(_explore, "QInputDialog", type("Dialog", (QInputDialog,), {
        "getText": staticmethod(lambda *args: (asked.append(args) or "bright", True)),
    }))  # fmt: skip
    qtbot.mouseClick(explore.save, Qt.MouseButton.LeftButton)
    assert asked
    assert set(explore.session.sets["bright"]["cells"]) == chosen
    assert explore.session.sets["bright"]["how"]["embedding"] == "measured"


def test_closing_the_dock_leaves_no_listener(viewer, project, qtbot) -> None:
    session = session_of(viewer)
    session.open(project)
    widget = ExploreWidget(viewer)
    one = len(session.selection_changed)
    dock = viewer.window.add_dock_widget(widget, area="bottom")
    widget.two.setChecked(True)
    n = len(session.selection_changed)
    assert n == one + 1
    viewer.window.remove_dock_widget(dock)
    widget.deleteLater()
    qtbot.waitUntil(lambda: len(session.selection_changed) < one, timeout=20_000)
    del widget
    session.select([0, 1, 2, 3])  # would raise in a dead widget
    session.colour_by = "control"
    viewer.theme = "light"


def test_find_selects_by_a_word(explore, qtbot) -> None:
    session = explore.session
    qtbot.keyClicks(explore.search, "ly294002")
    qtbot.keyClick(explore.search, Qt.Key.Key_Return)
    compound = session.cells.obs["compound"].astype(str)
    assert set(session.cells.obs_names[session.selected]) == set(
        compound.index[session.visible & (compound == "LY294002")]
    )
    explore.search.setText("no such thing")
    qtbot.keyClick(explore.search, Qt.Key.Key_Return)
    assert "No cell says" in explore.viewer.status
    assert session.n_selected > 0


def test_digits_put_the_selection_into_sets(explore, qtbot, monkeypatch) -> None:
    session = explore.session
    rows = np.flatnonzero(session.visible)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_: ("bright", True))
    explore.map.setFocus()
    session.select(rows[:3])
    qtbot.keyClick(explore.map, Qt.Key.Key_1)  # there is none yet: it is asked for a name
    session.select(rows[2:5])
    qtbot.keyClick(explore.map, Qt.Key.Key_1)
    assert session.sets["bright"]["cells"] == session.cells.obs_names[rows[:5]].tolist()
    explore._fill_sets()
    (one,) = [a.menu() for a in explore.sets.menu().actions() if a.menu()]
    assert "bright  (5)" in one.title()
    undo = Qt.KeyboardModifier.ControlModifier
    redo = undo | Qt.KeyboardModifier.ShiftModifier
    qtbot.keyClick(explore.map, Qt.Key.Key_Z, undo)
    assert session.sets["bright"]["cells"] == session.cells.obs_names[rows[:3]].tolist()
    assert explore.viewer.status == "“bright” has 3 cells again."
    assert session.selected[rows[2:5]].all()  # the selection was not touched by it
    for _ in range(2):
        qtbot.keyClick(explore.map, Qt.Key.Key_Z, undo)
    assert session.selected[rows[:3]].all()
    assert not session.sets
    assert explore.viewer.status == "There is no set “bright” now."
    for _ in range(3):
        qtbot.keyClick(explore.map, Qt.Key.Key_Z, redo)
    assert len(read_sets(session.project.root)["bright"]["cells"]) == 5
    assert not explore.redo.isEnabled()
    session.clear()
    one.actions()[0].trigger()
    assert session.n_selected == 5
    next(a for a in one.actions() if a.text() == "Forget this set").trigger()
    assert not session.sets
    explore.search.setFocus()
    qtbot.keyClicks(explore.search, "12")  # digits typed into a word are only typed
    assert explore.search.text() == "12"
    assert not session.sets


def test_zero_puts_the_selection_into_any_set_by_its_first_letters(explore, qtbot) -> None:
    session = explore.session
    rows = np.flatnonzero(session.visible)
    for i in range(11):  # more than there are digits
        session.select(rows[i : i + 1])
        session.save_set(f"kind {'abcdefghijk'[i]}")
    session.select(rows[20:23])

    def type_into(words: str) -> None:
        explore.map.setFocus()

        def answer() -> None:
            dialog = QApplication.activeModalWidget()
            if dialog is None:
                QTimer.singleShot(50, answer)
                return
            line = dialog.findChild(QLineEdit)
            qtbot.keyClicks(line, words)
            qtbot.keyClick(line, Qt.Key.Key_Return)
            if QApplication.activeModalWidget() is dialog:
                qtbot.keyClick(dialog, Qt.Key.Key_Return)

        QTimer.singleShot(50, answer)
        qtbot.keyClick(explore.map, Qt.Key.Key_0)

    type_into("kind k")
    ids = session.cells.obs_names
    assert session.sets["kind k"]["cells"] == ids[[rows[10], *rows[20:23]]].tolist()
    assert explore.viewer.status == "3 cells in “kind k”, which has 4."
    type_into("kind")  # completed: the first that begins so
    assert len(session.sets["kind a"]["cells"]) == 4
    type_into("mitotic")
    assert session.sets["mitotic"]["cells"] == ids[rows[20:23]].tolist()
    session.clear()
    qtbot.keyClick(explore.map, Qt.Key.Key_0)  # asks nothing: there is nothing to put anywhere
    assert "Select cells first" in explore.viewer.status


def test_the_menu_of_a_cell_finds_similar_ones_and_puts_it_into_sets(explore, qtbot, monkeypatch) -> None:
    session, canvas = explore.session, canvas_of(explore.viewer)
    rows = np.flatnonzero(session.visible)
    row = int(rows[7])

    def chosen(words: str):
        menu = canvas.open_menu(row)
        found = {a.text(): a for a in menu.actions()}
        found.update(
            (a.text(), a) for a in found[next(t for t in found if t.startswith("Add"))].menu().actions()
        )
        menu.hide()
        return found[words]

    chosen("Find similar cells").trigger()
    gallery = explore.view("Gallery")
    assert explore.tabs.tabText(explore.tabs.currentIndex()) == "Gallery"
    qtbot.waitUntil(lambda: bool(gallery.grid.sections) and gallery.grid.sections[0].rows[0] == row)
    assert np.flatnonzero(session.selected).tolist() == [row]
    monkeypatch.setattr(QInputDialog, "getText", lambda *_: ("bright", True))
    chosen("A new set…").trigger()
    assert session.sets["bright"]["cells"] == [session.cell_id(row)]
    session.select(rows[:3])  # the cell is not among them: only it is meant
    chosen("bright").trigger()
    assert session.sets["bright"]["cells"] == [session.cell_id(row)]
    session.select(rows[5:9])
    assert chosen("Add the 4 selected cells to set")
    chosen("bright").trigger()
    assert len(session.sets["bright"]["cells"]) == 4


def test_the_tool_bar_takes_two_lines_where_one_is_too_wide(explore, qtbot) -> None:
    window = explore.window()
    window.resize(1280, 780)
    qtbot.wait(50)
    assert window.width() == 1280  # no panel of ours makes napari wider than a small screen
    bar = explore.embedding.parentWidget()
    places = {}
    for width in (2000, 700):
        bar.setFixedWidth(width)
        qtbot.waitUntil(lambda width=width: bar.width() == width)
        tops = (explore.colour, explore.save)
        qtbot.waitUntil(lambda: (explore.colour.y() < explore.save.y() - 10) == (width == 700))  # noqa: B023
        places[width] = [widget.geometry() for widget in tops]
    assert all(place.right() <= 700 for place in places[700])


@pytest.mark.parametrize(("kind", "plain"), [(ChoiceBox, QComboBox), (Line, QLabel)])
def test_words_that_do_not_fit_end_with_dots(qtbot, kind, plain):
    words = "closer to A or to B (paired cell inpainting)"

    def shown(kind, width):
        part = kind()
        qtbot.addWidget(part)
        part.addItem(words) if isinstance(part, QComboBox) else part.setText(words)
        part.resize(width, 30)
        return part, part.grab().toImage()

    assert shown(kind, 150)[1] != shown(plain, 150)[1]
    assert shown(kind, 900)[1] == shown(plain, 900)[1]  # all of it where there is room
    if kind is Line:
        assert shown(kind, 150)[0].toolTip() == words
        assert shown(kind, 900)[0].toolTip() == ""


def test_a_view_in_a_low_panel_scrolls(explore, qtbot) -> None:
    view = explore.view("Odd cells")
    shelf = explore.tabs.currentWidget()
    shelf.setFixedHeight(110)
    qtbot.waitUntil(lambda: shelf.height() == 110)
    assert view.height() >= view.minimumSizeHint().height() > 110
    assert shelf.verticalScrollBar().maximum() > 0


def test_each_view_opens_when_it_is_looked_at(explore, qtbot) -> None:
    for view in _explore.VIEWS:
        made = explore.view(view.title)
        assert type(made) is view
        assert explore.view(view.title) is made
        assert not made.grab().isNull()


@pytest.mark.slow
def test_a_set_is_mapped_alone_on_the_second_map(explore, qtbot) -> None:
    session = explore.session
    session.select(np.flatnonzero(session.visible)[:40])
    session.save_set("some")
    explore.sets.menu().aboutToShow.emit()
    one = next(a.menu() for a in explore.sets.menu().actions() if a.menu() and a.text().startswith("some"))
    next(a for a in one.actions() if a.text() == "Map its cells alone").trigger()
    qtbot.waitUntil(lambda: explore.second is not None, timeout=180_000)
    place = explore.second.map.place
    assert place.name == "UMAP of some"
    assert np.isfinite(session.map_coordinates(place)).all(axis=1).sum() == 40
    assert set(session.cells.obs_names[session.selected]) == set(session.sets["some"]["cells"])
    _runner.runner_of(explore.viewer).close()


def test_a_set_records_how_its_cells_were_chosen(explore, qtbot, monkeypatch) -> None:
    session = explore.session
    lasso(explore, qtbot, "A12")
    assert session.how == f"lasso on the map of {session.embedding}"
    explore.search.setText("E12")
    explore.search.setFocus()
    monkeypatch.setattr(QApplication, "keyboardModifiers", lambda: Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClick(explore.search, Qt.Key.Key_Return)
    monkeypatch.undo()
    words = f"lasso on the map of {session.embedding}, and found by “E12”"
    assert session.how == words
    qtbot.mouseClick(explore.undo, Qt.MouseButton.LeftButton)
    assert session.how == f"lasso on the map of {session.embedding}"
    qtbot.mouseClick(explore.redo, Qt.MouseButton.LeftButton)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("many", True))
    qtbot.mouseClick(explore.save, Qt.MouseButton.LeftButton)
    how = read_sets(session.project.root)["many"]["how"]
    assert how["made"] == words
    assert how["embedding"] == session.embedding
    other = int(np.flatnonzero(session.visible & ~session.selected)[0])
    session.select([other], how="click on A01:1")
    session.add_to_set("many")
    assert read_sets(session.project.root)["many"]["how"]["made"] == f"{words}; added: click on A01:1"
    explore._fill_sets()
    said = [action.text() for action in explore.sets.menu().actions()[0].menu().actions()]
    assert said[-1].startswith(words[:60])
    assert said[-1].endswith(how["when"])
