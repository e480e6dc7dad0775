"""The sweep folder: what a trial came to, who is ahead, what is whole after a kill, and what is refused."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.errors import UserError
from cxr_ray.tuning import ranking
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.ranking import Constraint
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial
from tests.fakes.sweep import STORE, make_sweep

LABELS = ("Edema", "Mass")


def made(number: int, fold: int | None = None, status: str = FINISHED, epoch: int | None = 3, **values: float) -> Trial:
    name = f"{number:04d}" + ("" if fold is None else f"-fold-{fold}")
    named = {f"val/{k.replace('_', '/')}": v for k, v in values.items()}
    return Trial(name, number, {"optim.lr": number / 10}, fold, status=status, epoch=epoch, values=named)


def order(trials: list[Trial], *limits: str, **tune: Any) -> list[int]:
    hyperparameters = cfg.Tune(constraint=list(limits) or None, **tune)
    return [r.number for r in ranking.ranked(trials, hyperparameters, ranking.constraints(hyperparameters))]


# Who is ahead


def test_the_best_is_first_and_the_undefined_last() -> None:
    trials = [made(0, auroc_mean=0.7), made(1, auroc_mean=0.9), made(2, recall_mean=0.9), made(3, auroc_mean=0.8)]
    assert order(trials) == [1, 3, 0, 2]
    assert order(trials, metric="val/auroc/macro") == [1, 3, 0, 2]  # the same by its other name
    losses = [made(0, loss=0.4), made(1, loss=0.2), made(2, loss=0.3)]
    assert order(losses, metric="val/loss", mode="min") == [1, 2, 0]


def test_what_failed_or_was_not_judged_has_no_place() -> None:
    trials = [made(0, auroc_mean=0.7), made(1, status=FAILED, auroc_mean=0.9), made(2, status=WAITING, epoch=None),
              made(3, status=STOPPED, auroc_mean=0.8), made(4, status=RUNNING, auroc_mean=0.75)]  # fmt: skip
    assert order(trials) == [3, 4, 0]
    assert order([]) == []


def test_a_constraint_comes_before_the_objective() -> None:
    trials = [made(0, auroc_mean=0.9, recall_mean=0.5), made(1, auroc_mean=0.7, recall_mean=0.8), made(2, auroc_mean=0.8, recall_mean=0.9),
              made(3, auroc_mean=0.95)]  # fmt: skip
    assert order(trials, "val/recall/mean >= 0.8") == [2, 1, 3, 0]
    assert order(trials, "val/recall/macro >= 0.8") == [2, 1, 3, 0]
    assert order(trials, "val/recall/mean >= 0.8", "val/auroc/mean <= 0.75") == [1, 3, 0, 2]


def test_folds_are_judged_by_their_mean_once_all_are_there() -> None:
    trials = [made(0, 0, auroc_mean=0.9), made(0, 1, auroc_mean=0.7), made(1, 0, auroc_mean=0.82), made(1, 1, auroc_mean=0.84),
              made(2, 0, auroc_mean=0.99)]  # fmt: skip
    hyperparameters = cfg.Tune(folds=2, scheduler="none")
    found = ranking.ranked(trials, hyperparameters, [])
    assert [r.number for r in found] == [1, 0]
    assert found[0].values == pytest.approx((0.83,)) and found[0].deviation == pytest.approx(
        (np.std([0.82, 0.84], ddof=1),)
    )
    assert found[0].hyperparameters == {"optim.lr": 0.1} and len(found[0].trials) == 2
    undefined = [made(0, 0, auroc_mean=0.9), made(0, 1, recall_mean=0.7), *trials[2:4]]
    assert [r.number for r in ranking.ranked(undefined, hyperparameters, [])] == [
        1,
        0,
    ]  # no mean over a fold that has none
    one_failed = [trials[0], replace(trials[1], status=FAILED), *trials[2:4]]
    assert [r.number for r in ranking.ranked(one_failed, hyperparameters, [])] == [1]


def test_no_fold_has_no_deviation() -> None:
    hyperparameters = cfg.Tune(metric=["val/auroc/mean", "val/recall/mean"])
    (found,) = ranking.ranked([made(0, auroc_mean=0.9)], hyperparameters, [])
    assert found.values[0] == 0.9 and math.isnan(found.values[1]) and all(math.isnan(d) for d in found.deviation)


@given(st.lists(st.floats(0, 1) | st.none(), max_size=12), st.sampled_from(["max", "min"]))
def test_the_order_is_that_of_sorting(values: list[float | None], mode: Any) -> None:
    trials = [made(i, **({} if v is None else {"auroc_mean": v})) for i, v in enumerate(values)]
    defined = sorted((v for v in values if v is not None), reverse=mode == "max")
    found = ranking.ranked(trials, cfg.Tune(mode=mode), [])
    assert [r.values[0] for r in found[: len(defined)]] == defined
    assert all(math.isnan(r.values[0]) for r in found[len(defined) :]) and len(found) == len(values)


# Trade-offs


def beats(a: Any, b: Any, modes: Any) -> bool:
    """a is at least as good in all and better in one, from the definition."""
    gains = [x - y if mode == "max" else y - x for x, y, mode in zip(a, b, modes, strict=True)]
    return all(g >= 0 for g in gains) and any(g > 0 for g in gains)


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.tuples(
            st.lists(st.tuples(*[st.integers(0, 4) | st.just(math.nan)] * m), max_size=10),
            st.tuples(*[st.sampled_from(["max", "min"])] * m),
        )
    )
)
def test_pareto_is_what_nothing_beats(given_: tuple[list[tuple[float, ...]], tuple[Any, ...]]) -> None:
    rows, modes = given_
    found = ranking.pareto(np.array(rows, float).reshape(len(rows), len(modes)), modes).tolist()
    known = [not any(math.isnan(v) for v in row) for row in rows]
    want = [
        known[i] and not any(known[j] and beats(other, row, modes) for j, other in enumerate(rows))
        for i, row in enumerate(rows)
    ]
    assert found == want


def test_equal_trials_stand_together_on_the_front() -> None:
    assert ranking.pareto([[1, 2], [1, 2], [0, 3], [1, 1]], ["max", "max"]).tolist() == [True, True, True, False]


def test_what_misses_a_constraint_is_not_on_the_front_nor_beats_what_is() -> None:
    hyperparameters = cfg.Tune(metric=["val/auroc/mean", "val/precision/mean"], constraint="val/recall/mean >= 0.5")
    trials = [made(0, auroc_mean=0.9, precision_mean=0.9, recall_mean=0.4), made(1, auroc_mean=0.8, precision_mean=0.5, recall_mean=0.6),
              made(2, auroc_mean=0.7, precision_mean=0.6, recall_mean=0.5), made(3, auroc_mean=0.7, precision_mean=0.5, recall_mean=0.9)]  # fmt: skip
    order = ranking.ranked(trials, hyperparameters, ranking.constraints(hyperparameters))
    assert (
        ranking.front(order, hyperparameters.modes) == {1, 2}
        and ranking.front(order[-1:], hyperparameters.modes) == set()
    )


# Constraints


@pytest.mark.parametrize(
    ("said", "metric", "above", "limit"),
    [
        ("val/recall/mean >= 0.8", "val/recall/mean", True, 0.8),
        ("  val/loss<=1e-1 ", "val/loss", False, 0.1),
        ("val/recall/Pleural Effusion >= .5", "val/recall/Pleural Effusion", True, 0.5),
        ("val/recall/macro >= -1", "val/recall/mean", True, -1.0),
    ],
)
def test_constraints_are_read(said: str, metric: str, above: bool, limit: float) -> None:
    assert ranking.constraints(cfg.Tune(constraint=said)) == [Constraint(metric, above, limit)]


@pytest.mark.parametrize(
    "said",
    [
        "val/recall/mean > 0.8",
        "val/recall/mean >= ",
        ">= 0.8",
        "val/recall/mean >= 0.8.1",
        "recall",
        "",
        "val/loss <= e",
    ],
)
def test_constraints_that_cannot_be_read_say_how(said: str) -> None:
    with pytest.raises(UserError, match=r'tune\.constraint: cannot read .*; say "METRIC >= NUMBER"'):
        ranking.constraints(cfg.Tune(constraint=[said]))


def test_a_constraint_is_met_at_its_limit_and_by_no_undefined_value() -> None:
    least, most = Constraint("val/recall/mean", True, 0.8), Constraint("val/loss", False, 0.5)
    assert least.met({"val/recall/mean": 0.8}) and not least.met({"val/recall/mean": 0.7999}) and not least.met({})
    assert most.met({"val/loss": 0.5}) and not most.met({"val/loss": 0.6}) and not most.met({"val/loss": math.nan})
    assert (str(least), str(most)) == ("val/recall/mean >= 0.8", "val/loss <= 0.5")


# The epoch that counts


def history(*rows: tuple[int, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["epoch", "metric", "label", "value"])


def test_the_kept_epoch_is_the_monitors_best_the_first_of_equals() -> None:
    table = history(
        (0, "auroc", "mean", 0.9),  # the untrained model's luck
        (1, "auroc", "mean", 0.8),
        (2, "auroc", "mean", 0.8),
        (2, "loss", "", 0.1),
        (1, "loss", "", 0.3),
    )
    assert runs.selected_epoch(table, cfg.Train()) == 1
    assert runs.selected_epoch(table, cfg.Train(monitor="val/auroc/macro")) == 1
    assert runs.selected_epoch(table, cfg.Train(monitor="val/loss")) == 2
    assert runs.selected_epoch(table, cfg.Train(select="last")) == 2
    assert runs.selected_epoch(table.iloc[:0], cfg.Train()) is None


def test_while_the_monitor_is_undefined_the_newest_counts() -> None:
    """As the engine keeps it: until the metric is defined the newest epoch is the best."""
    table = history((0, "loss", "", 0.5), (1, "loss", "", 0.6))
    assert runs.selected_epoch(table, cfg.Train()) == 1


@given(st.lists(st.sampled_from([None, 0.1, 0.2, 0.3]), min_size=1, max_size=6), st.sampled_from(["max", "min"]))
def test_the_kept_epoch_is_the_engines(values: list[float | None], mode: Any) -> None:
    """The engine's own rule, restated: better than the best so far, the untrained model's apart; undefined counts while nothing
    defined is held."""
    sign = 1 if mode == "max" else -1
    best: tuple[int, float | None] | None = None
    for epoch, value in enumerate(values):
        known = best is not None and best[1] is not None and best[0] > 0
        if (value is not None and (not known or sign * value > sign * best[1])) or (value is None and not known):  # type: ignore[index, operator]
            best = epoch, value
    rows = [(e, "auroc", "mean", v) for e, v in enumerate(values) if v is not None]
    table = history(*rows, *((e, "loss", "", 0.5) for e in range(len(values))))
    assert best is not None
    assert runs.selected_epoch(table, cfg.Train(monitor_mode=mode)) == best[0]


# The folder


def test_trials_say_what_their_run_folders_say(tmp_path: Path) -> None:
    sweep = make_sweep(
        tmp_path / "s", trials=6, labels=LABELS, epochs=3, failed=(2,), running=(4,), waiting=(5,), status="started"
    )
    by = {t.name: t for t in sweep.trials}
    assert by["0002"].status == FAILED and "diverged" in str(by["0002"].error)
    assert by["0004"].status == RUNNING and by["0004"].epochs == 1
    assert (
        by["0005"].status == WAITING
        and by["0005"].epoch is None
        and by["0005"].values == {}
        and by["0005"].seconds == 0
    )
    for name in ("0000", "0002", "0004"):
        run = sweep.run(name)
        table = run.metrics[run.metrics["part"] == "val"]
        mean = table[(table["metric"] == "auroc") & (table["label"] == "mean")].set_index("epoch")["value"]
        trial = by[name]
        assert trial.epoch == mean.idxmax() and trial.epochs == mean.index.max()
        assert trial.values["val/auroc/mean"] == mean.max() and trial.seconds == run.info["seconds"]
        here = table[table["epoch"] == trial.epoch]
        assert len(trial.values) == len(here)
        assert (
            trial.values["val/recall/Edema"]
            == here[(here["metric"] == "recall") & (here["label"] == "Edema")]["value"].item()
        )


def test_a_run_that_ended_after_the_ledger_was_written_has_ended(tmp_path: Path) -> None:
    """The driver was killed between the run's end and its own note of it."""
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, epochs=2, failed=(), running=(1, 2), status="started")
    sweep.run("0001").update(status="finished")
    sweep.run("0002").update(status="failed", error="no memory")
    found = {t.name: (t.status, t.error) for t in sweep.trials}
    assert found["0001"] == (FINISHED, None) and found["0002"] == (FAILED, "no memory")


