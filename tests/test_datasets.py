"""Every shared dataset, from files to a table: other labs' formats, stains, shapes and odd habits.

Names that a layout explains are given without a pattern. Sets of ready-made crops are at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.cli import OK, main
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.filters import matching

pytestmark = pytest.mark.slow

# What numbers of the table are of use at all: a cell of two pixels has no texture, but it has these.
PLAIN = ("area_px", "y_px", "x_px", "q_focus", "q_area_share")


def _run(*argv: object) -> None:
    assert main([str(a) for a in argv]) == OK, argv


def _through(
    folder: Path,
    new: Sequence[object],
    segment: Sequence[object],
    channels: str,
    large_cells: bool = False,
) -> tuple[Project, pd.DataFrame]:
    """Import, segment, embed measurements of `channels` and export, as typed; the project and the exported table.

    With `large_cells` the cells are larger than the window of 64 px, and the flag has to say so of most of them.
    """
    root, csv = folder / "p.cellrep", folder / "cells.csv"
    _run("new", root, *new)
    _run("segment", root, *segment)
    _run("embed", root, "--model", "measurements", "--channels", channels)
    _run("export", root, csv, "--keep-missing")
    project = open_project(root)
    cells = project.cells
    obs = cells.obs
    assert obs.index.is_unique
    assert (obs.index == obs["field"].astype(str) + ":" + obs["label"].astype(str)).all()
    assert np.isfinite(obs[list(PLAIN)].to_numpy(float)).all()
    if large_cells:
        assert obs["flags"].astype(str).str.contains("area").mean() > 0.5
    else:
        assert obs["good"].any(), "no cell without a flag"
    x = np.asarray(cells.obsm["X_measurements"])
    assert x.dtype == np.float32
    assert np.isfinite(x[obs["good"].to_numpy(bool)]).all(), "a good cell has no numbers"
    for field, rows in obs.groupby(obs["field"].astype(str)):
        labels = project.read_labels(field)
        assert sorted(rows["label"]) == np.unique(labels[labels > 0]).tolist()
        assert int(rows["area_px"].sum()) == int((labels > 0).sum())
    table = pd.read_csv(csv, index_col="cell_id")
    assert list(table.index) == list(obs.index)
    return project, table


def _n_cells(project: Project) -> dict[str, int]:
    counts = project.cells.obs["field"].astype(str).value_counts()
    return {f.id: int(counts.get(f.id, 0)) for f in project.fields}


def _means(project: Project, channel: int) -> np.ndarray:
    """The embedding's mean intensity of its `channel`-th channel."""
    return np.asarray(project.cells.obsm["X_measurements"])[:, 3 * channel + 1]


def test_bbbc013(shared, tmp_path):
    data = shared / "data" / "bbbc013"
    wells = [data / "wells" / f"{w}.ome.tif" for w in ("A01", "C06", "G01")]
    project, table = _through(
        tmp_path,
        [*wells, "--channels", "FKHR-GFP:protein,DNA:nucleus", "--metadata", data / "plate.csv"],
        ["--segmenter", "nuclei"],
        "protein,nucleus",
    )
    counts = _n_cells(project)
    assert set(counts) == {"A01", "C06", "G01"}
    assert all(80 <= n <= 370 for n in counts.values()), counts
    assert set(table["compound"]) == {"Wortmannin", "LY294002"}
    assert table.groupby("field")["control"].first().to_dict() == {"A01": -1, "C06": 0, "G01": 1}
    # FKHR goes into the nucleus with the drug: brighter nuclei against their DNA in the positive control.
    ratio = pd.Series(_means(project, 0) / _means(project, 1), index=project.cells.obs["field"].astype(str))
    ratio = ratio.groupby(level=0).median()
    assert ratio["G01"] > 1.3 * ratio["A01"]


