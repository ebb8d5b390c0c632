"""Leave and return: what was looked at, and how, is kept beside the table and comes back with the project.

Only what differs from a fresh start is kept, in ``view.json``. A project that is only looked at is not written to.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.utils.colormaps import AVAILABLE_COLORMAPS
from napari.utils.notifications import show_warning
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLineEdit

from napari_cellrep.data.files import write_text
from napari_cellrep.specs import InputError

if TYPE_CHECKING:
    from napari_cellrep.gui._image import Canvas
    from napari_cellrep.gui.views._parts import CellView

logger = logging.getLogger(__name__)
FILE, FORMAT = "view.json", 1
ARRANGED = "arrangement"  # beside the names of a view's boxes
NOT_KEPT = "selected cells"  # a choice that means nothing once the selection is gone


class Leaving(QObject):
    """Keeps one viewer's views with the project that is left, and brings back those of the one that is opened.

    Parameters
    ----------
    canvas : Canvas
        Its session says when a project is left and opened.
    """

    def __init__(self, canvas: Canvas) -> None:
        super().__init__()
        self.canvas, self.session = canvas, canvas.session
        self.kept: dict[str, Any] = {}  # as read from the project
        self._newer = False  # it is of a newer version, and stays as it is
        self._arrived: dict[str, Any] = {}  # as it was once the project was open
        self._dock_px: list[int] = []  # of the Explore panel when a button was pressed on the window's frame
        self._explore: Callable[[], Any] = lambda: None  # the Explore panel, or None
        self.session.project_left.connect(self.leave)
        self.session.project_opened.connect(self.arrive)
        canvas.viewer.window.main_menu.window().installEventFilter(self)
        if self.session.project is not None:
            self.arrive()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Keep everything before the window goes; see when a person drags the border of the Explore panel."""
        kind, explore = event.type() if event is not None else None, self._panel()
        if kind == QEvent.Type.Close:
            self.leave()
        elif explore is not None and kind == QEvent.Type.MouseButtonPress:
            self._dock_px = explore.dock_px()
        elif explore is not None and kind == QEvent.Type.MouseButtonRelease:
            explore.dock_moved |= explore.dock_px() != self._dock_px
        return False

    def join(self, explore: Any) -> None:
        """Bring the Explore panel to where it was; its own part is kept from now on."""
        import weakref

        self._explore = weakref.ref(explore)
        self._return_explore()
        self._arrived["explore"] = self._now()["explore"]

    def remember(self, explore: dict[str, Any]) -> None:
        """Note how the Explore panel was when it was closed, while the project is still open."""
        if self.session.project is not None:
            self.kept["explore"] = explore

    # ---- leaving -----------------------------------------------------------------------------------

    def leave(self) -> None:
        """Write what is looked at into the project, if it is not what was found there and can be written."""
        project = self.session.project
        if project is None or self.canvas.viewer is None or self._newer:
            return
        now = self._now()
        # The camera goes to every cell that is clicked: by itself it counts only where a person has moved it.
        if now == self._arrived and not self.canvas.camera_moved:
            return
        camera = self.canvas.camera() or self.canvas.kept_camera
        if not (project.root.is_dir() and os.access(project.root, os.W_OK)):
            logger.info("%s is read-only: what was looked at is not kept.", project.root)
            return
        try:
            write_text(
                project.root / FILE,
                json.dumps({"format": FORMAT, **now, "camera": camera}, ensure_ascii=False, indent=1),
            )
        except (InputError, OSError) as error:
            logger.warning("What was looked at is not kept: %s", error)
        else:
            self._arrived, self.kept = now, {**now, "camera": camera}

    def _now(self) -> dict[str, Any]:
        session, canvas, explore = self.session, self.canvas, self._panel()
        return {
            "embedding": session.embedding,
            "colour_by": session.colour_by,
            "hide_flagged": session.hide_flagged,
            "hidden": {column: sorted(names) for column, names in session.hidden.items()},
            "limits": {column: list(ends) for column, ends in session.limits.items()},
            "coloured": canvas.coloured,
            "field": canvas.field or self.field,
            "channels": canvas.changed_looks(),
            "explore": _mapping(self.kept.get("explore")) if explore is None else explore.value(),
        }

    def _panel(self) -> Any:
        explore = self._explore()
        try:
            return explore if explore is not None and explore.objectName() else None
        except RuntimeError:  # its Qt object is gone
            return None

    # ---- arriving ----------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Read what the project keeps and bring it back; what does not fit any more is left out."""
        session = self.session
        self.kept, self._newer = {}, False
        self.canvas.keep_camera([])
        if session.project is None:
            return
        try:
            self.kept = kept = read_view(session.project.root)
        except InputError as error:
            self.kept, self._newer = (kept := {}), True
            show_warning(str(error))
        self.canvas.coloured = kept.get("coloured") is True
        self.canvas.kept_looks = _mapping(kept.get("channels"))
        self.canvas.keep_camera(_camera(kept.get("camera")) if kept.get("field") == self.field else [])
        if isinstance(kept.get("hide_flagged"), bool):
            session.hide_flagged = kept["hide_flagged"]
        elif not session.hide_flagged:
            session.hide_flagged = True
        if kept.get("embedding") in session.embeddings:
            session.embedding = kept["embedding"]
        if kept.get("colour_by") in session.colour_choices:
            session.colour_by = kept["colour_by"]
        self._return_colours()
        self._return_explore()
        self._arrived = self._now()

    def _return_colours(self) -> None:
        """Hide the values that were hidden, and end the colours where they ended."""
        session = self.session
        for column, names in _mapping(self.kept.get("hidden")).items():
            if column in session.colour_choices and isinstance(names, list):
                session.hide_values(column, [name for name in names if isinstance(name, str)])
        for column, ends in _mapping(self.kept.get("limits")).items():
            try:
                low, high = (float(v) for v in ends)
            except (TypeError, ValueError):
                continue
            if column in session.colour_choices and -math.inf < low < high < math.inf:
                session.set_colour_limits(column, (low, high))

    @property
    def field(self) -> str:
        """The field to begin with: the one last looked at, else the first."""
        project = self.session.project
        fields = [f.id for f in project.usable_fields] if project is not None else []
        kept = self.kept.get("field")
        return kept if kept in fields else next(iter(fields), "")

    def _return_explore(self) -> None:
        explore, kept = self._panel(), self.kept.get("explore")
        if explore is not None:
            explore.set_value(_mapping(kept))


