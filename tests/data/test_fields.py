from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_cellrep.data.fields import (
    MAX_ID_BYTES,
    Field,
    read_fields,
    safe_id,
    well_name,
    with_groups,
    write_fields,
)
from napari_cellrep.data.images import Plane
from napari_cellrep.specs import InputError


def test_fields_come_back_as_they_were(tmp_path):
    fields = [
        Field("a", (Plane("x.tif"), Plane("/abs/y.tif", 2, "max")), 5, 6, "uint16", 0.25, "g",
              {"dose": 3, "x": 1.5, "drug": "µ-日本 \"q\"", "on": True, "mixed": 1, "big": 2**60}),
        Field("b", (Plane("z1.tif\nz2.tif", 0, "mean"),), problem="It is black.", stack="z",
              metadata={"dose": None, "x": float("nan"), "on": False, "mixed": "one", "drug": ""}),
        Field("c", (), metadata={"dose": 4}),
    ]  # fmt: skip
    write_fields(tmp_path / "f.parquet", fields)
    a, b, c = read_fields(tmp_path / "f.parquet")
    assert dict(a.metadata) == {
        "dose": 3,
        "x": 1.5,
        "drug": 'µ-日本 "q"',
        "on": True,
        "mixed": "1",
        "big": 2**60,
    }
    assert [type(a.metadata[k]) for k in ("dose", "x", "on", "big")] == [int, float, bool, int]
    assert dict(b.metadata) == {"on": False, "mixed": "one"}
    assert dict(c.metadata) == {"dose": 4}
    for old, new in zip(fields, (a, b, c), strict=True):
        for name in (
            "id",
            "planes",
            "height_px",
            "width_px",
            "dtype",
            "um_per_px",
            "group",
            "problem",
            "stack",
        ):
            assert getattr(old, name) == getattr(new, name)


def test_numpy_values_and_no_fields(tmp_path):
    write_fields(
        tmp_path / "f.parquet",
        [Field("a", (), metadata={"i": np.int32(3), "f": np.float32(0.5), "b": np.bool_(True)})],
    )
    assert dict(read_fields(tmp_path / "f.parquet")[0].metadata) == {"i": 3, "f": 0.5, "b": True}
    write_fields(tmp_path / "f.parquet", [])
    assert read_fields(tmp_path / "f.parquet") == []


def test_bad_field_lists(tmp_path):
    with pytest.raises(InputError, match="lost its list"):
        read_fields(tmp_path / "no.parquet")
    (tmp_path / "bad.parquet").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        read_fields(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="cannot have metadata called 'group'"):
        write_fields(tmp_path / "f.parquet", [Field("a", (), metadata={"group": "x"})])


def test_ids_are_safe_in_file_names():
    assert safe_id("a b/c:d*é.tif") == "a_b_c_d_é.tif"
    assert safe_id("../..") == safe_id("") == "field"
    assert safe_id("e\u0301") == safe_id("é")  # as macOS writes it
    long = safe_id("日" * 200)
    assert len(long.encode()) <= MAX_ID_BYTES
    assert long != safe_id("日" * 201)


@pytest.mark.parametrize(("text", "well"), [
    ("A1", "A01"), ("a01", "A01"), ("H-12", "H12"), ("AF48", "AF48"), (" b 3 ", "B03"), ("A001", "A01"),
    ("plate", "plate"), ("7", "7"),
])  # fmt: skip
def test_wells(text, well):
    assert well_name(text) == well


def test_groups():
    fields = [
        Field("1", (), metadata={"plate": "p", "well": "A01", "drug": "x"}),
        Field("2", (), metadata={"plate": "p", "well": "A01", "drug": "y"}),
        Field("3", (), metadata={"drug": float("nan")}),
    ]
    assert [f.group for f in with_groups(fields)] == ["p A01", "p A01", "3"]
    assert [f.group for f in with_groups(fields, ["drug"])] == ["x", "y", "3"]
    assert [f.group for f in with_groups(fields[:1], ["well", "drug"])] == ["A01 x"]
    with pytest.raises(InputError, match="no column 'dose'"):
        with_groups(fields, ["dose"])


def test_black_and_broken_pixels(tmp_path):
    image = np.zeros((2, 8, 8), np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    field = Field("a", (Plane("a.tif", 0), Plane("a.tif", 1)))
    with pytest.raises(InputError, match="Field a is all black"):
        field.read(tmp_path)
    image[1, 0, 0] = 1  # one empty channel is no reason to drop a field
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    assert field.read(tmp_path).shape == (2, 8, 8)
    image[0, 0, 0] = np.inf
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    with pytest.raises(InputError, match="NaN or infinite"):
        field.read(tmp_path)
