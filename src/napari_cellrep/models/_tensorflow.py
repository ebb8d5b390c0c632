"""Weights out of TensorFlow checkpoints (format V2), without TensorFlow.

Such a checkpoint is a prefix: ``<prefix>.index``, a LevelDB table of names, shapes and places, and one or more
``<prefix>.data-00000-of-00002`` of raw numbers (models.md §2.1). Only numbers are read; nothing is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from napari_cellrep.specs import InputError

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48  # bytes: two block handles, padded, and the magic
_TRAILER = 5  # bytes after each block: how it is compressed, and its checksum
_LARGEST_INDEX = 64 * 2**20  # bytes; names and places of any real network are far below
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorFlow's numbers of the types we read


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
        raise InputError(
            f"{path} looks like a TensorFlow checkpoint in the older format V1, which is not read; restore it in "
            "TensorFlow and save it again (tf.compat.v1.train.Saver writes V2)."
        )
    if index is None:
        raise InputError(
            f"{path} is not a TensorFlow checkpoint: there is no .index file beside it; give the .index file of a "
            "checkpoint in format V2."
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
        index = index_file(path)
        return set(read_index(index)[0]) if index is not None and _is_table(index) else set()
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
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise ValueError("the mark at its end is missing: truncated, or another kind of file")
    at = len(data) - _FOOTER
    for _ in range(2):  # skip the handle of the meta block, offset and size
        _, at = _varint(data, at)
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
    table = {}
    for _, handle in _block(data, offset, size):
        start, at = _varint(handle, 0)
        for key, value in _block(data, start, _varint(handle, at)[0]):
            table[key.decode()] = value
    return table


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block; a key repeats only what differs from the key before it."""
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + _TRAILER]
    if len(block) != size or len(trailer) != _TRAILER:
        raise ValueError("a block is cut off")
    if trailer[0]:
        raise ValueError("it is compressed, which TensorFlow does not do")
    if _masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a checksum does not match")
    n_restarts = int.from_bytes(block[-4:], "little")
    end, at, key = size - 4 * (n_restarts + 1), 0, b""
    while at < end:
        n_shared, at = _varint(block, at)
        n_new, at = _varint(block, at)
        n_value, at = _varint(block, at)
        key = key[:n_shared] + block[at : at + n_new]
        yield key, block[at + n_new : at + n_new + n_value]
        at += n_new + n_value


def _varint(data: bytes, at: int) -> tuple[int, int]:
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


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a protobuf message: number, and an integer or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == 2:
            n, at = _varint(message, at)
            if at + n > len(message):
                raise ValueError("a field is cut off")
            yield tag >> 3, message[at : at + n]
            at += n
        elif kind in (1, 5):
            n = 8 if kind == 1 else 4
            yield tag >> 3, int.from_bytes(message[at : at + n], "little")
            at += n
        else:
            raise ValueError(f"a field has the unknown kind {kind}")


def _entry(message: bytes) -> Entry:
    fields = list(_fields(message))
    values = dict(fields)
    sizes = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(values.get(2, b"")) if n == 2]  # type: ignore[arg-type]
    number, shard, offset, size = (int(values.get(k, 0)) for k in (1, 3, 4, 5))
    whole = not any(n == 7 for n, _ in fields)  # field 7 lists slices
    return Entry(_DTYPES.get(number, ""), tuple(int(s) for s in sizes), shard, offset, size, whole)


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
