"""The training loop: plain PyTorch over batches of a store. A `Context` gives rank, world, device, report and restore; Ray is never
imported here. One loop, three homes: a debugger, a Ray Train worker, a Tune trial.
"""
# N rows of this rank, M rows of all ranks, L labels

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import config as cfg
from cxr_ray import losses, metrics, models
from cxr_ray.data import loader, mixup
from cxr_ray.data.plan import Plan
from cxr_ray.errors import UserError
from cxr_ray.metrics import Value
from cxr_ray.runs import Run, predictions_table
from cxr_ray.runtime import distributed, memory, precision
from cxr_ray.runtime.context import Context
from cxr_ray.runtime.polling import Answer, Watch
from cxr_ray.training import epoch_metrics, export, optim, trackers
from cxr_ray.training.gathered import Gathered, Outputs
from cxr_ray.training.history import History
from cxr_ray.training.learner import Learner
from cxr_ray.training.saver import Saver

LOG_EVERY_S = 30.0


def fit(config: cfg.Config, plan: Plan, store: loader.Data, context: Context, run: Run) -> dict[str, float]:
    """Train `config`'s model on the plan's train rows and evaluate val at epoch 0 and after every epoch.

    Resumes from the run's last complete checkpoint where there is one. Every rank calls it; rank 0 writes the run folder.
    Returns the last epoch's metrics by name. The model that the run keeps (`train.select`) is in `model.safetensors`,
    its val predictions in `predictions/val.parquet`."""
    config = config.for_task(plan.task)
    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    trainer = _Trainer(_with_precision(config, context, run), plan, store, context, run)
    latest = trainer.resume()
    with trainer.tracking() as track:
        while trainer.ended is None and trainer.progress.done_epochs < config.train.epochs:
            epoch = trainer.progress.done_epochs + 1
            with trainer.timed():
                speed = trainer.train_epoch(epoch)
                parts = None if trainer.ended else trainer.evaluate_epoch(epoch)
                if parts is None:  # stopped within the epoch, after a checkpoint
                    break
                latest = trainer.finish_epoch(epoch, parts, speed)
                track(epoch, latest)
            context.report({"epoch": epoch, **latest}, trainer.saver.latest() if context.rank == 0 else None)
            trainer.check_end(epoch)
        distributed.first_alone(trainer.finish)
    return latest


def _with_precision(config: cfg.Config, context: Context, run: Run) -> cfg.Config:
    """`config` with `train.precision: auto` as rank 0 resolved it at the run's first start: run.json records it, so that a
    resume on another machine does not change the numbers."""
    if config.train.precision != "auto":
        return config

    def recorded() -> str:
        name = run.info.get("precision") or precision.pick("auto", context.device).name
        run.update(precision=name)
        return str(name)

    train = config.train.model_copy(update={"precision": distributed.answer_of_first(recorded)})
    return config.model_copy(update={"train": train})


