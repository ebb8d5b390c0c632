from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from napari_cellrep.analysis.retrieval import (
    enriched_pairs,
    enrichment,
    functional_standard,
    match_nearest,
    random_precision,
    retrieve,
    similarity,
    term_distances,
)
from napari_cellrep.specs import InputError


def wells(strong: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles of 12 control wells and of four compounds in five wells each; compound "weak" does nothing."""
    rng = np.random.default_rng(0)
    label = np.repeat(["dmso", "a", "b", "c", "weak"], [12, 5, 5, 5, 5])
    effect = {name: rng.normal(size=20) * strong for name in "abc"}
    x = rng.normal(size=(len(label), 20)) + np.stack([effect.get(n, np.zeros(20)) for n in label])
    return x, label, label == "dmso"


def test_average_precision_is_that_of_copairs():
    from copairs.map import average_precision, mean_average_precision

    x, label, control = wells(1.0)
    ours = retrieve(x, label, is_control=control, n_null=5000)
    meta = pd.DataFrame({"label": label, "is_control": control.astype(int)})
    theirs = average_precision(meta, x, ["label"], [], [], ["is_control"], progress_bar=False)
    theirs = theirs[theirs["is_control"] == 0]
    np.testing.assert_allclose(ours.precision[~control], theirs["average_precision"], atol=1e-6)
    whole = mean_average_precision(
        theirs, ["label"], null_size=5000, threshold=0.05, seed=0, progress_bar=False
    )
    whole = whole.set_index("label").loc[list(ours.labels)]
    np.testing.assert_allclose(ours.mean, whole["mean_average_precision"], atol=1e-6)
    np.testing.assert_allclose(ours.p, whole["p_value"], atol=0.03)


def test_compounds_with_an_effect_are_found_and_the_weak_one_is_not():
    x, label, control = wells()
    found = retrieve(x, label, is_control=control)
    assert found.labels == ("a", "b", "c", "weak")
    assert (found.p_fdr[:3] < 0.01).all()
    assert found.p[3] > 0.05
    apart = retrieve(x, label)
    assert dict(zip(apart.labels, apart.mean, strict=True))["a"] > 0.9


def test_pairs_that_share_a_plate_position_do_not_count():
    x, label, control = wells()
    position = np.arange(len(x))
    position[label == "a"] = 99  # all in one position
    found = retrieve(x, label, is_control=control, not_same=[position])
    assert "a" not in found.labels
    with pytest.raises(InputError, match="needs replicates"):
        retrieve(x, np.arange(len(x)).astype(str))


def test_a_tie_never_helps():
    x = np.ones((6, 3))
    found = retrieve(x, np.array(["a", "a", "b", "b", "b", "b"]), metric="euclidean")
    assert found.precision[0] == pytest.approx(1 / 5)


def test_random_precision_is_exact_for_one_positive():
    draws = random_precision(1, 4, 20_000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]), abs=0.01)


def test_nearest_of_another_compound_and_batch():
    x = np.array([[1, 0.0], [1, 0.1], [1, 0.2], [0, 1.0], [0.1, 1], [0, 0.9]])
    moa = np.array(["p", "p", "p", "q", "q", ""])
    compound = np.array(["1", "1", "2", "3", "4", "5"])
    found = match_nearest(x, moa, [compound])
    assert found.predicted.tolist() == ["p", "p", "p", "q", "q", ""]
    assert (found.accuracy, found.n) == (1.0, 5)
    assert found.chance == pytest.approx(np.mean([1 / 3, 1 / 3, 2 / 4, 1 / 4, 1 / 4]))
    batch = np.array(["x", "x", "x", "y", "z", "y"])  # "p" of another batch does not exist
    assert match_nearest(x, moa, [compound, batch]).predicted.tolist() == ["q", "q", "q", "q", "q", ""]
    with pytest.raises(InputError, match="No profile has a neighbour"):
        match_nearest(x, moa, [np.zeros(6)])


def test_most_similar_pairs_share_a_mechanism():
    x, label, _ = wells()
    use = np.isin(label, ["a", "b", "c"])
    s = similarity(x[use])
    shared = label[use][:, None] == label[use][None]
    found = enriched_pairs(s, shared, top=0.2)
    assert found.p < 1e-6
    assert found.n_top == round(0.2 * found.n_pairs)
    assert found.n_top_shared == pytest.approx(found.n_top, abs=2)
    shuffled = np.random.default_rng(1).permutation(label[use])
    assert enriched_pairs(s, shuffled[:, None] == shuffled[None], top=0.2).p > 0.01
    with pytest.raises(InputError, match="leaves none"):
        enriched_pairs(s[:3, :3], shared[:3, :3])


def proteins() -> tuple[np.ndarray, list[str], dict[str, list[str]]]:
    rng = np.random.default_rng(4)
    names = [f"P{i}" for i in range(30)]
    sets = {
        "golgi": names[:8],
        "er": names[8:16],
        "nucleus": [*names[16:22], names[0]],
        "alone": ["P29"],
        "other": ["Q1"],
    }
    middle = {name: rng.normal(size=15) for name in sets}
    x = rng.normal(size=(30, 15)) * 0.7
    for name in ("golgi", "er", "nucleus"):
        for member in sets[name]:
            x[names.index(member)] += middle[name]
    return x, names, sets


def test_functional_standard_is_what_its_parts_say():
    from sklearn.metrics import average_precision_score

    x, names, sets = proteins()
    found = functional_standard(x, names, sets)
    assert found.n_items == 22
    own = [{k for k, v in sets.items() if n in v} for n in names[:22]]
    pairs = [(i, j) for i in range(22) for j in range(i + 1, 22)]
    truth = [bool(own[i] & own[j]) for i, j in pairs]
    value = [np.corrcoef(x[i], x[j])[0, 1] for i, j in pairs]
    assert found.average_precision == pytest.approx(average_precision_score(truth, value))
    assert found.chance == pytest.approx(np.mean(truth))
    assert found.n_shared == sum(truth)
    best = 0.0
    for t in value:
        tp = sum(a and b >= t for a, b in zip(truth, value, strict=True))
        p, r = tp / sum(b >= t for b in value), tp / sum(truth)
        best = max(best, 1.25 * p * r / (0.25 * p + r) if p + r else 0)
    assert found.f_half == pytest.approx(best)
    assert found.mutual_information > 0.4
    noise = functional_standard(np.random.default_rng(0).normal(size=x.shape), names, sets)
    assert abs(noise.mutual_information) < 0.2
    assert noise.average_precision == pytest.approx(noise.chance, abs=0.1)
    with pytest.raises(InputError, match="Names have to be"):
        functional_standard(x, [f"X{i}" for i in range(30)], sets)


def test_enrichment_is_hypergeometric_with_fdr_over_all_sets():
    _, names, sets = proteins()
    table = pd.DataFrame(enrichment(names[:6], names, sets)).set_index("set")
    assert table.index[0] == "golgi"
    assert table.loc["golgi", "p"] == pytest.approx(hypergeom.sf(5, 30, 8, 6))
    assert table.loc["golgi", "fold"] == pytest.approx(6 / (8 * 6 / 30))
    assert table.loc["golgi", "p_fdr"] == pytest.approx(
        4 * table.loc["golgi", "p"]
    )  # four sets are in the background
    assert table.loc["nucleus", "members"] == "P0"
    assert "er" not in table.index
    for chosen, words in (([], "Nothing is chosen"), (["Z9"], "not in the background")):
        with pytest.raises(InputError, match=words):
            enrichment(chosen, names, sets)
    with pytest.raises(InputError, match="different kinds"):
        enrichment(names[:2], names, {"a": ["Q"]})


@pytest.mark.parametrize("normalise", ["sd", "ratio"])
def test_groups_of_one_term_are_near(normalise):
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(9), 20)
    z = rng.normal(size=(180, 4)) + np.repeat(rng.normal(size=(3, 4)) * 2, 60, axis=0)
    terms = {"one": [0, 1, 2], "two": [3, 4, 5], "three": [6, 7, 8]}
    found = term_distances(z, group, terms, n_pairs=50, normalise=normalise)
    assert (found.value < 0).all()
    assert found.overall == pytest.approx(found.value.mean())
    mixed = term_distances(z, group, {"one": [0, 3, 6], "two": [1, 4, 7]}, n_pairs=200, normalise=normalise)
    assert mixed.overall > found.overall
    line = np.array([0, 0, 1] * 3)
    assert np.isfinite(term_distances(z, group, terms, n_pairs=50, pairs_of=(line, False)).overall)
    with pytest.raises(InputError, match="two terms with a pair"):
        term_distances(z, group, {"one": [0], "two": [3, 4]}, n_pairs=5)
