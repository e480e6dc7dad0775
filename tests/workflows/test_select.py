"""The result of a sweep: evaluated once on test, compared with other trials, and updated when the sweep is resumed."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.cli.commands import tune as command
from cxr_ray.cli.commands.tune import print_comparison
from cxr_ray.errors import UserError
from cxr_ray.evaluation.prediction_table import EvaluationSettings, PredictionTable
from cxr_ray.evaluation.results import evaluate_table
from cxr_ray.metrics import compute_metrics
from cxr_ray.runs import ensemble
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, Trial
from cxr_ray.workflows import select
from cxr_ray.workflows import tune as workflow
from cxr_ray.workflows.evaluation_request import EvaluationRequest
from tests.fakes.sweep import STORE

LABELS = ["Edema", "Mass"]
TRUTH = (np.random.default_rng(0).random((200, 2)) < [0.4, 0.3]).astype(np.float32)


def table(rows: Sequence[int], skill: float, seed: int) -> pd.DataFrame:
    """Predictions of rows 0 to 199, two per patient, whose probabilities follow the truth by `skill`."""
    at = np.asarray(rows)
    noise = np.random.default_rng(seed).normal(size=(200, 2))
    prob = 1 / (1 + np.exp(-(skill * (TRUTH - 0.5) + noise)))
    body: dict[str, Any] = {"row": at, "source_row": at, "patient": [f"p{r // 2}" for r in at], "study": "s"}
    body |= {f"true/{k}": TRUTH[at, j] for j, k in enumerate(LABELS)}
    return pd.DataFrame(body | {f"prob/{k}": prob[at, j].astype(np.float32) for j, k in enumerate(LABELS)})


def add(sweep: Sweep, number: int, skill: float, *, status: str = FINISHED) -> None:
    """Add an ended trial with its predictions of val; with folds, one trial per fold."""
    hyperparameters = {"optim.lr": number / 1000} if number else {}
    trials = []
    folds = sweep.config.tune.folds
    for fold in range(folds) if folds else [None]:
        name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
        trial = Trial(
            name,
            number,
            hyperparameters,
            fold,
            base=not number,
            status=status,
            error="boom" if status == FAILED else None,
        )
        trials.append(trial)
        val = [r for r in range(80) if fold is None or r // 2 % (folds or 1) == fold]
        train = sorted(set(range(80)) - set(val)) if folds else range(120, 200)
        plan = pd.concat([
            pd.DataFrame({"row": list(rows), "part": part, "drawn": 1})
            for part, rows in (("train", train), ("val", val), ("test", range(80, 120)))
        ])  # fmt: skip
        run = runs.create(
            sweep.trial_config(trial), store=STORE, plan=plan, about={"labels": LABELS, "task": "multilabel"}
        )
        predictions = table(val, skill, number)
        run.write_predictions("val", predictions)
        run.write_predictions("test", table(range(80, 120), skill, number))
        truth, prob = (predictions[[f"{kind}/{k}" for k in LABELS]].to_numpy() for kind in ("true", "prob"))
        values = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
        rows = [{"epoch": 1, "step": 1, "part": "val", **v._asdict()} for v in values]
        rows.append(
            {
                "epoch": 1,
                "step": 1,
                "part": "val",
                "metric": "loss",
                "label": "",
                "value": 1 / (1 + skill),
                "positives": 1,
                "rows": 1,
            }
        )
        pd.DataFrame(rows)[runs.METRIC_COLUMNS].to_csv(run.path / "metrics.csv", index=False)
        run.weights.touch()
        run.update(status="finished" if status == FINISHED else "failed")
    sweep.write_trials([*sweep.trial_records, *trials])


def make(folder: Path, *skills: float, data: dict[str, Any] | None = None, **tune: Any) -> Sweep:
    space = {"optim.lr": {"loguniform": [1e-6, 1e-1]}}
    config = cfg.validate({
        "name": "s", "output": str(folder), "data": {"shards": "x", **(data or {})}, "report": {"bootstrap": 50},
        "tune": {"space": space, "scheduler": "none", **tune},
    })  # fmt: skip
    about = {
        "labels": LABELS,
        "task": "multilabel",
        "knobs": ["optim.lr"],
        "metrics": config.tune.metrics,
        "modes": config.tune.modes,
        "constraints": [str(c) for c in ranking.constraints(config.tune)],
    }
    sweep = sweeps.create(config, store=STORE, about=about)
    for number, skill in enumerate(skills):
        add(sweep, number, skill)
    return sweep


@pytest.fixture(autouse=True)
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were evaluated on test, from saved predictions, since these runs have no store."""
    names: list[str] = []

    def evaluate(path: Path, request: EvaluationRequest, *, log: Any) -> None:
        assert request == EvaluationRequest(split="test")
        run = runs.Run(Path(path))
        names.append(run.path.name)
        tables = [member.predictions("test") for member in run.members or [run]]
        prob = [f"prob/{k}" for k in LABELS]
        mean = tables[0].assign(**{k: np.mean([t[k] for t in tables], axis=0) for k in prob})
        results = evaluate_table(PredictionTable(mean, LABELS, "multilabel"), EvaluationSettings(bootstrap=50))
        (run.path / "evaluation-test.json").write_text(json.dumps(results))
        run.update(test_looks=run.info["test_looks"] + 1)

    def make_ensemble(folder: Path, members: list[runs.Run]) -> runs.Run:
        if (folder / "run.json").exists():
            return runs.Run(folder)
        frame = ensemble.out_of_fold(members)
        plan = ensemble.combined_plan(members, frame)
        about = {"labels": LABELS, "task": "multilabel", "members": [str(m.path) for m in members]}
        config = members[0].config.model_copy(update={"name": folder.name, "output": str(folder.parent)})
        if len(members) < 2:
            raise UserError("an ensemble needs two runs or more")
        run = runs.create(config, store=STORE, plan=plan, about=about)
        run.write_predictions("val", frame)
        return run

    monkeypatch.setattr(select, "evaluate", evaluate)
    monkeypatch.setattr(ensemble, "make", make_ensemble)
    return names


