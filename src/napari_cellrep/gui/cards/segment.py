"""Card 2: from images to cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._forms import Form
from napari_cellrep.gui._image import OURS
from napari_cellrep.gui.cards._estimate import EstimateLine, PilotButton
from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock


class SegmentCard(Card):
    """From images to cells: a method, its settings, one field to try on, then all."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 2, "Segment")
        self.hint = text()
        self.method = combo("How cells are found")
        self.method.currentIndexChanged.connect(lambda _: self._show_form())
        self.about = text()
        self.form_place = QVBoxLayout()
        self.form: Form | None = None
        self.settings = QWidget()
        self.settings.setLayout(self.form_place)
        self.form_place.setContentsMargins(0, 0, 0, 0)
        self.one = button(
            "Try on this field",
            self.try_one,
            "Shows the outlines on the field you look at; nothing is written",
        )
        self.all = button("Segment all fields", self.segment_all, primary=True)
        self.more = More("Settings", self.settings)
        self.estimate = EstimateLine(self, "segment", self._estimated)
        self.pilot = PilotButton(self, "Segment", self._segment_some)
        self.form_place.addWidget(self.pilot)
        for item in (self.hint, self.method, self.about, self.more, self.one, self.all, self.estimate):
            self.layout_.addWidget(item)
        self._found: dict[str, Any] = {}

    def set_methods(self, found: Mapping[str, Any]) -> None:
        """Fill the list from `registry.describe("segmenters")`."""
        self._found = dict(found)
        order = ("nuclei", "cells", "bodies", "cellpose", "centres", "import")
        names = sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))
        refill(self.method, [(found[n]["spec"].get("title") or n.capitalize(), n) for n in names])
        self._show_form()
        self.refresh()

    def _show_form(self) -> None:
        if self.form is not None:
            self.form.hide()
            self.form.deleteLater()
            self.form = None
        name = self.method.currentData()
        if name in self._found:
            self.form = Form(self._found[name]["config"])
            self.form_place.insertWidget(0, self.form)
            self.form.changed.connect(self.estimate.refresh)
            self.estimate.refresh()
            self.about.setText(self._found[name]["doc"])

    def n_labelled(self) -> int:
        """Fields that have labels: one look at the folder, however many fields."""
        return sum(1 for _ in (self.project.root / "labels").glob("*.ome.tif"))

    def refresh(self) -> None:
        """Show the project as it is now."""
        project = self.project
        n = len(project.usable_fields) if project else 0
        ready = bool(n and self.method.count())
        self.all.setEnabled(ready)
        self.estimate.refresh()
        self.pilot.refresh()
        self.one.setEnabled(ready and bool(self.dock.shown_field()))
        self.all.setText(f"Segment all {n:,} fields" if n != 1 else "Segment the field")
        self.one.setText(
            f"Try on field {self.dock.shown_field()}" if self.dock.shown_field() else "Try on this field"
        )
        if project is None:
            self.hint.setText("Open images first (card 1).")
            self.set_status("")
            return
        done, cells = self.n_labelled(), self.session.n_cells
        self.hint.setText("" if self.method.count() else "Looking which methods there are…")
        self.hint.setVisible(bool(self.hint.text()))
        if self.running("segment", "crop"):
            self.set_status("running", "running")
        elif not done:
            self.set_status(f"{n:,} field{'s' * (n != 1)} to do", "ready")
        elif done < n:
            self.set_status(f"{cells:,} cells in {done:,} of {n:,} fields", "ready")
        else:
            self.set_status(f"{cells:,} cells", "done" if cells else "needs")
            if not cells:
                self.hint.setText("No cell was found. Try other settings on one field, or another method.")
                self.hint.show()

    def arguments(self) -> dict[str, Any]:
        """What the segment step is given."""
        config = self.form.value() if self.form else {}
        return {"segmenter": self.method.currentData(), "config": config, "device": self.dock.device()}

    def _estimated(self) -> dict[str, Any] | None:
        return self.arguments() if self.all.isEnabled() and self.form else None

    def _segment_some(self, fields: list[str], told: Any) -> None:
        def found(_: Any) -> None:
            self.dock.submit("crop.crop", "Finding cells", then=told)

        title = f"Segmenting {len(fields)} fields"
        self.dock.submit(
            "segment.segment", title, then=found, reload=False, fields=fields, **self.arguments()
        )

    def try_one(self) -> None:
        """Segment the visible field and show what comes of it, without writing it."""
        field = self.dock.shown_field()
        self.dock.submit(
            "segment.preview", f"Trying on field {field}", then=lambda labels: self._show_preview(field, labels),
            reload=False, field=field, **self.arguments(),
        )  # fmt: skip

    def _show_preview(self, field: str, labels: np.ndarray) -> None:
        viewer, name = self.dock.viewer, "CellRep preview"
        if field != self.dock.shown_field():
            return
        self.dock.remove_preview()
        channel = self.dock.canvas.layer("channel")
        layer = viewer.add_labels(
            labels,
            name=name,
            metadata=_preview_note(self.project, field),
            scale=channel.scale,
            units=channel.units,
        )
        layer.contour = 2  # bold: these are not the cells that are kept
        n = len(np.unique(labels[labels > 0]))
        self.dock.strip.say(f"✓ {n:,} cells in field {field} with these settings; nothing is written yet.")

    def segment_all(self) -> None:
        """Segment every field, then make the table of cells."""
        self.dock.remove_preview()
        n = len(self.project.usable_fields)
        self.dock.submit(
            "segment.segment", f"Segmenting {n:,} field{'s' * (n != 1)}", then=self._segmented, reload=False,
            **self.arguments(),
        )  # fmt: skip

    def _segmented(self, result: Mapping[str, Any]) -> None:
        problems = result.get("problems") or {}
        self.dock.submit("crop.crop", "Finding cells", then=lambda n: self._cropped(n, problems))

    def _cropped(self, n_cells: int, problems: Mapping[str, str]) -> None:
        fields = len(self.project.usable_fields)
        words = f"✓ {n_cells:,} cells in {fields:,} field{'s' * (fields != 1)}."
        if problems:
            words += f" ⚠ {len(problems):,} left out: {next(iter(problems.values()))}"
        self.dock.strip.say(words)
        self.dock.open_card("cells")


def _preview_note(project: Any, field: str) -> dict[str, Any]:
    return {OURS: {"kind": "preview", "root": str(project.root), "field": field}}
