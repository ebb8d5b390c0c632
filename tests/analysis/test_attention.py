"""Overlaps of heads and channels whose masks are known."""

import numpy as np
import pytest

from napari_cellrep.analysis.attention import head_channel_iou
from napari_cellrep.specs import InputError


def test_known_masks_have_their_overlap():
    attention = np.zeros((3, 4, 4))
    attention[0, 1, 2] = 1  # one patch
    attention[1, :2] = 1  # the upper half
    channels = np.zeros((3, 34, 35))  # two rows and three columns are beyond the last patch
    channels[0, 8:16, 16:24] = 5  # the same patch
    channels[1, :, :16] = 7  # the left half
    channels[0, 32:] = 99  # not seen
    iou, chance = head_channel_iou(attention, channels, 8)
    np.testing.assert_allclose(iou[:2, :2], [[1, 0], [1 / 8, 1 / 3]])
    assert np.isnan(iou[2]).all()  # constant
    assert np.isnan(iou[:, 2]).all()
    np.testing.assert_allclose(chance[1, 1], 0.25 / 0.75)
    averaged, _ = head_channel_iou(attention, channels, 8, resample="channels")
    np.testing.assert_allclose(averaged[:2, :2], iou[:2, :2])


def test_only_what_lies_inside_counts():
    attention = np.zeros((1, 2, 2))
    attention[0, 0] = 1
    channels = np.zeros((1, 8, 8))
    channels[0, :4, :4] = 1  # half of the upper half
    inside = np.zeros((8, 8), bool)
    inside[:, :4] = True
    for resample in ("attention", "channels"):
        assert head_channel_iou(attention, channels, 4, resample=resample)[0][0, 0] == 0.5
        assert head_channel_iou(attention, channels, 4, inside=inside, resample=resample)[0][0, 0] == 1


def test_masks_that_know_nothing_of_each_other_have_what_is_expected_by_chance():
    rng = np.random.default_rng(0)
    attention = (rng.random((1, 40, 40)) < 0.3).astype(float)
    channels = (rng.random((1, 40, 40)) < 0.5).astype(float)
    iou, chance = head_channel_iou(attention, channels, 1)
    assert iou[0, 0] == pytest.approx(chance[0, 0], abs=0.03)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="needs channels of 16 × 16 px"):
        head_channel_iou(np.ones((1, 2, 2)), np.ones((1, 15, 16)), 8)
    with pytest.raises(InputError, match="one of attention, channels"):
        head_channel_iou(np.ones((1, 2, 2)), np.ones((1, 16, 16)), 8, resample="both")
