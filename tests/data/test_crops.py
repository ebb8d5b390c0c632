from __future__ import annotations

import numpy as np
import pytest

from napari_cellrep.data import crops
from napari_cellrep.data.crops import (
    cut_crops,
    find_cells,
    find_places,
    mask_hashes,
    resize,
    weights_to_size,
)
from napari_cellrep.specs import CropSpec, InputError


def random_labels(seed: int, shape=(37, 53), dtype="int32") -> np.ndarray:
    """Cells of all kinds: overlapping the edge, of one pixel, in pieces, with gaps in their numbers."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype)
    top = {"uint8": 250, "uint16": 65_000}.get(dtype, 3_000_000)
    for label in rng.choice(np.arange(1, top), rng.integers(0, 14), replace=False):
        y, x = rng.integers(-4, shape[0] + 4), rng.integers(-4, shape[1] + 4)
        h, w = rng.integers(1, 12, 2)
        labels[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = label
    return labels


def slow_cells(labels: np.ndarray) -> list[tuple]:
    out = []
    for label in sorted(set(labels.ravel().tolist()) - {0}):
        points = [
            (y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1]) if labels[y, x] == label
        ]
        ys, xs = [p[0] for p in points], [p[1] for p in points]
        centre = (sum(ys) / len(ys), sum(xs) / len(xs))
        out.append((label, len(points), centre, (min(ys), min(xs), max(ys) + 1, max(xs) + 1)))
    return out


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "uint16", "float16", ">f4", "float32", "float64"])
@pytest.mark.parametrize("laid_out", ["as made", "columns first", "part of a larger one", "read only"])
def test_windows_are_the_pixels_that_are_there(dtype, laid_out):
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 250, (5, 61, 83)).astype(dtype)
    image = {
        "as made": whole,
        "columns first": np.asfortranarray(whole),
        "part of a larger one": whole[::2, 3:, 5:70],
        "read only": whole,
    }[laid_out]
    image.flags.writeable = laid_out != "read only"
    labels = random_labels(4, image.shape[1:])
    cells = find_cells(labels)
    side, half = 11, 5
    crops = cut_crops(image, labels, cells, CropSpec(size_px=side, window_px=side))
    assert (crops.dtype, len(crops)) == (image.dtype, len(cells))
    padded = np.pad(image, ((0, 0), (half, half), (half, half)))
    n_inside = 0
    for crop, centre in zip(crops, cells.centroid.astype(int), strict=True):
        y, x = centre
        np.testing.assert_array_equal(crop, padded[:, y : y + side, x : x + side])
        n_inside += (centre >= half).all() and (centre + half < image.shape[1:]).all()
    assert 0 < n_inside < len(cells)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64"])
def test_find_cells_is_the_slow_obvious_one(seed, dtype):
    labels = random_labels(seed, dtype=dtype)
    cells, slow = find_cells(labels), slow_cells(labels)
    assert cells.label.tolist() == [s[0] for s in slow]
    assert cells.area_px.tolist() == [s[1] for s in slow]
    assert [tuple(c) for c in cells.centroid] == [s[2] for s in slow]
    assert [tuple(b) for b in cells.box.tolist()] == [s[3] for s in slow]
    assert cells.label.dtype == cells.area_px.dtype == cells.box.dtype == np.int64


@pytest.mark.parametrize("band_px", [1, 60, 500])
def test_cells_that_reach_from_band_to_band_are_found_whole(monkeypatch, band_px):
    labels = random_labels(3, (70, 41))
    whole = find_cells(labels)
    monkeypatch.setattr(crops, "BAND_PX", band_px)
    parts = find_cells(labels)
    assert (whole.box[:, 2] - whole.box[:, 0]).max() > max(1, band_px // 41) or band_px == 500
    for name in ("label", "area_px", "centroid", "box"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
        assert getattr(parts, name).dtype == getattr(whole, name).dtype


def test_find_cells_edges():
    for empty in (np.zeros((5, 4), int), np.zeros((0, 4), int), np.zeros((4, 0), np.uint8)):
        cells = find_cells(empty)
        assert (len(cells), cells.centroid.shape, cells.box.shape) == (0, (0, 2), (0, 4))
    whole = find_cells(np.full((3, 4), 7))
    assert whole.box.tolist() == [[0, 0, 3, 4]]
    wrapped = np.zeros((2, 3), int)
    wrapped[0, 2] = wrapped[1, 0] = 5  # a run must not go on in the next row
    assert find_cells(wrapped).box.tolist() == [[0, 0, 2, 3]]
    assert (
        find_cells(np.asfortranarray(random_labels(3))).label.tolist()
        == find_cells(random_labels(3)).label.tolist()
    )
    for bad in (np.zeros((2, 2)), np.zeros((2, 2, 2), int), np.array([[0, -1]])):
        with pytest.raises(InputError):
            find_cells(bad)


PAD = {"zero": "constant", "edge": "edge", "reflect": "symmetric"}


def slow_window(image, labels, label, centre, side, spec):
    big = 80
    image = np.pad(image, ((0, 0), (big, big), (big, big)), mode=PAD[spec.padding])
    labels = np.pad(labels, big)
    y, x = int(centre[0]) - side // 2 + big, int(centre[1]) - side // 2 + big
    crop, own = image[:, y : y + side, x : x + side], labels[y : y + side, x : x + side] == label
    if spec.masked:
        crop = crop * own
    return np.concatenate([crop, own[None].astype(crop.dtype)]) if spec.mask_plane else crop


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", [4, 7, 16, 33])
@pytest.mark.parametrize(("padding", "masked", "mask_plane"), [
    ("zero", False, False), ("edge", True, False), ("reflect", False, True), ("zero", True, True),
])  # fmt: skip
def test_windows_are_the_slow_obvious_ones(seed, side, padding, masked, mask_plane):
    labels = random_labels(seed)
    image = np.random.default_rng(seed).integers(0, 60_000, (2, *labels.shape)).astype(np.uint16)
    spec = CropSpec(size_px=side, window_px=side, padding=padding, masked=masked, mask_plane=mask_plane)
    cells = find_cells(labels)
    crops = cut_crops(image, labels, cells, spec)
    assert crops.shape == (len(cells), 2 + mask_plane, side, side)
    assert crops.dtype == np.uint16
    for crop, label, centre in zip(crops, cells.label, cells.centroid, strict=True):
        assert np.array_equal(crop, slow_window(image, labels, label, centre, side, spec))


def test_window_larger_than_the_field():
    image, labels = np.ones((1, 5, 6), np.uint8), np.zeros((5, 6), int)
    labels[2, 2] = 3
    crop = cut_crops(image, labels, find_cells(labels), CropSpec(size_px=32, window_px=32))
    assert crop.sum() == 30


def test_sampling_decides_the_window():
    labels = np.zeros((100, 100), int)
    labels[40:60, 40:60] = 1
    image = np.arange(10_000, dtype=np.float32).reshape(1, 100, 100)
    spec = CropSpec(size_px=16, um_per_px=0.5)
    cells = find_cells(labels)
    crop = cut_crops(image, labels, cells, spec, um_per_px=0.25)  # 32 field px → 16
    y, x = (cells.centroid[0].astype(int) - 16).tolist()
    blocks = image[0, y : y + 32, x : x + 32].reshape(16, 2, 16, 2).mean(axis=(1, 3))
    assert np.allclose(crop[0, 0], blocks)
    assert cut_crops(image, labels, cells, CropSpec(size_px=16, window_px=16, um_per_px=0.5)).shape[-1] == 16


@pytest.mark.parametrize("mask_plane", [False, True])
def test_windows_can_be_left_to_be_resized_elsewhere(mask_plane):
    labels = random_labels(0)
    image = np.random.default_rng(0).integers(0, 60_000, (2, *labels.shape)).astype(np.uint16)
    cells, spec = find_cells(labels), CropSpec(size_px=16, window_px=23, mask_plane=mask_plane)
    windows = cut_crops(image, labels, cells, spec, resized=False)
    same = cut_crops(image, labels, cells, CropSpec(size_px=23, window_px=23, mask_plane=mask_plane))
    np.testing.assert_array_equal(windows, same)
    assert windows.dtype == np.uint16
    weights = weights_to_size(windows, spec)
    crops = cut_crops(image, labels, cells, spec)
    np.testing.assert_allclose((weights @ windows @ weights.T)[:, :2], crops[:, :2], rtol=1e-5)
    assert weights_to_size(same, CropSpec(size_px=23)) is None


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_whole_number_reduction_is_the_block_mean(factor):
    x = np.random.default_rng(0).random((3, 2, 8 * factor, 8 * factor)).astype(np.float32)
    blocks = x.reshape(3, 2, 8, factor, 8, factor).mean(axis=(3, 5))
    assert np.allclose(resize(x, 8), blocks, atol=1e-6)


@pytest.mark.parametrize(("n_in", "n_out"), [(10, 7), (7, 10), (64, 224), (224, 64), (5, 4), (33, 32)])
def test_resizing_keeps_constants_and_ramps_in_place(n_in, n_out):
    assert np.allclose(resize(np.full((1, 1, n_in, n_in), 3.0), n_out), 3)
    ramp = np.tile((np.arange(n_in, dtype=np.float32) + 0.5) / n_in, (n_in, 1))[None, None]
    out = resize(ramp, n_out)[0, 0, 0]
    want = (np.arange(n_out) + 0.5) / n_out
    edge = int(np.ceil(n_out / n_in)) + 1
    assert np.allclose(out[edge:-edge], want[edge:-edge], atol=0.05 / n_in)  # no shift by half a pixel


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [16, 17, 40])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_box_crops(seed, size, scale):
    labels = random_labels(seed)
    image = np.random.default_rng(seed).integers(1, 200, (2, *labels.shape)).astype(np.uint8)
    cells = find_cells(labels)
    crops = cut_crops(
        image, labels, cells, CropSpec(mode="box", size_px=size, box_scale=scale, mask_plane=True)
    )
    assert crops.shape == (len(cells), 3, size, size)
    for crop, label, (y0, x0, y1, x1) in zip(crops, cells.label, cells.box, strict=True):
        rows, columns = np.nonzero(crop[0].any(axis=1))[0], np.nonzero(crop[0].any(axis=0))[0]
        if not len(rows):  # half a pixel of a cell of one pixel
            continue
        part = crop[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cy, cx = (y0 + y1 - 1) // 2, (x0 + x1 - 1) // 2
        half = min(max(y1 - y0 - 1, x1 - x0 - 1) * scale, size / 2)
        ya, xa = max(int(cy - half), 0), max(int(cx - half), 0)
        assert np.array_equal(part[:2], image[:, ya : ya + part.shape[1], xa : xa + part.shape[2]])
        assert np.array_equal(part[2], labels[ya : ya + part.shape[1], xa : xa + part.shape[2]] == label)
        assert abs((rows[0] + rows[-1]) - (size - 1)) <= 1  # centred


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("ratio2", {"box_scale": 2.0}),
        ("ratio1", {"box_scale": 1.0}),
        ("to_sta", {"box_scale": 1e6}),  # every box is the full 224 px
        ("mask", {"box_scale": 0.0, "masked": True}),
        ("oversize", {"box_scale": 2.0, "box_shrink": True}),
    ],
)
def test_golden_boxes_of_microsnoop(shared, name, spec):
    """The authors' crops, but that two cells at the top edge, which they skip, have one here."""
    with np.load(shared / "golden" / "microsnoop_tiny_golden.npz") as z:
        image, labels = z["C/image"].transpose(2, 0, 1), z["C/labels"]
        sums, boxes = z[f"C/{name}/crop_sums"], z[f"C/{name}/bbox"]
        first = z[f"C/{name}/first_crop_sub"] if name != "mask" else None
    cells = find_cells(labels)
    crops = cut_crops(image, labels, cells, CropSpec(mode="box", size_px=224, **spec))
    kept = (cells.box[:, :2] > 0).all(axis=1)
    assert cells.label[~kept].tolist() == [3, 7]
    assert crops.shape == (7, 2, 224, 224)
    assert crops.dtype == np.uint16
    # Their sums are float32, added up one after the other: good to less than a pixel of the largest crop.
    np.testing.assert_allclose(crops[kept].sum(axis=(2, 3), dtype=np.int64), sums, rtol=3e-7)
    if first is not None:
        np.testing.assert_array_equal(crops[0, :, ::4, ::4].transpose(1, 2, 0), first)
        for crop, (y0, x0, y1, x1) in zip(crops[kept], boxes, strict=True):
            if max(y1 - y0, x1 - x0) > 224:
                assert name == "oversize"  # its pixels are new ones; their sum is compared above
                continue
            top, left = (224 - (y1 - y0)) // 2, (224 - (x1 - x0)) // 2
            inside = crop[:, top : top + y1 - y0, left : left + x1 - x0]
            np.testing.assert_array_equal(inside, image[:, y0:y1, x0:x1])


