"""No step reads the whole of a field larger than memory, and what each makes of its parts is what the whole gives."""

from __future__ import annotations

import contextlib

import anndata
import numpy as np
import pytest

from _made_up import DINO
from napari_cellrep.data import Project, slides
from napari_cellrep.data.fields import Field
from napari_cellrep.data.sets import write_sets
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import CropSpec, InputError
from napari_cellrep.steps.analyze import RECIPES, analyze
from napari_cellrep.steps.axis import axis
from napari_cellrep.steps.believe import TREATMENTS, Subject, believe, read
from napari_cellrep.steps.believe_group import believe_group
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.edit import open_part, save_part
from napari_cellrep.steps.embed import cut_by_field, cut_cells, embed
from napari_cellrep.steps.embed_fields import embed_fields
from napari_cellrep.steps.estimate import estimate
from napari_cellrep.steps.export_images import _lazy, write_crops
from napari_cellrep.steps.heads import heads
from napari_cellrep.steps.illumination import correct, preview
from napari_cellrep.steps.inpaint import inpaint
from napari_cellrep.steps.look import attention, occlusion, reconstruction
from napari_cellrep.steps.look_figure import draw_looks, figure_of
from napari_cellrep.steps.networks import network_of
from napari_cellrep.steps.preview import what_it_sees
from napari_cellrep.steps.report import write_report
from napari_cellrep.steps.tokens import apart, tokens
from napari_cellrep.steps.train import ProjectCells, train

PCI = {"model": "paired_cell_inpainting", "config": {"width": 0.05}, "device": "cpu", "precision": "fp32"}


