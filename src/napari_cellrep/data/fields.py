"""Fields of view: where their pixels are, what is known of them, which belong together."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.data.files import replacing
from napari_cellrep.data.images import Box, Plane, read_planes
from napari_cellrep.data.layouts import well_of
from napari_cellrep.specs import InputError

# Columns of fields.parquet that are ours; everything else in it is the user's metadata.
OWN_COLUMNS = ("field", "group", "planes", "height_px", "width_px", "dtype", "um_per_px", "stack", "problem")

# What fields of a project say that was shared without its images.
NOT_HERE = "Its images are not in this copy of the project, which was shared without them; `cellrep relocate` finds yours."

MAX_ID_BYTES = (
    180  # ids become file names, with a suffix and, while written, a prefix; 255 bytes is the limit
)


@dataclass(frozen=True)
class Field:
    """One field of view.

    Parameters
    ----------
    id : str
        Unique in the project, safe in file names: letters, digits, ``-``, ``_`` and ``.``.
    planes : tuple of Plane
        One per project channel, in the project's order.
    height_px, width_px, dtype
        Of the image.
    um_per_px : float
        Pixel size; 0 when unknown.
    group : str
        Fields of one group hold cells that count as alike (default: the well, else the field).
    metadata : mapping
        Whatever the lab knows: plate, well, compound, dose, …
    problem : str
        A sentence when the field cannot be used; "" when it can.
    stack : str
        What an axis is that the file does not name: "channel", "z" or "time".

    A time point of a time series is a field of its own, called ``<series>_t<frame>``, with ``frame`` among its metadata.
    """

    id: str
    planes: tuple[Plane, ...]
    height_px: int = 0
    width_px: int = 0
    dtype: str = ""
    um_per_px: float = 0.0
    group: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    stack: str = "channel"

    @property
    def series(self) -> str:
        """The time series that it is a frame of; "" for a field that is none."""
        frame = self.metadata.get("frame")
        match = re.fullmatch(r"(.+)_t(\d+)", self.id)
        if not match or not isinstance(frame, Real) or frame != int(match[2]):
            return ""
        return match[1]

    def cell_id(self, label: int) -> str:
        """What a cell is called in the whole project: ``<field>:<label>``, of a time series ``<series>:<frame>:<label>``."""
        if self.series:
            return f"{self.series}:{int(self.metadata['frame'])}:{label}"
        return f"{self.id}:{label}"

    def read(self, root: Path, box: Box | None = None, channels: Sequence[int] | None = None) -> np.ndarray:
        """Pixels as (C, H, W), in the files' dtype, or those of a part of the field, (C, h, w).

        Parameters
        ----------
        root : Path
            The project folder.
        box : Box, optional
            Only this part, which is not looked at for being empty.
        channels : sequence of int, optional
            Only these.
        """
        planes = self.planes if channels is None else [self.planes[i] for i in channels]
        try:
            image = read_planes(planes, root, stack=self.stack, box=box)
        except InputError as error:
            raise InputError(f"Field {self.id}: {error}") from error
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise InputError(f"Field {self.id} holds NaN or infinite values.")
        if box is None and all(plane.min() == plane.max() for plane in image):
            values = [plane.flat[0] for plane in image]
            what = "all black" if not any(values) else "empty"
            raise InputError(
                f"Field {self.id} is {what}: each channel has one value everywhere ({', '.join(map(str, values))})."
            )
        return image


def is_gone(field: Field) -> bool:
    """Whether a field's only problem is that its files are not where they were."""
    return field.problem == NOT_HERE or "is not there" in field.problem


def safe_id(text: str) -> str:
    """Make a field id of any text: what is not a letter, digit, ``-``, ``_`` or ``.`` becomes ``_``."""
    text = unicodedata.normalize("NFC", text)  # macOS hands out decomposed names
    text = re.sub(r"[^\w.-]", "_", text).strip("._") or "field"
    raw = text.encode()
    if len(raw) <= MAX_ID_BYTES:
        return text
    return raw[: MAX_ID_BYTES - 9].decode(errors="ignore") + f"_{zlib.crc32(raw):08x}"


