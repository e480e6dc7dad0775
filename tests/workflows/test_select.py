"""What a sweep has won: judged once on test, what its lead is worth, and what is done anew when the sweep goes on."""

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
from cxr_ray.evaluation.results import evaluation
from cxr_ray.metrics import compute_metrics
from cxr_ray.runs import ensemble
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, Trial
from cxr_ray.workflows import select
from tests.fakes.sweep import STORE

LABELS = ["Edema", "Mass"]
TRUTH = (np.random.default_rng(0).random((200, 2)) < [0.4, 0.3]).astype(np.float32)


def table(rows: Sequence[int], skill: float, seed: int) -> pd.DataFrame:
    """Predictions of rows 0 to 199, two a patient, that know `skill` of the truth."""
    at = np.asarray(rows)
    noise = np.random.default_rng(seed).normal(size=(200, 2))
    prob = 1 / (1 + np.exp(-(skill * (TRUTH - 0.5) + noise)))
    body: dict[str, Any] = {"row": at, "source_row": at, "patient": [f"p{r // 2}" for r in at], "study": "s"}
    body |= {f"true/{k}": TRUTH[at, j] for j, k in enumerate(LABELS)}
    return pd.DataFrame(body | {f"prob/{k}": prob[at, j].astype(np.float32) for j, k in enumerate(LABELS)})


