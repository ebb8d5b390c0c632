"""Odd cells, judged with real clicks and keys on real cells: which cell has which verdict is all that counts."""

import numpy as np
import pandas as pd
import pytest
import roifile
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_cellrep.data import open_project
from napari_cellrep.data.verdicts import read_verdicts
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._pictures import compose, default_look
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._sheet import scale_bar
from napari_cellrep.gui.views.odd import ALL, OddView
from napari_cellrep.jobs import drain
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.preview import what_it_sees

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def odd(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding = "measured"
    view = OddView(session, canvas_of(viewer))
    view.rater.setText("ann")
    qtbot.addWidget(view)
    view.resize(900, 330)
    with qtbot.waitExposed(view):
        view.show()
    settled(qtbot, view)
    yield view
    view.disconnect_session()


def settled(qtbot, view):
    """Wait until the queue is measured and the cell's pictures are there."""

    def done():
        shown = view.panel.shown
        return view.background._pool._work_queue.empty() and (shown.cell_id if shown else "") == view.cell_id

    for _ in range(3):
        qtbot.wait(60)
        qtbot.waitUntil(done, timeout=20_000)


def press(qtbot, view, key, modifier=Qt.KeyboardModifier.NoModifier):
    qtbot.keyClick(view.panel, key, modifier)
    settled(qtbot, view)


def said(view) -> dict[str, str]:
    """Verdicts as they are on the disk."""
    return {i: v["verdict"] for i, v in read_verdicts(view.session.project.root).items()}


def oddest(session, group: str, scale: np.ndarray | None = None) -> list[str]:
    """Good cells of a group, the farthest from its ten nearest first: by hand; `scale`: cells that were good at first."""
    obs, x = session.cells.obs, session.cells.obsm["X_measured"].astype(float)
    good = obs["good"].to_numpy()
    base = x[good if scale is None else scale]
    z = (x - base.mean(axis=0)) / base.std(axis=0)
    own = np.flatnonzero(good & (obs["group"] == group).to_numpy())
    distance = np.sqrt(((z[own][:, None] - z[own][None]) ** 2).sum(axis=2))
    mean = np.sort(distance, axis=1)[:, 1:11].mean(axis=1)
    return obs.index[own[np.argsort(-mean)]].tolist()


def choose(qtbot, view, group):
    view.group.setCurrentText(group)
    settled(qtbot, view)


def test_the_queue_is_the_oddest_of_each_group_in_turn_or_of_one(odd, qtbot):
    session = odd.session
    assert [odd.group.itemText(i) for i in range(odd.group.count())] == [ALL, "A01", "A12", "E12"]
    firsts = {oddest(session, group)[0] for group in ("A01", "A12", "E12")}
    assert set(odd.queue[:3]) == firsts
    assert len(odd.queue) == 20
    choose(qtbot, odd, "A12")
    assert odd.queue == oddest(session, "A12")[:20]
    assert odd.words.text().startswith(f"1 of 20 · {odd.queue[0]} · group A12 · ")
    odd.n.setValue(7)
    settled(qtbot, odd)
    assert odd.queue == oddest(session, "A12")[:7]


def test_the_large_picture_is_the_cell_and_its_mates_are_of_its_group(odd, qtbot):
    session, shown = odd.session, odd.panel.shown
    field, y, x = session.place(shown.row)
    pixels = session.project.read_image(field)
    side = shown.side_px
    padded = np.pad(pixels, ((0, 0), (side, side), (side, side)))
    top, left = int(y) + side - side // 2, int(x) + side - side // 2
    looks = odd.canvas.looks() or tuple(
        default_look(c.role, p) for c, p in zip(session.project.channels, pixels, strict=True)
    )
    expected = compose(padded[:, top : top + side, left : left + side], looks)
    image = shown.large
    data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8).reshape(side, -1)
    np.testing.assert_array_equal(data[:, : 3 * side].reshape(side, side, 3), expected)
    groups = session.cells.obs["group"].to_numpy()
    mates = [row for row, _ in shown.near + shown.typical]
    assert len(shown.near) == len(shown.typical) == 5
    assert set(groups[mates]) == {groups[shown.row]}
    assert shown.row not in mates
    assert session.visible[mates].all()
    assert [name for name, _ in shown.channels] == ["FKHR-GFP", "DNA"]


