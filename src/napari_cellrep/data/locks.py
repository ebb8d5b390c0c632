"""One writer at a time, also on a network share that has no file locks."""

from __future__ import annotations

import contextlib
import datetime
import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, SoftFileLock, Timeout

# What a share without file locks answers; ENOSYS is seen to by filelock itself.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@dataclass(frozen=True)
class Owner:
    """Who holds a lock on a share without file locks.

    Parameters
    ----------
    host : str
        The computer's name.
    pid : int
        The process on it.
    since : str
        Date and time, by the share's clock: "2026-11-22 14:05".
    """

    host: str
    pid: int
    since: str

    @property
    def here(self) -> bool:
        """Whether it is of this computer; where such a process has ended, its lock is taken over by itself."""
        return self.host == socket.gethostname()

    @property
    def runs(self) -> bool:
        """Whether it is known to run: of another computer that cannot be seen."""
        return self.here and psutil.pid_exists(self.pid)

    def __str__(self) -> str:
        return f"Process {self.pid} on {'this computer' if self.here else self.host} (since {self.since})"


class Lock:
    """A lock of the system's, which frees it when a process dies; where the disk has none, a file that names its owner.

    That file (``<name>-held``) is made in one step, so that of several processes one gets it. One that a dead process of this
    computer left is taken over; of another computer's it cannot be seen whether it still runs, so a person has to say it
    (`release`).
    A process for which the share has locks looks for the file, too; one for which it has none does not see the locks.

    Parameters
    ----------
    path : Path
        The file to lock. One object may be held several times by one thread.
    """

    def __init__(self, path: Path):
        self.path, self.held = path, path.with_name(f"{path.name}-held")
        self._native = FileLock(path)
        self._file = SoftFileLock(self.held)
        self._without = False  # the disk has no locks

    @contextlib.contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        """Hold it.

        Raises
        ------
        Timeout
            If another process held it all this time.
        OSError
            If the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            if not self._without:
                try:
                    stack.enter_context(self._native.acquire(timeout=timeout_s))
                except OSError as error:  # a Timeout is one, too
                    if isinstance(error, Timeout) or error.errno not in _WITHOUT_LOCKS:
                        raise
                    self._without = True
            if self._without or self.held.exists():
                stack.enter_context(self._file.acquire(timeout=timeout_s))
            yield

    def owner(self) -> Owner | None:
        """Who holds it by the file; None where nobody does, or the system keeps the lock."""
        try:
            pid, host, *_ = self.held.read_text(encoding="utf-8").splitlines()
            host = host.partition("?")[0]  # without the container's number
            when = datetime.datetime.fromtimestamp(self.held.stat().st_mtime)
            return Owner(host, int(pid), f"{when:%Y-%m-%d %H:%M}")
        except (OSError, ValueError):
            return None

    def release(self) -> Owner | None:
        """Take it from another computer whose process is known to be gone; returns who held it, None if nobody did."""
        owner = self.owner()
        if owner is not None:
            self.held.unlink(missing_ok=True)
        return owner
