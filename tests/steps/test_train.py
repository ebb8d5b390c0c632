import csv
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data import open_project
from napari_cellrep.data.cells import provenance
from napari_cellrep.data.crops import cut_crops
from napari_cellrep.jobs import drain
from napari_cellrep.models import load_model
from napari_cellrep.models._sampling import make_sampler
from napari_cellrep.specs import CropSpec, InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import boxes_of, embed
from napari_cellrep.steps.train import ProjectCells, prepare, resume_training, train

TINY = {"width": 0.125}
SHORT = {"batch_size": 16, "epochs": 2, "seed": 3}


@pytest.mark.slow
def test_training_on_real_cells_leaves_a_model_with_its_card_and_history(small):
    seen = []
    folder = drain(train(small, name="mine", config=TINY, training=SHORT), seen.append)
    assert folder == small.root / "models" / "mine"
    card = json.loads((folder / "model.json").read_text())
    assert card["model"] == "paired_cell_inpainting"
    assert card["channels"] == ["FKHR-GFP", "DNA"]
    assert card["n_cells"] == int(small.cells.obs["good"].sum())
    with (folder / "history.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert all("loss" in p.metrics for p in seen if p.done)
    assert load_model(folder).config.width == TINY["width"]


@pytest.mark.slow
def test_stopped_and_resumed_training_ends_where_an_uninterrupted_one_does(small):
    import torch

    whole = load_model(drain(train(small, name="whole", config=TINY, training=SHORT, precision="fp32")))
    job = train(small, name="parts", config=TINY, training=SHORT, precision="fp32")
    for progress in job:
        if progress.total and progress.done > progress.total // 2:
            break
    job.close()
    parts = load_model(drain(train(small, name="parts", config=TINY, training=SHORT, precision="fp32")))
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_the_autoencoder_is_trained_and_embedded_the_same_way_and_needs_no_groups(small):
    cells = small.cells
    cells.obs["group"] = [f"g{i}" for i in range(cells.n_obs)]
    small.write_cells(cells)
    settings = {"model": "autoencoder", "config": TINY, "training": SHORT}
    folder = drain(train(small, **settings))
    card = json.loads((folder / "model.json").read_text())
    assert card["model"] == "autoencoder"
    assert card["n_cells"] == int(small.cells.obs["good"].sum())
    assert card["trained"]["step"] > 0
    result = drain(embed(small, model="autoencoder"))
    assert result.keys == ("autoencoder",)
    assert small.cells.obsm["X_autoencoder"].shape == (small.cells.n_obs, 48)
    assert small.cells.obs["has_autoencoder"].all()
    assert small.embedding_info("autoencoder")["trained"]


@pytest.mark.slow
def test_a_trained_network_keeps_the_sampling_of_its_images(small):
    small.write_fields([dataclasses.replace(f, um_per_px=0.5) for f in small.fields])
    folder = drain(
        train(
            small, name="mine", config=TINY, training={**SHORT, "max_steps": 1}, crop={"window_px": 96}, precision="fp32"
        )
    )  # fmt: skip
    assert json.loads((folder / "model.json").read_text())["um_per_px"] == 0.5
    assert load_model(folder).crop.um_per_px == pytest.approx(0.5 * 96 / 64)
    drain(embed(small, model="mine"))
    assert small.embedding_info("mine")["sides_px"] == [96]  # the window it was trained on
    small.write_fields([dataclasses.replace(f, um_per_px=0.25) for f in small.fields])
    drain(embed(small, model="mine"))
    assert small.embedding_info("mine")["sides_px"] == [192]  # as many µm of a finer image
    fields = [dataclasses.replace(f, um_per_px=0.25 * (i + 1)) for i, f in enumerate(small.fields)]
    small.write_fields(fields)
    made = prepare(small, model="paired_cell_inpainting", config=TINY)
    assert (made.net.crop.um_per_px, made.card["um_per_px"]) == (0, 0)  # several: none can be named


def test_crops_for_training_are_those_of_embedding(small):
    cells = ProjectCells(small, CropSpec(), (0, 1))
    rows = np.array([len(cells) - 1, 0, 5, 0])
    crops = cells.crops(rows)
    assert crops.shape == (4, 2, 64, 64)
    np.testing.assert_array_equal(crops[1], crops[3])
    row = cells._obs.iloc[5]
    image = np.pad(small.read_image(str(row["field"])), ((0, 0), (32, 32), (32, 32)))
    y, x = int(row["y_px"]), int(row["x_px"])
    np.testing.assert_array_equal(crops[2], image[:, y : y + 64, x : x + 64])
    assert len(set(cells.groups)) == 4


def test_windows_of_one_size_are_left_to_the_device_and_others_have_their_size(small):
    spec = CropSpec(window_px=96)
    cells, rows = ProjectCells(small, spec, (0, 1)), np.array([3, 0])
    crops = cells.crops(rows)
    assert (crops.shape, crops.dtype) == ((2, 2, 96, 96), np.uint8)
    row = cells._obs.iloc[3]
    image = small.read_image(str(row["field"]))
    want = cut_crops(image, None, boxes_of(cells._obs.iloc[[3]]), spec)[0]
    np.testing.assert_allclose(cells.weights @ crops[0] @ cells.weights.T, want, rtol=1e-5, atol=1e-3)
    sampled = dataclasses.replace(spec, um_per_px=0.5)
    small.write_fields(
        [dataclasses.replace(f, um_per_px=0.25 * (1 + i % 2)) for i, f in enumerate(small.fields)]
    )
    several = ProjectCells(small, sampled, (0, 1))
    assert several.weights is None
    assert several.crops(np.arange(len(several))[::9]).shape[1:] == (2, 64, 64)


def test_a_small_memory_only_costs_reading_again(small):
    few = ProjectCells(small, CropSpec(), (0, 1), memory_bytes=1)
    many = ProjectCells(small, CropSpec(), (0, 1))
    rows = np.arange(0, len(many), 7)
    np.testing.assert_array_equal(few.crops(rows), many.crops(rows))
    assert len(few._images) == 1


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"model": "measurements"}, "not trained"),
        ({"model": "no-such"}, "paired_cell_inpainting"),
        ({"training": {"epochs": 0}}, "between"),
        ({"config": {"widht": 1}}, "settings are"),
        ({"channels": ("er", "DNA")}, "there is no er"),
    ],
)
def test_wrong_words_get_sentences(small, kwargs, match):
    with pytest.raises(InputError, match=match):
        drain(train(small, **kwargs))