def test_a_box_too_large_is_shrunk_as_a_whole_with_its_mask():
    labels = np.zeros((60, 90), int)
    labels[10:50, 5:85] = 1
    image = np.full((1, 60, 90), 700, np.uint16)
    spec = CropSpec(mode="box", size_px=32, box_scale=0.0, box_shrink=True, mask_plane=True)
    crop, mask = cut_crops(image, labels, find_cells(labels), spec)[0]
    rows, columns = np.nonzero(crop.any(axis=1))[0], np.nonzero(crop.any(axis=0))[0]
    assert (len(rows), len(columns)) == (16, 32)  # 39 x 79 px, one scale for both sides
    assert set(np.unique(crop)) == {0, 700}
    assert np.array_equal(mask, (crop > 0).astype(np.uint16))


def test_a_tight_box_of_a_cell_too_large_is_its_middle():
    labels = np.ones((40, 9), int)
    image = np.arange(360, dtype=np.uint16).reshape(1, 40, 9)
    crop = cut_crops(image, labels, find_cells(labels), CropSpec(mode="box", size_px=16, box_scale=0.0))
    np.testing.assert_array_equal(crop[0, 0, :, 4:12], image[0, 11:27, :8])
    assert not crop[0, 0, :, :4].any()


def test_crops_without_cells_and_without_labels():
    image = np.ones((2, 9, 9), np.uint8)
    none = find_cells(np.zeros((9, 9), int))
    for spec in (
        CropSpec(size_px=8, window_px=8),
        CropSpec(size_px=8, window_px=16),
        CropSpec(mode="box", size_px=8),
    ):
        assert cut_crops(image, None, none, spec).shape == (0, 2, 8, 8)
    with pytest.raises(InputError, match="no labels"):
        cut_crops(image, None, none, CropSpec(masked=True))
    with pytest.raises(InputError, match="Labels are"):
        cut_crops(image, np.zeros((8, 9), int), none, CropSpec())


