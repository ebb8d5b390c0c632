"""Microsnoop: a generalist embedding of microscopy images, learned by filling in masked patches.

Paper: Xun et al., "Microsnoop: a generalist tool for microscopy image representation", The Innovation
(2023), doi:10.1016/j.xinn.2023.100541. Network and scaling after the paper and the authors' repository
(cellimnet/microsnoop-publish), written anew; their published PyTorch weights can be read. The weights are free for
academic use only and the method is subject to a patent application: see the licence of each checkpoint.
Every channel is an image of its own, so one network serves any channels, and a cell's vector joins its channels'.
Differs: a feature map of zeros gives zeros instead of NaN; cells at the top or left edge are not dropped (flagged
cells can be left out by the project's own rules); a crop larger than the network is refused instead of silently cut
into tiles, for which there is `Model.embed_field`; the side of a zoomed image (``zoom``, the authors' ``rsc_to_diam``)
is cut to whole pixels, which models.md leaves open.
Training is written after the paper alone, as its code is not published (models.md §4.5). What the paper leaves open is
as in the masked autoencoder that it follows (He et al. 2021: AdamW with betas 0.9 and 0.95, decay 0.05, none on biases
and norms, learning rate by fractions of an epoch) or as in Cellpose (any angle, 0.75 to 1.25 times the size). Differs: an
image of no contrast is learned as a black one, as its scale would be a division by 1e-6; and what `MaskedLearner` says.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cellrep.models._augment import draw
from napari_cellrep.models._base import (
    EmbeddingModel,
    HeldOut,
    Keep,
    MaxSeconds,
    MaxSteps,
    Patience,
    Seed,
    Width,
    _set_state,
)
from napari_cellrep.models._learner import Learner
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, Preset, Weights, make_config

SIDE_PX = 224  # what the network was made for
PATCH_PX = 16
WIDTHS = (32, 64, 128, 256)  # published, one per level
LEVELS = ("level3", "level2", "level1", "level0")
HIDDEN = 0.25  # of the patches
WARMUP_SHARE = 0.5  # of the epochs at most: a short training must not end before it has begun

# Fractions of the padded image's pixels below the values that become 0 and 1 (models.md §4.3).
_LOW, _HIGH = 0.01, 0.99
# Images in one pass of the encoder: bounds the memory, which grows with channels and not with the crops' own size.
_IMAGES_AT_ONCE = 64
_FIRST = "encoder.downsample.down.res_down_0."

_LICENCE = (
    "Non-commercial. The repository has a BSD 3-Clause file, but its README restricts code and weights: free for "
    "academic use; use by a business needs the authors' authorisation. The method is covered by patent application "
    "CNIPA 202310155113.8 (Zhejiang University). The weights are downloaded from the authors' repository, not "
    "distributed with this package."
)

SPEC = ModelSpec(
    name="microsnoop",
    title="Microsnoop",
    roles=("protein",),
    crop=CropSpec(mode="box", size_px=SIDE_PX, box_scale=2.0, channels=("protein",)),
    paper="Xun et al. 2023, The Innovation, doi:10.1016/j.xinn.2023.100541",
    licence=_LICENCE,
    when=(
        "Any channels and any kind of microscope without training of your own: published weights from fluorescence, "
        "phase contrast and histology images. Every channel is seen by itself. Academic use only. It also learns from "
        "your own images, without labels or groups, best on a GPU."
    ),
    layers=LEVELS,
    trains=True,
    presets=(
        Preset(
            "small",
            "For hundreds to some ten thousand cells; ours, not the paper's: "
            "fewer epochs and a short warm-up, cells instead of whole squares, and the epoch kept whose held-out loss is least.",
            {
                "epochs": 100,
                "warmup_epochs": 5,
                "view": "cell",
                "keep": "val_loss",
                "patience": 30,
            },
        ),
    ),
    weights=(
        Weights(
            "microsnoop-published",
            "https://raw.githubusercontent.com/cellimnet/microsnoop-publish/3f0b0ce83963a4c62942d30aba7b16f23e047cc1/"
            "output/models/Microsnoop_cnn_trData-microsnoop_trMode-mae_batchSize-16_inputSize-224_inChans-1_"
            "embedDim-256_maskRatio-0.25_epoch-999.pth",
            _LICENCE,
            "git:7fcd210fff7e4e825c6bd2c6063dfb34c46ffde1",
            {},
            "10,458 images: Cellpose fluorescence, LIVECell phase contrast, TissueNet, MoNuSeg, MoNuSAC and NuCLS "
            "histology in grey; one channel of 224 px. Sampling not stated: of many microscopes.",
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
    channel_mode : str
        How a cell's unit vectors, one per channel, become one: "concat", "mean" or "sum".
    scaling : str
        "pad": crops keep their size and are zero-padded to 224 px. "rescale": they are made square with zeros and
        enlarged or shrunk to 224 px.
    width : float
        Width of every level as a multiple of the paper's.
    zoom : float
        Factor by which "pad" resizes crops, and fields before they are cut into tiles (the authors' ``rsc_to_diam``, 1
        in all their scripts).
    """

    channels: Annotated[
        tuple[str, ...], {"label": "Channels", "help": "Names or roles; each is embedded by itself."}
    ] = ("protein",)
    channel_mode: Annotated[
        str,
        {
            "choices": ("concat", "mean", "sum"),
            "same_weights": True,
            "label": "Join channels",
            "help": "concat: one vector after the other, as in the paper.",
        },
    ] = "concat"
    scaling: Annotated[
        str,
        {
            "choices": ("pad", "rescale"),
            "same_weights": True,
            "label": "Fit to 224 px",
            "help": "pad: cells keep their size; rescale: the crop is enlarged to 224 px.",
        },
    ] = "pad"
    width: Width = 1.0
    zoom: Annotated[
        float,
        {
            "min": 0.1,
            "max": 10.0,
            "step": 0.1,
            "same_weights": True,
            "label": "Zoom",
            "help": "pad: crops and fields are resized by this first; 1 in the authors' scripts.",
        },
    ] = 1.0


