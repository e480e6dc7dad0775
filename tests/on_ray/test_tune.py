"""Sweeps on Ray Tune: one truth for all trials, what fails is told and the rest goes on, what was done is not done again."""

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
from cxr_ray.on_ray import trial as in_process
from cxr_ray.on_ray import tune as on_ray
from cxr_ray.tuning import setup
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


# -- one truth ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policies(store, ray_local, tmp_path_factory) -> tuple[Sweep, list[str]]:
    """A sweep over what uncertain means in training, and what was said."""
    said: list[str] = []
    space = {
        "data.uncertain.Cardiomegaly": {"choice": ["ones", "ignore"]},
        "data.oversample_min_count": {"choice": [0, 40]},
    }
    # replaces the space of the base config whole
    trackers = {"trackers": ["tensorboard", "mlflow"]}
    made = config(store, tmp_path_factory.mktemp("sweeps"), data={"uncertain": {"all": "smooth"}}, report=trackers)
    made = made.model_copy(update={"tune": cfg.Tune(search="grid", scheduler="none", space=space)})
    seen = threading.Lock()  # as a terminal's: it cannot be pickled
    return on_ray.tune(made, log=said.append, watch=lambda sweep: seen.acquire(blocking=False)), said


def test_every_trial_is_judged_on_the_same_rows_by_the_same_truth(policies, store):
    sweep, _ = policies
    held = [sweep.run(t) for t in sweep.trials]
    assert len(held) == 5 and {t.status for t in sweep.trials} == {FINISHED}
    tables = [run.predictions("val").filter(regex="^(row$|true/)") for run in held]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    opened = stores.open(store)
    trained = [runs.plan_of(run, opened).truth["train"] for run in held]
    label = held[0].info["labels"].index("Cardiomegaly")
    # Else the sameness above would prove nothing: what they train on does differ.
    assert len({bytes(t[:, label].tobytes()) for t in trained}) == 3
    assert {bool(run.plan["drawn"].sum() > len(run.plan)) for run in held} == {False, True}


def test_the_table_has_knobs_and_every_metric_of_every_label(policies):
    sweep, said = policies
    table = sweep.table()
    assert table["data.uncertain.Cardiomegaly"].tolist() == ["smooth", "ones", "ones", "ignore", "ignore"]
    assert table["data.oversample_min_count"].tolist() == [0, 0, 40, 0, 40]
    labels = sweep.info["labels"]
    assert {"auroc/mean", *(f"recall/{label}" for label in labels)} <= set(table.columns)
    trial = sweep.trials[1]
    kept = sweep.run(trial).info["kept"]["epoch"]
    assert trial.epoch == kept
    long = sweep.run(trial).metrics.query("part == 'val' and metric == 'auroc' and label == 'mean' and epoch == @kept")
    assert table["auroc/mean"][1] == pytest.approx(long["value"].item())
    assert any(line.startswith("trials: 5 to train, 2 at a time") for line in said)