def test_keys_give_verdicts_and_go_on(odd, qtbot):
    choose(qtbot, odd, "A01")
    first, second, third, fourth = odd.queue[:4]
    at_first = odd.session.visible.copy()
    press(qtbot, odd, Qt.Key.Key_R)
    assert odd.cell_id == second
    assert odd.session.cell_id(odd.session.focus) == second  # so that the image follows
    odd.reason.setCurrentText("debris")
    press(qtbot, odd, Qt.Key.Key_A)
    assert odd.cell_id == third
    press(qtbot, odd, Qt.Key.Key_N)
    assert odd.cell_id == fourth
    press(qtbot, odd, Qt.Key.Key_U)
    press(qtbot, odd, Qt.Key.Key_P)
    press(qtbot, odd, Qt.Key.Key_P)
    assert odd.cell_id == third
    assert said(odd) == {first: "real", second: "artefact", fourth: "unsure"}
    kept = read_verdicts(odd.session.project.root)
    assert kept[second]["reason"] == "debris"
    assert kept[first]["reason"] == ""
    assert kept[first]["rater"] == "ann"
    # The artefact has left, here and for every later step; the next oddest has come in.
    assert second not in odd.queue
    assert odd.queue == oddest(odd.session, "A01", at_first)[:20]
    assert not odd.session.visible[odd.session.row_of_id(second)]
    assert not open_project(odd.session.project.root).cells.obs["good"][second]
    assert odd.progress.text() == "2 of 20 judged: 1 real, 1 unsure · 1 artefact taken out"


@pytest.mark.slow
def test_buttons_give_verdicts_and_show_them(odd, qtbot):
    first, second = odd.queue[:2]
    qtbot.mouseClick(odd.buttons["unsure"], LEFT)
    settled(qtbot, odd)
    qtbot.mouseClick(odd.buttons["real"], LEFT)
    settled(qtbot, odd)
    assert said(odd) == {first: "unsure", second: "real"}
    qtbot.mouseClick(odd.back, LEFT)
    settled(qtbot, odd)
    assert odd.cell_id == second
    assert odd.buttons["real"].text() == "✓ Real (R)"
    assert odd.buttons["unsure"].text() == "Unsure (U)"
    # Another verdict takes its place; a reason given later is of the verdict that is there.
    qtbot.mouseClick(odd.buttons["unsure"], LEFT)
    settled(qtbot, odd)
    odd.go(odd.queue.index(first))
    odd.reason.setCurrentText("mitotic")
    odd.reason.activated.emit(odd.reason.currentIndex())
    assert said(odd) == {first: "unsure", second: "unsure"}
    assert read_verdicts(odd.session.project.root)[first]["reason"] == "mitotic"


