"""A group's cells along what they differ in most: a picture that can be saved, and the cells in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QLabel,
    QScrollArea,
    QVBoxLayout,
)

DIFFER = (
    "What do its cells differ in?",
    "Real cells along the main direction in which this group's cells differ (the first principal component of their "
    "numbers), and what changes from one end to the other",
)


def show_axis(canvas: Any, by: str, name: str) -> None:
    """Ask for the main axis of a group's cells; a window with the figure opens when it is there."""
    from napari_cellrep.gui._runner import runner_of

    session, root = canvas.session, str(canvas.session.project.root)
    canvas.viewer.status = f"What do the cells of {name} differ in? Comparing them…"

    def arrived(found: Mapping[str, Any]) -> None:
        if session.project is not None and str(session.project.root) == root:
            AxisDialog(canvas, found).show()

    runner_of(canvas.viewer).ask(
        "axis.axis", root, arrived, show_warning, name=name, by=by, embedding=session.embedding, png=True
    )


class AxisDialog(QDialog):
    """The figure, what is to be said of it, and what can be done with it.

    Parameters
    ----------
    found : dict
        Like `steps.axis.Axis`, with its figure.
    """

    def __init__(self, canvas: Any, found: Mapping[str, Any]) -> None:
        super().__init__(QApplication.activeWindow())
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.canvas, self.found = canvas, found
        self.setWindowTitle(f"What the cells of {found['name']} differ in")
        self.words = QLabel(" ".join(found["words"]))
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        pixmap, self.picture = QPixmap(), QLabel()
        pixmap.loadFromData(found["png"])
        self.picture.setPixmap(pixmap)
        self.picture.setAccessibleName("Cells along the axis")
        scroll = QScrollArea()
        scroll.setWidget(self.picture)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        role = QDialogButtonBox.ButtonRole.ActionRole
        self.select = buttons.addButton("Select these cells", role)
        self.select.setToolTip("Selects the cells of the picture, on the map and in all views")
        self.select.clicked.connect(self.select_cells)
        self.save = buttons.addButton("Save the figure…", role)
        self.save.clicked.connect(self.save_figure)
        buttons.rejected.connect(self.close)
        layout = QVBoxLayout(self)
        for item in (self.words, scroll, buttons):
            layout.addWidget(item)
        self.resize(min(pixmap.width() + 60, 1200), min(pixmap.height() + 140, 800))

    def select_cells(self) -> None:
        """Select the cells of the picture that are still there."""
        rows = [self.canvas.session.row_of_id(cell) for cell in self.found["cells"]]
        self.canvas.session.select(
            [row for row in rows if row >= 0], how=f"cells along what differs in {self.found['name']}"
        )

    def save_figure(self) -> None:
        """Ask where to, and write the figure again in that format."""
        from napari_cellrep.gui._runner import runner_of

        name = Path(f"{self.found['name']}-axis.png".replace("/", "-"))
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the figure", str(name), "Figures (*.png *.svg *.pdf)"
        )
        if path:
            runner_of(self.canvas.viewer).ask(
                "axis.axis", str(self.canvas.session.project.root), lambda made: show_info(f"Saved as {made['written']}."),
                show_warning, out=path, **{k: self.found[k] for k in ("name", "by", "embedding")},
            )  # fmt: skip
