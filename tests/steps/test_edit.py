"""Cells of a slide corrected in a part of it: written by chunks, measured alone, taken back, and whole after every kill."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import create_project, open_project, slides
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.crop import UNMEASURED, crop
from napari_cellrep.steps.edit import open_part, save_part


@pytest.fixture
def slide(sample_project, tmp_path, monkeypatch):
    """Twelve real wells put together, in chunks of 256 px; every cell has its own number."""
    for name, value in (("BIG_PX", 400 * 400), ("SMALLEST_PX", 256), ("CHUNK_PX", 256), ("TILE_PX", 512)):
        monkeypatch.setattr(slides, name, value)
    project = sample_project
    image, labels = project.read_image("A12"), project.read_labels("A12").astype(np.uint32)
    mosaic, tiled = np.tile(image, (1, 3, 4)), np.tile(labels, (3, 4))
    at = np.arange(12).reshape(3, 4).repeat(image.shape[1], 0).repeat(image.shape[2], 1)
    tifffile.imwrite(
        tmp_path / "slide.tif", mosaic, tile=(128, 128), compression="zlib", photometric="minisblack"
    )
    planes = tuple(Plane(str(tmp_path / "slide.tif"), i) for i in range(2))
    field = Field("slide", planes, *mosaic.shape[1:], str(mosaic.dtype))
    made = create_project(tmp_path / "slide", with_groups([field]), project.channels)
    with made.writing_labels("slide", {"segmenter": "test", "digest": "d"}) as writer:
        writer.array[:] = np.where(tiled > 0, tiled + at * int(labels.max()), 0)
        writer.n_cells = len(np.unique(writer.array[:])) - 1
    drain(crop(made))
    made.start_embedding("k", {"model": "made up"})
    obs = made.cells.obs
    made.write_rows(
        "k", "slide", obs["label"].to_numpy(), obs["mask_hash"].to_numpy(),
        np.arange(2.0 * len(obs), dtype=np.float32).reshape(-1, 2), int(made.pixels_of("slide") or "0", 16),
    )  # fmt: skip
    made.merge()
    return made


def inside(part, margin=0):
    """Labels of cells of a part that can be edited, the largest first."""
    found, area = np.unique(part.labels, return_counts=True)
    keep = (found > 0) & ~np.isin(found, part.locked)
    return found[keep][np.argsort(-area[keep], kind="stable")]


def contents(root):
    """Every file of the labels by its bytes."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in (root / "labels").rglob("*") if p.is_file()
            and not p.name.endswith(".lock")}  # fmt: skip


def edit(project, seen, change):
    part = drain(open_part(project, "slide", seen))
    labels = part.labels.copy()
    change(part, labels)
    return part, drain(save_part(project, part, labels))


SEEN = (300, 350, 480, 560)


@pytest.mark.slow
def test_a_part_holds_its_cells_whole_and_locks_what_it_cuts(slide):
    part = drain(open_part(slide, "slide", SEEN))
    y0, x0, y1, x1 = part.box
    assert (y0, x0) <= (SEEN[0], SEEN[1])
    assert y1 > SEEN[2] or x1 > SEEN[3]
    whole = slide.read_labels("slide")
    np.testing.assert_array_equal(part.labels, whole[y0:y1, x0:x1])
    assert part.top == whole.max()
    here, sizes = np.unique(part.labels, return_counts=True)
    all_sizes = dict(zip(*np.unique(whole, return_counts=True), strict=True))
    for label, size in zip(here.tolist(), sizes.tolist(), strict=True):
        if label:
            assert (label in part.locked) == (size < all_sizes[label] or _touches(part, label)), label
    seen = whole[SEEN[0] : SEEN[2], SEEN[1] : SEEN[3]]
    assert not np.isin(part.locked, seen).any()  # all that is in view can be edited
    assert len(part.locked)


def _touches(part, label):
    rim = np.concatenate([part.labels[0], part.labels[-1], part.labels[:, 0], part.labels[:, -1]])
    return label in rim


