"""The tree with real cells and real events: which cells a click on a branch selects is all that counts."""

import json

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QImage

from napari_cellrep.analysis import profiles
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._pictures import compose, default_look
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views import _grown
from napari_cellrep.gui.views._branches import branches_of, picture
from napari_cellrep.gui.views._grown import grown, heat_colours
from napari_cellrep.gui.views._raster import category_colours
from napari_cellrep.gui.views.tree import TreeView

LEFT, PLAIN = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
SHIFT, ALT = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.AltModifier


@pytest.fixture
def view(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding = "measured"
    view = TreeView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    view.resize(900, 420)
    with qtbot.waitExposed(view):
        view.show()
    settled(qtbot, view)
    yield view
    session.hide_flagged = True
    view.disconnect_session()


def settled(qtbot, view):
    """Wait until the tree stands and all pictures in sight are there."""
    qtbot.waitUntil(lambda: view.words.text() != "Joining…", timeout=20_000)

    def done():
        view.plot.viewport().update()
        return view.plot.shown is not None and not view.plot.pictures.missing(
            view.plot.in_sight(), view.canvas.looks()
        )

    qtbot.waitUntil(done, timeout=20_000)


def ids(session) -> set[str]:
    return set(session.cells.obs_names[session.selected])


def ids_of(session, groups) -> set[str]:
    own = session.visible & np.isin(session.cells.obs["group"].to_numpy(), list(groups))
    return set(session.cells.obs_names[own])


def leaf(view, name: str) -> int:
    return view.plot.shown.names.index(name)


def click(qtbot, view, node: int, keys=PLAIN):
    qtbot.mouseClick(view.plot.viewport(), LEFT, keys, view.plot.point_of(node))


def test_a_leaf_asks_for_those_like_it(view, qtbot):
    node = leaf(view, "A12")
    qtbot.mouseClick(view.plot.viewport(), Qt.MouseButton.RightButton, PLAIN, view.plot.point_of(node))
    menu = view.canvas._menu
    next(a for a in menu.actions() if a.text() == "Find similar groups").trigger()
    menu.close()
    qtbot.waitUntil(lambda: view.session.similar is not None)
    found, tree = view.session.similar, view.plot.shown.tree
    assert found.names == ("A12", "E12", "A01")
    # The two that the tree joins first are as far from each other as it says.
    assert found.distance[1] == pytest.approx(tree.linkage[0, 2], abs=1e-5)


def test_a_tree_of_the_three_wells_joins_the_most_alike_first(view):
    """By what was measured (brightness, mostly) A12 and E12 are the most alike."""
    tree, names = view.plot.shown.tree, view.plot.shown.names
    assert sorted(names) == ["A01", "A12", "E12"]
    a, b = tree.children(tree.root)
    halves = {frozenset(names[i] for i in tree.leaves(node)) for node in (a, b)}
    assert halves == {frozenset({"A01"}), frozenset({"A12", "E12"})}
    assert view.plot.n_branches == 2
    assert view.words.text().startswith(f"3 groups, {view.session.n_visible:,} cells: 2 branches at ")


def test_a_click_on_a_branch_selects_its_cells(view, qtbot):
    session, tree = view.session, view.plot.shown.tree
    doses = int(tree.parent[leaf(view, "A12")])
    click(qtbot, view, doses)
    assert ids(session) == ids_of(session, ["A12", "E12"])
    click(qtbot, view, tree.root)
    assert ids(session) == ids_of(session, ["A01", "A12", "E12"])
    assert session.n_selected == session.n_visible < session.n_cells  # flagged cells are never hit
    click(qtbot, view, leaf(view, "A12"))
    assert ids(session) == ids_of(session, ["A12"])
    click(qtbot, view, leaf(view, "A01"), SHIFT)
    assert ids(session) == ids_of(session, ["A12", "A01"])
    click(qtbot, view, doses, SHIFT | ALT)
    assert ids(session) == ids_of(session, ["A12"])
    click(qtbot, view, doses, ALT)
    assert not ids(session)


def test_the_horizontal_line_of_a_branch_is_that_branch(view, qtbot):
    """Between a branch's corner and the next, the line is the branch's own; so is all that stands below it."""
    tree, plot = view.plot.shown.tree, view.plot
    doses = int(tree.parent[leaf(view, "A12")])
    c = plot.columns(plot.viewport().width(), plot.line)
    middle = float(plot.x_of((tree.height[doses] + tree.height[tree.root]) / 2, c))
    for name in ("A12", "E12"):
        y = plot.point_of(leaf(view, name)).y()
        qtbot.mouseClick(plot.viewport(), LEFT, PLAIN, QPoint(round(middle), y))
        assert ids(view.session) == ids_of(view.session, ["A12", "E12"]), name
    qtbot.mouseClick(
        plot.viewport(), LEFT, PLAIN, QPoint(round(middle), plot.point_of(leaf(view, "A01")).y())
    )
    assert ids(view.session) == ids_of(view.session, ["A01"])


def test_a_click_on_the_heat_map_selects_both_groups(view, qtbot):
    plot, tree = view.plot, view.plot.shown.tree
    c = plot.columns(plot.viewport().width(), plot.line)
    x = c.heat + (tree.first[leaf(view, "E12")] + 0.5) / 3 * (c.end - c.heat)
    at = QPoint(round(x), plot.point_of(leaf(view, "A01")).y())
    qtbot.mouseClick(plot.viewport(), LEFT, PLAIN, at)
    assert ids(view.session) == ids_of(view.session, ["A01", "E12"])
    assert plot._place(at) == ("pair", leaf(view, "A01"), leaf(view, "E12"))
    alike = plot.shown.alike[tree.first[leaf(view, "A01")], tree.first[leaf(view, "E12")]]
    assert f"correlation {alike:.2f}" in plot._tip("pair", leaf(view, "A01"), leaf(view, "E12"))


def test_pictures_are_of_the_cells_nearest_to_the_mean(view, qtbot):
    session, plot, looks = view.session, view.plot, view.canvas.looks()
    x = session.cells.obsm["X_measured"].astype(float)
    for i, name in enumerate(plot.shown.names):
        own = np.flatnonzero(session.visible & (session.cells.obs["group"] == name).to_numpy())
        scaled = (x[own] - x[own].mean(axis=0)) / x[own].std(axis=0)
        nearest = own[np.argsort((scaled**2).sum(axis=1), kind="stable")]
        assert plot.shown.typical[i].tolist() == nearest[:8].tolist()
    row = int(plot.shown.typical[1][2])
    image: QImage = plot.pictures.get(row, looks)
    field, y, x0 = session.place(row)
    pixels, side = session.project.read_image(field), image.width()
    padded = np.pad(pixels, ((0, 0), (side, side), (side, side)))
    top, left = int(y) + side - side // 2, int(x0) + side - side // 2
    own_looks = [default_look(c.role, p) for c, p in zip(session.project.channels, pixels, strict=True)]
    data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(side, -1)
    window = compose(padded[:, top : top + side, left : left + side], looks or tuple(own_looks))
    np.testing.assert_array_equal(data[:, : 3 * side].reshape(side, side, 3), window)
    qtbot.mouseClick(plot.viewport(), LEFT, PLAIN, plot.picture_rect(1, 2).center().toPoint())
    assert ids(session) == {session.cell_id(row)}
    assert session.focus == row


def test_double_click_opens_the_field_of_a_leaf(view, qtbot):
    plot = view.plot
    for name in ("E12", "A01"):
        qtbot.mouseDClick(plot.viewport(), LEFT, PLAIN, plot.point_of(leaf(view, name)))
        qtbot.waitUntil(lambda name=name: view.canvas.field == name, timeout=20_000)
    with qtbot.waitSignal(plot.framed) as framed:
        at = plot.picture_rect(leaf(view, "A12"), 0).center().toPoint()
        qtbot.mouseDClick(plot.viewport(), LEFT, PLAIN, at)
    assert framed.args == [int(plot.shown.typical[leaf(view, "A12")][0])]


def test_the_cut_makes_branches_and_saves_them_as_sets(view, qtbot):
    session, tree = view.session, view.plot.shown.tree
    view.cut_at.setValue(view.cut_at.maximum())
    assert view.plot.n_branches == 1
    assert not view.keep.isEnabled()
    assert "until there are 2 to 30" in view.keep.toolTip()
    view.cut_at.setValue(0)
    assert view.plot.n_branches == 3
    view.cut_at.setValue(round(tree.height[-2:].mean() / tree.height[-1] * view.cut_at.maximum()))
    assert view.plot.n_branches == 2
    before = session.selected.copy()
    view.keep_branches("dose")
    np.testing.assert_array_equal(session.selected, before)
    saved = json.loads((session.project.root / "sets.json").read_text("utf-8"))
    assert list(saved) == ["dose 1", "dose 2"]
    found = {frozenset(made["cells"]) for made in saved.values()}
    assert found == {frozenset(ids_of(session, ["A01"])), frozenset(ids_of(session, ["A12", "E12"]))}
    how = saved["dose 1"]["how"]
    assert (how["of"], how["embedding"], how["distance"], how["joining"]) == (
        "group", "measured", "correlation", "average",
    )  # fmt: skip
    session.select_set("dose 2")
    last = [view.plot.shown.names[i] for i in view.plot.branch(1)]
    assert ids(session) == ids_of(session, last)


def test_other_columns_distances_and_joinings(view, qtbot):
    assert (view.rows_of.itemData(0), view.rows_of.itemText(0)) == ("group", "groups")
    view.rows_of.setCurrentIndex(view.rows_of.findData("compound"))
    settled(qtbot, view)
    assert sorted(view.plot.shown.names) == ["LY294002", "Wortmannin"]
    assert view.words.text().startswith("2 values of compound")
    click(qtbot, view, leaf(view, "Wortmannin"))
    assert ids(view.session) == ids_of(view.session, ["A01", "A12"])
    for distance, joining in (("Euclidean", "Ward"), ("Euclidean", "average"), ("correlation", "Ward")):
        view.distance.setCurrentText(distance)
        view.joining.setCurrentText(joining)
        settled(qtbot, view)
        shown = view.plot.shown
        assert (shown.metric, shown.linkage) == (distance.lower(), joining.lower())


def test_a_tree_of_selected_cells_stays_while_its_branches_are_clicked(view, qtbot):
    session = view.session
    some = np.flatnonzero(session.visible)[3:300:7]
    session.select(some)
    view.rows_of.setCurrentIndex(view.rows_of.findData(""))
    settled(qtbot, view)
    shown = view.plot.shown
    assert shown.names == [session.cell_id(row) for row in some]
    assert view.words.text().startswith(f"{len(some)} cells: ")
    node = shown.tree.children(shown.tree.root)[1]
    bar = view.plot.verticalScrollBar()
    bar.setValue(max(0, round(view.plot._middles(view.plot.line)[node]) - 100))
    click(qtbot, view, node)
    assert ids(session) == {shown.names[i] for i in shown.tree.leaves(node)}
    assert view.plot.shown is shown
    one = int(shown.tree.order[int(shown.tree.first[node])])
    bar.setValue(max(0, round(view.plot._middles(view.plot.line)[one]) - 100))
    click(qtbot, view, one)
    assert ids(session) == {shown.names[one]}
    assert session.focus == some[one]
    session.select(some[:2])
    qtbot.mouseClick(view.take, LEFT)
    settled(qtbot, view)
    assert view.plot.shown.names == [session.cell_id(row) for row in some[:2]]
    session.select(some[:1])
    qtbot.mouseClick(view.take, LEFT)
    assert view.plot.shown is None
    assert "Select two cells or more" in view.words.text()


def test_too_many_cells_are_drawn_from_and_it_says_so(view, qtbot, monkeypatch):
    monkeypatch.setattr(_grown, "MOST_CELLS", 50)
    session = view.session
    session.select(np.flatnonzero(session.visible))
    view.rows_of.setCurrentIndex(view.rows_of.findData(""))
    settled(qtbot, view)
    assert view.plot.shown.tree.n_leaves == len(set(view.plot.shown.names)) == 50
    assert set(view.plot.shown.names) <= ids(session)
    assert view.words.text().startswith(f"50 of {session.n_visible:,} selected cells, drawn at random")


def test_more_cells_than_a_tree_joins_are_all_in_it_by_representatives(view, qtbot, monkeypatch):
    monkeypatch.setattr(profiles, "JOINED_MOST", 60)
    session = view.session
    session.select(np.flatnonzero(session.visible))
    view.rows_of.setCurrentIndex(view.rows_of.findData(""))
    settled(qtbot, view)
    shown = view.plot.shown
    n = shown.tree.n_leaves
    assert n <= 60
    known = np.isfinite(session.cells.obsm[f"X_{session.embedding}"]).all(axis=1)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(shown.members)), np.flatnonzero(session.visible & known)
    )
    for name, own in zip(shown.names, shown.members, strict=True):
        assert session.row_of_id(name) in own
    assert view.words.text().startswith(
        f"{int((session.visible & known).sum()):,} selected cells, {n:,} representatives"
    )
    assert any(len(own) > 1 for own in shown.members)
    assert (shown.noun, shown.counted) == ("representatives", True)


