"""DeepLoc: a cell's localisation classes, and the vector its last hidden layer learns for telling them apart.

Two networks. "deeploc2017": Kraus et al., "Automated analysis of high-content microscopy data with deep learning",
Molecular Systems Biology (2017) 13:924; the authors' code is BSD-3, their weights have no licence of their own.
"representation": Razdaibiedina & Brechalov's network for multi-scale protein representations, which their repository
arazd/pifia (MIT) publishes as PIFiA (doi:10.1038/s44320-024-00029-6). Written anew from the papers and the facts of
models.md §2; the published TensorFlow checkpoints can be read without TensorFlow. Differs: any number of channels
and classes; a constant channel becomes 0 instead of NaN; of training, what `_deeploc_training` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cellrep.models import _tensorflow
from napari_cellrep.models._base import EmbeddingModel, MaxSeconds, MaxSteps, Seed
from napari_cellrep.models._deeploc_training import DeepLocLearner, LabelSampler, vary
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, Preset, Weights, check_config

_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 256)  # of the convolutions of both networks
_POOLED = (2, 4, 8)  # convolutions followed by a 2×2 max pool


@dataclass(frozen=True)
class _Layout:
    """What differs between the two networks (models.md §2.1, §2.2); sizes in pixels."""

    convs: tuple[str, ...]
    hidden: tuple[str, str]
    last: str
    side: int  # of the window the network sees
    same: bool  # zero-padded convolutions and pools, or valid ones
    flat_side: int  # of the map that is flattened
    dense_norm: bool  # whether dense layers have batch norm, the last one too
    momentum: float  # of the running statistics, PyTorch's sense
    channels: int
    n_classes: int
    scaling: str
    learning_rate: float
    schedule: str  # how it falls
    turns: int  # quarter turns that training draws from


_LAYOUTS = {
    "deeploc2017": _Layout(
        convs=tuple(f"conv_{i}" for i in range(1, 9)),
        hidden=("fc_1", "fc_2"),
        last="final_layer",
        side=60,
        same=True,
        flat_side=8,
        dense_norm=True,
        momentum=0.5,
        channels=2,
        n_classes=19,
        scaling="percentiles",
        learning_rate=0.1,
        schedule="staircase",
        turns=3,  # 0 to 2: so the authors' code
    ),
    "representation": _Layout(
        convs=tuple(f"conv{i}" for i in range(1, 9)),
        hidden=("d1", "d2"),
        last="d3",
        side=64,
        same=False,
        flat_side=2,
        dense_norm=False,
        momentum=0.01,
        channels=1,
        n_classes=17,
        scaling="standardise",
        learning_rate=3e-4,
        schedule="cosine",
        turns=4,
    ),
}

# Classes of the published DeepLoc 2017 weights, in the order of its outputs (models.md §2.1).
CLASSES_2017 = (
    "ACTIN", "BUDNECK", "BUDTIP", "CELLPERIPHERY", "CYTOPLASM", "ENDOSOME", "ER", "GOLGI", "MITOCHONDRIA",
    "NUCLEARPERIPHERY", "NUCLEI", "NUCLEOLUS", "PEROXISOME", "SPINDLE", "SPINDLEPOLE", "VACUOLARMEMBRANE",
    "VACUOLE", "DEAD", "GHOST",
)  # fmt: skip

_PIFIA = "https://raw.githubusercontent.com/arazd/pifia/dcd0f3744b9fea605469e1b5ec276248a4b14fe7/model/pretrained_weights"

SPEC = ModelSpec(
    name="deeploc",
    title="DeepLoc",
    roles=("protein", "structure"),
    crop=CropSpec(size_px=64, window_px=64, channels=("protein", "structure")),
    paper=(
        "Kraus et al. 2017, Molecular Systems Biology 13:924; Razdaibiedina & Brechalov (representation network), "
        "published as PIFiA, Molecular Systems Biology, doi:10.1038/s44320-024-00029-6"
    ),
    licence=(
        "DeepLoc 2017: code BSD-3-Clause, no licence stated for the weights. Representation network (PIFiA): code and "
        "weights MIT."
    ),
    when=(
        "Cells with known localisation classes or protein names, or budding yeast with the published weights: a "
        "GFP-tagged protein, and for DeepLoc 2017 an RFP cytosol marker. Trained on your cells, it learns to tell the "
        "classes of one of your columns apart."
    ),
    layers=("fc_2", "fc_1", "final_layer"),
    trains=True,
    labels=True,
    presets=(
        Preset(
            "small",
            "For hundreds to some ten thousand cells; ours, not the paper's: "
            "the learning rate 0.003, classes drawn evenly, batch norm settled, and an end when held-out cells get no better.",
            {
                "epochs": 60,
                "batch_size": 64,
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "balanced": True,
                "settle_norm": True,
                "patience": 15,
            },
        ),
    ),
    weights=(
        Weights(
            "deeploc-2017", "http://spidey.ccbr.utoronto.ca/~okraus/pretrained_DeepLoc.zip",
            "The authors' code is BSD-3-Clause; they state no licence for the weights. They are downloaded from the "
            "authors' host, not distributed with this package.",
            "", {"network": "deeploc2017", "channels": 2, "n_classes": 19},
            "Budding yeast, GFP-tagged protein and RFP cytosol marker, 19 classes. Sampling not stated.",
            inside="pretrained_DeepLoc/pretrained_models/model.ckpt-5000",
        ),
        Weights(
            "pifia", f"{_PIFIA}/pifia_weights_i0.index",
            "MIT, as the authors' repository. They are downloaded from there, not distributed with this package.",
            "git:505ab99f7bc6a7995863eea544c2044023b5d055",
            {"network": "representation", "channels": 1, "n_classes": 4049, "d1": 128, "d2": 64},
            "Budding yeast, GFP-tagged protein alone; told 4,049 proteins apart. Sampling not stated.",
            more=(
                (f"{_PIFIA}/pifia_weights_i0.data-00000-of-00002", "git:f95f94e73b93151ad5de08fbdcff4af73ea4cdc7"),
                (f"{_PIFIA}/pifia_weights_i0.data-00001-of-00002", "git:3a919644d4eb9a76586bb19a646d7c4e753c6185"),
            ),
            roles=("protein",),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What the network is.

    Parameters
    ----------
    network : str
        "deeploc2017": Kraus et al. 2017; zero-padded convolutions, batch norm in the dense layers too.
        "representation": Razdaibiedina & Brechalov's; valid convolutions, plain dense layers.
    channels : int
        Channels in: the protein, then those that show the cell. 0: the paper's (2; 1 for the representation network).
    n_classes : int
        Outputs. 0: the paper's (19; 17).
    width : float
        Width of every convolution as a multiple of the paper's.
    d1, d2 : int
        Units of the two hidden layers; d2 is the length of the default vector. 512 in both papers, 128 and 64 in the
        published PIFiA weights.
    recipe : str
        Scaling of the crops (models.md §2.1, §2.2). "own": the network's: "percentiles" for deeploc2017, else
        "standardise". "percentiles": each channel from its 0.1 to its 99.9 percentile, but not divided where that
        range is 1 or less, as float images in [0, 1] have it: so the authors' code. "percentiles_always": divided
        whatever the range. "standardise": each channel min to max, then mean 0 and SD 1 over all channels together.
        "min_max": without the second step, as the authors do for crops with other cells masked.
    five_crops : bool
        Whether class probabilities are the mean over five windows of the crop, the authors' test mode; only
        deeploc2017 has it. Vectors are always of the central window.
    """

    network: Annotated[
        str,
        {
            "choices": tuple(_LAYOUTS),
            "label": "Network",
            "help": "deeploc2017: protein and marker, 60 px; representation: protein alone, 64 px.",
        },
    ] = "deeploc2017"
    channels: Annotated[int, {"min": 0, "max": 16, "label": "Channels", "help": "0: as in the paper."}] = 0
    n_classes: Annotated[
        int, {"min": 0, "max": 100_000, "label": "Classes", "help": "0: as in the paper."}
    ] = 0
    width: Annotated[
        float, {"min": 0.015, "max": 4, "step": 0.125, "label": "Width", "help": "1 is the paper's network."}
    ] = 1.0
    d1: Annotated[int, {"min": 1, "max": 65_536, "label": "First hidden layer"}] = 512
    d2: Annotated[
        int, {"min": 1, "max": 65_536, "label": "Second hidden layer", "help": "Length of the vector."}
    ] = 512
    recipe: Annotated[
        str,
        {
            "choices": ("own", "percentiles", "percentiles_always", "standardise", "min_max"),
            "same_weights": True,
            "label": "Scaling",
            "help": "own: as the network's authors do; percentiles_always: also for floats from 0 to 1.",
        },
    ] = "own"
    five_crops: Annotated[
        bool,
        {
            "same_weights": True,
            "label": "Five windows",
            "help": "deeploc2017: class probabilities as the mean over five.",
        },
    ] = True


