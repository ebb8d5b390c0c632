"""Everything we put on napari's canvas: a field's channels, its cells, the selection, predictions; and the camera.

Only layers of ours (``layer.metadata["cellrep"]``) are ever changed.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_info, show_warning
from psygnal import Signal
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QCursor
from qtpy.QtWidgets import QApplication, QInputDialog, QMenu

from napari_cellrep.analysis.profiles import similar_groups
from napari_cellrep.data.cells import reconcile_labels
from napari_cellrep.gui._axis import DIFFER, show_axis
from napari_cellrep.gui._edit import EDIT, Editing
from napari_cellrep.gui._leave import Leaving, look_of, return_look
from napari_cellrep.gui._looking import ERROR_MAP, OURS, Looking, add_overlays, show_overlays_of
from napari_cellrep.gui._marks import EDGE, FILL, FOCUS, HOVER, RING, Slide, paint_cell, paint_codes
from napari_cellrep.gui._pictures import ROLE_COLOURS, Background, Look, contrast_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._raster import SELECTED, Colours, colours_of, inside_polygon
from napari_cellrep.session import Session, read_project
from napari_cellrep.specs import InputError

CLICK_PX = 4
PAINT_SLICE_S = 0.03  # the overlay is painted in slices of this length, so that the window stays awake
PAINT_AT_ONCE = 100  # cells

_ORANGE = np.array(SELECTED) / 255
# One colour for all: of napari's random ones some cannot be seen on a green or blue cell.
OUTLINE_COLOURS = {None: (0.9, 0.9, 0.9, 1.0), 0: (0.0, 0.0, 0.0, 0.0)}
FAINT_OUTLINE = (0.9, 0.9, 0.9, 0.15)
HIDDEN_OUTLINE = (0.45, 0.45, 0.45, 0.55)  # flagged cells that take no part: seen, but behind the others
OVERLAY_COLOURS = {
    None: (0.0, 0.0, 0.0, 0.0),
    0: (0.0, 0.0, 0.0, 0.0),
    FILL: (*_ORANGE, 0.22),
    RING: (*_ORANGE, 1.0),
    EDGE: (0.05, 0.05, 0.05, 0.9),
    FOCUS: (1.0, 1.0, 1.0, 1.0),
    HOVER: (1.0, 1.0, 1.0, 0.75),
}

_CANVASES: WeakKeyDictionary[Any, Canvas] = WeakKeyDictionary()


def canvas_of(viewer: Any) -> Canvas:
    """Return what keeps a viewer's canvas and its session together, made when first asked for."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _CANVASES:
        _CANVASES[viewer] = Canvas(viewer, session_of(viewer))
    return _CANVASES[viewer]


def show_field(viewer: Any, session: Session, field_id: str, then: Callable[[], None] | None = None) -> None:
    """Show a field: its channels, its cells and what of them is selected. Reads in the background.

    Contrast and colours the user chose for a channel stay when fields change.

    Parameters
    ----------
    then : callable, optional
        Called once the field is on the canvas.
    """
    canvas_of(viewer).show(field_id, then)


def add_inpainting_layers(viewer: Any, session: Session, result: dict[str, Any]) -> None:
    """Put a prediction on the canvas at its target's place: real protein, prediction, and their difference.

    Parameters
    ----------
    result : dict
        What ``steps.inpaint`` returns.
    """
    canvas_of(viewer).add_inpainting(result)


def save_label_edits(viewer: Any, session: Session, then: Callable[[], None] | None = None) -> None:
    """Keep what the user painted into the layer of cells, and bring the table up to date.

    Merged and split cells get new numbers, so that an old id never comes to mean another cell.

    Parameters
    ----------
    then : callable, optional
        Called once the table is new.
    """
    canvas_of(viewer).save_edits(then)