@contextlib.contextmanager
def in_parts(side_px: int = 100):
    """Every field is a slide, and whoever reads the whole of one fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "BIG_PX", 1)
        patch.setattr(slides, "TILE_PX", side_px)
        patch.setattr(slides, "CHUNK_PX", 64)
        patch.setattr(slides, "SMALLEST_PX", 64)
        real = Field.read

        def part_of(field, root, box=None, channels=None):
            if box is None:
                pytest.fail(f"The whole of {field.id} was read.")
            return real(field, root, box, channels)

        patch.setattr(Field, "read", part_of)
        patch.setattr(Project, "read_image", lambda _, name: pytest.fail(f"The whole of {name} was read."))
        yield


@pytest.fixture
def embedded(small):
    """Four fields with labels in chunks, as slides have them, and two embeddings."""
    for field in small.fields:
        labels = small.read_labels(field.id)
        with small.writing_labels(field.id, {}) as writer:
            writer.array[:] = labels
            writer.n_cells = int(labels.max())
    save_model(create_model("dino", **DINO), small.root / "models" / "vit")
    with in_parts():
        drain(embed(small, **PCI, key="net"))
        drain(embed(small, model="vit", device="cpu", precision="fp32"))
    return small


@pytest.mark.slow
def test_every_step_runs_without_the_whole_of_a_slide(embedded, tmp_path):
    obs = embedded.cells.obs
    good = obs[obs["good"].to_numpy(bool)]
    groups = [list(good.index[(good["group"] == g).to_numpy()]) for g in ("A01", "A12")]
    cell, other = groups[0][0], groups[1][0]
    sets = {n: {"cells": ids[1:], "how": "test"} for n, ids in zip("ab", groups, strict=True)}
    write_sets(embedded.root, sets)
    save_model(
        create_model("microsnoop", channels=("protein", "nucleus"), width=0.0625),
        embedded.root / "models" / "snoop",
    )
    with in_parts():
        drain(crop(embedded))
        assert estimate(embedded, "embed", model="measurements").seconds > 0
        drain(train(embedded, config={"width": 0.05}, training={"batch_size": 8, "max_steps": 2}))
        drain(embed_fields(embedded, model="vit", key="whole", precision="fp32"))
        drain(embed_fields(embedded, model="snoop", precision="fp32", fields=("A01",)))
        what_it_sees(embedded, embedding="net", cell_id=cell)
        for looks in (
            attention(embedded, cells=[cell], embedding="vit"),
            occlusion(embedded, cells=[cell], embedding="net"),
            tokens(embedded, cells=[cell, other], embedding="vit"),
            apart(embedded, cells=[cell], a="a", b="b", embedding="vit", device="cpu"),
        ):
            assert len(draw_looks(embedded, looks).axes) > 2
        with contextlib.suppress(InputError):
            reconstruction(embedded, cells=[cell], embedding="vit")
        figure_of(embedded, what="attention", cells=[cell], out=str(tmp_path / "a.png"), embedding="vit")
        heads(embedded, embedding="vit", sample=4)
        axis(embedded, name="A01", embedding="net", out=str(tmp_path / "axis.png"), device="cpu")
        drain(inpaint(embedded, source=cell, target=other))
        drain(believe(embedded, cell_id=cell, embedding="net", device="cpu"))
        drain(believe_group(embedded, group="A01", embedding="net", device="cpu"))
        drain(write_report(embedded, tmp_path / "report.html", embedding="net"))
        for format in ("tiff", "zarr"):  # noqa: A001
            drain(write_crops(embedded, tmp_path / format, format=format))
        with pytest.raises(InputError, match="light repeats"):
            drain(correct(embedded))
        with pytest.raises(InputError, match="light repeats"):
            drain(preview(embedded))


@pytest.mark.slow
def test_edited_cells_alone_are_measured_and_embedded_again(embedded, monkeypatch):
    with in_parts():
        drain(crop(embedded))
        rows = embedded.read_rows("net", "A01")
        part = drain(open_part(embedded, "A01", (60, 60, 160, 160)))
        labels = part.labels.copy()
        erased, grown = [i for i in np.unique(labels)[1:].tolist() if i not in part.locked][:2]
        labels[labels == erased] = 0
        y, x = np.argwhere(labels == grown)[0]
        labels[y - 1, x] = grown
        drain(save_part(embedded, part, labels))
        drain(crop(embedded, fields=["A01"], only_edited=True))
        obs = embedded.cells.obs
        assert list(obs.index[~obs["has_net"].to_numpy(bool)]) == [f"A01:{grown}"]
        read, region = [], Project.read_region
        monkeypatch.setattr(
            Project, "read_region", lambda p, f, box, c=None: read.append(f) or region(p, f, box, c)
        )
        drain(embed(embedded, **PCI, key="net"))
        assert set(read) == {"A01"}
        assert embedded.cells.obs["has_net"].all()
        after = embedded.read_rows("net", "A01")
        stayed = rows[~np.isin(rows["label"], [erased, grown])]
        at = {label: i for i, label in enumerate(after["label"].tolist())}
        np.testing.assert_array_equal(after["x"][[at[i] for i in stayed["label"].tolist()]], stayed["x"])
        old = rows["x"][rows["label"] == grown]
        assert len(old) == 1
        assert after["mask_hash"][at[grown]] != rows["mask_hash"][rows["label"] == grown]


@pytest.mark.slow
def test_every_recipe_runs_without_the_whole_of_a_slide(embedded):
    obs = embedded.cells.obs
    sets = {
        g: {"cells": list(obs.index[(obs["group"] == g).to_numpy()]), "how": "test"} for g in ("A01", "A12")
    }
    write_sets(embedded.root, sets)
    done = []
    with in_parts():
        for recipe in RECIPES:
            with contextlib.suppress(InputError):  # what it lacks here has nothing to do with images
                drain(analyze(embedded, recipe=recipe, embedding="net"))
                done.append(recipe)
    assert len(done) > len(RECIPES) / 2, done


@pytest.mark.slow
def test_cells_of_a_slide_whose_image_is_away_stay_if_their_outlines_are_the_same(embedded, monkeypatch):
    whole = embedded.cells.obs.copy()
    with in_parts(), monkeypatch.context() as patch:
        drain(crop(embedded))
        before = embedded.cells.obs["mask_hash"].copy()
        victim = int(whole.loc[whole["field"] == "A01", "label"].iloc[3])
        path = embedded.labels_path("A01")
        labels = embedded.read_labels_region("A01", (0, 0, 256, 256))
        with embedded.writing_labels("A01", {}) as writer:
            writer.array[:] = np.where(labels == victim, 0, labels)
            writer.n_cells = int(labels.max())
        assert path.is_dir()
        for plane in embedded.field("A01").planes:
            for file in plane.files(embedded.root):
                file.unlink(missing_ok=True)
        patch.setattr(Project, "read_labels", lambda _, name: pytest.fail(f"All labels of {name} were read."))
        drain(crop(embedded))
        after = embedded.cells.obs["mask_hash"]
    assert embedded.field("A01").problem
    assert set(before.index) - set(after.index) == {f"A01:{victim}"}
    assert (after == before[after.index]).all()


def same(rows, of):
    """What a function of the project gives of some rows in parts, and of the whole."""
    whole = of(rows)
    with in_parts():
        return of(rows), whole


@pytest.mark.slow
@pytest.mark.parametrize("spec", [
    CropSpec(), CropSpec(window_px=90, masked=True), CropSpec(mode="box", size_px=48, mask_plane=True),
], ids=["window", "masked", "box"])  # fmt: skip
@pytest.mark.parametrize("memory_bytes", [2 << 30, 1])
def test_training_sees_the_same_pixels(embedded, spec, memory_bytes):
    def cut(rows):
        cells = ProjectCells(embedded, spec, (1, 0), include_flagged=True, memory_bytes=memory_bytes)
        return cells.crops(rows)

    n = embedded.cells.n_obs
    parts, whole = same(np.random.default_rng(0).permutation(n)[:60], cut)
    np.testing.assert_array_equal(parts, whole)
    assert parts.std() > 0


def test_crops_come_part_by_part_and_are_those_of_the_whole(embedded):
    rows = embedded.cells.obs
    rows = rows.iloc[np.random.default_rng(1).permutation(len(rows))]
    whole = cut_cells(embedded, "A01", rows[rows["field"].astype(str) == "A01"], CropSpec(), (0, 1))
    with in_parts():
        found = [
            (own, crops)
            for field, own, crops in cut_by_field(embedded, rows, CropSpec(), (0, 1))
            if field == "A01"
        ]
    assert len(found) > 4
    order = np.concatenate([own for own, _ in found])
    np.testing.assert_array_equal(np.concatenate([c for _, c in found])[np.argsort(order)], whole)


def test_a_cell_is_believed_as_on_the_whole(embedded):
    obs = embedded.cells.obs
    rows = np.flatnonzero((obs["group"] == "A12").to_numpy())
    found = network_of(embedded, "net")
    it = Subject(embedded, obs, "net", int(rows[0]), obs["good"].to_numpy(bool), rows)
    (crops, ratio), (whole, known) = same(rows, lambda rows: read(it, rows, found, TREATMENTS))
    for treatment in TREATMENTS:
        np.testing.assert_array_equal(crops[treatment], whole[treatment], err_msg=treatment)
    np.testing.assert_allclose(ratio, known, rtol=1e-6)
    assert np.isfinite(known).sum() > 5


@pytest.mark.slow
def test_whole_fields_get_the_vectors_of_the_whole(embedded):
    save_model(
        create_model("microsnoop", channels=("protein", "nucleus"), width=0.0625),
        embedded.root / "models" / "snoop",
    )
    vectors = []
    for key, context in (("parts", in_parts()), ("whole", contextlib.nullcontext())):
        with context:
            drain(embed_fields(embedded, model="snoop", key=key, precision="fp32", fields=("A01",)))
        vectors.append(embedded.field_table.obsm[f"X_{key}"][0])
    np.testing.assert_allclose(*vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exported_crops_are_in_the_order_of_their_table(embedded, tmp_path):
    with in_parts():
        drain(write_crops(embedded, tmp_path / "z", format="zarr"))
    table = anndata.read_zarr(tmp_path / "z")
    whole = np.concatenate([c for _, _, c in cut_by_field(
        embedded, embedded.cells.obs.loc[sorted(table.obs_names)], CropSpec(size_px=64, window_px=64), (0, 1))])  # fmt: skip
    mine = table[sorted(table.obs_names)].obsm["crops"]
    np.testing.assert_array_equal(np.asarray(mine), whole)


@pytest.mark.slow
def test_a_look_is_drawn_over_the_same_pixels(embedded):
    cell = str(embedded.cells.obs.index[30])
    looks = attention(embedded, cells=[cell], embedding="vit")

    def drawn(_):
        figure = draw_looks(embedded, looks)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())

    np.testing.assert_array_equal(*same(None, drawn))


@pytest.mark.slow
def test_a_slide_leaves_as_lazy_arrays(embedded):
    field = embedded.field("A01")
    image, labels = embedded.read_image("A01"), embedded.read_labels("A01")
    with in_parts():
        lazy, numbers = _lazy(embedded, field)
        assert lazy.shape == image.shape
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), image)
        np.testing.assert_array_equal(numbers.compute(scheduler="sync"), labels)


def test_an_overview_is_the_mean_of_squares_and_a_glimpse_is_of_the_field(embedded):
    image = embedded.read_image("A01").astype(np.float32)
    with in_parts(70):
        small, by = embedded.overview("A01", 60)
        some = embedded.glimpse("A01")
    assert by == 5
    assert small.shape == (2, 52, 52)
    np.testing.assert_allclose(small[:, 13, 20], image[:, 65:70, 100:105].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(small[:, 51, 3], image[:, 255:, 15:20].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(some, image)  # no larger than its windows
    windows = slides.glimpse(
        lambda box: image[:, box[0] : box[2], box[1] : box[3]], (256, 256), side_px=16, n=6
    )
    assert windows.shape == (2, 96, 96)
    np.testing.assert_array_equal(windows[:, -16:, -16:], image[:, -16:, -16:])


def test_levels_are_kept_until_pixels_or_light_change(embedded):
    with in_parts():
        made = list(embedded.make_levels("A01"))
        assert made[-1] == (len(made), len(made))
        folder = embedded.levels_folder("A01")
        assert list(embedded.make_levels("A01")) == []
        levels = embedded.levels("A01")
        image = embedded.read_region("A01", (0, 0, 256, 256))
        assert [a.shape for a in levels[1]] == [(256, 256), (128, 128), (64, 64)]
        np.testing.assert_array_equal(levels[1][1][:], image[1, ::2, ::2])
        np.testing.assert_array_equal(levels[0][0][10:40:3, 200], image[0, 10:40:3, 200])
        light = np.full((256, 256), 2, np.float32)
        embedded.set_illumination(
            {(str(embedded.field("A01").metadata.get("plate", "")), "DNA"): light}, "divide", "brought"
        )
        list(embedded.make_levels("A01"))
        now = embedded.levels("A01")
        assert not folder.exists()  # those of before are gone
        np.testing.assert_array_equal(now[0][1][:], image[0, ::2, ::2])
        lit = np.rint(image[1] / 2)
        for level, step in ((0, 1), (1, 2)):
            shown = np.asarray(now[1][level]).astype(float)
            kept = image[1][::step, ::step] == 255  # saturated stays
            np.testing.assert_array_equal(shown[~kept], lit[::step, ::step][~kept])
