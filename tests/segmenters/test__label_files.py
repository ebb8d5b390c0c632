"""Files of labels as Cellpose, CellProfiler, QuPath, Fiji and OME-Zarr hold them, and what is wrong with some."""

import gzip
import json
import os
import pickle

import numpy as np
import pytest
import roifile
import tifffile
import zarr

from napari_cellrep.data.crops import find_cells
from napari_cellrep.data.rois import outline, write_rois
from napari_cellrep.segmenters import Source, imported, nuclei
from napari_cellrep.segmenters._label_files import fill, open_file, read_cellpose, read_file
from napari_cellrep.specs import Channel, InputError

DNA = [Channel("DNA", "nucleus")]
SQUARE = [[[2, 3], [12, 3], [12, 9], [2, 9], [2, 3]]]


@pytest.fixture(scope="module")
def truth(well):
    return nuclei.segment(well[1:], DNA, nuclei.Config())


def seg_npy(path, masks, **more):
    """As Cellpose writes it."""
    held = {"masks": masks, "outlines": masks * 0, "chan_choose": [0, 0], "ismanual": np.zeros(3, bool),
            "filename": "a.tif", "flows": [np.zeros((2, 2)), [], None], "est_diam": np.float64(20.5), **more}  # fmt: skip
    np.save(path, held)
    return path


def geojson(path, *features, **of_all):
    made = [{"type": "Feature", "properties": {}, **of_all, **f} for f in features]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": made}))
    return path


def polygon(x, y, w, h):
    return {
        "type": "Polygon",
        "coordinates": [[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]],
    }


def edges_of(mask, y0, x0):
    """Outline of a mask along the edges of its pixels, as QuPath exports it: rings by walking, holes too."""
    from skimage.measure import find_contours

    big = np.kron(np.pad(mask, 1), np.ones((2, 2)))  # a contour at half a half pixel rounds to the edge
    rings = []
    for line in find_contours(big, 0.5, fully_connected="high"):
        rings.append((np.round((line[:, ::-1] + 0.5) * 2) / 4 + (x0 - 1, y0 - 1)).tolist())
    return rings


def test_cellpose_masks_are_read_without_running_what_is_in_the_file(tmp_path, truth):
    np.testing.assert_array_equal(
        read_cellpose(seg_npy(tmp_path / "a_seg.npy", truth.astype(np.uint16))), truth
    )
    import pathlib

    with_path = seg_npy(tmp_path / "b_seg.npy", truth, filename=pathlib.Path("a.tif"), more={1, 2})
    np.testing.assert_array_equal(read_cellpose(with_path), truth)
    np.save(tmp_path / "plain.npy", truth)
    np.testing.assert_array_equal(read_cellpose(tmp_path / "plain.npy"), truth)


class Harm:
    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.mkdir, (str(self.where),)


def test_a_pickle_that_wants_to_run_something_is_not_opened(tmp_path):
    seg_npy(tmp_path / "a_seg.npy", np.ones((4, 4)), evil=Harm(tmp_path / "hit"))
    with pytest.raises(InputError, match=r"wants to run \w+\.mkdir"):
        read_cellpose(tmp_path / "a_seg.npy")
    assert not (tmp_path / "hit").exists()
    with (tmp_path / "b_seg.npy").open("wb") as f:  # numpy's own names lead to others
        f.write((tmp_path / "a_seg.npy").read_bytes()[:128])
        f.write(b"cnumpy\nsave\n.")
    with pytest.raises(InputError, match=r"numpy\.save"):
        read_cellpose(tmp_path / "b_seg.npy")


@pytest.mark.parametrize(
    ("held", "says"),
    [({"outlines": 1}, "no masks"), ({"masks": None}, "no masks"), ({"masks": np.zeros((3, 8, 8), int)}, "one plane"),
     ({"masks": np.full((8, 8), 0.5)}, "whole numbers"), ({"masks": np.zeros((0, 8), int)}, "no pixels")],
)  # fmt: skip
def test_npy_without_masks_is_a_sentence(tmp_path, held, says):
    np.save(tmp_path / "a_seg.npy", held)
    with pytest.raises(InputError, match=says):
        read_cellpose(tmp_path / "a_seg.npy")


@pytest.mark.parametrize("size", [0, 5, 100, 200, 5000])
def test_a_truncated_npy_is_a_sentence(tmp_path, truth, size):
    path = seg_npy(tmp_path / "a_seg.npy", truth)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="cannot be read as Cellpose"):
        read_cellpose(path)


