"""Images → illumination functions: estimated from a plate's fields, or brought from CellProfiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_cellrep.data import Project
from napari_cellrep.data.fields import Field
from napari_cellrep.data.illumination import (
    FEW_FIELDS,
    OPERATIONS,
    Illumination,
    apply_function,
    functions_digest,
    match_functions,
    plate_of,
    read_function,
    smooth_function,
    top_of,
)
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words

MOST_FIELDS = 200  # of a plate: the mean of more hardly differs
SUFFIXES = (".npy", ".tif", ".tiff")
_FEW = "With only"  # begins the note on an estimate from few fields

Functions = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Preview:
    """A field before and after, and what lies between.

    Parameters
    ----------
    field : str
    channels : tuple of str
    before, after : ndarray of shape (C, H, W)
    functions : ndarray of shape (C, H, W), float32
        1 where a channel has no function.
    words : str
    notes : tuple of str
        What the functions were made of.
    doubt : str
        What speaks against them; "" if nothing does.
    """

    field: str
    channels: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    functions: np.ndarray
    words: str
    notes: tuple[str, ...] = ()
    doubt: str = ""


def correct(
    project: Project, *, functions: Sequence[Path | str] = (), operation: str = "divide", off: bool = False
) -> Job[str]:
    """Correct the illumination of every image from now on; image files stay as they are.

    Parameters
    ----------
    functions : sequence of paths
        Files (``.npy``, ``.tif``) or folders of CellProfiler's functions, found by channel and plate in their names.
        Empty: estimated from the project's fields, per plate and channel (`smooth_function`).
    operation : {"divide", "subtract"}
        As in CellProfiler's CorrectIlluminationApply.
    off : bool
        Read the images as they are again.

    Yields
    ------
    Progress
        Once per field; the job returns a sentence.

    Raises
    ------
    InputError
        If a function cannot be read or does not fit, or a plate's fields differ in size.
    """
    if off:
        project.set_illumination({}, operation, "")
        project.log("illumination", off=True)
        return "Images are read as they are in their files."
    made, source, notes = yield from _make(project, functions, operation, MOST_FIELDS)
    project.set_illumination(made, operation, source, notes)
    lit = project.illumination
    assert lit is not None
    files = [str(f) for f in functions]
    project.log(
        "illumination", source=source, operation=operation, functions=len(made), files=files, notes=notes
    )
    words = lit.words()
    return f"{words[0].upper()}{words[1:]}. Labels, flags and embeddings made before are out of date: run those steps again."


def preview(
    project: Project,
    *,
    functions: Sequence[Path | str] = (),
    operation: str = "divide",
    field: str = "",
    most: int = 40,
) -> Job[Preview]:
    """Show one field before and after, without writing anything; an estimate from at most `most` fields per plate."""
    one = project.field(field) if field else next(iter(project.usable_fields), None)
    if one is None:
        raise InputError("No field of the project can be read.")
    if project.is_big(one.id) and functions:
        raise InputError(f"Field {one.id} is too large to try the functions on; choose a smaller one.")
    made, source, notes = yield from _make(project, functions, operation, most, only=plate_of(one))
    raw = _raw(project, one)
    unit = np.ones if operation == "divide" else np.zeros
    planes = [made.get((plate_of(one), c.name), unit(raw.shape[1:], np.float32)) for c in project.channels]
    for function in planes:
        if function.shape != raw.shape[1:]:
            raise InputError(
                f"Field {one.id} is {raw.shape[2]}×{raw.shape[1]} px and its function {function.shape[1]}×"
                f"{function.shape[0]} px; give one of the field's size."
            )
    top = top_of(raw)
    after = np.stack([apply_function(p, f, operation, top) for p, f in zip(raw, planes, strict=True)])
    how = Illumination(
        Path(), dict.fromkeys(made, ""), operation, functions_digest(made, operation), source, tuple(notes)
    )
    falls = [
        f"{c.name} {f.max() / max(float(f.min()), 1e-6):.2f}-fold"
        for c, f in zip(project.channels, planes, strict=True)
    ]
    words = f"Field {one.id}: {how.words()}. From its darkest to its brightest place the function differs: {', '.join(falls)}."
    doubts = [note for note in notes if note.startswith(_FEW)]
    return Preview(
        one.id, tuple(c.name for c in project.channels), raw, after, np.stack(planes), words,
        tuple(note for note in notes if note not in doubts), " ".join(doubts),
    )  # fmt: skip


def _make(
    project: Project, paths: Sequence[Path | str], operation: str, most: int, only: str | None = None
) -> Job[tuple[Functions, str, list[str]]]:
    if operation not in OPERATIONS:
        raise InputError(f"A function is used to {' or to '.join(OPERATIONS)}; got {operation!r}.")
    fields = [f for f in project.usable_fields if only is None or plate_of(f) == only]
    if not fields:
        raise InputError("No field of the project can be read.")
    plates = list(dict.fromkeys(plate_of(f) for f in fields))
    if paths:
        yield Progress(0, 1, "Reading functions")
        found = match_functions(_files(paths), plates, project.channels)
        made = {key: read_function(path) for key, path in found.items()}
        for key, function in made.items():
            if operation == "divide" and not function.min() > 0:
                raise InputError(
                    f"{found[key].name} has zeros or less, by which nothing can be divided; is it to be subtracted?"
                )
            of_plate = next(f for f in fields if plate_of(f) == key[0])
            if of_plate.height_px and function.shape != (of_plate.height_px, of_plate.width_px):
                raise InputError(
                    f"{found[key].name} is {function.shape[1]}×{function.shape[0]} px and field {of_plate.id} "
                    f"{of_plate.width_px}×{of_plate.height_px} px; functions have to be of their images' size."
                )
        lacking = [c.name for c in project.channels if not any(name == c.name for _, name in made)]
        notes = [f"Without a function, and as they are: {join_words(lacking)}."] if lacking else []
        return made, "brought", notes
    if big := next((f.id for f in fields if project.is_big(f.id)), ""):
        raise InputError(
            f"Field {big} is a slide put together of many images: its uneven light repeats with each of them and cannot be "
            "told from the whole. Give the slide's functions, or correct the images before they are put together."
        )
    made = {}
    notes = []
    done, todo = 0, {plate: _spread([f for f in fields if plate_of(f) == plate], most) for plate in plates}
    total = sum(map(len, todo.values()))
    for plate, chosen in todo.items():
        sizes = Counter((f.height_px, f.width_px) for f in chosen)
        if len(sizes) > 1:
            told = join_words(f"{w}×{h} px" for h, w in sizes)
            of = f" of plate {plate}" if plate else ""
            raise InputError(f"The fields{of} differ in size ({told}); no one function fits them.")
        mean: np.ndarray | None = None
        for n, one in enumerate(chosen, 1):
            yield Progress(done, total, f"Reading {one.id}")
            image = _raw(project, one).astype(np.float64)
            mean = image if mean is None else mean + (image - mean) / n
            done += 1
        assert mean is not None
        for channel, plane in zip(project.channels, mean, strict=True):
            function = smooth_function(plane)
            if operation == "subtract":
                function = (function - function.min()) * float(np.median(plane))
            made[plate, channel.name] = function.astype(np.float32)
    n = min(map(len, todo.values()))
    notes.append(
        f"The mean of {n:,} fields per plate, smoothed by a polynomial of second order, as CellProfiler's regular functions."
    )
    if n < FEW_FIELDS:
        notes.append(f"{_FEW} {n} field{'s' * (n != 1)} it also shows where cells happened to lie.")
    return made, "estimated", notes


def _raw(project: Project, one: Field) -> np.ndarray:
    """The pixels as they are in the files."""
    return one.read(project.root)


def _spread(fields: Sequence[Field], most: int) -> list[Field]:
    """At most `most` fields, evenly over a plate."""
    if len(fields) <= most:
        return list(fields)
    return [fields[i] for i in np.linspace(0, len(fields) - 1, most).round().astype(int)]


def _files(paths: Sequence[Path | str]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser().absolute()
        if not path.exists():
            raise InputError(f"{path} is not there.")
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise InputError("There is no .npy or .tif file with an illumination function there.")
    return found


def save_preview(found: Preview, out: Path) -> None:
    """Draw before, function and after of every channel, each pair with one contrast."""
    from matplotlib.figure import Figure

    n = len(found.channels)
    figure = Figure(figsize=(9, 3.1 * n), dpi=120, layout="constrained")
    axes = figure.subplots(n, 3, squeeze=False)
    for row, name, before, function, after in zip(
        axes, found.channels, found.before, found.functions, found.after, strict=True
    ):
        low, high = np.percentile(before, (1, 99.5))
        for axis, image, title in (
            (row[0], before, f"{name}, as acquired"),
            (row[2], after, f"{name}, corrected"),
        ):
            axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
            axis.set_title(title, fontsize=9)
        shown = row[1].imshow(function, cmap="viridis")
        row[1].set_title("what it is corrected by", fontsize=9)
        figure.colorbar(shown, ax=row[1], shrink=0.8)
        for axis in row:
            axis.set_axis_off()
    figure.savefig(out)
