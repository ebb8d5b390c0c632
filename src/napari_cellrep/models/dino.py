"""DINO: a vision transformer taught by itself, on microscopy images (DINO4Cells) or on photographs.

Papers: Doron et al., "Unbiased single-cell morphology with self-supervised vision transformers" (2023),
doi:10.1101/2023.06.16.545359; Caron et al., "Emerging properties in self-supervised vision transformers"
(ICCV 2021), arXiv:2104.14294. Network after the papers and models.md §3, written anew; the authors' checkpoints
and Facebook's ImageNet backbones can be read. DINO4Cells' code has no licence; Facebook's DINO is Apache-2.0.
Differs: a constant channel of any value becomes 0, not only a black one; of training, what `_dino_training` says.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cellrep.models._base import EmbeddingModel, HeldOut, Keep, MaxSeconds, MaxSteps, Patience, Seed
from napari_cellrep.models._dino_training import RECIPES, DinoLearner
from napari_cellrep.models._published import starter
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, Preset, Weights, first_line, make_config

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}  # dim, depth, heads

# The channels of the published checkpoints, in their order (models.md §3.3).
HPA = ("microtubules", "protein", "nucleus", "er")
CELL_PAINTING = ("nucleus", "rna", "er", "agp", "mito")
WTC11 = ("nucleus", "membrane", "structure")
# One of planes 0, 2 and 3 was blacked out in a fifth of the views (models.md §3.5): these may be missing.
_HPA_DROPPED = ("microtubules", "nucleus", "er")
_CELL_PAINTING_DROPPED = ("nucleus", "er", "agp")

_ZENODO = (
    "DINO4Cells' code has no licence; the licence of the weights is shown on the Zenodo record page, read it there. "
    "They are downloaded from there, not distributed with this package."
)
_APACHE = "Apache License 2.0, Facebook (github.com/facebookresearch/dino)."
_FACEBOOK = "https://dl.fbaipublicfiles.com/dino"

SPEC = ModelSpec(
    name="dino",
    title="DINO",
    roles=HPA,
    crop=CropSpec(size_px=224, window_px=224, channels=HPA),
    paper="Doron et al. 2023, bioRxiv, doi:10.1101/2023.06.16.545359; Caron et al. 2021, arXiv:2104.14294",
    licence="Method published; DINO4Cells weights as their Zenodo records say, ImageNet weights under Apache-2.0.",
    when=(
        "Human Protein Atlas, Cell Painting or WTC-11 images with the channels of a published checkpoint; or, with "
        "ImageNet weights, any channels. Gives attention maps and a vector for every patch. Wants a GPU for many cells."
    ),
    layers=("cls", "patch_mean"),
    trains=True,
    presets=(
        Preset(
            "small",
            "For hundreds to some ten thousand cells; ours, not the paper's: "
            "fewer prototypes, a smaller head, fewer small views, and the epoch kept whose held-out "
            "cells lie best among their own group.",
            {
                "batch_size": 32,
                "learning_rate": 2e-3,
                "n_local": 4,
                "out_dim": 2048,
                "hidden_dim": 512,
                "bottleneck_dim": 128,
                "keep": "val_knn",
                "patience": 30,
            },
        ),
    ),
    weights=(
        Weights(
            "dino-hpa-fov", "https://zenodo.org/records/8061392", _ZENODO, "",
            {"size": "base", "patch_px": 8, "channels": HPA},
            "Whole fields of the Human Protein Atlas; microtubules, protein, nucleus, ER. Sampling not stated.",
            inside="HPA_FOV_data/DINO_FOV_checkpoint.pth", may_lack=_HPA_DROPPED,
        ),
        Weights(
            "dino-hpa-cell", "https://zenodo.org/records/8061426", _ZENODO, "",
            {"size": "base", "patch_px": 16, "channels": HPA},
            "Masked cells of the Human Protein Atlas in 512 px; microtubules, protein, nucleus, ER. Sampling not stated.",
            inside="HPA_single_cells_data/DINO_single_cell_checkpoint.pth", size_px=512, may_lack=_HPA_DROPPED,
        ),
        Weights(
            "dino-wtc11", "https://zenodo.org/records/8061424", _ZENODO, "",
            {"size": "base", "patch_px": 8, "channels": WTC11},
            "WTC-11 cells, maximum projections; DNA, membrane, structure. Sampling not stated.",
            inside="WTC11_data/DINO_checkpoint.pth", roles=WTC11,
        ),
        Weights(
            "dino-cell-painting-base", "https://zenodo.org/records/8061428", _ZENODO, "",
            {"size": "base", "patch_px": 16, "image_px": 128, "resize_px": 224, "channels": CELL_PAINTING},
            "Cell Painting, 160 px cells; DNA, RNA, ER, AGP, Mito. Sampling not stated.",
            inside="Cell_Painting_data/DINO_cell_painting_base_checkpoint.pth", roles=CELL_PAINTING, size_px=160,
            may_lack=_CELL_PAINTING_DROPPED,
        ),
        Weights(
            "dino-cell-painting-small", "https://zenodo.org/records/8061428", _ZENODO, "",
            {"size": "small", "patch_px": 16, "image_px": 128, "resize_px": 224, "channels": CELL_PAINTING},
            "Cell Painting, 160 px cells; DNA, RNA, ER, AGP, Mito. Sampling not stated.",
            inside="Cell_Painting_data/DINO_cell_painting_small_checkpoint.pth", roles=CELL_PAINTING, size_px=160,
            may_lack=_CELL_PAINTING_DROPPED,
        ),
        *(
            Weights(
                f"dino-imagenet-{size}{patch}", f"{_FACEBOOK}/{file}/{file}.pth", _APACHE, "",
                {"size": size, "patch_px": patch, "as_rgb": True},
                "ImageNet photographs; each channel is shown as a grey picture, any number of channels.",
                roles=("protein",),
            )
            for size, patch, file in (
                ("small", 16, "dino_deitsmall16_pretrain"), ("small", 8, "dino_deitsmall8_pretrain"),
                ("base", 16, "dino_vitbase16_pretrain"), ("base", 8, "dino_vitbase8_pretrain"),
            )
        ),
        starter(
            "dino-starter",
            {"channels": ("protein", "nucleus"), "image_px": 64, "patch_px": 8, "dim": 72, "depth": 3, "heads": 3},
            " Gives attention maps of 8 × 8 patches, soft still.",
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What the network is.

    Parameters
    ----------
    channels : tuple of str
        Names or roles of the channels, in the order the network takes them.
    size : str
        "tiny", "small" or "base": dim 192, 384, 768 with 3, 6, 12 heads, 12 blocks each.
    patch_px : int
        Side of a patch.
    image_px : int
        Side of the images that the position embeddings are for; other sizes are interpolated.
    as_rgb : bool
        A network for photographs (3 inputs): each channel is shown to it as grey, and the vectors are put one after
        the other (models.md §3.4).
    eight_bit : bool
        Reduce every channel of every crop to 0 … 255 first, cutting off fractions, as the authors do with
        unnormalised images; 8-bit crops stay as they are.
    resize_px : int
        Resize crops to this side first, corners on corners, as the authors do for Cell Painting; 0: not.
    dim, depth, heads : int
        Instead of those of `size`; 0: those of `size`.
    """

    channels: Annotated[
        tuple[str, ...], {"label": "Channels", "help": "Names or roles, in the network's order."}
    ] = HPA
    size: Annotated[str, {"choices": tuple(SIZES), "label": "Size"}] = "small"
    patch_px: Annotated[
        int, {"min": 2, "max": 64, "label": "Patch (px)", "help": "8 sees more and costs 5 times 16."}
    ] = 16
    image_px: Annotated[
        int, {"min": 8, "max": 2048, "label": "Image (px)", "help": "Size the positions are made for."}
    ] = 224
    as_rgb: Annotated[
        bool,
        {"label": "Each channel as a photograph", "help": "For ImageNet weights; any number of channels."},
    ] = False
    eight_bit: Annotated[
        bool,
        {
            "same_weights": True,
            "label": "Reduce to 8 bits",
            "help": "As the authors do with unnormalised 16-bit images.",
        },
    ] = False
    resize_px: Annotated[
        int,
        {
            "min": 0,
            "max": 2048,
            "same_weights": True,
            "label": "Resize (px)",
            "help": "0: crops stay as they are.",
        },
    ] = 0
    dim: Annotated[int, {"min": 0, "max": 4096, "label": "Width", "help": "0: as the size says."}] = 0
    depth: Annotated[int, {"min": 0, "max": 64, "label": "Blocks", "help": "0: as the size says."}] = 0
    heads: Annotated[int, {"min": 0, "max": 64, "label": "Heads", "help": "0: as the size says."}] = 0


