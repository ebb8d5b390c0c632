"""A second map beside the first: another model or layer, or other axes, of the same cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_cellrep.data.cells import map_key
from napari_cellrep.gui.views._parts import choice_box
from napari_cellrep.gui.views._words import column_words
from napari_cellrep.gui.views.map import MapView
from napari_cellrep.session import MapPlace, Session


class SecondMap(QWidget):
    """A map with its own choice of what it shows; selection, colours and what is hidden are the session's.

    Parameters
    ----------
    session : Session
    ask_picture : callable
        As `MapView` takes it.
    place : MapPlace, optional
        What to show at first; without it another embedding than the session's, if there is one.
    """

    closed = Signal()
    wanted = Signal(str)  # an embedding that has no map yet was chosen

    def __init__(
        self,
        session: Session,
        ask_picture: Callable[[int, Callable[[Any], None]], None] | None = None,
        place: MapPlace | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self._place = place  # what was chosen, also while it is not in the table
        self._making: set[str] = set()  # embeddings whose map is under way
        self.map = MapView(session, ask_picture, place or _first_choice(session), with_legend=False)
        self.map.setAccessibleName("Second map of cells")
        self.choice = choice_box(
            "What the second map shows: an embedding, and how it is laid out.\n"
            "A map that is not there yet is made when it is chosen; the window does not wait.",
            name="Second map",
        )
        self.choice.activated.connect(self._on_chosen)
        self.close_it = QToolButton()
        self.close_it.setText("×")
        self.close_it.setToolTip("Close the second map")
        self.close_it.setAccessibleName("Close the second map")
        self.close_it.clicked.connect(lambda _=False: self.closed.emit())
        bar = QHBoxLayout()
        bar.setContentsMargins(4, 2, 4, 0)
        bar.addWidget(self.choice, 1)
        bar.addWidget(self.close_it)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(bar)
        layout.addWidget(self.map, 1)
        session.cells_changed.connect(self._offer)
        self.signals = (*self.map.signals, (session.cells_changed, self._offer))
        self._offer()

    def disconnect_session(self) -> None:
        """Stop listening; called before the widget goes."""
        self.session.cells_changed.disconnect(self._offer, missing_ok=True)
        self.map.disconnect_session()

    def sizeHint(self) -> QSize:  # noqa: D102
        return self.map.sizeHint()

    @property
    def place(self) -> MapPlace | None:
        """What is shown."""
        return self.map.place

    def show_place(self, place: MapPlace) -> None:
        """Show this one of the session's maps."""
        self._place = place
        self._offer()

    def not_made(self, embedding: str) -> None:
        """A map that was wanted did not come: it failed or was stopped."""
        self._making.discard(embedding)
        self._place = self.map.place
        self._offer()

    def _offer(self) -> None:
        """Offer what is in the table, and the maps that can be made; the same is shown if it still is there."""
        maps, cells = self.session.maps, self.session.cells
        of_all = [MapPlace(embedding, map_key(embedding)) for embedding in self.session.embeddings]
        missing = [place for place in of_all if cells is not None and place.key not in cells.obsm]
        self._making &= {place.embedding for place in missing}
        self.choice.clear()
        for place in maps:
            self.choice.addItem(f"{column_words(place.embedding)} · {place.name}", place)
        for place in missing:
            state = "being made…" if place.embedding in self._making else "to be made"
            self.choice.addItem(f"{column_words(place.embedding)} · {place.name} ({state})", place)
        self.choice.setEnabled(self.choice.count() > 0)
        if self._place in maps:
            self.map.show_place(self._place)
        elif self.map.place not in maps:
            self.map.show_place(_first_choice(self.session))
        under_way = self._place in missing and self._place.embedding in self._making
        shown = self._place if under_way else self.map.place
        every = [*maps, *missing]
        self.choice.setCurrentIndex(every.index(shown) if shown in every else -1)

    def _on_chosen(self, index: int) -> None:
        place = self._place = self.choice.itemData(index, Qt.ItemDataRole.UserRole)
        if place in self.session.maps:
            self.map.show_place(place)
            return
        new = place.embedding not in self._making
        self._making.add(place.embedding)
        self._offer()
        if new:
            self.wanted.emit(place.embedding)


def _first_choice(session: Session) -> MapPlace | None:
    """Another embedding than the one that is looked at, or another view of the same."""
    others = [place for place in session.maps if place.embedding != session.embedding]
    return next(iter(others), None) or next(iter(session.maps[1:]), None) or next(iter(session.maps), None)
