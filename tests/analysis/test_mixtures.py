from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import binomtest
from sklearn.metrics import adjusted_rand_score, average_precision_score

from napari_cellrep.analysis.mixtures import (
    annotated_as,
    field_spread,
    local_outlier_factor,
    mixing_fraction,
    own_group_deviation,
    phenotypes,
    rare_cells,
    top_hits,
    upper_weight,
)
from napari_cellrep.specs import InputError


def test_a_mixture_of_two_patterns_lies_at_its_share():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=8) * 3, rng.normal(size=8) * 3
    w = np.r_[np.zeros(100), np.ones(100), rng.uniform(size=100)]
    z = (1 - w)[:, None] * a + w[:, None] * b + rng.normal(size=(300, 8)) * 0.3
    is_a, is_b = np.arange(300) < 100, (np.arange(300) >= 100) & (np.arange(300) < 200)
    found = mixing_fraction(z, is_a, is_b)
    assert np.abs(found - w).mean() < 0.05
    z[5] = np.nan
    assert np.isnan(mixing_fraction(z, is_a, is_b)[5])
    with pytest.raises(InputError, match="reference B has no"):
        mixing_fraction(z, is_a, np.zeros(300, bool))
    with pytest.raises(InputError, match="same mean"):
        mixing_fraction(np.ones((6, 2)), np.arange(6) < 3, np.arange(6) >= 3)


def test_kinds_within_a_group_are_found_and_one_kind_is_one():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2], [60, 30, 15])
    z = rng.normal(size=(105, 6)) * 0.5 + np.eye(6)[truth] * 5
    found = phenotypes(z)
    assert adjusted_rand_score(truth, found.kind) > 0.95
    np.testing.assert_allclose(found.share, [60 / 105, 30 / 105, 15 / 105], atol=0.02)
    assert found.sure > 0.95
    one = phenotypes(rng.normal(size=(100, 6)))
    assert one.share.tolist() == [1.0]
    assert phenotypes(np.ones((30, 3))).share.tolist() == [1.0]
    z[3] = np.nan
    assert phenotypes(z).kind[3] == -1
    with pytest.raises(InputError, match="Not enough data: 7 cells"):
        phenotypes(z[10:17])


def test_a_few_odd_cells_are_seen_where_the_sd_is_not():
    rng = np.random.default_rng(2)
    value = rng.normal(size=1200)
    group = np.repeat(np.arange(4), 300)
    value[:300] = rng.normal(size=300) * 1.1  # a little wider
    value[300:318] = 6  # 18 odd cells in group 1
    found = rare_cells(value, group, 5, reference=group >= 2)
    assert found.rank[1] == 1
    assert found.p_fdr[1] < 1e-4
    assert found.n_beyond[1] >= 18
    assert found.p[1] == pytest.approx(
        binomtest(int(found.n_beyond[1]), 300, found.expected, "greater").pvalue
    )
    assert (found.p[2:4] > 0.01).all()
    assert np.isnan(found.p[4])  # an empty group
    assert found.upper[1] == pytest.approx(18 / 300, abs=0.02)
    assert found.upper[2] == 0
    with pytest.raises(InputError, match="at least 50 are needed"):
        rare_cells(value, group, 4, reference=np.arange(1200) < 9)


def test_two_of_one_centre_are_not_two_kinds():
    rng = np.random.default_rng(3)
    assert upper_weight(rng.standard_t(3, size=400)) == 0
    assert upper_weight(np.ones(50)) == 0
    assert np.isnan(upper_weight(np.arange(5)))
    assert upper_weight(np.r_[rng.normal(size=90), rng.normal(8, 1, 10)]) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("measure", ["sd", "distance"])
def test_the_largest_of_many_fields_is_judged_by_as_many_drawn_ones(measure):
    rng = np.random.default_rng(4)
    # Group 0: nine fields of one homogeneous population. Group 1: one such field. Group 2: a field of two kinds.
    field = np.r_[np.repeat(np.arange(9), 20), np.repeat(9, 20), np.repeat(10, 20)]
    group = np.r_[np.zeros(180, int), np.ones(20, int), np.full(20, 2)]
    z = rng.normal(size=(220, 5)) + 1
    z[-20:-10] += 4
    found = field_spread(z, field, group, 3, reference=group < 2, measure=measure)
    assert found.n_fields.tolist() == [9, 1, 1]
    assert found.expected[0] > found.expected[1]
    assert found.p[0] > 0.05
    if measure == "sd":
        assert found.p_fdr[2] < 0.05
        assert found.value[0] == pytest.approx(z[:20].std(axis=0).mean(), rel=1e-5)
    else:
        assert found.value[0] == pytest.approx(pdist(z[:20], "cosine").mean(), rel=1e-4)
    with pytest.raises(InputError, match="too few"):
        field_spread(z, field, group, 3, reference=np.arange(220) < 3)
    few = field_spread(z[:25], field[:25], group[:25], 1, reference=group[:25] == 0, n_draws=0)
    assert few.n_fields[0] == 1  # the second field has five cells
    assert np.isnan(few.expected[0])


def test_deviation_from_the_own_group_and_local_outliers():
    rng = np.random.default_rng(5)
    group = np.r_[np.repeat([0, 1], 50), [2, 2], -1]
    z = rng.normal(size=(103, 4)) * np.where(group == 1, 5.0, 1.0)[:, None]
    z[0], z[50] = 6, 6  # far for the narrow group, not for the wide one
    for found in (own_group_deviation(z, group), local_outlier_factor(z, group)):
        assert np.argmax(np.nan_to_num(found)) == 0
        assert found[0] > 2 * found[50]
        assert np.isnan(found[100:]).all()
    assert np.median(own_group_deviation(z, group)[:100]) == pytest.approx(1, abs=0.2)
    with pytest.raises(InputError, match="k is 0"):
        local_outlier_factor(z, group, 0)


def test_top_hits_against_an_annotation():
    score = np.array([5.0, 4, 3, 2, 1, np.nan])
    found = top_hits(score, np.array([True, False, True, False, False, True]))
    np.testing.assert_allclose(found.share, [1, 1 / 2, 2 / 3, 1 / 2, 2 / 5])
    assert found.average_precision == pytest.approx(average_precision_score([1, 0, 1, 0, 0], score[:5]))
    assert (found.chance, found.best_k) == (0.4, 5)
    with pytest.raises(InputError, match="0 of 5 groups"):
        top_hits(score, np.zeros(6, bool))
    assert annotated_as(["Golgi;ER", "er", None, "Nuclear"], "ER").tolist() == [True, True, False, False]
