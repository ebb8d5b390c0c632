"""Card 5: from numbers to a map, and to answers."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.gui._forms import Form
from napari_cellrep.gui.cards._export import ExportDialog
from napari_cellrep.gui.cards._parts import Card, More, button, combo, refill, text
from napari_cellrep.specs import join_words, p_words

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock

# The groups that analyses compare: name → (label, tooltip). Chosen once, kept in the project.
GROUPS = {
    "a": ("A", "Reference A: cells known to look one way, such as untreated wells. Kept for all analyses."),
    "b": ("B", "Reference B: cells known to look the other way, such as the full dose. Kept for all analyses."),
    "control": ("Control", "Cells that are normal, such as DMSO wells. Kept for all analyses."),
}  # fmt: skip
SHOWN_GROUPS = 5
SHOWN_ROWS = 8


class ExploreCard(Card):
    """From numbers to a map and to answers: make it, look at it, ask, and take the results elsewhere."""

    def __init__(self, dock: CellRepDock):
        super().__init__(dock, 5, "Explore")
        self.hint = text()
        self.embedding = combo("Which numbers the map is made of")
        self.embedding.activated.connect(self._set_embedding)
        self.make = button("Make the map", self.make_map, "Similar cells lie near each other", primary=True)
        self.show_ = button("Show the map", self.dock.open_explore)

        self.question = combo("What to ask of the cells")
        self.question.currentIndexChanged.connect(lambda _: self._show_question())
        self.about = text()
        self.groups: dict[str, QComboBox] = {}
        self._group_rows: dict[str, QWidget] = {}
        for name, (label, tip) in GROUPS.items():
            box = combo(tip)
            box.activated.connect(lambda _, name=name: self._set_group(name))
            row = QWidget()
            form = QFormLayout(row)
            form.setContentsMargins(0, 0, 0, 0)
            words = QLabel(label)
            words.setMinimumWidth(50)
            words.setToolTip(tip)
            form.addRow(words, box)
            self.groups[name], self._group_rows[name] = box, row
        self.form: Form | None = None
        settings = QWidget()
        self._form_place = QVBoxLayout(settings)
        self._form_place.setContentsMargins(0, 0, 0, 0)
        self.more = More("Settings", settings)
        self.answer = button("Answer", self.ask)
        self.result = text()
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.result.setTextFormat(Qt.TextFormat.RichText)
        self.show_column = button(
            "Show on the map", self._show_column, "Colours the map and the table by this result"
        )
        asking = QWidget()
        inside = QVBoxLayout(asking)
        inside.setContentsMargins(0, 8, 0, 0)
        for item in (
            QLabel("Ask"), self.question, self.about, *self._group_rows.values(), self.more, self.answer, self.result,
            self.show_column,
        ):  # fmt: skip
            inside.addWidget(item)
        self.asking = asking
        self.export = button(
            "Export…", self.choose_export, "A report, tables for other programs, or a file for scanpy"
        )
        for item in (self.hint, self.embedding, self.make, self.show_, self.asking, self.export):
            self.layout_.addWidget(item)
        self.export_folder = Path.home()  # where the last export went
        self._recipes: dict[str, Any] = {}
        self._asking_recipes = False
        self._column = ""
        self._answered: tuple[str, str] = ("", "")  # project, embedding
        self._shown_form: Any = None
        self._of_cells: Any = None  # the table whose columns these are
        self._choices: list[str] = []
        self._columns: list[str] = []

    # ---- what there is ----

    def refresh(self) -> None:
        """Show the project as it is now."""
        names = self.session.embeddings
        for item in (self.embedding, self.make, self.show_, self.asking, self.export):
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
        if not self._recipes and not self._asking_recipes:
            self._asking_recipes = True
            self.dock.runner.ask("analyze.describe_recipes", None, self.set_recipes, self._no_recipes)
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
        elif has_map and (why := self._stale()):
            self.set_status(f"map of {n:,} cells", "stale")
            self.hint.setText(why)
            self.hint.show()
        else:
            self.set_status(
                f"map of {n:,} cells" if has_map else "no map yet", "done" if has_map else "ready"
            )
        if self._answered != (str(self.project.root), self.session.embedding):
            self._forget_answer()
        self._fill_groups()
        self._show_question()

    def _stale(self) -> str:
        """Why the map or an answer is out of date, and what to do; "" while none is."""
        stale, key = self.dock.stale, self.session.embedding
        if stale.fields:
            return (
                "↻ Outlines are out of date, and so is what was made of them: segment again first (card 2)."
            )
        if stale.cells:
            return "↻ The flags are out of date, and with them which cells count: flag again first (card 3)."
        if key in stale.vectors or stale.lacking.get(key):
            return "↻ The embedding is out of date: embed again first (card 4), then make the map again."
        recipes = dict.fromkeys(name.split("_")[0] for name in stale.results.get(key, ()))
        asked = [f"“{self._recipes[r]['question']}”" for r in recipes if r != "map" and r in self._recipes]
        words = "The cells that count, their vectors or their columns are others than "
        if "map" in recipes:
            also = f" Ask again, too: {join_words(asked, 3)}" if asked else ""
            return f"↻ {words}when the map was made: <b>{self.make.text()}</b>.{also}"
        return f"↻ {words}when this was answered; ask again: {join_words(asked, 4)}" if asked else ""

    def set_recipes(self, found: Mapping[str, Any]) -> None:
        """Fill the list from `analyze.describe_recipes`."""
        self._asking_recipes, self._recipes = False, dict(found)
        refill(self.question, [(about["question"], name) for name, about in found.items()], keep="score")
        for i in range(self.question.count()):
            self.question.setItemData(i, self.question.itemText(i), Qt.ItemDataRole.ToolTipRole)
        self._show_question()

    def _no_recipes(self, sentence: str) -> None:
        self._asking_recipes = False
        self.about.setText(f"⚠ {sentence}")

    def _fill_groups(self) -> None:
        """Each group as chosen in the project, else what the plate table calls a control."""
        if (
            self._of_cells is not self.session.cells
        ):  # one look at a table, however often the card is refreshed
            self._of_cells, obs = self.session.cells, self.session.cells.obs
            self._choices, self._columns = reference_choices(obs), group_columns(obs)
        found = self._choices
        chosen = self.project.comparison
        usual = {"a": "control=-1", "b": "control=1", "control": "control=-1"}
        for name, box in self.groups.items():
            keep = chosen[name] or (usual[name] if usual[name] in found else "")
            gone = [keep] if keep and keep not in found else []
            none = [] if usual[name] in found else [("not chosen", "")]
            refill(box, [*none, *((words, words) for words in [*gone, *found])], keep=keep)

    def _set_group(self, name: str) -> None:
        with self.dock.told():
            self.project.set_comparison(**{name: self.groups[name].currentData()})
        self.refresh()

    # ---- the question ----

    def _show_question(self) -> None:
        recipe = self.question.currentData()
        about = self._recipes.get(recipe)
        self.answer.setVisible(about is not None)
        self.more.setVisible(about is not None and bool(about["options"]))
        for name, row in self._group_rows.items():
            row.setVisible(about is not None and name in about["groups"])
        if about is None:
            return
        self.about.setText(about["doc"])
        self.answer.setText(about["button"])
        lacking = [GROUPS[g][0] for g in about["groups"] if not self.groups[g].currentData()]
        self.answer.setEnabled(not lacking)
        self.answer.setToolTip(f"Choose {' and '.join(lacking)} first" if lacking else about["doc"])
        columns = self._columns
        key = (recipe, tuple(columns))
        if key == self._shown_form:
            return
        before = (
            self.form.value() if self.form is not None and (self._shown_form or ("",))[0] == recipe else {}
        )
        self._shown_form = key
        if self.form is not None:
            self.form.hide()
            self.form.deleteLater()
        rules = {name: _with_columns(rule, columns) for name, rule in about["options"].items()}
        self.form = Form(rules)
        self.form.set_value({n: v for n, v in before.items() if v in rules[n].get("choices", [v])})
        self._form_place.addWidget(self.form)

    def ask(self) -> None:
        """Run the chosen recipe on the chosen embedding."""
        recipe = self.question.currentData()
        about = self._recipes[recipe]
        groups = {name: self.groups[name].currentData() for name in about["groups"]}
        with self.dock.told():
            if any(self.project.comparison[name] != value for name, value in groups.items()):
                self.project.set_comparison(**groups)  # what was only proposed is chosen now
        self.dock.submit(
            "analyze.analyze", about["question"].removesuffix("?"), then=functools.partial(self._show_answer, recipe),
            recipe=recipe, embedding=self.embedding.currentData(), **groups, **(self.form.value() if self.form else {}),
        )  # fmt: skip

    def _show_answer(self, recipe: str, result: Mapping[str, Any]) -> None:
        self.session.embedding = result["embedding"]
        self._answered = (str(self.project.root), self.session.embedding)
        lines = [
            result["summary"].removeprefix("Up to date, nothing to do. ")
        ]  # here it is the answer that counts
        if isinstance(result.get("table"), pd.DataFrame) and recipe == "variability":
            lines.append(top_groups(result["table"]))
        elif isinstance(result.get("table"), pd.DataFrame) and recipe != "similar":  # its summary lists them
            lines.append(first_rows(result["table"]))
        self.result.setText("".join(f"<p>{line}</p>" for line in lines))
        self.result.show()
        written = [key.removeprefix("obs/") for key in result["written"] if key.startswith("obs/")]
        self._column = next((c for c in written if c in self.session.colour_choices), "")
        can = bool(self._column) and self.session.map_coordinates() is not None
        if can:
            self.session.colour_by = self._column
        self.show_column.setVisible(bool(self._column) or recipe == "map")
        self.show_column.setEnabled(can or recipe == "map")
        self.show_column.setToolTip(
            "Colours the map and the table by this result" if can else "Make the map first"
        )
        self.dock.strip.say(f"✓ {result['summary']}")
        QTimer.singleShot(50, self._scroll_to_answer)  # once it has its place

    def _scroll_to_answer(self) -> None:
        scroll = self.dock.findChild(QScrollArea)
        last = self.show_column if self.show_column.isVisible() else self.result
        if scroll is not None and last.isVisible():
            scroll.ensureWidgetVisible(last)

    def _forget_answer(self) -> None:
        self._column = ""
        self.result.hide()
        self.show_column.hide()

    def _show_column(self) -> None:
        if self._column:
            self.session.colour_by = self._column
        self.dock.open_explore()

    # ---- the map ----

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

    # ---- leaving ----

    def choose_export(self) -> None:
        """Ask what to write and where, and have it written."""
        dialog = ExportDialog(self)
        dialog.accepted.connect(lambda: self._export(dialog.value()))
        dialog.open()

    def _export(self, values: dict[str, Any]) -> None:
        step = values.pop("step")
        out = Path(values.get("out") or values["out_html"]).expanduser()
        self.export_folder, name = out.parent, out.name
        self.dock.submit(step, f"Writing {name}", then=self._exported, reload=False, **values)

    def _exported(self, path: Any) -> None:
        self.dock.strip.say(f"✓ Written: {path}")


def _with_columns(rule: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    """An option's rule; one that names a column gets those there are."""
    if not rule.get("column"):
        return dict(rule)
    choices = [*rule.get("also", []), *columns]
    return {**rule, "choices": list(dict.fromkeys([rule["default"], *choices]))}


