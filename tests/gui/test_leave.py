"""Leave a project and return: everything is as it was, and a project that was only looked at is not written to."""

import json
import logging
import shutil

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_cellrep.data import open_project
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._leave import read_view
from napari_cellrep.gui._state import session_of

LONG = 60_000
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def session(viewer, project):
    session = session_of(viewer)
    canvas_of(viewer)
    session.open(project)
    return session


@pytest.fixture
def explore(viewer, session, qtbot):
    return explored(viewer, qtbot)


def explored(viewer, qtbot):
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    return widget


def opened(qtbot, canvas, field_id):
    canvas.show(field_id)
    qtbot.waitUntil(lambda: canvas.field == field_id, timeout=LONG)


def kept(project):
    return json.loads((project.root / "view.json").read_text("utf-8"))


@pytest.mark.slow
def test_all_of_it_comes_back(explore, session, project, viewer, qtbot):
    canvas = canvas_of(viewer)
    opened(qtbot, canvas, "A12")
    session.embedding, session.colour_by = "measured", "brightness"
    qtbot.mouseClick(explore.flagged, LEFT)
    qtbot.mouseClick(explore.tools["rectangle"], LEFT)
    qtbot.mouseClick(explore.in_image, LEFT)
    gallery = explore.view("Gallery")
    gallery.order.setCurrentText("area px")
    gallery.which.setCurrentText("selected cells")
    explore.view("Tree").joining.setCurrentText("Ward")
    explore.view("Table")
    viewer.layers["DNA"].contrast_limits = (120, 900)
    viewer.layers["DNA"].colormap = "magenta"
    viewer.layers["FKHR-GFP"].visible = False
    session.hide_values("compound", ["LY294002"])
    session.set_colour_limits("brightness", (-0.5, 1.25))
    explore.density.setChecked(True)
    qtbot.mouseClick(explore.two, LEFT)
    session.open(None)

    assert not (
        set(kept(project)["explore"]["views"]["Gallery"]) & {"which"}
    )  # the selection is gone by then
    session.hide_flagged, session.colour_by = True, ""
    explore.view("Plate")
    gallery.order.setCurrentText("random")
    explore.density.setChecked(False)
    qtbot.mouseClick(explore.two, LEFT)
    assert explore.second is None
    session.open(open_project(project.root))
    assert session.hidden == {"compound": {"LY294002"}}
    assert not session.visible[session.rows_of_field("E12")].any()
    assert session.limits == {"brightness": (-0.5, 1.25)}
    assert explore.density.isChecked()
    assert not explore.clouds.isChecked()
    assert explore.second is not None
    assert (session.embedding, session.colour_by, session.hide_flagged) == ("measured", "brightness", False)
    assert explore.map.tool == "rectangle"
    assert explore.tools["rectangle"].isChecked()
    assert explore.in_image.isChecked()
    assert explore.tabs.tabText(explore.tabs.currentIndex()) == "Table"
    assert gallery.order.currentText() == "area px"
    assert explore.view("Tree").joining.currentText() == "Ward"
    assert canvas.leaving.field == "A12"
    opened(qtbot, canvas, canvas.leaving.field)
    assert tuple(viewer.layers["DNA"].contrast_limits) == (120, 900)
    assert viewer.layers["DNA"].colormap.name == "magenta"
    assert not viewer.layers["FKHR-GFP"].visible
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None, timeout=LONG)


def test_another_window_finds_it_as_it_was_left(explore, session, project, viewer, qtbot, make_napari_viewer):
    canvas = canvas_of(viewer)
    opened(qtbot, canvas, "E12")
    viewer.layers["DNA"].contrast_limits = (50, 800)
    canvas.coloured = True
    qtbot.waitUntil(lambda: canvas.layer("colours") is not None, timeout=LONG)
    explore.view("Table")
    canvas.background.close()
    viewer.close()
    found = kept(project)
    assert found["field"] == "E12"
    assert found["coloured"] is True
    assert found["channels"]["DNA"]["contrast"] == [50, 800]
    assert found["explore"]["tab"] == "Table"
    assert "FKHR-GFP" not in found["channels"]

    other = make_napari_viewer(show=True)
    session_of(other).open(open_project(project.root))
    widget = explored(other, qtbot)
    assert widget.tabs.tabText(widget.tabs.currentIndex()) == "Table"
    assert canvas_of(other).leaving.field == "E12"
    assert canvas_of(other).coloured
    canvas_of(other).close()


