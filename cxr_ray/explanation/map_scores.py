"""One table of methods and scores on annotated images, with intervals by patient, each next to the location prior."""
# N cases (an image and an annotated label of it), M negative images, G patients, R resamples, H and W of the maps

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.explanation import localisation, similarity
from cxr_ray.explanation.localisation import Maps
from cxr_ray.metrics.intervals import percentile, resample_counts
from cxr_ray.metrics.ranking import Resampled, ranked

Array = npt.NDArray[np.float64]
ALL = "all"
"""Label of a score over the cases of all labels."""
PRIOR = "location prior"
COLUMNS = (
    "method", "label", "score", "value", "low", "high", "prior", "difference", "difference_low", "difference_high", "cases", "patients",
)  # fmt: skip
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Cases:
    """Annotated images of one part: what maps are compared with. One case is an image and a label that is positive and marked."""

    rows: npt.NDArray[np.int64]
    """[N], rows of the store."""
    labels: npt.NDArray[np.str_]
    """[N]"""
    masks: npt.NDArray[np.bool_]
    """[N, H, W], in the frame of the network's input, each with at least one pixel."""
    patients: npt.NDArray[np.int64]
    """[N], numbers of patients; images of one patient are not independent."""
    probabilities: Array
    """[N], the model's probability of the label."""
    negative_labels: npt.NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, np.str_))
    """[M], labels that are negative in an image, for the IoU over all images."""
    negative_patients: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[M]"""
    negative_probabilities: Array = field(default_factory=lambda: np.zeros(0))
    """[M]"""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Tuning:
    """What a method's IoU needs, chosen on val."""

    threshold: Mapping[str, float]
    """Label to the threshold of the normalised map."""
    cutoff: Mapping[str, float]
    """Label to the probability below which an image gets no map."""


def tune(maps_NHW: Maps, cases: Cases) -> Tuning:
    """The threshold and the cut-off of each label with the highest mean IoU on `cases`, those of val. `maps_NHW` are `positive` ones."""
    threshold, cutoff = {}, {}
    for label in np.unique(cases.labels):
        of_label = cases.labels == label
        maps, masks = maps_NHW[of_label], cases.masks[of_label]
        threshold[str(label)] = localisation.tuned_threshold(maps, masks)
        cutoff[str(label)] = localisation.tuned_cutoff(
            localisation.iou(maps, masks, threshold[str(label)]),
            cases.probabilities[of_label],
            cases.negative_probabilities[cases.negative_labels == label],
        )
    return Tuning(threshold, cutoff)


def scores_of_cases(maps_NHW: Maps, cases: Cases, tuning: Tuning | None = None) -> dict[str, tuple[Array, Array]]:
    """Score to (its value for each case [N], for each negative image [M]); NaN where it is undefined, which means leave out.

    hit, iou_otsu, auprc, energy, focus: see `localisation`. With a tuning also iou_tuned (a threshold per label) and iou_all (over
    positive and negative images). A label that val does not have gets none of the two."""
    none_M = np.full(len(cases.negative_labels), np.nan)
    masks = cases.masks
    found = {
        "hit": localisation.hits(maps_NHW, masks),
        "iou_otsu": localisation.iou(maps_NHW, masks, localisation.otsu(maps_NHW)),
        "auprc": localisation.pixel_auprc(maps_NHW, masks),
        "energy": localisation.energy_inside(maps_NHW, masks),
        "focus": localisation.focus(maps_NHW, masks),
    }
    scores = {name: (value_N, none_M) for name, value_N in found.items()}
    if tuning is None:
        return scores
    tuned_N, all_N, all_M = np.full(len(cases), np.nan), np.full(len(cases), np.nan), none_M.copy()
    for label, threshold in tuning.threshold.items():
        of_label, negative = cases.labels == label, cases.negative_labels == label
        tuned_N[of_label] = localisation.iou(maps_NHW[of_label], masks[of_label], threshold)
        all_N[of_label], all_M[negative] = localisation.iou_of_all(
            tuned_N[of_label],
            cases.probabilities[of_label],
            cases.negative_probabilities[negative],
            tuning.cutoff[label],
        )
    return scores | {"iou_tuned": (tuned_N, none_M), "iou_all": (all_N, all_M)}


