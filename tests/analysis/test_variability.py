from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from scipy.spatial.distance import pdist

from napari_cellrep.analysis import variability
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.analysis.variability import (
    SIZES,
    bootstrap_sd,
    compare_spread,
    corrected,
    density,
    drawn_spread,
    even_steps,
    feature_spread,
    heterogeneity,
    main_axis,
    rank_descending,
    score_spread,
    without,
)


def test_spread_counts_ranks_and_marks_small_groups():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2, 3], [50, 50, 5, 1])
    score = rng.normal(size=106) * np.array([1, 3, 9, 1])[group]
    score[0] = np.nan
    found = score_spread(score, group, 5, min_cells=10)
    assert found.n_cells.tolist() == [49, 50, 5, 1, 0]
    assert found.sd[1] == pytest.approx(score[50:100].std())
    assert found.mean[0] == pytest.approx(np.nanmean(score[:50]))
    assert found.rank.tolist() == [2, 1, 0, 0, 0]  # the five of group 2 spread most but are too few
    assert np.isfinite(found.sd[2])
    assert np.isnan(found.sd[3:]).all()


def test_heterogeneity_is_the_mean_sd_and_1_for_all_cells():
    z = z_score(np.random.default_rng(0).normal(size=(200, 7)))
    assert feature_spread(z, np.zeros(200, int), 1).sd[0] == pytest.approx(1, abs=1e-5)
    group = np.arange(200) % 2
    found = feature_spread(z, group, 2)
    assert found.sd[1] == pytest.approx(z[1::2].astype(float).std(axis=0).mean())


def test_mixed_group_is_found():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2], 60)
    x = rng.normal(size=(180, 5))
    x[60:90] += 4  # group 1 is half switched
    assert feature_spread(z_score(x), group, 3).rank[1] == 1


def test_rank_ties_and_gaps():
    assert rank_descending(np.array([2.0, np.nan, 5, 2])).tolist() == [2, 0, 1, 2]


def test_bootstrap_interval_covers_and_narrows():
    score = np.random.default_rng(0).normal(size=1040)
    group = np.repeat([0, 1, 2], [1000, 38, 2])
    ends = bootstrap_sd(score, group, 3)
    assert ends[0, 0] < 1 < ends[0, 1]
    assert np.diff(ends[0]) < np.diff(ends[1])
    assert np.isnan(ends[2]).all()


# ---- beside what is expected by chance ----------------------------------------------------------


def test_compared_values_are_the_plain_ones():
    rng = np.random.default_rng(0)
    group = rng.integers(-1, 4, 300)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    light = rng.lognormal(size=300)
    light[3] = np.nan
    everyone = np.ones(300, bool)
    known = group >= 0
    found = compare_spread(x, group, 4, everyone, n_draws=20)
    by_hand = pd.DataFrame(x[known]).groupby(group[known]).std(ddof=0).mean(axis=1)
    np.testing.assert_allclose(found.value, by_hand, rtol=1e-5)
    assert found.n_cells.tolist() == [int((group == g).sum()) for g in range(4)]
    found = compare_spread(light, group, 4, everyone, relative=True, n_draws=20)
    cells = pd.Series(light[known]).groupby(group[known])
    np.testing.assert_allclose(found.value, cells.std(ddof=0) / cells.mean())
    assert np.isnan(compare_spread(light - 9, group, 4, everyone, relative=True, n_draws=20).value).all()


def sd_of_normals(n):
    """Expected SD (ddof 0) of n cells of a normal distribution with SD 1, from the chi distribution."""
    n = np.asarray(n, float)
    return np.sqrt(2 / n) * np.exp(special.gammaln(n / 2) - special.gammaln((n - 1) / 2))


