"""Time series: every frame is a field, and its cells are no other frame's."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_cellrep.cli import main
from napari_cellrep.data import open_project
from napari_cellrep.data.fields import Field
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_fields import add_fields, import_fields, preview_import
from napari_cellrep.steps.segment import segment
from napari_cellrep.steps.time_series import missing_frames

SAMPLE = Path(__file__).parents[2] / "src" / "napari_cellrep" / "sample" / "wells"


@pytest.fixture(scope="module")
def film():
    """Three frames of a real field that drifts, (T, C, H, W)."""
    well = tifffile.imread(SAMPLE / "A05.ome.tif")
    return np.stack([well[:, 10 * t : 10 * t + 200, 5 * t : 5 * t + 220] for t in range(3)])


@pytest.mark.parametrize("kind", ["ome", "imagej", "zarr", "unnamed"])
def test_every_frame_of_a_series_is_a_field_with_its_own_pixels(tmp_path, film, kind):
    path, more = tmp_path / "A05.tif", {}
    if kind == "ome":
        path = tmp_path / "A05.ome.tif"
        tifffile.imwrite(
            path, film, ome=True, photometric="minisblack", metadata={"axes": "TCYX"}, compression="zlib"
        )
    elif kind == "imagej":
        tifffile.imwrite(path, film, imagej=True, metadata={"axes": "TCYX"})
    elif kind == "unnamed":
        tifffile.imwrite(path, film[:, 1], photometric="minisblack")
        more = {"stack": "time"}
    else:
        path = tmp_path / "A05.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.create_array("0", data=film, chunks=(1, 1, 128, 128))
        group.attrs["multiscales"] = [{"axes": [{"name": n} for n in "tcyx"], "datasets": [{"path": "0"}]}]
    channels = ("DNA:nucleus",) if kind == "unnamed" else ("FKHR-GFP:protein", "DNA:nucleus")
    project = drain(import_fields(tmp_path / "p", [path], channels=channels, **more))
    project = open_project(project.root)
    assert [f.id for f in project.fields] == ["A05_t000", "A05_t001", "A05_t002"]
    for t, field in enumerate(project.fields):
        assert (field.metadata["series"], field.metadata["frame"], field.series) == ("A05", t, "A05")
        np.testing.assert_array_equal(project.read_image(field.id), film[t, 2 - len(channels) :])
        box = (20, 30, 150, 90)
        np.testing.assert_array_equal(
            field.read(project.root, box), film[t, 2 - len(channels) :, 20:150, 30:90]
        )
    assert {f.group for f in project.fields} == {"A05"}


def test_cells_of_frames_never_mix_and_labels_may_hold_a_plane_per_frame(tmp_path, film):
    tifffile.imwrite(tmp_path / "A05.tif", film, imagej=True, metadata={"axes": "TCYX"})
    labels = np.zeros((3, 200, 220), np.uint16)
    for t in range(3):
        labels[t, 20 + t : 50 + t, 30:60], labels[t, 100:130, 90 + t : 120 + t] = 1, 7
    tifffile.imwrite(tmp_path / "A05_mask.tif", labels, photometric="minisblack")
    project = drain(
        import_fields(tmp_path / "p", [tmp_path / "A05.tif"], channels=("GFP:protein", "DNA:nucleus"))
    )
    assert drain(segment(project, segmenter="imported")).n_cells == 6
    drain(crop(project))
    drain(embed(project, model="measurements"))
    obs = project.cells.obs
    assert list(obs.index) == [f"A05:{t}:{n}" for t in range(3) for n in (1, 7)]
    assert obs["frame"].tolist() == [0, 0, 1, 1, 2, 2]
    assert obs.loc["A05:2:1", "field"] == "A05_t002"
    assert obs.loc["A05:2:1", "y_px"] == obs.loc["A05:0:1", "y_px"] + 2
    assert len({tuple(x) for x in project.cells.obsm["X_measurements"].tolist()}) == 6
    again = open_project(project.root).cells
    assert list(again.obs.index) == list(obs.index)
    tifffile.imwrite(tmp_path / "A05_mask.tif", labels[:2], photometric="minisblack")
    assert "holds 2 frames" in drain(segment(project, segmenter="imported")).problems["A05_t002"]


def test_files_of_unequal_length_are_a_sentence(tmp_path, film):
    for name, t in (("a", 3), ("b", 2)):
        for n, channel in enumerate(("w1", "w2")):
            part = film[: t if n else 3, n]
            tifffile.imwrite(tmp_path / f"{name}_{channel}.tif", part, imagej=True, metadata={"axes": "TYX"})
    project = drain(import_fields(tmp_path / "p", [tmp_path], pattern="{field}_{channel}.tif"))
    problems = {f.id: f.problem for f in project.fields}
    assert problems["a_t002"] == ""
    assert "2 and 3 time points" in problems["b"]


def test_only_frames_have_a_frame_in_their_cells_names():
    assert Field("A01_t003", (), metadata={"frame": 3}).cell_id(5) == "A01:3:5"
    assert Field("A01_t003", ()).cell_id(5) == "A01_t003:5"
    assert Field("A01", (), metadata={"frame": 3}).cell_id(5) == "A01:5"
    assert Field("A01_t003", (), metadata={"frame": "x"}).cell_id(5) == "A01_t003:5"


def test_an_unknown_word_for_an_axis_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match='"channel", "z" or "time"'):
        drain(import_fields(tmp_path / "p", [SAMPLE], stack="depth"))


def _file_per_frame(
    folder: Path, film: np.ndarray, wells=("A05", "B06"), times=(0, 1, 2, 3), left_out=()
) -> Path:
    for w, well in enumerate(wells):
        for t in times:
            for c, channel in enumerate(("w1", "w2")):
                if (well, t) not in left_out:
                    folder.mkdir(exist_ok=True)
                    image = np.roll(film[t % 3, c], 3 * w, axis=1)
                    tifffile.imwrite(folder / f"{well}_T{t:02d}_{channel}.tif", image)
    return folder


def test_a_file_per_frame_is_a_series_as_one_file_is(tmp_path, film, capsys):
    folder = _file_per_frame(tmp_path / "in", film, left_out={("A05", 2), ("B06", 3)})
    options = {"pattern": "{well}_T{time}_{channel}.tif", "channels": ("w1=GFP:protein", "w2=DNA:nucleus")}
    found = drain(preview_import([folder], **options))
    assert (found["series"], found["n_fields"], found["n_units"]) == ("2 series of 3 frames", 6, 2)
    assert [(row["field"], row["known"]) for row in found["rows"]] == [
        ("A05", "3 frames, 0 to 3"), ("B06", "3 frames, 0 to 2"),
    ]  # fmt: skip
    assert found["hints"] == ["Series A05 has no frame 2.", "Series B06 has no frame 3."]
    assert main(["new", "x", str(folder), "--pattern", options["pattern"], "--preview"]) == 0
    assert "2 series of 3 frames: 6 fields from 12 files" in capsys.readouterr().out
    (tmp_path / "t.csv").write_text("field,drug\nA05,x\nB06_t001,y\n")
    project = drain(import_fields(tmp_path / "p", [folder], metadata=tmp_path / "t.csv", **options))
    project = open_project(project.root)
    assert [f.id for f in project.fields] == [
        "A05_t000",
        "A05_t001",
        "A05_t003",
        "B06_t000",
        "B06_t001",
        "B06_t002",
    ]
    assert [f.metadata.get("drug") for f in project.fields] == ["x", "x", "x", None, "y", None]
    assert "Series A05 has no frame 2." in project.history[-1]["notes"]
    field = project.field("A05_t003")
    assert (field.series, field.metadata["series"], field.metadata["frame"], field.metadata["time"]) == (
        "A05",
        "A05",
        3,
        3,
    )
    np.testing.assert_array_equal(project.read_image("A05_t003"), film[0])
    assert {f.group for f in project.fields} == {"A05", "B06"}
    assert drain(segment(project, segmenter="nuclei", fields=["A05_t003"])).n_cells > 3
    drain(crop(project))
    obs = project.cells.obs
    assert all(name.startswith("A05:3:") for name in obs.index)
    assert set(obs["time"]) == {3}


def test_series_of_one_name_in_two_folders_and_names_without_any_other_part(tmp_path, film):
    for plate in ("p1", "p2"):
        (tmp_path / "in" / plate).mkdir(parents=True)
        for hours in (0, 6, 12, 24):
            tifffile.imwrite(tmp_path / "in" / plate / f"film-{hours}h.tif", film[0, 1])
    project = drain(
        import_fields(tmp_path / "p", [tmp_path / "in"], pattern="film-{time}.tif", channels=("nucleus",))
    )
    assert sorted({(f.series, f.metadata["series"]) for f in project.fields}) == [
        ("p1_film", "p1_film"),
        ("p2_film", "p2_film"),
    ]
    assert [f.metadata["time"] for f in project.fields] == [0, 6, 12, 24] * 2
    assert not [n for n in project.history[-1]["notes"] if "no frame" in n]  # 18 h was never meant


OPTIONS = {"pattern": "{well}_T{time}_{channel}.tif", "channels": ("w1=GFP:protein", "w2=DNA:nucleus")}


def test_a_later_frame_alone_joins_its_series(tmp_path, film):
    folder = _file_per_frame(tmp_path / "in", film, times=range(6))
    project = drain(import_fields(tmp_path / "p", [folder], **OPTIONS))
    later = _file_per_frame(tmp_path / "week2", film, wells=("A05",), times=(7,))
    found = drain(preview_import([later], project=project.root))
    assert [(row["field"], row["problem"]) for row in found["rows"]] == [("A05", "")]
    assert found["hints"] == ["Series A05 has no frame 6."]
    drain(add_fields(project, [later]))
    project = open_project(project.root)
    field = project.field("A05_t007")
    assert (field.series, field.group, field.metadata["time"]) == ("A05", "A05", 7)
    assert "Series A05 has no frame 6." in project.history[-1]["notes"]
    np.testing.assert_array_equal(project.read_image("A05_t007"), film[7 % 3])
    assert drain(segment(project, segmenter="nuclei", fields=["A05_t000", "A05_t007"])).n_cells > 6
    drain(crop(project))
    assert {tuple(n.split(":")[:2]) for n in project.cells.obs_names} == {("A05", "0"), ("A05", "7")}
    with pytest.raises(InputError, match=r"1 field \(A05_t007\) already"):
        drain(add_fields(project, [later]))
    new = _file_per_frame(tmp_path / "week3", film, wells=("C07",), times=(4,))  # a series that begins later
    drain(add_fields(project, [new]))
    assert project.field("C07_t004").series == "C07"


def test_a_later_frame_is_called_as_those_that_are_there(tmp_path, film):
    folder = _file_per_frame(tmp_path / "in", film, wells=("A05",), times=(3, 1200))
    project = drain(import_fields(tmp_path / "p", [folder], **OPTIONS))
    assert [f.id for f in project.fields] == ["A05_t0003", "A05_t1200"]
    drain(add_fields(project, [_file_per_frame(tmp_path / "week2", film, wells=("A05",), times=(7,))]))
    assert project.fields[-1].id == "A05_t0007"
    with pytest.raises(InputError, match="already"):  # frame 3, not a second one of another name
        drain(add_fields(project, [_file_per_frame(tmp_path / "week3", film, wells=("A05",), times=(3,))]))


def test_a_later_frame_of_one_of_two_folders_joins_that_folders_series(tmp_path, film):
    for plate in ("p1", "p2"):
        (tmp_path / "in" / plate).mkdir(parents=True)
        for hours in (0, 6):
            tifffile.imwrite(tmp_path / "in" / plate / f"film-{hours}h.tif", film[0, 1])
    project = drain(
        import_fields(tmp_path / "p", [tmp_path / "in"], pattern="film-{time}.tif", channels=("nucleus",))
    )
    tifffile.imwrite(tmp_path / "in" / "p2" / "film-24h.tif", film[1, 1])
    drain(add_fields(project, [tmp_path / "in" / "p2" / "film-24h.tif"]))
    field = project.fields[-1]
    assert (field.id, field.series, field.metadata["series"]) == ("p2_film_t024", "p2_film", "p2_film")


def test_a_frame_that_was_broken_is_replaced_by_the_same_file_mended(tmp_path, film):
    folder = _file_per_frame(tmp_path / "in", film, wells=("A05",))
    whole = (folder / "A05_T03_w1.tif").read_bytes()
    (folder / "A05_T03_w1.tif").write_bytes(whole[:100])
    project = drain(import_fields(tmp_path / "p", [folder], **OPTIONS))
    assert "A05_T03_w1.tif" in project.field("A05_t003").problem
    (folder / "A05_T03_w1.tif").write_bytes(whole)
    drain(add_fields(project, sorted(folder.glob("A05_T03_*"))))
    assert [f.id for f in project.fields] == [f"A05_t00{t}" for t in range(4)]
    assert not project.field("A05_t003").problem
    assert project.field("A05_t003").series == "A05"


@pytest.mark.slow
def test_a_later_frame_whose_file_is_replaced_is_out_of_date_alone(tmp_path, film):
    folder = _file_per_frame(tmp_path / "in", film, wells=("A05",), times=(0, 1))
    project = drain(import_fields(tmp_path / "p", [folder], **OPTIONS))
    _file_per_frame(folder, film, wells=("A05",), times=(2,))
    drain(add_fields(project, sorted(folder.glob("*_T02_*"))))
    drain(segment(project, segmenter="nuclei"))
    drain(crop(project))
    drain(embed(project, model="measurements"))
    before = project.cells.obs_names, project.cells.obsm["X_measurements"].copy()
    for channel in ("w1", "w2"):
        path = folder / f"A05_T02_{channel}.tif"
        tifffile.imwrite(path, np.flipud(tifffile.imread(path)))
    project = open_project(project.root)
    result = drain(segment(project, segmenter="nuclei"))
    drain(crop(project))
    drain(embed(project, model="measurements"))
    cells = open_project(project.root).cells
    old = [n for n in before[0] if not n.startswith("A05:2:")]
    assert [n for n in cells.obs_names if not n.startswith("A05:2:")] == old
    at = cells.obs_names.get_indexer(old)
    np.testing.assert_array_equal(cells.obsm["X_measurements"][at], before[1][before[0].get_indexer(old)])
    last = cells.obs[cells.obs["field"] == "A05_t002"]
    assert len(last) > 3
    assert np.isfinite(cells.obsm["X_measurements"]).all()
    assert not result.problems


def test_a_second_time_point_of_what_was_no_series_is_a_sentence(tmp_path, film):
    project = drain(
        import_fields(tmp_path / "p", [_file_per_frame(tmp_path / "in", film, times=(0,))], **OPTIONS)
    )
    assert [f.id for f in project.fields] == ["A05", "B06"]
    with pytest.raises(InputError, match="of one time point; a time series begins with two"):
        drain(add_fields(project, [_file_per_frame(tmp_path / "week2", film, times=(1,))]))


def test_times_that_are_no_numbers_are_only_told(tmp_path, film):
    for when in ("early", "late"):
        tifffile.imwrite(tmp_path / f"A05_{when}.tif", film[0, 1])
    project = drain(
        import_fields(tmp_path / "p", [tmp_path], pattern="{well}_{time}.tif", channels=("nucleus",))
    )
    assert [(f.id, f.series, f.metadata["time"]) for f in project.fields] == [
        ("A05_early", "", "early"), ("A05_late", "", "late"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("file,drug\nA05,x\n", ["x"] * 4 + [None] * 4),
        ("file,drug\nA05_T01_w1.tif,x\n", [None, "x"] + [None] * 6),
        ("series,drug\nB06,y\n", [None] * 4 + ["y"] * 4),
        ("well,frame,drug\nA05,1,x\nB06,3,y\n", [None, "x"] + [None] * 5 + ["y"]),
        ("well,time,drug\nA5,1.0,x\n", [None, "x"] + [None] * 6),
        ("well,drug\nA05,x\nB06,y\n", ["x"] * 4 + ["y"] * 4),
    ],
)
def test_tables_find_series_and_frames(tmp_path, film, table, expected):
    folder = _file_per_frame(tmp_path / "in", film)
    (tmp_path / "t.csv").write_text(table)
    project = drain(
        import_fields(
            tmp_path / "p", [folder], pattern="{well}_T{time}_{channel}.tif", metadata=tmp_path / "t.csv"
        )
    )
    assert [f.metadata.get("drug") for f in project.fields] == expected


def test_series_within_files_that_are_frames_by_their_names_are_a_sentence(tmp_path, film):
    for t in (0, 1):
        tifffile.imwrite(tmp_path / f"A05_{t}.tif", film, imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(InputError, match="only one of the two"):
        drain(import_fields(tmp_path / "p", [tmp_path], pattern="{well}_{time}.tif"))
    tifffile.imwrite(tmp_path / "one.tif", film, imagej=True, metadata={"axes": "TCYX"})
    found = drain(preview_import([tmp_path / "one.tif"]))
    assert (found["series"], found["n_fields"], len(found["rows"])) == ("1 series of 3 frames", 3, 1)


def test_gaps_are_told_where_steps_are_even():
    assert missing_frames({"a": [*range(10), *range(11, 20)]}) == ["Series a has no frame 10."]
    assert missing_frames({"a": [0, 6, 12, 24]}) == []
    assert missing_frames({"a": [0, 10, 20], "b": [0, 20]}) == ["Series b has no frame 10."]
    assert missing_frames({}) == []
