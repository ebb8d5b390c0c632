from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data.rows import row_columns, row_words, rows_by, rows_words


@pytest.fixture
def obs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "field": list("aabbba"), "group": list("xxyyyx"), "drug": ["d", None, "e", "e", "d", "d"],
            "dose": [3, 3, 1, 1, 3, 1], "area_px": np.linspace(1, 2, 6), "good": [True] * 6,
            "has_dino": [True, False] * 3,
        }
    )  # fmt: skip


def test_cells_are_put_together_and_those_without_a_value_are_nowhere(obs):
    rows = rows_by(obs, "drug")
    assert rows.names == ("d", "e")
    assert rows.codes.tolist() == [0, -1, 1, 1, 0, 0]
    mask = np.array([True, True, True, False, False, True])
    assert rows.count(mask).tolist() == [2, 1]
    assert [own.tolist() for own in rows.members(mask)] == [[0, 5], [2]]
    assert rows.cells(0, mask).tolist() == [0, 5]
    assert rows.cells([1, 0], mask).tolist() == [0, 2, 5]
    assert rows.cells(rows.index("no such"), mask).tolist() == []


def test_members_are_the_plain_definition(obs):
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"w": rng.choice(["a", "b", None, "d"], 500)})
    rows, mask, x = rows_by(many, "w"), rng.random(500) < 0.7, rng.normal(size=(500, 3))
    x[::9] = np.nan
    for i, name in enumerate(rows.names):
        own = np.flatnonzero((many["w"] == name).to_numpy() & mask)
        assert rows.members(mask)[i].tolist() == own.tolist()
        np.testing.assert_allclose(rows.mean(x, mask)[i], np.nanmean(x[own], axis=0))


def test_a_row_is_lit_wholly_or_in_part_and_hidden_cells_do_not_count(obs):
    rows, visible = rows_by(obs, "field"), np.array([True, True, True, True, False, False])
    selected = np.zeros(6, bool)
    assert rows.lit(selected, visible).tolist() == [0, 0]
    selected[[0, 2, 3]] = True
    assert rows.lit(selected, visible).tolist() == [1, 2]  # b's third cell is hidden
    selected[4] = True
    assert rows.lit(selected, ~visible).tolist() == [0, 2]


def test_a_row_without_cells_has_no_mean(obs):
    rows = rows_by(obs, "field")
    means = rows.mean(np.ones((6, 2)), (obs["field"] == "b").to_numpy())
    assert np.isnan(means[0]).all()
    assert (means[1] == 1).all()
    empty = rows_by(obs.iloc[:0], "field")
    assert len(empty) == 0
    assert empty.members(np.zeros(0, bool)) == []


def test_one_value_written_as_number_and_as_word_is_one_row():
    rows = rows_by(pd.DataFrame({"w": pd.Series([1, "1", None, "b"], dtype=object)}), "w")
    assert rows.names == ("1", "b")
    assert rows.codes.tolist() == [0, 0, -1, 1]


def test_columns_that_can_be_rows(obs):
    assert row_columns(obs, ["drug", "dose", "area_px", "good", "has_dino", "gone"]) == [
        "group", "field", "drug", "dose",
    ]  # fmt: skip
    assert row_columns(obs, ["drug"], most=1) == []
    numbers = pd.DataFrame({"n": np.arange(1000) % 200, "w": (np.arange(1000) % 200).astype(str)})
    assert row_columns(numbers, ["n", "w"]) == ["w"]  # that many numbers are measured


def test_words():
    assert [row_words(by) for by in ("", "field", "group", "dose_rank")] == [
        "cells", "fields", "groups", "by dose rank",
    ]  # fmt: skip
    assert rows_words(1, "group") == "1 group"
    assert rows_words(1234, "") == "1,234 cells"
    assert rows_words(9, "dose_rank") == "9 values of dose rank"
