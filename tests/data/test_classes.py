import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data.classes import class_words, classes_of, label_columns
from napari_cellrep.specs import InputError


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({k: list(v) for k, v in columns.items()})


def test_numbers_are_ordered_by_size_and_words_by_the_alphabet():
    obs = table(dose=[10, 9, 2] * 4, name=["b", "a", "c"] * 4)
    assert classes_of(obs, "dose", "DeepLoc").names == ("2", "9", "10")
    found = classes_of(obs, "name", "DeepLoc")
    assert found.names == ("a", "b", "c")
    assert list(found.codes[:3]) == [1, 0, 2]
    assert found.note == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0, np.nan], ["1", "2", ""]),
        ([0.5, 2.0, np.nan], ["0.5", "2.0", ""]),
        (pd.Categorical(["x", None, " y "]), ["x", "", "y"]),
        ([True, False, None], ["True", "False", ""]),
        (["nan", "", "z"], ["", "", "z"]),
    ],
)
def test_class_names_of_every_kind_of_column(values, words):
    assert list(class_words(pd.Series(values))) == words


def test_only_the_cells_to_train_on_count():
    obs = table(kind=["a", "b", "c", ""] * 5, good=[True] * 16 + [False] * 4)
    keep = np.arange(20) < 18
    found = classes_of(obs, "kind", "DeepLoc", keep)
    assert (np.flatnonzero(found.codes >= 0) < 16).all()
    assert list(np.bincount(found.codes + 1)) == [8, 4, 4, 4]
    assert found.note == "4 cells without kind are left out."
    assert (classes_of(obs, "kind", "DeepLoc", keep, include_flagged=True).codes >= 0).sum() == 14
    with pytest.raises(InputError, match="no class with at least 9 cells among the 16"):
        classes_of(obs, "kind", "DeepLoc", keep, min_cells=9)


def test_what_is_measured_is_not_offered_as_a_class():
    obs = table(
        field=["f", "g"], label=[1, 2], box_y0=[0, 1], q_focus=[0.1, 0.2], good=[True, False], one=["x", "x"],
        compound=["A", "B"], dose_rank=[0, 5],
    )  # fmt: skip
    assert label_columns(obs) == ["compound", "dose_rank"]
    assert label_columns(table(name=[str(i) for i in range(201)])) == []