def test_cyclenet_yeast_without_nuclei_and_an_empty_field(shared, tmp_path):
    data = shared / "data" / "cyclenet_yeast"
    project, _ = _through(
        tmp_path,
        [data, "--pattern", r"(?P<field>r\d+c\d+f\d+)\.ome\.tif", "--channels", "GFP:protein,NUC:nucleus,CYT:structure"],
        ["--segmenter", "bodies", "--channel", "CYT"],
        "GFP,CYT",
    )  # fmt: skip
    counts = _n_cells(project)
    assert 200 <= counts["r01c01f01"] <= 900
    assert counts["r02c01f03"] == 0
    assert "no cell" in project.field("r02c01f03").problem
    assert project.field("r01c01f01").problem == ""


def test_cyclenet_yeast_with_the_authors_labels(shared, tmp_path):
    data = shared / "data" / "cyclenet_yeast"
    project, _ = _through(
        tmp_path,
        [data / "r01c01f01.ome.tif", data / "r02c01f03.ome.tif", "--channels", "GFP:protein,NUC:nucleus,CYT:structure"],
        ["--segmenter", "imported", "--pattern", data / "{field}_labels.tif"],
        "GFP,CYT",
    )  # fmt: skip
    truth = tifffile.imread(data / "r01c01f01_labels.tif")
    np.testing.assert_array_equal(project.read_labels("r01c01f01"), truth)
    n_empty = len(np.unique(tifffile.imread(data / "r02c01f03_labels.tif"))) - 1
    assert _n_cells(project) == {"r01c01f01": len(np.unique(truth)) - 1, "r02c01f03": n_empty}


def test_jump_cellpainting(shared, tmp_path):
    data = shared / "data" / "jump_cellpainting"
    project, _ = _through(
        tmp_path,
        [data / "BR00117006_r01c01f01_ch2-3-5.ome.tif", "--channels", "ch2:er,ch3:rna,ch5:nucleus"],
        ["--segmenter", "cells", "--cell-channels", "rna:1,er:0.5"],
        "ch3,ch5",
    )
    (field,) = project.fields
    assert (field.dtype, field.height_px, field.width_px) == ("uint16", 1080, 1080)
    (n,) = _n_cells(project).values()
    assert 100 <= n <= 230, n
    dna = project.read_image(field.id)[2]
    labels = project.read_labels(field.id)
    assert dna[labels > 0].mean() > 1.5 * dna[labels == 0].mean()


def test_coelho2009_one_channel_only(shared, tmp_path):
    data = shared / "data" / "coelho2009_nuclei"
    names = ("gnf_00", "ic100_12")
    project, _ = _through(
        tmp_path,
        [*(data / f"{n}_img.png" for n in names), "--pattern", "{field}_img.png", "--channels", "nucleus"],
        ["--segmenter", "nuclei"],
        "nucleus",
    )
    for name, n in _n_cells(project).items():
        truth = len(np.unique(iio.imread(data / f"{name}_mask.png"))) - 1
        assert 0.7 * truth <= n <= 1.4 * truth, (name, n, truth)


def test_dsb2018_sizes_differ_from_field_to_field(shared, tmp_path):
    data = shared / "data" / "dsb2018_nuclei"
    names = [p.name.removesuffix("_img.png") for p in sorted(data.glob("*_img.png"))[::20]]
    assert len(names) == 5
    project, _ = _through(
        tmp_path,
        [*(data / f"{n}_img.png" for n in names), "--pattern", "{field}_img.png", "--channels", "nucleus"],
        ["--segmenter", "nuclei"],
        "nucleus",
    )
    found, true = (
        _n_cells(project),
        {n: len(np.unique(iio.imread(data / f"{n}_mask.png"))) - 1 for n in names},
    )
    assert list(found) == names
    assert 0.8 * sum(true.values()) <= sum(found.values()) <= 1.25 * sum(true.values()), (found, true)