def again(sweep: Sweep, **tune: Any) -> dict[str, Any]:
    """Change settings of the `tune` section, as a resumed sweep can, and select the best trial again."""
    config = sweep.config
    changed = config.model_copy(update={"tune": config.tune.model_copy(update=tune)})
    (sweep.path / "config.yaml").write_text(changed.to_yaml())
    return select.select_best(sweep, log=lambda line: None)


# What is done once, and what is done again


def test_a_second_call_evaluates_nothing_again(tmp_path: Path, evaluated: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, 2.0)
    comparison = select.select_best(sweep)
    assert (comparison["best"], comparison["second"], comparison["written"]) == (["0001"], ["0002"], ["0000"])
    assert select.select_best(sweep) == comparison == sweep.info["worth"] and evaluated == ["best"]
    assert runs.Run(sweep.path / "best").info["test_looks"] == 1 == sweep.info["test_looks"]
    assert "test was not evaluated before" in comparison["note"]


def test_a_new_second_best_trial_needs_no_evaluation_on_test(tmp_path: Path, evaluated: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 4.0, 1.5)
    before = select.select_best(sweep)
    add(sweep, 3, 3.0)
    after = again(sweep)
    assert {r["trial"] for r in before["against"]} == {"0002", "0000"}
    assert {r["trial"] for r in after["against"]} == {"0003", "0000"} and after["test"] == before["test"]
    assert evaluated == ["best"] and after["note"] == before["note"]


def test_an_ensemble_can_be_added_later(tmp_path: Path, evaluated: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, 2.0)
    select.select_best(sweep)
    comparison = again(sweep, ensemble=2)
    assert comparison["ensemble"]["members"] == ["0001", "0002"] and evaluated == ["best", "ensemble"]
    assert comparison["ensemble"]["test"]["auroc"]["value"] > 0.5
    assert again(sweep) == comparison and evaluated == ["best", "ensemble"]


