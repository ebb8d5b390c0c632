"""What the threshold segmenters share: a clean plane, background, round objects by a tree of thresholds.

One threshold never fits a whole field: a dividing nucleus is ten times brighter than its neighbours, and two
touching ones part only at a level that loses a dim one. So every level is tried, which gives a tree of nested
components (a component tree, as in MSER), and the tree is cut where its pieces look most like ellipses; valleys are
made deeper first, so that the blurred seam between two nuclei of one brightness is a level of its own. The pieces
then grow to half of their own height, where the edge of a blurred object is. What was found says how large one object
is: with that size all is done once more, and what is still too large for one is parted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from napari_cellrep.segmenters import Scales
from napari_cellrep.specs import Channel, InputError, find_channel

# Found on the manual truth of benchmarks/segmentation.py, which holds no image out;
# one set for all images.
_WORK_DIAMETER_PX = 26  # objects are outlined at this scale: larger ones are averaged down first
_ENLARGE_BELOW_PX = 12  # objects smaller than this are outlined at twice their scale
_VALLEY = 2.0  # how much deeper valleys are made, so that seams part touching objects
_VALLEY_SCALE = 0.23  # their width, in diameters: at less, texture inside a nucleus becomes a seam
_LEVEL_STEP = 1.13  # ratio of neighbouring levels: shallower dips than this are texture
_SHARPNESS = 24  # how steeply a shape that is no ellipse loses (two touching discs fill 0.89 of theirs)
_AREA_POWER = 0.65  # below 1: two summits may lose some area to the level that parts them
_SPLIT_EVERY = 5  # levels at which nodes are also split by shape
_CLUSTER = 8  # nodes up to this many times the largest object are split by shape
_ROUND = 0.98  # what fills its ellipse better than this is not split
_CUT = 0.12  # what a cut by shape has to gain, as a share of the smaller piece
_SUMMIT = 0.22  # least distance of two summits of the distance map, in diameters
_OWN_PERCENTILE = 70  # of an object's pixels: its own height
_LIGHT_POWER = 0.75  # how much brighter objects count more for the typical one
_FELLOWS = 5  # so many objects say how large one is
_SAME_SIZE = 0.02  # a diameter that is off by less is not worth a second look
_WHOLE = 0.975  # of its ellipse is filled by what says how large objects are
_SIZE_SD = (0.15, 0.3)  # bounds of the SD of ln(area) of an image's whole objects
_SHAPE_COST = 60  # of an object that fills none of its ellipse, where one SD of size costs 1/2
_OBJECT_COST = 1  # of one object more
_SEAM_GAIN = 3  # of a seam that is black
_LEAST_FILL = 0.85  # what fills less of its ellipse is no object


# Diameters around a place that its background is made of: half a window of a percentile, and a wide blur of that.
_REACH = 14.0


@dataclass(frozen=True)
class Rules:
    """What counts as an object, in the pixels of the image.

    Parameters
    ----------
    diameter_px : float
        Typical diameter; 0 estimates it from the image.
    smooth : float
        SD of the Gaussian as a share of the diameter.
    edge : float
        Where the outline is: this share of the way from background to the object's own brightness.
    contrast : float
        Objects whose height over the background is below this share of the typical one are dropped.
    noise_sds : float
        Objects lower than this many noise SDs are dropped.
    min_area, max_area : float
        As shares of the area of a disc of the typical diameter.
    min_area_px, max_area_px : float
        The same in pixels; 0 leaves it to the shares.
    split : bool
        Whether touching objects are taken apart.
    fill_holes : bool
        Whether dark holes inside an object belong to it.
    """

    diameter_px: float = 0.0
    smooth: float = 0.035
    edge: float = 0.45
    contrast: float = 0.33
    noise_sds: float = 4.0
    min_area: float = 0.1
    max_area: float = 5.0
    min_area_px: float = 0.0
    max_area_px: float = 0.0
    split: bool = True
    fill_holes: bool = True


def read_plane(image: np.ndarray, channels: Sequence[Channel], key: str) -> np.ndarray:
    """Return the channel called `key` as float32 (H, W).

    Raises
    ------
    InputError
        If the image has no such channel, another shape, or values that are not finite numbers.
    """
    check_image(image, channels)
    i = find_channel(channels, key)
    plane = np.asarray(image[i], dtype=np.float32)
    if not np.isfinite(plane).all():
        raise InputError(
            f"Channel {channels[i].name} has pixels that are not finite numbers (NaN or infinite); "
            "replace them, for example by 0, before segmenting."
        )
    return plane


def check_image(image: np.ndarray, channels: Sequence[Channel]) -> None:
    """Refuse an image that is not (C, H, W) numbers with one entry of `channels` per plane."""
    if image.ndim != 3 or image.dtype.kind not in "uifb" or 0 in image.shape:
        raise InputError(
            f"An image to segment has the axes channel, y, x and real numbers; got shape {image.shape} of {image.dtype}."
        )
    if len(channels) != len(image):
        raise InputError(
            f"The image has {len(image)} channels and {len(channels)} are described; give one each."
        )


def noise_sd(plane: np.ndarray) -> float:
    """SD of the pixel noise, from the differences of neighbours (robust: edges of objects are few)."""
    d = plane[:, 1:] - plane[:, :-1]
    return float(1.4826 * np.median(np.abs(d - np.median(d))) / np.sqrt(2)) if d.size else 0.0


def blurred_noise_sd(plane: np.ndarray, sigma: float) -> float:
    """SD that the pixel noise of `plane` has after a Gaussian blur (white noise: 1 / 2√π·sigma of it)."""
    return noise_sd(plane) / max(1.0, 2 * np.sqrt(np.pi) * sigma)


def background(smooth: np.ndarray, diameter_px: float, origin: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Slowly varying background: a low percentile over about eight diameters, smoothed.

    Parameters
    ----------
    smooth : ndarray of shape (H, W), float32
    diameter_px : float
        Typical diameter of the objects, which must not count as background.
    origin : (y, x)
        Of `smooth` in the whole image: parts of an image are sampled at the same places as the whole.
    """
    h, w = smooth.shape
    step = max(1, round(diameter_px / 3))
    first = [int((step // 2 - o) % step) for o in origin]
    first = [f if f < n else n // 2 for f, n in zip(first, (h, w), strict=True)]
    small = smooth[first[0] :: step, first[1] :: step]
    window = 2 * round(4 * diameter_px / step) + 1
    low = ndimage.percentile_filter(small, 10, size=min(window, 2 * max(small.shape) + 1), mode="reflect")
    low = ndimage.gaussian_filter(low, window / 4, mode="nearest")
    at = [
        np.clip((np.arange(n) - f) / step, 0, m - 1)
        for n, m, f in zip((h, w), small.shape, first, strict=True)
    ]
    return _bilinear(low, at[0], at[1])


def _bilinear(a: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y0, x0 = y.astype(int), x.astype(int)
    y1, x1 = np.minimum(y0 + 1, a.shape[0] - 1), np.minimum(x0 + 1, a.shape[1] - 1)
    fy, fx = (y - y0)[:, None].astype(np.float32), (x - x0)[None].astype(np.float32)
    rows = a[y0] * (1 - fy) + a[y1] * fy
    return rows[:, x0] * (1 - fx) + rows[:, x1] * fx


def estimate_diameter(plane: np.ndarray) -> float:
    """Typical diameter of bright objects in pixels; 0 if the plane shows too little to tell.

    Twice the greatest distance to the background within each piece of an Otsu mask, the median weighted by
    area: touching objects do not count as one large one, as they would with areas. One or two specks in an
    otherwise empty field (under 1/2000 of its area) give no size: a field of debris stays empty.
    """
    factor = max(1, round(np.sqrt(plane.size / 4e5)))
    small = _shrink(plane, factor)
    a = ndimage.gaussian_filter(small, 1.0)
    a = a - background(a, min(a.shape) / 30)
    noise = blurred_noise_sd(small, 1.0)
    if a.max() <= 6 * noise:
        return 0.0
    root = np.sqrt(np.clip(a, 0, None))  # a few very bright objects must not hide the others
    inside = ndimage.binary_opening((root > threshold_otsu(root)) & (a > 4 * noise))
    if inside.all():
        return 0.0
    n_pieces = ndimage.label(inside)[1]
    if n_pieces == 0 or (n_pieces < 3 and inside.mean() < 1 / 2000):
        return 0.0
    distance = ndimage.distance_transform_edt(inside)
    ridge = (ndimage.maximum_filter(distance, 5) == distance) & (distance > 1.5)
    if not ridge.any():
        return 0.0
    radius = np.sort(distance[ridge])
    weight = np.cumsum(radius**2)
    return float(2 * factor * radius[np.searchsorted(weight, weight[-1] / 2)])


def find_blobs(plane: np.ndarray, rules: Rules, scales: Scales | None = None) -> np.ndarray:
    """Outline bright, roughly elliptic objects.

    Parameters
    ----------
    plane : ndarray of shape (H, W), float32
    rules : Rules
    scales : Scales, optional
        Of the image that `plane` is a part of.

    Returns
    -------
    ndarray of shape (H, W), int32
        0 is background; numbers follow the objects' first pixel, top to bottom.
    """
    empty = np.zeros(plane.shape, np.int32)
    if min(plane.shape) < 4 or plane.max() - plane.min() <= 0:
        return empty
    scales = Scales() if scales is None else scales
    again = "diameter" in scales.known
    diameter = scales.of("diameter", lambda: rules.diameter_px or estimate_diameter(plane))
    if diameter <= 0:
        return empty
    first = Scales()
    labels = _find(plane, rules, diameter, scales if again else first)
    if not again:
        found = diameter
        if not rules.diameter_px and labels.max() >= _FELLOWS:
            # What was found says more of the size than the first look did, and all scales follow from it.
            found = float(2 * np.sqrt(np.median(np.bincount(labels.ravel())[1:]) / np.pi))
        if abs(found / diameter - 1) > _SAME_SIZE:
            scales.known["diameter"] = found
            labels = _find(plane, rules, found, scales)
        else:
            scales.known |= first.known
            scales.looks(first.reach_px, first.align_px)
    if rules.split:
        labels = _split_by_size(labels, plane, scales)
    # Last, so that a limit neither changes the other objects nor carves smaller ones out of them.
    area = np.bincount(labels.ravel())
    keep = (area >= rules.min_area_px) & (area <= (rules.max_area_px or np.inf))
    return _renumber(np.where(keep[labels], labels, 0))


def _find(plane: np.ndarray, rules: Rules, diameter: float, scales: Scales) -> np.ndarray:
    """Objects of about this diameter (px)."""
    empty = np.zeros(plane.shape, np.int32)
    factor = max(1, int(diameter / _WORK_DIAMETER_PX))
    small = _shrink(plane, factor)
    up = 2 if diameter < _ENLARGE_BELOW_PX else 1
    if up > 1:
        small = ndimage.zoom(small, up, order=1, grid_mode=True, mode="nearest")
    d = diameter * up / factor
    disc = np.pi * d * d / 4
    # Limits in pixels may be wider than the natural ones; where they are narrower they act in the end.
    asked = [px * (up / factor) ** 2 for px in (rules.min_area_px, rules.max_area_px)]
    least, most = min(asked[0] or np.inf, rules.min_area * disc), max(asked[1], rules.max_area * disc)

    sigma = max(0.7, rules.smooth * d)
    smooth = ndimage.gaussian_filter(small, sigma)
    scales.looks(_REACH * diameter, factor)
    height = smooth - background(smooth, d, (scales.origin[0] * up / factor, scales.origin[1] * up / factor))
    noise = scales.of("noise", lambda: blurred_noise_sd(_shrink(plane, factor), sigma / up))
    peak = scales.of("peak", lambda: float(height.max()))
    low = max(rules.noise_sds / 2 * noise, peak / 200)
    if peak <= 2 * low or peak <= 0 or height.max() <= low:
        return empty

    relief = height - _VALLEY * valleys(height, _VALLEY_SCALE * d) if rules.split else height
    if relief.max() <= low:
        return empty
    tree = _component_tree(relief, low, least, most, rules.fill_holes)
    seeds = _cut_tree(tree, height.shape, d, least, most, rules.split)
    labels = _outline(height, relief, seeds, low, rules.edge, rules.fill_holes)
    if rules.split:
        labels = _split_by_shape(labels, d)
    labels = _keep_objects(labels, height, least, most, noise, rules, scales)
    if up > 1:
        labels = labels[::up, ::up]
    return _enlarge(labels, factor, plane.shape)


def valleys(height: np.ndarray, sigma: float) -> np.ndarray:
    """How much lower a pixel lies than both sides of the valley it is in; 0 on slopes and summits.

    The larger principal curvature, where it is positive, at a scale: two touching nuclei of the same brightness share
    one threshold, but the blurred seam between them is still a valley.

    Parameters
    ----------
    height : ndarray of shape (H, W), float
    sigma : float
        SD of the Gaussian in pixels.

    Returns
    -------
    ndarray of shape (H, W), float
        In the units of `height` (the curvature times ``sigma**2``).
    """
    yy, xx, yx = (ndimage.gaussian_filter(height, sigma, order=o) for o in ((2, 0), (0, 2), (1, 1)))
    steepest = (yy + xx) / 2 + np.hypot((yy - xx) / 2, yx)
    return sigma**2 * np.maximum(steepest, 0)


def _shrink(plane: np.ndarray, factor: int) -> np.ndarray:
    """Mean of blocks of factor × factor pixels; incomplete ones at the end are filled with their edge."""
    if factor == 1:
        return plane
    h, w = plane.shape
    plane = np.pad(plane, ((0, -h % factor), (0, -w % factor)), mode="edge")
    return plane.reshape(plane.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))


@dataclass
class _Tree:
    """Nested components; row i of every array is one, parents before children."""

    parent: np.ndarray  # (n,), -1 for a root
    area: np.ndarray  # (n,) px
    fill: np.ndarray  # (n,) area over that of the ellipse with the same second moments
    pixels: list[np.ndarray]  # flat indices
    level: np.ndarray  # (n,) which threshold it is a component of


def _component_tree(height: np.ndarray, low: float, least: float, most: float, fill_holes: bool) -> _Tree:
    n_levels = int(np.ceil(np.log(float(height.max()) / low) / np.log(_LEVEL_STEP)))
    parent: list[int] = []
    area: list[float] = []
    fill: list[float] = []
    pixels: list[np.ndarray] = []
    at: list[int] = []
    before = np.full(height.shape, -1)  # node of each pixel at the level below
    # Holes up to a size are filled at every level at once; a ring of cells must not become one disc.
    levels = low * _LEVEL_STEP ** np.arange(n_levels)
    steps = np.searchsorted(levels, height).astype(np.uint8)
    if fill_holes:
        steps = _fill_holes(steps, most / 8)
    for k in range(n_levels):
        components, n = ndimage.label(steps > k)
        if not n:
            break
        flat = np.flatnonzero(components)
        of = components.ravel()[flat] - 1
        sizes, fills = _ellipse_fill(of, flat, height.shape[1], n)
        good = (sizes >= least) & (sizes <= _CLUSTER * most)
        order = np.argsort(of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        now = np.full(height.shape, -1)
        for c in np.flatnonzero(good):
            where = flat[order[starts[c] : starts[c + 1]]]
            up = before.ravel()[where]
            up = up[up >= 0]
            parent.append(int(up[0]) if len(up) else -1)
            area.append(sizes[c])
            fill.append(fills[c])
            now.ravel()[where] = len(pixels)
            pixels.append(where)
            at.append(k)
        before = now
    return _Tree(
        np.array(parent, int), np.array(area, float), np.array(fill, float), pixels, np.array(at, int)
    )


def _fill_holes(steps: np.ndarray, largest: float) -> np.ndarray:
    """Fill the dark holes of every level that are at most `largest` px in all."""
    seed = np.full_like(steps, steps.max())
    seed[[0, -1]], seed[:, [0, -1]] = steps[[0, -1]], steps[:, [0, -1]]
    filled = reconstruction(seed, steps, method="erosion").astype(steps.dtype)
    holes, n = ndimage.label(filled > steps)
    small = np.bincount(holes.ravel(), minlength=n + 1) <= largest
    return np.where(small[holes], filled, steps)


def _ellipse_fill(of: np.ndarray, flat: np.ndarray, width: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Area of each component, and its share of the ellipse with the same second moments (1: an ellipse)."""
    y, x = np.divmod(flat, width)
    area = np.bincount(of, minlength=n).astype(float)
    safe = np.maximum(area, 1)
    my, mx = np.bincount(of, y, n) / safe, np.bincount(of, x, n) / safe
    dy, dx = y - my[of], x - mx[of]
    yy = np.bincount(of, dy * dy, n) / safe + 1 / 12  # 1/12: a pixel is a square, not a point
    xx = np.bincount(of, dx * dx, n) / safe + 1 / 12
    xy = np.bincount(of, dy * dx, n) / safe
    ellipse = 4 * np.pi * np.sqrt(np.maximum(yy * xx - xy * xy, 1e-6))
    return area, np.minimum(area / ellipse, 1.0)


def _worth(area: np.ndarray, fill: np.ndarray) -> np.ndarray:
    return area * fill**_SHARPNESS


def _cut_tree(
    tree: _Tree, shape: tuple[int, ...], d: float, least: float, most: float, split: bool
) -> np.ndarray:
    """Choose the nodes, none inside another, whose summed worth is greatest; returns labels.

    A node that is no ellipse may also be split by its shape: its pieces then compete with its children.
    """
    worth = np.where(tree.area <= most, _worth(tree.area**_AREA_POWER, tree.fill), 0)
    n = len(worth)
    below = np.zeros(n)
    take = np.zeros(n, bool)
    pieces: dict[int, list[np.ndarray]] = {}
    for i in range(n - 1, -1, -1):  # children come after parents
        if split and tree.fill[i] < _ROUND and tree.level[i] % _SPLIT_EVERY == 0 and tree.area[i] > 2 * least:
            parts = _split_pixels(tree.pixels[i], shape[1], d)
            if len(parts) > 1:
                area = np.array([len(q) for q in parts], float)
                fill = np.array([_ellipse_fill(np.zeros(len(q), int), q, shape[1], 1)[1][0] for q in parts])
                good = (area >= least) & (area <= most)
                value = float(_worth(area**_AREA_POWER, fill)[good].sum())
                if value > max(worth[i], below[i]):
                    worth[i], pieces[i] = value, [q for q, g in zip(parts, good, strict=True) if g]
        take[i] = worth[i] > 0 and (worth[i] >= below[i] or (not split and tree.parent[i] < 0))
        if tree.parent[i] >= 0:
            below[tree.parent[i]] += max(worth[i], below[i])
    out = np.zeros(shape, np.int32)
    covered = np.zeros(n, bool)
    following = 1
    for i in range(n):
        p = tree.parent[i]
        covered[i] = p >= 0 and (covered[p] or take[p])
        if take[i] and not covered[i]:
            for q in pieces.get(i, [tree.pixels[i]]):
                out.ravel()[q] = following
                following += 1
    return _renumber(out)


def _split_pixels(flat: np.ndarray, width: int, d: float) -> list[np.ndarray]:
    """Pixels of each piece that an object falls into by its shape."""
    y, x = np.divmod(flat, width)
    y0, x0 = y.min() - 1, x.min() - 1
    own = np.zeros((int(y.max() - y0) + 2, int(x.max() - x0) + 2), bool)
    own[y - y0, x - x0] = True
    pieces = split_mask(own, d)[y - y0, x - x0]
    return [flat[pieces == k] for k in range(1, int(pieces.max()) + 1)]


def _outline(
    height: np.ndarray, relief: np.ndarray, seeds: np.ndarray, low: float, edge: float, fill_holes: bool
) -> np.ndarray:
    """Grow seeds downhill in `relief` and end each where it falls below `edge` of its own height."""
    n = int(seeds.max())
    if not n:
        return seeds
    zones = watershed(-relief, seeds, mask=height > low)
    labels = seeds
    for _ in range(
        2
    ):  # a seed may reach far into its halo: its own brightness is known after the first round
        own = _percentile_per_label(height, labels, n, _OWN_PERCENTILE)
        labels = np.where(height > edge * own[zones], zones, 0)
    # A zone may fall into several pieces (a dim neighbour without a seed): the one with most of the seed stays.
    labels = _largest_piece(labels)
    return _renumber(_open_and_fill(labels, fill_holes))


def _percentile_per_label(values: np.ndarray, labels: np.ndarray, n: int, q: float) -> np.ndarray:
    """Percentile of `values` in each label 0..n (entry 0 is infinite: background belongs to nobody)."""
    flat = np.flatnonzero(labels)
    of, v = labels.ravel()[flat], values.ravel()[flat]
    order = np.lexsort((v, of))
    count = np.bincount(of, minlength=n + 1)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    at = np.minimum(first + (count - 1).clip(0) * q / 100, len(v) - 1).astype(int)
    out = v[order][at].astype(np.float32)
    out[0] = np.inf
    return out


def _largest_piece(labels: np.ndarray) -> np.ndarray:
    """Keep the largest 4-connected piece of every label."""
    edge_free = labels > 0
    pieces = _label_pieces(labels)
    n = int(pieces.max())
    if not n:
        return labels
    size = np.bincount(pieces.ravel(), minlength=n + 1)
    owner = np.zeros(n + 1, labels.dtype)
    owner[pieces[edge_free]] = labels[edge_free]
    order = np.lexsort((size[1:], owner[1:])) + 1
    last = np.r_[owner[order][1:] != owner[order][:-1], True]
    keep = np.zeros(n + 1, bool)
    keep[order[last]] = True
    return np.where(keep[pieces], labels, 0)


def _label_pieces(labels: np.ndarray) -> np.ndarray:
    """4-connected pieces of equal labels (touching different labels stay apart)."""
    from skimage.measure import label

    return label(labels, background=0, connectivity=1)  # type: ignore[no-any-return]


def _open_and_fill(labels: np.ndarray, fill_holes: bool) -> np.ndarray:
    """Take off spurs and fill holes, label by label, without joining neighbours."""
    cross = ndimage.generate_binary_structure(2, 1)
    low = ndimage.minimum_filter(labels, footprint=cross, mode="nearest")
    high = ndimage.maximum_filter(labels, footprint=cross, mode="nearest")
    core = np.where((low == high) & (labels > 0), labels, 0)
    grown = ndimage.maximum_filter(core, footprint=cross)
    opened = np.where(grown == labels, labels, 0)
    tiny = np.setdiff1d(np.unique(labels), np.unique(opened))  # too small to open: left as they are
    if len(tiny):
        opened = np.where(np.isin(labels, tiny), labels, opened)
    out = _largest_piece(opened)
    if not fill_holes:
        return out
    for i, box in enumerate(ndimage.find_objects(out), start=1):
        if box is not None:
            own = out[box] == i
            out[box][ndimage.binary_fill_holes(own) & (out[box] == 0)] = i
    return out


def _split_by_shape(labels: np.ndarray, diameter: float) -> np.ndarray:
    """Take apart objects whose pieces are better ellipses than the whole, by their distance to the outline."""
    out = labels.copy()
    following = int(labels.max()) + 1
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        own = np.pad(labels[box] == i, 1)
        flat = np.flatnonzero(own)
        _, fill = _ellipse_fill(np.zeros(len(flat), int), flat, own.shape[1], 1)
        if fill[0] > _ROUND:
            continue
        pieces = split_mask(own, diameter)
        for p in range(2, int(pieces.max()) + 1):
            out[box][(pieces == p)[1:-1, 1:-1]] = following
            following += 1
    return out


def _split_by_size(labels: np.ndarray, plane: np.ndarray, scales: Scales) -> np.ndarray:
    """Part what is too large for one of its image's objects, where two ellipses and a seam explain it better."""
    n = int(labels.max())
    height = ndimage.gaussian_filter(plane, 0.7)
    height = height - scales.of("floor", lambda: np.percentile(height, 5))
    if not n:
        return labels
    flat = np.flatnonzero(labels)
    area, fill = _ellipse_fill(labels.ravel()[flat] - 1, flat, labels.shape[1], n)
    whole = fill > _WHOLE
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    whole[rim[rim > 0] - 1] = False

    def sizes() -> tuple[float, float] | None:
        if whole.sum() < _FELLOWS:
            return None
        size = np.log(area[whole])
        middle = float(np.median(size))
        return middle, float(np.clip(1.4826 * np.median(np.abs(size - middle)), *_SIZE_SD))

    usual = scales.of("sizes", sizes)
    if usual is None:
        return labels
    typical, sd = usual

    def cost(own: np.ndarray) -> float:
        at = np.flatnonzero(own)
        a, f = _ellipse_fill(np.zeros(len(at), int), at, own.shape[1], 1)
        return float(((np.log(a[0]) - typical) / sd) ** 2 / 2 + _SHAPE_COST * (1 - f[0]))

    out, following = labels.copy(), n + 1
    boxes = ndimage.find_objects(labels)
    todo = [(int(i) + 1, boxes[i]) for i in np.flatnonzero(area > 1.2 * np.exp(typical))]
    while todo:
        i, box = todo.pop()
        own = np.pad(out[box] == i, 1)
        halves = _two_ellipses(own)
        if halves is None or any(ndimage.label(half)[1] != 1 for half in halves):
            continue
        a, b = halves
        here = np.pad(height[box], 1, mode="edge")
        seam = (ndimage.binary_dilation(a) & b) | (ndimage.binary_dilation(b) & a)
        dimmer = min(np.median(here[a]), np.median(here[b]))
        dark = 1 - np.median(here[seam]) / dimmer if dimmer > 0 else 0.0
        if cost(own) - cost(a) - cost(b) - _OBJECT_COST + _SEAM_GAIN * dark > 0:
            out[box][b[1:-1, 1:-1]] = following
            todo += [(i, box), (following, box)]
            following += 1
    return _renumber(out)


def _two_ellipses(own: np.ndarray, most_rounds: int = 12) -> tuple[np.ndarray, np.ndarray] | None:
    """Share an object's pixels between the two Gaussians that fit them best; None where one of them vanishes."""
    at = np.argwhere(own).astype(float)
    middle = at - at.mean(axis=0)
    along = middle @ np.linalg.svd(middle, full_matrices=False)[2][0]
    second = along > np.median(along)
    for _ in range(most_rounds):
        cost = []
        for members in (at[~second], at[second]):
            if len(members) < 8:
                return None
            off = at - members.mean(axis=0)
            spread = np.cov(members.T) + np.eye(2) / 12  # 1/12: a pixel is a square, not a point
            cost.append(
                np.einsum("ni,ij,nj->n", off, np.linalg.inv(spread), off) + np.log(np.linalg.det(spread))
            )
        before, second = second, cost[1] < cost[0]
        if np.array_equal(before, second):
            break
    a, b = np.zeros_like(own), np.zeros_like(own)
    a[own], b[own] = ~second, second
    return (a, b) if a.any() and b.any() else None


def split_mask(own: np.ndarray, diameter: float) -> np.ndarray:
    """Split one object: watershed of its distance map, then pieces join again while their worth grows.

    Parameters
    ----------
    own : ndarray of shape (h, w), bool
        One object with a free rim.
    diameter : float
        Typical diameter in pixels.

    Returns
    -------
    ndarray of shape (h, w), int
        Pieces 1..n.
    """
    distance = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(own).astype(np.float32), 0.06 * diameter
    )
    near = 2 * max(1, round(_SUMMIT * diameter)) + 1
    tops, n = ndimage.label((ndimage.maximum_filter(distance, near) == distance) & own, np.ones((3, 3)))
    if n < 2:
        return own.astype(int)
    pieces = watershed(-distance, tops, mask=own)
    flat = np.flatnonzero(own)
    of = pieces.ravel()[flat]
    y, x = (v.astype(float) for v in np.divmod(flat, own.shape[1]))
    moments = np.stack([np.bincount(of, v, n + 1) for v in (y * 0 + 1, y, x, y * y, x * x, x * y)], axis=1)

    def value(m: np.ndarray) -> float:
        area, my, mx = m[0], m[1] / m[0], m[2] / m[0]
        yy, xx, xy = m[3] / area - my * my + 1 / 12, m[4] / area - mx * mx + 1 / 12, m[5] / area - mx * my
        ellipse = 4 * np.pi * np.sqrt(max(yy * xx - xy * xy, 1e-6))
        return float(area * min(area / ellipse, 1.0) ** _SHARPNESS)

    def gain(a: int, b: int) -> float:
        apart = value(moments[a]), value(moments[b])
        return value(moments[a] + moments[b]) - sum(apart) + _CUT * min(moments[a][0], moments[b][0])

    name = np.arange(n + 1)
    gains = {pair: gain(*pair) for pair in _touching(pieces)}
    while gains:
        a, b = max(gains, key=lambda pair: gains[pair])
        if gains[a, b] <= 0:
            break
        moments[a] += moments[b]
        name[name == b] = a
        renamed = {tuple(sorted((a if p == b else p, a if q == b else q))) for p, q in gains}
        kept = {pair: gains[pair] for pair in renamed if pair in gains and a not in pair}
        gains = kept | {(p, q): gain(p, q) for p, q in renamed if a in (p, q) and p != q}
    return _renumber(name[pieces])


def _touching(labels: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of labels that share an edge."""
    pairs: set[tuple[int, int]] = set()
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        rim = (a != b) & (a > 0) & (b > 0)
        pairs |= {(int(min(p)), int(max(p))) for p in zip(a[rim], b[rim], strict=True)}
    return sorted(pairs)


def _keep_objects(
    labels: np.ndarray,
    height: np.ndarray,
    least: float,
    most: float,
    noise: float,
    rules: Rules,
    scales: Scales,
) -> np.ndarray:
    """Drop what is too small, too large, or too faint."""
    n = int(labels.max())
    if not n:
        return labels
    area = np.bincount(labels.ravel(), minlength=n + 1).astype(float)
    own = _percentile_per_label(height, labels, n, 50)
    keep = (area >= least) & (area <= most) & (own > rules.noise_sds * noise)
    flat = np.flatnonzero(labels)
    keep[1:] &= _ellipse_fill(labels.ravel()[flat] - 1, flat, labels.shape[1], n)[1] >= _LEAST_FILL
    keep[0] = False
    own[0] = 0

    def typical() -> float:
        order = np.argsort(own[keep])
        weight = np.cumsum((area * own**_LIGHT_POWER)[keep][order])
        return float(own[keep][order][np.searchsorted(weight, weight[-1] / 2)])

    if keep.any():
        keep &= own > rules.contrast * scales.of("typical", typical)
    keep[0] = False
    return _renumber(np.where(keep[labels], labels, 0))


def drop_border(labels: np.ndarray, numbers_stay: bool = False) -> np.ndarray:
    """Leave out the objects that touch the image's edge."""
    cut = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    out = np.where(np.isin(labels, cut), 0, labels).astype(np.int32)
    return out if numbers_stay else _renumber(out)


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Number the labels 1..n in the order of their first pixel."""
    found, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.where(found == 0, -1, first), kind="stable")
    rank = np.empty(len(found), np.int32)
    rank[order] = np.arange(len(found)) + (0 if (found == 0).any() else 1)
    return rank[inverse].reshape(labels.shape)


def _enlarge(labels: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Bring labels to the image's own size with smooth outlines."""
    if factor == 1:
        return labels.astype(np.int32)
    out = np.kron(labels, np.ones((factor, factor), labels.dtype))[: shape[0], : shape[1]]
    # Blocks leave stairs: each pixel takes the label that is most frequent around it.
    smooth = out.copy()
    for i, box in enumerate(ndimage.find_objects(out), start=1):
        if box is None:
            continue
        grown = tuple(slice(max(0, s.start - factor), s.stop + factor) for s in box)
        own = (
            ndimage.gaussian_filter((out[grown] == i).astype(np.float32), 0.6 * factor, mode="nearest") > 0.5
        )
        view = smooth[grown]
        view[(view == i) & ~own] = 0
        view[own & (view == 0)] = i
    return smooth.astype(np.int32)
