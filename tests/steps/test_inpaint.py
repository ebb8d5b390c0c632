import numpy as np
import pytest

from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.inpaint import inpaint


@pytest.fixture
def tiny(small):
    save_model(create_model("paired_cell_inpainting", width=0.125), small.root / "models" / "tiny")
    return small


def test_the_prediction_is_placed_where_the_target_is(tiny):
    obs = tiny.cells.obs
    source, target = obs.index[obs["field"] == "A12"][0], obs.index[(obs["field"] == "A01") & obs["good"]][0]
    result = drain(inpaint(tiny, source=source, target=target, model="tiny"))
    assert result["field"] == "A01"
    assert result["target"].shape == result["prediction"].shape == (64, 64)
    np.testing.assert_allclose(result["error"], result["prediction"] - result["target"], atol=1e-6)
    y0, x0 = int(result["y0"]), int(result["x0"])
    real = tiny.read_image("A01")[0, y0 : y0 + 64, x0 : x0 + 64].astype(float)
    real = (real - real.min()) / (real.max() - real.min())
    np.testing.assert_allclose(result["target"], real, atol=1e-5)
    assert result["structure"].shape == (1, 64, 64)


def test_a_target_is_drawn_from_the_same_group_and_never_is_the_source(tiny):
    obs = tiny.cells.obs
    source = obs.index[(obs["group"] == "A06") & obs["good"]][0]
    targets = {drain(inpaint(tiny, source=source, model="tiny", seed=s))["target_cell"] for s in range(8)}
    assert source not in targets
    assert len(targets) > 2
    assert set(obs.loc[list(targets), "group"]) == {"A06"}


def test_cells_and_models_that_cannot_are_told(tiny):
    good = tiny.cells.obs.index[0]
    with pytest.raises(InputError, match="no cell 'A01:99999'"):
        drain(inpaint(tiny, source="A01:99999"))
    with pytest.raises(InputError, match="cannot predict"):
        drain(inpaint(tiny, source=good, target=good, model="measurements"))
