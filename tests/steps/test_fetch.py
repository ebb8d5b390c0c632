"""Published checkpoints from a real server on this machine, a good one and bad ones, and from a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cellrep import load_model, registry
from napari_cellrep.cli import BAD_INPUT, OK, main
from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models._published import find_fetched, list_published
from napari_cellrep.specs import Channel, InputError, Weights
from napari_cellrep.steps import fetch as room
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.fetch import fetch, list_here
from napari_cellrep.steps.networks import network_of

NAME = "tiny"


class Host(ThreadingHTTPServer):
    """A server whose files, and faults, the test sets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether it answers Range with a part
        self.tags = True  # whether it sends ETag
        self.break_after: list[int] = []  # of the next answers: bytes after which the connection ends
        self.wait_s = 0.0  # between pieces of 64 kB
        self.shift = 0  # by how much it sends another part than was asked for
        self.status = 0  # answer everything with this
        self.asked: list[tuple[str, str, str]] = []  # path, Range, If-Range

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        host, begin = self.server, 0
        wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        host.asked.append((self.path, wanted, condition))
        body = host.files.get(self.path)
        if host.status or body is None:
            self.send_error(host.status or 404)
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        if host.ranges and wanted and condition in ("", tag):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) + host.shift
            if begin >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if host.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        end = begin + host.break_after.pop(0) if host.break_after else len(body)
        try:
            for at in range(begin, min(end, len(body)), 65536):
                self.wfile.write(body[at : min(at + 65536, end)])
                self.wfile.flush()
                time.sleep(host.wait_s)
        except OSError:  # the client has gone
            pass


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder for fetched weights, and no waiting."""
    monkeypatch.setenv("CELLREP_WEIGHTS", str(tmp_path / "weights"))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(room, "WAIT_S", 0.0)
    return tmp_path / "weights"


@pytest.fixture
def publish(monkeypatch):
    """Put one checkpoint called "tiny" into a model's table, as an author would."""

    def put(url: str, check: str = "", model: str = "microsnoop", **more) -> Weights:
        module = registry.load("models", model)
        weights = Weights(NAME, url, "Only on Sundays; patent pending.", check, **more)
        monkeypatch.setattr(module, "SPEC", dataclasses.replace(module.SPEC, weights=(weights,)))
        return weights

    return put


def checkpoint(seed: int = 0) -> bytes:
    """A small network in Microsnoop's published format."""
    module = registry.load("models", "microsnoop")
    torch.manual_seed(seed)
    file = io.BytesIO()
    torch.save({"model": module.Model(module.Config(width=0.125)).state_dict()}, file)
    return file.getvalue()


BODY = np.random.default_rng(0).bytes(700_000)


def git(body: bytes) -> str:
    return "git:" + hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def get(**kwargs) -> Path:
    return drain(fetch(NAME, accept_licence=True, **kwargs))


def whole_looking(folder: Path) -> list[str]:
    """Files of the checkpoint under their right name."""
    return sorted(
        p.name for p in (folder / NAME).glob("*") if p.is_file() and ".part" not in p.name
    )  # fmt: skip