def test_groups_of_one_cell_make_no_pair_and_the_user_is_told(small):
    cells = small.cells
    cells.obs["group"] = [f"g{i}" for i in range(cells.n_obs)]
    small.write_cells(cells)
    with pytest.raises(InputError, match="pair"):
        drain(train(small, config=TINY, training=SHORT))


def test_all_cells_flagged_is_said(small):
    cells = small.cells
    cells.obs["good"] = False
    small.write_cells(cells)
    with pytest.raises(InputError, match="flagged"):
        drain(train(small, config=TINY, training=SHORT))


@pytest.mark.slow
def test_a_student_and_a_teacher_from_the_command_line(small):
    """DINO is made for the channels it is given; what is left embeds with the teacher."""
    from napari_cellrep.cli import main

    options = (
        "--channels FKHR-GFP,DNA --image-px 32 --patch-px 8 --dim 48 --depth 2 --heads 3 --epochs 2 --batch-size 16 "
        "--warmup-epochs 1 --n-local 2 --local-px 16 --out-dim 64 --hidden-dim 32 --bottleneck-dim 16 --device cpu"
    ).split()
    assert not main(["train", str(small.root), "--model", "dino", "--name", "own", *options])
    card = json.loads((small.root / "models" / "own" / "model.json").read_text())
    assert card["channels"] == card["roles"] == ["FKHR-GFP", "DNA"]
    assert card["trained"]["epoch"] == 2
    with (small.root / "models" / "own" / "history.csv").open() as f:
        assert [float(row["learning_rate"]) > 0 for row in csv.DictReader(f)] == [True, True]
    assert not main(["embed", str(small.root), "--model", "own", "--device", "cpu"])
    cells = open_project(small.root).cells
    vectors, good = cells.obsm["X_own"], cells.obs["has_own"].to_numpy(bool)
    assert vectors.shape[1] == 48
    assert good.any()
    assert np.isfinite(vectors[good]).all()
    assert vectors[good].std(axis=0).mean() > 0.05


