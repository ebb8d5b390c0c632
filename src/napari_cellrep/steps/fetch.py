"""Authors' host, or a folder → a published checkpoint on this machine, whole and checked.

Standard library, not pooch: what has to be right here is resuming a broken download and git blob ids, and pooch does
neither.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from filelock import Timeout

from napari_cellrep import __version__, registry
from napari_cellrep.data.files import write_text
from napari_cellrep.data.locks import Lock
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, ModelSpec, Weights, join_words

TIMEOUT_S = 30.0
ATTEMPTS = 4  # of one file within one run, each going on where the one before broke off
WAIT_S = 1.0  # before the second attempt; longer before each further one
CHUNK = 2**20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the last: a USB stick's FAT takes no file of 4 GB
_RECORD_PAGE = re.compile(r"/records?/(\d+)/?$")


@dataclass(frozen=True)
class _Source:
    """One file to bring: what it is called here, where from, and how it is checked ("" if nobody says)."""

    file: str
    url: str
    check: str = ""


class _BrokenOff(Exception):
    """The connection ended before the file did."""


def fetch(name: str, *, accept_licence: bool = False, source: Path | None = None) -> Job[Path]:
    """Bring a published checkpoint to this machine, where `load_model` finds it by its name.

    It comes from the authors' own host, or from a folder where somebody has put its files. A download that breaks off
    is gone on with, now or at the next run. Nothing gets its right name before it is whole and checked: against the
    authors' checksum, else against the sha256 recorded when it was first fetched.

    Parameters
    ----------
    name : str
        One of `list_published`: "pci-yeast".
    accept_licence : bool
        Whether the person who asks has read the licence and accepts it.
    source : Path, optional
        A folder with the files, for machines without a network.

    Yields
    ------
    Progress
        ``done`` counts kilobytes of the file in hand; the job returns the checkpoint's path.

    Raises
    ------
    InputError
        If there is no such checkpoint, the licence is not accepted, the host, the network, the disk or the folder
        fail, or what came is not what the authors published.
    """
    from napari_cellrep.models._published import RECORD, find_fetched, weights_folder

    spec, weights = describe_published(name)
    if weights.bundled:
        here = find_fetched(name)
        if here is None:
            raise InputError(f"The weights {name} should have come with napari-cellrep; install it again.")
        return here
    if not accept_licence:
        raise InputError(
            f"The weights {name} come under a licence that has to be accepted first: {weights.licence}"
        )
    root = weights_folder()
    with _writing(root):
        (root / name).mkdir(parents=True, exist_ok=True)
    try:
        with _writing(root / name), Lock(root / f".{name}.lock").hold(timeout_s=0):
            there = find_fetched(name)
            if there and (yield from _still_right(root / name)):
                return there
            (root / name / RECORD).unlink(missing_ok=True)
            return (yield from _bring(spec, weights, root, source))
    except Timeout:
        raise InputError(f"Another process is fetching {name} just now; wait until it is done.") from None


def list_here() -> dict[str, dict[str, Any]]:
    """Published checkpoints of which something is on this machine.

    Returns
    -------
    dict
        Name → {"whole": bool, "bytes": of it that are here, "folder": where, "from": address or folder it came from}.
        One that is not whole was broken off; fetching it goes on from there.
    """
    from napari_cellrep.models._published import BUNDLED, list_published, read_record, weights_folder

    found: dict[str, dict[str, Any]] = {}
    for name, (_, weights) in list_published().items():
        folder, record = weights_folder() / name, read_record(name)
        if weights.bundled:
            folder = BUNDLED / name
            record = {"files": {path.name: {"bytes": path.stat().st_size} for path in folder.glob("*")}}
        sizes = [
            path.stat().st_size for path in folder.glob("*") if path.is_file() and path.suffix != ".json"
        ]
        if record:
            sizes = [int(file["bytes"]) for file in record["files"].values()]
        if record or sum(sizes):
            found[name] = {
                "whole": bool(record), "bytes": sum(sizes), "folder": str(folder), "from": record.get("from", ""),
            }  # fmt: skip
    return found


def describe_published(name: str) -> tuple[ModelSpec, Weights]:
    """Spec of the model and description of the checkpoint called `name`.

    Raises
    ------
    InputError
        If there is none; the sentence lists those there are.
    """
    from napari_cellrep.models._published import list_published

    published = list_published()
    if name not in published:
        of_model = [w.name for spec, w in published.values() if spec.name == name]
        raise InputError(
            f"There are no published weights called {name!r}; "
            + (f"those of {name} are {join_words(of_model, 9)}." if of_model
               else f"there are {join_words(published, 99)}.")
        )  # fmt: skip
    return published[name]


def _bring(spec: ModelSpec, weights: Weights, root: Path, source: Path | None) -> Job[Path]:
    from napari_cellrep.models._published import RECORD

    folder = root / weights.name
    if source is not None:
        wanted = _find_in(source, weights)
        bring = _copy
    else:
        yield Progress(0, 0, f"Asking {urllib.parse.urlsplit(weights.url).hostname}")
        wanted = _sources(weights)
        bring = _download
    known = _read_json(root / "hashes.json")
    files: dict[str, dict[str, Any]] = {}
    new_hashes: dict[str, str] = {}
    for item in wanted:
        label = f"{weights.name}/{item.file}"
        check = item.check or known.get(label, "")
        target = folder / item.file
        sha256 = ""
        if target.is_file() and check:  # of a run that got this far and no further
            sha256 = yield from _check(target, check)
        if not sha256:
            sha256 = yield from _whole(bring, item, target, check, weights, root)
        if not item.check:
            new_hashes[label] = f"sha256:{sha256}"
        files[item.file] = {"bytes": target.stat().st_size, "sha256": sha256}
    if weights.inside and len(wanted) == 1 and _is_archive(wanted[0].file, weights):
        archive = folder / wanted[0].file
        files = yield from _unpack(archive, weights, folder)
        archive.unlink()
        new_hashes.update(
            {f"{weights.name}/{file}": f"sha256:{about['sha256']}" for file, about in files.items()}
        )
    entry = PurePosixPath(weights.inside).name if weights.inside else wanted[0].file
    if entry not in files:  # TensorFlow's checkpoints are called by a prefix
        entry = next((file for file in files if file.endswith(".index")), next(iter(files)))
    if new_hashes and not weights.check_inside:
        yield Progress(1, 1, f"Opening {entry}")
        try:  # nobody vouches for these bytes but themselves: they have to be this network's
            registry.load("models", spec.name).read_checkpoint(folder / entry)
        except InputError as error:
            for file in files:
                (folder / file).unlink(missing_ok=True)
            raise InputError(f"What came is not the checkpoint {weights.name}. {error}") from error
    with Lock(root / ".hashes.lock").hold(timeout_s=60):
        hashes = {**new_hashes, **_read_json(root / "hashes.json")}  # the first record stays
        write_text(root / "hashes.json", json.dumps(hashes, indent=1))
    record = {
        "name": weights.name, "model": spec.name, "entry": entry, "files": files, "licence": weights.licence,
        "from": weights.url if source is None else str(source), "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    for rest in folder.glob("*.part*"):
        rest.unlink(missing_ok=True)
    yield Progress(1, 1, f"Fetched {weights.name}")
    return folder / entry


def _whole(
    bring: Callable[[_Source, Path, bool], Job[bool]],
    item: _Source,
    target: Path,
    check: str,
    weights: Weights,
    root: Path,
) -> Job[str]:
    """Bring one file under a temporary name, check it, rename it; returns its sha256."""
    part = target.with_name(f"{target.name}.part")
    resumed = yield from bring(item, part, bool(check))
    sha256 = yield from _check(part, check)
    if not sha256 and resumed:  # the first half may be of another version: once more, from the start
        _forget(part)
        yield from bring(item, part, bool(check))
        sha256 = yield from _check(part, check)
    if not sha256:
        _forget(part)
        if item.check:
            raise InputError(
                f"{item.file} from {item.url} is not the file the authors published (its checksum is not {item.check}) "
                "and was not kept; try again later, or get it elsewhere and use --from FOLDER."
            )
        raise InputError(
            f"{item.file} from {item.url} is not the file that was fetched the first time (its checksum is not {check}) "
            f"and was not kept. If the authors have replaced it and you trust the new one, remove {weights.name}/"
            f"{item.file} from {root / 'hashes.json'} and fetch again."
        )
    with _writing(part):
        with part.open("rb+") as f:
            os.fsync(f.fileno())
        part.replace(target)
    _forget(part)
    return sha256


# ---- where the files are ---------------------------------------------------------------------------


def _sources(weights: Weights) -> list[_Source]:
    """The files on the authors' host."""
    if _RECORD_PAGE.search(urllib.parse.urlsplit(weights.url).path):
        return [_ask_zenodo(weights)]
    return [
        _Source(_file_name(url), url, check) for url, check in ((weights.url, weights.check), *weights.more)
    ]


