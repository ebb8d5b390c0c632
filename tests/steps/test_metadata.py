"""Another table for a project that is there."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_fields import add_fields, import_fields
from napari_cellrep.steps.metadata import set_metadata
from napari_cellrep.steps.sample import SAMPLE
from napari_cellrep.steps.segment import segment


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    root = tmp_path_factory.mktemp("metadata")
    (root / "images").mkdir()
    for well in ("A01", "A06", "E12"):
        shutil.copy(SAMPLE / "wells" / f"{well}.ome.tif", root / "images")
    project = drain(
        import_fields(
            root / "p", [root / "images"], channels=("GFP:protein", "DNA:nucleus"), metadata=SAMPLE / "plate.csv"
        )
    )  # fmt: skip
    drain(segment(project))
    drain(crop(project))
    drain(embed(project, model="measurements"))
    return root


@pytest.fixture
def project(_made, tmp_path):
    shutil.copytree(_made, tmp_path / "lab")
    return open_project(tmp_path / "lab" / "p.cellrep")


@pytest.mark.slow
def test_a_new_table_replaces_what_the_first_said_and_keeps_the_cells(project, tmp_path):
    before = project.cells.copy()
    assert "dose_rank" in before.obs
    table = tmp_path / "new.xlsx"
    pd.DataFrame({"Well": ["A1", "A6", "H12"], "drug": ["none", "Wortmannin", "lost"]}).to_excel(table, index=False)  # fmt: skip
    result = drain(set_metadata(project, table))
    assert result.columns == ("drug",)
    assert "dose_rank" in result.dropped
    assert result.mistakes == ((4, "H12", "no field belongs to it"),)
    assert "has no row for 1 field (E12)" in result.notes[0]
    for where in (project, open_project(project.root)):
        obs = where.cells.obs
        assert obs.index.equals(before.obs.index)
        assert "dose_rank" not in obs
        assert obs.groupby(obs["field"].astype(str))["drug"].first().to_dict() == {
            "A01": "none", "A06": "Wortmannin", "E12": None,
        } or obs.loc[obs["field"] == "E12", "drug"].isna().all()  # fmt: skip
        np.testing.assert_array_equal(where.cells.obsm["X_measurements"], before.obsm["X_measurements"])
        assert where.field("A06").metadata["drug"] == "Wortmannin"
        assert "dose_rank" not in where.field("A06").metadata
    line = open_project(project.root).last("metadata")
    assert (line["by"], line["add"]) == (["well"], False)


def test_a_table_can_be_added_and_then_taken_over(project, tmp_path):
    table = tmp_path / "more.csv"
    table.write_text("file;batch;dose_rank\nA01.ome.tif;b1;7\nA06;b2;8\nE12;b1;9\n", encoding="latin-1")
    result = drain(set_metadata(project, table, add=True))
    assert result.columns == ("batch", "dose_rank")
    assert not result.dropped
    assert not result.notes
    obs = project.cells.obs
    assert set(obs["compound"].astype(str)) == {"Wortmannin", "LY294002"}
    assert obs.loc[obs["field"] == "A01", "dose_rank"].eq(7).all()  # the newer word counts
    drain(crop(project))  # measured again, the cells know the same
    assert set(project.cells.obs["batch"].astype(str)) == {"b1", "b2"}
    assert project.cells.obs["dose_rank"].dtype.kind == "i"


def test_a_table_that_fits_nothing_changes_nothing(project, tmp_path):
    before = (project.root / "fields.parquet").read_bytes(), project.cells.obs.copy()
    table = tmp_path / "other.csv"
    table.write_text("well,drug\nH01,x\nH02,y\n")
    with pytest.raises(
        InputError, match=r"No row of other.csv belongs to a field .* No field belongs to 2 rows"
    ):
        drain(set_metadata(project, table))
    table.write_text("colour,drug\nred,x\n")
    with pytest.raises(InputError, match="cannot be joined"):
        drain(set_metadata(project, table))
    assert (project.root / "fields.parquet").read_bytes() == before[0]
    pd.testing.assert_frame_equal(open_project(project.root).cells.obs, before[1])


def test_columns_that_make_groups_cannot_be_lost(project, tmp_path):
    images = project.root.parent / "images"
    other = drain(
        import_fields(tmp_path / "q", [images], metadata=SAMPLE / "plate.csv", group_by=("compound",))
    )
    table = tmp_path / "t.csv"
    table.write_text("well,drug\nA01,x\n")
    with pytest.raises(
        InputError, match=r"no column compound, by which the fields of q\.cellrep are grouped"
    ):
        drain(set_metadata(other, table))
    table.write_text("well,compound\nA01,x\nA06,x\nE12,y\n")
    result = drain(set_metadata(other, table))
    assert "The groups of 3 fields" in " ".join(result.notes)
    assert [f.group for f in other.fields] == ["x", "x", "y"]


def test_fields_added_later_get_a_table_as_well(project, tmp_path):
    week2 = tmp_path / "week2"
    week2.mkdir()
    shutil.copy(SAMPLE / "wells" / "A12.ome.tif", week2)
    drain(add_fields(project, [week2], metadata=SAMPLE / "plate.csv"))
    table = tmp_path / "t.csv"
    table.write_text("row,column,drug\n1,1,x\n1,12,y\n")
    drain(set_metadata(project, table))
    assert project.field("A12").metadata["drug"] == "y"
    assert "compound" not in project.field("A12").metadata


def test_a_table_with_a_row_per_cell(project, tmp_path):
    before = project.cells.obs.copy()
    some = before.index[[3, 0, 7]]
    table = tmp_path / "kinds.csv"
    table.write_text(
        "cell_id,kind,score\n"
        + "".join(f"{c},k{i},{i}\n" for i, c in enumerate(some))
        + f"{some[0]},other,9\nA01:99999,x,1\n"
    )
    result = drain(set_metadata(project, table))
    assert (result.columns, result.n_cells) == (("kind", "score"), 3)
    assert result.mistakes == (
        (5, some[0], "an earlier row is of the same cell, and was used"), (6, "A01:99999", "no cell is called so"),
    )  # fmt: skip
    drain(crop(project))  # measured again, cells keep it
    obs = open_project(project.root).cells.obs
    assert list(obs.loc[some, "kind"].astype(str)) == ["k0", "k1", "k2"]
    assert list(obs.loc[some, "score"]) == [0, 1, 2]
    assert obs["kind"].notna().sum() == 3
    assert list(obs["compound"].astype(str)) == list(before["compound"].astype(str))


def test_labels_of_crops_by_the_names_of_their_files(tmp_path):
    import tifffile

    from napari_cellrep.steps.import_crops import import_crops

    (tmp_path / "in").mkdir()
    for i in range(4):
        tifffile.imwrite(tmp_path / "in" / f"cell_{i}.tif", np.full((12, 12), 5 + i, np.uint8))
    project = drain(import_crops(tmp_path / "p", [tmp_path / "in"], channels=("protein",)))
    table = tmp_path / "t.csv"
    table.write_text("file,kind\nin/cell_2.tif,b\ncell_0.tif,a\n")
    result = drain(set_metadata(project, table))
    assert result.notes == ("t.csv says nothing of 2 of 4 cells.",)
    obs = project.cells.obs.set_index("crop")
    assert (obs.loc["cell_0.tif", "kind"], obs.loc["cell_2.tif", "kind"]) == ("a", "b")
