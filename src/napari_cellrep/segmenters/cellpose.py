"""Cellpose 4 (Cellpose-SAM) through its own API: the generalist for nuclei and whole cells, best on a GPU.

Paper: Pachitariu, Rariden & Stringer, "Cellpose-SAM: superhuman generalization for cellular segmentation",
bioRxiv (2025), doi:10.1101/2025.04.28.651001. Code: https://github.com/MouseLand/cellpose (BSD-3). Weights: fetched
by cellpose from its authors' host at the first use; they were trained on data under CC-BY-NC (not for commercial
use). An optional extra (``pip install "napari-cellrep[cellpose]"``); about 1.2 GB of weights, and tens of seconds
per 256 × 256 tile on a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from napari_cellrep.segmenters import Scales
from napari_cellrep.segmenters._blobs import drop_border, read_plane
from napari_cellrep.specs import Channel, InputError

# What may be used for what; shown beside the choice (`registry.describe`).
LICENCE = "Program: BSD-3. All weights were trained on data under CC-BY-NC: free for research, not for commercial use."
PACKAGE = "cellpose"  # what has to be installed besides this package …
INSTALL = 'pip install "napari-cellrep[cellpose]"'  # … and how
SLOW = "It takes tens of seconds for a field on a CPU."
MODELS = {
    "cpsam_v2": "Cellpose-SAM, second version: nuclei and whole cells. 1.2 GB, CC-BY-NC",
    "cpsam": "Cellpose-SAM, first version. 1.2 GB, CC-BY-NC",
    "cpdino": "Cellpose-DINO, large: needs Meta's dinov3 package. CC-BY-NC and DINOv3 licence",
    "cpdino-vitb": "Cellpose-DINO, smaller: needs Meta's dinov3 package. CC-BY-NC and DINOv3 licence",
}

_TILE_PX = 256  # of what the network sees at once
_DIAMETER_PX = 30.0  # of cells in it, where their diameter is given


@dataclass(frozen=True)
class Config:
    """Which model, in which channels, with which of cellpose's own settings."""

    cell_channels: Annotated[
        tuple[str, ...],
        {
            "label": "Channels",
            "help": "One to three names or roles; for whole cells for example protein,nucleus.",
        },
    ] = ("nucleus",)
    model: Annotated[
        str, {"label": "Model", "help": f"{', '.join(MODELS)}, or the path of a model trained with cellpose."}
    ] = "cpsam_v2"
    diameter_px: Annotated[
        float,
        {"min": 0.0, "max": 2000.0, "step": 1.0, "label": "Diameter (px)",
         "help": "The image is scaled so that this becomes 30 px; 0: it is taken as it is."},
    ] = 0.0  # fmt: skip
    flow_threshold: Annotated[
        float,
        {"min": 0.0, "max": 10.0, "step": 0.1, "label": "Flow threshold", "help": "Lower drops odd shapes."},
    ] = 0.4
    cellprob_threshold: Annotated[
        float,
        {"min": -10.0, "max": 10.0, "step": 0.5, "label": "Cell threshold", "help": "Lower finds more."},
    ] = 0.0
    min_area_px: Annotated[int, {"min": 0, "max": 10_000_000, "label": "Least area (px)"}] = 15
    batch_size: Annotated[int, {"min": 1, "max": 1024, "label": "Tiles at once"}] = 8
    drop_border: Annotated[bool, {"label": "Drop cells cut by the image's edge"}] = False


def segment(
    image: np.ndarray,
    channels: Sequence[Channel],
    config: Config,
    device: str = "cpu",
    field_id: str = "",
    scales: Scales | None = None,
) -> np.ndarray:
    """Outline the cells of one field with cellpose.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
        Pixel values as acquired, any dtype; cellpose scales each channel to its 1st and 99th percentile.
    channels : sequence of Channel
        What each plane shows.
    config : Config
    device : str, default "cpu"
        A torch device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU where there is one.
    field_id : str, default ""
        Not used.
    scales : Scales, optional
        Of the image that this is a part of: the percentiles are then those of `measure`.

    Returns
    -------
    ndarray of shape (H, W), int32
        Cellpose's masks; a constant image has none.

    Raises
    ------
    InputError
        If cellpose is not installed, its weights cannot be fetched, the device is not there, or a channel is
        missing; the sentence says what to do.
    """
    planes = _read_planes(image, channels, config)
    if planes.min() == planes.max():
        return np.zeros(planes.shape[:2], np.int32)  # cellpose would scale the noise of a rounding error up
    scaling: dict[str, Any] = {}
    if scales is not None:  # its own would be the part's
        measure(image, channels, config, scales)
        for i in range(planes.shape[-1]):
            low, high = scales.known[f"range {i}"]
            planes[..., i] = (planes[..., i] - low) / (high - low) if high - low > 1e-3 else 0
        scaling = {"normalize": {"normalize": False}}  # as a dict: False alone would stay for the next image
    masks = _model(config.model, device).eval(
        planes,
        channel_axis=-1,
        batch_size=config.batch_size,
        diameter=config.diameter_px or None,
        flow_threshold=config.flow_threshold,
        cellprob_threshold=config.cellprob_threshold,
        min_size=config.min_area_px,
        **scaling,
    )[0]
    labels = np.asarray(masks).astype(np.int32).reshape(planes.shape[:2])
    return drop_border(labels) if config.drop_border else labels


