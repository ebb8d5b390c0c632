"""Take the pictures in docs/images by real clicks: from the sample to a map, then a finished project.

python docs/make_images.py PROJECT.cellrep [docs/images] [walk|job|answer|explore|prediction|…]

The last word takes one part alone; `main` has them all.

PROJECT is a project of the sample with a trained network, as `cellrep demo` makes it. The first half of the pictures
("walk") is taken of a person who begins with nothing, so it segments and measures the sample again (minutes). Needs
a screen; Xvfb will do.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FRESH = Path(tempfile.mkdtemp())  # nobody's own settings, projects or caches
os.environ["NAPARI_CONFIG"] = str(FRESH / "napari.yaml")
os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = str(FRESH / "data"), str(FRESH / "cache")

import anndata as ad
import napari
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QScrollArea, QWidget

from napari_cellrep.data import create_project, open_project
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.gui._image import OURS, canvas_of, show_field
from napari_cellrep.gui._looking import QUESTIONS, STRUCTURE
from napari_cellrep.gui._runner import runner_of
from napari_cellrep.gui._state import session_of

LEFT, RIGHT, PLAIN = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.KeyboardModifier.NoModifier
LARGEST_BYTES = 150_000


def until(done: Callable[[], Any], seconds: int = 30) -> None:
    """Let the window work until something has happened."""
    for _ in range(seconds * 20):
        if done():
            QTest.qWait(300)
            return
        QTest.qWait(50)
    raise TimeoutError


def click(widget: QWidget, at: QPoint | None = None) -> None:
    """Press a button as a person does: only one that can be seen and pressed."""
    if not (widget.isEnabled() and widget.isVisible()):
        raise RuntimeError(f"{widget.accessibleName() or widget.objectName() or widget} cannot be pressed")
    QTest.mouseClick(widget, LEFT, PLAIN, at or QPoint(10, widget.height() // 2))


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture in 256 colours, in fewer where it would be too large, chosen so that legends keep theirs."""
    for n_colours in (256, 128, 80, 48):
        picture.quantize(n_colours, Image.Quantize.MAXCOVERAGE, kmeans=2).save(path, optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            break
    print(
        f"{path.name}: {picture.width} × {picture.height} px, {path.stat().st_size:,} bytes, {n_colours} colours"
    )


class Window:
    """A napari window and the pictures taken of it."""

    def __init__(self, out: Path, width: int, height: int) -> None:
        self.out = out
        self.viewer = napari.Viewer()
        self.viewer.window.resize(width, height)
        self.session, self.canvas, self.runner = (f(self.viewer) for f in (session_of, canvas_of, runner_of))

    def dock(self, name: str) -> Any:
        """Open one of our docks as the Plugins menu does."""
        _, widget = self.viewer.window.add_plugin_dock_widget("napari-cellrep", name)
        QTest.qWait(800)
        return widget

    def press(self, widget: QWidget, seconds: int = 600) -> None:
        """Press a button and wait for the jobs it starts."""
        click(widget)
        self.wait(seconds)

    def wait(self, seconds: int = 600) -> None:
        """Wait until no job runs or waits."""
        until(lambda: self.runner.current is None and not self.runner.queued, seconds)
        QTest.qWait(500)  # what was written is read beside the window

    def click_image(self, cell_id: str, button: Qt.MouseButton = LEFT) -> None:
        """Click a cell in the image."""
        row = self.session.row_of_id(cell_id)
        _, y, x = self.session.place(row)
        camera, native = self.viewer.scene.camera, self.viewer.window._qt_viewer.canvas.native
        place = np.asarray(self.canvas.layer("channel").data_to_world((y, x)))
        dy, dx = (place - np.asarray(camera.center)[-2:]) * camera.zoom
        at = QPoint(round(native.width() / 2 + dx), round(native.height() / 2 + dy))
        QTest.mouseMove(native, at)
        QTest.mouseClick(native, button, PLAIN, at)
        QTest.qWait(400)

    def shot(self, name: str, card: QWidget | None = None) -> None:
        """Save the window; a floating card is painted over it."""
        QTest.qWait(400)
        picture = Image.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        if card is not None:
            inside = card.pos() - self.viewer.window._qt_window.pos()
            shown = card.grab().toImage()
            shown = shown.convertToFormat(shown.Format.Format_RGB888)
            data = np.frombuffer(shown.constBits().asstring(shown.sizeInBytes()), np.uint8)
            data = data.reshape(shown.height(), shown.bytesPerLine())[:, : 3 * shown.width()]
            picture.paste(Image.fromarray(data.reshape(shown.height(), -1, 3)), (inside.x(), inside.y()))
        save(picture, self.out / f"{name}.png")

    def part(self, name: str, widget: QWidget) -> None:
        """Save one panel or dialog of the window."""
        QTest.qWait(400)
        widget.grab().save(str(FRESH / "part.png"))
        save(Image.open(FRESH / "part.png").convert("RGB"), self.out / f"{name}.png")

    def close(self) -> None:
        """End the worker and the window."""
        self.runner.close()
        self.canvas.close()
        self.viewer.close()
        QApplication.processEvents()


def walk(out: Path) -> None:
    """From an empty window to a map of the sample, one card after the other."""
    window = Window(out, 1240, 760)
    viewer = window.viewer
    viewer.open_sample("napari-cellrep", "bbbc013")
    dock = window.dock("CellRep")
    cards = dock.cards
    until(lambda: cards["segment"].method.count() and cards["model"].model.count(), 120)
    viewer.scene.camera.zoom *= 2
    window.shot("window-start")
    click(dock.tour.leave)  # the cards need its room

    window.press(cards["images"].sample)
    until(lambda: window.canvas.field and cards["segment"].body.isVisible())
    cards["images"].field.setCurrentIndex(cards["images"].field.findData("A06"))
    cards["images"].field.activated.emit(cards["images"].field.currentIndex())
    until(lambda: window.canvas.field == "A06")
    click(cards["images"].header)
    viewer.reset_view()
    viewer.scene.camera.zoom *= 2  # cells, not dots
    window.shot("window-images")

    click(cards["segment"].header)
    segment = cards["segment"]
    click(segment.live)
    until(lambda: segment._shown_trial == segment._key())
    window.shot("window-preview")
    click(segment.more.button)
    window.press(cards["segment"].all)
    until(lambda: cards["cells"].body.isVisible() and window.session.n_cells)
    click(cards["segment"].header)
    window.shot("window-segment")
    click(cards["cells"].header)
    click(cards["cells"].reason_buttons["no_signal"])
    until(lambda: not window.canvas._todo)
    window.shot("window-cells")
    window.session.clear()
    window.session.hide_flagged = True

    model = cards["model"]
    click(model.header)
    until(lambda: model.sees.pictures and model.advice[0].isVisible(), 120)
    window.part("window-model", dock)
    click(model.weights)
    QTest.qWait(500)
    model._weights_dialog.open_at("microsnoop-published")
    window.part("window-weights", model._weights_dialog)
    model._weights_dialog.close()
    window.close()


def losses(model: Any) -> list[float]:
    """The loss now and at the beginning, as the card says them."""
    return [float(number) for number in re.findall(r"[0-9.]+[0-9]", model.training.loss.text())]


def job(root: Path, out: Path) -> None:
    """A job runs and is stopped: on a copy of the project without its trained network."""
    copy = FRESH / root.name
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "models", ignore_errors=True)
    window = Window(out, 1240, 860)
    dock = window.dock("CellRep")
    click(dock.tour.leave)  # the cards need its room
    cards, model = dock.cards, dock.cards["model"]
    dock.open_project(copy)
    until(lambda: window.canvas.field and model.model.count(), 120)
    cards["images"].field.setCurrentIndex(cards["images"].field.findData("A06"))
    cards["images"].field.activated.emit(cards["images"].field.currentIndex())
    until(lambda: window.canvas.field == "A06")
    window.viewer.reset_view()
    window.viewer.scene.camera.zoom *= 2
    click(model.header)
    click(model.training.train)
    until(lambda: model.training.loss.text() and "left" in dock.strip.message.text(), 300)
    until(lambda: "left" in dock.strip.message.text() and losses(model)[0] < 0.95 * losses(model)[1], 300)
    until(lambda: len(model.training.curve.x) > 30 and len(model.training.pictures.pictures), 300)
    dock.findChild(QScrollArea).ensureWidgetVisible(model.training.pictures)
    window.shot("window-training")
    click(dock.strip.stop)
    window.wait()
    window.close()


