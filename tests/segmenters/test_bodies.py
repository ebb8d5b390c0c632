import numpy as np
import pytest
import tifffile

from napari_cellrep.segmenters import bodies
from napari_cellrep.specs import Channel

YEAST = [Channel("GFP", "protein"), Channel("septins", "other"), Channel("cytosol", "structure")]


def test_yeast_cells_are_found_and_the_empty_field_stays_empty(shared):
    folder = shared / "data" / "cyclenet_yeast"
    image = tifffile.imread(folder / "r01c01f01.ome.tif")[:, :540, :540]
    theirs = tifffile.imread(folder / "r01c01f01_labels.tif")[:540, :540]
    ours = bodies.segment(image, YEAST, bodies.Config())
    assert np.mean(ours[theirs > 0] > 0) > 0.7
    assert 100 < ours.max() < 300
    assert bodies.segment(tifffile.imread(folder / "r02c01f03.ome.tif"), YEAST, bodies.Config()).max() == 0


def test_dark_cells(drawn):
    image, _ = drawn
    dark = [Channel("bf", "brightfield")]
    found = bodies.segment(255 - image[1:].astype(np.uint8), dark, bodies.Config(channel="bf", look="dark"))
    assert found.max() == 12


def test_real_brightfield_cells(shared):
    """Jurkat cells, one in each tile of an imaging flow cytometer."""
    tiles = np.load(shared / "data" / "jurkat_cellcycle" / "jurkat.npz")["images"][:36, 0].astype(np.float32)
    rim = np.concatenate([tiles[:, :3].reshape(36, -1), tiles[:, -3:].reshape(36, -1)], axis=1)
    tiles -= np.median(rim, axis=1)[:, None, None]
    field = tiles.reshape(6, 6, 40, 40).transpose(0, 2, 1, 3).reshape(240, 240)
    labels = bodies.segment(field[None], [Channel("bf", "brightfield")], bodies.Config(channel="brightfield"))
    # one cell per tile: the middle of a tile lies in a cell of that tile
    middles = [labels[40 * i + 20, 40 * j + 20] for i in range(6) for j in range(6)]
    assert len(set(middles) - {0}) >= 28
    assert labels.max() <= 50


@pytest.mark.parametrize("size", [0.0, 24.0])
def test_local_contrast_is_the_sd(size):
    rng = np.random.default_rng(0)
    plane = rng.normal(1e4, 3, (80, 80)).astype(np.float32)
    assert np.median(bodies.local_contrast(plane, size)) == pytest.approx(3, rel=0.1)
