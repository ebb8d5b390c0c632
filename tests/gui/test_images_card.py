"""Card 1: presets, what files are understood as, and next week's plate."""

import shutil

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QMessageBox

from _clicks import LONG, card, choose, click, idle, opened, run
from napari_cellrep.data import open_project
from napari_cellrep.gui.cards._files import FilesDialog, RowsDialog, TableDialog
from napari_cellrep.gui.cards.images import PRESETS
from napari_cellrep.jobs import drain
from napari_cellrep.specs import ROLES, Channel
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.sample import SAMPLE
from napari_cellrep.steps.segment import segment


def looked(qtbot, dialog):
    qtbot.waitUntil(
        lambda: (
            not dialog._soon.isActive()
            and dialog._asked is None
            and "Looking" not in dialog.understood.text()
        ),
        timeout=LONG,
    )


def column(dialog, name):
    j = dialog.COLUMNS.index(name)
    return [dialog.fields.item(i, j).text() for i in range(dialog.fields.rowCount())]


def test_a_preset_says_what_all_channels_show(qtbot, dock, project):
    project.set_channels([Channel("w1"), Channel("w2")])
    opened(qtbot, dock, project)
    images = card(dock, "images")
    choose(dock.cards["model"].model, "Paired Cell Inpainting")
    dock.refresh()
    assert images.fits.text().startswith("⚠ Paired Cell Inpainting (card 4) wants")
    assert "you have other, other" in images.fits.text()
    names = list(PRESETS)
    assert not images.preset.model().item(1 + names.index("Cell Painting")).isEnabled()
    assert "For 5 channels" in images.preset.model().item(1 + names.index("Cell Painting")).toolTip()
    choose(images.preset, "DNA and protein")
    assert [c.role for c in open_project(project.root).channels] == ["nucleus", "protein"]
    assert images.fits.text().startswith("✓")
    assert images.preset.currentText() == "Preset…"


def test_a_preset_for_layers(qtbot, dock, viewer):
    for i in range(4):
        viewer.add_image(np.zeros((8, 8)), name=f"channel {i}")
    qtbot.wait(50)
    images = card(dock, "images")
    choose(images.preset, "Human Protein Atlas")
    assert [box.currentData() for *_, box in images._layer_rows] == [
        "microtubules",
        "protein",
        "nucleus",
        "er",
    ]


def test_presets_are_roles():
    assert all(set(roles) <= set(ROLES) for roles in PRESETS.values())


def test_files_are_shown_as_they_are_understood_before_anything_is_made(qtbot, dock, tmp_path):
    folder = tmp_path / "plate"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for well in ("A01", "A02"):
        for channel in ("GFP", "DNA"):
            plane = rng.integers(0, 999, (20, 30)).astype(np.uint16)
            tifffile.imwrite(folder / f"{well}_s1_{channel}.tif", plane)
    (folder / "notes_GFP.tif").write_bytes((folder / "A01_s1_GFP.tif").read_bytes())
    images = card(dock, "images")
    click(images.files)
    dialog = images.findChild(FilesDialog)
    assert not dialog.ok.isEnabled()
    assert dialog.ok.toolTip() == "Say the images and where the project goes first"
    dialog.images.setText(str(folder))
    looked(qtbot, dialog)
    assert "<b>5 fields</b> from 5 files" in dialog.understood.text()
    dialog.pattern.setText("{well}_{site}_{channel}.tif")
    looked(qtbot, dialog)
    assert "<b>2 fields</b> from 5 files; channels DNA (nucleus), GFP (protein)." in dialog.understood.text()
    assert "1 file does not fit" in dialog.understood.text()
    assert column(dialog, "field") == ["A01_s1", "A02_s1"]
    assert column(dialog, "well") == ["A01", "A02"]
    assert column(dialog, "size") == ["30 × 20 px"] * 2
    dialog.channels.setText("red:protein")
    looked(qtbot, dialog)
    assert dialog.understood.text().startswith("⚠ There are names for 1 channels")
    assert dialog.fields.rowCount() == 0
    dialog.channels.setText("GFP:protein, DNA:nucleus")
    dialog.place.setText(str(tmp_path / "mine.cellrep"))
    looked(qtbot, dialog)
    click(dialog.ok)
    idle(qtbot, dock)
    assert [f.id for f in dock.session.project.fields] == ["A01_s1", "A02_s1"]


