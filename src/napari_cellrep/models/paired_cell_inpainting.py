"""Paired Cell Inpainting: predict a cell's protein from its structure and from another cell of the same group.

Paper: Lu, Kraus, Cooper & Moses, "Learning unsupervised feature representations for single cell microscopy
images with paired cell inpainting", PLoS Computational Biology (2019), doi:10.1371/journal.pcbi.1007348.
Network and training after the paper and the authors' repository (GPL-2.0, alexxijielu/paired_cell_inpainting),
written anew; their published Keras weights can be read. Differs: any number of protein and structure channels;
a constant channel becomes 0 instead of NaN; one sampler, so that an epoch is exactly one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cellrep.models import _keras
from napari_cellrep.models._augment import random_flips, random_gamma, random_noise, random_transpose
from napari_cellrep.models._base import (
    EmbeddingModel,
    HeldOut,
    Keep,
    MaxSeconds,
    MaxSteps,
    Patience,
    Seed,
    Width,
)
from napari_cellrep.models._published import starter
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, Preset, Weights

# Published widths (models.md §1.1), and whether the layer is followed by a 2×2 max pool.
_SOURCE = {
    "conv1_1": (96, True),
    "conv2_1": (256, True),
    "conv3_1": (384, False),
    "conv4_1": (384, False),
    "conv5_1": (256, False),
}
_MARKER = {"rfpconv1_1": (16, True), "rfpconv2_1": (32, True), "rfpconv3_1": (32, False)}
_DECODER = {"conv6_1": 256, "conv7_1": 384, "conv8_1": 384, "conv9_1": 256, "conv10_1": 96}
_UPSAMPLED = ("conv9_1", "conv10_1")  # layers whose input is doubled first

_BN_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}

# Order in which the authors' code makes its batch norms; Keras numbers them so (models.md §1.2).
_BN_ORDER = ("conv1_1", "conv2_1", "rfpconv1_1", "rfpconv2_1", "conv3_1", "conv4_1", "conv5_1", "rfpconv3_1")

_REPO = "https://raw.githubusercontent.com/alexxijielu/paired_cell_inpainting/f9d758315f99b1d680718ad186c26a41fbd7922b"
_LICENCE = (
    "The authors' repository is under the GNU General Public License 2.0; the weights in it have no licence of "
    "their own. They are downloaded from there, not distributed with this package."
)

# Training on hundreds to some ten thousand cells; the autoencoder's too.
FEW_CELLS = {
    "epochs": 60, "batch_size": 32, "learning_rate": 1e-3, "settle_norm": True, "keep": "val_knn", "patience": 15,
}  # fmt: skip

SPEC = ModelSpec(
    name="paired_cell_inpainting",
    title="Paired Cell Inpainting",
    roles=("protein", "structure"),
    crop=CropSpec(size_px=64, window_px=64, channels=("protein", "structure")),
    paper="Lu et al. 2019, PLoS Computational Biology, doi:10.1371/journal.pcbi.1007348",
    licence="Method published in PLoS Computational Biology (CC BY 4.0); published weights under GPL-2.0.",
    when=(
        "One protein channel and at least one structural channel (nucleus, cytosol, microtubules), many cells per "
        "well or protein. Learns on your own images without labels, also on a CPU."
    ),
    layers=("conv4_1", "conv3_1", "conv1_1", "conv2_1", "conv5_1"),
    trains=True,
    presets=(
        Preset(
            "small",
            "For hundreds to some ten thousand cells; ours, not the paper's: "
            "a larger learning rate for fewer steps, cells turned and their contrast and noise varied, batch norm settled, "
            "and the epoch kept whose held-out cells lie best among their own group.",
            {**FEW_CELLS, "transpose": True, "gamma": 0.5, "noise": 0.1},
        ),
    ),
    weights=(
        Weights(
            "pci-yeast", f"{_REPO}/yeast_model/pretrained_weights/model_weights.h5", _LICENCE,
            "git:21029d9a1187f7199b0a89df95093f9656c01240", {"n_protein": 1, "n_structure": 1, "recipe": "yeast"},
            "Yeast WT2 collection: GFP-tagged protein, RFP cytosol marker; 64 px crops. Sampling not stated.",
        ),
        Weights(
            "pci-human", f"{_REPO}/human_model/pretrained_weights/model_weights.h5", _LICENCE,
            "git:6bcdc197d56ed36d491e12430dc91f88d1bcc91e", {"n_protein": 1, "n_structure": 2, "recipe": "human"},
            "Human Protein Atlas v18: antibody, nucleus, microtubules; 512 px of the original image seen at 64 px. "
            "Sampling not stated.",
            roles=("protein", "nucleus", "microtubules"),
        ),
        Weights(
            "pci-human-filtered", f"{_REPO}/human_model/pretrained_weights/filtered_model_weights.h5", _LICENCE,
            "git:0d3bf36baf7708f4ac0ba290108cc79dda696503", {"n_protein": 1, "n_structure": 2, "recipe": "human"},
            "As pci-human, trained without variable proteins; better features according to the authors.",
            roles=("protein", "nucleus", "microtubules"),
        ),
        starter("pci-starter", {"width": 0.125}),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What the network is.

    Parameters
    ----------
    n_protein, n_structure : int
        Channels in: the protein(s) of interest, then those that show the cell.
    width : float
        Width of every layer as a multiple of the paper's.
    recipe : str
        Scaling of the crops. "yeast": every channel from its own minimum to its maximum. "human": the protein so,
        structure channels from 0.05 to 1 of full scale, and crops of 128 px are halved (models.md §1.3). "together",
        ours and not the paper's: every channel from its own minimum, all of a crop by the range of the widest one.
    full_scale : float
        Pixel value that counts as 1 in the human recipe; 0: the largest value of an integer type, and 1 for floats.
    """

    n_protein: Annotated[int, {"min": 1, "max": 8, "label": "Protein channels"}] = 1
    n_structure: Annotated[int, {"min": 1, "max": 8, "label": "Structure channels"}] = 1
    width: Width = 1.0
    recipe: Annotated[
        str,
        {
            "choices": ("yeast", "human", "together"),
            "same_weights": True,
            "label": "Scaling",
            "help": "yeast: every channel min to max, so that only the pattern counts; human: structure channels on a fixed "
            "scale; together (ours, not the paper's): all channels of a cell on one scale, so that how much protein there "
            "is beside the structure counts too, whatever the exposure. Train with the scaling you embed with.",
        },
    ] = "yeast"
    full_scale: Annotated[
        float,
        {
            "min": 0,
            "max": 1e9,
            "step": 1,
            "same_weights": True,
            "label": "Full scale (human)",
            "help": "Pixel value that counts as 1; 4095 for a 12-bit camera; 0: the file type's largest.",
        },
    ] = 0.0


