"""Tables as labs have them, and which row is of which field."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from napari_cellrep.data.fields import Field
from napari_cellrep.data.tables import join_table, read_metadata
from napari_cellrep.specs import InputError

TABLE = pd.DataFrame({"Well": ["A1", "B02"], "Dose": [0.5, 10], "Compound": ["DMSO", "Größe"]})


@pytest.mark.parametrize("kind", ["xlsx", "parquet", "bom", "semicolon", "latin-1", "tab"])
def test_one_table_in_every_form(tmp_path, kind):
    path = tmp_path / f"table.{kind if kind in ('xlsx', 'parquet') else 'csv'}"
    if kind == "xlsx":
        TABLE.to_excel(path, index=False)
    elif kind == "parquet":
        TABLE.to_parquet(path)
    elif kind == "bom":
        TABLE.to_csv(path, index=False, encoding="utf-8-sig")
    elif kind == "tab":
        TABLE.to_csv(path, index=False, sep="\t")
    else:
        TABLE.to_csv(
            path, index=False, sep=";", decimal=",", encoding="latin-1" if kind == "latin-1" else "utf-8"
        )
    read = read_metadata(path)
    assert read.to_dict("list") == {
        "well": ["A01", "B02"],
        "Dose": [0.5, 10.0],
        "Compound": ["DMSO", "Größe"],
    }
    assert list(read.index) == [0, 1]


def test_excel_with_a_title_an_empty_sheet_and_gaps(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["only a note"])
    sheet = book.create_sheet("legend")
    sheet.append(["word", "meaning"])
    sheet.append(["neg", "control"])
    sheet = book.create_sheet("plate")
    for row in ([], ["Plate", "Row", "Column", "conc", None], [1, "A", 1, 5], [], [1, "H", 12.0, None]):
        sheet.append(row)
    book.save(tmp_path / "t.xlsx")
    read = read_metadata(tmp_path / "t.xlsx")
    assert list(read["well"]) == ["A01", "H12"]
    assert list(read["plate"]) == ["1", "1"]
    assert read["conc"].tolist()[0] == 5
    assert list(read.index) == [1, 3]  # rows 3 and 5 of the sheet


@pytest.mark.parametrize(("name", "content", "words"), [
    ("t.xlsx", b"no zip", r"The table t.xlsx cannot be read"), ("t.parquet", b"PAR", r"The table t.parquet cannot be read"),
    ("t.xls", b"", r"save it as .xlsx or .csv"), ("t.csv", b"", r"has no rows"), ("t.csv", b"well,dose\n,\n", r"has no rows"),
])  # fmt: skip
def test_what_is_no_table_is_said(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_metadata(tmp_path / name)


def _fields(*names: str, folder: str = "/x", **known: str) -> tuple[list[Field], list[list[Path]]]:
    fields = [Field(n, (), metadata=dict.fromkeys(known, n)) for n in names]
    return fields, [[Path(folder) / f"{n}.tif"] for n in names]


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_by_the_beginning_of_the_file_name_the_longest_counts(tmp_path):
    fields = [Field(n, ()) for n in ("57_F11_1", "57_F1_1", "58_A01_2")]
    files = [[Path(f"/x/{f.id}_{c}.png") for c in ("blue", "green")] for f in fields]
    found = join_table(fields, files, _csv(tmp_path, "file,gene\n57_F1,a\n57_F11,b\n57,c\n59,d\n"))
    assert [f.metadata.get("gene") for f in found.fields] == ["b", "a", None]
    assert found.matched == ("57_F11_1", "57_F1_1")
    assert found.mistakes == [(4, "57", "no field belongs to it"), (5, "59", "no field belongs to it")]
    found = join_table(fields, files, _csv(tmp_path, "prefix,gene\n57,c\n58_A,d\n58,e\n"))
    assert [f.metadata.get("gene") for f in found.fields] == [
        "c",
        "c",
        "e",
    ]  # 58_A01 does not begin with the word 58_A


def test_mistakes_are_told_by_row(tmp_path):
    fields, files = _fields("A01", "A02", well="")
    path = _csv(tmp_path, "well,drug\nA1,x\n\nA01,y\nZ09,z\n,w\n")
    found = join_table(fields, files, path)
    assert [f.metadata.get("drug") for f in found.fields] == ["x", None]
    assert found.mistakes == [
        (4, "A01", "row 2 is of the same well, and was used"), (5, "Z09", "no field belongs to it"),
        (6, "–", "well is not filled in"),
    ]  # fmt: skip


def test_plates_by_the_name_of_a_folder(tmp_path):
    fields = [Field(f"{p}_A01", (), metadata={"well": "A01"}) for p in ("p1", "p2", "p3")]
    files = [[Path("/x/p1/A01.tif")], [Path("/x/P2__2024-01-01/Images/A01.tif")], [Path("/x/p33/A01.tif")]]
    found = join_table(fields, files, _csv(tmp_path, "plate,well,drug\np1,A01,x\np2,A01,y\np3,A01,z\n"))
    assert found.by == ("plate", "well")
    assert [f.metadata.get("drug") for f in found.fields] == ["x", "y", None]
    assert [f.metadata.get("plate") for f in found.fields] == ["p1", "p2", None]
