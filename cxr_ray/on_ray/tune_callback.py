"""The driver's side of a running sweep: gives trials to Ray Tune, records their results, and stops the sweep."""

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ray import tune as ray_tune
from ray.tune.search import Searcher

from cxr_ray.errors import Interrupted, Stopped, UserError
from cxr_ray.on_ray import room, schedulers
from cxr_ray.on_ray.resources import TrialResources
from cxr_ray.on_ray.trial import OBJECTIVE
from cxr_ray.runs import Run, events
from cxr_ray.training import trackers
from cxr_ray.tuning import space
from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial

TRACKER_STATUS: dict[str, trackers.Status] = {FINISHED: "finished", STOPPED: "stopped", FAILED: "failed"}
"""Status of an ended trial in experiment trackers."""


def trial_spec(sweep: Sweep, trial: Trial, searched: space.Space) -> dict[str, Any]:
    """What `trial.train_trial` gets in its process: sweep folder, trial name, and hyperparameters, which PBT may change."""
    hyperparameters = schedulers.initial_hyperparameters(sweep, trial, searched)
    return {"sweep": str(sweep.path), "trial": trial.name, "hyperparameters": hyperparameters}


class ProposalSearcher(Searcher):
    """Gives Ray the sweep's own proposals, one per trial."""

    def __init__(
        self,
        proposals: Proposals,
        callback: "SweepCallback",
        searched: space.Space,
        *,
        max_concurrent: Callable[[], int],
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._proposals, self._callback, self._searched = proposals, callback, searched
        self._max_concurrent = max_concurrent
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        if self._callback.stopping:
            return Searcher.FINISHED
        if len(self._live) >= self._max_concurrent():  # it grows when nodes join
            return None
        trial = self._proposals.next()
        if trial is None:
            return Searcher.FINISHED
        self._callback.given(trial.name)  # written before the trial's process reads it
        self._live.add(trial_id)
        return {"spec": trial_spec(self._callback.sweep, trial, self._searched)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Another trial may start. `SweepCallback` records the results, because it knows the run folder."""
        self._live.discard(trial_id)

    # A sweep resumes from its own folder, not from Ray's state of the searcher.
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class RoomWait:
    """Tells of trials that wait for room on the cluster, and ends the wait after `minutes` without one that runs (None: never)."""

    def __init__(self, resources: TrialResources, minutes: float | None, log: Callable[[str], None]) -> None:
        self._resources, self._minutes, self._log = resources, minutes, log
        self._since: float | None = None
        self._said = time.monotonic()
        self.error: UserError | None = None

    def follow(self, is_waiting: bool) -> None:
        """Called often: whether trials wait and none runs."""
        now = time.monotonic()
        if not is_waiting:
            self._since, self._said = None, now
            return
        self._since = now if self._since is None else self._since
        request = self._resources.per_worker, self._resources.workers
        if self._minutes is not None and now - self._since > self._minutes * 60 and self.error is None:
            self.error = room.in_vain(*request, self._minutes, room.now())
        if now - self._said > room.LINE_S:
            self._log(room.line(*request, room.now()))
            self._said = now

    def tell_of(self, sweep: Sweep, running: list[str]) -> None:
        """Trials of several workers run and wait for these: repeat what they say of it."""
        if self._resources.workers == 1 or time.monotonic() - self._said <= room.LINE_S:
            return
        for name in running:
            happened = events.read(sweep.path / "trials" / name)
            if happened and happened[-1]["event"] == "waiting":
                self._log(f"trial {name}  {happened[-1]['text']}")
        self._said = time.monotonic()


class SweepStopper(ray_tune.Stopper):
    """Ends a sweep whose remaining trials cannot start."""

    def __init__(self, callback: "SweepCallback") -> None:
        self._callback: SweepCallback | None = callback

    def __getstate__(self) -> dict[str, Any]:
        return {"_callback": None}  # as for the callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._callback is not None and self._callback.is_over


class SweepCallback(ray_tune.Callback):
    """Follows the trials: updates `trials.json`, logs progress, and stops the sweep on request or when its time is over."""

    UPDATE_S = 2.0
    """Least time between two calls of `on_update` while trials run."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles callbacks to restore them. A sweep never is restored, and a terminal cannot be pickled.

    def __init__(
        self,
        sweep: Sweep,
        proposals: Proposals,
        wait: "RoomWait",
        log: Callable[[str], None],
        on_update: Callable[[Sweep], None],
    ) -> None:
        self.sweep, self.stopping, self._wait = sweep, False, wait
        self._is_running = False
        self._stop_reason: Literal["", "request", "time"] = ""
        self._proposals, self._log, self._on_update = proposals, log, on_update
        self._epochs: dict[str, int] = {}
        self._updated = 0.0
        self._started = time.monotonic()
        self._earlier_seconds = float(sweep.info.get("seconds") or 0.0)
        minutes = sweep.config.tune.max_time
        self._deadline = math.inf if minutes is None else self._started + minutes * 60 - self._earlier_seconds
        self._metric = sweep.config.tune.metrics[0]

    def stop(self, reason: Literal["request", "time"]) -> None:
        """Start no further trials, and ask running ones to write a checkpoint and stop."""
        self.stopping, self._stop_reason = True, reason
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        for trial in self._proposals.trials:
            if trial.status not in ENDED and (self.sweep.path / "trials" / trial.name / "run.json").exists():
                self.sweep.run(trial).request_stop()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self.stopping and time.monotonic() > self._deadline:
            self._log(
                f"tune.max_time: {self.sweep.config.tune.max_time:g} minutes are over; stopping the running trials"
            )
            self.stop("time")
        running = [_name(trial) for trial in trials if trial.status == "RUNNING"]
        for name in running:  # Ray calls `on_trial_start` for no trial that reuses a process
            if self._proposals.trial(name).status == WAITING:
                self._set(name, status=RUNNING, error=None)
        self._is_running = bool(running)
        self._wait.follow(any(trial.status == "PENDING" for trial in trials) and not running)
        self._wait.tell_of(self.sweep, running)

    @property
    def is_over(self) -> bool:
        """Whether the sweep ends although trials are left: none runs, and a stop was requested or room was waited for in vain."""
        return self._wait.error is not None or (self.stopping and not self._is_running)

    def given(self, name: str) -> None:
        """Record that a trial is given to Ray, which starts it once there is room."""
        self._set(name, status=WAITING, error=None)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name = _name(trial)
        if result.get("error"):
            self._set(name, error=str(result["error"]))
            return
        self._epochs[name] = int(result["epoch"])
        value = result.get(self._metric)
        self._log(f"trial {name}  epoch {result['epoch']}  {self._metric} {'--' if value is None else f'{value:.4f}'}")
        if self.stopping:  # a trial that was starting at the time of `stop` was not asked yet
            self._ask_to_stop()
        self._update()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        status, error, seconds = self._outcome(self._proposals.trial(name))
        self._set(name, status=status, error=error, seconds=seconds)
        self._proposals.record(self._proposals.trial(name))
        if status != WAITING:
            current = self.sweep.trial(name).hyperparameters  # PBT may have changed them
            hyperparameters = ", ".join(f"{k} {_short(v)}" for k, v in current.items()) or "the base configuration"
            self._log(f"trial {name}  {status}{': ' + error if error else ''} ({hyperparameters})")
        self._update(now=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        traceback = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = [line for line in traceback.splitlines() if line.strip()]
        error = " ".join(lines[-1].split())[:300] if lines else ""
        if not error or "process has died" in traceback:
            error = "its process died: killed, out of memory, or without progress for tune.hang_minutes"
        retries = self.sweep.config.tune.retries
        self._set(name, status=FAILED, error=f"died {retries + 1} times: {error}")
        folder = self.sweep.path / "trials" / name
        if (folder / "run.json").exists():
            Run(folder).update(status="failed", error=error)
        self._proposals.record(self._proposals.trial(name))
        self._log(f"trial {name}  failed: {error}")
        self._update(now=True)

    def _outcome(self, trial: Trial) -> tuple[str, str | None, float]:
        """Status, error and seconds of a trial that Ray has ended."""
        if trial.error:
            return FAILED, trial.error, trial.seconds
        try:
            info = self.sweep.run(trial).info
        except UserError:
            if self.is_over:  # it waited for room
                return WAITING, None, trial.seconds
            return FAILED, "it ended before its run started", trial.seconds
        seconds = float(info.get("seconds") or 0.0)
        if info["status"] == "failed":
            return FAILED, info.get("error"), seconds
        # A scheduler may stop a trial at its last epoch, before the run is marked as finished.
        if info["status"] == "finished" or self._epochs.get(trial.name) == self.sweep.run(trial).config.train.epochs:
            return FINISHED, None, seconds
        is_resumed = self._stop_reason == "request" or self._wait.error is not None
        return (WAITING if is_resumed else STOPPED), None, seconds

    def _set(self, name: str, **changes: Any) -> None:
        self._proposals.update(replace(self._proposals.trial(name), **changes))
        self.sweep.write_trials(self._proposals.trials)
        if changes.get("status") in ENDED and (self.sweep.path / "trials" / name / "run.json").exists():
            status = TRACKER_STATUS[changes["status"]]
            trackers.end(self.sweep.run(name), self.sweep.config, status, log=self._log)

    def _update(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._updated > self.UPDATE_S:
            # Saved often, in case the driver is killed: `tune.max_time` counts all launches.
            self.sweep.update(seconds=round(self._earlier_seconds + time.monotonic() - self._started, 2))
            self._on_update(self.sweep)
            self._updated = time.monotonic()

    def finish(self, *, interrupted: bool) -> None:
        """Record the state of the sweep at the end of this launch. Raises `Stopped` if it was asked to stop, `Interrupted` if by Ctrl-C,
        and `UserError` if there was no room for its trials."""
        self._update(now=True)
        if self._wait.error is not None:
            raise self._wait.error
        if self._stop_reason == "request":
            resume = f"cxr-ray tune --resume {shlex.quote(str(self.sweep.path))}"
            message = f"stopped; running trials have written checkpoints; resume with {resume}"
            raise Interrupted(message) if interrupted else Stopped(message)


def _name(ray_trial: Any) -> str:
    """The sweep's name of a Ray trial."""
    return str(ray_trial.config["spec"]["trial"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
