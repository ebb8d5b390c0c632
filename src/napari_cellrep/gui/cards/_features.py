"""Numbers per cell that were made elsewhere: which table, and which of its columns name a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)

from napari_cellrep.gui.cards._parts import combo, refill, while_open

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.model import ModelCard

N_PAIRS = 3  # plate, well and site at most, beside the object's number: two do mostly


class FeaturesDialog(QDialog):
    """Take the features of a table (CellProfiler's, or published ones) as the numbers of the cells.

    Parameters
    ----------
    card : ModelCard
        Runs the job.
    """

    def __init__(self, card: ModelCard):
        super().__init__(card)
        self.card = card
        self.setWindowTitle("CellRep: features from a table")
        self.resize(620, 320)
        self.file = QLineEdit()
        self.file.setPlaceholderText("CSV or parquet, one row per cell")
        self.file.editingFinished.connect(self.look)
        browse = QPushButton("Browse…")
        browse.setAutoDefault(False)
        browse.clicked.connect(self._browse)
        line = QHBoxLayout()
        line.addWidget(self.file, 1)
        line.addWidget(browse)
        self.said = QLabel("Choose a table, for example one that CellProfiler wrote.")
        self.said.setWordWrap(True)
        self.pairs: list[tuple[QComboBox, QComboBox]] = []
        form = QFormLayout(self)
        form.addRow("Table", line)
        form.addRow(self.said)
        for i in range(N_PAIRS):
            theirs = combo("Column of the table that, with the others here, says which cell a row is of")
            ours = combo("What this column is called in the project")
            for box in (theirs, ours):
                box.currentIndexChanged.connect(lambda _: self._show_buttons())
            row = QWidget()
            inside = QHBoxLayout(row)
            inside.setContentsMargins(0, 0, 0, 0)
            inside.addWidget(theirs, 1)
            inside.addWidget(QLabel("is"))
            inside.addWidget(ours, 1)
            form.addRow("A cell is" if not i else "and", row)
            self.pairs.append((theirs, ours))
        self.columns = QLineEdit()
        self.columns.setPlaceholderText("all that hold numbers")
        self.columns.setToolTip(
            "Names of columns with commas between; * stands for anything: Cells_*, Nuclei_*"
        )
        form.addRow("Features", self.columns)
        self.key = QLineEdit()
        self.key.setToolTip("The map and the rankings go by this name")
        form.addRow("Name", self.key)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.ok.setText("Take the features")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        form.addRow(self.buttons)
        self._about: dict[str, Any] = {}
        self._looked = ""
        self._show_buttons()

    def _browse(self) -> None:
        kinds = "Tables (*.csv *.tsv *.txt *.csv.gz *.parquet *.pq);;All files (*)"
        if path := QFileDialog.getOpenFileName(self, "Table of features", filter=kinds)[0]:
            self.file.setText(path)
            self.look()

    def look(self) -> None:
        """Ask the worker what columns the table has."""
        path = self.file.text().strip()
        if not path or path == self._looked:
            return
        self._looked, self._about = path, {}
        self.said.setText("Reading the table…")
        self._show_buttons()
        self.card.dock.runner.ask(
            "import_features.peek", self.card.project.root, while_open(lambda about: self._found(path, about)),
            while_open(lambda sentence: self._failed(path, sentence)), table=path,
        )  # fmt: skip

    def _found(self, path: str, about: Mapping[str, Any]) -> None:
        if path != self._looked:
            return
        self._about = dict(about)
        on = list(about["on"].items())
        shown = about["examples"]
        for i, (theirs, ours) in enumerate(self.pairs):
            pair = on[i] if i < len(on) else ("", "")
            for box, names, kind, keep in (
                (theirs, about["columns"], "table", pair[0]), (ours, about["cell_columns"], "cells", pair[1]),
            ):  # fmt: skip
                items = [("–", "")] + [(f"{n}  ({shown[kind][n][:24]})", n) for n in names]
                refill(box, items, keep=keep)
        self.key.setText(about["key"])
        n = about["numbers"]
        words = f"{len(about['columns']):,} columns, {n:,} of them features (they hold numbers)."
        if not on:
            words += " Say which columns name a cell; in brackets is what the first row holds."
        self.said.setText(words)
        self._show_buttons()

    def _failed(self, path: str, sentence: str) -> None:
        if path == self._looked:
            self._looked = ""
            self.said.setText(f"⚠ {sentence}")
            self._show_buttons()

    def _show_buttons(self) -> None:
        chosen = [(t.currentData(), o.currentData()) for t, o in self.pairs]
        half = any(bool(t) != bool(o) for t, o in chosen)
        ready = bool(self._about) and any(t and o for t, o in chosen) and not half
        self.ok.setEnabled(ready)
        self.ok.setToolTip(
            "" if ready
            else "Choose a table first" if not self._about
            else "Say for each column what it is in the project" if half
            else "Say which columns name a cell"
        )  # fmt: skip
        for box in (*(b for pair in self.pairs for b in pair), self.columns, self.key):
            box.setEnabled(bool(self._about))

    def value(self) -> dict[str, Any]:
        """Arguments of `steps.import_features.import_features`."""
        return {
            "table": self.file.text().strip(),
            "key": self.key.text().strip(),
            "columns": [c.strip() for c in self.columns.text().split(",") if c.strip()],
            "on": {t.currentData(): o.currentData() for t, o in self.pairs if t.currentData() and o.currentData()},
        }  # fmt: skip
