"""Time series: every frame is a field, and its cells are no other frame's."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_cellrep.data import open_project
from napari_cellrep.data.fields import Field
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.segment import segment

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