def test_a_new_best_trial_is_counted_as_another_evaluation_of_test(tmp_path: Path, evaluated: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 2.0)
    select.select_best(sweep)
    runs.Run(sweep.path / "best").update(test_looks=2)  # evaluated again by the user
    add(sweep, 2, 4.0)
    comparison = again(sweep)
    assert comparison["best"] == ["0002"] and evaluated == ["best", "best"]
    assert "test was evaluated 2 times before in this sweep" in comparison["note"]
    assert sweep.info["test_looks"] == 3 == sweep.test_evaluations and again(sweep) == comparison


def test_too_few_trials_for_the_ensemble_are_noted(tmp_path: Path) -> None:
    comparison = select.select_best(make(tmp_path, 1.0, ensemble=3))
    assert "tune.ensemble is 3, but only 1 trials were evaluated" in comparison["note"] and "ensemble" not in comparison
    more = select.select_best(make(tmp_path / "two", 1.0, 2.0, ensemble=3))
    assert more["ensemble"]["members"] == ["0001", "0000"] and "but only 2 trials" in more["note"]


def test_the_results_on_test_are_saved_before_the_ensemble_can_fail(
    tmp_path: Path, evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(tmp_path, 1.0, 2.0, ensemble=2)

    def broken(folder: Path, members: Any) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space"):
        patch.setattr(ensemble, "make", broken)
        select.select_best(sweep)
    assert sweep.info["worth"]["test"] and evaluated == ["best"]
    assert select.select_best(sweep)["ensemble"] and evaluated == ["best", "ensemble"]


def test_a_sweep_without_evaluated_trials_is_an_error(tmp_path: Path) -> None:
    sweep = make(tmp_path)
    with pytest.raises(UserError, match=r"no trial of s was evaluated$"):
        select.select_best(sweep)
    add(sweep, 0, 1.0, status=FAILED)
    with pytest.raises(UserError, match="the first one failed: boom"):
        select.select_best(sweep)


# Differences to other trials


@pytest.mark.parametrize(
    ("metric", "mode", "key"),
    [
        ("val/f1/mean", "max", ("f1", "mean")),
        ("val/ap/mean", "max", ("ap", "mean")),
        ("val/auroc/Mass", "max", ("auroc", "Mass")),
        ("val/recall/micro", "max", ("recall", "micro")),
        ("val/exact_match", "max", ("exact_match", "")),
        ("val/brier/mean", "min", ("brier", "mean")),
    ],
)
def test_the_first_difference_is_that_of_the_objective(tmp_path: Path, metric: str, mode: str, key: Any) -> None:
    sweep = make(tmp_path, 1.0, 4.0, metric=metric, mode=mode)
    comparison = select.select_best(sweep)
    first, *rest = comparison["against"]
    best, other = sweep.ranked()
    assert (first["metric"], first["label"]) == key and first["what"] == "the second-best trial"
    assert first["value"] == pytest.approx(best.values[0] - other.values[0], abs=1e-6)
    assert first["low"] <= first["value"] <= first["high"] and 0 < first["p"] <= 1
    assert first.get("mode", "max") == mode and "mode" not in rest[0]
    order = [(r["metric"], r["label"]) for r in rest if r["what"] == "the second-best trial"]
    assert order == [("recall", "mean"), ("auroc", "mean"), ("precision", "mean")]
    name = key[0] if key[1] in ("mean", "") else "/".join(key)
    assert {name, "recall", "auroc", "precision"} == set(comparison["test"]) and comparison["test"][name][
        "label"
    ] == key[1]


def test_the_loss_has_a_difference_without_an_interval(tmp_path: Path) -> None:
    sweep = make(tmp_path, 1.0, 4.0, metric="val/loss", mode="min")
    row = select.select_best(sweep)["against"][0]
    assert row["metric"] == "loss" and row["value"] == pytest.approx(1 / 5 - 1 / 2) and "low" not in row


@pytest.mark.parametrize("mode", ["max", "min"])
def test_folds_are_paired_image_by_image(tmp_path: Path, mode: str) -> None:
    """Each image is predicted by the model that had it in val; the difference is that of the metrics over all of them."""
    metric = "val/auroc/mean" if mode == "max" else "val/brier/mean"
    sweep = make(tmp_path, 1.0, 3.0, folds=2, metric=metric, mode=mode)
    comparison = select.select_best(sweep)
    assert comparison["best"] == ["0001-fold-0", "0001-fold-1"]
    first = comparison["against"][0]
    best, other = sweep.ranked()
    found = []
    for one in (best, other):
        all_folds = pd.concat([sweep.run(t).predictions("val") for t in one.trials])
        truth, prob = (all_folds[[f"{kind}/{k}" for k in LABELS]].to_numpy() for kind in ("true", "prob"))
        values = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
        found.append(next(v.value for v in values if f"val/{v.metric}/{v.label}" == metric))
    assert first["value"] == pytest.approx(found[0] - found[1], abs=1e-6)
    assert first["low"] <= first["value"] <= first["high"] and first["trial"] == "0000"
    gaps = [a.values[metric] - b.values[metric] for a, b in zip(best.trials, other.trials, strict=True)]
    assert first["by_fold"] == pytest.approx(np.mean(gaps)) and first["folds"] == 2
    assert first["folds_better"] == sum(g > 0 if mode == "max" else g < 0 for g in gaps) == 2


# What the terminal shows


def test_the_terminal_shows_folds_and_unmet_constraints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, folds=2, constraint="val/recall/mean >= 0.999")
    print_comparison(sweep, select.select_best(sweep))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "winner: trial 0001-fold-0, 0001-fold-1: optim.lr 0.001"
    assert lines[1].startswith("  val/auroc/mean 0.") and "(deviation between folds 0." in lines[1]
    assert lines[2].startswith("  on test: auroc 0.") and lines[2].index("recall") < lines[2].index("precision")
    assert lines[3].startswith("  difference to the second-best trial (0000) on val: auroc/mean +0.")
    assert "; better on 2 of 2 folds, their means differ by +0." in lines[3]
    assert lines[-1].startswith(
        "  note: no trial meets val/recall/mean >= 0.999: the best trial without this constraint is shown; the value on val"
    )