@pytest.mark.slow
def test_masked_autoencoding_from_the_command_line(small, capsys):
    """Microsnoop learns from squares of the fields and embeds boxes about the cells; both crops are remembered."""
    from napari_cellrep.cli import main

    options = (
        "--channels FKHR-GFP,DNA --width 0.03 --epochs 2 --device cpu --max-steps 4 --shift-px 40".split()
    )
    command = ["train", str(small.root), "--model", "microsnoop", "--name", "own", *options]
    assert not main([*command, "--estimate"])
    assert "on the CPU" in capsys.readouterr().out
    assert not (small.root / "models" / "own").exists()
    assert not main(command)
    card = json.loads((small.root / "models" / "own" / "model.json").read_text())
    assert card["channels"] == card["roles"] == ["FKHR-GFP", "DNA"]
    assert card["trained"]["step"] == 4
    assert (card["crop"]["mode"], card["crop"]["size_px"]) == ("box", 224)
    assert (card["training_crop"]["mode"], card["training_crop"]["size_px"]) == ("window", 304)
    with np.load(small.root / "models" / "own" / "preview.npz") as preview:
        assert list(preview["columns"]) == ["real", "what it is shown", "filled in"]
        assert preview["pictures"].shape == (3, 3, 224, 224)
    assert not main(["embed", str(small.root), "--model", "own", "--device", "cpu"])
    cells = open_project(small.root).cells
    vectors, good = cells.obsm["X_own"], cells.obs["has_own"].to_numpy(bool)
    assert vectors.shape[1] == 2 * 8
    np.testing.assert_allclose(np.linalg.norm(vectors[good], axis=1), 2**0.5, rtol=1e-4)


# ---- which cells -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_on_some_cells_is_remembered(small):
    obs = small.cells.obs
    good = obs.index[obs["good"]]
    (small.root / "sets.json").write_text(json.dumps({"odd": {"cells": list(good[:30]), "how": ""}}))
    for i, (how, n) in enumerate(
        [
            ({"where": "group in ['A01', 'A06']"}, int(obs["good"][obs["group"].isin(["A01", "A06"])].sum())),
            ({"fields": ["E12"]}, int(obs["good"][obs["field"] == "E12"].sum())),
            ({"cells": list(good[:30])}, 30),
            ({"named_set": "odd"}, 30),
            ({"named_set": "odd", "where": f"field == '{obs.loc[good[0], 'field']}'"}, None),
        ]
    ):
        folder = drain(
            train(small, name=f"m{i}", config=TINY, training={**SHORT, "max_steps": 1, "min_cells": 2}, **how)
        )
        card = json.loads((folder / "model.json").read_text())
        assert card["chosen"]
        if n is not None:
            assert card["n_cells"] == n
    assert card["chosen"] == {"set": "odd", "where": f"field == '{obs.loc[good[0], 'field']}'"}


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"where": "dose < 3"}, "no column dose"),
        ({"where": "area_px < 0"}, "None of the cells"),
        ({"named_set": "mine"}, "no set called 'mine'"),
        ({"cells": ["gone/1"]}, "None of the cells"),
        ({"finish": True}, "no checkpoint yet"),
    ],
)
def test_no_such_cells_get_a_sentence(small, how, match):
    with pytest.raises(InputError, match=match):
        drain(train(small, config=TINY, training=SHORT, **how))