def test_keys_walk_through_the_tree(view, qtbot):
    session, plot, tree = view.session, view.plot, view.plot.shown.tree
    plot.setFocus()

    def press(*keys):
        for key in keys:
            qtbot.keyClick(plot, key)

    press(Qt.Key.Key_Right)
    assert plot.at == tree.root
    press(Qt.Key.Key_Return)
    assert session.n_selected == session.n_visible
    press(Qt.Key.Key_Right)
    assert plot.at == tree.children(tree.root)[0]
    press(Qt.Key.Key_Return)
    assert ids(session) == ids_of(session, [plot.shown.names[i] for i in tree.leaves(plot.at)])
    last = int(tree.order[-1])
    press(Qt.Key.Key_Right, Qt.Key.Key_Right, *[Qt.Key.Key_Down] * 5)
    assert tree.first[plot.at] == 2 or plot.at == last
    press(*[Qt.Key.Key_Left] * 5)
    assert plot.at == tree.root


def test_the_tree_follows_the_session(view, qtbot):
    session, before = view.session, view.plot.shown
    session.hide_flagged = False
    settled(qtbot, view)
    assert sum(map(len, view.plot.shown.members)) == session.n_cells > sum(map(len, before.members))
    session.embedding = "bare"  # two features: nothing to correlate
    qtbot.waitUntil(lambda: "choose Euclidean" in view.words.text(), timeout=20_000)
    assert view.plot.shown is None
    assert not view.keep.isEnabled()
    view.distance.setCurrentText("Euclidean")
    settled(qtbot, view)
    assert view.plot.shown.tree.n_leaves == 3


