"""The plate: wells coloured by any number, the first look of every screener."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import (
    QBrush,
    QColor,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from qtpy.QtWidgets import QHBoxLayout, QLabel, QToolTip, QVBoxLayout, QWidget

from napari_cellrep.gui.views._parts import CellView, ChoiceBox, offer
from napari_cellrep.gui.views._raster import Colours, colours_of
from napari_cellrep.gui.views._tones import faint_mark, selection_beside
from napari_cellrep.gui.views._words import column_words
from napari_cellrep.gui.views.map import selection_mode
from napari_cellrep.session import Session

COUNT, FLAGGED, CHOSEN = "number of cells", "share of flagged cells", "share of selected cells"
SPREAD = ", spread"  # ends the name of what is the spread of a column
_FORMATS = ((8, 12), (16, 24), (32, 48))  # rows and columns of 96, 384 and 1536 wells
_LEGEND_PX = 44
_NAMES_PX = 22
_ARROWS = {
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Up: (-1, 0),
    Qt.Key.Key_Down: (1, 0),
}  # rows down, columns to the right


@dataclass(frozen=True)
class Plate:
    """The wells of one plate.

    Parameters
    ----------
    name : str
    shape : tuple of int
        Rows and columns: the smallest usual format that has all wells.
    wells : dict
        (row, column), from 0 → rows of the cell table.
    """

    name: str
    shape: tuple[int, int]
    wells: dict[tuple[int, int], np.ndarray]


def place_of(well: str) -> tuple[int, int] | None:
    """Row and column of a well, from 0: "A01" is (0, 0), "AF48" (31, 47); None for what is no well."""
    found = re.fullmatch(r"([A-Z]{1,2})(\d{1,2})", str(well).strip().upper())
    if not found or int(found[2]) < 1:
        return None
    row = 0
    for letter in found[1]:
        row = row * 26 + ord(letter) - ord("A") + 1
    return row - 1, int(found[2]) - 1


def plates_of(obs: pd.DataFrame) -> list[Plate]:
    """The plates in a table of cells, in their first order; [] where no column "well" names wells."""
    if "well" not in obs:
        return []
    names = obs["plate"].astype(str).to_numpy() if "plate" in obs else np.full(len(obs), "")
    found = []
    for name in dict.fromkeys(names):
        own = np.flatnonzero(names == name)
        codes, wells = pd.factorize(obs["well"].astype(str).to_numpy()[own])
        places = {place_of(w): own[codes == i] for i, w in enumerate(wells) if place_of(w) is not None}
        if places:
            last = np.max([p for p in places if p is not None], axis=0)
            shape = next(
                (s for s in _FORMATS if last[0] < s[0] and last[1] < s[1]), tuple(int(v) + 1 for v in last)
            )
            found.append(Plate("" if name == "nan" else name, shape, places))  # type: ignore[arg-type]
    return found


def well_values(
    plate: Plate, obs: pd.DataFrame, what: str, visible: np.ndarray, selected: np.ndarray
) -> pd.Series:
    """A number, or a word, for each well.

    Parameters
    ----------
    what : str
        `COUNT`, `FLAGGED`, `CHOSEN`, "<column>" (mean of numbers, or the word all cells have), or "<column>, spread"
        (standard deviation). Hidden cells do not count, but for the share of flagged cells.
    """
    values: list[Any] = []
    column, spread = what.removesuffix(SPREAD), what.endswith(SPREAD)
    for rows in plate.wells.values():
        shown = rows[visible[rows]]
        if what == COUNT:
            values.append(float(len(shown)))
        elif what == FLAGGED:
            values.append(float(1 - obs["good"].to_numpy()[rows].mean()) if "good" in obs else np.nan)
        elif what == CHOSEN:
            values.append(float(selected[shown].mean()) if len(shown) else np.nan)
        elif pd.api.types.is_numeric_dtype(obs[column]):
            own = obs[column].to_numpy(float, na_value=np.nan)[shown]
            own = own[np.isfinite(own)]
            if len(own) < (2 if spread else 1):
                values.append(np.nan)
            else:
                values.append(float(own.std() if spread else own.mean()))
        else:
            words = obs[column].iloc[rows].dropna().astype(str).unique()
            values.append(words[0] if len(words) == 1 else "several" if len(words) else None)
    return pd.Series(values, name=what, index=pd.Index(list(plate.wells), tupleize_cols=False))


class PlateView(CellView):
    """A heat map of wells; clicking one selects its cells.

    Parameters
    ----------
    session : Session
    canvas : Canvas
        Opens the field of a well that is double-clicked.
    """

    title = "Plate"

    def __init__(self, session: Session, canvas: Any) -> None:
        super().__init__(session, canvas)
        self.plates: list[Plate] = []
        self._columns: dict[str, str] = {}  # in words → in the table
        self.what = ChoiceBox()
        self.what.setToolTip(
            "What the colour of a well says: means and spreads are of its cells that are shown"
        )
        self.plate = ChoiceBox()
        self.plate.setToolTip("Which plate")
        self.words = QLabel()
        bar = QHBoxLayout()
        bar.setContentsMargins(4, 2, 4, 2)
        bar.addWidget(QLabel("wells by"))
        bar.addWidget(self.what, 1)
        bar.addWidget(self.plate)
        bar.addWidget(self.words, 2)
        self.wells = Wells(self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(bar)
        layout.addWidget(self.wells, 1)
        self.what.currentIndexChanged.connect(lambda _: self.refresh())
        self.plate.currentIndexChanged.connect(lambda _: self.refresh())
        self.wells.clicked.connect(self._on_clicked)
        self.wells.framed.connect(self._on_framed)
        self.wells.menu_requested.connect(self._on_menu)
        self.listen(
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.visible_changed, self.refresh),
            (session.selection_changed, self._on_selection_changed),
            (session.focus_changed, self._on_focus),
        )
        self._on_table_changed()

    def _on_table_changed(self) -> None:
        cells = self.session.cells
        self.plates = plates_of(cells.obs) if cells is not None else []
        columns: list[str] = []
        for column in self.session.columns if cells is not None else ():
            if column in ("well", "plate", "field", "group", "y_px", "x_px") or column.startswith("has_"):
                continue
            columns.append(column)
            values = cells.obs[column]  # type: ignore[union-attr]
            if pd.api.types.is_float_dtype(values) and values.nunique() > 12:
                columns.append(f"{column}{SPREAD}")
        self._columns = {
            f"{column_words(c.removesuffix(SPREAD))}{SPREAD * c.endswith(SPREAD)}": c for c in columns
        }
        offer(self.what, [COUNT, FLAGGED, CHOSEN, *self._columns])
        offer(self.plate, [plate.name or "plate" for plate in self.plates])
        self.plate.setVisible(len(self.plates) > 1)
        self.refresh()

    def refresh(self) -> None:
        """Colour the wells anew."""
        session = self.session
        if not self.plates or session.cells is None:
            self.wells.show_plate(None, None)
            self.words.setText(
                "No cells yet: segment the images in the CellRep panel."
                if session.cells is None
                else "The images name no wells: a plate table with a column “well” brings them (card 1)."
            )
            return
        plate = self.plates[max(0, self.plate.currentIndex())]
        chosen = self.what.currentText() or COUNT
        what = self._columns.get(chosen, chosen)
        values = well_values(plate, session.cells.obs, what, session.visible, session.selected)
        self.wells.show_plate(plate, values)
        self.words.setText(edge_words(plate, values))

    def _on_selection_changed(self) -> None:
        if self.what.currentText() == CHOSEN:
            self.refresh()
        self.wells.update()

    def _on_focus(self, _: int) -> None:
        self.wells.update()

    def _on_clicked(self, rows: Any, mode: str) -> None:
        self.session.select(rows, mode, f"well {self.session.value(int(rows[0]), 'well')}")

    def _on_menu(self, rows: Any, at: Any) -> None:
        """Ask what can be done with a well: as a group where it is one, else as the wells of its name."""
        by, name = group_of(self.session.cells.obs, rows)
        self.canvas.open_group_menu(by, name, at)

    def _on_framed(self, rows: Any) -> None:
        self.canvas.show(self.session.place(int(rows[0]))[0])


def edge_words(plate: Plate, values: pd.Series) -> str:
    """Say whether the wells at the plate's rim differ from the others; "" where there is too little to say.

    The medians are compared with the spread of the inner wells (1.4826 times their median absolute deviation). On a
    plate that is not at least half full the rim's wells are mostly other treatments, and nothing is said.
    """
    n_wells = plate.shape[0] * plate.shape[1]
    if not pd.api.types.is_numeric_dtype(values) or 2 * len(values.dropna()) < n_wells:
        return ""
    rim = np.array([r in (0, plate.shape[0] - 1) or c in (0, plate.shape[1] - 1) for r, c in plate.wells])
    outer, inner = values[rim].dropna(), values[~rim].dropna()
    if len(outer) < 8 or len(inner) < 8:
        return ""
    spread = 1.4826 * float((inner - inner.median()).abs().median())
    shift = float(outer.median() - inner.median())
    if not spread or abs(shift) < 1.5 * spread:
        return ""
    return f"⚠ The rim differs: {abs(shift) / spread:.1f} spreads {'above' if shift > 0 else 'below'} the inner wells."


def group_of(obs: pd.DataFrame, rows: np.ndarray) -> tuple[str, str]:
    """Column and value that mean a well: its group, where the cells of the well are one, else its name."""
    if "group" in obs:
        group = obs["group"].iloc[rows].astype(str).unique()
        if len(group) == 1 and (obs["group"].astype(str) == group[0]).sum() == len(rows):
            return "group", str(group[0])
    return "well", str(obs["well"].iloc[rows[0]])


class Wells(QWidget):
    """The picture of one plate."""

    clicked = Signal(object, str)  # rows of the cell table, selection mode
    framed = Signal(object)
    menu_requested = Signal(object, object)  # rows, global position

    def __init__(self, view: PlateView) -> None:
        super().__init__()
        self.session = view.session
        self.shown: Plate | None = None
        self.values: pd.Series | None = None
        self.colours: Colours | None = None
        self.at: tuple[int, int] | None = None  # the well that the arrow keys are at
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumHeight(120)
        self.setAccessibleName("Wells of the plate")

    def sizeHint(self) -> QSize:
        """Room for 96 wells."""
        return QSize(420, 260)

    def show_plate(self, plate: Plate | None, values: pd.Series | None) -> None:
        """Show a plate by these values, one for each of its wells."""
        self.shown, self.values = plate, values
        self.at = self.at if plate is not None and self.at in plate.wells else None
        self.colours = (
            colours_of(values, len(values)) if values is not None and len(values.dropna()) else None
        )
        self.update()

    def _step(self) -> float:
        rows, columns = self.shown.shape  # type: ignore[union-attr]
        return max(
            4.0,
            min((self.width() - _NAMES_PX - 8) / columns, (self.height() - _NAMES_PX - _LEGEND_PX) / rows),
        )

    def rect_of(self, place: tuple[int, int]) -> QRectF:
        """Where a well is drawn."""
        step = self._step()
        gap = 1 if step > 8 else 0.5
        return QRectF(_NAMES_PX + place[1] * step, _NAMES_PX + place[0] * step, step - gap, step - gap)

    def place_at(self, at: QPointF) -> tuple[int, int] | None:
        """The well under a point; None where there is none of this project."""
        if self.shown is None:
            return None
        step = self._step()
        row, column = int((at.y() - _NAMES_PX) // step), int((at.x() - _NAMES_PX) // step)
        return (row, column) if (row, column) in self.shown.wells else None

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw wells, names of rows and columns, and what the colours mean."""
        if self.shown is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        rows, columns = self.shown.shape
        step = self._step()
        font = painter.font()
        font.setPixelSize(int(max(7, min(12, step * 0.6))))
        painter.setFont(font)
        painter.setPen(text)
        middle = Qt.AlignmentFlag.AlignCenter
        for c in range(columns):
            painter.drawText(QRectF(_NAMES_PX + c * step, 0, step, _NAMES_PX), middle, str(c + 1))
        for r in range(rows):
            painter.drawText(QRectF(0, _NAMES_PX + r * step, _NAMES_PX, step), middle, row_name(r))
        empty = QColor(text)
        empty.setAlpha(40)
        for r in range(rows):
            for c in range(columns):
                if (r, c) not in self.shown.wells:
                    painter.setPen(QPen(empty, 1))
                    painter.setBrush(Qt.BrushStyle.NoBrush)
                    painter.drawEllipse(self.rect_of((r, c)))
        codes = self.colours.codes if self.colours is not None else np.zeros(len(self.shown.wells), np.uint8)
        rim, orange = QPen(faint_mark(text), 1), selection_beside(text)
        for (place, own), code in zip(self.shown.wells.items(), codes, strict=True):
            box = self.rect_of(place)
            painter.setPen(
                rim if step > 8 else Qt.PenStyle.NoPen
            )  # the darkest would be lost on a dark ground
            if code and self.colours is not None:
                painter.setBrush(QColor(*(int(v) for v in self.colours.palette[code])))
            else:  # a well without a value is hatched: grey could be a value
                painter.setBrush(QBrush(text, Qt.BrushStyle.BDiagPattern))
            painter.drawEllipse(box)
            if self.session.selected[own].any():
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(orange, max(1.5, step / 10)))
                painter.drawEllipse(box)
            if self.session.focus >= 0 and self.session.focus in own:
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.setPen(QPen(text, 1.5))
                painter.drawRect(box)
        if self.at is not None and self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(text, 1.5, Qt.PenStyle.DotLine))
            painter.drawRect(self.rect_of(self.at).adjusted(-1, -1, 1, 1))
        self._draw_legend(painter, text)
        painter.end()

    def _draw_legend(self, painter: QPainter, text: QColor) -> None:
        if self.colours is None:
            return
        y = self.height() - _LEGEND_PX + 14
        painter.setPen(text)
        if self.colours.legend:
            x = float(_NAMES_PX)
            for name, code in self.colours.legend:
                width = painter.fontMetrics().horizontalAdvance(name) + 30
                if x + width > self.width():
                    painter.drawText(QPointF(x, y + 10), "…")
                    break
                painter.fillRect(QRectF(x, y, 12, 12), QColor(*(int(v) for v in self.colours.palette[code])))
                painter.drawText(QPointF(x + 16, y + 11), name)
                x += width
            return
        bar = QRectF(_NAMES_PX, y, 160, 10)
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for share in np.linspace(0, 1, 9):
            gradient.setColorAt(
                share, QColor(*(int(v) for v in self.colours.palette[1 + round(share * 254)]))
            )
        painter.fillRect(bar, gradient)
        whole = self.values is not None and self.values.name == COUNT
        low, high = (f"{v:,.0f}" if whole else f"{v:,.3g}" for v in self.colours.limits)
        painter.drawText(QPointF(bar.left(), y + 24), low)
        painter.drawText(QPointF(bar.right() - painter.fontMetrics().horizontalAdvance(high), y + 24), high)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say which well this is, and its value."""
        QToolTip.showText(
            event.globalPosition().toPoint(), self._words_of(self.place_at(event.position())), self
        )

    def _words_of(self, place: tuple[int, int] | None) -> str:
        """What is known of a well; "" for none."""
        if place is None or self.shown is None or self.values is None:
            return ""
        value = self.values.iloc[list(self.shown.wells).index(place)]
        number = f"{value:,.4g}" if isinstance(value, float) else str(value)
        name = str(self.values.name)
        what = column_words(name.removesuffix(SPREAD)) + SPREAD * name.endswith(SPREAD)
        words = f"{row_name(place[0])}{place[1] + 1:02d}\n{what}: {number}"
        return words + f"\n{len(self.shown.wells[place]):,} cells"

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from well to well, over empty places; Return selects the well, Space opens its field."""
        key = event.key()
        if self.shown is None or not self.shown.wells:
            super().keyPressEvent(event)
        elif key in _ARROWS:
            self.at = _next_well(list(self.shown.wells), self.at, *_ARROWS[key])
            self.update()
            where = self.rect_of(self.at)
            at = self.mapToGlobal(where.bottomRight().toPoint())
            QToolTip.showText(at, self._words_of(self.at), self)  # as when the pointer rests there
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.at is not None:
            self.clicked.emit(self.shown.wells[self.at], selection_mode(event.modifiers()))
        elif key == Qt.Key.Key_Space and self.at is not None:
            self.framed.emit(self.shown.wells[self.at])
        else:
            super().keyPressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Select the cells of the clicked well; the right button opens its menu."""
        place = self.place_at(event.position())
        if place is None or self.shown is None:
            return
        self.at = place
        if event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit(self.shown.wells[place], selection_mode(event.modifiers()))
        elif event.button() == Qt.MouseButton.RightButton:
            self.menu_requested.emit(self.shown.wells[place], event.globalPosition().toPoint())

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Open a field of the well."""
        place = self.place_at(event.position())
        if place is not None and self.shown is not None:
            self.framed.emit(self.shown.wells[place])

    def leaveEvent(self, event: QEvent) -> None:
        """No well is pointed at any more."""
        QToolTip.hideText()


def _next_well(
    wells: list[tuple[int, int]], at: tuple[int, int] | None, down: int, right: int
) -> tuple[int, int]:
    """The well to which an arrow leads: the nearest on that side, of the same row or column if there is one."""
    if at is None:
        return min(wells)
    away = [((w[0] - at[0]) * down + (w[1] - at[1]) * right, w) for w in wells]
    beside = [
        (abs((w[0] - at[0]) * right) + abs((w[1] - at[1]) * down), far, w) for far, w in away if far > 0
    ]
    return min(beside)[2] if beside else at


def row_name(row: int) -> str:
    """A plate's row: 0 is "A", 26 "AA"."""
    return chr(ord("A") + row) if row < 26 else "A" + chr(ord("A") + row - 26)