def test_expectation_is_that_of_equally_many_cells():
    """A normal score: mean and range of the SD of n cells are known exactly."""
    rng = np.random.default_rng(1)
    sizes = [4000, 3000, 12, 40, 200]
    group = np.repeat(np.arange(5), sizes)
    score = rng.normal(size=len(group))
    score[group == 1] += 50  # reference groups that lie apart: that is no spread within a group
    found = compare_spread(score, group, 5, group < 2, n_draws=3000)
    np.testing.assert_allclose(found.expected[2:], sd_of_normals(sizes[2:]), rtol=0.03)
    for i, n in ((2, 12), (3, 40), (4, 200)):
        low, high = np.sqrt(stats.chi2.ppf([0.025, 0.975], n - 1) / n)
        assert found.expected_low[i] == pytest.approx(low, rel=0.05)
        assert found.expected_high[i] == pytest.approx(high, rel=0.05)


def test_many_sizes_are_interpolated():
    rng = np.random.default_rng(2)
    sizes = [5000, *range(10, 10 + 3 * SIZES, 2)]
    group = np.repeat(np.arange(len(sizes)), sizes)
    found = compare_spread(rng.normal(size=len(group)), group, len(sizes), group == 0, n_draws=2000)
    np.testing.assert_allclose(found.expected[1:], sd_of_normals(sizes[1:]), rtol=0.04)


def test_few_cells_are_no_more_variable_than_many():
    """The SD of few cells is small by its nature; the multiple of what is expected is not."""
    rng = np.random.default_rng(3)
    sizes = np.tile([12, 300], 60)
    group = np.repeat(np.arange(120), sizes)
    found = compare_spread(rng.normal(size=len(group)), group, 120, np.ones(len(group), bool), n_draws=400)
    few, many = found.value[::2].mean(), found.value[1::2].mean()
    assert few < 0.96 * many
    assert found.ratio[::2].mean() == pytest.approx(found.ratio[1::2].mean(), abs=0.04)
    assert found.beyond.sum() <= 10  # 2.5 % of 120 are expected


def test_a_group_is_compared_with_references_of_its_own_kind():
    rng = np.random.default_rng(14)
    group = np.repeat(np.arange(5), 200)
    line = np.repeat([0, 0, 1, 1, 2], 200)  # groups 0 and 2 are references; kind 2 has none
    score = rng.normal(size=1000) * np.where(line == 1, 3, 1)
    line[200:230] = 1  # some cells of group 1 are of the other kind; most are not
    reference = (group == 0) | (group == 2)
    found = compare_spread(score, group, 5, reference, match=line)
    apart = [compare_spread(score, group, 5, group == g).expected[1] for g in (0, 2)]
    assert found.expected[[0, 1]] == pytest.approx(apart[0], rel=0.03)
    assert found.expected[[2, 3]] == pytest.approx(apart[1], rel=0.03)
    assert found.expected[4] == pytest.approx(np.mean(apart), rel=0.05)  # as without kinds
    assert found.expected[4] == pytest.approx(
        compare_spread(score, group, 5, reference).expected[4], rel=0.05
    )


def test_references_are_drawn_as_bright_as_the_group():
    """The spread grows with the brightness; bright groups are then beyond chance only where that is not matched."""
    rng = np.random.default_rng(0)
    n_groups, n = 24, 200
    group = np.repeat(np.arange(n_groups), n)
    light = np.exp(rng.normal(0, 0.4, len(group)))
    light[group >= 20] *= 1.6  # bright groups
    value = rng.normal(size=len(group)) * light
    value[group == 23] *= 2  # and one that is mixed, besides
    reference = group < 12
    plain = compare_spread(value, group, n_groups, reference)
    found = compare_spread(value, group, n_groups, reference, brightness=light)
    assert (plain.p_fdr[20:23] <= 0.05).all()
    assert (found.p_fdr[12:23] > 0.05).all()
    assert found.p_fdr[23] <= 0.05
    assert (plain.n_references == 12).all()
    assert (found.n_references[12:20] >= 8).all()
    # Against the plain definition: cells of one reference group weighted such that the fifths of the group's own are even.
    own = light[group == 20]
    edges = np.quantile(own, (0.2, 0.4, 0.6, 0.8))
    rim = 0.1 * (own.max() - own.min())
    each = []
    for g in range(12):
        cells, bright = value[group == g], light[group == g]
        fifth = np.searchsorted(edges, bright, side="right")
        fifth[(bright < own.min() - rim) | (bright > own.max() + rim)] = 9
        if min((fifth == i).sum() for i in range(5)) >= 2:
            drawn = [
                np.concatenate([rng.choice(cells[fifth == i], 40) for i in range(5)]).std()
                for _ in range(300)
            ]
            each.append(np.mean(drawn))
    assert found.n_references[20] == len(each)
    assert found.expected[20] == pytest.approx(np.mean(each), rel=0.04)