@pytest.mark.slow
def test_next_weeks_plate_and_the_same_for_it(qtbot, dock, project, tmp_path):
    drain(segment(project, overwrite=True))
    from napari_cellrep.steps.crop import crop

    drain(crop(project))
    drain(embed(project, model="measurements"))
    before = project.cells.n_obs
    week2 = tmp_path / "week2"
    week2.mkdir()
    for well in ("A05", "E06"):
        shutil.copy(SAMPLE / "wells" / f"{well}.ome.tif", week2)
    opened(qtbot, dock, project)
    images = card(dock, "images")
    assert not images.again.isVisible()
    click(images.add)
    dialog = images.findChild(FilesDialog)
    dialog.images.setText(str(week2))
    looked(qtbot, dialog)
    assert (
        "<b>2 fields</b> from 2 files; channels FKHR-GFP (protein), DNA (nucleus)."
        in dialog.understood.text()
    )
    click(dialog.ok)
    idle(qtbot, dock)
    assert dock.strip.message.text() == "✓ 2 fields added."
    assert images.status == "5 fields · 2 channels ✓"
    assert dock.cards["segment"].status.endswith("cells in 3 of 5 fields ○")
    assert images.again.text() == "Do the same for the 2 new fields"
    said = run(qtbot, dock, images.again)
    cells = open_project(project.root).cells
    assert said.startswith(f"✓ {cells.n_obs - before:,} new cells in 2 fields; embedded as measurements")
    assert np.isfinite(cells.obsm["X_measurements"]).all()
    assert not images.again.isVisible()
    # The same files once more are refused in words.
    click(images.add)
    dialog = images.findChildren(FilesDialog)[-1]
    dialog.images.setText(str(week2))
    looked(qtbot, dialog)
    assert column(dialog, "problem") == ["⚠ in the project already"] * 2
    click(dialog.ok)
    idle(qtbot, dock)
    assert "has 2 fields (A05, E06) already" in dock.strip.message.text()


def test_a_layout_is_found_and_can_be_overruled_and_tables_are_checked_by_row(qtbot, dock, tmp_path):
    folder = tmp_path / "P1"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for well in ("A01", "A02"):
        for w in (1, 2):
            if (well, w) != ("A02", 2):
                tifffile.imwrite(
                    folder / f"P1_{well}_s1_w{w}.TIF", rng.integers(0, 999, (20, 30)).astype(np.uint16)
                )
    tifffile.imwrite(folder / "overview.tif", np.zeros((4, 4), np.uint8))
    table = tmp_path / "t.csv"
    table.write_text("well,drug\nA1,x\nA2,y\nB9,z\n")
    images = card(dock, "images")
    click(images.files)
    dialog = images.findChild(FilesDialog)
    dialog.images.setText(str(folder))
    dialog.table.setText(str(table))
    looked(qtbot, dialog)
    words = dialog.understood.text()
    assert "3 of 4 files are named as by ImageXpress" in words
    assert "⚠ 1 file does not fit the names, such as overview.tif" in words
    assert "⚠ P1_A02_1 has no file for channel 2." in words
    assert column(dialog, "well") == ["A01", "A02"]
    assert column(dialog, "known")[0] == "drug x"
    assert [dialog.names.item(i, 1).text() for i in range(2)] == [
        "⚠ does not fit",
        "plate P1, well A01, site 1, channel 1",
    ]
    assert [dialog.rows.item(0, j).text() for j in range(3)] == ["4", "B09", "no field belongs to it"]
    assert dialog.tabs.tabText(dialog.tabs.indexOf(dialog.rows)) == "Table (⚠ 1)"
    choose(dialog.layout_box, "each file is a field")
    looked(qtbot, dialog)
    assert "<b>4 fields</b> from 4 files" in dialog.understood.text()
    assert "⚠ t.csv cannot be joined to the fields" in dialog.understood.text()
    assert not dialog.tabs.isTabVisible(dialog.tabs.indexOf(dialog.names))
    choose(dialog.layout_box, "Human Protein Atlas (a file")
    looked(qtbot, dialog)
    assert dialog.understood.text().startswith("⚠ The layout 'hpa' fits none of 4 files")
    dialog.reject()


