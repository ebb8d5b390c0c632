from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.data import create_project, open_project
from napari_cellrep.data.cells import QualityRules, measure_field, reconcile_labels, set_flags
from napari_cellrep.data.crops import find_cells, mask_hashes
from napari_cellrep.data.fields import Field
from napari_cellrep.data.project import FORMAT, Project
from napari_cellrep.specs import Channel, InputError


def embed(
    project: Project, key: str = "pci", seed: int = 0, how: str = "a", fields: tuple[str, ...] = ()
) -> None:
    """Rows that tell which cell they are of: (label, field's number, seed)."""
    project.start_embedding(key, {"weights": how})
    for i, field in enumerate(project.fields):
        if fields and field.id not in fields:
            continue
        labels = project.read_labels(field.id)
        cells = find_cells(labels)
        x = np.stack([cells.label, np.full(len(cells), i), np.full(len(cells), seed)], axis=1).astype(
            np.float32
        )
        project.write_rows(key, field.id, cells.label, mask_hashes(labels, cells), x)


def remeasure(project: Project) -> ad.AnnData:
    frames = [
        measure_field(f, project.read_image(f.id), project.read_labels(f.id), project.channels, 64)
        for f in project.fields
        if project.has_labels(f.id)
    ]
    return project.merge(set_flags(pd.concat([f for f in frames if len(f)]), QualityRules()))


def check_rows(project: Project, table: ad.AnnData, key: str = "pci") -> None:
    """No row of an embedding is of another cell."""
    x, has = table.obsm[f"X_{key}"], table.obs[f"has_{key}"].to_numpy()
    assert np.array_equal(x[has, 0], table.obs["label"].to_numpy()[has])
    order = {f.id: i for i, f in enumerate(project.fields)}
    assert np.array_equal(x[has, 1], table.obs["field"].astype(str).map(order).to_numpy()[has])
    assert np.isnan(x[~has]).all()
    assert (
        table.obs.index == [f"{f}:{n}" for f, n in zip(table.obs["field"], table.obs["label"], strict=True)]
    ).all()


def test_opens_with_anndata_alone(sample_project):
    embed(sample_project)
    table = sample_project.merge()
    check_rows(sample_project, table)
    assert table.obs["has_pci"].all()
    seen = ad.read_zarr(sample_project.root / "cells.zarr")
    assert np.array_equal(seen.obsm["X_pci"], table.obsm["X_pci"])
    assert seen.obs["mask_hash"].dtype == np.uint64
    assert json.loads(seen.uns["cellrep"]["X_pci"])["weights"] == "a"
    assert json.loads((sample_project.root / "cells.zarr" / "zarr.json").read_text())["zarr_format"] == 3
    assert open_project(sample_project.root).cells.obs.index.equals(table.obs.index)


def test_label_edited_by_hand_keeps_its_id_and_loses_its_rows(sample_project):
    embed(sample_project)
    table = sample_project.merge()
    table.obs["score"] = np.arange(table.n_obs, dtype=float)
    table.obs["cluster"] = pd.Categorical(["x"] * table.n_obs)
    table.obs["picked"] = True
    table.obsm["X_umap_pci"] = np.ones((table.n_obs, 2), np.float32)
    sample_project.write_cells(table)
    labels = sample_project.read_labels("A06").astype(np.int32)
    edited = labels.copy()
    edited[labels == 7] = 0
    y, x = np.argwhere(labels == 5)[0]
    edited[y, x] = 0
    edited = reconcile_labels(labels, edited)
    sample_project.write_labels("A06", edited, {"edited": True})
    after = remeasure(sample_project)
    check_rows(sample_project, after)
    assert "A06:7" not in after.obs.index
    row = after.obs.index.get_loc("A06:5")
    assert not after.obs["has_pci"].iloc[row]
    assert np.isnan(after.obs["score"].iloc[row])
    assert after.obs["cluster"].isna().iloc[row]
    assert not after.obs["picked"].iloc[row]
    assert np.isnan(after.obsm["X_umap_pci"][row]).all()
    others = after.obs.index != "A06:5"
    assert after.obs["has_pci"][others].all()
    assert (after.obs["score"][others] == table.obs["score"].reindex(after.obs.index)[others]).all()
    assert after.obs["picked"].dtype == bool
    open_project(sample_project.root).cells  # noqa: B018  (still readable)
    again = sample_project.merge()  # and nothing comes back by itself
    assert not again.obs["has_pci"].iloc[row]


