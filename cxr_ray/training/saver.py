"""Checkpoints of one training: written, pointed to, and found again after a stop. The epoch loop is trainer.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_ray.config import Train
from cxr_ray.runs import Run, best_epoch
from cxr_ray.runtime import distributed
from cxr_ray.runtime.context import Context
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.gathered import Gathered
from cxr_ray.training.learner import Learner


@dataclass
class Progress:
    """How far a training is."""

    done_epochs: int = -1
    """The last epoch that is trained and evaluated; -1 before the untrained model is."""
    trained_at: Path | None = None
    """The checkpoint of the epoch after `done_epochs`, where it is trained and only its evaluation is left."""
    gathered: Gathered = field(default_factory=Gathered)
    """Of the epoch after `done_epochs`."""
    shortened: bool = False
    """Whether the time was over within the last epoch, which ended there."""
    seconds: float = 0.0
    """Of training, over all its starts, up to the end of the last epoch."""
    best: dict[str, Any] | None = None
    """Epoch, step, metric and value of the best epoch so far, as run.json has it."""


class Saver:
    """Writes a training's checkpoints and resumes from them. Rank 0 writes; every rank makes the same calls."""

    def __init__(self, learner: Learner, run: Run, context: Context, train: Train) -> None:
        self._learner, self._run, self._context, self._train = learner, run, context, train
        self._first = context.rank == 0
        self.folder = run.path / "checkpoints"

    def latest(self) -> Path | None:
        """The newest checkpoint; None before the first."""
        return checkpoints.pointed(self.folder, "last")

    # -- writing ------------------------------------------------------------------------------------------------

    def start_writing(
        self,
        progress: Progress,
        epoch: int,
        seconds: float,
        within: dict[str, torch.Tensor] | None,
        *,
        batches: int = 0,
    ) -> checkpoints.Writing:
        """Begin to write the state as it is now, in a thread.

        `seconds` are those of training so far, `within` the tensors of an epoch that is not evaluated yet, `batches` how many of
        it are done where it is not trained to its end."""
        state = {
            "epoch": epoch,
            "batches": batches,
            "judged": False,
            "shortened": progress.shortened,
            "best": progress.best,
            "seconds": seconds,
            **self._learner.state(),
        }
        return checkpoints.Writing(
            self.folder,
            self._learner.steps,
            model=self._learner.tensors(),
            optimizer=self._learner.optimizer_state(),
            state=state,
            within=within,
        )

    def write_within_epoch(self, progress: Progress, epoch: int, seconds: float) -> None:
        """A checkpoint in the middle of an epoch: also what was gathered of it, and every rank's running statistics."""
        gathered = progress.gathered
        positions, logits = gathered.of_all_ranks(self._context.device)
        within = {"positions": torch.from_numpy(positions), "logits": logits, "running": self._learner.running()}

        def write() -> None:
            self.start_writing(progress, epoch, seconds, within, batches=gathered.batches).end()
            checkpoints.prune(self.folder)

        distributed.first_alone(write)

    def update_best(self, progress: Progress, epoch: int, value: float | None) -> bool:
        """Count `epoch`, whose monitored metric is `value` (None: undefined); whether it is the best so far."""
        best = progress.best
        course = {epoch: value} if best is None else {best["epoch"]: best["value"], epoch: value}
        is_best = best_epoch(course, self._train.mode) == epoch
        if is_best:
            progress.best = {
                "epoch": epoch, "step": self._learner.steps, "metric": self._train.monitor, "value": value
            }  # fmt: skip
        return is_best

    def mark_evaluated(self, place: Path, progress: Progress, seconds: float) -> None:
        """Let a whole epoch's checkpoint count as evaluated, after everything that belongs to the epoch is written."""
        checkpoints.amend(place, {"judged": True, "best": progress.best, "seconds": seconds})
        self._point(progress, place)
        checkpoints.prune(self.folder)

    def _point(self, progress: Progress, evaluated: Path | None) -> None:
        """Set the pointers to what the state says: they can be set again from it after a kill."""
        if progress.best is not None:
            checkpoints.point(self.folder, "best", checkpoints.at(self.folder, progress.best["step"]))
        if evaluated is not None and self._train.select == "last":
            checkpoints.point(self.folder, "judged", evaluated)

    # -- resuming -----------------------------------------------------------------------------------------------

    def resume(self) -> tuple[Progress, bool]:
        """Load the checkpoint to resume from, if there is one: how far the training is, and whether it stands after a whole,
        evaluated epoch of its own."""
        given = self._context.restore()
        place = given or self._newest_sound()
        progress = Progress()
        if place is None:
            return progress, False
        loaded = checkpoints.load(place)
        state = loaded.state
        self._learner.load(loaded)
        progress.best, progress.seconds = state["best"], state["seconds"]
        within, due = bool(state["batches"]), False
        if given is not None:  # taken over from another run, whose best is not this run's
            own = self.latest()
            best = None if own is None else checkpoints.load(own).state["best"]
            # An epoch after this state is trained once more, with another result.
            progress.best = None if best is not None and best["epoch"] > state["epoch"] else best
        else:
            progress.shortened = state["shortened"]
            lost = distributed.answer_of_first(lambda: self._best_is_lost(progress, place))
            if lost:
                progress.best = None
            # Where the best is lost, this epoch is evaluated again, as the first of those that are left to choose from.
            due = not within and (lost or not state["judged"])
            distributed.first_alone(lambda: self._point(progress, None if within or due else place))
        progress.done_epochs = state["epoch"] - (within or due)
        progress.trained_at = place if due else None
        if within or due:
            self._restore_gathered(progress, loaded)
        if self._first:
            steps = self._learner.steps_per_epoch
            where = f"batch {state['batches']} of {steps} in " if within else "training " if due else ""
            self._context.log(f"resuming after {where}epoch {state['epoch']} of {self._train.epochs} ({place.name})")
        return progress, given is None and not within and not due

    def _newest_sound(self) -> Path | None:
        """Rank 0's answer, so that all resume from the same checkpoint, whatever is written meanwhile."""
        found = distributed.answer_of_first(lambda: checkpoints.latest(self.folder))
        if found is None:
            return None
        place, warning = found
        if warning and self._first:
            self._context.log(warning)
        return place

    def _best_is_lost(self, progress: Progress, sound: Path) -> bool:
        """Whether the checkpoint of the best epoch is damaged, which is logged; rank 0 asks. `sound` is known not to be."""
        best = progress.best
        place = sound if best is None else checkpoints.at(self.folder, best["step"])
        if best is None or place == sound or checkpoints.is_sound(place):
            return False
        self._context.log(
            f"warning: the checkpoint of the best epoch ({best['epoch']}) is damaged or missing: the best epoch is chosen "
            "again, from here on"
        )
        return True

    def _restore_gathered(self, progress: Progress, loaded: checkpoints.Checkpoint) -> None:
        """Rank 0 takes what was gathered of the epoch; as many ranks as before take their own statistics, others the mean."""
        within = loaded.within
        if loaded.state["epoch"]:
            logits = within["logits"].to(self._context.device)
            positions = within["positions"].numpy() if "positions" in within else np.arange(len(logits))
            mine = slice(None) if self._first else slice(0)
            progress.gathered = Gathered(positions[mine], logits[mine])
        progress.gathered.batches = loaded.state["batches"]
        if "running" in within:  # else they are averaged already
            self._learner.set_running(within["running"])
