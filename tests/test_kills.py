"""kill -9 at any moment of segmenting, embedding, training, analysing and exporting, a disk that fills, a share that goes
away: the project opens, and the same command run again ends where an undisturbed one does.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors.numpy import load_file

from napari_cellrep.cli import OK, main
from napari_cellrep.data import Project, open_project
from napari_cellrep.steps.sample import SAMPLE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here"),
]

WELLS = ("A01", "A05", "A12", "E06", "E12")
COMMANDS = {
    "segment": ["segment", "{p}", "--smoothing", "0.06"],
    "embed": ["embed", "{p}", "--model", "mine", "--key", "k", "--layers", "all", "--precision", "fp32"],
    "train": ["train", "{p}", "--width", "0.125", "--batch-size", "16", "--epochs", "12", "--precision", "fp32"],
    "analyze": ["analyze", "{p}", "map", "--embedding", "mine"],
    "export": ["export", "{p}", "{p}/../out.zarr", "--format", "crops-zarr", "--include-flagged"],
}  # fmt: skip
# How each run tells that it has begun to write: kills before that would all fall into the imports.
SIGNS = {
    "segment": "labels/.A01*",
    "embed": "embeddings/k*",
    "train": "models/paired_cell_inpainting",
    "analyze": "",
    "export": "../.out.zarr*",
}


def _start(step: str, root: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "napari_cellrep", *(w.format(p=root) for w in COMMANDS[step])]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of five real corners, segmented, with a small network's vectors."""
    lab = tmp_path_factory.mktemp("kills")
    (lab / "images").mkdir()
    for well in WELLS:
        image = tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :224, :224]
        path = lab / "images" / f"{well}.tif"
        tifffile.imwrite(path, np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True)
    root = str(lab / "p.cellrep")
    new = [
        "new",
        root,
        str(lab / "images"),
        "--channels",
        "GFP:protein,DNA:nucleus",
        "--pattern",
        "{well}.tif",
    ]
    assert main(new) == OK
    assert main(["segment", root]) == OK
    once = ["--width", "0.125", "--batch-size", "16", "--max-steps", "2", "--precision", "fp32"]
    assert main(["train", root, "--name", "mine", *once]) == OK
    assert main(["embed", root, "--model", "mine", "--precision", "fp32"]) == OK
    return lab


def _copy(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to / "p.cellrep"


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, float]]:
    """Each command run to its end, once, on a copy of its own: the project and the seconds it took."""

    @cache
    def run(step: str) -> tuple[Path, float]:
        root = _copy(base, tmp_path_factory.mktemp(step) / "lab")
        began = time.monotonic()
        running = _start(step, root)
        _, told = running.communicate(timeout=200)
        assert running.returncode == OK, told
        return root, time.monotonic() - began

    return run


def _kill_once(step: str, root: Path, draw: random.Random, seconds: float) -> bool:
    """Start the command and kill it some time after it began to write; whether the kill came before its end."""
    running, began = _start(step, root), time.monotonic()
    have = set(root.glob(SIGNS[step])) if SIGNS[step] else set()
    if SIGNS[step]:
        while running.poll() is None and not set(root.glob(SIGNS[step])) - have:
            assert time.monotonic() - began < 120
            time.sleep(0.001)
        time.sleep(draw.uniform(0, max(0.1, seconds - (time.monotonic() - began))))
    else:
        time.sleep(seconds * draw.uniform(0.5, 1.0))
    running.kill()
    running.communicate()
    return running.returncode == -signal.SIGKILL


