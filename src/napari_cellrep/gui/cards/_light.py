"""Uneven illumination: by what it is corrected, and a field before and after."""

from __future__ import annotations

import functools
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
    QSizePolicy,
    QWidget,
)

from napari_cellrep.gui.cards._parts import button, combo, refill, text, while_open

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.images import ImagesCard

SIDE_PX = 190  # of a picture
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
        refill(self.way, [(words, way) for way, words in WAYS.items()])
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
        for item in (self.words, self.pictures, self.buttons):
            self.form.addRow(item)
        self.setMinimumWidth(820)
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
                "What was made from corrected images is out of date then." if values.get("off") else ""
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
        self.words.setText(
            f"{found['words']} Image files are not changed; labels, flags and embeddings are out of date then."
        )
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
            ends_words = QLabel(f"{ends[0]:.2f} to {ends[1]:.2f}")
            ends_words.setToolTip(
                "The least and the largest value of the function: dark and bright in its picture"
            )
            self.grid.addWidget(ends_words, row, 4)
        self.adjustSize()

    def _clear(self) -> None:
        while (item := self.grid.takeAt(0)) is not None:
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()


def _pixmap(plane: np.ndarray, low: float, high: float) -> QPixmap:
    """A channel as a small grey picture, dark at `low` and bright at `high`."""
    step = max(1, max(plane.shape) // (2 * SIDE_PX))
    small = plane[::step, ::step].astype(np.float32)
    grey = np.ascontiguousarray(np.clip((small - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8))
    image = QImage(grey.data, grey.shape[1], grey.shape[0], grey.shape[1], QImage.Format.Format_Grayscale8)
    return QPixmap.fromImage(image.copy()).scaled(
        SIDE_PX, SIDE_PX, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )
