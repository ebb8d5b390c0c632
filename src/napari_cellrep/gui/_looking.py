"""Overlays at a cell's place: where its network looks, what it needs, how it redraws the cell, what it predicts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.colormaps import Colormap
from napari.utils.notifications import show_info, show_warning

OURS = "cellrep"
KINDS = ("inpainting", "look")  # overlays that are hidden and removed together

# Signed error: blue where the prediction is too dark, orange where it is too bright, white where it is right.
ERROR_MAP = Colormap(
    [[0.02, 0.19, 0.58], [0.4, 0.66, 0.81], [1, 1, 1], [0.99, 0.68, 0.38], [0.7, 0.28, 0.0]],
    name="cellrep error",
)
_LIGHT = {"colormap": "inferno", "blending": "additive", "opacity": 0.75}  # the cell is seen through it
_SHEET = {"colormap": "gray", "blending": "translucent_no_depth"}
LOOKS: dict[str, dict[str, Any]] = {
    "mean": _LIGHT,
    "head": _LIGHT,
    "occlusion": {**_LIGHT, "colormap": "magma"},
    "error": {**_SHEET, "colormap": ERROR_MAP},
}

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
    "reconstruction": (
        "How does the network redraw it?",
        "What the network makes of the cell when it has to draw it itself, beside what it got, and the error.",
    ),
}
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
    viewer, um, layers = canvas.viewer, field.um_per_px or 1.0, []
    active = viewer.layers.selection.active
    for plane, looks in shown:
        s = float(plane["scale"])
        # A pixel of it covers s field pixels; layers are placed by the middle of their first pixel.
        place: dict[str, Any] = {
            "scale": (s * um, s * um),
            "translate": tuple((float(plane[k]) + (s - 1) / 2) * um for k in ("y0", "x0")),
        }
        if field.um_per_px > 0:
            place["units"] = ("um", "um")
        own = {
            **note, "part": plane["part"], "field": field.id, "root": str(canvas.session.project.root),
            "visible": looks.get("visible", True), "here": True,
        }  # fmt: skip
        layer = Image(
            np.asarray(plane["data"]), name=plane["name"], contrast_limits=plane["limits"], metadata={OURS: own},
            **place, **looks,
        )  # fmt: skip
        layer.events.visible.connect(_remember_visible)
        layers.append(viewer.add_layer(layer))
    viewer.layers.selection.active = active
    return layers


def show_overlays_of(canvas: Any, field_id: str) -> None:
    """Show the overlays of a field as the user left them, and hide those of others."""
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


class Looking:
    """Asks the worker what the network of the session's embedding makes of a cell, and shows it there.

    Parameters
    ----------
    canvas : Canvas
    """

    def __init__(self, canvas: Any) -> None:
        self.canvas = canvas
        self._hidden: list[Layer] = []  # by one click, to be shown again by the next
        self._why: tuple[tuple[str, str], dict[str, str]] | None = None  # (project, embedding), why not

    # ---- the menu of a cell ----------------------------------------------------------------------

    def fill(self, menu: Any, cell: str) -> None:
        """Add what can be asked about a cell; what the network cannot do is grey and says why."""
        session = self.canvas.session
        menu.setToolTipsVisible(True)
        actions = {
            what: menu.addAction(text, partial(self.ask, what, cell)) for what, (text, _) in QUESTIONS.items()
        }
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

    def _no_network(self) -> str:
        """Why the worker need not be asked, "" if it has to be."""
        session = self.canvas.session
        if not session.embedding:
            return "Embed the cells first (card 4): then there is a network to be asked."
        if "crop" not in session.project.embedding_info(session.embedding):
            return f"{session.embedding.replace('_', ' ')} was not made by a network here; choose another embedding."
        return ""

    def _tell(self, actions: Mapping[str, Any], why: Mapping[str, str]) -> None:
        for what, action in actions.items():
            action.setEnabled(not why.get(what))
            action.setToolTip(why.get(what) or QUESTIONS[what][1])

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
        self._hidden = []
        self._remove([la for la in overlays(self.canvas) if la.metadata[OURS]["field"] == self.canvas.field])

    def _remove(self, layers: Sequence[Layer]) -> None:
        for la in layers:
            self.canvas.viewer.layers.remove(la)

    # ---- asking and showing ----------------------------------------------------------------------

    def ask(self, what: str, cell: str) -> None:
        """Ask about a cell; the layers appear when the answer is there."""
        from napari_cellrep.gui._runner import runner_of

        session, viewer = self.canvas.session, self.canvas.viewer
        root = str(session.project.root)
        viewer.status = f"{QUESTIONS[what][0].rstrip('?')}: asking about {cell}…"

        def answered(looks: Any) -> None:
            if session.project is not None and str(session.project.root) == root:
                for look in looks:
                    self.add(look)

        runner_of(viewer).ask(
            f"look.{what}", root, answered, show_warning, cells=[cell], embedding=session.embedding
        )

    def add(self, look: Mapping[str, Any]) -> None:
        """Show what came of a look in the cell's field.

        Parameters
        ----------
        look : dict
            Like `steps.look.Look`.
        """
        canvas = self.canvas
        if canvas.viewer is None or canvas.session.project is None:
            return
        if look["field"] != canvas.field:
            canvas.show(look["field"], lambda: self.add(look))
            return
        cell, what = look["cell_id"], look["what"]
        mine = [la for la in canvas.layers("look") if la.metadata[OURS]["cell"] == cell]
        same = ("what", "embedding")
        self._remove([la for la in mine if all(la.metadata[OURS][k] == look[k] for k in same)])
        for la in (la for la in mine if la in canvas.viewer.layers):
            la.visible = False  # one answer at a time on a cell; the others are in the list
        untrained = "" if look["trained"] else " (untrained model)"
        shown = [
            (
                {**plane, "name": f"{plane['name']}, {cell}{untrained}"},
                {**LOOKS.get(plane["part"], _SHEET), "visible": i == 0},
            )
            for i, plane in enumerate(look["planes"])
        ]  # fmt: skip
        add_overlays(
            canvas, canvas.session.project.field(look["field"]), shown[::-1], kind="look", what=what, cell=cell,
            embedding=look["embedding"], words=list(look["words"]),
        )  # fmt: skip
        canvas.frame_cell(cell)
        canvas.viewer.status = f"{cell}: {look['words'][0]}"
        show_info(f"{look['title']}, {cell}: {' '.join(look['words'])}")