@pytest.mark.slow
def test_paused_used_and_resumed_as_it_was_started(small):
    """A stopped training says how it was started; its checkpoint makes a model, and it goes on from there."""
    import torch

    settings = {"config": TINY, "training": SHORT, "precision": "fp32", "where": "group != 'E12'"}
    whole = load_model(drain(train(small, name="whole", **settings)))
    job = train(small, name="parts", **settings)
    for progress in job:
        if progress.total and progress.done > progress.total // 2:
            break
    job.close()
    note = json.loads((small.root / "models" / "parts" / "run.json").read_text())
    assert (note["state"], note["step"], note["total"]) == ("paused", progress.done, progress.total)
    with np.load(small.root / "models" / "parts" / "preview.npz") as preview:
        assert list(preview["columns"]) == ["another cell", "this one's structure", "predicted", "real"]
        assert preview["pictures"].shape == (3, 4, 64, 64)
        assert preview["pictures"][:, 3].std() > 0

    used = drain(resume_training(small, name="parts", finish=True))
    card = json.loads((used / "model.json").read_text())
    assert card["trained"]["step"] == progress.done
    assert card["trained"]["stopped_early"]
    assert drain(embed(small, model="parts")).n_cells == small.cells.n_obs

    parts = load_model(drain(resume_training(small, name="parts")))
    assert json.loads((used / "run.json").read_text())["state"] == "done"
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(InputError, match="no training called"):
        drain(resume_training(small, name="nobody"))


# ---- classes ---------------------------------------------------------------------------------------

NARROW = {"width": 0.0625, "d1": 16, "d2": 16}


@pytest.mark.slow
def test_deeploc_learns_the_classes_of_a_column(small):
    """From the command line, with the classes' names in the model's card; embedding goes on from there."""
    from napari_cellrep.cli import main

    options = (
        "--width 0.0625 --d1 16 --d2 16 --epochs 2 --batch-size 16 --device cpu --precision fp32".split()
    )
    words = [
        "train",
        str(small.root),
        "--model",
        "deeploc",
        "--name",
        "own",
        "--labels",
        "compound",
        *options,
    ]
    assert not main([*words, "--estimate"])
    assert not (small.root / "models" / "own").exists()
    assert not main(words)
    card = json.loads((small.root / "models" / "own" / "model.json").read_text())
    assert card["labels"] == "compound"
    assert (
        card["classes"] == ["LY294002", "Wortmannin"] or len(card["classes"]) == card["config"]["n_classes"]
    )
    assert card["channels"] == ["FKHR-GFP", "DNA"]
    assert card["trained"]["validation"]["n_cells"] > 0
    with (small.root / "models" / "own" / "history.csv").open() as f:
        assert all(float(row["val_loss"]) >= 0 for row in csv.DictReader(f))
    net = load_model(small.root / "models" / "own")
    assert net.n_classes == len(net.card["classes"])
    assert not main(["embed", str(small.root), "--model", "own", "--device", "cpu"])
    cells = open_project(small.root).cells
    assert cells.obsm["X_own"].shape[1] == 16
    again = drain(resume_training(small, name="own"))
    assert again.name == "own"


def test_cells_without_a_class_and_small_classes_are_left_out_and_counted(small):
    cells = small.cells
    good = np.flatnonzero(cells.obs["good"])
    kind = np.array(["round"] * cells.n_obs, dtype=object)
    kind[good[::2]] = "long"
    kind[good[:3]] = "rare"
    kind[good[3:10]] = ""
    cells.obs["kind"] = kind
    small.write_cells(cells)
    seen = []
    training = {**SHORT, "epochs": 1, "split_by": "cell"}
    folder = drain(
        train(small, model="deeploc", labels="kind", config=NARROW, training=training), seen.append
    )
    said = " ".join(json.loads((folder / "model.json").read_text())["trained"]["notes"])
    assert "7 cells without kind are left out." in said
    assert "Of rare there are fewer than 5 cells" in said
    assert "(3 cells)" in said
    assert json.loads((folder / "model.json").read_text())["classes"] == ["long", "round"]
    assert json.loads((folder / "model.json").read_text())["n_cells"] == len(good) - 10
    assert any("7 cells without kind" in p.message for p in seen)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, r"say which column.*compound"),
        ({"labels": "phase"}, r"no column phase.*compound"),
        ({"labels": "plate"}, "only one class"),
        ({"labels": "area_px", "training": {"min_cells": 100}}, "no class with at least 100 cells"),
        ({"labels": "well"}, "--split-by cell"),
        ({"labels": "compound", "config": {"n_classes": 9}}, "asked to have 9"),
        ({"labels": "compound", "model": "autoencoder"}, "without classes"),
    ],
)
def test_labels_that_cannot_be_learned_get_a_sentence(small, kwargs, match):
    with pytest.raises(InputError, match=match):
        drain(train(small, **{"model": "deeploc", **kwargs}))


