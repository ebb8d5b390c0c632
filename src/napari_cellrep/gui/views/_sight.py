"""What the network got of a cell, for a view: asked of the worker, one cell at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from napari_cellrep.gui._runner import runner_of
from napari_cellrep.session import Session

MOST_KEPT = 200


class Sight:
    """Asks for cells as the network of the session's embedding got them; the window never waits.

    One question is under way at a time, and then the newest: who steps through cells fast leaves no queue behind.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Of the viewer whose worker is asked.
    then : callable
        Gets (cell id, answer): a dict like `steps.preview.Sight`, or a sentence that says why there is none.
    """

    def __init__(self, session: Session, canvas: Any, then: Callable[[str, dict[str, Any] | str], None]):
        self.session, self.canvas, self._then = session, canvas, then
        self._kept: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()
        self._cells: Any = None
        self._planes: dict[str, int] = {}
        self._asked: tuple[str, str, str] | None = None  # under way
        self._wanted: tuple[str, str, str] | None = None
        self.closed = False

    def close(self) -> None:
        """Hand no answer on any more."""
        self.closed = True

    def n_planes(self) -> int:
        """Planes that the network of the embedding gets; 0 where no network is known."""
        session = self.session
        self._look_again()
        if session.project is None or not session.embedding:
            return 0
        if session.embedding not in self._planes:
            how = session.project.embedding_info(session.embedding)
            crop = how.get("crop") or {}
            self._planes[session.embedding] = (
                len(how.get("channels", ())) + bool(crop.get("mask_plane")) if crop else 0
            )
        return self._planes[session.embedding]

    def look(self, cell_id: str) -> None:
        """Ask for a cell; answered at once where it is known."""
        self._wanted = None
        if not cell_id or not self.n_planes():
            return
        question = (str(self.session.project.root), self.session.embedding, cell_id)
        if question in self._kept:
            self._then(cell_id, self._kept[question])
        else:
            self._wanted = question
            self._ask()

    def _look_again(self) -> None:
        if self.session.cells is not self._cells:  # measured or embedded anew
            self._cells = self.session.cells
            self._kept.clear()
            self._planes.clear()

    def _ask(self) -> None:
        viewer = self.canvas.viewer
        if self._asked is not None or self._wanted is None or viewer is None or self.closed:
            return
        question = self._asked = self._wanted
        root, embedding, cell_id = question
        cells = self._cells

        def answered(answer: Any) -> None:
            self._asked = None
            if self.closed:
                return
            if not isinstance(answer, str) and cells is self._cells:
                self._kept[question] = answer
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
            if question == self._wanted:
                self._wanted = None
                self._then(cell_id, answer)
            self._ask()

        runner_of(viewer).ask(
            "preview.what_it_sees", root, answered, answered, embedding=embedding, cell_id=cell_id
        )
