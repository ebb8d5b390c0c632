"""Learning from cells a person has named: a classifier, and what it is worth on fields it has not seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_cellrep.specs import InputError, join_words

CLASSIFIERS = ("logistic", "forest")


@dataclass(frozen=True)
class Split:
    """How labelled cells are held out, a part (field, well) at a time.

    Parameters
    ----------
    tests : tuple of ndarray of int
        Rows held out together. Empty: nothing can be told, see `why_not`.
    why_not : str
        A sentence, where there are no tests.
    """

    tests: tuple[np.ndarray, ...]
    why_not: str = ""


def split_by_part(label: np.ndarray, part: np.ndarray, n_folds: int = 5, what: str = "field") -> Split:
    """Hold out whole parts, so that a cell is never judged by what was learned from its own field.

    Cells of one field share stain, focus and illumination; a classifier that has seen some of them knows the others
    too well. Parts go to folds of about equal size (`GroupKFold`). Where a fold would hold every cell of a class,
    each part is held out alone.

    Parameters
    ----------
    label : ndarray of shape (n,)
        Class of each cell.
    part : ndarray of shape (n,)
        Field, or well, of each cell.
    what : str
        What a part is called in the sentence.
    """
    from sklearn.model_selection import GroupKFold

    label, part = np.asarray(label), np.asarray(part)
    alone = [str(c) for c in np.unique(label) if len(np.unique(part[label == c])) < 2]
    if alone:
        named = join_words([f"“{c}”" for c in alone], 4)
        return Split(
            (),
            f"Nothing can be told of how right the predictions are: all cells of {named} are in one {what}. Put cells "
            f"of a second {what} into the set.",
        )
    parts = np.unique(part)
    tests = tuple(t for _, t in GroupKFold(min(n_folds, len(parts))).split(label, label, part))
    every = len(np.unique(label))
    if any(len(np.unique(np.delete(label, t))) < every for t in tests):
        tests = tuple(np.flatnonzero(part == p) for p in parts)
    return Split(tests)


def make_classifier(kind: str = "logistic", *, penalty: float = 10.0, seed: int = 0) -> Any:
    """A scikit-learn classifier that has not learned yet.

    Logistic regression is the default because a person names tens to hundreds of cells in a space of hundreds of
    features: a straight border with a strong penalty is what so few cells can settle, its probabilities are smooth,
    so that "least sure" orders the cells, and it is done in a moment, so that it can be asked again after every few
    labels. Classes count alike however many cells they have (``class_weight="balanced"``).

    Parameters
    ----------
    kind : {"logistic", "forest"}
    penalty : float
        Of the logistic regression (L2, ``1/C``): the larger, the less a single feature can say.
    seed : int
        Of the forest.
    """
    if kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=2000)
    if kind == "forest":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            300, class_weight="balanced_subsample", min_samples_leaf=2, random_state=seed
        )
    raise InputError(f"A classifier is {' or '.join(CLASSIFIERS)}; got {kind!r}.")


def probabilities(
    classifier: Any, x: np.ndarray, label: np.ndarray, ask: np.ndarray, n_classes: int
) -> np.ndarray:
    """Let a classifier learn from `x`, and ask it about other cells.

    Parameters
    ----------
    x, ask : ndarray of shape (n, d) and (m, d), float
    label : ndarray of shape (n,), int
        0 to `n_classes` − 1.

    Returns
    -------
    ndarray of shape (m, n_classes), float64
    """
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():  # a border that still moves in its last digits is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = clone(classifier).fit(x, label)
    out = np.zeros((len(ask), n_classes))
    out[:, fitted.classes_] = fitted.predict_proba(ask)
    return out


def confusion(label: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count cells of class i that were taken for class j, int (n_classes, n_classes); negative numbers do not count."""
    use = (label >= 0) & (predicted >= 0)
    flat = np.bincount(label[use] * n_classes + predicted[use], minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean over the classes of the share that was recognised: 1 / n_classes by chance, however unequal they are."""
    return float(np.mean(np.diag(counts) / np.maximum(counts.sum(axis=1), 1)))
