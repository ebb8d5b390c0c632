"""ImageNet network: VGG16 trained on photographs, one channel at a time. A baseline, not a method.

Paper of the network: Simonyan & Zisserman 2015, arXiv:1409.1556. As a baseline for cells: Lu et al. 2019,
doi:10.1371/journal.pcbi.1007348, who read layer block4_conv1 (its spatial maximum) of Keras's weights at 64 px.
Here: torchvision's published weights, under torchvision's names, read without torchvision; not distributed with us.
Differs: torchvision's own weights come with torchvision's normalisation, not Keras's; the original weights with their
original normalisation (``scaling="caffe"``) come nearest to the paper. Every channel is scaled from its own minimum to
its maximum first. The papers' other networks (EfficientNetB0, InceptionV3) are left out.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from napari_cellrep.models._base import EmbeddingModel, _set_state
from napari_cellrep.models.paired_cell_inpainting import min_max
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, Weights, make_config

BLOCKS = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)  # convolutions between the pools
_CONVS = tuple(f"block{b}_conv{c}" for b, block in enumerate(BLOCKS, 1) for c in range(1, len(block) + 1))
BEST = "block4_conv1"  # models.md §1.7

# Mean and standard deviation of red, green and blue photographs from 0 to 1, as torchvision gives them with the weights.
NORMALISATION = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}
_IMAGES_AT_ONCE = 128  # bounds the memory, which grows with the channels

_URL = "https://download.pytorch.org/models"
_LICENCE = (
    "torchvision is under BSD-3-Clause; the weights have no licence of their own. They were trained on ImageNet, whose "
    "pictures are for non-commercial research and education. Downloaded from PyTorch's host, not distributed with this "
    "package."
)

SPEC = ModelSpec(
    name="imagenet",
    title="ImageNet VGG16",
    roles=("protein",),
    crop=CropSpec(channels=("protein",)),
    paper="Simonyan & Zisserman 2015, arXiv:1409.1556; as a baseline: Lu et al. 2019, doi:10.1371/journal.pcbi.1007348",
    licence=_LICENCE,
    when=(
        "As a baseline, or a first look without any training: features of photographs, any channels, each seen by "
        "itself. Networks that were trained on cells tell them apart better."
    ),
    layers=(BEST, *(name for name in _CONVS if name != BEST)),
    weights=(
        Weights(
            "imagenet-vgg16", f"{_URL}/vgg16-397923af.pth", _LICENCE,
            "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", {"scaling": "torchvision"},
            "torchvision's IMAGENET1K_V1, trained on ImageNet: 1.2 million colour photographs of 224 px; 528 MB.",
        ),
        Weights(
            "imagenet-vgg16-original", f"{_URL}/vgg16_features-amdegroot-88682ab5.pth", _LICENCE,
            "", {"scaling": "caffe"},
            "torchvision's IMAGENET1K_FEATURES, trained on ImageNet with the original paper's normalisation, as Keras's "
            "are; ported from amdegroot/ssd.pytorch; 528 MB.",
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What the network is, and what it is shown.

    Parameters
    ----------
    channels : tuple of str
        Channel names or roles, in the order of the crop's planes. The weights do not depend on them.
    scaling : str
        Normalisation the weights were trained with, one of `NORMALISATION`.
    width : float
        Width of every layer as a multiple of the paper's.
    """

    channels: Annotated[
        tuple[str, ...], {"label": "Channels", "help": "Names or roles; each is embedded by itself."}
    ] = ("protein",)
    scaling: Annotated[
        str,
        {
            "choices": tuple(NORMALISATION),
            "label": "Normalisation",
            "help": "That of the weights' training: torchvision's own, or the original paper's (caffe).",
        },
    ] = "torchvision"
    width: Annotated[
        float, {"min": 0.03, "max": 4, "step": 0.125, "label": "Width", "help": "1 is the paper's network."}
    ] = 1.0


TINY = Config(width=0.125)


