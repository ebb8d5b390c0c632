"""Tables made elsewhere, matched to real cells by id, by field and label, or by the columns a user names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_features import import_features, peek, read_on


@pytest.fixture
def theirs(small) -> pd.DataFrame:
    """What CellProfiler would write of the project's cells, in another order, with names as it gives them."""
    obs, rng = small.cells.obs, np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "ImageNumber": obs["field"].map({f.id: i for i, f in enumerate(small.fields, 1)}).to_numpy(int),
            "ObjectNumber": obs["label"].to_numpy(int),
            "Metadata_Well": obs["well"].str.replace("A0", "A").to_numpy(),  # A01 → A1
            "AreaShape_Area": obs["area_px"].to_numpy(int),
            "AreaShape_Center_X": obs["x_px"].to_numpy(float),
            "Texture_Noise": rng.normal(1e6, 1e5, len(obs)),
            "Classify_Phase": "G1",
        }
    )
    return table.sample(frac=1, random_state=0)


def vectors(project, key):
    return project.cells.obsm[f"X_{key}"]


def test_a_cellprofiler_table_becomes_an_embedding_that_stays_and_can_be_analysed(small, theirs, tmp_path):
    theirs.to_csv(tmp_path / "Nuclei.csv", index=False)
    seen = []
    job = import_features(
        small, tmp_path / "Nuclei.csv", on={"Metadata_Well": "well", "ObjectNumber": "label"}
    )
    result = drain(job, seen.append)
    assert result.keys == ("Nuclei",)
    assert result.n_cells == small.cells.n_obs == seen[-1].done
    left_out = " ".join(result.notes)
    assert "no numbers: Classify_Phase" in left_out
    assert "ImageNumber and AreaShape_Center_X" in left_out
    project = open_project(small.root)
    assert project.embedding_info("Nuclei")["features"] == ["AreaShape_Area", "Texture_Noise"]
    assert vectors(project, "Nuclei").dtype == np.float32
    np.testing.assert_array_equal(vectors(project, "Nuclei")[:, 0], project.cells.obs["area_px"])
    assert project.cells.obs["has_Nuclei"].all()
    line = project.last("features")
    assert line["on"] == {"Metadata_Well": "well", "ObjectNumber": "label"}
    assert len(line["sha256"]) == 64
    assert line["cells"] == project.cells.n_obs
    drain(analyze(project, recipe="outliers", embedding="Nuclei"))
    good = project.cells.obs["good"].to_numpy(bool)
    assert np.isfinite(project.cells.obs["outlier_Nuclei"][good]).all()


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet", "excel"])
def test_every_kind_of_file_gives_the_same_numbers(small, theirs, tmp_path, ending):
    path = tmp_path / ("t.csv" if ending == "excel" else f"t.{ending}")
    if ending == "parquet":
        theirs.to_parquet(path)
    elif ending == "excel":  # where the comma is in the numbers
        theirs.to_csv(path, index=False, sep=";", decimal=",", encoding="utf-8-sig")
    else:
        theirs.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    on = {"ImageNumber": "field_number", "ObjectNumber": "label"}
    drain(import_features(small, path, key="t", on=on))
    assert small.embedding_info("t")["features"] == ["AreaShape_Area", "Texture_Noise"]
    expected = theirs.sort_values(["ImageNumber", "ObjectNumber"])[["AreaShape_Area", "Texture_Noise"]]
    order = np.lexsort([small.cells.obs["label"], small.cells.obs["field"].astype(str)])
    np.testing.assert_allclose(vectors(small, "t")[order], expected.to_numpy(np.float32))


