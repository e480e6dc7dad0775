"""The training loop: plain PyTorch over batches of a store. The training step: learner.py. Checkpoints: saver.py.

A `Context` gives rank, world size, device, report and restore; Ray is never imported here. The same loop runs in a debugger, in a
Ray Train worker and in a Tune trial.
"""
# N rows of this rank, M rows of all ranks, L labels

import csv
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import config as cfg
from cxr_ray import losses, metrics, models, runs
from cxr_ray.data import loader, mixup, store_check
from cxr_ray.data.features import training_source
from cxr_ray.data.plan import Plan
from cxr_ray.errors import UserError
from cxr_ray.metrics import Value
from cxr_ray.runs import Run, predictions_table
from cxr_ray.runtime import distributed, garbage, memory, precision
from cxr_ray.runtime.context import Context
from cxr_ray.runtime.polling import Decision, Poller
from cxr_ray.training import epoch_metrics, export, optim, trackers
from cxr_ray.training.checkpoint import CheckpointWriter
from cxr_ray.training.gathered import PartOutputs
from cxr_ray.training.history import History
from cxr_ray.training.learner import Learner
from cxr_ray.training.saver import Saver


def fit(config: cfg.Config, plan: Plan, store: loader.TrainingStore, context: Context, run: Run) -> dict[str, float]:
    """Train the model of `config` on the plan's train rows; evaluate val before the first epoch (epoch 0) and after every epoch.

    Resumes from the run's last complete checkpoint, if there is one. Every rank calls it; rank 0 writes the run folder. Returns
    the last epoch's metrics by name. The model of the selected epoch (`train.select`) is in `model.safetensors`, its val
    predictions in `predictions/val.parquet`."""
    memory.keep_heap()
    garbage.started()
    config = config.for_task(plan.task)
    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    source = distributed.all_or_none(lambda: training_source(store, config.data, run.info))
    trainer = _Trainer(_resolve_precision(config, context, run), plan, source, context, run)
    latest = trainer.resume()
    with trainer.tracking() as track, trainer.checking_bytes() as check_bytes:
        while trainer.end_reason is None and trainer.progress.last_epoch < config.train.epochs:
            epoch = trainer.progress.last_epoch + 1
            with trainer.timed():
                speed = trainer.train_epoch(epoch)
                check_bytes(epoch)
                parts = None if trainer.end_reason else trainer.evaluate_epoch(epoch)
                if parts is None:  # stopped within the epoch, after a checkpoint
                    break
                latest = trainer.finish_epoch(epoch, parts, speed)
                track(epoch, latest)
            context.report({"epoch": epoch, **latest}, trainer.saver.latest() if context.rank == 0 else None)
            trainer.check_end(epoch)
        distributed.run_on_rank0(trainer.finish)
    return latest


def _resolve_precision(config: cfg.Config, context: Context, run: Run) -> cfg.Config:
    """`config` with `train.precision: auto` resolved. run.json records rank 0's choice of the first start, so that resuming on
    different hardware does not change the numbers."""
    if config.train.precision != "auto":
        return config

    def recorded() -> str:
        name = run.info.get("precision") or precision.pick("auto", context.device).name
        run.update(precision=name)
        return str(name)

    train = config.train.model_copy(update={"precision": distributed.result_of_rank0(recorded)})
    return config.model_copy(update={"train": train})


