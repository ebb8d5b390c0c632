from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.data import open_project
from napari_cellrep.data.tables import read_metadata
from napari_cellrep.jobs import drain
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.import_fields import add_fields, import_arrays, import_fields, preview_import
from napari_cellrep.steps.relocate import relocate
from napari_cellrep.steps.sample import SAMPLE


def pixels(*shape: int, seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def write(path: Path, image: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        options.setdefault("photometric", "minisblack")
        tifffile.imwrite(path, image, **options)
    else:
        iio.imwrite(path, image)
    return path


def ome(path: Path, image: np.ndarray, axes: str, names: tuple[str, ...] = (), um: float = 0) -> Path:
    metadata = {"axes": axes}
    if names:
        metadata["Channel"] = {"Name": list(names)}
    if um:
        metadata |= {"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um}
    return write(path, image, ome=True, metadata=metadata)


def made(*args, **options):
    return drain(import_fields(*args, **options))


def notes(project) -> str:
    return " ".join(project.history[-1]["notes"])


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


# ---- patterns --------------------------------------------------------------------------------------


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


# ---- channels --------------------------------------------------------------------------------------


def test_channel_names_from_ome_and_pixel_size(tmp_path):
    ome(tmp_path / "in" / "a.ome.tif", pixels(2, 8, 8), "CYX", ("DAPI", "GFP"), um=0.325)
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert [c.name for c in project.channels] == ["DAPI", "GFP"]
    assert project.fields[0].um_per_px == pytest.approx(0.325)
    assert made(tmp_path / "q", [tmp_path / "in"], um_per_px=0.5).fields[0].um_per_px == 0.5


def test_field_whose_channels_differ_from_its_siblings(tmp_path):
    for i in range(3):
        ome(tmp_path / "in" / f"ok{i}.ome.tif", pixels(2, 8, 8, seed=i), "CYX", ("DAPI", "GFP"))
    ome(tmp_path / "in" / "three.ome.tif", pixels(3, 8, 8), "CYX", ("DAPI", "GFP", "RFP"))
    ome(tmp_path / "in" / "other.ome.tif", pixels(2, 8, 8), "CYX", ("DAPI", "RFP"))
    swapped = pixels(2, 8, 8)
    ome(tmp_path / "in" / "swapped.ome.tif", swapped, "CYX", ("GFP", "DAPI"))
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert {f.id for f in project.usable_fields} == {"ok0", "ok1", "ok2", "swapped"}
    assert "3 channels (DAPI, GFP, RFP); the others have 2" in project.field("three").problem
    assert "DAPI, RFP" in project.field("other").problem
    assert np.array_equal(project.read_image("swapped"), swapped[::-1])  # found by name
    with pytest.raises(InputError, match="import the field again"):
        project.read_image("three")


def test_wrong_number_of_channel_names(tmp_path):
    write(tmp_path / "a.tif", pixels(2, 8, 8))
    with pytest.raises(InputError, match="names for 3 channels"):
        made(tmp_path / "p", [tmp_path], channels=["a", "b", "c"])
    with pytest.raises(InputError, match="role"):
        made(tmp_path / "p", [tmp_path], channels=["a:b", "c"])
    with pytest.raises(InputError, match="two channels called"):
        made(tmp_path / "p", [tmp_path], channels=["a", "a"])


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


# ---- stacks and colour -----------------------------------------------------------------------------


def test_stacks_need_a_word(tmp_path):
    stack = pixels(3, 2, 16, 16)
    stack[1] = stack[1] // 2 + 100
    ome(tmp_path / "in" / "z.ome.tif", stack, "ZCYX", ("DNA", "GFP"))
    with pytest.raises(InputError, match="say how to flatten"):
        made(tmp_path / "a", [tmp_path / "in"])
    with pytest.raises(InputError, match="planes 0 to 2"):
        made(tmp_path / "a", [tmp_path / "in"], z="3")
    with pytest.raises(InputError, match="not 'median'"):
        made(tmp_path / "a", [tmp_path / "in"], z="median")
    with pytest.raises(InputError, match="no channel"):
        made(tmp_path / "a", [tmp_path / "in"], z="RFP=max")
    one = made(tmp_path / "b", [tmp_path / "in"], z="max")
    assert np.array_equal(one.read_image("z"), stack.max(axis=0))
    each = made(
        tmp_path / "c", [tmp_path / "in"], z="nucleus=1,GFP=mean", channels=["DNA:nucleus", "GFP:protein"]
    )
    image = each.read_image("z")
    assert np.array_equal(image[0], stack[1, 0])
    assert np.array_equal(image[1], stack[:, 1].mean(axis=0).round().astype(np.uint8))


def test_stack_of_files(tmp_path):
    planes = pixels(3, 2, 8, 8)
    for k in range(3):
        for c in range(2):
            write(tmp_path / "in" / f"A01_z{k + 8}_c{c}.tif", planes[k, c])
    pattern = "{well}_z{z}_c{channel}.tif"
    with pytest.raises(InputError, match="one of a stack of 3 planes"):
        made(tmp_path / "p", [tmp_path / "in"], pattern=pattern)
    project = made(tmp_path / "p", [tmp_path / "in"], pattern=pattern, z="0=max,1=2")
    image = project.read_image("A01")
    assert np.array_equal(image[0], planes[:, 0].max(axis=0))
    assert np.array_equal(image[1], planes[2, 1])  # z10 comes after z9


def test_unnamed_axis_is_what_the_user_says(tmp_path):
    image = pixels(3, 8, 8)
    write(tmp_path / "in" / "x.tif", image)
    assert len(made(tmp_path / "a", [tmp_path / "in"]).channels) == 3
    project = made(tmp_path / "b", [tmp_path / "in"], stack="z", z="max")
    assert np.array_equal(project.read_image("x"), image.max(axis=0)[None])


def test_one_stack_among_planes_is_that_fields_problem(tmp_path):
    for i in range(3):
        write(tmp_path / "in" / f"x{i}.tif", pixels(8, 8, seed=i))
    ome(tmp_path / "in" / "z.tif", pixels(4, 8, 8), "ZYX")
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert [f.id for f in project.fields if f.problem] == ["z"]


def test_colour_needs_a_word_unless_it_is_grey(tmp_path):
    colour = pixels(8, 8, 3)
    write(tmp_path / "colour" / "c.png", colour)
    with pytest.raises(InputError, match="colour image"):
        made(tmp_path / "a", [tmp_path / "colour"])
    grey = made(tmp_path / "b", [tmp_path / "colour"], rgb="grey")
    assert np.array_equal(grey.read_image("c")[0], colour.mean(axis=2).round().astype(np.uint8))
    split = made(tmp_path / "c", [tmp_path / "colour"], rgb="split")
    assert [c.name for c in split.channels] == ["red", "green", "blue"]
    assert np.array_equal(split.read_image("c"), colour.transpose(2, 0, 1))
    with pytest.raises(InputError, match="not 'lab'"):
        made(tmp_path / "d", [tmp_path / "colour"], rgb="lab")

    plane = pixels(8, 8)
    write(
        tmp_path / "grey" / "g.png", np.stack([plane, plane, plane, np.full_like(plane, 255)], axis=-1)
    )  # RGBA
    project = made(tmp_path / "e", [tmp_path / "grey"])
    assert len(project.channels) == 1
    assert np.array_equal(project.read_image("g")[0], plane)


def test_grey_saved_as_colour_one_file_per_channel(tmp_path):
    plane = pixels(8, 8)
    for c in "ab":
        write(tmp_path / "in" / f"f_{c}.png", np.stack([plane] * 3, axis=-1))
    project = made(tmp_path / "p", [tmp_path / "in"], pattern="{field}_{channel}.png")
    assert np.array_equal(project.read_image("f"), np.stack([plane, plane]))


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
    project = import_arrays(
        tmp_path / "p", images, channels, um_per_px=0.5, metadata={"my layer": {"well": "b3", "drug": "x"}}
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
    project = import_arrays(tmp_path / "p", {"a": image}, [Channel("c")])
    assert np.array_equal(project.read_image("a"), image)
    assert project.read_image("a").dtype == np.dtype(project.fields[0].dtype)


def test_arrays_of_the_wrong_kind(tmp_path):
    for images, words in (
        ({}, "no images"),
        ({"a": pixels(3, 8, 8)}, "shape"),
        ({"a": pixels(1, 8, 8).astype(complex)}, "complex"),
    ):
        with pytest.raises(InputError, match=words):
            import_arrays(tmp_path / "p", images, [Channel("c")])
    assert not list(tmp_path.iterdir())


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


# ---- layouts ---------------------------------------------------------------------------------------


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


def test_packed_tiffs_of_the_protein_atlas(tmp_path):
    import gzip

    images = {c: pixels(8, 8, seed=i) for i, c in enumerate(("blue", "green", "red", "yellow"))}
    for colour, image in images.items():
        plain = write(tmp_path / "in" / "x.tif", image)
        plain.with_name(f"1832_C1_2_{colour}.tif.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    project = made(tmp_path / "p", [tmp_path / "in"])
    (field,) = project.fields
    assert (field.id, field.metadata["well"]) == ("1832_C01_2", "C01")
    assert {c.role for c in project.channels} == {"nucleus", "protein", "microtubules", "er"}
    green = [c.role for c in project.channels].index("protein")
    assert np.array_equal(project.read_image(field.id)[green], images["green"])
    (tmp_path / "in" / "1832_C1_2_blue.tif.gz").write_bytes(gzip.compress(b"II*")[:-4])
    with pytest.raises(InputError, match="cannot be read as TIFF"):
        project.read_image(field.id)


def test_four_channels_of_a_png_and_their_mapping(tmp_path):
    write(tmp_path / "in" / "a.png", pixels(8, 8, 4))
    project = made(tmp_path / "p", [tmp_path / "in"], layout="hpa-rgba")
    assert [c.role for c in project.channels] == ["microtubules", "protein", "nucleus", "er"]
    assert np.array_equal(project.read_image("a"), np.moveaxis(pixels(8, 8, 4), -1, 0))
    other = made(tmp_path / "q", [tmp_path / "in"], rgb="rgba", channels=("a", "b", "c", "d:protein"))
    assert other.channels[3] == Channel("d", "protein")


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


def test_frames_of_one_file_named_by_load_data(tmp_path):
    stack = pixels(3, 8, 8)
    tif = write(tmp_path / "s.tif", stack)
    table = tmp_path / "t.csv"
    table.write_text(
        f"URL_A,Frame_A,URL_B,Frame_B\n{tif.as_uri()},2,{tif.as_uri()},0\n{tif.as_uri()},1,{tif.as_uri()},7\n"
    )
    project = made(tmp_path / "p", [table])
    assert np.array_equal(project.read_image("s"), stack[[2, 0]])
    assert "s.tif and s.tif would both be field s" in notes(project)


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
