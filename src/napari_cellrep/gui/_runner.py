"""Long work of one viewer, done in a process of its own so that the window never waits (design.md §3).

`runner_of(viewer)` gives the one `Runner` of a viewer. What crosses to the process is told in
`napari_cellrep.worker`; the window does not import it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import platformdirs
from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, Signal

from napari_cellrep import registry
from napari_cellrep.data.files import write_text
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.session import read_project
from napari_cellrep.specs import InputError, first_line

KILL_AFTER_S = 2.0  # a polite stop gets this long
LOG_LENGTH = 50


class WorkerProcess:
    """One worker process and the threads that talk to it. Every method returns at once."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[int, Callable[[str, Any], None]] = {}
        self._lock = threading.Lock()
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._popen: subprocess.Popen | None = None
        self._killed = False
        self.over = False
        threading.Thread(target=self._live, name="cellrep worker", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id; 0 before it runs."""
        return self._popen.pid if self._popen else 0

    def request(
        self,
        what: str,
        target: str,
        root: str | None,
        kwargs: dict[str, Any],
        on_message: Callable[[str, Any], None],
    ) -> int:
        """Send a job or an ask; `on_message(kind, value)` is called in another thread, last with an end.

        The ends are those of the worker, and ``("died", (sentence, details))``.
        """
        with self._lock:
            request = next(self._ids)
            if not self.over:
                self._waiting[request] = on_message
                self._outbox.put((what, request, target, root, kwargs))
                return request
        on_message("died", ("The worker process had ended; start the step again.", ""))
        return request

    def stop(self, request: int) -> None:
        """Ask a job to stop at its next yield."""
        self._outbox.put(("stop", request))

    def close(self) -> None:
        """Let the process end: a job at its next yield, at the latest after two seconds."""
        self._outbox.put(("exit",))

    def kill(self) -> None:
        """End the process now."""
        self._killed = True
        if self._popen is not None:
            self._popen.kill()

    # ---- in the thread ---------------------------------------------------------------------------

    def _live(self) -> None:
        key = secrets.token_bytes(32)
        end = ("The worker process could not be started; is the installation whole?", "")
        try:
            with Listener(authkey=key) as listener, tempfile.TemporaryFile() as said:
                self._popen = _start(said)
                if self._killed:  # before there was anything to kill
                    self._popen.kill()
                where = {"address": listener.address, "authkey": key.hex()}
                with contextlib.suppress(OSError):
                    self._popen.stdin.write((json.dumps(where) + "\n").encode())
                    self._popen.stdin.close()
                threading.Thread(target=self._wake, args=(listener.address, key), daemon=True).start()
                with listener.accept() as connection:
                    self._converse(connection)
                code = self._popen.wait()
                said.seek(max(0, said.seek(0, os.SEEK_END) - 20_000))
                end = _sentence_of_death(code), said.read().decode(errors="replace")
        except Exception as error:  # noqa: BLE001  (told to whoever waits)
            end = (f"The worker process could not be started ({error}).", repr(error))
        finally:
            with self._lock:
                self.over = True
                left, self._waiting = self._waiting, {}
            for on_message in left.values():
                on_message("died", end)

    def _wake(self, address: Any, key: bytes) -> None:
        """Wait for the process's end, and if it never called, call ourselves so that nobody waits for it."""
        self._popen.wait()
        with contextlib.suppress(Exception):
            Client(address, authkey=key).close()

    def _converse(self, connection: Connection) -> None:
        threading.Thread(target=self._write, args=(connection,), daemon=True).start()
        while True:
            try:
                request, kind, value = connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                on_message = self._waiting.get(request)
                if kind != "progress":
                    self._waiting.pop(request, None)
            if on_message is not None:
                on_message(kind, value)
        self._outbox.put(None)

    def _write(self, connection: Connection) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                connection.send(message)
            except OSError:
                return  # it died; the reader says so
            except Exception as error:  # noqa: BLE001  (an argument that cannot be pickled)
                with self._lock:
                    on_message = self._waiting.pop(message[1], None)
                if on_message is not None:
                    on_message("error", ("This could not be handed to the worker process.", repr(error)))


def _start(output: Any) -> subprocess.Popen:
    flags = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    command = [sys.executable, "-P", "-m", "napari_cellrep.worker"]
    # Threads that wait for one another sleep: spinning, they take the cores from those they wait for as soon as anything
    # else runs (a pass of ViT-S/16 on two busy cores took 2.1 s instead of 0.35).
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, **flags)


