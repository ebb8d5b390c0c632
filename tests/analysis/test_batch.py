from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from napari_cellrep import analysis
from napari_cellrep.analysis.batch import Sphering, batch_mixing, z_by_controls
from napari_cellrep.specs import InputError


@parametrize_with_checks([Sphering(), Sphering("zca_corr"), Sphering("zca_corr", 0.01)])
def test_sphering_is_a_transformer_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_golden_sphering_of_microsnoop(shared: Path):
    golden = np.load(shared / "golden" / "eval_metrics.npz")
    found = Sphering("zca_corr").fit(golden["zca/ctrl"])
    assert found.regularisation_ == pytest.approx(float(golden["zca/reg"]))
    np.testing.assert_allclose(found.sphere_, golden["zca/sphere"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.transform(golden["zca/X"]), golden["zca/out"], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("method", "theirs"), [("zca", "ZCA"), ("zca_corr", "ZCA-cor")])
def test_sphering_is_that_of_pycytominer(method, theirs):
    from pycytominer.operations import Spherize

    rng = np.random.default_rng(0)
    controls = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 3
    if method == "zca":  # theirs divides by n − 1, ours by n, as its source does
        controls = np.concatenate([controls, 2 * controls.mean(axis=0) - controls])
    x = rng.normal(size=(20, 6)) + 3
    ours = Sphering(method, 0 if method == "zca" else 1e-9).fit(controls)
    other = Spherize(epsilon=1e-12, center=True, method=theirs).fit(pd.DataFrame(controls))
    scale = np.sqrt((len(controls) - 1) / len(controls)) if method == "zca" else 1.0
    np.testing.assert_allclose(
        ours.transform(x) * scale, other.transform(pd.DataFrame(x)), rtol=1e-4, atol=1e-4
    )


def test_controls_come_out_uncorrelated():
    rng = np.random.default_rng(1)
    controls = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4))
    out = Sphering(regularisation=0).fit_transform(controls)
    np.testing.assert_allclose(np.cov(out.T, ddof=0), np.eye(4), atol=1e-10)
    flat = np.c_[controls, np.ones(500)]  # a constant feature stays out of it
    assert np.isfinite(Sphering("zca_corr").fit_transform(flat)).all()
    assert np.isfinite(Sphering(regularisation=0).fit_transform(flat)).all()


@pytest.mark.parametrize(
    ("made", "words"),
    [(Sphering("pca"), "'zca' or 'zca_corr'"), (Sphering("zca", "elbow"), "takes a number")],
)
def test_wrong_settings_of_sphering_are_said(made, words):
    with pytest.raises(InputError, match=words):
        made.fit(np.random.default_rng(0).normal(size=(9, 3)))


def plates(shift: float, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two plates whose cells are of two kinds each; the second plate is shifted and stretched."""
    rng = np.random.default_rng(2)
    kind = np.tile(["control", "drug"], n)
    plate = np.repeat(["P1", "P2"], n)
    x = rng.normal(size=(2 * n, 5)) + np.where(kind == "drug", 3.0, 0.0)[:, None] * np.array([1, 1, 0, 0, 0])
    moved = np.where(plate == "P2", 1.0, 0.0)[:, None]
    return (x * (1 + moved) + shift * moved).astype(np.float32), plate, kind, kind == "control"


def test_scaling_by_controls_mixes_plates_and_keeps_kinds():
    x, plate, kind, control = plates(20)
    before = batch_mixing(x, plate, kind)
    found = z_by_controls(x, plate, control)
    after = batch_mixing(found.x, plate, kind)
    assert before.batch_mixing < 0.05
    assert after.batch_mixing > 0.8
    assert after.label_keeping > 0.8
    assert after.label_by_chance == pytest.approx(0.5)
    assert found.left_out == ()
    assert "1 is by chance" in after.words
    own = found.x[(plate == "P2") & control]
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(own.std(axis=0), 1, atol=1e-5)
    robust = z_by_controls(x, plate, control, robust=True).x[(plate == "P2") & control]
    np.testing.assert_allclose(np.median(robust, axis=0), 0, atol=1e-5)


def test_a_plate_without_controls_is_left_out_and_named():
    x, plate, _, control = plates(0)
    found = z_by_controls(x, plate, control & (plate == "P1"))
    assert found.left_out == ("P2 (0 of 3 controls)",)
    assert np.isnan(found.x[plate == "P2"]).all()
    assert np.isfinite(found.x[plate == "P1"]).all()
    with pytest.raises(InputError, match="No batch has 3 controls"):
        z_by_controls(x, plate, np.zeros(len(x), bool))


def test_mixing_by_chance_is_one_also_for_batches_of_different_sizes():
    rng = np.random.default_rng(3)
    x, batch = rng.normal(size=(600, 4)), rng.choice(["a", "b", "c"], 600, p=[0.7, 0.2, 0.1])
    assert batch_mixing(x, batch).batch_mixing == pytest.approx(1, abs=0.05)
    assert np.isnan(batch_mixing(x, batch).label_keeping)


@pytest.mark.parametrize(
    ("batch", "words"), [(["a"] * 6, "two batches or more"), (["a"] * 5 + ["b"], "batch b has a single row")]
)
def test_mixing_says_what_it_needs(batch, words):
    with pytest.raises(InputError, match=words):
        batch_mixing(np.random.default_rng(0).normal(size=(6, 2)), np.array(batch))


def test_every_estimator_is_checked_above():
    """A public estimator that is added has to pass scikit-learn's checks too."""
    found = set()
    for info in pkgutil.iter_modules(analysis.__path__):
        module = importlib.import_module(f"napari_cellrep.analysis.{info.name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        found |= {v.__name__ for v in own if issubclass(v, BaseEstimator)}
    assert found == {"Sphering"}
