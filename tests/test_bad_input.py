"""What goes wrong in a lab, end to end: real files, the command line, a sentence, exit code 2, and nothing lost.

The rooms' own tests look at each case from near; here a person types, and types wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.cli import BAD_INPUT, OK, STOPPED, main
from napari_cellrep.data import Project, open_project
from napari_cellrep.steps.sample import SAMPLE

WELLS = ("A01", "A06", "A12")
CHANNELS = "FKHR-GFP:protein,DNA:nucleus"
Say = Callable[..., str]


def _write(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True)


def _corner(well: str, side: int = 160) -> np.ndarray:
    return np.asarray(tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :side, :side])


@pytest.fixture(scope="session")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real corners and a project of them, segmented and measured, as a person would have them."""
    lab = tmp_path_factory.mktemp("bad") / "lab"
    (lab / "images").mkdir(parents=True)
    for well in WELLS:
        _write(lab / "images" / f"{well}.tif", _corner(well))
    project = str(lab / "p.cellrep")
    new = ["new", project, str(lab / "images"), "--channels", CHANNELS, "--pattern", "{well}.tif"]
    assert main([*new, "--metadata", str(SAMPLE / "plate.csv")]) == OK
    assert main(["segment", project]) == OK
    assert main(["embed", project, "--model", "measurements"]) == OK
    return lab


@pytest.fixture
def lab(_lab: Path, tmp_path: Path) -> Path:
    """A test's own copy: ``images/`` and ``p.cellrep``."""
    return Path(shutil.copytree(_lab, tmp_path / "lab"))


@pytest.fixture
def refused(capsys) -> Say:
    """Type a command that has to be refused; its one sentence."""

    def type_it(*argv: object, code: int = BAD_INPUT) -> str:
        capsys.readouterr()
        assert main([str(a) for a in argv]) == code
        told = capsys.readouterr().err
        assert "Traceback" not in told
        sentences = [line for line in told.splitlines() if line.startswith("cellrep: ")]
        assert len(sentences) == 1, told
        assert told.splitlines()[-1] == sentences[0]  # the last word, after the progress
        return sentences[0]

    return type_it


@pytest.fixture
def said(capsys) -> Say:
    """Type a command that has to work; what it printed."""

    def type_it(*argv: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in argv]) == OK, capsys.readouterr().err
        return capsys.readouterr().out

    return type_it


def _counts(project: Project) -> dict[str, int]:
    project.reload()
    counts = project.cells.obs["field"].astype(str).value_counts()
    return {f.id: int(counts.get(f.id, 0)) for f in project.fields}


# ---- fields that are not like the others -----------------------------------------------------------


@pytest.mark.slow
def test_a_missing_file_stops_only_its_field_and_can_be_run_alone(lab, said, capsys):
    root, image = lab / "p.cellrep", lab / "images" / "A06.tif"
    before, kept = _counts(open_project(root)), open_project(root).cells.obsm["X_measurements"].copy()
    image.rename(lab / "A06.tif")
    told = said("segment", root, "--overwrite", "--smoothing", "0.06")
    assert "1 field need a look" in told or "1 field needs a look" in told
    assert "A06.tif is not there" in told
    project = open_project(root)
    assert "A06.tif is not there" in project.field("A06").problem
    assert project.field("A01").problem == ""
    after = _counts(project)
    assert after["A01"] > 0
    assert after["A12"] > 0
    told = said("embed", root, "--model", "measurements", "--key", "again")
    assert "A06.tif is not there" in told
    (lab / "A06.tif").rename(image)
    assert "A06" not in said("segment", root, "--fields", "A06", "--overwrite")
    told = said("embed", root, "--model", "measurements", "--key", "again", "--fields", "A06")
    assert "left out" not in told
    project = open_project(root)
    assert project.field("A06").problem == ""
    assert project.cells.obs["has_again"].all()
    assert _counts(project)["A06"] == pytest.approx(before["A06"], abs=5)
    assert len(kept) == sum(before.values())