def test_tensorboard_and_mlflow_hold_what_the_sweep_s_folder_says(policies):
    """Both read back by their own programs' readers, after a sweep that Ray has run."""
    mlflow, plugin = (
        pytest.importorskip("mlflow.tracking"),
        pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2"),
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sweep, _ = policies
    client = mlflow.MlflowClient(f"sqlite:///{sweep.path.parent / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    logged = {run.info.run_name: run for run in found}
    assert set(logged) == {t.name for t in sweep.trials}
    table = sweep.table().set_index("trial")
    for trial in sweep.trials:
        run, auroc = logged[trial.name], trial.values["val/auroc/mean"]
        assert run.info.status == "FINISHED" and run.data.metrics["kept/val/auroc/mean"] == pytest.approx(auroc)
        assert run.data.params["data.oversample_min_count"] == str(table["data.oversample_min_count"][trial.name])
        events = EventAccumulator(str(sweep.run(trial).path))
        events.Reload()
        assert events.Scalars("kept/val/auroc/mean")[-1].value == pytest.approx(auroc, abs=1e-6)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        given = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
        assert {
            name: v.number_value if v.HasField("number_value") else v.string_value for name, v in given.items()
        } == {hyperparameter: table[hyperparameter][trial.name] for hyperparameter in sweep.info["knobs"]}


def test_the_winner_is_a_run_folder_judged_once_on_test(policies):
    sweep, _ = policies
    worth = select.conclude(sweep, log=lambda line: None)
    best = runs.load(sweep.path / "best")
    assert best.info["test_looks"] == 1 and best.info["knobs"] == sweep.ranked()[0].hyperparameters
    assert select.conclude(sweep, log=lambda line: None) == worth  # once more is no second look
    assert runs.load(sweep.path / "best").info["test_looks"] == 1
    assert all(sweep.run(t).info["test_looks"] == 0 for t in sweep.trials)
    assert {"recall", "auroc", "precision"} == set(worth["test"])
    second = next(row for row in worth["against"] if row["what"] == "the second" and row["metric"] == "auroc")
    assert second["low"] <= second["value"] <= second["high"] and 0 < second["p"] <= 1


@pytest.mark.long
def test_a_finished_sweep_is_not_done_again_and_more_trials_keep_the_first(store, tmp_path):
    made = config(store, tmp_path)
    sweep = quiet(made)
    before = {t.name: (t.hyperparameters, (sweep.run(t).path / "metrics.csv").stat().st_mtime_ns) for t in sweep.trials}
    quiet(made)
    more = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"trials": 3})}))
    after = {t.name: (t.hyperparameters, (more.run(t).path / "metrics.csv").stat().st_mtime_ns) for t in more.trials}
    assert len(after) == 4 and {name: after[name] for name in before} == before


# -- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_trials_that_die_hang_or_diverge_are_told_and_the_others_go_on(store, tmp_path):
    combinations = [
        {"model.name": "dying"},
        {"model.name": "hanging"},
        {"optim.name": "sgd", "optim.lr": 1e30},
        {"optim.lr": 2e-3},
    ]
    hyperparameters = {
        "search": "list",
        "combinations": combinations,
        "space": {},
        "base": False,
        "hang_minutes": 0.12,
        "retries": 1,
    }
    made = config(store, tmp_path, plugins=["tests.fakes.bad_models"], train={"batch_size": 16}, tune=hyperparameters)
    made = made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})})
    sweep = quiet(made)
    dying, hanging, diverging, good = sweep.trials
    assert good.status == FINISHED and good.epochs == 2
    assert dying.status == FAILED and dying.error.startswith("died 2 times")
    assert hanging.status == FAILED and hanging.error.startswith("died 2 times")
    assert diverging.status == FAILED and "lower optim.lr" in diverging.error
    assert [r.number for r in sweep.ranked()] == [4]
    starts = (sweep.run(dying).path / "log.txt").read_text().count("epoch 0/2")
    assert starts == 1  # the second start went on after its checkpoint and died again


@pytest.mark.long
def test_what_failed_is_tried_again_when_that_is_asked_for_and_only_then(store, tmp_path):
    hyperparameters = {
        "search": "list",
        "combinations": [{"model.name": "dying"}, {"optim.lr": 2e-3}],
        "base": False,
        "retries": 0,
    }
    made = config(store, tmp_path, plugins=["tests.fakes.bad_models"], train={"batch_size": 16}, tune=hyperparameters)
    made = made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})})
    sweep = quiet(made)
    assert [t.status for t in sweep.trials] == [FAILED, FINISHED]
    files = [sweep.run(t).path / "log.txt" for t in sweep.trials]
    before = [f.stat().st_mtime_ns for f in files]
    quiet(made)
    assert [f.stat().st_mtime_ns for f in files] == before
    on_ray.tune(made, failed_again=True, log=lambda line: None)
    assert [f.stat().st_mtime_ns > t for f, t in zip(files, before, strict=True)] == [True, False]
    assert [t.status for t in sweep.trials] == [FAILED, FINISHED]  # it died again