def _file_name(url: str) -> str:
    return urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)


def _is_archive(file: str, weights: Weights) -> bool:
    return bool(weights.inside) and file != PurePosixPath(weights.inside).name and file.endswith(".zip")


def _ask_zenodo(weights: Weights) -> _Source:
    """The record's file that is the checkpoint, or the zip that should hold it, with its MD5 sum."""
    page = urllib.parse.urlsplit(weights.url)
    number = _RECORD_PAGE.search(page.path)
    assert number is not None  # `_sources` asked
    url = f"{page.scheme}://{page.netloc}/api/records/{number.group(1)}"
    wanted = PurePosixPath(weights.inside)
    with _open(url, {}) as response:
        try:
            listed = json.loads(response.read())["files"]
            files = [
                _Source(str(f["key"]), str(f["links"]["self"]), str(f.get("checksum", ""))) for f in listed
            ]
        except (ValueError, KeyError, TypeError, http.client.HTTPException, OSError) as error:
            raise InputError(
                f"{url} did not answer with a list of files ({error!r}); {_by_hand(weights)}"
            ) from error
    zips = [f for f in files if f.file.endswith(".zip")]
    for found in (
        [f for f in files if f.file == str(wanted)],
        [f for f in files if PurePosixPath(f.file).name == wanted.name],
        [f for f in zips if PurePosixPath(f.file).stem == wanted.parts[0]],
        zips,
    ):
        if len(found) == 1:
            return _Source(PurePosixPath(found[0].file).name, found[0].url, found[0].check)
    raise InputError(
        f"The record {weights.url} has no file {wanted.name}, nor one zip that would hold it; "
        f"it has {join_words([f.file for f in files], 12) or 'no files'}. You can {_by_hand(weights)}"
    )


