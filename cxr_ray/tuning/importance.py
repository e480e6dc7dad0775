"""Which knob mattered: permutation importance of a random forest over a sweep's trials (Breiman 2001), and when not to ask."""
# T trials, K knobs

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FEWEST = 10
"""Trials under which a forest over the knobs says nothing worth showing."""
TREES, REPEATS = 60, 10


class Importance(NamedTuple):
    """What shuffling each knob among the trials costs the forest."""

    mean: tuple[float, ...]
    """[K] loss of R², the mean over shuffles."""
    deviation: tuple[float, ...]
    """[K] between shuffles."""
    unseen: float
    """R² of the forest for trials that a tree was not grown on (out of bag): at 0 or below the knobs explain nothing that
    holds for another trial."""


def importance(value_TK: npt.ArrayLike, objective_T: npt.ArrayLike) -> Importance | None:
    """The importance of K knobs as numbers (choices by their place) for an objective; None with fewer than `FEWEST` trials, or
    where the objective is the same for all."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    x, y = np.asarray(value_TK, float), np.asarray(objective_T, float)
    if len(y) < FEWEST or not x.size or np.ptp(y) == 0:
        return None
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, oob_score=True, random_state=0).fit(x, y)
    found = permutation_importance(forest, x, y, n_repeats=REPEATS, random_state=0, scoring="r2")
    return Importance(
        tuple(found.importances_mean.tolist()), tuple(found.importances_std.tolist()), float(forest.oob_score_)
    )