def test_keys_mean_verdicts_only_where_nobody_types(odd, qtbot, viewer):
    odd.rater.setFocus()
    odd.rater.clear()
    qtbot.keyClicks(odd.rater, "raun")
    assert odd.rater.text() == "raun"
    odd.n.setFocus()
    qtbot.keyClicks(odd.n, "ra")
    odd.group.setFocus()
    qtbot.keyClicks(odd.group, "ra")
    assert said(odd) == {}
    odd.panel.setFocus()
    qtbot.keyClick(odd.panel, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    assert said(odd) == {}


def test_undo_brings_an_artefact_back_and_goes_to_it(viewer, project, qtbot):
    session = session_of(viewer)
    session.open(project)
    session.embedding = "measured"
    dock = ExploreWidget(viewer)
    viewer.window.add_dock_widget(dock, area="bottom")
    view = dock.view("Odd cells")
    qtbot.waitUntil(lambda: bool(view.queue), timeout=20_000)
    settled(qtbot, view)
    first, second = view.queue[:2]
    press(qtbot, view, Qt.Key.Key_A)
    assert said(view) == {first: "artefact"}
    assert dock.undo.isEnabled()
    n = session.n_visible
    press(qtbot, view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert said(view) == {}
    assert session.n_visible == n + 1
    assert view.cell_id == first == view.queue[0]
    press(qtbot, view, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert said(view) == {first: "artefact"}
    assert first not in view.queue
    assert second in view.queue
    dock.view("Gallery")


def test_a_queue_that_is_done_is_filled_up_when_an_artefact_leaves(odd, qtbot):
    odd.n.setValue(3)
    choose(qtbot, odd, "E12")
    order, at_first = oddest(odd.session, "E12"), odd.session.visible.copy()
    press(qtbot, odd, Qt.Key.Key_R)
    press(qtbot, odd, Qt.Key.Key_U)
    assert odd.cell_id == order[2]
    press(qtbot, odd, Qt.Key.Key_A)
    assert (
        odd.queue == oddest(odd.session, "E12", at_first)[:3]
    )  # without its neighbour, another can be odder
    assert set(order[:2]) < set(odd.queue)
    assert odd.cell_id in odd.queue
    assert odd.cell_id not in order[:3]


def test_flagged_cells_come_after_all_others(odd, qtbot):
    odd.n.setValue(500)
    odd.session.hide_flagged = False
    choose(qtbot, odd, "A12")
    good = odd.session.cells.obs["good"][odd.queue].to_numpy()
    assert good.any()
    assert not good.all()
    assert (np.diff(good.astype(int)) <= 0).all()
    assert odd.queue[: good.sum()] == oddest(odd.session, "A12")
    odd.go(len(odd.queue) - 1)
    assert "flagged:" in odd.words.text()
    odd.session.hide_flagged = True


@pytest.mark.slow
def test_a_blind_round_hides_who_is_who_and_says_the_hit_rate(odd, qtbot):
    session = odd.session
    odd.n.setValue(6)
    settled(qtbot, odd)
    before, odd.seed = list(odd.queue), 3
    qtbot.mouseClick(odd.blind, LEFT)
    settled(qtbot, odd)
    assert sorted(i for i, kind in odd.drawn.items() if kind == "odd") == sorted(before)
    randoms = [i for i, kind in odd.drawn.items() if kind == "random"]
    groups = session.cells.obs["group"].astype(str)
    assert sorted(groups[randoms]) == sorted(groups[before])
    assert session.cells.obs["good"][randoms].all()
    assert session.focus == -1
    assert not odd.export.isEnabled()
    assert not odd.group.isVisible()
    order = list(odd.queue)
    for i in order:
        assert odd.cell_id == i
        texts = odd.words.text() + odd.progress.text()
        assert not any(name in texts for name in ("A01", "A12", "E12"))
        # Odd ones are called real, but one; of the random ones one is.
        real = (odd.drawn[i] == "odd") != (i in (before[0], randoms[0]))
        press(qtbot, odd, Qt.Key.Key_R if real else Qt.Key.Key_U)
        assert session.focus == -1
    assert not odd.drawn
    assert odd.words.text().startswith(
        "5 of 6 odd cells against 1 of 6 random ones were called real (p = 0.04"
    )
    assert said(odd) == {
        i: "real" if (i in before) != (i in (before[0], randoms[0])) else "unsure" for i in order
    }
    kept = read_verdicts(session.project.root)
    assert {i: v["drawn"] for i, v in kept.items()} == {i: "odd" if i in before else "random" for i in order}
    assert odd.queue == before
    assert odd.export.isEnabled()
    press(qtbot, odd, Qt.Key.Key_N)
    assert "group" in odd.words.text()


def test_an_artefact_in_a_blind_round_and_its_end_before_time(odd, qtbot):
    odd.n.setValue(5)
    settled(qtbot, odd)
    odd.seed = 0
    qtbot.mouseClick(odd.blind, LEFT)
    settled(qtbot, odd)
    first = odd.cell_id
    press(qtbot, odd, Qt.Key.Key_A)
    assert len(odd.queue) == 10
    assert first in odd.queue
    qtbot.mouseClick(odd.blind, LEFT)
    settled(qtbot, odd)
    assert "Too few" in odd.words.text()
    assert first not in odd.queue
    assert said(odd) == {first: "artefact"}


def test_a_blind_round_goes_on_when_a_job_has_written_the_table(odd, qtbot):
    odd.n.setValue(3)
    settled(qtbot, odd)
    odd.seed = 0
    qtbot.mouseClick(odd.blind, LEFT)
    settled(qtbot, odd)
    order = list(odd.queue)
    press(qtbot, odd, Qt.Key.Key_U)
    odd.session.reload()
    settled(qtbot, odd)
    assert odd.queue == order
    for _ in range(5):
        press(qtbot, odd, Qt.Key.Key_U)
    assert said(odd) == dict.fromkeys(order, "unsure")
    assert "0 of 3 odd cells against 0 of 3" in odd.words.text()


def test_clicks_on_pictures(odd, qtbot):
    session = odd.session
    places = odd.panel.places(odd.panel.rect(), odd.panel.shown)
    _, row, _, place = next(p for p in places if p[0] == "near")
    at = odd.cell_id
    qtbot.mouseClick(odd.panel, LEFT, pos=place.center())
    assert np.flatnonzero(session.selected).tolist() == [row]
    assert odd.cell_id == at
    with qtbot.waitSignal(odd.panel.framed) as framed:
        qtbot.mouseDClick(odd.panel, LEFT, pos=places[0][3].center())
    assert framed.args == [session.row_of_id(at)]
    other = odd.queue[4]
    session.set_focus(session.row_of_id(other))  # clicked on the map
    settled(qtbot, odd)
    assert odd.cell_id == other


def test_arrows_go_from_the_cell_to_its_mates(odd, qtbot):
    session, panel, keys = odd.session, odd.panel, Qt.Key
    odd.activateWindow()
    panel.setFocus()
    qtbot.waitUntil(panel.hasFocus)
    looked_at, places = odd.cell_id, panel.places(panel.rect(), panel.shown)
    cell, near, typical = ([p[1] for p in places if p[0] == kind] for kind in ("large", "near", "typical"))
    for key, row in (
        (keys.Key_Right, near[0]), (keys.Key_Right, near[1]), (keys.Key_Down, typical[1]), (keys.Key_Left, typical[0]),
        (keys.Key_Left, cell[0]), (keys.Key_Left, cell[0]), (keys.Key_Right, near[0]),
    ):  # fmt: skip
        qtbot.keyClick(panel, key)
        assert session.hover == row
    qtbot.keyClick(panel, keys.Key_Return)
    assert np.flatnonzero(session.selected).tolist() == [near[0]]
    qtbot.keyClick(panel, keys.Key_Down)
    qtbot.keyClick(panel, keys.Key_Enter, Qt.KeyboardModifier.ShiftModifier)
    assert sorted(np.flatnonzero(session.selected)) == sorted([near[0], typical[0]])
    assert odd.cell_id == looked_at
    with qtbot.waitSignal(panel.framed) as framed:
        qtbot.keyClick(panel, keys.Key_Space)
    assert framed.args == [typical[0]]
    odd.step(1)
    settled(qtbot, odd)
    assert panel.at == 0  # of the next cell
    qtbot.mouseClick(odd.blind, LEFT)
    settled(qtbot, odd)
    session.clear()
    session.set_hover(-1)
    for key in (keys.Key_Right, keys.Key_Return):
        qtbot.keyClick(panel, key)
    assert session.hover == -1  # who is who is a secret
    assert not session.n_selected


@pytest.mark.slow
@pytest.mark.parametrize("size", [(900, 330), (420, 700), (300, 160), (1600, 240)])
@pytest.mark.parametrize("n_seen", [0, 2, 7])
def test_pictures_lie_in_the_panel_and_not_over_each_other(odd, qtbot, size, n_seen):
    odd.resize(*size)
    odd.panel.resize(*size)
    odd.panel.shown.n_seen = n_seen
    places = [p[3] for p in odd.panel.places(odd.panel.rect(), odd.panel.shown)]
    assert len(places) == 14 + min(n_seen, 4)
    for i, place in enumerate(places):
        assert odd.panel.rect().contains(place), (i, place, odd.panel.rect())
        assert not any(place.intersects(other) for other in places[i + 1 :])


def test_export(odd, qtbot, tmp_path):
    session = odd.session
    odd.n.setValue(4)
    choose(qtbot, odd, "A12")
    first, second = odd.queue[:2]
    odd.reason.setCurrentText("out of focus")
    press(qtbot, odd, Qt.Key.Key_A)
    press(qtbot, odd, Qt.Key.Key_R)
    choose(qtbot, odd, "E12")
    expected = [*odd.queue, first, second]
    odd.save_table(tmp_path / "t.csv")
    qtbot.waitUntil(lambda: "6 cells saved" in odd.words.text(), timeout=20_000)
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False).set_index("cell_id")
    assert table.index.tolist() == expected
    assert table["verdict"].tolist() == ["", "", "", "", "artefact", "real"]
    assert table.loc[first, ["reason", "rater", "image_file", "flags"]].tolist() == [
        "out of focus", "ann", "A12.ome.tif", "artefact",
    ]  # fmt: skip
    _, y, x = session.place(session.row_of_id(second))
    assert table.loc[second, ["x_px", "y_px"]].tolist() == pytest.approx([x, y], abs=0.01)
    assert (table["oddness"].astype(float) > 0).all()

    (tmp_path / "rois").mkdir()
    odd.save_rois(tmp_path / "rois")
    qtbot.waitUntil(lambda: "rois" in odd.words.text(), timeout=20_000)
    assert sorted(p.name for p in (tmp_path / "rois").iterdir()) == ["A12.zip", "E12.zip"]
    rois = {roi.name: roi for roi in roifile.roiread(tmp_path / "rois" / "A12.zip")}
    assert set(rois) == {first, second}
    middle = rois[second].coordinates().mean(axis=0)
    assert middle == pytest.approx([x + 0.5, y + 0.5], abs=3)

    odd.save_pages(tmp_path / "p.pdf")
    qtbot.waitUntil(lambda: "p.pdf" in odd.words.text() and "saved" in odd.words.text(), timeout=20_000)
    pdf = (tmp_path / "p.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") == 6
    odd.save_table(tmp_path / "t.csv" / "no folder.csv")
    qtbot.waitUntil(lambda: "Not saved" in odd.words.text(), timeout=20_000)


def test_a_project_that_cannot_be_written_says_so(odd, qtbot, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("napari_cellrep.data.files.write_text", full)
    first = odd.cell_id
    press(qtbot, odd, Qt.Key.Key_A)
    assert odd.cell_id == first
    assert "could not be kept" in odd.words.text()
    assert said(odd) == {}


def test_lost_images_and_projects(odd, qtbot, monkeypatch):
    def gone(*_):
        raise OSError("the drive is gone")

    monkeypatch.setattr(odd.background, "read_field", gone)
    odd.step(1)
    qtbot.waitUntil(lambda: "the drive is gone" in odd.panel.complaint, timeout=20_000)
    press_first = odd.cell_id
    QTest.keyClick(odd.panel, Qt.Key.Key_U)  # the image is away; a verdict can be given
    assert said(odd) == {press_first: "unsure"}
    odd.session.open(None)
    assert odd.queue == []
    assert "segment the images" in odd.words.text()
    assert not odd.buttons["real"].isEnabled()


def test_without_an_embedding_it_says_what_to_do(odd, qtbot):
    odd.session.embedding = ""
    assert "embed the cells" in odd.words.text()
    assert odd.queue == []


@pytest.mark.parametrize(("side", "um", "expected"), [
    (40, 0, (20, "20 px")), (40, 0.5, (20, "10 µm")), (64, 0.32, (31.25, "10 µm")), (30, 0.065, (5 / 6.5 * 10, "0.5 µm")),
    (100, 10, (50, "500 µm")),
])  # fmt: skip
def test_scale_bars_are_round(side, um, expected):
    length, words = scale_bar(side, um)
    assert length == pytest.approx(expected[0])
    assert words == expected[1]
    assert side / 5 <= length <= side / 2


@pytest.fixture
def embedded(odd, qtbot):
    """The view looking at an embedding by a real (small, untrained) network."""
    project = odd.session.project
    drain(embed(project, model="paired_cell_inpainting", config={"width": 0.05}, key="net", device="cpu"))
    odd.session.reload()
    odd.session.embedding = "net"
    settled(qtbot, odd)
    yield odd
    runner_of(odd.canvas.viewer).close()


@pytest.mark.slow
def test_as_the_network_got_it_and_whether_a_reviewer_would_believe_it(embedded, qtbot, tmp_path):
    odd = embedded
    first = odd.cell_id
    qtbot.waitUntil(lambda: bool(odd.panel.shown.seen), timeout=60_000)
    shown = odd.panel.shown
    kinds = [p[0] for p in odd.panel.places(odd.panel.rect(), shown)]
    assert kinds[:6] == ["large", "channel", "channel", "around", "seen", "seen"]
    by_hand = what_it_sees(odd.session.project, embedding="net", cell_id=first)
    for (name, image), expected in zip(shown.seen, by_hand.pictures, strict=True):
        data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
        np.testing.assert_array_equal(data.reshape(64, -1)[:, :64], expected)
        assert name in ("FKHR-GFP", "DNA")
    # Stepping fast: the pictures are always of the cell that is shown.
    for _ in range(4):
        odd.step(1)
    qtbot.waitUntil(lambda: odd.panel.shown.cell_id == odd.queue[4] and bool(odd.panel.shown.seen), timeout=60_000)  # fmt: skip
    expected = what_it_sees(odd.session.project, embedding="net", cell_id=odd.queue[4]).pictures[1]
    image = odd.panel.shown.seen[1][1]
    data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
    np.testing.assert_array_equal(data.reshape(64, -1)[:, :64], expected)
    # A page for each cell has these pictures too: other cells are looked at meanwhile.
    odd.n.setValue(5)
    settled(qtbot, odd)
    printed = {}
    plain = odd.panel.draw

    def draw(painter, area, shown):
        if area.size() != odd.panel.rect().size():
            printed[shown.cell_id] = (shown.seen, shown.seen_words)
        plain(painter, area, shown)

    odd.panel.draw = draw
    odd.save_pages(tmp_path / "seen.pdf")
    odd.step(-1)
    qtbot.waitUntil(lambda: "seen.pdf" in odd.words.text(), timeout=120_000)
    del odd.panel.draw
    assert list(printed) == odd.queue
    for cell_id, (pictures, words) in printed.items():
        expected = what_it_sees(odd.session.project, embedding="net", cell_id=cell_id)
        assert words == expected.words
        for (_, image), plane in zip(pictures, expected.pictures, strict=True):
            data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
            np.testing.assert_array_equal(data.reshape(64, -1)[:, :64], plane)
    assert (tmp_path / "seen.pdf").read_bytes().count(b"/Type /Page\n") == 5
    odd.n.setValue(20)
    settled(qtbot, odd)
    # Would a reviewer believe it?
    choose(qtbot, odd, "A12")
    odd.go(0)
    settled(qtbot, odd)
    first = odd.cell_id
    qtbot.mouseClick(odd.check, LEFT)
    assert not odd.check.isEnabled()
    assert f"{first} is being checked" in odd.check.toolTip()
    odd.step(1)  # the window does not wait
    qtbot.waitUntil(lambda: hasattr(odd, "note") and odd.note.isVisible(), timeout=120_000)
    words = odd.note.text.toPlainText()
    assert words.startswith(f"{first}, one of ")
    assert "✓ It is odd among the good cells of its group: holds. Number 1 of " in words  # as in the queue
    assert "It is odd in measured too: " in words
    assert "Among 150 mates" in words or "mates, as it was: number 1 of " in words
    assert odd.check.isEnabled()
    assert odd.words.text().startswith("2 of 20")
    odd.note.close()
    # An artefact given in this window counts in the worker as well.
    n_good = int(odd.session.cells.obs["good"][odd.session.cells.obs["group"] == "A12"].sum())
    assert f"of which {n_good} are good" in words
    press(qtbot, odd, Qt.Key.Key_A)
    qtbot.mouseClick(odd.check, LEFT)
    qtbot.waitUntil(lambda: odd.note.isVisible(), timeout=120_000)
    assert f"of which {n_good - 1} are good" in odd.note.text.toPlainText()
    odd.note.close()
    # An embedding from elsewhere: no place is kept for pictures that cannot come.
    odd.session.embedding = "measured"
    settled(qtbot, odd)
    assert odd.panel.shown.n_seen == 0
    assert "seen" not in [p[0] for p in odd.panel.places(odd.panel.rect(), odd.panel.shown)]
    # The weights are gone: it is said, and nothing else changes.
    path = odd.session.project.embedding_folder("net") / "key.json"
    path.write_text(path.read_text().replace('"weights": "', '"weights": "no'))
    odd.session.reload()
    odd.session.embedding = "net"
    settled(qtbot, odd)
    qtbot.waitUntil(lambda: "not in this project any more" in odd.panel.shown.seen_words, timeout=60_000)
    assert odd.panel.shown.seen == []
    odd.panel.repaint()
