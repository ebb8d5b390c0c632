import shutil

import numpy as np
import pytest

from _made_up import brightness_dino, made_up
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.axis import axis
from napari_cellrep.steps.embed import embed

PLACES = [(y, x) for y in range(24, 184, 16) for x in (24, 72, 120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cells whose protein square grows brighter from the first to the last, and an embedding that knows it."""
    project = made_up(tmp_path_factory.mktemp("axis"), PLACES, [], side=200)
    save_model(brightness_dino(), project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    cells = project.cells
    cells.obs["good"] = True
    n = cells.n_obs
    step = np.linspace(-1, 1, n)
    cells.obsm["X_mine"] = np.column_stack([step, step, step, np.cos(9 * step)]).astype(np.float32)
    cells.obs["area_px"] = np.arange(n, 0, -1)
    project.write_cells(cells)
    return project


def test_real_cells_lie_at_even_steps_along_what_varies(made, tmp_path):
    out = tmp_path / "axis.svg"
    found = axis(made, name="one", embedding="mine", steps=5, out=str(out), png=True)
    order = [list(made.cells.obs_names).index(c) for c in found.cells]
    assert sorted(order) == order or sorted(order) == order[::-1]  # from one end to the other
    assert np.ptp(np.abs(np.diff(order))) <= 1
    assert (np.diff(found.at) > 0).all()
    sign = np.sign(order[-1] - order[0])
    assert found.channels == ("FKHR-GFP", "DNA", "area", "upright")
    assert found.follows[2] == pytest.approx(-sign, abs=0.05)  # the area falls along it
    assert np.isnan(found.follows[:2]).all()  # no channel changes at all
    assert found.pictures.shape[:2] == (5, 2)
    middle = found.ends[..., 10:22, 10:22]  # farther out lie the neighbours
    np.testing.assert_array_equal(middle[0], middle[1])
    assert found.patches is not None
    assert found.explained <= 1
    assert "svg" in out.read_text()[:400]
    assert found.png[:4] == b"\x89PNG"


def test_what_changes_is_where_it_changes(tmp_path):
    places = PLACES
    project = made_up(tmp_path, places, [(y - 2, x + 8, 4) for y, x in places[15:]], side=200)
    net = brightness_dino()
    save_model(net, project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    cells = project.cells
    cells.obs["good"] = True
    spots = np.array([0.0] * 15 + [1.0] * (len(places) - 15)) + np.linspace(0, 0.1, len(places))
    cells.obsm["X_mine"] = spots[:, None].astype(np.float32).repeat(4, 1)
    project.write_cells(cells)
    found = axis(project, name="one", embedding="mine", steps=4)
    moved = np.abs(found.ends[1] - found.ends[0])
    half = moved.shape[-1] // 2
    assert (
        moved[0, half, half + 9 : half + 12] > 0.99 * moved[0].max()
    ).all()  # the square beside the nucleus …
    assert (
        moved[:, half - 4 : half + 5, half - 4 : half + 5] < 0.01 * moved[0].max()
    ).all()  # … and not itself
    assert (moved[0].max(), moved[1].max()) == (pytest.approx(4900), pytest.approx(0, abs=800))
    assert found.explained == pytest.approx(1)


def test_a_group_that_cannot_be_is_told(made):
    with pytest.raises(InputError, match="needs 10 or more"):
        axis(made, name="nowhere", embedding="mine")
    with pytest.raises(InputError, match="no column 'well'"):
        axis(made, name="one", by="well", embedding="mine")
    with pytest.raises(InputError, match="between 2 and 24"):
        axis(made, name="one", embedding="mine", steps=1)


def test_patches_are_missed_only_where_a_network_has_some(tmp_path):
    project = made_up(tmp_path, PLACES, [], side=200)
    for name, net in (
        ("eyes", brightness_dino()),
        ("none", create_model("paired_cell_inpainting", width=0.05)),
    ):
        save_model(net, project.root / "models" / name)
        drain(embed(project, model=name, device="cpu", precision="fp32"))
        shutil.rmtree(project.root / "models" / name)
    cells = project.cells
    cells.obs["good"] = True
    for name in ("eyes", "none"):
        n, d = cells.obsm[f"X_{name}"].shape
        cells.obsm[f"X_{name}"] = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    project.write_cells(cells)
    eyes = axis(project, name="one", embedding="eyes", steps=3)
    assert eyes.patches is None
    assert "Patches are not compared: The weights that made eyes" in eyes.words[-1]
    assert "Patches" not in " ".join(axis(project, name="one", embedding="none", steps=3).words)
