"""Several processes take the steps of one: real ones, started by torchrun, over Gloo."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from together import NETWORKS, STEPS, one, read

from napari_cellrep.models._augment import Draws, draw


def torchrun(*command: object, n: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a script in `n` processes of this machine."""
    here = str(Path(__file__).parent)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *map(str, command)],
        capture_output=True, text=True, env=env, timeout=900,
    )  # fmt: skip


def test_a_part_of_a_batch_gets_the_numbers_of_the_whole():
    def drawn(rows: tuple[int, int, int] | None, *shape: int, axis: int) -> torch.Tensor:
        generator = Draws()
        generator.manual_seed(7)
        generator.rows = rows
        draw(torch.rand, (shape[axis],), generator)  # what comes after is the same, too
        return draw(torch.randn, shape, generator, axis)

    whole = drawn(None, 3, 5, axis=1)
    assert torch.equal(drawn((0, 2, 5), 3, 2, axis=1), whole[:, :2])
    assert torch.equal(drawn((2, 5, 5), 3, 3, axis=1), whole[:, 2:])
    views = drawn(None, 10, 3, axis=0)  # two views of five cells
    assert torch.equal(drawn((2, 5, 5), 6, 3, axis=0), views[[2, 3, 4, 7, 8, 9]])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_take_the_steps_of_one(cells, tmp_path):
    """Of all networks that train; DINO has no batch norm, and that of the others stands still."""
    fields = 10 * cells.groups + np.arange(len(cells)) % 6
    np.savez(tmp_path / "cells.npz", array=cells.array, groups=cells.groups, fields=fields)
    script = Path(__file__).with_name("together.py")
    done = torchrun(script, tmp_path, ",".join(NETWORKS))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in NETWORKS:
        net, result = one(name, read(tmp_path / "cells.npz"), tmp_path / "alone" / name)
        assert result["step"] == STEPS
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        began = one(name, read(tmp_path / "cells.npz"), tmp_path / "began" / name, max_steps=1)[
            0
        ].state_dict()
        off = []
        for key, value in net.state_dict().items():
            assert torch.equal(first[key], second[key]), (name, key)
            if value.is_floating_point() and (value - began[key]).abs().max() > 0:
                off.append(float((first[key] - value).norm() / (value - began[key]).norm()))
        # Where a gradient is 0 but for rounding (a key's bias), Adam makes a step of it.
        assert np.median(off) < 1e-5, name
        assert max(off) < 0.05, name
        losses = []
        for how in ("together", "alone"):
            with (tmp_path / how / name / "history.csv").open() as f:
                rows = list(csv.DictReader(f))
            losses.append([[float(r[k]) for k in r if k.endswith("loss")] for r in rows])
        np.testing.assert_allclose(*losses, rtol=2e-4)
        kept = sorted(p.name for p in (tmp_path / "together" / name).iterdir())
        assert kept == sorted(p.name for p in (tmp_path / "alone" / name).iterdir())
