"""Harmony's index of a measurement (Operetta, Opera Phenix): ``Index.xml`` or ``Index.idx.xml`` beside the images.

It says what each channel is called, the pixel size, where each field lies in its well, and the plate; in older ones
(HarmonyV5) each image says so itself, in newer ones (HarmonyV7) a map of channels does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from napari_cellrep.specs import InputError

NAMES = ("Index.xml", "Index.idx.xml")
_READ = ("URL", "ChannelID", "ChannelName", "ImageResolutionX", "PositionX", "PositionY")


@dataclass(frozen=True)
class Index:
    """What such a file says.

    Parameters
    ----------
    path : Path
    plate : str
        "" where it does not say.
    channels : mapping of str to str
        Number in the file names ("1") → name.
    um_per_px : float
        Pixel size; 0 where it does not say, or channels differ.
    positions : mapping of str to (float, float)
        File name → x and y of its centre in µm, from the middle of the well.
    """

    path: Path
    plate: str = ""
    channels: Mapping[str, str] = field(default_factory=dict)
    um_per_px: float = 0.0
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def find_index(folder: Path) -> Path | None:
    """The index in a folder of images; None where there is none."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_index(path: Path) -> Index:
    """Read an index, without keeping the whole of it in memory.

    Raises
    ------
    InputError
        If it is no such file, or damaged.
    """
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)  # the window asks for each change of the form
def _read(path: Path, _when: int, _size: int) -> Index:
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler = _refuse  # no index has any, and they can be made to fill the memory
    try:
        with path.open("rb") as f:
            parser.ParseFile(f)
    except (expat.ExpatError, OSError, ValueError) as error:
        raise InputError(f"{path.name} in {path.parent.name} cannot be read ({error}).") from error
    if reader.root != "EvaluationInputData":
        raise InputError(
            f"{path.name} in {path.parent.name} is no index of Harmony's: it begins with {reader.root!r}."
        )
    sizes = {round(size, 6) for size in reader.sizes if size > 0}
    return Index(
        path, reader.plate, dict(reader.channels), sizes.pop() if len(sizes) == 1 else 0.0, reader.positions
    )


def _refuse(*_: Any) -> None:
    raise ValueError("it declares entities, which an index does not need")


class _Reader:
    """What comes by while the file is read."""

    def __init__(self) -> None:
        self.root, self.plate = "", ""
        self.channels: dict[str, str] = {}
        self.sizes: list[float] = []
        self.positions: dict[str, tuple[float, float]] = {}
        self._path: list[str] = []
        self._text: list[str] = []
        self._unit = ""
        self._record: dict[str, tuple[str, str]] | None = None  # of an image or a channel's entry

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        name = name.rpartition(":")[2]
        self.root = self.root or name
        self._path.append(name)
        self._text, self._unit = [], attributes.get("Unit", "")
        if name == "Image" and self._path[-2:-1] == ["Images"]:
            self._record = {}
        elif name == "Entry" and "ChannelID" in attributes:
            self._record = {"ChannelID": (attributes["ChannelID"], "")}

    def text(self, words: str) -> None:
        self._text.append(words)

    def end(self, name: str) -> None:
        name = self._path.pop()
        above = self._path[-1] if self._path else ""
        words = "".join(self._text).strip()
        if name == "Name" and above == "Plate":
            self.plate = words
        elif self._record is not None and above in ("Image", "Entry") and name in _READ:
            self._record[name] = (words, self._unit)
        elif self._record is not None and name in ("Image", "Entry"):
            self._take(self._record)
            self._record = None
        self._text = []

    def _take(self, record: Mapping[str, tuple[str, str]]) -> None:
        number = record["ChannelID"][0] if "ChannelID" in record else ""
        if number and record.get("ChannelName", ("",))[0]:
            self.channels.setdefault(number, record["ChannelName"][0])
        if "ImageResolutionX" in record:
            self.sizes.append(_um(*record["ImageResolutionX"]))
        if "URL" in record and "PositionX" in record and "PositionY" in record:
            x, y = _um(*record["PositionX"]), _um(*record["PositionY"])
            if math.isfinite(x) and math.isfinite(y):
                self.positions[record["URL"][0].rpartition("/")[2]] = (x, y)


def _um(text: str, unit: str) -> float:
    """A length in µm; NaN where it is none."""
    try:
        return float(text) * {"m": 1e6, "mm": 1e3, "": 1e6}.get(unit, 1.0)
    except ValueError:
        return math.nan
