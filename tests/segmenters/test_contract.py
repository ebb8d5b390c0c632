"""What every segmenter promises, over the registry: a seventh one is tested without touching this file."""

import dataclasses

import numpy as np
import pytest
import tifffile

from napari_cellrep import registry, specs
from napari_cellrep.specs import Channel, InputError

CHANNELS = [
    Channel("p", "protein"), Channel("n", "nucleus"), Channel("s", "structure"),
]  # fmt: skip
# cellpose has weights of a gigabyte: what can be promised without them is tested in test_cellpose.py
NAMES = [name for name in registry.names("segmenters") if name != "cellpose"]


def settings(name, folder):
    """The defaults, and for labels brought along the file they are in."""
    module = registry.load("segmenters", name)
    if name != "imported":
        return module, module.Config()
    return module, module.Config(pattern=str(folder / "{field}.tif"))


@pytest.fixture
def folder(tmp_path, drawn):
    tifffile.imwrite(tmp_path / "f.tif", drawn[1].astype(np.uint16))
    return tmp_path


@pytest.fixture
def image(drawn):
    cells, nuclei = drawn[0]
    return np.stack([cells, nuclei, nuclei])


@pytest.mark.parametrize("name", registry.names("segmenters"))
def test_configs_come_back_from_plain_values(name):
    module = registry.load("segmenters", name)
    config = module.Config()
    assert specs.check_config(config) == config
    assert specs.make_config(module.Config, dataclasses.asdict(config)) == config
    as_text = {
        k: ",".join(v) if isinstance(v, tuple) else str(v) for k, v in dataclasses.asdict(config).items()
    }
    assert specs.make_config(module.Config, as_text) == config
    for key, rule in specs.field_rules(module.Config).items():
        assert rule["type"] in ("int", "float", "bool", "str", "tuple"), key
        assert rule["label"], key
    with pytest.raises(InputError, match="no setting called"):
        specs.make_config(module.Config, {"nonsense": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_labels_are_int32_whole_numbers_in_one_piece_and_repeatable(name, dtype, image, folder):
    module, config = settings(name, folder)
    if np.dtype(dtype).kind == "f":
        image = image / image.max()
    image = image.astype(dtype)
    before = image.copy()
    labels = module.segment(image, CHANNELS, config, field_id="f")
    assert labels.dtype == np.int32
    assert labels.shape == image.shape[1:]
    assert 10 <= len(np.unique(labels)) - 1 <= 14
    assert labels.min() == 0
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(labels, module.segment(image, CHANNELS, config, field_id="f"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n != "imported"])
@pytest.mark.parametrize("scale", [16, 4095 / 150])
def test_the_camera_gain_does_not_matter(name, scale, image, folder):
    module, config = settings(name, folder)
    a = module.segment(image, CHANNELS, config, field_id="f")
    b = module.segment((image * scale).astype(np.uint16), CHANNELS, config, field_id="f")
    assert a.max() == b.max()
    assert np.mean((a > 0) == (b > 0)) > 0.99


@pytest.mark.parametrize("name", [n for n in registry.names("segmenters") if n != "imported"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_black_field_has_no_cells(name, value):
    if name == "cellpose":
        pytest.importorskip("napari_cellrep.segmenters.cellpose")
    module = registry.load("segmenters", name)
    labels = module.segment(np.full((3, 64, 80), value, np.uint16), CHANNELS, module.Config(), field_id="f")
    assert labels.shape == (64, 80)
    assert labels.dtype == np.int32
    assert not labels.any()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "imported"])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_no_cell(name, seed):
    module = registry.load("segmenters", name)
    noise = np.random.default_rng(seed).normal(100, 5, (3, 200, 200)).astype(np.float32)
    assert module.segment(noise, CHANNELS, module.Config(), field_id="f").max() == 0


@pytest.mark.parametrize("name", [n for n in registry.names("segmenters") if n != "imported"])
def test_nan_is_a_sentence(name, image):
    module = registry.load("segmenters", name)
    image = image.astype(np.float32)
    image[:, 3, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        module.segment(image, CHANNELS, module.Config(), field_id="f")


@pytest.mark.parametrize("name", [n for n in registry.names("segmenters") if n != "imported"])
def test_a_missing_channel_is_a_sentence_that_lists_those_there_are(name, image):
    module = registry.load("segmenters", name)
    with pytest.raises(InputError, match=r"mito.*\(mito\)"):
        module.segment(image[:1], [Channel("mito", "mito")], module.Config(**_absent(module)), field_id="f")


def _absent(module):
    return {"channel": "nucleus"} if hasattr(module.Config(), "channel") else {"cell_channels": ("nucleus",)}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_axes_or_channels_is_a_sentence(name, image, folder):
    module, config = settings(name, folder)
    with pytest.raises(InputError, match="axes channel, y, x"):
        module.segment(image[0], CHANNELS, config, field_id="f")
    with pytest.raises(InputError, match="3 channels and 2"):
        module.segment(image, CHANNELS[:2], config, field_id="f")