def test_a_store_that_changed_during_the_sweep_fails_its_trials(store, tmp_path):
    made = config(store, tmp_path, train={"monitor": "val/auroc/mean", "monitor_mode": "max"})  # as a sweep settles it
    sweep = sweeps.create(
        made, store={"path": str(store), "fingerprint": "another"},
        about={"labels": list(stores.open(store).labels), "metrics": made.tune.metrics},
    )  # fmt: skip
    sweep.write_trials([Trial("0001", 1, {})])
    with pytest.raises(UserError, match="has changed since the sweep was started"):
        in_process._train(sweep, {"trial": "0001", "knobs": {}})
    with pytest.raises(UserError, match="has changed since the sweep sweep was started"):
        quiet(made)


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"space": {"optim.lrr": {"choice": [1]}}}, "did you mean 'optim.lr'"),
        ({"space": {"optim.lr": {"uniform": [-1, 1]}}}, "tune.space.optim.lr: optim.lr: .*greater than 0"),
        ({"space": {"model.name": {"choice": ["lenet", "resnet19"]}}, "search": "grid"}, "did you mean 'resnet18'"),
        ({"space": {}}, "tune.space is empty"),
        ({"metric": "val/aurc/mean"}, "did you mean 'auroc'"),
        ({"metric": "test/auroc/mean"}, "a sweep is judged by val, so say val/auroc/mean"),
        ({"constraint": "val/recall/mean > 0.8"}, 'say "METRIC >= NUMBER"'),
        ({"constraint": "val/recal/mean >= 0.8"}, "did you mean 'recall'"),
        ({"search": "grid"}, "a grid takes choices, not loguniform"),
        ({"search": "list"}, "tune.combinations is empty"),
        ({"folds": 3, "scheduler": "asha"}, "set tune.scheduler to none instead of asha"),
        ({"scheduler": "pbt", "search": "grid"}, "set tune.search to random"),
        ({"scheduler": "pbt", "max_concurrent": 2}, "leave tune.max_concurrent at auto"),
        ({"trial_gpus": 0.5}, "the cluster has 0 GPUs"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_trial(store, tmp_path, hyperparameters, said):
    made = config(store, tmp_path)
    made = made.model_copy(update={"tune": cfg.validate({"tune": made.tune.model_dump() | hyperparameters}).tune})
    with pytest.raises(UserError, match=said) as caught:
        quiet(made)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # so that the mended config may have the name


def test_more_workers_than_the_cluster_holds_is_an_error_and_not_a_wait(store, tmp_path):
    with pytest.raises(UserError, match="9 workers want 9 CPU, and the cluster has 2"):
        quiet(config(store, tmp_path, train={"workers": 9}))


def test_the_folder_of_another_sweep_is_refused(policies, store):
    sweep, _ = policies
    with pytest.raises(UserError, match=r"holds another sweep .*tune\.space"):
        quiet(config(store, sweep.path.parent))
    with pytest.raises(UserError, match="is not a sweep folder"):
        quiet(config(store, sweep.path, name="trials"))


# -- how it is searched -------------------------------------------------------------------------------------------


def test_asha_ends_what_lags_and_leaves_each_a_whole_run(store, tmp_path):
    combinations = [{"optim.lr": rate} for rate in (3e-3, 1e-9, 1e-8)]
    made = config(
        store,
        tmp_path,
        train={"epochs": 4},
        # One at a time: two that learn nothing, begun before the third reports, would both be trained to their end.
        tune={
            "search": "list", "combinations": combinations, "scheduler": "asha", "reduction": 2.0, "base": False, "max_concurrent": 1,
        },
    )  # fmt: skip
    sweep = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})}))
    lost = [t for t in sweep.trials if t.status == STOPPED]
    assert lost and all(1 <= t.epochs < 4 for t in lost)
    assert sweep.ranked()[0].hyperparameters == {"optim.lr": 3e-3}
    for trial in lost:
        select.whole(sweep.run(trial))
        assert sweep.run(trial).weights.exists() and len(sweep.run(trial).predictions("val"))


