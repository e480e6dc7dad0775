"""The table of methods and scores against slow resampling of patients."""

import numpy as np
import pytest

from cxr_ray.explanation import localisation as loc
from cxr_ray.explanation.map_scores import (
    ALL,
    COLUMNS,
    PRIOR,
    Cases,
    confidence_and_hit,
    mean_difference,
    repeatability,
    score_table,
    scores_of_cases,
    tune,
    wide,
)
from cxr_ray.explanation.similarity import rank_correlation, ssim


def made_up(n: int = 12, seed: int = 0, patients: int = 5) -> tuple[Cases, dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = rng.random((n, 6, 6)) < 0.3
    masks[:, 2, 2] = True
    cases = Cases(
        rows=np.arange(n),
        labels=np.array(["Edema", "Mass"])[np.arange(n) % 2],
        masks=masks,
        patients=rng.integers(0, patients, n),
        probabilities=rng.random(n),
        negative_labels=np.array(["Edema", "Mass", "Mass"]),
        negative_patients=np.array([0, 1, 50]),
        negative_probabilities=rng.random(3),
    )
    return cases, {"good": masks + rng.random((n, 6, 6)) * 0.9, "noise": rng.random((n, 6, 6))}, rng.random((n, 6, 6))


def test_the_table_has_a_row_per_method_label_and_score_and_equals_slow_resampling() -> None:
    cases, maps, prior = made_up()
    tunings = {name: tune(each, cases) for name, each in {PRIOR: prior, **maps}.items()}
    table = score_table(maps, prior, cases, tunings=tunings, resamples=300, seed=7)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * 3 * 7
    for label in (ALL, "Edema", "Mass"):
        row = table[(table["method"] == "good") & (table["label"] == label) & (table["score"] == "iou_all")].iloc[0]
        own, own_M = scores_of_cases(maps["good"], cases, tunings["good"])["iou_all"]
        base, base_M = scores_of_cases(prior, cases, tunings[PRIOR])["iou_all"]
        use = [label in (ALL, each) for each in cases.labels]
        use_M = [label in (ALL, each) for each in cases.negative_labels]
        value, other = np.concatenate([own[use], own_M[use_M]]), np.concatenate([base[use], base_M[use_M]])
        patient = np.concatenate([cases.patients[use], cases.negative_patients[use_M]])
        everyone = np.unique(np.concatenate([cases.patients, cases.negative_patients]))
        rng, means, differences = np.random.default_rng(7), [], []
        for _ in range(300):
            chosen = everyone[rng.integers(0, len(everyone), len(everyone))]
            rows = np.concatenate([np.flatnonzero(patient == one) for one in chosen])
            with np.errstate(all="ignore"):
                mean, mean_base = (
                    np.nanmean(v[rows]) if np.isfinite(v[rows]).any() else np.nan for v in (value, other)
                )
            means.append(mean)
            differences.append(mean - mean_base)
        assert row["value"] == pytest.approx(np.nanmean(value)) and row["prior"] == pytest.approx(np.nanmean(other))
        np.testing.assert_allclose([row["low"], row["high"]], np.nanquantile(means, [0.025, 0.975]))
        np.testing.assert_allclose(
            [row["difference_low"], row["difference_high"]], np.nanquantile(differences, [0.025, 0.975])
        )
        assert row["cases"] == sum(use) and row["patients"] == len(set(cases.patients[use].tolist()))


def test_every_score_of_a_label_is_the_mean_of_its_cases_by_the_functions_of_localisation() -> None:
    cases, maps, prior = made_up()
    table = score_table(maps, prior, cases, resamples=50).set_index(["method", "label", "score"])["value"]
    mass = cases.labels == "Mass"
    good = maps["good"]
    assert table["good", "Mass", "hit"] == pytest.approx(loc.hits(good, cases.masks)[mass].mean())
    assert table["good", ALL, "iou_otsu"] == pytest.approx(loc.iou(good, cases.masks, loc.otsu(good)).mean())
    assert table["good", "Mass", "auprc"] == pytest.approx(loc.pixel_auprc(good, cases.masks)[mass].mean())
    assert table[PRIOR, ALL, "energy"] == pytest.approx(loc.energy_inside(prior, cases.masks).mean())
    assert table["noise", ALL, "focus"] == pytest.approx(loc.focus(maps["noise"], cases.masks).mean())
    assert ("good", ALL, "iou_tuned") not in table.index  # nothing was tuned


def test_a_tuning_is_chosen_by_label_and_used_on_other_cases() -> None:
    cases, maps, _ = made_up(seed=1)
    other, other_maps, _ = made_up(seed=2)
    tuning = tune(maps["good"], cases)
    for label in ("Edema", "Mass"):
        of = cases.labels == label
        assert tuning.threshold[label] == loc.tuned_threshold(maps["good"][of], cases.masks[of])
    tuned, _ = scores_of_cases(other_maps["good"], other, tuning)["iou_tuned"]
    for at, label in enumerate(other.labels):
        one = slice(at, at + 1)
        assert tuned[at] == loc.iou(other_maps["good"][one], other.masks[one], tuning.threshold[str(label)])[0]


def test_one_patient_gives_no_interval_and_the_wide_table_shows_none() -> None:
    cases, maps, prior = made_up(n=3, patients=1)
    table = score_table(maps, prior, cases, resamples=50)
    assert table[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)
    shown = wide(table)
    assert list(shown.index) == [PRIOR, "good", "noise"] and list(shown.columns[:2]) == ["hit", "iou_otsu"]
    assert "to" not in shown["hit"].loc["good"]


def test_a_paired_difference_by_patient() -> None:
    rng = np.random.default_rng(0)
    a, b, patients = rng.random(30), rng.random(30), rng.integers(0, 8, 30)
    found = mean_difference(a, b, patients, resamples=400, seed=3)
    draws, everyone, means = np.random.default_rng(3), np.unique(patients), []
    for _ in range(400):
        rows = np.concatenate(
            [np.flatnonzero(patients == everyone[g]) for g in draws.integers(0, len(everyone), len(everyone))]
        )
        means.append((a - b)[rows].mean())
    assert found["difference"] == pytest.approx(a.mean() - b.mean()) and found["patients"] == len(everyone)
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(means, [0.025, 0.975]))


def test_confidence_against_hit_is_the_share_of_ordered_pairs() -> None:
    probability, hit = np.array([0.9, 0.4, 0.4, 0.8]), np.array([1.0, 0.2, 0.5, 0.0])
    found = confidence_and_hit(probability, hit, np.arange(4), resamples=200)
    pairs = [(p > q) + (p == q) / 2 for p in (0.9, 0.4) for q in (0.4, 0.8)]
    assert found["auroc"] == pytest.approx(np.mean(pairs)) and found["hits"] == 2
    assert np.isnan(confidence_and_hit(probability, np.ones(4), np.arange(4))["auroc"])


def test_the_repeatability_of_two_runs_is_the_mean_similarity_of_their_maps() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((9, 14, 14))
    b, patients = a + rng.random((9, 14, 14)), np.arange(9) // 2
    found = repeatability(a, b, patients, resamples=200).set_index("measure")
    assert found.loc["ssim", "value"] == pytest.approx(ssim(a, b).mean())
    assert found.loc["rank_correlation", "value"] == pytest.approx(rank_correlation(a, b).mean())
    assert (found["low"] < found["value"]).all() and (found["value"] < found["high"]).all()
    same = repeatability(a, a, np.zeros(9, int)).set_index("measure")
    np.testing.assert_allclose(same["value"], 1.0)
    assert same["low"].isna().all()
