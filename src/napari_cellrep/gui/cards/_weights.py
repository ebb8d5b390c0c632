"""Published weights: which there are, their licence in full, and getting them from their authors or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui.cards._parts import into_sight
from napari_cellrep.jobs import Progress
from napari_cellrep.specs import Channel, InputError, match_channels

if TYPE_CHECKING:
    from napari_cellrep.gui.cards.model import ModelCard

LINKS = ("#1b5a9e", "#6aaaf0")  # legible on light and on dark; Qt's own blue is not
# What a licence's words mean for the person who reads them: looked for in small letters.
RESTRICTIONS = (
    (("non-commercial", "academic use"), "Not for commercial use, or only with the authors' leave"),
    (("patent",), "The method is under a patent or a patent application"),
    (("no licence", "no license"), "The authors state no licence for a part of it"),
    (("read it there",), "The licence is on the record's page; read it there first"),
)
# The steps' sentences speak to people at a terminal.
_IN_THE_WINDOW = {
    "from another machine and add --from FOLDER": "from another computer and press “From a folder…”",
    "use --from FOLDER": "press “From a folder…”",
    "run the same command again": "press “Get” again",
    "--from takes the folder": "choose the folder",
}


def restrictions(licence: str) -> list[str]:
    """What to heed in a licence, in short sentences."""
    low = licence.lower()
    return [words for signs, words in RESTRICTIONS if any(sign in low for sign in signs)]


def published(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Checkpoint → its description, with "network", "title" and its "roles", of what `registry.describe` found."""
    listed = {}
    for network, about in found.items():
        spec = about["spec"]
        for weights in spec.get("weights", ()):
            listed[weights["name"]] = {
                **weights, "network": network, "title": spec.get("title", network), "paper": spec.get("paper", ""),
                "roles": tuple(weights.get("roles") or spec.get("roles", ())), "any": any_channels(about, weights),
            }  # fmt: skip
    return listed