def test_a_broken_run_folder_does_not_hide_the_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, epochs=2, failed=())
    (sweep.path / "trials" / "0001" / "run.json").write_text("{")
    assert [t.name for t in sweep.trials] == ["0000", "0001", "0002"] and 1 not in [r.number for r in sweep.ranked()]


def test_the_ledger_comes_back_as_it_was_in_order(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, waiting=(0,), failed=())
    trials = [Trial(f"{n:04d}-fold-{f}", n, {"optim.lr": 0.1, "data.image_size": [64, 64], "optim.clip_norm": None}, f, error="x" if f else None)
              for n, f in ((1, 1), (0, 1), (1, 0), (0, 0))]  # fmt: skip
    sweep.write_trials(trials)
    assert sweep.trials == sorted(trials, key=lambda t: (t.number, t.fold))
    assert Sweep(tmp_path / "none").trials == []


def test_update_lays_changes_on_what_is_there(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=1, labels=LABELS, waiting=(0,), failed=())
    before = sweep.info
    sweep.update(status="stopped", best="0003")
    assert sweep.info == {**before, "status": "stopped", "best": "0003"}
    assert not list(sweep.path.glob(".*.tmp"))


def test_a_trials_config_is_the_sweeps_with_its_knobs(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=3, labels=LABELS, waiting=range(3), failed=(), folds=2, scheduler="none")
    written = sweep.config
    for trial in sweep.trials:
        found = sweep.trial_config(trial)
        assert found.tune == cfg.Tune() and found.name == trial.name and found.output == str(sweep.path / "trials")
        assert found.optim.lr == trial.hyperparameters.get("optim.lr", written.optim.lr)
        assert (found.data.split.folds, found.data.split.fold) == (2, trial.fold)
        assert found.model_dump(exclude={"name", "output", "tune", "data", "optim", "loss"}) == written.model_dump(
            exclude={"name", "output", "tune", "data", "optim", "loss"}
        )
    base = next(t for t in sweep.trials if t.base)
    assert sweep.trial_config(base).optim == written.optim


