"""Means, trees and cuts against SciPy and plain computations."""

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score

from napari_cellrep.analysis.profiles import (
    grow,
    join,
    likeness,
    mean_profiles,
    represent,
    similar_groups,
    typical,
)
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.specs import InputError


@pytest.fixture
def z():
    """Two kinds of twelve rows each, in mixed order."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1], 12))
    return rng.normal(size=(2, 30))[kind] * 2 + rng.normal(size=(24, 30)), kind


def test_means_leave_out_cells_without_a_vector():
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    x[5, 1] = np.nan
    members = [np.array([7, 0, 5]), np.array([5]), np.array([2, 1])]
    means = mean_profiles(x, members)
    np.testing.assert_allclose(means[0], (x[7] + x[0]) / 2)
    assert np.isnan(means[1]).all()
    np.testing.assert_allclose(means[2], (x[1] + x[2]) / 2)


def test_typical_cells_are_nearest_to_the_mean():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 4)) * (1, 100, 0.01, 0)  # features of unlike size, one that never varies
    x[11] = np.nan
    rows = rng.permutation(60)[:40]
    rows = np.union1d(rows, [11])[::-1]
    found = typical(x, rows, 5)
    known = rows[rows != 11]
    scaled = x[known][:, :3] / x[known][:, :3].std(axis=0)
    distance = np.linalg.norm(scaled - scaled.mean(axis=0), axis=1)
    assert found.tolist() == known[np.argsort(distance)][:5].tolist()
    assert typical(x, np.array([11]), 5).size == 0


def test_likeness_is_numpys_correlation_and_scipys_distance(z):
    x, _ = z
    np.testing.assert_allclose(likeness(x), np.corrcoef(x), atol=1e-6)
    np.testing.assert_allclose(likeness(x, "euclidean"), squareform(pdist(x)), rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "linkage"), [("correlation", "average"), ("euclidean", "average"), ("euclidean", "ward")]
)
def test_the_tree_is_scipys(z, metric, linkage):
    x, kind = z
    tree = grow(x, metric, linkage)
    plain = hierarchy.linkage(x, linkage, metric)
    np.testing.assert_allclose(tree.linkage[:, 2:], plain[:, 2:], atol=1e-9)
    np.testing.assert_allclose(hierarchy.cophenet(tree.linkage), hierarchy.cophenet(plain), atol=1e-9)
    # Leaves are turned so that neighbours are at least as near as without.
    square = squareform(pdist(x, metric))
    order, before = tree.order, hierarchy.leaves_list(plain)
    assert square[order[1:], order[:-1]].sum() <= square[before[1:], before[:-1]].sum() + 1e-9
    halves = tree.cut(tree.height[-2:].mean())
    assert halves[order[0]] == 0
    assert {tuple(np.unique(kind[halves == i])) for i in (0, 1)} == {(0,), (1,)}


def test_ward_of_correlations_is_ward_of_rows_of_length_one(z):
    x, _ = z
    rows = x - x.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tree = grow(x, "correlation", "ward")
    np.testing.assert_allclose(tree.linkage[:, 2], hierarchy.linkage(rows, "ward")[:, 2], atol=1e-9)


def test_branches_hold_together(z):
    tree = grow(z[0])
    n = tree.n_leaves
    assert sorted(tree.order.tolist()) == list(range(n))
    for node in range(2 * n - 1):
        below = {node}
        while any(v >= n for v in below):
            below = {int(c) for v in below for c in (tree.linkage[v - n, :2] if v >= n else (v,))}
        assert set(tree.leaves(node).tolist()) == below
        a, b = tree.children(node)
        if node >= n:
            assert tree.parent[a] == tree.parent[b] == node
            assert tree.first[node] == tree.first[a]
            assert tree.last[a] + 1 == tree.first[b]
            assert tree.last[b] == tree.last[node]
    assert tree.parent[tree.root] == -1


def test_a_cut_and_a_branch_at_a_height_agree(z):
    tree = grow(z[0])
    for height in (-1.0, 0.0, *tree.height[tree.n_leaves :] + 1e-9):
        cut = tree.cut(height)
        plain = hierarchy.fcluster(tree.linkage, height, "distance")
        assert len(set(zip(cut, plain, strict=True))) == len(set(cut)) == len(set(plain))
        along = cut[tree.order]
        assert along[0] == 0
        assert set(np.diff(along)) <= {0, 1}  # numbered from the first leaf on, without gaps
        if height >= 0:
            for leaf in range(tree.n_leaves):
                own = tree.leaves(tree.branch_at(leaf, height))
                assert sorted(own) == np.flatnonzero(cut == cut[leaf]).tolist()


def test_two_rows_equal_rows_and_flat_rows():
    tree = grow(np.array([[1.0, -1, 0, 2], [-1, 1, 0, -2]]))
    assert tree.linkage[0, 2] == pytest.approx(2)
    same = grow(np.ones((3, 4)) * [[1.0, 2, 3, 5]])
    assert same.height.max() == pytest.approx(0, abs=1e-12)
    assert same.cut(1e-9).tolist() == [0, 0, 0]
    flat = np.vstack([np.zeros((1, 4)), [[1.0, 2, 3, 5], [1.0, 2, 3, 4]]])  # correlates with nothing
    assert np.isfinite(grow(flat).height).all()
    assert likeness(flat)[0].tolist() == [0, 0, 0]


def test_what_no_tree_can_be_made_of():
    with pytest.raises(InputError, match="at least two; there is one"):
        grow(np.ones((1, 5)))
    with pytest.raises(InputError, match="choose Euclidean"):
        grow(np.ones((4, 2)))
    with pytest.raises(InputError, match="takes one of"):
        grow(np.ones((4, 4)), "cosine")


def test_a_thousand_leaves_keep_their_tree(z):
    """Beyond the number that is turned: still SciPy's tree, and no crossing branches."""
    x = np.random.default_rng(2).normal(size=(1000, 8))
    tree = grow(x, "euclidean", "average")
    np.testing.assert_allclose(tree.linkage, hierarchy.linkage(x, "average"))
    assert (tree.last - tree.first + 1)[1000:].tolist() == tree.linkage[:, 3].astype(int).tolist()