@pytest.mark.slow
def test_crops_are_opened_from_the_same_dialog(qtbot, dock, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "cells.npz",
        x=rng.integers(1, 250, (9, 2, 16, 16)).astype(np.uint8),
        phase=np.array(list("abcabcabc")),
    )
    images = card(dock, "images")
    click(images.files)
    dialog = images.findChild(FilesDialog)
    dialog.images.setText(str(tmp_path / "cells.npz"))
    dialog.crops.setChecked(True)
    looked(qtbot, dialog)
    assert "9 crops</b>, each a cell, of 16 × 16 px" in dialog.understood.text()
    assert dialog.known.item(0, 0).text() == "phase"
    assert dialog.known.item(0, 1).text() == "a (3), b (3), c (3)"
    assert column(dialog, "cells") == ["9"]
    dialog.crops.setChecked(False)  # and as images of many cells
    looked(qtbot, dialog)
    assert dialog.understood.text().startswith("⚠ cells.npz is not an image. If each picture is one cell")
    dialog.crops.setChecked(True)
    looked(qtbot, dialog)
    dialog.channels.setText("GFP:protein, DNA:nucleus")
    assert dialog.place.text() == str(tmp_path / "cells.cellrep")
    click(dialog.ok)
    idle(qtbot, dock)
    project = dock.session.project
    assert not project.undoable  # the cells came with the import, and would be lost
    assert not dock.strip.undo.isVisible()
    assert project.cells.n_obs == 9
    assert "phase" in project.cells.obs
    drain(embed(project, model="measurements"))
    dock.open_project(project.root)
    idle(qtbot, dock)
    vectors = dock.session.project.cells.obsm["X_measurements"].copy()

    np.savez(
        tmp_path / "week2.npz",
        x=rng.integers(1, 250, (5, 2, 16, 16)).astype(np.uint8),
        phase=np.array(list("abbbd")),
    )
    images = card(dock, "images")
    assert images.add.text() == "Add crops…"
    click(images.add)
    dialog = images.findChildren(FilesDialog)[-1]
    assert dialog.windowTitle() == "Add crops to cells"
    dialog.images.setText(str(tmp_path / "week2.npz"))
    looked(qtbot, dialog)
    assert "5 crops</b>, each a cell" in dialog.understood.text()
    click(dialog.ok)
    idle(qtbot, dock)
    cells = dock.session.project.cells
    assert cells.n_obs == 14
    assert "✓ 5 cells added" in dock.strip.message.text()
    images = card(dock, "images")
    assert images.again.text() == "Do the same for the 1 new contact sheet"
    click(images.again)
    idle(qtbot, dock)
    cells = dock.session.project.cells
    assert cells.obs["has_measurements"].all()
    np.testing.assert_array_equal(cells.obsm["X_measurements"][:9], vectors)
    assert not images.again.isVisibleTo(images)


@pytest.mark.slow
def test_another_table_for_the_open_project(qtbot, dock, project, tmp_path):
    opened(qtbot, dock, project)
    table = tmp_path / "t.csv"
    table.write_text(
        "well,batch\n" + "\n".join(f"{f.id},b{i}" for i, f in enumerate(project.fields)) + "\nH12,lost\n"
    )
    images = card(dock, "images")
    click(images.table)
    dialog = images.findChild(TableDialog)
    assert not dialog.ok.isEnabled()
    dialog.table.setText(str(table))
    click(dialog.ok)
    idle(qtbot, dock)
    said = dock.strip.message.text()
    assert said.startswith(f"✓ {len(project.fields)} fields have batch from the table.")
    assert "No field belongs to 1 row (H12)" in said
    (told,) = images.findChildren(RowsDialog)  # by row, where it can be mended
    assert told.windowTitle() == "1 row of the table was not used"
    assert [told.rows.item(0, j).text() for j in range(2)] == [str(len(project.fields) + 2), "H12"]
    assert told.rows.item(0, 2).text()
    told.close()
    fields = open_project(project.root).fields
    assert [f.metadata["batch"] for f in fields] == [f"b{i}" for i in range(len(fields))]
    assert "compound" in fields[0].metadata
    assert dock.session.project.fields[0].metadata["batch"] == "b0"


