"""Which hyperparameters matter: permutation importance of a random forest over a sweep's trials (Breiman 2001). It draws nothing."""
# T trials, K hyperparameters

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MIN_TRIALS = 10
"""With fewer trials a forest over the hyperparameters is not informative."""
TREES, REPEATS = 60, 10


class Importance(NamedTuple):
    """How much R² the forest loses when the values of one hyperparameter are shuffled among the trials."""

    mean: tuple[float, ...]
    """[K] loss of R², mean over shuffles."""
    deviation: tuple[float, ...]
    """[K] standard deviation between shuffles."""
    oob_r2: float
    """Out-of-bag R² of the forest. At 0 or below, the hyperparameters explain nothing that generalises to other trials."""


def importance(value_TK: npt.ArrayLike, objective_T: npt.ArrayLike) -> Importance | None:
    """Importance of K numeric hyperparameters (choices by their index) for an objective. None with fewer than `MIN_TRIALS`
    trials, or if the objective is the same for all."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    x, y = np.asarray(value_TK, float), np.asarray(objective_T, float)
    if len(y) < MIN_TRIALS or not x.size or np.ptp(y) == 0:
        return None
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, oob_score=True, random_state=0).fit(x, y)
    result = permutation_importance(forest, x, y, n_repeats=REPEATS, random_state=0, scoring="r2")
    return Importance(
        tuple(result.importances_mean.tolist()), tuple(result.importances_std.tolist()), float(forest.oob_score_)
    )