@pytest.mark.slow
def test_what_was_painted_is_written_and_only_that_is_measured(slide, monkeypatch):
    before, was = slide.cells.copy(), slide.read_labels("slide")
    files = contents(slide.root)

    def change(part, labels):
        erased, merged, into, grown = inside(part)[:4]
        labels[labels == erased] = 0
        labels[labels == merged] = into
        y, x = (int(v) for v in np.argwhere(labels == grown)[0])
        labels[y - 1, x] = grown
        free = np.argwhere(part.labels[5:-5, 5:-5] == 0)[0] + 5
        labels[free[0] : free[0] + 2, free[1] : free[1] + 2] = 3  # a number that a cell elsewhere has
        locked = part.labels == part.locked[0]
        labels[locked] = 0  # and one that the part cuts
        change.names = [int(v) for v in (erased, merged, into, grown)]
        change.free, change.locked = tuple(free), int(part.locked[0])

    part, saved = edit(slide, SEEN, change)
    erased, merged, into, grown = change.names
    y0, x0, y1, x1 = part.box
    top = int(was.max())
    now = slide.read_labels("slide")
    assert saved.n_kept_px == (part.labels == change.locked).sum()
    outside = np.ones(was.shape, bool)
    outside[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(now[outside], was[outside])
    assert not np.isin([erased, merged, into], now).any()
    new = {int(v) for v in np.unique(now)} - {int(v) for v in np.unique(was)}
    assert min(new) > top
    assert now[y0 + change.free[0], x0 + change.free[1]] in new  # not 3, which is another cell
    for level, array in enumerate(slides.label_levels(slide.labels_path("slide"))):
        np.testing.assert_array_equal(np.asarray(array), now[:: 2**level, :: 2**level])
    after = contents(slide.root)
    changed = {name for name in files if after.get(name) != files[name]} | set(after) - set(files)
    chunks = [name for name in changed if not name.endswith(".zattrs")]
    assert len(chunks) == saved.n_chunks
    assert saved.n_chunks < len([n for n in files if not Path(n).name.startswith(".")])
    info = slide.label_info("slide")
    assert info["edited"]
    assert "digest" not in info
    assert info["n_cells"] == len(np.unique(now)) - 1
    (waits,) = info[UNMEASURED]
    assert set(waits["cells"]) == {erased, merged, into, grown} | new

    read = []
    region = type(slide).read_region
    monkeypatch.setattr(
        type(slide), "read_region", lambda p, f, box, c=None: read.append(box) or region(p, f, box, c)
    )
    n = drain(crop(slide, fields=["slide"], only_edited=True))
    assert sum((b[2] - b[0]) * (b[3] - b[1]) for b in read) < (y1 - y0 + 60) * (x1 - x0 + 60)
    assert UNMEASURED not in slide.label_info("slide")
    cells = slide.cells
    assert n == cells.n_obs == info["n_cells"]
    touched = cells.obs["label"].isin({grown, *new}).to_numpy()
    assert touched.sum() == 1 + len(new)
    assert not cells.obs["has_k"].to_numpy()[touched].any()
    assert np.isnan(cells.obsm["X_k"][touched]).all()
    assert cells.obs["has_k"].to_numpy()[~touched].all()
    stayed = cells.obs.index[~touched]
    columns = [c for c in cells.obs if c not in ("flags", "good")]
    for column in columns:  # of others nothing is another
        np.testing.assert_array_equal(
            cells.obs.loc[stayed, column].to_numpy(), before.obs.loc[stayed, column].to_numpy(), column
        )
    np.testing.assert_array_equal(cells[stayed].obsm["X_k"], before[stayed].obsm["X_k"])

    part_of_it = cells.obs.copy()
    drain(crop(slide, fields=["slide"]))  # as if all of it is measured anew
    whole = slide.cells.obs
    assert list(whole.index) == list(part_of_it.index)
    for column in ("area_px", "mask_hash", "box_y0", "box_x1", "q_window_over_edge", "q_saturated_share"):
        np.testing.assert_array_equal(whole[column].to_numpy(), part_of_it[column].to_numpy(), column)
    for column in ("y_px", "x_px", "q_focus"):
        np.testing.assert_allclose(whole[column], part_of_it[column], rtol=1e-5)
    np.testing.assert_allclose(whole["q_signal"], part_of_it["q_signal"], rtol=1e-6)
    np.testing.assert_allclose(whole["q_signal_share"], part_of_it["q_signal_share"], rtol=0.02)


@pytest.mark.slow
def test_a_split_and_a_number_of_an_erased_cell_are_new_cells(slide):
    was = slide.read_labels("slide")
    last = int(was.max())
    y, x = np.argwhere(was == last).mean(axis=0).astype(int)
    seen = (y - 60, x - 60, y + 60, x + 60)

    def erase(part, labels):
        labels[labels == last] = 0

    edit(slide, seen, erase)

    def split(part, labels):
        label = inside(part)[0]
        ys, xs = np.nonzero(labels == label)
        half = ys > np.median(ys)
        labels[ys[half], xs[half]] = labels.max() + 1
        split.label = int(label)

    edit(slide, seen, split)
    now = slide.read_labels("slide")
    new = sorted({int(v) for v in np.unique(now)} - {int(v) for v in np.unique(was)})
    assert new == [last + 1, last + 2]  # the last cell's number does not come again
    assert split.label not in now
    assert len(slide.label_info("slide")[UNMEASURED]) == 2
    n = drain(crop(slide, fields=["slide"], only_edited=True))
    assert n == len(np.unique(now)) - 1
    obs = slide.cells.obs
    assert set(obs["label"]) == set(np.unique(now[now > 0]).tolist())


@pytest.mark.slow
def test_what_is_edited_while_cells_are_measured_waits_for_the_next_time(slide, monkeypatch):
    def erase(part, labels):
        labels[labels == inside(part)[0]] = 0

    edit(slide, SEEN, erase)
    merge = type(slide).merge

    def meanwhile(project, *args):
        edit(
            open_project(slide.root), (900, 900, 1100, 1100), erase
        )  # in the window, while the worker measures
        return merge(project, *args)

    monkeypatch.setattr(type(slide), "merge", meanwhile)
    n = slide.cells.n_obs
    assert drain(crop(slide, fields=["slide"], only_edited=True)) == n - 1
    monkeypatch.setattr(type(slide), "merge", merge)
    (waits,) = slide.label_info("slide")[UNMEASURED]
    assert waits["box"][0] > 800
    assert drain(crop(slide, fields=["slide"], only_edited=True)) == n - 2
    assert UNMEASURED not in slide.label_info("slide")


@pytest.mark.slow
def test_where_nothing_is_known_of_the_whole_all_of_it_is_measured(slide):
    def erase(part, labels):
        labels[labels == inside(part)[0]] = 0

    cells = slide.cells
    del cells.uns["cellrep"]["judged_by"]  # a table of a version that did not keep it
    slide.write_cells(cells)
    edit(slide, SEEN, erase)
    n = drain(crop(slide, fields=["slide"], only_edited=True))
    assert n == cells.n_obs - 1
    assert "judged_by" in slide.cells.uns["cellrep"]
    assert UNMEASURED not in slide.label_info("slide")


@pytest.mark.slow
def test_undo_takes_labels_and_cells_back_and_nothing_else(slide):
    slide.forget_step()
    files, cells = contents(slide.root), slide.cells.copy()

    def change(part, labels):
        labels[labels == inside(part)[0]] = 0
        labels[np.isin(labels, inside(part)[1:20])] = 0  # chunks may be empty then

    edit(slide, SEEN, change)
    drain(crop(slide, fields=["slide"], only_edited=True))
    assert slide.cells.n_obs == cells.n_obs - 20
    kept = [p for p in (slide.root / ".undo" / "pieces").rglob("*") if p.is_file()]
    assert 0 < len(kept) < len(files)  # chunks that changed, not all
    again = open_project(slide.root)
    assert again.undo() == "edit"
    assert contents(slide.root) == files
    assert list(again.cells.obs.index) == list(cells.obs.index)
    np.testing.assert_array_equal(again.cells.obsm["X_k"], cells.obsm["X_k"])
    # and the next part can be edited as ever
    edit(again, SEEN, change)
    assert again.undoable["step"] == "edit"


@pytest.mark.slow
def test_a_chunk_that_comes_to_be_is_taken_back_too(slide):
    with slide.writing_labels("slide", {}) as writer:
        writer.array[10:20, 10:20] = 7
        writer.n_cells = 1
    drain(crop(slide))
    files = contents(slide.root)

    def change(part, labels):
        labels[300:310, 300:310] = 5

    edit(slide, (0, 0, 500, 500), change)
    assert set(contents(slide.root)) > set(files)
    slide.undo()
    assert contents(slide.root) == files


@pytest.mark.slow
def test_what_another_has_changed_meanwhile_is_not_written_over(slide):
    part = drain(open_part(slide, "slide", SEEN))

    def erase(part, labels):
        labels[labels == inside(part)[0]] = 0

    edit(slide, SEEN, erase)
    undoable = slide.undoable
    labels = part.labels.copy()
    labels[labels == inside(part)[1]] = 0
    with pytest.raises(InputError, match="changed by another"):
        drain(save_part(slide, part, labels))
    assert slide.undoable == undoable
    assert drain(save_part(slide, part, part.labels)).n_changed == 0


@pytest.mark.slow
def test_what_cannot_be_edited_is_a_sentence(slide, monkeypatch):
    monkeypatch.setattr("napari_cellrep.steps.edit.MOST_PX", 200)
    with pytest.raises(InputError, match=r"Zoom in: 210 × 180 px of slide are in view"):
        drain(open_part(slide, "slide", SEEN))
    with pytest.raises(InputError, match="Nothing of slide is in view"):
        drain(open_part(slide, "slide", (-50, -50, -1, -1)))
    monkeypatch.setattr(slides, "BIG_PX", 10**9)
    with pytest.raises(InputError, match="edited as a whole"):
        drain(open_part(slide, "slide", (0, 0, 100, 100)))


@pytest.mark.slow
def test_labels_that_do_not_say_their_largest_number_are_looked_through(slide):
    slide.say_of_labels("slide", lambda info: {k: v for k, v in info.items() if k != slides.TOP})
    assert drain(open_part(slide, "slide", SEEN)).top == slide.read_labels("slide").max()
    slide.say_of_labels("slide", lambda info: {**info, slides.TOP: 2**32 - 1})
    part = drain(open_part(slide, "slide", SEEN))
    labels = part.labels.copy()
    labels[part.labels == inside(part)[0]] = 1
    before = contents(slide.root)
    with pytest.raises(InputError, match="No numbers are left"):
        drain(save_part(slide, part, labels))
    assert contents(slide.root) == before


@pytest.mark.slow
def test_a_change_that_counts_is_done_by_whoever_looks_next(slide, monkeypatch):
    before = slide.read_labels("slide")

    def erase(part, labels):
        labels[~np.isin(labels, part.locked)] = 0

    replace = Path.replace

    def fails(names, left):
        def one(path, target):
            nonlocal left
            if any(name in str(target) for name in names):
                left -= 1
                if left < 0:
                    raise OSError("the disk went away")
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", one)

    fails((".ome.zarr/0",), 1)  # the second chunk does not get to its place
    with pytest.raises(OSError, match="went away"):
        edit(slide, (100, 100, 600, 700), erase)
    monkeypatch.setattr(Path, "replace", replace)
    assert slides.journal_of(slide.root / "labels" / "slide.ome.zarr").is_dir()
    labels = open_project(slide.root).read_labels("slide")
    assert (labels != before).any()
    for level, array in enumerate(slides.label_levels(slide.labels_path("slide"))):
        np.testing.assert_array_equal(np.asarray(array), labels[:: 2**level, :: 2**level])
    assert UNMEASURED in slide.label_info("slide")
    assert not slides.journal_of(slide.labels_path("slide")).exists()
    slide.undo()
    np.testing.assert_array_equal(slide.read_labels("slide"), before)


# One process that forks: each child is killed before its n-th change of the disk, and another child looks what is left.
KILLS = """
import os, shutil, sys
from pathlib import Path
import numpy as np
from napari_cellrep.data import open_project, slides
from napari_cellrep.jobs import drain
from napari_cellrep.steps.edit import open_part, save_part
slides.BIG_PX, slides.CHUNK_PX = 400 * 400, 256
base, work = Path(sys.argv[1]), Path(sys.argv[2])

def child(do):
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(do() or 0)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def save(root, left):
    project = open_project(root)
    part = drain(open_part(project, "slide", (180, 180, 330, 330)))
    labels = part.labels.copy()
    labels[~np.isin(labels, part.locked) & (labels % 2 == 0)] = 0
    def count(do):
        def counted(*args, **kwargs):
            nonlocal left
            if any(name in str(args[0]) for name in (".ome.zarr", "pieces")):
                left -= 1
                if left < 0:
                    os._exit(9)
            return do(*args, **kwargs)
        return counted
    for name in ("replace", "rename", "unlink", "mkdir", "write_text"):
        setattr(Path, name, count(getattr(Path, name)))
    os.unlink, os.rmdir, os.link = count(os.unlink), count(os.rmdir), count(os.link)
    drain(save_part(project, part, labels))

def look(root):
    project = open_project(root)
    labels = project.read_labels("slide")
    old, new = (np.array_equal(labels, np.load(work / f"{n}.npy")) for n in ("old", "new"))
    for level, array in enumerate(slides.label_levels(project.labels_path("slide"))):
        if not np.array_equal(np.asarray(array), labels[:: 2**level, :: 2**level]):
            return 3
    if ("unmeasured" in project.label_info("slide")) != new or slides.journal_of(project.labels_path("slide")).exists():
        return 4
    if project.undoable.get("step") == "edit":
        project.undo()
        if not np.array_equal(open_project(root).read_labels("slide"), np.load(work / "old.npy")):
            return 5
    return 0 if old else 1 if new else 2

def keep(root, name):
    np.save(work / f"{name}.npy", open_project(root).read_labels("slide"))

shutil.copytree(base, work / "whole.cellrep")
child(lambda: keep(base, "old"))
assert child(lambda: save(work / "whole.cellrep", 10**6)) == 0
child(lambda: keep(work / "whole.cellrep", "new"))
n, killed = 0, 9
while killed == 9:
    root = work / f"k{n}.cellrep"
    shutil.copytree(base, root)
    killed = child(lambda: save(root, n))
    print(killed, child(lambda: look(root)), flush=True)
    shutil.rmtree(root)
    n += 1
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_killed_before_any_change_of_the_disk_the_labels_are_whole(slide, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    for heavy in ("cells.zarr", "embeddings"):  # labels are what is looked at
        shutil.rmtree(slide.root / heavy)
    ran = subprocess.run(
        [sys.executable, "-c", KILLS, str(slide.root), str(work)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ends = [tuple(map(int, line.split())) for line in ran.stdout.splitlines()]
    assert [killed for killed, _ in ends] == [9] * (len(ends) - 1) + [0], ran.stderr
    found = [what for _, what in ends]
    assert set(found) == {0, 1}, f"{ends} {ran.stderr}"  # as before, or as it was to be; never anything else
    assert found == sorted(found)  # from one moment on it counts
    assert found.count(0) > 5
    assert found.count(1) > 5
