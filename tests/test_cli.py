"""The command line as a person types it: exit codes, sentences, files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.data.cells import make_table
from napari_cellrep.steps.sample import SAMPLE


@pytest.fixture
def images(tmp_path):
    """Two real corners with their table."""
    folder = tmp_path / "images"
    folder.mkdir()
    for well in ("A01", "A12"):
        image = tifffile.imread(SAMPLE / "wells" / f"{well}.ome.tif")[:, :256, :256]
        tifffile.imwrite(
            folder / f"{well}.tif", np.ascontiguousarray(image), metadata={"axes": "CYX"}, ome=True
        )
    return folder


def new(tmp_path, images, *more):
    return main(
        ["new", str(tmp_path / "p.cellrep"), str(images), "--channels", "FKHR-GFP:protein,DNA:nucleus",
         "--pattern", "{well}.tif", "--metadata", str(SAMPLE / "plate.csv"), "--group-by", "well", *more]
    )  # fmt: skip


def test_info_of_published_weights_says_what_is_known_fetched_or_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELLREP_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["info", "dino-hpa-cell"]) == OK
    said = capsys.readouterr().out
    for words in ("DINO (dino), 86 million weights", "microtubules, protein, nucleus, er; 512 px", "licence: DINO4Cells",
                  "from: https://zenodo.org/records/8061426", "cellrep models fetch dino-hpa-cell"):  # fmt: skip
        assert words in said
    assert main(["info", "pci-starter"]) == OK
    said = capsys.readouterr().out
    for words in ("comes with this package", "licence: Comes with this package", '"scores"'):
        assert words in said
    assert main(["info", "no-such-weights"]) == BAD_INPUT


@pytest.mark.slow
def test_help_leads_from_images_to_a_table(tmp_path, images, capsys, monkeypatch):
    """What it says can be typed as it stands, in that order."""
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    places = [
        said.index(f"    {name} ")
        for name in ("new", "segment", "embed", "analyze", "export", "info", "add", "undo")
    ]
    assert places == sorted(places)
    monkeypatch.chdir(tmp_path)
    lines = [line.strip().partition("   ")[0] for line in said.splitlines() if line.startswith("  cellrep ")]
    assert [line.split()[1] for line in lines] == ["new", "segment", "embed", "analyze", "export", "info"]
    new(tmp_path, images)
    for line in lines[1:]:
        typed = line.split()[1:]
        more = ["--set", "n_neighbors=5"] if typed[0] == "analyze" else []
        assert main([*typed[:1], "p.cellrep", *typed[2:], *more]) == OK
    assert (tmp_path / "cells.csv").is_file()
    assert main(lines[0].replace("IMAGES", "images").replace("P.cellrep", "q.cellrep").split()[1:]) == OK


def test_info_explains_its_numbers(tmp_path, images, capsys):
    (images / "A12.tif").unlink()
    project = str(tmp_path / "p.cellrep")
    assert new(tmp_path, images) == OK
    assert ": 1 field, channels" in capsys.readouterr().out
    assert main(["segment", project]) == OK
    assert " cells in 1 field." in capsys.readouterr().out
    assert main(["embed", project, "--model", "measurements"]) == OK
    capsys.readouterr()
    assert main(["info", project]) == OK
    said = capsys.readouterr().out
    assert "p: 1 field, 1 group" in said
    assert "random weights" not in said  # measurements have none
    obs = open_project(project).cells.obs
    n = int((~obs["good"]).sum())
    edge = int(obs["flags"].astype(str).str.contains("edge").sum())
    assert f"  flagged     {n:,}, left out of rankings" in said
    assert f"{edge:,} edge: its window reaches over the image's edge" in said


def test_what_a_reader_says_of_a_file_is_not_printed_beside_our_sentence(tmp_path, images):
    whole = (images / "A12.tif").read_bytes()
    (images / "A12.tif").write_bytes(whole[: len(whole) // 2])
    done = subprocess.run(
        [sys.executable, "-m", "napari_cellrep", "new", str(tmp_path / "p"), str(images)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == OK
    assert "A12: A12.tif is cut short" in done.stdout
    assert "tifffile" not in done.stdout + done.stderr
    assert "TiffTag" not in done.stdout + done.stderr


@pytest.mark.slow
def test_from_images_to_a_table_for_other_programs(tmp_path, images, capsys):
    project = str(tmp_path / "p.cellrep")
    assert new(tmp_path, images) == OK
    assert "2 fields" in capsys.readouterr().out
    assert main(["segment", project, "--smoothing", "0.1"]) == OK
    assert "cells are good" in capsys.readouterr().out
    assert main(["embed", project, "--model", "measurements"]) == OK
    assert (
        main(["train", project, "--name", "mine", "--width", "0.125", "--batch-size", "16", "--epochs", "1"])
        == OK
    )
    assert "cellrep embed" in capsys.readouterr().out
    assert main(["embed", project, "--model", "mine", "--layers", "all"]) == OK
    assert main(["analyze", project, "score", "--embedding", "mine"]) == OK
    assert main(["analyze", project, "variability", "--embedding", "mine"]) == OK
    for name in ("cells.h5ad", "cells.csv", "cells.parquet"):
        assert main(["export", project, str(tmp_path / name)]) == OK
    assert main(["export", project, str(tmp_path / "ranking.csv"), "--format", "ranking"]) == OK
    table = pd.read_csv(tmp_path / "ranking.csv")
    assert {"well", "compound", "dose_rank", "n_cells", "score_mean", "score_sd", "heterogeneity"} <= set(
        table
    )
    capsys.readouterr()
    assert main(["info", project]) == OK
    told = capsys.readouterr().out
    assert "mine: " in told
    assert "FKHR-GFP (protein) and DNA (nucleus)" in told
    assert "segmenter nuclei" in told
    assert main(["info", str(tmp_path / "p.cellrep" / "models" / "mine")]) == OK
    assert "paired_cell_inpainting" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        [],
        *(
            [c]
            for c in (
                "demo",
                "new",
                "add",
                "replay",
                "segment",
                "train",
                "embed",
                "analyze",
                "compare",
                "export",
                "info",
                "models",
                "view",
            )
        ),
    ],
)
def test_help_everywhere(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: cellrep" in capsys.readouterr().out


def test_help_tells_settings_with_their_defaults(capsys):
    for command, words in [
        ("train", ("--epochs", "--learning-rate")),
        ("segment", ("--smoothing",)),
        ("analyze", ("variability",)),
    ]:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert all(w in told for w in words), command


def test_models_are_listed_with_licence(capsys):
    assert main(["models"]) == OK
    told = capsys.readouterr().out
    assert "paired_cell_inpainting" in told
    assert "GPL-2.0" in told


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["segment", "nowhere.cellrep"], "is not there"),
        (["embed", "{project}"], "cellrep segment"),
        (["segment", "{project}", "--smoothing", "-1"], "has to lie between"),
        (["segment", "{project}", "--fields", "Z99"], "no field 'Z99'"),
        (["analyze", "{project}", "magic"], "variability"),
        (["export", "{project}", "out.xyz"], "no ending we know"),
        (["new", "{project}", "{images}"], "exists already"),
        (["new", "q.cellrep", "{images}/gone.tif"], "gone.tif"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(argv, words, tmp_path, images, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new(tmp_path, images) == OK
    capsys.readouterr()
    argv = [a.format(project=tmp_path / "p.cellrep", images=images) for a in argv]
    assert main(argv) == BAD_INPUT
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert [line.startswith("cellrep: ") for line in told.strip().splitlines()].count(True) == 1
    assert told.strip().splitlines()[-1].startswith("cellrep: ")  # after the progress, if there was any
    assert main([*argv, "--debug"]) == BAD_INPUT
    assert "Traceback" in capsys.readouterr().err


def test_wrong_options_are_code_2_too(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == BAD_INPUT


def test_a_disk_that_fills_is_said_and_what_was_there_stays(tmp_path, images, capsys, monkeypatch):
    """A real full file system where we may mount one; else the system's own error, raised where it would be."""
    import errno

    assert new(tmp_path, images) == OK
    assert main(["segment", str(tmp_path / "p.cellrep")]) == OK
    before = open_project(tmp_path / "p.cellrep").read_labels("A01")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    assert main(["segment", str(tmp_path / "p.cellrep"), "--overwrite"]) == BAD_INPUT
    assert "disk is full" in capsys.readouterr().err
    np.testing.assert_array_equal(open_project(tmp_path / "p.cellrep").read_labels("A01"), before)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent another way on Windows")
