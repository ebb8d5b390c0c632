"""Card 5: from numbers to a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QFormLayout,
    QWidget,
)

from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock


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
        """Show the project as it is now."""
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
