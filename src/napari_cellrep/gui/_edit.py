"""Cells of a slide corrected by hand: the part in view as a layer of labels that can be painted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_info, show_warning
from psygnal import Signal

from napari_cellrep.gui._looking import OURS
from napari_cellrep.jobs import drain
from napari_cellrep.steps.edit import MOST_PX, Part, Saved, open_part, save_part

if TYPE_CHECKING:
    from napari_cellrep.gui._image import Canvas

EDIT = (
    "Edit the cells in view",
    f"The part of the slide that you see, at most {MOST_PX:,} × {MOST_PX:,} px, becomes a layer to paint, erase and fill in",
)
CANCEL = (
    "Cancel the edits",
    "Forgets what was painted since the part was opened; the slide's cells stay as they are",
)
LAYER = "cells in view"
_EDITED = {None: (1.0, 0.85, 0.2, 1.0), 0: (0.0, 0.0, 0.0, 0.0)}
_GREY = (0.55, 0.55, 0.55, 0.8)
LOCKED = "The grey cells reach out of this part and stay as they are; move them into view before you edit."


class Editing:
    """The part of a slide that is being edited on a canvas, if any.

    Parameters
    ----------
    canvas : Canvas

    Attributes
    ----------
    part : Part or None
        What is edited.
    layer : Labels or None
        Where it is painted.
    """

    said = Signal(str)  # what can be done now, or why not

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self.part: Part | None = None
        self.layer: Labels | None = None
        self._locked = (
            np.zeros(0, np.intp),
            np.zeros(0, np.uint32),
        )  # pixels of locked cells, and their labels
        self._told = False  # that some cells are locked

    def why_not(self) -> str:
        """Why the cells in view cannot be edited; "" if they can."""
        canvas = self._canvas
        project = canvas.session.project
        if project is None or not canvas.field or not project.is_big(canvas.field):
            return "Fields that fit into memory are painted in their layer “cells”"
        if canvas.slide is None:
            return "The slide has no cells yet: segment it first"
        if project.read_only:
            return f"{project.name} is read-only: it can be viewed but not changed"
        return ""

    def begin(self, then: Callable[[], None] | None = None) -> None:
        """Put the cells in view on the canvas to be edited; a sentence if they cannot be.

        Parameters
        ----------
        then : callable, optional
            Called once they can be painted.
        """
        canvas, project = self._canvas, self._canvas.session.project
        if self.part is not None:
            return
        if (why := self.why_not()) or project is None:
            self._complain(f"{why}.")
            return
        field, (low, high) = canvas.field, canvas.seen_part()
        (y0, x0), (y1, x1) = (
            np.floor(low + 0.5).astype(int).tolist(),
            np.ceil(high + 0.5).astype(int).tolist(),
        )

        def read() -> tuple[Part, np.ndarray]:
            part = drain(open_part(project, field, (y0, x0, y1, x1)))
            return part, np.flatnonzero(np.isin(part.labels, part.locked))

        def arrived(found: Any) -> None:
            if canvas.viewer is None or canvas.session.project is None or canvas.field != field:
                return
            if isinstance(found, Exception):
                self._complain(found)
            elif self.part is None and canvas.slide is not None:
                self._place(*found)
                if then is not None:
                    then()

        self._tell(f"Reading the cells of {field} in view…")
        canvas.background.run(read, arrived, "part", slow=True)

    def _place(self, part: Part, locked_at: np.ndarray) -> None:
        canvas, cells = self._canvas, self._canvas.layer("cells")
        if cells is None or canvas.slide is None:
            return
        y0, x0 = part.box[:2]
        colours = {**_EDITED, **dict.fromkeys(part.locked.tolist(), _GREY)}
        layer = Labels(
            part.labels.copy(),
            name=LAYER,
            opacity=0.9,
            colormap=DirectLabelColormap(color_dict=colours),
            metadata={OURS: {**cells.metadata[OURS], "kind": "edit"}},
            scale=tuple(cells.scale),
            units=tuple(cells.units),
            translate=(y0 * float(cells.scale[0]), x0 * float(cells.scale[1])),
            visible=False,  # until all is set: every change would draw millions of pixels anew
        )
        layer.contour = 1
        layer.bounding_box.visible = True
        layer.bounding_box.points = False
        layer.bounding_box.line_thickness = 2
        layer.bounding_box.line_color = _EDITED[None]
        layer.events.paint.connect(self._on_paint)
        layer.events.selected_label.connect(self._on_number)
        self.part, self.layer, self._told = part, layer, False
        self._locked = locked_at, part.labels.reshape(-1)[locked_at]
        canvas.slide.hidden = part.box  # what is edited is not seen twice
        cells.data = canvas.slide.without_hidden()
        canvas.refresh_overlays()
        viewer = canvas.viewer
        viewer.layers.insert(viewer.layers.index(cells) + 1, layer)
        viewer.layers.selection.active = layer
        layer.visible = True
        # Painting begins a new cell; the picker takes up one that is there. Not before: napari has no number of hidden pixels.
        layer.selected_label = part.top + 1
        h, w = part.labels.shape
        self._tell(
            f"{w:,} × {h:,} px of {part.field} can be edited: paint, erase or fill in the layer “{LAYER}”, then save the edits.",
        )

    def _on_paint(self, event: Any = None) -> None:
        """Put back at once what was painted over cells that the part does not hold whole."""
        self._canvas.edited = True
        layer, (at, values) = self.layer, self._locked
        if layer is None or not len(at):
            return
        flat = layer.data.reshape(-1)  # of what is drawn: it shares its memory
        if not np.array_equal(flat[at], values):
            flat[at] = values
            layer.refresh()
            self._tell_locked()

    def _on_number(self, event: Any = None) -> None:
        """A new cell instead of one that the part does not hold whole."""
        part, layer = self.part, self.layer
        if part is not None and layer is not None and layer.selected_label in part.locked:
            layer.selected_label = int(max(part.top, layer.data.max())) + 1
            self._tell_locked()

    def _tell_locked(self) -> None:
        self._tell(LOCKED)
        if not self._told:
            self._told = True
            show_info(LOCKED)

    def save(self, then: Callable[[], None] | None = None) -> None:
        """Write the part beside the window; then its cells are measured. On an error it stays open.

        Parameters
        ----------
        then : callable, optional
            Called once the table is new.
        """
        canvas, project, part, layer = self._canvas, self._canvas.session.project, self.part, self.layer
        if project is None or part is None or layer is None:
            return
        new = layer.data.copy()
        canvas.edited, layer.editable = False, False  # what were painted from now on would be lost

        def written(saved: Any) -> None:
            if isinstance(saved, Exception):
                if self.part is part:
                    canvas.edited, layer.editable = True, True
                self._complain(saved)
                return
            if self.part is part:
                self.drop()
            if saved.n_kept_px:
                show_info(f"{saved.n_kept_px:,} px stayed as they were: {LOCKED}")
            if saved.n_changed:
                canvas.rebuild_table(part.field, then, only_edited=True)
            elif then is not None:
                then()

        def write() -> Saved:
            return drain(save_part(project, part, new))

        self._tell(f"Writing the edited cells of {part.field}…")
        canvas.background.run(write, written, slow=True)

    def _tell(self, sentence: str) -> None:
        self.said.emit(sentence)
        if self._canvas.viewer is not None:
            self._canvas.viewer.status = sentence

    def _complain(self, error: Any) -> None:
        self._tell(f"⚠ {error}")
        if not len(self.said):  # no panel is open to read it
            show_warning(str(error))

    def drop(self) -> None:
        """Take the part off the canvas, without saving."""
        canvas, layer = self._canvas, self.layer
        if self.part is None:
            return
        self.part, self.layer, canvas.edited = None, None, False
        viewer = canvas.viewer
        if viewer is None:
            return
        cells = canvas.layer("cells")
        if canvas.slide is not None:
            canvas.slide.hidden = None
            if cells is not None and cells.multiscale:
                cells.data = canvas.slide.levels
            canvas.refresh_overlays()
        if layer is not None and layer in viewer.layers:
            viewer.layers.remove(layer)
            if cells is not None:
                viewer.layers.selection.active = cells
