import numpy as np
import pytest

from napari_cellrep.data.crops import find_cells
from napari_cellrep.jobs import Shard, drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import CropSpec, InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import cut_cells, embed

TINY = {"width": 0.125}


@pytest.fixture
def tiny(small):
    """The project, with a narrow (and so quick) Paired Cell Inpainting network called "tiny"."""
    save_model(create_model("paired_cell_inpainting", **TINY), small.root / "models" / "tiny")
    return small


@pytest.mark.slow
def test_measurements_and_network_become_columns_of_the_table(tiny):
    result = drain(embed(tiny, model="measurements"))
    assert result.n_cells == tiny.cells.n_obs
    assert not result.notes or "random" not in result.notes[0]
    drain(embed(tiny, model="tiny", layers=("all",)))
    cells = tiny.cells
    assert {"X_measurements", "X_tiny", "X_tiny.conv1_1", "X_tiny.conv5_1"} <= set(cells.obsm)
    for key in ("measurements", "tiny"):
        x = cells.obsm[f"X_{key}"]
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert x.std(axis=0).max() > 0
        assert cells.obs[f"has_{key}"].all()
    assert tiny.embedding_info("tiny")["channels"] == ["FKHR-GFP", "DNA"]


def test_a_row_is_its_own_cell(tiny):
    """Each vector is what the network gives for that very cell cut by hand from its field."""
    import torch

    drain(embed(tiny, model="tiny", precision="fp32"))
    from napari_cellrep.models import load_model

    net = load_model(tiny.root / "models" / "tiny")
    image = tiny.read_image("A12")
    labels = tiny.read_labels("A12")
    boxes = find_cells(labels)
    for label, (y, x) in list(zip(boxes.label, boxes.centroid.astype(int), strict=True))[:5]:
        padded = np.pad(image, ((0, 0), (32, 32), (32, 32)))
        window = padded[None, :, y : y + 64, x : x + 64].astype(np.float32)
        with torch.inference_mode():
            expected = net.embed(net.preprocess(torch.from_numpy(window)))[0].numpy()
        row = tiny.cells.obs.index.get_loc(f"A12:{label}")
        np.testing.assert_allclose(tiny.cells.obsm["X_tiny"][row], expected, rtol=1e-3, atol=1e-4)


