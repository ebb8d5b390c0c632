from __future__ import annotations

import numpy as np
import pytest
import tifffile
from image_files import made, notes, pixels, write

from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.import_fields import add_fields, preview_import


def test_search_skips_hidden_projects_and_link_loops(tmp_path):
    folder = tmp_path / "in"
    write(folder / "b" / "s10.tif", pixels(8, 8))
    write(folder / "b" / "s2.tiff", pixels(8, 8))
    write(folder / "._s3.tif", pixels(8, 8))
    write(folder / ".trash" / "s4.tif", pixels(8, 8))
    write(folder / "old.cellrep" / "labels" / "s5.ome.tif", pixels(8, 8))
    (folder / "notes.txt").write_text("x")
    try:
        (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    project = made(tmp_path / "p", [folder])
    assert [f.id for f in project.fields] == ["s2", "s10"]  # natural order


def test_globs_files_and_doubles(tmp_path):
    for name in ("a1.tif", "a2.tif", "b1.tif"):
        write(tmp_path / name, pixels(8, 8))
    project = made(tmp_path / "p", [tmp_path / "a*.tif", tmp_path / "a1.tif"])
    assert [f.id for f in project.fields] == ["a1", "a2"]
    with pytest.raises(InputError, match="No image is called"):
        made(tmp_path / "q", [tmp_path / "c*.tif"])
    with pytest.raises(InputError, match="not there"):
        made(tmp_path / "q", [tmp_path / "folder"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no images"):
        made(tmp_path / "q", [tmp_path / "none"])
    with pytest.raises(InputError, match="exists already"):
        made(tmp_path / "p", [tmp_path])


@pytest.mark.parametrize("pattern", [
    "{plate}_{well}_s{site}_w{channel}.tif",
    r"(?P<plate>[^_]+)_(?P<well>[A-P]\d+)_s(?P<site>\d+)_w(?P<channel>\d)",
])  # fmt: skip
def test_one_file_per_channel(tmp_path, pattern):
    for well in ("A1", "B12"):
        for site in (1, 2):
            for w in (1, 2):
                write(
                    tmp_path / "in" / f"P7_{well}_s{site}_w{w}.tif",
                    np.full((8, 8), 10 * site + w, np.uint8) + pixels(8, 8),
                )
    write(tmp_path / "in" / "thumb.png", pixels(8, 8))
    project = made(
        tmp_path / "p", [tmp_path / "in"], pattern=pattern, channels=["2=GFP:protein", "1=DNA:nucleus"]
    )
    assert sorted(f.id for f in project.fields) == ["P7_A01_1", "P7_A01_2", "P7_B12_1", "P7_B12_2"]
    assert [(c.name, c.role) for c in project.channels] == [("GFP", "protein"), ("DNA", "nucleus")]
    field = project.field("P7_A01_2")
    assert dict(field.metadata) == {"plate": "P7", "well": "A01", "site": "2"}
    assert field.group == "P7 A01"
    assert np.array_equal(
        project.read_image("P7_A01_2")[0], tifffile.imread(tmp_path / "in" / "P7_A1_s2_w2.tif")
    )
    assert "thumb.png" in notes(project)


def test_channels_in_folders_and_roles_by_their_names(tmp_path):
    for channel in ("nucleus", "Alexa488"):
        for name in ("x1", "x2"):
            write(tmp_path / "in" / channel / f"{name}.tif", pixels(8, 8))
    project = made(tmp_path / "p", [tmp_path / "in"], pattern="{channel}/{field}.tif")
    assert [f.id for f in project.fields] == ["x1", "x2"]
    assert {c.name: c.role for c in project.channels} == {"Alexa488": "protein", "nucleus": "nucleus"}


def test_pattern_that_names_only_the_channel(tmp_path):
    for name in ("day1_c1.tif", "day1_c2.tif", "day2_c1.tif", "day2_c2.tif"):
        write(tmp_path / "in" / name, pixels(8, 8))
    project = made(
        tmp_path / "p", [tmp_path / "in"], pattern=r"_c(?P<channel>\d)", channels=["nucleus", "protein"]
    )
    assert [len(f.planes) for f in project.fields] == [2, 2]
    assert all(f.id.startswith("day") for f in project.fields)


def test_pattern_errors(tmp_path):
    write(tmp_path / "a.tif", pixels(8, 8))
    for pattern, words in (
        ("{well}_{site}.tif", "fits none"),
        ("(?P<well>", "not a regular expression"),
        ("a.tif", "names no part"),
    ):
        with pytest.raises(InputError, match=words):
            made(tmp_path / "p", [tmp_path], pattern=pattern)
    assert not (tmp_path / "p.cellrep").exists()


def test_ambiguous_and_missing_channel_files_stop_only_their_field(tmp_path):
    for field in ("f1", "f2", "f3"):
        for c in ("a", "b"):
            write(tmp_path / "in" / f"{field}_{c}.tif", pixels(8, 8))
    (tmp_path / "in" / "f2_b.tif").unlink()
    write(tmp_path / "in" / "f3_a.tiff", pixels(8, 8))
    write(tmp_path / "in" / "f4_a.tif", pixels(8, 8))
    write(tmp_path / "in" / "f4_b.tif", pixels(9, 8))
    write(tmp_path / "in" / "f5_a.tif", pixels(8, 8))
    write(tmp_path / "in" / "f5_b.tif", pixels(2, 8, 8))
    for field in ("f6", "f7", "f8", "f9"):
        for c in ("a", "b"):
            write(tmp_path / "in" / f"{field}_{c}.tif", pixels(8, 8))
    project = made(tmp_path / "p", [tmp_path / "in"], pattern=r"(?P<field>f\d)_(?P<channel>[ab])\.tiff?$")
    problems = {f.id: f.problem for f in project.fields}
    assert [k for k, v in problems.items() if not v] == ["f1", "f6", "f7", "f8", "f9"]
    assert "no file for channel b" in problems["f2"]
    assert "Several files" in problems["f3"]
    assert "differ in size" in problems["f4"]
    assert "holds 2 channels" in problems["f5"]
    with pytest.raises(InputError, match="no file for channel b"):
        project.read_image("f2")  # not half of it


def test_a_layout_is_guessed_and_names_wells_and_channels(tmp_path):
    images = tmp_path / "BR00117006__2020-11-08T18_18_58-Measurement1" / "Images"
    for f in (1, 2):
        for ch in (1, 2, 3, 4, 5):
            if (f, ch) != (2, 3):
                write(images / f"r03c12f0{f}p01-ch{ch}sk1fk1fl1.tiff", pixels(8, 8, seed=10 * f + ch))
    write(images / "overview.tif", pixels(4, 4))
    project = made(tmp_path / "p", [tmp_path])
    assert [c.name for c in project.channels] == ["Mito", "AGP", "RNA", "ER", "DNA"]
    assert [c.role for c in project.channels] == ["mito", "agp", "rna", "er", "nucleus"]
    one, two = project.fields
    assert one.id == "BR00117006_C12_01"
    assert dict(one.metadata) == {"plate": "BR00117006", "site": "01", "well": "C12"}
    assert np.array_equal(project.read_image(one.id)[4], pixels(8, 8, seed=15))
    assert two.problem == "It has no file for channel 3 (there are: 1, 2, 4, 5)."
    line = project.history[-1]
    assert line["layout"] == "jump"
    assert line["notes"][0].startswith("9 of 10 files are named as by JUMP Cell Painting")
    assert "The layout jump does not fit 1 file (overview.tif)" in line["notes"][1]
    each = made(tmp_path / "q", [tmp_path], layout="none")
    assert len(each.fields) == 10
    assert each.history[-1]["layout"] == "none"
    with pytest.raises(InputError, match="The layout 'hpa' fits none of 10 files"):
        made(tmp_path / "r", [tmp_path], layout="hpa")
    with pytest.raises(InputError, match="not both"):
        made(tmp_path / "r", [tmp_path], layout="hpa", pattern="{well}.tif")


def test_next_weeks_plate_is_read_by_the_same_layout_unless_told_otherwise(tmp_path):
    for week in (1, 2):
        for well in ("A01", "A02"):
            for w in (1, 2):
                write(tmp_path / f"w{week}" / f"P{week}_{well}_s1_w{w}.TIF", pixels(8, 8, seed=w + week))
                write(tmp_path / f"w{week}" / f"P{week}_{well}_s1_thumb_w{w}.TIF", pixels(2, 2))
    project = made(tmp_path / "p", [tmp_path / "w1"], channels=("DNA:nucleus", "GFP:protein"))
    assert [f.id for f in project.fields] == ["P1_A01_1", "P1_A02_1"]
    drain(add_fields(project, [tmp_path / "w2"]))
    assert [f.id for f in project.fields][2:] == ["P2_A01_1", "P2_A02_1"]
    assert project.history[-1]["layout"] == "imagexpress"
    write(tmp_path / "w3" / "B01-1.tif", pixels(8, 8))
    write(tmp_path / "w3" / "B01-2.tif", pixels(8, 8, seed=4))
    drain(add_fields(project, [tmp_path / "w3"], pattern="{well}-{channel}.tif"))
    assert project.fields[-1].id == "B01"


def test_time_counts_only_where_it_varies(tmp_path):
    for t in (1, 2):
        write(tmp_path / "in" / f"P_B03_T000{t}F001L01A01Z01C01.tif", pixels(8, 8, seed=t))
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert [(f.id, f.metadata["time"]) for f in project.fields] == [
        ("P_B03_001_t001", 1),
        ("P_B03_001_t002", 2),
    ]
    one = made(tmp_path / "q", [tmp_path / "in" / "P_B03_T0001F001L01A01Z01C01.tif"])
    assert one.fields[0].id == "P_B03_001"
    assert "time" not in one.fields[0].metadata


def test_load_data_beside_a_plate(tmp_path):
    images = tmp_path / "BR1" / "Images"
    for f in (1, 2):
        for ch in (1, 2):
            write(images / f"r01c01f0{f}p01-ch{ch}sk1fk1fl1.tiff", pixels(8, 8, seed=10 * f + ch))
    rows = [
        f"r01c01f0{f}p01-ch2sk1fk1fl1.tiff,/gone/BR1/Images,r01c01f0{f}p01-ch1sk1fk1fl1.tiff,/gone/BR1/Images,BR1,A01,{f},5"
        for f in (1, 2, 3)
    ]
    head = (
        "FileName_OrigDNA,PathName_OrigDNA,FileName_OrigMito,PathName_OrigMito,"
        "Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_Dose"
    )
    table = tmp_path / "load_data.csv"
    table.write_text("\n".join([head, *rows]))
    project = made(tmp_path / "p", [table, tmp_path / "BR1"])
    assert [(c.name, c.role) for c in project.channels] == [("DNA", "nucleus"), ("Mito", "mito")]
    assert [f.id for f in project.fields] == ["BR1_A01_1", "BR1_A01_2"]
    assert project.fields[1].metadata["Dose"] == "5"
    assert np.array_equal(project.read_image("BR1_A01_2")[1], pixels(8, 8, seed=21))
    assert "row (4) of load_data.csv are not there" in notes(project)


def test_label_images_beside_their_images_are_no_fields(tmp_path):
    for name in ("a_img", "a_mask", "b", "b_labels", "b_cp_masks", "mask", "c_mask"):
        write(tmp_path / "in" / f"{name}.png", pixels(160, 160))
    project = made(tmp_path / "p", [tmp_path / "in"], channels=("nucleus",))
    assert [f.id for f in project.fields] == [
        "a_img",
        "b",
        "c_mask",
        "mask",
    ]  # what c_mask would be of is not there
    assert "3 files (a_mask.png, b_cp_masks.png, b_labels.png) are label images of others" in " ".join(
        project.history[-1]["notes"]
    )
    found = drain(preview_import([tmp_path / "in"]))
    assert found["n_fields"] == 4
    assert "label images of others; left out" in found["hints"][0]