def read_view(root: Path) -> dict[str, Any]:
    """What a project keeps of how it was looked at; {} where there is nothing, or nothing that can be read.

    Raises
    ------
    InputError
        If a newer version wrote it.
    """
    path = root / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is left aside: it cannot be read (%s).", path, error)
        return {}
    said = found.pop("format", None) if isinstance(found, dict) else None
    if isinstance(said, int) and said > FORMAT:
        raise InputError(
            f"How {root.name} was looked at was kept by a newer version (format {said}, this one reads up to {FORMAT}): it is "
            "shown afresh, and what was kept stays as it is; update napari-cellrep."
        )
    if said != FORMAT:
        logger.warning("%s is left aside: it is something else.", path)
        return {}
    return found


def _camera(value: Any) -> list[float]:
    """Middle and zoom as `Canvas.camera` told them; empty for what is none."""
    numbers = [float(v) for v in value if isinstance(v, int | float)] if isinstance(value, list) else []
    return numbers if len(numbers) == 3 and all(map(math.isfinite, numbers)) and numbers[2] > 0 else []


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


# ---- a channel's colour and contrast -------------------------------------------------------------


def look_of(layer: Image) -> dict[str, Any]:
    """How a channel is shown, as plain values."""
    low, high = (float(v) for v in layer.contrast_limits)
    return {
        "contrast": [low, high],
        "colormap": layer.colormap.name if layer.colormap.name in AVAILABLE_COLORMAPS else "",
        "gamma": float(layer.gamma),
        "opacity": float(layer.opacity),
        "visible": bool(layer.visible),
    }


def return_look(layer: Image, look: Any) -> None:
    """Show a channel as it was shown; a value that cannot be is left out."""
    for name, value in _mapping(look).items():
        try:
            if name == "contrast":
                low, high = (float(v) for v in value)
                if not -math.inf < low < high < math.inf:
                    raise ValueError("the contrast ends before it begins, or nowhere")
                layer.contrast_limits = (low, high)
            elif name == "colormap":
                if value in AVAILABLE_COLORMAPS:
                    layer.colormap = value
            elif name in ("gamma", "opacity"):
                if not 0 < float(value) < 100:
                    raise ValueError(f"{value} is no {name}")
                setattr(layer, name, float(value))
            elif name == "visible":
                layer.visible = value is not False
        except (TypeError, ValueError) as error:
            logger.warning("The %s of channel %s is left aside (%s).", name, layer.name, error)


# ---- what is chosen in a view ----------------------------------------------------------------------


def choices_of(view: CellView) -> dict[str, Any]:
    """What is chosen in a view: the name in its code → text of a box or line, whether a button is down, or a number.

    And its arrangement, where it has one.
    """
    found: dict[str, Any] = {ARRANGED: arranged} if (arranged := view.arrangement()) else {}
    for name, part in vars(view).items():
        if isinstance(part, QComboBox):
            found[name] = part.currentText()
        elif name in getattr(view, "kept", ()):
            found[name] = _value_of(part)
    return found


def return_choices(view: CellView, choices: Any) -> None:
    """Choose again, as a person does; what is not offered any more is left out."""
    choices = _mapping(choices)
    view.arrange_as(_mapping(choices.pop(ARRANGED, None)))
    for name, kept in choices.items():
        part = vars(view).get(name)
        if isinstance(part, QComboBox):
            at = max(part.findText(kept), part.findData(kept)) if isinstance(kept, str) else -1
            if at >= 0 and at != part.currentIndex():
                part.setCurrentIndex(at)
                part.activated.emit(at)
        elif name in getattr(view, "kept", ()) and type(kept) is type(_value_of(part)):
            _set_value(part, kept)


def changed_choices(view: CellView, first: Mapping[str, Any]) -> dict[str, Any]:
    """Those choices that are not as they were when the view was made."""
    return {n: w for n, w in choices_of(view).items() if w != first.get(n) and w != NOT_KEPT}


def _value_of(part: Any) -> Any:
    """Of a button whether it is down, of a line its text, else (a slider, a number) its value."""
    if isinstance(part, QAbstractButton):
        return part.isChecked()
    return part.text() if isinstance(part, QLineEdit) else part.value()


def _set_value(part: Any, value: Any) -> None:
    if isinstance(part, QAbstractButton):
        part.setChecked(value)
    elif isinstance(part, QLineEdit):
        part.setText(value)
        part.editingFinished.emit()
    else:
        part.setValue(value)