def test_groups_are_ranked_by_the_plain_definition_of_the_tree_s_distance():
    rng = np.random.default_rng(1)
    of = rng.integers(0, 6, 300)
    x = rng.normal(size=(6, 20))[of] + rng.normal(size=(300, 20))
    x[::11] = np.nan
    members = [np.flatnonzero(of == i) for i in range(6)]
    names = [f"w{i}" for i in range(6)]
    found = similar_groups(x, members, names, "w2", "well")
    profiles = mean_profiles(x, members)
    z = (profiles - profiles.mean(axis=0)) / profiles.std(axis=0)
    want = {name: 1 - np.corrcoef(z[i], z[2])[0, 1] for i, name in enumerate(names)}
    assert found.names == tuple(sorted(names, key=want.get))
    np.testing.assert_allclose(found.distance, [want[name] for name in found.names], atol=1e-6)
    assert found.names[0] == "w2"
    known = np.isfinite(x).all(axis=1)
    assert found.n_cells.tolist() == [int((known & (of == names.index(n))).sum()) for n in found.names]
    size = similar_groups(x, members, names, "w2", "well", "euclidean")
    np.testing.assert_allclose(
        size.distance, [np.linalg.norm(z[names.index(n)] - z[2]) for n in size.names], rtol=1e-5
    )
    assert (np.diff(size.distance) >= 0).all()


