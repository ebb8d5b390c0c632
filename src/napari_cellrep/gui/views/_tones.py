"""Tones that can be told apart on dark and on light themes.

Text and marks that stand back, the selection, and writing on a colour. The contrasts are those of the Web Content
Accessibility Guidelines 2.2, level AA.
"""

from __future__ import annotations

import numpy as np
from qtpy.QtGui import QColor

from napari_cellrep.gui.views._raster import OKABE_ITO, SELECTED, luminances, seen_on

LEAST_TEXT = 4.5  # contrast of text to what is behind; of lines and shapes it is `_raster.LEAST_MARK`
_FAINT_TEXT, _FAINT_MARK = 185, 140  # opacity of 255
_DARK_ORANGE = (200, 86, 0)  # the selection's orange where the ground is light


def luminance(colour: QColor) -> float:
    """How bright a colour is seen, from 0 (black) to 1 (white)."""
    return float(luminances(np.array(colour.getRgb()[:3])))


def contrast(one: QColor, other: QColor) -> float:
    """Contrast of two opaque colours: 1 for the same, 21 for black and white."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def laid_over(colour: QColor, ground: QColor) -> QColor:
    """What is seen of a colour that lets the ground through."""
    share = colour.alphaF()
    both = zip(colour.getRgb()[:3], ground.getRgb()[:3], strict=True)
    return QColor(*(round(share * (a or 0) + (1 - share) * (b or 0)) for a, b in both))


def faint_text(text: QColor) -> QColor:
    """Text that stands back behind the theme's `text`, and can be read still."""
    return _with_alpha(text, _FAINT_TEXT)


def hints_style(text: QColor) -> str:
    """Style sheet for what stands in empty lines ("search"): Qt's own is half the theme's `text`, and hardly read."""
    r, g, b, alpha = faint_text(text).getRgb()
    return f"QLineEdit {{ placeholder-text-color: rgba({r}, {g}, {b}, {alpha}); }}"


def faint_mark(text: QColor) -> QColor:
    """Lines and shapes that stand back behind the theme's `text`, and are seen still."""
    return _with_alpha(text, _FAINT_MARK)


def selection_beside(text: QColor) -> QColor:
    """The orange of the selection, for marks on the window's own ground: darker where the theme is light."""
    return QColor(*(SELECTED if text.lightness() > 127 else _DARK_ORANGE))


def blue_beside(text: QColor) -> QColor:
    """The blue of groups and curves: light on dark themes and dark on light ones."""
    return QColor(*(int(v) for v in OKABE_ITO[4 if text.lightness() > 127 else 0]))


def orange_beside(text: QColor) -> QColor:
    """The second colour of curves: orange, darker on light themes."""
    return QColor(*(int(v) for v in OKABE_ITO[1])) if text.lightness() > 127 else QColor(*_DARK_ORANGE)


def edge_on(colour: QColor, ground: QColor) -> QColor:
    """The tone in which a shape of this colour ends in front of a ground, as points on the map do."""
    (rgb,) = seen_on(np.array([colour.getRgb()[:3]]), ground.getRgb()[:3])  # type: ignore[arg-type]
    return QColor(*(int(v) for v in rgb))


def on_shade(colour: QColor) -> QColor:
    """Black or white, whichever is read more easily on a colour."""
    black, white = QColor("black"), QColor("white")
    return black if contrast(black, colour) > contrast(white, colour) else white


def _with_alpha(colour: QColor, alpha: int) -> QColor:
    faint = QColor(colour)
    faint.setAlpha(alpha)
    return faint
