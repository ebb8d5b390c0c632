"""Card 4's training: on which cells, its settings, its start, how it goes, and what is made of it."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.classes import FEWEST_CLASSES, MOST_CLASSES, label_columns
from napari_cellrep.data.filters import matching
from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._estimate import EstimateLine
from napari_cellrep.gui.cards._parts import More, button, combo, duration, refill, text, while_open
from napari_cellrep.gui.views.curve import Curve, Pictures
from napari_cellrep.jobs import Progress
from napari_cellrep.specs import InputError, read_numbers

if TYPE_CHECKING:
    from napari_cellrep.gui._runner import Handle
    from napari_cellrep.gui.cards.model import ModelCard

WITHOUT = "Learns from your cells, without labels; you can pause and go on later"
WITH = "Learns from your cells to tell their classes apart; you can pause and go on later"
CLASSES = (
    "The column of the table that says which class each cell is of (a compound, a dose, a protein's place): what the "
    "network learns to tell apart. Cells without a value are left out; a tenth of the images is held out to judge it"
)
ALL, SELECTION, FILTER = "all", "selection", "filter"
PAUSE_WITHIN_S = 30.0  # a pause lets the step under way end, so that nothing of it is lost
LOOK_EVERY_MS = 1000
RUNS = {  # columns of runs.csv, and what they are called; those that are there are shown
    "kept": "kept", "seed": "seed", "learning_rate": "rate", "val_loss": "held out",
    "val_balanced_accuracy": "right", "val_knn": "own group", "epoch": "epochs",
}  # fmt: skip
LIMITS = ("max_steps", "max_seconds", "seed")  # which no preset sets
OWN = "own"  # settings that are no preset's
MOST_RUNS_SHOWN = 6  # of more the table scrolls
SEVERAL = (
    "Train once from each {what} and keep the run whose held-out loss is least; empty: one training. With both, every pair "
    "is trained, one after the other, each within the limits of time and steps below"
)


class TrainingPanel(QWidget):
    """Train the network that is chosen in card 4 on the project's good cells.

    Parameters
    ----------
    card : ModelCard
        Says which network, which channels and which device.
    """

    def __init__(self, card: ModelCard):
        super().__init__()
        self.card = card
        self.form: Form | None = None
        self.handle: Handle | None = None  # the training under way
        self._name = ""  # of the model that is being trained, or was last
        self._looked = 0.0
        self._use_after = False
        self._pausing = False
        self._seen_once = False  # the curve of the training under way has been brought in sight
        self._how: dict[str, Any] = {}  # what the training under way, or the last one, was given
        self._can = False
        self._seen: Any = None  # of the pictures' file
        self._wants_classes = False
        self._columns_of: tuple[Any, list[str]] = (
            None,
            [],
        )  # a table, and its columns that could hold classes

        self.train = button("Train", self.start, WITHOUT)
        self.estimate = EstimateLine(card, "train", self._estimated)
        self.estimate.known.connect(self._show_buttons)

        self.curve, self.pictures = Curve(), Pictures()
        self.loss = text(
            tip="Loss: how wrong the network's predictions still are; training has learned when it no longer falls. "
            "Epoch: one pass over all cells. Held out: the loss of cells that are not learned from. Among their own "
            "group: most of such a cell's 11 nearest neighbours are of its group (mean over groups; chance is one over "
            "their number)"
        )
        self.pause = button(
            "Pause",
            self._pause,
            "Ends after the step under way and keeps everything; the graphics card is free until you resume",
        )
        self.use = button(
            "Use this model now",
            self._use,
            "Ends training, and describes all cells by what was learned so far; training can go on later",
        )
        buttons = QWidget()
        line = QHBoxLayout(buttons)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.pause)
        line.addWidget(self.use)
        self.going = QWidget()
        inside = QVBoxLayout(self.going)
        inside.setContentsMargins(0, 0, 0, 0)
        for item in (self.curve, self.loss, self.pictures, buttons):
            inside.addWidget(item)
        self.going.hide()

        self.classes = combo(CLASSES)
        self.classes.currentIndexChanged.connect(lambda _: self._cells_changed())
        self.class_row = QWidget()
        row = QFormLayout(self.class_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addRow("Classes in", self.classes)
        self.class_row.hide()

        self.cells = combo("Which cells it learns from; flagged cells are never among them")
        self.cells.currentIndexChanged.connect(lambda _: self._cells_changed())
        self.start_from = combo(
            "What the network begins with: random weights, or those of a model that was trained on this project or elsewhere "
            "(with other channels, too: the note of the training says how they were mapped)"
        )
        self.start_from.currentIndexChanged.connect(lambda _: self.card.refresh())
        self.preset = combo("Whose settings: all of them stand below, and each can be changed")
        self.preset.currentIndexChanged.connect(lambda _: self._take_preset())
        self._presets: dict[str, dict[str, Any]] = {}
        self._defaults: dict[str, Any] = {}
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("dose_rank < 3")
        self.filter.setToolTip(
            "A question about the table's columns that each cell answers with yes or no, for example: "
            "dose_rank < 3 and compound != 'LY294002'"
        )
        self.filter.textChanged.connect(lambda _: self._soon.start())
        self.count = text()
        self.seeds, self.rates = QLineEdit(), QLineEdit()
        for field, what, example in (
            (self.seeds, "seed", "0, 1, 2"),
            (self.rates, "learning rate", "1e-3, 3e-4"),
        ):
            field.setPlaceholderText(f"one training; several: {example}")
            field.setToolTip(SEVERAL.format(what=what))
            field.textChanged.connect(lambda _: self._soon.start())
        self.name = QLineEdit()
        self.name.setToolTip("What the trained model is called")
        self.name.editingFinished.connect(self._name_changed)
        top = QFormLayout()
        top.setContentsMargins(0, 0, 0, 0)
        top.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        top.addRow("Train on", self.cells)
        settings = QWidget()
        self._place = QVBoxLayout(settings)
        self._place.setContentsMargins(0, 0, 0, 0)
        top.addRow(self.filter)
        top.addRow(self.count)
        top.addRow("Name", self.name)
        top.addRow("Start from", self.start_from)
        top.addRow("Settings", self.preset)
        top.addRow("Seeds", self.seeds)
        top.addRow("Learning rates", self.rates)
        self._place.addLayout(top)
        self.more = More("Training", settings)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.runs = QTableWidget()
        self.runs.verticalHeader().hide()
        self.runs.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.runs.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.runs.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.runs.setToolTip(
            "Every run of this training, and the one whose weights the model has (runs.csv in its folder)"
        )
        self.runs.hide()
        for item in (self.class_row, self.train, self.estimate, self.going, self.runs, self.more):
            layout.addWidget(item)

        self._soon = QTimer(self)  # selecting and typing come in bursts
        self._soon.setSingleShot(True)
        self._soon.setInterval(250)
        self._soon.timeout.connect(self._cells_changed)
        self._looking = QTimer(self)
        self._looking.setInterval(LOOK_EVERY_MS)
        self._looking.timeout.connect(self._look)
        session = card.session
        signals = (
            (session.selection_changed, self._soon_changed),
            (session.sets_changed, self._soon_changed),
        )
        for signal, slot in signals:
            signal.connect(slot)
        self.destroyed.connect(_disconnected(signals))

    # ---- what is shown ---------------------------------------------------------------------------

    def show_model(
        self,
        rules: Mapping[str, Any] | None,
        name: str,
        labels: bool = False,
        presets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Show the settings of another network; None for one that cannot be trained.

        `labels`: it learns classes. `presets`: settings beside the paper's (`specs.Preset` as plain dicts).
        """
        self._wants_classes = labels
        self.class_row.setVisible(labels)
        self._fill_classes()
        if self.form is not None:
            self.form.hide()
            self.form.deleteLater()
            self.form = None
        if rules:
            self._presets = {p["name"]: p["values"] for p in presets}
            refill(
                self.preset,
                [
                    ("the paper's", ""),
                    *((f"{p['name']} data (ours)", p["name"]) for p in presets),
                    ("as they stand below", OWN),
                ],
            )
            for i, preset in enumerate(presets, start=1):
                self.preset.setItemData(i, preset["note"], Qt.ItemDataRole.ToolTipRole)
            self.preset.setCurrentIndex(0)
            self.form = Form(rules)
            self._defaults = self.form.value()
            self.form.set_value(
                {"max_seconds": 300.0}
            )  # a first result while you wait; 0 takes the bound away
            self.form.changed.connect(self._settings_changed)
            self._place.addWidget(self.form)
            self.name.setText(name)
            self._show_run()

    def _take_preset(self) -> None:
        """Fill in the chosen settings; how long it may take stays as it is."""
        if self.form is None or self.preset.currentData() in (None, OWN):
            return
        values = {**self._defaults, **self._presets.get(self.preset.currentData(), {})}
        self.form.set_value({k: v for k, v in values.items() if k not in LIMITS})
        self._show_preset()
        note = self.preset.itemData(self.preset.currentIndex(), Qt.ItemDataRole.ToolTipRole)
        self.preset.setToolTip(note or "As the paper has them; each can be changed below")
        self.card.refresh()

    def _settings_changed(self) -> None:
        self._show_preset()
        self.card.refresh()

    def _show_preset(self) -> None:
        """Say whose settings stand in the form."""
        now = self.form.value() if self.form else {}
        found = OWN
        for name in ("", *self._presets):
            values = {**self._defaults, **self._presets.get(name, {})}
            if all(_same(now.get(k), v) for k, v in values.items() if k not in LIMITS):
                found = name
                break
        self.preset.blockSignals(True)
        self.preset.setCurrentIndex(self.preset.findData(found))
        self.preset.blockSignals(False)

    def _name_changed(self) -> None:
        self._show_run()
        self.card.refresh()

    def _show_run(self) -> None:
        """Show how a training of this name was started, so that going on is one press."""
        how = self.run().get("how", {})
        self._show_runs()
        if self.form is not None and how and how.get("model") == self.card.choice()[1]:
            self.form.set_value(how.get("training") or {})
            self.card.settings.set_config(how.get("config") or {})
            self._fill_cells()
            self._fill_start(how.get("weights") or "")
            self.seeds.setText(", ".join(map(str, how.get("seeds", ()))))
            self.rates.setText(", ".join(f"{rate:g}" for rate in how.get("learning_rates", ())))
            if how.get("labels") and (at := self.classes.findData(how["labels"])) >= 0:
                self.classes.setCurrentIndex(at)
            if how.get("where"):
                self.filter.setText(how["where"])
                self.cells.setCurrentIndex(self.cells.findData(FILTER))
            elif how.get("named_set") and (at := self.cells.findData(how["named_set"])) >= 0:
                self.cells.setCurrentIndex(at)

    def _show_runs(self) -> None:
        """Show the table of all runs, where the model of the shown name is the best of several."""
        rows: list[dict[str, str]] = []
        if self.card.project is not None:
            path = self.card.project.root / "models" / self._model_name() / "runs.csv"
            with contextlib.suppress(OSError, ValueError), path.open(encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        self.runs.setVisible(bool(rows))
        if not rows:
            return
        columns = [c for c in RUNS if c in rows[0]]
        self.runs.setRowCount(len(rows))
        self.runs.setColumnCount(len(columns))
        self.runs.setHorizontalHeaderLabels([RUNS[c] for c in columns])
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                self.runs.setItem(i, j, QTableWidgetItem(_run_words(column, row[column])))
        self.runs.resizeColumnsToContents()
        self.runs.resizeRowsToContents()
        shown = sum(self.runs.rowHeight(i) for i in range(min(len(rows), MOST_RUNS_SHOWN)))
        self.runs.setFixedHeight(shown + self.runs.horizontalHeader().sizeHint().height() + 20)

    def refresh(self, can: bool) -> None:
        """Say what the button will do; `can` is whether the card is ready for it."""
        self._can = can
        self.setVisible(self.form is not None)
        self._fill_classes()
        self._fill_cells()
        self._fill_start()
        self._show_count()
        self._show_buttons()
        self.estimate.refresh()

    def _show_buttons(self) -> None:
        running = self.handle is not None and self.handle.active
        n, problem = self._chosen()
        paused = self._paused()
        time = self.estimate.time
        self.train.setEnabled(self._can and not running and not problem and n > 0)
        self.train.setToolTip(
            "It is training already" if running
            else problem or ("No good cell is among them" if self._can and not n else "")
            or (f"Goes on at step {paused['step']:,} of {paused['total']:,}" if paused else "")
            or (WITH if self._wants_classes else WITHOUT)
        )  # fmt: skip
        if running:
            self.train.setText("Training…")
        elif paused:
            self.train.setText("Resume training" + (f" ({time})" if time else ""))
        else:
            further = " further" if self.card.trained else ""
            limit = f" ({time})" if time else self._limit()
            times = f" {self._n_runs():,} times" if self._n_runs() > 1 else ""
            self.train.setText(f"Train{times or further} on {n:,} cells{limit}")
        if self.form is not None:
            given = "The {} above count".format
            self.form.disable("seed", given("seeds") if self.seeds.text().strip() else "")
            self.form.disable("learning_rate", given("learning rates") if self.rates.text().strip() else "")
        self.estimate.setVisible(not running)
        self.going.setVisible(bool(running or self.curve.x or paused))
        self.pause.setVisible(running)
        self.pause.setEnabled(running and not self._pausing and self.handle.state == "running")
        self.use.setVisible(bool(running or paused) and "seeds" not in (paused.get("how") or self._how))
        made = self.card.own_models().get(self._model_name(), {}).get("trained", {}).get("step", -1)
        used = bool(paused) and made == paused["step"]
        learned = bool(paused or (running and self.curve.x))
        self.use.setEnabled(self._can and learned and not used and not self._use_after)
        self.use.setToolTip(
            "The model is what was learned so far already: embed the cells with it" if used
            else "Nothing is learned yet" if not learned
            else "Ends training, and describes all cells by what was learned so far; training can go on later"
        )  # fmt: skip
        self.loss.setVisible(bool(self.loss.text()))

    def _limit(self) -> str:
        seconds = self._max_seconds() * self._n_runs()
        return f" (at most {duration(seconds)})" if seconds else ""

    def _max_seconds(self) -> float:
        return self.form.value().get("max_seconds", 0) if self.form else 0

    # ---- which cells -----------------------------------------------------------------------------

    def _fill_classes(self) -> None:
        cells = self.card.session.cells
        if not self._wants_classes or cells is None:
            return
        if self._columns_of[0] is not cells:
            self._columns_of = cells, label_columns(cells.obs)
        columns = self._columns_of[1]
        if columns != [self.classes.itemData(i) for i in range(self.classes.count())]:
            refill(self.classes, [(name, name) for name in columns])
        self.classes.setEnabled(bool(columns))
        self.classes.setToolTip(CLASSES if columns else self._no_classes())

    def _no_classes(self) -> str:
        """Why there is nothing to learn to tell apart; "" when there is, or it is not wanted."""
        if not self._wants_classes or self.classes.currentData():
            return ""
        return (
            f"No column of the table has {FEWEST_CLASSES} to {MOST_CLASSES} values, and this network learns to tell the "
            "values of one apart; add metadata to the images (card 1)"
        )

    def _soon_changed(self, *_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the dock was closed
            self._soon.start()

    def _cells_changed(self) -> None:
        self._fill_cells()
        self._show_count()
        self._show_buttons()
        self.estimate.refresh()

    def _fill_cells(self) -> None:
        session = self.card.session
        items = [("all good cells", ALL), (f"the selection ({session.n_selected:,})", SELECTION)]
        items += [(f"the set “{name}”", name) for name in session.sets]
        items.append(("cells of which this is true:", FILTER))
        if items != [(self.cells.itemText(i), self.cells.itemData(i)) for i in range(self.cells.count())]:
            refill(self.cells, items)
        self.filter.setVisible(self.cells.currentData() == FILTER)

    def _fill_start(self, choose: str | None = None) -> None:
        """List what this network can begin with."""
        own = [n for n, card in self.card.own_models().items() if card.get("model") == self.card.choice()[1]]
        items = [("random weights", "")]
        items += [(f"{name} (trained here)", name) for name in own if name != self._model_name()]
        items += [(name, name) for name in self.card.weights_here() if name not in own]
        if choose is not None or items != [
            (self.start_from.itemText(i), self.start_from.itemData(i)) for i in range(self.start_from.count())
        ]:
            refill(self.start_from, items, choose)

    def _mask(self) -> np.ndarray:
        """The chosen cells that are good, bool (n_cells,)."""
        session = self.card.session
        if session.cells is None:
            return np.zeros(0, bool)
        obs, which = session.cells.obs, self.cells.currentData()
        keep = obs["good"].to_numpy(bool) if "good" in obs else np.ones(len(obs), bool)
        if which == SELECTION:
            return keep & session.selected
        if which == FILTER:
            return keep & matching(obs, self.filter.text()) if self.filter.text().strip() else keep & False
        if which in session.sets:
            return keep & obs.index.isin(session.sets[which]["cells"])
        return keep

    def _chosen(self) -> tuple[int, str]:
        """How many cells, and what is wrong with the choice ("" when nothing)."""
        if self.card.session.cells is not None and (problem := self._no_classes()):
            return 0, problem
        try:
            self._several()
            return int(np.count_nonzero(self._mask())), ""
        except InputError as error:
            return 0, str(error)

    def _n_runs(self) -> int:
        """How many trainings are typed; 1 while they cannot be read."""
        with contextlib.suppress(InputError):
            return _n_runs(self._several())
        return 1

    def _several(self) -> dict[str, Any]:
        """Seeds and learning rates of several trainings; empty of one.

        Raises
        ------
        InputError
            If something else than numbers is typed.
        """
        seeds = read_numbers(self.seeds.text(), int, "Seeds")
        rates = read_numbers(self.rates.text(), float, "Learning rates")
        return {"seeds": seeds, "learning_rates": rates} if seeds or rates else {}

    def _show_count(self) -> None:
        n, problem = self._chosen()
        self.count.setText(f"⚠ {problem}" if problem else f"{n:,} good cells")
        self.count.setVisible(bool(problem) or self.cells.currentData() != ALL)

    # ---- what the step is given ------------------------------------------------------------------

    def _model_name(self) -> str:
        return self.name.text().strip() or self.card.choice()[0]

    def arguments(self) -> dict[str, Any]:
        """What the training step is given."""
        card, which = self.card, self.cells.currentData()
        how: dict[str, Any] = {
            "model": card.choice()[1], "name": self._model_name(),
            "training": self.form.value() if self.form else None, "channels": card.channels(),
        }  # fmt: skip
        if self._wants_classes:
            how["labels"] = self.classes.currentData() or ""
        if config := card.settings.config():
            how["config"] = config
        if self.start_from.currentData():
            how["weights"] = self.start_from.currentData()
        if which == SELECTION:
            how["cells"] = card.session.cells.obs_names[self._mask()].tolist()
        elif which == FILTER:
            how["where"] = self.filter.text().strip()
        elif which in card.session.sets:
            how["named_set"] = which
        return {**how, **self._several()}

    def _estimated(self) -> dict[str, Any] | None:
        n, problem = self._chosen()
        if not self._can or self.form is None or problem or not n:
            return None
        return {**self.arguments(), "device": self.card.dock.device()}

    def run(self) -> dict[str, Any]:
        """How the training of the shown name was started and how far it is (``run.json``); empty without one."""
        project = self.card.project
        if project is None or not self._model_name():
            return {}
        folder = project.root / "models" / self._model_name()
        try:
            found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if (folder / "checkpoint.pt").is_file() or "seeds" in found.get("how", {}) else {}

    def _paused(self) -> dict[str, Any]:
        """The run of this name if it is not at its end and would go on as it is set here; else empty."""
        run = self.run()
        if not run or run.get("state") == "done" or self.card.session.cells is None:
            return {}
        now = json.loads(json.dumps(self.arguments() if not self._chosen()[1] else {}, default=str))
        of = self.card.settings.config
        begun = {**run["how"], "config": of(run["how"].get("config") or {})}
        same = all(begun.get(k) == v for k, v in {"config": {}, **now}.items())
        chosen = all(
            bool(run["how"].get(k)) == bool(now.get(k))
            for k in ("cells", "where", "named_set", "weights", "seeds", "learning_rates")
        )
        return run if now and same and chosen else {}

    # ---- actions ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Train the chosen network on the chosen cells, or go on with what was paused."""
        n, _ = self._chosen()
        how, card = self.arguments(), self.card
        paused = bool(self._paused())
        self._how = how
        if not (paused and self._name == how["name"] and self.curve.x):
            self._name, self._seen = how["name"], None
            self._begin_curve()
        self.loss.setText("Preparing…")
        if paused:
            handle = card.dock.submit(
                "train.resume_training", f"Training on {n:,} cells", then=self._trained, name=self._name,
                device=card.dock.device(),
            )  # fmt: skip
        else:
            handle = card.dock.submit(
                "train.train_several" if "seeds" in how else "train.train",
                f"Training on {n:,} cells",
                then=self._trained,
                device=card.dock.device(),
                **how,
            )
        handle.limit_s = self._max_seconds() * _n_runs(how)
        handle.progressed.connect(self._show_progress)
        handle.stopped.connect(self._on_stopped)
        handle.failed.connect(self._on_failed)
        handle.ended.connect(self._on_ended)
        self.handle, self._use_after, self._pausing = handle, False, False
        self._looking.start()
        self._show_buttons()
        self._seen_once = False
        self._come_in_sight()

    def _begin_curve(self) -> None:
        self.curve.clear()
        self.pictures.show_pictures((), np.zeros((0, 0, 0, 0), np.uint8))
        if "seeds" in self._how:
            return  # the file is of the run that was kept before
        path = self._folder() / "history.csv"
        with contextlib.suppress(OSError, ValueError, KeyError), path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):  # what was learned before, if it goes on
                self.curve.add(float(row["epoch"]), float(row["loss"]))
                if row.get("val_loss"):
                    self.curve.add_held_out(float(row["epoch"]), float(row["val_loss"]))

    def _show_progress(self, progress: Progress) -> None:
        loss = progress.metrics.get("loss")
        if loss is None:
            if progress.message and not self.curve.x:
                self.loss.setText(progress.message)
            return
        epoch = progress.metrics.get("epoch", 0.0)
        if self.curve.x and epoch < self.curve.x[-1]:  # it began anew: another run's curve says nothing
            self.curve.clear()
        if not self.curve.x:
            self._show_buttons()
        self.curve.add(epoch, loss)
        if not self._seen_once:
            self._seen_once = True
            self._come_in_sight()
        if "val_epoch" in progress.metrics:
            self.curve.add_held_out(progress.metrics["val_epoch"], progress.metrics["val_loss"])
        now = monotonic()
        if now - self._looked < 0.2 and progress.done < progress.total:
            return
        self._looked = now
        rate = progress.metrics.get("cells_per_s", 0.0)
        _, mark, warning = progress.message.partition("⚠ ")
        which = f"{progress.message.partition(': ')[0]}\n" if "seeds" in self._how else ""
        self.loss.setText(
            f"{which}Loss {loss:.4f} (began at {self.curve.y[0]:.4f}) · epoch {int(np.ceil(epoch)):,} · "
            f"{rate:,.0f} cells a second"
            + self._held_out(progress.metrics)
            + (f"\n{mark}{warning}" if mark else "")
        )
        self.loss.show()
        if not self.use.isEnabled():
            self._show_buttons()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Begin with the curve where a training is under way."""
        super().showEvent(event)
        if self.handle is not None and self.handle.active and self.curve.x:
            self._come_in_sight()

    def _come_in_sight(self) -> None:
        """Scroll to the curve and the line below it: in a low window they lie below what is seen."""
        QTimer.singleShot(50, while_open(self._scroll_to_curve))  # once they have their places

    def _scroll_to_curve(self) -> None:
        scroll = self.card.dock.findChild(QScrollArea)
        if scroll is not None and self.curve.isVisible():
            for part in (self.loss, self.curve):
                scroll.ensureWidgetVisible(part)

    @staticmethod
    def _held_out(metrics: Mapping[str, float]) -> str:
        """How held-out cells fare, where that is known."""
        if "val_balanced_accuracy" in metrics:
            return f" · {metrics['val_balanced_accuracy']:.0%} right on held-out cells (mean over classes)"
        words = f" · held out {metrics['val_loss']:.4f}" if "val_loss" in metrics else ""
        if "val_knn" in metrics:
            words += f", {metrics['val_knn']:.0%} of these cells lie among their own group"
        return words

    def _look(self) -> None:
        """Show the network's newest pictures, if there are newer ones."""
        if self.card.project is None or not self._name:
            return
        started = self.handle.log.started.timestamp() if self.handle is not None else 0
        try:
            path = max(
                (self._folder() / "preview.npz", *self._folder().glob("runs/*/preview.npz")),
                key=lambda p: p.stat().st_mtime_ns if p.is_file() else 0,
            )
            stamp = path.stat().st_mtime_ns
            if stamp == self._seen or stamp / 1e9 < started - 1:
                return
            with np.load(path) as found:
                self.pictures.show_pictures([str(c) for c in found["columns"]], found["pictures"])
        except (OSError, ValueError, KeyError):
            return  # not written yet
        self._seen = stamp

    def _pause(self) -> None:
        if self.handle is not None and self.handle.active:
            self._pausing = True
            self.handle.kill_after_s = PAUSE_WITHIN_S
            self.handle.stop()
            self.loss.setText("Pausing when this step has ended…")
            self._show_buttons()

    def _use(self) -> None:
        self._use_after = True
        if self.handle is not None and self.handle.active:
            self._pause()
        else:
            self._name = self._model_name()
            self._make_model()

    def _make_model(self) -> None:
        self.card.dock.submit(
            "train.resume_training", "Making the model", then=self._made, name=self._name, finish=True,
            device=self.card.dock.device(),
        ).ended.connect(self._use_over)  # fmt: skip

    def _made(self, _: Any) -> None:
        self.card.choose(self._name)
        self.card.embed_cells()

    def _use_over(self) -> None:
        self._use_after = False
        self._show_buttons()

    def _on_stopped(self) -> None:
        run = self.run()
        step = f" at step {run['step']:,} of {run['total']:,}" if run.get("step") else ""
        self.loss.setText(f"Paused{step}. Resume goes on from the last checkpoint; nothing runs meanwhile.")
        if self._use_after:
            self._make_model()

    def _on_failed(self, _: str) -> None:
        kept = self.run().get("step") or (self.curve.x and (self._folder() / "checkpoint.pt").is_file())
        self.loss.setText(
            "Training ended early." + (" What was learned is kept; resume goes on." if kept else "")
        )
        self._use_after = False

    def _folder(self) -> Path:
        return self.card.project.root / "models" / self._name

    def _on_ended(self) -> None:
        self._look()
        self._show_runs()
        self._looking.stop()
        self.handle, self._pausing = None, False
        self.card.refresh()

    def _trained(self, folder: Any) -> None:
        name, n = Path(folder).name, _n_runs(self._how)
        self.card.choose(name)
        best = f" (the best of {n:,} runs)" if n > 1 else ""
        self.card.dock.strip.say(f"✓ {name} is trained{best}; embed the cells with it.")


def _same(a: Any, b: Any) -> bool:
    """Whether two settings are the same, but for the digits that a form shows."""
    if isinstance(a, float) and isinstance(b, (int, float)):
        return bool(np.isclose(a, b, rtol=1e-6, atol=1e-9))
    return bool(a == b)


def _run_words(column: str, value: str) -> str:
    """A cell of the table of runs."""
    if column == "kept":
        return "✓" if value == "True" else ""
    if column in ("val_balanced_accuracy", "val_knn"):
        return f"{float(value):.0%}" if value else "–"
    return f"{float(value):.4g}" if value else "–"


def _n_runs(how: Mapping[str, Any]) -> int:
    """How many trainings, one after the other."""
    return len(set(how.get("seeds") or (0,))) * len(set(how.get("learning_rates") or (0,)))


def _disconnected(signals: Any) -> Callable[..., None]:
    """Make a slot that disconnects signals without holding the widget they belong to."""

    def disconnect(*_: Any) -> None:
        for signal, slot in signals:
            signal.disconnect(slot, missing_ok=True)

    return disconnect
