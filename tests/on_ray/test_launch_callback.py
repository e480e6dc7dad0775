"""What the run's log and events say of a training on Ray Train, and which ends count as failures."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.controller import state as states
from ray.train.v2.api.preemption import PreemptionInfo

from cxr_ray import config as cfg
from cxr_ray import runs
from cxr_ray.on_ray import launch_callback
from cxr_ray.on_ray.launch_callback import LaunchCallback, NoRoom, StopRequested
from cxr_ray.runs import events


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    made = runs.Run(tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.validate({"train": {"workers": 3}}).to_yaml(), encoding="utf-8")
    return made


def lost(*ranks: int, preempted: bool = False) -> WorkerGroupError:
    """The error of workers whose process is gone."""
    died = RayActorError(preempted=preempted)
    return WorkerGroupError("", {rank: WorkerHealthCheckFailedError("", died) for rank in ranks})


def scheduling(workers: int) -> Any:
    decision: Any = SimpleNamespace(num_workers=workers)
    return states.SchedulingState(decision)


def test_each_step_of_a_training_is_said_once(run):
    callback = LaunchCallback(run, max_failures=2)
    drained = PreemptionInfo(int((time.time() + 60) * 1000), {"node": [0]})
    story = [
        scheduling(3),
        states.RunningState(),
        states.RunningState(),
        states.RestartingState(lost(1, 2)),
        scheduling(3),
        states.ReschedulingState(ControllerError(WorkerGroupStartupTimeoutError(3))),
        scheduling(1),
        states.RunningState(),
        states.ResizingState(scheduling(3).scaling_decision),
        scheduling(3),
        states.RunningState(),
        states.PreemptingState(drained, time.time()),
        states.PreemptingState(drained, time.time()),
        states.RestartingState(lost(0, preempted=True)),
    ]
    before: Any = states.InitializingState()
    for state in story:
        callback.after_controller_state_update(before, state)
        before = state
    found = events.read(run.path)
    assert [(event["event"], event.get("workers")) for event in found] == [
        ("workers", 3), ("lost", None), ("waiting", None), ("workers", 1), ("resizing", 3), ("workers", 3), ("draining", 1),
        ("restarting", None),
    ]  # fmt: skip
    texts = [event["text"] for event in found]
    assert (run.path / "log.txt").read_text().splitlines() == texts
    assert texts[0] == "training on 3 workers" and texts[3] == "training on 1 of 3 workers"
    assert texts[1].startswith("workers 1, 2 were lost") and "it may fail once more" in texts[1]
    assert texts[6].startswith("the node of worker 0 is drained and will end in ")


def test_a_stop_ends_a_start_and_so_does_the_lack_of_room(run, monkeypatch):
    callback = LaunchCallback(run, max_failures=2)
    callback.after_controller_start(None)
    initial = states.InitializingState()
    callback.after_controller_state_update(initial, initial)
    monkeypatch.setattr(launch_callback, "NO_ROOM_S", 0.0)
    with pytest.raises(NoRoom):
        callback.after_controller_state_update(initial, initial)
    run.request_stop()
    with pytest.raises(StopRequested):
        callback.after_controller_state_update(initial, scheduling(3))


def test_lack_of_room_is_no_failure_and_a_lost_controller_is_one():
    error: Exception
    for error in (ControllerError(NoRoom()), ControllerError(WorkerGroupStartupTimeoutError(2))):
        assert launch_callback.is_for_room(error) and not launch_callback.is_lost_at_start(error)
    for error in (ActorDiedError(), ControllerError(WorkerGroupStartupFailedError())):
        assert launch_callback.is_lost_at_start(error) and not launch_callback.is_for_room(error)
    error = ControllerError(ValueError("a mistake of ours"))
    assert not launch_callback.is_lost_at_start(error) and not launch_callback.is_for_room(error)


def test_a_worker_that_only_noticed_the_loss_of_another_is_not_called_lost():
    error = WorkerGroupError("", {0: RuntimeError("connection reset"), 2: lost(2).worker_failures[2]})
    assert launch_callback.lost_workers(error) == [2]
    assert launch_callback.what_failed(error) == "worker 2 was lost (killed, out of memory, or with the node)"
    own = WorkerGroupError("", {1: TypeError("no such thing")})
    assert launch_callback.lost_workers(own) == [] and "worker 1 failed (no such thing)" in launch_callback.what_failed(
        own
    )
