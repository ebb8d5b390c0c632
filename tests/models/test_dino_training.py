"""DINO's training: the authors' numbers, then runs on real cells."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from array_cells import ArrayCells
from torch.nn import functional as F

from napari_cellrep.jobs import drain
from napari_cellrep.models import _augment as augment
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._dino_training import (
    RECIPES,
    DinoLearner,
    Head,
    clip_each,
    cosine_schedule,
    distillation_loss,
    effective_rank,
    make_view,
    moved_center,
    temperature_schedule,
)
from napari_cellrep.models._learner import make_learner
from napari_cellrep.models._train import train
from napari_cellrep.models.dino import Training
from napari_cellrep.specs import InputError, make_config

FP32 = {"device": "cpu", "precision": "fp32"}
SMALL_HEAD = {"hidden_dim": 32, "bottleneck_dim": 16, "out_dim": 64}
PIXELS = {"rtol": 0, "atol": 1e-6}  # the golden files' README, for pure preprocessing


@pytest.fixture
def loss_file(shared):
    with np.load(shared / "golden" / "dino_loss_schedules.npz") as z:
        yield {k: z[k] for k in z}


@pytest.fixture
def views_file(shared):
    with np.load(shared / "golden" / "dino_augmentations.npz") as z:
        yield {k: z[k] for k in z}


@pytest.fixture
def image(views_file) -> torch.Tensor:
    return torch.from_numpy(views_file["img_u8"])[None].float() / 255


@pytest.fixture
def authors(shared) -> DinoLearner:
    """Student and teacher of the authors' tiny checkpoint."""
    path: Path = shared / "golden" / "dino_tiny_checkpoint.pth"
    learner = load_model(path).learner(Training(**SMALL_HEAD), 7)
    import argparse

    with torch.serialization.safe_globals([argparse.Namespace]):
        held = torch.load(path, weights_only=True)
    learner.student.load_state_dict({k.removeprefix("module."): v for k, v in held["student"].items()})
    learner.teacher.load_state_dict(held["teacher"])
    return learner


# ---- parity with the authors' code: loss and schedules ------------------------------------------------


