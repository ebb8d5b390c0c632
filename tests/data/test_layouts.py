"""Layouts of files: each explains its own example, and names tell them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_cellrep.data.layouts import LAYOUTS, find_layout, guess_layout, guess_roles, role_of, well_of
from napari_cellrep.specs import Channel, InputError

GUID = "BEDC2073-A983-4B98-95E9-84466707A25D"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_fits_its_example_and_its_channels_are_channels(layout):
    path = Path("/data") / layout.example
    assert layout.regex.search(path.as_posix())
    for text in [*layout.channels.values(), *layout.planes]:
        assert Channel.parse(text).role != "other"
    if layout.guessed:
        found = guess_layout(_one_of_each_channel(layout), crops=layout.crops)
        assert found is not None
        assert found.layout is layout, found.why


def _one_of_each_channel(layout) -> list[Path]:
    match = layout.regex.search("/" + layout.example)
    a, b = match.span("channel")
    text = "/" + layout.example
    values = list(layout.channels)[:2] or ["1", "2"]
    return [
        Path(text[:a] + (value.zfill(b - a) if value.isdigit() else value) + text[b:]) for value in values
    ]


@pytest.mark.parametrize(
    ("path", "name", "known"),
    [
        ("BR00117006__2020-11-08T18_18_58-Measurement1/Images/r03c12f09p01-ch5sk1fk1fl1.tiff", "jump",
         {"plate": "BR00117006", "row": "03", "column": "12", "site": "09", "channel": "5"}),
        ("My plate__2024-01-01/Images/r01c01f01p02-ch1sk3fk1fl1.tiff", "opera",
         {"plate": "My plate", "z": "02", "time": "3", "channel": "1"}),
        ("r01c01f01p01-ch1sk1fk1fl1.tiff", "opera", {"plate": None, "row": "01"}),
        (f"screen/Plate7_A01_s1_w1{GUID}.tif", "imagexpress",
         {"plate": "Plate7", "well": "A01", "site": "1", "channel": "1"}),
        (f"screen/Plate7_A01_s1_w12{GUID}.TIF", "imagexpress", {"channel": "12"}),
        ("screen/Plate7_A01_w2.TIF", "imagexpress", {"site": None, "channel": "2"}),
        (f"20585/IXMtest_A02_s9_w5{GUID}.tif", "bbbc022", {"plate": "20585", "well": "A02", "site": "9", "channel": "5"}),
        (f"Week4_27481/Week4_27481_B02_s1_w4{GUID}.tif", "bbbc021", {"plate": "Week4_27481", "well": "B02", "channel": "4"}),
        ("20200812-Cardio_Cycle1_B03_T0001F001L01A01Z01C01.tif", "cellvoyager",
         {"plate": "20200812-Cardio_Cycle1", "well": "B03", "site": "001", "z": "01", "channel": "01"}),
        ("AS_09125_050116030001_D03f00d2.tif", "arrayscan", {"plate": "AS_09125_050116030001", "well": "D03", "channel": "2"}),
        ("4109/1832_C1_2_blue.tif.gz", "hpa", {"plate": "1832", "well": "C1", "site": "2", "channel": "blue"}),
        ("train/000a6c98-bb9b-11e8-b2b9-ac1f6b6435d0_green.png", "hpa",
         {"field": "000a6c98-bb9b-11e8-b2b9-ac1f6b6435d0", "channel": "green"}),
        ("A1CF_762_F2/762_F2_1_10_green.tif", "pci-human",
         {"protein": "A1CF", "plate": "762", "well": "F2", "site": "1", "cell": "10", "channel": "green"}),
        ("AAC1/AAC1_1_rfp_10_gfp.tif", "pci-yeast", {"protein": "AAC1", "site": "1", "cell": "10", "channel": "gfp"}),
        ("Exp_s01_z03_ch00.tif", "leica", {"field": "Exp", "site": "01", "z": "03", "channel": "00"}),
    ],
)  # fmt: skip
def test_what_a_name_says(path, name, known):
    match = find_layout(name).regex.search("/" + path)
    assert match
    found = match.groupdict()
    assert {k: found[k] for k in known} == known


def test_the_layout_that_explains_most_files_is_guessed():
    hpa = [Path(f"/x/{i}_{c}.png") for i in range(3) for c in ("blue", "green", "red")]
    found = guess_layout([*hpa, Path("/x/overview.png")])
    assert found.layout.name == "hpa"
    assert (
        found.why
        == "9 of 10 files are named as by Human Protein Atlas (a file per colour), like 57_F11_1_green.png."
    )
    assert guess_layout([*hpa[:3], *(Path(f"/x/{i}.png") for i in range(9))]) is None  # too few
    assert guess_layout([Path("/x/a_green.png"), Path("/x/b_green.png")]) is None  # one colour is no atlas
    assert guess_layout([]) is None


def test_thumbnails_are_left_out_and_counted():
    files = [Path(f"/x/P_A01_s1_w{w}{GUID}.tif") for w in (1, 2)]
    thumbs = [p.with_name(p.name.replace("_w", "_thumb_w")) for p in files]
    found = guess_layout([*files, *thumbs])
    assert found.layout.name == "imagexpress"
    assert found.why.endswith("; 2 thumbnails left out.")


def test_crops_are_guessed_only_as_crops():
    files = [Path(f"/x/AAC1/AAC1_1_rfp_{i}_{c}.tif") for i in range(3) for c in ("gfp", "rfp")]
    assert guess_layout(files) is None
    assert guess_layout(files, crops=True).layout.name == "pci-yeast"


def test_wells_of_rows_and_columns():
    assert [well_of(*rc) for rc in (("01", "01"), ("1", "12"), ("H", "3"), (8.0, 12.0), ("28", "2"))] == [
        "A01", "A12", "H03", "H12", "AB02",
    ]  # fmt: skip
    assert well_of("", "1") == well_of("0", "1") == well_of("A", "x") == ""


def test_unknown_layouts_are_listed():
    with pytest.raises(InputError, match="no layout 'hpx'; layouts are jump, opera"):
        find_layout("hpx")


def test_roles_by_names():
    assert [role_of(n) for n in ("Hoechst 33342", "Alexa 488", "MitoTracker", "channel 0", "er")] == [
        "nucleus", "protein", "mito", "other", "er",
    ]  # fmt: skip
    assert guess_roles(["w1", "DAPI"]) == ["protein", "nucleus"]
