import numpy as np
import pandas as pd
import pytest

from napari_cellrep.analysis.outliers import neighbour_distance
from napari_cellrep.data import open_project
from napari_cellrep.data.verdicts import make_verdict, write_verdicts
from napari_cellrep.gui.views._queue import Measured, blind_round, hit_rate, odd_queue
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.crop import crop


def test_good_cells_first_and_groups_in_turn():
    odd = np.array([5, 9, 1, 8, 7, np.nan, 99, 2.0])
    group = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    good = np.array([True, True, True, True, True, True, False, True])
    assert odd_queue(np.arange(8), odd, good, group, 20).tolist() == [1, 3, 4, 0, 7, 2, 6]
    assert odd_queue(np.arange(8), odd, good, group, 3).tolist() == [1, 3, 4]
    assert odd_queue(np.array([0, 2, 6]), odd, good, group, 9).tolist() == [0, 2, 6]
    assert odd_queue(np.zeros(0, int), odd, good, group, 9).tolist() == []


def test_a_blind_round_is_half_random_of_the_same_groups_and_repeats_with_its_seed():
    group = np.repeat([0, 1, 2], 40)
    odd = np.array([3, 17, 41, 42, 43])
    drawn = blind_round(odd, np.arange(120), group, 7)
    assert drawn == blind_round(odd, np.arange(120), group, 7)
    assert drawn != blind_round(odd, np.arange(120), group, 8)
    rows = np.array([row for row, _ in drawn])
    kinds = np.array([kind for _, kind in drawn])
    assert len(set(rows)) == 10
    assert sorted(rows[kinds == "odd"]) == odd.tolist()
    assert np.bincount(group[rows[kinds == "random"]], minlength=3).tolist() == [2, 3, 0]
    assert kinds.tolist() not in (["odd"] * 5 + ["random"] * 5, ["random"] * 5 + ["odd"] * 5)
    few = blind_round(odd, np.array([3, 17, 18, 41, 42, 43, 44]), group, 7)
    assert sorted(row for row, kind in few if kind == "random") == [18, 44]


def test_the_hit_rate_counts_what_has_a_verdict():
    drawn = {f"o{i}": "odd" for i in range(52)} | {f"r{i}": "random" for i in range(52)}
    said = {f"o{i}": {"verdict": "real" if i < 41 else "unsure"} for i in range(50)}
    said |= {f"r{i}": {"verdict": "real" if i < 3 else "artefact"} for i in range(50)}
    found = hit_rate(drawn, said)
    assert (found.odd_real, found.odd, found.random_real, found.random) == (41, 50, 3, 50)
    assert found.words == "41 of 50 odd cells against 3 of 50 random ones were called real (p < 0.001)."
    # By hand: of 2 and 2 cells, both real ones among the odd: 1 of 6 ways.
    half = hit_rate(
        drawn, {i: {"verdict": "real" if i[0] == "o" else "unsure"} for i in ("o1", "o2", "r1", "r2")}
    )
    assert half.p == pytest.approx(1 / 6)
    assert "Too few" in hit_rate(drawn, {"o1": {"verdict": "real"}}).words


def test_oddness_is_of_the_own_group_and_an_artefact_is_no_neighbour():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    x[30:] += 50  # far away from the first group, which must not matter
    x[7] += 8
    x[8] = x[7] + 0.01  # two artefacts side by side hide each other
    x[20] = np.nan
    groups = pd.Series(["b"] * 30 + ["a"] * 30)
    good = np.ones(60, bool)
    good[[8, 12]] = False
    measured = Measured(x, groups, good)
    odd = measured.odd(good, np.array([0]))
    assert np.isnan(odd[30:]).all()
    assert np.isnan(odd[20])
    own = np.flatnonzero(good & (groups == "b").to_numpy() & np.isfinite(x).all(axis=1))
    np.testing.assert_allclose(odd[own], neighbour_distance(measured.z[own]), rtol=1e-6)
    assert np.argsort(-np.nan_to_num(odd))[:2].tolist() in ([7, 8], [8, 7])
    near = np.sort(np.linalg.norm(measured.z[8] - measured.z[own], axis=1))[:10]
    assert odd[8] == pytest.approx(near.mean() / np.sqrt(5), rel=1e-5)
    # The artefact is taken out: only its group is measured again, as from the start.
    before = odd[3]
    good[7] = False
    again = measured.odd(good, np.array([0, 1]))
    fresh = Measured(x, groups, good)
    fresh.z = measured.z
    np.testing.assert_array_equal(again, fresh.odd(good, np.array([0, 1])))
    assert np.isfinite(again[30:]).all()
    assert before <= again[3]


def test_mates_are_good_cells_of_the_group_and_never_the_cell():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    groups = pd.Series(["a", "b"] * 20)
    good = np.ones(40, bool)
    good[::6] = False
    measured = Measured(x, groups, good)
    near, typical = measured.mates(4, good)
    pool = np.array([i for i in range(0, 40, 2) if good[i] and i != 4])
    by_hand = pool[np.argsort(((measured.z[pool] - measured.z[4]) ** 2).sum(axis=1))][:5]
    assert near.tolist() == by_hand.tolist()
    middle = np.median(measured.z[pool], axis=0)
    assert typical.tolist() == pool[np.argsort(((measured.z[pool] - middle) ** 2).sum(axis=1))][:5].tolist()


def test_steps_leave_an_artefact_out_whatever_the_rules_of_the_flags_are(project):
    obs = project.cells.obs
    cell = obs.index[obs["good"].to_numpy(bool)][5]
    drain(analyze(project, recipe="outliers", embedding="measured"))
    before = project.cells.obs["outlier_measured"]
    assert np.isfinite(before[cell])
    write_verdicts(project.root, {cell: make_verdict("artefact", mask_hash=obs.loc[cell, "mask_hash"])})
    again = open_project(project.root)  # as the command line does
    drain(crop(again, rules={"focus_z": 9.0}))
    assert again.cells.obs.loc[cell, "flags"] == "artefact"
    drain(analyze(again, recipe="outliers", embedding="measured"))
    after = open_project(project.root).cells.obs["outlier_measured"]
    assert np.isnan(after[cell])
    assert np.isfinite(after).sum() >= 100
    write_verdicts(project.root, {cell: None})
    assert open_project(project.root).cells.obs.loc[cell, "good"]