def add(sweep: Sweep, number: int, skill: float, *, status: str = FINISHED) -> None:
    """A trial that ended, with its predictions of val (and, over folds, one a fold)."""
    hyperparameters = {"optim.lr": number / 1000} if number else {}
    made = []
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
        made.append(trial)
        val = [r for r in range(80) if fold is None or r // 2 % (folds or 1) == fold]
        train = sorted(set(range(80)) - set(val)) if folds else range(120, 200)
        plan = pd.concat([
            pd.DataFrame({"row": list(rows), "part": part, "drawn": 1})
            for part, rows in (("train", train), ("val", val), ("test", range(80, 120)))
        ])  # fmt: skip
        run = runs.create(
            sweep.trial_config(trial), store=STORE, plan=plan, about={"labels": LABELS, "task": "multilabel"}
        )
        held = table(val, skill, number)
        run.write_predictions("val", held)
        run.write_predictions("test", table(range(80, 120), skill, number))
        truth, prob = (held[[f"{kind}/{k}" for k in LABELS]].to_numpy() for kind in ("true", "prob"))
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
    sweep.write_trials([*sweep.trials, *made])


def make(folder: Path, *skills: float, data: dict[str, Any] | None = None, **tune: Any) -> Sweep:
    space = {"optim.lr": {"loguniform": [1e-6, 1e-1]}}
    config = cfg.validate({
        "name": "s", "output": str(folder), "data": {"shards": "x", **(data or {})}, "report": {"bootstrap": 50},
        "tune": {"space": space, "scheduler": "none", **tune},
    })  # fmt: skip
    hyperparameters = config.tune
    sweep = sweeps.create(
        config, store=STORE,
        about={"labels": LABELS, "task": "multilabel", "knobs": ["optim.lr"], "metrics": hyperparameters.metrics, "modes": hyperparameters.modes,
               "constraints": [str(c) for c in ranking.constraints(hyperparameters)]},
    )  # fmt: skip
    for number, skill in enumerate(skills):
        add(sweep, number, skill)
    return sweep


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were judged on test: by their kept predictions, since these runs have no store."""
    looked: list[str] = []

    def evaluate(path: Path, *, split: str, log: Any) -> None:
        run = runs.Run(Path(path))
        looked.append(run.path.name)
        held = run.members or [run]
        tables = [member.predictions("test") for member in held]
        prob = [f"prob/{k}" for k in LABELS]
        mean = tables[0].assign(**{k: np.mean([t[k] for t in tables], axis=0) for k in prob})
        found = evaluation(mean, LABELS, "multilabel", 0.5, baselines={}, bootstrap=50, interval_by="patient", seed=0)
        (run.path / "evaluation-test.json").write_text(json.dumps(found))
        run.update(test_looks=run.info["test_looks"] + 1)

    def make_ensemble(folder: Path, members: list[runs.Run]) -> runs.Run:
        if (folder / "run.json").exists():
            return runs.Run(folder)
        frame = ensemble.out_of_fold(members)
        plan = ensemble._plan(members, frame)
        about = {"labels": LABELS, "task": "multilabel", "members": [str(m.path) for m in members]}
        made = members[0].config.model_copy(update={"name": folder.name, "output": str(folder.parent)})
        if len(members) < 2:
            raise UserError("an ensemble is of two runs or more")
        run = runs.create(made, store=STORE, plan=plan, about=about)
        run.write_predictions("val", frame)
        return run

    monkeypatch.setattr(select, "evaluate", evaluate)
    monkeypatch.setattr(ensemble, "make", make_ensemble)
    return looked


def again(sweep: Sweep, **tune: Any) -> dict[str, Any]:
    """The sweep gone on with other knobs of the tune block, and concluded."""
    config = sweep.config
    made = config.model_copy(update={"tune": config.tune.model_copy(update=tune)})
    (sweep.path / "config.yaml").write_text(made.to_yaml())
    return select.conclude(sweep, log=lambda line: None)


# What is done once, and what anew


def test_nothing_new_is_no_second_look(tmp_path: Path, judged: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, 2.0)
    worth = select.conclude(sweep)
    assert (worth["best"], worth["second"], worth["written"]) == (["0001"], ["0002"], ["0000"])
    assert select.conclude(sweep) == worth == sweep.info["worth"] and judged == ["best"]
    assert runs.Run(sweep.path / "best").info["test_looks"] == 1 == sweep.info["test_looks"]
    assert "test was not looked at before" in worth["note"]


def test_a_new_second_is_told_without_a_new_look(tmp_path: Path, judged: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 4.0, 1.5)
    before = select.conclude(sweep)
    add(sweep, 3, 3.0)
    after = again(sweep)
    assert {r["trial"] for r in before["against"]} == {"0002", "0000"}
    assert {r["trial"] for r in after["against"]} == {"0003", "0000"} and after["test"] == before["test"]
    assert judged == ["best"] and after["note"] == before["note"]


def test_an_ensemble_asked_for_later_is_made(tmp_path: Path, judged: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, 2.0)
    select.conclude(sweep)
    worth = again(sweep, ensemble=2)
    assert worth["ensemble"]["members"] == ["0001", "0002"] and judged == ["best", "ensemble"]
    assert worth["ensemble"]["test"]["auroc"]["value"] > 0.5
    assert again(sweep) == worth and judged == ["best", "ensemble"]


def test_a_new_winner_is_told_to_be_a_further_look(tmp_path: Path, judged: list[str]) -> None:
    sweep = make(tmp_path, 1.0, 2.0)
    select.conclude(sweep)
    runs.Run(sweep.path / "best").update(test_looks=2)  # by hand
    add(sweep, 2, 4.0)
    worth = again(sweep)
    assert worth["best"] == ["0002"] and judged == ["best", "best"]
    assert "test was looked at 2 times before in this sweep" in worth["note"]
    assert sweep.info["test_looks"] == 3 == sweep.test_looks and again(sweep) == worth


def test_an_ensemble_of_one_says_so_and_keeps_what_was_seen(tmp_path: Path) -> None:
    worth = select.conclude(make(tmp_path, 1.0, ensemble=3))
    assert "tune.ensemble asks for 3 trials, and 1 were judged" in worth["note"] and "ensemble" not in worth
    more = select.conclude(make(tmp_path / "two", 1.0, 2.0, ensemble=3))
    assert more["ensemble"]["members"] == ["0001", "0000"] and "and 2 were judged" in more["note"]


def test_what_was_seen_on_test_is_kept_where_the_ensemble_fails(
    tmp_path: Path, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(tmp_path, 1.0, 2.0, ensemble=2)

    def broken(folder: Path, members: Any) -> None:
        raise UserError("no space left")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space"):
        patch.setattr(ensemble, "make", broken)
        select.conclude(sweep)
    assert sweep.info["worth"]["test"] and judged == ["best"]
    assert select.conclude(sweep)["ensemble"] and judged == ["best", "ensemble"]


def test_no_trial_that_ended_is_an_error(tmp_path: Path) -> None:
    sweep = make(tmp_path)
    with pytest.raises(UserError, match=r"no trial of s was judged$"):
        select.conclude(sweep)
    add(sweep, 0, 1.0, status=FAILED)
    with pytest.raises(UserError, match="the first one failed: boom"):
        select.conclude(sweep)


# The lead


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
def test_the_lead_is_told_of_the_objective_first(tmp_path: Path, metric: str, mode: str, key: Any) -> None:
    sweep = make(tmp_path, 1.0, 4.0, metric=metric, mode=mode)
    worth = select.conclude(sweep)
    first, *rest = worth["against"]
    best, other = sweep.ranked()
    assert (first["metric"], first["label"]) == key and first["what"] == "the second"
    assert first["value"] == pytest.approx(best.values[0] - other.values[0], abs=1e-6)
    assert first["low"] <= first["value"] <= first["high"] and 0 < first["p"] <= 1
    assert first.get("mode", "max") == mode and "mode" not in rest[0]
    order = [(r["metric"], r["label"]) for r in rest if r["what"] == "the second"]
    assert order == [("recall", "mean"), ("auroc", "mean"), ("precision", "mean")]
    name = key[0] if key[1] in ("mean", "") else "/".join(key)
    assert {name, "recall", "auroc", "precision"} == set(worth["test"]) and worth["test"][name]["label"] == key[1]


def test_a_metric_that_no_table_holds_has_a_lead_without_an_interval(tmp_path: Path) -> None:
    sweep = make(tmp_path, 1.0, 4.0, metric="val/loss", mode="min")
    row = select.conclude(sweep)["against"][0]
    assert row["metric"] == "loss" and row["value"] == pytest.approx(1 / 5 - 1 / 2) and "low" not in row


@pytest.mark.parametrize("mode", ["max", "min"])
def test_folds_are_paired_image_by_image(tmp_path: Path, mode: str) -> None:
    """Each image predicted by the model that held it out; the gap is that of two judges over all of them."""
    metric = "val/auroc/mean" if mode == "max" else "val/brier/mean"
    sweep = make(tmp_path, 1.0, 3.0, folds=2, metric=metric, mode=mode)
    worth = select.conclude(sweep)
    assert worth["best"] == ["0001-fold-0", "0001-fold-1"]
    first = worth["against"][0]
    best, other = sweep.ranked()
    found = []
    for one in (best, other):
        whole = pd.concat([sweep.run(t).predictions("val") for t in one.trials])
        truth, prob = (whole[[f"{kind}/{k}" for k in LABELS]].to_numpy() for kind in ("true", "prob"))
        values = compute_metrics(truth, prob, labels=LABELS, task="multilabel", thresholds_L=[0.5, 0.5])
        found.append(next(v.value for v in values if f"val/{v.metric}/{v.label}" == metric))
    assert first["value"] == pytest.approx(found[0] - found[1], abs=1e-6)
    assert first["low"] <= first["value"] <= first["high"] and first["trial"] == "0000"
    gaps = [a.values[metric] - b.values[metric] for a, b in zip(best.trials, other.trials, strict=True)]
    assert first["by_fold"] == pytest.approx(np.mean(gaps)) and first["folds"] == 2
    assert first["folds_better"] == sum(g > 0 if mode == "max" else g < 0 for g in gaps) == 2


# What is told on the terminal


def test_worth_is_told_with_folds_and_constraints_unmet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(tmp_path, 1.0, 3.0, folds=2, constraint="val/recall/mean >= 0.999")
    print_comparison(sweep, select.conclude(sweep))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "winner: trial 0001-fold-0, 0001-fold-1: optim.lr 0.001"
    assert lines[1].startswith("  val/auroc/mean 0.") and "(deviation between folds 0." in lines[1]
    assert lines[2].startswith("  on test: auroc 0.") and lines[2].index("recall") < lines[2].index("precision")
    assert lines[3].startswith("  less the second (0000) on val: auroc/mean +0.")
    assert "; better on 2 of 2 folds, their means differ by +0." in lines[3]
    assert lines[-1].startswith(
        "  note: no trial meets val/recall/mean >= 0.999: the best without it is shown; val chose"
    )


def test_worth_is_told_with_an_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make(tmp_path, 1.0, 1.01, ensemble=2, metric="val/auroc/Mass")
    print_comparison(sweep, select.conclude(sweep))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("  on test: auroc/Mass 0.") and lines[3].startswith(
        "  the ensemble on test: auroc/Mass 0."
    )
    against = list(itertools.takewhile(lambda line: "less the second" in line, lines[4:]))
    assert "auroc/Mass" in against[0] and len(against) == 4
    row = {"metric": "auroc", "label": "Mass", "value": 0.01, "low": -0.02, "high": 0.03, "p": 0.4}
    assert command._lead(row) == "auroc/Mass +0.0100 (-0.020 to +0.030), p 0.4; within noise"
    assert command._lead({**row, "low": 0.001}) == "auroc/Mass +0.0100 (+0.001 to +0.030), p 0.4"


# Trained once more


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> list[cfg.Config]:
    """The configs that were trained, each by what a trial of their knobs left."""
    from cxr_ray.on_ray import train as on_ray
    from cxr_ray.on_ray import tune as on_tune

    asked: list[cfg.Config] = []

    def train(config: cfg.Config, *, address: str | None = None) -> runs.Run:
        asked.append(config)
        sweep = Sweep(Path(config.output) if config.name == "refit" else Path(config.output).parent)
        shutil.copytree(sweep.path / "trials" / "0001", Path(config.output) / str(config.name))
        run = runs.Run(Path(config.output) / str(config.name))
        (run.path / "config.yaml").write_text(config.to_yaml())
        run.update(test_looks=0)
        return run

    monkeypatch.setattr(on_ray, "train", train)
    monkeypatch.setattr(on_tune, "tune", lambda config, **kw: Sweep(Path(config.output) / config.name))
    monkeypatch.setattr(command, "page_of", lambda sweep: None)
    return asked


def test_a_refit_is_the_winner_on_all_rows_and_done_once(
    tmp_path: Path, training: list[cfg.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(tmp_path, 1.0, 3.0, data={"limit": 50})
    command.run(sweep.config, refit="best")
    (config,) = training
    assert config.optim.lr == 0.001 and config.data.limit is None and config.tune == cfg.Tune()
    assert (config.name, config.output, config.data.split.folds) == ("refit", str(sweep.path), None)
    assert f"refit: {sweep.path / 'refit'}" in capsys.readouterr().out
    command.run(sweep.config, refit="best")
    told = capsys.readouterr().out
    assert len(training) == 1 and "refit is finished already" in told and f"refit: {sweep.path / 'refit'}" in told
    add(sweep, 2, 5.0)
    with pytest.raises(UserError, match=r"an earlier winner \(optim.lr: was 0.001, is 0.002\); move or remove it"):
        command.run(sweep.config, refit="best")


def test_the_winner_alone_on_folds(
    tmp_path: Path, training: list[cfg.Config], judged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(tmp_path, 1.0, 3.0, data={"limit": 50, "split": {"val": "official"}})
    command.run(sweep.config, refit="folds")
    assert [(c.name, c.data.split.folds, c.data.split.fold) for c in training] == [
        (f"fold-{k}", 5, k) for k in range(5)
    ]
    for config in training:
        assert config.output == str(sweep.path / "folds") and config.data.limit is None and config.optim.lr == 0.001
        assert cfg.validate(config.model_dump()) == config
    said = sweep.info["folds"]
    value = sweep.ranked()[0].values[0]  # each stands for the winner here
    assert said["objectives"]["val/auroc/mean"]["mean"] == pytest.approx(value) and len(said["runs"]) == 5
    assert said["objectives"]["val/auroc/mean"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert judged == ["best", "ensemble"] and set(said["test"]) == {"auroc", "recall", "precision"}
    assert sweep.info["test_looks"] == 2
    told = capsys.readouterr().out
    assert f"  val/auroc/mean {value:.4f} (deviation between folds 0.0000)" in told and "their ensemble on test" in told
    shutil.rmtree(sweep.path / "folds" / "fold-3")
    command.run(sweep.config, refit="folds")
    assert [c.name for c in training[5:]] == ["fold-3"] and judged == ["best", "ensemble"]


def test_a_winner_that_was_trained_on_its_folds_is_not_again(
    tmp_path: Path, training: list[cfg.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    command.run(make(tmp_path, 1.0, 3.0, folds=2).config, refit="folds")
    assert not training and "was trained on 2 folds already: best is their ensemble" in capsys.readouterr().out