def answer(root: Path, out: Path) -> None:
    """Two jobs make a map, a third answers a question: on a copy of the project."""
    window = Window(out, 1240, 860)
    dock = window.dock("CellRep")
    click(dock.tour.leave)
    cards, model = dock.cards, dock.cards["model"]
    dock.open_project(root)
    until(lambda: window.canvas.field and model.model.count(), 120)
    show_field(window.viewer, window.session, "A06")
    until(lambda: window.canvas.field == "A06")
    window.viewer.reset_view()
    window.viewer.scene.camera.zoom *= 2
    click(model.header)
    model.choose("measurements")
    window.press(model.embed)
    until(lambda: cards["explore"].body.isVisible())
    window.press(cards["explore"].make)
    until(lambda: window.session.map_coordinates() is not None)
    explore = cards["explore"]
    until(lambda: explore.question.count())
    window.press(explore.answer)  # closer to A or to B, the sample's two controls
    window.shot("window-explore")
    window.close()


def explore(root: Path, out: Path) -> None:
    """What the map and the image do for each other."""
    window = Window(out, 1280, 900)
    viewer, session, canvas = window.viewer, window.session, window.canvas
    session.open(root)
    session.embedding = "paired_cell_inpainting"
    panel = window.dock("Explore")
    panel.setMinimumHeight(300)
    view = panel.map

    show_field(viewer, session, "A07")
    until(lambda: canvas.field == "A07")
    viewer.reset_view()
    viewer.scene.camera.zoom *= 2.6  # cells, not dots
    view.fit()
    window.shot("explore-map")

    at = view.view.to_px(session.map_coordinates())
    obs = session.cells.obs
    high = session.visible & np.isfinite(at).all(axis=1) & (obs["dose_rank"].to_numpy() >= 9)
    middle, turn = np.median(at[high], axis=0), np.linspace(0, 2 * np.pi, 60)
    path = [QPoint(int(x), int(y)) for x, y in middle + np.c_[60 * np.cos(turn), 40 * np.sin(turn)]]
    QTest.mousePress(view, LEFT, PLAIN, path[0])
    for p in path[1:]:
        QTest.mouseMove(view, p)
    QTest.mouseRelease(view, LEFT, PLAIN, path[-1])
    until(lambda: not canvas._todo)
    window.shot("explore-lasso")

    row = int(np.flatnonzero(session.selected & (obs["field"] == "E11").to_numpy())[0])
    point = view._screen(row).toPoint()
    QTest.mouseMove(view, point + QPoint(1, 0))
    QTest.mouseMove(view, point)
    until(view.card.isVisible)
    QTest.qWait(600)
    window.shot("explore-hover", view.card)
    QTest.mouseClick(view, LEFT, PLAIN, point)  # a cell of a field that is not open
    until(lambda: session.focus >= 0 and canvas.field == session.value(session.focus, "field"))
    QTest.qWait(900)
    window.shot("explore-point")

    show_field(viewer, session, "A07")
    until(lambda: canvas.field == "A07")
    viewer.reset_view()
    viewer.scene.camera.zoom *= 2.6
    QTest.qWait(300)
    in_image = [int(r) for r in session.rows_of_field("A07") if session.visible[r]]
    size = np.array(viewer.layers[0].data.shape)
    middle_row = min(in_image, key=lambda r: float(np.abs(np.array(session.place(r)[1:]) - size / 2).sum()))
    session.clear()
    window.click_image(session.cell_id(middle_row))
    until(lambda: session.focus == middle_row)
    window.shot("explore-cell")

    tree = panel.view("Tree")
    until(lambda: tree.plot.shown is not None)
    said: list[str] = []  # what "Save picture…" writes: all wells, however low the panel
    tree.plot.print_to(str(FRESH / "tree.png"), said.append)
    until(lambda: said and "saved" in said[-1])
    saved = Image.open(FRESH / "tree.png")
    saved.thumbnail((860, 860))
    save(saved.convert("RGB"), out / "explore-tree.png")
    session.clear()  # else only the branches with selected cells
    tree.print_branches(str(out / "explore-branches.png"))
    until(lambda: "saved as" in tree.words.text())
    page = Image.open(out / "explore-branches.png").convert("RGB")
    page.thumbnail((720, 720), Image.Resampling.LANCZOS)
    save(page, out / "explore-branches.png")

    panel.setMinimumHeight(430)
    gallery = panel.view("Gallery")
    dose = session.visible & (obs["field"] == "A12").to_numpy()
    session.select(np.flatnonzero(dose)[:5])
    gallery.find_similar()
    gallery.by.setCurrentText("dose rank")
    QTest.qWait(1500)
    until(lambda: all(gallery.grid.pictures.get(r, canvas.looks()) for r, _ in gallery.grid.in_sight()))
    window.part("explore-gallery", panel)
    session.clear()
    plate = panel.view("Plate")
    spread = [plate.what.itemText(i) for i in range(plate.what.count())]
    plate.what.setCurrentText(
        next(w for w in spread if w.startswith("closer to A or to B (paired") and w.endswith("spread"))
    )
    window.part("explore-plate", panel)

    session.clear()
    session.colour_by = "dose_rank"
    session.hide_values("dose_rank", [str(i) for i in range(1, 10)])
    panel.clouds.setChecked(True)
    panel.two.setChecked(True)
    panel.setMinimumHeight(440)
    until(lambda: bool(panel.map.clouds.contours and panel.second.map.clouds.contours))
    window.part("explore-two-maps", panel.maps)
    panel.clouds.setChecked(False)
    panel.two.setChecked(False)
    session.show_all_values()

    session.clear()
    gallery = panel.view("Gallery")
    gallery.by.setCurrentText("no lines")
    panel.setMinimumHeight(300)
    QTest.qWait(500)
    viewer.window.resize(1280, 900)
    scores = [c for c in session.colour_choices if c.startswith("score_paired")]
    session.colour_by = scores[0] if scores else "group"
    view.fit()  # beside its new legend
    until(lambda: all(gallery.grid.pictures.get(r, canvas.looks()) for r, _ in gallery.grid.in_sight()))
    viewer.theme = "light"
    window.shot("explore-light")
    window.close()