def test_a_file_gone_only_for_embedding_is_forgiven_when_it_is_back(lab, said):
    root, image = lab / "p.cellrep", lab / "images" / "A06.tif"
    image.rename(lab / "A06.tif")
    assert "A06" in said("embed", root, "--model", "measurements", "--key", "again")
    assert open_project(root).field("A06").problem
    (lab / "A06.tif").rename(image)
    said("embed", root, "--model", "measurements", "--key", "again", "--fields", "A06")
    assert open_project(root).field("A06").problem == ""
    assert open_project(root).cells.obs["has_again"].all()


def test_odd_fields_are_flagged_at_import_and_the_others_go_on(lab, said):
    images = lab / "images"
    _write(images / "B01.tif", _corner("A01")[:1])  # one channel where the others have two
    _write(images / "B02.tif", np.zeros((2, 160, 160), np.uint8))  # all black
    (images / "B03.tif").write_bytes((images / "A01.tif").read_bytes()[:3000])  # cut short
    (images / "B04.tif").write_text("not an image")
    background = np.random.default_rng(0).poisson(20, (2, 160, 160)).astype(np.uint8)
    _write(images / "B05.tif", background)  # fine, and without a cell
    root = lab / "odd.cellrep"
    told = said("new", root, images, "--channels", CHANNELS, "--pattern", "{well}.tif")
    assert "4 fields could not be used" in told
    for words in ("has 1 channel", "all black", "B03.tif", "B04.tif"):
        assert words in told
    told = said("segment", root)
    assert "B05 holds no cell" in told
    counts = _counts(open_project(root))
    assert all(counts[w] > 5 for w in WELLS)
    assert sum(counts[f"B0{i}"] for i in range(1, 6)) == 0
    assert "B05 holds no cell" in said("segment", root)  # what is up to date and empty is still said
    assert "B05 holds no cell" in said("info", root)
    said("embed", root, "--model", "measurements")
    assert open_project(root).cells.obs["has_measurements"].all()
    _write(images / "B02.tif", _corner("A12"))  # mended, and run alone
    assert "all black" not in said("segment", root, "--fields", "B02")
    assert _counts(open_project(root))["B02"] == counts["A12"]


def test_nothing_but_odd_fields_is_refused_and_leaves_nothing(lab, refused):
    (lab / "black").mkdir()
    _write(lab / "black" / "A01.tif", np.zeros((2, 64, 64), np.uint8))
    assert "all black" in refused("new", lab / "q", lab / "black")
    assert "is not there" in refused("new", lab / "q", lab / "blakc")
    assert not (lab / "q.cellrep").exists()


def test_labels_of_another_shape_stop_only_their_field(lab, said, refused):
    root, masks = lab / "p.cellrep", lab / "masks"
    masks.mkdir()
    project = open_project(root)
    for well in WELLS:
        labels = project.read_labels(well)
        tifffile.imwrite(masks / f"{well}.tif", labels[:100] if well == "A06" else labels)
    command = ["segment", root, "--segmenter", "imported", "--pattern", masks / "{field}.tif"]
    told = said(*command)
    assert "A06.tif is 160×100 px and field A06 is 160×160 px" in told
    assert _counts(open_project(root)) == _counts(project)  # the labels that were there stay
    tifffile.imwrite(masks / "A06.tif", project.read_labels("A06"))
    assert "need" not in said(*command, "--fields", "A06")
    assert open_project(root).field("A06").problem == ""
    (masks / "A06.tif").unlink()
    assert "no file for field 'A06'" in refused(*command, "--fields", "A06", "--overwrite")


def test_groups_of_one_cell_make_no_pair(lab, refused, said):
    """Every field its own group, one cell in each: there is no pair to draw, and the user is told."""
    root, masks = lab / "one.cellrep", lab / "masks"
    masks.mkdir()
    for well in WELLS:
        label = np.zeros((160, 160), np.uint8)
        label[60:90, 60:90] = 1
        tifffile.imwrite(masks / f"{well}.tif", label)
    said("new", root, lab / "images", "--channels", CHANNELS, "--pattern", "{well}.tif")
    said("segment", root, "--segmenter", "imported", "--pattern", masks / "{field}.tif")
    assert open_project(root).cells.n_obs == 3
    told = refused("train", root, "--width", "0.125", "--max-steps", "1")
    assert "pair" in told or "group" in told or "flagged" in told
    assert not (root / "models" / "paired_cell_inpainting" / "model.json").exists()


