"""Learning from labels with real cells and real events: who is taught, asked next, predicted and selected."""

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt

from napari_cellrep.data import open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views.learn import LearnView, queue
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import analyze

LEFT = Qt.MouseButton.LeftButton
LONG = 60_000


@pytest.fixture
def session(viewer, project):
    """A session with two sets, "dim" and "bright", of ten good cells in each of three wells."""
    session = session_of(viewer)
    session.open(project)
    session.embedding = "measured"
    obs = session.cells.obs
    for name, sign in (("dim", 1), ("bright", -1)):
        rows = []
        for well in ("A01", "A12", "E12"):
            own = session.rows_of_field(well)
            own = own[session.visible[own]]
            rows += own[np.argsort(sign * obs["brightness"].to_numpy()[own], kind="stable")][:10].tolist()
        session.select(rows)
        session.save_set(name)
    session.clear()
    return session


@pytest.fixture
def explore(viewer, session, own_folders, qtbot):
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    yield widget
    runner_of(viewer).close()


def learned(session, **options):
    """Let the step run here, as the command line does."""
    drain(analyze(session.project, recipe="learn", embedding="measured", **options))
    session.reload()


def settled(qtbot, view):
    """Wait until the queue is made."""
    qtbot.waitUntil(lambda: bool(len(view.rows)), timeout=LONG)


def selected(session) -> set[str]:
    return set(session.cells.obs_names[session.selected])


@pytest.mark.slow
def test_from_a_click_to_predictions_and_on_to_more_labels(explore, session, qtbot, viewer):
    view = explore.view("Learn")
    assert isinstance(view, LearnView)
    assert view.ticked == ["dim", "bright"]
    assert not view.next.isEnabled()
    assert view.train.text() == "Learn from 2 sets"
    qtbot.mouseClick(view.train, LEFT)
    assert not view.train.isEnabled()
    qtbot.waitUntil(lambda: view._handle is None and bool(view._made), timeout=LONG)
    obs = open_project(session.project.root).cells.obs
    assert np.array_equal(obs["predicted_measured"].notna(), obs["good"])
    assert "balanced accuracy" in view.words.text()
    settled(qtbot, view)
    sure = session.cells.obs["sure_measured"].to_numpy()
    labelled = {i for made in session.sets.values() for i in made["cells"]}
    assert {session.cell_id(r) for r in view.rows} == set(obs.index[obs["good"]]) - labelled
    assert (np.diff(sure[view.rows]) >= 0).all()

    first, second = map(int, view.rows[:2])
    qtbot.mouseClick(view.next, LEFT)
    assert session.focus == first
    assert selected(session) == {session.cell_id(first)}
    qtbot.waitUntil(lambda: canvas_of(viewer).field == session.place(first)[0], timeout=LONG)
    qtbot.keyClick(view.grid, Qt.Key.Key_2)  # into the second set
    assert session.cell_id(first) in session.sets["bright"]["cells"]
    qtbot.waitUntil(lambda: session.focus == second, timeout=LONG)
    assert selected(session) == {session.cell_id(second)}
    assert first not in view.rows
    assert "have changed since" in view.words.text()
    third = int(view.rows[1])
    qtbot.keyClick(view.grid, Qt.Key.Key_N)
    assert session.focus == third
    qtbot.keyClick(view.grid, Qt.Key.Key_P)
    assert session.focus == second
    qtbot.mouseClick(view.on_map, LEFT)
    assert session.colour_by == "predicted_measured"
    assert {t for t, _ in explore.map.colours.legend} == {"dim", "bright", "no value"}