TINY = Config(width=0.0625, d1=24, d2=24)


@dataclass(frozen=True)
class Training:
    """How it is trained (models.md §2.1, §2.2): softmax cross-entropy by Adam, 80/10/10 of the cells.

    The weights kept are those of the epoch with the least validation loss.

    Parameters
    ----------
    epochs : int
        30 as for the representation network; the authors of 2017 did 10,000 steps and published the 5,000th.
    learning_rate : float
        Of the first step. 0: the paper's, 0.1 for deeploc2017 and 3e-4 (PIFiA's) for the representation network.
    schedule : str
        How it falls: "staircase", times 0.96 every 25 steps (2017); "cosine", to 0 over the epochs (the other's
        option); "constant". "own": the network's.
    split_by : str
        What stays together when cells are held out: whole fields, the fields of one group, or nothing ("cell").
    balanced : bool
        Whether every class comes equally often in an epoch, repeated or cut to the mean.
    shifts, flips, turns : bool
        Windows of 60 px from offset 0 to 3, mirroring either way, quarter turns (0 to 2 for deeploc2017, as its code
        has it; 0 to 3 for the other, whose paper turns cells and whose code does not).
    dropout : float
        Before the last layer; 0 in both papers' first training, 0.02 in PIFiA's, 0.5 in the transfer of 2017.
    """

    epochs: Annotated[
        int,
        {"min": 1, "max": 10_000, "label": "Epochs", "help": "Passes over the cells that are learned from."},
    ] = 30
    batch_size: Annotated[
        int,
        {"min": 2, "max": 4096, "label": "Batch size", "help": "Cells per step; less needs less memory."},
    ] = 128
    learning_rate: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "step": 1e-4, "label": "Learning rate", "help": "0: as in the paper."},
    ] = 0.0
    schedule: Annotated[
        str,
        {
            "choices": ("own", "staircase", "cosine", "constant"),
            "label": "Its fall",
            "help": "How the learning rate falls; own: as in the paper.",
        },
    ] = "own"
    split_by: Annotated[
        str,
        {
            "choices": ("field", "group", "cell"),
            "label": "Held out",
            "help": "A tenth of the cells says which epoch is best, another judges the end: whole fields, whole groups, "
            "or single cells (then a network that recognises images looks right, too).",
        },
    ] = "field"
    min_cells: Annotated[
        int,
        {
            "min": 2,
            "max": 1_000_000,
            "label": "Cells per class, at least",
            "help": "Classes with fewer cells are left out.",
        },
    ] = 5
    balanced: Annotated[
        bool, {"label": "Draw classes evenly", "help": "Rare classes come as often as common ones."}
    ] = False
    shifts: Annotated[bool, {"label": "Shift cells", "help": "deeploc2017: by up to 2 px."}] = True
    flips: Annotated[bool, {"label": "Flip cells", "help": "Mirror cells at random."}] = True
    turns: Annotated[bool, {"label": "Turn cells", "help": "By quarter turns, at random."}] = True
    dropout: Annotated[
        float,
        {
            "min": 0.0,
            "max": 0.9,
            "step": 0.05,
            "label": "Dropout",
            "help": "Part of the vector that is left out in each step.",
        },
    ] = 0.0
    patience: Annotated[
        int,
        {
            "min": 0,
            "max": 10_000,
            "label": "Patience (epochs)",
            "help": "End when the validation loss has not fallen for so many epochs; 0: never.",
        },
    ] = 0
    seed: Seed = 0
    settle_norm: Annotated[
        bool,
        {
            "label": "Settle batch norm",
            "help": "In the first 1,000 steps, measure batch norm's running means again before held-out cells are looked "
            "at; the representation network's lag behind.",
        },
    ] = False
    max_steps: MaxSteps = 0
    max_seconds: MaxSeconds = 0.0


