"""`train` on Ray Train and in this process: the same rows, the same run folder, one clear line where the user erred."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cxr_ray import config as cfg
from cxr_ray import registry, runs
from cxr_ray.data import store as stores
from cxr_ray.errors import UserError
from cxr_ray.on_ray import train as on_ray
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training import setup
from cxr_ray.workflows import evaluate as judging
from tests.fakes.ranks import on_ranks
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


def rows_in_order(run: runs.Run) -> list[str]:
    logs = [
        pd.read_csv(p, names=["epoch", "step", "rank", "rows"], keep_default_na=False)
        for p in (run.path / "rows").iterdir()
    ]
    table = pd.concat(logs).sort_values(["epoch", "step", "rank"], kind="stable")
    return " ".join(table["rows"].astype(str)).split()


@pytest.fixture(scope="module")
def both(store, ray_local, tmp_path_factory) -> tuple[runs.Run, runs.Run, list[str]]:
    """The same config with one worker in this process and with two on Ray Train, and what the latter said."""
    output = tmp_path_factory.mktemp("runs")
    said: list[str] = []
    alone = on_ray.train(config(store, output, name="alone"), log=lambda line: None)
    shared = on_ray.train(config(store, output, name="shared", train={"workers": 2}), log=said.append)
    return alone, shared, said


def test_one_and_two_workers_see_the_same_rows_in_the_same_order(both):
    alone, shared, _ = both
    assert rows_in_order(alone) == rows_in_order(shared)
    assert sorted(p.name for p in (shared.path / "rows").iterdir()) == ["rank-0.csv", "rank-1.csv"]


def test_one_and_two_workers_have_the_same_losses(both):
    alone, shared, _ = both
    a, b = (r.metrics.query("metric == 'loss'").set_index(["epoch", "part", "label"])["value"] for r in (alone, shared))
    assert len(a) == len(b) and ((a - b).abs() < 1e-5).all()


def test_the_driver_reads_out_progress_and_leaves_a_finished_run(both):
    _, shared, said = both
    assert any(line.startswith(f"run: {shared.path}") for line in said)
    assert [line.split()[1] for line in said if line.startswith("epoch ")] == ["0/2", "1/2", "2/2"]
    assert shared.info["status"] == "finished" and shared.info["workers"] == 2
    assert not (shared.path / "ray").exists()  # Ray's own bookkeeping does not stay in the run


def test_evaluate_counts_looks_at_test_and_thresholds_need_no_model(both):
    alone, _, _ = both
    first = judging.evaluate(alone.path, log=lambda line: None)
    assert first.part == "test" and first.report.is_file() and alone.info["test_looks"] == 1
    (alone.path / "model.safetensors").rename(alone.path / "moved")
    (alone.path / "model.safetensors").touch()  # not a model: it must not be read
    again = judging.evaluate(alone.path, thresholds=0.1, log=lambda line: None)
    (alone.path / "moved").replace(alone.path / "model.safetensors")
    assert alone.info["test_looks"] == 2
    recall = [{v["label"]: v["value"] for v in e.found["values"] if v["metric"] == "recall"} for e in (first, again)]
    assert all(recall[1][k] >= recall[0][k] for k in recall[0]) and recall[1] != recall[0]
    assert {"thumbnail", "border"} == set(first.found["rivals"])
    assert judging.evaluate(alone.path, split="val", log=lambda line: None).part == "val"
    assert alone.info["test_looks"] == 2


def test_a_run_s_own_config_repeats_it(both, store):
    alone, _, _ = both
    file = alone.path / "config.yaml"
    again = on_ray.train(cfg.load(str(file), {"name": "again"}), log=lambda line: None)
    assert (alone.path / "metrics.csv").read_bytes() == (again.path / "metrics.csv").read_bytes()
    assert yaml.safe_load(file.read_text())["data"]["shards"]


@pytest.mark.parametrize(
    ("hyperparameters", "said"),
    [
        ({"data": {"shards": None}}, "data.shards is not set"),
        ({"model": {"name": "resnet19"}}, "unknown model 'resnet19'; did you mean 'resnet18'"),
        ({"data": {"labels": ["Cardiomegally"]}}, "unknown label 'Cardiomegally'; did you mean 'Cardiomegaly'"),
        ({"train": {"monitor": "val/aurc/mean"}}, "unknown metric 'aurc'.*did you mean 'auroc'"),
        ({"loss": {"name": "cross_entropy"}}, "cross_entropy"),
        ({"data": {"image_size": [64, 64]}}, "the images have 32 x 32"),
        ({"report": {"thresholds": {"Edma": 0.2}}}, "unknown label 'Edma'"),
        ({"model": {"weights": "nowhere.pth"}}, "nowhere.pth"),
        ({"plugins": ["no_such_module"]}, "cannot import 'no_such_module'"),
        ({"train": {"workers": 64}}, "64 workers want 64 CPU, and the cluster has 2"),
    ],
)
def test_a_mistake_is_one_line_before_any_worker_starts(store, tmp_path, hyperparameters, said):
    with pytest.raises(UserError, match=said) as caught:
        on_ray.train(config(store, tmp_path, **hyperparameters), log=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_store_that_changed_is_not_judged(both, store):
    alone, _, _ = both
    alone.update(store={**alone.info["store"], "fingerprint": "another"})
    with pytest.raises(UserError, match="its fingerprint differs"):
        judging.evaluate(alone.path, log=lambda line: None)
    alone.update(store={**alone.info["store"], "fingerprint": stores.open(store).fingerprint})


def test_an_interrupt_says_how_to_go_on_and_the_same_name_does(store, tmp_path, monkeypatch):
    from cxr_ray.training import trainer

    def interrupted(*_):
        raise KeyboardInterrupt

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            on_ray.train(config(store, tmp_path, name="cut"), log=said.append)
    assert said[-1] == "interrupted: the same command with --name cut goes on after the last checkpoint"
    assert on_ray.train(config(store, tmp_path, name="cut"), log=said.append).info["status"] == "finished"


# -- hard to kill ------------------------------------------------------------------------------------------------

# A model whose steps take a while, so that there is a middle of an epoch; a checkpoint at every look.
SLOW = {
    "plugins": ["tests.fakes.slow_model"],
    "model": {"name": "slow"},
    "train": {"epochs": 2, "batch_size": 4, "threads": 1, "checkpoint_minutes": 0.001},
}
ROOT = Path(__file__).resolve().parents[2]


def _within_an_epoch(run: Path, epoch: int) -> bool:
    """Whether the run's last checkpoint lies within `epoch`."""
    place = checkpoints.pointed(run / "checkpoints", "last")
    if place is None:
        return False
    try:
        state = checkpoints.state_of(place)
    except OSError:  # replaced meanwhile
        return False
    return bool(state["epoch"] == epoch and state["batches"] > 0)


