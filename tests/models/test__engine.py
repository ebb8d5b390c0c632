from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from napari_cellrep.models import _engine, create_model
from napari_cellrep.models._engine import (
    PLAIN,
    Embedder,
    choose_device,
    shared_neighbours,
    to_tensor,
    trial_form,
    vectors_agree,
)
from napari_cellrep.specs import InputError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("paired_cell_inpainting", width=0.125)


def test_it_equals_the_model_called_by_hand(model, cells):
    found = Embedder(model, ["conv3_1", "conv4_1"], "cpu", "fp32", batch_size=16).run(cells.array)
    with torch.inference_mode():
        x = model.preprocess(torch.from_numpy(cells.array))
        for layer in ("conv3_1", "conv4_1"):
            assert found[layer].dtype == np.float32
            np.testing.assert_allclose(found[layer], model.embed(x, layer), rtol=1e-5, atol=1e-5)


def test_the_default_is_the_models_first_layer(model, cells):
    assert list(Embedder(model, precision="fp32").run(cells.array[:3])) == [model.layers[0]]


def test_bf16_tells_cells_apart_in_the_same_way(model, cells):
    fp32 = Embedder(model, device="cpu", precision="fp32").run(cells.array)["conv4_1"]
    bf16 = Embedder(model, device="cpu", precision="bf16").run(cells.array)["conv4_1"]
    assert not np.array_equal(fp32, bf16)
    assert vectors_agree(fp32, bf16)
    assert not vectors_agree(fp32, fp32[::-1])
    assert not vectors_agree(fp32, np.full_like(fp32, np.nan))
    assert not vectors_agree(fp32, fp32 + np.random.default_rng(0).normal(0, fp32.std(axis=0), fp32.shape))


def test_neighbours_are_counted_as_scikit_learn_finds_them():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 5)).astype(np.float32) + 100
    for noise, n in ((0.1, 60), (0.02, 60), (0.1, 12)):
        b = a + rng.normal(0, noise, a.shape).astype(np.float32)
        k = min(10, n // 3)
        near = [
            NearestNeighbors(n_neighbors=k).fit(v[:n].astype(float)).kneighbors(return_distance=False)
            for v in (a, b)
        ]
        want = np.mean([len(set(i) & set(j)) / k for i, j in zip(*near, strict=True)])
        assert shared_neighbours(a[:n], b[:n]) == pytest.approx(want)
        assert 0.3 < want < 1
    assert shared_neighbours(a, a) == 1
    b = a.copy()
    b[3] = np.nan
    assert shared_neighbours(a, b) == 1
    assert np.isnan(shared_neighbours(a[:1], a[:1]))


@pytest.mark.parametrize(("noise", "chosen"), [(0.0, "bf16"), (0.05, "fp32")])
def test_a_faster_form_that_loses_neighbours_is_not_chosen(model, cells, monkeypatch, noise, chosen):
    real, rng = model.embed_layers, torch.Generator().manual_seed(0)

    def rough(x, layers):
        if not torch.is_autocast_enabled("cpu"):
            return real(x, layers)
        with torch.autocast("cpu", enabled=False):
            found = real(x, layers)
        return {k: v + noise * v.std(dim=0) * torch.randn(v.shape, generator=rng) for k, v in found.items()}

    monkeypatch.setattr(model, "embed_layers", rough)
    monkeypatch.setattr(_engine, "trial_form", lambda *_: ("bf16", {"fp32": 0.02, PLAIN: 0.03, "bf16": 0.01}))
    embedder = Embedder(model, ["conv1_1"], "cpu")
    embedder.run(cells.array)
    assert embedder.precision == chosen
    shared = embedder.describe()["trial_shared_neighbours"]
    assert (shared > 0.98) == (chosen == "bf16")
    assert shared > 0.8  # near enough to be taken for the same by a look at a few cells


def test_the_trial_decides_once_and_says_what_it_found(model, cells):
    embedder = Embedder(model, device="cpu")
    embedder.run(cells.array[:20])
    decided = embedder.precision
    assert decided in ("fp32", "bf16")
    embedder.run(cells.array[20:40])
    said = embedder.describe()
    assert json.loads(json.dumps(said)) == said
    assert said["precision"] == decided
    assert said["device"] == "cpu"
    assert said["trial_cells_per_s"]["fp32"] > 0
    assert said["cells_per_s"] > 0
    assert embedder.n_embedded == 40


def test_the_faster_form_wins_and_a_form_that_fails_is_left_out():
    cpu = torch.device("cpu")
    slow = {"fp32": 2, "bf16": 1}
    x = torch.ones(300, 300)

    def work(form: str) -> None:
        for _ in range(20 * slow[form]):
            x @ x

    assert trial_form(work, cpu, 0.1)[0] == "bf16"
    slow["bf16"] = 4
    assert trial_form(work, cpu, 0.1)[0] == "fp32"

    def fails(form: str) -> None:
        if form == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        work("fp32")

    form, seconds = trial_form(fails, cpu, 0.1)
    assert form == "fp32"
    assert list(seconds) == ["fp32"]


def test_every_form_is_made_ready_and_timed_and_the_fastest_wins():
    cpu, x = torch.device("cpu"), torch.ones(300, 300)
    times, seen = {"fp32": 2, PLAIN: 1, "bf16": 2}, []

    def work(form: str) -> None:
        assert seen[-1] == form
        for _ in range(20 * times[form]):
            x @ x

    def trial() -> tuple[str, dict[str, float]]:
        return trial_form(work, cpu, 0.1, (PLAIN, "bf16"), seen.append)

    chosen, seconds = trial()
    assert chosen == PLAIN
    assert list(seconds) == ["fp32", PLAIN, "bf16"]
    times |= {"fp32": 4, PLAIN: 4, "bf16": 1}
    assert trial()[0] == "bf16"
    times |= {"fp32": 1, "bf16": 8}
    assert trial()[0] == "fp32"


def test_plain_fp32_lays_the_weights_out_as_torch_does_and_gives_the_same_vectors(model, cells, monkeypatch):
    want = Embedder(model, device="cpu", precision="fp32").run(cells.array[:40])["conv4_1"]
    assert model.conv4_1.weight.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(_engine, "trial_form", lambda *_: (PLAIN, {"fp32": 0.02, PLAIN: 0.01}))
    embedder = Embedder(model, device="cpu", batch_size=16)
    found = embedder.run(cells.array[:40])["conv4_1"]
    assert model.conv4_1.weight.is_contiguous()
    said = embedder.describe()
    assert (said["precision"], said["memory_format"]) == ("fp32", "contiguous_format")
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_nan_pixels_give_nan_rows_and_a_sentence(model, cells):
    crops = cells.array[:10].astype(np.float32)
    crops[4, 0, 5, 5] = np.nan
    crops[7, 1, 5, 5] = np.inf
    embedder = Embedder(model, device="cpu", precision="fp32")
    rows = embedder.run(crops)["conv4_1"]
    assert np.flatnonzero(np.isnan(rows).all(axis=1)).tolist() == [4, 7]
    assert np.isfinite(np.delete(rows, [4, 7], axis=0)).all()
    assert embedder.notes == [note for note in embedder.notes if note.startswith("2 of 10 cells")]


def test_batches_are_halved_when_memory_runs_out(model, cells, monkeypatch):
    whole = Embedder(model, device="cpu", precision="fp32").run(cells.array[:30])["conv4_1"]
    real, sizes = model.embed_layers, []

    def narrow(x, layers):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(x, layers)

    monkeypatch.setattr(model, "embed_layers", narrow)
    embedder = Embedder(model, device="cpu", precision="fp32", batch_size=16)
    rows = embedder.run(cells.array[:30])["conv4_1"]
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=1e-5)
    assert embedder.batch_size == 4
    assert sizes[:3] == [16, 8, 4]
    assert len(embedder.notes) == 2
    assert "4 are used" in embedder.notes[-1]
    during_trial = Embedder(model, device="cpu", batch_size=16)
    during_trial.run(cells.array[:30])
    assert during_trial.batch_size == 4
    assert during_trial.precision != "auto"

    monkeypatch.setattr(model, "embed_layers", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InputError, match="one cell"):
        Embedder(model, device="cpu", precision="fp32").run(cells.array[:4])


