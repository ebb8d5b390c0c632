from __future__ import annotations

import numpy as np
import pytest
import tifffile
from image_files import made, notes, ome, pixels, write

from napari_cellrep.jobs import drain
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.import_fields import preview_import


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


def test_planes_that_the_metadata_does_not_speak_of_are_told(tmp_path):
    for name in ("a", "b"):
        path = ome(tmp_path / "in" / f"{name}.ome.tif", pixels(2, 8, 8), "CYX", ("DAPI", "GFP"))
        text = tifffile.tiffcomment(path).replace('SizeC="2"', 'SizeC="1"')
        write(path, pixels(2, 8, 8), metadata=None, description=text.encode())
    ome(tmp_path / "whole" / "c.ome.tif", pixels(2, 8, 8), "CYX", ("DAPI", "GFP"))
    words = "a.ome.tif holds 2 planes and its metadata speaks of 1; the others are not read."
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert words in notes(project)
    assert words in drain(preview_import([tmp_path / "in"]))["hints"]
    assert "speaks of" not in notes(made(tmp_path / "q", [tmp_path / "whole"]))


def test_files_that_do_not_name_their_channels_beside_some_that_do(tmp_path):
    for i in range(2):
        ome(tmp_path / "in" / f"named{i}.ome.tif", pixels(2, 8, 8), "CYX", ("DAPI", "GFP"))
    for i in range(3):
        ome(tmp_path / "in" / f"bare{i}.tif", pixels(2, 8, 8), "CYX")
    project = made(tmp_path / "p", [tmp_path / "in"])
    assert (
        "name the channels (--channels; in the window: Channels) to take them in this order"
        in project.field("named0").problem
    )
    named = made(tmp_path / "q", [tmp_path / "in"], channels=("DNA", "protein"))
    assert len(named.usable_fields) == 5
