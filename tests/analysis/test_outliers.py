from __future__ import annotations

import numpy as np

from napari_cellrep.analysis.outliers import neighbour_distance


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