def well_name(text: str) -> str:
    """Canonical well: "A1", "a001", "A-01", "A : 1" → "A01"; by numbers of row and column "1-1", "R1C1", "(1, 1)" → "A01".

    Text that is not a well comes back unchanged.
    """
    match = re.fullmatch(r"\s*([A-Za-z]{1,2})\s*[-_: ]?\s*0*(\d{1,2})\s*", str(text))
    if match:
        return f"{match[1].upper()}{int(match[2]):02d}"
    numbers = re.fullmatch(r"\s*(?:\(|[Rr])?0*([1-9]\d?)\s*[-_:,;Cc]\s*[Cc]?0*([1-9]\d?)\)?\s*", str(text))
    return (well_of(numbers[1], numbers[2]) if numbers else "") or str(text)


def with_groups(fields: Iterable[Field], by: Sequence[str] = ()) -> list[Field]:
    """Set the group of every field: the columns `by`, else plate and well, else its time series or the field itself.

    Raises
    ------
    InputError
        If a column of `by` is unknown.
    """
    fields = list(fields)
    known = {key for f in fields for key in f.metadata}
    for column in by:
        if column not in known:
            raise InputError(
                f"There is no column {column!r} to group by; columns are {', '.join(sorted(known)) or 'none'}."
            )
    columns = list(by) or [c for c in ("plate", "well") if c in known and (c == "well" or "well" in known)]

    def name(field: Field) -> str:
        parts = [str(field.metadata[c]) for c in columns if _has_value(field.metadata.get(c))]
        return " ".join(parts) if parts else field.series or field.id

    return [dataclasses.replace(f, group=name(f)) for f in fields]


def _has_value(value: Any) -> bool:
    return value is not None and value is not pd.NA and value == value and value != ""


def write_fields(path: Path, fields: Sequence[Field]) -> None:
    """Write the field list as parquet, by rename. Metadata stay numbers, truth values or text, with gaps."""
    table = pd.DataFrame({
        "field": [f.id for f in fields],
        "group": [f.group for f in fields],
        "planes": [json.dumps([dataclasses.astuple(p) for p in f.planes]) for f in fields],
        "height_px": np.array([f.height_px for f in fields], np.int64),
        "width_px": np.array([f.width_px for f in fields], np.int64),
        "dtype": [f.dtype for f in fields],
        "um_per_px": np.array([f.um_per_px for f in fields], np.float64),
        "stack": [f.stack for f in fields],
        "problem": [f.problem for f in fields],
    })  # fmt: skip
    for column in dict.fromkeys(key for f in fields for key in f.metadata):
        if column in OWN_COLUMNS:
            raise InputError(f"A field cannot have metadata called {column!r}; rename that column.")
        table[str(column)] = _one_type([f.metadata.get(column) for f in fields])
    with replacing(path) as tmp:
        table.to_parquet(tmp, index=False)


def _one_type(values: Sequence[Any]) -> pd.Series:
    """A column of one type, as parquet wants it; whole numbers stay whole beside gaps."""
    present = [v for v in values if _has_value(v)]
    values = [v if _has_value(v) else None for v in values]
    if present and all(isinstance(v, bool | np.bool_) for v in present):
        return pd.Series(values, dtype="boolean")
    numbers = present and all(isinstance(v, Real) and not isinstance(v, bool | np.bool_) for v in present)
    if numbers and all(isinstance(v, Integral) and -(2**63) <= int(v) < 2**63 for v in present):
        return pd.Series(values, dtype="Int64")
    if numbers:
        return pd.Series([np.nan if v is None else float(v) for v in values], dtype="float64")
    return pd.Series([None if v is None else str(v) for v in values], dtype=object)


def read_fields(path: Path) -> list[Field]:
    """Read what `write_fields` wrote."""
    try:
        table = pd.read_parquet(path)
        columns = [c for c in table.columns if c not in OWN_COLUMNS]
        return [
            Field(
                id=row["field"], planes=tuple(Plane(*p) for p in json.loads(row["planes"])),
                height_px=int(row["height_px"]), width_px=int(row["width_px"]), dtype=row["dtype"],
                um_per_px=float(row["um_per_px"]), group=row["group"], stack=row["stack"], problem=row["problem"],
                metadata={str(c): row[c] for c in columns if _has_value(row[c])},
            )
            for row in table.to_dict("records")
        ]  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path} is not there: the project has lost its list of fields.") from None
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