def test_merging_and_splitting_cells_make_new_ids(sample_project):
    embed(sample_project)
    sample_project.merge()
    labels = sample_project.read_labels("A01").astype(np.int32)
    cells = find_cells(labels)
    big = int(cells.label[np.argmax(cells.area_px)])
    y0, _, y1, _ = cells.box[cells.label == big][0]
    other = int(next(n for n in cells.label if n != big))
    third = int(next(n for n in cells.label if n not in (big, other)))
    edited = labels.copy()
    edited[(labels == big) & (np.indices(labels.shape)[0] < (y0 + y1) // 2)] = labels.max() + 1  # split
    edited[labels == other] = third  # merge
    edited = reconcile_labels(labels, edited)
    assert not {big, other, third} & set(np.unique(edited).tolist())
    sample_project.write_labels("A01", edited, {})
    after = remeasure(sample_project)
    check_rows(sample_project, after)
    new = after.obs["label"][(after.obs["field"] == "A01") & ~after.obs["has_pci"]]
    assert len(new) == 3
    assert new.min() > labels.max()


def test_rows_made_another_way_do_not_stay(sample_project):
    embed(sample_project)
    sample_project.merge()
    embed(sample_project, how="b", seed=1, fields=("A01",))  # stopped after one field
    table = sample_project.merge()
    check_rows(sample_project, table)
    assert set(table.obs["field"][table.obs["has_pci"]]) == {"A01"}
    assert (table.obsm["X_pci"][table.obs["has_pci"].to_numpy(), 2] == 1).all()
    sample_project.start_embedding("pci", {"weights": "c"})  # stopped before the first
    table = sample_project.merge()
    assert "X_pci" not in table.obsm
    assert "has_pci" not in table.obs
    assert "X_pci" not in table.uns["cellrep"]


def test_broken_rows_count_as_none(sample_project):
    embed(sample_project)
    (sample_project.embedding_folder("pci") / "A06.npy").write_bytes(b"\x93NUMPY broken")
    table = sample_project.merge()
    check_rows(sample_project, table)
    assert not table.obs["has_pci"][table.obs["field"] == "A06"].any()


def test_graphs_stay_only_while_the_rows_do(sample_project):
    from scipy.sparse import identity

    table = sample_project.cells
    table.obsp["connectivities"] = identity(table.n_obs, format="csr")
    sample_project.write_cells(table)
    assert "connectivities" in sample_project.merge().obsp
    sample_project.write_labels("E12", np.zeros((640, 640), np.uint16), {})
    assert "connectivities" not in remeasure(sample_project).obsp


def test_what_another_process_wrote_is_not_lost(sample_project):
    first, second = open_project(sample_project.root), open_project(sample_project.root)
    assert first.cells.n_obs == second.cells.n_obs
    table = second.cells
    table.obs["score"] = 1.0
    second.write_cells(table)
    embed(first)
    assert (first.merge().obs["score"] == 1).all()
    second.mark({"A01": "It is bad."})
    first.mark({"A06": "It is worse."})
    assert [f.id for f in open_project(sample_project.root).usable_fields] == ["A12", "E12"]
    first.log("one")
    second.log("two")
    assert [line["step"] for line in open_project(sample_project.root).history[-2:]] == ["one", "two"]


def test_lock_of_another_process(sample_project):
    code = (
        "import sys, time\nfrom napari_cellrep.data import open_project\n"
        "with open_project(sys.argv[1]).lock():\n    print('ready', flush=True)\n    time.sleep(120)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, sample_project.root], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().strip() == b"ready"
        with pytest.raises(InputError, match="Another process"), sample_project.lock(timeout_s=0.1):
            pass
        process.kill()  # the system frees the lock of a process that dies
        process.wait()
        with (
            sample_project.lock(timeout_s=5),
            sample_project.lock(timeout_s=5),
        ):  # and a writer may call another
            pass
    finally:
        process.kill()
        process.communicate()


def test_crash_between_two_renames(sample_project):
    n = sample_project.cells.n_obs
    root = sample_project.root
    (root / "cells.zarr").rename(root / ".cells.zarr.old")
    (root / ".cells.zarr.1.part").mkdir()
    os.utime(root / ".cells.zarr.1.part", (1, 1))
    project = open_project(root)
    assert project.has_cells
    assert project.cells.n_obs == n
    assert not [p for p in root.iterdir() if p.suffix in (".old", ".part")]


def test_disk_that_fills_keeps_the_old_table(sample_project, monkeypatch):
    n = sample_project.cells.n_obs
    monkeypatch.setattr(
        ad.AnnData,
        "write_zarr",
        lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(InputError, match="disk is full"):
        sample_project.merge()
    assert open_project(sample_project.root).cells.n_obs == n
    with pytest.raises(InputError, match="disk is full"):
        sample_project.write_groups(sample_project.cells)
    assert sample_project.groups is None


def test_read_only_project_can_be_seen(sample_project, monkeypatch):
    from filelock import FileLock

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    project = open_project(sample_project.root)
    assert project.cells.n_obs
    assert project.read_labels("A01").any()
    with pytest.raises(InputError, match="read-only"):
        project.log("x")


@pytest.mark.parametrize(("text", "words"), [
    ("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), ('{"format": "1", "channels": []}', "damaged"),
    (json.dumps({"format": FORMAT + 1, "channels": []}), "newer version"),
])  # fmt: skip
def test_bad_project_files(tmp_path, text, words):
    (tmp_path / "p.cellrep").mkdir()
    (tmp_path / "p.cellrep" / "project.json").write_text(text)
    with pytest.raises(InputError, match=words):
        open_project(tmp_path / "p")


def test_no_project(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        open_project(tmp_path / "p")
    with pytest.raises(InputError, match=r"no project\.json"):
        open_project(tmp_path)


def test_labels_of_another_shape_or_kind(sample_project):
    good = sample_project.read_labels("A01")
    with pytest.raises(InputError, match="Labels have to be of their image's size"):
        sample_project.write_labels("A01", np.ones((10, 10), int), {})
    for bad in (-np.ones((640, 640), int), np.full((640, 640), 0.5), np.full((640, 640), 2**40)):
        with pytest.raises(InputError, match="no labels"):
            sample_project.write_labels("A01", bad, {})
    assert np.array_equal(sample_project.read_labels("A01"), good)
    path = sample_project.labels_path("A01")
    tifffile.imwrite(path, good.astype(np.float32))  # as Fiji may save it
    assert np.array_equal(sample_project.read_labels("A01"), good)
    assert sample_project.read_labels("A01").dtype == np.uint32
    tifffile.imwrite(path, good[:100])
    with pytest.raises(InputError, match="640 × 100 px"):
        sample_project.read_labels("A01")
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="segment field A01 again"):
        sample_project.read_labels("A01")
    assert sample_project.label_info("A01") == {}


def test_large_labels_and_what_is_told_of_them(sample_project):
    labels = np.zeros((640, 640), np.int64)
    labels[3:9, 3:9], labels[20:30, 20:30] = 70_000, 5
    sample_project.write_labels("A01", labels, {"segmenter": "nuclei", "settings": {"a": 1.5}})
    assert sample_project.read_labels("A01").dtype == np.uint32
    assert np.array_equal(sample_project.read_labels("A01"), labels)
    assert sample_project.label_info("A01") == {"segmenter": "nuclei", "settings": {"a": 1.5}, "n_cells": 2}


def test_field_changed_since_import(sample_project, tmp_path):
    image = sample_project.read_image("A01")
    tifffile.imwrite(tmp_path / "x.ome.tif", image[:, :100], photometric="minisblack")
    field = sample_project.field("A01")
    planes = tuple(type(p)(str(tmp_path / "x.ome.tif"), p.channel) for p in field.planes)
    import dataclasses

    sample_project.write_fields([dataclasses.replace(field, planes=planes)])
    with pytest.raises(InputError, match="640×100 px now; import it again"):
        sample_project.read_image("A01")
    Path(tmp_path / "x.ome.tif").unlink()
    with pytest.raises(InputError, match=r"Field A01: .* is not there"):
        sample_project.read_image("A01")


def test_channels_are_renamed(sample_project):
    sample_project.set_channels([Channel("a", "nucleus"), Channel("b", "protein")])
    assert [c.name for c in open_project(sample_project.root).channels] == ["a", "b"]
    for wrong, words in (
        ([Channel("a")], "has 2 channels"),
        ([Channel("a"), Channel("a")], "two channels called 'a'"),
    ):
        with pytest.raises(InputError, match=words):
            sample_project.set_channels(wrong)


def test_empty_tables(tmp_path):
    project = create_project(tmp_path / "p", [Field("a", (), 8, 8)], [Channel("c")])
    with pytest.raises(InputError, match="no cells yet"):
        project.cells  # noqa: B018
    with pytest.raises(InputError, match="not segmented yet"):
        project.read_labels("a")
    obs = set_flags(
        measure_field(project.fields[0], np.ones((1, 8, 8)), np.zeros((8, 8), int), project.channels, 8),
        QualityRules(),
    )
    assert project.merge(obs).n_obs == 0
    assert open_project(project.root).cells.n_obs == 0
    assert open_project(project.root).merge().n_obs == 0
    for names, words in ((["a", "a"], "two fields"), (["b"], "exists already")):
        with pytest.raises(InputError, match=words):
            create_project(
                tmp_path / ("p" if names == ["b"] else "q"), [Field(n, ()) for n in names], [Channel("c")]
            )
    for key in ("a/b", ".a"):
        with pytest.raises(InputError, match="cannot be called"):
            project.embedding_folder(key)
