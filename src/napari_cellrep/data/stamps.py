"""Whether the image files of a field are still those that something was made from: a hash of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_cellrep.data import ome_zarr
from napari_cellrep.data.files import write_text
from napari_cellrep.data.images import Plane, file_of, stamps_of
from napari_cellrep.specs import digest

FILE = "images.json"
END_BYTES = 1 << 20  # of a large file its first and last MB are read …
BETWEEN, PART_BYTES = (
    16,
    1 << 14,
)  # … and this many parts of it in between, as one plane of a stack may be another
AT_ONCE = 8  # files that are read side by side: a share answers slowly, but many at once


def content_of(path: Path) -> str:
    """Hash of an image's size and content; of one larger than a few MB of its ends and parts in between.

    Of an OME-Zarr: its metadata, and the first, middle and last of its largest level's chunks.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    h = hashlib.blake2b(digest_size=12)
    if path.is_dir():
        for file in (p for p in ome_zarr.metadata_files(path) if p.is_file()):
            h.update(file.relative_to(path).as_posix().encode())
            _add(h, file)
        for file in ome_zarr.some_chunks(path):
            h.update(file.relative_to(path).as_posix().encode())
            _add(h, file)
    else:
        _add(h, file_of(path))
    return h.hexdigest()


def _add(h: hashlib.blake2b, path: Path) -> None:
    with path.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        h.update(size.to_bytes(8, "little"))
        if size <= 2 * END_BYTES + BETWEEN * PART_BYTES:
            h.update(f.read())
            return
        h.update(f.read(END_BYTES))
        step = (size - 2 * END_BYTES - PART_BYTES) // BETWEEN
        for i in range(BETWEEN):
            f.seek(END_BYTES + i * step)
            h.update(f.read(PART_BYTES))
        f.seek(size - END_BYTES)
        h.update(f.read(END_BYTES))


def made_from(info: Mapping[str, Any]) -> str:
    """What a field's files held when its labels were made, of what they say themselves; "" where they do not say."""
    image = info.get("image") or [""]
    return image[0] if isinstance(image[0], str) else ""


@dataclass(frozen=True)
class Images:
    """What is in the image files of some fields now, beside what their cells were measured from.

    Parameters
    ----------
    now : dict of str to str
        Field → `Project.pixels_of` it; "" while its files cannot be reached.
    replaced : tuple of str
        Fields whose cells were found in other images than there are now.
    """

    now: dict[str, str]
    replaced: tuple[str, ...]

    @property
    def away(self) -> tuple[str, ...]:
        """Fields whose files cannot be reached."""
        return tuple(field for field, pixels in self.now.items() if not pixels)


class ImageStamps:
    """What is in the image files of a project, by hash; a file is read again only when its size or time changed.

    What was read is remembered in ``images.json``, which may be lost without harm: the files are read again then.

    Parameters
    ----------
    root : Path
        The project's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._known: dict[str, list[object]] | None = None  # file → sizes and times, and its content
        self._new: dict[str, list[object]] = {}

    def of(self, planes: Sequence[Plane]) -> str:
        """16 hexadecimal digits that change when the pixels of some planes may have; "" while a file cannot be reached.

        Names and folders have no part in it: images that were moved or copied are the same.
        """
        try:
            parts = [
                [plane.channel, plane.z, plane.t, *(self._content(line, file) for line, file in lines)]
                for plane in planes
                for lines in [zip(plane.path.split("\n"), plane.files(self.root), strict=True)]
            ]
        except OSError:
            return ""
        return digest(parts) if parts else ""

    def of_many(self, planes: Sequence[Sequence[Plane]]) -> Iterator[str]:
        """As `of`, several at once, in their order."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cellrep-stamps") as pool:
            yield from pool.map(self.of, planes)

    def _content(self, line: str, path: Path) -> str:
        file, image = file_of(path), ""
        if file != path:  # one of several images in it
            line, image = line[: -len(path.name) - 1], f"/{path.name}"
        now = stamps_of(file)
        known = self._read().get(line)
        if known is None or known[0] != now:
            known = [now, content_of(file)]
            self._read()[line] = self._new[line] = known
        return f"{known[1]}{image}"

    def _read(self) -> dict[str, list[object]]:
        if self._known is None:
            self._known = self._on_disk()
        return self._known

    def _on_disk(self) -> dict[str, list[object]]:
        try:
            found = json.loads((self.root / FILE).read_text(encoding="utf-8"))
            return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 2}
        except (OSError, ValueError, AttributeError):
            return {}

    @property
    def has_news(self) -> bool:
        """Whether a file was read since the last `keep`."""
        return bool(self._new)

    def keep(self) -> None:
        """Remember what was read since the last time; the caller holds the project."""
        new, self._new = self._new, {}
        if new:
            write_text(self.root / FILE, json.dumps({**self._on_disk(), **new}))
