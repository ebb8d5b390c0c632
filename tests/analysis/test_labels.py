import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from napari_cellrep.analysis import labels
from napari_cellrep.specs import InputError


def test_no_field_is_on_both_sides_and_every_class_is_always_learned():
    rng = np.random.default_rng(0)
    part = np.array([f"f{i}" for i in rng.integers(0, 12, 300)])
    label = np.where(np.isin(part, ["f3", "f7"]) & (rng.random(300) < 0.5), "rare", "usual")
    split = labels.split_by_part(label, part)
    assert sorted(np.concatenate(split.tests)) == list(range(300))
    for test in split.tests:
        rest = np.setdiff1d(np.arange(300), test)
        assert not set(part[test]) & set(part[rest])
        assert set(label[rest]) == {"rare", "usual"}


def test_a_fold_with_all_of_a_class_gives_way_to_one_field_at_a_time():
    # Two folds of two fields each: GroupKFold deals by size, so both fields of "b" share a fold.
    part = np.repeat(["f0", "f1", "f2", "f3"], [4, 3, 2, 1])
    label = np.array(["a"] * 4 + ["b"] * 5 + ["a"])
    split = labels.split_by_part(label, part, n_folds=2)
    assert [set(part[t]) for t in split.tests] == [{"f0"}, {"f1"}, {"f2"}, {"f3"}]


def test_a_class_in_one_field_cannot_be_judged():
    split = labels.split_by_part(np.array(["a", "a", "b", "b"]), np.array(["x", "y", "x", "x"]), what="well")
    assert split.tests == ()
    assert "“b” are in one well" in split.why_not
    assert "“a”" not in split.why_not


@pytest.mark.parametrize("kind", labels.CLASSIFIERS)
def test_it_learns_what_is_there_and_nothing_where_there_is_nothing(kind):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 240)
    for shift, low, high in ((2.5, 0.9, 1.0), (0.0, 0.2, 0.47)):
        x = rng.normal(size=(240, 20)) + shift * np.eye(20)[label]
        found = labels.probabilities(labels.make_classifier(kind), x[:120], label[:120], x[120:], 3)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        counts = labels.confusion(label[120:], found.argmax(axis=1), 3)
        assert low <= labels.balanced_accuracy(counts) <= high


def test_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    label, predicted = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    counts = labels.confusion(label, predicted, 4)
    np.testing.assert_array_equal(counts, confusion_matrix(label, predicted))
    assert labels.balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(label, predicted))
    label[:10] = -1
    assert labels.confusion(label, predicted, 4).sum() == 90


def test_an_unknown_classifier_is_refused():
    with pytest.raises(InputError, match=r"logistic or forest; got 'svm'"):
        labels.make_classifier("svm")
