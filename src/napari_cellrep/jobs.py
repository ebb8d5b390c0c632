"""Long work as a generator: watched, stopped, repeated and split by whoever drives it.

Standard library only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a job is, once per unit of work.

    Parameters
    ----------
    done, total : int
        Units finished and units in all; ``total`` 0 means not known yet.
    message : str
        What is being done, for a person: "Segmenting A05".
    metrics : mapping of str to float
        Numbers worth plotting as they come (loss, cells per second, …).
    """

    done: int
    total: int
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


# A job yields Progress and returns its result. A yield is also the point where it can be stopped:
# closing the generator there leaves finished rows valid and files whole.
Job = Generator[Progress, None, R]


@dataclass(frozen=True)
class Shard:
    """Which part of the work is mine when several processes share it.

    Every shard writes only its own rows, so running one twice is harmless.

    Parameters
    ----------
    rank : int, default 0
        Index of this part, ``0 <= rank < world``.
    world : int, default 1
        How many parts there are.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"Shard {self.rank}/{self.world} does not exist: the first number goes from 0 to {self.world - 1}."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"i/N"`` (``"0/4"`` is the first of four)."""
        try:
            rank, world = (int(part) for part in text.split("/"))
        except ValueError:
            raise ValueError(f"A shard is written i/N, for example 0/4; got {text!r}.") from None
        return cls(rank, world)

    def owns(self, key: str) -> bool:
        """Whether the item called `key` is mine. Depends on the name alone, never on order or machine."""
        return zlib.crc32(key.encode()) % self.world == self.rank

    def of(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are mine, in their order."""
        return [key for key in keys if self.owns(key)]


def drain(job: Job[R], on_progress: Callable[[Progress], None] | None = None) -> R:
    """Run `job` to its end and return its result.

    Parameters
    ----------
    job : Job
        What to run.
    on_progress : callable, optional
        Called with every `Progress`. If it raises, the job is closed and the error goes on.
    """
    try:
        while True:
            progress = next(job)
            if on_progress is not None:
                on_progress(progress)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        job.close()


# What stands for a lack of memory: torch's allocator, C++, and oneDNN, which fails to make or to run a kernel it has
# already found (one it does not have fails at its "primitive descriptor").
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|bad_alloc|could not (create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory, the computer's or the graphics card's, did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