def test_our_own_rois_come_back_as_the_same_labels(tmp_path, truth):
    cells = find_cells(truth)
    lines = {
        f"A05:{n}": outline(truth[y0:y1, x0:x1] == n, y0, x0)
        for n, (y0, x0, y1, x1) in zip(cells.label[::-1], cells.box[::-1], strict=True)
    }
    other = {"B01:1": outline(np.ones((9, 9), bool), 0, 0)}
    write_rois(tmp_path / "rois.zip", {**other, **lines})
    back = read_file(tmp_path / "rois.zip", truth.shape, field_id="A05")
    np.testing.assert_array_equal(back.labels, truth)
    assert back.notes == []


def test_geojson_of_pixel_edges_comes_back_as_the_same_labels_with_holes_and_classes(tmp_path, truth):
    truth = truth.copy()
    n = int(np.argmax(np.bincount(truth.ravel())[1:])) + 1
    y, x = (int(v.mean()) for v in np.nonzero(truth == n))
    truth[y, x : x + 2] = 0  # a hole
    cells = find_cells(truth)
    features = []
    for k, (y0, x0, y1, x1) in zip(cells.label, cells.box, strict=True):
        rings = edges_of(truth[y0:y1, x0:x1] == k, y0, x0)
        kind = {"classification": {"name": "Tumor"}} if k % 2 else {}
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
        features.append({"geometry": geometry, "properties": {"objectType": "cell", **kind}})
    tissue = {"geometry": polygon(0, 0, 640, 640), "properties": {"objectType": "annotation"}}
    path = geojson(tmp_path / "a.geojson", tissue, *features)
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
    for one in (path, tmp_path / "a.geojson.gz"):
        back = read_file(one, truth.shape)
        np.testing.assert_array_equal(back.labels, truth)
        assert len(back.notes) == 1
        assert back.notes[0].startswith("1 annotation")
        assert back.classes == {int(k): "Tumor" for k in cells.label if k % 2}


def test_what_overlaps_belongs_to_the_smallest_and_is_counted(tmp_path):
    path = geojson(
        tmp_path / "a.geojson", {"geometry": polygon(1, 1, 4, 4)}, {"geometry": polygon(0, 0, 20, 10)},
        {"geometry": polygon(20, 0, 5, 10)}, {"geometry": {"type": "Point", "coordinates": [3, 3]}},
    )  # fmt: skip
    back = read_file(path, (10, 30))
    assert np.bincount(back.labels.ravel()).tolist() == [50, 16, 184, 50]
    assert "1 of 3 outlines of a.geojson is overlapped by smaller ones (16 px)" in back.notes[1]
    assert back.notes[0].startswith("1 of the objects of a.geojson are points or lines")


def test_the_nucleus_of_a_qupath_cell_and_micrometres(tmp_path):
    cell = {"geometry": polygon(1, 1, 4, 4), "nucleusGeometry": polygon(2, 2, 1, 1)}
    path = geojson(tmp_path / "a.geojson", cell, properties={"objectType": "cell"})
    assert (read_file(path, (20, 20)).labels > 0).sum() == 16
    assert (read_file(path, (20, 20), part="nucleus").labels > 0).sum() == 1
    assert (read_file(path, (20, 20), units="um", um_per_px=0.5).labels > 0).sum() == 64
    with pytest.raises(InputError, match="pixel size of field A is not known"):
        read_file(path, (20, 20), units="um", field_id="A")


def test_geojson_in_micrometres_read_as_pixels_is_noticed(tmp_path):
    cells = [{"geometry": polygon(0.3 * x, 0.3 * x, 6, 6)} for x in range(0, 600, 40)]
    notes = read_file(geojson(tmp_path / "a.geojson", *cells), (620, 620), um_per_px=0.3).notes
    assert "if they were in µm" in notes[0]
    assert not any("µm" in n for n in read_file(tmp_path / "a.geojson", (620, 620)).notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "cannot be read as GeoJSON"), ("{", "cannot be read"), ("[1]", "no feature collection"), ("{}", "no feature"),
     ('{"type": "FeatureCollection"}', "cannot be read"),
     ('{"type": "Point", "coordinates": [1, 2]}', "points and lines only"),
     ('{"type": "Polygon", "coordinates": [[["a", 2], [1, 2], [3, 4]]]}', "cannot be read"),
     ('{"type": "Polygon", "coordinates": [[[900, 900], [950, 900], [950, 950]]]}', "of another image")],
)  # fmt: skip
def test_geojson_that_cannot_be_used_is_a_sentence(tmp_path, text, says):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(InputError, match=says):
        read_file(tmp_path / "a.geojson", (40, 50), field_id="A")