# ---- disks, folders, other processes ---------------------------------------------------------------


@contextlib.contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at `folder`, where we may mount one."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    if not mount or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run([mount, *options, str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no mounting here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["segment", "embed", "analyze", "export"])
def test_a_disk_that_fills(lab, said, refused, step):
    """A real one of a few hundred kilobytes: what was whole before is whole after, and goes on once there is room."""
    with _mounted(lab / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        root = disk / "p.cellrep"
        shutil.copytree(lab / "p.cellrep", root)
        shutil.copytree(lab / "images", disk / "images")
        before = open_project(root).cells.to_memory()
        command = {
            "segment": ["segment", root, "--smoothing", "0.07"],
            "embed": ["embed", root, "--model", "measurements", "--key", "more"],
            "analyze": ["analyze", root, "outliers", "--set", "within=all"],
            "export": ["export", root, disk / "out.h5ad"],
        }[step]
        room = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"x" * (room - 4096))
        told = refused(*command)
        assert "disk is full" in told or "No space left" in told
        project = open_project(root)
        assert project.cells.n_obs == before.n_obs
        np.testing.assert_array_equal(project.cells.obsm["X_measurements"], before.obsm["X_measurements"])
        assert all(project.read_labels(w).max() > 0 for w in WELLS)
        assert not (disk / "out.h5ad").exists()
        (disk / "ballast").unlink()
        said(*command)
        assert not list(disk.rglob("*.part"))