TINY = Config(width=0.125)


@dataclass(frozen=True)
class Training:
    """How it is trained: models.md §4.5; what the paper does not state is marked [?].

    Parameters
    ----------
    epochs : int
        Passes over the cells, each of which is seen once per epoch in one of its channels. The paper's epoch is 12,000
        images.
    batch_size : int
        Images per step, all of one channel.
    learning_rate : float
        After the warm-up; then it falls to 0 by half a cosine.
    warmup_epochs : int
        In which the learning rate rises in a straight line; at most half of `epochs`.
    weight_decay, beta1, beta2 : float
        Of AdamW [?].
    mask_ratio : float
        Fraction of the patches that is hidden.
    view : str
        "field": a random square of 224 px of the image that has the cell in it, as the paper's random crops.
        "cell": the cell's crop as it is embedded.
    shift_px : int
        View "field": how far the cell lies from the middle, at most.
    rotate : bool
        Turn by any angle [?].
    scale_range : float
        Enlarge by 1 ± half of this [?].
    seed : int
    held_out, keep, patience
        Part of the cells that judges (`_sampling.hold_out`), whose weights are kept, and when to end early.
    max_steps, max_seconds
        Limits; 0: none.
    """

    min_cells: ClassVar[int] = 1  # single cells need no group

    epochs: Annotated[
        int,
        {"min": 1, "max": 100_000, "label": "Epochs", "help": "Passes over all cells; the paper has 1,000."},
    ] = 1000
    batch_size: Annotated[
        int,
        {"min": 1, "max": 4096, "label": "Batch size", "help": "Images per step; less needs less memory."},
    ] = 16
    learning_rate: Annotated[
        float,
        {
            "min": 1e-7,
            "max": 1.0,
            "step": 1e-4,
            "label": "Learning rate",
            "help": "After the warm-up; falls to 0.",
        },
    ] = 1e-3
    warmup_epochs: Annotated[
        int,
        {"min": 0, "max": 100_000, "label": "Warm-up (epochs)", "help": "At most half of the epochs."},
    ] = 40
    weight_decay: Annotated[
        float,
        {
            "min": 0.0,
            "max": 10.0,
            "step": 0.01,
            "label": "Weight decay",
            "help": "Not stated in the paper; as in masked autoencoders.",
        },
    ] = 0.05
    beta1: Annotated[
        float,
        {"min": 0.0, "max": 0.999, "step": 0.05, "label": "AdamW β1", "help": "Not stated in the paper."},
    ] = 0.9
    beta2: Annotated[
        float,
        {"min": 0.0, "max": 0.999, "step": 0.001, "label": "AdamW β2", "help": "Not stated in the paper."},
    ] = 0.95
    mask_ratio: Annotated[
        float,
        {"min": 0.0, "max": 0.95, "step": 0.05, "label": "Hidden part", "help": "Of the 196 patches."},
    ] = HIDDEN
    view: Annotated[
        str,
        {
            "choices": ("field", "cell"),
            "label": "It learns from",
            "help": "field: random squares of 224 px about the cells, as in the paper; cell: crops as they are embedded.",
        },
    ] = "field"
    shift_px: Annotated[
        int,
        {
            "min": 0,
            "max": 112,
            "label": "Cell off the middle (px)",
            "help": "At most, where it learns from fields; 112: anywhere in the square.",
        },
    ] = 112
    rotate: Annotated[bool, {"label": "Turn images", "help": "By any angle."}] = True
    scale_range: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.5,
            "step": 0.1,
            "label": "Range of scale",
            "help": "0.5: from 0.75 to 1.25 times the size; not stated in the paper.",
        },
    ] = 0.5
    seed: Seed = 0
    held_out: HeldOut = 0.1
    keep: Keep = "last"
    patience: Patience = 0
    max_steps: MaxSteps = 0
    max_seconds: MaxSeconds = 0.0


