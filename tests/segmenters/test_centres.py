import numpy as np
import pandas as pd
import pytest

from napari_cellrep.segmenters import Source, centres, nuclei
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


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("Label,X,Y", "1,5,20"),
        ("Nuclei_Location_Center_X,Nuclei_Location_Center_Y", "5,20"),
        ("ImageNumber,ObjectNumber,Location_Center_X,Location_Center_Y", "1,1,5,20"),
        ("index,axis-0,axis-1", "0,20,5"),
        ("Image;Centroid X µm;Centroid Y µm", "A.tif;2,5;10,0"),
        ("x_um\ty_um", "2.5\t10"),
        ("FileName_DNA,Location_Center_X,Location_Center_Y", "A.tif,5,20"),
    ],
)
def test_columns_of_other_programs_are_known(tmp_path, heading, row):
    (tmp_path / "c.csv").write_text(f"{heading}\n{row}\n", encoding="utf-8")
    labels = centres.segment(
        np.zeros((1, 40, 50), np.uint8), DNA, centres.Config(csv=str(tmp_path / "c.csv")), field_id="week1_A",
        source=Source((tmp_path / "A.tif",), 0.5),
    )  # fmt: skip
    assert labels.max() == 1
    assert labels[20, 5] == 1


def test_cellprofilers_image_numbers_are_looked_up_in_its_table_of_images(tmp_path):
    (tmp_path / "Nuclei.csv").write_text(
        "ImageNumber,ObjectNumber,Location_Center_X,Location_Center_Y\n1,1,5,20\n2,1,9,9\n2,2,30,30\n"
    )
    config, image = centres.Config(csv=str(tmp_path / "Nuclei.csv")), np.zeros((1, 40, 50), np.uint8)
    with pytest.raises(InputError, match=r"Image\.csv"):
        centres.segment(image, DNA, config, field_id="B", source=Source((tmp_path / "B.tif",)))
    (tmp_path / "Image.csv").write_text(
        "ImageNumber,FileName_DNA,FileName_GFP\n1,A.tif,Ag.tif\n2,B.tif,Bg.tif\n"
    )
    for name, n in (("A", 1), ("B", 2), ("C", 0)):
        labels = centres.segment(
            image, DNA, config, field_id=name, source=Source((tmp_path / f"{name}.tif",))
        )
        assert labels.max() == n


def test_micrometres_need_a_pixel_size(tmp_path):
    (tmp_path / "c.csv").write_text("x,y\n5,20\n")
    config = centres.Config(csv=str(tmp_path / "c.csv"), units="um")
    with pytest.raises(InputError, match="pixel size of field A"):
        centres.segment(np.zeros((1, 40, 50), np.uint8), DNA, config, field_id="A")
    scaled = centres.segment(
        np.zeros((1, 80, 50), np.uint8), DNA, config, field_id="A", source=Source((), 0.5)
    )
    assert scaled[40, 10] == 1


def test_an_empty_or_broken_table_is_a_sentence(tmp_path):
    for text in ("", "\n\n"):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(InputError, match=r"cannot be read as CSV|no column"):
            centres.segment(np.zeros((1, 9, 9)), DNA, centres.Config(csv=str(tmp_path / "c.csv")))
