"""The gallery with real cells, real pictures and real events: which cell is where is all that counts."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QImage

from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._pictures import compose, default_look
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.gallery import AXIS, LIKE, ODD, PLATE, RANDOM, TYPICAL, GalleryView


@pytest.fixture
def gallery(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    view = GalleryView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    view.resize(700, 420)
    with qtbot.waitExposed(view):
        view.show()
    settled(qtbot, view)
    yield view
    view.disconnect_session()


def settled(qtbot, view):
    """Wait until the order is made and all pictures in sight are there."""

    def done():
        view.grid.viewport().update()
        looks, rows = view.canvas.looks(), [row for row, _ in view.grid.in_sight()]
        return bool(view.grid.sections) and all(view.grid.pictures.get(row, looks) for row in rows)

    qtbot.waitUntil(lambda: view.background._latest.get("order") is not None, timeout=20_000)
    qtbot.wait(50)
    qtbot.waitUntil(done, timeout=20_000)


def shown(view) -> list[int]:
    return [int(row) for section in view.grid.sections for row in section.rows]


def middle(view, row: int) -> QPoint:
    return next(place.center() for r, place in view.grid.in_sight() if r == row)


def test_all_visible_cells_are_there_and_only_those_in_sight_have_pictures(gallery):
    assert shown(gallery) == np.flatnonzero(gallery.session.visible).tolist()
    assert gallery.words.text() == f"{gallery.session.n_visible:,} cells."
    assert 0 < len(gallery.grid.pictures) < 80
    gallery.session.hide_flagged = False


def test_each_tile_is_its_own_cell(gallery, qtbot):
    """A tile shows the pixels about that cell's centre, cut by hand from its field."""
    session, looks = gallery.session, gallery.canvas.looks()
    for row, _ in gallery.grid.in_sight()[::7]:
        image: QImage = gallery.grid.pictures.get(row, looks)
        field, y, x = session.place(row)
        pixels = session.project.read_image(field)
        side = image.width()
        padded = np.pad(pixels, ((0, 0), (side, side), (side, side)))
        top, left = int(y) + side - side // 2, int(x) + side - side // 2
        window = padded[:, top : top + side, left : left + side]
        own = [default_look(c.role, p) for c, p in zip(session.project.channels, pixels, strict=True)]
        data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(side, -1)
        np.testing.assert_array_equal(
            data[:, : 3 * side].reshape(side, side, 3), compose(window, looks or tuple(own))
        )


def test_orders(gallery, qtbot):
    session = gallery.session
    visible = np.flatnonzero(session.visible)
    gallery.order.setCurrentText("area px")
    settled(qtbot, gallery)
    area = session.cells.obs["area_px"].to_numpy()
    assert shown(gallery) == visible[np.argsort(area[visible], kind="stable")].tolist()
    session.embedding = "measured"
    session.select([int(visible[40])])
    assert gallery.similar.isEnabled()
    qtbot.mouseClick(gallery.similar, Qt.MouseButton.LeftButton)
    settled(qtbot, gallery)
    assert gallery.order.currentText() == LIKE
    assert shown(gallery)[0] == visible[40]
    for order in (TYPICAL, ODD, RANDOM, PLATE):
        gallery.order.setCurrentText(order)
        settled(qtbot, gallery)
        assert sorted(shown(gallery)) == visible.tolist(), order


def test_the_oddest_of_every_group_come_first(gallery, qtbot):
    session = gallery.session
    session.embedding = "measured"
    gallery.order.setCurrentText(ODD)
    settled(qtbot, gallery)
    x, groups = session.cells.obsm["X_measured"], session.cells.obs["group"].to_numpy()
    first = shown(gallery)[:3]
    assert set(groups[first]) == set(groups)
    for row in first:
        own = np.flatnonzero(session.visible & (groups == groups[row]))
        z = (x[own] - x[own].mean(axis=0)) / x[own].std(axis=0)
        assert own[np.argmax((z**2).sum(axis=1))] == row


def test_selected_cells_along_what_varies_most_and_each_group_by_itself(gallery, qtbot):
    session = gallery.session
    session.embedding = "measured"
    x, groups = session.cells.obsm["X_measured"], session.cells.obs["group"].to_numpy()
    chosen = np.flatnonzero(session.visible)[::5]
    session.select(chosen)
    gallery.order.setCurrentText(AXIS)
    settled(qtbot, gallery)
    every = shown(gallery)
    assert sorted(every) == np.flatnonzero(session.visible).tolist()
    assert (np.diff(np.unique(groups, return_inverse=True)[1][every]) >= 0).all()
    assert gallery.words.text().endswith("of what varies most in each group.")
    gallery.which.setCurrentText("selected cells")
    settled(qtbot, gallery)
    z = (x[chosen] - x[chosen].mean(axis=0)) / x[chosen].std(axis=0)
    along = z @ np.linalg.svd(z, full_matrices=False)[2][0]
    found = chosen[np.argsort(along)].tolist()
    assert shown(gallery) in (found, found[::-1])
    assert gallery.words.text().endswith("of what varies most among them.")


