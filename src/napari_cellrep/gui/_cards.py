"""The five cards of the CellRep dock: images, segment, cells, model, explore (ui.md)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.settings import get_plugin_settings
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.cells import FLAGS, QualityRules
from napari_cellrep.gui._forms import Form
from napari_cellrep.gui._image import OURS
from napari_cellrep.gui._sample import TAG, projects_folder
from napari_cellrep.jobs import Progress
from napari_cellrep.specs import ROLES, Channel, InputError, field_rules, match_channels

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# Mark → (sign, words): never colour alone.
MARKS = {
    "done": ("✓", "done"),
    "running": ("●", "running"),
    "ready": ("○", "ready"),
    "needs": ("⚠", "needs you"),
    "stale": ("↻", "out of date"),
    "": ("", ""),
}

# Words in a layer's name → the role it probably has; the first that fits counts.
_ROLE_WORDS = (
    ("nucleus", r"dapi|hoechst|dna|nucl|draq|h2b|histone"),
    ("brightfield", r"bright|\bbf\b|\bdic\b|phase|trans"),
    ("microtubules", r"tubul|\bmt\b"),
    ("mito", r"mito|tomm?20"),
    ("actin", r"actin|phalloidin"),
    ("agp", r"\bagp\b"),
    ("er", r"\ber\b|calnexin|conca|endoplasm"),
    ("rna", r"\brna\b|syto"),
    ("membrane", r"membrane|wga|cellmask"),
    ("structure", r"rfp|mcherry|cytosol|marker|tdtomato"),
    ("protein", r"gfp|protein|yfp|venus|neon|fitc|antibody|488"),
)


def guess_roles(names: Sequence[str]) -> list[str]:
    """Roles that channel names suggest; the first without one is taken for the protein if none is."""
    roles = [
        next((role for role, words in _ROLE_WORDS if re.search(words, name.replace("_", " "), re.I)), "other")
        for name in names
    ]
    if "protein" not in roles and "other" in roles:
        roles[roles.index("other")] = "protein"
    return roles


# ---- parts ---------------------------------------------------------------------------------------


def text(words: str = "", tip: str = "", least_px: int = 250) -> QLabel:
    """A paragraph that wraps instead of making the dock wider; its height is reckoned for `least_px`."""
    label = QLabel(words)
    label.setWordWrap(True)
    label.setToolTip(tip)
    label.setMinimumWidth(least_px)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def button(words: str, slot: Any, tip: str = "", primary: bool = False) -> QPushButton:
    """A button; the card's main one is bold."""
    made = QPushButton(words)
    made.setToolTip(tip)
    made.setMinimumWidth(60)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    if primary:
        font = made.font()
        font.setBold(True)
        made.setFont(font)
    made.clicked.connect(lambda *_: slot())
    return made


def combo(tip: str = "") -> QComboBox:
    """A combo box that neither widens the dock nor turns when the dock is scrolled."""
    made = QComboBox()
    made.setToolTip(tip)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    made.setMinimumWidth(80)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    made.wheelEvent = lambda event: event.ignore()
    return made


def refill(box: QComboBox, items: Sequence[tuple[str, Any]], keep: Any = None) -> None:
    """Fill a combo box with (text, value) and stay where it was (or at `keep`), silently."""
    keep = box.currentData() if keep is None else keep
    box.blockSignals(True)
    box.clear()
    for words, value in items:
        box.addItem(words, value)
    values = [value for _, value in items]
    box.setCurrentIndex(values.index(keep) if keep in values else 0 if items else -1)
    box.blockSignals(False)


class More(QWidget):
    """What most people need not see: closed under one line."""

    def __init__(self, title: str, content: QWidget):
        super().__init__()
        self.content = content
        self.button = QToolButton()
        self.button.setText(f"▸ {title}")
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(content)
        content.hide()

        def toggle(on: bool) -> None:
            content.setVisible(on)
            self.button.setText(f"{'▾' if on else '▸'} {title}")

        self.button.toggled.connect(toggle)