@pytest.mark.long
def test_folds_are_judged_by_their_mean_and_the_winner_is_their_ensemble(store, tmp_path):
    made = config(store, tmp_path, train={"epochs": 1}, tune={"folds": 2, "trials": 1, "base": False})
    sweep = quiet(made)
    one, two = (sweep.run(t) for t in sweep.trials)
    test = [set(run.plan.query("part == 'test'")["row"]) for run in (one, two)]
    val = [set(run.plan.query("part == 'val'")["row"]) for run in (one, two)]
    assert test[0] == test[1] and not val[0] & val[1]
    (ranked,) = sweep.ranked()
    each = [t.values["val/auroc/mean"] for t in sweep.trials]
    assert ranked.values[0] == pytest.approx(sum(each) / 2) and ranked.deviation[0] > 0
    worth = select.conclude(sweep, log=lambda line: None)
    assert worth["best"] == ["0001-fold-0", "0001-fold-1"]
    assert runs.load(sweep.path / "best").info["test_looks"] == 1


def test_a_label_without_a_positive_in_a_fold_is_said(store, tmp_path):
    """Of the 120 patients' phantoms, twenty folds hold too few for every label."""
    _, plan, _, notes = setup._checked(config(store, tmp_path, tune={"folds": 20}))
    assert notes and all("has no positive in val of fold" in note for note in notes)
    assert {note.partition(" has no")[0] for note in notes} <= set(plan.labels)
    assert not setup._checked(config(store, tmp_path, tune={"folds": 2}))[3]


@pytest.mark.long
def test_out_of_time_nothing_starts_and_what_runs_ends_with_what_it_has(store, tmp_path):
    slow = {"plugins": ["tests.fakes.slow_model"], "model": {"name": "slow"}, "train": {"epochs": 4, "batch_size": 16}}
    made = config(store, tmp_path, **slow, tune={"trials": 6, "base": False, "max_time": 0.2})
    sweep = quiet(made)
    waiting, begun = ([t for t in sweep.trials if (t.status == WAITING) is so] for so in (True, False))
    assert waiting and begun and {t.status for t in begun} <= {FINISHED, STOPPED}
    assert any(t.status == STOPPED for t in begun)
    longer = made.model_copy(update={"tune": made.tune.model_copy(update={"max_time": None, "trials": len(begun) + 1})})
    more = quiet(longer)
    assert all(t.status in ENDED for t in more.trials)
    assert [t.epochs for t in more.trials[: len(begun)]] == [t.epochs for t in begun]


@pytest.mark.long
def test_optuna_proposes_and_a_sweep_that_goes_on_proposes_the_rest(store, tmp_path):
    pytest.importorskip("optuna")
    hyperparameters = {"search": "optuna", "trials": 2, "constraint": "val/recall/mean >= 0.1", "max_concurrent": 1}
    made = config(store, tmp_path, train={"epochs": 1}, tune=hyperparameters)
    sweep = quiet(made)
    assert [t.number for t in sweep.trials] == [0, 1, 2] and {t.status for t in sweep.trials} == {FINISHED}
    more = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"trials": 3})}))
    assert [t.hyperparameters for t in more.trials[:3]] == [t.hyperparameters for t in sweep.trials[:3]]
    assert len({t.hyperparameters.get("optim.lr") for t in more.trials}) == 4