def test_references_that_are_not_as_bright_are_refused():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(8), 60)
    light = np.where(group < 6, 1.0, 5.0) * np.exp(rng.normal(0, 0.1, len(group)))
    light[0] = np.nan
    value = rng.normal(size=len(group))
    found = compare_spread(value, group, 8, group < 4, brightness=light)
    assert found.n_cells[0] == 59
    assert (found.n_references[:6] > 0).all()
    assert np.array_equal(found.n_references[6:], [0, 0])
    assert np.isnan(found.p[6:]).all()
    assert np.array_equal(found.rank[6:], [0, 0])
    assert np.isfinite(found.value[6:]).all()
    one = compare_spread(value, group, 8, group < 1, brightness=light)  # all there are
    assert one.n_references[4] == 1
    still = compare_spread(
        value, group, 8, group < 4, brightness=np.ones(len(group))
    )  # equal everywhere: as without
    assert still.expected[5] == pytest.approx(
        compare_spread(value, group, 8, group < 4).expected[5], rel=0.05
    )


def test_weighted_draws_are_those_of_weighted_cells():
    rng = np.random.default_rng(0)
    x = np.array([[0.0], [1.0], [5.0]])
    weight = np.array([0.5, 0.5, 0.0])
    found = drawn_spread(x, 4000, 200, rng, weight=weight)
    assert found.mean() == pytest.approx(0.5 * np.sqrt(2), rel=0.01)  # two cells of the same worth: √(2 / 1)