def _sentence_of_death(code: int) -> str:
    kept = "What was finished is kept; start the step again to go on."
    if code == -getattr(signal, "SIGKILL", 9):
        return (
            "The worker process was ended from outside, most often by the system because memory ran out. "
            f"{kept} If it happens again, choose a smaller batch size."
        )
    return f"The worker process ended unexpectedly (code {code}). {kept}"


# ---- jobs ----------------------------------------------------------------------------------------


@dataclass
class LogEntry:
    """One job that ran: what, when, how it ended, and the details for a bug report."""

    title: str
    step: str
    started: datetime = field(default_factory=datetime.now)
    seconds: float = 0.0
    end: str = ""  # "finished", "failed" or "stopped"
    sentence: str = ""
    details: str = ""


class Handle(QObject):
    """One submitted job. Its signals arrive in the window's thread.

    Attributes
    ----------
    state : str
        "queued", "running", "stopping", "finished", "failed" or "stopped".
    limit_s : float
        The job ends by itself after this many seconds; 0: when its work is done.
    kill_after_s : float
        How long it may go on to its next yield once it was asked to stop.
    read : object
        What `job_reads` of `Runner.submit` gave, once the job has ended.
    """

    started = Signal()
    progressed = Signal(object)  # Progress
    finished = Signal(object)  # the job's result
    failed = Signal(str)  # a sentence for the user
    stopped = Signal()
    ended = Signal()  # after any of the last three

    def __init__(
        self, step: str | Callable[..., Job[Any]], root: str | None, kwargs: dict[str, Any], title: str
    ):
        super().__init__()
        self._work = step if callable(step) else None  # done in this process
        self.step = f"{step.__module__}:{step.__name__}" if callable(step) else step
        self.title, self.state = title, "queued"
        self.limit_s = 0.0
        self.kill_after_s = KILL_AFTER_S
        self.progress = Progress(0, 0, title)
        self.result: Any = None
        self.log = LogEntry(title, self.step)
        self._root, self._kwargs = root, kwargs
        self.read: Any = None
        self._reads: Callable[[Any], Any] | None = None
        self._stop = threading.Event()
        self._cancel: Callable[[Handle], None] | None = None  # set by the runner while queued

    @property
    def active(self) -> bool:
        """Whether it is still queued, running or stopping."""
        return self.state in ("queued", "running", "stopping")

    def stop(self) -> None:
        """Stop politely, and for certain after two seconds; what was finished is kept."""
        self._stop.set()
        if self.state == "queued" and self._cancel is not None:
            self._cancel(self)
        elif self.state == "running":
            self.state = "stopping"


class _Supervisor(GeneratorWorker):
    """napari's worker, cured: errors are never swallowed, stopping ends the generator, not the listening.

    napari's own returns a `RuntimeError` instead of raising it (nobody hears of it), and its ``quit`` leaves
    the generator unclosed. Here every error is an end like others, and the generator ends soon after ``quit``.
    """

    handle: Handle

    def quit(self) -> None:
        self.handle._stop.set()

    def work(self) -> tuple[str, Any]:
        try:
            while True:
                self.yielded.emit(next(self._gen))
        except StopIteration as stop:
            if stop.value[0] == "stopped":
                self.aborted.emit()
            return stop.value
        except Exception as error:  # noqa: BLE001  (a fault of ours; the job must end all the same)
            return "error", ("The job could not be watched.", repr(error))
        finally:
            self._gen.close()


class _Titled(functools.partial):
    """A function that goes by a title, because napari shows its text when it is asked to close."""

    def __str__(self) -> str:
        return self.keywords["handle"].title

    __format__ = object.__format__