def test_no_outline_is_an_empty_field(tmp_path):
    assert not read_file(geojson(tmp_path / "a.geojson"), (4, 5)).labels.any()


def test_rois_of_every_closed_kind_are_cells_and_points_are_told(tmp_path):
    kinds = roifile.ROI_TYPE
    rect = roifile.ImagejRoi(roitype=kinds.RECT, left=2, top=3, right=12, bottom=9)
    oval = roifile.ImagejRoi(roitype=kinds.OVAL, left=20, top=10, right=30, bottom=20)
    free = roifile.ImagejRoi.frompoints(np.array([[30, 30], [40, 30], [40, 34], [30, 34]]))
    dot = roifile.ImagejRoi.frompoints(np.array([[5, 5]]))
    dot.roitype = kinds.POINT
    roifile.roiwrite(tmp_path / "RoiSet.zip", [rect, oval, free, dot], name=["a", "b", "c", "d"])
    back = read_file(tmp_path / "RoiSet.zip", (40, 50))
    area = np.bincount(back.labels.ravel())
    assert (area[1], area[3]) == (60, 40)
    assert abs(area[2] - 25 * np.pi) < 4
    assert back.notes == ["1 of the ROIs of RoiSet.zip are points or lines, no outlines, and were left out."]
    rect.tofile(tmp_path / "one.roi")
    assert (read_file(tmp_path / "one.roi", (40, 50)).labels > 0).sum() == 60


def test_roi_files_that_cannot_be_used_are_a_sentence(tmp_path):
    for name in ("a.roi", "a.zip"):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(InputError, match="cannot be read as ROIs"):
            read_file(tmp_path / name, (9, 9))
    import zipfile

    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as z:
        z.writestr("readme.txt", "none")
    with pytest.raises(InputError, match="holds no ROI"):
        read_file(tmp_path / "empty.zip", (9, 9))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["yx", "tczyx"])
def test_labels_of_an_ome_zarr_of_both_versions(tmp_path, truth, zarr_format, axes):
    said = {
        "multiscales": [{"axes": [{"name": a} for a in axes], "datasets": [{"path": "0"}, {"path": "1"}]}]
    }
    said = {"ome": {"version": "0.5", **said}} if zarr_format == 3 else said
    group = zarr.open_group(
        tmp_path / "a.zarr" / "labels" / "nuclei", mode="w", zarr_format=zarr_format, attributes=said
    )
    data = truth.reshape((1,) * (len(axes) - 2) + truth.shape).astype(np.int32)
    group.create_array("0", data=data, chunks=(1,) * (len(axes) - 2) + (256, 256))
    group.create_array("1", data=data[..., ::2, ::2])
    np.testing.assert_array_equal(
        read_file(tmp_path / "a.zarr" / "labels" / "nuclei", truth.shape).labels, truth
    )
    beside = Source((tmp_path / "a.zarr",))
    image = np.zeros((1, *truth.shape), np.uint8)
    np.testing.assert_array_equal(
        imported.segment(image, DNA, imported.Config(), field_id="a", source=beside), truth
    )
    zarr.open_group(
        tmp_path / "a.zarr" / "labels" / "cells", mode="w", zarr_format=zarr_format, attributes=said
    )
    with pytest.raises(
        InputError, match=r"2 files of labels \(cells and nuclei\).*/{field}.zarr/labels/cells"
    ):
        imported.segment(image, DNA, imported.Config(), field_id="a", source=beside)
    with pytest.raises(InputError, match="cannot be read as OME-Zarr labels"):
        read_file(tmp_path / "a.zarr" / "labels", truth.shape)


