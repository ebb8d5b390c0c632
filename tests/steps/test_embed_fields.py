import numpy as np
import pytest
import tifffile
import torch

from napari_cellrep.data import open_project
from napari_cellrep.data.crops import resize
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.embed_fields import embed_fields

SNOOP = {"channels": ("protein", "nucleus"), "width": 0.0625}
DINO = {"channels": ("protein", "nucleus"), "dim": 48, "depth": 2, "heads": 3, "image_px": 64}


@pytest.fixture
def nets(small):
    """The project, with a narrow Microsnoop called "snoop" and a narrow DINO called "vit"."""
    save_model(create_model("microsnoop", **SNOOP), small.root / "models" / "snoop")
    save_model(create_model("dino", **DINO), small.root / "models" / "vit")
    return small


def test_tiles_are_the_network_s_own(nets):
    result = drain(embed_fields(nets, model="snoop"))
    assert result.n_fields == len(nets.fields)
    assert not result.problems
    table = open_project(nets.root).field_table
    assert table is not None
    assert list(table.obs.index) == [f.id for f in nets.fields]
    assert {"well", "compound", "group"} <= set(table.obs)
    net = load_model(nets.root / "models" / "snoop")
    first = nets.fields[0].id
    np.testing.assert_allclose(
        table.obsm["X_snoop"][0], net.embed_field(nets.read_image(first)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_a_whole_field_is_shrunk_to_the_input_and_the_rows_do_not_depend_on_company(nets):
    drain(embed_fields(nets, model="vit", precision="fp32"))
    whole = nets.field_table.obsm["X_vit"]
    assert whole.shape == (len(nets.fields), 48)
    assert np.isfinite(whole).all()
    assert whole.std(axis=0).max() > 0
    alone = nets.fields[1].id
    drain(embed_fields(nets, model="vit", key="alone", fields=(alone,), precision="fp32"))
    x = nets.field_table.obsm["X_alone"]
    np.testing.assert_allclose(x[1], whole[1], rtol=1e-4, atol=1e-5)
    assert np.isnan(np.delete(x, 1, axis=0)).all()
    assert "X_vit" in nets.field_table.obsm  # another embedding's vectors stay
    net = load_model(nets.root / "models" / "vit")
    small = resize(nets.read_image(alone)[None], 64)  # in numpy, not on the device
    with torch.inference_mode():
        want = net.embed(net.preprocess(torch.from_numpy(small)))[0].numpy()
    np.testing.assert_allclose(x[1], want, rtol=1e-4, atol=1e-4)


def test_microsnoop_sees_whole_fields_in_all_its_pixels(nets):
    field = nets.fields[0].id
    drain(
        embed_fields(
            nets, model="snoop", mode="rescale", settings={"scaling": "rescale"}, fields=(field,), precision="fp32"
        )
    )  # fmt: skip
    net = load_model(nets.root / "models" / "snoop")
    small = torch.from_numpy(resize(nets.read_image(field)[None], 224))
    with torch.inference_mode():
        want = net.embed(net.preprocess(small))[0].numpy()
    np.testing.assert_allclose(nets.field_table.obsm["X_snoop"][0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_fields_up_to_date_are_skipped_until_the_image_or_the_weights_change(nets):
    drain(embed_fields(nets, model="vit"))
    again = drain(embed_fields(nets, model="vit"))
    assert (again.n_fields, again.n_skipped) == (0, len(nets.fields))
    file = nets.fields[2].planes[0].files(nets.root)[0]
    tifffile.imwrite(file, 255 - tifffile.imread(file), metadata={"axes": "CYX"}, ome=True)
    before = nets.field_table.obsm["X_vit"]
    assert drain(embed_fields(nets, model="vit")).n_fields == 1
    changed = (nets.field_table.obsm["X_vit"] != before).any(axis=1)
    assert list(np.flatnonzero(changed)) == [2]
    save_model(create_model("dino", **DINO), nets.root / "models" / "vit")  # other weights
    assert drain(embed_fields(nets, model="vit")).n_fields == len(nets.fields)


def test_what_is_done_when_it_is_stopped_stays(nets, monkeypatch):
    monkeypatch.setattr("napari_cellrep.steps.embed_fields._AT_ONCE", 1)
    job = embed_fields(nets, model="vit")
    for progress in job:
        if progress.done == 1:
            job.close()
    assert np.isfinite(nets.field_table.obsm["X_vit"]).all(axis=1).sum() == 1
    rest = drain(embed_fields(nets, model="vit"))
    assert (rest.n_fields, rest.n_skipped) == (len(nets.fields) - 1, 1)


def test_one_bad_field_does_not_stop_the_others(nets):
    bad = nets.fields[0]
    for plane in bad.planes[:1]:
        plane.files(nets.root)[0].rename(nets.root / "moved.tif")
    result = drain(embed_fields(nets, model="vit"))
    assert set(result.problems) == {bad.id}
    assert result.n_fields == len(nets.fields) - 1


def test_cells_and_fields_have_their_own_tables(nets):
    drain(embed(nets, model="measurements"))
    drain(embed_fields(nets, model="vit"))
    assert "X_vit" not in nets.cells.obsm
    with pytest.raises(InputError, match="no embedding 'vit'"):
        drain(analyze(nets, recipe="outliers", embedding="vit"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "vit", "mode": "tile"}, "no tiles of its own"),
        ({"model": "vit", "mode": "mosaic"}, "got 'mosaic'"),
        ({"model": "measurements"}, "measures cells"),
        ({"model": "vit", "channels": ("DNA",)}, "wants 2 channels"),
    ],
)
def test_what_it_can_not_do_is_said(nets, options, sentence):
    with pytest.raises(InputError, match=sentence):
        drain(embed_fields(nets, **options))
