"""Ready-made crops: every form that labs have them in, and that a network sees the very pixels."""

from __future__ import annotations

import io
import zipfile

import h5py
import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.data.crop_files import read_crop_arrays
from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.specs import CropSpec, InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.import_crops import add_crops, import_crops, preview_crops
from napari_cellrep.steps.replay import replay


def crops(n: int, *shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(1).integers(1, 250, (n, *shape)).astype(dtype)


def seen(project, side: int) -> dict[str, np.ndarray]:
    """Name of each crop → the window that a network sees of its cell."""
    out = {}
    names = project.cells.obs["crop"]
    for field in project.fields:
        labels = project.read_labels(field.id)
        cells = find_cells(labels)
        windows = cut_crops(
            project.read_image(field.id), labels, cells, CropSpec(size_px=side, window_px=side)
        )
        out |= {names[f"{field.id}:{n}"]: w for n, w in zip(cells.label, windows, strict=True)}
    return out


def test_no_contact_sheet_is_so_large_that_it_is_worked_on_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_cellrep.data.slides.BIG_PX", (3 * 64) ** 2)
    np.save(tmp_path / "cells.npy", crops(20, 1, 32, 32))
    told = drain(preview_crops([tmp_path / "cells.npy"]))
    assert [row["cells"] for row in told["rows"]] == ["9", "9", "2"]
    project = drain(import_crops(tmp_path / "p", [tmp_path / "cells.npy"]))
    assert [f.id for f in project.fields] == [row["field"] for row in told["rows"]]
    assert not any(project.is_big(f.id) for f in project.fields)
    assert project.cells.n_obs == 20


def test_a_zip_with_a_table_as_published(shared, tmp_path):
    """The first cells of the yeast set, packed as it is."""
    with zipfile.ZipFile(shared / "data" / "pci_yeast" / "crops.zip") as whole:
        table = pd.read_csv(shared / "data" / "pci_yeast" / "index.csv").groupby("protein").head(5)
        names = {n.rpartition("/")[2]: n for n in whole.namelist()}
        with zipfile.ZipFile(tmp_path / "crops.zip", "w") as some:
            for name in [*table["gfp"], *table["rfp"]]:
                some.writestr(name, whole.read(names[name.rpartition("/")[2]]))
        images = {
            name.rpartition("/")[2]: tifffile.imread(io.BytesIO(whole.read(names[name.rpartition("/")[2]])))
            for name in table["gfp"]
        }
    table.to_csv(tmp_path / "index.csv", index=False)
    progress = []
    project = drain(import_crops(tmp_path / "p", [tmp_path / "crops.zip"]), progress.append)
    assert progress[-1].done == progress[-1].total
    assert [(c.name, c.role) for c in project.channels] == [("gfp", "protein"), ("rfp", "structure")]
    obs = project.cells.obs
    assert obs["good"].all()
    assert obs.groupby(obs["protein"].astype(str)).size().to_dict() == {"AAC1": 5, "AAC3": 5, "AAP1": 5}
    assert {f.metadata["protein"] for f in project.fields} == {"AAC1", "AAC3", "AAP1"}
    for name, window in seen(project, 64).items():
        np.testing.assert_array_equal(window[0], images[name])
    drain(embed(project, model="measurements"))
    assert np.isfinite(project.cells.obsm["X_measurements"]).all()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    # What is known of each cell outlives a new look at the labels.
    from napari_cellrep.steps.crop import crop

    before = obs["meta_cell"].copy()
    drain(crop(project))
    assert (open_project(project.root).cells.obs["meta_cell"] == before).all()


def test_names_alone_tell_the_layout_and_crops_lacking_a_channel_are_told(tmp_path):
    for protein in ("AAC1", "AAC3"):
        for i in range(3):
            for j, c in enumerate(("gfp", "rfp")):
                if (protein, i, c) != ("AAC3", 2, "rfp"):
                    path = tmp_path / "in" / protein / f"{protein}_1_rfp_{i}_{c}.tif"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(path, crops(2, 32, 32)[j])
    project = drain(import_crops(tmp_path / "p", [tmp_path / "in"]))
    assert project.cells.n_obs == 5
    assert [f.metadata["protein"] for f in project.fields] == ["AAC1", "AAC3"]
    notes = " ".join(project.last("import")["notes"])
    assert "named as by Paired Cell Inpainting's yeast cells" in notes
    assert "has no file for rfp; left out" in notes


def test_crops_of_many_sizes_keep_their_outlines(tmp_path):
    (tmp_path / "in").mkdir()
    truth = {}
    for i, (h, w) in enumerate(((21, 30), (40, 17), (12, 12), (33, 35))):
        y, x = np.ogrid[:h, :w]
        mask = ((y - (h - 1) / 2) / (h / 2)) ** 2 + ((x - (w - 1) / 2) / (w / 2)) ** 2 <= 1
        crop = crops(1, h, w)[0] * mask
        truth[f"cell_{i}.png"] = crop[mask]
        rgba = np.dstack([crop, crop, crop, np.full_like(crop, 255)])
        iio.imwrite(tmp_path / "in" / f"cell_{i}.png", rgba)
    project = drain(import_crops(tmp_path / "p", [tmp_path / "in"], channels=("nucleus",)))
    (field,) = project.fields
    image, labels = project.read_image(field.id)[0], project.read_labels(field.id)
    names = project.cells.obs["crop"]
    for n in range(1, 5):
        np.testing.assert_array_equal(image[labels == n], truth[names[f"{field.id}:{n}"]])
    side = project.last("import")["window_px"]
    assert side <= 44
    for name, window in seen(project, side).items():  # no neighbour reaches in
        assert window.sum() == truth[name].sum()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nchw", "nhwc", "nhw", "hdf5"])
def test_arrays(tmp_path, form):
    images = crops(7, 3, 20, 20, dtype="uint16")
    phases = np.array(["G1", "S", "G2", "G1", "S", "G2", "M"])
    path = tmp_path / f"set.{'h5' if form == 'hdf5' else 'npz'}"
    if form == "hdf5":  # flattened, floats, one-hot, as DeepLoc's
        with h5py.File(path, "w") as file:
            file["data1"] = images.reshape(7, -1).astype(float)
            kinds = sorted(set(phases))
            file["Index1"] = np.stack([phases == k for k in kinds], axis=1).astype(float)
            file.attrs["Index1_columns"] = np.array(kinds, "S")
    else:
        held = {"nchw": images, "nhwc": np.moveaxis(images, 1, -1), "nhw": images[:, 0]}[form]
        np.savez(path, images=held, phase=phases, score=np.arange(7.0))
    n_channels = 1 if form == "nhw" else 3
    channels = ("BF:brightfield", "DNA:nucleus", "DF")[:n_channels]
    project = drain(import_crops(tmp_path / "p", [path], channels=channels))
    obs = project.cells.obs
    assert list(obs["Index1" if form == "hdf5" else "phase"].astype(str)) == list(phases)
    windows = seen(project, 20)
    for i in range(7):
        np.testing.assert_array_equal(windows[f"set_{i + 1}"], images[i][:n_channels])
    if form == "hdf5":
        return
    table = tmp_path / "t.csv"
    table.write_text("well,drug\n" + "\n".join(f"A{i % 2 + 1},d{i}" for i in range(7)))
    project = drain(import_crops(tmp_path / "q", [path], metadata=table, group_by=("drug",)))
    assert sorted({f.metadata["well"] for f in project.fields}) == ["A01", "A02"]
    assert [f.group for f in project.fields][:2] == ["d0", "d2"] or len(project.fields) == 7
    assert set(project.cells.obs["drug"].astype(str)) == {f"d{i}" for i in range(7)}


def test_many_crops_are_pages(tmp_path):
    np.save(tmp_path / "a.npy", crops(401, 6, 6))
    project = drain(import_crops(tmp_path / "p", [tmp_path / "a.npy"]))
    assert [f.id for f in project.fields] == ["a_page1", "a_page2"]
    assert project.cells.n_obs == 401


def test_what_goes_wrong_is_said_and_leaves_nothing(tmp_path, capsys):
    def refused(*argv: object) -> str:
        capsys.readouterr()
        assert main(["new", str(tmp_path / "p"), *map(str, argv), "--crops"]) == BAD_INPUT
        return capsys.readouterr().err.splitlines()[-1]

    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    (tmp_path / "bad.npz").write_bytes(b"no npz")
    (tmp_path / "none").mkdir()
    np.savez(tmp_path / "words.npz", words=np.array(["a", "b"]))
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 7)))
    np.savez(tmp_path / "ok.npz", x=crops(3, 2, 8, 8))
    (tmp_path / "t.csv").write_text("drug\na\n")
    assert "bad.zip cannot be unpacked" in refused(tmp_path / "bad.zip")
    assert "bad.npz cannot be read" in refused(tmp_path / "bad.npz")
    assert "no images" in refused(tmp_path / "none")
    assert "is not there" in refused(tmp_path / "nowhere")
    assert "words.npz holds no array of cells" in refused(tmp_path / "words.npz")
    assert "no square pictures" in refused(tmp_path / "odd.npz")
    assert "has 2 channels; there are names for 3" in refused(tmp_path / "ok.npz", "--channels", "a,b,c")
    assert "t.csv has 1 rows and there are 3 cells" in refused(
        tmp_path / "ok.npz", "--metadata", tmp_path / "t.csv"
    )
    assert "no column 'x' to group by" in refused(tmp_path / "ok.npz", "--group-by", "x")
    assert "--z is for images of many cells" in refused(tmp_path / "ok.npz", "--z", "max")
    assert not [p.name for p in tmp_path.iterdir() if "cellrep" in p.name]
    assert main(["new", str(tmp_path / "p"), str(tmp_path / "ok.npz"), "--crops"]) == OK
    assert "exists already" in refused(tmp_path / "ok.npz")
    assert main(["add", str(tmp_path / "p"), str(tmp_path / "none")]) == BAD_INPUT
    assert "no images" in capsys.readouterr().err


