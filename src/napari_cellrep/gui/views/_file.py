"""Pictures for print: what a view paints on the screen, painted into a file."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QMarginsF, QSizeF
from qtpy.QtGui import QGuiApplication, QImage, QPageSize, QPainter, QPdfWriter

PRINT_SCALE = 4


def paint_file(path: str, width: int, height: int, paint: Callable[[QPainter], None]) -> bool:
    """Paint to a PNG at `PRINT_SCALE` times the screen's resolution, or to a PDF of one page.

    Parameters
    ----------
    path : str
        ``.png`` or ``.pdf``.
    width, height : int
        Of what is painted, in px of the screen.
    paint : callable
        Given a painter that is scaled already.

    Returns
    -------
    bool
        Whether the file could be written.
    """
    if path.lower().endswith(".pdf"):
        writer = QPdfWriter(path)
        # As many dots per inch as the screen has, so that words are as large beside the pictures as there.
        dpi = round(QGuiApplication.primaryScreen().logicalDotsPerInch())
        page = QSizeF(width, height) * (72 / dpi)
        writer.setPageSize(QPageSize(page, QPageSize.Unit.Point))
        writer.setPageMargins(QMarginsF(0, 0, 0, 0))
        writer.setResolution(dpi)
        painter = QPainter()
        if not painter.begin(writer):
            return False
        paint(painter)
        painter.end()
        return True
    image = QImage(width * PRINT_SCALE, height * PRINT_SCALE, QImage.Format.Format_RGB32)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.scale(PRINT_SCALE, PRINT_SCALE)
    paint(painter)
    painter.end()
    return image.save(path)