def test_more_than_65535_numbers_and_gaps(tmp_path):
    labels = np.arange(400 * 400, dtype=np.int32).reshape(400, 400) * 3
    tifffile.imwrite(tmp_path / "a.tif", labels)
    np.testing.assert_array_equal(read_file(tmp_path / "a.tif", (400, 400)).labels, labels)
    tifffile.imwrite(tmp_path / "b.tif", (labels // 3 % 60_000).astype(np.float32))
    assert read_file(tmp_path / "b.tif", (400, 400)).labels.max() == 59_999


def test_cellprofilers_floats_are_numbers_again(tmp_path, truth):
    tifffile.imwrite(tmp_path / "a.tif", (truth / 65_535).astype(np.float32))
    np.testing.assert_array_equal(read_file(tmp_path / "a.tif", truth.shape).labels, truth)


def test_numbers_that_eight_bits_lost_are_told(tmp_path):
    labels = np.zeros((120, 120), int)
    labels[::3, ::3] = np.arange(1600).reshape(40, 40) + 1
    tifffile.imwrite(tmp_path / "a.tif", np.minimum(labels, 255).astype(np.uint8))
    assert "Save it with 16 bits" in read_file(tmp_path / "a.tif", (120, 120)).notes[0]
    always = imported.Config(pattern=str(tmp_path / "a.tif"), relabel="always")
    assert imported.segment(np.zeros((1, 120, 120)), DNA, always).max() == 1600


def test_a_square_is_filled_to_its_edges_and_neighbours_share_no_pixel():
    rng = np.random.default_rng(0)
    top, left, mask = fill([np.array(SQUARE[0], float)], (20, 20))
    assert (top, left, int(mask.sum())) == (3, 2, 60)
    total = np.zeros((30, 30), int)
    xy = np.array([[0, 0], [30, 0], [30, 30], [0, 30]], float)
    middle = rng.uniform(10, 20, 2).round(1)
    for a, b in zip(xy, np.roll(xy, -1, axis=0), strict=True):  # four triangles that meet along diagonals
        top, left, mask = fill([np.array([a, b, middle])], (30, 30))
        total[top : top + mask.shape[0], left : left + mask.shape[1]] += mask
    assert (total == 1).all()


def test_a_pickle_of_an_extension_code_is_refused(tmp_path):
    path = seg_npy(tmp_path / "a_seg.npy", np.ones((4, 4)))
    head = path.read_bytes()[:128]
    path.write_bytes(head + b"\x80\x02" + pickle.BINPERSID if False else head + b"Psomething\n.")
    with pytest.raises(InputError, match="something outside it"):
        read_cellpose(path)


@pytest.mark.parametrize(
    "how", [{}, {"tile": (16, 16), "compression": "zlib"}, {"compression": "zlib", "rowsperstrip": 40}]
)
def test_the_frame_of_a_series_is_read_in_parts(tmp_path, how):
    frames = np.random.default_rng(0).integers(0, 900, (3, 40, 50)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack", **how)
    for frame in range(3):
        opened = open_file(tmp_path / "a.tif", (40, 50), series="a", frame=frame)
        np.testing.assert_array_equal(opened.read((7, 10, 33, 50)), frames[frame, 7:33, 10:50])
    with pytest.raises(InputError, match="frame 3"):
        open_file(tmp_path / "a.tif", (40, 50), series="a", frame=3)


def test_a_part_of_a_polygon_is_that_part_of_the_whole():
    rng = np.random.default_rng(0)
    ring = np.stack(
        [40 + 37 * np.cos(np.linspace(0, 6.2, 60)), 30 + 28 * np.sin(np.linspace(0, 6.2, 60))], axis=1
    )
    rings = [ring + rng.normal(0, 2, ring.shape), ring[::-1] * 0.4 + 20]
    whole, parts = np.zeros((64, 80), bool), np.zeros((64, 80), bool)
    top, left, mask = fill(rings, whole.shape)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    for y in range(0, 64, 13):
        for x in range(0, 80, 17):
            top, left, mask = fill(rings, whole.shape, (y, x, min(y + 13, 64), min(x + 17, 80)))
            parts[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask
    np.testing.assert_array_equal(parts, whole)
    assert 500 < whole.sum() < 4_000


def test_numbers_too_large_are_said_to_be(tmp_path):
    labels = np.zeros((8, 8), np.uint32)
    labels[2:4, 2:4] = 2**32 - 1
    tifffile.imwrite(tmp_path / "a.tif", labels)
    with pytest.raises(
        InputError, match=r"numbers up to 4,294,967,295; a cell's number can be 2,147,483,647 at most"
    ):
        read_file(tmp_path / "a.tif", (8, 8))
