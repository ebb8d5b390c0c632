import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from napari_cellrep.analysis.comparison import probe_several
from napari_cellrep.models._probe import head, head_probabilities


def test_the_head_is_the_papers():
    net = head(768, 19)
    assert sum(p.numel() for p in net.parameters()) == 529_939  # models.md §3.7
    assert [m.p for m in net if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert [m.out_features for m in net if isinstance(m, nn.Linear)] == [512, 256, 19]


@pytest.fixture
def rings():
    """Two classes no straight border can part, and a rare one; a cell may have all three."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 6))
    member = np.stack([x[:, 0] * x[:, 1] > 0, (x[:, :2] ** 2).sum(axis=1) < 1, x[:, 3] > 1.7], axis=1)
    return (x * (1, 5, 100, 1, 1, 1) + (0, 50, 0, 0, 0, 0)).astype(np.float32), member


@pytest.mark.slow
def test_bent_borders_and_rare_classes_are_learned_and_repeated(rings):
    x, member = rings
    state = torch.random.get_rng_state()
    found = head_probabilities(x[:1000], member[:1000], x[1000:], epochs=40, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws change
    assert found.shape == (500, 3)
    assert ((found >= 0) & (found <= 1)).all()
    f1 = f1_score(member[1000:], found > 0.5, average=None)
    assert f1[:2].min() > 0.75
    assert (found[:, 2] > 0.5)[
        member[1000:, 2]
    ].mean() > 0.8  # classes are drawn evenly: the rare one is not lost
    assert np.array_equal(found, head_probabilities(x[:1000], member[:1000], x[1000:], epochs=40, seed=3))
    assert not np.array_equal(found, head_probabilities(x[:1000], member[:1000], x[1000:], epochs=40, seed=4))


def test_odd_input(rings):
    x, member = rings
    still = np.column_stack([x, np.full(len(x), 7.0)])
    assert np.isfinite(head_probabilities(still[:90], member[:90], still[90:95], epochs=1)).all()
    far = still[90:95].copy()
    far[:, -1] = 1e6  # says nothing: it did not vary where it was learned
    one, other = (head_probabilities(still[:90], member[:90], a, epochs=1) for a in (still[90:95], far))
    np.testing.assert_array_equal(one, other)
    assert not head_probabilities(x[:50], np.zeros((50, 2), bool), x[50:60]).any()


@pytest.mark.slow
def test_on_parts_held_out(rings):
    x, member = rings
    names = np.array(["a", "b", "c"], object)
    entries = np.array([";".join(names[own]) for own in member], object)
    found = probe_several(x, entries, np.arange(len(x)) % 10, head=head_probabilities, epochs=20)
    assert found.classes == ("a", "b", "c")
    assert found.macro_f1 == pytest.approx(f1_score(member, found.predicted, average="macro"))
    assert found.f1[0] > 0.8