TINY = Config(width=0.125)


@dataclass(frozen=True)
class Training:
    """How it is trained (models.md §1.6)."""

    epochs: Annotated[
        int, {"min": 1, "max": 10_000, "label": "Epochs", "help": "Passes over all cells; the paper has 30."}
    ] = 30
    batch_size: Annotated[
        int,
        {
            "min": 1,
            "max": 4096,
            "label": "Batch size",
            "help": "Pairs of cells per step; less needs less memory.",
        },
    ] = 64
    learning_rate: Annotated[float, {"min": 1e-7, "max": 1.0, "step": 1e-5, "label": "Learning rate"}] = 1e-4
    beta1: Annotated[
        float,
        {"min": 0.0, "max": 0.999, "step": 0.05, "label": "Adam β1", "help": "The authors' code has 0.5."},
    ] = 0.5
    flips: Annotated[
        bool, {"label": "Flip cells", "help": "Mirror source and target at random, each by itself."}
    ] = True
    transpose: Annotated[
        bool,
        {
            "label": "Quarter turns",
            "help": "Ours, not the paper's: swap rows and columns at random, too, so that cells are shown in all eight ways.",
        },
    ] = False
    gamma: Annotated[
        float,
        {
            "min": 0.0,
            "max": 4.0,
            "step": 0.1,
            "label": "Vary contrast",
            "help": "Ours, not the paper's: what the network sees is raised to a power from 1 / (1 + this) to 1 + this, each "
            "channel by itself; what it has to predict stays.",
        },
    ] = 0.0
    noise: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "label": "Noise",
            "help": "Ours, not the paper's: normal noise on the protein it sees, up to this part of its range.",
        },
    ] = 0.0
    seed: Seed = 0
    min_cells: Annotated[
        int,
        {
            "min": 2,
            "max": 1_000_000,
            "label": "Cells per group, at least",
            "help": "Smaller groups are left out; the paper has 30 for yeast and 5 for human cells.",
        },
    ] = 2
    balanced: Annotated[
        bool,
        {
            "label": "Draw groups evenly",
            "help": "Every group comes equally often in an epoch, small ones repeated, instead of every cell once.",
        },
    ] = False
    settle_norm: Annotated[
        bool,
        {
            "label": "Settle batch norm",
            "help": "Ours, not the paper's: after a run of under 1,000 steps the running means of batch norm still "
            "remember the start; they are measured again on the training cells.",
        },
    ] = False
    held_out: HeldOut = 0.1
    keep: Keep = "last"
    patience: Patience = 0
    max_steps: MaxSteps = 0
    max_seconds: MaxSeconds = 0.0


