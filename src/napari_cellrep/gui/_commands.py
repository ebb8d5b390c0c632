"""What napari's menus and its command palette offer: each opens the panel where the thing is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.viewer import Viewer

if TYPE_CHECKING:
    from napari_cellrep.gui._dock import CellRepDock
    from napari_cellrep.gui._explore import ExploreWidget


def _dock(viewer: Viewer) -> CellRepDock:
    return viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")[1]


def _explore(viewer: Viewer) -> ExploreWidget:
    return viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")[1]


def segment_cells(viewer: Viewer) -> None:
    """Open card 2."""
    _dock(viewer).open_card("segment")


def embed_cells(viewer: Viewer) -> None:
    """Open card 4: embed or train."""
    _dock(viewer).open_card("model")


def take_the_tour(viewer: Viewer) -> None:
    """Show what to press, on the sample."""
    _dock(viewer).tour.begin()


def show_gallery(viewer: Viewer) -> None:
    """Open the gallery of cells."""
    _explore(viewer).view("Gallery")


def show_table(viewer: Viewer) -> None:
    """Open the table of cells."""
    _explore(viewer).view("Table")


def show_plate(viewer: Viewer) -> None:
    """Open the plate."""
    _explore(viewer).view("Plate")


def export_cells(viewer: Viewer) -> None:
    """Ask what to write and where."""
    dock = _dock(viewer)
    if dock.session.embeddings:
        dock.open_card("explore")
        dock.cards["explore"].choose_export()
    else:
        dock.strip.say(
            "There is nothing to export yet: open a project and embed its cells first (cards 1 to 4)."
        )
