"""Cellpose through its own API; the network's weights are random, as the real ones cannot be had in a test."""

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from napari_cellrep.segmenters import Scales, cellpose
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


class Asked:
    """Stands for cellpose's model: keeps what it is asked and finds what is bright."""

    def __init__(self):
        self.got = []

    def eval(self, planes, **how):
        self.got.append((planes.copy(), how))
        return ndimage.label(planes[..., 0] > 0.5)[0], None, None


@pytest.fixture
def asked(monkeypatch):
    stand_in = Asked()
    monkeypatch.setattr(cellpose, "_model", lambda *_: stand_in)
    return stand_in


def test_parts_are_scaled_as_the_whole_and_cellpose_does_not_scale_them_again(asked):
    image = np.random.default_rng(0).normal(100, 20, (2, 200, 300)).astype(np.float32)
    image[0] += np.arange(300) * 10
    channels = [Channel("p", "protein"), *DNA]
    config = cellpose.Config(
        cell_channels=("protein", "nucleus"), diameter_px=60, min_area_px=7, batch_size=3
    )
    scales = Scales()
    cellpose.measure(image, channels, config, scales)
    assert not asked.got
    assert scales.reach_px == 512  # the network's tile, as large as it is in this image
    labels = cellpose.segment(image[:, 50:90, 200:], channels, config, scales=scales.at(50, 200))
    planes, how = asked.got[0]
    low, high = np.percentile(image, (1, 99), axis=(1, 2))
    expected = (image - low[:, None, None]) / (high - low)[:, None, None]
    np.testing.assert_allclose(planes, np.moveaxis(expected, 0, -1)[50:90, 200:], atol=1e-4)
    assert how["normalize"] == {"normalize": False}
    assert (how["diameter"], how["min_size"], how["batch_size"]) == (60, 7, 3)
    assert labels.shape == (40, 100)
    cellpose.segment(image, channels, config)
    assert "normalize" not in asked.got[1][1]  # of a whole image that is cellpose's own part


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

    def test_parts_and_whole_go_through_cellpose_alike(self, monkeypatch):
        """All of cellpose but its network, whose place blurred slopes take."""
        import torch

        models = cellpose._import_cellpose()

        class Slopes(torch.nn.Module):
            dtype, device = torch.float32, torch.device("cpu")

            def forward(self, x):
                blurred = x[:, :1].float()
                for _ in range(6):
                    blurred = torch.nn.functional.avg_pool2d(blurred, 5, 1, 2, count_include_pad=False)
                dy, dx = torch.gradient(blurred[:, 0], dim=(1, 2))
                length = torch.hypot(dy, dx).clamp(min=1e-6)
                y = torch.stack([5 * dy / length, 5 * dx / length, 20 * (blurred[:, 0] - 0.4)], dim=1)
                return y, torch.zeros(len(x), 256)

        model = object.__new__(models.CellposeModel)
        model.net, model.device, model.backbone = Slopes(), torch.device("cpu"), "sam_vitl"
        model.timing, model.pretrained_model = [], "slopes"
        monkeypatch.setattr(cellpose, "_model", lambda *_: model)
        y, x = np.mgrid[:200, :520]
        image = (100 + 400 * np.maximum(0, np.sin(y / 6.3) * np.sin(x / 6.3)) ** 0.5).astype(np.uint16)[None]
        config = cellpose.Config(flow_threshold=0.0)
        whole = cellpose.segment(image, DNA, config)
        assert whole.max() > 100
        scales = Scales()
        cellpose.measure(image, DNA, config, scales)
        np.testing.assert_array_equal(cellpose.segment(image, DNA, config, scales=scales) > 0, whole > 0)
        part = cellpose.segment(image[..., 220:], DNA, config, scales=scales.at(0, 220))
        inner = (slice(None), slice(40, None))
        assert ((part > 0)[inner] == (whole[:, 220:] > 0)[inner]).mean() > 0.99

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
