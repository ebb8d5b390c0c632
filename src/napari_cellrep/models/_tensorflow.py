"""Weights out of TensorFlow checkpoints, without TensorFlow.

A checkpoint in format V2 is a prefix: ``<prefix>.index``, a LevelDB table of names, shapes and places, and one or more
``<prefix>.data-00000-of-00002`` of raw numbers (models.md §2.1). In format V1, which TensorFlow wrote before 1.0, it is
one such table with the numbers in it. Only numbers are read; nothing is run.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_cellrep.specs import InputError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48  # bytes: two block handles, padded, and the magic
_TRAILER = 5  # bytes after each block: how it is compressed, and its checksum
_LARGEST_INDEX = 64 * 2**20  # bytes; names and places of any real network are far below
_LARGEST_CHECKED = (
    2**18
)  # bytes of a block of weights whose checksum is reckoned; in Python it takes 0.1 s per MB
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorFlow's numbers of the types we read
_RAW_V1 = {"<f4": 5, "<f8": 6}  # type → the field of a TensorProto that has its values as plain bytes
_CONTENT_V1 = 4  # the field with the values of any type as plain bytes


@dataclass(frozen=True)
class Entry:
    """Where one variable lies.

    Parameters
    ----------
    dtype : str
        NumPy's name of the type; empty for a type we do not read (text, for example).
    shape : tuple of int
    shard : int
        Number of the data file.
    offset, size : int
        Bytes into the data file, and how many.
    whole : bool
        False where a variable is stored in slices.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    whole: bool


def index_file(path: Path) -> Path | None:
    """The ``.index`` file that a prefix, an ``.index`` file or a data file belongs to; None if there is none."""
    path = Path(path)
    stem = re.sub(r"(\.index|\.data-\d{5}-of-\d{5})$", "", path.name)
    index = path.with_name(f"{stem}.index")
    return index if index.is_file() else None


def read_index(path: Path) -> tuple[dict[str, Entry], list[Path]]:
    """Read what a checkpoint holds.

    Parameters
    ----------
    path : Path
        The prefix or one of the checkpoint's files.

    Returns
    -------
    entries : dict
        Variable's name → `Entry`.
    shards : list of Path
        The data files, whether they are there or not; `Entry.shard` counts in this list.

    Raises
    ------
    InputError
        If there is no index file, or it is damaged or of another kind.
    """
    index = index_file(path)
    if index is None and _is_table(Path(path)):
        return _read_v1(Path(path)), [Path(path)]
    if index is None:
        raise InputError(
            f"{path} is not a TensorFlow checkpoint: it is no file of format V1, and there is no .index file of format "
            "V2 beside it."
        )
    try:
        table = _read_table(index)
        header = dict(_fields(table.pop("")))
        entries = {name: _entry(value) for name, value in table.items()}
        n_shards = int(header[1])
        if n_shards > 99_999 or any(entry.shard >= n_shards for entry in entries.values()):
            raise ValueError("its data files are miscounted")
    except (ValueError, LookupError, TypeError, OSError, OverflowError) as error:
        raise InputError(f"{index} is not a readable TensorFlow checkpoint index ({error}).") from error
    if header.get(2, 0):
        raise InputError(
            f"{index} was written on a big-endian machine; write the checkpoint again on another."
        )
    return entries, [index.with_name(f"{index.stem}.data-{i:05d}-of-{n_shards:05d}") for i in range(n_shards)]


def variable_names(path: Path) -> set[str]:
    """Names of a checkpoint's variables; empty if it is none. Cheap for files of another kind."""
    try:
        index = index_file(path) or Path(path)
        return set(read_index(index)[0]) if _is_table(index) else set()
    except InputError:
        return set()


