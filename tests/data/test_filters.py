import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data.filters import choices_by_value, has_value, matching
from napari_cellrep.specs import InputError

OBS = pd.DataFrame(
    {
        "group": pd.Categorical(["A01", "A01", "B02", "C03"]),
        "dose_rank": [0, 1, 2, np.nan],
        "my column": [1.0, 2.0, 3.0, 4.0],
        "good": [True, False, True, True],
    }
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("dose_rank < 2", [1, 1, 0, 0]),
        ("group == 'A01'", [1, 1, 0, 0]),
        ("group in ['B02', 'Z99']", [0, 0, 1, 0]),
        ("group >= 'B'", [0, 0, 1, 1]),
        ("`my column` > 1 and not group == 'C03'", [0, 1, 1, 0]),
        ("good", [1, 0, 1, 1]),
        ("  dose_rank < 1  ", [1, 0, 0, 0]),
    ],
)
def test_cells_that_fit(expression, expected):
    np.testing.assert_array_equal(matching(OBS, expression), np.array(expected, bool))


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("dose < 2", "no column dose; columns are group, dose_rank"),
        ("dose_rank <", "cannot be read"),
        ("dose_rank", "yes or no"),
        ("dose_rank + 1", "yes or no"),
        ("1 < 2", "does not name a column"),
        ("@OBS.good", "."),
        ("dose_rank < 'a'", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(expression, says):
    with pytest.raises(InputError, match=says):
        matching(OBS, expression)


@pytest.mark.parametrize(("expression", "rows"), [
    ("place has 'cytosol'", [0, 1]), ("place only 'cytosol'", [0]), ("place has 'cytosol;nucleus'", [1]),
    ("place only 'nucleus; cytosol'", [1]), ("place has 'Cytosol' and not place has 'nucleus'", [0]),
    ('`the place` has "nucleus" and dose > 1', [2]), ("place has 'cyto'", []), ("not place has 'nucleus'", [0, 3]),
])  # fmt: skip
def test_columns_with_several_values(expression, rows):
    places = ["cytosol", "nucleus; cytosol", "nucleus", None]
    obs = pd.DataFrame({"place": pd.Categorical(places), "the place": places, "dose": [1, 1, 2, 2]})
    assert np.flatnonzero(matching(obs, expression)).tolist() == rows
    assert list(obs) == ["place", "the place", "dose"]


def test_columns_with_several_values_mistyped():
    obs = pd.DataFrame({"place": ["a"]})
    with pytest.raises(InputError, match="no column plaec; columns are place"):
        matching(obs, "plaec has 'a'")
    with pytest.raises(InputError, match="does not say which value"):
        matching(obs, "place has ' ; '")
    with pytest.raises(InputError, match="The filter 'place has a' cannot be read"):
        matching(obs, "place has a")


def test_cells_are_told_apart_by_one_of_several_values():
    obs = pd.DataFrame({
        "place": pd.Categorical(["cytosol", "cytosol; nucleus", "Nucleus", None]), "well": ["A", "B", "C", "D"],
        "flags": ["", "edge;focus", "edge", ""], "n": [1, 2, 3, 4],
    })  # fmt: skip
    assert choices_by_value(obs, obs.columns) == [
        "place has cytosol", "place has nucleus", "flags has edge", "flags has focus",
    ]  # fmt: skip
    assert has_value(obs, "place has cytosol").tolist() == [True, True, False, None]
    assert has_value(obs, "place has nucleus").tolist() == [False, True, True, None]
    assert has_value(obs, "flags has edge").tolist() == [False, True, True, False]
    for name in ("place", "well of A", "other has A", ""):
        assert has_value(obs, name) is None