@pytest.mark.parametrize(
    "check",
    [git(BODY), f"md5:{hashlib.md5(BODY).hexdigest()}", f"sha256:{hashlib.sha256(BODY).hexdigest()}"],
    ids=["git", "md5", "sha256"],
)
def test_a_file_is_fetched_checked_and_found_by_name(host, publish, folder, check):
    host.files["/a/w%20x.pth"] = BODY
    publish(f"{host.url}/a/w%20x.pth", check)
    assert find_fetched(NAME) is None
    seen = []
    path = drain(fetch(NAME, accept_licence=True), seen.append)
    assert path.read_bytes() == BODY
    assert find_fetched(NAME) == path == folder / NAME / "w x.pth"
    assert whole_looking(folder) == ["fetched.json", "w x.pth"]
    assert not list((folder / NAME).glob("*.part*"))
    assert any(p.total == 700 and p.done == 700 for p in seen)
    record = json.loads((folder / NAME / "fetched.json").read_text())
    assert record["files"]["w x.pth"]["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert "Sundays" in record["licence"]
    asked = len(host.asked)
    assert get() == path
    assert len(host.asked) == asked  # a second time asks nobody


def test_a_broken_download_is_gone_on_with_in_the_same_run(host, publish):
    host.files["/w.pth"], host.break_after = BODY, [300_000, 100_000]
    publish(f"{host.url}/w.pth", git(BODY))
    assert get().read_bytes() == BODY
    assert [a[1] for a in host.asked] == ["", "bytes=300000-", "bytes=400000-"]
    assert host.asked[1][2] == f'"{hashlib.md5(BODY).hexdigest()}"'


def test_a_broken_download_is_gone_on_with_by_the_next_run(host, publish, folder):
    host.files["/w.pth"], host.break_after = BODY, [100_000] * 4
    publish(f"{host.url}/w.pth", git(BODY))
    with pytest.raises(InputError, match=r"broke off 4 times.*0\.4 MB are kept: run the same command"):
        get()
    assert whole_looking(folder) == []
    assert find_fetched(NAME) is None
    assert get().read_bytes() == BODY
    assert host.asked[-1][1] == "bytes=400000-"


@pytest.mark.parametrize("tags", [True, False], ids=["etag", "no etag"])
def test_a_file_that_changed_meanwhile_is_begun_anew(host, publish, tags):
    new = BODY[::-1]
    host.files["/w.pth"], host.break_after, host.tags = BODY, [100_000] * 4, tags
    publish(f"{host.url}/w.pth", git(new))
    with pytest.raises(InputError, match="broke off"):
        get()
    host.files["/w.pth"] = new
    assert get().read_bytes() == new
    # With an ETag the server sends it whole at once; without, the checksum tells.
    assert [a[1] for a in host.asked[4:]] == (["bytes=400000-"] if tags else ["bytes=400000-", ""])


def test_a_server_without_ranges_sends_it_from_the_start(host, publish):
    host.files["/w.pth"], host.break_after, host.ranges = BODY, [300_000], False
    publish(f"{host.url}/w.pth", git(BODY))
    assert get().read_bytes() == BODY
    assert len(host.asked) == 2


def test_a_server_that_sends_another_part_is_asked_for_all_of_it(host, publish):
    host.files["/w.pth"], host.break_after, host.shift = BODY, [300_000], -10
    publish(f"{host.url}/w.pth", git(BODY))
    assert get().read_bytes() == BODY
    assert [a[1] for a in host.asked] == ["", "bytes=300000-", ""]


def test_all_bytes_were_there_but_not_yet_named(host, publish, folder):
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "w.pth.part").write_bytes(BODY)
    (folder / NAME / "w.pth.part.json").write_text(json.dumps({"url": f"{host.url}/w.pth", "validator": ""}))
    assert get().read_bytes() == BODY
    assert [a[1] for a in host.asked] == ["bytes=700000-"]
    shutil.rmtree(folder / NAME)
    (folder / NAME).mkdir()
    (folder / NAME / "w.pth.part").write_bytes(BODY + b"longer")
    (folder / NAME / "w.pth.part.json").write_text(json.dumps({"url": f"{host.url}/w.pth", "validator": ""}))
    assert get().read_bytes() == BODY


def test_a_part_of_another_address_is_not_used(host, publish, folder):
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "w.pth.part").write_bytes(b"x" * 1000)
    (folder / NAME / "w.pth.part.json").write_text(
        json.dumps({"url": "http://elsewhere/w.pth", "validator": '"a"'})
    )
    assert get().read_bytes() == BODY
    assert host.asked[0][1] == ""


