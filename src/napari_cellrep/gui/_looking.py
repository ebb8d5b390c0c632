"""Overlays at a cell's place: where its network looks, what it needs, how it redraws the cell, what it predicts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap, DirectLabelColormap, ensure_colormap
from napari.utils.notifications import show_info, show_warning
from psygnal import Signal
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

OURS = "cellrep"
KINDS = ("inpainting", "look")  # overlays that are hidden and removed together
MOST_CELLS = 50  # of a selection that are looked into; more are sampled
MOST_IN_FIGURE = 12  # of an answer's cells
MOST_SOURCES = 1000  # whose patterns are predicted in one cell, where the user wants more

# Signed error: blue where the prediction is too dark, orange where it is too bright, white where it is right.
ERROR_MAP = Colormap(
    [[0.02, 0.19, 0.58], [0.4, 0.66, 0.81], [1, 1, 1], [0.99, 0.68, 0.38], [0.7, 0.28, 0.0]],
    name="cellrep error",
)
# Evidence: blue speaks against the class, orange for it; black, which lets the cell through, says nothing.
EVIDENCE_MAP = Colormap(
    [[0.35, 0.7, 1.0], [0.0, 0.25, 0.7], [0, 0, 0], [0.75, 0.3, 0.0], [1.0, 0.75, 0.3]],
    name="cellrep evidence",
)
_LIGHT = {"colormap": "inferno", "blending": "additive", "opacity": 0.75}  # the cell is seen through it
_SHEET = {"colormap": "gray", "blending": "translucent_no_depth"}
LOOKS: dict[str, dict[str, Any]] = {
    "mean": _LIGHT,
    "head": _LIGHT,
    "occlusion": {**_LIGHT, "colormap": "magma"},
    "evidence": {**_LIGHT, "colormap": EVIDENCE_MAP},
    "similar": _LIGHT,
    "spread": {**_SHEET, "colormap": "magma"},
    "tokens": {**_SHEET, "opacity": 0.6},
    "error": {**_SHEET, "colormap": ERROR_MAP},
}

MASK_COLOURS = {None: "#56b4e9", 0: "transparent"}  # whatever is painted hides a patch

HIDEABLE = ("mean", "head", "occlusion", "similar")  # of which the lowest values can be hidden

QUESTIONS = {
    "attention": (
        "What did the network look at?",
        "Attention: which parts of the crop the network's summary (its class token) was drawn from, for each of its heads "
        "and on average. It can mislead: a network can look at a part and not use it. Compare “What does the network "
        "need?”.",
    ),
    "occlusion": (
        "What does the network need?",
        "Hides one small square after the other, then each channel, and shows how far the cell's numbers move. Slower "
        "than attention, but it works for every network, and shows what is used.",
    ),
    "classes": (
        "Which class is it, and why?",
        "How probable each class is that the network was taught (DeepLoc), and which squares speak for the most probable "
        "one (orange) or against it (blue): each is hidden in turn. The tab “Look inside” has the bars.",
    ),
    "tokens": (
        "Which parts look alike to the network?",
        "Patch tokens: the numbers a vision transformer has for every small square. Their three main directions are shown "
        "as red, green and blue, the same in all cells that are asked about at once: alike in colour is alike to the network.",
    ),
    "reconstruction": (
        "How does the network redraw it?",
        "What the network makes of the cell when it has to draw it itself, beside what it got, and the error.",
    ),
}
STRUCTURE = (
    "Find this structure in the cells in view",
    "The patch under the pointer is compared with every patch of the cells in view (the nearest ones, if there are many): "
    "bright is alike (cosine of the patches' numbers).",
)
PATTERNS = (
    "What would their patterns look like in this cell?",
    "Paired Cell Inpainting predicts this cell's protein from each of the selected cells, of any field: the mean of the "
    "predictions, its error, where they disagree, and each by itself.",
)
EVERY_SOURCE = (
    "What would the patterns of the other cells of {} look like in it?",
    "Paired Cell Inpainting predicts this cell's protein from every other cell of its group: the mean of the predictions, "
    "its error, where they disagree, and each by itself.",
)
APART = (
    "What tells two sets apart in it?",
    "Looks for what differs between the patches of the two sets' cells (DINO), and shows where in this cell it speaks for the "
    "one (orange) or the other (blue). Tested on cells not learned from.",
)
MOST_PAIRS = 6  # of sets in the menu
GRID = (
    "Each in each: a figure of predictions…",
    "Predicts every selected cell from every other (Paired Cell Inpainting) and saves all as one figure.",
)
MOST_IN_GRID = 8  # selected cells
NEAR = 50  # cells in which a structure is looked for
_ROOMS = {
    "tokens": "tokens",
    "structure": "tokens",
    "apart": "tokens",
    "patterns": "inpaint",
}  # the module of steps, else "look"
WAIT = "Looking up what the network of this embedding can do; it takes a moment."


def add_overlays(
    canvas: Any, field: Any, shown: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], **note: Any
) -> list[Layer]:
    """Put pictures on the canvas at their place in a field.

    Parameters
    ----------
    shown : sequence of (plane, looks)
        A plane is a dict like `steps.look.Plane`; looks are what napari's image layer takes: colormap, visible, …
    **note
        What the layers remember in ``metadata["cellrep"]``, beside part, field, root and whether they are wanted.
    """
    viewer, layers = canvas.viewer, []
    active = viewer.layers.selection.active
    for plane, looks in shown:
        place = _place_of(plane, canvas, field)
        own = {
            **note, "part": plane["part"], "field": field.id, "root": str(canvas.session.project.root),
            "visible": looks.get("visible", True), "here": True,
        }  # fmt: skip
        data = np.asarray(plane["data"])
        looks = dict(looks) if data.ndim == 2 else {k: v for k, v in looks.items() if k != "colormap"}
        layer = Image(
            data, name=plane["name"], contrast_limits=plane["limits"], metadata={OURS: own}, rgb=data.ndim == 3,
            **place, **looks,
        )  # fmt: skip
        layer.events.visible.connect(_remember_visible)
        layers.append(viewer.add_layer(layer))
    viewer.layers.selection.active = active
    return layers


def show_overlays_of(canvas: Any, field_id: str) -> None:
    """Show the overlays of a field as the user left them, and hide those of others."""
    canvas.looking.move_to(field_id)
    for la in overlays(canvas):
        note = la.metadata[OURS]
        note["here"] = False  # hidden because of the field, not by the user
        la.visible = note["field"] == field_id and note["visible"]
        note["here"] = note["field"] == field_id


def overlays(canvas: Any) -> list[Layer]:
    """All overlays of all fields."""
    return [la for kind in KINDS for la in canvas.layers(kind)]


def _remember_visible(event: Any) -> None:
    """Keep whether the user wants an overlay while its field is shown."""
    layer = event.source
    note = layer.metadata[OURS]
    if note["here"]:
        note["visible"] = layer.visible


def merge(planes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One picture of several cells' in a field, to the field's pixel; a pixel is of the cell whose picture's middle is nearest.

    Parameters
    ----------
    planes : sequence of dict
        Like `steps.look.Plane`, all of one part. A single one stays as it is.

    Returns
    -------
    dict
        Of the same kind; NaN (in colours: transparent) where no cell has a picture.
    """
    lows, highs = zip(*(plane["limits"] for plane in planes), strict=True)
    whole = {**planes[0], "limits": (min(lows), max(highs))}
    if len(planes) == 1:
        return whole
    boxes = []  # field pixels whose middle lies in the picture
    for plane in planes:
        size = np.array(np.shape(plane["data"])[:2]) * plane["scale"]
        start = np.array([plane["y0"], plane["x0"]]) - 0.5
        boxes.append((np.ceil(start - 1e-6).astype(int), np.ceil(start + size - 1e-6).astype(int)))
    y0, x0 = np.min([a for a, _ in boxes], axis=0)
    y1, x1 = np.max([b for _, b in boxes], axis=0)
    rest = (4,) if np.ndim(planes[0]["data"]) == 3 else ()  # colours get an opacity
    out = np.full((y1 - y0, x1 - x0, *rest), 0 if rest else np.nan, np.float32)
    nearest = np.full(out.shape[:2], np.inf)
    for plane, (a, b) in zip(planes, boxes, strict=True):
        data, s = np.asarray(plane["data"]), plane["scale"]
        data = np.dstack([data, np.ones(data.shape[:2], np.float32)]) if rest else data
        ys, xs = (
            np.clip((np.arange(a[i], b[i]) - plane[k] + 0.5) / s + 1e-9, 0, data.shape[i] - 1).astype(int)
            for i, k in enumerate(("y0", "x0"))
        )
        middle = (a + b - 1) / 2
        far = (np.arange(a[0], b[0]) - middle[0])[:, None] ** 2 + (np.arange(a[1], b[1]) - middle[1]) ** 2
        at = (slice(a[0] - y0, b[0] - y0), slice(a[1] - x0, b[1] - x0))
        mine = far < nearest[at]
        nearest[at] = np.where(mine, far, nearest[at])
        out[at][mine] = data[ys[:, None], xs][mine]
    return {**whole, "data": out, "y0": float(y0), "x0": float(x0), "scale": 1.0}


