"""A sweep folder as trials leave it, but written without training: curves that depend on the hyperparameters, noise, early stops,
failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.metrics import prevalence
from cxr_ray.tuning import ranking, space
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial

CHEXPERT = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
)  # fmt: skip
SPACE: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-6, 1e-3]},
    "loss.pos_weight_power": {"uniform": [0.0, 1.0]},
    "data.oversample_min_count": {"choice": [0, 50, 150, 500]},
    "data.uncertain.Edema": {"choice": ["zeros", "ones", "ignore"]},
}
STORE = {"path": "shards/x", "fingerprint": "ab12cd34ef56ab12", "rows": 5000, "source": "chexpert", "notes": []}
PARTS = (("train", 3600), ("val", 400), ("test", 1000))


def make_sweep(
    folder: Path,
    *,
    labels: Sequence[str] = CHEXPERT,
    trials: int = 16,
    epochs: int = 6,
    failed: Sequence[int] = (5,),
    running: Sequence[int] = (),
    waiting: Sequence[int] = (),
    status: str = "finished",
    comparison: dict[str, Any] | None = None,
    seed: int = 0,
    **tune: Any,
) -> Sweep:
    """The folder of a sweep whose trials ended as given. Hyperparameters change the curves in a realistic way: the learning rate has
    an optimum, weights trade precision for recall. With a scheduler, about half of the trials stopped early."""
    settings = {"trials": trials, "space": SPACE, "scheduler": "asha", **tune}
    config = cfg.validate({
        "name": folder.name, "output": str(folder.parent), "data": {"shards": "shards/x"}, "train": {"epochs": epochs},
        "tune": settings,
    })  # fmt: skip
    names = list(space.flatten(config.tune.space)) or sorted({k for c in config.tune.combinations for k in c})
    searched = space.parse(config.tune, config, labels)
    sweep = sweeps.create(
        config, store=STORE,
        about={"labels": list(labels), "task": "multilabel", "knobs": names, "metrics": config.tune.metrics, "modes": config.tune.modes,
               "constraints": [str(c) for c in ranking.constraints(config.tune)], "planned": trials, "rows": dict(PARTS),
               "warnings": []},
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    made = []
    for number in range(trials):
        base = config.tune.base and number == 0
        listed = (
            config.tune.combinations[number % len(config.tune.combinations)] if config.tune.search == "list" else {}
        )
        params = {} if base else listed or searched.sample(number, seed=seed)
        status_of_trial = (
            FAILED if number in failed else RUNNING if number in running else WAITING if number in waiting else FINISHED
        )
        for fold in range(config.tune.folds) if config.tune.folds else [None]:
            name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
            made.append(Trial(name, number, params, fold, base, status_of_trial))
    sweep.write_trials(made)
    qualities = [_quality(sweep.trial_config(t)) for t in made]
    median = float(np.median(qualities))
    for i, (trial, quality) in enumerate(zip(made, qualities, strict=True)):
        if trial.status == WAITING:
            continue
        done = 1 if trial.status == FAILED else max(1, epochs // 2) if trial.status == RUNNING else epochs
        if trial.status == FINISHED and config.tune.scheduler == "asha" and quality < median and not trial.base:
            made[i], done = Trial(**{**vars(trial), "status": STOPPED}), 2
        _write_run(sweep, made[i], labels, done, quality, rng)
    sweep.write_trials(made)
    ranked = sweep.ranked()
    sweep.update(
        status=status, seconds=round(sum(t.seconds for t in sweep.trial_records) / 2, 1), worth=comparison,
        best=ranked[0].trials[0].name if ranked else None,
    )  # fmt: skip
    return sweep


def comparison(*, auroc: float = 0.834, gain: float = 0.021, low: float = 0.006) -> dict[str, Any]:
    """`worth` in sweep.json: the winner on test, and compared with the second-best trial and the base configuration."""
    high = 2 * gain - low

    def with_interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02}

    difference = {"metric": "auroc", "part": "val", "value": gain, "low": low, "high": high}
    return {
        "test": {"auroc": with_interval(auroc), "recall": with_interval(0.712), "precision": with_interval(0.305)},
        "against": [
            {
                "what": "the second-best trial",
                "trial": "0003",
                **difference,
                "value": gain / 3,
                "low": low - gain,
                "p": 0.31,
            },
            {"what": "the base configuration", "trial": "0000", **difference, "p": 0.004},
        ],
        "ensemble": {
            "members": ["0003", "0007"],
            "test": {"auroc": with_interval(auroc + 0.008), "recall": with_interval(0.72)},
        },
        "note": "test was evaluated once",
    }


def _quality(config: cfg.Config) -> float:
    """The quality of a configuration: a peak over the learning rate, with small effects of weights and oversampling."""
    rate = np.exp(-((np.log10(config.optim.lr) + 3.8) ** 2) / 1.6)
    uncertain = config.data.uncertain
    policy = uncertain.get("Edema", "zeros") if isinstance(uncertain, dict) else uncertain
    oversampled = 0.01 * (config.data.oversample_min_count >= 150)
    return float(rate + oversampled - 0.03 * abs(config.loss.pos_weight_power - 0.5) + 0.01 * (policy == "ones"))


def _write_run(
    sweep: Sweep, trial: Trial, labels: Sequence[str], done: int, quality: float, rng: np.random.Generator
) -> None:
    config = sweep.trial_config(trial)
    plan = pd.DataFrame({"row": np.arange(5000), "part": np.repeat([p for p, _ in PARTS], [n for _, n in PARTS])})
    truth = (np.random.default_rng(1).random((400, len(labels))) < np.linspace(0.3, 0.02, len(labels))).astype(
        np.float32
    )
    run = runs.create(
        config, store=STORE, plan=plan.assign(drawn=1),
        about={"labels": list(labels), "task": "multilabel", "warnings": [], "knobs": trial.hyperparameters,
               "sweep": {"name": sweep.path.name, "metrics": sweep.info["metrics"], "knobs": sweep.info["knobs"]},
               "prevalence": {"val": prevalence(truth, labels=list(labels), patients=None)}},
    )  # fmt: skip
    metrics_table(config, labels, done, quality, rng).to_csv(run.path / "metrics.csv", index=False)
    status = {FINISHED: "finished", STOPPED: "stopped", FAILED: "failed", RUNNING: "started"}[trial.status]
    run.update(status=status, epochs=done, seconds=round(4.0 * done + float(rng.uniform(0, 3)), 2))
    if trial.status == FAILED:
        run.update(error="the loss of step 41 (epoch 1) is not a number: the training has diverged: lower optim.lr")


def metrics_table(
    config: cfg.Config, labels: Sequence[str], epochs: int, quality: float, rng: np.random.Generator
) -> pd.DataFrame:
    """`metrics.csv` of epochs 0 to `epochs`. Each label has its own difficulty; weights raise recall and lower precision."""
    power, rows = config.loss.pos_weight_power, []
    hard = np.linspace(0.9, 0.7, len(labels))
    for epoch in range(epochs + 1):
        learnt = (1 - np.exp(-epoch / 2.0)) * (0.35 + 0.65 * min(1.0, max(0.0, quality)))
        for part in ("train", "val") if epoch else ("val",):
            auroc = 0.5 + (hard - 0.5) * learnt + rng.normal(0, 0.008, len(labels)) + 0.02 * (part == "train")
            recall = np.clip(power * 0.5 + (auroc - 0.5) * 1.1 + rng.normal(0, 0.02, len(labels)), 0, 1)
            of_label = {
                "auroc": np.clip(auroc, 0, 1),
                "ap": np.clip((auroc - 0.45) * np.linspace(1.2, 0.2, len(labels)), 0.01, 1),
                "recall": recall,
                "precision": np.clip(0.7 - 0.5 * power * recall + rng.normal(0, 0.02, len(labels)), 0.02, 1),
            }
            step = epoch * 50
            for metric, value_L in of_label.items():
                cells = [*zip(labels, value_L, strict=True), ("mean", float(np.mean(value_L)))]
                rows += [(epoch, step, part, metric, label, float(v), 40, 400) for label, v in cells]
            rows.append((epoch, step, part, "loss", "", 0.7 - 0.3 * learnt + 0.02 * (part == "val"), 40, 400))
    return pd.DataFrame(rows, columns=runs.METRIC_COLUMNS)
