"""The Explore dock: the map, its tools, and the selection line; later views stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from napari.settings import get_settings
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QKeyCombination, QPointF, QRectF, QSize, Qt, QTimer
from qtpy.QtGui import (
    QColor,
    QHideEvent,
    QIcon,
    QKeyEvent,
    QKeySequence,
    QPainter,
    QPen,
    QPixmap,
    QPolygonF,
    QShowEvent,
)
from qtpy.QtWidgets import (
    QApplication,
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QFrame,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QLineEdit,
    QMainWindow,
    QMenu,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSplitter,
    QStackedWidget,
    QTabWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_cellrep.data.rows import row_words
from napari_cellrep.gui._image import canvas_of
from napari_cellrep.gui._leave import NOT_KEPT, changed_choices, choices_of, return_choices
from napari_cellrep.gui._room import LeftColumn, dock_of
from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._parts import ChoiceBox, TwoHalves
from napari_cellrep.gui.views._tones import hints_style
from napari_cellrep.gui.views._words import column_words
from napari_cellrep.gui.views.gallery import GalleryView
from napari_cellrep.gui.views.inside import InsideView
from napari_cellrep.gui.views.learn import LearnView
from napari_cellrep.gui.views.map import TOOLS, MapView, selection_mode
from napari_cellrep.gui.views.odd import OddView
from napari_cellrep.gui.views.plate import PlateView
from napari_cellrep.gui.views.second_map import SecondMap
from napari_cellrep.gui.views.table import TableView
from napari_cellrep.gui.views.tree import TreeView
from napari_cellrep.gui.views.variability import VariabilityView
from napari_cellrep.session import MapPlace
from napari_cellrep.specs import InputError

REDO = QKeyCombination(Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier, Qt.Key.Key_Z)
# Beside the map, in this order; each is a `views._parts.CellView`.
VIEWS: tuple[Any, ...] = (
    GalleryView,
    TableView,
    PlateView,
    TreeView,
    VariabilityView,
    OddView,
    LearnView,
    InsideView,
)
SHARES = (6, 7)  # of the width: the map, the view beside it
ON_MAPS = ("seen", "seen on the second map")  # what is kept of where the maps were moved and zoomed to
TOOL_TIPS = {
    "lasso": "Lasso: draw around cells to select them.\nShift adds, Alt subtracts, both together intersect.",
    "polygon": "Polygon: click its corners; a double-click or Enter closes it, Backspace takes the last corner off,\n"
    "Escape gives up. Shift adds, Alt subtracts, both together intersect.",
    "rectangle": "Rectangle: drag over cells to select them.\nShift adds, Alt subtracts, both together intersect.",
    "pan": "Move the map (also: drag with the right or middle button; the wheel zooms; Home shows everything).",
}


class ExploreWidget(QWidget):
    """Where the cells are looked at: the map, what colours it, and how many are selected.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        # napari 0.9 does not read the manifest's default_dock_area; this is where it keeps the user's own choice.
        places = get_settings().application.plugin_widget_positions
        places.setdefault("Explore (napari-cellrep)", "bottom")
        self.viewer = napari_viewer
        self.session = session = session_of(napari_viewer)
        self.canvas = canvas = canvas_of(napari_viewer)
        self.setObjectName("cellrep-explore")

        self.map = MapView(session, canvas.ask_picture)
        self._listen_to_map(self.map)
        self.second: SecondMap | None = None
        self._second_place: MapPlace | None = None  # what it showed when it was closed

        self.embedding = ChoiceBox()
        self.embedding.setToolTip(
            "Embedding: a list of numbers that describes how a cell looks.\n"
            "Cells that look alike get similar numbers and lie near each other on the map."
        )
        self.embedding.setAccessibleName("Embedding of the map")
        self.embedding.currentIndexChanged.connect(self._on_embedding_chosen)
        self.rows_of = ChoiceBox()
        self.rows_of.setToolTip(
            "What a point of the map is: a cell, or all cells of a group, a field or a value of a column.\n"
            "A group has the mean of its cells' colours; of words, the commonest. Click it to select its cells."
        )
        self.rows_of.setAccessibleName("Points of the map")
        self.rows_of.currentIndexChanged.connect(self._on_rows_of_chosen)
        self.colour = ChoiceBox()
        self.colour.setToolTip("What the colour of a point says")
        self.colour.currentIndexChanged.connect(self._on_colour_chosen)
        self.in_image = QToolButton()
        self.in_image.setCheckable(True)
        self.in_image.setIconSize(QSize(18, 18))
        self.in_image.setToolTip(
            "Colour the cells in the image as on the map: on a layer of its own, “cell colours”.\n"
            "Hidden cells and those without a value have no colour."
        )
        self.in_image.setAccessibleName("Colour the cells in the image")
        self.in_image.setChecked(canvas.coloured)
        self.in_image.toggled.connect(self._on_in_image)
        for combo, letters in ((self.embedding, 6), (self.rows_of, 3), (self.colour, 6)):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(letters)
            combo.setMaximumWidth(320)
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

        self.tools: dict[str, QToolButton] = {}
        group = QButtonGroup(self)
        for name in TOOLS:
            button = QToolButton()
            button.setCheckable(True)
            button.setIconSize(QSize(18, 18))
            button.setToolTip(TOOL_TIPS[name])
            button.setAccessibleName(name)
            button.clicked.connect(lambda _=False, name=name: self._on_tool(name))
            group.addButton(button)
            self.tools[name] = button

        self.shown = QToolButton()
        self.shown.setText("Show")
        self.shown.setToolTip("What is drawn on the map beside the points")
        self.shown.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.shown.setStyleSheet("QToolButton { padding: 2px 14px 2px 6px }")
        menu = QMenu(self.shown)
        menu.setToolTipsVisible(True)
        self.shown.setMenu(menu)
        self.density = menu.addAction("Density")
        self.density.setToolTip("Lines that enclose 25, 50, 75 and 95 % of the cells in view")
        self.density.setCheckable(True)
        self.density.toggled.connect(self._on_density)
        self.clouds = menu.addAction("Clouds")
        self.clouds.setToolTip(
            "A cloud for each value of the colour column: the densest regions with 25, 50 and 75 % of its cells"
        )
        self.clouds.setCheckable(True)
        self.clouds.toggled.connect(self._on_clouds)
        self.two = QToolButton()
        self.two.setCheckable(True)
        self.two.setIconSize(QSize(18, 18))
        self.two.setAccessibleName("Second map")
        self.two.setToolTip(
            "Second map: another embedding, or other axes, beside the first.\n"
            "Selection, colours and what is hidden are the same on both."
        )
        self.two.toggled.connect(self._on_two)

        self.count = QLabel()
        # A label that grew with its text would shift the whole dock while the selection changes.
        self.count.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.count.setAccessibleName("Selected cells")
        self.flagged = QCheckBox("show flagged")
        self.flagged.setToolTip(
            "Show cells that carry a quality flag too: at the image's edge, debris, saturated, out of focus, …"
        )
        self.flagged.toggled.connect(self._on_flagged_toggled)
        self.hidden = _button(
            "", "Show the values again that are hidden in the map's legend", session.show_all_values
        )
        self.hidden.hide()
        self.undo = _button(
            "↶",
            "Undo the last change of the selection, of a set, or the last verdict (Ctrl+Z)",
            self._on_undo,
        )
        self.redo = _button("↷", "Redo (Ctrl+Shift+Z)", self._on_redo)
        self.invert = _button("Invert", "Select the cells that are not selected", session.invert)
        self.clear = _button("Clear", "Select nothing (Escape)", session.clear)
        self.search = QLineEdit()
        self.search.setPlaceholderText("find")
        self.search.setToolTip(
            "Select cells by a word: a protein, a compound, a well, an id (Enter). Shift, Alt and both combine."
        )
        self.search.setAccessibleName("Find cells")
        self.search.setMinimumWidth(48)
        self.search.setMaximumWidth(110)
        self.search.setClearButtonEnabled(True)
        self.search.returnPressed.connect(self._on_find)
        self.sets = QToolButton()
        self.sets.setText("Sets")
        self.sets.setToolTip(
            "Named sets of cells. The keys 1 to 9 put the selection into the first nine, 0 into any by its name."
        )
        self.sets.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.sets.setStyleSheet("QToolButton { padding: 2px 14px 2px 6px }")
        self.sets.setMenu(QMenu(self.sets))
        self.sets.menu().aboutToShow.connect(self._fill_sets)
        self.save = _button("Save set…", "Keep the selected cells under a name", self._on_save)

        left, right = QHBoxLayout(), QHBoxLayout()
        for item in (
            self.embedding, self.rows_of, QLabel("colour"), self.colour, self.in_image, *self.tools.values(),
            self.two, self.shown,
        ):  # fmt: skip
            left.addWidget(item, {self.embedding: 2, self.rows_of: 1, self.colour: 2}.get(item, 0))
        right.addWidget(self.search)
        right.addWidget(self.count, 1)
        for item in (
            self.hidden,
            self.flagged,
            self.undo,
            self.redo,
            self.invert,
            self.clear,
            self.sets,
            self.save,
        ):
            right.addWidget(item)
        bar = TwoHalves(left, right)

        self.nothing = QLabel()
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.nothing.setWordWrap(True)
        self.map_it = QPushButton()
        self.map_it.clicked.connect(self._on_map_it)
        empty = QWidget()
        column = QVBoxLayout(empty)
        column.addStretch()
        column.addWidget(self.nothing)
        column.addWidget(self.map_it, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch()
        self.stack = QStackedWidget()
        self.maps = QSplitter(Qt.Orientation.Horizontal)  # the map, and a second one if it is asked for
        self.maps.addWidget(self.map)
        self.maps.setChildrenCollapsible(False)
        self.stack.addWidget(self.maps)
        self.stack.addWidget(empty)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for view in VIEWS:
            self.tabs.addTab(QWidget(), view.title)
        self.tabs.currentChanged.connect(self._on_tab)
        self.views = QSplitter(Qt.Orientation.Horizontal)  # the map, and beside it one of the other views
        self.views.addWidget(self.stack)
        self.views.addWidget(self.tabs)
        for i, share in enumerate(SHARES):
            self.views.setStretchFactor(i, share)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(bar)
        layout.addWidget(self.views, 1)
        self.setMinimumHeight(180)

        self._signals = (
            (session.project_changed, self._on_table_changed),
            (session.cells_changed, self._on_table_changed),
            (session.embedding_changed, self._on_table_changed),
            (session.colour_changed, self._on_colour_changed),
            (session.selection_changed, self._on_selection_changed),
            (session.sets_changed, self._on_selection_changed),  # they are undone too
            (session.visible_changed, self._on_visible_changed),
            (canvas.coloured_changed, self._on_coloured),
            (canvas.similar_found, self._on_similar_found),
            (canvas.similar_wanted, self._on_similar_wanted),
            (canvas.centred, self._on_centred),
        )
        for signal, slot in self._signals:
            signal.connect(slot)
        napari_viewer.events.theme.connect(self._on_theme_changed)
        self.destroyed.connect(_disconnected(self._signals, self.map.signals))
        self._on_tool("lasso")
        self._on_theme_changed()
        self._on_table_changed()
        self._on_visible_changed()
        self._made: dict[str, Any] = {}  # view → its widget
        self._first_choices: dict[str, dict[str, str]] = {}  # view → what its boxes said when it was made
        self._kept_choices: dict[str, Any] = {}  # view → what was chosen in it before
        self._split_moved = False
        self._split: list[int] = []  # as a person has drawn it
        self.dock_moved = False  # a person has dragged the panel's border
        self._dock_kept: list[int] = []  # its size as it was left
        self._dock_waits = False  # for the panel to be shown
        self.views.splitterMoved.connect(self._on_split_moved)
        self._on_tab(0)
        main = napari_viewer.window.main_menu.window()
        self.left_column = LeftColumn(self, main, places["Explore (napari-cellrep)"] == "bottom")
        canvas.leaving.join(self)

    def sizeHint(self) -> QSize:
        # Without it the panel opens at its least height, and the map is a stamp.
        return QSize(super().sizeHint().width(), 340)

    # ---- the views beside the map: each is made when it is first looked at -----------------------------

    def _on_tab(self, index: int) -> None:
        if type(self.tabs.widget(index)) is QWidget:
            view = VIEWS[index](self.session, self.canvas)
            self.destroyed.connect(_closed(view))
            self._made[view.title] = view
            self.tabs.blockSignals(True)
            self.tabs.removeTab(index)
            self.tabs.insertTab(index, Shelf(view), view.title)
            self.tabs.setCurrentIndex(index)
            self.tabs.blockSignals(False)
            self._first_choices[view.title] = choices_of(view)
            return_choices(view, self._kept_choices.get(view.title))
        if (
            self.second is None and self.isVisible()
        ):  # a wide view takes room from the map only while in front
            wide = sum(self.views.sizes())
            self.views.setSizes(self._split or [wide * share // sum(SHARES) for share in SHARES])

    def view(self, title: str) -> QWidget:
        """Open one of the views beside the map."""
        self.tabs.setCurrentIndex([v.title for v in VIEWS].index(title))
        return self._made[title]

    # ---- leave and return ------------------------------------------------------------------------

    def hideEvent(self, event: QHideEvent) -> None:
        self.canvas.leaving.remember(self.value())
        super().hideEvent(event)
        self.left_column.look_again()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.left_column.look_again()
        QTimer.singleShot(0, self._return_dock)

    def _dock(self) -> QDockWidget | None:
        """The dock it is in, if that is part of the window."""
        return dock_of(self)

    def dock_px(self) -> list[int]:
        """Width and height of its dock; nothing where it has none in the window."""
        dock = self._dock()
        return [] if dock is None else [dock.width(), dock.height()]

    def _return_dock(self) -> None:
        """Make the dock as large as it was left, once."""
        dock = self._dock()
        main = dock.parent() if dock is not None else None
        if self._dock_waits and dock is not None and self.isVisible() and isinstance(main, QMainWindow):
            self._dock_waits = False
            main.resizeDocks([dock], self._dock_kept[:1], Qt.Orientation.Horizontal)
            main.resizeDocks([dock], self._dock_kept[1:], Qt.Orientation.Vertical)

    def _on_split_moved(self, *_: Any) -> None:
        self._split_moved, self._split = True, self.views.sizes()

    def value(self) -> dict[str, Any]:
        """What is open and chosen here, as plain values."""
        views = dict(self._kept_choices)
        for title, view in self._made.items():
            chosen = {**views.get(title, {}), **changed_choices(view, self._first_choices[title])}
            now = choices_of(view)
            views[title] = {n: now[n] for n in chosen if n in now and now[n] != NOT_KEPT}
        found: dict[str, Any] = {"tab": self.tabs.tabText(self.tabs.currentIndex()), "tool": self.map.tool}
        if self._split_moved:
            found["split"] = self.views.sizes()
        if dock := self.dock_px() if self.dock_moved else self._dock_kept:
            found["dock"] = dock
        if self.map.by:
            found["rows"] = self.map.by
        found.update((name, True) for name, switch in self._switches().items() if switch.isChecked())
        place = self._second_place if self.second is None else self.second.place
        if place is not None:
            found["second map"] = [place.embedding, place.key, *place.axes]
        looked = {name: view.looked_at() for name, view in zip(ON_MAPS, self._maps(), strict=False)}
        found.update((name, seen) for name, seen in looked.items() if seen)
        return {**found, "views": {title: chosen for title, chosen in views.items() if chosen}}

    def set_value(self, value: dict[str, Any]) -> None:
        """Open and choose again what `value` told; what is not offered any more is left out."""
        if value.get("tool") in TOOLS:
            self.map.set_tool(value["tool"])
        self._show_rows_of(value.get("rows", ""))
        views = value.get("views")
        self._kept_choices = {
            title: chosen
            for title, chosen in (views.items() if isinstance(views, dict) else ())
            if isinstance(chosen, dict)
        }
        for title, view in self._made.items():
            return_choices(view, self._kept_choices.get(title))
        split = value.get("split")
        if isinstance(split, list) and len(split) == 2 and all(isinstance(v, int) and v > 0 for v in split):
            self.views.setSizes(split)
            self._split_moved, self._split = True, split
        dock = value.get("dock")
        whole = isinstance(dock, list) and len(dock) == 2 and all(isinstance(v, int) and v > 0 for v in dock)
        self._dock_kept, self._dock_waits, self.dock_moved = dock if whole else [], whole, False
        self._return_dock()
        self._second_place = _map_place(value.get("second map"))
        if self.second is not None and self._second_place is not None:
            self.second.show_place(self._second_place)
        for name, switch in self._switches().items():
            switch.setChecked(value.get(name) is True)
        for name, view in zip(ON_MAPS, self._maps(), strict=False):
            view.look_at(value.get(name))
        titles = [v.title for v in VIEWS]
        if value.get("tab") in titles:
            self.tabs.setCurrentIndex(titles.index(value["tab"]))

    # ---- what the session says -------------------------------------------------------------------

    def _on_table_changed(self) -> None:
        session = self.session
        _fill(self.embedding, session.embeddings, session.embedding, session.map_name)
        self._fill_rows_of()
        self._on_colour_changed()
        has_map = session.map_coordinates() is not None
        self.stack.setCurrentIndex(0 if has_map else 1)
        self.map_it.setVisible(bool(session.embeddings) and not has_map)
        if session.project is None:
            words = "No project is open. Open the sample or your images in the CellRep panel."
        elif session.cells is None or not session.n_cells:
            words = "There are no cells yet. Segment the fields in the CellRep panel."
        elif not session.embeddings:
            words = (
                f"{session.n_cells:,} cells, no embedding yet. Embed them in the CellRep panel to get a map."
            )
        else:
            words = "There is no map of this embedding yet."
            self.map_it.setText(f"Map {session.n_cells:,} cells")
            self.map_it.setEnabled(True)
        self.nothing.setText(words)
        self._on_selection_changed()

    def _fill_rows_of(self) -> None:
        """Offer cells, groups, fields and other columns; the same is chosen if it still can be."""
        columns = self.session.row_columns()
        self.rows_of.blockSignals(True)
        self.rows_of.clear()
        for column in ("", *columns):
            self.rows_of.addItem(row_words(column), column)
        self.rows_of.blockSignals(False)
        self._show_rows_of(self.map.by)

    def _show_rows_of(self, column: Any) -> None:
        """Make the points of all maps cells, or the values of a column."""
        at = max(0, self.rows_of.findData(column))
        self.rows_of.blockSignals(True)
        self.rows_of.setCurrentIndex(at)
        self.rows_of.blockSignals(False)
        for view in self._maps():
            view.show_rows_of(self.rows_of.itemData(at))

    def _on_similar_found(self) -> None:
        self.view(TableView.title)

    def _on_similar_wanted(self) -> None:
        self.view(GalleryView.title).find_similar()  # type: ignore[attr-defined]

    def _on_centred(self, row: int) -> None:
        for view in self._maps():
            view.centre_on(row)

    def _on_colour_changed(self) -> None:
        _fill(self.colour, self.session.colour_choices, self.session.colour_by)

    def _on_visible_changed(self) -> None:
        self.flagged.blockSignals(True)
        self.flagged.setChecked(not self.session.hide_flagged)
        self.flagged.blockSignals(False)
        self._on_selection_changed()

    def _on_selection_changed(self) -> None:
        session = self.session
        self.count.setText(f"{session.n_selected:,} of {session.n_visible:,} cells")
        most = f"{session.n_cells:,} of {session.n_cells:,} cells"
        self.count.setMinimumWidth(self.count.fontMetrics().horizontalAdvance(most) + 4)
        counted = int(np.count_nonzero(session.counted))
        flagged, hidden = session.n_cells - counted, counted - session.n_visible
        if flagged or session.hide_flagged:
            self.flagged.setText(f"show {flagged:,} flagged" if flagged else "show flagged")
        self.hidden.setText(f"show {hidden:,} hidden")
        self.hidden.setVisible(hidden > 0)
        why = [f"{flagged:,} flagged cells are hidden"] * bool(flagged)
        why += [f"{hidden:,} cells are hidden in the map's legend"] * bool(hidden)
        self.count.setToolTip("\n".join(why) or "All cells are shown")
        any_selected = session.n_selected > 0
        self.undo.setEnabled(session.can_undo)
        self.redo.setEnabled(session.can_redo)
        self.clear.setEnabled(any_selected)
        self.save.setEnabled(any_selected)
        self.invert.setEnabled(session.n_visible > 0)

    def _on_theme_changed(self, event: Any = None) -> None:
        theme = get_theme(self.viewer.theme)
        text = theme.text.as_rgb_tuple()[:3]
        self.setStyleSheet(hints_style(QColor(*text)))
        for view in self._maps():
            view.set_theme(theme.background.as_rgb_tuple()[:3], text)
            view.card.setStyleSheet(f"HoverCard {{ border: 1px solid {theme.text.as_hex()}; }}")
        for name, button in (*self.tools.items(), ("image", self.in_image), ("two maps", self.two)):
            button.setIcon(_tool_icon(name, QColor(*text)))
            # napari's own style does not tell a pressed tool button from another
            button.setStyleSheet(
                f"QToolButton:checked {{ background: {theme.current.as_hex()}; border-radius: 3px; }}"
            )

    # ---- keys: only while the focus is in this dock; napari has its own meanings on its canvas ---------

    def _slot_of(self, event: QKeyEvent) -> Any:
        if isinstance(self.focusWidget(), QComboBox | QLineEdit) and event.key() == Qt.Key.Key_Escape:
            return None
        if event.matches(QKeySequence.StandardKey.Undo):
            return self._on_undo
        if event.keyCombination() == REDO or event.matches(QKeySequence.StandardKey.Redo):
            return self._on_redo
        digit = event.key() - Qt.Key.Key_0
        typed = isinstance(self.focusWidget(), QLineEdit)
        if 0 <= digit <= 9 and not typed and event.modifiers() in (
            Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.KeypadModifier
        ):  # fmt: skip
            return (lambda: self._on_digit(digit - 1)) if digit else self._on_named
        return self._on_escape if event.key() == Qt.Key.Key_Escape else None

    def event(self, event: QEvent) -> bool:
        # Taking the override keeps the window's own shortcut of the same keys from acting first.
        if event.type() == QEvent.Type.ShortcutOverride and self._slot_of(event) is not None:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        slot = self._slot_of(event)
        if slot is None:
            super().keyPressEvent(event)
        else:
            slot()

    # ---- one map or two --------------------------------------------------------------------------------

    def _switches(self) -> dict[str, Any]:
        """What is drawn beside the first map's points, by the names that `value` keeps."""
        return {"density": self.density, "clouds": self.clouds, "two maps": self.two}

    def _maps(self) -> tuple[MapView, ...]:
        return (self.map,) if self.second is None else (self.map, self.second.map)

    def _listen_to_map(self, view: MapView) -> None:
        view.clicked.connect(self.canvas.click)
        view.framed.connect(self._on_framed)
        view.menu_requested.connect(lambda row, at: self.canvas.open_menu(row, at))
        view.group_menu_requested.connect(self.canvas.open_group_menu)
        view.field_asked.connect(lambda row: self.canvas.show(self.session.place(row)[0]))

    def _on_tool(self, name: str) -> None:
        self.tools[name].setChecked(True)
        for view in self._maps():
            view.set_tool(name)

    def _on_density(self, on: bool) -> None:
        for view in self._maps():
            view.density.turn(on)

    def _on_clouds(self, on: bool) -> None:
        for view in self._maps():
            view.clouds.turn(on)

    def _on_two(self, on: bool) -> None:
        if on and self.second is None:
            self.second = second = SecondMap(self.session, self.canvas.ask_picture, self._second_place)
            second.closed.connect(lambda: self.two.setChecked(False))
            second.wanted.connect(self.map_embedding)
            self.destroyed.connect(_disconnected(second.signals))
            self._listen_to_map(second.map)
            second.map.set_tool(self.map.tool)
            second.map.show_rows_of(self.map.by)
            second.map.density.turn(self.density.isChecked())
            second.map.clouds.turn(self.clouds.isChecked())
            # Both get about the width that the one had, as far as the views beside them can give it.
            self._one_map_sizes = self.views.sizes()
            both = min(sum(self._one_map_sizes) * 2 // 3, 2 * self._one_map_sizes[0])
            self.maps.addWidget(second)
            self.views.setSizes([both, sum(self._one_map_sizes) - both])
            self.maps.setSizes([both // 2, both // 2])
            self._on_theme_changed()
        elif not on and self.second is not None:
            second, self.second = self.second, None
            self._second_place = second.place
            second.disconnect_session()
            second.hide()
            second.setParent(None)
            second.deleteLater()
            self.views.setSizes(self._one_map_sizes)

    # ---- what the user does ----------------------------------------------------------------------

    def _on_embedding_chosen(self, index: int) -> None:
        if index >= 0:
            self.session.embedding = self.embedding.itemData(index)

    def _on_rows_of_chosen(self, index: int) -> None:
        self._show_rows_of(self.rows_of.itemData(index))

    def _on_colour_chosen(self, index: int) -> None:
        if index >= 0:
            self.session.colour_by = self.colour.itemData(index)

    def _on_coloured(self, on: bool) -> None:
        self.in_image.setChecked(on)

    def _on_in_image(self, on: bool) -> None:
        self.canvas.coloured = on

    def _on_flagged_toggled(self, show: bool) -> None:
        self.session.hide_flagged = not show

    def _on_undo(self) -> None:
        self._step(self.session.undo)

    def _on_redo(self) -> None:
        self._step(self.session.redo)

    def _step(self, do: Callable[[], bool]) -> None:
        """Undo or redo, and say what became of a set: nothing else on screen would show it."""
        before = self.session.sets
        self._told(do)
        now = self.session.sets
        said = [
            f"“{name}” has {len(now[name]['cells']):,} cells again."
            if name in now
            else f"There is no set “{name}” now."
            for name in {**before, **now}
            if before.get(name) is not now.get(name)
        ]
        if said:
            self.viewer.status = " ".join(said)

    def _on_escape(self) -> None:
        if self.canvas.source_id:
            self.canvas.source_id = ""
        else:
            self.session.clear()

    def _on_framed(self, row: int) -> None:
        self.canvas.go_to(row, frame=True)

    def _on_save(self) -> None:
        name, ok = QInputDialog.getText(self, "Save set", "Name of the set:")
        if ok:
            self._told(self.session.save_set, name)

    def _on_find(self) -> None:
        rows = self.session.find(self.search.text())
        shown = rows[self.session.visible[rows]]
        if len(shown):
            mode = selection_mode(QApplication.keyboardModifiers())
            self.session.select(shown, mode, f"found by “{self.search.text().strip()}”")
        else:
            hidden = f" {len(rows):,} such cells are hidden." if len(rows) else ""
            self.viewer.status = f"No cell says “{self.search.text().strip()}”.{hidden}"

    def _fill_sets(self) -> None:
        menu, session = self.sets.menu(), self.session
        menu.clear()
        if not session.sets:
            menu.addAction("No set yet: select cells and save them").setEnabled(False)
        for i, (name, made) in enumerate(session.sets.items()):
            words = f"{name}  ({len(made['cells']):,})" + (f"\t{i + 1}" if i < 9 else "")
            one = menu.addMenu(words)
            one.addAction("Select its cells", lambda name=name: session.select_set(name))
            one.addAction("Add the selected cells", lambda name=name: self._told(session.add_to_set, name))
            one.addAction("Map its cells alone", lambda name=name: self.map_set(name))
            one.addAction("Forget this set", lambda name=name: self._told(session.remove_set, name))
            one.addSeparator()
            one.addAction(_set_words(made.get("how"))).setEnabled(False)

    def _on_digit(self, digit: int) -> None:
        """Put the selection into a set; the next number that is free asks for a name."""
        names = list(self.session.sets)
        if digit < len(names):
            self._put_into(names[digit])
        elif self.session.n_selected:
            self._on_save()

    def _on_named(self) -> None:
        """Put the selection into the set whose name is typed: the first letters are enough for one that is there."""
        names = list(self.session.sets)
        if not self.session.n_selected:
            self.viewer.status = "Select cells first; then 0 puts them into a set by its name."
            return
        name, ok = QInputDialog.getItem(
            self, "Put into a set", "Set (a name that is there is completed; a new one makes a set):", names
        )
        if ok:
            self._put_into(name)

    def _put_into(self, name: str) -> None:
        if self._told(self.session.add_to_set, name):
            name = name.strip()
            n_now = len(self.session.sets[name]["cells"])
            self.viewer.status = f"{self.session.n_selected:,} cells in “{name}”, which has {n_now:,}."

    def _told(self, do: Any, *args: Any) -> bool:
        """Do it, or say in the status bar why not."""
        try:
            do(*args)
        except InputError as error:
            self.viewer.status = str(error)
            return False
        return True

    def _on_map_it(self) -> None:
        from napari_cellrep.gui._runner import submit_analysis

        session, root = self.session, self.session.project.root
        self.map_it.setEnabled(False)
        title = f"Mapping {session.n_cells:,} cells"
        handle = submit_analysis(self.viewer, root, title, recipe="map", embedding=session.embedding)
        handle.finished.connect(lambda _: session.reload(handle.read))
        handle.failed.connect(self._on_map_failed)
        handle.stopped.connect(lambda: self.map_it.setEnabled(True))

    def map_embedding(self, embedding: str) -> None:
        """Make the map of an embedding that has none, for the second map, which shows it once it is there."""
        from napari_cellrep.gui._runner import submit_analysis

        session = self.session
        title = f"Mapping {session.n_cells:,} cells by {column_words(embedding)}"
        handle = submit_analysis(self.viewer, session.project.root, title, recipe="map", embedding=embedding)

        def not_made(sentence: str = "") -> None:
            if sentence:
                self.viewer.status = sentence
            if self.second is not None:
                self.second.not_made(embedding)

        handle.finished.connect(lambda _: session.reload(handle.read))
        handle.failed.connect(not_made)
        handle.stopped.connect(not_made)

    def map_set(self, name: str) -> None:
        """Lay the cells of a set out anew, without the others, and show them on the second map."""
        from napari_cellrep.gui._runner import submit_analysis

        session = self.session
        if session.project is None or not session.embedding:
            self.viewer.status = "A map needs an embedding: embed the cells in the CellRep panel."
            return
        root, title = session.project.root, f"Mapping the cells of “{name}”"
        handle = submit_analysis(self.viewer, root, title, recipe="map", embedding=session.embedding, of=name)

        def mapped(result: dict[str, Any]) -> None:
            session.reload(handle.read)
            made = next((place for place in session.maps if f"obsm/{place.key}" in result["written"]), None)
            if made is not None:
                self._second_place = made
                if self.second is not None:
                    self.second.show_place(made)
                self.two.setChecked(True)

        handle.finished.connect(mapped)
        handle.failed.connect(lambda sentence: setattr(self.viewer, "status", sentence))

    def _on_map_failed(self, sentence: str) -> None:
        self.nothing.setText(sentence)
        self.map_it.setEnabled(True)


class Shelf(QScrollArea):
    """A view on its tab: in a low panel it scrolls, where it would be painted over itself otherwise."""

    def __init__(self, view: QWidget) -> None:
        super().__init__()
        self.setWidget(view)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:
        """As wide as the view must be, with room for the bar that scrolls it; behind another view it asks for nothing."""
        if self.isHidden():
            return QSize(0, 60)
        return QSize(
            self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width(), 60
        )


def _map_place(kept: Any) -> MapPlace | None:
    """The second map's place as `value` told it; None for what is none."""
    match kept:
        case [str(embedding), str(key), int(x), int(y)]:
            return MapPlace(embedding, key, (x, y))
    return None


def _set_words(how: Any) -> str:
    """How a set was made, in a line."""
    if not isinstance(how, Mapping):
        return str(how or "made by hand")
    words, when = str(how.get("made") or "by hand"), str(how.get("when") or "")
    return (words if len(words) <= 80 else f"{words[:78]}…") + f", {when}" * bool(when)


def _disconnected(*groups: Any) -> Any:
    """A slot that disconnects signals without holding the widget they belong to."""

    def disconnect(*_: Any) -> None:
        for group in groups:
            for signal, slot in group:
                signal.disconnect(slot, missing_ok=True)

    return disconnect


def _closed(view: Any) -> Any:
    """A slot that lets a view go without holding the dock."""
    return lambda *_: view.disconnect_session()


def _fill(combo: QComboBox, names: list[str], chosen: str, map_name: str = "") -> None:
    combo.blockSignals(True)
    combo.clear()
    for name in names:
        shown = column_words(name) + (f" · {map_name}" if map_name and name == chosen else "")
        combo.addItem(shown, name)
    combo.setCurrentIndex(names.index(chosen) if chosen in names else -1)
    combo.setEnabled(bool(names))
    combo.blockSignals(False)


def _button(text: str, tip: str, slot: Any) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    button.clicked.connect(lambda _=False: slot())
    return button


def _tool_icon(name: str, colour: QColor) -> QIcon:
    """Draw a tool's icon in the theme's text colour."""
    pixmap = QPixmap(36, 36)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    pen = QPen(colour, 2.6)
    if name == "lasso":
        pen.setStyle(Qt.PenStyle.DashLine)
        pen.setDashPattern([2.2, 1.4])
        painter.setPen(pen)
        painter.drawEllipse(QRectF(4, 4, 28, 20))
        painter.setPen(QPen(colour, 2.6))
        painter.drawLine(QPointF(11, 23), QPointF(8, 33))
    elif name == "polygon":
        corners = [QPointF(*at) for at in ((5, 11), (22, 4), (32, 17), (25, 31), (8, 28))]
        pen.setWidthF(2.0)
        painter.setPen(pen)
        painter.drawPolygon(QPolygonF(corners))
        painter.setBrush(colour)
        for at in corners:
            painter.drawRect(QRectF(at.x() - 2.5, at.y() - 2.5, 5, 5))
    elif name == "two maps":
        painter.setPen(QPen(colour, 2.2))
        painter.drawRect(QRectF(3, 7, 13, 22))
        painter.drawRect(QRectF(20, 7, 13, 22))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        for at in ((8, 14), (12, 20), (8, 24), (27, 12), (24, 19), (29, 23)):
            painter.drawEllipse(QPointF(*at), 1.8, 1.8)
    elif name == "rectangle":
        pen.setStyle(Qt.PenStyle.DashLine)
        pen.setDashPattern([2.2, 1.4])
        painter.setPen(pen)
        painter.drawRect(QRectF(4, 7, 28, 22))
    elif name == "image":
        painter.setPen(pen)
        painter.drawRoundedRect(QRectF(3, 6, 30, 24), 3, 3)
        painter.setPen(Qt.PenStyle.NoPen)
        for x, y, rgb in ((8, 11, (0, 114, 178)), (18, 10, (230, 159, 0)), (15, 19, (0, 158, 115))):
            painter.setBrush(QColor(*rgb))
            painter.drawEllipse(QRectF(x, y, 9, 8))
    else:
        painter.setPen(pen)
        painter.drawLine(QPointF(18, 6), QPointF(18, 30))
        painter.drawLine(QPointF(6, 18), QPointF(30, 18))
        painter.setBrush(colour)
        painter.setPen(Qt.PenStyle.NoPen)
        for points in (
            [(18, 1), (13, 8), (23, 8)], [(18, 35), (13, 28), (23, 28)],
            [(1, 18), (8, 13), (8, 23)], [(35, 18), (28, 13), (28, 23)],
        ):  # fmt: skip
            painter.drawPolygon(QPolygonF([QPointF(*p) for p in points]))
    painter.end()
    return QIcon(pixmap)