def test_a_table_whose_rows_moved_selects_the_same_cells(view, qtbot):
    """Rows shuffled and some gone, as after a new segmentation: the clicked group is still that group's cells."""
    session = view.session
    cells = session.cells
    order = np.random.default_rng(0).permutation(cells.n_obs)[: cells.n_obs - 100]
    session.project.write_cells(cells[order].copy())
    session.reload()
    settled(qtbot, view)
    click(qtbot, view, leaf(view, "E12"))
    assert ids(session) == ids_of(session, ["E12"])
    assert ids(session) <= set(cells.obs_names[order])


def test_a_picture_that_comes_after_the_table_changed_is_no_other_cells(view, qtbot):
    """Asked for by row; when it arrives, that row is another cell."""
    session, plot, looks = view.session, view.plot, view.canvas.looks()
    row, before = int(plot.shown.typical[0][0]), session.cells
    session.project.write_cells(before[::-1].copy())
    session.reload()
    settled(qtbot, view)
    assert session.cell_id(row) != before.obs_names[row]
    plot.pictures.forget()
    plot.pictures.arrived(before, [row], looks, [np.zeros((8, 8, 3), np.uint8)])
    assert not len(plot.pictures)
    plot.pictures.arrived(session.cells, [row], looks, [np.zeros((8, 8, 3), np.uint8)])
    assert plot.pictures.get(row, looks) is not None
    assert len(plot.pictures) == 1


