"""Augmentations on the device, drawn from an explicit generator."""

from __future__ import annotations

import torch
from torch import Tensor


def random_flips(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each item of (B, C, H, W) left-right and up-down, independently, each with probability 1/2.

    The choices are drawn on the generator's device (the CPU in training), so that every device sees the same ones.
    """
    flip = torch.rand(2, len(x), 1, 1, 1, generator=generator, device=generator.device).to(x.device) < 0.5
    x = torch.where(flip[0], x.flip(-1), x)
    return torch.where(flip[1], x.flip(-2), x)
