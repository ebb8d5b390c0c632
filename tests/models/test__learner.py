from __future__ import annotations

import numpy as np

from napari_cellrep.models._learner import knn_accuracy


def test_knn_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    y = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(400, 5)) * [1, 10, 100, 1, 1] + y[:, None] * [1, 5, 0, 0, 0]
    scaler = StandardScaler().fit(x[:300])
    said = KNeighborsClassifier(11, algorithm="brute").fit(scaler.transform(x[:300]), y[:300]).predict(
        scaler.transform(x[300:])
    )  # fmt: skip
    found = knn_accuracy(x[300:], y[300:], x[:300], y[:300])
    assert abs(found - balanced_accuracy_score(y[300:], said)) < 0.05  # ties are broken differently
    assert found > 0.4
    assert np.isnan(knn_accuracy(x[300:], y[300:], x[:300], y[:300] * 0))