def test_cellprofiler_ht29_one_file_per_channel(shared, tmp_path):
    project, _ = _through(
        tmp_path,
        [shared / "data" / "cellprofiler_ht29", "--channels", "0=DNA:nucleus,1=PH3:protein,2=actin:actin"],
        ["--segmenter", "nuclei"],
        "PH3,DNA",
    )  # fmt: skip
    assert [c.role for c in project.channels] == ["nucleus", "protein", "actin"]
    ((name, n),) = _n_cells(project).items()
    assert name == "AS_09125_050116030001_D03_00"
    assert project.fields[0].metadata["well"] == "D03"
    assert project.last("import")["layout"] == "arrayscan"
    assert 40 <= n <= 400, n
    # Phospho-histone H3 marks the few cells in mitosis: a handful of bright ones.
    ph3 = _means(project, 0)
    bright = (ph3 > np.median(ph3) + 10 * np.median(np.abs(ph3 - np.median(ph3)))).mean()
    assert 0.005 < bright < 0.3


def test_cellprofiler_fly_kc167_dense(shared, tmp_path):
    project, _ = _through(
        tmp_path,
        [shared / "data" / "cellprofiler_fly_kc167" / "01_POS002.ome.tif", "--channels", "DNA:nucleus,actin:actin,R:protein"],
        ["--segmenter", "cells", "--cell-channels", "actin"],
        "R,DNA",
    )  # fmt: skip
    (n,) = _n_cells(project).values()
    assert 100 <= n <= 1500, n


def test_hpa_cyclinb1_with_its_own_labels(shared, tmp_path):
    data = shared / "data" / "hpa_cyclinb1" / "B_1"
    project, _ = _through(
        tmp_path,
        [data, "--pattern", "{channel}.png", "--channels", "nuclei=DNA:nucleus,cyclinb1=cyclin B1:protein"],
        ["--segmenter", "imported", "--pattern", data / "cell_combined_labels.png"],
        "protein,nucleus",
        large_cells=True,
    )
    (field,) = project.fields
    assert (field.dtype, field.height_px, field.width_px) == ("uint16", 2048, 2048)
    truth = iio.imread(data / "cell_combined_labels.png")
    np.testing.assert_array_equal(project.read_labels(field.id), truth)
    assert sum(_n_cells(project).values()) == len(np.unique(truth)) - 1


def test_hpa_field_of_three_pngs(shared, tmp_path):
    project, _ = _through(
        tmp_path,
        [shared / "data" / "hpa_fov"],
        ["--segmenter", "nuclei"],
        "protein,microtubules",
        large_cells=True,
    )  # fmt: skip
    ((name, n),) = _n_cells(project).items()
    assert name == "57_F11_1"
    assert [c.role for c in project.channels] == ["nucleus", "protein", "microtubules"]
    assert dict(project.fields[0].metadata) == {"plate": "57", "well": "F11", "site": "1"}
    assert project.fields[0].dtype == "uint8"
    assert 5 <= n <= 80, n


def test_ebimage_stack_is_what_the_user_says(shared, tmp_path):
    """Four frames in one TIFF that names no axis: channels, or planes of a stack."""
    tif = shared / "data" / "misc_small" / "ebimage_nuclei.tif"
    (tmp_path / "z").mkdir()
    (tmp_path / "c").mkdir()
    project, _ = _through(
        tmp_path / "z",
        [tif, "--stack", "z", "--z", "0", "--channels", "nucleus"],
        ["--segmenter", "nuclei"],
        "nucleus",
    )
    frames = tifffile.imread(tif)
    np.testing.assert_array_equal(project.read_image(project.fields[0].id), frames[:1])
    (n,) = _n_cells(project).values()
    assert 40 <= n <= 130, n
    channels = "a:nucleus,b,c:structure,d:protein"
    project, _ = _through(
        tmp_path / "c", [tif, "--channels", channels], ["--segmenter", "nuclei", "--channel", "d"], "d,a"
    )
    np.testing.assert_array_equal(project.read_image(project.fields[0].id), frames)