def widths(width: float) -> tuple[int, ...]:
    """Channels of the four levels, for a width as a multiple of the paper's."""
    return tuple(max(1, round(n * width)) for n in WIDTHS)


# ---- the network: module names are those of the published state (models.md §4.1) ---------------------


def _norm_relu_conv(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(n_in), nn.ReLU(), nn.Conv2d(n_in, n_out, 3, padding=1))


def _projection(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(n_in), nn.Conv2d(n_in, n_out, 1))


class _Down(nn.Module):
    """Two residual pairs: (N, n_in, H, W) → (N, n_out, H, W)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.conv = nn.ModuleDict(
            {f"conv_{i}": _norm_relu_conv(n_out if i else n_in, n_out) for i in range(4)}
        )
        self.proj = _projection(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x) + self.conv["conv_1"](self.conv["conv_0"](x))
        return x + self.conv["conv_3"](self.conv["conv_2"](x))  # type: ignore[no-any-return]


class _Styled(nn.Module):
    """A convolution that is told the image's style."""

    def __init__(self, n_style: int, n: int):
        super().__init__()
        self.conv = _norm_relu_conv(n, n)
        self.full = nn.Linear(n_style, n)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(x + self.full(style)[:, :, None, None])  # type: ignore[no-any-return]


class _Up(nn.Module):
    """Two residual pairs with the skip added: (N, n_in, H, W) and (N, n_out, H, W) → (N, n_out, H, W)."""

    def __init__(self, n_in: int, n_out: int, n_style: int):
        super().__init__()
        self.conv = nn.ModuleDict({"conv_0": _norm_relu_conv(n_in, n_out)})
        self.conv.update({f"conv_{i}": _Styled(n_style, n_out) for i in (1, 2, 3)})
        self.proj = _projection(n_in, n_out)

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        conv = self.conv
        x = self.proj(x) + conv["conv_1"](conv["conv_0"](x) + skip, style)
        return x + conv["conv_3"](conv["conv_2"](x, style), style)  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, n: Sequence[int]):
        super().__init__()
        ins = (1, *n)
        blocks = nn.ModuleDict({f"res_down_{i}": _Down(ins[i], ins[i + 1]) for i in range(len(n))})
        self.downsample = nn.ModuleDict({"down": blocks})

    def forward(self, images: Tensor, n_levels: int = 4) -> list[Tensor]:
        """Feature maps of the first `n_levels` levels of images (N, 1, H, W); each is half as wide as the last."""
        maps: list[Tensor] = []
        for i in range(n_levels):
            block = self.get_submodule(f"downsample.down.res_down_{i}")
            maps.append(block(F.max_pool2d(maps[-1], 2) if maps else images))
        return maps


class _Decoder(nn.Module):
    def __init__(self, n: Sequence[int]):
        super().__init__()
        ins = (*n[1:], n[-1])  # the top block keeps its width
        blocks = nn.ModuleDict({f"res_up_{i}": _Up(ins[i], n[i], n[-1]) for i in range(len(n))})
        self.upsample = nn.ModuleDict({"up": blocks})
        self.base_bn = nn.BatchNorm2d(n[0])
        self.base_conv = nn.Conv2d(n[0], 1, 1)

    def forward(self, maps: Sequence[Tensor], style: Tensor) -> Tensor:
        """Images (N, 1, H, W) from all levels' maps and the style (N, n_style)."""
        x = maps[-1]
        for i in reversed(range(len(maps))):
            if i < len(maps) - 1:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.get_submodule(f"upsample.up.res_up_{i}")(x, maps[i], style)
        return self.base_conv(F.relu(self.base_bn(x)))  # type: ignore[no-any-return]


