"""One sentence whether to trust a model's maps, from its scores, by stated rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr_ray.explanation.map_scores import ALL

FEWEST_PATIENTS = 30
"""With fewer annotated patients every figure is an anecdote: the interval of a hit rate of 0.5 is then wider than 0.36."""
LARGEST_SIMILARITY = 0.5
"""Largest mean rank correlation, or SSIM, of the original map and that of fully randomised weights."""


@dataclass(frozen=True)
class Checks:
    """What is known of one method apart from its score table. None: not measured."""

    randomised_correlation: float | None = None
    """Mean rank correlation of its maps, signed and without a blur, with those after all weights were randomised: a blur makes any two maps of
    one image alike."""
    randomised_ssim: float | None = None
    """Mean SSIM of the same."""
    deletion: Mapping[str, float] | None = None
    """`mean_difference` of the random order's area under the deletion curve (a) and the method's (b): above 0 is better than random."""


def trust(table: pd.DataFrame, method: str, checks: Checks | None = None, *, label: str = ALL) -> str:
    """One sentence whether to trust the maps of `method` for `label`, and why.

    Rules, all of which must hold: at least `FEWEST_PATIENTS` annotated patients; the hit rate's difference to the location prior has an
    interval above 0; after all weights are randomised, mean rank correlation and SSIM with the original map are at most
    `LARGEST_SIMILARITY`; deletion lowers the probability more than in a random order, with an interval above 0. What was not measured is
    named, and then the answer is at most "in part". Raises `KeyError` if the table has no hit rate of the method and label."""
    checks = checks or Checks()
    found = table[(table["method"] == method) & (table["label"] == label) & (table["score"] == "hit")]
    if found.empty:
        raise KeyError(f"no hit rate of {method} for {label}")
    hit = found.iloc[0]
    named = "all findings" if label == ALL else label
    figures = f"hit rate {hit['value']:.2f}, location prior {hit['prior']:.2f}, {hit['cases']} annotations of {hit['patients']} patients"
    if hit["patients"] < FEWEST_PATIENTS or not np.isfinite(hit["difference_low"]):
        return (
            f"Too few annotations to say whether the {method} maps of {named} can be trusted: {figures}; this is an anecdote, "
            f"annotate at least {FEWEST_PATIENTS} patients."
        )
    failed, missing = [], []
    if not hit["difference_low"] > 0:
        failed.append("they point no better than the location prior")
    similarities = [one for one in (checks.randomised_correlation, checks.randomised_ssim) if one is not None]
    if not similarities:
        missing.append("randomised weights")
    elif not all(one <= LARGEST_SIMILARITY for one in similarities):
        failed.append(
            f"they hardly change when the weights are randomised (similarity {', '.join(f'{one:.2f}' for one in similarities)})"
        )
    if checks.deletion is None:
        missing.append("deletion")
    elif not checks.deletion["low"] > 0:
        failed.append("deleting what they mark is no worse for the model than a random order")
    interval = f"{hit['difference']:+.2f} ({hit['difference_low']:+.2f} to {hit['difference_high']:+.2f}) to the prior"
    if failed:
        return f"Do not trust the {method} maps of {named}: {'; '.join(failed)} ({figures}, {interval})."
    if missing:
        return f"Trust the {method} maps of {named} only in part: {figures}, {interval}, but not measured: {', '.join(missing)}."
    return (
        f"The {method} maps of {named} can be trusted to show where this model looks: {figures}, {interval}; they follow the weights, "
        "and deleting what they mark lowers the probability more than a random order."
    )