def widths(width: float) -> dict[str, int]:
    """Channels out of every layer but the last, for a width as a multiple of the paper's."""
    full = {k: v[0] for k, v in (_SOURCE | _MARKER).items()} | _DECODER
    return {name: max(1, round(n * width)) for name, n in full.items()}


class EncoderDecoder(EmbeddingModel):
    """Source encoder and decoder, scaling and tap points: what the `autoencoder` shares.

    Parameters
    ----------
    config : Config

    Attributes
    ----------
    branches : tuple
        The stacks of convolutions that are made, in this order.
    """

    branches: ClassVar[tuple[Mapping[str, Any], ...]] = (_SOURCE, _DECODER)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        human = config.recipe == "human"
        self.roles = ("protein",) * config.n_protein + ("structure",) * config.n_structure
        # Human crops are halved in `preprocess`, where the pixels still have the file's type and so its full scale.
        side = 128 if human else 64
        self.crop = replace(self.spec.crop, size_px=side, window_px=side, channels=self.roles)
        best = "conv3_1" if human else "conv4_1"  # models.md §1.4
        self.layers = (best, *(name for name in self.spec.layers if name != best))

        self.widths = widths(config.width)
        ins = {"conv1_1": config.n_protein + config.n_structure, "rfpconv1_1": config.n_structure}
        ins["conv6_1"] = self.widths["conv5_1"] + self.widths["rfpconv3_1"] * (_MARKER in self.branches)
        for branch in self.branches:
            before = 0
            for name in branch:
                n_in, before = ins.get(name, before), self.widths[name]
                self.add_module(name, nn.Conv2d(n_in, before, 3, padding=1))
                if branch is not _DECODER:
                    self.add_module(f"bn_{name}", nn.BatchNorm2d(before, eps=1e-3, momentum=0.01))
        self.y_gfp = nn.Conv2d(self.widths["conv10_1"], config.n_protein, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # Keras's defaults
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def dim(self, layer: str | None = None) -> int:
        """Channels of the layer."""
        return self.widths[self.check_layer(layer)]

    def preprocess(self, crops: Tensor) -> Tensor:
        """Scale raw crops to [0, 1], each channel of each crop by itself (models.md §1.3).

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            Protein channels first, then structure, in any dtype.

        Returns
        -------
        Tensor of shape (B, C, H, W), float32
            (B, C, 64, 64) from (B, C, 128, 128) in the human recipe. A constant channel is 0.
        """
        self.check_crops(crops)
        x = crops.to(torch.float32)
        if self.config.recipe != "human":
            return min_max(x, together=self.config.recipe == "together")
        if x.shape[-1] == x.shape[-2] == 128:
            x = F.avg_pool2d(x, 2)  # equals the authors' resize
        full = self.config.full_scale
        if not full:
            full = (
                1.0
                if crops.is_floating_point() or crops.dtype == torch.bool
                else torch.iinfo(crops.dtype).max
            )
            if full == 1.0 and len(x) and float(x.nan_to_num(0.0).amax()) > 1:
                raise InputError(
                    "The human recipe has fixed thresholds and wants pixels of an integer type, or floats from 0 to "
                    f"1; these reach {float(x.nan_to_num(0.0).amax()):g}. Set full_scale to the value that counts as "
                    "1 (255, 4095, 65535), or use the yeast recipe."
                )
        n = self.config.n_protein
        structure = ((x[:, n:] / full).clamp(0.05, 1.0) - 0.05) / 0.95
        return torch.cat([min_max(x[:, :n]), structure], dim=1)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Spatial maximum of each layer after its ReLU and before its batch norm; stops at the deepest one asked for.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops, H and W at least 4.
        layers : sequence of str
            Of `layers`.
        """
        wanted = {self.check_layer(layer) for layer in layers}
        self._check_size(x, 4, 1)
        found: dict[str, Tensor] = {}
        for name, (_, pooled) in _SOURCE.items():
            x = F.relu(self.get_submodule(name)(x))
            if name in wanted:
                found[name] = x.amax(dim=(2, 3)).float()  # (B, dim)
            if len(found) == len(wanted):
                break
            x = self.get_submodule(f"bn_{name}")(x)
            x = F.max_pool2d(x, 2) if pooled else x
        return {layer: found[layer] for layer in layers}

    def augment(
        self, batch: Mapping[str, Tensor], training: Any, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Mirror cells, sources and targets each by themselves (models.md §1.6)."""
        return {k: random_flips(x, generator) if training.flips else x for k, x in batch.items()}

    def encode(self, x: Tensor, branch: Mapping[str, tuple[int, bool]] = _SOURCE) -> Tensor:
        """Code (B, ·, H/4, W/4) of preprocessed crops (B, C, H, W), of the source encoder unless another is named."""
        self._check_size(x, 4, 4)
        for name, (_, pooled) in branch.items():
            x = self.get_submodule(f"bn_{name}")(F.relu(self.get_submodule(name)(x)))
            x = F.max_pool2d(x, 2) if pooled else x
        return x

    def decode(self, code: Tensor) -> Tensor:
        """Protein (B, n_protein, H, W), float32, from a code (B, ·, H/4, W/4)."""
        x = code
        for name in _DECODER:
            if name in _UPSAMPLED:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.relu(self.get_submodule(name)(x))
        return self.y_gfp(x).float()  # type: ignore[no-any-return]

    def _check_size(self, x: Tensor, least: int, multiple: int) -> None:
        h, w = x.shape[-2:]
        if min(h, w) < least or h % multiple or w % multiple:
            raise InputError(
                f"{self.spec.title} wants crops of at least {least} px"
                f"{f', a multiple of {multiple}' if multiple > 1 else ''}; these are {h} × {w} px."
            )


class Model(EncoderDecoder):
    """Source encoder, target-marker encoder and decoder.

    Parameters
    ----------
    config : Config

    References
    ----------
    .. [1] Lu et al. 2019, doi:10.1371/journal.pcbi.1007348; layout and constants in models.md §1.1.
    """

    spec = SPEC
    batch: ClassVar[tuple[str, ...]] = ("source", "target")
    branches = (_SOURCE, _MARKER, _DECODER)

    def augment(
        self, batch: Mapping[str, Tensor], training: Any, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Mirror sources and targets; turn them and vary what the network sees, if the settings say so.

        The protein that is to be predicted keeps its values, because nothing that is seen tells how they were varied.
        """
        batch, n = super().augment(batch, training, generator), self.config.n_protein
        if training.transpose:
            batch = {k: random_transpose(x, generator) for k, x in batch.items()}
        source, target = batch["source"], batch["target"]
        if training.gamma:
            source = random_gamma(source, training.gamma, generator)
            target = torch.cat([target[:, :n], random_gamma(target[:, n:], training.gamma, generator)], dim=1)
        if training.noise:
            source = random_noise(source, training.noise, n, generator)
        return {**batch, "source": source, "target": target}

    def inpaint(self, source: Tensor, target_structural: Tensor) -> Tensor:
        """Predict the protein of target cells.

        Parameters
        ----------
        source : Tensor of shape (B, n_protein + n_structure, H, W)
            Preprocessed crops of other cells of the same group; H and W multiples of 4.
        target_structural : Tensor of shape (B, n_structure, H, W)
            Structure channels of the preprocessed target crops.

        Returns
        -------
        Tensor of shape (B, n_protein, H, W), float32
        """
        self.check_crops(source)
        if target_structural.ndim != 4 or target_structural.shape[1] != self.config.n_structure:
            raise InputError(
                f"The target is given by its {self.config.n_structure} structure channel(s), (B, "
                f"{self.config.n_structure}, H, W); got shape {tuple(target_structural.shape)}."
            )
        return self.decode(torch.cat([self.encode(source), self.encode(target_structural, _MARKER)], dim=1))

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of the predicted protein: ``{"loss"}``.

        Parameters
        ----------
        batch : mapping
            ``source`` and ``target``, preprocessed crops (B, C, H, W) of two cells of one group each.
        """
        n = self.config.n_protein
        predicted = self.inpaint(batch["source"], batch["target"][:, n:])
        return {"loss": F.mse_loss(predicted, batch["target"][:, :n].float())}


def min_max(x: Tensor, together: bool = False) -> Tensor:
    """Scale each channel of float crops (B, C, H, W) from its own minimum to its maximum; a constant one is 0.

    With `together` all channels of a crop are divided by the widest one's range, which keeps their proportions.
    """
    low = x.amin(dim=(2, 3), keepdim=True)
    span = x.amax(dim=(2, 3), keepdim=True) - low
    if together:
        span = span.amax(dim=1, keepdim=True)
    return torch.where(span == 0, torch.zeros_like(x), (x - low) / torch.where(span == 0, 1.0, span))


# ---- the authors' Keras files ---------------------------------------------------------------------


def recognise(path: Path) -> bool:
    """Whether a file is a Keras HDF5 file of this network."""
    return {"conv1_1", "rfpconv1_1", "y_gfp"} <= _keras.layer_names(path)


def read_checkpoint(path: Path) -> Model:
    """Read the authors' Keras HDF5 weights; width and channel counts come from the tensors.

    Raises
    ------
    InputError
        If the file lacks layers or its shapes are not those of this network.
    """
    weights, inputs = _keras.read_weights(path)
    missing = [
        name for name in (*_SOURCE, *_MARKER, *_DECODER, "y_gfp") if "kernel" not in weights.get(name, {})
    ]
    if missing:
        raise InputError(f"{path} is not a Paired Cell Inpainting file: the layer {missing[0]} is missing.")
    n_structure = weights["rfpconv1_1"]["kernel"].shape[2]
    n_protein = weights["y_gfp"]["kernel"].shape[3]
    human = n_structure == 2  # nucleus and microtubules; the yeast network has one marker
    model = Model(
        Config(
            n_protein=n_protein,
            n_structure=n_structure,
            width=weights["conv1_1"]["kernel"].shape[3] / _SOURCE["conv1_1"][0],
            recipe="human" if human else "yeast",
        )
    )
    if human:
        model.roles = ("protein", "nucleus", "microtubules")
        model.crop = replace(model.crop, channels=model.roles)
    norms = _batch_norms(weights, inputs, path)
    state = {}
    for key, mine in model.state_dict().items():
        name, _, part = key.rpartition(".")
        if part == "num_batches_tracked":
            continue
        keras_name = {"weight": "kernel"}.get(part, part)
        if name.startswith("bn_"):
            name = norms[name.removeprefix("bn_")]
            keras_name = _BN_NAMES[part]
        if keras_name not in weights[name]:
            raise InputError(f"{path} lacks {name}/{keras_name}.")
        tensor = torch.from_numpy(weights[name][keras_name]).to(torch.float32)
        if tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1).contiguous()  # HWIO → OIHW
        if tensor.shape != mine.shape:
            raise InputError(
                f"{path} has {name}/{keras_name} of shape {tuple(tensor.shape)}; {tuple(mine.shape)} is wanted."
            )
        state[key] = tensor
    model.load_state_dict(state, strict=False)  # without num_batches_tracked, which Keras does not count
    return model.eval()


def _batch_norms(weights: Mapping[str, Any], inputs: Mapping[str, str], path: Path) -> dict[str, str]:
    """Convolution → the batch norm that follows it. From the graph, else from the order of creation.

    Never from the position in the file: that order is another one, and widths repeat (models.md §1.2).
    """
    norms = [name for name, tensors in weights.items() if "gamma" in tensors]
    found = {inputs[name]: name for name in norms if name in inputs}
    if set(_BN_ORDER) <= found.keys():
        return found
    if len(norms) != len(_BN_ORDER):
        raise InputError(
            f"{path} has {len(norms)} batch norms; a Paired Cell Inpainting network has {len(_BN_ORDER)}."
        )
    return dict(zip(_BN_ORDER, sorted(norms, key=_keras.number), strict=True))
