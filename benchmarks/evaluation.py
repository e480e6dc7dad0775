"""Speed and correctness of evaluation, on one core.

    python benchmarks/evaluation.py speed|coverage|promise|report [--folder DIR]

speed: every metric of 131,748 rows x 12 labels, and 1,000 bootstrap resamples of patients, compared with a plain loop over
scikit-learn. coverage: how often 95% intervals contain the true value. promise: how often a recall chosen on val is reached on
test. report: size of a report of that many rows, and the time to write it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.metrics import compute_metrics
from cxr_ray.metrics.intervals import bca, bootstrap, jackknife, percentile, resample_counts
from cxr_ray.metrics.operating_points import apply, choose
from cxr_ray.metrics.ranking import Resampled
from cxr_ray.metrics.table import Table, decide

ROWS, PATIENTS = 131_748, 49_000
# Shares of positives of the twelve labels of CheXpert after its cleaning, in its order.
PREVALENCE = np.array([0.05, 0.12, 0.45, 0.05, 0.27, 0.07, 0.03, 0.17, 0.08, 0.40, 0.02, 0.04])
LABELS = [f"label {i}" for i in range(len(PREVALENCE))]
HALF = np.full(len(PREVALENCE), 0.5)
Array = npt.NDArray[np.float64]


def large(seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Truth, probabilities [N, L] and patient numbers [N] of CheXpert's size."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((ROWS, len(PREVALENCE))) < PREVALENCE).astype(np.float32)
    prob = expit(rng.normal(size=truth.shape) + 1.2 * truth - 1).astype(np.float32)
    patient = np.unique(np.sort(rng.integers(0, PATIENTS, ROWS)), return_inverse=True)[1]
    return truth, prob, patient


def speed() -> None:
    truth, prob, patient = large()
    for _ in range(3):
        started = time.perf_counter()
        values = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=HALF)
        print(
            f"all {len(values)} metrics of {ROWS:,} rows x {len(LABELS)} labels: {time.perf_counter() - started:.2f} s"
        )
    table = decide(truth, prob, labels=LABELS, task="multilabel", thresholds_L=HALF)
    started, cpu = time.perf_counter(), time.process_time()
    bootstrap({"": table}, patient, resamples=1000, rng=np.random.default_rng(0))
    wall, ours = time.perf_counter() - started, time.process_time() - cpu
    print(f"1,000 bootstrap resamples of every metric: {wall:.1f} s ({ours:.1f} s CPU)")
    cpu = time.process_time()
    ranks = [Resampled(truth[:, i] == 1, prob[:, i], patient) for i in range(len(LABELS))]
    for counts_RG in resample_counts(int(patient.max()) + 1, 1000, np.random.default_rng(0), at_once=50):
        for rank in ranks:
            rank(counts_RG)
    ours = time.process_time() - cpu
    print(f"1,000 bootstrap resamples of AUROC and AP only: {ours:.1f} s CPU")
    rows_of = np.split(np.arange(ROWS), np.flatnonzero(np.diff(patient)) + 1)
    rng, times = np.random.default_rng(0), []
    for _ in range(3):
        started = time.process_time()
        rows = np.concatenate([rows_of[g] for g in rng.integers(0, len(rows_of), len(rows_of))])
        for i in range(len(LABELS)):
            roc_auc_score(truth[rows, i], prob[rows, i])
            average_precision_score(truth[rows, i], prob[rows, i])
        times.append(time.process_time() - started)
    loop = 1000 * float(np.median(times))
    print(f"loop over scikit-learn, AUROC and AP only: {loop:.0f} s for 1,000; ratio {loop / ours:.0f}")


def coverage(simulations: int = 1000, patients: int = 300, resamples: int = 500) -> None:
    """Binormal scores with known AUROC, recall and specificity. One to three images of a patient share a patient effect."""
    gap, limit, shares = 1.2, 0.4, (0.3, 0.1)
    spread = (1 + 0.5**2) ** 0.5  # standard deviation of a score around its mean: image and patient
    exact = {
        "auroc": float(norm.cdf(gap / (2**0.5 * spread))),
        "recall": float(norm.cdf((gap - limit) / spread)),
        "specificity": float(norm.cdf(limit / spread)),
    }
    covered = {(m, s, method): 0 for m in exact for s in shares for method in ("percentile", "bca")}
    defined = dict.fromkeys(covered, 0)
    rng = np.random.default_rng(0)
    for _ in range(simulations):
        patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        truth = (rng.random((len(patient), len(shares))) < shares).astype(float)
        effect = 0.5 * rng.normal(size=(patients, len(shares)))
        score = rng.normal(size=truth.shape) + effect[patient] + gap * truth
        limits = expit(np.full(len(shares), limit))
        labels = [str(s) for s in shares]
        table = decide(truth, expit(score), labels=labels, task="multilabel", thresholds_L=limits)
        values = {(v.metric, v.label): v.value
                  for v in compute_metrics(truth, expit(score), labels=labels, task="multilabel", thresholds_L=limits)}  # fmt: skip
        samples = bootstrap({"": table}, patient, resamples=resamples, rng=rng)[""]
        left_out = jackknife({"": table}, patient)[""]
        for metric, value in exact.items():
            for share in shares:
                key = metric, str(share)
                found = {"percentile": percentile(samples[key]), "bca": bca(samples[key], values[key], left_out[key])}
                for method, interval in found.items():
                    if interval is not None:
                        defined[metric, share, method] += 1
                        covered[metric, share, method] += interval.low <= value <= interval.high
    print(f"{simulations} simulations of {patients} patients (1 to 3 images each), {resamples} resamples by patient")
    for (metric, share, method), count in covered.items():
        print(
            f"  {metric:12s} prevalence {share:.2f}  {method:10s} {count / defined[metric, share, method]:.3f} of {defined[metric, share, method]}"
        )


def promise(splits: int = 500) -> None:
    """A recall of at least 0.9, chosen on val with and without the margin, on a test part twice as large."""
    rng = np.random.default_rng(0)

    def table(rows: int, share: float) -> Table:
        truth = (rng.random((rows, 1)) < share).astype(float)
        prob = expit(rng.normal(size=truth.shape) + 2 * truth - 2)
        return decide(truth, prob, labels=["a"], task="binary", thresholds_L=[0.5])

    for rows, share in ((600, 0.2), (1500, 0.2), (1500, 0.05), (6000, 0.2)):
        reached, recall, precision = {True: 0, False: 0}, {True: [], False: []}, {True: [], False: []}  # type: ignore[var-annotated]
        for _ in range(splits):
            val, test = table(rows, share), table(2 * rows, share)
            for margin in (True, False):
                point = choose({"recall": 0.9}, val, assurance=0.95 if margin else None, future=2.0)
                here = apply(test, point)["a"]
                reached[margin] += (here.recall or 0) >= 0.9
                recall[margin].append(here.recall)
                precision[margin].append(here.precision)
        print(
            f"val {rows}, test {2 * rows} rows, {share:.0%} positive: recall >= 0.9 reached in {reached[True] / splits:.1%} of {splits} splits "
            f"(without margin {reached[False] / splits:.1%}); mean recall {np.mean(recall[True]):.3f} ({np.mean(recall[False]):.3f}), "
            f"mean precision {np.mean(precision[True]):.3f} ({np.mean(precision[False]):.3f})"
        )


def report(folder: Path) -> None:
    from cxr_ray.evaluation import results
    from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
    from cxr_ray.metrics import prevalence
    from cxr_ray.report import run_page
    from tests.report.test_run_page import make_run

    truth, prob, patient = large()
    frame = pd.DataFrame(
        {"row": np.arange(ROWS), "source_row": np.arange(ROWS), "patient": patient.astype(str), "study": "s"}
    )
    frame = pd.concat(
        [frame, pd.DataFrame(truth, columns=[f"true/{k}" for k in LABELS]), pd.DataFrame(prob, columns=[f"prob/{k}" for k in LABELS])],
        axis=1,
    )  # fmt: skip
    run = make_run(folder / "large", LABELS, "multilabel", rows=200)
    run.update(prevalence={"test": prevalence(truth, labels=LABELS, patients=frame["patient"])})
    started = time.perf_counter()
    table = PredictionTable(frame, LABELS, "multilabel")
    settings = EvaluationSettings({"recall": 0.9}, assurance=0.95, bootstrap=0)
    found = results.evaluate_table(table, settings, val=table)
    print(f"evaluation without bootstrap: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    page = run_page.write(run, "test", evaluation=found, predictions=frame)
    print(
        f"report of {ROWS:,} rows x {len(LABELS)} labels: {page.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - started:.1f} s to write: {page}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "coverage", "promise", "report"])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/evaluation_bench"))
    args = parser.parse_args()
    if args.what == "report":
        report(args.folder)
    else:
        {"speed": speed, "coverage": coverage, "promise": promise}[args.what]()
