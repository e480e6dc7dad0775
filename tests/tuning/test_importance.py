"""Permutation importance of hyperparameters, on data with a known answer."""

import numpy as np

from cxr_ray.tuning.importance import MIN_TRIALS, importance


def test_importance_finds_the_hyperparameter_that_matters() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 3))
    found = importance(x, np.sin(3 * x[:, 1]))
    assert found is not None and int(np.argmax(found.mean)) == 1 and found.oob_r2 > 0.5
    assert found.mean[1] > 5 * max(found.mean[0], found.mean[2])
    noise = importance(x, rng.random(40))
    assert noise is not None and noise.oob_r2 < 0.3
    assert importance(x[: MIN_TRIALS - 1], x[: MIN_TRIALS - 1, 0]) is None
    assert importance(x, np.ones(40)) is None and importance(np.empty((40, 0)), x[:, 0]) is None
