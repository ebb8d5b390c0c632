"""What can be written for other programs, and where."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QSizePolicy,
)

from napari_cellrep.gui.cards._parts import button, combo, keep_on_screen, refill, text
from napari_cellrep.gui.views._words import column_words

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.explore import ExploreCard

# Kind → (what it is, ending, what is in it).
KINDS = {
    "report": ("Report (one web page)", ".html", "Numbers, maps and pictures of cells on one page; opens in any browser."),
    "methods": ("Methods (text)", ".txt",
                "What was done, with which settings and versions, and the papers to cite: for a methods section."),
    "csv": ("Cells as a table (CSV)", ".csv",
            "One row per cell: what is known of it, flags, place on the map, scores. Opens in Excel, R, Prism."),
    "parquet": ("Cells as a table (Parquet)", ".parquet", "The same, smaller and faster to read, for R and Python."),
    "h5ad": ("For scanpy and cellxgene (h5ad)", ".h5ad",
             "Everything, the embeddings and how they were made included: an AnnData file."),
    "zarr": ("For scanpy (zarr folder)", ".zarr", "The same as a folder of small files, for very many cells."),
    "ranking": ("Ranking of the groups (CSV)", ".csv", "One row per group, the most variable first."),
    "map": ("Map with densities (PNG)", ".png",
            "A map for print: all cells in grey, and over them lines that hold 25, 50 and 75 % of the cells of each value of a "
            "column (at most seven values). Another ending, .svg or .pdf, makes that."),
    "groups": ("Groups for scanpy (h5ad)", ".h5ad",
               "One row per group: its profile (what its cells are on average), scores, and how alike each two groups are."),
    "likeness": ("How alike the groups are (CSV)", ".csv",
                 "One row and one column per group: Pearson's correlation of their profiles, for a heat map elsewhere."),
    "crops": ("Pictures of cells (OME-TIFF, one per group)", "",
              "A folder: per group one stack, cell after cell with all channels as acquired, and a table that says which is "
              "which. Opens in Fiji."),
    "crops-cell": ("Pictures of cells (OME-TIFF, one per cell)", "", "The same with a file for every cell."),
    "crops-zarr": ("Pictures of cells (zarr, for training)", ".zarr",
                   "One array of all cells in few files, with their table: for networks of your own. Opens with anndata."),
    "spatialdata": ("Images, outlines and table (SpatialData)", ".zarr",
                    "One zarr folder that napari-spatialdata and squidpy open, outlines linked to the table."),
    "project": ("The project without its images", ".cellrep",
                "A copy to share: table, maps, sets, networks. Its fields say that the images are not there; whoever has "
                "them brings them back (card 1, Find the images…)."),
}  # fmt: skip
# Kind → what its file is called after the project's name, so that one does not replace another of the same ending.
_MARKS = {
    "methods": "-methods", "ranking": "-ranking", "groups": "-groups", "likeness": "-likeness", "map": "-map",
    "crops": "-crops", "crops-cell": "-crops-each", "crops-zarr": "-crops", "spatialdata": "-spatialdata", "project": "-shared",
}  # fmt: skip
_PIXELS = ("crops", "crops-cell", "crops-zarr", "spatialdata")
_OF_ONE_EMBEDDING = (
    "report",
    "methods",
    "csv",
    "parquet",
    "h5ad",
    "zarr",
    "ranking",
    "groups",
    "likeness",
    "crops",
    "crops-cell",
    "crops-zarr",
)


_PROFILES = frozenset({"profile", "treatments"})
# Kind → recipes of which one has to have been run, and what to say where none was.
NEEDS = {
    "ranking": (
        frozenset({"variability"}),
        "Rank the groups first (Which groups vary most from cell to cell?)",
    ),
    "groups": (
        _PROFILES | {"variability"},
        "Average the groups first (What does each group look like on average?)",
    ),
    "likeness": (_PROFILES, "Average the groups first (What does each group look like on average?)"),
}


class ExportDialog(QDialog):
    """What to write, of which embedding, and where."""

    def __init__(self, card: ExploreCard):
        super().__init__(card)
        self.card = card
        self.setWindowTitle("Export")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.kind = combo("What is written")
        refill(self.kind, [(words, kind) for kind, (words, *_) in KINDS.items()])
        asked = {str(line.get("recipe")) for line in card.project.history if not line.get("undone")}
        for kind, (recipes, first) in NEEDS.items():
            if not asked & recipes:
                self._leave_out(kind, first)
        if importlib.util.find_spec("spatialdata") is None:
            self._leave_out(
                "spatialdata", 'Needs the package spatialdata: pip install "napari-cellrep[spatialdata]"'
            )
        self.about = text(least_px=380)
        self.embedding = combo("Embedding: a list of numbers that describes how a cell looks")
        names = card.session.embeddings
        refill(self.embedding, [("all", ""), *((card.dock.cards["model"].title_of(n), n) for n in names)])
        self.map_ = combo("Which map is drawn")
        refill(self.map_, [
            (f"{column_words(m.embedding)} · {m.name}", (m.embedding, m.key)) for m in card.session.maps if "X_pca_" not in m.key
        ])  # fmt: skip
        self.colour = combo("The column whose values have their densities drawn")
        named = card.session.row_columns()
        named += [
            c for c in card.session.colour_choices if c not in card.session.columns
        ]  # "place has cytosol"
        columns = [(column_words(c), c) for c in named]
        refill(self.colour, [("points alone", ""), *columns], keep=card.session.colour_by)
        if not self.map_.count():
            self._leave_out("map", "Make the map first")
        self.drop = QCheckBox("Leave out cells that have no numbers")
        self.drop.setChecked(True)
        self.flagged = QCheckBox("Write flagged cells, too")
        self.flagged.setToolTip("Cells that are cut off, blurred, saturated, too small or without signal")
        self.labels = QCheckBox("With the outlines of the cells")
        self.labels.setChecked(True)
        self.labels.setToolTip("The label images; without them nobody can see where a cell was")
        self.place = QLineEdit(str(card.export_folder / f"{card.project.name}.html"))
        self.place.setMinimumWidth(340)
        self.pick = button("…", self._pick)
        self.pick.setFixedWidth(30)
        self.pick.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.ok.setText("Export")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        where = QHBoxLayout()
        where.addWidget(self.place, 1)
        where.addWidget(self.pick)
        layout = QFormLayout(self)
        layout.addRow("What", self.kind)
        layout.addRow("", self.about)
        layout.addRow("Embedding", self.embedding)
        layout.addRow("Map", self.map_)
        layout.addRow("Densities of", self.colour)
        for box in (self.drop, self.flagged, self.labels):
            layout.addRow("", box)
        layout.addRow("File", where)
        self.there = text("⚠ It is there already, and will be replaced.", least_px=380)
        self.there.hide()
        layout.addRow("", self.there)
        self.form = layout
        layout.addRow(self.buttons)
        self.setMinimumWidth(540)
        self.kind.currentIndexChanged.connect(lambda _: self._chosen())
        self.place.textChanged.connect(lambda _: self._check())
        self._chosen()

    def _leave_out(self, kind: str, first: str) -> None:
        """Grey a kind, and say what it needs first."""
        item = self.kind.model().item(list(KINDS).index(kind))
        item.setEnabled(False)
        item.setToolTip(first)

    def _chosen(self) -> None:
        kind = self.kind.currentData()
        _, ending, about = KINDS[kind]
        self.about.setText(about)
        self.form.setRowVisible(self.map_, kind == "map")
        self.form.setRowVisible(self.colour, kind == "map")
        self.form.setRowVisible(self.drop, kind in ("csv", "parquet", "h5ad", "zarr"))
        self.form.setRowVisible(self.flagged, kind in _PIXELS)
        self.form.setRowVisible(self.labels, kind == "project")
        self.form.setRowVisible(self.embedding, kind in _OF_ONE_EMBEDDING)
        crops = kind.startswith("crops")
        self.embedding.setItemText(0, "the window cells were measured in" if crops else "all")
        self.form.labelForField(self.embedding).setText("Cut to" if crops else "Embedding")
        self.embedding.setToolTip(
            "How large a window is cut about each cell: that of measuring, or as the network of an embedding was shown them"
            if crops
            else "Embedding: a list of numbers that describes how a cell looks"
        )
        if place := self.place.text().strip():
            path = Path(place)
            known = {e for _, e, _ in KINDS.values() if e}
            stem = path.with_suffix("") if path.suffix in known else path
            name = stem.name
            for old in sorted(set(_MARKS.values()), key=len, reverse=True):
                name = name.removesuffix(old)
            mark = _MARKS.get(kind, "")
            self.place.setText(str(stem.with_name(f"{name}{mark}{ending}")))
        self._check()
        keep_on_screen(self)

    def _check(self) -> None:
        place = self.place.text().strip()
        self.ok.setEnabled(bool(place))
        self.ok.setToolTip("" if place else "Say where the file goes")
        there = bool(place) and Path(place).expanduser().exists()
        if there and self.kind.currentData() == "project":
            self.ok.setEnabled(False)
            self.ok.setToolTip("There is such a folder already; choose another name")
        self.ok.setText("Replace it" if there else "Export")
        self.there.setText(
            "⚠ There is such a folder already: choose another name."
            if self.kind.currentData() == "project"
            else "⚠ It is there already, and will be replaced."
        )
        self.there.setVisible(there)

    def _pick(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Export to", self.place.text())
        if path:
            self.place.setText(path)

    def value(self) -> dict[str, Any]:
        """Step, and its arguments."""
        kind, place = self.kind.currentData(), self.place.text().strip()
        embedding = self.embedding.currentData()
        if kind == "report":
            return {"step": "report.write_report", "out_html": place, "embedding": embedding}
        if kind == "methods":
            return {"step": "report.write_methods", "out": place, "embedding": embedding}
        if kind.startswith("crops"):
            return {
                "step": "export_images.write_crops", "out": place, "format": "zarr" if kind == "crops-zarr" else "tiff",
                "per": "cell" if kind == "crops-cell" else "group", "embedding": embedding,
                "include_flagged": self.flagged.isChecked(),
            }  # fmt: skip
        if kind == "spatialdata":
            step = "export_images.write_spatialdata"
            return {"step": step, "out": place, "include_flagged": self.flagged.isChecked()}
        if kind == "project":
            return {"step": "export.share", "out": place, "labels": self.labels.isChecked()}
        if kind == "map":
            embedding, key = self.map_.currentData()
            return {
                "step": "map_figure.write_map", "out": place, "embedding": embedding, "place": key,
                "colour": self.colour.currentData(),
            }  # fmt: skip
        return {
            "step": "export.export", "out": place, "format": kind, "embedding": self.embedding.currentData(),
            "drop_missing": self.drop.isChecked(),
        }  # fmt: skip
