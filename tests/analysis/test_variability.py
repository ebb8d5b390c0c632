from __future__ import annotations

import numpy as np
import pytest

from napari_cellrep.analysis.projection import z_score
from napari_cellrep.analysis.variability import bootstrap_sd, feature_spread, rank_descending, score_spread


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
