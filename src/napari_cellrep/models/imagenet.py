"""ImageNet networks: VGG16, EfficientNetB0 and InceptionV3 trained on photographs, one channel at a time. A baseline.

VGG16: Simonyan & Zisserman 2015, arXiv:1409.1556. As a baseline for cells: Lu et al. 2019,
doi:10.1371/journal.pcbi.1007348, who read layer block4_conv1 (its spatial maximum) of Keras's weights at 64 px.
Here: torchvision's published weights, under torchvision's names, read without torchvision; not distributed with us.
Differs: torchvision's own weights come with torchvision's normalisation, not Keras's; the original weights with their
original normalisation (``scaling="caffe"``) come nearest to the paper.

EfficientNetB0: Tan & Le 2019, arXiv:1905.11946. InceptionV3: Szegedy et al. 2016, arXiv:1512.00567. The networks are
those of the library pytorchcv (MIT), an optional extra (``pip install "napari-cellrep[imagenet]"``); its weights come
from its author's host. Each channel is enlarged to the side of the network's training (224, 299 px); the features are
the last map before the classifier, its mean (what the classifier gets) or its spatial maximum.
Differs: which of the two the papers pooled, and their weights (Keras's), are not in our notes.

Every channel is scaled from its own minimum to its maximum first.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
_PIXELS_AT_ONCE = 2**19  # bounds the memory, which grows with the channels

# Of the library, under its own names: module, side of the training's pictures, length of the vector, a tensor's name.
LIBRARY = {
    "efficientnet_b0b": ("efficientnet", 224, 1280, "features.final_block.conv.weight"),
    "inceptionv3": ("inceptionv3", 299, 2048, "features.init_block.conv5.conv.weight"),
}
POOLED = ("pooled", "pooled_max")  # mean and spatial maximum of their last map

_URL = "https://download.pytorch.org/models"
_LIBRARY_URL = "https://github.com/osmr/imgclsmob/releases/download"
_LICENCE = (
    "torchvision is under BSD-3-Clause; the weights have no licence of their own. They were trained on ImageNet, whose "
    "pictures are for non-commercial research and education. Downloaded from PyTorch's host, not distributed with this "
    "package."
)
_LIBRARY_LICENCE = (
    "The library pytorchcv is under MIT; {0}the weights have no licence of their own. They were trained on ImageNet, whose "
    "pictures are for non-commercial research and education. Downloaded from the library's author, not distributed with "
    "this package."
)
_EXTRA = 'pip install "napari-cellrep[imagenet]"'

SPEC = ModelSpec(
    name="imagenet",
    title="ImageNet network",
    roles=("protein",),
    crop=CropSpec(channels=("protein",)),
    paper=(
        "VGG16: Simonyan & Zisserman 2015, arXiv:1409.1556; EfficientNetB0: Tan & Le 2019, arXiv:1905.11946; InceptionV3: "
        "Szegedy et al. 2016, arXiv:1512.00567; as a baseline: Lu et al. 2019, doi:10.1371/journal.pcbi.1007348"
    ),
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
        Weights(
            "imagenet-efficientnet-b0", f"{_LIBRARY_URL}/v0.0.403/efficientnet_b0b-0702-ecf61b9b.pth.zip",
            _LIBRARY_LICENCE.format("its weights come from R. Wightman's pytorch-image-models (Apache-2.0); "),
            "", {"network": "efficientnet_b0b"},
            f"EfficientNetB0 trained on ImageNet photographs of 224 px, padded as TensorFlow does; 20 MB. "
            f"Needs {_EXTRA}",
            inside="efficientnet_b0b-0702-ecf61b9b.pth", check_inside="sha1:ecf61b9b50666a6b444a9d789a5ff1087c65d0d8",
        ),
        Weights(
            "imagenet-inception-v3", f"{_LIBRARY_URL}/v0.0.552/inceptionv3-0533-025fb71c.pth.zip",
            _LIBRARY_LICENCE.format("its weights were converted from a Gluon model; "),
            "", {"network": "inceptionv3"},
            f"InceptionV3 trained on ImageNet photographs of 299 px; 92 MB. Needs {_EXTRA}",
            inside="inceptionv3-0533-025fb71c.pth", check_inside="sha1:025fb71c673f8e325f4c24f25cbd4185540cca72",
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
    network : str
        "vgg16", or one of `LIBRARY`.
    scaling : str
        Normalisation the weights were trained with, one of `NORMALISATION`.
    width : float
        Width of every layer of VGG16 as a multiple of the paper's; the library's networks have one width.
    side_px : int
        Side that a crop is resized to; 0: VGG16's crops are taken as they are, the others get their training's side.
    """

    channels: Annotated[
        tuple[str, ...], {"label": "Channels", "help": "Names or roles; each is embedded by itself."}
    ] = ("protein",)
    network: Annotated[
        str,
        {
            "choices": ("vgg16", *LIBRARY),
            "label": "Network",
            "help": "VGG16 as in Paired Cell Inpainting's paper; the others need an extra, see the documentation.",
        },
    ] = "vgg16"
    scaling: Annotated[
        str,
        {
            "choices": tuple(NORMALISATION),
            "same_weights": True,
            "label": "Normalisation",
            "help": "That of the weights' training: torchvision's own, or the original paper's (caffe).",
        },
    ] = "torchvision"
    width: Annotated[
        float, {"min": 0.03, "max": 4, "step": 0.125, "label": "Width", "help": "1 is the paper's network."}
    ] = 1.0
    side_px: Annotated[
        int,
        {
            "min": 0,
            "max": 4096,
            "same_weights": True,
            "label": "Side (px)",
            "help": "Crops are resized to it; 0: the network's own.",
        },
    ] = 0


