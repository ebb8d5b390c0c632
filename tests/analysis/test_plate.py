"""Z′ and V by hand, and as the formulas' other readings say."""

import numpy as np
import pytest

from napari_cellrep.analysis.plate import plate_quality, v_factor, z_prime
from napari_cellrep.specs import InputError


def test_z_prime_by_hand():
    # Means 0 and 10, SDs (ddof 1) 1 and 2: 1 − 3 · 3 / 10.
    assert z_prime(np.array([-1, 0, 1.0]), np.array([8, 10, 12.0])) == pytest.approx(0.1)
    assert z_prime(np.array([8, 10, 12.0, np.nan]), np.array([-1, 0, 1.0])) == pytest.approx(0.1)
    with pytest.raises(InputError, match="two wells of each control; of the positive one 1"):
        z_prime(np.zeros(3), np.ones(1))
    with pytest.raises(InputError, match="same mean"):
        z_prime(np.array([1, 2.0]), np.array([2, 1.0]))


def test_v_is_the_mean_spread_of_all_doses_and_z_prime_of_two():
    rng = np.random.default_rng(0)
    dose = np.repeat([0, 1, 2, 3], 5)
    value = dose * 2.0 + rng.normal(scale=0.1 * (1 + dose))
    spread = [np.sqrt(np.sum((own - own.mean()) ** 2) / 4) for own in value.reshape(4, 5)]
    low, high = value[:5].mean(), value[15:].mean()
    v = v_factor(value, dose, low, high)
    assert v == pytest.approx(1 - 6 * np.mean(spread) / abs(high - low))
    found = plate_quality(value, dose == 0, dose == 3, dose.astype(str).astype(object))
    assert found.v_factor == pytest.approx(v)
    assert found.z_prime == pytest.approx(1 - 6 * np.mean([spread[0], spread[3]]) / abs(high - low))
    assert (found.n_negative, found.n_positive, found.n_doses, found.why_not) == (5, 5, 4, "")


def test_too_few_wells_are_said_and_no_number():
    value, dose = np.arange(4.0), np.array(["0", "1", "2", "3"], object)
    found = plate_quality(value, dose == "0", dose == "3", dose)
    assert np.isnan(found.z_prime)
    assert np.isnan(found.v_factor)
    assert "Z′ needs two wells" in found.why_not
    assert "V needs 3 doses" in found.why_not