def test_a_project_that_another_computer_holds_is_freed_once_a_person_says_so(qtbot, dock, project):
    held = project.root / ".lock-held"
    held.write_text("4321\nscope-pc\n", encoding="utf-8")  # as a share without file locks has it
    opened(qtbot, dock, project)
    images = card(dock, "images")
    assert "Process 4321 on scope-pc" in images.hint.text()
    assert images.status.endswith("⚠")
    click(images.unlock)
    (box,) = images.findChildren(QMessageBox)
    assert "Process 4321 on scope-pc" in box.text()
    yes = next(b for b in box.buttons() if b.text() == "Unlock")
    click(yes)
    qtbot.waitUntil(lambda: not images.unlock.isVisible())
    assert not held.exists()
    assert "scope-pc" in dock.strip.message.text()
    assert "scope-pc" not in images.hint.text()
    assert images.status.endswith("✓")


def test_what_cannot_become_a_project_is_said_before_import(qtbot, dock, tmp_path):
    folder = tmp_path / "plate"
    folder.mkdir()
    tifffile.imwrite(folder / "A01.tif", np.arange(600, dtype=np.uint16).reshape(20, 30))
    images = card(dock, "images")
    click(images.files)
    dialog = images.findChild(FilesDialog)
    dialog.images.setText(str(folder / "*.tif"))
    looked(qtbot, dialog)
    assert dialog.place.text() == str(tmp_path / "plate.cellrep")
    assert dialog.ok.isEnabled()
    dialog.images.setText(str(tmp_path / "nowhere"))
    looked(qtbot, dialog)
    assert dialog.understood.text().endswith("nowhere is not there.")
    assert not dialog.ok.isEnabled()
    assert dialog.ok.toolTip().endswith("nowhere is not there.")
    dialog.images.setText(str(folder))
    looked(qtbot, dialog)
    assert dialog.ok.isEnabled()
    (tmp_path / "have.cellrep").mkdir()
    dialog.place.setText(str(tmp_path / "have"))
    assert "have.cellrep is there already" in dialog.place_words.text()
    assert not dialog.ok.isEnabled()
    dialog.images.setText(str(folder / "A01.tif"))
    assert dialog.place.text().endswith("have")  # a place that was said stays
    dialog.place.setText(str(folder / "A01.tif" / "inside"))
    assert "choose another place" in dialog.place_words.text()
    dialog.place.setText(str(tmp_path / "new"))
    assert not dialog.place_words.isVisible()
    assert dialog.ok.isEnabled()
    dialog.reject()


def test_stacks_and_colours_ask_what_they_are(qtbot, dock, tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 999, (5, 20, 30)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "A01.ome.tif", stack, ome=True, metadata={"axes": "ZYX"})
    picture = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "A02.tif", picture, photometric="rgb")
    images = card(dock, "images")
    click(images.files)
    dialog = images.findChild(FilesDialog)
    for name, box, answer, channels in (
        ("A01.ome.tif", dialog.depth, "brightest", 1),
        ("A02.tif", dialog.colour, "red, green and blue", 3),
    ):
        assert not box.isVisible()
        dialog.images.setText(str(tmp_path / name))
        looked(qtbot, dialog)
        assert dialog.understood.text().startswith("⚠")
        assert not dialog.ok.isEnabled()
        assert box.isVisible()
        choose(box, answer)
        looked(qtbot, dialog)
        assert "<b>1 field</b>" in dialog.understood.text()
        assert dialog.understood.text().count("(other)") == channels
        assert dialog.ok.isEnabled()
    dialog.reject()