def test_the_terminal_shows_an_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(tmp_path, 1.0, 1.01, ensemble=2, metric="val/auroc/Mass")
    print_comparison(sweep, select.select_best(sweep))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("  on test: auroc/Mass 0.") and lines[3].startswith(
        "  the ensemble on test: auroc/Mass 0."
    )
    against = list(itertools.takewhile(lambda line: "difference to the second-best trial" in line, lines[4:]))
    assert "auroc/Mass" in against[0] and len(against) == 4
    row = {"metric": "auroc", "label": "Mass", "value": 0.01, "low": -0.02, "high": 0.03, "p": 0.4}
    assert command.format_difference(row) == "auroc/Mass +0.0100 (-0.020 to +0.030), p 0.4; within noise"
    assert command.format_difference({**row, "low": 0.001}) == "auroc/Mass +0.0100 (+0.001 to +0.030), p 0.4"


# Refits


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list[cfg.Config]:
    """The configs that were trained. A training copies the folder of trial 0001."""
    from cxr_ray.on_ray import train as on_ray
    from cxr_ray.on_ray import tune as on_tune

    configs: list[cfg.Config] = []

    def train(config: cfg.Config, *, address: str | None = None, wait: float | None = None) -> runs.Run:
        configs.append(config)
        sweep = Sweep(Path(config.output) if config.name == "refit" else Path(config.output).parent)
        shutil.copytree(sweep.path / "trials" / "0001", Path(config.output) / str(config.name))
        run = runs.Run(Path(config.output) / str(config.name))
        (run.path / "config.yaml").write_text(config.to_yaml())
        run.update(test_looks=0)
        return run

    monkeypatch.setattr(on_ray, "train", train)
    monkeypatch.setattr(on_tune, "tune", lambda config, **kw: Sweep(Path(config.output) / config.name))
    monkeypatch.setattr(workflow, "try_write_page", lambda sweep: None)
    return configs


