from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn import functional as F

from napari_cellrep.models import create_model, load_model
from napari_cellrep.models.imagenet import LIBRARY, TINY, Config, Model, read_checkpoint, recognise
from napari_cellrep.specs import InputError


@pytest.fixture
def tiny() -> Model:
    torch.manual_seed(0)
    return Model(TINY).eval()


def torchvision_file(model: Model, path, *, classifier: float | None = 0.0, legacy: bool = False):
    """A state dict as torchvision writes it: the classifier beside the features; old files are not zip files."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if classifier is not None:
        state["classifier.6.bias"] = torch.full((1000,), classifier)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_full_width_has_the_published_number_of_parameters_and_names():
    model = create_model("imagenet")
    assert sum(p.numel() for p in model.parameters()) == 14_714_688  # Keras's VGG16 without its top
    convs = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert list(model.state_dict()) == [f"features.{i}.{part}" for i in convs for part in ("weight", "bias")]
    assert model.layers[0] == "block4_conv1"
    assert [model.dim(f"block{i}_conv1") for i in range(1, 6)] == [64, 128, 256, 512, 512]


def test_block4_conv1_is_the_eighth_convolution_after_its_relu(tiny, cells):
    x = tiny.preprocess(torch.from_numpy(cells.array[:3, :1]))
    w, y = tiny.state_dict(), x
    for block in ((0, 2), (5, 7), (10, 12, 14), (17,)):
        y = F.max_pool2d(y, 2) if block[0] else y
        for i in block:
            y = F.relu(F.conv2d(y, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1))
    assert y.shape == (3, 64, 8, 8)  # native size: nothing is enlarged
    with torch.inference_mode():
        torch.testing.assert_close(tiny.embed(x), y.amax(dim=(2, 3)))


@pytest.mark.slow
def test_it_is_torchvisions_network(cells, tmp_path):
    from napari_cellrep.segmenters.cellpose import _import_torchvision

    with warnings.catch_warnings():  # of image files it cannot read
        warnings.simplefilter("ignore")
        try:
            _import_torchvision()
            from torchvision.models import VGG16_Weights, vgg16
        except (ImportError, RuntimeError):
            pytest.skip("torchvision is not here")
    torch.manual_seed(0)
    theirs = vgg16().eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    mine = load_model(tmp_path / "vgg16.pth")
    crops = torch.from_numpy(cells.array[:2, :1])
    low, high = crops.amin(dim=(2, 3), keepdim=True), crops.amax(dim=(2, 3), keepdim=True)
    grey = ((crops - low) / (high - low).float() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    for weights, scaling in (
        (VGG16_Weights.IMAGENET1K_V1, "torchvision"),
        (VGG16_Weights.IMAGENET1K_FEATURES, "caffe"),
    ):
        mine.config = Config(scaling=scaling)
        shown = weights.transforms(crop_size=64, resize_size=64)(grey)
        x = mine.preprocess(crops)
        torch.testing.assert_close(x, shown, rtol=1e-5, atol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(mine.embed(x), theirs.features[:19](shown).amax(dim=(2, 3)))


def test_every_channel_is_embedded_by_itself_and_joined_in_order(tiny, cells):
    crops = torch.from_numpy(cells.array[:4])
    with torch.inference_mode():
        alone = [tiny.embed(tiny.preprocess(crops[:, i : i + 1])) for i in (0, 1)]
        tiny.set_channels(("protein", "nucleus"))
        both = tiny.embed(tiny.preprocess(crops))
    assert tiny.dim() == 128
    assert tiny.crop.channels == tiny.roles == ("protein", "nucleus")
    torch.testing.assert_close(both, torch.cat(alone, dim=1))
    with pytest.raises(InputError, match="at least one"):
        tiny.set_channels(())


def test_a_picture_is_grey_and_scaled_as_the_weights_were_trained():
    crop = torch.tensor([[[[100, 200], [300, 500]]]], dtype=torch.int32)
    x = Model(TINY).preprocess(crop)
    assert x.shape == (1, 3, 2, 2)
    grey = torch.tensor([[0, 64], [128, 255]]) / 255  # rounded to 8 bits
    for i, (mean, sd) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        torch.testing.assert_close(x[0, i], (grey - mean) / sd)
    x = Model(Config(width=0.125, scaling="caffe")).preprocess(crop)
    torch.testing.assert_close(x[0, 0], grey * 255 - 123.0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("legacy", [True, False])
def test_torchvisions_files_are_read_and_say_their_normalisation(tiny, cells, tmp_path, legacy):
    x = torch.from_numpy(cells.array[:2, :1])
    with torch.inference_mode():
        expected = tiny.embed(tiny.preprocess(x))
    path = torchvision_file(tiny, tmp_path / "vgg16.pth", legacy=legacy)
    assert recognise(path)
    model = load_model(path)
    assert model.config == TINY
    with torch.inference_mode():
        torch.testing.assert_close(model.embed(model.preprocess(x)), expected, rtol=0, atol=0)
    for classifier in (
        float("nan"),
        None,
    ):  # torchvision fills it with NaN where only the features are of use
        path = torchvision_file(tiny, tmp_path / "features.pth", classifier=classifier, legacy=legacy)
        assert load_model(path).config.scaling == "caffe"


def test_files_of_something_else_are_refused(tiny, tmp_path):
    state = tiny.state_dict()
    nineteen = tmp_path / "vgg19.pth"
    torch.save({**state, "features.34.weight": torch.zeros(1)}, nineteen)
    assert not recognise(nineteen)
    assert not recognise(tmp_path)
    with pytest.raises(InputError, match="1 too many"):
        read_checkpoint(nineteen)
    torch.save({"model": 1}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a file of VGG16"):
        read_checkpoint(tmp_path / "other.pth")
    torch.save({k: v for k, v in state.items() if "17" not in k}, tmp_path / "part.pth")
    with pytest.raises(InputError, match="2 tensors missing"):
        read_checkpoint(tmp_path / "part.pth")
    whole = torchvision_file(tiny, tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"download it again|damaged"):
        read_checkpoint(tmp_path / "cut.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"features.0.weight": pytest.raises}, protocol=2))
    with pytest.raises(InputError, match=r"run code|whole PyTorch file"):
        read_checkpoint(tmp_path / "code.pth")


def test_crops_too_small_for_a_layer_are_refused(tiny):
    with torch.inference_mode():
        assert tiny.embed(tiny.preprocess(torch.rand(2, 1, 8, 9))).shape == (2, 64)
        with pytest.raises(InputError, match="at least 8 px"):
            tiny.embed(tiny.preprocess(torch.rand(2, 1, 7, 9)))


# ---- the library's networks ------------------------------------------------------------------------


@pytest.fixture(params=list(LIBRARY))
def network(request) -> str:
    pytest.importorskip("pytorchcv", reason="the extra imagenet is not installed")
    return request.param


def of_library(network: str):
    """The library's own network with its classifier, and batch norms that are not the identity."""
    module = importlib.import_module(f"pytorchcv.models.{LIBRARY[network][0]}")
    torch.manual_seed(0)
    theirs = getattr(module, network)().eval()
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(buffer, std=0.05)
        elif name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.02, 0.2)
    return theirs