def test_a_disk_that_fills_in_training(lab, said, refused):
    """The last checkpoint stays whole, and training goes on from it once there is room."""
    with _mounted(lab / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        root = disk / "p.cellrep"
        shutil.copytree(lab / "p.cellrep", root)
        shutil.copytree(lab / "images", disk / "images")
        command = (
            f"train {root} --model autoencoder --width 0.04 --held-out 0 --batch-size 8 --device cpu --precision fp32"
        ).split()
        said(*command, "--max-steps", "1")
        checkpoint = root / "models" / "autoencoder" / "checkpoint.pt"
        before = checkpoint.read_bytes()
        (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
        assert "disk is full" in refused(*command, "--max-steps", "2")
        assert checkpoint.read_bytes() == before
        (disk / "ballast").unlink()
        said(*command, "--max-steps", "2")
        card = json.loads((checkpoint.parent / "model.json").read_text())
        assert card["trained"]["step"] == 2
        assert not list(disk.rglob("*.part"))


def test_a_disk_that_fills_half_way(lab, said, refused, monkeypatch):
    """The system's own error at the second field: the first stays done, and the next run does only the rest."""
    root, real, calls = lab / "p.cellrep", tifffile.imwrite, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(tifffile, "imwrite", full)
    assert "disk is full" in refused("segment", root, "--smoothing", "0.07")
    monkeypatch.undo()
    assert "(1 were up to date)" in said("segment", root, "--smoothing", "0.07")


def test_a_read_only_project_can_be_looked_at_and_exported(lab, said, refused):
    with _mounted(lab / "ro", "--bind", str(lab / "p.cellrep")) as view:
        done = subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no read-only mounting here: {done.stderr.strip()}")
        assert "3 fields" in said("info", view)
        said("export", view, lab / "cells.csv")
        assert len(pd.read_csv(lab / "cells.csv")) == open_project(view).cells.n_obs
        for command in (
            ["segment", view, "--smoothing", "0.07"],
            ["embed", view, "--model", "measurements", "--key", "k"],
            ["analyze", view, "outliers", "--set", "within=all"],
        ):
            told = refused(*command)
            assert "read-only" in told or "cannot be written" in told, told
    assert _counts(open_project(lab / "p.cellrep"))


@pytest.mark.slow
def test_two_processes_at_once(lab):
    """Segmenting and embedding at the same time: nobody breaks what the other has written."""
    root = lab / "p.cellrep"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "napari_cellrep"]
    commands = [["segment", root, "--overwrite"], ["embed", root, "--model", "measurements", "--key", "b"]]
    running = [
        subprocess.Popen([*start, *map(str, c)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
        for c in commands
    ]  # fmt: skip
    for process in running:
        _, told = process.communicate(timeout=200)
        assert process.returncode == OK, told
        assert "Traceback" not in told
    project = open_project(root)
    assert project.cells.obs["has_measurements"].all()
    assert project.cells.obs["has_b"].all()
    np.testing.assert_array_equal(project.cells.obsm["X_b"], project.cells.obsm["X_measurements"])
    steps = [line["step"] for line in project.history]
    assert (steps.count("segment"), steps.count("embed")) == (2, 2)  # one each from before


def test_a_project_of_a_newer_version(lab, refused):
    path = lab / "p.cellrep" / "project.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**info, "format": info["format"] + 1}), encoding="utf-8")
    for command in ("segment", "info", "embed", "train"):
        told = refused(command, lab / "p.cellrep")
        assert "newer version" in told
        assert "update napari-cellrep" in told


# ---- exports ---------------------------------------------------------------------------------------


def test_exports_that_cannot_be_written(lab, refused):
    root = lab / "p.cellrep"
    (lab / "file").write_text("mine")
    assert "folder" in refused("export", root, lab / "images", "--format", "csv")
    refused("export", root, lab / "file" / "cells.csv")
    refused("export", root, "/proc/cells.csv")
    assert "inside the project" in refused("export", root, root / "cells.csv")
    assert (lab / "file").read_text() == "mine"


@pytest.mark.parametrize(("name", "method"), [("t.csv", "to_csv"), ("t.parquet", "to_parquet")])
def test_an_export_that_fails_leaves_the_file_that_was_there(lab, refused, said, monkeypatch, name, method):
    out = lab / name
    said("export", lab / "p.cellrep", out)
    whole = out.read_bytes()

    def full(self, path, **kwargs):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, method, full)
    assert "disk is full" in refused("export", lab / "p.cellrep", out)
    assert out.read_bytes() == whole
    assert sorted(p.name for p in lab.iterdir()) == ["images", "p.cellrep", name]


# ---- a person who mistypes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["segment", "{lab}/images"], "not a project"),
        (["segment", "{lab}/images/A01.tif"], "is a file"),
        (["segment", "{p}", "--channel", "DAN"], "no channel with the name or role 'DAN'"),
        (["segment", "{p}", "--smoothing", "much"], "type float"),
        (["segment", "{p}", "--fields", "A01,B7"], "no field 'B7'"),
        (["embed", "{p}", "--model", "meassurements"], "neither a file nor a model"),
        (["embed", "{p}", "--model", "measurements", "--fields", "Z1"], "no field 'Z1'"),
        (["embed", "{p}", "--model", "measurements", "--batch-size", "-1"], "batch size is -1"),
        (["embed", "{p}", "--model", "measurements", "--channels", "GFP"], "no GFP among"),
        (["embed", "{p}", "--model", "measurements", "--key", "a/b"], "no slash"),
        (["train", "{p}", "--name", "../../elsewhere"], "no slash"),
        (["train", "{p}", "--model", "measurements"], "is not trained"),
        (["train", "{p}", "--epochs", "0"], "has to lie between"),
        (["train", "{p}", "--channels", "DNA"], "wants 2 channels"),
        (["analyze", "{p}", "mpa"], "recipes are map"),
        (["analyze", "{p}", "map", "--set", "n_neighbors"], "NAME=VALUE"),
        (["analyze", "{p}", "map", "--set", "n_neighbors=many"], "type int"),
        (["analyze", "{p}", "map", "--embedding", "measurments"], "there are measurements"),
        (["analyze", "{p}", "score", "--set", "a=control=7"], "control=7"),
        (["analyze", "{p}", "variability", "--set", "by=wel"], "no column 'wel'"),
        (["export", "{p}", "{lab}/cells.xls"], "no ending we know"),
        (["new", "{lab}/q", "{lab}/images", "--um-per-px", "-1"], "positive number"),
        (["new", "{lab}/q", "{lab}/images", "--channels", "a,a"], "two channels called 'a'"),
        (["new", "{lab}/q", "{lab}/images", "--channels", "GFP:protien,DNA"], "'protien'"),
        (["new", "{lab}/q", "{lab}/images", "--channels", "a,b,c"], "names for 3 channels"),
        (["new", "{lab}/q", "{lab}/images", "--metadata", "{lab}/nope.csv"], "nope.csv"),
        (["new", "{lab}/q", "{lab}/images", "--pattern", "{{well"], "names no part"),
        (["new", "{lab}/q", "{lab}/images", "--pattern", "{{plate}}-{{well}}.png"], "fits none of 3 files"),
        (["new", "{lab}/q", "{lab}/images", "--group-by", "wel"], "no column 'wel'"),
        (["info", "{lab}/gone.cellrep"], "is not there"),
    ],
)  # fmt: skip
def test_mistyped(lab, refused, argv, words):
    before = sorted(p.relative_to(lab) for p in lab.rglob("*") if p.suffix in (".npy", ".tif", ".cellrep"))
    told = refused(*(a.format(lab=lab, p=lab / "p.cellrep") for a in argv))
    assert words in told, told
    after = sorted(p.relative_to(lab) for p in lab.rglob("*") if p.suffix in (".npy", ".tif", ".cellrep"))
    assert after == before
    assert open_project(lab / "p.cellrep").cells.obs["has_measurements"].all()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--shard", "3/2"], "from 0 to 1"),
        (["--shard", "one"], "for example 0/4"),
        (["--seg", "imported", "--pattern", "x"], "unrecognized"),  # not nuclei with imported's settings
        (["--segmenter", "nuclie"], "nuclei"),
        (["--smothing", "0.1"], "unrecognized"),
    ],
)
def test_mistyped_options_say_what_is_wrong(lab, capsys, argv, words):
    with pytest.raises(SystemExit) as stop:
        main(["segment", str(lab / "p.cellrep"), *argv])
    assert stop.value.code == BAD_INPUT
    assert words in capsys.readouterr().err