def test_bootstrap_interval_is_scipys():
    own = np.random.default_rng(4).gamma(2, size=60)
    found = compare_spread(own, np.zeros(60, int), 1, np.ones(60, bool), n_draws=4000)
    ends = stats.bootstrap(
        (own,), np.std, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    wide = np.sqrt(60 / 59)
    assert found.low[0] == pytest.approx(ends.low * wide, abs=0.03)
    assert found.high[0] == pytest.approx(ends.high * wide, abs=0.03)


def test_drawn_spread_is_that_of_drawn_cells():
    """Against cells really put into a table and measured, features and a far mean included."""
    rng = np.random.default_rng(5)
    x = rng.normal(1000, [1, 2, 5], size=(80, 3))
    by_hand = [x[rng.integers(80, size=25)].std(axis=0).mean() for _ in range(4000)]
    found = drawn_spread(x, 25, 4000, rng) / np.sqrt(80 / 79)
    np.testing.assert_allclose(
        np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(by_hand, [0.1, 0.5, 0.9]), rtol=0.01
    )
    light = rng.lognormal(size=50)
    drawn = light[rng.integers(50, size=(4000, 20))]
    found = drawn_spread(light[:, None], 20, 4000, rng, relative=True) / np.sqrt(50 / 49)
    np.testing.assert_allclose(np.median(found), np.median(drawn.std(axis=1) / drawn.mean(axis=1)), rtol=0.02)


def test_cells_drawn_again_from_few_spread_like_new_ones():
    """The mean variance (ddof 0) of 10 new cells is 9/10; drawn from tables of 10 cells it would be (9/10)²."""
    rng = np.random.default_rng(15)
    tables = rng.normal(size=(800, 10, 1))
    variance = np.mean([(drawn_spread(table, 10, 20, rng) ** 2).mean() for table in tables])
    assert variance == pytest.approx(0.9, rel=0.04)


def test_a_mixed_group_is_beyond_chance_and_small_ones_are_not_ranked():
    rng = np.random.default_rng(6)
    group = np.repeat([0, 1, 2, 3, 4], [80, 80, 80, 80, 9])
    x = rng.normal(size=(329, 20))
    x[160:200] += 2  # half of group 2 has moved
    x[320:] *= 5
    found = compare_spread(z_score(x), group, 5, group < 2)
    assert found.rank.tolist()[2] == 1
    assert found.beyond.tolist() == [False, False, True, False, False]
    assert found.rank[4] == 0
    assert np.isfinite(found.value[4])
    assert np.isnan([found.low[4], found.expected[4], found.ratio[4]]).all()
    again = compare_spread(z_score(x), group, 5, group < 2)
    np.testing.assert_array_equal(found.low, again.low)  # the same seed


def test_without_a_reference_nothing_is_expected():
    group = np.repeat([0, 1], 30)
    score = np.random.default_rng(0).normal(size=60)
    for nobody in (np.zeros(60, bool), np.arange(60) < 9):  # none, and too few
        found = compare_spread(score, group, 2, nobody)
        assert np.isnan(found.expected).all()
        assert found.rank.tolist() == [0, 0]
    empty = compare_spread(np.zeros((0, 4)), np.zeros(0, int), 3, np.zeros(0, bool))
    assert empty.n_cells.tolist() == [0, 0, 0]
    assert np.isnan(empty.value).all()


def test_it_stops_when_asked():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 3

    group = np.repeat(np.arange(50), 20)
    found = compare_spread(np.random.default_rng(0).normal(size=1000), group, 50, group >= 0, stop=stop)
    assert np.isfinite(found.value).sum() == 3
    assert np.isnan(found.expected).all()


# ---- along a group's main axis --------------------------------------------------------------------


def test_main_axis_is_the_first_component():
    rng = np.random.default_rng(7)
    z = rng.normal(size=(70, 5)) * [1, 4, 1, 1, 1]
    position, share = main_axis(z, towards=z[:, 1])
    centred = z - z.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(position), np.abs(u[:, 0] * s[0]), atol=1e-4)
    assert share == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-4)
    assert np.corrcoef(position, z[:, 1])[0, 1] > 0.9
    np.testing.assert_allclose(main_axis(z, towards=-z[:, 1])[0], -position)
    tail = np.concatenate([rng.normal(size=(60, 3)) * 0.1, [[9, 9, 9]]])
    assert main_axis(tail)[0].argmax() == 60  # without anything else, the longer tail is on the right


def test_more_features_than_cells():
    z = np.random.default_rng(10).normal(size=(12, 300)).astype(np.float32)
    position, share = main_axis(z)
    u, s, _ = np.linalg.svd(z - z.mean(axis=0, dtype=float), full_matrices=False)
    np.testing.assert_allclose(np.abs(position), np.abs(u[:, 0] * s[0]), rtol=1e-4)
    assert share == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-4)


def test_main_axis_of_odd_input():
    z = np.random.default_rng(0).normal(size=(20, 3))
    z[4] = np.nan
    position, _ = main_axis(z, towards=np.full(20, np.nan))
    assert np.isnan(position).tolist() == [i == 4 for i in range(20)]
    assert np.isnan(main_axis(z[:2])[0]).all()
    still, share = main_axis(np.ones((5, 3)))
    assert still.tolist() == [0] * 5
    assert share == 0


def test_even_steps_are_real_cells_in_order():
    position = np.random.default_rng(8).permutation(np.arange(0, 101.0))
    position[7] = np.nan
    chosen = even_steps(position, 5, tail=0.0)
    step = np.diff(position[chosen])
    assert len(set(chosen.tolist())) == 5
    assert (np.abs(step - 25) <= 1).all()
    assert even_steps(np.array([3.0, np.nan, 1.0]), 8).tolist() == [2, 0]
    assert len(even_steps(np.zeros(30), 8)) == 8  # all in one place: eight different cells all the same
    stray = np.append(np.linspace(0, 1, 200), 1000.0)
    assert position_span(stray, even_steps(stray, 6)) < 1.1  # one stray cell does not stretch the steps


