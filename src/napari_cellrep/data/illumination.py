"""Uneven illumination: one function per plate and channel, divided out of (or subtracted from) a field when it is read.

The files of the images are never changed. The functions lie in the project, ``illumination/<digest>/`` with one
``.npy`` per plate and channel; ``project.json`` says which folder counts, so that a change is one rename.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_cellrep.data.fields import Field
from napari_cellrep.specs import Channel, InputError, digest

OPERATIONS = ("divide", "subtract")
FOLDER = "illumination"
MAPPED_BYTES = 256 * 2**20  # a larger function, a slide's, is read where it is needed
FEW_FIELDS = 50  # with fewer, the mean of a plate still shows where cells happened to lie


@dataclass(frozen=True)
class Illumination:
    """The functions of a project, and where they come from.

    Parameters
    ----------
    folder : Path
        Where the arrays are.
    files : mapping of (str, str) to str
        (plate, channel) → file in `folder`; plate "" where fields name none.
    operation : {"divide", "subtract"}
    digest : str
        Of all arrays and the operation; part of everything that is computed from corrected pixels.
    source : str
        "estimated" or "brought".
    notes : tuple of str
        What is to be known of how they were made.
    """

    folder: Path
    files: Mapping[tuple[str, str], str]
    operation: str
    digest: str
    source: str
    notes: tuple[str, ...] = ()
    _read: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def function(self, plate: str, channel: str) -> np.ndarray | None:
        """The function of a plate's channel, float32 (H, W); None where there is none and pixels stay."""
        name = self.files.get((plate, channel))
        if name is None:
            return None
        if name not in self._read:
            try:
                large = (self.folder / name).stat().st_size > MAPPED_BYTES
                self._read[name] = np.load(self.folder / name, mmap_mode="r" if large else None)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.folder / name} cannot be read ({error}); give the functions again."
                ) from error
        return self._read[name]

    def correct(
        self,
        image: np.ndarray,
        one: Field,
        channels: Sequence[Channel],
        box: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """Corrected pixels (C, H, W) of a field, or of its part `box` (y0, x0, y1, x1), in the dtype of `image`.

        What the camera could count at most is told from the whole image (see `top_of`); of a part it is the type's largest
        number, so that all parts of an image are treated alike.
        """
        functions = [self.function(plate_of(one), c.name) for c in channels]
        if all(f is None for f in functions):
            return image
        shape = image.shape[1:] if box is None else (one.height_px, one.width_px)
        whole_top = int(np.iinfo(image.dtype).max) if image.dtype.kind in "ui" else 0
        top = top_of(image) if box is None else whole_top
        y0, x0, y1, x1 = box or (0, 0, *shape)
        planes = []
        for plane, function in zip(image, functions, strict=True):
            if function is not None and function.shape != shape:
                raise InputError(
                    f"Field {one.id} is {shape[1]}×{shape[0]} px and its illumination function is "
                    f"{function.shape[1]}×{function.shape[0]} px; give one of the field's size, or none."
                )
            if function is not None:
                plane = apply_function(plane, function[y0:y1, x0:x1], self.operation, top)
            planes.append(plane)
        return np.stack(planes)

    def words(self) -> str:
        """Say it as a methods section does."""
        plates = len({plate for plate, _ in self.files})
        verb = "divided by" if self.operation == "divide" else "less"
        whose = "brought with the images" if self.source == "brought" else "estimated from its fields"
        return (
            f"every image {verb} a function of its channel{' and plate' if plates > 1 else ''}, {whose}"
            + (f" ({' '.join(self.notes).rstrip('.')})" if self.notes else "")
        )

    def to_json(self) -> dict[str, Any]:
        """What ``project.json`` keeps."""
        files = [[plate, channel, name] for (plate, channel), name in self.files.items()]
        return {
            "folder": self.folder.name, "files": files, "operation": self.operation, "digest": self.digest,
            "source": self.source, "notes": list(self.notes),
        }  # fmt: skip


def read_illumination(root: Path, kept: Mapping[str, Any] | None) -> Illumination | None:
    """The functions that ``project.json`` names under "illumination", or None."""
    if not kept:
        return None
    return Illumination(
        root / FOLDER / str(kept["folder"]), {(plate, channel): name for plate, channel, name in kept["files"]},
        str(kept["operation"]), str(kept["digest"]), str(kept["source"]), tuple(kept.get("notes", ())),
    )  # fmt: skip


def plate_of(one: Field) -> str:
    """The plate of a field as text; "" when it names none."""
    return str(one.metadata.get("plate", ""))


def apply_function(plane: np.ndarray, function: np.ndarray, operation: str, top: int) -> np.ndarray:
    """One corrected channel (H, W) in its own dtype.

    Whole numbers are rounded and kept up to `top`, the largest count of the camera. Pixels that were cut off there
    stay there, so that they are still known as saturated.
    """
    out = plane / function if operation == "divide" else plane - function
    if plane.dtype.kind not in "ui":
        return out.astype(plane.dtype)  # type: ignore[no-any-return]
    out = np.clip(np.rint(out), 0, top).astype(plane.dtype)
    out[plane >= top] = top
    return out  # type: ignore[no-any-return]


def top_of(image: np.ndarray) -> int:
    """The largest count the camera can have given: 4,095 in a 16-bit image that never goes beyond it. 0 of floats."""
    if image.dtype.kind not in "ui":
        return 0
    top = int(np.iinfo(image.dtype).max)
    return 4095 if image.dtype == np.uint16 and image.max(initial=0) <= 4095 else top


def smooth_function(mean: np.ndarray) -> np.ndarray:
    """An illumination function from the mean image (H, W) of a plate's fields: a smooth surface, its median 1.

    CellProfiler's "regular" way (CorrectIlluminationCalculate): the mean of all images of a plate, smoothed by fitting a
    polynomial of second order in x and y, whose six numbers follow the light and hardly the cells. CellProfiler makes
    the least value 1 (and images darker); here the median is 1, so that counts stay about what they were.
    """
    h, w = mean.shape
    y, x = np.linspace(-1, 1, h)[:, None], np.linspace(-1, 1, w)[None, :]
    terms = [np.broadcast_to(t, (h, w)).ravel() for t in (np.ones((h, w)), x, y, x * x, y * y, x * y)]
    basis = np.stack(terms, axis=1)
    weights = np.linalg.solve(basis.T @ basis, basis.T @ mean.astype(np.float64).ravel())
    smooth = (basis @ weights).reshape(h, w)
    middle = float(np.median(smooth))
    if not middle > 0:
        raise InputError("A channel is black in every field: there is no illumination to estimate.")
    return np.maximum(smooth / middle, 0.05).astype(np.float32)


def read_function(path: Path) -> np.ndarray:
    """A function that CellProfiler saved: ``.npy`` or ``.tif``, float32 (H, W).

    Raises
    ------
    InputError
        If it is not one plane of finite numbers.
    """
    try:
        found = np.load(path) if path.suffix.lower() == ".npy" else tifffile.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path} is not there.") from None
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as an illumination function ({error}).") from error
    found = np.squeeze(np.asarray(found))
    if found.ndim != 2 or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise InputError(
            f"{path.name} is no illumination function: one plane of finite numbers is wanted, it holds {found.dtype} of "
            f"shape {found.shape}."
        )
    return found.astype(np.float32)


