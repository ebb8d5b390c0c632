"""The process behind the window: torch lives here, so the window never waits and memory really comes back.

Started by the window as ``python -m napari_cellrep.worker`` with one line of JSON on standard input
(``{"address": …, "authkey": hex}``), spoken to over `multiprocessing.connection`. Messages are plain tuples.

==============================================  =====================================================
to the worker                                   back
==============================================  =====================================================
``("job", id, target, project_root, kwargs)``   ``(id, "progress", Progress)`` …, then one of the ends
``("ask", id, target, project_root, kwargs)``   one of the ends
``("stop", id)``                                –
``("exit",)``                                   –
==============================================  =====================================================

The ends: ``(id, "result", value)``, ``(id, "error", (sentence, details))``, ``(id, "stopped", None)``.

Jobs run one after the other in the main thread, asks in a second one, so that they never wait behind a job;
those that take seconds (`SLOW_ASKS`) in a third.
A target is ``"segment.segment"`` (``napari_cellrep.steps.segment:segment``) or ``"any.module:function"``; with
a project root, the opened project is its first argument. The process ends when the connection closes.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import importlib
import inspect
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from napari_cellrep import registry
from napari_cellrep.jobs import Job, Progress, is_out_of_memory
from napari_cellrep.specs import InputError

if TYPE_CHECKING:  # the process has to be there at once; what it needs for a job it loads with the first
    from napari_cellrep.data import Project

RELAY_EVERY_S = 1 / 30  # a window cannot show more, and must not drown in messages
SLOW_ASKS = (
    "illumination.",
    "estimate.", "look.occlusion", "look.classes", "heads.", "tokens.", "believe.", "believe_group.",
    "inpaint.patterns", "inpaint.inpaint_grid", "axis.", "look_figure.",
)  # fmt: skip
STOP_AFTER_S = 2.0  # how long a job may take to its next yield once the window has gone


def resolve(target: str) -> Callable[..., Any]:
    """Find the function called ``"module.function"`` (of our steps) or ``"any.module:function"``."""
    module, colon, name = target.partition(":")
    if not colon:
        module, _, name = target.rpartition(".")
        module = f"napari_cellrep.steps.{module}"
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def sentence_of(error: BaseException) -> str:
    """Say an error to a biologist: what happened and what to do."""
    text = str(error).strip()
    if isinstance(error, InputError):
        return text
    low = text.lower()
    if is_out_of_memory(error):
        where = "The graphics card" if "cuda" in low or "mps" in low or "hip" in low else "The computer"
        return (
            f"{where} did not have enough memory for this step. What was finished is kept; choose a smaller "
            "batch size, close other programs, or run it on the CPU, and start the step again."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"This needs the Python package {error.name.split('.')[0]!r}, which is not installed here."
    kind = type(error).__name__
    first = text.splitlines()[0] if text else "no further word"
    return (
        f"Something unexpected went wrong ({kind}: {first}). Finished work is kept; the log has the details."
    )


def to_plain(value: Any) -> Any:
    """Make a result fit for the window, which must not import what made it.

    Projects become their path, tensors arrays, dataclasses dicts.
    """
    kind = type(value)
    if kind.__module__ == "napari_cellrep.data.project" and hasattr(value, "root"):
        return str(value.root)
    if kind.__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Progress)):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(v) for key, v in value.items()}
    if kind in (list, tuple):
        return kind(to_plain(v) for v in value)
    return value


def warm_up() -> str:
    """Load what every job needs (torch, anndata), ahead of the first; returns what this machine computes with."""
    from napari_cellrep.steps.estimate import machine

    importlib.import_module("anndata")
    registry.describe("models")
    return machine()


class Worker:
    """One connection and the two threads that answer it.

    Parameters
    ----------
    connection : Connection
        To the window; everything is over when it closes.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._asks: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._estimates: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._stop: set[int] = set()
        self._leaving = threading.Event()
        self._asked_projects: dict[str, tuple[tuple[int, ...], Project]] = {}

    def run(self) -> None:
        """Answer until the connection closes; never returns."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        for asks in (self._asks, self._estimates):
            threading.Thread(target=self._answer_asks, args=(asks,), name="asks", daemon=True).start()
        while not self._leaving.is_set():
            message = self._jobs.get()
            if message[0] == "exit":
                break
            self._run(message)
        os._exit(0)  # whatever a library's threads are still up to

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                message = ("exit",)
            except Exception as error:  # noqa: BLE001  (a value that cannot be read here: say so, go on)
                print(f"A message could not be read: {error!r}", file=sys.stderr)  # noqa: T201
                continue
            if message[0] == "stop":
                self._stop.add(message[1])
            elif message[0] == "ask":
                (self._estimates if message[2].startswith(SLOW_ASKS) else self._asks).put(message)
            else:
                self._jobs.put(message)
            if message[0] == "exit":
                self._leaving.set()  # the running job is closed at its next yield …
                time.sleep(STOP_AFTER_S)
                os._exit(0)  # … or ends here

    def _answer_asks(self, asks: queue.SimpleQueue[tuple[Any, ...]]) -> None:
        while True:
            self._run(asks.get())

    def _run(self, message: tuple[Any, ...]) -> None:
        """Run one job or ask to its end and send how it ended."""
        what, job, target, root, kwargs = message
        try:
            end: tuple[str, Any] = self._drive(job, target, root, kwargs, ask=what == "ask")
        except (Exception, SystemExit) as error:  # noqa: BLE001
            end = "error", (sentence_of(error), "".join(traceback.format_exception(error)))
        if what == "job" or end[0] == "error":
            _free_memory()
        self._stop.discard(job)
        try:
            self._send((job, *end))
        except OSError:
            return  # the window has gone
        except Exception as error:  # noqa: BLE001  (a result that cannot be pickled)
            details = "".join(traceback.format_exception(error))
            self._send((job, "error", ("The result could not be handed to the window.", details)))

    def _drive(
        self, job: int, target: str, root: str | None, kwargs: dict[str, Any], ask: bool
    ) -> tuple[str, Any]:
        function = resolve(target)
        args = () if root is None else (self._project(root, reuse=ask),)
        started = function(*args, **kwargs)
        if not inspect.isgenerator(started):
            return "result", to_plain(started)
        work = cast("Job[Any]", started)
        waiting: Progress | None = None
        sent = 0.0
        try:
            while True:
                if job in self._stop or (self._leaving.is_set() and not ask):
                    return "stopped", None
                progress = next(work)
                # Numbers (a loss curve) are all sent; of mere counting only what can be seen.
                if not ask and (progress.metrics or time.monotonic() - sent > RELAY_EVERY_S):
                    self._send((job, "progress", progress))
                    waiting, sent = None, time.monotonic()
                else:
                    waiting = progress
        except StopIteration as stop:
            if waiting is not None and not ask:
                self._send((job, "progress", waiting))
            return "result", to_plain(stop.value)
        finally:
            work.close()

    def _project(self, root: str, reuse: bool) -> Project:
        """Open a project; asks keep theirs while nobody wrote it, because they are many and small."""
        from napari_cellrep.data import open_project

        if not reuse:
            return open_project(root)
        parts = (
            Path(root) / name for name in ("project.json", "fields.parquet", "cells.zarr", "verdicts.json")
        )
        stamp = tuple(p.stat().st_mtime_ns if p.exists() else 0 for p in parts)
        known = self._asked_projects.get(root)
        if known is None or known[0] != stamp:
            self._asked_projects = {root: (stamp, open_project(root))}
        return self._asked_projects[root][1]

    def _send(self, message: tuple[Any, ...]) -> None:
        with self._sending:
            self._connection.send(message)


def _free_memory() -> None:
    """Give graphics memory back that torch keeps for later: other programs want it while nothing runs here."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()  # a stopped generator's frames
        torch.cuda.empty_cache()


def main() -> None:
    """Read where to connect from standard input, and work until the window closes."""
    faulthandler.enable()
    where = json.loads(sys.stdin.readline())
    address = tuple(where["address"]) if isinstance(where["address"], list) else where["address"]
    Worker(Client(address, authkey=bytes.fromhex(where["authkey"]))).run()


if __name__ == "__main__":
    main()