class Canvas:
    """One viewer's canvas and its session: what is shown, and what clicks mean."""

    coloured_changed = Signal(bool)  # whether the cells are coloured as on the map
    similar_found = Signal()  # somebody asked for similar groups, and here they are
    similar_wanted = Signal()  # of cells like the selected one
    centred = Signal(int)  # a cell was double-clicked in the image: the maps bring its point to the middle

    def __init__(self, viewer: Any, session: Session) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = session
        self.field = ""
        self.edited = False
        self.background = Background(session)
        self.background.told.connect(self._tell)
        self.looking = Looking(self)
        self.editing = Editing(self)
        self.source_id = ""  # the cell whose pattern the next clicked cell is predicted with
        self._coloured = False
        self._colouring = object()  # the newest request for colours
        self.kept_looks: dict[str, Any] = {}  # channel → how the project was left
        self._first_looks: dict[str, dict[str, Any]] = {}  # channel → how it was first shown here
        self.kept_camera: list[float] = []  # where the project's field was looked at, until it is shown
        self._camera_put: list[float] = []  # where it was last put from here
        self._camera_moved = False  # by a person, before that
        self._quiet = False  # focus set by a click in the image: the camera stays
        self._marked: dict[int, int] = {}  # label → what is painted of it: bit 1 selected, 2 focus, 4 hover
        self._slide: Slide | None = None  # the cells of the field that is shown, if it is larger than memory
        self._todo: list[int] = []
        self._goal: dict[int, int] = {}
        self._timer = QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._paint_slice)
        viewer.mouse_drag_callbacks.append(self._on_press)
        viewer.mouse_move_callbacks.append(self._on_move)
        viewer.mouse_double_click_callbacks.append(self._on_double_click)
        viewer.layers.events.removed.connect(self._on_layer_removed)
        session.project_changed.connect(self._on_project_changed)
        session.cells_changed.connect(self._on_cells_changed)
        session.selection_changed.connect(self._mark)
        session.visible_changed.connect(self._mark)
        session.visible_changed.connect(self._tone_outlines)
        session.visible_changed.connect(self._colour_cells)
        session.colour_changed.connect(self._colour_cells)
        session.limits_changed.connect(self._colour_cells)
        session.hover_changed.connect(self._on_hover)
        session.focus_changed.connect(self._on_focus)
        session.cells_changed.connect(self._rank_again)
        session.visible_changed.connect(self._rank_again)
        session.embedding_changed.connect(self._rank_again)
        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.close)
        self.leaving = Leaving(self)

    @property
    def viewer(self) -> Any:
        """The viewer, or None once its window is closed."""
        viewer = self._viewer()
        if viewer is None:
            return None
        try:
            viewer.window.geometry()
        except (AttributeError, RuntimeError):  # the window is gone, its Qt objects deleted
            return None
        return viewer

    def close(self) -> None:
        """Stop the reader and the painter."""
        self._timer.stop()
        self.background.close()

    @property
    def slide(self) -> Slide | None:
        """The cells of the field that is shown, if it is larger than memory and has labels."""
        return self._slide

    # ---- our layers ------------------------------------------------------------------------------

    def layers(self, kind: str = "") -> list[Layer]:
        """Layers of ours, of a kind: "channel", "colours", "cells", "selection", "edit", "inpainting", "look"."""
        found = [la for la in self.viewer.layers if OURS in la.metadata]
        return [la for la in found if not kind or la.metadata[OURS]["kind"] == kind]

    def layer(self, kind: str, name: str = "") -> Layer | None:
        """The layer of a kind (a channel's name says which), or None."""
        for la in self.layers(kind):
            if not name or la.metadata[OURS].get("channel") == name:
                return la
        return None

    def looks(self) -> tuple[Look, ...]:
        """Colour and contrast of every channel as shown; empty while no field is open."""
        project = self.session.project
        if project is None or self.viewer is None:
            return ()
        out: list[Look] = []
        for channel in project.channels:
            la = self.layer("channel", channel.name)
            if not isinstance(la, Image):
                return ()
            low, high = la.contrast_limits
            shown = la.colormap.map(np.array([1.0]))[0, :3] * float(la.visible)
            out.append((tuple(float(v) for v in shown), float(low), float(high)))  # type: ignore[arg-type]
        return tuple(out)

    def changed_looks(self) -> dict[str, dict[str, Any]]:
        """Channel → how it is shown, of those that are not as on a fresh start."""
        found = dict(self.kept_looks)
        for la in self.layers("channel"):
            name = la.metadata[OURS]["channel"]
            if isinstance(la, Image) and look_of(la) != self._first_looks.get(name):
                found[name] = look_of(la)
        return found

    def ask_picture(self, row: int, then: Callable[[Any], None]) -> None:
        """Get a cell's picture as the viewer shows it; the newest request wins."""
        self.background.ask_picture(row, then, self.looks())

    # ---- a field ---------------------------------------------------------------------------------

    def show(self, field_id: str, then: Callable[[], None] | None = None) -> None:
        """Show a field; of several requests in a row only the last is shown."""
        project = self.session.project
        if project is None or self.viewer is None:
            return
        if self.edited and self.field:
            self.save_edits(lambda: self.show(field_id, then))  # never lose what was painted
            return
        field = project.field(field_id)

        def shown(read: Any) -> None:
            if self.viewer is None or self.session.project is not project:
                return
            if isinstance(read, Exception):
                self._complain(read)
                return
            self._place(field, *read)
            if then is not None:
                then()

        big = project.is_big(field_id)
        read = self.background.read_slide if big else self.background.read_field
        self.background.run(lambda: read(project, field_id), shown, "field", slow=big)

    def _place(self, field: Any, image: np.ndarray, labels: np.ndarray | None) -> None:
        viewer, project = self.viewer, self.session.project
        self.editing.drop()
        um = field.um_per_px
        geometry: dict[str, Any] = (
            {"scale": (um, um), "units": ("um", "um")} if um > 0 else {"scale": (1.0, 1.0)}
        )
        mark = {"root": str(project.root), "field": field.id}
        old = self.layer("channel")
        big = project.is_big(
            field.id
        )  # then there are levels of every channel and of the labels, the largest first
        size = tuple(image[0][0].shape) if big else image.shape[1:]
        resized = old is not None and (_largest(old).shape != size or tuple(old.scale) != geometry["scale"])
        self._slide = Slide(labels) if big and isinstance(labels, list) else None
        if (shown := self.layer("colours")) is not None and shown.multiscale != big:
            self._place_colours(None, None)
        for la in (*self.layers("channel"), *self.layers("cells"), *self.layers("selection")):
            if la.multiscale != big:
                viewer.layers.remove(la)
        active = viewer.layers.selection.active
        for channel, plane in zip(project.channels, image, strict=True):
            la = self.layer("channel", channel.name)
            note = {OURS: {"kind": "channel", "channel": channel.name, **mark}}
            if la is None:
                la = Image(
                    plane, name=channel.name, blending="additive", metadata=note,
                    colormap=ROLE_COLOURS.get(channel.role, "gray"), multiscale=big,
                    contrast_limits=contrast_of(np.asarray(plane[-1]) if big else plane), **geometry,
                )  # fmt: skip
                return_look(la, self.kept_looks.get(channel.name))
                self._first_looks[channel.name] = look_of(la)
                viewer.layers.insert(len(self.layers("channel")), la)
            else:
                la.data, la.metadata = plane, note
                _set_geometry(la, geometry)
        self._place_labels("cells", labels, {OURS: {"kind": "cells", **mark}}, geometry)
        blank: Any = None if labels is None or big else np.zeros(labels.shape, np.uint8)
        marks = self._slide.marked() if self._slide is not None else blank
        self._place_labels("selection", marks, {OURS: {"kind": "selection", **mark}}, geometry)
        self.field, self.edited, self._marked, self._todo = field.id, False, {}, []
        self._place_camera(field.id, resized)
        self._set_features()
        self._tone_outlines()
        if self._coloured:  # those of another field must not be seen for a moment
            nothing = np.zeros(0, np.int64)
            self._place_colours(
                self._slide.coloured(nothing, nothing) if self._slide is not None else blank, None
            )
            self._colour_cells()
        show_overlays_of(self, field.id)
        cells = self.layer("cells")
        if active is not None and active in viewer.layers:
            viewer.layers.selection.active = active
        elif cells is not None:
            viewer.layers.selection.active = cells
        self._mark()

    def _place_labels(
        self, kind: str, data: np.ndarray | None, note: dict[str, Any], geometry: dict[str, Any]
    ) -> None:
        la = self.layer(kind)
        if data is None:
            if la is not None:
                self.viewer.layers.remove(la)
            return
        levels = isinstance(data, list)
        data = data if levels else data.copy()  # the user may paint; what was read is kept as it is
        if la is not None:
            la.data, la.metadata = data, note
            _set_geometry(la, geometry)
            return
        if kind == "cells":
            outline = DirectLabelColormap(color_dict=OUTLINE_COLOURS)
            la = Labels(
                data,
                name="cells",
                opacity=0.6,
                colormap=outline,
                metadata=note,
                multiscale=levels,
                **geometry,
            )
            la.contour = 1
            la.editable = not levels
            la.events.paint.connect(self._on_user_paint)
        else:
            colours = DirectLabelColormap(color_dict=OVERLAY_COLOURS)
            la = Labels(
                data, name="cell selection", opacity=1.0, colormap=colours, metadata=note, multiscale=levels, **geometry
            )  # fmt: skip
            la.editable = False
        self.viewer.add_layer(la)

    def _tone_outlines(self) -> None:
        """Draw the outlines of cells that are hidden (flagged) darker than those that count."""
        layer = self.layer("cells") if self.viewer is not None else None
        if layer is None or self.session.cells is None or not self.field:
            return
        rows = self.session.rows_of_field(self.field)
        hidden = self.session.cells.obs["label"].to_numpy()[rows[~self.session.visible[rows]]]
        colours = {**OUTLINE_COLOURS, **dict.fromkeys(hidden.tolist(), HIDDEN_OUTLINE)}
        if (
            layer.multiscale and self._coloured
        ):  # from afar a cell is all outline, and its colour would not be seen
            colours[None] = FAINT_OUTLINE
        layer.colormap = DirectLabelColormap(color_dict=colours)

    # ---- cells coloured as on the map ----------------------------------------------------------------

    @property
    def coloured(self) -> bool:
        """Whether the cells of the field are coloured by the map's column, on a layer of its own."""
        return self._coloured

    @coloured.setter
    def coloured(self, on: bool) -> None:
        if on == self._coloured:
            return
        self._coloured = bool(on)
        self._tone_outlines()
        if on:
            self._colour_cells()
        elif self.viewer is not None:
            self._colouring = object()
            self._place_colours(None, None)
        self.coloured_changed.emit(self._coloured)

    def _colour_cells(self) -> None:
        """Look the colours up beside the window and put them on; hidden cells and those without a value have none."""
        session, cells = self.session, self.layer("cells") if self.viewer is not None else None
        if not self._coloured or cells is None or session.cells is None or not self.field:
            return
        self._colouring = asked = object()
        obs, column, n = session.cells.obs, session.colour_by, session.n_cells
        labels, visible, limits = cells.data, session.visible, session.colour_limits(column)
        told = session.column(column)
        slide = self._slide
        rows = session.rows_of_field(self.field)

        def work() -> tuple[Any, Colours]:
            colours = colours_of(told, n)  # as the map has them
            if limits is not None:
                colours = colours.limited(*limits)
            codes = np.where(visible[rows], colours.codes[rows], 0).astype(np.uint8)
            ids = obs["label"].to_numpy()[rows]
            return slide.coloured(ids, codes) if slide is not None else paint_codes(
                labels, ids, codes
            ), colours

        def arrived(found: Any) -> None:
            if self._colouring is not asked or self.viewer is None:
                return  # another column or field meanwhile
            if isinstance(found, Exception):
                self._complain(found)
            else:
                self._place_colours(*found)

        self.background.run(work, arrived, "colours")

    def _place_colours(self, codes: Any, colours: Colours | None) -> None:
        """Put colour numbers of pixels (of a slide, its levels) on their layer, under the outlines; None takes it away."""
        la, cells = self.layer("colours"), self.layer("cells")
        if codes is None or cells is None:
            if la is not None:
                self._coloured, kept = False, self._coloured  # it is not the user who takes it away
                self.viewer.layers.remove(la)
                self._coloured = kept
            return
        geometry = {"scale": tuple(cells.scale), "units": tuple(cells.units)}
        note = {OURS: {**cells.metadata[OURS], "kind": "colours"}}
        if la is None:
            levels = isinstance(codes, list)
            la = Labels(
                codes, name="cell colours", opacity=0.85, metadata=note, multiscale=levels, **geometry
            )
            la.editable = False
            active = self.viewer.layers.selection.active
            self.viewer.layers.insert(self.viewer.layers.index(cells), la)
            self.viewer.layers.selection.active = active
        else:
            la.data, la.metadata = codes, note
            _set_geometry(la, geometry)
        if colours is not None:
            shown = {i: (*(c / 255), 1.0) for i, c in enumerate(colours.palette) if i}
            clear = (0.0, 0.0, 0.0, 0.0)
            la.colormap = DirectLabelColormap(color_dict={None: clear, 0: clear, **shown})

    def _on_layer_removed(self, event: Any) -> None:
        note = event.value.metadata.get(OURS, {})
        self.looking.forget_layer(event.value)
        if event.value is self.editing.layer:
            self.editing.drop()
        if self._coloured and note.get("kind") == "colours":
            QTimer.singleShot(0, self._on_colours_thrown)
        elif note.get("kind") == "channel" and look_of(event.value) != self._first_looks.get(note["channel"]):
            self.kept_looks[note["channel"]] = look_of(event.value)  # until it comes back, or the window goes

    def _on_colours_thrown(self) -> None:
        """Who throws the layer of colours away does not want it on the next field either; all go with the window."""
        if self._coloured and self.viewer is not None and self.layer("cells") and not self.layer("colours"):
            self._coloured = False
            self._tone_outlines()
            self.coloured_changed.emit(False)

    def _set_features(self) -> None:
        """Row i is label i (row 0 the background), and a column `index`: both conventions of napari hold."""
        cells, table = self.layer("cells"), self.session.cells
        if cells is None or table is None:
            return
        rows = self.session.rows_of_field(self.field)
        obs = table.obs.iloc[rows]
        skip = ("field", "label", "mask_hash", "box_y0", "box_x0", "box_y1", "box_x1")
        frame = obs[[c for c in obs if c not in skip and not str(c).startswith("q_")]].copy()
        for column in frame:
            if isinstance(frame[column].dtype, pd.CategoricalDtype):
                frame[column] = frame[column].astype(object)
            elif (
                frame[column].dtype == np.float32
            ):  # napari leaves missing numbers out of its status in float64 only
                frame[column] = frame[column].astype(np.float64)
        frame.insert(0, "cell", obs.index.to_numpy(object))
        frame.index = pd.Index(obs["label"].to_numpy(np.int64))
        top = int(frame.index.max()) if len(frame) else 0
        if top <= 10 * len(frame) + 10_000:  # a few cells with huge numbers: only the rows there are
            frame = frame.reindex(range(top + 1))
        frame.insert(0, "index", frame.index)
        cells.features = frame.reset_index(drop=True)

    # ---- marks: selected, focus, hover ---------------------------------------------------------------

    def _wanted(self) -> dict[int, int]:
        """Label → marks it should carry in the field that is shown."""
        session = self.session
        if session.cells is None or not self.field:
            return {}
        rows = session.rows_of_field(self.field)
        labels = session.cells.obs["label"].to_numpy()[rows]
        wanted = dict.fromkeys(labels[session.selected[rows]].tolist(), 1)
        for row, bit in ((session.focus, 2), (session.hover, 4)):
            if row >= 0 and session.value(row, "field") == self.field:
                label = int(session.value(row, "label"))
                wanted[label] = wanted.get(label, 0) | bit
        return wanted

    def _mark(self) -> None:
        """Paint what differs from what is painted: a few cells at once, many as soon as the maps have shown theirs."""
        overlay = self.layer("selection") if self.viewer is not None else None
        if overlay is None:
            return
        wanted, marked = self._wanted(), self._marked
        if self._slide is not None:
            if wanted != marked:
                self._slide.mark(wanted)
                self._marked = wanted
                overlay.refresh(
                    thumbnail=False, highlight=False, extent=False
                )  # with every move of the pointer
            return
        # Whole sets first: in a crowded field going through all labels would be felt with every move of the pointer.
        both = wanted.keys() & marked.keys()
        self._todo = [k for k in both if wanted[k] != marked[k]]
        self._todo += [*(wanted.keys() - both), *(marked.keys() - both)]
        self._goal = wanted
        if len(self._todo) > PAINT_AT_ONCE:
            self._timer.start()
        elif self._todo:
            self._paint_slice()

    def refresh_overlays(self) -> None:
        """Draw marks and colours again: what is hidden of a slide is another part."""
        for la in (*self.layers("selection"), *self.layers("colours")):
            la.refresh(thumbnail=False, highlight=False, extent=False)

    def _paint_slice(self) -> None:
        viewer = self.viewer
        overlay, cells = (
            (self.layer("selection"), self.layer("cells")) if viewer is not None else (None, None)
        )
        if overlay is None or cells is None or not self._todo or self.session.cells is None:
            self._timer.stop()
            return
        end = time.perf_counter() + PAINT_SLICE_S
        obs = self.session.cells.obs
        box = [obs[c].to_numpy() for c in ("box_y0", "box_x0", "box_y1", "box_x1")]
        while self._todo and time.perf_counter() < end:
            label = self._todo.pop()
            row = self.session.row_of(self.field, label)
            marks = self._goal.get(label, 0)
            if row >= 0:
                y0, x0, y1, x1 = (int(side[row]) for side in box)
                paint_cell(overlay.data[y0:y1, x0:x1], cells.data[y0:y1, x0:x1] == label, marks)
            if marks:
                self._marked[label] = marks
            else:
                self._marked.pop(label, None)
        overlay.refresh()
        self._timer.start() if self._todo else self._timer.stop()

    def _on_hover(self, row: int) -> None:
        self._mark()

    def _on_focus(self, row: int) -> None:
        if self.viewer is None:
            return
        if row >= 0 and not self._quiet:
            self.go_to(row)
        self._mark()

    # ---- the camera ------------------------------------------------------------------------------

    def go_to(self, row: int, frame: bool = False) -> None:
        """Bring a cell to the middle of the canvas, opening its field if need be.

        Parameters
        ----------
        frame : bool
            Whether to zoom so that the cell fills a good part of the canvas; else the zoom changes only when the
            cell would be a speck or would not fit.
        """
        field_id = self.session.place(row)[0]
        cell_id = self.session.cell_id(row)
        if field_id != self.field or self.layer("channel") is None:
            self.show(field_id, lambda: self._centre(cell_id, frame))
        else:
            self._centre(cell_id, frame)

    def camera(self) -> list[float]:
        """Middle (y, x in the world) and zoom of what is seen of a field; empty while none is open."""
        if not self.field or self.viewer is None:
            return []
        camera = self.viewer.scene.camera
        return [*(float(v) for v in camera.center[-2:]), float(camera.zoom)]

    @property
    def camera_moved(self) -> bool:
        """Whether a person has moved the camera since the project was opened."""
        return self._camera_moved or (bool(self._camera_put) and self.camera() != self._camera_put)

    def keep_camera(self, kept: list[float]) -> None:
        """Begin with a project: nobody has moved the camera yet, and the field that comes is to be seen as `kept`."""
        self.kept_camera, self._camera_put, self._camera_moved = kept, [], False

    @contextmanager
    def _own_camera(self) -> Iterator[None]:
        """Move the camera: it is no person who does it."""
        self._camera_moved = self.camera_moved
        yield
        self._camera_put = self.camera()

    def _place_camera(self, field_id: str, resized: bool) -> None:
        """Show all of a field of another size, and the part that was looked at when the project was left."""
        kept, self.kept_camera = self.kept_camera, []
        if kept and field_id == self.leaving.field:
            with self._own_camera():
                self.viewer.scene.camera.center = tuple(kept[:2])
                self.viewer.scene.camera.zoom = kept[2]
        elif resized:
            with self._own_camera():
                self.viewer.reset_view()
        elif not self._camera_put:
            self._camera_put = self.camera()  # where napari has put it for the first layer

    def seen_part(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last field pixel (y, x) that the camera sees."""
        camera, la = self.viewer.scene.camera, self.layer("channel")
        half = np.array(self.viewer.canvas.size) / (2 * camera.zoom)
        centre = np.array(camera.center[-2:])
        low, high = (np.array(la.world_to_data(centre + sign * half)) for sign in (-1, 1))  # type: ignore[union-attr]
        return np.maximum(low, -0.5), high

    def frame_cell(self, cell_id: str) -> None:
        """Zoom so that a cell of the field that is shown fills a good part of the canvas."""
        self._centre(cell_id, True)

    def _centre(self, cell_id: str, frame: bool) -> None:
        row, la = self.session.row_of_id(cell_id), self.layer("channel")
        if row < 0 or la is None or self.viewer is None:
            return
        _, y, x = self.session.place(row)
        place = la.data_to_world((y, x))
        camera = self.viewer.scene.camera
        box = [float(self.session.value(row, c)) for c in ("box_y0", "box_x0", "box_y1", "box_x1")]
        side = max(box[2] - box[0], box[3] - box[1], 1) * float(la.scale[-1])
        room = min(self.viewer.canvas.size)
        share = side * camera.zoom / room
        with self._own_camera():
            camera.center = tuple(place)
            if frame:
                camera.zoom = 0.33 * room / side
            elif share < 0.06 or share > 0.9:
                camera.zoom = 0.2 * room / side

    # ---- clicks ----------------------------------------------------------------------------------

    def _row_at(self, event: Any) -> tuple[int, int]:
        """Label and row under the pointer; row -1 where there is no cell of the table."""
        cells = self.layer("cells")
        if cells is None:
            return 0, -1
        y, x = (int(v) for v in np.round(cells.world_to_data(event.position)[-2:]))
        if self._slide is not None:  # what is seen is what is meant
            label = self._slide.label_at(y, x, int(cells.data_level))
        else:
            h, w = cells.data.shape
            label = int(cells.data[y, x]) if 0 <= y < h and 0 <= x < w else 0
        return label, self.session.row_of(self.field, label) if label else -1

    def _looking(self, viewer: Any) -> bool:
        """Whether a click means a cell: not while a layer is being painted or moved."""
        active = viewer.layers.selection.active
        return bool(self.field) and (active is None or str(getattr(active, "mode", "pan_zoom")) == "pan_zoom")

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        if not self._looking(viewer):
            return
        start, button = np.array(event.pos), event.button
        label, row = self._row_at(event)
        moved = False
        # With a key held napari does not move the image; Alt is its own (it zooms into a box).
        held = set(event.modifiers)
        lasso = button == 1 and bool(held & {"Control", "Shift"}) and "Alt" not in held
        path, line = [tuple(event.position[-2:])], LassoLine(viewer)
        yield
        try:
            while event.type == "mouse_move":
                moved |= bool(np.abs(np.array(event.pos) - start).max() > CLICK_PX)
                if moved and lasso:
                    path.append(tuple(event.position[-2:]))
                    line.show(path)
                yield
        finally:
            line.hide()
        if moved:
            if lasso:
                self.select_inside(np.array(path), "add" if "Shift" in held else "replace")
            return
        if button == 2:
            cells = self.layer("cells")
            spot = (
                None if cells is None else tuple(float(v) for v in cells.world_to_data(event.position)[-2:])
            )
            self.open_menu(row, spot=spot)
        elif button == 1 and row >= 0:
            shift, alt = "Shift" in event.modifiers, "Alt" in event.modifiers
            mode = {(1, 0): "add", (0, 1): "subtract", (1, 1): "intersect"}.get((shift, alt), "replace")
            self.click(row, mode, in_image=True)
        elif button == 1 and label:
            show_info(
                f"Cell {label} is not in the table yet: save the edits of {self.field} first (right-click)."
            )

    def _on_double_click(self, viewer: Any, event: Any) -> None:
        """Bring the cell's point to the middle of the maps; napari itself zooms in."""
        _, row = self._row_at(event) if self._looking(viewer) else (0, -1)
        if row >= 0 and self.session.visible[row]:
            self.centred.emit(row)

    def select_inside(self, path: np.ndarray, mode: str = "replace") -> None:
        """Select the visible cells of the field whose centre lies inside a path, (n, 2) y and x in the world."""
        session, cells = self.session, self.layer("cells")
        if cells is None or session.cells is None or len(path) < 3:
            return
        rows = session.rows_of_field(self.field)
        rows = rows[session.visible[rows]]
        centres = session.cells.obs[["y_px", "x_px"]].to_numpy(float)[rows]
        polygon = np.array([cells.world_to_data(point)[-2:] for point in path])
        session.select(rows[inside_polygon(centres, polygon)], mode, f"lasso in the image of {self.field}")

    def _on_move(self, viewer: Any, event: Any) -> None:
        if self._looking(viewer):
            _, row = self._row_at(event)
            self.session.set_hover(row if row >= 0 and self.session.visible[row] else -1)

    def click(self, row: int, mode: str = "replace", *, in_image: bool = False) -> None:
        """Do what a click on a cell means, in whichever view it was: select it and look at it.

        While a prediction waits for its target, the click chooses the target.
        """
        session = self.session
        if self.source_id:
            source, self.source_id = self.source_id, ""
            self.predict(source, session.cell_id(row))
            return
        if not session.visible[row]:
            if session.counted[row]:
                show_info(
                    f"{session.cell_id(row)} is hidden in the map's legend. Choose “show all” there to use it."
                )
                return
            words = str(session.value(row, "flags") or "").replace(";", ", ").replace("_", " ")
            show_info(f"{session.cell_id(row)} is hidden (flagged: {words}). Tick “show flagged” to use it.")
            return
        session.select([row], mode, f"click on {session.cell_id(row)}")
        if mode in ("replace", "add"):
            self._quiet = in_image
            try:
                session.set_focus(row)
            finally:
                self._quiet = False

    # ---- the menu of a cell --------------------------------------------------------------------------

    def open_menu(self, row: int, at: Any = None, spot: tuple[float, float] | None = None) -> QMenu | None:
        """Pop up what can be done with a cell (row -1: with the field), clicked at a field pixel `spot` of the image."""
        session = self.session
        menu = QMenu(QApplication.activeWindow())
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if row >= 0:
            cell, group = session.cell_id(row), str(session.value(row, "group"))
            menu.addSection(cell)
            menu.setToolTipsVisible(True)
            menu.addAction("Show in image", lambda: self.go_to(row, frame=True))
            similar = menu.addAction("Find similar cells", lambda: self.find_similar_cells(row))
            similar.setEnabled(bool(session.embedding) and len(self.similar_wanted) > 0)
            similar.setToolTip(
                "The gallery shows all cells, the most like this one first"
                if similar.isEnabled()
                else "Needs an embedding: embed the cells in the CellRep panel"
                if not session.embedding
                else "Open the Explore panel: its gallery shows them"
            )
            self._fill_sets(menu, row)
            menu.addAction("Predict this pattern in another cell…", lambda: self.start_prediction(cell))
            menu.addAction(
                f"Predict this pattern in a random cell of {group}", lambda: self.predict(cell, "")
            )
            self.looking.fill(menu, cell, spot)
            menu.addSeparator()
            same = session.cells.obs["group"].astype(str).to_numpy() == group
            menu.addAction(
                f"Select all cells of {group}", lambda: session.select(same, how=f"all cells of {group}")
            )
        if self._slide is not None and self.editing.part is None:
            edit, why = menu.addAction(EDIT[0], self.editing.begin), self.editing.why_not()
            edit.setEnabled(not why)
            edit.setToolTip(why or EDIT[1])
            menu.setToolTipsVisible(True)
        self.looking.fill_overlays(menu)
        if self.edited and self.field:
            menu.addAction(f"Save the edited cells of {self.field}", self.save_edits)
        if menu.isEmpty():
            menu.deleteLater()
            return None
        menu.popup(at if at is not None else QCursor.pos())
        self._menu = menu
        return menu

    def _fill_sets(self, menu: QMenu, row: int) -> None:
        """Offer to put a cell, or the selection it is of, into a set."""
        session = self.session
        n = session.n_selected if session.selected[row] else 1
        sets = menu.addMenu("Add to set" if n == 1 else f"Add the {n:,} selected cells to set")
        for name in session.sets:
            sets.addAction(name, lambda name=name: self._add_to_set(row, name))
        sets.addSeparator()
        sets.addAction("A new set…", lambda: self._add_to_new_set(row))

    def _add_to_new_set(self, row: int) -> None:
        name, ok = QInputDialog.getText(QApplication.activeWindow(), "New set", "Name of the set:")
        if ok:
            self._add_to_set(row, name)

    def _add_to_set(self, row: int, name: str) -> None:
        session = self.session
        if not session.selected[row]:
            session.select([row], how=f"click on {session.cell_id(row)}")
        try:
            session.add_to_set(name)
        except InputError as error:
            self._complain(error)

    def find_similar_cells(self, row: int) -> None:
        """Select a cell, and let the gallery put the others by how like it they are."""
        self.session.select([row], how=f"click on {self.session.cell_id(row)}")
        self.session.set_focus(row)
        self.similar_wanted.emit()

    def open_group_menu(self, by: str, name: str, at: Any = None) -> QMenu:
        """Pop up what can be done with a field or group: the cells with this value in a column."""
        session = self.session
        rows = session.rows_by(by)
        own = rows.cells(rows.index(name), session.visible)
        menu = QMenu(QApplication.activeWindow())
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        menu.addSection(name)
        similar = menu.addAction(
            "Find similar fields" if by == "field" else "Find similar groups",
            lambda: self.find_similar_groups(by, name),
        )
        similar.setEnabled(bool(session.embedding))
        similar.setToolTip(
            "Ranks all by how like this one the mean of their cells is: in the table and the gallery"
            if session.embedding
            else "Needs an embedding: embed the cells in the CellRep panel"
        )
        varies = menu.addAction(DIFFER[0], lambda: show_axis(self, by, name))
        varies.setEnabled(bool(session.embedding) and by in session.cells.obs)
        varies.setToolTip(DIFFER[1])
        menu.addAction(f"Select its {len(own):,} cells", lambda: session.select(own, how=f"{by} {name}"))
        show = menu.addAction("Show in image", lambda: self.show(session.place(int(own[0]))[0]))
        show.setEnabled(len(own) > 0)
        menu.popup(at if at is not None else QCursor.pos())
        self._menu = menu
        return menu

    # ---- groups that are alike -------------------------------------------------------------------

    def find_similar_groups(self, by: str, name: str, asked: bool = True) -> None:
        """Rank the values of a column by how like one of them they are, beside the window.

        Parameters
        ----------
        by, name : str
            Column, and the value that the others are compared with.
        asked : bool
            Whether a person has asked, and is to be shown the answer.
        """
        session, cells, visible = self.session, self.session.cells, self.session.visible
        if cells is None or not session.embedding:
            return
        rows, vectors = session.rows_by(by), cells.obsm[f"X_{session.embedding}"]
        before = session.similar

        def arrived(found: Any) -> None:
            if session.cells is not cells:
                return  # another table meanwhile
            if isinstance(found, Exception):
                session.similar = None
                if asked:
                    self._complain(found)
                elif self.viewer is not None:
                    self.viewer.status = str(found)
                return
            if asked or session.similar is before:  # else it was put away, or another one was asked for
                session.similar = found
            if asked:
                self.similar_found.emit()

        self.background.run(
            lambda: similar_groups(vectors, rows.members(visible), rows.names, name, by), arrived, "similar"
        )

    def _rank_again(self) -> None:
        """Other cells count, or by another embedding: rank as before."""
        found, cells = self.session.similar, self.session.cells
        if found is None:
            return
        if cells is None or found.by not in cells.obs or not self.session.embedding:
            self.session.similar = None
        else:
            self.find_similar_groups(found.by, found.name, asked=False)

    # ---- predictions -----------------------------------------------------------------------------

    def start_prediction(self, source_id: str) -> None:
        """Wait for the cell in which the pattern of `source_id` is to be predicted: the next one clicked."""
        self.source_id = source_id
        show_info(f"Now click the target cell (pattern of {source_id}).")

    def predict(self, source_id: str, target_id: str = "") -> None:
        """Ask for a prediction; its layers appear when it is there. Without a target: a random cell of the group."""
        from napari_cellrep.gui._runner import runner_of

        project = self.session.project
        if project is None:
            return
        self.viewer.status = f"Predicting the pattern of {source_id}…"
        runner_of(self.viewer).ask(
            "inpaint.inpaint",
            project.root,
            self.add_inpainting,
            lambda sentence: self._complain(sentence),
            source=source_id,
            target=target_id,
        )

    def add_inpainting(self, result: dict[str, Any]) -> None:
        """Show a prediction's layers in its field (see `add_inpainting_layers`)."""
        if self.viewer is None or self.session.project is None:
            return
        if result["field"] != self.field:
            self.show(result["field"], lambda: self.add_inpainting(result))
            return
        field = self.session.project.field(result["field"])
        source, target = result["source_cell"], result["target_cell"]
        real, predicted = np.asarray(result["target"]), np.asarray(result["prediction"])
        error = np.asarray(result["error"])
        top = float(max(np.abs(error).max(), 1e-6))
        both = (0.0, float(max(real.max(), predicted.max(), 1e-6)))
        untrained = "" if result.get("trained", True) else " (untrained model)"
        sheet: dict[str, Any] = {"blending": "translucent_no_depth"}
        at = {k: result[k] for k in ("y0", "x0", "scale")}
        structures = zip(result["structures"], np.asarray(result["structure"]), strict=True)
        shown = [
            ({"part": part, "name": name, "data": data, "limits": limits, **at}, {**sheet, "colormap": colormap, "visible": on})
            for part, name, data, colormap, limits, on in (
                *(("structure", f"{name} of {target}, as the network sees it", plane, "gray",
                   (0.0, float(max(plane.max(), 1e-6))), False) for name, plane in structures),
                ("real", f"real {target}", real, "gray", both, True),
                ("error", f"error {target} from {source}", error, ERROR_MAP, (-top, top), False),
                ("prediction", f"predicted {target} from {source}{untrained}", predicted, "gray", both, True),
            )
        ]  # fmt: skip
        add_overlays(self, field, shown, kind="inpainting", source_cell=source, target_cell=target)
        self._centre(target, True)
        mse = result.get("mse")
        words = "" if mse is None else f", mean squared error {mse:.3g}"
        self.viewer.status = f"Predicted {target} from {source}{words}."

    # ---- edits -----------------------------------------------------------------------------------

    def _on_user_paint(self, event: Any = None) -> None:
        self.edited = True

    def save_edits(self, then: Callable[[], None] | None = None) -> None:
        """Write what was painted and bring the table up to date (see `save_label_edits`)."""
        project, cells, field_id = self.session.project, self.layer("cells"), self.field
        if self.editing.part is not None:
            self.editing.save(then)
            return
        if project is None or cells is None or cells.multiscale:
            return
        new = cells.data.copy()
        self.edited = False

        def write() -> bool:
            old = project.read_labels(field_id)
            if np.array_equal(old, new):
                return False
            how = {k: v for k, v in project.label_info(field_id).items() if k != "digest"}
            if pixels := project.pixels_of(field_id):
                how["image"] = [pixels]  # they were painted on what is there now
            project.begin_step("edit")
            project.write_labels(field_id, reconcile_labels(old, new), {**how, "edited": True})
            return True

        def written(changed: Any) -> None:
            if isinstance(changed, Exception):
                self.edited = True
                self._complain(changed)
            elif changed:
                self.rebuild_table(field_id, then)
            elif then is not None:
                then()

        self.background.run(write, written)

    def rebuild_table(
        self, field_id: str, then: Callable[[], None] | None, only_edited: bool = False
    ) -> None:
        """Measure the cells of a field whose labels were edited, then call `then`; of a slide perhaps only the edited ones."""
        from napari_cellrep.gui._runner import runner_of

        root = self.session.project.root
        handle = runner_of(self.viewer).submit(
            "crop.crop", root, job_title=f"Finding the edited cells of {field_id}",
            job_reads=lambda _: read_project(root), fields=[field_id], only_edited=only_edited,
        )  # fmt: skip

        def rebuilt(*_: Any) -> None:
            self.background.forget()
            self.session.reload(handle.read)
            if then is not None:
                then()

        handle.finished.connect(rebuilt)
        handle.failed.connect(lambda sentence: self._complain(sentence))

    # ---- what the session says ---------------------------------------------------------------------

    def _on_project_changed(self) -> None:
        self.background.forget()
        self.editing.drop()
        self.field, self.source_id, self.edited, self._todo, self._marked = "", "", False, [], {}
        viewer, project = self.viewer, self.session.project
        if viewer is None:
            return
        self._colouring = object()
        self._place_colours(None, None)
        for la in self.layers():
            if project is None or la.metadata[OURS].get("root") != str(project.root):
                viewer.layers.remove(la)

    def _on_cells_changed(self) -> None:
        self.background.forget()
        if self.editing.part is not None:
            return  # it is shown afresh once the part is saved or given up
        if self.viewer is not None and self.field and not self.edited:
            known = {f.id for f in self.session.project.fields} if self.session.project else set()
            if self.field in known:
                self.show(self.field)  # labels may be new

    def _tell(self, sentence: str) -> None:
        if self.viewer is not None:
            self.viewer.status = sentence

    def _complain(self, error: Any) -> None:
        if self.viewer is not None:
            show_warning(str(error))


class LassoLine:
    """The line that is drawn about cells in the image; nothing where napari's canvas cannot be reached."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._line: Any = None

    def show(self, path: list[tuple[float, float]]) -> None:
        """Draw the path, points y and x in the world, joined to its beginning."""
        points = np.array([*path, path[0]], np.float32)[:, ::-1]
        if self._line is None:
            from vispy.scene.visuals import Line

            try:  # napari gives no public way to its scene
                scene = self._viewer.window._qt_viewer.canvas.view.scene
            except AttributeError:
                return
            self._line = Line(points, color=(*_ORANGE, 1.0), width=2, parent=scene)
            self._line.set_gl_state("translucent", depth_test=False)
            self._line.order = 1_000_000  # above all layers
        self._line.set_data(points)

    def hide(self) -> None:
        """Take the line away."""
        if self._line is not None:
            self._line.parent = None
            self._line = None


def _largest(layer: Layer) -> Any:
    """A layer's data, of one with levels the largest."""
    return layer.data[0] if layer.multiscale else layer.data


def _set_geometry(layer: Layer, geometry: dict[str, Any]) -> None:
    layer.scale = geometry["scale"]
    layer.units = geometry.get("units", ("pixel", "pixel"))