class _Trainer:
    """One training: what stays the same from step to step, and what is counted."""

    def __init__(self, config: cfg.Config, plan: Plan, store: loader.Data, context: Context, run: Run) -> None:
        self.config, self.plan, self.store, self.context, self.run = config, plan, store, context, run
        self.train = config.train
        self.device, self.first = context.device, context.rank == 0
        self.learner = Learner(config, plan, store, context)
        self.saver = Saver(self.learner, run, context, self.train)
        self.history = History()
        self.writing: Any = None
        """The checkpoint of the epoch that is trained, on its way to the disk while val is evaluated."""
        self.started = time.perf_counter()
        self.ended: str | None = None
        """Why the training ends: stop, max_time or patience."""

    def resume(self) -> dict[str, float]:
        """Load the newest checkpoint, if there is one; the metrics of the last epoch that is done, by name."""
        self.progress, between_epochs = self.saver.resume()
        done = self.progress.done_epochs
        if self.first:
            self.history = History.until(done, self.run)
        minutes = self.train.max_time
        left_s = None if minutes is None else max(0.0, minutes * 60 - self.progress.seconds)
        self.watch = Watch(self.context, minutes=self.train.checkpoint_minutes, left_s=left_s)
        if between_epochs:  # the kill may have come before this was asked
            self._end_early(done, Answer(stop=False, over=left_s == 0.0, save=False, bad_step=None))
        return distributed.answer_of_first(lambda: epoch_metrics.by_name(self.history.of(done)))

    @contextmanager
    def tracking(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        """Within it, what hands an epoch's metrics to the trackers; they are closed with how the training ended."""
        if not self.first:
            yield lambda epoch, values: None
            return
        epoch = self.progress.done_epochs + 1
        opened = trackers.open(self.run, self.config, log=self.context.log, epoch=epoch)
        status: trackers.Status = "failed"
        try:
            yield opened.log
            status = "stopped" if self.ended == "stop" else "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            opened.close(status)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within it the seconds of training count."""
        self.started = time.perf_counter()
        try:
            yield
        finally:
            self.progress.seconds, self.started = self._seconds(), time.perf_counter()

    def _seconds(self) -> float:
        """Of training so far, over all its starts."""
        return self.progress.seconds + time.perf_counter() - self.started

    # -- one epoch ----------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> float:
        """One pass over the train rows, up to where it is stopped (`ended`) or its time is over (`progress.shortened`); rank 0's
        images a second. Epoch 0, and an epoch that was trained before a resume, need none."""
        if not epoch or self.progress.trained_at is not None:
            return 0.0
        samples, train = self._samples(epoch), self.train
        gathered = self.progress.gathered
        first, count = gathered.batches, len(samples.order)
        row_log, drops = self._row_log(), self._drops()
        self._started_batches = self._logged = time.perf_counter()
        self.watch.restart()
        self.learner.begin(epoch)
        for batch in loader.train_batches(
            self.store, samples, batch_size=train.batch_size, rank=self.context.rank, world=self.context.world,
            first=first, hold=memory.holder(self.device),
        ):  # fmt: skip
            if row_log is not None:
                row_log.writerow([epoch, batch.step, self.context.rank, " ".join(map(str, batch.rows.tolist()))])
            logits, loss = self.learner.step(batch, epoch=epoch, drops=drops)
            gathered.add(batch.positions, logits)
            self.watch.note(self.learner.steps, loss)
            last = batch.step + 1 == self.learner.steps_per_epoch
            if (self.watch.due() or last) and self._poll_within(epoch, samples, last=last):
                break
            self._log_progress(epoch, batch.step, first, count)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self.ended is None:
            self.learner.average_running()
        done = min(gathered.batches * train.batch_size, count) - first * train.batch_size
        return done / max(time.perf_counter() - self._started_batches, 1e-9)

    def _poll_within(self, epoch: int, samples: loader.Samples, *, last: bool) -> bool:
        """Ask all ranks what to do after a batch; whether the epoch ends here. Raises `UserError` where the loss or the weights are
        no longer numbers."""
        answer = self.watch.poll()
        if answer.bad_step is not None:
            self._diverged(epoch, answer.bad_step, samples, "the loss of step {} is not a number")
        saving = last or answer.stop or answer.over or answer.save
        if saving and not self.learner.is_finite():  # such a checkpoint replaces no good one
            self._diverged(epoch, self.learner.steps, samples, "the weights after step {} are not all numbers")
        if last:
            return False  # the epoch is done, and its own checkpoint follows
        self.progress.shortened = answer.over and not answer.stop
        if self.progress.shortened:
            if self.first:
                self.context.log(
                    f"train.max_time: {self.train.max_time:g} minutes are over after batch {self.progress.gathered.batches} of "
                    f"{self.learner.steps_per_epoch} in epoch {epoch}, which ends here"
                )
            return True
        if answer.stop or answer.save:
            self.saver.write_within_epoch(self.progress, epoch, self._seconds())
        if answer.stop:
            self.ended = "stop"
        return answer.stop

    def _log_progress(self, epoch: int, step: int, first: int, count: int) -> None:
        """A line every `LOG_EVERY_S`: how much of the epoch is done, images a second, seconds left."""
        now = time.perf_counter()
        if not self.first or now - self._logged <= LOG_EVERY_S:
            return
        self._logged = now
        share = (step + 1) / self.learner.steps_per_epoch
        done = share - first / self.learner.steps_per_epoch
        left_s = (now - self._started_batches) * (1 - share) / done
        rate = done * count / (now - self._started_batches)
        self.context.log(f"epoch {epoch}/{self.train.epochs}  {share:4.0%}  {rate:,.0f} images/s  {left_s:,.0f} s left")

    def _samples(self, epoch: int) -> loader.Samples:
        """What an epoch is trained on, in its order."""
        alpha, seed = self.config.augment.mixup, self.config.seed
        order = loader.epoch_order(self.plan.repeats, seed=seed, epoch=epoch)
        pair = (lambda places: mixup.pairs(alpha, seed=seed, epoch=epoch, positions=places)) if alpha else None
        return loader.Samples(self.plan.rows["train"], self.plan.truth["train"], order, pair)

    def _diverged(self, epoch: int, step: int, samples: loader.Samples, what: str) -> NoReturn:
        """Every rank ends together and names the batch; the checkpoints before it stay."""
        size = self.train.batch_size
        batch = self.progress.gathered.batches - 1 - (self.learner.steps - step)
        here = samples.rows[samples.order][batch * size : (batch + 1) * size].tolist()
        if self.first:
            self.run.update(diverged={"epoch": epoch, "step": step, "rows": here})
        good = self.saver.latest()
        raise UserError(
            f"{what.format(f'{step} (epoch {epoch})')}: the training has diverged: lower optim.lr, or set "
            f"optim.clip_norm; its batch is rows {', '.join(map(str, here[:8]))}{', ...' if len(here) > 8 else ''} of the store "
            f"(all in run.json); {f'the last good checkpoint is {good.name}' if good else 'there is no checkpoint yet'}"
        )

    def _drops(self) -> int:
        """How often a plateau of the monitored metric has lowered the rate so far, on every rank."""
        if self.config.optim.schedule != "plateau":
            return 0
        values = self.history.course(self.train.monitor, until=self.progress.done_epochs)
        drops = optim.plateau(values, mode=self.train.mode, wait=self.config.optim.drop_epochs)
        return int(distributed.from_first(drops))  # rank 0 alone has the history

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate_epoch(self, epoch: int) -> dict[str, Outputs] | None:
        """The outputs of train (as trained, with augmentation) and of val; None where it was stopped meanwhile.

        The epoch's checkpoint is written while val is evaluated, and counts from then on: a kill meanwhile costs the evaluation
        alone."""
        parts = {"train": self._as_trained(epoch)} if epoch else {}
        if self.first and self.progress.trained_at is None:
            within = {"logits": parts["train"].logits} if epoch else None
            self.writing = self.saver.start_writing(self.progress, epoch, self._seconds(), within)
        rows = self.plan.rows["val"]
        if len(rows):
            logits = self.predict(rows)
            if logits is None:
                self.ended = "stop"
                distributed.first_alone(lambda: self._stopped_evaluating(epoch, self._written()))
                return None
            parts["val"] = Outputs(rows, logits, self.plan.truth["val"])
        return parts

    def _written(self) -> Path:
        """The checkpoint of the epoch that is trained, complete; rank 0's."""
        if self.progress.trained_at is None:
            self.progress.trained_at, self.writing = self.writing.end(), None
        return self.progress.trained_at

    def _stopped_evaluating(self, epoch: int, place: Path) -> None:
        self.context.log(f"stopped while evaluating val of epoch {epoch}, which is trained ({place.name})")

    def predict(self, rows: npt.NDArray[np.int64]) -> torch.Tensor | None:
        """Logits [M, L] of store rows [M], in their order, on every rank: each rank predicts a contiguous share once. None where
        a stop was asked for meanwhile."""
        self.watch.restart()
        world = self.context.world
        mine = rows[loader.rank_slice(len(rows), self.context.rank, world)]
        logits = self.learner.predict(mine, stop=self._stop_asked)
        # A rank with a row less may have a batch less, and yet polls as often as the others.
        largest = -(-len(rows) // world)
        size = self.learner.eval_batch_size
        fewer = -(-len(mine) // size) < -(-largest // size)
        if logits is None or (fewer and self._stop_asked()):
            return None
        return distributed.gather_rows(logits).cpu()

    def _stop_asked(self) -> bool:
        """Asked after every batch that is predicted; all ranks come to one answer."""
        self.watch.tick()
        return self.watch.due() and self.watch.poll().stop

    def _as_trained(self, epoch: int) -> Outputs:
        """The outputs of the epoch's own forward passes (as trained, with augmentation) on all ranks."""
        samples = self._samples(epoch)
        positions, logits = self.progress.gathered.of_all_ranks(self.device)
        in_order = np.argsort(positions)
        count = len(positions) if self.progress.shortened else len(samples.order)
        assert np.array_equal(positions[in_order], np.arange(count)), "an epoch sees every sampled row exactly once"
        here = samples.order[:count]
        return Outputs(samples.rows[here], logits[torch.from_numpy(in_order)], samples.truth[here])

    def _evaluate(self, parts: dict[str, Outputs]) -> dict[str, list[Value]]:
        """Every part's metrics at the same thresholds; a rule chooses them on this epoch's val, else on train."""
        if not parts:
            return {}
        by = parts.get("val") or parts["train"]
        limits_L = epoch_metrics.limits(self.config.report.thresholds, by.logits, by.truth, self.plan)
        return {
            part: epoch_metrics.epoch_values(out.logits, out.truth, self.learner.loss, self.plan, limits_L)
            for part, out in parts.items()
        }

    # -- the end of an epoch, and of the training ---------------------------------------------------------------

    def finish_epoch(self, epoch: int, parts: dict[str, Outputs], speed: float) -> dict[str, float]:
        """Compute the epoch's metrics and let it count: history, predictions, checkpoint, log. Its metrics by name."""
        values = self._evaluate(parts)

        def record() -> None:
            place = self._written()
            self.history.add(epoch, self.learner.steps, values, self.run)
            is_best = self.saver.update_best(self.progress, epoch, metrics.find(values, self.train.monitor))
            self._write_predictions(epoch, parts, selected=is_best or self.train.select == "last")
            self.saver.mark_evaluated(place, self.progress, self._seconds())
            lasted = time.perf_counter() - self.started
            for line in epoch_metrics.epoch_lines(self.config, self.plan, epoch, values, speed, lasted):
                self.context.log(line)

        distributed.first_alone(record)
        self.progress.done_epochs, self.progress.gathered, self.progress.trained_at = epoch, Gathered(), None
        return epoch_metrics.by_name(values)

    def _write_predictions(self, epoch: int, parts: dict[str, Outputs], *, selected: bool) -> None:
        """val's, where this epoch's model is the one to keep; every part's, where `report.keep_predictions` asks for them."""
        for part, out in parts.items():
            selected_part = part == "val" and selected
            if not selected_part and not self.config.report.keep_predictions:
                continue
            prob = losses.probabilities(out.logits, task=self.plan.task).numpy()
            table = predictions_table(self.store.index, out.rows, self.plan.labels, out.truth, prob)
            if selected_part:
                self.run.write_predictions("val", table)
            if self.config.report.keep_predictions:
                self.run.write_predictions(f"epochs/{epoch:04d}-{part}", table)

    def check_end(self, epoch: int) -> None:
        """Ask all ranks whether the training ends after this epoch (`ended`)."""
        self._end_early(epoch, self.watch.poll())

    def _end_early(self, epoch: int, answer: Answer) -> None:
        patience, shortened = self.train.patience, self.progress.shortened
        best = distributed.from_first(self.progress.best) if patience is not None else None  # rank 0 alone knows it
        if shortened:  # logged when it was
            self.ended = "max_time"
        if epoch == self.train.epochs or shortened:
            return
        if answer.stop or answer.over:
            self.ended = "stop" if answer.stop else "max_time"
        elif patience is not None and best is not None and best["value"] is not None:
            self.ended = "patience" if epoch - best["epoch"] >= patience else None
        if self.ended and self.first:
            why = {
                "stop": "asked to stop",
                "max_time": f"train.max_time: {self.train.max_time} minutes are over",
                "patience": f"train.patience: no better {self.train.monitor} for {patience} epochs",
            }
            self.context.log(f"ending after epoch {epoch}: {why[self.ended]}")

    def finish(self) -> None:
        """Write the run's model and how the training ended; rank 0 calls it."""
        status, progress = "stopped" if self.ended == "stop" else "finished", self.progress
        selected = export.save_model(
            self.run, self.learner.model, self.plan, select=self.train.select, precision=self.learner.precision.name
        )
        if status == "finished" and selected is None:
            raise UserError(
                f"the checkpoint of the {self.train.select} epoch in {self.saver.folder} is damaged or missing; run the same "
                "command again: it evaluates the newest sound checkpoint and keeps that"
            )
        if status == "finished" and selected == {"epoch": 0, "step": 0} and self.train.epochs:
            self.context.log(
                "warning: the training ended before its first step: the model that is kept is untrained; give it more time "
                "(train.max_time)"
            )
        self.run.update(
            status=status,
            ended=self.ended,
            best=progress.best,
            kept=selected,
            epochs=progress.done_epochs,
            seconds=round(progress.seconds, 2),
            parameters=models.parameter_count(self.learner.model),
            precision=self.learner.precision.name,
            workers=self.context.world,
            device=self.device.type,
        )

    def _row_log(self) -> Any:
        if not self.train.log_rows:
            return None
        folder = self.run.path / "rows"
        folder.mkdir(exist_ok=True)
        handle = (folder / f"rank-{self.context.rank}.csv").open("a", newline="", buffering=1)
        return csv.writer(handle)