def test_hela_samples_as_channels(shared, tmp_path):
    """A 16-bit colour TIFF (Y, X, samples) whose colours are stains."""
    tif = shared / "data" / "misc_small" / "imagej_hela-cells.tif"
    project, _ = _through(
        tmp_path,
        [tif, "--rgb", "split", "--channels", "lysosomes:protein,mitochondria:mito,nuclei:nucleus"],
        ["--segmenter", "nuclei"],
        "protein,mito",
        large_cells=True,
    )
    image = project.read_image("imagej_hela-cells")
    np.testing.assert_array_equal(image, np.moveaxis(tifffile.imread(tif), -1, 0))
    assert image.dtype == np.uint16
    (n,) = _n_cells(project).values()
    assert 4 <= n <= 50, n


def test_bbbc022_crop(shared, tmp_path):
    project, _ = _through(
        tmp_path,
        [shared / "data" / "misc_small" / "bbbc022_IXMtest_A02_s9_crop.ome.tif", "--channels", "DNA:nucleus,ER:er,RNA:rna"],
        ["--segmenter", "cells", "--cell-channels", "RNA,ER"],
        "RNA,ER",
    )  # fmt: skip
    (n,) = _n_cells(project).values()
    assert 10 <= n <= 120, n


def test_mibi_many_channels_and_labels_with_gaps(shared, tmp_path):
    data = shared / "data" / "mibi_tnbc_fov8"
    project, _ = _through(
        tmp_path,
        [data / "fov8_22ch.ome.tif"],
        ["--segmenter", "imported", "--pattern", data / "fov8_segmentation_labels.tif"],
        "CD3,CD20,BetaTubulin",
    )
    assert len(project.channels) == 22
    truth = tifffile.imread(data / "fov8_segmentation_labels.tif")
    assert sorted(project.cells.obs["label"]) == np.unique(truth[truth > 0]).tolist()
    assert project.cells.obs["label"].max() > project.cells.n_obs  # the gaps stay


def test_duloc_one_jpeg_per_channel(shared, tmp_path):
    """Nine cells per image on a black ground; JPEG leaves small values where the ground was 0."""
    images = shared / "data" / "duloc_hpa" / "images"
    some = [images / f"mixed_img{i}_{c}.jpg" for i in (118, 119) for c in ("blue", "green", "red", "yellow")]
    project, _ = _through(
        tmp_path,
        [*some, "--metadata", _duloc_labels(shared, tmp_path)],
        ["--segmenter", "cells", "--cell-channels", "microtubules,ER"],
        "protein,DNA",
        large_cells=True,
    )  # fmt: skip
    assert {f.id for f in project.fields} == {"mixed_img118", "mixed_img119"}
    assert all(7 <= n <= 12 for n in _n_cells(project).values()), _n_cells(project)
    # A column with several values: what each image is a mixture of.
    truth = pd.read_csv(shared / "data" / "duloc_hpa" / "labels.csv").set_index("id")["fractions"]
    words = {
        f: "; ".join(p.partition("=")[0] for p in truth[f].split(";"))
        for f in ("mixed_img118", "mixed_img119")
    }
    obs = project.cells.obs
    for place in {p.strip() for w in words.values() for p in w.split(";")}:
        fields = set(obs["field"].astype(str)[matching(obs, f"places has '{place}'")])
        assert fields == {f for f, w in words.items() if place in w}


def _duloc_labels(shared: Path, folder: Path) -> Path:
    """The set's table as Excel, with the places apart from their fractions, joined by the beginning of the names."""
    table = pd.read_csv(shared / "data" / "duloc_hpa" / "labels.csv").rename(columns={"id": "prefix"})
    table["places"] = table["fractions"].str.replace(r"=[\d.]+", "", regex=True)
    table.to_excel(folder / "labels.xlsx", index=False)
    return folder / "labels.xlsx"


# ---- ready-made crops ------------------------------------------------------------------------------


def _crops(folder: Path, *new: object, channels: str = "") -> Project:
    """Import crops, embed measurements (of `channels`, else of those with the roles for it) and export, as typed."""
    root = folder / "p.cellrep"
    _run("new", root, *new, "--crops")
    _run("embed", root, "--model", "measurements", *(["--channels", channels] if channels else []))
    _run("export", root, folder / "cells.csv")
    project = open_project(root)
    obs = project.cells.obs
    assert obs["good"].mean() > 0.99
    assert np.isfinite(np.asarray(project.cells.obsm["X_measurements"])[obs["good"].to_numpy(bool)]).all()
    assert len(pd.read_csv(folder / "cells.csv")) == len(obs)
    return project


