"""Tables as labs have them, and which row is of which field."""

from __future__ import annotations

import datetime
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from napari_cellrep.data.fields import Field, read_fields, well_name, write_fields
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


def _workbook(path: Path, *rows: list, merged: tuple[str, ...] = ()) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cells in merged:
        book.active.merge_cells(cells)
    book.save(path)
    return path


@pytest.mark.parametrize("wells", [
    ["A001", "B012"], ["a1", "b12"], ["1-1", "2-12"], ["P1_A01", "P1_B12"], ["Plate 1 A1", "Plate 1 B12"], ["A:1", "B:12"],
    ["A - 1", "B - 12"], ["R1C1", "r02c12"], [" A1 ", "B12"],
])  # fmt: skip
def test_wells_as_people_write_them(tmp_path, wells):
    rows = "".join(f"{w},x\n" for w in wells)
    read = read_metadata(_csv(tmp_path, f"well,drug\n{rows}"))
    assert list(read["well"]) == ["A01", "B12"]
    assert ("plate" in read) == wells[0].startswith("P")
    if "plate" in read:
        assert set(read["plate"]) == {wells[0].rpartition("A")[0].rstrip("_ ")}


def test_a_plate_in_the_wells_does_not_replace_the_column_plate(tmp_path):
    read = read_metadata(_csv(tmp_path, "plate,well\nBR1,P1_A01\n"))
    assert read.to_dict("list") == {"plate": ["BR1"], "well": ["A01"]}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_dates_instead_of_wells_are_a_sentence(tmp_path, kind):
    if kind == "csv":
        path = _csv(tmp_path, "well,drug\n01-Jan,x\n02-Jan,y\n")
    else:
        path = _workbook(
            tmp_path / "t.xlsx", ["well", "drug"], [datetime.datetime(2024, 1, 1), "x"], ["B2", "y"]
        )
    with pytest.raises(InputError, match=r"holds dates .* Write them as A01"):
        read_metadata(path)


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_two_columns_of_one_name_are_two(tmp_path, kind):
    if kind == "csv":
        path = _csv(tmp_path, "well,dose,dose\nA1,1,2\n")
    else:
        path = _workbook(tmp_path / "t.xlsx", ["well", "dose", "dose"], ["A1", 1, 2])
    assert read_metadata(path).to_dict("list") == {"well": ["A01"], "dose": [1], "dose_2": [2]}


def test_merged_cells_and_titles(tmp_path):
    path = _workbook(
        tmp_path / "t.xlsx", ["Screen of May"], ["well", "plate", "treatment", None, "notes"], [None, None, "drug", "dose", None],
        ["A1", "P1", "LY", 1, None], ["A2", None, "LY", 2, None], ["A3", "P2", "W", 3, "dry"],
        merged=("A1:E1", "A2:A3", "C2:D2", "B4:B5"),
    )  # fmt: skip
    read = read_metadata(path)
    assert read.drop(columns="notes").to_dict("list") == {
        "well": ["A01", "A02", "A03"], "plate": ["P1", "P1", "P2"], "drug": ["LY", "LY", "W"], "dose": [1, 2, 3],
    }  # fmt: skip
    assert list(read.index) == [2, 3, 4]  # rows 4 to 6 of the sheet
    read = read_metadata(_csv(tmp_path, "Screen of May,,\n\nwell;drug\nA1;x\n"))
    assert read.to_dict("list") == {"well": ["A01"], "drug": ["x"]}
    assert list(read.index) == [2]  # row 4


def test_truth_values_dates_and_empty_columns(tmp_path):
    read = read_metadata(_csv(tmp_path, "well,treated,none,when\nA1,True,,2024-05-05 00:00:00\nA2,False,,\n"))
    assert list(read["treated"]) == ["True", "False"]
    assert read["none"].isna().all()
    assert read["when"].tolist()[0] == "2024-05-05"
    fields, files = _fields("A01", "A02", "A03", well="")
    found = join_table(fields, files, tmp_path / "t.csv")
    write_fields(tmp_path / "f.parquet", found.fields)
    assert [f.metadata.get("treated") for f in read_fields(tmp_path / "f.parquet")] == ["True", "False", None]
    assert all("none" not in f.metadata for f in found.fields)


