"""CellProfiler's LoadData tables."""

from __future__ import annotations

import pytest

from napari_cellrep.data.load_data import is_load_data, read_load_data
from napari_cellrep.specs import InputError


def _files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return [folder / n for n in names]


def test_a_table_from_another_machine_finds_its_files_by_name_and_folder(tmp_path):
    one = _files(tmp_path / "images" / "P1" / "Images", "a_dna.tif", "a_er.tif")
    two = _files(tmp_path / "images" / "P2" / "Images", "a_dna.tif", "a_er.tif")
    table = tmp_path / "tables" / "load_data.csv"
    table.parent.mkdir()
    head = (
        "FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER,FileName_IllumDNA,PathName_IllumDNA,"
        "Metadata_Plate,Metadata_Well,Metadata_Site,Metadata_Drug"
    )
    rows = [
        f"a_dna.tif,/home/u/{p}/Images/,a_er.tif,/home/u/{p}/Images/,i.npy,/home/u,{p},A01,1,DMSO"
        for p in ("P1", "P2", "P3")
    ]
    rows[2] = rows[2].replace("a_", "lost_")
    table.write_text("\n".join([head, *rows]), encoding="utf-8-sig")
    assert is_load_data(table)
    listed, notes = read_load_data(table, [*one, *two])
    assert [dict(x.files) for x in listed] == [
        {"DNA": one[0], "ER": one[1]},
        {"DNA": two[0], "ER": two[1]},
    ]
    assert listed[0].metadata == {"plate": "P1", "well": "A01", "site": "1", "Drug": "DMSO"}
    assert notes == ["The files of 1 row (4) of load_data.csv are not there; left out."]
    with pytest.raises(InputError, match=r"None of the files .* give the folder where they are now, too"):
        read_load_data(table)


def test_urls_frames_and_series(tmp_path):
    (file,) = _files(tmp_path / "my images", "stack.tif")
    table = tmp_path / "t.csv"
    table.write_text(
        f"URL_DNA,Frame_DNA,URL_GFP,Frame_GFP,Series_GFP\n{file.as_uri()},0,{file.as_uri()},1,0\n"
        f"{file.as_uri()},0,{file.as_uri()},1,2\n"
    )
    listed, _ = read_load_data(table)
    assert dict(listed[0].files) == {"DNA": file, "GFP": file / "scene-1"}
    assert dict(listed[1].files) == {"DNA": file, "GFP": file / "scene-3"}
    assert dict(listed[0].pages) == {"DNA": 0, "GFP": 1}
    assert listed[1].folder == file.parent
    table.write_text("URL_DNA\ns3://cellpainting-gallery/x/a.tiff\n")
    with pytest.raises(InputError, match=r"such as s3://cellpainting-gallery/x/a\.tiff\); download them and"):
        read_load_data(table)


def test_other_tables_are_none(tmp_path):
    for text in ("well,dose\nA01,1\n", "", "Metadata_Well\nA01\n"):
        (tmp_path / "t.csv").write_text(text)
        assert not is_load_data(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("FileName_IllumDNA\nx.npy\n")
    with pytest.raises(InputError, match="names no images"):
        read_load_data(tmp_path / "t.csv")