def test_stains_saved_as_colour_need_the_word(tmp_path, refused, said):
    """Three channel names for a colour file: the sentence names the option that is missing."""
    rgb = np.moveaxis(np.concatenate([_corner("A01"), _corner("A12")[:1]]), 0, -1)
    tifffile.imwrite(tmp_path / "x.tif", np.ascontiguousarray(rgb), photometric="rgb")
    command = ["new", tmp_path / "q", tmp_path / "x.tif", "--channels", "a,b,c"]
    assert "--rgb split" in refused(*command)
    assert "a (other), b (other) and c (other)" in said(*command, "--rgb", "split")


def test_one_channel_can_be_measured(lab, said):
    said("embed", lab / "p.cellrep", "--model", "measurements", "--channels", "DNA", "--key", "dna")
    said("embed", lab / "p.cellrep", "--model", "measurements", "--layers", "all", "--key", "all")
    cells = open_project(lab / "p.cellrep").cells
    assert cells.obsm["X_dna"].shape[1] < cells.obsm["X_measurements"].shape[1]
    np.testing.assert_array_equal(cells.obsm["X_all"], cells.obsm["X_measurements"])  # one layer, no suffix


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent another way on Windows")
def test_ctrl_c_keeps_the_fields_that_are_done(lab):
    root = lab / "p.cellrep"
    command = [
        sys.executable,
        "-m",
        "napari_cellrep",
        "embed",
        str(root),
        "--model",
        "measurements",
        "--key",
        "c",
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 100
    while running.poll() is None and not (root / "embeddings" / "c").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == STOPPED, told
    assert "Traceback" not in told
    assert "What was finished is kept" in told
    assert main(command[3:]) == OK
    assert open_project(root).cells.obs["has_c"].all()


# ---- images as labs have them ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_screen_with_everything_that_happens_to_files(lab, said):
    """Names recognised by themselves; each odd file is its field's problem alone, in one sentence."""
    far = lab / "Größe µm" / ("very long name of a folder " * 7) / ("and one more in it " * 9)
    far.mkdir(parents=True)
    assert len(str(far)) > 350

    def write(name: str, image: np.ndarray) -> Path:
        tifffile.imwrite(far / name, np.ascontiguousarray(image))
        return far / name

    for well in WELLS:
        for w, plane in enumerate(_corner(well), 1):
            write(f"Plätte_{well}_s1_w{w}.tif", plane)
    gfp, dna = _corner("A01")
    write("Plätte_B01_s1_w1.tif", gfp)  # its second channel was never copied
    write("Plätte_B02_s1_w1.tif", gfp)
    write("Plätte_B02_s1_w2.tif", dna).write_bytes(b"")
    write("Plätte_B03_s1_w1.tif", gfp)
    cut = write("Plätte_B03_s1_w2.tif", dna)
    cut.write_bytes(cut.read_bytes()[:-9000])
    write("Plätte_B04_s1_w1.tif", gfp)
    write("Plätte_B04_s1_w2.tif", dna[:100])
    write("Plätte_B05_s1_w1.tif", gfp.astype(np.uint16) * 257)  # other bits, in one channel: no problem
    write("Plätte_B05_s1_w2.tif", dna)
    with contextlib.suppress(OSError):  # where links are not allowed
        (far / "loop").symlink_to(lab / "Größe µm", target_is_directory=True)
        (far / "itself.tif").symlink_to(far / "itself.tif")
        (far / "gone.tif").symlink_to(far / "nowhere.tif")
    table = lab / "Tabelle.csv"
    table.write_bytes("\ufeffWell;Stoff;Dosis\nA1;DMSO;0,5\nA12;Größe;1\nZ99;x;2\n".encode())
    root = lab / "Projekt µ.cellrep"
    told = said("new", root, lab / "Größe µm", "--channels", CHANNELS, "--metadata", table)
    assert "named as by ImageXpress" in told
    assert "4 fields could not be used" in told
    for field, words in {
        "B01": "no file for channel 2", "B02": "is empty (0 bytes)", "B03": "is cut short", "B04": "differ in size",
    }.items():  # fmt: skip
        (line,) = [t for t in told.splitlines() if t.startswith(f"  Plätte_{field}_1: ") and words in t]
        assert line.endswith((".", ")."))
    assert "Row 4 (Z99): no field belongs to it." in told
    project = open_project(root)
    assert project.field("Plätte_A01_1").metadata["Dosis"] == 0.5
    assert project.field("Plätte_B05_1").problem == ""
    assert "Dosis" in said("new", lab / "x", lab / "Größe µm", "--metadata", table, "--preview")
    assert not (lab / "x.cellrep").exists()
    said("segment", root)
    said("embed", root, "--model", "measurements")
    counts = _counts(open_project(root))
    assert all(counts[f"Plätte_{well}_1"] > 5 for well in WELLS)
    assert counts["Plätte_B05_1"] > 5
    assert "now have batch" in said("metadata", root, _batches(lab), "--add")
    assert set(open_project(root).cells.obs["batch"].astype(str)) >= {"one"}


def _batches(folder: Path) -> Path:
    pd.DataFrame({"prefix": ["Plätte"], "batch": ["one"]}).to_excel(folder / "b.xlsx", index=False)
    return folder / "b.xlsx"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--layout", "opra"], "There is no layout 'opra'; layouts are jump, opera,"),
        (["--layout", "opera"], "The layout 'opera' fits none of 3 files"),
        (["--layout", "hpa", "--pattern", "{well}.tif"], "not both"),
        (["--metadata", "none.xlsx"], "none.xlsx cannot be read"),
    ],
)
def test_layouts_and_tables_mistyped(lab, refused, argv, words):
    assert words in refused("new", lab / "q", lab / "images", *argv)
    assert not (lab / "q.cellrep").exists()


def test_a_table_for_the_wrong_project_changes_nothing(lab, refused):
    before = _contents(lab / "p.cellrep")
    (lab / "t.csv").write_text("well,dose\nH11,1\n")
    assert "No row of t.csv belongs to a field of p.cellrep" in refused(
        "metadata", lab / "p.cellrep", lab / "t.csv"
    )
    assert _contents(lab / "p.cellrep") == before


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}
