"""CellProfiler's LoadData: a CSV with a row per field, which names the file of each channel and what is known of it.

Columns: ``FileName_X`` and ``PathName_X``, or ``URL_X``, for a channel X; ``Frame_X`` and ``Series_X`` for the plane of a
file with several; ``Metadata_Y``. JUMP and the Cell Painting Gallery have one (``load_data.csv``) beside every plate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd

from napari_cellrep.data.files import shared_end
from napari_cellrep.specs import InputError, counted

_NO_IMAGE = (".npy", ".mat", ".npz")  # illumination functions stand beside the images


@dataclass(frozen=True)
class Listed:
    """One field of such a table.

    Parameters
    ----------
    files : mapping of str to Path
        Channel → its file.
        One of several images (``Series_X``) in a file is ``file/scene-N``, from 1.
    pages : mapping of str to int
        Channel → the plane of the file, from 0, where the table says it.
    metadata : mapping of str to object
        Without "Metadata_"; plate, well and site in small letters.
    folder : Path
        That of the first file.
    """

    files: Mapping[str, Path]
    pages: Mapping[str, int]
    metadata: Mapping[str, Any]
    folder: Path


def is_load_data(path: Path) -> bool:
    """Whether a file is such a table: by its ending and its first line."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open("rb") as f:
        names = [n.strip(b'"\r\n ').lower() for n in f.readline().removeprefix(b"\xef\xbb\xbf").split(b",")]
    return any(n.startswith((b"filename_", b"url_", b"image_filename_", b"image_url_")) for n in names)


def read_load_data(path: Path, here: Sequence[Path] = ()) -> tuple[list[Listed], list[str]]:
    """Read the fields of a LoadData CSV.

    Parameters
    ----------
    path : Path
    here : sequence of Path
        Image files that are on this machine; a file that is not where the table says is looked for among them, by its
        name and then by the folders above it. Without them it is looked for beside the table.

    Returns
    -------
    list of Listed, list of str
        And what was left out, in sentences: rows none of whose files are there.

    Raises
    ------
    InputError
        If it cannot be read, or none of its files is there.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} cannot be read ({str(error).splitlines()[0]}).") from None
    table.columns = [str(c).strip().removeprefix("Image_") for c in table.columns]
    channels = _channels(table)
    if not channels or not len(table):
        raise InputError(
            f"{path.name} names no images; columns like FileName_DNA or URL_DNA are wanted, and a row per field."
        )
    # Where a column never says another series than the first, files hold one image.
    series = {c: table.get(f"Series_{column}", pd.Series(dtype=str)) for c, column in channels.items()}
    scenes = {c: said for c, said in series.items() if not said.str.strip().isin(["", "0"]).all()}
    by_name: dict[str, list[Path]] = {}
    for file in here:
        by_name.setdefault(file.name.casefold(), []).append(file)
    listed, lost, remote = [], [], []
    for at, record in enumerate(table.to_dict("records")):
        row = {str(k): str(v) for k, v in record.items()}
        files: dict[str, Path] = {}
        pages: dict[str, int] = {}
        for channel, column in channels.items():
            said = _said(row, column)
            if not said:
                continue
            files[channel] = _find(said, path.parent, by_name)
            if "://" in said and not files[channel].exists():
                remote.append(said)
            if (frame := row.get(f"Frame_{column}", "")).strip().isdigit():
                pages[channel] = int(frame)
        if not any(f.exists() for f in files.values()):
            lost.append(str(at + 2))
            continue
        folder = next(iter(files.values())).parent
        for channel in files.keys() & scenes.keys():
            number = row.get(f"Series_{channels[channel]}", "").strip() or "0"
            if number.isdigit():
                files[channel] = files[channel] / f"scene-{int(number) + 1}"
        listed.append(Listed(files, pages, _metadata(row), folder))
    where = (
        "give the folder where they are now, too"
        if not here
        else "none of the folders given has them, either"
    )
    if not listed:
        example = remote[0] if remote else next(iter(row.get(f"FileName_{c}", "") for c in channels.values()))
        raise InputError(
            f"None of the files that {path.name} names is there (such as {example}); "
            f"{'download them and ' if remote else ''}{where}."
        )
    notes = [f"The files of {counted(lost, 'row')} of {path.name} are not there; left out."] if lost else []
    return listed, notes


def _channels(table: pd.DataFrame) -> dict[str, str]:
    """The project's channel → the table's; illumination functions left out."""
    found: dict[str, str] = {}
    for column in table.columns:
        kind, _, name = str(column).partition("_")
        if kind not in ("FileName", "URL") or not name or name.startswith("Illum"):
            continue
        if table[column].str.lower().str.endswith(_NO_IMAGE).all():
            continue
        found.setdefault(name.removeprefix("Orig") or name, name)
    return found


def _said(row: Mapping[str, str], column: str) -> str:
    """Where the table says that a channel's file is."""
    name, folder = row.get(f"FileName_{column}", "").strip(), row.get(f"PathName_{column}", "").strip()
    if name:
        return f"{folder.rstrip('/')}/{name}" if folder else name
    return row.get(f"URL_{column}", "").strip()


def _find(said: str, beside: Path, by_name: Mapping[str, Sequence[Path]]) -> Path:
    """The file on this machine; where there is none, where the table says it is."""
    text = said.replace("\\", "/")
    if "://" in text or text.startswith("file:"):
        text = unquote(urlparse(text).path)
    path = Path(text)
    if (at := beside / path).is_file():  # an absolute path stays as it is
        return at
    parts = [p.casefold() for p in path.parts]
    candidates = by_name.get(path.name.casefold(), ())
    if candidates:
        return max(candidates, key=lambda p: shared_end([q.casefold() for q in p.parts], parts))
    for n in range(
        1, min(4, len(path.parts)) + 1
    ):  # "…/plate/Images/x.tif" where the table lies in one of them
        if (at := beside.joinpath(*path.parts[-n:])).is_file():
            return at
    return at if not path.is_absolute() else path


def _metadata(row: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for column, value in row.items():
        if column.startswith("Metadata_") and value.strip():
            name = column.removeprefix("Metadata_")
            low = name.lower()
            out[low if low in ("plate", "well", "site") else name] = value.strip()
    return out