def test_leaves_have_the_colour_of_their_cells_on_the_map(view, qtbot):
    view.session.colour_by = "control"
    qtbot.waitUntil(lambda: view.plot._column == "control", timeout=20_000)
    colour = {name: tuple(view.plot._colours[leaf(view, name)]) for name in ("A01", "A12", "E12")}
    assert colour["A01"] == colour["E12"] != colour["A12"]
    assert [name for name, _ in view.plot._legend.legend] == ["-1", "1"]
    view.session.colour_by = "brightness"  # a scale instead of names: the mean of the leaf's cells
    qtbot.waitUntil(lambda: view.plot._column == "brightness", timeout=20_000)
    assert not view.plot._legend.legend
    view.grab()
    view.session.colour_by = "compound"
    qtbot.waitUntil(lambda: view.plot._column == "compound", timeout=20_000)
    assert tuple(view.plot._colours[leaf(view, "A01")]) == tuple(view.plot._colours[leaf(view, "A12")])


def test_a_picture_for_print(view, qtbot, tmp_path):
    for name, head in (("t.png", b"\x89PNG"), ("t.pdf", b"%PDF")):
        said: list[str] = []
        view.plot.print_to(str(tmp_path / name), said.append)
        qtbot.waitUntil(lambda said=said: bool(said) and "saved" in said[-1], timeout=20_000)
        assert (tmp_path / name).read_bytes().startswith(head)
    picture = QImage(str(tmp_path / "t.png"))
    assert picture.width() == 4 * view.plot.viewport().width()
    view.plot.print_to(str(tmp_path / "no" / "folder.png"), said.append)
    assert "could not be written" in said[-1]


