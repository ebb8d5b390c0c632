"""Card 3: which cells are good, and edits of their outlines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.cells import FLAGS, QualityRules
from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._parts import Card, More, button, text
from napari_cellrep.specs import field_rules

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock


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
        """Show the project as it is now."""
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
