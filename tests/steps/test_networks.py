"""The network of an embedding is found again: its vectors come out the same, or a sentence says why not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.embed import cut_cells, embed
from napari_cellrep.steps.networks import network_of
from napari_cellrep.steps.preview import what_it_sees

SMALL = {"width": 0.05}


def vectors_again(project, embedding, field="A01"):
    found = network_of(project, embedding)
    rows = project.cells.obs[project.cells.obs["field"].astype(str) == field]
    crops = cut_cells(project, field, rows, found.net.crop, found.planes)
    x = Embedder(found.net, [found.layer], device="cpu", precision="fp32").run(crops)[found.layer]
    stored = project.cells[rows.index].obsm[f"X_{embedding}"]
    return x, stored


@pytest.mark.slow
@pytest.mark.parametrize(("how", "key"), [
    ({"model": "paired_cell_inpainting", "config": SMALL, "seed": 1, "crop": {"masked": True, "window_px": 40}}, "own"),
    ({"model": "measurements", "channels": ["DNA"]}, "own"),
    ({"model": "paired_cell_inpainting", "config": SMALL, "layers": ["conv4_1", "conv2_1"]}, "own.conv2_1"),
])  # fmt: skip
def test_the_same_vectors_come_out(small, how, key):
    drain(embed(small, **how, key="own", device="cpu", precision="fp32"))
    x, stored = vectors_again(open_project(small.root), key)
    np.testing.assert_allclose(x, stored, rtol=1e-4, atol=1e-5)


def test_a_trained_model_is_known_by_its_weights_not_by_its_name(small):
    save_model(create_model("paired_cell_inpainting", **SMALL), small.root / "models" / "first")
    drain(embed(small, model="first", device="cpu", precision="fp32"))
    (small.root / "models" / "first").rename(small.root / "models" / "other name")
    assert network_of(small, "first").name == "other name"
    save_model(create_model("paired_cell_inpainting", **SMALL), small.root / "models" / "first")
    assert network_of(small, "first").name == "other name"
    save_model(create_model("paired_cell_inpainting", **SMALL), small.root / "models" / "other name")
    with pytest.raises(InputError, match="weights that made first are not in this project any more"):
        network_of(small, "first")


def test_vectors_from_elsewhere_and_channels_that_went(small):
    small.start_embedding("table", {"model": "features"})
    for name in ("table", "nobody"):
        with pytest.raises(InputError, match="does not say by which network"):
            network_of(small, name)
    drain(embed(small, model="paired_cell_inpainting", config=SMALL))
    small.set_channels([Channel("FKHR-GFP", "protein"), Channel("Hoechst", "nucleus")])
    with pytest.raises(InputError, match="no channel with the name or role 'DNA'"):
        network_of(small, "paired_cell_inpainting")


def test_a_cell_as_an_embedding_saw_it(small):
    drain(embed(small, model="paired_cell_inpainting", config=SMALL, key="tight", crop={"window_px": 32}))
    seen = what_it_sees(small, embedding="tight", cell_id=str(small.cells.obs.index[0]))
    assert seen.words.startswith("32 px of the image")
    assert seen.names == ("FKHR-GFP", "DNA")
    made = what_it_sees(
        small, model="paired_cell_inpainting", channels=["FKHR-GFP", "DNA"], cell_id=seen.cell_id
    )
    assert made.words.startswith("64 px of the image")
    # Embedded anew in another way: what is shown follows.
    drain(embed(small, model="paired_cell_inpainting", config=SMALL, key="tight", crop={"window_px": 48}))
    path = small.embedding_folder("tight") / "key.json"
    assert json.loads(path.read_text())["crop"]["window_px"] == 48
    assert what_it_sees(small, embedding="tight", cell_id=seen.cell_id).words.startswith("48 px of the image")
