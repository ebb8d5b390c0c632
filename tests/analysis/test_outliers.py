from __future__ import annotations

import numpy as np

from napari_cellrep.analysis.outliers import OddRank, neighbour_distance, odd_rank, oddest_by_chance, scale_of


def test_the_odd_cell_scores_highest_in_its_own_group_only():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [40, 40, 3])
    z = rng.normal(size=(83, 4))
    z[40:80] += 20
    z[7] += 20  # looks like group 1, lives in group 0
    own = neighbour_distance(z, 5, group)
    assert np.nanargmax(own) == 7
    assert own[7] > 5 * np.nanmedian(own)
    assert neighbour_distance(z, 5)[7] < 3 * np.nanmedian(own)
    assert np.isnan(own[80:]).all()


def test_width_does_not_matter():
    z = np.random.default_rng(0).normal(size=(200, 4))
    assert np.allclose(neighbour_distance(z, 5), neighbour_distance(np.tile(z, 16), 5), rtol=1e-4)


def test_the_rank_of_a_cell_with_and_without_flagged_cells():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(50, 3))
    z[4], z[5], z[6] = 6, 9, -20
    good = np.ones(50, bool)
    good[5:7] = False
    found = odd_rank(z, 4, good)
    assert (found.rank, found.n) == (1, 48)
    odd = neighbour_distance(z[good])
    others = np.delete(odd, 4)
    assert np.isclose(found.times, odd[4] / np.median(others))
    everyone = odd_rank(z, 4, np.ones(50, bool))
    assert (everyone.rank, everyone.n) == (3, 50)
    flagged = odd_rank(z, 6, good)  # a flagged cell stands among the good ones
    assert (flagged.rank, flagged.n) == (1, 49)
    z[4] = np.nan
    assert odd_rank(z, 4, good) is None
    assert odd_rank(z[:3], 0, good[:3]) is None


def test_a_feature_that_never_changes_tells_nothing():
    x = np.random.default_rng(3).normal(5, 2, size=(100, 3)).astype(np.float32)
    x[:, 1] = 7
    x[50] = np.nan
    base = np.arange(100) < 80
    mean, sd = scale_of(x, base)
    own = np.delete(x[:80], 50, axis=0)
    assert np.allclose(mean, own.mean(axis=0), rtol=1e-5)
    assert np.allclose(sd[[0, 2]], own[:, [0, 2]].std(axis=0), rtol=1e-5)
    assert np.allclose(((x - mean) / sd)[:50, 1], 0)


def test_the_oddest_of_many_is_odder_than_that_of_few_and_repeats_with_its_seed():
    z = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    few, many = oddest_by_chance(z, 30, draws=40), oddest_by_chance(z, 290, draws=40)
    assert few.shape == (40,)
    np.testing.assert_array_equal(few, oddest_by_chance(z, 30, draws=40))
    assert not np.array_equal(few, oddest_by_chance(z, 30, draws=40, seed=1))
    whole = oddest_by_chance(z, 300, draws=2)
    np.testing.assert_allclose(whole, neighbour_distance(z).max(), rtol=1e-5)
    # Against the usual distance of as many cells, the extreme of many is the more extreme.
    usual = [np.median(neighbour_distance(z[:n])) for n in (30, 290)]
    assert np.median(few) / usual[0] < np.median(many) / usual[1]


def test_odd_is_the_oddest_twentieth_or_the_oddest():
    assert OddRank(1, 7, 2.0).odd
    assert not OddRank(2, 7, 2.0).odd
    assert OddRank(5, 100, 2.0).odd
    assert not OddRank(6, 100, 2.0).odd
