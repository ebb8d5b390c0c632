from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_cellrep.gui._explore import ExploreWidget
from napari_cellrep.gui._state import session_of


@pytest.fixture
def explore(viewer, project, qtbot):
    session_of(viewer).open(project)
    widget = ExploreWidget(viewer)
    viewer.window.add_dock_widget(widget, area="bottom", name="Explore")
    viewer.window.resize(1400, 950)
    with qtbot.waitExposed(widget):
        pass
    qtbot.wait(100)
    widget.map.fit()
    widget.map.grab()
    return widget


def test_it_opens(explore, qtbot):
    assert explore.map.has_map