def test_floats_that_hold_whole_numbers_become_whole(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((2, 4, 4), 32_900.0))
    assert read_crop_arrays(tmp_path / "a.npz").images.dtype == np.uint16
    np.savez(tmp_path / "a.npz", x=np.full((2, 4, 4), 0.5))
    assert read_crop_arrays(tmp_path / "a.npz").images.dtype == np.float32
    with pytest.raises(InputError, match="cannot be read"):
        read_crop_arrays(tmp_path / "b.npz")


def packed(shared, folder, form: str, first: bool):
    """Real crops of one set, as labs have them: `first` this week's, else next week's; their names are no week's alone."""
    if form in ("folder", "zip"):
        table = pd.read_csv(shared / "data" / "pci_yeast" / "index.csv")
        rows = table.groupby("protein").head(4).groupby("protein").head(2 if first else 4)
        place = folder / ("week1" if first else "week2")
        with zipfile.ZipFile(shared / "data" / "pci_yeast" / "crops.zip") as whole:
            names = {n.rpartition("/")[2]: n for n in whole.namelist()}
            for name in [*rows["gfp"], *rows["rfp"]]:
                path = place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(whole.read(names[name.rpartition("/")[2]]))
        rows.to_csv(place / "index.csv", index=False)
        if form == "folder":
            return place
        with zipfile.ZipFile(folder / f"{place.name}.zip", "w") as packed:
            for path in place.rglob("*"):
                packed.write(path, path.relative_to(place))
        return folder / f"{place.name}.zip"
    take = slice(0, 6) if first else slice(6, 15)
    if form == "hdf5":
        path = folder / ("a.h5" if first else "b.h5")
        with (
            h5py.File(shared / "data" / "deeploc_schuldiner" / "Schuldiner_test_set.hdf5") as all_of_them,
            h5py.File(path, "w") as some,
        ):
            some["data1"], some["Index1"] = all_of_them["data1"][take], all_of_them["Index1"][take]
            some.attrs["Index1_columns"] = all_of_them.attrs["Index1_columns"]
        return path
    with np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz") as held:
        images, labels = held["images"][take], held["label"][take]
    path = folder / f"{'a' if first else 'b'}.{form}"
    if form == "npz":
        np.savez(path, images=images, label=labels)
    else:
        np.save(path, images)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "zip", "npz", "npy", "hdf5"])