def test_a_line_for_each_value(gallery, qtbot):
    gallery.by.setCurrentText("control")
    settled(qtbot, gallery)
    control = gallery.session.cells.obs["control"].to_numpy()
    assert len(gallery.grid.sections) == 2
    for section, value in zip(gallery.grid.sections, (-1, 1), strict=True):
        assert section.title.startswith(str(value))
        assert (control[section.rows] == value).all()
        assert len(section.rows) == gallery.grid.columns


def test_a_line_s_title_selects_its_cells(gallery, qtbot):
    session, grid = gallery.session, gallery.grid
    session.embedding = "measured"
    gallery.order.setCurrentText(TYPICAL)
    gallery.by.setCurrentText("field")
    settled(qtbot, gallery)
    x, fields = session.cells.obsm["X_measured"], session.cells.obs["field"].astype(str).to_numpy()
    assert [section.name for section in grid.sections] == ["A01", "A12", "E12"]
    for section in grid.sections:
        own = np.flatnonzero(session.visible & (fields == section.name))
        z = (x[own] - x[own].mean(axis=0)) / x[own].std(axis=0)
        assert section.rows[0] == own[np.argmin((z**2).sum(axis=1))]
        assert set(section.every) == set(own)
    at = grid.title_rect(grid.sections[1], 0).center()
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert set(np.flatnonzero(session.selected)) == set(grid.sections[1].every)
    at = grid.title_rect(grid.sections[0], 0).center()
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, at)
    assert set(fields[session.selected]) == {"A01", "A12"}


def test_lines_stand_by_how_alike_their_groups_are(gallery, qtbot):
    session, grid = gallery.session, gallery.grid
    session.embedding = "measured"
    gallery.which.setCurrentText("selected cells")
    gallery.canvas.find_similar_groups("group", "E12")
    qtbot.waitUntil(lambda: [s.name for s in grid.sections] == ["E12", "A12", "A01"])
    assert "distance" not in grid.sections[0].title
    assert f"distance {session.similar.distance[1]:.2f}" in grid.sections[1].title
    assert gallery.words.text() == session.similar.words
    with qtbot.waitSignal(grid.title_menu_requested) as asked:
        at = grid.title_rect(grid.sections[2], 0).center()
        qtbot.mouseClick(grid.viewport(), Qt.MouseButton.RightButton, pos=at)
    assert asked.args[0] == "A01"
    gallery.canvas._menu.close()
    session.similar = None
    qtbot.waitUntil(lambda: [s.name for s in grid.sections] == ["A01", "A12", "E12"])


def test_click_modifiers_rubber_band_and_double_click(gallery, qtbot):
    session, port = gallery.session, gallery.grid.viewport()
    rows = [row for row, _ in gallery.grid.in_sight()]
    qtbot.mouseClick(port, Qt.MouseButton.LeftButton, pos=middle(gallery, rows[2]))
    assert np.flatnonzero(session.selected).tolist() == [rows[2]]
    assert session.focus == rows[2]
    qtbot.mouseClick(
        port, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, middle(gallery, rows[4])
    )
    assert np.flatnonzero(session.selected).tolist() == [rows[2], rows[4]]
    qtbot.mouseClick(
        port, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.AltModifier, middle(gallery, rows[2])
    )
    assert np.flatnonzero(session.selected).tolist() == [rows[4]]
    qtbot.mousePress(port, Qt.MouseButton.LeftButton, pos=middle(gallery, rows[0]))
    qtbot.mouseMove(port, middle(gallery, rows[1]))
    qtbot.mouseMove(port, middle(gallery, rows[3]))
    qtbot.mouseRelease(port, Qt.MouseButton.LeftButton, pos=middle(gallery, rows[3]))
    assert np.flatnonzero(session.selected).tolist() == rows[:4]
    with qtbot.waitSignal(gallery.grid.framed) as framed:
        qtbot.mouseDClick(port, Qt.MouseButton.LeftButton, pos=middle(gallery, rows[5]))
    assert framed.args == [rows[5]]


def test_selected_cells_only(gallery, qtbot):
    gallery.which.setCurrentText("selected cells")
    settled_words = "Nothing is selected"
    qtbot.waitUntil(lambda: settled_words in gallery.words.text())
    some = np.flatnonzero(gallery.session.visible)[5:9]
    gallery.session.select(some)
    settled(qtbot, gallery)
    assert shown(gallery) == some.tolist()