@pytest.mark.parametrize("named", [True, False])
def test_rows_are_matched_by_cell_id_and_cells_without_a_row_have_no_vector(small, tmp_path, named):
    """As scanpy users write them: an index of cell ids, with or without a name."""
    ids = small.cells.obs.index[::2]
    table = pd.DataFrame({"a": np.arange(len(ids), dtype=float)}, index=ids)
    table.loc["no such cell"] = 1.0
    table.to_csv(tmp_path / "some.csv", index_label="cell_id" if named else "")
    result = drain(import_features(small, tmp_path / "some.csv"))
    assert result.n_cells == len(ids)
    assert "1 of" in result.notes[-1]
    assert "match no cell" in result.notes[-1]
    assert "get no vector" in result.notes[0]
    np.testing.assert_array_equal(vectors(small, "some")[::2, 0], np.arange(len(ids)))
    assert np.isnan(vectors(small, "some")[1::2]).all()
    assert not small.cells.obs["has_some"].iloc[1::2].any()


def test_a_few_missing_numbers_are_filled_and_said_and_a_feature_that_most_cells_lack_is_left_out(
    small, tmp_path
):
    obs = small.cells.obs
    table = pd.DataFrame({"a": np.arange(len(obs), dtype=float), "b": 1.0, "rare": np.nan}, index=obs.index)
    table.iloc[3, 0], table.iloc[5, 0], table.iloc[:4, 2] = np.nan, np.inf, 2.0
    table.iloc[7] = np.nan  # a row without any number is no row
    table.to_csv(tmp_path / "t.csv")
    result = drain(import_features(small, tmp_path / "t.csv"))
    assert small.embedding_info("t")["features"] == ["a", "b"]
    told = " ".join(result.notes)
    assert "lack them: rare" in told
    assert "2 missing numbers in 1 features" in told
    known = np.delete(np.arange(len(obs), dtype=float), [3, 5, 7])
    x = vectors(small, "t")
    np.testing.assert_allclose(x[[3, 5], 0], np.median(known))
    np.testing.assert_array_equal(np.delete(x[:, 0], [3, 5, 7]), known)
    assert np.isnan(x[7]).all()
    assert not small.cells.obs["has_t"].iloc[7]


def test_columns_can_be_chosen_by_pattern_and_another_choice_replaces_the_first(small, theirs, tmp_path):
    theirs.to_csv(tmp_path / "t.csv", index=False)
    on = {"ImageNumber": "field_number", "ObjectNumber": "label"}
    drain(import_features(small, tmp_path / "t.csv", on=on, columns=("AreaShape_*", "Classify_*")))
    assert small.embedding_info("t")["features"] == ["AreaShape_Area", "AreaShape_Center_X"]
    drain(import_features(small, tmp_path / "t.csv", on=on, columns=("Texture_Noise",)))
    assert vectors(small, "t").shape == (small.cells.n_obs, 1)


def test_a_cell_whose_outline_was_edited_loses_its_numbers(small, tmp_path):
    from napari_cellrep.steps.crop import crop

    small.cells.obs[["field", "label"]].assign(a=1.5).to_csv(tmp_path / "t.csv", index=False)
    drain(import_features(small, tmp_path / "t.csv"))  # by field and label
    labels = small.read_labels("A01")
    first = int(labels[labels > 0].min())
    labels[tuple(np.argwhere(labels == first)[0])] = 0
    small.write_labels("A01", labels, {"edited": True})
    drain(crop(small, fields=["A01"]))
    has = small.cells.obs["has_t"]
    assert list(has.index[~has]) == [f"A01:{first}"]


def test_a_models_embedding_is_not_overwritten(small, tmp_path):
    drain(embed(small, model="measurements", fields=["A01"]))
    small.cells.obs[["field", "label"]].assign(a=1.5).to_csv(tmp_path / "measurements.csv", index=False)
    with pytest.raises(InputError, match="already, made by measurements"):
        drain(import_features(small, tmp_path / "measurements.csv"))
    assert small.cells.obs["has_measurements"].any()
    drain(import_features(small, tmp_path / "measurements.csv", key="mine"))


