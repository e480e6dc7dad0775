"""When a training writes checkpoints, and how it resumes from them. Files: checkpoint.py. The epoch loop: trainer.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr_ray.config import Train
from cxr_ray.runs import Run, best_epoch
from cxr_ray.runtime import distributed
from cxr_ray.runtime.context import Context
from cxr_ray.training import checkpoint as checkpoints
from cxr_ray.training.checkpoint import Checkpoint, CheckpointWriter
from cxr_ray.training.gathered import EpochOutputs
from cxr_ray.training.learner import Learner


@dataclass
class Progress:
    """How far a training is."""

    outputs: EpochOutputs
    """Of the epoch after `last_epoch`."""
    last_epoch: int = -1
    """The last epoch that is trained and evaluated; -1 before the evaluation of the untrained model."""
    unevaluated: Path | None = None
    """The checkpoint of the epoch after `last_epoch`, if it is trained and only its evaluation is missing."""
    shortened: bool = False
    """Whether `train.max_time` ended the last epoch early."""
    seconds: float = 0.0
    """Training time over all starts, up to the end of the last epoch."""
    best: dict[str, Any] | None = None
    """Epoch, step, metric and value of the best epoch so far, as in run.json."""


class Saver:
    """Writes a training's checkpoints and resumes from them. Rank 0 writes; every rank makes the same calls."""

    def __init__(self, learner: Learner, run: Run, context: Context, train: Train) -> None:
        self._learner, self._run, self._context, self._train = learner, run, context, train
        self._is_rank0 = context.rank == 0
        self.folder = run.path / "checkpoints"

    def latest(self) -> Path | None:
        """The newest checkpoint; None before the first."""
        return checkpoints.pointer_target(self.folder, "last")

    # -- writing ------------------------------------------------------------------------------------------------

    def start_writing(
        self,
        progress: Progress,
        epoch: int,
        seconds: float,
        within: dict[str, torch.Tensor] | None,
        *,
        batches: int = 0,
    ) -> CheckpointWriter:
        """Start to write the current state, in a thread.

        `seconds` is the training time so far, `within` the outputs of an epoch that is not evaluated yet, `batches` the number of
        batches done if the epoch is not trained to its end."""
        state = {
            "epoch": epoch,
            "batches": batches,
            "judged": False,
            "shortened": progress.shortened,
            "best": progress.best,
            "seconds": seconds,
            **self._learner.state(),
        }
        return CheckpointWriter(
            self.folder,
            self._learner.steps,
            model=self._learner.tensors(),
            optimizer=self._learner.optimizer_state(),
            state=state,
            within=within,
        )

    def write_within_epoch(self, progress: Progress, epoch: int, seconds: float) -> None:
        """Write a checkpoint in the middle of an epoch, with its outputs so far and every rank's running statistics."""
        positions, logits = progress.outputs.gather()
        running = self._learner.running_statistics()
        within = {"positions": torch.from_numpy(positions), "logits": logits, "running": running}

        def write() -> None:
            self.start_writing(progress, epoch, seconds, within, batches=progress.outputs.batches).wait()
            checkpoints.prune(self.folder)

        distributed.run_on_rank0(write)

    def update_best(self, progress: Progress, epoch: int, value: float | None) -> bool:
        """Take `epoch` into account, whose monitored metric is `value` (None: undefined); whether it is the best so far."""
        best = progress.best
        values = {epoch: value} if best is None else {best["epoch"]: best["value"], epoch: value}
        is_best = best_epoch(values, self._train.mode) == epoch
        if is_best:
            progress.best = {
                "epoch": epoch, "step": self._learner.steps, "metric": self._train.monitor, "value": value
            }  # fmt: skip
        return is_best

    def mark_evaluated(self, checkpoint: Path, progress: Progress, seconds: float) -> None:
        """Mark the checkpoint of a complete epoch as evaluated, once everything else of the epoch is written."""
        checkpoints.add_evaluation(checkpoint, {"judged": True, "best": progress.best, "seconds": seconds})
        self._set_pointers(progress, checkpoint)
        checkpoints.prune(self.folder)

    def _set_pointers(self, progress: Progress, evaluated: Path | None) -> None:
        """Set the pointers from the state, which makes it repeatable after a kill."""
        if progress.best is not None:
            best = checkpoints.path_of(self.folder, progress.best["step"])
            checkpoints.set_pointer(self.folder, "best", best)
        if evaluated is not None and self._train.select == "last":
            checkpoints.set_pointer(self.folder, "judged", evaluated)

    # -- resuming -----------------------------------------------------------------------------------------------

    def resume(self) -> tuple[Progress, bool]:
        """Load the checkpoint to resume from, if there is one.

        Returns the progress, and whether the last thing the run did was to complete and evaluate an epoch."""
        transferred = self._context.restore()
        path = transferred or self._latest_valid()
        samples, labels = self._learner.samples_per_epoch, self._learner.labels
        progress = Progress(EpochOutputs(samples, labels, device=self._context.device))
        if path is None:
            return progress, False
        checkpoint = checkpoints.load(path)
        state = checkpoint.state
        self._learner.load(checkpoint)
        progress.best, progress.seconds = state["best"], state["seconds"]
        within_epoch, to_evaluate = bool(state["batches"]), False
        if transferred is not None:  # from another run (PBT), whose best epoch is not this run's
            own = self.latest()
            best = None if own is None else checkpoints.load(own).state["best"]
            # Epochs after this state are trained again, with a different result.
            progress.best = None if best is not None and best["epoch"] > state["epoch"] else best
        else:
            progress.shortened = state["shortened"]
            best_is_lost = distributed.result_of_rank0(lambda: self._is_best_lost(progress, path))
            if best_is_lost:
                progress.best = None
            # If the best is lost, this epoch is evaluated again, as the first one to choose from.
            to_evaluate = not within_epoch and (best_is_lost or not state["judged"])
            evaluated = None if within_epoch or to_evaluate else path
            distributed.run_on_rank0(lambda: self._set_pointers(progress, evaluated))
        progress.last_epoch = state["epoch"] - (within_epoch or to_evaluate)
        progress.unevaluated = path if to_evaluate else None
        if within_epoch or to_evaluate:
            self._restore_outputs(progress, checkpoint)
        if self._is_rank0:
            steps = self._learner.steps_per_epoch
            where = f"batch {state['batches']} of {steps} in " if within_epoch else "training " if to_evaluate else ""
            self._context.log(f"resuming after {where}epoch {state['epoch']} of {self._train.epochs} ({path.name})")
        return progress, transferred is None and not within_epoch and not to_evaluate

    def _latest_valid(self) -> Path | None:
        """The newest valid checkpoint as rank 0 sees it, so that all ranks resume from the same one."""
        found = distributed.result_of_rank0(lambda: checkpoints.latest(self.folder))
        if found is None:
            return None
        path, warning = found
        if warning and self._is_rank0:
            self._context.log(warning)
        return path

    def _is_best_lost(self, progress: Progress, valid: Path) -> bool:
        """Whether the checkpoint of the best epoch is damaged, which is logged; on rank 0. `valid` was verified already."""
        best = progress.best
        path = valid if best is None else checkpoints.path_of(self.folder, best["step"])
        if best is None or path == valid or checkpoints.is_valid(path):
            return False
        self._context.log(
            f"warning: the checkpoint of the best epoch ({best['epoch']}) is damaged or missing: the best epoch is chosen "
            "again, from here on"
        )
        return True

    def _restore_outputs(self, progress: Progress, checkpoint: Checkpoint) -> None:
        """Rank 0 takes the outputs of the epoch. Each rank takes its own running statistics if the world size is unchanged, else
        the mean."""
        within = checkpoint.within
        if checkpoint.state["epoch"]:
            logits = within["logits"]
            positions = within["positions"].numpy() if "positions" in within else np.arange(len(logits))
            own = slice(None) if self._is_rank0 else slice(0)
            progress.outputs.restore(positions[own], logits[own], batches=checkpoint.state["batches"])
        if "running" in within:  # otherwise they are averaged already
            self._learner.set_running_statistics(within["running"])