def _check_whole(root: Path) -> Project:
    """The project opens and everything in it that counts can be read to its end."""
    project = open_project(root)
    for well in WELLS:
        labels = project.read_labels(well)
        assert labels.shape == (224, 224)
        assert labels.max() > 0
    assert project.cells.n_obs > 0
    vectors = np.isfinite(project.cells.obsm["X_mine"])  # a cell with a new mask has none yet
    assert (vectors.all(axis=1) == vectors.any(axis=1)).all()
    for key in project.embedding_keys():
        for path in project.embedding_folder(key).glob("[!.]*.npy"):
            assert np.isfinite(np.load(path)["x"]).all()
    for path in (root / "models").glob("*/weights.safetensors"):
        assert load_file(path)
    assert len(project.history) >= 4
    return project


def _same(step: str, root: Path, other: Path) -> None:
    """Whether a project that was killed and went on holds what an undisturbed one does."""
    ours, theirs = open_project(root), open_project(other)
    for well in WELLS:
        np.testing.assert_array_equal(ours.read_labels(well), theirs.read_labels(well))
    assert list(ours.cells.obs.index) == list(theirs.cells.obs.index)
    assert ours.cells.obs["good"].tolist() == theirs.cells.obs["good"].tolist()
    assert ours.embedding_keys() == theirs.embedding_keys()
    assert set(ours.cells.obsm) == set(theirs.cells.obsm)
    for key in theirs.embedding_keys():
        np.testing.assert_array_equal(ours.cells.obsm[f"X_{key}"], theirs.cells.obsm[f"X_{key}"])
    if step == "analyze":
        np.testing.assert_allclose(ours.cells.obsm["X_umap_mine"], theirs.cells.obsm["X_umap_mine"])
    if step == "train":
        name = Path("models/paired_cell_inpainting/weights.safetensors")
        one, two = load_file(root / name), load_file(other / name)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[k], two[k]) for k in one)