def _same(project: Project, column: str, table: pd.Series) -> None:
    """Whether a column of the cells says of every crop (by the name of its first file) what the table says."""
    obs = project.cells.obs
    found = obs[column].astype(object).where(obs[column].notna(), None)
    wanted = table.reindex(obs["crop"].astype(str))
    assert [str(a) for a in found] == [str(b) if b == b else "None" for b in wanted]


def test_pci_yeast_crops(shared, tmp_path):
    data = shared / "data" / "pci_yeast"
    project = _crops(tmp_path, data / "crops.zip")
    table = pd.read_csv(data / "index.csv")
    table.index = table["gfp"].str.rpartition("/")[2]
    assert project.cells.n_obs == 842
    assert project.cells.obs.groupby(project.cells.obs["protein"].astype(str)).size().to_dict() == {
        "AAC1": 272, "AAC3": 343, "AAP1": 227,
    }  # fmt: skip
    _same(project, "protein", table["protein"])
    assert len(project.fields) == 9  # three proteins, three fields each


def test_pci_yeast_loose_cells_by_their_names(shared, tmp_path):
    project = _crops(tmp_path, shared / "data" / "pci_yeast" / "folder_sample")
    assert project.cells.n_obs == 27
    assert [c.role for c in project.channels] == ["protein", "structure"]


def test_pci_human_crops(shared, tmp_path):
    project = _crops(tmp_path, shared / "data" / "pci_human" / "crops.zip")
    assert {str(k): n for k, n in project.cells.obs["protein"].value_counts().items()} == {
        "A1CF": 18,
        "AAAS": 10,
    }
    assert [c.role for c in project.channels] == ["protein", "nucleus", "microtubules"]
    assert project.last("import")["window_px"] == 128


def test_bbbc013_crops_of_many_sizes_with_labels_by_hand(shared, tmp_path):
    data = shared / "data" / "bbbc013_cells"
    project = _crops(tmp_path, data / "crops.zip", "--channels", "gfp=FKHR-GFP:protein,dna=DNA:nucleus")
    table = pd.read_csv(data / "labels.csv")
    table.index = table["gfp"].str.rpartition("/")[2]
    assert project.cells.n_obs == 486
    _same(project, "meta_label", table["label"])
    assert {f.group for f in project.fields} == {"A01", "A12"}
    obs = project.cells.obs
    assert (obs["area_px"] <= obs["width"] * obs["height"]).all()  # outlines, not frames
    assert obs["area_px"].median() < 0.9 * (obs["width"] * obs["height"]).median()


def test_jurkat_arrays(shared, tmp_path):
    project = _crops(
        tmp_path,
        shared / "data" / "jurkat_cellcycle" / "jurkat.npz",
        "--channels",
        "BF:brightfield,PI:nucleus,SSC:other",
        channels="PI,BF",
    )
    with np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz") as held:
        truth = held["label"]
    assert project.cells.obs["meta_label"].astype(str).tolist() == truth.astype(str).tolist()
    assert project.last("import")["window_px"] == 40


def test_deeploc_hdf5(shared, tmp_path):
    project = _crops(
        tmp_path,
        shared / "data" / "deeploc_schuldiner" / "Schuldiner_test_set.hdf5",
        "--channels",
        "RFP:protein,DIC:brightfield",
    )
    assert project.cells.n_obs == 36
    assert project.fields[0].dtype == "uint16"
    assert "Vacuole Membrane" in set(project.cells.obs["Index1"].astype(str))


def test_hpa_arrays_with_channels_last(shared, tmp_path):
    channels = "MT:microtubules,protein:protein,DNA:nucleus,ER:er"
    project = _crops(tmp_path, shared / "data" / "hpa_fov" / "56_F11_1_cells.npz", "--channels", channels)
    assert project.cells.n_obs == 13
    assert len(project.channels) == 4