def _by_hand(weights: Weights) -> str:
    names = join_words([PurePosixPath(weights.inside).name] if weights.inside else
                       [_file_name(url) for url in (weights.url, *(u for u, _ in weights.more))])  # fmt: skip
    return (
        f"get {names} by hand ({weights.url}), put it in a folder, and run: "
        f"cellrep models fetch {weights.name} --from FOLDER"
    )


def _find_in(source: Path, weights: Weights) -> list[_Source]:
    """The files in a folder: as the host has them, or the checkpoint out of its zip."""
    source = Path(source).expanduser()
    if not source.is_dir():
        raise InputError(
            f"{source} is not a folder; --from takes the folder with the files of {weights.name}."
        )
    places = [p for p in (source / weights.name, source) if p.is_dir()]
    record = bool(_RECORD_PAGE.search(urllib.parse.urlsplit(weights.url).path))
    if record:
        archive = f"{PurePosixPath(weights.inside).parts[0]}.zip"
        whole = [_Source(archive, archive)]
    else:
        whole = _sources(weights)
    for place in places:
        if all((place / item.file).is_file() for item in whole):
            return [_Source(item.file, str(place / item.file), item.check) for item in whole]
        if weights.inside:
            stem = PurePosixPath(weights.inside).name
            loose = sorted(p for p in place.iterdir() if p.is_file() and _belongs(p.name, stem))
            if loose:
                return [
                    _Source(p.name, str(p), weights.check_inside if p.name == stem else "") for p in loose
                ]
    names = [item.file for item in whole]
    if weights.inside:
        names.append(f"(or unpacked) {PurePosixPath(weights.inside).name}")
    missing = [n for n in names if not any((place / n).is_file() for place in places)]
    raise InputError(
        f"{source} lacks {join_words(missing)} for {weights.name}; they are to be had from {weights.url}"
    )


def _belongs(file: str, stem: str) -> bool:
    """Whether a file is the checkpoint, or a part of it: "model.ckpt-5000.index"."""
    return file == stem or (file.startswith(f"{stem}.") and not file.endswith((".part", ".part.json")))


# ---- bringing one file -----------------------------------------------------------------------------


