"""Says when the window stood still, and whose work that was.

A timer in the window's thread beats; another thread looks at what the window does while the beat is late. A late beat
is ours when the innermost known function of most looks is of napari_cellrep: napari making a layer or painting is not,
nor is a machine that is busy with something else (the window's own processor time is counted).
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType

from qtpy.QtCore import QTimer

BEAT_MS = 5
LOOK_EVERY_S = 0.01
_KNOWN = (
    "napari_cellrep",
    "napari",
    "vispy",
)  # folders of site-packages or of a checkout; the first that fits


@dataclass
class Block:
    """The window's beat was late."""

    wall_s: float
    cpu_s: float  # of the window's thread
    looks: list[tuple[str, str]]  # (package, function) of the innermost known frame

    @property
    def ours(self) -> bool:
        """Whether most looks found it in our code."""
        return bool(self.looks) and Counter(p for p, _ in self.looks).most_common(1)[0][0] == _KNOWN[0]

    def __str__(self) -> str:
        where = ", ".join(f"{name} ×{n}" for (_, name), n in Counter(self.looks).most_common(3))
        return f"{1000 * self.wall_s:.0f} ms ({1000 * self.cpu_s:.0f} ms of work) in {where}"


@dataclass
class Watchdog:
    """Watches the window's thread from `start` to `stop`; must be made in that thread."""

    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._main = threading.get_ident()
        self._looks: list[tuple[str, str]] = []
        self._over = threading.Event()
        self._timer = QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        self._last, self._cpu = time.perf_counter(), time.thread_time()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> Watchdog:
        """Begin to watch."""
        self._timer.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Watch no more."""
        self._timer.stop()
        self._over.set()
        self._thread.join()

    def ours(self, limit_s: float = 0.1) -> list[Block]:
        """Blocks of our making: more of our work than `limit_s`, or a wait of five times that."""
        return [b for b in self.blocks if b.ours and (b.cpu_s > limit_s or b.wall_s > 5 * limit_s)]

    def _beat(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        if now - self._last > 0.1:
            self.blocks.append(Block(now - self._last, cpu - self._cpu, list(self._looks)))
        self._looks.clear()
        self._last, self._cpu = now, cpu

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            if time.perf_counter() - self._last > 0.03:
                self._looks.append(_innermost(sys._current_frames().get(self._main)))


def _innermost(frame: FrameType | None) -> tuple[str, str]:
    while frame is not None:
        parts = frame.f_code.co_filename.replace("\\", "/").split("/")
        for package in _KNOWN:
            if package in parts:
                return package, f"{parts[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "", "elsewhere"