def test_branches_are_saved_with_the_places_of_their_cells(view, qtbot, tmp_path):
    session, tree = view.session, view.plot.shown.tree
    view.cut_at.setValue(round(tree.height[-2:].mean() / tree.height[-1] * view.cut_at.maximum()))

    def saved(name):
        view.print_branches(str(tmp_path / name))
        qtbot.waitUntil(lambda: "saved as" in view.words.text(), timeout=20_000)
        return view.words.text()

    assert saved("all.png").startswith("2 branches")
    everything = QImage(str(tmp_path / "all.png"))
    click(qtbot, view, leaf(view, "A01"))
    assert saved("one.png").startswith("1 branch ")
    one = QImage(str(tmp_path / "one.png"))
    assert one.width() == everything.width()
    assert one.height() < 0.6 * everything.height()
    saved("all.pdf")
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    view.print_branches(str(tmp_path / "no" / "folder.png"))
    qtbot.waitUntil(lambda: "could not be written" in view.words.text(), timeout=20_000)

    cells = session.cells
    at = next(i for i in range(2) if len(view.plot.branch(i)) == 2)
    colours, x = category_colours(2), cells.obsm["X_measured"]
    found = branches_of(view.plot.shown, [(at, view.plot.branch(at))], colours, x, cells.obs)[0]
    assert found.title.startswith(f"Branch {at + 1}: 2 groups")
    assert found.colour == tuple(colours[at])
    assert set(cells.obs["field"].iloc[found.rows]) == {found.field_id}
    assert found.field_id in ("A12", "E12")
    pictured = picture(view.background, session.project, cells.obs, found, 40, view.canvas.looks())
    assert len(pictured.crops) == len(pictured.boxes) == len(found.rows) == 10
    image = session.project.read_image(found.field_id)
    for row, crop, (left, top, wide, high) in zip(found.rows, pictured.crops, pictured.boxes, strict=True):
        _, y, x = session.place(row)
        assert ((left + wide / 2) * image.shape[2], (top + high / 2) * image.shape[1]) == pytest.approx(
            (x, y)
        )
        assert (crop.width(), crop.height()) == (40, 40)


def test_a_lost_image_is_an_empty_tile(view, qtbot, monkeypatch):
    def gone(*_):
        raise OSError("the drive is gone")

    monkeypatch.setattr(view.background, "read_field", gone)
    view.plot.pictures.forget()
    view.plot.viewport().update()
    qtbot.waitUntil(lambda: sum(map(view.plot.pictures.lost, view.plot.in_sight())) > 5, timeout=20_000)
    assert not len(view.plot.pictures)
    click(qtbot, view, leaf(view, "A01"))
    assert ids(view.session) == ids_of(view.session, ["A01"])


def test_without_cells_it_says_what_to_do(viewer, qtbot):
    view = TreeView(session_of(viewer), canvas_of(viewer))
    qtbot.addWidget(view)
    view.show()
    assert "segment the images" in view.words.text()
    assert not view.save.isEnabled()
    view.disconnect_session()


def test_cells_and_groups_without_an_embedding_are_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    x[30:] = np.nan  # group c has none, b has some
    obs = pd.DataFrame({"of": [*"a" * 12, *"b" * 20, *"c" * 8]}, index=[f"i{i * 3}" for i in range(40)])
    found = grown(x, obs, np.arange(40)[::-1], "of")
    assert sorted(found.names) == ["a", "b"]
    assert found.left_out == 1
    assert sorted(found.members[found.names.index("b")]) == list(range(12, 32))
    assert set(found.typical[found.names.index("b")]) <= set(range(12, 30))
    single = grown(x, obs, np.arange(25, 35), "")
    assert single.names == [f"i{i * 3}" for i in range(25, 30)]
    assert single.left_out == 5


def test_missing_values_make_no_group():
    x = np.random.default_rng(0).normal(size=(30, 4))
    obs = pd.DataFrame({"drug": [None, "A", "B"] * 10})
    found = grown(x, obs, np.arange(30), "drug")
    assert found.names == ["A", "B"]
    assert [len(m) for m in found.members] == [10, 10]


def test_heat_colours_have_white_at_no_correlation():
    colours = heat_colours(np.array([[-1, 0.0], [0.5, 1]], np.float32), "correlation")
    assert colours[0, 0].tolist() == [33, 102, 172]
    assert colours[1, 1].tolist() == [178, 24, 43]
    assert (colours[0, 1] > 240).all()
    near, far = heat_colours(np.array([[0.0, 3]], np.float32), "euclidean")[0]
    assert near.sum() > far.sum()
