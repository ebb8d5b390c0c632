"""One writer at a time, with two processes; a share without file locks is one on which `flock` says so."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest
from filelock import Timeout

from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.data.files import change_entries
from napari_cellrep.data.locks import Lock
from napari_cellrep.specs import InputError

WITHOUT = (
    "import errno, fcntl, sys\n"
    "def refuse(fd, how):\n    raise OSError(errno.{name}, 'no locks here')\n"
    "fcntl.flock = refuse\n"
)
HOLD = (
    "from pathlib import Path\nfrom napari_cellrep.data.locks import Lock\n"
    "with Lock(Path(sys.argv[1])).hold(5):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
)
COUNT = (
    "from pathlib import Path\nfrom napari_cellrep.data.locks import Lock\n"
    "path = Path(sys.argv[1])\nlock = Lock(path)\nnumber = path.with_name('number')\n"
    "for _ in range(40):\n    with lock.hold(60):\n        number.write_text(str(int(number.read_text()) + 1))\n"
)


def _refuse(name):
    def refuse(*_):
        raise OSError(getattr(errno, name), "no locks here")

    return refuse


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "EINVAL"])
def without(request, monkeypatch):
    """This process, and the words for another one, on a share without file locks."""
    monkeypatch.setattr(fcntl, "flock", _refuse(request.param))
    return WITHOUT.format(name=request.param)


def _start(code, path):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_take_turns_where_there_are_no_locks(without, tmp_path):
    path = tmp_path / ".lock"
    (tmp_path / "number").write_text("0")
    both = [_start(without + COUNT, path) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert (tmp_path / "number").read_text() == "80"
    assert not (tmp_path / ".lock-held").exists()


def test_the_owner_is_named_and_what_a_killed_process_left_is_taken_over(without, tmp_path):
    lock = Lock(tmp_path / ".lock")
    process = _start(without + HOLD, lock.path)
    try:
        assert process.stdout.readline().strip() == "ready"
        owner = lock.owner()
        assert (owner.host, owner.pid) == (socket.gethostname(), process.pid)
        assert owner.here
        assert owner.runs
        assert f"Process {process.pid} on this computer (since 20" in str(owner)
        with pytest.raises(Timeout), lock.hold(0.2):
            pass
        process.kill()
        process.wait()
        assert lock.held.exists()  # nobody could free it
        with lock.hold(20), lock.hold(20):  # and a writer may call another
            assert lock.owner().pid == os.getpid()
        assert lock.owner() is None
    finally:
        process.kill()
        process.communicate()


def test_a_process_with_locks_sees_one_without(tmp_path):
    lock = Lock(tmp_path / ".lock")
    process = _start(WITHOUT.format(name="ENOLCK") + HOLD, lock.path)
    try:
        assert process.stdout.readline().strip() == "ready"
        with pytest.raises(Timeout), lock.hold(0.2):
            pass
    finally:
        process.communicate("")
    with lock.hold(5):
        assert not lock.held.exists()


def _held_by(root, host, pid=4321):
    (root / ".lock-held").write_text(f"{pid}\n{host}\n", encoding="utf-8")


def test_another_computer_is_named_and_can_be_told_to_be_gone(sample_project, capsys):
    root = sample_project.root
    _held_by(root, "scope-pc")
    with pytest.raises(InputError, match=r"Process 4321 on scope-pc \(since .*cellrep unlock"):
        with sample_project.lock(timeout_s=0.2):
            pass
    assert sample_project.cells.n_obs  # it can be looked at
    assert main(["unlock", str(root)]) == OK
    assert "Process 4321 on scope-pc" in capsys.readouterr().out
    with sample_project.lock(timeout_s=1):
        pass
    assert open_project(root).history[-1]["of"].startswith("Process 4321 on scope-pc")
    assert main(["unlock", str(root)]) == BAD_INPUT
    assert "nothing to unlock" in capsys.readouterr().err


def test_a_process_of_this_computer_that_runs_is_not_unlocked(sample_project):
    _held_by(sample_project.root, socket.gethostname(), os.getppid())
    with pytest.raises(InputError, match="wait for it or stop it"):
        sample_project.unlock()
    with pytest.raises(InputError, match="on this computer"), sample_project.lock(timeout_s=0.2):
        pass


def test_other_errors_of_the_disk_are_not_taken_for_missing_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", _refuse("EIO"))
    with pytest.raises(OSError, match="no locks here") as caught, Lock(tmp_path / ".lock").hold(1):
        pass
    assert caught.value.errno == errno.EIO


def test_sets_and_verdicts_are_kept_there_too(without, tmp_path):
    path = tmp_path / "sets.json"
    assert change_entries(path, dict, lambda now: {**now, "mine": 1}, "sets") == {"mine": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".sets.lock", "sets.json"]