# ---- weights to start from, presets -----------------------------------------------------------------


@pytest.mark.slow
def test_fine_tuning_from_the_command_line(small, capsys):
    """The settings are those of the weights, and the channels may be others; the card says how it began."""
    from napari_cellrep.cli import main

    root, options = str(small.root), "--epochs 1 --max-steps 1 --device cpu --precision fp32".split()
    start = ["train", root, "--model", "autoencoder", "--name", "first", "--width", "0.04", *options]
    assert not main(start)
    again = ["train", root, "--model", "autoencoder", "--weights", "first", *options]
    assert not main([*again, "--name", "second"])
    card = json.loads((small.root / "models" / "second" / "model.json").read_text())
    assert card["initial"]["weights"] == "first"
    assert "mapped" not in card["initial"]
    assert card["config"]["width"] == 0.04
    first, second = (load_model(small.root / "models" / n) for n in ("first", "second"))
    assert 0 < (first.conv4_1.weight - second.conv4_1.weight).abs().max() < 1e-3  # one step of Adam away

    options = "--image-px 32 --patch-px 8 --dim 24 --depth 1 --heads 2 --n-local 1 --local-px 16 --out-dim 16".split()
    dino = [
        "train",
        root,
        "--model",
        "dino",
        "--hidden-dim",
        "8",
        "--bottleneck-dim",
        "8",
        "--max-steps",
        "1",
    ]
    assert not main([*dino, *options, "--device", "cpu", "--channels", "DNA", "--name", "one"])
    how = options[-6:]
    assert not main(
        [*dino, *how, "--device", "cpu", "--channels", "FKHR-GFP,DNA", "--weights", "one", "--name", "two"]
    )
    card = json.loads((small.root / "models" / "two" / "model.json").read_text())
    assert "DNA as before, any other the mean of all, times 0.5" in card["initial"]["mapped"]
    assert any("Starts from one" in note for note in card["trained"]["notes"])
    assert card["config"]["dim"] == 24
    assert card["roles"] == ["FKHR-GFP", "DNA"]

    capsys.readouterr()
    assert main([*again, "--name", "first"]) == 2
    assert "another one (--name)" in capsys.readouterr().err
    assert main([*dino, "--weights", "first"]) == 2
    assert "--model autoencoder" in capsys.readouterr().err


def test_a_preset_gives_settings_and_single_ones_go_before_it(small):
    made = prepare(small, model="autoencoder", config=TINY, preset="small", training={"epochs": 3})
    assert made.settings.epochs == 3
    assert made.settings.keep == "val_knn"
    assert made.card["preset"] == "small"
    with pytest.raises(InputError, match="presets are small"):
        prepare(small, model="autoencoder", preset="huge")


