"""Writing files so that nothing half-written ever replaces something whole."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from napari_cellrep.data.locks import Lock
from napari_cellrep.specs import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_TOO_LARGE = "File too large"  # a stick takes no file of 4 GB, and a quota may be of single files


@contextlib.contextmanager
def replacing(path: Path, unfinished: Path | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; put it in place by rename once the block ends without error.

    Works for files and folders. On any error the temporary one is removed and `path` stays as it was.

    Parameters
    ----------
    path : Path
    unfinished : Path, optional
        The temporary path, which stays when something goes wrong: what is in it is gone on with.

    Raises
    ------
    InputError
        If the disk is full or the place cannot be written: what stays, and what to do.
    """
    path = Path(path)
    tmp = unfinished or path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        if tmp.is_dir():
            _swap_folder(tmp, path)
        else:
            with tmp.open("rb+") as f:
                os.fsync(f.fileno())
            tmp.replace(path)
    except BaseException as error:
        if unfinished is not None:
            pass
        elif tmp.is_dir():
            shutil.rmtree(tmp, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)
        if isinstance(error, OSError) and (error.errno == errno.EFBIG or _TOO_LARGE in str(error)):
            raise InputError(
                f"The disk is full, or takes no file as large: {path.name} could not be written. What was finished before "
                "is kept; free some space, or write to another disk, and run the same step again."
            ) from error
        if isinstance(error, Exception) and _is_full(error, path):
            raise InputError(
                f"The disk is full: {path.name} could not be written. What was finished before is kept; "
                "free some space and run the same step again."
            ) from error
        if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
            raise InputError(f"{path} cannot be written (no permission, or a read-only folder).") from error
        if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
            source, _, why = error.args[0][0]  # of each file of a folder that could not be copied
            raise InputError(f"{path} could not be written: {source} cannot be copied ({why}).") from error
        raise


def _is_full(error: Exception, path: Path) -> bool:
    """Whether an error is a full disk's; numpy says "… requested and … written", without an error number."""
    if (isinstance(error, OSError) and error.errno in _FULL) or "No space left" in str(error):
        return True
    if isinstance(error, OSError) and error.errno is None and "requested and" in str(error):
        return True
    with contextlib.suppress(OSError):
        disk = shutil.disk_usage(path.parent)
        return isinstance(error, OSError) and disk.total > 0 and disk.free < 4096
    return False


def _swap_folder(tmp: Path, path: Path) -> None:
    """Rename folder `tmp` to `path`; a crash in between leaves `.<name>.old`, which `recover` puts back."""
    recover(path)
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        path.rename(old)
    try:
        tmp.rename(path)
    except OSError:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> None:
    """Finish what a killed `replacing` of the folder `path` left behind: the whole version comes back."""
    old = path.with_name(f".{path.name}.old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def sweep(folder: Path, older_than_s: float = 86_400, name: str = "") -> None:
    """Remove what killed processes left half-written in `folder`, once it is a day old; what can be gone on with, a month.

    With a `name`, only what is left of the file or folder called so: a folder that is not ours has others' files in it.
    """
    start = f".{glob.escape(name)}." if name else "."
    with contextlib.suppress(OSError):
        for path in (*folder.glob(f"{start}*.part"), *folder.glob(f"{start}*.unfinished")):
            times = 30 if path.suffix == ".unfinished" else 1
            if time.time() - path.stat().st_mtime < times * older_than_s:
                continue  # another process may be writing it
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def read_entries(path: Path, is_one: Callable[[Any], bool], what: str, rename_to: str) -> dict[str, Any]:
    """Entries by name of a JSON file; {} where there is no file.

    Parameters
    ----------
    path : Path
    is_one : callable
        Whether a value is an entry.
    what : str
        What the entries are, in the words of an error: "sets".
    rename_to : str
        What renaming a damaged file allows: "go on without sets".

    Raises
    ------
    InputError
        If the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all(is_one(entry) for entry in found.values()):
            raise ValueError(f"it holds something else than {what}")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); rename it to {rename_to}.") from error
    return dict(found)


def change_entries(
    path: Path,
    read: Callable[[], dict[str, Any]],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    what: str,
    indent: int | None = None,
) -> dict[str, Any]:
    """Read the entries of a JSON file, change them and write them, while no other window does; returns them.

    Parameters
    ----------
    path : Path
    read : callable
        Gives the entries as they are on disk.
    change : callable
        Gets these entries and gives those to write.
    what : str
        What the entries are, in the words of an error: "sets".
    indent : int, optional
        As `json.dumps` takes it.

    Raises
    ------
    InputError
        If the file is damaged, another window writes it for long, or it cannot be written.
    """
    # A lock of its own: a job may hold the project's for many seconds, and a window must not wait for it.
    try:
        with Lock(path.with_name(f".{path.stem}.lock")).hold(timeout_s=2):
            now = change(read())
            write_text(path, json.dumps(now, indent=indent, ensure_ascii=False))
            return now
    except Timeout:
        raise InputError(
            f"Another window is writing the {what} of {path.parent.name}; give yours again."
        ) from None
    except OSError as error:
        raise InputError(
            f"The {what} could not be kept: {path.parent} cannot be written ({error})."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` by rename."""
    with replacing(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def shared_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths share at their ends."""
    n = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        n += 1
    return n