def position_span(position, chosen):
    return position[chosen].max() - position[chosen].min()


def test_density_is_a_density():
    values = np.random.default_rng(9).normal(2, 0.5, 20_000)
    values[:3] = np.nan
    at = np.linspace(-1, 5, 200)
    found = density(values, at)
    np.testing.assert_allclose(found, stats.norm.pdf(at, 2, 0.5), atol=0.05)
    assert np.trapezoid(found, at) == pytest.approx(1, abs=0.01)
    few = np.random.default_rng(11).gamma(2, size=80)
    np.testing.assert_allclose(density(few, at), stats.gaussian_kde(few)(at), rtol=1e-9)
    assert density(np.array([1.0, 1.0, 2.0]), at).tolist() == [0] * 200


# ---- without what follows the intensity --------------------------------------------------------------


def test_without_is_the_residual_of_a_plain_regression():
    """Against one regression with a column for every group."""
    rng = np.random.default_rng(12)
    group = rng.integers(0, 4, 240)
    light = rng.normal(size=240) + group  # groups differ in intensity and that must not matter
    z = rng.normal(size=(240, 6)) + group[:, None] * 3 + light[:, None] * [2, 0, 0, 1, 0, 0]
    rest, left = without(z, light, group)
    dummies = np.eye(4)[group]
    design = np.column_stack([light, light**2, dummies])
    fitted = np.linalg.lstsq(design, z, rcond=None)[0]
    residual = z - design @ fitted
    own = rest - np.stack([rest[group == g].mean(axis=0) for g in range(4)])[group]
    np.testing.assert_allclose(own, residual, atol=2e-5)
    within = z - np.stack([z[group == g].mean(axis=0) for g in range(4)])[group]
    assert left == pytest.approx((residual**2).sum() / (within**2).sum(), rel=1e-4)
    means = [rest[group == g].mean(axis=0) - z[group == g].mean(axis=0) for g in range(4)]
    np.testing.assert_allclose(means, 0, atol=1e-5)  # groups stay where they were


def test_several_numbers_are_taken_out_together():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(4), 60)
    focus = rng.normal(size=240)
    light = focus + 0.3 * rng.normal(size=240)  # nearly the same twice
    z = (np.outer(focus, [1, 0, 2]) + np.outer(light**2, [0, 1, 0]) + rng.normal(size=(240, 3))).astype(
        np.float32
    )
    both = np.stack([focus, light], axis=1)
    rest, left = without(z, both, group)
    own = np.eye(4)[group]
    design = np.column_stack([own, both, ((both - both.mean(axis=0)) / both.std(axis=0)) ** 2])
    residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    within = rest - own @ (np.linalg.pinv(own) @ rest)
    np.testing.assert_allclose(within, residual, atol=1e-4)
    centred = z - own @ (np.linalg.pinv(own) @ z)
    assert left == pytest.approx((residual**2).sum() / (centred**2).sum(), rel=1e-4)
    both[7, 1] = np.nan
    assert np.flatnonzero(np.isnan(without(z, both, group)[0]).any(axis=1)).tolist() == [7]


def test_without_finds_what_varies_in_place_only():
    rng = np.random.default_rng(13)
    group = np.repeat([0, 1, 2], 100)
    light = rng.normal(size=300) * np.where(group == 1, 4, 1)  # group 1 varies in intensity,
    z = rng.normal(size=(300, 10)) + 0.5 * light[:, None] * (np.arange(10) < 6)
    z[200:250, 6:] += 2  # group 2 in place
    mixed = compare_spread(z_score(z), group, 3, group == 0)
    apart = compare_spread(without(z_score(z), light, group)[0], group, 3, group == 0)
    assert mixed.rank.tolist() == [3, 1, 2]
    assert apart.beyond.tolist() == [False, False, True]


