import numpy as np
import pytest
import tifffile

from napari_cellrep.data.cells import reconcile_labels
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import crop


def test_every_label_is_one_row_with_its_place_and_what_is_known_of_its_well(small):
    obs = small.cells.obs
    assert obs.index.is_unique
    for field in small.fields:
        labels = small.read_labels(field.id)
        rows = obs[obs["field"] == field.id]
        assert sorted(rows["label"]) == sorted(set(np.unique(labels)) - {0})
        for cell, row in rows.iterrows():
            assert cell == f"{field.id}:{row['label']}"
            assert (labels == row["label"]).sum() == row["area_px"]
        assert set(rows["compound"]) == {field.metadata["compound"]}
        assert set(rows["dose_rank"]) == {field.metadata["dose_rank"]}
    assert 0.2 < obs["good"].mean() < 1


def test_the_rules_decide_and_more_flags_mean_fewer_good_cells(small):
    before = small.cells.obs["good"].sum()
    drain(crop(small, rules={"debris_share": 1.0}))
    assert small.cells.obs["good"].sum() < before
    assert small.cells.obs["flags"].astype(str).str.contains("debris").sum() > 0
    with pytest.raises(InputError, match="between"):
        drain(crop(small, rules={"debris_share": 7}))


def test_after_an_edit_only_the_changed_cells_change(small):
    before = small.cells.obs.copy()
    old = small.read_labels("A01")
    new = old.copy()
    victim, grown = sorted(before.loc[before["field"] == "A01", "label"])[:2]
    new[new == victim] = 0
    ys, xs = np.nonzero(old == grown)
    new[ys.max() + 1, xs[ys.argmax()]] = grown
    small.write_labels("A01", reconcile_labels(old, new), {"edited": True})
    drain(crop(small, fields=["A01"]))
    after = small.cells.obs
    assert f"A01:{victim}" not in after.index
    assert set(before.index) - set(after.index) == {f"A01:{victim}"}
    changed = [c for c in after.index if after.loc[c, "mask_hash"] != before.loc[c, "mask_hash"]]
    assert changed == [f"A01:{grown}"]


def test_without_labels_the_user_is_told_what_to_do(small):
    for field in small.fields:
        small.labels_path(field.id).unlink()
    with pytest.raises(InputError, match="cellrep segment"):
        drain(crop(small))
    assert small.has_cells  # what was computed before stays


def test_labels_of_another_size_mark_their_field_only(small):
    tifffile.imwrite(small.labels_path("A06"), np.ones((10, 10), np.uint16))
    drain(crop(small))
    assert "10 × 10 px" in small.field("A06").problem
    assert set(small.cells.obs["field"]) == {"A01", "A12", "E12"}


def test_no_cell_anywhere_is_said(small):
    for field in small.fields:
        small.write_labels(field.id, np.zeros((256, 256), np.uint16), {})
    with pytest.raises(InputError, match="No cell"):
        drain(crop(small))
