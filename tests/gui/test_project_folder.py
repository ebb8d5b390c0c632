"""The project's folder in the window: images that were moved, a read-only share, one step back, uneven light."""

import shutil

import numpy as np
import pytest
from qtpy.QtWidgets import QMessageBox

from _clicks import LONG, card, choose, click, idle, opened
from napari_cellrep.data import Project, open_project
from napari_cellrep.gui.cards._export import KINDS, ExportDialog
from napari_cellrep.gui.cards._light import LightDialog


@pytest.fixture
def own_images(project: Project) -> Project:
    """The project with its images in a folder beside it."""
    import dataclasses

    folder = project.root.parent / "images"
    folder.mkdir()
    fields = []
    for field in project.fields:
        for path in {p for plane in field.planes for p in plane.files(project.root)}:
            shutil.copy2(path, folder / path.name)
        planes = tuple(dataclasses.replace(p, path=f"../images/{path.name}") for p in field.planes)
        fields.append(dataclasses.replace(field, planes=planes))
    project.write_fields(fields)
    return project


@pytest.mark.slow
def test_moved_images_are_found_when_the_project_is_opened(qtbot, dock, own_images):
    images = own_images.root.parent / "images"
    images.rename(images.with_name("week 1"))
    dock.open_project(own_images.root)
    qtbot.waitUntil(lambda: "week 1" in dock.strip.message.text(), timeout=LONG)
    idle(qtbot, dock)
    qtbot.waitUntil(lambda: bool(dock.shown_field()), timeout=LONG)
    assert not open_project(own_images.root).missing()


@pytest.mark.slow
def test_images_that_are_nowhere_are_asked_for_and_the_rest_is_shown(
    qtbot, dock, own_images, tmp_path, monkeypatch
):
    images = own_images.root.parent / "images"
    there = tmp_path / "server" / "far" / "away"
    there.parent.mkdir(parents=True)
    images.rename(there)
    dock.open_project(own_images.root)
    qtbot.waitUntil(lambda: "say in which folder they are" in dock.strip.message.text(), timeout=LONG)
    images_card = card(dock, "images")
    assert dock.session.n_cells > 0
    qtbot.waitUntil(images_card.find.isVisible)
    monkeypatch.setattr(
        "qtpy.QtWidgets.QFileDialog.getExistingDirectory", lambda *_: str(tmp_path / "server")
    )
    click(images_card.find)
    qtbot.waitUntil(lambda: bool(dock.shown_field()), timeout=LONG)
    qtbot.waitUntil(lambda: not images_card.find.isVisible())
    assert "3 fields" in dock.strip.message.text()


@pytest.mark.slow
def test_the_last_step_is_taken_back(qtbot, dock, project):
    project.forget_step()  # that of making the project
    opened(qtbot, dock, project)
    assert not dock.strip.undo.isVisible()
    cells = card(dock, "cells")
    before = cells.status
    click(cells.more.button)
    cells.form.set_value({**cells.form.value(), "debris_share": 0.9})
    cells._judge()
    click(cells.apply)
    idle(qtbot, dock)
    qtbot.waitUntil(lambda: cells.status != before, timeout=LONG)
    qtbot.waitUntil(dock.strip.undo.isVisible)
    assert "the flags" in dock.strip.undo.toolTip()
    click(dock.strip.undo)
    box = dock.findChild(QMessageBox)
    assert "the flags" in box.text()
    click(next(b for b in box.buttons() if b.text() == "Take it back"))
    qtbot.waitUntil(lambda: cells.status == before, timeout=LONG)
    idle(qtbot, dock)
    assert dock.strip.message.text() == "✓ Taken back: the flags."
    qtbot.waitUntil(lambda: not dock.strip.undo.isVisible())


@pytest.mark.slow
def test_a_read_only_project_can_be_looked_at(qtbot, dock, project, tmp_path, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in project.root.rglob("*")}
    monkeypatch.setattr(Project, "read_only", True)
    opened(qtbot, dock, project)
    assert "read-only" in dock.strip.message.text()
    assert "read-only" in card(dock, "images").hint.text()
    assert dock.session.n_cells > 0
    assert not dock.strip.undo.isVisible()
    assert {p: p.stat().st_mtime_ns for p in project.root.rglob("*")} == before


@pytest.mark.slow
def test_uneven_light_is_seen_before_it_is_corrected(qtbot, dock, project):
    opened(qtbot, dock, project)
    images = card(dock, "images")
    raw = dock.canvas.layer("channel", "DNA").data.copy()
    click(images.light)
    dialog = images.findChild(LightDialog)
    qtbot.waitUntil(lambda: "differs" in dialog.words.text(), timeout=LONG)
    assert "⚠ With only 3 fields" in dialog.words.text()
    screen = dialog.screen().availableGeometry()
    assert screen.contains(dialog.ok.mapToGlobal(dialog.ok.rect().bottomRight()))
    assert screen.contains(dialog.frameGeometry())
    assert not dialog.way.model().item(2).isEnabled()  # nothing is corrected yet
    assert open_project(project.root).illumination is None
    choose(dialog.way, "CellProfiler")
    assert not dialog.ok.isEnabled()
    dialog.files.setText(str(project.root / "nowhere"))
    qtbot.waitUntil(lambda: dialog.words.text().endswith("nowhere is not there."), timeout=LONG)
    assert not dialog.ok.isEnabled()
    choose(dialog.way, "estimated")
    qtbot.waitUntil(lambda: dialog.ok.isEnabled() and "differs" in dialog.words.text(), timeout=LONG)
    click(dialog.ok)
    idle(qtbot, dock)
    qtbot.waitUntil(lambda: not np.array_equal(dock.canvas.layer("channel", "DNA").data, raw), timeout=LONG)
    assert "Light:" in images.hint.text()
    assert open_project(project.root).illumination is not None
    click(images.light)  # it begins with how things are
    dialog = images.findChildren(LightDialog)[-1]
    assert dialog.way.currentText().endswith("(as now)")
    choose(dialog.way, "none")
    assert dialog.ok.isEnabled()
    dialog.reject()


@pytest.mark.slow
def test_every_export_has_its_settings(qtbot, dock, project):
    opened(qtbot, dock, project)
    explore = card(dock, "explore")
    click(explore.export)
    dialog = explore.findChild(ExportDialog)
    places = {}
    for i, kind in enumerate(KINDS):
        dialog.kind.setCurrentIndex(i)
        places[kind] = dialog.place.text()
        assert dialog.about.text() == KINDS[kind][2]
        assert dialog.flagged.isVisible() == (kind.startswith("crops") or kind == "spatialdata")
        assert dialog.labels.isVisible() == (kind == "project")
        assert "step" in dialog.value()
    assert places["project"].endswith("three-shared.cellrep")
    assert places["crops"].endswith("three-crops")
    assert places["crops-zarr"].endswith("three-crops.zarr")
    assert places["methods"].endswith("three-methods.txt")
    assert len(set(places.values())) == len(places)  # none replaces another
    out = project.root.parent / "out"
    choose(dialog.kind, "one per group")
    dialog.place.setText(str(out))
    click(dialog.ok)
    idle(qtbot, dock)
    assert (out / "index.csv").is_file()
    assert str(out) in dock.strip.message.text()
    click(explore.export)  # the next one goes to the same folder, and says what it would replace
    dialog = explore.findChildren(ExportDialog)[-1]
    assert dialog.place.text() == str(out.with_name("three.html"))
    assert not dialog.there.isVisible()
    choose(dialog.kind, "one per group")
    dialog.place.setText(str(out))
    assert dialog.there.isVisible()
    dialog.reject()
