"""Card 4: the network that describes the cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QSpinBox,
    QWidget,
)

from napari_cellrep.gui.cards._estimate import EstimateLine, PilotButton
from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text
from napari_cellrep.gui.cards._training import TrainingPanel
from napari_cellrep.specs import InputError, match_channels

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock


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
        self.training = TrainingPanel(self)
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
        self.embed_estimate = EstimateLine(self, "embed", self._estimated)
        self.pilot = PilotButton(self, "Embed", self._embed_some)
        rest_form.addRow(self.pilot)
        self.more = More("More", rest)
        for item in (self.hint, self.model, self.about):
            self.layout_.addWidget(item)
        self.layout_.addLayout(self.channel_form)
        for item in (self.training, self.embed, self.embed_estimate, self.more):
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

    def choose(self, name: str) -> None:
        """Choose a model that was trained in this project."""
        refill(self.model, self._choices(), keep=(name, self.own_models().get(name, {}).get("model", name)))
        self._chosen()

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
        """Show the project as it is now."""
        refill(self.model, self._choices())
        self._chosen()

    def _chosen(self) -> None:
        self._show_model()
        n, project = self.session.n_cells, self.project
        model, network = self.choice()
        problem = self.problem()
        can = bool(n and model and not problem)
        self.embed.setEnabled(can)
        self.training.refresh(can)
        self.embed_estimate.refresh()
        self.pilot.refresh()
        fresh = self.trains and not self.trained
        self.embed.setText(f"Embed {n:,} cells" + (" without training" if fresh else ""))
        for made, primary in ((self.training.train, fresh), (self.embed, not fresh)):
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

    def n_good(self) -> int:
        """Cells that carry no flag: those that are trained on."""
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
        self.training.show_model(self._found.get(network, {}).get("training") if self.trains else None, model)

    def channels(self) -> list[str]:
        """The chosen channels, in the model's order."""
        return [box.currentData() for box in self.channel_boxes]

    # ---- actions ----

    def arguments(self) -> dict[str, Any]:
        """What the embedding step is given."""
        return {
            "model": self.choice()[0], "channels": self.channels(), "device": self.dock.device(),
            "batch_size": self.batch.value(),
        }  # fmt: skip

    def _estimated(self) -> dict[str, Any] | None:
        return self.arguments() if self.embed.isEnabled() else None

    def embed_cells(self) -> None:
        """Describe every cell by the chosen model's numbers."""
        self.dock.submit(
            "embed.embed",
            f"Embedding {self.session.n_cells:,} cells",
            then=self._embedded,
            **self.arguments(),
        )

    def _embed_some(self, fields: list[str], told: Any) -> None:
        title = f"Embedding {len(fields)} fields"
        self.dock.submit("embed.embed", title, then=told, fields=fields, **self.arguments())

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
