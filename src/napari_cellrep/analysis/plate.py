"""How good a plate is as an assay: Z′ of its two controls, V of its whole dose–response curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_cellrep.specs import InputError

LEAST_DOSES = 3  # of two, V is Z′


def z_prime(negative: np.ndarray, positive: np.ndarray) -> float:
    """How far apart the wells of two controls are: ``1 − 3 (σ₊ + σ₋) / |µ₊ − µ₋|``.

    1 is perfect, above 0.5 is called excellent, below 0 the controls overlap.

    Parameters
    ----------
    negative, positive : ndarray of shape (n,), float
        One number per well; NaN does not count. SDs are the sample's (ddof 1), as of a few wells they have to be.

    Raises
    ------
    InputError
        If a control has fewer than two wells, or both have the same mean.

    References
    ----------
    .. [1] Zhang, Chung, Oldenburg, J. Biomol. Screen. 4:67 (1999), doi:10.1177/108705719900400206.
    """
    spreads, means = [], []
    for name, wells in (("negative", negative), ("positive", positive)):
        own = np.asarray(wells, np.float64)
        own = own[np.isfinite(own)]
        if len(own) < 2:
            raise InputError(
                f"Not enough data: Z′ needs two wells of each control; of the {name} one {len(own)} counts."
            )
        spreads.append(own.std(ddof=1))
        means.append(own.mean())
    return float(1 - 3 * sum(spreads) / _range(*means))


def v_factor(value: np.ndarray, dose: np.ndarray, low: float, high: float) -> float:
    """How narrow a dose–response curve is against its height: ``1 − 6 mean(σ) / |µ₊ − µ₋|``, σ of each dose's wells.

    With two doses, the controls, it would be Z′. Every dose counts alike, however many wells it has.

    Parameters
    ----------
    value : ndarray of shape (n_wells,), float
        NaN does not count.
    dose : ndarray of shape (n_wells,)
        The controls are doses too. Those with one well say nothing of the spread and are left out.
    low, high : float
        Means of the negative and of the positive control.

    Raises
    ------
    InputError
        If fewer than three doses have two wells, or both controls have the same mean.

    References
    ----------
    .. [1] Ravkin, "Quality measures for imaging-based cellular assays", SBS 2004; BBBC013, whose author he is, is judged by it.
    """
    value, dose = np.asarray(value, np.float64), np.asarray(dose).astype(str)
    known = np.isfinite(value)
    wells = [value[known & (dose == d)] for d in np.unique(dose[known])]
    spread = [own.std(ddof=1) for own in wells if len(own) > 1]
    if len(spread) < LEAST_DOSES:
        raise InputError(
            f"Not enough data: V needs {LEAST_DOSES} doses (controls among them) with two wells; {len(spread)} has."
        )
    return 1 - 6 * float(np.mean(spread)) / _range(low, high)


@dataclass(frozen=True)
class PlateQuality:
    """What the wells of one plate (or one compound on it) are worth as an assay.

    Parameters
    ----------
    z_prime, v_factor : float
        NaN where there are too few wells.
    n_negative, n_positive : int
        Wells of the controls.
    n_doses : int
        Doses with two wells or more, the controls among them.
    why_not : str
        A sentence, where one of the numbers is missing.
    """

    z_prime: float
    v_factor: float
    n_negative: int
    n_positive: int
    n_doses: int
    why_not: str = ""


def plate_quality(
    value: np.ndarray, is_negative: np.ndarray, is_positive: np.ndarray, dose: np.ndarray | None = None
) -> PlateQuality:
    """Z′ and V of wells, each where there is enough of them.

    Parameters
    ----------
    value : ndarray of shape (n_wells,), float
        Mean score of each well.
    is_negative, is_positive : ndarray of shape (n_wells,), bool
    dose : ndarray of shape (n_wells,), optional
        "" for wells without. The wells of each control are one dose, whatever is written there.
    """
    value = np.asarray(value, np.float64)
    known = np.isfinite(value)
    negative, positive = value[known & is_negative], value[known & is_positive]
    why, z, v, n_doses = [], float("nan"), float("nan"), 0
    try:
        z = z_prime(negative, positive)
    except InputError as error:
        why.append(str(error))
    if dose is not None and len(negative) and len(positive):
        of = np.asarray(dose).astype(object)
        of = np.where(is_negative, "negative control", np.where(is_positive, "positive control", of))
        use = known & (of != "")
        n_doses = int((np.unique(of[use].astype(str), return_counts=True)[1] > 1).sum())
        try:
            v = v_factor(value[use], of[use], float(negative.mean()), float(positive.mean()))
        except InputError as error:
            why.append(str(error))
    return PlateQuality(z, v, len(negative), len(positive), n_doses, " ".join(dict.fromkeys(why)))


def _range(low: float, high: float) -> float:
    if not abs(high - low) > 1e-12 * max(abs(high), abs(low)):
        raise InputError("Both controls have the same mean, so there is no range to compare a spread with.")
    return float(abs(high - low))