def first_rows(table: pd.DataFrame) -> str:
    """The first rows of a table of results, as HTML."""
    shown = table.head(SHOWN_ROWS)
    if isinstance(shown.index, pd.RangeIndex):
        shown = shown.set_index(shown.columns[0])
    head = "".join(f"<th align='right'>&nbsp;{column_title(c)}</th>" for c in shown.columns)
    rows = ""
    for name, values in zip(shown.index, shown.to_numpy(object), strict=True):
        cells = "".join(f"<td align='right'>&nbsp;{_in_words(v)}</td>" for v in values)
        rows += f"<tr><td>{html.escape(str(name))}</td>{cells}</tr>"
    more = (
        f"<p>… {len(table) - len(shown):,} more rows in the table of groups.</p>"
        if len(table) > len(shown)
        else ""
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>{more}"


def column_title(column: Any) -> str:
    """A column's name as people read it."""
    return html.escape(str(column).replace("_", " ").replace("p fdr", "p (FDR)"))


def _in_words(value: Any) -> str:
    if isinstance(value, str):
        return html.escape(value if len(value) <= 24 else f"{value[:23]}…")
    if value is None or pd.isna(value):
        return "–"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) >= 1 else f"{float(value):.3g}"


def top_groups(table: pd.DataFrame) -> str:
    """The most variable groups in a line: "A07 (SD of the score 1.32), …"."""
    by_score = "score_sd" in table
    measure, words = (
        ("score_sd", "SD of the score") if by_score else ("heterogeneity", "spread of the numbers")
    )
    ranked = table[table[f"rank_{measure}"].notna()].head(SHOWN_GROUPS)
    if not len(ranked):
        return "No group has enough cells to be judged."
    sure = ranked.get(f"{measure}_p_fdr", pd.Series(np.nan, ranked.index))  # rankings of old have none
    listed = ", ".join(
        f"<b>{name}</b> {value:.3g}" + (f" ({p_words(p)}, FDR)" if np.isfinite(p) else "")
        for name, value, p in zip(ranked.index, ranked[measure], sure.astype(float), strict=True)
    )
    return f"Most variable ({words}): {listed}."


def _columns(obs: pd.DataFrame, most: int) -> dict[str, np.ndarray]:
    """Column → its values, of the columns with few values that the lab brought."""
    skip = {"field", "flags", "good", "label", "plate"}
    found = {}
    for column in obs.columns:
        if column in skip or column.startswith(("q_", "has_", "box_", "score_", "outlier_", "unlike_")):
            continue
        values = obs[column].dropna().unique()
        if 2 <= len(values) <= most:
            found[column] = values
    return found


def group_columns(obs: pd.DataFrame, most: int = 1000) -> list[str]:
    """Columns that can make groups."""
    return [c for c in _columns(obs, most) if c not in ("group", "label", "area_px", "mask_hash")]


def reference_choices(obs: Any, most: int = 40) -> list[str]:
    """``column=value`` of every column with few values: what can be a reference group."""
    found = [
        f"{column}={value}"
        for column, values in _columns(obs, most).items()
        for value in sorted(values, key=str)
    ]
    return sorted(found, key=lambda words: not words.startswith("control="))
