"""Harmony's index, written as its versions write it."""

import numpy as np
import pytest
import tifffile

from napari_cellrep.data.harmony import Index, find_index, read_index
from napari_cellrep.data.layouts import find_layout, stain_of
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.import_fields import add_fields, import_fields
from napari_cellrep.steps.sample import SAMPLE

V7 = "43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7"
V5 = "http://www.perkinelmer.com/PEHH/HarmonyV5"


def write_index(path, channels, plate="240624_A", newest=True, sites=(1, 2), um=0.299):
    """An index as HarmonyV7 (channels in a map) or HarmonyV5 (each image says all) writes it, of well B03."""
    about = (
        "<ChannelName>{name}</ChannelName><ImageResolutionX Unit='m'>{m}</ImageResolutionX>"
        "<ImageResolutionY Unit='m'>{m}</ImageResolutionY>"
    )
    said = {n: about.format(name=name, m=um * 1e-6) for n, name in channels.items()}
    images = "".join(
        f"<Image Version='1'><id>0203K1F{site}P1R{n}</id><State>Ok</State><URL>r02c03f{site:02d}p01-ch{n}sk1fk1fl1.tiff</URL>"
        f"<Row>2</Row><Col>3</Col><FieldID>{site}</FieldID><PlaneID>1</PlaneID><ChannelID>{n}</ChannelID>"
        f"{'' if newest else said[n]}<PositionX Unit='m'>{(site - 1) * 0.0003}</PositionX>"
        "<PositionY Unit='m'>-0.0003</PositionY></Image>"
        for site in sites
        for n in channels
    )
    flat = "".join(
        f"<Entry ChannelID='{n}'><FlatfieldProfile>{{ChannelName: {name}}}</FlatfieldProfile></Entry>"
        for n, name in channels.items()
    )
    entries = "".join(f"<Entry ChannelID='{n}'>{text}</Entry>" for n, text in said.items())
    maps = f"<Map>{flat}</Map>" + (f"<Map>{entries}</Map>" if newest else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<?xml version='1.0' encoding='utf-8'?><EvaluationInputData Version='2' xmlns='{V7 if newest else V5}'><User>x</User>"
        f"<Plates><Plate><PlateID>{plate}</PlateID><Name>{plate}</Name><Well id='0203'/></Plate></Plates>"
        f"<Wells><Well><id>0203</id><Row>2</Row><Col>3</Col><Image id='0203K1F1P1R1'/></Well></Wells>"
        f"<Maps>{maps}</Maps><Images>{images}</Images></EvaluationInputData>",
        encoding="utf-8-sig",
    )


def write_images(folder, channels, sites=(1, 2)):
    """Real pixels: a plane of the sample's nuclei for Hoechst, of its protein for the others."""
    well = tifffile.imread(SAMPLE / "wells" / "A01.ome.tif")[:, :64, :64]
    for site in sites:
        for n, name in channels.items():
            plane = well[1 if "HOECHST" in name else 0]
            tifffile.imwrite(
                folder / f"r02c03f{site:02d}p01-ch{n}sk1fk1fl1.tiff", np.ascontiguousarray(plane)
            )


STAINS = {"1": "Alexa 647", "2": "Alexa 488", "3": "HOECHST 33342"}


@pytest.mark.parametrize(("newest", "name"), [(True, "Index.xml"), (False, "Index.idx.xml")])
def test_an_index_of_either_version_is_read(tmp_path, newest, name):
    assert find_index(tmp_path) is None
    write_index(tmp_path / name, STAINS, newest=newest)
    assert find_index(tmp_path) == tmp_path / name
    index = read_index(tmp_path / name)
    assert index.plate == "240624_A"
    assert index.channels == STAINS
    assert index.um_per_px == pytest.approx(0.299)
    assert index.positions["r02c03f02p01-ch1sk1fk1fl1.tiff"] == pytest.approx((300, -300))
    assert len(index.positions) == 6


def test_what_is_no_index_is_told(tmp_path):
    path = tmp_path / "Images" / "Index.xml"
    write_index(path, STAINS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"Index.xml in Images cannot be read"):
        read_index(path)
    path.write_text("<images/>")
    with pytest.raises(InputError, match="no index of Harmony's"):
        read_index(path)
    path.write_text(
        "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;&b;'>]><EvaluationInputData>&c;</EvaluationInputData>"
    )
    with pytest.raises(InputError, match="entities"):
        read_index(path)


def test_import_takes_channels_pixel_size_positions_and_plate_from_it(tmp_path):
    images = tmp_path / "measured" / "Images"
    write_index(images / "Index.xml", STAINS)
    write_images(images, STAINS)
    project = drain(import_fields(tmp_path / "p", [tmp_path / "measured"]))
    assert [(c.name, c.role) for c in project.channels] == [
        ("Alexa 647", "other"), ("Alexa 488", "protein"), ("HOECHST 33342", "nucleus"),
    ]  # fmt: skip
    one, two = project.fields
    assert one.um_per_px == pytest.approx(0.299)
    assert two.metadata["well"] == "B03"
    assert two.metadata["plate"] == "measured"  # the folder's name is what a person sees
    assert (two.metadata["stage_x_um"], two.metadata["stage_y_um"]) == pytest.approx((300, -300))
    assert "Index.xml" in project.history[-1]["notes"][0]
    said = drain(import_fields(tmp_path / "q", [images], um_per_px=0.5, channels=("A", "B", "C:nucleus")))
    assert said.fields[0].um_per_px == 0.5  # what a person says goes first
    assert [c.name for c in said.channels] == ["A", "B", "C"]
    (images / "Index.xml").write_text("<images/>")
    without = drain(import_fields(tmp_path / "r", [images]))
    assert any("no index of Harmony's" in note for note in without.history[-1]["notes"])
    assert without.fields[0].um_per_px == 0


def test_plates_that_number_their_channels_differently_are_put_together_by_name(tmp_path):
    turned = {"1": "HOECHST 33342", "2": "Alexa 647", "3": "Alexa 488"}
    for name, channels in (("P1", STAINS), ("P2", turned)):
        images = tmp_path / "in" / f"{name}__2024-01-01" / "Images"
        write_index(images / "Index.xml", channels, plate=name)
        write_images(images, channels)
    project = drain(import_fields(tmp_path / "p", [tmp_path / "in"]))
    nuclei = [project.read_image(f.id)[2] for f in project.fields]
    assert len(nuclei) == 4
    assert all(np.array_equal(plane, nuclei[0]) for plane in nuclei)
    assert any("other numbers" in note for note in project.history[-1]["notes"])
    week = drain(import_fields(tmp_path / "q", [tmp_path / "in" / "P1__2024-01-01"]))
    drain(add_fields(week, [tmp_path / "in" / "P2__2024-01-01"]))
    assert all(np.array_equal(week.read_image(f.id)[2], nuclei[0]) for f in week.fields)


def test_cell_paintings_dyes_get_their_channels_whatever_their_numbers():
    jump = find_layout("jump")
    names = (
        "HOECHST 33342",
        "Alexa 647",
        "Alexa 568",
        "488 long",
        "488 650",
        "Alexa 488",
        "Brightfield high",
    )
    assert [stain_of(name, jump) for name in names] == [
        "DNA:nucleus", "Mito:mito", "AGP:agp", "RNA:rna", "RNA:rna", "ER:er", "Brightfield high:brightfield",
    ]  # fmt: skip
    assert stain_of("Alexa 568", find_layout("opera")) == "Alexa 568:other"
    assert Index(SAMPLE).um_per_px == 0
