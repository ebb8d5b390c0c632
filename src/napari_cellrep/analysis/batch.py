"""Differences between plates and batches: taken out of vectors, and measured before and after.

The order is kept by whoever calls: cells → fields → wells → correct → treatments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from napari_cellrep.analysis.neighbours import nearest
from napari_cellrep.specs import InputError

ZCA, ZCA_CORR = "zca", "zca_corr"
ELBOW = "elbow"
_LEAST_VARIANCE = 1e-3  # of one feature, as Microsnoop has it: active for vectors of unit length
Correction = Callable[[np.ndarray], np.ndarray]


class Sphering(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Whitening learned from negative controls: what varies among them is scaled down, wherever it varies.

    Controls differ by well, plate and stain only. After `transform` their features are uncorrelated and of equal variance,
    so that no direction of that kind outweighs what a treatment does.

    Parameters
    ----------
    method : {"zca", "zca_corr"}
        "zca": ``W = V diag(1 / √(s + λ)) Vᵀ`` of the covariance (ddof 0), as DINO4Cells does it for LINCS. "zca_corr": of
        the correlation matrix (ddof 1), each feature divided by its SD first, as Microsnoop does it for BBBC021.
    regularisation : float or "elbow", optional
        "zca": λ, added to every eigenvalue (default 1e-5). "zca_corr": the least eigenvalue; "elbow" (default): a tenth of the
        eigenvalue at the bend of the sorted curve.

    Attributes
    ----------
    mean_ : ndarray of shape (d,), float64
    sphere_ : ndarray of shape (d, d), float64
        ``transform(x) = (x − mean_) @ sphere_.T``.
    regularisation_ : float
        The one that was used.

    References
    ----------
    .. [1] ``models.md`` §3.7 (LINCS profiles) and §4.6 (sphering). Kessy, Lewin, Strimmer, Am. Stat. 72:309 (2018).
    .. [2] The bend: Satopää et al., "Finding a kneedle in a haystack" (2011), S = 1.
    """

    def __init__(self, method: str = ZCA, regularisation: float | str | None = None):
        self.method = method
        self.regularisation = regularisation

    def fit(self, X: Any, y: Any = None) -> Sphering:
        """Learn from controls.

        Parameters
        ----------
        X : ndarray of shape (n_controls, d), float
            Finite.
        y : ignored
        """
        if self.method not in (ZCA, ZCA_CORR):
            raise InputError(f"Sphering is {ZCA!r} or {ZCA_CORR!r}; got {self.method!r}.")
        x = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self.mean_ = x.mean(axis=0)
        centred = x - self.mean_
        given = self.regularisation
        if self.method == ZCA:
            if isinstance(given, str):
                raise InputError(f"The bend ({ELBOW!r}) is for {ZCA_CORR!r}; {ZCA!r} takes a number.")
            self.regularisation_ = 1e-5 if given is None else float(given)
            values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
            scale = np.sqrt(np.maximum(values, 0) + self.regularisation_)
            self.sphere_ = _divided(vectors, scale) @ vectors.T
        else:
            covariance = centred.T @ centred / (len(x) - 1)
            variance = np.diag(covariance)
            sd = np.sqrt(np.where(variance > 0, variance, 1.0))
            vectors, values, _ = np.linalg.svd(covariance / np.outer(sd, sd))
            self.regularisation_ = (
                values[_bend(values)] / 10 if given in (None, ELBOW) else float(given)  # type: ignore[arg-type]
            )
            scale = np.sqrt(np.maximum(values, self.regularisation_))
            whole = _divided(vectors, scale) @ vectors.T
            self.sphere_ = whole / np.sqrt(np.maximum(variance, _LEAST_VARIANCE))[None]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Sphere vectors.

        Parameters
        ----------
        X : ndarray of shape (n, d), float

        Returns
        -------
        ndarray of shape (n, d), float64
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray((x - self.mean_) @ self.sphere_.T)