def test_a_wrong_checksum_leaves_nothing(host, publish, folder):
    host.files["/w.pth"] = BODY[:-1] + b"\0"
    publish(f"{host.url}/w.pth", git(BODY))
    with pytest.raises(
        InputError, match=r"w\.pth from .* is not the file the authors published.*--from FOLDER"
    ):
        get()
    assert list((folder / NAME).iterdir()) == []
    assert find_fetched(NAME) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "is not there any more"),
        (410, "is not there any more"),
        (403, "refused"),
        (503, "try again later"),
    ],
)
def test_what_the_server_refuses_is_said(host, publish, status, words):
    host.status = status
    publish(f"{host.url}/w.pth", git(BODY))
    with pytest.raises(InputError, match=words):
        get()


def test_without_a_network_it_says_what_to_do(host, publish, monkeypatch):
    publish("http://no-such-host.invalid/w.pth", git(BODY))
    with pytest.raises(InputError, match=r"no-such-host\.invalid could not be reached .*--from FOLDER"):
        get()
    publish(f"{host.url}/w.pth", git(BODY))
    host.files["/w.pth"], host.wait_s = BODY, 0.5
    monkeypatch.setattr(room, "TIMEOUT_S", 0.1)  # a server that falls asleep in the middle
    with pytest.raises(InputError, match=r"broke off 4 times \(timed out\)"):
        get()


def test_several_files_are_one_checkpoint(host, publish, folder):
    host.files = {"/w.index": BODY[:9], "/w.data-0": BODY, "/w.data-1": BODY[:-1]}
    publish(
        f"{host.url}/w.index", git(BODY[:9]), "deeploc",
        more=((f"{host.url}/w.data-0", git(BODY)), (f"{host.url}/w.data-1", git(BODY[:-1]))),
    )  # fmt: skip
    del host.files["/w.data-1"]
    with pytest.raises(InputError, match=r"w\.data-1 is not there any more"):
        get()
    assert find_fetched(NAME) is None  # two of three are not a checkpoint
    host.files["/w.data-1"], host.asked = BODY[:-1], []
    assert get().name == "w.index"
    assert [a[0] for a in host.asked] == ["/w.data-1"]  # the others were whole
    (folder / NAME / "w.data-0").unlink()
    assert find_fetched(NAME) is None


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("made/README.txt", "not this")
        for name, body in files.items():
            archive.writestr(name, body)
    return file.getvalue()


def test_a_checkpoint_in_a_zip_and_the_hash_of_the_first_time(host, publish, folder):
    body = checkpoint()
    host.files["/all.zip"] = zipped(**{"made/models/w.pth": body, "made/old/w.pth": b"other"})
    publish(f"{host.url}/all.zip", inside="made/models/w.pth")
    assert get().read_bytes() == body
    assert whole_looking(folder) == ["fetched.json", "w.pth"]  # the zip was not kept
    hashes = json.loads((folder / "hashes.json").read_text())
    assert hashes["tiny/all.zip"] == f"sha256:{hashlib.sha256(host.files['/all.zip']).hexdigest()}"
    model = load_model(NAME)
    assert model.card["published"] == NAME
    # Later and elsewhere: other bytes under the same address are not taken silently.
    shutil.rmtree(folder / NAME)
    host.files["/all.zip"] = zipped(**{"made/models/w.pth": checkpoint(1)})
    with pytest.raises(InputError, match=r"not the file that was fetched the first time.*hashes\.json"):
        get()
    assert find_fetched(NAME) is None


def sha1(body: bytes) -> str:
    return f"sha1:{hashlib.sha1(body).hexdigest()}"


