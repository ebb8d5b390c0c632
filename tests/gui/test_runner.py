"""Jobs of a real viewer in a real worker process."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QElapsedTimer, QTimer

from napari_cellrep.gui._runner import runner_of
from napari_cellrep.jobs import Progress
from napari_cellrep.specs import InputError

TESTS = Path(__file__).parents[1]


@pytest.fixture
def viewer(make_napari_viewer, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # where the worker finds _jobs.py
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "cache"))
    return make_napari_viewer()


@pytest.fixture
def runner(viewer):
    runner = runner_of(viewer)
    yield runner
    runner.close()


class Watchdog:
    """How long the event loop was ever away."""

    def __init__(self):
        self.worst_ms = 0
        self._clock, self._timer = QElapsedTimer(), QTimer()
        self._timer.timeout.connect(self._tick)

    def __enter__(self):
        self._clock.start()
        self._timer.start(5)
        return self

    def __exit__(self, *_):
        self._tick()
        self._timer.stop()

    def _tick(self):
        self.worst_ms = max(self.worst_ms, self._clock.restart())


def ended(qtbot, handle, timeout=30_000):
    qtbot.waitUntil(lambda: not handle.active, timeout=timeout)
    return handle


def test_one_runner_per_viewer_also_through_napari_s_proxy(viewer, runner):
    from napari.utils._proxies import PublicOnlyProxy

    assert runner_of(viewer) is runner
    assert runner_of(PublicOnlyProxy(viewer)) is runner


def test_job_reports_and_finishes_without_blocking_the_window(qtbot, runner):
    told, results = [], []
    with Watchdog() as dog:
        handle = runner.submit("_jobs:count", n=20, job_title="Counting cells")
        handle.progressed.connect(told.append)
        handle.finished.connect(results.append)
        ended(qtbot, handle)
    assert handle.state == "finished"
    assert results == [20]
    assert [p.done for p in told] == list(range(21))
    assert runner.log[-1].end == "finished"
    assert runner.log[-1].title == "Counting cells"
    assert dog.worst_ms < 100


def test_a_function_is_done_in_this_process_and_holds_nothing_up(qtbot, runner):
    def count(n, closed):
        try:
            for i in range(n):
                time.sleep(0.01)
                yield Progress(i, n, f"{threading.current_thread().name} of {os.getpid()}")
                if i == 7 and n < 10:
                    raise (InputError("Seven is not wanted.") if n == 8 else ValueError("seven"))
            return n
        finally:
            closed.append(n)

    told, closed = [], []
    with Watchdog() as dog:
        handle = runner.submit(count, n=5, closed=closed, job_title="Counting here")
        handle.progressed.connect(told.append)
        ended(qtbot, handle)
    assert (handle.state, handle.result) == ("finished", 5)
    assert dog.worst_ms < 100
    assert f"of {os.getpid()}" in told[0].message
    assert "MainThread" not in told[0].message
    assert runner.pid == 0  # no other process was started for it
    failed = ended(qtbot, runner.submit(count, n=8, closed=closed))
    assert (failed.state, failed.log.sentence) == ("failed", "Seven is not wanted.")
    failed = ended(qtbot, runner.submit(count, n=9, closed=closed))
    assert failed.log.sentence.startswith("Something unexpected went wrong (ValueError: seven)")
    assert "raise" in failed.log.details
    stopped = runner.submit(count, n=2000, closed=closed)
    qtbot.waitUntil(lambda: stopped.progress.done > 8)
    stopped.stop()
    assert ended(qtbot, stopped).state == "stopped"
    assert closed == [5, 8, 9, 2000]


def test_napari_knows_of_the_job(qtbot, viewer, runner):
    """Its activity dock shows the progress and its closing dialog names the job."""
    from napari.utils.progress import progress

    handle = runner.submit("_jobs:count", n=500, job_title="Counting cells")
    qtbot.waitUntil(lambda: handle.progress.done > 2, timeout=20_000)
    bar = next(b for b in progress._all_instances if b.desc.startswith("Counting"))
    assert bar.total == 500
    assert bar.n >= 2
    tasks = viewer.window._task_status_manager
    assert "Counting cells" in tasks.get_status()[0]
    handle.stop()
    ended(qtbot, handle)
    qtbot.waitUntil(lambda: not tasks.is_busy())
    assert bar not in progress._all_instances


def test_two_jobs_run_one_after_the_other(qtbot, runner):
    first = runner.submit("_jobs:count", n=10)
    second = runner.submit("_jobs:count", n=3)
    third = runner.submit("_jobs:count", n=3)
    assert (first.state, second.state) == ("running", "queued")
    third.stop()
    assert third.state == "stopped"
    begun = []
    second.started.connect(lambda: begun.append(first.state))
    ended(qtbot, second)
    assert begun == ["finished"]
    assert second.result == 3


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("refuse", "Field C07 has 3 channels"),
        ("break_down", "RuntimeError: boom"),
        ("run_out_of_memory", "smaller batch size"),
    ],
)
def test_failure_is_a_sentence_and_the_next_job_works(qtbot, runner, job, words):
    said = []
    handle = runner.submit(f"_jobs:{job}")
    handle.failed.connect(said.append)
    ended(qtbot, handle)
    assert handle.state == "failed"
    assert words in said[0]
    assert "Traceback" in runner.log[-1].details
    assert ended(qtbot, runner.submit("_jobs:count", n=1)).state == "finished"


def test_killed_worker_is_a_sentence_and_the_next_job_works(qtbot, runner):
    handle = runner.submit("_jobs:count", n=10_000)
    qtbot.waitUntil(lambda: handle.progress.done > 1, timeout=20_000)
    pid = runner.pid
    os.kill(pid, signal.SIGKILL)
    ended(qtbot, handle)
    assert handle.state == "failed"
    assert "memory ran out" in runner.log[-1].sentence
    again = ended(qtbot, runner.submit("_jobs:pid"))
    assert again.state == "finished"
    assert again.result != pid


def test_crashed_worker_leaves_its_last_words(qtbot, runner):
    handle = ended(qtbot, runner.submit("_jobs:die"))
    assert handle.state == "failed"
    assert "ended unexpectedly" in runner.log[-1].sentence
    assert "Segmentation fault" in runner.log[-1].details
    assert "_jobs.py" in runner.log[-1].details


def test_polite_stop_keeps_the_process(qtbot, runner, tmp_path):
    handle = runner.submit("_jobs:count", n=10_000, note=str(tmp_path / "note"))
    qtbot.waitUntil(lambda: handle.progress.done > 1, timeout=20_000)
    pid = runner.pid
    handle.stop()
    assert handle.state == "stopping"
    ended(qtbot, handle)
    assert handle.state == "stopped"
    assert (tmp_path / "note").read_text() == "closed"
    assert runner.pid == pid


def test_deaf_job_is_killed_after_two_seconds(qtbot, runner):
    handle = runner.submit("_jobs:hang", seconds=60)
    qtbot.waitUntil(lambda: handle.progress.message == "Hanging", timeout=20_000)
    pid = runner.pid
    begin = time.perf_counter()
    with Watchdog() as dog:
        handle.stop()
        ended(qtbot, handle)
    assert handle.state == "stopped"
    assert 1.5 < time.perf_counter() - begin < 5
    assert dog.worst_ms < 100
    assert ended(qtbot, runner.submit("_jobs:pid")).result != pid


def test_asks_are_answered_beside_a_job(qtbot, runner):
    job = runner.submit("_jobs:hang", seconds=3)
    qtbot.waitUntil(lambda: job.progress.message == "Hanging", timeout=20_000)
    got, wrong = [], []
    runner.ask("_jobs:shape", None, got.append, wrong.append, array=np.zeros((3, 2)))
    runner.ask("_jobs:refuse", None, got.append, wrong.append)
    qtbot.waitUntil(lambda: bool(got and wrong))
    assert job.state == "running"
    assert got == [(3, 2)]
    assert wrong == ["Field C07 has 3 channels, the others have 2."]
    job.stop()
    ended(qtbot, job)


def test_description_comes_from_the_cache_the_second_time(qtbot, runner):
    first, second = [], []
    runner.describe("segmenters", first.append)
    assert not first
    qtbot.waitUntil(lambda: bool(first), timeout=30_000)
    runner.describe("segmenters", second.append)
    assert second == first


def test_closing_the_viewer_during_a_job_ends_the_process(qtbot, viewer):
    runner = runner_of(viewer)
    handle = runner.submit("_jobs:count", n=100_000)
    qtbot.waitUntil(lambda: handle.progress.done > 1, timeout=20_000)
    process = runner._process._popen
    begin = time.perf_counter()
    viewer.close()
    assert time.perf_counter() - begin < 2
    qtbot.waitUntil(lambda: runner.closed, timeout=5000)
    qtbot.waitUntil(lambda: process.poll() is not None, timeout=5000)


def test_worker_that_cannot_start_says_so(qtbot, runner, monkeypatch):
    monkeypatch.setattr("sys.executable", "/no/such/python")
    handle = ended(qtbot, runner.submit("_jobs:pid"))
    assert handle.state == "failed"
    assert "could not be started" in runner.log[-1].sentence


def test_worker_that_dies_before_it_calls_says_so(qtbot, runner, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    handle = ended(qtbot, runner.submit("_jobs:pid"))
    assert handle.state == "failed"
    assert runner.log[-1].sentence
