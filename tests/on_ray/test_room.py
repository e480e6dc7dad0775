"""A cluster without room: what cannot be is refused at once, what can be later is waited for, and the run's files say what happened.

The commands run in processes of their own, on clusters of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_ray import cli, runs
from cxr_ray import config as cfg
from cxr_ray.errors import UserError
from cxr_ray.on_ray import autoscaler, room
from cxr_ray.on_ray.resources import NodeType, Room
from cxr_ray.runs import events
from cxr_ray.training import checkpoint as checkpoints
from tests.fakes.autoscaler import autoscaling_head
from tests.fakes.colleague import cpus_in_use
from tests.fakes.processes import started
from tests.fakes.ranks import on_ranks
from tests.fakes.trainings import assert_same_weights_and_metrics
from tests.fakes.waiting import until
from tests.on_ray.test_train import config, train_without_ray

ROOT = Path(__file__).resolve().parents[2]
SLOW = {
    "plugins": ["tests.fakes.slow_model"],
    "model": {"name": "slow"},
    "train": {"workers": 2, "epochs": 2, "batch_size": 8, "threads": 1, "checkpoint_minutes": 0.001},
}


def test_a_line_says_what_is_waited_for_what_is_free_and_what_is_on_its_way():
    two = Room([{"CPU": 2.0}], [{"CPU": 1.0}], starting=1)
    assert room.line({"CPU": 1.0}, 2, two) == "waiting for 2 x {CPU: 1}; free 1; 1 node starting"
    none = Room([{"CPU": 2.0}], [{"CPU": 1.0}])
    assert room.line({"CPU": 2.0, "GPU": 0.5}, 1, none) == "waiting for 1 x {CPU: 2, GPU: 0.5}; free 0"
    more = Room([{"CPU": 0.0}], [{"CPU": 0.0}], (NodeType({"CPU": 4.0}, 2),), 2)
    assert room.line({"CPU": 3.0}, 2, more) == "waiting for 2 x {CPU: 3}; free 0; the autoscaler has to start nodes"
    assert "within 10 minutes: 1 of them would fit now on 1 node;" in str(room.in_vain({"CPU": 1.0}, 2, 10, two))


def test_a_job_waits_without_an_end_and_a_person_for_ten_minutes(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert room.wait_limit(None) == 10 and room.wait_limit(0) == 0
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert room.wait_limit(None) is None and room.wait_limit(2.5) == 2.5


def test_what_a_cluster_file_allows_minus_what_lives():
    shipped = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    kinds = {name: kind for name, kind in shipped["available_node_types"].items() if name != "head"}
    found = autoscaler.of_config(shipped, active={"head": 1, "cpu": 3}, starting=1)
    assert found.types == tuple(
        NodeType(kind["resources"], kind["max_workers"] - (3 if name == "cpu" else 0)) for name, kind in kinds.items()
    )
    assert found.more == shipped["max_workers"] - 3 and found.starting == 1 and not found.is_open


@pytest.mark.parametrize(("starts", "given"), [(True, ["--wait", "5"]), (False, ["--wait", "-1"])])
def test_wait_is_a_flag_in_minutes(monkeypatch, capsys, starts, given):
    from cxr_ray.cli.commands import train

    calls: list[Any] = []
    monkeypatch.setattr(train, "run", lambda config, **options: calls.append(options["wait"]))
    assert cli.main(["train", "--store", "x", *given]) == (0 if starts else 2)
    assert calls == ([5.0] if starts else [])


# -- clusters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of one node with two CPUs, to which nodes can be added."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CXR_RAY_TEST_STEP_S", "0.1")  # workers inherit it
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield made
    made.shutdown()


class Command:
    """A command of the command line with a config, in a process of its own, with its output in a file."""

    def __init__(self, name: str, config: cfg.Config, address: str, *words: str, log: Path) -> None:
        file = log.with_suffix(".yaml")
        file.write_text(config.to_yaml(), encoding="utf-8")
        self._file = log
        with log.open("w") as opened:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cxr_ray", name, "-c", str(file), "--address", address, *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=opened,
                stderr=subprocess.STDOUT,
                text=True,
            )

    @property
    def lines(self) -> list[str]:
        return self._file.read_text().splitlines()

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def end(self, seconds: float = 300) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            print(self._file.read_text()[-4000:])


def within_an_epoch(run: Path) -> bool:
    last = checkpoints.pointer_target(run / "checkpoints", "last")
    try:
        return last is not None and checkpoints.read_state(last)["batches"] > 0
    except OSError:  # it was just replaced
        return False


def kinds(run: Path) -> list[str]:
    return [event["event"] for event in events.read(run)]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_cluster_is_waited_for_and_a_lost_controller_is_a_restart(store, tmp_path, cluster):
    wanted = config(store, tmp_path, name="busy", **SLOW)
    run = tmp_path / "busy"
    with cpus_in_use(cluster.address, 1) as holder:
        too_long = Command("train", wanted, cluster.address, "--wait", "0.02", log=tmp_path / "vain.txt")
        assert too_long.end() == 2
        assert too_long.lines[-1].startswith("cxr-ray: error: no room for 2 x {CPU: 1} within 0.02 minutes: 1 of them")
        assert runs.load(run).info["status"] == "failed" and kinds(run) == ["started", "failed"]

        stopped = Command("train", wanted, cluster.address, log=tmp_path / "stopped.txt")
        until(lambda: stopped.says("waiting for 2 x {CPU: 1}; free 1"), 120, stopped.process)
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.end() == 143 and runs.load(run).info["status"] == "stopped"

        train = Command("train", wanted, cluster.address, log=tmp_path / "train.txt")
        until(lambda: train.says("waiting for 2 x {CPU: 1}; free 1"), 120, train.process)
        holder.terminate()
    until(lambda: within_an_epoch(run), 120, train.process)
    os.kill(started("TrainController")[-1], signal.SIGKILL)
    assert train.end() == 0
    assert kinds(run)[-7:] == ["started", "waiting", "waiting", "workers", "restarting", "workers", "finished"]
    log = (run / "log.txt").read_text()
    assert "Ray Train's controller was lost: restarting from the last checkpoint (2 restarts left)" in log
    assert "resuming after batch" in log and "there is room now, after" in log
    assert not [line for line in train.lines if "Traceback" in line or "raylet" in line or "ActorDiedError" in line]
    whole = config(store, tmp_path, name="whole", **SLOW)
    on_ranks(2, tmp_path, train_without_ray, whole)
    assert_same_weights_and_metrics(runs.load(run), runs.load(tmp_path / "whole"))


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sweep_waits_for_room_says_so_and_takes_what_there_is(store, tmp_path, cluster):
    sweep = tmp_path / "sweep"
    tune = {"trials": 2, "scheduler": "none", "base": False, "space": {"optim.lr": {"choice": [1e-4, 1e-3]}}}
    wanted = config(store, tmp_path, name="sweep", tune=tune, train={"epochs": 1}, report={"trackers": []})
    with cpus_in_use(cluster.address, 2) as holder:
        vain = Command("tune", wanted, cluster.address, "--wait", "0.05", log=tmp_path / "vain.txt")
        assert vain.end() == 2 and "no room for 1 x {CPU: 1} within 0.05 minutes" in vain.lines[-1]
        assert yaml.safe_load((sweep / "sweep.json").read_text())["status"] == "failed"
        assert {row["status"] for row in yaml.safe_load((sweep / "trials.json").read_text())} == {"waiting"}
        waiting = Command("tune", wanted, cluster.address, log=tmp_path / "tune.txt")
        until(lambda: waiting.says("waiting for 1 x {CPU: 1}; free 0"), 180, waiting.process)
        holder.terminate()
    assert waiting.end() == 0
    assert yaml.safe_load((sweep / "sweep.json").read_text())["status"] == "finished"
    assert kinds(sweep)[:2] == ["started", "failed"] and kinds(sweep)[2:4] == ["started", "waiting"]
    assert kinds(sweep)[-1] == "finished"


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_autoscaler_starts_the_nodes_of_a_training(store, tmp_path, monkeypatch):
    """A head of 0 CPUs and workers from none, as in cluster.yaml."""
    monkeypatch.setenv("CXR_RAY_TEST_STEP_S", "0")
    quick = cfg.merge(SLOW, {"train": {"resources_per_worker": {"CPU": 1}}})
    with autoscaling_head(cpus=1, most=2, environment={"PYTHONPATH": str(ROOT)}) as address:
        many = cfg.merge(quick, {"train": {"workers": 3}})
        refused = Command("train", config(store, tmp_path, name="auto", **many), address, log=tmp_path / "many.txt")
        assert refused.end() == 2 and "with all nodes that its autoscaler may start, has 2" in refused.lines[-1]
        assert not (tmp_path / "auto").exists()
        train = Command("train", config(store, tmp_path, name="auto", **quick), address, log=tmp_path / "train.txt")
        assert train.end() == 0
        run = runs.load(tmp_path / "auto")
        assert run.info["status"] == "finished" and run.info["workers"] == 2
        assert any("has to start nodes" in e["text"] for e in events.read(run.path) if e["event"] == "waiting")
    on_ranks(2, tmp_path, train_without_ray, config(store, tmp_path, name="whole", **quick))
    assert_same_weights_and_metrics(run, runs.load(tmp_path / "whole"))


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_lost_without_another_is_waited_for_and_the_run_resumes(store, tmp_path, cluster):
    wanted = config(store, tmp_path, name="lost", **cfg.merge(SLOW, {"train": {"resources_per_worker": {"CPU": 2}}}))
    second, run = cluster.add_node(num_cpus=2), tmp_path / "lost"
    train = Command("train", wanted, cluster.address, "--wait", "0.2", log=tmp_path / "train.txt")
    until(lambda: within_an_epoch(run), 180, train.process)
    cluster.remove_node(second, allow_graceful=False)
    assert train.end() == 2 and train.says("waiting for 2 x {CPU: 2}; free 1")
    assert "no room for 2 x {CPU: 2}" in runs.load(run).info["error"] and runs.load(run).info["status"] == "failed"
    assert not [line for line in train.lines if "raylet" in line or "Traceback" in line]
    cluster.add_node(num_cpus=2)
    assert Command("train", wanted, cluster.address, log=tmp_path / "again.txt").end() == 0
    on_ranks(2, tmp_path, train_without_ray, config(store, tmp_path, name="whole", **SLOW))
    assert_same_weights_and_metrics(runs.load(run), runs.load(tmp_path / "whole"))


def requests(address: str) -> int:
    """Requests for room that stand in the cluster's queue, which an autoscaler would start nodes for."""
    code = """import sys, ray
from ray.util.placement_group import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(group["state"] in ("PENDING", "RESCHEDULING") for group in placement_group_table().values()))"""
    done = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_request_for_room_ends_with_its_command(store, tmp_path, cluster, end):
    wanted = config(store, tmp_path, name="ended", **SLOW)
    with cpus_in_use(cluster.address, 1):
        train = Command("train", wanted, cluster.address, log=tmp_path / "train.txt")
        until(lambda: train.says("waiting for 2 x {CPU: 1}; free 1"), 180, train.process)
        assert requests(cluster.address) == 1
        train.process.send_signal(end)
        train.end()
        until(lambda: requests(cluster.address) == 0, 30)


def test_what_never_fits_on_the_living_nodes_is_refused_at_once(ray_local):
    with pytest.raises(UserError, match="3 workers need 3 CPUs, but the cluster has 2"):
        room.ensure({"CPU": 1.0}, 3, wait=None, log=lambda line: None)
    room.ensure({"CPU": 1.0}, 2, wait=None, log=lambda line: None)