def _divided(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Columns divided; a direction in which nothing varies is dropped."""
    return np.asarray(vectors * np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0))


def _bend(values: np.ndarray) -> int:
    """Where a falling convex curve bends: farthest below the line between its ends; the last one if it is straight."""
    from kneed import KneeLocator

    if len(values) < 3 or np.ptp(values) <= 0:
        return len(values) - 1
    found = KneeLocator(np.arange(len(values)), values, S=1.0, curve="convex", direction="decreasing").elbow
    return len(values) - 1 if found is None else int(found)


@dataclass(frozen=True)
class Corrected:
    """Vectors after a correction.

    Parameters
    ----------
    x : ndarray of shape (n, d), float32
        NaN in batches that could not be corrected.
    left_out : tuple of str
        Batches without enough controls, each with the reason.
    """

    x: np.ndarray
    left_out: tuple[str, ...]


def z_by_controls(
    x: np.ndarray, batch: np.ndarray, is_control: np.ndarray, *, least: int = 3, robust: bool = False
) -> Corrected:
    """Scale the features of each batch (plate) by the mean and SD of its own controls.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Vectors of cells or wells, finite.
    batch : ndarray of shape (n,)
        Name of each one's batch.
    is_control : ndarray of shape (n,), bool
    least : int
        Batches with fewer controls are left out: two numbers have no SD worth the name.
    robust : bool
        Median and 1.4826 × MAD instead.

    Raises
    ------
    InputError
        If no batch has enough controls.
    """
    if least < 2:
        raise InputError(f"An SD needs at least two controls; least is {least}.")
    out, left_out = np.full(x.shape, np.nan, np.float32), []
    for name in np.unique(batch):
        own = batch == name
        controls = np.asarray(x[own & is_control], np.float64)
        if len(controls) < least:
            left_out.append(f"{name} ({len(controls)} of {least} controls)")
            continue
        middle = np.median(controls, axis=0) if robust else controls.mean(axis=0)
        spread = 1.4826 * np.median(np.abs(controls - middle), axis=0) if robust else controls.std(axis=0)
        still = spread <= 1e-6 * np.maximum(np.abs(middle), 1e-30)
        out[own] = (x[own] - middle) / np.where(still, np.inf, spread)
    if len(left_out) == len(np.unique(batch)):
        raise InputError(f"No batch has {least} controls or more: {', '.join(left_out[:4])}.")
    return Corrected(out, tuple(left_out))


@dataclass(frozen=True)
class Mixing:
    """How well batches are mixed, and whether labels are kept; compare before and after a correction.

    Parameters
    ----------
    batch_mixing : float
        Share of the k nearest that come from another batch, divided by what it would be if batches were mixed at random: 1 is
        mixed as by chance, 0 is apart.
    label_keeping : float
        Share of the k nearest *from other batches* with the same label, averaged over labels (each counts the same). NaN
        without labels.
    label_by_chance : float
        The same if neighbours were drawn at random from other batches.
    n : int
        Rows that counted.
    """

    batch_mixing: float
    label_keeping: float
    label_by_chance: float
    n: int

    @property
    def words(self) -> str:
        """Both numbers in a sentence."""
        text = f"Batches are mixed {self.batch_mixing:.2f} (1 is by chance, 0 apart; n = {self.n:,})"
        if np.isfinite(self.label_keeping):
            text += (
                f"; of the nearest in other batches {self.label_keeping:.0%} have the same label "
                f"({self.label_by_chance:.0%} by chance)"
            )
        return f"{text}."


def batch_mixing(x: np.ndarray, batch: np.ndarray, label: np.ndarray | None = None, k: int = 15) -> Mixing:
    """Measure how mixed batches are among nearest neighbours, and whether neighbours across batches share labels.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
    batch : ndarray of shape (n,)
    label : ndarray of shape (n,), optional
        For example the treatment; "" counts as unknown.
    k : int

    Raises
    ------
    InputError
        If there is one batch only, or one with a single row.
    """
    names, of = np.unique(np.asarray(batch).astype(str), return_inverse=True)
    counts = np.bincount(of)
    if len(names) < 2:
        raise InputError(f"Mixing is measured between two batches or more; there is {len(names)}.")
    if counts.min() < 2:
        few = names[int(counts.argmin())]
        raise InputError(f"The batch {few} has a single row; at least two are needed to say how mixed it is.")
    k = min(k, len(x) - 1)
    index, _ = nearest(x, k)
    others = 1 - (counts[of] - 1) / (len(x) - 1)  # share of other batches among all the rest
    mixing = float(((of[index] != of[:, None]).mean(axis=1) / others).mean())
    keeping = chance = float("nan")
    if label is not None:
        keeping, chance = _labels_kept(x, of, np.asarray(label).astype(str), k)
    return Mixing(mixing, keeping, chance, len(x))


def _labels_kept(x: np.ndarray, of: np.ndarray, label: np.ndarray, k: int) -> tuple[float, float]:
    known = label != ""
    right, chance = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for i in range(of.max() + 1):
        own, other = np.flatnonzero((of == i) & known), np.flatnonzero((of != i) & known)
        if not len(own) or not len(other):
            continue
        index, _ = nearest(x[own], min(k, len(other)), to=x[other])
        right[own] = (label[other][index] == label[own][:, None]).mean(axis=1)
        names, n = np.unique(label[other], return_counts=True)
        at = np.clip(np.searchsorted(names, label[own]), 0, len(names) - 1)
        chance[own] = np.where(names[at] == label[own], n[at] / len(other), 0)
    use = np.isfinite(right)
    if not use.any():
        return float("nan"), float("nan")
    each = [
        (right[use & (label == name)].mean(), chance[use & (label == name)].mean())
        for name in np.unique(label[use])
    ]
    return tuple(float(v) for v in np.mean(each, axis=0))  # type: ignore[return-value]