def prediction(root: Path, out: Path) -> None:
    """The pattern of a treated cell in an untreated one."""
    window = Window(out, 1280, 900)
    viewer, session, canvas = window.viewer, window.session, window.canvas
    session.open(root)
    session.embedding = "paired_cell_inpainting"
    panel = window.dock("Explore")
    obs = session.cells.obs
    good = obs.index[session.visible]
    source = next(c for c in good[5:] if obs.loc[c, "dose_rank"] == 10)
    target = [c for c in good if obs.loc[c, "field"] == "A01"][12]
    show_field(viewer, session, obs.loc[target, "field"])
    until(lambda: canvas.field == obs.loc[target, "field"])
    canvas.start_prediction(source)
    canvas.go_to(session.row_of_id(target), frame=True)
    QTest.qWait(400)
    window.click_image(target)
    until(lambda: canvas.layers("inpainting"), 120)
    for widget in QApplication.allWidgets():  # the notice would hide a part of the picture
        if type(widget).__name__ == "NapariQtNotification":
            widget.close()
    panel.parentWidget().hide()  # so that the list of layers has room
    canvas.go_to(session.row_of_id(target), frame=True)
    QTest.qWait(1000)
    viewer.window._qt_viewer.layers.scrollToTop()
    window.shot("explore-prediction")
    layers = {la.metadata[OURS]["part"]: la for la in canvas.layers("inpainting")}
    parts = []
    for part in ("real", "prediction", "error"):
        for name, layer in layers.items():
            layer.visible = name == part
        QTest.qWait(300)
        shown = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        side = min(shown.shape[:2])
        upper, left = ((length - side) // 2 for length in shown.shape[:2])
        parts += [shown[upper : upper + side, left : left + side], np.full((side, 8, 3), 255, np.uint8)]
    row = Image.fromarray(np.hstack(parts[:-1]))
    row.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    save(row, window.out / "explore-inpainting.png")
    window.close()


def groups(root: Path, out: Path) -> None:
    """Wells as points of the map, and those most like one of them in the table."""
    window = Window(out, 1280, 760)
    session, canvas = window.session, window.canvas
    session.open(root)
    session.embedding, session.colour_by = "paired_cell_inpainting", "dose_rank"
    panel = window.dock("Explore")
    panel.setMinimumHeight(360)
    panel.rows_of.setCurrentIndex(panel.rows_of.findData("group"))
    view = panel.map
    view.fit()
    QTest.qWait(300)
    at = view.view.to_px(view.groups.places)[view.groups.rows.index("A07")]
    QTest.mouseClick(view, LEFT, PLAIN, QPoint(int(at[0]), int(at[1])))
    QTest.mouseClick(view, RIGHT, PLAIN, QPoint(int(at[0]), int(at[1])))
    until(lambda: canvas._menu is not None)
    menu, similar = canvas._menu, canvas._menu.actions()[1]
    QTest.mouseClick(menu, LEFT, PLAIN, menu.actionGeometry(similar).center())
    until(lambda: session.similar is not None)
    QTest.mouseMove(view, QPoint(3, view.height() - 60))
    window.part("explore-groups", panel)
    window.close()


def variability(root: Path, out: Path) -> None:
    """Groups by how their cells vary; one is chosen in the list."""
    window = Window(out, 1380, 860)
    session, canvas = window.session, window.canvas
    session.open(root)
    session.embedding, session.colour_by = "paired_cell_inpainting", "dose_rank"
    panel = window.dock("Explore")
    panel.setMinimumHeight(430)
    view = panel.view("Variability")
    panel.views.setSizes([430, 900])
    panel.map.fit()
    until(lambda: view.found is not None, 120)
    line = view.list.visualRect(view.list.model().index(1, 1))
    QTest.mouseClick(view.list.viewport(), LEFT, PLAIN, line.center())
    until(lambda: view.strip.seen is not None)
    until(lambda: all(view.strip.pictures.get(row, canvas.looks()) for row, _ in view.strip.tiles()))
    window.part("explore-variability", panel)
    window.close()


def learn(root: Path, out: Path) -> None:
    """Cells that are named teach a classifier; the first of its queue is looked at. On a copy: it makes sets."""
    window = Window(out, 1400, 800)
    session, canvas = window.session, window.canvas
    session.open(Path(shutil.copytree(root, FRESH / "learn.cellrep")))
    session.embedding = "paired_cell_inpainting"
    panel = window.dock("Explore")
    panel.setMinimumHeight(400)
    control = session.cells.obs["control"].to_numpy()
    for name, value in (("untreated", -1), ("full dose", 1)):
        rows = np.flatnonzero(session.visible & (control == value))
        session.select(np.random.default_rng(0).choice(rows, 40, replace=False))
        session.save_set(name, {"made": "by hand"})
    view = panel.view("Learn")
    panel.views.setSizes([400, 980])
    panel.map.fit()
    click(view.train)
    until(lambda: len(view.rows), 120)
    click(view.next)
    until(lambda: bool(canvas.field))
    click(view.on_map)
    QTest.qWait(2000)
    window.part("explore-learn", panel)
    window.close()


def look(root: Path, out: Path) -> None:
    """Figures of what networks make of cells, as `cellrep look` writes them.

    Beside the demo's network they want embeddings "dino" (`cellrep embed … --weights dino-starter --key dino`), "told" (a
    DeepLoc that learned the column control) and "microsnoop"; what is missing is said and left as it is.
    """
    from napari_cellrep.data.cells import embedding_names
    from napari_cellrep.steps import axis, heads, inpaint
    from napari_cellrep.steps import look as steps
    from napari_cellrep.steps.look_figure import save_looks

    project, pci = open_project(root), "paired_cell_inpainting"
    obs = project.cells.obs
    good = obs[obs["good"].to_numpy(bool)]
    controls = {
        name: [str(c) for c in good.index[good["control"] == v]]
        for name, v in (("untreated", -1), ("full dose", 1))
    }
    odd = good["outlier_paired_cell_inpainting"].astype(float)
    usual = good[(odd < odd.median()) & (np.abs(good["area_px"] / good["area_px"].median() - 1) < 0.25)]
    one = {  # cells typical of their group, all of their window in the image
        name: [c for c in cells if c in usual.index and inner(obs.loc[c])] for name, cells in controls.items()
    }
    untreated, treated = (cells[5:55:7] for cells in one.values())
    both = [untreated[0], treated[0]]
    dim = [c for c in good.index[good["field"] == "A07"] if inner(obs.loc[c])]
    dim = [max(dim, key=lambda c: obs.loc[c, "q_signal"]), min(dim, key=lambda c: obs.loc[c, "q_signal"])]
    apart = {"a": "full dose", "b": "untreated", "sets": controls}
    wanted: tuple[tuple[str, str, list[str], int, dict[str, Any]], ...] = (
        (
            "grid",
            pci,
            [],
            620,
            {"sources": untreated[:2] + treated[:2], "targets": [untreated[2], treated[2], dim[0]]},
        ),
        ("patterns", pci, treated[:6], 900, {"target": untreated[0]}),
        ("apart", "dino", both, 700, apart),
        ("occlusion", pci, dim, 800, {}),
        ("attention", "dino", both, 1100, {}),
        ("tokens", "dino", both, 800, {"stride": 4}),
        ("classes", "told", both, 900, {}),
        ("redrawn", "microsnoop", treated[:1], 900, {"ratio": 0.5}),
        ("heads", "dino", [], 460, {}),
        ("axis", "dino", [], 1100, {"name": "A06"}),
    )
    for what, embedding, cells, width, how in wanted:
        if embedding not in embedding_names(project.cells):
            print(f"look-{what}.png is left as it is: the project has no embedding {embedding}")
            continue
        if what == "heads":
            heads.save_heads(heads.heads(project, embedding=embedding), FRESH / "look.png")
        elif what == "grid":
            inpaint.inpaint_grid(project, out=str(FRESH / "look.png"), **how)
        elif what == "patterns":
            save_looks(project, inpaint.patterns(project, cells=cells, **how), FRESH / "look.png")
        elif what == "axis":
            axis.axis(project, embedding=embedding, out=str(FRESH / "look.png"), **how)
        else:
            kind = "reconstruction" if what == "redrawn" else what
            looks = steps.look(project, what=kind, cells=cells, embedding=embedding, **how)
            save_looks(project, looks, FRESH / "look.png")
            print("\n".join(f"{one.cell_id}: {' '.join(one.words)}" for one in looks))
        page = Image.open(FRESH / "look.png").convert("RGB")
        page = page.resize((width, width * page.height // page.width), Image.Resampling.LANCZOS)
        save(page, out / f"look-{what}.png")


def inner(cell: Any, far: int = 40) -> bool:
    """Whether all of a cell's window lies in its field of 640 pixels."""
    return bool(far < cell["y_px"] < 640 - far and far < cell["x_px"] < 640 - far)


def ask(window: Window, cell: str, words: str, spot: QPoint | None = None) -> Any:
    """Choose an entry of a cell's menu with the mouse's right button, and wait for the answer's layers."""
    canvas, n = window.canvas, len(window.canvas.looking.answers)
    window.click_image(cell, RIGHT)
    entries = {}
    menus = [canvas._menu]
    while menus:
        for action in menus.pop().actions():
            entries[action.text()] = action
            if action.menu() is not None:
                menus.append(action.menu())
    until(entries[words].isEnabled, 120)  # the worker has said what the network can
    QTest.qWait(500)
    entries[words].trigger()
    canvas._menu.hide()
    until(lambda: len(canvas.looking.answers) > n, 120)
    return canvas.looking.answers[-1]


def quiet_notes() -> None:
    """Close napari's notices, which would hide a part of the picture."""
    for widget in QApplication.allWidgets():
        if type(widget).__name__ == "NapariQtNotification":
            widget.close()
    QTest.qWait(300)


def inside(root: Path, out: Path) -> None:
    """A structure found again, and which channel each head of a DINO looks at, with the tab that goes with them."""
    window = Window(out, 1240, 860)
    session, canvas, looking = window.session, window.canvas, window.canvas.looking
    session.open(open_project(root))
    if "dino" not in session.embeddings:
        print("inside-*.png are left as they are: the project has no embedding dino")
        window.close()
        return
    session.embedding, session.colour_by = "dino", "dose_rank"
    explore = window.dock("Explore")
    explore.setMinimumHeight(400)
    view = explore.view("Look inside")
    show_field(window.viewer, session, "A01")
    until(lambda: canvas.field == "A01")
    window.viewer.window._qt_viewer.dockLayerControls.hide()
    cell = middle_cell(session, "A01")
    canvas.frame_cell(cell)
    window.viewer.scene.camera.zoom *= 0.35
    explore.map.fit()
    ask(window, cell, STRUCTURE[0])
    quiet_notes()
    window.shot("inside-structure")

    looking.remove()
    ask(window, cell, QUESTIONS["attention"][0])
    click(view.of_all)
    until(lambda: view.matrix.heads, 300)
    i, j = np.unravel_index(
        np.nanargmax(view.matrix.iou[1:] - view.matrix.chance[1:]), view.matrix.iou[1:].shape
    )
    view.matrix.at = (int(i) + 1, int(j))
    view.matrix.clicked.emit(*view.matrix.at)
    until(lambda: len(looking.answers) == 2, 120)
    for layer in looking.answers[0].layers.values():
        layer.visible = False
    QTest.qWait(500)
    view.lowest.setValue(60)
    window.viewer.reset_view()
    quiet_notes()
    window.shot("inside-heads")
    print(" ".join([view.words.text(), view.matrix_words.text()]))
    window.close()


def middle_cell(session: Any, field: str) -> str:
    """The good cell of a usual size that is nearest to the middle of a field of 640 pixels."""
    area = session.cells.obs["area_px"].to_numpy(float)
    usual = np.abs(area / np.median(area[session.visible]) - 1) < 0.25
    rows = [int(r) for r in session.rows_of_field(field) if session.visible[r] and usual[r]]
    far = [float(np.hypot(*(np.array(session.place(r)[1:]) - 320))) for r in rows]
    return str(session.cell_id(rows[int(np.argmin(far))]))


def masking(root: Path, out: Path) -> None:
    """A cell that a Microsnoop redraws, with half of its nucleus painted as hidden: the mask, then what came of it."""
    window = Window(out, 1240, 860)
    session, canvas = window.session, window.canvas
    session.open(open_project(root))
    if "microsnoop" not in session.embeddings:
        print("inside-mask.png is left as it is: the project has no embedding microsnoop")
        window.close()
        return
    session.embedding = "microsnoop"
    explore = window.dock("Explore")
    explore.setMinimumHeight(250)
    view = explore.view("Look inside")
    show_field(window.viewer, session, "A12")
    until(lambda: canvas.field == "A12")
    cell = middle_cell(session, "A12")
    canvas.frame_cell(cell)
    answer = ask(window, cell, QUESTIONS["reconstruction"][0])
    names = answer.names
    view.show_picture(names.index("FKHR-GFP as the network sees it"))
    click(view.mask.paint)
    h, w = answer.mask.data.shape
    answer.mask.data = np.zeros((h, w), np.uint8)
    for i in range(h // 2 - 1, h // 2 + 1):  # half of the nucleus
        answer.mask.paint((i, w // 2), 1)
    canvas.frame_cell(cell)
    window.viewer.scene.camera.zoom *= 0.7
    quiet_notes()
    window.shot("inside-mask")
    looks = answer.looks
    click(view.mask.again)
    until(lambda: answer.looks is not looks, 60)
    parts = []
    mask = answer.mask
    for what, painted in (
        ("as the network sees it", True),
        ("with patches hidden", False),
        ("redrawn", False),
        ("error of redrawing", False),
    ):
        view.show_picture(answer.names.index(f"FKHR-GFP {what}"))
        mask.visible = painted
        QTest.qWait(300)
        shown = window.viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        side = min(shown.shape[:2])
        upper, left = ((length - side) // 2 for length in shown.shape[:2])
        parts += [shown[upper : upper + side, left : left + side], np.full((side, 8, 3), 255, np.uint8)]
    row = Image.fromarray(np.hstack(parts[:-1]))
    row.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    save(row, out / "inside-redrawn.png")
    print(view.words.text())
    window.close()


def slide(root: Path, out: Path) -> None:
    """The project's wells put together as one image larger than memory, from afar: coloured, and some cells selected."""
    made = mosaic(open_project(root), FRESH / "slide")
    window = Window(out, 1180, 780)
    viewer, session, canvas = window.viewer, window.session, window.canvas
    session.open(made)
    shown: list[bool] = []
    canvas.show("slide", lambda: shown.append(True))
    until(lambda: shown, 600)
    session.colour_by = "nucleus_ring_ratio"
    canvas.coloured = True
    until(lambda: canvas.layer("colours") is not None)
    obs, rows = session.cells.obs, session.rows_of_field("slide")
    far = np.abs(obs[["y_px", "x_px"]].to_numpy()[rows] - 4500).max(axis=1)
    near = rows[(far < 400) & session.visible[rows]]
    session.set_focus(int(near[0]))
    session.select(near, how="lasso")
    QTest.qWait(1000)
    camera, layer = viewer.scene.camera, canvas.layer("channel")
    camera.center, camera.zoom = tuple(layer.data_to_world((4500, 4500))), 0.32 / float(layer.scale[-1])
    QTest.qWait(1000)
    window.shot("window-slide")
    viewer.close()


def slide_edit(root: Path, out: Path) -> None:
    """The same slide zoomed in: a part of it opened to be edited, a cell erased and another one grown, in its frame."""
    made = mosaic(open_project(root), FRESH / "slide_edit")
    window = Window(out, 1180, 780)
    viewer, canvas, dock = window.viewer, window.canvas, window.dock("CellRep")
    dock.open_project(made.root)
    until(lambda: canvas.slide is not None, 600)
    dock.open_card("cells")
    QTest.qWait(1000)
    camera, channel = viewer.scene.camera, canvas.layer("channel")
    um = float(channel.scale[-1])
    camera.center, camera.zoom = tuple(channel.data_to_world((4500, 4500))), 3.2 / um
    QTest.qWait(500)
    click(dock.cards["cells"].in_view)
    until(lambda: canvas.editing.layer is not None)
    layer, part = canvas.editing.layer, canvas.editing.part
    free = [i for i in np.unique(part.labels)[1:].tolist() if i not in part.locked]
    erased, grown = free[len(free) // 3], free[len(free) // 2]
    y, x = (int(v) for v in np.argwhere(part.labels == erased).mean(axis=0))
    layer.fill((y, x), 0)
    layer.mode, layer.brush_size, layer.selected_label = "paint", 10, grown
    y, x = (int(v) for v in np.argwhere(part.labels == grown).mean(axis=0))
    for step in range(0, 16, 2):
        layer.paint((y + step, x + step), grown)
    camera.zoom = 1.9 / um
    QTest.qWait(1000)
    window.shot("window-slide-edit")
    viewer.close()


def mosaic(source: Any, folder: Path) -> Any:
    """A project of one image of 14 × 14 wells, with the labels and the table of the wells."""
    folder.mkdir()
    ids = [f.id for f in source.fields]
    images, labels = {i: source.read_image(i) for i in ids}, {i: source.read_labels(i) for i in ids}
    side, n = images[ids[0]].shape[-1], 14
    order = [[ids[(y * n + x) % len(ids)] for x in range(n)] for y in range(n)]
    whole = np.concatenate([np.concatenate([images[i] for i in row], axis=2) for row in order], axis=1)
    tifffile.imwrite(
        folder / "slide.tif", whole, tile=(512, 512), compression="zlib", photometric="minisblack"
    )
    planes = tuple(Plane(str(folder / "slide.tif"), i) for i in range(len(whole)))
    field = Field("slide", planes, *whole.shape[1:], str(whole.dtype), source.fields[0].um_per_px)
    made = create_project(folder / "slide", with_groups([field]), source.channels)
    frames, first, places = (
        [],
        0,
        [("y_px", 0), ("box_y0", 0), ("box_y1", 0), ("x_px", 1), ("box_x0", 1), ("box_x1", 1)],
    )
    obs = source.cells.obs
    with made.writing_labels("slide", {}) as writer:
        for y, row in enumerate(order):
            for x, well in enumerate(row):
                own = labels[well].astype(np.uint32)
                box = (slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
                writer.array[box] = np.where(own > 0, own + first, 0)
                part = obs[(obs["field"].astype(str) == well).to_numpy()].astype(object)
                part["label"] += first
                for column, axis in places:
                    part[column] += (y, x)[axis] * side
                frames.append(part.assign(field="slide", group="slide"))
                first += int(own.max())
        writer.n_cells = first
    table = pd.concat(frames).infer_objects()
    table.index = [f"slide:{label}" for label in table["label"]]
    made.write_cells(ad.AnnData(obs=table[[c for c in table if not c.startswith("has_")]]))
    return open_project(made.root)


def fresh(root: Path) -> Path:
    """Copy a project, as nobody has left it: neither tabs nor colours come back from the part before."""
    copy = Path(shutil.copytree(root, Path(tempfile.mkdtemp(dir=FRESH)) / root.name))
    (copy / "view.json").unlink(missing_ok=True)
    return copy


def main() -> None:
    """Take them all, or one half."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    part = sys.argv[3] if len(sys.argv) > 3 else ""
    if part in ("", "explore"):
        explore(fresh(root), out)
    if part in ("", "prediction"):
        prediction(fresh(root), out)
    if part in ("", "groups"):
        groups(fresh(root), out)
    if part in ("", "variability"):
        variability(fresh(root), out)
    if part in ("", "learn"):
        learn(root, out)
    if part in ("", "look"):
        look(root, out)
    if part in ("", "inside"):
        inside(fresh(root), out)
    if part in ("", "masking"):
        masking(fresh(root), out)
    if part in ("", "slide"):
        slide(root, out)
    if part in ("", "slide-edit"):
        slide_edit(root, out)
    if part in ("", "walk"):
        walk(out)
    if part in ("", "job"):
        job(root, out)
    if part in ("", "answer"):
        answer(fresh(root), out)


if __name__ == "__main__":
    main()
