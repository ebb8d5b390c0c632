"""Scatter of up to millions of points as an image and a buffer of ids, and who is inside a lasso. Numpy only.

Drawing has two passes. The first (`Raster.place`) writes which point owns which pixel and runs when the view
moves; the second (`Raster.paint`) looks colours up per pixel and runs when colours or the selection change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from napari_cellrep.gui.views._words import is_signed
from napari_cellrep.session import NO_VALUE, SEVERAL, categories

SELECTED = (255, 122, 0)  # the one selection colour, in every view
DIM = 0.25  # what is not selected keeps this share of its colour
MAX_POINT_PX = 9

# Okabe and Ito, "Color Universal Design" (2008); grey stands for their black, which a dark theme swallows.
OKABE_ITO = np.array(
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
     (153, 153, 153)], np.uint8,
)  # fmt: skip
LEAST_MARK = 3.0  # contrast of lines and shapes to what is behind (WCAG 2.2, AA)
MISSING = (128, 128, 128)
MIXED = (176, 176, 176)  # cells with several values, as those of two pooled proteins
MIXED_CODE = 255


def category_colours(n: int) -> np.ndarray:
    """Colours for n categories, uint8 (n, 3): Okabe–Ito, then darker and lighter rounds of it, then again."""
    base = OKABE_ITO.astype(float)
    rounds = np.concatenate([base, base * 0.6, 255 - (255 - base) * 0.45])
    return rounds[np.arange(n) % len(rounds)].astype(np.uint8)


def luminances(rgb: np.ndarray) -> np.ndarray:
    """How bright colours (..., 3) of 0 to 255 are seen, from 0 (black) to 1 (white): WCAG's relative luminance."""
    parts = np.asarray(rgb, float) / 255
    parts = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return np.asarray(parts @ (0.2126, 0.7152, 0.0722))