def grown_tree(explore, qtbot):
    """The tree, with wells at two ends of a column joined so that there is something to cut."""
    tree = explore.view("Tree")
    tree.rows_of.setCurrentIndex(tree.rows_of.findData("field"))
    qtbot.waitUntil(lambda: tree.plot.shown is not None and tree.plot.shown.by == "field", timeout=LONG)
    return tree


def branches(tree):
    shown = tree.plot.shown
    return [sorted(shown.names[leaf] for leaf in tree.plot.branch(i)) for i in range(tree.plot.n_branches)]


def test_the_tree_comes_back_as_it_was_cut(
    explore, session, project, viewer, qtbot, make_napari_viewer_proxy
):
    session.embedding = "measured"
    tree = grown_tree(explore, qtbot)
    by_rule = tree.cut_at.value()
    for key in (Qt.Key.Key_Home, Qt.Key.Key_PageUp):  # nearly at the root's far end: every leaf by itself
        tree.cut_at.setFocus()
        qtbot.keyClick(tree.cut_at, key)
    tree.line.setFocus()
    qtbot.keyClick(tree.line, Qt.Key.Key_PageUp)
    cut, line, parts = tree.cut_at.value(), tree.line.value(), branches(tree)
    assert cut != by_rule
    assert len(parts) == 3
    explore.view("Table")
    session.open(None)

    assert tree.plot.shown is None
    session.open(open_project(project.root))
    stamp = (project.root / "view.json").stat().st_mtime_ns
    tree = explore.view("Tree")
    qtbot.waitUntil(lambda: tree.plot.shown is not None, timeout=LONG)
    assert tree.rows_of.currentData() == "field"
    assert (tree.cut_at.value(), tree.line.value(), branches(tree)) == (cut, line, parts)
    assert tree.plot._line == line
    # Another tree is cut by the rule; the same one again as it was cut.
    tree.joining.setCurrentText("Ward")
    qtbot.waitUntil(lambda: tree.plot.shown.linkage == "ward", timeout=LONG)
    assert len(branches(tree)) == 2
    tree.joining.setCurrentText("average")
    qtbot.waitUntil(lambda: tree.plot.shown.linkage == "average", timeout=LONG)
    assert (tree.cut_at.value(), branches(tree)) == (cut, parts)
    explore.view("Table")
    session.open(None)
    assert (project.root / "view.json").stat().st_mtime_ns == stamp

    other = make_napari_viewer_proxy(show=True)
    session_of(other).open(open_project(project.root))
    tree = explored(other, qtbot).view("Tree")
    qtbot.waitUntil(lambda: tree.plot.shown is not None and tree.plot.shown.by == "field", timeout=LONG)
    assert (tree.cut_at.value(), tree.line.value(), branches(tree)) == (cut, line, parts)
    canvas_of(other).close()


def test_the_tree_of_other_cells_is_cut_by_the_rule(explore, session, project, viewer, qtbot):
    session.embedding = "measured"
    tree = grown_tree(explore, qtbot)
    tree.cut_at.setFocus()
    qtbot.keyClick(tree.cut_at, Qt.Key.Key_Home)
    assert len(branches(tree)) == 3
    session.open(None)
    cells = project.cells
    cells.obsm["X_measured"][cells.obs["field"] == "A12"] *= -3
    project.write_cells(cells)
    session.open(open_project(project.root))
    qtbot.waitUntil(lambda: tree.plot.shown is not None and tree.plot.shown.by == "field", timeout=LONG)
    assert len(branches(tree)) == 2


