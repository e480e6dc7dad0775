"""Operating points: thresholds that a rule chooses on the rows of one part, and what they cost there. Judging is elsewhere.

A rule is a number, numbers by label, `youden`, `f1`, `{"recall": R}` or `{"specificity": S}`.
"""
# N rows, L labels, K distinct scores of a label

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom

from cxr_ray import labels as label_space
from cxr_ray.errors import UserError
from cxr_ray.metrics.ranking import at_each_score
from cxr_ray.metrics.table import Bools, Floats, Table, thresholds

Rule = float | str | Mapping[str, float]
Array = npt.NDArray[np.float64]

FIXED = 0.5
AT_LEAST = ("recall", "specificity")
WORDS = ("youden", "f1")


class Point(NamedTuple):
    """The operating point of one label: its threshold, why it is that, and what it gives on the rows that chose it."""

    threshold: float
    chosen: str
    """The rule in words, or why it could not be followed."""
    met: bool
    """Whether the rule was followed, its margin included."""
    positives: int
    rows: int
    recall: float | None = None
    specificity: float | None = None
    precision: float | None = None
    alarms_per_100: float | None = None
    assurance: float | None = None
    """Chance that as many further rows as will be judged keep the rule, were they drawn alike."""
    margin_recall: float | None = None
    """What the margin changes, against the same rule without one, on the rows that chose."""
    margin_precision: float | None = None


def parse(
    rule: Rule, labels: Sequence[str], *, task: str = "multilabel"
) -> str | tuple[str, float] | npt.NDArray[np.float64]:
    """A rule as thresholds [L], a word of `WORDS`, or ("recall" | "specificity", at least). Raises `UserError`."""
    if task == "multiclass" and not isinstance(rule, (int, float)):
        raise UserError(
            "thresholds: classes are decided by the largest probability, so there is no threshold to choose"
        )
    if isinstance(rule, str):
        if rule not in WORDS:
            raise UserError(
                f"thresholds: {rule!r} is no rule; give a number, LABEL=NUMBER, {', '.join(WORDS)}, recall=0.9"
            )
        return rule
    if isinstance(rule, Mapping) and len(rule) == 1 and (name := next(iter(rule))) in AT_LEAST and name not in labels:
        if not 0.0 < float(rule[name]) < 1.0:
            raise UserError(f"thresholds: a {name} of at least {rule[name]:g} is not a rule; it lies between 0 and 1")
        return name, float(rule[name])
    return thresholds(rule, labels)