class _Trainer:
    """The state of one training on one rank. Methods are in the order in which `fit` uses them."""

    def __init__(self, config: cfg.Config, plan: Plan, store: loader.TrainingStore, context: Context, run: Run) -> None:
        self.config, self.plan, self.store, self.context, self.run = config, plan, store, context, run
        self.train = config.train
        self.device, self.is_rank0 = context.device, context.rank == 0
        self.learner = Learner(config, plan, store, context)
        self.saver = Saver(self.learner, run, context, self.train)
        self.history = History()
        self.writer: CheckpointWriter | None = None
        """Writes the trained epoch's checkpoint while val is evaluated."""
        self.started = time.perf_counter()
        self.end_reason: str | None = None
        """Why the training ends: stop, max_time or patience."""

    def resume(self) -> dict[str, float]:
        """Load the newest checkpoint, if there is one; returns the metrics of the last completed epoch by name."""
        self.progress, epoch_completed = self.saver.resume()
        last_epoch = self.progress.last_epoch
        if self.is_rank0:
            self.history = History.until(last_epoch, self.run)
        minutes = self.train.max_time
        left_s = None if minutes is None else max(0.0, minutes * 60 - self.progress.seconds)
        self.poller = Poller(self.context, save_minutes=self.train.checkpoint_minutes, left_s=left_s)
        if epoch_completed:  # the run may have been killed before it checked this
            self._check_end(last_epoch, Decision(stop=False, time_over=left_s == 0.0, save=False, bad_step=None))
        return distributed.result_of_rank0(lambda: epoch_metrics.by_name(self.history.of(last_epoch)))

    @contextmanager
    def tracking(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Gives a function that sends an epoch's metrics to the trackers, which are closed with the final status."""
        if not self.is_rank0:
            yield lambda epoch, values: None
            return
        epoch = self.progress.last_epoch + 1
        opened = trackers.open(self.run, self.config, log=self.context.log, epoch=epoch)
        status: trackers.Status = "failed"
        try:
            yield opened.log
            status = "stopped" if self.end_reason == "stop" else "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            opened.close(status)

    @contextmanager
    def checking_bytes(self) -> Iterator[Callable[[int], None]]:
        """Gives a function to call after an epoch was trained: the first time it waits for the check of the store's bytes, and raises
        `UserError` on every rank if one found damage. One rank of each node checks (`data.verify: background`)."""
        first_of_node = int(os.environ.get("LOCAL_RANK", "0")) == 0
        background = self.config.data.verify == "background"
        check = store_check.start(self.store, self.config.data.verify) if background and first_of_node else None
        pending = background

        def wait(epoch: int) -> None:
            nonlocal pending
            if not pending or not epoch or self.end_reason is not None:
                return
            if check is not None and not check.is_done and self.is_rank0:
                self.context.log("waiting until the store's bytes are checked (data.verify: background)")
            distributed.all_or_none(check.wait if check is not None else lambda: None)
            pending = False

        try:
            yield wait
        finally:
            if check is not None:
                check.cancel()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time of the block as training time."""
        self.started = time.perf_counter()
        try:
            yield
        finally:
            self.progress.seconds, self.started = self._seconds(), time.perf_counter()

    def _seconds(self) -> float:
        """Training time so far, over all starts."""
        return self.progress.seconds + time.perf_counter() - self.started

    # -- training ------------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> float:
        """One pass over the train rows; returns rank 0's images per second.

        Ends early if the training is stopped (`end_reason`) or `train.max_time` is reached (`progress.shortened`). Does nothing
        for epoch 0, and for an epoch that was trained before a resume."""
        if not epoch or self.progress.unevaluated is not None:
            return 0.0
        samples, train = self._samples(epoch), self.train
        outputs = self.progress.outputs
        first, count, size = outputs.batches, len(samples.order), train.batch_size
        row_log, drops = self._open_row_log(), self._rate_drops()
        started, show = time.perf_counter(), self._progress(f"epoch {epoch}/{train.epochs}")
        self.poller.restart()
        self.learner.begin(epoch)
        with show as progress:
            progress(first * size, count)
            for batch in loader.train_batches(
                self.store, samples, batch_size=size, rank=self.context.rank, world=self.context.world,
                first=first, to_memory=memory.pin_for(self.device),
            ):  # fmt: skip
                if row_log is not None:
                    row_log.writerow([epoch, batch.step, self.context.rank, " ".join(map(str, batch.rows.tolist()))])
                logits, loss = self.learner.step(batch, epoch=epoch, drops=drops)
                outputs.add(batch.positions, logits)
                self.poller.record_loss(self.learner.steps, loss)
                is_last = batch.step + 1 == self.learner.steps_per_epoch
                if (self.poller.due() or is_last) and self._poll(epoch, samples, is_last=is_last):
                    break
                if not is_last:  # then the line of the epoch follows
                    progress((batch.step + 1) * size, count)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.end_reason is None:
            self.learner.average_running_statistics()
        images = min(outputs.batches * size, count) - first * size
        return images / max(time.perf_counter() - started, 1e-9)

    def _progress(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """The progress that rank 0 shows."""
        return self.context.progress(what) if self.is_rank0 else nullcontext(lambda done, total: None)

    def _samples(self, epoch: int) -> loader.EpochSamples:
        """The train samples of an epoch, in order."""
        alpha, seed = self.config.augment.mixup, self.config.seed
        order = loader.epoch_order(self.plan.repeats, seed=seed, epoch=epoch)
        pair = (lambda positions: mixup.pairs(alpha, seed=seed, epoch=epoch, positions=positions)) if alpha else None
        return loader.EpochSamples(self.plan.rows["train"], self.plan.truth["train"], order, pair)

    def _rate_drops(self) -> int:
        """How often a plateau of the monitored metric has reduced the learning rate so far, on every rank."""
        if self.config.optim.schedule != "plateau":
            return 0
        values = self.history.curve(self.train.monitor, until=self.progress.last_epoch)
        drops = optim.plateau_drops(values, mode=self.train.mode, wait=self.config.optim.drop_epochs)
        return int(distributed.from_rank0(drops))  # only rank 0 has the history

    def _open_row_log(self) -> Any:
        if not self.train.log_rows:
            return None
        folder = self.run.path / "rows"
        folder.mkdir(exist_ok=True)
        file = (folder / f"rank-{self.context.rank}.csv").open("a", newline="", buffering=1)
        return csv.writer(file)

    def _poll(self, epoch: int, samples: loader.EpochSamples, *, is_last: bool) -> bool:
        """Decide with all ranks what to do after a batch; returns whether the epoch ends here.

        Raises `UserError` if the loss or the weights are not finite."""
        decision = self.poller.poll()
        if decision.bad_step is not None:
            self._raise_diverged(epoch, decision.bad_step, samples, "the loss of step {} is not a number")
        saves = is_last or decision.stop or decision.time_over or decision.save
        if saves and not self.learner.is_finite():  # such a checkpoint must not replace a good one
            self._raise_diverged(epoch, self.learner.steps, samples, "the weights after step {} are not all numbers")
        if is_last:
            return False  # the epoch is complete; evaluate_epoch writes its checkpoint
        self.progress.shortened = decision.time_over and not decision.stop
        if self.progress.shortened:
            if self.is_rank0:
                self.context.log(
                    f"train.max_time: the limit of {self.train.max_time:g} minutes is reached after batch "
                    f"{self.progress.outputs.batches} of {self.learner.steps_per_epoch} in epoch {epoch}, which ends here"
                )
            return True
        if decision.stop or decision.save:
            self.saver.write_within_epoch(self.progress, epoch, self._seconds())
        if decision.stop:
            self.end_reason = "stop"
            if self.is_rank0:
                batches, steps = self.progress.outputs.batches, self.learner.steps_per_epoch
                self.context.log(f"stopped after batch {batches} of {steps} in epoch {epoch}")
        return decision.stop

    def _raise_diverged(self, epoch: int, step: int, samples: loader.EpochSamples, problem: str) -> NoReturn:
        """Every rank raises the same error, which names the batch; earlier checkpoints remain."""
        size = self.train.batch_size
        batch = self.progress.outputs.batches - 1 - (self.learner.steps - step)
        rows = samples.rows[samples.order][batch * size : (batch + 1) * size].tolist()
        if self.is_rank0:
            self.run.update(diverged={"epoch": epoch, "step": step, "rows": rows})
        good = self.saver.latest()
        raise UserError(
            f"{problem.format(f'{step} (epoch {epoch})')}: the training has diverged: lower optim.lr, or set optim.clip_norm; "
            f"the batch consists of rows {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''} of the store "
            f"(all in run.json); {f'the last good checkpoint is {good.name}' if good else 'there is no checkpoint yet'}"
        )

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate_epoch(self, epoch: int) -> dict[str, PartOutputs] | None:
        """The outputs of train (from the training steps, with augmentation) and of val; None if stopped during evaluation.

        The epoch's checkpoint is written while val is evaluated, and counts once it is written: after a kill only the evaluation
        is repeated."""
        parts = {"train": self._train_outputs(epoch)} if epoch else {}
        if self.is_rank0 and self.progress.unevaluated is None:
            within = {"logits": parts["train"].logits} if epoch else None
            self.writer = self.saver.start_writing(self.progress, epoch, self._seconds(), within)
        rows = self.plan.rows["val"]
        if len(rows):
            logits = self.predict(rows, what=f"epoch {epoch}/{self.train.epochs} on val")
            if logits is None:
                self.end_reason = "stop"
                distributed.run_on_rank0(lambda: self._log_stopped_evaluation(epoch))
                return None
            parts["val"] = PartOutputs(rows, logits, self.plan.truth["val"])
        return parts

    def _train_outputs(self, epoch: int) -> PartOutputs:
        """The outputs of the epoch's own training steps on all ranks."""
        samples = self._samples(epoch)
        positions, logits = self.progress.outputs.gather()
        in_order = np.argsort(positions)
        count = len(positions) if self.progress.shortened else len(samples.order)
        assert np.array_equal(positions[in_order], np.arange(count)), "an epoch uses every sample exactly once"
        used = samples.order[:count]
        return PartOutputs(samples.rows[used], logits[torch.from_numpy(in_order)], samples.truth[used])

    def predict(self, rows: npt.NDArray[np.int64], *, what: str) -> torch.Tensor | None:
        """Logits [M, L] of store rows [M], in their order, on every rank; each rank predicts a contiguous share.

        None if a stop was requested meanwhile."""
        self.poller.restart()
        world = self.context.world
        own = rows[loader.rank_slice(len(rows), self.context.rank, world)]
        # A rank with one row less may have one batch less, and must still poll as often as the others.
        size, largest_share = self.learner.eval_batch_size, -(-len(rows) // world)
        with self._progress(what) as progress:
            ends = itertools.chain(range(size * world, len(rows), size * world), itertools.repeat(len(rows)))
            logits = self.learner.predict(own, stop=lambda: self._should_stop(progress(next(ends), len(rows))))
        has_fewer_batches = -(-len(own) // size) < -(-largest_share // size)
        if logits is None or (has_fewer_batches and self._should_stop()):
            return None
        return distributed.gather_rows(logits).cpu()

    def _should_stop(self, shown: None = None) -> bool:
        """Called after every predicted batch, whose progress is `shown`; the same on all ranks."""
        self.poller.tick()
        return self.poller.due() and self.poller.poll().stop

    def _log_stopped_evaluation(self, epoch: int) -> None:
        checkpoint = self._finish_writing()
        self.context.log(f"stopped while evaluating val of epoch {epoch}, which is trained ({checkpoint.name})")

    def _finish_writing(self) -> Path:
        """The complete checkpoint of the trained epoch; on rank 0."""
        if self.progress.unevaluated is None:
            assert self.writer is not None
            self.progress.unevaluated, self.writer = self.writer.wait(), None
        return self.progress.unevaluated

    # -- the end of an epoch ------------------------------------------------------------------------------------

    def finish_epoch(self, epoch: int, parts: dict[str, PartOutputs], speed: float) -> dict[str, float]:
        """Compute the epoch's metrics and complete it: history, predictions, checkpoint, log. Returns its metrics by name."""
        values = self._compute_metrics(parts)

        def record() -> None:
            checkpoint = self._finish_writing()
            self.history.add(epoch, self.learner.steps, values, self.run)
            is_best = self.saver.update_best(self.progress, epoch, metrics.find(values, self.train.monitor))
            self._write_predictions(epoch, parts, selected=is_best or self.train.select == "last")
            self.saver.mark_evaluated(checkpoint, self.progress, self._seconds())
            epoch_s = time.perf_counter() - self.started
            for line in epoch_metrics.epoch_lines(self.config, self.plan, epoch, values, speed, epoch_s):
                self.context.log(line)

        distributed.run_on_rank0(record)
        self.progress.last_epoch, self.progress.unevaluated = epoch, None
        self.progress.outputs.clear()
        return epoch_metrics.by_name(values)

    def _compute_metrics(self, parts: dict[str, PartOutputs]) -> dict[str, list[Value]]:
        """Metrics of every part at the same thresholds; a rule chooses them on this epoch's val, without val on train."""
        if not parts:
            return {}
        chosen_on = parts.get("val") or parts["train"]
        rule = self.config.report.thresholds
        thresholds_L = epoch_metrics.thresholds(rule, chosen_on.logits, chosen_on.truth, self.plan)
        return {
            part: epoch_metrics.epoch_values(outputs.logits, outputs.truth, self.learner.loss, self.plan, thresholds_L)
            for part, outputs in parts.items()
        }

    def _write_predictions(self, epoch: int, parts: dict[str, PartOutputs], *, selected: bool) -> None:
        """Write val's if this epoch's model is selected; every part's with `report.keep_predictions`."""
        for part, outputs in parts.items():
            is_selected_val = part == "val" and selected
            if not is_selected_val and not self.config.report.keep_predictions:
                continue
            prob = losses.probabilities(outputs.logits, task=self.plan.task).numpy()
            table = predictions_table(self.store.index, outputs.rows, self.plan.labels, outputs.truth, prob)
            if is_selected_val:
                self.run.write_predictions("val", table)
            if self.config.report.keep_predictions:
                self.run.write_predictions(f"epochs/{epoch:04d}-{part}", table)

    def check_end(self, epoch: int) -> None:
        """Decide with all ranks whether the training ends after this epoch (`end_reason`)."""
        self._check_end(epoch, self.poller.poll())

    def _check_end(self, epoch: int, decision: Decision) -> None:
        patience, shortened = self.train.patience, self.progress.shortened
        best = distributed.from_rank0(self.progress.best) if patience is not None else None  # only rank 0 knows it
        if shortened:  # already logged
            self.end_reason = "max_time"
        if epoch == self.train.epochs or shortened:
            return
        if decision.stop or decision.time_over:
            self.end_reason = "stop" if decision.stop else "max_time"
        elif patience is not None and best is not None:
            waited = epoch - best["epoch"] if best["value"] is not None else 0
            self.end_reason = "patience" if waited >= patience else None
            if best["value"] is None and epoch == patience and self.is_rank0:
                self.context.log(
                    f"train.patience: {self.train.monitor} is undefined in every epoch so far, so it cannot end the training"
                )
        if self.end_reason and self.is_rank0:
            reason = {
                "stop": "a stop was requested",
                "max_time": f"train.max_time: the limit of {self.train.max_time} minutes is reached",
                "patience": f"train.patience: no better {self.train.monitor} for {patience} epochs",
            }[self.end_reason]
            self.context.log(f"ending after epoch {epoch}: {reason}")

    # -- the end of the training --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the run's model and its final status; on rank 0."""
        status, progress = "stopped" if self.end_reason == "stop" else "finished", self.progress
        selected = export.save_model(
            self.run, self.learner.model, self.plan, select=self.train.select, precision=self.learner.precision.name
        )
        if status == "finished" and selected is None:
            raise UserError(
                f"the checkpoint of the {self.train.select} epoch in {self.saver.folder} is damaged or missing; run the same "
                "command again: it evaluates the newest valid checkpoint and saves that"
            )
        if status == "finished" and selected == {"epoch": 0, "step": 0} and self.train.epochs:
            self.context.log(
                "warning: the training ended before its first step: the saved model is untrained; give it more time "
                "(train.max_time)"
            )
        if selected is not None:
            kept = runs.selected_text({"best": progress.best, "kept": selected}, self.train)
            self.context.log(f"model of {kept}" if status == "finished" else f"model so far: of {kept}")
        self.run.update(
            status=status,
            ended=self.end_reason,
            best=progress.best,
            kept=selected,
            epochs=progress.last_epoch,
            seconds=round(progress.seconds, 2),
            parameters=models.parameter_count(self.learner.model),
            precision=self.learner.precision.name,
            workers=self.context.world,
            device=self.device.type,
        )
