from __future__ import annotations

import numpy as np
import pytest

from napari_cellrep.models._sampling import Sampler, hold_out
from napari_cellrep.specs import InputError


def test_every_cell_is_source_once_and_targets_are_others_of_its_group():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([7, 3, 11], [30, 2, 25]))
    sampler = Sampler(groups, ("source", "target"), 8, 2, 0)
    for epoch in range(20):
        batches = sampler.epoch(epoch)
        source = np.concatenate([b["source"] for b in batches])
        target = np.concatenate([b["target"] for b in batches])
        assert sorted(source) == list(range(57))
        assert (groups[source] == groups[target]).all()
        assert (source != target).all()
        assert max(len(b["source"]) for b in batches) <= 8


def test_targets_are_drawn_evenly():
    sampler = Sampler(np.zeros(6, int), ("source", "target"), 6, 2, 0)
    counts = np.zeros((6, 6), int)
    for epoch in range(3000):
        (batch,) = sampler.epoch(epoch)
        np.add.at(counts, (batch["source"], batch["target"]), 1)
    assert (np.diag(counts) == 0).all()
    others = counts[~np.eye(6, dtype=bool)]
    assert abs(others - 600).max() < 5 * np.sqrt(600 * 0.8)


def test_epochs_differ_and_repeat_with_the_seed():
    def order(seed: int, epoch: int) -> list[int]:
        batches = Sampler(np.zeros(50, int), ("source", "target"), 8, 2, seed).epoch(epoch)
        return np.concatenate([np.r_[b["source"], b["target"]] for b in batches]).tolist()

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)


def test_groups_of_one_are_left_out_with_a_sentence_and_none_left_is_refused():
    sampler = Sampler(np.array([0, 0, 1, 2, 2, 2]), ("source", "target"), 4, 2, 0)
    assert sorted(sampler.rows) == [0, 1, 3, 4, 5]
    assert "1 of 3 groups" in sampler.note
    assert "1 cells" in sampler.note
    assert sorted(Sampler(sampler.rows * 0, ("source", "target"), 4, 3, 0).rows) == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="No pair"):
        Sampler(np.arange(5), ("source", "target"), 4, 2, 0)
    with pytest.raises(InputError, match="fewer than 4 cells"):
        Sampler(np.array([0, 0, 0]), ("source", "target"), 4, 4, 0)
    with pytest.raises(InputError, match="no cells"):
        Sampler(np.array([], int), ("x",), 4, 2, 0)


def test_groups_are_drawn_evenly_if_asked():
    groups = np.repeat([0, 1, 2], [40, 8, 3])
    sampler = Sampler(groups, ("source", "target"), 10, 2, 0, balanced=True)
    for epoch in (0, 1):
        batches = sampler.epoch(epoch)
        source, target = (np.concatenate([b[k] for b in batches]) for k in ("source", "target"))
        assert np.bincount(groups[source]).tolist() == [17, 17, 17]
        assert (groups[source] == groups[target]).all()
        assert (source != target).all()
        assert len(batches) == 6
        assert len(np.unique(source[groups[source] == 0])) == 17  # none twice, where there are enough
    assert (sampler.epoch(0)[0]["source"] != sampler.epoch(1)[0]["source"]).any()


def test_single_cells_need_no_group():
    batches = Sampler(np.arange(10), ("x",), 4, 2, 0).epoch(0)
    assert [len(b["x"]) for b in batches] == [4, 3, 3]
    assert sorted(np.concatenate([b["x"] for b in batches])) == list(range(10))


def test_whole_images_are_held_out_and_their_groups_are_learned_from(spread):
    held, words = hold_out(spread.groups, spread.fields, 0.15, True, 0)
    assert not np.isin(spread.fields[~held], spread.fields[held]).any()
    assert np.isin(spread.groups[held], spread.groups[~held]).all()
    assert len(np.unique(spread.groups[held])) == 4  # one image of each, not four of one
    assert 0.1 < held.mean() < 0.2
    assert f"{held.sum()} cells of 4 images" in words
    assert (held == hold_out(spread.groups, spread.fields, 0.15, True, 0)[0]).all()
    assert (held != hold_out(spread.groups, spread.fields, 0.15, True, 1)[0]).any()


def test_groups_in_one_image_give_single_cells_and_small_ones_none():
    groups = np.repeat(np.arange(5), [30, 30, 30, 12, 2])
    held, words = hold_out(groups, groups, 0.1, True, 0)
    assert np.bincount(groups[held], minlength=5).tolist() == [3, 3, 3, 0, 0]  # a pair needs two
    assert "single cells" in words
    assert "recognises images" in words
    held, words = hold_out(np.arange(40), np.zeros(40), 0.1, True, 0)
    assert not held.any()
    assert "No cell is held out" in words
    assert hold_out(np.arange(40), np.zeros(40), 0.1, False, 0)[0].sum() == 4  # single cells need no group


def test_held_out_cells_are_never_learned_from_and_judged_in_pairs_of_their_own(spread):
    sampler = Sampler(spread.groups, ("source", "target"), 8, 2, 0, spread.fields, 0.25)
    for epoch in range(5):
        rows = np.concatenate([np.r_[b["source"], b["target"]] for b in sampler.epoch(epoch)])
        assert not np.isin(rows, sampler.validation).any()
    batches = sampler.judging(sampler.validation, 8)
    source, target = (np.concatenate([b[k] for b in batches]) for k in ("source", "target"))
    assert sorted(source) == sorted(sampler.validation)
    assert np.isin(target, sampler.validation).all()
    assert (spread.groups[source] == spread.groups[target]).all()
    assert (source != target).all()
    again = sampler.judging(sampler.validation, 8)
    assert all((a["target"] == b["target"]).all() for a, b in zip(batches, again, strict=True))
