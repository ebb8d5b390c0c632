from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from image_files import made, notes, pixels, write

from napari_cellrep.data import open_project, slides
from napari_cellrep.data.tables import read_metadata
from napari_cellrep.jobs import drain
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.import_fields import add_fields, import_arrays, import_fields, preview_import
from napari_cellrep.steps.relocate import relocate
from napari_cellrep.steps.sample import SAMPLE

# ---- which files -----------------------------------------------------------------------------------


def test_real_plate(shared, tmp_path):
    bbbc = shared / "data" / "bbbc013"
    seen = []
    job = import_fields(
        tmp_path / "p",
        [bbbc / "wells"],
        channels=("FKHR-GFP:protein", "DNA:nucleus"),
        metadata=bbbc / "plate.csv",
    )
    project = drain(job, seen.append)
    assert len(project.fields) == 48
    assert not any(f.problem for f in project.fields)
    assert len(seen) >= 48
    assert seen[-1].done == seen[-1].total
    a05 = project.field("A05")
    assert (a05.group, a05.metadata["compound"], a05.metadata["dose_rank"]) == ("A05", "Wortmannin", 3)
    assert isinstance(a05.metadata["dose_rank"], int)
    assert [c.role for c in project.channels] == ["protein", "nucleus"]
    assert np.array_equal(project.read_image("A05"), tifffile.imread(bbbc / "wells" / "A05.ome.tif"))
    assert open_project(project.root).fields == project.fields
    assert notes(project) == ""