def match_functions(
    paths: Sequence[Path], plates: Sequence[str], channels: Sequence[Channel]
) -> dict[tuple[str, str], Path]:
    """Which file is of which plate and channel, by their names: ``…/Plate1/Plate1_IllumDNA.npy``.

    A file is of the channel whose name ends its own (letters and digits count); with several plates also of the plate
    whose name is in its path. One file may serve all plates.

    Raises
    ------
    InputError
        If no file fits any channel, or two fit one.
    """
    found: dict[tuple[str, str], Path] = {}
    words = {plate: _letters(plate) for plate in plates if plate}
    for channel in channels:
        word = _letters(channel.name)
        # "DNA" also ends "mtDNA": the channel with the longest fitting name has the file.
        longer = [_letters(c.name) for c in channels if len(_letters(c.name)) > len(word)]
        fits = [p for p in paths if word and _letters(p.stem).endswith(word)]
        fits = [p for p in fits if not any(_letters(p.stem).endswith(other) for other in longer)]
        where = {p: _letters("/".join(p.parts[-3:])) for p in fits}
        of_none = [p for p in fits if not any(w in where[p] for w in words.values())]
        for plate in plates:
            own = [p for p in fits if plate and words[plate] in where[p]] or of_none
            if len(own) > 1:
                raise InputError(
                    f"{own[0].name} and {own[1].name} both fit channel {channel.name}"
                    f"{f' of plate {plate}' if plate else ''}; leave one out."
                )
            if own:
                found[plate, channel.name] = own[0]
    if not found:
        raise InputError(
            f"No file is of a channel of the project by its name ({', '.join(c.name for c in channels)}); names end with "
            "the channel's, such as IllumDNA.npy."
        )
    return found


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", text.lower())


def functions_digest(functions: Mapping[tuple[str, str], np.ndarray], operation: str) -> str:
    """Short hash of all functions."""
    import hashlib

    parts = {
        json.dumps(key): hashlib.sha256(a.tobytes()).hexdigest() + str(a.shape)
        for key, a in functions.items()
    }
    return digest([operation, dict(sorted(parts.items()))])
