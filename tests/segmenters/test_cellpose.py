"""Cellpose through its own API; the network's weights are random, as the real ones cannot be had in a test."""

import importlib.util

import numpy as np
import pytest

from napari_cellrep.segmenters import cellpose
from napari_cellrep.specs import Channel, InputError

DNA = [Channel("DNA", "nucleus")]
INSTALLED = importlib.util.find_spec("cellpose") is not None
NOISE = np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)


@pytest.mark.skipif(INSTALLED, reason="cellpose is installed")
def test_without_cellpose_the_sentence_says_how_to_get_it_and_under_which_terms():
    with pytest.raises(InputError, match=r"napari-cellrep\[cellpose\].*CC-BY-NC"):
        cellpose.segment(NOISE, DNA, cellpose.Config())


def test_too_many_channels_are_a_sentence():
    with pytest.raises(InputError, match="one to three"):
        cellpose.segment(NOISE, DNA, cellpose.Config(cell_channels=("nucleus",) * 4))


@pytest.mark.skipif(not INSTALLED, reason="needs cellpose")
@pytest.mark.filterwarnings("ignore")
class TestInstalled:
    @pytest.mark.slow
    def test_the_real_network_runs_with_weights_from_a_file(self, tmp_path):
        import torch

        cellpose._import_cellpose()
        from cellpose.vit import CPSAM

        torch.manual_seed(0)
        torch.save(CPSAM(dtype=torch.float32).state_dict(), tmp_path / "random")
        channels = [Channel("p", "protein"), *DNA]
        image = np.concatenate([NOISE, NOISE])
        config = cellpose.Config(
            cell_channels=("protein", "nucleus"), model=str(tmp_path / "random"), diameter_px=30
        )
        labels = cellpose.segment(image, channels, config)
        assert labels.dtype == np.int32
        assert labels.shape == (64, 64)
        np.testing.assert_array_equal(labels, cellpose.segment(image, channels, config))

    def test_an_unknown_model_is_a_sentence(self):
        with pytest.raises(InputError, match="no cellpose model 'nuclei'"):
            cellpose.segment(NOISE, DNA, cellpose.Config(model="nuclei"))

    def test_a_device_that_is_not_there_is_a_sentence(self):
        with pytest.raises(InputError, match="no device"):
            cellpose.segment(NOISE, DNA, cellpose.Config(), device="cuda:77")

    def test_weights_that_cannot_be_fetched_are_a_sentence(self, monkeypatch, tmp_path):
        models = cellpose._import_cellpose()
        monkeypatch.setattr(models, "MODEL_DIR", tmp_path)
        monkeypatch.setattr(models, "_MODEL_URL", "http://127.0.0.1:9/")
        with pytest.raises(InputError, match=r"could not be fetched.*CC-BY-NC"):
            cellpose.segment(NOISE, DNA, cellpose.Config())
