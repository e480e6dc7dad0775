"""The driver's side of a running sweep: hands trials to Ray Tune, records what they report, and ends the sweep."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.search import Searcher

from cxr_ray.errors import UserError
from cxr_ray.on_ray import schedulers
from cxr_ray.on_ray.trial import OBJECTIVE
from cxr_ray.training import trackers
from cxr_ray.tuning import space
from cxr_ray.tuning.search import Proposals
from cxr_ray.tuning.sweep import Sweep
from cxr_ray.tuning.trial import ENDED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Trial

TOLD: dict[str, trackers.Status] = {FINISHED: "finished", STOPPED: "stopped", FAILED: "failed"}
"""How a trial ended, as trackers say it."""


def _given(sweep: Sweep, trial: Trial, searched: space.Space) -> dict[str, Any]:
    """What a trial's process is given; its knobs pbt may change."""
    hyperparameters = schedulers.starting_hyperparameters(sweep, trial, searched)
    return {"sweep": str(sweep.path), "trial": trial.name, "knobs": hyperparameters}


class _Feed(Searcher):
    """Hands Ray the sweep's own proposals, one a trial."""

    def __init__(self, proposals: Proposals, seen: "_Seen", searched: space.Space) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._proposals, self._seen, self._searched = proposals, seen, searched

    def suggest(self, trial_id: str) -> Any:
        if self._seen.ending:
            return Searcher.FINISHED
        trial = self._proposals.next()
        if trial is None:
            return Searcher.FINISHED
        self._seen.started(trial.name)  # written before its process looks for it there
        return {"given": _given(self._seen.sweep, trial, self._searched)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by `_Seen`, which knows the run folder."""

    # What Ray saves of a searcher is not what a sweep goes on from.
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Seen(ray_tune.Callback):
    """What the driver sees of the trials: keeps the ledger, tells the user, ends the sweep when asked or out of time."""

    EVERY_S = 2.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps its callbacks pickled, to be restored: a sweep is not, and a terminal cannot be

    def __init__(
        self, sweep: Sweep, proposals: Proposals, log: Callable[[str], None], watch: Callable[[Sweep], None]
    ) -> None:
        self.sweep, self.ending, self._why = sweep, False, ""
        self._proposals, self._log, self._watch = proposals, log, watch
        self._epochs: dict[str, int] = {}
        self._drawn = 0.0
        self._began = time.monotonic()
        self._before = float(sweep.info.get("seconds") or 0.0)
        minutes = sweep.config.tune.max_time
        self._ends = math.inf if minutes is None else self._began + minutes * 60 - self._before
        self._metric = sweep.config.tune.metrics[0]

    def end(self, why: str) -> None:
        """Let no further trial start, and those that run write a checkpoint and end."""
        self.ending, self._why = True, why
        for trial in self._proposals.trials:
            if trial.status not in ENDED and (self.sweep.path / "trials" / trial.name / "run.json").exists():
                self.sweep.run(trial).ask_to_stop()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self.ending and time.monotonic() > self._ends:
            self._log(
                f"tune.max_time: {self.sweep.config.tune.max_time:g} minutes are over; ending the trials that run"
            )
            self.end("time")

    def started(self, name: str) -> None:
        """A trial is handed to Ray."""
        self._set(name, status=RUNNING, error=None)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.started(_name(trial))  # pbt's; Ray does not call it for a trial that starts in a used process

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
        if self.ending:  # one that was just starting when the end was called
            self.end(self._why)
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        held = self._proposals.trial(name)
        status, error, seconds = self._outcome(held)
        self._set(name, status=status, error=error, seconds=seconds)
        self._proposals.told(self._proposals.trial(name))
        if status != WAITING:
            now = self.sweep.trial(name).hyperparameters  # pbt may have changed them
            hyperparameters = ", ".join(f"{k} {_short(v)}" for k, v in now.items()) or "the config as written"
            self._log(f"trial {name}  {status}{': ' + error if error else ''} ({hyperparameters})")
        self._draw(now=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = _name(trial)
        told = Path(trial.error_file).read_text() if trial.error_file else ""
        lines = [line for line in told.splitlines() if line.strip()]
        error = " ".join(lines[-1].split())[:300] if lines else ""
        if not error or "process has died" in told:
            error = "its process died: killed, out of memory, or silent for tune.hang_minutes"
        tries = self.sweep.config.tune.retries
        self._set(name, status=FAILED, error=f"died {tries + 1} times: {error}")
        self._proposals.told(self._proposals.trial(name))
        self._log(f"trial {name}  failed: {error}")
        self._draw(now=True)

    def _outcome(self, trial: Trial) -> tuple[str, str | None, float]:
        if trial.error:
            return FAILED, trial.error, trial.seconds
        try:
            info = self.sweep.run(trial).info
        except UserError:
            return FAILED, "it ended before its run began", trial.seconds
        seconds = float(info.get("seconds") or 0.0)
        if info["status"] == "failed":
            return FAILED, info.get("error"), seconds
        # Its scheduler may have ended it at its last epoch, before it could say that it is finished.
        if info["status"] == "finished" or self._epochs.get(trial.name) == self.sweep.run(trial).config.train.epochs:
            return FINISHED, None, seconds
        return (WAITING if self.ending and self._why == "asked" else STOPPED), None, seconds

    def _set(self, name: str, **changes: Any) -> None:
        self._proposals.set(replace(self._proposals.trial(name), **changes))
        self.sweep.write_trials(self._proposals.trials)
        if changes.get("status") in ENDED and (self.sweep.path / "trials" / name / "run.json").exists():
            trackers.end(self.sweep.run(name), self.sweep.config, TOLD[changes["status"]], log=self._log)

    def _draw(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn > self.EVERY_S:
            self.sweep.update(
                seconds=self._seconds()
            )  # kept where the driver is killed: `tune.max_time` is over all starts
            self._watch(self.sweep)
            self._drawn = time.monotonic()

    def flush(self) -> None:
        """The sweep's last word of this launch."""
        if self.ending and self._why == "asked":
            self.sweep.update(status="stopped")
        self._draw(now=True)

    def _seconds(self) -> float:
        return round(self._before + time.monotonic() - self._began, 2)


def _name(trial: Any) -> str:
    """The sweep's name of Ray's trial."""
    return str(trial.config["given"]["trial"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
