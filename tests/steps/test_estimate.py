from pathlib import Path

import numpy as np
import pytest

from napari_cellrep.cli import main
from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.estimate import _resident_peak, about, estimate
from napari_cellrep.steps.train import train

NARROW = {"width": 0.125}


def files(project: Project) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in project.root.rglob("*") if p.is_file()}


def test_nothing_is_written_and_what_is_done_costs_nothing(small):
    before = files(small)
    found = estimate(small, "segment", overwrite=True)
    assert (found.n, found.device) == (4, "cpu")
    assert found.seconds > 0
    assert found.time in found.sentence or found.time.capitalize() in found.sentence
    assert "on the CPU" in found.sentence
    again = estimate(small, "segment")
    assert (again.n, again.seconds) == (0, 0)
    assert "already" in again.sentence
    assert files(small) == before


def test_memory_of_segmentation_is_what_the_process_grows_by(small):
    with _resident_peak() as peak:
        np.ones(20_000_000).sum()
    assert 150e6 < peak[0] < 250e6
    found = estimate(small, "segment", overwrite=True)
    image = small.read_image(small.fields[0].id)
    assert image.nbytes < found.memory_bytes < 60 * image.nbytes + 50e6
    assert "MB" in found.sentence
    assert estimate(small, "segment").memory_bytes == 0


@pytest.mark.slow
def test_only_what_is_left_to_embed_counts(small):
    n = small.cells.n_obs
    first = estimate(small, "embed", model="measurements")
    assert first.n == n
    drain(embed(small, model="measurements", fields=["A01"]))
    rest = estimate(small, "embed", model="measurements")
    assert rest.n == int((small.cells.obs["field"] != "A01").sum())
    assert rest.seconds < first.seconds * 3
    assert estimate(small, "embed", model="measurements", fields=["A01"]).n == 0
    # Another window makes other numbers: all again.
    assert estimate(small, "embed", model="measurements", crop={"window_px": 48}).n == n


@pytest.mark.slow
def test_training_says_its_limit_where_it_goes_on_and_how_many_cells(small):
    before = files(small)
    settings = {"config": NARROW, "training": {"epochs": 3, "batch_size": 16, "max_seconds": 0.001}}
    found = estimate(small, "train", name="m", **settings)
    assert found.seconds == 0.001
    assert "its limit; all 3 epochs would take" in found.sentence
    assert found.memory_bytes > 1e6
    assert found.n == int(small.cells.obs["good"].sum())
    assert files(small) == before
    whole = {"config": NARROW, "training": {"epochs": 3, "batch_size": 16}}
    job = train(small, name="m", **whole)
    for progress in job:
        if progress.done == 2:
            break
    job.close()
    assert "goes on at step 2 of" in estimate(small, "train", name="m", **whole).sentence
    assert "goes on" not in estimate(small, "train", name="m", resume=False, **whole).sentence
    few = estimate(small, "train", **whole, where="group == 'A01'")
    assert few.n < found.n


def test_what_the_step_refuses_is_refused(small):
    with pytest.raises(InputError, match="segment, embed, train"):
        estimate(small, "export")
    with pytest.raises(InputError, match="not trained"):
        estimate(small, "train", model="measurements")
    with pytest.raises(InputError, match="there is no er"):
        estimate(small, "embed", channels=("er", "DNA"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["segment", "--overwrite"], ["embed", "--model", "measurements"], ["train", "--width", "0.125"]]
)
def test_the_command_line_prints_a_sentence_and_does_nothing(small, capsys, words):
    before = files(small)
    assert main([words[0], str(small.root), "--estimate", *words[1:]]) == 0
    said = capsys.readouterr().out
    assert said.endswith("on the CPU.\n") or "no graphics card was found" in said or "graphics card" in said
    assert files(small) == before


def test_times_are_said_as_coarsely_as_they_are_known():
    seconds = (0.2, 12, 50, 58, 200, 1000, 5000, 9000, 40_000, 400_000)
    assert [about(s) for s in seconds] == [
        "a few seconds", "about 10 s", "about 50 s", "about 1 min", "about 3 min", "about 15 min", "about 85 min",
        "about 2.5 h", "about 11 h", "about 5 days",
    ]  # fmt: skip
