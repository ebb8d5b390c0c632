"""Card 4: the network that describes the cells."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.settings import get_plugin_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui.cards._estimate import EstimateLine, PilotButton
from napari_cellrep.gui.cards._features import FeaturesDialog
from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text, while_open
from napari_cellrep.gui.cards._sees import Sees
from napari_cellrep.gui.cards._settings import NetworkSettings
from napari_cellrep.gui.cards._training import TrainingPanel
from napari_cellrep.gui.cards._weights import WeightsDialog, any_channels, fits, in_the_window, published
from napari_cellrep.jobs import Progress
from napari_cellrep.specs import (
    STRUCTURE_ROLES,
    Channel,
    InputError,
    find_channel,
    join_words,
    match_channels,
)

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

FIRST = "paired_cell_inpainting"  # what is chosen before anybody has chosen
SECTIONS = (
    "Trained on your images",
    "Published, on this computer",
    "To train on your images",
    "Needs no training",
    "Published, to be fetched first",
    "Random weights, to compare with",
)
(OWN, HERE, TRAINS, PLAIN, AWAY, RANDOM) = range(len(SECTIONS))


class ModelCard(Card):
    """Which network, which channels it sees; train it, and embed the cells."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 4, "Model")
        self.hint = text()
        self.advice = [_AdviceRow(self) for _ in range(2)]
        self.model = combo("The network, or the classical measurements, that describes each cell by numbers")
        self.model.currentIndexChanged.connect(lambda _: self._chosen())
        self.weights = _small(
            "Get…", lambda: self.open_weights(), "Published weights: networks that others have trained"
        )
        self.about = text()
        self.about.setStyleSheet("font-size: 11px")
        self.wants = text(tip="What the model wants to see, and which of your channels it gets")
        self.channel_form = QFormLayout()
        self.channel_form.setContentsMargins(0, 0, 0, 0)
        self.channel_boxes: list[QComboBox] = []
        self.channel_ticks: list[QCheckBox] = []  # instead, where a network takes any channels
        self.sees = Sees(dock)
        self.get = button("Get", lambda: self.open_weights(self.choice()[0]), "Shows the licence first", True)
        self.embed = button("Embed cells", self.embed_cells)
        self.settings = NetworkSettings()
        self.settings.changed.connect(self.refresh)
        self.training = TrainingPanel(self)
        self.device = combo("Where networks run")
        settings = get_plugin_settings("napari-cellrep").computing
        refill(self.device, [(d, d) for d in ("auto", "cpu", "cuda", "mps")], keep=settings.device)
        self.batch = QSpinBox()
        self.batch.setRange(0, 65536)
        self.batch.setSpecialValueText("automatic")
        self.batch.setValue(settings.batch_size)
        self.batch.setToolTip("Cells per pass; less needs less memory")
        self.features = button("Features from a table…", self.open_features)
        self.fields = button("Embed whole fields", self.embed_fields)
        rest = QWidget()
        rest_form = QFormLayout(rest)
        rest_form.setContentsMargins(0, 0, 0, 0)
        rest_form.addRow("Device", self.device)
        rest_form.addRow("Batch size", self.batch)
        self.embed_estimate = EstimateLine(self, "embed", self._estimated)
        self.pilot = PilotButton(self, "Embed", self._embed_some)
        rest_form.addRow(self.pilot)
        rest_form.addRow(self.fields)
        rest_form.addRow(self.features)
        self.more = More("More", rest)
        line = QHBoxLayout()
        line.addWidget(self.model, 1)
        line.addWidget(self.weights)
        self.layout_.addWidget(self.hint)
        for row in self.advice:
            self.layout_.addWidget(row)
        self.layout_.addLayout(line)
        for item in (self.about, self.wants):
            self.layout_.addWidget(item)
        self.layout_.addLayout(self.channel_form)
        for item in (
            self.sees, self.settings, self.training, self.get, self.embed, self.embed_estimate, self.more,
        ):  # fmt: skip
            self.layout_.addWidget(item)
        self.found: dict[str, Any] = {}  # network → what `registry.describe` says of it
        self.here: dict[str, Any] | None = None  # published weights on this machine; None until it is known
        self.fetching: dict[str, Any] = {}  # published weights → the job that brings them
        self._published: dict[str, dict[str, Any]] = {}
        self._own: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._shown_model: Any = None
        self._asked_here = False
        self._advised: Any = None  # what the advice was asked about
        self._weights_dialog: WeightsDialog | None = None
        self._features_dialog: FeaturesDialog | None = None
        self.opened.connect(self._on_open)

    def set_models(self, found: Mapping[str, Any]) -> None:
        """Fill the list from `registry.describe("models")`."""
        self.found = dict(found)
        self._published = published(self.found)
        self.refresh()
        if self._weights_dialog is not None:
            self._weights_dialog.refresh()

    # ---- what the worker knows -------------------------------------------------------------------

    def _on_open(self, _: Card) -> None:
        self._asked_here = False  # they may have been fetched by `cellrep models fetch`
        self.refresh()

    def _ask(self) -> None:
        """Ask which weights are here and what suits the data; nothing is asked while the card is closed."""
        runner = self.dock.runner
        if not self.header.isChecked() or not self.found or runner.closed:
            return
        if not self._asked_here:
            self._asked_here = True
            runner.ask(
                "fetch.list_here", None, while_open(self._set_here), while_open(lambda _: self._set_here({}))
            )
        project = self.project
        if project is None or self.here is None:
            return
        about = (
            str(project.root), project.channels, project.group_by, self.n_good(), tuple(self.own_models()),
            tuple(sorted(name for name in self.here if self._is_here(name))),
        )  # fmt: skip
        if about != self._advised:
            self._advised = about
            runner.ask(
                "recommend.advise", project.root, while_open(functools.partial(self._set_advice, about)),
                while_open(lambda _: self._set_advice(about, [])),
            )  # fmt: skip

    def _set_here(self, found: Mapping[str, Any]) -> None:
        self.here = dict(found)
        self.refresh()
        if self._weights_dialog is not None:
            self._weights_dialog.refresh()

    def _set_advice(self, about: Any, advice: list[Mapping[str, str]]) -> None:
        if about != self._advised:
            return  # the project has changed meanwhile; a newer answer is on its way
        for i, row in enumerate(self.advice):
            row.set(advice[i] if i < len(advice) else None)
        self._chosen()

    def _is_here(self, name: str) -> bool:
        return bool((self.here or {}).get(name, {}).get("whole"))

    # ---- what can be chosen ----------------------------------------------------------------------

    def own_models(self) -> dict[str, dict[str, Any]]:
        """Models trained in this project: folder name → its ``model.json``."""
        found = {}
        if self.project is not None:
            for path in sorted((self.project.root / "models").glob("*/model.json")):
                try:
                    stamp = path.stat().st_mtime_ns
                    if self._own.get(path, (0, {}))[0] != stamp:
                        self._own[path] = stamp, json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    continue  # half a file of another program; it cannot be chosen
                found[path.parent.name] = self._own[path][1]
        return found

    def weights_here(self) -> list[str]:
        """Published weights of the chosen network that are on this computer."""
        if self.here is None:
            return []
        network = self.choice()[1]
        return [n for n, w in sorted(self._published.items()) if w["network"] == network and self._is_here(n)]

    def _choices(self, keep: str) -> list[tuple[int, str, tuple[str, str]]]:
        """(section, what is shown, (model argument, network)), in the order of the sections.

        Of the weights that are not here, those that fit the channels, and `keep`.
        """
        own, choices = self.own_models(), []
        for name, card in own.items():
            if card.get("model") in self.found:
                words = f"{self._title(card['model'])}, trained"
                words += f" ({name})" if name != card["model"] else ""
                choices.append((OWN, words, (name, card["model"])))
        for name, about in sorted(self.found.items(), key=lambda item: (item[0] != FIRST, item[0])):
            if name not in own:
                kind = TRAINS if about.get("training") else RANDOM if about["spec"].get("weights") else PLAIN
                choices.append((kind, self._title(name), (name, name)))
        channels = self.project.channels if self.project else ()
        if self.here is not None:
            for name, weights in sorted(self._published.items()):
                if name in own:
                    continue
                if self._is_here(name):
                    words = f"{name} (a starting point)" if weights.get("bundled") else name
                    choices.append((HERE, words, (name, weights["network"])))
                elif name == keep or fits(weights, channels):
                    choices.append((AWAY, f"{name} (get…)", (name, weights["network"])))
        return sorted(choices, key=lambda item: item[0])

    def _fill(self, keep: tuple[str, str] | None = None) -> None:
        """Fill the list under its headings and stay at what is chosen."""
        keep, box = keep or self.model.currentData(), self.model
        items: list[tuple[str, Any]] = []
        section = -1
        for kind, words, data in self._choices(keep[0] if keep else ""):
            if kind != section:
                items.append((SECTIONS[kind], None))
                section = kind
            items.append((words, data))
        values = [data for _, data in items]
        box.blockSignals(True)
        if items != [(box.itemText(i), box.itemData(i)) for i in range(box.count())]:
            box.clear()
            for i, (words, data) in enumerate(items):
                box.addItem(words, data)
                if data is None:
                    box.model().item(i).setEnabled(False)
                else:
                    box.setItemData(i, self._note(*data), Qt.ItemDataRole.ToolTipRole)
        if keep not in values or keep is None:
            keep = next((d for d in values if d and (d[0] in self.own_models() or d[0] == FIRST)), None)
            keep = keep or next(filter(None, values), None)
        box.setCurrentIndex(values.index(keep) if keep else -1)
        box.blockSignals(False)

    def choose(self, name: str) -> None:
        """Choose a model by its name: one that was trained in this project, published weights or a network."""
        own, weights = self.own_models().get(name, {}), self._published.get(name, {})
        self._fill(keep=(name, own.get("model") or weights.get("network", name)))
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
        """Whether the chosen network can be trained; published weights are used as they are."""
        return bool(self.found.get(self.choice()[1], {}).get("training")) and not self._chosen_weights()

    def _chosen_weights(self) -> dict[str, Any]:
        """What is known of the chosen published weights; {} when something else is chosen."""
        name = self.choice()[0]
        return {} if name in self.own_models() else self._published.get(name, {})

    @property
    def missing_weights(self) -> bool:
        """Whether published weights are chosen that have to be fetched first."""
        return bool(self._chosen_weights()) and not self._is_here(self.choice()[0])

    @property
    def random(self) -> bool:
        """Whether the chosen network would run with random weights and cannot be trained."""
        name, network = self.choice()
        spec = self.found.get(network, {}).get("spec", {})
        return name == network and not self.trained and not self.trains and bool(spec.get("weights"))

    def _title(self, network: str) -> str:
        return str(self.found.get(network, {}).get("spec", {}).get("title", network))

    def title_of(self, embedding: str) -> str:
        """An embedding's name for people."""
        base, _, layer = embedding.partition(".")
        weights = self._published.get(base)
        title = f"{weights['title']}, {base}" if weights else self._title(base)
        return f"{title}, {layer}" if layer else title

    def n_good(self) -> int:
        """Cells that carry no flag: those that are trained on."""
        n = self.session.n_cells
        good = n and "good" in self.session.cells.obs
        return int(np.count_nonzero(self.session.cells.obs["good"])) if good else n

    # ---- channels --------------------------------------------------------------------------------

    def roles(self) -> tuple[str, ...]:
        """Channels the chosen model wants, in order."""
        model, network = self.choice()
        own, weights = self.own_models().get(model, {}), self._chosen_weights()
        spec = self.found.get(network, {}).get("spec", {})
        return tuple(own.get("roles") or weights.get("roles") or spec.get("roles", ()))

    def may_lack(self) -> tuple[str, ...]:
        """Roles of which one may be missing: a black picture is shown in its place."""
        return tuple(self._chosen_weights().get("may_lack") or ())

    def takes_any(self) -> bool:
        """Whether the chosen model takes any number of channels."""
        if self.trained:
            return False
        weights = self._chosen_weights()
        return bool(weights["any"]) if weights else any_channels(self.found.get(self.choice()[1], {}))

    def channels(self) -> list[str]:
        """The chosen channels, in the model's order."""
        if self.channel_ticks:
            return [tick.property("channel") for tick in self.channel_ticks if tick.isChecked()]
        return [box.currentData() for box in self.channel_boxes]

    def problem(self) -> str:
        """Why the chosen model cannot see these channels; "" when it can."""
        if not self.choice()[0] or self.project is None:
            return ""
        if self.channel_ticks:
            return "" if self.channels() else "Tick at least one channel for the model to look at."
        chosen, names = self.channels(), {c.name for c in self.project.channels}
        missing = [role for role, name in zip(self.roles(), chosen, strict=True) if not name]
        lacking = [name for name in chosen if name and name not in names]
        twice = [name for name in names if chosen.count(name) > 1]
        title = self._title(self.choice()[1])
        if missing:
            return (
                f"{title} wants a channel that shows {join_words(missing)}, and none of yours has this role. "
                "Say what your channels show (card 1), or choose one here."
            )
        if len(lacking) > 1:
            return f"Only one of its channels may be missing; here {join_words(lacking)} are."
        if twice:
            return f"{twice[0]} is chosen twice; {title} wants a different channel in each place."
        return ""

    def fit_words(self, channels: Sequence[Channel]) -> str:
        """Whether the chosen model can see these channels, in a sentence; "" while none is known."""
        network = self.choice()[1]
        if not network:
            return ""
        title, roles = self._title(network), ", ".join(self.roles())
        if self.takes_any():
            return f"✓ {title} (card 4) {'take' if title.endswith('s') else 'takes'} any channels."
        try:
            match_channels(self.roles(), channels, title, self.may_lack())
        except InputError:
            return f"⚠ {title} (card 4) wants {roles}; you have {', '.join(c.role for c in channels)}."
        return f"✓ {title} (card 4) wants {roles}: you have them." if roles else ""

    def _show_model(self) -> None:
        model, network = self.choice()
        channels = self.project.channels if self.project else ()
        own, about = self.own_models().get(model), self.found.get(network, {})
        made = (own or self._chosen_weights()).get("config") or {}
        key = (model, network, channels, self.trained, self.roles(), json.dumps(made, sort_keys=True))
        if key == self._shown_model:
            return
        self._shown_model = key
        spec, weights = about.get("spec", {}), self._chosen_weights()
        self.about.setText(self._note(model, network))
        licence = weights.get("licence") or spec.get("licence")
        self.about.setToolTip("\n".join(filter(None, (spec.get("paper"), licence))))
        while self.channel_form.rowCount():
            self.channel_form.removeRow(0)
        self.channel_boxes, self.channel_ticks = [], []
        if self.takes_any():
            self._make_ticks(channels)
        else:
            self._make_boxes(channels)
        self.settings.show_model(about.get("config") or {}, made)
        rules = about.get("training") if self.trains else None
        self.training.show_model(rules, model, bool(spec.get("labels")), spec.get("presets") or ())

    def _note(self, model: str, network: str) -> str:
        """What to know of a model before it is chosen."""
        own, weights = self.own_models().get(model), self._published.get(model)
        spec = self.found.get(network, {}).get("spec", {})
        if own is not None:
            n, trained = own.get("n_cells"), own.get("trained") or {}
            words = f"{self._title(network)}, trained"
            words += f" on {join_words(own['channels'])}" if own.get("channels") else ""
            words += f" of {n:,} cells" if n else ""
            words += f", {trained['step']:,} steps" if trained.get("step") else ""
            words += f", images of {own['um_per_px']:g} µm per pixel" if own.get("um_per_px") else ""
            return f"{words}."
        if weights is not None:
            return f"{weights['title']}, trained elsewhere: {weights['note']}"
        when = str(spec.get("when", ""))
        if model == network and spec.get("weights") and not self.found[network].get("training"):
            return (
                f"Its weights are random: nothing to take for a result. Get published weights for it. {when}"
            )
        return when

    def _make_boxes(self, channels: tuple[Channel, ...]) -> None:
        roles, may_lack = self.roles(), self.may_lack()
        before = tuple(self.own_models().get(self.choice()[0], {}).get("channels") or ())  # it was trained on
        same = len(before) == len(roles) and {*before} <= {c.name for c in channels}
        found = _matched(before if same else roles, channels)
        for role, at in zip(roles, found, strict=True) if channels else ():
            box = combo(
                "Which of your channels the model gets here; in place of none it is shown a black picture"
            )
            items: list[tuple[str, str | None]] = [(c.name, c.name) for c in channels]
            if at < 0:
                items.insert(0, ("none (black)", role) if role in may_lack else ("choose…", None))
            refill(box, items, keep=channels[at].name if at >= 0 else None)
            box.currentIndexChanged.connect(lambda _: self._chosen())
            self.channel_form.addRow(role, box)
            self.channel_boxes.append(box)

    def _make_ticks(self, channels: tuple[Channel, ...]) -> None:
        place = QWidget()
        line = QVBoxLayout(place)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(2)
        # The protein first: where vectors of channels are joined, this is their order.
        for channel in sorted(channels, key=lambda c: c.role != "protein"):
            tick = QCheckBox(f"{channel.name} ({channel.role})")
            tick.setProperty("channel", channel.name)
            tick.setChecked(channel.role != "mask")
            tick.toggled.connect(lambda _: self._chosen())
            line.addWidget(tick)
            self.channel_ticks.append(tick)
        if channels:
            self.channel_form.addRow("channels", place)

    def _wants(self) -> str:
        """One line: each wanted channel, and what it gets."""
        if self.project is None or not self.choice()[0]:
            return ""
        if self.channel_ticks:
            n = len(self.channels())
            return f"Takes any channels: {f'✓ {join_words(self.channels())}' if n else '⚠ none is ticked'}"
        roles = {c.name: c.role for c in self.project.channels}
        parts = []
        for wanted, name in zip(self.roles(), self.channels(), strict=True):
            if not name:
                parts.append(f"⚠ {wanted}: none")
            elif name not in roles:
                parts.append(f"⚠ {wanted}: none, may be missing")
            else:
                right = roles[name] == wanted or (wanted == "structure" and roles[name] in STRUCTURE_ROLES)
                right = right or name == wanted
                parts.append(f"✓ {wanted}: {name}" if right else f"⚠ {wanted}: {name} ({roles[name]})")
        return "Wants " + " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)

    # ---- state -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the project as it is now."""
        self._fill()
        self._chosen()
        self._ask()

    def _chosen(self) -> None:
        self._show_model()
        n, project = self.session.n_cells, self.project
        model, _ = self.choice()
        problem, get = self.problem(), self.missing_weights
        can = bool(n and model and not problem and not get)
        self._say_state(problem)
        self.wants.setText(self._wants())
        self.wants.setVisible(bool(self.wants.text()))
        for row in self.advice:
            row.show_chosen(model, wanted=bool(n) and not (problem and not row.model))
        self.settings.setVisible(can and self.settings.form is not None)
        self.training.refresh(can)
        self.more.setVisible(project is not None)
        fresh = self.trains and not self.trained
        if project is None:
            self.training.hide()
        self.get.setVisible(get)
        self.get.setText(f"Get {model}…")
        self.embed.setVisible(not get)
        self.embed.setEnabled(can)
        self.embed.setText(
            (f"Embed {n:,} cells" if n else "Embed cells")
            + (" without training" if fresh else " by random weights" if self.random else "")
        )
        self.embed.setToolTip(
            "Embedding: a list of numbers that describes how a cell looks; cells that look alike get similar numbers"
            if can
            else self.hint.text().removeprefix("⚠ ")
        )
        for made, primary in ((self.training.train, fresh), (self.embed, not fresh)):
            font = made.font()
            font.setBold(primary)
            made.setFont(font)
        self.embed_estimate.refresh()
        self.pilot.refresh()
        self._show_more(project is not None and bool(model) and not problem and not get)
        looks = can and self.header.isChecked()
        self.sees.look(
            model if looks else "", self.channels() if looks else [], self._cell() if looks else "",
            self.settings.value(),
        )  # fmt: skip

    def _say_state(self, problem: str) -> None:
        n, project, done = self.session.n_cells, self.project, self.session.embeddings
        words, mark, hint = "", "", ""
        if project is None:
            hint = "Open images first (card 1)."
        elif not n:
            hint = "No cells yet: segment the images first (card 2)."
        elif not self.found:
            words, mark, hint = "loading", "running", "Looking which models there are…"
        elif problem:
            words, mark, hint = "wants other channels", "needs", f"⚠ {problem}"
        elif self.running("train", "embed", "embed_fields", "import_features"):
            words, mark = "running", "running"
        elif self.missing_weights:
            words, mark = "weights to be fetched", "needs"
            hint = f"{self.choice()[0]} is not on this computer yet. Get it, or choose another."
        elif done:
            key = self.session.embedding or done[-1]
            words, mark = self.title_of(key), "done"
            if hint := self._stale(key):
                mark = "stale"
        else:
            words, mark = self._title(self.choice()[1]), "ready"
        self.set_status(words, mark)
        self.hint.setText(hint)
        self.hint.setVisible(bool(hint))

    def _stale(self, key: str) -> str:
        """Why an embedding is out of date, and what to do; "" while it is not."""
        stale, name, n = self.dock.stale, self.title_of(key), self.session.n_cells
        if stale.replaced:
            return f"↻ Images were replaced ({join_words(stale.replaced, 3)}): segment again first (card 2), then embed."
        if stale.labels:
            return "↻ The light was changed since the cells were found: segment again first (card 2), then embed."
        if key in stale.vectors:
            return f"↻ {name} was made before the light was changed: embed again."
        if lacking := stale.lacking.get(key):
            cells = f"{lacking:,} of {n:,} cells {'has' if lacking == 1 else 'have'}"
            return (
                f"↻ {cells} no vector of {name}, being new or edited since: embed again. Only these are done."
            )
        return ""

    def _show_more(self, can: bool) -> None:
        network = self.choice()[1]
        about = self.found.get(network, {})
        plain = not about.get("training") and not about.get("spec", {}).get(
            "weights"
        )  # measures outlined cells
        self.fields.setEnabled(can and not plain)
        self.fields.setToolTip(
            f"{self._title(network)} describe cells; choose a network for whole fields"
            if plain
            else "Numbers for each image instead of each cell, in a table of their own: to compare wells"
        )
        n = self.session.n_cells
        self.features.setEnabled(bool(n))
        self.features.setToolTip(
            "Numbers per cell that another program has measured, CellProfiler for example"
            if n
            else "There are no cells yet that a table could be about: segment first (card 2)"
        )

    def _cell(self) -> str:
        """The cell to show: the last clicked one, else the first good one."""
        session = self.session
        if session.focus >= 0:
            return session.cell_id(session.focus)
        good = session.cells.obs["good"].to_numpy(bool) if "good" in session.cells.obs else np.ones(1, bool)
        return session.cell_id(int(np.argmax(good)))

    # ---- published weights -----------------------------------------------------------------------

    def open_weights(self, name: str = "") -> None:
        """Open the list of published weights."""
        if self._weights_dialog is None:
            self._weights_dialog = WeightsDialog(self)
        self._weights_dialog.open_at(name)
        self._asked_here = False
        self._ask()

    def fetch_weights(self, name: str, source: str | None = None) -> None:
        """Bring published weights whose licence was accepted: from their authors, or from a folder."""
        handle = self.dock.submit(
            "fetch.fetch", f"Getting {name}", project=None, name=name, accept_licence=True,
            source=Path(source) if source else None,
        )  # fmt: skip
        self.fetching[name] = handle
        handle.started.connect(functools.partial(self._fetch_goes_on, name))
        handle.progressed.connect(functools.partial(self._fetch_goes_on, name))
        handle.ended.connect(functools.partial(self._fetch_ended, name, handle))
        self._fetch_goes_on(name)

    def _fetch_goes_on(self, name: str, _: Progress | None = None) -> None:
        if self._weights_dialog is not None:
            self._weights_dialog.on_job(name)

    def _fetch_ended(self, name: str, handle: Any) -> None:
        self.fetching.pop(name, None)
        said = ""
        if handle.state == "failed":
            said = f"⚠ {in_the_window(handle.log.sentence, name)}"
            self.dock.strip.say(said)
        elif handle.state == "stopped":
            said = "Stopped; what has come is kept, and getting it goes on from there."
        if self._weights_dialog is not None:
            self._weights_dialog.on_job(name, said)
        self._asked_here = True
        self.dock.runner.ask("fetch.list_here", None, while_open(self._set_here))

    # ---- actions ---------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """What the embedding step is given."""
        return {
            "model": self.choice()[0], "channels": self.channels(), "settings": self.settings.value(),
            "device": self.dock.device(), "batch_size": self.batch.value(),
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

    def embed_fields(self) -> None:
        """Describe whole fields by the chosen model's numbers."""
        n = len(self.project.fields)
        self.dock.submit(
            "embed_fields.embed_fields", f"Embedding {n:,} whole fields", then=self._fields_embedded,
            model=self.choice()[0], channels=self.channels(), settings=self.settings.value(),
            device=self.dock.device(),
        )  # fmt: skip

    def _fields_embedded(self, result: Mapping[str, Any]) -> None:
        n = result["n_fields"] + result["n_skipped"]
        words = f"✓ {n:,} fields have numbers as {result['key']}, in fields.zarr of the project."
        words += "".join(f" {note}" for note in result["notes"])
        if result["problems"]:
            words += f" ⚠ {len(result['problems']):,} left out: {next(iter(result['problems'].values()))}"
        self.dock.strip.say(words)

    def open_features(self) -> None:
        """Ask for a table of features, and take them."""
        self._features_dialog = dialog = FeaturesDialog(self)
        dialog.accepted.connect(lambda: self._take_features(dialog.value()))
        dialog.open()

    def _take_features(self, value: Mapping[str, Any]) -> None:
        name = Path(value["table"]).name
        self.dock.submit(
            "import_features.import_features", f"Taking the features of {name}", then=self._embedded, **value
        )


def _small(words: str, slot: Any, tip: str = "") -> QPushButton:
    """A button as wide as its words."""
    made = button(words, slot, tip)
    made.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
    return made


class _AdviceRow(QWidget):
    """One sentence of advice, and a button that follows it."""

    def __init__(self, card: ModelCard):
        super().__init__()
        self.card = card
        self.model = ""
        self.words = text(least_px=180)
        self.choose = _small("Choose", lambda: card.choose(self.model))
        line = QGridLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.words, 0, 0)
        line.addWidget(self.choose, 0, 1, Qt.AlignmentFlag.AlignTop)
        line.setColumnStretch(0, 1)
        self.hide()

    def set(self, advice: Mapping[str, str] | None) -> None:
        """Say something else, or nothing."""
        self.model = advice["model"] if advice else ""
        self.words.setText(advice["words"] if advice else "")
        self.choose.setToolTip(f"Chooses {self.model} in the list below")

    def show_chosen(self, model: str, wanted: bool) -> None:
        """Show whether the advice is followed."""
        chosen = bool(self.model) and self.model == model
        self.choose.setVisible(bool(self.model) and not chosen)
        words = self.words.text().removeprefix("✓ ")
        self.words.setText(f"✓ {words}" if chosen else words)
        self.setVisible(wanted and bool(words))


def _matched(roles: tuple[str, ...], channels: tuple[Channel, ...]) -> list[int]:
    """For each wanted channel the index of the project's, each used once; −1 where there is none."""
    left, found = list(range(len(channels))), []
    for role in roles:
        try:
            at = left.pop(find_channel([channels[i] for i in left], role))
        except InputError:
            at = -1
        found.append(at)
    return found