TINY = Config(patch_px=8, image_px=32, dim=48, depth=2, heads=3)


@dataclass(frozen=True)
class Training:
    """How it is trained: a student follows its own running mean, the teacher (models.md §3.5).

    The teacher's backbone is what is saved and embeds. Schedules are those of `epochs`, however early a limit ends
    training; a run that goes on with other `epochs` takes up the schedules of the new length where it is.

    Parameters
    ----------
    epochs : int
        Passes over all cells.
    batch_size : int
        Cells per step, at most.
    learning_rate : float
        For 256 cells per step; the peak is this times ``batch_size / 256``, after `warmup_epochs`.
    recipe : str
        How views differ. "hpa_effective": what the authors' released settings do on the Human Protein Atlas;
        "hpa_intended": what their paper describes; "cell_painting": theirs for Cell Painting.
    n_local : int
        Small views per cell beside the two large ones.
    global_px, local_px : int
        Sides of large and small views; 0: the network's `image_px`, and 96 of 224 of it (64 of 128 for
        Cell Painting) in whole patches.
    scale_split, local_scale_min : float
        Large views show from `scale_split` to all of the crop's area, small ones from `local_scale_min` to
        `scale_split`.
    out_dim, hidden_dim, bottleneck_dim : int
        Widths of the projection head.
    norm_last_layer : bool
        Whether the head's prototypes keep the length 1.
    freeze_last_layer_epochs : int
        Epochs in which the head's last layer stays as it is.
    warmup_epochs : int
        At most half of `epochs` counts.
    final_learning_rate : float
        At the end; not scaled by the batch.
    weight_decay, final_weight_decay : float
        At the beginning and at the end, by half a cosine; biases and norms have none.
    momentum : float
        Of the teacher; rises to 1 by half a cosine.
    student_temperature, teacher_temperature : float
    warmup_teacher_temperature : float
        The teacher's at the beginning of `warmup_teacher_epochs`.
    warmup_teacher_epochs : int
    center_momentum : float
    clip_norm : float
        The gradient of each tensor by itself is clipped to this norm; 0: not.
    drop_path : float
        How often the last block's branches are left out in the student; less in the blocks before.
    seed : int
    held_out, keep, patience
        Part of the cells that judges (`_sampling.hold_out`), whose weights are kept, and when to end early.
    max_steps, max_seconds
        Limits; 0: none.
    """

    epochs: Annotated[
        int,
        {
            "min": 1,
            "max": 10_000,
            "label": "Epochs",
            "help": "Passes over all cells; the paper has 100 or more.",
        },
    ] = 100
    batch_size: Annotated[
        int,
        {
            "min": 1,
            "max": 4096,
            "label": "Batch size",
            "help": "Cells per step; the authors have 24 to 512 per GPU. Less needs less memory.",
        },
    ] = 64
    learning_rate: Annotated[
        float,
        {"min": 1e-7, "max": 1.0, "step": 1e-5, "label": "Learning rate", "help": "For 256 cells per step."},
    ] = 5e-4
    recipe: Annotated[
        str,
        {
            "choices": tuple(RECIPES),
            "label": "Views",
            "help": "As the authors' settings, as their paper, or as they do for Cell Painting.",
        },
    ] = "hpa_effective"
    n_local: Annotated[int, {"min": 0, "max": 64, "label": "Small views"}] = 8
    global_px: Annotated[
        int, {"min": 0, "max": 2048, "label": "Large view (px)", "help": "0: as the network's image."}
    ] = 0
    local_px: Annotated[
        int, {"min": 0, "max": 2048, "label": "Small view (px)", "help": "0: 96 of 224 of the large one."}
    ] = 0
    scale_split: Annotated[
        float,
        {
            "min": 0.01,
            "max": 0.99,
            "step": 0.05,
            "label": "Area of views",
            "help": "Large views show more than this part of the crop, small ones less.",
        },
    ] = 0.4
    local_scale_min: Annotated[
        float, {"min": 0.001, "max": 0.99, "step": 0.05, "label": "Least area of a small view"}
    ] = 0.05
    out_dim: Annotated[
        int, {"min": 2, "max": 262_144, "label": "Prototypes", "help": "Less needs less memory."}
    ] = 65_536
    hidden_dim: Annotated[int, {"min": 1, "max": 16_384, "label": "Head, hidden width"}] = 2048
    bottleneck_dim: Annotated[int, {"min": 1, "max": 4096, "label": "Head, bottleneck"}] = 256
    norm_last_layer: Annotated[
        bool, {"label": "Prototypes of length 1", "help": "Steadier; without it, sometimes better."}
    ] = True
    freeze_last_layer_epochs: Annotated[
        int, {"min": 0, "max": 10_000, "label": "Freeze last layer (epochs)"}
    ] = 1
    warmup_epochs: Annotated[
        int,
        {
            "min": 0,
            "max": 10_000,
            "label": "Warm-up (epochs)",
            "help": "The learning rate rises slowly so long, but never for more than half of the epochs.",
        },
    ] = 10
    final_learning_rate: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 1e-6, "label": "Learning rate, at the end"}
    ] = 1e-6
    weight_decay: Annotated[float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Weight decay"}] = 0.04
    final_weight_decay: Annotated[
        float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Weight decay, at the end"}
    ] = 0.4
    momentum: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.001,
            "label": "Teacher momentum",
            "help": "Rises to 1; small data and batches want it nearer to 1.",
        },
    ] = 0.996
    student_temperature: Annotated[
        float, {"min": 0.001, "max": 10.0, "step": 0.01, "label": "Student temperature"}
    ] = 0.1
    teacher_temperature: Annotated[
        float, {"min": 0.001, "max": 10.0, "step": 0.01, "label": "Teacher temperature"}
    ] = 0.04
    warmup_teacher_temperature: Annotated[
        float, {"min": 0.001, "max": 10.0, "step": 0.01, "label": "Teacher temperature, at first"}
    ] = 0.04
    warmup_teacher_epochs: Annotated[
        int, {"min": 0, "max": 10_000, "label": "Teacher temperature warm-up (epochs)"}
    ] = 0
    center_momentum: Annotated[float, {"min": 0.0, "max": 1.0, "step": 0.01, "label": "Center momentum"}] = (
        0.9
    )
    clip_norm: Annotated[
        float, {"min": 0.0, "max": 1e6, "step": 0.5, "label": "Clip gradients", "help": "0: not."}
    ] = 3.0
    drop_path: Annotated[float, {"min": 0.0, "max": 0.9, "step": 0.05, "label": "Drop path"}] = 0.1
    seed: Seed = 0
    held_out: HeldOut = 0.1
    keep: Keep = "last"
    patience: Patience = 0
    max_steps: MaxSteps = 0
    max_seconds: MaxSeconds = 0.0


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens `rows`, keys and values of all: each (B, heads, tokens, dim / heads)."""
        if rows == slice(None):
            q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return q, k, v
        dim = x.shape[-1]
        w, b = self.qkv.weight, self.qkv.bias
        q = F.linear(x[:, rows], w[:dim], b[:dim]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = F.linear(x, w[dim:], b[dim:]).unflatten(2, (2, self.heads, -1))  # (B, N, 2, heads, d)
        k, v = kv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        y = F.scaled_dot_product_attention(*self.project(x, rows))
        return self.proj(y.transpose(1, 2).flatten(2))

    def look(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention weights (B, heads, rows, N)."""
        q, k, v = self.project(x, rows)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights


