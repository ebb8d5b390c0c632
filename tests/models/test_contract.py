"""What every model promises, tried on every model there is."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch
from array_cells import ArrayCells

from napari_cellrep import registry
from napari_cellrep.data.crops import Boxes, cut_crops, weights_to_size
from napari_cellrep.models import (
    EmbeddingModel,
    _engine,
    can,
    change_settings,
    create_model,
    list_models,
    load_model,
    save_model,
)
from napari_cellrep.models._engine import Embedder
from napari_cellrep.models._learner import make_learner
from napari_cellrep.models._sampling import make_sampler
from napari_cellrep.models._trainer import Trainer
from napari_cellrep.specs import CropSpec, InputError, field_rules, make_config


@pytest.fixture(params=list_models())
def name(request) -> str:
    return request.param


# Networks of another library, as settings of one of our models: "<model>:<number in TINY_OTHERS>".
OTHERS = [
    f"{name}:{i}"
    for name in list_models()
    for i, _ in enumerate(getattr(registry.load("models", name), "TINY_OTHERS", ()))
]


@pytest.fixture(params=[*list_models(), *OTHERS])
def model(request) -> EmbeddingModel:
    name, _, other = request.param.partition(":")
    module = registry.load("models", name)
    if other and importlib.util.find_spec("pytorchcv") is None:
        pytest.skip("the extra imagenet is not installed")
    torch.manual_seed(0)
    return module.Model(module.TINY_OTHERS[int(other)] if other else module.TINY).eval()


@pytest.fixture
def crops(model: EmbeddingModel, masked_cells) -> np.ndarray:
    """Twelve real cells with as many channels as the model wants, its mask plane included."""
    real = masked_cells.array[::8][:12]
    planes = [real[:, i % 2] for i in range(len(model.roles))] + [real[:, 2]] * model.crop.mask_plane
    return np.stack(planes, axis=1)


def embed(model: EmbeddingModel, crops: np.ndarray, layer: str | None = None) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(model.preprocess(torch.from_numpy(crops)), layer).numpy()


def test_the_file_names_the_model_and_describes_it(name):
    module = registry.load("models", name)
    spec = module.SPEC
    assert spec.name == name
    assert module.Model.spec is spec
    assert spec.title
    assert spec.when
    assert spec.layers
    assert (module.__doc__ or "").strip()
    assert spec.trains == can(module.Model, "train") == hasattr(module, "Training")
    assert spec.labels == ("y" in module.Model.batch)
    assert make_config(module.Config) == module.Config()  # every setting has a default within its bounds
    for weights in spec.weights:
        make_config(module.Config, weights.config)
        assert weights.licence


def test_descriptions_are_plain_json(name):
    described = registry.describe("models")[name]
    assert json.loads(json.dumps(described)) == described
    assert described["spec"]["roles"]


def test_every_layer_gives_finite_float32_vectors(model, crops):
    assert model.layers
    assert model.crop.channels == model.roles
    for layer in model.layers:
        vectors = embed(model, crops, layer)
        assert vectors.shape == (len(crops), model.dim(layer))
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert vectors.std(axis=0).max() > 0  # different cells, different vectors
    np.testing.assert_array_equal(embed(model, crops), embed(model, crops, model.layers[0]))


def test_several_layers_in_one_pass_equal_each_by_itself(model, crops):
    with torch.inference_mode():
        together = model.embed_layers(model.preprocess(torch.from_numpy(crops)), model.layers)
    for layer in model.layers:
        np.testing.assert_allclose(together[layer].numpy(), embed(model, crops, layer), rtol=1e-5, atol=1e-6)


def test_the_same_crops_give_the_same_vectors(model, crops):
    np.testing.assert_array_equal(embed(model, crops), embed(model, crops))


def test_a_cell_does_not_depend_on_its_batch_mates(model, crops):
    whole = Embedder(model, model.layers, "cpu", "fp32").run(crops)
    order = np.array([7, 0, 3])
    few = Embedder(model, model.layers, "cpu", "fp32", batch_size=2).run(crops[order])
    for layer in model.layers:
        atol = 1e-5 * max(
            1.0, np.abs(whole[layer]).max()
        )  # deep networks of random weights give large numbers
        np.testing.assert_allclose(few[layer], whole[layer][order], rtol=1e-5, atol=atol)


def test_what_is_chosen_was_measured_and_is_not_slower_than_torch_by_itself(model, crops, monkeypatch):
    monkeypatch.setattr(_engine, "TRIAL_S", 0.0)
    embedder = Embedder(model, device="cpu")
    embedder.run(crops)
    if not model.on_device:
        return
    said = embedder.describe()
    rate = said["trial_cells_per_s"]
    assert {"fp32", _engine.PLAIN} <= set(rate)
    plain = said["memory_format"] == "contiguous_format"
    chosen = _engine.PLAIN if plain else said["precision"]
    assert rate[chosen] >= rate[_engine.PLAIN]


@pytest.mark.parametrize(("window_px", "dtype"), [(100, "uint8"), (40, "uint16"), (192, "float64")])
def test_windows_resized_on_the_device_are_those_resized_before(model, well, window_px, dtype):
    image, labels, boxes = well
    boxes = Boxes(*(getattr(boxes, k)[:8] for k in ("label", "area_px", "centroid", "box")))
    image = image[[i % 2 for i in range(len(model.roles))]].astype(dtype)
    if dtype == "uint16":
        image *= 200
    spec = CropSpec(size_px=64, window_px=window_px, mask_plane=model.crop.mask_plane)
    model.crop = dataclasses.replace(spec, channels=model.roles)
    before, windows = (cut_crops(image, labels, boxes, spec, resized=on) for on in (True, False))
    assert before.shape[-1] == 64
    assert windows.shape[-1] == window_px
    assert windows.dtype == dtype
    want = Embedder(model, model.layers, "cpu", "fp32").run(before)
    got = Embedder(model, model.layers, "cpu", "fp32", batch_size=4).run(
        windows, weights_to_size(windows, spec)
    )
    for layer in model.layers:
        atol = 1e-4 * max(1.0, np.abs(want[layer]).max())
        np.testing.assert_allclose(got[layer], want[layer], rtol=1e-4, atol=atol)
        assert np.abs(want[layer]).max() > 0


def test_settings_that_leave_weights_as_they_are_say_so(model):
    rules = field_rules(type(model.config))
    free = {k: rule for k, rule in rules.items() if rule.get("same_weights")}
    assert "width" not in free
    for key, rule in free.items():
        others = rule.get("choices") or [rule.get("max", True), rule.get("min", False)]
        for other in others:
            changed = change_settings(model, {key: other})
            assert getattr(changed.config, key) == other
            state = changed.state_dict()
            assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_settings_that_make_another_network_are_refused_also_where_shapes_agree(model):
    rules = field_rules(type(model.config))
    free = [k for k, rule in rules.items() if rule.get("same_weights")]
    for key, rule in rules.items():
        now = getattr(model.config, key)
        if rule.get("same_weights"):
            continue
        if isinstance(now, tuple):
            other = tuple(reversed(now)) if len(set(now)) > 1 else (*now, "other")
        elif isinstance(now, bool):
            other = not now
        else:
            other = next(x for x in rule.get("choices") or (rule["min"], rule["max"]) if x != now)
        with pytest.raises(InputError, match="would be another network") as error:
            change_settings(model, {key: other})
        assert all(k in str(error.value) for k in free or ["nothing"])


@pytest.mark.slow
def test_constant_channels_are_finite(model, crops):
    for value in (0, 7, 255):
        flat = crops.copy()
        flat[:, : len(model.roles)] = value
        one = crops.copy()
        one[:, 0] = value
        assert np.isfinite(embed(model, flat)).all()
        assert np.isfinite(embed(model, one)).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2", "int32"])
def test_preprocess_takes_every_pixel_type(model, crops, dtype):
    images = crops.astype(dtype)
    if dtype == "uint16":
        images[:, : len(model.roles)] *= 200
    if dtype == "float32":
        images[:, : len(model.roles)] /= 255
    found = Embedder(model, device="cpu", precision="fp32").run(images)
    assert np.isfinite(found[model.layers[0]]).all()
    if not dtype.startswith(">"):
        x = model.preprocess(torch.from_numpy(images))
        assert x.dtype == torch.float32
        assert torch.isfinite(x).all()


def test_another_number_of_channels_is_refused_in_words(model, crops):
    more = np.concatenate([crops, crops[:, :1]], axis=1)
    with pytest.raises(InputError, match=f"wants {model.n_planes} channels"):
        model.preprocess(torch.from_numpy(more))
    with pytest.raises(InputError, match="shape"):
        model.preprocess(torch.from_numpy(crops[0]))


def test_an_unknown_layer_is_refused_with_the_known(model, crops):
    with pytest.raises(InputError, match=model.layers[0]):
        embed(model, crops, "no_such_layer")
    with pytest.raises(InputError, match="no_such_layer"):
        model.dim("no_such_layer")


@pytest.mark.slow
def test_saved_and_loaded_it_is_the_same(model, crops, tmp_path):
    model.card = {"scores": {"knn": 0.5}}
    save_model(model, tmp_path / "m", seed=3)
    again = load_model(tmp_path / "m")
    assert again.config == model.config
    assert again.roles == model.roles
    assert again.crop == model.crop
    assert again.card["seed"] == 3
    assert again.card["scores"] == {"knn": 0.5}
    for layer in model.layers:
        np.testing.assert_array_equal(embed(again, crops, layer), embed(model, crops, layer))


def test_weights_that_are_not_numbers_are_refused(model, tmp_path):
    floats = [p for p in model.state_dict().values() if p.is_floating_point()]
    if not floats:
        pytest.skip("has no weights")
    floats[0].view(-1)[0] = float("nan")
    save_model(model, tmp_path / "m")
    with pytest.raises(InputError, match="NaN"):
        load_model(tmp_path / "m")


def test_unknown_settings_are_refused(name):
    with pytest.raises(InputError, match="no_such_setting"):
        create_model(name, no_such_setting=1)


def test_losses_come_from_a_batch(model, crops):
    name = model.spec.name
    if not can(model, "train"):
        with pytest.raises(InputError, match="not trained"):
            model({})
        return
    learner = make_learner(model, registry.load("models", name).Training(), 10)
    x = torch.from_numpy(crops)
    raw = dict.fromkeys(model.batch, x)
    if "y" in raw:  # classes, not pictures
        raw["y"] = torch.arange(len(x)) % 3
    batch = learner.prepare(raw, torch.Generator().manual_seed(0))
    losses = learner.losses(batch)
    assert losses["loss"].ndim == 0
    assert torch.isfinite(losses["loss"])
    losses["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.module.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own imports
def test_what_learns_is_one_graph_for_a_compiler_however_many_steps(name, masked_cells, monkeypatch):
    module = registry.load("models", name)
    if not hasattr(module, "Training"):
        return
    fits = {"epochs": 3, "batch_size": 4, "split_by": "cell", "view": "cell", "out_dim": 64, "hidden_dim": 16,
            "bottleneck_dim": 8, "n_local": 2, "drop_path": 0.1, "held_out": 0.0}  # fmt: skip
    known = {f.name for f in dataclasses.fields(module.Training)}
    training = make_config(module.Training, {k: v for k, v in fits.items() if k in known})
    roles = module.Model(module.TINY).n_planes
    n = 14
    cells = ArrayCells(masked_cells.array[:n, [i % 2 for i in range(roles)]], np.arange(n) % 3, np.arange(n))
    cells.labels, cells.classes = cells.groups, ("a", "b", "c")
    real, graphs = torch.compile, []

    def counted(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **more: real(f, backend=counted, **more))

    def losses(compiled: bool) -> list[float]:
        torch.manual_seed(0)
        net = module.Model(module.TINY)
        sampler = make_sampler(net, cells, training, 4)
        trainer = Trainer(net, cells, training, torch.device("cpu"), "fp32", sampler.n_batches)
        if compiled:
            trainer.learner.compile()
        torch.manual_seed(1)  # of dropout
        found = [trainer.step(rows, (0, i)) for i, rows in enumerate(sampler.epoch(0))]
        sizes.update(len(next(iter(rows.values()))) for rows in sampler.epoch(0))
        return found

    sizes: set[int] = set()
    assert losses(True) == losses(False)
    assert len(graphs) == len(sizes)