class Model(EmbeddingModel):
    """Residual U-Net with a style vector, one channel at a time.

    Parameters
    ----------
    config : Config

    References
    ----------
    .. [1] Xun et al. 2023, doi:10.1016/j.xinn.2023.100541; layout and constants in models.md §4.
    """

    spec = SPEC
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        if config.scaling == "rescale":  # a box is already padded to 224 px and would not be enlarged
            self.crop = CropSpec(size_px=64, window_px=64)
            if config.zoom != 1:
                raise InputError(
                    "The scaling rescale brings every crop to 224 px, whatever its size: leave zoom at 1, or set scaling "
                    "to pad."
                )
        else:
            self.crop = replace(self.crop, size_px=int(SIDE_PX / config.zoom + 1e-6))
        self.set_channels(config.channels)
        self.widths = widths(config.width)
        self.encoder = _Encoder(self.widths)
        self.decoder = _Decoder(self.widths)

    @property
    def field_px(self) -> int:
        """What it sees: a crop that is to be rescaled is smaller than that, and a field is not."""
        return SIDE_PX if self.config.scaling == "rescale" else self.crop.size_px

    def set_channels(self, channels: Sequence[str]) -> None:
        """Take other channels, in any number: the weights stay as they are.

        Parameters
        ----------
        channels : sequence of str
            Names or roles, in the order of the crop's planes.
        """
        if not channels:
            raise InputError("Microsnoop needs at least one channel.")
        self.config = replace(self.config, channels=tuple(channels))
        self.roles = self.config.channels
        self.crop = replace(self.crop, channels=self.roles)

    def dim(self, layer: str | None = None) -> int:
        """Channels of the level, times the crop's channels if these are concatenated."""
        n = self.widths[int(self.check_layer(layer)[-1])]
        return n * len(self.roles) if self.config.channel_mode == "concat" else n

    def preprocess(self, crops: Tensor) -> Tensor:
        """Zoom raw crops, bring them to 224 px and scale each channel from its 1st to its 99th percentile (models.md §4.3).

        The percentiles are those of the image *with* its zero padding, and nothing is clipped.

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            In any dtype.

        Returns
        -------
        Tensor of shape (B, C, 224, 224), float32
            A channel of one value stays as it is.

        Raises
        ------
        InputError
            If crops that are not to be rescaled are larger than 224 px.
        """
        self.check_crops(crops)
        return _scale_percentiles(self._fit(self._zoomed(crops)))

    def _zoomed(self, crops: Tensor) -> Tensor:
        """Images (B, C, H, W) resized by ``zoom``, sides cut to whole pixels; integers are rounded again."""
        if self.config.zoom == 1 or not crops.numel():
            return crops
        size = tuple(max(1, int(n * self.config.zoom + 1e-6)) for n in crops.shape[-2:])
        x = F.interpolate(crops.to(torch.float32), size, mode="bilinear", align_corners=False)
        return x if crops.is_floating_point() else x.round()  # the authors resize in the image's own type

    def _fit(self, crops: Tensor) -> Tensor:
        """Bring images of any number of channels to (B, C, 224, 224), float32, on their own scale."""
        x = crops.to(torch.float32)
        h, w = x.shape[-2:]
        if not h or not w:
            raise InputError(f"These crops are empty: {h} × {w} px.")
        if self.config.scaling == "rescale":
            x = _pad(x, max(h, w))
            if max(h, w) != SIDE_PX:
                x = F.interpolate(x, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
                if not crops.is_floating_point():
                    x = x.round()  # the authors resize in the image's own type
        elif max(h, w) > SIDE_PX:
            raise InputError(
                f"{SPEC.title} takes crops of at most {SIDE_PX} px and these are {h} × {w} px; cut smaller ones, set "
                "scaling to rescale, or embed whole fields by tiles."
            )
        return _pad(x, SIDE_PX)

    def seen_grid(self, side_px: int, seen_px: int) -> tuple[float, float]:
        """Padded crops lie in the middle, zoomed or as they are."""
        if self.config.scaling == "pad":
            zoomed = max(1, int(side_px * self.config.zoom + 1e-6))
            step = side_px / zoomed
            return (step - 1) / 2 - (seen_px - zoomed) // 2 * step, step
        return super().seen_grid(side_px, seen_px)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Mean of each level's map over its pixels, divided by its L2 norm, channel after channel.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops, H and W multiples of 8.
        layers : sequence of str
            Of `layers`; "level3" is the paper's embedding.
        """
        levels = {layer: int(self.check_layer(layer)[-1]) for layer in layers}
        images = self._images(x)
        found: dict[str, list[Tensor]] = {layer: [] for layer in levels}
        for part in images.split(_IMAGES_AT_ONCE):
            maps = self.encoder(part, max(levels.values()) + 1)
            for layer, level in levels.items():
                found[layer].append(_style(maps[level]))
        # concat of (B·C, n) gives (B, C, n)
        return {k: self._join(torch.cat(v).unflatten(0, tuple(x.shape[:2]))) for k, v in found.items()}

    def reconstruct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict the whole image from what is visible of it, each channel by itself.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops, H and W multiples of 8.
        mask : Tensor, optional
            True where the network may look, of a shape that fits `x`; see `mask_patches`.

        Returns
        -------
        Tensor of shape (B, C, H, W), float32
            On the scale of `x`.
        """
        images = self._images(x)
        if mask is not None:
            try:
                mask = mask.expand(x.shape).to(x.device)
            except RuntimeError:
                raise InputError(
                    f"The mask has shape {tuple(mask.shape)}; it has to fit the crops' {tuple(x.shape)}."
                ) from None
            images = images * mask.reshape(images.shape)
        return self._rebuild(images).reshape(x.shape)

    def hide(self, x: Tensor, seed: int = 0) -> Tensor:
        """Draw a mask to show what it makes of hidden patches: `mask_patches` with the paper's fraction."""
        return mask_patches(x, HIDDEN, torch.Generator().manual_seed(seed))

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error over all pixels, hidden and visible: ``{"loss"}``.

        Parameters
        ----------
        batch : mapping
            ``x``, images (N, 1, H, W), H and W multiples of 16; ``visible``, bool of the same shape.
        """
        x, visible = batch["x"], batch["visible"]
        return {"loss": F.mse_loss(self._rebuild(x * visible), x.float())}

    def learner(self, training: Training, steps_per_epoch: int) -> MaskedLearner:
        """What trains this network."""
        return MaskedLearner(self, training, steps_per_epoch)

    def training_crop(self, training: Training) -> CropSpec:
        """In view "field" larger windows than the network sees, of which a random part is taken."""
        if training.view == "cell":
            return self.crop
        side = SIDE_PX + 2 * training.shift_px
        return CropSpec(
            size_px=side, window_px=side, masked=self.crop.masked, padding="reflect", channels=self.roles
        )

    def _rebuild(self, images: Tensor) -> Tensor:
        """Images (N, 1, H, W), float32, from what is left of them."""
        maps = self.encoder(images)
        return self.decoder(maps, _style(maps[-1]).to(maps[-1].dtype)).float()  # type: ignore[no-any-return]

    def embed_field(
        self, image: np.ndarray, layer: str | None = None, tile_rate: float = 1.0, seed: int = 0
    ) -> np.ndarray:
        """Embed a whole field: the mean over overlapping tiles of 224 px, each scaled by itself (models.md §4.3).

        A zoomed field is resized on the CPU, because its numbers are rounded to the image's own type, and halves are not
        the same on every device.

        Parameters
        ----------
        image : ndarray of shape (C, H, W)
            Raw pixels, channels in the order of `roles`.
        layer : str, optional
            Of `layers`.
        tile_rate : float
            Fraction of the tiles to use, drawn at random; at least one is.
        seed : int
            Of that draw.

        Returns
        -------
        ndarray of shape (dim,), float32
        """
        from napari_cellrep.models._engine import to_tensor

        if not 0 < tile_rate <= 1:
            raise InputError(f"The fraction of tiles is {tile_rate}; it has to be above 0 and at most 1.")
        self.check_crops(image[None])
        tiles = cut_tiles(self._zoomed(to_tensor(image[None]))[0].numpy() if self.config.zoom != 1 else image)
        if tile_rate < 1:
            n = max(1, int(len(tiles) * tile_rate))
            tiles = tiles[np.sort(np.random.default_rng(seed).permutation(len(tiles))[:n])]
        return self._embed_tiles(tiles, layer).mean(dim=0).cpu().numpy()  # type: ignore[no-any-return]

    def embed_rows(
        self, shape: tuple[int, int], read: Callable[[int, int], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Embed a field larger than memory, a row of tiles after the other; the mean over all is what `embed_field` gives.

        With a ``zoom`` every tile is resized by itself.

        Parameters
        ----------
        shape : tuple of int
            Height and width of the field.
        read : callable
            Gives the raw pixels (C, h, W) of the field's rows from the first to the second number (exclusive).

        Yields
        ------
        ndarray of shape (n, dim), float32
            Vectors of one row's tiles.
        """
        from napari_cellrep.models._engine import to_tensor

        side = max(1, round(SIDE_PX / self.config.zoom))
        for y in tile_starts(shape[0], side):
            tiles = cut_tiles(read(int(y), int(min(y + side, shape[0]))), side_px=side)
            self.check_crops(tiles[:1])
            tiles = (
                self._zoomed(to_tensor(tiles)).numpy()[..., :SIDE_PX, :SIDE_PX]
                if self.config.zoom != 1
                else tiles
            )
            yield self._embed_tiles(tiles, None).cpu().numpy()

    def _embed_tiles(self, tiles: np.ndarray, layer: str | None) -> Tensor:
        """Vectors (n, dim) of tiles (n, C, h, w), each scaled by itself."""
        from napari_cellrep.models._engine import to_tensor

        device = next(self.parameters()).device
        with torch.inference_mode():
            found = [
                self.embed(_scale_percentiles(self._fit(to_tensor(part).to(device))), layer)
                for part in np.array_split(tiles, math.ceil(len(tiles) / 8))
            ]
        return torch.cat(found)

    def _images(self, x: Tensor) -> Tensor:
        """Preprocessed crops (B, C, H, W) as images (B · C, 1, H, W)."""
        self.check_crops(x)
        h, w = x.shape[-2:]
        if not h or not w or h % 8 or w % 8:
            raise InputError(
                f"{SPEC.title} wants preprocessed crops whose sides are multiples of 8 px; these are {h} × {w} px."
            )
        return x.reshape(-1, 1, h, w)

    def _join(self, vectors: Tensor) -> Tensor:
        """(B, C, n) → (B, dim)."""
        if self.config.channel_mode == "concat":
            return vectors.flatten(1)
        return vectors.mean(dim=1) if self.config.channel_mode == "mean" else vectors.sum(dim=1)


def _style(maps: Tensor) -> Tensor:
    """Mean over pixels divided by its L2 norm: (N, n, H, W) → (N, n) float32; zeros stay zeros."""
    return F.normalize(maps.float().mean(dim=(2, 3)), dim=1, eps=1e-30)


def _pad(x: Tensor, side: int) -> Tensor:
    """Zero-pad to a square, centred; an odd pixel goes to the end."""
    h, w = x.shape[-2:]
    top, left = (side - h) // 2, (side - w) // 2
    return F.pad(x, (left, side - w - left, top, side - h - top))


def _scale_percentiles(x: Tensor, flat_is_black: bool = False) -> Tensor:
    """(x − p1) / (p99 − p1) of every image (B, C, H, W); 1e-6 where the two are equal, as the authors have it.

    `flat_is_black` makes images whose percentiles are equal black instead.
    """
    flat = x.flatten(2)
    last = flat.shape[-1] - 1
    low = _rank(flat, _LOW * last, largest=False)
    high = _rank(flat, last - _HIGH * last, largest=True)
    if flat_is_black:
        return torch.where(high == low, 0.0, (flat - low) / (high - low)).reshape(x.shape)
    span = torch.where(high == low, torch.full_like(high, 1e-6), high - low)
    constant = flat.amin(dim=2, keepdim=True) == flat.amax(dim=2, keepdim=True)
    return torch.where(constant, flat, (flat - low) / span).reshape(x.shape)


def _rank(flat: Tensor, rank: float, *, largest: bool) -> Tensor:
    """Value of the last axis at a rank that may lie between two, counted from one end: (…, n) → (…, 1).

    Not ``torch.quantile``, whose ranks are float32 and so off by 0.002 in 50,000; and only the ends are sorted.
    """
    below = int(rank)
    ends = flat.topk(below + 2, dim=-1, largest=largest).values
    a, b = ends[..., below : below + 1], ends[..., below + 1 :]
    return a + (b - a) * (rank - below)


def mask_patches(x: Tensor, ratio: float = 0.25, generator: torch.Generator | None = None) -> Tensor:
    """Draw which 16×16 patches the network may see, for every image and channel by itself (models.md §4.5).

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
        H and W multiples of 16.
    ratio : float
        Fraction to hide: of 196 patches ``int(196 * (1 - ratio))`` stay visible.
    generator : torch.Generator, optional
        On the CPU, so that a seed gives the same masks on every device.

    Returns
    -------
    Tensor of shape (B, C, H, W), bool
        True where visible; ``x * mask`` is what the network gets.
    """
    if not 0 <= ratio <= 1:
        raise InputError(f"The fraction of patches to hide is {ratio}; it has to lie between 0 and 1.")
    b, c, h, w = x.shape
    if h % PATCH_PX or w % PATCH_PX:
        raise InputError(f"Masks are made of {PATCH_PX} px patches; the image is {h} × {w} px.")
    rows, columns = h // PATCH_PX, w // PATCH_PX
    n_keep = int(rows * columns * (1 - ratio))
    order = draw(torch.rand, (b, c, rows * columns), generator or torch.default_generator).argsort(dim=-1)
    keep = torch.zeros(order.shape, dtype=torch.bool).scatter_(2, order[..., :n_keep], True)
    keep = keep.reshape(b, c, rows, columns)
    return keep.repeat_interleave(PATCH_PX, 2).repeat_interleave(PATCH_PX, 3).to(x.device)


def cut_tiles(image: np.ndarray, overlap: float = 0.1, side_px: int = SIDE_PX) -> np.ndarray:
    """Cut a field into overlapping tiles that cover it evenly.

    Parameters
    ----------
    image : ndarray of shape (C, H, W)
    overlap : float
        Part of a tile's side that it shares with each neighbour, at least.
    side_px : int
        Of a tile.

    Returns
    -------
    ndarray of shape (n, C, min(H, side_px), min(W, side_px))
        In the image's dtype, row after row.
    """
    if image.ndim != 3 or not image.size:
        raise InputError(f"A field is an image (C, H, W); got shape {image.shape}.")
    h, w = (min(n, side_px) for n in image.shape[1:])
    rows, columns = (tile_starts(n, side_px, overlap) for n in image.shape[1:])
    return np.stack([image[:, y : y + h, x : x + w] for y in rows for x in columns])


def tile_starts(n: int, side_px: int = SIDE_PX, overlap: float = 0.1) -> np.ndarray:
    """First pixels of the tiles of `cut_tiles` along an axis of n px."""
    count = 1 if n <= side_px else math.ceil((1 + 2 * overlap) * n / side_px)
    return np.linspace(0, max(n - side_px, 0), count).astype(int)


# ---- training ---------------------------------------------------------------------------------------


def learning_rate_at(epoch: float, training: Training) -> float:
    """Learning rate after so many epochs: a straight line from 0, then half a cosine to 0 (models.md §4.5)."""
    warm = _warmup(training)
    if epoch < warm:
        return training.learning_rate * epoch / warm
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (training.epochs - warm)))