def _engine_alone(config: cfg.Config) -> None:
    """The same training by the engine on this rank, without Ray and without the waits."""
    os.environ["CXR_RAY_TEST_STEP_S"] = "0"
    from cxr_ray.runtime.context import LocalContext
    from cxr_ray.training import trainer

    registry.load_plugins(config.plugins)
    opened, plan, config = setup.prepare(config)
    context = LocalContext(quiet=True)
    if context.rank == 0:
        runs.create(config, store={"path": "", "fingerprint": ""}, plan=plan.table(), about={})
    if context.world > 1:
        torch.distributed.barrier()
    trainer.fit(config, plan, opened, context, runs.load(Path(config.output) / str(config.name)))


def _same(a: runs.Run, b: runs.Run) -> None:
    """Bit-equal weights, the same metrics, and every committed step with the same rows."""
    one, two = load_file(a.weights), load_file(b.weights)
    assert all(torch.equal(one[k], two[k]) for k in one)
    pd.testing.assert_frame_equal(a.metrics, b.metrics)
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
    pd.testing.assert_frame_equal(*steps)
    assert not steps[0].duplicated(columns[:3]).any()  # a step that was done again saw the same rows


def _train_workers() -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"RayTrainWorker" in file.read_bytes():
                found.append(int(file.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_a_worker_killed_within_an_epoch_is_replaced_and_the_run_ends_bit_equal(store, tmp_path):
    killed: list[int] = []

    def kill() -> None:
        until(lambda: _within_an_epoch(tmp_path / "killed", 2), 300)
        killed.append(_train_workers()[-1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    hyperparameters = cfg.merge(SLOW, {"train": {"workers": 2}})
    run = on_ray.train(config(store, tmp_path, name="killed", **hyperparameters), log=lambda line: None)
    killer.join()
    assert killed and run.info["status"] == "finished"
    assert any("going on after batch" in line for line in (run.path / "log.txt").read_text().splitlines())
    on_ranks(2, tmp_path, _engine_alone, config(store, tmp_path, name="whole", **hyperparameters))
    _same(run, runs.load(tmp_path / "whole"))


@pytest.mark.slow
def test_a_stopped_and_a_killed_driver_go_on_and_end_bit_equal(store, tmp_path, monkeypatch):
    """SIGTERM ends with a checkpoint and 143, SIGKILL with nothing; the command again, or --resume, goes on from either."""
    settled = config(store, tmp_path, name="cut", **SLOW)
    (tmp_path / "config.yaml").write_text(settled.to_yaml())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CXR_RAY_TEST_STEP_S": "0.15"}
    command = [sys.executable, "-m", "cxr_ray", "train"]
    again = ["--resume", str(tmp_path / "cut")]

    first = subprocess.Popen(
        [*command, "-c", str(tmp_path / "config.yaml")], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    until(lambda: _within_an_epoch(tmp_path / "cut", 1), 300)
    with pytest.raises(UserError, match=f"is being trained now, by process {first.pid} of this machine"):
        on_ray.train(settled, log=lambda line: None)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 143 and "stopped after a checkpoint; cxr-ray train --resume" in said

    second = subprocess.Popen([*command, *again], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: _within_an_epoch(tmp_path / "cut", 2), 300)
    second.kill()
    assert second.wait() == -signal.SIGKILL
    assert (
        subprocess.run([*command, *again], env={**env, "CXR_RAY_TEST_STEP_S": "0"}, cwd=ROOT, check=False).returncode
        == 0
    )

    monkeypatch.setenv("CXR_RAY_TEST_STEP_S", "0")
    whole = on_ray.train(config(store, tmp_path, name="whole", **SLOW), log=lambda line: None)
    _same(whole, runs.load(tmp_path / "cut"))