class _Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim)

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """The tokens `rows` after the block; every token is looked at."""
        y = x[:, rows] + self.attn(self.norm1(x), rows)
        return y + self.mlp(self.norm2(y))

    def look(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        y, weights = self.attn.look(self.norm1(x), rows)
        y = x[:, rows] + y
        return y + self.mlp(self.norm2(y)), weights


class _PatchEmbed(nn.Module):
    def __init__(self, n_in: int, dim: int, patch_px: int):
        super().__init__()
        self.proj = nn.Conv2d(n_in, dim, patch_px, stride=patch_px)


_CLS, _PATCHES = slice(0, 1), slice(1, None)


class Model(EmbeddingModel):
    """Vision transformer without a head.

    Parameters
    ----------
    config : Config

    Notes
    -----
    With `Config.as_rgb`, what follows holds for every channel by itself: vectors and patch vectors of the channels
    are put one after the other, and so are the heads of the attention.

    References
    ----------
    .. [1] Doron et al. 2023, doi:10.1101/2023.06.16.545359; layout and constants in models.md §3.1.
    """

    spec = SPEC
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        if not config.channels:
            raise InputError("DINO needs at least one channel.")
        if config.image_px < config.patch_px:
            raise InputError(
                f"Images of {config.image_px} px are smaller than a patch of {config.patch_px} px; "
                "make image_px larger or patch_px smaller."
            )
        own = SIZES[config.size]
        self.width, depth, self.heads = (
            given or usual for given, usual in zip((config.dim, config.depth, config.heads), own, strict=True)
        )
        if self.width % self.heads:
            raise InputError(
                f"A width of {self.width} cannot be shared by {self.heads} heads; make it a multiple of the heads."
            )
        self.roles = tuple(config.channels)
        self.crop = replace(
            SPEC.crop, size_px=config.image_px, window_px=config.image_px, channels=self.roles
        )
        n_in = 3 if config.as_rgb else len(self.roles)
        n_patches = (config.image_px // config.patch_px) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + n_patches, self.width))
        self.patch_embed = _PatchEmbed(n_in, self.width, config.patch_px)
        self.blocks = nn.ModuleList(_Block(self.width, self.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        for p in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(p, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def set_channels(self, channels: Sequence[str]) -> None:
        """Take other channels, in any number with `Config.as_rgb`: the weights stay as they are."""
        if self.config.as_rgb and channels:
            self.config = replace(self.config, channels=tuple(channels))
            self.roles = self.config.channels
            self.crop = replace(self.crop, channels=self.roles)

    def dim(self, layer: str | None = None) -> int:
        """Width of the network; times the number of channels if each is shown as RGB."""
        self.check_layer(layer)
        return self.width * (len(self.roles) if self.config.as_rgb else 1)

    def preprocess(self, crops: Tensor) -> Tensor:
        """Scale each channel of each crop to mean 0 and standard deviation 1 (models.md §3.4).

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            Any dtype. Background counts. 8-bit pixels are divided by 255 first, all others are taken as they are.

        Returns
        -------
        Tensor of shape (B, C, H, W), float32
            A constant channel is 0.
        """
        self.check_crops(crops)
        if crops.dtype == torch.uint8 or self.config.eight_bit:
            return self.standardise(self.to_unit(crops))
        x = crops.to(torch.float32)
        if self.config.resize_px:
            x = resize_corners(x, self.config.resize_px)
        return self.standardise(x)

    def to_unit(self, crops: Tensor) -> Tensor:
        """Images from 0 to 1 of raw crops, for training: 8-bit pixels by 255, others by each channel's range.

        Parameters
        ----------
        crops : Tensor of shape (B, C, H, W)
            Any dtype.

        Returns
        -------
        Tensor of shape (B, C, H, W), float32
            A constant channel is 0 where pixels are not 8-bit.
        """
        self.check_crops(crops)
        if crops.dtype == torch.uint8:
            x = crops.to(torch.float32) / 255
        elif self.config.eight_bit:
            x = _eight_bit(crops).to(crops.device) / 255
        else:
            x = crops.to(torch.float32)
            low = x.amin(dim=(2, 3), keepdim=True)
            span = x.amax(dim=(2, 3), keepdim=True) - low
            x = (x - low) / torch.where(span == 0, 1.0, span)
        return resize_corners(x, self.config.resize_px) if self.config.resize_px else x

    def standardise(self, x: Tensor) -> Tensor:
        """Each channel of each image with mean 0 and standard deviation 1; a constant one is 0."""
        flat = x.amax(dim=(2, 3), keepdim=True) == x.amin(dim=(2, 3), keepdim=True)
        sd, mean = torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)
        # Rounding leaves a constant channel a little off its mean, and 1e-7 would make that large.
        return torch.where(flat, torch.zeros_like(x), (x - mean) / (sd + 1e-7))

    def seen_grid(self, side_px: int, seen_px: int) -> tuple[float, float]:
        """Resized crops have their corner pixels on the raw crop's (see `resize_corners`)."""
        if not self.config.resize_px or seen_px < 2:
            return super().seen_grid(side_px, seen_px)
        shrink = max(side_px / seen_px / 2, 1.0)  # first by area, where it is much larger
        return (shrink - 1) / 2, shrink * (int(side_px / shrink) - 1) / (seen_px - 1)

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Class token ("cls") and mean of the patch tokens ("patch_mean"), both after the final norm.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops of any size from one patch on; what is left over beyond whole patches is not seen.
        layers : sequence of str
            Of `layers`.
        """
        wanted = {self.check_layer(layer) for layer in layers}
        before, _ = self._before_last(x)
        found: dict[str, Tensor] = {}
        if "cls" in wanted:
            found["cls"] = self._last_cls(before)[0]
        if "patch_mean" in wanted:
            found["patch_mean"] = self.norm(self.blocks[-1](before, _PATCHES)).mean(dim=1)
        return {layer: self._join(found[layer].float(), len(x)) for layer in layers}

    def embed_and_attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors "cls" and the attention of `attention`, for the price of the vectors (performance.md §2.2).

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops.

        Returns
        -------
        vectors : Tensor of shape (B, dim), float32
        attention : Tensor of shape (B, heads, h, w), float32
        """
        before, grid = self._before_last(x)
        cls, weights = self._last_cls(before)
        maps = weights[:, :, 0, 1:].unflatten(2, grid).float()  # without the class token's look at itself
        return self._join(cls.float(), len(x)), self._join(maps, len(x))

    def attention(self, x: Tensor) -> Tensor:
        """Where the class token looks in the last block, by head.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops.

        Returns
        -------
        Tensor of shape (B, heads, h, w), float32
            One number per patch; h = H // patch. With the class token's look at itself they would sum to 1.
        """
        return self.embed_and_attend(x)[1]

    def patch_tokens(self, x: Tensor, stride: int = 0) -> Tensor:
        """Vectors of the patches after the final norm.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops.
        stride : int
            Pixels from patch to patch; 0: the patch, so that patches do not overlap.

        Returns
        -------
        Tensor of shape (B, dim, h, w), float32
            h = 1 + (H - patch) // stride.
        """
        before, grid = self._before_last(x, stride)
        tokens = self.norm(self.blocks[-1](before, _PATCHES)).float()
        return self._join(tokens.transpose(1, 2).unflatten(2, grid), len(x))

    def dense_keys(self, x: Tensor, stride: int = 4) -> Tensor:
        """Keys of the patches in the last block, with overlapping patches (models.md §3.6).

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops.
        stride : int
            Pixels from patch to patch.

        Returns
        -------
        Tensor of shape (B, dim, h, w), float32
            The head's index is the fastest within dim; h = 1 + (H - patch) // stride.
        """
        before, grid = self._before_last(x, stride)
        last: Any = self.blocks[-1]
        _, k, _ = last.attn.project(last.norm1(before), _CLS)  # (B, heads, 1 + N, d)
        keys = k[:, :, 1:].permute(0, 3, 1, 2).flatten(1, 2).unflatten(2, grid).float()
        return self._join(keys, len(x))

    def tokens(self, x: Tensor, block: int = -1) -> Tensor:
        """All tokens after a block and the final norm: (B, 1 + h·w, width), the class token first.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Preprocessed crops; with `Config.as_rgb` B·C rows come back, one for each channel.
        block : int
            0 … depth - 1; negative: counted from the end.
        """
        if not -len(self.blocks) <= block < len(self.blocks):
            raise InputError(f"There is no block {block}; this network has {len(self.blocks)}.")
        y, _ = self._tokens_in(x)
        for layer in self.blocks[: block % len(self.blocks) + 1]:
            y = layer(y)
        return self.norm(y).float()  # type: ignore[no-any-return]

    def positions(self, grid: tuple[int, int], square: bool) -> Tensor:
        """Position embeddings (1, 1 + h·w, width) of a grid of patches.

        Parameters
        ----------
        grid : tuple of int
            Patches (h, w).
        square : bool
            Whether the image is square; if it also has the native number of patches, nothing is interpolated.
        """
        n = self.pos_embed.shape[1] - 1
        side = math.isqrt(n)
        h, w = grid
        if h * w == n and square:
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().transpose(1, 2).unflatten(2, (side, side))  # (1, D, side, side)
        # The factor, 0.1 too large, is also that of the sampling; naming the size instead gives other vectors.
        factor = ((h + 0.1) / side, (w + 0.1) / side)
        table = F.interpolate(table, scale_factor=factor, mode="bicubic", recompute_scale_factor=False)
        if table.shape[2:] != (h, w):
            raise InputError(
                f"Positions cannot be interpolated from {side} × {side} to {h} × {w} patches; use another crop size."
            )
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def learner(self, training: Training, steps_per_epoch: int) -> DinoLearner:
        """Make this network the teacher of a student that starts as its copy."""
        return DinoLearner(self, training, steps_per_epoch)

    def _tokens_in(self, x: Tensor, stride: int = 0) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, 1 + h·w, D) before the first block, and the grid (h, w)."""
        self.check_crops(x)
        patch = self.config.patch_px
        if stride < 0:
            raise InputError(
                f"The stride is {stride}; it has to be at least 1 px, or 0 for the patch's side."
            )
        height, width = x.shape[2:]
        if min(height, width) < patch:
            raise InputError(
                f"{SPEC.title} wants crops of at least one patch of {patch} px; these are {height} × {width} px."
            )
        if self.config.as_rgb:
            x = x.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)  # (B·C, 3, H, W)
        proj = self.patch_embed.proj
        y = F.conv2d(x, proj.weight, proj.bias, stride=stride or patch)  # (B, D, h, w)
        h, w = y.shape[2:]
        y = torch.cat([self.cls_token.expand(len(y), -1, -1), y.flatten(2).transpose(1, 2)], dim=1)
        return y + self.positions((h, w), height == width), (h, w)

    def _before_last(self, x: Tensor, stride: int = 0) -> tuple[Tensor, tuple[int, int]]:
        y, grid = self._tokens_in(x, stride)
        for block in self.blocks[:-1]:
            y = block(y)
        return y, grid

    def _last_cls(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Class token (B, D) and its attention (B, heads, 1, 1 + N); the last block asks for nothing else."""
        last: Any = self.blocks[-1]
        y, weights = last.look(before, _CLS)
        return self.norm(y)[:, 0], weights

    def _join(self, y: Tensor, n: int) -> Tensor:
        """(B·C, K, …) → (B, C·K, …) where each channel went by itself."""
        return y.unflatten(0, (n, -1)).flatten(1, 2) if self.config.as_rgb else y


def _eight_bit(crops: Tensor) -> Tensor:
    """Each channel from its minimum to its maximum as 0 … 255, fractions cut off; float32, NaN stays NaN."""
    x = crops.cpu().to(torch.float64)  # the authors' numbers are in numpy's double; MPS has none
    low = x.amin(dim=(2, 3), keepdim=True)
    span = x.amax(dim=(2, 3), keepdim=True) - low
    # A factor, rounded once (255 / tensor would be rounded twice): a maximum may become 254, as it does for the authors.
    scale = torch.full_like(span, 255) / torch.where(span == 0, 1.0, span)
    return torch.floor((x - low) * scale).to(torch.float32)


def resize_corners(x: Tensor, side_px: int) -> Tensor:
    """Resize (B, C, H, W) to (B, C, side, side), corner pixels on corner pixels (FA_resize, models.md §3.4)."""
    shrink = min(x.shape[2] / side_px, x.shape[3] / side_px) / 2
    if shrink > 1:
        x = F.interpolate(x, scale_factor=1 / shrink, mode="area", recompute_scale_factor=False)
    return F.interpolate(x, size=(side_px, side_px), mode="bilinear", align_corners=True)


# ---- the authors' files -----------------------------------------------------------------------------

_KEYS = (
    b"cls_token",
    b"pos_embed",
    b"patch_embed.proj.weight",
    b"blocks.0.attn.qkv.weight",
    b"blocks.0.norm1.weight",
)
# Other vision transformers have these too: DINOv2, masked autoencoders, distilled and averaging ones.
_OTHERS = (b".ls1.", b"mask_token", b"register_tokens", b"decoder_", b"fc_norm", b"dist_token", b"q_norm")
_PEEK_BYTES = 1 << 24
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how torch files began before they were zip files

_HEADS = {f"vit_{size}": heads for size, (_, _, heads) in SIZES.items()}
_HEADS |= {f"deit_{size}": heads for size, (_, _, heads) in SIZES.items()}

# What a training checkpoint holds beside tensors, dicts and plain values: its arguments, and in the optimizer the
# learning rate as a numpy number. numpy 1 called the module numpy.core, and files remember the name.
_NUMBER = np.float64(0).__reduce__()[0]
_SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "bool")),
    (_NUMBER, "numpy._core.multiarray.scalar"),
    (_NUMBER, "numpy.core.multiarray.scalar"),
]
_BROKEN = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
    AssertionError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def recognise(path: Path) -> bool:
    """Whether a torch file names the tensors of this network; nothing is unpickled."""
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
                if name is None:
                    return False
                with archive.open(name) as file:
                    text = file.read(_PEEK_BYTES)
        else:
            with path.open("rb") as file:  # before torch 1.6: names first, numbers after
                if file.read(len(_MAGIC)) != _MAGIC:
                    return False
                text = file.read(_PEEK_BYTES)
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        struct.error,
    ):
        return False
    return all(key in text for key in _KEYS) and not any(key in text for key in _OTHERS)