def test_golden_losses_and_center(loss_file):
    student, teacher = (torch.from_numpy(loss_file[f"{who}_out"]) for who in ("student", "teacher"))
    temperatures = temperature_schedule(0.04, 0.07, 5, 2)
    np.testing.assert_allclose(temperatures, loss_file["teacher_temp_schedule"], rtol=0, atol=1e-12)
    center, losses = torch.from_numpy(loss_file["center0"]), []
    for epoch in (0, 1, 4):
        losses.append(float(distillation_loss(student, teacher, center, temperatures[epoch])))
        center = moved_center(center, teacher, 0.9)
    np.testing.assert_allclose(losses, loss_file["losses_epochs_0_1_4_sequential"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(center, loss_file["center_after3"], **PIXELS)


def test_golden_schedules(loss_file):
    exact = {"rtol": 0, "atol": 1e-12}
    learning = cosine_schedule(5e-4 * 96 / 256, 1e-6, 5, 7, warmup_epochs=2)
    np.testing.assert_allclose(learning, loss_file["lr_sched"], **exact)
    np.testing.assert_allclose(cosine_schedule(0.04, 0.4, 5, 7), loss_file["wd_sched"], **exact)
    np.testing.assert_allclose(cosine_schedule(0.996, 1, 5, 7), loss_file["mom_sched"], **exact)


def test_golden_schedules_reach_the_optimizer(loss_file, shared):
    training = Training(epochs=5, warmup_epochs=2, batch_size=96, **SMALL_HEAD)
    learner = load_model(shared / "golden" / "dino_tiny_checkpoint.pth").learner(training, 7)
    optimizer = learner.make_optimizer()
    for step in (0, 13, 20, 34):
        learner.before_step(step, optimizer)
        decayed, free = optimizer.param_groups
        assert decayed["lr"] == free["lr"] == pytest.approx(loss_file["lr_sched"][step], abs=1e-12)
        assert decayed["weight_decay"] == pytest.approx(loss_file["wd_sched"][step], abs=1e-12)
        assert free["weight_decay"] == 0
    assert optimizer.defaults["betas"] == (0.9, 0.999)


def test_golden_groups_of_weight_decay(authors, loss_file):
    decayed, free = authors.groups()
    assert list(decayed) == loss_file["regularized_names"].tolist()
    assert list(free) == loss_file["unregularized_names"].tolist()


def test_golden_head_outputs(authors, loss_file):
    views = [torch.from_numpy(loss_file[f"crops_{size}"]).flatten(0, 1) for size in ("global", "local")]
    authors.student.eval()
    with torch.inference_mode():
        kept = [authors._kept(len(x), torch.Generator()) for x in views]
        tokens = torch.cat([authors._student_tokens(x, k) for x, k in zip(views, kept, strict=True)])
        student = authors.student["head"](tokens)
        teacher = authors.teacher["head"](authors.teacher["backbone"].embed(views[0]))
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(student, loss_file["student_head_out"], **close)
    np.testing.assert_allclose(teacher, loss_file["teacher_head_out"], **close)


# ---- parity with the authors' code: augmentations -----------------------------------------------------


@pytest.mark.parametrize("name", ["warp0", "warp1", "warp2", "warp3", "warp_nonsquare"])
def test_golden_warp(views_file, name):
    pixels = views_file.get(f"{name}/in_u8", views_file["img_u8"])
    corner, dx, dy = views_file[f"{name}/corner_dx_dy"].tolist()
    x = torch.from_numpy(pixels)[None].float() / 255
    found = augment.warp_corner(x, torch.tensor([corner]), torch.tensor([[dx, dy]]))[0]
    # Rounding of the authors' single-precision coordinates, a few 1e-6 px, times steps of up to 1 per px of the noise.
    np.testing.assert_allclose(found, views_file[f"{name}/out"], rtol=0, atol=2e-5)


def test_golden_crop_without_antialiasing(views_file, image):
    box = torch.from_numpy(views_file["rrc/ijhw"])[None]
    found = augment.crop_resized(image, box, 32)[0].numpy()
    np.testing.assert_allclose(found, views_file["rrc/out"], **PIXELS)
    assert np.abs(found - views_file["rrc/out_antialias_true"]).max() > 0.01


def test_golden_boxes(views_file):
    """The authors' draws in their order, through our rule of sizes; their 50 × 90 image counts as 90 × 50."""
    low, high = torch.log(torch.tensor([3 / 4, 4 / 3]))
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        h = w = torch.tensor(math.inf)
        while not (h <= 90 and w <= 50):
            area = 90 * 50 * torch.empty(1).uniform_(0.05, 0.4, generator=g).double()
            ratio = torch.empty(1).uniform_(float(low), float(high), generator=g).exp().double()
            h, w = augment.box_sizes(area, ratio)
        top = torch.randint(0, 90 - int(h) + 1, (1,), generator=g)
        left = torch.randint(0, 50 - int(w) + 1, (1,), generator=g)
        assert [int(v) for v in (top, left, h, w)] == views_file[f"rrc_params_rect/{seed}"].tolist()


def test_golden_channels(views_file, image):
    def factors(name: str) -> torch.Tensor:
        return torch.from_numpy(views_file[f"{name}/factors"])[None].float()

    bright = augment.change_brightness(image, factors("brightness"))[0]
    np.testing.assert_allclose(bright, views_file["brightness/out"], **PIXELS)
    contrast = augment.change_contrast(image, factors("contrast"))[0]
    np.testing.assert_allclose(contrast, views_file["contrast/out"], **PIXELS)
    factor = torch.from_numpy(views_file["rescale/factor_over_max"]).float()
    rescaled = augment.rescale_channel(image, 1, factor * image.amax())[0]
    np.testing.assert_allclose(rescaled, views_file["rescale/out"], **PIXELS)
    removed = augment.random_removal(image, 1.0, (3,), torch.Generator())[0].sum(dim=(1, 2))
    np.testing.assert_allclose(removed, views_file["remove/out_channel_sums"], rtol=1e-6)


# ---- what is drawn ------------------------------------------------------------------------------------


def test_boxes_lie_within_and_have_the_areas_and_shapes_asked_for():
    boxes = augment.draw_boxes(20_000, 60, 60, (0.05, 0.4), torch.Generator().manual_seed(0)).numpy()
    top, left, h, w = boxes.T
    assert boxes[:, :2].min() == 0
    assert (top + h).max() == (left + w).max() == 60
    area, ratio = h * w / 3600, w / h
    assert 0.04 < area.min() < 0.06
    assert 0.39 < area.max() < 0.42
    assert abs(area.mean() - 0.225) < 0.003
    assert abs(np.log(ratio).mean()) < 0.01
    assert 0.65 < ratio.min() < 0.76 < 1.32 < ratio.max() < 1.5
    # Of a strip no box of an allowed shape and this area fits: the largest in the middle.
    strip = augment.draw_boxes(3, 8, 100, (0.9, 1.0), torch.Generator().manual_seed(0))
    assert strip.tolist() == [[0, 44, 8, 11]] * 3


def test_crops_of_many_boxes_equal_one_by_one(cells):
    x = torch.from_numpy(cells.array[:6]).float() / 255
    boxes = augment.draw_boxes(6, 64, 64, (0.05, 1.0), torch.Generator().manual_seed(1))
    found = augment.crop_resized(x, boxes, 24)
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        part = x[i : i + 1, :, top : top + h, left : left + w]
        one = F.interpolate(part, size=(24, 24), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(found[i], one[0], **PIXELS)


def test_channels_are_removed_and_rescaled_as_often_as_said():
    g = torch.Generator().manual_seed(0)
    x = torch.ones(4000, 5, 2, 2)
    gone = (augment.random_removal(x, 0.2, (0, 2, 3), g).sum(dim=(2, 3)) == 0).float()
    assert gone.sum(dim=1).max() == 1
    np.testing.assert_allclose(gone.mean(dim=0), [0.2 / 3, 0, 0.2 / 3, 0.2 / 3, 0], atol=0.015)
    rescaled = augment.random_rescale(x / 2, 0.2, 1, g)
    changed = rescaled[:, 1, 0, 0] != 0.5
    assert abs(changed.float().mean() - 0.2) < 0.02
    factors = rescaled[changed, 1, 0, 0]  # 0.5 · U(0, 2) / 0.5
    assert factors.min() < 0.05
    assert 1.95 < factors.max() < 2
    assert (rescaled[:, [0, 2, 3, 4]] == 0.5).all()


def test_flips_are_left_right_and_up_down_only_where_asked_for():
    x = torch.arange(4.0).reshape(1, 1, 2, 2).expand(400, -1, -1, -1)
    both = augment.random_flips(x, torch.Generator().manual_seed(0)).flatten(1)
    one = augment.random_flips(x, torch.Generator().manual_seed(0), vertical=False).flatten(1)
    kinds, counts = torch.unique(both, dim=0, return_counts=True)
    assert kinds.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert counts.min() > 70
    assert torch.unique(one, dim=0).tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


def test_a_dark_image_stays_dark():
    dark = torch.zeros(3, 4, 16, 16)
    for recipe in RECIPES.values():
        for does in (recipe.first, recipe.second, recipe.local):
            view = make_view(dark, does, recipe, 8, (0.4, 1.0), 1, torch.Generator().manual_seed(0))
            assert (view == 0).all()


def test_the_recipes_are_those_of_the_settings_and_of_the_paper():
    """models.md §3.5."""
    effective, intended, painting = (RECIPES[k] for k in ("hpa_effective", "hpa_intended", "cell_painting"))
    assert (effective.first, effective.second, effective.local) == (("warp",), ("remove",), ("remove",))
    assert {intended.first, intended.second, intended.local} == {("warp", "remove", "rescale")}
    assert {painting.first, painting.second, painting.local} == {("remove", "rescale")}
    assert [r.vertical for r in (effective, intended, painting)] == [True, True, False]
    assert [r.jitter_sd for r in (effective, intended, painting)] == [0.5, 0.5, 0.8]
    learner = create_model("dino", size="tiny").learner(Training(**SMALL_HEAD), 3)
    assert (learner.global_px, learner.local_px, learner.protein) == (224, 96, 1)
    painting_net = create_model(
        "dino", size="tiny", image_px=128, resize_px=224, channels=("nucleus", "rna", "er", "agp", "mito")
    )
    learner = painting_net.learner(Training(recipe="cell_painting", **SMALL_HEAD), 3)
    assert (learner.global_px, learner.local_px, learner.protein) == (128, 64, 1)


def test_the_published_head_has_as_many_weights_as_theirs():
    """models.md §3.1: 22.35 M for the small network, 23.14 M for the base one."""
    t = Training()
    for width, millions in ((384, 22.35), (768, 23.14)):
        head = Head(width, t.hidden_dim, t.bottleneck_dim, t.out_dim, t.norm_last_layer)
        assert round(sum(p.numel() for p in head.parameters()) / 1e6, 2) == millions


# ---- one step -----------------------------------------------------------------------------------------


TRAINING = Training(
    epochs=2, batch_size=16, learning_rate=4e-3, warmup_epochs=1, n_local=4, momentum=0.95, local_px=16,
    seed=3, hidden_dim=64, bottleneck_dim=32, out_dim=128,
)  # fmt: skip


def make(seed: int = 0):
    torch.manual_seed(seed)
    return create_model(
        "dino", channels=("protein", "nucleus"), patch_px=8, image_px=32, dim=48, depth=2, heads=3
    )


@pytest.fixture
def few(cells) -> ArrayCells:
    """48 cells of four wells."""
    return ArrayCells(cells.array[::2], cells.groups[::2])


def one_batch(learner, cells, seed=0):
    x = torch.from_numpy(cells.crops(np.arange(8)))
    return learner.prepare({"x": x}, torch.Generator().manual_seed(seed))


def test_views_come_view_by_view_and_standardised(few):
    learner = make_learner(make(), TRAINING, 3)
    batch = one_batch(learner, few)
    assert batch["global"].shape == (16, 2, 32, 32)
    assert batch["local"].shape == (32, 2, 16, 16)
    sd, mean = torch.std_mean(batch["local"], dim=(2, 3), correction=0)
    assert mean.abs().max() < 1e-4
    assert ((sd - 1).abs().min(dim=1).values < 1e-4).all()
    assert torch.equal(batch["global"], one_batch(learner, few)["global"])
    assert not torch.equal(batch["global"], one_batch(learner, few, seed=1)["global"])
    assert (
        not make_learner(make(), dataclasses.replace(TRAINING, n_local=0), 3)
        .losses({"global": batch["global"]})["loss"]
        .isnan()
    )


def test_sixteen_bit_crops_make_the_same_views_as_their_channels_ranges(few):
    learner = make_learner(make(), TRAINING, 3)
    raw = torch.from_numpy(few.array[:4].astype(np.int32) * 13 + 500)
    unit = learner.model.to_unit(raw)
    assert (unit.amax(dim=(2, 3)) == 1).all()
    assert (unit.amin(dim=(2, 3)) == 0).all()
    flat = torch.full((1, 2, 32, 32), 700.0)
    assert (learner.model.to_unit(flat) == 0).all()


def test_one_step_by_hand(few):
    """Frozen last layer, clipping of each tensor, running mean and center."""
    training = dataclasses.replace(TRAINING, warmup_epochs=0, drop_path=0.0, clip_norm=1e-3)
    learner = make_learner(make(), training, 3)
    learner.module.train()
    optimizer = learner.make_optimizer()
    before = {k: v.clone() for k, v in learner.module.state_dict().items()}
    batch = one_batch(learner, few)
    learner.before_step(0, optimizer)
    loss = learner.losses(batch)["loss"]
    with torch.no_grad():
        out = learner.teacher["head"](learner.teacher["backbone"].embed(batch["global"]))
    loss.backward()
    norms = {k: p.grad.norm() for k, p in learner.student.named_parameters() if p.grad is not None}
    learner.before_update(0)
    np.testing.assert_allclose(learner.center, 0.1 * out.mean(dim=0, keepdim=True), atol=1e-7)
    last = learner.student["head"].last_layer
    assert last.weight_v.grad is None
    for name, p in learner.student.named_parameters():
        if p.grad is not None:
            assert p.grad.norm() == pytest.approx(min(float(norms[name]), 1e-3), rel=2e-3), name
    optimizer.step()
    learner.after_update(0)
    after = learner.module.state_dict()
    assert torch.equal(after["student.head.last_layer.weight_v"], before["student.head.last_layer.weight_v"])
    moved = after["student.backbone.blocks.0.mlp.fc1.weight"]
    assert not torch.equal(moved, before["student.backbone.blocks.0.mlp.fc1.weight"])
    expected = 0.95 * before["teacher.backbone.blocks.0.mlp.fc1.weight"] + 0.05 * moved
    np.testing.assert_allclose(after["teacher.backbone.blocks.0.mlp.fc1.weight"], expected, atol=1e-7)
    learner.losses(batch)["loss"].backward()
    learner.before_update(3)  # the second epoch
    assert last.weight_v.grad is not None
    assert last.weight_g.grad is None


def test_clipping_leaves_small_gradients_alone():
    small, large = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    small.grad, large.grad = torch.tensor([1.0, 0, 0]), torch.tensor([0, 30.0, 40.0])
    clip_each([small, large], 3.0)
    assert small.grad.tolist() == [1, 0, 0]
    np.testing.assert_allclose(large.grad, [0, 1.8, 2.4], rtol=1e-6)


def test_dropped_branches_are_of_the_student_alone(few):
    learner = make_learner(make(), dataclasses.replace(TRAINING, drop_path=0.9), 3)
    learner.module.train()
    x = one_batch(learner, few)["global"]

    def tokens(seed):
        return learner._student_tokens(x, learner._kept(len(x), torch.Generator().manual_seed(seed)))

    teacher = learner.teacher["backbone"].embed(x)
    assert torch.equal(tokens(0), tokens(0))
    assert not torch.equal(tokens(0), tokens(1))
    learner.student.eval()
    np.testing.assert_allclose(tokens(0).detach(), teacher.detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("training", "network", "match"),
    [
        ({"local_scale_min": 0.6}, {}, "local_scale_min"),
        ({"local_px": 4}, {}, "smaller than a patch"),
        ({}, {"as_rgb": True}, "photograph"),
    ],
)
def test_settings_that_contradict_one_another_get_sentences(training, network, match):
    model = create_model("dino", patch_px=8, image_px=32, dim=48, depth=2, heads=3, **network)
    with pytest.raises(InputError, match=match):
        make_learner(model, make_config(Training, {**SMALL_HEAD, **training}), 3)


def test_the_bare_network_has_no_loss(few):
    with pytest.raises(InputError, match="teacher"):
        make()({"x": torch.zeros(1, 2, 32, 32)})


# ---- whole runs ---------------------------------------------------------------------------------------


def state(folder):
    return load_model(folder).state_dict()


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_it_learns_on_real_cells_and_does_not_collapse(cells, tmp_path):
    """A quick center and a sharp teacher, so that what is seen in 72 steps is learning, not the center's settling in
    the first few, which raises the loss."""
    training = Training(
        epochs=24, batch_size=32, learning_rate=1e-3, warmup_epochs=2, n_local=2, local_px=16, local_scale_min=0.2,
        momentum=0.99, center_momentum=0.5, teacher_temperature=0.02, warmup_teacher_temperature=0.02, seed=3,
        hidden_dim=128, bottleneck_dim=64, out_dim=256,
    )  # fmt: skip
    model, seen = make(), []
    raw = torch.from_numpy(cells.array)
    x = model.preprocess(raw)
    with torch.inference_mode():
        untrained = model.embed(x)
    drain(train(model, cells, training, tmp_path, **FP32), seen.append)
    losses = np.array([p.metrics["loss"] for p in seen if p.metrics])
    assert len(losses) == 72
    assert np.isfinite(losses).all()
    assert losses[-12:].mean() < 0.92 * losses[6:12].mean()  # 0.85 here, 1.01 at a rate of 1e-7
    rates = [p.metrics["learning_rate"] for p in seen if p.metrics]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1e-3 * 32 / 256)
    assert rates[-1] < 0.01 * max(rates)

    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)["model"]
    saved = state(tmp_path)
    for key, value in saved.items():  # the teacher is what is saved, and it is not the student
        assert torch.equal(value, kept[f"teacher.backbone.{key}"]), key
    assert not torch.equal(saved["pos_embed"], kept["student.backbone.pos_embed"])

    learner = make_learner(make(), training, 3)
    learner.module.load_state_dict(kept)
    with torch.inference_mode():
        vectors = load_model(tmp_path).embed(x)
        logits = learner.teacher["head"](vectors) - learner.center
        share = (logits / 0.02).softmax(-1)
    assert vectors.std(dim=0).mean() > 0.1  # untrained 0.175, here 0.216; 0.009 where a rate of 0.1 collapses
    assert not torch.allclose(vectors, untrained, atol=0.1)

    def entropy(p):
        return -(p * p.clamp(min=1e-12).log()).sum(-1) / math.log(p.shape[-1])

    assert entropy(share.mean(dim=0)) > 0.5  # the cells do not share one prototype,
    assert entropy(share).mean() < 0.97  # nor does each have all of them


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_goes_on_to_exactly_the_same_weights(few, tmp_path, stop_after):
    """Stopped at the first step, at the end of an epoch, and in the middle of the second."""
    drain(train(make(), few, TRAINING, tmp_path / "whole", **FP32))
    job = train(make(), few, TRAINING, tmp_path / "parts", **FP32)
    for _ in range(stop_after + 1):
        next(job)
    job.close()
    torch.rand(5)  # what else was drawn in between does not matter
    seen = []
    drain(train(make(seed=99), few, TRAINING, tmp_path / "parts", **FP32), seen.append)
    assert seen[0].done == stop_after
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    whole, parts = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts")
    )
    assert_same(parts["model"], whole["model"])  # student, teacher, heads and center
    assert parts["history"][-1][2] == whole["history"][-1][2]


