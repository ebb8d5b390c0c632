"""DeepLoc learns the classes it is told: the split, the augmentations, the schedule, the run."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from array_cells import ArrayCells
from scipy import ndimage
from skimage.filters import threshold_otsu

import napari_cellrep
from napari_cellrep.data.crops import cut_crops, find_cells
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._deeploc_training import LabelSampler, random_turns, random_window, split_cells
from napari_cellrep.models._learner import make_learner
from napari_cellrep.models._train import HISTORY, train
from napari_cellrep.models._trial import try_out
from napari_cellrep.models.deeploc import TINY, Training
from napari_cellrep.specs import CropSpec, InputError

FP32 = {"device": "cpu", "precision": "fp32"}
SHORT = Training(epochs=3, batch_size=16, learning_rate=1e-3, seed=5, dropout=0.2)
NETWORKS = ("deeploc2017", "representation")


class Labelled(ArrayCells):
    """Cells with classes and fields."""

    def __init__(self, array, labels, fields):
        super().__init__(array, fields)
        self.labels, self.fields = np.asarray(labels), np.asarray(fields)
        self.classes = tuple("abcdefgh"[: int(self.labels.max()) + 1])


@pytest.fixture
def labelled(cells) -> Labelled:
    """Cells of four wells: two of untreated, two of treated ones (translocated protein); six fields of each class."""
    return Labelled(cells.array, np.isin(cells.groups, (2, 3)).astype(int), np.arange(len(cells)) // 8)


def make(network: str = "deeploc2017", seed: int = 0, **config):
    torch.manual_seed(seed)
    channels = config.pop("channels", 2)
    return create_model(
        "deeploc", **{**vars(TINY), "network": network, "channels": channels, "n_classes": 2, **config}
    )


def history(folder):
    with (folder / "history.csv").open() as f:
        return list(csv.DictReader(f))


# ---- the split --------------------------------------------------------------------------------------


def test_fields_are_never_split_and_about_a_tenth_is_held_out_of_every_class():
    rng = np.random.default_rng(1)
    fields = np.repeat(np.arange(60), 20)
    labels = np.repeat(rng.permutation(np.repeat(np.arange(3), 20)), 20)
    part = split_cells(labels, fields, 0)
    for field in range(60):
        assert len(set(part[fields == field])) == 1
    for k in range(3):
        shares = np.bincount(part[labels == k], minlength=3) / 400
        np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.001)
    np.testing.assert_array_equal(part, split_cells(labels, fields, 0))
    assert (part != split_cells(labels, fields, 1)).any()


def test_fields_of_several_classes_are_split_too():
    rng = np.random.default_rng(0)
    fields, labels = rng.integers(0, 50, 5000), rng.choice(5, 5000, p=(0.6, 0.2, 0.1, 0.09, 0.01))
    part = split_cells(labels, fields, 3)
    assert all(len(set(part[fields == f])) == 1 for f in range(50))
    shares = np.bincount(part) / 5000
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.05)
    assert set(labels[part == 1]) == set(labels[part == 2]) == set(range(5))


@pytest.mark.parametrize(
    ("n_fields", "held"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 0)), (4, (1, 1)), (10, (1, 1))]
)
def test_of_few_fields_at_least_half_are_learned_from(n_fields, held):
    fields = np.repeat(np.arange(n_fields), 10)
    part = split_cells(np.zeros(len(fields), int), fields, 0)
    assert tuple(len(set(fields[part == p])) for p in (1, 2)) == held


def test_cells_are_split_within_each_class():
    labels = np.repeat([0, 1, 2, 3], [100, 30, 2, 1])
    part = split_cells(labels, None, 0)
    assert [list(np.bincount(part[labels == k], minlength=3)) for k in range(4)] == [
        [80, 10, 10], [24, 3, 3], [1, 1, 0], [1, 0, 0],
    ]  # fmt: skip


def sampler(labels, fields, groups=None, n_classes=9, batch_size=8, **training):
    cells = Labelled(np.zeros((len(labels), 1)), labels, fields)
    cells.groups = np.asarray(fields if groups is None else groups)
    return LabelSampler(cells, dataclasses.replace(SHORT, **training), batch_size, n_classes)


def test_what_is_held_out_is_never_learned_from_and_a_lonely_class_is_named():
    fields = np.repeat(np.arange(13), 10)
    found = sampler(np.repeat([0, 1, 2], [60, 60, 10]), fields)
    seen = [np.concatenate([b["x"] for b in found.epoch(e)]) for e in range(3)]
    for rows in seen:
        assert sorted(rows) == sorted(found.rows)
    assert not np.array_equal(seen[0], seen[1])
    for a, b in ((found.rows, found.validation), (found.rows, found.test), (found.validation, found.test)):
        assert not set(fields[a]) & set(fields[b])
    assert "Of c nothing is held out" in found.note
    assert "one field" in found.note


def test_groups_can_stay_together():
    groups = np.repeat(np.arange(10), 20)
    found = sampler(groups % 2, np.repeat(np.arange(20), 10), groups, split_by="group")
    assert not set(groups[found.rows]) & set(groups[np.r_[found.validation, found.test]])


def test_classes_can_come_equally_often():
    found = sampler(np.repeat([0, 1], [160, 40]), np.repeat(np.arange(20), 10), balanced=True)
    for epoch in range(2):
        rows = np.concatenate([b["x"] for b in found.epoch(epoch)])
        counts = np.bincount(found.labels[rows])
        assert counts[0] == counts[1] == -(-len(found.rows) // 2)
        assert set(rows) <= set(found.rows)
        assert set(np.flatnonzero(found.labels == 1)) & set(found.rows) <= set(rows)


def test_no_batch_has_a_single_cell():
    for n in range(8, 30):
        found = sampler(np.arange(n) % 2, np.zeros(n), split_by="cell", batch_size=2)
        assert min(len(b["x"]) for b in found.epoch(0)) >= 2


@pytest.mark.parametrize(
    ("labels", "n_classes", "match"),
    [
        ([0] * 40, 9, "one class"),
        ([0] * 10 + [1] * 10, 9, "--split-by cell"),
        ([0, 1] * 20, 1, "2 classes, and the network 1"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(labels, n_classes, match):
    with pytest.raises(InputError, match=match):
        sampler(labels, np.arange(len(labels)) // 10, n_classes=n_classes)


def test_cells_without_classes_are_refused(cells, tmp_path):
    with pytest.raises(InputError, match="no labels"):
        next(train(make(), cells, SHORT, tmp_path, **FP32))


# ---- augmentations and schedule ---------------------------------------------------------------------


def test_windows_begin_at_every_offset_from_0_to_3_and_are_cut_alike_in_all_channels():
    x = torch.arange(64 * 64.0).view(1, 1, 64, 64).repeat(400, 2, 1, 1)
    x[:, 1] += 10_000
    out = random_window(x, 60, torch.Generator().manual_seed(0))
    assert out.shape == (400, 2, 60, 60)
    assert torch.equal(out[:, 1], out[:, 0] + 10_000)
    first = out[:, 0, 0, 0].int()
    assert {(int(f) // 64, int(f) % 64) for f in first} == {(i, j) for i in range(4) for j in range(4)}
    for f, window in zip(first[:20], out[:20, 0], strict=True):
        i, j = int(f) // 64, int(f) % 64
        assert torch.equal(window, x[0, 0, i : i + 60, j : j + 60])
    assert torch.equal(random_window(out, 60, torch.Generator()), out)


@pytest.mark.parametrize("turns", [3, 4])
def test_quarter_turns(turns):
    x = torch.rand(200, 1, 6, 6)
    out = random_turns(x, turns, torch.Generator().manual_seed(0))
    drawn = []
    for a, b in zip(x, out, strict=True):
        drawn += [k for k in range(4) if torch.equal(a.rot90(k, (-2, -1)), b)]
    assert set(drawn) == set(range(turns))


@pytest.mark.parametrize(("network", "side"), [("deeploc2017", 60), ("representation", 64)])
def test_a_batch_is_varied_with_its_classes_kept(network, side, labelled):
    model = make(network)
    learner = make_learner(model, Training(), 10)
    raw = {"x": torch.from_numpy(labelled.array[:16]), "y": torch.arange(16) % 2}
    batch = learner.prepare(raw, torch.Generator().manual_seed(1))
    assert batch["x"].shape == (16, 2, side, side)
    assert torch.equal(batch["y"], raw["y"])
    again = learner.prepare(raw, torch.Generator().manual_seed(1))["x"]
    assert torch.equal(batch["x"], again)
    plain = make_learner(model, Training(shifts=False, flips=False, turns=False), 10).prepare(
        raw, torch.Generator()
    )
    assert torch.equal(plain["x"], model.preprocess(raw["x"]))


def test_the_learning_rate_falls_as_the_papers_say():
    def rates(network, steps, **training):
        learner = make_learner(make(network), Training(epochs=4, **training), 25)
        optimizer = learner.make_optimizer()
        found = []
        for step in steps:
            learner.before_step(step, optimizer)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    steps = (0, 24, 25, 50, 99)
    np.testing.assert_allclose(rates("deeploc2017", steps), [0.1, 0.1, 0.096, 0.09216, 0.0884736])
    cosine = [3e-4 * 0.5 * (1 + np.cos(np.pi * s / 100)) for s in steps]
    np.testing.assert_allclose(rates("representation", steps), cosine)
    assert rates("deeploc2017", steps, learning_rate=0.01, schedule="constant") == [0.01] * 5


def test_the_loss_is_softmax_cross_entropy(labelled):
    model = make()
    x = model.preprocess(torch.from_numpy(labelled.array[:8]))
    y = torch.from_numpy(labelled.labels[:8])
    with torch.no_grad():
        logits = model.embed(x, "final_layer").double()
        wanted = -(logits - logits.logsumexp(dim=1, keepdim=True)).gather(1, y[:, None]).mean()
        assert float(model({"x": x, "y": y})["loss"]) == pytest.approx(float(wanted), rel=1e-5)


def test_scores_are_those_of_scikit_learn(labelled):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    judged = torch.tensor(np.stack([p[np.arange(50), y], p.argmax(1), y]))
    loss, accuracy, balanced = make_learner(make(), SHORT, 1).score(judged)
    assert loss == pytest.approx(metrics.log_loss(y, p))
    assert accuracy == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert balanced == pytest.approx(metrics.balanced_accuracy_score(y, p.argmax(1)))


# ---- real learning ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_treated_wells_it_has_not_seen_are_told_from_untreated_ones(tmp_path):
    """Untreated and fully treated wells of the sample, both drugs; the test wells are whole and unseen."""
    sample = Path(napari_cellrep.__file__).parent / "sample" / "wells"
    crops, labels, fields = [], [], []
    untreated, treated = ("A01", "A02", "A03", "E02", "E12"), ("A10", "A11", "A12", "E01", "E11")
    for i, well in enumerate((*untreated, *treated)):
        image = tifffile.imread(sample / f"{well}.ome.tif")
        dna = ndimage.gaussian_filter(image[1].astype(float), 2)
        mask, _ = ndimage.label(dna > threshold_otsu(dna))
        found = find_cells(mask)
        crops.append(cut_crops(image, mask, found, CropSpec())[:60])
        labels += [int(well in treated)] * len(crops[-1])
        fields += [i] * len(crops[-1])
    cells = Labelled(np.concatenate(crops), labels, fields)
    training = Training(epochs=8, batch_size=32, learning_rate=3e-3, max_seconds=45)
    result = drain(train(make(width=0.125), cells, training, tmp_path, **FP32))
    losses = [float(r["loss"]) for r in history(tmp_path)]
    assert losses[-1] < 0.6 * losses[0]
    assert result["test"]["n_cells"] >= 100
    assert result["test"]["balanced_accuracy"] > 0.75  # chance: 0.5


# ---- the run ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_it_learns_and_says_how_well_on_held_out_fields(network, labelled, tmp_path):
    training = Training(
        epochs=12,
        batch_size=16,
        learning_rate=3e-3,
        schedule="constant",
        settle_norm=network == "representation",
    )
    seen = []
    result = drain(train(make(network, width=0.125), labelled, training, tmp_path, **FP32), seen.append)
    rows = history(tmp_path)
    assert list(rows[0]) == [*HISTORY, "val_loss", "val_accuracy", "val_balanced_accuracy"]
    assert [int(r["epoch"]) for r in rows] == list(range(1, 13))
    losses = [float(r["loss"]) for r in rows]
    assert losses[-1] < 0.7 * losses[0]
    val = [float(r["val_loss"]) for r in rows]
    assert result["best_epoch"] == int(np.argmin(val)) + 1
    assert seen[-1].metrics["val_loss"] == val[-1]
    assert seen[-1].metrics["val_epoch"] == 12
    assert result["validation"]["balanced_accuracy"] > 0.7
    assert result["test"]["n_cells"] == len(LabelSampler(labelled, training, 16, 2).test)
    assert json.loads((tmp_path / "model.json").read_text())["trained"]["test"] == result["test"]


def test_the_best_weights_are_kept_and_the_last_ones_go_on(labelled, tmp_path):
    model = make()
    seen = drain(train(model, labelled, SHORT, tmp_path, **FP32))
    checkpoint = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    best = checkpoint["best"]
    saved = load_model(tmp_path).state_dict()
    for key, value in saved.items():
        assert torch.equal(value, best["model"][key]), key
        assert torch.equal(value, model.state_dict()[key]), key
    assert best["loss"] == pytest.approx(seen["validation"]["loss"], rel=1e-5)
    assert best["loss"] == min(float(r["val_loss"]) for r in history(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("stop_after", "settle"), [(1, False), (5, False), (6, True), (7, True)])
def test_a_stopped_run_goes_on_to_exactly_the_same(labelled, tmp_path, stop_after, settle):
    """Stopped in an epoch, at its end, and while held-out cells are looked at."""
    training = dataclasses.replace(SHORT, epochs=2, settle_norm=settle)
    drain(train(make(), labelled, training, tmp_path / "whole", **FP32))
    job = train(make(), labelled, training, tmp_path / "parts", **FP32)
    for _ in range(stop_after + 1):
        next(job)
    job.close()
    drain(train(make(seed=99), labelled, training, tmp_path / "parts", **FP32))
    a, b = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts"))
    for part in (a["model"], a["best"]["model"]):
        other = b["model"] if part is a["model"] else b["best"]["model"]
        assert all(torch.equal(v, other[k]) for k, v in part.items())
    timed = ("cells_per_s", "seconds")
    rows = [
        [{k: v for k, v in r.items() if k not in timed} for r in history(tmp_path / n)]
        for n in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    for key, value in load_model(tmp_path / "whole").state_dict().items():
        assert torch.equal(value, load_model(tmp_path / "parts").state_dict()[key]), key


def test_patience_ends_it_and_more_patience_goes_on(labelled, tmp_path):
    wild = dataclasses.replace(SHORT, epochs=30, learning_rate=1.0, schedule="constant", patience=2)
    result = drain(train(make(), labelled, wild, tmp_path, **FP32))
    epochs = len(history(tmp_path))
    assert epochs == result["best_epoch"] + 2 < 30
    assert result["stopped_early"]
    assert "had not fallen for 2" in result["notes"][-1]
    again = drain(train(make(), labelled, wild, tmp_path, **FP32))
    assert again["step"] == result["step"]
    more = drain(
        train(make(), labelled, dataclasses.replace(wild, epochs=epochs + 1, patience=0), tmp_path, **FP32)
    )
    assert len(history(tmp_path)) == epochs + 1
    assert more["step"] > result["step"]


def test_other_classes_or_another_split_start_anew(labelled, tmp_path):
    drain(train(make(), labelled, SHORT, tmp_path, **FP32))
    other = Labelled(labelled.array, 1 - labelled.labels, labelled.fields)
    seen = []
    drain(train(make(), other, SHORT, tmp_path, **FP32), seen.append)
    assert "starts anew" in seen[0].message
    seen = []
    drain(train(make(), other, dataclasses.replace(SHORT, split_by="cell"), tmp_path, **FP32), seen.append)
    assert "starts anew" in seen[0].message


def test_a_limit_within_the_first_epoch_leaves_a_judged_model(labelled, tmp_path):
    result = drain(train(make(), labelled, dataclasses.replace(SHORT, max_steps=2), tmp_path, **FP32))
    assert result["step"] == 2
    assert "best_epoch" not in result
    assert result["validation"]["n_cells"] > 0
    assert load_model(tmp_path).n_classes == 2


@pytest.mark.parametrize("network", NETWORKS)
def test_what_it_would_cost_is_found_out_without_writing(labelled, tmp_path, network):
    trial = try_out(make(network), labelled, SHORT, tmp_path, **FP32)
    assert trial.step_s > 0
    assert trial.memory_bytes > 0
    assert trial.steps == 3 * LabelSampler(labelled, SHORT, 16, 2).n_batches
    assert not list(tmp_path.iterdir())
