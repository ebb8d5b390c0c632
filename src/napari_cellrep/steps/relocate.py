"""Images that were moved or renamed are found again: same names, same sizes, another folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_cellrep.data import Project
from napari_cellrep.data.fields import Field, is_gone
from napari_cellrep.data.files import shared_end
from napari_cellrep.data.images import Plane, file_of, inspect_image
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError

LOOKED_AT = 5  # fields whose new files are opened, to see that they are of the old ones' size
NEARBY = 200  # folders beside the project and the old place that are tried by themselves
MOST_FILES = 2_000_000  # in a folder that is searched


@dataclass(frozen=True)
class Relocated:
    """What was found.

    Parameters
    ----------
    found, missing : int
        Fields whose images are in their new place; fields whose images are still gone.
    folder : str
        Where they are.
    """

    found: int
    missing: int
    folder: str

    @property
    def summary(self) -> str:
        """In words."""
        words = f"The images of {self.found:,} field{'s' * (self.found != 1)} are in {self.folder}."
        if self.missing:
            words += f" Those of {self.missing:,} are still not there."
        return words


def relocate(project: Project, folder: Path | str = "") -> Job[Relocated]:
    """Find the images of the project in another folder and remember where they are.

    A file is known by its name and by as many of its folders as still agree; those that are where they were stay.
    Labels, cells and vectors stay as they are: the pixels are the same.

    Parameters
    ----------
    folder : path
        Where the images are now, or a folder above. Empty: look beside the project and beside the old place.

    Yields
    ------
    Progress
        Once per folder that is tried; the job returns what was found.

    Raises
    ------
    InputError
        If there is no such folder, no image of the project is in it, or files of these names are other images.
    """
    lost = project.missing()
    if not lost:
        first = next((f for f in project.fields if f.planes), None)
        where = str(_files(project, first)[0].parent) if first is not None else str(project.root)
        return Relocated(len(project.fields), 0, where)
    if str(folder):
        start = Path(folder).expanduser().absolute()
        if not start.is_dir():
            raise InputError(f"{start} is not a folder; give the one the images are in now.")
        tries: Sequence[Path] = [start]
    else:
        tries = list(_nearby(project, _files(project, lost[0])[0]))
    for i, place in enumerate(tries):
        yield Progress(i, len(tries), f"Looking in {place}")
        moved = _find(project, lost, place, deep=bool(str(folder)))
        try:
            _check(project, moved)
        except InputError:
            if str(folder):
                raise
            continue  # other images of these names, beside the project by chance
        if moved:
            here = {f.id: f for f in moved}
            project.write_fields([here.get(f.id, f) for f in project.fields])
            result = Relocated(len(moved), len(lost) - len(moved), str(_files(project, moved[0])[0].parent))
            project.log("relocate", folder=str(place), fields=result.found, missing=result.missing)
            yield Progress(len(tries), len(tries), result.summary)
            return result
    name = _files(project, lost[0])[0].name
    if str(folder):
        raise InputError(
            f"No image of {project.name} is in {tries[0]} or below it; the first would be called {name}."
        )
    raise InputError(
        f"The images of {len(lost):,} field{'s' * (len(lost) != 1)} are not where they were, and not nearby "
        f"(the first is {name}): say in which folder they are."
    )


def _files(project: Project, field: Field) -> list[Path]:
    return [path for plane in field.planes for path in plane.files(project.root)]


def _nearby(project: Project, old: Path) -> Iterator[Path]:
    """Folders where moved images often are: beside the project, and beside where they were."""
    bases = [project.root.parent, project.root.parent.parent]
    above = old.parent
    while not above.is_dir() and above != above.parent:
        above = above.parent  # the first folder of the old path that still exists: what was renamed is in it
    bases.append(above)
    seen: set[Path] = set()
    for base in bases:
        try:
            inside = sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError:
            continue
        for place in (base, *inside[:NEARBY]):
            if place.suffix != ".cellrep" and place not in seen and place != place.parent:
                seen.add(place)
                yield place


def _find(project: Project, lost: Sequence[Field], place: Path, deep: bool) -> list[Field]:
    """The lost fields with the paths at which their images are below `place`; `deep`: search all its folders by name."""
    known: list[tuple[Path, Path]] = []  # old folder → new folder
    index: dict[str, list[Path]] | None = None
    found = []
    for field in lost:
        planes = []
        for plane in field.planes:
            lines = []
            for image in plane.files(project.root):
                path = file_of(image)
                new = path if path.exists() else _through(path, known) or _by_suffix(path, place)
                if new is None and deep:
                    index = _index(place) if index is None else index
                    new = _by_name(path, index)
                if new is None:
                    break
                if new != path:
                    _learn(path, new, known)
                lines.append(_where(new / image.relative_to(path), project.root))
            else:
                planes.append(dataclasses.replace(plane, path="\n".join(lines)))
                continue
            break
        if len(planes) == len(field.planes):
            problem = "" if is_gone(field) else field.problem
            found.append(dataclasses.replace(field, planes=tuple(planes), problem=problem))
    return found


def _through(path: Path, known: Sequence[tuple[Path, Path]]) -> Path | None:
    """Where a file is if its folder moved as that of another one did."""
    for old, new in known:
        if path.is_relative_to(old) and (moved := new / path.relative_to(old)).exists():
            return moved
    return None


def _by_suffix(path: Path, place: Path) -> Path | None:
    """``place`` and the longest end of the old path that exists in it."""
    parts = path.parts
    for n in range(min(len(parts) - 1, 8), 0, -1):
        if (moved := place.joinpath(*parts[-n:])).exists():
            return moved
    return None


def _learn(old: Path, new: Path, known: list[tuple[Path, Path]]) -> None:
    """Note the folders in which the two paths begin to agree."""
    a, b = old.parent, new.parent
    while a.name == b.name and a.name:
        a, b = a.parent, b.parent
    if (a, b) not in known:
        known.insert(0, (a, b))


def _index(place: Path) -> dict[str, list[Path]]:
    """File name → where, of all files below a folder; an OME-Zarr counts as one."""
    index: dict[str, list[Path]] = {}
    n = 0
    for folder, inside, files in os.walk(place):
        zarrs = [d for d in inside if d.endswith(".zarr")]
        inside[:] = [d for d in inside if not d.endswith((".zarr", ".cellrep")) and not d.startswith(".")]
        for name in (*files, *zarrs):
            index.setdefault(name, []).append(Path(folder, name))
            n += 1
        if n > MOST_FILES:
            raise InputError(f"{place} holds more than {MOST_FILES:,} files; give the images' own folder.")
    return index


def _by_name(path: Path, index: dict[str, list[Path]]) -> Path | None:
    """The file of that name whose folders agree most with the old ones; None if two agree equally well."""
    at = next((i for i, part in enumerate(path.parts) if part.endswith(".zarr")), len(path.parts) - 1)
    head, rest = path.parts[: at + 1], path.parts[at + 1 :]
    fits = [(p, shared_end(p.parts, head)) for p in index.get(head[-1], [])]
    if not fits:
        return None
    best = max(n for _, n in fits)
    tops = [p for p, n in fits if n == best]
    if len(tops) > 1:
        raise InputError(f"{tops[0]} and {tops[1]} both could be {path.name}; give the folder that is meant.")
    moved = tops[0].joinpath(*rest)
    return moved if moved.exists() else None


def _check(project: Project, moved: Sequence[Field]) -> None:
    """Open some of the new files: they have to be of the size the field had."""
    for field in moved[:: max(1, len(moved) // LOOKED_AT)][:LOOKED_AT]:
        plane: Plane = field.planes[0]
        path = plane.files(project.root)[0]
        info = inspect_image(path, stack=field.stack)
        if field.height_px and (info.height_px, info.width_px) != (field.height_px, field.width_px):
            raise InputError(
                f"{path} is {info.width_px}×{info.height_px} px, and field {field.id} was {field.width_px}×"
                f"{field.height_px} px: these are other images."
            )


def _where(path: Path, root: Path) -> str:
    """As `Plane` keeps it: relative to the project where they share a folder, so that both can move together."""
    real = root.resolve()
    if path.is_relative_to(real.parent):
        return Path(os.path.relpath(path, real)).as_posix()
    return str(path)