def test_windows_of_another_side_are_resized_by_the_engine(tiny):
    """Raw windows go to the network's device; vectors are those of crops resized in numpy, and no neighbour changes."""
    from napari_cellrep.models import load_model
    from napari_cellrep.models._engine import Embedder

    drain(embed(tiny, model="tiny", crop={"window_px": 100}, precision="fp32"))
    assert tiny.embedding_info("tiny")["crop"]["window_px"] == 100
    obs, net = tiny.cells.obs, load_model(tiny.root / "models" / "tiny")
    spec = CropSpec(size_px=64, window_px=100)
    for field in ("A01", "E12"):
        own = (obs["field"] == field).to_numpy()
        crops = cut_cells(tiny, field, obs[own], spec, (0, 1))
        assert crops.shape[1:] == (2, 64, 64)
        want = Embedder(net, device="cpu", precision="fp32").run(crops)["conv4_1"]
        np.testing.assert_allclose(tiny.cells.obsm["X_tiny"][own], want, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_up_to_date_rows_are_skipped_and_only_changed_cells_are_embedded_again(tiny):
    drain(embed(tiny, model="tiny"))
    assert drain(embed(tiny, model="tiny")).n_cells == 0
    labels = tiny.read_labels("A01")
    first = int(labels[labels > 0].min())
    ys, xs = np.nonzero(labels == first)
    labels[ys[0], xs[0]] = 0
    tiny.write_labels("A01", labels, {"edited": True})
    drain(crop(tiny, fields=["A01"]))
    row = tiny.cells.obs.index.get_loc(f"A01:{first}")
    assert np.isnan(tiny.cells.obsm["X_tiny"][row]).all()
    assert not tiny.cells.obs["has_tiny"].iloc[row]
    assert tiny.cells.obs["has_tiny"].sum() == tiny.cells.n_obs - 1
    assert drain(embed(tiny, model="tiny")).n_cells == 1
    assert tiny.cells.obs["has_tiny"].all()


@pytest.mark.slow
def test_other_weights_replace_the_rows(tiny):
    drain(embed(tiny, model="tiny"))
    before = tiny.cells.obsm["X_tiny"].copy()
    save_model(create_model("paired_cell_inpainting", **TINY), tiny.root / "models" / "tiny")
    result = drain(embed(tiny, model="tiny"))
    assert result.n_cells == tiny.cells.n_obs
    assert not np.allclose(before, tiny.cells.obsm["X_tiny"])


def test_a_stopped_embedding_goes_on_where_it_was(tiny):
    job = embed(tiny, model="tiny")
    for progress in job:
        if progress.done:
            break
    job.close()
    done = progress.done
    assert 0 < done < tiny.cells.n_obs
    assert drain(embed(tiny, model="tiny")).n_cells == tiny.cells.n_obs - done


def test_shards_write_their_own_fields_and_a_last_call_merges(tiny):
    for i in range(2):
        drain(embed(tiny, model="tiny", shard=Shard(i, 2)))
    assert "X_tiny" not in tiny.cells.obsm
    assert drain(embed(tiny, model="tiny")).n_cells == 0
    tiny.reload()
    assert tiny.cells.obs["has_tiny"].all()


def test_random_weights_are_said_and_depend_on_the_seed_only(tiny):
    def run(key, seed):
        result = drain(
            embed(
                tiny,
                model="paired_cell_inpainting",
                key=key,
                layers=("conv1_1",),
                seed=seed,
                precision="fp32",
                fields=["A01"],
            )
        )
        assert "random weights" in result.notes[0]
        return tiny.cells.obsm[f"X_{key}"][(tiny.cells.obs["field"] == "A01").to_numpy()]

    first = run("one", 0)
    np.testing.assert_allclose(run("two", 0), first, rtol=1e-4)
    assert not np.allclose(run("three", 1), first)


def test_cells_larger_than_the_window_are_said(small):
    obs = small.cells.obs
    side = np.maximum(obs["box_y1"] - obs["box_y0"], obs["box_x1"] - obs["box_x0"])
    n = int((side > 24).sum())
    assert 0 < n < len(obs)
    how = {"model": "measurements", "fields": ["A01"]}
    result = drain(embed(small, **how, crop={"window_px": 24}))
    assert any(f"{n:,} of {len(obs):,} cells are larger than what" in note for note in result.notes)
    large = drain(embed(small, **how, key="large", crop={"window_px": int(side.max())}))
    assert not any("larger than what" in note for note in large.notes)


@pytest.mark.slow
def test_an_imagenet_network_takes_any_channels_and_says_when_its_weights_are_random(small):
    settings = {"model": "imagenet", "config": {"width": 0.125}, "fields": ["A01"]}
    result = drain(embed(small, **settings))
    assert "ImageNet network ran with random weights" in result.notes[0]
    assert small.embedding_info("imagenet")["trained"] is False
    mine = (small.cells.obs["field"] == "A01").to_numpy()
    assert small.cells.obsm["X_imagenet"][mine].shape[1] == 64
    both = {"width": 0.125, "channels": ("FKHR-GFP", "DNA")}
    drain(embed(small, **{**settings, "config": both}, key="both"))
    assert np.isfinite(small.cells.obsm["X_both"][mine]).all()
    assert small.cells.obsm["X_both"].shape[1] == 128


def test_a_field_that_went_away_is_told_and_the_others_go_on(tiny):
    path = tiny.root / tiny.field("A06").planes[0].path
    path.unlink()
    result = drain(embed(tiny, model="tiny"))
    assert list(result.problems) == ["A06"]
    has = tiny.cells.obs["has_tiny"]
    assert not has[tiny.cells.obs["field"] == "A06"].any()
    assert has[tiny.cells.obs["field"] != "A06"].all()


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"model": "no-such-model"}, "neither a file nor a model"),
        ({"model": "tiny", "layers": ("conv9",)}, "layers are conv4_1"),
        ({"model": "tiny", "channels": ("DNA",)}, "wants 2 channels"),
        ({"model": "tiny", "channels": ("DNA", "er")}, "there is no er among"),
        ({"model": "tiny", "device": "cuda:7"}, "cuda"),
        ({"model": "tiny", "key": "a/b"}, "no slash"),
    ],
)
def test_wrong_words_get_sentences(tiny, kwargs, match):
    with pytest.raises(InputError, match=match):
        drain(embed(tiny, **kwargs))