TINY = Config(width=0.125)
TINY_OTHERS = (  # the smallest picture each can take, or near it
    Config(network="efficientnet_b0b", side_px=32),
    Config(network="inceptionv3", side_px=75),
)


class Model(EmbeddingModel):
    """The layers of an ImageNet network up to its classifier; each channel of a cell is shown to it as a grey picture.

    Parameters
    ----------
    config : Config

    Raises
    ------
    InputError
        If the network is of the library and that is not installed.
    """

    spec = SPEC
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.set_channels(config.channels)
        self.widths: dict[str, int] = {}
        self._ends: dict[str, int] = {}  # VGG16's layer → index of its ReLU in `features`
        self.features: nn.Module
        if config.network in LIBRARY:
            self.features = _features_of_library(config)
            self.layers = POOLED
            self.widths = dict.fromkeys(POOLED, LIBRARY[config.network][2])
        else:
            self.features = self._vgg16(config)
        self.side_px = config.side_px or (LIBRARY[config.network][1] if config.network in LIBRARY else 0)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _vgg16(self, config: Config) -> nn.Module:
        layers: list[nn.Module] = []
        n_in = 3
        for i, name in enumerate(_CONVS):
            if name.endswith("conv1") and i:
                layers.append(nn.MaxPool2d(2))
            n_out = max(1, round([n for block in BLOCKS for n in block][i] * config.width))
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
            self._ends[name], self.widths[name], n_in = len(layers) - 1, n_out, n_out
        return nn.Sequential(*layers)  # torchvision's names: features.0.weight, …, features.28.bias

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
            Red, green and blue of the first channel, then of the next; a constant channel is a black picture. H and W
            are the crop's, or ``side_px``.
        """
        self.check_crops(crops)
        grey = (min_max(crops.to(torch.float32)) * 255).round() / 255
        if self.side_px:
            size = (self.side_px, self.side_px)
            grey = F.interpolate(
                grey, size=size, mode="bilinear", antialias=min(grey.shape[-2:]) > self.side_px
            )
        mean, sd = (crops.new_tensor(v, dtype=torch.float32) for v in NORMALISATION[self.config.scaling])
        colours = (grey[:, :, None] - mean[:, None, None]) / sd[:, None, None]  # (B, C, 3, H, W)
        return colours.flatten(1, 2)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """One vector per layer, channel after channel; stops at the deepest layer asked for.

        VGG16: the spatial maximum of each layer after its ReLU. The library's: mean or maximum of the last map.

        Parameters
        ----------
        x : Tensor of shape (B, 3·C, H, W)
            Preprocessed crops; H and W at least 2 to the power of the pools before the layer (8 for VGG16's block 4).
        layers : sequence of str
            Of `layers`.
        """
        for layer in layers:
            self.check_layer(layer)
        own = self.config.network in LIBRARY
        least = {"efficientnet_b0b": 1, "inceptionv3": 75}.get(self.config.network) or 2 ** (
            max(int(layer[5]) for layer in layers) - 1
        )
        if min(x.shape[-2:]) < least:
            raise InputError(
                f"This layer of {SPEC.title} ({self.config.network}) wants pictures of at least {least} px; these are "
                f"{x.shape[-2]} × {x.shape[-1]} px."
            )
        found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        at_once = max(1, _PIXELS_AT_ONCE // (x.shape[-2] * x.shape[-1]))
        for part in x.unflatten(1, (-1, 3)).flatten(0, 1).split(at_once):  # (B·C, 3, H, W)
            for layer, vectors in (self._pool_last(part) if own else self._pool_taps(part, layers)).items():
                if layer in found:
                    found[layer].append(vectors.float())
        return {k: torch.cat(v).unflatten(0, (len(x), -1)).flatten(1) for k, v in found.items()}

    def _pool_last(self, x: Tensor) -> dict[str, Tensor]:
        last = self.features(x)
        return {"pooled": last.mean(dim=(2, 3)), "pooled_max": last.amax(dim=(2, 3))}

    def _pool_taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        ends = {self._ends[layer]: layer for layer in layers}
        found = {}
        for i, module in enumerate(list(self.features.children())[: max(ends) + 1]):
            x = module(x)
            if i in ends:
                found[ends[i]] = x.amax(dim=(2, 3))
        return found


def _features_of_library(config: Config) -> nn.Module:
    """A network of pytorchcv without its last pooling and classifier."""
    try:  # the one module: the whole library would want torchvision
        module = importlib.import_module(f"pytorchcv.models.{LIBRARY[config.network][0]}")
    except ImportError as error:
        raise InputError(
            f"{config.network} comes from the library pytorchcv, which is not installed ({error}); install it with {_EXTRA}, "
            "or take vgg16, which needs none."
        ) from error
    if config.width != 1:
        raise InputError(f"{config.network} has one width; leave width at 1, or take vgg16.")
    net: Any = getattr(module, config.network)()
    del net.features.final_pool
    return net.features  # type: ignore[no-any-return]


# ---- torchvision's and the library's files ------------------------------------------------------------


def recognise(path: Path) -> bool:
    """Whether a file is a PyTorch file with one of the networks' layers: looks for their names, reads no objects."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(2**20)  # the names come first in both of PyTorch's formats
    except OSError:
        return False
    mine = b"features.26.weight" in head and b"features.28.weight" in head
    larger = b"features.34.weight" in head  # VGG19, and VGG16 with batch norm
    library = (
        any(name.encode() in head for *_, name in LIBRARY.values()) and b"features.init_block.conv" in head
    )
    return head[:2] in (b"PK", b"\x80\x02") and ((mine and not larger) or library)


def read_checkpoint(path: Path) -> Model:
    """Read torchvision's ``vgg16-….pth``, or pytorchcv's files of `LIBRARY`; the classifier in it is not used.

    VGG16's normalisation follows from the file: where the classifier is NaN or missing, the weights are the original
    ones.

    Raises
    ------
    InputError
        If the file is damaged, holds other objects than tensors, is of another network, or of one whose library is not
        installed.
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
    if isinstance(state, dict):
        for network, (*_, name) in LIBRARY.items():
            if name in state:
                return _read_library(state, network, path)
    first = state.get("features.0.weight") if isinstance(state, dict) else None
    if not isinstance(first, Tensor) or first.ndim != 4:
        raise InputError(
            f"{path} is not a file of VGG16 ({', '.join(LIBRARY)}): features.0.weight is missing."
        )
    last = state.get("classifier.6.bias")
    original = last is None or bool(torch.isnan(last).any())
    config = {"scaling": "caffe" if original else "torchvision", "width": first.shape[0] / BLOCKS[0][0]}
    model = Model(make_config(Config, config))
    _set_state(model, {k: v.float() for k, v in state.items() if k.startswith("features.")}, path)
    return model.eval()


def _read_library(state: dict[str, Any], network: str, path: Path) -> Model:
    if Path(path).name.startswith("efficientnet_b0-"):  # nothing in the file tells the two apart
        raise InputError(
            f"{path} has the layers of {network} but was trained with another padding; take the weights "
            "imagenet-efficientnet-b0."
        )
    model = Model(Config(network=network))
    mine = {k: v for k, v in state.items() if k.startswith("features.")}
    _set_state(model, {k: v.float() if v.is_floating_point() else v for k, v in mine.items()}, path)
    return model.eval()