def test_more_epochs_go_on_with_the_schedules_of_the_new_length(few, tmp_path):
    drain(train(make(), few, TRAINING, tmp_path, **FP32))
    seen = []
    drain(train(make(), few, dataclasses.replace(TRAINING, epochs=4), tmp_path, **FP32), seen.append)
    assert seen[0].done == 6
    rates = [p.metrics["learning_rate"] for p in seen if p.metrics]
    peak = TRAINING.learning_rate * TRAINING.batch_size / 256
    np.testing.assert_allclose(rates, cosine_schedule(peak, 1e-6, 4, 3, 1)[6:], rtol=1e-12)


def test_the_seed_decides_everything(few, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.rand(7)
        model = make()
        drain(train(model, few, dataclasses.replace(TRAINING, seed=seed), tmp_path / name, **FP32))
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert not torch.equal(state(tmp_path / "a")["pos_embed"], state(tmp_path / "c")["pos_embed"])


def test_bf16_and_auto_train_too(few, tmp_path):
    for precision in ("bf16", "auto"):
        result = drain(train(make(), few, TRAINING, tmp_path / precision, device="cpu", precision=precision))
        assert np.isfinite(result["loss"])
        assert all(v.dtype == torch.float32 for v in state(tmp_path / precision).values())


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_on_four_channels(masked_cells, tmp_path, recipe):
    four = ArrayCells(masked_cells.array[:16, [1, 0, 1, 0]].astype(np.uint16) * 9, masked_cells.groups[:16])
    model = create_model("dino", patch_px=8, image_px=32, dim=48, depth=2, heads=3)
    training = dataclasses.replace(TRAINING, recipe=recipe, max_steps=1)
    assert np.isfinite(drain(train(model, four, training, tmp_path, **FP32))["loss"])


def test_a_short_training_warms_up_for_half_of_its_epochs_and_says_so():
    learner = make_learner(make(), dataclasses.replace(TRAINING, epochs=3, warmup_epochs=10), 4)
    np.testing.assert_array_equal(
        learner.learning_rates, cosine_schedule(learner.learning_rates.max(), 1e-6, 3, 4, 1)
    )
    assert "1 of the 3 epochs instead of 10" in learner.notes[0]
    assert not make_learner(make(), dataclasses.replace(TRAINING, epochs=4, warmup_epochs=2), 4).notes


def test_the_center_moves_once_a_batch_also_when_it_is_computed_in_parts(few):
    learner = make_learner(make(), TRAINING, 3)
    batch = one_batch(learner, few)
    with torch.no_grad():
        out = learner.teacher["head"](learner.teacher["backbone"].embed(batch["global"]))
        n = len(batch["global"]) // 2
    learner.before_step(0, learner.make_optimizer())
    for part in (slice(0, n // 4), slice(n // 4, n)):
        views = {k: torch.cat([v[part] for v in x.split(n)]) for k, x in batch.items()}
        learner.losses(views)["loss"].backward()
    learner.before_update(0)
    np.testing.assert_allclose(learner.center, 0.1 * out.mean(dim=0, keepdim=True), atol=1e-6)


# ---- collapse ---------------------------------------------------------------------------------------


def judged_run(cells, folder, **training):
    """Train a tiny DINO, a quarter of the cells held out; the result, the history and the messages."""
    torch.manual_seed(0)
    net = create_model(
        "dino", channels=("protein", "nucleus"), image_px=32, patch_px=8, dim=48, depth=2, heads=3
    )
    how = {
        "epochs": 7,
        "batch_size": 32,
        "warmup_epochs": 1,
        "n_local": 2,
        "local_px": 16,
        "learning_rate": 4e-3,
    }
    fields = 10 * cells.groups + np.arange(len(cells)) % 6
    seen = []
    result = drain(
        train(
            net, ArrayCells(cells.array, cells.groups, fields), Training(**{**SMALL_HEAD, **how, **training}), folder,
            **FP32,
        ),
        seen.append,
    )  # fmt: skip
    with (folder / "history.csv").open() as f:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(f)]
    return result, rows, [p.message for p in seen]


def test_a_healthy_run_has_its_columns_and_no_warning(cells, tmp_path):
    result, rows, messages = judged_run(cells, tmp_path)
    assert len(rows) == 7
    assert all(
        0 < row["val_entropy"] <= row["val_joint_entropy"] + 1e-6 < math.log(64) + 1e-5 for row in rows
    )
    assert all(1 < row["val_rank"] < 48 for row in rows)
    assert not any("collapsed" in words for words in (*result["notes"], *messages))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "match"),
    [
        ({"center_momentum": 1.0, "momentum": 0.9}, "always one prototype"),
        (
            {"teacher_temperature": 1.0, "warmup_teacher_temperature": 1.0, "momentum": 0.9},
            "all prototypes alike",
        ),
    ],
)
def test_a_collapse_is_said(cells, tmp_path, caplog, broken, match):
    """Without centering one prototype wins; a teacher without an edge makes all of them alike."""
    result, _, messages = judged_run(cells, tmp_path, **broken)
    assert match in result["notes"][-1]
    assert match in messages[-1]
    assert match in caplog.text


def test_effective_rank_of_known_spreads():
    rng = np.random.default_rng(0)
    assert effective_rank(np.ones((20, 5)) + 1e-7 * rng.normal(size=(20, 5))) == 1
    line = rng.normal(size=(50, 1)) @ rng.normal(size=(1, 8))
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    two = np.zeros((4, 6))
    two[[0, 1], 0], two[[2, 3], 1] = (1, -1), (1, -1)
    assert effective_rank(two) == pytest.approx(2)