def test_next_weeks_crops_are_told_before_and_added_and_the_first_stay_as_they_are(
    shared, tmp_path, form, capsys
):
    """From real files of each kind; a folder and a zip that have grown hold the first week's crops, too."""
    one, two = packed(shared, tmp_path, form, True), packed(shared, tmp_path, form, False)
    channels = {"folder": "", "zip": "", "hdf5": "RFP:protein,DIC:structure"}.get(
        form, "BF:structure,DNA:nucleus,DF:protein"
    )
    n_one, n_two = 6, 6 if form in ("folder", "zip") else 9
    assert main(["new", str(tmp_path / "p"), str(one), "--crops", "--preview", "--channels", channels]) == OK
    told = capsys.readouterr().out
    side = {"folder": 64, "zip": 64, "hdf5": 64}.get(form, 40)
    assert f"{n_one} crops, each a cell, of {side} × {side} px" in told
    assert not [p.name for p in tmp_path.iterdir() if "cellrep" in p.name]
    project = drain(import_crops(tmp_path / "p", [one], channels=[c for c in channels.split(",") if c]))
    assert project.undoable == {}
    drain(embed(project, model="measurements"))
    before = project.cells.copy()
    words = project.cells.obs.columns.difference(["flags", "good"])

    assert main(["add", str(project.root), str(two), "--preview"]) == OK
    told = capsys.readouterr().out
    assert f"{n_two + (n_one if form in ('folder', 'zip') else 0)} crops, each a cell" in told
    assert ("6 are in the project already and will be left out" in told) == (form in ("folder", "zip"))
    assert open_project(project.root).cells.n_obs == n_one
    assert main(["add", str(project.root), str(two)]) == OK
    assert f"{n_two} cells added" in capsys.readouterr().out
    project = open_project(project.root)
    cells = project.cells
    assert cells.n_obs == n_one + n_two
    assert cells.obs["good"].all()
    pd.testing.assert_frame_equal(
        cells.obs.loc[before.obs.index, words].astype(str),
        before.obs[words].astype(str),
        check_categorical=False,
    )
    np.testing.assert_array_equal(
        cells[before.obs.index].obsm["X_measurements"], before.obsm["X_measurements"]
    )
    new = cells.obs.index[~cells.obs.index.isin(before.obs.index)]
    assert np.isnan(cells[new].obsm["X_measurements"]).all()
    assert cells.obs.loc[new, "crop"].notna().all()
    if form != "npy":
        column = {"folder": "protein", "zip": "protein", "npz": "label", "hdf5": "Index1"}[form]
        assert cells.obs.loc[new, column].notna().all()

    stamps = {f.id: (project.embedding_folder("measurements") / f"{f.id}.npy") for f in project.fields}
    stamps = {name: path.stat().st_mtime_ns for name, path in stamps.items() if path.exists()}
    result = drain(replay(project))
    assert (result.n_cells, result.embeddings) == (n_two, ("measurements",))
    assert result.n_fields == len(set(cells.obs.loc[new, "field"].astype(str)))
    cells = open_project(project.root).cells
    assert np.isfinite(cells.obsm["X_measurements"]).all()
    np.testing.assert_array_equal(
        cells[before.obs.index].obsm["X_measurements"], before.obsm["X_measurements"]
    )
    for name, stamp in stamps.items():  # only the new ones were embedded
        assert (project.embedding_folder("measurements") / f"{name}.npy").stat().st_mtime_ns == stamp
    if form in ("folder", "zip"):
        images = {p.name: tifffile.imread(p) for p in (tmp_path / "week2").rglob("*_gfp.tif")}
        windows = seen(project, 64)
        assert set(windows) == set(images)
        for name, window in windows.items():
            np.testing.assert_array_equal(window[0], images[name])
    assert main(["add", str(project.root), str(two)]) == BAD_INPUT
    assert (
        f"All {n_two + (n_one if form in ('folder', 'zip') else 0)} crops are in p.cellrep already"
        in capsys.readouterr().err
    )


