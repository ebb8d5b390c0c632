import numpy as np
import pandas as pd
import pytest

from napari_cellrep.segmenters import centres, nuclei
from napari_cellrep.specs import Channel, InputError

DNA = [Channel("DNA", "nucleus")]


def test_one_disc_in_every_drawn_nucleus(drawn):
    image, truth = drawn
    labels = centres.segment(image[1:], DNA, centres.Config(radius_px=3))
    assert labels.max() == 12
    assert set(np.bincount(labels.ravel())[1:]) == {29}  # pixels of a disc of radius 3
    owners = {int(np.bincount(truth[labels == k]).argmax()) for k in range(1, 13)}
    assert owners == set(range(1, 13))


def test_centres_of_a_real_well_lie_in_its_nuclei(well, channels):
    labels = centres.segment(well, channels, centres.Config(radius_px=2))
    outlined = nuclei.segment(well, channels, nuclei.Config())
    hit = [outlined[labels == k].any() for k in range(1, labels.max() + 1)]
    assert 0.8 * outlined.max() < labels.max() < 1.2 * outlined.max()
    assert np.mean(hit) > 0.9


def table(path, rows, columns=("field", "y", "x")):
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return centres.Config(csv=str(path), radius_px=2)


def test_coordinates_of_the_field_are_read_in_their_order(tmp_path):
    config = table(tmp_path / "c.csv", [("A", 20, 5), ("B", 1, 1), ("A", 3.4, 30.0)])
    labels = centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config, field_id="A")
    assert (labels[20, 5], labels[3, 30], labels.max()) == (1, 2, 2)
    assert centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config, field_id="C").max() == 0


def test_field_ids_that_look_like_numbers_are_text(tmp_path):
    config = table(tmp_path / "c.csv", [("001", 20, 5)])
    assert centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config, field_id="001").max() == 1


def test_a_table_for_one_field_needs_no_field(tmp_path):
    config = table(tmp_path / "c.csv", [(20, 5), (21, 7)], ("y", "x"))
    labels = centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config)
    assert labels.max() == 2  # their discs meet: each pixel goes to the nearer
    assert labels[20, 5] == 1
    assert labels[21, 7] == 2


@pytest.mark.parametrize(
    ("rows", "columns", "field", "says"),
    [
        ([("A", 1, 2)], ("field", "row", "x"), "A", "no column 'y'"),
        ([("A", 1, 2)], ("field", "y", "x"), "", "field's id"),
        ([("A", 1, 2), ("A", "top", 2)], ("field", "y", "x"), "A", "line 3"),
        ([("A", 1, 50)], ("field", "y", "x"), "A", "inside the image"),
    ],
)
def test_tables_that_cannot_be_used_are_a_sentence(tmp_path, rows, columns, field, says):
    config = table(tmp_path / "c.csv", rows, columns)
    with pytest.raises(InputError, match=says):
        centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config, field_id=field)


def test_a_missing_table_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no table of centres"):
        centres.segment(np.zeros((1, 9, 9)), DNA, centres.Config(csv=str(tmp_path / "no.csv")))