def _epochs(root: Path) -> list[list[str]]:
    """What is kept of each epoch of a training: with its seconds, which no second run repeats."""
    path = root / "models" / "paired_cell_inpainting" / "history.csv"
    if not path.exists():
        return []
    return [line.split(",")[:6] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("step", list(COMMANDS))
def test_killed_three_times_and_run_again(step, base, undisturbed, tmp_path):
    other, seconds = undisturbed(step)
    root, draw = _copy(base, tmp_path / "lab"), random.Random(f"kill {step}")
    hits = 0
    for _ in range(3):
        hits += _kill_once(step, root, draw, seconds)
        _check_whole(root)
    assert hits, "every run was over before its kill"
    epochs = _epochs(root)
    running = _start(step, root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == OK, told
    _check_whole(root)
    _same(step, root, other)
    assert _epochs(root)[: len(epochs)] == epochs, "it began anew"


def test_killed_between_its_files_training_goes_on_from_its_checkpoint(base, undisturbed, tmp_path):
    """A kill after the first epoch: what follows is the rest of the same training, not a new one."""
    root = _copy(base, tmp_path / "lab")
    running, began = _start("train", root), time.monotonic()
    checkpoint = root / "models" / "paired_cell_inpainting" / "checkpoint.pt"
    while not checkpoint.exists():
        assert running.poll() is None
        assert time.monotonic() - began < 120
        time.sleep(0.002)
    running.kill()
    running.communicate()
    _check_whole(root)
    epochs = _epochs(root)
    running = _start("train", root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == OK, told
    _same("train", root, undisturbed("train")[0])
    assert _epochs(root)[: len(epochs)] == epochs, "it began anew"


# Fifty kills together; a step that writes little is over sooner and is killed oftener.
MANY = {"segment": 20, "embed": 15, "export": 15}


@pytest.mark.parametrize("step", list(MANY))
@pytest.mark.timeout(1800)
def test_killed_many_times(step, base, undisturbed, tmp_path):
    """At random moments of the whole run, imports included; after each the project is whole and what was made stays."""
    other, seconds = undisturbed(step)
    root, draw = _copy(base, tmp_path / "lab0"), random.Random(f"many {step}")
    before = len(open_project(root).history)
    hits = 0
    for i in range(MANY[step]):
        running = _start(step, root)
        time.sleep(seconds * draw.uniform(0.3, 1.05))
        running.kill()
        running.communicate()
        hits += running.returncode == -signal.SIGKILL
        project = open_project(root)
        assert project.cells.n_obs > 0
        assert len(project.history) >= before
        if i % 5 == 4:
            _check_whole(root)
        out = root.parent / "out.zarr"
        if step == "export" and out.exists():  # it is there whole or not at all
            import anndata as ad

            assert ad.read_zarr(out).obsm["crops"].shape[1:] == (2, 64, 64)
        if running.returncode == OK:  # it was quicker: what is done would only be found done from here on
            root = _copy(base, tmp_path / f"lab{i + 1}")
    assert hits >= MANY[step] // 3, "most runs were over before their kill"
    running = _start(step, root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == OK, told
    _check_whole(root)
    _same(step, root, other)
    if project.undoable:  # what a killed step replaced can still be taken back
        open_project(root).undo()
        assert open_project(root).cells.n_obs > 0


def _small_disk(place: Path, megabytes: int) -> None:
    """A disk of its own at `place`; skips where none can be made."""
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path):
    """A function that mounts a small disk; it is taken off again at the end."""
    place = tmp_path / "disk"
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("no mount here")

    def mount(megabytes: int) -> Path:
        _small_disk(place, megabytes)
        return place

    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


def _size_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


@pytest.mark.parametrize("step", ["segment", "embed", "export"])
def test_a_disk_that_fills(step, base, undisturbed, disk, tmp_path):
    """The step says so in a sentence; the project is whole, and with space it goes on to the same end."""
    other, _ = undisturbed(step)
    place = disk(64)
    root = place / "lab" / "p.cellrep"
    shutil.copytree(base, place / "lab")
    filler = place / "filler"
    free = shutil.disk_usage(place).free
    with filler.open("wb") as f:
        f.write(b"x" * (free - 40_000))  # a few small files fit
    running = _start(step, root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == 2, told
    assert "disk is full" in told or "No space left" in told, told
    assert "Traceback" not in told
    filler.unlink()
    _check_whole(root)
    running = _start(step, root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == OK, told
    _same(step, root, other)


def test_a_share_that_goes_away_and_comes_back(base, undisturbed, tmp_path):
    """Images on a share that is lost while cells are embedded: fields in reach are done, the rest is said and done later."""
    other, _ = undisturbed("embed")
    root = _copy(base, tmp_path / "lab")
    images = root.parent / "images"
    running, began = _start("embed", root), time.monotonic()
    while running.poll() is None and not list(root.glob("embeddings/k*")):
        assert time.monotonic() - began < 120
        time.sleep(0.001)
    images.rename(images.with_name("away"))
    _, told = running.communicate(timeout=200)
    assert "Traceback" not in told
    _check_whole(root)
    images.with_name("away").rename(images)
    running = _start("embed", root)
    _, told = running.communicate(timeout=200)
    assert running.returncode == OK, told
    _check_whole(root)
    _same("embed", root, other)
    assert not any(f.problem for f in open_project(root).fields)


def test_a_read_only_share_is_viewed_and_exported_from(base, disk, tmp_path):
    place = disk(64)
    shutil.copytree(base, place / "lab")
    root = place / "lab" / "p.cellrep"
    assert subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True).returncode == 0
    project = open_project(root)
    assert project.read_only
    assert project.cells.n_obs > 0
    assert project.read_image("A01").shape == (2, 224, 224)
    for words in (["info", str(root)], ["export", str(root), str(tmp_path / "cells.h5ad")],
                  ["export", str(root), str(tmp_path / "crops"), "--format", "crops"]):  # fmt: skip
        assert main(words) == OK
    for words in (["segment", str(root), "--smoothing", "0.07"], ["analyze", str(root), "map", "--embedding", "mine"],
                  ["undo", str(root)]):  # fmt: skip
        assert main(words) == 2