def score_table(
    maps: Mapping[str, Maps],
    prior_NHW: Array,
    cases: Cases,
    *,
    tunings: Mapping[str, Tuning] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """`COLUMNS`: each score of each method by label and over all cases, with a percentile interval of whole patients sampled again.

    `maps`: method to `localisation.positive` maps [N, H, W] of the cases. `prior_NHW`: the location prior of the training part for each
    case (`location_prior.prior_maps`), scored in the same way; `difference` is to it, paired in every resample. `tunings`: of every
    method and of `PRIOR`, from val. An interval is NaN where fewer than two patients have the label, or the score is undefined too often."""
    given = {PRIOR: prior_NHW, **maps}
    scores = {name: scores_of_cases(each, cases, (tunings or {}).get(name)) for name, each in given.items()}
    patients, number = np.unique(np.concatenate([cases.patients, cases.negative_patients]), return_inverse=True)
    case_N, negative_M = number[: len(cases)], number[len(cases) :]
    counts_RG = _counts(len(patients), resamples, seed)
    rows = []
    for label in (ALL, *np.unique(cases.labels)):
        use_N = np.full(len(cases), True) if label == ALL else cases.labels == label
        use_M = np.full(len(negative_M), True) if label == ALL else cases.negative_labels == label
        group = np.concatenate([case_N[use_N], negative_M[use_M]])
        several = len(np.unique(case_N[use_N])) > 1
        for score in scores[PRIOR]:
            sampled = {}
            for name, of_method in scores.items():
                if score not in of_method:
                    continue
                value_N, value_M = of_method[score]
                values = np.concatenate([value_N[use_N], value_M[use_M]])
                sampled[name] = _mean(values), _means(values, group, counts_RG) if several else np.zeros(0)
            base, base_R = sampled[PRIOR]
            for name, (value, value_R) in sampled.items():
                low, high = _interval(value_R)
                less_low, less_high = _interval(value_R - base_R)
                row = (name, str(label), score, value, low, high, base, value - base, less_low, less_high)
                rows.append((*row, int(use_N.sum()), len(np.unique(case_N[use_N]))))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def wide(table: pd.DataFrame, label: str = ALL) -> pd.DataFrame:
    """A row per method and a column per score, `value (low to high)`, for reading."""
    part = table[table["label"] == label].copy()
    part["text"] = [
        f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else "")
        for value, low, high in zip(part["value"], part["low"], part["high"], strict=True)
    ]
    order = list(dict.fromkeys(part["method"]))
    return part.pivot(index="method", columns="score", values="text").loc[order, list(dict.fromkeys(part["score"]))]


def mean_difference(
    a_N: Array, b_N: Array, patients_N: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Mean of a, of b, and of a - b over images, with the difference's interval by patient: a, b, difference, low, high, patients.

    For deletion and insertion against the random order, and for any two scores of the same images."""
    patients, group = np.unique(patients_N, return_inverse=True)
    difference = a_N - b_N
    low, high = (
        (np.nan, np.nan)
        if len(patients) < 2
        else _interval(_means(difference, group, _counts(len(patients), resamples, seed)))
    )
    return {
        "a": _mean(a_N), "b": _mean(b_N), "difference": _mean(difference), "low": low, "high": high, "patients": len(patients),
    }  # fmt: skip


def repeatability(
    a_NHW: Maps, b_NHW: Maps, patients_N: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """How similar maps of two runs are on the same images: `measure` (ssim, rank_correlation), value, low, high.

    Two seeds of one architecture: repeatability; two architectures: reproducibility (Arun et al. 2021). Intervals are by patient, NaN
    for one patient."""
    patients, group = np.unique(patients_N, return_inverse=True)
    counts_RG = _counts(len(patients), resamples, seed)
    rows = []
    for measure, compare in (("ssim", similarity.ssim), ("rank_correlation", similarity.rank_correlation)):
        value_N = compare(a_NHW, b_NHW)
        low, high = _interval(_means(value_N, group, counts_RG)) if len(patients) > 1 else (np.nan, np.nan)
        rows.append((measure, _mean(value_N), low, high))
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])


def confidence_and_hit(
    probability_N: Array, hit_N: Array, patients_N: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Does a higher probability mean a better place? AUROC of the probability for a hit (at least half of the maxima inside), with
    its interval by patient: auroc, low, high, hits, cases. 0.5: confidence tells nothing. NaN if all cases hit, or none."""
    hit = np.asarray(hit_N) >= 0.5
    auroc, _ = ranked(hit, np.asarray(probability_N))
    patients, group = np.unique(patients_N, return_inverse=True)
    low, high = np.nan, np.nan
    if len(patients) > 1 and np.isfinite(auroc):
        low, high = _interval(
            Resampled(hit, np.asarray(probability_N), group)(_counts(len(patients), resamples, seed))[0]
        )
    return {"auroc": auroc, "low": low, "high": high, "hits": int(hit.sum()), "cases": len(hit)}


def _counts(groups: int, resamples: int, seed: int) -> Array:
    """[R, G]"""
    return next(resample_counts(groups, resamples, np.random.default_rng(seed), at_once=resamples))


def _mean(values: Array) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _means(values: Array, group: npt.NDArray[np.int64], counts_RG: Array) -> Array:
    """The mean of the defined values in each resample [R]; NaN without any."""
    known = ~np.isnan(values)
    groups = counts_RG.shape[1]
    sums = counts_RG @ np.bincount(group[known], weights=values[known], minlength=groups)
    sizes = counts_RG @ np.bincount(group[known], minlength=groups)
    return np.divide(sums, sizes, out=np.full(len(sums), np.nan), where=sizes > 0)


def _interval(sample_R: Array) -> tuple[float, float]:
    found = percentile(sample_R, LEVEL) if len(sample_R) else None
    return (np.nan, np.nan) if found is None else (found.low, found.high)
