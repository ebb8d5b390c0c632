from __future__ import annotations

import gzip

import pytest

from napari_cellrep.data.annotations import read_item_sets
from napari_cellrep.specs import InputError

GAF = (
    "!gaf-version: 2.2\n"
    "SGD\tS1\tNUP49\tpart_of\tGO:1\tref\tIDA\t\tC\n"
    "SGD\tS2\tSEC61\tNOT|part_of\tGO:1\tref\tIDA\t\tC\n"
    "SGD\tS2\tSEC61\tinvolved_in\tGO:2\tref\tIDA\t\tP\n"
)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.gmt", "golgi\tdescribed\tA\tB\tA\ner\t\tC\n", {"golgi": ["A", "B"], "er": ["C"]}),
        ("a.gaf", GAF, {"GO:1": ["NUP49"], "GO:2": ["SEC61"]}),
        ("a.csv", "\ufeffprotein,place\nA,golgi; er\nB,er\nC,\n", {"golgi": ["A"], "er": ["A", "B"]}),
        ("a.tsv", "protein\tplace\nA\tgolgi\n\n", {"golgi": ["A"]}),
        ("a.csv", "protein;place\nA;golgi\n", {"golgi": ["A"]}),
    ],
)
def test_sets_are_read_from_every_kind(tmp_path, name, text, found):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_item_sets(path) == found
    packed = tmp_path / f"{name}.gz"
    with gzip.open(packed, "wt", encoding="utf-8") as f:
        f.write(text)
    assert read_item_sets(packed) == found


def test_one_aspect_of_a_gaf(tmp_path):
    path = tmp_path / "a.gaf"
    path.write_text(GAF)
    assert read_item_sets(path, "P") == {"GO:2": ["SEC61"]}
    with pytest.raises(InputError, match="P, F and C"):
        read_item_sets(path, "X")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"x", "no known kind"),
        ("a", b"x", "no known kind"),
        ("a.gmt", b"golgi\tonly\n", "has 2 parts"),
        ("a.gaf", b"SGD\tS1\n", "has 2 columns"),
        ("a.csv", b"protein\nA\n", "one column"),
        ("a.csv", b"protein,place\n", "holds no set"),
        ("a.csv", b"", "holds no set"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.gmt.gz", b"not compressed", "cannot be read"),
    ],
)
def test_files_that_hold_no_sets_are_said(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_item_sets(path)
    with pytest.raises(InputError, match="no file of sets"):
        read_item_sets(tmp_path / "none.gmt")
