"""Files of microscopes' own programs (ND2, CZI, LIF) through bioio, where it is installed.

A file may hold several images (positions, scenes, series). The second of ``plate.nd2`` is ``plate.nd2/scene-2``, as if the
file were a folder.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_cellrep.specs import InputError, first_line

# Ending → bioio's reader, and what to install. CZI's reader is under the GPL, so it is an extra of its own.
READERS = {
    ".nd2": ("bioio_nd2", "napari-cellrep[formats]"),
    ".lif": ("bioio_lif", "napari-cellrep[formats]"),
    ".czi": ("bioio_czi", "napari-cellrep[czi]"),
}


@dataclass(frozen=True)
class VendorImage:
    """What one image of a file holds.

    Parameters
    ----------
    axes : str
        Of T, C, Z, Y, X and S (samples of a colour).
    shape : tuple of int
    dtype : numpy.dtype
    um_per_px : float
        0 where the file does not say.
    channel_names : tuple of str
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    um_per_px: float
    channel_names: tuple[str, ...]


def file_of(path: Path) -> Path | None:
    """The file that a path (of a file, or of an image in it) is in; None if it is of another kind."""
    file, scene = split_scene(path)
    known = file.suffix.lower() in READERS and (scene >= 0 or not path.is_dir())
    return file if known else None


def split_scene(path: Path) -> tuple[Path, int]:
    """The file, and which of its images is meant, from 0, of ``plate.nd2/scene-2``; -1 of a path that names no image."""
    match = re.fullmatch(r"scene-(\d+)", path.name)
    return (path.parent, int(match[1]) - 1) if match else (path, -1)


def find_images(file: Path) -> list[Path]:
    """The images in a file; the file itself where it holds one, or cannot be read (whoever reads it says so)."""
    try:
        n = len(_opened(file).scenes)
    except InputError:
        return [file]
    return [file / f"scene-{i + 1}" for i in range(n)] if n > 1 else [file]


class VendorFile:
    """One image of a file that is open.

    Attributes
    ----------
    info : VendorImage
        What it holds, without its pixels.
    """

    def __init__(self, path: Path, image: Any):
        self._path, self._image = path, image
        with _reading(path):
            size = image.physical_pixel_sizes.X
            self.info = VendorImage(
                str(image.dims.order), tuple(image.shape), np.dtype(image.dtype), float(size or 0.0),
                tuple(str(n) for n in image.channel_names or ()),
            )  # fmt: skip

    def read(self, part: tuple[slice, ...]) -> np.ndarray:
        """The pixels of a part, its axes as `info` names them; no other planes are read."""
        with _reading(self._path):
            return np.asarray(self._image.dask_data[part])


def opened(path: Path) -> VendorFile:
    """An image of a file, opened once for what it holds and for its pixels.

    Raises
    ------
    InputError
        If the reader is not installed, or it cannot read the file.
    """
    return VendorFile(path, _opened(path))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Without the readers' warnings, and with their many kinds of error as one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise InputError(f"{path.name} cannot be read ({first_line(error)}).") from error


def _opened(path: Path) -> Any:
    file = file_of(path)
    assert file is not None
    module, extra = READERS[file.suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the readers' own dependencies
            bioio, reader = importlib.import_module("bioio"), importlib.import_module(module).Reader
    except ImportError:
        kind = file.suffix.upper().lstrip(".")
        raise InputError(
            f'{file.name} is a {kind} file: pip install "{extra}" to read it, or save it as OME-TIFF.'
        ) from None
    _, scene = split_scene(path)
    with _reading(file):
        image = bioio.BioImage(file, reader=reader)
        if scene >= 0:
            image.set_scene(scene)
    return image
