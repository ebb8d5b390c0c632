"""What is painted for print looks as on the screen."""

import pytest
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import QLabel

from napari_cellrep.gui.views._file import paint_file


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_words_are_as_large_beside_pictures_as_on_the_screen(qtbot, tmp_path, ending):
    label = QLabel("10 px")
    qtbot.addWidget(label)
    on_screen = label.fontMetrics().horizontalAdvance("10 px") / 400
    found = []

    def paint(painter: QPainter) -> None:
        if ending == "pdf":
            painter.setFont(label.font())
        words = painter.fontMetrics().horizontalAdvance("10 px") * painter.transform().m11()
        found.append(words / painter.device().width())

    assert paint_file(str(tmp_path / f"a.{ending}"), 400, 300, paint)
    assert (tmp_path / f"a.{ending}").stat().st_size > 0
    assert found[0] == pytest.approx(on_screen, rel=0.3)
