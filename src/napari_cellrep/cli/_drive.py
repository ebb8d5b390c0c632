"""What every command does: open a project, drive a job with its progress, say which fields went wrong."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from napari_cellrep.jobs import Job, Progress, drain

R = TypeVar("R")


def run(job: Job[R], quiet: bool = False) -> R:
    """Drive a job: a bar on a terminal, plain lines in a log."""
    return drain(job, None if quiet else (_Bar() if sys.stderr.isatty() else _Lines()))


class _Bar:
    """A progress bar for a terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=0, leave=False, dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} · {remaining} left{postfix}",
        )  # fmt: skip

    def __call__(self, p: Progress) -> None:
        if p.total != self._bar.total:
            self._bar.reset(p.total)
        self._bar.set_description(p.message, refresh=False)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in p.metrics.items()}, refresh=False)
        self._bar.update(p.done - self._bar.n)
        if p.done >= p.total:
            self._bar.clear()


class _Lines:
    """At most one line every few seconds, for logs."""

    def __init__(self, every_s: float = 5.0):
        self._every, self._last, self._message = every_s, 0.0, ""

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= self._every or (p.total and p.done == p.total):
            self._last = now
            numbers = "".join(f", {k} {v:.4g}" for k, v in p.metrics.items())
            count = f" ({p.done:,} of {p.total:,}{numbers})" if p.total else ""
            print(f"{p.message or 'Working'}{count}", file=sys.stderr, flush=True)


def open_project(path: Path) -> Any:
    """A project, loading what reads it only now: `--help` is quick."""
    from napari_cellrep import data

    return data.open_project(path)


def print_notes(notes: Iterable[str]) -> None:
    """What a step has to say beside its result, a line each."""
    for note in notes:
        print(f"  {note}")


def print_problems(problems: Mapping[str, str], what: str) -> None:
    """Of how many fields something has to be said, and what; `what` ends the first line, as in "need a look"."""
    if problems:
        print(f"{len(problems):,} field{'s' * (len(problems) > 1)} {what}:")
        counts = Counter(problems.values())  # a sentence that many fields share is said once
        for text, n in list(counts.items())[:20]:
            print(f"  {text}{f' ({n:,} fields)' if n > 1 else ''}")
        if len(counts) > 20:
            print(f"  … and {len(counts) - 20:,} more; `cellrep info` lists them all.")