def test_nothing_on_disk_when_stopped(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.tif", pixels(8, 8, seed=i))
    job = import_fields(tmp_path / "p", [tmp_path])
    next(job)
    next(job)
    job.close()
    assert not list(tmp_path.glob("*cellrep*"))
    assert not list(tmp_path.glob(".*"))


def test_project_and_images_move_together(tmp_path):
    image = pixels(8, 8)
    write(tmp_path / "work" / "images" / "x.tif", image)
    project = made(tmp_path / "work" / "p", [tmp_path / "work" / "images"])
    assert project.field("x").planes[0].path == "../images/x.tif"
    (tmp_path / "work").rename(tmp_path / "moved")
    assert np.array_equal(open_project(tmp_path / "moved" / "p.cellrep").read_image("x")[0], image)
    other = made(tmp_path / "elsewhere" / "q", [tmp_path / "moved" / "images"])
    assert Path(other.field("x").planes[0].path).is_absolute()  # the project may move alone


def test_same_names_in_different_folders(tmp_path):
    for plate in ("p1", "p2"):
        write(tmp_path / "in" / plate / "img.tif", pixels(8, 8))
    write(tmp_path / "in" / "IMG2.tif", pixels(8, 8))
    write(tmp_path / "in" / "img2.png", pixels(8, 8))
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert sorted(f.id for f in project.fields) == ["IMG2", "p1_img", "p2_img"]
    assert "img2.png and IMG2.tif would both be field" in notes(project)


# ---- bad fields ------------------------------------------------------------------------------------


def test_one_bad_field_never_stops_the_others(tmp_path):
    folder = tmp_path / "in"
    write(folder / "good.tif", pixels(40, 40))
    write(folder / "black.tif", np.zeros((40, 40), np.uint8))
    write(folder / "nan.tif", np.full((40, 40), np.nan, np.float32))
    (folder / "empty.tif").touch()
    (folder / "text.tif").write_text("this is no image")
    cut = write(folder / "cut.tif", pixels(40, 40), compression=None)
    cut.write_bytes(cut.read_bytes()[:-400])
    png = write(folder / "half.png", pixels(40, 40))
    png.write_bytes(png.read_bytes()[:300])
    project = made(tmp_path / "p", [folder, folder / "gone.tif"])
    problems = {f.id: f.problem for f in project.fields}
    assert [k for k, v in problems.items() if not v] == ["good"]
    words = {
        "black": "all black", "nan": "NaN", "empty": "0 bytes", "text": "cannot be read", "cut": "cut short",
        "half": "cannot be read", "gone": "is not there",
    }  # fmt: skip
    for name, word in words.items():
        assert word in problems[name], (name, problems[name])
    assert project.history[-1]["n_unusable"] == len(words) == len(project.history[-1]["problems"])
    for name in words:
        with pytest.raises(InputError):
            project.read_image(name)


def test_nothing_usable_is_an_error(tmp_path):
    write(tmp_path / "in" / "black.tif", np.zeros((8, 8), np.uint8))
    (tmp_path / "in" / "empty.tif").touch()
    with pytest.raises(InputError, match=r"None of the fields can be used: .*black.* 1 more"):
        made(tmp_path / "p", [tmp_path / "in"])
    with pytest.raises(InputError, match="is not there"):
        made(tmp_path / "p", [tmp_path / "missing.tif"])
    assert not (tmp_path / "p.cellrep").exists()


def test_real_formats_of_others(shared, tmp_path):
    """JPEG inside TIFF with four frames; a YXS uint16 stack of ImageJ; single-channel JPEGs of one field."""
    misc = shared / "data" / "misc_small"
    duloc = sorted((shared / "data" / "duloc_hpa" / "images").glob("*_blue.jpg"))[0].name.removesuffix(
        "_blue.jpg"
    )
    project = made(
        tmp_path / "hpa", [shared / "data" / "duloc_hpa" / "images" / f"{duloc}_*.jpg"],
        pattern="{field}_{channel}.jpg", channels=["blue=DNA:nucleus", "green=protein", "red=microtubules", "yellow=er"],
    )  # fmt: skip
    assert project.read_image(duloc).shape[0] == 4
    assert [c.role for c in project.channels] == ["nucleus", "protein", "microtubules", "er"]
    frames = made(tmp_path / "eb", [misc / "ebimage_nuclei.tif"], stack="z", z="0")
    assert frames.read_image("ebimage_nuclei").shape == (1, 510, 510)
    hela = made(tmp_path / "ij", [misc / "imagej_hela-cells.tif"], rgb="split")
    assert hela.read_image("imagej_hela-cells").shape == (3, 512, 672)
    assert hela.fields[0].dtype == "uint16"


# ---- the lab's table -------------------------------------------------------------------------------


def plate(tmp_path: Path) -> Path:
    for well in ("A1", "A02", "H12"):
        write(tmp_path / "in" / f"{well}.tif", pixels(8, 8))
    return tmp_path / "in"


@pytest.mark.parametrize(("text", "encoding"), [
    ("Well,drug,dose µM\na1,Nocodazole,0.5\nA2,DMSO,\nB7,x,1\n", "utf-8"),
    ("\ufeffWell,drug,dose µM\r\nA01,Nocodazole,0.5\r\nA02,DMSO,\r\nB7,x,1\r\n", "utf-8"),
    ("Well;drug;dose µM\nA01;Nocodazole;0,5\nA02;DMSO;\nB7;x;1\n", "latin-1"),
    ("Well\tdrug\tdose µM\nA-01\tNocodazole\t0.5\nA02\tDMSO\tNA\nB7\tx\t1\n", "utf-16"),
])  # fmt: skip
def test_tables_as_labs_write_them(tmp_path, text, encoding):
    table = tmp_path / "plate.csv"
    table.write_bytes(text.encode(encoding))
    project = made(tmp_path / "p", [plate(tmp_path)], metadata=table)
    assert [f.id for f in project.fields] == ["A1", "A02", "H12"]
    first = project.fields[0].metadata
    assert first == {"well": "A01", "drug": "Nocodazole", "dose µM": 0.5}
    assert project.fields[1].metadata == {"well": "A02", "drug": "DMSO"}
    assert "no row for 1 field (H12)" in notes(project)
    assert "1 row (B07)" in notes(project)
    assert open_project(project.root).fields[0].metadata == first


def test_table_by_file_field_or_a_column_of_choice(tmp_path):
    for name in ("left.ome.tif", "right.ome.tif"):
        write(tmp_path / "in" / name, pixels(8, 8))
    by_file = tmp_path / "f.csv"
    by_file.write_text("FileName,protein\nC:\\data\\LEFT.ome.tif,AAC1\nright.ome.tif,AAC3\n")
    assert [
        f.metadata["protein"] for f in made(tmp_path / "a", [tmp_path / "in"], metadata=by_file).fields
    ] == ["AAC1", "AAC3"]
    by_field = tmp_path / "g.csv"
    by_field.write_text("field,protein\nleft,AAC1\nright,AAC3\n")
    project = made(tmp_path / "b", [tmp_path / "in"], metadata=by_field, group_by=["protein"])
    assert [f.group for f in project.fields] == ["AAC1", "AAC3"]
    own = tmp_path / "h.csv"
    own.write_text("side,well,protein\nleft,A01,AAC1\nright,A02,AAC3\n")
    project = made(tmp_path / "c", [tmp_path / "in"], metadata=own, on="side", pattern="{side}.ome.tif")
    assert [f.metadata["well"] for f in project.fields] == ["A01", "A02"]
    for on, words in (("colour", "no column 'colour'"), ("protein", "have no 'protein'")):
        with pytest.raises(InputError, match=words):
            made(tmp_path / "d", [tmp_path / "in"], metadata=own, on=on)
    guessed = made(tmp_path / "f", [tmp_path / "in"], metadata=own)  # the column that names the files
    assert [f.metadata["well"] for f in guessed.fields] == ["A01", "A02"]
    assert "joined by its column side" in notes(guessed)
    own.write_text("protein,dose\nAAC1,1\nAAC3,2\n")
    with pytest.raises(InputError, match="cannot be joined"):
        made(tmp_path / "d", [tmp_path / "in"], metadata=own)
    with pytest.raises(InputError, match="no column 'drug' to group by"):
        made(tmp_path / "d", [tmp_path / "in"], group_by=["drug"])
    with pytest.raises(InputError, match="cannot be read"):
        made(tmp_path / "d", [tmp_path / "in"], metadata=tmp_path / "no.csv")
    (tmp_path / "e.csv").write_text("well\n")
    with pytest.raises(InputError, match="has no rows"):
        made(tmp_path / "d", [tmp_path / "in"], metadata=tmp_path / "e.csv")


def test_plates_and_sites(tmp_path):
    for p in ("001", "2"):
        for s in (1, 2):
            write(tmp_path / "in" / f"{p}_A1_s{s}.tif", pixels(8, 8))
    table = tmp_path / "t.csv"
    pd.DataFrame({"Plate": ["001", "2"], "Well": ["A01", "a1"], "dose": [1, 2]}).to_csv(table, index=False)
    project = made(tmp_path / "p", [tmp_path / "in"], pattern="{plate}_{well}_s{site}.tif", metadata=table)
    assert {f.id: f.metadata["dose"] for f in project.fields} == {
        "001_A01_1": 1,
        "001_A01_2": 1,
        "2_A01_1": 2,
        "2_A01_2": 2,
    }
    assert {f.group for f in project.fields} == {"001 A01", "2 A01"}
    pd.DataFrame({"plate": ["001"] * 2, "well": ["A1"] * 2, "site": ["01", "02"], "x": [5, 6]}).to_csv(
        table, index=False
    )
    project = made(tmp_path / "q", [tmp_path / "in"], pattern="{plate}_{well}_s{site}.tif", metadata=table)
    assert project.field("001_A01_2").metadata["x"] == 6
    assert "x" not in project.field("2_A01_2").metadata
    pd.DataFrame({"well": ["A1", "A1"], "x": [5, 6]}).to_csv(table, index=False)
    project = made(tmp_path / "r", [tmp_path / "in"], pattern="{plate}_{well}_s{site}.tif", metadata=table)
    assert "different rows for" in notes(project)


def test_columns_that_would_clash_are_renamed(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("well,group,label,µg/ml,q_focus,flags\nA1,g,l,2,3,f\nA2,g,l,2,3,f\nH12,g,l,2,3,f\n")
    project = made(tmp_path / "p", [plate(tmp_path)], metadata=table)
    assert set(project.fields[0].metadata) == {
        "well",
        "meta_group",
        "meta_label",
        "µg_ml",
        "meta_q_focus",
        "meta_flags",
    }
    assert project.fields[0].group == "A01"
    assert open_project(project.root).fields == project.fields


def test_text_columns_that_look_odd(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text('well,name,n\nA1,"a, b",1\nA2,"None",2\n')
    frame = read_metadata(table)
    assert frame["name"].tolist() == ["a, b", "None"]
    assert frame["n"].tolist() == [1, 2]


# ---- arrays and later plates -----------------------------------------------------------------------


def test_arrays_become_a_project(tmp_path):
    images = {"my layer": pixels(2, 9, 8, dtype="uint16"), "two/b": pixels(2, 7, 7, dtype="uint16")}
    channels = [Channel("GFP", "protein"), Channel("DNA", "nucleus")]
    project = drain(
        import_arrays(
            tmp_path / "p",
            images,
            channels,
            um_per_px=0.5,
            metadata={"my layer": {"well": "b3", "drug": "x"}},
        )
    )
    assert [f.id for f in project.fields] == ["my_layer", "two_b"]
    assert project.fields[0].metadata["well"] == project.fields[0].group == "B03"
    (tmp_path / "p.cellrep").rename(tmp_path / "q.cellrep")
    moved = open_project(tmp_path / "q")
    assert np.array_equal(moved.read_image("two_b"), images["two/b"])
    with tifffile.TiffFile(tmp_path / "q.cellrep" / "images" / "two_b.ome.tif") as tif:
        assert tif.is_ome
        assert "GFP" in tif.ome_metadata
    assert not list((tmp_path / "q.cellrep" / "images").glob(".*"))


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int64", "int16", "uint32", ">u2"])
def test_arrays_of_any_kind(tmp_path, dtype):
    image = (pixels(1, 9, 8) > 100 if dtype == "bool" else pixels(1, 9, 8)).astype(dtype)
    project = drain(import_arrays(tmp_path / "p", {"a": image}, [Channel("c")]))
    assert np.array_equal(project.read_image("a"), image)
    assert project.read_image("a").dtype == np.dtype(project.fields[0].dtype)


def test_arrays_of_the_wrong_kind(tmp_path):
    for images, words in (
        ({}, "no images"),
        ({"a": pixels(3, 8, 8)}, "planes 8 × 8"),
        ({"a": pixels(1, 8, 8).astype(complex)}, "complex"),
    ):
        with pytest.raises(InputError, match=words):
            drain(import_arrays(tmp_path / "p", images, [Channel("c")]))
    assert not list(tmp_path.iterdir())


def test_arrays_are_read_when_their_turn_comes_and_large_ones_in_rows_of_tiles(tmp_path, monkeypatch):
    image = pixels(2, 2500, 1100, dtype="uint16")
    asked = []

    def plane(c):
        def read(box):
            asked.append(box)
            return image[c, box[0] : box[2], box[1] : box[3]]

        return slides.LazyPlane(read, image.shape[1:], image.dtype)

    monkeypatch.setattr(slides, "BIG_PX", 1000 * 1000)
    channels = [Channel("a"), Channel("b")]
    job = import_arrays(tmp_path / "p", {"a": [plane(0), plane(1)]}, channels, sources=[{"file": "x.abc"}])
    next(job)
    assert not asked
    project = drain(job)
    assert np.array_equal(project.read_image("a"), image)
    assert max(y1 - y0 for y0, _, y1, _ in asked) == slides.CHUNK_PX
    assert len(asked) == 6
    assert project.last("import")["sources"] == [{"file": "x.abc"}]


def test_arrays_that_cannot_be_read_leave_nothing(tmp_path):
    def broken(box):
        raise OSError("the share has gone")

    plane = slides.LazyPlane(broken, (8, 8), "uint8")
    with pytest.raises(InputError, match=r"pixels of a cannot be read \(the share has gone\)"):
        drain(import_arrays(tmp_path / "p", {"a": [plane]}, [Channel("c")]))
    assert not list(tmp_path.iterdir())


def test_slides_that_cannot_be_decoded_in_parts_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "BIG_PX", 400)
    for name in ("a.png", "b.tif", "c.jpg"):
        write(tmp_path / "in" / name, pixels(30, 40))
    found = drain(preview_import([tmp_path / "in"], layout="none"))
    (hint,) = [h for h in found["hints"] if "decoded in parts" in h]
    assert hint.startswith(
        "a is 40 × 30 px, and 1 more are as large: PNG and JPEG cannot be decoded in parts"
    )
    project = made(tmp_path / "p", [tmp_path / "in"], layout="none")
    assert hint in project.history[-1]["notes"]


def test_add_next_weeks_plate(tmp_path):
    def week(name: str, wells: tuple[str, ...], seed: int) -> Path:
        for i, well in enumerate(wells):
            for c in (1, 2):
                write(tmp_path / name / f"{name}_{well}_w{c}.tif", pixels(8, 8, seed=seed + 10 * i + c))
        return tmp_path / name

    (tmp_path / "week1.csv").write_text("plate,well,drug\nweek1,A01,x\nweek1,A02,y\n")
    project = made(
        tmp_path / "p", [week("week1", ("A1", "A2"), 0)], pattern="{plate}_{well}_w{channel}.tif",
        channels=["2=GFP:protein", "1=DNA:nucleus"], metadata=tmp_path / "week1.csv",
    )  # fmt: skip
    folder = week("week2", ("A1",), 100)
    (folder / "week2_A2_w1.tif").touch()
    (tmp_path / "week2.csv").write_text("plate,well,drug\nweek2,A01,z\n")
    drain(add_fields(project, [folder], metadata=tmp_path / "week2.csv"))
    assert [f.id for f in project.fields] == ["week1_A01", "week1_A02", "week2_A01", "week2_A02"]
    assert project.field("week2_A01").metadata["drug"] == "z"
    assert project.field("week2_A01").group == "week2 A01"
    assert project.field("week1_A01").metadata["drug"] == "x"
    assert np.array_equal(project.read_image("week2_A01")[0], tifffile.imread(folder / "week2_A1_w2.tif"))
    assert project.field("week2_A02").problem
    for c in (1, 2):
        write(folder / f"week2_A2_w{c}.tif", pixels(8, 8, seed=c))
    drain(add_fields(project, [folder / "week2_A2_w*.tif"]))  # run again alone
    assert not project.field("week2_A02").problem
    assert len(project.fields) == 4
    with pytest.raises(InputError, match="already"):
        drain(add_fields(project, [folder]))
    with pytest.raises(InputError, match="no option"):
        drain(add_fields(project, [folder], colour="x"))
    assert open_project(project.root).fields == project.fields


# ---- before anything is made -----------------------------------------------------------------------


def test_a_preview_says_what_is_lacking_and_which_rows_fit_nothing(tmp_path):
    for well in ("A01", "A02", "A03"):
        for w in (1, 2):
            if (well, w) != ("A02", 2):
                write(tmp_path / "in" / f"P_{well}_s1_w{w}.tif", pixels(8, 8, seed=w))
    write(tmp_path / "in" / "notes.tif", pixels(8, 8))
    table = tmp_path / "t.csv"
    table.write_text("well,drug\nA1,x\nA2,y\nA3,z\nB7,lost\n")
    found = drain(preview_import([tmp_path / "in"], metadata=table))
    assert (found["n_files"], found["n_fields"], found["layout"]) == (6, 3, "imagexpress")
    assert found["why"].startswith("5 of 6 files are named as by ImageXpress")
    assert found["unfit"] == ["notes.tif"]
    assert found["fit"][0] == ("P_A01_s1_w1.tif", "plate P, well A01, site 1, channel 1")
    assert found["lacking"] == ["P_A02_1 has no file for channel 2."]
    assert found["mistakes"] == [(5, "B07", "no field belongs to it")]
    assert [row["problem"] for row in found["rows"]][1].startswith("It has no file for channel 2")
    with pytest.raises(InputError, match="The layout 'hpa' fits none of 6 files"):
        drain(preview_import([tmp_path / "in"], layout="hpa"))
    table.write_text("colour\nred\n")
    found = drain(preview_import([tmp_path / "in"], metadata=table))
    assert "t.csv cannot be joined" in found["table"][0]
    assert len(found["rows"]) == 3
    assert not list(tmp_path.glob("*.cellrep"))


def test_a_table_says_which_of_several_images_of_a_file_a_field_is(tmp_path):
    wells = [tifffile.imread(SAMPLE / "wells" / f"{w}.ome.tif")[:, :48, :48] for w in ("A01", "A06", "A12")]
    file = tmp_path / "in" / "plate.ome.tif"
    file.parent.mkdir()
    with tifffile.TiffWriter(file, ome=True) as tif:
        for well in wells:
            tif.write(np.ascontiguousarray(well), metadata={"axes": "CYX"}, photometric="minisblack")
    table = tmp_path / "in" / "load_data.csv"
    rows = [
        f"{file.name},0,{s},{file.name},1,{s},P,{w},1" for s, w in enumerate(("A01", "A06", "A12", "B01"))
    ]
    head = "FileName_GFP,Frame_GFP,Series_GFP,FileName_DNA,Frame_DNA,Series_DNA,Metadata_Plate,Metadata_Well,Metadata_Site"
    table.write_text("\n".join([head, *rows]))
    project = made(tmp_path / "p", [table])
    *good, bad = project.fields
    assert [f.id for f in good] == ["P_A01_1", "P_A06_1", "P_A12_1"]
    assert bad.problem == "plate.ome.tif has the images (series) 0 to 2; number 3 is not among them."
    for field, well in zip(good, wells, strict=True):
        np.testing.assert_array_equal(project.read_image(field.id), well[::-1])
    assert [c.name for c in project.channels] == ["DNA", "GFP"]
    assert project.missing() == []
    stamps = {f.id: project.pixels_of(f.id) for f in good}
    assert len(set(stamps.values())) == 3
    file.parent.rename(tmp_path / "moved")
    assert len(project.missing()) == 3
    assert drain(relocate(project, tmp_path / "moved")).found == 3
    np.testing.assert_array_equal(project.read_image("P_A12_1"), wells[2][::-1])
    assert project.pixels_of("P_A01_1") == stamps["P_A01_1"]
