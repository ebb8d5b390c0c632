"""Reading fields and cutting cell pictures in background threads, so that the window never waits for a disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_cellrep.data import slides
from napari_cellrep.data.crops import Boxes, around, cut_crops, moved
from napari_cellrep.data.project import Project
from napari_cellrep.session import Session
from napari_cellrep.specs import CropSpec, InputError

CACHE_BYTES = 512 * 2**20

# Role → colormap of napari: told apart by people with any kind of colour vision.
ROLE_COLOURS = {
    "protein": "green", "nucleus": "bop blue", "microtubules": "magenta", "er": "yellow", "membrane": "magenta",
    "structure": "magenta", "rna": "bop orange", "agp": "yellow", "mito": "red", "actin": "red",
    "brightfield": "gray", "mask": "gray", "other": "gray",
}  # fmt: skip


class Background(QObject):
    """One thread that reads, and one that prepares slides; answers arrive in the window's thread.

    Parameters
    ----------
    session : Session
        Whose project is read.
    """

    told = Signal(str)  # how far the preparing of a slide is
    _done = Signal(object, object)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cellrep-reader")
        self._slow_pool = ThreadPoolExecutor(1, thread_name_prefix="cellrep-slides")
        self._fields: OrderedDict[tuple[str, str], tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._pictures: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
        self._glimpses: dict[tuple[str, str, str], np.ndarray] = {}
        self._latest: dict[str, object] = {}
        self._closed = threading.Event()
        self._side_of: Any = None
        self._side = 64
        self._done.connect(self._deliver)

    def run(
        self, work: Callable[[], Any], then: Callable[[Any], None], kind: str = "", *, slow: bool = False
    ) -> None:
        """Do `work` in the thread, then call `then` with its result (or its exception) in the window's thread.

        Of requests of one `kind`, only the newest is answered: what the pointer has left is not read any more. What may
        take minutes is `slow`: it has a thread of its own, and pictures of cells do not wait for it.
        """
        if self._closed.is_set():
            return
        token = object()
        if kind:
            self._latest[kind] = token

        def task() -> None:
            if self._closed.is_set() or (kind and self._latest.get(kind) is not token):
                return
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - it is handed on
                result = error
            if not self._closed.is_set() and not (kind and self._latest.get(kind) is not token):
                self._done.emit(then, result)

        (self._slow_pool if slow else self._pool).submit(task)

    def _deliver(self, then: Callable[[Any], None], result: Any) -> None:
        if not self._closed.is_set():
            then(result)

    def forget(self) -> None:
        """Drop what was read: labels or files changed."""
        self._fields.clear()
        self._pictures.clear()

    def close(self) -> None:
        """Answer nothing any more and let the thread end."""
        self._closed.set()
        for pool in (self._pool, self._slow_pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def ask_picture(
        self, row: int, then: Callable[[Any], None], looks: tuple[Look, ...] = (), kind: str = "picture"
    ) -> None:
        """Call `then` with the colour picture of a cell, uint8 (S, S, 3), or with an exception.

        Cut about the cell's centre, all cells at one scale.

        Parameters
        ----------
        looks : tuple of Look
            Colour and contrast of every channel as the viewer shows them; empty: chosen for the field.
        """
        session = self._session
        project, cells = session.project, session.cells
        if project is None or cells is None:
            return
        key = (session.cell_id(row), looks)
        if key in self._pictures:
            then(self._pictures[key])
            return
        field_id = str(cells.obs["field"].iloc[row])
        where, side = self._where(np.array([row]))

        def keep(picture: Any) -> None:
            if isinstance(picture, np.ndarray):
                self._pictures[key] = picture
                while len(self._pictures) > 2000:
                    self._pictures.popitem(last=False)
            then(picture)

        self.run(lambda: self._cut(project, field_id, where, side, looks)[0], keep, kind)

    def ask_pictures(
        self,
        rows: Sequence[int],
        then: Callable[[Any], None],
        looks: tuple[Look, ...] = (),
        kind: str = "pictures",
    ) -> None:
        """Call `then` with the pictures of some cells of one field, a list of uint8 (S, S, 3), or with an exception.

        See `ask_picture`; these are not kept.
        """
        project, cells = self._session.project, self._session.cells
        if project is None or cells is None or not len(rows):
            return
        field_id = str(cells.obs["field"].iloc[rows[0]])
        where, side = self._where(np.asarray(rows))
        self.run(lambda: self._cut(project, field_id, where, side, looks), then, kind)

    def _where(self, rows: np.ndarray) -> tuple[Boxes, int]:
        """Where cells are now (rows may have moved by the time they are cut), and the side of their pictures."""
        cells = self._session.cells
        if self._side_of is not cells:
            self._side_of, self._side = cells, picture_side(self._session)
        obs = cells.obs.iloc[rows]  # type: ignore[union-attr]
        where = Boxes(
            obs["label"].to_numpy(np.int64),
            obs["area_px"].to_numpy(np.int64),
            obs[["y_px", "x_px"]].to_numpy(float),
            obs[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(np.int64),
        )
        return where, self._side

    # ---- these run in the thread -------------------------------------------------------------------

    def read_field(self, project: Project, field_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels (C, H, W) and labels (H, W) of a field, or None for labels it has not; kept for a while."""
        key = (str(project.root), field_id)
        if key not in self._fields:
            labels = project.read_labels(field_id) if project.has_labels(field_id) else None
            self._fields[key] = (project.read_image(field_id), labels)
            while len(self._fields) > 1 and sum(i.nbytes for i, _ in self._fields.values()) > CACHE_BYTES:
                self._fields.popitem(last=False)
        self._fields.move_to_end(key)
        return self._fields[key]

    def read_slide(self, project: Project, field_id: str) -> tuple[list[list[Any]], list[Any] | None]:
        """Levels of every channel of a field larger than memory, and of its labels; the smaller ones are made once.

        That is given up when another field is asked for, or the window is closed.
        """
        asked = self._latest.get("field")
        for done, total in project.make_levels(field_id):
            if self._closed.is_set() or self._latest.get("field") is not asked:
                raise InputError(f"{field_id} is not shown: another field was asked for.")
            self.told.emit(f"Preparing {field_id} to be looked at, once: part {done:,} of {total:,}")
        path = project.labels_path(field_id)
        return project.levels(field_id), slides.label_levels(path) if path.is_dir() else None

    def looks(self, project: Project, field_id: str) -> tuple[Look, ...]:
        """Colour and contrast of every channel as they are chosen for a field."""
        if project.is_big(field_id):
            key = (str(project.root), field_id, project.image_stamp(field_id))
            if key not in self._glimpses:
                self._glimpses[key] = project.glimpse(field_id)
            image = self._glimpses[key]
        else:
            image = self.read_field(project, field_id)[0]
        return tuple(default_look(c.role, plane) for c, plane in zip(project.channels, image, strict=True))

    def overview(self, project: Project, field_id: str) -> tuple[np.ndarray, float]:
        """A whole field (C, h, w), and field pixels per pixel of it; of one larger than memory a small picture."""
        if not project.is_big(field_id):
            return self.read_field(project, field_id)[0], 1.0
        if project.levels_folder(field_id).is_dir():
            small = np.stack([np.asarray(of_channel[-1]) for of_channel in project.levels(field_id)])
            return small, project.field(field_id).height_px / small.shape[1]
        return project.overview(field_id, slides.SMALLEST_PX)

    def crops(self, project: Project, field_id: str, where: Boxes, side: int) -> np.ndarray:
        """Windows (n, C, side, side) about cells of one field; of one larger than memory cut part by part."""
        spec = CropSpec(size_px=side, window_px=side)
        if not project.is_big(field_id):
            return cut_crops(self.read_field(project, field_id)[0], None, where, spec)
        field = project.field(field_id)
        out = np.empty((len(where), len(project.channels), side, side), field.dtype)
        for at in project.parts_of(field_id, where.centroid):
            some = Boxes(where.label[at], where.area_px[at], where.centroid[at], where.box[at])
            box = slides.grown(around(some, [spec]), 0, (field.height_px, field.width_px))
            out[at] = cut_crops(project.read_region(field_id, box), None, moved(some, box[:2]), spec)
        return out

    def _cut(
        self, project: Project, field_id: str, where: Boxes, side: int, looks: tuple[Look, ...]
    ) -> list[np.ndarray]:
        if len(looks) != len(project.channels):
            looks = self.looks(project, field_id)
        return [compose(crop, looks) for crop in self.crops(project, field_id, where, side)]