def any_channels(about: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> bool:
    """Whether a network takes any number of channels, whatever they show (weights made for some fix them)."""
    rules = about.get("config") or {}
    if rules.get("channels", {}).get("type") != "tuple":
        return False
    return weights is None or "as_rgb" not in rules or bool(weights.get("config", {}).get("as_rgb"))


def fits(weights: Mapping[str, Any], channels: Sequence[Channel]) -> bool:
    """Whether a project has the channels that weights want."""
    if weights["any"]:
        return bool(channels)
    try:
        match_channels(weights["roles"], channels, may_lack=tuple(weights.get("may_lack") or ()))
    except InputError:
        return False
    return True


def in_the_window(sentence: str, name: str) -> str:
    """A step's sentence without what can only be typed."""
    for typed, pressed in _IN_THE_WINDOW.items():
        sentence = sentence.replace(typed, pressed)
    return sentence.replace(
        f"and run: cellrep models fetch {name} --from FOLDER", "and press “From a folder…”"
    )


def megabytes(n_bytes: float) -> str:
    """Say a size: "0.4 MB", "528 MB"."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e7 else f"{n_bytes / 1e6:,.0f} MB"


class WeightsDialog(QDialog):
    """The list of published weights, and beside it what to know of the chosen one before getting it.

    Parameters
    ----------
    card : ModelCard
        Knows what there is and what is here, and runs the job.
    """

    def __init__(self, card: ModelCard):
        super().__init__(card)
        self.card = card
        self.setWindowTitle("CellRep: published weights")
        self.resize(QSize(940, 560).boundedTo(self.screen().availableSize()))
        top = QLabel(
            "Networks that were trained elsewhere and published. They are downloaded from their authors, not from us, and are "
            "kept on this computer."
        )
        top.setWordWrap(True)
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["Weights", "Wants", "Here"])
        self.list.setRootIsDecorated(False)
        self.list.setAccessibleName("Published weights")
        self.list.header().setStretchLastSection(False)
        for column, mode in enumerate(("ResizeToContents", "Stretch", "ResizeToContents")):
            self.list.header().setSectionResizeMode(column, QHeaderView.ResizeMode[mode])
        self.list.currentItemChanged.connect(lambda *_: self._show())
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setTextFormat(Qt.TextFormat.RichText)
        self.about.setOpenExternalLinks(True)
        self.about.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.licence = QPlainTextEdit()
        self.licence.setReadOnly(True)
        self.licence.setAccessibleName("Licence")
        self.warning = QLabel()
        self.warning.setWordWrap(True)
        self.accept_ = QCheckBox("I have read the licence and accept it")
        self.accept_.toggled.connect(lambda _: self._show_buttons())
        self.state = QLabel()
        self.state.setWordWrap(True)
        self.get = QPushButton("Get")
        font = self.get.font()
        font.setBold(True)
        self.get.setFont(font)
        self.get.clicked.connect(lambda: self._get(None))
        self.folder = QPushButton("From a folder…")
        self.folder.clicked.connect(self._get_from_folder)
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("What has come is kept; getting it again goes on from there")
        self.stop.clicked.connect(self._stop)
        self.use = QPushButton("Use these weights")
        self.use.clicked.connect(self._use)
        close = QPushButton("Close")
        close.clicked.connect(self.close)
        for made in (self.get, self.folder, self.stop, self.use, close):
            made.setAutoDefault(False)

        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(8, 0, 0, 0)
        column.addWidget(self.about)
        column.addWidget(QLabel("Licence"))
        column.addWidget(self.licence, 1)
        for item in (self.warning, self.accept_, self.state):
            column.addWidget(item)
        line = QHBoxLayout()
        for item in (self.get, self.folder, self.stop, self.use):
            line.addWidget(item)
        line.addStretch(1)
        line.addWidget(close)
        column.addLayout(line)
        split = QSplitter()
        split.addWidget(self.list)
        split.addWidget(right)
        split.setSizes([450, 490])
        layout = QVBoxLayout(self)
        layout.addWidget(top)
        layout.addWidget(split, 1)
        self._said: dict[str, str] = {}  # how the last try ended

    # ---- what is shown ----

    @property
    def name(self) -> str:
        """The chosen weights; "" for none."""
        item = self.list.currentItem()
        return item.data(0, Qt.ItemDataRole.UserRole) if item is not None else ""

    def open_at(self, name: str = "") -> None:
        """Open the window on some weights, or where it was."""
        self.refresh()
        for i in range(self.list.topLevelItemCount()):
            item = self.list.topLevelItem(i)
            if item.data(0, Qt.ItemDataRole.UserRole) == name:
                self.list.setCurrentItem(item)
        self.show()
        into_sight(self)
        self.raise_()

    def refresh(self) -> None:
        """Show what there is and what is here now."""
        listed, here, keep = published(self.card.found), self.card.here or {}, self.name
        channels = self.card.project.channels if self.card.project else ()
        self.list.blockSignals(True)
        self.list.clear()
        order = sorted(  # made for these very channels, then for any, then for others
            listed, key=lambda n: (not fits(listed[n], channels), listed[n]["any"], listed[n]["title"], n)
        )
        for name in order:
            weights, fit = listed[name], fits(listed[name], channels)
            wants = "any channels" if weights["any"] else ", ".join(weights["roles"])
            item = QTreeWidgetItem([name, f"{'✓ ' if fit else ''}{wants}", self._here(here.get(name))])
            item.setData(0, Qt.ItemDataRole.UserRole, name)
            item.setToolTip(0, f"{weights['title']}. {weights['note']}")
            item.setToolTip(1, "Your channels fit" if fit else "Your channels are others" if channels else "")
            self.list.addTopLevelItem(item)
            if name == keep:
                self.list.setCurrentItem(item)
        if self.list.currentItem() is None and order:
            self.list.setCurrentItem(self.list.topLevelItem(0))
        self.list.blockSignals(False)
        self._show(forget=False)

    @staticmethod
    def _here(held: Mapping[str, Any] | None) -> str:
        if not held:
            return ""
        return f"{'✓' if held['whole'] else '◐ begun,'} {megabytes(held['bytes'])}"

    def _show(self, forget: bool = True) -> None:
        weights = published(self.card.found).get(self.name)
        if weights is None:
            self.about.setText("Looking which there are…")
            self._show_buttons()
            return
        wants = (
            "any channels, each by itself"
            if weights["any"]
            else ", ".join(
                role + (" (may be missing)" if role in (weights.get("may_lack") or ()) else "")
                for role in weights["roles"]
            )
        )
        host = urlsplit(weights["url"]).hostname or ""
        um = weights.get("um_per_px") or 0
        link = LINKS[self.palette().windowText().color().lightness() > 127]
        origin = (
            f"<a href='{weights['url']}' style='color: {link}'>{host}</a>"
            if host
            else "comes with napari-cellrep"
        )
        rows = [
            ("Model", weights["title"]), ("Trained on", weights["note"]), ("Wants", wants),
            ("Sampling", f"{um:g} µm per pixel" if um else "unknown"), ("From", origin), ("Paper", weights["paper"]),
        ]  # fmt: skip
        table = "".join(f"<tr><td style='padding-right:10px'>{a}</td><td>{b}</td></tr>" for a, b in rows if b)
        self.about.setText(f"<b>{weights['name']}</b><table>{table}</table>")
        self.licence.setPlainText(weights["licence"])
        self.warning.setText("\n".join(f"⚠ {words}." for words in restrictions(weights["licence"])))
        self.warning.setVisible(bool(self.warning.text()))
        if forget:
            self.accept_.setChecked(False)
        self._show_buttons()

    def _show_buttons(self) -> None:
        name, held = self.name, (self.card.here or {}).get(self.name)
        job = self.card.fetching.get(name)
        whole = bool(held and held["whole"])
        self.accept_.setVisible(bool(name) and not whole and job is None)
        accepted = self.accept_.isChecked()
        for made in (self.get, self.folder):
            made.setVisible(not whole and job is None)
            made.setEnabled(bool(name) and accepted)
        why = "" if accepted else "Read the licence and accept it first"
        self.get.setText(f"Get {name}" if not held else f"Get the rest of {name}")
        self.get.setToolTip(why or "Downloads it; Stop keeps what has come")
        self.folder.setToolTip(
            why or "For computers without a network: a folder into which somebody has put the files"
        )
        self.stop.setVisible(job is not None)
        self.stop.setEnabled(job is not None and job.state != "stopping")
        self.use.setVisible(whole)
        if job is not None:
            words = self._progress(job)
        elif whole:
            words = f"✓ On this computer, {megabytes(held['bytes'])}, in {held['folder']}"
        elif self._said.get(name):
            words = self._said[name]
        elif held:
            words = f"{megabytes(held['bytes'])} of it have come already; getting it goes on from there."
        else:
            words = ""
        self.state.setText(words)

    def _progress(self, job: Any) -> str:
        if job.state == "queued":
            return "Waits for the job that is running."
        if job.state == "stopping":
            return "Stopping; what has come is kept…"
        progress: Progress = job.progress
        if not progress.total:
            return "Getting it…"
        return f"Getting it: {megabytes(1000 * progress.done)} of {megabytes(1000 * progress.total)}"

    # ---- what can be done ----

    def _get(self, source: str | None) -> None:
        self._said.pop(self.name, None)
        self.card.fetch_weights(self.name, source)

    def _get_from_folder(self) -> None:
        if source := QFileDialog.getExistingDirectory(self, f"Folder with the files of {self.name}"):
            self._get(source)

    def _stop(self) -> None:
        if (job := self.card.fetching.get(self.name)) is not None:
            job.stop()
            self._show_buttons()

    def _use(self) -> None:
        self.card.choose(self.name)
        self.close()

    def on_job(self, name: str, said: str | None = None) -> None:
        """A job that fetches weights went on, or ended with some words."""
        if said is not None:
            self._said[name] = said
        if name == self.name:
            self._show_buttons()
