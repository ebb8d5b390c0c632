"""Screens with several pixels for one of Qt's: the same gestures hit the same cells, and pictures are sharp."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtGui import QImage
from qtpy.QtWidgets import QApplication

from napari_cellrep.gui._state import session_of
from napari_cellrep.gui.views._tiles import sharp_pixmap
from napari_cellrep.gui.views.map import MapView

HERE = Path(__file__).parent
# Real gestures of other files, each once; all of them pass at two and at one and a half, too.
GESTURES = (
    "test_map.py::test_a_lasso_selects_what_is_inside_it",
    "test_map.py::test_hover_shows_a_card",
    "test_map.py::test_a_click_in_the_legend_hides_and_shows",
    "test_image.py::test_clicks_on_cells_select_them",
    "test_image_lasso.py::test_ctrl_draws_a_lasso_shift_adds_and_the_image_stays",
    "test_plate.py::test_clicking_a_well_selects_its_cells",
    "test_gallery.py::test_click_modifiers_rubber_band_and_double_click",
    "test_tree.py::test_a_click_on_a_branch_selects_its_cells",
    "test_hidpi.py::test_the_map_is_drawn_in_the_screens_own_pixels",
)


@pytest.mark.slow
def test_gestures_on_a_screen_of_two_pixels_for_one(qapp):
    """In a process of its own: Qt asks for the scale once, when it starts."""
    if os.environ.get("QT_SCALE_FACTOR"):
        pytest.skip("this already is that process")
    for window in QApplication.topLevelWidgets():  # they would lie over the other process's windows
        window.hide()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xvfb", "-p", "no:cacheprovider", *GESTURES],
        cwd=HERE, env={**os.environ, "QT_SCALE_FACTOR": "2"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_the_map_is_drawn_in_the_screens_own_pixels(viewer, project, qtbot):
    ratio = float(os.environ.get("QT_SCALE_FACTOR", 1))
    session = session_of(viewer)
    session.open(project)
    view = MapView(session)
    qtbot.addWidget(view)
    view.resize(400, 300)
    with qtbot.waitExposed(view):
        view.show()
    view.grab()
    assert view.devicePixelRatioF() == QApplication.primaryScreen().devicePixelRatio() == ratio
    assert (view._image.width(), view._image.height()) == (400 * ratio, 300 * ratio)
    assert view.raster.owner.shape == (300 * ratio, 400 * ratio)
    view.disconnect_session()


def test_pictures_have_the_pixels_of_the_screen():
    image = QImage(np.zeros((40, 30), np.uint8).data, 30, 40, 30, QImage.Format.Format_Grayscale8)
    for ratio in (1.0, 1.5, 2.0):
        pixmap = sharp_pixmap(image, 112, ratio)
        assert (pixmap.width(), pixmap.height()) == (round(84 * ratio), round(112 * ratio))
        assert pixmap.deviceIndependentSize().height() == pytest.approx(112)
