"""Next week's plate: added to a project, and treated like the first."""

import numpy as np
import pytest
import tifffile

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_fields import add_fields, import_fields
from napari_cellrep.steps.replay import new_fields, replay
from napari_cellrep.steps.sample import SAMPLE
from napari_cellrep.steps.segment import segment


def write_wells(folder, wells):
    folder.mkdir()
    for well in wells:
        image = tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :256, :256]
        tifffile.imwrite(
            folder / f"{well}.tif", np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True
        )
    return folder


@pytest.fixture
def week2(small):
    """Two more wells in a folder beside the project."""
    return write_wells(small.root.parent / "week2", ("A05", "E06"))


@pytest.fixture
def done(small):
    """The project embedded twice and analysed, its settings not the default ones."""
    drain(segment(small, config={"smoothing": 0.05}, overwrite=True))
    from napari_cellrep.steps.crop import crop

    drain(crop(small))
    save_model(create_model("paired_cell_inpainting", width=0.125), small.root / "models" / "mine")
    drain(embed(small, model="mine", key="night"))
    drain(embed(small, model="measurements"))
    drain(analyze(small, recipe="outliers", embedding="night", within="all", k=5))
    drain(analyze(small, recipe="variability", embedding="measurements", min_cells=4))
    return small


def files(project, but=()):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for folder in ("labels", "embeddings")
        for path in sorted((project.root / folder).rglob("*"))
        if path.is_file() and path.suffix != ".json" and path.name.partition(".")[0] not in but
    }


@pytest.mark.slow
def test_new_fields_are_treated_like_the_others_and_these_stay_as_they_are(done, week2):
    before, cells = files(done), done.cells
    old = {key: np.asarray(cells.obsm[f"X_{key}"]) for key in ("night", "measurements")}
    drain(add_fields(done, [week2], metadata=SAMPLE / "plate.csv"))
    assert new_fields(done) == ["A05", "E06"]
    result = drain(replay(done))
    assert (result.n_fields, result.problems, result.notes) == (2, {}, ())
    assert result.embeddings == ("measurements", "night")
    assert set(result.analyses) == {"outliers of night", "variability of measurements"}
    assert f"{result.n_cells:,} new cells in 2 fields" in result.summary
    assert files(done, but=("A05", "E06")) == before
    fresh = open_project(done.root).cells
    assert fresh.n_obs == cells.n_obs + result.n_cells
    at = fresh.obs.index.get_indexer(cells.obs.index)
    for key, x in old.items():
        np.testing.assert_array_equal(fresh.obsm[f"X_{key}"][at], x)
        assert np.isfinite(fresh.obsm[f"X_{key}"]).all()
    assert done.label_info("E06")["settings"]["smoothing"] == 0.05
    assert fresh.obs["outlier_night"][fresh.obs["good"]].notna().all()
    assert set(fresh.obs["compound"].astype(str)) == {"Wortmannin", "LY294002"}
    assert "A05" in set(done.groups.obs["name"].astype(str))
    again = drain(replay(done))  # nothing to do: nothing is done
    assert (again.n_fields, again.n_cells) == (0, 0)


@pytest.mark.slow
def test_another_project_s_recipe(done, tmp_path):
    images = write_wells(tmp_path / "other", ("A07", "E09"))
    names = ("tagged:protein", "Hoechst:nucleus")  # the same roles under other names
    other = drain(
        import_fields(tmp_path / "other.cellrep", [images], channels=names, metadata=SAMPLE / "plate.csv")
    )
    done.set_comparison(control="control=-1")
    result = drain(replay(other, like=done.root))
    assert result.n_fields == 2
    assert result.n_cells == other.cells.n_obs > 10
    assert set(other.embedding_keys()) == {"night", "measurements"}
    assert other.embedding_info("night")["weights"] == done.embedding_info("night")["weights"]
    assert other.label_info("A07")["settings"]["smoothing"] == 0.05
    assert other.comparison["control"] == "control=-1"


@pytest.mark.slow
def test_weights_that_are_gone_and_tables_are_said(done, week2):
    import shutil

    shutil.rmtree(done.root / "models" / "mine")
    done.start_embedding("theirs", {"table": "features.csv"})
    drain(add_fields(done, [week2]))
    result = drain(replay(done, analyses=False))
    assert result.embeddings == ("measurements",)
    assert any("night was not brought up to date" in note for note in result.notes)
    assert any("theirs came from a table" in note for note in result.notes)
    assert result.analyses == ()


def test_cells_that_no_segmenter_of_ours_made(small, week2):
    for field in small.fields:
        small.write_labels(field.id, small.read_labels(field.id), {"segmenter": "my own"})
    drain(add_fields(small, [week2]))
    with pytest.raises(InputError, match="does not say how its cells were made"):
        drain(replay(small))
    assert new_fields(small) == ["A05", "E06"]


def test_images_with_other_channels_are_refused(small, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    tifffile.imwrite(folder / "B01.tif", np.ones((3, 64, 64), np.uint8), metadata={"axes": "CYX"}, ome=True)
    before = [f.id for f in small.fields]
    with pytest.raises(InputError, match="2 channels"):
        drain(add_fields(small, [folder]))
    assert [f.id for f in open_project(small.root).fields] == before


@pytest.mark.slow
def test_on_the_command_line(done, week2, capsys):
    root = str(done.root)
    assert main(["add", root, str(week2), "--metadata", str(SAMPLE / "plate.csv")]) == OK
    told = capsys.readouterr().out
    assert "2 fields added, 6 now" in told
    assert f"cellrep replay {root}" in told
    assert main(["replay", root, "--no-analyses"]) == OK
    assert "new cells in 2 fields, embedded as measurements and night" in capsys.readouterr().out
    assert main(["add", root, str(week2)]) == BAD_INPUT
    assert "already" in capsys.readouterr().err