class Model(EmbeddingModel):
    """The convolutions of VGG16; each channel of a cell is shown to it as a grey picture.

    Parameters
    ----------
    config : Config
    """

    spec = SPEC
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.set_channels(config.channels)
        self.widths: dict[str, int] = {}
        self._ends: dict[str, int] = {}  # layer → index of its ReLU in `features`
        layers: list[nn.Module] = []
        n_in = 3
        for i, name in enumerate(_CONVS):
            if name.endswith("conv1") and i:
                layers.append(nn.MaxPool2d(2))
            n_out = max(1, round([n for block in BLOCKS for n in block][i] * config.width))
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
            self._ends[name], self.widths[name], n_in = len(layers) - 1, n_out, n_out
        self.features = nn.Sequential(*layers)  # torchvision's names: features.0.weight, …, features.28.bias
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def set_channels(self, channels: Sequence[str]) -> None:
        """Take other channels, in any number: the weights stay as they are.

        Parameters
        ----------
        channels : sequence of str
            Names or roles, in the order of the crop's planes.
        """
        if not channels:
            raise InputError(f"{SPEC.title} needs at least one channel.")
        self.config = replace(self.config, channels=tuple(channels))
        self.roles = self.config.channels
        self.crop = replace(self.crop, channels=self.roles)

    def dim(self, layer: str | None = None) -> int:
        """Channels of the layer, times the crop's channels."""
        return self.widths[self.check_layer(layer)] * len(self.roles)

    def preprocess(self, crops: Tensor) -> Tensor:
        """Scale each channel to an 8-bit grey picture, then as the photographs of the training.

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            In any dtype.

        Returns
        -------
        Tensor of shape (B, 3·C, H, W), float32
            Red, green and blue of the first channel, then of the next; a constant channel is a black picture.
        """
        self.check_crops(crops)
        grey = (min_max(crops.to(torch.float32)) * 255).round() / 255
        mean, sd = (crops.new_tensor(v, dtype=torch.float32) for v in NORMALISATION[self.config.scaling])
        colours = (grey[:, :, None] - mean[:, None, None]) / sd[:, None, None]  # (B, C, 3, H, W)
        return colours.flatten(1, 2)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Spatial maximum of each layer after its ReLU, channel after channel; stops at the deepest one asked for.

        Parameters
        ----------
        x : Tensor of shape (B, 3·C, H, W)
            Preprocessed crops; H and W at least 2 to the power of the pools before the layer (8 for block 4).
        layers : sequence of str
            Of `layers`.
        """
        ends = {self._ends[self.check_layer(layer)]: layer for layer in layers}
        least = 2 ** (max(int(layer[5]) for layer in layers) - 1)
        if min(x.shape[-2:]) < least:
            raise InputError(
                f"This layer of {SPEC.title} wants crops of at least {least} px; these are {x.shape[-2]} × {x.shape[-1]} px."
            )
        steps = list(self.features.children())[: max(ends) + 1]
        found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for part in x.unflatten(1, (-1, 3)).flatten(0, 1).split(_IMAGES_AT_ONCE):  # (B·C, 3, H, W)
            for i, module in enumerate(steps):
                part = module(part)
                if i in ends:
                    found[ends[i]].append(part.amax(dim=(2, 3)).float())
        return {k: torch.cat(v).unflatten(0, (len(x), -1)).flatten(1) for k, v in found.items()}


# ---- torchvision's files ----------------------------------------------------------------------------


def recognise(path: Path) -> bool:
    """Whether a file is a PyTorch file with VGG16's layers: looks for their names, reads no objects."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(2**20)  # the names come first in both of PyTorch's formats
    except OSError:
        return False
    mine = b"features.26.weight" in head and b"features.28.weight" in head
    larger = b"features.34.weight" in head  # VGG19, and VGG16 with batch norm
    return head[:2] in (b"PK", b"\x80\x02") and mine and not larger


def read_checkpoint(path: Path) -> Model:
    """Read torchvision's ``vgg16-….pth``; the classifier in it is not used.

    The normalisation follows from the file: where the classifier is NaN or missing, the weights are the original ones.

    Raises
    ------
    InputError
        If the file is damaged, holds other objects than tensors, or is of another network.
    """
    try:
        with warnings.catch_warnings():  # torch warns of pickles that it then refuses
            warnings.simplefilter("ignore")
            state: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} was not opened: it is damaged, or holds Python objects that could run code when they are read."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a whole PyTorch file; download it again.") from error
    first = state.get("features.0.weight") if isinstance(state, dict) else None
    if not isinstance(first, Tensor) or first.ndim != 4:
        raise InputError(f"{path} is not a VGG16 file: features.0.weight is missing.")
    last = state.get("classifier.6.bias")
    original = last is None or bool(torch.isnan(last).any())
    config = {"scaling": "caffe" if original else "torchvision", "width": first.shape[0] / BLOCKS[0][0]}
    model = Model(make_config(Config, config))
    _set_state(model, {k: v.float() for k, v in state.items() if k.startswith("features.")}, path)
    return model.eval()
