from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, silhouette_score

from napari_cellrep.analysis.comparison import (
    PROBES,
    compare,
    compare_several,
    mantel,
    pair_modalities,
    probe,
    probe_several,
    replicate_agreement,
    shifted_groups,
    silhouette,
)
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.specs import InputError


def cells(n_fields: int = 8, n: int = 20) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two embeddings of the same cells: one knows the class, the other knows the field."""
    rng = np.random.default_rng(0)
    field = np.repeat(np.arange(n_fields), n)
    label = np.where(np.arange(n_fields * n) % 2, "er", "golgi")
    x = rng.normal(size=(len(field), 6))
    good = x + (label == "er")[:, None] * 2.0
    bad = x + rng.normal(size=(n_fields, 6))[field] * 5
    return {"bad": bad, "good": good}, label, field.astype(str)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROBES)
def test_every_probe_knows_what_is_there_and_not_what_is_not(kind):
    embeddings, label, field = cells()
    assert probe(embeddings["good"], label, field, kind=kind).balanced_accuracy > 0.9
    # A class that is a field's is known within the field only.
    of_field = np.where(np.isin(field, ["0", "1", "2", "3"]), "x", "y")
    assert probe(embeddings["bad"], of_field, None, kind=kind).balanced_accuracy > 0.9
    assert probe(embeddings["bad"], of_field, field, kind=kind).balanced_accuracy < 0.8
    with pytest.raises(InputError, match="two classes"):
        probe(embeddings["good"], np.repeat("a", len(label)), field, kind=kind)
    if kind != "knn":
        with pytest.raises(InputError, match="Nothing can be held out"):
            probe(embeddings["good"], label, np.zeros(len(label)), kind=kind)


def test_models_side_by_side_with_intervals_over_fields():
    embeddings, label, field = cells()
    embeddings["twin"] = embeddings["good"] * 3
    found = compare(embeddings, label, field)
    table = pd.DataFrame(found.rows).set_index("embedding")
    assert set(table.index[:2]) == {"good", "twin"}
    assert table.index[2] == "bad"
    assert (found.n_cells, found.n_parts) == (160, 8)
    assert (
        (table["low"] <= table["balanced_accuracy"]) & (table["balanced_accuracy"] <= table["high"])
    ).all()
    assert table.loc["good", "silhouette"] == pytest.approx(
        silhouette_score(z_score(embeddings["good"]), label), abs=1e-6
    )
    pairs = pd.DataFrame(found.pairs).set_index(["better", "worse"])
    first, second = table.index[:2]
    assert pairs.loc[(first, second), "difference"] == 0
    assert pairs.loc[(first, second), "p"] == 1
    assert pairs.loc[(first, "bad"), "p"] < 0.05
    assert pairs.loc[(first, "bad"), "low"] > 0
    with pytest.raises(InputError, match="one part"):
        compare(embeddings, label, np.zeros(160))
    with pytest.raises(InputError, match="no embedding"):
        compare({}, label, field)
    with pytest.raises(InputError, match="silhouette needs"):
        silhouette(embeddings["good"], np.arange(160))


def test_mantel_is_pearsons_over_pairs_and_chance_is_chance():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 5))
    a, b = x @ x.T, (x + rng.normal(size=x.shape) * 0.3) @ (x + rng.normal(size=x.shape) * 0.3).T
    b = (b + b.T) / 2
    found = mantel(a, b, n_draws=500)
    i, j = np.triu_indices(20, 1)
    assert found.r == pytest.approx(pearsonr(a[i, j], b[i, j]).statistic)
    assert found.p < 0.01
    c = rng.normal(size=(20, 20))
    assert mantel(a, c + c.T, n_draws=500).p > 0.01
    for other, words in ((a[:5], "square"), (np.ones((20, 20)), "same value"), (a[:3, :3], "same items")):
        with pytest.raises(InputError, match=words):
            mantel(a, other)
    with pytest.raises(InputError, match="four items"):
        mantel(a[:3, :3], a[:3, :3])


def test_two_modalities_of_the_same_items_find_one_another():
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(40, 2))
    a = hidden @ rng.normal(size=(2, 6)) + rng.normal(size=(40, 6)) * 0.05
    b = hidden @ rng.normal(size=(2, 4)) + rng.normal(size=(40, 4)) * 0.05
    found = pair_modalities(a, b)
    assert found.accuracy > 0.4
    assert found.chance == 1 / 40
    assert (found.correlation > 0.95).all()
    assert pair_modalities(a, rng.permutation(b)).accuracy < 0.3
    with pytest.raises(InputError, match="same items"):
        pair_modalities(a, b[:9])
    with pytest.raises(InputError, match="5 components"):
        pair_modalities(a, b, 5)


def test_replicates_agree_where_there_is_an_effect():
    rng = np.random.default_rng(3)
    item = np.repeat([f"i{n}" for n in range(10)], 3)
    x = rng.normal(size=(30, 50))
    x[:15] += np.repeat(rng.normal(size=(5, 50)) * 2, 3, axis=0)
    found = replicate_agreement(x, item)
    assert set(found.items[:5]) == {f"i{n}" for n in range(5)}
    assert found.share == pytest.approx(0.5, abs=0.11)
    own = np.corrcoef(x[:3])[np.triu_indices(3, 1)]
    assert found.correlation[found.items.index("i0")] == pytest.approx(np.median(own))
    with pytest.raises(InputError, match="two replicates"):
        replicate_agreement(x, np.arange(30))
    with pytest.raises(InputError, match="one item"):
        replicate_agreement(x, np.repeat("a", 30))


def test_proteins_that_moved_are_told_from_those_that_did_not():
    rng = np.random.default_rng(4)
    group, condition = np.repeat(["moved", "still", "few"], [80, 80, 12]), np.tile(["a", "b"], 86)
    z = rng.normal(size=(172, 5))
    z[(group == "moved") & (condition == "b")] += 1
    table = pd.DataFrame(shifted_groups(z, group, condition, "a", "b")).set_index("group")
    assert table.index.tolist() == ["moved", "still"]
    assert table.loc["moved", "p_fdr"] < 0.01
    assert table.loc["still", "p"] > 0.01
    means = [z[(group == "moved") & (condition == c)].mean(axis=0) for c in "ab"]
    assert table.loc["moved", "shift"] == pytest.approx(
        np.sqrt(((means[0] - means[1]) ** 2).mean()), rel=1e-4
    )
    assert (table[["n_a", "n_b"]] == 40).all().all()
    with pytest.raises(InputError, match="No group has 10 cells"):
        shifted_groups(z, group, condition, "a", "c")


def straight(x, member, ask, *, epochs, seed):
    """A head of straight borders: what is tested here is how a head is asked and judged."""
    return np.stack([LogisticRegression().fit(x, own).predict_proba(ask)[:, 1] for own in member.T], axis=1)


def test_several_classes_per_cell_are_learned_on_parts_not_seen():
    rng = np.random.default_rng(0)
    part = np.repeat(np.arange(12), 30)
    member = rng.random((360, 3)) < (0.5, 0.3, 0.1)
    member[~member.any(axis=1), 0] = True
    names = np.array(["er", "golgi", "nucleus"])
    entries = np.array(["; ".join(names[m]) for m in member], object)
    entries[part == 5] = [e + ";rods" for e in entries[part == 5]]
    x = member @ rng.normal(size=(3, 20)) * 2 + rng.normal(size=(360, 20))
    found = probe_several(x, entries, part, head=straight)
    assert found.classes == ("er", "golgi", "nucleus")
    assert found.left_out == ("rods",)
    assert found.macro_f1 == pytest.approx(f1_score(member, found.predicted, average="macro"))
    assert found.micro_f1 == pytest.approx(f1_score(member, found.predicted, average="micro"))
    np.testing.assert_allclose(found.f1, f1_score(member, found.predicted, average=None))
    assert found.macro_f1 > 0.85
    side, left_out = compare_several(
        {"noise": rng.normal(size=(360, 5)), "good": x}, entries, part, head=straight, n_draws=50
    )
    assert [r["embedding"] for r in side.rows] == ["good", "noise"]
    assert side.rows[0]["low"] <= side.rows[0]["macro_f1"] <= side.rows[0]["high"]
    assert side.pairs[0]["p"] < 0.05
    assert left_out == ("rods",)
    with pytest.raises(InputError, match="two classes with cells in two parts"):
        probe_several(x, np.where(part == 1, "a", "b"), part, head=straight)
    with pytest.raises(InputError, match="All cells are of one part"):
        probe_several(x, entries, np.zeros(360), head=straight)