def test_a_refit_uses_all_rows_and_is_done_once(
    tmp_path: Path, training: list[cfg.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(tmp_path, 1.0, 3.0, data={"limit": 50})
    command.run(sweep.config, refit="best")
    (config,) = training
    assert config.optim.lr == 0.001 and config.data.limit is None and config.tune == cfg.Tune()
    assert (config.name, config.output, config.data.split.folds) == ("refit", str(sweep.path), None)
    assert f"refit: {sweep.path / 'refit'}" in capsys.readouterr().out
    command.run(sweep.config, refit="best")
    output = capsys.readouterr().out
    assert len(training) == 1 and "refit is already finished" in output and f"refit: {sweep.path / 'refit'}" in output
    add(sweep, 2, 5.0)
    with pytest.raises(UserError, match=r"an earlier best trial \(optim.lr: was 0.001, is 0.002\); move or remove it"):
        command.run(sweep.config, refit="best")


def test_a_refit_takes_other_settings(tmp_path: Path, training: list[cfg.Config]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, data={"limit": 50})
    changes = {"train": {"epochs": 20}, "data": {"image_size": (32, 32)}}
    command.run(sweep.config, refit="best", changes=changes)
    (config,) = training
    assert (config.train.epochs, config.data.image_size, config.data.limit) == (20, (32, 32), None)
    assert config.optim.lr == 0.001 and config.name == "refit" and sweep.config.train.epochs != 20
    command.run(sweep.config, refit="best", changes=changes)
    assert len(training) == 1
    for other in ({"train": {"epochs": 30}}, None):  # without any, the winner's own epochs are meant
        with pytest.raises(UserError, match=r"\(train.epochs: was 20, is \d+\); move or remove it"):
            command.run(sweep.config, refit="best", changes=other)
    with pytest.raises(UserError, match=r"train\.epochs"):
        command.run(sweep.config, refit="best", changes={"train": {"epochs": -1}})
    command.run(sweep.config, refit="folds", changes=changes)
    assert [one.train.epochs for one in training[1:]] == [20] * 5


def test_flags_of_a_resumed_sweep_are_those_of_its_refit(tmp_path: Path) -> None:
    sweep = make(tmp_path, 1.0, 3.0)
    words = ("--epochs", "20", "--tune.trials", "9")
    config, changes = command.read_sweep(str(sweep.path), None, words, refit=True)
    assert changes == {"train": {"epochs": 20}} and config.tune.trials == 9 and config.train == sweep.config.train
    config, changes = command.read_sweep(str(sweep.path), None, words)
    assert changes == {} and config.train.epochs == 20  # refused when the sweep is opened
    with pytest.raises(UserError, match="cxr-ray train --from"):
        command.read_sweep(str(sweep.path), None, ("--name", "longer"), refit=True)


def test_a_refit_on_folds(
    tmp_path: Path, training: list[cfg.Config], evaluated: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(tmp_path, 1.0, 3.0, data={"limit": 50, "split": {"val": "official"}})
    command.run(sweep.config, refit="folds")
    assert [(c.name, c.data.split.folds, c.data.split.fold) for c in training] == [
        (f"fold-{k}", 5, k) for k in range(5)
    ]
    for config in training:
        assert config.output == str(sweep.path / "folds") and config.data.limit is None and config.optim.lr == 0.001
        assert cfg.validate(config.model_dump()) == config
    folds = sweep.info["folds"]
    value = sweep.ranked()[0].values[0]  # each fold is a copy of the best trial
    assert folds["objectives"]["val/auroc/mean"]["mean"] == pytest.approx(value) and len(folds["runs"]) == 5
    assert folds["objectives"]["val/auroc/mean"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert evaluated == ["best", "ensemble"] and set(folds["test"]) == {"auroc", "recall", "precision"}
    assert sweep.info["test_looks"] == 2
    output = capsys.readouterr().out
    assert (
        f"  val/auroc/mean {value:.4f} (deviation between folds 0.0000)" in output
        and "their ensemble on test" in output
    )
    shutil.rmtree(sweep.path / "folds" / "fold-3")
    command.run(sweep.config, refit="folds")
    assert [c.name for c in training[5:]] == ["fold-3"] and evaluated == ["best", "ensemble"]


def test_a_winner_of_folds_is_not_trained_on_folds_again(
    tmp_path: Path, training: list[cfg.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    command.run(make(tmp_path, 1.0, 3.0, folds=2).config, refit="folds")
    assert not training and "was already trained on 2 folds: best is their ensemble" in capsys.readouterr().out