def test_the_table_has_a_row_a_trial_and_the_configs_own_knob_where_none_is_said(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", trials=4, labels=LABELS, epochs=2, failed=(3,), waiting=(2,))
    table = sweep.table().set_index("trial")
    assert list(table.index) == ["0000", "0001", "0002", "0003"] and "fold" not in table
    assert table.loc["0000", "optim.lr"] == 1e-4 and table.loc["0000", "data.uncertain.Edema"] == "zeros"
    assert table.loc["0001", "optim.lr"] == sweep.trials[1].hyperparameters["optim.lr"]
    assert table.loc["0001", "auroc/Edema"] == sweep.trials[1].values["val/auroc/Edema"] and np.isnan(
        table.loc["0002", "auroc/Edema"]
    )
    assert table["status"].tolist() == [t.status for t in sweep.trials]
    pd.testing.assert_frame_equal(sweep.table(sweep.trials), sweep.table())


@pytest.mark.parametrize(
    ("values", "hyperparameter", "want"),
    [
        ({"optim": {"lr": 0.1}}, "optim.lr", 0.1),
        ({"data": {"uncertain": "ones"}}, "data.uncertain.Edema", "ones"),
        ({"data": {"uncertain": {"Edema": "ones"}}}, "data.uncertain.Edema", "ones"),
        ({"data": {"uncertain": {"Mass": "ones"}}}, "data.uncertain.Edema", None),
        ({"data": {"uncertain": {"No. Finding": "ones"}}}, "data.uncertain.No. Finding", "ones"),
        ({"model": {"options": {}}}, "model.options.width", None),
        ({"seed": 3}, "seed", 3),
    ],
)
def test_the_value_of_a_knob_in_a_config(values: dict[str, Any], hyperparameter: str, want: Any) -> None:
    assert cfg.value_at(values, hyperparameter) == want


# Opening, making, going on


def config(folder: Path, **changes: Any) -> cfg.Config:
    said = {
        "name": "s",
        "output": str(folder),
        "data": {"shards": "x"},
        "tune": {"space": {"optim.lr": {"loguniform": [1e-5, 1e-3]}}},
    }
    return cfg.validate(cfg.merge(said, changes))


def create(settings: cfg.Config, **store: Any) -> Sweep:
    return sweeps.create(settings, store={**STORE, **store}, about={"labels": list(LABELS), "knobs": ["optim.lr"]})


def test_a_new_sweep_keeps_its_config_and_store(tmp_path: Path) -> None:
    sweep = create(config(tmp_path))
    assert sweep.info["status"] == "started" and sweep.info["labels"] == list(LABELS) and sweep.info["best"] is None
    assert sweep.config == config(tmp_path, output=str(tmp_path.resolve())) and sweep.trials == []
    assert sweeps.load(sweep.path) == sweep


def test_a_sweep_without_a_name_gets_one(tmp_path: Path) -> None:
    sweep = create(config(tmp_path, name=None))
    assert "-sweep-" in sweep.path.name and sweep.config.name == sweep.path.name
    sweep.update(status="finished")
    assert create(config(tmp_path, name=None)).path.name == f"{sweep.path.name}-2"


def test_the_same_sweep_goes_on_and_may_get_more(tmp_path: Path) -> None:
    first = create(config(tmp_path))
    first.write_trials([made(0)])
    more = config(tmp_path, tune={"trials": 40, "max_concurrent": 1, "max_time": 5.0, "retries": 3, "ensemble": 2})
    again = create(more)
    assert again == first and again.trials and again.info["status"] == "started"
    assert again.config.tune.trials == 16  # until the lease is held: another driver may be at work by this file
    sweeps.take_over(again, more)
    assert (
        again.config == more.model_copy(update={"output": str(tmp_path.resolve())}) and again.config.tune.trials == 40
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optim": {"lr": 0.5}}, "optim.lr: was 0.0001, is 0.5"),
        ({"tune": {"metric": "val/ap/mean"}}, "tune.metric: was val/auroc/mean, is val/ap/mean"),
        ({"tune": {"space": {"optim.lr": {"loguniform": [1e-6, 1e-3]}}}}, "tune.space"),
        ({"tune": {"scheduler": "none"}}, "tune.scheduler: was asha, is none"),
        ({"seed": 1}, "seed: was 0, is 1"),
    ],
)
def test_another_sweep_in_its_folder_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    before = create(config(tmp_path)).config
    with pytest.raises(UserError, match="the folder of s holds another sweep") as error:
        create(config(tmp_path, **changes))
    assert told in str(error.value) and "give a new --name" in str(error.value)
    assert Sweep(tmp_path / "s").config == before


