import numpy as np
import pandas as pd

from napari_cellrep.gui.views._order import by_column, by_distance, by_main_axis, in_sections


def test_numbers_and_words_in_their_order_and_the_unknown_last():
    rows = np.array([5, 0, 3, 1])
    numbers = pd.Series([2.0, 1.0, 9.0, np.nan, 0.0, 2.0])
    assert by_column(rows, numbers).tolist() == [1, 5, 0, 3]  # 5 before 0: equal, in the order they had
    words = pd.Series(["dose 10", "dose 2", None, "dose 1", "x", "dose 2"], dtype="category")
    assert by_column(np.arange(6), words).tolist() == [3, 1, 5, 0, 4, 2]


def test_the_most_alike_come_first_whatever_the_features_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    x[:, 3] *= 1e6  # one feature in other units must not decide alone
    x[7] = np.nan
    rows = np.arange(50)
    order = by_distance(rows, x, [3])
    assert order[0] == 3
    assert order[-1] == 7
    z = (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    expected = np.argsort(np.where(rows == 7, np.inf, ((z - z[3]) ** 2).sum(axis=1)))
    assert order.tolist() == expected.tolist()
    several = by_distance(rows, x, [3, 4, 7])  # the mean of those that have a vector
    assert several[0] == np.nanargmin(((z - z[[3, 4]].mean(axis=0)) ** 2).sum(axis=1))
    assert by_distance(rows, x, [7]).tolist() == rows.tolist()  # nothing to be like


def test_along_the_main_axis_of_all_or_of_each_value():
    rng = np.random.default_rng(1)
    x = rng.normal(scale=0.01, size=(40, 5)).astype(np.float32)
    along = rng.permutation(40).astype(np.float32)
    along[0] = 300  # the long tail, at the end
    x += along[:, None] * np.array([1, -1, 2, 0.5, 1], np.float32)
    x[9] = np.nan
    rows = np.flatnonzero(np.arange(40) != 5)  # a cell that is not asked for is in no answer
    known = rows[rows != 9]
    expected = [*known[np.argsort(along[known])], 9]
    assert by_main_axis(rows, x).tolist() == expected
    column = pd.Series(np.where(np.arange(40) < 20, "b", "a"))
    found = by_main_axis(rows, x, column)
    assert sorted(found) == rows.tolist()
    for part, own in (("a", found[:20]), ("b", found[20:])):
        assert (column[own] == part).all()
        order = np.diff(along[own[own != 9]])
        assert (order > 0).all() or (order < 0).all()  # which end is first is the longer tail's to say
    assert by_main_axis(np.array([9]), x).tolist() == [9]


def test_sections_are_the_values_in_natural_order():
    column = pd.Series(["B10", "B2", None, "B2", "A1"])
    found = in_sections(np.array([3, 4, 0, 1, 2]), column)
    assert [(name, rows.tolist()) for name, rows in found] == [
        ("A1", [4]), ("B2", [3, 1]), ("B10", [0]), ("none", [2]),
    ]  # fmt: skip
    assert [name for name, _ in in_sections(np.arange(5), column, most=2)] == ["A1", "B2"]
    numbers = pd.Series([10, -1, 2, 2, 0])
    assert [name for name, _ in in_sections(np.arange(5), numbers)] == ["-1", "0", "2", "10"]