@pytest.mark.slow
def test_the_image_is_seen_as_it_was_left(explore, session, project, viewer, qtbot, make_napari_viewer_proxy):
    canvas = canvas_of(viewer)
    opened(qtbot, canvas, "E12")
    camera = viewer.scene.camera
    whole = canvas.camera()
    at = viewer.__wrapped__.window._qt_viewer.canvas.native
    wheel(at, QPointF(at.width() * 0.3, at.height() * 0.6), 3)
    qtbot.waitUntil(lambda: camera.zoom > 1.1 * whole[2])
    left = canvas.camera()
    assert left[:2] != pytest.approx(whole[:2], rel=1e-3)
    session.open(None)
    assert kept(project)["camera"] == left
    stamp = (project.root / "view.json").stat().st_mtime_ns
    session.open(open_project(project.root))
    opened(qtbot, canvas, canvas.leaving.field)
    assert canvas.field == "E12"
    assert canvas.camera() == pytest.approx(left)
    session.open(None)
    assert (project.root / "view.json").stat().st_mtime_ns == stamp

    other = make_napari_viewer_proxy(show=True)
    session_of(other).open(open_project(project.root))
    canvas = canvas_of(other)
    opened(qtbot, canvas, canvas.leaving.field)
    assert canvas.camera() == pytest.approx(left)
    opened(qtbot, canvas, "A01")  # the part that is seen stays while fields of one size follow each other
    assert canvas.camera() == pytest.approx(left)
    canvas.close()


