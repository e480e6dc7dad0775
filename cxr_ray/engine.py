"""Fit and judge: plain PyTorch over batches of a store. A `Context` says rank, world, device, report and restore; Ray is
never imported here. One loop, three homes: a debugger, a Ray Train worker, a Tune trial.
"""
# N rows of this rank, M rows of all ranks, L labels

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from cxr_ray import (
    batches,
    checkpoints,
    distributed,
    judging,
    kept,
    losses,
    memory,
    metrics,
    mixup,
    models,
    optim,
    precision,
    trackers,
)
from cxr_ray import config as cfg
from cxr_ray.context import Context
from cxr_ray.errors import UserError
from cxr_ray.history import History
from cxr_ray.learner import Learner
from cxr_ray.metrics import Value
from cxr_ray.plan import Plan
from cxr_ray.runs import Run, predictions_table
from cxr_ray.watch import Answer, Watch

SAY_EVERY_S = 30.0


class Judged(NamedTuple):
    """A part's logits [M, L] (fp32, CPU, all ranks' rows in order) and what they are judged by [M, L]."""

    rows: npt.NDArray[np.int64]
    logits: torch.Tensor
    truth: npt.NDArray[np.float32]


def fit(config: cfg.Config, plan: Plan, store: kept.Data, context: Context, run: Run) -> dict[str, float]:
    """Train `config`'s model on the plan's train rows and judge val at epoch 0 and after every epoch.

    Goes on from the run's last whole checkpoint where there is one. Every rank calls it; rank 0 writes the run folder.
    Returns the last epoch's metrics by name. The model that the run keeps (`train.select`) is in `model.safetensors`,
    its val predictions in `predictions/val.parquet`."""
    config = config.for_task(plan.task)
    metrics.parse(config.train.monitor, labels=plan.labels, task=plan.task)
    return _Fit(_with_precision(config, context, run), plan, store, context, run).all_epochs()


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


class _Seen:
    """What this rank has gathered of an epoch that is not judged yet."""

    def __init__(self, positions: npt.NDArray[np.int64] | None = None, logits: torch.Tensor | None = None) -> None:
        self._positions = [] if positions is None else [positions]
        self._logits = [] if logits is None else [logits]
        self.batches = 0
        """Of all ranks together, since the epoch's beginning."""

    def add(self, positions_N: npt.NDArray[np.int64], logits_NL: torch.Tensor) -> None:
        self._positions.append(positions_N)
        self._logits.append(logits_NL)
        self.batches += 1

    def of_all_ranks(self, device: torch.device) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
        """Places in the epoch's order [M] and logits [M, L] of every rank, on the CPU."""
        at = torch.from_numpy(np.concatenate(self._positions)).to(device)
        return distributed.gather_rows(at).cpu().numpy(), distributed.gather_rows(torch.cat(self._logits)).cpu()