def test_adding_crops_that_is_stopped_leaves_the_project_as_it_was(tmp_path):
    np.save(tmp_path / "a.npy", crops(6, 2, 20, 20))
    np.save(tmp_path / "b.npy", crops(5, 2, 20, 20) // 2)
    project = drain(import_crops(tmp_path / "p", [tmp_path / "a.npy"]))
    job = add_crops(project, [tmp_path / "b.npy"])
    for progress in job:
        if progress.message.startswith("Found cells"):
            break
    job.close()
    project = open_project(project.root)
    assert [f.id for f in project.fields] == ["a"]
    assert project.cells.n_obs == 6
    assert [p.name for p in (project.root / "images").iterdir()] == ["a.ome.tif"]
    assert drain(add_crops(project, [tmp_path / "b.npy"])).cells.n_obs == 11


def test_crops_of_another_size_or_with_other_channels(tmp_path, capsys):
    np.save(tmp_path / "a.npy", crops(6, 2, 20, 20))
    np.save(tmp_path / "large.npy", crops(3, 2, 30, 30))
    np.save(tmp_path / "three.npy", crops(3, 3, 20, 20))
    project = drain(import_crops(tmp_path / "p", [tmp_path / "a.npy"], channels=("GFP", "DNA")))
    with pytest.raises(InputError, match=r"has 2 channels \(GFP, DNA\)|there are names for 2"):
        drain(add_crops(project, [tmp_path / "three.npy"]))
    with pytest.raises(InputError, match="z is for images of many cells"):
        drain(add_crops(project, [tmp_path / "large.npy"], z="max"))
    found = drain(preview_crops([tmp_path / "large.npy"], project=project.root))
    assert "networks see windows of 20 px" in found["notes"][-1]
    drain(add_crops(project, [tmp_path / "large.npy"]))
    assert project.cells.n_obs == 9
    windows = seen(project, 20)
    np.testing.assert_array_equal(windows["large_1"], crops(3, 2, 30, 30)[0][:, 5:25, 5:25])


def test_channels_by_their_names_and_columns_that_one_week_alone_has(tmp_path):
    for week, order in (("w1", ("gfp", "rfp")), ("w2", ("rfp", "gfp"))):
        (tmp_path / week).mkdir()
        rows = []
        for i in range(3):
            row = {c: f"{week}_{i}_{c}.tif" for c in order}
            for c in order:
                tifffile.imwrite(tmp_path / week / row[c], crops(1, 16, 16)[0] // (1 if c == "gfp" else 4))
            rows.append({**row, "phase": f"p{i}", **({"score": i} if week == "w1" else {"batch": True})})
        pd.DataFrame(rows).to_csv(tmp_path / week / "t.csv", index=False)
    project = drain(import_crops(tmp_path / "p", [tmp_path / "w1"]))
    drain(add_crops(project, [tmp_path / "w2"]))
    obs = open_project(project.root).cells.obs
    assert obs["phase"].astype(str).tolist() == ["p0", "p1", "p2"] * 2
    assert obs["score"].tolist()[:3] == [0, 1, 2]
    assert obs["score"].isna().sum() == 3
    assert obs["batch"].notna().sum() == 3
    for window in seen(project, 16).values():
        assert window[0].mean() > 3 * window[1].mean()


def test_a_preview_tells_sizes_values_and_rows_without_files(shared, capsys):
    """The published crops of BBBC013: many sizes, some with a class, a table that names no other files."""
    data = shared / "data" / "bbbc013_cells"
    assert (
        main(
            [
                "new",
                "nowhere",
                str(data / "crops.zip"),
                "--crops",
                "--preview",
                "--metadata",
                str(data / "labels.csv"),
            ]
        )
        == OK
    )
    told = capsys.readouterr().out
    assert "486 crops, each a cell, of " in told
    assert "CytoplasmicGFP (56)" in told
    assert "328 cells have none" in told


def test_a_preview_tells_rows_and_files_that_fit_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(4):
        tifffile.imwrite(tmp_path / "in" / f"c{i}.tif", crops(1, 12, 12)[0])
    (tmp_path / "in" / "t.csv").write_text("image_name,kind\nc0.tif,a\nc1.tif,b\nc2.tif,a\nc9.tif,b\n")
    found = drain(preview_crops([tmp_path / "in"], channels=("GFP",)))
    assert found["n_cells"] == 3
    assert found["mistakes"] == [(5, "c9.tif", "the file is not there")]
    assert found["unused"] == ["c3.tif"]
    assert found["columns"] == [("kind", "a (2), b (1)")]
    assert found["sizes"] == "12 × 12 px"


def test_a_folder_with_a_zip_or_arrays_alone_and_what_is_said_where_crops_are_not_called_so(
    shared, tmp_path, capsys
):
    """The shared sets as their folders lie there."""
    data = shared / "data"
    found = drain(preview_crops([data / "pci_human"]))
    assert (found["n_cells"], found["sizes"], found["channels"][0]) == (
        28,
        "128 × 128 px",
        "protein (protein)",
    )
    assert drain(preview_crops([data / "jurkat_cellcycle"]))["n_cells"] == 1710
    for given in ("pci_human/crops.zip", "pci_human", "jurkat_cellcycle"):
        assert main(["new", str(tmp_path / "p"), str(data / given)]) == BAD_INPUT
        assert "these are ready-made crops: say so (--crops" in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    for i in range(3):
        tifffile.imwrite(tmp_path / "in" / f"c{i}.tif", crops(1, 64, 64)[0])
    assert main(["new", str(tmp_path / "p"), str(tmp_path / "in"), "--preview"]) == OK
    assert "The images are of 64 px at most. If each is one cell" in capsys.readouterr().out
    assert main(["new", str(tmp_path / "p"), str(tmp_path / "in"), "--crops", "--preview"]) == OK
    assert "No channel has a role yet" in capsys.readouterr().out


def test_crops_in_no_folder_of_a_zip_are_on_a_sheet_of_its_name(shared, tmp_path):
    """A sheet called by a temporary folder would give the same cells other ids next time."""
    with zipfile.ZipFile(shared / "data" / "pci_yeast" / "crops.zip") as whole:
        some = [n for n in whole.namelist() if n.endswith("_gfp.tif")][:4]
        with zipfile.ZipFile(tmp_path / "week 1.zip", "w") as flat:
            for i, name in enumerate(some):
                flat.writestr(f"odd{i}.tif", whole.read(name))
    ids = [
        list(drain(import_crops(tmp_path / name, [tmp_path / "week 1.zip"])).cells.obs_names) for name in "ab"
    ]
    assert ids[0] == ids[1]
    assert all(cell.startswith("week_1:") for cell in ids[0])


def test_crops_without_numbers_are_refused_as_such(tmp_path):
    np.save(tmp_path / "nan.npy", np.full((5, 2, 30, 30), np.nan, np.float32))
    with pytest.raises(InputError, match=r"Every crop in nan.npy holds NaN or infinite values"):
        drain(import_crops(tmp_path / "p", [tmp_path / "nan.npy"]))
    assert not (tmp_path / "p.cellrep").exists()