def test_the_checkpoint_in_a_zip_is_checked_where_its_authors_vouch_for_that(host, publish, folder, tmp_path):
    body = checkpoint()
    host.files["/w.pth.zip"] = zipped(**{"w.pth": body})
    publish(f"{host.url}/w.pth.zip", inside="w.pth", check_inside=sha1(checkpoint(1)))
    with pytest.raises(InputError, match=r"w\.pth in w\.pth\.zip is not the file the authors published"):
        get()
    assert whole_looking(folder) == []
    publish(f"{host.url}/w.pth.zip", inside="w.pth", check_inside=sha1(body))
    assert get().read_bytes() == body
    # From a folder: the zip, or what was in it, with the same check.
    for files, words in (
        ({"w.pth.zip": host.files["/w.pth.zip"]}, ""),
        ({"w.pth": body}, ""),
        ({"w.pth": b"x"}, "not the"),
    ):
        shutil.rmtree(folder / NAME)
        stick = tmp_path / "stick"
        shutil.rmtree(stick, ignore_errors=True)
        stick.mkdir()
        for name, content in files.items():
            (stick / name).write_bytes(content)
        if words:
            with pytest.raises(InputError, match=words):
                get(source=stick)
        else:
            assert get(source=stick).read_bytes() == body


@pytest.mark.slow
def test_weights_of_the_librarys_networks_are_fetched_and_embed_any_channels(host, publish, small):
    library = pytest.importorskip(
        "pytorchcv.models.efficientnet", reason="the extra imagenet is not installed"
    )
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(library.efficientnet_b0b().state_dict(), file)
    host.files["/efficientnet_b0b-0702.pth.zip"] = zipped(**{"efficientnet_b0b-0702.pth": file.getvalue()})
    publish(
        f"{host.url}/efficientnet_b0b-0702.pth.zip", model="imagenet", inside="efficientnet_b0b-0702.pth",
        check_inside=sha1(file.getvalue()), config={"network": "efficientnet_b0b"},
    )  # fmt: skip
    host.break_after = [1_000_000]
    get()
    result = drain(
        embed(small, model=NAME, channels=("DNA", "FKHR-GFP"), fields=["A01"], device="cpu", precision="fp32")
    )
    assert small.cells.obsm[f"X_{result.keys[0]}"].shape[1] == 2 * 1280
    assert small.embedding_info(NAME)["trained"] is True


def test_bytes_nobody_vouches_for_have_to_be_the_network(host, publish, folder):
    host.files["/w.pth"] = b"<html>please log in</html>"
    publish(f"{host.url}/w.pth")
    with pytest.raises(InputError, match="What came is not the checkpoint tiny"):
        get()
    assert whole_looking(folder) == []
    assert not (folder / "hashes.json").exists()
    host.files["/w.zip"] = b"PK no zip"
    publish(f"{host.url}/w.zip", inside="w.pth")
    with pytest.raises(InputError, match="is not a zip"):
        get()
    host.files["/w.zip"] = zipped(**{"other.pth": b"x"})
    with pytest.raises(InputError, match=r"does not hold w\.pth; it has made/README\.txt and other\.pth"):
        get()
    assert find_fetched(NAME) is None


@pytest.mark.parametrize("listed", ["w.pth", "data.zip"])
def test_a_zenodo_record_says_where_its_files_are_and_their_md5(host, publish, listed):
    body = checkpoint()
    sent = body if listed == "w.pth" else zipped(**{"data/w.pth": body})
    host.files["/content"] = sent
    files = [
        {
            "key": key,
            "links": {"self": f"{host.url}/content"},
            "checksum": f"md5:{hashlib.md5(sent).hexdigest()}",
        }
        for key in ("features.pth", "more.zip", listed)
    ]
    host.files["/api/records/806"] = json.dumps({"id": 806, "files": files}).encode()
    publish(f"{host.url}/records/806", inside="data/w.pth")
    assert get().read_bytes() == body


def test_a_zenodo_record_without_the_file_says_what_it_has(host, publish):
    files = [{"key": "features.pth", "links": {"self": f"{host.url}/x"}, "checksum": "md5:0"}]
    host.files["/api/records/806"] = json.dumps({"files": files}).encode()
    publish(f"{host.url}/records/806", inside="data/w.pth")
    with pytest.raises(InputError, match=r"no file w\.pth.*it has features\.pth.*by hand.*--from FOLDER"):
        get()
    host.files["/api/records/806"] = b"<html>"
    with pytest.raises(InputError, match=r"did not answer with a list of files.*by hand"):
        get()


