"""Uneven illumination: by what it is corrected, and a field before and after."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from napari_cellrep.gui.cards._parts import button, combo, keep_on_screen, refill, text, while_open
from napari_cellrep.specs import join_words

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.images import ImagesCard

SIDE_PX = 190  # of a picture
FRAME_PX = 90  # of a screen's height for what is between the parts of the dialog, and its title
LOOK_AFTER_MS = 300
WAYS = {
    "estimate": "estimated from the project's own fields",
    "files": "functions that CellProfiler made",
    "off": "none: images as they are in their files",
}


class LightDialog(QDialog):
    """By what every image is corrected from now on; the shown field before and after."""

    def __init__(self, card: ImagesCard):
        super().__init__(card)
        self.card = card
        self.setWindowTitle("Even out the light")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.way = combo("By what images are corrected, per plate and channel")
        lit = card.project.illumination
        now = "" if lit is None else "files" if lit.source == "brought" else "estimate"
        refill(
            self.way,
            [(words + (" (as now)" if way == now else ""), way) for way, words in WAYS.items()],
            keep=now,
        )
        if not now:  # there is nothing to take back
            off = self.way.model().item(list(WAYS).index("off"))
            off.setEnabled(False)
            off.setToolTip("Images are read as they are in their files now")
        self.files = QLineEdit()
        self.files.setMinimumWidth(340)
        self.files.setPlaceholderText(
            "a folder with files such as Plate1_IllumDNA.npy; several with ; between"
        )
        pick = button("…", self._pick)
        pick.setFixedWidth(30)
        pick.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.files, 1)
        row.addWidget(pick)
        self.files_row = QWidget()
        self.files_row.setLayout(row)
        self.operation = combo("As in CellProfiler's CorrectIlluminationApply")
        refill(self.operation, [("divide by it", "divide"), ("subtract it", "subtract")])
        self.words = text(least_px=740)
        self.pictures = QWidget()
        self.grid = QGridLayout(self.pictures)
        self.sight = QScrollArea()  # five channels are higher than a screen
        self.sight.setWidget(self.pictures)
        self.sight.setWidgetResizable(True)
        self.sight.setFrameShape(QScrollArea.Shape.NoFrame)
        self.sight.hide()
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        self.ok.setText("Correct all images")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.form = QFormLayout(self)
        self.form.addRow("Correction", self.way)
        self.form.addRow("Functions", self.files_row)
        self.form.addRow("Use", self.operation)
        for item in (self.words, self.sight, self.buttons):
            self.form.addRow(item)
        self.setMinimumWidth(min(820, self.screen().availableGeometry().width()))
        self._asked: dict[str, Any] | None = None
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(LOOK_AFTER_MS)
        self._soon.timeout.connect(self._look)
        self.way.currentIndexChanged.connect(lambda _: self._chosen())
        self.operation.currentIndexChanged.connect(lambda _: self._soon.start())
        self.files.textChanged.connect(lambda _: self._chosen())
        self._chosen()

    def value(self) -> dict[str, Any]:
        """Arguments of `steps.illumination.correct`."""
        if self.way.currentData() == "off":
            return {"off": True}
        files = [p.strip() for p in self.files.text().split(";") if p.strip()]
        functions = files if self.way.currentData() == "files" else []
        return {"functions": functions, "operation": self.operation.currentData()}

    def _chosen(self) -> None:
        way = self.way.currentData()
        self.form.setRowVisible(self.files_row, way == "files")
        self.form.setRowVisible(self.operation, way != "off")
        self.ok.setText("Read images as they are" if way == "off" else "Correct all images")
        self.ok.setEnabled(way != "files" or bool(self.value()["functions"]))
        self._soon.start()

    def _pick(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder with illumination functions"):
            self.files.setText(folder)

    # ---- before and after ----

    def _look(self) -> None:
        values = self.value()
        if values.get("off") or (self.way.currentData() == "files" and not values["functions"]):
            self._clear()
            self.words.setText(
                "What was made from corrected images is out of date then (↻)."
                if values.get("off")
                else "Choose the folder that CellProfiler saved its functions in."
            )
            return
        if self._asked is not None:
            return  # the newest question is asked once this one is answered
        self._asked = values
        self.words.setText("Looking at the fields…")
        self.card.dock.runner.ask(
            "illumination.preview", str(self.card.project.root), while_open(functools.partial(self._on_looked, values)),
            while_open(functools.partial(self._on_trouble, values)), field=self.card.dock.shown_field(), **values,
        )  # fmt: skip

    def _is_newest(self, values: dict[str, Any]) -> bool:
        self._asked = None
        if self.value() == values:
            return True
        self._look()
        return False

    def _on_trouble(self, values: dict[str, Any], sentence: str) -> None:
        if self._is_newest(values):
            self._clear()
            self.words.setText(f"⚠ {sentence}")
            self.ok.setEnabled(False)

    def _on_looked(self, values: dict[str, Any], found: Mapping[str, Any]) -> None:
        if not self._is_newest(values):
            return
        self._clear()
        self.ok.setEnabled(True)
        self.words.setText(self._in_words(found))
        for column, title in enumerate(("as acquired", "what it is corrected by", "corrected"), 1):
            self.grid.addWidget(QLabel(title), 0, column, Qt.AlignmentFlag.AlignHCenter)
        for row, name in enumerate(found["channels"], 1):
            before, function, after = (found[k][row - 1] for k in ("before", "functions", "after"))
            low, high = np.percentile(before, (1, 99.5))
            ends = float(function.min()), float(function.max())
            self.grid.addWidget(QLabel(name), row, 0)
            for column, (plane, limits) in enumerate(
                ((before, (low, high)), (function, ends), (after, (low, high))), 1
            ):
                picture = QLabel()
                shown = _pixmap(plane, *limits)
                picture.setPixmap(shown)
                picture.setFixedSize(shown.size())
                self.grid.addWidget(picture, row, column)
            ends_words = QLabel(f"dark {ends[0]:.2f}\nbright {ends[1]:.2f}")
            ends_words.setToolTip("The least and the largest value of what it is corrected by")
            self.grid.addWidget(ends_words, row, 4)
        self.sight.show()
        self.pictures.adjustSize()
        margins = self.form.contentsMargins()
        others = sum(
            w.heightForWidth(self.width()) if w.hasHeightForWidth() else w.sizeHint().height()
            for w in (self.way, self.files_row, self.operation, self.words, self.buttons)
            if w.isVisible()
        )
        spare = (
            self.screen().availableGeometry().height() - others - margins.top() - margins.bottom() - FRAME_PX
        )
        self.sight.setMinimumHeight(min(self.pictures.sizeHint().height() + 4, max(SIDE_PX, spare)))
        keep_on_screen(self)

    def _in_words(self, found: Mapping[str, Any]) -> str:
        """What is seen, what it was made of, what to heed and what follows."""
        falls = [
            f"{f.max() / max(float(f.min()), 1e-6):.2f}-fold in {html.escape(name)}"
            for name, f in zip(found["channels"], found["functions"], strict=True)
        ]
        lines = [f"<b>Field {found['field']}, before and after.</b>"]
        if self.operation.currentData() == "divide":
            lines[0] += (
                f" From the darkest to the brightest place of a field the light differs {join_words(falls)}."
            )
        lines += [html.escape(note) for note in found["notes"]]
        if found["doubt"]:
            lines.append(f"⚠ {html.escape(found['doubt'])} Look whether the corrected field is more even.")
        after = "Image files are not changed."
        if self.card.session.n_cells:
            after += " What was segmented, flagged and embedded so far is out of date then (↻)."
        return "<br>".join([*lines, after])

    def _clear(self) -> None:
        while (item := self.grid.takeAt(0)) is not None:
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()
        self.sight.setMinimumHeight(0)
        self.sight.hide()
        keep_on_screen(self)


def _pixmap(plane: np.ndarray, low: float, high: float) -> QPixmap:
    """A channel as a small grey picture, dark at `low` and bright at `high`."""
    step = max(1, max(plane.shape) // (2 * SIDE_PX))
    small = plane[::step, ::step].astype(np.float32)
    grey = np.ascontiguousarray(np.clip((small - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8))
    image = QImage(grey.data, grey.shape[1], grey.shape[0], grey.shape[1], QImage.Format.Format_Grayscale8)
    return QPixmap.fromImage(image.copy()).scaled(
        SIDE_PX, SIDE_PX, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )
