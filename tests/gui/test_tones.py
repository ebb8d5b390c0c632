"""What our own styles and painters draw can be read in napari's themes: contrasts of WCAG 2.2, level AA."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from napari.utils.theme import get_theme
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QLineEdit, QWidget

import napari_cellrep.gui
from napari_cellrep.gui.cards._weights import LINKS
from napari_cellrep.gui.views import _tones
from napari_cellrep.gui.views._evidence import BAR_SHARE, shaded
from napari_cellrep.gui.views._raster import (
    LEAST_MARK,
    MISSING,
    MIXED,
    SELECTED,
    Colours,
    Raster,
    View,
    category_colours,
    colours_of,
    diverging,
    luminances,
    seen_on,
    viridis,
)
from napari_cellrep.gui.views._tones import LEAST_TEXT, contrast, laid_over

GUI = Path(napari_cellrep.gui.__file__).parent


@pytest.fixture(params=["dark", "light"])
def theme(request):
    """(text, grounds a widget may have) of a theme."""
    found = get_theme(request.param)
    text, *grounds = (
        QColor(*getattr(found, n).as_rgb_tuple()[:3]) for n in ("text", "background", "foreground")
    )
    return text, grounds


def test_contrast_is_that_of_the_guidelines():
    assert contrast(QColor("black"), QColor("white")) == pytest.approx(21)
    assert contrast(QColor("#777777"), QColor("white")) == pytest.approx(4.48, abs=0.01)
    assert contrast(QColor("red"), QColor("red")) == 1
    assert laid_over(QColor(200, 100, 0, 51), QColor(0, 0, 0)).getRgb()[:3] == (40, 20, 0)


def test_text_that_stands_back_is_read(theme):
    text, grounds = theme
    for ground in grounds:
        assert contrast(laid_over(_tones.faint_text(text), ground), ground) >= LEAST_TEXT
        assert contrast(laid_over(_tones.faint_text(text), ground), ground) < contrast(text, ground) - 1


@pytest.mark.parametrize(
    "mark", [_tones.faint_mark, _tones.selection_beside, _tones.blue_beside, _tones.orange_beside]
)
def test_marks_are_seen(theme, mark):
    text, grounds = theme
    for ground in grounds:
        assert contrast(laid_over(mark(text), ground), ground) >= LEAST_MARK


def test_links_are_read(theme):
    text, grounds = theme
    for ground in grounds:
        assert contrast(QColor(LINKS[text.lightness() > 127]), ground) >= LEAST_TEXT


def test_a_selected_line_of_a_table_is_read(theme):
    text, grounds = theme
    for ground in grounds:
        assert contrast(text, laid_over(QColor(*SELECTED, 90), ground)) >= LEAST_TEXT


def test_words_below_the_map_are_read_over_any_points(theme):
    text, (ground, _) = theme
    under = QColor(ground)
    under.setAlpha(190)  # as MapView draws it
    for rgb in viridis(9):
        assert contrast(text, laid_over(under, QColor(*map(int, rgb)))) >= LEAST_TEXT


def test_writing_on_a_colour_is_read(theme, qtbot):
    """Squares of matrices and bars of classes, however full they are."""
    text, grounds = theme
    widget = QWidget()
    qtbot.addWidget(widget)
    for ground in grounds:
        palette = widget.palette()
        palette.setColor(QPalette.ColorRole.Window, ground)
        widget.setPalette(palette)
        for share in np.linspace(0, 1, 21):
            shade = shaded(widget, share)
            assert contrast(_tones.on_shade(shade), shade) >= LEAST_TEXT
        for share in (0.0, BAR_SHARE):  # a class's bar and its ground, written on in the theme's text
            assert contrast(text, shaded(widget, share)) >= LEAST_TEXT


@pytest.mark.parametrize("name", ["dark", "light"])
def test_selected_points_have_a_dark_rim_on_either_theme(name):
    back = get_theme(name).background.as_rgb_tuple()[:3]
    raster = Raster(np.array([[0.0, 0.0]]))
    view = View((0.0, 0.0), 1.0, (41, 41))
    raster.place(view, np.ones(1, bool), np.ones(1, bool))
    colours = Colours(np.ones(1, np.uint8), np.full((256, 3), 128, np.uint8))
    line = raster.paint(colours, back, True, sum(back) > 384)[20, :21, 2::-1]
    shades = [
        QColor(*map(int, rgb)) for rgb in dict.fromkeys(map(tuple, line))
    ]  # from the ground to the point
    assert shades[0].getRgb()[:3] == back
    assert shades[-1].getRgb()[:3] == SELECTED
    assert any(contrast(shades[-1], rim) >= LEAST_MARK for rim in shades[1:-1])


PALETTES = {
    "categories": category_colours(24), "numbers": viridis(255), "signed numbers": diverging(255),
    "no column": colours_of(None, 0).palette[1:2], "no value, several": np.array([MISSING, MIXED], np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("palette", PALETTES.values(), ids=list(PALETTES))
@pytest.mark.parametrize("name", ["dark", "light"])
def test_points_end_in_a_tone_that_is_seen_on_the_map(name, palette):
    """Colour-blind-safe colours stay as they are; where the ground would swallow one, its rim is of another tone."""
    back = get_theme(name).background.as_rgb_tuple()[:3]
    n = len(palette)
    at = np.stack([np.arange(n) % 16, np.arange(n) // 16], axis=1) * 20.0
    raster = Raster(at)
    raster.place(View((150.0, 150.0), 1.0, (360, 360)), np.ones(n, bool), np.zeros(n, bool))
    colours = Colours(np.arange(1, n + 1).astype(np.uint8), np.full((256, 3), 128, np.uint8))
    colours.palette[1 : n + 1] = palette
    image = raster.paint(colours, back, False, sum(back) > 384)[..., 2::-1]
    bright = luminances(image.astype(float))
    ground = float(luminances(np.array(back)))
    contrasts = (np.maximum(bright, ground) + 0.05) / (np.minimum(bright, ground) + 0.05)
    there = raster.owner >= 0
    empty = np.pad(~there, 1, constant_values=True)
    rim = there & (empty[:-2, 1:-1] | empty[2:, 1:-1] | empty[1:-1, :-2] | empty[1:-1, 2:])
    assert set(raster.owner[rim]) == set(range(n))
    assert contrasts[rim].min() >= LEAST_MARK
    inside = there & ~rim
    assert set(raster.owner[inside]) == set(range(n))
    np.testing.assert_array_equal(image[inside], palette[raster.owner[inside]])
    kept = contrasts[inside] >= LEAST_MARK  # what is seen anyway has no other tone at its rim
    for row in np.unique(raster.owner[inside][kept]):
        assert (image[raster.owner == row] == palette[row]).all()


def test_the_rims_of_the_eight_first_categories_differ(theme):
    for ground in theme[1]:
        rims = seen_on(category_colours(8), ground.getRgb()[:3])
        apart = np.abs(rims[:, None] - rims[None]).sum(axis=2)
        assert apart[~np.eye(8, dtype=bool)].min() > 25


def test_no_painter_sets_a_colour_of_its_own_for_text():
    """Greys and faint tones come from `_tones`, where the tests above look at them."""
    own = re.compile(r"setPen\(QColor\(\d|Brush\(QColor\(128|color: ?#[0-9a-fA-F]{6}")
    found = [
        f"{p.name}: {m[0]}" for p in sorted(GUI.rglob("*.py")) for m in own.finditer(p.read_text("utf-8"))
    ]
    assert not found


@pytest.mark.parametrize("name", ["dark", "light"])
def test_hints_in_empty_lines_are_read_when_the_theme_changes(dock, viewer, qtbot, name):
    viewer.theme = "light" if name == "dark" else "dark"
    viewer.theme = name
    line = QLineEdit(dock.cards["images"].body)
    font = line.font()
    font.setPixelSize(40)
    line.setFont(font)
    line.setPlaceholderText("MMMM")
    line.resize(200, 60)

    def least() -> float:
        """Contrast of what stands out most, were it the hint, to the most frequent colour."""
        picture = line.grab().toImage().copy(20, 5, 120, 50)
        colours = Counter(picture.pixel(x, y) for x in range(120) for y in range(50))
        (ground, _), *_ = colours.most_common(1)
        return max(contrast(QColor(ground), QColor(c)) for c in colours)

    qtbot.waitUntil(lambda: least() > 1.5)
    assert least() >= LEAST_TEXT