def test_a_square_of_the_matrix_selects_its_cells(explore, session, qtbot):
    learned(session)
    view = explore.view("Learn")
    assert view.matrix.isVisible()
    obs, made = session.cells.obs, provenance(session.cells)["learn_measured"]["numbers"]
    for i, a in enumerate(made["classes"]):
        for j, b in enumerate(made["classes"]):
            at = view.matrix.rect_of(i, j).center().toPoint()
            session.select([0])
            qtbot.mouseClick(view.matrix, LEFT, pos=at)
            square = (obs["taught_measured"] == a) & (obs["predicted_measured"] == b)
            assert selected(session) == set(obs.index[square])
            assert session.n_selected == made["confusion"][i][j]
            assert f"{made['confusion'][i][j]:,} of the 30 cells" in view.matrix.words_of(i, j)
    shift = Qt.KeyboardModifier.ShiftModifier
    qtbot.mouseClick(view.matrix, LEFT, pos=view.matrix.rect_of(0, 0).center().toPoint())
    qtbot.mouseClick(view.matrix, LEFT, shift, view.matrix.rect_of(1, 1).center().toPoint())
    assert session.n_selected == made["confusion"][0][0] + made["confusion"][1][1]
    qtbot.keyClick(view.matrix, Qt.Key.Key_Up)  # by the keyboard: from (1, 1) to (0, 1)
    qtbot.keyClick(view.matrix, Qt.Key.Key_Return)
    assert session.n_selected == made["confusion"][0][1]


def test_it_comes_back_with_the_project(viewer, session, project, qtbot):
    session.select([int(np.flatnonzero(session.visible)[5])])
    session.save_set("aside")
    learned(session, sets="dim,bright")
    session.open(None)
    session.open(open_project(project.root))
    session.embedding = "measured"
    view = LearnView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    assert view.ticked == ["dim", "bright"]
    assert view.matrix.counts.sum() == 60
    assert view.train.text() == "Learn again"
    item = view.sets.item(2)
    assert item.text().startswith("3  aside")
    item.setCheckState(Qt.CheckState.Checked)
    assert view.train.text() == "Learn from 3 sets"
    assert "Other sets are ticked" in view.unlearned
    view.disconnect_session()


def test_the_surest_of_one_kind(explore, session, qtbot):
    learned(session)
    view = explore.view("Learn")
    settled(qtbot, view)
    view.which.setCurrentText("predicted as bright")
    obs = session.cells.obs
    qtbot.waitUntil(lambda: set(obs["predicted_measured"].iloc[view.rows]) == {"bright"}, timeout=LONG)
    assert (np.diff(obs["sure_measured"].to_numpy()[view.rows]) <= 0).all()


def test_one_field_and_other_reasons_are_told(viewer, session, qtbot):
    view = LearnView(session, canvas_of(viewer))
    qtbot.addWidget(view)
    session.select(session.rows_of_field("A01")[:20])
    session.save_set("here")
    assert view.sets.count() == 3
    learned(session, sets="here,bright")
    assert view.matrix.isHidden()
    assert "Nothing can be told" in view.untold.text()
    for i in range(3):
        view.sets.item(i).setCheckState(Qt.CheckState.Unchecked)
    assert not view.train.isEnabled()
    assert "Tick two sets" in view.train.toolTip()
    session.open(None)
    assert "segment the images" in view.train.toolTip()
    assert not len(view.rows)
    view.disconnect_session()


@pytest.mark.slow
def test_what_goes_wrong_is_said_and_can_be_tried_again(explore, session, qtbot):
    view = explore.view("Learn")
    session.remove_set("dim")
    assert not view.train.isEnabled()
    assert "Two sets are enough" in view.words.text()
    session.select([int(np.flatnonzero(session.visible)[0])])
    session.save_set("one")
    qtbot.mouseClick(view.train, LEFT)
    qtbot.waitUntil(lambda: view._handle is None, timeout=LONG)
    assert "fewer than 2 cells" in view.words.text()
    assert view.train.isEnabled()


def test_the_queue_leaves_out_what_is_named_hidden_or_not_predicted():
    obs = pd.DataFrame(
        {"sure_m": [0.9, 0.5, np.nan, 0.6, 0.7, 0.55], "predicted_m": ["a", "b", None, "b", "a", "a"]},
        index=list("uvwxyz"),
    )
    visible = np.array([1, 1, 1, 1, 0, 1], bool)
    assert queue(obs, "m", [["v", "gone"]], visible).tolist() == [5, 3, 0]
    assert queue(obs, "m", [], visible, "a").tolist() == [0, 5]