def test_without_odd_input():
    z = np.random.default_rng(0).normal(size=(30, 3))
    group = np.repeat([0, 1, -1], 10)
    light = np.r_[np.nan, np.ones(29)]
    rest, left = without(z, light, group)
    assert np.isnan(rest[0]).all()
    assert np.isnan(rest[20:]).all()
    np.testing.assert_allclose(rest[1:20], z[1:20], rtol=1e-5)
    assert left == pytest.approx(1)
    assert without(z, np.full(30, np.nan), group)[1] == 1


def test_p_values_are_as_often_small_as_they_say_and_small_where_a_group_is_mixed() -> None:
    rng = np.random.default_rng(3)
    n_groups, n = 60, 40
    group = np.repeat(np.arange(n_groups), n)
    x = rng.normal(size=n_groups * n)
    reference = group < 20
    same = compare_spread(x, group, n_groups, reference)
    assert same.p[20:].min() >= 1 / 2001
    assert 0.35 < np.median(same.p[20:]) < 0.65
    assert (same.p_fdr[20:] <= 0.05).sum() == 0
    x[group == 59] *= 3
    x[group == 58] *= 0.3  # less mixed than by chance: p is one-sided
    found = compare_spread(x, group, n_groups, reference)
    assert found.p[59] == pytest.approx(1 / 2001)  # none of 2,000 draws
    assert found.p[58] == pytest.approx(1.0, abs=0.01)
    assert np.flatnonzero(found.p_fdr <= 0.05).tolist() == [59]
    # ranges and expectations are what they were without the further draws
    np.testing.assert_array_equal(found.expected_high[:58], same.expected_high[:58])


def test_p_values_with_more_sizes_than_are_drawn_and_with_small_groups() -> None:
    rng = np.random.default_rng(4)
    sizes = np.r_[np.arange(10, 60), 3]
    group = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(group), 3))
    x[group == 49] *= 2
    found = compare_spread(x, group, len(sizes), group < 49)
    assert np.isnan(found.p[50])
    assert found.p[49] < 0.01
    assert 0.3 < np.median(found.p[:49]) < 0.7


def test_the_correction_is_benjamini_and_hochbergs() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(corrected(p), [0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5])
    assert np.isnan(corrected(np.full(3, np.nan))).all()


# ---- larger than memory ------------------------------------------------------------------------------


def test_one_pass_over_a_file_is_the_same_as_all_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(variability, "_BLOCK_ROWS", 64)
    rng = np.random.default_rng(0)
    group = rng.integers(-1, 9, size=500)
    group[group == 8] = 7
    group[0] = 8  # alone
    x = (1e4 + rng.normal(size=(500, 6)) * (1, 2, 3, 4, 5, 0) * (1 + group % 3)[:, None]).astype(np.float32)
    x[group == 6] = x[20]  # all the same
    x[33, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    found = heterogeneity(np.load(tmp_path / "x.npy", mmap_mode="r"), group, 10)
    fine = np.isfinite(x).all(axis=1)
    z = np.full(x.shape, np.nan, np.float32)
    z[fine] = z_score(x[fine])
    plain = feature_spread(z, group, 10)
    np.testing.assert_allclose(found.sd, plain.sd, rtol=1e-3, atol=1e-6)
    assert found.n_cells.tolist() == plain.n_cells.tolist()
    assert found.rank.tolist() == plain.rank.tolist()
    assert found.sd[6] == 0
    pairs = heterogeneity(x, group, 10, measure="distance")
    for g in (0, 3, 7):
        assert pairs.sd[g] == pytest.approx(pdist(z[fine & (group == g)][:, :5], "cosine").mean(), rel=1e-3)
    assert np.isnan(pairs.sd[8:]).all()
    with pytest.raises(variability.InputError, match='"sd" or a "distance"'):
        heterogeneity(x, group, 10, measure="range")
