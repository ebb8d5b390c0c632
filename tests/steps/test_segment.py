import json

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import open_project
from napari_cellrep.jobs import Shard, drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.segment import preview, segment, unusual_fields


def test_nuclei_of_real_wells_are_found_and_written(small):
    for field in small.fields:
        labels = small.read_labels(field.id)
        assert labels.shape == (256, 256)
        assert 10 < small.label_info(field.id)["n_cells"] < 80
        assert labels.dtype == np.uint16


def test_what_is_up_to_date_is_skipped_and_new_settings_are_not(small):
    first = drain(segment(small))
    assert (first.done, first.skipped) == (0, 4)
    again = drain(segment(small, config={"smoothing": 0.12}, fields=["A01"]))
    assert (again.done, again.skipped) == (1, 0)
    assert small.label_info("A01")["settings"]["smoothing"] == 0.12


def test_a_changed_image_is_segmented_again(small):
    path = small.root / small.field("A06").planes[0].path
    image = tifffile.imread(path)
    tifffile.imwrite(path, image[:, ::-1].copy(), metadata={"axes": "CYX"}, ome=True)
    result = drain(segment(small))
    assert (result.done, result.skipped) == (1, 3)


def test_labels_edited_by_hand_are_left_alone_unless_told(small):
    edited = np.zeros((256, 256), np.uint16)
    edited[10:30, 10:30] = 1
    small.write_labels("A01", edited, {"edited": True})
    drain(segment(small, config={"smoothing": 0.12}))
    assert small.label_info("A01")["n_cells"] == 1
    drain(segment(small, config={"smoothing": 0.12}, overwrite=True))
    assert small.label_info("A01")["n_cells"] > 1


def test_one_bad_field_does_not_stop_the_others_and_can_be_run_alone(small):
    black, gone = (small.root / small.field(f).planes[0].path for f in ("A01", "A12"))
    good = tifffile.imread(black)
    tifffile.imwrite(black, np.zeros_like(good), metadata={"axes": "CYX"}, ome=True)
    whole = gone.read_bytes()
    gone.write_bytes(whole[:2000])
    result = drain(segment(small, overwrite=True))
    assert set(result.problems) == {"A01", "A12"}
    assert "all black" in result.problems["A01"]
    assert result.done == 2
    assert {f.id: bool(f.problem) for f in small.fields} == {
        "A01": True,
        "A06": False,
        "A12": True,
        "E12": False,
    }

    gone.write_bytes(whole)
    result = drain(segment(small, fields=["A12"]))
    assert not result.problems
    assert not small.field("A12").problem
    assert small.field("A01").problem


def test_a_field_without_cells_is_told(small):
    path = small.root / small.field("A01").planes[0].path
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(8, 12, (2, 256, 256), np.uint8), metadata={"axes": "CYX"}, ome=True)
    result = drain(segment(small, fields=["A01"]))
    assert "no cell" in result.problems["A01"]


def test_when_nothing_works_the_first_reason_is_told(small):
    for field in small.fields:
        (small.root / field.planes[0].path).unlink()
    with pytest.raises(InputError, match="None of the 4 fields"):
        drain(segment(small, overwrite=True))
    assert small.has_labels("A01")  # what was computed before stays


def test_unknown_words_are_answered_with_known_ones(small):
    for kwargs, match in [
        ({"segmenter": "magic"}, "nuclei"),
        ({"config": {"sped": 1}}, "settings are"),
        ({"fields": ["Z99"]}, "no field"),
    ]:
        with pytest.raises(InputError, match=match):
            drain(segment(small, **kwargs))


def test_stopping_keeps_the_fields_that_are_done(small):
    job = segment(small, config={"smoothing": 0.12})
    next(job)
    next(job)
    job.close()
    done = [f.id for f in small.fields if small.label_info(f.id)["settings"]["smoothing"] == 0.12]
    assert len(done) == 1


def test_shards_do_their_own_fields(small):
    results = [drain(segment(small, overwrite=True, shard=Shard(i, 2))) for i in range(2)]
    assert sum(r.done for r in results) == 4


def test_a_preview_writes_nothing(small):
    before = small.labels_path("A01").stat().st_mtime_ns
    tried = drain(preview(small, field="A01", config={"smoothing": 0.15}))
    assert tried.labels.max() > 5
    assert small.labels_path("A01").stat().st_mtime_ns == before
    sizes = np.bincount(tried.labels.ravel())[1:]
    np.testing.assert_array_equal(tried.area_px, sizes[sizes > 0])
    inner = tried.labels[1:-1, 1:-1]
    inside = {n for n in np.unique(inner) if (inner == n).sum() == sizes[n - 1]} - {0}
    assert tried.n_border == len(tried.area_px) - len(inside)


def test_fields_that_are_unlike_the_others_are_named():
    usual = {f"A{i:02}": 200 + 5 * (i % 3) for i in range(1, 12)}
    assert unusual_fields(usual) == {}
    odd = unusual_fields({**usual, "B01": 0, "B02": 20, "B03": 900, "B04": 150})
    assert list(odd) == ["B01", "B02", "B03"]
    assert odd["B01"] == "no cells"
    assert "far fewer than the usual 205" in odd["B02"]
    assert "far more" in odd["B03"]
    assert list(unusual_fields({"A01": 10, "A02": 300})) == []  # two fields have no usual


def test_no_field_is_no_news():
    assert unusual_fields({}) == {}
    assert unusual_fields({"A01": 0, "A02": 0}) == {"A01": "no cells", "A02": "no cells"}


def test_labels_brought_are_read_again_when_their_file_changes_and_their_classes_are_a_column(small):
    for field in small.fields:
        path = small.root / small.field(field.id).planes[0].path
        square = [[10, 10], [40, 10], [40, 40], [10, 40], [10, 10]]
        cells = [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]},
             "properties": {"classification": {"name": "Tumor"}}},
            {"type": "Feature", "properties": {},
             "geometry": {"type": "Polygon", "coordinates": [[[x + 60, y] for x, y in square]]}},
        ]  # fmt: skip
        beside = path.with_name(path.name.split(".")[0] + ".geojson")
        beside.write_text(json.dumps({"type": "FeatureCollection", "features": cells}))
    assert drain(segment(small, segmenter="imported", overwrite=True)).n_cells == 8
    drain(crop(small))
    obs = small.cells.obs
    assert obs.loc["A01:1", "class"] == "Tumor"
    assert obs["class"].notna().sum() == 4
    again = open_project(small.root)
    assert again.cells.obs.loc["A06:1", "class"] == "Tumor"
    assert drain(segment(small, segmenter="imported")).skipped == 4
    cells = [
        *cells,
        {**cells[0], "geometry": {"type": "Polygon", "coordinates": [[[x - 5, y - 5] for x, y in square]]}},
    ]
    beside.write_text(json.dumps({"type": "FeatureCollection", "features": cells}))
    result = drain(segment(small, segmenter="imported"))
    assert (result.done, result.skipped, result.n_cells) == (1, 3, 9)
    (note,) = result.notes.values()
    assert "1 of 3 outlines" in note
    shown = drain(preview(small, field=again.fields[-1].id, segmenter="imported"))
    assert len(shown.area_px) == 3
    assert "1 of 3 outlines" in shown.notes[0]
