"""`train` on Ray Train and in this process: the same rows, the same run folder, one line for a user's mistake."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from cxr_ray import config as cfg
from cxr_ray import registry, runs
from cxr_ray.data import store as stores
from cxr_ray.errors import Interrupted, Stopped, UserError
from cxr_ray.inference import predictor
from cxr_ray.on_ray import train as on_ray
from cxr_ray.runtime import polling
from cxr_ray.storage import lease
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import learner, setup
from cxr_ray.workflows.evaluations import evaluate
from tests.fakes import trainings
from tests.fakes.processes import started
from tests.fakes.ranks import on_ranks
from tests.fakes.store import fake_store
from tests.fakes.trainings import assert_same_weights_and_metrics, rows_in_order
from tests.fakes.waiting import until


def config(store: Path, output: Path, **sections) -> cfg.Config:
    base = {
        "output": str(output),
        "data": {"shards": str(store)},
        "model": {"name": "lenet"},
        "optim": {"lr": 1e-3},
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "log_rows": True},
        "report": {"bootstrap": 100},
    }
    return cfg.validate(cfg.merge(base, sections))


@pytest.fixture(scope="module")
def both(store, ray_local, tmp_path_factory) -> tuple[runs.Run, runs.Run, list[str]]:
    """The same config with one worker in this process and with two on Ray Train, and the log lines of the latter."""
    output = tmp_path_factory.mktemp("runs")
    lines: list[str] = []
    one = on_ray.train(config(store, output, name="one"), log=lambda line: None)
    two = on_ray.train(config(store, output, name="two", train={"workers": 2}), log=lines.append)
    return one, two, lines


def test_one_and_two_workers_see_the_same_rows_in_the_same_order(both):
    one, two, _ = both
    assert rows_in_order(one) == rows_in_order(two)
    assert sorted(p.name for p in (two.path / "rows").iterdir()) == ["rank-0.csv", "rank-1.csv"]


def test_one_and_two_workers_have_the_same_losses(both):
    one, two, _ = both
    a, b = (r.metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for r in (one, two))
    assert len(a) == len(b) and ((a - b).abs() < 1e-5).all()


def test_the_driver_forwards_progress_and_the_run_is_finished(both):
    _, two, lines = both
    assert any(line.startswith(f"run: {two.path}") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["0/2", "1/2", "2/2"]
    assert two.info["status"] == "finished" and two.info["workers"] == 2
    assert not (two.path / "ray").exists()  # Ray's own state is deleted
    assert predictor.check_of(two) is not None and lines[-1].startswith("check for unusual images: fitted to")


def test_evaluations_of_test_are_counted_and_other_thresholds_need_no_model(both):
    one, _, _ = both
    first = evaluate(one.path, log=lambda line: None)
    assert first.part == "test" and first.report.is_file() and one.info["test_looks"] == 1
    (one.path / "model.safetensors").rename(one.path / "moved")
    (one.path / "model.safetensors").touch()  # not a model: reading it would fail
    second = evaluate(one.path, thresholds=0.1, log=lambda line: None)
    (one.path / "moved").replace(one.path / "model.safetensors")
    assert one.info["test_looks"] == 2
    recall = [{v["label"]: v["value"] for v in e.results["values"] if v["metric"] == "recall"} for e in (first, second)]
    assert all(recall[1][k] >= recall[0][k] for k in recall[0]) and recall[1] != recall[0]
    assert {"thumbnail", "border"} == set(first.results["rivals"])
    assert evaluate(one.path, split="val", log=lambda line: None).part == "val"
    assert one.info["test_looks"] == 2


def test_the_runs_own_config_repeats_it(both, store):
    one, _, _ = both
    file = one.path / "config.yaml"
    again = on_ray.train(cfg.load(str(file), {"name": "again"}), log=lambda line: None)
    assert (one.path / "metrics.csv").read_bytes() == (again.path / "metrics.csv").read_bytes()
    assert yaml.safe_load(file.read_text())["data"]["shards"]


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ({"plugins": ["no_such_module"]}, "cannot import 'no_such_module'"),
        ({"train": {"workers": 64}}, "64 workers need 64 CPUs, but the cluster has 2"),
    ],
)
def test_a_mistake_is_one_line_before_any_worker_starts(store, tmp_path, hyperparameters, message):
    """Further ones: tests/training/test_setup.py."""
    with pytest.raises(UserError, match=message) as caught:
        on_ray.train(config(store, tmp_path, **hyperparameters), log=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_store_that_changed_is_not_evaluated(both, store):
    one, _, _ = both
    one.update(store={**one.info["store"], "fingerprint": "another"})
    with pytest.raises(UserError, match="its fingerprint differs"):
        evaluate(one.path, log=lambda line: None)
    one.update(store={**one.info["store"], "fingerprint": stores.open(store).fingerprint})


def test_an_interrupted_run_resumes_by_its_name(store, tmp_path, monkeypatch):
    from cxr_ray.training import trainer

    def interrupted(*_):
        raise KeyboardInterrupt

    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            on_ray.train(config(store, tmp_path, name="cut"), log=lines.append)
    assert lines[-1].startswith("interrupted: `cxr-ray train --resume ") and "/cut`, or cxr_ray.resume" in lines[-1]
    assert on_ray.train(config(store, tmp_path, name="cut"), log=lines.append).info["status"] == "finished"


# -- stops -------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> cfg.Config:
    """Those of a training of four steps an epoch, without Ray."""
    folder = trainings.write_store(tmp_path / "shards", fake_store(96, labels=("Edema", "Mass"), size=(32, 32)))
    return trainings.config(
        tmp_path, data={"shards": str(folder)}, train={"epochs": 3, "log_rows": True}, report={"trackers": []}
    )


def signal_at_step(patch: pytest.MonkeyPatch, step: int, *numbers: signal.Signals) -> None:
    """Send the signals to this process after the given step, and poll after every step."""
    forward = learner.Learner.step

    def signalled(self: learner.Learner, *given: Any, **options: Any) -> object:
        done = forward(self, *given, **options)
        if self.steps == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return done

    patch.setattr(learner.Learner, "step", signalled)
    patch.setattr(polling, "POLL_S", 0.0)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, Interrupted)])
def test_a_signal_ends_within_the_epoch_and_a_resume_is_bit_equal(settings, monkeypatch, number, error):
    before = signal.getsignal(number)
    lines: list[str] = []
    with monkeypatch.context() as patch:
        signal_at_step(patch, 7, number)
        with pytest.raises(error, match="after a checkpoint; resume with cxr-ray train --resume") as ended:
            on_ray.train(settings, log=lines.append)
    run = runs.load(Path(settings.output) / str(settings.name))
    checkpoint = checkpoints.path_of(run.path / "checkpoints", 7)
    state = checkpoints.read_state(checkpoint)
    assert run.info["status"] == "stopped" and (state["epoch"], state["batches"]) == (2, 7 - steps_per_epoch(run))
    assert (str(checkpoint) in str(ended.value)) == (error is Interrupted)
    assert any("press Ctrl-C again" in line for line in lines) == (error is Interrupted)
    assert signal.getsignal(number) is before
    resumed = on_ray.train(settings, log=lambda line: None)
    whole = on_ray.train(settings.model_copy(update={"name": "whole"}), log=lambda line: None)
    _assert_same(resumed, whole)


def steps_per_epoch(run: runs.Run) -> int:
    return -(-int((run.plan["part"] == "train").sum()) // run.config.train.batch_size)


def test_a_second_interrupt_ends_at_once(settings, monkeypatch):
    lines: list[str] = []
    with monkeypatch.context() as patch:
        signal_at_step(patch, 7, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as ended:
            on_ray.train(settings, log=lines.append)
    folder = Path(settings.output) / str(settings.name) / "checkpoints"
    assert not isinstance(ended.value, Interrupted) and not checkpoints.path_of(folder, 7).exists()
    assert any(line.startswith("interrupted: `cxr-ray train --resume ") for line in lines)
    assert on_ray.train(settings, log=lambda line: None).info["status"] == "finished"


def test_a_training_that_has_lost_its_folder_writes_no_checkpoint(settings, monkeypatch):
    """Losing the lease interrupts this process too, and must not be taken for Ctrl-C."""
    folder = Path(settings.output) / str(settings.name)
    monkeypatch.setattr(lease, "RENEW_S", 0.05)

    def log(line: str) -> None:
        if line.startswith("epoch 1/"):
            (folder / lease.NAME).write_text(json.dumps({"holder": "another", "pid": 1}))
            time.sleep(5)

    with pytest.raises(UserError, match="has lost"):
        on_ray.train(settings, log=log)
    assert not (folder / "stop").exists()


def test_an_interrupt_at_the_end_reports_the_complete_run(settings):
    def log(line: str) -> None:
        if line.startswith("model of epoch"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="the run is complete"):
        on_ray.train(settings, log=log)


# -- kills -------------------------------------------------------------------------------------------------------

# A model with slow steps, so that there is time to kill it within an epoch; a checkpoint at every poll.
SLOW = {
    "plugins": ["tests.fakes.slow_model"],
    "model": {"name": "slow"},
    "train": {"epochs": 2, "batch_size": 4, "threads": 1, "checkpoint_minutes": 0.001},
}
ROOT = Path(__file__).resolve().parents[2]


def _within_an_epoch(run: Path, epoch: int) -> bool:
    """Whether the run's last checkpoint is within `epoch`."""
    last = checkpoints.pointer_target(run / "checkpoints", "last")
    if last is None:
        return False
    try:
        state = checkpoints.read_state(last)
    except OSError:  # it was just replaced
        return False
    return bool(state["epoch"] == epoch and state["batches"] > 0)