def _warmup(training: Training) -> float:
    return min(training.warmup_epochs, training.epochs * WARMUP_SHARE)


class MaskedLearner(Learner):
    """Masked autoencoding of single channels (models.md §4.5).

    The paper draws its batches from four types of images in turn. Here one channel is one type: step 0 shows all its
    cells in the first channel, step 1 in the second, and so on. A random square has a cell in it, at any place,
    because cells are what is drawn; beyond the image's edge it shows the mirror image, where the authors' squares lie
    within the image. The learning rate is that of the middle of each step, so that none is 0.

    Parameters
    ----------
    model : Model
    training : Training
    steps_per_epoch : int
    """

    def __init__(self, model: Model, training: Training, steps_per_epoch: int):
        super().__init__(model, training)
        self.net, self.settings, self.steps_per_epoch = model, training, steps_per_epoch
        self.channel = 0  # of the step
        warm = _warmup(training)
        if warm < training.warmup_epochs:
            self.notes.append(
                f"The learning rate warms up for {warm:g} of the {training.epochs} epochs instead of "
                f"{training.warmup_epochs}: half of them at most."
            )

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, without decay of biases and norms."""
        t = self.settings
        parameters = list(self.module.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": t.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=t.learning_rate, betas=(t.beta1, t.beta2), fused=self.fused)

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Whose turn it is, and the learning rate."""
        self.channel = step % len(self.net.roles)
        epoch = min((step + 0.5) / self.steps_per_epoch, self.settings.epochs)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch, self.settings)

    def prepare(self, crops: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Crop, scale, turn and hide one channel: ``x`` (B, 1, 224, 224) and ``visible``, bool."""
        t, x = self.settings, crops["x"]
        self.net.check_crops(x)
        x = x[:, self.channel : self.channel + 1]
        if t.view == "field":
            room = torch.tensor([max(n - SIDE_PX, 0) + 1 for n in x.shape[-2:]])
            x = _squares(x, (draw(torch.rand, (len(x), 2), generator) * room).long())
        else:
            x = self.net._zoomed(x)
        x = _scale_percentiles(self.net._fit(x), flat_is_black=True)
        x = _turned(x, t.rotate, t.scale_range, generator)
        return {"x": x, "visible": mask_patches(x, t.mask_ratio, generator)}

    def judge(self, crops: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The mean over the channels of the loss."""
        found = []
        for channel in range(len(self.net.roles)):
            self.channel = channel
            found.append(super().judge(crops, generator))
        return torch.stack(found).mean(dim=0)

    def to_show(self, crops: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole cells in all channels; of larger windows the middle."""
        x = crops["x"]
        if self.settings.view == "field":
            middle = torch.tensor([max(n - SIDE_PX, 0) // 2 for n in x.shape[-2:]])
            x = _squares(x, middle.expand(len(x), 2))
        else:
            x = self.net._zoomed(x)
        self.net.check_crops(x)
        return {"x": _scale_percentiles(self.net._fit(x))}


def _squares(x: Tensor, corners: Tensor) -> Tensor:
    """Of each image (B, C, H, W) the part of at most 224 px whose first pixel is at its corner (B, 2)."""
    h, w = (min(n, SIDE_PX) for n in x.shape[-2:])
    return torch.stack(
        [image[:, a : a + h, b : b + w] for image, (a, b) in zip(x, corners.tolist(), strict=True)]
    )


def _turned(x: Tensor, rotate: bool, scale_range: float, generator: torch.Generator) -> Tensor:
    """Turn square images (B, C, H, H) by any angle and enlarge them by 1 ± half the range; 0 comes in from outside."""
    draws = draw(torch.rand, (2, len(x)), generator, axis=1, dtype=torch.float64)
    if not rotate and not scale_range:
        return x
    angle = 2 * math.pi * draws[0] * rotate
    times = 1 + scale_range * (draws[1] - 0.5)
    cos, sin = torch.cos(angle) / times, torch.sin(angle) / times
    zero = torch.zeros_like(cos)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3).to(x.device, x.dtype)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


# ---- the authors' files -----------------------------------------------------------------------------


def recognise(path: Path) -> bool:
    """Whether a file is a PyTorch file with this network's weights: looks for its names, reads no objects."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(2**20)  # the names come first in both of PyTorch's formats
    except OSError:
        return False
    return head[:2] in (b"PK", b"\x80\x02") and _FIRST.encode() in head


def read_checkpoint(path: Path) -> Model:
    """Read the authors' ``.pth``, with and without ``module.`` before the names; the width comes from the tensors.

    Raises
    ------
    InputError
        If the file is damaged, holds other objects than tensors and plain values, or is of another network.
    """
    try:
        with warnings.catch_warnings():  # torch warns of pickles that it then refuses
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} was not opened: it is damaged, or holds Python objects that could run code when they are read. "
            'If you trust it, save its weights alone: torch.save({"model": torch.load(file, weights_only=False)'
            '["model"]}, new_file).'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a whole PyTorch file; download it again.") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise InputError(f"{path} is not a Microsnoop file: it has no weights under the name model.")
    inside = {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}
    state = {k: v.float() if v.is_floating_point() else v for k, v in (inside or state).items()}
    first = state.get(f"{_FIRST}proj.1.weight")
    if first is None or first.ndim != 4:
        raise InputError(f"{path} is not a Microsnoop file: {_FIRST}proj.1.weight is missing.")
    model = Model(make_config(Config, {"width": first.shape[0] / WIDTHS[0]}))
    _set_state(model, state, path)
    return model.eval()