class Card(QWidget):
    """A header that says the state in a glance, and a body that is open for one card at a time."""

    opened = Signal(object)

    def __init__(self, dock: CellRepDock, number: int, title: str):
        super().__init__()
        self.dock, self.title = dock, title
        self.header = QPushButton()
        self.header.setCheckable(True)
        self.header.setMinimumHeight(30)
        self.header.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        line = QHBoxLayout(self.header)
        line.setContentsMargins(6, 0, 4, 0)
        self._arrow, self._status, self._mark = QLabel("▸"), QLabel(), QLabel()
        name = QLabel(f"{number} {title}")
        font = name.font()
        font.setBold(True)
        name.setFont(font)
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._status.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._mark.setFixedWidth(18)
        for label in (self._arrow, name, self._status, self._mark):
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            label.setStyleSheet("background: transparent")
            line.addWidget(label, 1 if label is self._status else 0)
        self.body = QWidget()
        self.layout_ = QVBoxLayout(self.body)
        self.layout_.setContentsMargins(10, 4, 4, 10)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(self.header)
        outer.addWidget(self.body)
        self.body.hide()
        self.header.toggled.connect(self._on_toggled)

    def set_open(self, is_open: bool) -> None:
        """Open or close the body."""
        self.header.setChecked(is_open)

    def _on_toggled(self, on: bool) -> None:
        self.body.setVisible(on)
        self._arrow.setText("▾" if on else "▸")
        if on:
            self.opened.emit(self)

    def set_status(self, words: str, mark: str = "") -> None:
        """Say the state: what, how many, and a mark of `MARKS`."""
        sign, meaning = MARKS[mark]
        self._status.setText(words)
        self._mark.setText(sign)
        self.header.setToolTip(f"{words} ({meaning})" if meaning else words)
        self.header.setAccessibleName(f"{self.title}: {words} {meaning}")

    @property
    def status(self) -> str:
        """What the closed line says, mark included."""
        return f"{self._status.text()} {self._mark.text()}".strip()

    # shortcuts
    @property
    def session(self) -> Any:
        return self.dock.session

    @property
    def project(self) -> Any:
        return self.dock.session.project

    def refresh(self) -> None:
        """Show the project as it is now."""

    def running(self, *steps: str) -> bool:
        """Whether a job of one of these steps runs or waits."""
        runner = self.dock.runner
        active = [*runner.queued, *([runner.current] if runner.current else [])]
        return any(handle.step.split(".")[0] in steps for handle in active)


