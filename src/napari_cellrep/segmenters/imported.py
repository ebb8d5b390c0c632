"""Labels the user brings: from Cellpose, StarDist, CellProfiler, Fiji or by hand, one TIFF or PNG per field."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import tifffile
from scipy import ndimage

from napari_cellrep.segmenters._blobs import check_image, drop_border
from napari_cellrep.specs import Channel, InputError

RELABEL = ("auto", "always", "never")


@dataclass(frozen=True)
class Config:
    """Where the labels are."""

    pattern: Annotated[
        str,
        {"label": "Files",
         "help": "Path of the label images with {field} for the field's id: /masks/{field}_mask.png. * is any text."},
    ] = ""  # fmt: skip
    relabel: Annotated[
        str,
        {"choices": RELABEL, "label": "Number the pieces",
         "help": "auto: a black-and-white mask is numbered piece by piece; numbered labels stay as they are."},
    ] = "auto"  # fmt: skip
    min_area_px: Annotated[int, {"min": 0, "max": 10_000_000, "label": "Least area (px)"}] = 0
    drop_border: Annotated[bool, {"label": "Drop cells cut by the image's edge"}] = False


def segment(
    image: np.ndarray, channels: Sequence[Channel], config: Config, device: str = "cpu", field_id: str = ""
) -> np.ndarray:
    """Read the labels of one field.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        The field; only its size is looked at.
    channels : sequence of Channel
        What each plane shows.
    config : Config
    device : str, default "cpu"
        Not used.
    field_id : str, default ""
        Put in the place of ``{field}`` in the pattern.

    Returns
    -------
    ndarray of shape (H, W), int32
        The numbers of the file; those of a numbered mask may have gaps.

    Raises
    ------
    InputError
        If the file is missing, not one file, not a label image, or of another size than the field.
    """
    check_image(image, channels)
    path = find_file(config.pattern, field_id)
    labels = read_labels(path)
    if labels.shape != image.shape[1:]:
        (h, w), (fh, fw) = labels.shape, image.shape[1:]
        raise InputError(f"{path.name} is {w}×{h} px and field {field_id or 'of the image'} is {fw}×{fh} px.")
    values = np.unique(labels)
    binary = len(values[values != 0]) == 1 and int(values.max()) in (1, 255, 65535)
    if config.relabel == "always" or (config.relabel == "auto" and binary):
        labels = ndimage.label(labels > 0)[0]
    if config.min_area_px and labels.any():
        found, inverse, area = np.unique(labels, return_inverse=True, return_counts=True)
        labels = np.where(area >= config.min_area_px, found, 0)[inverse].reshape(labels.shape)
    labels = labels.astype(np.int32)
    return drop_border(labels, numbers_stay=True) if config.drop_border else labels


def find_file(pattern: str, field_id: str) -> Path:
    """Return the one file that `pattern` means for a field.

    Raises
    ------
    InputError
        If the pattern is empty, needs a field id that is not given, or means no file or several.
    """
    if not pattern:
        raise InputError(
            "Say where the labels are with the setting pattern, for example /masks/{field}_mask.png ({field} is "
            "the field's id)."
        )
    if "{field}" in pattern and not field_id:
        raise InputError(f"The pattern {pattern!r} needs the field's id in the place of {{field}}.")
    text = str(Path(pattern).expanduser())
    plain = Path(text.replace("{field}", field_id))
    if plain.is_file():  # a name may itself hold brackets
        return plain
    found = sorted(glob.glob(text.replace("{field}", glob.escape(field_id)), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    if len(found) != 1:
        number = f"{len(found)} files" if found else "no file"
        raise InputError(
            f"The pattern {pattern!r} means {number} for field {field_id!r}; it has to mean one."
        )
    return Path(found[0])


def read_labels(path: Path) -> np.ndarray:
    """Read a label image.

    Returns
    -------
    ndarray of shape (H, W), int64

    Raises
    ------
    InputError
        If it cannot be read, is a colour picture, has several planes, or holds other than whole numbers from 0.
    """
    try:
        labels = tifffile.imread(path) if path.suffix.lower() in (".tif", ".tiff") else iio.imread(path)
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as a label image ({error}).") from error
    labels = np.asarray(labels)
    if labels.ndim == 3 and labels.shape[-1] in (3, 4) and (labels[..., :3] == labels[..., :1]).all():
        labels = labels[..., 0]  # a grey mask saved as RGB
    labels = labels.squeeze()
    if not labels.size:
        raise InputError(f"{path.name} cannot be read as a label image (it holds no pixels); save it again.")
    if labels.ndim != 2:
        raise InputError(
            f"{path.name} has the shape {labels.shape}; a label image has one plane of numbers, no colours."
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if (
        labels.dtype.kind not in "uib"
        or labels.min(initial=0) < 0
        or labels.max(initial=0) > np.iinfo(np.int32).max
    ):
        raise InputError(
            f"{path.name} ({labels.dtype}, {labels.min()} to {labels.max()}) is no label image: whole numbers, "
            "0 for background, one number per cell."
        )
    return labels.astype(np.int64)
