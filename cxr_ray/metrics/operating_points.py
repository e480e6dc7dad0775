"""Operating points: thresholds chosen by a rule on the rows of one part, and the metrics at them. Intervals are in intervals.py.

A rule is a number, numbers by label, `youden`, `f1`, `{"recall": R}` or `{"specificity": S}`.
"""
# N rows, L labels, K distinct scores of a label

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cxr_ray import labels as label_space
from cxr_ray.errors import UserError
from cxr_ray.metrics.ranking import at_each_score
from cxr_ray.metrics.table import Bools, Floats, Table, thresholds

Rule = float | str | Mapping[str, float]
Array = npt.NDArray[np.float64]

DEFAULT = 0.5
"""Threshold where none is given or chosen."""
MINIMUM_OF = ("recall", "specificity")
"""Rates that a rule can ask a minimum of."""
NAMED_RULES = ("youden", "f1")


class Point(NamedTuple):
    """The operating point of one label: its threshold, why it was chosen, and the metrics at it on the rows it was chosen on."""

    threshold: float
    chosen: str
    """The rule in words, or why it could not be followed."""
    met: bool
    """Whether the rule is met, including its margin."""
    positives: int
    rows: int
    recall: float | None = None
    specificity: float | None = None
    precision: float | None = None
    alarms_per_100: float | None = None
    """Rows predicted positive, per 100 rows."""
    assurance: float | None = None
    """Probability that the rule also holds on as many new rows of the same distribution as will be evaluated."""
    margin_recall: float | None = None
    """Recall with the margin minus recall without it, on the rows that the point was chosen on."""
    margin_precision: float | None = None
    """The same for precision."""


def parse(
    rule: Rule, labels: Sequence[str], *, task: str = "multilabel"
) -> str | tuple[str, float] | npt.NDArray[np.float64]:
    """A rule as thresholds [L], one of `NAMED_RULES`, or ("recall" | "specificity", minimum). Raises `UserError`.

    The decision of classes is the largest probability; a rule then gives operating points of each class against the rest."""
    chosen = isinstance(rule, str) or (isinstance(rule, Mapping) and len(rule) == 1 and next(iter(rule)) in MINIMUM_OF)
    if task == "multiclass" and not chosen and rule != DEFAULT:
        raise UserError(
            "thresholds: classes are decided by the largest probability, so a given threshold has no meaning; a rule gives operating "
            "points of each class against the rest: recall=0.9, specificity=0.9, youden or f1 (0.5 chooses none)"
        )
    if isinstance(rule, str):
        if rule not in NAMED_RULES:
            raise UserError(
                f"thresholds: {rule!r} is not a rule; give a number, LABEL=NUMBER, {', '.join(NAMED_RULES)}, recall=0.9"
            )
        return rule
    if isinstance(rule, Mapping) and len(rule) == 1 and (name := next(iter(rule))) in MINIMUM_OF and name not in labels:
        if not 0.0 < float(rule[name]) < 1.0:
            raise UserError(
                f"thresholds: a {name} of at least {rule[name]:g} is not a rule; the minimum must lie between 0 and 1"
            )
        return name, float(rule[name])
    return thresholds(rule, labels)