def read_variables(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read variables of a checkpoint, in TensorFlow's layout (kernels H, W, in, out; matrices in, out).

    Parameters
    ----------
    path : Path
        The prefix or one of the checkpoint's files.
    names : iterable of str

    Returns
    -------
    dict
        Name → ndarray.

    Raises
    ------
    InputError
        If a variable or a data file is missing, truncated, or of a type that is no number.
    """
    entries, shards = read_index(path)
    found = {}
    for name in names:
        if name not in entries:
            raise InputError(f"{path} has no variable {name}.")
        entry = entries[name]
        n = math.prod(entry.shape)
        if not entry.whole or not entry.dtype or entry.size != n * np.dtype(entry.dtype).itemsize:
            raise InputError(f"{path} has {name} in a form that is not read (sliced, or no plain numbers).")
        shard = shards[entry.shard]
        try:
            with shard.open("rb") as f:
                f.seek(0, 2)
                if f.tell() < entry.offset + entry.size:
                    raise InputError(
                        f"{shard} is truncated: {name} ends at byte {entry.offset + entry.size:,} of {f.tell():,}; "
                        "copy or download it again."
                    )
                f.seek(entry.offset)
                found[name] = np.frombuffer(f.read(entry.size), entry.dtype).reshape(entry.shape)
        except FileNotFoundError:
            raise InputError(
                f"{shard} is missing; a TensorFlow checkpoint is its .index file and all {len(shards)} data file(s) "
                "in one folder."
            ) from None
        except OSError as error:
            raise InputError(f"{shard} could not be read ({error}).") from error
    return found


# ---- the table -------------------------------------------------------------------------------------


def _is_table(path: Path) -> bool:
    """Whether a file ends as LevelDB tables do; looks at its last bytes only."""
    try:
        with path.open("rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - len(_MAGIC)))
            return f.read() == _MAGIC
    except OSError:
        return False


def _read_table(path: Path) -> dict[str, bytes]:
    """Key → value of a LevelDB table; ValueError or LookupError where it is damaged."""
    if path.stat().st_size > _LARGEST_INDEX:
        raise ValueError("it is too large for an index")
    data = path.read_bytes()
    return {key.decode(): data[start:end] for key, start, end in _entries(data)}


def _entries(data: bytes | mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Key, and where its value begins and ends, of everything in a LevelDB table."""
    if len(data) < _FOOTER or data[-len(_MAGIC) :] != _MAGIC:
        raise ValueError("the mark at its end is missing: truncated, or another kind of file")
    at = len(data) - _FOOTER
    for _ in range(2):  # skip the handle of the meta block, offset and size
        _, at = _varint(data, at)
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
    for _, handle, _ in _block(data, offset, size):
        start, at = _varint(data, handle)
        yield from _block(data, start, _varint(data, at)[0])


def _block(data: bytes | mmap.mmap, offset: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Entries of one block; a key repeats only what differs from the key before it."""
    end = offset + size
    if end + _TRAILER > len(data):
        raise ValueError("a block is cut off")
    if data[end]:
        raise ValueError("it is compressed, which TensorFlow does not do")
    if size <= _LARGEST_CHECKED:
        wanted = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
        if _masked_crc32c(data[offset : end + 1]) != wanted:
            raise ValueError("a checksum does not match")
    n_restarts = int.from_bytes(data[end - 4 : end], "little")
    last, at, key = end - 4 * (n_restarts + 1), offset, b""
    while at < last:
        n_shared, at = _varint(data, at)
        n_new, at = _varint(data, at)
        n_value, at = _varint(data, at)
        key = key[:n_shared] + data[at : at + n_new]
        at += n_new
        yield key, at, at + n_value
        at += n_value


# ---- format V1 -------------------------------------------------------------------------------------


def _read_v1(path: Path) -> dict[str, Entry]:
    """Where the variables of a checkpoint in format V1 lie in its one file.

    The entry without a key lists names, shapes, types and slices (SavedTensorSlices.meta); every other entry holds one
    slice of one variable (SavedTensorSlices.data: name, slice, TensorProto).
    """
    entries: dict[str, Entry] = {}
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for key, start, end in _entries(data):
                if key:  # sorted: what they are comes before where they are
                    name, at, size = _v1_values(data, start, end, entries)
                    entries[name] = dataclasses.replace(entries[name], offset=at, size=size)
                else:
                    meta = _span(data, start, end, 1)
                    tensors = [span for n, span in _spans(data, *meta) if n == 1 and isinstance(span, tuple)]
                    entries |= dict(_v1_entry(data[slice(*span)]) for span in tensors)
    except (ValueError, LookupError, TypeError, OSError, OverflowError) as error:
        raise InputError(f"{path} is not a readable TensorFlow checkpoint of format V1 ({error}).") from error
    return entries


def _v1_entry(message: bytes) -> tuple[str, Entry]:
    """Name, shape, type and number of slices of a variable: SavedSliceMeta."""
    fields = list(_fields(message))
    values: dict[int, Any] = dict(fields)
    whole = sum(number == 4 for number, _ in fields) <= 1
    return values[1].decode(), Entry(_DTYPES.get(values[3], ""), _shape(values.get(2, b"")), 0, 0, 0, whole)


def _v1_values(
    data: bytes | mmap.mmap, start: int, end: int, entries: dict[str, Entry]
) -> tuple[str, int, int]:
    """A slice's variable, and where its plain bytes begin and how many they are: SavedSlice."""
    one = _span(data, start, end, 2)
    name = data[slice(*_span(data, *one, 1))].decode()
    spans = dict(_spans(data, *_span(data, *one, 3)))
    for field in (_RAW_V1.get(entries[name].dtype, 0), _CONTENT_V1):
        place = spans.get(field)
        if isinstance(place, tuple):
            return name, place[0], place[1] - place[0]
    return name, 0, 0  # values packed one by one (whole numbers): none of ours


def _span(data: bytes | mmap.mmap, at: int, end: int, number: int) -> tuple[int, int]:
    """Where a field of bytes begins and ends; ValueError if it is not there."""
    for found, value in _spans(data, at, end):
        if found == number and isinstance(value, tuple):
            return value
    raise ValueError(f"field {number} is missing")


# ---- protobuf --------------------------------------------------------------------------------------


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where the next begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has no end")


def _spans(data: bytes | mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Fields of a protobuf message: number, and an integer or where its bytes begin and end."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == 2:
            n, at = _varint(data, at)
            if at + n > end:
                raise ValueError("a field is cut off")
            yield tag >> 3, (at, at + n)
            at += n
        elif kind in (1, 5):
            n = 8 if kind == 1 else 4
            yield tag >> 3, int.from_bytes(data[at : at + n], "little")
            at += n
        else:
            raise ValueError(f"a field has the unknown kind {kind}")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message: number, and an integer or bytes."""
    for number, value in _spans(message, 0, len(message)):
        yield number, value if isinstance(value, int) else message[slice(*value)]


def _shape(message: Any) -> tuple[int, ...]:
    """Sizes of a TensorShapeProto."""
    sizes = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(message) if n == 2 and isinstance(dim, bytes)]
    return tuple(int(size) for size in sizes)


def _entry(message: bytes) -> Entry:
    fields = list(_fields(message))
    values = dict(fields)
    number, shard, offset, size = (int(values.get(k, 0)) for k in (1, 3, 4, 5))
    whole = not any(n == 7 for n, _ in fields)  # field 7 lists slices
    return Entry(_DTYPES.get(number, ""), _shape(values.get(2, b"")), shard, offset, size, whole)


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as LevelDB stores it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