@pytest.mark.long
def test_pbt_hands_weights_over_and_keeps_each_trial_s_own_record(store, tmp_path):
    """More trials than fit at once, so that some are paused; rates so far apart that the worst takes over from the best."""
    hyperparameters = {"scheduler": "pbt", "trials": 4, "base": False}
    made = config(store, tmp_path, train={"epochs": 4}, tune=hyperparameters)
    wide = {"optim.lr": {"loguniform": [1e-9, 1e-2]}}
    sweep = quiet(made.model_copy(update={"tune": made.tune.model_copy(update={"space": wide})}))
    assert {t.status for t in sweep.trials} == {FINISHED} and {t.epochs for t in sweep.trials} == {4}
    taken = []
    for trial in sweep.trials:
        run = sweep.run(trial)
        table = run.metrics.query("part == 'val' and metric == 'auroc' and label == 'mean'")
        assert table["epoch"].is_monotonic_increasing and table["epoch"].iloc[-1] == 4
        for change in run.info.get("changes", []):
            taken.append(change)
            assert change["from"] != trial.name and 1 <= change["epoch"] < 4
            assert 1e-9 <= change["knobs"]["optim.lr"] <= 1e-2
            if change["epoch"] < trial.epoch:
                assert trial.hyperparameters != trial.sampled
        assert run.config.optim.lr == trial.sampled["optim.lr"] and run.info["knobs"] == trial.sampled
    assert taken


@pytest.mark.long
def test_trials_of_two_workers_leave_no_placement_group(store, ray_local, tmp_path):
    from ray.util import placement_group_table

    made = config(
        store, tmp_path, train={"workers": 2, "epochs": 1}, tune={"trials": 1, "base": False, "scheduler": "asha"}
    )
    sweep = quiet(made)
    assert [t.status for t in sweep.trials] == [FINISHED] and sweep.run("0001").info["workers"] == 2
    until(lambda: all(g["state"] == "REMOVED" for g in placement_group_table().values()), 30)


# -- interrupted --------------------------------------------------------------------------------------------------


def _driver(sweep: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cxr_ray", "tune", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "CXR_RAY_TEST_STEP_S": "0.1"},
    )  # fmt: skip


def _ended(sweep: Path) -> set[str]:
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
def test_a_killed_sweep_goes_on_repeats_nothing_and_comes_to_the_same(store, tmp_path):
    """SIGKILL for the driver in the middle, then the rest: the same numbers as the sweep that was left alone."""
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
    place = tmp_path / "sweep"
    first = _driver(place, "-c", str(file))
    try:
        until(lambda: len(_ended(place)) >= 1, 200)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    done = {name: (place / "trials" / name / "metrics.csv").stat().st_mtime_ns for name in _ended(place)}
    assert 1 <= len(done) < 4
    rest = _driver(place, "--resume", str(place))
    out, _ = rest.communicate(timeout=280)
    assert rest.returncode == 0, out
    sweep = sweeps.load(place)
    assert {t.status for t in sweep.trials} == {FINISHED} and sweep.info["status"] == "finished"
    assert {name: (place / "trials" / name / "metrics.csv").stat().st_mtime_ns for name in done} == done
    alone = quiet(made.model_copy(update={"name": "alone"}))
    for one, other in zip(sweep.trials, alone.trials, strict=True):
        assert one.hyperparameters == other.hyperparameters and one.values == other.values
    assert sweep.ranked()[0].number == alone.ranked()[0].number


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_trial_of_two_workers_that_hangs_is_ended_with_its_workers(store, tmp_path):
    """In a Ray of its own, with the dashboard that Ray Train needs to clean up after a trial that died."""
    hyperparameters = {
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
    made = config(store, tmp_path, **hanging, tune=hyperparameters)
    file = tmp_path / "sweep.yaml"
    file.write_text(made.model_copy(update={"tune": made.tune.model_copy(update={"space": {}})}).to_yaml())
    out, _ = _driver(tmp_path, "-c", str(file)).communicate(timeout=500)
    sweep = sweeps.load(tmp_path / "sweep")
    (trial,) = sweep.trials
    assert trial.status == FAILED and trial.error.startswith("died 1 times: its process died"), out