def expand_groups(rule: Rule, labels: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Rule:
    """The rule with thresholds of label groups replaced by those of their labels. Raises `UserError` for an unknown name."""
    if not isinstance(rule, Mapping) or (len(rule) == 1 and next(iter(rule)) in MINIMUM_OF):
        return rule
    return label_space.expand_by_label(rule, labels, groups, where="the thresholds")


def describe(rule: Rule) -> str:
    """The rule in words."""
    if isinstance(rule, str):
        return {"youden": "the largest recall + specificity (Youden)", "f1": "the largest F1"}[rule]
    if isinstance(rule, Mapping):
        name, minimum = next(iter(rule.items()))
        if len(rule) == 1 and name in MINIMUM_OF:
            other = "precision" if name == "recall" else "recall"
            return f"{name} of at least {minimum:g} with the highest {other}"
        return "given by label"
    return f"{rule:g} for every label"


def needs_rows(rule: Rule, labels: Sequence[str]) -> bool:
    """Whether the rule chooses thresholds on rows; False if it gives them as numbers."""
    return not isinstance(parse(rule, labels), np.ndarray)


def choose(
    rule: Rule,
    table: Table,
    *,
    group_N: npt.NDArray[np.int64] | None = None,
    assurance: float | None = None,
    future: float = 1.0,
) -> dict[str, Point]:
    """The operating point of every label of a table, by `rule`.

    - `youden`: the largest recall + specificity - 1 (Youden 1950); `f1`: the largest F1. Ties: the higher recall.
    - recall of at least R: of the thresholds with that recall, the one with the highest precision (ties: the higher recall).
      Specificity of at least S: the same with the highest recall.

    With an `assurance` such as 0.95 the last two keep a margin (see `allowed_misses`): the rule then holds with that probability on
    `future` times as many new rows. For the margin, positives of one patient (`group_N`) count as one. A label whose rows do not
    allow the rule gets 0.5, and `chosen` gives the reason."""
    parsed = parse(rule, table.labels)
    out = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        true, score = table.true_NL[known, i], table.prob_NL[known, i]
        group = None if group_N is None else group_N[known]
        if isinstance(parsed, np.ndarray):
            # Cast the threshold to the type of the probabilities, as `table.decide` does.
            at = float(parsed[i])
            out[label] = _point(true, score >= score.dtype.type(at), at, f"given: {at:g}", True)
        else:
            out[label] = _by_rule(parsed, true, score, group, assurance, future)
    return out


def reaches(chance: float, assurance: float) -> bool:
    """Whether `chance`, a computed probability, is at least `assurance`, up to rounding errors."""
    return chance >= assurance - 1e-9


def allowed_misses(n: int, m: int, minimum: float, assurance: float) -> tuple[int, float]:
    """How many of `n` cases may lie below a threshold, if a share of at least `minimum` of `m` new cases shall lie above it.

    Returns (misses, chance): the largest number of misses whose chance is at least `assurance`; if there is none, 0 and its chance.
    Exact for exchangeable cases without ties, for any distribution: the number of m new cases below the j-th smallest of n is
    beta-binomial (m, j, n - j + 1); see Wilks 1942, doi:10.1214/aoms/1177731537. Ties only raise the chance."""
    from scipy.stats import betabinom  # slow to import, and rarely needed

    new_misses = np.floor((1.0 - minimum) * m + 1e-9)

    def chance(misses: int) -> float:
        return float(betabinom.cdf(new_misses, m, misses + 1, n - misses))

    # Bisection: the chance falls as the number of misses grows.
    low, high = 0, min(n, int(np.ceil((1.0 - minimum) * n)) + 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(chance(middle), assurance) else (low, middle)
    return low, chance(low)


def _by_rule(
    parsed: str | tuple[str, float],
    true: Bools,
    score: Floats,
    group: npt.NDArray[np.int64] | None,
    assurance: float | None,
    future: float,
) -> Point:
    positives = int(true.sum())
    negatives = len(true) - positives
    needs = {"f1": positives, "recall": positives, "specificity": negatives, "youden": min(positives, negatives)}
    name = parsed if isinstance(parsed, str) else parsed[0]
    if not needs[name]:
        missing = "no positives" if not positives else "no negatives"
        return _point(true, score >= DEFAULT, DEFAULT, f"{missing} to choose by: {DEFAULT:g} is used", False)
    score_K, tp_K, fp_K = at_each_score(true, score)
    recall_K, precision_K = tp_K / positives, tp_K / (tp_K + fp_K)
    specificity_K = 1.0 - fp_K / max(negatives, 1)
    if isinstance(parsed, str):
        objective_K = recall_K + specificity_K if parsed == "youden" else 2 * tp_K / (tp_K + fp_K + positives)
        return _point_at(score_K[_last_best(objective_K)], true, score, describe(parsed), True)
    minimum = parsed[1]
    correct_K, cases, objective_K = (
        (tp_K, positives, precision_K) if name == "recall" else (negatives - fp_K, negatives, recall_K)
    )
    unmet = f"no threshold gives a {name} of {minimum:g}: the highest score is used"
    reason = describe({name: minimum})
    without_margin = _best_of(correct_K >= np.ceil(minimum * cases - 1e-9), objective_K)
    if assurance is None:
        if without_margin is None:
            return _point_at(score_K[0], true, score, unmet, False)
        return _point_at(score_K[without_margin], true, score, reason, True)
    # Cases of one patient are hardly more informative than one: use the margin of that many patients, as a share of the cases.
    one_sided = true if name == "recall" else ~true
    units = cases if group is None else len(np.unique(group[one_sided]))
    misses, chance = allowed_misses(units, max(1, round(units * future)), minimum, assurance)
    at = _best_of(correct_K >= cases - np.floor(misses / units * cases + 1e-9), objective_K)
    if at is None:
        return _point_at(score_K[0], true, score, unmet, False)
    met = reaches(chance, assurance)
    if not met:
        kind = "positives" if name == "recall" else "negatives"
        reason += f"; too few {kind} ({units}) to ensure it: the probability is {chance:.2f}"
    point = _point_at(score_K[at], true, score, reason, met)._replace(assurance=chance)
    if without_margin is None:
        return point
    bare = _point_at(score_K[without_margin], true, score, "", True)
    assert point.precision is not None and bare.precision is not None
    recall = None if point.recall is None or bare.recall is None else point.recall - bare.recall
    return point._replace(margin_recall=recall, margin_precision=point.precision - bare.precision)


def _last_best(objective_K: Array) -> int:
    """Position of the lowest of the equally good thresholds, which has the highest recall. Rounding differences are ties."""
    return int(np.flatnonzero(objective_K >= objective_K.max() - 1e-12)[-1])


def _best_of(allowed_K: Bools, objective_K: Array) -> int | None:
    """The same among the allowed thresholds; None if there are none."""
    positions = np.flatnonzero(allowed_K)
    return int(positions[_last_best(objective_K[positions])]) if len(positions) else None


def _point_at(threshold: Any, true: Bools, score: Floats, reason: str, met: bool) -> Point:
    return _point(true, score >= threshold, float(threshold), reason, met)


def _point(true: Bools, predicted: Bools, threshold: float, reason: str, met: bool) -> Point:
    tp, alarms, positives = int((true & predicted).sum()), int(predicted.sum()), int(true.sum())
    negatives = len(true) - positives
    return Point(
        threshold=threshold,
        chosen=reason,
        met=met,
        positives=positives,
        rows=len(true),
        recall=tp / positives if positives else None,
        specificity=1.0 - (alarms - tp) / negatives if negatives else None,
        precision=tp / alarms if alarms else None,
        alarms_per_100=100.0 * alarms / len(true) if len(true) else None,
    )


def apply(table: Table, points: Mapping[str, Point]) -> dict[str, Point]:
    """The metrics at the same thresholds on the rows of another table."""
    out = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        true, score, at = table.true_NL[known, i], table.prob_NL[known, i], points[label].threshold
        out[label] = _point(true, score >= score.dtype.type(at), at, points[label].chosen, points[label].met)
    return out


def thresholds_of(points: Mapping[str, Point]) -> Array:
    """Thresholds [L] in the order of the points."""
    return np.array([p.threshold for p in points.values()], dtype=np.float64)


def to_json(points: Mapping[str, Point]) -> dict[str, dict[str, Any]]:
    """The points as JSON mappings; undefined values are absent."""
    return {label: {k: v for k, v in p._asdict().items() if v is not None} for label, p in points.items()}
