"""One cell as a network gets it, against the same cut made by hand and against what embedding gives the network."""

from __future__ import annotations

import numpy as np
import pytest

from napari_cellrep.jobs import drain
from napari_cellrep.models._engine import Embedder
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps import embed as room
from napari_cellrep.steps.preview import what_it_sees


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "n"),
    [("paired_cell_inpainting", 2), ("measurements", 3), ("microsnoop", 2), ("imagenet", 2), ("deeploc", 2)],
)
def test_it_is_what_embedding_gives_the_network(small, monkeypatch, model, n):
    obs = small.cells.obs
    cell = str(obs.index[3])
    names = [c.name for c in small.channels]
    seen = what_it_sees(small, model=model, channels=names, cell_id=cell)
    assert seen.cell_id == cell
    assert seen.pictures.dtype == np.uint8
    assert seen.names == (*names, "outline")[:n]
    cut = []

    class Caught(Embedder):
        def run(self, crops, weights=None):
            assert weights is None
            cut.append((self.model.preprocess(room_tensor(crops)).float().numpy(), crops.shape))
            return super().run(crops, weights)

    from napari_cellrep.models import _engine

    room_tensor = _engine.to_tensor
    monkeypatch.setattr(_engine, "Embedder", Caught)
    field = str(obs["field"].iloc[3])
    drain(room.embed(small, model=model, channels=names, fields=[field], precision="fp32"))
    x, shape = cut[0]
    row = list(obs.index[obs["field"] == field]).index(cell)
    x = x[row].reshape(shape[1], -1, *x.shape[2:]).mean(axis=1)
    low, high = x.min(axis=(1, 2)), x.max(axis=(1, 2))
    np.testing.assert_allclose(seen.ranges, np.stack([low, high], axis=1), rtol=1e-5)
    grey = 255 * (x - low[:, None, None]) / (high - low)[:, None, None]
    np.testing.assert_allclose(seen.pictures, grey, atol=0.51)


def test_settings_of_the_network_show(small):
    how = {"model": "paired_cell_inpainting", "cell_id": str(small.cells.obs.index[3])}
    plain, bright = (
        what_it_sees(small, **how, settings={"recipe": "human", "full_scale": full}) for full in (0.0, 1.0)
    )
    assert what_it_sees(small, **how).ranges[1] == (0, 1)
    assert plain.ranges[1][1] < 1
    assert bright.ranges[1][1] > plain.ranges[1][1]
    with pytest.raises(InputError, match="another network"):
        what_it_sees(small, **how, settings={"width": 0.125})


def test_words_say_how_it_was_cut(small):
    um = small.fields[0].um_per_px
    words = what_it_sees(small, model="paired_cell_inpainting").words
    size = f" ({64 * um:.3g} µm)" if um else ""
    assert words == f"64 px of the image{size} around the cell; each channel scaled by itself."
    names = [c.name for c in small.channels]
    words = what_it_sees(small, model="microsnoop", channels=names[:1]).words
    assert (
        words
        == "A square 4 times the cell's size, at most 224 px of the image; each channel scaled by itself."
    )
    assert what_it_sees(small, model="measurements", channels=names).words.endswith("counts as they are.")


def test_without_a_cell_it_is_the_first_good_one(small):
    obs = small.cells.obs
    first = obs.index[obs["good"].to_numpy()][0]
    assert what_it_sees(small, model="paired_cell_inpainting").cell_id == first


def test_what_cannot_be_seen_is_said(small):
    with pytest.raises(InputError, match="no cell called 'nobody'"):
        what_it_sees(small, model="paired_cell_inpainting", cell_id="nobody")
    small.set_channels([Channel(c.name, "other") for c in small.channels])
    with pytest.raises(InputError, match="wants the channels"):
        what_it_sees(small, model="paired_cell_inpainting")
