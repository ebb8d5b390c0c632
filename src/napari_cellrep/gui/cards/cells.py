"""Card 3: which cells are good, and edits of their outlines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.cells import FLAGS, QualityRules, flag_limits, flag_masks
from napari_cellrep.gui._edit import CANCEL, EDIT, LAYER
from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._charts import Histogram
from napari_cellrep.gui.cards._parts import Card, More, button, text
from napari_cellrep.specs import InputError, field_rules, make_config

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# Column → (title, decimals) of the histogram that shows its limits.
CHARTS = {
    "area_px": ("size, px", 0),
    "q_focus": ("sharpness", 1),
    "q_saturated_share": ("saturated share", 2),
    "q_signal_share": ("protein signal, share of usual", 1),
    "q_field_focus": ("sharpness of the whole field", 1),
    "q_field_saturated": ("saturated share of the field", 2),
    "q_field_contrast": ("contrast of the field's emptiest channel", 0),
}
NOTHING_EDITED = "No label was changed: paint, erase or fill in the layer “cells” first"


class CellsCard(Card):
    """How many cells are good, and why the others are flagged; edits of labels."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 3, "Cells")
        self.hint = text()
        self.counts = text()
        self.counts.setTextFormat(Qt.TextFormat.RichText)
        self.reasons = QWidget()
        self.reason_grid = QGridLayout(self.reasons)
        self.reason_grid.setContentsMargins(0, 0, 0, 0)
        self.reason_grid.setColumnStretch(1, 1)
        self.reason_buttons: dict[str, QPushButton] = {}
        self.hide_flagged = QCheckBox("Hide flagged cells")
        self.hide_flagged.setToolTip("They are kept, but not shown, not ranked and not trained on")
        self.hide_flagged.toggled.connect(self._set_hidden)
        self.edits = button(
            "Save label edits", self.save_edits, "Cells you painted, merged or split in the labels layer"
        )
        self.in_view = button(EDIT[0], self.edit_in_view, EDIT[1])
        self.cancel = button(CANCEL[0], self.cancel_edits, CANCEL[1])
        self.form = Form(field_rules(QualityRules))
        self.form.changed.connect(self._judge_soon)
        self.charts = {column: Histogram(title, digits) for column, (title, digits) in CHARTS.items()}
        self.judged = text()
        self.apply = button("Flag again by these rules", self.apply_rules)
        rules = QWidget()
        inside = QVBoxLayout(rules)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSizeConstraint(QVBoxLayout.SizeConstraint.SetMinimumSize)  # whole before the dock scrolls
        for item in (*self.charts.values(), self.form, self.judged, self.apply):
            inside.addWidget(item)
        self.more = More("Rules", rules)
        self.more.button.toggled.connect(lambda _: self._judge())
        for item in (
            self.hint, self.counts, self.reasons, self.hide_flagged, self.in_view, self.edits, self.cancel, self.more,
        ):  # fmt: skip
            self.layout_.addWidget(item)
        self._watched: Any = None  # the layer whose edits are waited for
        self._shown: Any = None  # the table the charts show
        self._rules: dict[str, Any] = {}  # those the flags were decided by
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(150)
        self._soon.timeout.connect(self._judge)

    def refresh(self) -> None:
        """Show the project as it is now."""
        cells = self.session.cells
        have = cells is not None and self.session.n_cells > 0
        for item in (self.counts, self.reasons, self.hide_flagged, self.more):
            item.setVisible(have)
        self.edits.setVisible(have)
        if not have:
            self.hint.show()
            self.hint.setText(
                "No cells yet: segment the images first (card 2)."
                if self.project
                else "Open images first (card 1)."
            )
            self.set_status("")
            self._shown = None
            self.in_view.hide()
            self.cancel.hide()
            return
        if self._shown is not cells:
            self._shown = cells
            self._show_reasons(flag_counts(cells.obs))
            self._rules = {**self.form.value(), **self.project.last("crop").get("rules", {})}
            self.form.blockSignals(True)
            self.form.set_value(self._rules)
            self.form.blockSignals(False)
            self._judge()
        self.hide_flagged.blockSignals(True)
        self.hide_flagged.setChecked(self.session.hide_flagged)
        self.hide_flagged.blockSignals(False)
        canvas = self.dock.canvas
        layer = canvas.editing.layer
        if layer is None and canvas.viewer is not None:  # the window may be closing
            layer = canvas.layer("cells")
        if layer is not self._watched:
            self._watched = layer
            if layer is not None:
                layer.events.paint.connect(self._on_paint)
        self._show_primary()

    # ---- why cells are flagged ----

    def _show_reasons(self, counts: Counter[str]) -> None:
        while (item := self.reason_grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        self.reason_buttons = {}
        for i, (flag, n) in enumerate(counts.most_common()):
            made = button(
                f"{n:,}", lambda flag=flag: self.select_flagged(flag), "Selects these cells and shows them"
            )
            made.setAccessibleName(f"{n:,} {flag.replace('_', ' ')}")
            made.setFixedWidth(72)
            made.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
            self.reason_grid.addWidget(made, i, 0, Qt.AlignmentFlag.AlignTop)
            words = text(f"<b>{flag.replace('_', ' ')}</b>: {FLAGS.get(flag, flag)}", least_px=150)
            self.reason_grid.addWidget(words, i, 1)
            self.reason_buttons[flag] = made
        self.counts.setText(
            "Flagged cells, and why (a cell can carry several flags). A number selects them:"
            if counts
            else "No cell carries a flag."
        )

    def select_flagged(self, flag: str) -> None:
        """Select the cells with a flag; the field with the most of them is shown if the shown one has none."""
        obs = self.session.cells.obs
        kinds = [text for text in obs["flags"].unique() if flag in str(text).split(";")]
        mask = obs["flags"].isin(kinds).to_numpy()
        self.session.hide_flagged = False  # what is hidden cannot be selected
        self.session.select(mask, how=f"flagged: {flag.replace('_', ' ')}")
        found = obs["field"][mask].value_counts()  # most first
        field = self.dock.shown_field()
        if len(found) and not found.get(field, 0):
            field = str(found.index[0])
            self.dock.show_field(field)
        here = int(found.get(field, 0))
        words = f"{int(mask.sum()):,} cells selected, {here:,} of them in field {field}"
        self.dock.strip.say(f"{words}: {FLAGS.get(flag, flag.replace('_', ' '))}.")

    def _set_hidden(self, on: bool) -> None:
        self.session.hide_flagged = on

    # ---- rules ----

    def _judge_soon(self) -> None:
        self._soon.start()

    def _judge(self) -> None:
        """Draw the limits as the rules in the form set them, and say what they would do."""
        cells = self._shown
        if cells is None or not self.more.button.isChecked() or "q_focus" not in cells.obs:
            self._show_primary()
            return
        obs = cells.obs
        try:
            rules = make_config(QualityRules, self.form.value())
        except InputError as error:
            self.judged.setText(f"⚠ {error}")
            return
        limits = flag_limits(obs, rules)
        window = self._rules.get("window_px", rules.window_px)
        least, most = limits["q_area_share"]
        shown = {**limits, "area_px": (max(limits["area_px"][0], least * window**2), most * window**2)}
        for column, chart in self.charts.items():
            if column not in obs or column not in shown:  # a table made before fields were judged
                chart.setVisible(False)
                continue
            values = obs[column].to_numpy(float)
            some = np.isfinite(values).any() and ("saturated" not in column or values.max() > 0)
            chart.setVisible(bool(some))
            chart.set_values(values)
            low, high = shown[column]
            # An upper bound far beyond every cell would squeeze the rest.
            beyond = high > 3 * np.nanmax(values, initial=0, where=np.isfinite(values))
            chart.set_limits(low if np.isfinite(low) else None, None if beyond else high)
        flagged = int(np.any(list(flag_masks(obs, rules).values()), axis=0).sum())
        now = len(obs) - int(obs["good"].sum())
        words = f"With these rules {len(obs) - flagged:,} cells are good and {flagged:,} flagged"
        words += f" (now {now:,})." if self._changed() else "."
        if rules.window_px != window:
            words += " Another window is measured first, so this is only about right."
        self.judged.setText(words)
        self._show_primary()

    def _changed(self) -> bool:
        return bool(self._rules) and self.form.value() != {**self.form.value(), **self._rules}

    def apply_rules(self) -> None:
        """Decide the flags anew."""
        self.dock.submit("crop.crop", "Flagging cells", rules=self.form.value())

    # ---- edits ----

    def _on_paint(self, _: Any = None) -> None:
        QTimer.singleShot(0, self._show_primary)  # once the canvas has noticed, too

    def _show_primary(self) -> None:
        """What is to be saved or decided is bold; nothing while there is neither."""
        canvas = self.dock.canvas
        edited, changed = canvas.edited, self._changed() or bool(self.dock.stale.cells)
        self._say_state(edited)
        part, slide = canvas.editing.part, canvas.slide
        self.in_view.setVisible(slide is not None and part is None)
        self.cancel.setVisible(part is not None)
        if slide is not None and part is None:
            why = canvas.editing.why_not()
            self.in_view.setEnabled(not why)
            self.in_view.setToolTip(why or EDIT[1])
        self.edits.setVisible(slide is None or part is not None)
        self.edits.setEnabled(edited)
        self.edits.setToolTip(
            "Cells you painted, merged or split in the labels layer"
            if edited
            else NOTHING_EDITED.replace("cells”", f"{LAYER}”")
            if part is not None
            else NOTHING_EDITED
        )
        for made, primary in ((self.edits, edited), (self.apply, changed and not edited)):
            font = made.font()
            font.setBold(primary)
            made.setFont(font)

    def edit_in_view(self) -> None:
        """Put the cells of the slide that are in view on the canvas to be painted."""
        self.dock.canvas.editing.begin()

    def cancel_edits(self) -> None:
        """Forget what was painted in the part of a slide."""
        canvas = self.dock.canvas
        canvas.editing.drop()
        canvas.show(canvas.field)  # what came meanwhile
        self.dock.strip.say("The edits were cancelled; the slide's cells are as they were.")

    def _say_state(self, edited: bool) -> None:
        cells, stale = self.session.cells, self.dock.stale
        if cells is None or not self.session.n_cells:
            return
        good = int(cells.obs["good"].sum()) if "good" in cells.obs else self.session.n_cells
        words, mark, hint = f"{good:,} good · {self.session.n_cells - good:,} flagged", "done", ""
        if self.running("segment", "crop"):
            mark = "running"
        elif edited:
            mark = "needs"
            hint = "⚠ What you painted is not saved: <b>Save label edits</b> keeps it and measures these cells again."
        elif stale.fields:
            mark = "stale"
            hint = "↻ The outlines are of before the images or their light were changed: segment again first (card 2)."
        elif stale.cells:
            mark = "stale"
            hint = (
                "↻ The cells were measured and flagged before the light was changed: <b>Flag again by these rules</b> "
                "(under Rules) measures them anew."
            )
        self.set_status(words, mark)
        self.hint.setText(hint)
        self.hint.setVisible(bool(hint))

    def save_edits(self) -> None:
        """Write the labels as they are in the viewer; their cells become out of date and are measured again."""
        self.dock.save_label_edits()


def flag_counts(obs: Any) -> Counter[str]:
    """How many cells carry each flag."""
    counts: Counter[str] = Counter()
    for flags, n in obs["flags"].value_counts().items():
        for flag in filter(None, str(flags).split(";")) if n else ():  # a category nobody has counts 0
            counts[flag] += int(n)
    return counts