def test_hash_changes_with_the_mask_and_only_with_it():
    labels = random_labels(1)
    cells = find_cells(labels)
    before = dict(zip(cells.label.tolist(), mask_hashes(labels, cells).tolist(), strict=True))
    assert len(set(before.values())) == len(before) > 3
    assert before == dict(
        zip(cells.label.tolist(), mask_hashes(labels.astype(np.uint32), cells).tolist(), strict=True)
    )
    target = int(cells.label[np.argmax(cells.area_px)])
    y0, _x0, _, _ = cells.box[cells.label == target][0]
    for edited in (
        np.where((labels == target) & (np.indices(labels.shape)[0] == y0), 0, labels),
        np.roll(labels, 1, axis=1),
    ):
        again = find_cells(edited)
        after = dict(zip(again.label.tolist(), mask_hashes(edited, again).tolist(), strict=True))
        assert after.get(target) != before[target]
    edited = np.where((labels == target), 0, labels)
    again = find_cells(edited)
    after = dict(zip(again.label.tolist(), mask_hashes(edited, again).tolist(), strict=True))
    assert after == {k: v for k, v in before.items() if k != target}


@pytest.mark.parametrize("spec", [
    CropSpec(size_px=16, window_px=16), CropSpec(size_px=16, window_px=32), CropSpec(size_px=16, window_px=8),
    CropSpec(size_px=10, um_per_px=1.5), CropSpec("box", 24, box_scale=2.0), CropSpec("box", 16, box_scale=0),
    CropSpec("box", 8, box_scale=2.0, box_shrink=True),
])  # fmt: skip
def test_places_are_where_the_pixels_came_from(spec):
    h, w = 37, 53
    field = np.stack([*np.mgrid[:h, :w], np.ones((h, w))]).astype(np.float32)  # each pixel says where it is
    for seed in range(6):
        cells = find_cells(random_labels(seed))
        crops = cut_crops(field, None, cells, spec, 0.5)
        for crop, place in zip(crops, find_places(cells, spec, (h, w), 0.5), strict=True):
            assert not (crop[2][_outside(crop.shape[1:], place.inside)] > 0.5).any()
            full = crop[2] > 0.999  # where no padding was mixed in
            if place.step != 1 and not spec.box_shrink:  # resizing has one neighbour only at a border
                full &= (crop[0] > 0) & (crop[0] < h - 1) & (crop[1] > 0) & (crop[1] < w - 1)
                full[[0, -1]] = full[:, [0, -1]] = False
            rows, columns = np.nonzero(full)
            slack = (
                0.5 * place.step if spec.box_shrink else 1e-3
            )  # the shorter side is rounded to whole pixels
            np.testing.assert_allclose(crop[0][full], place.y0 + rows * place.step, atol=slack)
            np.testing.assert_allclose(crop[1][full], place.x0 + columns * place.step, atol=slack)


