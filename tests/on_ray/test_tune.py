"""Sweeps on Ray Tune: all trials use the same val rows and truth, failed trials do not stop others, and no trial is repeated."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.on_ray import trial as trials
from cxr_ray.on_ray import tune as on_ray
from cxr_ray.tuning import sweep as sweeps
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, STOPPED, WAITING, Trial
from cxr_ray.workflows import select
from tests.fakes.waiting import until

ROOT = Path(__file__).resolve().parents[2]


def config(store: Path, output: Path, **sections) -> cfg.Config:
    base = {
        "name": "sweep",
        "output": str(output),
        "data": {"shards": str(store)},
        "model": {"name": "lenet"},
        "optim": {"lr": 1e-3},
        "train": {"epochs": 2, "batch_size": 32, "precision": "fp32"},
        "report": {"bootstrap": 50, "rivals": False, "trackers": []},
        "tune": {"trials": 2, "scheduler": "none", "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}},
    }
    return cfg.validate(cfg.merge(base, sections))


def quiet(config: cfg.Config) -> Sweep:
    return on_ray.tune(config, log=lambda line: None)


# -- results -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policies(store, ray_local, tmp_path_factory) -> tuple[Sweep, list[str]]:
    """A sweep over uncertainty policies in training, and the lines that it logged."""
    lines: list[str] = []
    space = {
        "data.uncertain.Cardiomegaly": {"choice": ["ones", "ignore"]},
        "data.oversample_min_count": {"choice": [0, 40]},
    }
    trackers = {"trackers": ["tensorboard", "mlflow"]}
    made = config(store, tmp_path_factory.mktemp("sweeps"), data={"uncertain": {"all": "smooth"}}, report=trackers)
    # Replaces the whole space of the base configuration.
    made = made.model_copy(update={"tune": cfg.Tune(search="grid", scheduler="none", space=space)})
    lock = threading.Lock()  # cannot be pickled, as that of a terminal
    return on_ray.tune(made, log=lines.append, on_update=lambda _: print(lock.locked())), lines


def test_every_trial_is_evaluated_on_the_same_rows_and_truth(policies, store):
    sweep, _ = policies
    made = [sweep.run(t) for t in sweep.trial_records]
    assert len(made) == 5 and {t.status for t in sweep.trial_records} == {FINISHED}
    tables = [run.predictions("val").filter(regex="^(row$|true/)") for run in made]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    opened = stores.open(store)
    trained = [runs.plan_of(run, opened).truth["train"] for run in made]
    label = made[0].info["labels"].index("Cardiomegaly")
    # Their train labels and repeats do differ; otherwise the check above would prove nothing.
    assert len({bytes(t[:, label].tobytes()) for t in trained}) == 3
    assert {bool(run.plan["drawn"].sum() > len(run.plan)) for run in made} == {False, True}


def test_the_table_has_hyperparameters_and_every_metric_of_every_label(policies):
    sweep, lines = policies
    table = sweep.trial_table()
    assert table["data.uncertain.Cardiomegaly"].tolist() == ["smooth", "ones", "ones", "ignore", "ignore"]
    assert table["data.oversample_min_count"].tolist() == [0, 0, 40, 0, 40]
    labels = sweep.info["labels"]
    assert {"auroc/mean", *(f"recall/{label}" for label in labels)} <= set(table.columns)
    trial = sweep.trial_records[1]
    selected = sweep.run(trial).info["kept"]["epoch"]
    assert trial.epoch == selected
    rows = sweep.run(trial).metrics.query("part == 'val' and metric == 'auroc' and label == 'mean'")
    assert table["auroc/mean"][1] == pytest.approx(rows[rows["epoch"] == selected]["value"].item())
    assert any(line.startswith("trials: 5 to train") and ", 2 at a time" in line for line in lines)


def test_tensorboard_and_mlflow_have_the_values_of_the_sweep_folder(policies):
    """Read with their own libraries, after a sweep on Ray."""
    mlflow, plugin = (
        pytest.importorskip("mlflow.tracking"),
        pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2"),
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sweep, _ = policies
    client = mlflow.MlflowClient(f"sqlite:///{sweep.path.parent / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    logged = {run.info.run_name: run for run in found}
    assert set(logged) == {t.name for t in sweep.trial_records}
    table = sweep.trial_table().set_index("trial")
    for trial in sweep.trial_records:
        run, auroc = logged[trial.name], trial.values["val/auroc/mean"]
        assert run.info.status == "FINISHED" and run.data.metrics["kept/val/auroc/mean"] == pytest.approx(auroc)
        assert run.data.params["data.oversample_min_count"] == str(table["data.oversample_min_count"][trial.name])
        events = EventAccumulator(str(sweep.run(trial).path))
        events.Reload()
        assert events.Scalars("kept/val/auroc/mean")[-1].value == pytest.approx(auroc, abs=1e-6)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        logged_params = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
        assert {
            name: v.number_value if v.HasField("number_value") else v.string_value for name, v in logged_params.items()
        } == {name: table[name][trial.name] for name in sweep.info["knobs"]}


def test_the_winner_is_a_run_folder_and_evaluated_once_on_test(policies):
    sweep, _ = policies
    comparison = select.select_best(sweep, log=lambda line: None)
    best = runs.load(sweep.path / "best")
    assert best.info["test_looks"] == 1 and best.info["knobs"] == sweep.ranked()[0].hyperparameters
    assert select.select_best(sweep, log=lambda line: None) == comparison  # does not evaluate test again
    assert runs.load(sweep.path / "best").info["test_looks"] == 1
    assert all(sweep.run(t).info["test_looks"] == 0 for t in sweep.trial_records)
    assert {"recall", "auroc", "precision"} == set(comparison["test"])
    second = next(
        row for row in comparison["against"] if row["what"] == "the second-best trial" and row["metric"] == "auroc"
    )
    assert second["low"] <= second["value"] <= second["high"] and 0 < second["p"] <= 1


@pytest.mark.long
def test_a_finished_sweep_is_not_repeated_and_more_trials_keep_the_first_ones(store, tmp_path):
    made = config(store, tmp_path)
    sweep = quiet(made)
    before = {
        t.name: (t.hyperparameters, (sweep.run(t).path / "metrics.csv").stat().st_mtime_ns) for t in sweep.trial_records
    }
    quiet(made)
    more = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"trials": 3})}))
    after = {
        t.name: (t.hyperparameters, (more.run(t).path / "metrics.csv").stat().st_mtime_ns) for t in more.trial_records
    }
    assert len(after) == 4 and {name: after[name] for name in before} == before


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_trials_that_die_hang_or_diverge_fail_and_the_others_go_on(store, tmp_path):
    combinations = [
        {"model.name": "dying"},
        {"model.name": "hanging"},
        {"optim.name": "sgd", "optim.lr": 1e30},
        {"optim.lr": 2e-3},
    ]
    tune = {
        "search": "list",
        "combinations": combinations,
        "space": {},
        "base": False,
        "hang_minutes": 0.12,
        "retries": 1,
    }
    made = config(store, tmp_path, plugins=["tests.fakes.bad_models"], train={"batch_size": 16}, tune=tune)
    made = made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})})
    sweep = quiet(made)
    dying, hanging, diverging, good = sweep.trial_records
    assert good.status == FINISHED and good.epochs == 2
    assert dying.status == FAILED and str(dying.error).startswith("died 2 times")
    assert hanging.status == FAILED and str(hanging.error).startswith("died 2 times")
    assert diverging.status == FAILED and "lower optim.lr" in str(diverging.error)
    assert [r.number for r in sweep.ranked()] == [4]
    starts = (sweep.run(dying).path / "log.txt").read_text().count("epoch 0/2")
    assert starts == 1  # the second start resumed after its checkpoint and died again


@pytest.mark.long
def test_failed_trials_are_retried_only_on_request(store, tmp_path):
    tune = {
        "search": "list",
        "combinations": [{"model.name": "dying"}, {"optim.lr": 2e-3}],
        "base": False,
        "retries": 0,
    }
    made = config(store, tmp_path, plugins=["tests.fakes.bad_models"], train={"batch_size": 16}, tune=tune)
    made = made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})})
    sweep = quiet(made)
    assert [t.status for t in sweep.trial_records] == [FAILED, FINISHED]
    files = [sweep.run(t).path / "log.txt" for t in sweep.trial_records]
    before = [f.stat().st_mtime_ns for f in files]
    quiet(made)
    assert [f.stat().st_mtime_ns for f in files] == before
    on_ray.tune(made, retry_failed=True, log=lambda line: None)
    assert [f.stat().st_mtime_ns > t for f, t in zip(files, before, strict=True)] == [True, False]
    assert [t.status for t in sweep.trial_records] == [FAILED, FINISHED]  # it died again


def test_a_store_that_changed_during_the_sweep_fails_its_trials(store, tmp_path):
    made = config(
        store, tmp_path, train={"monitor": "val/auroc/mean", "monitor_mode": "max"}
    )  # as prepare_sweep sets it
    sweep = sweeps.create(
        made, store={"path": str(store), "fingerprint": "another"},
        about={"labels": list(stores.open(store).labels), "metrics": made.tune.metrics},
    )  # fmt: skip
    sweep.write_trials([Trial("0001", 1, {})])
    with pytest.raises(UserError, match="has changed since the sweep was started"):
        trials.run_trial(sweep, {"trial": "0001", "hyperparameters": {}})
    with pytest.raises(UserError, match="has changed since the sweep sweep was started"):
        quiet(made)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"space": {"optim.lrr": {"choice": [1]}}}, "did you mean 'optim.lr'"),
        ({"space": {"optim.lr": {"uniform": [-1, 1]}}}, "tune.space.optim.lr: optim.lr: .*greater than 0"),
        ({"space": {"model.name": {"choice": ["lenet", "resnet19"]}}, "search": "grid"}, "did you mean 'resnet18'"),
        ({"space": {}}, "tune.space is empty"),
        ({"metric": "val/aurc/mean"}, "did you mean 'auroc'"),
        ({"metric": "test/auroc/mean"}, "trials are evaluated on val, so use val/auroc/mean"),
        ({"constraint": "val/recall/mean > 0.8"}, 'write "METRIC >= NUMBER"'),
        ({"constraint": "val/recal/mean >= 0.8"}, "did you mean 'recall'"),
        ({"search": "grid"}, "a grid takes choices, not loguniform"),
        ({"search": "list"}, "tune.combinations is empty"),
        ({"folds": 3, "scheduler": "asha"}, "set tune.scheduler to none instead of asha"),
        ({"scheduler": "pbt", "search": "grid"}, "set tune.search to random"),
        ({"scheduler": "pbt", "max_concurrent": 2}, "leave tune.max_concurrent at auto"),
        ({"trial_gpus": 0.5}, "the cluster has 0 GPUs"),
    ],
)
def test_a_user_error_is_one_line_before_the_first_trial(store, tmp_path, tune, message):
    made = config(store, tmp_path)
    made = made.model_copy(update={"tune": cfg.validate({"tune": made.tune.model_dump() | tune}).tune})
    with pytest.raises(UserError, match=message) as caught:
        quiet(made)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # so that the fixed configuration may use the name


def test_more_workers_than_fit_on_the_cluster_is_an_error_and_not_a_wait(store, tmp_path):
    with pytest.raises(UserError, match="9 workers need 9 CPUs, but the cluster has 2"):
        quiet(config(store, tmp_path, train={"workers": 9}))


def test_the_folder_of_a_different_sweep_is_refused(policies, store):
    sweep, _ = policies
    with pytest.raises(UserError, match=r"contains a different sweep .*tune\.space"):
        quiet(config(store, sweep.path.parent))
    with pytest.raises(UserError, match="is not a sweep folder"):
        quiet(config(store, sweep.path, name="trials"))


# -- search and schedulers ----------------------------------------------------------------------------------------


def test_asha_stops_poor_trials_and_each_of_them_is_a_complete_run(store, tmp_path):
    combinations = [{"optim.lr": rate} for rate in (3e-3, 1e-9, 1e-8)]
    made = config(
        store,
        tmp_path,
        train={"epochs": 4},
        # One at a time: two poor trials that start before the good one reports would both be trained to the end.
        tune={
            "search": "list", "combinations": combinations, "scheduler": "asha", "reduction": 2.0, "base": False, "max_concurrent": 1,
        },
    )  # fmt: skip
    sweep = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})}))
    stopped = [t for t in sweep.trial_records if t.status == STOPPED]
    assert stopped and all(1 <= t.epochs < 4 for t in stopped)
    assert sweep.ranked()[0].hyperparameters == {"optim.lr": 3e-3}
    for trial in stopped:
        select.complete_model(sweep.run(trial))
        assert sweep.run(trial).weights.exists() and len(sweep.run(trial).predictions("val"))


@pytest.mark.long
def test_folds_are_ranked_by_their_mean_and_the_winner_is_their_ensemble(store, tmp_path):
    made = config(store, tmp_path, train={"epochs": 1}, tune={"folds": 2, "trials": 1, "base": False})
    sweep = quiet(made)
    one, two = (sweep.run(t) for t in sweep.trial_records)
    test = [set(run.plan.query("part == 'test'")["row"]) for run in (one, two)]
    val = [set(run.plan.query("part == 'val'")["row"]) for run in (one, two)]
    assert test[0] == test[1] and not val[0] & val[1]
    (ranked,) = sweep.ranked()
    each = [t.values["val/auroc/mean"] for t in sweep.trial_records]
    assert ranked.values[0] == pytest.approx(sum(each) / 2) and ranked.deviation[0] > 0
    comparison = select.select_best(sweep, log=lambda line: None)
    assert comparison["best"] == ["0001-fold-0", "0001-fold-1"]
    assert runs.load(sweep.path / "best").info["test_looks"] == 1


@pytest.mark.long
def test_when_the_time_is_over_nothing_starts_and_running_trials_stop_with_their_results(store, tmp_path):
    slow = {"plugins": ["tests.fakes.slow_model"], "model": {"name": "slow"}, "train": {"epochs": 4, "batch_size": 16}}
    made = config(store, tmp_path, **slow, tune={"trials": 6, "base": False, "max_time": 0.2})
    sweep = quiet(made)
    waiting = [t for t in sweep.trial_records if t.status == WAITING]
    started = [t for t in sweep.trial_records if t.status != WAITING]
    assert waiting and started and {t.status for t in started} <= {FINISHED, STOPPED}
    assert any(t.status == STOPPED for t in started)
    longer = made.model_copy(
        update={"tune": made.tune.model_copy(update={"max_time": None, "trials": len(started) + 1})}
    )
    more = quiet(longer)
    assert all(t.status in ENDED for t in more.trial_records)
    assert [t.epochs for t in more.trial_records[: len(started)]] == [t.epochs for t in started]


@pytest.mark.long
def test_optuna_suggests_trials_and_a_resumed_sweep_suggests_the_rest(store, tmp_path):
    pytest.importorskip("optuna")
    tune = {"search": "optuna", "trials": 2, "constraint": "val/recall/mean >= 0.1", "max_concurrent": 1}
    made = config(store, tmp_path, train={"epochs": 1}, tune=tune)
    sweep = quiet(made)
    assert [t.number for t in sweep.trial_records] == [0, 1, 2] and {t.status for t in sweep.trial_records} == {
        FINISHED
    }
    more = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"trials": 3})}))
    assert [t.hyperparameters for t in more.trial_records[:3]] == [t.hyperparameters for t in sweep.trial_records[:3]]
    assert len({t.hyperparameters.get("optim.lr") for t in more.trial_records}) == 4


@pytest.mark.long
def test_pbt_copies_weights_between_trials_and_each_keeps_its_own_record(store, tmp_path):
    """More trials than fit at once, so that some are paused; learning rates so far apart that the worst takes over from the best."""
    tune = {"scheduler": "pbt", "trials": 4, "base": False}
    made = config(store, tmp_path, train={"epochs": 4}, tune=tune)
    wide = {"optim.lr": {"loguniform": [1e-9, 1e-2]}}
    sweep = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"space": wide})}))
    assert {t.status for t in sweep.trial_records} == {FINISHED} and {t.epochs for t in sweep.trial_records} == {4}
    changes = []
    for trial in sweep.trial_records:
        run = sweep.run(trial)
        table = run.metrics.query("part == 'val' and metric == 'auroc' and label == 'mean'")
        assert table["epoch"].is_monotonic_increasing and table["epoch"].iloc[-1] == 4
        for change in run.info.get("changes", []):
            changes.append(change)
            assert change["from"] != trial.name and 1 <= change["epoch"] < 4
            assert 1e-9 <= change["knobs"]["optim.lr"] <= 1e-2
            if change["epoch"] < trial.epoch:
                assert trial.hyperparameters != trial.initial
        assert run.config.optim.lr == trial.initial["optim.lr"] and run.info["knobs"] == trial.initial
    assert changes


@pytest.mark.long
def test_trials_of_two_workers_leave_no_placement_group(store, ray_local, tmp_path):
    from ray.util import placement_group_table

    made = config(
        store, tmp_path, train={"workers": 2, "epochs": 1}, tune={"trials": 1, "base": False, "scheduler": "asha"}
    )
    sweep = quiet(made)
    assert [t.status for t in sweep.trial_records] == [FINISHED] and sweep.run("0001").info["workers"] == 2
    until(lambda: all(g["state"] == "REMOVED" for g in placement_group_table().values()), 30)


# -- interruptions ------------------------------------------------------------------------------------------------


def start_driver(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cxr_ray", "tune", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "CXR_RAY_TEST_STEP_S": "0.1"},
    )  # fmt: skip


def finished_trials(sweep: Path) -> set[str]:
    found = set()
    for file in sweep.glob("trials/*/run.json"):
        try:
            if json.loads(file.read_text())["status"] == "finished":
                found.add(file.parent.name)
        except ValueError:
            continue
    return found


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_sweep_resumes_repeats_nothing_and_gives_the_same_results(store, tmp_path):
    """SIGKILL for the driver during the sweep, then a resume: the same numbers as an uninterrupted sweep."""
    made = config(
        store,
        tmp_path,
        plugins=["tests.fakes.slow_model"],
        model={"name": "slow"},
        train={"batch_size": 16},
        tune={"trials": 3},
    )
    file = tmp_path / "sweep.yaml"
    file.write_text(made.to_yaml())
    folder = tmp_path / "sweep"
    first = start_driver("-c", str(file))
    try:
        until(lambda: len(finished_trials(folder)) >= 1, 200)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    done = {name: (folder / "trials" / name / "metrics.csv").stat().st_mtime_ns for name in finished_trials(folder)}
    assert 1 <= len(done) < 4
    rest = start_driver("--resume", str(folder), "--plugins", "tests.fakes.slow_model")
    out, _ = rest.communicate(timeout=280)
    assert rest.returncode == 0, out
    sweep = sweeps.load(folder)
    assert {t.status for t in sweep.trial_records} == {FINISHED} and sweep.info["status"] == "finished"
    assert {name: (folder / "trials" / name / "metrics.csv").stat().st_mtime_ns for name in done} == done
    reference = quiet(made.model_copy(update={"name": "reference"}))
    for one, other in zip(sweep.trial_records, reference.trial_records, strict=True):
        assert one.hyperparameters == other.hyperparameters and one.values == other.values
    assert sweep.ranked()[0].number == reference.ranked()[0].number


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hanging_trial_of_two_workers_is_stopped_with_its_workers(store, tmp_path):
    """In a separate Ray, with the dashboard that Ray Train needs to clean up after a trial that died."""
    tune = {
        "search": "list",
        "combinations": [{"optim.lr": 1e-3}],
        "base": False,
        "hang_minutes": 1.2,
        "retries": 0,
    }
    hanging = {
        "plugins": ["tests.fakes.bad_models"],
        "model": {"name": "hanging"},
        "train": {"workers": 2, "batch_size": 16},
    }
    made = config(store, tmp_path, **hanging, tune=tune)
    file = tmp_path / "sweep.yaml"
    file.write_text(made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})}).to_yaml())
    out, _ = start_driver("-c", str(file)).communicate(timeout=500)
    sweep = sweeps.load(tmp_path / "sweep")
    (trial,) = sweep.trial_records
    assert trial.status == FAILED and str(trial.error).startswith("died 1 times: its process died"), out