class _Fit:
    """One training: what stays the same from step to step, and what is counted."""

    def __init__(self, config: cfg.Config, plan: Plan, store: kept.Data, context: Context, run: Run) -> None:
        self.config, self.plan, self.store, self.context, self.run = config, plan, store, context, run
        self.train = config.train
        self.device, self.first = context.device, context.rank == 0
        self.learner = Learner(config, plan, store, context)
        self.folder = run.path / "checkpoints"
        self.done_epochs = -1
        self.seen = _Seen()
        self.trained_at: Path | None = None
        """The checkpoint of the epoch after `done_epochs`, where it is trained and only its judging is left."""
        self.shortened = False
        """Whether the time was over within the last epoch, which ended there."""
        self.best: dict[str, Any] | None = None
        self.history = History()
        self.seconds, self.began = 0.0, time.perf_counter()
        self.ended: str | None = None

    def all_epochs(self) -> dict[str, float]:
        between = self._restore()
        train = self.train
        left = None if train.max_time is None else max(0.0, train.max_time * 60 - self.seconds)
        self.watch = Watch(self.context, minutes=train.checkpoint_minutes, left_s=left)
        if between:  # the kill may have come before this was asked
            self._end_early(self.done_epochs, Answer(stop=False, over=left == 0.0, save=False, bad_step=None))
        first = self.done_epochs + 1
        tracker = trackers.open(self.run, self.config, say=self.context.say, epoch=first) if self.first else None
        status: trackers.Status = "failed"
        try:
            latest = self._epochs(tracker)
            distributed.first_alone(lambda: self._finish("stopped" if self.ended == "stop" else "finished"))
            status = "stopped" if self.ended == "stop" else "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            if tracker is not None:
                tracker.close(status)
        return latest

    def _epochs(self, tracker: trackers.Trackers | None) -> dict[str, float]:
        """Every epoch that is left; the last one's metrics by name."""
        latest = distributed.answer_of_first(lambda: judging.by_name(self.history.of(self.done_epochs)))
        while self.ended is None and self.done_epochs < self.train.epochs:
            self.began = time.perf_counter()
            epoch = self.done_epochs + 1
            found = self._epoch(epoch)
            if found is not None and tracker is not None:
                tracker.log(epoch, found)
            self.seconds += time.perf_counter() - self.began
            if found is None:
                break
            latest = found
            self.context.report(
                {"epoch": epoch, **latest}, checkpoints.pointed(self.folder, "last") if self.first else None
            )
            self._end_early(epoch, self.watch.look_up())
        return latest

    def _epoch(self, epoch: int) -> dict[str, float] | None:
        """One epoch trained, judged and kept; its metrics by name, or None where it was stopped within."""
        speed, writing = 0.0, None
        if epoch and self.trained_at is None:
            speed = self._train_epoch(epoch)
            if self.ended is not None:
                return None
            self.learner.average_running()
        parts = {"train": self._as_trained(epoch)} if epoch else {}
        if self.first and self.trained_at is None:
            # Written while val is judged, and counted from then on: a kill meanwhile costs the judging alone.
            within = {"logits": parts["train"].logits} if epoch else None
            writing = self._writing(self._state(epoch), within)

        def place() -> Path:
            return self.trained_at if writing is None else writing.end()  # type: ignore[return-value]

        if len(self.plan.rows["val"]):
            rows = self.plan.rows["val"]
            logits = self.predict(rows)
            if logits is None:
                self.ended = "stop"
                distributed.first_alone(lambda: self._stopped_judging(epoch, place()))
                return None
            parts["val"] = Judged(rows, logits, self.plan.truth["val"])
        values = self._judge(parts)
        distributed.first_alone(lambda: self._end_epoch(epoch, values, parts, speed, place()))
        self.done_epochs, self.seen, self.trained_at = epoch, _Seen(), None
        return judging.by_name(values)

    def _stopped_judging(self, epoch: int, place: Path) -> None:
        self.context.say(f"stopped while judging val of epoch {epoch}, which is trained ({place.name})")

    def _end_epoch(
        self,
        epoch: int,
        values: dict[str, list[Value]],
        parts: dict[str, Judged],
        speed: float,
        place: Path,
    ) -> None:
        self.history.add(epoch, self.learner.steps, values, self.run)
        self._save(epoch, values, parts, place)
        for line in judging.epoch_lines(self.config, self.plan, epoch, values, speed, time.perf_counter() - self.began):
            self.context.say(line)

    def _end_early(self, epoch: int, answer: Answer) -> None:
        """Whether the training ends after this epoch, and why. `best` is rank 0's to know."""
        patience = self.train.patience
        best = distributed.from_first(self.best) if patience is not None else None
        if self.shortened:  # said when it was
            self.ended = "max_time"
        if epoch == self.train.epochs or self.shortened:
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
            self.context.say(f"ending after epoch {epoch}: {why[self.ended]}")

    # -- one epoch ----------------------------------------------------------------------------------------------

    def _train_epoch(self, epoch: int) -> float:
        """One pass, up to where it is stopped (`ended`) or its time is over (`shortened`); rank 0's images/s."""
        plan, train, context = self.plan, self.train, self.context
        rows, truth = plan.rows["train"], plan.truth["train"]
        order = batches.epoch_order(plan.drawn, seed=self.config.seed, epoch=epoch)
        first = self.seen.batches
        share_before = first / self.learner.steps_per_epoch
        log = self._row_log()
        drops = self._drops()
        began = said = time.perf_counter()
        self.watch.anew()
        self.learner.begin(epoch)
        for batch in batches.train_batches(
            self.store,
            rows,
            truth,
            order,
            batch_size=train.batch_size,
            rank=context.rank,
            world=context.world,
            first=first,
            pair=self._pair(epoch),
            hold=memory.holder(self.device),
        ):
            if log is not None:
                log.writerow([epoch, batch.step, context.rank, " ".join(map(str, batch.rows.tolist()))])
            logits, loss = self.learner.step(batch, epoch=epoch, drops=drops)
            self.watch.note(self.learner.steps, loss)
            self.seen.add(batch.positions, logits)
            last = batch.step + 1 == self.learner.steps_per_epoch
            if self.watch.due() or last:
                answer = self.watch.look_up()
                if answer.bad_step is not None:
                    self._diverged(epoch, answer.bad_step, rows[order], "the loss of step {} is not a number")
                saving = last or answer.stop or answer.over or answer.save
                if saving and not self.learner.is_finite():  # such a checkpoint replaces no good one
                    what = "the weights after step {} are not all numbers"
                    self._diverged(epoch, self.learner.steps, rows[order], what)
                self.shortened = answer.over and not answer.stop and not last
                if self.shortened:
                    self._say_shortened(epoch)
                    break
                if not last and (answer.stop or answer.save):
                    self._save_within(epoch)
                if not last and answer.stop:
                    self.ended = "stop"
                    return 0.0
            now = time.perf_counter()
            if self.first and now - said > SAY_EVERY_S:
                said, share = now, (batch.step + 1) / self.learner.steps_per_epoch
                done = share - share_before
                left = (now - began) * (1 - share) / done
                rate = done * len(order) / (now - began)
                context.say(f"epoch {epoch}/{train.epochs}  {share:4.0%}  {rate:,.0f} images/s  {left:,.0f} s left")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        done = min(self.seen.batches * train.batch_size, len(order)) - first * train.batch_size
        return done / max(time.perf_counter() - began, 1e-9)

    def _say_shortened(self, epoch: int) -> None:
        if self.first:
            self.context.say(
                f"train.max_time: {self.train.max_time:g} minutes are over after batch {self.seen.batches} of "
                f"{self.learner.steps_per_epoch} in epoch {epoch}, which ends here"
            )

    def _as_trained(self, epoch: int) -> Judged:
        """The outputs of the epoch's own forward passes (as trained, with augmentation) on all ranks."""
        order = batches.epoch_order(self.plan.drawn, seed=self.config.seed, epoch=epoch)
        at, logits = self.seen.of_all_ranks(self.device)
        in_order = np.argsort(at)
        whole = len(at) if self.shortened else len(order)
        assert np.array_equal(at[in_order], np.arange(whole)), "an epoch must see every drawn row exactly once"
        here = order[:whole]
        rows, truth = self.plan.rows["train"][here], self.plan.truth["train"][here]
        return Judged(rows, logits[torch.from_numpy(in_order)], truth)

    def _diverged(self, epoch: int, step: int, row_N: npt.NDArray[np.int64], what: str) -> NoReturn:
        """Every rank ends together and says which batch it was; the checkpoints before it stay."""
        size = self.train.batch_size
        batch = self.seen.batches - 1 - (self.learner.steps - step)
        here = row_N[batch * size : (batch + 1) * size].tolist()
        if self.first:
            self.run.update(diverged={"epoch": epoch, "step": step, "rows": here})
        good = checkpoints.pointed(self.folder, "last")
        raise UserError(
            f"{what.format(f'{step} (epoch {epoch})')}: the training has diverged: lower optim.lr, or set "
            f"optim.clip_norm; its batch is rows {', '.join(map(str, here[:8]))}{', ...' if len(here) > 8 else ''} of the store "
            f"(all in run.json); {f'the last good checkpoint is {good.name}' if good else 'there is no checkpoint yet'}"
        )

    def _pair(self, epoch: int) -> Callable[[npt.NDArray[np.int64]], mixup.Pairs] | None:
        """Who is mixed with whom in a global batch of the epoch, by its places; None without mixup."""
        alpha, seed = self.config.augment.mixup, self.config.seed
        return (lambda places: mixup.pairs(alpha, seed=seed, epoch=epoch, positions=places)) if alpha else None

    # -- judging ------------------------------------------------------------------------------------------------

    def predict(self, rows: npt.NDArray[np.int64]) -> torch.Tensor | None:
        """Logits [M, L] of store rows [M], in their order, on every rank: each rank predicts a contiguous share once. None where
        a stop was asked for meanwhile."""
        self.watch.anew()
        world = self.context.world
        mine = rows[batches.rank_slice(len(rows), self.context.rank, world)]
        logits = self.learner.predict(mine, stop=self._stop_asked)
        # A rank with a row less may have a batch less, and yet looks up as often as the others.
        largest = -(-len(rows) // world)
        size = self.learner.judged_at_once
        fewer = -(-len(mine) // size) < -(-largest // size)
        if logits is None or (fewer and self._stop_asked()):
            return None
        return distributed.gather_rows(logits).cpu()

    def _stop_asked(self) -> bool:
        """Asked after every batch that is judged; all ranks come to one answer."""
        self.watch.tick()
        return self.watch.due() and self.watch.look_up().stop

    def _drops(self) -> int:
        """How often a plateau of the monitored metric has lowered the rate so far, on every rank."""
        if self.config.optim.schedule != "plateau":
            return 0
        values = self.history.course(self.train.monitor, until=self.done_epochs)
        drops = optim.plateau(values, mode=self.train.mode, wait=self.config.optim.drop_epochs)
        return int(distributed.from_first(drops))  # rank 0 alone keeps the history

    def _judge(self, parts: dict[str, Judged]) -> dict[str, list[Value]]:
        """Every part at the same thresholds; a rule chooses them on this epoch's val, else on train."""
        if not parts:
            return {}
        by = parts.get("val") or parts["train"]
        limits_L = judging.limits(self.config.report.thresholds, by.logits, by.truth, self.plan)
        return {
            part: judging.judge(j.logits, j.truth, self.learner.loss, self.plan, limits_L) for part, j in parts.items()
        }

    # -- writing ------------------------------------------------------------------------------------------------

    def _writing(self, state: dict[str, Any], within: dict[str, torch.Tensor] | None) -> checkpoints.Writing:
        return checkpoints.Writing(
            self.folder,
            self.learner.steps,
            model=self.learner.tensors(),
            optimizer=self.learner.optimizer_state(),
            state=state,
            within=within,
        )

    def _save(self, epoch: int, values: dict[str, list[Value]], parts: dict[str, Judged], place: Path) -> None:
        """Let the epoch's checkpoint count as judged; where it is the one to keep, with its val predictions, written before."""
        value = metrics.find(values, self.train.monitor)
        sign = 1.0 if self.train.mode == "max" else -1.0
        # The untrained model is judged, and kept only until there is a trained one, however lucky its draw.
        known = self.best is not None and self.best["value"] is not None and self.best["epoch"] > 0
        better = value is not None and (not known or sign * value > sign * self.best["value"])  # type: ignore[index]
        # Where the metric is undefined (no val, no positives) the newest counts as best until one is defined.
        if better or (value is None and not known):
            self.best = {"epoch": epoch, "step": self.learner.steps, "metric": self.train.monitor, "value": value}
        is_best = self.best is not None and self.best["epoch"] == epoch
        for part, judged in parts.items():
            keep = part == "val" and (is_best or self.train.select == "last")
            if keep or self.config.report.keep_predictions:
                table = self._predictions(judged)
                if keep:
                    self.run.write_predictions("val", table)
                if self.config.report.keep_predictions:
                    self.run.write_predictions(f"epochs/{epoch:04d}-{part}", table)
        seconds = self.seconds + time.perf_counter() - self.began
        checkpoints.amend(place, {"judged": True, "best": self.best, "seconds": seconds})
        self._point(place)
        checkpoints.prune(self.folder)

    def _point(self, judged: Path | None) -> None:
        """Let the pointers say what the state says: from it they can be set again after a kill."""
        if self.best is not None:
            checkpoints.point(self.folder, "best", checkpoints.at(self.folder, self.best["step"]))
        if judged is not None and self.train.select == "last":
            checkpoints.point(self.folder, "judged", judged)

    def _predictions(self, judged: Judged) -> Any:
        prob = losses.probabilities(judged.logits, task=self.plan.task).numpy()
        return predictions_table(self.store.index, judged.rows, self.plan.labels, judged.truth, prob)

    def _state(self, epoch: int, *, batches_done: int = 0) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "batches": batches_done,  # of an epoch that is not trained to its end
            "judged": False,
            "shortened": self.shortened,
            "best": self.best,
            "seconds": self.seconds + time.perf_counter() - self.began,
            **self.learner.state(),
        }

    def _save_within(self, epoch: int) -> None:
        """A checkpoint in the middle of an epoch: also what the epoch has gathered, and every rank's running statistics."""
        at, logits = self.seen.of_all_ranks(self.device)
        within = {"positions": torch.from_numpy(at), "logits": logits, "running": self.learner.running()}

        def save() -> None:
            self._writing(self._state(epoch, batches_done=self.seen.batches), within).end()
            checkpoints.prune(self.folder)

        distributed.first_alone(save)

    def _restore(self) -> bool:
        """Take up the checkpoint to go on from; whether it is one of this run's own after a whole epoch."""
        given = self.context.restore()
        place = given or self._latest()
        if place is None:
            return False
        held = checkpoints.load(place)
        state = held.state
        self.learner.load(held)
        self.best, self.seconds = state["best"], state["seconds"]
        within, due = bool(state["batches"]), False
        if given is not None:  # taken over from another run: its best is not ours
            own = checkpoints.pointed(self.folder, "last")
            self.best = None if own is None else checkpoints.load(own).state["best"]
            if (
                self.best is not None and self.best["epoch"] > state["epoch"]
            ):  # its epoch is trained once more, otherwise
                self.best = None
        else:
            self.shortened = state["shortened"]
            lost = distributed.answer_of_first(lambda: self._best_is_lost(place))
            if lost:
                self.best = None
            # Where the best is lost, this epoch is judged again, as the first of those that are left to choose from.
            due = not within and (lost or not state["judged"])
            distributed.first_alone(lambda: self._point(None if within or due else place))
        self.done_epochs = state["epoch"] - (within or due)
        self.trained_at = place if due else None
        if within or due:
            self._restore_seen(held)
        if self.first:
            self.history = History.until(self.done_epochs, self.run)
            steps = self.learner.steps_per_epoch
            where = f"batch {state['batches']} of {steps} in " if within else "training " if due else ""
            self.context.say(f"going on after {where}epoch {state['epoch']} of {self.train.epochs} ({place.name})")
        return given is None and not within and not due

    def _latest(self) -> Path | None:
        """Rank 0's answer, so that all go on from the same checkpoint, whatever is written meanwhile."""
        found = distributed.answer_of_first(lambda: checkpoints.latest(self.folder))
        if found is None:
            return None
        place, warning = found
        if warning and self.first:
            self.context.say(warning)
        return place

    def _best_is_lost(self, sound: Path) -> bool:
        """Whether the checkpoint of the best epoch was damaged, which is said; rank 0's to ask. `sound` is known to be none such."""
        best = sound if self.best is None else checkpoints.at(self.folder, self.best["step"])
        if self.best is None or best == sound or checkpoints.is_sound(best):
            return False
        self.context.say(
            f"warning: the checkpoint of the best epoch ({self.best['epoch']}) is damaged or gone: the best is chosen anew, "
            "from here on"
        )
        return True

    def _restore_seen(self, held: checkpoints.Checkpoint) -> None:
        """Rank 0 takes what the epoch had gathered; as many ranks as before take their own statistics, others the mean."""
        within = held.within
        if held.state["epoch"]:
            logits = within["logits"].to(self.device)
            at = within["positions"].numpy() if "positions" in within else np.arange(len(logits))
            gathered = slice(None) if self.first else slice(0)
            self.seen = _Seen(at[gathered], logits[gathered])
        self.seen.batches = held.state["batches"]
        if "running" in within:  # else averaged already
            self.learner.set_running(within["running"])

    def _finish(self, status: str) -> None:
        which = kept.keep(
            self.run, self.learner.model, self.plan, select=self.train.select, precision=self.learner.precision.name
        )
        if status == "finished" and which is None:
            raise UserError(
                f"the checkpoint of the {self.train.select} epoch in {self.folder} is damaged or gone; the same command again "
                "judges and keeps the newest that is sound"
            )
        if status == "finished" and which == {"epoch": 0, "step": 0} and self.train.epochs:
            self.context.say(
                "warning: the training ended before its first step: the model that is kept is untrained; give it more time "
                "(train.max_time)"
            )
        self.run.update(
            status=status,
            ended=self.ended,
            best=self.best,
            kept=which,
            epochs=self.done_epochs,
            seconds=round(self.seconds, 2),
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