def seen_on(palette: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """The same colours (n, 3), those that the ground would swallow lighter or darker until they have `LEAST_MARK` to it."""
    palette, behind = np.asarray(palette, float), float(luminances(np.array(ground)))
    end = 255.0 if behind < 0.18 else 0.0  # white or black, whichever is further away

    def contrast(rgb: np.ndarray) -> np.ndarray:
        one = luminances(rgb)
        return (np.maximum(one, behind) + 0.05) / (np.minimum(one, behind) + 0.05)

    low, high = np.zeros((len(palette), 1)), np.ones((len(palette), 1))
    for _ in range(9):  # share of white or black that is mixed in
        middle = (low + high) / 2
        enough = contrast((palette + middle * (end - palette)).round())[:, None] >= LEAST_MARK
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(
        contrast(palette)[:, None] >= LEAST_MARK, palette, (palette + high * (end - palette)).round()
    )


def viridis(n: int = 256) -> np.ndarray:
    """The colour map viridis, uint8 (n, 3); vispy's, because it is loaded, and Matplotlib takes half a second."""
    from vispy.color import get_colormap

    return (get_colormap("viridis").map(np.linspace(0, 1, n))[:, :3] * 255).round().astype(np.uint8)


def diverging(n: int = 255) -> np.ndarray:
    """Blue over grey to yellow, uint8 (n, 3), n odd: both ends and the middle are seen on dark and light."""
    ends = np.array([(60, 125, 255), (168, 168, 172), (245, 205, 30)], float)
    at = np.linspace(0, 2, n)
    return np.stack([np.interp(at, (0, 1, 2), ends[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


@dataclass(frozen=True)
class Colours:
    """A column of the table as colours.

    Parameters
    ----------
    codes : ndarray of shape (n,), uint8
        Index into `palette`; 0 is "no value".
    palette : ndarray of shape (256, 3), uint8
    legend : tuple of (text, code)
        One entry per category in their order, "several" and "no value" last; empty for a continuous column.
    limits : tuple of float
        Values at the ends of the colours (continuous columns: 1st and 99th percentile at first).
    reach : tuple of float
        Values between which limits can be chosen.
    values : ndarray of shape (n,), float64, or None
        Of a continuous column; NaN for no value.
    signed : bool
        Whether zero is the middle.
    """

    codes: np.ndarray
    palette: np.ndarray
    legend: tuple[tuple[str, int], ...] = ()
    limits: tuple[float, float] = (0.0, 1.0)
    reach: tuple[float, float] = (0.0, 1.0)
    values: np.ndarray | None = None
    signed: bool = False

    def limited(self, low: float, high: float) -> Colours:
        """The same column with its colours beginning and ending elsewhere."""
        if self.values is None:
            return self
        return replace(self, codes=_shades(self.values, low, high), limits=(low, high))


def colours_of(column: pd.Series | None, n: int) -> Colours:
    """Turn a column into colours: text and yes/no as categories, few whole numbers as steps, numbers as viridis.

    What lies between A and B gets a diverging map centred on zero.
    """
    palette = np.full((256, 3), MISSING, np.uint8)
    if column is None:
        palette[1] = OKABE_ITO[4]
        return Colours(np.ones(n, np.uint8), palette)
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if numeric:
        values = column.to_numpy(float, na_value=np.nan)
        known = np.isfinite(values)
        finite = values[known]
        steps = np.unique(finite) if (finite == np.round(finite)).all() else None
        if steps is None or len(steps) > 12:
            every = max(1, len(finite) // 200_000)  # the ends of a colour bar need no more
            low, high = np.percentile(finite[::every], (1, 99))
            if high <= low:
                low, high = finite.min(), finite.max()
            signed = is_signed(str(column.name))
            if signed:
                high = max(abs(low), abs(high))
                low = -high
            palette[1:] = diverging(255) if signed else viridis(255)
            low, high, wide = float(low), float(high), float(high - low) / 2
            if signed:
                reach = (low - wide, high + wide)
            else:  # a few wild values must not squeeze all others into one end of the bar
                reach = (max(float(finite.min()), low - wide), min(float(finite.max()), high + wide))
            values = np.where(known, values, np.nan)
            return Colours(_shades(values, low, high), palette, (), (low, high), reach, values, signed)
        palette[1 : 1 + len(steps)] = viridis(max(len(steps), 2))[: len(steps)]
        codes = np.where(known, 1 + np.searchsorted(steps, np.where(known, values, 0)), 0).astype(np.uint8)
        legend = [(str(int(s)), i + 1) for i, s in enumerate(steps)]
        return Colours(
            codes, palette, tuple(legend) + ((NO_VALUE, 0),) * bool(len(steps) and not known.all())
        )
    found, names = categories(column)
    order = sorted(range(len(names)), key=lambda i: (names[i] == SEVERAL, _natural(names[i])))
    rank = np.empty(len(names) + 1, np.int64)
    rank[order] = np.arange(len(names)) % (MIXED_CODE - 1) + 1
    rank[-1] = 0  # missing
    palette[1:] = category_colours(255)
    palette[MIXED_CODE] = MIXED
    if SEVERAL in names:
        rank[names.index(SEVERAL)] = MIXED_CODE
    legend = [(names[i], int(rank[i])) for i in order]
    missing = bool(len(names) and (found < 0).any())
    return Colours(rank[found].astype(np.uint8), palette, tuple(legend) + ((NO_VALUE, 0),) * missing)


def _shades(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 at `low` to 255 at `high`, 0 for NaN."""
    share = values - low
    share *= 254 / (high - low if high > low else 1.0)
    np.clip(share, 0, 254, out=share)
    share += 1
    return np.nan_to_num(share, copy=False).astype(np.uint8)


def _natural(text: str) -> tuple[tuple[int, float | str], ...]:
    """Sort key that puts A2 before A10."""
    import re

    return tuple((0, float(p)) if p.isdigit() else (1, p) for p in re.split(r"(\d+)", text.casefold()) if p)


# ---- the view ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Which part of the map fills the canvas: the point in its middle, and pixels per map unit. y goes up."""

    centre: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    size: tuple[int, int] = (1, 1)  # width, height in px

    @classmethod
    def fit(cls, points: np.ndarray, size: tuple[int, int], margin: float = 0.06) -> View:
        """The view that shows all finite `points` (n, 2)."""
        finite = _finite(points)
        if not finite.any():
            return cls(size=size)
        columns = [points[finite, k] for k in (0, 1)]  # one by one: several times faster than along an axis
        low, high = np.array([c.min() for c in columns]), np.array([c.max() for c in columns])
        span = np.maximum(high - low, 1e-9)
        scale = float(np.min(np.array(size) * (1 - 2 * margin) / span))
        mid = (low + high) / 2
        return cls((float(mid[0]), float(mid[1])), min(scale, 1e6), size)

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """Map units (n, 2) → canvas px (n, 2): x to the right, y down."""
        w, h = self.size
        flip = np.array([self.scale, -self.scale])
        return (np.asarray(points, float) - self.centre) * flip + (w / 2, h / 2)

    def from_px(self, px: np.ndarray) -> np.ndarray:
        """Canvas px (n, 2) → map units (n, 2)."""
        w, h = self.size
        return (np.asarray(px, float) - (w / 2, h / 2)) / (self.scale, -self.scale) + self.centre

    def moved(self, dx_px: float, dy_px: float) -> View:
        """Drag the picture by so many px."""
        x, y = self.centre
        return View((x - dx_px / self.scale, y + dy_px / self.scale), self.scale, self.size)

    def zoomed(self, factor: float, at_px: tuple[float, float]) -> View:
        """Zoom so that the place under the pointer stays where it is."""
        fixed = self.from_px(np.array(at_px))
        scale = float(np.clip(self.scale * factor, 1e-6, 1e9))
        out = View(self.centre, scale, self.size)
        shift = fixed - out.from_px(np.array(at_px))
        return View((self.centre[0] + float(shift[0]), self.centre[1] + float(shift[1])), scale, self.size)


@dataclass
class Raster:
    """The points, and what was last drawn of them.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        Map coordinates; NaN rows are never drawn nor hit.
    """

    points: np.ndarray
    owner: np.ndarray = field(init=False, repr=False)  # (h, w) int32: row that owns the pixel, -1 for none
    chosen: np.ndarray = field(init=False, repr=False)  # the same for selected points alone
    point_px: int = field(init=False, default=MAX_POINT_PX)

    def __post_init__(self) -> None:
        finite = np.flatnonzero(_finite(self.points))
        # Drawn in one random order for good: no group hides another because it comes later in the table.
        self._rows = np.random.default_rng(0).permutation(finite).astype(np.int32)
        self._xy = np.stack(
            [self.points[:, k].copy()[self._rows] for k in (0, 1)]
        )  # float64, in drawing order
        self.owner = self.chosen = np.full((1, 1), -1, np.int32)
        self._view = View()
        self._near: tuple[np.ndarray, np.ndarray, np.ndarray] = (
            np.zeros(0, np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int32),
        )

    @property
    def in_drawing_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y (map units) and rows of all points that have a place."""
        return self._xy[0], self._xy[1], self._rows

    def place(self, view: View, visible: np.ndarray, selected: np.ndarray, pixel_ratio: float = 1.0) -> None:
        """First pass: which point owns which pixel.

        Parameters
        ----------
        visible, selected : ndarray of shape (n,), bool
        pixel_ratio : float
            Screen pixels per logical pixel; points grow with it.
        """
        self._view = view
        w, h = view.size
        x = ((self._xy[0] - view.centre[0]) * view.scale + w / 2).astype(np.float32)
        y = ((view.centre[1] - self._xy[1]) * view.scale + h / 2).astype(np.float32)
        pad = int(MAX_POINT_PX * pixel_ratio) // 2 + 3
        inside = (x > -pad) & (x < w + pad) & (y > -pad) & (y < h + pad)
        if not visible.all():
            inside &= visible[self._rows]
        index = np.flatnonzero(inside)
        # Points just about cover the ground they stand on: crowds stay readable, lonely points findable.
        cell = 8 * pixel_ratio
        every = max(1, len(index) // 100_000)
        ground = np.zeros((int((h + 2 * pad) / cell) + 1, int((w + 2 * pad) / cell) + 1), bool)
        ground[
            ((y[index[::every]] + pad) / cell).astype(int), ((x[index[::every]] + pad) / cell).astype(int)
        ] = True
        fair = np.sqrt(1.2 * ground.sum() * cell**2 / max(len(index), 1))
        least = 3 if len(index) < 30_000 else 2 if len(index) < 300_000 else 1
        self.point_px = round(float(np.clip(fair, least, MAX_POINT_PX) * pixel_ratio))
        self._near = (x[index], y[index], self._rows[index])
        self.owner = _stamp(*self._near, (w, h), self.point_px)
        self.choose(selected)

    def choose(self, selected: np.ndarray) -> None:
        """Draw the selected points anew; the others stay as they are."""
        x, y, rows = self._near
        on = np.flatnonzero(selected[rows]) if selected.any() else np.zeros(0, np.int64)
        w, h = self._view.size
        if len(on):
            self.chosen = _stamp(x[on], y[on], rows[on], (w, h), max(self.point_px, 4))
        else:
            self.chosen = np.full((h, w), -1, np.int32)

    def paint(
        self, colours: Colours, background: tuple[int, int, int], any_selected: bool, light: bool = False
    ) -> np.ndarray:
        """Second pass: the picture, uint8 (h, w, 4) as blue, green, red, 255 (Qt's RGB32 in memory).

        Parameters
        ----------
        background : tuple of int
            Red, green, blue of the theme.
        any_selected : bool
            Whether the rest is dimmed.
        light : bool
            Whether the background is light.
        """
        back = np.array(background, float)
        palette = colours.palette.astype(float)
        if any_selected:
            palette = back + DIM * (palette - back)
        lut = np.full(257, 0xFF000000, np.uint32)
        lut[:256] |= _packed(palette)
        lut[256] |= _packed(back[None])[0]
        empty = self.owner < 0
        codes = np.append(colours.codes.astype(np.uint16), np.uint16(256))  # the last one serves owner == -1
        image = lut[codes[self.owner]] if len(colours.codes) else np.full(self.owner.shape, lut[256])
        if not any_selected and len(colours.codes):
            # Where points end in front of the ground they have a tone that is seen on it; inside, their own colour.
            seen = 0xFF000000 | _packed(seen_on(colours.palette, background))
            if (seen != lut[:256]).any():
                edge = _grown(empty) & ~empty
                image[edge] = seen[codes[self.owner[edge]]]
        image[empty] = lut[256]
        mask = self.chosen >= 0
        if mask.any():
            ring = _grown(mask)
            halo = _grown(ring)
            # Dark next to the orange on either theme: on white it would hardly be told apart.
            inner, outer = ((30,) * 3, (255,) * 3) if light else ((20,) * 3, (235,) * 3)
            if self.point_px >= 5:  # about small points it would hide more than it shows
                image[halo & ~ring] = 0xFF000000 | _packed(np.array([outer]))[0]
            image[ring & ~mask] = 0xFF000000 | _packed(np.array([inner]))[0]
            image[mask] = 0xFF000000 | _packed(np.array([SELECTED]))[0]
            if self.point_px >= 3:  # a rim, so that points that touch can be told apart
                rim = np.zeros_like(mask)
                rim[1:] |= self.chosen[1:] != self.chosen[:-1]
                rim[:, 1:] |= self.chosen[:, 1:] != self.chosen[:, :-1]
                image[rim & mask] = 0xFF000000 | _packed(np.array([SELECTED]) * 0.62)[0]
        return image.view(np.uint8).reshape(*image.shape, 4)

    def nearest(self, x_px: float, y_px: float, reach_px: float = 10) -> int:
        """Row of the drawn point nearest to a place on the canvas, or -1 if none is within reach."""
        reach, (h, w) = int(np.ceil(reach_px)), self.owner.shape
        cx, cy = int(np.floor(x_px)), int(np.floor(y_px))
        y0, y1, x0, x1 = (
            max(cy - reach, 0),
            min(cy + reach + 1, h),
            max(cx - reach, 0),
            min(cx + reach + 1, w),
        )
        if y0 >= y1 or x0 >= x1:
            return -1
        top = self.chosen[y0:y1, x0:x1]
        part = np.where(top >= 0, top, self.owner[y0:y1, x0:x1])
        rows = np.unique(part[part >= 0])
        if not len(rows):
            return -1
        apart = np.hypot(*(self._view.to_px(self.points[rows]) - (x_px, y_px)).T)
        best = int(np.argmin(apart))
        return int(rows[best]) if apart[best] <= reach_px + self.point_px / 2 else -1


def _finite(points: np.ndarray) -> np.ndarray:
    """Which points have a place, bool (n,)."""
    return np.isfinite(points[:, 0] + points[:, 1])


def _stamp(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, size: tuple[int, int], point_px: int
) -> np.ndarray:
    """Write each row number into a disc about its place; later points win whole. int32 (h, w), -1 for none."""
    w, h = size
    pad = point_px + 1  # a margin that takes what reaches over the canvas
    wide, high = w + 2 * pad, h + 2 * pad
    out = np.full(high * wide, -1, np.int32)
    middle = (point_px - 1) / 2
    dy, dx = np.mgrid[:point_px, :point_px]
    disc = (dy - middle) ** 2 + (dx - middle) ** 2 <= (middle + 0.3) ** 2
    steps = (dy[disc] * wide + dx[disc]).astype(np.int32)
    i = np.clip(np.floor(y + (pad + 0.5 - point_px / 2)).astype(np.int32), 0, high - point_px)
    j = np.clip(np.floor(x + (pad + 0.5 - point_px / 2)).astype(np.int32), 0, wide - point_px)
    at = i * wide + j
    if len(steps) > 1:
        last = np.full(
            high * wide, -1, np.int32
        )  # at the same place a later disc covers the whole of an earlier one
        last[at] = np.arange(len(at), dtype=np.int32)
        seen = np.sort(last[last >= 0])
        at, rows = at[seen], rows[seen]
        # point by point, so that a disc is not cut up by its neighbours
        out[(at[:, None] + steps).ravel()] = np.repeat(rows, len(steps))
    else:
        out[at] = rows
    return np.ascontiguousarray(out.reshape(high, wide)[pad : pad + h, pad : pad + w])


def _packed(rgb: np.ndarray) -> np.ndarray:
    r, g, b = rgb.round().astype(np.uint32).T
    return (r << 16) | (g << 8) | b


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its four neighbours."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


# ---- lasso ---------------------------------------------------------------------------------------


def inside_polygon(points: np.ndarray, polygon: np.ndarray, grid: int = 512) -> np.ndarray:
    """Which points lie inside a polygon (even–odd rule), exactly.

    A grid over the polygon answers for all points but those whose grid cell an edge passes; these are tested
    one by one. So a million points cost little more than their look-up.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
        NaN rows are outside.
    polygon : ndarray of shape (m, 2)
        Its end is joined to its beginning.
    """
    out = np.zeros(len(points), bool)
    polygon = np.asarray(polygon, float)
    if len(polygon) < 3:
        return out
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    x, y = points[:, 0], points[:, 1]
    near = np.flatnonzero(
        (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    )  # NaN compares False
    px, py = x[near], y[near]
    if len(near) * len(polygon) < 2_000_000:
        out[near] = _even_odd(px, py, polygon)
        return out
    cell = np.maximum((high - low) / grid, 1e-300)
    a, b = polygon, np.roll(polygon, -1, axis=0)
    # Cells an edge may pass: the edge sampled every half cell, and the neighbours of these.
    n_samples = 2 + (np.abs(b - a) / cell * 2).max(axis=1).astype(int)
    t = np.concatenate([np.linspace(0, 1, n) for n in n_samples])
    on = np.repeat(a, n_samples, axis=0) + t[:, None] * np.repeat(b - a, n_samples, axis=0)
    ij = np.clip(((on - low) / cell).astype(np.int64), 0, grid - 1)
    edge = np.zeros((grid + 2, grid + 2), bool)
    for dx in (0, 1, 2):
        for dy in (0, 1, 2):
            edge[ij[:, 0] + dx, ij[:, 1] + dy] = True
    edge = edge[1:-1, 1:-1]
    gx, gy = np.meshgrid(*(low[k] + (np.arange(grid) + 0.5) * cell[k] for k in (0, 1)), indexing="ij")
    free = ~edge
    answer = np.zeros((grid, grid), bool)
    answer[free] = _even_odd(gx[free], gy[free], polygon)
    i = np.clip(((px - low[0]) / cell[0]).astype(np.int32), 0, grid - 1)
    j = np.clip(((py - low[1]) / cell[1]).astype(np.int32), 0, grid - 1)
    hit, unsure = answer[i, j], edge[i, j]
    hit[unsure] = _even_odd(px[unsure], py[unsure], polygon)
    out[near] = hit
    return out


def _even_odd(x: np.ndarray, y: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(x), bool)
    order = np.argsort(y, kind="stable")
    xs, ys = x[order], y[order]
    hit = np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        # Points whose y lies in [min, max) of the edge: a slice, because they are sorted.
        first, last = np.searchsorted(ys, (min(y0, y1), max(y0, y1)))
        part = slice(first, last)
        hit[part] ^= xs[part] < (x1 - x0) * (ys[part] - y0) / (y1 - y0) + x0
    inside[order] = hit
    return inside