# ---- 1 Images ------------------------------------------------------------------------------------


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
        for item in (self.hint, self.channels, self.field_row):
            self.layout_.addWidget(item)
        self.layout_.addLayout(sources)
        self.layout_.addWidget(self.save)
        self._layer_rows: list[tuple[Any, QCheckBox, QLineEdit, QComboBox]] = []
        self._shown: Any = None

    def refresh(self) -> None:
        project, images = self.project, self.image_layers()
        self.layers.setEnabled(bool(images))
        self.field_row.setVisible(project is not None)
        self.save.setVisible(project is not None and project.root.is_relative_to(projects_folder()))
        if project is None:
            self.set_status("nothing open yet", "ready")
            self._show_layers(images)
            return
        self._set_primary(None)  # the next step is in card 2
        fields, bad = project.fields, [f for f in project.fields if f.problem]
        roles = [c.role for c in project.channels]
        groups = len({f.group for f in fields})
        n = f"{len(fields):,} field{'s' * (len(fields) != 1)}"
        unknown = all(role == "other" for role in roles)
        mark = "needs" if unknown else "done"
        self.set_status(f"{n} · {len(roles)} channel{'s' * (len(roles) != 1)}", mark)
        words = [f"<b>{project.name}</b>: {n} in {groups:,} group{'s' * (groups != 1)}."]
        if unknown:
            words.append("⚠ Say what the channels show: models and segmenters ask for them by role.")
        if bad:
            words.append(f"⚠ {len(bad):,} left out. {bad[0].problem}")
        self.hint.setText("<br>".join(words))
        self.hint.setToolTip(str(project.root))
        refill(self.field, [(_field_words(f), f.id) for f in fields], keep=self.dock.shown_field() or None)
        self._show_roles(project)

    # ---- no project: which layers ----

    def image_layers(self) -> list[Any]:
        """Image layers that could become channels: grey, in 2-D or a stack of images, not shown by us."""
        return [
            layer
            for layer in self.dock.viewer.layers
            if isinstance(layer, Image) and not layer.rgb and layer.ndim in (2, 3) and not _is_ours(layer)
        ]

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
                "Say what each layer shows. <b>Use these layers</b> makes them the channels of one field "
                "(a stack: one field per plane)."
            )
        key = ("layers", tuple((id(layer), layer.name) for layer in images))
        if key == self._shown:
            return
        self._clear_grid(key)
        for i, (layer, role) in enumerate(
            zip(images, guess_roles([layer.name for layer in images]), strict=True)
        ):
            use, name, box = QCheckBox(), QLineEdit(layer.name), combo("What this channel shows")
            use.setChecked(layer.visible)
            use.setToolTip("Use this layer")
            refill(box, [(r, r) for r in ROLES if r != "mask"], keep=role)
            for column, widget in enumerate((name, box, use)):
                self.channel_grid.addWidget(widget, i, column)
            self._layer_rows.append((layer, use, name, box))

    def _set_primary(self, primary: QPushButton | None) -> None:
        for made in (self.sample, self.layers):
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
        rows = [row for row in self._layer_rows if row[1].isChecked()]
        if any(_is_sample(layer) for layer, *_ in rows):
            self.open_sample()
            return
        with self.dock.told():
            if not rows:
                raise InputError("No layer is ticked; tick those that are channels of your images.")
            channels = [Channel(name.text().strip(), box.currentData()) for _, _, name, box in rows]
            layers = [layer for layer, *_ in rows]
            images = images_of(layers)
            root = _free(projects_folder() / f"{_file_name(layers[0].name)}.cellrep")
            self.dock.submit(
                "import_fields.import_arrays", "Taking over the layers", then=self._took_layers, project=None,
                path=str(root), images=images, channels=channels, um_per_px=um_per_px(layers[0]),
            )  # fmt: skip

    def _took_layers(self, root: str) -> None:
        for layer in [row[0] for row in self._layer_rows]:
            if layer in self.dock.viewer.layers:
                layer.visible = False  # the project's own layers show the same pixels
        self.dock.open_project(root)

    def choose_files(self) -> None:
        """Ask for files, channels and a plate table, and make a project of them."""
        dialog = FilesDialog(self)
        dialog.accepted.connect(lambda: self._import(dialog.value()))
        dialog.open()

    def _import(self, values: dict[str, Any]) -> None:
        self.dock.submit(
            "import_fields.import_fields",
            "Importing images",
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


def _free(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that is not taken."""
    i, free = 2, path
    while free.exists():
        free, i = path.with_name(f"{path.stem}-{i}{path.suffix}"), i + 1
    return free


def images_of(layers: Sequence[Any]) -> dict[str, Any]:
    """Field id → (C, H, W) of layers that are the channels of one field, or of a stack of fields.

    Raises
    ------
    InputError
        If the layers differ in size.
    """
    planes = [layer.data[0] if layer.multiscale else layer.data for layer in layers]
    for layer, plane in zip(layers, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise InputError(
                f"Layer {layer.name} is {' × '.join(map(str, plane.shape))} px, {layers[0].name} is "
                f"{' × '.join(map(str, planes[0].shape))} px; channels of one image are of one size."
            )
    name = _file_name(layers[0].name)
    if planes[0].ndim == 2:
        return {name: np.stack(planes)}
    return {f"{name}_{i + 1:03d}": np.stack([plane[i] for plane in planes]) for i in range(len(planes[0]))}


def um_per_px(layer: Any) -> float:
    """A layer's pixel size in µm; 0 when its units are pixels."""
    try:
        return float(1 * layer.units[-1] / _micrometre(layer)) * float(layer.scale[-1])
    except Exception:  # noqa: BLE001  (pint: pixels are no length)
        return 0.0


def _micrometre(layer: Any) -> Any:
    return type(layer.units[-1])("micrometer")


class FilesDialog(QDialog):
    """Which files, which channels, which table, and where the project goes."""

    def __init__(self, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("New project from files")
        self.images, self.channels, self.pattern = QLineEdit(), QLineEdit(), QLineEdit()
        self.table, self.place = QLineEdit(), QLineEdit()
        self.images.setPlaceholderText("a folder, files, or plate1/*.tif; several with ; between")
        self.channels.setPlaceholderText("FKHR-GFP:protein, DNA:nucleus (in plane order)")
        self.pattern.setPlaceholderText("{well}_{site}_{channel}.tif (may stay empty)")
        self.table.setPlaceholderText("CSV with a row per well or file (may stay empty)")
        layout = QFormLayout(self)
        for words, edit, pick in (
            ("Images", self.images, self._pick_images),
            ("Channels", self.channels, None),
            ("File names", self.pattern, None),
            ("Plate table", self.table, self._pick_table),
            ("Project", self.place, self._pick_place),
        ):
            row = QHBoxLayout()
            row.addWidget(edit)
            edit.setMinimumWidth(340)
            if pick:
                row.addWidget(button("…", pick))
                row.itemAt(1).widget().setFixedWidth(30)
            layout.addRow(words, row)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setText("Import")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        layout.addRow(self.buttons)
        for edit in (self.images, self.place):
            edit.textChanged.connect(self._check)
        self._check()

    def _check(self) -> None:
        ready = bool(self.images.text().strip() and self.place.text().strip())
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setEnabled(ready)

    def _pick_images(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder with the images"):
            self.images.setText(folder)
            if not self.place.text():
                self.place.setText(str(Path(folder).with_suffix(".cellrep")))

    def _pick_table(self) -> None:
        if path := QFileDialog.getOpenFileName(self, "Plate table", filter="Tables (*.csv *.tsv *.txt)")[0]:
            self.table.setText(path)

    def _pick_place(self) -> None:
        if path := QFileDialog.getSaveFileName(self, "Project folder", self.place.text())[0]:
            self.place.setText(path)

    def value(self) -> dict[str, Any]:
        """Arguments of `steps.import_fields.import_fields`."""
        return {
            "path": self.place.text().strip(),
            "images": [p.strip() for p in self.images.text().split(";") if p.strip()],
            "channels": [c.strip() for c in self.channels.text().split(",") if c.strip()],
            "pattern": self.pattern.text().strip(),
            "metadata": self.table.text().strip(),
        }


# ---- 2 Segment -----------------------------------------------------------------------------------


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
        for item in (self.hint, self.method, self.about, self.more, self.one, self.all):
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
            self.form_place.addWidget(self.form)
            self.about.setText(self._found[name]["doc"])

    def n_labelled(self) -> int:
        """Fields that have labels: one look at the folder, however many fields."""
        return sum(1 for _ in (self.project.root / "labels").glob("*.ome.tif"))

    def refresh(self) -> None:
        project = self.project
        n = len(project.usable_fields) if project else 0
        ready = bool(n and self.method.count())
        self.all.setEnabled(ready)
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


# ---- 3 Cells -------------------------------------------------------------------------------------


class CellsCard(Card):
    """How many cells are good, and why the others are flagged; edits of labels."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 3, "Cells")
        self.hint = text()
        self.counts = text()
        self.counts.setTextFormat(Qt.TextFormat.RichText)
        self.hide_flagged = QCheckBox("Hide flagged cells")
        self.hide_flagged.setToolTip("They are kept, but not shown, not ranked and not trained on")
        self.hide_flagged.toggled.connect(self._set_hidden)
        self.edits = button(
            "Save label edits", self.save_edits, "Cells you painted, merged or split in the labels layer"
        )
        self.form = Form(field_rules(QualityRules))
        self.apply = button("Flag again by these rules", self.apply_rules)
        rules = QWidget()
        inside = QVBoxLayout(rules)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addWidget(self.form)
        inside.addWidget(self.apply)
        self.more = More("Rules", rules)
        for item in (self.hint, self.counts, self.hide_flagged, self.edits, self.more):
            self.layout_.addWidget(item)

    def refresh(self) -> None:
        cells = self.session.cells
        have = cells is not None and self.session.n_cells > 0
        for item in (self.counts, self.hide_flagged, self.edits, self.more):
            item.setVisible(have)
        self.hint.setVisible(not have)
        if not have:
            self.hint.setText(
                "No cells yet: segment the images first (card 2)."
                if self.project
                else "Open images first (card 1)."
            )
            self.set_status("")
            return
        good = int(cells.obs["good"].sum()) if "good" in cells.obs else self.session.n_cells
        flagged = self.session.n_cells - good
        self.set_status(f"{good:,} good · {flagged:,} flagged", "done")
        self.counts.setText(flag_table(cells.obs) if flagged else "No cell carries a flag.")
        self.hide_flagged.blockSignals(True)
        self.hide_flagged.setChecked(self.session.hide_flagged)
        self.hide_flagged.blockSignals(False)

    def _set_hidden(self, on: bool) -> None:
        self.session.hide_flagged = on

    def save_edits(self) -> None:
        """Write the labels as they are in the viewer; their cells become out of date and are measured again."""
        self.dock.save_label_edits()

    def apply_rules(self) -> None:
        """Decide the flags anew."""
        self.dock.submit("crop.crop", "Flagging cells", rules=self.form.value())


def flag_table(obs: Any) -> str:
    """How many cells carry each flag, most first, as a small HTML table."""
    counts: Counter[str] = Counter()
    for flags, n in obs["flags"].astype(str).value_counts().items():
        for flag in filter(None, str(flags).split(";")):
            counts[flag] += int(n)
    rows = "".join(
        f"<tr><td align='right'><b>{n:,}</b>&nbsp;&nbsp;</td><td>{flag.replace('_', ' ')}: {FLAGS.get(flag, flag)}</td></tr>"
        for flag, n in counts.most_common()
    )
    return f"<p>Flagged cells, and why (a cell can carry several flags):</p><table>{rows}</table>"


# ---- 4 Model -------------------------------------------------------------------------------------


class ModelCard(Card):
    """Which network, which channels it sees; train it, and embed the cells."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 4, "Model")
        self.hint = text()
        self.model = combo("The network, or the classical measurements, that describes each cell by numbers")
        self.model.currentIndexChanged.connect(lambda _: self._chosen())
        self.about = text()
        self.channel_form = QFormLayout()
        self.channel_form.setContentsMargins(0, 0, 0, 0)
        self.channel_boxes: list[QComboBox] = []
        self.embed = button(
            "Embed cells", self.embed_cells,
            "Embedding: a list of numbers that describes how a cell looks; cells that look alike get similar numbers",
        )  # fmt: skip
        self.train = button(
            "Train", self.train_model, "Learns from your cells, without labels; you can stop and go on later"
        )
        self.loss = text(
            tip="Loss: how wrong the network's predictions still are; training has learned when it no longer falls"
        )
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of the trained model")
        self.training_place = QVBoxLayout()
        self.training_place.setContentsMargins(0, 0, 0, 0)
        self.training: Form | None = None
        training = QWidget()
        training.setLayout(self.training_place)
        self.training_place.addWidget(self.name)
        self.training_more = More("Training", training)
        self.device = combo("Where networks run")
        settings = get_plugin_settings("napari-cellrep").computing
        refill(self.device, [(d, d) for d in ("auto", "cpu", "cuda", "mps")], keep=settings.device)
        self.batch = QSpinBox()
        self.batch.setRange(0, 65536)
        self.batch.setSpecialValueText("automatic")
        self.batch.setValue(settings.batch_size)
        self.batch.setToolTip("Cells per pass; less needs less memory")
        rest = QWidget()
        rest_form = QFormLayout(rest)
        rest_form.setContentsMargins(0, 0, 0, 0)
        rest_form.addRow("Device", self.device)
        rest_form.addRow("Batch size", self.batch)
        self.more = More("More", rest)
        for item in (self.hint, self.model, self.about):
            self.layout_.addWidget(item)
        self.layout_.addLayout(self.channel_form)
        for item in (self.train, self.loss, self.embed, self.training_more, self.more):
            self.layout_.addWidget(item)
        self._found: dict[str, Any] = {}
        self._shown_model: Any = None

    def set_models(self, found: Mapping[str, Any]) -> None:
        """Fill the list from `registry.describe("models")`."""
        self._found = dict(found)
        self.refresh()

    # ---- what can be chosen ----

    def own_models(self) -> dict[str, dict[str, Any]]:
        """Models trained in this project: folder name → its ``model.json``."""
        found = {}
        if self.project is not None:
            for path in sorted((self.project.root / "models").glob("*/model.json")):
                try:
                    found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
                except ValueError:
                    continue  # half a file of another program; it cannot be chosen
        return found

    def _choices(self) -> list[tuple[str, tuple[str, str]]]:
        """(what is shown, (model argument, network)), trained ones first, then those that need no training."""
        own, choices = self.own_models(), []
        for name, card in own.items():
            if card.get("model") in self._found:
                title = self._found[card["model"]]["spec"].get("title", card["model"])
                words = f"{title}, trained here" + (f" ({name})" if name != card["model"] else "")
                choices.append((words, (name, card["model"])))
        order = ("paired_cell_inpainting", "measurements")
        for name in sorted(self._found, key=lambda n: (order.index(n) if n in order else len(order), n)):
            if name not in own:
                choices.append((self._found[name]["spec"].get("title", name), (name, name)))
        return choices

    def choice(self) -> tuple[str, str]:
        """The chosen model as the steps know it, and the network it is."""
        return self.model.currentData() or ("", "")

    @property
    def trained(self) -> bool:
        """Whether the chosen model has been trained in this project."""
        return self.choice()[0] in self.own_models()

    @property
    def trains(self) -> bool:
        """Whether the chosen network can be trained."""
        return bool(self._found.get(self.choice()[1], {}).get("training"))

    def refresh(self) -> None:
        refill(self.model, self._choices())
        self._chosen()

    def _chosen(self) -> None:
        self._show_model()
        n, project, good = self.session.n_cells, self.project, self._n_good()
        model, network = self.choice()
        problem = self.problem()
        can = bool(n and model and not problem)
        self.embed.setEnabled(can)
        self.train.setEnabled(can)
        self.train.setVisible(self.trains)
        self.training_more.setVisible(self.trains)
        self.train.setText(
            f"Train on {good:,} cells{self._limit()}"
            if not self.trained
            else f"Train further on {good:,} cells{self._limit()}"
        )
        fresh = self.trains and not self.trained
        self.embed.setText(f"Embed {n:,} cells" + (" without training" if fresh else ""))
        for made, primary in ((self.train, fresh), (self.embed, not fresh)):
            font = made.font()
            font.setBold(primary)
            made.setFont(font)
        done = self.session.embeddings
        if project is None:
            self.set_status("")
            self.hint.setText("Open images first (card 1).")
        elif not n:
            self.set_status("")
            self.hint.setText("No cells yet: segment the images first (card 2).")
        elif not self._found:
            self.set_status("loading", "running")
            self.hint.setText("Looking which models there are…")
        elif problem:
            self.set_status("wants other channels", "needs")
            self.hint.setText(f"⚠ {problem}")
        else:
            self.hint.setText("")
            if self.running("train", "embed"):
                self.set_status("running", "running")
            elif done:
                self.set_status(self.title_of(self.session.embedding or done[-1]), "done")
            else:
                self.set_status(self._found[network]["spec"].get("title", network), "ready")
        self.hint.setVisible(bool(self.hint.text()))
        self.loss.setVisible(bool(self.loss.text()) and self.trains)

    def _n_good(self) -> int:
        n = self.session.n_cells
        good = n and "good" in self.session.cells.obs
        return int(np.count_nonzero(self.session.cells.obs["good"])) if good else n

    def title_of(self, embedding: str) -> str:
        """An embedding's name for people."""
        base, _, layer = embedding.partition(".")
        title = self._found.get(base, {}).get("spec", {}).get("title", base)
        return f"{title}, {layer}" if layer else title

    def problem(self) -> str:
        """Why the chosen model cannot see these channels; "" when it can."""
        network = self.choice()[1]
        if not network or self.project is None:
            return ""
        try:
            match_channels(
                self.roles(), self.project.channels, self._found[network]["spec"].get("title", network)
            )
        except InputError as error:
            return str(error).removesuffix(" Give channels roles, or name them with --channels.") + (
                " Say what your channels show (card 1)."
            )
        return ""

    def roles(self) -> tuple[str, ...]:
        """Channels the chosen model wants, in order."""
        model, network = self.choice()
        own = self.own_models().get(model, {})
        return tuple(own.get("roles") or self._found.get(network, {}).get("spec", {}).get("roles", ()))

    def _show_model(self) -> None:
        model, network = self.choice()
        channels = self.project.channels if self.project else ()
        key = (model, network, channels, self.trained)
        if key == self._shown_model:
            return
        self._shown_model = key
        spec = self._found.get(network, {}).get("spec", {})
        self.about.setText(spec.get("when", ""))
        self.about.setToolTip("\n".join(filter(None, (spec.get("paper"), spec.get("licence")))))
        while self.channel_form.rowCount():
            self.channel_form.removeRow(0)
        self.channel_boxes = []
        roles = self.roles()
        try:
            default = match_channels(roles, channels)
        except InputError:
            default = ()
        for i, role in enumerate(roles if channels else ()):
            box = combo("Which of your channels the model gets here")
            refill(
                box, [(c.name, c.name) for c in channels], keep=channels[default[i]].name if default else None
            )
            self.channel_form.addRow(role, box)
            self.channel_boxes.append(box)
        if self.training is not None:
            self.training.hide()
            self.training.deleteLater()
            self.training = None
        if self.trains:
            self.training = Form(self._found[network]["training"])
            self.training.set_value(
                {"max_seconds": 300.0}
            )  # a first result while you wait; 0 takes the bound away
            self.training.changed.connect(self._chosen)
            self.training_place.addWidget(self.training)
            self.name.setText(model)

    def _limit(self) -> str:
        seconds = self.training.value().get("max_seconds", 0) if self.training else 0
        return f" (at most {duration(seconds)})" if seconds else ""

    def channels(self) -> list[str]:
        """The chosen channels, in the model's order."""
        return [box.currentData() for box in self.channel_boxes]

    # ---- actions ----

    def embed_cells(self) -> None:
        """Describe every cell by the chosen model's numbers."""
        model, _ = self.choice()
        self.dock.submit(
            "embed.embed", f"Embedding {self.session.n_cells:,} cells", then=self._embedded, model=model,
            channels=self.channels(), device=self.dock.device(), batch_size=self.batch.value(),
        )  # fmt: skip

    def _embedded(self, result: Mapping[str, Any]) -> None:
        keys, problems = result.get("keys", ()), result.get("problems") or {}
        if keys:
            self.session.embedding = keys[0]
        n = result.get("n_cells", 0) + result.get("n_skipped", 0)
        words = f"✓ {n:,} cells embedded." + "".join(f" {note}" for note in result.get("notes", ()))
        if problems:
            words += f" ⚠ {len(problems):,} fields left out: {next(iter(problems.values()))}"
        self.dock.strip.say(words)
        self.dock.open_card("explore")

    def train_model(self) -> None:
        """Train the chosen network on the project's good cells."""
        model, network = self.choice()
        self.loss.setText("")
        handle = self.dock.submit(
            "train.train", f"Training on {self._n_good():,} cells", then=self._trained, model=network,
            name=self.name.text().strip() or model, training=self.training.value() if self.training else None,
            channels=self.channels(), device=self.dock.device(),
        )  # fmt: skip
        handle.limit_s = self.training.value().get("max_seconds", 0) if self.training else 0
        handle.progressed.connect(self._show_loss)
        handle.ended.connect(self.refresh)

    def _trained(self, folder: Any) -> None:
        name = Path(folder).name
        refill(self.model, self._choices(), keep=(name, self.own_models().get(name, {}).get("model", name)))
        self._chosen()
        self.dock.strip.say(f"✓ {name} is trained; embed the cells with it.")

    def _show_loss(self, progress: Progress) -> None:
        if "loss" in progress.metrics:
            first = self.loss.property("first")
            if not self.loss.text():
                first = progress.metrics["loss"]
                self.loss.setProperty("first", first)
            self.loss.setText(f"Loss {progress.metrics['loss']:.4f} (began at {first:.4f})")
            self.loss.show()


# ---- 5 Explore -----------------------------------------------------------------------------------


class ExploreCard(Card):
    """From numbers to a map: make it, look at it, score cells between two references."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 5, "Explore")
        self.hint = text()
        self.embedding = combo("Which numbers the map is made of")
        self.embedding.activated.connect(self._set_embedding)
        self.make = button("Make the map", self.make_map, "Similar cells lie near each other", primary=True)
        self.show_ = button("Show the map", self.dock.open_explore)
        self.a, self.b = (
            combo("Reference A: cells known to look one way"),
            combo("Reference B: the other way"),
        )
        self.score = button(
            "Score cells from A to B", self.score_cells, "Negative: closer to A; positive: closer to B"
        )
        refs = QWidget()
        form = QFormLayout(refs)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("A", self.a)
        form.addRow("B", self.b)
        form.addRow(self.score)
        self.more = More("Closer to A or to B", refs)
        for item in (self.hint, self.embedding, self.make, self.show_, self.more):
            self.layout_.addWidget(item)

    def refresh(self) -> None:
        names = self.session.embeddings
        for item in (self.embedding, self.make, self.show_, self.more):
            item.setVisible(bool(names))
        self.hint.setVisible(not names)
        if not names:
            if self.project is None:
                words = "Open images first (card 1)."
            elif not self.session.n_cells:
                words = "No cells yet: segment the images first (card 2)."
            else:
                words = "Embed the cells first (card 4); then there is something to lay out on a map."
            self.hint.setText(words)
            self.set_status("")
            return
        card = self.dock.cards["model"]
        refill(self.embedding, [(card.title_of(n), n) for n in names], keep=self.session.embedding)
        has_map = self.session.map_coordinates() is not None
        n = (
            int(self.session.cells.obs["good"].sum())
            if "good" in self.session.cells.obs
            else self.session.n_cells
        )
        self.make.setText(
            f"Make the map of {n:,} cells" if not has_map else f"Make the map again, {n:,} cells"
        )
        for made, primary in ((self.make, not has_map), (self.show_, has_map)):
            font = made.font()
            font.setBold(primary)
            made.setFont(font)
        self.show_.setVisible(has_map)
        if self.running("analyze"):
            self.set_status("running", "running")
        else:
            self.set_status(
                f"map of {n:,} cells" if has_map else "no map yet", "done" if has_map else "ready"
            )
        choices = [(words, words) for words in reference_choices(self.session.cells.obs)]
        for box, first in ((self.a, "control=-1"), (self.b, "control=1")):
            refill(box, choices, keep=box.currentData() or first)
        self.more.setEnabled(len(choices) > 1)

    def _set_embedding(self, _: int) -> None:
        self.session.embedding = self.embedding.currentData()

    def make_map(self) -> None:
        """Lay the cells out on a map, then show it."""
        self.dock.submit(
            "analyze.analyze",
            "Making the map",
            then=self._mapped,
            recipe="map",
            embedding=self.embedding.currentData(),
        )

    def _mapped(self, result: Mapping[str, Any]) -> None:
        self.session.embedding = result["embedding"]
        self.dock.strip.say(f"✓ {result['summary']}")
        self.dock.open_explore()

    def score_cells(self) -> None:
        """Score every cell between the two references and colour the map by it."""
        self.dock.submit(
            "analyze.analyze", "Scoring cells", then=self._scored, recipe="score",
            embedding=self.embedding.currentData(), a=self.a.currentData(), b=self.b.currentData(),
        )  # fmt: skip

    def _scored(self, result: Mapping[str, Any]) -> None:
        column = f"score_{result['embedding']}"
        if column in self.session.colour_choices:
            self.session.colour_by = column
        self.dock.strip.say(f"✓ {result['summary']}")


def reference_choices(obs: Any, most: int = 40) -> list[str]:
    """``column=value`` of every column with few values: what can be a reference group."""
    skip = {"field", "flags", "good", "label", "plate"}
    found: list[str] = []
    for column in obs.columns:
        if column in skip or column.startswith(("q_", "has_", "box_", "score_")):
            continue
        values = obs[column].dropna().unique()
        if 2 <= len(values) <= most:
            found += [f"{column}={value}" for value in sorted(values, key=str)]
    return sorted(found, key=lambda words: not words.startswith("control="))


def duration(seconds: float) -> str:
    """Say a time as people do: "12 s", "6 min", "1.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