def test_scrolling_asks_for_what_is_in_sight(gallery, qtbot):
    before = {row for row, _ in gallery.grid.in_sight()}
    bar = gallery.grid.verticalScrollBar()
    bar.setValue(bar.maximum())
    settled(qtbot, gallery)
    after = {row for row, _ in gallery.grid.in_sight()}
    assert not before & after
    assert shown(gallery)[-1] in after


def test_a_montage_for_print(gallery, qtbot, tmp_path):
    gallery.by.setCurrentText("compound")
    settled(qtbot, gallery)
    for name, head in (("m.png", b"\x89PNG"), ("m.pdf", b"%PDF")):
        said: list[str] = []
        gallery.grid.print_to(str(tmp_path / name), said.append)
        qtbot.waitUntil(lambda said=said: bool(said) and "saved" in said[-1], timeout=20_000)
        assert (tmp_path / name).read_bytes().startswith(head)
    picture = QImage(str(tmp_path / "m.png"))
    assert picture.width() > 2000
    gallery.grid.print_to(str(tmp_path / "no" / "folder.png"), said.append)
    assert "could not be written" in said[-1]


def test_a_lost_image_is_an_empty_tile(gallery, qtbot, project, monkeypatch):
    def gone(*_):
        raise OSError("the drive is gone")

    monkeypatch.setattr(gallery.background, "read_field", gone)
    gallery.grid.forget()
    gallery.grid.viewport().update()
    qtbot.waitUntil(
        lambda: sum(gallery.grid.pictures.lost(row) for row, _ in gallery.grid.in_sight()) > 5, timeout=20_000
    )
    assert not len(gallery.grid.pictures)


def test_without_cells_it_says_what_to_do(viewer, qtbot):
    view = GalleryView(session_of(viewer), canvas_of(viewer))
    qtbot.addWidget(view)
    view.show()
    assert "segment the images" in view.words.text()
    assert not view.similar.isEnabled()
    view.disconnect_session()


def test_arrows_go_from_cell_to_cell_and_return_selects(gallery, qtbot):
    session, grid, keys = gallery.session, gallery.grid, Qt.Key
    rows, wide = shown(gallery), gallery.grid.columns
    session.select([rows[50]])
    grid.setFocus()
    qtbot.keyClick(grid, keys.Key_Right)  # none was clicked: the first in sight
    assert session.focus == rows[0]
    for key, to in ((keys.Key_Right, 1), (keys.Key_Down, 1 + wide), (keys.Key_Left, wide), (keys.Key_Up, 0)):
        qtbot.keyClick(grid, key)
        assert session.focus == rows[to]
    assert np.flatnonzero(session.selected).tolist() == [rows[50]]  # going selects nothing
    qtbot.keyClick(grid, keys.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    assert sorted(np.flatnonzero(session.selected)) == sorted([rows[0], rows[50]])
    qtbot.keyClick(grid, keys.Key_Return, Qt.KeyboardModifier.AltModifier)
    assert np.flatnonzero(session.selected).tolist() == [rows[50]]
    qtbot.keyClick(grid, keys.Key_Left)  # the first: there is none before it
    assert session.focus == rows[0]
    for _ in range(12):
        qtbot.keyClick(grid, keys.Key_Down)
    assert session.focus == rows[12 * wide]
    assert grid.verticalScrollBar().value() > 0
    assert any(row == session.focus for row, _ in grid.in_sight())


def test_arrows_cross_the_lines_of_a_column(gallery, qtbot):
    gallery.by.setCurrentText("well")
    settled(qtbot, gallery)
    session, grid = gallery.session, gallery.grid
    first, second = (section.rows.tolist() for section in grid.sections[:2])
    session.set_focus(first[2])
    qtbot.keyClick(grid, Qt.Key.Key_Down)
    assert session.focus == second[2]
    qtbot.keyClick(grid, Qt.Key.Key_Up)
    assert session.focus == first[2]
    session.set_focus(first[-1])
    qtbot.keyClick(grid, Qt.Key.Key_Right)
    assert session.focus == second[0]


def test_a_scale_bar_on_demand(gallery, qtbot, tmp_path):
    grid = gallery.grid

    def corner():
        """White pixels where the bar of the first picture is."""
        place = grid.in_sight()[0][1]
        picture = grid.viewport().grab(place).toImage()
        side = place.width() * picture.devicePixelRatioF()
        y = round(side * (1 - 10 / place.width()))
        return sum(picture.pixelColor(x, y).lightness() > 250 for x in range(round(side)))

    before = corner()
    qtbot.mouseClick(gallery.bar, Qt.MouseButton.LeftButton)
    assert corner() - before > 15
    qtbot.mouseClick(gallery.bar, Qt.MouseButton.LeftButton)
    assert corner() == before
