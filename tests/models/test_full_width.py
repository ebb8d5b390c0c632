"""The networks at the papers' width, with weights that follow from names (golden/README.md).

The golden files are of narrow networks. Here the recipe that made their weights is shown to be the same, and the wide
networks made by it give in fp32 what they give in fp64, to the tolerance the golden files name for full width.
"""

import numpy as np
import pytest
import torch
from procedural import deeploc_names, draw, fill, keras_names, kind_of, torch_names

from napari_cellrep.models import create_model, load_model

# golden checkpoint → (names of its tensors, whether they are in torch's layout)
NARROW = {
    "pci_yeast_tiny_keras.h5": (keras_names("pci_yeast_tiny"), False),
    "pci_human_tiny_keras.h5": (keras_names("pci_human_tiny"), False),
    "pifia_tiny_weights_i0.index": (
        keras_names("pifia_tiny", lambda layer: layer.replace("conv", "bn")),
        False,
    ),
    "microsnoop_tiny_plain.pth": (torch_names("tiny/"), True),
    "dino_tiny_checkpoint.pth": (torch_names("teacher/backbone."), True),
}

WIDE = {
    "pci_yeast": ("paired_cell_inpainting", {}, keras_names("pci_yeast_full"), False),
    "pci_human": ("paired_cell_inpainting", {"n_structure": 2, "recipe": "human"}, keras_names("pci_human_full"), False),
    "deeploc": ("deeploc", {"network": "deeploc2017", "channels": 2, "n_classes": 19}, deeploc_names(), False),
    "pifia_512": (
        "deeploc", {"network": "representation", "channels": 1, "n_classes": 17},
        keras_names("pifia_full512", lambda layer: layer.replace("conv", "bn")), False,
    ),
    "pifia_64": (
        "deeploc", {"network": "representation", "channels": 1, "n_classes": 4049, "d1": 128, "d2": 64},
        keras_names("pifia_full64", lambda layer: layer.replace("conv", "bn")), False,
    ),
    "dino_small_16": ("dino", {"size": "small", "patch_px": 16}, torch_names(), True),
    "dino_base_8": ("dino", {"size": "base", "patch_px": 8}, torch_names(), True),
    "microsnoop": ("microsnoop", {}, torch_names(), True),
}  # fmt: skip


def test_the_recipe_is_the_one_of_the_golden_files():
    values = draw("patch_embed.proj.weight", (2, 2), "gain", True)
    np.testing.assert_allclose(
        (values - 1) / 0.1, [[-0.0405021, 0.7452327], [-1.9998105, 0.6848839]], atol=1e-5
    )


@pytest.mark.parametrize("file", NARROW)
def test_the_narrow_networks_can_be_made_again(shared, file):
    """Every tensor of the golden checkpoints follows from its name."""
    native, torch_layout = NARROW[file]
    model = load_model(shared / "golden" / file)
    stored = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fill(model, native, torch_layout)
    for key, tensor in model.state_dict().items():
        if kind_of(key, tensor.ndim) != "zero":
            torch.testing.assert_close(tensor, stored[key], rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_full_width_in_fp32_is_what_it_is_in_fp64(name):
    """rtol 1e-4 with atol 5e-4 of the largest value: golden/README.md's tolerance at full width."""
    model_name, config, native, torch_layout = WIDE[name]
    torch.manual_seed(0)
    model = create_model(model_name, **config).eval()
    fill(model, native, torch_layout)
    rng = np.random.default_rng(0)
    size = 224 if model_name == "microsnoop" else model.crop.size_px
    crops = torch.from_numpy(rng.integers(100, 4000, (2, len(model.roles), size, size)).astype(np.uint16))
    with torch.inference_mode():
        x = model.preprocess(crops)
        single = model.embed_layers(x, model.layers)
        double = model.double().embed_layers(x.double(), model.layers)
    for layer, vectors in single.items():
        wanted = double[layer].double()
        assert wanted.std(dim=0).max() > 0, layer
        torch.testing.assert_close(
            vectors.double(), wanted, rtol=1e-4, atol=5e-4 * max(1.0, float(wanted.abs().max())), msg=layer
        )