def test_from_a_folder_with_the_same_checks(publish, folder, tmp_path):
    publish("http://no-such-host.invalid/a/w.pth", git(BODY))
    lab = tmp_path / "stick"
    with pytest.raises(InputError, match="stick is not a folder"):
        get(source=lab)
    lab.mkdir()
    with pytest.raises(InputError, match=r"stick lacks w\.pth for tiny; they are to be had from http"):
        get(source=lab)
    (lab / "w.pth").write_bytes(BODY[:-5])
    with pytest.raises(InputError, match="is not the file the authors published"):
        get(source=lab)
    assert whole_looking(folder) == []
    (lab / "w.pth").write_bytes(BODY)
    assert get(source=lab).read_bytes() == BODY
    assert (lab / "w.pth").exists()


def test_from_a_folder_the_checkpoint_may_be_out_of_its_zip(publish, tmp_path, shared):
    golden = shared / "golden"
    lab = tmp_path / "stick"
    lab.mkdir()
    names = ["deeploc_tiny_model.ckpt-7.index", "deeploc_tiny_model.ckpt-7.data-00000-of-00001"]
    publish("http://no-such-host.invalid/all.zip", model="deeploc", inside="pre/deeploc_tiny_model.ckpt-7")
    with zipfile.ZipFile(lab / "all.zip", "w") as archive:
        for name in names:
            archive.write(golden / name, f"pre/{name}")
    assert get(source=lab).name == names[0]
    from_zip = load_model(NAME).state_dict()
    shutil.rmtree(tmp_path / "weights" / NAME)
    (lab / "all.zip").unlink()
    for name in names:
        shutil.copy(golden / name, lab)
    assert get(source=lab).name == names[0]
    from_files = load_model(NAME).state_dict()
    assert all(torch.equal(from_zip[k], from_files[k]) for k in from_zip)
    shutil.rmtree(tmp_path / "weights" / NAME)
    damaged = bytearray((lab / names[1]).read_bytes())
    damaged[99] ^= 1
    (lab / names[1]).write_bytes(damaged)
    with pytest.raises(InputError, match="not the file that was fetched the first time"):
        get(source=lab)