def _last_step(run: Path) -> int:
    """The step of the run's last checkpoint."""
    last = checkpoints.pointer_target(run / "checkpoints", "last")
    return 0 if last is None else int(last.name.removeprefix("step-"))


def train_without_ray(config: cfg.Config) -> None:
    """The same training by the trainer itself on this rank, without Ray and with fast steps."""
    os.environ["CXR_RAY_TEST_STEP_S"] = "0"
    from cxr_ray.runtime.context import LocalContext
    from cxr_ray.training import trainer

    registry.load_plugins(config.plugins)
    store, plan, config = setup.prepare(config)
    context = LocalContext(quiet=True)
    if context.rank == 0:
        runs.create(config, store={"path": "", "fingerprint": ""}, plan=plan.table(), about={})
    if context.world > 1:
        torch.distributed.barrier()
    trainer.fit(config, plan, store, context, runs.load(Path(config.output) / str(config.name)))


def _assert_same(a: runs.Run, b: runs.Run) -> None:
    """Bit-equal weights, the same metrics, and every committed step with the same rows."""
    assert_same_weights_and_metrics(a, b)
    columns = ["epoch", "step", "rank", "rows"]
    logs = [
        pd.concat(
            [
                pd.read_csv(p, names=columns, keep_default_na=False, dtype={"rows": str})
                for p in (r.path / "rows").iterdir()
            ]
        )
        for r in (a, b)
    ]
    steps = [log.drop_duplicates().sort_values(columns, ignore_index=True) for log in logs]
    pd.testing.assert_frame_equal(steps[0], steps[1])
    assert not steps[0].duplicated(columns[:3]).any()  # a step that was repeated used the same rows