def measure(image: np.ndarray, channels: Sequence[Channel], config: Config, scales: Scales) -> None:
    """Note the brightness of each channel, and how far the network looks around a place: one of its tiles.

    Arguments are those of `segment`; the network is not run.
    """
    planes = _read_planes(image, channels, config)
    for i in range(planes.shape[-1]):
        scales.of(f"range {i}", partial(_low_and_high, planes[..., i]))
    scales.looks(_TILE_PX * (config.diameter_px or _DIAMETER_PX) / _DIAMETER_PX)


def _low_and_high(plane: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(plane, (1, 99))
    return float(low), float(high)


def _read_planes(image: np.ndarray, channels: Sequence[Channel], config: Config) -> np.ndarray:
    """The chosen channels, float32 (H, W, 1 to 3)."""
    if not 1 <= len(config.cell_channels) <= 3:
        raise InputError(f"Cellpose takes one to three channels; got {len(config.cell_channels)}.")
    return np.stack([read_plane(image, channels, name) for name in config.cell_channels], axis=-1)


ON_DEVICE = True  # runs on a graphics card, where there is one


def not_here(config: Config) -> str:
    """Why it cannot be tried at once, in a sentence: its weights would have to be fetched first; "" when it can."""
    models = _import_cellpose()
    if Path(config.model).is_file() or (Path(models.MODEL_DIR) / config.model).is_file():
        return ""
    return f"How long it takes is not known before cellpose's weights {config.model!r} are on this machine."


@lru_cache(maxsize=1)  # the network is a gigabyte: loaded once per process, not once per field
def _model(name: str, device: str) -> Any:
    models = _import_cellpose()
    import torch

    if name not in models.MODEL_NAMES and not Path(name).is_file():
        # cellpose would go on with its default model instead
        raise InputError(
            f"There is no cellpose model {name!r}; name a file, or one of {', '.join(models.MODEL_NAMES)}."
        )
    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        on = torch.device(device)
        torch.zeros(1, device=on)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Torch has no device {device!r} here ({_first_line(error)}); use cpu.") from error
    try:
        # bfloat16 is emulated, slowly, on most CPUs
        return models.CellposeModel(pretrained_model=name, device=on, use_bfloat16=on.type == "cuda")
    except OSError as error:  # no network, a refused download, a full disk: URLError is an OSError
        _remove_part(models, name)
        raise InputError(
            f"Cellpose's weights {name!r} could not be fetched or read ({_first_line(error)}); fetch them on a machine "
            f"with internet from {models._MODEL_URL}{name} into {models.MODEL_DIR} (trained on CC-BY-NC data: not "
            "for commercial use), or use the segmenter nuclei, which needs none."
        ) from error
    except Exception as error:
        raise InputError(f"{name} cannot be loaded as a cellpose model ({_first_line(error)}).") from error


def _import_cellpose() -> Any:
    """Import cellpose, also where torchvision was built for another torch."""
    try:
        with _quiet():
            _import_torchvision()
            from cellpose import models
    except ImportError as error:
        raise InputError(
            f'Cellpose is not installed or incomplete ({_first_line(error)}); install it with pip install "napari-'
            'cellrep[cellpose]" (its weights, fetched at the first use, were trained on CC-BY-NC data: not for '
            "commercial use), or use the segmenter nuclei."
        ) from error
    if not hasattr(models, "MODEL_NAMES"):
        raise InputError("This cellpose is older than 4.2; update it with pip install --upgrade cellpose.")
    return models


def _import_torchvision() -> None:
    """Import torchvision; a wheel built for CUDA beside a CPU torch lacks the operator it asks for at import.

    Cellpose needs torchvision only because segment-anything imports it; declaring the two schemas is enough for
    it to be imported (nobody calls them here), and nothing is done where torchvision imports as it is.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        schemas = torch.library.Library("torchvision", "FRAGMENT")
        schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(schemas)
        import torchvision  # type: ignore[import-not-found,unused-ignore] # noqa: F401


_KEPT: list[Any] = []  # a schema is gone when its library object is


@contextlib.contextmanager
def _quiet() -> Any:
    """Cellpose announces itself at import; that belongs in nobody's log."""
    logger = logging.getLogger("cellpose")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
        try:
            yield
        finally:
            logger.setLevel(level)


def _remove_part(models: Any, name: str) -> None:
    """Take away an empty file that an interrupted download left: it would pass for the weights next time."""
    path = Path(models.MODEL_DIR) / name
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
