"""The CellRep dock: five cards, one open at a time, and the job strip (ui.md)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from napari.utils.theme import get_theme
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._help import show_help
from napari_cellrep.gui._image import OURS, canvas_of
from napari_cellrep.gui._job_log import JobLog
from napari_cellrep.gui._pictures import Background
from napari_cellrep.gui._runner import Handle, Runner, runner_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui._tour import Tour
from napari_cellrep.gui.cards._parts import Card, ask, duration, text
from napari_cellrep.gui.cards.cells import CellsCard
from napari_cellrep.gui.cards.explore import ExploreCard
from napari_cellrep.gui.cards.images import ImagesCard
from napari_cellrep.gui.cards.model import ModelCard
from napari_cellrep.gui.cards.segment import SegmentCard
from napari_cellrep.gui.views._tones import hints_style
from napari_cellrep.jobs import Progress
from napari_cellrep.session import read_project
from napari_cellrep.specs import InputError
from napari_cellrep.steps.freshness import OutOfDate, look

# Steps that can be taken back, in words.
STEP_WORDS = {
    "segment": "finding the cells", "crop": "the flags", "edit": "the edited cells", "embed": "the embedding",
    "embed fields": "the embedding of fields", "features": "the table of numbers", "analyze": "the analysis",
}  # fmt: skip
_HERE = "the session's project"  # default of `submit`: not None, which means no project


class JobStrip(QWidget):
    """What is being done, how far it is, how long it takes, and a button that stops it."""

    def __init__(self, runner: Runner):
        super().__init__()
        self.runner = runner
        self.handle: Handle | None = None
        self._begin = 0.0
        self.message = text(least_px=180)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("What was finished is kept")
        self.stop.clicked.connect(self._on_stop)
        self.undo = QToolButton()
        self.undo.setText("Undo")
        self.undo.setAutoRaise(True)
        self.log = QToolButton()
        self.log.setText("Jobs")
        self.log.setAutoRaise(True)
        self.log.setToolTip("Jobs that wait, the last ones, and the details of what went wrong")
        self.log.clicked.connect(self.show_log)
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.message, 1)
        line.addWidget(self.stop)
        line.addWidget(self.undo)
        line.addWidget(self.log)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 6)
        layout.addWidget(self.bar)
        layout.addLayout(line)
        self.setAccessibleName("Job")
        runner.submitted.connect(self.follow)
        for handle in (runner.current, *runner.queued):  # begun before this dock was opened
            if handle is not None:
                self.follow(handle)
        self._show()

    def follow(self, handle: Handle) -> None:
        """Show a job while it runs, and how it ended."""
        handle.started.connect(functools.partial(self._on_started, handle))
        handle.progressed.connect(functools.partial(self._on_progressed, handle))
        handle.finished.connect(functools.partial(self._on_finished, handle))
        handle.failed.connect(functools.partial(self._on_failed, handle))
        handle.stopped.connect(functools.partial(self._on_stopped, handle))
        if handle.state in ("running", "stopping"):
            self._on_started(handle)
        self._show()

    def say(self, words: str) -> None:
        """Say something that stays until the next job."""
        self.message.setText(words)

    def _on_started(self, handle: Handle) -> None:
        self.handle, self._begin = handle, 0.0
        self.bar.setRange(0, 0)
        self.say(f"{handle.title}…")
        self._show()

    def _on_progressed(self, handle: Handle, progress: Progress) -> None:
        if handle is not self.handle:
            return
        if progress.total and not self._begin:  # preparing has no length and does not count
            self._begin, self._from = monotonic(), progress.done
        share = progress.done / progress.total if progress.total else 0
        if handle.limit_s and self._begin:  # whichever end comes first
            share = max(share, min(1, (monotonic() - self._begin) / handle.limit_s))
        self.bar.setRange(0, 1000 if progress.total else 0)
        self.bar.setValue(round(1000 * share))
        self.say(self._words(handle, progress))

    def _words(self, handle: Handle, progress: Progress) -> str:
        if handle.state == "stopping":
            return "Stopping; what was finished is kept…"
        words = [f"{handle.title}…"]
        if progress.total:
            if handle.step.startswith("fetch"):  # counts kilobytes
                words.append(f"{progress.done / 1e3:,.1f} of {progress.total / 1e3:,.1f} MB")
            else:
                what = (
                    "step " if handle.step.startswith("train") else ""
                )  # else fields or cells, as the title says
                words.append(f"{what}{progress.done:,} of {progress.total:,}")
            done, spent = progress.done - self._from, monotonic() - self._begin
            if done > 0 and spent > 3 and progress.done < progress.total:
                left = spent / done * (progress.total - progress.done)
                if handle.limit_s:
                    left = min(left, max(1, handle.limit_s - spent))
                words.append(f"about {duration(left)} left")
        elif progress.message:
            words.append(progress.message)
        if self.runner.queued:
            words.append(f"{len(self.runner.queued)} waiting")
        return " · ".join(words)

    def _on_finished(self, handle: Handle, _: Any) -> None:
        self._over(handle, f"✓ {handle.title}: done in {duration(handle.log.seconds)}.")

    def _on_failed(self, handle: Handle, sentence: str) -> None:
        self._over(handle, f"⚠ {sentence}")

    def _on_stopped(self, handle: Handle) -> None:
        self._over(handle, f"{handle.title}: stopped; what was finished is kept.")

    def _over(self, handle: Handle, words: str) -> None:
        if handle is self.handle or self.handle is None:
            self.handle = None
            self.say(words)
        self._show()

    def _on_stop(self) -> None:
        if self.handle is not None:
            self.handle.stop()
            self.say("Stopping; what was finished is kept…")
            self._show()

    def _show(self) -> None:
        running = self.handle is not None
        self.bar.setVisible(running)
        self.stop.setVisible(running)
        self.stop.setEnabled(running and self.handle.state == "running")
        self.log.setVisible(bool(self.runner.log or self.runner.queued))

    def show_log(self) -> None:
        """Open the window with the jobs that wait and the last ones."""
        JobLog(self.runner, self).show()


class CellRepDock(QWidget):
    """From images to a map of cells, one card after the other.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.setObjectName("cellrep")
        self.viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.session = session_of(napari_viewer)
        self.runner = runner_of(napari_viewer)
        self.canvas = canvas_of(napari_viewer)
        self.strip = JobStrip(self.runner)
        self.strip.undo.clicked.connect(self.ask_undo)
        self.opening = False  # a project is being read
        self.stale = OutOfDate()  # of the project that is open, as far as it was looked at
        self._looked_at = ""
        self._looking = Background(self.session)  # of its own: a share may take long to answer
        self._leaving = threading.Event()
        self.cards: dict[str, Card] = {}
        for name, make in (
            ("images", ImagesCard), ("segment", SegmentCard), ("cells", CellsCard), ("model", ModelCard),
            ("explore", ExploreCard),
        ):  # fmt: skip
            self.cards[name] = make(self)

        column = QWidget()
        inside = QVBoxLayout(column)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(2)
        for card in self.cards.values():
            inside.addWidget(card)
            card.opened.connect(self._on_opened)
        inside.addStretch(1)
        scroll = QScrollArea()
        scroll.setWidget(column)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 2, 0, 0)
        self.tour = Tour(self)
        layout.addLayout(self._make_header())
        layout.addWidget(self.tour)
        layout.addWidget(scroll, 1)
        layout.addWidget(self.strip)
        self.setMinimumWidth(350)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

        # Many things change at once when a job ends; the cards are brought up to date once.
        self._refreshing = QTimer(self)
        self._refreshing.setSingleShot(True)
        self._refreshing.setInterval(0)
        self._refreshing.timeout.connect(self.refresh)
        self._signals = (
            (self.session.project_changed, self._refresh_soon),
            (self.session.cells_changed, self._refresh_soon),
            (self.session.embedding_changed, self._refresh_soon),
            (self.session.visible_changed, self._refresh_soon),
            (self.session.focus_changed, self._refresh_soon),
            (self.session.project_changed, self.look_at_images),
            (self.session.cells_changed, self.look_at_images),
            (self.session.embedding_changed, self.look_at_images),
            (self.canvas.editing.said, self.strip.say),
        )
        for signal, slot in self._signals:
            signal.connect(slot)
        layers = self.viewer.layers.events
        for event in (layers.inserted, layers.removed):
            event.connect(self._refresh_soon)
        self.viewer.events.theme.connect(self._on_theme_changed)
        self._on_theme_changed()
        self.destroyed.connect(_disconnected(self._signals))
        self.destroyed.connect(functools.partial(_stop_looking, self._leaving, self._looking))
        self.runner.submitted.connect(self._on_submitted)
        self.refresh()
        self.open_card("images")
        self._warming = QTimer(self)  # a warm start, but after the dock is on the screen
        self._warming.setSingleShot(True)
        self._warming.timeout.connect(self._warm)
        self._warming.start(0)

    def _make_header(self) -> QHBoxLayout:
        """The machine that networks run on, and where help is."""
        self.machine = QLabel()
        self.machine.setEnabled(False)  # in the theme's quiet colour
        self.machine.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._show_machine(self.runner.machine)
        self.runner.warmed.connect(self._show_machine)
        self.help = QToolButton()
        self.help.setText("Help")
        self.help.setAutoRaise(True)
        self.help.setStyleSheet("QToolButton { padding: 2px 14px 2px 4px; background: transparent }")
        self.help.setToolTip("What the cards do, gestures, and the tour")
        self.help.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.help)
        menu.addAction("What the cards do", lambda: show_help("Begin", self))
        menu.addAction("Gestures", lambda: show_help("Gestures", self))
        menu.addAction("When something fails", lambda: show_help("When something fails", self))
        menu.addSeparator()
        menu.addAction("Take the tour", self.tour.begin)
        self.help.setMenu(menu)
        line = QHBoxLayout()
        line.setContentsMargins(8, 0, 4, 0)
        line.addWidget(self.machine, 1)
        line.addWidget(self.help)
        return line

    def _on_theme_changed(self, event: Any = None) -> None:
        ink = get_theme(self.viewer.theme).text.as_rgb_tuple()[:3]
        self.setStyleSheet(hints_style(QColor(*ink)))

    def _show_machine(self, words: str) -> None:
        self.machine.setText(words.split(";")[0])
        self.machine.setToolTip(
            f"{words}.\nNetworks run there; choose it in card 4 under More." if words else ""
        )

    def _warm(self) -> None:
        # Segmenters first: they are wanted first, and importing torch takes seconds.
        self.runner.describe("segmenters", self._set_methods, self._complain)
        self.runner.describe("models", self._set_models, self._complain)
        self.runner.warm()
        # What reads tables takes a second to load; the first project should not wait for it.
        self.canvas.background.run(lambda: importlib.import_module("anndata"), lambda _: None)

    def _set_methods(self, found: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the dock was closed meanwhile
            self.cards["segment"].set_methods(found)

    def _set_models(self, found: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):
            self.cards["model"].set_models(found)
            self._refresh_soon()  # other cards say models' names

    def _complain(self, sentence: str) -> None:
        with contextlib.suppress(RuntimeError):
            self.strip.say(f"⚠ {sentence}")

    # ---- cards -----------------------------------------------------------------------------------

    def open_card(self, name: str) -> None:
        """Open one card; the others close."""
        self.cards[name].set_open(True)

    def _on_opened(self, opened: Card) -> None:
        for card in self.cards.values():
            if card is not opened:
                card.set_open(False)
        if opened in (self.cards.get("segment"), self.cards.get("model")):
            self.look_at_images()  # they may have been replaced since the project was opened

    def refresh(self) -> None:
        """Bring every card up to date."""
        for card in self.cards.values():
            card.refresh()
        back = self._undoable()
        self.strip.undo.setVisible(bool(back))
        self.strip.undo.setToolTip(f"Takes back what was done last: {back}" if back else "")

    def _refresh_soon(self, *_: Any) -> None:
        self._refreshing.start()

    def _on_submitted(self, handle: Handle) -> None:
        handle.started.connect(self._refresh_soon)
        handle.ended.connect(self._refresh_soon)
        self._refresh_soon()

    # ---- jobs ------------------------------------------------------------------------------------

    def submit(
        self,
        step: str | Callable[..., Any],
        title: str,
        *,
        then: Callable[[Any], None] | None = None,
        reload: bool = True,
        project: str | None = _HERE,
        **kwargs: Any,
    ) -> Handle:
        """Run a step on the session's project (or on none), read its results, then call `then(result)`."""
        session = self.session
        if project == _HERE:
            project = str(session.project.root)
        again = functools.partial(_read_again, project) if project is not None and reload else None
        handle = self.runner.submit(step, project, job_title=title, job_reads=again, **kwargs)
        if again is not None:
            for end in (handle.finished, handle.failed, handle.stopped):
                end.connect(functools.partial(_reload, session, project, handle))
        if then is not None:
            handle.finished.connect(functools.partial(self._go_on, then, project))
        return handle

    def _go_on(self, then: Callable[[Any], None], root: str | None, result: Any) -> None:
        if root is None or (self.session.project is not None and str(self.session.project.root) == root):
            then(result)  # else another project was opened while it ran

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Say a user's mistake in the strip instead of raising it."""
        try:
            yield
        except InputError as error:
            self.strip.say(f"⚠ {error}")

    def device(self) -> str:
        """Where networks run: the choice in card 4."""
        return self.cards["model"].device.currentData()

    # ---- one step back ---------------------------------------------------------------------------

    def _undoable(self) -> str:
        """What can be taken back, in words; "" while jobs run, or where nothing can."""
        project = self.session.project
        if project is None or self.runner.current is not None or self.runner.queued or project.read_only:
            return ""
        found = project.undoable
        if not found:
            return ""
        what = STEP_WORDS.get(found["step"], found["step"])
        of = f" ({found['of']})" if found["of"] else ""
        return f"{what}{of}, {found['when'][11:16]}"

    def ask_undo(self) -> None:
        """Ask whether the last step's outputs are to be taken back."""
        words = self._undoable()
        if not words:
            return
        ask(
            self, "Undo the last step", f"Take back {words}?",
            "What it replaced comes back, and what it made is removed. This itself cannot be undone; the step can be run again.",
            "Take it back", lambda: self.undo(words),
        )  # fmt: skip

    def undo(self, words: str) -> None:
        """Take back what the last step wrote, which `words` say."""
        self.submit(
            "undo.undo",
            "Taking back the last step",
            then=functools.partial(self._undone, words.rpartition(",")[0]),
        )

    def _undone(self, words: str, _: Any) -> None:
        self.canvas.background.forget()
        self.labels_changed()
        self.strip.say(f"✓ Taken back: {words}.")

    # ---- what is out of date -----------------------------------------------------------------------

    def look_at_images(self, *_: Any) -> None:
        """Look in the background what was made of other images, labels or cells than there are now; every card says it."""
        project = self.session.project
        root = "" if project is None else str(project.root)
        if root != self._looked_at or not self.session.n_cells:
            self._looked_at, self.stale = root, OutOfDate()
        if project is None or not self.session.n_cells:
            return
        look = functools.partial(_look, project, self.session.embedding, self._leaving)
        self._looking.run(look, functools.partial(self._looked, project), "look")

    def _looked(self, project: Any, found: Any) -> None:
        if project is not self.session.project or isinstance(found, Exception):
            return  # what cannot be read is said where it is shown
        if found != self.stale:
            self.stale = found
            self._refresh_soon()

    # ---- project and field -----------------------------------------------------------------------

    def open_project(self, root: Path | str) -> None:
        """Open a project folder, show a field of it, and the card that comes next. Reads in the background."""
        self.opening = True
        self.strip.say(f"Opening {Path(root).name}…")
        self.canvas.background.run(lambda: _read_and_look(root), self._opened, "open")

    def _opened(self, read: Any) -> None:
        self.opening = False
        with self.told():
            if isinstance(read, Exception):
                raise read
            read, gone = read
            self.session.open(read)
            fields = read.usable_fields
            words = f"✓ {read.name}: {len(read.fields):,} field{'s' * (len(read.fields) != 1)}."
            if read.read_only:
                words += " It is read-only: it can be viewed, and results exported elsewhere, but nothing is written to it."
            self.strip.say(words)
            if gone:
                self.cards["images"].look_for_images(gone)  # they are shown once they are found
            elif fields:
                self.show_field(self.canvas.leaving.field)  # the one last looked at
            self.open_card(self._next_card())

    def _next_card(self) -> str:
        session = self.session
        if all(c.role == "other" for c in session.project.channels):
            return "images"
        if not session.n_cells:
            return "segment"
        return "explore" if session.embeddings else "model"

    def close_project(self) -> None:
        """Look at no project; its folder stays."""
        self.session.open(None)
        self.open_card("images")

    def shown_field(self) -> str:
        """The field on the canvas; "" when there is none."""
        return self.canvas.field

    def show_field(self, field_id: str) -> None:
        """Show a field on the canvas."""
        if field_id:
            self.remove_preview()
            self.canvas.show(field_id, self._refresh_soon)

    def labels_changed(self) -> None:
        """Read the labels of the shown field again."""
        if self.shown_field():
            self.canvas.show(self.shown_field(), self._refresh_soon)

    def remove_preview(self) -> None:
        """Take the preview of a segmentation off the canvas."""
        for layer in list(self.viewer.layers):
            if layer.metadata.get(OURS, {}).get("kind") == "preview":
                self.viewer.layers.remove(layer)

    def save_label_edits(self) -> None:
        """Keep what was painted into the layer of cells."""
        if not self.canvas.edited:
            self.strip.say(
                "No label was changed since it was saved: paint, merge or split in the layer “cells”."
            )
            return
        self.canvas.save_edits(self._refresh_soon)

    def open_explore(self) -> None:
        """Open the Explore dock, or bring it to the front."""
        self.viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")


def _read_and_look(root: Path | str) -> tuple[Any, int]:
    """A project, and of how many of some of its fields the images are gone."""
    project = read_project(root)
    return project, len(project.missing(most=24))


def _look(project: Any, embedding: str, leaving: threading.Event) -> OutOfDate:
    """What is out of date of a project, as far as there is time before the window closes."""
    found = look(project, [embedding] if embedding else [], lambda: not leaving.is_set())
    with contextlib.suppress(InputError, OSError):  # a job writes: what was read is read again another time
        project.keep_stamps(timeout_s=0)
    return found


def _stop_looking(leaving: threading.Event, looking: Background, *_: Any) -> None:
    leaving.set()
    with contextlib.suppress(RuntimeError):
        looking.close()


def _read_again(root: str, _: Any) -> Any:
    return read_project(root)


def _reload(session: Any, root: str, handle: Handle, *_: Any) -> None:
    """Take over what a job wrote if its project is still the one that is open."""
    if session.project is not None and str(session.project.root) == root:
        session.reload(handle.read)


def _disconnected(signals: Any) -> Callable[..., None]:
    """Make a slot that disconnects signals without holding the widget they belong to."""

    def disconnect(*_: Any) -> None:
        for signal, slot in signals:
            signal.disconnect(slot, missing_ok=True)

    return disconnect