class Runner(QObject):
    """Runs the jobs of one viewer, one at a time, in a worker process that stays warm."""

    changed = Signal()  # a job was queued, started, went on or ended
    submitted = Signal(object)  # Handle
    warmed = Signal(str)  # what this machine computes with
    _answered = Signal(object, object)  # from the talking thread to the window's

    def __init__(self) -> None:
        super().__init__()
        self._process: WorkerProcess | None = None
        self._queue: deque[Handle] = deque()
        self._lock = threading.Lock()
        self.current: Handle | None = None
        self.log: deque[LogEntry] = deque(maxlen=LOG_LENGTH)
        self.closed = False
        self.machine = ""  # what it computes with, once the process is warm
        self._showing = False
        self._answered.connect(self._on_answer)

    # ---- long jobs -------------------------------------------------------------------------------

    def submit(
        self,
        step: str | Callable[..., Job[Any]],
        project_root: Path | str | None = None,
        *,
        job_title: str = "",
        job_reads: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> Handle:
        """Queue a step.

        Parameters
        ----------
        step : str or callable
            ``"segment.segment"``, or ``"any.module:function"``. Or the function itself, a Job: it runs in a thread of this
            process, for pixels that only a plugin of this napari can read.
        project_root : path, optional
            The project that is opened and given to the step as its first argument; not to a function.
        job_title : str
            What is shown: "Segmenting 24 fields".
        job_reads : callable, optional
            Called in another thread when the job has ended, however it did, with its result or None: reads what it
            wrote, so that the window need not. What it gives is the handle's `read`; None if it failed.
        **kwargs
            The step's arguments: plain values, paths and arrays.
        """
        handle = Handle(step, None if project_root is None else str(project_root), kwargs, job_title)
        if not job_title:
            words = handle.step.replace(":", ".").rpartition(".")[2].replace("_", " ").capitalize()
            handle.title = handle.log.title = words
        handle._cancel, handle._reads = self._drop, job_reads
        self._queue.append(handle)
        self.submitted.emit(handle)
        self._next()
        self.changed.emit()
        return handle

    @property
    def queued(self) -> tuple[Handle, ...]:
        """Jobs that wait for the running one."""
        return tuple(self._queue)

    def stop_all(self) -> None:
        """Stop the running job and forget those that wait."""
        for handle in list(self._queue):
            handle.stop()
        if self.current is not None:
            self.current.stop()

    def _drop(self, handle: Handle) -> None:
        self._queue.remove(handle)
        self._end(handle, "stopped", None)

    def _next(self) -> None:
        if self.current is not None or not self._queue or self.closed:
            return
        self.current = handle = self._queue.popleft()
        handle.state, handle.log.started = "running", datetime.now()
        worker = create_worker(
            _Titled(_drive, self, handle=handle), _worker_class=_Supervisor, _progress={"desc": handle.title}
        )
        worker.handle = handle
        worker.yielded.connect(functools.partial(self._on_progress, handle, worker.pbar))
        worker.returned.connect(functools.partial(self._on_end, handle))
        worker.start()
        handle.started.emit()

    def _on_progress(self, handle: Handle, bar: Any, progress: Progress) -> None:
        handle.progress = progress
        handle.progressed.emit(progress)
        self.changed.emit()
        if self._showing:  # napari's bar handles events while it paints, so the next progress may come within
            return
        self._showing = True
        if bar.total != progress.total:
            bar.total = progress.total
        if handle.active:
            bar.update(handle.progress.done - bar.n)
        if handle.active and progress.message and bar.desc.removesuffix(": ") != progress.message:
            bar.set_description(progress.message)
        self._showing = False

    def _on_end(self, handle: Handle, outcome: tuple[str, Any]) -> None:
        if self.current is handle:
            self.current = None
        self._end(handle, *outcome)
        self._next()

    def _end(self, handle: Handle, kind: str, value: Any) -> None:
        log = handle.log
        log.seconds = (datetime.now() - log.started).total_seconds()
        if kind == "result":
            handle.state, handle.result = "finished", value
        elif kind == "stopped":
            handle.state, log.sentence = "stopped", "Stopped; finished work is kept."
        else:
            handle.state, (log.sentence, log.details) = "failed", value
        log.end = handle.state
        self.log.append(log)
        if kind == "result":
            handle.finished.emit(value)
        elif kind == "stopped":
            handle.stopped.emit()
        else:
            handle.failed.emit(log.sentence)
        handle.ended.emit()
        self.changed.emit()

    # ---- small requests --------------------------------------------------------------------------

    def ask(
        self,
        step: str,
        project_root: Path | str | None = None,
        on_result: Callable[[Any], None] | None = None,
        on_error: Callable[[str], None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Have something small done beside the running job.

        `on_result(value)` or `on_error(sentence)` is called in the window's thread.
        """

        def on_message(kind: str, value: Any) -> None:
            target, given = (on_result, value) if kind == "result" else (on_error, _first(value))
            if target is not None and not self.closed:
                with contextlib.suppress(RuntimeError):  # the window went while this was under way
                    self._answered.emit(target, given)

        root = None if project_root is None else str(project_root)
        self._alive().request("ask", step, root, kwargs, on_message)

    def _on_answer(self, target: Callable[[Any], None], value: Any) -> None:
        if not self.closed:
            target(value)

    def describe(
        self, kind: str, on_result: Callable[[dict], None], on_error: Callable[[str], None] | None = None
    ) -> None:
        """Describe all "models" or "segmenters" (`registry.describe`), from the cache while no file changed."""
        cache = Path(platformdirs.user_cache_dir("napari-cellrep")) / f"{kind}-{registry.stamp(kind)}.json"
        try:
            known = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if known is not None:
            on_result(known)
            return

        def keep(found: dict) -> None:
            with contextlib.suppress(OSError, ValueError):  # a cache that cannot be written is no error
                write_text(cache, json.dumps(found))
            on_result(found)

        self.ask("napari_cellrep.registry:describe", None, keep, on_error, kind=kind)

    # ---- the process -----------------------------------------------------------------------------

    def warm(self) -> None:
        """Start the process and load torch in it, so that the first job need not wait; then say `warmed`."""
        self.ask("napari_cellrep.worker:warm_up", None, self._on_warm)

    def _on_warm(self, machine: str) -> None:
        self.machine = machine
        self.warmed.emit(machine)

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 when none runs."""
        return self._process.pid if self._process is not None and not self._process.over else 0

    def _alive(self) -> WorkerProcess:
        with self._lock:
            if self._process is None or self._process.over or self._process._killed:
                self._process = WorkerProcess()
            return self._process

    def close(self) -> None:
        """End everything: the running job politely, then the process. The window does not wait for it."""
        if self.closed:
            return
        self.closed = True
        self._queue.clear()
        if self._process is not None:
            self._process.close()
        if self.current is not None:
            self.current._stop.set()  # its supervisor kills the process after two seconds
        with contextlib.suppress(RuntimeError):  # at the very end Qt may have deleted them before the window
            self.blockSignals(True)
            if self.current is not None:
                self.current.blockSignals(True)


def _drive(runner: Runner, *, handle: Handle) -> Iterator[Progress]:
    """Supervise one job from a thread and read what it wrote; returns how it ended."""
    kind, value = yield from _supervise(runner, handle) if handle._work is None else _work_here(handle)
    if handle._reads is not None and not runner.closed:
        with contextlib.suppress(Exception):  # the window reads it then, and says what is wrong
            handle.read = handle._reads(value if kind == "result" else None)
    return kind, value


def _supervise(runner: Runner, handle: Handle) -> Iterator[Progress]:
    replies: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    process = runner._alive()
    job = process.request("job", handle.step, handle._root, handle._kwargs, lambda *reply: replies.put(reply))
    deadline = 0.0
    while True:
        if handle._stop.is_set():
            if not deadline:
                process.stop(job)
                deadline = time.monotonic() + handle.kill_after_s
            elif time.monotonic() > deadline:
                process.kill()
                return "stopped", None
        try:
            kind, value = replies.get(timeout=0.1)
        except queue.Empty:
            continue
        if kind == "progress":
            yield value
        elif kind == "died" and handle._stop.is_set():
            return "stopped", None
        else:
            return kind, value


def _work_here(handle: Handle) -> Iterator[Progress]:
    """Do a job in this thread, until it ends or is to stop; returns how it ended."""
    job = handle._work(**handle._kwargs)
    try:
        while not handle._stop.is_set():
            yield next(job)
        return "stopped", None
    except StopIteration as stop:
        return "result", stop.value
    except InputError as error:
        return "error", (str(error), "".join(traceback.format_exception(error)))
    except MemoryError as error:
        sentence = "The computer did not have enough memory for this. Close other programs, or use fewer layers at once."
        return "error", (sentence, "".join(traceback.format_exception(error)))
    except Exception as error:  # noqa: BLE001  (what a plugin of somebody raises)
        sentence = f"Something unexpected went wrong ({type(error).__name__}: {first_line(error)}). The log has the details."
        return "error", (sentence, "".join(traceback.format_exception(error)))
    finally:
        job.close()


def _first(value: Any) -> str:
    return value[0] if isinstance(value, tuple) else "It was stopped."


_RUNNERS: WeakKeyDictionary[Any, Runner] = WeakKeyDictionary()


def runner_of(viewer: Any) -> Runner:
    """The one runner of a viewer; its process ends when the viewer's window closes."""
    window = viewer.window.main_menu.window()  # the QMainWindow, by public names
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins get a proxy of the viewer
    if viewer not in _RUNNERS:
        runner = _RUNNERS[viewer] = Runner()
        window.destroyed.connect(functools.partial(_close, runner))
    return _RUNNERS[viewer]


def submit_analysis(viewer: Any, root: Path, title: str, **arguments: Any) -> Handle:
    """Queue a recipe of `steps.analyze`; `Handle.read` is then the project with what it found."""
    return runner_of(viewer).submit(
        "analyze.analyze", root, job_title=title, job_reads=lambda _: read_project(root), **arguments
    )


def _close(runner: Runner, *_: Any) -> None:
    runner.close()