def wheel(widget, at, notches):
    """Turn the wheel away from oneself over a point."""
    for _ in range(notches):
        event = QWheelEvent(
            at, QPointF(widget.mapToGlobal(at.toPoint())), QPoint(0, 0), QPoint(0, 120),
            Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(widget, event)
        QApplication.processEvents()


@pytest.mark.slow
def test_another_field_than_the_one_left_is_seen_whole(explore, session, project, viewer, qtbot):
    canvas = canvas_of(viewer)
    opened(qtbot, canvas, "E12")
    whole = canvas.camera()
    viewer.scene.camera.zoom = 5 * whole[2]
    session.open(None)
    session.open(project)
    opened(qtbot, canvas, "A01")
    assert canvas.camera()[2] == pytest.approx(whole[2])
    for camera in ([1, 2], [1, 2, -3], "x", [1, float("nan"), 2]):
        session.open(None)
        (project.root / "view.json").write_text(json.dumps({"format": 1, "field": "A12", "camera": camera}))
        session.open(project)
        opened(qtbot, canvas, "A12")
        assert canvas.camera()[2] == pytest.approx(whole[2])


def test_looking_writes_nothing(explore, session, project, viewer, qtbot):
    before = sorted(p.name for p in project.root.iterdir())
    canvas = canvas_of(viewer)
    opened(qtbot, canvas, canvas.leaving.field)
    session.select([0, 1, 2])
    session.set_focus(int(session.rows_of_field(canvas.field)[0]))
    QApplication.processEvents()
    session.open(None)
    assert not (project.root / "view.json").exists(), kept(project)
    assert sorted(p.name for p in project.root.iterdir()) == before
    session.open(project)
    session.colour_by = "area_px"
    session.open(None)
    stamp = (project.root / "view.json").stat().st_mtime_ns
    session.open(project)
    assert session.colour_by == "area_px"
    opened(qtbot, canvas, canvas.leaving.field)
    session.open(None)
    assert (project.root / "view.json").stat().st_mtime_ns == stamp


def test_the_panel_may_be_closed_before_the_project(explore, session, project, viewer, qtbot):
    explore.view("Plate")
    explore.parent().hide()
    viewer.window.remove_dock_widget(explore.parent())
    QApplication.processEvents()
    session.open(None)
    assert kept(project)["explore"]["tab"] == "Plate"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[1]", "something else"),
        ('{"format": "99", "colour_by": "area_px"}', "something else"),
        ("\x00\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_none_of_ours_is_left_aside(explore, session, project, caplog, text, said):
    session.open(None)
    (project.root / "view.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        session.open(project)
    assert said in caplog.text
    assert session.colour_by == "control" or session.colour_by in session.colour_choices


def test_what_does_not_fit_any_more_is_left_out(explore, session, project, viewer, qtbot, caplog):
    session.open(None)
    view = {
        "format": 1, "embedding": "gone", "colour_by": ["no"], "hide_flagged": "no", "coloured": 3, "field": "Z99",
        "channels": {"DNA": {"contrast": [9, 2], "colormap": "nope", "gamma": "x", "opacity": -3, "visible": 1}, "FKHR-GFP": 7},
        "explore": {"tab": "Nowhere", "tool": 5, "split": "x", "dock": [3, "x"], "seen": ["measured", "", 1, 2, 0, 5, 5],
                    "views": {"Gallery": {"order": "gone", "nope": 1}, "Tree": 3}},
    }  # fmt: skip
    (project.root / "view.json").write_text(json.dumps(view))
    with caplog.at_level(logging.WARNING):
        session.open(project)
        canvas = canvas_of(viewer)
        assert canvas.leaving.field == "A01"
        opened(qtbot, canvas, "A01")
    assert "contrast of channel DNA is left aside" in caplog.text
    low, high = viewer.layers["DNA"].contrast_limits
    assert low < high
    assert session.hide_flagged
    assert not canvas.coloured
    for part in ("channels", "explore"):
        view[part] = "x"
    session.open(None)
    (project.root / "view.json").write_text(json.dumps(view))
    session.open(project)
    session.open(None)


def test_a_project_that_cannot_be_written_or_is_gone_is_left_alone(
    explore, session, project, monkeypatch, caplog
):
    monkeypatch.setattr("napari_cellrep.gui._leave.os.access", lambda *_: False)
    session.colour_by = "area_px"
    with caplog.at_level(logging.INFO):
        session.open(None)
    assert "read-only" in caplog.text
    assert not (project.root / "view.json").exists()
    monkeypatch.undo()
    session.open(project)
    session.colour_by = "area_px"
    shutil.rmtree(project.root)
    session.open(None)
    assert not project.root.exists()


def test_sizes_and_where_the_map_was_looked_at_come_back(explore, session, project, viewer, qtbot):
    window, gallery, view = viewer.window.main_menu.window(), explore.view("Gallery"), explore.map
    odd = explore.view("Odd cells")
    explore.view("Gallery")
    qtbot.mouseClick(gallery.bar, LEFT)
    gallery.side.setFocus()
    qtbot.keyClick(gallery.side, Qt.Key.Key_PageUp)
    side = gallery.side.value()
    odd.n.setValue(7)
    view.setFocus()
    for key in (Qt.Key.Key_Plus, Qt.Key.Key_Plus, Qt.Key.Key_Right):
        qtbot.keyClick(view, key)
    seen = view.view
    before = explore.dock_px()
    dock = explore._dock()
    border = dock.mapTo(window, QPoint(dock.width() // 2, -2))  # between the panel and the image
    QTest.mousePress(window, LEFT, pos=border)
    where = QPointF(border - QPoint(0, 60))
    move = QMouseEvent(QEvent.Type.MouseMove, where, where, LEFT, LEFT, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(window, move)  # the window has the pointer while it is pressed
    qtbot.waitUntil(lambda: explore.dock_px()[1] >= before[1] + 50)
    QTest.mouseRelease(window, LEFT, pos=where.toPoint())
    as_left, part = explore.dock_px(), (view.view.centre, view.view.scale)
    assert part[0] == seen.centre
    session.open(None)

    found = kept(project)["explore"]
    assert found["dock"] == as_left
    assert found["views"]["Gallery"] == {"bar": True, "side": side}
    assert found["views"]["Odd cells"] == {"n": 7}
    qtbot.mouseClick(gallery.bar, LEFT)
    gallery.side.setValue(60)
    odd.n.setValue(20)
    window.resizeDocks([dock], [before[1]], Qt.Orientation.Vertical)
    qtbot.waitUntil(lambda: explore.dock_px() == before)
    session.open(open_project(project.root))
    qtbot.waitUntil(lambda: explore.dock_px() == as_left)
    assert (gallery.bar.isChecked(), gallery.grid.scale_bar, gallery.side.value()) == (True, True, side)
    assert odd.n.value() == 7
    qtbot.waitUntil(lambda: view.view.size == view._size())
    assert view.view.centre == pytest.approx(part[0])
    assert view.view.scale == pytest.approx(part[1])
    stamp = (project.root / "view.json").stat().st_mtime_ns
    viewer.window.resize(1200, 900)  # a window of another size is nothing that somebody did
    qtbot.waitUntil(lambda: explore.dock_px() != as_left)
    session.open(None)
    assert (project.root / "view.json").stat().st_mtime_ns == stamp
    session.open(project)
    qtbot.keyClick(view, Qt.Key.Key_Home)
    session.open(None)
    assert "seen" not in kept(project)["explore"]


def test_how_the_table_was_arranged_comes_back(explore, session, project, qtbot):
    table = explore.view("Table")
    column = list(table.model.frame.columns).index("area_px")
    header = table.table.horizontalHeader()
    table.table.scrollTo(table.model.index(0, column))
    at = QPoint(header.sectionViewportPosition(column) + 5, header.height() // 2)
    for _ in range(2):
        qtbot.mouseClick(header.viewport(), LEFT, pos=at)
    gone = next(
        a for a in table.column_menu().actions() if a.isChecked() and a.text().startswith("brightness")
    )
    gone.trigger()
    order = table.model.order.copy()
    assert "brightness" not in table.model.frame
    session.open(None)

    assert kept(project)["explore"]["views"]["Table"]["arrangement"]["column"] == "area_px"
    table._column, table._hidden = "", set()
    session.open(open_project(project.root))
    assert "brightness" not in table.model.frame
    np.testing.assert_array_equal(table.model.order, order)
    assert header.sortIndicatorOrder() == Qt.SortOrder.DescendingOrder
    stamp = (project.root / "view.json").stat().st_mtime_ns
    session.open(None)
    assert (project.root / "view.json").stat().st_mtime_ns == stamp


def test_nothing_kept_is_nothing_read(tmp_path):
    assert read_view(tmp_path) == {}


def test_the_second_map_comes_back_with_what_it_showed(explore, session, project, viewer, qtbot):
    session.embedding = "measured"
    qtbot.mouseClick(explore.two, LEFT)
    offered = [explore.second.choice.itemText(i) for i in range(explore.second.choice.count())]
    obsm = session.cells.obsm
    obsm["X_pca_measured"] = obsm["X_measured"][:, :4].copy()
    project.write_cells(session.cells)
    session.reload()
    box = explore.second.choice
    at = next(i for i in range(box.count()) if "PCA 3 · 4" in box.itemText(i))
    assert box.itemText(at) not in offered
    box.setCurrentIndex(at)
    box.activated.emit(at)
    place = explore.second.place
    assert place.axes == (2, 3)
    session.open(None)
    assert kept(project)["explore"]["second map"] == ["measured", "X_pca_measured", 2, 3]
    qtbot.mouseClick(explore.two, LEFT)
    explore._second_place = None
    session.open(open_project(project.root))
    assert explore.second is not None
    assert explore.second.place == place
    assert explore.second.choice.currentText().endswith("PCA 3 · 4")


def test_what_a_newer_version_kept_is_told_and_stays(explore, session, project, viewer, qtbot, monkeypatch):
    from napari_cellrep.gui import _leave

    told = []
    monkeypatch.setattr(_leave, "show_warning", told.append)
    session.open(None)
    view = project.root / "view.json"
    view.write_text(json.dumps({"format": 2, "colour_by": {"what comes": "later"}}), encoding="utf-8")
    before = view.read_bytes()
    session.open(open_project(project.root))
    assert len(told) == 1
    assert "newer version (format 2, this one reads up to 1)" in told[0]
    session.colour_by = "brightness"
    session.open(None)
    assert view.read_bytes() == before