def test_a_damaged_file_is_fetched_again(host, publish, folder):
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    path = get()
    path.write_bytes(BODY[::-1])  # same size
    assert get().read_bytes() == BODY
    path.write_bytes(BODY[:10])
    assert find_fetched(NAME) is None
    assert get().read_bytes() == BODY


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(publish, folder, tmp_path):
    publish("http://no-such-host.invalid/w.pth", git(BODY))
    lab = tmp_path / "stick"
    lab.mkdir()
    (lab / "w.pth").write_bytes(BODY)
    (folder / NAME).mkdir(parents=True)
    (folder / NAME / "w.pth.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"The disk is full.*CELLREP_WEIGHTS"):
        get(source=lab)
    assert whole_looking(folder) == []


def test_a_file_larger_than_the_disk_is_not_begun(host, publish, folder, monkeypatch):
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    with pytest.raises(InputError, match=r"0 MB free and 1 MB are wanted"):
        get()
    assert whole_looking(folder) == []


def test_a_folder_that_cannot_be_written_is_said(publish, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CELLREP_WEIGHTS", str(tmp_path / "file"))
    publish("http://no-such-host.invalid/w.pth", git(BODY))
    with pytest.raises(InputError, match=r"cannot be written .*CELLREP_WEIGHTS"):
        get()


def test_two_at_once_do_not_write_one_file(host, publish):
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    first = fetch(NAME, accept_licence=True)
    next(first)
    with pytest.raises(InputError, match="Another process is fetching tiny"):
        get()
    first.close()
    assert get().read_bytes() == BODY


def test_a_stopped_job_is_gone_on_with(host, publish, folder):
    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    job = fetch(NAME, accept_licence=True)
    while next(job).done < 100:
        pass
    job.close()
    assert whole_looking(folder) == []
    assert get().read_bytes() == BODY
    assert re.fullmatch(r"bytes=\d{5,6}-", host.asked[-1][1])


_CHILD = """
import dataclasses, sys
from napari_cellrep import registry
from napari_cellrep.jobs import drain
from napari_cellrep.specs import Weights
from napari_cellrep.steps.fetch import fetch, list_here
module = registry.load("models", "microsnoop")
module.SPEC = dataclasses.replace(module.SPEC, weights=(Weights("tiny", sys.argv[1], "none", sys.argv[2]),))
drain(fetch("tiny", accept_licence=True), lambda p: print(p.done, flush=True))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_in_the_middle_leaves_nothing_that_looks_whole(host, publish, folder):
    host.files["/w.pth"], host.wait_s = BODY, 0.1
    publish(f"{host.url}/w.pth", git(BODY))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, f"{host.url}/w.pth", git(BODY)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(room.__file__).parents[2])},
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 200:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert whole_looking(folder) == []
    assert find_fetched(NAME) is None
    assert 0 < (folder / NAME / "w.pth.part").stat().st_size < len(BODY)
    host.wait_s = 0
    assert get().read_bytes() == BODY
    assert host.asked[-1][1].startswith("bytes=")


# ---- what a person types ---------------------------------------------------------------------------


def test_the_licence_has_to_be_accepted(publish):
    publish("http://no-such-host.invalid/w.pth", git(BODY))
    with pytest.raises(InputError, match=r"accepted first: Only on Sundays; patent pending"):
        drain(fetch(NAME))


@pytest.mark.slow
def test_fetch_list_and_embed_by_name(host, publish, small, capsys, monkeypatch):
    body = checkpoint()
    host.files["/w.pth"] = body
    publish(f"{host.url}/w.pth", git(body), roles=("protein",))
    assert main(["embed", str(small.root), "--weights", NAME]) == BAD_INPUT
    assert "run: cellrep models fetch tiny" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["models", "fetch", NAME]) == BAD_INPUT
    told = capsys.readouterr()
    assert "Only on Sundays; patent pending." in told.out
    assert "--yes" in told.err
    assert main(["models", "fetch", NAME, "--yes"]) == OK
    told = capsys.readouterr().out
    assert "Only on Sundays" in told  # shown, even where nobody is asked
    assert "cellrep embed PROJECT --weights tiny" in told
    assert main(["models"]) == OK
    assert "weights: tiny (fetched)" in capsys.readouterr().out
    assert main(["embed", str(small.root), "--weights", NAME, "--channels", "DNA"]) == OK
    assert "embedded as tiny" in capsys.readouterr().out
    made = small.embedding_info(NAME)
    assert made["published"] == NAME
    assert made["trained"] is True
    assert made["channels"] == ["DNA"]
    assert main(["embed", str(small.root), "--weights", NAME, "--model", "dino"]) == BAD_INPUT
    assert "are of the model microsnoop, not of dino" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "code"), [("y\n", OK), ("\n", BAD_INPUT), ("no\n", BAD_INPUT)])
def test_at_a_terminal_it_asks(host, publish, capsys, monkeypatch, answer, code):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    host.files["/w.pth"] = BODY
    publish(f"{host.url}/w.pth", git(BODY))
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["models", "fetch", NAME]) == code
    assert (find_fetched(NAME) is not None) == (code == OK)
    assert "Do you accept" in capsys.readouterr().out


def test_unknown_names_are_told_the_known(capsys):
    assert main(["models", "fetch", "pci-yeats", "--yes"]) == BAD_INPUT
    assert "pci-yeast" in capsys.readouterr().err
    assert main(["models", "fetch", "dino", "--yes"]) == BAD_INPUT
    assert "those of dino are dino-hpa-fov" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"neither a file nor a model's name.*pci-yeast"):
        load_model("pci-yeats")
    with pytest.raises(InputError, match="cellrep models fetch pci-yeast"):
        load_model("pci-yeast")


def test_every_published_checkpoint_can_be_asked_for():
    names = [w.name for name in registry.names("models") for w in registry.load("models", name).SPEC.weights]
    assert len(set(names)) == len(names)
    assert not set(names) & set(registry.names("models"))  # a model's name is the untrained network
    for _, weights in list_published().values():
        if weights.bundled:  # it comes with the package
            assert not weights.url
            continue
        assert weights.url.startswith(("https://", "http://spidey.ccbr.utoronto.ca/"))
        assert all(
            re.fullmatch(r"((git|sha1):[0-9a-f]{40}|sha256:[0-9a-f]{64})?", check)
            for check in (weights.check, weights.check_inside, *dict(weights.more).values())
        )
        record = "/records/" in weights.url
        assert bool(weights.inside) == (record or weights.url.endswith(".zip"))
        assert (
            weights.um_per_px
            or "ampling not stated" in weights.note
            or "ImageNet" in weights.note
            or "As " in weights.note
        )


# ---- sampling and channels, as the checkpoint says ---------------------------------------------------


@pytest.fixture
def yeast(publish, shared, tmp_path):
    """A small Paired Cell Inpainting network in the authors' format, fetched; trained at 0.5 µm/px, as it says."""

    def put(**more):
        lab = tmp_path / "stick"
        lab.mkdir(exist_ok=True)
        shutil.copy(shared / "golden" / "pci_yeast_tiny_keras.h5", lab)
        url = "http://no-such-host.invalid/pci_yeast_tiny_keras.h5"
        publish(url, model="paired_cell_inpainting", **more)
        get(source=lab)

    return put


def with_pixel_size(project, um_per_px: float):
    project.write_fields([dataclasses.replace(f, um_per_px=um_per_px) for f in project.fields])
    return project


@pytest.mark.slow
def test_the_window_is_cut_at_the_sampling_of_the_weights(yeast, small):
    yeast(um_per_px=0.5)
    with_pixel_size(small, 0.4)
    result = drain(embed(small, precision="fp32", model=NAME))
    assert any("0.5 µm per px: 80 px of the image, seen at 64 px" in note for note in result.notes)
    made = small.embedding_info(NAME)
    assert made["sides_px"] == [80]
    assert made["crop"]["um_per_px"] == 0.5
    at_sampling = small.cells.obsm[f"X_{NAME}"].copy()
    by_hand = drain(embed(small, precision="fp32", model=NAME, key="hand", crop={"window_px": 80}))
    assert not any("µm per px" in note for note in by_hand.notes)
    np.testing.assert_allclose(small.cells.obsm["X_hand"], at_sampling, rtol=1e-5, atol=1e-6)
    drain(
        embed(small, precision="fp32", model=NAME, key="native", crop={"window_px": 64})
    )  # what is asked for goes first
    assert np.abs(small.cells.obsm["X_native"] - at_sampling).max() > 1e-3
    with_pixel_size(small, 0.5)  # corrected later: the old rows do not count any more
    assert drain(embed(small, precision="fp32", model=NAME)).n_skipped == 0
    np.testing.assert_allclose(
        small.cells.obsm[f"X_{NAME}"], small.cells.obsm["X_native"], rtol=1e-5, atol=1e-6
    )  # fmt: skip


def test_an_unknown_sampling_is_said(yeast, small):
    yeast()
    with_pixel_size(small, 0.4)
    result = drain(embed(small, model=NAME))
    assert any("not known; it gets 64 px" in note for note in result.notes)
    assert "sides_px" not in small.embedding_info(NAME)


def test_one_channel_the_recipe_dropped_may_be_missing(yeast, small):
    yeast(may_lack=("structure",))
    small.set_channels([Channel("FKHR-GFP", "protein"), Channel("DNA", "other")])
    result = drain(embed(small, model=NAME))
    assert any("There is no structure channel" in note for note in result.notes)
    assert small.embedding_info(NAME)["channels"] == ["FKHR-GFP", ""]
    assert np.isfinite(small.cells.obsm[f"X_{NAME}"]).all()
    small.set_channels([Channel("FKHR-GFP", "other"), Channel("DNA", "nucleus")])
    with pytest.raises(InputError, match="there is no protein among"):
        drain(embed(small, model=NAME))


def test_weights_for_any_channels_take_those_that_are_named(host, publish, small):
    module = registry.load("models", "dino")
    torch.manual_seed(0)
    net = module.Model(dataclasses.replace(module.TINY, as_rgb=True, channels=("protein",)))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    host.files["/w.pth"] = file.getvalue()
    publish(f"{host.url}/w.pth", model="dino", roles=("protein",))
    get()
    model = load_model(NAME)
    assert model.roles == model.crop.channels == ("protein",)
    drain(embed(small, model=NAME, channels=("FKHR-GFP", "DNA"), key="both"))
    assert small.cells.obsm["X_both"].shape[1] == 2 * model.dim()


@pytest.mark.slow
def test_settings_that_leave_the_weights_as_they_are(host, publish, small, capsys):
    host.files["/w.pth"] = checkpoint()
    publish(f"{host.url}/w.pth")
    get()
    how = [
        "--weights",
        NAME,
        "--fields",
        "A01",
        "--channels",
        "DNA,FKHR-GFP",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    assert main(["embed", str(small.root), *how]) == OK
    assert (
        main(
            [
                "embed",
                str(small.root),
                *how,
                "--key",
                "mean",
                "--set",
                "channel_mode=mean",
                "--set",
                "zoom=0.5",
            ]
        )
        == OK
    )
    project = open_project(small.root)
    assert project.cells.obsm["X_tiny"].shape[1] == 2 * project.cells.obsm["X_mean"].shape[1]
    found = network_of(project, "mean")  # as it is when somebody looks into a cell
    assert (found.net.config.channel_mode, found.net.config.zoom) == ("mean", 0.5)
    assert found.net.crop.size_px == 448
    capsys.readouterr()
    assert main(["embed", str(small.root), *how, "--set", "width=1"]) == BAD_INPUT
    assert "another network" in capsys.readouterr().err


def test_what_is_here_is_listed_whole_and_begun(host, publish, folder):
    def fetched():
        return {name: about for name, about in list_here().items() if not name.endswith("-starter")}

    assert fetched() == {}
    host.files["/w.pth"], host.break_after = BODY, [100_000] * 4
    publish(f"{host.url}/w.pth", git(BODY))
    with pytest.raises(InputError, match="broke off"):
        get()
    assert fetched() == {NAME: {"whole": False, "bytes": 400_000, "folder": str(folder / NAME), "from": ""}}
    get()
    assert list_here()[NAME]["whole"]
    assert list_here()[NAME]["bytes"] == len(BODY)
    assert list_here()[NAME]["from"] == f"{host.url}/w.pth"


def test_starter_weights_are_here_without_fetching(folder, small, capsys):
    assert not folder.exists()
    assert list_here()["pci-starter"]["whole"]
    assert list_here()["pci-starter"]["bytes"] > 1e5
    assert drain(fetch("pci-starter")) == find_fetched(
        "pci-starter"
    )  # no licence to accept, no network to ask
    assert main(["models"]) == OK
    told = capsys.readouterr().out
    assert "weights: pci-starter (comes with this package)" in told
    assert "weights: dino-starter (comes with this package)" in told
    assert main(["embed", str(small.root), "--weights", "pci-starter"]) == OK
    project = open_project(small.root)
    assert project.embedding_info("pci-starter")["published"] == "pci-starter"
    assert network_of(project, "pci-starter").net.roles == ("protein", "nucleus")
    assert not folder.exists()
