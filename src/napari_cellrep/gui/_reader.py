"""A project folder opened by napari itself: dropped on the window, or named on its command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NO_LAYER = [(None,)]  # napari's way to say that reading worked and adds no layer of its own


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[tuple[Any, ...]]] | None:
    """The reader for a project folder; None for anything else. Cheap, and never raises."""
    if (
        isinstance(path, str)
        and path.rstrip("/\\").endswith(".cellrep")
        and (Path(path) / "project.json").is_file()
    ):
        return open_folder
    return None


def open_folder(path: str) -> list[tuple[Any, ...]]:
    """Open the project in the current viewer's session and show a field of it.

    The CellRep dock, if it is open or is opened later, goes on from there.
    """
    import napari
    from napari.utils.notifications import show_error

    from napari_cellrep.gui._image import canvas_of
    from napari_cellrep.session import read_project

    canvas = canvas_of(napari.current_viewer())

    def opened(read: Any) -> None:
        if isinstance(read, Exception):
            show_error(str(read))
            return
        canvas.session.open(read)
        if fields := read.usable_fields:
            canvas.show(fields[0].id)

    canvas.background.run(lambda: read_project(path), opened, "open")
    return NO_LAYER
