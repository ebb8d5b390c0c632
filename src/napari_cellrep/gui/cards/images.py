"""Card 1: where the images come from, and what their channels show."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)

from napari_cellrep.data.images import GREY, Box, flatten_z, to_grey
from napari_cellrep.data.layouts import guess_roles
from napari_cellrep.data.slides import LazyPlane
from napari_cellrep.data.tables import stem
from napari_cellrep.gui._image import OURS
from napari_cellrep.gui._sample import TAG, projects_folder
from napari_cellrep.gui.cards._files import FilesDialog, RowsDialog, TableDialog, free_place
from napari_cellrep.gui.cards._light import LightDialog
from napari_cellrep.gui.cards._parts import Card, ask, button, combo, refill, text
from napari_cellrep.specs import ROLES, Channel, InputError
from napari_cellrep.steps.import_crops import made_of_crops
from napari_cellrep.steps.import_fields import import_arrays
from napari_cellrep.steps.replay import fields_to_embed
from napari_cellrep.steps.time_series import frame_id

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# Preset → roles in channel order.
PRESETS = {
    "Cell Painting": ("nucleus", "er", "rna", "agp", "mito"),
    "Human Protein Atlas": ("microtubules", "protein", "nucleus", "er"),
    "Yeast, GFP and RFP": ("protein", "structure"),
    "DNA and protein": ("nucleus", "protein"),
    "Protein and DNA": ("protein", "nucleus"),
}


class ImagesCard(Card):
    """Where the images come from, and what their channels show."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 1, "Images")
        self.hint = text()
        self.sample = button(
            "Open the sample",
            self.open_sample,
            "24 wells of BBBC013: a drug moves a protein into the nucleus",
        )
        self.open = button("Open a project…", self.choose_project, "A folder called <name>.cellrep")
        self.layers = button(
            "Use these layers", self.use_layers, "The viewer's image layers become the channels of one field"
        )
        self.files = button(
            "Open files…",
            self.choose_files,
            "A new project of many images, several channels and a plate table",
        )
        self.save = button(
            "Save the project as…", self.save_as, "Moves it from the unsaved projects to your place"
        )
        self.field = combo("The field that is shown; only what you look at is read")
        self.field.activated.connect(lambda _: dock.show_field(self.field.currentData()))
        self.preset = combo("Say what all channels show at once, where they are in a usual order")
        self.preset.activated.connect(self._use_preset)
        self.axes = QWidget()
        self.axis_grid = QGridLayout(self.axes)
        self.axis_grid.setContentsMargins(0, 0, 0, 0)
        self.axis_grid.setColumnStretch(1, 1)
        self.axes.hide()
        self._axis_boxes: list[QComboBox] = []
        self.colours = combo("What pictures in colour become")
        refill(
            self.colours,
            [
                ("Colours are channels: red, green, blue", "split"),
                ("Colours become grey: their mean", "grey"),
            ],
        )
        self.colours.activated.connect(lambda _: self.refresh())
        self.pixel_size = QDoubleSpinBox()
        self.pixel_size.setRange(0, 1000)
        self.pixel_size.setDecimals(4)
        self.pixel_size.setSingleStep(0.01)
        self.pixel_size.setSuffix(" µm")
        self.pixel_size.setSpecialValueText("not known")
        self.pixel_size.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.pixel_size.wheelEvent = lambda event: event.ignore()
        self.pixel_size.setToolTip(
            "How much of the specimen a pixel is; 0 if it is not known. A layer without a unit of length proposes its scale, "
            "which most readers give in µm: correct it where yours does not"
        )
        size_row = QHBoxLayout()
        size_row.setContentsMargins(0, 0, 0, 0)
        size_row.addWidget(QLabel("A pixel is"))
        size_row.addWidget(self.pixel_size, 1)
        self.size_row = QWidget()
        self.size_row.setLayout(size_row)
        self.fits = text()
        self.add = button(
            "Add images…", self.choose_more, "New fields for this project, such as next week's plate"
        )
        self.table = button(
            "Table…",
            self.choose_table,
            "Another table of what is known of wells, files or fields; the cells stay",
        )
        self.find = button(
            "Find the images…",
            self.choose_folder,
            "Say in which folder they are now; nothing is computed again",
        )
        self.unlock = button(
            "Unlock…",
            self.ask_unlock,
            "A process of another computer holds this project, and on this network share it cannot be seen whether it still runs",
        )
        self.light = button(
            "Even out the light…",
            self.choose_light,
            "Corrects uneven illumination when images are read; the files stay as they are",
        )
        self._gone_of: Any = None
        self.gone = 0  # fields whose images were not found when the project was opened
        self.again = button(
            "Do the same for the new fields",
            self.replay,
            "Segments them with the same settings, describes their cells by the same models, and does the analyses again; "
            "what is there stays",
        )
        self.channels = QWidget()
        self.channel_grid = QGridLayout(self.channels)
        self.channel_grid.setContentsMargins(0, 0, 0, 0)
        self.channel_grid.setColumnStretch(0, 1)
        self.channel_grid.setColumnStretch(1, 1)
        row = QHBoxLayout()
        row.addWidget(QLabel("Show field"))
        row.addWidget(self.field, 1)
        self.field_row = QWidget()
        self.field_row.setLayout(row)
        row.setContentsMargins(0, 0, 0, 0)
        sources = QGridLayout()
        for i, made in enumerate((self.sample, self.open, self.layers, self.files)):
            sources.addWidget(made, i // 2, i % 2)
        for item in (
            self.hint, self.find, self.unlock, self.axes, self.colours, self.channels, self.size_row, self.preset, self.fits,
            self.field_row, self.again, self.light,
        ):  # fmt: skip
            self.layout_.addWidget(item)
        more = QHBoxLayout()
        more.addWidget(self.add)
        more.addWidget(self.table)
        self.layout_.addLayout(more)
        self.layout_.addLayout(sources)
        self.layout_.addWidget(self.save)
        self._layer_rows: list[_Row] = []
        self._shown: Any = None
        self._axes_shown: list[tuple[str, int]] = []
        self._proposed_for: Any = None  # the layers whose pixel size and colours were proposed
        self._proposed = 0.0

    def refresh(self) -> None:
        """Show the project as it is now."""
        project, images = self.project, self.image_layers()
        if project is None or project.root != self._gone_of:
            self._gone_of, self.gone = (project.root if project is not None else None), 0
        self.layers.setEnabled(bool(images))
        self.field_row.setVisible(project is not None)
        self._show_axes(images if project is None else [])
        self.colours.setVisible(project is None and any(layer.rgb for layer in images))
        self.size_row.setVisible(project is None and bool(images) and not any(map(_is_sample, images)))
        self.save.setVisible(project is not None and project.root.is_relative_to(projects_folder()))
        new = self._new_fields()
        self.add.setVisible(project is not None)
        self.table.setVisible(project is not None)
        self.light.setVisible(project is not None)
        self.find.setVisible(project is not None and self.gone > 0)
        holder = project.held_elsewhere if project is not None else None
        self.unlock.setVisible(holder is not None)
        self.again.setVisible(bool(new))
        crops = project is not None and made_of_crops(project)
        sheet = "contact sheet" if crops else "field"
        self.again.setText(f"Do the same for the {new:,} new {sheet}{'s' * (new != 1)}")
        self.add.setText("Add crops…" if crops else "Add images…")
        if project is None:
            self.set_status("nothing open yet", "ready")
            self._show_layers(images)
            return
        self._set_primary(self.again if new else None)  # else the next step is in card 2
        fields, bad = project.fields, [f for f in project.fields if f.problem]
        roles = [c.role for c in project.channels]
        groups = len({f.group for f in fields})
        n = f"{len(fields):,} field{'s' * (len(fields) != 1)}"
        unknown = all(role == "other" for role in roles)
        mark = "needs" if unknown or self.gone or holder is not None else "done"
        self.set_status(f"{n} · {len(roles)} channel{'s' * (len(roles) != 1)}", mark)
        words = [f"<b>{project.name}</b>: {n} in {groups:,} group{'s' * (groups != 1)}."]
        if unknown:
            words.append("⚠ Say what the channels show: models and segmenters ask for them by role.")
        if self.gone:
            words.append(
                "⚠ Images are not where they were. Cells, map and tables can be looked at without them."
            )
        elif bad:
            words.append(f"⚠ {len(bad):,} left out. {bad[0].problem}")
        if holder is not None:
            words.append(
                f"⚠ {holder} is writing to it, or has ended without a word; until then nothing can be changed."
            )
        if project.read_only:
            words.append("It is read-only: results can be exported elsewhere, but nothing is written to it.")
        if project.illumination is not None:
            how = (
                "functions brought with the images"
                if project.illumination.source == "brought"
                else "estimated"
            )
            words.append(f"Light: evened out when images are read ({how}).")
        if before := self.dock.stale.by_light:
            words.append(f"↻ {before} before the light was changed: do that again.")
        self.hint.setText("<br>".join(words))
        lit = project.illumination
        self.hint.setToolTip(str(project.root) + (f"\nLight: {lit.words()}." if lit is not None else ""))
        refill(self.field, [(_field_words(f), f.id) for f in fields], keep=self.dock.shown_field() or None)
        self._show_roles(project)
        self._show_fit()

    # ---- no project: which layers ----

    def image_layers(self) -> list[Any]:
        """Image layers that could become channels: in 2-D, or with axes of positions, time, depth or channels; not ours."""
        return [
            layer
            for layer in self.dock.viewer.layers
            if isinstance(layer, Image) and 2 <= layer.ndim <= 5 and not _is_ours(layer)
        ]

    def _show_axes(self, images: list[Any]) -> None:
        """Ask what each axis before y and x is; what the layers call it, or how long it is, proposes the answer."""
        axes = axes_of(images)
        if axes == self._axes_shown:
            return
        self._axes_shown = axes
        while (item := self.axis_grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        self._axis_boxes = []
        for i, (name, length) in enumerate(axes):
            box = combo("What the planes of the layers along this axis are")
            choices = [c for c in MEANINGS if c[1] != "channels" or length <= MOST_CHANNELS]
            refill(box, choices, keep=_guess_axis(name, length, i == len(axes) - 1, images))
            box.activated.connect(lambda _: self.refresh())
            called = f"Axis {name}" if name else "Axis" if len(axes) == 1 else f"Axis {i + 1}"
            self.axis_grid.addWidget(QLabel(f"{called}, {length:,} long:"), i, 0)
            self.axis_grid.addWidget(box, i, 1)
            self._axis_boxes.append(box)
        self.axes.setVisible(bool(axes))

    def meanings(self) -> tuple[str, ...]:
        """What each axis of the layers before y and x is: values of `MEANINGS`."""
        return tuple(box.currentData() for box in self._axis_boxes)

    def _show_layers(self, images: list[Any]) -> None:
        self.hint.setToolTip("")
        of_sample = any(_is_sample(layer) for layer in images)
        self._set_primary(self.layers if images and not of_sample else self.sample)
        if not images:
            self.hint.setText(
                "Open images to begin: the bundled sample, a project, files, or layers you drag into the viewer."
            )
        elif of_sample:
            self.hint.setText(
                "These layers are one well of the sample; <b>Open the sample</b> opens all 24 wells."
            )
        else:
            self.hint.setText(
                "Say what each layer shows. <b>Use these layers</b> makes them the channels of one field, or of a field for "
                "each position or time point, and copies their pixels into a project."
            )
        which = tuple((id(layer), layer.name) for layer in images)
        if self._proposed_for != which:
            self._proposed_for, self._proposed = which, proposed_um_per_px(images[0]) if images else 0.0
            self.pixel_size.setValue(self._proposed)
            grey = all(_is_grey(layer) for layer in images if layer.rgb)
            self.colours.setCurrentIndex(self.colours.findData("grey" if grey else "split"))
        key = (
            "layers",
            which,
            self.meanings(),
            self.colours.currentData(),
        )
        if key == self._shown:
            self._show_fit()
            return
        self._clear_grid(key)
        parts = [
            part
            for layer in images
            for part in parts_of(layer, self.meanings(), self.colours.currentData() == "grey")
        ]
        roles = guess_roles([called for *_, called in parts])
        for i, ((layer, channel, called), role) in enumerate(zip(parts, roles, strict=True)):
            use, name, box = QCheckBox(), QLineEdit(called), combo("What this channel shows")
            use.setChecked(layer.visible)
            use.setToolTip("Use this layer" if channel is None else "Use this channel of the layer")
            refill(box, [(r, r) for r in ROLES if r != "mask"], keep=role)
            box.activated.connect(lambda _: self._show_fit())
            use.toggled.connect(lambda _: self._show_fit())
            for column, widget in enumerate((name, box, use)):
                self.channel_grid.addWidget(widget, i, column)
            self._layer_rows.append(_Row(layer, channel, use, name, box))
        self._show_fit()

    def _set_primary(self, primary: QPushButton | None) -> None:
        for made in (self.sample, self.layers, self.again):
            font = made.font()
            font.setBold(made is primary)
            made.setFont(font)

    def _clear_grid(self, key: Any) -> None:
        self._shown, self._layer_rows = key, []
        while (item := self.channel_grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()

    # ---- a project: what its channels show ----

    def _show_roles(self, project: Any) -> None:
        key = ("project", project.root, project.channels)
        if key == self._shown:
            return
        self._clear_grid(key)
        for i, channel in enumerate(project.channels):
            box = combo("What this channel shows; models ask for channels by role")
            refill(box, [(r, r) for r in ROLES if r != "mask"], keep=channel.role)
            box.activated.connect(lambda _, i=i, box=box: self._set_role(i, box.currentData()))
            self.channel_grid.addWidget(text(channel.name, least_px=60), i, 0)
            self.channel_grid.addWidget(box, i, 1)

    def _set_role(self, index: int, role: str) -> None:
        channels = list(self.project.channels)
        channels[index] = dataclasses.replace(channels[index], role=role)
        with self.dock.told():
            self.project.set_channels(channels)
        self.dock.refresh()

    # ---- presets, and whether the chosen model can use the channels ----

    def _shown_channels(self) -> list[Channel]:
        """The project's channels, or those that the ticked layers would become."""
        if self.project is not None:
            return list(self.project.channels)
        rows = [row for row in self._layer_rows if row.use.isChecked()]
        return [Channel(row.name.text().strip() or "channel", row.role.currentData()) for row in rows]

    def _show_fit(self) -> None:
        channels = self._shown_channels()
        self.preset.setVisible(bool(channels))
        items = [("Preset…", "")]
        items += [(f"{name}: {', '.join(roles)}", name) for name, roles in PRESETS.items()]
        if self.preset.count() != len(items):
            refill(self.preset, items)
        for row, roles in enumerate(PRESETS.values(), 1):
            item, fits = self.preset.model().item(row), len(roles) == len(channels)
            item.setEnabled(fits)
            item.setToolTip("" if fits else f"For {len(roles)} channels; here are {len(channels)}")
        words = (
            self.dock.cards["model"].fit_words(channels) if channels and "model" in self.dock.cards else ""
        )
        self.fits.setText(words)
        self.fits.setVisible(bool(words))

    def _use_preset(self, _: int) -> None:
        roles = PRESETS.get(self.preset.currentData(), ())
        self.preset.setCurrentIndex(0)
        if not roles or len(roles) != len(self._shown_channels()):
            return
        if self.project is None:
            boxes = [row.role for row in self._layer_rows if row.use.isChecked()]
            for box, role in zip(boxes, roles, strict=True):
                box.setCurrentIndex(box.findData(role))
            self._show_fit()
            return
        with self.dock.told():
            self.project.set_channels(
                [dataclasses.replace(c, role=r) for c, r in zip(self.project.channels, roles, strict=True)]
            )
        self.dock.refresh()

    # ---- images that were moved ----

    def look_for_images(self, gone: int) -> None:
        """Look for moved images beside the project and where they were; the user is asked only if that fails."""
        self.gone, self._gone_of = gone, self.project.root
        if self.project.read_only:
            self.dock.strip.say(
                "⚠ The images are not where they were, and the project is read-only: it can be viewed without them."
            )
        else:
            self._relocate("")

    def choose_folder(self) -> None:
        """Ask where the images are now."""
        if folder := QFileDialog.getExistingDirectory(self, "The folder the images are in now"):
            self._relocate(folder)

    def _relocate(self, folder: str) -> None:
        self.dock.submit("relocate.relocate", "Looking for the images", then=self._relocated, folder=folder)

    def _relocated(self, result: Mapping[str, Any]) -> None:
        self.gone = result["missing"]
        found = result["found"]
        words = f"✓ The images of {found:,} field{'s' * (found != 1)} are in {result['folder']}."
        if self.gone:
            words += f" ⚠ Those of {self.gone:,} are still not there."
        self.dock.strip.say(words)
        self.dock.canvas.background.forget()
        self.dock.show_field(self.dock.shown_field() or self.dock.canvas.leaving.field)
        self.dock.refresh()

    # ---- a share without file locks ----

    def ask_unlock(self) -> None:
        """Ask whether the other computer's process is really gone."""
        holder = self.project.held_elsewhere
        if holder is None:
            self.refresh()
            return
        ask(
            self, "Unlock the project", f"Does this run no more? {holder}",
            "If it still writes, both would write at once, and what one of them writes is lost.", "Unlock", self.free,
        )  # fmt: skip

    def free(self) -> None:
        """Free the project from the process of another computer."""
        with self.dock.told():
            self.dock.strip.say(f"✓ Free again. It was held by: {self.project.unlock()}.")
        self.dock.refresh()

    # ---- uneven light ----

    def choose_light(self) -> None:
        """Ask by what the illumination is corrected, and show a field before and after."""
        dialog = LightDialog(self)
        dialog.accepted.connect(lambda: self._correct(dialog.value()))
        dialog.open()

    def _correct(self, values: dict[str, Any]) -> None:
        self.dock.submit(
            "illumination.correct",
            "Correcting the light",
            then=functools.partial(self._corrected, "off" in values),
            **values,
        )

    def _corrected(self, off: bool, _: Any) -> None:
        self.dock.canvas.background.forget()
        self.dock.labels_changed()
        words = (
            "Images are read as they are in their files."
            if off
            else "The light is evened out whenever an image is read."
        )
        if self.session.n_cells:
            words += " What was segmented, flagged and embedded before is out of date: run those steps again."
        self.dock.strip.say(f"✓ {words}")

    # ---- next week's plate ----

    def _new_fields(self) -> int:
        """Fields without labels, where others have some; of crops, contact sheets without vectors, where others have some."""
        if self.project is None:
            return 0
        if made_of_crops(self.project):
            return len(fields_to_embed(self.project.cells.obs)) if self.project.has_cells else 0
        labelled = self.project.labelled()
        return sum(1 for f in self.project.fields if f.planes and f.id not in labelled) if labelled else 0

    def choose_more(self) -> None:
        """Ask for the files of new fields, and add them to the project."""
        dialog = FilesDialog(self, adding=True)
        dialog.accepted.connect(lambda: (self._add_crops if dialog.to_crops else self._add)(dialog.value()))
        dialog.open()

    def _add_crops(self, values: dict[str, Any]) -> None:
        self.dock.submit(
            "import_crops.add_crops", "Adding crops", then=lambda _: self._added_crops(), **values
        )

    def _added_crops(self) -> None:
        self.dock.labels_changed()
        line = self.project.last("add")
        words = f"✓ {line['n_cells']:,} cell{'s' * (line['n_cells'] != 1)} added."
        self.dock.strip.say(words + "".join(f" ⚠ {note}" for note in line["notes"][:3]))

    def _add(self, values: dict[str, Any]) -> None:
        before = {f.id for f in self.project.usable_fields}
        self.dock.submit(
            "import_fields.add_fields", "Adding images", then=lambda _: self._added(before), **values
        )

    def _added(self, before: set[str]) -> None:
        new = [f for f in self.project.fields if f.id not in before]
        bad = [f.problem for f in new if f.problem]
        n = len(new) - len(bad)
        words = f"✓ {n:,} field{'s' * (n != 1)} added."
        if bad:
            words += f" ⚠ {len(bad):,} left out: {bad[0]}"
        self.dock.strip.say(words)

    def choose_table(self) -> None:
        """Ask for another table, and give its columns to fields and cells."""
        dialog = TableDialog(self)
        dialog.accepted.connect(
            lambda: self.dock.submit(
                "metadata.set_metadata", "Reading the table", then=self._got_table, **dialog.value()
            )
        )
        dialog.open()

    def _got_table(self, result: Mapping[str, Any]) -> None:
        words = f"✓ {result['n_fields']:,} fields have {', '.join(result['columns']) or 'nothing new'} from the table."
        if result["dropped"]:
            words += f" Gone: {', '.join(result['dropped'])}."
        self.dock.strip.say(words + "".join(f" ⚠ {note}" for note in result["notes"][:3]))
        if result["mistakes"]:
            RowsDialog(self, result["mistakes"]).show()

    def replay(self) -> None:
        """Do for the new fields what was done for the others."""
        n = self._new_fields()
        self.dock.submit(
            "replay.replay", f"Doing the same for {n:,} new field{'s' * (n != 1)}", then=self._replayed,
            device=self.dock.device(),
        )  # fmt: skip

    def _replayed(self, result: Mapping[str, Any]) -> None:
        self.dock.labels_changed()
        words = f"✓ {result['n_cells']:,} new cells in {result['n_fields']:,} fields"
        for what, title in (("embeddings", "embedded as"), ("analyses", "done again:")):
            if result[what]:
                words += f"; {title} {', '.join(result[what])}"
        left = [*result["notes"], *result["problems"].values()]
        self.dock.strip.say(words + "." + "".join(f" ⚠ {sentence}" for sentence in left[:3]))

    # ---- actions ----

    def open_sample(self) -> None:
        """Open the bundled sample, made once in the user's data folder."""
        for layer in [la for la in self.dock.viewer.layers if _is_sample(la)]:
            self.dock.viewer.layers.remove(layer)  # the project shows the same pixels
        root = projects_folder() / "bbbc013.cellrep"
        if (root / "project.json").is_file():
            self.dock.open_project(root)
        else:
            self.dock.submit(
                "sample.open_sample",
                "Opening the sample",
                then=self.dock.open_project,
                project=None,
                path=str(root),
            )

    def choose_project(self) -> None:
        """Ask for a project folder and open it."""
        folder = QFileDialog.getExistingDirectory(self, "Open a project (a folder called <name>.cellrep)")
        if folder:
            self.dock.open_project(folder)

    def use_layers(self) -> None:
        """Make a project of the ticked layers, in the user's data folder."""
        if self.project is not None:  # show the layers' table first, so that the roles can be checked
            self.dock.close_project()
            return
        rows = [row for row in self._layer_rows if row.use.isChecked()]
        if any(_is_sample(row.layer) for row in rows):
            self.open_sample()
            return
        with self.dock.told():
            if not rows:
                raise InputError("No layer is ticked; tick those that are channels of your images.")
            channels = [Channel(row.name.text().strip(), row.role.currentData()) for row in rows]
            images, metadata = images_of([(row.layer, row.channel) for row in rows], self.meanings())
            root = free_place(projects_folder() / f"{name_of([row.layer for row in rows])}.cellrep")
            # In this process: the plugin that reads the pixels is here, and what it gives is often bound to it.
            self.dock.submit(
                import_arrays, "Taking over the layers", then=self._took_layers, project=None, path=root, images=images,
                channels=channels, metadata=metadata, um_per_px=self.um_per_px(),
                sources=[_source_of(row.layer) for row in rows],
            )  # fmt: skip

    def um_per_px(self) -> float:
        """The pixel size that is said; what was proposed is not rounded as it is shown."""
        said = self.pixel_size.value()
        return self._proposed if abs(said - self._proposed) < 10 ** -self.pixel_size.decimals() else said

    def _took_layers(self, project: Any) -> None:
        for layer in [row.layer for row in self._layer_rows]:
            if layer in self.dock.viewer.layers:
                layer.visible = False  # the project's own layers show the same pixels
        self.dock.open_project(project.root)

    def choose_files(self) -> None:
        """Ask for files, channels and a plate table, and make a project of them."""
        dialog = FilesDialog(self)
        dialog.accepted.connect(lambda: self._import(dialog.value(), dialog.crops.isChecked()))
        dialog.open()

    def _import(self, values: dict[str, Any], crops: bool = False) -> None:
        self.dock.submit(
            "import_crops.import_crops" if crops else "import_fields.import_fields",
            "Importing crops" if crops else "Importing images",
            then=self.dock.open_project,
            project=None,
            **values,
        )

    def save_as(self) -> None:
        """Move an unsaved project to where the user wants it."""
        place, _ = QFileDialog.getSaveFileName(
            self, "Save the project as", str(Path.home() / self.project.root.name)
        )
        if place:
            target = Path(place).with_suffix(".cellrep")
            with self.dock.told():
                if target.exists():
                    raise InputError(f"{target.name} exists already; choose another name.")
                self.dock.submit(
                    "shutil:move", "Saving the project", then=self.dock.open_project, project=None,
                    src=str(self.project.root), dst=str(target),
                )  # fmt: skip


def _field_words(field: Any) -> str:
    known = [
        str(v)
        for k, v in field.metadata.items()
        if k in ("compound", "treatment", "protein", "dose_rank", "dose")
    ]
    return " · ".join([field.id, *known]) + (" ⚠" if field.problem else "")


def _is_ours(layer: Any) -> bool:
    return OURS in layer.metadata


def _is_sample(layer: Any) -> bool:
    tag = layer.metadata.get(TAG)
    return isinstance(tag, Mapping) and bool(tag.get("sample"))


def _file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "layers"


# What an axis of a layer before y and x can be.
MEANINGS = [
    ("a field each (positions)", ""),
    ("time points", "time"),
    ("depth (z): brightest", "max"),
    ("depth (z): mean", "mean"),
    ("channels", "channels"),
]
MOST_CHANNELS = 32
_COLOURS = ("red", "green", "blue")


class _Row(NamedTuple):
    """A channel to be: a layer, or one of its channels, and what is asked of it."""

    layer: Any
    channel: int | None
    use: QCheckBox
    name: QLineEdit
    role: QComboBox


def axes_of(layers: Sequence[Any]) -> list[tuple[str, int]]:
    """Name ("" if it has none) and length of each axis before y and x of the layer that has most of them."""
    most = max(layers, key=lambda layer: layer.ndim, default=None)
    if most is None:
        return []
    shape = _shape(most)[:-2]
    labels = [str(label) for label in most.axis_labels][: len(shape)]
    unnamed = re.compile(r"(axis )?-?\d+")  # napari numbers them from the right
    return [("" if unnamed.fullmatch(label) else label, n) for label, n in zip(labels, shape, strict=True)]


def _shape(layer: Any) -> tuple[int, ...]:
    """A layer's shape at full size, without the axis of colours."""
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(int(n) for n in data.shape[: layer.ndim])


def _guess_axis(name: str, length: int, last: bool, layers: Sequence[Any]) -> str:
    """What an axis is, by its name; without one, a short last axis of a single layer is its channels."""
    word = name.casefold()
    if word in ("t", "time", "frame", "frames", "timepoint"):
        return "time"
    if word in ("z", "depth", "slice", "plane"):
        return "max"
    named = word in ("c", "ch", "channel", "channels")
    alone = len(layers) == 1 and not layers[0].rgb
    if (named and length <= MOST_CHANNELS) or (not word and last and length <= 5 and alone):
        return "channels"
    return ""


def parts_of(layer: Any, meanings: Sequence[str], grey: bool) -> list[tuple[Any, int | None, str]]:
    """The channels in a layer: the layer, which of its channels (None: it is one; `GREY`: colours' mean), and a name."""
    if layer.rgb:
        names = [(GREY, layer.name)] if grey else [(i, f"{layer.name} {c}") for i, c in enumerate(_COLOURS)]
        return [(layer, i, name) for i, name in names]
    own = _own(meanings, layer.ndim - 2)
    if "channels" not in own:
        return [(layer, None, layer.name)]
    return [(layer, i, f"{layer.name} {i + 1}") for i in range(_shape(layer)[own.index("channels")])]


def _is_grey(layer: Any) -> bool:
    """Whether a picture in colour is grey, saved as colour, by some of its pixels; only of one that is in memory."""
    data = layer.data[0] if layer.multiscale else layer.data
    if not isinstance(data, np.ndarray):
        return False
    step = max(1, max(data.shape[-3:-1]) // 256)
    some = data[..., ::step, ::step, :3]
    return bool((some == some[..., :1]).all())


def _own(meanings: Sequence[str], n: int) -> tuple[str, ...]:
    """What the `n` axes of a layer before y and x are: axes are the same from the right, as napari has it."""
    return ("",) * (n - len(meanings)) + tuple(meanings)[max(0, len(meanings) - n) :]


def images_of(
    parts: Sequence[tuple[Any, int | None]], meanings: Sequence[str] = ()
) -> tuple[dict[str, list[LazyPlane]], dict[str, dict[str, Any]]]:
    """Fields of layers that are their channels.

    Parameters
    ----------
    parts : sequence of (napari.layers.Image, int or None)
        One per channel: the layer, and which of its channels or colours; None: it is one, `GREY`: the mean of colours.
    meanings : sequence of str
        What each axis before y and x is: values of `MEANINGS`.

    Returns
    -------
    dict of str to list of LazyPlane
        Field id → a plane (H, W) per channel, read where it is asked for.
    dict of str to dict
        Of frames of a time series, field id → series and frame.

    Raises
    ------
    InputError
        If the layers differ in size, or two axes are time or channels.
    """
    first = parts[0][0]
    for layer, _ in parts:
        if _shape(layer) != _shape(first):
            raise InputError(
                f"Layer {layer.name} is {' × '.join(map(str, _shape(layer)))} px, {first.name} is "
                f"{' × '.join(map(str, _shape(first)))} px; channels of one image are of one size."
            )
    *extra, height, width = _shape(first)
    own = _own(meanings, len(extra))
    for word, what in (("time", "time"), ("channels", "channels")):
        if own.count(word) > 1:
            raise InputError(f"Only one axis of a layer can be {what}; say what the others are.")
    if "channels" in own and any(layer.rgb for layer, _ in parts):
        raise InputError("The colours of a layer are its channels; an axis of it cannot be channels, too.")
    name = name_of([layer for layer, _ in parts])
    positions = [range(n) if kind == "" else (0,) for n, kind in zip(extra, own, strict=True)]
    n_frames = extra[own.index("time")] if "time" in own else 0
    images, metadata = {}, {}
    many = "" in own
    for p, at in enumerate(itertools.product(*positions)):
        position = f"{name}_{p + 1:03d}" if many else name
        for t in range(max(n_frames, 1)):
            here = tuple(t if kind == "time" else i for i, kind in zip(at, own, strict=True))
            field = frame_id(position, t, n_frames - 1) if n_frames else position
            images[field] = [
                LazyPlane(_reader(layer, channel, here, own), (height, width), _dtype(layer))
                for layer, channel in parts
            ]
            if n_frames:
                metadata[field] = {"series": position, "frame": t}
    return images, metadata


def _dtype(layer: Any) -> np.dtype:
    return np.dtype((layer.data[0] if layer.multiscale else layer.data).dtype)


def _reader(
    layer: Any, channel: int | None, at: tuple[int, ...], own: tuple[str, ...]
) -> Callable[[Box], np.ndarray]:
    """Reads a part (h, w) of one plane of a layer; only what is in it is asked of its array."""
    data, rgb = (layer.data[0] if layer.multiscale else layer.data), layer.rgb
    method = "mean" if "mean" in own else "max"
    picked: list[Any] = [
        slice(None) if kind in ("max", "mean") else channel if kind == "channels" else i
        for i, kind in zip(at, own, strict=True)
    ]

    def read(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        part = np.asarray(data[(*picked, slice(y0, y1), slice(x0, x1))])
        if rgb:
            colours = np.moveaxis(part, -1, 0)
            part = (
                to_grey(colours.reshape(len(colours), -1, x1 - x0)) if channel == GREY else colours[channel]
            )
        return flatten_z(part.reshape(-1, y1 - y0, x1 - x0), method)

    return read


def name_of(layers: Sequence[Any]) -> str:
    """What the field of layers is called: several of one file by the file, else by the first layer."""
    paths = {str(layer.source.path or "") for layer in layers}
    of_file = stem(Path(next(iter(paths)))) if len(paths) == 1 and paths != {""} else ""
    several = any(layer is not layers[0] for layer in layers)
    return _file_name(of_file if several and of_file else layers[0].name)


def _source_of(layer: Any) -> dict[str, str]:
    """Which layer it was, and of which file, read by which plugin."""
    path, reader = layer.source.path, layer.source.reader_plugin
    return {
        "layer": layer.name,
        **({"file": str(path)} if path else {}),
        **({"reader": reader} if reader else {}),
    }


def proposed_um_per_px(layer: Any) -> float:
    """A layer's pixel size in µm; without a unit of length its scale, which readers mostly give in µm."""
    scale = float(layer.scale[-1])
    return um_per_px(layer) or (scale if scale != 1 and _in_pixels(layer) else 0.0)


def _in_pixels(layer: Any) -> bool:
    return str(layer.units[-1]) in ("pixel", "dimensionless")


def um_per_px(layer: Any) -> float:
    """A layer's pixel size in µm; 0 when its units are pixels."""
    try:
        return float(1 * layer.units[-1] / _micrometre(layer)) * float(layer.scale[-1])
    except Exception:  # noqa: BLE001  (pint: pixels are no length)
        return 0.0


def _micrometre(layer: Any) -> Any:
    return type(layer.units[-1])("micrometer")
