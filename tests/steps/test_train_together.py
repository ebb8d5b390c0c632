"""Training from the command line in several processes: torchrun starts real ones, over Gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from napari_cellrep.cli import main
from napari_cellrep.data import open_project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]

HOW = "--model autoencoder --width 0.04 --batch-size 16 --device cpu --precision fp32 --held-out 0.2".split()

# Process 1 cannot read its third batch.
FAILS = """
import os, sys
from napari_cellrep.cli import main
from napari_cellrep.specs import InputError
from napari_cellrep.steps.train import ProjectCells

read, asked = ProjectCells.crops, []

def crops(self, rows):
    asked.append(rows)
    if os.environ["RANK"] == "1" and len(asked) > 3:
        raise InputError("The disk of process 1 is gone.")
    return read(self, rows)

ProjectCells.crops = crops
sys.exit(main(sys.argv[1:]))
"""


def torchrun(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def test_two_processes_train_and_the_first_one_writes(small):
    running = torchrun("-m", "napari_cellrep", "train", small.root, *HOW, "--epochs", 2, "--seeds", "0,1")
    out, err = running.communicate(timeout=600)
    assert running.returncode == 0, err[-3000:]
    assert out.count("Trained:") == 1
    folder = small.root / "models" / "autoencoder"
    card = json.loads((folder / "model.json").read_text())
    assert card["trained"]["processes"] == 2
    assert card["trained"]["epoch"] == 2
    assert "batch norm cannot be synchronised" in " ".join(card["trained"]["notes"])
    assert [run["seed"] for run in card["runs"]] == [0, 1]
    assert [line["step"] for line in open_project(small.root).history].count("train") == 1
    assert json.loads((folder / "run.json").read_text())["state"] == "done"
    assert not list(folder.rglob("*.part"))


def test_stopped_together_and_resumed_alone(small, capsys):
    running = torchrun("-m", "napari_cellrep", "train", small.root, *HOW, "--epochs", 5000)
    folder = small.root / "models" / "autoencoder"
    until = time.monotonic() + 600
    while not (folder / "checkpoint.pt").is_file():
        assert time.monotonic() < until
        assert running.poll() is None, running.communicate()[1][-3000:]
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=600)
    assert running.returncode != 0
    assert "Trained:" not in out
    assert err.count("cellrep: stopped") == 1, err[-3000:]
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert json.loads((folder / "run.json").read_text())["state"] == "paused"
    capsys.readouterr()
    assert not main(["train", str(small.root), *HOW, "--epochs", "5000", "--max-steps", str(step + 2)])
    card = json.loads((folder / "model.json").read_text())
    assert card["trained"]["step"] == step + 2


def test_what_stops_one_process_is_said_once_and_ends_all(small, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    running = torchrun(script, "train", small.root, *HOW, "--epochs", 5000)
    out, err = running.communicate(timeout=600)
    assert running.returncode != 0
    assert "Trained:" not in out
    assert [line for line in err.splitlines() if line.startswith("cellrep:")] == [
        "cellrep: The disk of process 1 is gone."
    ]


def test_what_all_processes_refuse_is_said_once(small):
    running = torchrun("-m", "napari_cellrep", "train", small.root, *HOW, "--epochs", 2, "--batch-size", 3)
    _, err = running.communicate(timeout=600)
    said = [line for line in err.splitlines() if line.startswith("cellrep:")]
    assert len(said) == 1
    assert "2 processes share every batch" in said[0]