def test_the_index_of_a_parquet_is_a_column_where_it_says_something(tmp_path):
    path, values = tmp_path / "t.parquet", {"dose": [1, 2]}
    pd.DataFrame(values, index=pd.Index(["A1", "B2"], name="Well")).to_parquet(path)
    assert list(read_metadata(path)["well"]) == ["A01", "B02"]
    pd.DataFrame(values, index=["A1", "B2"]).to_parquet(path)
    assert list(read_metadata(path)["well"]) == ["A01", "B02"]
    pairs = pd.MultiIndex.from_tuples([("P1", "A1"), ("P1", "B2")], names=["plate", "well"])
    pd.DataFrame(values, index=pairs).to_parquet(path)
    assert read_metadata(path).to_dict("list") == {"plate": ["P1", "P1"], "well": ["A01", "B02"], **values}
    pd.DataFrame({"well": pd.Categorical(["A1", "B2"]), "ok": [True, None]}, index=[7, 9]).to_parquet(path)
    read = read_metadata(path)
    assert (list(read["well"]), list(read.index)) == (["A01", "B02"], [0, 1])


def test_a_row_with_too_many_values_is_told(tmp_path):
    with pytest.raises(
        InputError, match=r"Row 3 of t\.csv has 3 values and there are names for 2 columns.* comma in quotes"
    ):
        read_metadata(_csv(tmp_path, "well,drug\nA1,x\nA2,y,z\n"))
    with pytest.raises(InputError, match="Row 2 of"):
        read_metadata(_csv(tmp_path, "well,drug\n(1,1),x\n"))


@pytest.mark.slow
def test_a_large_workbook(tmp_path):
    """50,000 rows of 131 plates; every row is read and the fields of one plate find theirs."""
    n = 50_000
    wells = [f"{chr(65 + i % 384 // 24)}{i % 24 + 1}" for i in range(n)]
    table = pd.DataFrame({"plate": [f"P{i // 384}" for i in range(n)], "well": wells, "dose": range(n)})
    table.to_excel(tmp_path / "t.xlsx", index=False)
    fields = [Field(f"P7_{w}", (), metadata={"plate": "P7", "well": well_name(w)}) for w in wells[:384]]
    found = join_table(fields, [[Path(f"/x/{f.id}.tif")] for f in fields], tmp_path / "t.xlsx")
    assert [f.metadata["dose"] for f in found.fields] == list(range(7 * 384, 8 * 384))
    assert len(found.mistakes) == n - 384
    assert "(P0 A01, P0 A02" in found.notes[0]


@pytest.mark.parametrize(
    ("first", "heads"),
    [("well", ("well",)), ("", ("well",)), ("-", ("well",)), ("[text]", ("well",)), ("", ("row", "column"))],
)
def test_a_row_of_units_leaves_numbers_numbers(tmp_path, first, heads):
    wells = {"well": ("A01", "A02"), "row": ("A", "A"), "column": ("1", "2")}
    rows = [",".join((*heads, "drug", "dose")), ",".join((*(first for _ in heads), "name", "µM"))]
    rows += [",".join((*(wells[h][i] for h in heads), "LY", dose)) for i, dose in enumerate(("0.5", "10"))]
    table = _csv(tmp_path, "\n".join(rows) + "\n")
    fields, files = _fields("A01", "A02")
    fields = [Field(f.id, f.planes, metadata={"well": f.id}) for f in fields]
    joined = join_table(fields, files, table)
    assert [f.metadata["dose"] for f in joined.fields] == [0.5, 10]
    assert [row for row, _, _ in joined.mistakes] == [2]  # and the row is still told


def test_a_word_among_numbers_of_wells_stays_a_word(tmp_path):
    table = read_metadata(_csv(tmp_path, "well,dose\nA01,1\nA02,high\n,3\n"))
    assert table["dose"].tolist() == ["1", "high", "3"]


@pytest.mark.parametrize(("on", "names"), [("", ("p1", "p2")), ("id", ("p1", "p2")), ("", ("p1_x", "p2_x"))])
def test_a_column_that_holds_the_names_of_fields_is_joined_by(tmp_path, on, names):
    table = _csv(tmp_path, "id,kind,n\n" + "".join(f"{n},odd,{i}\n" for i, n in enumerate((*names, "p9"))))
    fields, files = _fields("p1_x", "p2_x")
    joined = join_table(fields, files, table, on)
    assert [f.metadata["n"] for f in joined.fields] == [0, 1]
    assert [f.metadata["id"] for f in joined.fields] == list(names)
    assert "by its column id" in joined.notes[0]
    assert joined.mistakes == [(4, "p9", "no field belongs to it")]


def test_a_column_that_names_few_fields_is_not_guessed(tmp_path):
    table = _csv(tmp_path, "id,kind\np1_x,odd\nelse,odd\n")
    fields, files = _fields("p1_x", "p2_x", "p3_x")
    with pytest.raises(InputError, match=r"columns are id, kind; a field here is called p1_x"):
        join_table(fields, files, table)
    assert join_table(fields, files, table, "id").matched == ("p1_x",)
