"""Time series among fields: which names number frames, what frames are called, and which are missing."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from napari_cellrep.data.fields import Field, safe_id
from napari_cellrep.data.images import file_of
from napari_cellrep.specs import join_words

EVEN_SHARE = 0.8  # of the steps from frame to frame; 0, 6, 12 and 24 h are chosen, not gaps
FRAMES_TOLD = 8  # of those a series lacks


def frames_of(fields: Sequence[Field], there: Sequence[Field] = ()) -> dict[str, list[int]]:
    """Series → the frames of it that there are, and those that were `there` before."""
    found: dict[str, list[int]] = {f.series: [] for f in fields if f.series}
    for f in (*there, *fields):
        if f.series in found:
            found[f.series].append(int(f.metadata["frame"]))
    return found


class Series:
    """The time series of a project, of a file per frame: which of them a later frame belongs to.

    Parameters
    ----------
    fields : sequence of Field
        Of the project; none for a new one.
    root : Path
        Its folder.
    """

    def __init__(self, fields: Sequence[Field] = (), root: Path = Path()):
        self._digits: dict[str, int] = {}  # of the numbers in the ids of its frames
        self._folders: dict[str, set[Path]] = {}
        for f in fields:
            if f.series and "time" in f.metadata:
                self._digits[f.series] = max(
                    self._digits.get(f.series, 0), len(f.id) - len(f.series) - len("_t")
                )
                files = [p for plane in f.planes[:1] for p in plane.files(root)]
                self._folders.setdefault(f.series, set()).update(file_of(p).parent for p in files)

    def __bool__(self) -> bool:
        return bool(self._digits)

    def called(self, name: str, folder: Path) -> str:
        """What the series of that name is called here: one of two folders has its folder in front."""
        same = [s for s in self._digits if s.endswith(f"_{safe_id(name)}") and folder in self._folders[s]]
        return same[0] if len(same) == 1 and safe_id(name) not in self._digits else name

    def frame_id(self, series: str, frame: int, last: int) -> str:
        """The name of a frame, its number as long as those that are there."""
        digits = self._digits.get(safe_id(series), 0)
        return f"{series}_t{frame:0{digits}d}" if digits else frame_id(series, frame, last)


def are_frames(times: Collection[str], least: int = 2) -> bool:
    """Whether the times in names number frames: several, of one form, such as T0001 and T0002, or 0h and 24h.

    `least`: how many there have to be; where there are series already, a single one.
    """
    forms = {re.sub(r"\d+", "0", time, count=1) for time in times}
    return len(times) >= least and len(forms) == 1 and forms.pop().count("0") == 1


def number_in(time: str) -> int:
    """The number of a time as `are_frames` takes it."""
    return int(re.sub(r"\D", "", time))


def frame_id(series: str, frame: int, last: int) -> str:
    """The name of one time point of a series."""
    return f"{series}_t{frame:0{max(3, len(str(last)))}d}"


def series_words(frames: Mapping[str, Collection[int]]) -> str:
    """Series → their frames, in words: "12 series of 30 frames"."""
    if not frames:
        return ""
    counts = sorted({len(some) for some in frames.values()})
    many = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{len(frames):,} series of {many} frame{'s' * (counts[-1] != 1)}"


def missing_frames(frames: Mapping[str, Collection[int]]) -> list[str]:
    """Sentences about series that lack a frame: one that another series has, or a gap in steps that are else even."""
    there = {t for some in frames.values() for t in some}
    steps = Counter(b - a for some in frames.values() for a, b in itertools.pairwise(sorted(set(some))))
    step, n = max(steps.items(), key=lambda item: item[1], default=(1, 0))
    between = set(range(min(there, default=0), max(there, default=-1) + 1, step))
    wanted = there | between if n >= EVEN_SHARE * steps.total() and there <= between else there
    lacking = {name: sorted(wanted - set(some)) for name, some in frames.items()}
    return [
        f"Series {name} has no frame {join_words(map(str, some), FRAMES_TOLD)}."
        for name, some in lacking.items()
        if some
    ]