def _copy(item: _Source, part: Path, checked: bool) -> Job[bool]:
    """Copy a file from a folder; never resumed."""
    try:
        with Path(item.url).open("rb") as f:
            total = os.fstat(f.fileno()).st_size
            _check_space(part, total)
            with _writing(part), part.open("wb") as out:
                yield from _pour(f, out, 0, total, f"Copying {item.file}")
    except _BrokenOff as error:
        raise InputError(f"{item.url} could not be read ({error}).") from error
    return False


def _download(item: _Source, part: Path, checked: bool) -> Job[bool]:
    """Download a file to `part`, going on where an earlier run or attempt broke off.

    Returns whether what is there now was begun by an earlier run. A part counts only if it is of the same address
    and the server can tell that the file has not changed since (or a checksum will).
    """
    resumed = False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            resumed |= yield from _request(item, part, checked)
            return resumed
        except _BrokenOff as error:
            have = part.stat().st_size if part.exists() else 0
            if attempt == ATTEMPTS:
                raise InputError(
                    f"The download of {item.file} from {item.url} broke off {attempt} times ({error}); "
                    f"{have / 1e6:,.1f} MB are kept: run the same command again to go on."
                ) from error
            yield Progress(have // 1000, 0, f"{item.file} broke off, trying again")
            time.sleep(WAIT_S * attempt)
    return resumed


def _request(item: _Source, part: Path, checked: bool) -> Job[bool]:
    mark = part.with_name(f"{part.name}.json")
    begun = _read_json(mark)
    validator = str(begun.get("validator", ""))
    if begun.get("url") != item.url or not (validator or checked) or not part.is_file():
        _forget(part)
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and validator:
        headers["If-Range"] = validator
    try:
        response = _open(item.url, headers)
    except _NoSuchRange as error:  # nothing is left to send, or the file has become shorter
        if have and error.total == have:
            return True
        _forget(part)
        have = 0
        response = _open(item.url, {})
    with response:
        try:
            start, total = _range_of(response, have)
        except _BrokenOff:
            _forget(part)  # the next attempt asks for all of it
            raise
        # A weak ETag promises no equal bytes and must not be sent with If-Range (RFC 9110 §13.1.5).
        tag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
        _check_space(part, total - start)
        with _writing(part):
            if not start:
                part.unlink(missing_ok=True)  # first: a kill here must not leave old bytes under a new mark
                write_text(mark, json.dumps({"url": item.url, "validator": validator}))
            with part.open("rb+" if start else "wb") as out:
                out.seek(start)
                out.truncate()
                yield from _pour(response, out, start, total, f"Downloading {item.file}")
    return start > 0


def _range_of(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """Where in the file the answer begins, and the file's size in bytes (0 if it is not said)."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        sent = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not sent or int(sent.group(1)) != have:
            raise _BrokenOff("the server sent another part than it was asked for")
        length = int(response.headers.get("Content-Length") or 0)
        return have, int(sent.group(2)) if sent.group(2) != "*" else have + length if length else 0
    return 0, int(response.headers.get("Content-Length") or 0)


class _NoSuchRange(Exception):
    def __init__(self, total: int):
        super().__init__(total)
        self.total = total


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Ask for `url`; whatever goes wrong before the answer is said in a sentence."""
    host = urllib.parse.urlsplit(url).netloc
    asked = {"User-Agent": f"napari-cellrep/{__version__}", "Accept-Encoding": "identity", **headers}
    elsewhere = "or bring the files from another machine and add --from FOLDER"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                total = re.match(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
                raise _NoSuchRange(int(total.group(1)) if total else -1) from None
            if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
                raise InputError(
                    f"{url} is not there any more (the server says {error.code}); look for it on the authors' pages, "
                    f"{elsewhere}."
                ) from None
            raise InputError(
                f"{host} refused {url} ({error.code} {error.reason}); try again later, {elsewhere}."
            ) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{host} could not be reached ({reason}); check the network (and the proxy), {elsewhere}."
        ) from error


def _pour(source: Any, out: BinaryIO, done: int, total: int, message: str) -> Job[None]:
    """Read `source` to its end into `out`; a wrong size is a broken connection."""
    began, first = time.monotonic(), done
    while True:
        try:
            chunk = source.read1(CHUNK) if hasattr(source, "read1") else source.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOff(str(error) or type(error).__name__) from error
        if not chunk:
            break
        out.write(chunk)
        done += len(chunk)
        rate = (done - first) / 1e6 / max(time.monotonic() - began, 1e-9)
        yield Progress(
            done // 1000, max(total, done) // 1000 if total else 0, f"{message} (kB)", {"MB_per_s": rate}
        )
    out.flush()
    if total and done != total:
        raise _BrokenOff(f"{done:,} of {total:,} bytes came")


# ---- checks ----------------------------------------------------------------------------------------


def _check(path: Path, check: str) -> Job[str]:
    """sha256 of a file if it passes `check` ("" passes), else ""."""
    kind, _, wanted = check.partition(":")
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    other = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":  # a blob's id, else a plain SHA-1
        other.update(b"blob %d\0" % size)
    done = 0
    with path.open("rb") as f:
        while chunk := f.read(16 * CHUNK):
            sha256.update(chunk)
            if kind in ("md5", "sha1", "git"):
                other.update(chunk)
            done += len(chunk)
            yield Progress(done // 1000, size // 1000, f"Checking {path.name.removesuffix('.part')} (kB)")
    found = {
        "": wanted,
        "sha256": sha256.hexdigest(),
        **dict.fromkeys(("md5", "sha1", "git"), other.hexdigest()),
    }
    if kind not in found:
        raise InputError(
            f"The checksum {check!r} is of no kind we know; they are md5:, sha1:, sha256: and git:."
        )
    return sha256.hexdigest() if found[kind] == wanted.lower() else ""


def _still_right(folder: Path) -> Job[bool]:
    """Whether every file that was fetched before still has the bytes it had then."""
    from napari_cellrep.models._published import read_record

    for file, about in read_record(folder.name)["files"].items():
        if not (yield from _check(folder / file, f"sha256:{about['sha256']}")):
            return False
    return True


def _unpack(archive: Path, weights: Weights, folder: Path) -> Job[dict[str, dict[str, Any]]]:
    """Take the checkpoint's files out of the zip, each by rename."""
    wanted = PurePosixPath(weights.inside)
    try:
        with zipfile.ZipFile(archive) as content:
            inside = [m for m in content.infolist() if not m.is_dir()]
            members = [m for m in inside if _belongs(m.filename, str(wanted))]
            members = members or [m for m in inside if _belongs(PurePosixPath(m.filename).name, wanted.name)]
            names = [PurePosixPath(m.filename).name for m in members]
            if not members or len(set(names)) < len(names):
                raise InputError(
                    f"{archive.name} does not hold {wanted}; it has {join_words([m.filename for m in inside], 9)}."
                )
            files = {}
            for member, name in zip(members, names, strict=True):
                part = folder / f"{name}.part"
                _check_space(part, member.file_size)
                with content.open(member) as f, _writing(part), part.open("wb") as out:
                    yield from _pour(f, out, 0, member.file_size, f"Unpacking {name}")
                check = weights.check_inside if name == wanted.name else ""
                sha256 = yield from _check(part, check)
                if not sha256:
                    _forget(part)
                    archive.unlink(missing_ok=True)
                    raise InputError(
                        f"{name} in {archive.name} is not the file the authors published (its checksum is not {check}) and "
                        "was not kept; try again later, or get it elsewhere and use --from FOLDER."
                    )
                part.replace(folder / name)
                files[name] = {"bytes": member.file_size, "sha256": sha256}
            return files
    except (zipfile.BadZipFile, _BrokenOff, NotImplementedError, RuntimeError) as error:
        archive.unlink(missing_ok=True)
        raise InputError(
            f"{archive.name} is not a zip that can be unpacked ({error}); it was not kept."
        ) from error


# ---- the disk --------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _forget(part: Path) -> None:
    with _writing(part):
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _check_space(part: Path, wanted: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise InputError(
            f"The disk with {part.parent} has {free / 1e6:,.0f} MB free and {wanted / 1e6:,.0f} MB are wanted; free some "
            "space, or let CELLREP_WEIGHTS name a folder on another disk."
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence why a file could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"The disk is full, or the file too large for it: {path} could not be written. What has come is kept; "
                "free some space and run the "
                "same command again, or let CELLREP_WEIGHTS name a folder on another disk."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(
                f"{path} cannot be written ({error.strerror}); let CELLREP_WEIGHTS name a folder of yours."
            ) from error
        raise
