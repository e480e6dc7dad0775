"""Says in the run's log and events what happens to a training on Ray Train. Runs in Ray Train's controller."""

import time
from typing import Any

from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import state as states
from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

from cxr_ray.runs import Run

NO_ROOM_S = 20.0
"""How long Ray Train looks for room before it gives up, and the driver waits and says so. A lost node is noticed within that time."""
REQUEST_EXPIRES_S = 60
"""How long the autoscaler keeps room for a training whose controller was killed. It renews its request every 20 s."""


class NoRoom(Exception):
    """There is no room for the fewest workers."""


class StopRequested(Exception):
    """A stop was requested before the workers started."""


class LaunchCallback(ControllerCallback):
    """Tells of workers that started or were lost, of drained nodes and of restarts, and ends a start that finds no room or is stopped."""

    def __init__(self, run: Run, max_failures: int) -> None:
        self._run, self._wanted, self._left = run, run.config.train.workers, max_failures
        self._since = 0.0

    def after_controller_start(self, train_run_context: Any) -> None:
        # Ray's three minutes would keep nodes for trainings that are gone.
        autoscaling_coordinator_client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = REQUEST_EXPIRES_S
        self._since = time.monotonic()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        run = self._run
        old: Any = previous_state
        new: Any = current_state
        if isinstance(new, states.SchedulingState | states.RestartingState | states.ReschedulingState):
            self._check_stop()
        if type(new) is type(old):
            if isinstance(new, states.InitializingState | states.RestartingState | states.ReschedulingState):
                self._check_room()
            return
        self._since = time.monotonic()
        if isinstance(new, states.RunningState) and isinstance(old, states.SchedulingState):
            count = _size(old.scaling_decision)
            of = f" of {self._wanted}" if count != self._wanted else ""
            run.tell("workers", f"training on {count}{of} worker{'s' if self._wanted != 1 else ''}", workers=count)
        elif isinstance(new, states.PreemptingState):
            ranks = new.preemption_info.preempted_ranks
            deadline = new.preemption_info.deadline_ms
            left = f" in {max(0.0, deadline / 1000 - time.time()):.0f} s" if deadline else " soon"
            run.tell(
                "draining",
                f"the node of {_workers(ranks)} is drained and will end{left}: saving a checkpoint, then restarting on other nodes",
                workers=len(ranks),
            )
        elif isinstance(new, states.RestartingState):
            self._tell_of_restart(new.training_failed_error)
        elif isinstance(new, states.ReschedulingState) and is_for_room(new.training_failed_error):
            run.tell("waiting", f"no room for {_size(old.scaling_decision)} workers yet: looking again")
        elif isinstance(new, states.ResizingState):
            run.tell(
                "resizing",
                f"nodes came or went: restarting from the last checkpoint on {_size(new.scaling_decision)} workers",
                workers=_size(new.scaling_decision),
            )

    def _check_stop(self) -> None:
        if self._run.stop_requested:
            raise StopRequested

    def _check_room(self) -> None:
        """Only an elastic training stays in one of these states: it looks for room, without a pause."""
        if time.monotonic() - self._since > NO_ROOM_S:
            raise NoRoom
        time.sleep(0.2)

    def _tell_of_restart(self, error: Exception) -> None:
        if isinstance(error, WorkerGroupError) and not drained(error):
            self._left -= 1
            times = "once" if self._left == 1 else f"{self._left} times"
            budget = f"; it may fail {times} more" if self._left else "; it may not fail again"
            self._run.tell(
                "lost", f"{what_failed(error)}: restarting from the last checkpoint{budget} (train.max_failures)"
            )
        else:
            self._run.tell("restarting", "restarting from the last checkpoint")


def drained(error: Exception) -> bool:
    """Whether workers were lost because their node was drained."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return any(isinstance(lost := _cause(one), RayActorError) and lost.preempted for one in failures)


def lost_workers(error: WorkerGroupError) -> list[int]:
    """Ranks whose process or node ended, while that of others only noticed it."""
    return sorted(rank for rank, one in error.worker_failures.items() if isinstance(_cause(one), RayActorError))


def what_failed(error: WorkerGroupError) -> str:
    """A few words about the workers' failures."""
    if ranks := lost_workers(error):
        return (
            f"{_workers(ranks)} {'was' if len(ranks) == 1 else 'were'} lost (killed, out of memory, or with the node)"
        )
    rank, one = min(error.worker_failures.items())
    return f"worker {rank} failed ({' '.join(str(one).split())[-200:]})"


def is_for_room(error: Exception) -> bool:
    """Whether a training could not start because there was no room. That may change: it is no failure."""
    return isinstance(getattr(error, "controller_failure", None), NoRoom | WorkerGroupStartupTimeoutError)


def is_lost_at_start(error: Exception) -> bool:
    """Whether a worker, or the controller, was lost while the workers started."""
    return isinstance(error, RayActorError) or isinstance(
        getattr(error, "controller_failure", None), WorkerGroupStartupFailedError | RayActorError
    )


def _cause(failure: Exception) -> Exception:
    return failure.health_check_failure if isinstance(failure, WorkerHealthCheckFailedError) else failure


def _size(decision: Any) -> int:
    """Workers of a start that Ray Train has decided on."""
    return int(decision.num_workers)


def _workers(ranks: list[int]) -> str:
    return f"worker {ranks[0]}" if len(ranks) == 1 else f"workers {', '.join(map(str, ranks))}"