def spread(rule: Rule, labels: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Rule:
    """A rule whose thresholds by label group stand by label. Raises `UserError` for an unknown name."""
    if not isinstance(rule, Mapping) or (len(rule) == 1 and next(iter(rule)) in AT_LEAST):
        return rule
    return label_space.spread(rule, labels, groups, where="the thresholds")


def words(rule: Rule) -> str:
    """The rule as a person says it."""
    if isinstance(rule, str):
        return {"youden": "the largest recall + specificity (Youden)", "f1": "the largest F1"}[rule]
    if isinstance(rule, Mapping):
        name, least = next(iter(rule.items()))
        if len(rule) == 1 and name in AT_LEAST:
            better = "precision" if name == "recall" else "recall"
            return f"{name} of at least {least:g} with the highest {better}"
        return "given by label"
    return f"{rule:g} for every label"


def hangs_on_rows(rule: Rule, labels: Sequence[str]) -> bool:
    """Whether a rule chooses thresholds on rows, and does not give them outright."""
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

    - `youden`: the largest recall + specificity - 1 (Youden 1950); `f1`: the largest F1; the higher recall of equals.
    - recall of at least R: among the scores with that recall, the one with the highest precision (of equals the higher
      recall); specificity of at least S: the same with the highest recall.

    With an `assurance` such as 0.95 these two keep a margin (see `allowed_misses`): they are to hold, with that chance, on
    `future` times as many further rows. Positives of one patient (`group_N`) are counted as one for it. A label whose
    rows cannot answer the rule keeps 0.5, and `chosen` says why."""
    asked = parse(rule, table.labels)
    out = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        true, score = table.true_NL[known, i], table.prob_NL[known, i]
        group = None if group_N is None else group_N[known]
        if isinstance(asked, np.ndarray):
            # The threshold in the probabilities' own type, as `table.decide` compares it.
            at = float(asked[i])
            out[label] = _point(true, score >= score.dtype.type(at), at, f"given: {at:g}", True)
        else:
            out[label] = _by_rule(asked, true, score, group, assurance, future)
    return out


def reaches(chance: float, assurance: float) -> bool:
    """Whether `chance`, a computed probability, is at least `assurance`: a chance that equals it exactly may come out of the
    arithmetic a rounding error below."""
    return chance >= assurance - 1e-9


def allowed_misses(n: int, m: int, least: float, assurance: float) -> tuple[int, float]:
    """How many of `n` cases may fall short of a threshold that `m` further ones shall reach at a rate of `least` or more.

    (misses, chance): the most misses whose chance is at least `assurance`; where none is, 0 and the chance it has.
    Exact for exchangeable cases without ties, whatever their distribution: of m further cases the number below the j-th
    smallest of n is beta-binomial (m, j, n - j + 1); see Wilks 1942, doi:10.1214/aoms/1177731537. Ties only help."""
    short = np.floor((1.0 - least) * m + 1e-9)

    def chance(misses: int) -> float:
        return float(betabinom.cdf(short, m, misses + 1, n - misses))

    low, high = (
        0,
        min(n, int(np.ceil((1.0 - least) * n)) + 2),
    )  # the chance falls with the misses: halve what is between
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(chance(middle), assurance) else (low, middle)
    return low, chance(low)


def _by_rule(
    asked: str | tuple[str, float],
    true: Bools,
    score: Floats,
    group: npt.NDArray[np.int64] | None,
    assurance: float | None,
    future: float,
) -> Point:
    positives = int(true.sum())
    negatives = len(true) - positives
    needs = {"f1": positives, "recall": positives, "specificity": negatives, "youden": min(positives, negatives)}
    name = asked if isinstance(asked, str) else asked[0]
    if not needs[name]:
        missing = "no positives" if not positives else "no negatives"
        return _point(true, score >= FIXED, FIXED, f"{missing} to choose by: {FIXED:g} stands", False)
    score_K, tp_K, fp_K = at_each_score(true, score)
    recall_K, precision_K = tp_K / positives, tp_K / (tp_K + fp_K)
    specificity_K = 1.0 - fp_K / max(negatives, 1)
    if isinstance(asked, str):
        worth_K = recall_K + specificity_K if asked == "youden" else 2 * tp_K / (tp_K + fp_K + positives)
        at = _last_best(worth_K)
        return _at(score_K, at, true, score, words(asked), True)
    least = asked[1]
    right_K, cases, worth_K = (
        (tp_K, positives, precision_K) if name == "recall" else (negatives - fp_K, negatives, recall_K)
    )
    bare = _among(right_K >= np.ceil(least * cases - 1e-9), worth_K)
    said = words({name: least})
    if assurance is None:
        if bare is None:
            return _none_reaches(name, least, score_K, true, score)
        return _at(score_K, bare, true, score, said, True)
    # Cases of one patient tell hardly more than one: the margin is that of so many patients, in their share.
    one_sided = true if name == "recall" else ~true
    units = cases if group is None else len(np.unique(group[one_sided]))
    misses, chance = allowed_misses(units, max(1, round(units * future)), least, assurance)
    kept = _among(right_K >= cases - np.floor(misses / units * cases + 1e-9), worth_K)
    if kept is None:
        return _none_reaches(name, least, score_K, true, score)
    met = reaches(chance, assurance)
    if not met:
        of = "positives" if name == "recall" else "negatives"
        said += f"; too few {of} ({units}) to promise it: its chance is {chance:.2f}"
    point = _at(score_K, kept, true, score, said, met)._replace(assurance=chance)
    if bare is None:
        return point
    without = _at(score_K, bare, true, score, "", True)
    assert point.precision is not None and without.precision is not None
    recall = None if point.recall is None or without.recall is None else point.recall - without.recall
    return point._replace(margin_recall=recall, margin_precision=point.precision - without.precision)


def _last_best(worth_K: Array) -> int:
    """The lowest of the equally good thresholds: the higher recall, then; worths a rounding apart are equal."""
    return int(np.flatnonzero(worth_K >= worth_K.max() - 1e-12)[-1])


def _among(fit_K: Bools, worth_K: Array) -> int | None:
    here = np.flatnonzero(fit_K)
    return int(here[_last_best(worth_K[here])]) if len(here) else None


def _none_reaches(name: str, least: float, score_K: Floats, true: Bools, score: Floats) -> Point:
    said = f"no threshold gives a {name} of {least:g}: the highest score stands"
    return _at(score_K, 0, true, score, said, False)


def _at(score_K: Floats, at: int, true: Bools, score: Floats, said: str, met: bool) -> Point:
    return _point(true, score >= score_K[at], float(score_K[at]), said, met)


def _point(true: Bools, positive: Bools, threshold: float, said: str, met: bool) -> Point:
    hit, called, positives = int((true & positive).sum()), int(positive.sum()), int(true.sum())
    negatives = len(true) - positives
    return Point(
        threshold=threshold,
        chosen=said,
        met=met,
        positives=positives,
        rows=len(true),
        recall=hit / positives if positives else None,
        specificity=1.0 - (called - hit) / negatives if negatives else None,
        precision=hit / called if called else None,
        alarms_per_100=100.0 * called / len(true) if len(true) else None,
    )


def applied(table: Table, points: Mapping[str, Point]) -> dict[str, Point]:
    """The same thresholds on the rows of another table: what they give there."""
    out = {}
    for i, label in enumerate(table.labels):
        known = table.known_NL[:, i]
        true, score, at = table.true_NL[known, i], table.prob_NL[known, i], points[label].threshold
        out[label] = _point(true, score >= score.dtype.type(at), at, points[label].chosen, points[label].met)
    return out


def limits(points: Mapping[str, Point]) -> Array:
    """Thresholds [L] in the order of the labels."""
    return np.array([p.threshold for p in points.values()], dtype=np.float64)


def plain(points: Mapping[str, Point]) -> dict[str, dict[str, Any]]:
    """Ready for JSON; what is undefined is absent."""
    return {label: {k: v for k, v in p._asdict().items() if v is not None} for label, p in points.items()}
