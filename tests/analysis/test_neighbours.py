from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import balanced_accuracy_score

from napari_cellrep.analysis.neighbours import graph, knn_classify, nearest
from napari_cellrep.specs import InputError


@pytest.mark.parametrize("block", [7, 512])
def test_nearest_is_exact_far_from_the_origin(block):
    x = (np.random.default_rng(0).normal(size=(300, 40)) + 1000).astype(np.float32)
    index, distance = nearest(x, 11, block=block)
    full = cdist(x.astype(np.float64), x.astype(np.float64))
    np.fill_diagonal(full, np.inf)
    assert np.array_equal(index, np.argsort(full, axis=1)[:, :11])
    assert np.allclose(distance, np.sort(full, axis=1)[:, :11], rtol=1e-3)


def test_a_duplicate_is_a_neighbour_and_the_cell_itself_never_is():
    x = np.repeat(np.random.default_rng(1).normal(size=(5, 3)), 2, axis=0).astype(np.float32)
    index, distance = nearest(x, 1)
    assert index[:, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert np.allclose(distance, 0, atol=1e-5)


def test_nearest_where_many_cells_are_equal_and_where_all_are_wanted():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(900, 4)).astype(np.float32)
    x[100:700] = x[100]  # more equal cells than are looked at
    index, distance = nearest(x, 5)
    full = cdist(x.astype(np.float64), x.astype(np.float64))
    np.fill_diagonal(full, np.inf)
    np.testing.assert_allclose(distance, np.sort(full, axis=1)[:, :5], atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(full, index, axis=1), np.sort(full, axis=1)[:, :5], atol=1e-6
    )
    every, _ = nearest(x[:50], 49, block=13)
    assert all(sorted(own) == [j for j in range(50) if j != i] for i, own in enumerate(every))
    far = nearest(x[:50], 60, to=x)[0]
    assert np.array_equal(far[:, 0], np.arange(50))  # among others, an equal one is the nearest


def test_nearest_among_other_cells_and_too_few_of_them():
    x = np.array([[0.0, 0], [10, 0]], np.float32)
    assert nearest(x, 1, to=np.array([[9.0, 0], [1, 0]], np.float32))[0].ravel().tolist() == [1, 0]
    with pytest.raises(InputError, match="2 nearest neighbours cannot be had from 2 cells"):
        nearest(x, 2)


def test_the_golden_vote_of_microsnoop(shared: Path):
    golden = np.load(shared / "golden" / "eval_metrics.npz")
    votes = knn_classify(golden["knn/X"], golden["knn/y"], 11, ties="smallest")
    assert np.array_equal(votes.predicted, golden["knn/pred_k11_loo"])
    assert votes.accuracy == pytest.approx(float(golden["knn/total_accuracy"]))
    assert votes.balanced_accuracy == pytest.approx(float(golden["knn/balanced_accuracy"]))


def test_ties_go_to_the_nearest_class():
    x = np.array([[0.0], [1], [2], [3], [-30]], np.float32)
    y = np.array(["a", "b", "a", "a", "b"])
    # Neighbours of 0 at 0: b (1), a (2): one vote each. Of −30: b? no: a (0), b (1).
    votes = knn_classify(x, y, 2)
    assert votes.predicted[0] == "b"
    assert (
        knn_classify(
            np.array([[0.0], [1], [-2]], np.float32), np.array([2, 1, 0]), 2, ties="smallest"
        ).predicted[0]
        == 1
    )


def test_balanced_accuracy_is_the_mean_recall():
    rng = np.random.default_rng(0)
    y = np.array([0] * 90 + [1] * 10)
    votes = knn_classify(rng.normal(size=(100, 3)).astype(np.float32) + y[:, None], y, 5)
    assert votes.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, votes.predicted))
    assert votes.accuracy == pytest.approx(np.mean(votes.predicted == y))


def test_neighbours_of_the_same_field_do_not_vote():
    rng = np.random.default_rng(0)
    field = np.repeat(np.arange(6), 20)
    y = np.tile([0, 1], 60)
    own = rng.normal(size=(6, 5)) * 9  # each field has its own place, and in it both classes
    x = own[field] + rng.normal(size=(120, 5)) + y[:, None] * np.array([4, 0, 0, 0, 0])
    found = knn_classify(x, y, 5, part=field)
    for i in (0, 37, 119):
        rest = np.flatnonzero(field != field[i])
        near = rest[np.argsort(cdist(x[i : i + 1], x[rest])[0], kind="stable")[:5]]
        assert found.predicted[i] == np.bincount(y[near], minlength=2).argmax()
    # A class that is in one field only cannot be known elsewhere.
    assert knn_classify(x, (field == 0).astype(int), 5).recall["1"] > 0.9
    assert knn_classify(x, (field == 0).astype(int), 5, part=field).recall["1"] == 0
    with pytest.raises(InputError, match="outside 0 there are 100"):
        knn_classify(x, y, 101, part=field)


def test_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        knn_classify(np.zeros((30, 2), np.float32), np.zeros(30))


def test_graph_is_scanpys(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    distances, connectivities = graph(x, 10)
    assert np.all(np.diff(distances.indptr) == 9)
    assert abs(connectivities - connectivities.T).max() < 1e-6
    assert 0 < connectivities.data.min()
    assert connectivities.data.max() <= 1
