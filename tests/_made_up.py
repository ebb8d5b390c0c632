"""A network that looks at what is bright, and an image of which all is known."""

from __future__ import annotations

import numpy as np
import tifffile
import torch

from napari_cellrep.data import create_project
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model
from napari_cellrep.specs import Channel
from napari_cellrep.steps.crop import crop

DINO = {"channels": ("FKHR-GFP", "DNA"), "patch_px": 8, "image_px": 32, "dim": 4, "depth": 1, "heads": 2}


def brightness_dino(**config):
    """A network whose first head looks at the first channel's bright patches, its second everywhere alike."""
    net = create_model("dino", **{**DINO, **config})
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        for module in net.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1)
        mean = 1 / net.config.patch_px**2
        net.patch_embed.proj.weight[0, 0], net.patch_embed.proj.weight[1, 0] = mean, -mean
        net.patch_embed.proj.bias[:] = torch.tensor([0.0, 0, 10, -10])  # so that the norm keeps brightness
        net.cls_token[0, 0] = torch.tensor([0.0, 0, 10, -10])
        attn = net.blocks[0].attn
        attn.qkv.bias[0] = 5.0  # the first head's query
        attn.qkv.weight[4, 0] = 5.0  # and its key: brightness
        attn.qkv.weight[8:12] = torch.eye(4)
        attn.proj.weight[:] = torch.eye(4)
    return net


def made_up(tmp_path, cells, spots, um=0.0, side=96):
    """A project of one field: square cells of 9 px, and bright squares (y0, x0, side) in the first channel."""
    image = np.full((2, side, side), 100, np.uint16)
    labels = np.zeros((side, side), np.int32)
    for i, (y, x) in enumerate(cells, 1):
        labels[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = i
        image[1, max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = 900
    for y0, x0, n in spots:
        image[0, max(y0, 0) : y0 + n, max(x0, 0) : x0 + n] = 5000
    tifffile.imwrite(tmp_path / "one.tif", image)
    planes = tuple(Plane(str(tmp_path / "one.tif"), i) for i in range(2))
    field = Field("one", planes, side, side, "uint16", um_per_px=um)
    channels = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
    project = create_project(tmp_path / "made", with_groups([field]), channels)
    project.write_labels("one", labels, {"segmenter": "test"})
    drain(crop(project))
    return project
