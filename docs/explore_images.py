"""Take the pictures of the Explore dock in docs/images, on a project of the bundled sample, by real pointer events.

python docs/explore_images.py PROJECT.cellrep [docs/images]     (needs a screen; Xvfb will do)
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "napari.yaml")  # nobody's own settings

import napari
import numpy as np
from PIL import Image
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._image import canvas_of, show_field
from napari_cellrep.gui._state import session_of
from napari_cellrep.jobs import drain
from napari_cellrep.steps.inpaint import inpaint

LEFT, PLAIN = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


def until(done: Callable[[], bool], seconds: int = 30) -> None:
    """Let the window work until something has happened."""
    for _ in range(seconds * 20):
        if done():
            QTest.qWait(300)
            return
        QTest.qWait(50)
    raise TimeoutError


def main() -> None:
    """Take them all; the prediction only if the project holds a trained network."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    viewer = napari.Viewer()
    viewer.window.resize(1180, 860)
    session, canvas = session_of(viewer), canvas_of(viewer)
    session.open(root)
    explore = ExploreWidget(viewer)
    viewer.window.add_dock_widget(explore, area="bottom", name="Explore")
    explore.setMinimumHeight(340)
    view = explore.map
    QTest.qWait(800)

    def shot(name: str) -> None:
        QTest.qWait(300)
        pixels = viewer.screenshot(canvas_only=False, flash=False)
        card = view.card
        picture = Image.fromarray(pixels[..., :3])
        if card.isVisible():  # a window of its own
            inside = card.pos() - explore.window().pos()
            shown = card.grab().toImage().convertToFormat(card.grab().toImage().Format.Format_RGB888)
            data = np.frombuffer(shown.constBits().asstring(shown.sizeInBytes()), np.uint8)
            data = data.reshape(shown.height(), shown.bytesPerLine())[:, : 3 * shown.width()]
            picture.paste(Image.fromarray(data.reshape(shown.height(), -1, 3)), (inside.x(), inside.y()))
        picture.save(out / f"explore-{name}.png", optimize=True)  # no palette: it would falsify the legend

    show_field(viewer, session, "A07")
    until(lambda: canvas.field == "A07")
    view.fit()
    shot("map")

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
    shot("lasso")

    row = int(np.flatnonzero(session.selected & (obs["field"] == "E11").to_numpy())[0])
    point = view._screen(row).toPoint()
    QTest.mouseMove(view, point + QPoint(1, 0))
    QTest.mouseMove(view, point)
    until(view.card.isVisible)
    shot("hover")
    QTest.mouseClick(view, LEFT, PLAIN, point)
    until(lambda: session.focus >= 0 and canvas.field == session.value(session.focus, "field"))
    QTest.qWait(900)
    shot("cell")

    session.clear()
    scores = [c for c in session.colour_choices if c.startswith("score")]
    session.colour_by = scores[0] if scores else "group"
    viewer.theme = "light"
    shot("light")
    viewer.theme = "dark"
    if (root / "models" / "paired_cell_inpainting" / "model.json").is_file():
        good = obs.index[session.visible]
        source = next(c for c in good[5:] if obs.loc[c, "dose_rank"] == 10)
        target = [c for c in good if obs.loc[c, "field"] == "A01"][12]
        canvas.add_inpainting(drain(inpaint(session.project, source=source, target=target)))
        until(lambda: len(canvas.layers("inpainting")) == 3)
        shot("prediction")
    canvas.close()
    viewer.close()
    QApplication.processEvents()


if __name__ == "__main__":
    main()
