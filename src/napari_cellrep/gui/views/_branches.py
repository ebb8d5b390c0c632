"""Branches of a tree on paper: typical cells of each, and where in a field they lie (Lu 2019, figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from qtpy.QtCore import QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen

from napari_cellrep.analysis.profiles import typical
from napari_cellrep.data.crops import Boxes
from napari_cellrep.data.project import Project
from napari_cellrep.gui._pictures import Background, Look, compose
from napari_cellrep.gui.views._grown import Grown
from napari_cellrep.gui.views._sheet import scale_bar
from napari_cellrep.gui.views._tiles import as_image

CROPS, ACROSS = 10, 5  # typical cells of a branch, and of them side by side
CROP_PX, GAP_PX, TITLE_PX, FIELD_PX = 96, 4, 40, 300
NAMES = 12  # leaves that are named


@dataclass(frozen=True)
class Branch:
    """A branch and the cells that stand for it.

    Parameters
    ----------
    title, leaves : str
        "Branch 2: 6 groups, 512 cells", and the names of its leaves.
    colour : tuple of int
        As the tree draws it.
    field_id : str
        The field with most of its cells.
    rows : ndarray of int
        Those of its cells in that field that are nearest to their mean; rows of the cell table.
    in_field : int
        Its cells in that field.
    """

    title: str
    leaves: str
    colour: tuple[int, int, int]
    field_id: str
    rows: np.ndarray
    in_field: int


@dataclass(frozen=True)
class Pictured:
    """A branch with its pictures: of its cells, of its field; there, their boxes and a scale bar, as shares of its sides."""

    branch: Branch
    crops: list[QImage]
    field: QImage
    boxes: list[tuple[float, float, float, float]]
    bar: tuple[float, str]


def branches_of(
    shown: Grown,
    branches: Sequence[tuple[int, np.ndarray]],
    colours: np.ndarray,
    vectors: np.ndarray,
    obs: pd.DataFrame,
) -> list[Branch]:
    """Find the cells that stand for each branch.

    Parameters
    ----------
    shown : Grown
    branches : sequence of (int, ndarray of int)
        Number of each branch from the top, and its leaves.
    colours : ndarray of shape (n, 3), uint8
        Of all branches.
    vectors : ndarray of shape (n_cells, d)
        The embedding the tree was made of.
    obs : DataFrame
        All cells.
    """
    out = []
    for number, leaves in branches:
        cells = np.concatenate([shown.members[leaf] for leaf in leaves])
        cells = cells[np.isfinite(vectors[cells]).all(axis=1)]
        fields = obs["field"].iloc[cells].astype(str)
        field_id = str(fields.value_counts().index[0])
        there = cells[(fields == field_id).to_numpy()]
        names = [shown.names[leaf] for leaf in leaves]
        more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
        count = f"{len(leaves):,} {shown.noun}" + (f", {len(cells):,} cells" if shown.counted else "")
        red, green, blue = (int(v) for v in colours[number])
        out.append(
            Branch(
                f"Branch {number + 1}: {count}", ", ".join(names[:NAMES]) + more, (red, green, blue), field_id,
                typical(vectors, there, CROPS), len(there),
            )
        )  # fmt: skip
    return out


def picture(
    background: Background,
    project: Project,
    obs: pd.DataFrame,
    branch: Branch,
    side_px: int,
    looks: tuple[Look, ...],
) -> Pictured:
    """Read the field of a branch and cut its cells; to be run in the background."""
    if len(looks) != len(project.channels):
        looks = background.looks(project, branch.field_id)
    own = obs.iloc[branch.rows]
    at = own[["y_px", "x_px"]].to_numpy(float)
    where = Boxes(
        own["label"].to_numpy(np.int64), own["area_px"].to_numpy(np.int64), at,
        own[["box_y0", "box_x0", "box_y1", "box_x1"]].to_numpy(np.int64),
    )  # fmt: skip
    crops = background.crops(project, branch.field_id, where, side_px)
    whole, by = background.overview(project, branch.field_id)
    h, w = (n * by for n in whole.shape[1:])
    boxes = [((x - side_px / 2) / w, (y - side_px / 2) / h, side_px / w, side_px / h) for y, x in at]
    length_px, words = scale_bar(w / 2, project.field(branch.field_id).um_per_px)
    return Pictured(
        branch, [as_image(compose(crop, looks)) for crop in crops], as_image(compose(whole, looks)), boxes,
        (length_px / w, words),
    )  # fmt: skip


def size_px(found: Sequence[Pictured]) -> tuple[int, int]:
    """Width and height of the page, px of the screen."""
    return _crops_px() + max(map(_wide, found)) + 3 * GAP_PX, len(found) * (
        TITLE_PX + FIELD_PX + GAP_PX
    ) + GAP_PX


def paint(painter: QPainter, found: Sequence[Pictured], subtitle: str) -> None:
    """Draw the branches below each other: title, numbered crops, the field with numbered boxes."""
    width, height = size_px(found)
    painter.fillRect(0, 0, width, height, QColor("white"))
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    font = painter.font()
    for i, one in enumerate(found):
        top = GAP_PX + i * (TITLE_PX + FIELD_PX + GAP_PX)
        shade, black = QColor(*one.branch.colour), QColor("black")
        painter.fillRect(QRectF(GAP_PX, top + 3, 8, TITLE_PX - 8), shade)
        font.setPixelSize(13)
        painter.setFont(font)
        painter.setPen(black)
        painter.drawText(QRectF(GAP_PX + 14, top, width, 18), Qt.AlignmentFlag.AlignVCenter, one.branch.title)
        font.setPixelSize(10)
        painter.setFont(font)
        words = painter.fontMetrics().elidedText(
            one.branch.leaves, Qt.TextElideMode.ElideRight, _crops_px() - 14
        )
        painter.drawText(QRectF(GAP_PX + 14, top + 18, width, 16), Qt.AlignmentFlag.AlignVCenter, words)
        for j, crop in enumerate(one.crops):
            y, x = divmod(j, ACROSS)
            place = QRectF(
                GAP_PX + x * (CROP_PX + GAP_PX), top + TITLE_PX + y * (CROP_PX + GAP_PX), CROP_PX, CROP_PX
            )
            painter.drawImage(place, crop)
            _number(painter, place, j + 1)
        note = f"{len(one.crops)} of its {one.branch.in_field:,} cells in {one.branch.field_id}. {subtitle}"
        rows = -(-len(one.crops) // ACROSS)
        painter.setPen(black)
        painter.drawText(
            QRectF(GAP_PX, top + TITLE_PX + rows * (CROP_PX + GAP_PX), _crops_px(), 60),
            Qt.AlignmentFlag.AlignLeft | Qt.TextFlag.TextWordWrap, note,
        )  # fmt: skip
        area = QRectF(2 * GAP_PX + _crops_px(), top + TITLE_PX, _wide(one), FIELD_PX)
        painter.drawImage(area, one.field)
        painter.save()
        painter.setClipRect(area)
        for j, (x, y, w, h) in enumerate(one.boxes):
            box = QRectF(
                area.left() + x * area.width(),
                area.top() + y * area.height(),
                w * area.width(),
                h * area.height(),
            )
            painter.setPen(QPen(QColor("white"), 2.5))
            painter.drawRect(box)
            painter.setPen(QPen(shade, 1.5))
            painter.drawRect(box)
            _number(painter, box, j + 1)
        painter.restore()
        length, words = one.bar
        right, y = area.right() - 8, area.bottom() - 8
        painter.fillRect(QRectF(right - length * area.width(), y, length * area.width(), 3), QColor("white"))
        painter.setPen(QColor("white"))
        painter.drawText(QRectF(right - 100, y - 16, 100, 14), Qt.AlignmentFlag.AlignRight, words)


def _number(painter: QPainter, box: QRectF, number: int) -> None:
    for shift, colour in ((1, "black"), (0, "white")):  # seen on any picture
        painter.setPen(QColor(colour))
        painter.drawText(box.translated(3 + shift, 1 + shift), Qt.AlignmentFlag.AlignLeft, str(number))


def _crops_px() -> int:
    return ACROSS * (CROP_PX + GAP_PX)


def _wide(one: Pictured) -> int:
    return round(FIELD_PX * one.field.width() / max(1, one.field.height()))
