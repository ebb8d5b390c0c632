from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from napari_cellrep.data import Project
from napari_cellrep.data.sets import write_sets
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import cut_cells
from napari_cellrep.steps.export_images import _spec, write_crops, write_spatialdata


def _wanted(project: Project, cell: str) -> np.ndarray:
    """The crop of one cell, cut by itself."""
    row = project.cells.obs.loc[[cell]]
    return cut_cells(project, str(row["field"].iloc[0]), row, _spec(project, "", 0), (0, 1))[0]


def test_crops_of_a_group_are_one_stack_with_its_table(small: Project, tmp_path: Path):
    out = drain(write_crops(small, tmp_path / "crops"))
    index = pd.read_csv(out / "index.csv", index_col="cell_id")
    good = small.cells.obs["good"]
    assert set(index.index) == set(good.index[good])
    for file in index["file"].unique():
        with tifffile.TiffFile(out / file) as tif:
            assert tif.is_ome
            assert tif.series[0].axes in ("TCYX", "CYX")
            assert 'Name="FKHR-GFP"' in tif.ome_metadata
            pixels = tif.asarray().reshape(-1, 2, 64, 64)
        own = index[index["file"] == file]
        assert sorted(own["place"]) == list(range(len(pixels)))
        for cell, row in own.iloc[:: max(1, len(own) // 4)].iterrows():
            assert np.array_equal(pixels[row["place"]], _wanted(small, cell))
    assert json.loads((out / "crops.json").read_text())["crop"]["window_px"] == 64
    drain(write_crops(small, out, window_px=32))  # such an export is replaced
    assert tifffile.imread(out / file).shape[-1] == 32


def test_crops_of_a_large_group_wait_in_a_file_and_not_in_memory(small: Project, tmp_path: Path, monkeypatch):
    drain(write_crops(small, tmp_path / "held"))
    module = "napari_cellrep.steps.export_images"
    monkeypatch.setattr(f"{module}.HELD_BYTES", 1)
    monkeypatch.setattr("napari_cellrep.data.slides.BIG_PX", 1)  # so that a group comes in several parts
    monkeypatch.setattr("napari_cellrep.data.slides.TILE_PX", 100)
    most = []
    add = write_crops.__globals__["_Waiting"].add

    def watched(waiting, crops):
        add(waiting, crops)
        most.append(sum(len(part) for part in waiting._held))

    monkeypatch.setattr(f"{module}._Waiting.add", watched)
    drain(write_crops(small, tmp_path / "waited"))
    assert most
    assert not any(most)
    held, waited = (pd.read_csv(tmp_path / n / "index.csv", index_col="cell_id") for n in ("held", "waited"))
    assert set(held.index) == set(waited.index)
    files = {
        n: {f: tifffile.imread(tmp_path / n / f) for f in held["file"].unique()} for n in ("held", "waited")
    }
    for cell, row in waited.iterrows():
        was = held.loc[cell]
        assert np.array_equal(
            files["waited"][row["file"]][row["place"]], files["held"][was["file"]][was["place"]]
        )
    assert sorted(p.name for p in (tmp_path / "waited").iterdir()) == sorted(
        p.name for p in (tmp_path / "held").iterdir()
    )


def test_crops_one_file_per_cell_and_of_a_set(small: Project, tmp_path: Path):
    some = [str(c) for c in small.cells.obs.index[:5]]
    write_sets(small.root, {"five": {"cells": some, "how": "first"}})
    out = drain(write_crops(small, tmp_path / "c", per="cell", set="five", include_flagged=True))
    index = pd.read_csv(out / "index.csv", index_col="cell_id")
    assert list(index.index) == some
    for cell, file in index["file"].items():
        assert np.array_equal(tifffile.imread(out / file), _wanted(small, cell))


def test_crops_as_a_sharded_array_beside_its_table(small: Project, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("napari_cellrep.steps.export_images.SHARD", 128)  # several shards of few cells
    out = drain(write_crops(small, tmp_path / "crops.zarr", format="zarr", include_flagged=True))
    array = zarr.open_array(out / "obsm" / "crops")
    assert array.metadata.zarr_format == 3
    assert (array.chunks[0], array.shards[0]) == (64, 128)
    table = ad.read_zarr(out)
    assert table.n_obs == small.cells.n_obs > 128
    for i in (0, 127, 128, table.n_obs - 1):
        assert np.array_equal(table.obsm["crops"][i], _wanted(small, table.obs_names[i]))
    assert json.loads(table.uns["cellrep"]["crops"])["channels"] == ["FKHR-GFP", "DNA"]
    n_files = sum(p.is_file() for p in (out / "obsm" / "crops").rglob("*"))
    assert n_files == -(-table.n_obs // 128) + 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"format": "jpg"}, "no form of crops"),
        ({"per": "plate"}, "no way to part crops"),
        ({"embedding": "nope"}, "no embedding 'nope'"),
        ({"set": "nope"}, "no set 'nope'"),
    ],
)
def test_bad_input_is_one_sentence(small: Project, tmp_path: Path, options: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        drain(write_crops(small, tmp_path / "c", **options))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is a folder"):
        drain(write_crops(small, tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_images_that_are_gone_are_said_before_the_work(small: Project, tmp_path: Path):
    (small.root.parent / "images" / "E12.tif").unlink()
    with pytest.raises(InputError, match="E12 are not on the disk"):
        drain(write_crops(small, tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_spatialdata_is_an_extra(small: Project, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"napari-cellrep\[spatialdata\]"):
        drain(write_spatialdata(small, tmp_path / "s.zarr"))


def test_spatialdata_that_cannot_be_loaded_is_a_sentence(small: Project, tmp_path: Path, monkeypatch):
    """As without pkg_resources, which a part of it wants."""
    (tmp_path / "spatialdata.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spatialdata", raising=False)
    with pytest.raises(InputError, match=r"cannot be loaded .*environment of its own"):
        drain(write_spatialdata(small, tmp_path / "s.zarr"))


def test_spatialdata_links_labels_and_table(small: Project, tmp_path: Path):
    pytest.importorskip("spatialdata", reason="an extra with pins of its own")
    out = drain(write_spatialdata(small, tmp_path / "s.zarr", include_flagged=True))
    # Read in another process: the package warns in ways we do not answer for.
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import numpy as np, spatialdata as sd\n"
        "data = sd.read_zarr(sys.argv[1])\n"
        "how = {'spatial_element_names': 'A12_labels', 'table_name': 'cells', 'how': 'left'}\n"
        "_, own = sd.join_spatialelement_table(sdata=data, **how)\n"
        "assert set(own.obs['region']) == {'A12_labels'}\n"
        "assert set(own.obs['instance_id']) == set(np.unique(np.asarray(data['A12_labels'].data))) - {0}\n"
        "assert list(data['A12_image'].coords['c'].values) == ['FKHR-GFP', 'DNA']\n"
        "assert 'A12' in data.coordinate_systems\n"
        "print(len(data.images), len(data.labels), data['cells'].n_obs)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["4", "4", str(small.cells.n_obs)]