def test_a_store_that_changed_is_refused(tmp_path: Path) -> None:
    create(config(tmp_path))
    with pytest.raises(UserError, match="the store shards/x has changed since the sweep s was started"):
        create(config(tmp_path), fingerprint="other")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    create(config(tmp_path))  # an empty folder serves
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="exists and is not a sweep folder; give another --name"):
        create(config(tmp_path, name="t"))
    with pytest.raises(UserError, match="cannot name a folder"):
        create(config(tmp_path, name="a/b"))


def test_opening_what_is_no_sweep_names_a_neighbour(tmp_path: Path) -> None:
    create(config(tmp_path, name="learning-rate"))
    with pytest.raises(
        UserError, match=r"is not a sweep folder.*did you mean 'learning-rate'\? Sweeps there: learning-rate"
    ):
        sweeps.load(tmp_path / "learning-rat")
    with pytest.raises(UserError, match=r"is not a sweep folder \(it has no sweep.json\)$"):
        sweeps.load(tmp_path / "no" / "such")


def test_a_write_that_dies_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every sync of a rewrite of both files: each is the old or the new, whole."""
    import os

    sweep = create(config(tmp_path))
    old, new = [made(0)], [made(0), made(1)]
    sweep.write_trials(old)
    real = os.fsync
    for last in itertools.count(1):
        left = last

        def dying(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying)
            try:
                sweep.write_trials(new)
                sweep.update(status="finished")
            except KeyboardInterrupt:
                pass
            else:
                break
        names = [t["name"] for t in json.loads((sweep.path / "trials.json").read_text())]
        assert names in (["0000"], ["0000", "0001"]) and sweep.info["status"] in ("started", "finished")
        sweep.write_trials(old)
        sweep.update(status="started")
    assert last > 4 and len(sweep.trials) == 2 and sweep.info["status"] == "finished"
