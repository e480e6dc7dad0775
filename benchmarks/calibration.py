"""Calibration of a model trained with weights and oversampling, and coverage of the calibration slope's interval.

    python benchmarks/calibration.py phantom --folder FOLDER [--patients 8000] [--threads 2]
    python benchmarks/calibration.py coverage

phantom: a LeNet on synthetic X-rays of 64 px with `pos_weight_power: 1` and `oversample_min_count: 150`. A quarter of the
patients is val, on which the calibrators are fitted; a quarter is test. coverage: how often the 95% interval of the slope
contains 1 if the calibrator was fitted on a val part of the given size, with and without the sampling error of that fit.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from cxr_ray import config as cfg
from cxr_ray import datasets, runs
from cxr_ray.datasets.phantom import generate
from cxr_ray.evaluation.prediction_table import PredictionTable
from cxr_ray.metrics import calibration
from cxr_ray.metrics.per_label import calibration_error
from cxr_ray.metrics.table import decide
from cxr_ray.on_ray import train as on_ray
from cxr_ray.on_ray.ingest import IngestSettings, ingest
from cxr_ray.workflows import evaluations


def on_phantom(folder: Path, patients: int, threads: int | None) -> None:
    store = folder / "shards"
    if not (store / "manifest.json").exists():
        generate.write(folder / "phantom", patients=patients, size=64)
        ingest(
            datasets.load("phantom", folder / "phantom"),
            folder / "phantom",
            store,
            IngestSettings(source="phantom", size=(64, 64)),
        )
    values: dict[str, Any] = {
        "name": "weighed", "output": str(folder / "runs"),
        "data": {"shards": str(store), "oversample_min_count": 150, "split": {"val": 0.25, "test": 0.25}},
        "model": {"name": "lenet"}, "optim": {"lr": 1e-3}, "loss": {"pos_weight_power": 1.0},
        "train": {"epochs": 10, "batch_size": 64, "threads": threads},
        "report": {"bootstrap": 0, "rivals": False, "trackers": [], "thresholds": "youden"},
    }  # fmt: skip
    path = folder / "runs" / "weighed"
    done = (path / "run.json").exists() and runs.load(path).info["status"] == "finished"
    run = runs.load(path) if done else on_ray.train(cfg.validate(values))
    found = evaluations.evaluate(run.path, log=lambda _: None).results
    plan = run.plan["part"].value_counts()
    print(f"{patients} patients; train {plan['train']}, val {plan['val']}, test {plan['test']} images")
    for name, method in found["calibration"]["methods"].items():
        ece = method["ece"]
        contains = sum(low <= 1 <= high for _, low, high in method["slope"].values())
        each = ", ".join(f"{k} {v:.3f}" for k, v in ece.items() if k != "mean")
        slopes = ", ".join(f"{k} {s:.3f} ({low:.3f} to {high:.3f})" for k, (s, low, high) in method["slope"].items())
        print(
            f"{name}: ECE mean {ece['mean']:.3f} ({each}); slope's interval contains 1 for {contains} of {len(method['slope'])}: {slopes}"
        )

    split_again(pd.concat([run.predictions("val"), run.predictions("test")], ignore_index=True), found["labels"])


def split_again(table: pd.DataFrame, labels: list[str], times: int = 200) -> None:
    """The same model on other halves: val and test patients are split again into those for fitting Platt and those for evaluating it."""
    contains, errors = np.zeros(len(labels)), []
    rng = np.random.default_rng(0)
    patients = table["patient"].unique()
    for _ in range(times):
        for_fit = table["patient"].isin(rng.permutation(patients)[: len(patients) // 2])
        val, test = (PredictionTable(half, labels, "multilabel") for half in (table[for_fit], table[~for_fit]))
        fitted = calibration.fit(val.decide(), "platt", val.resampling_units("patient")[1])
        table_test, by = test.decide(), test.resampling_units("patient")[1]
        calibrated = calibration.apply(fitted, table_test.prob_NL, labels)
        errors.append(
            [calibration_error(table_test.true_NL[k, i], calibrated[k, i]) for i, k in enumerate(table_test.known_NL.T)]
        )
        for i, (label, known) in enumerate(zip(labels, table_test.known_NL.T, strict=True)):
            error = fitted["labels"][label]["slope_error"]
            found = calibration.slope(table_test.true_NL[known, i], calibrated[known, i], by[known], fit_error=error)
            assert found is not None
            contains[i] += found[1] <= 1 <= found[2]
    shares = ", ".join(f"{k} {h:.1%}" for k, h in zip(labels, contains / times, strict=True))
    means = ", ".join(f"{k} {e:.3f}" for k, e in zip(labels, np.mean(errors, axis=0), strict=True))
    print(
        f"{times} other halves of val and test: slope's interval contains 1 in {contains.mean() / times:.1%} ({shares}); "
        f"ECE mean {np.mean(errors):.3f} ({means})"
    )


def coverage(simulations: int = 1000) -> None:
    """Overconfident and shifted scores. One to four images of a patient share their truth and nearly their score."""

    def simulate(patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patient_of = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        score = rng.normal(-1.5, 1.2, patients)
        true = (rng.random(patients) < expit(score))[patient_of]
        return true, expit(2 * score[patient_of] + 1 + 0.2 * rng.normal(size=len(patient_of))), patient_of

    rng = np.random.default_rng(0)
    for val, test in ((250, 500), (500, 500), (1000, 1000), (4000, 1000)):
        contains = {method: np.zeros(2) for method in ("platt", "temperature")}
        for _ in range(simulations):
            (true, prob, patient_of), (true_t, prob_t, patient_t) = simulate(val, rng), simulate(test, rng)
            for method in ("platt", "temperature"):
                # A temperature has no intercept, so it is tested on scores whose odds are not shifted.
                a, b = (prob, prob_t) if method == "platt" else (expit(logit(prob) - 1), expit(logit(prob_t) - 1))
                table = decide(true[:, None], a[:, None], labels=["a"], task="binary", thresholds_L=[0.5])
                fitted = calibration.fit(table, method, patient_of)
                calibrated = calibration.apply(fitted, b[:, None], ["a"])[:, 0]
                for k, error in enumerate((fitted["labels"]["a"]["slope_error"], 0.0)):
                    found = calibration.slope(true_t, calibrated, patient_t if k == 0 else None, fit_error=error)
                    assert found is not None
                    contains[method][k] += found[1] <= 1 <= found[2]
        for method, (ours, bare) in contains.items():
            print(f"val {val}, test {test} patients, {method}: contains 1 in {ours / simulations:.1%} of {simulations}; without the fit's error, "
                  f"images taken as independent: {bare / simulations:.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["phantom", "coverage"])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/calibration_bench"))
    parser.add_argument("--patients", type=int, default=8000)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.what == "phantom":
        on_phantom(args.folder, args.patients, args.threads)
    else:
        coverage()