def test_channels_can_be_swapped_by_name(tiny):
    drain(embed(tiny, model="tiny", key="swapped", channels=("DNA", "FKHR-GFP"), fields=["A01"]))
    assert tiny.embedding_info("swapped")["channels"] == ["DNA", "FKHR-GFP"]


@pytest.mark.slow
def test_the_projects_window_is_the_models_unless_it_brings_its_own(tiny):
    drain(crop(tiny, rules={"window_px": 96}))
    drain(embed(tiny, model="measurements", fields=["A01"]))
    assert tiny.embedding_info("measurements")["crop"]["window_px"] == 96
    assert tiny.embedding_info("measurements")["crop"]["size_px"] == 96  # at the field's own sampling
    drain(embed(tiny, model="paired_cell_inpainting", config={"width": 0.125}, key="fresh", fields=["A01"]))
    made = tiny.embedding_info("fresh")["crop"]
    assert (made["window_px"], made["size_px"]) == (96, 64)
    drain(embed(tiny, model="tiny", fields=["A01"]))  # trained with 64
    assert tiny.embedding_info("tiny")["crop"]["window_px"] == 64
    drain(crop(tiny))  # rules are as the last time
    assert tiny.last("crop")["rules"]["window_px"] == 96


@pytest.mark.slow
def test_a_crop_can_be_asked_for(tiny):
    drain(embed(tiny, model="tiny", key="masked", crop={"masked": "yes", "window_px": "48"}, fields=["A01"]))
    made = tiny.embedding_info("masked")["crop"]
    assert made["masked"] is True
    assert made["window_px"] == 48
    drain(embed(tiny, model="tiny", fields=["A01"]))
    mine = (tiny.cells.obs["field"] == "A01").to_numpy()
    assert not np.allclose(tiny.cells.obsm["X_masked"][mine], tiny.cells.obsm["X_tiny"][mine])
    for asked, match in [({"window": 3}, "settings are mode"), ({"mode": "circle"}, '"window" or "box"')]:
        with pytest.raises(InputError, match=match):
            drain(embed(tiny, model="tiny", crop=asked))


@pytest.mark.slow
def test_several_models_share_one_reading_of_each_field(tiny, monkeypatch):
    """The vectors are those of one model at a time; each field's pixels are read once for both."""
    alone = {}
    for model in ("tiny", "measurements"):
        drain(embed(tiny, model=model, key=f"{model}_alone", precision="fp32"))
        alone[model] = tiny.cells.obsm[f"X_{model}_alone"]
    read, read_image = [], tiny.read_image
    monkeypatch.setattr(tiny, "read_image", lambda field: read.append(field) or read_image(field))
    result = drain(embed(tiny, model=("tiny", "measurements"), precision="fp32"))
    assert result.keys == ("tiny", "measurements")
    assert result.n_cells == tiny.cells.n_obs
    assert sorted(read) == sorted(f.id for f in tiny.usable_fields)
    for model, expected in alone.items():
        np.testing.assert_array_equal(tiny.cells.obsm[f"X_{model}"], expected)
    # One of them is new: only that one works, and what was there stays.
    result = drain(
        embed(tiny, model=("tiny", "paired_cell_inpainting"), precision="fp32", layers=("conv4_1",))
    )
    assert result.n_skipped == 0
    assert tiny.embedding_info("paired_cell_inpainting")["trained"] is False
    np.testing.assert_array_equal(tiny.cells.obsm["X_tiny"], alone["tiny"])
    with pytest.raises(InputError, match="both write tiny"):
        drain(embed(tiny, model=("tiny", "tiny")))
    with pytest.raises(InputError, match="one model"):
        drain(embed(tiny, model=("tiny", "measurements"), key="both"))