def hide_lowest(layer: Layer, percent: float) -> None:
    """Let the image be seen where a layer's values are among the lowest; 0 shows all. The data stay as they are."""
    note = layer.metadata[OURS]
    if note["part"] not in HIDEABLE:
        return
    note["lowest"] = percent
    whole = ensure_colormap(LOOKS[note["part"]]["colormap"])
    if not percent:
        layer.colormap = whole
        return
    low, high = layer.contrast_limits
    cut = (float(np.nanpercentile(layer.data, percent)) - low) / max(high - low, 1e-30)
    colours = whole.map(np.linspace(0, 1, 256))
    colours[: int(np.clip(256 * cut, 0, 255)) + 1] = 0  # with what equals it
    layer.colormap = Colormap(colours, name=f"{whole.name}, the lowest hidden")


class Answer:
    """What came of asking about some cells, and its layer, which shows one picture after the other and follows the field.

    Attributes
    ----------
    looks : list of dict
        Like `steps.look.Look`, one per cell.
    layers : dict of int to Layer
        Which picture of the looks is in which layer: one, until the user wants each in a layer of its own.
    apart : bool
        Whether the user does.
    how : dict
        Settings of the step that it was asked with.
    hidden : ndarray of shape (C, h, w), bool, or None
        Of one cell's reconstruction: the patches that were hidden, as the user last painted them; C is 1 where all channels
        share them.
    mask : Labels or None
        The layer in which the user paints those of the channel that is shown.
    """

    def __init__(
        self, looks: Sequence[Mapping[str, Any]], sampled: str = "", how: Mapping[str, Any] | None = None
    ) -> None:
        self.sampled, self.how = sampled, dict(how or {})
        self.take(looks)
        first = looks[0]
        self.what, self.embedding, self.title = first["what"], first["embedding"], first["title"]
        self.cells = [look["cell_id"] for look in looks]
        self.fields = list(dict.fromkeys(look["field"] for look in looks))
        self.layers: dict[int, Layer] = {}
        self.mask: Labels | None = None
        self.apart = False
        self.asked = 0  # how often it was computed anew

    def take(self, looks: Sequence[Mapping[str, Any]]) -> None:
        """Hold looks of the same kind at the same cells, instead of those from before."""
        self.looks = list(looks)
        plane = looks[0].get("mask") if len(looks) == 1 else None
        self.hidden = None if plane is None else np.asarray(plane["data"]) > 0

    @property
    def every_layer(self) -> list[Layer]:
        """Its layers on the canvas, the mask's too."""
        return [*self.layers.values(), *([] if self.mask is None else [self.mask])]

    def channel_of(self, i: int) -> int:
        """Which channel a picture of a reconstruction shows."""
        return i // (len(self.looks[0]["planes"]) // len(self.hidden))

    def read_mask(self) -> None:
        """Take over what the user has painted."""
        if self.mask is not None:
            self.hidden[self.mask.metadata[OURS]["channel"]] = np.asarray(self.mask.data) > 0

    @property
    def names(self) -> list[str]:
        """What its pictures are called."""
        every = zip(*([plane["name"] for plane in look["planes"]] for look in self.looks), strict=True)
        parts = [plane["part"] for plane in self.looks[0]["planes"]]
        return [names[0] if len(set(names)) == 1 else part for names, part in zip(every, parts, strict=True)]

    @property
    def whose(self) -> str:
        """The cell's id, or how many cells there are."""
        return self.cells[0] if len(self.cells) == 1 else f"{len(self.cells)} cells"

    def plane(self, i: int, field_id: str) -> dict[str, Any]:
        """A picture of all cells of a field."""
        untrained = "" if self.looks[0]["trained"] else " (untrained model)"
        whole = merge([look["planes"][i] for look in self.looks if look["field"] == field_id])
        return {**whole, "name": f"{self.names[i]}, {self.whose}{untrained}"}

    def words(self) -> str:
        """What is to be said about it, in a few sentences."""
        said = [self.sampled] if self.sampled else []
        if len(self.looks) == 1:
            return " ".join([*said, *self.looks[0]["words"]])
        if len(self.fields) > 1:
            said.append(f"They lie in {len(self.fields)} fields; open one to see its cells.")
        numbers = [look["numbers"] for look in self.looks]
        if self.what == "occlusion":
            mean = {n: np.mean([d["channels"][n] for d in numbers]) for n in numbers[0]["channels"]}
            said += [
                f"Without {n} a cell moves {v:.2f} times its usual distance, on average."
                for n, v in mean.items()
            ]
        elif self.what == "classes":
            found = [d["class"] for d in numbers]
            counts = {c: found.count(c) for c in sorted(set(found), key=lambda c: (-found.count(c), c))}
            said.append(
                ", ".join(f"{n} of them are most like {c}" for c, n in list(counts.items())[:3]) + "."
            )
        elif self.what in ("tokens", "structure"):
            said += self.looks[0]["words"][:1]
        elif self.what == "reconstruction":
            for n in numbers[0]["channels"]:
                mse = np.mean([d["channels"][n]["mse"] for d in numbers])
                said.append(f"{n}: mean squared error {mse:.3g}, on average.")
        return " ".join(
            [*said, *(w for w in self.looks[0]["words"] if "mislead" in w or "learned nothing" in w)]
        )


