"""Card 2: from images to cells."""

from __future__ import annotations

import functools
import html
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._forms import Form
from napari_cellrep.gui._image import OURS
from napari_cellrep.gui.cards._charts import FieldBars, Histogram
from napari_cellrep.gui.cards._estimate import EstimateLine, PilotButton
from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text
from napari_cellrep.segmenters.imported import pattern_of
from napari_cellrep.specs import join_words
from napari_cellrep.steps.segment import unusual_fields
from napari_cellrep.steps.segment_slides import source_of

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# One colour that is seen on every channel's; napari's random ones are not.
PREVIEW_COLOURS = {None: (1.0, 0.95, 0.35, 1.0), 0: (0.0, 0.0, 0.0, 0.0)}
LABEL_FILES = "Labels (*.tif *.tiff *.png *.npy *.geojson *.json *.gz *.roi *.zip);;All files (*)"
LIVE_AFTER_MS = 300  # as long as a person needs for the next step of a spin box


class SegmentCard(Card):
    """From images to cells: a method, its settings, one field to try on, then all."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 2, "Segment")
        self.hint = text()
        self.method = combo("How cells are found")
        self.method.currentIndexChanged.connect(lambda _: self._show_form())
        self.about = text()
        self.weights = combo(
            "Which of the method's own networks finds the cells, and under which licence it is"
        )
        self.weights.activated.connect(self._choose_weights)
        self.licence = text()
        self.licence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.form_place = QVBoxLayout()
        self.form: Form | None = None
        self.settings = QWidget()
        self.settings.setLayout(self.form_place)
        self.form_place.setContentsMargins(0, 0, 0, 0)
        self.browse = button(
            "Choose the labels of this field…",
            self.choose_labels,
            "A label image, Cellpose’s _seg.npy, QuPath’s GeoJSON or Fiji’s ROIs; where its name holds the field’s or "
            "the image’s name, the files of the other fields are found the same way",
        )
        self.live = QCheckBox("Live preview")
        self.live.toggled.connect(self._set_live)
        self.one = button(
            "Try on this field",
            self.try_one,
            "Shows the outlines on the field you look at; nothing is written",
        )
        self.tried = text()
        self.sizes = Histogram("cell size, px")
        self.all = button("Segment all fields", self.segment_all, primary=True)
        self.more = More("Settings", self.settings)
        self.estimate = EstimateLine(self, "segment", self._estimated)
        self.pilot = PilotButton(self, "Segment", self._segment_some)
        self.form_place.addWidget(self.pilot)
        self.bars = FieldBars()
        self.bars.clicked.connect(dock.show_field)
        self.flagged_words = text()
        self.flagged = QListWidget()
        self.flagged.setAccessibleName("Fields to look at")
        self.flagged.setToolTip("Click a field to show it")
        self.flagged.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.flagged.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.flagged.itemClicked.connect(lambda item: dock.show_field(item.data(Qt.ItemDataRole.UserRole)))
        for item in (
            self.hint, self.method, self.about, self.weights, self.licence, self.browse, self.more, self.live, self.one,
            self.tried, self.sizes, self.all, self.estimate, self.flagged_words, self.bars, self.flagged,
        ):  # fmt: skip
            self.layout_.addWidget(item)
        self._found: dict[str, Any] = {}
        self._counted: Any = None
        self._asked: tuple[Any, ...] | None = None  # what the worker is trying
        self._shown_trial: tuple[Any, ...] | None = None  # what is on the canvas
        self._refused: tuple[Any, ...] | None = None  # what only gave a sentence
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(LIVE_AFTER_MS)
        self._soon.timeout.connect(self._try_live)
        self._show_trial(None)

    def set_methods(self, found: Mapping[str, Any]) -> None:
        """Fill the list from `registry.describe("segmenters")`."""
        self._found = dict(found)
        order = ("nuclei", "cells", "bodies", "cellpose", "centres", "imported")
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
        about = self._found.get(name)
        if about:
            self.form = Form(about["config"])
            self.form.changed.connect(self._live_soon)
            self.form.changed.connect(self.estimate.refresh)
            self.form_place.insertWidget(0, self.form)
            self.about.setText(about["doc"])
            refill(self.weights, [(f"{n}: {words}", n) for n, words in about.get("models", {}).items()])
            for i in range(self.weights.count()):
                self.weights.setItemData(i, self.weights.itemText(i), Qt.ItemDataRole.ToolTipRole)
        self.browse.setVisible(name == "imported")
        self.weights.setVisible(bool(self.weights.count() and about and about.get("models")))
        self.refresh()
        self._live_soon()

    def _choose_weights(self, _: int) -> None:
        if self.form is not None:
            self.form.set_value({"model": self.weights.currentData()})

    def choose_labels(self) -> None:
        """Ask for one field's file of labels; the files of all fields are those whose names are made the same way."""
        project, field = self.project, self.dock.shown_field()
        if project is None or not field or self.form is None:
            return
        files = source_of(project, project.field(field)).files
        start = str(files[0].parent) if files else ""
        name, _ = QFileDialog.getOpenFileName(self, f"Labels of field {field}", start, LABEL_FILES)
        if name:
            self.use_labels(Path(name))

    def use_labels(self, path: Path) -> None:
        """Take this file as the labels of the field that is shown, and its name as the pattern of the others."""
        project, field = self.project, self.dock.shown_field()
        if project is None or self.form is None:
            return
        files = source_of(project, project.field(field)).files
        pattern = pattern_of(path, field, files)
        self.form.set_value({"pattern": pattern})
        self.more.button.setChecked(True)
        if "{" not in pattern and len(project.usable_fields) > 1:
            self.dock.strip.say(
                f"⚠ The name of {path.name} holds neither the field’s name nor the image’s: it would serve every field. "
                "Write {field} or {file} where the names differ."
            )
        elif not self.live.isChecked():
            self.try_one()

    def lacking(self) -> str:
        """What has to be installed for the chosen method; "" when nothing is."""
        about = self._found.get(self.method.currentData(), {})
        package = about.get("package", "")
        if not package or importlib.util.find_spec(package) is not None:
            return ""
        return f"{package.capitalize()} is not installed here. Install it with {about.get('install', '')} and start napari again."

    def labelled(self) -> set[str]:
        """Fields that have labels: one look at the folder, however many fields."""
        return set(self.project.labelled())

    def refresh(self) -> None:
        """Show the project as it is now."""
        project = self.project
        n = len(project.usable_fields) if project else 0
        about, lacking = self._found.get(self.method.currentData(), {}), self.lacking()
        ready = bool(n and self.method.count() and not lacking)
        field = self.dock.shown_field() if project else ""
        why = lacking or ("Open images first (card 1)" if not n else "")
        self.all.setEnabled(ready)
        self.estimate.refresh()
        self.pilot.refresh()
        self.all.setToolTip(why or "Writes the outlines of every field, then makes the table of cells")
        self.one.setEnabled(ready and bool(field))
        self.browse.setEnabled(ready and bool(field))
        self.browse.setText(
            f"Choose the labels of field {field}…" if field else "Choose the labels of this field…"
        )
        self.one.setToolTip(why or "Shows the outlines on the field you look at; nothing is written")
        slow = about.get("slow", "")
        self.live.setEnabled(ready and bool(field) and not slow)
        self.live.setToolTip(
            why
            or (f"{slow} Use “Try on field {field}” instead." if slow else "")
            or "The outlines follow the settings at once, on the field you look at; nothing is written"
        )
        if slow and self.live.isChecked():
            self.live.setChecked(False)
        self.licence.setText(
            "<br>".join(filter(None, (f"⚠ {lacking}" if lacking else "", about.get("licence", ""))))
        )
        self.licence.setVisible(bool(self.licence.text()))
        self.all.setText(f"Segment all {n:,} fields" if n != 1 else "Segment the field")
        self.one.setText(f"Try on field {field}" if field else "Try on this field")
        self.one.setVisible(not self.live.isChecked())
        self._show_fields()
        canvas = self.dock.canvas
        if self._shown_trial is not None and canvas.viewer is not None and canvas.layer("preview") is None:
            self._show_trial(None)  # another field is shown
        if self.live.isChecked() and self._key() not in (self._shown_trial, self._asked, self._refused):
            self._live_soon()
        if project is None:
            self.hint.setText("Open images first (card 1).")
            self.hint.show()
            self.set_status("")
            return
        done, cells = len(self.labelled()), self.session.n_cells
        self.hint.setText("" if self.method.count() else "Looking which methods there are…")
        self.hint.setVisible(bool(self.hint.text()))
        if self.running("segment", "crop"):
            self.set_status("running", "running")
        elif not done:
            self.set_status(f"{n:,} field{'s' * (n != 1)} to do", "ready")
        elif (stale := self.dock.stale).fields and cells:
            self.set_status(f"{len(stale.fields):,} of {n:,} fields out of date", "stale")
            one = len(stale.fields) == 1
            if some := stale.replaced:
                why = f"The image{'s' * (len(some) != 1)} of {join_words(some, 3)} {'was' if len(some) == 1 else 'were'} replaced"
            else:
                why = "The light was changed"
            self.hint.setText(
                f"↻ {why} since {'its' if one and some else 'their' if some else 'the'} cells were found: outlines, cells and "
                f"vectors are of before. <b>{self.all.text()}</b> does "
                f"{'only this field' if one else 'them' if len(stale.fields) == n else 'only these fields'} anew; embed then."
            )
            self.hint.show()
        elif done < n:
            self.set_status(f"{cells:,} cells in {done:,} of {n:,} fields", "ready")
        else:
            self.set_status(f"{cells:,} cells", "done" if cells else "needs")
            if not cells:
                self.hint.setText("No cell was found. Try other settings on one field, or another method.")
                self.hint.show()

    def _show_fields(self) -> None:
        """Cells per field, and the fields that are unlike the others."""
        cells, project = self.session.cells, self.project
        labelled = self.labelled() if project is not None and cells is not None else set()
        for item in (self.bars, self.flagged_words):
            item.setVisible(bool(labelled))
        self.flagged.setVisible(bool(labelled and self.flagged.count()))
        if project is None or cells is None or not labelled:
            self._counted = None
            return
        shown = self.dock.shown_field()
        problems = tuple((f.id, f.problem) for f in project.fields if f.problem)
        key = (id(cells), frozenset(labelled), shown, problems)
        if key == self._counted:
            return
        self._counted = key
        found = cells.obs["field"].value_counts()
        n_cells = {f.id: int(found.get(f.id, 0)) for f in project.fields if f.id in labelled}
        odd = {**unusual_fields(n_cells), **dict(problems)}
        self.bars.set_fields(list(n_cells), list(n_cells.values()), odd, shown)
        usual = np.median(list(n_cells.values())) if n_cells else 0
        words = f"{len(n_cells):,} field{'s' * (len(n_cells) != 1)}, usually {usual:,.0f} cells each."
        if odd:
            words += f" ⚠ {len(odd):,} to look at:"
        self.flagged_words.setText(words)
        self.flagged.setVisible(bool(odd))
        self.flagged.clear()
        for field, why in odd.items():
            item = QListWidgetItem(why if why.startswith("Field ") else f"{field}: {why}")
            item.setData(Qt.ItemDataRole.UserRole, field)
            item.setToolTip(f"{item.text()} Click to show it.")
            self.flagged.addItem(item)
        row = self.flagged.sizeHintForRow(0) if odd else 0
        self.flagged.setFixedHeight(row * min(len(odd), 5) + 6)

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

    # ---- a trial on the visible field ----

    def _root(self) -> str:
        return str(self.project.root) if self.project is not None else ""

    def _key(self) -> tuple[Any, ...]:
        """What a trial depends on; the first two say where."""
        arguments = self.arguments()
        config = tuple(sorted(arguments.pop("config").items()))
        return (self._root(), self.dock.shown_field(), config, *arguments.values())

    def _set_live(self, on: bool) -> None:
        self._refused = None
        if on:
            self.more.button.setChecked(True)
            self._live_soon()
        else:
            self._soon.stop()
            self._show_trial(None)
            self.dock.remove_preview()
        self.refresh()

    def _live_soon(self) -> None:
        if self.live.isChecked():
            self._soon.start()

    def _try_live(self) -> None:
        """Ask for the outlines with the settings as they are.

        Asked beside the running job, so it never waits for one. Only one is asked at a time: what comes of settings
        that have changed meanwhile is dropped, and the newest are asked then.
        """
        key = self._key()
        if not (self.live.isChecked() and self.live.isEnabled() and self.body.isVisible()) or not key[1]:
            return
        if self._asked is not None or key in (self._shown_trial, self._refused):
            return
        self._asked = key
        self.tried.setText(f"Trying on field {key[1]}…")
        self.tried.show()
        self.dock.runner.ask(
            "segment.preview", key[0], functools.partial(self._on_tried, key, monotonic()),
            functools.partial(self._on_not_tried, key), field=key[1], **self.arguments(),
        )  # fmt: skip

    def _on_tried(self, key: tuple[Any, ...], since: float, trial: Mapping[str, Any]) -> None:
        self._asked = None
        if not self.live.isChecked():
            return
        if key != self._key():
            self._try_live()
            return
        self._show_preview(key, trial, monotonic() - since)

    def _on_not_tried(self, key: tuple[Any, ...], sentence: str) -> None:
        self._asked = None
        if not self.live.isChecked():
            return
        if key != self._key():
            self._try_live()
            return
        self.dock.remove_preview()
        self._show_trial(None)
        self._refused = key  # the same settings would say the same
        self.tried.setText(f"⚠ {sentence}")
        self.tried.show()

    def try_one(self) -> None:
        """Segment the visible field and show what comes of it, without writing it: a job, which can be stopped."""
        key = self._key()
        self.dock.submit(
            "segment.preview", f"Trying on field {key[1]}", then=lambda trial: self._show_preview(key, trial),
            reload=False, field=key[1], **self.arguments(),
        )  # fmt: skip

    def _show_preview(self, key: tuple[Any, ...], trial: Mapping[str, Any], seconds: float = 0.0) -> None:
        viewer, field, labels = self.dock.viewer, key[1], trial["labels"]
        if self.dock.canvas.viewer is None:
            return  # the window is closing
        channel = self.dock.canvas.layer("channel")
        if field != self.dock.shown_field() or channel is None:
            return
        layer = self.dock.canvas.layer("preview")
        if layer is not None and layer.data.shape == labels.shape:
            layer.data = labels
        else:
            self.dock.remove_preview()
            layer = viewer.add_labels(
                labels,
                name="CellRep preview",
                colormap=DirectLabelColormap(color_dict=PREVIEW_COLOURS),
                metadata=_preview_note(self.project, field),
                scale=channel.scale,
                units=channel.units,
            )
            layer.contour = 2  # bold: these are not the cells that are kept
        self._shown_trial = key
        self._show_trial(trial, seconds)
        if not seconds:
            n = len(trial["area_px"])
            self.dock.strip.say(
                f"✓ {n:,} cells in field {field} with these settings; nothing is written yet."
            )

    def _show_trial(self, trial: Mapping[str, Any] | None, seconds: float = 0.0) -> None:
        """Say what a person looks for first: how many, how large, how many cut off."""
        self.tried.setVisible(trial is not None)
        self.sizes.setVisible(trial is not None and len(trial["area_px"]) > 0)
        if trial is None:
            self._shown_trial = None
            return
        area = trial["area_px"]
        words = f"<b>{len(area):,} cells</b>" if len(area) else "<b>No cell</b> with these settings"
        if len(area):
            words += f", median size {np.median(area):,.0f} px; {trial['n_border'] / len(area):.0%} touch the image’s edge."
        words += f" ({seconds:.1f} s)" if seconds >= 2 else ""
        words += "".join(f"<br>⚠ {html.escape(note)}" for note in trial.get("notes") or ())
        self.tried.setText(words)
        self.sizes.set_values(area)

    # ---- all fields ----

    def segment_all(self) -> None:
        """Segment every field, then make the table of cells."""
        self.live.setChecked(False)
        self.dock.remove_preview()
        self._show_trial(None)
        n = len(self.project.usable_fields)
        self.dock.submit(
            "segment.segment", f"Segmenting {n:,} field{'s' * (n != 1)}", then=self._segmented, reload=False,
            **self.arguments(),
        )  # fmt: skip

    def _segmented(self, result: Mapping[str, Any]) -> None:
        problems, notes = result.get("problems") or {}, result.get("notes") or {}
        self.dock.submit("crop.crop", "Finding cells", then=lambda n: self._cropped(n, problems, notes))

    def _cropped(self, n_cells: int, problems: Mapping[str, str], notes: Mapping[str, str]) -> None:
        fields = len(self.project.usable_fields)
        words = f"✓ {n_cells:,} cells in {fields:,} field{'s' * (fields != 1)}."
        if problems:
            words += f" ⚠ {len(problems):,} left out: {next(iter(problems.values()))}"
        if notes:
            words += f" ⚠ {next(iter(notes.values()))}"
            words += f" (and {len(notes) - 1:,} more fields)" if len(notes) > 1 else ""
        self.dock.strip.say(words)
        self.dock.open_card("cells")


def _preview_note(project: Any, field: str) -> dict[str, Any]:
    return {OURS: {"kind": "preview", "root": str(project.root), "field": field}}