@pytest.mark.slow
def test_a_file_of_the_library_gives_what_its_classifier_gets(network, cells, tmp_path):
    """The library's file, read by us, at the training's side: the classifier on our vectors gives the library's logits."""
    theirs = of_library(network)
    torch.save(theirs.state_dict(), tmp_path / f"{network}.pth")
    assert recognise(tmp_path / f"{network}.pth")
    mine = load_model(tmp_path / f"{network}.pth")
    assert mine.config == Config(network=network)
    assert mine.side_px == theirs.in_size[0]
    crops = torch.from_numpy(cells.array[:2])
    mine.set_channels(("protein", "nucleus"))
    with torch.inference_mode():
        x = mine.preprocess(crops)
        assert x.shape == (2, 6, *theirs.in_size)
        found = mine.embed_layers(x, mine.layers)
        for i in (0, 1):
            picture = x[:, 3 * i : 3 * i + 3]
            part = slice(i * LIBRARY[network][2], (i + 1) * LIBRARY[network][2])
            torch.testing.assert_close(
                theirs.output(found["pooled"][:, part]), theirs(picture), rtol=1e-3, atol=1e-4
            )
            last = theirs.features[:-1](picture)
            torch.testing.assert_close(
                found["pooled_max"][:, part], last.amax(dim=(2, 3)), rtol=1e-3, atol=1e-4
            )
        torch.testing.assert_close(mine.embed(x), found["pooled"])


def test_pictures_are_enlarged_evenly_and_then_normalised(network):
    model = Model(Config(network=network, side_px=96))
    crop = torch.arange(48, dtype=torch.int32).expand(1, 1, 48, 48)  # a ramp from left to right
    x = model.preprocess(crop)
    assert x.shape == (1, 3, 96, 96)
    red = x[0, 0] * 0.229 + 0.485
    torch.testing.assert_close(red[0], red[-1])
    steps = red[0].diff()[2:-2]
    torch.testing.assert_close(steps, torch.full_like(steps, 0.5 / 47), rtol=0, atol=1 / 255)


def test_other_files_with_the_librarys_layers_are_refused(network, tmp_path):
    state = of_library(network).state_dict()
    name = "efficientnet_b1b" if network == "efficientnet_b0b" else "inceptionv4"
    torch.save({**state, "features.stage2.unit9.conv1.conv.weight": torch.zeros(1)}, tmp_path / f"{name}.pth")
    with pytest.raises(InputError, match="1 too many"):
        load_model(tmp_path / f"{name}.pth")
    if network == "efficientnet_b0b":  # the same layers, another padding
        torch.save(state, tmp_path / "efficientnet_b0-0752-0e386130.pth")
        with pytest.raises(InputError, match="another padding"):
            load_model(tmp_path / "efficientnet_b0-0752-0e386130.pth")


def test_settings_the_library_does_not_have_are_refused(network):
    with pytest.raises(InputError, match="has one width"):
        create_model("imagenet", network=network, width=0.5)
    if network == "inceptionv3":
        model = create_model("imagenet", network=network, side_px=64)
        with pytest.raises(InputError, match=r"at least 75 px; these are 64 × 64 px"):
            model.embed(model.preprocess(torch.rand(1, 1, 64, 64)))


@pytest.mark.parametrize("network", list(LIBRARY))
def test_without_the_extra_it_says_how_to_get_it(monkeypatch, network):
    monkeypatch.setitem(sys.modules, f"pytorchcv.models.{LIBRARY[network][0]}", None)  # cannot be imported
    with pytest.raises(InputError, match=r'pip install "napari-cellrep\[imagenet\]", or take vgg16'):
        create_model("imagenet", network=network)


def test_the_library_is_taken_without_torchvision():
    pytest.importorskip("pytorchcv", reason="the extra imagenet is not installed")
    code = (
        "import sys; from napari_cellrep.models import create_model; "
        "[create_model('imagenet', network=n) for n in ('efficientnet_b0b', 'inceptionv3')]; "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
