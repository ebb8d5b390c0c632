"""Before anything long: a line that says what a step would cost here, and a button that tries it on three fields."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy

from napari_cellrep.gui.cards._parts import duration
from napari_cellrep.specs import join_words

if TYPE_CHECKING:
    from napari_cellrep.gui.cards._parts import Card

WAIT_MS = 700  # after the last change, so that turning a number asks once
PILOT_FIELDS = 3


class EstimateLine(QLabel):
    """What a step would cost, tried out in the worker; empty until it is known.

    It asks only while it can be seen, no job runs (the trial would be slow, and wrong) and the worker is there.

    Parameters
    ----------
    card : Card
    what : str
        "segment", "embed" or "train".
    arguments : callable
        What the step would be given; None while it cannot be run.

    Attributes
    ----------
    time : str
        "about 6 min"; "" while not known.
    """

    known = Signal()

    def __init__(self, card: Card, what: str, arguments: Callable[[], Mapping[str, Any] | None]):
        super().__init__()
        self.card, self.what, self._arguments = card, what, arguments
        self.time = ""
        self._asked = ""  # what is on its way
        self._shown = ""  # what the words are about
        self.setWordWrap(True)
        self.setMinimumWidth(250)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.setEnabled(False)  # in the theme's quiet colour
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(WAIT_MS)
        self._wait.timeout.connect(self._ask)
        self._say("")

    def refresh(self) -> None:
        """Forget what is out of date, and ask again soon."""
        key = self._key()
        if key == self._shown:
            return
        self._shown = ""
        self._say("")
        if key and key != self._asked:
            self._wait.start()

    def showEvent(self, event: object) -> None:
        """Ask, now that it can be seen."""
        super().showEvent(event)
        self.refresh()

    def _key(self) -> str:
        """What the estimate depends on; "" when there is nothing to estimate."""
        project = self.card.project
        arguments = self._arguments() if project is not None and self.card.session is not None else None
        if arguments is None:
            return ""
        return json.dumps([str(project.root), len(project.history), arguments], default=str, sort_keys=True)

    def _ask(self) -> None:
        key, runner = self._key(), self.card.dock.runner
        quiet = runner.current is None and not runner.queued and runner.pid
        if not key or self._asked or not quiet or not self.card.body.isVisible():
            return
        self._asked = key
        runner.ask(
            "estimate.estimate", self.card.project.root, self._on_result, self._on_error, what=self.what,
            **(self._arguments() or {}),
        )  # fmt: skip

    def _on_result(self, found: Mapping[str, Any]) -> None:
        self._answer(found["sentence"], found["time"])

    def _on_error(self, sentence: str) -> None:
        self._answer("", "", tip=sentence)  # the step itself says it, when it is started

    def _answer(self, words: str, time: str, tip: str = "") -> None:
        with contextlib.suppress(RuntimeError):  # the dock was closed meanwhile
            asked, self._asked = self._asked, ""
            busy = self.card.dock.runner.current is not None  # a job began meanwhile: the trial was slow
            if asked != self._key() or busy:
                self.refresh()
                return
            self._shown = asked
            self._say(words, time, tip)

    def _say(self, words: str, time: str = "", tip: str = "") -> None:
        changed = (self.time, self.text()) != (time, words)
        self.time = time
        self.setText(words)
        self.setToolTip(
            tip or "From a trial of about a second on this machine; it may take half or twice as long"
        )
        if changed:
            self.known.emit()


class PilotButton(QPushButton):
    """Does a step on a few fields first, spread over the groups, and says what it took.

    Parameters
    ----------
    card : Card
    verb : str
        "Segment", "Embed".
    start : callable
        Called with the fields and a function that takes the job's result.
    """

    def __init__(
        self,
        card: Card,
        verb: str,
        start: Callable[[list[str], Callable[[Any], None]], None],
    ):
        super().__init__(f"{verb} {PILOT_FIELDS} fields first")
        self.card, self.verb, self._start = card, verb, start
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(60)
        self.clicked.connect(self._go)

    def refresh(self) -> None:
        """Say which fields it would take."""
        project = self.card.project
        fields = spread_fields(project) if project is not None else []
        more = project is not None and len(project.usable_fields) > PILOT_FIELDS
        self.setEnabled(bool(fields) and more)
        self.setToolTip(
            f"Fields {join_words(fields)}: the first, the middle and the last group; says how long it took"
            if more
            else f"There are no more than {PILOT_FIELDS} fields"
        )

    def _go(self) -> None:
        fields, begin = spread_fields(self.card.project), monotonic()

        def told(_: Any) -> None:
            spent, n = monotonic() - begin, len(self.card.project.usable_fields)
            self.card.dock.strip.say(
                f"✓ Fields {join_words(fields)} took {duration(spent)}; all {n:,} would take about "
                f"{duration(spent * n / len(fields))} or less."
            )

        self._start(fields, told)


def spread_fields(project: Any, n: int = PILOT_FIELDS) -> list[str]:
    """Choose `n` fields spread over the groups: one of the first, the middle and the last."""
    first: dict[str, str] = {}
    for field in project.usable_fields:
        first.setdefault(field.group, field.id)
    ids = list(first.values()) if len(first) >= n else [f.id for f in project.usable_fields]
    if len(ids) <= n:
        return ids
    return [ids[round(i * (len(ids) - 1) / (n - 1))] for i in range(n)]
