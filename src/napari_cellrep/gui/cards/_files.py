"""The dialogs of card 1: which files become a project and how they are understood, and another table for it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
)

from napari_cellrep.data.crop_files import ARRAY_SUFFIXES
from napari_cellrep.data.layouts import LAYOUTS, NONE
from napari_cellrep.data.project import project_root
from napari_cellrep.data.tables import TABLES
from napari_cellrep.gui._sample import projects_folder
from napari_cellrep.gui.cards._parts import button, combo, into_sight, refill, text, while_open
from napari_cellrep.steps.import_crops import made_of_crops

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.images import ImagesCard

LOOK_AFTER_MS = 400  # how long typing rests before the files are looked at
_TABLES = f"Tables ({' '.join('*' + t for t in TABLES)})"
# What only a person knows of some files: (answer, what the import gets).
DEPTH = (("not said yet", ""), ("keep the brightest of each place", "max"), ("keep the mean", "mean"),
         ("keep the sharpest plane", "sharpest"))  # fmt: skip
COLOUR = (("not said yet", ""), ("grey: one channel", "grey"), ("red, green and blue are channels", "split"))


class FilesDialog(QDialog):
    """Which files, which channels, which table, and where the project goes; and how they are understood.

    Parameters
    ----------
    parent : ImagesCard
    adding : bool
        For fields (of a project of crops: crops) that are added to the open project: its channels and rules apply, and its
        place is known.
    """

    COLUMNS = ("field", "well", "site", "size", "cells", "known", "problem")

    def __init__(self, parent: ImagesCard, adding: bool = False):
        super().__init__(parent)
        self.card, self.adding = parent, adding
        name = parent.project.name if adding else ""
        self.to_crops = adding and made_of_crops(parent.project)
        what = "crops" if self.to_crops else "images"
        self.setWindowTitle(f"Add {what} to {name}" if adding else "New project from files")
        self.images, self.channels, self.pattern = QLineEdit(), QLineEdit(), QLineEdit()
        self.table, self.place = QLineEdit(), QLineEdit()
        self.layout_box = combo(
            "How microscopes and screens name their files: it says which files make up a field, its well and its channels"
        )
        refill(
            self.layout_box,
            [
                ("found from the names", ""),
                *((la.title, la.name) for la in LAYOUTS),
                ("each file is a field", NONE),
            ],
        )
        self.layout_box.currentIndexChanged.connect(lambda _: self._look_soon())
        self.depth = combo(
            "What becomes of the planes of a z-stack: networks and outlines work on flat images"
        )
        refill(self.depth, DEPTH)
        self.colour = combo("What the pictures' colours are: one grey picture, or a channel each")
        refill(self.colour, COLOUR)
        for box in (self.depth, self.colour):
            box.currentIndexChanged.connect(lambda _: self._look_soon())
        self.crops = QCheckBox("Each image is one cell (ready-made crops)")
        self.crops.setToolTip(
            "Crops: small pictures of single cells, as files, a zip, or arrays (npz, npy, HDF5); nothing has to be segmented"
        )
        self.crops.setChecked(self.to_crops)
        self.crops.toggled.connect(lambda _: self._of_crops())
        self.channels.setPlaceholderText("FKHR-GFP:protein, DNA:nucleus (in plane order)")
        self.pattern.setPlaceholderText(
            "as for the project's first images (may stay empty)"
            if adding
            else "{well}_{site}_{channel}.tif, instead of a layout"
        )
        self.place.setPlaceholderText("the project's folder, such as plate1.cellrep")
        self.place_words = text(least_px=400)
        self.place_words.hide()
        layout = QFormLayout(self)
        for words, edit, pick in (
            ("Images", self.images, self._pick_images),
            ("Layout", self.layout_box, None),
            ("Channels", self.channels, None),
            ("File names", self.pattern, None),
            ("Plate table", self.table, self._pick_table),
            ("Project", self.place, self._pick_place),
        ):
            if adding and edit in (self.channels, self.place):
                continue
            if edit is self.layout_box:
                layout.addRow(words, edit)
                layout.addRow("Depth (z)", self.depth)
                layout.addRow("Colours", self.colour)
                continue
            row = QHBoxLayout()
            row.addWidget(edit, 1)
            edit.setMinimumWidth(340)
            edit.textChanged.connect(lambda _: self._look_soon())
            if pick:
                made = button("…", pick)
                made.setFixedWidth(30)
                made.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
                row.addWidget(made)
            if edit is self.images:
                made.setToolTip("Choose a folder")
                some = button("Files…", self._pick_files, "Choose images, a zip, arrays, or a load_data.csv")
                some.setFixedWidth(60)
                some.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
                row.addWidget(some)
            layout.addRow(words, row)
            if edit is self.images and not adding:
                layout.addRow("", self.crops)
            if edit is self.place:
                layout.addRow("", self.place_words)
        self.understood = text(least_px=480)
        self.fields = _sheet(
            ["Field", "Well", "Site", "Size", "Cells", "Known of it", "Problem"],
            "How the files are understood",
        )
        self.names = _sheet(["File", "Read as"], "What is read from each name")
        self.rows = _sheet(["Row", "Of", "Problem"], "Rows of the table that do not fit")
        self.known = _sheet(["Column", "Values, with how many cells have each"], "What is known of the crops")
        self.tabs = QTabWidget()
        for sheet, words in (
            (self.known, "Known of them"), (self.fields, "Fields"), (self.names, "File names"), (self.rows, "Table"),
        ):  # fmt: skip
            self.tabs.addTab(sheet, words)
        self.tabs.setMinimumHeight(200)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.ok.setText("Add" if adding else "Import")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        for item in (self.understood, self.tabs, self.buttons):
            layout.addRow(item)
        self.setMinimumWidth(620)
        self.form = layout
        for box in (self.depth, self.colour):
            layout.setRowVisible(box, False)  # until the files ask
        self._asked: dict[str, Any] | None = None
        self._wrong = ""  # what is wrong with the files as they are named now
        self._proposed = ""  # the project's place, as long as nobody has said another one
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(LOOK_AFTER_MS)
        self._soon.timeout.connect(self._look)
        self.images.textChanged.connect(self._propose_place)
        for edit in (self.images, self.place):
            edit.textChanged.connect(self._check)
        self._say("Choose the images; how they are understood is shown here before anything is made.")
        self._of_crops()
        self._check()

    def _of_crops(self) -> None:
        """Say what is wanted of crops, or of images of many cells."""
        crops = self.crops.isChecked()
        self.images.setPlaceholderText(
            "a folder or zip of crops, or npz, npy and HDF5 files; several with ; between"
            if crops
            else "a folder, files, plate1/*.tif, or load_data.csv; several with ; between"
        )
        self.table.setPlaceholderText(
            "a row per crop with its file's name (when empty: the one beside the crops)"
            if crops
            else "CSV, Excel or parquet with a row per well or file (may stay empty)"
        )
        self._look_soon()

    def _check(self) -> None:
        lacking = [] if self.images.text().strip() else ["the images"]
        place = self.place.text().strip()
        if not self.adding and not place:
            lacking.append("where the project goes")
        wrong = f"Say {' and '.join(lacking)} first" if lacking else self._wrong
        taken = ""
        if place and not self.adding:
            root = project_root(place)
            if root.exists():
                taken = f"{root.name} is there already: choose another name, or open it and add images to it."
            elif not _can_be_made(root):
                taken = f"Nothing can be written to {root.parent}: choose another place."
        self.place_words.setText(f"⚠ {taken}" if taken else "")
        self.place_words.setVisible(bool(taken))
        self.ok.setEnabled(not (wrong or taken))
        self.ok.setToolTip(wrong or taken)

    def _propose_place(self) -> None:
        """Beside the images; with the unsaved projects where nothing can be written there."""
        if self.adding or self.place.text().strip() != self._proposed:
            return
        first = Path(self.images.text().partition(";")[0].strip()).expanduser()
        while any(sign in first.name for sign in "*?["):
            first = first.parent
        if not first.name or not first.exists():
            return
        name = f"{first.name if first.is_dir() else first.name.partition('.')[0]}.cellrep"
        folder = first.absolute().parent
        self._proposed = str(free_place((folder if os.access(folder, os.W_OK) else projects_folder()) / name))
        self.place.setText(self._proposed)

    # ---- how they are understood ----

    def _say(self, words: str) -> None:
        self.understood.setText(words)
        self.tabs.setVisible(any(sheet.rowCount() for sheet in self._sheets))
        if self.isVisible():
            QTimer.singleShot(0, while_open(lambda: into_sight(self)))  # its buttons too

    @property
    def _sheets(self) -> tuple[QTableWidget, ...]:
        return (self.known, self.fields, self.names, self.rows)

    def _look_soon(self) -> None:
        self._soon.start()

    def _look(self) -> None:
        """Ask how the files would be understood; the newest question is the one that is answered."""
        values = self.value()
        values.pop("path", None)
        if not values["images"] or self._asked is not None:
            return
        if self.adding:
            values["project"] = str(self.card.project.root)
        values["crops"] = crops = self.crops.isChecked()
        self._asked = values
        self._say("Looking at the files…")
        asked = {k: v for k, v in values.items() if k != "crops"}
        self.card.dock.runner.ask(
            "import_crops.preview_crops" if crops else "import_fields.preview_import", None,
            functools.partial(self._on_looked, values), functools.partial(self._on_trouble, values), **asked,
        )  # fmt: skip

    def _is_newest(self, values: dict[str, Any]) -> bool:
        self._asked = None
        now = {**self.value(), "crops": self.crops.isChecked()}
        if all(now.get(k) == v for k, v in values.items() if k != "project"):
            return True
        self._look()
        return False

    def _on_trouble(self, values: dict[str, Any], sentence: str) -> None:
        with contextlib.suppress(RuntimeError):  # the dialog was closed meanwhile
            if self._is_newest(values):
                for box, asked in ((self.depth, "how to flatten it"), (self.colour, "is a colour image")):
                    if asked in sentence:
                        self.form.setRowVisible(box, True)
                self._clear()
                self._say(f"⚠ {sentence}")
                self._judge(sentence)

    def _clear(self) -> None:
        for sheet in self._sheets:
            sheet.setRowCount(0)

    def _on_looked(self, values: dict[str, Any], found: Mapping[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):
            if self._is_newest(values):
                self._judge("")
                (self._show_crops if values["crops"] else self._show)(found)

    def _judge(self, wrong: str) -> None:
        self._wrong = wrong
        self._check()

    def _show_rows(self, rows: Sequence[Mapping[str, str]], title: str) -> None:
        self.fields.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, column in enumerate(self.COLUMNS):
                words = row.get(column, "")
                item = QTableWidgetItem(("⚠ " if column == "problem" and words else "") + words)
                item.setToolTip(words)
                self.fields.setItem(i, j, item)
        for j, column in enumerate(self.COLUMNS):
            self.fields.setColumnHidden(j, not any(row.get(column) for row in rows))
        self.fields.horizontalHeaderItem(0).setText(title)
        self.tabs.setTabText(self.tabs.indexOf(self.fields), f"{title}s")
        self.fields.resizeColumnsToContents()

    def _show_crops(self, found: Mapping[str, Any]) -> None:
        n, looked_at = found["n_cells"], found["n_looked_at"]
        words = f"<b>{n:,} crops</b>, each a cell, of {found['sizes']}"
        words += f" (of {looked_at:,} looked at)" if looked_at < n else ""
        words += f"; channels {', '.join(found['channels'])}."
        sheets = found["n_sheets"]
        words += f" {sheets:,} contact sheet{'s' * (sheets != 1)}"
        words += f"; the first {len(found['rows'])}:" if len(found["rows"]) < sheets else "."
        if found["seen"]:
            words += f"<br>{found['seen']}"
        words += "".join(f"<br>⚠ {sentence}" for sentence in found["notes"])
        self._show_rows(found["rows"], "Contact sheet")
        _fill(self.known, found["columns"])
        self._show_misfits(found["unused"], [], found["mistakes"], "⚠ of no cell")
        self._say(words)

    def _show_misfits(
        self,
        left: Sequence[str],
        fit: Sequence[Sequence[str]],
        mistakes: Sequence[tuple[int, str, str]],
        wrong: str,
    ) -> None:
        """Fill the tabs of file names and of the table's rows; those with nothing to say are not there."""
        _fill(self.names, [(name, wrong) for name in left[:FILES_SHOWN]] + [(a, b) for a, b in fit])
        _fill(self.rows, [(str(row), name, why) for row, name, why in mistakes[:ROWS_SHOWN]])
        for sheet, title, n in (
            (self.names, "File names", len(left)), (self.rows, "Table", len(mistakes)), (self.known, "Known of them", 0),
        ):  # fmt: skip
            at = self.tabs.indexOf(sheet)
            self.tabs.setTabVisible(at, sheet.rowCount() > 0)
            self.tabs.setTabText(at, f"{title} (⚠ {n:,})" if n else title)

    def _show(self, found: Mapping[str, Any]) -> None:
        rows, n = found["rows"], found["n_fields"]
        self._show_rows(rows, "Field")
        words = f"<b>{found['series']}</b>: " if found["series"] else ""
        files = found["n_files"]
        words += f"<b>{n:,} field{'s' * (n != 1)}</b> from {files:,} file{'s' * (files != 1)}"
        words += f"; channels {', '.join(found['channels'])}."
        if len(rows) < found["n_units"]:
            words += f" The first {len(rows)}:"
        if found["why"]:
            words += f"<br>{found['why']}"
        if left := found["unfit"]:
            verb = "do" if len(left) > 1 else "does"
            words += f"<br>⚠ {len(left):,} file{'s' * (len(left) > 1)} {verb} not fit the names, such as {left[0]}."
        lacking = found["lacking"]
        if lacking:
            words += f"<br>⚠ {lacking[0]}" + (
                f" So do {len(lacking) - 1:,} more." if len(lacking) > 1 else ""
            )
        words += "".join(f"<br>⚠ {sentence}" for sentence in (*found["hints"][:3], *found["table"]))
        self.known.setRowCount(0)
        self._show_misfits(left, found["fit"], found["mistakes"], "⚠ does not fit")
        self._say(words)

    # ---- choosing ----

    def _pick_images(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder with the images"):
            self.images.setText(folder)

    def _pick_files(self) -> None:
        paths = QFileDialog.getOpenFileNames(self, "Images, a zip, arrays, or a table that lists them")[0]
        if paths:
            self.images.setText("; ".join(paths))
            one = Path(paths[0])
            if one.suffix.lower() in (".zip", *ARRAY_SUFFIXES):
                self.crops.setChecked(True)

    def _pick_table(self) -> None:
        if path := QFileDialog.getOpenFileName(self, "Plate table", filter=_TABLES)[0]:
            self.table.setText(path)

    def _pick_place(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "Project folder", self.place.text())[0]:
            self.place.setText(path)

    def value(self) -> dict[str, Any]:
        """Arguments of `steps.import_fields.import_fields`, or `add_fields`; of crops, of `import_crops` or `add_crops`."""
        values = {
            "images": [p.strip() for p in self.images.text().split(";") if p.strip()],
            "pattern": self.pattern.text().strip(),
            "layout": self.layout_box.currentData(),
            "metadata": self.table.text().strip(),
            "rgb": self.colour.currentData(),
        }
        if not self.crops.isChecked():
            values["z"] = self.depth.currentData()
        if not self.adding:
            values["path"] = self.place.text().strip()
            values["channels"] = [c.strip() for c in self.channels.text().split(",") if c.strip()]
        return values


def free_place(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that is not taken."""
    i, free = 2, path
    while free.exists():
        free, i = path.with_name(f"{path.stem}-{i}{path.suffix}"), i + 1
    return free


def _can_be_made(root: Path) -> bool:
    """Whether a folder can be made here: its nearest folder that exists can be written to."""
    there = next((p for p in root.parents if p.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK)


FILES_SHOWN = 100  # of those that do not fit
ROWS_SHOWN = 1000  # of a table


def _sheet(columns: Sequence[str], name: str) -> QTableWidget:
    """A table to look at."""
    made = QTableWidget(0, len(columns))
    made.setHorizontalHeaderLabels(list(columns))
    made.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    made.verticalHeader().hide()
    made.horizontalHeader().setStretchLastSection(True)
    made.setMinimumHeight(150)
    made.setAccessibleName(name)
    return made


def _fill(sheet: QTableWidget, rows: Sequence[Sequence[str]]) -> None:
    sheet.setRowCount(len(rows))
    for i, row in enumerate(rows):
        for j, words in enumerate(row):
            item = QTableWidgetItem(words)
            item.setToolTip(words)
            sheet.setItem(i, j, item)
    sheet.resizeColumnsToContents()


class TableDialog(QDialog):
    """Another table of what is known of the project's fields: which, and whether the earlier ones' columns stay.

    Parameters
    ----------
    parent : ImagesCard
    """

    def __init__(self, parent: ImagesCard):
        super().__init__(parent)
        self.setWindowTitle(f"A table for {parent.project.name}")
        self.table, self.by = QLineEdit(), QLineEdit()
        self.table.setMinimumWidth(340)
        self.table.setPlaceholderText("CSV, Excel or parquet with a row per well, file or field")
        self.by.setPlaceholderText("plate+well, file, … (found out when empty)")
        self.by.setToolTip("The columns that say which field a row is of")
        self.keep = QCheckBox("Keep the other columns of earlier tables")
        self.keep.setChecked(True)
        self.keep.setToolTip("Else this table replaces them. Cells, maps and scores stay in any case.")
        row = QHBoxLayout()
        row.addWidget(self.table, 1)
        pick = button("…", self._pick, "Choose the table")
        pick.setFixedWidth(30)
        pick.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        row.addWidget(pick)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.ok = buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.ok.setText("Use this table")
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QFormLayout(self)
        layout.addRow("Table", row)
        layout.addRow("Joined by", self.by)
        layout.addRow("", self.keep)
        layout.addRow(buttons)
        self.table.textChanged.connect(self._check)
        self._check()

    def _check(self) -> None:
        there = bool(self.table.text().strip())
        self.ok.setEnabled(there)
        self.ok.setToolTip("" if there else "Choose the table first")

    def _pick(self) -> None:
        if path := QFileDialog.getOpenFileName(self, "Table", filter=_TABLES)[0]:
            self.table.setText(path)

    def value(self) -> dict[str, Any]:
        """Arguments of `steps.metadata.set_metadata`."""
        return {
            "table": self.table.text().strip(),
            "on": self.by.text().strip(),
            "add": self.keep.isChecked(),
        }


class RowsDialog(QDialog):
    """Rows of a table that were not used, one by one, and why: to be mended there.

    Parameters
    ----------
    parent : ImagesCard
    mistakes : sequence of (int, str, str)
        Row of the table, what it is of, what is wrong with it.
    """

    def __init__(self, parent: ImagesCard, mistakes: Sequence[tuple[int, str, str]]):
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        n = len(mistakes)
        self.setWindowTitle(f"{n:,} row{'s' * (n != 1)} of the table {'were' if n != 1 else 'was'} not used")
        self.rows = _sheet(["Row", "Of", "Problem"], "Rows of the table that do not fit")
        _fill(self.rows, [(str(row), name, why) for row, name, why in mistakes[:ROWS_SHOWN]])
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.close)
        layout = QVBoxLayout(self)
        for item in (self.rows, buttons):
            layout.addWidget(item)
        self.resize(QSize(560, 320).boundedTo(self.screen().availableSize()))