def read_checkpoint(path: Path) -> Model:
    """Read a training checkpoint (its teacher) or the weights of a bare backbone.

    Sizes come from the tensors, the number of heads from the arguments in the file, else dim / 64. Channels by their
    number (models.md §3.3): 4 as in the Human Protein Atlas, 5 as in Cell Painting, 3 as WTC-11 in a training
    checkpoint and RGB in a bare backbone.

    Raises
    ------
    InputError
        If the file is broken, holds code, or is not this network.
    """
    path = Path(path)
    held = _load(path)
    training = "teacher" in held
    state = held["teacher"] if training else held
    if not training and "student" in held:
        raise InputError(f"{path} has a student and no teacher; features are made with the teacher.")
    state = _backbone(state, path)
    config = _read_config(state, held.get("args"), training, path)
    try:
        model = Model(make_config(Config, config))
    except InputError as error:
        raise InputError(f"{path} is not a DINO network we can build. {error}") from None
    mine = model.state_dict()
    odd = sorted(mine.keys() ^ state.keys())
    if odd:
        word = "lacks" if odd[0] in mine else "has the unknown tensor"
        raise InputError(f"{path} is not a DINO vision transformer: it {word} {odd[0]}.")
    for key, tensor in state.items():
        if tensor.shape != mine[key].shape:
            raise InputError(
                f"{path} has {key} of shape {tuple(tensor.shape)}; {tuple(mine[key].shape)} is wanted."
            )
    model.load_state_dict({k: v.to(torch.float32) for k, v in state.items()})
    if model.roles == HPA and config["patch_px"] == 16 and not config["as_rgb"]:
        model.crop = replace(model.crop, size_px=512, window_px=512, masked=True)
    if model.roles == CELL_PAINTING:
        model.crop = replace(model.crop, size_px=160, window_px=160)
    return model.eval()


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_SAFE):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise InputError(
                f"{path} holds more than weights ({named[1]}) and is not opened, because that could run code; "
                "ask its author for the weights alone."
            ) from None
        raise InputError(f"{path} cannot be read as weights; it is damaged or no torch file.") from error
    except _BROKEN as error:
        reason = first_line(error, None)
        raise InputError(f"{path} is damaged or no torch file ({reason}).") from error
    if not isinstance(held, Mapping):
        raise InputError(f"{path} holds no dictionary of weights.")
    return held