def confirm(title: str, words: str) -> bool:
    """Ask before something large is begun."""
    yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
    return QMessageBox.question(QApplication.activeWindow(), title, words, yes | no) == yes


def how_many(title: str, words: str, numbers: Sequence[tuple[int, str]]) -> int:
    """Let the user say how many cells; 0 for none.

    Parameters
    ----------
    numbers : sequence of (int, str)
        The numbers to choose from, each with what its button says; the first is the usual one.
    """
    box = QMessageBox(QMessageBox.Icon.Question, title, words, parent=QApplication.activeWindow())
    box.addButton(QMessageBox.StandardButton.Cancel)
    buttons = {box.addButton(said, QMessageBox.ButtonRole.AcceptRole): n for n, said in numbers}
    box.setDefaultButton(next(iter(buttons)))
    box.exec()
    return next((n for button, n in buttons.items() if button is box.clickedButton()), 0)


class Looking:
    """Asks the worker what the network of the session's embedding makes of cells, and shows it there.

    Parameters
    ----------
    canvas : Canvas

    Attributes
    ----------
    answers : list of Answer
        Those with layers on the canvas, the newest last.
    """

    changed = Signal()  # an answer came or went

    def __init__(self, canvas: Any) -> None:
        self.canvas = canvas
        self.answers: list[Answer] = []
        self._hidden: list[Layer] = []  # by one click, to be shown again by the next
        self._why: tuple[tuple[str, str], dict[str, str]] | None = None  # (project, embedding), why not

    # ---- the menu of a cell ----------------------------------------------------------------------

    def fill(self, menu: Any, cell: str, spot: tuple[float, float] | None = None) -> None:
        """Add what can be asked about a cell, and about the selection; what the network cannot do is grey and says why.

        Parameters
        ----------
        spot : tuple of float, optional
            Field pixel (y, x) that was clicked, in the image.
        """
        session = self.canvas.session
        menu.setToolTipsVisible(True)
        actions = {
            what: [menu.addAction(text, partial(self.ask, what, [cell]))]
            for what, (text, _) in QUESTIONS.items()
        }
        if spot is not None:
            actions["structure"] = [menu.addAction(STRUCTURE[0], partial(self.find_structure, cell, spot))]
        pairs = list(itertools.combinations(session.sets, 2))[:MOST_PAIRS]
        if pairs:
            told = menu.addMenu(APART[0])
            told.setToolTipsVisible(True)
            actions["apart"] = [
                told.addAction(f"{a} or {b}", partial(self.ask_apart, cell, a, b)) for a, b in pairs
            ]
        group = str(session.value(session.row_of_id(cell), "group"))
        every = menu.addAction(EVERY_SOURCE[0].format(group), partial(self.ask_group_patterns, cell))
        predicting = [(every, EVERY_SOURCE[1])]
        rows = np.flatnonzero(session.selected & session.visible)
        if len(rows) > 1:
            more = menu.addMenu(f"Look inside the {len(rows):,} selected cells")
            more.setToolTipsVisible(True)
            for what, (text, _) in QUESTIONS.items():
                actions[what].append(more.addAction(text, partial(self.ask_selected, what)))
            for (text, tip), chosen in (
                (PATTERNS, partial(self.ask_patterns, rows, cell, "selected cells")), (GRID, self.save_grid),
            ):  # fmt: skip
                predicting.append((more.addAction(text, chosen), tip))
        for action, tip in predicting:
            action.setToolTip(tip)
        said = self._no_network()
        if said:
            self._tell(actions, dict.fromkeys(actions, said))
            return
        from napari_cellrep.gui._runner import runner_of

        key = (str(session.project.root), session.embedding)
        known = self._why[1] if self._why is not None and self._why[0] == key else None
        self._tell(actions, known or dict.fromkeys(actions, WAIT))

        def answered(answer: Any) -> None:
            self._why = key, answer if isinstance(answer, dict) else dict.fromkeys(actions, str(answer))
            with contextlib.suppress(RuntimeError):  # the menu was closed
                self._tell(actions, self._why[1])
                for action, tip in predicting:
                    action.setEnabled(not self._why[1].get("patterns"))
                    action.setToolTip(self._why[1].get("patterns") or tip)

        # Asked anew each time: weights come and go. The network is then loaded when the entry is chosen.
        runner_of(self.canvas.viewer).ask("look.reasons", key[0], answered, answered, embedding=key[1])

    def fill_overlays(self, menu: Any) -> None:
        """Add how to hide or remove all overlays, if there are any in this field."""
        here = [la for la in overlays(self.canvas) if la.metadata[OURS]["field"] == self.canvas.field]
        if not here:
            return
        seen = any(la.visible for la in here)
        words = "Hide" if seen else "Show"
        menu.addAction(f"{words} predictions and looks into cells", partial(self.show, not seen))
        menu.addAction(f"Remove predictions and looks into cells ({len(here)} layers)", self.remove)
        if self.answers:
            menu.addAction("Choose what of it is shown…", self.open_panel)

    def open_panel(self) -> None:
        """Open the tab “Look inside” of the Explore dock."""
        explore = self.canvas.viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")[1]
        explore.view("Look inside")

    def _no_network(self) -> str:
        """Why the worker need not be asked, "" if it has to be."""
        session = self.canvas.session
        if not session.embedding:
            return "Embed the cells first (card 4): then there is a network to be asked."
        if "crop" not in session.project.embedding_info(session.embedding):
            return f"{session.embedding.replace('_', ' ')} was not made by a network here; choose another embedding."
        return ""

    def _tell(self, actions: Mapping[str, Sequence[Any]], why: Mapping[str, str]) -> None:
        for what, entries in actions.items():
            for action in entries:
                action.setEnabled(not why.get(what))
                action.setToolTip(why.get(what) or {**QUESTIONS, "apart": APART}.get(what, STRUCTURE)[1])

    def show(self, on: bool) -> None:
        """Show what was hidden by the last click, or hide all overlays of this field."""
        here = [la for la in overlays(self.canvas) if la.metadata[OURS]["field"] == self.canvas.field]
        if not on:
            self._hidden = [la for la in here if la.visible]
        again = [la for la in here if la in self._hidden] or here[-1:]
        for la in again if on else here:
            la.visible = on

    def remove(self) -> None:
        """Remove the overlays of this field."""
        self._remove([la for la in overlays(self.canvas) if la.metadata[OURS]["field"] == self.canvas.field])

    def _remove(self, layers: Sequence[Layer]) -> None:
        for la in layers:
            if la in self.canvas.viewer.layers:
                self.canvas.viewer.layers.remove(la)

    def forget_layer(self, layer: Layer) -> None:
        """Let go of a layer that was removed, and with the last one of all that was computed for it."""
        self._hidden = [la for la in self._hidden if la is not layer]
        changed = False
        for answer in self.answers:
            answer.layers = {i: la for i, la in answer.layers.items() if la is not layer}
            if layer is answer.mask:
                answer.read_mask()
                answer.mask, changed = None, True
        gone = [a for a in self.answers if not a.layers]
        self.answers = [a for a in self.answers if a.layers]
        for answer in gone:
            self._remove(answer.every_layer)
        if gone or changed:
            self.changed.emit()

    # ---- asking and showing ----------------------------------------------------------------------

    def ask_selected(self, what: str, **how: Any) -> None:
        """Ask about the selected cells; of more than `MOST_CELLS` only about so many, if the user wants it."""
        session = self.canvas.session
        rows = np.flatnonzero(session.selected & session.visible)
        sampled, n = "", len(rows)
        if n > MOST_CELLS:
            words = (
                f"{n:,} cells are selected, and each is looked into by itself. Look into {MOST_CELLS} of them, drawn at "
                "random?"
            )
            if not confirm(QUESTIONS[what][0], words):
                return
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_CELLS, replace=False))
            sampled = f"{MOST_CELLS} of the {n:,} selected cells, drawn at random."
        self.ask(what, [session.cell_id(int(row)) for row in rows], sampled, **how)

    def ask_patterns(self, rows: np.ndarray, target: str, whose: str) -> None:
        """Predict the patterns of some cells in one; of more than `MOST_CELLS` the user says how many.

        Parameters
        ----------
        rows : ndarray of int
            The sources' rows in the cell table.
        target : str
            The one cell; it is no source.
        whose : str
            What the sources are, for people: "selected cells".
        """
        session = self.canvas.session
        rows = rows[rows != session.row_of_id(target)]
        n, sampled = len(rows), ""
        if n > MOST_CELLS:
            most = min(n, MOST_SOURCES)
            every = f"All {n:,}" if most == n else f"{most:,} at random"
            words = (
                f"{n:,} {whose} are the sources, and {target} is predicted from each by itself; {most:,} take "
                f"{most / MOST_CELLS:.0f} times as long as {MOST_CELLS}. From how many?"
            )
            wanted = how_many(PATTERNS[0], words, ((MOST_CELLS, f"{MOST_CELLS} at random"), (most, every)))
            if not wanted:
                return
            rows = np.sort(np.random.default_rng(0).choice(rows, wanted, replace=False))
            if wanted < n:
                sampled = f"{wanted:,} of the {n:,} {whose}, drawn at random, are the sources."
        self.ask("patterns", [session.cell_id(int(row)) for row in rows], sampled, target=target)

    def ask_group_patterns(self, target: str) -> None:
        """Predict the patterns of all other cells of a cell's group in it."""
        session = self.canvas.session
        group = str(session.value(session.row_of_id(target), "group"))
        same = session.visible & (session.cells.obs["group"].astype(str).to_numpy() == group)
        self.ask_patterns(np.flatnonzero(same), target, f"other cells of {group}")

    def ask_apart(self, cell: str, a: str, b: str) -> None:
        """Ask which patches of a cell speak for which of two sets."""
        session = self.canvas.session
        sets = {name: [str(c) for c in session.sets[name]["cells"]] for name in (a, b)}
        self.ask("apart", [cell], a=a, b=b, sets=sets)

    def save_grid(self) -> None:
        """Ask where to, and write a figure of the selected cells predicted from one another (`steps.inpaint`)."""
        from napari_cellrep.gui._runner import runner_of

        session = self.canvas.session
        rows = np.flatnonzero(session.selected & session.visible)
        n = len(rows)
        path, _ = QFileDialog.getSaveFileName(
            QApplication.activeWindow(),
            GRID[0].rstrip("…"),
            "predictions.png",
            "Figures (*.png *.svg *.pdf)",
        )
        if not path:
            return
        rows = np.sort(np.random.default_rng(0).choice(rows, min(n, MOST_IN_GRID), replace=False))
        cells = [session.cell_id(int(row)) for row in rows]
        sampled = f" {len(cells)} of the {n:,} selected cells, drawn at random." if n > len(cells) else ""

        def saved(found: Mapping[str, Any]) -> None:
            show_info(f"Saved as {found['written']}.{sampled} {' '.join(found['words'])}")

        self.canvas.viewer.status = f"Predicting {len(cells)} cells from one another…"
        runner_of(self.canvas.viewer).ask(
            "inpaint.inpaint_grid", str(session.project.root), saved, show_warning, sources=cells, targets=cells,
            out=path,
        )  # fmt: skip

    def find_structure(self, cell: str, spot: tuple[float, float]) -> None:
        """Ask what is like the patch at a field pixel, in the cells of the field that the camera sees."""
        session = self.canvas.session
        rows = session.rows_of_field(self.canvas.field)
        places = session.cells.obs[["y_px", "x_px"]].to_numpy(float)[rows]
        low, high = self.canvas.seen_part()
        near = ((places >= low) & (places <= high)).all(axis=1) & session.visible[rows]
        order = np.argsort(((places - spot) ** 2).sum(axis=1), kind="stable")
        ids = [session.cell_id(int(rows[i])) for i in order if near[i]]
        others = [other for other in ids if other != cell]
        sampled = ""
        if len(others) >= NEAR:
            sampled = f"The {NEAR - 1} nearest of {len(others):,} other cells in view."
        cells = [cell, *others[: NEAR - 1]]
        self.ask("structure", cells, sampled, y=float(spot[0]), x=float(spot[1]))

    def ask(
        self,
        what: str,
        cells: Sequence[str],
        sampled: str = "",
        then: Callable[[Answer], None] | None = None,
        **how: Any,
    ) -> None:
        """Ask about cells; the layers appear when the answer is there.

        Parameters
        ----------
        sampled : str
            What the cells are a sample of, in a sentence.
        then : callable, optional
            Called with the answer once its layers are there.
        **how
            Settings of the step.
        """
        from napari_cellrep.gui._runner import runner_of

        session, viewer = self.canvas.session, self.canvas.viewer
        root, cells = str(session.project.root), list(cells)
        whose = cells[0] if len(cells) == 1 else f"{len(cells)} cells"
        question = {**QUESTIONS, "patterns": PATTERNS, "apart": APART}.get(what, STRUCTURE)[0]
        viewer.status = f"{question.rstrip('?')}: asking about {whose}…"

        def answered(looks: Any) -> None:
            if session.project is not None and str(session.project.root) == root:
                self.add(looks, sampled, then, {"what": what, "cells": cells, **how})

        step = f"{_ROOMS.get(what, 'look')}.{what}"
        if what == "tokens":
            how.setdefault("first", (1, 2))  # a picture each
        if what != "patterns":  # whose network is the project's Paired Cell Inpainting
            how["embedding"] = session.embedding
        runner_of(viewer).ask(step, root, answered, show_warning, cells=cells, **how)

    def add(
        self,
        looks: Sequence[Mapping[str, Any]],
        sampled: str = "",
        then: Callable[[Answer], None] | None = None,
        how: Mapping[str, Any] | None = None,
    ) -> None:
        """Show what came of looking into cells, in the field of the first if none lies in the one that is shown.

        Parameters
        ----------
        looks : sequence of dict
            Like `steps.look.Look`.
        sampled, then
            As in `ask`.
        how : mapping, optional
            What was asked: ``what``, ``cells`` and the settings of the step.
        """
        canvas = self.canvas
        if canvas.viewer is None or canvas.session.project is None:
            return
        answer = Answer(looks, sampled, how)
        if canvas.field not in answer.fields:
            canvas.show(answer.fields[0], lambda: self.add(looks, sampled, then, how))
            return
        for old in list(self.answers):
            if set(old.cells) & set(answer.cells):
                if (old.what, old.embedding, old.cells) == (answer.what, answer.embedding, answer.cells):
                    self._remove(old.every_layer)
                for la in old.every_layer:
                    la.visible = False  # one answer at a time on a cell; the others are in the list
        self._put(answer, 0)  # alone: napari takes long for each layer
        self.answers.append(answer)
        if len(answer.cells) == 1:
            canvas.frame_cell(answer.cells[0])
        words = answer.words()
        canvas.viewer.status = f"{answer.whose}: {words.partition('. ')[0]}"
        show_info(f"{answer.title}, {answer.whose}: {words}")
        self.changed.emit()
        if answer.what == "classes":
            self.open_panel()  # half of the answer is there
        if then is not None:
            then(answer)

    def _put(self, answer: Answer, i: int) -> None:
        """Add a layer with a picture of an answer."""
        plane = answer.plane(i, self.canvas.field)
        (answer.layers[i],) = add_overlays(
            self.canvas, self.canvas.session.project.field(self.canvas.field),
            [(plane, LOOKS.get(plane["part"], _SHEET))], kind="look", what=answer.what, cell=answer.whose,
            embedding=answer.embedding,
        )  # fmt: skip
        if answer.mask is not None:  # stays above the pictures
            layers = self.canvas.viewer.layers
            layers.move(layers.index(answer.mask), len(layers))

    def show_picture(self, answer: Answer, i: int) -> None:
        """Show one picture of an answer and none of its others: in its layer, or in the picture's own."""
        if i not in answer.layers:
            old = next(iter(answer.layers.values()))
            if answer.apart:  # the user threw it away
                self._put(answer, i)
                answer.layers[i].opacity = old.opacity
            else:
                answer.layers = {i: old}
                self._fill(answer, i, old.metadata[OURS]["field"])
        for k, la in answer.layers.items():
            la.visible = k == i
        if answer.mask is not None:
            answer.read_mask()
            self._fill_mask(answer, answer.channel_of(i))

    def paint_mask(self, answer: Answer, i: int) -> None:
        """Let the user paint which patches are hidden, of the channel that picture `i` shows."""
        place = _place_of(answer.looks[0]["mask"], self.canvas, self._field(answer.fields[0]))
        note = {
            "kind": "look", "what": answer.what, "cell": answer.whose, "embedding": answer.embedding, "part": "mask",
            "field": answer.fields[0], "root": str(self.canvas.session.project.root), "visible": True, "here": True,
        }  # fmt: skip
        mask = Labels(
            answer.hidden[0].astype(np.uint8), opacity=0.5, colormap=DirectLabelColormap(color_dict=MASK_COLOURS),
            metadata={OURS: note}, **place,
        )  # fmt: skip
        mask.events.visible.connect(_remember_visible)
        answer.mask = mask
        self._fill_mask(answer, answer.channel_of(i))
        self.canvas.viewer.add_layer(mask)
        self.canvas.viewer.layers.selection.active = mask
        mask.brush_size, mask.selected_label, mask.mode = 1, 1, "paint"
        self.changed.emit()

    def unpaint_mask(self, answer: Answer) -> None:
        """Take the layer of the mask away; what was painted is kept."""
        if answer.mask is not None:
            self._remove([answer.mask])

    def _fill_mask(self, answer: Answer, c: int) -> None:
        """Put the mask of a channel into the layer."""
        mask = answer.mask
        mask.metadata[OURS]["channel"] = c
        mask.data = answer.hidden[c].astype(np.uint8)
        name = "" if len(answer.hidden) == 1 else f"{list(answer.looks[0]['numbers']['channels'])[c]}, "
        mask.name = f"{name}hidden patches, {answer.whose}"

    def redraw(self, answer: Answer, **how: Any) -> None:
        """Ask for a reconstruction once more, with another mask, and put it into the layers that are there.

        Parameters
        ----------
        **how
            ``ratio`` and ``seed`` of `steps.look.reconstruction`; without them, what is painted is hidden.
        """
        from napari_cellrep.gui._runner import runner_of

        if not how:
            answer.read_mask()
            how = {"hidden": answer.hidden}
        answer.asked += 1
        asked = answer.asked

        def redrawn(looks: Sequence[Mapping[str, Any]]) -> None:
            if asked != answer.asked or answer not in self.answers:
                return
            answer.take(looks)
            answer.how = {k: v for k, v in answer.how.items() if k not in ("ratio", "seed", "hidden")} | how
            for i, layer in answer.layers.items():
                self._fill(answer, i, layer.metadata[OURS]["field"])
            if answer.mask is not None:
                self._fill_mask(answer, answer.mask.metadata[OURS]["channel"])
            self.canvas.viewer.status = f"{answer.whose}: {answer.words().partition('. ')[0]}"
            self.changed.emit()

        self.canvas.viewer.status = f"Redrawing {answer.whose} with another mask…"
        runner_of(self.canvas.viewer).ask(
            "look.reconstruction", str(self.canvas.session.project.root), redrawn, show_warning, cells=answer.cells,
            embedding=answer.embedding, **how,
        )  # fmt: skip

    def save_figure(self, answer: Answer) -> None:
        """Ask where to, and write an answer as a figure with a scale bar (`steps.look_figure.figure_of`)."""
        from napari_cellrep.gui._runner import runner_of

        name = f"{answer.what}-{answer.whose}.png".replace(":", "-").replace(" ", "-").replace("/", "-")
        path, _ = QFileDialog.getSaveFileName(
            QApplication.activeWindow(), "Save the figure", name, "Figures (*.png *.svg *.pdf)"
        )
        if not path:
            return
        how, few = dict(answer.how), ""
        if len(answer.cells) > MOST_IN_FIGURE:
            how["cells"] = how["cells"][:MOST_IN_FIGURE]
            few = f" It has the first {MOST_IN_FIGURE} of the {len(answer.cells)} cells."
        self.canvas.viewer.status = f"Drawing the figure of {answer.whose}…"
        runner_of(self.canvas.viewer).ask(
            "look_figure.figure_of", str(self.canvas.session.project.root),
            lambda written: show_info(f"Saved as {written}.{few}"), show_warning, out=path, **how,
        )  # fmt: skip

    def _field(self, field_id: str) -> Any:
        return self.canvas.session.project.field(field_id)

    def take_apart(self, answer: Answer) -> None:
        """Give each picture of an answer a layer of its own; only the one that is shown now is seen."""
        answer.apart = True
        (shown,) = answer.layers
        for i in reversed(range(len(answer.names))):
            if i != shown:
                self._put(answer, i)
                answer.layers[i].visible = False
                answer.layers[i].opacity = answer.layers[shown].opacity
        self.changed.emit()

    def move_to(self, field_id: str) -> None:
        """Let the layers of answers about cells of several fields show those of this one."""
        for answer in self.answers:
            if len(answer.fields) < 2 or field_id not in answer.fields:
                continue
            for i, layer in answer.layers.items():
                if layer.metadata[OURS]["field"] != field_id:
                    self._fill(answer, i, field_id)

    def _fill(self, answer: Answer, i: int, field_id: str) -> None:
        """Put a picture of an answer, of the cells of a field, into its layer."""
        layer, plane = answer.layers[i], answer.plane(i, field_id)
        layer.data = plane["data"]
        layer.name = plane["name"]
        for name, value in _place_of(plane, self.canvas, self._field(field_id)).items():
            setattr(layer, name, value)
        layer.metadata[OURS].update(field=field_id, part=plane["part"])
        if layer.rgb:
            return
        layer.colormap = LOOKS.get(plane["part"], _SHEET)["colormap"]
        layer.contrast_limits_range = layer.contrast_limits = plane["limits"]
        if layer.metadata[OURS].get("lowest"):
            hide_lowest(layer, layer.metadata[OURS]["lowest"])


def _place_of(plane: Mapping[str, Any], canvas: Any, field: Any) -> dict[str, Any]:
    """Scale, place and units of the layer that shows a plane: those of the field's own layers, however they lie."""
    s, um = float(plane["scale"]), field.um_per_px
    # A pixel of it covers s field pixels; layers are placed by the middle of their first pixel.
    middle = [float(plane[k]) + (s - 1) / 2 for k in ("y0", "x0")]
    image = canvas.layer("channel") or canvas.layer("cells")
    if image is not None:
        place = {"scale": tuple(s * np.asarray(image.scale)), "translate": tuple(image.data_to_world(middle))}
        return {**place, "units": image.units}
    place = {"scale": (s * (um or 1.0),) * 2, "translate": tuple(v * (um or 1.0) for v in middle)}
    return {**place, "units": ("um", "um")} if um > 0 else place
