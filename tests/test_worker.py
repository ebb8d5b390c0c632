"""The worker process itself, over a real connection, without a window."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.connection import Listener
from pathlib import Path

import numpy as np
import pytest

from napari_cellrep.data import create_project
from napari_cellrep.data.fields import Field
from napari_cellrep.data.images import Plane
from napari_cellrep.specs import Channel
from napari_cellrep.worker import sentence_of

HERE = Path(__file__).parent


class Peer:
    """The window's side of the connection, as plain as can be."""

    def __init__(self, connection, process):
        self.connection, self.process, self._id = connection, process, 0

    def send(self, what, target, root=None, **kwargs):
        self._id += 1
        self.connection.send((what, self._id, f"_jobs:{target}", root, kwargs))
        return self._id

    def until_end(self, timeout_s=30):
        """All messages up to an end; (progress list, request, kind, value)."""
        progress = []
        while True:
            assert self.connection.poll(timeout_s), "the worker is silent"
            request, kind, value = self.connection.recv()
            if kind != "progress":
                return progress, request, kind, value
            progress.append(value)

    def run(self, target, root=None, **kwargs):
        self.send("job", target, root, **kwargs)
        return self.until_end()


def start(env):
    key = b"0" * 32
    with Listener(authkey=key) as listener:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "napari_cellrep.worker"],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        )  # fmt: skip
        line = json.dumps({"address": listener.address, "authkey": key.hex()})
        process.stdin.write(f"{line}\n".encode())
        process.stdin.close()
        return Peer(listener.accept(), process)


@pytest.fixture(scope="module")
def peer():
    peer = start({**os.environ, "PYTHONPATH": str(HERE)})
    yield peer
    peer.connection.close()
    assert peer.process.wait(10) == 0
    peer.process.stderr.close()


def test_job_tells_progress_and_gives_its_result(peer):
    progress, _, kind, value = peer.run("count", n=3)
    assert [p.done for p in progress] == [0, 1, 2, 3]
    assert progress[1].metrics == {"value": 1.0}
    assert (kind, value) == ("result", 3)


def test_flood_is_thinned_but_the_last_word_comes(peer):
    progress, _, _, value = peer.run("flood", n=20_000)
    assert value == 20_000
    assert len(progress) < 100
    assert progress[-1].done == 20_000


def test_users_mistake_is_its_sentence(peer):
    _, _, kind, (sentence, details) = peer.run("refuse")
    assert kind == "error"
    assert sentence == "Field C07 has 3 channels, the others have 2."
    assert "_jobs.py" in details


def test_fault_is_a_plain_sentence_with_details(peer):
    _, _, kind, (sentence, details) = peer.run("break_down")
    assert kind == "error"
    assert "RuntimeError: boom" in sentence
    assert "Traceback" in details


def test_out_of_memory_says_what_to_do(peer):
    _, _, kind, (sentence, _) = peer.run("run_out_of_memory")
    assert kind == "error"
    assert "smaller batch size" in sentence
    assert peer.run("count", n=1)[2] == "result"


def test_unknown_step_and_unpicklable_result_are_errors(peer):
    assert peer.run("no_such_step")[2] == "error"
    _, _, kind, (sentence, _) = peer.run("unpicklable")
    assert (kind, sentence) == ("error", "The result could not be handed to the window.")


def test_tensors_become_arrays(peer):
    value = peer.run("tensor")[3]
    assert isinstance(value["x"], np.ndarray)
    assert value["modules"][0].tolist() == [1.0, 1.0]


def test_project_is_opened_and_comes_back_as_its_path(peer, tmp_path):
    project = create_project(
        tmp_path / "p", [Field("A01", (Plane("a.tif"),), 8, 8, "uint8")], [Channel("DNA", "nucleus")]
    )
    value = peer.run("name_of", str(project.root))[3]
    assert value["name"] == "p"
    assert value["project"] == str(project.root)
    _, _, kind, (sentence, _) = peer.run("name_of", str(tmp_path / "gone.cellrep"))
    assert kind == "error"
    assert "is not there" in sentence


def test_stop_closes_the_job_at_its_next_yield(peer, tmp_path):
    note = tmp_path / "note"
    job = peer.send("job", "count", n=10_000, note=str(note))
    assert peer.connection.recv()[1] == "progress"
    peer.connection.send(("stop", job))
    _, request, kind, _ = peer.until_end()
    assert (request, kind) == (job, "stopped")
    assert note.read_text() == "closed"


def test_ask_does_not_wait_behind_a_job(peer):
    job = peer.send("job", "hang", seconds=1.5)
    assert peer.connection.recv()[1] == "progress"
    begin = time.perf_counter()
    ask = peer.send("ask", "pid")
    _, request, kind, value = peer.until_end()
    assert (request, kind, value) == (ask, "result", peer.process.pid)
    assert time.perf_counter() - begin < 1
    assert peer.until_end()[1] == job


def test_process_ends_when_the_window_does_even_in_a_deaf_job(tmp_path):
    peer = start({**os.environ, "PYTHONPATH": str(HERE)})
    peer.send("job", "hang", seconds=60)
    assert peer.connection.recv()[1] == "progress"
    peer.connection.close()
    assert peer.process.wait(15) == 0
    peer.process.stderr.close()


def test_importing_the_worker_loads_no_torch_and_no_qt():
    code = "import napari_cellrep.worker, sys; print([m for m in ('torch', 'qtpy', 'cellpose') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "The computer did not have enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "The graphics card did not"),
        (RuntimeError("could not create a primitive"), "The computer did not have enough memory"),
        (RuntimeError("could not create a primitive descriptor for a matmul"), "Something unexpected"),
        (ModuleNotFoundError("no", name="cellpose.models"), "'cellpose', which is not installed"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError: no further word"),
    ],
)
def test_sentences(error, words):
    assert words in sentence_of(error)