Look = tuple[
    tuple[float, float, float], float, float
]  # colour of the brightest (0 to 1), contrast low and high


def default_look(role: str, plane: np.ndarray) -> Look:
    """Colour by role, contrast by the plane's 0.5th and 99.8th percentile."""
    from napari.utils.colormaps import ensure_colormap

    colour = ensure_colormap(ROLE_COLOURS.get(role, "gray")).colors[-1][:3]
    low, high = contrast_of(plane)
    return (tuple(float(v) for v in colour), low, high)  # type: ignore[return-value]


def contrast_of(plane: np.ndarray) -> tuple[float, float]:
    """Contrast limits that show a fluorescence plane: 0.5th to 99.8th percentile of a sample of its pixels."""
    step = max(1, int(np.sqrt(plane.size / 250_000)))
    low, high = np.percentile(plane[::step, ::step], (0.5, 99.8))
    return float(low), float(high if high > low else low + 1)


def compose(crop: np.ndarray, looks: tuple[Look, ...]) -> np.ndarray:
    """Add the channels of a crop (C, H, W) up as light: uint8 (H, W, 3)."""
    out = np.zeros((*crop.shape[1:], 3), np.float32)
    for plane, (colour, low, high) in zip(crop, looks, strict=True):
        share = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1)
        out += share[..., None] * np.array(colour, np.float32)
    return (np.clip(out, 0, 1) * 255).astype(np.uint8)


def picture_side(session: Session) -> int:
    """Side in field pixels of every cell picture: about one and a half of a large cell of this project."""
    if session.cells is None or not session.n_cells:
        return 64
    obs = session.cells.obs
    sides = np.maximum(obs["box_y1"].to_numpy() - obs["box_y0"], obs["box_x1"].to_numpy() - obs["box_x0"])
    return int(np.clip(round(1.6 * float(np.percentile(sides, 75))), 32, 1024))