class Model(EmbeddingModel):
    """Eight convolutions, two hidden dense layers, classes.

    Parameters
    ----------
    config : Config

    References
    ----------
    .. [1] Kraus et al. 2017, Molecular Systems Biology 13:924; layout and constants in models.md §2.1.
    .. [2] PIFiA, doi:10.1038/s44320-024-00029-6; layout and constants in models.md §2.2.
    """

    spec = SPEC
    batch: ClassVar[tuple[str, ...]] = ("x", "y")
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self._layout = layout = _LAYOUTS[config.network]
        channels = config.channels or layout.channels
        self.roles = ("protein",) + ("structure",) * (channels - 1)
        self.crop = replace(SPEC.crop, channels=self.roles)
        self.layers = (layout.hidden[1], layout.hidden[0], layout.last)

        before = channels
        for name, full in zip(layout.convs, _WIDTHS, strict=True):
            n = max(1, round(full * config.width))
            self.add_module(name, nn.Conv2d(before, n, 3, padding=1 if layout.same else 0))
            self.add_module(f"bn_{name}", nn.BatchNorm2d(n, eps=1e-3, momentum=layout.momentum))
            before = n
        before *= layout.flat_side**2
        self._dims = dict(
            zip((*layout.hidden, layout.last), (config.d1, config.d2, self.n_classes), strict=True)
        )
        for name, n in self._dims.items():
            self.add_module(name, nn.Linear(before, n))
            if layout.dense_norm:
                self.add_module(f"bn_{name}", nn.BatchNorm1d(n, eps=1e-3, momentum=layout.momentum))
            before = n
        self.drop = nn.Dropout(0.0)  # training sets it
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if config.network == "deeploc2017":
                    nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
                    nn.init.constant_(module.bias, 0.1)  # type: ignore[arg-type]
                else:  # Keras's defaults
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    @property
    def n_classes(self) -> int:
        """Number of classes the network tells apart."""
        return self.config.n_classes or self._layout.n_classes

    def dim(self, layer: str | None = None) -> int:
        """Units of the layer."""
        return self._dims[self.check_layer(layer)]

    def preprocess(self, crops: Tensor) -> Tensor:
        """Scale raw crops by the recipe, each by itself (models.md §2.1, §2.2).

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            The protein first, in any dtype.

        Returns
        -------
        Tensor of shape (B, C, H, W), float32
            A constant channel is constant, never NaN.
        """
        self.check_crops(crops)
        x = crops.to(torch.float32)
        recipe = self.config.recipe if self.config.recipe != "own" else self._layout.scaling
        if recipe.startswith("percentiles"):
            return _percentiles(x, always=recipe == "percentiles_always")
        low = x.amin(dim=(2, 3), keepdim=True)
        x = _divide(x - low, x.amax(dim=(2, 3), keepdim=True) - low)
        return _standardise(x) if recipe == "standardise" else x

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Dense layers of the central window: the hidden ones after their ReLU, the last as logits.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops, 60 to 64 px square for deeploc2017, 64 px for the representation network.
        layers : sequence of str
            Of `layers`.
        """
        wanted = [self.check_layer(layer) for layer in layers]
        found = self._dense(self._windows(x)[0])
        return {layer: found[layer] for layer in wanted}

    def logits(self, x: Tensor) -> Tensor:
        """What softmax makes probabilities of, for the central window: (B, n_classes) float32 of preprocessed crops."""
        return self._dense(self._windows(x)[0])[self._layout.last]

    def classify(self, x: Tensor) -> Tensor:
        """Class probabilities, the mean over five windows where the configuration says so.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops, as for `embed_layers`.

        Returns
        -------
        Tensor of shape (B, n_classes), float32
            Rows sum to 1.
        """
        windows = self._windows(x)
        if not self.config.five_crops:
            windows = windows[:1]
        # One window after the other: five at once would need five times the memory.
        each = [self._dense(window)[self._layout.last].softmax(dim=1) for window in windows]
        return torch.stack(each).mean(dim=0)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean softmax cross-entropy of the central windows: ``{"loss"}``.

        Parameters
        ----------
        batch : mapping
            ``x``, preprocessed crops (B, C, H, W), and ``y``, int64 (B,), the number of each cell's class.
        """
        logits = self._dense(self._windows(batch["x"])[0])[self._layout.last]
        return {"loss": F.cross_entropy(logits, batch["y"])}

    def augment(
        self, batch: Mapping[str, Tensor], training: Training, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Shift, mirror and turn cells, each in its own way."""
        turns = self._layout.turns if training.turns else 0
        x = vary(batch["x"], self._layout.side, training.shifts, training.flips, turns, generator)
        return {**batch, "x": x}

    def learner(self, training: Training, steps_per_epoch: int) -> DeepLocLearner:
        """Adam with the network's own learning rate and its fall."""
        own = self._layout
        rate = training.learning_rate or own.learning_rate
        schedule = own.schedule if training.schedule == "own" else training.schedule
        return DeepLocLearner(self, training, steps_per_epoch, rate, schedule)

    def sampler(self, cells: Any, training: Training, batch_size: int) -> LabelSampler:
        """Hold some cells out, and draw batches of the others."""
        return LabelSampler(cells, training, batch_size, self.n_classes)

    def _windows(self, x: Tensor) -> list[Tensor]:
        """The central window and, where the crop is larger than it, the four corners."""
        self.check_crops(x)
        side, (h, w) = self._layout.side, x.shape[-2:]
        if h != w or not side <= h <= self.crop.size_px:
            sizes = f"{side}" if side >= self.crop.size_px else f"{side} to {self.crop.size_px}"
            raise InputError(
                f"{SPEC.title} ({self.config.network}) wants square crops of {sizes} px; these are {h} × {w} px."
            )
        m = h - side
        corners = [(m // 2, m // 2)] + ([(0, 0), (0, m), (m, 0), (m, m)] if m else [])
        return [x[..., i : i + side, j : j + side] for i, j in corners]

    def _dense(self, x: Tensor) -> dict[str, Tensor]:
        layout = self._layout
        for i, name in enumerate(layout.convs, start=1):
            x = F.relu(self.get_submodule(f"bn_{name}")(self.get_submodule(name)(x)))
            if i in _POOLED:  # TensorFlow's SAME pool of an odd side keeps the last row: 15 → 8
                x = F.max_pool2d(x, 2, ceil_mode=layout.same)
        x = x.permute(0, 2, 3, 1).flatten(1)  # (B, h · w · C): the weights expect channels last
        found = {}
        for name in self._dims:
            x = self.get_submodule(name)(x)
            if layout.dense_norm:
                x = self.get_submodule(f"bn_{name}")(x)
            if name != layout.last:
                x = F.relu(x)
            found[name] = x.float()
            if name == layout.hidden[1]:
                x = self.drop(x)
        return found


def _percentiles(x: Tensor, *, always: bool) -> Tensor:
    """Subtract the 0.1 percentile, clip at the 99.9 (not at the 0.1), divide by the range if it exceeds 1."""
    flat = x.flatten(2)  # (B, C, H · W)
    at = 0.001 * (flat.shape[-1] - 1)  # rank, from either end; linear between neighbours as in NumPy
    i, part = int(at), at - int(at)
    k = min(i + 2, flat.shape[-1])

    def from_end(largest: bool) -> Tensor:
        ends = flat.topk(k, dim=-1, largest=largest).values
        return torch.lerp(ends[..., i], ends[..., k - 1], part)[..., None, None]

    low, high = from_end(False), from_end(True)
    span = high - low
    x = torch.minimum(x, high) - low
    return _divide(x, span) if always else x / torch.where(span > 1, span, 1.0)


def _divide(x: Tensor, span: Tensor) -> Tensor:
    return x / torch.where(span == 0, 1.0, span)


def _standardise(x: Tensor) -> Tensor:
    """Mean 0 and SD 1 over all pixels and channels of a crop together."""
    dims = (1, 2, 3)
    sd = x.std(dim=dims, correction=0, keepdim=True)
    least = 1 / (x[0].numel() ** 0.5) if len(x) else 1.0
    return (x - x.mean(dim=dims, keepdim=True)) / sd.clamp(min=least)


# ---- the authors' TensorFlow files ------------------------------------------------------------------

_KERAS = "/.ATTRIBUTES/VARIABLE_VALUE"
_MARKS = {  # variables that tell the networks' files from all others
    "deeploc2017": {"conv_8/weights/Variable", "fc_2/batch_norm/fc_2_batch_norm/beta", "final_layer/weights/Variable"},
    "representation": {f"{k}{_KERAS}" for k in ("conv8/kernel", "bn8/moving_mean", "d1/kernel", "d3/kernel")},
}  # fmt: skip
_MOMENTS = {
    "running_mean": "mean|Squeeze",
    "running_var": "variance|Squeeze_1",
}  # up to TensorFlow 1.1, and since


def recognise(path: Path) -> bool:
    """Whether a file or prefix is a TensorFlow checkpoint of one of these networks."""
    return _network(_tensorflow.variable_names(path)) is not None


def _network(names: set[str]) -> str | None:
    return next((network for network, marks in _MARKS.items() if marks <= names), None)


def read_checkpoint(path: Path) -> Model:
    """Read a published TensorFlow checkpoint; every size comes from the tensors.

    Parameters
    ----------
    path : Path
        The prefix ("…/model.ckpt-5000"), its ``.index`` file or one of its data files.

    Raises
    ------
    InputError
        If variables or data files are missing, or shapes are not those of one of the networks.
    """
    entries, _ = _tensorflow.read_index(path)
    network = _network(set(entries))
    if network is None:
        raise InputError(f"{path} is not a DeepLoc checkpoint: it has the variables of another network.")
    layout = _LAYOUTS[network]
    places = {key: _place(key, network, entries, path) for key in _keys(layout)}
    shapes = {key: entries[name].shape for key, name in places.items()}
    first, *dense = [shapes[f"{name}.weight"] for name in (layout.convs[0], *layout.hidden, layout.last)]
    if len(first) != 4 or any(len(shape) != 2 for shape in dense) or not all((*first, *dense[0], *dense[1])):
        raise InputError(f"{path} is not a DeepLoc checkpoint: its first layer has the shape {first}.")
    model = Model(
        check_config(
            Config(
                network=network,
                channels=first[2],
                n_classes=dense[2][1],
                width=first[3] / _WIDTHS[0],
                d1=dense[0][1],
                d2=dense[1][1],
            )
        )
    )
    mine = model.state_dict()
    for key, shape in shapes.items():
        wanted = tuple(mine[key].shape)
        wanted = {4: wanted[2:] + wanted[1::-1], 2: wanted[::-1], 1: wanted}[
            len(wanted)
        ]  # as TensorFlow has it
        if shape != wanted:
            raise InputError(f"{path} has {places[key]} of shape {shape}; {wanted} is wanted.")
    arrays = _tensorflow.read_variables(path, places.values())
    state = {key: _to_torch(arrays[name]) for key, name in places.items()}
    model.load_state_dict(state, strict=False)  # without num_batches_tracked, which TensorFlow does not count
    if network == "deeploc2017" and model.n_classes == len(CLASSES_2017):
        model.card = {"classes": list(CLASSES_2017)}
    return model.eval()


def _keys(layout: _Layout) -> list[str]:
    """Our names of a network's tensors."""
    layers = (*layout.convs, *layout.hidden, layout.last)
    normed = layers if layout.dense_norm else layout.convs
    parts = ("weight", "bias", "running_mean", "running_var")
    return [f"{k}.{part}" for k in layers for part in parts[:2]] + [
        f"bn_{k}.{part}" for k in normed for part in parts
    ]


def _place(key: str, network: str, entries: Mapping[str, object], path: Path) -> str:
    """Name of the variable that holds one of our tensors."""
    layer, part = key.removeprefix("bn_").split(".")
    normed = key.startswith("bn_")
    if network == "representation":
        keras = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
        name = (
            f"bn{layer[4:]}/{keras[part]}" if normed else f"{layer}/{'kernel' if part == 'weight' else part}"
        )
        name += _KERAS
    elif part in _MOMENTS:
        pattern = rf"(.*/)?{layer}/batch_norm/{layer}_batch_norm/moments/(.*/)?({_MOMENTS[part]})/ExponentialMovingAverage"
        found = [name for name in entries if re.fullmatch(pattern, name)]
        if len(found) != 1:
            raise InputError(
                f"{path} has {len(found)} moving averages of {layer}'s {part[8:]}; one is wanted."
            )
        name = found[0]
    elif normed:
        name = f"{layer}/batch_norm/{layer}_batch_norm/{'gamma' if part == 'weight' else 'beta'}"
    else:
        name = f"{layer}/{'weights' if part == 'weight' else 'biases'}/Variable"
    if name not in entries:
        raise InputError(f"{path} lacks the variable {name}.")
    return name


def _to_torch(array: np.ndarray) -> Tensor:
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]  # (H, W, in, out) and (in, out) turned round
    return torch.from_numpy(np.array(array.transpose(order), np.float32, order="C"))