@pytest.mark.slow
def test_a_worker_killed_within_an_epoch_is_replaced_and_the_run_ends_bit_equal(store, tmp_path):
    killed: list[int] = []

    def kill() -> None:
        until(lambda: _within_an_epoch(tmp_path / "killed", 2), 300)
        killed.append(started("RayTrainWorker")[-1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    hyperparameters = cfg.merge(SLOW, {"train": {"workers": 2}})
    run = on_ray.train(config(store, tmp_path, name="killed", **hyperparameters), log=lambda line: None)
    killer.join()
    assert killed and run.info["status"] == "finished"
    assert any("resuming after batch" in line for line in (run.path / "log.txt").read_text().splitlines())
    on_ranks(2, tmp_path, train_without_ray, config(store, tmp_path, name="whole", **hyperparameters))
    _assert_same(run, runs.load(tmp_path / "whole"))


@pytest.mark.slow
def test_an_interrupt_stops_the_workers_within_an_epoch(store, tmp_path):
    """Ray's own handler of Ctrl-C would abort them before they have written a checkpoint."""
    settings = config(
        store, tmp_path, name="cut", **cfg.merge(SLOW, {"train": {"workers": 2, "checkpoint_minutes": 10}})
    )
    run, at_step = tmp_path / "cut", threading.Event()

    def interrupt() -> None:
        until(lambda: (run / "rows" / "rank-0.csv").exists(), 300)
        at_step.set()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted, match="stopped after a checkpoint"):
        on_ray.train(settings, log=lambda line: None)
    assert at_step.is_set() and _within_an_epoch(run, 1) and runs.load(run).info["status"] == "stopped"


@pytest.mark.slow
def test_a_stopped_and_a_killed_driver_resume_and_end_bit_equal(store, tmp_path, monkeypatch):
    """SIGTERM ends with a checkpoint and exit code 143, SIGINT with one and 130, SIGKILL without; --resume resumes after each."""
    slow = config(store, tmp_path, name="cut", **SLOW)
    (tmp_path / "config.yaml").write_text(slow.to_yaml())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CXR_RAY_TEST_STEP_S": "0.15"}
    command = [sys.executable, "-m", "cxr_ray", "train"]
    resume = ["--resume", str(tmp_path / "cut"), "--plugins", "tests.fakes.slow_model"]

    first = subprocess.Popen(
        [*command, "-c", str(tmp_path / "config.yaml")], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until(lambda: _within_an_epoch(tmp_path / "cut", 1), 300)
    with pytest.raises(UserError, match=f"is being trained now, by process {first.pid} of this machine"):
        on_ray.train(slow, log=lambda line: None)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 143 and "stopped after a checkpoint; resume with cxr-ray train --resume" in errors

    second = subprocess.Popen([*command, *resume], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: _within_an_epoch(tmp_path / "cut", 2), 300)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 130 and f"(checkpoint: {tmp_path / 'cut' / 'checkpoints' / 'step-'}" in errors

    steps = _last_step(tmp_path / "cut")
    third = subprocess.Popen([*command, *resume], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: _last_step(tmp_path / "cut") > steps, 300)
    third.kill()
    assert third.wait() == -signal.SIGKILL
    assert (
        subprocess.run([*command, *resume], env={**env, "CXR_RAY_TEST_STEP_S": "0"}, cwd=ROOT, check=False).returncode
        == 0
    )

    monkeypatch.setenv("CXR_RAY_TEST_STEP_S", "0")
    whole = on_ray.train(config(store, tmp_path, name="whole", **SLOW), log=lambda line: None)
    _assert_same(whole, runs.load(tmp_path / "cut"))
