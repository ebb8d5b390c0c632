"""Tables as they come: every colour, every choice of every view, and clicks, on cells without places or values."""

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QComboBox

from napari_cellrep.gui._explore import VIEWS, ExploreWidget
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._state import session_of

LEFT = Qt.MouseButton.LeftButton


def holes(cells):
    """Columns with holes of every kind; a third of the cells has neither vector nor place on the map."""
    obs, n = cells.obs, cells.n_obs
    rng = np.random.default_rng(0)
    some = rng.random(n) < 0.5
    obs["no_number"] = np.full(n, np.nan)
    obs["half"] = np.where(some, rng.normal(size=n), np.nan)
    obs["endless"] = np.where(some, np.inf, rng.normal(size=n))
    obs["one_number"] = np.where(np.arange(n) == 5, 3.0, np.nan)
    obs["counts"] = pd.array(np.where(some, 3, 7), dtype="Int64")
    obs.loc[obs.index[:9], "counts"] = pd.NA
    obs["yes_no"] = pd.array(some, dtype="boolean")
    obs.loc[obs.index[:9], "yes_no"] = pd.NA
    obs["words"] = pd.Series(np.where(some, "a;b", "a"), index=obs.index, dtype=object).where(
        rng.random(n) < 0.9
    )
    obs["ever_the_same"] = "x"
    obs["each_its_own"] = [f"cell {i}" for i in range(n)]
    obs["Größe (µm²)"] = rng.normal(size=n).astype(np.float32)
    lost = (obs["field"] == "A12").to_numpy()
    cells.obsm["X_measured"][lost] = np.nan
    cells.obsm["X_umap_measured"][lost] = np.nan
    cells.obsm["X_umap_measured"][0] = np.nan
    obs["has_measured"] = ~lost


def nowhere(cells):
    """No cell has a place on the map or a vector."""
    cells.obsm["X_measured"][:] = np.nan
    cells.obsm["X_umap_measured"][:] = np.nan
    cells.obs["has_measured"] = False


def all_alike(cells):
    """All cells are the same cell."""
    cells.obsm["X_measured"][:] = 1
    cells.obsm["X_umap_measured"][:] = 1
    cells.obs["brightness"] = 0.0


def none_good(cells):
    """Every cell is flagged."""
    cells.obs["good"] = False


def two_cells(cells):
    """All are flagged but two."""
    cells.obs["good"] = np.arange(cells.n_obs) < 2


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [holes, nowhere, all_alike, none_good, two_cells])
def test_every_choice_of_every_view(viewer, project, qtbot, monkeypatch, spoil):
    said = []
    monkeypatch.setattr("napari_cellrep.gui._image.show_warning", said.append)
    cells = project.cells
    spoil(cells)
    project.write_cells(cells)
    session, canvas = session_of(viewer), canvas_of(viewer)
    session.open(project.root)
    session.embedding = "measured"
    explore = ExploreWidget(viewer)
    viewer.window.add_dock_widget(explore, area="bottom")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(explore):
        pass
    canvas.show("A01")
    qtbot.waitUntil(lambda: canvas.field == "A01")
    canvas.coloured = True
    view = explore.map
    for column in session.colour_choices:
        session.colour_by = column
        pause(qtbot)
    for by in range(explore.rows_of.count()):
        explore.rows_of.setCurrentIndex(by)
        for at in (QPoint(view.width() // 2, view.height() // 2), QPoint(view.width() - 30, 20)):
            qtbot.mouseMove(view, at)
            qtbot.mouseClick(view, LEFT, pos=at)
        pause(qtbot)
    explore.rows_of.setCurrentIndex(0)
    explore.clouds.setChecked(True)
    explore.density.setChecked(True)
    qtbot.mouseClick(explore.two, LEFT)
    session.select(np.flatnonzero(session.visible)[:40])
    for kind in VIEWS:
        part = explore.view(kind.title)
        pause(qtbot, 100)
        for box in [p for p in vars(part).values() if isinstance(p, QComboBox)]:
            for i in range(box.count()):
                box.setCurrentIndex(i)
                box.activated.emit(i)
                pause(qtbot)
            box.setCurrentIndex(0)
            box.activated.emit(0)
        room = part.rect()
        for share in (0.2, 0.5, 0.8):
            at = QPoint(int(share * room.width()), int(0.7 * room.height()))
            qtbot.mouseClick(part.childAt(at) or part, LEFT, pos=QPoint(9, 9))
        pause(qtbot, 100)
        words = getattr(part, "words", None)
        assert "could not" not in (words.text() if words is not None else ""), (kind.title, words.text())
    table = explore.view("Table")
    for column in range(table.model.columnCount()):
        table.table.horizontalHeader().sectionClicked.emit(column)
    session.invert()
    session.clear()
    session.hide_flagged = False
    pause(qtbot, 200)
    session.undo()
    session.open(None)
    pause(qtbot)
    assert said == []
    canvas.close()


def pause(qtbot, ms=20):
    qtbot.wait(ms)
    QApplication.processEvents()