def test_the_nearest_five_are_said_and_small_groups_are_named_as_such():
    rng = np.random.default_rng(2)
    members = [np.arange(i * 12, i * 12 + 12) for i in range(7)] + [np.array([84, 85])]
    x = np.concatenate([rng.normal(size=(84, 8)), np.full((1, 8), np.nan), rng.normal(size=(1, 8))])
    names = [*"abcdefg", "small"]
    found = similar_groups(x, [*members, np.array([84])], [*names, "none"], "a", "group")
    assert found.left_out == 1
    assert "none" not in found.names
    assert found.column == "distance to a"
    assert found.words.startswith(f"Most like a (1 − correlation of the mean profiles): {found.names[1]} (")
    assert found.words.count("(") == 6
    nearest = similar_groups(np.nan_to_num(x), members, names, "small", "group", "euclidean")
    assert nearest.names[0] == "small"
    listed = similar_groups(
        x[:, :4], [members[0], members[1], members[-1]], ["a", "b", "small"], "a", "group"
    )
    assert "1 cell only" in listed.words


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "z"}, "There is no well 'z'; there are a, b and c"),
        ({"metric": "cosine"}, "compared by one of"),
        ({"names": ["a", "b"], "members": [np.arange(3), np.arange(3, 6)]}, "At least three groups"),
        ({"x": np.ones((9, 2))}, "choose Euclidean"),
        ({"x": np.full((9, 4), np.nan)}, "No cell of a can be used"),
    ],
)
def test_what_can_not_be_ranked_is_said(change, sentence):
    usual = {
        "x": np.random.default_rng(0).normal(size=(9, 4)),
        "members": [np.arange(i, i + 3) for i in (0, 3, 6)], "names": ["a", "b", "c"], "name": "a", "by": "well",
    }  # fmt: skip
    with pytest.raises(InputError, match=sentence):
        similar_groups(**{**usual, **change})


def test_distances_by_products_are_scipys_and_equal_rows_are_at_nought():
    rng = np.random.default_rng(0)
    x = 50 + rng.normal(size=(700, 5))  # more than a block, far from the origin
    x[600] = x[3]
    x[601] = x[4] + 1e-9
    tree = grow(x, "euclidean", "average")  # not turned: more than ORDERED_MOST
    plain = hierarchy.linkage(x, "average")
    np.testing.assert_allclose(tree.linkage[:, 2], plain[:, 2], rtol=1e-9, atol=1e-12)
    assert tree.linkage[0, 2] == 0
    np.testing.assert_array_equal(tree.clusters(7), hierarchy.fcluster(tree.linkage, 7, "maxclust"))
    ward = grow(x, "euclidean", "ward").linkage[:, 2]
    np.testing.assert_allclose(ward, hierarchy.linkage(x, "ward")[:, 2], rtol=1e-9, atol=1e-12)


def test_more_rows_than_a_tree_holds_go_through_representatives(monkeypatch):
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=900)
    x = rng.normal(size=(4, 6))[kind] * 9 + rng.normal(size=(900, 6))
    monkeypatch.setattr("napari_cellrep.analysis.profiles.JOINED_MOST", 100)
    with pytest.raises(InputError, match="100 rows at most; there are 900"):
        grow(x)
    centres, of = represent(x, 20)
    assert len(centres) == len(np.unique(of)) <= 20
    np.testing.assert_allclose(centres[3], x[of == 3].mean(axis=0), rtol=1e-5)
    found = grow(centres, "euclidean", "ward").clusters(4)[of]
    assert {tuple(np.unique(kind[found == i])) for i in range(1, 5)} == {(0,), (1,), (2,), (3,)}
    assert np.array_equal(of, represent(x, 20)[1])
    # `join` takes representatives by itself, and says so; every row has a cluster.
    for metric in ("correlation", "euclidean"):
        joined = join(z_score(x), metric, "ward")
        assert len(joined.of) == 900
        assert joined.tree.n_leaves == len(joined.leaves) <= 100
        assert "of 900 rows were joined" in joined.words
        got = joined.clusters(4)
        assert adjusted_rand_score(kind, got) > 0.99
    few = join(x[:90], "euclidean")
    assert (few.words, few.tree.n_leaves) == ("", 90)
    assert np.array_equal(few.clusters(5), grow(x[:90], "euclidean").clusters(5))
    with pytest.raises(InputError, match="2 to 100 representatives"):
        represent(x, 101)
