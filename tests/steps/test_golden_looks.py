"""The authors' golden vectors through the functions whose answers become layers, from an image file on."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_cellrep.data import create_project
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.jobs import drain
from napari_cellrep.models import load_model, save_model
from napari_cellrep.specs import Channel
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.inpaint import inpaint
from napari_cellrep.steps.look import attention, reconstruction
from napari_cellrep.steps.tokens import structure, tokens

CLOSE = {"rtol": 1e-4, "atol": 5e-4}  # the golden vectors' README
ROLES = ("protein", "nucleus")


@pytest.fixture
def seen(shared, tmp_path):
    """Make a project whose fields f0, f1, … are images (n, C, 64, 64), a cell in the middle of each, seen by a network."""

    def made(file, images):
        net, n_channels, fields = load_model(shared / "golden" / file), images.shape[1], []
        roles = net.roles if net.spec.name == "dino" else ROLES[:n_channels]
        for i, image in enumerate(images):
            path = tmp_path / f"f{i}.tif"
            tifffile.imwrite(path, image, photometric="minisblack")
            planes = tuple(Plane(str(path), c) for c in range(n_channels))
            fields.append(Field(f"f{i}", planes, 64, 64, str(image.dtype)))
        channels = tuple(Channel(role, role) for role in roles)
        project = create_project(tmp_path / "golden", with_groups(fields), channels)
        labels = np.zeros((64, 64), np.int32)
        labels[28:37, 28:37] = 1  # centred on pixel 32: its crop of 64 px is the whole image
        for field in fields:
            project.write_labels(field.id, labels, {"segmenter": "test"})
        drain(crop(project))
        if net.spec.name == "microsnoop":
            net.set_channels(roles)
        save_model(net, project.root / "models" / "mine")
        settings = {"crop": {"window_px": 64, "size_px": 64, "mode": "window"}}
        drain(embed(project, model="mine", device="cpu", precision="fp32", **settings))
        return project

    return made


def golden(shared, name):
    with np.load(shared / "golden" / name) as z:
        return dict(z)


def test_attention_and_tokens(shared, seen):
    z = golden(shared, "dino_tiny_features.npz")
    project = seen("dino_tiny_checkpoint.pth", z["native64/u8"])
    cells = ["f0:1", "f1:1"]
    for i, look in enumerate(attention(project, cells=cells)):
        maps = np.stack([plane.data for plane in look.planes[1:]])
        np.testing.assert_allclose(maps.reshape(3, 64), z["native64/attn"][i, :, 1:], **CLOSE)
        np.testing.assert_allclose(look.planes[0].data, maps.mean(axis=0), atol=1e-7)
        assert (look.planes[0].y0, look.planes[0].x0, look.planes[0].scale) == (0, 0, 8)

    patches = z["native64/tokens_last"][:, 1:].astype(np.float64)  # (2, 64, 48)
    centred = patches - patches.reshape(-1, 48).mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=2, keepdims=True)
    found = structure(project, cells=cells, y=8 * 3 + 2, x=8 * 5 + 6)  # in patch (3, 5)
    for i, look in enumerate(found):
        np.testing.assert_allclose(look.planes[0].data.ravel(), unit[i] @ unit[0, 3 * 8 + 5], **CLOSE)

    _, _, axes = np.linalg.svd(centred.reshape(-1, 48), full_matrices=False)
    for i, look in enumerate(tokens(project, cells=cells)):
        shown = look.planes[0].data.reshape(64, 3)
        own = centred[i] @ axes[:3].T
        for k in range(3):  # but for the sign, and what is cut at the percentiles
            middle = (shown[:, k] > 0.01) & (shown[:, k] < 0.99)
            assert abs(np.corrcoef(shown[middle, k], own[middle, k])[0, 1]) > 0.99999


def test_reconstruction(shared, seen):
    z = golden(shared, "microsnoop_tiny_golden.npz")
    project = seen("microsnoop_tiny_plain.pth", z["A/u16"])
    close = {"rtol": 1e-4, "atol": 2e-3}  # sums of up to 7,000, in another order
    for i, look in enumerate(reconstruction(project, cells=["f0:1", "f1:1", "f2:1"], ratio=0.0)):
        assert not look.mask.data.any()
        for c in range(2):
            redrawn, given, masked, error = look.planes[4 * c : 4 * c + 4]
            # The 84 px in the middle of 224, of which 64 show the image.
            want, x = (z[f"A/{k}"][2 * i + c, 0, 10:74, 10:74] for k in ("recon_center", "net_input_center"))
            np.testing.assert_allclose(redrawn.data, want, **close)
            np.testing.assert_allclose(given.data, x, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(masked.data, given.data)
            np.testing.assert_allclose(error.data, want - x, **close)
            assert (redrawn.y0, redrawn.x0, redrawn.scale) == (0, 0, 1)


def test_inpainting(shared, seen):
    z = golden(shared, "pci_yeast_tiny_golden.npz")
    project = seen("pci_yeast_tiny_keras.h5", np.stack([z["u16_gfp"], z["u16_rfp"]], axis=1))
    for i in range(3):
        found = drain(inpaint(project, source=f"f{i}:1", target=f"f{2 - i}:1", model="mine"))
        np.testing.assert_allclose(found["prediction"], z["recon"][i, :, :, 0], **CLOSE)
        np.testing.assert_allclose(found["structure"][0], z["y_in"][i, :, :, 0], atol=1e-5)
        assert (found["y0"], found["x0"], found["scale"]) == (0, 0, 1)