def _backbone(state: Any, path: Path) -> dict[str, Tensor]:
    """Tensors of the backbone, without the prefixes of the wrappers around it."""
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise InputError(f"{path} holds no dictionary of weights.")
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if any(k.startswith("backbone.") for k in state):
        state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    for key, value in state.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise InputError(f"{path} is not a DINO vision transformer: {key} is no tensor of weights.")
    return state


def _read_config(state: Mapping[str, Tensor], args: Any, training: bool, path: Path) -> dict[str, Any]:
    ranks = {"patch_embed.proj.weight": 4, "pos_embed": 3, "cls_token": 3}
    for key, rank in ranks.items():
        if key not in state or state[key].ndim != rank:
            raise InputError(
                f"{path} is not a DINO vision transformer: it lacks {key}, or has it in another form."
            )
    dim, n_in, patch, _ = state["patch_embed.proj.weight"].shape
    n_patches = state["pos_embed"].shape[1] - 1
    side = math.isqrt(max(n_patches, 0))
    if side < 1 or side**2 != n_patches:
        raise InputError(
            f"{path} has positions for {n_patches} patches, which is no square; it is not a DINO network."
        )
    depth = len({k.split(".")[1] for k in state if k.startswith("blocks.")})
    arch = args.get("arch") if isinstance(args, Mapping) else getattr(args, "arch", None)
    heads = _HEADS.get(arch, 0) if isinstance(arch, str) else 0
    heads = heads or max(1, dim // 64)
    as_rgb = n_in == 3 and not training
    known = {3: WTC11, 4: HPA, 5: CELL_PAINTING}
    config: dict[str, Any] = {
        "channels": HPA if as_rgb else known.get(n_in, ("other",) * n_in),
        "patch_px": patch,
        "image_px": side * patch,
        "as_rgb": as_rgb,
        "resize_px": 224 if n_in == 5 else 0,
    }
    for size, numbers in SIZES.items():
        if numbers == (dim, depth, heads):
            return config | {"size": size}
    return config | {"dim": dim, "depth": depth, "heads": heads}