def test_wrong_tables_get_sentences_and_change_nothing(small, theirs, tmp_path):
    well = {"Metadata_Well": "well", "ObjectNumber": "label"}
    path = tmp_path / "t.csv"

    def refused(table, match, name="t.csv", **kwargs):
        if table is not None:
            table.to_csv(tmp_path / name, index=False)
        with pytest.raises(InputError, match=match):
            drain(import_features(small, tmp_path / name, **kwargs))

    refused(None, "cannot be read", name="gone.csv", on=well)
    refused(theirs, "neither cell_id nor field and label")
    refused(theirs, "no column 'Well'", on={"Well": "well"})
    refused(theirs, "no column 'rack' to match", on={"Metadata_Well": "rack"})
    refused(theirs, "Several cells of the project have the same well", on={"Metadata_Well": "well"})
    refused(
        pd.concat([theirs, theirs[:1]]), "several rows with the same Metadata_Well and ObjectNumber", on=well
    )
    refused(theirs.assign(Metadata_Well="H12"), "No row of t.csv matches a cell", on=well)
    refused(theirs, "is called 'Cells_", on=well, columns=("Cells_*",))
    refused(theirs[["Metadata_Well", "ObjectNumber", "Classify_Phase"]], "no column of numbers", on=well)
    refused(theirs.assign(AreaShape_Area=np.nan, Texture_Noise=np.nan), "missing for more than", on=well)
    refused(theirs[:0], "no rows", on=well)
    refused(theirs, "no slash", on=well, key="a/b")
    refused(theirs, "maps are called so", on=well, key="umap_t")
    path.write_text("")
    refused(None, "cannot be read", on=well)
    path.with_suffix(".parquet").write_bytes(b"PAR1 no")
    refused(None, "cannot be read", name="t.parquet", on=well)
    assert small.embedding_keys() == []
    assert not [k for k in small.cells.obsm if k.startswith("X_")]


def test_on_is_read_from_text():
    assert read_on("Metadata_Well=well, ObjectNumber=label") == {
        "Metadata_Well": "well",
        "ObjectNumber": "label",
    }
    assert read_on("field,label") == {"field": "field", "label": "label"}
    for wrong in ("=well", "a=b,a=c", "a=b,c=b", "a,,b"):
        with pytest.raises(InputError, match="COLUMN=COLUMN"):
            read_on(wrong)


def test_on_the_command_line(small, theirs, tmp_path, capsys):
    theirs.to_csv(tmp_path / "Nuclei.csv", index=False)
    project, table = str(small.root), str(tmp_path / "Nuclei.csv")
    words = ["embed", project, "--features", table, "--on", "Metadata_Well=well,ObjectNumber=label"]
    assert main([*words, "--key", "cp", "--columns", "AreaShape_Area,Texture_*"]) == OK
    assert f"{small.cells.n_obs:,} cells have 2 numbers each as cp." in capsys.readouterr().out
    assert main(["analyze", project, "outliers", "--embedding", "cp"]) == OK
    assert main(["info", project]) == OK
    told = capsys.readouterr().out
    assert "the table Nuclei.csv\n" in told
    for more, match in [
        (["embed", project, "--on", "a=b"], "--features"),
        ([*words, "--model", "measurements"], "do not apply"),
        (["embed", project, "--features", table], "neither cell_id"),
    ]:
        assert main(more) == BAD_INPUT
        told = capsys.readouterr().err
        assert match in told
        assert "Traceback" not in told


def test_a_table_is_looked_at_before_it_is_taken(small, theirs, tmp_path):
    theirs.to_csv(tmp_path / "My Nuclei.csv", index=False, sep=";")
    found = peek(small, tmp_path / "My Nuclei.csv")
    assert found["columns"] == list(theirs.columns)
    assert found["numbers"] == 2
    assert found["on"] == {"Metadata_Well": "well", "ObjectNumber": "label"}
    assert found["key"] == "My_Nuclei"
    assert found["examples"]["table"]["ObjectNumber"] == str(theirs["ObjectNumber"].iloc[0])
    assert found["examples"]["cells"]["cell_id"] == small.cells.obs.index[0]
    assert found["cell_columns"][:2] == ["cell_id", "field"]
    theirs.rename(columns={"Metadata_Well": "W"}).drop(columns="ImageNumber").to_parquet(
        tmp_path / "n.parquet"
    )
    assert peek(small, tmp_path / "n.parquet")["on"] == {}
    with pytest.raises(InputError, match="cannot be read"):
        peek(small, tmp_path / "nothing.csv")