def test_ctrl_c_ends_with_130_and_keeps_what_is_done(tmp_path, images):
    assert new(tmp_path, images) == OK
    project = tmp_path / "p.cellrep"
    assert main(["segment", str(project)]) == OK
    command = [
        sys.executable,
        "-m",
        "napari_cellrep",
        "train",
        str(project),
        "--epochs",
        "500",
        "--batch-size",
        "8",
        "--width",
        "0.125",
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = project / "models" / "paired_cell_inpainting"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "What was finished is kept" in told
    assert "Traceback" not in told
    assert (folder / "checkpoint.pt").exists()


def test_whole_fields_need_no_cells(tmp_path, images, capsys):
    from napari_cellrep.models import create_model, save_model

    project = str(tmp_path / "p.cellrep")
    assert new(tmp_path, images) == OK
    net = create_model(
        "dino", channels=("protein", "nucleus"), dim=48, depth=2, heads=3, image_px=64, patch_px=16
    )
    save_model(net, tmp_path / "vit")
    command = ["embed", project, "--model", str(tmp_path / "vit"), "--key", "vit", "--whole-fields"]
    assert main(command) == OK
    assert "2 fields embedded as vit" in capsys.readouterr().out
    table = open_project(project).field_table
    assert table is not None
    assert np.isfinite(table.obsm["X_vit"]).all()
    assert main([*command, "--layers", "cls"]) == BAD_INPUT
    assert "leave out" in capsys.readouterr().err


def test_a_reader_that_has_enough_ends_it_quietly():
    """``cellrep models | head -1``."""
    command = subprocess.Popen(
        [sys.executable, "-m", "napari_cellrep", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.read(1)
    command.stdout.close()
    said = command.stderr.read().decode()
    command.stderr.close()
    assert (command.wait(60), said) == (0, "")


def test_groups_are_chosen_once_and_told(simple_project_root, capsys):
    assert main(["compare", simple_project_root]) == OK
    assert "not chosen" in capsys.readouterr().out
    assert main(["compare", simple_project_root, "--control", "compound=DMSO"]) == OK
    assert "control  compound=DMSO" in capsys.readouterr().out
    assert main(["compare", simple_project_root, "--a", "DMSO"]) == BAD_INPUT
    assert "COLUMN=VALUE" in capsys.readouterr().err


@pytest.fixture
def simple_project_root(sample_project):
    return str(sample_project.root)


def test_groups_like_one_are_written_as_a_table(tmp_path, images, capsys):
    project, out = str(tmp_path / "p.cellrep"), tmp_path / "like.csv"
    assert new(tmp_path, images) == OK
    opened = open_project(project)
    obs = pd.DataFrame(
        {"field": "A01", "label": range(1, 41), "group": np.repeat(list("abcd"), 10), "good": True},
        index=[f"A01:{i}" for i in range(1, 41)],
    )
    cells = make_table(obs)
    rng = np.random.default_rng(0)
    cells.obsm["X_mine"] = rng.normal(size=(40, 6)).astype(np.float32)
    opened.write_cells(cells)
    capsys.readouterr()
    assert main(["analyze", project, "similar", "--group", "c", "--csv", str(out)]) == OK
    assert "Most like c (1 − correlation" in capsys.readouterr().out
    table = pd.read_csv(out)
    assert table.columns.tolist() == ["group", "distance", "n_compared"]
    assert table["group"].iloc[0] == "c"
    assert table["distance"].is_monotonic_increasing
    assert main(["analyze", project, "similar"]) == BAD_INPUT
    assert "--group" in capsys.readouterr().err
    assert main(["analyze", project, "outliers", "--csv", str(out)]) == BAD_INPUT
    assert "ranks no groups" in capsys.readouterr().err


@pytest.mark.slow
def test_leaving_with_the_results_and_one_step_back(tmp_path, images, capsys):
    project = str(tmp_path / "p.cellrep")
    assert new(tmp_path, images) == OK
    assert main(["segment", project]) == OK
    assert main(["embed", project, "--model", "measurements"]) == OK
    for words in (
        ["methods.txt"],
        ["crops", "--format", "crops"],
        ["crops.zarr", "--format", "crops-zarr"],
        ["shared.cellrep"],
    ):
        assert main(["export", project, str(tmp_path / words[0]), *words[1:]]) == OK
    assert main(["export", project, str(tmp_path / "x.jpg")]) == BAD_INPUT
    capsys.readouterr()
    assert main(["info", project]) == OK
    told = capsys.readouterr().out
    assert "took " in told
    assert "Python 3." in told
    assert "on cpu" in told
    assert f"undo        embed (measurements) can be taken back: cellrep undo {project}" in told
    assert main(["undo", project]) == OK
    assert main(["undo", project]) == BAD_INPUT
    capsys.readouterr()
    assert main(["info", project]) == OK
    told = capsys.readouterr().out
    assert "undone: embed" in told
    assert "embedding   measurements" not in told
    assert main(["illumination", project, "--preview", str(tmp_path / "light.png")]) == OK
    assert (tmp_path / "light.png").is_file()
    assert main(["illumination", project, "--off", "--functions", str(tmp_path)]) == BAD_INPUT
    assert main(["illumination", project]) == OK
    assert "out of date" in capsys.readouterr().out
    images.rename(tmp_path / "moved")
    assert main(["info", project]) == OK
    assert "not where they were" in capsys.readouterr().out
    assert main(["relocate", project, str(tmp_path / "moved")]) == OK
    assert "2 fields are in" in capsys.readouterr().out