def test_other_errors_are_not_swallowed(model, cells, monkeypatch):
    def broken(x, layers):
        raise RuntimeError("a real mistake")

    monkeypatch.setattr(model, "embed_layers", broken)
    with pytest.raises(RuntimeError, match="a real mistake"):
        Embedder(model, device="cpu", precision="fp32").run(cells.array[:4])


def test_no_cells_and_wrong_crops(model, cells):
    embedder = Embedder(model, device="cpu")
    assert embedder.run(cells.array[:0])["conv4_1"].shape == (0, 48)
    with pytest.raises(InputError, match="2 channels"):
        embedder.run(cells.array[:, :1])
    with pytest.raises(InputError, match="conv9"):
        Embedder(model, ["conv9"])


def test_devices_that_are_not_there_are_refused():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("cuda:97", "tpu", ""):
        with pytest.raises(InputError, match="cpu"):
            choose_device(wrong)
    with pytest.raises(InputError, match="fp32"):
        Embedder(create_model("measurements"), precision="int8")


def test_arrays_of_every_kind_become_tensors(cells):
    crops = cells.array[:2]
    locked = crops.copy()
    locked.flags.writeable = False
    for array in (
        crops.astype(">u2"),
        crops[:, ::-1],
        crops.astype(np.float64),
        crops.astype(np.float16),
        crops > 3,
        locked,
    ):
        np.testing.assert_array_equal(to_tensor(array).numpy(), array)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_equals_the_cpu(model, cells):
    cpu = Embedder(model, device="cpu", precision="fp32").run(cells.array)["conv4_1"]
    cuda = Embedder(model, device="cuda", precision="fp32").run(cells.array)["conv4_1"]
    np.testing.assert_allclose(cuda, cpu, rtol=1e-3, atol=1e-3)