# ---- several runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_seeds_and_learning_rates_keep_the_best_by_held_out_loss(small, capsys):
    from napari_cellrep.cli import main

    root = str(small.root)
    command = [
        "train",
        root,
        "--model",
        "autoencoder",
        "--name",
        "best",
        "--width",
        "0.04",
        "--held-out",
        "0.2",
    ]
    command += (
        "--max-steps 2 --batch-size 64 --epochs 1 --device cpu --precision fp32 --settle-norm yes".split()
    )
    several = [*command, "--seeds", "0,1", "--learning-rates", "1e-2,1e-7"]
    assert not main(several)
    folder = small.root / "models" / "best"
    with (folder / "runs.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [(r["seed"], float(r["learning_rate"])) for r in rows] == [
        ("0", 1e-2), ("1", 1e-2), ("0", 1e-7), ("1", 1e-7),
    ]  # fmt: skip
    losses = [float(r["val_loss"]) for r in rows]
    kept = [r["kept"] == "True" for r in rows]
    assert kept.index(True) == int(np.argmin(losses))
    assert sum(kept) == 1
    card = json.loads((folder / "model.json").read_text())
    assert card["training"]["learning_rate"] == float(rows[kept.index(True)]["learning_rate"])
    assert len(card["runs"]) == 4
    mine = load_model(folder).state_dict()
    winner = load_model(folder / "runs" / rows[kept.index(True)]["folder"]).state_dict()
    assert all((mine[k] == winner[k]).all() for k in mine)
    assert "runs.csv" in capsys.readouterr().out

    before = (folder / "runs.csv").read_text()
    assert not main(several)  # every run is done already
    with (folder / "runs.csv").open() as f:
        assert [r["seconds"] for r in csv.DictReader(f)] == [r["seconds"] for r in rows]
    assert (folder / "runs.csv").read_text() == before

    assert main([*command[:-2], "--held-out", "0", "--seeds", "0,1"]) == 2
    assert "held out" in capsys.readouterr().err
    assert main([*command, "--seeds", "a"]) == 2
    assert "numbers with commas" in capsys.readouterr().err


@pytest.mark.slow
def test_profiles_of_cells_the_network_never_learned_from(small):
    folder = drain(train(small, name="mine", config=TINY, training={**SHORT, "epochs": 1, "held_out": 0.3}))
    written = pd.read_csv(folder / "cells.csv", index_col="cell_id")
    card = json.loads((folder / "model.json").read_text())["cells"]
    obs = small.cells.obs
    assert set(written.index) == set(obs.index[obs["good"]])  # flagged cells were no part of it
    assert written["part"].value_counts().to_dict() == {
        "learned": card["learned"],
        "validation": card["validation"],
    }
    # The loop itself says the same of its batches.
    made = prepare(
        small,
        model="paired_cell_inpainting",
        name="mine",
        config=TINY,
        training={**SHORT, "epochs": 1, "held_out": 0.3},
    )
    shown = np.concatenate(
        [
            np.concatenate(list(b.values()))
            for b in make_sampler(made.net, made.cells, made.settings, 16).epoch(0)
        ]
    )
    assert set(made.cells.ids_of(shown).index) == set(written.index[written["part"] == "learned"])

    drain(embed(small, model="mine"))
    whole = drain(analyze(small, recipe="profile", embedding="mine"))
    assert f"learned from {card['learned']:,} of these" in whole.summary
    held = drain(analyze(small, recipe="profile", embedding="mine", cells="held-out", average="median"))
    cells, groups = small.cells, small.groups
    never = ~cells.obs.index.isin(written.index[written["part"] == "learned"]) & cells.obs["good"].to_numpy()
    for name, x in zip(groups.obs["name"], groups.obsm["X_mine"], strict=True):
        own = never & (cells.obs["group"].astype(str) == str(name)).to_numpy()
        np.testing.assert_allclose(
            x, np.median(np.asarray(cells.obsm["X_mine"])[own].astype(float), axis=0), rtol=1e-5, atol=1e-6
        )
    made = provenance(groups)["profile_mine"]
    assert (made["options"]["cells"], made["numbers"]["learned"]) == ("held-out", card["learned"])
    assert f"{int(never.sum()):,} held-out cells" in held.summary
    with pytest.raises(InputError, match="set none aside for a test"):
        drain(analyze(small, recipe="profile", embedding="mine", cells="test"))

    # One that goes on from it has learned from its cells, too; nothing is left.
    more = {"name": "more", "weights": "mine", "training": {**SHORT, "epochs": 1, "held_out": 0}}
    drain(train(small, **more))
    drain(embed(small, model="more"))
    with pytest.raises(InputError, match="No cell is left for held-out profiles"):
        drain(analyze(small, recipe="profile", embedding="more", cells="held-out"))
    drain(train(small, name="mine", config=TINY, training={**SHORT, "epochs": 1, "seed": 5}, resume=False))
    with pytest.raises(InputError, match="is not known"):
        drain(analyze(small, recipe="profile", embedding="more", cells="held-out"))
