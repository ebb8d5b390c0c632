"""Sets of named items (genes, proteins, compounds) as databases hand them out: GMT, GAF, or a table of two columns."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from napari_cellrep.specs import InputError

_GAF_NAME, _GAF_TERM, _GAF_QUALIFIER, _GAF_ASPECT = 2, 4, 3, 8
ASPECTS = {"P": "biological process", "F": "molecular function", "C": "cellular component"}


def read_item_sets(path: Path | str, aspect: str = "") -> dict[str, list[str]]:
    """Read sets of items from a file.

    Parameters
    ----------
    path : Path
        ``.gmt`` (set, description, members, with tabs), ``.gaf`` (GO annotations; symbol and term; those that say NOT are left
        out), or a table ``.csv``, ``.tsv``, ``.txt`` whose first column is the item and the second its sets, several parted by
        ";". Each may be compressed (``.gz``).
    aspect : {"", "P", "F", "C"}
        Of a GAF file: biological process, molecular function, cellular component; "" takes all.

    Returns
    -------
    dict of str to list of str
        Members in the order of the file, each once.

    Raises
    ------
    InputError
        If the file is not there, of another kind, or holds no set.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file of sets at {path}.")
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if aspect not in ("", *ASPECTS):
        raise InputError(f"A GAF file's aspects are P, F and C; got {aspect!r}.")
    readers = {".gmt": _gmt, ".gaf": _gaf, ".csv": _table, ".tsv": _table, ".txt": _table}
    if kind not in readers:
        raise InputError(
            f"{path.name} is of no known kind; sets are read from .gmt, .gaf, .csv, .tsv and .txt (also .gz)."
        )
    try:
        opened = (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if suffixes[-1] == ".gz"
            else path.open(encoding="utf-8-sig")
        )
        with opened as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(
            f"{path.name} cannot be read ({type(error).__name__}); it has to be text in UTF-8."
        ) from None
    found: dict[str, dict[str, None]] = {}
    for name, member in readers[kind]([line for line in lines if line.strip()], aspect, path.name):
        if name and member:
            found.setdefault(name, {})[member] = None
    if not found:
        raise InputError(f"{path.name} holds no set with a member.")
    return {name: list(members) for name, members in found.items()}


def _gmt(lines: list[str], _aspect: str, name: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(lines, 1):
        parts = [p.strip() for p in line.split("\t")]
        if len(parts) < 3:
            raise InputError(
                f"Line {number} of {name} has {len(parts)} parts; in GMT a set has a name, a description, members."
            )
        pairs += [(parts[0], member) for member in parts[2:]]
    return pairs


def _gaf(lines: list[str], aspect: str, name: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.startswith("!"):
            continue
        parts = line.split("\t")
        if len(parts) <= _GAF_ASPECT:
            raise InputError(
                f"Line {number} of {name} has {len(parts)} columns; a GAF file has at least {_GAF_ASPECT + 1}."
            )
        if "NOT" not in parts[_GAF_QUALIFIER].split("|") and aspect in ("", parts[_GAF_ASPECT]):
            pairs.append((parts[_GAF_TERM].strip(), parts[_GAF_NAME].strip()))
    return pairs


def _table(lines: list[str], _aspect: str, name: str) -> list[tuple[str, str]]:
    separator = max("\t,;", key=lambda s: lines[0].count(s)) if lines else ","
    if lines and not lines[0].count(separator):
        raise InputError(f"{name} has one column; the first has to be the item, the second its sets.")
    rows = list(csv.reader(lines, delimiter=separator))
    pairs = []
    for row in rows[1:]:
        if len(row) >= 2:
            pairs += [(part.strip(), row[0].strip()) for part in row[1].split(";")]
    return pairs