def _outside(shape, inside):
    y0, x0, y1, x1 = inside
    out = np.ones(shape, bool)
    out[y0:y1, x0:x1] = False
    return out


def test_memory_that_is_given_is_used_and_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 999, (2, 70, 90), dtype=np.uint16)
    labels = np.zeros((70, 90), np.int32)
    for i, (y, x) in enumerate([(2, 3), (30, 40), (60, 80), (10, 60)], 1):
        labels[y : y + 6, x : x + 6] = i
    cells, spec = find_cells(labels), CropSpec(size_px=16, window_px=16)
    wanted = cut_crops(image, labels, cells, spec)
    memory = np.full((9, 2, 16, 16), 7, np.uint16)
    got = cut_crops(image, labels, cells, spec, out=memory)
    assert np.array_equal(got, wanted)
    assert got.base is memory
    for small in (
        memory[:2],
        memory.astype(np.uint8),
        memory[:, :1],
    ):  # too few, of another dtype, of fewer channels
        again = cut_crops(image, labels, cells, spec, out=small)
        assert np.array_equal(again, wanted)
        assert again.base is None


def test_runs_are_found_across_pieces_and_rows():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 60, (40, 50)), 13, axis=0), 17, axis=1).astype(
        np.int32
    )  # 520 × 850
    assert labels.size > 3 * (1 << 17)
    cells = find_cells(labels)
    ids = np.unique(labels[labels > 0])
    assert np.array_equal(cells.label, ids)
    assert np.array_equal(cells.area_px, np.bincount(labels.ravel())[ids])
    for label, box in zip(cells.label, cells.box, strict=True):
        y, x = np.nonzero(labels == label)
        assert box.tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
