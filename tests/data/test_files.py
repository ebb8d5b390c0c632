from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_cellrep.data.files import recover, replacing, sweep, write_text
from napari_cellrep.specs import InputError


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "a").write_text(text)
    return path


def test_file_and_folder_are_replaced(tmp_path):
    write_text(tmp_path / "new" / "f.txt", "one")
    write_text(tmp_path / "new" / "f.txt", "zwei µ")
    assert (tmp_path / "new" / "f.txt").read_text(encoding="utf-8") == "zwei µ"
    for text in ("one", "two"):
        with replacing(tmp_path / "d") as tmp:
            folder_of(tmp, text)
    assert (tmp_path / "d" / "a").read_text() == "two"
    assert leftovers(tmp_path) == leftovers(tmp_path / "new") == []


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), GeneratorExit()])
def test_error_leaves_the_old(tmp_path, error):
    write_text(tmp_path / "f", "old")
    folder_of(tmp_path / "d", "old")
    with pytest.raises(type(error)), replacing(tmp_path / "f") as tmp:  # noqa: PT012
        tmp.write_text("half")
        raise error
    with pytest.raises(type(error)), replacing(tmp_path / "d") as tmp:  # noqa: PT012
        folder_of(tmp, "half")
        raise error
    assert (tmp_path / "f").read_text() == (tmp_path / "d" / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("writer", ["text", "numpy", "parquet", "tiff"])
def test_disk_that_fills(tmp_path, writer):
    """The kernel's own "no space left", as each library reports it."""
    import pandas as pd
    import tifffile

    write_text(tmp_path / "f", "old")
    with (  # noqa: PT012
        pytest.raises(InputError, match="disk is full: f could not be written"),
        replacing(tmp_path / "f") as tmp,
    ):
        tmp.symlink_to("/dev/full")
        if writer == "text":
            tmp.write_text("x" * 100_000)
        elif writer == "numpy":
            with tmp.open("wb") as f:
                np.save(f, np.zeros(100_000))
        elif writer == "parquet":
            pd.DataFrame({"a": np.arange(100_000)}).to_parquet(tmp)
        else:
            with tmp.open("wb") as f:
                tifffile.imwrite(f, np.zeros((500, 500)))
    assert (tmp_path / "f").read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only"),
])  # fmt: skip
def test_errors_of_the_system(tmp_path, number, words):
    with pytest.raises(InputError, match=words), replacing(tmp_path / "f"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="Input/output"), replacing(tmp_path / "f"):
        raise OSError(errno.EIO, "Input/output error")


def test_folder_without_permission(tmp_path):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("permissions do not bind this user")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_text(tmp_path / "f", "x")
    finally:
        tmp_path.chmod(0o700)


def test_recover_after_a_kill_between_two_renames(tmp_path):
    folder_of(tmp_path / ".d.old", "old")  # killed after the first rename
    recover(tmp_path / "d")
    assert (tmp_path / "d" / "a").read_text() == "old"
    folder_of(tmp_path / ".d.old", "older")  # killed after the second
    recover(tmp_path / "d")
    assert (tmp_path / "d" / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_writing_after_such_a_kill_never_removes_the_only_whole_version(tmp_path, monkeypatch):
    folder_of(tmp_path / ".d.old", "old")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"), replacing(tmp_path / "d") as tmp:
        folder_of(tmp, "new")
    assert (tmp_path / "d" / "a").read_text() == "old"


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """A process that replaces a folder over and over is killed; a whole version is always there."""
    code = """
import sys, pathlib
from napari_cellrep.data.files import replacing
for i in range(10**6):
    with replacing(pathlib.Path(sys.argv[1])) as tmp:
        tmp.mkdir()
        for k in range(5):
            (tmp / str(k)).write_text(str(i))
    print(i, flush=True)
"""
    for delay in (0.0, 0.005, 0.013, 0.021):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        process.wait()
        process.stdout.close()
        recover(tmp_path / "d")
        assert len({(tmp_path / "d" / str(k)).read_text() for k in range(5)}) == 1
    sweep(tmp_path, older_than_s=-1)
    assert leftovers(tmp_path) == []


def test_sweep_leaves_what_may_be_in_the_making(tmp_path):
    (tmp_path / ".x.1.part").touch()
    sweep(tmp_path)
    assert (tmp_path / ".x.1.part").exists()
    os.utime(tmp_path / ".x.1.part", (1, 1))
    sweep(tmp_path)
    assert leftovers(tmp_path) == []
    sweep(tmp_path / "none")


def test_sweep_of_one_name_leaves_the_files_of_others(tmp_path):
    for name in (".a[1].csv.9-1.part", ".b.csv.9-1.part", ".download.part"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    sweep(tmp_path, name="a[1].csv")
    assert sorted(leftovers(tmp_path)) == [".b.csv.9-1.part", ".download.part"]


def test_sweep_leaves_what_is_gone_on_with_for_a_month(tmp_path):
    folder = folder_of(tmp_path / ".x.unfinished", "")
    for days, stays in ((20, True), (40, False)):
        os.utime(folder, (time.time() - 86_400 * days,) * 2)
        sweep(tmp_path)
        assert folder.exists() == stays


def test_what_is_gone_on_with_stays_when_something_goes_wrong(tmp_path):
    unfinished = tmp_path / ".x.unfinished"
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x", unfinished) as tmp:  # noqa: PT012
        folder_of(tmp, "half")
        raise KeyboardInterrupt
    assert (unfinished / "a").read_text() == "half"
    with replacing(tmp_path / "x", unfinished):
        (unfinished / "b").touch()
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["a", "b"]
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="no limit for the size of files on Windows")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_too_large_for_its_disk_is_said(tmp_path, kind):
    """A stick takes no file above 4 GB, and a quota may be of single files: both say "too large"."""
    import resource

    source = folder_of(tmp_path / "source", "x" * 20_000)

    def write():
        with replacing(tmp_path / "out") as tmp:
            if kind == "file":
                tmp.write_bytes(b"x" * 20_000)
            else:
                shutil.copytree(source, tmp)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match=r"or takes no file as large: out could not be written\."):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_file_that_cannot_be_copied_is_named(tmp_path):
    folder_of(tmp_path / "source", "x")
    (tmp_path / "source" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"out could not be written: .*source.gone .*No such file"), \
        replacing(tmp_path / "out") as tmp:  # fmt: skip
        shutil.copytree(tmp_path / "source", tmp)
    assert not (tmp_path / "out").exists()
